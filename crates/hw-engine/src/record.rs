//! Record formats of the `ops`, `buckets`, `lookups` and `wcp` spaces. `docs/formats.md`
//! describes them; change both together and raise the store's format version.
//!
//! Keys are big-endian so that they sort; values start with a version or kind byte.

use hw_types::{OpId, varint};
use sha2::{Digest, Sha256};
use std::borrow::Cow;

/// What an operation of a bucket does.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[repr(u8)]
pub enum OpKind {
    /// The row is now this.
    Put = 1,
    /// The row has left the bucket.
    Remove = 2,
    /// A superseded operation: only its checksum counts.
    Move = 3,
    /// Everything before it is gone; its checksum is the sum of what it replaced.
    Clear = 4,
}

impl OpKind {
    fn from_byte(byte: u8) -> Option<OpKind> {
        [OpKind::Put, OpKind::Remove, OpKind::Move, OpKind::Clear]
            .into_iter()
            .find(|k| *k as u8 == byte)
    }
}

/// The parts of an operation that its value holds; the key holds bucket and op id.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OpRecord<'a> {
    /// What it does.
    pub kind: OpKind,
    /// First four bytes of SHA-256, little-endian (`powersync-protocol.md` 6.1).
    pub checksum: u32,
    /// The transaction that made it.
    pub xid: u32,
    /// Place of the folded change in its transaction, from 0.
    pub change: u64,
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

impl<'a> OpRecord<'a> {
    /// Appends the value to `out`.
    pub fn encode(&self, out: &mut Vec<u8>) {
        out.reserve(self.data.len() + self.subkey.len() + self.object_id.len() + 40);
        out.push(self.kind as u8);
        out.extend_from_slice(&self.checksum.to_le_bytes());
        out.extend_from_slice(&self.xid.to_le_bytes());
        varint::put(out, self.change);
        varint::put_bytes(out, self.object_type.as_bytes());
        varint::put_bytes(out, self.object_id.as_bytes());
        varint::put_bytes(out, self.subkey.as_bytes());
        out.extend_from_slice(self.data.as_bytes());
    }

    /// Reads a value; `None` when it is damaged.
    pub fn decode(mut value: &'a [u8]) -> Option<OpRecord<'a>> {
        let rest = &mut value;
        let kind = OpKind::from_byte(*take(rest, 1)?.first()?)?;
        let checksum = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        let xid = u32::from_le_bytes(take(rest, 4)?.try_into().ok()?);
        let change = varint::take(rest)?;
        let object_type = std::str::from_utf8(varint::take_bytes(rest)?).ok()?;
        let object_id = std::str::from_utf8(varint::take_bytes(rest)?).ok()?;
        let subkey = std::str::from_utf8(varint::take_bytes(rest)?).ok()?;
        let data = std::str::from_utf8(rest).ok()?;
        Some(OpRecord { kind, checksum, xid, change, object_type, object_id, subkey, data })
    }
}

/// A bucket's running totals, kept under its parameters.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Default)]
pub struct BucketRecord {
    /// The bucket's number within its source.
    pub number: u32,
    /// Operations in its log.
    pub count: u64,
    /// Rows that are in it now: operations less the superseded and removing ones.
    pub live: u64,
    /// Sum of all checksums modulo 2^32.
    pub checksum: u32,
    /// Its newest operation.
    pub last_op: OpId,
}

const BUCKET_V1: u8 = 1;

impl BucketRecord {
    /// The value.
    pub fn encode(&self) -> Vec<u8> {
        let mut out = Vec::with_capacity(32);
        out.push(BUCKET_V1);
        varint::put(&mut out, u64::from(self.number));
        varint::put(&mut out, self.count);
        varint::put(&mut out, self.live);
        out.extend_from_slice(&self.checksum.to_le_bytes());
        varint::put(&mut out, self.last_op.0);
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
            kind: OpKind::Put,
            checksum: 0xdead_beef,
            xid: 7,
            change: 300,
            object_type: "todos",
            object_id: "t1",
            subkey: "3.abc",
            data: "{\"id\":\"t1\"}",
        };
        let mut value = Vec::new();
        op.encode(&mut value);
        assert_eq!(OpRecord::decode(&value), Some(op));
        for cut in 0..value.len() - op.data.len() {
            assert_eq!(OpRecord::decode(&value[..cut]), None, "cut at {cut}");
        }
        let bucket =
            BucketRecord { number: 9, count: 1 << 40, live: 3, checksum: 5, last_op: OpId(8) };
        let value = bucket.encode();
        assert_eq!(BucketRecord::decode(&value), Some(bucket));
        assert_eq!(BucketRecord::decode(&value[..value.len() - 1]), None);
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
