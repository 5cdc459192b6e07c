//! Pairs in memory: one buffer for all bytes, one small entry for each pair, no allocation per pair.

use std::cmp::Ordering;

/// Bytes of an entry beside the pair's own.
const ENTRY_BYTES: usize = size_of::<Entry>();

pub(super) struct Arena {
    bytes: Vec<u8>,
    entries: Vec<Entry>,
    /// Bound for `bytes` and `entries` together.
    limit: usize,
}

#[derive(Clone, Copy)]
struct Entry {
    /// The key's first eight bytes: most comparisons end here, without touching the buffer.
    head: u64,
    /// Where the key begins in the buffer. Ascends with pushing, which makes the sort stable.
    start: usize,
    key_len: u32,
    value_len: u32,
}

impl Arena {
    pub(super) fn new(limit: usize) -> Arena {
        Arena { bytes: Vec::new(), entries: Vec::new(), limit }
    }

    /// Whether a pair can be added. An empty arena takes any pair.
    pub(super) fn fits(&self, key: &[u8], value: &[u8]) -> bool {
        let used = self.bytes.len() + self.entries.len() * ENTRY_BYTES;
        self.entries.is_empty() || used + key.len() + value.len() + ENTRY_BYTES <= self.limit
    }

    pub(super) fn push(&mut self, key: &[u8], value: &[u8]) {
        reserve(&mut self.bytes, key.len() + value.len(), self.limit);
        reserve(&mut self.entries, 1, self.limit / ENTRY_BYTES);
        self.entries.push(Entry {
            head: head(key),
            start: self.bytes.len(),
            key_len: key.len() as u32,
            value_len: value.len() as u32,
        });
        self.bytes.extend_from_slice(key);
        self.bytes.extend_from_slice(value);
    }

    pub(super) fn sort(&mut self) {
        let bytes = &self.bytes;
        self.entries.sort_unstable_by(|a, b| match a.head.cmp(&b.head) {
            Ordering::Equal => a.key(bytes).cmp(b.key(bytes)).then(a.start.cmp(&b.start)),
            different => different,
        });
    }

    pub(super) fn len(&self) -> usize {
        self.entries.len()
    }

    pub(super) fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    pub(super) fn pair(&self, index: usize) -> (&[u8], &[u8]) {
        let entry = self.entries[index];
        let value = entry.start + entry.key_len as usize;
        (entry.key(&self.bytes), &self.bytes[value..value + entry.value_len as usize])
    }

    pub(super) fn clear(&mut self) {
        self.bytes.clear();
        self.entries.clear();
        // A pair longer than the limit must not keep its memory.
        self.bytes.shrink_to(self.limit);
    }
}

impl Entry {
    fn key<'b>(&self, bytes: &'b [u8]) -> &'b [u8] {
        &bytes[self.start..self.start + self.key_len as usize]
    }
}

/// The first eight bytes as a number that compares like them; missing bytes count as zero, and keys
/// that are equal so far are compared in full.
fn head(key: &[u8]) -> u64 {
    let mut bytes = [0; 8];
    let len = key.len().min(8);
    bytes[..len].copy_from_slice(&key[..len]);
    u64::from_be_bytes(bytes)
}

/// Makes room for `more`, doubling as usual but never beyond `limit` unless `more` needs it.
fn reserve<T>(vec: &mut Vec<T>, more: usize, limit: usize) {
    let needed = vec.len() + more;
    if needed > vec.capacity() {
        let target = (vec.capacity() * 2).max(64).min(limit).max(needed);
        vec.reserve_exact(target - vec.len());
    }
}
