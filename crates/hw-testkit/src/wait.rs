//! Barriers: waiting for a condition instead of for time.
//!
//! A test never sleeps for "long enough". It names what must become true; the wait ends at the
//! first moment it is seen, and a limit far above any real duration turns a hang into a message.

use std::fmt::Debug;
use std::future::Future;
use std::time::Duration;

use tokio_postgres::Client;
use tokio_postgres::types::PgLsn;

/// How long a barrier waits before it fails the test: far longer than anything that works takes,
/// also on a loaded machine, so that the limit itself is never what a test measures.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The pause between two looks. Short against what tests wait for, long against the cost of a look.
const PAUSE: Duration = Duration::from_millis(5);

/// Looks again and again until `look` answers `Some`, and returns that.
///
/// - Takes: `what`, a phrase for the failure message ("the slot is confirmed").
/// - Panics: after [`LIMIT`], naming `what`.
pub async fn poll_until<T, F, Fut>(what: &str, mut look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    let seen = tokio::time::timeout(LIMIT, async {
        loop {
            if let Some(seen) = look().await {
                return seen;
            }
            tokio::time::sleep(PAUSE).await;
        }
    });
    match seen.await {
        Ok(seen) => seen,
        Err(_) => panic!("waited {} s in vain until {what}", LIMIT.as_secs()),
    }
}

/// Like [`poll_until`], for a value that must come to equal `expected`; the failure message shows
/// the last value seen.
pub async fn poll_until_equal<T, F, Fut>(what: &str, expected: T, mut look: F)
where
    T: PartialEq + Debug,
    F: FnMut() -> Fut,
    Fut: Future<Output = T>,
{
    let deadline = tokio::time::Instant::now() + LIMIT;
    loop {
        let seen = look().await;
        if seen == expected {
            return;
        }
        assert!(
            tokio::time::Instant::now() < deadline,
            "waited {} s in vain until {what}:\n expected {expected:?}\n last saw {seen:?}",
            LIMIT.as_secs()
        );
        tokio::time::sleep(PAUSE).await;
    }
}

/// Awaits `work`, failing the test with `what` if it takes longer than [`LIMIT`].
pub async fn within_limit<T>(what: &str, work: impl Future<Output = T>) -> T {
    match tokio::time::timeout(LIMIT, work).await {
        Ok(done) => done,
        Err(_) => panic!("waited {} s in vain until {what}", LIMIT.as_secs()),
    }
}

/// The barrier of promises.md: the log position after everything committed so far.
///
/// - Returns: `pg_current_wal_insert_lsn()` as a number of bytes.
pub async fn current_lsn(client: &Client) -> u64 {
    let row = client
        .query_one("SELECT pg_current_wal_insert_lsn()", &[])
        .await
        .expect("a primary tells its insert position");
    row.get::<_, PgLsn>(0).into()
}

/// Waits until the slot has confirmed everything up to `lsn` (bytes).
///
/// - Panics: after [`LIMIT`]; also when the slot does not exist by then.
pub async fn slot_confirmed(client: &Client, slot: &str, lsn: u64) {
    poll_until(&format!("slot {slot} has confirmed {lsn:X}"), || async {
        let row = client
            .query_opt(
                "SELECT confirmed_flush_lsn FROM pg_replication_slots WHERE slot_name = $1",
                &[&slot],
            )
            .await
            .expect("the view can be read")?;
        let confirmed: Option<PgLsn> = row.get(0);
        (u64::from(confirmed?) >= lsn).then_some(())
    })
    .await;
}
