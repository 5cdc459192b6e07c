//! Writes of clients: whether the database is set up for them, and what their tables lack.
//!
//! In: a session, the configuration. Out: findings, each with its statements. `doctor`, `setup` and
//! `check` say the same, so that nobody learns of a missing grant from a device.

use hw_expr::sync_config::SyncConfig;
use hw_pg::error::PgError;
use hw_types::Diagnostic;
use tokio_postgres::Client;

use super::Examination;
use crate::config::Config;
use crate::server::upload_map;
use crate::sync_config;

/// Adds what keeps the connected role from recording writes, and what the tables of the configured
/// sync configuration and of `uploads.tables` lack. A database that is not set up for writes may be
/// meant so: that is a fact, and nothing else is said. So is what a table lacks, with the statements.
pub async fn check(
    config: &Config,
    client: &Client,
    examination: &mut Examination,
) -> Result<(), PgError> {
    match hw_write::schema::finding(client).await? {
        Some(finding) if !finding.is_error() => {
            let mend = finding.mend.unwrap_or_default();
            examination
                .facts
                .push(format!("{}, clients of sync can only read ({mend})", finding.what));
            return Ok(());
        }
        finding => examination.findings.extend(finding),
    }
    for finding in findings(config, client).await? {
        match is_note(&finding) {
            true => examination.facts.push(note(&finding)),
            false => examination.findings.push(finding),
        }
    }
    Ok(())
}

/// Whether it is no fault: clients may be meant to only read a table, or only some of them.
pub fn is_note(finding: &Diagnostic) -> bool {
    finding.code.0 == hw_write::code::NOT_WRITABLE
}

/// A finding that is no fault, with its statements in a line of their own.
pub fn note(finding: &Diagnostic) -> String {
    match &finding.mend {
        Some(mend) => format!("{}\n      {mend}", finding.what),
        None => finding.what.clone(),
    }
}

/// What the tables of the configured sync configuration and of `uploads.tables` lack.
pub async fn findings(config: &Config, client: &Client) -> Result<Vec<Diagnostic>, PgError> {
    // What is wrong with the file is told where it is read.
    of_tables(config, client, sync_config::compiled(config).as_ref()).await
}

/// What the tables of a sync configuration and of `uploads.tables` lack; nothing where the database
/// is not set up for writes, so that clients only read.
pub async fn of_tables(
    config: &Config,
    client: &Client,
    sync: Option<&SyncConfig>,
) -> Result<Vec<Diagnostic>, PgError> {
    if hw_write::schema::finding(client).await?.is_some_and(|finding| !finding.is_error()) {
        return Ok(Vec::new());
    }
    let map = upload_map::make(sync, |_| false, None, &config.uploads.tables);
    hw_write::examine::examine(client, config.uploads.role.as_deref(), &map).await
}
