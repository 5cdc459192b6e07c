//! Markers: transactional messages in the source's log, written under the prefix `headwater`.
//!
//! A marker carries what its writer has to say, the snapshot that its transaction saw, and an
//! HMAC over both **and the xid of its own transaction**, so that a copy of it under another
//! transaction is worthless. It is transactional, because the other kind waits for the next
//! flush, and commits with `synchronous_commit = local`: it answers questions about the log and
//! holds no data of the user's. Source: `design/engine.md` 9.
//!
//! Content: version byte 1, HMAC-SHA-256 (32 bytes), length-prefixed text of
//! `pg_current_snapshot()`, then the contents.

use crate::error::{Doing, PgError, Result};
use aws_lc_rs::hmac;
use futures_util::future::try_join;
use hw_types::{LogMessage, Lsn, Xid, varint};
use tokio_postgres::Client;
use tokio_postgres::types::{ToSql, Type};

/// The prefix of our markers.
pub const PREFIX: &str = "headwater";

/// The prefix under which the event trigger of `headwater setup` tells that tables were altered. Its
/// messages are not signed: all they can do is make us look at the catalog.
pub const DDL_PREFIX: &str = "headwater_ddl";

/// The longest contents of a marker, in bytes.
pub const MAX_CONTENTS: usize = 1 << 20;

const VERSION: u8 = 1;
const TAG_BYTES: usize = 32;

/// A marker that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Emitted {
    /// Where it stands in the log: what `pg_logical_emit_message` returned, and what the stream
    /// shows for the message.
    pub lsn: Lsn,
    /// Its transaction.
    pub xid: Xid,
}

/// A marker that arrived and is ours.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Marker {
    /// The snapshot that its transaction saw, as `pg_current_snapshot()` prints it.
    pub snapshot: String,
    /// What its writer had to say.
    pub contents: Vec<u8>,
}

/// The message is not a marker of ours for this transaction.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a message under our prefix that is not ours")]
pub struct Forged;

/// Writes a marker in a transaction of its own: two round trips.
///
/// - Takes: the key that signs it, and at most [`MAX_CONTENTS`].
/// - Returns: when the transaction has committed (locally durable).
/// - Errors: longer contents, which whoever reads the log would pass over; those of a connection; a
///   server in recovery refuses. The marker may be in the log all
///   the same when the answer was lost; writing another one is harmless.
pub async fn emit(client: &Client, key: &[u8], contents: &[u8]) -> Result<Emitted> {
    check(contents)?;
    let written = write(client, key, contents).await.doing("write a marker into the log");
    if written.is_err() {
        // A connection that cannot roll back is closed by its owner.
        let _ = client.batch_execute("ROLLBACK").await;
    }
    written
}

fn check(contents: &[u8]) -> Result<()> {
    if contents.len() > MAX_CONTENTS {
        let bytes = contents.len();
        return Err(PgError::protocol(format!("a marker of {bytes} bytes is too long")));
    }
    Ok(())
}

async fn write(client: &Client, key: &[u8], contents: &[u8]) -> Result<Emitted> {
    const WHO: &str = "SELECT pg_catalog.pg_current_xact_id()::text, \
                       pg_catalog.pg_current_snapshot()::text";
    const EMIT: &str = "SELECT pg_catalog.pg_logical_emit_message(true, $1, $2)::text";
    let unreadable = || PgError::protocol("an answer about a marker that cannot be read");
    // Each pair is on its way before its first half is answered.
    let (_, row) = try_join(
        client.batch_execute("BEGIN; SET LOCAL synchronous_commit = local"),
        client.query_typed_one(WHO, &[]),
    )
    .await?;
    let full_xid: u64 = row.try_get::<_, &str>(0)?.parse().map_err(|_| unreadable())?;
    let snapshot: &str = row.try_get(1)?;
    // The log carries the lower 32 bits of the 64-bit transaction id.
    let xid = Xid(full_xid as u32);
    let content = sign(key, xid, snapshot, contents);
    let parameters: [(&(dyn ToSql + Sync), Type); 2] =
        [(&PREFIX, Type::TEXT), (&content, Type::BYTEA)];
    let (row, ()) =
        try_join(client.query_typed_one(EMIT, &parameters), client.batch_execute("COMMIT")).await?;
    let lsn = row.try_get::<_, &str>(0)?.parse().map_err(|_| unreadable())?;
    Ok(Emitted { lsn, xid })
}

/// The content of a marker's message in the transaction `xid`, as [`emit`] writes it.
pub fn sign(key: &[u8], xid: Xid, snapshot: &str, contents: &[u8]) -> Vec<u8> {
    let mut body = Vec::with_capacity(snapshot.len() + contents.len() + 4);
    varint::put_bytes(&mut body, snapshot.as_bytes());
    body.extend_from_slice(contents);
    let mut out = vec![VERSION];
    out.extend_from_slice(tag(key, xid, &body).as_ref());
    out.extend_from_slice(&body);
    out
}

fn tag(key: &[u8], xid: Xid, body: &[u8]) -> hmac::Tag {
    hmac::sign(&hmac::Key::new(hmac::HMAC_SHA256, key), &signed(xid, body))
}

fn signed(xid: Xid, body: &[u8]) -> Vec<u8> {
    [&xid.0.to_be_bytes()[..], body].concat()
}

/// Reads a message of our prefix that arrived in transaction `xid`.
///
/// - Errors: [`Forged`] when it was not written with this key in this transaction. Such messages
///   are ignored and counted.
pub fn verify(message: &LogMessage, xid: Xid, key: &[u8]) -> Result<Marker, Forged> {
    let content: &[u8] = &message.content;
    if message.prefix != PREFIX || content.first() != Some(&VERSION) {
        return Err(Forged);
    }
    let (claimed, body) = content[1..].split_at_checked(TAG_BYTES).ok_or(Forged)?;
    let key = hmac::Key::new(hmac::HMAC_SHA256, key);
    hmac::verify(&key, &signed(xid, body), claimed).map_err(|_| Forged)?;
    let mut rest = body;
    let snapshot = varint::take_bytes(&mut rest).ok_or(Forged)?;
    let snapshot = String::from_utf8(snapshot.to_vec()).map_err(|_| Forged)?;
    Ok(Marker { snapshot, contents: rest.to_vec() })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn contents_that_a_reader_would_pass_over_are_refused() {
        assert!(check(&vec![0; MAX_CONTENTS]).is_ok());
        assert!(check(&vec![0; MAX_CONTENTS + 1]).is_err());
    }

    #[test]
    fn a_marker_is_worth_nothing_in_another_transaction_or_under_another_key() {
        let content = sign(b"key", Xid(7), "7:7:", b"hello");
        let message = |content: Vec<u8>| LogMessage {
            lsn: Lsn(1),
            prefix: PREFIX.into(),
            content: content.into(),
        };
        let marker = verify(&message(content.clone()), Xid(7), b"key");
        assert_eq!(marker, Ok(Marker { snapshot: "7:7:".into(), contents: b"hello".to_vec() }));
        assert_eq!(verify(&message(content.clone()), Xid(8), b"key"), Err(Forged));
        assert_eq!(verify(&message(content.clone()), Xid(7), b"other"), Err(Forged));
        for cut in 0..content.len() {
            assert_eq!(verify(&message(content[..cut].to_vec()), Xid(7), b"key"), Err(Forged));
        }
    }
}
