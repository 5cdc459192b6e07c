//! Why a statement of a surface was not run, or not kept, in words for whoever sent it.
//!
//! In: errors of Postgres, findings for operators. Out: [`StatementError`]. Invariant: nothing of the server's
//! text and no value of a row, since a trigger may raise any text under any SQLSTATE; names of tables, columns
//! and constraints only.

use hw_pg::error::{PgError, PgErrorKind, ServerError};
use hw_types::{Code, Diagnostic, TableName};

use crate::code;
use crate::verdict::condition;

/// See the module.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct StatementError {
    /// One line that is safe to show.
    pub message: String,
    /// What it is called in `docs/errors.md`.
    pub code: Code,
    /// Postgres's code for the condition, where it was Postgres that refused.
    pub sqlstate: Option<String>,
    /// What kind of refusal it is.
    pub kind: RefusalKind,
}

/// What kind of refusal it is, for surfaces that have a number for each.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum RefusalKind {
    /// It can never be run as it is.
    Invalid,
    /// Who asks may not.
    Forbidden,
    /// It names something that is not there.
    NotFound,
    /// It contradicts rows that are there.
    Conflict,
    /// A value breaks a rule of its table.
    Unprocessable,
    /// It can be sent again later.
    Later,
}

impl StatementError {
    /// A refusal.
    pub fn new(kind: RefusalKind, code: u16, message: impl Into<String>) -> StatementError {
        StatementError { message: message.into(), code: Code(code), sqlstate: None, kind }
    }

    fn with_sqlstate(mut self, sqlstate: &str) -> StatementError {
        self.sqlstate = Some(sqlstate.to_owned());
        self
    }

    /// There is no such table.
    pub(crate) fn no_table(table: &TableName) -> StatementError {
        let message = format!("relation \"{}\" does not exist", table.name);
        StatementError::new(RefusalKind::NotFound, code::NO_TABLE, message).with_sqlstate("42P01")
    }

    /// No policies decide about its rows.
    pub(crate) fn no_row_security(table: &TableName) -> StatementError {
        let message = format!(
            "Row level security is required for accessing this table: \"{}\" does not have it",
            table.name
        );
        StatementError::new(RefusalKind::Forbidden, code::NO_ROW_SECURITY, message)
    }

    /// A person must act; who sent the statement learns what concerns him.
    pub(crate) fn stop(finding: &Diagnostic) -> StatementError {
        let kind = match finding.code.0 {
            code::ROLE_NOT_ALLOWED | code::OWNED_TABLE => RefusalKind::Forbidden,
            _ => RefusalKind::Later,
        };
        // Names of roles and tables, no more. What is wrong with a token concerns whoever made it.
        let message = match (finding.code.0, &finding.mend) {
            (code::ROLE_NOT_ALLOWED, Some(mend)) => format!("{}; {mend}", finding.what),
            _ => finding.what.clone(),
        };
        StatementError { message, code: finding.code, sqlstate: None, kind }
    }

    /// The connection or the pool failed, or a statement of our own did.
    pub(crate) fn ours(error: &PgError) -> StatementError {
        let message = match error.kind() {
            PgErrorKind::PoolBusy { .. } => "All connections to the database are busy; come again",
            _ => "The database is not available at the moment; come again",
        };
        StatementError::new(RefusalKind::Later, code::LATER, message)
    }

    /// Somebody's query failed, of whose error the code is known alone.
    pub fn of_query(sqlstate: &str, table: &TableName) -> StatementError {
        // Policies refuse writes; who may not read lacks a right.
        let routine = (sqlstate == "42501").then(|| "aclcheck_error".to_owned());
        let error = ServerError { routine, ..ServerError::new(sqlstate, "") };
        StatementError::of_statement(&PgError::server(error).of_users(), table)
    }

    /// The statement of the user failed.
    pub(crate) fn of_statement(error: &PgError, table: &TableName) -> StatementError {
        let Some(server) = error.as_server() else { return StatementError::ours(error) };
        let state = server.sqlstate.as_str();
        let (kind, words) = words(server, table);
        let name = |name: &Option<String>| name.clone().filter(|_| !server.is_raised());
        let message = match (name(&server.constraint), name(&server.column)) {
            (Some(constraint), _) => format!("{words} (constraint \"{constraint}\")"),
            (None, Some(column)) => format!("{words} (column \"{column}\")"),
            (None, None) => words,
        };
        let code = if kind == RefusalKind::Later { code::LATER } else { code::STATEMENT };
        StatementError::new(kind, code, message).with_sqlstate(state)
    }
}

fn words(error: &ServerError, table: &TableName) -> (RefusalKind, String) {
    let state = error.sqlstate.as_str();
    let class = state.get(..2).unwrap_or("");
    let say = |kind: RefusalKind, words: &str| (kind, words.to_owned());
    if error.is_missing_right() {
        return (
            RefusalKind::Forbidden,
            format!(
                "permission denied: the database role of this user may not do this with \"{}\"",
                table.name
            ),
        );
    }
    match (class, state) {
        (_, "42501") if !error.is_raised() => (
            RefusalKind::Forbidden,
            format!("new row violates row-level security policy for table \"{}\"", table.name),
        ),
        (_, "42501") => say(RefusalKind::Forbidden, RAISED),
        ("40", _) => say(RefusalKind::Later, "The statement met a concurrent one; come again"),
        (_, "55P03" | "55006") => {
            say(RefusalKind::Later, "The row is locked by another transaction; come again")
        }
        _ if error.is_raised() => say(RefusalKind::Unprocessable, RAISED),
        ("P0", _) => say(RefusalKind::Unprocessable, RAISED),
        (_, "57014") => say(RefusalKind::Later, "The statement took too long"),
        (_, "25006") => say(RefusalKind::Later, "The database is read only at the moment"),
        (_, "25P02") => say(
            RefusalKind::Invalid,
            "An earlier statement of the transaction failed; it can only be rolled back",
        ),
        ("08" | "28" | "3D" | "53" | "57" | "58", _) => {
            say(RefusalKind::Later, "The database is not available at the moment; come again")
        }
        (_, "23505" | "23503" | "23P01") => say(RefusalKind::Conflict, condition(error)),
        (_, "42883") => {
            say(RefusalKind::Invalid, "an operator does not exist for values of these types")
        }
        (_, "42804" | "42846") => say(RefusalKind::Invalid, "a value has a type that does not fit"),
        (_, "42P10") => {
            say(RefusalKind::Invalid, "DISTINCT ON needs its field first in the order of the query")
        }
        (_, "42601") => say(
            RefusalKind::Invalid,
            "a text query (ToTSQuery) or another value, or a function of the database, has a syntax error",
        ),
        ("42", _) => say(RefusalKind::Invalid, condition(error)),
        (_, "54001") => say(
            RefusalKind::Invalid,
            "the statement, or a function of the database, nests too deeply; make its conditions simpler",
        ),
        (_, "54011") => say(
            RefusalKind::Invalid,
            "the statement has more columns than the database takes; select fewer fields",
        ),
        ("54", _) => say(
            RefusalKind::Unprocessable,
            "a row, what an index keeps of one, or a word of a text query is too long for the database",
        ),
        (_, "XX000") => say(
            RefusalKind::Invalid,
            "the database cannot run the statement: a text query (ToTSQuery) in it nests too deeply, or \
             something of the database is broken, which its log tells",
        ),
        ("22" | "23" | "44", _) => say(RefusalKind::Unprocessable, condition(error)),
        _ => say(RefusalKind::Unprocessable, "the database refused the statement"),
    }
}

const RAISED: &str = "a function of the database refused the statement";

#[cfg(test)]
mod tests {
    use super::*;

    fn refused(sqlstate: &str) -> StatementError {
        StatementError::of_query(sqlstate, &TableName::new("public", "t"))
    }

    #[test]
    fn ds_13_what_a_query_is_refused_for_is_said_in_words_about_it() {
        for (sqlstate, part) in [
            ("54001", "nests too deeply"),
            ("54011", "select fewer fields"),
            ("54000", "too long for the database"),
            ("42601", "ToTSQuery"),
            ("XX000", "ToTSQuery"),
            ("42501", "permission denied"),
            ("0A000", "refused the statement"),
            ("P0001", "a function of the database"),
            ("", "refused the statement"),
        ] {
            let refused = refused(sqlstate);
            assert!(refused.message.contains(part), "{sqlstate}: {refused}");
            assert!(!refused.message.contains("write"), "{sqlstate}: {refused}");
        }
        assert_eq!(refused("42501").kind, RefusalKind::Forbidden);
        assert_eq!(refused("57014").code.0, code::LATER);
    }
}
