//! Wake-ups: which buckets, lookups and write checkpoints a publication changed.
//!
//! A surface notes the number of the publication it has answered and asks what changed since.
//! Entries are hashes: a collision wakes somebody for nothing and is otherwise harmless. The
//! ring is bounded; behind it the answer is "everything".

use parking_lot::Mutex;
use std::collections::{HashSet, VecDeque};
use std::hash::BuildHasher;
use std::sync::Arc;

/// Names a bucket (source incarnation and parameters) in wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct BucketKey(pub(crate) u64);

/// Names one key of one lookup in wake-ups.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct LookupKey(pub(crate) u64);

impl BucketKey {
    pub(crate) fn new(source: u32, parameters: &str) -> BucketKey {
        BucketKey(hash(&(source, parameters)))
    }
}

impl LookupKey {
    pub(crate) fn new(lookup: u32, key: &[u8]) -> LookupKey {
        LookupKey(hash(&(lookup, key)))
    }
}

fn hash<T: std::hash::Hash>(value: &T) -> u64 {
    foldhash::fast::FixedState::with_seed(0x6865_6164).hash_one(value)
}

/// What one publication changed.
#[derive(Clone, Debug, Default)]
pub(crate) struct Touched {
    pub buckets: HashSet<BucketKey, foldhash::fast::RandomState>,
    pub lookups: HashSet<LookupKey, foldhash::fast::RandomState>,
    pub users: HashSet<String>,
    /// Set when a list was cut short or the definitions changed.
    pub everything: bool,
}

impl Touched {
    /// Above this many entries a publication counts as "everything".
    const LIMIT: usize = 200_000;

    fn weight(&self) -> usize {
        self.buckets.len() + self.lookups.len() + self.users.len()
    }

    /// Notes a changed bucket.
    pub fn bucket(&mut self, key: BucketKey) {
        if !self.everything {
            self.buckets.insert(key);
            self.cut();
        }
    }

    /// Notes a changed lookup key.
    pub fn lookup(&mut self, key: LookupKey) {
        if !self.everything {
            self.lookups.insert(key);
            self.cut();
        }
    }

    fn cut(&mut self) {
        if self.weight() > Self::LIMIT {
            self.buckets = HashSet::default();
            self.lookups = HashSet::default();
            self.everything = true;
        }
    }
}

/// The last publications' changes.
#[derive(Default)]
pub(crate) struct ChangeRing {
    entries: Mutex<Ring>,
}

#[derive(Default)]
struct Ring {
    /// (publication number, what it changed), ascending without gaps.
    publications: VecDeque<(u64, Arc<Touched>)>,
    weight: usize,
}

impl ChangeRing {
    const LIMIT: usize = 400_000;

    /// Appends publication `number`.
    pub fn push(&self, number: u64, touched: Touched) {
        let mut ring = self.entries.lock();
        ring.weight += touched.weight() + 1;
        ring.publications.push_back((number, Arc::new(touched)));
        while ring.weight > Self::LIMIT && ring.publications.len() > 1 {
            if let Some((_, dropped)) = ring.publications.pop_front() {
                ring.weight -= dropped.weight() + 1;
            }
        }
    }

    /// What publications in (`after`, `until`] changed.
    pub fn between(&self, after: u64, until: u64) -> Changes {
        if after >= until {
            return Changes { publications: Vec::new(), everything: false };
        }
        let ring = self.entries.lock();
        let reaches = ring.publications.front().is_some_and(|(first, _)| *first <= after + 1);
        let start = ring.publications.partition_point(|(number, _)| *number <= after);
        let publications: Vec<Arc<Touched>> = ring
            .publications
            .range(start..)
            .take_while(|(number, _)| *number <= until)
            .map(|(_, touched)| touched.clone())
            .collect();
        let everything = !reaches || publications.iter().any(|t| t.everything);
        Changes { publications, everything }
    }
}

/// What changed between two publications.
#[derive(Clone, Debug)]
pub struct Changes {
    publications: Vec<Arc<Touched>>,
    everything: bool,
}

impl Changes {
    /// Whether the record no longer reaches back (or the definitions changed): everything must
    /// be looked at again.
    pub fn everything(&self) -> bool {
        self.everything
    }

    /// The buckets that changed; some may be named twice.
    pub fn buckets(&self) -> impl Iterator<Item = BucketKey> + '_ {
        self.publications.iter().flat_map(|t| t.buckets.iter().copied())
    }

    /// The lookup keys whose results changed; some may be named twice.
    pub fn lookups(&self) -> impl Iterator<Item = LookupKey> + '_ {
        self.publications.iter().flat_map(|t| t.lookups.iter().copied())
    }

    /// The user keys whose write checkpoint changed; some may be named twice.
    pub fn users(&self) -> impl Iterator<Item = &str> + '_ {
        self.publications.iter().flat_map(|t| t.users.iter().map(String::as_str))
    }

    /// Whether the bucket may have changed.
    pub fn bucket_changed(&self, key: BucketKey) -> bool {
        self.everything || self.publications.iter().any(|t| t.buckets.contains(&key))
    }

    /// Whether the results under a lookup key may have changed.
    pub fn lookup_changed(&self, key: LookupKey) -> bool {
        self.everything || self.publications.iter().any(|t| t.lookups.contains(&key))
    }

    /// Whether the write checkpoint of a user key may have changed.
    pub fn write_checkpoint_changed(&self, user_key: &str) -> bool {
        self.everything || self.publications.iter().any(|t| t.users.contains(user_key))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn changes_are_told_apart_and_a_ring_that_is_left_behind_says_everything() {
        let ring = ChangeRing::default();
        let (a, b) = (BucketKey::new(1, "[\"a\"]"), BucketKey::new(1, "[\"b\"]"));
        for (number, key) in [(1, a), (2, b)] {
            let mut touched = Touched::default();
            touched.bucket(key);
            ring.push(number, touched);
        }
        let both = ring.between(0, 2);
        assert!(both.bucket_changed(a) && both.bucket_changed(b));
        let second = ring.between(1, 2);
        assert!(!second.bucket_changed(a) && second.bucket_changed(b) && !second.everything());
        for number in 3..500_000 {
            ring.push(number, Touched::default());
        }
        assert!(ring.between(1, 5).everything());
        assert!(!ring.between(499_990, 499_999).everything());
    }
}
