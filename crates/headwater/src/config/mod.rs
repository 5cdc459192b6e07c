//! The configuration: one typed value made from flags, environment, file and defaults.
//!
//! In: a command line's options, the environment, and the file that `--config` or
//! `HEADWATER_CONFIG` names. Out: [`Config`], or every finding. Invariant: no part of it prints a
//! secret, and no message repeats a value of the file or a line of it: a line that is wrong may be
//! one that was to hold a secret. Suggested reading order: [`settings`] (what there is), [`parse`], [`mod@file`],
//! [`layers`], [`upload_tables`], [`datasync`], this file, [`environment`], [`mod@reference`].

pub mod datasync;
pub mod environment;
pub mod file;
pub mod layers;
pub mod parse;
pub mod reference;
pub mod secret;
pub mod settings;
pub mod suggest;
pub mod upload_tables;

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::time::Duration;

use hw_auth::AddressRange;
use hw_types::Diagnostic;

use crate::code;
use crate::files;
use layers::{Flags, Values};
use parse::Parsed;
use secret::Secret;
use upload_tables::UploadTable;

/// The variable that names the configuration file.
pub const CONFIG_VARIABLE: &str = "HEADWATER_CONFIG";

/// Everything that can be configured, with defaults filled in.
#[derive(Clone, Debug)]
pub struct Config {
    /// Name of this instance, part of the slot's name.
    pub instance: String,
    /// Address of the port for clients.
    pub listen: SocketAddr,
    /// Address of the port for administration, if it has one of its own.
    pub admin_listen: Option<SocketAddr>,
    /// Directory of the store and of what `dev` makes.
    pub data_dir: PathBuf,
    /// Token for the administration routes.
    pub api_token: Option<Secret>,
    /// The source.
    pub database: Database,
    /// Path of the sync configuration.
    pub sync_config: Option<PathBuf>,
    /// Whether policies are synced instead.
    pub sync_from_policies: bool,
    /// Who may connect.
    pub auth: Auth,
    /// Writes of clients.
    pub uploads: Uploads,
    /// Live queries.
    pub datasync: datasync::DataSync,
    /// Bounds.
    pub limits: Limits,
    /// The embedded store.
    pub store: StoreSizes,
    /// The server's log.
    pub log: Log,
    /// Whether a person said at this start that the server which used the slot last is gone. Not a
    /// setting: a file that says so for good would let two servers take it from each other.
    pub take_over: bool,
}

/// The source.
#[derive(Clone, Debug)]
pub struct Database {
    /// Connection string as libpq reads it.
    pub url: Option<Secret>,
    /// Most SQL connections.
    pub pool: usize,
    /// Name of the publication.
    pub publication: String,
}

/// Who may connect.
#[derive(Clone, Debug)]
pub struct Auth {
    /// Shared secret, raw text or `base64:…`.
    pub jwt_secret: Option<Secret>,
    /// Addresses of key sets.
    pub jwks_url: Vec<String>,
    /// Addresses that key sets are not fetched from.
    pub jwks_reject_ip_ranges: Vec<AddressRange>,
    /// A key set as JSON text; it may hold shared secrets.
    pub jwks: Option<Secret>,
    /// Accepted audiences.
    pub audience: Vec<String>,
    /// Longest life of a token.
    pub max_lifetime: Duration,
    /// Database roles that a token may choose.
    pub allowed_roles: Vec<String>,
}

impl Auth {
    /// Whether any token could be accepted at all.
    pub fn accepts_tokens(&self) -> bool {
        self.jwt_secret.is_some() || !self.jwks_url.is_empty() || self.jwks.is_some()
    }
}

/// Writes of clients.
#[derive(Clone, Debug)]
pub struct Uploads {
    /// Role that writes when a token chooses none.
    pub role: Option<String>,
    /// Rules by output table.
    pub tables: BTreeMap<String, UploadTable>,
    /// Largest body of one request, bytes.
    pub max_body_bytes: u64,
    /// How long a transaction may take.
    pub transaction_time: Duration,
}

/// Bounds. Sizes in bytes.
#[derive(Clone, Debug)]
pub struct Limits {
    /// Most connections at a time.
    pub max_clients: usize,
    /// Most streams of one user.
    pub streams_per_user: usize,
    /// How long a client may take nothing of what waits for it.
    pub reader_patience: Duration,
    /// Memory of the bodies of requests.
    pub body_memory: u64,
    /// Bytes of answers of live queries on their way to sockets.
    pub answer_memory: u64,
    /// Bytes of live results.
    pub live_memory: u64,
    /// Most buckets of one client.
    pub buckets_per_client: usize,
    /// Most rows of all parameter queries of one client.
    pub parameter_results: usize,
    /// Memory of data lines for clients.
    pub page_memory: u64,
    /// Memory of one transaction while it is folded.
    pub transaction_memory: u64,
    /// Memory of one sort.
    pub sort_memory: u64,
    /// Memory of transactions that wait to be applied.
    pub queue_memory: u64,
    /// Memory of what the last transactions changed, for live queries.
    pub change_memory: u64,
    /// Most bytes of spools on disk.
    pub spool_bytes: u64,
    /// Most log that the slot may make the source keep.
    pub retained_log: u64,
    /// How long a copy may hold a snapshot before the alarm.
    pub copy_snapshot: Duration,
    /// Tables copied at the same time.
    pub copy_workers: usize,
    /// How long a definition that left is kept up to date.
    pub definition_retention: Duration,
}

/// Sizes of the embedded store, bytes.
#[derive(Clone, Debug)]
pub struct StoreSizes {
    /// Memory for blocks read.
    pub cache: u64,
    /// Journal on disk.
    pub journal: u64,
    /// Memory of writes not in tables yet.
    pub memtable: u64,
}

/// The server's log.
#[derive(Clone, Debug)]
pub struct Log {
    /// `auto`, `text` or `json`.
    pub format: String,
    /// Filter, as `tracing` reads it.
    pub level: String,
}

/// Where configurations come from.
pub struct Sources<'a> {
    /// The file that `--config` names.
    pub file: Option<PathBuf>,
    /// What the command line sets.
    pub flags: Flags,
    /// How a variable is looked up.
    pub environment: &'a dyn Fn(&str) -> Option<String>,
}

/// What was wrong.
#[derive(Debug)]
pub struct Refused {
    /// All findings.
    pub findings: Vec<Diagnostic>,
    /// `log.format` as far as it could be read: the form in which a server tells them.
    pub log_format: String,
}

/// Looks up a variable of this process. One that is not Unicode counts as not set.
pub fn process_environment(name: &str) -> Option<String> {
    std::env::var(name).ok()
}

/// Loads the configuration.
///
/// - Errors: HW1001 for a file that cannot be read, and those of [`file::parse`],
///   [`layers::merge`] and HW1006 for structured values.
pub fn load(sources: &Sources<'_>) -> Result<Config, Refused> {
    let named = sources.file.clone().or_else(|| {
        (sources.environment)(CONFIG_VARIABLE).filter(|path| !path.is_empty()).map(PathBuf::from)
    });
    let refused = |findings, node: Option<&file::Node>| Refused {
        findings,
        log_format: layers::log_format(&sources.flags, sources.environment, node),
    };
    let node = match &named {
        None => None,
        Some(path) => {
            let text = std::fs::read_to_string(path).map_err(|error| {
                let another = "name an existing file with --config or HEADWATER_CONFIG";
                let what = "the configuration";
                let finding = files::unreadable(code::CONFIG_FILE, what, path, &error, another);
                refused(vec![finding], None)
            })?;
            let name = path.to_string_lossy();
            let node = file::parse(&text, &name, sources.environment);
            Some(node.map_err(|findings| refused(findings, None))?)
        }
    };
    layers::merge(&sources.flags, sources.environment, node.as_ref())
        .and_then(|values| Reader { values }.config().map_err(|finding| vec![*finding]))
        .map_err(|findings| refused(findings, node.as_ref()))
}

/// Reads typed values out of the merged ones. Every setting is taken out once.
struct Reader {
    values: Values,
}

impl Reader {
    fn config(mut self) -> Result<Config, Box<Diagnostic>> {
        let config = Config {
            instance: self.required_text("instance"),
            take_over: false,
            listen: self.address("listen").expect("invariant: listen has a default"),
            admin_listen: self.address("admin_listen"),
            data_dir: self.required_text("data_dir").into(),
            api_token: self.secret("api_token"),
            database: Database {
                url: self.secret("database.url"),
                pool: self.count("database.pool"),
                publication: self.required_text("database.publication"),
            },
            sync_config: self.text("sync.config").map(PathBuf::from),
            sync_from_policies: self.text("sync.from").is_some(),
            auth: Auth {
                jwt_secret: self.secret("auth.jwt_secret"),
                jwks_url: self.list("auth.jwks_url"),
                jwks_reject_ip_ranges: self.ranges("auth.jwks_reject_ip_ranges"),
                jwks: self.secret("auth.jwks"),
                audience: self.list("auth.audience"),
                max_lifetime: self.duration("auth.max_lifetime"),
                allowed_roles: self.list("auth.allowed_roles"),
            },
            uploads: Uploads {
                role: self.text("uploads.role"),
                tables: self.upload_tables()?,
                max_body_bytes: self.number("uploads.max_body"),
                transaction_time: self.duration("uploads.transaction_time"),
            },
            datasync: datasync::DataSync::read(&mut self),
            limits: Limits {
                max_clients: self.count("limits.max_clients"),
                streams_per_user: self.count("limits.streams_per_user"),
                reader_patience: self.duration("limits.reader_patience"),
                body_memory: self.number("limits.body_memory"),
                answer_memory: self.number("limits.answer_memory"),
                live_memory: self.number("limits.live_memory"),
                buckets_per_client: self.count("limits.buckets_per_client"),
                parameter_results: self.count("limits.parameter_results"),
                page_memory: self.number("limits.page_memory"),
                transaction_memory: self.number("limits.transaction_memory"),
                sort_memory: self.number("limits.sort_memory"),
                queue_memory: self.number("limits.queue_memory"),
                change_memory: self.number("limits.change_memory"),
                spool_bytes: self.number("limits.spool_bytes"),
                retained_log: self.number("limits.retained_log"),
                copy_snapshot: self.duration("limits.copy_snapshot"),
                copy_workers: self.count("limits.copy_workers"),
                definition_retention: self.duration("limits.definition_retention"),
            },
            store: StoreSizes {
                cache: self.number("store.cache"),
                journal: self.number("store.journal"),
                memtable: self.number("store.memtable"),
            },
            log: Log {
                format: self.required_text("log.format"),
                level: self.required_text("log.level"),
            },
        };
        debug_assert!(self.values.is_empty(), "settings that nothing reads: {:?}", self.values);
        Ok(config)
    }

    fn text(&mut self, path: &str) -> Option<String> {
        match self.values.remove(path) {
            Some(Parsed::Text(text)) => Some(text),
            _ => None,
        }
    }

    fn required_text(&mut self, path: &str) -> String {
        self.text(path).expect("invariant: this setting has a default")
    }

    fn secret(&mut self, path: &str) -> Option<Secret> {
        match self.values.remove(path) {
            Some(Parsed::Secret(secret)) => Some(secret),
            _ => None,
        }
    }

    fn address(&mut self, path: &str) -> Option<SocketAddr> {
        match self.values.remove(path) {
            Some(Parsed::Address(address)) => Some(address),
            _ => None,
        }
    }

    fn switch(&mut self, path: &str) -> bool {
        match self.values.remove(path) {
            Some(Parsed::Switch(on)) => on,
            _ => unreachable!("invariant: {path} is a switch with a default"),
        }
    }

    fn number(&mut self, path: &str) -> u64 {
        match self.values.remove(path) {
            Some(Parsed::Number(number)) => number,
            _ => unreachable!("invariant: {path} is a number with a default"),
        }
    }

    fn count(&mut self, path: &str) -> usize {
        usize::try_from(self.number(path)).expect("invariant: counts are bounded by the table")
    }

    fn duration(&mut self, path: &str) -> Duration {
        match self.values.remove(path) {
            Some(Parsed::Duration(duration)) => duration,
            _ => unreachable!("invariant: {path} is a length of time with a default"),
        }
    }

    fn list(&mut self, path: &str) -> Vec<String> {
        match self.values.remove(path) {
            Some(Parsed::List(list)) => list,
            _ => Vec::new(),
        }
    }

    fn ranges(&mut self, path: &str) -> Vec<AddressRange> {
        match self.values.remove(path) {
            Some(Parsed::AddressRanges(ranges)) => ranges,
            _ => Vec::new(),
        }
    }

    fn json(&mut self, path: &str) -> Option<serde_json::Value> {
        match self.values.remove(path) {
            Some(Parsed::Json(value)) => Some(value),
            _ => None,
        }
    }

    fn upload_tables(&mut self) -> Result<BTreeMap<String, UploadTable>, Box<Diagnostic>> {
        let Some(tables) = self.json("uploads.tables") else { return Ok(BTreeMap::new()) };
        // The file is refused with the line; from elsewhere it is one text.
        serde_json::from_value(tables).map_err(|_| Box::new(upload_tables::bad("uploads.tables")))
    }
}

impl Config {
    /// The connection string, or the finding that there is none.
    pub fn database_url(&self) -> Result<&str, Box<Diagnostic>> {
        self.database.url.as_ref().map(|url| url.expose()).ok_or_else(|| {
            Box::new(
                Diagnostic::error(code::NO_DATABASE, "no database is configured")
                    .mend("set DATABASE_URL, or database.url in the file, or give --database-url"),
            )
        })
    }

    /// Directory of the store.
    pub fn store_dir(&self) -> PathBuf {
        self.data_dir.join("store")
    }

    /// File of the secret that `dev` writes and `token` reads.
    pub fn dev_secret_file(&self) -> PathBuf {
        dev_secret_file(&self.data_dir)
    }

    /// Every secret that is configured, for the log's last line of defence.
    pub fn secrets(&self) -> Vec<Secret> {
        let plain = [
            &self.api_token,
            &self.database.url,
            &self.auth.jwt_secret,
            &self.datasync.hook_secret,
        ];
        let addresses = self.auth.jwks_url.iter().map(Secret::new);
        plain
            .into_iter()
            .flatten()
            .cloned()
            .chain(addresses)
            .chain(self.keys_of_the_set())
            .collect()
    }

    /// The shared secrets inside of `auth.jwks`.
    fn keys_of_the_set(&self) -> Vec<Secret> {
        let set = self.auth.jwks.as_ref().map(|set| serde_json::from_str(set.expose()));
        let Some(Ok(serde_json::Value::Object(mut set))) = set else { return Vec::new() };
        let keys = set.remove("keys").and_then(|keys| keys.as_array().cloned()).unwrap_or_default();
        keys.iter().filter_map(|key| key.get("k")?.as_str()).map(Secret::new).collect()
    }
}

/// File of the secret that `dev` writes and `token` reads, in a data directory.
pub fn dev_secret_file(data_dir: &Path) -> PathBuf {
    data_dir.join("dev-secret")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn load_with(
        file: Option<&str>,
        environment: &[(&str, &str)],
        flags: &[(&'static str, &str)],
    ) -> Result<Config, Refused> {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path().join("headwater.yaml");
        let file = file.map(|text| {
            std::fs::write(&path, text).expect("written");
            path.clone()
        });
        load(&Sources {
            file,
            flags: flags.iter().map(|(path, text)| (*path, (*text).to_owned())).collect(),
            environment: &|name| {
                environment
                    .iter()
                    .find(|(known, _)| *known == name)
                    .map(|(_, value)| (*value).to_owned())
            },
        })
    }

    fn messages(result: Result<Config, Refused>) -> Vec<String> {
        let refused = result.expect_err("refused");
        refused
            .findings
            .iter()
            .map(|finding| {
                let mut finding = finding.clone();
                if let Some(span) = &mut finding.span {
                    span.file = "headwater.yaml".to_owned();
                }
                finding.to_string()
            })
            .collect()
    }

    #[test]
    fn the_database_url_alone_is_enough() {
        let config = load_with(None, &[("DATABASE_URL", "postgres://db/shop")], &[]).expect("ok");
        assert_eq!(config.database.url.expect("set").expose(), "postgres://db/shop");
        assert_eq!(config.listen.to_string(), "127.0.0.1:8080");
        assert_eq!(config.limits.max_clients, 20_000);
        assert_eq!(config.limits.copy_snapshot, Duration::from_secs(1800));
        assert_eq!(config.auth.max_lifetime, Duration::from_secs(86_400));
    }

    #[test]
    fn flags_win_over_the_environment_which_wins_over_the_file() {
        let file = Some("listen: 127.0.0.1:1\nadmin_listen: 127.0.0.1:2\ninstance: a\n");
        let environment = [("HEADWATER_LISTEN", "127.0.0.1:3"), ("HEADWATER_ADMIN_LISTEN", "")];
        let config = load_with(file, &environment, &[]).expect("ok");
        assert_eq!(config.listen.port(), 3);
        assert_eq!(config.admin_listen.expect("an empty variable sets nothing").port(), 2);
        let config = load_with(file, &environment, &[("listen", "127.0.0.1:4")]).expect("ok");
        assert_eq!(config.listen.port(), 4);
        assert_eq!(config.instance, "a");
    }

    /// FD-57 and the table of section 9: what is wrong is found by its line.
    #[test]
    fn a_wrong_entry_of_the_upload_tables_is_refused_at_its_place() {
        let file = "uploads:\n  tables:\n    a: {table: public.t}\n    b:\n      table: public.u\n      \
                    conflict: merge\n    c: {tabel: x}\n    d: x\n";
        let mend = "\n  mend:  each output table has a mapping of table, columns, key, separator and \
                    conflict (last_write_wins or reject)";
        let expected = [("b", "6:7"), ("c", "7:9"), ("d", "8:5")].map(|(table, place)| {
            format!(
                "error[HW1006]: table \"{table}\" of uploads.tables is not valid\n  \
                 where: headwater.yaml:{place}{mend}"
            )
        });
        assert_eq!(messages(load_with(Some(file), &[], &[])), expected);
    }

    #[test]
    fn an_unknown_key_is_refused_with_a_suggestion_and_its_place() {
        let file = "lisen: 127.0.0.1:1\ndatabase:\n  ulr: x\n  retained_log: 1 GB\nfoo: 1\n";
        assert_eq!(
            messages(load_with(Some(file), &[], &[])),
            [
                "error[HW1005]: unknown key \"lisen\"\n  where: headwater.yaml:1:1\n  \
                 mend:  did you mean \"listen\"?",
                "error[HW1005]: section database has no key \"ulr\"\n  \
                 where: headwater.yaml:3:3\n  mend:  did you mean \"url\"?",
                "error[HW1005]: section database has no key \"retained_log\"\n  \
                 where: headwater.yaml:4:3\n  mend:  did you mean limits.retained_log?",
                "error[HW1005]: unknown key \"foo\"\n  where: headwater.yaml:5:1\n  \
                 mend:  known here: instance, listen, admin_listen, data_dir, api_token, \
                 database, sync, auth, uploads, datasync, limits, store, log",
            ]
        );
    }

    #[test]
    fn a_value_that_is_not_valid_names_its_source() {
        assert_eq!(
            messages(load_with(
                Some("limits:\n  max_clients: 0\n"),
                &[("HEADWATER_LISTEN", "8080")],
                &[("admin_listen", "nowhere")]
            )),
            [
                "error[HW1006]: limits.max_clients is not valid: expected a whole number from 1 \
                 to 1000000\n  where: headwater.yaml:2:16",
                "error[HW1006]: listen is not valid: expected an address with a port, such as \
                 127.0.0.1:8080\n  where: environment variable HEADWATER_LISTEN",
                "error[HW1006]: admin_listen is not valid: expected an address with a port, \
                 such as 127.0.0.1:8080\n  where: option --admin-listen",
            ]
        );
    }

    #[test]
    fn no_form_of_a_configuration_shows_a_secret() {
        let config = load_with(
            Some("auth:\n  jwt_secret: !env MY_SECRET\napi_token: token-7f3a\n"),
            &[("MY_SECRET", "jwt-91c2"), ("DATABASE_URL", "postgres://u:pw-55e1@db/shop")],
            &[],
        )
        .expect("ok");
        let set = "auth: {jwks: {keys: [{kty: oct, k: key-3b7d}]}}\n";
        let with_set = load_with(Some(set), &[], &[]).expect("ok");
        let shown = format!("{config:?} {config:#?} {with_set:?}");
        for secret in ["jwt-91c2", "token-7f3a", "pw-55e1", "key-3b7d"] {
            assert!(!shown.contains(secret), "{secret} in {shown}");
        }
        assert_eq!(config.secrets().len(), 3);
        assert_eq!(with_set.secrets(), [Secret::new("key-3b7d")]);
    }

    /// What a file says wrongly may be a secret, so nothing of what it says is repeated.
    #[test]
    fn fd_46_no_error_of_a_configuration_repeats_a_value() {
        for file in [
            "database: postgres://u:HUSH@h/d\n",
            "database:\n  url: {HUSH: x}\n",
            "jwt_secrett: HUSH\n",
            "auth: {jwt_secrett: HUSH}\n",
            "auth: {jwt_secret:HUSH}\n",
            "auth:\n  jwt_secret:HUSH\n",
            "auth:\n  jwt_secret: HUSH\n  jwt_secret: HUSH\n",
            "auth:\n  jwt_secret: HUSH\n   audience: a\n",
            "auth:\n  jwt_secret: 'HUSH\n",
            "auth:\n  jwt_secret: \"HUSH\\q\"\n",
            "auth:\n  jwt_secret: [HUSH\n",
            "auth:\n  jwt_secret: [HUSH]\n",
            "auth:\n\tjwt_secret: HUSH\n",
            "auth:\n  jwt_secret: !env postgres://HUSH\n",
            "auth:\n  jwt_secret: !env HUSH-HUSH\n",
            "auth:\n  jwt_secret: !HUSH x\n",
            "auth:\n  jwt_secret: *HUSH\n",
            "auth:\n  jwks: HUSH\n",
            "auth:\n  jwks_reject_ip_ranges: HUSH\n",
            "auth:\n  max_lifetime: HUSH\n",
            "api_token: {a: HUSH}\n",
            "listen: HUSH\n",
            "instance: HUSH!\n",
            "limits: {max_clients: HUSH}\n",
            "log: {format: HUSH}\n",
            "uploads: {tables: HUSH}\n",
            "uploads: {tables: {a: {conflict: HUSH}}}\n",
            "uploads: {tables: {a: {columns: {a: [HUSH]}}}}\n",
            "DATABASE_URL=postgres://u:HUSH@h/d\n",
            "HUSH\n",
            "- HUSH\n",
            "a: 1\n---\nb: HUSH\n",
        ] {
            for message in messages(load_with(Some(file), &[], &[])) {
                assert!(!message.contains("HUSH"), "{file}: {message}");
                assert!(message.starts_with("error[HW10"), "{file}: {message}");
            }
        }
        for (variable, value) in [("HEADWATER_LISTEN", "HUSH"), ("HEADWATER_LOG_FORMAT", "HUSH")] {
            for message in messages(load_with(None, &[(variable, value)], &[])) {
                assert!(!message.contains("HUSH") && message.contains(variable), "{message}");
            }
        }
    }

    #[test]
    fn the_form_of_the_log_is_known_even_where_the_rest_is_refused() {
        let format = |file: &str, environment: &[(&str, &str)]| {
            load_with(Some(file), environment, &[]).expect_err("refused").log_format
        };
        assert_eq!(format("log: {format: json}\nlisen: x\n", &[]), "json");
        assert_eq!(format("log: {format: json\n", &[("HEADWATER_LOG_FORMAT", "text")]), "text");
        assert_eq!(format("log: {format: loud}\n", &[]), "auto");
    }

    #[test]
    fn paths_in_the_file_are_relative_to_the_file() {
        let config = load_with(Some("sync: { config: sync.yaml }\n"), &[], &[]).expect("ok");
        let path = config.sync_config.expect("set");
        assert!(path.is_absolute() && path.ends_with("sync.yaml"), "{path:?}");
        let environment = [("HEADWATER_SYNC_CONFIG", "sync.yaml")];
        let config = load_with(None, &environment, &[]).expect("ok");
        assert_eq!(config.sync_config, Some(PathBuf::from("sync.yaml")));
    }

    #[test]
    fn structured_settings_are_read_whole() {
        let file = "auth:\n  jwks:\n    keys: [{kty: oct, k: AA, kid: '1'}]\n  jwks_url: http://a/b\n\
                    uploads:\n  tables:\n    mine:\n      table: public.todos\n      \
                    columns: {what: description}\n      conflict: reject\n";
        let config = load_with(Some(file), &[], &[]).expect("ok");
        assert_eq!(config.auth.jwks_url, ["http://a/b"]);
        assert_eq!(
            config.auth.jwks.expect("set").expose(),
            r#"{"keys":[{"k":"AA","kid":"1","kty":"oct"}]}"#
        );
        let table = &config.uploads.tables["mine"];
        assert_eq!(table.table.as_deref(), Some("public.todos"));
        assert_eq!(table.columns["what"], "description");
        assert_eq!(table.conflict, upload_tables::Conflict::Reject);
        assert_eq!(
            messages(load_with(Some("uploads: {tables: {a: {tabel: x}}}\n"), &[], &[])).len(),
            1
        );
    }
}
