//! The writer's thread: it begins again from what is durable, for as long as the store fails.

use super::Sequencer;
use crate::error::{EngineError, code};
use hw_input::signal::Signal;
use hw_store::Store;
use hw_types::{Code, Diagnostic};
use std::time::{Duration, Instant};
use tokio::sync::mpsc;

/// So often a process starts its writer again although the store is damaged in a way that nothing
/// mends: a disk that fails for a moment may look like that.
const MAX_DAMAGES: u32 = 3;

/// Exit status of a process that cannot go on before a person has mended something: that of a start
/// which is refused.
const REFUSED: i32 = 2;

/// Between a failure of the store and the next try.
const RESTART_PAUSE: Duration = Duration::from_millis(500);

/// How often it is said that the next tries have failed, too, for the same reason.
const SAID_EVERY: Duration = Duration::from_secs(30);

/// Runs the writer; after a failure of the store opens it anew from what is durable. The queue is
/// kept: what it holds of the stream that was is passed over because its beginning is not in it.
pub(crate) fn run(mut sequencer: Sequencer, mut queue: mpsc::Receiver<Signal>) {
    let (outside, publication) = (sequencer.outside.clone(), sequencer.publication.clone());
    let store = sequencer.writer.store.clone();
    let board = &outside.board;
    let mut damages = 0;
    let mut note = |error: &EngineError| {
        damages += u32::from(error.is_damage());
        if damages == MAX_DAMAGES
            && let Some(finding) = error.finding()
        {
            // Nothing but a person can mend this.
            finding.log();
            std::process::exit(REFUSED);
        }
    };
    loop {
        let Err(error) = sequencer.run(&mut queue) else { return };
        if board.is_stopping() {
            return;
        }
        note(&error);
        let finding = finding_of(&store, &error);
        let (what, code) = (said(&finding), finding.code);
        tracing::error!(
            %code,
            mend = finding.mend,
            error = what,
            "the writer stops and starts again from the durable state"
        );
        board.writer.lock().store_error = Some(what);
        metrics::counter!("headwater_writer_restarts_total").increment(1);
        drop(sequencer);
        let mut reasons = Reasons::said(code, Instant::now());
        sequencer = loop {
            std::thread::sleep(RESTART_PAUSE);
            board.beat.count();
            if board.is_stopping() {
                return;
            }
            let again = || {
                store.reopen()?;
                Sequencer::again(store.clone(), outside.clone(), publication.clone())
            };
            match again() {
                Ok(sequencer) => break sequencer,
                Err(error) => {
                    note(&error);
                    let finding = finding_of(&store, &error);
                    let what = said(&finding);
                    if reasons.is_due(finding.code, Instant::now()) {
                        tracing::warn!(
                            code = %finding.code,
                            error = what,
                            "the store cannot be written yet"
                        );
                    }
                    board.writer.lock().store_error = Some(what);
                }
            }
        };
        {
            let mut status = board.writer.lock();
            status.store_error = None;
            status.restarts += 1;
        }
        sequencer.publish_anew();
        // What the old writer had in memory is gone; the stream begins again behind the durable
        // state.
        board.turns.send_modify(|turns| turns.restarts += 1);
    }
}

/// Why the store cannot be written, as far as it was said.
struct Reasons {
    code: Code,
    at: Instant,
}

impl Reasons {
    /// One was said.
    fn said(code: Code, at: Instant) -> Reasons {
        Reasons { code, at }
    }

    /// Whether one is to be said now: another than before, or the same for so long.
    fn is_due(&mut self, code: Code, now: Instant) -> bool {
        let is_due = code != self.code || now.saturating_duration_since(self.at) >= SAID_EVERY;
        if is_due {
            *self = Reasons::said(code, now);
        }
        is_due
    }
}

/// A failure of the writer for a person: one of the store says where the store is.
fn finding_of(store: &Store, error: &EngineError) -> Diagnostic {
    match error {
        EngineError::Store(error) => {
            let finding = store.finding(error);
            Diagnostic { what: format!("store: {}", finding.what), ..finding }
        }
        other => other.finding().unwrap_or_else(|| {
            Diagnostic::error(code::WRITER_FAILED, other.to_string())
                .mend("nothing, when it was once; report it when it comes again")
        }),
    }
}

/// The same in one sentence.
fn said(finding: &Diagnostic) -> String {
    let place = finding.place().map(|place| format!(", {place}")).unwrap_or_default();
    format!("{} ({}){place}", finding.what, finding.code)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// F-53: tries are twice a second, and a disk may be full for hours.
    #[test]
    fn a_reason_is_said_again_every_half_minute_and_another_one_at_once() {
        let start = Instant::now();
        let at = |seconds| start + Duration::from_secs(seconds);
        let (full, other) = (Code(3002), Code(3001));
        let mut reasons = Reasons::said(full, start);
        let said: Vec<u64> = (0..100).filter(|second| reasons.is_due(full, at(*second))).collect();
        assert_eq!(said, [30, 60, 90]);
        assert!(reasons.is_due(other, at(91)) && !reasons.is_due(other, at(92)));
        assert!(reasons.is_due(full, at(93)));
    }
}
