//! How a relation stands in a record: its columns with their types, whatever these are made of.

use super::{Record, put_text, take_flag, take_text, take_u32};
use crate::record::take;
use hw_types::pgtype::{ElementType, TextKind};
use hw_types::{Column, PgType, Relation, RelationId, ReplicaIdentity, TableName, varint};

impl Record for Relation {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(self.id.0));
        put_text(out, &self.name.schema);
        put_text(out, &self.name.name);
        out.push(match self.replica_identity {
            ReplicaIdentity::Default => b'd',
            ReplicaIdentity::Index => b'i',
            ReplicaIdentity::Full => b'f',
            ReplicaIdentity::Nothing => b'n',
        });
        varint::put(out, self.columns.len() as u64);
        for column in &self.columns {
            put_text(out, &column.name);
            varint::put(out, u64::from(column.type_oid));
            out.extend_from_slice(&column.type_modifier.to_be_bytes());
            put_type(out, &column.pg_type);
            out.push(u8::from(column.identity));
            varint::put(out, u64::from(column.primary_key));
        }
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let id = RelationId(take_u32(input)?);
        let name = TableName { schema: take_text(input)?, name: take_text(input)? };
        let replica_identity = match take(input, 1)? {
            b"d" => ReplicaIdentity::Default,
            b"i" => ReplicaIdentity::Index,
            b"f" => ReplicaIdentity::Full,
            b"n" => ReplicaIdentity::Nothing,
            _ => return None,
        };
        let count = varint::take(input)?;
        let mut columns = Vec::new();
        for _ in 0..count {
            columns.push(Column {
                name: take_text(input)?,
                type_oid: take_u32(input)?,
                type_modifier: i32::from_be_bytes(take(input, 4)?.try_into().ok()?),
                pg_type: take_type(input)?,
                identity: take_flag(input)?,
                primary_key: u16::try_from(varint::take(input)?).ok()?,
            });
        }
        Some(Relation { id, name, replica_identity, columns })
    }
}

/// Scalar types by the byte that stands for them in records. Never reorder, only append.
pub(super) const SCALARS: [PgType; 23] = [
    PgType::Bool,
    PgType::Int2,
    PgType::Int4,
    PgType::Int8,
    PgType::Oid,
    PgType::Float4,
    PgType::Float8,
    PgType::Numeric,
    PgType::Text { kind: TextKind::Plain },
    PgType::Text { kind: TextKind::Enum },
    PgType::Text { kind: TextKind::Foreign },
    PgType::Bpchar,
    PgType::Uuid,
    PgType::Bytea,
    PgType::Json,
    PgType::Jsonb,
    PgType::Date,
    PgType::Time,
    PgType::Timetz,
    PgType::Timestamp,
    PgType::Timestamptz,
    PgType::Interval,
    PgType::PgLsn,
];

const ARRAY: u8 = 128;
const RANGE: u8 = 129;
const MULTIRANGE: u8 = 130;
const COMPOSITE: u8 = 131;
const DOMAIN: u8 = 132;

fn put_type(out: &mut Vec<u8>, ty: &PgType) {
    match ty {
        PgType::Array(element) => {
            out.extend_from_slice(&[ARRAY, element.delimiter]);
            put_type(out, &element.pg_type);
        }
        PgType::Range(inner) => {
            out.push(RANGE);
            put_type(out, inner);
        }
        PgType::Multirange(inner) => {
            out.push(MULTIRANGE);
            put_type(out, inner);
        }
        PgType::Domain(inner) => {
            out.push(DOMAIN);
            put_type(out, inner);
        }
        PgType::Composite(fields) => {
            out.push(COMPOSITE);
            varint::put(out, fields.len() as u64);
            for (name, field) in fields {
                put_text(out, name);
                put_type(out, field);
            }
        }
        scalar => {
            let place = SCALARS.iter().position(|s| s == scalar);
            out.push(place.expect("every scalar type is listed") as u8);
        }
    }
}

fn take_type(input: &mut &[u8]) -> Option<PgType> {
    Some(match *take(input, 1)?.first()? {
        ARRAY => {
            let delimiter = *take(input, 1)?.first()?;
            PgType::Array(Box::new(ElementType { delimiter, pg_type: take_type(input)? }))
        }
        RANGE => PgType::Range(Box::new(take_type(input)?)),
        MULTIRANGE => PgType::Multirange(Box::new(take_type(input)?)),
        DOMAIN => PgType::Domain(Box::new(take_type(input)?)),
        COMPOSITE => {
            let count = varint::take(input)?;
            let mut fields = Vec::new();
            for _ in 0..count {
                fields.push((take_text(input)?, take_type(input)?));
            }
            PgType::Composite(fields)
        }
        place => SCALARS.get(usize::from(place))?.clone(),
    })
}
