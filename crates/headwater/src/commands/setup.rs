//! `headwater setup`: what writes need in the database, shown and then run.
//!
//! In: a connection whose role may create schemas and roles. Out: schema, role, upload tables and
//! event trigger. Invariants: nothing is run that was not shown; running it again changes
//! nothing.

use std::io::{self, BufRead as _, IsTerminal as _, Write as _};

use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::sql;
use hw_types::Diagnostic;
use hw_write::schema;
use tokio_postgres::Client;

use super::database_url;
use crate::cli::Setup;
use crate::config::Config;
use crate::doctor::pooler;
use crate::report::{self, Exit};

/// Shows, asks, runs.
pub async fn run(config: &Config, arguments: &Setup) -> Exit {
    match connect_and_apply(config, arguments).await {
        Ok(exit) => exit,
        Err(finding) => super::refuse(*finding),
    }
}

async fn connect_and_apply(config: &Config, arguments: &Setup) -> Result<Exit, Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(database_url(config)?).map_err(Box::new)?;
    report::findings(&warnings, "");
    let connected = sql::connect(&connect.with_application_name("headwater setup")).await;
    let (client, _driver) =
        connected.map_err(|error| Box::new(pooler::finding_or(&connect, &error)))?;
    let statements = statements(config, &client).await?;
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
    Ok(Exit::Done)
}

/// The statements for this database, in order.
pub async fn statements(config: &Config, client: &Client) -> Result<Vec<String>, Box<Diagnostic>> {
    let plan = schema::plan(client, None, config.uploads.role.as_deref()).await;
    let mut statements = schema::statements(&plan.map_err(|error| Box::new(error.diagnostic()))?);
    statements.extend(DDL_MARKERS.iter().map(|statement| (*statement).to_owned()));
    Ok(statements)
}

/// The statements as a script.
pub fn script(statements: &[String]) -> String {
    statements.iter().map(|statement| format!("{};\n\n", statement.trim_end())).collect()
}

/// Changes of tables put a marker into the log, so that they are noticed at once and in their
/// place; without it they are noticed by looking every second. Event triggers need a superuser on
/// most servers: where that is missing everything else still works.
const DDL_MARKERS: [&str; 2] = [
    "CREATE OR REPLACE FUNCTION headwater.ddl_marker() RETURNS event_trigger
    LANGUAGE plpgsql SET search_path = '' AS $do$
BEGIN
    PERFORM pg_catalog.pg_logical_emit_message(true, 'headwater_ddl', TG_TAG);
END
$do$",
    "DO $do$
BEGIN
    IF NOT EXISTS (SELECT FROM pg_catalog.pg_event_trigger WHERE evtname = 'headwater_ddl') THEN
        CREATE EVENT TRIGGER headwater_ddl ON ddl_command_end
            EXECUTE FUNCTION headwater.ddl_marker();
    END IF;
EXCEPTION WHEN insufficient_privilege THEN
    RAISE NOTICE 'event triggers need a superuser; changes of tables are noticed by looking';
END
$do$",
];

/// Runs the statements in one transaction.
///
/// - Errors: of the statement that failed, with what the role may be missing.
pub async fn apply(client: &Client, statements: &[String]) -> Result<(), Box<Diagnostic>> {
    let failed = |error: tokio_postgres::Error, statement: &str| {
        let first = statement.trim().lines().next().unwrap_or_default();
        let mut finding = PgError::from(error).diagnostic().at(format!("statement: {first}"));
        if finding.mend.is_none() {
            finding.mend = Some(
                "run `headwater setup --print` and give the SQL to a role that may create schemas \
                 and roles"
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
