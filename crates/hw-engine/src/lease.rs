//! Leases: what readers still need, so that nothing is removed under them.
//!
//! Whoever reads longer than one poll takes a lease on the position that it reads at; compaction
//! removes only what was superseded at or before the oldest of them (`design/engine.md` 14). A
//! lease is a courtesy, not a right: after [`Leases::LONGEST`] it no longer counts, and a reader that
//! comes too late is told so by the bucket itself and reads at a newer position.

use hw_types::OpId;
use parking_lot::Mutex;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::{Duration, Instant};

/// All leases of a process.
#[derive(Debug, Default)]
pub struct Leases {
    held: Mutex<BTreeMap<OpId, Held>>,
}

/// The readers at one position.
#[derive(Debug)]
struct Held {
    readers: usize,
    /// When the last of them came.
    taken: Instant,
}

/// One reader's lease, until it is dropped.
#[derive(Debug)]
pub struct Lease {
    leases: Arc<Leases>,
    op_id: OpId,
}

impl Leases {
    /// How long a lease counts. A socket that takes a checkpoint more slowly is moved to a newer one.
    pub const LONGEST: Duration = Duration::from_secs(60);

    /// Leases the state at `op_id`.
    pub fn take(self: &Arc<Leases>, op_id: OpId) -> Lease {
        let now = Instant::now();
        let mut held = self.held.lock();
        let entry = held.entry(op_id).or_insert(Held { readers: 0, taken: now });
        entry.readers += 1;
        entry.taken = now;
        Lease { leases: self.clone(), op_id }
    }

    /// The oldest position that somebody still reads.
    pub fn oldest(&self) -> Option<OpId> {
        self.oldest_at(Instant::now())
    }

    fn oldest_at(&self, now: Instant) -> Option<OpId> {
        let held = self.held.lock();
        let mut counting = held
            .iter()
            .filter(|(_, held)| now.saturating_duration_since(held.taken) < Leases::LONGEST);
        counting.next().map(|(op_id, _)| *op_id)
    }
}

impl Drop for Lease {
    fn drop(&mut self) {
        let mut held = self.leases.held.lock();
        if let Some(entry) = held.get_mut(&self.op_id) {
            entry.readers -= 1;
            if entry.readers == 0 {
                held.remove(&self.op_id);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_oldest_lease_counts_until_its_last_reader_has_gone_or_its_time_is_over() {
        let leases = Arc::new(Leases::default());
        assert_eq!(leases.oldest(), None);
        let (a, b) = (leases.take(OpId(5)), leases.take(OpId(5)));
        let newer = leases.take(OpId(9));
        drop(a);
        assert_eq!(leases.oldest(), Some(OpId(5)));
        let later = Instant::now() + Leases::LONGEST;
        assert_eq!(leases.oldest_at(later), None);
        drop(b);
        assert_eq!(leases.oldest(), Some(OpId(9)));
        drop(newer);
        assert_eq!(leases.oldest(), None);
    }
}
