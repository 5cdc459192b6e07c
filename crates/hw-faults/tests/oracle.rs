//! The oracle property test: 200 seeds here, `HEADWATER_SEEDS=n` for any number, `HEADWATER_SEED=n`
//! for one of them, and `HEADWATER_PLAN=file` for a plan that was kept. Proves P1 to P4, P6 and P8 on
//! the sync surface, and with them E-1, E-2, E-3, E-4, F-1, F-8, F-22, F-23, F-24, F-39 in random
//! mixtures.
//!
//! A plan that fails is made smaller for `HEADWATER_SHRINK` seconds (60) and written down; moved to
//! `regressions/` it is replayed for good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hw_testkit::oracle::{Oracle, Plan, Size, census, run, shrink};
use tokio::task::JoinSet;

use crate::rig;

/// How many tests share the seeds, so that they run side by side.
const PARTS: u64 = 4;

/// Runs at the same time within one test: while one waits for Postgres another computes.
const ABREAST: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plans that failed once; each stays.
fn regressions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

fn read(path: &Path) -> Plan {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    Plan::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

/// The plans of one part.
fn plans(part: u64) -> Vec<(String, Plan)> {
    let named = |seed: u64| (format!("seed {seed}"), Plan::new(seed, Size::default()));
    let only = part == 0;
    if let Some(path) = std::env::var_os("HEADWATER_PLAN") {
        let path = PathBuf::from(path);
        return if only { vec![(path.display().to_string(), read(&path))] } else { Vec::new() };
    }
    if let Some(seed) = number("HEADWATER_SEED") {
        return if only { vec![named(seed)] } else { Vec::new() };
    }
    let first = number("HEADWATER_FIRST_SEED").unwrap_or(0);
    let count = number("HEADWATER_SEEDS").unwrap_or(200);
    let seeds = first + count * part / PARTS..first + count * (part + 1) / PARTS;
    seeds.map(named).collect()
}

async fn all(plans: Vec<(String, Plan)>) {
    if plans.is_empty() {
        return;
    }
    let scratch = tempfile::tempdir().expect("a directory");
    let oracle = Arc::new(Oracle {
        cluster: Arc::new(rig::cluster_with(&[("logical_decoding_work_mem", "64kB")])),
        another: rig::cluster,
        binary: rig::binary(),
        secret: rig::SECRET.into(),
        issue: rig::issue,
        scratch: scratch.path().to_path_buf(),
    });
    let mut running = JoinSet::new();
    let mut failures = BTreeMap::new();
    let mut plans = plans.into_iter();
    loop {
        while running.len() < ABREAST
            && let Some((name, plan)) = plans.next()
        {
            let oracle = Arc::clone(&oracle);
            running.spawn(async move {
                let ran = run(&oracle, &plan).await;
                (name, plan, ran)
            });
        }
        let Some(joined) = running.join_next().await else { break };
        let (name, plan, ran) = joined.expect("a run that panics has failed, and says so");
        if let Err(what) = ran {
            eprintln!("{name}: {what}");
            failures.insert(name, (plan, what));
        }
    }
    let names: Vec<String> = failures.keys().cloned().collect();
    let Some((name, (plan, what))) = failures.into_iter().next() else { return };
    let time = Duration::from_secs(number("HEADWATER_SHRINK").unwrap_or(60));
    let (small, what) = shrink(&oracle, &plan, what, time).await;
    let kept = std::env::temp_dir().join(format!("{}.plan", name.replace([' ', '/'], "-")));
    std::fs::write(&kept, small.text()).expect("written");
    panic!(
        "failed: {names:?}. {name}, made smaller from {} to {} steps, is in {}; replay it with \
         HEADWATER_PLAN, and keep it in {}:\n{what}",
        plan.len(),
        small.len(),
        kept.display(),
        regressions().display()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_first_quarter() {
    all(plans(0)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_second_quarter() {
    all(plans(1)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_third_quarter() {
    all(plans(2)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_last_quarter() {
    all(plans(3)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_failed_once_pass() {
    let files = std::fs::read_dir(regressions()).into_iter().flatten().flatten();
    let plans =
        files.map(|file| file.path()).filter(|path| path.extension().is_some_and(|e| e == "plan"));
    all(plans.map(|path| (path.display().to_string(), read(&path))).collect()).await;
}

/// Rare forms are reached by the seeds that run.
#[test]
fn two_hundred_seeds_reach_every_form() {
    for (form, count) in census(0..200) {
        assert!(count >= 5, "{form}: {count} of 200");
    }
}
