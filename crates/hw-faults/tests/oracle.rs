//! The oracle property tests: of the sync surface 200 seeds here, of live queries 12; `HEADWATER_SEEDS=n` for any
//! number of each, `HEADWATER_SEED=n` for one of them, and `HEADWATER_PLAN=file` for a plan that was kept. They
//! prove P1 to P4, P6 and P8, and with them E-1, E-2, E-3, E-4, F-1, F-8, F-22, F-23, F-24, F-39, F-47 in random
//! mixtures.
//!
//! A plan that fails is made smaller for `HEADWATER_SHRINK` seconds (60) and written down; moved to
//! `regressions/` it is replayed for good.

use std::collections::BTreeMap;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

use hw_testkit::oracle::{Case, LivePlan, Oracle, Plan, census, shrink};
use tokio::task::JoinSet;

use crate::rig;

/// How many tests share the seeds, so that they run side by side.
const PARTS: u64 = 4;
const LIVE_PARTS: u64 = 2;

/// How many seeds run every day.
const SEEDS: u64 = 200;
const LIVE_SEEDS: u64 = 12;

/// Runs at the same time within one test: while one waits for Postgres another computes.
const ABREAST: usize = 2;

fn number(name: &str) -> Option<u64> {
    std::env::var(name).ok()?.parse().ok()
}

/// Plans that failed once; each stays.
fn regressions() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("regressions")
}

fn read<C: Case>(path: &Path) -> C {
    let text = std::fs::read_to_string(path).unwrap_or_else(|e| panic!("{}: {e}", path.display()));
    C::parse(&text).unwrap_or_else(|error| panic!("{}: {error}", path.display()))
}

fn is_of<C: Case>(path: &Path) -> bool {
    path.extension().is_some_and(|extension| extension == C::EXTENSION)
}

/// The plans of one part.
///
/// - Takes: the part, how many parts there are, and how many seeds run unless it is said otherwise.
fn plans<C: Case>(part: u64, parts: u64, count: u64) -> Vec<(String, C)> {
    let named = |seed: u64| (format!("seed {seed}"), C::new(seed));
    let only = part == 0;
    if let Some(path) = std::env::var_os("HEADWATER_PLAN") {
        let path = PathBuf::from(path);
        let is_mine = only && is_of::<C>(&path);
        return is_mine.then(|| (path.display().to_string(), read(&path))).into_iter().collect();
    }
    if let Some(seed) = number("HEADWATER_SEED") {
        return if only { vec![named(seed)] } else { Vec::new() };
    }
    let first = number("HEADWATER_FIRST_SEED").unwrap_or(0);
    let count = number("HEADWATER_SEEDS").unwrap_or(count);
    let seeds = first + count * part / parts..first + count * (part + 1) / parts;
    seeds.map(named).collect()
}

async fn all<C: Case>(plans: Vec<(String, C)>) {
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
                let ran = plan.run(&oracle).await;
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
    let kept =
        std::env::temp_dir().join(format!("{}.{}", name.replace([' ', '/'], "-"), C::EXTENSION));
    std::fs::write(&kept, small.text()).expect("written");
    panic!(
        "failed: {names:?}. {name}, made smaller from {} to {} steps, is in {}; replay it with \
         HEADWATER_PLAN, and keep it in {}:\n{what}",
        plan.steps(),
        small.steps(),
        kept.display(),
        regressions().display()
    );
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_first_quarter() {
    all(plans::<Plan>(0, PARTS, SEEDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_second_quarter() {
    all(plans::<Plan>(1, PARTS, SEEDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_third_quarter() {
    all(plans::<Plan>(2, PARTS, SEEDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_client_equals_sql_whatever_happens_last_quarter() {
    all(plans::<Plan>(3, PARTS, SEEDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_live_result_is_what_postgres_shows_whatever_happens_first_half() {
    all(plans::<LivePlan>(0, LIVE_PARTS, LIVE_SEEDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn every_live_result_is_what_postgres_shows_whatever_happens_second_half() {
    all(plans::<LivePlan>(1, LIVE_PARTS, LIVE_SEEDS)).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn f_39_live_queries_that_are_cut_behind_each_message_go_on_where_they_were() {
    let cut = |seed| (format!("cuts of seed {seed}"), LivePlan::new(seed).with_cut_after_each(16));
    all([1, 2].map(cut).into()).await;
}

/// The plans of a kind that failed once.
fn kept<C: Case>() -> Vec<(String, C)> {
    let files = std::fs::read_dir(regressions()).into_iter().flatten().flatten();
    let plans = files.map(|file| file.path()).filter(|path| is_of::<C>(path));
    plans.map(|path| (path.display().to_string(), read(&path))).collect()
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_that_failed_once_pass() {
    all(kept::<Plan>()).await;
}

#[tokio::test(flavor = "multi_thread")]
async fn plans_of_live_queries_that_failed_once_pass() {
    all(kept::<LivePlan>()).await;
}

/// Rare forms are reached by the seeds that run.
#[test]
fn two_hundred_seeds_reach_every_form() {
    for (form, count) in census(0..200) {
        assert!(count >= 5, "{form}: {count} of 200");
    }
}
