//! Which definitions are served, and how far.

use super::run::{CONFIG, Run, WIDER};
use crate::state::{IncarnationRecord, Record, keys};
use crate::tests::client::Client;
use hw_input::signal::{CopySignal, Signal};
use hw_store::Batch;
use hw_types::RelationId;
use std::collections::BTreeSet;

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

/// E-4: where states are guarded, what a wider limit gives is given with a state that was looked at, not with the one
/// that is shown: of that one it is not known that the wider limit was for it.
#[test]
fn e_4_what_is_shown_already_is_shown_no_wider_before_somebody_has_looked() {
    let mut run = served(WIDER);
    let of = |text: &str| crate::definitions::compile("sync.yaml", text).unwrap();
    run.node.publication().guard();
    run.node.publication().limit(of(CONFIG));
    assert_eq!(everyones(&run), 0);
    run.node.publication().limit(of(WIDER));
    assert_eq!(everyones(&run), 0);
    let before = run.node.published().number;
    // A state in which nothing that a client reads is another.
    let now = run.node.publication().changes();
    let job = run.node.sequencer.writer.publication(None, now).unwrap();
    run.node.publication().publish(job).unwrap();
    assert_eq!(everyones(&run), 0);
    assert!(run.node.publication().look_at().is_some());
    run.node.publication().show_looked_at();
    assert!(everyones(&run) > 0);
    let changes = run.node.published().changes_since(before);
    assert!(changes.everything(), "a connected client looks again");
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
