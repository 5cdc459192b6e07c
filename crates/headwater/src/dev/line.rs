//! The live status line of `dev` at the bottom of the terminal.

use std::sync::Arc;
use std::time::Duration;

use indicatif::{ProgressBar, ProgressStyle};

use crate::commands::status::show_lag;
use crate::config::parse::show_bytes;
use crate::server::reporter::Reporter;
use crate::server::status::StatusReport;
use crate::telemetry::screen;

/// Between two drawings.
const EVERY: Duration = Duration::from_millis(500);

/// The line. Without a terminal there is none.
pub struct StatusLine {
    drawn: Option<(ProgressBar, tokio::task::JoinHandle<()>)>,
}

impl StatusLine {
    /// Draws the line until it is cleared.
    pub fn start(reporter: Arc<Reporter>) -> StatusLine {
        let drawn = screen::bars().map(|screen| {
            let bar = screen.add(ProgressBar::new_spinner());
            if let Ok(style) = ProgressStyle::with_template("{spinner} {wide_msg}") {
                bar.set_style(style);
            }
            let drawn = bar.clone();
            let task = tokio::spawn(async move {
                let mut ticks = tokio::time::interval(EVERY);
                loop {
                    ticks.tick().await;
                    drawn.set_message(text(&reporter.report()));
                    drawn.tick();
                }
            });
            (bar, task)
        });
        StatusLine { drawn }
    }

    /// Takes the line away.
    pub fn clear(self) {
        if let Some((bar, task)) = self.drawn {
            task.abort();
            bar.finish_and_clear();
        }
    }
}

/// One line that fits on a terminal.
fn text(report: &StatusReport) -> String {
    let trouble = report.trouble.as_ref().map_or(String::new(), |why| format!(" ({why})"));
    format!(
        "{}{trouble}, lag {}, {} clients, {} rows applied, store {}",
        report.state,
        show_lag(report),
        report.clients.streams,
        report.applied.rows,
        show_bytes(report.store.bytes),
    )
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_line_says_state_lag_clients_and_sizes() {
        let mut report = StatusReport { state: "streaming".into(), ..StatusReport::default() };
        report.source.lag_bytes = Some(0);
        report.source.lag_seconds = Some(0.0);
        report.clients.streams = 2;
        assert_eq!(text(&report), "streaming, lag 0 B, 0 ms, 2 clients, 0 rows applied, store 0 B");
    }
}
