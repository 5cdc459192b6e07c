//! The engine's handle: starts what runs, and answers surfaces.

use crate::arrivals::ArrivalError;
use crate::beat::Beat;
use crate::board::{Board, Desired, WriterStatus};
use crate::error::{EngineError, code};
use crate::publish::Publication;
use crate::published::{Published, Requested, Withheld};
use crate::replica::Told;
use crate::sequencer::{self, Outside, Sequencer};
use crate::status::{EngineStatus, Held};
use crate::sync_view::ActiveSync;
use crate::writer::Bounds;
use hw_expr::sync_config::SyncConfig;
use hw_input::Driver;
pub use hw_input::driver::DriverOptions;
use hw_input::driver::Foreseen;
pub use hw_input::history::TakeOver;
use hw_input::signal::{Inlet, Signal};
use hw_pg::catalog::absent;
use hw_pg::config::ConnectConfig;
use hw_store::{Store, StoreError};
use hw_types::{Diagnostic, EndLsn, Lsn, TableName};
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{oneshot, watch};
use tokio::time::{MissedTickBehavior, interval};

/// How long [`Engine::arrival`] waits.
pub const ARRIVAL_LIMIT: Duration = Duration::from_secs(5);

/// How an engine runs. Bounds are bytes unless they say otherwise.
#[derive(Clone)]
pub struct EngineOptions {
    /// The store. The engine is its only writer.
    pub store: Store,
    /// How the source is followed.
    pub driver: DriverOptions,
    /// A transaction above this many bytes is folded on disk.
    pub fold_bytes: usize,
    /// Memory of one sort on disk.
    pub sort_bytes: usize,
    /// Transactions that may wait between the socket and the writer.
    pub queue_bytes: usize,
    /// What the last transactions did, for whoever keeps something up to date; 0: none of it is kept.
    pub change_list_bytes: usize,
    /// How long a definition that left is still applied.
    pub definition_retention: Duration,
    /// Counts what is done, also while the engine is being opened.
    pub beat: Beat,
}

impl EngineOptions {
    /// Defaults for a server of 512 MB.
    pub fn new(store: Store, connection: ConnectConfig) -> EngineOptions {
        EngineOptions {
            store,
            driver: DriverOptions::new(connection),
            fold_bytes: 24 << 20,
            sort_bytes: 48 << 20,
            queue_bytes: 16 << 20,
            change_list_bytes: 0,
            definition_retention: Duration::from_secs(24 * 3600),
            beat: Beat::default(),
        }
    }
}

/// The engine's handle. Clones share one engine; it stops with [`Engine::stop`].
#[derive(Clone)]
pub struct Engine {
    pub(crate) store: Store,
    pub(crate) board: Arc<Board>,
    pub(crate) publication: Arc<Publication>,
    pub(crate) inlet: Inlet,
    pub(crate) driver: Driver,
}

impl Engine {
    /// Opens the store's state, starts the writer and the driver.
    ///
    /// - Takes: the sync configuration to serve as (file name, text); `None` keeps the stored
    ///   one. An invalid one leaves the stored one serving and is reported by [`Engine::configure`]'s
    ///   findings in the second field of the answer (E-7).
    /// - Errors: the store's; `Damaged` when it has lost what cannot be made again. The source need
    ///   not be reachable.
    /// - Needs: a tokio runtime.
    pub fn start(
        options: EngineOptions,
        sync: Option<(String, String)>,
    ) -> Result<(Engine, Vec<Diagnostic>), EngineError> {
        let EngineOptions { store, driver, .. } = options;
        let board = Arc::new(Board::new(options.beat));
        // Half of the bytes may wait for the writer, as many for the assembler.
        let (inlet, queue) = Inlet::new(options.queue_bytes / 2);
        let outside = Outside {
            bounds: Bounds {
                fold_bytes: options.fold_bytes,
                sort_bytes: options.sort_bytes,
                change_list_bytes: options.change_list_bytes,
            },
            retention: options.definition_retention,
            board: board.clone(),
            inlet: inlet.clone(),
        };
        let opened = match Sequencer::open(store.clone(), outside.clone()) {
            // Behind reopening it is known what else is lost, and the rest can be read.
            Err(EngineError::Store(StoreError::SpaceDamaged { .. })) => {
                store.reopen()?;
                Sequencer::open(store.clone(), outside)
            }
            opened => opened,
        };
        let mut sequencer = opened?;
        let mut findings = Vec::new();
        if let Some((file, text)) = sync {
            match crate::definitions::compile(&file, &text) {
                Ok(_) => {
                    sequencer.configure(&file, &text)?;
                }
                Err(found) => findings = found,
            }
        }
        let publication = sequencer.publication().clone();
        hw_process::start("headwater-writer", move || sequencer::run(sequencer, queue))?;
        let told = Told {
            store: store.clone(),
            board: board.clone(),
            publication: publication.clone(),
            inlet: inlet.clone(),
        };
        let (spool, stop) = (store.spool().clone(), board.stop.subscribe());
        let (driver, work) =
            Driver::new(driver, Arc::new(told), inlet.clone(), spool, stop.clone());
        let (sessions, markers) = work.split();
        hw_process::spawn("driver", sessions);
        hw_process::spawn("markers", markers);
        hw_process::spawn("clock", tick(inlet.clone(), stop));
        Ok((Engine { store, board, publication, inlet, driver }, findings))
    }

    /// What all surfaces read now.
    pub fn published(&self) -> Arc<Published> {
        self.publication.current()
    }

    /// Wakes with every publication.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.publication.watch()
    }

    /// Wakes when another sync configuration is served, or when a definition of it stands still or goes on.
    pub fn watch_served(&self) -> watch::Receiver<Option<Arc<ActiveSync>>> {
        self.publication.watch_served()
    }

    /// Replaces the sync configuration: validated, built beside the old one from the replica,
    /// then switched.
    ///
    /// - Returns: whether anything changed.
    /// - Errors: the findings, when it does not compile, or when a definition that is served would
    ///   not be any more, because a table that it reads now is not there or cannot be replicated, or a
    ///   column is not there or not sent; the old one keeps serving (E-7).
    pub async fn configure(&self, file: &str, text: &str) -> Result<bool, Vec<Diagnostic>> {
        let config = crate::definitions::compile(file, text)?;
        self.would_lose(&config).await?;
        let (reply, answer) = oneshot::channel();
        let desired = Desired { file: file.into(), text: text.into(), reply: Some(reply) };
        Desired::hand_in(&self.board.desired, desired);
        self.inlet.wake();
        match answer.await {
            Ok(outcome) => outcome.map_err(|finding| vec![finding]),
            Err(_) => Err(vec![Diagnostic::error(code::STOPPING, "the engine is stopping")]),
        }
    }

    /// Lets no definition be served, from now on and until this is called again, that gives more than the one of its
    /// name in this configuration: whatever is served, is being built, or is held up. It needs nothing of the
    /// writer, so that nothing can come in between, and is forgotten with the process. Where states are guarded
    /// ([`Engine::guard`]) it takes at once, and gives with the next state that the guard shows.
    pub fn limit(&self, most: Arc<SyncConfig>) {
        self.publication.limit(most);
    }

    /// A write checkpoint for `<sub>/<client id>` or `<sub>`: the number that the first checkpoint
    /// carries which contains everything committed before this call (`powersync-protocol.md` 8).
    pub async fn write_checkpoint(&self, user_key: &str) -> Result<u64, EngineError> {
        let mark = || self.driver.write_checkpoint(user_key, None);
        let number = number_of(&self.board, mark).await?;
        // A client's own numbers (8.3) share the record and may be ahead of the log's positions.
        match self.published().write_checkpoint(user_key, [])? {
            Some(stored) if stored > number => {
                self.driver.write_checkpoint(user_key, Some(stored + 1)).await?;
                Ok(stored + 1)
            }
            _ => Ok(number),
        }
    }

    /// The same with the client's own number (8.3): recorded at this marker's place if it is
    /// greater than the stored one. Returns the greater of the two; where all numbers up to a greater one count
    /// as told since everything was copied anew, the first one above these, which is recorded in its place.
    pub async fn checkpoint_request(
        &self,
        user_key: &str,
        requested: u64,
    ) -> Result<u64, EngineError> {
        match self.published().requested(user_key, requested)? {
            Requested::Known(number) => Ok(number),
            Requested::Marked(number) => {
                self.driver.write_checkpoint(user_key, Some(number)).await?;
                Ok(number)
            }
        }
    }

    /// Waits until a position is published; false when that takes longer than `limit` (E-10).
    pub async fn wait_for(&self, position: EndLsn, limit: Duration) -> bool {
        let mut watch = self.watch();
        let reached = watch.wait_for(|p| p.checkpoint.end_lsn >= position);
        matches!(tokio::time::timeout(limit, reached).await, Ok(Ok(_)))
    }

    /// Wakes when something says that rights to tables may be others: the log describes a table anew or says
    /// that something was altered, or the catalog shows something else of a table. Before the state is
    /// published that contains it, and in its place in the change list
    /// ([`Committed::altered`](crate::Committed::altered),
    /// [`ChangedTable::described`](crate::ChangedTable::described)). It says neither whose they are nor that
    /// they are others; of what is only in the catalog (roles, functions, and without event triggers all of
    /// it, until the table's next change) it says nothing.
    pub fn rights(&self) -> watch::Receiver<u64> {
        self.board.rights.subscribe()
    }

    /// Waits until everything that was committed before this call has arrived: the first state from then on
    /// that contains a marker which is written now. Calls at the same time share markers.
    ///
    /// Arrived is not applied everywhere: what a table that stands still did is not in the state
    /// ([`TableView::stands_still`](crate::TableView::stands_still)).
    ///
    /// - Errors: after [`ARRIVAL_LIMIT`] at the latest.
    pub async fn arrival(&self) -> Result<Arc<Published>, ArrivalError> {
        let mut watch = self.watch();
        let arrived = async {
            let before = self.published().number;
            let marked = self.driver.mark().await?;
            let contains = |p: &Arc<Published>| {
                p.withheld.is_none() && self.publication.has_arrived(p, marked, before)
            };
            let published = watch.wait_for(contains).await.map_err(|_| ArrivalError::Stopping)?;
            Ok(published.clone())
        };
        let late = |_| match self.published().withheld {
            Some(_) => Err(ArrivalError::Withheld),
            None => Err(ArrivalError::Late),
        };
        tokio::time::timeout(ARRIVAL_LIMIT, arrived).await.unwrap_or_else(late)
    }

    /// What the engine is doing, for people and metrics.
    pub fn status(&self) -> EngineStatus {
        let published = self.published();
        let WriterStatus { building, waiting_version, stale, lost, store_error, restarts, .. } =
            self.board.writer.lock().clone();
        let mut status = EngineStatus {
            source: self.driver.status(),
            published: published.checkpoint,
            publication: published.number,
            durable: self.publication.durable(),
            epoch: published.epoch,
            sync_version: published.sync.as_ref().map(|s| s.version),
            building: published.sync.is_none() || building,
            waiting_version,
            stale,
            lost,
            began: published.runs().began(),
            went_back: published.met.finding(),
            behind: published.withheld.and_then(Withheld::finding),
            frozen: Vec::new(),
            held: Vec::new(),
            shut: Vec::new(),
            withheld: Vec::new(),
            waits_for: self.board.waits_for(),
            queue_bytes: self.inlet.waiting() as u64,
            queue_limit_bytes: self.inlet.limit() as u64,
            store_bytes: self.store.disk_bytes(),
            beat: self.board.beat.get(),
            store_error,
            restarts,
        };
        if let Some(sync) = &published.sync {
            let names = |names: BTreeSet<&str>| names.into_iter().map(String::from).collect();
            status.frozen = names(sync.frozen());
            let held = |(name, since): (&str, EndLsn)| Held {
                definition: name.to_owned(),
                since,
                write_checkpoints: published.kept_back.since(since),
            };
            status.held = sync.standing().map(held).collect();
            status.shut = sync.shut().into_iter().collect();
            status.withheld = names(sync.withheld());
            status.source.refused.extend(sync.unsent.iter().cloned());
        }
        status
    }

    /// Stops: what waits is committed, the source keeps the rest. Returns when the writer is done.
    pub async fn stop(&self) {
        self.board.stop.send_replace(true);
        let _ = self.inlet.send(Signal::Stop).await;
        self.inlet.closed().await;
    }

    /// Refuses a configuration that would take a definition from clients, because a table that it
    /// reads now is not there or cannot be replicated, or a column is not there or not sent: an empty
    /// table in place of a full one is no answer (FD-22).
    ///
    /// A source that does not answer is no reason to refuse: the definition then waits. Neither is what the
    /// definition that is served lacks as well.
    async fn would_lose(&self, config: &SyncConfig) -> Result<(), Vec<Diagnostic>> {
        let published = self.published();
        let Some(active) = &published.sync else { return Ok(()) };
        let withheld = active.withheld();
        let Some(Foreseen { refused, catalog }) = self.driver.foresee(&config.tables()).await
        else {
            return Ok(());
        };
        let mut findings = Vec::new();
        for definition in config.definitions() {
            let name = &*definition.name;
            let served = active.config.definitions().iter().find(|served| served.name == name);
            let Some(served) = served.filter(|_| !withheld.contains(name)) else { continue };
            let new = |table: &TableName| !served.reads_table(table);
            let exact: Vec<TableName> =
                definition.reads.iter().filter_map(|read| read.table.exact()).collect();
            let is_meant = |table: &TableName| exact.contains(table) && new(table);
            let of_tables = refused.iter().filter(|r| r.table.as_ref().is_some_and(is_meant));
            let of_columns = catalog.tables.iter().filter_map(|table| {
                let name = &table.facts.name;
                let new = |columns: BTreeSet<String>, before: BTreeSet<String>| &columns - &before;
                let required = new(definition.required_of(name), served.required_of(name));
                let columns = new(definition.columns_of(name), served.columns_of(name));
                let absent = absent(&table.facts, &required);
                absent.or_else(|| catalog.unsent(&table.facts, &columns))
            });
            for mut finding in of_tables.map(|r| r.finding.clone()).chain(of_columns) {
                finding.what = format!("\"{name}\" could not be served any more: {}", finding.what);
                findings.push(finding);
            }
        }
        if findings.is_empty() { Ok(()) } else { Err(findings) }
    }
}

/// The number of the marker that `mark` writes. It is asked for again where markers were given other
/// numbers meanwhile: which of both this one was stored under is not known.
async fn number_of<E, F>(board: &Board, mark: impl Fn() -> F) -> Result<u64, E>
where
    F: Future<Output = Result<Lsn, E>>,
{
    loop {
        let base = board.write_base();
        let lsn = mark().await?;
        if board.write_base() == base {
            return Ok(base + lsn.0);
        }
    }
}

/// Tells the sequencer once a second that time passes.
async fn tick(inlet: Inlet, mut stop: watch::Receiver<bool>) {
    let mut clock = interval(Duration::from_secs(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
        if inlet.send(Signal::Tick { now: sequencer::now() }).await.is_err() {
            return;
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::cell::Cell;

    /// The reply of the first marker is late, and meanwhile a run began.
    #[tokio::test]
    async fn a_write_checkpoint_has_the_number_under_which_its_marker_is_stored() {
        let board = Board::default();
        board.set_write_base(1 << 30);
        let marks = Cell::new(0);
        let mark = || async {
            marks.set(marks.get() + 1);
            if marks.get() == 1 {
                board.set_write_base(1 << 40);
            }
            Ok::<_, EngineError>(Lsn(marks.get()))
        };
        assert_eq!(number_of(&board, mark).await.unwrap(), (1 << 40) + 2);
    }
}
