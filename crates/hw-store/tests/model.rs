//! Reads answer what an ordered map would answer, for both backends, whatever the order of batches,
//! snapshots, flushes and reopenings.

use std::collections::BTreeMap;
use std::ops::Bound;

use hw_store::{Batch, Iter, Slice, Snapshot, Space, Store, StoreError};
use proptest::collection::vec;
use proptest::prelude::*;

use crate::both;

type Model = BTreeMap<Vec<u8>, Vec<u8>>;

#[derive(Clone, Debug)]
enum Step {
    /// Writes: space, key, value or deletion.
    Commit(Vec<(usize, Vec<u8>, Option<Vec<u8>>)>),
    Snapshot,
    /// Flushes memory on disk and syncs on both.
    Settle,
    /// Syncs and opens again; older snapshots end.
    Reopen,
    Drop(usize),
    /// Loads pairs of this many bytes each, at last more than one commit takes.
    Load(usize, usize),
    /// Removes what dropped spaces left.
    Remove,
}

/// In one keyspace, so that what is done to one meets the other.
const SPACES: [&str; 2] = ["rows.1", "rows.2"];

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Few letters and 0xff, so that keys collide, are prefixes of each other and end a prefix range.
    vec(prop_oneof![Just(0u8), Just(b'a'), Just(b'b'), Just(0xff)], 1..5)
}

fn value() -> impl Strategy<Value = Vec<u8>> {
    prop_oneof![vec(any::<u8>(), 0..30), (0..3000usize).prop_map(|len| vec![7; len])]
}

fn step() -> impl Strategy<Value = Step> {
    let write = (0..SPACES.len(), key(), proptest::option::weighted(0.7, value()));
    prop_oneof![
        8 => vec(write, 1..20).prop_map(Step::Commit),
        3 => Just(Step::Snapshot),
        1 => Just(Step::Settle),
        1 => Just(Step::Reopen),
        1 => (0..SPACES.len()).prop_map(Step::Drop),
        1 => (0..SPACES.len(), prop_oneof![Just(10usize), Just(2000)])
            .prop_map(|(at, len)| Step::Load(at, len)),
        1 => Just(Step::Remove),
    ]
}

fn apply(store: &Store, spaces: &mut [Space], models: &mut [Model; 2], step: &Step) {
    match step {
        Step::Commit(writes) => {
            let mut batch = Batch::new();
            for (at, key, value) in writes {
                match value {
                    Some(value) => {
                        batch.put(&spaces[*at], key.as_slice(), value.as_slice());
                        models[*at].insert(key.clone(), value.clone());
                    }
                    None => {
                        batch.delete(&spaces[*at], key.as_slice());
                        models[*at].remove(key);
                    }
                }
            }
            store.commit(batch).unwrap();
        }
        Step::Settle => store.sync().unwrap(),
        Step::Reopen => {
            store.sync().unwrap();
            store.reopen().unwrap();
        }
        Step::Drop(at) => {
            store.drop_space(SPACES[*at]).unwrap();
            spaces[*at] = store.space(SPACES[*at]).unwrap();
            models[*at].clear();
        }
        Step::Load(at, len) => {
            let mut load = store.bulk(&spaces[*at]).unwrap();
            for byte in 0..20 {
                let (key, value) = ([b'a', byte], vec![byte; *len]);
                load.push(&key, &value).unwrap();
                models[*at].insert(key.to_vec(), value);
            }
            load.finish().unwrap();
        }
        Step::Remove => store.finish_removals().unwrap(),
        Step::Snapshot => {}
    }
}

fn pairs(
    iter: impl Iterator<Item = Result<(Slice, Slice), StoreError>>,
) -> Vec<(Vec<u8>, Vec<u8>)> {
    iter.map(|pair| pair.map(|(k, v)| (k.to_vec(), v.to_vec())).unwrap()).collect()
}

fn check(snapshot: &Snapshot, space: &Space, model: &Model, probe: &[Vec<u8>]) {
    let expected = |range: &dyn Fn(&[u8]) -> bool| -> Vec<(Vec<u8>, Vec<u8>)> {
        model.iter().filter(|(k, _)| range(k)).map(|(k, v)| (k.clone(), v.clone())).collect()
    };
    assert_eq!(pairs(snapshot.all(space)), expected(&|_| true));
    for key in probe {
        assert_eq!(snapshot.get(space, key).unwrap().as_deref(), model.get(key).map(|v| &v[..]));
        let mut found = expected(&|k| k.starts_with(key));
        assert_eq!(pairs(snapshot.prefix(space, key)), found);
        let text = |pair: Option<(Slice, Slice)>| pair.map(|(k, v)| (k.to_vec(), v.to_vec()));
        assert_eq!(text(snapshot.first_in_prefix(space, key).unwrap()), found.first().cloned());
        assert_eq!(text(snapshot.last_in_prefix(space, key).unwrap()), found.last().cloned());
        found.reverse();
        assert_eq!(pairs(snapshot.prefix(space, key).rev()), found);
    }
    for two in probe.windows(2) {
        let (a, b) = (two[0].as_slice(), two[1].as_slice());
        let half_open = || snapshot.range(space, a..b);
        assert_eq!(pairs(half_open()), expected(&|k| a <= k && k < b));
        assert_eq!(pairs(zigzag(half_open())), expected(&|k| a <= k && k < b));
        assert_eq!(pairs(snapshot.range(space, a..=b)), expected(&|k| a <= k && k <= b));
        let open = (Bound::Excluded(two[0].clone()), Bound::Excluded(two[1].clone()));
        assert_eq!(pairs(snapshot.range(space, open)), expected(&|k| a < k && k < b));
        assert_eq!(pairs(snapshot.range(space, a..)), expected(&|k| a <= k));
        assert_eq!(pairs(snapshot.range(space, ..a)), expected(&|k| k < a));
    }
}

/// Takes from both ends in turn and returns the items in order: the ends must meet exactly once.
fn zigzag(mut iter: Iter) -> impl Iterator<Item = Result<(Slice, Slice), StoreError>> {
    let (mut front, mut back) = (Vec::new(), Vec::new());
    loop {
        match iter.next() {
            Some(pair) => front.push(pair),
            None => break,
        }
        match iter.next_back() {
            Some(pair) => back.push(pair),
            None => break,
        }
    }
    front.into_iter().chain(back.into_iter().rev())
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn both_backends_answer_like_an_ordered_map(
        steps in vec(step(), 1..40),
        probe in vec(key(), 2..8),
    ) {
        for (store, _dir) in both() {
            let mut spaces: Vec<Space> = SPACES.iter().map(|n| store.space(n).unwrap()).collect();
            let mut models = [Model::new(), Model::new()];
            let mut kept: Vec<(Snapshot, Vec<Space>, [Model; 2])> = Vec::new();
            for step in &steps {
                apply(&store, &mut spaces, &mut models, step);
                match step {
                    Step::Snapshot => kept.push((store.snapshot(), spaces.clone(), models.clone())),
                    Step::Reopen => kept.clear(),
                    _ => {}
                }
            }
            kept.push((store.snapshot(), spaces.clone(), models.clone()));
            for (snapshot, spaces, models) in &kept {
                for (space, model) in spaces.iter().zip(models) {
                    check(snapshot, space, model, &probe);
                }
            }
            for (space, model) in spaces.iter().zip(&models) {
                for key in &probe {
                    let newest = store.get(space, key).unwrap();
                    prop_assert_eq!(newest.as_deref(), model.get(key).map(|v| &v[..]));
                }
            }
        }
    }
}

/// The newest thing that happened to the spaces before an opening is a creation or a drop, and no
/// commit: what the next opening drops must stay dropped all the same.
#[test]
fn a_space_dropped_right_after_an_opening_does_not_come_back() {
    for (store, _dir) in both() {
        for round in 0..4u8 {
            store.reopen().unwrap();
            for name in SPACES {
                let mut batch = Batch::new();
                batch.put(&store.space(name).unwrap(), b"key", [round]);
                store.commit(batch).unwrap();
                store.drop_space(name).unwrap();
                store.space(name).unwrap();
            }
            store.sync().unwrap();
            store.reopen().unwrap();
            for name in SPACES {
                let space = store.existing_space(name).unwrap();
                assert_eq!(pairs(store.snapshot().all(&space)), [], "{name} in round {round}");
                store.drop_space(name).unwrap();
            }
            store.sync().unwrap();
            store.reopen().unwrap();
            assert!(store.space_names().is_empty());
        }
    }
}

#[test]
fn snapshots_stay_as_they_were_while_memory_is_flushed_and_compacted() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&crate::small(dir.path())).unwrap();
    let spaces: Vec<Space> = (0..5).map(|n| store.space(&format!("s{n}")).unwrap()).collect();
    let mut kept = Vec::new();
    // 8 MB through 256 KiB of memory: every space is flushed many times.
    for round in 0..100u32 {
        let mut batch = Batch::new();
        for key in 0..200u32 {
            let space = &spaces[(key % 5) as usize];
            batch.put(space, key.to_be_bytes(), [round.to_be_bytes(); 100].concat());
        }
        store.commit(batch).unwrap();
        if round % 10 == 0 {
            kept.push((round, store.snapshot()));
        }
    }
    for (round, snapshot) in kept {
        for key in 0..200u32 {
            let value = snapshot.get(&spaces[(key % 5) as usize], &key.to_be_bytes()).unwrap();
            assert_eq!(value.unwrap()[..4], round.to_be_bytes());
        }
        for space in &spaces {
            assert_eq!(snapshot.all(space).count(), 40);
        }
    }
}

#[test]
fn a_snapshot_never_shows_part_of_a_batch_that_is_being_committed() {
    for (store, _dir) in both() {
        let (a, b) = (store.space("a").unwrap(), store.space("b").unwrap());
        std::thread::scope(|scope| {
            let writer = scope.spawn(|| {
                for n in 0..2000u32 {
                    let mut batch = Batch::new();
                    batch.put(&a, "n", n.to_be_bytes());
                    // Fills memory, so that flushes run beside the commits.
                    batch.put(&a, n.to_be_bytes(), vec![1; 500]);
                    batch.put(&b, "n", n.to_be_bytes());
                    store.commit(batch).unwrap();
                }
            });
            while !writer.is_finished() {
                let snapshot = store.snapshot();
                let both = [&a, &b].map(|space| snapshot.get(space, b"n").unwrap());
                assert_eq!(both[0], both[1]);
            }
        });
    }
}

#[test]
fn keys_that_no_backend_can_hold_are_refused_before_anything_is_written() {
    for (store, _dir) in both() {
        let space = store.space("s").unwrap();
        for len in [0, 65_532] {
            let mut batch = Batch::new();
            batch.put(&space, "good", "value");
            batch.put(&space, vec![1; len], "value");
            let error = store.commit(batch).unwrap_err();
            assert!(matches!(error, StoreError::KeyLength { len: found } if found == len));
        }
        assert_eq!(store.snapshot().all(&space).count(), 0);
        let mut batch = Batch::new();
        batch.put(&space, vec![1; 65_531], "value");
        store.commit(batch).unwrap();
        assert!(store.get(&space, &[1; 65_531]).unwrap().is_some());
    }
}

#[test]
fn a_dropped_space_takes_no_writes_and_old_snapshots_still_read_it() {
    for (store, _dir) in both() {
        let space = store.space("s").unwrap();
        let mut batch = Batch::new();
        batch.put(&space, "k", "old");
        store.commit(batch.clone()).unwrap();
        let before = store.snapshot();
        store.drop_space("s").unwrap();
        store.drop_space("s").unwrap();
        assert_eq!(store.space_names(), Vec::<String>::new());
        assert!(matches!(store.commit(batch), Err(StoreError::NoSpace { .. })));
        assert!(matches!(store.bulk(&space), Err(StoreError::NoSpace { .. })));
        assert_eq!(before.get(&space, b"k").unwrap().unwrap(), b"old");
        let again = store.space("s").unwrap();
        assert_eq!(store.snapshot().get(&again, b"k").unwrap(), None);
        // What begins behind the drop does not see what is being removed.
        let gone = |error| matches!(error, StoreError::NoSpace { .. });
        assert!(store.snapshot().get(&space, b"k").is_err_and(gone));
        assert!(store.snapshot().all(&space).next().unwrap().is_err_and(gone));
        assert!(store.get(&space, b"k").is_err_and(gone));
        store.finish_removals().unwrap();
        assert_eq!(before.get(&space, b"k").unwrap().unwrap(), b"old");
        assert_eq!(before.all(&space).count(), 1);
    }
}

#[test]
fn a_batch_of_a_foreign_store_is_refused() {
    let stores = both();
    let [disk, twin] = [&stores[0].0, &stores[1].0].map(|store| store.space("s").unwrap());
    for (store, foreign) in [(&stores[0].0, &twin), (&stores[1].0, &disk)] {
        let mut batch = Batch::new();
        batch.put(foreign, "k", "v");
        assert!(matches!(store.commit(batch), Err(StoreError::NoSpace { .. })));
        assert!(matches!(store.snapshot().get(foreign, b"k"), Err(StoreError::NoSpace { .. })));
    }
}

#[test]
fn hundreds_of_spaces_are_written_flushed_and_opened_again() {
    let dir = tempfile::tempdir().unwrap();
    let mut options = crate::small(dir.path());
    options.memtable_bytes = 64 << 10;
    let store = Store::open(&options).unwrap();
    let spaces: Vec<Space> = (0..120).map(|n| store.space(&format!("s{n}")).unwrap()).collect();
    for round in 0..4u8 {
        for space in &spaces {
            let mut batch = Batch::new();
            batch.put(space, [round], vec![round; 300]);
            store.commit(batch).unwrap();
        }
    }
    drop(store);
    let store = Store::open(&options).unwrap();
    assert_eq!(store.space_names().len(), 120);
    let snapshot = store.snapshot();
    for name in store.space_names() {
        assert_eq!(snapshot.all(&store.existing_space(&name).unwrap()).count(), 4);
    }
}
