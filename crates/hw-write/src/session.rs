//! A transaction of the upload's connection: its beginning, and what bounds it.

use std::time::Duration;

use hw_pg::error::{Doing as _, PgError};
use hw_pg::principal::set_locally;
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
    let [statement, lock, idle] =
        [config.statement_timeout, config.lock_timeout, config.transaction_timeout]
            .map(milliseconds);
    let settings = [
        ("statement_timeout", &*statement),
        ("lock_timeout", &*lock),
        ("idle_in_transaction_session_timeout", &*idle),
    ];
    set_locally(transaction, &settings).await.doing("limit the upload")
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
