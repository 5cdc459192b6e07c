//! A transaction that runs as somebody: its settings, in one statement.

use crate::error::{Doing as _, PgError};
use hw_types::RunAs;
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

/// Takes role and claims until the transaction ends.
///
/// - Errors: the role is not there, or our login may not take it.
pub async fn run_as(transaction: &Transaction<'_>, who: &RunAs) -> Result<(), PgError> {
    set_locally(transaction, &who.settings()).await.doing("take the role of the user")
}

/// Sets settings until the transaction ends, in one statement. The names are ours, in the order in which
/// they are set.
pub async fn set_locally(
    transaction: &Transaction<'_>,
    settings: &[(&str, &str)],
) -> Result<(), PgError> {
    let calls: Vec<String> = settings
        .iter()
        .enumerate()
        .map(|(index, (name, _))| format!("pg_catalog.set_config('{name}', ${}, true)", index + 1))
        .collect();
    let values: Vec<(&(dyn ToSql + Sync), Type)> =
        settings.iter().map(|(_, value)| (value as &(dyn ToSql + Sync), Type::TEXT)).collect();
    let set = transaction.query_typed(&format!("SELECT {}", calls.join(", ")), &values).await;
    set.map(drop).map_err(PgError::from)
}
