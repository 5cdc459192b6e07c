//! `headwater dev`: everything at once, without configuration.
//!
//! In: nothing, or a database. Out: a private Postgres with the sample, a server on it, a page.
//! Invariants: it stops everything that it started; a second run finds everything again; the
//! user's own database is never changed unasked.
//!
//! Suggested reading order: this file; [`lock`], [`account`], [`binaries`], [`postgres`],
//! [`load`], [`secret`]; [`own_database`]; [`mod@banner`], [`mod@line`].

pub mod account;
pub mod banner;
pub mod binaries;
pub mod line;
pub mod load;
pub mod lock;
pub mod own_database;
pub mod postgres;
pub mod secret;

use std::io;
use std::path::Path;
use std::sync::Arc;
use std::time::Duration;

use hw_types::Diagnostic;

use crate::cli::Dev;
use crate::code;
use crate::commands::serve::{Asked, Signals, begin_telemetry};
use crate::commands::status;
use crate::config::Config;
use crate::report::{self, Exit};
use crate::sample;
use crate::server::admin::{DevSession, DevSessions};
use crate::server::start::{self, Server, StartRefused};
use crate::server::status::StatusReport;
use banner::{Banner, Psql};
use postgres::PrivatePostgres;

/// How long the page's tokens live.
const PAGE_TOKEN: Duration = Duration::from_secs(3600);

/// Users of the sample to try the page with: each has lists of their own.
const USERS: [&str; 3] = [sample::USER, "ben", "cleo"];

/// Between two looks at what we started.
const WATCH: Duration = Duration::from_millis(500);

/// What outlives the server for a moment; fields are dropped in this order.
pub struct Kept {
    _postgres: Option<PrivatePostgres>,
    _lock: lock::DevLock,
}

/// Runs until Ctrl-C.
///
/// - Returns: how it ended, and what is to be dropped last, when nobody uses it any more.
pub async fn run(mut config: Config, arguments: &Dev) -> (Exit, Option<Kept>) {
    let lock = match lock::take(&config.data_dir) {
        Ok(lock) => lock,
        Err(error) => {
            report::say(&error.to_string());
            return (Exit::Failed, None);
        }
    };
    let mut postgres = None;
    let exit = match begin(&mut config, arguments, &mut postgres).await {
        Ok(Begun::Up(server, signals)) => {
            until_the_end(&config, *server, signals, &mut postgres).await
        }
        Ok(Begun::Stopped) => {
            report::say("stopping before everything is up; the next `headwater dev` goes on");
            Exit::Done
        }
        Ok(Begun::Refused) => {
            report::say("nothing was changed");
            Exit::Negative
        }
        Err(refused) => {
            report::findings(&refused.findings, &refused.text);
            Exit::Failed
        }
    };
    (exit, Some(Kept { _postgres: postgres, _lock: lock }))
}

/// What came of a start.
enum Begun {
    Up(Box<Server>, Signals),
    /// Somebody asked for the end before.
    Stopped,
    /// The person said no.
    Refused,
}

/// Starts everything.
async fn begin(
    config: &mut Config,
    arguments: &Dev,
    postgres: &mut Option<PrivatePostgres>,
) -> Result<Begun, StartRefused> {
    if arguments.reset {
        reset(&config.data_dir).map_err(dev_start)?;
    }
    if config.auth.jwt_secret.is_none() {
        config.auth.jwt_secret = Some(secret::ensure(&config.data_dir).map_err(dev_start)?);
    }
    config.datasync.enabled = true;
    // Only a database that was named on the command line: a DATABASE_URL that happens to be set
    // belongs to something else.
    let is_own = arguments.database_url.is_some();
    if is_own && !own_database::prepare(config, arguments.yes).await? {
        return Ok(Begun::Refused);
    }
    // Not before: whoever is asked something may answer with Ctrl-C.
    let mut signals = Signals::listen().map_err(dev_start)?;
    let everything = async {
        if !is_own {
            make_source(config, arguments, postgres).await?;
        }
        serve(config, postgres.as_ref()).await
    };
    let server = tokio::select! {
        server = everything => server?,
        () = signals.end() => return Ok(Begun::Stopped),
    };
    report::answer(&banner(config, &server, postgres.as_ref()).text());
    Ok(Begun::Up(Box::new(server), signals))
}

async fn until_the_end(
    config: &Config,
    server: Server,
    mut signals: Signals,
    postgres: &mut Option<PrivatePostgres>,
) -> Exit {
    let line = line::StatusLine::start(Arc::clone(&server.reporter));
    let mut waits = None;
    let exit = loop {
        tokio::select! {
            asked = signals.next() => match asked {
                Asked::End => break Exit::Done,
                Asked::Reload => server.reload(config),
            },
            () = tokio::time::sleep(WATCH) => {
                tell_what_it_waits_for(&server.reporter.report(), &mut waits);
                if let Some(status) = postgres.as_mut().and_then(PrivatePostgres::ended) {
                    let log = config.data_dir.join("postgres.log");
                    report::say(&format!(
                        "the private Postgres ended by itself ({status}); see {}",
                        log.display()
                    ));
                    break Exit::Failed;
                }
            }
        }
    };
    line.clear();
    report::say("stopping; everything is kept for the next `headwater dev`");
    signals.end_at_once_on_a_second_one();
    server.stop().await;
    exit
}

/// The banner says that it runs: what keeps rows from coming is said too, once.
fn tell_what_it_waits_for(report: &StatusReport, told: &mut Option<String>) {
    let waits = matches!(report.state.as_str(), "waiting" | "failed");
    let why = report.trouble.clone().filter(|_| waits);
    if let Some(why) = &why
        && told.as_ref() != Some(why)
    {
        report::say(&format!("no rows come yet: {why}"));
    }
    *told = why;
}

fn dev_start(error: io::Error) -> StartRefused {
    Diagnostic::error(code::DEV_START, error.to_string()).into()
}

/// Starts a Postgres of our own, with the sample in it, for rows to come from.
async fn make_source(
    config: &mut Config,
    arguments: &Dev,
    postgres: &mut Option<PrivatePostgres>,
) -> Result<(), StartRefused> {
    let data_dir = config.data_dir.clone();
    let private = tokio::task::spawn_blocking(move || PrivatePostgres::start(&data_dir));
    let private = private.await.map_err(io::Error::other).and_then(|outcome| outcome);
    let private = postgres.insert(private.map_err(dev_start)?);
    let made = load::ensure(config, private, arguments.scale).await?;
    remember_scale(&config.data_dir, made, arguments.scale);
    config.database.url = Some(private.url(postgres::DATABASE));
    if config.sync_config.is_none() {
        config.sync_config = Some(sample_sync_config(&config.data_dir).map_err(dev_start)?);
    }
    Ok(())
}

/// The sample's sync configuration as a file that a person may change; SIGHUP reads it again.
fn sample_sync_config(data_dir: &Path) -> io::Result<std::path::PathBuf> {
    let path = data_dir.join("sync.yaml");
    if !path.exists() {
        std::fs::write(&path, sample::SYNC_CONFIG)?;
    }
    Ok(path)
}

fn remember_scale(data_dir: &Path, made: bool, scale: u32) {
    let file = data_dir.join("scale");
    if made {
        let _ = std::fs::write(&file, format!("{scale}\n"));
        return;
    }
    let known = std::fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
    if known.is_some_and(|known: u32| known != scale && scale != 1) {
        report::say("the sample data of an earlier run is kept; --reset loads it at this scale");
    }
}

/// Deletes what earlier runs kept, except downloaded binaries.
fn reset(data_dir: &Path) -> io::Result<()> {
    postgres::remove(data_dir)?;
    match std::fs::remove_dir_all(data_dir.join("store")) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    for name in ["dev-secret", "postgres.pass", "postgres.log", "scale", "sync.yaml"] {
        let _ = std::fs::remove_file(data_dir.join(name));
    }
    Ok(())
}

async fn serve(
    config: &mut Config,
    postgres: Option<&PrivatePostgres>,
) -> Result<Server, StartRefused> {
    // The page, its figures and its token have to be on one origin.
    config.admin_listen = None;
    if config.log.level == "info" {
        // What goes well is in the status line.
        config.log.level = "warn".to_owned();
    }
    begin_telemetry(config)?;
    let sessions = page_sessions(config, postgres)?;
    start::start(config, Some(sessions)).await
}

/// What the page needs to act as a user: of the sample its first one, where no other is asked for.
fn page_sessions(
    config: &Config,
    postgres: Option<&PrivatePostgres>,
) -> Result<DevSessions, Box<Diagnostic>> {
    let secret = crate::commands::token::secret(config)?;
    let audience: Vec<String> = config.auth.audience.first().cloned().into_iter().collect();
    let lifetime = PAGE_TOKEN.min(config.auth.max_lifetime);
    let psql = postgres.map(PrivatePostgres::psql_command);
    let users = match psql {
        Some(_) => USERS.map(str::to_owned).to_vec(),
        None => Vec::new(),
    };
    Ok(Arc::new(move |sub| {
        let sub = sub.unwrap_or(sample::USER);
        let claims = serde_json::Map::new();
        let clock = hw_auth::Clock::system();
        let token = hw_auth::token::issue(&secret, sub, lifetime, &claims, &audience, &clock);
        DevSession { token, sub: sub.to_owned(), users: users.clone(), psql: psql.clone() }
    }))
}

/// What a person can do now.
fn banner(config: &Config, server: &Server, postgres: Option<&PrivatePostgres>) -> Banner {
    // Both without links, as the shell that started us may have them.
    let here = std::env::current_dir().and_then(|path| path.canonicalize()).unwrap_or_default();
    let program = std::env::current_exe().unwrap_or_else(|_| "headwater".into());
    let client = postgres.and_then(|_| banner::example_client(&here, &program));
    Banner {
        url: format!("http://{}", status::reachable(server.address)),
        psql: postgres.map(|postgres| Psql {
            command: postgres.psql_command(),
            installed: binaries::on_path("psql"),
        }),
        client: client.map(|path| banner::called_from(&here, &path)),
        program: banner::called_from(&here, &program),
        data_dir: config.data_dir.clone(),
        sync_config: config.sync_config.clone(),
        from_policies: config.sync_from_policies,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_reset_deletes_what_was_kept_but_not_the_downloaded_binaries() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = directory.path();
        for name in ["store/tables", "postgres/data", "postgres-npm/node_modules"] {
            std::fs::create_dir_all(path.join(name)).expect("made");
        }
        std::fs::write(path.join("dev-secret"), "x").expect("written");
        reset(path).expect("deleted");
        reset(path).expect("deleting nothing is fine");
        assert!(!path.join("store").exists() && !path.join("postgres").exists());
        assert!(!path.join("dev-secret").exists());
        assert!(path.join("postgres-npm/node_modules").exists());
    }

    #[test]
    fn the_samples_sync_configuration_is_written_once_and_then_the_users() {
        let directory = tempfile::tempdir().expect("a directory");
        let path = sample_sync_config(directory.path()).expect("written");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), sample::SYNC_CONFIG);
        std::fs::write(&path, "mine").expect("changed");
        sample_sync_config(directory.path()).expect("kept");
        assert_eq!(std::fs::read_to_string(&path).expect("there"), "mine");
    }
}
