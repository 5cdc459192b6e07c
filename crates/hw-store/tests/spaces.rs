//! Thousands of spaces (FD-72), and what is left of those that are dropped.

use hw_store::{Batch, Space, Store, StoreError, StoreOptions};

use crate::{small, use_up_short_numbers};

fn put(store: &Store, space: &Space, pairs: u32, len: usize) {
    for n in 0..pairs {
        let mut batch = Batch::new();
        batch.put(space, n.to_be_bytes(), vec![n as u8; len]);
        store.commit(batch).unwrap();
    }
}

#[test]
fn fd_72_two_thousand_tables_and_definitions_take_little_disk_and_are_there_again() {
    let dir = tempfile::tempdir().unwrap();
    let options = StoreOptions::new(dir.path());
    let store = Store::open(&options).unwrap();
    let empty = store.disk_bytes();
    for n in 0..2000 {
        for kind in ["rows", "ops", "buckets", "lookups"] {
            let space = store.space(&format!("{kind}.{n}")).unwrap();
            if n % 100 == 0 {
                put(&store, &space, 2, 100);
            }
        }
    }
    store.sync().unwrap();
    let each = (store.disk_bytes() - empty) / 2000;
    assert!(each <= 64 << 10, "{each} bytes for each table and definition");
    drop(store);
    let store = Store::open(&options).unwrap();
    assert_eq!(store.space_names().len(), 8000);
    let snapshot = store.snapshot();
    for n in [0, 1, 1900, 1999] {
        let space = store.existing_space(&format!("buckets.{n}")).unwrap();
        assert_eq!(snapshot.all(&space).count(), if n % 100 == 0 { 2 } else { 0 });
    }
    for n in 0..2000 {
        store.drop_space(&format!("ops.{n}")).unwrap();
    }
    store.finish_removals().unwrap();
    assert_eq!(store.statistics().spaces, 6000);
    assert_eq!(store.statistics().removals, 0);
    let rows = store.existing_space("rows.1900").unwrap();
    assert_eq!(store.snapshot().all(&rows).count(), 2);
}

#[test]
fn the_bytes_of_a_dropped_space_are_removed_from_a_keyspace_that_others_use() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let (kept, gone) = (store.space("ops.1").unwrap(), store.space("ops.2").unwrap());
    put(&store, &kept, 10, 100);
    // 4 MB through 256 KiB of memory: most of it lies in tables that hold nothing else.
    put(&store, &gone, 4000, 1000);
    let full = store.statistics().disk_bytes - store.statistics().journal_bytes;
    let before = store.snapshot();
    store.drop_space("ops.2").unwrap();
    store.finish_removals().unwrap();
    assert_eq!(before.all(&gone).count(), 4000);
    assert_eq!(store.snapshot().all(&kept).count(), 10);
    drop(before);
    let left = store.statistics().disk_bytes - store.statistics().journal_bytes;
    assert!(left < full / 2, "{left} bytes of {full} are left");
    // The number is not used again: a new space of the name is empty.
    let again = store.space("ops.2").unwrap();
    assert_eq!(store.snapshot().all(&again).count(), 0);
    put(&store, &again, 3, 10);
    store.sync().unwrap();
    store.reopen().unwrap();
    store.finish_removals().unwrap();
    assert_eq!(store.snapshot().all(&again).count(), 3);
    assert_eq!(store.snapshot().all(&kept).count(), 10);
    assert!(matches!(store.snapshot().get(&gone, b"k"), Err(StoreError::NoSpace { .. })));
}

/// Numbers of two bytes and of four, in one keyspace and in keyspaces of their own.
#[test]
fn spaces_are_kept_apart_where_their_numbers_become_longer() {
    let dir = tempfile::tempdir().unwrap();
    use_up_short_numbers(dir.path());
    let store = Store::open(&small(dir.path())).unwrap();
    let name = |n: usize| format!("rows.{n}");
    let mut expected: Vec<usize> = (0..10).map(|n| 40 + n).collect();
    for (n, pairs) in expected.iter_mut().enumerate() {
        let space = store.space(&name(n)).unwrap();
        match n {
            // Each in a keyspace of its own, loaded twice.
            0 | 8 => (0..2).for_each(|_| load(&store, &space, *pairs as u32)),
            _ => put(&store, &space, *pairs as u32, 1000),
        }
        if n == 1 || n == 7 {
            // Into the keyspace that others share.
            *pairs *= 2;
            load(&store, &space, *pairs as u32);
        }
    }
    let check = |store: &Store, expected: &[usize]| {
        let snapshot = store.snapshot();
        for (n, pairs) in expected.iter().enumerate() {
            let space = store.existing_space(&name(n));
            assert_eq!(space.is_some(), *pairs > 0, "{n}");
            let Some(space) = space else { continue };
            let keys: Vec<Vec<u8>> =
                snapshot.all(&space).map(|pair| pair.unwrap().0.to_vec()).collect();
            let all: Vec<Vec<u8>> =
                (0..*pairs as u32).map(|key| key.to_be_bytes().to_vec()).collect();
            assert_eq!(keys, all, "{n}");
            assert!(snapshot.get(&space, &7u32.to_be_bytes()).unwrap().is_some(), "{n}");
        }
    };
    check(&store, &expected);
    for n in [2, 3, 8] {
        store.drop_space(&name(n)).unwrap();
        expected[n] = 0;
    }
    store.finish_removals().unwrap();
    check(&store, &expected);
    store.sync().unwrap();
    store.reopen().unwrap();
    check(&store, &expected);
    // What the next opening finds of them is removed, and nothing else.
    for n in [1, 6] {
        store.drop_space(&name(n)).unwrap();
        expected[n] = 0;
    }
    store.sync().unwrap();
    drop(store);
    let store = Store::open(&small(dir.path())).unwrap();
    store.finish_removals().unwrap();
    check(&store, &expected);
    // Numbers go on behind them.
    for n in [1, 2] {
        let space = store.space(&name(n)).unwrap();
        assert_eq!(store.snapshot().all(&space).count(), 0, "{n}");
        expected[n] = 20;
        put(&store, &space, 20, 10);
    }
    check(&store, &expected);
}

/// A load of more than one commit takes: the space gets a keyspace of its own.
fn load(store: &Store, space: &Space, pairs: u32) {
    let mut load = store.bulk(space).unwrap();
    for n in 0..pairs {
        load.push(&n.to_be_bytes(), &[7; 1000]).unwrap();
    }
    load.finish().unwrap();
}

#[test]
fn the_files_of_a_dropped_space_of_its_own_go_with_its_last_handle() {
    let dir = tempfile::tempdir().unwrap();
    let store = Store::open(&small(dir.path())).unwrap();
    let directories = || std::fs::read_dir(dir.path().join("data/keyspaces")).unwrap().count();
    let space = store.space("rows.1").unwrap();
    let before = directories();
    load(&store, &space, 100);
    assert_eq!(directories(), before + 1);
    let snapshot = store.snapshot();
    store.drop_space("rows.1").unwrap();
    store.finish_removals().unwrap();
    assert_eq!(snapshot.all(&space).count(), 100);
    drop((snapshot, space));
    // The journal may name it until it is replayed no more.
    store.reopen().unwrap();
    assert_eq!(directories(), before);
}

#[test]
fn a_removal_that_a_crash_cut_off_is_ended_behind_the_next_opening() {
    let dir = tempfile::tempdir().unwrap();
    let copy = tempfile::tempdir().unwrap();
    let crashed = copy.path().join("store");
    let store = Store::open(&small(dir.path())).unwrap();
    let (kept, gone) = (store.space("ops.1").unwrap(), store.space("ops.2").unwrap());
    put(&store, &kept, 10, 100);
    put(&store, &gone, 500, 100);
    store.sync().unwrap();
    drop((store, gone));
    crate::copy_dir(dir.path(), &crashed);
    // The name is gone durably; the copy is as after a crash right behind it, in which nothing else
    // has happened yet: the journal alone says so.
    let store = Store::open(&small(&crashed)).unwrap();
    store.drop_space("ops.2").unwrap();
    store.sync().unwrap();
    let again = tempfile::tempdir().unwrap();
    let crashed_again = again.path().join("store");
    crate::copy_dir(&crashed, &crashed_again);
    let after = Store::open(&small(&crashed_again)).unwrap();
    assert_eq!(after.space_names(), ["ops.1"]);
    after.finish_removals().unwrap();
    assert_eq!(after.statistics().removals, 0);
    let kept = after.existing_space("ops.1").unwrap();
    assert_eq!(after.snapshot().all(&kept).count(), 10);
    let new = after.space("ops.3").unwrap();
    assert_eq!(after.snapshot().all(&new).count(), 0);
}
