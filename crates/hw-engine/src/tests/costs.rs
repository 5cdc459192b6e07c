//! What things cost, by what can be counted: entries, commits, syncs, stored keys. Times are measured in `bench`.

use super::source::Source;
use crate::testing::{Node, Recorded, Recording, relation, row};
use hw_input::entry::Entry;
use hw_store::{Simulation, Store};
use hw_types::{Change, ChangeKind, Lsn, Row};
use rand::SeedableRng;
use rand::rngs::StdRng;

/// What a first copy of so many tables costs, with a definition each.
#[derive(Debug)]
struct FirstCopy {
    entries: usize,
    commits: u64,
    syncs: u64,
    keys: usize,
}

fn first_copy(tables: u32) -> FirstCopy {
    let recording = Recording::default();
    let store = Store::simulated(&Simulation::new());
    let mut node = Node::recording(store.clone(), 1 << 20, Some(recording.clone()));
    let mut config = "bucket_definitions:\n".to_owned();
    let mut copied = Vec::new();
    for n in 1..=tables {
        config.push_str(&format!("  d{n}:\n    data:\n      - SELECT * FROM t{n}\n"));
        let rows: Vec<Row> = vec![row(&[Some("1"), Some("x")])];
        copied.push((relation(n, &format!("t{n}"), &["id", "v"]), rows));
    }
    node.source_has(&copied.iter().map(|(relation, _)| relation.id).collect::<Vec<_>>());
    node.configure(&config);
    node.copy(Lsn(1_000), copied);
    node.settle();
    let published = node.published();
    assert_eq!(published.sync.as_ref().expect("it is served").withheld().len(), 0);
    let entries = recording.lock();
    let entries = entries.iter().filter(|one| matches!(one, Recorded::Entry(Entry::Control(_))));
    let snapshot = store.snapshot();
    let spaces = store.space_names();
    let keys = |name: &String| snapshot.all(&store.space(name).expect("it is there")).count();
    let statistics = store.statistics();
    FirstCopy {
        entries: entries.count(),
        commits: statistics.commits,
        syncs: statistics.syncs,
        keys: spaces.iter().map(keys).sum(),
    }
}

/// FD-72: many tables and definitions are copied and built in as many entries and syncs as few, and each costs the
/// same few commits and keys.
#[test]
fn fd_72_a_first_copy_costs_each_table_and_definition_the_same() {
    let [few, some, many] = [20, 200, 400].map(first_copy);
    assert_eq!((few.entries, few.syncs), (many.entries, many.syncs), "{few:?}, {many:?}");
    let commits = [few.commits, some.commits, many.commits];
    assert!(commits[2] <= 4 * 400, "{commits:?}");
    assert!(commits[2] - commits[1] <= (commits[1] - commits[0]) * 200 / 180 + 2, "{commits:?}");
    let keys = [few.keys, some.keys, many.keys];
    assert!(keys[2] <= 10 * 400, "{keys:?}");
    assert!(keys[2] - keys[1] <= (keys[1] - keys[0]) * 200 / 180 + 2, "{keys:?}");
}

const CONFIG: &str = "
bucket_definitions:
  todos:
    data:
      - SELECT * FROM todos
";

/// FD-77: a transaction costs one commit and one sync where it comes alone, and those that wait together share
/// theirs.
#[test]
fn fd_77_transactions_that_wait_together_share_a_commit_and_a_sync() {
    let rng = &mut StdRng::seed_from_u64(1);
    let mut source = Source::new(rng);
    let store = Store::simulated(&Simulation::new());
    let mut node = Node::open(store.clone(), 1 << 20);
    node.configure(CONFIG);
    let (lsn, tables) = source.all();
    node.copy(lsn, tables);
    node.settle();
    let mut new = 0;
    let mut apply = |transactions: usize| {
        let (before, shown) = (store.statistics(), node.published().number);
        for _ in 0..transactions {
            new += 1;
            let new = row(&[Some(&format!("n{new}")), Some("l1"), Some("x")]);
            let kind = ChangeKind::Insert { new };
            let change = Change::Row { relation: source.todos.clone(), kind };
            source.commit(rng, |_, _| vec![change]);
            node.feed(&source.log.last().expect("there is one").0);
        }
        node.settle();
        let after = store.statistics();
        assert_eq!(node.published().checkpoint.end_lsn.0, Lsn(source.position));
        (
            after.commits - before.commits,
            after.syncs - before.syncs,
            node.published().number - shown,
        )
    };
    for _ in 0..10 {
        assert_eq!(apply(1), (1, 1, 1), "one that comes alone");
    }
    assert_eq!(apply(200), (1, 1, 1), "those that wait together");
}
