//! All that a source needs, checked: each finding with the statement that mends it.
//!
//! In: the configuration. Out: findings, worst first, and facts worth knowing. `serve` runs the
//! same at its start. Invariant: it changes nothing, neither in the source nor in the store.
//! Suggested reading order: [`source`] (the server, its log, its slots), [`tables`] (what the
//! sync configuration reads), [`writes`] (what clients need to write them), [`live`] (live queries), [`pooler`] (what may
//! stand in between).

pub mod live;
pub mod pooler;
pub mod source;
pub mod tables;
pub mod writes;

use std::os::unix::fs::PermissionsExt as _;
use std::path::Path;

use hw_pg::catalog::ServerInfo;
use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::replication::SystemIdentity;
use hw_pg::sql;
use hw_types::{Diagnostic, Severity, TablePattern};
use tokio_postgres::Client;

use crate::authentication;
use crate::code;
use crate::config::Config;
use crate::sync_config;

/// What was found.
#[derive(Debug, Default)]
pub struct Examination {
    /// Findings, errors first.
    pub findings: Vec<Diagnostic>,
    /// Facts, one a line.
    pub facts: Vec<String>,
    /// The text of the sync configuration, for the excerpts of its findings.
    pub sync_text: String,
}

/// Examines the configured source with the tables that the sync configuration reads.
///
/// - Errors: the finding that stopped the examination: no database configured, a connection string
///   that cannot be read, no connection.
pub async fn examine(config: &Config) -> Result<Examination, Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(config.database_url()?).map_err(Box::new)?;
    let mut examination = Examination { findings: warnings, ..Examination::default() };
    examination.findings.extend(authentication::findings(config));
    examination.findings.extend(open_directory(&config.data_dir));
    let patterns = sync_patterns(config, &mut examination)?;
    examine_source(config, &connect, &patterns, &mut examination)
        .await
        .map_err(|error| Box::new(error.diagnostic()))?;
    examination.findings.sort_by_key(|finding| match finding.severity {
        Severity::Error => 0,
        Severity::Warning => 1,
    });
    Ok(examination)
}

/// Whether other users of this machine may read what is kept there: rows of all users, and keys.
fn open_directory(directory: &Path) -> Option<Diagnostic> {
    let mode = std::fs::metadata(directory).ok()?.permissions().mode();
    (mode & 0o077 != 0).then(|| {
        Diagnostic::warning(
            code::OPEN_DATA_DIR,
            "the data directory is open to other users of this machine",
        )
        .at(directory.display().to_string())
        .mend(format!("chmod -R go= '{}'", directory.display()))
    })
}

/// The checks that need a connection.
pub async fn examine_source(
    config: &Config,
    connect: &ConnectConfig,
    patterns: &[TablePattern],
    examination: &mut Examination,
) -> Result<(), PgError> {
    let connect = connect.with_application_name("headwater doctor");
    let (client, _driver) = match sql::connect(&connect).await {
        Ok(session) => session,
        Err(error) => {
            // The pooler refuses ordinary sessions of ours, too: there is nothing else to ask.
            let pooler = pooler::finding(&connect, &error).ok_or(error)?;
            examination.findings.push(pooler);
            examination.facts.push("nothing else was checked".to_owned());
            return Ok(());
        }
    };
    // Before anything is asked: answers through a pooler may come from several sessions.
    let identity = source::identify(&connect).await;
    let mut pooler = identity.as_ref().err().and_then(|error| pooler::finding(&connect, error));
    let checked = check(config, &connect, &client, identity, patterns, examination).await;
    pooler = match checked {
        Ok(dropped) => pooler.or(dropped),
        Err(error) => {
            let pooler = pooler.or_else(|| pooler::finding(&connect, &error)).ok_or(error)?;
            examination.facts.push("the rest cannot be checked through the pooler".to_owned());
            Some(pooler)
        }
    };
    if let Some(pooler) = pooler {
        if let Some(address) = pooler::real_address(&client).await {
            examination
                .facts
                .push(format!("behind the pooler, Postgres says of itself: {address}"));
        }
        examination.findings.push(pooler);
    }
    Ok(())
}

/// The checks on a session.
///
/// - Returns: the finding that settings of our sessions are dropped on the way.
async fn check(
    config: &Config,
    connect: &ConnectConfig,
    client: &Client,
    identity: Result<SystemIdentity, PgError>,
    patterns: &[TablePattern],
    examination: &mut Examination,
) -> Result<Option<Diagnostic>, PgError> {
    let dropped = pooler::dropped_settings(connect, client).await?;
    let server = ServerInfo::read(client).await?;
    examination.facts.push(format!(
        "Postgres {} at {}, wal_level {}, encoding {}",
        server.major(),
        connect.redacted(),
        server.wal_level,
        server.encoding
    ));
    examination.findings.extend(server.findings());
    examination.findings.extend(source::retention(&server, config.limits.retained_log));
    examination.findings.extend(source::room(client, &server).await?);
    match identity {
        Ok(identity) => {
            source::slot(client, &server, &identity, &config.instance, examination).await?;
        }
        Err(error) => {
            // What is a finding of its own explains the error: a pooler, a missing attribute.
            let explained = !server.may_replicate
                || server.wal_level != "logical"
                || pooler::finding(connect, &error).is_some();
            if !explained {
                examination.findings.push(source::no_replication(&error));
            }
        }
    }
    let sync = sync_config::compiled(config);
    let read = (&*config.database.publication, patterns, sync.as_ref());
    tables::check(client, &server, read, examination).await?;
    writes::check(config, client, examination).await?;
    live::check(config, connect, examination).await?;
    Ok(dropped)
}

/// The tables that the sync configuration reads. Its own findings are added too.
fn sync_patterns(
    config: &Config,
    examination: &mut Examination,
) -> Result<Vec<TablePattern>, Box<Diagnostic>> {
    let Some(file) = sync_config::configured(config)? else { return Ok(Vec::new()) };
    examination.findings.extend(sync_config::findings(&file));
    let patterns = sync_config::patterns(&file);
    examination.sync_text = file.text;
    Ok(patterns)
}
