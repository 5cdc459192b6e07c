//! Progress of first copies on a terminal: one bar a table.

use std::collections::HashMap;

use indicatif::{ProgressBar, ProgressStyle};

use super::screen;
use crate::server::status::CopyReport;

/// The bars that are up.
#[derive(Default)]
pub struct CopyBars {
    bars: HashMap<String, ProgressBar>,
}

impl CopyBars {
    /// Brings the bars up to date. Does nothing when standard error is not a terminal.
    pub fn show(&mut self, copies: &[CopyReport]) {
        let Some(screen) = screen::bars() else { return };
        self.bars.retain(|table, bar| {
            let goes_on = copies.iter().any(|copy| copy.table == *table);
            if !goes_on {
                bar.finish_and_clear();
            }
            goes_on
        });
        for copy in copies {
            let bar = self.bars.entry(copy.table.clone()).or_insert_with(|| {
                let bar = screen.add(ProgressBar::new(0));
                bar.set_style(style(copy.estimated_rows.is_some()));
                bar.set_message(copy.table.clone());
                bar
            });
            // An estimate may be too small: the bar never shows more than all.
            bar.set_length(copy.estimated_rows.unwrap_or(0).max(copy.rows));
            bar.set_position(copy.rows);
        }
    }

    /// Takes all bars down.
    pub fn clear(&mut self) {
        for (_, bar) in self.bars.drain() {
            bar.finish_and_clear();
        }
    }
}

fn style(estimated: bool) -> ProgressStyle {
    let template = if estimated {
        "copying {msg:24} {bar:24} {human_pos}/{human_len} rows, {per_sec}, {eta} left"
    } else {
        "copying {msg:24} {spinner} {human_pos} rows, {per_sec}"
    };
    ProgressStyle::with_template(template).unwrap_or_else(|_| ProgressStyle::default_bar())
}
