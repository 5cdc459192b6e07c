//! `GET /probes/startup`, `liveness`, `readiness` (`powersync-protocol.md` 2.6).

use std::time::{Duration, SystemTime};

use crate::shared::Health;

/// A replication loop that has said nothing for longer counts as dead.
const ALIVE_WITHIN: Duration = Duration::from_secs(10);

/// Which probe was asked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Probe {
    /// Has the process started?
    Startup,
    /// Is its replication loop alive?
    Liveness,
    /// Can it serve?
    Readiness,
}

/// Status and JSON body of a probe.
pub fn answer(probe: Probe, health: &Health, now: SystemTime) -> (u16, String) {
    let well = match probe {
        Probe::Startup => health.started,
        Probe::Readiness => health.ready,
        Probe::Liveness => now.duration_since(health.touched_at).unwrap_or_default() < ALIVE_WITHIN,
    };
    let body = format!(
        r#"{{"ready":{},"started":{},"touched_at":"{}"}}"#,
        health.ready,
        health.started,
        iso_time(health.touched_at)
    );
    (if well { 200 } else { 400 }, body)
}

/// `2026-11-21T02:54:42.123Z`, as JavaScript prints a date. Times before 1970 print as 1970.
fn iso_time(time: SystemTime) -> String {
    let since = time.duration_since(SystemTime::UNIX_EPOCH).unwrap_or_default();
    let (days, second) = (since.as_secs() / 86_400, since.as_secs() % 86_400);
    let (year, month, day) = civil(days);
    format!(
        "{year:04}-{month:02}-{day:02}T{:02}:{:02}:{:02}.{:03}Z",
        second / 3600,
        second / 60 % 60,
        second % 60,
        since.subsec_millis()
    )
}

/// The civil date of a day since 1970-01-01, counted in eras of 400 years that begin in March.
fn civil(days: u64) -> (u64, u64, u64) {
    let shifted = days + 719_468;
    let (era, day_of_era) = (shifted / 146_097, shifted % 146_097);
    let year_of_era =
        (day_of_era - day_of_era / 1_460 + day_of_era / 36_524 - day_of_era / 146_096) / 365;
    let day_of_year = day_of_era - (365 * year_of_era + year_of_era / 4 - year_of_era / 100);
    let month_from_march = (5 * day_of_year + 2) / 153;
    let day = day_of_year - (153 * month_from_march + 2) / 5 + 1;
    let month = if month_from_march < 10 { month_from_march + 3 } else { month_from_march - 9 };
    (year_of_era + era * 400 + u64::from(month <= 2), month, day)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn probes_answer_in_the_manner_of_the_original() {
        let touched_at = SystemTime::UNIX_EPOCH + Duration::from_millis(1_772_323_199_007);
        let health = Health { started: true, ready: false, touched_at };
        let (status, body) = answer(Probe::Startup, &health, touched_at);
        assert_eq!(status, 200);
        assert_eq!(
            body,
            r#"{"ready":false,"started":true,"touched_at":"2026-02-28T23:59:59.007Z"}"#
        );
        assert_eq!(answer(Probe::Readiness, &health, touched_at).0, 400);
        let at = |seconds| touched_at + Duration::from_secs(seconds);
        assert_eq!(answer(Probe::Liveness, &health, at(9)).0, 200);
        assert_eq!(answer(Probe::Liveness, &health, at(10)).0, 400);
    }

    #[test]
    fn dates_are_those_of_the_calendar() {
        for (days, date) in [
            (0, (1970, 1, 1)),
            (58, (1970, 2, 28)),
            (59, (1970, 3, 1)),
            (11_016, (2000, 2, 29)),
            (11_017, (2000, 3, 1)),
            (20_777, (2026, 11, 20)),
        ] {
            assert_eq!(civil(days), date);
        }
    }
}
