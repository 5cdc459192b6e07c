//! The engine's core under a simulated store: random transactions, crashes at random moments,
//! tables that cannot be followed for a while or that others take the place of, keys that become others,
//! and an oracle. One seed is one run; a failing seed
//! is printed.
//!
//! The input is a list of transactions with positions; after a crash it is given again from the
//! position that the engine had made durable, as Postgres does. A model client follows the
//! buckets by their operations, as the official one does (`powersync-protocol.md` 6.4), and is
//! compared with the rows themselves.

use super::change_list::Follower;
use super::client::Client;
use super::source::{BEGIN, Source, USERS, World};
use crate::apply::Applied;
use crate::loader::Loader;
use crate::published::{Published, Requested, Withheld};
use crate::state::{IncarnationRecord, Record, keys};
use crate::testing::{Copy, Node, Recorded, Recording, load_rows, row, transaction};
use crate::writer::{Bounds, Writer};
use hw_input::entry::{Behind, Control, Entry, Reading};
use hw_input::identity::Identity;
use hw_input::markers::{MarkerContents, WriteCheckpoint};
use hw_input::signal::{CopySignal, Signal};
use hw_store::{Batch, Simulation, Store};
use hw_types::row::{Cell, RowBuilder};
use hw_types::{Change, ChangeKind, Column, CommitLsn, EndLsn, Lsn, OpId, RelationId, TableName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

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

/// What a user sees of a world: lists, todos of these, and ids of all todos.
fn compare(client: &Client, user: &str, published: &Published, source: &Source, what: &str) {
    let sync = published.sync.as_ref().unwrap();
    let end = published.checkpoint.end_lsn;
    // A definition that stands still is compared with the world in which it does.
    let world = |name: &str| {
        let index = sync.config.definitions().iter().position(|d| d.name == name)?;
        // One that waits answers nobody. What everybody had before never does.
        if sync.withheld[index] {
            assert_eq!(name, "everyone", "{what}");
            return None;
        }
        source.world_at(sync.frozen[index].unwrap_or(end))
    };
    let (Some(lists), Some(todos)) = (world("lists"), world("todos")) else { return };
    let owned = |world: &World| -> BTreeSet<String> {
        world.lists.iter().filter(|(_, o)| *o == user).map(|(id, _)| id.clone()).collect()
    };
    // Of a definition that stands still: what he has had ever since. Where the lists are followed, a
    // transaction counts as a whole, and else each change of it.
    let since = sync.config.definitions().iter().position(|d| d.name == "todos").unwrap();
    let since = sync.frozen[since].unwrap_or(end);
    let (mut most, mut least) = (owned(todos), owned(todos));
    for (transaction, world) in
        source.log.iter().filter(|(t, _)| since < t.end_lsn && t.end_lsn <= end)
    {
        most.retain(|list| world.lists.get(list).is_some_and(|owner| owner == user));
        least.retain(|list| !source.takes_away(transaction, list, user, todos));
    }
    if source.rekeyed.iter().any(|at| *at >= since.0.0) {
        least.clear();
    }
    least.retain(|list| most.contains(list));
    let note = if todos.note { ",\"note\":\"n\"" } else { "" };
    let of_lists = |mine: &BTreeSet<String>| -> BTreeMap<String, String> {
        let todos = todos.todos.iter().filter(|(_, (list, _))| mine.contains(list));
        todos
            .map(|(id, (list, text))| {
                let whole =
                    format!("{{\"id\":\"{id}\",\"list\":\"{list}\",\"text\":\"{text}\"{note}}}");
                (id.clone(), whole)
            })
            .collect()
    };
    let (most, least) = (of_lists(&most), of_lists(&least));
    let got = client.ids("todos");
    match world("everyone") {
        Some(everyone) => {
            let ids = |mine: &BTreeMap<String, String>| -> BTreeSet<String> {
                mine.keys().chain(everyone.todos.keys()).cloned().collect()
            };
            let got: BTreeSet<String> = got.into_keys().collect();
            assert!(got.is_subset(&ids(&most)), "all todos {what}: {got:?} of {most:?}");
            assert!(got.is_superset(&ids(&least)), "all todos {what}: {got:?} of {least:?}");
        }
        None if most == least => assert_eq!(got, most, "todos of {user} {what}"),
        None => {
            let had = |(id, todo): (&String, &String)| most.get(id) == Some(todo);
            assert!(got.iter().all(had), "todos of {user} {what}: {got:?} of {most:?}");
            let has = |(id, todo): (&String, &String)| got.get(id) == Some(todo);
            assert!(least.iter().all(has), "todos of {user} {what}: {got:?} of {least:?}");
        }
    }
    let got: BTreeSet<String> = client.ids("lists").into_keys().collect();
    assert_eq!(got, owned(lists), "lists of {user} {what}");
}

/// A run with everything in it: crashes at random, changes of the configuration, tables that are
/// altered or must be copied again, clients that stay and clients that are new.
struct Run {
    rng: StdRng,
    simulation: Simulation,
    source: Source,
    node: Node,
    clients: BTreeMap<&'static str, Client>,
    follower: Follower,
    /// Whether the node is another one since the follower read.
    is_other: bool,
    /// Transactions of the log that the node was given.
    fed: usize,
    /// The copy that waits for its tables to enter, with its nonce.
    copy: Option<Copy>,
    /// How often the keys of lists had been made anew when a copy was read that has this place.
    keys: BTreeMap<Lsn, usize>,
    /// Whether the next copy may be read in key ranges: the last one could be.
    ranges_fit: bool,
    recording: Option<Recording>,
    /// How often a crash damages a space that can be made again.
    damage: f64,
    /// Tables that have left, as their names are, until they enter again.
    left: BTreeSet<&'static str>,
    /// Tables that the catalog shows as such that cannot be replicated.
    refused: BTreeSet<TableName>,
    /// How the lists that entered last are told apart.
    identity: (usize, Column),
}

const BOUNDS: [usize; 3] = [1 << 20, 300, 1];

impl Run {
    fn new(seed: u64, recording: Option<Recording>) -> Run {
        let mut rng = StdRng::seed_from_u64(seed);
        let simulation = Simulation::new();
        let source = Source::new(&mut rng);
        let bound = BOUNDS[rng.random_range(0..3)];
        let store = Store::simulated(&simulation);
        let mut node = Node::recording(store, bound, recording.clone());
        node.configure(CONFIG);
        let (lsn, tables) = source.all();
        let keys = BTreeMap::from([(lsn, 0)]);
        node.copy(lsn, tables);
        node.settle();
        let clients = BTreeMap::new();
        let (fed, copy, ranges_fit, damage) = (0, None, true, 0.0);
        let (follower, is_other, left) = (Follower::default(), false, BTreeSet::new());
        let (refused, identity) = (BTreeSet::new(), (0, source.lists.columns[0].clone()));
        Run {
            rng,
            simulation,
            source,
            node,
            clients,
            follower,
            is_other,
            fed,
            copy,
            keys,
            ranges_fit,
            recording,
            damage,
            left,
            refused,
            identity,
        }
    }

    /// The disk damages a space at random.
    fn damage(&mut self) {
        let store = &self.node.store;
        let replaceable = |name: &String| name.contains('.');
        let names: Vec<String> = store.space_names().into_iter().filter(replaceable).collect();
        self.simulation.damage(&names[self.rng.random_range(0..names.len())]);
    }

    fn feed(&mut self) {
        self.node.source_has(&[self.source.lists.id, self.source.todos.id]);
        while self.fed < self.source.log.len() {
            self.node.feed(&self.source.log[self.fed].0);
            self.fed += 1;
            if self.rng.random_bool(0.3) {
                self.node.settle();
            }
        }
    }

    /// What was recorded so far has happened, whatever comes: then a crash loses nothing.
    fn keep_recorded(&mut self) {
        if self.recording.is_some() {
            self.node.settle();
            self.node.store.sync().unwrap();
        }
    }

    fn crash(&mut self) {
        self.keep_recorded();
        // The process dies: what was not synced is gone, and the source repeats everything
        // behind what was acknowledged.
        let acknowledged = self.node.publication().durable();
        if self.rng.random_bool(self.damage) {
            self.damage();
        }
        let kept = self.simulation.crash();
        let bound = BOUNDS[self.rng.random_range(0..3)];
        self.node = Node::recording(kept, bound, self.recording.clone());
        self.is_other = true;
        self.reconnect(acknowledged);
    }

    /// The disk fails for a moment, and nothing is lost by it: the writer begins again in the same process.
    fn restart(&mut self) {
        self.node.settle();
        self.node.store.sync().unwrap();
        let acknowledged = self.node.publication().durable();
        let store = self.node.store.clone();
        store.reopen().unwrap();
        self.node.restart(store);
        self.reconnect(acknowledged);
    }

    /// The stream and whoever compares the catalog begin again.
    fn reconnect(&mut self, acknowledged: EndLsn) {
        self.copy = None;
        // At each connect the catalog is compared: what it showed before may have been lost.
        self.node.control(Control::Refused(self.refused.clone()));
        let known = self.node.board.plan.borrow().tables.clone();
        for now in [&self.source.lists, &self.source.todos] {
            if known.get(&now.id).is_some_and(|table| table.relation.columns != now.columns) {
                let (table, reason) = (now.id, "altered".into());
                self.node.control(Control::Stale { table, reason, untraced: false });
            }
        }
        let lists = &self.source.lists;
        let renamed =
            known.values().find(|t| t.relation.name == lists.name && t.relation.id != lists.id);
        if let Some(renamed) = renamed {
            let (table, reason) = (renamed.relation.id, "renamed".into());
            self.node.control(Control::Stale { table, reason, untraced: false });
        }
        let table = self.node.sequencer.writer.tables.of_relation(lists.id);
        let keys = table.map(|table| self.keys[&table.record.boundary]);
        if keys.is_some_and(|keys| keys != self.source.world.keys) {
            let (table, reason) = (lists.id, "rewritten".into());
            self.source.rekeyed.push(self.source.position);
            self.node.control(Control::Stale { table, reason, untraced: true });
        }
        self.node.stream(acknowledged);
        let durable = |(t, _): &&(_, World)| {
            let t: &hw_input::transactions::Transaction = t;
            t.end_lsn <= acknowledged
        };
        self.fed = self.source.log.iter().filter(durable).count();
        self.feed();
    }

    /// The source says that clients were shown more: nobody is answered until a copy of everything has
    /// entered, whatever crashes.
    fn behind(&mut self) {
        if self.copy.take().is_some() {
            self.node.sequencer.handle(Signal::Copy(CopySignal::Failed)).unwrap();
        }
        self.node.behind().unwrap();
        if self.rng.random_bool(0.5) {
            self.crash();
        }
        assert_eq!(self.node.published().withheld, Some(Withheld::Behind));
        let above = self.node.published().checkpoint.op_id;
        self.node.new_epoch(OpId(above.0 + (5 << 20)));
        self.copy_all();
        assert_eq!(self.node.published().withheld, None);
    }

    /// Everything is copied and compared, and the stream begins there.
    fn copy_all(&mut self) {
        let (lsn, tables) = self.source.all();
        self.keys.insert(lsn, self.source.world.keys);
        self.node.copy(lsn, tables);
        self.fed = self.source.log.len();
        self.node.settle();
        assert!(!self.node.sequencer.writer.has_moved());
    }

    /// The source writes where it had said that nothing is: nothing of it is applied until everything has
    /// been copied, whatever crashes.
    fn history_moves(&mut self) {
        self.feed();
        if self.copy.take().is_some() {
            self.node.sequencer.handle(Signal::Copy(CopySignal::Failed)).unwrap();
        }
        self.node.progress(EndLsn(Lsn(self.source.position + 1_000)));
        self.source.transact(&mut self.rng, false);
        self.feed();
        assert!(self.node.sequencer.writer.has_moved());
        // Where it could not be noted, the next session finds it out as this one did.
        self.node.settle();
        self.node.store.sync().unwrap();
        match self.rng.random_range(0..3) {
            0 => self.crash(),
            1 => self.restart(),
            _ => {}
        }
        assert!(self.node.sequencer.writer.has_moved());
        self.copy_all();
    }

    /// What the catalog shows of tables that are as they were: other facts of one, or that one cannot be
    /// replicated, for a while or for good.
    fn look(&mut self) {
        let table = self.any_table();
        // Those of a test say nothing, here or there.
        let facts = vec![self.rng.random(); 3];
        self.node.control(Control::Adopt { table, facts });
        let names = ["lists", "todos", "notes"].map(|name| TableName::new("public", name));
        self.refused = names.iter().filter(|_| self.rng.random_bool(0.5)).cloned().collect();
        self.node.control(Control::Refused(self.refused.clone()));
        match self.rng.random_range(0..3) {
            0 => self.crash(),
            1 => self.restart(),
            _ => {}
        }
        self.refused = names[2..].iter().filter(|_| self.rng.random_bool(0.5)).cloned().collect();
        self.node.control(Control::Refused(self.refused.clone()));
    }

    /// A table that is followed leaves; it will be copied again.
    fn leave(&mut self) {
        let plan = self.node.board.plan.borrow().clone();
        let all = [self.source.lists.id, self.source.todos.id];
        let is_followed = |id: &RelationId| plan.tables.get(id).is_some_and(|table| !table.stale);
        if self.copy.is_some() || !all.iter().all(is_followed) {
            return;
        }
        let name = ["lists", "todos"][self.rng.random_range(0..2)];
        let (table, reason) = (self.source.relation(name).id, "nobody may read it".into());
        self.node.control(Control::Gone { table, reason });
        self.left.insert(name);
    }

    /// Which of the tables that have left are not there again. What stands still may lack what they gave.
    fn still_left(&mut self) -> bool {
        let tables = self.node.sequencer.writer.tables.all();
        let is_there = |name: &str| tables.iter().any(|t| t.record.relation.name.name == name);
        if !self.left.is_empty() {
            self.source.rekeyed.push(self.source.position);
        }
        self.left.retain(|name| !is_there(name));
        !self.left.is_empty()
    }

    /// Where lists have entered that have other keys, what stands still has lost what the rows gave under the
    /// keys that were.
    fn note_identity(&mut self) {
        let tables = self.node.sequencer.writer.tables.all();
        let lists = tables.iter().find(|table| table.record.relation.name.name == "lists");
        let Some(record) = lists.map(|table| &table.record) else { return };
        let identity = (self.keys[&record.boundary], record.relation.columns[0].clone());
        if self.identity != identity {
            self.identity = identity;
            self.source.rekeyed.push(self.source.position);
        }
    }

    /// Records of the tail go that no stream can repeat.
    fn trim(&mut self) {
        let durable = self.node.publication().durable();
        let is_durable =
            |(t, _): &&(hw_input::transactions::Transaction, World)| t.end_lsn <= durable;
        let last = self.source.log.iter().rev().find(is_durable).map(|(t, _)| t.commit_lsn.0);
        if let Some(below) = last {
            self.node.control(Control::TrimTail { below });
        }
    }

    /// A user asks with so many client databases at once, and the clock goes on.
    fn crowd(&mut self, clients: u32) {
        let key = |client: u32| hw_types::user_key::join("t2:am", Some(&client.to_string()));
        let asked = |client| WriteCheckpoint { user_key: key(client), requested: None };
        let contents =
            MarkerContents { nonce: 1, write_checkpoints: (0..clients).map(asked).collect() };
        self.source.mark(&mut self.rng, &self.node.board.secret(), &contents);
        self.feed();
        let now = self.node.sequencer.writer.day.0 * 24 * 3600 + 7;
        self.node.tick(now);
    }

    /// Tables that must be copied again are, one at a time or together, in stages that anything may
    /// come between.
    fn copy(&mut self) {
        match self.copy.take() {
            Some(mut copy) => match copy.outcome() {
                None => self.copy = Some(copy),
                Some(Ok(())) => {}
                Some(Err(dropped)) => {
                    assert!(dropped.one_snapshot.is_some(), "{}", dropped.why);
                    self.ranges_fit = false;
                }
            },
            None => {
                let stale: Vec<&str> = ["lists", "todos"]
                    .into_iter()
                    .filter(|name| {
                        let plan = self.node.board.plan.borrow();
                        plan.tables.get(&self.source.relation(name).id).is_none_or(|t| t.stale)
                    })
                    .filter(|_| self.rng.random_bool(0.7))
                    .collect();
                if stale.is_empty() {
                    return;
                }
                let number = self.node.begin_copy(false);
                let ended = self.fed;
                self.feed();
                self.source.transact(&mut self.rng, false);
                let nonce = self.rng.random();
                let (lsn, tables) = self.source.copied(&stale);
                self.keys.insert(lsn, self.source.world.keys);
                let in_ranges = std::mem::replace(&mut self.ranges_fit, true);
                let (tables, reading) = match in_ranges && self.rng.random_bool(0.6) {
                    true => self.source.ranges(&mut self.rng, &stale, ended),
                    false => (tables, Reading::default()),
                };
                let behind = Behind::Marker(nonce);
                let copy = self.node.load_copy(number, (lsn, tables), reading, behind);
                self.copy = Some(copy);
                self.source.transact(&mut self.rng, false);
                let secret = self.node.board.secret();
                let contents = MarkerContents { nonce, write_checkpoints: Vec::new() };
                self.source.mark(&mut self.rng, &secret, &contents);
            }
        }
    }

    fn check(&mut self, what: &str) {
        self.node.settle();
        let published = self.node.published();
        let still_left = self.still_left();
        self.note_identity();
        if published.withheld.is_none() {
            let is_other = std::mem::take(&mut self.is_other);
            self.follower.follow(&published, is_other, what);
        }
        if self.damage > 0.0 && published.sync.is_none() {
            // Something is made again, and nothing is served until it is.
            return;
        }
        if still_left {
            return;
        }
        for user in USERS {
            let page = self.rng.random_range(1..20);
            let client = self.clients.entry(user).or_default();
            client.sync(user, &published, page);
            compare(client, user, &published, &self.source, what);
            let mut fresh = Client::default();
            fresh.sync(user, &published, page);
            compare(&fresh, user, &published, &self.source, &format!("{what}, a fresh client"));
        }
    }

    /// Lists or todos.
    fn any_table(&mut self) -> RelationId {
        [self.source.lists.id, self.source.todos.id][self.rng.random_range(0..2)]
    }

    fn step(&mut self, step: usize, what: &str) {
        let altering = self.rng.random_bool(0.05);
        self.source.transact(&mut self.rng, altering);
        if self.rng.random_bool(0.7) {
            self.feed();
        }
        if self.rng.random_bool(0.06) {
            // The catalog shows something that the log does not.
            let table = self.any_table();
            let reason = "a test says so".into();
            self.node.control(Control::Stale { table, reason, untraced: false });
        }
        if self.rng.random_bool(0.03) {
            self.feed();
            let table = self.any_table();
            let rekeyed = table == self.source.lists.id && self.rng.random_bool(0.5);
            self.node.control(Control::Stale {
                table,
                reason: "altered".into(),
                untraced: rekeyed,
            });
            match table == self.source.todos.id {
                true => self.source.alter(),
                false if rekeyed => self.source.rekey(),
                false => self.source.widen(),
            }
            self.source.say(&mut self.rng, "headwater_ddl");
        }
        if self.rng.random_bool(0.05) {
            // Somebody reads it: one that definitions name, or one that never comes.
            let name = ["lists", "todos", "notes"][self.rng.random_range(0..3)];
            self.node.control(Control::Demand(TableName::new("public", name)));
        }
        if self.rng.random_bool(0.3) {
            self.copy();
        }
        if self.rng.random_bool(0.1) {
            let user = USERS[self.rng.random_range(0..3)].into();
            let write_checkpoints = vec![WriteCheckpoint { user_key: user, requested: None }];
            let contents = MarkerContents { nonce: 0, write_checkpoints };
            self.source.mark(&mut self.rng, &self.node.board.secret(), &contents);
            let today = self.node.sequencer.writer.day.0;
            self.node.control(Control::Day(today + 7));
        }
        self.rare();
        match step {
            20 | 32 => self.node.configure(WIDER),
            26 => self.node.configure(CONFIG),
            36 => self.node.control(Control::Retire { before: u64::MAX }),
            _ => {}
        }
        if self.rng.random_bool(0.12) {
            self.crash();
        }
        if self.rng.random_bool(0.06) {
            self.restart();
        }
        if self.rng.random_bool(0.03) {
            self.behind();
        }
        if self.rng.random_bool(0.03) {
            self.history_moves();
        }
        if self.rng.random_bool(0.5) {
            self.check(what);
        }
    }

    /// What the catalog shows now and then, and the tail's end.
    fn rare(&mut self) {
        if self.rng.random_bool(0.03) {
            self.look();
        }
        if self.rng.random_bool(0.03) {
            self.leave();
        }
        if self.rng.random_bool(0.05) {
            self.trim();
        }
    }

    /// Everything that was begun comes to its end.
    fn finish(&mut self, what: &str) {
        for _ in 0..40 {
            self.feed();
            self.copy();
        }
        self.feed();
        self.check(what);
        let frozen = self.node.published().sync.as_ref().unwrap().stands_still();
        assert!(!frozen, "nothing stands still for ever, {what}");
    }
}

/// From this seed on so many, or as many as `HEADWATER_SEEDS` says.
fn seeds(first: u64, count: u64) -> std::ops::Range<u64> {
    let told = std::env::var("HEADWATER_SEEDS").ok();
    first..first + told.map_or(count, |count| count.parse().expect("a number"))
}

/// P1 to P4, E-1, E-2, E-3, F-2, F-3, F-22, F-23, F-24, F-60 at the level of the engine; FD-18: what
/// reads a table that is being copied again stands still, nobody is shown a part of a transaction,
/// what a user loses meanwhile he loses at once (E-4), and in the end everybody has everything. Whoever
/// follows the change list has the tables as they are published.
#[test]
fn clients_equal_the_oracle_whatever_crashes() {
    let mut followed = [0; 3];
    for seed in seeds(0, 60) {
        let mut run = Run::new(seed, None);
        for step in 0..40 {
            run.step(step, &format!("seed {seed} step {step}"));
        }
        run.finish(&format!("seed {seed} at its end"));
        let Follower { unknown, still, rows, .. } = run.follower;
        followed = [followed[0] + unknown, followed[1] + still, followed[2] + rows];
    }
    assert!(followed.iter().all(|count| *count > 200), "the change list: {followed:?}");
}

/// FD-7: what of the store is damaged is made again, in whatever state it is met; clients come to what
/// the source has, and none adds to a checksum that was lost.
#[test]
fn fd_7_clients_equal_the_oracle_whatever_is_damaged() {
    for seed in seeds(300, 40) {
        let mut run = Run::new(seed, None);
        run.damage = 0.6;
        for step in 0..40 {
            run.step(step, &format!("seed {seed} step {step}"));
        }
        run.finish(&format!("seed {seed} at its end"));
        assert!(run.node.store.damaged_spaces().is_empty(), "seed {seed}");
    }
}

/// FD-7: what nobody else knows cannot be made again, and a store that has lost it is refused each
/// time, with the way out.
#[test]
fn fd_7_a_store_that_has_lost_its_state_is_refused_each_time() {
    for space in ["state", "tail", "wcp"] {
        let mut run = Run::new(1, None);
        run.feed();
        run.node.settle();
        run.simulation.damage(space);
        for _ in 0..2 {
            let store = run.simulation.crash();
            let bounds = Bounds { fold_bytes: 1, sort_bytes: 2048, change_list_bytes: 0 };
            let error = Writer::open(store, bounds, Default::default()).err().unwrap();
            let finding = error.finding().unwrap().to_string();
            assert!(finding.starts_with("error[HW3004]"), "{finding}");
            assert!(finding.contains(space) && finding.contains("mend:"), "{finding}");
        }
    }
}

/// Keys and values of a space.
type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

/// Every space of a store with what it holds. Spaces that hold nothing may be there or not.
fn contents(store: &Store) -> BTreeMap<String, Pairs> {
    let snapshot = store.snapshot();
    let mut all = BTreeMap::new();
    for name in store.space_names() {
        let space = store.space(&name).unwrap();
        let entries: Pairs = snapshot
            .all(&space)
            .map(|entry| entry.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap())
            .collect();
        if !entries.is_empty() {
            all.insert(name, entries);
        }
    }
    all
}

/// The kinds of entries that are no transactions, by their names; a kind that is missing here does not compile.
macro_rules! kinds {
    ($($kind:ident),* $(,)?) => {
        const KINDS: &[&str] = &[$(stringify!($kind)),*];

        fn kind(control: &Control) -> &'static str {
            match control {
                $(Control::$kind { .. } => stringify!($kind)),*
            }
        }
    };
}

kinds![
    Adopt,
    Behind,
    Boundary,
    BuildAll,
    BuildSlice,
    Compact,
    Configure,
    CopyBegins,
    CopyFailed,
    Day,
    Demand,
    Epoch,
    Gone,
    HistoryMoved,
    KeepNewest,
    Loaded,
    Lost,
    Refused,
    Retire,
    Run,
    Secret,
    Stale,
    Switch,
    Thaw,
    TrimTail,
];

/// E-11 (`design/seams.md` 2): the entries that a node recorded, through crashes, restarts of the writer, slices,
/// reconfigurations, altered, compared, demanded, refused and left tables, and moved histories, give another node
/// with other bounds the same bytes in every space. Every kind of entry is among them.
#[test]
fn the_entries_of_one_node_give_another_node_the_same_bytes() {
    let mut seen = BTreeSet::new();
    for seed in 200..215 {
        let what = format!("seed {seed}");
        let recording = Recording::default();
        let mut run = Run::new(seed, Some(recording.clone()));
        run.damage = if seed % 3 == 0 { 0.3 } else { 0.0 };
        for step in 0..40 {
            run.step(step, &format!("{what} step {step}"));
            if step == 10 {
                // Enough for a look, and in some runs more than are kept.
                run.crowd(if seed == 205 { 10_100 } else { 600 });
            }
        }
        run.finish(&what);
        seen.extend(recording.lock().iter().filter_map(|recorded| match recorded {
            Recorded::Entry(Entry::Control(control)) => Some(kind(control)),
            _ => None,
        }));
        let first = contents(&run.node.store);
        for fold_bytes in BOUNDS {
            let store = Store::simulated(&Simulation::new());
            let bounds = Bounds { fold_bytes, sort_bytes: 2048, change_list_bytes: 0 };
            let mut writer = Writer::open(store.clone(), bounds, Default::default()).unwrap();
            let mut loading = Vec::new();
            for recorded in recording.lock().iter().cloned() {
                match recorded {
                    Recorded::Entry(entry) => {
                        if let Applied::Loading(now) = writer.apply(entry).unwrap() {
                            loading = now;
                        }
                    }
                    Recorded::Rows(rows) => {
                        let (store, tables) = (store.clone(), std::mem::take(&mut loading));
                        load_rows(Box::new(Loader { store, tables, sort_bytes: 4096 }), rows);
                    }
                }
            }
            writer.commit().unwrap();
            let second = contents(&store);
            let names = |all: &BTreeMap<String, _>| all.keys().cloned().collect::<Vec<_>>();
            assert_eq!(names(&first), names(&second), "{what}, spaces at {fold_bytes}");
            for (name, entries) in &first {
                assert_eq!(entries, &second[name], "{what}, space {name} at {fold_bytes}");
            }
        }
    }
    let missing: Vec<_> = KINDS.iter().filter(|kind| !seen.contains(*kind)).collect();
    assert!(missing.is_empty(), "entries that never came: {missing:?}");
}

/// FD-32, FD-33: a write checkpoint is told to everybody but those whose definitions stand still
/// before it, whatever crashes, and to these when they go on.
#[test]
fn fd_32_write_checkpoints_wait_for_the_definitions_of_their_owner_only() {
    let mut run = Run::new(1, None);
    run.feed();
    run.node.control(Control::Stale {
        table: RelationId(2),
        reason: "altered".into(),
        untraced: false,
    });
    let write_checkpoints = vec![WriteCheckpoint { user_key: "amy".into(), requested: None }];
    let contents = MarkerContents { nonce: 1, write_checkpoints };
    run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
    for crashes in 0..2 {
        run.feed();
        run.node.settle();
        let published = run.node.published();
        let told = |definition: usize| published.write_checkpoint("amy", [definition]).unwrap();
        assert!(told(0) > told(1), "lists go on, todos stand still: {crashes}");
        run.crash();
    }
    run.finish("at the end");
    let published = run.node.published();
    let told = published.write_checkpoint("amy", [0, 1]).unwrap();
    assert!(told > Some(BEGIN) && told == published.write_checkpoint("amy", []).unwrap());
}

/// How many write checkpoints wait for a definition that stands still is known, whatever crashes: one for each
/// client that asked since.
#[test]
fn fd_32_write_checkpoints_that_are_kept_back_are_counted_whatever_crashes() {
    let mut run = Run::new(1, None);
    let ask = |run: &mut Run, users: &[&str]| {
        let asked = |user: &&str| WriteCheckpoint { user_key: (*user).into(), requested: None };
        let write_checkpoints = users.iter().map(asked).collect();
        let contents = MarkerContents { nonce: 1, write_checkpoints };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    let held = |run: &Run| -> Vec<(String, u64)> {
        let status = run.node.engine().status();
        let of = |held: &crate::status::Held| (held.definition.clone(), held.write_checkpoints);
        status.held.iter().map(of).collect()
    };
    ask(&mut run, &["amy", "cat"]);
    assert_eq!(held(&run), []);
    let (table, reason) = (RelationId(2), "altered".into());
    run.node.control(Control::Stale { table, reason, untraced: false });
    run.node.settle();
    let todos = |count| vec![("todos".to_owned(), count)];
    assert_eq!(held(&run), todos(0));
    ask(&mut run, &["amy", "bob"]);
    ask(&mut run, &["amy"]);
    assert_eq!(held(&run), todos(2));
    run.crash();
    run.node.settle();
    assert_eq!(held(&run), todos(2), "behind a crash");
    ask(&mut run, &["cat"]);
    run.restart();
    run.node.settle();
    assert_eq!(held(&run), todos(3), "behind a restart of the writer");
    run.finish("at the end");
    assert_eq!(held(&run), []);
}

/// Behind a copy of everything every number up to a great one counts as told. A client that counts by itself
/// gets one above these for what it writes then, with a marker of its own.
#[test]
fn a_request_behind_a_copy_of_everything_is_told_with_its_own_marker() {
    let mut run = Run::new(1, None);
    let ask = |run: &mut Run, requested| {
        let Requested::Marked(number) = run.node.published().requested("amy", requested).unwrap()
        else {
            panic!("{requested} is told without a marker");
        };
        let told = run.node.published().write_checkpoint("amy", []).unwrap();
        assert!(told.is_none_or(|told| told < number), "{requested} is told before it arrives");
        let asked = WriteCheckpoint { user_key: "amy".into(), requested: Some(number) };
        let contents = MarkerContents { nonce: 1, write_checkpoints: vec![asked] };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
        assert_eq!(run.node.published().write_checkpoint("amy", []).unwrap(), Some(number));
        number
    };
    let first = ask(&mut run, 5);
    assert!(first > BEGIN, "the first copy is one of everything");
    assert_eq!(ask(&mut run, first + 1), first + 1);
    assert_eq!(run.node.published().requested("amy", 5).unwrap(), Requested::Known(first + 1));
    run.source.position += 1_000;
    let (lsn, tables) = run.source.all();
    run.node.copy(lsn, tables);
    run.node.settle();
    let floor = run.node.published().write_checkpoint("amy", []).unwrap().expect("a floor");
    assert!(floor > first + 1);
    assert_eq!(ask(&mut run, floor), floor + 1);
    assert_eq!(ask(&mut run, floor + 2), floor + 2);
}

/// A run whose clients are served this configuration.
fn served(config: &str) -> Run {
    let mut run = Run::new(1, None);
    run.node.configure(config);
    run.node.settle();
    run
}

/// Rows of the definition `everyone` that somebody without a list is given.
fn everyones(run: &Run) -> usize {
    let mut client = Client::default();
    client.sync("nobody", &run.node.published(), 7);
    client.ids("todos").len()
}

/// E-4: what a limit leaves out is taken at once, while a copy of everything lets nothing new be shown, and over a
/// failure of the writer; what it gives comes back as it was.
#[test]
fn e_4_what_a_limit_leaves_out_is_taken_whatever_holds_the_writer_up() {
    let mut run = served(WIDER);
    let of = |text: &str| crate::definitions::compile("sync.yaml", text).unwrap();
    assert!(everyones(&run) > 0);
    run.node.begin_copy(true);
    let before = run.node.published();
    run.node.publication().limit(of(CONFIG));
    let after = run.node.published();
    assert_eq!(after.sync.as_ref().unwrap().withheld(), BTreeSet::from(["everyone"]));
    assert!(after.changes_since(before.number).everything(), "a connected client looks again");
    assert_eq!(everyones(&run), 0);
    run.node.sequencer.handle(Signal::Copy(CopySignal::Failed)).unwrap();
    run.node.settle();
    assert_eq!(everyones(&run), 0);
    let store = run.node.store.clone();
    run.node.restart(store);
    run.node.settle();
    assert_eq!(everyones(&run), 0);
    run.node.publication().limit(of(WIDER));
    assert!(
        everyones(&run) > 0 && run.node.published().sync.as_ref().unwrap().withheld().is_empty()
    );
}

/// E-4: a configuration that was handed in before the limit and is served behind it gives no more than the limit.
#[test]
fn e_4_a_wider_configuration_that_is_built_behind_a_limit_gives_no_more() {
    let mut run = served(CONFIG);
    run.node.configure(WIDER);
    run.node.publication().limit(crate::definitions::compile("sync.yaml", CONFIG).unwrap());
    run.node.settle();
    let sync = run.node.published().sync.clone().unwrap();
    assert_eq!(sync.config.definitions().len(), 3, "it is served");
    assert_eq!((sync.withheld(), everyones(&run)), (BTreeSet::from(["everyone"]), 0));
    assert!(sync.serves_something());
}

/// A configuration of parts that are served as they are waits for nothing: no look at the catalog has come to an end
/// since something is missing.
#[test]
fn e_4_what_is_served_as_it_is_waits_for_no_look_at_the_catalog() {
    let mut run = served(WIDER);
    run.node.source_has(&[RelationId(1), RelationId(2), RelationId(99)]);
    run.node.configure(CONFIG);
    run.node.settle();
    assert_eq!(run.node.published().sync.as_ref().unwrap().config.definitions().len(), 2);
    // What is to be built waits for one.
    let without = "bucket_definitions:\n  all:\n    data:\n      - SELECT id FROM lists\n";
    run.node.configure(without);
    run.node.settle();
    assert_eq!(run.node.published().sync.as_ref().unwrap().config.definitions().len(), 2);
}

/// Another program may compute a definition in another way: without a file that says what to serve, what was served
/// is built again.
#[test]
fn a_stored_configuration_that_this_program_computes_otherwise_is_built_again() {
    let mut run = served(CONFIG);
    let state = run.node.store.space("state").unwrap();
    let records = IncarnationRecord::load_all(&run.node.store.snapshot(), &state, keys::DERIVED);
    let mut batch = Batch::new();
    let mut record = records.unwrap().into_iter().next().unwrap();
    record.fingerprint[0] ^= 1;
    record.save(&mut batch, &state, &keys::numbered(keys::DERIVED, record.number));
    run.node.store.commit(batch).unwrap();
    run.node.store.sync().unwrap();
    run.crash();
    assert!(run.node.published().sync.is_none() && run.node.sequencer.writer.is_building());
    run.check("behind an upgrade");
    assert!(run.node.published().sync.is_some());
}

/// FD-18: what else the catalog says of a table that stands still does not make it one that is followed: changes that
/// were passed over are in no replica until it has been copied.
#[test]
fn fd_18_a_table_that_stands_still_does_so_whatever_else_is_noted_of_it() {
    let mut run = Run::new(1, None);
    let table = run.source.todos.id;
    run.node.control(Control::Stale { table, reason: "altered".into(), untraced: false });
    run.node.control(Control::Adopt { table, facts: vec![1, 2, 3] });
    for crashes in [false, true] {
        run.node.settle();
        if crashes {
            run.crash()
        } else {
            run.restart()
        }
        assert!(run.node.board.plan.borrow().tables[&table].stale, "{crashes}");
        run.node.settle();
        let sync = run.node.published().sync.clone().unwrap();
        assert_eq!(sync.frozen(), BTreeSet::from(["todos"]), "{crashes}");
    }
    run.finish("at the end");
}

/// FD-43: what nobody has asked for in 30 days of the input's clock is forgotten, and nothing else.
#[test]
fn fd_43_write_checkpoints_that_nobody_asks_for_are_forgotten() {
    let mut run = Run::new(1, None);
    let today = run.node.sequencer.writer.day.0;
    let day = |run: &mut Run, day: u64| {
        run.node.tick((today + day) * 24 * 3600 + 7);
        run.node.settle();
    };
    let ask = |run: &mut Run, user: &str, requested| {
        let write_checkpoints = vec![WriteCheckpoint { user_key: user.into(), requested }];
        let contents = MarkerContents { nonce: 1, write_checkpoints };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    // Above what everybody is told.
    let high = run.node.board.write_base() + (1 << 40);
    let is_kept = |run: &mut Run, user: &str| {
        let told = run.node.published().write_checkpoint(user, []).unwrap();
        told.is_some_and(|number| number >= high)
    };
    ask(&mut run, "amy", Some(high));
    ask(&mut run, "bob", Some(high));
    day(&mut run, 15);
    // A smaller number than the one that is kept.
    ask(&mut run, "amy", None);
    // The clock may go back.
    for (now, amy, bob) in
        [(30, true, true), (31, true, false), (3, true, false), (45, true, false)]
    {
        day(&mut run, now);
        run.crash();
        run.node.settle();
        assert_eq!((is_kept(&mut run, "amy"), is_kept(&mut run, "bob")), (amy, bob), "{now}");
    }
    day(&mut run, 46);
    assert!(!is_kept(&mut run, "amy"));
}

/// One user with ever new client databases does not fill the store; others keep theirs, and he the
/// newest.
#[test]
fn of_one_user_the_newest_write_checkpoints_are_kept() {
    let mut run = Run::new(1, None);
    let ask = |run: &mut Run, keys: &mut dyn Iterator<Item = String>| {
        let asked = |user_key| WriteCheckpoint { user_key, requested: None };
        let contents = MarkerContents { nonce: 1, write_checkpoints: keys.map(asked).collect() };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    let key = |user: &str, client: u32| hw_types::user_key::join(user, Some(&client.to_string()));
    ask(&mut run, &mut (0..3).map(|client| key("t3:amy", client)));
    for hundred in 0..120 {
        let first = hundred * 100;
        ask(&mut run, &mut (first..first + 100).map(|client| key("t2:am", client)));
    }
    let mut now = run.node.sequencer.writer.day.0 * 24 * 3600 + 7;
    for restart in [false, true] {
        if restart {
            run.crash();
            ask(&mut run, &mut (20_000..20_400).map(|client| key("t2:am", client)));
            // Counted anew with the day.
            now += 24 * 3600;
            run.node.tick(now);
            now += 1;
        }
        run.node.tick(now);
        run.node.settle();
        let mut kept: BTreeMap<String, usize> = BTreeMap::new();
        let space = &run.node.sequencer.writer.write_checkpoints;
        for entry in run.node.store.snapshot().all(space) {
            let key = String::from_utf8(entry.unwrap().0.to_vec()).unwrap();
            *kept.entry(hw_types::user_key::owner(&key).to_owned()).or_default() += 1;
        }
        assert_eq!(kept["t3:amy"], 3);
        assert_eq!(kept["t2:am"], crate::crowds::KEEP_OF_USER);
    }
    let published = run.node.published();
    let number = |client| published.write_checkpoint(&key("t2:am", client), []).unwrap();
    assert!(number(20_399) > number(11_900) && number(11_900) > number(0), "the oldest went");
}

/// Where the positions of a new history are smaller, what an earlier one has left goes first.
#[test]
fn of_one_user_the_write_checkpoints_of_the_present_history_are_kept() {
    let mut run = Run::new(1, None);
    let key = |client: u32| hw_types::user_key::join("t2:am", Some(&client.to_string()));
    let ask = |run: &mut Run, clients: std::ops::Range<u32>| {
        let asked = |client| WriteCheckpoint { user_key: key(client), requested: None };
        let contents = MarkerContents { nonce: 1, write_checkpoints: clients.map(asked).collect() };
        run.source.mark(&mut run.rng, &run.node.board.secret(), &contents);
        run.feed();
        run.node.settle();
    };
    run.source.position += 1 << 20;
    ask(&mut run, 0..9_900);
    run.source.position = BEGIN + 1_000;
    let (lsn, tables) = run.source.all();
    run.node.copy(lsn, tables);
    ask(&mut run, 20_000..20_300);
    run.node.control(Control::KeepNewest { user: "t2:am".into() });
    run.node.settle();
    let published = run.node.published();
    let number = |client| published.write_checkpoint(&key(client), []).unwrap();
    assert_eq!(number(0), number(9_899), "worth as much as none");
    assert!((20_000..20_300).all(|client| number(client) > number(0)));
    let space = &run.node.sequencer.writer.write_checkpoints;
    let kept = run.node.store.snapshot().all(space).count();
    assert_eq!(kept, crate::crowds::KEEP_OF_USER);
}

/// A disk that fails for a moment changes no number that clients hold: neither are op ids left out, nor
/// is a marker that comes again stored under another number than its owner was told.
#[test]
fn a_writer_that_begins_again_goes_on_with_the_run_of_its_process() {
    let mut run = Run::new(1, None);
    run.crash();
    run.node.settle();
    let base = run.node.board.write_base();
    assert!(base > 0, "the second process has numbers of its own");
    for _ in 0..3 {
        let before = run.node.published();
        let store = run.node.store.clone();
        run.node.restart(store);
        run.node.settle();
        let after = run.node.published();
        assert_eq!((run.node.board.write_base(), after.runs()), (base, before.runs()));
        assert_eq!(after.checkpoint, before.checkpoint);
    }
}

/// FD-27: what could not be noted is no reason to show what the source said is old.
#[test]
fn fd_27_nobody_is_answered_by_a_writer_that_could_not_note_what_the_source_said() {
    for fail in [Simulation::fail_commit, Simulation::fail_sync] {
        let mut run = Run::new(1, None);
        assert_eq!(run.node.published().withheld, None);
        fail(&run.simulation, 1);
        run.node.behind().unwrap_err();
        let store = run.node.store.clone();
        store.reopen().unwrap();
        run.node.restart(store);
        run.node.settle();
        assert!(run.node.published().withheld.is_some());
        run.node.behind().unwrap();
        run.node.settle();
        assert_eq!(run.node.published().withheld, Some(Withheld::Behind));
    }
}

/// Behind a disk that has lost what it said to be durable, what was shown is never given again.
#[test]
fn a_writer_over_a_store_that_is_behind_what_was_shown_begins_a_run() {
    let mut older = Run::new(1, None);
    let mut run = Run::new(1, None);
    older.node.settle();
    let base = run.node.board.write_base();
    for _ in 0..5 {
        run.source.transact(&mut run.rng, false);
    }
    run.feed();
    run.node.settle();
    let shown = run.node.published();
    assert!(!shown.runs().is_lost(shown.checkpoint.op_id));
    run.node.restart(older.node.store.clone());
    run.node.settle();
    let now = run.node.published();
    assert!(now.checkpoint.op_id > shown.checkpoint.op_id, "E-3");
    assert!(now.runs().is_lost(shown.checkpoint.op_id));
    assert!(run.node.board.write_base() > base);
}

/// A TRUNCATE counts once, also when its transaction must be read again without a table of it.
#[test]
fn a_truncate_of_a_large_transaction_that_is_read_again_counts_once() {
    for fold_bytes in [1 << 20, 1] {
        let mut rng = StdRng::seed_from_u64(1);
        let mut source = Source::new(&mut rng);
        let mut node = Node::open(Store::simulated(&Simulation::new()), fold_bytes);
        node.configure(CONFIG);
        let (lsn, tables) = source.all();
        node.copy(lsn, tables);
        node.settle();
        let (lists, todos) = (source.lists.clone(), source.todos.clone());
        let mut new = RowBuilder::new();
        for cell in [Cell::Value(b"unknown"), Cell::Value(b"l1"), Cell::Absent] {
            new.push(cell);
        }
        let kind = ChangeKind::Update { old: None, new: new.finish() };
        let update = Change::Row { relation: todos.clone(), kind };
        let truncate = Change::Truncate { relations: vec![lists.clone()] };
        source.commit(&mut rng, |_, _| vec![truncate, update]);
        node.feed(&source.log.last().unwrap().0);
        let tables = node.board.plan.borrow().tables.clone();
        assert_eq!(tables[&lists.id].truncations.len(), 1, "{fold_bytes}");
        assert!(tables[&todos.id].stale && !tables[&lists.id].stale, "{fold_bytes}");
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
fn memory_bounds_do_not_change_a_single_operation() {
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
            let (lsn, tables) = source.all();
            node.copy(lsn, tables);
            node.settle();
            for _ in 0..25 {
                source.transact(rng, false);
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
    let mut source = Source::new(&mut rng);
    let mut node = Node::open(Store::simulated(&Simulation::new()), 1 << 20);
    node.configure(CONFIG);
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    let altered = |node: &Node| node.board.turns.borrow().altered;
    let mut before = altered(&node);
    for (prefix, seen) in [("headwater_ddl", true), ("somebody", false), ("headwater", false)] {
        source.say(&mut rng, prefix);
        node.feed(&source.log.last().unwrap().0);
        assert_eq!(altered(&node) > before, seen, "{prefix}");
        before = altered(&node);
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
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    for _ in 0..5 {
        source.transact(&mut rng, false);
        let (transaction, _) = source.log.last().unwrap().clone();
        node.feed(&transaction);
    }
    node.settle();
    source.position += 1_000;
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
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

/// That a copy of everything was begun is known before its slot is made, whatever crashes: the next session
/// must not go on with the stream of that slot from what is stored.
#[test]
fn a_copy_of_everything_that_was_begun_is_known_behind_a_crash() {
    let mut rng = StdRng::seed_from_u64(5);
    let source = Source::new(&mut rng);
    let simulation = Simulation::new();
    let mut node = Node::open(Store::simulated(&simulation), 1 << 20);
    node.configure(CONFIG);
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    node.settle();
    node.begin_copy(true);
    drop(node);
    let store = simulation.crash();
    let state = store.space("state").unwrap();
    assert!(store.get(&state, keys::COPYING).unwrap().is_some());
}

/// A source that was put back to an earlier state writes where its log had been empty for us: what comes to lie
/// before the position that was told to be durable is of another history, though no repeated transaction says so.
#[test]
fn fd_26_a_transaction_before_what_is_durable_is_of_another_history() {
    let mut rng = StdRng::seed_from_u64(5);
    let source = Source::new(&mut rng);
    for (commit, has_moved) in [(BEGIN + 150, true), (BEGIN + 200, false)] {
        let mut node = Node::open(Store::simulated(&Simulation::new()), 1 << 20);
        node.configure(CONFIG);
        let (lsn, tables) = source.all();
        node.copy(lsn, tables);
        let change = |key: &str| {
            let new = row(&[Some(key), Some("l1"), Some("x")]);
            let kind = ChangeKind::Insert { new };
            vec![Change::Row { relation: source.todos.clone(), kind }]
        };
        node.feed(&transaction(BEGIN + 90, BEGIN + 100, change("a")));
        node.progress(EndLsn(Lsn(BEGIN + 200)));
        node.settle();
        node.stream(EndLsn(Lsn(BEGIN + 100)));
        node.feed(&transaction(commit, commit + 10, change("b")));
        assert_eq!(node.sequencer.writer.has_moved(), has_moved, "{commit}");
    }
}

/// FD-27: a store that is older than its clients, on a source where nothing happens: who is connected is
/// told that every bucket begins anew, and does not wait for the next transaction.
#[test]
fn fd_27_a_new_epoch_is_told_to_those_who_are_connected() {
    let mut rng = StdRng::seed_from_u64(11);
    let source = Source::new(&mut rng);
    let mut node = Node::open(Store::simulated(&Simulation::new()), 1 << 20);
    node.configure(CONFIG);
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    node.settle();
    let before = node.published();
    let mut client = Client::default();
    client.sync("amy", &before, 3);
    let above = OpId(before.checkpoint.op_id.0 + (5 << 20));
    node.new_epoch(above);
    node.settle();
    let after = node.published();
    assert!(after.checkpoint.op_id > above, "E-3");
    assert!(after.changes_since(before.number).everything(), "a connected client looks again");
    let (old, new) = (before.sync.as_ref().unwrap(), after.sync.as_ref().unwrap());
    assert!(!new.serves_name(&old.bucket_name(0, "[]")), "buckets of the old epoch are over");
    client.sync("amy", &after, 3);
    compare(&client, "amy", &after, &source, "in the new epoch");
}
