//! Progress of first copies on a terminal: one bar a table.
//!
//! In: what the engine says of its copies, once a second. Out: bars. Invariant: a pace is shown
//! only once it has been seen for a while; a table that waits for its turn has none.

use std::collections::HashMap;
use std::time::{Duration, Instant};

use indicatif::{HumanCount, ProgressBar, ProgressStyle};

use super::screen;
use crate::server::status::CopyReport;

/// How long rows must have come before a pace is told.
const SETTLED: Duration = Duration::from_millis(900);

/// The bars that are up.
#[derive(Default)]
pub struct CopyBars {
    bars: HashMap<String, (ProgressBar, Pace)>,
}

impl CopyBars {
    /// Brings the bars up to date. Does nothing when standard error is not a terminal.
    pub fn show(&mut self, copies: &[CopyReport]) {
        let Some(screen) = screen::bars() else { return };
        self.bars.retain(|table, (bar, _)| {
            let goes_on = copies.iter().any(|copy| copy.table == *table);
            if !goes_on {
                bar.finish_and_clear();
            }
            goes_on
        });
        for copy in copies {
            let (bar, pace) = self.bars.entry(copy.table.clone()).or_insert_with(|| {
                let bar = screen.add(ProgressBar::new(0));
                bar.set_style(style(copy.estimated_rows.is_some()));
                bar.set_prefix(copy.table.clone());
                (bar, Pace::default())
            });
            // An estimate may be too small: the bar never shows more than all.
            bar.set_length(copy.estimated_rows.unwrap_or(0).max(copy.rows));
            bar.set_position(copy.rows);
            bar.set_message(pace.tell(copy, Instant::now()));
        }
    }

    /// Takes all bars down.
    pub fn clear(&mut self) {
        for (_, (bar, _)) in self.bars.drain() {
            bar.finish_and_clear();
        }
    }
}

/// How fast rows come.
#[derive(Debug, Default)]
struct Pace {
    /// When rows were first seen, and how many.
    first: Option<(Instant, u64)>,
}

impl Pace {
    /// What stands behind the rows: `, 38,000/s, 12 s left`.
    fn tell(&mut self, copy: &CopyReport, now: Instant) -> String {
        if copy.rows == 0 || copy.read {
            return if copy.read { ", read".to_owned() } else { String::new() };
        }
        let (began, before) = *self.first.get_or_insert((now, copy.rows));
        let elapsed = now.saturating_duration_since(began);
        if elapsed < SETTLED {
            return String::new();
        }
        let rate = copy.rows.saturating_sub(before) as f64 / elapsed.as_secs_f64();
        let missing = copy.estimated_rows.map(|estimate| estimate.saturating_sub(copy.rows));
        let left = match missing {
            Some(missing) if missing > 0 && rate >= 1.0 => {
                format!(", {:.0} s left", (missing as f64 / rate).ceil())
            }
            _ => String::new(),
        };
        format!(", {}/s{left}", HumanCount(rate as u64))
    }
}

fn style(estimated: bool) -> ProgressStyle {
    let template = if estimated {
        "copying {prefix:24} {bar:24} {human_pos}/{human_len} rows{msg}"
    } else {
        "copying {prefix:24} {spinner} {human_pos} rows{msg}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pace_is_told_once_it_has_been_seen_and_not_for_tables_that_wait() {
        let start = Instant::now();
        let mut pace = Pace::default();
        let mut told = |seconds: u64, rows: u64, read: bool| {
            let copy =
                CopyReport { rows, read, estimated_rows: Some(100_000), ..CopyReport::default() };
            pace.tell(&copy, start + Duration::from_secs(seconds))
        };
        assert_eq!(told(0, 0, false), "", "it waits");
        assert_eq!(told(60, 20_000, false), "", "a first look is no pace");
        assert_eq!(told(62, 30_000, false), ", 5,000/s, 14 s left");
        assert_eq!(told(64, 100_001, false), ", 20,000/s");
        assert_eq!(told(65, 100_001, true), ", read");
    }
}
