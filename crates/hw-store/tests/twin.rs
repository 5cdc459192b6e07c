//! The twin loses exactly what may be lost (F-4) and fails exactly when told to.

use hw_store::segment::SegmentWriter;
use hw_store::{Batch, Simulation, Store, StoreError};

fn put(store: &Store, n: u32) -> Result<(), StoreError> {
    let (a, b) = (store.space("a")?, store.space("b")?);
    let mut batch = Batch::new();
    batch.put(&a, n.to_be_bytes(), "a");
    batch.put(&b, "newest", n.to_be_bytes());
    store.commit(batch)
}

/// How many commits of `put` are there; also checks that they are a prefix and whole.
fn found(store: &Store) -> u32 {
    let snapshot = store.snapshot();
    let Some(b) = store.existing_space("b") else { return 0 };
    let a = store.existing_space("a").unwrap();
    let keys: Vec<u32> = snapshot
        .all(&a)
        .map(|pair| u32::from_be_bytes(pair.unwrap().0[..].try_into().unwrap()))
        .collect();
    assert_eq!(keys, (0..keys.len() as u32).collect::<Vec<_>>());
    let newest = snapshot.get(&b, b"newest").unwrap();
    assert_eq!(newest.map(|v| u32::from_be_bytes(v[..].try_into().unwrap())), keys.last().copied());
    keys.len() as u32
}

#[test]
fn a_crash_loses_exactly_the_commits_that_no_sync_covered() {
    for synced in 0..5 {
        for lost in 0..5 {
            let simulation = Simulation::new();
            let store = Store::simulated(&simulation);
            for n in 0..synced {
                put(&store, n).unwrap();
            }
            store.sync().unwrap();
            for n in synced..synced + lost {
                put(&store, n).unwrap();
            }
            assert_eq!(found(&store), synced + lost);
            let after = simulation.crash();
            assert_eq!(found(&after), synced);
            assert!(matches!(put(&store, 99), Err(StoreError::Closed)));
            assert!(matches!(store.sync(), Err(StoreError::Closed)));
        }
    }
}

#[test]
fn a_crash_may_keep_the_first_of_the_unsynced_commits() {
    for kept in 0..6 {
        let simulation = Simulation::new();
        let store = Store::simulated(&simulation);
        put(&store, 0).unwrap();
        store.sync().unwrap();
        for n in 1..4 {
            put(&store, n).unwrap();
        }
        assert_eq!(found(&simulation.crash_keeping(kept)), 1 + (kept as u32).min(3));
    }
}

#[test]
fn spaces_are_created_and_dropped_with_the_commits_around_them() {
    let simulation = Simulation::new();
    let store = Store::simulated(&simulation);
    put(&store, 0).unwrap();
    store.sync().unwrap();
    store.drop_space("a").unwrap();
    store.space("c").unwrap();
    assert_eq!(store.space_names(), ["b", "c"]);
    // Neither was synced, then the drop was, then both.
    let after = simulation.crash();
    assert_eq!(after.space_names(), ["a", "b"]);
    assert_eq!(found(&after), 1);
    after.drop_space("a").unwrap();
    after.space("c").unwrap();
    let after = simulation.crash_keeping(1);
    assert_eq!(after.space_names(), ["b"]);
    after.space("c").unwrap();
    after.sync().unwrap();
    after.space("d").unwrap();
    after.reopen().unwrap();
    assert_eq!(after.space_names(), ["b", "c"]);
}

#[test]
fn a_failed_write_makes_the_store_read_only_until_it_is_reopened() {
    let simulation = Simulation::new();
    let store = Store::simulated(&simulation);
    put(&store, 0).unwrap();
    store.sync().unwrap();
    put(&store, 1).unwrap();
    simulation.fail_next(2);
    put(&store, 2).unwrap();
    assert!(matches!(put(&store, 3), Err(StoreError::Io { .. })));
    assert!(matches!(put(&store, 3), Err(StoreError::Poisoned)));
    assert_eq!(found(&store), 3);
    let before = store.snapshot();
    store.reopen().unwrap();
    assert_eq!(found(&store), 1);
    let space = store.existing_space("b").unwrap();
    assert!(matches!(before.get(&space, b"newest"), Err(StoreError::Superseded)));
    put(&store, 1).unwrap();
    store.sync().unwrap();
    assert_eq!(found(&simulation.crash()), 2);
}

#[test]
fn a_failed_sync_makes_nothing_durable_or_only_the_first_commits() {
    for torn in 0..4 {
        let simulation = Simulation::new();
        let store = Store::simulated(&simulation);
        simulation.tear_sync(2, torn);
        put(&store, 0).unwrap();
        store.sync().unwrap();
        put(&store, 1).unwrap();
        put(&store, 2).unwrap();
        assert!(matches!(store.sync(), Err(StoreError::Io { .. })));
        assert!(matches!(store.sync(), Err(StoreError::Poisoned)));
        assert_eq!(found(&simulation.crash()), 1 + (torn as u32).min(2));
    }
}

#[test]
fn a_full_disk_refuses_commits_and_heals_when_there_is_room_again() {
    let simulation = Simulation::new();
    let store = Store::simulated(&simulation);
    simulation.full_after(40);
    put(&store, 0).unwrap();
    put(&store, 1).unwrap();
    store.sync().unwrap();
    assert!(matches!(put(&store, 2), Err(StoreError::Full)));
    assert!(matches!(put(&store, 2), Err(StoreError::Full)));
    assert_eq!(found(&store), 2);
    assert!(matches!(store.reopen(), Err(StoreError::Full)));
    assert_eq!(found(&store), 2);
    simulation.full_after(None);
    store.reopen().unwrap();
    put(&store, 2).unwrap();
    assert_eq!(found(&store), 3);
}

#[test]
fn a_bulk_load_is_as_durable_as_the_commits_around_it() {
    let simulation = Simulation::new();
    let store = Store::simulated(&simulation);
    put(&store, 0).unwrap();
    let rows = store.space("rows").unwrap();
    let mut load = store.bulk(&rows).unwrap();
    load.push(b"k", b"v").unwrap();
    load.finish().unwrap();
    put(&store, 1).unwrap();
    let after = simulation.crash_keeping(0);
    assert_eq!(after.space_names(), Vec::<String>::new());
    put(&after, 0).unwrap();
    let rows = after.space("rows").unwrap();
    let mut load = after.bulk(&rows).unwrap();
    load.push(b"k", b"v").unwrap();
    load.finish().unwrap();
    after.sync().unwrap();
    put(&after, 1).unwrap();
    let after = simulation.crash();
    assert_eq!(found(&after), 1);
    let rows = after.existing_space("rows").unwrap();
    assert_eq!(after.get(&rows, b"k").unwrap().unwrap(), b"v");
}

#[test]
fn fd_7_a_damaged_space_is_named_until_it_is_dropped_and_others_are_read() {
    let simulation = Simulation::new();
    let store = Store::simulated(&simulation);
    put(&store, 0).unwrap();
    store.sync().unwrap();
    simulation.damage("a");
    let (a, b) = (store.space("a").unwrap(), store.space("b").unwrap());
    let damaged = |error| matches!(error, StoreError::SpaceDamaged { space, .. } if space == "a");
    assert!(store.snapshot().get(&a, b"k").is_err_and(damaged));
    assert!(store.snapshot().all(&a).next().unwrap().is_err_and(damaged));
    assert!(matches!(put(&store, 1), Err(StoreError::Poisoned)));
    store.reopen().unwrap();
    assert_eq!(store.damaged_spaces(), ["a"]);
    assert!(store.snapshot().get(&b, b"newest").unwrap().is_some());
    store.drop_space("a").unwrap();
    assert!(store.damaged_spaces().is_empty());
    let again = store.space("a").unwrap();
    assert_eq!(store.get(&again, b"k").unwrap(), None);
}

#[test]
fn thousands_of_commits_with_a_snapshot_each_are_cheap() {
    let store = Store::simulated(&Simulation::new());
    let space = store.space("s").unwrap();
    let mut snapshots = Vec::new();
    for n in 0..5000u32 {
        let mut batch = Batch::new();
        batch.put(&space, "counter", n.to_be_bytes());
        batch.put(&space, n.to_be_bytes(), "row");
        store.commit(batch).unwrap();
        snapshots.push(store.snapshot());
    }
    for (n, snapshot) in snapshots.iter().enumerate().step_by(500) {
        assert_eq!(snapshot.get(&space, b"counter").unwrap().unwrap(), (n as u32).to_be_bytes());
        assert_eq!(snapshot.all(&space).count(), n + 2);
    }
}

#[test]
fn a_crash_keeps_persisted_segments_and_drops_all_others() {
    let simulation = Simulation::new();
    let store = Store::simulated(&simulation);
    let segment = |record: &[u8]| {
        let mut writer = SegmentWriter::create(store.spool(), "spool").unwrap();
        writer.append(record).unwrap();
        writer.finish().unwrap()
    };
    let (kept, lost) = (segment(b"decided"), segment(b"open transaction"));
    kept.persist("decided").unwrap();
    let after = simulation.crash();
    assert_eq!(after.spool().persisted_names(), ["decided"]);
    let found = after.spool().persisted("decided").unwrap().unwrap();
    // The dead store's handles go away late and take nothing with them.
    let _ = kept.discard();
    drop(lost);
    let records: Vec<Vec<u8>> = found.reader().collect::<Result<_, _>>().unwrap();
    assert_eq!(records, [b"decided"]);
    found.discard().unwrap();
    assert_eq!(simulation.crash().spool().persisted_names(), Vec::<String>::new());
}
