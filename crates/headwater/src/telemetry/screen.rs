//! The bottom lines of the terminal: progress bars and the status line of `dev`.
//!
//! In: bars from whoever has progress to show. Out: a drawing that log lines and messages do not
//! tear. Invariant: everything that writes to standard error while bars may be up goes through
//! [`above_the_bars`].

use std::io::IsTerminal;
use std::sync::OnceLock;

use indicatif::MultiProgress;

static BARS: OnceLock<MultiProgress> = OnceLock::new();

/// The bars of this process, if standard error is a terminal.
pub fn bars() -> Option<&'static MultiProgress> {
    std::io::stderr().is_terminal().then(|| BARS.get_or_init(MultiProgress::new))
}

/// Runs `write`, which writes whole lines to standard error, with the bars out of the way.
pub fn above_the_bars<T>(write: impl FnOnce() -> T) -> T {
    match BARS.get() {
        Some(bars) => bars.suspend(write),
        None => write(),
    }
}
