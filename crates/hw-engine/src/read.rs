//! Results at the published position: buckets, their operations, lookups, write checkpoints.
//!
//! Everything is read from one store snapshot, so that data and checksum always agree.
//! Invariant E-2: a snapshot is published only behind the sync that made it durable.

use crate::error::EngineError;
use crate::record::{BucketRecord, OpRecord, bounded_key, op_key, op_of_key};
use crate::wake::{BucketKey, ChangeRing, Changes, LookupKey};
use foldhash::quality::FixedState;
use hw_expr::sync_config::{LookupError, LookupReader, SyncConfig};
use hw_store::{Slice, Snapshot, Space};
use hw_types::{Checkpoint, OpId};
use parking_lot::Mutex;
use roaring::RoaringTreemap;
use std::collections::{HashMap, VecDeque};
use std::hash::BuildHasher;
use std::ops::Bound;
use std::sync::Arc;

pub use crate::record::OpKind;

/// What all surfaces read: one store snapshot at a transaction boundary, with its position.
pub struct Published {
    /// Counts publications of this process, from 0 (the state at start).
    pub number: u64,
    /// The position.
    pub checkpoint: Checkpoint,
    /// The epoch of op ids and incarnations (`design/engine.md` 5).
    pub epoch: u64,
    /// The sync configuration that is served, once one has been built.
    pub sync: Option<Arc<ActiveSync>>,
    pub(crate) snapshot: Snapshot,
    pub(crate) write_floor: u64,
    pub(crate) write_checkpoints: Space,
    pub(crate) ring: Arc<ChangeRing>,
    pub(crate) superseded: Arc<SupersededCache>,
}

/// A sync configuration whose buckets are complete, with the incarnations that hold them.
pub struct ActiveSync {
    /// The compiled configuration.
    pub config: Arc<SyncConfig>,
    /// Counts configurations of this store, from 1.
    pub version: u64,
    pub(crate) sources: Vec<SourceSpaces>,
    pub(crate) lookups: Vec<LookupSpace>,
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
    pub space: Space,
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

/// How much one read may return. The last row may pass `bytes`.
#[derive(Clone, Copy, Debug)]
pub struct ReadLimit {
    /// Operations at most, at least 1.
    pub rows: usize,
    /// Stop behind this many bytes of operations.
    pub bytes: usize,
}

/// Consecutive operations of one bucket.
#[derive(Default)]
pub struct OperationPage {
    /// Ascending by op id.
    pub operations: Vec<Operation>,
    /// Whether more follow up to the checkpoint.
    pub has_more: bool,
}

/// One operation, borrowing its texts from the store's block.
pub struct Operation {
    /// Its op id.
    pub op_id: OpId,
    /// What it does.
    pub kind: OpKind,
    /// Its checksum; of a MOVE, the sum of the run that it stands for.
    pub checksum: u32,
    value: Option<Slice>,
}

impl Operation {
    fn record(&self) -> Option<OpRecord<'_>> {
        self.value.as_ref().and_then(|value| OpRecord::decode(value))
    }

    /// The texts of a PUT or REMOVE; `None` for MOVE and CLEAR.
    pub fn texts(&self) -> Option<OperationTexts<'_>> {
        self.record().map(|r| OperationTexts {
            object_type: r.object_type,
            object_id: r.object_id,
            subkey: r.subkey,
            data: if r.kind == OpKind::Put { Some(r.data) } else { None },
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

impl Published {
    /// A bucket of the active configuration; `None` when it never had a row (then checksum and
    /// count are 0).
    ///
    /// - Takes: the source's index in the active configuration, and its parameters as JSON text.
    /// - Errors: the store's; never for an unknown bucket.
    pub fn bucket(
        &self,
        source: usize,
        parameters: &str,
    ) -> Result<Option<BucketState>, EngineError> {
        let Some(spaces) = self.sync.as_ref().and_then(|s| s.sources.get(source)) else {
            return Ok(None);
        };
        let Some(value) =
            self.snapshot.get(&spaces.buckets, &bounded_key(parameters.as_bytes()))?
        else {
            return Ok(None);
        };
        let record = BucketRecord::decode(&value)
            .ok_or_else(|| EngineError::damaged("buckets", "bucket totals"))?;
        Ok(Some(BucketState {
            id: BucketId { source: spaces.number, bucket: record.number },
            count: record.count,
            live: record.live,
            checksum: record.checksum,
            last_op: record.last_op,
        }))
    }

    /// Operations of a bucket behind `after`, up to `bucket.last_op`.
    ///
    /// `bucket` may be the state of an older publication of the same configuration: the answer
    /// is that state's operations, so that a reader need not hold a snapshot while it waits for
    /// a socket.
    ///
    /// A reader that starts at 0 gets each row's newest version only: a run of superseded
    /// operations arrives as one MOVE that carries the last op id and the sum of their checksums,
    /// so that any prefix of the pages adds up as the original would (`design/engine.md` 14, 17).
    pub fn operations(
        &self,
        source: usize,
        bucket: &BucketState,
        after: OpId,
        limit: ReadLimit,
    ) -> Result<OperationPage, EngineError> {
        let Some(spaces) = self.sync.as_ref().and_then(|s| s.sources.get(source)) else {
            return Ok(OperationPage::default());
        };
        let superseded = self.superseded(spaces, bucket, after)?;
        let mut page = OperationPage::default();
        let mut bytes = 0;
        let mut run: Option<Operation> = None;
        for entry in self.snapshot.range(&spaces.ops, bucket_range(bucket, after)) {
            let (key, value) = entry?;
            let op_id = op_of_key(&key).ok_or_else(|| EngineError::damaged("ops", "key"))?;
            let full = page.operations.len() + usize::from(run.is_some()) >= limit.rows
                || bytes >= limit.bytes;
            let record =
                OpRecord::decode(&value).ok_or_else(|| EngineError::damaged("ops", "operation"))?;
            if superseded.as_ref().is_some_and(|s| s.contains(op_id.0)) {
                match &mut run {
                    Some(sum) => {
                        sum.op_id = op_id;
                        sum.checksum = sum.checksum.wrapping_add(record.checksum);
                    }
                    None if full => {
                        page.has_more = true;
                        break;
                    }
                    None => {
                        let checksum = record.checksum;
                        run = Some(Operation { op_id, kind: OpKind::Move, checksum, value: None });
                    }
                }
                continue;
            }
            if full {
                page.has_more = true;
                break;
            }
            page.operations.extend(run.take());
            bytes += value.len();
            let (kind, checksum) = (record.kind, record.checksum);
            let value = matches!(kind, OpKind::Put | OpKind::Remove).then_some(value);
            page.operations.push(Operation { op_id, kind, checksum, value });
        }
        page.operations.extend(run);
        Ok(page)
    }

    /// The superseded operations of a bucket at this checkpoint, when leaving them out is worth
    /// a second reading: a start from 0, or its next pages.
    fn superseded(
        &self,
        spaces: &SourceSpaces,
        bucket: &BucketState,
        after: OpId,
    ) -> Result<Option<Arc<RoaringTreemap>>, EngineError> {
        const WORTH_COUNTING: u64 = 64;
        const LIVE_LIMIT: u64 = 1_000_000;
        let stale = bucket.count.saturating_sub(bucket.live);
        if stale < WORTH_COUNTING || stale * 4 < bucket.count || bucket.live > LIVE_LIMIT {
            return Ok(None);
        }
        if let Some(known) = self.superseded.get(bucket) {
            return Ok(Some(known));
        }
        if after != OpId(0) {
            return Ok(None);
        }
        let mut newest: HashMap<u128, u64, foldhash::fast::RandomState> = HashMap::default();
        let mut superseded = RoaringTreemap::new();
        for entry in self.snapshot.range(&spaces.ops, bucket_range(bucket, OpId(0))) {
            let (key, value) = entry?;
            let (Some(op), Some(record)) = (op_of_key(&key), OpRecord::decode(&value)) else {
                return Err(EngineError::damaged("ops", "operation"));
            };
            if !matches!(record.kind, OpKind::Put | OpKind::Remove) {
                continue;
            }
            let row = self.superseded.row(&record);
            if let Some(previous) = newest.insert(row, op.0) {
                superseded.insert(previous);
            }
        }
        let superseded = Arc::new(superseded);
        self.superseded.put(bucket, superseded.clone());
        Ok(Some(superseded))
    }

    /// The greatest write checkpoint that this position contains, of `<sub>/<client id>` or `<sub>`.
    pub fn write_checkpoint(&self, user_key: &str) -> Result<Option<u64>, EngineError> {
        let floor = (self.write_floor > 0).then_some(self.write_floor);
        let Some(value) = self.snapshot.get(&self.write_checkpoints, user_key.as_bytes())? else {
            return Ok(floor);
        };
        let bytes = value
            .get(..8)
            .and_then(|b| b.try_into().ok())
            .ok_or_else(|| EngineError::damaged("wcp", "write checkpoint"))?;
        Ok(floor.max(Some(u64::from_be_bytes(bytes))))
    }

    /// What changed in publications behind `number`, up to this one.
    pub fn changes_since(&self, number: u64) -> Changes {
        self.ring.between(number, self.number)
    }

    /// Reads the lookups of the active configuration at this position.
    pub fn lookup_reader(&self) -> PublishedLookups<'_> {
        PublishedLookups { published: self }
    }
}

/// The key range of a bucket's operations behind `after`, up to the state's last one.
fn bucket_range(bucket: &BucketState, after: OpId) -> (Bound<Vec<u8>>, Bound<Vec<u8>>) {
    let number = bucket.id.bucket;
    let last = bucket.last_op.max(after);
    let start = op_key(number, OpId(after.0.saturating_add(1)));
    // An empty range, never one whose start is behind its end.
    let end = match after >= bucket.last_op {
        true => Bound::Excluded(start.to_vec()),
        false => Bound::Included(op_key(number, last).to_vec()),
    };
    (Bound::Included(start.to_vec()), end)
}

/// [`LookupReader`] at a published position.
pub struct PublishedLookups<'a> {
    published: &'a Published,
}

impl LookupReader for PublishedLookups<'_> {
    fn lookup(&self, lookup: usize, key: &[u8], out: &mut Vec<Vec<u8>>) -> Result<(), LookupError> {
        let Some(space) = self.published.sync.as_ref().and_then(|s| s.lookups.get(lookup)) else {
            return Err(LookupError("this lookup is not built".into()));
        };
        for entry in self.published.snapshot.prefix(&space.space, &bounded_key(key)) {
            let (_, value) = entry.map_err(|e| LookupError(e.to_string()))?;
            out.push(value.to_vec());
        }
        Ok(())
    }
}

/// Remembers which operations of a few hot buckets are superseded, at one state of the bucket.
pub(crate) struct SupersededCache {
    /// Row names are hashed with two random seeds: 128 bits that nobody outside can aim at.
    seeds: [FixedState; 2],
    entries: Mutex<VecDeque<Superseded>>,
}

/// The superseded operations of one state of a bucket.
type Superseded = ((BucketId, OpId), Arc<RoaringTreemap>);

impl SupersededCache {
    const ENTRIES: usize = 32;

    pub fn new() -> SupersededCache {
        let random = || foldhash::quality::RandomState::default().hash_one(0u8);
        SupersededCache {
            seeds: [FixedState::with_seed(random()), FixedState::with_seed(random())],
            entries: Mutex::default(),
        }
    }

    fn row(&self, record: &OpRecord<'_>) -> u128 {
        let name = (record.object_type, record.object_id, record.subkey);
        let [high, low] = &self.seeds;
        u128::from(high.hash_one(name)) << 64 | u128::from(low.hash_one(name))
    }

    fn get(&self, bucket: &BucketState) -> Option<Arc<RoaringTreemap>> {
        let entries = self.entries.lock();
        let name = (bucket.id, bucket.last_op);
        entries.iter().find(|(n, _)| *n == name).map(|(_, set)| set.clone())
    }

    fn put(&self, bucket: &BucketState, set: Arc<RoaringTreemap>) {
        let mut entries = self.entries.lock();
        entries.retain(|((id, _), _)| *id != bucket.id);
        if entries.len() >= Self::ENTRIES {
            entries.pop_front();
        }
        entries.push_back(((bucket.id, bucket.last_op), set));
    }
}
