//! Places where a test can kill the process: `HEADWATER_FAILPOINT=name:n` aborts at the n-th
//! time that the place is reached. Costs one load of a static where it is not set.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static SET: OnceLock<Option<(String, u64)>> = OnceLock::new();
static COUNT: AtomicU64 = AtomicU64::new(0);

/// Aborts here if the environment says so: no destructors, no flushing, as `kill -9` would.
pub(crate) fn reached(name: &str) {
    let set = SET.get_or_init(|| {
        let text = std::env::var("HEADWATER_FAILPOINT").ok()?;
        let (name, count) = text.rsplit_once(':')?;
        Some((name.to_owned(), count.parse().ok()?))
    });
    if let Some((wanted, at)) = set
        && wanted == name
        && COUNT.fetch_add(1, Ordering::Relaxed) + 1 == *at
    {
        tracing::error!(name, at, "failpoint reached; the process aborts");
        std::process::abort();
    }
}
