//! Copies beside a log that goes on.

use super::source::Source;
use crate::testing::{Node, relation, row};
use hw_input::entry::{Behind, Control, Reading};
use hw_input::markers::MarkerContents;
use hw_input::transactions::changes::{Recorder, SentUnder};
use hw_store::{Simulation, Store};
use hw_types::{Change, ChangeKind, RelationId, Xid};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::sync::Arc;

const CONFIG: &str = "
bucket_definitions:
  lists:
    parameters: SELECT id AS list FROM lists WHERE owner = request.user_id()
    data:
      - SELECT * FROM todos WHERE list = bucket.list
";

/// A node over a store whose spool holds so much, with all tables of the source.
fn node(rng: &mut StdRng, spool: u64) -> (Source, Node) {
    let simulation = Simulation::new();
    drop(Store::simulated(&simulation));
    simulation.spool_limit(spool);
    let source = Source::new(rng);
    let mut node = Node::open(simulation.crash(), 1 << 20);
    node.configure(CONFIG);
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    node.settle();
    (source, node)
}

/// A table that another copy will read may change as much as it likes while a copy waits to enter.
#[test]
fn changes_of_a_table_that_a_copy_does_not_read_take_none_of_its_room() {
    let rng = &mut StdRng::seed_from_u64(1);
    let (mut source, mut node) = node(rng, 4 << 20);
    let stale = |table| Control::Stale {
        table: RelationId(table),
        reason: "altered".into(),
        untraced: false,
    };
    node.control(stale(2));
    let number = node.begin_copy(false);
    let behind = Behind::Marker(7);
    let copied = source.copied(&["todos"]);
    let mut copy = node.load_copy(number, copied, Reading::default(), behind);
    node.control(stale(1));
    let large = "x".repeat(1 << 20);
    for _ in 0..16 {
        let new = row(&[Some("k1"), Some("l1"), Some(&large)]);
        let kind = ChangeKind::Update { old: None, new };
        let change = Change::Row { relation: source.lists.clone(), kind };
        source.commit(rng, |_, _| vec![change]);
        node.feed(&source.log.last().unwrap().0);
    }
    let contents = MarkerContents { nonce: 7, write_checkpoints: Vec::new() };
    source.mark(rng, &node.board.secret(), &contents);
    node.feed(&source.log.last().unwrap().0);
    let outcome = copy.outcome().map(|ended| ended.map_err(|dropped| dropped.why.what));
    assert_eq!(outcome, Some(Ok(())));
}

/// A copy beside which more is written than the spool takes ends with the reason, which names what to do: at once,
/// before it is known what it reads and while it is read.
#[test]
fn fd_42_a_copy_that_is_outgrown_says_why_and_what_to_do() {
    for is_early in [true, false] {
        let rng = &mut StdRng::seed_from_u64(1);
        let (mut source, mut node) = node(rng, 4 << 20);
        let reason = "altered".to_owned();
        node.control(Control::Stale { table: RelationId(2), reason, untraced: false });
        let number = node.begin_copy(false);
        let mut copy = (!is_early).then(|| {
            let copied = source.copied(&["todos"]);
            node.load_copy(number, copied, Reading::default(), Behind::Marker(7))
        });
        let large = "x".repeat(1 << 20);
        for _ in 0..16 {
            let new = row(&[Some("t1"), Some("l1"), Some(&large)]);
            let kind = ChangeKind::Update { old: None, new };
            let change = Change::Row { relation: source.todos.clone(), kind };
            source.commit(rng, |_, _| vec![change]);
            node.feed(&source.log.last().unwrap().0);
        }
        let outcome = match &mut copy {
            Some(copy) => copy.outcome(),
            None => node.ended.as_mut().unwrap().try_recv().ok(),
        };
        let why = outcome.expect("it has ended").expect_err("it was dropped").why;
        assert_eq!(why.code.0, hw_input::error::code::COPY_OUTGROWN);
        let tables = if is_early { "tables that are to be copied" } else { "public.todos" };
        assert!(why.what.contains(tables), "{why}");
        assert!(why.mend.as_ref().is_some_and(|mend| mend.contains("limits.spool_bytes")), "{why}");
    }
}

/// FD-42, E-5: a transaction on a table that is being copied takes no more memory when it is larger: it is spooled,
/// read back and replayed in pieces, whether it changes rows, empties the table first or writes one row again and
/// again.
#[test]
fn fd_42_a_large_transaction_on_a_table_that_is_copied_takes_bounded_memory() {
    const ROW: usize = 16 << 10;
    const BOUND: usize = 14 << 20;
    for (rows, keys, truncates) in [(3_000, 3_000, false), (3_000, 3_000, true), (3_000, 1, false)]
    {
        let rng = &mut StdRng::seed_from_u64(1);
        let (mut source, mut node) = node(rng, 1 << 30);
        let reason = "altered".to_owned();
        node.control(Control::Stale { table: RelationId(2), reason, untraced: false });
        let number = node.begin_copy(false);
        let copied = source.copied(&["todos"]);
        let known: Vec<String> = source.world.todos.keys().cloned().collect();
        let mut copy = node.load_copy(number, copied, Reading::default(), Behind::Marker(7));
        let mut recorder = Recorder::default();
        recorder.spill(node.store.spool()).unwrap();
        let text = "x".repeat(ROW);
        let relation = source.todos.clone();
        for n in 0..rows {
            if truncates && n == rows / 2 {
                let relations = vec![relation.clone()];
                recorder.push(Xid(1), Change::Truncate { relations }).unwrap();
            }
            let new = row(&[Some(&format!("n{}", n % keys)), Some("l1"), Some(&text)]);
            let kind = match n < keys || truncates {
                true => ChangeKind::Insert { new },
                false => ChangeKind::Update { old: None, new },
            };
            recorder.push(Xid(1), Change::Row { relation: relation.clone(), kind }).unwrap();
        }
        let changes = recorder.finish().unwrap();
        let size = changes.bytes();
        assert!(size > 3 * BOUND as u64, "it is large");
        source.commit(rng, |_, _| Vec::new());
        let mut transaction = source.log.last().unwrap().0.clone();
        transaction.changes = changes;
        node.feed(&transaction);
        // In the spool twice, but for what a recording may hold in memory: as it came, and for the copy.
        let spooled = node.store.spool().used();
        assert!(spooled + BOUND as u64 > 2 * size, "{spooled} of {size} twice");
        drop(transaction);
        let contents = MarkerContents { nonce: 7, write_checkpoints: Vec::new() };
        source.mark(rng, &node.board.secret(), &contents);
        node.feed(&source.log.last().unwrap().0);
        assert!(matches!(copy.outcome(), Some(Ok(()))), "it has entered");
        let held = node.sequencer.writer.most_replayed;
        assert!((1..BOUND).contains(&held), "{held} bytes at once, of {size}");
        let table = node.sequencer.writer.tables.of_relation(RelationId(2)).unwrap().clone();
        let stored = node.store.snapshot().all(&table.rows).count();
        let left = if truncates { keys / 2 } else { keys + known.len() };
        assert_eq!(stored, left);
    }
}

/// What the log has told of one table is not gone through because of another.
#[test]
fn the_truncates_of_a_table_are_told_again_only_with_another_one_of_it() {
    let rng = &mut StdRng::seed_from_u64(1);
    let (mut source, mut node) = node(rng, 1 << 20);
    let (lists, todos) = (source.lists.clone(), source.todos.clone());
    let mut truncate = |relation: &Arc<hw_types::Relation>| {
        let relations = vec![relation.clone()];
        source.commit(rng, |_, _| vec![Change::Truncate { relations }]);
        node.feed(&source.log.last().unwrap().0);
        let tables = node.board.plan.borrow().tables.clone();
        [1, 2].map(|table| tables[&RelationId(table)].truncations.clone())
    };
    truncate(&todos);
    let [_, before] = truncate(&lists);
    let [lists, after] = truncate(&lists);
    assert!(Arc::ptr_eq(&before, &after));
    assert_eq!((lists.len(), after.len()), (2, 1));
}

/// A copy lacks what was sent under a table above its own behind its beginning, whether it is known by then
/// what it reads or not.
#[test]
fn fd_8_a_copy_that_lacks_rows_sent_under_another_table_does_not_enter() {
    for (is_early, is_lost) in [(true, true), (false, true), (true, false)] {
        let rng = &mut StdRng::seed_from_u64(1);
        let (mut source, mut node) = node(rng, 1 << 20);
        let reason = "altered".to_owned();
        node.control(Control::Stale { table: RelationId(2), reason, untraced: false });
        let number = node.begin_copy(false);
        let copied = source.copied(&["todos"]);
        let table = RelationId(if is_lost { 2 } else { 7 });
        let mut send = |source: &mut Source, node: &mut Node| {
            let mut recorder = Recorder::default();
            let kind = ChangeKind::Delete { old: row(&[Some("t1")]) };
            let change = Change::Row { relation: relation(9, "top", &["id"]), kind };
            recorder.push(Xid(1), change).unwrap();
            recorder.note_sent_under(SentUnder { table, root: RelationId(9) });
            source.commit(rng, |_, _| Vec::new());
            let mut transaction = source.log.last().unwrap().0.clone();
            transaction.changes = recorder.finish().unwrap();
            node.feed(&transaction);
        };
        if is_early {
            send(&mut source, &mut node);
        }
        let mut copy = node.load_copy(number, copied, Reading::default(), Behind::Marker(7));
        if !is_early {
            send(&mut source, &mut node);
        }
        let contents = MarkerContents { nonce: 7, write_checkpoints: Vec::new() };
        source.mark(rng, &node.board.secret(), &contents);
        node.feed(&source.log.last().unwrap().0);
        assert!(copy.outcome().is_some_and(|ended| ended.is_ok()));
        let tables = node.board.plan.borrow().tables.clone();
        assert_eq!(tables[&RelationId(2)].stale, is_lost, "early: {is_early}");
    }
}

/// What read a table goes in an entry of its own, before the table: a crash between the two leaves no table that
/// nothing reads, and whose changes would be kept for ever.
#[test]
fn e_2_a_crash_behind_the_last_that_read_a_table_leaves_no_table_behind() {
    let rng = &mut StdRng::seed_from_u64(1);
    let (_, mut node) = node(rng, 1 << 20);
    node.configure("bucket_definitions:\n  all:\n    data:\n      - SELECT * FROM lists\n");
    node.settle();
    let known = |node: &Node| -> Vec<u32> {
        node.board.plan.borrow().tables.keys().map(|id| id.0).collect()
    };
    assert_eq!(known(&node).len(), 2);
    node.control(Control::Retire { before: u64::MAX });
    let store = node.store.clone();
    node.restart(store);
    assert_eq!(known(&node), [1]);
}
