//! How often something that costs the same for one as for many may happen.

use std::time::{Duration, Instant};

/// A bound on a rate that leaves what comes alone alone: `burst` times in a row are free, and from
/// then on there is one time in each interval, so that what comes in between shares it.
///
/// Source: the generic cell rate algorithm (ITU-T I.371), a token bucket in one number.
#[derive(Clone, Debug)]
pub struct Pace {
    interval: Duration,
    credit: Duration,
    /// When all that was spent is regained.
    regained: Option<Instant>,
}

impl Pace {
    /// Of reads of the stream and of publications, each of which wakes whoever is behind it: 32 in a row
    /// as they come, then one each two milliseconds, which nobody notices beside the load that makes them so many.
    pub const UNDER_LOAD: Pace = Pace::new(Duration::from_millis(2), 32);

    /// One time in each interval, and `burst` times at once.
    pub const fn new(interval: Duration, burst: u32) -> Pace {
        Pace { interval, credit: interval.saturating_mul(burst), regained: None }
    }

    /// Notes that it happened.
    ///
    /// - Returns: how long the next time is to wait.
    pub fn spend(&mut self, now: Instant) -> Duration {
        let regained = self.regained.map_or(now, |at| at.max(now)) + self.interval;
        self.regained = Some(regained);
        (regained - now).saturating_sub(self.credit)
    }

    /// Notes that it happens now, if it need not wait.
    pub fn try_spend(&mut self, now: Instant) -> bool {
        let mut behind = self.clone();
        let may = behind.spend(now).is_zero();
        if may {
            *self = behind;
        }
        may
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_burst_is_free_a_rate_is_bounded_and_rest_gives_the_burst_back() {
        let ms = Duration::from_millis;
        let mut pace = Pace::new(ms(1), 3);
        let mut now = Instant::now();
        for _ in 0..3 {
            assert_eq!(pace.spend(now), ms(0));
        }
        for _ in 0..100 {
            let wait = pace.spend(now);
            assert_eq!(wait, ms(1), "one in each interval");
            now += wait;
        }
        now += ms(10);
        for _ in 0..3 {
            assert_eq!(pace.spend(now), ms(0));
        }
        assert_eq!(pace.spend(now), ms(1));
        // Who is refused has spent nothing.
        assert!((0..100).all(|_| !pace.try_spend(now)));
        assert!(pace.try_spend(now + ms(2)) && !pace.try_spend(now + ms(2)));
    }
}
