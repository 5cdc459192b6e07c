//! The engine's core under a simulated store: random transactions, crashes at random moments,
//! and an oracle. One seed is one run; a failing seed is printed.
//!
//! The input is a list of transactions with positions; after a crash it is given again from the
//! position that the engine had made durable, as Postgres does. A model client follows the
//! buckets by their operations, as the official one does (`powersync-protocol.md` 6.4), and is
//! compared with the rows themselves.

use super::client::Client;
use crate::engine::{CopyEvent, EngineOptions, Event, Shared};
use crate::loader::{Rows, load};
use crate::read::Published;
use crate::sequencer::Sequencer;
use crate::state::{Record, keys};
use hw_input::entry::Behind;
use hw_input::identity::Identity;
use hw_input::transactions::{Changes, Item, Transaction};
use hw_pg::config::ConnectConfig;
use hw_store::{Simulation, Store};
use hw_types::row::{Cell, RowBuilder};
use hw_types::{
    Change, ChangeKind, Column, CommitLsn, EndLsn, LogMessage, Lsn, OpId, PgType, Relation,
    RelationId, ReplicaIdentity, Row, TableName, Xid,
};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use tokio::sync::{mpsc, oneshot};

const CONFIG: &str = "
bucket_definitions:
  lists:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM lists WHERE owner = bucket.owner
  todos:
    parameters: SELECT id AS list FROM lists WHERE owner = request.user_id()
    data:
      - SELECT * FROM todos WHERE list = bucket.list
";

/// The same parts and one more: todos that are open.
const WIDER: &str = "
bucket_definitions:
  lists:
    parameters: SELECT request.user_id() AS owner
    data:
      - SELECT * FROM lists WHERE owner = bucket.owner
  todos:
    parameters: SELECT id AS list FROM lists WHERE owner = request.user_id()
    data:
      - SELECT * FROM todos WHERE list = bucket.list
  everyone:
    data:
      - SELECT id, list AS place FROM todos
";

const USERS: [&str; 3] = ["amy", "bob", "cat"];
const BEGIN: u64 = 1_000;

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
struct World {
    lists: BTreeMap<String, String>,
    todos: BTreeMap<String, (String, String)>,
}

struct Source {
    lists: Arc<Relation>,
    todos: Arc<Relation>,
    world: World,
    log: Vec<(Transaction, World)>,
    position: u64,
}

impl Source {
    fn new(rng: &mut StdRng) -> Source {
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

    /// One transaction of random changes: inserts, moves, key changes, unchanged TOAST values,
    /// deletes, now and then a TRUNCATE.
    fn transact(&mut self, rng: &mut StdRng) {
        let mut changes = Vec::new();
        for _ in 0..rng.random_range(1..8) {
            self.change(rng, &mut changes);
        }
        self.position += rng.random_range(10..100);
        let commit = self.position;
        self.position += 40;
        let transaction = Transaction {
            commit_lsn: CommitLsn(Lsn(commit)),
            end_lsn: EndLsn(Lsn(self.position)),
            xid: Xid(commit as u32),
            commit_time_micros: 0,
            changes: Changes::in_memory(changes),
        };
        self.log.push((transaction, self.world.clone()));
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
                    let mut builder = RowBuilder::new();
                    for cell in
                        [Cell::Value(to.as_bytes()), Cell::Value(list.as_bytes()), Cell::Absent]
                    {
                        builder.push(cell);
                    }
                    let old = Some(row(&[Some(&todo), None, None]));
                    let kind = ChangeKind::Update { old, new: builder.finish() };
                    changes.push(Change::Row { relation, kind });
                }
            }
            4..8 => {
                if self.world.todos.remove(&todo).is_some() {
                    let kind = ChangeKind::Delete { old: row(&[Some(&todo), None, None]) };
                    changes.push(Change::Row { relation, kind });
                }
            }
            _ => {
                let text = format!("v{}", rng.random_range(0..1000));
                let value = (list.clone(), text.clone());
                let known = self.world.todos.insert(todo.clone(), value).is_some();
                let new = row(&[Some(&todo), Some(&list), Some(&text)]);
                let kind = match known {
                    true => ChangeKind::Update { old: None, new },
                    false => ChangeKind::Insert { new },
                };
                changes.push(Change::Row { relation, kind });
            }
        }
    }
}

/// The engine with its queue, driven step by step.
struct Node {
    shared: Arc<Shared>,
    queue: mpsc::Receiver<Event>,
    sequencer: Sequencer,
    session: u64,
}

impl Node {
    fn open(store: Store, fold_bytes: usize) -> Node {
        let (connection, _) = ConnectConfig::parse("postgres://nobody@127.0.0.1/none").unwrap();
        let mut options = EngineOptions::new(store.clone(), connection);
        options.fold_bytes = fold_bytes;
        options.sort_bytes = 4096;
        let (shared, queue, _) = Shared::new(options);
        let sequencer = Sequencer::open(store, shared.clone()).unwrap();
        shared.missing.send_replace(0);
        Node { shared, queue, sequencer, session: 0 }
    }

    fn published(&self) -> Arc<Published> {
        self.shared.publication().unwrap().current()
    }

    /// A stream begins that repeats everything behind what was confirmed.
    fn stream(&mut self, confirmed: EndLsn) {
        self.session = self.shared.next_number();
        let (session, acknowledger) = (self.session, None);
        let event = Event::Begins { session, confirmed, acknowledger };
        self.sequencer.handle(event).unwrap();
    }

    fn feed(&mut self, transaction: &Transaction) {
        let item = Item::Transaction(transaction.clone());
        let event = Event::Item { session: self.session, item, room: None };
        self.sequencer.handle(event).unwrap();
    }

    /// Publishes what there is and finishes what is being built.
    fn settle(&mut self) {
        loop {
            self.sequencer.offer().unwrap();
            while self.sequencer.is_publishing() {
                let event = self.queue.blocking_recv().unwrap();
                self.sequencer.published().unwrap();
                self.sequencer.handle(event).unwrap();
            }
            self.sequencer.offer().unwrap();
            if self.sequencer.background().unwrap() == crate::build::Slice::Idle
                && !self.sequencer.is_publishing()
            {
                return;
            }
        }
    }

    fn configure(&mut self, text: &str) {
        self.sequencer.configure("sync.yaml", text).unwrap();
    }

    /// The first copy: all tables under one boundary.
    fn copy(&mut self, source: &Source) {
        let (reply, mut begun) = oneshot::channel();
        let begin = CopyEvent::Begin { whole: Some("slot".into()), reply };
        self.sequencer.handle(Event::Copy(begin)).unwrap();
        let copy = begun.try_recv().unwrap();
        let (reply, mut targets) = oneshot::channel();
        let relations = vec![(*source.lists).clone(), (*source.todos).clone()];
        let lsn = Lsn(source.position);
        let boundary = CopyEvent::Boundary { copy, lsn, relations, reply };
        self.sequencer.handle(Event::Copy(boundary)).unwrap();
        let targets = targets.try_recv().unwrap();
        let (sender, receiver) = mpsc::channel(16);
        let world = &source.world;
        let lists = world.lists.iter().map(|(id, owner)| row(&[Some(id), Some(owner)]));
        let todos =
            world.todos.iter().map(|(id, (list, text))| row(&[Some(id), Some(list), Some(text)]));
        for (relation, rows) in
            [(&source.lists, lists.collect::<Vec<_>>()), (&source.todos, todos.collect())]
        {
            sender.try_send(Rows { relation: relation.id, rows, last: true }).unwrap();
        }
        drop(sender);
        load(&self.shared.options.store, targets, 4096, receiver).unwrap();
        let identity = Identity {
            system_id: 1,
            timeline: 1,
            database_oid: 1,
            slot: "slot".into(),
            slot_mark: lsn,
        };
        let behind = Behind::Source(identity);
        let (done, mut entered) = oneshot::channel();
        self.sequencer.handle(Event::Copy(CopyEvent::Loaded { copy, behind, done })).unwrap();
        entered.try_recv().unwrap().unwrap();
        self.stream(EndLsn(lsn));
    }
}

fn compare(client: &Client, user: &str, world: &World, wide: bool, what: &str) {
    let mine: BTreeSet<&String> =
        world.lists.iter().filter(|(_, o)| *o == user).map(|(id, _)| id).collect();
    let todos: BTreeMap<String, String> = world
        .todos
        .iter()
        .filter(|(_, (list, _))| wide || mine.contains(list))
        .map(|(id, (list, text))| {
            let whole = format!("{{\"id\":\"{id}\",\"list\":\"{list}\",\"text\":\"{text}\"}}");
            (id.clone(), whole)
        })
        .collect();
    let got = client.ids("todos");
    if wide {
        assert_eq!(got.keys().collect::<Vec<_>>(), todos.keys().collect::<Vec<_>>(), "{what}");
    } else {
        assert_eq!(got, todos, "todos of {user} {what}");
    }
    let lists: Vec<String> = client.ids("lists").into_keys().collect();
    assert_eq!(lists, mine.into_iter().cloned().collect::<Vec<_>>(), "lists of {user} {what}");
}

/// One run: crashes at random, a change of the configuration under way, clients that stay and
/// clients that are new.
fn run(seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let simulation = Simulation::new();
    let bounds = [1 << 20, 300, 1];
    let mut source = Source::new(rng);
    let mut node = Node::open(Store::simulated(&simulation), bounds[rng.random_range(0..3)]);
    node.configure(CONFIG);
    node.copy(&source);
    node.settle();
    let mut clients: BTreeMap<&str, Client> = BTreeMap::new();
    let mut fed = 0;
    let mut wide = false;
    for step in 0..40 {
        source.transact(rng);
        if rng.random_bool(0.7) {
            while fed < source.log.len() {
                node.feed(&source.log[fed].0);
                fed += 1;
                if rng.random_bool(0.3) {
                    node.settle();
                }
            }
        }
        if step == 20 {
            node.configure(WIDER);
            wide = true;
        }
        if rng.random_bool(0.15) {
            // The process dies: what was not synced is gone, and the source repeats everything
            // behind what was acknowledged.
            let acknowledged = node.shared.publication().unwrap().durable();
            drop(node);
            let kept = simulation.crash();
            node = Node::open(kept, bounds[rng.random_range(0..3)]);
            node.stream(acknowledged);
            fed = source.log.iter().filter(|(t, _)| t.end_lsn <= acknowledged).count();
            for again in fed..source.log.len() {
                node.feed(&source.log[again].0);
            }
            fed = source.log.len();
        }
        if rng.random_bool(0.5) {
            node.settle();
            let published = node.published();
            let end = published.checkpoint.end_lsn;
            let behind = source.log.iter().rev().find(|(t, _)| t.end_lsn <= end);
            let Some((_, world)) = behind else { continue };
            let wide = wide && published.sync.as_ref().unwrap().config.sources().len() == 3;
            for user in USERS {
                let what = format!("seed {seed} step {step}");
                let page = rng.random_range(1..20);
                let client = clients.entry(user).or_default();
                client.sync(user, &published, page);
                compare(client, user, world, wide, &what);
                let mut fresh = Client::default();
                fresh.sync(user, &published, page);
                compare(&fresh, user, world, wide, &format!("{what}, a fresh client"));
            }
        }
    }
}

/// P1, P2, P3, E-1, E-2, E-3, F-2, F-3, F-22, F-23, F-24, F-60 at the level of the engine.
#[test]
fn clients_equal_the_oracle_whatever_crashes() {
    for seed in 0..60 {
        run(seed);
    }
}

/// Every operation of every bucket, as bytes.
fn operations(node: &Node) -> Vec<(Vec<u8>, Vec<u8>)> {
    let published = node.published();
    let mut all = Vec::new();
    for source in &published.sync.as_ref().unwrap().sources {
        for space in [&source.ops, &source.buckets] {
            for entry in published.snapshot.all(space) {
                let (key, value) = entry.unwrap();
                all.push((key.to_vec(), value.to_vec()));
            }
        }
    }
    all
}

/// `design/engine.md` 7.3: op ids depend on the input only.
#[test]
fn memory_bounds_and_crashes_do_not_change_a_single_operation() {
    for seed in 100..115 {
        let mut outcomes = Vec::new();
        for fold_bytes in [1 << 20, 200, 1] {
            let rng = &mut StdRng::seed_from_u64(seed);
            let mut source = Source::new(rng);
            let simulation = Simulation::new();
            let mut node = Node::open(Store::simulated(&simulation), fold_bytes);
            // Op ids begin with the clock; one beginning for all three.
            node.sequencer.writer.progress.op_id = OpId(1 << 50);
            node.configure(CONFIG);
            node.copy(&source);
            node.settle();
            for _ in 0..25 {
                source.transact(rng);
                node.feed(&source.log.last().unwrap().0);
                node.settle();
            }
            outcomes.push(operations(&node));
        }
        assert_eq!(outcomes[0], outcomes[1], "seed {seed}");
        assert_eq!(outcomes[0], outcomes[2], "seed {seed}");
    }
}

/// What `headwater setup` puts into the log makes the driver look at the catalog at once; what others
/// put there does nothing.
#[test]
fn news_of_altered_tables_is_passed_on_and_messages_of_others_are_not() {
    let mut rng = StdRng::seed_from_u64(7);
    let source = Source::new(&mut rng);
    let mut node = Node::open(Store::simulated(&Simulation::new()), 1 << 20);
    node.configure(CONFIG);
    node.copy(&source);
    let mut altered = node.shared.altered.subscribe();
    for (step, (prefix, seen)) in
        [("headwater_ddl", true), ("somebody", false), ("headwater", false)].iter().enumerate()
    {
        let lsn = Lsn(source.position + 100 * (step as u64 + 1));
        let message =
            LogMessage { lsn, prefix: (*prefix).into(), content: b"ALTER TABLE"[..].into() };
        node.feed(&Transaction {
            commit_lsn: CommitLsn(lsn),
            end_lsn: EndLsn(Lsn(lsn.0 + 50)),
            xid: Xid(900 + step as u32),
            commit_time_micros: 0,
            changes: Changes::in_memory(vec![Change::Message(message)]),
        });
        assert_eq!(altered.has_changed().unwrap(), *seen, "{prefix}");
        altered.mark_unchanged();
    }
}

/// The store knows whose history it holds from the moment it holds rows of it, and what a moved
/// history noted before is gone (E-3): a crash right behind the step is no reason to copy again.
#[test]
fn a_copy_of_everything_enters_with_the_identity_of_its_source_in_one_step() {
    let mut rng = StdRng::seed_from_u64(3);
    let mut source = Source::new(&mut rng);
    let simulation = Simulation::new();
    let mut node = Node::open(Store::simulated(&simulation), 1 << 20);
    node.configure(CONFIG);
    node.copy(&source);
    for _ in 0..5 {
        source.transact(&mut rng);
        let (transaction, _) = source.log.last().unwrap().clone();
        node.feed(&transaction);
    }
    node.settle();
    source.position += 1_000;
    node.copy(&source);
    drop(node);
    let store = simulation.crash();
    let state = store.space("state").unwrap();
    let identity = store.get(&state, keys::IDENTITY).unwrap().expect("the identity was stored");
    assert_eq!(Identity::decode(&identity).unwrap().slot_mark, Lsn(source.position));
    let tail = store.space("tail").unwrap();
    let start = crate::tail::start(&store, &tail).unwrap();
    assert_eq!(start, Some(CommitLsn(Lsn(source.position))));
    assert_eq!(store.get(&state, keys::COPYING).unwrap(), None);
}
