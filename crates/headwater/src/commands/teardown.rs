//! `headwater teardown`: what a server that is gone for good left in the database, shown and then
//! removed.
//!
//! In: a connection. Out: no slot of this instance, and unless another instance is left no
//! publication, event trigger or schema of ours. Invariants: nothing is run that was not shown; a
//! slot that a server reads is not touched.

use hw_pg::config::ConnectConfig;
use hw_pg::error::{Doing as _, PgError};
use hw_pg::{slot, sql};
use hw_types::Diagnostic;
use hw_types::relation::{quote_ident, quote_literal};
use tokio_postgres::Client;

use super::{database_url, setup};
use crate::cli::Teardown;
use crate::code;
use crate::config::Config;
use crate::doctor::pooler;
use crate::report::{self, Exit};

/// Shows, asks, runs.
pub async fn run(config: &Config, arguments: &Teardown) -> Exit {
    match connect_and_remove(config, arguments).await {
        Ok(exit) => exit,
        Err(finding) => super::refuse(*finding),
    }
}

async fn connect_and_remove(
    config: &Config,
    arguments: &Teardown,
) -> Result<Exit, Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(database_url(config)?).map_err(Box::new)?;
    report::findings(&warnings, "");
    let connected = sql::connect(&connect.with_application_name("headwater teardown")).await;
    let (client, _driver) =
        connected.map_err(|error| Box::new(pooler::finding_or(&connect, &error)))?;
    let failed = |error: PgError| Box::new(error.diagnostic());
    let found = Found::look(config, &client).await.map_err(failed)?;
    if let Some(reader) = found.reader {
        return Err(Box::new(
            Diagnostic::error(
                code::SLOT_IN_USE,
                format!("a server reads slot \"{}\" (process {reader} in the source)", found.slot),
            )
            .mend("stop the server first"),
        ));
    }
    let statements = found.statements(config);
    if statements.is_empty() {
        report::say(&format!("nothing of instance \"{}\" is left", config.instance));
        return Ok(Exit::Done);
    }
    if arguments.print {
        report::answer(&setup::script(&statements));
        return Ok(Exit::Done);
    }
    report::note(&setup::script(&statements));
    for other in &found.others {
        report::say(&format!("slot \"{other}\" is another instance's: what both use stays"));
    }
    if !arguments.yes && !setup::ask(&format!("Run this in {}?", connect.redacted())) {
        report::say("nothing was changed");
        return Ok(Exit::Negative);
    }
    // One after the other: what a missing right keeps from the end does not keep the slot, which
    // costs the source its disk.
    for statement in &statements {
        client.batch_execute(statement).await.doing(&format!("run {statement}")).map_err(failed)?;
    }
    report::say(&format!(
        "removed; delete {} too when no other server uses it",
        config.data_dir.display()
    ));
    Ok(Exit::Done)
}

/// What there is of ours.
struct Found {
    /// Name of this instance's slot.
    slot: String,
    there: bool,
    /// The process in the source that reads it.
    reader: Option<i32>,
    /// Slots of other instances on this database.
    others: Vec<String>,
    publication: bool,
    event_trigger: bool,
    schema: bool,
}

impl Found {
    async fn look(config: &Config, client: &Client) -> Result<Found, PgError> {
        let row = client
            .query_one(
                "SELECT system_identifier, d.oid, \
                        EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = $1), \
                        EXISTS (SELECT FROM pg_catalog.pg_event_trigger \
                                WHERE evtname = 'headwater_ddl'), \
                        EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'headwater') \
                 FROM pg_catalog.pg_control_system(), pg_catalog.pg_database d \
                 WHERE d.datname = pg_catalog.current_database()",
                &[&config.database.publication],
            )
            .await
            .doing("look for what is left")?;
        let system_id = u64::from_ne_bytes(row.get::<_, i64>(0).to_ne_bytes());
        let name = slot::slot_name(system_id, row.get(1), &config.instance);
        let slots = client
            .query(
                "SELECT slot_name::text, active_pid FROM pg_catalog.pg_replication_slots \
                 WHERE database = pg_catalog.current_database() AND plugin = 'pgoutput' \
                   AND NOT temporary AND slot_name LIKE 'headwater\\_%'",
                &[],
            )
            .await
            .doing("look for slots")?;
        let own = slots.iter().find(|slot| slot.get::<_, &str>(0) == name);
        let others = slots.iter().map(|slot| slot.get::<_, String>(0));
        Ok(Found {
            there: own.is_some(),
            reader: own.and_then(|slot| slot.get(1)),
            others: others.filter(|other| *other != name).collect(),
            slot: name,
            publication: row.get(2),
            event_trigger: row.get(3),
            schema: row.get(4),
        })
    }

    fn statements(&self, config: &Config) -> Vec<String> {
        let alone = self.others.is_empty();
        let publication = quote_ident(&config.database.publication);
        let drop_slot =
            format!("SELECT pg_catalog.pg_drop_replication_slot({})", quote_literal(&self.slot));
        [
            (self.there, drop_slot),
            (alone && self.event_trigger, "DROP EVENT TRIGGER headwater_ddl".to_owned()),
            (alone && self.publication, format!("DROP PUBLICATION {publication}")),
            (alone && self.schema, "DROP SCHEMA headwater CASCADE".to_owned()),
        ]
        .into_iter()
        .filter_map(|(wanted, statement)| wanted.then_some(statement))
        .collect()
    }
}
