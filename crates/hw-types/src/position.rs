//! Positions. Every position is a type of its own, because the costliest confusions of a
//! replication engine are between two positions with one name.

use std::fmt;
use std::str::FromStr;

/// A byte position in the source's write-ahead log, printed `16/B374D848`.
///
/// Source: PostgreSQL manual, "pg_lsn Type".
#[derive(Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Lsn(pub u64);

impl Lsn {
    /// `0/0`: "no position", and in `START_REPLICATION` "where the slot stands".
    pub const ZERO: Lsn = Lsn(0);
}

impl fmt::Display for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{:X}/{:X}", self.0 >> 32, self.0 & 0xffff_ffff)
    }
}

impl fmt::Debug for Lsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

/// The text was not `X/X` with two hexadecimal halves of at most 32 bits.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a log position: expected two hexadecimal numbers joined by '/', such as 16/B374D848")]
pub struct ParseLsnError;

impl FromStr for Lsn {
    type Err = ParseLsnError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let (high, low) = text.split_once('/').ok_or(ParseLsnError)?;
        let half = |s: &str| {
            if s.is_empty() || s.len() > 8 || s.starts_with('+') {
                return Err(ParseLsnError);
            }
            u64::from_str_radix(s, 16).map_err(|_| ParseLsnError)
        };
        Ok(Lsn(half(high)? << 32 | half(low)?))
    }
}

/// Where a transaction's commit record starts: the transaction's identity. Used by the replay
/// filter and by table boundaries (`design/engine.md` 3, 6.2).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct CommitLsn(pub Lsn);

/// Where a transaction's commit record ends: what is acknowledged to the source, what a
/// checkpoint carries, what a barrier compares with.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct EndLsn(pub Lsn);

impl fmt::Display for CommitLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

impl fmt::Display for EndLsn {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction id of the source as the log carries it (32 bits, wraps).
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct Xid(pub u32);

/// A transaction id of the source in full: 32 bits of epoch above the 32 bits that wrap. Ids are given in
/// this order and never again, as long as the source is the same.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct FullXid(pub u64);

impl FullXid {
    /// The full id of a transaction that the log names by 32 bits.
    ///
    /// - Takes: `near`, a full id that is less than 2^31 transactions away, before or behind it.
    pub fn of(xid: Xid, near: FullXid) -> FullXid {
        let distance = xid.0.wrapping_sub(near.0 as u32).cast_signed();
        FullXid(near.0.wrapping_add_signed(i64::from(distance)))
    }

    /// What the log names it by.
    pub fn short(self) -> Xid {
        Xid(self.0 as u32)
    }
}

impl fmt::Display for FullXid {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A snapshot as `pg_current_snapshot()` prints it: which transactions it sees.
///
/// Source: PostgreSQL manual, "Transaction ID and Snapshot Information Functions".
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PgSnapshot {
    /// Every transaction below has ended.
    pub xmin: FullXid,
    /// The first that had not begun.
    pub xmax: FullXid,
    /// Those between that were running, in order.
    pub running: Vec<FullXid>,
}

impl PgSnapshot {
    /// Whether it sees what a transaction did, given that it has committed.
    ///
    /// - Takes: its top-level id. Those of savepoints are in no snapshot.
    pub fn sees(&self, xid: FullXid) -> bool {
        xid < self.xmax && self.running.binary_search(&xid).is_err()
    }
}

impl fmt::Display for PgSnapshot {
    /// As `pg_current_snapshot()` prints it.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}:", self.xmin, self.xmax)?;
        let mut comma = "";
        for xid in &self.running {
            write!(f, "{comma}{xid}")?;
            comma = ",";
        }
        Ok(())
    }
}

/// The text was not `xmin:xmax:running,…`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("not a snapshot: expected two transaction ids and a list of ids, such as 10:20:10,14,15")]
pub struct ParseSnapshotError;

impl FromStr for PgSnapshot {
    type Err = ParseSnapshotError;

    fn from_str(text: &str) -> Result<Self, Self::Err> {
        let mut parts = text.split(':');
        let mut next = || parts.next().ok_or(ParseSnapshotError);
        let (xmin, xmax, list) = (next()?, next()?, next()?);
        let xid = |text: &str| text.parse().map(FullXid).map_err(|_| ParseSnapshotError);
        let ids = list.split(',').filter(|_| !list.is_empty());
        let mut running = ids.map(xid).collect::<Result<Vec<_>, _>>()?;
        running.sort_unstable();
        let snapshot = PgSnapshot { xmin: xid(xmin)?, xmax: xid(xmax)?, running };
        parts.next().is_none().then_some(snapshot).ok_or(ParseSnapshotError)
    }
}

/// Global, strictly increasing number of an operation of a bucket; below 2^53.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct OpId(pub u64);

impl OpId {
    /// Op ids stay below 2^53 so that every client language can hold them.
    pub const LIMIT: u64 = 1 << 53;
}

impl fmt::Display for OpId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.fmt(f)
    }
}

/// A transaction boundary: all operations up to `op_id`, all transactions up to `end_lsn`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Checkpoint {
    /// The last operation contained.
    pub op_id: OpId,
    /// The end of the last transaction contained.
    pub end_lsn: EndLsn,
}

/// Where a reader of a bucket's log stands.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Hash)]
pub struct Place {
    /// The last operation that it has; 0 for one that has nothing.
    pub after: OpId,
    /// It holds no row that left the bucket at or before this position: that of the checkpoint at which
    /// it began to read, or up to which it is complete.
    pub since: OpId,
    /// The sum of the checksums that it has, when that is known.
    pub sum: Option<u32>,
    /// Whether the store never was at `after`, so that the reader must forget what it has.
    pub lost: bool,
}

impl Place {
    /// The place of a client that brings a position along.
    pub fn brought(after: OpId) -> Place {
        Place { after, since: after, sum: None, lost: false }
    }

    /// The place of a client that has something up to a position at which the store never was.
    pub fn lost(after: OpId) -> Place {
        Place { lost: true, ..Place::brought(after) }
    }

    /// The place of a reader that has all up to its last operation, whose checksums have this sum.
    pub fn complete(after: OpId, sum: u32) -> Place {
        Place { sum: Some(sum), ..Place::brought(after) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn lsn_prints_and_parses_as_postgres_does() {
        let lsn: Lsn = "16/B374D848".parse().unwrap();
        assert_eq!(lsn, Lsn(0x16_B374_D848));
        assert_eq!(lsn.to_string(), "16/B374D848");
        assert_eq!("0/0".parse(), Ok(Lsn::ZERO));
        for bad in ["", "/", "1", "1/", "/1", "1/123456789", "g/0", "+1/0", "1/-1"] {
            assert_eq!(bad.parse::<Lsn>(), Err(ParseLsnError), "{bad}");
        }
    }

    #[test]
    fn a_snapshot_sees_what_had_ended_also_across_a_wrap_of_32_bits() {
        let wrap = 1u64 << 32;
        let text = format!("{}:{}:{},{}", wrap - 10, wrap + 5, wrap - 10, wrap + 2);
        let snapshot: PgSnapshot = text.parse().unwrap();
        assert_eq!(snapshot.to_string(), text);
        for (xid, sees) in [
            (wrap - 1000, true),
            (wrap - 10, false),
            (wrap - 9, true),
            (wrap, true),
            (wrap + 2, false),
            (wrap + 4, true),
            (wrap + 5, false),
            (wrap + 1000, false),
        ] {
            assert_eq!(snapshot.sees(FullXid(xid)), sees, "{xid}");
            let (full, short) = (FullXid(xid), FullXid(xid).short());
            assert_eq!(FullXid::of(short, snapshot.xmin), full);
            assert_eq!(FullXid::of(short, snapshot.xmax), full);
            let half = (1 << 31) - 1;
            assert_eq!(FullXid::of(short, FullXid(xid + half)), full);
            assert_eq!(FullXid::of(short, FullXid(xid - half)), full);
        }
        assert_eq!("3:3:".parse::<PgSnapshot>().unwrap().running, []);
        for bad in ["", "1", "1:2", "1:2:3:4", "1:2:x", "a:2:", "1:2:,"] {
            assert_eq!(bad.parse::<PgSnapshot>(), Err(ParseSnapshotError), "{bad}");
        }
    }
}
