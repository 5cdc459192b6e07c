//! Steps that do not fit one store commit: large transactions, tables that enter.
//!
//! Such a step is first evaluated whole against the state behind its predecessor; the resulting
//! writes (absolute values, op ids given) go to a spool; one commit marks them *decided*; then
//! they are applied in cut commits, each with its cursor (`design/engine.md` 7.4). After a crash
//! undecided writes are gone and the step is evaluated anew when it arrives; decided ones go on
//! at the cursor. So "before" is never read from half-overwritten rows, and nothing is published
//! until the step is complete.

use crate::error::EngineError;
use crate::failpoint;
use crate::overlay::{Overlay, Sink};
use crate::record::take;
use crate::state::{Record, keys};
use hw_store::segment::{Segment, SegmentWriter};
use hw_store::{Batch, Space, Store};
use hw_types::varint;
use std::collections::HashMap;

/// Name of the durable segment of decided writes. There is one step at a time.
const SEGMENT: &str = "decided";

/// Bounds of one cut commit.
const CUT_BYTES: usize = 4 << 20;
const CUT_WRITES: usize = 2_000;

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
    segment: SegmentWriter,
    writes: u64,
    record: Vec<u8>,
}

impl<'a> DecidedSink<'a> {
    /// Starts a step. `base` has no pending writes.
    pub fn new(base: &'a Overlay) -> Result<DecidedSink<'a>, EngineError> {
        let segment = SegmentWriter::create(base.store().spool(), SEGMENT)?;
        Ok(DecidedSink { base, segment, writes: 0, record: Vec::new() })
    }

    fn write(
        &mut self,
        space: &Space,
        key: &[u8],
        value: Option<&[u8]>,
    ) -> Result<(), EngineError> {
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
        apply(store, state, segment)
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

/// At start: finishes a decided step, or throws away what was not decided.
pub(crate) fn resume(store: &Store, state: &Space) -> Result<(), EngineError> {
    let decided = Decided::load(&store.snapshot(), state, keys::DECIDED)?;
    let segment = store.spool().persisted(SEGMENT)?;
    match (decided, segment) {
        (Some(_), Some(segment)) => {
            tracing::info!("a large step that was decided before the stop is finished");
            apply(store, state, segment)
        }
        (Some(_), None) => Err(EngineError::damaged("spool", "decided writes are missing")),
        (None, Some(segment)) => Ok(segment.discard()?),
        (None, None) => Ok(()),
    }
}

/// Applies the writes behind the cursor in cut commits; the last one removes the mark.
fn apply(store: &Store, state: &Space, segment: Segment) -> Result<(), EngineError> {
    let damaged = |what| EngineError::damaged("spool", what);
    let mut decided = Decided::load(&store.snapshot(), state, keys::DECIDED)?
        .ok_or_else(|| damaged("no mark for decided writes"))?;
    let mut spaces: HashMap<String, Space> = HashMap::new();
    let mut batch = Batch::new();
    let mut place = 0u64;
    let mut reader = segment.reader();
    while let Some(record) = reader.next_record()? {
        place += 1;
        if place <= decided.cursor {
            continue;
        }
        let mut rest = record;
        let kind = take(&mut rest, 1).ok_or_else(|| damaged("write"))?[0];
        let name = varint::take_bytes(&mut rest).ok_or_else(|| damaged("write"))?;
        let name = std::str::from_utf8(name).map_err(|_| damaged("write"))?;
        let key = varint::take_bytes(&mut rest).ok_or_else(|| damaged("write"))?;
        if !spaces.contains_key(name) {
            spaces.insert(name.to_owned(), store.space(name)?);
        }
        let space = &spaces[name];
        match kind {
            PUT => batch.put(space, key, rest),
            DELETE => batch.delete(space, key),
            _ => return Err(damaged("write")),
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
    if place != decided.writes {
        return Err(damaged("decided writes end too soon"));
    }
    // The segment may go only when the writes it holds are durable.
    store.sync()?;
    Ok(segment.discard()?)
}
