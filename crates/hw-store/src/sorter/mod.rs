//! External merge sort of (key, value) pairs in bounded memory.
//!
//! Pairs are collected in one buffer; when it is full it is sorted and written as a run, a segment
//! of the spool. Runs are merged with one window of each in memory, in several passes when there are
//! more than fit. What fits into the buffer never touches the disk. Equal keys come out in the order
//! in which they went in.

mod arena;
mod merge;

use std::sync::Arc;

use self::arena::Arena;
use self::merge::{Merge, merge_into_one};
use crate::StoreError;
use crate::segment::{Purpose, Segment, SegmentWriter, SpoolDir};

/// Bytes of a run in memory while merging, if the memory allows.
const WINDOW_BYTES: usize = 64 << 10;

/// Runs merged at a time: each takes a file handle and a window.
const MAX_RUNS: usize = 128;

/// Collects pairs to be sorted by key.
pub struct Sorter {
    spool: SpoolDir,
    memory_bytes: usize,
    arena: Arena,
    /// Sorted runs, each wholly pushed before the next one.
    runs: Vec<Segment>,
    records: u64,
    bytes: u64,
}

impl Sorter {
    /// An empty sorter whose runs take room for sorting in `spool`, and that holds at most about `memory_bytes` in memory (one pair that is longer
    /// is held alone).
    pub fn new(spool: &SpoolDir, memory_bytes: usize) -> Sorter {
        Sorter {
            spool: spool.of(Purpose::Sorting),
            memory_bytes,
            arena: Arena::new(memory_bytes),
            runs: Vec::new(),
            records: 0,
            bytes: 0,
        }
    }

    /// Adds a pair.
    ///
    /// - Errors: those of writing a run: `SpoolFull`, `Full`, `Io`. The pair is then not added; after
    ///   `SpoolFull` it can be tried again.
    pub fn push(&mut self, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
        if !self.arena.fits(key, value) {
            self.spill()?;
        }
        self.arena.push(key, value);
        self.records += 1;
        self.bytes += (key.len() + value.len()) as u64;
        Ok(())
    }

    /// Pairs pushed so far.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of all keys and values pushed so far.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Sorts what was pushed.
    pub fn finish(mut self) -> Result<SortedRuns, StoreError> {
        let (records, bytes) = (self.records, self.bytes);
        if self.runs.is_empty() {
            self.arena.sort();
            return Ok(SortedRuns { source: Source::Memory(Arc::new(self.arena)), records, bytes });
        }
        self.spill()?;
        // The buffer's memory goes to the windows of the merge.
        self.arena = Arena::new(0);
        let fan_in = (self.memory_bytes / WINDOW_BYTES).clamp(2, MAX_RUNS);
        let window = (self.memory_bytes / fan_in).clamp(1 << 10, WINDOW_BYTES);
        let mut runs = self.runs;
        while runs.len() > fan_in {
            // Neighbours are merged, so that the order of runs stays the order of pushing.
            let mut merged = Vec::with_capacity(runs.len().div_ceil(fan_in));
            let mut rest = runs.into_iter();
            loop {
                let group: Vec<Segment> = rest.by_ref().take(fan_in).collect();
                match group.len() {
                    0 => break,
                    1 => merged.extend(group),
                    _ => merged.push(merge_into_one(&self.spool, group, window)?),
                }
            }
            runs = merged;
        }
        Ok(SortedRuns { source: Source::Runs { runs, window }, records, bytes })
    }

    fn spill(&mut self) -> Result<(), StoreError> {
        if self.arena.is_empty() {
            return Ok(());
        }
        self.arena.sort();
        let mut run = SegmentWriter::create(&self.spool, "sort")?;
        for index in 0..self.arena.len() {
            let (key, value) = self.arena.pair(index);
            append_pair(&mut run, key, value)?;
        }
        self.runs.push(run.finish()?);
        self.arena.clear();
        Ok(())
    }
}

/// A finished sort; can be read several times.
pub struct SortedRuns {
    source: Source,
    records: u64,
    bytes: u64,
}

enum Source {
    Memory(Arc<Arena>),
    Runs { runs: Vec<Segment>, window: usize },
}

impl SortedRuns {
    /// How many pairs there are.
    pub fn records(&self) -> u64 {
        self.records
    }

    /// Bytes of all keys and values.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether runs on disk were needed.
    pub fn is_on_disk(&self) -> bool {
        matches!(self.source, Source::Runs { .. })
    }

    /// Reads from the smallest key on. Outlives the `SortedRuns`.
    pub fn cursor(&self) -> Result<SortedCursor, StoreError> {
        Ok(SortedCursor(match &self.source {
            Source::Memory(arena) => Cursor::Memory { arena: arena.clone(), next: 0 },
            Source::Runs { runs, window } => Cursor::Merge(Merge::new(runs, *window)?),
        }))
    }
}

/// Key and value, lent by a cursor.
pub type Pair<'c> = (&'c [u8], &'c [u8]);

/// Pairs in ascending order of keys, equal keys in the order of pushing.
pub struct SortedCursor(Cursor);

enum Cursor {
    Memory { arena: Arc<Arena>, next: usize },
    Merge(Merge),
}

impl SortedCursor {
    /// The next pair, valid until the next call; `None` behind the last one.
    ///
    /// - Errors: `Damaged`, `Io` of a run.
    #[allow(clippy::should_implement_trait)] // Lends from its own buffers, as an iterator cannot.
    pub fn next(&mut self) -> Result<Option<Pair<'_>>, StoreError> {
        match &mut self.0 {
            Cursor::Memory { arena, next } => {
                if *next == arena.len() {
                    return Ok(None);
                }
                *next += 1;
                Ok(Some(arena.pair(*next - 1)))
            }
            Cursor::Merge(merge) => merge.next(),
        }
    }
}

/// A pair is one record: the key's length, the key, the value.
fn append_pair(run: &mut SegmentWriter, key: &[u8], value: &[u8]) -> Result<(), StoreError> {
    run.append_parts(&[&(key.len() as u32).to_le_bytes(), key, value])?;
    Ok(())
}

/// The parts of such a record.
fn split_pair(record: &[u8]) -> Option<(&[u8], &[u8])> {
    let (len, rest) = record.split_first_chunk::<4>()?;
    rest.split_at_checked(u32::from_le_bytes(*len) as usize)
}
