//! What the log and the catalog say of tables, in its place.

use super::run::{CONFIG, Run};
use crate::testing::Node;
use crate::tests::source::Source;
use hw_input::entry::Control;
use hw_store::{Simulation, Store};
use hw_types::row::{Cell, RowBuilder};
use hw_types::{Change, ChangeKind};
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::BTreeSet;

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
