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
}
