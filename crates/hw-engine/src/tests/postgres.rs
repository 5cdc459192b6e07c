//! The engine against a real Postgres: what a model client ends with equals what SQL answers.

use super::client::Client;
use crate::{Engine, EngineOptions, Published, SyncView};
use hw_pg::config::ConnectConfig;
use hw_store::{Store, StoreOptions};
use hw_testkit::{Cluster, ClusterOptions, Stop};
use hw_types::{EndLsn, Lsn};
use std::collections::BTreeMap;
use std::path::Path;
use std::time::Duration;

const CONFIG: &str = "
bucket_definitions:
  todos:
    parameters: SELECT id AS list FROM lists WHERE owner = request.user_id()
    data:
      - SELECT * FROM todos WHERE list = bucket.list
";

const SCHEMA: &str = "
    CREATE TABLE lists (id text PRIMARY KEY, owner text);
    CREATE TABLE todos (id text PRIMARY KEY, list text, body text);
    INSERT INTO lists VALUES ('l1', 'amy'), ('l2', 'amy'), ('l3', 'bob');
    INSERT INTO todos SELECT 't' || i, 'l' || 1 + i % 4, 'body ' || i FROM generate_series(1, 500) i;
";

/// No test waits longer for the engine.
const LIMIT: Duration = Duration::from_secs(30);

struct World {
    cluster: Cluster,
    client: tokio_postgres::Client,
    dir: tempfile::TempDir,
    /// `None` while it is stopped: the store is free only when the last handle is gone.
    engine: Option<Engine>,
}

pub(super) fn store(dir: &Path) -> Store {
    let mut options = StoreOptions::new(dir.join("store"));
    options.memtable_bytes = 8 << 20;
    Store::open(&options).unwrap()
}

fn start(url: &str, store: Store, config: &str, fold_bytes: usize) -> Engine {
    let (connection, _) = ConnectConfig::parse(url).unwrap();
    let mut options = EngineOptions::new(store, connection);
    options.fold_bytes = fold_bytes;
    let (engine, findings) =
        Engine::start(options, Some(("sync.yaml".into(), config.into()))).unwrap();
    assert_eq!(findings, []);
    engine
}

/// The buckets that are served.
fn view(published: &Published) -> SyncView<'_> {
    published.sync_view().expect("a configuration is served")
}

impl World {
    async fn new(schema: &str) -> World {
        World::with(schema, CONFIG, 24 << 20, ClusterOptions::default()).await
    }

    async fn with(
        schema: &str,
        config: &str,
        fold_bytes: usize,
        cluster: ClusterOptions<'_>,
    ) -> World {
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let cluster = Cluster::start_with(cluster);
        let client = cluster.client("postgres").await;
        client.batch_execute(schema).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let engine = start(&cluster.url("postgres"), store(dir.path()), config, fold_bytes);
        let world = World { cluster, client, dir, engine: Some(engine) };
        world.served(config).await;
        world
    }

    /// Waits until a configuration is served.
    async fn served(&self, config: &str) {
        let sources = crate::definitions::compile("sync.yaml", config).unwrap().sources().len();
        let mut watch = self.engine().watch();
        let served = watch.wait_for(|p| {
            p.sync.as_ref().is_some_and(|sync| sync.config.sources().len() == sources)
        });
        if tokio::time::timeout(LIMIT, served).await.is_err() {
            panic!("the configuration is not served: {:#?}", self.engine().status());
        }
    }

    async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap();
    }

    /// Waits until everything committed so far is published.
    async fn barrier(&self) {
        let row = self.client.query_one("SELECT pg_current_wal_insert_lsn()::text", &[]).await;
        let lsn: Lsn = row.unwrap().get::<_, String>(0).parse().unwrap();
        // A marker makes an idle source move.
        let _ = self.engine().write_checkpoint("barrier").await;
        if !self.engine().wait_for(EndLsn(lsn), LIMIT).await {
            panic!("not published within {LIMIT:?}: {:#?}", self.engine().status());
        }
    }

    /// What SQL answers: id to payload.
    async fn oracle(&self, user: &str, columns: &str) -> BTreeMap<String, String> {
        let sql = format!(
            "SELECT id, (SELECT json_object_agg(key, value) FROM json_each(to_json(r)))::text
             FROM (SELECT {columns} FROM todos WHERE list IN (SELECT id FROM lists WHERE owner = $1)) r"
        );
        let rows = self.client.query(&sql, &[&user]).await.unwrap();
        let value = |text: String| serde_json::from_str::<serde_json::Value>(&text).unwrap();
        rows.iter().map(|r| (r.get(0), value(r.get(1)).to_string())).collect()
    }

    /// Compares a client with the oracle, and a fresh client, too.
    async fn check(&self, client: &mut Client, user: &str) {
        self.check_columns(client, user, "*").await;
    }

    async fn check_columns(&self, client: &mut Client, user: &str, columns: &str) {
        self.barrier().await;
        let published = self.engine().published();
        client.sync(user, &published, 100);
        let expected = self.oracle(user, columns).await;
        let normal = |rows: BTreeMap<String, String>| -> BTreeMap<String, String> {
            let value = |text: &str| serde_json::from_str::<serde_json::Value>(text).unwrap();
            rows.into_iter().map(|(id, data)| (id, value(&data).to_string())).collect()
        };
        assert_eq!(normal(client.ids("todos")), expected, "{user}");
        let mut fresh = Client::default();
        fresh.sync(user, &published, 100);
        assert_eq!(normal(fresh.ids("todos")), expected, "{user}, a fresh client");
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine runs")
    }

    async fn stop(&mut self) {
        if let Some(engine) = self.engine.take() {
            engine.stop().await;
        }
    }

    /// Stops the engine and starts it again on the same store.
    async fn restart(&mut self, config: &str) {
        self.stop().await;
        let store = store_again(self.dir.path()).await;
        self.engine = Some(start(&self.cluster.url("postgres"), store, config, 24 << 20));
        self.served(config).await;
    }
}

/// Opens the store when the stopped engine has let go of it.
pub(super) async fn store_again(dir: &Path) -> Store {
    hw_testkit::poll_until("the store is free", || async {
        let mut options = StoreOptions::new(dir.join("store"));
        options.memtable_bytes = 8 << 20;
        Store::open(&options).ok()
    })
    .await
}

#[tokio::test(flavor = "multi_thread")]
async fn changes_of_every_kind_arrive_as_postgres_has_them() {
    let world = World::new(SCHEMA).await;
    let (mut amy, mut bob) = (Client::default(), Client::default());
    world.check(&mut amy, "amy").await;
    world.check(&mut bob, "bob").await;
    for sql in [
        "INSERT INTO todos VALUES ('n1', 'l1', 'new'), ('n2', 'l3', NULL)",
        "UPDATE todos SET body = body || '!' WHERE id IN ('n1', 't7')",
        // F-23: rows move between buckets; a key changes.
        "UPDATE todos SET list = 'l3' WHERE id IN ('t4', 't8', 'n1')",
        "UPDATE todos SET id = 'renamed' WHERE id = 't12'",
        "DELETE FROM todos WHERE id = 'n2'",
        "BEGIN; DELETE FROM todos WHERE id = 't1'; INSERT INTO todos VALUES ('t1', 'l2', 'again'); COMMIT",
        // A membership goes, another comes.
        "UPDATE lists SET owner = 'bob' WHERE id = 'l2'",
        "DELETE FROM lists WHERE id = 'l1'",
        "INSERT INTO lists VALUES ('l4', 'amy')",
        // F-22.
        "BEGIN; TRUNCATE todos; INSERT INTO todos VALUES ('only', 'l4', 'one'); COMMIT",
        "TRUNCATE todos",
        "INSERT INTO todos SELECT 'x' || i, 'l' || 1 + i % 4, 'b' FROM generate_series(1, 50) i",
    ] {
        world.sql(sql).await;
        world.check(&mut amy, "amy").await;
        world.check(&mut bob, "bob").await;
    }
    world.engine().stop().await;
}

/// F-24: a long value that an update did not touch stays, also when the key changes.
#[tokio::test(flavor = "multi_thread")]
async fn unchanged_toast_values_are_kept() {
    let world = World::new(SCHEMA).await;
    let mut amy = Client::default();
    world.sql("ALTER TABLE todos ALTER body SET STORAGE EXTERNAL").await;
    world.sql("INSERT INTO todos VALUES ('big', 'l1', repeat('long ', 3000))").await;
    world.check(&mut amy, "amy").await;
    world.sql("UPDATE todos SET list = 'l2' WHERE id = 'big'").await;
    world.check(&mut amy, "amy").await;
    world.sql("UPDATE todos SET id = 'bigger' WHERE id = 'big'").await;
    world.check(&mut amy, "amy").await;
    world.engine().stop().await;
}

/// `engine.md` 7.4, 16 of F: a transaction far above the memory bound, with moves and a TRUNCATE in it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_above_every_bound_is_one_step() {
    let options = ClusterOptions {
        settings: &[("logical_decoding_work_mem", "64kB")],
        ..ClusterOptions::default()
    };
    let world = World::with(SCHEMA, CONFIG, 10_000, options).await;
    let (mut amy, mut bob) = (Client::default(), Client::default());
    world
        .sql(
            "BEGIN;
             INSERT INTO todos SELECT 'big' || i, 'l' || 1 + i % 4, 'b' FROM generate_series(1, 20000) i;
             SAVEPOINT a; DELETE FROM todos; ROLLBACK TO a;
             UPDATE todos SET list = 'l3' WHERE id LIKE 'big%5';
             UPDATE todos SET id = 'moved' || id WHERE id LIKE 'big%77';
             COMMIT",
        )
        .await;
    world.check(&mut amy, "amy").await;
    world.check(&mut bob, "bob").await;
    world
        .sql("BEGIN; TRUNCATE todos; INSERT INTO todos SELECT 'z' || i, 'l1', 'b' FROM generate_series(1, 3000) i; COMMIT")
        .await;
    world.check(&mut amy, "amy").await;
    world.check(&mut bob, "bob").await;
    world.engine().stop().await;
}

/// `engine.md` 6: a table that a definition names and that is created later enters by itself.
#[tokio::test(flavor = "multi_thread")]
async fn a_table_created_later_enters_without_a_restart() {
    let schema = "CREATE TABLE lists (id text PRIMARY KEY, owner text);
                  INSERT INTO lists VALUES ('l1', 'amy')";
    let world = World::new(schema).await;
    let mut amy = Client::default();
    world
        .sql(
            "CREATE TABLE todos (id text PRIMARY KEY, list text, body text);
             INSERT INTO todos VALUES ('t1', 'l1', 'first')",
        )
        .await;
    let mut watch = world.engine().watch();
    let entered = watch.wait_for(|p| {
        let Ok(Some(state)) = view(p).bucket(0, "[\"l1\"]") else { return false };
        state.live == 1
    });
    tokio::time::timeout(LIMIT, entered).await.expect("the table enters").unwrap();
    world.check(&mut amy, "amy").await;
    world.sql("UPDATE todos SET body = 'second'").await;
    world.check(&mut amy, "amy").await;
    world.engine().stop().await;
}

/// `engine.md` 7: a column comes and goes; the table is copied again and compared.
#[tokio::test(flavor = "multi_thread")]
async fn a_changed_table_is_copied_again_and_compared() {
    let world = World::new(SCHEMA).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    for sql in [
        "ALTER TABLE todos ADD COLUMN done boolean DEFAULT false;
         INSERT INTO todos VALUES ('c1', 'l1', 'with', true)",
        "ALTER TABLE todos DROP COLUMN body; INSERT INTO todos VALUES ('c2', 'l1', false)",
    ] {
        world.sql(sql).await;
        let expected = world.oracle("amy", "id").await.len();
        // The copy enters in its own time; a boolean is 1 or 0 for the client.
        hw_testkit::poll_until("the table has entered again", || async {
            let published = world.engine().published();
            let mut fresh = Client::default();
            fresh.sync("amy", &published, 100);
            let rows = fresh.ids("todos");
            (rows.len() == expected && rows.values().all(|r| r.contains("\"done\":"))).then_some(())
        })
        .await;
        amy.sync("amy", &world.engine().published(), 100);
    }
    world.engine().stop().await;
}

/// F-1, F-3: nothing is copied again after a restart, nothing is lost in between.
#[tokio::test(flavor = "multi_thread")]
async fn a_restart_goes_on_where_it_stopped() {
    let mut world = World::new(SCHEMA).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    for round in 0..3 {
        world.sql(&format!("INSERT INTO todos VALUES ('r{round}', 'l1', 'x')")).await;
        if round == 1 {
            world.check(&mut amy, "amy").await;
        }
        world.stop().await;
        world.sql(&format!("UPDATE todos SET body = 'while down {round}' WHERE id = 't4'")).await;
        world.restart(CONFIG).await;
        world.check(&mut amy, "amy").await;
    }
    let scans = "SELECT seq_scan FROM pg_stat_user_tables WHERE relname = 'lists'";
    let count: i64 = world.client.query_one(scans, &[]).await.unwrap().get(0);
    // The oracle's own reads are few and small; a copy reads every page in a scan of its own.
    assert!(count < 30, "{count}");
    world.engine().stop().await;
}

/// F-14: the slot is dropped by hand; everything is copied again, only differences are sent.
#[tokio::test(flavor = "multi_thread")]
async fn a_dropped_slot_is_noticed_and_healed_by_a_compared_copy() {
    let mut world = World::new(SCHEMA).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    world.stop().await;
    let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots WHERE slot_name LIKE 'headwater%'";
    hw_testkit::poll_until("the slot is free", || async {
        world.client.query(drop, &[]).await.ok().filter(|rows| !rows.is_empty())
    })
    .await;
    world
        .sql("DELETE FROM todos WHERE id = 't4'; INSERT INTO todos VALUES ('hole', 'l1', 'x')")
        .await;
    world.restart(CONFIG).await;
    let operations = |world: &World| {
        let state = view(&world.engine().published()).bucket(0, "[\"l1\"]").unwrap().unwrap();
        state.count
    };
    world.check(&mut amy, "amy").await;
    // 125 rows first, then one that went and one that came: nothing else is an operation.
    assert_eq!(operations(&world), 125 + 2);
    world.engine().stop().await;
}

/// F-9: Postgres stops and comes back; reads of what is there go on meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_source_that_comes_back_is_followed_again() {
    let mut world = World::new(SCHEMA).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    world.cluster.stop(Stop::Fast);
    let mut reader = Client::default();
    reader.sync("amy", &world.engine().published(), 100);
    assert_eq!(reader.ids("todos"), amy.ids("todos"));
    world.cluster.start_again();
    world.client = world.cluster.client("postgres").await;
    world.sql("INSERT INTO todos VALUES ('back', 'l1', 'x')").await;
    hw_testkit::poll_until("a marker can be written again", || async {
        world.engine().write_checkpoint("amy").await.ok()
    })
    .await;
    world.check(&mut amy, "amy").await;
    world.engine().stop().await;
}

/// `engine.md` 9: a write checkpoint is carried by the first state that contains what was
/// committed before it, and its number is the marker's place.
#[tokio::test(flavor = "multi_thread")]
async fn a_write_checkpoint_comes_back_with_what_was_written_before_it() {
    let world = World::new(SCHEMA).await;
    for round in 0..20 {
        world.sql(&format!("INSERT INTO todos VALUES ('w{round}', 'l1', 'mine')")).await;
        let number = world.engine().write_checkpoint("amy/1").await.unwrap();
        let mut watch = world.engine().watch();
        let carried = watch.wait_for(|p| p.write_checkpoint("amy/1", []).unwrap() >= Some(number));
        let published = tokio::time::timeout(LIMIT, carried).await.unwrap().unwrap().clone();
        assert_eq!(published.write_checkpoint("amy/1", []).unwrap(), Some(number));
        let mut amy = Client::default();
        amy.sync("amy", &published, 1000);
        assert!(amy.ids("todos").contains_key(&format!("w{round}")));
    }
    // A client's own number is recorded when it is greater than what is known; else the client
    // learns the greater one (`powersync-protocol.md` 8.3).
    let known = world.engine().checkpoint_request("bob/1", 7).await.unwrap();
    let next = world.engine().checkpoint_request("bob/1", known + 1).await.unwrap();
    assert_eq!(next, known + 1);
    world.engine().stop().await;
}

/// E-7, F-60: a changed configuration is built from the replica beside the old one; unchanged
/// buckets keep their names and operations; an invalid one changes nothing.
#[tokio::test(flavor = "multi_thread")]
async fn a_new_configuration_is_built_from_the_replica_and_an_invalid_one_changes_nothing() {
    // So many that building takes a while: what is built is not shown before it is complete.
    let more = "INSERT INTO todos SELECT 'f' || i, 'f', 'f' FROM generate_series(1, 20000) i";
    let world = World::new(&format!("{SCHEMA}; {more}")).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    let name = |world: &World| {
        let published = world.engine().published();
        let state = view(&published).bucket(0, "[\"l1\"]").unwrap().unwrap();
        (published.sync.as_ref().unwrap().bucket_name(0, "[\"l1\"]"), state.count, state.checksum)
    };
    let before = name(&world);
    let findings = world.engine().configure("bad.yaml", "bucket_definitions: 7").await.unwrap_err();
    assert!(findings.iter().any(hw_types::Diagnostic::is_error));
    assert_eq!(name(&world), before);
    let scans = "SELECT coalesce(sum(seq_scan), 0)::bigint FROM pg_stat_user_tables";
    // What this session has scanned is counted before.
    world.sql("SELECT pg_stat_force_next_flush()").await;
    let scanned: i64 = world.client.query_one(scans, &[]).await.unwrap().get(0);
    let wider = format!("{CONFIG}  all:\n    data:\n      - SELECT id FROM todos\n");
    assert!(world.engine().configure("sync.yaml", &wider).await.unwrap());
    world.served(&wider).await;
    let again: i64 = world.client.query_one(scans, &[]).await.unwrap().get(0);
    assert_eq!(again, scanned, "the source is not asked for anything");
    assert_eq!(name(&world), before, "an unchanged bucket keeps its name and operations");
    let state = view(&world.engine().published()).bucket(1, "[]").unwrap().unwrap();
    assert_eq!(state.live, 20_500);
    assert!(!world.engine().configure("sync.yaml", &wider).await.unwrap(), "the same text again");
    world.engine().stop().await;
}

/// F-6: writers are busy while the tables are copied.
#[tokio::test(flavor = "multi_thread")]
async fn writes_during_the_first_copy_are_neither_lost_nor_doubled() {
    let cluster = Cluster::start();
    let client = cluster.client("postgres").await;
    client.batch_execute(SCHEMA).await.unwrap();
    client
        .batch_execute("INSERT INTO todos SELECT 'f' || i, 'l' || 1 + i % 4, repeat('f', 100) FROM generate_series(1, 20000) i")
        .await
        .unwrap();
    let writer = cluster.client("postgres").await;
    let (stop, stopped) = tokio::sync::watch::channel(false);
    let writing = tokio::spawn(async move {
        for i in 0.. {
            if *stopped.borrow() {
                break;
            }
            let sql = format!(
                "INSERT INTO todos VALUES ('w{i}', 'l{}', 'w');
                 UPDATE todos SET list = 'l{}' WHERE id = 'f{}';
                 DELETE FROM todos WHERE id = 'f{}'",
                1 + i % 4,
                1 + i % 3,
                1 + (i * 7) % 20000,
                1 + (i * 13) % 20000
            );
            writer.batch_execute(&sql).await.unwrap();
        }
    });
    let dir = tempfile::tempdir().unwrap();
    let engine = start(&cluster.url("postgres"), store(dir.path()), CONFIG, 24 << 20);
    let world = World { cluster, client, dir, engine: Some(engine) };
    world.served(CONFIG).await;
    stop.send_replace(true);
    writing.await.unwrap();
    let (mut amy, mut bob) = (Client::default(), Client::default());
    world.check(&mut amy, "amy").await;
    world.check(&mut bob, "bob").await;
    world.engine().stop().await;
}

/// F-25: what identifies a row may be an index or the whole row; what cannot be replicated is
/// refused by name.
#[tokio::test(flavor = "multi_thread")]
async fn every_replica_identity_is_right_or_refused_by_name() {
    let schema = "
        CREATE TABLE lists (id text PRIMARY KEY, owner text);
        INSERT INTO lists VALUES ('l1', 'amy');
        CREATE TABLE todos (id text, list text, body text);
        ALTER TABLE todos REPLICA IDENTITY FULL;
        INSERT INTO todos VALUES ('a', 'l1', 'x'), ('a', 'l1', 'x'), ('b', 'l1', 'y');
        CREATE TABLE nobody (id text, list text);
    ";
    let config = format!("{CONFIG}  bare:\n    data:\n      - SELECT id FROM nobody\n");
    let world = World::with(schema, &config, 24 << 20, ClusterOptions::default()).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    // One of two equal rows goes: the client keeps the row until the other goes, too.
    world.sql("DELETE FROM todos WHERE ctid = (SELECT min(ctid) FROM todos WHERE id = 'a')").await;
    world.check(&mut amy, "amy").await;
    world.sql("UPDATE todos SET body = 'z' WHERE id = 'b'").await;
    world.check(&mut amy, "amy").await;
    world.sql("DELETE FROM todos WHERE id = 'a'").await;
    world.check(&mut amy, "amy").await;
    let refused = world.engine().status().source.refused;
    assert!(refused.iter().any(|f| f.to_string().contains("nobody")), "{refused:?}");
    world.engine().stop().await;
}

/// The log describes a table again behind each TRUNCATE, and each gives its partitions other files.
#[tokio::test(flavor = "multi_thread")]
async fn f_22_a_storm_of_truncates_shares_looks_at_the_catalog() {
    let schema = SCHEMA.replace("body text);", "body text) PARTITION BY HASH (id);").replace(
        "INSERT INTO lists",
        "CREATE TABLE todos_0 PARTITION OF todos FOR VALUES WITH (MODULUS 2, REMAINDER 0);
         CREATE TABLE todos_1 PARTITION OF todos FOR VALUES WITH (MODULUS 2, REMAINDER 1);
         INSERT INTO lists",
    );
    let log = ClusterOptions { settings: &[("log_statement", "all")], ..ClusterOptions::default() };
    let world = World::with(&schema, CONFIG, 24 << 20, log).await;
    let mut amy = Client::default();
    world.check(&mut amy, "amy").await;
    let readings = || world.cluster.log().matches("BEGIN ISOLATION LEVEL REPEATABLE READ").count();
    let (before, storm) = (readings(), 150);
    for n in 0..storm {
        let insert = format!("INSERT INTO todos VALUES ('x{n}', 'l1', 'one')");
        world.sql(&format!("TRUNCATE todos; {insert}")).await;
    }
    world.check(&mut amy, "amy").await;
    let readings = readings() - before;
    assert!(readings < storm / 3, "{readings} readings of the catalog for {storm} statements");
    assert!(!world.cluster.log().contains("headwater_copy_"), "nothing had to be copied again");
}

/// Who has committed something sees it in the state in which it has arrived; calls at the same time share
/// markers, also with write checkpoints.
#[tokio::test(flavor = "multi_thread")]
async fn a_state_in_which_everything_has_arrived_holds_what_was_committed_before() {
    let world = World::new(SCHEMA).await;
    let lists = hw_types::TableName::new("public", "lists");
    for n in 0..20 {
        world.sql(&format!("INSERT INTO lists VALUES ('a{n}', 'amy')")).await;
        let arrived = world.engine().arrival().await.unwrap();
        assert_eq!(arrived.table(&lists).entered().unwrap().rows().count(), 4 + n);
    }
    let next_transaction = || async {
        let sql = "SELECT pg_snapshot_xmax(pg_current_snapshot())::text";
        let row = world.client.query_one(sql, &[]).await.unwrap();
        row.get::<_, String>(0).parse::<u64>().unwrap()
    };
    let before = next_transaction().await;
    let calls = (0..500).map(|n| {
        let engine = world.engine().clone();
        tokio::spawn(async move {
            if n % 2 == 0 {
                engine.write_checkpoint("amy").await.unwrap();
            } else {
                engine.arrival().await.unwrap();
            }
        })
    });
    for call in calls.collect::<Vec<_>>() {
        call.await.unwrap();
    }
    let written = next_transaction().await - before;
    assert!(written < 250, "{written} transactions for 500 questions");
    world.cluster.stop(Stop::Immediate);
    let error = world.engine().arrival().await.err().unwrap();
    assert!(matches!(error, crate::ArrivalError::Source(_)), "{error}");
}
