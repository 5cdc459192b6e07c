//! Wake-ups: which buckets, lookups and write checkpoints a publication changed.
//!
//! A surface notes the number of the publication it has answered and asks what changed since.
//! Names are hashes: a collision wakes somebody for nothing and is otherwise harmless. Which entries of a
//! lookup came and went stands beside them under the whole key ([`crate::moved`]). The ring is bounded;
//! behind it the answer is "everything".

use crate::moved::{Moved, Movement, Net};
use parking_lot::Mutex;
use std::collections::{HashMap, HashSet, VecDeque};
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
    /// With what came and went under it.
    pub lookups: HashMap<LookupKey, Moved, foldhash::fast::RandomState>,
    pub users: HashSet<String>,
    /// Set when a list was cut short or the definitions changed.
    pub everything: bool,
    /// Bytes of the entries of lookups that are kept.
    pub kept_bytes: usize,
}

impl Touched {
    /// Above this many entries a publication counts as "everything".
    const LIMIT: usize = 200_000;
    /// Bytes of entries that a publication keeps; of further ones it is only known that they moved.
    const KEPT_BYTES: usize = 1 << 20;

    fn weight(&self) -> usize {
        self.buckets.len() + self.lookups.len() + self.users.len()
    }

    /// What the ring holds with it, in entries of a set.
    fn held(&self) -> usize {
        self.weight() + 1 + self.kept_bytes / 16
    }

    /// Notes a changed bucket.
    pub fn bucket(&mut self, key: BucketKey) {
        if !self.everything {
            self.buckets.insert(key);
            self.cut();
        }
    }

    /// Notes an entry of a lookup that comes or goes.
    pub fn entry(&mut self, movement: Movement<'_>) {
        if !self.everything {
            let name = LookupKey::new(movement.lookup, movement.key);
            let moved = self.lookups.entry(name).or_default();
            self.kept_bytes += moved.note(movement, Self::KEPT_BYTES - self.kept_bytes);
            self.cut();
        }
    }

    /// Adds what was changed behind it.
    pub fn append(&mut self, later: Touched) {
        self.everything |= later.everything;
        self.users.extend(later.users);
        self.buckets.extend(later.buckets);
        for (key, moved) in later.lookups {
            self.lookups.entry(key).or_default().append(moved);
        }
        self.kept_bytes += later.kept_bytes;
        self.cut();
    }

    fn cut(&mut self) {
        if self.weight() > Self::LIMIT {
            self.buckets = HashSet::default();
            self.lookups = HashMap::default();
            self.kept_bytes = 0;
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
        ring.weight += touched.held();
        ring.publications.push_back((number, Arc::new(touched)));
        while ring.weight > Self::LIMIT && ring.publications.len() > 1 {
            if let Some((_, dropped)) = ring.publications.pop_front() {
                ring.weight -= dropped.held();
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
        self.publications.iter().flat_map(|t| t.lookups.keys().copied())
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
        self.everything || self.publications.iter().any(|t| t.lookups.contains_key(&key))
    }

    /// Whether entries of a lookup (an incarnation) may have come or gone, under whatever key.
    pub(crate) fn lookup_touched(&self, lookup: u32) -> bool {
        let mut moved = self.publications.iter().flat_map(|t| t.lookups.values());
        self.everything || moved.any(|moved| moved.is_of(lookup))
    }

    /// The entries of a lookup (an incarnation) that came and went under a key; `None` when that is not
    /// known.
    pub(crate) fn moved(&self, lookup: u32, key: &[u8]) -> Option<Net<'_>> {
        if self.everything {
            return None;
        }
        let name = LookupKey::new(lookup, key);
        let mut net = Net::default();
        for moved in self.publications.iter().filter_map(|t| t.lookups.get(&name)) {
            moved.add_to(&mut net, lookup, key)?;
        }
        Some(net)
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
