//! The log of refused tokens: a sample, so that a stranger cannot write our log full.
//!
//! In flow refusals and the time; out flow lines. Invariant: of each kind at most one line in
//! [`SILENCE`] seconds, and each line says how many were left out since the one before.

use std::time::Duration;

use parking_lot::Mutex;

use crate::error::{AuthError, Refusal};

/// How long a kind of refusal is silent after a line.
const SILENCE: Duration = Duration::from_secs(10);

/// What was logged of each kind, and when.
#[derive(Default)]
pub(crate) struct Refusals(Mutex<[Sample; Refusal::ALL.len()]>);

#[derive(Clone, Copy, Default)]
struct Sample {
    /// When the last line was written.
    last: Option<Duration>,
    /// Refusals since then.
    left_out: u64,
}

impl Refusals {
    /// Logs a refusal, or counts it.
    pub(crate) fn log(&self, error: &AuthError, now: Duration) {
        metrics::counter!("headwater_tokens_refused_total", "code" => error.code()).increment(1);
        if let Some(left_out) = self.turn(error.refusal(), now) {
            tracing::info!(
                code = error.code(),
                detail = error.detail(),
                left_out = (left_out > 0).then_some(left_out),
                "token refused: {error}"
            );
        }
    }

    /// How many were left out before this one, if it is logged.
    fn turn(&self, refusal: Refusal, now: Duration) -> Option<u64> {
        let place = Refusal::ALL.iter().position(|kind| *kind == refusal)?;
        let mut samples = self.0.lock();
        let sample = &mut samples[place];
        // A clock that was set back does not silence the log.
        if sample.last.is_some_and(|last| now >= last && now - last < SILENCE) {
            sample.left_out += 1;
            return None;
        }
        sample.last = Some(now);
        Some(std::mem::take(&mut sample.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn of_each_kind_one_line_in_ten_seconds_tells_how_many_there_were() {
        let refusals = Refusals::default();
        let at = |seconds, refusal| refusals.turn(refusal, Duration::from_secs(seconds));
        assert_eq!(at(100, Refusal::Invalid), Some(0));
        for _ in 0..1000 {
            assert_eq!(at(109, Refusal::Invalid), None);
        }
        assert_eq!(at(109, Refusal::Expired), Some(0), "another kind has its own line");
        assert_eq!(at(110, Refusal::Invalid), Some(1000));
        assert_eq!(at(90, Refusal::Invalid), Some(0), "a clock that was set back");
    }
}
