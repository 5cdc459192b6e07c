//! Findings about a configuration: codes, places, suggestions, and how they are drawn.
//!
//! The compilers make a [`Problem`] with a place in an SQL text; [`Findings`] turns it into a
//! `Diagnostic` with a place in the file. [`render`] draws the form of `style.md` 3.

use crate::sql::Place;
use crate::sql::token::LexError;
use crate::yaml::Scalar;
use hw_types::{Diagnostic, Severity, Span};
use std::fmt::Write;
use std::ops::Range;

/// Codes of the family "sync configuration".
pub mod code {
    /// The file is not YAML.
    pub const YAML: u16 = 1201;
    /// A key is unknown, missing, given twice, or its value has the wrong type.
    pub const STRUCTURE: u16 = 1202;
    /// A column does not exist in the source (a warning, an error of `check` with a database).
    pub const UNKNOWN_COLUMN: u16 = 1203;
    /// A table does not exist in the source, or is a view or something else without a log (a
    /// warning, an error of `check` with a database).
    pub const UNKNOWN_TABLE: u16 = 1204;
    /// A text is not SQL.
    pub const SYNTAX: u16 = 1205;
    /// A form of statement that the language does not have: GROUP BY, outer joins.
    pub const STATEMENT: u16 = 1206;
    /// A function that the language does not have.
    pub const UNKNOWN_FUNCTION: u16 = 1207;
    /// Wrong number or kind of arguments.
    pub const ARGUMENTS: u16 = 1208;
    /// An operator or form of expression that the language, or this part of it, does not have.
    pub const EXPRESSION: u16 = 1209;
    /// A name that refers to nothing here.
    pub const UNDEFINED: u16 = 1210;
    /// Values of rows and of requests are combined otherwise than by equality.
    pub const MIXED: u16 = 1211;
    /// Bucket parameters are not covered, or differ between queries.
    pub const PARAMETERS: u16 = 1212;
    /// A query has no `id` (in edition 3 a warning, an error of `check` with a database).
    pub const ID: u16 = 1213;
    /// Too many variants, buckets or terms.
    pub const TOO_MANY: u16 = 1214;
    /// Anyone can set the values that decide who sees data (a warning).
    pub const DANGEROUS: u16 = 1215;
    /// A name was folded to lower case (a warning).
    pub const FOLDED: u16 = 1216;
    /// A common table expression is unused or hides a table (a warning).
    pub const TABLE_EXPRESSION: u16 = 1217;
    /// Part of the language that Headwater does not have yet.
    pub const NOT_YET: u16 = 1218;
    /// A column has no name, or a name that will surprise.
    pub const COLUMN_NAME: u16 = 1219;
    /// A subquery or common table expression has the wrong shape.
    pub const SUBQUERY: u16 = 1220;
    /// Options or definitions that do not go with the edition.
    pub const EDITION: u16 = 1221;
    /// A constant expression fails whenever it is evaluated.
    pub const CONSTANT: u16 = 1222;
    /// A part of the query has no effect (a warning).
    pub const IGNORED: u16 = 1223;
    /// A priority is not an integer from 0 to 3.
    pub const PRIORITY: u16 = 1224;
    /// A column that is read is not in the source's log: generated, or not published. What reads it is not
    /// served (a warning, an error of `check` with a database).
    pub const WITHHELD: u16 = 1225;
    /// An enum is compared with a text that is none of its labels (a warning).
    pub const UNKNOWN_LABEL: u16 = 1227;
}

/// Warnings that are errors to somebody who checks a configuration against the source that it is
/// for: what they are about syncs nothing, or merges all rows into one, or is not served. While a server loads a
/// configuration they refuse nothing, because the schema may change before it is read.
const WRONG_FOR_THE_SOURCE: [u16; 4] =
    [code::UNKNOWN_COLUMN, code::UNKNOWN_TABLE, code::ID, code::WITHHELD];

/// The finding as it is for somebody who has named the source that the configuration is for.
pub fn checked_against_source(finding: Diagnostic) -> Diagnostic {
    let severity = match WRONG_FOR_THE_SOURCE.contains(&finding.code.0) {
        true => Severity::Error,
        false => finding.severity,
    };
    Diagnostic { severity, ..finding }
}

/// A finding in an SQL text.
#[derive(Clone, Debug)]
pub struct Problem {
    /// One of [`code`].
    pub code: u16,
    /// Whether the configuration is refused.
    pub severity: Severity,
    /// What is wrong.
    pub message: String,
    /// Where in the SQL text.
    pub place: Place,
    /// How to mend it.
    pub mend: Option<String>,
}

impl Problem {
    /// A finding that refuses the configuration.
    pub fn error(code: u16, message: impl Into<String>, place: Place) -> Problem {
        Problem { code, severity: Severity::Error, message: message.into(), place, mend: None }
    }

    /// A finding that refuses nothing.
    pub fn warning(code: u16, message: impl Into<String>, place: Place) -> Problem {
        Problem { severity: Severity::Warning, ..Problem::error(code, message, place) }
    }

    /// The same with how to mend it.
    pub fn mend(mut self, mend: impl Into<String>) -> Problem {
        self.mend = Some(mend.into());
        self
    }

    /// The same with a suggestion, if a known name is near `wrong`.
    pub fn suggest<'a>(self, wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Problem {
        match nearest(wrong, known) {
            Some(name) => self.mend(format!("did you mean \"{name}\"?")),
            None => self,
        }
    }
}

impl From<LexError> for Problem {
    fn from(error: LexError) -> Problem {
        let problem = Problem::error(code::SYNTAX, error.message, error.place);
        Problem { mend: error.mend.map(str::to_string), ..problem }
    }
}

/// The SQL text that is being compiled, and where it comes from.
#[derive(Clone, Copy)]
pub struct Origin<'a> {
    /// The scalar of the file.
    pub scalar: &'a Scalar,
    /// `bucket "by_user", data query 1`.
    pub context: &'a str,
}

/// All findings about one file.
pub struct Findings<'a> {
    file: &'a str,
    text: &'a str,
    lines: Vec<usize>,
    list: Vec<Diagnostic>,
}

impl<'a> Findings<'a> {
    /// None yet.
    pub fn new(file: &'a str, text: &'a str) -> Findings<'a> {
        let lines = std::iter::once(0)
            .chain(text.bytes().enumerate().filter(|(_, b)| *b == b'\n').map(|(i, _)| i + 1))
            .collect();
        Findings { file, text, lines, list: Vec::new() }
    }

    /// Adds a finding at bytes of the file.
    pub fn push(&mut self, diagnostic: Diagnostic, range: Range<usize>) {
        let start = range.start.min(self.text.len());
        let line = self.lines.partition_point(|&at| at <= start);
        let column = self.text[self.lines[line - 1]..start].chars().count() + 1;
        let end = range.end.clamp(start, self.text.len());
        let span = Span { file: self.file.to_string(), start, end, line, column };
        let diagnostic = Diagnostic { span: Some(span), ..diagnostic };
        // One wrong name that is used for several queries is said once.
        if !self.list.contains(&diagnostic) {
            self.list.push(diagnostic);
        }
    }

    /// Adds a finding in an SQL text.
    pub fn problem(&mut self, problem: Problem, origin: Origin<'_>) {
        let range = problem.place.start as usize..problem.place.end as usize;
        let range = origin.scalar.locate(range);
        let mend = problem.mend.or_else(|| usual_mend(problem.code).map(str::to_owned));
        let diagnostic = Diagnostic {
            severity: problem.severity,
            mend,
            ..Diagnostic::error(problem.code, problem.message).at(origin.context)
        };
        self.push(diagnostic, range);
    }

    /// Whether something refuses the configuration.
    pub fn has_errors(&self) -> bool {
        self.list.iter().any(Diagnostic::is_error)
    }

    /// The findings in the order of the file.
    pub fn finish(mut self) -> Vec<Diagnostic> {
        self.list.sort_by_key(|d| d.span.as_ref().map_or(0, |s| s.start));
        self.list
    }
}

/// What helps with an error of this kind where nothing better is known.
pub fn usual_mend(code: u16) -> Option<&'static str> {
    match code {
        code::YAML => Some(
            "indent with blanks, each level below its key; a text with \": \" or \" #\" in it stands in \
             quotes or behind | on lines of its own",
        ),
        code::SYNTAX => Some(
            "write one SELECT … FROM … WHERE …; texts stand in single quotes, names that are no plain \
             lower-case words in double ones",
        ),
        code::STATEMENT => {
            Some("write it without; docs/sync-config.md lists what a SELECT may have here")
        }
        _ => None,
    }
}

/// The known name that is nearest to a wrong one, if it is near enough to be meant.
pub fn nearest<'a>(wrong: &str, known: impl IntoIterator<Item = &'a str>) -> Option<&'a str> {
    let lower = wrong.to_lowercase();
    let limit = (wrong.chars().count() / 3).clamp(1, 3);
    known
        .into_iter()
        .map(|name| (distance(&lower, &name.to_lowercase()), name))
        .filter(|(far, _)| *far <= limit)
        .min()
        .map(|(_, name)| name)
}

/// Edits from one word to another: insert, delete, replace, swap of neighbours.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0usize; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replace = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replace.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}

/// Draws findings about one file with the line and the marked place, without colour.
///
/// - Takes: findings whose spans are places in `text`; others are drawn without an excerpt.
/// - Returns: one block per finding, separated by blank lines, ending with a line break.
pub fn render(diagnostics: &[Diagnostic], text: &str) -> String {
    let mut out = String::new();
    for (i, diagnostic) in diagnostics.iter().enumerate() {
        if i > 0 {
            out.push('\n');
        }
        let shown = diagnostic.to_string();
        let (head, mend) = match diagnostic.mend {
            Some(_) => shown.rsplit_once("\n  mend:").unwrap_or((&shown, "")),
            None => (shown.as_str(), ""),
        };
        out.push_str(head);
        out.push('\n');
        out.push_str(&excerpt(diagnostic, text).unwrap_or_default());
        if !mend.is_empty() {
            let _ = writeln!(out, "  mend:{mend}");
        }
    }
    out
}

/// The line that a finding points to, and below it the mark.
///
/// - Returns: two lines, or `None` where the finding has no place in `text`.
pub fn excerpt(finding: &Diagnostic, text: &str) -> Option<String> {
    let span = finding.span.as_ref()?;
    let before = text.get(..span.start).filter(|_| !text.is_empty())?;
    let line_start = before.rfind('\n').map_or(0, |i| i + 1);
    let rest = &text[line_start..];
    let line = rest.lines().next().unwrap_or("");
    let number = span.line.to_string();
    let end = span.end.min(line_start + line.len()).max(span.start);
    let marked = text.get(span.start..end).map_or(0, |t| t.chars().count()).max(1);
    // Tabs are kept, so that the mark stands under its place however wide they are shown.
    let pad: String =
        before[line_start..].chars().map(|c| if c == '\t' { '\t' } else { ' ' }).collect();
    let mark = "^".repeat(marked);
    Some(format!("  {number:>8} | {line}\n           | {pad}{mark}\n"))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn near_names_are_suggested_and_far_ones_are_not() {
        let known = ["owner_id", "id", "title"];
        assert_eq!(nearest("onwer_id", known), Some("owner_id"));
        assert_eq!(nearest("Title", known), Some("title"));
        assert_eq!(nearest("i", known), Some("id"));
        assert_eq!(nearest("created_at", known), None);
    }

    #[test]
    fn a_finding_is_drawn_with_its_line_and_mark() {
        let text = "a: 1\nquery: select x from lists\n";
        let mut findings = Findings::new("sync.yaml", text);
        let diagnostic = Diagnostic::error(code::UNDEFINED, "no such column").mend("write \"y\"");
        findings.push(diagnostic.at("stream \"s\""), 19..20);
        assert_eq!(
            render(&findings.finish(), text),
            "error[HW1210]: no such column\n  \
             where: sync.yaml:2:15, stream \"s\"\n         \
             2 | query: select x from lists\n           \
             |               ^\n  \
             mend:  write \"y\"\n"
        );
    }
}
