//! Canonical cells as values of the sync language, and straight as JSON.
//!
//! In: the canonical bytes of a column and its Postgres type (`hw_types::pgtype`). Out: a
//! [`SqlValue`] for expressions, or the JSON text of the value for plain columns, without a
//! value in between. Both say the same. Source: `sync-rules.md` 4.2 to 4.4.

use crate::datetime::{TimeStyle, write_date, write_time, write_timestamp};
use crate::json::write_string;
use crate::number::{write_integer, write_js, write_json_real};
use crate::value::SqlValue;
use hw_types::pgtype::PgType;
use std::borrow::Cow;

/// The options that change how values look. Part of every fingerprint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub struct ValueOptions {
    /// How date-times are written.
    pub times: TimeStyle,
    /// `custom_postgres_types`: domains, composites, ranges and arrays of them are decoded.
    pub custom_types: bool,
}

/// Deepest nesting of arrays and composites; a row beyond it fails (PSYNC_S1004).
const MAX_DEPTH: u32 = 10;

/// How one column becomes a value: its type and the options, looked at once when a table is
/// bound.
#[derive(Clone, Debug)]
pub struct Decoder {
    kind: Kind,
    options: ValueOptions,
}

#[derive(Clone, Debug)]
enum Kind {
    Bool,
    Int2,
    Int4,
    Int8,
    Oid,
    Float4,
    Float8,
    /// Canonical bytes are the text.
    Text,
    Uuid,
    Bytea,
    Date,
    Time,
    Timestamp {
        zone: bool,
    },
    Lsn,
    /// As JSON text.
    Nested(PgType),
    /// As Postgres prints it.
    Printed(PgType),
}

/// A cell whose bytes are not what its type says.
pub const DAMAGED: &str = "a stored value is damaged";
/// A value nested deeper than the language allows.
pub const TOO_DEEP: &str = "values nested more than 10 levels deep cannot be synced";

impl Decoder {
    /// The decoder of a type.
    pub fn new(pg_type: &PgType, options: ValueOptions) -> Decoder {
        let kind = match pg_type {
            PgType::Bool => Kind::Bool,
            PgType::Int2 => Kind::Int2,
            PgType::Int4 => Kind::Int4,
            PgType::Int8 => Kind::Int8,
            PgType::Oid => Kind::Oid,
            PgType::Float4 => Kind::Float4,
            PgType::Float8 => Kind::Float8,
            PgType::Text { .. } | PgType::Bpchar | PgType::Json | PgType::Jsonb => Kind::Text,
            PgType::Uuid => Kind::Uuid,
            PgType::Bytea => Kind::Bytea,
            PgType::Date => Kind::Date,
            PgType::Time => Kind::Time,
            PgType::Timestamp => Kind::Timestamp { zone: false },
            PgType::Timestamptz => Kind::Timestamp { zone: true },
            PgType::PgLsn => Kind::Lsn,
            PgType::Domain(base) if options.custom_types => {
                return Decoder::new(base, options);
            }
            PgType::Array(element) if options.custom_types || is_built_in(&element.pg_type) => {
                Kind::Nested(pg_type.clone())
            }
            PgType::Range(_) | PgType::Multirange(_) | PgType::Composite(_)
                if options.custom_types =>
            {
                Kind::Nested(pg_type.clone())
            }
            other => Kind::Printed(other.base().clone()),
        };
        Decoder { kind, options }
    }

    /// The value of a cell. `Err` names the damage.
    pub fn value<'a>(&self, bytes: &'a [u8]) -> Result<SqlValue<'a>, &'static str> {
        Ok(match &self.kind {
            Kind::Bool => SqlValue::boolean(bytes.first().is_some_and(|b| *b != 0)),
            Kind::Int2 => SqlValue::Integer(i16::from_be_bytes(fixed(bytes)?).into()),
            Kind::Int4 => SqlValue::Integer(i32::from_be_bytes(fixed(bytes)?).into()),
            Kind::Int8 => SqlValue::Integer(i64::from_be_bytes(fixed(bytes)?).into()),
            Kind::Oid => SqlValue::Integer(u32::from_be_bytes(fixed(bytes)?).into()),
            Kind::Float4 => SqlValue::Real(widen(f32::from_be_bytes(fixed(bytes)?))),
            Kind::Float8 => SqlValue::Real(f64::from_be_bytes(fixed(bytes)?)),
            Kind::Text => SqlValue::Text(match std::str::from_utf8(bytes) {
                Ok(text) => Cow::Borrowed(text),
                Err(_) => String::from_utf8_lossy(bytes),
            }),
            Kind::Bytea => SqlValue::Blob(Cow::Borrowed(bytes)),
            _ => {
                let mut out = String::new();
                if self.write_text(bytes, &mut out)? { SqlValue::text(out) } else { SqlValue::Null }
            }
        })
    }

    /// Appends the JSON of a cell. `false`, and nothing is appended, for a blob: its key is left
    /// out.
    pub fn write_json(&self, bytes: &[u8], out: &mut String) -> Result<bool, &'static str> {
        match &self.kind {
            Kind::Bool => out.push(if bytes.first().is_some_and(|b| *b != 0) { '1' } else { '0' }),
            Kind::Int2 => integer(i16::from_be_bytes(fixed(bytes)?).into(), out),
            Kind::Int4 => integer(i32::from_be_bytes(fixed(bytes)?).into(), out),
            Kind::Int8 => integer(i64::from_be_bytes(fixed(bytes)?), out),
            Kind::Oid => integer(u32::from_be_bytes(fixed(bytes)?).into(), out),
            Kind::Float4 => write_json_real(widen(f32::from_be_bytes(fixed(bytes)?)), out),
            Kind::Float8 => write_json_real(f64::from_be_bytes(fixed(bytes)?), out),
            Kind::Text => match std::str::from_utf8(bytes) {
                Ok(text) => write_string(text, out),
                Err(_) => write_string(&String::from_utf8_lossy(bytes), out),
            },
            Kind::Bytea => return Ok(false),
            Kind::Nested(_) | Kind::Printed(_) => {
                let mut text = String::new();
                if self.write_text(bytes, &mut text)? {
                    write_string(&text, out);
                } else {
                    out.push_str("null");
                }
            }
            // Dates, times, uuids and positions have nothing to escape.
            _ => {
                out.push('"');
                let start = out.len();
                if self.write_text(bytes, out)? {
                    out.push('"');
                } else {
                    out.truncate(start - 1);
                    out.push_str("null");
                }
            }
        }
        Ok(true)
    }

    /// Appends the text of a kind that is TEXT; `false` when the value is NULL.
    fn write_text(&self, bytes: &[u8], out: &mut String) -> Result<bool, &'static str> {
        match &self.kind {
            Kind::Uuid => write_uuid(&fixed(bytes)?, out),
            Kind::Date => write_date(i32::from_be_bytes(fixed(bytes)?), out),
            Kind::Time => write_time(i64::from_be_bytes(fixed(bytes)?), self.options.times, out),
            Kind::Timestamp { zone } => {
                let micros = i64::from_be_bytes(fixed(bytes)?);
                return Ok(write_timestamp(micros, *zone, self.options.times, out));
            }
            Kind::Lsn => {
                let lsn = u64::from_be_bytes(fixed(bytes)?);
                out.push_str(&format!("{:08X}/{:08X}", lsn >> 32, lsn & 0xffff_ffff));
            }
            Kind::Nested(pg_type) => write_nested(pg_type, bytes, self.options, 1, out)?,
            Kind::Printed(pg_type) => {
                hw_types::text::write_text(pg_type, bytes, out).map_err(|_| DAMAGED)?;
            }
            Kind::Text => out.push_str(&String::from_utf8_lossy(bytes)),
            _ => return Err(DAMAGED),
        }
        Ok(true)
    }
}

fn fixed<const N: usize>(bytes: &[u8]) -> Result<[u8; N], &'static str> {
    bytes.try_into().map_err(|_| DAMAGED)
}

fn integer(value: i64, out: &mut String) {
    out.push_str(itoa::Buffer::new().format(value));
}

/// A `float4` is what its printed text says: 0.1, not 0.10000000149011612.
fn widen(value: f32) -> f64 {
    if !value.is_finite() {
        return f64::from(value);
    }
    ryu::Buffer::new().format_finite(value).parse().unwrap_or(f64::from(value))
}

fn write_uuid(bytes: &[u8; 16], out: &mut String) {
    const HEX: &[u8; 16] = b"0123456789abcdef";
    let mut text = [b'-'; 36];
    let mut at = 0;
    for (i, byte) in bytes.iter().enumerate() {
        at += usize::from(matches!(i, 4 | 6 | 8 | 10));
        text[at] = HEX[usize::from(byte >> 4)];
        text[at + 1] = HEX[usize::from(byte & 15)];
        at += 2;
    }
    out.push_str(std::str::from_utf8(&text).unwrap_or_default());
}

/// Whether arrays of the type are decoded without `custom_postgres_types`.
fn is_built_in(pg_type: &PgType) -> bool {
    use hw_types::pgtype::TextKind;
    !matches!(
        pg_type,
        PgType::Domain(_)
            | PgType::Composite(_)
            | PgType::Range(_)
            | PgType::Multirange(_)
            | PgType::Text { kind: TextKind::Enum | TextKind::Foreign }
    )
}

/// Appends the JSON of a value inside an array, a range or a composite.
fn write_element(
    pg_type: &PgType,
    bytes: Option<&[u8]>,
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    let Some(bytes) = bytes else {
        out.push_str("null");
        return Ok(());
    };
    match pg_type.base() {
        PgType::Json | PgType::Jsonb => out.push_str(&String::from_utf8_lossy(bytes)),
        PgType::Bytea => out.push_str("null"),
        nested @ (PgType::Array(_)
        | PgType::Range(_)
        | PgType::Multirange(_)
        | PgType::Composite(_)) => write_nested(nested, bytes, options, depth + 1, out)?,
        scalar => {
            if !Decoder::new(scalar, options).write_json(bytes, out)? {
                out.push_str("null");
            }
        }
    }
    Ok(())
}

fn write_nested(
    pg_type: &PgType,
    bytes: &[u8],
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    if depth > MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    let mut input = bytes;
    let input = &mut input;
    match pg_type {
        PgType::Array(element) => {
            let dimensions = take_i32(input)?;
            let _flags = take_i32(input)?;
            let _element = take_i32(input)?;
            if !(0..=6).contains(&dimensions) {
                return Err(DAMAGED);
            }
            let mut sizes = Vec::new();
            for _ in 0..dimensions {
                sizes.push(take_i32(input)?);
                let _lower_bound = take_i32(input)?;
            }
            if sizes.is_empty() {
                out.push_str("[]");
                return Ok(());
            }
            write_dimension(&element.pg_type, &sizes, input, options, depth, out)
        }
        PgType::Range(subtype) => write_range(subtype, input, options, depth, out),
        PgType::Multirange(subtype) => {
            let count = take_i32(input)?;
            out.push('[');
            for i in 0..count {
                if i > 0 {
                    out.push(',');
                }
                let mut range = take_sized(input)?.ok_or(DAMAGED)?;
                write_range(subtype, &mut range, options, depth, out)?;
            }
            out.push(']');
            Ok(())
        }
        PgType::Composite(fields) => {
            let count = take_i32(input)?;
            if usize::try_from(count) != Ok(fields.len()) {
                return Err(DAMAGED);
            }
            out.push('{');
            for (i, (name, field)) in fields.iter().enumerate() {
                if i > 0 {
                    out.push(',');
                }
                let _type = take_i32(input)?;
                write_string(name, out);
                out.push(':');
                let value = take_sized(input)?;
                write_element(field, value, options, depth, out)?;
            }
            out.push('}');
            Ok(())
        }
        _ => Err(DAMAGED),
    }
}

fn write_dimension(
    element: &PgType,
    sizes: &[i32],
    input: &mut &[u8],
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    if depth > MAX_DEPTH {
        return Err(TOO_DEEP);
    }
    out.push('[');
    for i in 0..sizes[0] {
        if i > 0 {
            out.push(',');
        }
        if sizes.len() > 1 {
            write_dimension(element, &sizes[1..], input, options, depth + 1, out)?;
        } else {
            let value = take_sized(input)?;
            write_element(element, value, options, depth, out)?;
        }
    }
    out.push(']');
    Ok(())
}

fn write_range(
    subtype: &PgType,
    input: &mut &[u8],
    options: ValueOptions,
    depth: u32,
    out: &mut String,
) -> Result<(), &'static str> {
    // Flag bits of range_send.
    const EMPTY: u8 = 0x01;
    const LOWER_INCLUSIVE: u8 = 0x02;
    const UPPER_INCLUSIVE: u8 = 0x04;
    const LOWER_INFINITE: u8 = 0x08;
    const UPPER_INFINITE: u8 = 0x10;
    let (&flags, rest) = input.split_first().ok_or(DAMAGED)?;
    *input = rest;
    if flags & EMPTY != 0 {
        out.push_str("\"empty\"");
        return Ok(());
    }
    out.push_str("{\"lower\":");
    let lower = if flags & LOWER_INFINITE == 0 { take_sized(input)? } else { None };
    write_element(subtype, lower, options, depth, out)?;
    out.push_str(",\"upper\":");
    let upper = if flags & UPPER_INFINITE == 0 { take_sized(input)? } else { None };
    write_element(subtype, upper, options, depth, out)?;
    out.push_str(",\"lower_exclusive\":");
    out.push(if flags & LOWER_INCLUSIVE == 0 { '1' } else { '0' });
    out.push_str(",\"upper_exclusive\":");
    out.push(if flags & UPPER_INCLUSIVE == 0 { '1' } else { '0' });
    out.push('}');
    Ok(())
}

fn take_i32(input: &mut &[u8]) -> Result<i32, &'static str> {
    let (head, tail) = input.split_first_chunk::<4>().ok_or(DAMAGED)?;
    *input = tail;
    Ok(i32::from_be_bytes(*head))
}

fn take_sized<'a>(input: &mut &'a [u8]) -> Result<Option<&'a [u8]>, &'static str> {
    let length = take_i32(input)?;
    if length == -1 {
        return Ok(None);
    }
    let length = usize::try_from(length).map_err(|_| DAMAGED)?;
    let (head, tail) = input.split_at_checked(length).ok_or(DAMAGED)?;
    *input = tail;
    Ok(Some(head))
}

/// Appends the JSON of a computed value. `false`, and nothing is appended, for a blob.
pub fn write_value_json(value: &SqlValue<'_>, out: &mut String) -> bool {
    match value {
        SqlValue::Null => out.push_str("null"),
        SqlValue::Integer(value) => write_integer(*value, out),
        SqlValue::Real(value) => write_json_real(*value, out),
        SqlValue::Text(text) => write_string(text, out),
        SqlValue::Blob(_) => return false,
    }
    true
}

/// The text of an `id` (`sync-rules.md` 4.5): NULL and BLOB give the empty text.
pub fn write_row_id(value: &SqlValue<'_>, out: &mut String) {
    match value {
        SqlValue::Null | SqlValue::Blob(_) => {}
        SqlValue::Integer(value) => write_integer(*value, out),
        SqlValue::Real(value) => write_js(*value, out),
        SqlValue::Text(text) => out.push_str(text),
    }
}
