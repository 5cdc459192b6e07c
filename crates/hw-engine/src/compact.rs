//! Compaction of a bucket's log: what is superseded goes, in slices of a bounded size.
//!
//! In: a bucket, and the position before which nobody reads any more. Out: superseded operations are
//! removed, each leaving the sum of the bucket's checksums at its place, so that a client that stands
//! there can still be told the sum of what it misses. Of those sums, and of operations that tell
//! that a row has left, a bounded number is kept: the *floor* is where they begin, and who stands
//! before it starts again (CLEAR).
//!
//! Invariant: op ids, checksums and counts stay what they are (E-11); every state at or behind
//! `until` is read as before.

use crate::buckets::{BucketBook, Spaces};
use crate::error::EngineError;
use crate::overlay::{Overlay, Sink};
use crate::record::{
    BucketRecord, Mark, OpRecord, RowOp, newest_key, op_key, op_of_key, op_of_sum_key, sum_key,
};
use hw_input::entry::CompactSlice;
use hw_store::Snapshot;
use hw_types::OpId;
use std::ops::Bound;

/// Sums that a bucket keeps for those who come back. Who missed more than that has missed most of its
/// rows.
fn kept_sums(total: &BucketRecord, slice: &CompactSlice) -> u64 {
    slice.least_sums.max(total.live.saturating_mul(4))
}

/// Compacts a slice of a bucket's log, and returns whether another one would find work.
///
/// - Needs: nothing of the bucket waits in `overlay`. The caller commits behind it.
pub(crate) fn compact_slice(
    book: &mut BucketBook,
    spaces: &Spaces,
    overlay: &mut Overlay,
    slice: &CompactSlice,
) -> Result<bool, EngineError> {
    let Some(space) = spaces.source(slice.source) else { return Ok(false) };
    let mut total = *book.total(space, slice.source, overlay, &slice.parameters)?;
    let snapshot = overlay.store().snapshot();
    raise_floor(&snapshot, space, overlay, &mut total, slice)?;
    let number = total.number;
    let last = slice.until.min(total.last_op);
    let mut seen = 0;
    let from = op_key(number, OpId(total.settled.0 + 1));
    let to = op_key(number, last);
    for entry in snapshot.range(&space.ops, (Bound::Included(from), Bound::Included(to))) {
        if seen == slice.operations {
            break;
        }
        seen += 1;
        let entry = entry?;
        let (op_id, record) = decode(&entry)?;
        if let Some(before) = record.supersedes {
            overlay.delete(&space.ops, op_key(number, before.op_id).to_vec())?;
            total.stale = total.stale.saturating_sub(1);
            total.removed_by = op_id;
            if before.op_id >= total.floor {
                let key = sum_key(number, before.op_id).to_vec();
                overlay.put(&space.buckets, key, before.sum.to_le_bytes().to_vec())?;
                total.sums += 1;
            }
        }
        total.settled = op_id;
    }
    if seen < slice.operations {
        total.settled = total.settled.max(last);
    }
    let more = seen == slice.operations || total.sums > kept_sums(&total, slice);
    *book.total(space, slice.source, overlay, &slice.parameters)? = total;
    Ok(more)
}

/// Forgets the oldest sums when there are too many, and with them which rows left before.
fn raise_floor(
    snapshot: &Snapshot,
    space: &crate::buckets::SourceSpace,
    overlay: &mut Overlay,
    total: &mut BucketRecord,
    slice: &CompactSlice,
) -> Result<(), EngineError> {
    let number = total.number;
    let excess = total.sums.saturating_sub(kept_sums(total, slice));
    let excess = excess.min(slice.operations as u64) as usize;
    if excess == 0 {
        return Ok(());
    }
    let from = sum_key(number, total.floor);
    let to = sum_key(number, OpId(u64::MAX));
    let mut oldest = Vec::with_capacity(excess + 1);
    for entry in snapshot.range(&space.buckets, from..=to).take(excess + 1) {
        let op = op_of_sum_key(&entry?.0);
        oldest.push(op.ok_or_else(|| EngineError::damaged("buckets", "sum"))?);
    }
    let Some(&last) = oldest.last() else { return Ok(()) };
    let mut floor = last;
    let between = op_key(number, total.floor)..op_key(number, last);
    for (seen, entry) in snapshot.range(&space.ops, between).enumerate() {
        let entry = entry?;
        let (op_id, record) = decode(&entry)?;
        if seen == slice.operations {
            floor = op_id;
            break;
        }
        if record.kind == RowOp::Put {
            continue;
        }
        // One that a later operation supersedes goes with that.
        let row = newest_key(number, &record.row());
        let newest = overlay.get(&space.buckets, &row)?.and_then(|value| Mark::decode(&value));
        if newest.is_some_and(|newest| newest.op_id == op_id) {
            overlay.delete(&space.ops, op_key(number, op_id).to_vec())?;
            overlay.delete(&space.buckets, row)?;
            total.named -= 1;
        }
    }
    for op in oldest.into_iter().filter(|op| *op < floor) {
        overlay.delete(&space.buckets, sum_key(number, op).to_vec())?;
        total.sums -= 1;
    }
    total.floor = floor;
    Ok(())
}

fn decode(
    (key, value): &(hw_store::Slice, hw_store::Slice),
) -> Result<(OpId, OpRecord<'_>), EngineError> {
    let op_id = op_of_key(key).ok_or_else(|| EngineError::damaged("ops", "key"))?;
    let record = OpRecord::decode(op_id, value);
    Ok((op_id, record.ok_or_else(|| EngineError::damaged("ops", "operation"))?))
}
