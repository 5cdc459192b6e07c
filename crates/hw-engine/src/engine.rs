//! The engine's handle, and what its threads share.

use crate::error::{EngineError, code};
use crate::markers::{MarkerRequest, Markers};
use crate::publish::Publication;
use crate::read::{ActiveSync, Published};
use crate::sequencer::Sequencer;
use crate::state::Progress;
use crate::status::{EngineStatus, SourceState};
use crate::tables::Table;
use crate::writer::{Bounds, Writer};
use hw_input::entry::{Behind, Control, CopiedTable};
pub use hw_input::history::TakeOver;
use hw_input::transactions::Item;
use hw_pg::config::ConnectConfig;
use hw_pg::replication::Acknowledger;
use hw_store::{Space, Store};
use hw_types::facts::TableFacts;
use hw_types::{Diagnostic, EndLsn, Lsn, OpId, Relation, RelationId, TableName, TablePattern};
use parking_lot::Mutex;
use sha2::{Digest, Sha256};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::{Arc, OnceLock};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot, watch};

/// How an engine runs. Bounds are bytes unless they say otherwise.
#[derive(Clone)]
pub struct EngineOptions {
    /// The store. The engine is its only writer.
    pub store: Store,
    /// The source.
    pub connection: ConnectConfig,
    /// Tells several Headwaters of one database apart; part of the slot's name.
    pub instance: String,
    /// The publication that carries the replicated tables.
    pub publication: String,
    /// A transaction above this many bytes is folded on disk.
    pub fold_bytes: usize,
    /// Memory of one sort on disk.
    pub sort_bytes: usize,
    /// Transactions that may wait between the socket and the writer.
    pub queue_bytes: usize,
    /// Tables that are copied at once.
    pub copy_workers: usize,
    /// How long a definition that left is still applied.
    pub definition_retention: Duration,
    /// Whether a person said that the store which used the slot last is gone.
    pub take_over: TakeOver,
}

impl EngineOptions {
    /// Defaults for a server of 512 MB.
    pub fn new(store: Store, connection: ConnectConfig) -> EngineOptions {
        EngineOptions {
            store,
            connection,
            instance: "default".into(),
            publication: "headwater".into(),
            fold_bytes: 24 << 20,
            sort_bytes: 48 << 20,
            queue_bytes: 16 << 20,
            copy_workers: 2,
            definition_retention: Duration::from_secs(24 * 3600),
            take_over: TakeOver::WhenGone,
        }
    }
}

impl EngineOptions {
    /// What bounds the writer.
    pub(crate) fn bounds(&self) -> Bounds {
        Bounds { fold_bytes: self.fold_bytes, sort_bytes: self.sort_bytes }
    }
}

/// The engine's handle. Clones share one engine; it stops with [`Engine::stop`].
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What comes to the sequencer.
pub(crate) enum Event {
    /// A stream of the source begins; its items follow.
    Begins {
        /// Its number in this process.
        session: u64,
        /// Where it begins: what the source had confirmed to it.
        confirmed: EndLsn,
        /// Told what is durable.
        acknowledger: Option<Acknowledger>,
    },
    /// From the log.
    Item {
        /// Number of the stream.
        session: u64,
        item: Item,
        /// The room that it takes in the queue until it is handled.
        room: Option<OwnedSemaphorePermit>,
    },
    /// Numbers that clients are given begin anew, above this one.
    NewEpoch { above: OpId },
    /// From a table copy.
    Copy(CopyEvent),
    /// What the catalog of the source shows.
    Control(Control),
    /// A second has passed. Seconds since 1970.
    Tick { now: u64 },
    /// The publisher is idle again, or a configuration was handed in.
    Wake,
    /// The process ends.
    Stop,
}

/// What a table copy tells, in this order. A reply that is dropped says that the writer began
/// again without this copy.
pub(crate) enum CopyEvent {
    /// From now on changes of tables that are not in the replica are kept.
    Begin {
        /// Everything is copied anew under one X, from this slot; nothing is shown until it is
        /// complete.
        whole: Option<String>,
        /// The copy's number.
        reply: oneshot::Sender<u64>,
    },
    /// The snapshot is taken; the rows will be loaded into these incarnations.
    Boundary {
        copy: u64,
        lsn: Lsn,
        tables: Vec<CopiedTable>,
        reply: oneshot::Sender<Vec<LoadTarget>>,
    },
    /// All rows are loaded. The tables enter when what `behind` says has happened.
    Loaded {
        copy: u64,
        behind: Behind,
        /// Answered when they have entered, or when the copy was thrown away, with the reason.
        done: oneshot::Sender<Result<(), String>>,
    },
    /// The copy came to nothing.
    Failed,
}

/// A sync configuration that compiles and was handed in.
pub(crate) struct Desired {
    pub file: String,
    pub text: String,
    /// Told whether anything changed; `None` when nobody waits.
    pub reply: Option<oneshot::Sender<Result<bool, Diagnostic>>>,
}

impl Desired {
    /// Hands a configuration in, in place of one that was not taken over yet.
    pub fn hand_in(place: &Mutex<Option<Desired>>, desired: Desired) {
        let before = place.lock().replace(desired);
        if let Some(reply) = before.and_then(|before| before.reply) {
            let what = "a newer sync configuration was handed in before this one was taken over";
            let _ = reply.send(Err(Diagnostic::error(code::OVERTAKEN, what)));
        }
    }

    /// Puts one back that could not be taken over, unless a newer one is there.
    pub fn put_back(place: &Mutex<Option<Desired>>, desired: Desired) {
        let newer = place.lock().take();
        Self::hand_in(place, desired);
        if let Some(newer) = newer {
            Self::hand_in(place, newer);
        }
    }
}

/// Where the rows of a copied table go.
#[derive(Clone)]
pub(crate) struct LoadTarget {
    pub table: Arc<Table>,
}

/// What the writer, the driver and the handle share.
pub(crate) struct Shared {
    pub options: EngineOptions,
    pub events: mpsc::Sender<Event>,
    /// Bytes of items that may wait for the writer.
    room: Arc<Semaphore>,
    publication: OnceLock<Arc<Publication>>,
    secret: Mutex<[u8; 32]>,
    write_base: AtomicU64,
    pub status: Mutex<EngineStatus>,
    /// What definitions read, for the driver.
    pub wanted: watch::Sender<Arc<Vec<TablePattern>>>,
    /// Tables of the replica by the source's oid, and whether they must be copied again.
    pub tables: watch::Sender<Arc<BTreeMap<RelationId, TableState>>>,
    /// Tables that exist and cannot be replicated, as the sequencer was told last.
    pub refused: Mutex<BTreeSet<TableName>>,
    /// What the last look at the catalog found.
    pub looked: Mutex<Option<Looked>>,
    pub markers: Markers,
    /// Counts the log's news of changed tables (`headwater setup` installs their writer).
    pub altered: watch::Sender<u64>,
    /// Counts how often the writer began again.
    pub restarts: watch::Sender<u64>,
    /// Counts how often the source's history was found to be another one.
    pub moved: watch::Sender<u64>,
    /// The newest configuration that was handed in and not taken over. A place, not an event: no
    /// failure of the writer forgets it.
    pub desired: Mutex<Option<Desired>>,
    /// Grows while the writer works or waits for work; stands still when it hangs.
    pub beat: Arc<AtomicU64>,
    /// The last number given to a stream or a copy.
    numbers: AtomicU64,
    stop: watch::Sender<bool>,
}

/// A table of the replica as the driver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableState {
    pub relation: Arc<Relation>,
    /// What its rows depend on, as noted; nothing that can be read is noted of no table.
    pub facts: Option<Arc<TableFacts>>,
    /// How often the log has emptied it.
    pub truncations: u64,
    pub stale: bool,
}

/// What a look at the catalog found.
#[derive(Clone, Debug)]
pub(crate) struct Looked {
    /// The patterns that it looked for.
    pub wanted: Arc<Vec<TablePattern>>,
    /// Tables that these mean, that can be replicated, and are not in the replica as they are now.
    pub missing: usize,
}

impl Shared {
    /// Shared state with the queues that the writer and the marker task read.
    pub fn new(
        options: EngineOptions,
    ) -> (Arc<Shared>, mpsc::Receiver<Event>, mpsc::Receiver<MarkerRequest>) {
        let (events, queue) = mpsc::channel(1024);
        let (markers, requests) = Markers::new();
        let shared = Shared {
            room: Arc::new(Semaphore::new(options.queue_bytes / 2)),
            options,
            events,
            publication: OnceLock::new(),
            secret: Mutex::new([0; 32]),
            write_base: AtomicU64::new(0),
            status: Mutex::default(),
            wanted: watch::Sender::default(),
            tables: watch::Sender::default(),
            refused: Mutex::default(),
            looked: Mutex::new(None),
            markers,
            moved: watch::Sender::new(0),
            desired: Mutex::new(None),
            beat: Arc::default(),
            numbers: AtomicU64::new(0),
            altered: watch::Sender::new(0),
            restarts: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        };
        (Arc::new(shared), queue, requests)
    }

    /// Hands an item to the writer when there is room for it. One item always fits.
    pub async fn hand_over(&self, session: u64, item: Item) -> Result<(), EngineError> {
        let bytes = item.memory().clamp(1, self.queue_bytes()) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await;
        let event = Event::Item { session, item, room: room.ok() };
        self.events.send(event).await.map_err(|_| EngineError::Stopping)
    }

    /// Bytes that may wait for the writer. As many may wait for the assembler.
    pub fn queue_bytes(&self) -> usize {
        self.options.queue_bytes / 2
    }

    /// Seconds since 1970.
    pub fn now(&self) -> u64 {
        SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
    }

    /// A number for a stream or a copy that no other has in this process.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }

    /// An epoch behind `last`: seconds since 2024, so that op ids, which begin at 2^20 times that,
    /// are above everything that a lost store gave; and above what is known to have been given,
    /// should the clock have gone back (E-3).
    pub fn fresh_epoch(&self, last: u64, above: OpId) -> u64 {
        const YEAR_2024: u64 = 1_704_067_200;
        let clock = self.now().saturating_sub(YEAR_2024);
        clock.max(last + 1).max((above.0 >> 20) + 1)
    }

    /// Names this store at the source. As secret as a number can be that others read.
    pub fn store_id(&self) -> u128 {
        let hash = Sha256::digest(self.secret());
        u128::from_be_bytes(hash[..16].try_into().expect("a digest has 32 bytes"))
    }

    /// What is added to a marker's position to give a write checkpoint's number.
    pub fn write_base(&self) -> u64 {
        self.write_base.load(Ordering::Acquire)
    }

    pub fn set_write_base(&self, base: u64) {
        self.write_base.store(base, Ordering::Release);
    }

    pub fn secret(&self) -> [u8; 32] {
        *self.secret.lock()
    }

    pub fn set_secret(&self, secret: [u8; 32]) {
        *self.secret.lock() = secret;
    }

    /// Creates the publication at the first opening; later ones go on with it, so that surfaces
    /// keep their watch.
    pub fn open_publication(
        &self,
        store: &Store,
        write_checkpoints: &Space,
        progress: &Progress,
        active: &Option<Arc<ActiveSync>>,
    ) -> Arc<Publication> {
        let create = || {
            let (store, space) = (store.clone(), write_checkpoints.clone());
            Arc::new(Publication::new(store, space, progress, active.clone()))
        };
        self.publication.get_or_init(create).clone()
    }

    pub fn publication(&self) -> Option<&Arc<Publication>> {
        self.publication.get()
    }

    pub fn stopping(&self) -> watch::Receiver<bool> {
        self.stop.subscribe()
    }

    pub fn is_stopping(&self) -> bool {
        *self.stop.borrow()
    }

    /// Notes where the source stands; a change of state is logged once.
    pub fn source_state(&self, state: SourceState) {
        let mut status = self.status.lock();
        if status.source != state {
            match &state {
                SourceState::Failed { finding } => finding.log(),
                other => tracing::info!("source: {other}"),
            }
            status.source = state;
        }
    }

    /// Tells the driver which tables there are and what definitions read.
    pub fn share_tables(&self, writer: &Writer) {
        let known = self.tables.borrow().clone();
        let state = |table: Arc<Table>| {
            let record = &table.record;
            let relation = Arc::new(record.relation.clone());
            let before = known.get(&record.relation.id).and_then(|known| known.facts.clone());
            let facts = before.filter(|facts| facts.encode() == record.facts);
            let decoded = || TableFacts::decode(&record.facts).ok().map(Arc::new);
            let facts = facts.or_else(decoded);
            let stale = writer.stale.contains(&record.number);
            let truncations = writer.truncations.get(&record.number).copied().unwrap_or(0);
            (record.relation.id, TableState { relation, facts, truncations, stale })
        };
        let tables: BTreeMap<_, _> = writer.tables.all().into_iter().map(state).collect();
        {
            let mut status = self.status.lock();
            status.building = writer.is_building();
            status.waiting_version = writer.building_version();
            let stale = tables.values().filter(|table| table.stale);
            status.stale = stale.map(|table| table.relation.name.clone()).collect();
        }
        let changed = |old: &mut Arc<BTreeMap<_, _>>| {
            let differs = **old != tables;
            if differs {
                *old = Arc::new(tables);
            }
            differs
        };
        self.tables.send_if_modified(changed);
        let patterns = writer.definitions.table_patterns();
        self.wanted.send_if_modified(|old| {
            let differs = **old != patterns;
            if differs {
                *old = Arc::new(patterns);
            }
            differs
        });
    }

    /// Whether all tables that definitions name, the ones under construction included, have
    /// entered as they are at the source. Not before the catalog was asked for them.
    pub fn tables_are_there(&self) -> bool {
        let wanted = self.wanted.borrow().clone();
        let looked = self.looked.lock();
        looked.as_ref().is_some_and(|l| l.missing == 0 && *l.wanted == *wanted)
    }
}

impl Engine {
    /// Opens the store's state, starts the writer and the driver.
    ///
    /// - Takes: the sync configuration to serve as (file name, text); `None` keeps the stored
    ///   one. An invalid one leaves the stored one serving and is reported by [`Engine::configure`]'s
    ///   findings in the second field of the answer (E-7).
    /// - Errors: the store's. The source need not be reachable.
    /// - Needs: a tokio runtime.
    pub fn start(
        options: EngineOptions,
        sync: Option<(String, String)>,
    ) -> Result<(Engine, Vec<Diagnostic>), EngineError> {
        let (shared, queue, requests) = Shared::new(options);
        let mut sequencer = Sequencer::open(shared.options.store.clone(), shared.clone())?;
        let mut findings = Vec::new();
        if let Some((file, text)) = sync {
            match crate::definitions::compile(&file, &text) {
                Ok(_) => {
                    sequencer.configure(&file, &text)?;
                }
                Err(found) => findings = found,
            }
        }
        let thread_shared = shared.clone();
        crate::threads::start("headwater-writer", move || {
            crate::sequencer::run(sequencer, queue, thread_shared);
        })?;
        crate::threads::spawn("driver", crate::ingest::drive(shared.clone()));
        crate::threads::spawn("markers", crate::markers::run(shared.clone(), requests));
        Ok((Engine { shared }, findings))
    }

    /// What all surfaces read now.
    pub fn published(&self) -> Arc<Published> {
        self.publication().current()
    }

    /// Wakes with every publication.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.publication().watch()
    }

    fn publication(&self) -> &Arc<Publication> {
        self.shared.publication().expect("opened by start before the handle exists")
    }

    /// Replaces the sync configuration: validated, built beside the old one from the replica,
    /// then switched.
    ///
    /// - Returns: whether anything changed.
    /// - Errors: the findings, when it does not compile, or when a definition that is served would
    ///   not be any more, because a table that it reads now cannot be replicated; the old one keeps
    ///   serving (E-7).
    pub async fn configure(&self, file: &str, text: &str) -> Result<bool, Vec<Diagnostic>> {
        let config = crate::definitions::compile(file, text)?;
        crate::watch::would_lose(&self.shared, &self.published(), &config).await?;
        let (reply, answer) = oneshot::channel();
        let desired = Desired { file: file.into(), text: text.into(), reply: Some(reply) };
        Desired::hand_in(&self.shared.desired, desired);
        // Without room in the queue somebody takes from it, and looks for configurations, too.
        let _ = self.shared.events.try_send(Event::Wake);
        match answer.await {
            Ok(outcome) => outcome.map_err(|finding| vec![finding]),
            Err(_) => Err(vec![Diagnostic::error(code::STOPPING, "the engine is stopping")]),
        }
    }

    /// A write checkpoint for `<sub>/<client id>` or `<sub>`: the number that the first checkpoint
    /// carries which contains everything committed before this call (`powersync-protocol.md` 8).
    pub async fn write_checkpoint(&self, user_key: &str) -> Result<u64, EngineError> {
        let lsn = self.shared.markers.request(user_key, None).await?;
        let number = self.shared.write_base() + lsn.0;
        // A client's own numbers (8.3) share the record and may be ahead of the log's positions.
        match self.published().write_checkpoint(user_key, [])? {
            Some(stored) if stored > number => {
                self.shared.markers.request(user_key, Some(stored + 1)).await?;
                Ok(stored + 1)
            }
            _ => Ok(number),
        }
    }

    /// The same with the client's own number (8.3): recorded at this marker's place if it is
    /// greater than the stored one. Returns the greater of the two.
    pub async fn checkpoint_request(
        &self,
        user_key: &str,
        requested: u64,
    ) -> Result<u64, EngineError> {
        let stored = self.published().write_checkpoint(user_key, [])?.unwrap_or(0);
        if requested < stored {
            return Ok(stored);
        }
        self.shared.markers.request(user_key, Some(requested)).await?;
        Ok(requested)
    }

    /// Waits until a position is published; false when that takes longer than `limit` (E-10).
    pub async fn wait_for(&self, position: EndLsn, limit: Duration) -> bool {
        let mut watch = self.watch();
        let reached = watch.wait_for(|p| p.checkpoint.end_lsn >= position);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// What the engine is doing, for people and metrics.
    pub fn status(&self) -> EngineStatus {
        let mut status = self.shared.status.lock().clone();
        let published = self.published();
        status.published = published.checkpoint;
        status.publication = published.number;
        status.epoch = published.epoch;
        status.sync_version = published.sync.as_ref().map(|s| s.version);
        status.beat = self.shared.beat.load(Ordering::Relaxed);
        status.durable = self.publication().durable();
        let queue = self.shared.queue_bytes();
        let free = self.shared.room.available_permits();
        status.queue_bytes = queue.saturating_sub(free) as u64;
        status.queue_limit_bytes = queue as u64;
        status.store_bytes = self.shared.options.store.disk_bytes();
        status.tables_missing = self.shared.looked.lock().as_ref().map(|looked| looked.missing);
        if let Some(sync) = &published.sync {
            let names = |names: BTreeSet<&str>| names.into_iter().map(String::from).collect();
            status.frozen = names(sync.frozen());
            status.withheld = names(sync.withheld());
        }
        status.building = published.sync.is_none() || status.building;
        status
    }

    /// Stops: what waits is committed, the source keeps the rest. Returns when the writer is done.
    pub async fn stop(&self) {
        self.shared.stop.send_replace(true);
        let _ = self.shared.events.send(Event::Stop).await;
        self.shared.events.closed().await;
    }
}
