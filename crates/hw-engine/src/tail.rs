//! The tail: which transactions were applied lately, to recognise a source whose history moved.
//!
//! After a reconnect the source repeats everything behind the position it has confirmed; each
//! repeated transaction must be one that was applied under the same xid (`design/engine.md` 5).
//! One record per commit: key = first commit position, value = (position, xid) pairs.

use crate::error::EngineError;
use crate::overlay::{Overlay, Sink};
use hw_store::{Space, Store};
use hw_types::{CommitLsn, Lsn, varint};

/// Records kept. A source that crashed repeats at most what came since its last checkpoint.
const KEEP: usize = 100_000;
/// Records by which the tail may pass [`KEEP`] before it is trimmed.
const SLACK: usize = 10_000;

/// The record of a commit.
pub(crate) fn encode(transactions: &[(CommitLsn, u32)]) -> (Vec<u8>, Vec<u8>) {
    let first = transactions.first().map_or(0, |(lsn, _)| lsn.0.0);
    let mut value = Vec::with_capacity(transactions.len() * 8);
    for (lsn, xid) in transactions {
        varint::put(&mut value, lsn.0.0 - first);
        varint::put(&mut value, u64::from(*xid));
    }
    (first.to_be_bytes().to_vec(), value)
}

/// The xid under which a transaction was applied.
pub(crate) fn find(
    store: &Store,
    tail: &Space,
    lsn: CommitLsn,
) -> Result<Option<u32>, EngineError> {
    let end = lsn.0.0.to_be_bytes().to_vec();
    let Some(entry) = store.snapshot().range(tail, ..=end).next_back() else { return Ok(None) };
    let (key, value) = entry?;
    let damaged = || EngineError::damaged("tail", "transactions");
    let first = u64::from_be_bytes((*key).try_into().map_err(|_| damaged())?);
    let mut rest: &[u8] = &value;
    while !rest.is_empty() {
        let at = varint::take(&mut rest).ok_or_else(damaged)?;
        let xid = varint::take(&mut rest).ok_or_else(damaged)?;
        if first + at == lsn.0.0 {
            return Ok(u32::try_from(xid).ok());
        }
    }
    Ok(None)
}

/// Whether the tail begins at or before a position.
pub(crate) fn reaches(store: &Store, tail: &Space, lsn: CommitLsn) -> Result<bool, EngineError> {
    Ok(start(store, tail)?.is_some_and(|first| first <= lsn))
}

/// The oldest transaction in the tail.
pub(crate) fn start(store: &Store, tail: &Space) -> Result<Option<CommitLsn>, EngineError> {
    let Some(entry) = store.snapshot().all(tail).next() else { return Ok(None) };
    let (key, _) = entry?;
    let bytes = (*key).try_into().map_err(|_| EngineError::damaged("tail", "key"))?;
    Ok(Some(CommitLsn(Lsn(u64::from_be_bytes(bytes)))))
}

/// Deletes the oldest records when there are too many.
pub(crate) fn trim(store: &Store, tail: &Space, overlay: &mut Overlay) -> Result<(), EngineError> {
    let snapshot = store.snapshot();
    let count = snapshot.all(tail).count();
    if count > KEEP + SLACK {
        for entry in snapshot.all(tail).take(count - KEEP) {
            overlay.delete(tail, entry?.0.to_vec())?;
        }
    }
    Ok(())
}
