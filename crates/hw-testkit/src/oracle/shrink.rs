//! Makes a plan that fails smaller for as long as it still fails.

use std::future::Future;
use std::sync::Arc;
use std::time::{Duration, Instant};

use super::run::Oracle;

/// What one seed decides, and what a failing one is made smaller of. It is text, so that one that failed is
/// kept and replayed whatever becomes of the generator.
pub trait Case: Clone + Send + Sync + 'static {
    /// What files with one are called behind the dot.
    const EXTENSION: &'static str;

    /// Decides everything.
    fn new(seed: u64) -> Self;

    /// Reads one that was kept.
    ///
    /// - Errors: it cannot be read.
    fn parse(text: &str) -> Result<Self, String>;

    /// The text that [`Case::parse`] reads.
    fn text(&self) -> String;

    /// How many steps it has.
    fn steps(&self) -> usize;

    /// The same without some of its steps.
    fn without(&self, from: usize, count: usize) -> Self;

    /// All that are smaller by one thing beside steps.
    fn smaller(&self) -> Vec<Self>;

    /// Runs it.
    ///
    /// - Errors: what was wrong.
    fn run(&self, oracle: &Arc<Oracle>) -> impl Future<Output = Result<(), String>> + Send;
}

/// Leaves out steps and whatever else can go, in ever smaller pieces, until nothing can go or the time is
/// over.
///
/// - Takes: a plan that fails.
/// - Returns: the smallest that was seen to fail, and how.
pub async fn shrink<C: Case>(
    oracle: &Arc<Oracle>,
    case: &C,
    failure: String,
    time: Duration,
) -> (C, String) {
    let until = Instant::now() + time;
    let mut best = (case.clone(), failure);
    let mut piece = best.0.steps().div_ceil(2);
    while piece > 0 && Instant::now() < until {
        let mut smaller = false;
        let mut at = 0;
        while at < best.0.steps() && Instant::now() < until {
            let candidate = best.0.without(at, piece);
            if candidate.steps() < best.0.steps()
                && let Err(what) = candidate.run(oracle).await
            {
                best = (candidate, what);
                smaller = true;
            } else {
                at += piece;
            }
        }
        if !smaller {
            piece /= 2;
        }
        piece = piece.min(best.0.steps());
    }
    'again: while Instant::now() < until {
        for candidate in best.0.smaller() {
            if let Err(what) = candidate.run(oracle).await {
                best = (candidate, what);
                continue 'again;
            }
            if Instant::now() >= until {
                break;
            }
        }
        break;
    }
    best
}
