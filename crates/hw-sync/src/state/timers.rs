//! The token's clock and the keepalive of one stream (`powersync-protocol.md` 4.6).
//!
//! A line every 20 s ± 10 %, one 20 s before the token expires, and `0` at its expiry. Clients on
//! some platforms give up after 40 s of silence, so the interval must stay below that.

use std::time::Duration;

use super::Moment;

const INTERVAL: Duration = Duration::from_secs(20);
const WARNING: Duration = Duration::from_secs(20);

/// When the next `token_expires_in` line is due.
#[derive(Clone, Debug)]
pub struct Timers {
    expires: Moment,
    /// `None` once given, and for a token that was already inside the last 20 s at the start:
    /// a warning at once would make its client reconnect in a loop.
    warning: Option<Moment>,
    keepalive: Moment,
    random: u64,
}

/// What the clock wants said.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Due {
    /// Nothing yet.
    Nothing,
    /// A `token_expires_in` line with this many seconds.
    Remaining(i32),
    /// A `token_expires_in` line with 0, and the end of the stream.
    Expired,
}

impl Timers {
    /// - Takes: when the token expires ([`Moment::ZERO`] when it already has), and a seed for
    ///   the jitter, which keeps ten thousand clients from being written to at one moment.
    pub fn new(expires: Moment, seed: u64) -> Timers {
        let warning = (expires > WARNING).then(|| expires.saturating_sub(WARNING));
        let mut timers = Timers { expires, warning, keepalive: Moment::ZERO, random: seed | 1 };
        timers.keepalive = timers.interval();
        timers
    }

    /// When [`Timers::due`] should be asked next.
    pub fn next(&self) -> Moment {
        self.warning.unwrap_or(self.expires).min(self.expires).min(self.keepalive)
    }

    /// What must be said at `now`.
    pub fn due(&mut self, now: Moment) -> Due {
        if now >= self.expires {
            return Due::Expired;
        }
        let warn = self.warning.is_some_and(|at| now >= at);
        if !warn && now < self.keepalive {
            return Due::Nothing;
        }
        if warn {
            self.warning = None;
        }
        self.keepalive = now + self.interval();
        let seconds = (self.expires - now).as_nanos().div_ceil(1_000_000_000);
        Due::Remaining(i32::try_from(seconds).unwrap_or(i32::MAX))
    }

    fn interval(&mut self) -> Duration {
        // xorshift64: any spread will do.
        self.random ^= self.random << 13;
        self.random ^= self.random >> 7;
        self.random ^= self.random << 17;
        INTERVAL * 9 / 10 + INTERVAL.mul_f64(0.2 * (self.random >> 40) as f64 / (1u64 << 24) as f64)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn seconds(n: u64) -> Moment {
        Duration::from_secs(n)
    }

    #[test]
    fn a_keepalive_comes_every_20_seconds_give_or_take_a_tenth() {
        for seed in 0..200 {
            let mut timers = Timers::new(seconds(3600), seed * 7919);
            let mut last = Moment::ZERO;
            for _ in 0..20 {
                let next = timers.next();
                let gap = next - last;
                assert!(gap >= seconds(18) && gap <= seconds(22), "{gap:?}");
                assert_eq!(timers.due(next - Duration::from_millis(1)), Due::Nothing);
                let remaining = (seconds(3600) - next).as_nanos().div_ceil(1_000_000_000) as i32;
                assert_eq!(timers.due(next), Due::Remaining(remaining));
                last = next;
            }
        }
    }

    #[test]
    fn the_token_is_warned_about_once_and_then_expires() {
        let mut timers = Timers::new(seconds(30), 5);
        assert_eq!(timers.next(), seconds(10));
        assert_eq!(timers.due(seconds(10)), Due::Remaining(20));
        assert!(timers.next() > seconds(27));
        let keepalive = timers.next().min(seconds(30));
        if keepalive < seconds(30) {
            assert!(matches!(timers.due(keepalive), Due::Remaining(1..=2)));
        }
        assert_eq!(timers.next(), seconds(30));
        assert_eq!(timers.due(seconds(30)), Due::Expired);
    }

    #[test]
    fn an_expired_token_is_told_at_once_and_a_short_one_only_at_its_end() {
        assert_eq!(Timers::new(Moment::ZERO, 1).due(Moment::ZERO), Due::Expired);
        let mut short = Timers::new(seconds(12), 1);
        assert_eq!(short.next(), seconds(12));
        assert_eq!(short.due(seconds(11)), Due::Nothing);
        assert_eq!(short.due(seconds(12)), Due::Expired);
    }
}
