//! The oracle property test: 100 seeds here, `HEADWATER_SEEDS=n` for any number, and
//! `HEADWATER_SEED=n` for one of them. Proves P1 to P4 and P8 on the sync surface, and with them
//! E-1, E-2, E-3, E-4, F-1, F-8, F-22, F-23, F-24, F-39 in random mixtures.

use std::collections::BTreeMap;
use std::ops::Range;
use std::sync::Arc;

use hw_testkit::oracle::{Knobs, Oracle, census, run};
use tokio::task::JoinSet;

use crate::rig;

/// Seeds that failed once; each stays.
const REGRESSIONS: &[u64] = &[];

/// How many tests share the seeds, so that they run side by side.
const PARTS: u64 = 4;

/// Runs at the same time within one test: while one waits for Postgres another computes.
const ABREAST: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// The seeds of one part.
fn seeds(part: u64) -> Range<u64> {
    if let Some(seed) = number("HEADWATER_SEED") {
        return if part == 0 { seed..seed + 1 } else { 0..0 };
    }
    let first = number("HEADWATER_FIRST_SEED").unwrap_or(0);
    let count = number("HEADWATER_SEEDS").unwrap_or(100);
    first + count * part / PARTS..first + count * (part + 1) / PARTS
}

async fn all(seeds: impl Iterator<Item = u64>, knobs: Knobs) {
    let scratch = tempfile::tempdir().expect("a directory");
    let oracle = Arc::new(Oracle {
        cluster: rig::cluster(),
        binary: rig::binary(),
        secret: rig::SECRET.into(),
        issue: rig::issue,
        scratch: scratch.path().to_path_buf(),
        knobs,
    });
    let mut running = JoinSet::new();
    let mut failures = BTreeMap::new();
    let mut note = |joined: Result<(u64, Result<(), String>), tokio::task::JoinError>| match joined
    {
        Ok((_, Ok(()))) => {}
        Ok((seed, Err(what))) => {
            eprintln!("{what}");
            failures.insert(seed, what);
        }
        Err(error) => {
            eprintln!("a run panicked: {error}");
            failures.insert(u64::MAX, error.to_string());
        }
    };
    for seed in seeds {
        if running.len() == ABREAST {
            note(running.join_next().await.expect("one is running"));
        }
        let oracle = Arc::clone(&oracle);
        running.spawn(async move {
            let ran = run(&oracle, seed).await;
            (seed, ran)
        });
    }
    while let Some(joined) = running.join_next().await {
        note(joined);
    }
    let failed: Vec<&u64> = failures.keys().collect();
    assert!(
        failed.is_empty(),
        "failing seeds: {failed:?}; replay one with HEADWATER_SEED=n. The first:\n{}",
        failures.values().next().expect("there is one")
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_first_quarter() {
    all(seeds(0), Knobs::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_second_quarter() {
    all(seeds(1), Knobs::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_third_quarter() {
    all(seeds(2), Knobs::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_last_quarter() {
    all(seeds(3), Knobs::default()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn seeds_that_failed_once_pass() {
    all(REGRESSIONS.iter().copied(), Knobs::default()).await;
}

/// Rare forms of definitions are reached by the seeds that run.
#[test]
fn a_hundred_seeds_reach_every_form_of_definition() {
    for (form, count) in census(0..100) {
        assert!(count >= 5, "{form}: {count} of 100");
    }
}
