//! What can go wrong between us and Postgres: the kind, what to do about it, and the text for a
//! person.
//!
//! In: errors of sockets, TLS, `tokio-postgres` and the replication protocol. Out: [`PgError`],
//! which every function of this crate returns. Invariant: its texts never hold a password or a
//! value of a row. A message of the server that quotes values (SQLSTATE classes 22, 23, 44, P0)
//! is replaced by the name of its condition.

use hw_types::Diagnostic;
use std::fmt;
use std::io;
use std::time::Duration;

/// Stable codes of this crate's findings. 2001 to 2049 are connections and values; the stream,
/// the publication, the slot and the catalog have 2100 and above.
pub mod code {
    /// The connection string, a `PG*` variable or the password file cannot be read as written.
    pub const CONNECTION_STRING: u16 = 2001;
    /// A key of the connection string is not known and was ignored.
    pub const UNKNOWN_KEY: u16 = 2002;
    /// The password file was ignored because others may read it or it is not a plain file.
    pub const PASSWORD_FILE: u16 = 2003;
    /// No connection: the name does not resolve, nothing listens, the network is not reachable.
    pub const UNREACHABLE: u16 = 2004;
    /// The server did not answer in time.
    pub const TIMEOUT: u16 = 2005;
    /// `sslmode` demands TLS, and the server does not offer it.
    pub const NO_TLS: u16 = 2006;
    /// The TLS handshake failed; mostly a certificate that is not trusted or for another name.
    pub const TLS: u16 = 2007;
    /// The server refused user, password or database.
    pub const REFUSED: u16 = 2008;
    /// The server takes no connections now: it starts, stops, or has no slot left.
    pub const NOT_ACCEPTING: u16 = 2009;
    /// The role lacks a privilege.
    pub const PRIVILEGE: u16 = 2010;
    /// The server answered a statement with an error.
    pub const STATEMENT: u16 = 2011;
    /// The connection broke.
    pub const LOST: u16 = 2012;
    /// The server sent bytes that the protocol does not allow here.
    pub const PROTOCOL: u16 = 2013;
    /// No connection of the pool became free in time.
    pub const POOL: u16 = 2014;
    /// A value could not be read.
    pub const VALUE: u16 = 2015;
    /// A certificate or key file cannot be used.
    pub const CERTIFICATE_FILE: u16 = 2016;
    /// A pooler in front of Postgres refused a startup option.
    pub const POOLER: u16 = 2017;
    /// A feature of libpq that Headwater does not have was asked for.
    pub const NOT_SUPPORTED: u16 = 2018;
    /// No host of the list is what `target_session_attrs` asks for.
    pub const SESSION_ATTRIBUTES: u16 = 2019;
}

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
            PgErrorKind::Timeout { .. } => code::TIMEOUT,
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
                    (_, "57P01" | "57P02" | "57P03" | "53300") => code::NOT_ACCEPTING,
                    (_, "42501") => code::PRIVILEGE,
                    ("08", _) => code::PROTOCOL,
                    _ => code::STATEMENT,
                }
            }
        }
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
            PgErrorKind::Unreachable { .. } | PgErrorKind::Timeout { .. } => {
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
                (_, "28000") => "allow this user, database and address in pg_hba.conf",
                (_, "53300") => "raise max_connections, or close connections that nobody uses",
                _ => return error.hint.clone(),
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
        ServerError {
            sqlstate: sqlstate.into(),
            message: message.into(),
            detail: None,
            hint: None,
            schema: None,
            table: None,
            column: None,
            constraint: None,
        }
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
    fn a_reported_error_is_read_and_damage_never_panics() {
        let body = b"SERROR\0C42501\0Mpermission denied\0Hask\0tlists\0\0";
        let error = ServerError::from_body(body);
        assert_eq!(
            (error.sqlstate.as_str(), error.message.as_str()),
            ("42501", "permission denied")
        );
        assert_eq!((error.hint.as_deref(), error.table.as_deref()), (Some("ask"), Some("lists")));
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
