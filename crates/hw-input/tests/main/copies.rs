//! Copies: snapshot and stream together are what Postgres has (F-6, `engine.md` 6).

use crate::bench::{Bench, Replica, caught_up, same};
use hw_input::copy_session::{CopySession, SlotChoice};
use hw_input::{InputError, transactions::Transaction};
use hw_pg::catalog::Catalog;
use hw_pg::config::ConnectConfig;
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::TablePattern;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};

/// Opens a copy with a temporary slot.
async fn temporary(bench: &Bench, names: &[&str], workers: usize) -> CopySession {
    let covered = bench.cover(names).await;
    assert!(covered.refused.is_empty(), "{:?}", covered.refused);
    let choice = SlotChoice::Temporary;
    CopySession::open(&bench.source, covered.tables, choice, workers, |_| {}).await.unwrap()
}

fn apply(replica: &mut Replica, transactions: &[Transaction]) {
    transactions.iter().for_each(|transaction| replica.apply(transaction));
}

#[tokio::test(flavor = "multi_thread")]
async fn f_6_copy_and_stream_under_concurrent_writes_are_what_postgres_has_on_every_major() {
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..ClusterOptions::default() });
        let bench = Bench::new(&cluster).await;
        bench
            .run(
                "CREATE TABLE t (a int PRIMARY KEY, b text, c numeric);
                 CREATE TABLE dup (a int, b text);
                 ALTER TABLE dup REPLICA IDENTITY FULL;
                 INSERT INTO t SELECT n, 'row ' || n, n / 7.0 FROM generate_series(1, 3000) n;
                 INSERT INTO dup SELECT n % 5, 'x' FROM generate_series(1, 50) n;",
            )
            .await;
        // Two writers, from before the publication exists until after the copy.
        let stop = Arc::new(AtomicBool::new(false));
        let writers: Vec<_> = (0..2)
            .map(|writer| {
                let (stop, url) = (stop.clone(), bench.database.url.clone());
                tokio::spawn(async move { write(&url, writer, &stop).await })
            })
            .collect();
        let session = bench.main_session(&["t", "dup"]).await;
        let mut replica = Replica::copied(session).await;
        stop.store(true, Ordering::Relaxed);
        let mut written = 0;
        for writer in writers {
            written += writer.await.unwrap();
        }
        assert!(written > 0);
        let mut stream = bench.stream().await;
        apply(&mut replica, &caught_up(&bench, &mut stream).await);
        for table in ["t", "dup"] {
            let what = format!("major {major}, {table}");
            same(&replica.rows(table), &bench.oracle(table).await, &what);
        }
        stream.close().await;

        // A second table comes later, under a temporary slot, while the stream goes on.
        bench
            .run("CREATE TABLE late (a int PRIMARY KEY, b text); INSERT INTO late VALUES (1, 'x')")
            .await;
        let mut stream = bench.stream().await;
        let session = temporary(&bench, &["late"], 1).await;
        bench.run("UPDATE late SET b = 'y'; INSERT INTO late VALUES (2, 'z')").await;
        let mut late = Replica::copied(session).await;
        let found = caught_up(&bench, &mut stream).await;
        let of_late = |transaction: &&Transaction| {
            crate::bench::told(transaction).iter().any(|text| text.contains("late"))
        };
        found.iter().filter(of_late).for_each(|transaction| late.apply(transaction));
        assert_eq!(late.rows("late"), bench.oracle("late").await, "major {major}");
    }
}

/// Random small transactions until told to stop; returns how many.
async fn write(url: &str, seed: u32, stop: &AtomicBool) -> u32 {
    let (config, _) = ConnectConfig::parse(url).unwrap();
    let (client, _driver) = hw_pg::sql::connect(&config).await.unwrap();
    let mut state = 12345 + seed;
    let mut random = move |below: u32| {
        state = state.wrapping_mul(1_664_525).wrapping_add(1_013_904_223);
        (state >> 8) % below
    };
    let mut done = 0;
    while !stop.load(Ordering::Relaxed) || done < 20 {
        let (key, other) = (random(4000), random(4000));
        let statement = match random(7) {
            0 => format!("INSERT INTO t VALUES ({key}, 'new', 1.0) ON CONFLICT DO NOTHING"),
            1 => format!("UPDATE t SET b = b || '+' WHERE a = {key}"),
            2 => format!("DELETE FROM t WHERE a = {key}"),
            3 => format!(
                "UPDATE t SET a = {other} WHERE a = {key} AND NOT EXISTS
                 (SELECT FROM t WHERE a = {other})"
            ),
            4 => format!("INSERT INTO dup VALUES ({}, 'y')", key % 5),
            5 => format!(
                "DELETE FROM dup WHERE ctid = (SELECT min(ctid) FROM dup WHERE a = {})",
                key % 5
            ),
            _ => format!("BEGIN; DELETE FROM t WHERE a < {}; ROLLBACK", key),
        };
        // Two writers may meet on a key; the loser's transaction simply does not happen.
        if client.batch_execute(&statement).await.is_err() {
            client.batch_execute("ROLLBACK").await.unwrap();
        }
        done += 1;
    }
    done
}

/// Waits until some walsender waits for the end of the transaction of `client`.
async fn blocks(bench: &Bench, client: &tokio_postgres::Client) {
    let pid: i32 = client.query_one("SELECT pg_backend_pid()", &[]).await.unwrap().get(0);
    let sql = "SELECT FROM pg_stat_activity
               WHERE backend_type = 'walsender' AND $1 = ANY(pg_blocking_pids(pid))";
    hw_testkit::poll_until("the slot's creation waits for this transaction", || async {
        bench.sql.query_opt(sql, &[&pid]).await.unwrap().map(|_| ())
    })
    .await;
}

/// `engine.md` 6.2: with `<=` in the place of `<` this transaction would be in neither.
///
/// The slot becomes consistent at a record that the server writes when the last transaction that
/// it waited for has ended. One that began while it waited for that last one may write its commit
/// as the very next record, so that its commit_lsn is X, while the snapshot does not see it.
#[tokio::test(flavor = "multi_thread")]
async fn a_transaction_whose_commit_stands_exactly_at_the_boundary_is_streamed() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE other (a int)").await;
    let mut stream = bench.streaming(&["t"]).await;
    let mut all = Vec::new();
    let mut equal = 0;
    // The server may write a record of its own in between, so it is tried a few times.
    for number in 0..20 {
        let [first, second, third] = [
            cluster.client(&bench.database.name).await,
            cluster.client(&bench.database.name).await,
            cluster.client(&bench.database.name).await,
        ];
        let begin = "BEGIN; INSERT INTO other VALUES (1)";
        first.batch_execute(begin).await.unwrap();
        let covered = bench.cover(&["t"]).await;
        let source = bench.source.clone();
        let opening = tokio::spawn(async move {
            CopySession::open(&source, covered.tables, SlotChoice::Temporary, 1, |_| {}).await
        });
        blocks(&bench, &first).await;
        second.batch_execute(begin).await.unwrap();
        first.batch_execute("COMMIT").await.unwrap();
        blocks(&bench, &second).await;
        third.batch_execute(&format!("BEGIN; INSERT INTO t VALUES ({number})")).await.unwrap();
        second.batch_execute("COMMIT").await.unwrap();
        let session = opening.await.unwrap().unwrap();
        third.batch_execute("COMMIT").await.unwrap();

        let boundary = session.boundary();
        let mut replica = Replica::copied(session).await;
        all.extend(caught_up(&bench, &mut stream).await);
        let newest = all.last().unwrap();
        assert!(newest.commit_lsn.0 >= boundary);
        equal += u32::from(newest.commit_lsn.0 == boundary);
        apply(&mut replica, &all);
        assert_eq!(replica.rows("t"), bench.oracle("t").await);
        if equal == 2 {
            return;
        }
    }
    panic!("no transaction committed exactly at a boundary");
}

#[tokio::test(flavor = "multi_thread")]
async fn a_truncated_or_rewritten_table_is_never_read_as_empty() {
    let cluster = Cluster::start();
    for change in [
        "TRUNCATE t; INSERT INTO t VALUES (7, 'z')",
        "ALTER TABLE t ALTER a TYPE bigint",
        "ALTER TABLE t ADD c int",
        "ALTER TABLE t RENAME b TO bb",
        "DROP TABLE t; CREATE TABLE t (a int PRIMARY KEY, b text); \
         ALTER PUBLICATION headwater ADD TABLE t",
    ] {
        let bench = Bench::new(&cluster).await;
        bench
            .run(
                "CREATE TABLE t (a int PRIMARY KEY, b text);
                 INSERT INTO t VALUES (1, 'x'), (2, 'y')",
            )
            .await;
        drop(bench.streaming(&["t"]).await);
        // Behind the snapshot: the session fails, and says which table.
        let session = temporary(&bench, &["t"], 2).await;
        bench.run(change).await;
        let (sink, mut items) = tokio::sync::mpsc::channel(4);
        let running = tokio::spawn(session.run(sink));
        while items.recv().await.is_some() {}
        let error = running.await.unwrap().unwrap_err();
        assert!(matches!(&error, InputError::Overtaken(table) if table.name == "t"), "{change}");

        // Noted before the change, opened behind it: the session notes it again by itself.
        let covered = bench.cover(&["t"]).await;
        bench.run("ALTER TABLE t SET LOGGED; TRUNCATE t; INSERT INTO t(a) VALUES (9)").await;
        let choice = SlotChoice::Temporary;
        let session = CopySession::open(&bench.source, covered.tables, choice, 2, |_| {}).await;
        let replica = Replica::copied(session.unwrap()).await;
        assert_eq!(replica.rows("t").len(), 1, "{change}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_lock_on_a_copied_table_is_given_back_before_the_session_ends() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench
        .run(
            "CREATE TABLE a (k int PRIMARY KEY, b text); CREATE TABLE b (k int PRIMARY KEY);
              INSERT INTO a SELECT n, repeat('x', 200) FROM generate_series(1, 20000) n;
              INSERT INTO b VALUES (1)",
        )
        .await;
    drop(bench.streaming(&["a", "b"]).await);
    let session = temporary(&bench, &["a", "b"], 1).await;
    let (sink, mut items) = tokio::sync::mpsc::channel(1);
    let running = tokio::spawn(session.run(sink));
    // The first rows of the larger table are here and the channel is full: its lock is held, the
    // other table's is not.
    items.recv().await.unwrap();
    let other = cluster.client(&bench.database.name).await;
    other.batch_execute("SET lock_timeout = '20s'; TRUNCATE b").await.unwrap();
    drop(items);
    assert!(matches!(running.await.unwrap(), Err(InputError::Closed)));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_filters_column_lists_and_partitions_are_copied_as_they_are_streamed_on_every_major() {
    for major in hw_testkit::majors().into_iter().filter(|major| *major >= 15) {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..ClusterOptions::default() });
        let bench = Bench::new(&cluster).await;
        bench
            .run(
                "CREATE TABLE filtered (a int PRIMARY KEY, b text, secret text);
                 CREATE TABLE parted (a int PRIMARY KEY, b text) PARTITION BY RANGE (a);
                 CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
                 CREATE TABLE parted_2 PARTITION OF parted FOR VALUES FROM (10) TO (20);
                 INSERT INTO filtered SELECT n, 'b', 's' FROM generate_series(1, 10) n;
                 INSERT INTO parted SELECT n, 'p' FROM generate_series(0, 19) n;
                 CREATE PUBLICATION headwater FOR TABLE filtered (a, b) WHERE (a > 3)
                   WITH (publish_via_partition_root = true)",
            )
            .await;
        let session = bench.main_session(&["filtered", "parted"]).await;
        let mut replica = Replica::copied(session).await;
        let mut stream = bench.stream().await;
        bench
            .run(
                "UPDATE filtered SET a = a + 1 WHERE a = 10;
                 UPDATE filtered SET a = 0 WHERE a = 5;
                 UPDATE filtered SET a = 20 WHERE a = 1;
                 UPDATE parted SET a = 15 + 0 WHERE a = 100;
                 DELETE FROM parted WHERE a = 15;
                 UPDATE parted SET a = 15, b = 'moved' WHERE a = 5",
            )
            .await;
        apply(&mut replica, &caught_up(&bench, &mut stream).await);
        let oracle = bench.oracle("(SELECT a, b FROM filtered WHERE a > 3)").await;
        assert_eq!(replica.rows("filtered"), oracle, "major {major}");
        assert_eq!(replica.rows("parted"), bench.oracle("parted").await, "major {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_partition_follows_its_publications_via_root_flag() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench
        .run(
            "CREATE TABLE parted (a int PRIMARY KEY) PARTITION BY RANGE (a);
             CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);
             INSERT INTO parted VALUES (1);
             CREATE PUBLICATION headwater FOR TABLE parted;
             CREATE ROLE dba SUPERUSER;
             ALTER PUBLICATION headwater OWNER TO dba",
        )
        .await;
    let covered = bench.cover(&["parted", "parted_1"]).await;
    let names: Vec<&str> = covered.tables.iter().map(|t| t.relation.name.name.as_str()).collect();
    assert_eq!(names, ["parted_1"]);
    assert_eq!(
        covered.refused[0].finding.to_string(),
        "error[HW2109]: changes of partitioned table public.parted arrive under its partitions\n  \
         where: table public.parted\n  \
         mend:  ALTER PUBLICATION \"headwater\" SET (publish_via_partition_root = true); or name \
         the partitions"
    );
    bench.run("ALTER PUBLICATION headwater SET (publish_via_partition_root = true)").await;
    let covered = bench.cover(&["parted", "parted_1"]).await;
    let names: Vec<&str> = covered.tables.iter().map(|t| t.relation.name.name.as_str()).collect();
    assert_eq!(names, ["parted"]);
    assert_eq!(
        covered.refused[0].finding.to_string(),
        "error[HW2109]: changes of partition public.parted_1 arrive under public.parted, which is \
         synced as well\n  \
         where: table public.parted_1\n  \
         mend:  name either public.parted or its partitions"
    );
    // A publication of ours is set right.
    bench
        .run(
            "ALTER PUBLICATION headwater SET (publish_via_partition_root = false);
             ALTER PUBLICATION headwater OWNER TO postgres",
        )
        .await;
    let covered = bench.cover(&["parted"]).await;
    let names: Vec<&str> = covered.tables.iter().map(|t| t.relation.name.name.as_str()).collect();
    assert_eq!((names, covered.refused.len()), (vec!["parted"], 0));
}

#[tokio::test(flavor = "multi_thread")]
async fn row_level_security_never_filters_a_copy_silently() {
    let cluster = Cluster::start();
    let mut bench = Bench::new(&cluster).await;
    bench
        .run(
            "CREATE TABLE t (a int PRIMARY KEY); INSERT INTO t VALUES (1);
             ALTER TABLE t ENABLE ROW LEVEL SECURITY;
             CREATE ROLE reader REPLICATION LOGIN;
             GRANT SELECT ON t TO reader;
             CREATE PUBLICATION headwater FOR TABLE t",
        )
        .await;
    let url = cluster.url_as("reader", None, &bench.database.name);
    let (config, _) = ConnectConfig::parse(&url).unwrap();
    let source = hw_input::source::Source::new(config, bench.source.options().clone());
    bench.source = source;
    let covered = bench.cover(&["t"]).await;
    assert_eq!(
        covered.refused[0].finding.to_string(),
        "error[HW2131]: row level security would hide rows of public.t from role \"reader\"\n  \
         where: table public.t\n  \
         mend:  CREATE POLICY headwater_reads ON \"public\".\"t\" FOR SELECT TO \"reader\" USING \
         (true); -- or, where policies are restrictive, ALTER ROLE \"reader\" BYPASSRLS;"
    );
    // FD-57: a policy that shows every row counts, beside one that does not.
    bench
        .run(
            "CREATE POLICY few ON t USING (a > 1);
             CREATE POLICY each_row ON t FOR SELECT TO reader USING (true)",
        )
        .await;
    let session = temporary(&bench, &["t"], 1).await;
    // Policies that come behind the snapshot are those of the copy: one that hides is noticed.
    bench.run("DROP POLICY each_row ON t").await;
    let (sink, mut items) = tokio::sync::mpsc::channel(4);
    let running = tokio::spawn(session.run(sink));
    assert!(items.recv().await.is_none());
    let error = running.await.unwrap().unwrap_err();
    assert!(matches!(error, InputError::Overtaken(_)), "{error}");
    bench.run("CREATE POLICY each_row ON t FOR SELECT TO reader USING (true)").await;
    let session = temporary(&bench, &["t"], 1).await;
    assert_eq!(Replica::copied(session).await.rows("t").len(), 1);
    bench.run("CREATE POLICY fewer ON t AS RESTRICTIVE USING (a > 1)").await;
    assert_eq!(bench.cover(&["t"]).await.refused.len(), 1);
}

/// A database that takes any bytes may hold what no text of ours is.
#[tokio::test(flavor = "multi_thread")]
async fn a_text_that_is_not_utf_8_is_told_with_its_table() {
    let cluster = Cluster::start();
    let mut bench = Bench::new(&cluster).await;
    bench.run("CREATE DATABASE bytes ENCODING 'SQL_ASCII' LOCALE 'C' TEMPLATE template0").await;
    let sql = cluster.client("bytes").await;
    sql.batch_execute(
        "CREATE TABLE fine (a int PRIMARY KEY, b text); INSERT INTO fine VALUES (1, 'x');
         CREATE TABLE odd (a int PRIMARY KEY, b text); INSERT INTO odd VALUES (1, E'\\xe4bc')",
    )
    .await
    .unwrap();
    let (config, _) = ConnectConfig::parse(&cluster.url("bytes")).unwrap();
    bench.source = hw_input::source::Source::new(config, bench.source.options().clone());
    let session = temporary(&bench, &["fine", "odd"], 1).await;
    let (sink, mut items) = tokio::sync::mpsc::channel(1);
    let drain = tokio::spawn(async move { while items.recv().await.is_some() {} });
    let error = session.run(sink).await.unwrap_err();
    assert_eq!(
        error.diagnostic().to_string(),
        "error[HW2011]: a text is not UTF-8 (SQLSTATE 22021)\n  where: copy public.odd\n  mend:  correct the \
         value, or move the data to a database with ENCODING 'UTF8', which takes no such text"
    );
    drain.await.unwrap();
}

#[tokio::test(flavor = "multi_thread")]
async fn tables_that_cannot_be_replicated_are_refused_by_name_and_the_others_go_on() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench
        .run(
            "CREATE TABLE good (a int PRIMARY KEY);
             CREATE VIEW viewed AS SELECT * FROM good;
             CREATE MATERIALIZED VIEW stored AS SELECT * FROM good;
             CREATE UNLOGGED TABLE unlogged (a int PRIMARY KEY);
             CREATE TABLE bare (a int);
             CREATE TABLE nothing (a int PRIMARY KEY);
             ALTER TABLE nothing REPLICA IDENTITY NOTHING;
             CREATE COLLATION odd (provider = icu, locale = 'und-u-ks-level2', deterministic = false);
             CREATE TABLE collated (a text COLLATE odd PRIMARY KEY)",
        )
        .await;
    let names = ["good", "viewed", "stored", "unlogged", "bare", "nothing", "collated", "absent"];
    let covered = bench.cover(&names).await;
    assert_eq!(covered.added.len(), 1);
    assert_eq!(covered.tables.len(), 1);
    let mut codes: Vec<(u16, String)> = covered
        .refused
        .iter()
        .chain(&covered.missing)
        .map(|refused| &refused.finding)
        .map(|finding| (finding.code.0, finding.context.clone().unwrap_or_default()))
        .collect();
    codes.sort();
    let expected = [
        (2105, "table public.stored"),
        (2105, "table public.unlogged"),
        (2105, "table public.viewed"),
        (2106, "table public.bare"),
        (2106, "table public.nothing"),
        (2107, "table public.collated"),
    ];
    let found: Vec<(u16, &str)> =
        codes.iter().map(|(code, place)| (*code, place.as_str())).collect();
    assert_eq!(found[..6], expected);
    assert_eq!(found[6], (2108, ""));
    // The user's own statements still work on what was refused.
    bench.run("INSERT INTO bare VALUES (1); UPDATE bare SET a = 2; DELETE FROM bare").await;
}

#[tokio::test(flavor = "multi_thread")]
async fn a_publication_that_we_may_not_change_names_the_statement() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench
        .run(
            "CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE u (a int PRIMARY KEY);
               CREATE ROLE app REPLICATION LOGIN; GRANT SELECT ON t, u TO app",
        )
        .await;
    let url = cluster.url_as("app", None, &bench.database.name);
    let (config, _) = ConnectConfig::parse(&url).unwrap();
    let source = hw_input::source::Source::new(config, bench.source.options().clone());
    let patterns = [TablePattern::new("public", "t")];
    let finding = source.cover(&patterns).await.unwrap().refused[0].finding.clone();
    assert_eq!(
        finding.to_string(),
        "error[HW2102]: publication \"headwater\" does not exist and this role may not create it\n  \
         where: table public.t\n  \
         mend:  CREATE PUBLICATION \"headwater\" FOR TABLE ONLY \"public\".\"t\" WITH \
         (publish_via_partition_root = true);"
    );
    bench.run("CREATE PUBLICATION headwater FOR TABLE u").await;
    let finding = source.cover(&patterns).await.unwrap().refused[0].finding.clone();
    assert_eq!(
        finding.to_string(),
        "error[HW2103]: publication \"headwater\" lacks public.t and this role may not add it\n  \
         where: table public.t\n  \
         mend:  ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \"public\".\"t\"; \
         -- as a superuser, or as a role that owns both"
    );
    bench.run(finding.mend.as_deref().unwrap()).await;
    let covered = source.cover(&patterns).await.unwrap();
    assert!(covered.added.is_empty() && covered.refused.is_empty());
    assert_eq!(Catalog::members(&bench.sql, "headwater").await.unwrap().len(), 2);
}

#[tokio::test(flavor = "multi_thread")]
async fn several_workers_share_one_snapshot_and_deliver_each_row_once() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    let names: Vec<String> = (0..6).map(|n| format!("t{n}")).collect();
    for name in &names {
        bench
            .run(&format!(
                "CREATE TABLE {name} (a int PRIMARY KEY, b text);
                 INSERT INTO {name} SELECT n, repeat('x', n % 300) FROM generate_series(1, 4000) n"
            ))
            .await;
    }
    let names: Vec<&str> = names.iter().map(String::as_str).collect();
    let covered = bench.cover(&names).await;
    let choice = SlotChoice::Main { name: bench.slot_name().await };
    let session =
        CopySession::open(&bench.source, covered.tables, choice, 4, |_| {}).await.unwrap();
    let progress = session.progress();
    // Committed behind the boundary, in all of them: in no copy.
    for name in &names {
        bench.run(&format!("DELETE FROM {name}")).await;
    }
    let replica = Replica::copied(session).await;
    for name in &names {
        assert_eq!(replica.rows(name).len(), 4000);
    }
    let tables = progress.tables();
    assert!(tables.iter().all(|table| table.done && table.rows == 4000 && table.bytes > 0));
}
