//! Whether the writer works, for the liveness probe: its count of work moves, or it does not.

use std::time::SystemTime;

/// When the writer's count of work was last seen to have moved.
#[derive(Debug, Default)]
pub struct Pulse(Option<(u64, SystemTime)>);

impl Pulse {
    /// Looks at the count.
    ///
    /// - Returns: when it was first seen as it is.
    pub fn look(&mut self, beat: u64, now: SystemTime) -> SystemTime {
        match self.0 {
            Some((seen, at)) if seen == beat => at,
            _ => {
                self.0 = Some((beat, now));
                now
            }
        }
    }

    /// When it was last seen to have moved; now, before the first look.
    pub fn at(&self) -> SystemTime {
        self.0.map_or_else(SystemTime::now, |(_, at)| at)
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::time::Duration;

    #[test]
    fn fd_60_who_stands_still_was_last_alive_when_it_moved_and_who_works_is_alive_now() {
        let start = SystemTime::UNIX_EPOCH;
        let at = |seconds| start + Duration::from_secs(seconds);
        let mut pulse = Pulse::default();
        // A step of an hour, of which each look sees a part.
        for second in 0..3600 {
            assert_eq!(pulse.look(7 + second, at(second)), at(second));
        }
        for second in 3600..3700 {
            assert_eq!(pulse.look(7 + 3599, at(second)), at(3599));
        }
        assert_eq!(pulse.at(), at(3599));
        assert_eq!(pulse.look(7 + 3600, at(3700)), at(3700));
    }
}
