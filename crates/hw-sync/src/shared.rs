//! What all streams of the process share.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::{Duration, Instant, SystemTime};

use foldhash::fast::RandomState;
use hw_http::budget::{Budget, Shares};
use hw_http::places::Places;
use hw_http::{Bound, Edge};
use parking_lot::Mutex;
use tokio_util::sync::CancellationToken;

use crate::hub::Hub;
use crate::options::SyncOptions;
use crate::page::PageCache;
use crate::source::{Source, SourceError, View};
use crate::state::bucket::{Bucket, Totals};
use crate::telemetry::Metrics;
use crate::wire::request::{SUBSCRIPTION_BYTES, Subscription};

/// How the process is, for the probes (`powersync-protocol.md` 2.6).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Health {
    /// The engine is running.
    pub started: bool,
    /// Something is published and a sync configuration is served.
    pub ready: bool,
    /// When the replication loop last said that it is alive.
    pub touched_at: SystemTime,
}

/// The surface's state; clones share it.
pub struct SyncState<S: Source>(Arc<Shared<S>>);

impl<S: Source> Clone for SyncState<S> {
    fn clone(&self) -> Self {
        SyncState(self.0.clone())
    }
}

impl<S: Source> std::ops::Deref for SyncState<S> {
    type Target = Shared<S>;

    fn deref(&self) -> &Shared<S> {
        &self.0
    }
}

/// See [`SyncState`].
pub struct Shared<S: Source> {
    pub(crate) source: S,
    pub(crate) edge: Edge,
    pub(crate) options: SyncOptions,
    pub(crate) health: Box<dyn Fn() -> Health + Send + Sync>,
    pub(crate) stop: CancellationToken,
    pub(crate) hub: Arc<Hub<S::View>>,
    pub(crate) cache: PageCache,
    pub(crate) budget: Arc<Budget>,
    /// What open streams keep of their requests; counts in the budget.
    pub(crate) requests: Arc<Shares>,
    pub(crate) streams: Arc<Places>,
    pub(crate) reads: Arc<Places>,
    pub(crate) checkpoint_requests: Arc<Places>,
    pub(crate) checkpoint_waits: Arc<Places>,
    pub(crate) metrics: Arc<Metrics>,
    totals: Mutex<TotalsMemo>,
}

impl<S: Source> SyncState<S> {
    /// Starts the surface: its dispatcher runs until `stop` is cancelled, which also ends all
    /// streams.
    ///
    /// - Takes: the engine; who lets requests in; bounds; how the probes answer.
    /// - Needs: a tokio runtime.
    pub fn start(
        source: S,
        edge: Edge,
        options: SyncOptions,
        health: impl Fn() -> Health + Send + Sync + 'static,
        stop: CancellationToken,
    ) -> SyncState<S> {
        let hub = Arc::new(Hub::default());
        let dispatcher = hub.clone();
        let (engine, until) = (source.clone(), stop.clone());
        hw_process::spawn("the dispatcher of publications", async move {
            dispatcher.run(engine, until).await;
        });
        let budget = Budget::new(options.page_budget_bytes);
        let largest = most_kept_bytes(&options);
        let of_all = (options.page_budget_bytes / 2).max(largest);
        let of_one = (of_all / USERS).max(largest);
        let state = SyncState(Arc::new(Shared {
            source,
            edge,
            health: Box::new(health),
            stop,
            hub,
            cache: PageCache::new(options.page_cache_bytes),
            requests: Shares::new(budget.clone(), of_all, of_one),
            budget,
            streams: Places::new(options.max_streams, options.max_streams_per_user),
            reads: Places::new(options.max_reads.max(1), options.max_reads_per_user),
            checkpoint_requests: Places::new(
                options.max_checkpoint_requests,
                options.max_checkpoint_requests_per_user,
            ),
            checkpoint_waits: Places::new(
                options.max_checkpoint_waits,
                options.max_checkpoint_waits_per_user,
            ),
            metrics: Metrics::new(),
            totals: Mutex::default(),
            options,
        }));
        let shared = Arc::downgrade(&state.0);
        hw_process::spawn("what forgets pages", async move {
            loop {
                let since = Instant::now();
                tokio::time::sleep(PAGES_KEPT).await;
                let Some(shared) = shared.upgrade() else { return };
                shared.cache.forget(since);
            }
        });
        state
    }
}

/// How long a data line is kept for others behind the last one who wanted it.
const PAGES_KEPT: Duration = Duration::from_secs(15);

/// So many users at least must keep as much of their requests as they may before those of others are
/// refused, unless the largest request takes more than the share that each then has.
const USERS: usize = 8;

/// A stream keeps at most so much beside its subscriptions: the claims of its token, which has at most
/// 64 kB, three quarters of them JSON that takes up to sixteen times as much in memory, and its
/// parameters.
const MOST_BESIDE: usize = 1 << 20;

/// What a stream keeps of the largest request that is let in.
fn most_kept_bytes(options: &SyncOptions) -> usize {
    let subscriptions = options.user.max_buckets;
    let texts = (subscriptions * SUBSCRIPTION_BYTES).min(options.max_body_bytes);
    MOST_BESIDE + texts + subscriptions * size_of::<Subscription>()
}

impl<S: Source> Shared<S> {
    /// Open streams now.
    pub fn open_streams(&self) -> usize {
        self.streams.taken()
    }

    /// What is used of the surface's bounds.
    pub fn bounds(&self) -> Vec<Bound> {
        let of = |name, places: &Places| Bound::new(name, places.taken(), places.limit());
        vec![
            of("streams", &self.streams),
            of("checkpoint_requests", &self.checkpoint_requests),
            of("checkpoint_waits", &self.checkpoint_waits),
            of("reads", &self.reads),
            Bound::new("page_memory_bytes", self.budget.held(), self.budget.limit()),
        ]
    }

    /// The index of who listens for what.
    pub fn hub(&self) -> &Hub<S::View> {
        &self.hub
    }

    /// Least time between two checkpoints of one stream: with thousands of streams, rounds that
    /// follow one another closely would only be encoded and written in smaller pieces.
    pub(crate) fn pause(&self) -> Duration {
        const PER_STREAM: Duration = Duration::from_micros(10);
        const MOST: Duration = Duration::from_millis(100);
        let crowd = PER_STREAM * u32::try_from(self.open_streams()).unwrap_or(u32::MAX);
        crowd.min(MOST).max(self.options.checkpoint_pause)
    }

    /// A bucket's totals, read once per publication for all streams that share the bucket.
    pub(crate) fn totals(&self, view: &S::View, bucket: &Bucket) -> Result<Totals, SourceError> {
        let number = view.number();
        {
            let mut memo = self.totals.lock();
            if memo.number < number {
                *memo = TotalsMemo { number, totals: HashMap::default() };
            }
            if memo.number == number
                && let Some(totals) = memo.totals.get(&bucket.name)
            {
                return Ok(*totals);
            }
        }
        let totals = view.totals(bucket.source, bucket.parameters())?;
        let mut memo = self.totals.lock();
        if memo.number == number && memo.totals.len() < TotalsMemo::LIMIT {
            memo.totals.insert(bucket.name.clone(), totals);
        }
        Ok(totals)
    }
}

/// Totals of one publication by bucket name.
#[derive(Default)]
struct TotalsMemo {
    number: u64,
    totals: HashMap<Arc<str>, Totals, RandomState>,
}

impl TotalsMemo {
    /// Entries at most; a publication that changes more is read by each stream.
    const LIMIT: usize = 50_000;
}
