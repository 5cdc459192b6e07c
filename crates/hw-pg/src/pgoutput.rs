//! The decoder of pgoutput, protocol versions 1 and 2: one message of the replication stream in,
//! a borrowed view of it out.
//!
//! Nothing is copied: names are `&str` and values `&[u8]` inside the message. Every length is
//! checked when the message is decoded, so that walking a [`Tuple`] afterwards cannot fail, and
//! bytes from outside never panic: they are a [`DecodeError`], and the connection that sent them
//! is dropped (F-35).
//!
//! Inside a stream block (protocol 2, between Stream Start and Stream Stop) each message carries
//! the id of the (sub)transaction that made it. Whether a block is open is the only state, and
//! [`Decoder`] keeps it.
//!
//! Source: PostgreSQL manual, "Logical Replication Message Formats".

use hw_types::{CommitLsn, EndLsn, Lsn, RelationId, ReplicaIdentity, Xid};

/// Why a message could not be decoded. Positions are bytes from the start of the message.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
pub enum DecodeError {
    /// The message ends before what it announces.
    #[error("the message ends at byte {at} where more was announced")]
    TooShort {
        /// Where the missing bytes were expected.
        at: usize,
    },
    /// Bytes follow the end of the message.
    #[error("{extra} bytes follow the end of the message")]
    TooLong {
        /// How many.
        extra: usize,
    },
    /// A message, tuple or column of an unknown kind.
    #[error("unknown {what} {tag:#04x} at byte {at}")]
    UnknownTag {
        /// What the tag should have told.
        what: &'static str,
        /// The tag found.
        tag: u8,
        /// Where.
        at: usize,
    },
    /// A name that is not UTF-8 (the connection asks for `client_encoding` UTF8).
    #[error("a name at byte {at} is not UTF-8")]
    NotUtf8 {
        /// Where the name starts.
        at: usize,
    },
    /// A message that may not stand inside, or not outside, of a stream block.
    #[error("message {tag:#04x} {}", if *.in_stream { "inside a stream block" } else { "outside of a stream block" })]
    Misplaced {
        /// The message's tag.
        tag: u8,
        /// Whether a block was open.
        in_stream: bool,
    },
}

/// One column's value as the log carries it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Datum<'a> {
    /// SQL NULL. In an old key tuple also: not part of the identity.
    Null,
    /// An out-of-line value that the statement did not change: not in the log.
    UnchangedToast,
    /// The type's text form.
    Text(&'a [u8]),
    /// The type's binary send form.
    Binary(&'a [u8]),
}

/// The columns of a row, checked; iterating cannot fail.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Tuple<'a> {
    columns: u16,
    bytes: &'a [u8],
}

impl<'a> Tuple<'a> {
    /// Number of columns.
    pub fn len(&self) -> usize {
        usize::from(self.columns)
    }

    /// Whether the tuple has no columns.
    pub fn is_empty(&self) -> bool {
        self.columns == 0
    }

    /// The columns in the order of the relation.
    pub fn iter(&self) -> TupleIter<'a> {
        TupleIter { left: self.columns, input: Input { bytes: self.bytes, at: 0 } }
    }
}

impl<'a> IntoIterator for &Tuple<'a> {
    type Item = Datum<'a>;
    type IntoIter = TupleIter<'a>;

    fn into_iter(self) -> TupleIter<'a> {
        self.iter()
    }
}

/// The columns of a [`Tuple`].
#[derive(Clone)]
pub struct TupleIter<'a> {
    left: u16,
    input: Input<'a>,
}

impl<'a> Iterator for TupleIter<'a> {
    type Item = Datum<'a>;

    fn next(&mut self) -> Option<Datum<'a>> {
        self.left = self.left.checked_sub(1)?;
        // The tuple was walked once when the message was decoded, so an error is out of reach;
        // were it not, the row would read as one with fewer columns.
        self.input.datum().ok()
    }

    fn size_hint(&self) -> (usize, Option<usize>) {
        (usize::from(self.left), Some(usize::from(self.left)))
    }
}

/// What an update or delete carries of the old row.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum OldTuple<'a> {
    /// Tag `K`: the identity's columns; all others read as NULL.
    Key(Tuple<'a>),
    /// Tag `O`: all columns (REPLICA IDENTITY FULL).
    Full(Tuple<'a>),
}

impl<'a> OldTuple<'a> {
    /// The columns, whichever of them are meaningful.
    pub fn tuple(&self) -> Tuple<'a> {
        match self {
            OldTuple::Key(tuple) | OldTuple::Full(tuple) => *tuple,
        }
    }
}

/// A column as a Relation message describes it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct RelationColumn<'a> {
    /// Part of the replica identity.
    pub identity: bool,
    /// Name, unquoted.
    pub name: &'a str,
    /// Oid of the type.
    pub type_oid: u32,
    /// Type modifier, -1 without.
    pub type_modifier: i32,
}

/// A Relation message: how the following tuples of the table are laid out.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RelationMessage<'a> {
    /// The table's oid.
    pub id: RelationId,
    /// Schema; the wire's empty string is spelt out as `pg_catalog`.
    pub schema: &'a str,
    /// Name, unquoted.
    pub name: &'a str,
    /// What the log carries of old rows.
    pub replica_identity: ReplicaIdentity,
    /// The published columns in the order of their values.
    pub columns: Vec<RelationColumn<'a>>,
}

/// A decoded message.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Message<'a> {
    /// A transaction that is committed and sent whole starts.
    Begin {
        /// Where its commit record starts.
        commit_lsn: CommitLsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time_micros: i64,
        /// Its top-level id.
        xid: Xid,
    },
    /// The transaction that Begin opened ends.
    Commit {
        /// Where its commit record starts.
        commit_lsn: CommitLsn,
        /// Where its commit record ends.
        end_lsn: EndLsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time_micros: i64,
    },
    /// The transaction came to the source from elsewhere.
    Origin {
        /// Its commit position there.
        lsn: Lsn,
        /// The origin's name.
        name: &'a str,
    },
    /// How following tuples of a table are laid out.
    Relation(RelationMessage<'a>),
    /// The name of a type that is not built in.
    Type {
        /// Its oid.
        id: u32,
        /// Its schema.
        schema: &'a str,
        /// Its name.
        name: &'a str,
    },
    /// A new row.
    Insert {
        /// The table.
        relation: RelationId,
        /// The row.
        new: Tuple<'a>,
    },
    /// A changed row.
    Update {
        /// The table.
        relation: RelationId,
        /// The old row, when the identity changed or the table is FULL.
        old: Option<OldTuple<'a>>,
        /// The new row.
        new: Tuple<'a>,
    },
    /// A row that is gone.
    Delete {
        /// The table.
        relation: RelationId,
        /// The old row.
        old: OldTuple<'a>,
    },
    /// Tables that were emptied together.
    Truncate {
        /// TRUNCATE … CASCADE.
        cascade: bool,
        /// TRUNCATE … RESTART IDENTITY.
        restart_identity: bool,
        /// The tables, each a big-endian oid.
        relations: Oids<'a>,
    },
    /// A message of `pg_logical_emit_message`.
    Logical {
        /// Part of the transaction around it; otherwise it stands alone.
        transactional: bool,
        /// Where it stands.
        lsn: Lsn,
        /// Its prefix.
        prefix: &'a str,
        /// Its content.
        content: &'a [u8],
    },
    /// Changes of an open transaction follow.
    StreamStart {
        /// The transaction's top-level id.
        xid: Xid,
        /// Whether this is the first block of the transaction on this connection.
        first: bool,
    },
    /// The block ends.
    StreamStop,
    /// A streamed transaction is committed.
    StreamCommit {
        /// Its top-level id.
        xid: Xid,
        /// Where its commit record starts.
        commit_lsn: CommitLsn,
        /// Where its commit record ends.
        end_lsn: EndLsn,
        /// Microseconds since 2000-01-01 UTC.
        commit_time_micros: i64,
    },
    /// A streamed transaction, or one sub-transaction of it, is rolled back.
    StreamAbort {
        /// The top-level id.
        xid: Xid,
        /// What is rolled back: the same for the whole transaction, else a sub-transaction.
        subxid: Xid,
    },
}

/// The oids of a Truncate message.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Oids<'a>(&'a [u8]);

impl Oids<'_> {
    /// The tables in the order of the message.
    pub fn iter(&self) -> impl Iterator<Item = RelationId> + '_ {
        self.0.chunks_exact(4).map(|b| RelationId(u32::from_be_bytes([b[0], b[1], b[2], b[3]])))
    }

    /// Number of tables.
    pub fn len(&self) -> usize {
        self.0.len() / 4
    }

    /// Whether no table is named.
    pub fn is_empty(&self) -> bool {
        self.0.is_empty()
    }
}

/// A message with the (sub)transaction that made it, which the wire names inside stream blocks.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decoded<'a> {
    /// The (sub)transaction; `None` outside of stream blocks and for the block's own messages.
    pub xid: Option<Xid>,
    /// The message.
    pub message: Message<'a>,
}

/// Decodes the messages of one connection in their order.
#[derive(Clone, Debug, Default)]
pub struct Decoder {
    in_stream: bool,
}

impl Decoder {
    /// A decoder for a connection that has just started to stream.
    pub fn new() -> Decoder {
        Decoder::default()
    }

    /// Whether a stream block is open.
    pub fn in_stream(&self) -> bool {
        self.in_stream
    }

    /// Decodes one message (the payload of one XLogData frame).
    ///
    /// - Errors: any [`DecodeError`]; the connection must then be given up, because what follows
    ///   cannot be trusted.
    pub fn decode<'a>(&mut self, bytes: &'a [u8]) -> Result<Decoded<'a>, DecodeError> {
        let mut input = Input { bytes, at: 0 };
        let tag = input.u8()?;
        let inside = self.in_stream;
        let allowed = match tag {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' => true,
            b'O' | b'E' => inside || tag == b'O',
            b'B' | b'C' | b'S' | b'c' | b'A' => !inside,
            _ => return Err(DecodeError::UnknownTag { what: "message", tag, at: 0 }),
        };
        if !allowed {
            return Err(DecodeError::Misplaced { tag, in_stream: inside });
        }
        let xid = match tag {
            b'R' | b'Y' | b'I' | b'U' | b'D' | b'T' | b'M' if inside => Some(Xid(input.u32()?)),
            _ => None,
        };
        let message = input.message(tag)?;
        if input.at < bytes.len() {
            return Err(DecodeError::TooLong { extra: bytes.len() - input.at });
        }
        match message {
            Message::StreamStart { .. } => self.in_stream = true,
            Message::StreamStop => self.in_stream = false,
            _ => {}
        }
        Ok(Decoded { xid, message })
    }
}

/// A place in a message.
#[derive(Clone, Copy)]
struct Input<'a> {
    bytes: &'a [u8],
    at: usize,
}

impl<'a> Input<'a> {
    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let rest = &self.bytes[self.at..];
        match rest.get(..len) {
            Some(taken) => {
                self.at += len;
                Ok(taken)
            }
            None => Err(DecodeError::TooShort { at: self.bytes.len() }),
        }
    }

    fn array<const N: usize>(&mut self) -> Result<[u8; N], DecodeError> {
        let mut out = [0; N];
        out.copy_from_slice(self.take(N)?);
        Ok(out)
    }

    fn u8(&mut self) -> Result<u8, DecodeError> {
        Ok(self.array::<1>()?[0])
    }

    fn u16(&mut self) -> Result<u16, DecodeError> {
        Ok(u16::from_be_bytes(self.array()?))
    }

    fn u32(&mut self) -> Result<u32, DecodeError> {
        Ok(u32::from_be_bytes(self.array()?))
    }

    fn i64(&mut self) -> Result<i64, DecodeError> {
        Ok(i64::from_be_bytes(self.array()?))
    }

    fn lsn(&mut self) -> Result<Lsn, DecodeError> {
        Ok(Lsn(u64::from_be_bytes(self.array()?)))
    }

    fn relation_id(&mut self) -> Result<RelationId, DecodeError> {
        Ok(RelationId(self.u32()?))
    }

    /// A length as int32; a negative one reads as too large and is refused by `take`.
    fn block(&mut self) -> Result<&'a [u8], DecodeError> {
        let len = self.u32()?;
        self.take(len as usize)
    }

    fn string(&mut self) -> Result<&'a str, DecodeError> {
        let start = self.at;
        let rest = &self.bytes[start..];
        let len = memchr::memchr(0, rest).ok_or(DecodeError::TooShort { at: self.bytes.len() })?;
        self.at += len + 1;
        std::str::from_utf8(&rest[..len]).map_err(|_| DecodeError::NotUtf8 { at: start })
    }

    fn datum(&mut self) -> Result<Datum<'a>, DecodeError> {
        let at = self.at;
        match self.u8()? {
            b'n' => Ok(Datum::Null),
            b'u' => Ok(Datum::UnchangedToast),
            b't' => Ok(Datum::Text(self.block()?)),
            b'b' => Ok(Datum::Binary(self.block()?)),
            tag => Err(DecodeError::UnknownTag { what: "column", tag, at }),
        }
    }

    fn tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let columns = self.u16()?;
        let start = self.at;
        for _ in 0..columns {
            self.datum()?;
        }
        Ok(Tuple { columns, bytes: &self.bytes[start..self.at] })
    }

    fn new_tuple(&mut self) -> Result<Tuple<'a>, DecodeError> {
        let at = self.at;
        match self.u8()? {
            b'N' => self.tuple(),
            tag => Err(DecodeError::UnknownTag { what: "tuple", tag, at }),
        }
    }

    fn old_tuple(&mut self) -> Result<OldTuple<'a>, DecodeError> {
        let at = self.at;
        match self.u8()? {
            b'K' => Ok(OldTuple::Key(self.tuple()?)),
            b'O' => Ok(OldTuple::Full(self.tuple()?)),
            tag => Err(DecodeError::UnknownTag { what: "tuple", tag, at }),
        }
    }

    fn relation(&mut self) -> Result<RelationMessage<'a>, DecodeError> {
        let id = self.relation_id()?;
        let schema = match self.string()? {
            "" => "pg_catalog",
            schema => schema,
        };
        let name = self.string()?;
        let at = self.at;
        let replica_identity = match self.u8()? {
            b'd' => ReplicaIdentity::Default,
            b'i' => ReplicaIdentity::Index,
            b'f' => ReplicaIdentity::Full,
            b'n' => ReplicaIdentity::Nothing,
            tag => return Err(DecodeError::UnknownTag { what: "replica identity", tag, at }),
        };
        let count = usize::from(self.u16()?);
        // A column takes at least 10 bytes, so a forged count cannot reserve much.
        let mut columns = Vec::with_capacity(count.min(self.bytes.len() / 10));
        for _ in 0..count {
            let identity = self.u8()? & 1 == 1;
            let name = self.string()?;
            let type_oid = self.u32()?;
            let type_modifier = self.u32()? as i32;
            columns.push(RelationColumn { identity, name, type_oid, type_modifier });
        }
        Ok(RelationMessage { id, schema, name, replica_identity, columns })
    }

    fn message(&mut self, tag: u8) -> Result<Message<'a>, DecodeError> {
        Ok(match tag {
            b'B' => Message::Begin {
                commit_lsn: CommitLsn(self.lsn()?),
                commit_time_micros: self.i64()?,
                xid: Xid(self.u32()?),
            },
            b'C' => {
                self.u8()?;
                Message::Commit {
                    commit_lsn: CommitLsn(self.lsn()?),
                    end_lsn: EndLsn(self.lsn()?),
                    commit_time_micros: self.i64()?,
                }
            }
            b'O' => Message::Origin { lsn: self.lsn()?, name: self.string()? },
            b'R' => Message::Relation(self.relation()?),
            b'Y' => Message::Type { id: self.u32()?, schema: self.string()?, name: self.string()? },
            b'I' => Message::Insert { relation: self.relation_id()?, new: self.new_tuple()? },
            b'U' => {
                let relation = self.relation_id()?;
                let old = match self.bytes.get(self.at) {
                    Some(b'N') => None,
                    _ => Some(self.old_tuple()?),
                };
                Message::Update { relation, old, new: self.new_tuple()? }
            }
            b'D' => Message::Delete { relation: self.relation_id()?, old: self.old_tuple()? },
            b'T' => {
                let count = self.u32()? as usize;
                let options = self.u8()?;
                let bytes =
                    count.checked_mul(4).ok_or(DecodeError::TooShort { at: self.bytes.len() })?;
                Message::Truncate {
                    cascade: options & 1 != 0,
                    restart_identity: options & 2 != 0,
                    relations: Oids(self.take(bytes)?),
                }
            }
            b'M' => Message::Logical {
                transactional: self.u8()? & 1 == 1,
                lsn: self.lsn()?,
                prefix: self.string()?,
                content: self.block()?,
            },
            b'S' => Message::StreamStart { xid: Xid(self.u32()?), first: self.u8()? == 1 },
            b'E' => Message::StreamStop,
            b'c' => {
                let xid = Xid(self.u32()?);
                self.u8()?;
                Message::StreamCommit {
                    xid,
                    commit_lsn: CommitLsn(self.lsn()?),
                    end_lsn: EndLsn(self.lsn()?),
                    commit_time_micros: self.i64()?,
                }
            }
            b'A' => Message::StreamAbort { xid: Xid(self.u32()?), subxid: Xid(self.u32()?) },
            tag => return Err(DecodeError::UnknownTag { what: "message", tag, at: 0 }),
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn decode_all(messages: &[Vec<u8>]) -> Result<(), DecodeError> {
        let mut decoder = Decoder::new();
        for bytes in messages {
            let decoded = decoder.decode(bytes)?;
            walk(&decoded.message);
        }
        Ok(())
    }

    /// Touches every part of a message, as a consumer would.
    fn walk(message: &Message<'_>) {
        match message {
            Message::Insert { new, .. } => assert_eq!(new.iter().count(), new.len()),
            Message::Update { old, new, .. } => {
                assert_eq!(new.iter().count(), new.len());
                if let Some(old) = old {
                    assert_eq!(old.tuple().iter().count(), old.tuple().len());
                }
            }
            Message::Delete { old, .. } => {
                assert_eq!(old.tuple().iter().count(), old.tuple().len())
            }
            Message::Truncate { relations, .. } => {
                assert_eq!(relations.iter().count(), relations.len())
            }
            _ => {}
        }
    }

    #[test]
    fn update_tells_null_unchanged_text_and_binary_apart() {
        let mut bytes = b"U\0\0\0\x07K\0\x01t\0\0\0\x01aN\0\x04nut\0\0\0\x02hib\0\0\0\x01".to_vec();
        bytes.push(0xff);
        let decoded = Decoder::new().decode(&bytes).unwrap();
        let Message::Update { relation, old: Some(OldTuple::Key(old)), new } = decoded.message
        else {
            panic!("not an update: {decoded:?}")
        };
        assert_eq!(relation, RelationId(7));
        assert_eq!(old.iter().collect::<Vec<_>>(), [Datum::Text(b"a")]);
        assert_eq!(
            new.iter().collect::<Vec<_>>(),
            [Datum::Null, Datum::UnchangedToast, Datum::Text(b"hi"), Datum::Binary(&[0xff])]
        );
    }

    #[test]
    fn relation_lists_columns_with_identity_and_type() {
        let bytes = b"R\0\0\0\x07public\0t\0d\0\x02\x01a\0\0\0\0\x17\xff\xff\xff\xff\0b\0\0\0\0\x19\xff\xff\xff\xff";
        let Message::Relation(relation) = Decoder::new().decode(bytes).unwrap().message else {
            panic!("not a relation")
        };
        assert_eq!((relation.schema, relation.name), ("public", "t"));
        assert_eq!(relation.replica_identity, ReplicaIdentity::Default);
        let columns: Vec<_> =
            relation.columns.iter().map(|c| (c.name, c.identity, c.type_oid)).collect();
        assert_eq!(columns, [("a", true, 23), ("b", false, 25)]);
    }

    #[test]
    fn changes_inside_a_stream_block_carry_their_subtransaction() {
        let mut decoder = Decoder::new();
        assert_eq!(
            decoder.decode(b"S\0\0\0\x05\x01").unwrap().message,
            Message::StreamStart { xid: Xid(5), first: true }
        );
        let insert = decoder.decode(b"I\0\0\0\x06\0\0\0\x07N\0\x01n").unwrap();
        assert_eq!(insert.xid, Some(Xid(6)));
        assert_eq!(
            decoder.decode(b"S\0\0\0\x05\x01"),
            Err(DecodeError::Misplaced { tag: b'S', in_stream: true })
        );
        assert_eq!(decoder.decode(b"E").unwrap().message, Message::StreamStop);
        let outside = decoder.decode(b"I\0\0\0\x07N\0\x01n").unwrap();
        assert_eq!(outside.xid, None);
        assert_eq!(
            decoder.decode(b"E"),
            Err(DecodeError::Misplaced { tag: b'E', in_stream: false })
        );
    }

    #[test]
    fn truncated_lengths_counts_and_names_are_refused() {
        for bytes in [
            &b""[..],
            b"I",
            b"I\0\0\0\x07N\xff\xffn",
            b"I\0\0\0\x07N\0\x01t\xff\xff\xff\xffa",
            b"I\0\0\0\x07N\0\x01x",
            b"T\xff\xff\xff\xff\0\0",
            b"R\0\0\0\x07public",
            b"R\0\0\0\x07\xff\0t\0d\0\0",
            b"Z",
            b"E",
            b"B\0\0",
        ] {
            assert!(Decoder::new().decode(bytes).is_err(), "{bytes:?}");
        }
        assert_eq!(
            Decoder::new().decode(b"I\0\0\0\x07N\0\x01nn"),
            Err(DecodeError::TooLong { extra: 1 })
        );
    }

    proptest! {
        #[test]
        fn rubbish_never_panics(
            tag in prop::sample::select(b"BCORYIUDTMSEcAZ".to_vec()),
            body in prop::collection::vec(any::<u8>(), 0..200),
            in_stream: bool,
        ) {
            let mut decoder = Decoder { in_stream };
            let mut bytes = vec![tag];
            bytes.extend(body);
            if let Ok(decoded) = decoder.decode(&bytes) {
                walk(&decoded.message);
            }
        }

        #[test]
        fn a_flipped_or_cut_message_never_panics(cut in 0usize..60, flip in 0usize..60, bit in 0u8..8) {
            let whole: Vec<Vec<u8>> = vec![
                b"R\0\0\0\x07public\0t\0d\0\x01\x01a\0\0\0\0\x17\xff\xff\xff\xff".to_vec(),
                b"U\0\0\0\x07O\0\x02t\0\0\0\x01anN\0\x02ut\0\0\0\x02hi".to_vec(),
                b"D\0\0\0\x07K\0\x02t\0\0\0\x01an".to_vec(),
                b"T\0\0\0\x02\x03\0\0\0\x07\0\0\0\x08".to_vec(),
                b"M\x01\0\0\0\0\0\0\0\x01headwater\0\0\0\0\x02hi".to_vec(),
            ];
            decode_all(&whole).unwrap();
            for message in &whole {
                let mut damaged = message.clone();
                let place = flip % damaged.len();
                damaged[place] ^= 1 << bit;
                let _ = decode_all(std::slice::from_ref(&damaged));
                damaged.truncate(cut % (damaged.len() + 1));
                let _ = decode_all(std::slice::from_ref(&damaged));
            }
        }
    }
}
