//! The change list, against the states that are published with it.

use super::source::Source;
use crate::change_list::{ChangePlace, Committed, Rows, Since};
use crate::published::Published;
use crate::tables::StoredRow;
use crate::testing::{Node, relation, row, transaction};
use hw_input::entry::{Behind, Control, Reading};
use hw_input::markers::MarkerContents;
use hw_store::{Simulation, Store};
use hw_types::{
    Change, ChangeKind, CommitLsn, FullXid, Lsn, Relation, RelationId, ReplicaIdentity, Row,
    TableName,
};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

type HeldRows = BTreeMap<Box<[u8]>, StoredRow>;

/// A table as a reader holds it.
struct Held {
    number: u32,
    relation: Arc<Relation>,
    rows: HeldRows,
}

/// A reader that reads each table once and then follows the list.
#[derive(Default)]
pub(super) struct Follower {
    place: Option<ChangePlace>,
    last: CommitLsn,
    tables: BTreeMap<TableName, Held>,
    /// How often a table was unknown, and stood still; rows that were followed.
    pub unknown: usize,
    pub still: usize,
    pub rows: usize,
    pub gone: usize,
}

fn names() -> [TableName; 2] {
    ["lists", "todos"].map(|name| TableName::new("public", name))
}

impl Follower {
    fn read(published: &Published, name: &TableName) -> Option<Held> {
        let view = published.table(name).entered()?;
        let rows = view.rows().map(Result::unwrap).collect();
        Some(Held { number: view.number(), relation: view.relation().clone(), rows })
    }

    /// Follows up to a state, and compares what it holds with that.
    ///
    /// - Takes: whether the process is another one than that of its place.
    pub fn follow(&mut self, published: &Published, is_other: bool, what: &str) {
        if published.withheld.is_some() {
            return;
        }
        let since = match self.place {
            Some(place) => published.committed_since(place),
            None => Since::Gone,
        };
        match since {
            Since::Gone => {
                self.gone += 1;
                self.tables.clear();
                for name in names() {
                    self.tables.extend(Self::read(published, &name).map(|held| (name, held)));
                }
            }
            Since::Complete(items) => {
                assert!(!is_other, "a restart forgets the list, {what}");
                self.take(published, &items, what);
            }
        }
        self.place = Some(published.change_place());
        for name in names() {
            let (mine, now) = (self.tables.get(&name), Self::read(published, &name));
            let rows =
                |held: Option<&Held>| held.map(|h| (h.number, h.relation.clone(), h.rows.clone()));
            assert_eq!(rows(mine), rows(now.as_ref()), "{name}, {what}");
        }
    }

    fn take(&mut self, published: &Published, items: &[Arc<Committed>], what: &str) {
        let mut unknown = BTreeSet::new();
        for item in items {
            match item.xid {
                Some(xid) => {
                    assert_eq!(xid, FullXid(item.commit_lsn.0.0), "{what}");
                    assert!(item.commit_lsn > self.last && item.end_lsn.0 > item.commit_lsn.0);
                    self.last = item.commit_lsn;
                }
                None => assert!(item.tables.iter().all(|t| t.known().is_none()), "{what}"),
            }
            assert!(item.tables.is_sorted_by_key(|table| table.number), "{what}");
            for table in &item.tables {
                match &table.rows {
                    Rows::Unknown => {
                        self.unknown += 1;
                        unknown.insert(table.name().clone());
                    }
                    Rows::StandsStill => self.still += 1,
                    Rows::Known(_) if unknown.contains(table.name()) => {}
                    Rows::Known(rows) => {
                        let held =
                            self.tables.get_mut(table.name()).expect("a table that was read");
                        assert_eq!((held.number, &held.relation), (table.number, &table.relation));
                        assert!(rows.is_sorted_by(|a, b| a.key < b.key), "{what}");
                        for changed in rows {
                            self.rows += 1;
                            let was = match &changed.after {
                                Some(row) => held.rows.insert(changed.key.clone(), row.clone()),
                                None => held.rows.remove(&changed.key),
                            };
                            assert_eq!(was, changed.before, "{what}");
                        }
                    }
                }
            }
        }
        for name in unknown {
            self.tables.remove(&name);
            self.tables.extend(Self::read(published, &name).map(|held| (name, held)));
        }
    }
}

const CONFIG: &str = "
bucket_definitions:
  all:
    data:
      - SELECT * FROM lists
      - SELECT * FROM todos
";

/// A node that has both tables, and its source.
fn node(seed: u64, fold_bytes: usize, change_list_bytes: usize) -> (Node, Source, StdRng) {
    let mut rng = StdRng::seed_from_u64(seed);
    let source = Source::new(&mut rng);
    let store = Store::simulated(&Simulation::new());
    let mut node = Node::listing(store, fold_bytes, change_list_bytes);
    node.configure(CONFIG);
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    node.settle();
    (node, source, rng)
}

fn feed_last(node: &mut Node, source: &Source) {
    node.feed(&source.log.last().unwrap().0);
}

fn complete(published: &Published, place: ChangePlace) -> Vec<Arc<Committed>> {
    match published.committed_since(place) {
        Since::Complete(items) => items,
        Since::Gone => panic!("the list reaches back"),
    }
}

/// What each transaction did is known, also when it moves keys, leaves out values, or empties tables.
#[test]
fn the_items_between_two_states_lead_from_one_to_the_other() {
    for seed in 0..20 {
        let (mut node, mut source, mut rng) = node(seed, 1 << 20, 1 << 20);
        let mut follower = Follower::default();
        for step in 0..60 {
            follower.follow(&node.published(), false, &format!("seed {seed} step {step}"));
            for _ in 0..step % 4 {
                source.transact(&mut rng, false);
                feed_last(&mut node, &source);
            }
            node.settle();
        }
        assert_eq!((follower.gone, follower.unknown), (1, 0), "seed {seed}");
        assert!(follower.rows > 100, "{} rows", follower.rows);
    }
}

#[test]
fn a_row_that_was_touched_only_is_listed_and_one_that_came_and_went_is_not() {
    let (mut node, source, _) = node(1, 1 << 20, 1 << 20);
    let before = node.published();
    let todos = TableName::new("public", "todos");
    let view = before.table(&todos).entered().unwrap();
    let (key, stored) = view.rows().next().unwrap().unwrap();
    let change = |kind| Change::Row { relation: source.todos.clone(), kind };
    let new = row(&[Some("t99"), Some("l1"), Some("x")]);
    let old = row(&[Some("t99"), None, None]);
    node.feed(&transaction(
        5_000,
        5_040,
        vec![
            change(ChangeKind::Update { old: None, new: stored.row.clone() }),
            change(ChangeKind::Insert { new }),
            change(ChangeKind::Delete { old }),
        ],
    ));
    assert_eq!(complete(&node.published(), before.change_place()), [], "it is not published");
    node.settle();
    assert_eq!(complete(&before, before.change_place()), [], "a state does not see its future");
    let items = complete(&node.published(), before.change_place());
    let [item] = &items[..] else { panic!("{items:?}") };
    assert_eq!((item.commit_lsn.0, item.xid), (Lsn(5_000), Some(FullXid(5_000))));
    let [table] = &item.tables[..] else { panic!("{items:?}") };
    let [touched] = table.known().unwrap() else { panic!("{items:?}") };
    assert_eq!(touched.key, key);
    assert_eq!((&touched.before, &touched.after), (&Some(stored.clone()), &Some(stored)));
    assert!(matches!(before.committed_since(node.published().change_place()), Since::Gone));
}

/// E-5: what does not fit is unknown where one transaction is too large, and gone where the list is.
#[test]
fn a_list_is_bounded_and_says_what_it_lacks() {
    for (fold_bytes, list) in [(1, 1 << 20), (1 << 20, 6_000)] {
        let (mut node, source, _) = node(2, fold_bytes, list);
        let first = node.published();
        let insert = |n: usize| {
            let new = row(&[Some(&format!("new{n}")), Some("l1"), Some("a text of some length")]);
            Change::Row { relation: source.todos.clone(), kind: ChangeKind::Insert { new } }
        };
        node.feed(&transaction(5_000, 5_040, (0..40).map(insert).collect()));
        node.settle();
        let items = complete(&node.published(), first.change_place());
        let [item] = &items[..] else { panic!("{items:?}") };
        assert_eq!(item.xid, Some(FullXid(5_000)));
        let tables: Vec<_> = item.tables.iter().map(|t| (t.name().to_string(), &t.rows)).collect();
        assert_eq!(tables, [("public.todos".to_owned(), &Rows::Unknown)]);
    }
    let (mut node, mut source, mut rng) = node(3, 1 << 20, 40_000);
    let first = node.published().change_place();
    let mut last = first;
    for _ in 0..2_000 {
        source.transact(&mut rng, false);
        feed_last(&mut node, &source);
        node.settle();
        let published = node.published();
        assert!(complete(&published, last).len() <= 1);
        last = published.change_place();
    }
    assert!(matches!(node.published().committed_since(first), Since::Gone));
}

#[test]
fn without_a_list_everything_is_gone() {
    let (mut node, mut source, mut rng) = node(4, 1 << 20, 0);
    let place = node.published().change_place();
    source.transact(&mut rng, false);
    feed_last(&mut node, &source);
    node.settle();
    assert!(matches!(node.published().committed_since(place), Since::Gone));
    assert!(node.sequencer.writer.listed.is_none());
}

/// A table that stands still changes for nobody; transactions that touch it say so, and when it goes on it
/// is unknown once. So is one that leaves.
#[test]
fn a_table_that_stands_still_is_listed_as_such_and_is_unknown_when_it_goes_on() {
    let (mut node, mut source, mut rng) = node(5, 1 << 20, 1 << 20);
    let [lists, todos] = names();
    let mut place = node.published().change_place();
    let mut news = |node: &mut Node| -> Vec<(bool, String, &'static str)> {
        node.settle();
        let published = node.published();
        let items = complete(&published, place);
        place = published.change_place();
        let kind = |rows: &Rows| match rows {
            Rows::Known(_) => "known",
            Rows::Unknown => "unknown",
            Rows::StandsStill => "still",
        };
        let of = |item: &Arc<Committed>| -> Vec<_> {
            let tables = item.tables.iter();
            tables.map(|t| (item.xid.is_some(), t.name().name.clone(), kind(&t.rows))).collect()
        };
        items.iter().flat_map(of).collect()
    };
    let told = |transaction, name: &str, kind| (transaction, name.to_owned(), kind);
    let stale = Control::Stale { table: RelationId(2), reason: "altered".into(), untraced: false };
    node.control(stale);
    assert_eq!(news(&mut node), [told(false, "todos", "still")]);
    let before: HeldRows =
        node.published().table(&todos).entered().unwrap().rows().map(Result::unwrap).collect();
    let change = |relation: &Arc<Relation>, new: Row| Change::Row {
        relation: relation.clone(),
        kind: ChangeKind::Insert { new },
    };
    source.commit(&mut rng, |_, _| vec![]);
    let position = source.position + 100;
    node.feed(&transaction(
        position,
        position + 40,
        vec![
            change(&source.lists, row(&[Some("k99"), Some("l99"), Some("amy")])),
            change(&source.todos, row(&[Some("t99"), Some("l99"), Some("x")])),
        ],
    ));
    assert_eq!(news(&mut node), [told(true, "lists", "known"), told(true, "todos", "still")]);
    let published = node.published();
    let view = published.table(&todos).entered().unwrap();
    assert!(view.stands_still() && !published.table(&lists).entered().unwrap().stands_still());
    assert_eq!(view.rows().map(Result::unwrap).collect::<HeldRows>(), before);
    // It is copied again.
    source.position = position + 100;
    let number = node.begin_copy(false);
    let copied = source.copied(&["todos"]);
    let mut copy = node.load_copy(number, copied, Reading::default(), Behind::Marker(7));
    let contents = MarkerContents { nonce: 7, write_checkpoints: Vec::new() };
    let secret = node.board.secret();
    source.mark(&mut rng, &secret, &contents);
    feed_last(&mut node, &source);
    assert!(copy.has_entered());
    assert_eq!(news(&mut node), [told(false, "todos", "unknown")]);
    assert!(!node.published().table(&todos).entered().unwrap().stands_still());
    node.control(Control::Gone { table: RelationId(1), reason: "dropped".into() });
    assert_eq!(news(&mut node), [told(false, "lists", "unknown")]);
    assert!(node.published().table(&lists).entered().is_none());
}

/// `design/engine.md` 11: what says that rights may be others stands in its place among the data, and is told
/// before that is shown; also of transactions of any size.
#[test]
fn what_says_that_rights_may_be_others_is_listed_in_its_place() {
    for fold_bytes in [1 << 20, 1] {
        let (mut node, mut source, mut rng) = node(7, fold_bytes, 1 << 20);
        let rights = node.engine().rights();
        let place = node.published().change_place();
        let todos = source.todos.clone();
        let kind = |id: &str| ChangeKind::Insert { new: row(&[Some(id), Some("l1"), Some("x")]) };
        let change = |id: &str| Change::Row { relation: todos.clone(), kind: kind(id) };
        let again = || Change::Relation(Arc::new((*todos).clone()));
        node.feed(&transaction(5_000, 5_040, vec![change("a")]));
        assert_eq!(*rights.borrow(), 0);
        node.feed(&transaction(5_100, 5_140, vec![again(), change("b")]));
        assert!(*rights.borrow() > 0, "told before it is shown");
        node.feed(&transaction(5_200, 5_240, vec![again()]));
        source.position = 5_300;
        source.say(&mut rng, "headwater_ddl");
        feed_last(&mut node, &source);
        source.say(&mut rng, "somebody");
        feed_last(&mut node, &source);
        node.settle();
        let told: Vec<_> = complete(&node.published(), place)
            .iter()
            .map(|item| {
                let tables = item.tables.iter().map(|t| (t.name().name.clone(), t.described));
                (item.altered, tables.collect::<Vec<_>>())
            })
            .collect();
        let table = |described| vec![("todos".to_owned(), described)];
        assert_eq!(
            told,
            [(false, table(false)), (false, table(true)), (false, table(true)), (true, vec![])],
            "{fold_bytes}"
        );
        let before = *rights.borrow();
        let facts = Vec::new();
        node.control(Control::Adopt { table: RelationId(2), facts });
        assert!(*rights.borrow() > before);
    }
}

/// Of rows that nothing tells apart it is known how many there are.
#[test]
fn rows_without_identity_are_listed_with_how_often_they_exist() {
    let mut node = Node::simulated();
    node.configure("bucket_definitions:\n  all:\n    data:\n      - SELECT * FROM lists\n");
    let mut lists = relation(1, "lists", &["id", "owner"]);
    {
        let lists = Arc::make_mut(&mut lists);
        lists.replica_identity = ReplicaIdentity::Full;
        lists.columns.iter_mut().for_each(|c| (c.identity, c.primary_key) = (true, 0));
    }
    let same = row(&[Some("a"), Some("amy")]);
    node.copy(Lsn(1_000), vec![(lists.clone(), vec![same.clone()])]);
    node.settle();
    let place = node.published().change_place();
    let kind = ChangeKind::Insert { new: same.clone() };
    node.feed(&transaction(2_000, 2_040, vec![Change::Row { relation: lists, kind }]));
    node.settle();
    let items = complete(&node.published(), place);
    let [changed] = items[0].tables[0].known().unwrap() else { panic!("{items:?}") };
    let copies = |row: &Option<StoredRow>| row.as_ref().map(|row| row.copies);
    assert_eq!((copies(&changed.before), copies(&changed.after)), (Some(1), Some(2)));
}

/// What is durable and was not shown when the writer failed is in no list.
#[test]
fn a_writer_that_begins_again_ends_the_list() {
    let (mut node, mut source, mut rng) = node(6, 1 << 20, 1 << 20);
    let place = node.published().change_place();
    source.transact(&mut rng, false);
    feed_last(&mut node, &source);
    node.sequencer.writer.commit().unwrap();
    let store = node.store.clone();
    node.restart(store);
    node.settle();
    assert!(matches!(node.published().committed_since(place), Since::Gone));
}
