//! A map whose keys keep their versions: reading at a number shows the map as it was then.
//!
//! Invariant: for every number that a caller may still read at (the oldest is passed to `put`), the
//! newest version at or below it is kept.

use std::collections::BTreeMap;
use std::ops::Bound;
use std::sync::atomic::{AtomicBool, Ordering};

use fjall::Slice;
use parking_lot::RwLock;

/// One simulated space.
#[derive(Default)]
pub(crate) struct TwinSpace {
    pairs: RwLock<BTreeMap<Slice, Versions>>,
    /// Whether reads find damage.
    damaged: AtomicBool,
}

/// Versions of one key, oldest first; `None` is a deletion.
type Versions = Vec<(u64, Option<Slice>)>;

impl TwinSpace {
    /// Sets `key` at `number`, which is not below any number used before. Versions that nobody who
    /// reads at `oldest` or later can see are forgotten.
    pub(super) fn put(&self, key: Slice, value: Option<Slice>, number: u64, oldest: u64) {
        let mut map = self.pairs.write();
        let versions = map.entry(key).or_default();
        if versions.last().is_some_and(|(last, _)| *last == number) {
            versions.pop();
        }
        versions.push((number, value));
        let unseen = versions.iter().rposition(|(at, _)| *at <= oldest).unwrap_or(0);
        versions.drain(..unseen);
    }

    pub(super) fn get(&self, key: &[u8], at: u64) -> Option<Slice> {
        self.pairs.read().get(key).and_then(|versions| visible(versions, at)).cloned()
    }

    /// The first pair within the bounds.
    pub(super) fn first(&self, bounds: &Bounds, at: u64) -> Option<(Slice, Slice)> {
        let map = self.pairs.read();
        let mut pairs = map.range::<Slice, _>((bounds.0.as_ref(), bounds.1.as_ref()));
        pairs.find_map(|(key, versions)| Some((key.clone(), visible(versions, at)?.clone())))
    }

    /// The last pair within the bounds.
    pub(super) fn last(&self, bounds: &Bounds, at: u64) -> Option<(Slice, Slice)> {
        let map = self.pairs.read();
        let pairs = map.range::<Slice, _>((bounds.0.as_ref(), bounds.1.as_ref()));
        pairs.rev().find_map(|(key, versions)| Some((key.clone(), visible(versions, at)?.clone())))
    }

    /// A copy that holds only what is visible at `at`, under the number 0.
    pub(super) fn copy_at(&self, at: u64) -> TwinSpace {
        let map = self.pairs.read();
        let pairs = map.iter().filter_map(|(key, versions)| {
            let value = visible(versions, at)?.clone();
            Some((key.clone(), vec![(0, Some(value))]))
        });
        let pairs = RwLock::new(pairs.collect());
        TwinSpace { pairs, damaged: AtomicBool::new(self.is_damaged()) }
    }

    pub(super) fn damage(&self) {
        self.damaged.store(true, Ordering::Release);
    }

    pub(super) fn is_damaged(&self) -> bool {
        self.damaged.load(Ordering::Acquire)
    }

    /// Goes back to what was visible at `at`.
    pub(super) fn roll_back(&self, at: u64) {
        let back = self.copy_at(at);
        *self.pairs.write() = back.pairs.into_inner();
    }

    /// Bytes of keys and of all versions of values.
    pub(super) fn bytes(&self) -> u64 {
        let map = self.pairs.read();
        let value = |(_, value): &(u64, Option<Slice>)| value.as_ref().map_or(0, |v| v.len());
        map.iter().map(|(k, v)| (k.len() + v.iter().map(value).sum::<usize>()) as u64).sum()
    }
}

/// From where to where a scan goes.
pub(super) type Bounds = (Bound<Slice>, Bound<Slice>);

fn visible(versions: &Versions, at: u64) -> Option<&Slice> {
    versions.iter().rev().find(|(number, _)| *number <= at)?.1.as_ref()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_that_nobody_can_read_are_forgotten() {
        let space = TwinSpace::default();
        for number in 1..=1000u64 {
            let value = Slice::from(number.to_be_bytes());
            space.put(Slice::from("k"), Some(value), number, number.saturating_sub(3));
        }
        assert_eq!(space.pairs.read()["k".as_bytes()].len(), 4);
        for number in 997..=1000u64 {
            assert_eq!(space.get(b"k", number).unwrap(), number.to_be_bytes());
        }
    }
}
