//! A full disk: commits stop, reads go on, and the store heals when space returns (F-53).

use hw_store::segment::SegmentWriter;
use hw_store::{Batch, Space, Store, StoreError};
use hw_testkit::disk::{SmallDisk, fill};

use crate::small;

fn put(store: &Store, space: &Space, n: u32) -> Result<(), StoreError> {
    let mut batch = Batch::new();
    for row in 0..10 {
        batch.put(space, (n * 10 + row).to_be_bytes(), vec![n as u8; 1000]);
    }
    store.commit(batch)
}

/// Commits until it is refused; returns how many batches were taken.
fn put_until_full(store: &Store, space: &Space, from: u32) -> u32 {
    for n in from.. {
        match put(store, space, n) {
            Ok(()) => {}
            Err(StoreError::Full) => return n,
            Err(other) => panic!("expected a full disk, got {other:?}"),
        }
    }
    unreachable!("a small disk runs full")
}

fn heals(leave: u64) {
    let disk = hw_testkit::needs!(SmallDisk::mount(64));
    // The store's own directory: a store refuses one that holds other files.
    let store = Store::open(&small(&disk.path("store"))).unwrap();
    let space = store.space("s").unwrap();
    for n in 0..100 {
        put(&store, &space, n).unwrap();
    }
    store.sync().unwrap();
    let ballast = disk.path("ballast");
    fill(&ballast, leave);
    let taken = put_until_full(&store, &space, 100);

    // Read-only: commits are refused at once, reads of everything committed go on.
    assert!(matches!(put(&store, &space, taken), Err(StoreError::Full)));
    let snapshot = store.snapshot();
    for n in 0..taken * 10 {
        assert!(snapshot.get(&space, &n.to_be_bytes()).unwrap().is_some(), "row {n}");
    }
    // No room yet: nothing changes.
    assert!(matches!(store.reopen(), Err(StoreError::Full)));
    assert_eq!(snapshot.all(&space).count(), taken as usize * 10);

    std::fs::remove_file(&ballast).unwrap();
    store.reopen().unwrap();
    let found = store.snapshot().all(&space).count();
    // What no sync covered may be lost, from the newest on, and only wholly.
    assert!(found >= 1000 && found <= (taken as usize + 1) * 10, "{found} of {taken}0");
    assert_eq!(found % 10, 0);
    for n in found as u32 / 10..taken + 100 {
        put(&store, &space, n).unwrap();
    }
    store.sync().unwrap();
    drop(store);
    let store = Store::open(&small(&disk.path("store"))).unwrap();
    let space = store.space("s").unwrap();
    assert_eq!(store.snapshot().all(&space).count(), (taken + 100) as usize * 10);
}

#[test]
fn a_disk_full_in_the_journal_stops_commits_and_heals() {
    heals(30 << 10);
}

#[test]
fn a_disk_full_in_a_flush_stops_commits_and_heals() {
    heals(700 << 10);
}

#[test]
fn a_disk_full_in_a_compaction_or_later_flush_stops_commits_and_heals() {
    heals(4 << 20);
}

#[test]
fn a_disk_full_in_a_bulk_load_refuses_the_load_and_heals() {
    let disk = hw_testkit::needs!(SmallDisk::mount(64));
    let store = Store::open(&small(&disk.path("store"))).unwrap();
    let space = store.space("s").unwrap();
    put(&store, &space, 0).unwrap();
    let load = || -> Result<u64, StoreError> {
        let rows = store.space("rows")?;
        let mut load = store.bulk(&rows)?;
        // Bytes that do not compress.
        let mut state = 1u64;
        for n in 0..20_000u32 {
            let mut value = [0u8; 400];
            for byte in &mut value {
                state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
                *byte = (state >> 56) as u8;
            }
            load.push(&n.to_be_bytes(), &value)?;
        }
        load.finish()
    };
    let ballast = disk.path("ballast");
    fill(&ballast, 5 << 20);
    assert!(matches!(load(), Err(StoreError::Full)));
    assert_eq!(store.snapshot().all(&space).count(), 10);
    std::fs::remove_file(&ballast).unwrap();
    store.reopen().unwrap();
    assert_eq!(load().unwrap(), 20_000);
    assert_eq!(store.snapshot().all(&store.space("rows").unwrap()).count(), 20_000);
}

#[test]
fn a_disk_full_in_a_segment_ends_that_segment_only() {
    let disk = hw_testkit::needs!(SmallDisk::mount(2));
    let spool = hw_store::segment::SpoolDir::open(&disk.path("spool"), u64::MAX >> 1).unwrap();
    let mut hog = SegmentWriter::create(&spool, "hog").unwrap();
    let mut refused = None;
    for _ in 0..10_000 {
        if let Err(error) = hog.append(&[1; 1000]) {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(refused, Some(StoreError::Full)));
    assert!(matches!(hog.append(b"more"), Err(StoreError::Poisoned)));
    drop(hog);
    assert_eq!(spool.used(), 0);
    let mut next = SegmentWriter::create(&spool, "next").unwrap();
    next.append(&[1; 100_000]).unwrap();
    assert_eq!(next.finish().unwrap().records(), 1);
}
