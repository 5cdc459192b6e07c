//! A source for tests that need no Postgres: random transactions with positions, and the tables as
//! they are at each.

use crate::testing::{Copied, relation, row, transaction};
use hw_input::entry::Reading;
use hw_input::markers::MarkerContents;
use hw_input::transactions::Transaction;
use hw_types::row::{Cell, RowBuilder};
use hw_types::{
    Change, ChangeKind, EndLsn, FullXid, LogMessage, Lsn, PgSnapshot, Relation, Row, Xid,
};
use rand::Rng;
use rand::rngs::StdRng;
use std::collections::BTreeMap;
use std::sync::Arc;

pub(super) const USERS: [&str; 3] = ["amy", "bob", "cat"];
pub(super) const BEGIN: u64 = 1_000;

/// The tables as they are, and as they were behind every transaction.
#[derive(Clone, Default)]
pub(super) struct World {
    pub lists: BTreeMap<String, String>,
    pub todos: BTreeMap<String, (String, String)>,
    /// Whether todos have a column more, which is `n` in every row.
    pub note: bool,
    /// Whether lists have one before their owner.
    pub wide: bool,
    /// The oid of lists: another one behind a rotation.
    pub table: u32,
    /// How often the keys of lists were made anew.
    pub keys: usize,
    /// Which of [`KEYS`] is the key of lists.
    pub key: usize,
}

/// Name and type of a key column.
const KEYS: [(&str, u32); 3] = [("key", 25), ("code", 25), ("key", 1043)];

impl World {
    /// The rows of a table, as a copy reads them.
    fn rows(&self, name: &str) -> Vec<Row> {
        match name {
            "lists" => self.lists.iter().map(|(id, owner)| self.list(id, owner)).collect(),
            _ => self.todos.iter().map(|(id, (list, text))| self.todo(id, list, text)).collect(),
        }
    }

    fn list(&self, id: &str, owner: &str) -> Row {
        let key = self.list_key(id);
        match self.wide {
            true => row(&[Some(&key), Some(id), Some("n"), Some(owner)]),
            false => row(&[Some(&key), Some(id), Some(owner)]),
        }
    }

    /// The key of a list: behind a rotation it may be that of another one.
    fn list_key(&self, id: &str) -> String {
        let number: usize = id[1..].parse().unwrap();
        format!("k{}", (number + self.keys) % 5)
    }

    /// Lists as the log describes them.
    fn lists(&self) -> Arc<Relation> {
        let (key, type_oid) = KEYS[self.key];
        let columns: &[&str] =
            if self.wide { &[key, "id", "note", "owner"] } else { &[key, "id", "owner"] };
        let mut lists = relation(self.table, "lists", columns);
        Arc::make_mut(&mut lists).columns[0].type_oid = type_oid;
        lists
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
    /// Where the catalog told that the keys of lists were written anew.
    pub rekeyed: Vec<u64>,
}

impl Source {
    pub fn new(rng: &mut StdRng) -> Source {
        let mut world = World { table: 1, ..World::default() };
        for i in 0..4 {
            world.lists.insert(format!("l{i}"), USERS[rng.random_range(0..3)].into());
        }
        for i in 0..10 {
            let list = format!("l{}", rng.random_range(0..5));
            world.todos.insert(format!("t{i}"), (list, "first".into()));
        }
        Source {
            lists: world.lists(),
            todos: relation(2, "todos", &["id", "list", "text"]),
            world,
            log: Vec::new(),
            position: BEGIN,
            rekeyed: Vec::new(),
        }
    }

    pub fn relation(&self, name: &str) -> &Arc<Relation> {
        if name == "lists" { &self.lists } else { &self.todos }
    }

    /// Tables with their rows, as a copy reads them now, and where that is.
    pub fn copied(&self, names: &[&str]) -> (Lsn, Copied) {
        let table = |name: &&str| (self.relation(name).clone(), self.world.rows(name));
        (Lsn(self.position), names.iter().map(table).collect())
    }

    /// Tables as a copy reads them in key ranges, while the source goes on: each range as it is behind
    /// one of the transactions that are there when it is read, none earlier than the range before.
    ///
    /// - Takes: how many transactions of the log every range sees at least. One that has committed and
    ///   waits for a standby is seen by none.
    pub fn ranges(&mut self, rng: &mut StdRng, names: &[&str], seen: usize) -> (Copied, Reading) {
        let columns = |world: &World| (world.note, world.wide, world.table, world.keys, world.key);
        let altered =
            self.log.iter().rposition(|(_, world)| columns(world) != columns(&self.world));
        let mut seen = seen.max(altered.map_or(1, |last| last + 2));
        let mut copied: Copied =
            names.iter().map(|name| (self.relation(name).clone(), Vec::new())).collect();
        let mut reading = Reading::default();
        // Above every key of both tables, so that the last range has no end.
        let ends = ["k1", "k3", "t12", "t15", "t4", "z"];
        let mut from = String::new();
        for end in ends {
            seen = rng.random_range(seen.min(self.log.len())..=self.log.len()).max(1);
            let (last, world) = &self.log[seen - 1];
            let xmax = FullXid(last.xid.0 + 1);
            let snapshot = PgSnapshot { xmin: xmax, xmax, running: Vec::new() };
            for (name, (relation, rows)) in names.iter().zip(&mut copied) {
                rows.extend(world.rows(name).into_iter().filter(|row| {
                    let view = row.view();
                    let key = view.get(0).bytes().unwrap();
                    from.as_bytes() <= key && key < end.as_bytes()
                }));
                reading.ranges.entry(relation.id).or_default().push(snapshot.clone());
            }
            from = end.to_owned();
            self.transact(rng, false);
        }
        (copied, reading)
    }

    /// All of them.
    pub fn all(&self) -> (Lsn, Copied) {
        self.copied(&["lists", "todos"])
    }

    /// The tables at a position.
    pub fn world_at(&self, end: EndLsn) -> Option<&World> {
        self.log.iter().rev().find(|(t, _)| t.end_lsn <= end).map(|(_, world)| world)
    }

    /// Whether a change of a transaction says that a list is not this user's, or may say it.
    ///
    /// - Takes: the tables as they were when everything that reads lists stood still.
    pub fn takes_away(
        &self,
        transaction: &Transaction,
        list: &str,
        user: &str,
        was: &World,
    ) -> bool {
        let cell = |row: &Row, index| row.view().get(index).bytes().map(<[u8]>::to_vec);
        let key = was.list_key(list);
        let is_list = |row: &Row| cell(row, 0).is_some_and(|found| found == key.as_bytes());
        let of = |relation: &Relation| {
            let column = &relation.columns[0];
            (relation.id, column.name.clone(), column.type_oid)
        };
        let is_known = |relation: &Relation| of(relation) == of(&was.lists());
        let is_lists = |relation: &Arc<Relation>| relation.name == self.lists.name;
        transaction.changes.iter().any(|change| match change.unwrap() {
            Change::Truncate { relations } => relations.iter().any(is_lists),
            Change::Row { relation, kind } if is_lists(&relation) => match kind {
                ChangeKind::Delete { .. } | ChangeKind::Update { .. } if !is_known(&relation) => {
                    true
                }
                ChangeKind::Delete { old } => is_list(&old),
                ChangeKind::Insert { new } | ChangeKind::Update { new, .. } => {
                    let owner = cell(&new, relation.columns.len() - 1);
                    is_list(&new) && owner.is_none_or(|owner| owner != user.as_bytes())
                }
            },
            _ => false,
        })
    }

    pub fn commit(&mut self, rng: &mut StdRng, changes: impl FnOnce(Lsn, Xid) -> Vec<Change>) {
        self.position += rng.random_range(10..100);
        let commit = self.position;
        self.position += 40;
        let xid = Xid(commit as u32);
        let changes = changes(Lsn(commit - 5), xid);
        let transaction = transaction(commit, self.position, changes);
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

    /// Lists get a column, or lose it.
    pub fn widen(&mut self) {
        self.world.wide = !self.world.wide;
        self.lists = self.world.lists();
    }

    /// Lists become others: another table takes their name, with keys that are made anew or not, or their
    /// key is another column, or of another type.
    fn replace(&mut self, rng: &mut StdRng) {
        match rng.random_range(0..3) {
            0 => self.widen(),
            1 => self.world.key = rng.random_range(0..KEYS.len()),
            _ => {
                self.world.table += 10;
                self.world.keys += rng.random_range(0..3);
            }
        }
        self.lists = self.world.lists();
    }

    /// The keys of lists are written anew, of which the log says nothing.
    pub fn rekey(&mut self) {
        self.world.keys += 1;
        self.rekeyed.push(self.position);
    }

    /// One transaction of random changes: inserts, moves, key changes, unchanged TOAST values,
    /// deletes, now and then a TRUNCATE; `altering`, it also alters todos or lists.
    pub fn transact(&mut self, rng: &mut StdRng, altering: bool) {
        let mut changes = Vec::new();
        for _ in 0..rng.random_range(0..4) {
            self.change(rng, &mut changes);
        }
        if altering && rng.random_bool(0.7) {
            self.replace(rng);
            changes.push(Change::Relation(self.lists.clone()));
        } else if altering {
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
                let new = self.world.list(&list, owner);
                let kind = match known {
                    true => ChangeKind::Update { old: None, new },
                    false => ChangeKind::Insert { new },
                };
                changes.push(Change::Row { relation: self.lists.clone(), kind });
            }
            1 => {
                if self.world.lists.remove(&list).is_some() {
                    let key = self.world.list_key(&list);
                    let cells = [Some(key.as_str()), None, None, None];
                    let old = row(&cells[..self.lists.columns.len()]);
                    let kind = ChangeKind::Delete { old };
                    changes.push(Change::Row { relation: self.lists.clone(), kind });
                }
            }
            2 if rng.random_bool(0.2) => {
                self.world.todos.clear();
                changes.push(Change::Truncate { relations: vec![relation] });
            }
            2 if rng.random_bool(0.2) => {
                self.world.lists.clear();
                changes.push(Change::Truncate { relations: vec![self.lists.clone()] });
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
            8 => {
                // The text is an unchanged TOAST value.
                if let Some((held, _)) = self.world.todos.get_mut(&todo) {
                    held.clone_from(&list);
                    let (id, list) = (Cell::Value(todo.as_bytes()), Cell::Value(list.as_bytes()));
                    let cells = [id, list, Cell::Absent, Cell::Absent];
                    let mut builder = RowBuilder::new();
                    cells[..relation.columns.len()].iter().for_each(|cell| builder.push(*cell));
                    let kind = ChangeKind::Update { old: None, new: builder.finish() };
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
