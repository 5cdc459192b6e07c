//! Canonical cells as values of the sync language, and straight as JSON.
//!
//! In: the canonical bytes of a column and its Postgres type (`hw_types::pgtype`). Out: a
//! [`SqlValue`] for expressions, or the JSON text of the value for plain columns, without a
//! value in between. Both say the same. Source: `sync-rules.md` 4.2 to 4.4.

use crate::datetime::{TimeStyle, write_date, write_time, write_timestamp};
use crate::json::write_string;
use crate::nested::{is_built_in, write_nested};
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
    /// `fixed_booleans_in_json`: booleans inside of JSON are `true` and `false`, not 1 and 0.
    pub nested_booleans: bool,
}

impl ValueOptions {
    /// Appends an unambiguous text for fingerprints. An option of later times is in it only where
    /// it is on, so that configurations without it keep their buckets.
    pub fn write_canonical(&self, out: &mut String) {
        let ValueOptions { times, custom_types, nested_booleans } = self;
        out.push_str(&format!(
            "ValueOptions {{ times: {times:?}, custom_types: {custom_types:?} }}"
        ));
        if *nested_booleans {
            out.push_str(" nested_booleans");
        }
    }
}

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
            Kind::Time => {
                hw_types::text::datetime::time(bytes).map_err(|_| DAMAGED)?;
                write_time(i64::from_be_bytes(fixed(bytes)?), self.options.times, out);
            }
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

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::pgtype::{ElementType, TextKind};

    const E1: ValueOptions =
        ValueOptions { times: TimeStyle::Legacy, custom_types: false, nested_booleans: false };
    const E2: ValueOptions = ValueOptions {
        times: TimeStyle::Iso { digits: 6 },
        custom_types: true,
        nested_booleans: false,
    };

    fn sized(bytes: &[u8]) -> Vec<u8> {
        [&(bytes.len() as i32).to_be_bytes(), bytes].concat()
    }

    /// The container of `array_send` with one dimension, or two of equal length.
    fn array(dimensions: &[i32], elements: &[Option<&[u8]>]) -> Vec<u8> {
        let mut out = Vec::new();
        for int in [dimensions.len() as i32, 0, 0] {
            out.extend(int.to_be_bytes());
        }
        for size in dimensions {
            out.extend(size.to_be_bytes());
            out.extend(0i32.to_be_bytes());
        }
        for element in elements {
            match element {
                None => out.extend((-1i32).to_be_bytes()),
                Some(bytes) => out.extend(sized(bytes)),
            }
        }
        out
    }

    fn of(pg_type: PgType) -> PgType {
        PgType::Array(Box::new(ElementType { pg_type, delimiter: b',' }))
    }

    fn json(pg_type: &PgType, bytes: &[u8], options: ValueOptions) -> String {
        let decoder = Decoder::new(pg_type, options);
        let mut out = String::new();
        let written = decoder.write_json(bytes, &mut out).unwrap();
        // A value and its JSON say the same.
        let mut other = String::new();
        assert_eq!(write_value_json(&decoder.value(bytes).unwrap(), &mut other), written);
        assert_eq!(out, other);
        out
    }

    /// `powersync-protocol.md` 11.2.
    #[test]
    fn types_have_the_values_of_the_table_in_both_editions() {
        let micros = |text: &str| crate::datetime::read_timestamp(text).unwrap().to_be_bytes();
        let time = crate::datetime::read_time("15:47:00.12345").unwrap().to_be_bytes();
        let numeric = [&[0, 2, 0, 0, 0, 0, 0, 2][..], &[0, 1, 0x13, 0x88]].concat();
        let enumeration = PgType::Text { kind: TextKind::Enum };
        let moods = array(&[2], &[Some(b"sad"), Some(b"happy")]);
        let domain = PgType::Domain(Box::new(PgType::Int4));
        let range =
            [&[0x02][..], &sized(&1i32.to_be_bytes()), &sized(&5i32.to_be_bytes())].concat();
        let ranges = [&1i32.to_be_bytes()[..], &sized(&range)].concat();
        let pair = PgType::Composite(vec![
            ("a".into(), PgType::Bool),
            ("b".into(), PgType::Int4),
            ("c".into(), PgType::TEXT),
        ]);
        let pair_bytes = [
            &3i32.to_be_bytes()[..],
            &[0; 4],
            &sized(&[1]),
            &[0; 4],
            &sized(&123i32.to_be_bytes()),
            &[0; 4],
            &(-1i32).to_be_bytes(),
        ]
        .concat();
        let cases: Vec<(PgType, Vec<u8>, &str, &str)> = vec![
            (PgType::Bool, vec![1], "1", "1"),
            (PgType::Int2, (-2i16).to_be_bytes().to_vec(), "-2", "-2"),
            (
                PgType::Int8,
                9007199254740993i64.to_be_bytes().to_vec(),
                "9007199254740993",
                "9007199254740993",
            ),
            (PgType::Oid, u32::MAX.to_be_bytes().to_vec(), "4294967295", "4294967295"),
            (PgType::Float4, 0.1f32.to_be_bytes().to_vec(), "0.1", "0.1"),
            (PgType::Float8, 314f64.to_be_bytes().to_vec(), "314.0", "314.0"),
            (PgType::Float8, f64::NAN.to_be_bytes().to_vec(), "null", "null"),
            (PgType::Numeric, numeric.clone(), "\"1.50\"", "\"1.50\""),
            (PgType::Bpchar, b"ab  ".to_vec(), "\"ab  \"", "\"ab  \""),
            (PgType::Bytea, vec![1], "", ""),
            (PgType::Jsonb, b"{\"a\": 1}".to_vec(), r#""{\"a\": 1}""#, r#""{\"a\": 1}""#),
            (PgType::Time, time.to_vec(), "\"15:47:00.12345\"", "\"15:47:00.123450\""),
            (
                PgType::Timestamp,
                micros("2023-03-06 15:47:00.12345").to_vec(),
                "\"2023-03-06 15:47:00.12345\"",
                "\"2023-03-06T15:47:00.123450\"",
            ),
            (
                PgType::Timestamptz,
                micros("2023-03-06 15:47:00+02").to_vec(),
                "\"2023-03-06 13:47:00Z\"",
                "\"2023-03-06T13:47:00.000000Z\"",
            ),
            (PgType::Timestamp, micros("0044-03-15 00:00:00 BC").to_vec(), "null", "null"),
            (
                PgType::PgLsn,
                0x16_B374_D848u64.to_be_bytes().to_vec(),
                "\"00000016/B374D848\"",
                "\"00000016/B374D848\"",
            ),
            (of(PgType::Bool), array(&[2], &[Some(&[1]), None]), "\"[1,null]\"", "\"[1,null]\""),
            (of(PgType::TEXT), array(&[], &[]), "\"[]\"", "\"[]\""),
            (
                of(PgType::Int2),
                array(&[2, 1], &[Some(&[0, 1]), Some(&[0, 2])]),
                "\"[[1],[2]]\"",
                "\"[[1],[2]]\"",
            ),
            (
                of(PgType::Numeric),
                array(&[1], &[Some(&numeric)]),
                r#""[\"1.50\"]""#,
                r#""[\"1.50\"]""#,
            ),
            (
                of(PgType::Float8),
                array(&[1], &[Some(&1f64.to_be_bytes())]),
                "\"[1.0]\"",
                "\"[1.0]\"",
            ),
            (
                of(PgType::Json),
                array(&[1], &[Some(b"{\"a\": 1}")]),
                r#""[{\"a\": 1}]""#,
                r#""[{\"a\": 1}]""#,
            ),
            (of(PgType::Bytea), array(&[1], &[Some(&[1])]), "\"[null]\"", "\"[null]\""),
            (
                of(PgType::Timestamp),
                array(&[1], &[Some(&micros("2030-01-02 03:04:05.5"))]),
                r#""[\"2030-01-02 03:04:05.5\"]""#,
                r#""[\"2030-01-02T03:04:05.500000\"]""#,
            ),
            (of(enumeration), moods, "\"[0:1]={sad,happy}\"", r#""[\"sad\",\"happy\"]""#),
            (domain, 5i32.to_be_bytes().to_vec(), "\"5\"", "5"),
            (
                PgType::Range(Box::new(PgType::Int4)),
                range.clone(),
                "\"[1,5)\"",
                r#""{\"lower\":1,\"upper\":5,\"lower_exclusive\":0,\"upper_exclusive\":1}""#,
            ),
            (PgType::Range(Box::new(PgType::Int4)), vec![1], "\"empty\"", r#""\"empty\"""#),
            (
                PgType::Multirange(Box::new(PgType::Int4)),
                ranges,
                "\"{[1,5)}\"",
                r#""[{\"lower\":1,\"upper\":5,\"lower_exclusive\":0,\"upper_exclusive\":1}]""#,
            ),
            (pair, pair_bytes, "\"(t,123,)\"", r#""{\"a\":1,\"b\":123,\"c\":null}""#),
        ];
        for (pg_type, bytes, first, second) in cases {
            assert_eq!(json(&pg_type, &bytes, E1), first, "{pg_type:?} in edition 1");
            assert_eq!(json(&pg_type, &bytes, E2), second, "{pg_type:?} in edition 2");
        }
    }

    #[test]
    fn nesting_beyond_ten_levels_and_damaged_bytes_fail_the_row() {
        let (mut pg_type, mut bytes) = (PgType::Int2, vec![0, 1]);
        for level in 1..=11 {
            bytes = [&1i32.to_be_bytes()[..], &[0; 4], &sized(&bytes)].concat();
            pg_type = PgType::Composite(vec![("a".into(), pg_type)]);
            let result = Decoder::new(&pg_type, E2).value(&bytes).map(|_| ());
            assert_eq!(result.is_ok(), level <= 10, "{level}");
        }
        for pg_type in [
            PgType::Int4,
            PgType::Uuid,
            PgType::Timestamp,
            of(PgType::Int4),
            PgType::Range(Box::new(PgType::Int4)),
            PgType::Numeric,
        ] {
            assert!(Decoder::new(&pg_type, E2).value(&[0x7f, 1, 2]).is_err(), "{pg_type:?}");
        }
    }
}
