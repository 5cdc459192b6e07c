//! Every setting there is: one table from which the loader, the JSON schema and the reference
//! page are made.
//!
//! A setting that is not in [`SETTINGS`] does not exist; a setting that is there is read by
//! [`super::Config`], which a test proves.

use super::parse::Kind;

/// One setting.
#[derive(Clone, Copy, Debug)]
pub struct Setting {
    /// Its place in the file, sections separated by dots: `auth.jwt_secret`.
    pub path: &'static str,
    /// Its type.
    pub kind: Kind,
    /// The environment variable that sets it, if there is one.
    pub env: Option<&'static str>,
    /// The command-line option that sets it, if there is one.
    pub flag: Option<&'static str>,
    /// Its value when nothing sets it, as it would be written in the file.
    pub default: Option<&'static str>,
    /// What it does. Whole sentences.
    pub about: &'static str,
    /// A value as it could stand in the file.
    pub example: &'static str,
}

const fn setting(
    path: &'static str,
    kind: Kind,
    about: &'static str,
    example: &'static str,
) -> Setting {
    Setting { path, kind, env: None, flag: None, default: None, about, example }
}

impl Setting {
    const fn env(mut self, name: &'static str) -> Setting {
        self.env = Some(name);
        self
    }

    const fn flag(mut self, name: &'static str) -> Setting {
        self.flag = Some(name);
        self
    }

    const fn default(mut self, value: &'static str) -> Setting {
        self.default = Some(value);
        self
    }
}

/// The sections of the file with what they are about, in the order of the reference page.
pub const SECTIONS: &[(&str, &str)] = &[
    ("database", "The Postgres database that is the source."),
    ("sync", "What is synced to whom."),
    ("auth", "Who may connect. One of `jwt_secret`, `jwks_url` and `jwks` is needed to serve."),
    ("uploads", "Writes of clients through `POST /api/v1/upload`."),
    (
        "datasync",
        "Live queries over `/DataSyncController`, and tables over `/api/…`: see [live-queries.md](live-queries.md).",
    ),
    ("limits", "Bounds of memory, disk and work. Nothing in the server grows without one."),
    ("store", "The embedded store."),
    ("log", "The server's own log, written to standard error."),
];

/// All settings, in the order of the reference page.
pub const SETTINGS: &[Setting] = &[
    setting(
        "instance",
        Kind::Name,
        "Name of this instance. Two servers on one database need different names, because the \
         name is part of the slot's name.",
        "staging",
    )
    .default("default"),
    setting(
        "listen",
        Kind::Address,
        "Address of the one port that serves clients.",
        "0.0.0.0:8080",
    )
    .env("HEADWATER_LISTEN")
    .flag("--listen")
    .default("127.0.0.1:8080"),
    setting(
        "admin_listen",
        Kind::Address,
        "Moves `/admin/api/…` and `/metrics` to an address of their own, where `/probes/…` \
         answers, too. Unset: they are on the one port, for who has the `api_token`.",
        "127.0.0.1:9090",
    )
    .env("HEADWATER_ADMIN_LISTEN")
    .flag("--admin-listen"),
    setting(
        "data_dir",
        Kind::Path,
        "Directory of the store and of what `dev` makes. It is created if missing.",
        "/var/lib/headwater",
    )
    .env("HEADWATER_DATA_DIR")
    .flag("--data-dir")
    .default(".headwater"),
    setting(
        "api_token",
        Kind::Secret,
        "Token for `/admin/api/…`, `/metrics` and `headwater status`, sent as `Authorization: \
         Bearer …`. Unset: these are not served on the port of the clients, and on `admin_listen` \
         `/admin/api/…` answers only to the same machine.",
        "!env HEADWATER_API_TOKEN",
    )
    .env("HEADWATER_API_TOKEN")
    .flag("--api-token"),
    setting(
        "database.url",
        Kind::Secret,
        "Connection string of the source, as libpq reads it: a URL or keywords and values. \
         `PG*` variables and `.pgpass` are honoured.",
        "!env DATABASE_URL",
    )
    .env("DATABASE_URL")
    .flag("--database-url"),
    setting(
        "database.pool",
        Kind::Integer(2, 200),
        "Most SQL connections held for writes, the catalog and markers. The replication \
         connection, the copies, results of live queries (8) and open transactions \
         (`datasync.all_transactions`) have their own.",
        "16",
    )
    .default("8"),
    setting(
        "database.publication",
        Kind::Name,
        "Name of the publication. It is created when it is missing and may be created.",
        "headwater",
    )
    .default("headwater"),
    setting("sync.config", Kind::Path, "Path of the sync configuration.", "sync.yaml")
        .env("HEADWATER_SYNC_CONFIG")
        .flag("--sync-config"),
    setting(
        "sync.from",
        Kind::Choice(&["policies"]),
        "`policies`: instead of a sync configuration, every table with row level security is synced to \
         whom its policies show it, as the role of `uploads.role`: see [policies.md](policies.md).",
        "policies",
    )
    .env("HEADWATER_SYNC_FROM")
    .flag("--sync-from"),
    setting(
        "auth.jwt_secret",
        Kind::Secret,
        "Secret for HS256, HS384 and HS512 tokens: raw text, or `base64:` and the key in \
         base64. It accepts tokens with any `kid` or none.",
        "!env HEADWATER_JWT_SECRET",
    )
    .env("HEADWATER_JWT_SECRET"),
    setting(
        "auth.jwks_url",
        Kind::List,
        "Where key sets are fetched, http or https: one address or a list.",
        "https://auth.example.com/.well-known/jwks.json",
    )
    .env("HEADWATER_JWKS_URL"),
    setting(
        "auth.jwks_reject_ip_ranges",
        Kind::AddressRanges,
        "Addresses that key sets are not fetched from, whatever name or redirect leads there: \
         ranges, or `local` for all that are not public. No proxy is used then, because it would \
         resolve the names. Unset: only redirects from a public address to one that is not are \
         refused.",
        "local",
    ),
    setting("auth.jwks", Kind::Jwks, "A key set in the file itself.", "{ keys: [ … ] }"),
    setting(
        "auth.audience",
        Kind::List,
        "Accepted values of a token's `aud`. It may be unset for a `jwt_secret` only; key sets \
         need it.",
        "[\"headwater\"]",
    )
    .env("HEADWATER_JWT_AUDIENCE"),
    setting(
        "auth.max_lifetime",
        Kind::Duration,
        "Longest life of a token, from `iat` to `exp`. An `iat` in the future is refused.",
        "1 h",
    )
    .default("24 h"),
    setting(
        "auth.allowed_roles",
        Kind::List,
        "Database roles that a token's `role` claim may choose for writes. A write with any \
         other claim is refused (HW4303), unless it names the role that writes anyway: that of \
         `uploads.role`, or `authenticated` while `uploads.role` is unset.",
        "[\"authenticated\", \"editor\"]",
    ),
    setting(
        "uploads.role",
        Kind::Text,
        "Database role that writes when a token chooses none. Unset: `authenticated` where it \
         exists, else `headwater_authenticated`, which `headwater setup` creates.",
        "authenticated",
    ),
    setting(
        "uploads.tables",
        Kind::UploadTables,
        "Where the tables that clients know are written, for those that the sync configuration \
         does not simply rename: `table`, `columns`, `key` and `separator` of an id of several \
         columns, `conflict` (`last_write_wins` or `reject`).",
        "{ my_tasks: { table: public.tasks, columns: { title: name }, conflict: reject } }",
    ),
    setting(
        "uploads.max_body",
        Kind::Bytes(1 << 16),
        "Largest body of one upload request.",
        "4 MB",
    )
    .default("16 MB"),
    setting(
        "uploads.transaction_time",
        Kind::Duration,
        "How long one transaction of an upload may take, all its operations together. One that takes longer is \
         `retry` with HW5312.",
        "10 min",
    )
    .default("60 s"),
    setting(
        "datasync.enabled",
        Kind::Switch,
        "Whether live queries and `/api/…` are served. `headwater dev` serves them.",
        "true",
    )
    .env("HEADWATER_DATASYNC")
    .default("false"),
    setting(
        "datasync.role",
        Kind::Text,
        "Database role of users whose token chooses none. Unset: the first of `ihp_authenticated`, \
         `authenticated` and `headwater_authenticated` that exists. A superuser and a role with \
         BYPASSRLS are refused (HW4301), a table that belongs to the role without FORCE ROW LEVEL \
         SECURITY, too (HW4302).",
        "authenticated",
    )
    .env("HEADWATER_DB_ROLE"),
    setting("datasync.schema", Kind::Text, "Schema of the tables that clients name.", "api")
        .default("public"),
    setting(
        "datasync.anonymous",
        Kind::Switch,
        "Whether those who show no token are let in; policies see an empty `sub`.",
        "true",
    )
    .default("false"),
    setting(
        "datasync.anonymous_role",
        Kind::Text,
        "Database role of those who show no token. Unset: that of everybody else.",
        "anon",
    ),
    setting(
        "datasync.naming",
        Kind::Choice(&["camel", "identity"]),
        "How columns are called: `camel` makes `created_at` `createdAt`, `identity` leaves names \
         as they are.",
        "identity",
    )
    .default("camel"),
    setting(
        "datasync.table_naming",
        Kind::Choices(&["camel", "identity"]),
        "The same for tables that are to have another way, by their names.",
        "{ audit_log: identity }",
    ),
    setting(
        "datasync.bigint",
        Kind::Choice(&["number", "string"]),
        "What values of `bigint` and `numeric` columns are in JSON. JavaScript rounds numbers above \
         2^53.",
        "string",
    )
    .default("number"),
    setting(
        "datasync.subscriptions",
        Kind::Integer(1, 10_000),
        "Most subscriptions of one socket.",
        "500",
    )
    .default("128"),
    setting(
        "datasync.transactions",
        Kind::Integer(1, 1_000),
        "Most open transactions of one socket.",
        "4",
    )
    .default("10"),
    setting(
        "datasync.all_transactions",
        Kind::Integer(1, 1_000),
        "Most open transactions of all sockets; one user has a quarter of them at most. Each holds a \
         connection to the database, made when it is needed.",
        "40",
    )
    .default("100"),
    setting(
        "datasync.transaction_idle",
        Kind::Duration,
        "How long an open transaction may be without a statement before it is rolled back.",
        "10 s",
    )
    .default("30 s"),
    setting(
        "datasync.transaction_time",
        Kind::Duration,
        "How long a transaction may be open.",
        "30 s",
    )
    .default("60 s"),
    setting(
        "datasync.statement_timeout",
        Kind::Duration,
        "How long one query or write may take.",
        "10 s",
    )
    .default("30 s"),
    setting(
        "datasync.max_message",
        Kind::Bytes(1 << 12),
        "Largest message of a client, or body of a request. A larger message closes its socket (1009).",
        "4 MB",
    )
    .default("1 MB"),
    setting(
        "datasync.max_result",
        Kind::Bytes(1 << 16),
        "Largest result of a query (HW5309).",
        "64 MB",
    )
    .default("16 MB"),
    setting(
        "datasync.table_wait",
        Kind::Duration,
        "How long a subscription waits for a table that is not replicated yet to be copied (HW5415), and how \
         long one goes on, asked each second, when changes of its table cannot be followed any more (HW5416).",
        "2 min",
    )
    .default("30 s"),
    setting(
        "datasync.resume",
        Kind::Duration,
        "How long the subscriptions of a socket that has ended wait for its client, which then goes on \
         with what it missed instead of reading all anew. Of one user as many wait as one socket may have. \
         `0 s`: none.",
        "5 min",
    )
    .default("60 s"),
    setting(
        "datasync.cookie",
        Kind::Text,
        "Name of a cookie that holds a token, for pages that have it in no other place. It counts for \
         the pages of `origins` only.",
        "session",
    ),
    setting(
        "datasync.origins",
        Kind::List,
        "Origins of the pages whose cookie counts.",
        "[\"https://app.example.com\"]",
    ),
    setting(
        "datasync.hooks",
        Kind::Texts,
        "Where messages go that the application answers itself, by their tag: http or https. Each is sent \
         in a POST that is signed with `hook_secret`, which has 3 s.",
        "{ CreateUser: https://app.example.com/hooks/create-user }",
    ),
    setting(
        "datasync.hook_secret",
        Kind::Secret,
        "What requests to hooks are signed with (HMAC-SHA256); needed where there are hooks.",
        "!env HEADWATER_HOOK_SECRET",
    )
    .env("HEADWATER_HOOK_SECRET"),
    setting(
        "limits.max_clients",
        Kind::Integer(1, 1_000_000),
        "Most connections at a time. The soft limit of open files is raised at start to hold \
         them; where the hard limit leaves room for fewer beside the files of the store and of \
         the source (about 1,420), fewer fit, and with next to none the server does not start.",
        "5000",
    )
    .default("20000"),
    setting(
        "limits.streams_per_user",
        Kind::Integer(1, 1_000_000),
        "Most sync streams of one user (one `sub`) at a time; one more is answered with 429. \
         Devices that share a `sub` share it.",
        "50",
    )
    .default("1000"),
    setting(
        "limits.reader_patience",
        Kind::Duration,
        "How long a client may take nothing of what waits for it before its connection is cut, \
         with a token or without.",
        "30 s",
    )
    .default("60 s"),
    setting(
        "limits.body_memory",
        Kind::Bytes(1 << 20),
        "Memory of the bodies of requests that are being received or worked on. Above it further \
         ones are answered with 503, above a quarter of it those of one user with 429. Nothing \
         but 8 kB is kept of a body before its token is verified.",
        "128 MB",
    )
    .default("64 MB"),
    setting(
        "limits.answer_memory",
        Kind::Bytes(1 << 20),
        "Memory of answers of live queries and of `/api/…` that are being read from the database or on \
         their way to sockets, and of messages that are not whole or not done. One user has a quarter of it, and at least \
         `datasync.max_message` and `datasync.max_result` together; all have at least twice that, because those \
         without a token have half. Above it further answers are refused (HW5311), and further messages wait; \
         above half of it, or while a message waits for it, whoever takes nothing for 10 s is cut.",
        "256 MB",
    )
    .default("64 MB"),
    setting(
        "limits.live_memory",
        Kind::Bytes(1 << 20),
        "Memory of what is held of live results to tell what changes in them (some 1 kB each, and 72 bytes a row \
         beside its key; of groups all of them), and of changes that were not sent yet. One user has a quarter of it, \
         all without a token half. Above it further subscriptions are refused (HW5414), and changes that there is no \
         room for are asked for when there is, or end the subscription after 10 s; above half of it whoever takes \
         nothing for 10 s is cut.",
        "1 GB",
    )
    .default("256 MB"),
    setting(
        "limits.buckets_per_client",
        Kind::Integer(1, 100_000),
        "Most buckets of one client, and most subscriptions of one request.",
        "2000",
    )
    .default("1000"),
    setting(
        "limits.parameter_results",
        Kind::Integer(1, 100_000),
        "Most rows of all parameter queries of one client.",
        "2000",
    )
    .default("1000"),
    setting(
        "limits.page_memory",
        Kind::Bytes(1 << 20),
        "Memory of data lines that are kept for other clients or on their way to sockets, and of \
         what open streams keep of their requests. Above it new lines become small. Requests \
         together keep at most half of it, and those of one user an eighth of that, or as much as \
         one request with `buckets_per_client` subscriptions may take (1 MB, and 320 bytes for each \
         subscription) where that is more: above it large requests are answered with 503.",
        "256 MB",
    )
    .default("96 MB"),
    setting(
        "limits.transaction_memory",
        Kind::Bytes(1 << 20),
        "Memory of one transaction while it is folded; a larger one goes through files in the \
         data directory.",
        "64 MB",
    )
    .default("24 MB"),
    setting(
        "limits.sort_memory",
        Kind::Bytes(1 << 20),
        "Memory of one sort of a large transaction or a copy; the rest is sorted on disk.",
        "128 MB",
    )
    .default("48 MB"),
    setting(
        "limits.queue_memory",
        Kind::Bytes(1 << 20),
        "Memory of transactions that have been received and wait to be applied. When it is full \
         reading from the source pauses.",
        "32 MB",
    )
    .default("16 MB"),
    setting(
        "limits.change_memory",
        Kind::Bytes(1 << 20),
        "Memory of what the last transactions did to rows, while live queries are served. Results whose \
         changes are not in it any more are asked anew.",
        "64 MB",
    )
    .default("16 MB"),
    setting(
        "limits.spool_bytes",
        Kind::Bytes(1 << 24),
        "Most bytes on disk of open transactions, table copies and decided writes. At the limit \
         reading from the source slows down, and the log says so.",
        "50 GB",
    )
    .default("16 GB"),
    setting(
        "limits.retained_log",
        Kind::Bytes(1 << 24),
        "How much write-ahead log the slot may make the source keep. At half of it a warning \
         is logged.",
        "20 GB",
    )
    .default("10 GB"),
    setting(
        "limits.copy_snapshot",
        Kind::Duration,
        "How long a copy may hold a snapshot in the source. A table that takes longer is read in \
         ranges of its key, each in a snapshot of its own; of one without such a key a warning is \
         logged.",
        "10 min",
    )
    .default("30 min"),
    setting("limits.copy_workers", Kind::Integer(1, 16), "Tables copied at the same time.", "4")
        .default("2"),
    setting(
        "limits.definition_retention",
        Kind::Duration,
        "How long a definition that left the sync configuration is still kept up to date, so \
         that going back to it costs nothing.",
        "1 h",
    )
    .default("24 h"),
    setting(
        "store.cache",
        Kind::Bytes(1 << 20),
        "Memory for blocks read from the store.",
        "256 MB",
    )
    .default("64 MB"),
    setting(
        "store.journal",
        Kind::Bytes(1 << 26),
        "Most bytes of the store's journal. A longer one makes a restart after a crash slower.",
        "128 MB",
    )
    .default("64 MB"),
    setting(
        "store.memtable",
        Kind::Bytes(1 << 20),
        "Memory of writes that are not in the store's tables yet.",
        "64 MB",
    )
    .default("32 MB"),
    setting(
        "log.format",
        Kind::Choice(&["auto", "text", "json"]),
        "`text` for people, `json` for machines, `auto` for text on a terminal and JSON \
         otherwise.",
        "json",
    )
    .env("HEADWATER_LOG_FORMAT")
    .flag("--log-format")
    .default("auto"),
    setting(
        "log.level",
        Kind::Text,
        "Least level that is logged: error, warn, info, debug or trace, also for parts: \
         `info,hw_pg=debug`.",
        "debug",
    )
    .env("HEADWATER_LOG")
    .flag("--log-level")
    .default("info"),
];

/// The setting at `path`.
pub fn find(path: &str) -> Option<&'static Setting> {
    SETTINGS.iter().find(|setting| setting.path == path)
}

/// The names that may stand in `section` (`""` is the top of the file).
pub fn names_in(section: &str) -> Vec<&'static str> {
    let mut names: Vec<&'static str> = Vec::new();
    for setting in SETTINGS {
        let name = match setting.path.split_once('.') {
            None if section.is_empty() => setting.path,
            Some((first, _)) if section.is_empty() => first,
            Some((first, rest)) if first == section => rest,
            _ => continue,
        };
        if !names.contains(&name) {
            names.push(name);
        }
    }
    names
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_default_and_every_example_is_valid() {
        for setting in SETTINGS {
            if let Some(default) = setting.default {
                assert!(setting.kind.parse(default).is_ok(), "default of {}", setting.path);
            }
            let structured = matches!(
                setting.kind,
                Kind::Jwks | Kind::UploadTables | Kind::Texts | Kind::Choices(_)
            );
            if !structured && !setting.example.starts_with('!') {
                assert!(setting.kind.parse(setting.example).is_ok(), "example of {}", setting.path);
            }
        }
    }

    #[test]
    fn every_section_is_described_and_paths_are_unique() {
        for setting in SETTINGS {
            if let Some((section, _)) = setting.path.split_once('.') {
                assert!(SECTIONS.iter().any(|(name, _)| *name == section), "{section}");
            }
            assert_eq!(SETTINGS.iter().filter(|s| s.path == setting.path).count(), 1);
        }
    }
}
