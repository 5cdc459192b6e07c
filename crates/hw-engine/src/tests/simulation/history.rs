//! The source's history and the store's: numbers go on, or begin anew.

use super::compare::compare;
use super::run::{CONFIG, Run};
use crate::published::Withheld;
use crate::state::{Record, keys};
use crate::testing::{Node, row, transaction};
use crate::tests::client::Client;
use crate::tests::source::{BEGIN, Source};
use hw_input::identity::Identity;
use hw_store::{Simulation, Store};
use hw_types::{Change, ChangeKind, CommitLsn, EndLsn, Lsn, OpId};
use rand::SeedableRng;
use rand::rngs::StdRng;

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
