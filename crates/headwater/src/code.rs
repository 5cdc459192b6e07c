//! Stable codes of the findings that the binary itself makes; `docs/errors.md` lists all codes.

/// The configuration file cannot be read.
pub const CONFIG_FILE: u16 = 1001;
/// The configuration file is not valid YAML.
pub const CONFIG_YAML: u16 = 1002;
/// A variable that the configuration file names with `!env` is not set.
pub const CONFIG_VARIABLE: u16 = 1003;
/// The configuration file has a tag other than `!env`.
pub const CONFIG_TAG: u16 = 1004;
/// A key of the configuration is not known; `docs/configuration.md` has them all.
pub const CONFIG_KEY: u16 = 1005;
/// A value of the configuration is not what its key takes.
pub const CONFIG_VALUE: u16 = 1006;
/// A section of the configuration is not a mapping.
pub const CONFIG_SECTION: u16 = 1007;
/// An environment variable begins with `HEADWATER_` and is none that is read (a warning).
pub const ENVIRONMENT_NAME: u16 = 1008;
/// No database is configured.
pub const NO_DATABASE: u16 = 1010;
/// The sync configuration cannot be read.
pub const SYNC_FILE: u16 = 1012;
/// `headwater check` was given no sync configuration.
pub const NO_SYNC_FILE: u16 = 1013;
/// The cases of `headwater eval` cannot be read.
pub const CASES_FILE: u16 = 1014;
/// There is neither a secret nor a key set, so no token can be checked (a warning of `doctor`).
pub const NO_TOKENS: u16 = 1015;
/// The JWT secret is shorter than HS256 asks for (a warning).
pub const SHORT_SECRET: u16 = 1016;
/// `headwater policies` was given a role or a table that the database does not have.
pub const NO_READER: u16 = 1017;
/// `headwater generate types` found no table in the schema of live queries.
pub const NO_TABLES: u16 = 1018;
/// The schema file of `headwater generate types` cannot be read, or Postgres does not take it.
pub const SCHEMA_FILE: u16 = 1019;
/// Two tables or enums would have a type of one name, or a name that was given is none. `--type-name` names one.
pub const TYPE_NAME: u16 = 1024;
/// The declarations of `headwater generate types` cannot be written.
pub const DECLARATIONS_FILE: u16 = 1025;
/// The limit of open files leaves too little room for clients beside the store and the source.
pub const OPEN_FILES: u16 = 1022;
/// A hook of live queries cannot be used: its address is no http or https URL, or `datasync.hook_secret` is
/// not set.
pub const HOOKS: u16 = 1023;
/// Policies cannot be synced, or followed: `sync.from` and `sync.config` are both set, what a policy says has no
/// stream, or the source does not answer.
pub const FROM_POLICIES: u16 = 1026;
/// A claim of `headwater token` is not written as name and value, has an option of its own, or is an empty
/// subject.
pub const CLAIM: u16 = 1030;
/// The lifetime of a token is not between one second and `auth.max_lifetime`.
pub const LIFETIME: u16 = 1031;
/// `headwater token` has no secret to sign with.
pub const NO_SECRET: u16 = 1032;
/// `headwater status` got no answer.
pub const NO_ANSWER: u16 = 1040;
/// The server refused to tell its status.
pub const STATUS_REFUSED: u16 = 1041;
/// What answered `headwater status` is not Headwater.
pub const NOT_HEADWATER: u16 = 1042;
/// A private Postgres cannot be started, or `headwater dev` cannot keep its files.
pub const DEV_START: u16 = 1050;
/// Log or metrics cannot be started.
pub const TELEMETRY: u16 = 1051;
/// A pooler stands before Postgres, and poolers do not do replication.
pub const POOLER: u16 = 2140;
/// The source drops the slot's log before our own limit would warn (a warning).
pub const RETENTION_BELOW_LIMIT: u16 = 2141;
/// The slot was invalidated; the tables are copied again, compared with what is there (a warning).
pub const SLOT_LOST: u16 = 2142;
/// More than half of the log that the slot may keep is used (a warning).
pub const SLOT_HALF: u16 = 2143;
/// The slot keeps more log than `limits.retained_log`: the source's disk may fill.
pub const SLOT_OVER: u16 = 2148;
/// The engine cannot open what the store holds.
pub const ENGINE_START: u16 = 3092;
/// A server still reads the slot that `headwater teardown` would drop. Stop it first.
pub const SLOT_IN_USE: u16 = 1060;
/// The data directory is open to other users of the machine (a warning).
pub const OPEN_DATA_DIR: u16 = 1061;
/// Something that `headwater teardown` would remove is left, because the role may not. The finding has
/// the statement and who may run it.
pub const LEFT_BEHIND: u16 = 1062;
/// The API token is missing or wrong.
pub const API_TOKEN: u16 = 4020;
/// Without an API token nobody may ask on the port of the clients, and on a port of the
/// administration alone only the same machine. Set `api_token` or `admin_listen`.
pub const SAME_MACHINE: u16 = 4021;
