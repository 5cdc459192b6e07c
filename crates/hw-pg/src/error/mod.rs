//! What can go wrong between us and Postgres: the kind, what to do about it, and the text for a
//! person.
//!
//! In: errors of sockets, TLS, `tokio-postgres` and the replication protocol. Out: [`PgError`],
//! which every function of this crate returns. Invariant: its texts never hold a password or a
//! value of a row. A message of the server that can quote values (every one of a statement that ran
//! users' code, and SQLSTATE classes 22, 23, 44, P0) is replaced by the name of its condition.

pub mod code;
mod server;

pub use server::{Origin, ServerError};

use hw_types::Diagnostic;
use std::fmt;
use std::io;
use std::time::Duration;

/// What the caller should do.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Policy {
    /// Do the same again at once: a serialization failure, a deadlock.
    Retry,
    /// Wait, longer each time, and do it again: the server or the network is away.
    RetryWithBackoff,
    /// A person must act.
    Stop,
}

/// What happened.
#[derive(Debug, thiserror::Error)]
pub enum PgErrorKind {
    /// Configuration that cannot be used; the finding says where.
    #[error("{}", .0.what)]
    Configuration(Diagnostic),
    /// No connection to this host: `host:port`, or the path of a socket.
    #[error("connect to {host}: {source}")]
    Unreachable {
        /// `host:port` or a socket's path.
        host: String,
        /// What the system said.
        source: io::Error,
    },
    /// The host did not answer in time.
    #[error("{host} did not answer within {} s", after.as_secs_f32())]
    Timeout {
        /// `host:port` or a socket's path.
        host: String,
        /// The limit.
        after: Duration,
    },
    /// `sslmode` demands TLS and the server has none.
    #[error("{host} does not offer TLS, and sslmode={sslmode} demands it")]
    NoTls {
        /// `host:port`.
        host: String,
        /// The mode in force.
        sslmode: &'static str,
    },
    /// The TLS handshake failed.
    #[error("TLS with {host}: {reason}")]
    Tls {
        /// `host:port`.
        host: String,
        /// What is wrong, without secrets.
        reason: String,
        /// How to mend it, where we know.
        mend: Option<&'static str>,
    },
    /// The server asks for a password and none is configured for it.
    #[error("{host} asks for a password, and none is configured")]
    NoPassword {
        /// `host:port` or a socket's path.
        host: String,
    },
    /// The server has other properties than `target_session_attrs` asks for.
    #[error("{host} is not {wanted}")]
    SessionAttributes {
        /// `host:port`.
        host: String,
        /// For example `a primary`.
        wanted: &'static str,
    },
    /// The server reported an error.
    #[error("{0}")]
    Server(Box<ServerError>),
    /// The connection broke.
    #[error("the connection was lost: {0}")]
    Lost(String),
    /// The connection is up, and what was asked on it is not answered.
    #[error("the connection is given up: {0}")]
    Silent(String),
    /// The server broke the protocol, or a part of it that we do not know.
    #[error("unexpected answer of the server: {0}")]
    Protocol(String),
    /// No connection of the pool became free in time.
    #[error("all {size} connections of the pool were busy for {} s", after.as_secs_f32())]
    PoolBusy {
        /// Connections at most.
        size: usize,
        /// The limit.
        after: Duration,
    },
    /// A value that is not what its type allows.
    #[error("{0}")]
    Value(#[from] hw_types::text::DamagedValue),
}

/// An error of this crate: what happened, and during what.
#[derive(Debug)]
pub struct PgError {
    /// Boxed: results stay small on the paths that do not fail.
    inner: Box<Inner>,
}

#[derive(Debug)]
struct Inner {
    kind: PgErrorKind,
    /// Outermost first, as verbs: `start replication`, `create slot`.
    doing: Vec<String>,
}

/// Shorthand.
pub type Result<T, E = PgError> = std::result::Result<T, E>;

impl PgError {
    /// An error without its context.
    pub fn new(kind: PgErrorKind) -> PgError {
        PgError { inner: Box::new(Inner { kind, doing: Vec::new() }) }
    }

    /// An error that the server reported on a connection of our own.
    pub fn server(error: ServerError) -> PgError {
        PgError::new(PgErrorKind::Server(Box::new(error)))
    }

    /// Bytes or messages that the protocol does not allow here.
    pub fn protocol(what: impl Into<String>) -> PgError {
        PgError::new(PgErrorKind::Protocol(what.into()))
    }

    /// Names what was attempted, as a verb: `create slot`. The outermost is added last.
    pub fn doing(mut self, what: impl Into<String>) -> PgError {
        self.inner.doing.insert(0, what.into());
        self
    }

    /// Says that the statement ran code of the database's users, or took values of theirs, so
    /// that nothing of the server's text may be shown.
    pub fn of_users(mut self) -> PgError {
        if let PgErrorKind::Server(error) = &mut self.inner.kind {
            error.origin = Origin::Users;
        }
        self
    }

    /// What happened.
    pub fn kind(&self) -> &PgErrorKind {
        &self.inner.kind
    }

    /// The server's error, if it is one.
    pub fn as_server(&self) -> Option<&ServerError> {
        match self.kind() {
            PgErrorKind::Server(error) => Some(error),
            _ => None,
        }
    }

    /// The server's SQLSTATE, five characters, if it is the server's error.
    pub fn sqlstate(&self) -> Option<&str> {
        self.as_server().map(|error| error.sqlstate.as_str())
    }

    /// What to do about it.
    pub fn policy(&self) -> Policy {
        match self.kind() {
            PgErrorKind::Configuration(_)
            | PgErrorKind::NoTls { .. }
            | PgErrorKind::Tls { .. }
            | PgErrorKind::NoPassword { .. }
            | PgErrorKind::Protocol(_)
            | PgErrorKind::Value(_) => Policy::Stop,
            PgErrorKind::Unreachable { .. }
            | PgErrorKind::Timeout { .. }
            | PgErrorKind::Lost(_)
            | PgErrorKind::Silent(_)
            | PgErrorKind::SessionAttributes { .. }
            | PgErrorKind::PoolBusy { .. } => Policy::RetryWithBackoff,
            PgErrorKind::Server(error) => server_policy(error),
        }
    }

    /// The stable code, from [`code`].
    pub fn code(&self) -> u16 {
        match self.kind() {
            PgErrorKind::Configuration(finding) => finding.code.0,
            PgErrorKind::Unreachable { .. } => code::UNREACHABLE,
            PgErrorKind::Timeout { .. } | PgErrorKind::Silent(_) => code::TIMEOUT,
            PgErrorKind::NoTls { .. } => code::NO_TLS,
            PgErrorKind::Tls { .. } => code::TLS,
            PgErrorKind::NoPassword { .. } => code::REFUSED,
            PgErrorKind::SessionAttributes { .. } => code::SESSION_ATTRIBUTES,
            PgErrorKind::Lost(_) => code::LOST,
            PgErrorKind::Protocol(_) => code::PROTOCOL,
            PgErrorKind::PoolBusy { .. } => code::POOL,
            PgErrorKind::Value(_) => code::VALUE,
            PgErrorKind::Server(error) => {
                let state = error.sqlstate.as_str();
                match (state.get(..2).unwrap_or(""), state) {
                    (_, "08P01") if is_poolers_refusal(error) => code::POOLER,
                    ("28", _) | (_, "3D000") => code::REFUSED,
                    // A session that was ended from outside: the server may be well.
                    (_, "57P01" | "57P02") => code::LOST,
                    (_, "57P03" | "53300") => code::NOT_ACCEPTING,
                    (_, "42501") => code::PRIVILEGE,
                    ("08", _) => code::PROTOCOL,
                    _ => code::STATEMENT,
                }
            }
        }
    }

    /// Whether it happened while this was attempted ([`Doing::doing`]).
    pub fn was_doing(&self, what: &str) -> bool {
        self.inner.doing.iter().any(|doing| doing == what)
    }

    /// The finding for a person: what, where, and how to mend it where we know.
    pub fn diagnostic(&self) -> Diagnostic {
        let mut finding = match self.kind() {
            PgErrorKind::Configuration(finding) => finding.clone(),
            kind => Diagnostic::error(self.code(), kind.to_string()),
        };
        if finding.context.is_none() && !self.inner.doing.is_empty() {
            finding.context = Some(self.inner.doing.join(": "));
        }
        if finding.mend.is_none() {
            finding.mend = self.mend();
        }
        finding
    }

    fn mend(&self) -> Option<String> {
        let text = match self.kind() {
            PgErrorKind::Unreachable { .. }
            | PgErrorKind::Timeout { .. }
            | PgErrorKind::Silent(_) => {
                "check that Postgres runs there and that its port can be reached from here"
            }
            PgErrorKind::NoTls { .. } => {
                "set ssl = on in postgresql.conf, or use sslmode=prefer if the network is trusted"
            }
            PgErrorKind::Tls { mend: Some(mend), .. } => mend,
            PgErrorKind::NoPassword { .. } => {
                "write the password into the connection string, PGPASSWORD or the password file"
            }
            PgErrorKind::SessionAttributes { .. } => {
                "list a host that is, or leave target_session_attrs out"
            }
            PgErrorKind::PoolBusy { .. } => "allow the pool more connections",
            PgErrorKind::Server(error) => match (self.code(), error.sqlstate.as_str()) {
                (code::POOLER, _) => {
                    "connect to Postgres itself: replication does not work through a pooler"
                }
                (_, "28P01") => "check user and password of the connection string",
                // `role "app" does not exist`, in whatever language the server speaks.
                (_, "28000") if !error.message.contains("pg_hba.conf") => {
                    "create the role (CREATE ROLE … LOGIN REPLICATION), or correct the user of the \
                     connection string; if it exists, allow it to log in"
                }
                (_, "28000") => "allow this user, database and address in pg_hba.conf",
                (_, "3D000") => "create the database, or correct its name in the connection string",
                (_, "53300") => {
                    "raise max_connections, or the CONNECTION LIMIT of the role or database that is \
                     named, or close connections that nobody uses"
                }
                (_, "22021") => {
                    "correct the value, or move the data to a database with ENCODING 'UTF8', which takes no such \
                     text"
                }
                _ => return error.safe_hint(),
            },
            _ => return None,
        };
        Some(text.to_owned())
    }
}

/// PgBouncer's answer to an `options` parameter that it does not take.
fn is_poolers_refusal(error: &ServerError) -> bool {
    error.message.contains("unsupported startup parameter")
}

fn server_policy(error: &ServerError) -> Policy {
    let state = error.sqlstate.as_str();
    match (state.get(..2).unwrap_or(""), state) {
        (_, "40001" | "40P01") => Policy::Retry,
        // A slot or an object in use, a lock not granted, a snapshot too old.
        (_, "55006" | "55P03" | "57P01" | "57P02" | "57P03") => Policy::RetryWithBackoff,
        (_, "08P01") => Policy::Stop,
        ("08" | "53" | "58", _) => Policy::RetryWithBackoff,
        _ => Policy::Stop,
    }
}

impl fmt::Display for PgError {
    /// `start replication: create slot: permission denied … (SQLSTATE 42501)`.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        for doing in &self.inner.doing {
            write!(f, "{doing}: ")?;
        }
        write!(f, "{}", self.inner.kind)
    }
}

impl std::error::Error for PgError {
    fn source(&self) -> Option<&(dyn std::error::Error + 'static)> {
        self.inner.kind.source_of()
    }
}

impl PgErrorKind {
    fn source_of(&self) -> Option<&(dyn std::error::Error + 'static)> {
        match self {
            PgErrorKind::Unreachable { source, .. } => Some(source),
            _ => None,
        }
    }
}

impl From<tokio_postgres::Error> for PgError {
    fn from(error: tokio_postgres::Error) -> PgError {
        if let Some(server) = error.as_db_error() {
            return PgError::server(ServerError::from(server));
        }
        if error.is_closed() {
            return PgError::new(PgErrorKind::Lost(String::from("closed by the server")));
        }
        let source = std::error::Error::source(&error);
        if let Some(io) = source.and_then(|source| source.downcast_ref::<io::Error>()) {
            return PgError::from(io::Error::new(io.kind(), io.to_string()));
        }
        // The text of `tokio_postgres` names what failed; its source may quote a value, except
        // for authentication, where it names what the server or the configuration lacks.
        let text = error.to_string();
        PgError::protocol(match source {
            Some(source) if text == "authentication error" || text == "invalid configuration" => {
                format!("{text}: {source}")
            }
            _ => text,
        })
    }
}

impl From<io::Error> for PgError {
    /// An error on a connection that was up.
    fn from(error: io::Error) -> PgError {
        match error.kind() {
            io::ErrorKind::InvalidData | io::ErrorKind::InvalidInput => {
                PgError::protocol(error.to_string())
            }
            io::ErrorKind::TimedOut => PgError::new(PgErrorKind::Silent(error.to_string())),
            _ => PgError::new(PgErrorKind::Lost(error.to_string())),
        }
    }
}

impl From<hw_types::text::DamagedValue> for PgError {
    fn from(error: hw_types::text::DamagedValue) -> PgError {
        PgError::new(PgErrorKind::Value(error))
    }
}

impl From<Diagnostic> for PgError {
    fn from(finding: Diagnostic) -> PgError {
        PgError::new(PgErrorKind::Configuration(finding))
    }
}

/// Adds what was attempted to a failed result.
pub trait Doing<T> {
    /// Turns the error into a [`PgError`] that names what was attempted, as a verb.
    fn doing(self, what: &str) -> Result<T>;
}

impl<T, E: Into<PgError>> Doing<T> for std::result::Result<T, E> {
    fn doing(self, what: &str) -> Result<T> {
        self.map_err(|error| error.into().doing(what))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server(sqlstate: &str, message: &str) -> ServerError {
        ServerError::new(sqlstate, message)
    }

    #[test]
    fn the_context_reads_as_a_sentence() {
        let error = PgError::server(server("42501", "permission denied"))
            .doing("create slot")
            .doing("start replication");
        assert_eq!(
            error.to_string(),
            "start replication: create slot: permission denied (SQLSTATE 42501)"
        );
        assert_eq!(
            error.diagnostic().to_string(),
            "error[HW2010]: permission denied (SQLSTATE 42501)\n  \
             where: start replication: create slot"
        );
    }

    #[test]
    fn values_of_rows_never_reach_a_text() {
        let mut violated = server("23505", "duplicate key value violates ...");
        violated.detail = Some("Key (email)=(ada@example.com) already exists.".into());
        violated.constraint = Some("people_email_key".into());
        let error = PgError::server(violated);
        assert_eq!(
            error.to_string(),
            "unique constraint violated, constraint \"people_email_key\" (SQLSTATE 23505)"
        );
        let error = PgError::server(server("22P02", "invalid input syntax: \"secret\""));
        assert!(!error.to_string().contains("secret"));
    }

    #[test]
    fn fd_48_who_wrote_the_statement_decides_what_is_shown_and_not_the_sqlstate() {
        for sqlstate in ["42501", "40001", "42703", "XX000", "0A000", "57014", "P0001", "22023"] {
            let mut raised = server(sqlstate, "hush: hush@example.com");
            raised.detail = Some("hush".into());
            raised.hint = Some("hush".into());
            raised.context = Some("hush".into());
            let of_users = PgError::server(raised.clone()).of_users().doing("write");
            assert!(!of_users.diagnostic().to_string().contains("hush"), "{sqlstate}");
            // A function may also raise it below a statement of ours, and name what it likes.
            raised.routine = Some("exec_stmt_raise".into());
            raised.table = Some("hush".into());
            raised.column = Some("hush".into());
            raised.constraint = Some("hush".into());
            let finding = PgError::server(raised).doing("look").diagnostic().to_string();
            assert!(!finding.contains("hush"), "{sqlstate}: {finding}");
        }
    }

    #[test]
    fn a_reported_error_is_read_and_damage_never_panics() {
        let body = b"SERROR\0C42501\0Mpermission denied\0Hask\0tlists\0Raclcheck_error\0\0";
        let error = ServerError::from_body(body);
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("42501", "permission denied")
        );
        assert_eq!((error.hint.as_deref(), error.table.as_deref()), (Some("ask"), Some("lists")));
        assert!(error.is_missing_right() && !error.is_raised());
        for end in 0..body.len() {
            let _ = ServerError::from_body(&body[..end]);
        }
    }

    #[test]
    fn each_error_says_what_to_do() {
        for (sqlstate, policy, code) in [
            ("40001", Policy::Retry, code::STATEMENT),
            ("55006", Policy::RetryWithBackoff, code::STATEMENT),
            ("57P03", Policy::RetryWithBackoff, code::NOT_ACCEPTING),
            ("53300", Policy::RetryWithBackoff, code::NOT_ACCEPTING),
            ("57P01", Policy::RetryWithBackoff, code::LOST),
            ("28P01", Policy::Stop, code::REFUSED),
            ("3D000", Policy::Stop, code::REFUSED),
            ("42501", Policy::Stop, code::PRIVILEGE),
            ("", Policy::Stop, code::STATEMENT),
        ] {
            let error = PgError::server(server(sqlstate, "m"));
            assert_eq!((error.policy(), error.code()), (policy, code), "{sqlstate}");
        }
    }
}
