//! The sorter equals a stable sort in memory, whatever its memory.

use hw_store::StoreError;
use hw_store::segment::{Purpose, SpoolDir, SpoolLimits};
use hw_store::sorter::{SortedRuns, Sorter};
use proptest::collection::vec;
use proptest::prelude::*;

type Pairs = Vec<(Vec<u8>, Vec<u8>)>;

fn read(runs: &SortedRuns) -> Pairs {
    let mut cursor = runs.cursor().unwrap();
    let mut pairs = Vec::new();
    while let Some((key, value)) = cursor.next().unwrap() {
        pairs.push((key.to_vec(), value.to_vec()));
    }
    assert!(cursor.next().unwrap().is_none());
    pairs
}

fn sort(pairs: &Pairs, memory: usize) -> (SortedRuns, SpoolDir, tempfile::TempDir) {
    let dir = tempfile::tempdir().unwrap();
    let spool = SpoolDir::open(dir.path(), 1 << 30).unwrap();
    let mut sorter = Sorter::new(&spool, memory);
    for (key, value) in pairs {
        sorter.push(key, value).unwrap();
    }
    (sorter.finish().unwrap(), spool, dir)
}

fn key() -> impl Strategy<Value = Vec<u8>> {
    // Short ones, equal first eight bytes, and zeroes at the end, where the comparison's shortcut
    // could go wrong.
    prop_oneof![vec(0..3u8, 0..4), vec(0..2u8, 7..11), vec(any::<u8>(), 0..40),]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 64, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn sorting_equals_a_stable_sort_in_memory(
        keys in vec((key(), 0..60usize), 0..400),
        memory in prop_oneof![Just(0usize), 1..400usize, 400..10_000usize, Just(1 << 20)],
    ) {
        // The value tells the order of pushing, so equal keys check stability.
        let pairs: Pairs = keys
            .into_iter()
            .enumerate()
            .map(|(n, (key, pad))| (key, [&n.to_be_bytes()[..], &vec![7; pad]].concat()))
            .collect();
        let (runs, spool, _dir) = sort(&pairs, memory);
        let mut expected = pairs.clone();
        expected.sort_by(|a, b| a.0.cmp(&b.0));
        prop_assert_eq!(runs.records(), pairs.len() as u64);
        prop_assert_eq!(&read(&runs), &expected);
        prop_assert_eq!(&read(&runs), &expected);
        drop(runs);
        prop_assert_eq!(spool.used_in_all(), 0);
    }
}

#[test]
fn what_fits_into_memory_never_touches_the_disk() {
    let pairs: Pairs =
        (0..1000u32).rev().map(|n| (n.to_be_bytes().to_vec(), vec![1; 50])).collect();
    let (runs, spool, _dir) = sort(&pairs, 1 << 20);
    assert!(!runs.is_on_disk());
    assert_eq!(spool.used_in_all(), 0);
    let (runs, spool, _dir) = sort(&pairs, 10 << 10);
    assert!(runs.is_on_disk());
    assert!(spool.used_in_all() > 50_000);
    assert_eq!(read(&runs).len(), 1000);
}

#[test]
fn a_pair_larger_than_the_memory_is_sorted_like_any_other() {
    let pairs: Pairs = (0..20u8).rev().map(|n| (vec![n], vec![n; 300_000])).collect();
    let (runs, _spool, _dir) = sort(&pairs, 1 << 10);
    let keys: Vec<u8> = read(&runs).iter().map(|(key, _)| key[0]).collect();
    assert_eq!(keys, (0..20).collect::<Vec<u8>>());
}

#[test]
fn a_full_spool_refuses_a_pair_which_can_be_pushed_again_later() {
    let dir = tempfile::tempdir().unwrap();
    let spool = SpoolDir::open_within(
        dir.path(),
        SpoolLimits { sorting: 100_000, ..SpoolLimits::incoming(0) },
    )
    .unwrap();
    let mut hog = Sorter::new(&spool, 1000);
    let mut waiting = Sorter::new(&spool, 1000);
    for n in 0..10u32 {
        waiting.push(&n.to_be_bytes(), &[2; 60]).unwrap();
    }
    let mut refused = None;
    for n in 0..10_000u32 {
        if let Err(error) = hog.push(&n.to_be_bytes(), &[1; 100]) {
            refused = Some(error);
            break;
        }
    }
    assert!(matches!(
        refused,
        Some(StoreError::SpoolFull { purpose: Purpose::Sorting, budget: 100_000, .. })
    ));
    assert!(spool.used_in_all() <= 100_000);
    drop(hog);
    for n in 10..20u32 {
        waiting.push(&n.to_be_bytes(), &[2; 60]).unwrap();
    }
    assert_eq!(read(&waiting.finish().unwrap()).len(), 20);
}
