//! The epoch of the log's transaction ids.
//!
//! The log names a transaction by the lower 32 bits of its id, which wrap. Its full id is the one of these
//! bits that is nearest to the next id that the source gives, because both are always less than 2^31
//! apart: no transaction that the stream can send is older than the slot's `catalog_xmin`, which keeps
//! rows of the catalog from being frozen, and Postgres gives no id that is 2^31 ahead of a row that is not.
//!
//! So the next id is read when a stream begins, whatever the stream then repeats, and followed: by the
//! ids in the stream, and by the look at the catalog once a second, since most ids may go to
//! transactions that the stream does not carry.

use hw_types::{FullXid, Xid};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

/// The next id of a source's transactions, as far as a stream of it knows. Clones share it.
#[derive(Clone, Debug)]
pub struct NextXid(Arc<AtomicU64>);

impl NextXid {
    /// The next id as the source tells it when the stream begins.
    pub fn new(next: FullXid) -> NextXid {
        NextXid(Arc::new(AtomicU64::new(next.0)))
    }

    /// The source gives this id next, or a later one.
    pub fn reaches(&self, next: FullXid) {
        self.0.fetch_max(next.0, Ordering::Relaxed);
    }

    /// The full id of a transaction in the stream.
    pub fn full(&self, xid: Xid) -> FullXid {
        let full = FullXid::of(xid, FullXid(self.0.load(Ordering::Relaxed)));
        self.reaches(FullXid(full.0 + 1));
        full
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const WRAP: u64 = 1 << 32;

    #[test]
    fn ids_keep_their_epoch_when_32_bits_wrap_while_they_are_streamed() {
        let next = NextXid::new(FullXid(3 * WRAP + 10));
        // What a stream repeats is older than the wrap.
        for xid in [3 * WRAP - 2_000_000_000, 3 * WRAP - 1, 3 * WRAP + 3, 3 * WRAP + 9] {
            assert_eq!(next.full(FullXid(xid).short()), FullXid(xid));
        }
        // Whole epochs of ids, of which the stream shows a few.
        let mut xid = 3 * WRAP;
        for _ in 0..20 {
            xid += 2_000_000_000;
            assert_eq!(next.full(FullXid(xid).short()), FullXid(xid));
            let late = FullXid(xid - 2_000_000_000);
            assert_eq!(next.full(late.short()), late, "a transaction that was long");
        }
        // The stream is silent meanwhile, the looks are not.
        for _ in 0..10 {
            xid += 2_000_000_000;
            next.reaches(FullXid(xid));
        }
        assert_eq!(next.full(FullXid(xid + 1).short()), FullXid(xid + 1));
    }
}
