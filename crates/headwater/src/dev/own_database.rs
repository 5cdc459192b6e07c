//! `dev --database-url`: the user's own database, in which nothing is changed unasked.
//!
//! In: a connection. Out: whether to go on, and whether writes are set up. Invariant: every
//! statement that Headwater would run here, now or when it starts to replicate, has been shown.

use hw_pg::catalog::{self, Catalog, ServerInfo};
use hw_pg::config::ConnectConfig;
use hw_pg::slot::{self, SlotState};
use hw_pg::statements;
use hw_pg::{replication::ReplicationConnection, sql};
use hw_types::{Code, Diagnostic, TableName, TablePattern};
use hw_write::schema;
use tokio_postgres::Client;

use crate::code;
use crate::commands::setup;
use crate::config::Config;
use crate::doctor::pooler;
use crate::policies::Reader;
use crate::report;
use crate::sync_config::{self, SyncFile};

/// Shows what would be changed and asks.
///
/// - Takes: `yes`, the answer to every question, given beforehand.
///
/// Without a sync configuration the policies of the role that tokens stand for are synced, if there is one.
///
/// - Returns: false when the person said no to what replication needs.
pub async fn prepare(config: &mut Config, yes: bool) -> Result<bool, Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(config.database_url()?).map_err(Box::new)?;
    report::findings(&warnings, "");
    let failed = |error: hw_pg::error::PgError| Box::new(pooler::finding_or(&connect, &error));
    let (mut client, _driver) = sql::connect(&connect).await.map_err(failed)?;
    if config.sync_config.is_none() && !config.sync_from_policies {
        match Reader::read(&mut client, config, None).await {
            Ok(_) => config.sync_from_policies = true,
            Err(why) if why.code == Code(code::NO_READER) => report::say(&format!(
                "no table is synced: {}; name one as uploads.role, or a file with --sync-config",
                why.what
            )),
            Err(why) => return Err(why),
        }
    }
    let patterns = patterns(config, &mut client).await?;
    let needed =
        replication_statements(config, &connect, &client, &patterns).await.map_err(failed)?;
    if !needed.is_empty() {
        report::say("to replicate from it, Headwater runs in your database:");
        report::note(&format!("\n  {}\n\n", needed.join("\n  ")));
        if !yes && !setup::ask("Go on?") {
            return Ok(false);
        }
    }
    if schema::finding(&client).await.map_err(failed)?.is_some() {
        let statements = setup::statements(config, None, &client).await?;
        report::say("for writes of clients, it would run in your database:");
        report::note(&format!("\n{}", setup::script(&statements)));
        if yes || setup::ask("Run this too?") {
            setup::apply(&client, &statements).await?;
        } else {
            report::say("going on without: clients can read, uploads are refused");
        }
    }
    Ok(true)
}

/// The tables that will be replicated.
async fn patterns(
    config: &Config,
    client: &mut Client,
) -> Result<Vec<TablePattern>, Box<Diagnostic>> {
    if config.sync_from_policies {
        let text = Reader::read(client, config, None).await?.streams().text();
        report::say("tables whose policies show rows to users are synced, also those to come");
        return Ok(sync_config::patterns(&SyncFile { name: "policies".into(), text }));
    }
    Ok(match sync_config::configured(config) {
        Ok(Some(file)) => sync_config::patterns(&file),
        _ => Vec::new(),
    })
}

/// What the engine will run by itself once it starts.
async fn replication_statements(
    config: &Config,
    connect: &ConnectConfig,
    client: &Client,
    patterns: &[TablePattern],
) -> Result<Vec<String>, hw_pg::error::PgError> {
    let server = ServerInfo::read(client).await?;
    let name = &config.database.publication;
    let catalog = Catalog::read(client, name, patterns, &[]).await?;
    let resolved = catalog::resolve(&catalog, patterns);
    let missing: Vec<TableName> = resolved
        .to_publish
        .iter()
        .filter_map(|id| catalog.table_by_id(*id).map(|table| table.facts.name.clone()))
        .collect();
    let mut statements = Vec::new();
    match &catalog.publication {
        None => statements.push(statements::create_statement(name, &missing)),
        Some(_) => {
            if resolved.needs_actions || resolved.needs_via_root {
                let sql = statements::settings_statement(name, resolved.needs_via_root);
                statements.push(sql);
            }
            if !missing.is_empty() {
                statements.push(statements::add_statement(name, &missing));
            }
        }
    }
    let mut replication = ReplicationConnection::connect(connect).await?;
    let identity = replication.identify_system().await?;
    replication.close().await;
    let slot = slot::slot_name(identity.system_id, server.database_oid, &config.instance);
    if SlotState::read(client, &slot).await?.is_none() {
        statements
            .push(format!("SELECT pg_create_logical_replication_slot('{slot}', 'pgoutput');"));
    }
    Ok(statements)
}
