//! A transaction of the upload's connection: its beginning, and what bounds it.

use std::time::Duration;

use hw_pg::error::{Doing as _, PgError};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, IsolationLevel, Transaction};

use crate::config::UploadConfig;

/// A time as a setting.
pub(crate) fn milliseconds(time: Duration) -> String {
    time.as_millis().to_string()
}

/// Bounds every wait of the transaction, the one for another request of the same client too, and
/// the time that it could stay open if this process stood still.
pub(crate) async fn limit(
    transaction: &Transaction<'_>,
    config: &UploadConfig,
) -> Result<(), PgError> {
    let settings = [
        ("statement_timeout", milliseconds(config.statement_timeout)),
        ("lock_timeout", milliseconds(config.lock_timeout)),
        ("idle_in_transaction_session_timeout", milliseconds(config.transaction_timeout)),
    ];
    set_locally(transaction, &settings).await.doing("limit the upload")
}

/// Sets settings until the transaction ends, in one statement. The names are ours.
pub(crate) async fn set_locally(
    transaction: &Transaction<'_>,
    settings: &[(&str, String)],
) -> Result<(), tokio_postgres::Error> {
    let calls: Vec<String> = settings
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("pg_catalog.set_config('{name}', ${}, true)", index + 1))
        .collect();
    let values: Vec<(&(dyn ToSql + Sync), Type)> =
        settings.iter().map(|(_, value)| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    transaction.query_typed(&format!("SELECT {}", calls.join(", ")), &values).await.map(drop)
}

/// Begins.
pub(crate) async fn begin(client: &mut Client) -> Result<Transaction<'_>, PgError> {
    client
        .build_transaction()
        // The ledger and ON CONFLICT count on each statement seeing what was committed before it.
        .isolation_level(IsolationLevel::ReadCommitted)
        .read_only(false)
        .start()
        .await
        .doing("begin the upload")
}
