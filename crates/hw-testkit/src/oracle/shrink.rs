//! Makes a plan that fails smaller for as long as it still fails.

use std::sync::Arc;
use std::time::{Duration, Instant};

use super::plan::{Plan, Step};
use super::run::{Oracle, run};

/// Leaves out steps, definitions and users, in ever smaller pieces, until nothing can go or the time
/// is over.
///
/// - Takes: a plan that fails.
/// - Returns: the smallest that was seen to fail, and how.
pub async fn shrink(
    oracle: &Arc<Oracle>,
    plan: &Plan,
    failure: String,
    time: Duration,
) -> (Plan, String) {
    let until = Instant::now() + time;
    let mut best = (plan.clone(), failure);
    let mut piece = best.0.steps.len().div_ceil(2);
    while piece > 0 && Instant::now() < until {
        let mut smaller = false;
        let mut at = 0;
        while at < best.0.steps.len() && Instant::now() < until {
            let mut candidate = best.0.clone();
            candidate.steps.drain(at..(at + piece).min(candidate.steps.len()));
            // Nobody looks without it.
            if candidate.steps.last() != Some(&Step::Settle) {
                candidate.steps.push(Step::Settle);
            }
            if candidate.steps.len() < best.0.steps.len()
                && let Err(what) = run(oracle, &candidate).await
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
        piece = piece.min(best.0.steps.len());
    }
    let candidates = |plan: &Plan| -> Vec<Plan> {
        let mut all = Vec::new();
        for config in 0..plan.configs.len() {
            for definition in 0..plan.configs[config].definitions.len() {
                let mut candidate = plan.clone();
                candidate.configs[config].definitions.remove(definition);
                all.push(candidate);
            }
        }
        for user in 0..plan.world.users.len() {
            if plan.world.users.len() > 1 {
                let mut candidate = plan.clone();
                candidate.world.users.remove(user);
                all.push(candidate);
            }
        }
        all
    };
    'again: while Instant::now() < until {
        for candidate in candidates(&best.0) {
            if let Err(what) = run(oracle, &candidate).await {
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
