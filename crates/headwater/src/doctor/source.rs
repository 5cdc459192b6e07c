//! The server itself: its log, its slots and walsenders, a replication connection to it.

use hw_pg::catalog::{ServerInfo, code as pg_code};
use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::replication::{ReplicationConnection, SystemIdentity};
use hw_pg::slot::{self, SlotState, WalStatus};
use hw_types::Diagnostic;
use hw_types::relation::quote_ident;
use tokio_postgres::Client;

use super::Examination;
use crate::code;
use crate::config::parse::show_bytes;

/// Whether what the source keeps for a slot and what we allow fit together.
pub fn retention(server: &ServerInfo, limit: u64) -> Option<Diagnostic> {
    let kept = server.max_slot_wal_keep_bytes?;
    (kept < limit).then(|| {
        Diagnostic::warning(
            code::RETENTION_BELOW_LIMIT,
            format!(
                "the source drops the slot's log at {} (max_slot_wal_keep_size), before our own \
                 limit of {} warns",
                show_bytes(kept),
                show_bytes(limit)
            ),
        )
        .at(format!("database \"{}\"", server.database))
        .mend(format!(
            "ALTER SYSTEM SET max_slot_wal_keep_size = '{}MB'; SELECT pg_reload_conf(); or lower \
             limits.retained_log",
            limit >> 20
        ))
    })
}

/// Whether there is a free slot and two free walsenders: one streams, one makes the temporary
/// slot of a table that is added.
pub async fn room(client: &Client, server: &ServerInfo) -> Result<Vec<Diagnostic>, PgError> {
    const QUERY: &str = "
        SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots
                WHERE NOT starts_with(slot_name::text, 'headwater_')),
               (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders() s
                JOIN pg_catalog.pg_stat_activity a USING (pid)
                WHERE NOT starts_with(a.application_name, 'headwater'))";
    let row = client.query_one(QUERY, &[]).await?;
    let taken = |index| row.try_get::<_, i64>(index).map(|count| count.max(0) as u64);
    let (slots, senders) = (taken(0)?, taken(1)?);
    let place = format!("database \"{}\"", server.database);
    let mut found = Vec::new();
    if slots + 2 > u64::from(server.max_replication_slots) {
        found.push(
            Diagnostic::error(
                pg_code::NO_FREE_SLOT,
                format!(
                    "others use {slots} of {} replication slots; two are needed, one of them \
                     while tables are copied",
                    server.max_replication_slots
                ),
            )
            .at(place.clone())
            .mend(format!(
                "ALTER SYSTEM SET max_replication_slots = {}; then restart Postgres; or drop a \
                 slot that nobody needs",
                slots + 8
            )),
        );
    }
    if senders + 2 > u64::from(server.max_wal_senders) {
        found.push(
            Diagnostic::error(
                pg_code::NO_FREE_SENDER,
                format!(
                    "others use {senders} of {} walsenders; two are needed",
                    server.max_wal_senders
                ),
            )
            .at(place)
            .mend(format!(
                "ALTER SYSTEM SET max_wal_senders = {}; then restart Postgres",
                senders + 8
            )),
        );
    }
    Ok(found)
}

/// Tries a replication connection: the one thing that poolers and `pg_hba.conf` break.
pub async fn identify(connect: &ConnectConfig) -> Result<SystemIdentity, PgError> {
    let mut connection = ReplicationConnection::connect(connect).await?;
    let identity = connection.identify_system().await;
    connection.close().await;
    identity
}

/// The finding that a replication connection failed although nothing known is in its way.
pub fn no_replication(error: &PgError) -> Diagnostic {
    let finding = error.diagnostic();
    match error.sqlstate() {
        Some("28000") => finding.mend(
            "allow the role in pg_hba.conf, for example: host all all samenet scram-sha-256; then \
             SELECT pg_reload_conf();",
        ),
        _ if finding.mend.is_none() => finding.mend(
            "if a pooler or proxy stands before Postgres, name Postgres itself: its own host and \
             port, usually 5432",
        ),
        _ => finding,
    }
}

/// The state of our own slot, if there is one.
pub async fn slot(
    client: &Client,
    server: &ServerInfo,
    identity: &SystemIdentity,
    instance: &str,
    examination: &mut Examination,
) -> Result<(), PgError> {
    let name = slot::slot_name(identity.system_id, server.database_oid, instance);
    let Some(state) = SlotState::read(client, &name).await? else {
        examination.facts.push(format!("slot {name} does not exist yet; serve makes it"));
        return Ok(());
    };
    examination.facts.push(format!(
        "slot {name} keeps {} of log{}",
        show_bytes(state.retained_bytes),
        if state.active_pid.is_some() { ", in use" } else { "" }
    ));
    let place = format!("slot \"{name}\"");
    if state.plugin.as_deref() != Some("pgoutput") {
        examination.findings.push(
            Diagnostic::error(
                pg_code::FOREIGN_SLOT,
                "the slot's name is taken by another kind of slot",
            )
            .at(place)
            .mend("choose another `instance` name"),
        );
    } else if state.is_lost() {
        examination.findings.push(
            Diagnostic::warning(
                code::SLOT_LOST,
                "the slot was invalidated; the next start makes a new one and copies the tables \
                 again, compared with what is there",
            )
            .at(match &state.invalidation {
                Some(reason) => format!("{place}, reason {reason}"),
                None => format!("{place}, its log was removed (max_slot_wal_keep_size)"),
            })
            .mend(format!(
                "nothing, or at once: SELECT pg_drop_replication_slot({});",
                quote_literal(&name)
            )),
        );
    } else if state.wal_status == Some(WalStatus::Unreserved)
        || state.safe_wal_bytes.is_some_and(|safe| {
            server.max_slot_wal_keep_bytes.is_some_and(|kept| safe.max(0) as u64 * 2 < kept)
        })
    {
        examination.findings.push(
            Diagnostic::warning(
                code::SLOT_HALF,
                "more than half of the log that the slot may keep is used",
            )
            .at(place)
            .mend("start the server, or raise max_slot_wal_keep_size"),
        );
    }
    Ok(())
}

/// A text as SQL.
pub fn quote_literal(text: &str) -> String {
    format!("'{}'", text.replace('\'', "''"))
}

/// `GRANT`-able name of a role.
pub fn role(server: &ServerInfo) -> String {
    quote_ident(&server.user)
}
