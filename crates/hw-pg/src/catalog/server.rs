//! The server: its version, what it is set to, and what our role may do.

use super::code;
use crate::error::{Doing as _, PgError, Result};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, EndLsn, Lsn};
use serde::Deserialize;
use std::time::Duration;
use tokio_postgres::Client;

/// The oldest major that is supported.
pub const OLDEST_MAJOR: u32 = 14;

/// The source as one statement found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ServerInfo {
    /// `server_version_num`: 150004 for 15.4.
    pub version: u32,
    /// A standby, or a server that has not finished recovering.
    pub in_recovery: bool,
    /// Name of the database.
    pub database: String,
    /// Its oid.
    pub database_oid: u32,
    /// Its encoding, for example `UTF8`.
    pub encoding: String,
    /// Whom we are connected as.
    pub user: String,
    /// Whether that role may use replication connections and slots.
    pub may_replicate: bool,
    /// Up to where the log is on disk (in recovery: up to where it is replayed).
    pub flush_lsn: EndLsn,
    /// `wal_level`.
    pub wal_level: String,
    /// `max_replication_slots`.
    pub max_replication_slots: u32,
    /// `max_wal_senders`.
    pub max_wal_senders: u32,
    /// `max_slot_wal_keep_size` in bytes; `None` is unlimited.
    pub max_slot_wal_keep_bytes: Option<u64>,
    /// `wal_sender_timeout`; zero is none.
    pub wal_sender_timeout: Duration,
}

#[derive(Deserialize)]
struct Answer {
    version: u32,
    in_recovery: bool,
    database: String,
    database_oid: u32,
    encoding: String,
    user: String,
    may_replicate: bool,
    flush_lsn: Option<String>,
    wal_level: String,
    slots: u32,
    senders: u32,
    keep_mb: i64,
    timeout_ms: u64,
}

const QUERY: &str = "
SELECT pg_catalog.json_build_object(
  'version', pg_catalog.current_setting('server_version_num')::int8,
  'in_recovery', pg_catalog.pg_is_in_recovery(),
  'database', d.datname, 'database_oid', d.oid::int8,
  'encoding', pg_catalog.pg_encoding_to_char(d.encoding),
  'user', r.rolname,
  'may_replicate', r.rolreplication OR r.rolsuper,
  'flush_lsn', CASE WHEN pg_catalog.pg_is_in_recovery()
               THEN pg_catalog.pg_last_wal_replay_lsn()
               ELSE pg_catalog.pg_current_wal_flush_lsn() END,
  'wal_level', pg_catalog.current_setting('wal_level'),
  'slots', (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_replication_slots'),
  'senders', (SELECT setting::int8 FROM pg_catalog.pg_settings WHERE name = 'max_wal_senders'),
  'keep_mb', (SELECT setting::int8 FROM pg_catalog.pg_settings
              WHERE name = 'max_slot_wal_keep_size'),
  'timeout_ms', (SELECT setting::int8 FROM pg_catalog.pg_settings
                 WHERE name = 'wal_sender_timeout'))::text
FROM pg_catalog.pg_database d, pg_catalog.pg_roles r
WHERE d.datname = pg_catalog.current_database() AND r.rolname = current_user";

impl ServerInfo {
    /// Asks the server.
    ///
    /// - Errors: [`code::OLD_SERVER`] below major 14, before anything else is asked; those of a
    ///   connection.
    pub async fn read(client: &Client) -> Result<ServerInfo> {
        const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::int4";
        // Nothing is prepared by name: a pooler that stands before the server is told by what it
        // refuses, not by what it forgets.
        let version: i32 = client.query_typed_one(VERSION, &[]).await?.try_get(0)?;
        let version = u32::try_from(version).unwrap_or_default();
        if let Some(finding) = too_old(version) {
            return Err(PgError::from(finding));
        }
        let row = client.query_typed_one(QUERY, &[]).await.doing("read the server's settings")?;
        let answer: Answer = super::from_json(row.try_get(0)?)?;
        Ok(ServerInfo {
            version: answer.version,
            in_recovery: answer.in_recovery,
            database: answer.database,
            database_oid: answer.database_oid,
            encoding: answer.encoding,
            user: answer.user,
            may_replicate: answer.may_replicate,
            flush_lsn: EndLsn(
                answer.flush_lsn.and_then(|lsn| lsn.parse().ok()).unwrap_or(Lsn::ZERO),
            ),
            wal_level: answer.wal_level,
            max_replication_slots: answer.slots,
            max_wal_senders: answer.senders,
            max_slot_wal_keep_bytes: u64::try_from(answer.keep_mb).ok().map(|mb| mb << 20),
            wal_sender_timeout: Duration::from_millis(answer.timeout_ms),
        })
    }

    /// The major: 15 for 15.4.
    pub fn major(&self) -> u32 {
        self.version / 10_000
    }

    /// What is wrong with the server as a source. Errors refuse it; warnings are for `doctor`.
    pub fn findings(&self) -> Vec<Diagnostic> {
        let place = format!("database \"{}\"", self.database);
        let mut found = Vec::new();
        if self.in_recovery {
            found.push(
                Diagnostic::error(code::IN_RECOVERY, "the server is in recovery")
                    .mend("connect to the primary: markers cannot be written to a standby's log"),
            );
        }
        if self.wal_level != "logical" {
            let what = format!("wal_level is \"{}\", not \"logical\"", self.wal_level);
            found.push(
                Diagnostic::error(code::WAL_LEVEL, what)
                    .mend("ALTER SYSTEM SET wal_level = 'logical'; -- then restart Postgres"),
            );
        }
        if !self.may_replicate {
            let what = format!("role \"{}\" lacks the REPLICATION attribute", self.user);
            found.push(
                Diagnostic::error(code::NO_REPLICATION, what)
                    .mend(format!("ALTER ROLE {} REPLICATION;", quote_ident(&self.user))),
            );
        }
        if matches!(self.encoding.as_str(), "SQL_ASCII" | "MULE_INTERNAL") {
            let what = format!(
                "the database's encoding {} cannot be converted to UTF-8 reliably",
                self.encoding
            );
            found.push(
                Diagnostic::error(code::ENCODING, what)
                    .mend("move the data to a database with ENCODING 'UTF8'"),
            );
        }
        if self.max_slot_wal_keep_bytes.is_none() {
            found.push(
                Diagnostic::warning(
                    code::RETENTION,
                    "a slot that falls behind can fill the server's disk: \
                     max_slot_wal_keep_size is unlimited",
                )
                .mend("ALTER SYSTEM SET max_slot_wal_keep_size = '50GB'; SELECT pg_reload_conf();"),
            );
        }
        found.into_iter().map(|finding| finding.at(place.clone())).collect()
    }
}

fn too_old(version: u32) -> Option<Diagnostic> {
    let major = version / 10_000;
    (major < OLDEST_MAJOR).then(|| {
        let what =
            format!("the server is Postgres {major}; {OLDEST_MAJOR} is the oldest that works");
        Diagnostic::error(code::OLD_SERVER, what)
            .mend("upgrade the server: older majors have neither streaming nor binary replication")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    fn server() -> ServerInfo {
        ServerInfo {
            version: 150_004,
            in_recovery: false,
            database: "shop".into(),
            database_oid: 5,
            encoding: "UTF8".into(),
            user: "app".into(),
            may_replicate: true,
            flush_lsn: EndLsn(Lsn(1)),
            wal_level: "logical".into(),
            max_replication_slots: 10,
            max_wal_senders: 10,
            max_slot_wal_keep_bytes: Some(1 << 30),
            wal_sender_timeout: Duration::from_secs(60),
        }
    }

    #[test]
    fn majors_before_14_are_refused() {
        assert_eq!(too_old(140_000), None);
        assert_eq!(
            too_old(130_014).unwrap().to_string(),
            "error[HW2100]: the server is Postgres 13; 14 is the oldest that works\n  \
             mend:  upgrade the server: older majors have neither streaming nor binary replication"
        );
    }

    #[test]
    fn each_wrong_setting_is_found_with_its_mend() {
        assert!(server().findings().is_empty());
        let wrong = ServerInfo {
            in_recovery: true,
            wal_level: "replica".into(),
            may_replicate: false,
            encoding: "SQL_ASCII".into(),
            max_slot_wal_keep_bytes: None,
            ..server()
        };
        let codes: Vec<u16> = wrong.findings().iter().map(|f| f.code.0).collect();
        assert_eq!(codes, [2110, 2101, 2112, 2111, 2113]);
        assert!(wrong.findings().iter().all(|f| f.mend.is_some()));
        assert_eq!(wrong.findings().iter().filter(|f| !f.is_error()).count(), 1);
    }
}
