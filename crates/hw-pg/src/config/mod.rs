//! Where Postgres is and as whom to talk to it: connection strings as libpq reads them.
//!
//! In: a URL or a keyword/value string, the `PG*` variables, the password file. Out:
//! [`ConnectConfig`], from which every connection of Headwater is made, and findings for a person.
//! Invariant: a password never appears in a finding, in `Debug` or in [`ConnectConfig::redacted`].
//!
//! Source: PostgreSQL manual, "Connection Strings" and "Parameter Key Words".

mod environment;
mod keys;
mod read;
mod required_auth;

pub use environment::Environment;
pub(crate) use required_auth::{AuthGate, RequiredAuth};

use crate::error::code;
use crate::passfile::PassFile;
use hw_types::Diagnostic;
use std::fmt;
use std::net::IpAddr;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;

/// Settings that decide how values print, with the values that the canonical text form stands
/// on (`design/engine.md` 13). Every connection of Headwater runs under them, whatever the
/// role's or the database's defaults are.
pub const PINNED_SETTINGS: [(&str, &str); 5] = [
    ("DateStyle", "ISO"),
    ("IntervalStyle", "postgres"),
    ("TimeZone", "UTC"),
    ("bytea_output", "hex"),
    ("extra_float_digits", "1"),
];

/// Settings of the server's own work, which a role's or a database's defaults must not reach: no
/// limit of theirs may end it, compiling a query of the catalog takes longer than running it, and
/// what it has to change must be allowed. It never waits long for a lock that others need.
///
/// Writes for users are not among it: there the defaults of whoever runs the database hold.
pub const OWN_SETTINGS: [(&str, &str); 6] = [
    ("statement_timeout", "0"),
    ("lock_timeout", "10s"),
    ("idle_in_transaction_session_timeout", "0"),
    ("idle_session_timeout", "0"),
    ("default_transaction_read_only", "off"),
    ("jit", "off"),
];

/// The first version with `transaction_timeout`, which an older one refuses as a startup option.
pub(crate) const TRANSACTION_TIMEOUT_SINCE: u32 = 170_000;

/// How long the server may take to answer what is asked of it in a sentence or two.
pub const ANSWER_WITHIN: Duration = Duration::from_secs(60);

/// How the connection is protected; each mode as libpq has it, `allow` being read as `prefer`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslMode {
    /// No TLS.
    Disable,
    /// TLS if the server has it; the certificate is not looked at.
    Prefer,
    /// TLS; the certificate is looked at only if a root certificate file is there.
    Require,
    /// TLS with a certificate that a trusted root signed.
    VerifyCa,
    /// TLS with a certificate that a trusted root signed for this host name.
    VerifyFull,
}

impl SslMode {
    /// The mode as libpq spells it.
    pub fn name(self) -> &'static str {
        match self {
            SslMode::Disable => "disable",
            SslMode::Prefer => "prefer",
            SslMode::Require => "require",
            SslMode::VerifyCa => "verify-ca",
            SslMode::VerifyFull => "verify-full",
        }
    }
}

/// How TLS starts.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SslNegotiation {
    /// The client asks with an SSLRequest first.
    Postgres,
    /// TLS from the first byte (server 17 or newer).
    Direct,
}

/// Which certificates are trusted.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum RootCertificates {
    /// Those of the operating system (`sslrootcert=system`).
    System,
    /// A PEM file that must be there.
    File(PathBuf),
    /// The default file, used if it is there.
    Default(PathBuf),
    /// There is no home directory and no file was named.
    None,
}

/// What TLS needs to know.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TlsSettings {
    /// How the connection is protected.
    pub mode: SslMode,
    /// How TLS starts.
    pub negotiation: SslNegotiation,
    /// Which certificates are trusted.
    pub roots: RootCertificates,
    /// The client's certificate, PEM. A default path that does not exist is already left out.
    pub certificate: Option<PathBuf>,
    /// The client's key, PEM.
    pub key: Option<PathBuf>,
    /// Whether the host name is sent in the clear for routing (`sslsni`).
    pub send_name: bool,
    /// Whether TLS 1.2 is refused (`ssl_min_protocol_version=TLSv1.3`).
    pub only_tls13: bool,
}

/// Whether SCRAM is bound to the TLS channel.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ChannelBinding {
    /// Never.
    Disable,
    /// Where the server offers it.
    Prefer,
    /// A connection without is refused.
    Require,
}

/// Which of several hosts will do (`target_session_attrs`).
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SessionTarget {
    /// The first that answers.
    Any,
    /// One on which sessions may write.
    ReadWrite,
    /// One on which sessions may not write.
    ReadOnly,
    /// One that is not in recovery.
    Primary,
    /// One that is in recovery.
    Standby,
    /// A standby, or else any.
    PreferStandby,
}

/// Where a host is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Address {
    /// A name to resolve, or the address to use in its place (`hostaddr`).
    Tcp {
        /// The name, which TLS checks against the certificate.
        name: String,
        /// The address, if it need not be resolved.
        address: Option<IpAddr>,
    },
    /// The directory of a Unix socket.
    Unix(PathBuf),
}

/// One host of the list.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Host {
    /// Where it is.
    pub address: Address,
    /// TCP port, or the number in the socket's name.
    pub port: u16,
}

impl Host {
    /// Path of the Unix socket, if it is one.
    pub fn socket_path(&self) -> Option<PathBuf> {
        match &self.address {
            Address::Unix(directory) => Some(directory.join(format!(".s.PGSQL.{}", self.port))),
            Address::Tcp { .. } => None,
        }
    }

    /// The name under which the password file knows the host.
    fn passfile_name(&self) -> String {
        match &self.address {
            Address::Unix(directory) if environment::is_default_socket_directory(directory) => {
                String::from("localhost")
            }
            Address::Unix(directory) => directory.display().to_string(),
            Address::Tcp { name, address: Some(address) } if name.is_empty() => address.to_string(),
            Address::Tcp { name, .. } => name.clone(),
        }
    }
}

impl fmt::Display for Host {
    /// `db.example.com:5432`, `[::1]:5432`, or a socket's path.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match (&self.address, self.socket_path()) {
            (_, Some(path)) => write!(f, "{}", path.display()),
            (Address::Tcp { name, address }, None) => {
                let shown = match address {
                    Some(address) if name.is_empty() => address.to_string(),
                    _ => name.clone(),
                };
                match shown.contains(':') {
                    true => write!(f, "[{shown}]:{}", self.port),
                    false => write!(f, "{shown}:{}", self.port),
                }
            }
            (Address::Unix(_), None) => Ok(()),
        }
    }
}

/// TCP keepalive and timeout, as libpq's keys of these names.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Keepalive {
    /// Whether probes are sent on an idle connection.
    pub enabled: bool,
    /// Silence before the first probe.
    pub idle: Option<Duration>,
    /// Time between probes.
    pub interval: Option<Duration>,
    /// Unanswered probes until the connection counts as lost.
    pub count: Option<u32>,
    /// How long sent bytes may stay without acknowledgement.
    pub user_timeout: Option<Duration>,
}

/// Everything a connection needs.
#[derive(Clone)]
pub struct ConnectConfig {
    hosts: Vec<Host>,
    user: String,
    database: String,
    password: Option<String>,
    passfile: Arc<PassFile>,
    options: String,
    application_name: String,
    connect_timeout: Option<Duration>,
    tls: TlsSettings,
    channel_binding: ChannelBinding,
    target: SessionTarget,
    shuffle_hosts: bool,
    keepalive: Keepalive,
    /// Whether [`OWN_SETTINGS`] hold.
    own: bool,
    answer_within: Option<Duration>,
    require_auth: Option<RequiredAuth>,
}

impl ConnectConfig {
    /// How long a host may take to answer when `connect_timeout` is not given. libpq waits for
    /// ever; a server that must come back by itself must not.
    pub const DEFAULT_CONNECT_TIMEOUT: Duration = Duration::from_secs(30);

    /// Reads a connection string, completed from the process's `PG*` variables and password file.
    ///
    /// - Takes: a URL (`postgres://user@host/db?sslmode=require`) or keywords (`host=… user=…`).
    /// - Returns: the configuration, and warnings (`HW2002`, `HW2003`).
    /// - Errors: `HW2001` with what is wrong and at which character; `HW2018` for a feature that
    ///   is not supported and would be missed (`service`, `sslcrl`, …). Never holds the password.
    pub fn parse(text: &str) -> Result<(ConnectConfig, Vec<Diagnostic>), Diagnostic> {
        ConnectConfig::parse_in(text, &Environment::process())
    }

    /// The same in a given environment; reads nothing of the process but files.
    pub fn parse_in(
        text: &str,
        environment: &Environment,
    ) -> Result<(ConnectConfig, Vec<Diagnostic>), Diagnostic> {
        keys::resolve(read::read(text)?, environment)
    }

    /// The hosts, in the order in which they are tried.
    pub fn hosts(&self) -> &[Host] {
        &self.hosts
    }

    /// The role to connect as.
    pub fn user(&self) -> &str {
        &self.user
    }

    /// The database.
    pub fn database(&self) -> &str {
        &self.database
    }

    /// The same, for another database of the same server.
    pub fn with_database(&self, database: &str) -> ConnectConfig {
        ConnectConfig { database: database.to_owned(), ..self.clone() }
    }

    /// The same, under another `application_name`.
    pub fn with_application_name(&self, name: &str) -> ConnectConfig {
        ConnectConfig { application_name: name.to_owned(), ..self.clone() }
    }

    /// The same for statements that are run for users: the settings that the database and its
    /// roles have hold, not those of [`OWN_SETTINGS`].
    pub fn for_users(&self) -> ConnectConfig {
        ConnectConfig { own: false, ..self.clone() }
    }

    /// The same, with a limit to how long the server may leave a question without any byte of an
    /// answer (`None`: for ever). A connection through which nothing comes any more is noticed by
    /// it even where something on the way still confirms what we send.
    pub fn with_answer_within(&self, limit: Option<Duration>) -> ConnectConfig {
        ConnectConfig { answer_within: limit, ..self.clone() }
    }

    /// How long the server may leave a question without an answer.
    pub(crate) fn answer_within(&self) -> Option<Duration> {
        self.answer_within
    }

    /// Whether [`OWN_SETTINGS`] hold.
    pub(crate) fn is_own(&self) -> bool {
        self.own
    }

    /// Which ways to prove who we are the server may ask for (`require_auth`).
    pub(crate) fn require_auth(&self) -> Option<RequiredAuth> {
        self.require_auth
    }

    /// The password for a host: from the string or `PGPASSWORD`, else from the password file.
    pub fn password(&self, host: &Host) -> Option<&str> {
        self.password.as_deref().or_else(|| {
            self.passfile.find(&host.passfile_name(), host.port, &self.database, &self.user)
        })
    }

    /// The name under which the connection appears in `pg_stat_activity`.
    pub fn application_name(&self) -> &str {
        &self.application_name
    }

    /// The startup packet's `options`: the user's, then ours, which win.
    pub fn options(&self) -> String {
        let mut options = self.options.clone();
        let own: &[_] = if self.own { &OWN_SETTINGS } else { &[] };
        // Whoever chooses among hosts by this setting must be told each host's own.
        let chosen_by = match self.target {
            SessionTarget::ReadWrite | SessionTarget::ReadOnly => "default_transaction_read_only",
            _ => "",
        };
        let wanted = PINNED_SETTINGS.iter().chain(own).filter(|(name, _)| *name != chosen_by);
        for (name, value) in wanted {
            if !options.is_empty() {
                options.push(' ');
            }
            options += &format!("-c {name}={value}");
        }
        options
    }

    /// The startup packet's parameters, for a connection that is made by our own protocol code.
    pub fn startup_parameters(&self) -> Vec<(&'static str, String)> {
        vec![
            ("user", self.user.clone()),
            ("database", self.database.clone()),
            ("client_encoding", String::from("UTF8")),
            ("application_name", self.application_name.clone()),
            ("options", self.options()),
        ]
    }

    /// How long one host may take until its session is up; `None` waits for ever.
    pub fn connect_timeout(&self) -> Option<Duration> {
        self.connect_timeout
    }

    /// What TLS needs to know.
    pub fn tls(&self) -> &TlsSettings {
        &self.tls
    }

    /// Whether SCRAM is bound to the TLS channel.
    pub fn channel_binding(&self) -> ChannelBinding {
        self.channel_binding
    }

    /// Which of several hosts will do.
    pub fn session_target(&self) -> SessionTarget {
        self.target
    }

    /// Whether the hosts are tried in random order (`load_balance_hosts=random`).
    pub fn shuffle_hosts(&self) -> bool {
        self.shuffle_hosts
    }

    /// TCP keepalive.
    pub fn keepalive(&self) -> Keepalive {
        self.keepalive
    }

    /// The configuration as a URL without the password, for people and logs.
    pub fn redacted(&self) -> String {
        let unix = self.hosts.iter().any(|host| matches!(host.address, Address::Unix(_)));
        let hosts: Vec<String> = self
            .hosts
            .iter()
            .map(|host| match &host.address {
                Address::Unix(directory) => {
                    format!("{}:{}", read::percent_encode(&directory.to_string_lossy()), host.port)
                }
                Address::Tcp { .. } => host.to_string(),
            })
            .collect();
        let mode = if unix && self.hosts.len() == 1 {
            String::new()
        } else {
            format!("?sslmode={}", self.tls.mode.name())
        };
        format!(
            "postgres://{}@{}/{}{mode}",
            read::percent_encode(&self.user),
            hosts.join(","),
            read::percent_encode(&self.database),
        )
    }
}

impl fmt::Debug for ConnectConfig {
    /// As [`ConnectConfig::redacted`].
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "ConnectConfig({})", self.redacted())
    }
}

/// A refusal to read the configuration.
fn refused(what: impl Into<String>, context: impl fmt::Display) -> Diagnostic {
    Diagnostic::error(code::CONNECTION_STRING, what).at(context.to_string())
}

/// A path below the home directory's `.postgresql`.
fn default_file(environment: &Environment, name: &str) -> Option<PathBuf> {
    environment.home().map(|home| Path::new(&home).join(".postgresql").join(name))
}

#[cfg(test)]
mod tests;
