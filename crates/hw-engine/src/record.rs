//! Record formats of the `ops`, `buckets`, `lookups` and `wcp` spaces. `docs/formats.md`
//! describes them; change both together and raise the store's format version.
//!
//! Keys are big-endian so that they sort; values start with a version or kind byte.

use hw_types::{OpId, varint};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// What an operation does to its row. (MOVE and CLEAR are made when a log is read, never stored.)
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum RowOp {
    /// The row is now this.
    Put = 1,
    /// The row has left the bucket.
    Remove = 2,
}

impl RowOp {
    fn from_byte(byte: u8) -> Option<RowOp> {
        [RowOp::Put, RowOp::Remove].into_iter().find(|k| *k as u8 == byte)
    }
}

/// An operation of a bucket, and the sum of the bucket's checksums up to it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Mark {
    /// The operation.
    pub op_id: OpId,
    /// Sum of the checksums of all operations of the bucket up to this one, itself included, modulo
    /// 2^32. No later removal of superseded operations changes it.
    pub sum: u32,
}

impl Mark {
    /// The value of a row's entry in the index of newest operations.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(12);
        out.extend_from_slice(&self.op_id.0.to_be_bytes());
        out.extend_from_slice(&self.sum.to_le_bytes());
        out
    }

    /// Reads a value; `None` when it is damaged.
    pub fn decode(value: &[u8]) -> Option<Mark> {
        let (op_id, sum) = value.split_at_checked(8)?;
        Some(Mark {
            op_id: OpId(u64::from_be_bytes(op_id.try_into().ok()?)),
            sum: u32::from_le_bytes(sum.try_into().ok()?),
        })
    }
}

/// The parts of an operation that its value holds; the key holds bucket and op id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpRecord<'a> {
    /// What it does.
    pub kind: RowOp,
    /// First four bytes of SHA-256, little-endian (`powersync-protocol.md` 6.1).
    pub checksum: u32,
    /// See [`Mark::sum`].
    pub sum: u32,
    /// The operation of the same row that this one supersedes.
    pub supersedes: Option<Mark>,
    /// Output table.
    pub object_type: &'a str,
    /// Output row id.
    pub object_id: &'a str,
    /// Identifies the source row: `<table incarnation>.<row key>`.
    pub subkey: &'a str,
    /// Row JSON; empty unless PUT.
    pub data: &'a str,
}

/// Key in an `ops` space: bucket number, op id.
pub fn op_key(bucket: u32, op: OpId) -> [u8; 12] {
    let mut key = [0; 12];
    key[..4].copy_from_slice(&bucket.to_be_bytes());
    key[4..].copy_from_slice(&op.0.to_be_bytes());
    key
}

/// The op id of a key made by [`op_key`].
pub fn op_of_key(key: &[u8]) -> Option<OpId> {
    Some(OpId(u64::from_be_bytes(key.get(4..12)?.try_into().ok()?)))
}

/// Names a row within a bucket: a hash of what the client tells rows apart by.
pub type RowName = [u8; 15];

/// The name of the row that an operation is about. The beginning of a SHA-256, because ids are chosen by
/// users: two rows under one name would hide one another. With 120 bits nobody finds an id under the name
/// of a given row, and whoever looks for any two that share one has 2^60 to try.
pub fn row_name(object_type: &str, object_id: &str, subkey: &str) -> RowName {
    let mut hasher = Sha256::new();
    for part in [object_type, object_id] {
        hasher.update((part.len() as u64).to_le_bytes());
        hasher.update(part);
    }
    hasher.update(subkey);
    let mut name = RowName::default();
    let length = name.len();
    name.copy_from_slice(&hasher.finalize()[..length]);
    name
}

/// Key in a `buckets` space of a row's newest operation. 18 bytes for the first 16,384 buckets: the store
/// holds a short key in place.
pub fn newest_key(bucket: u32, row: &RowName) -> Vec<u8> {
    let mut key = Vec::with_capacity(1 + 5 + row.len());
    key.push(b'r');
    varint::put(&mut key, u64::from(bucket));
    key.extend_from_slice(row);
    key
}

/// Key in a `buckets` space of the sum at an operation that was removed.
pub fn sum_key(bucket: u32, op: OpId) -> [u8; 13] {
    let mut key = [b's'; 13];
    key[1..].copy_from_slice(&op_key(bucket, op));
    key
}

/// The op id of a key made by [`sum_key`].
pub fn op_of_sum_key(key: &[u8]) -> Option<OpId> {
    op_of_key(key.get(1..)?)
}

impl<'a> OpRecord<'a> {
    /// The name of its row.
    pub fn row(&self) -> RowName {
        row_name(self.object_type, self.object_id, self.subkey)
    }

    /// Appends the value to `out`. `op_id` is that of the operation.
    pub fn encode(&self, op_id: OpId, out: &mut Vec<u8>) {
        let texts = [self.object_type, self.object_id, self.subkey, self.data];
        out.reserve(texts.iter().map(|text| text.len()).sum::<usize>() + 40);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&self.sum.to_le_bytes());
        match self.supersedes {
            None => varint::put(out, 0),
            Some(mark) => {
                varint::put(out, op_id.0 - mark.op_id.0);
                out.extend_from_slice(&mark.sum.to_le_bytes());
            }
        }
        varint::put_bytes(out, self.object_type.as_bytes());
        varint::put_bytes(out, self.object_id.as_bytes());
        varint::put_bytes(out, self.subkey.as_bytes());
        out.extend_from_slice(self.data.as_bytes());
    }

    /// Reads the value of the operation `op_id`; `None` when it is damaged.
    pub fn decode(op_id: OpId, mut value: &'a [u8]) -> Option<OpRecord<'a>> {
        let rest = &mut value;
        let kind = RowOp::from_byte(*take(rest, 1)?.first()?)?;
        let checksum = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        let sum = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        let supersedes = match varint::take(rest)? {
            0 => None,
            distance => Some(Mark {
                op_id: OpId(op_id.0.checked_sub(distance)?),
                sum: u32::from_le_bytes(take(rest, 4)?.try_into().ok()?),
            }),
        };
        let object_type = std::str::from_utf8(varint::take_bytes(rest)?).ok()?;
        let object_id = std::str::from_utf8(varint::take_bytes(rest)?).ok()?;
        let subkey = std::str::from_utf8(varint::take_bytes(rest)?).ok()?;
        let data = std::str::from_utf8(rest).ok()?;
        Some(OpRecord { kind, checksum, sum, supersedes, object_type, object_id, subkey, data })
    }
}

/// A bucket's running totals, and how far its log is compacted; kept under its parameters.
///
/// `floor <= removed_by <= last_op` and `floor <= settled <= last_op`. Only [`crate::compact`] moves
/// `floor` and `removed_by`; `settled` also moves when an operation supersedes the first one.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BucketRecord {
    /// The bucket's number within its source.
    pub number: u32,
    /// Operations that its log ever had.
    pub count: u64,
    /// Rows that are in it now: operations less the superseded and removing ones.
    pub live: u64,
    /// Sum of all checksums modulo 2^32.
    pub checksum: u32,
    /// Its newest operation.
    pub last_op: OpId,
    /// Superseded operations that its log still holds.
    pub stale: u64,
    /// No operation up to this one supersedes one that the log still holds.
    pub settled: OpId,
    /// The newest operation whose predecessor was removed from the log: the bucket cannot be read as
    /// it was before.
    pub removed_by: OpId,
    /// Nothing is known of what was removed up to here: neither the sums at superseded operations nor
    /// which rows have left. Who stands before it starts again.
    pub floor: OpId,
    /// Sums that are kept for removed operations behind the floor.
    pub sums: u64,
    /// Rows whose newest operation is known: those that are in it, and those that have left. As long
    /// as they are as many as `live`, nothing is known of a row that comes.
    pub named: u64,
}

const BUCKET_V1: u8 = 1;

impl BucketRecord {
    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(52);
        out.push(BUCKET_V1);
        varint::put(&mut out, u64::from(self.number));
        varint::put(&mut out, self.count);
        varint::put(&mut out, self.live);
        out.extend_from_slice(&self.checksum.to_le_bytes());
        varint::put(&mut out, self.last_op.0);
        varint::put(&mut out, self.stale);
        varint::put(&mut out, self.settled.0);
        varint::put(&mut out, self.removed_by.0);
        varint::put(&mut out, self.floor.0);
        varint::put(&mut out, self.sums);
        varint::put(&mut out, self.named);
        out
    }

    /// Reads a value; `None` when it is damaged.
    pub fn decode(mut value: &[u8]) -> Option<BucketRecord> {
        let rest = &mut value;
        if take(rest, 1)? != [BUCKET_V1] {
            return None;
        }
        Some(BucketRecord {
            number: u32::try_from(varint::take(rest)?).ok()?,
            count: varint::take(rest)?,
            live: varint::take(rest)?,
            checksum: u32::from_le_bytes(take(rest, 4)?.try_into().ok()?),
            last_op: OpId(varint::take(rest)?),
            stale: varint::take(rest)?,
            settled: OpId(varint::take(rest)?),
            removed_by: OpId(varint::take(rest)?),
            floor: OpId(varint::take(rest)?),
            sums: varint::take(rest)?,
            named: varint::take(rest)?,
        })
    }
}

/// Key in a `lookups` space: parameter values (prefix-free), then the source row, then a number
/// that tells several results of one row under one key apart.
pub fn lookup_key(values: &[u8], table: u32, row_key: &[u8], ordinal: u32, out: &mut Vec<u8>) {
    out.clear();
    out.extend_from_slice(&bounded_key(values));
    out.extend_from_slice(&table.to_be_bytes());
    varint::put_bytes(out, row_key);
    varint::put(out, u64::from(ordinal));
}

/// A key no longer than the store takes: a longer one keeps its beginning and ends in its
/// SHA-256.
pub fn bounded_key(key: &[u8]) -> Cow<'_, [u8]> {
    const LONGEST: usize = 8 << 10;
    const KEPT: usize = 1 << 10;
    if key.len() <= LONGEST {
        return Cow::Borrowed(key);
    }
    Cow::Owned([&key[..KEPT], &Sha256::digest(key)[..]].concat())
}

/// Takes `len` bytes from the front.
pub(crate) fn take<'a>(input: &mut &'a [u8], len: usize) -> Option<&'a [u8]> {
    if len > input.len() {
        return None;
    }
    let (head, tail) = input.split_at(len);
    *input = tail;
    Some(head)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn operations_and_buckets_round_trip_and_damage_is_noticed() {
        let op = OpRecord {
            kind: RowOp::Put,
            checksum: 0xdead_beef,
            sum: 7,
            supersedes: Some(Mark { op_id: OpId(300), sum: 9 }),
            object_type: "todos",
            object_id: "t1",
            subkey: "3.abc",
            data: "{\"id\":\"t1\"}",
        };
        let mut value = Vec::new();
        op.encode(OpId(1000), &mut value);
        assert_eq!(OpRecord::decode(OpId(1000), &value), Some(op));
        assert_eq!(OpRecord::decode(OpId(600), &value), None);
        for cut in 0..value.len() - op.data.len() {
            assert_eq!(OpRecord::decode(OpId(1000), &value[..cut]), None, "cut at {cut}");
        }
        let bucket = BucketRecord {
            number: 9,
            count: 1 << 40,
            live: 3,
            checksum: 5,
            last_op: OpId(8),
            stale: 2,
            settled: OpId(7),
            removed_by: OpId(6),
            floor: OpId(5),
            sums: 4,
            named: 5,
        };
        let value = bucket.encode();
        assert_eq!(BucketRecord::decode(&value), Some(bucket));
        assert_eq!(BucketRecord::decode(&value[..value.len() - 1]), None);
    }

    #[test]
    fn what_a_buckets_space_holds_for_a_bucket_is_told_apart_by_its_first_byte() {
        let keys: [&[u8]; 4] =
            [b"[\"a\"]", b"next", &newest_key(1, &[7; 15]), &sum_key(1, OpId(3))];
        let first: std::collections::BTreeSet<u8> = keys.iter().map(|key| key[0]).collect();
        assert_eq!(first.len(), keys.len());
        assert_eq!(op_of_sum_key(keys[3]), Some(OpId(3)));
        let mark = Mark { op_id: OpId(1 << 50), sum: 5 };
        assert_eq!(Mark::decode(&mark.encode()), Some(mark));
        assert_eq!(Mark::decode(&mark.encode()[..11]), None);
        assert_ne!(row_name("a", "bc", "d"), row_name("ab", "c", "d"));
    }

    #[test]
    fn a_long_key_is_cut_and_stays_unique() {
        let long = vec![7; 100_000];
        let longer = vec![7; 100_001];
        assert_eq!(bounded_key(b"short"), &b"short"[..]);
        assert!(bounded_key(&long).len() < 2_000);
        assert_ne!(bounded_key(&long), bounded_key(&longer));
    }

    #[test]
    fn operations_sort_by_bucket_then_op_id() {
        let keys = [op_key(1, OpId(300)), op_key(1, OpId(1 << 40)), op_key(2, OpId(1))];
        assert!(keys.is_sorted());
        assert_eq!(op_of_key(&keys[1]), Some(OpId(1 << 40)));
    }
}
