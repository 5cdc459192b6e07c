//! An in-memory twin of the engine: buckets with whole logs, memberships as lookups, a ring of
//! changes, publications by hand.

use std::collections::{BTreeMap, BTreeSet};
use std::hash::{BuildHasher, Hash};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::thread::ThreadId;
use std::time::{Duration, SystemTime};

use hw_auth::{AuthConfig, Authenticator, Clock, Secret};
use hw_http::Edge;
use hw_sync::source::{
    Asker, Before, Changes, Cost, Difference, Interest, Known, PageEnd, ResolveError, Resolved,
    Source, SourceError, UserLimits, Version, View,
};
use hw_sync::state::bucket::{Announcement, Bucket, Totals};
use hw_sync::wire::line::{CheckpointHead, OperationKind, OperationLine, Reason, StreamLine};
use hw_sync::{Health, SyncOptions, SyncState};
use hw_types::{OpId, Place};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

pub const SECRET: &str = "a test secret that is long enough";

pub fn token(subject: &str, lifetime: Duration) -> String {
    let secret = Secret::parse(SECRET).unwrap();
    hw_auth::token::issue(&secret, subject, lifetime, &Default::default(), &[], &Clock::system())
}

fn hash(value: impl Hash) -> u64 {
    foldhash::fast::FixedState::with_seed(7).hash_one(value)
}

#[derive(Clone)]
struct Op {
    op_id: u64,
    kind: OperationKind,
    id: String,
    data: String,
    checksum: u32,
}

#[derive(Clone, Default)]
struct Data {
    version: Option<u64>,
    /// Prefix of bucket names; another one is another incarnation.
    prefix: String,
    streams: Vec<String>,
    logs: BTreeMap<String, Arc<Vec<Op>>>,
    members: BTreeMap<String, BTreeSet<String>>,
    write_checkpoints: BTreeMap<String, u64>,
    op_id: u64,
    /// Op ids that were never given, from and to.
    lost: Option<(u64, u64)>,
}

/// What tests see of those who read, and do to them.
#[derive(Default)]
pub struct Probe {
    /// Threads on which operations were read.
    pub read_on: Mutex<Vec<ThreadId>>,
    /// How often a write checkpoint was asked for.
    pub asked: AtomicU64,
    /// Done at the next look at a write checkpoint.
    pub at_look: Mutex<Option<Box<dyn FnOnce() + Send>>>,
    /// How often the newest state was taken.
    looks: AtomicU64,
    /// The look at which another incarnation is served; 0 for none.
    rebuild_at: AtomicU64,
}

impl Probe {
    /// Serves another incarnation from the n-th look on; returns how many there were before.
    pub fn rebuild_at_look(&self, n: u64) -> u64 {
        let looks = self.looks.load(Ordering::Relaxed);
        self.rebuild_at.store(looks + n, Ordering::Relaxed);
        looks
    }
}

#[derive(Clone, Default)]
pub struct Touched {
    everything: bool,
    buckets: BTreeSet<u64>,
    lookups: BTreeSet<u64>,
    users: BTreeSet<String>,
}

pub struct TwinView {
    number: u64,
    data: Data,
    ring: Arc<Mutex<BTreeMap<u64, Touched>>>,
    totals_read: Arc<AtomicU64>,
    probe: Arc<Probe>,
}

/// The engine. `publish` makes what was done since the last one visible.
#[derive(Clone)]
pub struct Twin {
    inner: Arc<Mutex<Pending>>,
    ring: Arc<Mutex<BTreeMap<u64, Touched>>>,
    sender: Arc<watch::Sender<Arc<TwinView>>>,
    /// How often a bucket's totals were read.
    pub totals_read: Arc<AtomicU64>,
    pub probe: Arc<Probe>,
}

#[derive(Default)]
struct Pending {
    number: u64,
    data: Data,
    touched: Touched,
}

impl Twin {
    pub fn new() -> Twin {
        let data = Data {
            version: Some(1),
            prefix: "1.1#".into(),
            streams: vec!["lists".into()],
            op_id: 1,
            ..Data::default()
        };
        let ring = Arc::<Mutex<BTreeMap<u64, Touched>>>::default();
        let totals_read = Arc::<AtomicU64>::default();
        let probe = Arc::<Probe>::default();
        let first = Arc::new(TwinView {
            number: 0,
            data: data.clone(),
            ring: ring.clone(),
            totals_read: totals_read.clone(),
            probe: probe.clone(),
        });
        Twin {
            inner: Arc::new(Mutex::new(Pending { data, ..Pending::default() })),
            ring,
            sender: Arc::new(watch::Sender::new(first)),
            totals_read,
            probe,
        }
    }

    /// Gives op ids above this one from now on, as a store does that was put back.
    pub fn begin_run(&self, op_id: u64) {
        let data = &mut self.inner.lock().data;
        data.lost = Some((data.op_id + 1, op_id - 1));
        data.op_id = op_id;
    }

    pub fn put(&self, bucket: &str, id: &str, text: &str) -> u64 {
        let data = serde_json::json!({ "id": id, "text": text }).to_string();
        self.operation(bucket, OperationKind::Put, id, data)
    }

    pub fn remove(&self, bucket: &str, id: &str) -> u64 {
        self.operation(bucket, OperationKind::Remove, id, String::new())
    }

    fn operation(&self, bucket: &str, kind: OperationKind, id: &str, data: String) -> u64 {
        let mut inner = self.inner.lock();
        inner.data.op_id += 1;
        let op_id = inner.data.op_id;
        let checksum = hash((op_id, &data)) as u32;
        let log = inner.data.logs.entry(bucket.into()).or_default();
        Arc::make_mut(log).push(Op { op_id, kind, id: id.into(), data, checksum });
        inner.touched.buckets.insert(hash(("bucket", bucket)));
        op_id
    }

    pub fn join(&self, user: &str, bucket: &str) {
        let mut inner = self.inner.lock();
        inner.data.op_id += 1;
        inner.data.members.entry(user.into()).or_default().insert(bucket.into());
        inner.touched.lookups.insert(hash(("members", user)));
    }

    pub fn leave(&self, user: &str, bucket: &str) {
        let mut inner = self.inner.lock();
        inner.data.op_id += 1;
        inner.data.members.entry(user.into()).or_default().remove(bucket);
        inner.touched.lookups.insert(hash(("members", user)));
    }

    /// Serves another configuration: same buckets, and these streams.
    pub fn configure(&self, streams: &[&str]) {
        let mut inner = self.inner.lock();
        inner.data.version = inner.data.version.map_or(Some(1), |version| Some(version + 1));
        inner.data.streams = streams.iter().map(|&name| name.into()).collect();
        inner.touched.everything = true;
    }

    /// Drops all operation logs: the same buckets under another incarnation.
    pub fn rebuild(&self) {
        let mut inner = self.inner.lock();
        inner.data.prefix = "1.2#".into();
        inner.touched.everything = true;
    }

    pub fn unconfigure(&self) {
        self.inner.lock().data.version = None;
        self.publish();
    }

    pub fn publish(&self) {
        let mut inner = self.inner.lock();
        inner.number += 1;
        let touched = std::mem::take(&mut inner.touched);
        self.ring.lock().insert(inner.number, touched);
        let (number, data) = (inner.number, inner.data.clone());
        let (ring, totals_read) = (self.ring.clone(), self.totals_read.clone());
        let probe = self.probe.clone();
        let view = TwinView { number, data, ring, totals_read, probe };
        self.sender.send_replace(Arc::new(view));
    }
}

/// Starts the surface on an engine.
pub fn serve<S: Source>(source: S, options: SyncOptions) -> (SyncState<S>, CancellationToken) {
    let secret = Some(Secret::parse(SECRET).unwrap());
    let authenticator = Authenticator::new(AuthConfig { secret, ..AuthConfig::default() }).unwrap();
    let stop = CancellationToken::new();
    let health = || Health { started: true, ready: false, touched_at: SystemTime::UNIX_EPOCH };
    let edge = Edge::new(authenticator, 64 << 20);
    (SyncState::start(source, edge, options, health, stop.clone()), stop)
}

impl Source for Twin {
    type View = TwinView;

    fn newest(&self) -> Arc<TwinView> {
        let look = self.probe.looks.fetch_add(1, Ordering::Relaxed) + 1;
        if look == self.probe.rebuild_at.load(Ordering::Relaxed) {
            self.rebuild();
            self.publish();
        }
        self.sender.borrow().clone()
    }

    fn watch(&self) -> watch::Receiver<Arc<TwinView>> {
        self.sender.subscribe()
    }

    async fn write_checkpoint(
        &self,
        user_key: &str,
        requested: Option<u64>,
    ) -> Result<u64, SourceError> {
        if user_key.contains("unlucky") {
            return Err(SourceError("connection refused".into()));
        }
        self.probe.asked.fetch_add(1, Ordering::Relaxed);
        if user_key.contains("patient") {
            // The source has it, and is far ahead.
            return Ok(u64::MAX);
        }
        let number = {
            let mut inner = self.inner.lock();
            inner.data.op_id += 1;
            let stored = inner.data.write_checkpoints.get(user_key).copied().unwrap_or(0);
            let number = stored.max(requested.unwrap_or(inner.data.op_id * 1000));
            inner.data.write_checkpoints.insert(user_key.into(), number);
            inner.touched.users.insert(user_key.into());
            number
        };
        self.publish();
        Ok(number)
    }
}

impl TwinView {
    fn names(&self, user: &str) -> BTreeSet<String> {
        self.data.members.get(user).cloned().unwrap_or_default()
    }
}

impl View for TwinView {
    type Changes = Touched;
    type Lease = ();

    fn lease(&self) {}

    fn number(&self) -> u64 {
        self.number
    }

    fn op_id(&self) -> OpId {
        OpId(self.data.op_id)
    }

    fn is_withheld(&self) -> bool {
        false
    }

    fn version(&self) -> Option<Version> {
        self.data.version.map(|config| Version { epoch: 1, config })
    }

    fn stands_still(&self) -> bool {
        false
    }

    fn serves_name(&self, name: &str) -> bool {
        name.starts_with(&self.data.prefix)
    }

    fn is_lost(&self, op_id: OpId) -> bool {
        self.data.lost.is_some_and(|(from, to)| (from..=to).contains(&op_id.0))
    }

    fn meet_lost(&self) {}

    fn resolve(
        &self,
        asker: &Asker,
        limits: &UserLimits,
        known: &[Known],
    ) -> Result<Resolved<u64, u64>, ResolveError> {
        if self.data.version.is_none() {
            return Err(ResolveError::NoConfig);
        }
        let user = asker.claims["sub"].as_str().unwrap();
        let (mut buckets, mut keys) = (Vec::new(), Vec::new());
        for parameters in self.names(user) {
            let name = format!("{}list[{parameters:?}]", self.data.prefix);
            keys.push(hash(("bucket", &parameters)));
            let suffix = format!("[{parameters:?}]");
            buckets.push(Bucket {
                parameters_at: name.find('[').unwrap() as u32,
                name: name.into(),
                source: 0,
                priority: if parameters.starts_with("urgent") { 1 } else { 3 },
                reasons: Box::new([Reason::Default(0)]),
                found_once: true,
                totals: match known.iter().find(|known| known.name.ends_with(&suffix)) {
                    Some(known) => known.totals,
                    None => self.totals(0, &suffix)?,
                },
                place: Place::default(),
            });
        }
        if buckets.len() > limits.max_buckets {
            let (count, limit) = (buckets.len(), limits.max_buckets);
            return Err(ResolveError::TooMuch {
                description: format!("Too many buckets: {count} (limit of {limit})"),
                details: "lists".into(),
            });
        }
        let stream =
            |name: &String| StreamLine { name: name.clone(), is_default: true, errors: vec![] };
        let head = CheckpointHead {
            op_id: self.op_id(),
            write_checkpoint: self.write_checkpoint(&asker.user_key)?,
        };
        let streams = self.data.streams.iter().map(stream).collect();
        Ok(Resolved {
            announcement: Announcement { head, buckets, streams },
            interest: Interest { buckets: keys, lookups: vec![hash(("members", user))] },
            cost: Cost::default(),
        })
    }

    /// It keeps nothing of what came and went.
    fn difference(
        &self,
        _: &Asker,
        _: &UserLimits,
        _: Before<'_>,
        _: &Touched,
    ) -> Result<Option<Difference<u64>>, SourceError> {
        Ok(None)
    }

    fn totals(&self, _: u32, parameters: &str) -> Result<Totals, SourceError> {
        self.totals_read.fetch_add(1, Ordering::Relaxed);
        let [name]: [String; 1] = serde_json::from_str(parameters).unwrap();
        let Some(log) = self.data.logs.get(&name) else { return Ok(Totals::default()) };
        Ok(Totals {
            incarnation: hash(&self.data.prefix) as u32,
            number: hash(("number", &name)) as u32,
            count: log.len() as u64,
            live: log.len() as u64,
            checksum: log.iter().fold(0, |sum, op| sum.wrapping_add(op.checksum)),
            last_op: OpId(log.last().map_or(0, |op| op.op_id)),
        })
    }

    fn write_checkpoint(&self, user_key: &str) -> Result<Option<u64>, SourceError> {
        let act = self.probe.at_look.lock().take();
        if let Some(act) = act {
            act();
        }
        Ok(self.data.write_checkpoints.get(user_key).copied())
    }

    fn operations(
        &self,
        bucket: &Bucket,
        place: Place,
        (rows, bytes): (usize, usize),
        each: &mut dyn FnMut(&OperationLine<'_>),
    ) -> Result<Option<PageEnd>, SourceError> {
        let [name]: [String; 1] = serde_json::from_str(bucket.parameters()).unwrap();
        self.probe.read_on.lock().push(std::thread::current().id());
        let log = &self.data.logs[&name];
        let mut place = place;
        if place.lost {
            each(&OperationLine {
                op_id: OpId(1),
                kind: OperationKind::Clear,
                checksum: 0,
                object_type: "",
                object_id: "",
                subkey: "",
                data: "",
            });
            place = Place::default();
        }
        let wanted = place.after.0 + 1..=bucket.totals.last_op.0;
        let mut sent = (0, 0);
        for op in log.iter().filter(|op| wanted.contains(&op.op_id)) {
            if sent.0 >= rows || sent.1 >= bytes {
                return Ok(Some(PageEnd { has_more: true, place }));
            }
            sent = (sent.0 + 1, sent.1 + op.data.len());
            place.after = OpId(op.op_id);
            each(&OperationLine {
                op_id: OpId(op.op_id),
                kind: op.kind,
                checksum: op.checksum,
                object_type: "todos",
                object_id: &op.id,
                subkey: "k",
                data: &op.data,
            });
        }
        Ok(Some(PageEnd { has_more: false, place }))
    }

    fn changes_since(&self, number: u64) -> Touched {
        let ring = self.ring.lock();
        let mut all = Touched::default();
        for (_, touched) in ring.range(number + 1..=self.number.max(number + 1)) {
            all.everything |= touched.everything;
            all.buckets.extend(&touched.buckets);
            all.lookups.extend(&touched.lookups);
            all.users.extend(touched.users.iter().cloned());
        }
        all
    }
}

impl Changes for Touched {
    type BucketKey = u64;
    type LookupKey = u64;

    fn everything(&self) -> bool {
        self.everything
    }

    fn bucket(&self, wake_key: u64) -> bool {
        self.everything || self.buckets.contains(&wake_key)
    }

    fn lookup(&self, wake_key: u64) -> bool {
        self.everything || self.lookups.contains(&wake_key)
    }

    fn user(&self, user_key: &str) -> bool {
        self.everything || self.users.contains(user_key)
    }

    fn each_bucket(&self, each: &mut dyn FnMut(u64)) {
        self.buckets.iter().for_each(|&key| each(key));
    }

    fn each_lookup(&self, each: &mut dyn FnMut(u64)) {
        self.lookups.iter().for_each(|&key| each(key));
    }

    fn each_user(&self, each: &mut dyn FnMut(&str)) {
        self.users.iter().for_each(|user| each(user));
    }
}
