//! The server itself: its log, its slots and walsenders, a replication connection to it.

use hw_pg::catalog::{ServerInfo, code as pg_code};
use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::memory;
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

/// Whether there is a free slot and a free walsender to stream with, which nothing goes without, and a
/// second one of each for tables that are copied later.
pub async fn room(client: &Client, server: &ServerInfo) -> Result<Vec<Diagnostic>, PgError> {
    const QUERY: &str = "
        SELECT (SELECT count(*) FROM pg_catalog.pg_replication_slots
                WHERE NOT starts_with(slot_name::text, 'headwater_')),
               (SELECT count(*) FROM pg_catalog.pg_stat_get_wal_senders() s
                JOIN pg_catalog.pg_stat_activity a USING (pid)
                WHERE NOT starts_with(a.application_name, 'headwater'))";
    let row = client.query_one(QUERY, &[]).await?;
    let taken = |index| row.try_get::<_, i64>(index).map(|count| count.max(0) as u64);
    let place = format!("database \"{}\"", server.database);
    let short = |code, taken: u64, of: u32, things: &str, setting: &str| {
        let what = |needed| format!("others use {taken} of {of} {things}; {needed}");
        let finding = match u64::from(of).saturating_sub(taken) {
            0 => {
                Diagnostic::error(code, what("one is needed, and one more while tables are copied"))
            }
            1 => Diagnostic::warning(
                code,
                what("one is enough until tables are copied later, which needs a second one"),
            ),
            _ => return None,
        };
        Some(finding.at(place.clone()).mend(format!(
            "ALTER SYSTEM SET {setting} = {}; -- then restart Postgres; or end what nobody needs",
            taken + 8
        )))
    };
    let slots = short(
        pg_code::NO_FREE_SLOT,
        taken(0)?,
        server.max_replication_slots,
        "replication slots",
        "max_replication_slots",
    );
    let senders = short(
        pg_code::NO_FREE_SENDER,
        taken(1)?,
        server.max_wal_senders,
        "walsenders",
        "max_wal_senders",
    );
    Ok(slots.into_iter().chain(senders).collect())
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
    let finding = slot::diagnose(error);
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
    examination.findings.extend(memory::obstacle(client, &name).await?);
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
