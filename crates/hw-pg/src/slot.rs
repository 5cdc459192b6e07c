//! The replication slot: its name, its state, who holds it, what holds back a new one.
//!
//! In: an SQL connection. Out: [`SlotState`] and findings for a person. Invariant: a slot that is
//! not ours is never dropped; ours is named by a hash over what it belongs to, so two servers
//! with copies of one database, or two instances on one, never share a name by accident.

use crate::catalog::code;
use crate::error::{Doing as _, PgError, Result};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, EndLsn, FullXid, Lsn};
use serde::Deserialize;
use sha2::{Digest, Sha256};
use std::time::Duration;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// SQLSTATEs.
const UNDEFINED_OBJECT: &str = "42704";
const CONFIGURATION_LIMIT_EXCEEDED: &str = "53400";
const TOO_MANY_CONNECTIONS: &str = "53300";
const OBJECT_IN_USE: &str = "55006";
const INSUFFICIENT_PRIVILEGE: &str = "42501";

/// The slot's name: `headwater_` and 16 hexadecimal digits.
///
/// - Takes: the system identifier, the database's oid, and the instance's name (empty for the
///   only one).
pub fn slot_name(system_id: u64, database_oid: u32, instance: &str) -> String {
    let mut hash = Sha256::new();
    hash.update(system_id.to_be_bytes());
    hash.update(database_oid.to_be_bytes());
    hash.update(instance.as_bytes());
    let digest = hash.finalize();
    let digits: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("headwater_{digits}")
}

/// How much of the log the slot still has.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum WalStatus {
    /// Within `max_wal_size`.
    Reserved,
    /// Beyond it, but kept for the slot.
    Extended,
    /// About to be removed at the next checkpoint.
    Unreserved,
    /// Gone: the slot cannot be used any more.
    Lost,
}

/// A slot as `pg_replication_slots` shows it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SlotState {
    /// Its name.
    pub name: String,
    /// Its output plugin; ours is `pgoutput`. `None` for a physical slot.
    pub plugin: Option<String>,
    /// Its database; `None` for a physical slot.
    pub database: Option<String>,
    /// Whether it ends with its session.
    pub temporary: bool,
    /// The walsender that uses it.
    pub active_pid: Option<u32>,
    /// From where the log is kept.
    pub restart_lsn: Option<Lsn>,
    /// Up to where changes were acknowledged. Less than a transaction's end_lsn: it is sent again.
    pub confirmed_flush: Option<EndLsn>,
    /// How much of the log it has; `None` for a slot without reserved log.
    pub wal_status: Option<WalStatus>,
    /// Bytes that can be written before the slot may be lost; `None` without a limit.
    pub safe_wal_bytes: Option<i64>,
    /// Bytes of log that the slot keeps.
    pub retained_bytes: u64,
    /// Where the server's log ends that a walsender may read; `None` in recovery.
    pub log_end: Option<EndLsn>,
    /// The next transaction id that the server gives.
    pub next_xid: FullXid,
    /// Why the slot was invalidated (major 17 and newer).
    pub invalidation: Option<String>,
}

#[derive(Deserialize)]
struct Answer {
    plugin: Option<String>,
    database: Option<String>,
    temporary: bool,
    active_pid: Option<u32>,
    restart_lsn: Option<String>,
    confirmed_flush_lsn: Option<String>,
    wal_status: Option<String>,
    safe_wal_size: Option<i64>,
    invalidation_reason: Option<String>,
}

impl SlotState {
    /// Reads a slot; `None` if there is none of that name.
    pub async fn read(client: &Client, name: &str) -> Result<Option<SlotState>> {
        const QUERY: &str = "
            SELECT pg_catalog.to_json(s)::text,
                   CASE WHEN pg_catalog.pg_is_in_recovery() THEN 0
                        ELSE coalesce(pg_catalog.pg_wal_lsn_diff(
                               pg_catalog.pg_current_wal_lsn(), s.restart_lsn), 0) END::int8,
                   CASE WHEN pg_catalog.pg_is_in_recovery() THEN NULL
                        ELSE pg_catalog.pg_current_wal_flush_lsn() END::text,
                   pg_catalog.pg_snapshot_xmax(pg_catalog.pg_current_snapshot())::text
            FROM pg_catalog.pg_replication_slots s WHERE s.slot_name = $1";
        let row =
            client.query_typed_opt(QUERY, &[(&name, Type::TEXT)]).await.doing("read the slot")?;
        let Some(row) = row else { return Ok(None) };
        let answer: Answer = crate::catalog::from_json(row.try_get(0)?)?;
        let retained: i64 = row.try_get(1)?;
        let next_xid = row.try_get::<_, &str>(3)?.parse().map(FullXid);
        let unreadable = |_| PgError::protocol("a transaction id that cannot be read");
        let lsn = |text: Option<String>| text.and_then(|text| text.parse::<Lsn>().ok());
        Ok(Some(SlotState {
            name: name.to_owned(),
            plugin: answer.plugin,
            database: answer.database,
            temporary: answer.temporary,
            active_pid: answer.active_pid,
            restart_lsn: lsn(answer.restart_lsn),
            confirmed_flush: lsn(answer.confirmed_flush_lsn).map(EndLsn),
            wal_status: match answer.wal_status.as_deref() {
                Some("reserved") => Some(WalStatus::Reserved),
                Some("extended") => Some(WalStatus::Extended),
                Some("unreserved") => Some(WalStatus::Unreserved),
                Some(_) => Some(WalStatus::Lost),
                None => None,
            },
            safe_wal_bytes: answer.safe_wal_size,
            retained_bytes: u64::try_from(retained).unwrap_or_default(),
            log_end: lsn(row.try_get(2)?).map(EndLsn),
            next_xid: next_xid.map_err(unreadable)?,
            invalidation: answer.invalidation_reason,
        }))
    }

    /// Whether the slot can never be streamed from again.
    pub fn is_lost(&self) -> bool {
        self.wal_status == Some(WalStatus::Lost) || self.invalidation.is_some()
    }
}

/// Drops a slot; false if it was not there.
///
/// - Errors: it is in use (55006); no right.
pub async fn drop_slot(client: &Client, name: &str) -> Result<bool> {
    match client.query("SELECT pg_catalog.pg_drop_replication_slot($1::text)", &[&name]).await {
        Ok(_) => Ok(true),
        Err(error) if error.code().is_some_and(|code| code.code() == UNDEFINED_OBJECT) => Ok(false),
        Err(error) => Err(PgError::from(error).doing("drop the slot")),
    }
}

/// A session, or a prepared transaction, that something waits for.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Session {
    /// Its process; `None` for a prepared transaction.
    pub pid: Option<u32>,
    /// Whose it is, as far as our role may see it.
    pub user: Option<String>,
    /// `application_name`, or the identifier of a prepared transaction.
    pub application: Option<String>,
    /// For example `idle in transaction`.
    pub state: Option<String>,
    /// How long its transaction has been open.
    pub open_for: Option<Duration>,
}

impl std::fmt::Display for Session {
    /// `pid 4711 ("psql", role "ann", idle in transaction, open for 62 s)`.
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self.pid {
            Some(pid) => write!(f, "pid {pid}")?,
            None => write!(f, "prepared transaction")?,
        }
        let mut details = Vec::new();
        details.extend(
            self.application.iter().filter(|name| !name.is_empty()).map(|n| format!("\"{n}\"")),
        );
        details.extend(self.user.iter().map(|user| format!("role \"{user}\"")));
        details.extend(self.state.iter().cloned());
        details.extend(self.open_for.map(|open| format!("open for {} s", open.as_secs())));
        match details.is_empty() {
            true => Ok(()),
            false => write!(f, " ({})", details.join(", ")),
        }
    }
}

const SESSION_COLUMNS: &str = "a.pid::int4, a.usename::text, a.application_name, a.state,
    extract(epoch FROM pg_catalog.clock_timestamp() - a.xact_start)::float8";

fn session(row: &tokio_postgres::Row) -> Result<Session> {
    let pid: Option<i32> = row.try_get(0)?;
    let open: Option<f64> = row.try_get(4)?;
    Ok(Session {
        pid: pid.and_then(|pid| u32::try_from(pid).ok()),
        user: row.try_get(1)?,
        application: row.try_get(2)?,
        state: row.try_get(3)?,
        open_for: open.and_then(|seconds| Duration::try_from_secs_f64(seconds).ok()),
    })
}

/// The session of a process, for messages. Knows at least the pid.
pub async fn session_of(client: &Client, pid: u32) -> Result<Session> {
    let sql =
        format!("SELECT {SESSION_COLUMNS} FROM pg_catalog.pg_stat_activity a WHERE a.pid = $1");
    let unknown =
        Session { pid: Some(pid), user: None, application: None, state: None, open_for: None };
    match client.query_opt(&sql, &[&(pid as i32)]).await? {
        Some(row) => session(&row),
        None => Ok(unknown),
    }
}

/// Whose transactions hold back the creation of a slot on the walsender `pid` (F-18): the server
/// waits until every transaction that was open when it began has ended.
///
/// - Returns: those it waits for right now; empty when it does not wait.
pub async fn blockers(client: &Client, pid: u32) -> Result<Vec<Session>> {
    let sql = format!(
        "SELECT {SESSION_COLUMNS}
         FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) AS b(pid)
         JOIN pg_catalog.pg_stat_activity a ON a.pid = b.pid
         UNION ALL
         SELECT NULL, x.owner::text, x.gid, 'prepared',
           extract(epoch FROM pg_catalog.clock_timestamp() - x.prepared)::float8
         FROM pg_catalog.unnest(pg_catalog.pg_blocking_pids($1)) AS b(pid)
         JOIN pg_catalog.pg_prepared_xacts x ON b.pid = 0"
    );
    client.query(&sql, &[&(pid as i32)]).await?.iter().map(session).collect()
}

/// The finding for a slot whose creation waits.
pub fn blocked(blockers: &[Session]) -> Diagnostic {
    let names: Vec<String> = blockers.iter().map(Session::to_string).collect();
    let pids: Vec<String> = blockers
        .iter()
        .filter_map(|session| session.pid)
        .map(|pid| format!("SELECT pg_terminate_backend({pid});"))
        .collect();
    let finding = Diagnostic::warning(
        code::SLOT_BLOCKED,
        format!("making a slot waits for the end of an open transaction: {}", names.join(", ")),
    );
    match pids.is_empty() {
        true => finding.mend("COMMIT PREPARED or ROLLBACK PREPARED it"),
        false => finding.mend(format!("end it, or {}", pids.join(" "))),
    }
}

/// The finding for a slot that another process uses (F-16).
pub fn busy(slot: &str, holder: &Session) -> Diagnostic {
    Diagnostic::warning(
        code::SLOT_BUSY,
        format!("slot \"{slot}\" is used by another process, waiting for it: {holder}"),
    )
    .mend("stop the other instance; it is taken over by itself when it ends")
}

/// The finding for a slot that a walsender of our own still uses, with which we have no connection any more.
///
/// - Takes: how long ago the stream was heard last, if it ended because it was silent.
pub fn hung(slot: &str, walsender: &Session, silent: Option<Duration>) -> Diagnostic {
    let silent =
        silent.map(|silent| format!(", and has not sent anything for {} s", silent.as_secs()));
    let what = format!(
        "the walsender of our last connection still uses slot \"{slot}\"{}: {walsender}",
        silent.unwrap_or_default()
    );
    let end = walsender.pid.map(|pid| format!("SELECT pg_terminate_backend({pid}); or "));
    Diagnostic::error(code::SLOT_HUNG, what).mend(format!(
        "it ends by itself when wal_sender_timeout is over. Where it does not: {}see with a debugger or \
         in the server's log what the process waits for",
        end.unwrap_or_default()
    ))
}

/// Watches a slot until nobody uses it; whoever waits decides how often to look.
pub struct SlotWait<'a, F> {
    name: &'a str,
    report: F,
    reported: Option<u32>,
}

/// What one look at a slot found.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotUse {
    /// Nobody uses it, or it does not exist.
    Free,
    /// A walsender uses it.
    Busy {
        /// Its process.
        pid: u32,
    },
}

impl SlotUse {
    /// Whether nobody uses the slot.
    pub fn is_free(self) -> bool {
        self == SlotUse::Free
    }
}

impl<'a, F: FnMut(&Session)> SlotWait<'a, F> {
    /// A wait that has not looked yet.
    ///
    /// - Takes: `report`, called with the holder at first and whenever it is another one.
    pub fn new(name: &'a str, report: F) -> SlotWait<'a, F> {
        SlotWait { name, report, reported: None }
    }

    /// Looks once.
    pub async fn look(&mut self, client: &Client) -> Result<SlotUse> {
        let state = SlotState::read(client, self.name).await?;
        let Some(pid) = state.and_then(|state| state.active_pid) else {
            return Ok(SlotUse::Free);
        };
        if self.reported != Some(pid) {
            self.reported = Some(pid);
            let holder = session_of(client, pid).await?;
            (self.report)(&holder);
        }
        Ok(SlotUse::Busy { pid })
    }
}

/// The finding for a failed command about slots or streaming, where more can be said than the
/// server says.
pub fn diagnose(error: &PgError) -> Diagnostic {
    let general = error.diagnostic();
    let finding = match error.sqlstate() {
        Some(CONFIGURATION_LIMIT_EXCEEDED) => {
            Diagnostic::error(code::NO_FREE_SLOT, "all replication slots of the server are in use")
                .mend(
                    "drop a slot that nobody needs (SELECT slot_name, active FROM \
                     pg_replication_slots), or raise max_replication_slots and restart Postgres",
                )
        }
        Some(TOO_MANY_CONNECTIONS) if general.what.contains("max_wal_senders") => {
            Diagnostic::error(code::NO_FREE_SENDER, "all walsenders of the server are in use")
                .mend("raise max_wal_senders and restart Postgres")
        }
        Some(OBJECT_IN_USE) => Diagnostic::error(code::SLOT_BUSY, general.what.clone())
            .mend("stop the other instance that uses the slot"),
        Some(INSUFFICIENT_PRIVILEGE) if general.mend.is_none() && is_about_replication(error) => {
            Diagnostic::error(code::NO_REPLICATION, general.what.clone())
                .mend("ALTER ROLE … REPLICATION; for the role that Headwater connects as")
        }
        _ => return general,
    };
    match general.context {
        Some(context) => finding.at(context),
        None => finding,
    }
}

/// Whether it failed at what only a role with REPLICATION may do. A table that may not be read is
/// another matter.
fn is_about_replication(error: &PgError) -> bool {
    ["open a replication connection", "create slot", "start replication"]
        .iter()
        .any(|what| error.was_doing(what))
}

/// A refusal to open a replication connection, with the statement for the role that asked.
pub(crate) fn named_for(user: &str, error: PgError) -> PgError {
    match error.sqlstate() {
        Some(INSUFFICIENT_PRIVILEGE) => {
            let what = error.diagnostic().what;
            PgError::from(
                Diagnostic::error(code::NO_REPLICATION, what)
                    .mend(format!("ALTER ROLE {} REPLICATION;", quote_ident(user))),
            )
        }
        _ => error,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::error::ServerError;

    #[test]
    fn slot_names_depend_on_system_database_and_instance() {
        let name = slot_name(7, 5, "");
        assert_eq!(name.len(), "headwater_".len() + 16);
        assert!(name.bytes().all(|b| b.is_ascii_lowercase() || b.is_ascii_digit() || b == b'_'));
        assert_eq!(name, slot_name(7, 5, ""));
        for other in [slot_name(8, 5, ""), slot_name(7, 6, ""), slot_name(7, 5, "b")] {
            assert_ne!(name, other);
        }
    }

    #[test]
    fn f_17_exhausted_slots_and_senders_say_what_to_raise() {
        let error = |sqlstate: &str, message: &str| {
            let mut body = format!("C{sqlstate}\0M{message}\0").into_bytes();
            body.push(0);
            PgError::server(ServerError::from_body(&body)).doing("create slot")
        };
        let slots = diagnose(&error("53400", "all replication slots are in use"));
        assert_eq!(slots.code.0, code::NO_FREE_SLOT);
        assert_eq!(slots.context.as_deref(), Some("create slot"));
        let table = diagnose(&PgError::server(ServerError::from_body(
            b"C42501\0Mpermission denied for table t\0\0",
        )));
        assert_eq!(table.code.0, crate::error::code::PRIVILEGE, "FD-62: {table}");
        let senders = "number of requested standby connections exceeds max_wal_senders";
        assert_eq!(diagnose(&error("53300", senders)).code.0, code::NO_FREE_SENDER);
        let connections = diagnose(&error("53300", "sorry, too many clients already"));
        assert_eq!(connections.code.0, crate::error::code::NOT_ACCEPTING);
    }

    #[test]
    fn f_18_the_finding_names_the_blocking_process() {
        let holder = Session {
            pid: Some(4711),
            user: Some("ann".into()),
            application: Some("psql".into()),
            state: Some("idle in transaction".into()),
            open_for: Some(Duration::from_secs(62)),
        };
        assert_eq!(
            blocked(&[holder]).to_string(),
            "warning[HW2123]: making a slot waits for the end of an open transaction: pid 4711 \
             (\"psql\", role \"ann\", idle in transaction, open for 62 s)\n  \
             mend:  end it, or SELECT pg_terminate_backend(4711);"
        );
    }
}
