//! `headwater teardown`: what a server that is gone for good left in the database, shown and then
//! removed.
//!
//! In: a connection. Out: no slot of this instance, and unless another instance is left no
//! publication, event trigger or schema of ours; what the role may not remove is named, with who may.
//! Invariants: nothing is run that was not shown; a slot that a server reads is not touched; running
//! it again does what is left to do.

use hw_pg::config::ConnectConfig;
use hw_pg::error::{Doing as _, PgError};
use hw_pg::{memory, slot, sql};
use hw_types::Diagnostic;
use hw_types::relation::{quote_ident, quote_literal};
use tokio_postgres::Client;

use super::setup;
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
    let (connect, warnings) = ConnectConfig::parse(config.database_url()?).map_err(Box::new)?;
    report::findings(&warnings, "");
    let connected = sql::connect(&connect.with_application_name("headwater teardown")).await;
    let (client, _driver) =
        connected.map_err(|error| Box::new(pooler::finding_or(&connect, &error)))?;
    let failed = |error: PgError| Box::new(error.diagnostic());
    let found = Found::look(config, &client).await.map_err(failed)?;
    let removals = found.removals(config);
    let statements: Vec<String> = removals.iter().map(|removal| removal.sql.clone()).collect();
    if statements.is_empty() {
        report::say(&format!("nothing of instance \"{}\" is left", config.instance));
        return Ok(Exit::Done);
    }
    let is_read = found.reader.map(|reader| {
        format!("a server reads slot \"{}\" (process {reader} in the source)", found.slot)
    });
    if arguments.print {
        report::answer(&setup::script(&statements));
        if let Some(is_read) = is_read {
            report::say(&format!("{is_read}: stop it before this is run"));
        }
        return Ok(Exit::Done);
    }
    if let Some(is_read) = is_read {
        let finding = Diagnostic::error(code::SLOT_IN_USE, is_read).mend("stop the server first");
        return Err(Box::new(finding));
    }
    report::note(&setup::script(&statements));
    for other in &found.others {
        report::say(&format!("slot \"{other}\" is another instance's: what both use stays"));
    }
    if !arguments.yes && !setup::ask(&format!("Run this in {}?", connect.redacted())) {
        report::say("nothing was changed");
        return Ok(Exit::Negative);
    }
    // Each by itself: what a missing right keeps here keeps nothing else.
    let mut refused = Vec::new();
    for Removal { sql, .. } in &removals {
        if let Err(error) = client.batch_execute(sql).await {
            refused.push((sql.clone(), PgError::from(error)));
        }
    }
    // What one statement was refused another may have taken with it.
    let left = Found::look(config, &client).await.map_err(failed)?.removals(config);
    if left.is_empty() {
        report::say(&format!(
            "removed; delete {} too when no other server uses it",
            config.data_dir.display()
        ));
        return Ok(Exit::Done);
    }
    report::findings(&left.iter().map(|it| it.finding(&refused)).collect::<Vec<_>>(), "");
    report::say("everything else is removed; run this again when that is done");
    Ok(Exit::Failed)
}

/// One thing of ours, and how it goes.
struct Removal {
    what: String,
    sql: String,
    /// Who may run the statement, beside a superuser.
    by: String,
}

impl Removal {
    /// That it is left.
    fn finding(&self, refused: &[(String, PgError)]) -> Diagnostic {
        let why = refused.iter().find(|(sql, _)| *sql == self.sql);
        let why = why.map_or(String::new(), |(_, error)| format!(": {}", error.diagnostic().what));
        Diagnostic::error(code::LEFT_BEHIND, format!("{} is left{why}", self.what))
            .mend(format!("as {} or a superuser: {};", self.by, self.sql))
    }
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
    /// Statements that say that the slot's last store is gone.
    farewell: Vec<String>,
    /// The owner of each, where it is there.
    publication: Option<String>,
    event_trigger: Option<String>,
    schema: Option<String>,
}

impl Found {
    async fn look(config: &Config, client: &Client) -> Result<Found, PgError> {
        let row = client
            .query_one(
                "SELECT system_identifier, d.oid, \
                        (SELECT pg_catalog.pg_get_userbyid(pubowner)::text \
                         FROM pg_catalog.pg_publication WHERE pubname = $1), \
                        (SELECT pg_catalog.pg_get_userbyid(evtowner)::text \
                         FROM pg_catalog.pg_event_trigger WHERE evtname = 'headwater_ddl'), \
                        (SELECT pg_catalog.pg_get_userbyid(nspowner)::text \
                         FROM pg_catalog.pg_namespace WHERE nspname = 'headwater') \
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
            farewell: memory::farewell(client, &name).await?,
            slot: name,
            publication: row.get(2),
            event_trigger: row.get(3),
            schema: row.get(4),
        })
    }

    /// The slot first, which costs the source its disk; the schema before the event trigger, whose
    /// function lies in it: it goes with the schema, which its owner may drop, while the trigger is
    /// whose superuser made it.
    fn removals(&self, config: &Config) -> Vec<Removal> {
        let removal = |what: String, sql: String, by: String| Removal { what, sql, by };
        let owned = |owner: &Option<String>, what: &str, sql: &str| {
            let owner = owner.as_ref().filter(|_| self.others.is_empty())?;
            Some(removal(what.to_owned(), sql.to_owned(), format!("its owner \"{owner}\"")))
        };
        let publication = quote_ident(&config.database.publication);
        let slot = self.there.then(|| {
            let sql = format!(
                "SELECT pg_catalog.pg_drop_replication_slot({})",
                quote_literal(&self.slot)
            );
            removal(format!("slot \"{}\"", self.slot), sql, "a role with REPLICATION".to_owned())
        });
        let farewell = self.farewell.iter().map(|sql| {
            let what = format!("what the source remembers of who used slot \"{}\"", self.slot);
            removal(what, sql.clone(), "the role that served".to_owned())
        });
        let ours = [
            slot,
            owned(
                &self.publication,
                &format!("publication {publication}"),
                &format!("DROP PUBLICATION {publication}"),
            ),
            owned(&self.schema, "schema headwater", "DROP SCHEMA headwater CASCADE"),
            owned(
                &self.event_trigger,
                "event trigger headwater_ddl",
                "DROP EVENT TRIGGER IF EXISTS headwater_ddl",
            ),
        ];
        ours.into_iter().flatten().chain(farewell).collect()
    }
}
