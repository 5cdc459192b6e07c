//! Full ids of the transactions in the log, on a real server whose ids wrap.

use crate::bench::{Bench, caught_up};
use hw_input::transactions::Transaction;
use hw_testkit::Cluster;
use hw_types::FullXid;

/// The id that each transaction wrote into its row, and the one under which it arrived.
fn ids(transactions: &[Transaction]) -> Vec<(FullXid, FullXid)> {
    let of = |transaction: &Transaction| {
        let told = crate::bench::told(transaction);
        let text = told[0].trim_start_matches("+t(").trim_end_matches(')');
        (FullXid(text.parse().unwrap()), transaction.xid)
    };
    transactions.iter().map(of).collect()
}

async fn write(bench: &Bench, transactions: usize) {
    for _ in 0..transactions {
        bench.run("INSERT INTO t SELECT pg_current_xact_id()::text").await;
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn transactions_arrive_under_their_full_ids_across_a_wrap_also_when_they_come_again() {
    let cluster = Cluster::start();
    hw_testkit::needs!(cluster.before_wrap(100).await, "pg_resetwal");
    let bench = Bench::new(&cluster).await;
    bench.run("CREATE TABLE t (x text PRIMARY KEY)").await;
    let mut stream = bench.streaming(&["t"]).await;
    // One that is older than the wrap and ends behind it.
    let long = cluster.client(&bench.database.name).await;
    long.batch_execute("BEGIN; INSERT INTO t SELECT pg_current_xact_id()::text").await.unwrap();
    write(&bench, 150).await;
    long.batch_execute("COMMIT").await.unwrap();
    write(&bench, 5).await;
    let first = ids(&caught_up(&bench, &mut stream).await);
    let epochs = |ids: &[(FullXid, FullXid)]| -> Vec<u64> {
        let mut epochs: Vec<u64> = ids.iter().map(|(written, _)| written.0 >> 32).collect();
        epochs.dedup();
        epochs
    };
    assert_eq!(epochs(&first), [2, 3, 2, 3]);
    assert_eq!(first.len(), 156);
    assert!(first.iter().all(|(written, arrived)| written == arrived), "{first:?}");
    stream.close().await;
    // Nothing was confirmed: everything comes again, to a stream that begins behind the wrap.
    let mut stream = bench.stream().await;
    let again = ids(&caught_up(&bench, &mut stream).await);
    assert_eq!(again, first);
}
