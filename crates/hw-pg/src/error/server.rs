//! An error as the server reports it.
//!
//! In: the fields of an ErrorResponse. Out: [`ServerError`], whose safe message holds no values.
//!
//! Who wrote the statement decides what may be shown. In a statement of ours the server speaks of
//! names; where triggers, policies or functions of the database's users run, any SQLSTATE may carry
//! any text, values of rows among it (FD-48).

use std::fmt;

/// Whose code a statement ran.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Origin {
    /// A statement of ours that runs nobody else's code.
    #[default]
    Headwater,
    /// A statement that ran code of the database's users, or took values of theirs: nothing of
    /// the server's text is shown.
    Users,
}

/// An error that the server reported.
///
/// Source: PostgreSQL manual, "Error and Notice Message Fields".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerError {
    /// Five characters, for example `42501`.
    pub sqlstate: String,
    /// The primary message. May quote values of rows; use [`ServerError::safe_message`] in logs.
    pub message: String,
    /// The detail. May quote values of rows.
    pub detail: Option<String>,
    /// What the server suggests.
    pub hint: Option<String>,
    /// Schema of the object concerned.
    pub schema: Option<String>,
    /// Table concerned.
    pub table: Option<String>,
    /// Column concerned.
    pub column: Option<String>,
    /// Constraint concerned.
    pub constraint: Option<String>,
    /// Where in the statement, function or parameters. May quote values of rows.
    pub context: Option<String>,
    /// The function of the server's source that reported it; the same in every language.
    pub routine: Option<String>,
    /// Whose code the statement ran.
    pub origin: Origin,
}

impl ServerError {
    /// An error with these two and nothing else.
    pub fn new(sqlstate: impl Into<String>, message: impl Into<String>) -> ServerError {
        ServerError {
            sqlstate: sqlstate.into(),
            message: message.into(),
            detail: None,
            hint: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
            context: None,
            routine: None,
            origin: Origin::Headwater,
        }
    }

    /// Reads the body of an ErrorResponse or NoticeResponse (behind tag and length).
    ///
    /// A damaged body gives what could be read before the damage.
    pub fn from_body(body: &[u8]) -> ServerError {
        let mut error = ServerError::new("XX000", "");
        let mut rest = body;
        while let Some((&kind, after)) = rest.split_first().filter(|(kind, _)| **kind != 0) {
            let Some(end) = memchr::memchr(0, after) else { break };
            let text = String::from_utf8_lossy(&after[..end]).into_owned();
            rest = &after[end + 1..];
            match kind {
                b'C' => error.sqlstate = text,
                b'M' => error.message = text,
                b'D' => error.detail = Some(text),
                b'H' => error.hint = Some(text),
                b's' => error.schema = Some(text),
                b't' => error.table = Some(text),
                b'c' => error.column = Some(text),
                b'n' => error.constraint = Some(text),
                b'W' => error.context = Some(text),
                b'R' => error.routine = Some(text),
                _ => {}
            }
        }
        error
    }

    /// Whether the texts can hold values of rows: in statements that ran users' code all of
    /// them, else data exceptions, violated constraints and what a function raised.
    fn quotes_values(&self) -> bool {
        self.origin == Origin::Users
            || self.is_raised()
            || matches!(self.sqlstate.get(..2), Some("22" | "23" | "44" | "P0"))
            || self.sqlstate.get(..2).is_none()
    }

    /// Whether a function raised it with words of its own. Such an error may name any table,
    /// column and constraint, and call itself by any SQLSTATE.
    pub fn is_raised(&self) -> bool {
        // PL/pgSQL and PL/Python have fields for names; the other languages have none.
        matches!(self.routine.as_deref(), Some("exec_stmt_raise" | "PLy_elog_impl" | "PLy_output"))
    }

    /// Whether a right on an object is missing (a table, schema, sequence, function), which is
    /// something else than a policy that a row breaks, and than a 42501 that a function raised.
    pub fn is_missing_right(&self) -> bool {
        let is_policy = self.routine.as_deref() == Some("ExecWithCheckOptions");
        self.sqlstate == "42501" && !is_policy && !self.is_raised()
    }

    /// Whether a partitioned table has no partition for a row, which the server reports under the
    /// code of a check that the row breaks.
    pub fn is_missing_partition(&self) -> bool {
        self.sqlstate == "23514" && self.routine.as_deref() == Some("ExecFindPartition")
    }

    /// What the server suggests, unless it can hold values of rows.
    pub fn safe_hint(&self) -> Option<String> {
        self.hint.clone().filter(|_| !self.quotes_values())
    }

    /// The message for logs and people: without values of rows.
    pub fn safe_message(&self) -> String {
        if !self.quotes_values() {
            return match &self.detail {
                Some(detail) => format!("{}: {detail}", self.message),
                None => self.message.clone(),
            };
        }
        let mut text = String::from(match self.sqlstate.as_str() {
            "22001" => "value too long for its column",
            "22003" => "numeric value out of range",
            "22021" => "a text is not UTF-8",
            "22P02" | "22P03" | "22007" | "22008" => "invalid input for a column's type",
            "23502" => "null value in a column that is not null",
            "23503" => "foreign key violated",
            "23505" => "unique constraint violated",
            "23514" => "check constraint violated",
            "P0001" => "exception raised by a function of the database",
            "40001" => "serialization failure",
            "40P01" => "deadlock",
            "55P03" => "lock not available",
            "57014" => "statement canceled",
            _ => "statement refused",
        });
        let name = |kind: &str, name: &Option<String>| {
            name.as_ref().map(|name| format!(", {kind} \"{name}\"")).unwrap_or_default()
        };
        if self.is_raised() {
            return text;
        }
        text += &name("table", &self.table);
        text += &name("column", &self.column);
        text += &name("constraint", &self.constraint);
        text
    }
}

impl fmt::Display for ServerError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{} (SQLSTATE {})", self.safe_message(), self.sqlstate)
    }
}

impl From<&tokio_postgres::error::DbError> for ServerError {
    fn from(error: &tokio_postgres::error::DbError) -> ServerError {
        let owned = |text: Option<&str>| text.map(str::to_owned);
        ServerError {
            sqlstate: error.code().code().to_owned(),
            message: error.message().to_owned(),
            detail: owned(error.detail()),
            hint: owned(error.hint()),
            schema: owned(error.schema()),
            table: owned(error.table()),
            column: owned(error.column()),
            constraint: owned(error.constraint()),
            context: owned(error.where_()),
            routine: owned(error.routine()),
            origin: Origin::Headwater,
        }
    }
}
