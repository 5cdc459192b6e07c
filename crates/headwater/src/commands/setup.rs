//! `headwater setup`: what writes need in the database, shown and then run.
//!
//! In: a connection of a superuser or of the role that serves. Out: schema, role, upload tables and
//! event trigger, the same whoever runs it; and a list of what the synced tables lack. Invariants:
//! nothing is run that was not shown; running it again changes nothing.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::sql;
use hw_types::relation::{quote_ident, quote_literal};
use hw_types::{Diagnostic, TableName};
use hw_write::schema;
use tokio_postgres::Client;

use crate::cli::Setup;
use crate::config::Config;
use crate::doctor::{pooler, writes};
use crate::report::{self, Exit};
use crate::sync_config;

/// Shows, asks, runs.
pub async fn run(config: &Config, arguments: &Setup) -> Exit {
    match connect_and_apply(config, arguments).await {
        Ok(exit) => exit,
        Err(finding) => super::refuse(*finding),
    }
}

async fn connect_and_apply(config: &Config, arguments: &Setup) -> Result<Exit, Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(config.database_url()?).map_err(Box::new)?;
    report::findings(&warnings, "");
    let connected = sql::connect(&connect.with_application_name("headwater setup")).await;
    let (client, _driver) =
        connected.map_err(|error| Box::new(pooler::finding_or(&connect, &error)))?;
    let statements = statements(config, arguments.role.as_deref(), &client).await?;
    if arguments.print {
        report::answer(&script(&statements));
        return Ok(Exit::Done);
    }
    report::note(&script(&statements));
    if !arguments.yes && !ask(&format!("Run this in {}?", connect.redacted())) {
        report::say("nothing was changed");
        return Ok(Exit::Negative);
    }
    apply(&client, &statements).await?;
    report::say("the database is set up for writes");
    let found = writes::findings(config, &client).await.map_err(|e| Box::new(e.diagnostic()))?;
    if !found.is_empty() {
        report::say("before clients can write, or as only they should:");
        let (notes, faults): (Vec<_>, Vec<_>) = found.into_iter().partition(writes::is_note);
        report::findings(&faults, "");
        for finding in &notes {
            report::note(&format!("note: {}\n", writes::note(finding)));
        }
    }
    Ok(Exit::Done)
}

/// The statements for this database, in order.
///
/// - Takes: the role that serves, if it is another than the one connected.
pub async fn statements(
    config: &Config,
    server_role: Option<&str>,
    client: &Client,
) -> Result<Vec<String>, Box<Diagnostic>> {
    let plan = schema::plan(client, server_role, config.uploads.role.as_deref()).await?;
    let mut statements = schema::statements(&plan);
    statements.extend(publish_rejected(config));
    statements.push(DDL_MARKERS.to_owned());
    Ok(statements)
}

/// Puts the rejected writes into the publication, where the sync configuration reads them. The
/// server adds tables that are its own to a publication that is its own; this is for one that
/// somebody else made.
fn publish_rejected(config: &Config) -> Option<String> {
    let file = sync_config::configured(config).ok()??;
    let read = sync_config::patterns(&file);
    let rejected = TableName::new("headwater", "rejected_writes");
    let wanted = read.iter().any(|pattern| pattern.matches(&rejected));
    let name = &config.database.publication;
    wanted.then(|| {
        format!(
            "DO $do$ BEGIN
  IF EXISTS (SELECT FROM pg_catalog.pg_publication WHERE pubname = {text} AND NOT puballtables)
     AND NOT EXISTS (SELECT FROM pg_catalog.pg_publication_tables
       WHERE pubname = {text} AND schemaname = 'headwater' AND tablename = 'rejected_writes') THEN
    ALTER PUBLICATION {quoted} ADD TABLE headwater.rejected_writes;
  END IF;
EXCEPTION WHEN insufficient_privilege THEN
  RAISE NOTICE 'headwater.rejected_writes is to be added to the publication by its owner';
END $do$",
            text = quote_literal(name),
            quoted = quote_ident(name),
        )
    })
}

/// The statements as a script.
pub fn script(statements: &[String]) -> String {
    statements.iter().map(|statement| format!("{};\n\n", statement.trim_end())).collect()
}

/// Changes of tables put a marker into the log, so that they are noticed at once and in their
/// place; without it they are noticed by looking every second. Event triggers need a superuser on
/// most servers: where that is missing everything else still works.
///
/// The function runs as whoever changes a table, a superuser among them. So it belongs to who made
/// the trigger, never to somebody who could put other code into it.
const DDL_MARKERS: &str = "DO $do$
BEGIN
    IF EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'headwater_ddl') THEN
        RETURN;
    END IF;
    DROP FUNCTION IF EXISTS headwater.ddl_marker();
    CREATE FUNCTION headwater.ddl_marker() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = '' AS $marker$
BEGIN
    -- What a session has for itself concerns nobody else. (What is dropped is not listed.)
    IF EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands())
       AND NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger_ddl_commands()
                       WHERE schema_name IS DISTINCT FROM 'pg_temp') THEN
        RETURN;
    END IF;
    PERFORM pg_catalog.pg_logical_emit_message(true, 'headwater_ddl', TG_TAG);
END
$marker$;
    CREATE EVENT TRIGGER headwater_ddl ON ddl_command_end
        EXECUTE FUNCTION headwater.ddl_marker();
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'event triggers need a superuser; changes of tables are noticed by looking';
END
$do$";

/// Runs the statements in one transaction.
///
/// - Errors: of the statement that failed, with what the role may be missing.
pub async fn apply(client: &Client, statements: &[String]) -> Result<(), Box<Diagnostic>> {
    let failed = |error: tokio_postgres::Error, statement: &str| {
        let mut finding = PgError::from(error).diagnostic();
        finding.context = Some(format!("statement: {}", gist(statement)));
        if finding.mend.is_none() {
            finding.mend = Some(
                "give the SQL to a superuser: headwater setup --print > setup.sql; or run it with \
                 his --database-url and, as --role, the role that serves"
                    .to_owned(),
            );
        }
        Box::new(finding)
    };
    client.batch_execute("BEGIN").await.map_err(|error| failed(error, "BEGIN"))?;
    for statement in statements {
        if let Err(error) = client.batch_execute(statement).await {
            let finding = failed(error, statement);
            let _ = client.batch_execute("ROLLBACK").await;
            return Err(finding);
        }
    }
    client.batch_execute("COMMIT").await.map_err(|error| failed(error, "COMMIT"))
}

/// What a statement does, in a line: of a block the first line that is no condition.
fn gist(statement: &str) -> &str {
    let frame = ["DO ", "BEGIN", "DECLARE", "IF ", "--"];
    let mut lines = statement.lines().map(str::trim).filter(|line| !line.is_empty());
    let first = lines.clone().next().unwrap_or_default();
    lines.find(|line| !frame.iter().any(|word| line.starts_with(word))).unwrap_or(first)
}

/// Asks a yes-or-no question. Without a terminal to answer on the answer is no.
pub fn ask(question: &str) -> bool {
    if !io::stdin().is_terminal() {
        report::say(&format!("{question} Not asked, because there is no terminal; use --yes."));
        return false;
    }
    let _ = write!(io::stderr().lock(), "headwater: {question} [y/N] ");
    let _ = io::stderr().lock().flush();
    let mut answer = String::new();
    let read = io::stdin().lock().read_line(&mut answer);
    read.is_ok() && matches!(answer.trim().to_lowercase().as_str(), "y" | "yes")
}
