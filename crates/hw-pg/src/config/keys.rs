//! What each key of a connection string means.
//!
//! In: settings as written, the environment. Out: the configuration, or the first thing wrong
//! with it. A key that Headwater does not know is a warning; a key that would make the connection
//! safer than Headwater can make it is refused.

use super::environment::default_socket_directory;
use super::read::{Origin, Setting};
use super::{
    Address, ChannelBinding, ConnectConfig, Environment, Host, Keepalive, RequiredAuth,
    RootCertificates, SessionTarget, SslMode, SslNegotiation, TlsSettings, default_file, refused,
};
use crate::error::code;
use crate::passfile::PassFile;
use hw_types::Diagnostic;
use std::path::PathBuf;
use std::sync::Arc;
use std::time::Duration;

/// Keys that are honoured, each with its variable (empty: none).
const KEYS: &[(&str, &str)] = &[
    ("host", "PGHOST"),
    ("hostaddr", "PGHOSTADDR"),
    ("port", "PGPORT"),
    ("dbname", "PGDATABASE"),
    ("user", "PGUSER"),
    ("password", "PGPASSWORD"),
    ("passfile", "PGPASSFILE"),
    ("options", "PGOPTIONS"),
    ("application_name", "PGAPPNAME"),
    ("fallback_application_name", ""),
    ("connect_timeout", "PGCONNECT_TIMEOUT"),
    ("sslmode", "PGSSLMODE"),
    ("sslnegotiation", "PGSSLNEGOTIATION"),
    ("sslrootcert", "PGSSLROOTCERT"),
    ("sslcert", "PGSSLCERT"),
    ("sslkey", "PGSSLKEY"),
    ("sslsni", "PGSSLSNI"),
    ("ssl_min_protocol_version", "PGSSLMINPROTOCOLVERSION"),
    ("ssl_max_protocol_version", "PGSSLMAXPROTOCOLVERSION"),
    ("channel_binding", "PGCHANNELBINDING"),
    ("target_session_attrs", "PGTARGETSESSIONATTRS"),
    ("load_balance_hosts", "PGLOADBALANCEHOSTS"),
    ("gssencmode", "PGGSSENCMODE"),
    ("keepalives", ""),
    ("keepalives_idle", ""),
    ("keepalives_interval", ""),
    ("keepalives_count", ""),
    ("tcp_user_timeout", ""),
    ("service", "PGSERVICE"),
    ("sslcrl", "PGSSLCRL"),
    ("sslcrldir", "PGSSLCRLDIR"),
    ("requirepeer", "PGREQUIREPEER"),
    ("require_auth", "PGREQUIREAUTH"),
];

/// Keys of libpq that change nothing here: Headwater sets them itself, or they concern features
/// that are off.
const WITHOUT_EFFECT: &[&str] = &[
    "client_encoding",
    "replication",
    "sslcompression",
    "sslpassword",
    "sslcertmode",
    "krbsrvname",
    "gsslib",
    "gssdelegation",
    "servicefile",
    "min_protocol_version",
    "max_protocol_version",
];

/// When the system looks whether the other end is still there: a connection whose other end is
/// gone is noticed within half a minute. libpq leaves this to the system: two hours.
const KEEPALIVE_IDLE: Duration = Duration::from_secs(10);
const KEEPALIVE_INTERVAL: Duration = Duration::from_secs(5);
const KEEPALIVE_COUNT: u32 = 3;
const USER_TIMEOUT: Duration = Duration::from_secs(25);

struct Values<'a> {
    settings: Vec<Setting>,
    environment: &'a Environment,
}

impl Values<'_> {
    /// The last non-empty value written, else the variable.
    fn get(&self, key: &'static str) -> Option<(String, Origin)> {
        let written = self.settings.iter().rev().find(|setting| setting.key == key);
        if let Some(setting) = written.filter(|setting| !setting.value.is_empty()) {
            return Some((setting.value.clone(), setting.origin.clone()));
        }
        let variable = KEYS.iter().find(|(name, _)| *name == key).map_or("", |(_, name)| *name);
        self.environment.get(variable).map(|value| (value, Origin::Variable(variable)))
    }

    fn text(&self, key: &'static str) -> Option<String> {
        self.get(key).map(|(value, _)| value)
    }

    /// One of these words.
    fn word<T: Copy>(
        &self,
        key: &'static str,
        words: &[(&str, T)],
        default: T,
    ) -> Result<T, Diagnostic> {
        let Some((value, origin)) = self.get(key) else { return Ok(default) };
        words.iter().find(|(word, _)| *word == value).map(|(_, meaning)| *meaning).ok_or_else(
            || {
                let mut all: Vec<&str> = words.iter().map(|(word, _)| *word).collect();
                all.dedup();
                refused(format!("{key} has a value that it cannot have"), origin)
                    .mend(format!("use one of {}", all.join(", ")))
            },
        )
    }

    fn number(&self, key: &'static str) -> Result<Option<i64>, Diagnostic> {
        let Some((value, origin)) = self.get(key) else { return Ok(None) };
        match value.trim().parse() {
            Ok(number) => Ok(Some(number)),
            Err(_) => Err(refused(format!("{key} is not a whole number"), origin)),
        }
    }

    fn flag(&self, key: &'static str) -> Result<bool, Diagnostic> {
        Ok(self.number(key)?.is_none_or(|number| number != 0))
    }

    fn required_auth(&self) -> Result<Option<RequiredAuth>, Diagnostic> {
        let Some((value, origin)) = self.get("require_auth") else { return Ok(None) };
        RequiredAuth::parse(&value).map(Some).ok_or_else(|| {
            refused("require_auth has a value that it cannot have", origin).mend(
                "list what is allowed (scram-sha-256, md5, password, none), or what is not, each \
                 behind an exclamation mark",
            )
        })
    }

    fn seconds(&self, key: &'static str) -> Result<Option<Duration>, Diagnostic> {
        let positive = self.number(key)?.filter(|seconds| *seconds > 0);
        Ok(positive.map(|seconds| Duration::from_secs(seconds.unsigned_abs())))
    }
}

/// Makes a configuration of what was written.
pub(super) fn resolve(
    settings: Vec<Setting>,
    environment: &Environment,
) -> Result<(ConnectConfig, Vec<Diagnostic>), Diagnostic> {
    let mut warnings = Vec::new();
    for setting in &settings {
        warnings.extend(check_key(setting));
    }
    let values = Values { settings, environment };
    refuse_what_we_cannot_do(&values)?;

    let hosts = hosts(&values)?;
    let user = values.text("user").or_else(|| environment.user().map(str::to_owned));
    let Some(user) = user else {
        return Err(refused("no user is named and the system user has no name", Origin::Default)
            .mend("write user=… or set PGUSER"));
    };
    let database = values.text("dbname").unwrap_or_else(|| user.clone());
    let connect_timeout = match values.number("connect_timeout")? {
        None => Some(ConnectConfig::DEFAULT_CONNECT_TIMEOUT),
        // libpq: zero or negative waits for ever, and one second is rounded up to two.
        Some(seconds) if seconds <= 0 => None,
        Some(seconds) => Some(Duration::from_secs(seconds.max(2).unsigned_abs())),
    };
    let passfile = match values.text("passfile") {
        Some(path) => Some(PathBuf::from(path)),
        None => environment.home().map(|home| PathBuf::from(home).join(".pgpass")),
    };
    let password = values.text("password");
    let passfile = match (&password, passfile) {
        (None, Some(path)) => {
            let (file, warning) = PassFile::load(&path);
            warnings.extend(warning);
            file
        }
        _ => PassFile::default(),
    };
    let config = ConnectConfig {
        tls: tls(&values)?,
        hosts,
        user,
        database,
        password,
        passfile: Arc::new(passfile),
        options: values.text("options").unwrap_or_default(),
        application_name: values
            .text("application_name")
            .or_else(|| values.text("fallback_application_name"))
            .unwrap_or_else(|| String::from("headwater")),
        connect_timeout,
        channel_binding: values.word(
            "channel_binding",
            &[
                ("disable", ChannelBinding::Disable),
                ("prefer", ChannelBinding::Prefer),
                ("require", ChannelBinding::Require),
            ],
            ChannelBinding::Prefer,
        )?,
        target: values.word(
            "target_session_attrs",
            &[
                ("any", SessionTarget::Any),
                ("read-write", SessionTarget::ReadWrite),
                ("read-only", SessionTarget::ReadOnly),
                ("primary", SessionTarget::Primary),
                ("standby", SessionTarget::Standby),
                ("prefer-standby", SessionTarget::PreferStandby),
            ],
            SessionTarget::Any,
        )?,
        shuffle_hosts: values.word(
            "load_balance_hosts",
            &[("disable", false), ("random", true)],
            false,
        )?,
        keepalive: Keepalive {
            enabled: values.flag("keepalives")?,
            idle: values.seconds("keepalives_idle")?.or(Some(KEEPALIVE_IDLE)),
            interval: values.seconds("keepalives_interval")?.or(Some(KEEPALIVE_INTERVAL)),
            count: values
                .number("keepalives_count")?
                .and_then(|n| u32::try_from(n).ok())
                .or(Some(KEEPALIVE_COUNT)),
            user_timeout: match values.number("tcp_user_timeout")? {
                None => Some(USER_TIMEOUT),
                // libpq: the system's own limit, which is many minutes.
                Some(milliseconds) if milliseconds <= 0 => None,
                Some(milliseconds) => Some(Duration::from_millis(milliseconds.unsigned_abs())),
            },
        },
        own: true,
        answer_within: None,
        require_auth: values.required_auth()?,
    };
    Ok((config, warnings))
}

fn check_key(setting: &Setting) -> Option<Diagnostic> {
    let key = setting.key.as_str();
    if KEYS.iter().any(|(known, _)| *known == key) || WITHOUT_EFFECT.contains(&key) {
        return None;
    }
    if setting.key_may_be_secret {
        return Some(
            Diagnostic::warning(
                code::UNKNOWN_KEY,
                "an unknown key behind the password is ignored; is it a part of the password?",
            )
            .at(setting.origin.to_string())
            .mend("put a password with spaces in single quotes"),
        );
    }
    let finding = Diagnostic::warning(code::UNKNOWN_KEY, format!("unknown key {key:?} is ignored"))
        .at(setting.origin.to_string());
    Some(match nearest(key) {
        Some(known) => finding.mend(format!("did you mean {known:?}?")),
        None => finding,
    })
}

/// Refuses what would silently leave the connection less protected than it was meant to be, or
/// lead somewhere else.
fn refuse_what_we_cannot_do(values: &Values<'_>) -> Result<(), Diagnostic> {
    let refuse = |key: &str, origin: Origin, mend: &str| {
        let what = format!("{key} is not supported");
        Err(Diagnostic::error(code::NOT_SUPPORTED, what).at(origin.to_string()).mend(mend))
    };
    if let Some((_, origin)) = values.get("service") {
        return refuse("service", origin, "write the service's settings as a connection string");
    }
    for key in ["sslcrl", "sslcrldir"] {
        if let Some((_, origin)) = values.get(key) {
            return refuse(key, origin, "leave it out; revoked certificates are not checked");
        }
    }
    if let Some((_, origin)) = values.get("requirepeer") {
        return refuse("requirepeer", origin, "leave it out, or use sslmode=verify-full");
    }
    if let Some((value, origin)) = values.get("gssencmode")
        && value == "require"
    {
        return refuse("gssencmode=require", origin, "use sslmode=require");
    }
    Ok(())
}

fn hosts(values: &Values<'_>) -> Result<Vec<Host>, Diagnostic> {
    let list = |key| {
        let (value, origin) = values.get(key)?;
        let items: Vec<String> = value.split(',').map(|item| item.trim().to_owned()).collect();
        Some((items, origin))
    };
    let (names, addresses, ports) = (list("host"), list("hostaddr"), list("port"));
    let count = names.iter().chain(&addresses).map(|(items, _)| items.len()).max().unwrap_or(1);
    for (key, given) in [("host", &names), ("hostaddr", &addresses)] {
        if let Some((items, origin)) = given
            && items.len() != count
        {
            let what = format!("{} values of {key} do not fit {count} hosts", items.len());
            return Err(refused(what, origin));
        }
    }
    if let Some((items, origin)) = &ports
        && items.len() != 1
        && items.len() != count
    {
        let what = format!("{} ports do not fit {count} hosts", items.len());
        return Err(refused(what, origin));
    }
    let mut hosts = Vec::with_capacity(count);
    for index in 0..count {
        let port = match &ports {
            None => 5432,
            Some((items, origin)) => {
                let item = if items.len() == 1 { &items[0] } else { &items[index] };
                match (item.is_empty(), item.parse::<u16>()) {
                    (true, _) => 5432,
                    (false, Ok(port)) if port > 0 => port,
                    _ => return Err(refused("a port is not a number from 1 to 65535", origin)),
                }
            }
        };
        let name = names.as_ref().map(|(items, _)| items[index].clone()).unwrap_or_default();
        let address = match addresses.as_ref().map(|(items, origin)| (&items[index], origin)) {
            Some((item, origin)) if !item.is_empty() => match item.parse() {
                Ok(address) => Some(address),
                Err(_) => return Err(refused("hostaddr is not an IP address", origin)),
            },
            _ => None,
        };
        let address = if name.starts_with('@') {
            let (_, origin) = names.as_ref().expect("the name comes from the list of names");
            return Err(refused("a host that starts with \"@\" (an abstract socket)", origin)
                .mend("name the directory of the socket"));
        } else if name.starts_with('/') && address.is_none() {
            Address::Unix(PathBuf::from(name))
        } else if name.is_empty() && address.is_none() {
            Address::Unix(default_socket_directory().to_owned())
        } else {
            Address::Tcp { name, address }
        };
        hosts.push(Host { address, port });
    }
    Ok(hosts)
}

fn tls(values: &Values<'_>) -> Result<TlsSettings, Diagnostic> {
    let roots = match values.text("sslrootcert") {
        Some(word) if word == "system" => RootCertificates::System,
        Some(path) => RootCertificates::File(PathBuf::from(path)),
        None => default_file(values.environment, "root.crt")
            .map_or(RootCertificates::None, RootCertificates::Default),
    };
    let system = roots == RootCertificates::System;
    let default = if system { SslMode::VerifyFull } else { SslMode::Prefer };
    let mode = values.word(
        "sslmode",
        &[
            ("disable", SslMode::Disable),
            ("allow", SslMode::Prefer),
            ("prefer", SslMode::Prefer),
            ("require", SslMode::Require),
            ("verify-ca", SslMode::VerifyCa),
            ("verify-full", SslMode::VerifyFull),
        ],
        default,
    )?;
    let origin = |key| values.get(key).map_or(Origin::Default, |(_, origin)| origin);
    if system && mode != SslMode::VerifyFull {
        return Err(refused(
            format!("sslmode={} may not be used with sslrootcert=system", mode.name()),
            origin("sslmode"),
        )
        .mend("use sslmode=verify-full"));
    }
    let negotiation = values.word(
        "sslnegotiation",
        &[("postgres", SslNegotiation::Postgres), ("direct", SslNegotiation::Direct)],
        SslNegotiation::Postgres,
    )?;
    if negotiation == SslNegotiation::Direct && matches!(mode, SslMode::Disable | SslMode::Prefer) {
        return Err(refused(
            format!("sslmode={} may not be used with sslnegotiation=direct", mode.name()),
            origin("sslnegotiation"),
        )
        .mend("use sslmode=require or stronger"));
    }
    let versions = [("TLSv1", 1), ("TLSv1.1", 1), ("TLSv1.2", 2), ("TLSv1.3", 3)];
    if values.word("ssl_max_protocol_version", &versions, 3)? < 2 {
        return Err(Diagnostic::error(code::NOT_SUPPORTED, "TLS below 1.2 is not supported")
            .at(origin("ssl_max_protocol_version").to_string()));
    }
    let existing = |key, name| match values.text(key) {
        Some(path) => Some(PathBuf::from(path)),
        None => default_file(values.environment, name).filter(|path| path.exists()),
    };
    let certificate = existing("sslcert", "postgresql.crt");
    let key = existing("sslkey", "postgresql.key").filter(|_| certificate.is_some());
    Ok(TlsSettings {
        mode,
        negotiation,
        roots,
        certificate,
        key,
        send_name: values.flag("sslsni")?,
        only_tls13: values.word("ssl_min_protocol_version", &versions, 2)? == 3,
    })
}

/// The known key that differs least from this one, if it differs little.
fn nearest(key: &str) -> Option<&'static str> {
    let candidates = KEYS.iter().map(|(known, _)| *known);
    candidates
        .map(|known| (distance(key, known), known))
        .filter(|(distance, known)| *distance <= 2 && *distance < known.len() / 2)
        .min()
        .map(|(_, known)| known)
        // Spellings that are common elsewhere and far from libpq's.
        .or(match key {
            "database" | "db" => Some("dbname"),
            "username" => Some("user"),
            "hostname" => Some("host"),
            "search_path" | "schema" | "currentSchema" => Some("options"),
            "ApplicationName" => Some("application_name"),
            _ => None,
        })
}

/// Edits (insert, delete, replace, swap of neighbours) that make one word of the other.
fn distance(a: &str, b: &str) -> usize {
    let (a, b): (Vec<char>, Vec<char>) = (a.chars().collect(), b.chars().collect());
    let mut rows = vec![vec![0; b.len() + 1]; a.len() + 1];
    for i in 0..=a.len() {
        for j in 0..=b.len() {
            rows[i][j] = if i == 0 || j == 0 {
                i + j
            } else {
                let replaced = rows[i - 1][j - 1] + usize::from(a[i - 1] != b[j - 1]);
                let mut best = replaced.min(rows[i - 1][j] + 1).min(rows[i][j - 1] + 1);
                if i > 1 && j > 1 && a[i - 1] == b[j - 2] && a[i - 2] == b[j - 1] {
                    best = best.min(rows[i - 2][j - 2] + 1);
                }
                best
            };
        }
    }
    rows[a.len()][b.len()]
}
