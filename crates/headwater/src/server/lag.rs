//! How long ago what is published was the newest of the source.
//!
//! In: observations of (end of the source's log, published position). Out: seconds. Invariant:
//! memory is bounded; the answer is never shorter than the truth by more than one observation.

use std::collections::VecDeque;
use std::time::{Duration, Instant};

use hw_types::EndLsn;

/// Most observations that are kept; beyond it every second one is dropped.
const MOST: usize = 512;

/// The clock.
#[derive(Debug, Default)]
pub struct LagClock {
    /// When each end of the log was first seen, ascending; all above the published position.
    seen: VecDeque<(EndLsn, Instant)>,
}

impl LagClock {
    /// Notes where the source's log ends and what is published now. What was seen behind that end is of a
    /// log that is lost: the source was restored, or is another one.
    ///
    /// - Returns: how long ago the oldest position that is not published was seen; zero when
    ///   everything is published.
    pub fn observe(&mut self, source: EndLsn, published: EndLsn, now: Instant) -> Duration {
        while self.seen.front().is_some_and(|(position, _)| *position <= published) {
            self.seen.pop_front();
        }
        while self.seen.back().is_some_and(|(position, _)| *position > source) {
            self.seen.pop_back();
        }
        if source > published && self.seen.back().is_none_or(|(position, _)| source > *position) {
            self.seen.push_back((source, now));
        }
        if self.seen.len() > MOST {
            let mut index = 0;
            // The oldest stays: it is the answer.
            self.seen.retain(|_| {
                index += 1;
                index % 2 == 1
            });
        }
        self.seen.front().map_or(Duration::ZERO, |(_, first)| now.saturating_duration_since(*first))
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::Lsn;

    fn lsn(value: u64) -> EndLsn {
        EndLsn(Lsn(value))
    }

    #[test]
    fn lag_is_the_age_of_the_oldest_position_that_is_not_published() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LagClock::default();
        assert_eq!(clock.observe(lsn(10), lsn(10), at(0)), Duration::ZERO);
        assert_eq!(clock.observe(lsn(20), lsn(10), at(1)), Duration::ZERO);
        assert_eq!(clock.observe(lsn(30), lsn(10), at(2)), Duration::from_secs(1));
        assert_eq!(clock.observe(lsn(30), lsn(20), at(4)), Duration::from_secs(2));
        assert_eq!(clock.observe(lsn(30), lsn(30), at(5)), Duration::ZERO);
    }

    #[test]
    fn what_was_seen_of_a_log_that_went_back_is_not_waited_for() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut clock = LagClock::default();
        clock.observe(lsn(90), lsn(80), at(0));
        // Restored, and what is published is still of the history that is lost.
        assert_eq!(clock.observe(lsn(20), lsn(80), at(7)), Duration::ZERO);
        assert_eq!(clock.observe(lsn(20), lsn(20), at(8)), Duration::ZERO);
        assert_eq!(clock.observe(lsn(30), lsn(20), at(9)), Duration::ZERO);
        assert_eq!(clock.observe(lsn(30), lsn(20), at(11)), Duration::from_secs(2));
    }

    #[test]
    fn a_long_stall_keeps_the_oldest_and_bounds_memory() {
        let start = Instant::now();
        let mut clock = LagClock::default();
        for step in 1..10_000_u64 {
            clock.observe(lsn(step), lsn(0), start + Duration::from_secs(step));
        }
        let lag = clock.observe(lsn(10_000), lsn(0), start + Duration::from_secs(10_000));
        assert_eq!(lag, Duration::from_secs(9_999));
        assert!(clock.seen.len() <= MOST);
    }
}
