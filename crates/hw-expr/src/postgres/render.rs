//! Values and rows as Postgres makes JSON of them.
//!
//! In: a type and canonical bytes (`hw_types::pgtype`). Out: the text of `to_jsonb(value)` under the
//! settings on which the canonical text form stands, byte for byte: a client that holds a row as a query
//! printed it and gets it again from the log must not see a difference.
//!
//! Where a database has a say in it, [`JsonOfDatabase::is_exact`] tells whether this is so.
//!
//! Source: PostgreSQL `jsonb.c` (`datum_to_jsonb_internal`), `jsonfuncs.c` (`json_categorize_type`),
//! `json.c` (`JsonEncodeDateTime`).

use super::json::NUL;
use super::jsonb;
use crate::error::EvalError;
use crate::json::{ESCAPED, write_escape, write_string};
use crate::values;
use hw_types::pgtype::TextKind;
use hw_types::text::container::{Array, Dimension, Elements, composite};
use hw_types::text::{DamagedValue, datetime, write_text};
use hw_types::{Cell, PgType, RowRef};
use smallvec::SmallVec;
use std::cmp::Ordering;

const DAMAGED: EvalError = EvalError(values::DAMAGED);
const TOO_LARGE: EvalError = EvalError("a value is too large for a jsonb");
const ABSENT: EvalError = EvalError("a value of the row is not known");

/// The most bytes that are written for one value: what a `jsonb` holds, about. A few bytes of an array can
/// stand for numbers with 131,072 digits each.
const MAX_BYTES: usize = 0x0FFF_FFFF;

/// Types from this oid on are not of Postgres's own.
const FIRST_NORMAL_OID: u32 = 16_384;

/// `int2vector`, `oidvector` and arrays of them are arrays, and are carried as text.
const VECTORS: [u32; 4] = [22, 30, 1006, 1013];

/// What a database adds to the rules by which values become JSON. As long as it is not known, as little as
/// possible is taken for granted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct JsonOfDatabase {
    /// Whether its encoding is UTF-8. Keys stand in the order of their length there.
    pub is_utf8: bool,
    /// Whether it has casts to `json`, by functions, from enums, ranges, multiranges or `citext`.
    pub has_casts: bool,
}

impl Default for JsonOfDatabase {
    fn default() -> JsonOfDatabase {
        JsonOfDatabase { is_utf8: false, has_casts: true }
    }
}

impl JsonOfDatabase {
    /// Whether [`to_jsonb`] gives what the database gives, or fails, for every value of a type; if not,
    /// the database must be asked. It must also be asked for rows with column names beyond ASCII where
    /// the encoding is not UTF-8.
    ///
    /// - Takes: the oid of the type, and what its canonical bytes mean.
    pub fn is_exact(self, oid: u32, ty: &PgType) -> bool {
        let is_built_in = oid < FIRST_NORMAL_OID;
        match ty {
            PgType::Text { kind: TextKind::Foreign } => is_built_in && !VECTORS.contains(&oid),
            // It may be citext.
            PgType::Text { .. } | PgType::Range(_) | PgType::Multirange(_) => {
                is_built_in || !self.has_casts
            }
            PgType::Array(element) => match is_built_in {
                // Its elements are, too.
                true => !VECTORS.contains(&oid) && self.is_exact(0, &element.pg_type),
                false => self.is_exact(FIRST_NORMAL_OID, &element.pg_type),
            },
            PgType::Domain(base) => self.is_exact(FIRST_NORMAL_OID, base),
            PgType::Composite(fields) => {
                let mut types = fields.iter().map(|(_, field)| field);
                self.is_utf8 && types.all(|field| self.is_exact(FIRST_NORMAL_OID, field))
            }
            PgType::Json => self.is_utf8,
            _ => true,
        }
    }
}

/// Appends the text of `to_jsonb(value)`.
///
/// - Takes: canonical bytes of the type.
/// - Errors: Postgres would fail, too (a `json` that no `jsonb` holds); the value is damaged; it is larger
///   or nests deeper than what is rendered here. `out` is left as it was.
pub fn to_jsonb(ty: &PgType, bytes: &[u8], out: &mut String) -> Result<(), EvalError> {
    let start = out.len();
    let written = Writer { limit: start.saturating_add(MAX_BYTES), out }.value(ty, bytes);
    if written.is_err() {
        out.truncate(start);
    }
    written
}

/// How the rows of a table become JSON objects.
#[derive(Clone, Debug)]
pub struct RowJson {
    /// In the order of `jsonb`.
    members: Vec<Column>,
}

#[derive(Clone, Debug)]
struct Column {
    /// The key as it is written, with what stands around it.
    key: String,
    index: usize,
    pg_type: PgType,
}

impl RowJson {
    /// Takes the members of the object: name, place in the row, type. Of several of one name the last one
    /// stays, as in a `jsonb`.
    pub fn new<'t>(members: impl IntoIterator<Item = (&'t str, usize, &'t PgType)>) -> RowJson {
        let mut sorted: Vec<(&str, usize, &PgType)> = members.into_iter().collect();
        sorted.reverse();
        sorted.sort_by(|(a, ..), (b, ..)| compare_keys(a, b));
        sorted.dedup_by(|(earlier, ..), (kept, ..)| earlier == kept);
        let column = |(place, (name, index, pg_type)): (usize, (&str, usize, &PgType))| {
            let mut key = String::from(if place == 0 { "{" } else { ", " });
            write_string(name, &mut key);
            key.push_str(": ");
            Column { key, index, pg_type: pg_type.clone() }
        };
        RowJson { members: sorted.into_iter().enumerate().map(column).collect() }
    }

    /// Appends the text of the object.
    ///
    /// - Errors: as [`to_jsonb`]; a value is absent. `out` is left as it was.
    pub fn write(&self, row: &RowRef<'_>, out: &mut String) -> Result<(), EvalError> {
        let start = out.len();
        let written = self.write_members(row, out);
        if written.is_err() {
            out.truncate(start);
        }
        written
    }

    fn write_members(&self, row: &RowRef<'_>, out: &mut String) -> Result<(), EvalError> {
        if self.members.is_empty() {
            out.push('{');
        }
        for Column { key, index, pg_type } in &self.members {
            out.push_str(key);
            match row.get(*index) {
                Cell::Null => out.push_str("null"),
                Cell::Absent => return Err(ABSENT),
                Cell::Value(bytes) => to_jsonb(pg_type, bytes, out)?,
            }
        }
        out.push('}');
        Ok(())
    }
}

/// The order of keys in a `jsonb`: by length in bytes, then by bytes.
fn compare_keys(a: &str, b: &str) -> Ordering {
    a.len().cmp(&b.len()).then_with(|| a.cmp(b))
}

fn damaged(_: DamagedValue) -> EvalError {
    DAMAGED
}

struct Writer<'o> {
    out: &'o mut String,
    /// How long the output may become.
    limit: usize,
}

impl Writer<'_> {
    fn value(&mut self, ty: &PgType, bytes: &[u8]) -> Result<(), EvalError> {
        match ty {
            PgType::Bool => self.out.push_str(match bytes {
                [0] => "false",
                [1] => "true",
                _ => return Err(DAMAGED),
            }),
            PgType::Int2 | PgType::Int4 | PgType::Int8 => self.text(ty, bytes)?,
            PgType::Float4 | PgType::Float8 | PgType::Numeric => self.number(ty, bytes)?,
            PgType::Text { .. } | PgType::Bpchar => {
                let text = utf8(bytes)?;
                if text.contains('\0') {
                    return Err(NUL);
                }
                write_string(text, self.out);
            }
            // Nothing in these must be escaped.
            PgType::Oid
            | PgType::Uuid
            | PgType::Date
            | PgType::Time
            | PgType::Timetz
            | PgType::Interval
            | PgType::PgLsn => {
                self.out.push('"');
                self.text(ty, bytes)?;
                self.out.push('"');
            }
            PgType::Timestamp => self.timestamp(bytes, "")?,
            PgType::Timestamptz => self.timestamp(bytes, "+00:00")?,
            PgType::Bytea => {
                // Its text begins with a backslash, and has no other.
                self.out.push_str("\"\\");
                self.text(ty, bytes)?;
                self.out.push('"');
            }
            PgType::Range(_) | PgType::Multirange(_) => {
                let start = self.out.len();
                self.text(ty, bytes)?;
                quote_from(start, self.out)?;
            }
            PgType::Json => jsonb::canonical(utf8(bytes)?, self.out)?,
            PgType::Jsonb => self.out.push_str(utf8(bytes)?),
            PgType::Array(element) => self.array(&element.pg_type, bytes)?,
            PgType::Composite(fields) => self.composite(fields, bytes)?,
            PgType::Domain(base) => self.value(base, bytes)?,
        }
        if self.out.len() > self.limit { Err(TOO_LARGE) } else { Ok(()) }
    }

    fn text(&mut self, ty: &PgType, bytes: &[u8]) -> Result<(), EvalError> {
        write_text(ty, bytes, self.out).map_err(damaged)
    }

    fn timestamp(&mut self, bytes: &[u8], zone: &str) -> Result<(), EvalError> {
        self.out.push('"');
        datetime::write_timestamp(bytes, 'T', zone, self.out).map_err(damaged)?;
        self.out.push('"');
        Ok(())
    }

    /// What its text is as `numeric`; a string where that is no number.
    fn number(&mut self, ty: &PgType, bytes: &[u8]) -> Result<(), EvalError> {
        let start = self.out.len();
        self.text(ty, bytes)?;
        let text = &self.out[start..];
        if text.ends_with(|last: char| last.is_ascii_alphabetic()) {
            // `NaN` or one of the infinities.
            self.out.push('"');
            self.out.insert(start, '"');
        } else if has_exponent(ty, text) || text.starts_with("-0") || has_leading_zero(text) {
            // The last is damage, which must not make the whole row no JSON.
            let text: SmallVec<[u8; 32]> = text.as_bytes().into();
            self.out.truncate(start);
            jsonb::write_number(utf8(&text)?, self.out)?;
        }
        Ok(())
    }

    fn array(&mut self, element: &PgType, bytes: &[u8]) -> Result<(), EvalError> {
        let array = Array::read(bytes).map_err(damaged)?;
        let mut elements = array.elements();
        if array.is_empty() {
            self.out.push_str("[]");
        } else {
            self.dimension(element, array.dimensions(), &mut elements)?;
        }
        if elements.next().is_some() { Err(DAMAGED) } else { Ok(()) }
    }

    fn dimension(
        &mut self,
        element: &PgType,
        dimensions: &[Dimension],
        elements: &mut Elements<'_>,
    ) -> Result<(), EvalError> {
        let (dimension, inner) = dimensions.split_first().ok_or(DAMAGED)?;
        self.out.push('[');
        for index in 0..dimension.len {
            if index > 0 {
                self.out.push_str(", ");
            }
            if inner.is_empty() {
                let value = elements.next().ok_or(DAMAGED)?.map_err(damaged)?;
                self.value_or_null(element, value)?;
            } else {
                self.dimension(element, inner, elements)?;
            }
        }
        self.out.push(']');
        Ok(())
    }

    fn value_or_null(&mut self, ty: &PgType, bytes: Option<&[u8]>) -> Result<(), EvalError> {
        match bytes {
            None => self.out.push_str("null"),
            Some(bytes) => self.value(ty, bytes)?,
        }
        Ok(())
    }

    fn composite(&mut self, fields: &[(String, PgType)], bytes: &[u8]) -> Result<(), EvalError> {
        type Member<'a> = (&'a (String, PgType), Option<&'a [u8]>);
        let mut values = composite(bytes).map_err(damaged)?;
        let mut members: SmallVec<[Member<'_>; 16]> = SmallVec::new();
        for field in fields {
            members.push((field, values.next().ok_or(DAMAGED)?.map_err(damaged)?));
        }
        if values.next().is_some() {
            return Err(DAMAGED);
        }
        // A type has no two fields of one name.
        members.sort_unstable_by(|((a, _), _), ((b, _), _)| compare_keys(a, b));
        self.out.push('{');
        for (place, ((name, ty), value)) in members.into_iter().enumerate() {
            if place > 0 {
                self.out.push_str(", ");
            }
            write_string(name, self.out);
            self.out.push_str(": ");
            self.value_or_null(ty, value)?;
        }
        self.out.push('}');
        Ok(())
    }
}

fn has_exponent(ty: &PgType, number: &str) -> bool {
    // A numeric has none, and may be long.
    !matches!(ty, PgType::Numeric) && number.contains('e')
}

fn has_leading_zero(number: &str) -> bool {
    let digits = number.strip_prefix('-').unwrap_or(number).as_bytes();
    matches!(digits, [b'0', next, ..] if next.is_ascii_digit())
}

fn utf8(bytes: &[u8]) -> Result<&str, EvalError> {
    std::str::from_utf8(bytes).map_err(|_| DAMAGED)
}

/// Makes a JSON string of what was written from `start` on.
fn quote_from(start: usize, out: &mut String) -> Result<(), EvalError> {
    let end = out.len();
    out.push('"');
    let mut copied = start;
    for at in start..end {
        let byte = out.as_bytes()[at];
        if byte == 0 {
            return Err(NUL);
        }
        if ESCAPED[usize::from(byte)] {
            out.extend_from_within(copied..at);
            write_escape(byte, out);
            copied = at + 1;
        }
    }
    out.extend_from_within(copied..end);
    out.push('"');
    out.drain(start..end);
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::RowBuilder;
    use hw_types::pgtype::ElementType;

    const PLAIN: JsonOfDatabase = JsonOfDatabase { is_utf8: true, has_casts: false };

    fn json(ty: &PgType, bytes: &[u8]) -> Result<String, EvalError> {
        let mut out = String::from("x");
        let written = to_jsonb(ty, bytes, &mut out);
        assert!(written.is_ok() || out == "x", "an error leaves nothing behind");
        written.map(|()| out[1..].to_owned())
    }

    fn check(ty: &PgType, bytes: &[u8], expected: &str) {
        assert_eq!(json(ty, bytes).as_deref(), Ok(expected), "{ty:?}");
    }

    fn of(pg_type: PgType) -> PgType {
        PgType::Array(Box::new(ElementType { pg_type, delimiter: b',' }))
    }

    /// DataSync 7.2; the full comparison with a real Postgres is in `hw-pg/tests/json_values.rs`.
    #[test]
    fn values_are_what_to_jsonb_prints() {
        check(&PgType::Bool, &[1], "true");
        check(&PgType::Oid, &7u32.to_be_bytes(), "\"7\"");
        check(&PgType::Float8, &1e20f64.to_be_bytes(), "100000000000000000000");
        check(&PgType::Float8, &1.5e-7f64.to_be_bytes(), "0.00000015");
        check(&PgType::Float8, &(-0f64).to_be_bytes(), "0");
        check(&PgType::Float4, &f32::NEG_INFINITY.to_be_bytes(), "\"-Infinity\"");
        check(&PgType::Bytea, &[1, 0xff], r#""\\x01ff""#);
        check(&PgType::Timestamp, &1_500_000i64.to_be_bytes(), "\"2000-01-01T00:00:01.5\"");
        check(&PgType::Timestamptz, &0i64.to_be_bytes(), "\"2000-01-01T00:00:00+00:00\"");
        check(&PgType::Timestamptz, &i64::MAX.to_be_bytes(), "\"infinity\"");
        check(&PgType::TEXT, "\u{1}\"é\u{7f}".as_bytes(), "\"\\u0001\\\"é\u{7f}\"");
        check(&PgType::Json, b" {\"b\":1e2,\"a\":2,\"b\":1.50}", r#"{"a": 2, "b": 1.50}"#);
        let range = PgType::Range(Box::new(PgType::TEXT));
        check(&range, &[0x02, 0, 0, 0, 1, b'"', 0, 0, 0, 1, b'z'], r#""[\"\"\"\",z)""#);
        check(&of(PgType::Int4), &[0; 12], "[]");
    }

    #[test]
    fn what_postgres_refuses_and_what_is_damaged_is_an_error() {
        assert_eq!(json(&PgType::Json, br#"["\u0000"]"#), Err(NUL));
        // No server sends these; what is made of them is JSON all the same.
        check(&PgType::Numeric, &[0, 2, 0, 1, 0, 0, 0, 0, 0, 0, 0, 7], "7");
        check(&PgType::Numeric, &[0, 0, 0, 0, 0x40, 0, 0, 2], "0.00");
        assert!(json(&PgType::Json, br#""\ud800""#).is_err());
        assert_eq!(json(&PgType::TEXT, b"\0"), Err(NUL));
        assert_eq!(json(&PgType::Bool, &[2]), Err(DAMAGED));
        assert_eq!(json(&PgType::TEXT, &[0xff]), Err(DAMAGED));
        assert_eq!(json(&of(PgType::Int4), &[0, 0, 0, 1]), Err(DAMAGED));
        let fields = PgType::Composite(vec![("a".into(), PgType::Int4)]);
        assert_eq!(json(&fields, &[0, 0, 0, 0]), Err(DAMAGED));
        // 30 numbers of 131,072 digits each, in 500 bytes.
        let number = [0, 0, 0, 10, 0, 1, 0x7f, 0xff, 0, 0, 0, 0, 0, 1];
        let header = [1i32, 0, 0, 30, 1].map(i32::to_be_bytes).concat();
        let many = [header, number.repeat(30)].concat();
        let mut out = String::new();
        let written = Writer { limit: 1 << 20, out: &mut out }.value(&of(PgType::Numeric), &many);
        assert_eq!(written, Err(TOO_LARGE));
    }

    #[test]
    fn a_row_is_an_object_in_the_order_of_jsonb() {
        let mut builder = RowBuilder::new();
        builder.push(Cell::Value(&[1]));
        builder.push(Cell::Null);
        builder.push(Cell::Absent);
        let row = builder.finish();
        let written = |members: &[(&str, usize, &PgType)]| {
            let mut out = String::from("x");
            let written = RowJson::new(members.iter().copied()).write(&row.view(), &mut out);
            written.map(|()| out[1..].to_owned())
        };
        let ty = &PgType::Bool;
        assert_eq!(written(&[]).unwrap(), "{}");
        assert_eq!(
            written(&[("bb", 0, ty), ("é", 0, ty), ("c", 1, ty), ("\"", 1, ty)]).unwrap(),
            r#"{"\"": null, "c": null, "bb": true, "é": true}"#
        );
        assert_eq!(
            written(&[("a", 0, ty), ("b", 0, ty), ("a", 1, ty)]).unwrap(),
            r#"{"a": null, "b": true}"#
        );
        assert_eq!(written(&[("a", 0, ty), ("b", 2, ty)]), Err(ABSENT));
    }

    #[test]
    fn what_the_database_has_a_say_in_is_told() {
        let foreign = PgType::Text { kind: TextKind::Foreign };
        let mood = PgType::Text { kind: TextKind::Enum };
        let range = PgType::Range(Box::new(PgType::TEXT));
        let domain = |base| PgType::Domain(Box::new(base));
        let composite = |field| PgType::Composite(vec![("a".into(), field)]);
        let casts = JsonOfDatabase { has_casts: true, ..PLAIN };
        let latin = JsonOfDatabase { is_utf8: false, ..PLAIN };
        for (oid, ty, exact) in [
            (25, PgType::TEXT, [true; 3]),
            (869, foreign.clone(), [true; 3]),
            (22, foreign.clone(), [false; 3]),
            (1006, of(foreign.clone()), [false; 3]),
            (1041, of(foreign.clone()), [true; 3]),
            (20_000, foreign.clone(), [false; 3]),
            (20_000, of(foreign.clone()), [false; 3]),
            (20_000, domain(foreign.clone()), [false; 3]),
            (20_000, composite(foreign), [false; 3]),
            (20_000, mood.clone(), [true, false, true]),
            (20_000, of(mood), [true, false, true]),
            (20_000, range.clone(), [true, false, true]),
            (3904, range, [true; 3]),
            (20_000, domain(PgType::Int4), [true; 3]),
            (20_000, composite(PgType::Int4), [true, true, false]),
            (114, PgType::Json, [true, true, false]),
            (199, of(PgType::Json), [true, true, false]),
            (3802, PgType::Jsonb, [true; 3]),
        ] {
            let found = [PLAIN, casts, latin].map(|database| database.is_exact(oid, &ty));
            assert_eq!(found, exact, "{oid}: {ty:?}");
        }
    }
}
