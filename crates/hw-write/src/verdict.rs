//! What became of a transaction, and which errors of Postgres mean what.
//!
//! A rejection is final and says why in words of our own: the condition, and names of tables,
//! columns and constraints that the catalog knows. **No value of any row, and nothing of the
//! server's text**, since a trigger may raise any text under any SQLSTATE. "Retry" is for what
//! passes by itself, and for what an operator can mend.

use hw_pg::error::{PgError, PgErrorKind, ServerError};
use hw_types::{Code, Diagnostic};

/// The verdict over one transaction.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Its effect is committed, now or by an earlier request.
    Applied,
    /// It will never be applied; it is recorded in `headwater.rejected_writes`.
    Rejected(Rejection),
    /// Nothing happened; send it again later.
    Retry(Delay),
}

/// Why a transaction has to come again.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Delay {
    /// What was in the way, safe to show.
    pub reason: String,
    /// The finding that an operator can mend, when it does not pass by itself.
    pub code: Option<Code>,
}

impl Delay {
    /// Something that passes by itself.
    pub(crate) fn passing(reason: impl Into<String>) -> Delay {
        Delay { reason: reason.into(), code: None }
    }

    /// Something that an operator can mend; the log has the finding.
    pub(crate) fn mendable(reason: impl Into<String>, finding: &Diagnostic) -> Delay {
        Delay { reason: reason.into(), code: Some(finding.code) }
    }
}

/// Why an operation has no statement.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Unwritable {
    /// It never will have one.
    Rejected(Rejection),
    /// The configuration names what is not there yet. The text completes the sentence
    /// `table "t" cannot be written yet: …`.
    Waits(String),
}

impl From<Rejection> for Unwritable {
    fn from(rejection: Rejection) -> Unwritable {
        Unwritable::Rejected(rejection)
    }
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
    ///
    /// - Takes: names that the catalog has confirmed: a function may report any name it likes.
    pub(crate) fn by_server(
        error: &ServerError,
        column: Option<String>,
        constraint: Option<String>,
    ) -> Rejection {
        let condition = condition(error);
        let message = match (&constraint, &column) {
            (Some(constraint), _) => format!("{condition} (constraint \"{constraint}\")"),
            (None, Some(column)) => format!("{condition} (column \"{column}\")"),
            (None, None) => condition.to_owned(),
        };
        let sqlstate = error.sqlstate.clone();
        Rejection { sqlstate, message, op_id: None, table: None, column, constraint }
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
pub(crate) enum Meaning<'a> {
    /// Final.
    Rejected(&'a ServerError),
    /// The role lacks a right on an object: an operator can grant it.
    MissingRight,
    /// The table has no partition for the row: an operator can make one.
    MissingPartition,
    /// Passes by itself. The text is safe to show.
    Retry(&'static str),
}

/// Sorts an error by whether the same transaction could succeed later without its author changing
/// it.
pub(crate) fn meaning(error: &PgError) -> Meaning<'_> {
    let server = match error.kind() {
        PgErrorKind::Server(server) => server,
        PgErrorKind::PoolBusy { .. } => {
            return Meaning::Retry("all connections for writes are busy");
        }
        _ => return Meaning::Retry("the connection to the database failed"),
    };
    let state = server.sqlstate.as_str();
    Meaning::Retry(match (state.get(..2).unwrap_or(""), state) {
        ("40", _) => "the write met a concurrent one",
        // A lock that was not granted in time, an object in use.
        (_, "55P03" | "55006") => "the row is locked by another transaction",
        // Under any other code that a function chose, the function refuses the write.
        _ if server.is_raised() => return Meaning::Rejected(server),
        _ if server.is_missing_right() => return Meaning::MissingRight,
        _ if server.is_missing_partition() => return Meaning::MissingPartition,
        // Canceled by statement_timeout or by hand.
        (_, "57014") => "the write took too long",
        // The server is read only: a standby, or a primary that is being moved.
        (_, "25006") => "the database is read only at the moment",
        // A table that is published without an identity, among others.
        (_, "55000") => "the database is not in a state to take the write",
        ("08" | "28" | "3D" | "53" | "57" | "58", _) => "the database is not available",
        // Damaged data or index: somebody must repair it, and the write is not to blame.
        (_, "XX001" | "XX002") => "the database reports damage",
        _ => return Meaning::Rejected(server),
    })
}

/// The condition in words, without any name or value.
pub(crate) fn condition(error: &ServerError) -> &'static str {
    if error.is_raised() {
        return "a function of the database refused the write";
    }
    match error.sqlstate.as_str() {
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
        // A missing right is none of these, see `meaning`.
        "42501" => "a policy of the table does not allow this write",
        "42601" => "a value, or a function of the database, has a syntax error",
        "3F000" | "42P01" | "42703" | "42704" | "42883" => {
            "a value, or a function of the database, names something that does not exist"
        }
        state => match state.get(..2).unwrap_or("") {
            "22" => "a value is not valid",
            "23" => "a constraint is violated",
            "54" if error.sqlstate == "54001" => {
                "the write, or a function of the database, nests too deeply"
            }
            "42" => "the write does not fit the table, or a function of the database is wrong",
            "54" => "the row is too large",
            "P0" => "a function of the database refused the write",
            _ => "the database refused the write",
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn error(sqlstate: &str) -> ServerError {
        ServerError {
            detail: Some("Key (email)=(hush@example.com) already exists.".into()),
            ..ServerError::new(sqlstate, "row (hush) is bad")
        }
    }

    #[test]
    fn what_passes_by_itself_is_retried_and_the_rest_is_final() {
        let retried = [
            "40001", "40P01", "55P03", "57P01", "57P03", "57014", "53300", "25006", "08006",
            "58030", "XX001", "28P01", "55000",
        ];
        for state in retried {
            let error = PgError::server(error(state));
            assert!(matches!(meaning(&error), Meaning::Retry(_)), "{state}");
        }
        for state in ["23505", "23502", "22P02", "42703", "P0001", "XX000", "0A000", "21000"] {
            let error = PgError::server(error(state));
            assert!(matches!(meaning(&error), Meaning::Rejected(_)), "{state}");
        }
    }

    #[test]
    fn a_missing_right_is_told_from_a_policy_and_from_a_function_by_who_reports_it() {
        for (routine, missing) in [
            ("aclcheck_error", true),
            ("nextval_internal", true),
            ("ExecWithCheckOptions", false),
            ("exec_stmt_raise", false),
        ] {
            let error = ServerError { routine: Some(routine.into()), ..error("42501") };
            let error = PgError::server(error);
            assert_eq!(matches!(meaning(&error), Meaning::MissingRight), missing, "{routine}");
        }
    }

    #[test]
    fn a_function_that_refuses_under_a_code_of_the_system_does_not_stop_the_queue() {
        for (state, retried) in [("40001", true), ("57014", false), ("53100", false)] {
            let raised = ServerError { routine: Some("exec_stmt_raise".into()), ..error(state) };
            let error = PgError::server(raised);
            assert_eq!(matches!(meaning(&error), Meaning::Retry(_)), retried, "{state}");
        }
    }

    #[test]
    fn fd_48_nothing_of_the_servers_text_reaches_a_message() {
        for state in
            ["22P02", "22001", "23505", "23514", "42501", "42703", "42P01", "P0001", "XX000", ""]
        {
            let key = Some("people_email_key".to_owned());
            let message = Rejection::by_server(&error(state), None, key).message;
            assert!(!message.contains("hush"), "{state}: {message}");
            assert!(message.ends_with("(constraint \"people_email_key\")"), "{message}");
        }
    }
}
