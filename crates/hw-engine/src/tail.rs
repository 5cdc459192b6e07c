//! The tail: which transactions were applied lately, to recognise a source whose history moved.
//!
//! After a reconnect the source repeats everything behind the position it has confirmed; each
//! repeated transaction must be one that was applied under the same xid (`design/engine.md` 5).
//! One record per transaction: key = commit position, value = xid. A record without a value marks
//! where a history begins.

use crate::error::EngineError;
use crate::overlay::{Overlay, Sink};
use hw_store::{Space, Store};
use hw_types::{CommitLsn, Lsn, Xid};
use std::collections::VecDeque;

/// Records kept. A source that crashed repeats at most what came since its last checkpoint.
const KEEP: usize = 100_000;
/// Records by which the tail may pass [`KEEP`] before it is trimmed.
const SLACK: usize = 10_000;

/// The record of a transaction.
pub(crate) fn record(lsn: CommitLsn, xid: Xid) -> (Vec<u8>, Vec<u8>) {
    (key(lsn), xid.0.to_be_bytes().to_vec())
}

/// The record that marks where a history begins.
pub(crate) fn beginning(lsn: Lsn) -> (Vec<u8>, Vec<u8>) {
    (key(CommitLsn(lsn)), Vec::new())
}

fn key(lsn: CommitLsn) -> Vec<u8> {
    lsn.0.0.to_be_bytes().to_vec()
}

fn position(key: &[u8]) -> Result<CommitLsn, EngineError> {
    let bytes = key.try_into().map_err(|_| EngineError::damaged("tail", "key"))?;
    Ok(CommitLsn(Lsn(u64::from_be_bytes(bytes))))
}

/// The transactions at or behind `first`, up to and including `last`, oldest first.
pub(crate) fn between(
    store: &Store,
    tail: &Space,
    first: CommitLsn,
    last: CommitLsn,
) -> Result<VecDeque<(CommitLsn, Xid)>, EngineError> {
    let mut found = VecDeque::new();
    if first > last {
        return Ok(found);
    }
    for entry in store.snapshot().range(tail, key(first)..=key(last)) {
        let (key, value) = entry?;
        if value.is_empty() {
            continue;
        }
        let xid = (*value).try_into().map_err(|_| EngineError::damaged("tail", "transaction"))?;
        found.push_back((position(&key)?, Xid(u32::from_be_bytes(xid))));
    }
    Ok(found)
}

/// The oldest record of the tail.
pub(crate) fn start(store: &Store, tail: &Space) -> Result<Option<CommitLsn>, EngineError> {
    store.snapshot().all(tail).next().map(|entry| position(&entry?.0)).transpose()
}

/// How many records may come before there are too many. Counts all that there are.
pub(crate) fn room(store: &Store, tail: &Space) -> u64 {
    (KEEP + SLACK + 1).saturating_sub(store.snapshot().all(tail).count()) as u64
}

/// The oldest record that stays of too many.
pub(crate) fn oldest_kept(store: &Store, tail: &Space) -> Result<Option<Lsn>, EngineError> {
    let oldest = store.snapshot().all(tail).rev().nth(KEEP - 1);
    oldest.map(|entry| Ok(position(&entry?.0)?.0)).transpose()
}

/// Deletes the records below a position.
pub(crate) fn trim(
    store: &Store,
    tail: &Space,
    below: Lsn,
    overlay: &mut Overlay,
) -> Result<(), EngineError> {
    for entry in store.snapshot().range(tail, ..key(CommitLsn(below))) {
        overlay.delete(tail, entry?.0.to_vec())?;
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::writer::{Bounds, Writer};
    use hw_input::entry::{Control, Entry};
    use hw_store::Simulation;

    #[test]
    fn a_tail_that_has_passed_its_length_is_cut_to_it_and_counted_no_sooner() {
        let store = Store::simulated(&Simulation::new());
        let bounds = Bounds { fold_bytes: 1 << 20, sort_bytes: 1 << 20, change_list_bytes: 0 };
        let mut writer = Writer::open(store.clone(), bounds, Default::default()).unwrap();
        let tail = writer.tail.clone();
        let put = |writer: &mut Writer, positions: std::ops::Range<usize>| {
            for n in positions {
                let (key, value) = record(CommitLsn(Lsn(n as u64)), Xid(1));
                writer.overlay.append(&tail, &key, value).unwrap();
            }
            writer.commit().unwrap();
        };
        put(&mut writer, 0..KEEP);
        assert_eq!(writer.tail_surplus().unwrap(), None);
        assert_eq!(writer.tail_room, SLACK as u64 + 1);
        put(&mut writer, KEEP..KEEP + SLACK + 1);
        assert_eq!(writer.tail_surplus().unwrap(), None, "no transaction was noted");
        writer.tail_room = 0;
        let below = writer.tail_surplus().unwrap().expect("a surplus");
        writer.apply(Entry::Control(Control::TrimTail { below })).unwrap();
        writer.commit().unwrap();
        assert_eq!(store.snapshot().all(&tail).count(), KEEP);
        assert_eq!(start(&store, &tail).unwrap(), Some(CommitLsn(below)));
    }
}
