//! What people read: findings, messages, answers.
//!
//! In: diagnostics and texts. Out: answers on standard output, the rest on standard error.
//! Invariant: a closed pipe is not an error, and nothing depends on colour.

use std::io::{self, IsTerminal, Write};

use hw_types::{Diagnostic, Severity};

/// How a command ended, as the shell sees it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exit {
    /// 0: done, or a positive answer.
    Done,
    /// 1: a negative answer; what it is about has been printed.
    Negative,
    /// 2: the question could not be answered; why has been printed.
    Failed,
}

impl Exit {
    /// The code for the shell.
    pub fn code(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Negative => 1,
            Exit::Failed => 2,
        }
    }
}

/// Writes an answer to standard output.
///
/// A reader that has closed the pipe (`headwater eval … | head -1`) ends the process quietly.
pub fn answer(text: &str) {
    let mut output = io::stdout().lock();
    if let Err(error) = output.write_all(text.as_bytes()).and_then(|()| output.flush()) {
        if error.kind() == io::ErrorKind::BrokenPipe {
            std::process::exit(i32::from(Exit::Done.code()));
        }
        say(&format!("cannot write the answer: {error}"));
        std::process::exit(i32::from(Exit::Failed.code()));
    }
}

/// Writes a message to standard error, prefixed with the program's name. Nobody reading it is
/// not an error.
pub fn say(text: &str) {
    note(&format!("headwater: {text}\n"));
}

/// Writes text to standard error as it is.
pub fn note(text: &str) {
    crate::telemetry::screen::above_the_bars(|| {
        let _ = io::stderr().lock().write_all(text.as_bytes());
    });
}

/// Prints findings to standard error. `text` is the file that their spans point into.
pub fn findings(findings: &[Diagnostic], text: &str) {
    let colour = colour_of(&io::stderr());
    for finding in findings {
        note(&format!("{}\n", render(finding, text, colour)));
    }
}

/// Writes findings to the server's log, each as one event, with the lines of `text` (the file that
/// their spans point into; empty: none) that they are about.
pub fn log(findings: &[Diagnostic], text: &str) {
    for finding in findings {
        finding.log_with_excerpt(hw_expr::sync_config::excerpt(finding, text).as_deref());
    }
}

/// How many there are, as a person says it: `1 warning`, `2 warnings`.
pub fn count(number: usize, what: &str) -> String {
    match number {
        1 => format!("1 {what}"),
        number => format!("{number} {what}s"),
    }
}

/// How many errors there are, and the words for both kinds: `1 error, 0 warnings`.
pub fn tally(findings: &[Diagnostic]) -> (usize, String) {
    let errors = findings.iter().filter(|finding| finding.is_error()).count();
    let warnings = findings.len() - errors;
    (errors, format!("{}, {}", count(errors, "error"), count(warnings, "warning")))
}

/// Whether `stream` shows colour: a terminal, and `NO_COLOR` unset or empty.
pub fn colour_of(stream: &impl IsTerminal) -> Colour {
    let refused = std::env::var_os("NO_COLOR").is_some_and(|value| !value.is_empty());
    if stream.is_terminal() && !refused { Colour::Ansi } else { Colour::None }
}

/// Whether text is coloured.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Colour {
    /// With ANSI sequences.
    Ansi,
    /// Plain text.
    None,
}

/// One finding with the excerpt of the file it points into.
pub fn render(finding: &Diagnostic, text: &str, colour: Colour) -> String {
    let plain = hw_expr::sync_config::render(std::slice::from_ref(finding), text);
    let label = plain.split_once(": ").map_or(0, |(label, _)| label.len());
    match colour {
        Colour::None => plain,
        Colour::Ansi => {
            let code = match finding.severity {
                Severity::Error => "31",
                Severity::Warning => "33",
            };
            format!("\x1b[1;{code}m{}\x1b[0m{}", &plain[..label], &plain[label..])
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::Span;

    #[test]
    fn a_finding_in_a_file_shows_the_line_and_marks_the_place() {
        let text = "a: 1\nlisen: 2\n";
        let mut finding = Diagnostic::error(1005, "unknown key \"lisen\"").mend("did you mean…?");
        finding.span =
            Some(Span { file: "headwater.yaml".into(), start: 5, end: 10, line: 2, column: 1 });
        assert_eq!(
            render(&finding, text, Colour::None),
            "error[HW1005]: unknown key \"lisen\"\n  where: headwater.yaml:2:1\n         \
             2 | lisen: 2\n           | ^^^^^\n  mend:  did you mean…?\n"
        );
        assert!(
            render(&finding, text, Colour::Ansi).starts_with("\x1b[1;31merror[HW1005]\x1b[0m:")
        );
    }
}
