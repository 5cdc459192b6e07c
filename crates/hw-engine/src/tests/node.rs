//! A source and a node of the engine for tests that need no Postgres: random transactions with
//! positions, copies of tables as they are at a position, and the engine over a simulated store,
//! driven step by step.

use crate::board::Board;
use crate::publish::Publication;
use crate::read::Published;
use crate::sequencer::{Outside, Sequencer, Work};
use crate::writer::Bounds;
use hw_input::entry::{Behind, Control, CopiedTable, Entry};
use hw_input::identity::Identity;
use hw_input::markers::MarkerContents;
use hw_input::replica::Looked;
use hw_input::signal::{CopySignal, Inlet, Load, Rows, Signal};
use hw_input::transactions::{Changes, Item, Transaction};
use hw_store::Store;
use hw_types::row::{Cell, RowBuilder};
use hw_types::{
    Change, ChangeKind, Column, CommitLsn, EndLsn, LogMessage, Lsn, PgType, Relation, RelationId,
    ReplicaIdentity, Row, TableName, Xid,
};
use parking_lot::Mutex;
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot};

pub(super) const USERS: [&str; 3] = ["amy", "bob", "cat"];
pub(super) const BEGIN: u64 = 1_000;

pub(crate) fn relation(id: u32, name: &str, columns: &[&str]) -> Arc<Relation> {
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

pub(crate) fn row(cells: &[Option<&str>]) -> Row {
    let mut builder = RowBuilder::new();
    for cell in cells {
        builder.push(cell.map_or(Cell::Null, |text| Cell::Value(text.as_bytes())));
    }
    builder.finish()
}

/// The tables as they are, and as they were behind every transaction.
#[derive(Clone, Default)]
pub(super) struct World {
    pub lists: BTreeMap<String, String>,
    pub todos: BTreeMap<String, (String, String)>,
    /// Whether todos have a column more, which is `n` in every row.
    pub note: bool,
}

impl World {
    /// The rows of a table, as a copy reads them.
    fn rows(&self, name: &str) -> Vec<Row> {
        match name {
            "lists" => self.lists.iter().map(|(id, o)| row(&[Some(id), Some(o)])).collect(),
            _ => self.todos.iter().map(|(id, (list, text))| self.todo(id, list, text)).collect(),
        }
    }

    fn todo(&self, id: &str, list: &str, text: &str) -> Row {
        let cells = [Some(id), Some(list), Some(text), Some("n")];
        row(&cells[..if self.note { 4 } else { 3 }])
    }
}

/// A source with its log.
pub(super) struct Source {
    pub lists: Arc<Relation>,
    pub todos: Arc<Relation>,
    pub world: World,
    /// Each transaction with the tables behind it.
    pub log: Vec<(Transaction, World)>,
    pub position: u64,
}

impl Source {
    pub fn new(rng: &mut StdRng) -> Source {
        let mut world = World::default();
        for i in 0..4 {
            world.lists.insert(format!("l{i}"), USERS[rng.random_range(0..3)].into());
        }
        for i in 0..10 {
            let list = format!("l{}", rng.random_range(0..5));
            world.todos.insert(format!("t{i}"), (list, "first".into()));
        }
        Source {
            lists: relation(1, "lists", &["id", "owner"]),
            todos: relation(2, "todos", &["id", "list", "text"]),
            world,
            log: Vec::new(),
            position: BEGIN,
        }
    }

    pub fn relation(&self, name: &str) -> &Arc<Relation> {
        if name == "lists" { &self.lists } else { &self.todos }
    }

    /// The tables at a position.
    pub fn world_at(&self, end: EndLsn) -> Option<&World> {
        self.log.iter().rev().find(|(t, _)| t.end_lsn <= end).map(|(_, world)| world)
    }

    pub fn commit(&mut self, rng: &mut StdRng, changes: impl FnOnce(Lsn, Xid) -> Vec<Change>) {
        self.position += rng.random_range(10..100);
        let commit = self.position;
        self.position += 40;
        let xid = Xid(commit as u32);
        let transaction = Transaction {
            commit_lsn: CommitLsn(Lsn(commit)),
            end_lsn: EndLsn(Lsn(self.position)),
            xid,
            commit_time_micros: 0,
            changes: Changes::in_memory(changes(Lsn(commit - 5), xid)),
        };
        self.log.push((transaction, self.world.clone()));
    }

    /// A marker of ours.
    pub fn mark(&mut self, rng: &mut StdRng, secret: &[u8; 32], contents: &MarkerContents) {
        self.commit(rng, |lsn, xid| {
            let content = hw_pg::marker::sign(secret, xid, "1:1:", &contents.encode()).into();
            let prefix = hw_pg::marker::PREFIX.into();
            vec![Change::Message(LogMessage { lsn, prefix, content })]
        });
    }

    /// A message under a prefix.
    pub fn say(&mut self, rng: &mut StdRng, prefix: &str) {
        self.commit(rng, |lsn, _| {
            let (prefix, content) = (prefix.into(), b"ALTER TABLE"[..].into());
            vec![Change::Message(LogMessage { lsn, prefix, content })]
        });
    }

    /// Todos get a column, or lose it.
    pub fn alter(&mut self) {
        self.world.note = !self.world.note;
        let columns = ["id", "list", "text", "note"];
        self.todos = relation(2, "todos", &columns[..if self.world.note { 4 } else { 3 }]);
    }

    /// One transaction of random changes: inserts, moves, key changes, unchanged TOAST values,
    /// deletes, now and then a TRUNCATE; `altering`, it also alters todos.
    pub fn transact(&mut self, rng: &mut StdRng, altering: bool) {
        let mut changes = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            self.change(rng, &mut changes);
        }
        if altering {
            self.alter();
            changes.push(Change::Relation(self.todos.clone()));
        }
        for _ in 0..rng.random_range(1..5) {
            self.change(rng, &mut changes);
        }
        self.commit(rng, |_, _| changes);
    }

    fn change(&mut self, rng: &mut StdRng, changes: &mut Vec<Change>) {
        let todo = format!("t{}", rng.random_range(0..14));
        let list = format!("l{}", rng.random_range(0..5));
        let relation = self.todos.clone();
        match rng.random_range(0..20) {
            0 => {
                let owner = USERS[rng.random_range(0..3)];
                let known = self.world.lists.insert(list.clone(), owner.into()).is_some();
                let new = row(&[Some(&list), Some(owner)]);
                let kind = match known {
                    true => ChangeKind::Update { old: None, new },
                    false => ChangeKind::Insert { new },
                };
                changes.push(Change::Row { relation: self.lists.clone(), kind });
            }
            1 => {
                if self.world.lists.remove(&list).is_some() {
                    let old = row(&[Some(&list), None]);
                    let kind = ChangeKind::Delete { old };
                    changes.push(Change::Row { relation: self.lists.clone(), kind });
                }
            }
            2 if rng.random_bool(0.2) => {
                self.world.todos.clear();
                changes.push(Change::Truncate { relations: vec![relation] });
            }
            3 => {
                // The key changes, the text is an unchanged TOAST value.
                let to = format!("t{}", rng.random_range(14..18));
                if let Some((_, text)) = self.world.todos.get(&todo).cloned()
                    && !self.world.todos.contains_key(&to)
                {
                    self.world.todos.remove(&todo);
                    self.world.todos.insert(to.clone(), (list.clone(), text));
                    let (to, list) = (Cell::Value(to.as_bytes()), Cell::Value(list.as_bytes()));
                    let cells = [to, list, Cell::Absent, Cell::Absent];
                    let mut builder = RowBuilder::new();
                    cells[..relation.columns.len()].iter().for_each(|cell| builder.push(*cell));
                    let old = Some(self.todo_key(&todo));
                    let kind = ChangeKind::Update { old, new: builder.finish() };
                    changes.push(Change::Row { relation, kind });
                }
            }
            4..8 => {
                if self.world.todos.remove(&todo).is_some() {
                    let kind = ChangeKind::Delete { old: self.todo_key(&todo) };
                    changes.push(Change::Row { relation, kind });
                }
            }
            _ => {
                let text = format!("v{}", rng.random_range(0..1000));
                let value = (list.clone(), text.clone());
                let known = self.world.todos.insert(todo.clone(), value).is_some();
                let new = self.world.todo(&todo, &list, &text);
                let kind = match known {
                    true => ChangeKind::Update { old: None, new },
                    false => ChangeKind::Insert { new },
                };
                changes.push(Change::Row { relation, kind });
            }
        }
    }

    /// What the log says of an old row: its key.
    fn todo_key(&self, id: &str) -> Row {
        let cells = [Some(id), None, None, None];
        row(&cells[..self.todos.columns.len()])
    }
}

/// What a node was given, for another one.
#[derive(Clone)]
pub(super) enum Recorded {
    Entry(Entry),
    /// The rows of the copy whose boundary was the last entry, by relation.
    Rows(Vec<(RelationId, Vec<Row>)>),
}

pub(super) type Recording = Arc<Mutex<Vec<Recorded>>>;

/// The engine with its queue, driven step by step.
pub(super) struct Node {
    pub store: Store,
    pub board: Arc<Board>,
    queue: mpsc::Receiver<Signal>,
    pub sequencer: Sequencer,
    /// The last number given to a stream or a copy.
    number: u64,
    session: u64,
    recording: Option<Recording>,
}

/// A copy under way.
pub(super) struct Copy {
    number: u64,
    /// X.
    pub boundary: Lsn,
    done: oneshot::Receiver<Result<(), String>>,
}

impl Copy {
    /// Whether its tables have entered.
    pub fn has_entered(&mut self) -> bool {
        matches!(self.done.try_recv(), Ok(Ok(())))
    }
}

impl Node {
    pub fn open(store: Store, fold_bytes: usize) -> Node {
        Self::recording(store, fold_bytes, None)
    }

    /// A node whose entries are recorded.
    pub fn recording(store: Store, fold_bytes: usize, recording: Option<Recording>) -> Node {
        let board = Arc::<Board>::default();
        let (inlet, queue) = Inlet::new(1 << 20);
        let bounds = Bounds { fold_bytes, sort_bytes: 4096 };
        let retention = Duration::from_secs(24 * 3600);
        let outside = Outside { bounds, retention, board: board.clone(), inlet };
        let record = recording.clone().map(|recording| -> Box<dyn FnMut(&Entry) + Send> {
            Box::new(move |entry| recording.lock().push(Recorded::Entry(entry.clone())))
        });
        let sequencer = Sequencer::recording(store.clone(), outside, record).unwrap();
        Node { store, board, queue, sequencer, number: 0, session: 0, recording }
    }

    /// The catalog is asked for the tables of the definitions, which are all of the source's.
    fn look(&self) {
        let plan = self.board.plan.borrow().clone();
        let (found, gone): (BTreeSet<_>, BTreeSet<_>) =
            [1, 2].map(RelationId).into_iter().partition(|id| plan.tables.contains_key(id));
        let (wanted, missing) = (plan.wanted.clone(), gone.len());
        *self.board.looked.lock() = Some(Looked { wanted, missing, found });
    }

    pub fn published(&self) -> Arc<Published> {
        self.publication().current()
    }

    pub fn publication(&self) -> &Publication {
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

    pub fn feed(&mut self, transaction: &Transaction) {
        let item = Item::Transaction(transaction.clone());
        let signal = Signal::Item { session: self.session, item, room: None };
        self.sequencer.handle(signal).unwrap();
    }

    /// The clock says so many seconds since 1970.
    pub fn tick(&mut self, now: u64) {
        self.sequencer.handle(Signal::Tick { now }).unwrap();
    }

    pub fn control(&mut self, control: Control) {
        self.sequencer.handle(Signal::Control(control)).unwrap();
    }

    /// Publishes what there is and finishes what is being built.
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

    pub fn configure(&mut self, text: &str) {
        self.sequencer.configure("sync.yaml", text).unwrap();
    }

    /// Begins a copy; changes of tables that have not entered are kept from here on.
    pub fn begin_copy(&mut self, whole: bool) -> u64 {
        let (reply, mut begun) = oneshot::channel();
        let copy = self.next_number();
        let begin = CopySignal::Begin { copy, whole: whole.then(|| "slot".into()), reply };
        self.sequencer.handle(Signal::Copy(begin)).unwrap();
        begun.try_recv().unwrap();
        copy
    }

    /// Reads tables as they are and loads them; they enter when `behind` has happened.
    pub fn load_copy(
        &mut self,
        number: u64,
        source: &Source,
        tables: &[&str],
        behind: impl FnOnce(Lsn) -> Behind,
    ) -> Copy {
        let (reply, mut loader) = oneshot::channel();
        let relation = |name: &&str| (**source.relation(name)).clone();
        let copied = |name| CopiedTable { relation: relation(name), facts: Vec::new() };
        let copied = tables.iter().map(copied).collect();
        let lsn = Lsn(source.position);
        let boundary = CopySignal::Boundary { copy: number, lsn, tables: copied, reply };
        self.sequencer.handle(Signal::Copy(boundary)).unwrap();
        let rows: Vec<(RelationId, Vec<Row>)> =
            tables.iter().map(|name| (source.relation(name).id, source.world.rows(name))).collect();
        if let Some(recording) = &self.recording {
            recording.lock().push(Recorded::Rows(rows.clone()));
        }
        load_rows(loader.try_recv().unwrap(), rows);
        let (done, entered) = oneshot::channel();
        let loaded = CopySignal::Loaded { copy: number, behind: behind(lsn), done };
        self.sequencer.handle(Signal::Copy(loaded)).unwrap();
        Copy { number, boundary: lsn, done: entered }
    }

    /// A copy of everything: both tables under one boundary, from which a stream begins.
    pub fn copy(&mut self, source: &Source) {
        let number = self.begin_copy(true);
        let behind = |lsn| {
            Behind::Source(Identity {
                system_id: 1,
                timeline: 1,
                database_oid: 1,
                slot: "slot".into(),
                slot_mark: lsn,
            })
        };
        let mut copy = self.load_copy(number, source, &["lists", "todos"], behind);
        assert!(copy.has_entered(), "copy {}", copy.number);
        self.stream(EndLsn(copy.boundary));
    }
}

/// Loads rows as a copy does.
pub(super) fn load_rows(loader: Box<dyn Load>, rows: Vec<(RelationId, Vec<Row>)>) {
    let (sender, receiver) = mpsc::channel(16);
    for (relation, rows) in rows {
        sender.try_send(Rows { relation, rows, last: true }).unwrap();
    }
    drop(sender);
    loader.load(receiver).unwrap();
}
