//! Entries alone decide what is stored: what one node recorded gives another one the same bytes.

use super::run::{BOUNDS, CONFIG, Run};
use crate::apply::Applied;
use crate::loader::Loader;
use crate::testing::{Node, Recorded, Recording, load_rows};
use crate::tests::source::Source;
use crate::writer::{Bounds, Writer};
use hw_input::entry::{Control, Entry};
use hw_store::{Simulation, Store};
use hw_types::OpId;
use rand::SeedableRng;
use rand::rngs::StdRng;
use std::collections::{BTreeMap, BTreeSet};

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
