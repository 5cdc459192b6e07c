//! Places where a test can end the process or a part of it. Costs one load of a static where none is set.
//!
//! `HEADWATER_FAILPOINT=name:n` takes effect at the n-th time that the place is reached: the process
//! aborts, as `kill -9` would end it. With `name:n:panic` that part of it panics, with `name:n:hang` it
//! stands still for good.

use std::sync::OnceLock;
use std::sync::atomic::{AtomicU64, Ordering};

static SET: OnceLock<Option<Failpoint>> = OnceLock::new();
static COUNT: AtomicU64 = AtomicU64::new(0);

#[derive(Debug, PartialEq, Eq)]
struct Failpoint {
    name: String,
    at: u64,
    how: How,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum How {
    Abort,
    Panic,
    Hang,
}

impl Failpoint {
    fn parse(text: &str) -> Option<Failpoint> {
        let ways = [(":panic", How::Panic), (":hang", How::Hang)];
        let way = ways.into_iter().find_map(|(end, how)| Some((text.strip_suffix(end)?, how)));
        let (text, how) = way.unwrap_or((text, How::Abort));
        let (name, at) = text.rsplit_once(':')?;
        Some(Failpoint { name: name.to_owned(), at: at.parse().ok()?, how })
    }
}

/// Does here what the environment says.
pub fn reached(name: &str) {
    let set = SET.get_or_init(|| Failpoint::parse(&std::env::var("HEADWATER_FAILPOINT").ok()?));
    let Some(Failpoint { name: wanted, at, how }) = set else { return };
    if wanted != name || COUNT.fetch_add(1, Ordering::Relaxed) + 1 != *at {
        return;
    }
    tracing::error!(name, at, ?how, "failpoint reached");
    match how {
        // No destructors, no flushing.
        How::Abort => std::process::abort(),
        How::Panic => panic!("failpoint {name}"),
        How::Hang => loop {
            std::thread::park();
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_failpoint_has_a_name_a_number_and_perhaps_a_way() {
        let check = |text: &str, expected: Option<(&str, u64, How)>| {
            let expected = expected.map(|(name, at, how)| Failpoint { name: name.into(), at, how });
            assert_eq!(Failpoint::parse(text), expected, "{text}");
        };
        check("large::after_cut:3", Some(("large::after_cut", 3, How::Abort)));
        check("writer::after_commit:1:panic", Some(("writer::after_commit", 1, How::Panic)));
        check("writer::after_commit:1:hang", Some(("writer::after_commit", 1, How::Hang)));
        check("writer::after_commit", None);
        check("", None);
    }
}
