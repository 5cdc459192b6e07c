//! Bulk loads: invisible before the end, visible and durable behind it.

use hw_store::{Batch, Space, Store, StoreError};

use crate::{both, small};

#[test]
fn a_bulk_load_is_visible_at_its_end_and_replaces_what_was_there() {
    for (store, _dir) in both() {
        let space = store.space("rows").unwrap();
        let mut batch = Batch::new();
        batch.put(&space, 1u32.to_be_bytes(), "old");
        batch.put(&space, 5_000_000u32.to_be_bytes(), "other");
        store.commit(batch).unwrap();
        let before = store.snapshot();
        let mut load = store.bulk(&space).unwrap();
        for n in 0..20_000u32 {
            load.push(&n.to_be_bytes(), &[b'x'; 100]).unwrap();
        }
        assert_eq!(store.snapshot().all(&space).count(), 2);
        assert_eq!(load.finish().unwrap(), 20_000);
        let behind = store.snapshot();
        assert_eq!(behind.all(&space).count(), 20_001);
        assert_eq!(behind.get(&space, &1u32.to_be_bytes()).unwrap().unwrap(), [b'x'; 100]);
        assert_eq!(before.all(&space).count(), 2);
        assert_eq!(before.get(&space, &1u32.to_be_bytes()).unwrap().unwrap(), b"old");
    }
}

#[test]
fn keys_that_do_not_ascend_are_refused() {
    for (store, _dir) in both() {
        let space = store.space("rows").unwrap();
        let mut load = store.bulk(&space).unwrap();
        load.push(b"b", b"").unwrap();
        assert!(matches!(load.push(b"b", b""), Err(StoreError::Order)));
        assert!(matches!(load.push(b"a", b""), Err(StoreError::Order)));
        assert!(matches!(load.push(b"", b""), Err(StoreError::KeyLength { len: 0 })));
        load.push(b"c", b"").unwrap();
        load.finish().unwrap();
        assert_eq!(store.snapshot().all(&space).count(), 2);
    }
}

#[test]
fn an_empty_load_and_an_abandoned_one_change_nothing() {
    for (store, _dir) in both() {
        let space = store.space("rows").unwrap();
        assert_eq!(store.bulk(&space).unwrap().finish().unwrap(), 0);
        let mut abandoned = store.bulk(&space).unwrap();
        for n in 0..10_000u32 {
            abandoned.push(&n.to_be_bytes(), &[0; 100]).unwrap();
        }
        drop(abandoned);
        assert_eq!(store.snapshot().all(&space).count(), 0);
        let mut batch = Batch::new();
        batch.put(&space, "k", "v");
        store.commit(batch).unwrap();
        store.reopen().unwrap();
    }
}

#[test]
fn reopening_ends_a_running_load() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let space = store.space("rows").unwrap();
    let mut load = store.bulk(&space).unwrap();
    load.push(b"k", b"v").unwrap();
    store.reopen().unwrap();
    assert!(matches!(load.finish(), Err(StoreError::Superseded)));
    assert_eq!(store.snapshot().all(&space).count(), 0);
    let mut load = store.bulk(&space).unwrap();
    load.push(b"k", b"v").unwrap();
    load.finish().unwrap();
    assert_eq!(store.get(&space, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn a_load_into_a_space_that_was_dropped_meanwhile_fails() {
    for (store, _dir) in both() {
        let space = store.space("rows").unwrap();
        let mut load = store.bulk(&space).unwrap();
        load.push(b"k", b"v").unwrap();
        store.drop_space("rows").unwrap();
        assert!(matches!(load.finish(), Err(StoreError::NoSpace { .. })));
    }
}

#[test]
fn loads_run_beside_each_other_and_beside_commits() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let live = store.space("live").unwrap();
    std::thread::scope(|scope| {
        for table in 0..3 {
            let store = &store;
            scope.spawn(move || {
                let space = store.space(&format!("table{table}")).unwrap();
                let mut load = store.bulk(&space).unwrap();
                for n in 0..10_000u32 {
                    load.push(&n.to_be_bytes(), &[table; 200]).unwrap();
                }
                load.finish().unwrap();
            });
        }
        for n in 0..1000u32 {
            let mut batch = Batch::new();
            batch.put(&live, n.to_be_bytes(), vec![9; 500]);
            store.commit(batch).unwrap();
        }
    });
    drop(store);
    let store = Store::open(&small(dir.path())).unwrap();
    let snapshot = store.snapshot();
    for (name, count) in
        [("table0", 10_000), ("table1", 10_000), ("table2", 10_000), ("live", 1000)]
    {
        let space = store.existing_space(name).unwrap();
        assert_eq!(snapshot.all(&space).count(), count, "{name}");
    }
}

#[test]
fn many_loads_into_one_space_are_compacted_and_stop_nobody() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    // Loads of one commit each, and loads that write tables.
    for (name, len) in [("rows.1", 4), ("rows.2", 1000)] {
        let space = store.space(name).unwrap();
        for round in 0..60u8 {
            let value = vec![round; len];
            let mut load = store.bulk(&space).unwrap();
            for n in 0..50u32 {
                load.push(&(n * 60 + u32::from(round)).to_be_bytes(), &value).unwrap();
            }
            load.push(&[0xff; 4], &value).unwrap();
            load.finish().unwrap();
        }
        let mut batch = Batch::new();
        batch.put(&space, 0u32.to_be_bytes(), "committed");
        store.commit(batch).unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.all(&space).count(), 50 * 60 + 1);
        assert_eq!(snapshot.get(&space, &[0xff; 4]).unwrap().unwrap(), vec![59; len]);
        assert_eq!(snapshot.get(&space, &[0; 4]).unwrap().unwrap(), b"committed");
    }
}

/// Pairs of a load that writes tables.
fn load_much(store: &Store, space: &Space, byte: u8) {
    let mut load = store.bulk(space).unwrap();
    for n in 0..100u32 {
        load.push(&n.to_be_bytes(), &[byte; 1000]).unwrap();
    }
    load.finish().unwrap();
}

#[test]
fn snapshots_from_before_a_space_got_a_keyspace_of_its_own_see_it_empty() {
    for (store, _dir) in both() {
        let (space, other) = (store.space("rows.1").unwrap(), store.space("rows.2").unwrap());
        let before = store.snapshot();
        load_much(&store, &space, 1);
        let behind = store.snapshot();
        assert_eq!(before.all(&space).count(), 0);
        assert_eq!(behind.all(&space).count(), 100);
        assert_eq!(behind.all(&other).count(), 0);
        let mut batch = Batch::new();
        batch.put(&space, 7u32.to_be_bytes(), "new");
        batch.put(&other, "k", "v");
        store.commit(batch).unwrap();
        store.sync().unwrap();
        store.reopen().unwrap();
        let snapshot = store.snapshot();
        assert_eq!(snapshot.all(&space).count(), 100);
        assert_eq!(snapshot.get(&space, &7u32.to_be_bytes()).unwrap().unwrap(), b"new");
        assert_eq!(snapshot.all(&other).count(), 1);
    }
}

#[test]
fn a_space_that_older_snapshots_find_pairs_in_is_not_moved_by_a_load() {
    for (store, _dir) in both() {
        let space = store.space("rows.1").unwrap();
        let mut batch = Batch::new();
        batch.put(&space, "k", "v");
        store.commit(batch).unwrap();
        let before = store.snapshot();
        let mut batch = Batch::new();
        batch.delete(&space, "k");
        store.commit(batch).unwrap();
        load_much(&store, &space, 1);
        assert_eq!(before.get(&space, b"k").unwrap().unwrap(), b"v");
        assert_eq!(before.all(&space).count(), 1);
        assert_eq!(store.snapshot().all(&space).count(), 100);
    }
}

#[test]
fn a_load_into_a_shared_keyspace_is_right_beside_writes_to_its_other_spaces() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let spaces: Vec<Space> = (0..3).map(|n| store.space(&format!("ops.{n}")).unwrap()).collect();
    for space in &spaces {
        // Not empty, so that it stays in the keyspace that all share.
        let mut batch = Batch::new();
        batch.put(space, "first", "kept");
        store.commit(batch).unwrap();
    }
    std::thread::scope(|scope| {
        let loads = scope.spawn(|| {
            for byte in 0..20 {
                load_much(&store, &spaces[1], byte);
            }
        });
        let mut n = 0u32;
        while !loads.is_finished() || n < 500 {
            let mut batch = Batch::new();
            for space in [&spaces[0], &spaces[2]] {
                batch.put(space, n.to_be_bytes(), vec![n as u8; 500]);
            }
            store.commit(batch).unwrap();
            n += 1;
        }
        for space in [&spaces[0], &spaces[2]] {
            assert_eq!(store.snapshot().all(space).count(), n as usize + 1);
        }
    });
    drop(spaces);
    drop(store);
    let store = Store::open(&small(dir.path())).unwrap();
    let loaded = store.existing_space("ops.1").unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.all(&loaded).count(), 101);
    assert_eq!(snapshot.get(&loaded, b"first").unwrap().unwrap(), b"kept");
    assert_eq!(snapshot.get(&loaded, &[0; 4]).unwrap().unwrap(), vec![19; 1000]);
}
