//! Bulk loads: invisible before the end, visible and durable behind it.

use hw_store::{Batch, Store, StoreError};

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
    let space = store.space("rows").unwrap();
    for round in 0..60u32 {
        let mut load = store.bulk(&space).unwrap();
        for n in 0..50u32 {
            load.push(&(n * 60 + round).to_be_bytes(), &round.to_be_bytes()).unwrap();
        }
        load.push(&[0xff; 4], &round.to_be_bytes()).unwrap();
        load.finish().unwrap();
    }
    let mut batch = Batch::new();
    batch.put(&space, 0u32.to_be_bytes(), "committed");
    store.commit(batch).unwrap();
    let snapshot = store.snapshot();
    assert_eq!(snapshot.all(&space).count(), 50 * 60 + 1);
    assert_eq!(snapshot.get(&space, &[0xff; 4]).unwrap().unwrap(), 59u32.to_be_bytes());
    assert_eq!(snapshot.get(&space, &[0; 4]).unwrap().unwrap(), b"committed");
}
