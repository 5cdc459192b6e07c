//! What happened, where, and how to mend it: the one form in which people see an error.

use std::fmt;

/// A stable error code, printed `HW1203`. Families by thousand: 1 configuration, 2 Postgres,
/// 3 store and input, 4 identity and access, 5 requests, 6 cluster.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Code(pub u16);

impl fmt::Display for Code {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "HW{:04}", self.0)
    }
}

/// Whether a finding stops anything.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Severity {
    /// Worth reading; nothing is refused.
    Warning,
    /// What was asked for is refused.
    Error,
}

/// A place in a text file.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Span {
    /// The file as the user named it.
    pub file: String,
    /// Byte offset of the first marked byte in the file.
    pub start: usize,
    /// Byte offset behind the last marked byte.
    pub end: usize,
    /// Line from 1.
    pub line: usize,
    /// Column from 1, in characters.
    pub column: usize,
}

/// A finding for a person.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Diagnostic {
    /// Stable code.
    pub code: Code,
    /// Error or warning.
    pub severity: Severity,
    /// What happened, one line, no full stop, no values of rows.
    pub what: String,
    /// Where, in words: `database "shop", checked at start`, or `bucket "user_lists", data query 1`.
    pub context: Option<String>,
    /// Where, in a file.
    pub span: Option<Span>,
    /// How to mend it: a statement to run, a spelling to try.
    pub mend: Option<String>,
}

impl Diagnostic {
    /// An error without a place yet.
    pub fn error(code: u16, what: impl Into<String>) -> Diagnostic {
        Diagnostic {
            code: Code(code),
            severity: Severity::Error,
            what: what.into(),
            context: None,
            span: None,
            mend: None,
        }
    }

    /// A warning without a place yet.
    pub fn warning(code: u16, what: impl Into<String>) -> Diagnostic {
        Diagnostic { severity: Severity::Warning, ..Diagnostic::error(code, what) }
    }

    /// The same, with the place in words.
    pub fn at(mut self, context: impl Into<String>) -> Diagnostic {
        self.context = Some(context.into());
        self
    }

    /// The same, with how to mend it.
    pub fn mend(mut self, mend: impl Into<String>) -> Diagnostic {
        self.mend = Some(mend.into());
        self
    }

    /// Whether it refuses something.
    pub fn is_error(&self) -> bool {
        self.severity == Severity::Error
    }

    /// Where it is, in words: file, line and column, then the context. `None`: it does not say.
    pub fn place(&self) -> Option<String> {
        let place = self.span.as_ref().map(|s| format!("{}:{}:{}", s.file, s.line, s.column));
        let parts: Vec<String> = place.into_iter().chain(self.context.clone()).collect();
        (!parts.is_empty()).then(|| parts.join(", "))
    }

    /// Writes it to the log as one event: an error as ERROR, a warning as WARN, with the fields
    /// `code`, `where` and `mend`. The one way in which findings are logged.
    pub fn log(&self) {
        self.log_with_excerpt(None);
    }

    /// The same with the lines of the file that it points to, which the crate has that has the
    /// file's text.
    pub fn log_with_excerpt(&self, excerpt: Option<&str>) {
        let (code, place, mend) = (self.code, self.place(), self.mend.as_deref());
        // The level is part of an event's place in the code, so there are two.
        match self.severity {
            Severity::Error => {
                tracing::error!(%code, "where" = place, excerpt, mend, "{}", self.what);
            }
            Severity::Warning => {
                tracing::warn!(%code, "where" = place, excerpt, mend, "{}", self.what);
            }
        }
    }
}

impl fmt::Display for Diagnostic {
    /// Three lines at most: `error[HW2104]: what`, `  where: …`, `  mend:  …`. The excerpt of a
    /// file is drawn by the crate that has the file's text.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let severity = match self.severity {
            Severity::Error => "error",
            Severity::Warning => "warning",
        };
        write!(f, "{severity}[{}]: {}", self.code, self.what)?;
        if let Some(place) = self.place() {
            write!(f, "\n  where: {place}")?;
        }
        if let Some(mend) = &self.mend {
            write!(f, "\n  mend:  {mend}")?;
        }
        Ok(())
    }
}

impl std::error::Error for Diagnostic {}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_diagnostic_says_what_where_and_how_to_mend() {
        let finding = Diagnostic::error(2104, "publication \"headwater\" does not publish deletes")
            .at("database \"shop\", checked at start")
            .mend(
                "ALTER PUBLICATION headwater SET (publish = 'insert, update, delete, truncate');",
            );
        assert_eq!(
            finding.to_string(),
            "error[HW2104]: publication \"headwater\" does not publish deletes\n  \
             where: database \"shop\", checked at start\n  \
             mend:  ALTER PUBLICATION headwater SET (publish = 'insert, update, delete, truncate');"
        );
    }
}
