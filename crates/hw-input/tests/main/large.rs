//! Large transactions: streamed while they are open, in bounded memory, cut where they were
//! rolled back.

use crate::bench::{Bench, caught_up, told};
use hw_input::transactions::{Item, StreamLimits};
use hw_testkit::{Cluster, ClusterOptions};
use hw_types::Change;

const SMALL: [(&str, &str); 1] = [("logical_decoding_work_mem", "64kB")];

#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_with_rolled_back_savepoints_arrives_as_it_was_committed_on_every_major()
 {
    for major in hw_testkit::majors() {
        let cluster = Cluster::start_with(ClusterOptions {
            major: Some(major),
            settings: &SMALL,
            ..ClusterOptions::default()
        });
        for open_bytes in [0, 100_000, 64 << 20] {
            let bench = Bench::new(&cluster).await;
            bench.run("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
            drop(bench.main_session(&["t"]).await);
            let limits = StreamLimits { open_bytes, ..StreamLimits::default() };
            let mut stream = bench.stream_with(limits).await;
            let rows = |from: u32, to: u32| {
                format!(
                    "INSERT INTO t SELECT n, repeat('x', 50) FROM generate_series({from}, {to}) n;"
                )
            };
            let sql = [
                "BEGIN;".to_owned(),
                rows(1, 2000),
                "SAVEPOINT a;".into(),
                rows(2001, 4000),
                "SAVEPOINT b;".into(),
                rows(4001, 6000),
                "RELEASE b;".into(),
                rows(6001, 8000),
                "ROLLBACK TO a;".into(),
                rows(8001, 10000),
                "SAVEPOINT c;".into(),
                rows(10001, 12000),
                "SAVEPOINT d;".into(),
                rows(12001, 14000),
                "ROLLBACK TO d;".into(),
                rows(14001, 16000),
                "COMMIT;".into(),
            ]
            .concat();
            bench.run(&sql).await;
            // A second one that goes away as a whole.
            bench.run(&format!("BEGIN; {} ROLLBACK", rows(20_001, 24_000))).await;
            bench.run("INSERT INTO t VALUES (0, 'end')").await;
            let found = caught_up(&bench, &mut stream).await;
            assert_eq!(found.len(), 2, "major {major}");
            let mut keys = Vec::new();
            for change in &found[0].changes {
                if let Change::Row { kind: hw_types::ChangeKind::Insert { new }, .. } =
                    change.unwrap()
                {
                    let bytes = new.view().get(0).bytes().unwrap().to_vec();
                    keys.push(u32::from_be_bytes(bytes.try_into().unwrap()));
                }
            }
            let expected: Vec<u32> = (1..=2000).chain(8001..=12000).chain(14001..=16000).collect();
            assert_eq!(keys, expected, "major {major}, {open_bytes} bytes of memory");
            assert_eq!(found[0].changes.is_spooled(), open_bytes < 1 << 20);
            assert_eq!(told(&found[1]), ["+t(0,end)"]);
            drop(found);
            assert_eq!(bench.spool.used(), 0, "spool files are gone");
            stream.close().await;
        }
    }
}

/// Postgres 18 sends the end of parts of it, and nothing before that.
#[tokio::test(flavor = "multi_thread")]
async fn a_large_transaction_that_was_rolled_back_before_it_was_read_is_nothing_on_every_major() {
    for major in hw_testkit::majors() {
        let cluster = Cluster::start_with(ClusterOptions {
            major: Some(major),
            settings: &SMALL,
            ..ClusterOptions::default()
        });
        let bench = Bench::new(&cluster).await;
        bench.run("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
        drop(bench.main_session(&["t"]).await);
        let rows = |from: u32, to: u32| {
            format!(
                "INSERT INTO t SELECT n, repeat('x', 300) FROM generate_series({from}, {to}) n;"
            )
        };
        let parts = [rows(1, 10), "SAVEPOINT a;".into(), rows(11, 3000), "SAVEPOINT b;".into()];
        bench.run(&format!("BEGIN; {} {} ROLLBACK", parts.concat(), rows(3001, 6000))).await;
        bench.run("INSERT INTO t VALUES (0, 'end')").await;
        let mut stream = bench.stream_with(StreamLimits::default()).await;
        let found = caught_up(&bench, &mut stream).await;
        assert_eq!(found.len(), 1, "major {major}");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn open_transactions_hold_memory_only_up_to_their_bound() {
    let cluster =
        Cluster::start_with(ClusterOptions { settings: &SMALL, ..ClusterOptions::default() });
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    drop(bench.main_session(&["t"]).await);
    let limits = StreamLimits { open_bytes: 50_000, ..StreamLimits::default() };
    let mut stream = bench.stream_with(limits).await;
    let status = stream.status();
    // Three open transactions whose changes arrive interleaved.
    let mut writers = Vec::new();
    for number in 0..3 {
        let client = cluster.client(&bench.database.name).await;
        client.batch_execute("BEGIN").await.unwrap();
        writers.push((number, client));
    }
    for round in 0..5 {
        for (number, client) in &writers {
            let from = number * 100_000 + round * 1000;
            let sql = format!(
                "INSERT INTO t SELECT n, repeat('y', 30) FROM generate_series({from}, {}) n",
                from + 999
            );
            client.batch_execute(&sql).await.unwrap();
        }
    }
    hw_testkit::poll_until("three transactions are open here", || async {
        (status.status().open_transactions == 3).then_some(())
    })
    .await;
    assert!(status.status().open_bytes <= 50_000 + 1000);
    assert!(bench.spool.used() > 0);
    for (_, client) in writers.iter().rev() {
        client.batch_execute("COMMIT").await.unwrap();
    }
    let found = caught_up(&bench, &mut stream).await;
    let first_keys: Vec<String> =
        found.iter().map(|transaction| told(transaction)[0].clone()).collect();
    let long = "y".repeat(30);
    assert_eq!(
        first_keys,
        [format!("+t(200000,{long})"), format!("+t(100000,{long})"), format!("+t(0,{long})")],
        "in commit order"
    );
    assert!(found.iter().all(|transaction| transaction.changes.len() == 5001));
}

#[tokio::test(flavor = "multi_thread")]
async fn a_connection_that_breaks_inside_a_transaction_delivers_it_once_and_whole() {
    let cluster =
        Cluster::start_with(ClusterOptions { settings: &SMALL, ..ClusterOptions::default() });
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    let stream = bench.streaming(&["t"]).await;
    let status = stream.status();
    let writer = cluster.client(&bench.database.name).await;
    writer
        .batch_execute(
            "BEGIN; INSERT INTO t SELECT n, repeat('y', 30) FROM generate_series(1, 5000) n",
        )
        .await
        .unwrap();
    hw_testkit::poll_until("a part has arrived", || async {
        (status.status().open_transactions == 1).then_some(())
    })
    .await;
    stream.close().await;
    assert_eq!(bench.spool.used(), 0, "the spool of the open transaction was dropped");
    let mut stream = bench.stream().await;
    writer
        .batch_execute("INSERT INTO t SELECT n, 'z' FROM generate_series(5001, 6000) n; COMMIT")
        .await
        .unwrap();
    let found = caught_up(&bench, &mut stream).await;
    assert_eq!(found.len(), 1);
    assert_eq!(told(&found[0]).len(), 6000);
}

#[tokio::test(flavor = "multi_thread")]
async fn a_full_spool_slows_the_stream_down_and_loses_nothing() {
    let cluster =
        Cluster::start_with(ClusterOptions { settings: &SMALL, ..ClusterOptions::default() });
    let mut bench = Bench::new(&cluster).await;
    let folder = tempfile::tempdir().unwrap();
    bench.spool = hw_store::segment::SpoolDir::open(folder.path(), 300_000).unwrap();
    bench.run("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    drop(bench.main_session(&["t"]).await);
    let limits = StreamLimits { open_bytes: 0, ..StreamLimits::default() };
    let mut stream = bench.stream_with(limits).await;
    let status = stream.status();
    for round in 0..3 {
        let from = round * 10_000;
        let sql = format!(
            "INSERT INTO t SELECT n, repeat('y', 100) FROM generate_series({from}, {}) n",
            from + 999
        );
        bench.run(&sql).await;
    }
    // Each of them fits, two of them do not: the second waits until the first was let go.
    let mut held = Vec::new();
    while held.is_empty() {
        if let Item::Transaction(transaction) = stream.recv().await.unwrap() {
            held.push(transaction);
        }
    }
    hw_testkit::poll_until("the stream says that it stands still", || async {
        (!status.status().spool_full_for.is_zero()).then_some(())
    })
    .await;
    let first = held.pop().unwrap();
    assert_eq!(first.changes.len(), 1001, "the rows and the table's description");
    drop(first);
    let mut rest = 0;
    while rest < 2 {
        if let Item::Transaction(transaction) = stream.recv().await.unwrap() {
            assert_eq!(transaction.changes.iter().map(Result::unwrap).count(), 1001);
            rest += 1;
        }
    }
}
