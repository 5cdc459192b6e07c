//! The engine's handle, and what its threads share.

use crate::error::{EngineError, code};
use crate::markers::{MarkerRequest, Markers};
use crate::publish::Publication;
use crate::read::{ActiveSync, Published};
use crate::state::{IdentityRecord, Progress, keys};
use crate::status::{EngineStatus, SourceState};
use crate::tables::Table;
use crate::writer::Writer;
use hw_expr::sync_config::{SyncConfig, TablePattern};
use hw_input::transactions::Item;
use hw_pg::config::ConnectConfig;
use hw_store::{Space, Store};
use hw_types::{Diagnostic, EndLsn, Lsn, OpId, Relation, RelationId};
use parking_lot::Mutex;
use std::collections::BTreeMap;
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
        }
    }
}

/// The engine's handle. Clones share one engine; it stops with [`Engine::stop`].
#[derive(Clone)]
pub struct Engine {
    shared: Arc<Shared>,
}

/// What comes to the writer.
pub(crate) enum Event {
    /// From the log, with the room that it takes in the queue until it is handled.
    Item(Item, Option<OwnedSemaphorePermit>),
    /// The publisher is idle again.
    Published(Result<(), EngineError>),
    /// A sync configuration that compiled.
    Configure {
        file: String,
        text: String,
        config: Arc<SyncConfig>,
        reply: oneshot::Sender<Result<bool, EngineError>>,
    },
    /// From a table copy.
    Copy(CopyEvent),
    /// A second has passed. Seconds since 1970.
    Tick { now: u64 },
    /// The process ends.
    Stop,
}

/// What a table copy tells the writer, in this order.
pub(crate) enum CopyEvent {
    /// From now on changes of tables that are not in the replica are spooled.
    Begin {
        /// Everything is copied anew under one X, from this slot; nothing is shown until it is
        /// complete.
        whole: Option<String>,
        reply: oneshot::Sender<()>,
    },
    /// The snapshot is taken; the rows will be loaded into these incarnations.
    Boundary { lsn: Lsn, relations: Vec<Relation>, reply: oneshot::Sender<Vec<LoadTarget>> },
    /// All rows are loaded. The tables enter when what `behind` says has happened.
    Loaded { behind: Behind },
    /// The copy came to nothing.
    Failed,
}

/// What a complete copy waits for before its tables enter.
pub(crate) enum Behind {
    /// The marker with this nonce, which was sent behind the copy, has come back.
    Marker(u64),
    /// Nothing: no stream runs. The copy holds everything, and the store's history is that of this
    /// source from now on.
    Source(IdentityRecord),
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
    pub wanted: watch::Sender<Vec<TablePattern>>,
    /// Tables of the replica by the source's oid, and whether they must be copied again.
    pub tables: watch::Sender<BTreeMap<RelationId, TableState>>,
    /// Tables that definitions name, exist at the source, and are not in the replica yet.
    pub missing: watch::Sender<usize>,
    pub markers: Markers,
    /// Counts entering steps.
    pub entered: watch::Sender<u64>,
    /// Counts the log's news of changed tables (`headwater setup` installs their writer).
    pub altered: watch::Sender<u64>,
    /// Counts how often the writer began again.
    pub restarts: watch::Sender<u64>,
    stop: watch::Sender<bool>,
}

/// A table of the replica as the driver sees it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TableState {
    pub relation: Arc<Relation>,
    pub stale: bool,
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
            wanted: watch::Sender::new(Vec::new()),
            tables: watch::Sender::new(BTreeMap::new()),
            missing: watch::Sender::new(usize::MAX),
            markers,
            entered: watch::Sender::new(0),
            altered: watch::Sender::new(0),
            restarts: watch::Sender::new(0),
            stop: watch::Sender::new(false),
        };
        (Arc::new(shared), queue, requests)
    }

    /// Hands an item to the writer when there is room for it. One item always fits.
    pub async fn hand_over(&self, item: Item) -> Result<(), EngineError> {
        let bytes = item.memory().clamp(1, self.queue_bytes()) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await;
        let event = Event::Item(item, room.ok());
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

    /// The progress of a store that is new: op ids start at (seconds since 2024) x 2^20, so that
    /// they are above everything that a lost store gave (E-3).
    pub fn fresh_epoch(&self) -> Progress {
        const YEAR_2024: u64 = 1_704_067_200;
        let epoch = self.now().saturating_sub(YEAR_2024);
        Progress { op_id: OpId(epoch << 20), epoch, ..Progress::default() }
    }

    /// 32 random bytes that sign markers; the caller stores them.
    pub fn new_secret(&self) -> Vec<u8> {
        let mut secret = [0u8; 32];
        aws_lc_rs::rand::fill(&mut secret).expect("the operating system gives random bytes");
        *self.secret.lock() = secret;
        secret.to_vec()
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
                SourceState::Failed { finding } => tracing::error!("{finding}"),
                other => tracing::info!("source: {other}"),
            }
            status.source = state;
        }
    }
}

impl Writer {
    /// Tells the driver which tables there are and what definitions read.
    pub(crate) fn share_tables(&self) {
        let state = |table: Arc<Table>| {
            let relation = Arc::new(table.record.relation.clone());
            let stale = self.stale.contains(&table.record.number);
            (table.record.relation.id, TableState { relation, stale })
        };
        let tables = self.tables.all().into_iter().map(state).collect();
        self.shared.status.lock().building = self.definitions.building.is_some();
        self.shared.tables.send_replace(tables);
        self.shared.wanted.send_replace(self.definitions.table_patterns());
    }

    /// Whether tables that the configuration under construction reads are still to come.
    pub(crate) fn tables_missing(&self) -> bool {
        *self.shared.missing.borrow() > 0
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
        let store = shared.options.store.clone();
        let state = store.space("state")?;
        if let Some(secret) = store.get(&state, keys::SECRET)?
            && let Ok(secret) = <[u8; 32]>::try_from(&secret[..])
        {
            *shared.secret.lock() = secret;
        }
        let mut writer = Writer::open(store, shared.clone())?;
        let mut findings = Vec::new();
        if let Some((file, text)) = sync {
            match crate::definitions::compile(&file, &text) {
                Ok(config) => {
                    writer.configure(&file, &text, config)?;
                }
                Err(found) => findings = found,
            }
        }
        let thread_shared = shared.clone();
        std::thread::Builder::new()
            .name("headwater-writer".into())
            .spawn(move || run_writer(writer, queue, thread_shared))
            .map_err(|e| EngineError::Source(format!("start the writer thread: {e}")))?;
        tokio::spawn(crate::ingest::drive(shared.clone()));
        tokio::spawn(crate::markers::run(shared.clone(), requests));
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
    /// - Errors: the findings, when it does not compile; the old one keeps serving (E-7).
    pub async fn configure(&self, file: &str, text: &str) -> Result<bool, Vec<Diagnostic>> {
        let config = crate::definitions::compile(file, text)?;
        let (reply, answer) = oneshot::channel();
        let event = Event::Configure { file: file.into(), text: text.into(), config, reply };
        let stopping = || vec![Diagnostic::error(code::STOPPING, "the engine is stopping")];
        self.shared.events.send(event).await.map_err(|_| stopping())?;
        match answer.await {
            Ok(outcome) => {
                outcome.map_err(|e| vec![Diagnostic::error(code::NOT_STORED, e.to_string())])
            }
            Err(_) => Err(stopping()),
        }
    }

    /// A write checkpoint for `<sub>/<client id>` or `<sub>`: the number that the first checkpoint
    /// carries which contains everything committed before this call (`powersync-protocol.md` 8).
    pub async fn write_checkpoint(&self, user_key: &str) -> Result<u64, EngineError> {
        let lsn = self.shared.markers.request(user_key, None).await?;
        let number = self.shared.write_base() + lsn.0;
        // A client's own numbers (8.3) share the record and may be ahead of the log's positions.
        match self.published().write_checkpoint(user_key)? {
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
        let stored = self.published().write_checkpoint(user_key)?.unwrap_or(0);
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
        status.durable = self.publication().durable();
        let queue = self.shared.queue_bytes();
        let free = self.shared.room.available_permits();
        status.queue_bytes = queue.saturating_sub(free) as u64;
        status.queue_limit_bytes = queue as u64;
        status.store_bytes = self.shared.options.store.disk_bytes();
        status.tables_missing = match *self.shared.missing.borrow() {
            usize::MAX => None,
            count => Some(count),
        };
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

/// Runs the writer; after a failure of the store opens it anew from what is durable.
fn run_writer(mut writer: Writer, mut queue: mpsc::Receiver<Event>, shared: Arc<Shared>) {
    loop {
        let Err(error) = writer.run(&mut queue) else { return };
        if shared.is_stopping() {
            return;
        }
        tracing::error!(%error, "the writer stops and starts again from the durable state");
        shared.status.lock().store_error = Some(error.to_string());
        metrics::counter!("headwater_writer_restarts_total").increment(1);
        drop(writer);
        writer = loop {
            std::thread::sleep(Duration::from_millis(500));
            if shared.is_stopping() {
                return;
            }
            while let Ok(event) = queue.try_recv() {
                if matches!(event, Event::Stop) {
                    return;
                }
            }
            let store = shared.options.store.clone();
            let opened = store.reopen().map_err(EngineError::from);
            match opened.and_then(|()| Writer::open(store, shared.clone())) {
                Ok(writer) => break writer,
                Err(error) => tracing::warn!(%error, "the store cannot be written yet"),
            }
        };
        let mut status = shared.status.lock();
        status.store_error = None;
        status.restarts += 1;
        drop(status);
        writer.publish_anew();
        // What the old writer had in memory is gone; the stream begins again behind the durable
        // state.
        shared.restarts.send_modify(|count| *count += 1);
    }
}
