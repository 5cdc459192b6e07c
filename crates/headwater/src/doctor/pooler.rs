//! Whether a pooler stands between us and Postgres, which replication cannot go through.
//!
//! In: the error with which a connection, or a statement on it, ended. Out: at most one finding
//! (HW2140) that names the mend. Invariant: what Postgres itself refuses (a password, an entry of
//! `pg_hba.conf`, a missing attribute) is never blamed on a pooler.
//!
//! Sources: PgBouncer's manual (`ignore_startup_parameters`, `pool_mode`), and the answers of
//! PgBouncer 1.18 in session and transaction mode, which `tests/pooler.rs` asks for.

use hw_pg::config::{Address, ConnectConfig, PINNED_SETTINGS};
use hw_pg::error::{PgError, PgErrorKind, code as pg_code};
use hw_types::Diagnostic;
use tokio_postgres::{Client, SimpleQueryMessage};

use crate::code;

/// Ports on which poolers usually listen: PgBouncer, Supavisor in transaction mode.
const USUAL_PORTS: [u16; 2] = [6432, 6543];

/// What status and log say of it where there is room for a line.
pub const IN_SHORT: &str = "a pooler stands before Postgres, and replication cannot go through it";

/// The finding, if only a pooler answers like this.
pub fn finding(connect: &ConnectConfig, error: &PgError) -> Option<Diagnostic> {
    let what = match error.sqlstate() {
        _ if error.code() == pg_code::POOLER => IN_SHORT,
        // The parameter `replication` was thrown away: an ordinary session answers.
        Some("42601") if error.to_string().contains("identify the system") => IN_SHORT,
        // A statement that we have prepared is not known, or one that we have not is.
        Some("26000" | "42P05") => {
            "a pooler stands before Postgres and gives every transaction another session"
        }
        _ if is_unusual(error) && has_usual_port(connect) => IN_SHORT,
        _ => return None,
    };
    Some(describe(connect, what, &error.diagnostic().what))
}

/// What a person is told of an error: that a pooler is in the way, or the error's own finding.
pub fn finding_or(connect: &ConnectConfig, error: &PgError) -> Diagnostic {
    finding(connect, error).unwrap_or_else(|| error.diagnostic())
}

/// The finding that settings of our sessions do not arrive: those which decide how values print.
///
/// A pooler that is told to ignore the startup parameter `options` drops them without a word.
///
/// - Errors: of the question.
pub async fn dropped_settings(
    connect: &ConnectConfig,
    client: &Client,
) -> Result<Option<Diagnostic>, PgError> {
    let mut lost = Vec::new();
    for (name, wanted) in PINNED_SETTINGS {
        let row = first_row(client, &format!("SHOW {name}")).await?;
        // DateStyle is shown with the order of its fields behind it.
        let arrived = row.first().is_some_and(|found| found.split(',').next() == Some(wanted));
        if !arrived {
            lost.push(name);
        }
    }
    Ok((!lost.is_empty()).then(|| {
        let what = "a pooler stands before Postgres and drops the settings of our sessions";
        describe(connect, what, &lost.join(", "))
    }))
}

/// Where Postgres itself listens, as it says; it may know itself by another address than we do.
pub async fn real_address(client: &Client) -> Option<String> {
    const ASK: &str =
        "SELECT pg_catalog.host(pg_catalog.inet_server_addr()), pg_catalog.inet_server_port()";
    let row = first_row(client, ASK).await.ok()?;
    match row.as_slice() {
        [host, port] if !host.is_empty() => Some(format!("host {host}, port {port}")),
        _ => None,
    }
}

/// The first row of an answer, NULL as empty text, without preparing a statement: that is what
/// goes wrong in the middle of a pooler.
async fn first_row(client: &Client, sql: &str) -> Result<Vec<String>, PgError> {
    let answer = client.simple_query(sql).await?;
    Ok(answer
        .iter()
        .find_map(|message| match message {
            SimpleQueryMessage::Row(row) => Some(row),
            _ => None,
        })
        .map(|row| (0..row.len()).map(|i| row.get(i).unwrap_or_default().to_owned()).collect())
        .unwrap_or_default())
}

fn describe(connect: &ConnectConfig, what: &str, answer: &str) -> Diagnostic {
    let hosts: Vec<String> = connect.hosts().iter().map(ToString::to_string).collect();
    let direct = match connect.hosts().iter().find_map(|host| match &host.address {
        Address::Tcp { name, .. } => Some(name.as_str()),
        Address::Unix(_) => None,
    }) {
        Some(name) if name.contains("-pooler.") => {
            format!("its own host {}", name.replace("-pooler.", "."))
        }
        Some(name) if name.ends_with(".pooler.supabase.com") => {
            "the project's direct connection, db.<project>.supabase.co:5432".to_owned()
        }
        _ => "its own host and port, usually 5432".to_owned(),
    };
    Diagnostic::error(code::POOLER, what).at(format!("{}: {answer}", hosts.join(", "))).mend(
        format!(
            "name Postgres itself in DATABASE_URL (or database.url, --database-url): {direct}; \
             everybody else may go on using the pooler"
        ),
    )
}

/// An error that is no answer of Postgres to a connection it understands.
fn is_unusual(error: &PgError) -> bool {
    match error.kind() {
        PgErrorKind::Lost(_) | PgErrorKind::Silent(_) | PgErrorKind::Protocol(_) => true,
        PgErrorKind::Server(error) => {
            ["08", "0A", "XX"].iter().any(|class| error.sqlstate.starts_with(class))
        }
        _ => false,
    }
}

fn has_usual_port(connect: &ConnectConfig) -> bool {
    connect.hosts().iter().any(|host| USUAL_PORTS.contains(&host.port))
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_pg::error::ServerError;

    fn connect(url: &str) -> ConnectConfig {
        ConnectConfig::parse(url).expect("a connection string").0
    }

    fn answer(sqlstate: &str, message: &str) -> PgError {
        let body = format!("C{sqlstate}\0M{message}\0\0");
        PgError::server(ServerError::from_body(body.as_bytes()))
    }

    #[test]
    fn what_postgres_itself_refuses_is_never_blamed_on_a_pooler() {
        for (sqlstate, message) in [
            ("28P01", "password authentication failed for user \"u\""),
            ("28000", "no pg_hba.conf entry for replication connection"),
            ("42501", "must be superuser or replication role to start walsender"),
            ("53300", "number of requested standby connections exceeds max_wal_senders"),
            ("57P03", "the database system is starting up"),
            ("42601", "syntax error in some other statement"),
        ] {
            let told = finding(&connect("postgres://u@h:6432/d"), &answer(sqlstate, message));
            assert_eq!(told, None, "{message}");
        }
    }

    #[test]
    fn an_answer_that_only_poolers_give_is_told_with_the_mend() {
        let error = answer("08P01", "unsupported startup parameter: replication");
        let told = |url: &str| finding(&connect(url), &error).expect("a pooler").to_string();
        assert_eq!(
            told("postgres://u@db.example:7000/d"),
            "error[HW2140]: a pooler stands before Postgres, and replication cannot go through it\n  \
             where: db.example:7000: unsupported startup parameter: replication (SQLSTATE 08P01)\n  \
             mend:  name Postgres itself in DATABASE_URL (or database.url, --database-url): its own \
             host and port, usually 5432; everybody else may go on using the pooler"
        );
        let neon = told("postgres://u@ep-a-1-pooler.eu.aws.neon.tech/d");
        assert!(neon.contains("its own host ep-a-1.eu.aws.neon.tech;"), "{neon}");
        let supabase = told("postgres://u@aws-0-eu.pooler.supabase.com:6543/d");
        assert!(supabase.contains("db.<project>.supabase.co:5432;"), "{supabase}");
    }

    #[test]
    fn a_strange_answer_counts_only_on_a_poolers_port() {
        let error = answer("0A000", "replication mode is not supported");
        assert!(finding(&connect("postgres://u@h:6543/d"), &error).is_some());
        assert_eq!(finding(&connect("postgres://u@h:5433/d"), &error), None);
    }
}
