//! Buckets' running totals while a commit is put together, and the operations that it appends.
//!
//! Which operation is the newest of its row is kept in an index, so that each operation knows the one
//! that it supersedes and nobody has to search a log for it.
//!
//! Invariant E-3: op ids are given here, in the order of the effects, and nowhere else.

use crate::error::EngineError;
use crate::evaluate::{Effects, Existing, OpEffect};
use crate::moved::Movement;
use crate::overlay::{Overlay, Sink};
use crate::record::{
    BucketRecord, Mark, OpRecord, RowOp, bounded_key, lookup_key, newest_key, op_key,
};
use crate::state::DerivedKind;
use crate::wake::{BucketKey, Touched};
use hw_store::{Space, Store};
use hw_types::OpId;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// The spaces of the incarnations that are applied.
#[derive(Default)]
pub(crate) struct Spaces {
    sources: HashMap<u32, SourceSpace, foldhash::fast::RandomState>,
    lookups: HashMap<u32, Space, foldhash::fast::RandomState>,
}

pub(crate) struct SourceSpace {
    pub ops: Space,
    pub buckets: Space,
}

impl Spaces {
    /// Opens the spaces of an incarnation.
    pub fn open(
        &mut self,
        store: &Store,
        kind: DerivedKind,
        number: u32,
    ) -> Result<(), EngineError> {
        match kind {
            DerivedKind::Source => self.open_source(store, number).map(drop),
            DerivedKind::Lookup => self.open_lookup(store, number).map(drop),
        }
    }

    /// Drops the spaces of an incarnation that is no longer applied.
    pub fn drop(
        &mut self,
        store: &Store,
        kind: DerivedKind,
        number: u32,
    ) -> Result<(), EngineError> {
        match kind {
            DerivedKind::Source => self.drop_source(store, number),
            DerivedKind::Lookup => self.drop_lookup(store, number),
        }
    }

    /// Opens the spaces of a source incarnation.
    pub fn open_source(
        &mut self,
        store: &Store,
        number: u32,
    ) -> Result<(Space, Space), EngineError> {
        let ops = store.space(&format!("ops.{number}"))?;
        let buckets = store.space(&format!("buckets.{number}"))?;
        let spaces = SourceSpace { ops: ops.clone(), buckets: buckets.clone() };
        self.sources.insert(number, spaces);
        Ok((ops, buckets))
    }

    /// The spaces of a source incarnation that is applied.
    pub fn source(&self, number: u32) -> Option<&SourceSpace> {
        self.sources.get(&number)
    }

    /// Opens the space of a lookup incarnation.
    fn open_lookup(&mut self, store: &Store, number: u32) -> Result<Space, EngineError> {
        let space = store.space(&format!("lookups.{number}"))?;
        self.lookups.insert(number, space.clone());
        Ok(space)
    }

    /// Replaces all spaces by empty ones.
    pub fn renew(&mut self, store: &Store) -> Result<(), EngineError> {
        for number in self.sources.keys().copied().collect::<Vec<_>>() {
            self.drop_source(store, number)?;
            self.open_source(store, number)?;
        }
        for number in self.lookups.keys().copied().collect::<Vec<_>>() {
            self.drop_lookup(store, number)?;
            self.open_lookup(store, number)?;
        }
        Ok(())
    }

    /// Drops the spaces of incarnations that are no longer applied.
    fn drop_source(&mut self, store: &Store, number: u32) -> Result<(), EngineError> {
        self.sources.remove(&number);
        store.drop_space(&format!("ops.{number}"))?;
        Ok(store.drop_space(&format!("buckets.{number}"))?)
    }

    /// See [`Spaces::drop_source`].
    fn drop_lookup(&mut self, store: &Store, number: u32) -> Result<(), EngineError> {
        self.lookups.remove(&number);
        Ok(store.drop_space(&format!("lookups.{number}"))?)
    }
}

/// Totals of buckets that were touched lately, by source and parameters.
pub(crate) struct BucketBook {
    sources: HashMap<u32, SourceBook, foldhash::fast::RandomState>,
    entries: usize,
    due: BTreeSet<(u32, Arc<str>)>,
    key: Vec<u8>,
}

#[derive(Default)]
struct SourceBook {
    buckets: HashMap<Arc<str>, Total, foldhash::fast::RandomState>,
    dirty: Vec<Arc<str>>,
    /// Number for the next new bucket; read from the store at the first need.
    next: Option<u32>,
    /// Whether it was given since it was written.
    counted: bool,
}

struct Total {
    record: BucketRecord,
    dirty: bool,
}

/// Under this key, which is no JSON array as buckets have, a `buckets` space keeps the number of its next bucket.
const NEXT_KEY: &[u8] = b"next";

impl BucketBook {
    /// Totals kept between commits; a bound, not a promise.
    const KEEP: usize = 200_000;

    pub fn new() -> BucketBook {
        BucketBook {
            sources: HashMap::default(),
            entries: 0,
            due: BTreeSet::new(),
            key: Vec::new(),
        }
    }

    /// Appends a change's operations and lookup entries to `sink`, gives op ids from `last`, and
    /// notes what it touched.
    pub fn append<S: Sink>(
        &mut self,
        spaces: &Spaces,
        sink: &mut S,
        effects: &mut Effects,
        place: (u32, &[u8]),
        last: &mut OpId,
        touched: &mut Touched,
    ) -> Result<(), EngineError> {
        for effect in effects.ops.drain(..) {
            let op_id = OpId(last.0 + 1);
            *last = op_id;
            touched.bucket(BucketKey::new(effect.source, &effect.row.parameters));
            let Some(space) = spaces.sources.get(&effect.source) else {
                return Err(EngineError::damaged("buckets", "source without spaces"));
            };
            let book = self.sources.entry(effect.source).or_default();
            let (name, total) =
                book.total(space, sink.base(), &effect.row.parameters, &mut self.entries)?;
            let key = newest_key(total.number, &effect.name);
            // Where every row that is named is there, one that comes was never there.
            let first = effect.enters && total.named == total.live;
            let supersedes = match first {
                true => None,
                false => newest(sink.base(), space, &key)?,
            };
            debug_assert!(!first || newest(sink.base(), space, &key)?.is_none());
            count(total, &effect, op_id, supersedes);
            let sum = total.checksum;
            let record = OpRecord {
                kind: effect.kind,
                checksum: effect.checksum,
                sum,
                supersedes,
                object_type: &effect.row.object_type,
                object_id: &effect.row.object_id,
                subkey: &effects.subkey,
                data: if effect.kind == RowOp::Put { &effect.row.data } else { "" },
            };
            let mut value = Vec::new();
            record.encode(op_id, &mut value);
            sink.append(&space.ops, &op_key(total.number, op_id), value)?;
            sink.put(&space.buckets, key, Mark { op_id, sum }.encode())?;
            if total.stale >= worth_compacting(total) {
                self.due.insert((effect.source, name));
            }
        }
        for effect in effects.lookups.drain(..) {
            touched.entry(Movement {
                lookup: effect.lookup,
                key: &effect.key,
                value: &effect.value,
                comes: effect.comes,
                is_certain: effect.existing == Existing::AsBefore,
            });
            let Some(space) = spaces.lookups.get(&effect.lookup) else {
                return Err(EngineError::damaged("lookups", "lookup without space"));
            };
            lookup_key(&effect.key, place.0, place.1, effect.ordinal, &mut self.key);
            match effect.comes {
                true => sink.put(space, self.key.clone(), effect.value)?,
                false => sink.delete(space, self.key.clone())?,
            }
        }
        Ok(())
    }

    /// Writes the totals that changed since the last call. Call it before every commit.
    pub fn flush<S: Sink>(&mut self, spaces: &Spaces, sink: &mut S) -> Result<(), EngineError> {
        for (number, book) in &mut self.sources {
            if book.dirty.is_empty() {
                continue;
            }
            let Some(space) = spaces.sources.get(number) else {
                book.dirty.clear();
                continue;
            };
            for name in book.dirty.drain(..) {
                if let Some(total) = book.buckets.get_mut(&name) {
                    total.dirty = false;
                    let key = bounded_key(name.as_bytes()).into_owned();
                    sink.put(&space.buckets, key, total.record.encode())?;
                }
            }
            if let Some(next) = book.next.filter(|_| std::mem::take(&mut book.counted)) {
                sink.put(&space.buckets, NEXT_KEY.to_vec(), next.to_be_bytes().to_vec())?;
            }
        }
        if self.entries > Self::KEEP {
            self.forget_all();
        }
        Ok(())
    }

    /// Forgets everything that is not in the store: after a failed commit, or when incarnations
    /// come and go.
    pub fn forget_all(&mut self) {
        self.sources.clear();
        self.due.clear();
        self.entries = 0;
    }

    /// A bucket (source incarnation, parameters) whose log holds enough superseded operations to be
    /// compacted. It is named once, and again when something is appended to it.
    pub fn due(&mut self) -> Option<(u32, Arc<str>)> {
        self.due.pop_first()
    }

    /// Whether a bucket that was touched lately is compacted as far as is allowed.
    pub fn is_settled(&self, source: u32, parameters: &str, until: OpId) -> bool {
        let book = self.sources.get(&source);
        let total = book.and_then(|book| book.buckets.get(parameters));
        total.is_some_and(|total| total.record.settled >= until.min(total.record.last_op))
    }

    /// Names a bucket once more: a slice has left work behind.
    pub fn again(&mut self, source: u32, parameters: Arc<str>) {
        self.due.insert((source, parameters));
    }

    /// The totals of a bucket, to be changed; written at the next [`BucketBook::flush`].
    pub fn total(
        &mut self,
        space: &SourceSpace,
        source: u32,
        base: &Overlay,
        parameters: &str,
    ) -> Result<&mut BucketRecord, EngineError> {
        let book = self.sources.entry(source).or_default();
        Ok(book.total(space, base, parameters, &mut self.entries)?.1)
    }
}

impl SourceBook {
    fn total(
        &mut self,
        space: &SourceSpace,
        base: &Overlay,
        parameters: &str,
        entries: &mut usize,
    ) -> Result<(Arc<str>, &mut BucketRecord), EngineError> {
        // Two look-ups, because a borrow that is returned cannot be given up in between.
        if !self.buckets.contains_key(parameters) {
            let record = match base.get(&space.buckets, &bounded_key(parameters.as_bytes()))? {
                Some(value) => BucketRecord::decode(&value)
                    .ok_or_else(|| EngineError::damaged("buckets", "bucket totals"))?,
                None => BucketRecord { number: self.next(space, base)?, ..Default::default() },
            };
            *entries += 1;
            self.buckets.insert(parameters.into(), Total { record, dirty: false });
        }
        let Some((name, _)) = self.buckets.get_key_value(parameters) else {
            return Err(EngineError::damaged("buckets", "bucket totals"));
        };
        let name = name.clone();
        let total = self.buckets.get_mut(&name);
        let total = total.ok_or_else(|| EngineError::damaged("buckets", "bucket totals"))?;
        if !total.dirty {
            total.dirty = true;
            self.dirty.push(name.clone());
        }
        Ok((name, &mut total.record))
    }

    fn next(&mut self, space: &SourceSpace, base: &Overlay) -> Result<u32, EngineError> {
        let number = match self.next {
            Some(number) => number,
            None => match base.get(&space.buckets, NEXT_KEY)? {
                Some(value) => u32::from_be_bytes(
                    (*value)
                        .try_into()
                        .map_err(|_| EngineError::damaged("buckets", "next number"))?,
                ),
                None => 1,
            },
        };
        self.next = Some(number.checked_add(1).ok_or_else(|| {
            EngineError::damaged("buckets", "a source cannot have more than 2^32 buckets")
        })?);
        self.counted = true;
        Ok(number)
    }
}

/// Superseded operations from which on a bucket is worth compacting: about as many as it has rows,
/// so that a reader passes over little more than it sends, within bounds that keep a slice short.
fn worth_compacting(total: &BucketRecord) -> u64 {
    total.live.clamp(64, 1024)
}

/// The newest operation of a row in a bucket.
fn newest(base: &Overlay, space: &SourceSpace, key: &[u8]) -> Result<Option<Mark>, EngineError> {
    let Some(value) = base.get(&space.buckets, key)? else { return Ok(None) };
    match Mark::decode(&value) {
        Some(mark) => Ok(Some(mark)),
        None => Err(EngineError::damaged("buckets", "newest operation")),
    }
}

fn count(total: &mut BucketRecord, effect: &OpEffect, op_id: OpId, supersedes: Option<Mark>) {
    if supersedes.is_none() {
        total.named += 1;
    } else {
        if total.stale == 0 {
            // Nothing behind what is settled supersedes anything: all of it is.
            total.settled = total.last_op;
        }
        total.stale += 1;
    }
    total.count += 1;
    total.checksum = total.checksum.wrapping_add(effect.checksum);
    total.last_op = op_id;
    match effect.kind {
        RowOp::Remove => total.live = total.live.saturating_sub(1),
        RowOp::Put if effect.enters => total.live += 1,
        RowOp::Put => {}
    }
}
