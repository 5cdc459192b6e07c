//! The engine over a simulated store, fed with entries, without Postgres: for tests of the engine and
//! of the surfaces on it (feature `testing`; never part of a server).

use crate::board::Board;
use crate::engine::{DriverOptions, Engine};
use crate::error::EngineError;
use crate::publish::Publication;
use crate::published::Published;
use crate::replica::Told;
use crate::sequencer::{Outside, Recorder, Sequencer, Work};
use crate::writer::Bounds;
#[cfg(test)]
use crate::{state::TableRecord, tables::Table};
use hw_input::Driver;
use hw_input::entry::{Behind, Control, CopiedTable, Entry, Reading};
use hw_input::identity::Identity;
use hw_input::replica::Looked;
use hw_input::signal::{CopyDropped, CopySignal, Inlet, Load, Rows, Signal};
use hw_input::transactions::{Changes, Item, Transaction};
use hw_pg::config::ConnectConfig;
use hw_store::{Simulation, Store};
use hw_types::row::{Cell, RowBuilder};
use hw_types::{
    Change, Column, CommitLsn, EndLsn, FullXid, Lsn, OpId, PgType, Relation, RelationId,
    ReplicaIdentity, Row, TableName,
};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

/// A table of texts whose first column is its key.
pub fn relation(id: u32, name: &str, columns: &[&str]) -> Arc<Relation> {
    let column = |(i, name): (usize, &&str)| Column {
        name: (*name).into(),
        type_oid: 25,
        type_modifier: -1,
        pg_type: PgType::TEXT,
        identity: i == 0,
        primary_key: u16::from(i == 0),
    };
    Arc::new(Relation {
        id: RelationId(id),
        name: TableName::new("public", name),
        replica_identity: ReplicaIdentity::Default,
        columns: columns.iter().enumerate().map(column).collect(),
    })
}

/// A row of texts.
pub fn row(cells: &[Option<&str>]) -> Row {
    let mut builder = RowBuilder::new();
    for cell in cells {
        builder.push(cell.map_or(Cell::Null, |text| Cell::Value(text.as_bytes())));
    }
    builder.finish()
}

/// A table of the replica that has entered.
#[cfg(test)]
pub(crate) fn table(store: &Store, number: u32, relation: &Relation) -> Table {
    let record = TableRecord {
        number,
        relation: Arc::new(relation.clone()),
        boundary: Lsn(0),
        entered: true,
        stale: false,
        layout: 0,
        facts: Vec::new(),
    };
    Table::open(store, record).unwrap()
}

/// A transaction whose commit record lies between two positions.
pub fn transaction(commit: u64, end: u64, changes: Vec<Change>) -> Transaction {
    Transaction {
        commit_lsn: CommitLsn(Lsn(commit)),
        end_lsn: EndLsn(Lsn(end)),
        xid: FullXid(commit),
        commit_time_micros: 0,
        changes: Changes::in_memory(changes),
    }
}

/// Tables with their rows, as a copy reads them.
pub type Copied = Vec<(Arc<Relation>, Vec<Row>)>;

/// What a node was given, for another one.
#[derive(Clone)]
pub enum Recorded {
    /// An entry, before it was applied.
    Entry(Entry),
    /// The rows of the copy whose boundary was the last entry, by relation.
    Rows(Vec<(RelationId, Vec<Row>)>),
}

/// All that a node was given.
pub type Recording = Arc<Mutex<Vec<Recorded>>>;

/// The engine with its queue, driven step by step.
pub struct Node {
    pub(crate) store: Store,
    pub(crate) board: Arc<Board>,
    inlet: Inlet,
    queue: mpsc::Receiver<Signal>,
    pub(crate) sequencer: Sequencer,
    /// The tables of the source.
    tables: BTreeSet<RelationId>,
    /// The last number given to a stream or a copy.
    number: u64,
    session: u64,
    recording: Option<Recording>,
    /// How the last copy that was begun ends, until it is loaded.
    pub(crate) ended: Option<oneshot::Receiver<Result<(), CopyDropped>>>,
}

/// A copy whose tables wait to enter.
pub struct Copy {
    number: u64,
    /// X.
    pub(crate) boundary: Lsn,
    ended: oneshot::Receiver<Result<(), CopyDropped>>,
}

impl Copy {
    /// Whether its tables have entered.
    pub fn has_entered(&mut self) -> bool {
        matches!(self.outcome(), Some(Ok(())))
    }

    /// How it ended, once it has; told once.
    pub(crate) fn outcome(&mut self) -> Option<Result<(), CopyDropped>> {
        self.ended.try_recv().ok()
    }
}

impl Node {
    /// A node over a simulated store of its own.
    pub fn simulated() -> Node {
        Node::open(Store::simulated(&Simulation::new()), 1 << 20)
    }

    /// A node over a store; a transaction above `fold_bytes` is folded on disk.
    pub fn open(store: Store, fold_bytes: usize) -> Node {
        Self::recording(store, fold_bytes, None)
    }

    /// A node whose change list may hold so many bytes.
    pub fn listing(store: Store, fold_bytes: usize, change_list_bytes: usize) -> Node {
        Self::over(store, fold_bytes, change_list_bytes, None)
    }

    /// A node whose entries are recorded.
    pub fn recording(store: Store, fold_bytes: usize, recording: Option<Recording>) -> Node {
        Self::over(store, fold_bytes, 1 << 20, recording)
    }

    fn over(
        store: Store,
        fold_bytes: usize,
        change_list_bytes: usize,
        recording: Option<Recording>,
    ) -> Node {
        let board = Arc::<Board>::default();
        // No driver asks.
        board.asked.store(true, Ordering::Relaxed);
        let (inlet, queue) = Inlet::new(1 << 20);
        let bounds = Bounds { fold_bytes, sort_bytes: 4096, change_list_bytes };
        let retention = Duration::from_secs(24 * 3600);
        let outside = Outside { bounds, retention, board: board.clone(), inlet: inlet.clone() };
        let recorder = recording.as_ref().map(recorder);
        let sequencer = Sequencer::over(store.clone(), outside, None, recorder).unwrap();
        let tables = [1, 2].map(RelationId).into();
        let (number, session, ended) = (0, 0, None);
        Node { store, board, inlet, queue, sequencer, tables, number, session, recording, ended }
    }

    /// The writer begins again, over what this store holds.
    #[cfg(test)]
    pub(crate) fn restart(&mut self, store: Store) {
        let kept = self.sequencer.publication().clone();
        let outside = self.sequencer.outside.clone();
        let recorder = self.recording.as_ref().map(recorder);
        self.sequencer = Sequencer::over(store.clone(), outside, Some(kept), recorder).unwrap();
        self.sequencer.publish_anew();
        self.store = store;
    }

    /// The source has these tables; 1 and 2 unless this was said.
    pub fn source_has(&mut self, tables: &[RelationId]) {
        self.tables = tables.iter().copied().collect();
    }

    /// The catalog is asked for the tables of the definitions, which are all of the source's.
    fn look(&self) {
        let plan = self.board.plan.borrow().clone();
        let (found, gone): (BTreeSet<_>, BTreeSet<_>) =
            self.tables.iter().copied().partition(|id| plan.tables.contains_key(id));
        let (wanted, missing, is_settled) = (plan.wanted.clone(), BTreeSet::new(), gone.is_empty());
        *self.board.looked.lock() = Some(Looked { wanted, missing, is_settled, found });
    }

    /// The handle that surfaces have. Nobody writes markers.
    pub fn engine(&self) -> Engine {
        let (connection, _) = ConnectConfig::parse("postgres://nobody@127.0.0.1/none").unwrap();
        let (store, board, inlet) = (self.store.clone(), self.board.clone(), self.inlet.clone());
        let publication = self.sequencer.publication().clone();
        let told = Arc::new(Told {
            store: store.clone(),
            board: board.clone(),
            publication: publication.clone(),
            inlet: inlet.clone(),
        });
        let (spool, stop) = (store.spool().clone(), board.stop.subscribe());
        let options = DriverOptions::new(connection);
        let (driver, _) = Driver::new(options, told, inlet.clone(), spool, stop);
        Engine { store, board, publication, inlet, driver }
    }

    /// What surfaces read now.
    pub fn published(&self) -> Arc<Published> {
        self.publication().current()
    }

    pub(crate) fn publication(&self) -> &Publication {
        self.sequencer.publication()
    }

    fn next_number(&mut self) -> u64 {
        self.number += 1;
        self.number
    }

    /// A stream begins that repeats everything behind what was confirmed.
    pub fn stream(&mut self, confirmed: EndLsn) {
        self.session = self.next_number();
        let (compared, _) = oneshot::channel();
        let signal = Signal::Begins { session: self.session, confirmed, compared };
        self.sequencer.handle(signal).unwrap();
    }

    /// The log goes on.
    pub fn feed(&mut self, transaction: &Transaction) {
        let item = Item::Transaction(transaction.clone());
        let signal = Signal::Item { session: self.session, item, room: None };
        self.sequencer.handle(signal).unwrap();
    }

    /// The source has sent everything up to here.
    #[cfg(test)]
    pub(crate) fn progress(&mut self, end: EndLsn) {
        let item = Item::Progress(end);
        let signal = Signal::Item { session: self.session, item, room: None };
        self.sequencer.handle(signal).unwrap();
    }

    /// The clock says so many seconds since 1970.
    pub fn tick(&mut self, now: u64) {
        self.sequencer.handle(Signal::Tick { now }).unwrap();
    }

    /// The catalog shows something.
    pub fn control(&mut self, control: Control) {
        self.sequencer.handle(Signal::Control(control)).unwrap();
    }

    /// Numbers that clients are given begin anew, above this one.
    pub fn new_epoch(&mut self, above: OpId) {
        let (done, _) = oneshot::channel();
        self.sequencer.handle(Signal::NewEpoch { above, done }).unwrap();
    }

    /// Clients were shown what the store lacks.
    ///
    /// - Errors: the store's.
    pub fn behind(&mut self) -> Result<(), EngineError> {
        let (done, _) = oneshot::channel();
        self.sequencer.handle(Signal::Behind { done })
    }

    /// Publishes what there is and finishes what is being built. Blocks: not for an async context.
    pub fn settle(&mut self) {
        self.look();
        loop {
            self.sequencer.offer().unwrap();
            while self.sequencer.is_publishing() {
                let signal = self.queue.blocking_recv().unwrap();
                self.sequencer.published().unwrap();
                self.sequencer.handle(signal).unwrap();
            }
            self.sequencer.offer().unwrap();
            if self.sequencer.background().unwrap() == Work::None && !self.sequencer.is_publishing()
            {
                return;
            }
        }
    }

    /// Another sync configuration is handed in.
    pub fn configure(&mut self, text: &str) {
        self.sequencer.configure("sync.yaml", text).unwrap();
    }

    /// Begins a copy; changes of tables that have not entered are kept from here on.
    pub fn begin_copy(&mut self, whole: bool) -> u64 {
        let ((reply, mut begun), (done, ended)) = (oneshot::channel(), oneshot::channel());
        let copy = self.next_number();
        let whole = whole.then(|| "slot".into());
        let begin = CopySignal::Begin { copy, whole, reply, ended: done };
        self.sequencer.handle(Signal::Copy(begin)).unwrap();
        begun.try_recv().unwrap();
        self.ended = Some(ended);
        copy
    }

    /// Loads tables as they are at a position; they enter when `behind` has happened.
    pub fn load_copy(
        &mut self,
        number: u64,
        (lsn, tables): (Lsn, Copied),
        reading: Reading,
        behind: Behind,
    ) -> Copy {
        let (reply, mut loader) = oneshot::channel();
        let copied = |(relation, _): &(Arc<Relation>, Vec<Row>)| CopiedTable {
            relation: (**relation).clone(),
            facts: Vec::new(),
        };
        let copied = tables.iter().map(copied).collect();
        let boundary = CopySignal::Boundary { copy: number, lsn, tables: copied, reply };
        self.sequencer.handle(Signal::Copy(boundary)).unwrap();
        let rows: Vec<(RelationId, Vec<Row>)> =
            tables.into_iter().map(|(relation, rows)| (relation.id, rows)).collect();
        if let Some(recording) = &self.recording {
            recording.lock().push(Recorded::Rows(rows.clone()));
        }
        load_rows(loader.try_recv().unwrap(), rows);
        let loaded = CopySignal::Loaded { copy: number, behind, reading };
        self.sequencer.handle(Signal::Copy(loaded)).unwrap();
        Copy { number, boundary: lsn, ended: self.ended.take().expect("it was begun") }
    }

    /// A copy of everything: all tables under one boundary, from which a stream begins.
    pub fn copy(&mut self, lsn: Lsn, tables: Copied) {
        let number = self.begin_copy(true);
        let behind = Behind::Source(Identity {
            system_id: 1,
            timeline: 1,
            database_oid: 1,
            slot: "slot".into(),
            slot_mark: lsn,
        });
        let mut copy = self.load_copy(number, (lsn, tables), Reading::default(), behind);
        assert!(copy.has_entered(), "copy {}", copy.number);
        self.stream(EndLsn(copy.boundary));
    }
}

/// Writes entries down.
fn recorder(recording: &Recording) -> Recorder {
    let recording = recording.clone();
    Box::new(move |entry| recording.lock().push(Recorded::Entry(entry.clone())))
}

/// Loads rows as a copy does.
pub fn load_rows(loader: Box<dyn Load>, rows: Vec<(RelationId, Vec<Row>)>) {
    let (sender, receiver) = mpsc::channel(rows.len().max(1));
    for (relation, rows) in rows {
        sender.try_send(Rows { relation, rows, last: true }).unwrap();
    }
    drop(sender);
    loader.load(receiver).unwrap();
}
