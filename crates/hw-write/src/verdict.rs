//! What became of a transaction, and which errors of Postgres mean what.
//!
//! A rejection is final and says why in words that are safe to show: names of tables, columns and
//! constraints, and the condition. **No value of any row**, since Postgres quotes values of rows
//! that the author may not see. "Retry" is for what passes by itself.

use hw_pg::error::{PgError, PgErrorKind, ServerError};

/// The verdict over one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its effect is committed, now or by an earlier request.
    Applied,
    /// It will never be applied; it is recorded in `headwater.rejected_writes`.
    Rejected(Rejection),
    /// Nothing happened; send it again later. The text says what was in the way.
    Retry(String),
}

/// Why a transaction was rejected.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Rejection {
    /// Postgres's code for the condition, or the nearest one for our own rules.
    pub sqlstate: String,
    /// One line that is safe to show.
    pub message: String,
    /// The operation that was refused, when it was one.
    pub op_id: Option<i64>,
    /// The table, as the client knows it.
    pub table: Option<String>,
    /// The column, as the client knows it where the mapping is a plain rename.
    pub column: Option<String>,
    /// The violated constraint.
    pub constraint: Option<String>,
}

impl Rejection {
    /// A rejection by a rule of ours, under the SQLSTATE that fits best.
    pub(crate) fn ours(sqlstate: &str, message: impl Into<String>) -> Rejection {
        Rejection {
            sqlstate: sqlstate.to_owned(),
            message: message.into(),
            op_id: None,
            table: None,
            column: None,
            constraint: None,
        }
    }

    pub(crate) fn column(mut self, column: &str) -> Rejection {
        self.column = Some(column.to_owned());
        self
    }

    /// A rejection by Postgres.
    pub(crate) fn of_server(error: &ServerError) -> Rejection {
        Rejection {
            sqlstate: error.sqlstate.clone(),
            message: safe_message(error),
            op_id: None,
            table: None,
            column: error.column.clone(),
            constraint: error.constraint.clone(),
        }
    }

    /// Whether the catalog may have changed under us: an unknown table, column or type.
    pub(crate) fn may_be_stale(&self) -> bool {
        // 42P01 table, 42703 column, 42704 type, 42804 and 42846 types that no longer fit,
        // 42P10 no unique index for the conflict target, 3F000 schema.
        matches!(
            self.sqlstate.as_str(),
            "42P01" | "42703" | "42704" | "42804" | "42846" | "42P10" | "3F000"
        )
    }
}

/// What an error in the middle of a transaction means for it.
#[derive(Debug)]
pub(crate) enum Meaning {
    /// Final.
    Rejected(Rejection),
    /// Passes by itself. The text is safe to show.
    Retry(String),
}

/// Sorts an error by whether the same transaction could succeed later without anybody changing it.
pub(crate) fn meaning(error: &PgError) -> Meaning {
    let PgErrorKind::Server(server) = error.kind() else {
        return Meaning::Retry("the connection to the database failed".to_owned());
    };
    let state = server.sqlstate.as_str();
    let retry = match (state.get(..2).unwrap_or(""), state) {
        ("40", _) => "the write met a concurrent one",
        // A lock that was not granted in time, an object in use.
        (_, "55P03" | "55006") => "the row is locked by another transaction",
        // Canceled by statement_timeout or by hand.
        (_, "57014") => "the write took too long",
        // The server is read only: a standby, or a primary that is being moved.
        (_, "25006") => "the database is read only at the moment",
        ("08" | "28" | "3D" | "53" | "57" | "58", _) => "the database is not available",
        // Damaged data or index: somebody must repair it, and the write is not to blame.
        (_, "XX001" | "XX002") => "the database reports damage",
        _ => return Meaning::Rejected(Rejection::of_server(server)),
    };
    Meaning::Retry(retry.to_owned())
}

/// The condition in words, with the names that Postgres reported and without any value.
fn safe_message(error: &ServerError) -> String {
    let class = error.sqlstate.get(..2).unwrap_or("");
    let condition = match error.sqlstate.as_str() {
        "22001" => "a value is too long for its column",
        "22003" => "a number is out of range for its column",
        "22007" | "22008" => "a date or time is not valid",
        "22021" => "a text has a character that the database cannot store",
        "22P02" => "a value does not fit its column's type",
        "23502" => "a value is missing",
        "23503" => "a row that is referred to does not exist, or is still referred to",
        "23505" => "a row with the same value exists already",
        "23514" => "a value breaks a rule of its table",
        "23P01" => "the row conflicts with another row",
        "44000" => "the row does not belong to the view that it was written to",
        // Names only: `permission denied for table t`, `new row violates row-level security
        // policy for table "t"`, `column "a" of relation "t" does not exist`.
        _ if class == "42" => return error.message.clone(),
        _ => match class {
            "22" => "a value is not valid",
            "23" => "a constraint is violated",
            "54" => "the row is too large",
            "P0" => "a function of the database refused the write",
            _ => "the database refused the write",
        },
    };
    match (&error.constraint, &error.column) {
        (Some(constraint), _) => format!("{condition} (constraint \"{constraint}\")"),
        (None, Some(column)) => format!("{condition} (column \"{column}\")"),
        (None, None) => condition.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(sqlstate: &str) -> ServerError {
        ServerError {
            sqlstate: sqlstate.into(),
            message: "row (hush) is bad".into(),
            detail: Some("Key (email)=(hush@example.com) already exists.".into()),
            hint: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
        }
    }

    #[test]
    fn what_passes_by_itself_is_retried_and_the_rest_is_final() {
        let retried = [
            "40001", "40P01", "55P03", "57P01", "57P03", "57014", "53300", "25006", "08006",
            "58030", "XX001", "28P01",
        ];
        for state in retried {
            let verdict = meaning(&PgError::server(error(state)));
            assert!(matches!(verdict, Meaning::Retry(_)), "{state}");
        }
        for state in ["23505", "23502", "22P02", "42501", "P0001", "XX000", "0A000", "21000"] {
            let verdict = meaning(&PgError::server(error(state)));
            assert!(matches!(verdict, Meaning::Rejected(_)), "{state}");
        }
    }

    #[test]
    fn no_value_of_a_row_reaches_a_message() {
        for state in ["22P02", "22001", "23505", "23514", "P0001", "XX000", "38000", "54000", ""] {
            let mut error = error(state);
            error.constraint = Some("people_email_key".into());
            let message = safe_message(&error);
            assert!(!message.contains("hush"), "{state}: {message}");
            assert!(message.ends_with("(constraint \"people_email_key\")"), "{message}");
        }
    }
}
