//! The replication connection: a walsender session with its own commands, and the stream that
//! it turns into.
//!
//! In: a [`ConnectConfig`]. Out: the system's identity, slots with their exported snapshots, and
//! a [`ReplicationStream`]. `tokio-postgres` cannot open a copy in both directions, so framing
//! is ours ([`wire`]); [`stream`] owns the socket once replication has started.
//!
//! A snapshot that a slot exported dies at the connection's next command: whoever holds a
//! [`CreatedSlot`] keeps the connection quiet until all who want the snapshot have imported it.
//!
//! Source: PostgreSQL manual, "Streaming Replication Protocol".

#[doc(hidden)]
pub mod fuzzing;
mod second_look;
pub mod stream;
mod wire;

use crate::config::{ANSWER_WITHIN, ChannelBinding, ConnectConfig, TRANSACTION_TIMEOUT_SINCE};
use crate::error::{Doing as _, PgError, PgErrorKind, Result};
use crate::slot;
use crate::transport::{self, Started, Transport};
use hw_types::relation::quote_ident;
use hw_types::{EndLsn, Lsn};
use std::time::Duration;
use tokio::time::timeout;
use wire::{Login, Wire};

pub use stream::{Acknowledger, Frame, ReplicationStream, StreamOptions, StreamPositions};

/// What IDENTIFY_SYSTEM tells.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SystemIdentity {
    /// Made at initdb; the same on every copy of the cluster's disk.
    pub system_id: u64,
    /// Grows with each promotion.
    pub timeline: u32,
    /// Up to where the server's log is on its disk.
    pub flush_lsn: EndLsn,
    /// The database of this connection.
    pub database: String,
}

/// How long a slot lives.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum SlotLife {
    /// Until it is dropped; on 17 and newer it is made for failover to a standby.
    Permanent,
    /// Until the connection ends.
    Temporary,
}

/// A slot that was just made.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CreatedSlot {
    /// Its name.
    pub name: String,
    /// The boundary X of `engine.md` 6: transactions with commit_lsn >= X are streamed, all
    /// others are in the snapshot.
    pub consistent_point: Lsn,
    /// Name of the exported snapshot; valid until the connection's next command.
    pub snapshot: String,
}

/// A walsender session for logical replication of one database.
pub struct ReplicationConnection {
    wire: Wire<Transport>,
    version: u32,
    config: ConnectConfig,
}

impl ReplicationConnection {
    /// Connects with `replication=database`.
    ///
    /// - Errors: those of a connection; the role needs the REPLICATION attribute.
    pub async fn connect(config: &ConnectConfig) -> Result<ReplicationConnection> {
        let mut wire = transport::open(config, |transport| log_in(config, transport))
            .await
            .map_err(|error| slot::named_for(config.user(), error))
            .doing("open a replication connection")?;
        let version = wire
            .simple_query("SELECT pg_catalog.current_setting('server_version_num')")
            .await?
            .first()
            .and_then(|row| row.first().cloned().flatten())
            .and_then(|text| text.parse().ok())
            .ok_or_else(|| PgError::protocol("server_version_num is not a number"))?;
        let mut connection = ReplicationConnection { wire, version, config: config.clone() };
        // Making a slot waits for the end of every open transaction (F-18), however long that is.
        connection.query("SET lock_timeout = 0").await?;
        if version >= TRANSACTION_TIMEOUT_SINCE {
            connection.query("SET transaction_timeout = 0").await?;
        }
        Ok(connection)
    }

    /// The server's version as `server_version_num` has it: 150004 for 15.4.
    pub fn server_version(&self) -> u32 {
        self.version
    }

    /// Process id of the walsender.
    pub fn backend_pid(&self) -> u32 {
        self.wire.backend_pid
    }

    /// Runs one command or plain SQL statement; rows as text.
    pub async fn query(&mut self, sql: &str) -> Result<Vec<Vec<Option<String>>>> {
        self.wire.simple_query(sql).await
    }

    /// IDENTIFY_SYSTEM.
    pub async fn identify_system(&mut self) -> Result<SystemIdentity> {
        let asked = timeout(ANSWER_WITHIN, self.query("IDENTIFY_SYSTEM")).await;
        let rows = asked.unwrap_or_else(|_| Err(no_answer())).doing("identify the system")?;
        let mut row = one_row(rows, 4)?;
        Ok(SystemIdentity {
            database: row.remove(3),
            flush_lsn: EndLsn(parsed(&row[2], "log position")?),
            timeline: parsed(&row[1], "timeline")?,
            system_id: parsed(&row[0], "system identifier")?,
        })
    }

    /// Makes a pgoutput slot and exports the snapshot of its consistent point.
    ///
    /// Waits until every transaction that was open when it began has ended; `slot::blockers`
    /// tells which (F-18).
    ///
    /// - Errors: the name is taken; no slot is free (SQLSTATE 53400).
    pub async fn create_slot(&mut self, name: &str, life: SlotLife) -> Result<CreatedSlot> {
        let sql = create_slot_command(name, life, self.version);
        let rows = self.query(&sql).await.doing("create slot")?;
        let mut row = one_row(rows, 4)?;
        row.truncate(3);
        let snapshot = row.remove(2);
        let consistent_point = parsed(&row[1], "log position")?;
        Ok(CreatedSlot { name: row.remove(0), consistent_point, snapshot })
    }

    /// Starts to stream the slot's changes from `from`; `Lsn::ZERO` is where the slot stands.
    ///
    /// The server silently moves `from` forward to the slot's confirmed position.
    ///
    /// - Errors: the slot is in use (55006), unknown (42704) or invalidated (55000).
    pub async fn start_replication(
        mut self,
        slot: &str,
        from: Lsn,
        options: &StreamOptions,
    ) -> Result<ReplicationStream> {
        const PATIENCE: &str =
            "SELECT setting FROM pg_catalog.pg_settings WHERE name = 'wal_sender_timeout'";
        let started = timeout(ANSWER_WITHIN, async {
            let patience = one_row(self.query(PATIENCE).await?, 1)?;
            let patience = Duration::from_millis(parsed(&patience[0], "wal_sender_timeout")?);
            self.wire.send_query(&start_command(slot, from, options)).await?;
            self.wire.copy_both().await.map(|()| patience)
        });
        let patience =
            started.await.unwrap_or_else(|_| Err(no_answer())).doing("start replication")?;
        Ok(ReplicationStream::start(self.wire, patience, options, Some(self.config)))
    }

    /// Ends the session and waits until the server has let go of what it held (temporary slots),
    /// at most two seconds.
    pub async fn close(mut self) {
        let _ = tokio::time::timeout(Duration::from_secs(2), self.wire.terminate()).await;
    }
}

fn no_answer() -> PgError {
    PgError::new(PgErrorKind::Silent(String::from("the server does not answer")))
}

/// Starts a walsender session on a fresh transport.
async fn log_in(config: &ConnectConfig, transport: Transport) -> Result<Started<Wire<Transport>>> {
    let password = transport.password().map(|password| password.as_bytes().to_vec());
    let binding = config.channel_binding();
    let encrypted = transport.is_encrypted();
    let end_point = match binding {
        ChannelBinding::Disable => None,
        ChannelBinding::Prefer | ChannelBinding::Require => transport.channel_binding(),
    };
    let mut parameters = config.startup_parameters();
    parameters.push(("replication", String::from("database")));
    let login = Login {
        user: config.user(),
        password: password.as_deref(),
        parameters,
        tls_server_end_point: end_point.map(<[u8]>::to_vec),
        only_bound: binding == ChannelBinding::Require,
    };
    if login.only_bound && !encrypted {
        return Err(PgError::protocol("channel_binding=require needs TLS"));
    }
    let wire = Wire::start(transport, login).await?;
    let flag = |name: &str| wire.parameters.get(name).map(|value| value == "on");
    let (in_hot_standby, read_only) =
        (flag("in_hot_standby"), flag("default_transaction_read_only"));
    Ok(Started { session: wire, in_hot_standby, read_only })
}

fn create_slot_command(name: &str, life: SlotLife, version: u32) -> String {
    let temporary = if life == SlotLife::Temporary { " TEMPORARY" } else { "" };
    let options = match (version, life) {
        (..150_000, _) => "EXPORT_SNAPSHOT",
        // A temporary slot cannot be synchronised to a standby.
        (..170_000, _) | (_, SlotLife::Temporary) => "(SNAPSHOT 'export')",
        _ => "(SNAPSHOT 'export', FAILOVER true)",
    };
    format!("CREATE_REPLICATION_SLOT {}{temporary} LOGICAL pgoutput {options}", quote_ident(name))
}

fn start_command(slot: &str, from: Lsn, options: &StreamOptions) -> String {
    let publications: Vec<String> = options.publications.iter().map(|p| quote_ident(p)).collect();
    let mut wanted = format!(
        "proto_version '{}', publication_names {}, messages 'true'",
        if options.streaming { 2 } else { 1 },
        // The replication grammar knows no backslash escapes: only quotes are doubled.
        format_args!("'{}'", publications.join(",").replace('\'', "''")),
    );
    if options.streaming {
        wanted += ", streaming 'on'";
    }
    if options.binary {
        wanted += ", binary 'true'";
    }
    format!("START_REPLICATION SLOT {} LOGICAL {from} ({wanted})", quote_ident(slot))
}

/// The only row of an answer, without NULLs in its first columns; a NULL becomes empty text.
fn one_row(mut rows: Vec<Vec<Option<String>>>, columns: usize) -> Result<Vec<String>> {
    match rows.pop() {
        Some(row) if rows.is_empty() && row.len() >= columns => {
            Ok(row.into_iter().map(Option::unwrap_or_default).collect())
        }
        _ => Err(PgError::protocol("an answer of another shape")),
    }
}

fn parsed<T: std::str::FromStr>(text: &str, what: &str) -> Result<T> {
    text.parse().map_err(|_| PgError::protocol(format!("a {what} that cannot be read")))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn slots_are_made_in_the_words_of_each_major() {
        use SlotLife::{Permanent, Temporary};
        for (version, life, expected) in [
            (140_000, Permanent, "\"s\" LOGICAL pgoutput EXPORT_SNAPSHOT"),
            (140_000, Temporary, "\"s\" TEMPORARY LOGICAL pgoutput EXPORT_SNAPSHOT"),
            (150_000, Permanent, "\"s\" LOGICAL pgoutput (SNAPSHOT 'export')"),
            (170_000, Permanent, "\"s\" LOGICAL pgoutput (SNAPSHOT 'export', FAILOVER true)"),
            (170_000, Temporary, "\"s\" TEMPORARY LOGICAL pgoutput (SNAPSHOT 'export')"),
        ] {
            let command = create_slot_command("s", life, version);
            assert_eq!(command, format!("CREATE_REPLICATION_SLOT {expected}"));
        }
    }

    #[test]
    fn names_in_the_start_command_are_quoted_twice() {
        let options = StreamOptions {
            publications: vec!["a\"b'c".into(), "d".into()],
            binary: true,
            ..StreamOptions::default()
        };
        assert_eq!(
            start_command("s", Lsn::ZERO, &options),
            "START_REPLICATION SLOT \"s\" LOGICAL 0/0 (proto_version '2', \
             publication_names '\"a\"\"b''c\",\"d\"', messages 'true', streaming 'on', \
             binary 'true')"
        );
    }
}
