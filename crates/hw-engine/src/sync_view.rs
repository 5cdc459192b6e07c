//! The sync configuration's buckets at a published position: which ones a request has, their totals,
//! their operations. The view of surfaces that sync ([`crate::published`] gives it).
//!
//! Everything is read from one store snapshot, so that data and checksum always agree. Who reads
//! names sources, parameters and lookups of the configuration; where these are stored, only this
//! file knows.

use crate::error::EngineError;
use crate::record::{
    BucketRecord, Mark, OpRecord, RowOp, bounded_key, newest_key, op_key, op_of_key, op_of_sum_key,
    sum_key,
};
use crate::wake::{BucketKey, LookupKey};
use hw_expr::sync_config::{
    Definition, DefinitionKind, Entries, Limits, LookupError, LookupReader, Reason, Request,
    Resolution, ResolveError, ResolvedStream, SyncConfig,
};
use hw_store::{Slice, Snapshot, Space};
use hw_types::{Diagnostic, EndLsn, OpId, Place};
use std::collections::{BTreeSet, HashSet};
use std::ops::Bound;
use std::sync::Arc;

/// A sync configuration whose buckets are complete, with the incarnations that hold them.
#[derive(Clone)]
pub struct ActiveSync {
    /// The compiled configuration.
    pub config: Arc<SyncConfig>,
    /// The text that it was compiled from.
    pub text: String,
    /// Counts configurations of this store, from 1.
    pub version: u64,
    pub(crate) sources: Vec<SourceSpaces>,
    pub(crate) lookups: Vec<LookupSpace>,
    /// Per definition up to where it stands still, while it does: a table that it reads cannot be
    /// followed at the moment.
    pub(crate) frozen: Vec<Option<EndLsn>>,
    /// Per definition whether it is not served: it reads a table that cannot be replicated, or a column that
    /// is not there or not sent; or it waits for one; or it gives more than it may ([`ActiveSync::within`]).
    pub(crate) withheld: Vec<bool>,
    /// Definitions that wait for tables, by their place: they are withheld until they can be served.
    pub(crate) waiting: BTreeSet<u32>,
    /// The columns that definitions read and that are not there or not sent, a finding for each table and
    /// reason.
    pub(crate) unsent: Vec<Diagnostic>,
}

/// Where a bucket source of a configuration is stored.
#[derive(Clone)]
pub(crate) struct SourceSpaces {
    pub number: u32,
    /// `<incarnation>.<counter>#`.
    pub prefix: String,
    pub ops: Space,
    pub buckets: Space,
}

/// Where a lookup of a configuration is stored.
#[derive(Clone)]
pub(crate) struct LookupSpace {
    pub number: u32,
    /// `None` of one that answers nobody for now.
    pub space: Option<Space>,
}

/// Identifies a bucket within this store.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct BucketId {
    /// Number of the source incarnation.
    pub source: u32,
    /// Number within the source.
    pub bucket: u32,
}

/// A bucket's totals at the published position.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketState {
    /// Which bucket.
    pub id: BucketId,
    /// Operations in its log.
    pub count: u64,
    /// Rows that are in it.
    pub live: u64,
    /// Sum of the checksums of all operations modulo 2^32.
    pub checksum: u32,
    /// Its newest operation.
    pub last_op: OpId,
}

/// How much one read may return. The last row may pass `bytes`, and an operation that stands for others
/// may come before it and behind it.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Stop behind this many operations, at least 1.
    pub rows: usize,
    /// Stop behind this many bytes of operations.
    pub bytes: usize,
}

/// The answer to a reading of a bucket.
pub enum Reading {
    /// What comes next.
    Page(OperationPage),
    /// The bucket can no longer be read as it was at that state: it was compacted behind it, or another
    /// configuration is served. The reader goes on at the newest state.
    Passed,
}

/// Consecutive operations of one bucket.
#[derive(Default)]
pub struct OperationPage {
    /// Ascending by op id.
    pub operations: Vec<Operation>,
    /// Whether more follow up to the checkpoint.
    pub has_more: bool,
    /// Where the reader stands behind them.
    pub place: Place,
}

/// What an operation tells a client.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OpKind {
    /// The row is now this.
    Put,
    /// The row has left the bucket.
    Remove,
    /// Stands for superseded operations: only its checksum counts.
    Move,
    /// Everything before it is gone; its checksum is the sum of what it stands for.
    Clear,
}

/// One operation, borrowing its texts from the store's block.
pub struct Operation {
    /// Its op id.
    pub op_id: OpId,
    /// What it does.
    pub kind: OpKind,
    /// Its checksum; of a MOVE or CLEAR, the sum of those that it stands for.
    pub checksum: u32,
    value: Option<Slice>,
}

impl Operation {
    fn record(&self) -> Option<OpRecord<'_>> {
        self.value.as_ref().and_then(|value| OpRecord::decode(self.op_id, value))
    }

    /// The texts of a PUT or REMOVE; `None` for MOVE and CLEAR.
    pub fn texts(&self) -> Option<OperationTexts<'_>> {
        self.record().map(|r| OperationTexts {
            object_type: r.object_type,
            object_id: r.object_id,
            subkey: r.subkey,
            data: if r.kind == RowOp::Put { Some(r.data) } else { None },
        })
    }
}

/// The texts of a PUT or REMOVE.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationTexts<'a> {
    /// Output table.
    pub object_type: &'a str,
    /// Output row id.
    pub object_id: &'a str,
    /// Source row.
    pub subkey: &'a str,
    /// Row JSON, of a PUT.
    pub data: Option<&'a str>,
}

impl ActiveSync {
    /// Names of the definitions that stand still at the moment, because a table that they read
    /// cannot be followed.
    pub fn frozen(&self) -> BTreeSet<&str> {
        self.standing().map(|(name, _)| name).collect()
    }

    /// The same, with where each of them stands.
    pub(crate) fn standing(&self) -> impl Iterator<Item = (&str, EndLsn)> {
        let definitions = self.config.definitions().iter().zip(&self.frozen);
        definitions.filter_map(|(definition, since)| Some((&*definition.name, (*since)?)))
    }

    /// The tables by which nobody has access, until what reads them goes on: what was removed from them
    /// cannot be told row by row.
    pub fn shut(&self) -> BTreeSet<String> {
        let lookups = self.config.lookups().iter().zip(&self.lookups);
        let shut = lookups.filter(|(_, lookup)| lookup.space.is_none());
        shut.map(|(lookup, _)| lookup.table.to_string()).collect()
    }

    /// Whether any definition stands still.
    pub fn stands_still(&self) -> bool {
        self.frozen.iter().any(Option::is_some)
    }

    /// Names of the definitions that are not served, because a table that they read cannot be
    /// replicated, or a column is not there or not sent; or that wait for a table ([`crate::waiting`]); or that
    /// give more than they may ([`Engine::limit`](crate::Engine::limit)).
    pub fn withheld(&self) -> BTreeSet<&str> {
        let definitions = self.config.definitions().iter().zip(&self.withheld);
        definitions.filter(|(_, withheld)| **withheld).map(|(d, _)| &*d.name).collect()
    }

    /// Whether some definition is served, or there is none that could be.
    pub fn serves_something(&self) -> bool {
        self.withheld.is_empty() || self.withheld.contains(&false)
    }

    /// Whether a definition, by its place in the configuration, is not served yet because it waits for a table.
    pub fn waits(&self, definition: usize) -> bool {
        self.waiting.contains(&(definition as u32))
    }

    /// The same without the definitions that give more than the one of their name in another configuration.
    pub(crate) fn within(self: Arc<ActiveSync>, most: &SyncConfig) -> Arc<ActiveSync> {
        let gives_more =
            |definition: &Definition| !most.gives_all_of(&self.config, &definition.name);
        let more: Vec<bool> = self.config.definitions().iter().map(gives_more).collect();
        if !more.contains(&true) {
            return self;
        }
        let both = |(withheld, more): (&bool, bool)| *withheld || more;
        let withheld = self.withheld.iter().zip(more).map(both).collect();
        Arc::new(ActiveSync { withheld, ..(*self).clone() })
    }

    /// The bucket's name on the wire: `<incarnation>.<counter>#name[…]`.
    pub fn bucket_name(&self, source: usize, parameters: &str) -> String {
        let prefix = &self.sources[source].prefix;
        let name = &self.config.sources()[source].name;
        [prefix, name, parameters].concat()
    }

    /// Whether a name that a client brings along is that of a bucket of this configuration in
    /// this epoch.
    pub fn serves_name(&self, name: &str) -> bool {
        self.sources.iter().any(|source| name.starts_with(&source.prefix))
    }

    /// The bucket's name in wake-ups.
    pub fn bucket_key(&self, source: usize, parameters: &str) -> BucketKey {
        BucketKey::new(self.sources[source].number, parameters)
    }

    /// A lookup key's name in wake-ups.
    pub fn lookup_key(&self, lookup: usize, key: &[u8]) -> LookupKey {
        LookupKey::new(self.lookups[lookup].number, key)
    }
}

/// The buckets of the sync configuration that is served, at one published position.
#[derive(Clone, Copy)]
pub struct SyncView<'a> {
    pub(crate) sync: &'a ActiveSync,
    pub(crate) snapshot: &'a Snapshot,
}

impl SyncView<'_> {
    /// The configuration, and how its buckets are called.
    pub fn config(&self) -> &ActiveSync {
        self.sync
    }

    /// A bucket of the configuration; `None` when it never had a row (then checksum and
    /// count are 0).
    ///
    /// - Takes: the source's index in the configuration, and its parameters as JSON text.
    /// - Errors: the store's; never for an unknown bucket.
    pub fn bucket(
        &self,
        source: usize,
        parameters: &str,
    ) -> Result<Option<BucketState>, EngineError> {
        let Some(spaces) = self.sync.sources.get(source) else { return Ok(None) };
        Ok(self.record(spaces, parameters)?.map(|record| BucketState {
            id: BucketId { source: spaces.number, bucket: record.number },
            count: record.count,
            live: record.live,
            checksum: record.checksum,
            last_op: record.last_op,
        }))
    }

    fn record(
        &self,
        spaces: &SourceSpaces,
        parameters: &str,
    ) -> Result<Option<BucketRecord>, EngineError> {
        let value = self.snapshot.get(&spaces.buckets, &bounded_key(parameters.as_bytes()))?;
        let record = value.map(|value| BucketRecord::decode(&value).ok_or(()));
        record.transpose().map_err(|()| EngineError::damaged("buckets", "bucket totals"))
    }

    /// Operations of a bucket behind `place`, up to `until.last_op`.
    ///
    /// `until` may be the state of an older publication of the same configuration: the answer is
    /// that state's operations, so that a reader need not hold a snapshot while it waits for a
    /// socket.
    ///
    /// Each row's newest version only: what was superseded at that state, and rows that came and left
    /// again, arrive as MOVEs that carry the sum of their checksums, so that behind each operation
    /// the reader has the sum that the bucket had there (`design/engine.md` 14, 17). A place that is
    /// no longer known is answered from the beginning, with a CLEAR.
    pub fn operations(
        &self,
        source: usize,
        parameters: &str,
        until: &BucketState,
        place: Place,
        limit: ReadLimit,
    ) -> Result<Reading, EngineError> {
        let Some(spaces) = self.sync.sources.get(source) else { return Ok(Reading::Passed) };
        let Some(now) = self.record(spaces, parameters)? else {
            return Ok(match place.lost && until.last_op == OpId(0) {
                true => Reading::Page(OperationPage::forgotten(place.after)),
                false => Reading::Passed,
            });
        };
        let id = BucketId { source: spaces.number, bucket: now.number };
        if id != until.id || now.removed_by > until.last_op {
            return Ok(Reading::Passed);
        }
        let log = Log { snapshot: self.snapshot, spaces, now, last: until.last_op };
        Ok(Reading::Page(log.page(until, place, limit)?))
    }

    /// The buckets of a request, as the configuration and its lookups give them at this
    /// position; without those of definitions that are not served (see [`ActiveSync::withheld`]).
    pub fn resolve(
        &self,
        request: &Request<'_>,
        limits: &Limits,
    ) -> Result<Resolution, ResolveError> {
        let sync = self.sync;
        let mut resolution = sync.config.resolve(request, self, limits)?;
        if sync.withheld.contains(&true) {
            // Definitions share buckets, so it counts which of them have found one.
            let streams = resolution.streams.iter();
            let is_stream_served = |stream: &ResolvedStream| !sync.withheld[stream.definition];
            // A subscription is of a stream, never of a bucket definition of the same name.
            let kind = |s: &ResolvedStream| sync.config.definitions()[s.definition].kind;
            let is_meant = |s: &&ResolvedStream| kind(s) == DefinitionKind::Stream;
            let served: HashSet<&str> = streams
                .filter(|stream| is_meant(stream) && is_stream_served(stream))
                .map(|stream| &*stream.name)
                .collect();
            // A user may have thousands of buckets, each for one of a few reasons.
            let subscribed: Vec<bool> =
                request.subscriptions.iter().map(|s| served.contains(&*s.stream)).collect();
            let is_served = |reason: &Reason| match *reason {
                Reason::Default(stream) => is_stream_served(&resolution.streams[stream]),
                Reason::Subscription(index) => subscribed[index],
            };
            resolution.buckets.retain_mut(|bucket| {
                bucket.reasons.retain(is_served);
                !bucket.reasons.is_empty()
            });
        }
        Ok(resolution)
    }
}

/// A bucket's log as it was at one state, read from a snapshot of that time or later.
struct Log<'a> {
    snapshot: &'a Snapshot,
    spaces: &'a SourceSpaces,
    /// The bucket in the snapshot.
    now: BucketRecord,
    /// The state's last operation.
    last: OpId,
}

/// Where a reading begins.
struct Start {
    after: OpId,
    since: OpId,
    sum: u32,
    /// Whether the reader must forget what it has.
    clear: bool,
}

impl Log<'_> {
    fn page(
        &self,
        until: &BucketState,
        place: Place,
        limit: ReadLimit,
    ) -> Result<OperationPage, EngineError> {
        let Start { after, since, mut sum, mut clear } = self.start(place)?;
        let mut page = OperationPage::default();
        let mut bytes = 0;
        for entry in self.snapshot.range(&self.spaces.ops, self.behind(after)) {
            let (key, value) = entry?;
            let op_id = op_of_key(&key).ok_or_else(|| EngineError::damaged("ops", "key"))?;
            let record = OpRecord::decode(op_id, &value)
                .ok_or_else(|| EngineError::damaged("ops", "operation"))?;
            let unknown = record.kind == RowOp::Remove && op_id <= since;
            if unknown || self.is_superseded(op_id, &record)? {
                continue;
            }
            if page.operations.len() >= limit.rows || bytes >= limit.bytes {
                page.has_more = true;
                break;
            }
            // Something lies between this operation and the one before it, so there is an op id
            // between them.
            let before = OpId(op_id.0 - 1);
            page.skip(before, record.sum.wrapping_sub(record.checksum), &mut sum, &mut clear);
            let kind = match record.kind {
                RowOp::Put => OpKind::Put,
                RowOp::Remove => OpKind::Remove,
            };
            let checksum = record.checksum;
            sum = record.sum;
            bytes += value.len();
            page.place.after = op_id;
            page.operations.push(Operation { op_id, kind, checksum, value: Some(value) });
        }
        page.place.since = since;
        if !page.has_more {
            page.skip(self.last, until.checksum, &mut sum, &mut clear);
            page.place.after = self.last;
            page.place.since = self.last;
        }
        page.place.sum = Some(sum);
        Ok(page)
    }

    fn start(&self, place: Place) -> Result<Start, EngineError> {
        let Place { after, since, sum, lost } = place;
        if after > OpId(0) && since >= self.now.floor && !lost {
            let sum = match sum {
                Some(sum) => sum,
                None => self.sum_at(after)?,
            };
            return Ok(Start { after, since, sum, clear: false });
        }
        Ok(Start { after: OpId(0), since: self.last, sum: 0, clear: after > OpId(0) })
    }

    /// The key range of the operations behind `after`, up to the state's last one.
    fn behind(&self, after: OpId) -> (Bound<[u8; 12]>, Bound<[u8; 12]>) {
        let start = op_key(self.now.number, after);
        // An empty range, never one whose start is behind its end.
        match after >= self.last {
            true => (Bound::Included(start), Bound::Excluded(start)),
            false => (Bound::Excluded(start), Bound::Included(op_key(self.now.number, self.last))),
        }
    }

    /// The sum of the checksums up to a position at or behind the floor: that of the newest operation
    /// there, which the log still holds or which has left its sum.
    fn sum_at(&self, position: OpId) -> Result<u32, EngineError> {
        let number = self.now.number;
        let sums = sum_key(number, self.now.floor)..=sum_key(number, position);
        let (mut from, mut sum) = (self.now.floor, 0);
        if let Some(entry) = self.snapshot.range(&self.spaces.buckets, sums).next_back() {
            let (key, value) = entry?;
            let damaged = || EngineError::damaged("buckets", "sum");
            from = op_of_sum_key(&key).ok_or_else(damaged)?;
            sum = u32::from_le_bytes((*value).try_into().map_err(|_| damaged())?);
        }
        let records = op_key(number, from)..=op_key(number, position);
        if let Some(entry) = self.snapshot.range(&self.spaces.ops, records).next_back() {
            let (key, value) = entry?;
            let record = op_of_key(&key).and_then(|op_id| OpRecord::decode(op_id, &value));
            sum = record.ok_or_else(|| EngineError::damaged("ops", "operation"))?.sum;
        }
        Ok(sum)
    }

    /// Whether a later operation of the same row, up to the state's last one, supersedes this one.
    fn is_superseded(&self, op_id: OpId, record: &OpRecord<'_>) -> Result<bool, EngineError> {
        if self.now.stale == 0 {
            return Ok(false);
        }
        let key = newest_key(self.now.number, &record.row());
        let newest = self.snapshot.get(&self.spaces.buckets, &key)?;
        let mut later = newest
            .and_then(|value| Mark::decode(&value))
            .ok_or_else(|| EngineError::damaged("buckets", "newest operation"))?
            .op_id;
        // Newer versions than the state's are walked back; they are all there, because nothing was
        // removed behind it.
        while later > self.last {
            let value = self.snapshot.get(&self.spaces.ops, &op_key(self.now.number, later))?;
            let before = value
                .as_ref()
                .and_then(|value| OpRecord::decode(later, value)?.supersedes)
                .ok_or_else(|| EngineError::damaged("ops", "superseded operation"))?;
            later = before.op_id;
        }
        Ok(later > op_id)
    }
}

impl OperationPage {
    /// All of a bucket that never had a row, for a reader that has some.
    fn forgotten(op_id: OpId) -> OperationPage {
        let clear = Operation { op_id, kind: OpKind::Clear, checksum: 0, value: None };
        let place = Place { sum: Some(0), ..Place::default() };
        OperationPage { operations: vec![clear], has_more: false, place }
    }

    /// Appends what stands for the operations that are left out before a place where the sum of all
    /// is `now`.
    fn skip(&mut self, op_id: OpId, now: u32, sum: &mut u32, clear: &mut bool) {
        let checksum = now.wrapping_sub(*sum);
        let kind = if *clear { OpKind::Clear } else { OpKind::Move };
        if *clear || checksum != 0 {
            self.operations.push(Operation { op_id, kind, checksum, value: None });
        }
        *sum = now;
        *clear = false;
    }
}

impl LookupReader for SyncView<'_> {
    fn lookup(&self, lookup: usize, key: &[u8], out: &mut Entries) -> Result<(), LookupError> {
        let Some(LookupSpace { space, .. }) = self.sync.lookups.get(lookup) else {
            return Err(LookupError("this lookup is not built".into()));
        };
        let Some(space) = space else { return Ok(()) };
        for entry in self.snapshot.prefix(space, &bounded_key(key)) {
            let (_, value) = entry.map_err(|e| LookupError(e.to_string()))?;
            out.push(&value);
        }
        Ok(())
    }
}
