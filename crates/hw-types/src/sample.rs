//! The log of what others can cause as often as they like: a sample, so that nobody can write it full.

use std::sync::Mutex;
use std::time::{Duration, Instant};

/// How long a kind of line is silent after one.
const SILENCE: Duration = Duration::from_secs(10);

/// One kind of line: at most one in ten seconds, and each tells how many were left out since the one
/// before.
#[derive(Debug, Default)]
pub struct Sample(Mutex<State>);

#[derive(Debug, Default)]
struct State {
    /// When the last line was written.
    last: Option<Instant>,
    /// Lines that were not, since then.
    left_out: u64,
}

impl Sample {
    /// Whether a line is written now.
    ///
    /// - Returns: how many were left out before it; `None` when it is left out, too.
    pub fn turn(&self) -> Option<u64> {
        self.turn_at(Instant::now())
    }

    fn turn_at(&self, now: Instant) -> Option<u64> {
        let mut state = self.0.lock().expect("no panic under this lock");
        if state.last.is_some_and(|last| now.saturating_duration_since(last) < SILENCE) {
            state.left_out += 1;
            return None;
        }
        state.last = Some(now);
        Some(std::mem::take(&mut state.left_out))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn one_line_in_ten_seconds_tells_how_many_there_were() {
        let (sample, start) = (Sample::default(), Instant::now());
        let at = |seconds| sample.turn_at(start + Duration::from_secs(seconds));
        assert_eq!(at(0), Some(0));
        for _ in 0..1000 {
            assert_eq!(at(9), None);
        }
        assert_eq!(at(10), Some(1000));
        assert_eq!(at(20), Some(0));
    }
}
