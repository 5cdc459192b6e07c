//! Merging sorted runs with a heap of their next keys.
//!
//! Invariant: `heap[0]` is the run with the smallest next key, the oldest of several; every run in
//! the heap has its next pair in memory.

use std::cmp::Ordering;

use super::{Pair, append_pair, split_pair};
use crate::StoreError;
use crate::segment::{Segment, SegmentReader, SegmentWriter, SpoolDir};

pub(super) struct Merge {
    runs: Vec<Run>,
    /// Indices into `runs`.
    heap: Vec<usize>,
    /// Whether the pair of `heap[0]` has been given out.
    taken: bool,
}

struct Run {
    reader: SegmentReader,
    /// The pair that comes next, copied out of the reader's window so that runs can be compared.
    pair: Vec<u8>,
    key_len: usize,
}

impl Merge {
    /// Merges `runs`, in the order in which they were pushed.
    pub(super) fn new(runs: &[Segment], window: usize) -> Result<Merge, StoreError> {
        let mut merge =
            Merge { runs: Vec::with_capacity(runs.len()), heap: Vec::new(), taken: false };
        for run in runs {
            let reader = run.reader().with_window(window);
            let mut run = Run { reader, pair: Vec::new(), key_len: 0 };
            if run.advance()? {
                merge.heap.push(merge.runs.len());
                merge.runs.push(run);
            }
        }
        for index in (0..merge.heap.len() / 2).rev() {
            merge.sift_down(index);
        }
        Ok(merge)
    }

    pub(super) fn next(&mut self) -> Result<Option<Pair<'_>>, StoreError> {
        if self.taken {
            self.taken = false;
            let first = self.heap[0];
            if !self.runs[first].advance()? {
                self.heap.swap_remove(0);
            }
            self.sift_down(0);
        }
        let Some(first) = self.heap.first() else { return Ok(None) };
        self.taken = true;
        let run = &self.runs[*first];
        Ok(Some(run.pair.split_at(run.key_len)))
    }

    fn sift_down(&mut self, mut parent: usize) {
        loop {
            let left = 2 * parent + 1;
            if left >= self.heap.len() {
                return;
            }
            let right = left + 1;
            let child =
                if right < self.heap.len() && self.precedes(right, left) { right } else { left };
            if !self.precedes(child, parent) {
                return;
            }
            self.heap.swap(child, parent);
            parent = child;
        }
    }

    /// Whether the run at one place of the heap comes before that at another.
    fn precedes(&self, a: usize, b: usize) -> bool {
        let (a, b) = (self.heap[a], self.heap[b]);
        self.runs[a].key().cmp(self.runs[b].key()).then(a.cmp(&b)) == Ordering::Less
    }
}

impl Run {
    fn key(&self) -> &[u8] {
        &self.pair[..self.key_len]
    }

    /// Loads the next pair; false when the run has ended.
    fn advance(&mut self) -> Result<bool, StoreError> {
        let Some(record) = self.reader.next_record()? else { return Ok(false) };
        let Some((key, value)) = split_pair(record) else {
            return Err(StoreError::damaged("a sorted run holds a record that is no pair"));
        };
        self.key_len = key.len();
        self.pair.clear();
        self.pair.extend_from_slice(key);
        self.pair.extend_from_slice(value);
        Ok(true)
    }
}

/// Merges `runs` into one new run and lets go of them.
pub(super) fn merge_into_one(
    spool: &SpoolDir,
    runs: Vec<Segment>,
    window: usize,
) -> Result<Segment, StoreError> {
    let mut merge = Merge::new(&runs, window)?;
    drop(runs);
    let mut merged = SegmentWriter::create(spool, "sort")?;
    while let Some((key, value)) = merge.next()? {
        append_pair(&mut merged, key, value)?;
    }
    merged.finish()
}
