//! The command line: every command and option with its help.
//!
//! In: the arguments of the process. Out: a [`Cli`]. Invariant: every option says what it does
//! and shows an example, which a test proves; `docs/cli.md` is made from this file.

// Help is written for terminals: addresses stand in it as a person types them.
#![allow(rustdoc::bare_urls)]

use std::path::PathBuf;

use clap::{Args, Parser, Subcommand};

use crate::config::layers::Flags;

/// A sync server in front of Postgres.
///
/// Headwater reads a Postgres database's log once, keeps an exact copy, and sends each client the
/// rows that are meant for it, live. Start with `headwater dev`: it needs no configuration.
///
/// Exit codes: 0 done, 1 a negative answer (check or doctor found errors), 2 an error.
#[derive(Debug, Parser)]
#[command(name = "headwater", version, propagate_version = true, max_term_width = 100)]
pub struct Cli {
    /// Options of every command.
    #[command(flatten)]
    pub global: Global,
    /// What to do.
    #[command(subcommand)]
    pub command: Command,
}

/// Options of every command.
#[derive(Args, Debug, Default)]
pub struct Global {
    /// Configuration file. (example: --config headwater.yaml)
    #[arg(long, global = true, value_name = "FILE")]
    pub config: Option<PathBuf>,
    /// Least level that is logged, also for parts. (example: --log-level info,hw_pg=debug)
    #[arg(long, global = true, value_name = "FILTER")]
    pub log_level: Option<String>,
    /// Form of the log: auto, text or json. (example: --log-format json)
    #[arg(long, global = true, value_name = "FORMAT")]
    pub log_format: Option<String>,
}

/// What to do.
#[derive(Debug, Subcommand)]
pub enum Command {
    /// Serve clients from the configured database.
    ///
    /// Needs a database (DATABASE_URL) and a way to check tokens (HEADWATER_JWT_SECRET or
    /// HEADWATER_JWKS_URL). Checks the source as `doctor` does, copies the tables of the sync
    /// configuration, and follows the log. SIGHUP reads the sync configuration again; SIGTERM and
    /// SIGINT stop gracefully.
    Serve(Serve),
    /// Try it out: private Postgres, sample data, server and page, with no configuration.
    ///
    /// Everything is kept in `.headwater/` and is there again at the next start. Ctrl-C stops
    /// everything that it started. With --database-url your own database is used; nothing in it is
    /// changed without showing the SQL and asking.
    Dev(Dev),
    /// Create what writes need in the database: schema, role, upload tables, event trigger.
    ///
    /// Shows the SQL and runs it after a yes. Running it again changes nothing.
    Setup(Setup),
    /// Remove what a server that is gone for good left in the database.
    ///
    /// Shows the SQL and runs it after a yes: the slot of this instance, which would make the
    /// source keep its log for ever, and, if no other instance is left, the publication, the event
    /// trigger and the schema `headwater`.
    Teardown(Teardown),
    /// Check a sync configuration and print all findings.
    ///
    /// With a database also checks that tables and columns are there and can be replicated. Exit
    /// code 1 if there are errors.
    Check(Check),
    /// Evaluate a sync configuration on rows and requests, to unit-test it.
    ///
    /// Reads JSON lines with `id`, `yaml`, `params`, `rows` and `requests`, and writes one line of
    /// answer for each: accepted or not, the buckets of each row, and what each request can read.
    /// docs/cli.md has a worked example.
    Eval(Eval),
    /// Check all that the source needs, and print the statement that mends each finding.
    Doctor(Doctor),
    /// Show which rows a database role sees by row level security, and whether Headwater can tell by
    /// itself.
    ///
    /// For each table: no row, every row, or what its policies say. A policy over the row and the token is
    /// decided without a question to Postgres; so is one over rows of other tables. What else it says is
    /// named with the reason. docs/policies.md lists what is known.
    Policies(Policies),
    /// Generate sources for clients from the database.
    Generate(Generate),
    /// Make a token for development.
    ///
    /// Signs with the configured secret, or with the one that `dev` wrote to the data directory.
    Token(Token),
    /// Show what a running server is doing.
    Status(Status),
    /// Print the version.
    Version,
}

/// Options of `serve`.
#[derive(Args, Debug, Default)]
pub struct Serve {
    /// Connection string of the source. (example: --database-url postgres://me@localhost/shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Address of the port for clients. (example: --listen 0.0.0.0:8080)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Another address for administration and metrics. (example: --admin-listen 127.0.0.1:9090)
    #[arg(long, value_name = "ADDRESS")]
    pub admin_listen: Option<String>,
    /// Directory of the store. (example: --data-dir /var/lib/headwater)
    #[arg(long, value_name = "DIRECTORY")]
    pub data_dir: Option<String>,
    /// The sync configuration. (example: --sync-config sync.yaml)
    #[arg(long, value_name = "FILE")]
    pub sync_config: Option<String>,
    /// `policies`: sync what row level security shows instead. (example: --sync-from policies)
    #[arg(long, value_name = "SOURCE")]
    pub sync_from: Option<String>,
    /// Take the slot over although it belongs to a server with another data directory, which was
    /// seen lately: that one is gone. (example: headwater serve --take-over)
    #[arg(long)]
    pub take_over: bool,
}

/// Options of `dev`.
#[derive(Args, Debug, Default)]
pub struct Dev {
    /// Use this database instead of a private one. (example: --database-url postgres:///shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Address of the one port. (example: --listen 127.0.0.1:8081)
    #[arg(long, value_name = "ADDRESS")]
    pub listen: Option<String>,
    /// Directory of everything that dev keeps. (example: --data-dir /tmp/headwater)
    #[arg(long, value_name = "DIRECTORY")]
    pub data_dir: Option<String>,
    /// A sync configuration instead of the sample's. (example: --sync-config sync.yaml)
    #[arg(long, value_name = "FILE")]
    pub sync_config: Option<String>,
    /// How much sample data: 1 is about 1,000 rows. (example: --scale 100)
    #[arg(long, value_name = "FACTOR", default_value_t = 1)]
    pub scale: u32,
    /// Delete what earlier runs kept, the private Postgres included, then start anew. Not for a
    /// database of your own. (example: headwater dev --reset)
    #[arg(long, conflicts_with = "database_url")]
    pub reset: bool,
    /// Take the slot over although it belongs to a server with another data directory, which was
    /// seen lately: that one is gone. (example: headwater dev --database-url … --take-over)
    #[arg(long)]
    pub take_over: bool,
    /// Answer yes to every question. (example: headwater dev --database-url … --yes)
    #[arg(long, short)]
    pub yes: bool,
}

/// Options of `setup`.
#[derive(Args, Debug, Default)]
pub struct Setup {
    /// Connection string of the database. (example: --database-url postgres://me@localhost/shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Run the SQL without asking. (example: headwater setup --yes)
    #[arg(long, short)]
    pub yes: bool,
    /// Only print the SQL. (example: headwater setup --print > setup.sql)
    #[arg(long, conflicts_with = "yes")]
    pub print: bool,
    /// Role that serve logs in with, if it is another than the one that runs the SQL. (example:
    /// headwater setup --role headwater)
    #[arg(long, value_name = "NAME")]
    pub role: Option<String>,
    /// Sync configuration whose tables clients write: what they lack is listed at the end.
    /// (example: --sync-config sync.yaml)
    #[arg(long, value_name = "FILE")]
    pub sync_config: Option<String>,
}

/// Options of `teardown`.
#[derive(Args, Debug, Default)]
pub struct Teardown {
    /// Connection string of the database. (example: --database-url postgres://me@localhost/shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Run the SQL without asking. (example: headwater teardown --yes)
    #[arg(long, short)]
    pub yes: bool,
    /// Only print the SQL. (example: headwater teardown --print)
    #[arg(long, conflicts_with = "yes")]
    pub print: bool,
}

/// Options of `check`.
#[derive(Args, Debug, Default)]
pub struct Check {
    /// The sync configuration; unset: the configured one. (example: headwater check sync.yaml)
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
    /// Check against this database's tables too. (example: --database-url postgres:///shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Warnings count as errors. (example: headwater check --strict sync.yaml)
    #[arg(long)]
    pub strict: bool,
}

/// Options of `eval`.
#[derive(Args, Debug, Default)]
pub struct Eval {
    /// JSON lines; unset or `-`: standard input. (example: headwater eval cases.jsonl)
    #[arg(value_name = "FILE")]
    pub file: Option<PathBuf>,
}

/// Options of `doctor`.
#[derive(Args, Debug, Default)]
pub struct Doctor {
    /// Connection string of the source. (example: --database-url postgres://me@localhost/shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// Also check the tables that this sync configuration reads. (example: --sync-config sync.yaml)
    #[arg(long, value_name = "FILE")]
    pub sync_config: Option<String>,
}

/// Options of `policies`.
#[derive(Args, Debug, Default)]
pub struct Policies {
    /// Connection string of the source. (example: --database-url postgres://me@localhost/shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// The role that reads; without it that of `uploads.role`, else `authenticated`, else
    /// `headwater_authenticated`. (example: --role authenticated)
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// One table only. (example: --table public.tasks)
    #[arg(long, value_name = "TABLE")]
    pub table: Option<String>,
    /// Print the policies as a sync configuration: what `sync.from: policies` serves. (example:
    /// headwater policies --as-streams > sync.yaml)
    #[arg(long, conflicts_with = "table")]
    pub as_streams: bool,
}

/// Options of `generate`.
#[derive(Args, Debug)]
pub struct Generate {
    /// What to generate.
    #[command(subcommand)]
    pub what: Generated,
}

/// What is generated.
#[derive(Debug, Subcommand)]
pub enum Generated {
    /// TypeScript declarations of the tables, for clients of live queries.
    ///
    /// From the configured database, or from a schema file, which is loaded into a Postgres of its own that
    /// is thrown away. Names and types are those of the wire, so the settings of `datasync` count (schema,
    /// naming, bigint). docs/live-queries.md shows how a project uses the file.
    Types(GenerateTypes),
}

/// Options of `generate types`.
#[derive(Args, Debug, Default)]
pub struct GenerateTypes {
    /// A schema file instead of a database. (example: headwater generate types Schema.sql)
    #[arg(value_name = "FILE", conflicts_with = "database_url")]
    pub schema: Option<PathBuf>,
    /// Connection string of the database. (example: --database-url postgres://me@localhost/shop)
    #[arg(long, value_name = "URL")]
    pub database_url: Option<String>,
    /// File to write, replaced whole and only when it differs; unset: standard output. (example:
    /// --output src/headwater.d.ts)
    #[arg(long, value_name = "FILE")]
    pub output: Option<PathBuf>,
    /// Module whose registries are filled; unset: `@headwater/client/live`. (example: --module
    /// @acme/live)
    #[arg(long, value_name = "NAME", conflicts_with = "compat_ihp")]
    pub module: Option<String>,
    /// Type of a table or enum by another name than the derived one; may be repeated. (example:
    /// --type-name user_data=UserData)
    #[arg(long = "type-name", value_name = "TABLE=NAME")]
    pub type_names: Vec<String>,
    /// Print what IHP's generate-datasync-types prints, for the module `ihp-datasync`. (example:
    /// headwater generate types --compat-ihp Schema.sql)
    #[arg(long)]
    pub compat_ihp: bool,
    /// Stay, and write again whenever the tables or the file change. (example: headwater generate
    /// types --watch --output src/headwater.d.ts)
    #[arg(long)]
    pub watch: bool,
}

/// Options of `token`.
#[derive(Args, Debug, Default)]
pub struct Token {
    /// Who the token is for. (example: --sub user-1)
    #[arg(long, value_name = "SUBJECT")]
    pub sub: String,
    /// A further claim; JSON, or text that is not JSON; may be repeated.
    /// (example: --claim org=acme --claim 'parameters={"team": 7}')
    #[arg(long = "claim", value_name = "NAME=VALUE")]
    pub claims: Vec<String>,
    /// How long it lives, at most 24 h. (example: --ttl 10min)
    #[arg(long, value_name = "TIME", default_value = "1h")]
    pub ttl: String,
    /// The audience; unset: the first configured one. (example: --audience headwater)
    #[arg(long, value_name = "AUDIENCE")]
    pub audience: Option<String>,
    /// The database role that writes. (example: --role editor)
    #[arg(long, value_name = "ROLE")]
    pub role: Option<String>,
    /// Where to find the secret of dev. (example: --data-dir .headwater)
    #[arg(long, value_name = "DIRECTORY")]
    pub data_dir: Option<String>,
}

/// Options of `status`.
#[derive(Args, Debug, Default)]
pub struct Status {
    /// Address of the server; unset: the configured one. (example: --url http://127.0.0.1:8080)
    #[arg(long, value_name = "URL")]
    pub url: Option<String>,
    /// Token for the administration routes. (example: --api-token "$HEADWATER_API_TOKEN")
    #[arg(long, value_name = "TOKEN")]
    pub api_token: Option<String>,
    /// Print the JSON as the server sends it. (example: headwater status --json | jq .source.lag_bytes)
    #[arg(long)]
    pub json: bool,
}

impl Cli {
    /// What the command line sets, by path of setting.
    pub fn flags(&self) -> Flags {
        let mut flags = Flags::new();
        let mut set = |path, value: &Option<String>| {
            if let Some(value) = value {
                flags.insert(path, value.clone());
            }
        };
        set("log.level", &self.global.log_level);
        set("log.format", &self.global.log_format);
        match &self.command {
            Command::Serve(serve) => {
                set("database.url", &serve.database_url);
                set("listen", &serve.listen);
                set("admin_listen", &serve.admin_listen);
                set("data_dir", &serve.data_dir);
                set("sync.config", &serve.sync_config);
                set("sync.from", &serve.sync_from);
            }
            Command::Dev(dev) => {
                set("database.url", &dev.database_url);
                set("listen", &dev.listen);
                set("data_dir", &dev.data_dir);
                set("sync.config", &dev.sync_config);
            }
            Command::Setup(setup) => {
                set("database.url", &setup.database_url);
                set("sync.config", &setup.sync_config);
            }
            Command::Teardown(teardown) => set("database.url", &teardown.database_url),
            Command::Check(check) => set("database.url", &check.database_url),
            Command::Doctor(doctor) => {
                set("database.url", &doctor.database_url);
                set("sync.config", &doctor.sync_config);
            }
            Command::Policies(policies) => set("database.url", &policies.database_url),
            Command::Generate(Generate { what: Generated::Types(types) }) => {
                set("database.url", &types.database_url);
            }
            Command::Token(token) => set("data_dir", &token.data_dir),
            Command::Status(status) => set("api_token", &status.api_token),
            Command::Eval(_) | Command::Version => {}
        }
        flags
    }
}

/// The reference page, Markdown, from the same definitions as `--help`.
pub fn reference() -> String {
    use clap::CommandFactory as _;
    let mut page = String::from(
        "# Command line\n\n<!-- Made from crates/headwater/src/cli.rs; a test compares. -->\n\n\
         Answers are written to standard output, everything else to standard error. Colour is left \
         out when `NO_COLOR` is set or the output is not a terminal.\n\n",
    );
    let mut command = Cli::command().term_width(96).color(clap::ColorChoice::Never);
    command.build();
    page.push_str(&section("headwater", &mut command));
    let names: Vec<String> = command
        .get_subcommands()
        .map(|subcommand| subcommand.get_name().to_owned())
        .filter(|name| name != "help")
        .collect();
    for name in names {
        if let Some(subcommand) = command.find_subcommand_mut(&name) {
            page.push_str(&section(&format!("headwater {name}"), subcommand));
            for inner in subcommand.get_subcommands_mut().filter(|c| c.get_name() != "help") {
                page.push_str(&section(&format!("headwater {name} {}", inner.get_name()), inner));
            }
        }
        if name == "eval" {
            page.push_str(include_str!("cli/eval-example.md"));
        }
    }
    page
}

fn section(title: &str, command: &mut clap::Command) -> String {
    let help = command.clone().term_width(96).render_long_help().to_string();
    let lines: Vec<&str> = help.lines().map(str::trim_end).collect();
    format!("## `{title}`\n\n```text\n{}\n```\n\n", lines.join("\n").trim_end())
}

#[cfg(test)]
mod tests {
    use super::*;
    use clap::CommandFactory as _;

    #[test]
    fn the_definitions_are_consistent() {
        Cli::command().debug_assert();
    }

    #[test]
    fn every_option_has_help_with_an_example() {
        let mut command = Cli::command();
        command.build();
        let mut commands = vec![&command];
        for command in command.get_subcommands().filter(|c| c.get_name() != "help") {
            commands.push(command);
            commands.extend(command.get_subcommands().filter(|c| c.get_name() != "help"));
        }
        for command in commands {
            assert!(command.get_about().is_some(), "{}", command.get_name());
            for argument in command.get_arguments() {
                let id = argument.get_id().as_str();
                if ["help", "version"].contains(&id) {
                    continue;
                }
                let help = argument.get_help().map(ToString::to_string).unwrap_or_default();
                assert!(help.contains("(example: "), "{} {id}: {help}", command.get_name());
            }
        }
    }

    /// What an example takes out of the status is there.
    #[test]
    fn the_examples_for_jq_name_what_the_status_has() {
        let report = crate::server::status::StatusReport::default();
        let report = serde_json::to_value(report).expect("plain data");
        let page = reference().replace('\n', " ");
        let paths: Vec<&str> = page
            .split("status --json | jq ")
            .skip(1)
            .filter_map(|rest| rest.split([')', ' ', '`']).next())
            .collect();
        assert!(!paths.is_empty());
        for path in paths {
            let pointer = path.replace('.', "/");
            assert!(report.pointer(&pointer).is_some(), "{path} in {report}");
        }
    }

    #[test]
    fn every_flag_that_the_settings_name_exists() {
        let mut command = Cli::command();
        command.build();
        let mut known = Vec::new();
        for command in std::iter::once(&command).chain(command.get_subcommands()) {
            known.extend(command.get_arguments().filter_map(|a| a.get_long().map(str::to_owned)));
        }
        for setting in crate::config::settings::SETTINGS {
            if let Some(flag) = setting.flag {
                let name = flag.trim_start_matches("--").to_owned();
                assert!(known.contains(&name), "{flag} of {}", setting.path);
            }
        }
    }
}
