//! F-35: a stream that is cut or damaged on its way. The connection is dropped; no part of a
//! transaction is delivered, and what comes after the reconnect is whole.

use crate::bench::{Bench, told};
use hw_input::source::{Source, SourceOptions};
use hw_input::transactions::{Item, StreamLimits};
use hw_pg::config::ConnectConfig;
use hw_pg::slot::SlotState;
use hw_testkit::{Cluster, ClusterOptions, Direction, Ending, FaultProxy};
use std::collections::BTreeMap;
use std::time::Duration;

/// When nothing more is expected on a damaged connection.
const QUIET: Duration = Duration::from_millis(150);

/// Streams through the proxy again and again from the same place, struck at a later byte each
/// time, until the strikes are beyond all that there is to send.
///
/// Returns the transactions by commit position, and how many streams a strike ended.
async fn stream_through(
    bench: &Bench,
    source: &Source,
    proxy: &FaultProxy,
    strike: impl Fn(u64),
) -> (BTreeMap<u64, Vec<String>>, u32) {
    let end = bench.position().await;
    let slot = bench.slot_name().await;
    let mut found: BTreeMap<u64, Vec<String>> = BTreeMap::new();
    let mut struck = 0;
    let mut after = 100;
    loop {
        slot_is_free(bench, &slot).await;
        let limits = StreamLimits { open_bytes: 2000, ..StreamLimits::default() };
        strike(after);
        after += 1 + after / 4;
        // The strike may hit the connections that are made first.
        let stream = source.stream(&slot, bench.spool.clone(), limits).await;
        let Ok(mut stream) = stream else { continue };
        let failed = loop {
            match stream.recv().await {
                Ok(item) => {
                    let reached = item.end_lsn() >= end;
                    if let Item::Transaction(transaction) = item {
                        let told = told(&transaction);
                        let before = found.insert(transaction.commit_lsn.0.0, told.clone());
                        // What comes again is the same again.
                        assert!(before.is_none_or(|before| before == told));
                    }
                    if reached {
                        break None;
                    }
                }
                Err(error) => break Some(error),
            }
        };
        stream.close().await;
        match failed {
            Some(error) => {
                assert_ne!(error.policy(), hw_pg::error::Policy::Stop, "{error}");
                struck += 1;
            }
            // The strike waits for a byte behind all that there is.
            None if proxy.is_armed() => {
                proxy.heal();
                return (found, struck);
            }
            None => {}
        }
    }
}

/// A walsender whose connection was cut lets go of the slot when it notices.
async fn slot_is_free(bench: &Bench, name: &str) {
    hw_testkit::poll_until("the slot is free", || async {
        let state = SlotState::read(&bench.sql, name).await.unwrap().unwrap();
        state.active_pid.is_none().then_some(())
    })
    .await;
}

async fn written(bench: &Bench) -> Vec<Vec<String>> {
    bench.run("CREATE TABLE t (a int PRIMARY KEY, b text)").await;
    drop(bench.main_session(&["t"]).await);
    let mut expected = Vec::new();
    for number in 0..30 {
        let (from, to) = (number * 10, number * 10 + 9);
        bench
            .run(&format!(
                "INSERT INTO t SELECT n, 'text of ' || n FROM generate_series({from}, {to}) n"
            ))
            .await;
        expected.push((from..=to).map(|n| format!("+t({n},text of {n})")).collect());
    }
    expected
}

fn through(bench: &Bench, proxy: &FaultProxy, more: &str) -> Source {
    let text = format!(
        "host=127.0.0.1 port={} user=postgres dbname={} {more}",
        proxy.port(),
        bench.database.name
    );
    let (config, _) = ConnectConfig::parse(&text).unwrap();
    let options = SourceOptions {
        // A damaged length announces what never comes.
        answer_limit: Duration::from_millis(500),
        silence_limit: Duration::from_secs(1),
        ..SourceOptions::default()
    };
    Source::new(config, options)
}

#[tokio::test(flavor = "multi_thread")]
async fn f_35_a_stream_that_is_cut_anywhere_delivers_whole_transactions_only() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    let expected = written(&bench).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
    let source = through(&bench, &proxy, "sslmode=disable");
    for ending in [Ending::Close, Ending::Reset] {
        let (found, struck) = stream_through(&bench, &source, &proxy, |after| {
            proxy.cut_after(Direction::ToClient, after, ending);
        })
        .await;
        assert_eq!(found.into_values().collect::<Vec<_>>(), expected);
        assert!(struck > 5, "the cuts ended {struck} streams");
    }
}

#[tokio::test(flavor = "multi_thread")]
async fn f_35_a_flipped_bit_drops_the_connection_and_no_bad_row_comes_through() {
    let cluster = Cluster::start_with(ClusterOptions::default());
    let made = rcgen::generate_simple_self_signed(["localhost".to_owned()]).unwrap();
    cluster.serve_tls(&made.cert.pem(), &made.signing_key.serialize_pem());
    let bench = Bench::new(&cluster).await;
    let expected = written(&bench).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
    // TLS notices every flipped bit; a plain connection has only the checksums of TCP.
    let source = through(&bench, &proxy, "sslmode=require");
    let (found, struck) = stream_through(&bench, &source, &proxy, |after| {
        proxy.flip_after(Direction::ToClient, after);
    })
    .await;
    assert_eq!(found.into_values().collect::<Vec<_>>(), expected);
    assert!(struck > 5, "the flips ended {struck} streams");
}

#[tokio::test(flavor = "multi_thread")]
async fn f_35_a_flipped_bit_on_a_plain_connection_never_panics() {
    let cluster = Cluster::start();
    let bench = Bench::new(&cluster).await;
    written(&bench).await;
    let proxy = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
    let source = through(&bench, &proxy, "sslmode=disable");
    let slot = bench.slot_name().await;
    for after in (0..1500).step_by(37) {
        let spool = bench.spool.clone();
        let Ok(mut stream) = source.stream(&slot, spool, StreamLimits::default()).await else {
            slot_is_free(&bench, &slot).await;
            continue;
        };
        proxy.flip_after(Direction::ToClient, after);
        // The framing notices, or a value is another, or a length announces what never comes:
        // nothing else.
        while let Ok(Ok(_)) = tokio::time::timeout(QUIET, stream.recv()).await {}
        stream.close().await;
        proxy.heal();
    }
}
