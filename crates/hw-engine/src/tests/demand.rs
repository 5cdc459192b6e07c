//! Tables that are replicated because somebody reads them, on a real Postgres.

use super::postgres::{store, store_again};
use crate::testing::Node;
use crate::{DemandError, Engine, EngineOptions, Published, Rows, Since, TableState};
use hw_input::signal::Signal;
use hw_pg::config::ConnectConfig;
use hw_store::{Simulation, Store};
use hw_testkit::{Cluster, poll_until};
use hw_types::{TableName, text};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::oneshot;

struct World {
    cluster: Cluster,
    sql: tokio_postgres::Client,
    dir: tempfile::TempDir,
    engine: Option<Engine>,
}

fn start(url: &str, store: Store, config: Option<&str>) -> Engine {
    let (connection, _) = ConnectConfig::parse(url).unwrap();
    let mut options = EngineOptions::new(store, connection);
    options.change_list_bytes = 1 << 20;
    options.definition_retention = Duration::ZERO;
    let config = config.map(|text| ("sync.yaml".to_owned(), text.to_owned()));
    let (engine, findings) = Engine::start(options, config).unwrap();
    assert_eq!(findings, []);
    engine
}

fn name(table: &str) -> TableName {
    TableName::new("public", table)
}

/// The rows of a table as `(a,b)`, sorted; `None` while it has not entered.
fn rows(published: &Published, table: &str) -> Option<Vec<String>> {
    let name = name(table);
    let view = published.table(&name).entered()?;
    let columns = &view.relation().columns;
    let mut rows: Vec<String> = view
        .rows()
        .map(|entry| {
            let (key, stored) = entry.unwrap();
            assert_eq!(view.get(&key).unwrap().as_ref(), Some(&stored));
            let row = stored.row.view();
            let cells = columns.iter().enumerate().map(|(at, column)| match row.get(at).bytes() {
                Some(bytes) => text::to_text(&column.pg_type, bytes).unwrap(),
                None => String::new(),
            });
            format!("({})", cells.collect::<Vec<_>>().join(","))
        })
        .collect();
    rows.sort();
    Some(rows)
}

impl World {
    async fn new(schema: &str, config: Option<&str>) -> World {
        let _ = tracing_subscriber::fmt().with_test_writer().with_env_filter("info").try_init();
        let cluster = Cluster::start();
        let sql = cluster.client("postgres").await;
        sql.batch_execute(schema).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let engine = Some(start(&cluster.url("postgres"), store(dir.path()), config));
        World { cluster, sql, dir, engine }
    }

    fn engine(&self) -> &Engine {
        self.engine.as_ref().expect("the engine runs")
    }

    async fn run(&self, sql: &str) {
        self.sql.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error:?}"));
    }

    async fn restart(&mut self, meanwhile: &str) {
        self.engine().stop().await;
        self.engine = None;
        self.run(meanwhile).await;
        let store = store_again(self.dir.path()).await;
        self.engine = Some(start(&self.cluster.url("postgres"), store, None));
    }

    /// A state behind everything that is committed now, in which a table is like this.
    async fn until(&self, table: &str, is: impl Fn(&TableState<'_>) -> bool) -> Arc<Published> {
        let look = || async {
            let published = self.engine().arrival().await.ok()?;
            let name = name(table);
            let is = is(&published.table(&name));
            is.then_some(published)
        };
        poll_until(&format!("{table} stands as it must"), look).await
    }

    async fn entered(&self, table: &str) -> Arc<Published> {
        self.until(
            table,
            |state| matches!(state, TableState::Entered(view) if !view.stands_still()),
        )
        .await
    }

    async fn check(&self, table: &str) {
        let rows = rows(&*self.entered(table).await, table);
        let sql = format!("SELECT replace(t::text, '\"', '') FROM {table} t");
        let expected = self.sql.query(&sql, &[]).await.unwrap();
        let mut expected: Vec<String> = expected.iter().map(|row| row.get(0)).collect();
        expected.sort();
        assert_eq!(rows, Some(expected), "{table}");
    }

    async fn refused(&self, table: TableName) -> String {
        match self.engine().demand(&table).await {
            Err(DemandError::Refused(finding)) => finding.to_string(),
            other => panic!("{table}: {other:?}"),
        }
    }
}

/// Without any sync configuration; what is demanded stays over a restart, with what happened meanwhile.
#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_table_is_copied_followed_and_there_again_after_a_restart() {
    let mut world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY, b text); INSERT INTO t SELECT n, 'x' FROM generate_series(1, 500) n;
         CREATE TABLE u (a int, b text, PRIMARY KEY (b, a)); INSERT INTO u VALUES (1, 'x'), (1, 'y');
         CREATE TABLE other (id int PRIMARY KEY);",
        None,
    )
    .await;
    let (t, u, other) = (name("t"), name("u"), name("other"));
    world.engine().demand(&t).await.unwrap();
    assert!(world.engine().published().is_demanded(&t));
    world.check("t").await;
    // Again, by many at once, and a second one.
    let many = (0..20).map(|n| {
        let (engine, table) =
            (world.engine().clone(), if n % 2 == 0 { u.clone() } else { t.clone() });
        tokio::spawn(async move { engine.demand(&table).await.unwrap() })
    });
    for demand in many.collect::<Vec<_>>() {
        demand.await.unwrap();
    }
    world.check("u").await;
    let published = world.entered("u").await;
    assert_eq!(published.table(&u).entered().unwrap().key_columns(), [1, 0]);
    assert!(matches!(published.table(&other), TableState::Unknown));
    // What happens is in the list.
    let place = published.change_place();
    world
        .run("BEGIN; UPDATE t SET b = 'y' WHERE id = 7; DELETE FROM u WHERE b = 'y'; COMMIT")
        .await;
    world.run("INSERT INTO other VALUES (1)").await;
    world.check("t").await;
    world.check("u").await;
    let published = world.engine().arrival().await.unwrap();
    let Since::Complete(items) = published.committed_since(place) else {
        panic!("it reaches back")
    };
    let [item] = &items[..] else { panic!("{items:?}") };
    let touched = |table: &crate::ChangedTable| match &table.rows {
        Rows::Known(rows) => (table.name().name.clone(), rows.len()),
        other => panic!("{other:?}"),
    };
    let tables: Vec<_> = item.tables.iter().map(touched).collect();
    assert_eq!(tables, [("t".to_owned(), 1), ("u".to_owned(), 1)]);
    world.restart("INSERT INTO t VALUES (1000, 'while it was away'); TRUNCATE u").await;
    world.check("t").await;
    world.check("u").await;
    let published = world.engine().published();
    assert!(published.is_demanded(&t) && published.is_demanded(&u));
    assert!(matches!(published.committed_since(place), Since::Gone));
    world.engine().stop().await;
}

/// E-2: what was answered is durable; a writer that dies before that has promised nothing.
#[test]
fn a_demand_that_was_answered_survives_a_crash_and_one_that_was_not_is_harmless() {
    let simulation = Simulation::new();
    let mut node = Node::open(Store::simulated(&simulation), 1 << 20);
    let demand = |node: &mut Node, table: &str| {
        let (done, mut is_done) = oneshot::channel();
        let handled = node.sequencer.handle(Signal::Demand { table: name(table), done });
        (handled.is_ok(), is_done.try_recv().is_ok())
    };
    assert_eq!(demand(&mut node, "t"), (true, true));
    simulation.fail_sync(1);
    assert_eq!(demand(&mut node, "u"), (false, false));
    drop(node);
    let mut node = Node::open(simulation.crash(), 1 << 20);
    node.settle();
    let wanted = |node: &Node| {
        let plan = node.board.plan.borrow().clone();
        let names = plan.wanted.iter().filter_map(|pattern| pattern.exact());
        names.collect::<Vec<TableName>>()
    };
    assert!(node.published().is_demanded(&name("t")));
    assert!(wanted(&node).contains(&name("t")));
    assert_eq!(demand(&mut node, "u"), (true, true));
    assert_eq!(wanted(&node), [name("t"), name("u")]);
    assert_eq!(*node.board.plan.borrow().demanded, wanted(&node).into_iter().collect());
}

/// Refused by name, before anything is noted of it.
#[tokio::test(flavor = "multi_thread")]
async fn what_cannot_be_replicated_is_refused_with_the_reason_and_leaves_nothing_behind() {
    let world = World::new(
        "CREATE TABLE t (id int PRIMARY KEY);
         CREATE VIEW v AS SELECT * FROM t;
         CREATE UNLOGGED TABLE unlogged (id int PRIMARY KEY);
         CREATE TABLE keyless (a int);
         CREATE TABLE root (id int PRIMARY KEY) PARTITION BY RANGE (id);
         CREATE TABLE part PARTITION OF root FOR VALUES FROM (1) TO (10);",
        None,
    )
    .await;
    world.engine().demand(&name("t")).await.unwrap();
    world.check("t").await;
    for (table, says) in [
        (name("v"), "is a view"),
        (name("unlogged"), "is an unlogged table"),
        (name("keyless"), "has no primary key"),
        (name("missing"), "there is no table"),
        (TableName::new("pg_catalog", "pg_class"), "belongs to Postgres itself"),
    ] {
        let finding = world.refused(table.clone()).await;
        assert!(finding.contains(says), "{table}: {finding}");
        assert!(!world.engine().published().is_demanded(&table));
    }
    // Of a partition and its root only the one that came first.
    world.engine().demand(&name("part")).await.unwrap();
    world.check("part").await;
    let finding = world.refused(name("root")).await;
    assert!(finding.contains("HW3106") && finding.contains("part"), "{finding}");
    world.run("INSERT INTO root VALUES (5)").await;
    world.check("part").await;
    world.cluster.stop(hw_testkit::Stop::Immediate);
    let silent = world.engine().demand(&name("keyless")).await;
    assert!(matches!(silent, Err(DemandError::Silent)), "{silent:?}");
    world.engine().stop().await;
}

/// One that cannot be followed any more leaves, and comes back when it can.
#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_table_that_cannot_be_followed_any_more_is_refused_until_it_can() {
    let world =
        World::new("CREATE TABLE t (id int PRIMARY KEY); INSERT INTO t VALUES (1)", None).await;
    let t = name("t");
    world.engine().demand(&t).await.unwrap();
    world.check("t").await;
    world.run("ALTER TABLE t REPLICA IDENTITY NOTHING").await;
    world.until("t", |state| matches!(state, TableState::Refused)).await;
    let refusal = world.engine().refusal(&t).expect("a reason").to_string();
    assert!(refusal.contains("REPLICA IDENTITY NOTHING"), "{refusal}");
    world.run("ALTER TABLE t REPLICA IDENTITY DEFAULT; INSERT INTO t VALUES (2)").await;
    world.check("t").await;
    assert_eq!(world.engine().refusal(&t), None);
    // A column more: it stands still or not, and has it in the end.
    world.run("ALTER TABLE t ADD b text DEFAULT 'x'; INSERT INTO t VALUES (3, 'y')").await;
    world.check("t").await;
    // Dropped: it waits, and nobody is alarmed; made again, it is there.
    world.run("DROP TABLE t").await;
    world.until("t", |state| matches!(state, TableState::Waits)).await;
    let none: [hw_types::Diagnostic; 0] = [];
    assert_eq!(world.engine().status().source.refused, none);
    world.run("CREATE TABLE t (id int PRIMARY KEY, c int); INSERT INTO t VALUES (1, 2)").await;
    world.check("t").await;
    world.engine().stop().await;
}

/// `design/engine.md` 11: behind every statement on who may do what with a table the log describes it anew
/// before its next change, and between them it does not.
#[tokio::test(flavor = "multi_thread")]
async fn a_change_behind_a_statement_on_rights_says_that_they_may_be_others() {
    let world = World::new(
        "CREATE TABLE t (id serial PRIMARY KEY); CREATE ROLE reader; CREATE ROLE owner_",
        None,
    )
    .await;
    world.engine().demand(&name("t")).await.unwrap();
    world.check("t").await;
    let insert = || async {
        let place = world.engine().arrival().await.unwrap().change_place();
        world.run("INSERT INTO t DEFAULT VALUES").await;
        let published = world.engine().arrival().await.unwrap();
        let Since::Complete(items) = published.committed_since(place) else { panic!("known") };
        assert_eq!(items.len(), 1);
        items[0].tables[0].described
    };
    insert().await;
    for statement in [
        "GRANT SELECT ON t TO reader",
        "REVOKE SELECT ON t FROM reader",
        "GRANT SELECT (id) ON t TO reader",
        "ALTER TABLE t ENABLE ROW LEVEL SECURITY",
        "CREATE POLICY p ON t USING (id > 0)",
        "ALTER POLICY p ON t USING (id > 1)",
        "ALTER POLICY p ON t RENAME TO q",
        "DROP POLICY q ON t",
        "ALTER TABLE t FORCE ROW LEVEL SECURITY",
        "ALTER TABLE t NO FORCE ROW LEVEL SECURITY",
        "ALTER TABLE t DISABLE ROW LEVEL SECURITY",
        "ALTER TABLE t OWNER TO owner_",
    ] {
        assert!(!insert().await, "before {statement}");
        let before = *world.engine().rights().borrow();
        world.run(statement).await;
        assert!(insert().await, "{statement}");
        assert!(*world.engine().rights().borrow() > before, "{statement}");
    }
    world.engine().stop().await;
}

/// What a definition read and is demanded stays when the definition goes.
#[tokio::test(flavor = "multi_thread")]
async fn a_demanded_table_stays_when_the_definition_that_read_it_has_left() {
    let of = |table: &str| {
        format!("bucket_definitions:\n  all:\n    data:\n      - SELECT * FROM {table}\n")
    };
    let world = World::new(
        "CREATE TABLE t (id text PRIMARY KEY); INSERT INTO t VALUES ('a');
         CREATE TABLE u (id text PRIMARY KEY); CREATE TABLE v (id text PRIMARY KEY)",
        Some(&of("t")),
    )
    .await;
    world.check("t").await;
    world.engine().demand(&name("t")).await.unwrap();
    world.engine().configure("sync.yaml", &of("u")).await.unwrap();
    world.entered("u").await;
    // Only what definitions read leaves with them.
    world.engine().configure("sync.yaml", &of("v")).await.unwrap();
    world.entered("v").await;
    world.until("u", |state| matches!(state, TableState::Unknown)).await;
    world.run("INSERT INTO t VALUES ('b')").await;
    world.check("t").await;
    world.engine().stop().await;
}
