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
    let times = [config.statement_timeout, config.lock_timeout, config.transaction_timeout];
    set_up(transaction, times).await.doing("limit the upload")
}

/// Sets what holds for a transaction that writes, in one round trip. What is answered is on disk, also where
/// the database, or a role in it, lets commits return before; a stricter setting stays.
///
/// - Takes: how long a statement, a wait for a lock, and the idle transaction may last.
pub(crate) async fn set_up(
    transaction: &Transaction<'_>,
    times: [Duration; 3],
) -> Result<(), PgError> {
    const DURABLE: &str = "SELECT pg_catalog.set_config('synchronous_commit', 'local', true) \
                           WHERE pg_catalog.current_setting('synchronous_commit') = 'off'";
    let durable = async { transaction.batch_execute(DURABLE).await.map_err(PgError::from) };
    let [statement, lock, idle] = times.map(milliseconds);
    let settings = [
        ("statement_timeout", &*statement),
        ("lock_timeout", &*lock),
        ("idle_in_transaction_session_timeout", &*idle),
    ];
    tokio::try_join!(set_locally(transaction, &settings), durable).map(drop)
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
