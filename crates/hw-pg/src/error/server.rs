//! An error as the server reports it.
//!
//! In: the fields of an ErrorResponse. Out: [`ServerError`], whose safe message holds no values.

use std::fmt;

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
}

impl ServerError {
    /// Reads the body of an ErrorResponse or NoticeResponse (behind tag and length).
    ///
    /// A damaged body gives what could be read before the damage.
    pub fn from_body(body: &[u8]) -> ServerError {
        let mut error = ServerError {
            sqlstate: String::from("XX000"),
            message: String::new(),
            detail: None,
            hint: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
        };
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
                _ => {}
            }
        }
        error
    }

    /// Whether message and detail can hold values of rows: data exceptions, violated
    /// constraints, texts raised by users' functions.
    fn quotes_values(&self) -> bool {
        matches!(self.sqlstate.get(..2), Some("22" | "23" | "44" | "P0"))
            || self.sqlstate.get(..2).is_none()
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
            "22P02" | "22P03" | "22007" | "22008" => "invalid input for a column's type",
            "23502" => "null value in a column that is not null",
            "23503" => "foreign key violated",
            "23505" => "unique constraint violated",
            "23514" => "check constraint violated",
            "P0001" => "exception raised by a function of the database",
            _ => "statement refused",
        });
        let name = |kind: &str, name: &Option<String>| {
            name.as_ref().map(|name| format!(", {kind} \"{name}\"")).unwrap_or_default()
        };
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
        }
    }
}
