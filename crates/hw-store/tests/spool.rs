//! Segments: what was appended is read, damage is found, nothing is left over.

use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};
use std::task::{Context, Poll, Wake, Waker};

use hw_store::StoreError;
use hw_store::segment::{Purpose, Reservation, Segment, SegmentWriter, SpoolDir, SpoolLimits};
use hw_store::sorter::Sorter;
use proptest::collection::vec;
use proptest::prelude::*;
use tempfile::TempDir;

fn spool(max_bytes: u64) -> (SpoolDir, TempDir) {
    let dir = tempfile::tempdir().unwrap();
    (SpoolDir::open(dir.path(), max_bytes).unwrap(), dir)
}

fn write(spool: &SpoolDir, records: &[Vec<u8>]) -> (Segment, Vec<u64>) {
    let mut writer = SegmentWriter::create(spool, "test").unwrap();
    let offsets = records.iter().map(|record| writer.append(record).unwrap()).collect();
    (writer.finish().unwrap(), offsets)
}

fn read(segment: &Segment) -> Result<Vec<Vec<u8>>, StoreError> {
    segment.reader().collect()
}

fn files(dir: &TempDir) -> usize {
    std::fs::read_dir(dir.path()).unwrap().count()
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 32, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn records_are_read_as_they_were_appended_from_any_offset(
        lengths in vec(prop_oneof![0..50usize, 0..5000usize, 60_000..140_000usize], 0..30),
    ) {
        let (spool, dir) = spool(1 << 30);
        let records: Vec<Vec<u8>> =
            lengths.iter().enumerate().map(|(n, len)| vec![n as u8; *len]).collect();
        let (segment, offsets) = write(&spool, &records);
        prop_assert_eq!(segment.records(), records.len() as u64);
        prop_assert_eq!(segment.len_bytes(), spool.used());
        prop_assert_eq!(&read(&segment).unwrap(), &records);
        let mut reader = segment.reader();
        for (n, offset) in offsets.iter().enumerate() {
            prop_assert_eq!(reader.offset(), *offset);
            prop_assert_eq!(reader.next_record().unwrap().unwrap(), &records[n][..]);
            let rest: Vec<Vec<u8>> =
                segment.reader_from(*offset).collect::<Result<_, _>>().unwrap();
            prop_assert_eq!(&rest, &records[n..]);
        }
        prop_assert!(reader.next_record().unwrap().is_none());
        drop((reader, segment));
        prop_assert_eq!(spool.used(), 0);
        prop_assert_eq!(files(&dir), 0);
    }

    #[test]
    fn a_flipped_bit_or_a_cut_is_found_whatever_it_hits(
        at in any::<prop::sample::Index>(),
        bit in 0..8u8,
        cut in any::<bool>(),
    ) {
        let (spool, dir) = spool(1 << 30);
        let records: Vec<Vec<u8>> = (0..20u8).map(|n| vec![n; usize::from(n) * 7]).collect();
        let (segment, _) = write(&spool, &records);
        segment.persist("decided").unwrap();
        drop(segment);
        let path = dir.path().join("decided.keep");
        let mut bytes = std::fs::read(&path).unwrap();
        let at = at.index(bytes.len());
        if cut {
            bytes.truncate(at);
        } else {
            bytes[at] ^= 1 << bit;
        }
        std::fs::write(&path, bytes).unwrap();
        let found = spool.persisted("decided").and_then(|segment| read(&segment.unwrap()));
        prop_assert!(matches!(found, Err(StoreError::Damaged { .. })), "{:?}", found);
    }
}

#[test]
fn a_segment_that_shrinks_under_its_reader_is_damage_not_a_panic() {
    let (spool, dir) = spool(1 << 30);
    let (segment, _) = write(&spool, &vec![vec![1; 1000]; 200]);
    let path = std::fs::read_dir(dir.path()).unwrap().next().unwrap().unwrap().path();
    std::fs::OpenOptions::new().write(true).open(path).unwrap().set_len(100_000).unwrap();
    assert!(matches!(read(&segment), Err(StoreError::Damaged { .. })));
    assert!(matches!(
        segment.reader_from(13).collect::<Result<Vec<_>, _>>(),
        Err(StoreError::Damaged { .. })
    ));
    assert!(matches!(
        segment.reader_from(1 << 40).collect::<Result<Vec<_>, _>>(),
        Err(StoreError::Damaged { .. })
    ));
}

#[test]
fn an_aborted_part_is_cut_off_and_its_bytes_come_back() {
    let (spool, _dir) = spool(1 << 30);
    let mut writer = SegmentWriter::create(&spool, "xid").unwrap();
    writer.append(b"first").unwrap();
    let (offset, records, used) = (writer.bytes(), writer.records(), spool.used());
    for _ in 0..1000 {
        writer.append(&[7; 100]).unwrap();
    }
    writer.truncate(offset, records).unwrap();
    assert_eq!(spool.used(), used);
    assert!(matches!(writer.truncate(offset + 1, records), Err(StoreError::Damaged { .. })));
    writer.append(b"second").unwrap();
    let segment = writer.finish().unwrap();
    assert_eq!(read(&segment).unwrap(), [&b"first"[..], b"second"]);
    assert_eq!(segment.records(), 2);
    assert_eq!(spool.used(), segment.len_bytes());
}

#[test]
fn the_budget_is_shared_and_comes_back() {
    let (spool, _dir) = spool(10_000);
    let mut one = SegmentWriter::create(&spool, "one").unwrap();
    let mut two = SegmentWriter::create(&spool, "two").unwrap();
    one.append(&[1; 6000]).unwrap();
    let error = two.append(&[2; 6000]).unwrap_err();
    assert!(matches!(error, StoreError::SpoolFull { budget: 10_000, needed: 6032, .. }));
    assert!(error.is_full() && !error.never_fits());
    two.append(&[2; 1000]).unwrap();
    drop(one);
    two.append(&[2; 6000]).unwrap();
    let two = two.finish().unwrap();
    assert_eq!(two.records(), 2);
    assert_eq!(spool.used(), two.len_bytes());
    drop(two);
    assert_eq!(spool.used(), 0);
}

#[test]
fn fd_5_what_arrives_never_takes_the_room_that_applying_needs() {
    let dir = tempfile::tempdir().unwrap();
    let limits = SpoolLimits { incoming: 10_000, sorting: 40_000, decided: 20_000 };
    let spool = SpoolDir::open_within(dir.path(), limits).unwrap();
    let mut arriving = SegmentWriter::create(&spool, "transaction").unwrap();
    while arriving.append(&[1; 1000]).is_ok() {}
    let waiting = arriving.finish().unwrap();
    let mut sorter = Sorter::new(&spool, 1000);
    for n in 0..100u32 {
        sorter.push(&n.to_be_bytes(), &[2; 100]).unwrap();
    }
    let runs = sorter.finish().unwrap();
    assert!(runs.is_on_disk());
    let mut decided = SegmentWriter::create(&spool.of(Purpose::Decided), "decided").unwrap();
    for _ in 0..15 {
        decided.append(&[3; 1000]).unwrap();
    }
    assert!(spool.used() <= 10_000 && spool.of(Purpose::Sorting).used() > 10_000);
    // One that can never be applied says so, and by what it is stopped.
    let error = decided.append(&[3; 6000]).unwrap_err();
    assert!(error.never_fits());
    assert_eq!(
        error.diagnostic().to_string(),
        "error[HW3003]: spools of decided writes hold 15144 bytes and may hold 20000; 6008 \
         more for one of 21152 bytes do not fit\n  \
         mend:  raise limits.spool_bytes, or end the transactions and copies that fill the spools"
    );
    drop((waiting, runs, decided));
    assert_eq!(spool.used_in_all(), 0);
}

#[test]
fn fd_5_room_is_reserved_before_it_is_used() {
    let (spool, _dir) = spool(10_000);
    let room = spool.reserve(6000).unwrap();
    assert!(matches!(spool.reserve(6000), Err(StoreError::SpoolFull { needed: 6000, .. })));
    let mut within = SegmentWriter::create(&spool, "within").unwrap().within(room);
    let mut other = SegmentWriter::create(&spool, "other").unwrap();
    other.append(&[1; 3000]).unwrap();
    // Nobody else could take its room, and beyond it there is no more.
    within.append(&[2; 5900]).unwrap();
    assert!(within.append(&[2; 5000]).unwrap_err().is_full());
    assert_eq!(spool.used(), 24 + 3008 + 24 + 6000);
    let segment = within.finish().unwrap();
    assert_eq!(spool.used(), 24 + 3008 + segment.len_bytes());
    // Room for another purpose is not mixed in.
    let sorting = spool.of(Purpose::Sorting).reserve(6000).unwrap();
    let mut mixed = SegmentWriter::create(&spool, "mixed").unwrap().within(sorting);
    assert!(mixed.append(&[3; 5000]).unwrap_err().is_full());
    assert_eq!(spool.of(Purpose::Sorting).used(), 0);
}

#[test]
fn fd_5_whoever_waits_for_room_is_woken_when_it_comes_back() {
    let (spool, _dir) = spool(10_000);
    let held = spool.reserve(9000).unwrap();
    let (woken, mut waiting) = (Arc::new(Woken::default()), spool.reserve_waiting(5000));
    let waker = Waker::from(woken.clone());
    let mut poll = || Pin::new(&mut waiting).poll(&mut Context::from_waker(&waker));
    assert!(poll().is_pending() && poll().is_pending());
    std::thread::scope(|scope| {
        let blocked = scope.spawn(|| spool.reserve_blocking(5000).map(|room| room.bytes()));
        drop(held);
        assert_eq!(blocked.join().unwrap().unwrap(), 5000);
    });
    assert_eq!(woken.0.load(Ordering::Acquire), 1);
    let Poll::Ready(room) = poll() else { panic!("there is room") };
    assert_eq!(room.as_ref().map(Reservation::bytes).unwrap(), 5000);
    // What never fits is not waited for.
    assert!(spool.reserve_blocking(10_001).unwrap_err().never_fits());
    let mut never = spool.reserve_waiting(10_001);
    let polled = Pin::new(&mut never).poll(&mut Context::from_waker(&waker));
    assert!(matches!(polled, Poll::Ready(Err(error)) if error.never_fits()));
}

#[derive(Default)]
struct Woken(AtomicUsize);

impl Wake for Woken {
    fn wake(self: Arc<Self>) {
        self.0.fetch_add(1, Ordering::AcqRel);
    }
}

#[test]
fn left_overs_are_removed_at_opening_and_persisted_segments_are_not() {
    let dir = tempfile::tempdir().unwrap();
    let open = || SpoolDir::open(dir.path(), 1 << 20).unwrap();
    let before = open();
    let (kept, _) = write(&before, &[b"decided".to_vec()]);
    kept.persist("decided-7").unwrap();
    // As after a kill: handles that never ran their clean-up.
    let left = write(&before, &[vec![0; 5000]]).0;
    std::mem::forget(SegmentWriter::create(&before, "open").unwrap());
    std::mem::forget(left);
    assert_eq!(files(&dir), 3);

    let after = open();
    assert_eq!(files(&dir), 1);
    assert_eq!(after.persisted_names(), ["decided-7"]);
    assert_eq!(after.of(Purpose::Decided).used(), kept.len_bytes());
    assert!(after.persisted("decided-8").unwrap().is_none());
    let found = after.persisted("decided-7").unwrap().unwrap();
    assert_eq!(read(&found).unwrap(), [b"decided"]);
    found.clone().discard().unwrap();
    assert!(after.persisted("decided-7").unwrap().is_none());
    assert_eq!(read(&found).unwrap(), [b"decided"]);
    drop(found);
    assert_eq!((files(&dir), after.used_in_all()), (0, 0));
}

#[test]
fn a_name_is_persisted_once_and_cannot_leave_the_directory() {
    let (spool, _dir) = spool(1 << 20);
    let (one, _) = write(&spool, &[]);
    let (two, _) = write(&spool, &[]);
    one.persist("name").unwrap();
    for name in ["name", "", "../name", "a/b", "a.b", "a\0b"] {
        assert!(matches!(two.persist(name), Err(StoreError::Name { .. })), "{name:?}");
        assert!(name == "name" || SegmentWriter::create(&spool, name).is_err());
    }
    assert!(read(&two).unwrap().is_empty());
}
