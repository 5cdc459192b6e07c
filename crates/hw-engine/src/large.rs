//! Steps that do not fit one store commit: large transactions, tables that enter.
//!
//! Such a step is first evaluated whole against the state behind its predecessor; the resulting
//! writes (absolute values, op ids given) go to a spool; one commit marks them *decided*; then
//! they are applied: in cut commits, each with its cursor (`design/engine.md` 7.4), or in bulk.
//! After a crash undecided writes are gone and the step is evaluated anew when it arrives; decided
//! ones go on at the cursor, or from the first one when they were being loaded. So "before" is never read from half-overwritten rows, and nothing is published
//! until the step is complete.

use crate::beat::Beat;
use crate::error::EngineError;
use crate::lost::Lost;
use crate::overlay::{Overlay, Sink};
use crate::record::take;
use crate::state::{Record, keys};
use hw_process::failpoint;
use hw_store::segment::{Purpose, Segment, SegmentWriter};
use hw_store::sorter::Sorter;
use hw_store::{Batch, BulkLoad, Space, Store};
use hw_types::varint;
use std::collections::HashMap;

/// Name of the durable segment of decided writes. There is one step at a time.
const SEGMENT: &str = "decided";

/// Bounds of one cut commit.
const CUT_BYTES: usize = 4 << 20;
const CUT_WRITES: usize = 2_000;

/// A step with more writes than this is loaded in bulk. Low in tests, so that both ways are taken.
const BULK_WRITES: u64 = if cfg!(test) { 40 } else { 50_000 };

/// Memory of the sort in front of a bulk load.
const BULK_SORT_BYTES: usize = 48 << 20;

/// The mark that a step's writes are decided, with how far they are applied.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Decided {
    /// Writes in the segment.
    pub writes: u64,
    /// Writes applied.
    pub cursor: u64,
}

impl Record for Decided {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.writes);
        varint::put(out, self.cursor);
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        Some(Decided { writes: varint::take(input)?, cursor: varint::take(input)? })
    }
}

const PUT: u8 = 1;
const DELETE: u8 = 2;

/// Collects a step's writes in a segment.
pub(crate) struct DecidedSink<'a> {
    base: &'a Overlay,
    beat: Beat,
    segment: SegmentWriter,
    writes: u64,
    record: Vec<u8>,
}

impl<'a> DecidedSink<'a> {
    /// Starts a step. `base` has no pending writes.
    pub fn new(base: &'a Overlay, beat: &Beat) -> Result<DecidedSink<'a>, EngineError> {
        let segment = SegmentWriter::create(&base.store().spool().of(Purpose::Decided), SEGMENT)?;
        Ok(DecidedSink { base, beat: beat.clone(), segment, writes: 0, record: Vec::new() })
    }

    fn write(
        &mut self,
        space: &Space,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), EngineError> {
        self.beat.count();
        self.record.clear();
        self.record.push(if value.is_some() { PUT } else { DELETE });
        varint::put_bytes(&mut self.record, space.name().as_bytes());
        varint::put_bytes(&mut self.record, key);
        self.record.extend_from_slice(value.unwrap_or_default());
        self.segment.append(&self.record)?;
        self.writes += 1;
        Ok(())
    }

    /// Decides: from here on the step happens, whatever crashes.
    pub fn decide(self, state: &Space) -> Result<(), EngineError> {
        let store = self.base.store();
        let segment = self.segment.finish()?;
        segment.persist(SEGMENT)?;
        let mut batch = Batch::new();
        Decided { writes: self.writes, cursor: 0 }.save(&mut batch, state, keys::DECIDED);
        store.commit(batch)?;
        store.sync()?;
        apply(store, state, segment, (&Lost::default(), &self.beat))
    }
}

impl Sink for DecidedSink<'_> {
    fn base(&self) -> &Overlay {
        self.base
    }

    fn put(&mut self, space: &Space, key: Vec<u8>, value: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, &key, Some(&value))
    }

    fn append(&mut self, space: &Space, key: &[u8], value: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, key, Some(&value))
    }

    fn delete(&mut self, space: &Space, key: Vec<u8>) -> Result<(), EngineError> {
        self.write(space, &key, None)
    }
}

/// At start: finishes a decided step, or throws away what was not decided. Writes to spaces that
/// are lost are passed over.
pub(crate) fn resume(
    store: &Store,
    state: &Space,
    lost: &Lost,
    beat: &Beat,
) -> Result<(), EngineError> {
    let decided = Decided::load(&store.snapshot(), state, keys::DECIDED)?;
    let segment = store.spool().persisted(SEGMENT)?;
    match (decided, segment) {
        (Some(_), Some(segment)) => {
            tracing::info!("a large step that was decided before the stop is finished");
            apply(store, state, segment, (lost, beat))
        }
        (Some(_), None) => Err(EngineError::damaged("spool", "decided writes are missing")),
        (None, Some(segment)) => Ok(segment.discard()?),
        (None, None) => Ok(()),
    }
}

/// Applies decided writes: a few in cut commits, many by bulk loads.
fn apply(
    store: &Store,
    state: &Space,
    segment: Segment,
    by: (&Lost, &Beat),
) -> Result<(), EngineError> {
    let decided = Decided::load(&store.snapshot(), state, keys::DECIDED)?
        .ok_or_else(|| damaged("no mark for decided writes"))?;
    if decided.writes > BULK_WRITES {
        apply_bulk(store, state, &segment, decided, by)?;
    } else {
        apply_cut(store, state, &segment, decided, by)?;
    }
    // The segment may go only when the writes it holds are durable.
    store.sync()?;
    Ok(segment.discard()?)
}

fn damaged(what: &'static str) -> EngineError {
    EngineError::damaged("spool", what)
}

/// One decided write.
struct Write<'a> {
    space: &'a str,
    key: &'a [u8],
    /// `None` removes the key.
    value: Option<&'a [u8]>,
}

/// Reads a decided write; a door of [`crate::fuzzing`].
pub(crate) fn fuzz_write(record: &[u8]) {
    let _ = read(record);
}

fn read(mut record: &[u8]) -> Result<Write<'_>, EngineError> {
    let kind = take(&mut record, 1).ok_or_else(|| damaged("write"))?[0];
    let space = varint::take_bytes(&mut record).ok_or_else(|| damaged("write"))?;
    let space = std::str::from_utf8(space).map_err(|_| damaged("write"))?;
    let key = varint::take_bytes(&mut record).ok_or_else(|| damaged("write"))?;
    match kind {
        PUT => Ok(Write { space, key, value: Some(record) }),
        DELETE => Ok(Write { space, key, value: None }),
        _ => Err(damaged("write")),
    }
}

/// Applies the writes behind the cursor in cut commits; the last one removes the mark.
fn apply_cut(
    store: &Store,
    state: &Space,
    segment: &Segment,
    mut decided: Decided,
    (lost, beat): (&Lost, &Beat),
) -> Result<(), EngineError> {
    let mut spaces: HashMap<String, Space> = HashMap::new();
    let mut batch = Batch::new();
    let mut place = 0u64;
    let mut reader = segment.reader();
    while let Some(record) = reader.next_record()? {
        beat.count();
        place += 1;
        if place <= decided.cursor {
            continue;
        }
        let write = read(record)?;
        if !lost.contains(write.space) {
            if !spaces.contains_key(write.space) {
                spaces.insert(write.space.to_owned(), store.space(write.space)?);
            }
            let space = &spaces[write.space];
            match write.value {
                Some(value) => batch.put(space, write.key, value),
                None => batch.delete(space, write.key),
            }
        }
        let last = place == decided.writes;
        if last || batch.len() >= CUT_WRITES || batch.bytes() >= CUT_BYTES as u64 {
            decided.cursor = place;
            if last {
                batch.delete(state, keys::DECIDED);
            } else {
                decided.save(&mut batch, state, keys::DECIDED);
            }
            store.commit(std::mem::replace(&mut batch, Batch::new()))?;
            failpoint::reached("large::after_cut");
        }
    }
    if place == decided.writes { Ok(()) } else { Err(damaged("decided writes end too soon")) }
}

/// Sorts the writes by space and key and loads each space's in one go. The writes are absolute,
/// so a crash in between begins again from the first one.
///
/// Not through commits: while the published snapshot is held, every memory table that is flushed
/// stays in memory with it, and a step of millions of rows would pass any bound (E-5).
fn apply_bulk(
    store: &Store,
    state: &Space,
    segment: &Segment,
    decided: Decided,
    (lost, beat): (&Lost, &Beat),
) -> Result<(), EngineError> {
    let mut sorter = Sorter::new(store.spool(), BULK_SORT_BYTES);
    let mut names: Vec<String> = Vec::new();
    let (mut key, mut value) = (Vec::new(), Vec::new());
    let mut reader = segment.reader();
    let mut count = 0u64;
    while let Some(record) = reader.next_record()? {
        beat.count();
        count += 1;
        let write = read(record)?;
        if lost.contains(write.space) {
            continue;
        }
        let place = match names.iter().position(|name| name == write.space) {
            Some(place) => place,
            None => {
                names.push(write.space.to_owned());
                names.len() - 1
            }
        };
        key.clear();
        key.extend_from_slice(&(place as u16).to_be_bytes());
        key.extend_from_slice(write.key);
        value.clear();
        value.push(if write.value.is_some() { PUT } else { DELETE });
        value.extend_from_slice(write.value.unwrap_or_default());
        sorter.push(&key, &value)?;
    }
    if count != decided.writes {
        return Err(damaged("decided writes end too soon"));
    }
    let runs = sorter.finish()?;
    let mut loader = Loader { store, names: &names, open: None, removals: Batch::new() };
    let mut cursor = runs.cursor()?;
    // Of several writes to one key the last one counts; the sorter keeps their order.
    let mut waiting: Option<(Vec<u8>, Vec<u8>)> = None;
    while let Some((key, value)) = cursor.next()? {
        beat.count();
        if let Some((before, last)) = waiting.take()
            && before != key
        {
            loader.write(&before, &last)?;
        }
        waiting = Some((key.to_vec(), value.to_vec()));
    }
    if let Some((key, value)) = waiting {
        loader.write(&key, &value)?;
    }
    let mut last = loader.finish()?;
    last.delete(state, keys::DECIDED);
    Ok(store.commit(last)?)
}

/// Loads sorted writes space by space; what is removed goes through commits.
struct Loader<'a> {
    store: &'a Store,
    names: &'a [String],
    open: Option<(u16, Space, BulkLoad)>,
    removals: Batch,
}

impl Loader<'_> {
    fn write(&mut self, key: &[u8], value: &[u8]) -> Result<(), EngineError> {
        let place = u16::from_be_bytes([key[0], key[1]]);
        if self.open.as_ref().is_none_or(|(at, ..)| *at != place) {
            self.close()?;
            let space = self.store.space(&self.names[usize::from(place)])?;
            let load = self.store.bulk(&space)?;
            self.open = Some((place, space, load));
        }
        let Some((_, space, load)) = &mut self.open else { return Ok(()) };
        if value[0] == PUT {
            load.push(&key[2..], &value[1..])?;
        } else {
            self.removals.delete(space, &key[2..]);
            if self.removals.len() >= CUT_WRITES {
                self.store.commit(std::mem::replace(&mut self.removals, Batch::new()))?;
            }
        }
        Ok(())
    }

    fn close(&mut self) -> Result<(), EngineError> {
        if let Some((_, _, load)) = self.open.take() {
            load.finish()?;
            failpoint::reached("large::after_cut");
        }
        Ok(())
    }

    /// Finishes the last load; returns the removals that are left to be committed.
    fn finish(mut self) -> Result<Batch, EngineError> {
        self.close()?;
        Ok(self.removals)
    }
}
