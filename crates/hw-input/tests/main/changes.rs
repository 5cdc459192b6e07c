//! Every kind of change, on every major: what the log tells arrives as it was done.

use crate::bench::{Bench, as_logged, caught_up, told};
use hw_input::InputError;
use hw_input::copy_session::{CopySession, SlotChoice};
use hw_input::transactions::{Item, Transaction, TransactionStream};
use hw_pg::error::Policy;
use hw_testkit::{Cluster, ClusterOptions, Stop};
use hw_types::{Change, EndLsn, Lsn};

fn flat(transactions: &[Transaction]) -> Vec<String> {
    transactions.iter().flat_map(told).collect()
}

/// Runs a case on every major that the machine has.
async fn on_every_major<Fut: Future<Output = ()>>(case: impl Fn(Bench) -> Fut) {
    for major in hw_testkit::majors() {
        let cluster =
            Cluster::start_with(ClusterOptions { major: Some(major), ..ClusterOptions::default() });
        case(Bench::new(&cluster).await).await;
    }
}

/// Runs statements and returns what the log told.
async fn changes(bench: &Bench, tables: &[&str], statements: &[&str]) -> Vec<String> {
    let mut stream = bench.streaming(tables).await;
    for statement in statements {
        bench.run(statement).await;
    }
    let found = caught_up(bench, &mut stream).await;
    stream.close().await;
    flat(&found)
}

#[tokio::test(flavor = "multi_thread")]
async fn every_kind_of_change_arrives_on_every_major() {
    on_every_major(|bench| async move {
        bench
            .run(
                "CREATE TABLE t (a int PRIMARY KEY, b text, c text);
                 ALTER TABLE t ALTER c SET STORAGE EXTERNAL;
                 CREATE TABLE child (a int PRIMARY KEY, t int REFERENCES t);
                 CREATE TABLE full_ (a int, b text);
                 ALTER TABLE full_ REPLICA IDENTITY FULL;
                 CREATE TABLE keyed (a int PRIMARY KEY, b int NOT NULL UNIQUE, c text);
                 ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_b_key;",
            )
            .await;
        let told = changes(
            &bench,
            &["t", "child", "full_", "keyed"],
            &[
                "INSERT INTO t VALUES (1, 'x', repeat('long', 5000)), (2, NULL, '')",
                // F-24: the out-of-line value is not in the log.
                "UPDATE t SET b = 'y' WHERE a = 1",
                // F-23: a changed key has its old value with it.
                "UPDATE t SET a = 3, c = NULL WHERE a = 1",
                "DELETE FROM t WHERE a = 2",
                "INSERT INTO full_ VALUES (1, 'x'), (1, 'x')",
                "UPDATE full_ SET b = 'y'",
                "DELETE FROM full_ WHERE ctid = (SELECT max(ctid) FROM full_)",
                "INSERT INTO keyed VALUES (1, 10, 'x')",
                "UPDATE keyed SET b = 11",
                "UPDATE keyed SET c = 'z'",
                "INSERT INTO child VALUES (1, 3)",
                // F-22.
                "TRUNCATE t RESTART IDENTITY CASCADE",
                "SELECT pg_logical_emit_message(true, 'headwater', 'hi')",
                "SELECT pg_logical_emit_message(false, 'headwater', 'not part of anything')",
            ],
        )
        .await;
        let long = "long".repeat(5000);
        assert_eq!(
            told,
            [
                format!("+t(1,x,{long})").as_str(),
                "+t(2,,)",
                "t(1,y,?)",
                "t(1,,)>(3,y,)",
                "-t(2,,)",
                "+full_(1,x)",
                "+full_(1,x)",
                "full_(1,x)>(1,y)",
                "full_(1,x)>(1,y)",
                "-full_(1,y)",
                "+keyed(1,10,x)",
                "keyed(,10,)>(1,11,x)",
                "keyed(1,11,z)",
                "+child(1,3)",
                "truncate child t",
                "message headwater",
            ],
            "major {}",
            bench.source.look().await.unwrap().server.major()
        );
    })
    .await;
}

#[tokio::test(flavor = "multi_thread")]
async fn values_arrive_in_the_same_form_whether_the_stream_is_binary_or_text() {
    let cluster = Cluster::start();
    let columns = "a int PRIMARY KEY, b text, c numeric, d timestamptz, e jsonb, f int[], g uuid";
    let row = "1, 'x', 1.50, '2024-01-02 03:04:05.678+00', '{\"k\": [1, 2]}', '{1,NULL,3}',
               '00000000-0000-0000-0000-0000000000ff'";
    let mut seen = Vec::new();
    // A column of type inet turns the whole stream to text.
    for extra in ["", ", h inet"] {
        let bench = Bench::new(&cluster).await;
        bench.run(&format!("CREATE TABLE t ({columns}{extra})")).await;
        let insert = format!("INSERT INTO t VALUES ({row})");
        let mut stream = bench.streaming(&["t"]).await;
        bench.run(&insert).await;
        let found = caught_up(&bench, &mut stream).await;
        for change in &found[0].changes {
            if let Change::Row { kind: hw_types::ChangeKind::Insert { new }, .. } = change.unwrap()
            {
                seen.push(new.view().iter().take(7).map(|c| format!("{c:?}")).collect::<Vec<_>>());
            }
        }
    }
    assert_eq!(seen.len(), 2);
    assert_eq!(seen[0], seen[1]);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_column_without_binary_form_that_appears_later_restarts_the_stream_as_text() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
    let mut stream = bench.streaming(&["t"]).await;
    bench.run("ALTER TABLE t ADD b inet; INSERT INTO t VALUES (1, '10.0.0.1/8')").await;
    let error = ended(&mut stream).await;
    assert_eq!(error.policy(), Policy::Retry, "{error}");
    assert_eq!(error.to_string(), "column \"b\" of public.t has no binary form that we read");
    stream.close().await;
    let mut stream = bench.stream().await;
    assert_eq!(flat(&caught_up(&bench, &mut stream).await), ["+t(1,10.0.0.1/8)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn the_relation_of_the_log_equals_the_one_noted_from_the_catalog_on_every_major() {
    on_every_major(|bench| async move {
        bench
            .run(
                "CREATE TYPE mood AS ENUM ('low', 'high');
                 CREATE DOMAIN positive AS int CHECK (VALUE > 0);
                 CREATE TABLE plain (a int, b varchar(9), g int GENERATED ALWAYS AS (1) STORED,
                   c mood, d positive[], PRIMARY KEY (c, a));
                 CREATE TABLE full_ (a int PRIMARY KEY, b text);
                 ALTER TABLE full_ REPLICA IDENTITY FULL;
                 CREATE TABLE keyed (a int PRIMARY KEY, b int NOT NULL UNIQUE);
                 ALTER TABLE keyed REPLICA IDENTITY USING INDEX keyed_b_key;
                 CREATE TABLE parted (a int, b int, PRIMARY KEY (a, b)) PARTITION BY RANGE (a);
                 CREATE TABLE parted_1 PARTITION OF parted FOR VALUES FROM (0) TO (10);",
            )
            .await;
        let names = ["plain", "full_", "keyed", "parted"];
        let session = bench.main_session(&names).await;
        let noted = session.relations();
        let mut noted: Vec<_> = noted.iter().map(|relation| as_logged(relation)).collect();
        drop(session);
        let mut stream = bench.stream().await;
        bench
            .run(
                "INSERT INTO plain VALUES (1, 'x', DEFAULT, 'low', '{1}');
                 INSERT INTO full_ VALUES (1, 'x');
                 INSERT INTO keyed VALUES (1, 1);
                 INSERT INTO parted VALUES (1, 1);",
            )
            .await;
        let mut logged = Vec::new();
        for transaction in caught_up(&bench, &mut stream).await {
            for change in &transaction.changes {
                if let Change::Relation(relation) = change.unwrap() {
                    logged.push((*relation).clone());
                }
            }
        }
        noted.sort_by_key(|relation| relation.id);
        logged.sort_by_key(|relation| relation.id);
        assert_eq!(noted, logged);
    })
    .await;
}

/// Receives until the connection ends, and gives the error that ended it.
async fn ended(stream: &mut TransactionStream) -> InputError {
    loop {
        if let Err(error) = stream.recv().await {
            return error;
        }
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f_9_a_source_that_restarts_is_streamed_on_without_a_gap() {
    let cluster = Cluster::start();
    let mut bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
    let mut stream = bench.streaming(&["t"]).await;
    bench.run("INSERT INTO t VALUES (1)").await;
    let seen = caught_up(&bench, &mut stream).await;
    // A walsender lets the server stop when everything that it sent is confirmed.
    stream.ack(EndLsn(Lsn(u64::MAX)));
    cluster.signal_stop(Stop::Fast);
    let error = ended(&mut stream).await;
    assert_eq!(error.policy(), Policy::RetryWithBackoff, "{error}");
    stream.close().await;
    cluster.stopped().await;
    cluster.start_again();
    bench.sql = cluster.client(&bench.database.name).await;
    bench.run("INSERT INTO t VALUES (2)").await;
    let mut stream = bench.stream().await;
    let mut again = caught_up(&bench, &mut stream).await;
    again.retain(|transaction| transaction.commit_lsn > seen[0].commit_lsn);
    assert_eq!(flat(&again), ["+t(2)"]);
}

#[tokio::test(flavor = "multi_thread")]
async fn f_10_what_was_not_acknowledged_comes_again_whole_after_a_crash_of_the_source() {
    let cluster = Cluster::start();
    let mut bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY)").await;
    let mut stream = bench.streaming(&["t"]).await;
    for number in 1..=3 {
        bench.run(&format!("INSERT INTO t VALUES ({number})")).await;
    }
    let first = caught_up(&bench, &mut stream).await;
    stream.ack(first[0].end_lsn);
    // Open when the server dies: never shown.
    bench.run("BEGIN; INSERT INTO t VALUES (4)").await;
    cluster.signal_stop(Stop::Immediate);
    let error = ended(&mut stream).await;
    assert_eq!(error.policy(), Policy::RetryWithBackoff, "{error}");
    stream.close().await;
    cluster.stopped().await;
    cluster.start_again();
    bench.sql = cluster.client(&bench.database.name).await;
    bench.run("INSERT INTO t VALUES (5)").await;
    let mut stream = bench.stream().await;
    let again = caught_up(&bench, &mut stream).await;
    // The first may come again, too: the slot's file is written lazily.
    let again: Vec<_> = again.into_iter().filter(|t| t.commit_lsn > first[0].commit_lsn).collect();
    assert_eq!(flat(&again), ["+t(2)", "+t(3)", "+t(5)"]);
    assert_eq!(again[0].commit_lsn, first[1].commit_lsn);
    assert_eq!(again[0].xid, first[1].xid);
}

#[tokio::test(flavor = "multi_thread")]
async fn an_idle_source_with_other_traffic_still_moves_the_position() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY); CREATE TABLE noise (a int)").await;
    let mut stream = bench.streaming(&["t"]).await;
    bench.run("INSERT INTO noise SELECT generate_series(1, 1000)").await;
    let end = bench.position().await;
    let mut last = Growing::default();
    loop {
        match stream.recv().await.unwrap() {
            Item::Transaction(transaction) => panic!("nothing was published: {transaction:?}"),
            Item::Progress(position) => {
                last.grows(position);
                if position >= end {
                    break;
                }
            }
        }
    }
    stream.ack(last.0);
    let slot = bench.slot_name().await;
    hw_testkit::poll_until("the slot has confirmed the position", || async {
        let state = hw_pg::slot::SlotState::read(&bench.sql, &slot).await.unwrap().unwrap();
        (state.confirmed_flush.unwrap() >= end).then_some(())
    })
    .await;
}

/// Positions of Progress only grow.
#[derive(Default)]
struct Growing(EndLsn);

impl Growing {
    fn grows(&mut self, next: EndLsn) {
        assert!(next > self.0);
        self.0 = next;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn a_consumer_that_pauses_longer_than_the_timeout_keeps_its_connection() {
    let cluster = Cluster::start_with(ClusterOptions {
        settings: &[("wal_sender_timeout", "1s")],
        ..ClusterOptions::default()
    });
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE SEQUENCE s; CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    let session = bench.main_session(&["t"]).await;
    drop(session);
    let limits = hw_input::transactions::StreamLimits { open_bytes: 1 << 20, waiting_bytes: 1000 };
    let mut stream = bench.stream_with(limits).await;
    // More than all buffers between the server and us hold.
    for _ in 0..40 {
        bench
            .run("INSERT INTO t SELECT nextval('s'), repeat('x', 1000) FROM generate_series(1, 1000)")
            .await;
    }
    // The pause is made of the server's own time: two of its timeouts.
    bench.run("SELECT pg_sleep(2.5)").await;
    let count: usize = caught_up(&bench, &mut stream).await.iter().map(|t| told(t).len()).sum();
    assert_eq!(count, 40_000, "nothing lost, nothing twice");
    assert!(!cluster.log().contains("terminating walsender process due to replication timeout"));
}

/// The type is that of now, the values are of when they were written.
#[tokio::test(flavor = "multi_thread")]
async fn fd_15_a_composite_type_altered_while_the_server_is_behind_is_read_as_far_as_it_goes_on_every_major()
 {
    on_every_major(|bench| async move {
        // A column without a binary form makes the whole stream one of text.
        for extra in ["text", "point"] {
            bench
                .run(&format!(
                    "DROP TABLE IF EXISTS t; DROP TYPE IF EXISTS addr;
                     CREATE TYPE addr AS (street text, zip int);
                     CREATE TABLE t (a int PRIMARY KEY, one addr, many addr[], extra {extra});"
                ))
                .await;
            let covered = bench.cover(&["t"]).await;
            let table = covered.tables[0].catalog.facts.id;
            let name = bench.slot_name().await;
            let _ = bench.source.drop_slot(&name).await;
            drop(bench.main_session(&["t"]).await);
            bench.run("INSERT INTO t VALUES (1, '(y,2)', '{\"(q,3)\",NULL}')").await;
            bench.run("ALTER TYPE addr ADD ATTRIBUTE country text").await;
            bench.run("INSERT INTO t VALUES (2, '(z,3,de)', '{}')").await;
            let mut stream = bench.stream().await;
            let found = caught_up(&bench, &mut stream).await;
            stream.close().await;
            let misfits: Vec<_> = found.iter().map(|t| t.changes.misfits().to_vec()).collect();
            assert_eq!(misfits, [vec![table], vec![]], "{extra}");
            assert_eq!(
                flat(&found),
                ["+t(1,(y,2,),{\"(q,3,)\",NULL},)", "+t(2,(z,3,de),{},)"],
                "{extra}"
            );

            // One field too many, and one in front that has gone.
            bench.run("INSERT INTO t VALUES (3, '(x,7,fr)', NULL)").await;
            bench.run("ALTER TYPE addr DROP ATTRIBUTE country").await;
            let mut stream = bench.stream().await;
            let found = caught_up(&bench, &mut stream).await;
            stream.close().await;
            let last = found.last().unwrap();
            assert_eq!(last.changes.misfits(), [table], "{extra}");
            assert_eq!(told(last), ["+t(3,(x,7),,)"], "{extra}");
            bench.run("ALTER TYPE addr DROP ATTRIBUTE street").await;
            let mut stream = bench.stream().await;
            let found = caught_up(&bench, &mut stream).await;
            stream.close().await;
            assert!(found.iter().all(|t| !t.changes.misfits().is_empty()), "{extra}");

            // As many as before: one went, one of another type came.
            bench.run("INSERT INTO t VALUES (4, '(7)', '{(8)}')").await;
            bench.run("ALTER TYPE addr DROP ATTRIBUTE zip, ADD ATTRIBUTE since timestamptz").await;
            let mut stream = bench.stream().await;
            let found = caught_up(&bench, &mut stream).await;
            stream.close().await;
            let last = found.last().unwrap();
            assert_eq!(last.changes.misfits(), [table], "{extra}");
            assert_eq!(told(last), ["+t(4,(),{()},)"], "{extra}");
        }
    })
    .await;
}

/// The log does not tell that a type was altered; a copy beside the stream finds it out for both.
#[tokio::test(flavor = "multi_thread")]
async fn fd_15_the_stream_reads_types_as_the_copy_beside_it_does_on_every_major() {
    on_every_major(|bench| async move {
        bench
            .run(
                "CREATE TYPE addr AS (street text, zip int);
                 CREATE DOMAIN home AS addr;
                 CREATE TYPE span AS RANGE (subtype = addr);
                 CREATE TYPE mood AS ENUM ('low');
                 CREATE TABLE t (a serial PRIMARY KEY, one addr, many addr[], lives home,
                   ways span, feels mood);",
            )
            .await;
        let mut stream = bench.streaming(&["t"]).await;
        for (alter, value) in [
            ("SELECT", "(x,1)"),
            ("ALTER TYPE addr ADD ATTRIBUTE country text", "(x,1,de)"),
            ("ALTER TYPE addr RENAME ATTRIBUTE country TO land", "(x,1,de)"),
            ("ALTER TYPE addr DROP ATTRIBUTE land, ADD ATTRIBUTE since date", "(x,1,2026-01-01)"),
            ("ALTER TYPE addr DROP ATTRIBUTE street", "(1,2026-01-01)"),
            ("ALTER TYPE mood ADD VALUE 'high'", "(1,2026-01-01)"),
            ("ALTER DOMAIN home ADD CHECK (true)", "(1,2026-01-01)"),
        ] {
            bench.run(alter).await;
            let covered = bench.cover(&["t"]).await;
            let choice = SlotChoice::Temporary;
            let opened = CopySession::open(&bench.source, covered.tables, choice, 1, |_| {}).await;
            let copied = as_logged(&opened.unwrap().relations()[0]);
            let insert = format!(
                "INSERT INTO t (one, many, lives, ways, feels)
                 VALUES ('{value}', '{{\"{value}\"}}', '{value}', '[\"{value}\",)', 'low')"
            );
            bench.run(&insert).await;
            let found = caught_up(&bench, &mut stream).await;
            let [transaction] = found.as_slice() else { panic!("{alter}: {found:?}") };
            assert_eq!(transaction.changes.misfits(), [], "{alter}");
            let changes = transaction.changes.iter().map(Result::unwrap);
            let relations = changes.filter_map(|change| match change {
                Change::Row { relation, .. } => Some((*relation).clone()),
                _ => None,
            });
            assert_eq!(relations.collect::<Vec<_>>(), [copied], "{alter}");
        }
        stream.close().await;
    })
    .await;
}
