//! A run with everything in it, on one seed.

use super::compare::compare;
use crate::published::Withheld;
use crate::testing::{Copy, Node, Recording};
use crate::tests::change_list::Follower;
use crate::tests::client::Client;
use crate::tests::source::{Source, USERS, World};
use hw_input::entry::{Behind, Control, Reading};
use hw_input::markers::{MarkerContents, WriteCheckpoint};
use hw_input::signal::{CopySignal, Signal};
use hw_store::{Simulation, Store};
use hw_types::{Column, EndLsn, Lsn, OpId, RelationId, TableName};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::{BTreeMap, BTreeSet};

pub(super) const CONFIG: &str = "
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
pub(super) const WIDER: &str = "
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

/// A run with everything in it: crashes at random, changes of the configuration, tables that are
/// altered or must be copied again, clients that stay and clients that are new.
pub(super) struct Run {
    pub rng: StdRng,
    pub simulation: Simulation,
    pub source: Source,
    pub node: Node,
    pub clients: BTreeMap<&'static str, Client>,
    pub follower: Follower,
    /// Whether the node is another one since the follower read.
    pub is_other: bool,
    /// Transactions of the log that the node was given.
    pub fed: usize,
    /// The copy that waits for its tables to enter, with its nonce.
    pub copy: Option<Copy>,
    /// How often the keys of lists had been made anew when a copy was read that has this place.
    pub keys: BTreeMap<Lsn, usize>,
    /// Whether the next copy may be read in key ranges: the last one could be.
    pub ranges_fit: bool,
    pub recording: Option<Recording>,
    /// How often a crash damages a space that can be made again.
    pub damage: f64,
    /// Tables that have left, as their names are, until they enter again.
    pub left: BTreeSet<&'static str>,
    /// Tables that the catalog shows as such that cannot be replicated.
    pub refused: BTreeSet<TableName>,
    /// How the lists that entered last are told apart.
    pub identity: (usize, Column),
}

pub(super) const BOUNDS: [usize; 3] = [1 << 20, 300, 1];

impl Run {
    pub fn new(seed: u64, recording: Option<Recording>) -> Run {
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
    pub fn damage(&mut self) {
        let store = &self.node.store;
        let replaceable = |name: &String| name.contains('.');
        let names: Vec<String> = store.space_names().into_iter().filter(replaceable).collect();
        self.simulation.damage(&names[self.rng.random_range(0..names.len())]);
    }

    pub fn feed(&mut self) {
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
    pub fn keep_recorded(&mut self) {
        if self.recording.is_some() {
            self.node.settle();
            self.node.store.sync().unwrap();
        }
    }

    pub fn crash(&mut self) {
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
    pub fn restart(&mut self) {
        self.node.settle();
        self.node.store.sync().unwrap();
        let acknowledged = self.node.publication().durable();
        let store = self.node.store.clone();
        store.reopen().unwrap();
        self.node.restart(store);
        self.reconnect(acknowledged);
    }

    /// The stream and whoever compares the catalog begin again.
    pub fn reconnect(&mut self, acknowledged: EndLsn) {
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
    pub fn behind(&mut self) {
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
    pub fn copy_all(&mut self) {
        let (lsn, tables) = self.source.all();
        self.keys.insert(lsn, self.source.world.keys);
        self.node.copy(lsn, tables);
        self.fed = self.source.log.len();
        self.node.settle();
        assert!(!self.node.sequencer.writer.has_moved());
    }

    /// The source writes where it had said that nothing is: nothing of it is applied until everything has
    /// been copied, whatever crashes.
    pub fn history_moves(&mut self) {
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
    pub fn look(&mut self) {
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
    pub fn leave(&mut self) {
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
    pub fn still_left(&mut self) -> bool {
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
    pub fn note_identity(&mut self) {
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
    pub fn trim(&mut self) {
        let durable = self.node.publication().durable();
        let is_durable =
            |(t, _): &&(hw_input::transactions::Transaction, World)| t.end_lsn <= durable;
        let last = self.source.log.iter().rev().find(is_durable).map(|(t, _)| t.commit_lsn.0);
        if let Some(below) = last {
            self.node.control(Control::TrimTail { below });
        }
    }

    /// A user asks with so many client databases at once, and the clock goes on.
    pub fn crowd(&mut self, clients: u32) {
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
    pub fn copy(&mut self) {
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

    pub fn check(&mut self, what: &str) {
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
    pub fn any_table(&mut self) -> RelationId {
        [self.source.lists.id, self.source.todos.id][self.rng.random_range(0..2)]
    }

    pub fn step(&mut self, step: usize, what: &str) {
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
    pub fn rare(&mut self) {
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
    pub fn finish(&mut self, what: &str) {
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
