//! A replication slot drained by a client that decodes nothing: what Postgres itself can deliver.

use std::time::{Duration, Instant};

use hw_pg::config::ConnectConfig;
use hw_pg::replication::{Frame, ReplicationConnection, ReplicationStream, StreamOptions};
use hw_types::Lsn;
use tokio_postgres::Client;

use crate::Outcome;
use crate::ticks::{self, Finder};

const SLOT: &str = "bench_limit";

/// The publication that the server under test has made; equal slots send the same.
const PUBLICATION: &str = "headwater";

/// Longer messages are not looked into: a tick is short.
const TICK_BYTES: usize = 400;

/// Between two attempts to drop a slot whose walsender is still leaving.
const PAUSE: Duration = Duration::from_millis(20);

/// Makes a slot that from now on keeps what the server's own slot keeps.
pub async fn create(sql: &Client) -> Outcome<()> {
    sql.execute("SELECT pg_create_logical_replication_slot($1, 'pgoutput')", &[&SLOT]).await?;
    Ok(())
}

/// Drops the slot once its stream has ended.
pub async fn remove(sql: &Client) -> Outcome<()> {
    const DROP: &str = "SELECT count(pg_drop_replication_slot(slot_name)) \
                        FROM pg_replication_slots WHERE slot_name = $1 AND NOT active";
    while sql.query_one(DROP, &[&SLOT]).await?.get::<_, i64>(0) == 0 {
        tokio::time::sleep(PAUSE).await;
    }
    Ok(())
}

/// Starts to stream the slot as the server does.
pub async fn stream(url: &str) -> Outcome<ReplicationStream> {
    let (config, _) = ConnectConfig::parse(url).map_err(|finding| finding.to_string())?;
    let options = StreamOptions {
        publications: vec![PUBLICATION.to_owned()],
        streaming: true,
        binary: true,
        ..StreamOptions::default()
    };
    let connection = ReplicationConnection::connect(&config).await?;
    Ok(connection.start_replication(SLOT, Lsn::ZERO, &options).await?)
}

/// What a drained slot held.
pub struct Drained {
    /// From the start of the stream to the tick.
    pub time: Duration,
    /// Bytes of messages.
    pub bytes: u64,
    /// Inserts, updates and deletes.
    pub rows: u64,
}

/// Reads the slot up to a tick, then drops it.
pub async fn drain(url: &str, sql: &Client, tick: u64) -> Outcome<Drained> {
    let mut stream = stream(url).await?;
    let finder = Finder::new();
    let began = Instant::now();
    let (mut bytes, mut rows, mut found) = (0, 0, false);
    while !found {
        let Frame::Data { payload } = stream.recv().await? else { continue };
        bytes += payload.len() as u64;
        rows += u64::from(matches!(payload.first(), Some(b'I' | b'U' | b'D')));
        if payload.len() < TICK_BYTES && payload.first() == Some(&b'I') {
            finder.each(&payload, |number| found |= number == tick);
        }
    }
    let time = began.elapsed();
    stream.close().await;
    remove(sql).await?;
    Ok(Drained { time, bytes, rows })
}

/// Milliseconds from the confirmed commit of each tick to its message at this client.
pub async fn latency(url: &str, every: Duration, count: u64) -> Outcome<Vec<f64>> {
    let mut stream = stream(url).await?;
    let finder = Finder::new();
    let pace = ticks::Pace::start(url.to_owned(), every, count);
    let mut seen = std::collections::HashMap::new();
    while (seen.len() as u64) < count {
        let Frame::Data { payload } = stream.recv().await? else { continue };
        let now = Instant::now();
        finder.each(&payload, |number| {
            seen.entry(number).or_insert(now);
        });
    }
    stream.close().await;
    let committed = pace.finished().await?;
    Ok(committed
        .iter()
        .filter_map(|tick| Some(millis_since(tick.confirmed, *seen.get(&tick.number)?)))
        .collect())
}

/// Milliseconds from one moment to another, negative when the second comes first: a commit is in
/// the log before the one who committed hears of it.
pub fn millis_since(earlier: Instant, later: Instant) -> f64 {
    match later.checked_duration_since(earlier) {
        Some(time) => time.as_secs_f64() * 1e3,
        None => -(earlier.duration_since(later).as_secs_f64() * 1e3),
    }
}
