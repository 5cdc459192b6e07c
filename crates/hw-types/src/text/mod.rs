//! What Postgres prints for a canonical value.
//!
//! In: a type and canonical bytes ([`crate::pgtype`]). Out: the text of `value::text` under the
//! pinned settings, byte for byte, whichever way the value arrived (F-30). Surfaces that render
//! in a form of their own take the parts of a value from [`datetime`] and [`container`].
//!
//! Invariant: bytes come from the network and from disk; damaged ones give [`DamagedValue`],
//! never a panic, and never appear in its text.

pub mod container;
pub mod datetime;
mod number;
mod quoted;

use crate::pgtype::PgType;
use std::fmt::Write;

/// Bytes that are not a value of their type.
#[derive(Clone, Copy, Debug, PartialEq, Eq, thiserror::Error)]
#[error("a value of type {what} is damaged")]
pub struct DamagedValue {
    /// What was being read, for example `numeric` or `array`. Never the value.
    pub what: &'static str,
}

impl DamagedValue {
    /// A damaged value of this type.
    pub fn of(what: &'static str) -> DamagedValue {
        DamagedValue { what }
    }
}

/// What Postgres prints for a canonical value.
///
/// - Errors: the bytes are not a value of the type.
pub fn to_text(ty: &PgType, bytes: &[u8]) -> Result<String, DamagedValue> {
    let mut out = String::new();
    write_text(ty, bytes, &mut out)?;
    Ok(out)
}

/// Appends what Postgres prints for a canonical value under the pinned settings.
///
/// - Errors: the bytes are not a value of the type; `out` may hold a part of it then.
pub fn write_text(ty: &PgType, bytes: &[u8], out: &mut String) -> Result<(), DamagedValue> {
    match ty {
        PgType::Bool => match bytes {
            [0] => out.push('f'),
            [1] => out.push('t'),
            _ => return Err(DamagedValue::of("bool")),
        },
        PgType::Int2 => put(out, i16::from_be_bytes(fixed(bytes, "int2")?)),
        PgType::Int4 => put(out, i32::from_be_bytes(fixed(bytes, "int4")?)),
        PgType::Int8 => put(out, i64::from_be_bytes(fixed(bytes, "int8")?)),
        PgType::Oid => put(out, u32::from_be_bytes(fixed(bytes, "oid")?)),
        PgType::Float4 => {
            number::write_float4(f32::from_be_bytes(fixed(bytes, "float4")?), out);
        }
        PgType::Float8 => {
            number::write_float8(f64::from_be_bytes(fixed(bytes, "float8")?), out);
        }
        PgType::Numeric => number::write_numeric(bytes, out)?,
        PgType::Text { .. } | PgType::Bpchar => out.push_str(utf8(bytes, "text")?),
        PgType::Json => out.push_str(utf8(bytes, "json")?),
        PgType::Jsonb => out.push_str(utf8(bytes, "jsonb")?),
        PgType::Uuid => write_uuid(fixed(bytes, "uuid")?, out),
        PgType::Bytea => {
            out.push_str("\\x");
            out.reserve(bytes.len() * 2);
            bytes.iter().for_each(|&byte| push_hex(byte, out));
        }
        PgType::Date => datetime::write_date(bytes, out)?,
        PgType::Time => datetime::write_time(bytes, out)?,
        PgType::Timetz => datetime::write_timetz(bytes, out)?,
        PgType::Timestamp => datetime::write_timestamp(bytes, ' ', "", out)?,
        PgType::Timestamptz => datetime::write_timestamp(bytes, ' ', "+00", out)?,
        PgType::Interval => datetime::write_interval(bytes, out)?,
        PgType::PgLsn => {
            let lsn = u64::from_be_bytes(fixed(bytes, "pg_lsn")?);
            put(out, format_args!("{:X}/{:X}", lsn >> 32, lsn as u32));
        }
        PgType::Array(element) => quoted::write_array(element, bytes, out)?,
        PgType::Range(subtype) => quoted::write_range(subtype, bytes, out)?,
        PgType::Multirange(subtype) => quoted::write_multirange(subtype, bytes, out)?,
        PgType::Composite(fields) => quoted::write_composite(fields, bytes, out)?,
        PgType::Domain(base) => write_text(base, bytes, out)?,
    }
    Ok(())
}

fn put(out: &mut String, value: impl std::fmt::Display) {
    write!(out, "{value}").expect("writing to a String cannot fail");
}

fn push_hex(byte: u8, out: &mut String) {
    for nibble in [byte >> 4, byte & 15] {
        out.push(char::from_digit(u32::from(nibble), 16).expect("a nibble is below 16"));
    }
}

fn write_uuid(bytes: [u8; 16], out: &mut String) {
    for (index, byte) in bytes.into_iter().enumerate() {
        if matches!(index, 4 | 6 | 8 | 10) {
            out.push('-');
        }
        push_hex(byte, out);
    }
}

/// Bytes of a type with a fixed width.
fn fixed<const N: usize>(bytes: &[u8], what: &'static str) -> Result<[u8; N], DamagedValue> {
    bytes.try_into().map_err(|_| DamagedValue::of(what))
}

fn utf8<'a>(bytes: &'a [u8], what: &'static str) -> Result<&'a str, DamagedValue> {
    std::str::from_utf8(bytes).map_err(|_| DamagedValue::of(what))
}

#[cfg(test)]
mod tests;
