//! The memory of uploads, in schema `headwater` of the user's database.
//!
//! In: keys and contents of transactions. Out: what is known of them. Everything here runs as
//! Headwater's own role, before the principal's role is set or in a transaction without one.
//! Invariant: a key is recorded in the transaction that applies it, or in the one that records
//! its rejection, never apart from either.

use hw_pg::error::{Doing as _, PgError};
use serde_json::json;
use sha2::{Digest, Sha256};
use tokio_postgres::types::{ToSql, Type};
use tokio_postgres::{Client, Transaction};

use crate::config::{Keep, UploadConfig};
use crate::session::{begin, limit};
use crate::transaction::{Author, UploadTransaction};
use crate::verdict::{Rejection, Verdict};

/// The key of a transaction: whose, from which client database, which.
pub(crate) struct Key<'a> {
    pub(crate) author: &'a Author,
    pub(crate) client_id: &'a str,
    pub(crate) transaction: &'a UploadTransaction,
    pub(crate) contents: [u8; 32],
}

/// What the ledger knows of a key.
pub(crate) enum Known {
    /// Never seen, and newer than everything from this client.
    New,
    /// Seen; the verdict stands. Also for what can never be applied: the same key with other
    /// contents, or an unknown key below the high-water mark.
    Decided(Decided),
}

/// A verdict that needs no work.
pub(crate) enum Decided {
    /// What was recorded under the key.
    Before(Verdict),
    /// Refused by the ledger itself; not recorded under the key, which is taken or gone.
    Refused(Rejection),
}

/// Looks a key up, and keeps other requests of the same client out until the transaction ends.
pub(crate) async fn look_up(
    transaction: &Transaction<'_>,
    key: &Key<'_>,
) -> Result<Known, PgError> {
    let (id, first_op_id) = (key.transaction.id, key.transaction.first_op_id());
    let key_values: [(&(dyn ToSql + Sync), Type); 4] = [
        (&key.author.user, Type::TEXT),
        (&key.client_id, Type::TEXT),
        (&id, Type::INT8),
        (&first_op_id, Type::INT8),
    ];
    // Both are sent at once; the second reads after the first has its lock.
    let (mark, record) = tokio::join!(
        biased;
        transaction.query_typed(
            "SELECT op_id FROM headwater.upload_high_water \
             WHERE user_key = $1 AND client_id = $2 FOR UPDATE",
            &key_values[..2],
        ),
        transaction.query_typed(
            "SELECT contents, rejection::text FROM headwater.uploads \
             WHERE user_key = $1 AND client_id = $2 AND tx_id = $3 AND first_op_id = $4",
            &key_values,
        ),
    );
    let mark = mark.doing("look up the upload")?;
    let record = record.doing("look up the upload")?;
    if let Some(row) = record.first() {
        if row.get::<_, &[u8]>(0) != key.contents {
            return Ok(Known::Decided(Decided::Refused(Rejection::ours(
                "23505",
                "another transaction with this id but other contents was uploaded before",
            ))));
        }
        let verdict = match row.get::<_, Option<&str>>(1) {
            None => Verdict::Applied,
            Some(text) => Verdict::Rejected(rejection_from(text)),
        };
        return Ok(Known::Decided(Decided::Before(verdict)));
    }
    match mark.first().map(|row| row.get::<_, i64>(0)) {
        Some(mark) if first_op_id <= mark => Ok(Known::Decided(Decided::Refused(Rejection::ours(
            "55000",
            "the transaction is older than what this client uploaded last, and is not known \
             any more",
        )))),
        _ => Ok(Known::New),
    }
}

/// Records a verdict under the key and moves the client's high-water mark.
pub(crate) async fn record(
    transaction: &Transaction<'_>,
    key: &Key<'_>,
    rejection: Option<&Rejection>,
) -> Result<(), PgError> {
    let rejection = rejection.map(|rejection| rejection_json(rejection).to_string());
    transaction
        .query_typed(
            "WITH mark AS ( \
               INSERT INTO headwater.upload_high_water AS mark (user_key, client_id, op_id) \
               VALUES ($1, $2, $5) \
               ON CONFLICT (user_key, client_id) \
               DO UPDATE SET op_id = greatest(mark.op_id, EXCLUDED.op_id), at = EXCLUDED.at \
             ) \
             INSERT INTO headwater.uploads \
               (user_key, client_id, tx_id, first_op_id, contents, verdict, rejection) \
             VALUES ($1, $2, $3, $4, $6, \
                     CASE WHEN $7::text IS NULL THEN 'applied' ELSE 'rejected' END, $7::text::json)",
            &[
                (&key.author.user, Type::TEXT),
                (&key.client_id, Type::TEXT),
                (&key.transaction.id, Type::INT8),
                (&key.transaction.first_op_id(), Type::INT8),
                (&key.transaction.last_op_id(), Type::INT8),
                (&&key.contents[..], Type::BYTEA),
                (&rejection, Type::TEXT),
            ],
        )
        .await
        .doing("record the upload")
        .map(drop)
}

/// Records in a transaction of its own that a transaction was rejected, unless another request
/// decided it meanwhile.
///
/// - Takes: the operations as they were sent; `None` when they are not kept.
/// - Returns: the verdict that stands.
pub(crate) async fn reject(
    client: &mut Client,
    config: &UploadConfig,
    key: &Key<'_>,
    rejection: &Rejection,
    entries: Option<&str>,
) -> Result<Verdict, PgError> {
    let transaction = begin(client).await?;
    let (limits, known) =
        tokio::join!(biased; limit(&transaction, config), look_up(&transaction, key));
    limits?;
    let rejection = match known? {
        Known::Decided(Decided::Before(verdict)) => return Ok(verdict),
        Known::Decided(Decided::Refused(refused)) => refused,
        Known::New => {
            record(&transaction, key, Some(rejection)).await?;
            rejection.clone()
        }
    };
    keep_rejected(&transaction, key, &rejection, entries).await?;
    transaction.commit().await.doing("record the rejected write")?;
    Ok(Verdict::Rejected(rejection))
}

/// Keeps a rejected transaction for its author to read. The same one is kept once.
async fn keep_rejected(
    transaction: &Transaction<'_>,
    key: &Key<'_>,
    rejection: &Rejection,
    entries: Option<&str>,
) -> Result<(), PgError> {
    transaction
        .query_typed(
            "INSERT INTO headwater.rejected_writes \
               (id, sub, client_id, tx_id, op_id, sqlstate, message, table_name, column_name, \
                constraint_name, entries) \
             VALUES ($1::text::uuid, $2, $3, $4, $5, $6, $7, $8, $9, $10, $11::text::json) \
             ON CONFLICT (id) DO NOTHING",
            &[
                (&rejected_id(key), Type::TEXT),
                (&key.author.subject, Type::TEXT),
                (&key.client_id, Type::TEXT),
                (&key.transaction.id, Type::INT8),
                (&rejection.op_id.unwrap_or(key.transaction.first_op_id()), Type::INT8),
                (&rejection.sqlstate, Type::TEXT),
                (&rejection.message, Type::TEXT),
                (&rejection.table, Type::TEXT),
                (&rejection.column, Type::TEXT),
                (&rejection.constraint, Type::TEXT),
                (&entries.unwrap_or("null"), Type::TEXT),
            ],
        )
        .await
        .doing("record the rejected write")
        .map(drop)
}

/// Rows of one deletion at most, so that none holds a lock or grows the log for long.
const CHUNK: i64 = 10_000;

/// Deletes what is older than it is kept, and what users have too many of.
/// Returns the number of records deleted.
pub(crate) async fn purge(client: &Client, keep: &Keep) -> Result<u64, PgError> {
    let mut deleted = 0;
    for (table, at) in [("uploads", "at"), ("rejected_writes", "rejected_at")] {
        let sql = format!(
            "DELETE FROM headwater.{table} WHERE ctid = ANY (ARRAY( \
               SELECT ctid FROM headwater.{table} \
               WHERE {at} < now() - make_interval(days => $1) LIMIT $2))"
        );
        loop {
            let days = i32::from(keep.days);
            let rows = client
                .execute_typed(&sql, &[(&days, Type::INT4), (&CHUNK, Type::INT8)])
                .await
                .doing("delete old records of uploads")?;
            deleted += rows;
            if rows < CHUNK.unsigned_abs() {
                break;
            }
        }
    }
    for bound in bounds(keep) {
        let Bound { table, owner, most, .. } = bound;
        let sql =
            format!("SELECT {owner} FROM headwater.{table} GROUP BY {owner} HAVING count(*) > $1");
        let rows = client
            .query_typed(&sql, &[(&most, Type::INT8)])
            .await
            .doing("look for users with many records of uploads")?;
        for row in rows {
            deleted += trim_one(client, &bound, row.get(0)).await?;
        }
    }
    Ok(deleted)
}

/// How much of one user is kept in a table.
struct Bound {
    table: &'static str,
    /// The column that says whose a row is: of rejected writes the subject, as their author reads
    /// them.
    owner: &'static str,
    /// What orders its rows by age.
    age: &'static str,
    most: i64,
}

fn bounds(keep: &Keep) -> [Bound; 3] {
    let bound = |table, owner, age, most| Bound { table, owner, age, most };
    [
        bound("uploads", "user_key", "at, first_op_id", keep.records),
        bound("rejected_writes", "sub", "rejected_at, op_id", keep.rejected),
        bound("upload_high_water", "user_key", "at, op_id", keep.clients),
    ]
}

/// Deletes the oldest records of a user who has too many. Returns the number deleted.
pub(crate) async fn trim(client: &Client, keep: &Keep, author: &Author) -> Result<u64, PgError> {
    let mut deleted = 0;
    for bound in bounds(keep) {
        let owner = if bound.owner == "sub" { &author.subject } else { &author.user };
        deleted += trim_one(client, &bound, owner).await?;
    }
    Ok(deleted)
}

async fn trim_one(client: &Client, bound: &Bound, owner: &str) -> Result<u64, PgError> {
    let Bound { table, owner: column, age, most } = bound;
    let newest_first = age.replace(',', " DESC,");
    let sql = format!(
        "DELETE FROM headwater.{table} WHERE ctid = ANY (ARRAY( \
           SELECT ctid FROM headwater.{table} WHERE {column} = $1 \
           ORDER BY {newest_first} DESC OFFSET $2))"
    );
    client
        .execute_typed(&sql, &[(&owner, Type::TEXT), (most, Type::INT8)])
        .await
        .doing("delete old records of uploads")
}

/// A UUID made of the key and the contents (version 8 of RFC 9562: free content).
fn rejected_id(key: &Key<'_>) -> String {
    let mut hash = Sha256::new();
    for part in [&*key.author.user, key.client_id] {
        hash.update((part.len() as u64).to_be_bytes());
        hash.update(part);
    }
    hash.update(key.transaction.id.to_be_bytes());
    hash.update(key.contents);
    let mut bytes: [u8; 32] = hash.finalize().into();
    bytes[6] = bytes[6] & 0x0f | 0x80;
    bytes[8] = bytes[8] & 0x3f | 0x80;
    let hex: String = bytes[..16].iter().map(|byte| format!("{byte:02x}")).collect();
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

fn rejection_json(rejection: &Rejection) -> serde_json::Value {
    json!({
        "sqlstate": rejection.sqlstate,
        "message": rejection.message,
        "op_id": rejection.op_id,
        "table": rejection.table,
        "column": rejection.column,
        "constraint": rejection.constraint,
    })
}

/// Reads what [`rejection_json`] wrote; what is missing stays empty.
fn rejection_from(text: &str) -> Rejection {
    let value: serde_json::Value = serde_json::from_str(text).unwrap_or_default();
    let part = |name: &str| value[name].as_str().map(str::to_owned);
    Rejection {
        sqlstate: part("sqlstate").unwrap_or_default(),
        message: part("message").unwrap_or_default(),
        op_id: value["op_id"].as_i64(),
        table: part("table"),
        column: part("column"),
        constraint: part("constraint"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_rejection_survives_its_record() {
        let rejection = Rejection {
            op_id: Some(9),
            table: Some("t".into()),
            column: Some("a".into()),
            constraint: Some("t_a_key".into()),
            ..Rejection::ours("23505", "a row with the same value exists already")
        };
        assert_eq!(rejection_from(&rejection_json(&rejection).to_string()), rejection);
    }
}
