//! Runs one statement of an author, and says what its outcome means.
//!
//! In: the open transaction with the author's role taken, a [`Statement`]. Out: an [`Outcome`], or
//! the error of Postgres that the whole transaction has to be judged by. Invariant: what a
//! statement did before Postgres refused it is rolled back before its second way is tried.
//!
//! Most writes need no second way, and a savepoint for each of them would burden the whole server:
//! beyond 64 subtransactions of one transaction every snapshot has to look them up on disk. So a
//! transaction runs without savepoints first, and again with them once a statement needed one.

use hw_pg::error::{Doing as _, PgError};
use tokio_postgres::Transaction;
use tokio_postgres::types::{ToSql, Type};

use crate::catalog::{self, Table};
use crate::statement::{Expect, IfGone, Parameter, SecondWay, Statement, Way};
use crate::verdict::Rejection;

/// Whether a statement may be refused without ending its transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Care {
    /// No: the first refusal ends it.
    Quick,
    /// Yes, every statement that has a second way runs behind a savepoint.
    Savepoints,
}

/// What became of a statement.
#[derive(Debug)]
pub(crate) enum Outcome {
    /// It did what it should.
    Done,
    /// It was refused, and its transaction with it.
    Refused(Rejection),
    /// It was refused under [`Care::Quick`] and has a second way. The transaction is aborted; run
    /// it again with [`Care::Savepoints`].
    NeedsSavepoints,
}

/// Runs a statement on this table.
///
/// - Errors: those of Postgres. The transaction cannot go on.
pub(crate) async fn run(
    transaction: &Transaction<'_>,
    table: &Table,
    statement: &Statement,
    care: Care,
) -> Result<Outcome, PgError> {
    let Some(second) = &statement.second else {
        let rows = execute(transaction, &statement.sql, &statement.parameters).await?;
        return judge(transaction, &statement.expect, rows).await;
    };
    if care == Care::Savepoints || table.inserts_only() {
        return run_behind_savepoint(transaction, table, statement, second).await;
    }
    match execute(transaction, &statement.sql, &statement.parameters).await {
        Err(error) if second.follows(&error) => Ok(Outcome::NeedsSavepoints),
        Err(error) => Err(error),
        Ok(rows) => judge(transaction, &statement.expect, rows).await,
    }
}

// Savepoints of one name hide each other, and each is released or ends with its transaction.
const SAVEPOINT: &str = "SAVEPOINT headwater_put";
const RELEASE: &str = "RELEASE SAVEPOINT headwater_put";
const ROLL_BACK: &str = "ROLLBACK TO SAVEPOINT headwater_put";

async fn run_behind_savepoint(
    transaction: &Transaction<'_>,
    table: &Table,
    statement: &Statement,
    second: &SecondWay,
) -> Result<Outcome, PgError> {
    // All three are sent at once. After a refusal the release fails too, which says nothing new.
    let (begun, rows, released) = tokio::join!(
        biased;
        transaction.batch_execute(SAVEPOINT),
        execute(transaction, &statement.sql, &statement.parameters),
        transaction.batch_execute(RELEASE),
    );
    begun.doing("begin to write")?;
    let error = match rows {
        Ok(rows) => {
            released.doing("write")?;
            return judge(transaction, &statement.expect, rows).await;
        }
        Err(error) if second.follows(&error) => error,
        Err(error) => return Err(error),
    };
    match &second.way {
        Way::Insert(sql) => {
            let (back, rows, released) = tokio::join!(
                biased;
                transaction.batch_execute(ROLL_BACK),
                execute(transaction, sql, &statement.parameters),
                transaction.batch_execute(RELEASE),
            );
            back.doing("write in another way")?;
            match rows {
                Ok(_) => {
                    released.doing("write in another way")?;
                    table.remember_inserts_only();
                    Ok(Outcome::Done)
                }
                Err(error) if is_taken(transaction, table, second, &error).await? => {
                    Ok(Outcome::Refused(Rejection::ours(
                        "42501",
                        "a row with this id exists already, and you may not change it this way",
                    )))
                }
                Err(error) => Err(error),
            }
        }
        Way::Compare(exists) => {
            if !is_taken(transaction, table, second, &error).await? {
                return Err(error);
            }
            let seen = match execute(transaction, &exists.sql, &exists.parameters).await {
                Ok(rows) => rows > 0,
                // Who may only insert may not even look.
                Err(error) if error.sqlstate() == Some("42501") => false,
                Err(error) => return Err(error),
            };
            Ok(Outcome::Refused(if seen {
                changed()
            } else {
                Rejection::ours(
                    "23505",
                    "a row with this id exists already, and you may not see it",
                )
            }))
        }
    }
}

/// Rolls back to the savepoint and asks whether it was the row's own id that exists already.
async fn is_taken(
    transaction: &Transaction<'_>,
    table: &Table,
    second: &SecondWay,
    error: &PgError,
) -> Result<bool, PgError> {
    let Some(error) = error.as_server().filter(|error| error.sqlstate == "23505") else {
        return Ok(false);
    };
    let (back, taken) = tokio::join!(
        biased;
        transaction.batch_execute(ROLL_BACK),
        catalog::is_key(transaction, table, &second.key, error),
    );
    back.doing("look whether the id is taken")?;
    taken
}

/// What the number of affected rows means.
async fn judge(
    transaction: &Transaction<'_>,
    expect: &Expect,
    rows: u64,
) -> Result<Outcome, PgError> {
    if rows > 0 {
        return Ok(Outcome::Done);
    }
    let absent =
        || Rejection::ours("02000", "the row does not exist, or you may not see or change it");
    Ok(match expect {
        Expect::Anything => Outcome::Done,
        Expect::OneRow => Outcome::Refused(absent()),
        Expect::Unchanged { exists, gone } => {
            match (execute(transaction, &exists.sql, &exists.parameters).await? > 0, gone) {
                (true, _) => Outcome::Refused(changed()),
                (false, IfGone::Fine) => Outcome::Done,
                (false, IfGone::Rejected) => Outcome::Refused(absent()),
            }
        }
    })
}

fn changed() -> Rejection {
    Rejection::ours("40001", "somebody else changed the row since this client read it")
}

async fn execute(
    transaction: &Transaction<'_>,
    sql: &str,
    parameters: &[Parameter],
) -> Result<u64, PgError> {
    let parameters: Vec<(&(dyn ToSql + Sync), Type)> = parameters
        .iter()
        .map(|parameter| (&parameter.text as &(dyn ToSql + Sync), parameter.ty.clone()))
        .collect();
    let rows = transaction.execute_typed(sql, &parameters).await;
    // Triggers, policies and defaults of the table ran, on values of its rows.
    rows.map_err(|error| PgError::from(error).of_users().doing("write"))
}
