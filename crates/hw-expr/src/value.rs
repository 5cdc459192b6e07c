//! The values of the sync language and what they mean: truth, order, casts, keys.
//!
//! A value may borrow its text from a row, so that a filter or a key over plain columns copies
//! nothing. Source: `sync-rules.md` 4.1, 6.2, 6.3, 13.

use crate::json;
use crate::number::{leading_integer, leading_number, leading_real, write_integer, write_js};
use hw_types::varint;
use std::borrow::Cow;
use std::cmp::Ordering;

/// A value: SQLite's five classes.
///
/// INTEGER is 128 bits wide: row integers have 64, and sums, products and JSON integers beyond
/// them pass through instead of wrapping (`sync-rules.md` 17.9). What does not fit 128 bits
/// becomes REAL.
#[derive(Clone, Debug, PartialEq)]
pub enum SqlValue<'a> {
    /// NULL.
    Null,
    /// INTEGER; also what booleans are.
    Integer(i128),
    /// REAL.
    Real(f64),
    /// TEXT.
    Text(Cow<'a, str>),
    /// BLOB.
    Blob(Cow<'a, [u8]>),
}

/// What a cast may aim at.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CastType {
    /// `text`.
    Text,
    /// `integer`.
    Integer,
    /// `real`.
    Real,
    /// `numeric`.
    Numeric,
    /// `blob`.
    Blob,
}

impl CastType {
    /// The type of this name.
    pub fn named(name: &str) -> Option<CastType> {
        Some(match name.to_ascii_lowercase().as_str() {
            "text" => CastType::Text,
            "integer" => CastType::Integer,
            "real" => CastType::Real,
            "numeric" => CastType::Numeric,
            "blob" => CastType::Blob,
            _ => return None,
        })
    }
}

impl<'a> SqlValue<'a> {
    /// A text.
    pub fn text(text: impl Into<Cow<'a, str>>) -> SqlValue<'a> {
        SqlValue::Text(text.into())
    }

    /// TRUE or FALSE as the integers that they are.
    pub fn boolean(value: bool) -> SqlValue<'a> {
        SqlValue::Integer(i128::from(value))
    }

    /// Whether it is NULL.
    pub fn is_null(&self) -> bool {
        matches!(self, SqlValue::Null)
    }

    /// A copy that borrows nothing.
    pub fn into_owned(self) -> SqlValue<'static> {
        match self {
            SqlValue::Null => SqlValue::Null,
            SqlValue::Integer(value) => SqlValue::Integer(value),
            SqlValue::Real(value) => SqlValue::Real(value),
            SqlValue::Text(text) => SqlValue::Text(Cow::Owned(text.into_owned())),
            SqlValue::Blob(bytes) => SqlValue::Blob(Cow::Owned(bytes.into_owned())),
        }
    }

    /// The same value, borrowed.
    pub fn borrow(&self) -> SqlValue<'_> {
        match self {
            SqlValue::Null => SqlValue::Null,
            SqlValue::Integer(value) => SqlValue::Integer(*value),
            SqlValue::Real(value) => SqlValue::Real(*value),
            SqlValue::Text(text) => SqlValue::Text(Cow::Borrowed(text)),
            SqlValue::Blob(bytes) => SqlValue::Blob(Cow::Borrowed(bytes)),
        }
    }

    /// Whether WHERE, AND, OR, NOT and CASE take it for true.
    pub fn truth(&self) -> bool {
        match self {
            SqlValue::Null | SqlValue::Blob(_) => false,
            SqlValue::Integer(value) => *value != 0,
            SqlValue::Real(value) => *value != 0.0 && !value.is_nan(),
            SqlValue::Text(text) => leading_integer(text) != 0,
        }
    }

    /// Order: NULL < number < text < blob; numbers by mathematical value, texts by UTF-16 code
    /// units, blobs by bytes (where the reference fails the row, `sync-rules.md` 17.13).
    pub fn order(&self, other: &SqlValue<'_>) -> Ordering {
        use SqlValue::*;
        match (self, other) {
            (Null, Null) => Ordering::Equal,
            (Integer(a), Integer(b)) => a.cmp(b),
            (Real(a), Real(b)) => order_reals(*a, *b),
            (Integer(a), Real(b)) => order_mixed(*a, *b),
            (Real(a), Integer(b)) => order_mixed(*b, *a).reverse(),
            (Text(a), Text(b)) => order_texts(a, b),
            (Blob(a), Blob(b)) => a.cmp(b),
            _ => self.class().cmp(&other.class()),
        }
    }

    /// `=` of two values that are not NULL.
    pub fn equals(&self, other: &SqlValue<'_>) -> bool {
        match (self, other) {
            (SqlValue::Text(a), SqlValue::Text(b)) => a == b,
            (SqlValue::Real(a), SqlValue::Real(b)) => a == b,
            _ => self.order(other) == Ordering::Equal,
        }
    }

    fn class(&self) -> u8 {
        match self {
            SqlValue::Null => 0,
            SqlValue::Integer(_) | SqlValue::Real(_) => 1,
            SqlValue::Text(_) => 2,
            SqlValue::Blob(_) => 3,
        }
    }

    /// What `typeof` says.
    pub fn type_name(&self) -> &'static str {
        match self {
            SqlValue::Null => "null",
            SqlValue::Integer(_) => "integer",
            SqlValue::Real(_) => "real",
            SqlValue::Text(_) => "text",
            SqlValue::Blob(_) => "blob",
        }
    }

    /// As TEXT (6.3); `None` for NULL.
    pub fn to_text(&self) -> Option<Cow<'_, str>> {
        Some(match self {
            SqlValue::Null => return None,
            SqlValue::Text(text) => Cow::Borrowed(text),
            SqlValue::Blob(bytes) => String::from_utf8_lossy(bytes),
            SqlValue::Integer(value) => {
                let mut out = String::new();
                write_integer(*value, &mut out);
                Cow::Owned(out)
            }
            SqlValue::Real(value) => {
                let mut out = String::new();
                write_js(*value, &mut out);
                Cow::Owned(out)
            }
        })
    }

    /// As TEXT, owned by the value; `None` for NULL.
    pub fn into_text(self) -> Option<Cow<'a, str>> {
        match self {
            SqlValue::Text(text) => Some(text),
            other => other.to_text().map(|text| Cow::Owned(text.into_owned())),
        }
    }

    /// As INTEGER: a REAL is rounded down. `None` for NULL.
    pub fn to_integer(&self) -> Option<i128> {
        Some(match self {
            SqlValue::Null => return None,
            SqlValue::Integer(value) => *value,
            SqlValue::Real(value) => value.floor() as i128,
            SqlValue::Text(text) => leading_integer(text),
            SqlValue::Blob(bytes) => leading_integer(&String::from_utf8_lossy(bytes)),
        })
    }

    /// The result of a cast.
    pub fn cast(self, to: CastType) -> SqlValue<'a> {
        if self.is_null() {
            return SqlValue::Null;
        }
        match to {
            CastType::Text => self.into_text().map_or(SqlValue::Null, SqlValue::Text),
            CastType::Integer => self.to_integer().map_or(SqlValue::Null, SqlValue::Integer),
            CastType::Real => match &self {
                SqlValue::Integer(value) => SqlValue::Real(*value as f64),
                SqlValue::Real(_) => self,
                other => SqlValue::Real(leading_real(&other.to_text().unwrap_or_default())),
            },
            CastType::Numeric => match &self {
                SqlValue::Integer(_) | SqlValue::Real(_) => self,
                other => leading_number(&other.to_text().unwrap_or_default()),
            },
            CastType::Blob => match self {
                SqlValue::Blob(_) => self,
                other => {
                    let text = other.into_text().unwrap_or_default();
                    SqlValue::Blob(Cow::Owned(text.into_owned().into_bytes()))
                }
            },
        }
    }

    /// Appends the value as a bucket parameter. `false`, and nothing is appended, for NULL and
    /// BLOB: no bucket has them as a parameter. Integers and whole reals print alike.
    pub fn write_parameter(&self, out: &mut String) -> bool {
        match self {
            SqlValue::Null | SqlValue::Blob(_) => return false,
            SqlValue::Real(value) if !value.is_finite() => return false,
            SqlValue::Integer(value) => write_integer(*value, out),
            SqlValue::Real(value) => write_js(*value, out),
            SqlValue::Text(text) => json::write_string(text, out),
        }
        true
    }

    /// Appends the value to a lookup key: equal values give equal bytes (1 = 1.0, `1` <> `"1"`),
    /// and no value's bytes are a prefix of another's. `false`, and nothing is appended, for
    /// NULL and BLOB, which no key contains.
    pub fn write_key(&self, out: &mut Vec<u8>) -> bool {
        let integer = match self {
            SqlValue::Null | SqlValue::Blob(_) => return false,
            SqlValue::Text(text) => {
                out.push(b't');
                varint::put_bytes(out, text.as_bytes());
                return true;
            }
            SqlValue::Real(value) if value.is_nan() => return false,
            SqlValue::Real(value) => match *value as i128 {
                whole if value.fract() == 0.0 && value.abs() < 1e38 => whole,
                _ => {
                    out.push(b'r');
                    out.extend_from_slice(&value.to_bits().to_be_bytes());
                    return true;
                }
            },
            SqlValue::Integer(value) => *value,
        };
        match i64::try_from(integer) {
            Ok(small) => {
                out.push(b'i');
                out.extend_from_slice(&small.to_be_bytes());
            }
            Err(_) => {
                out.push(b'w');
                out.extend_from_slice(&integer.to_be_bytes());
            }
        }
        true
    }

    /// Appends the value to a lookup's outputs, its class kept.
    pub fn write_stored(&self, out: &mut Vec<u8>) {
        match self {
            SqlValue::Null => out.push(b'n'),
            SqlValue::Integer(value) => match i64::try_from(*value) {
                Ok(small) => {
                    out.push(b'i');
                    out.extend_from_slice(&small.to_be_bytes());
                }
                Err(_) => {
                    out.push(b'w');
                    out.extend_from_slice(&value.to_be_bytes());
                }
            },
            SqlValue::Real(value) => {
                out.push(b'r');
                out.extend_from_slice(&value.to_bits().to_be_bytes());
            }
            SqlValue::Text(text) => {
                out.push(b't');
                varint::put_bytes(out, text.as_bytes());
            }
            SqlValue::Blob(bytes) => {
                out.push(b'b');
                varint::put_bytes(out, bytes);
            }
        }
    }

    /// Reads what [`SqlValue::write_stored`] wrote; `None` when the bytes are damaged.
    pub fn read_stored(input: &mut &[u8]) -> Option<SqlValue<'static>> {
        let (tag, rest) = input.split_first()?;
        *input = rest;
        Some(match tag {
            b'n' => SqlValue::Null,
            b'i' => SqlValue::Integer(i128::from(i64::from_be_bytes(take(input)?))),
            b'w' => SqlValue::Integer(i128::from_be_bytes(take(input)?)),
            b'r' => SqlValue::Real(f64::from_bits(u64::from_be_bytes(take(input)?))),
            b't' => {
                let bytes = varint::take_bytes(input)?;
                SqlValue::Text(Cow::Owned(std::str::from_utf8(bytes).ok()?.to_string()))
            }
            b'b' => SqlValue::Blob(Cow::Owned(varint::take_bytes(input)?.to_vec())),
            _ => return None,
        })
    }
}

fn take<const N: usize>(input: &mut &[u8]) -> Option<[u8; N]> {
    let (head, tail) = input.split_first_chunk::<N>()?;
    *input = tail;
    Some(*head)
}

/// NaN sorts before every number, so that the order is total.
fn order_reals(a: f64, b: f64) -> Ordering {
    a.partial_cmp(&b).unwrap_or_else(|| b.is_nan().cmp(&a.is_nan()))
}

/// An integer against a double by mathematical value, without rounding the integer.
fn order_mixed(a: i128, b: f64) -> Ordering {
    if b.is_nan() {
        return Ordering::Greater;
    }
    if b >= 1.7e38 {
        return Ordering::Less;
    }
    if b <= -1.7e38 {
        return Ordering::Greater;
    }
    let floor = b.floor();
    match a.cmp(&(floor as i128)) {
        Ordering::Equal if b > floor => Ordering::Less,
        order => order,
    }
}

/// By UTF-16 code units. Differs from the order of bytes only between astral characters and
/// U+E000 to U+FFFF.
fn order_texts(a: &str, b: &str) -> Ordering {
    let same = a.bytes().zip(b.bytes()).take_while(|(x, y)| x == y).count();
    match (a.as_bytes().get(same), b.as_bytes().get(same)) {
        (Some(&x), Some(&y)) if x >= 0xEE || y >= 0xEE => a.encode_utf16().cmp(b.encode_utf16()),
        (x, y) => x.cmp(&y),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use Ordering::*;

    #[test]
    fn classes_order_and_numbers_compare_exactly() {
        let text = |t: &'static str| SqlValue::text(t);
        for (a, b, order) in [
            (SqlValue::Null, SqlValue::Integer(-1), Less),
            (SqlValue::Integer(1), text("0"), Less),
            (text("z"), SqlValue::Blob(Cow::Borrowed(b"")), Less),
            (SqlValue::Integer(1), SqlValue::Real(1.0), Equal),
            (SqlValue::Integer(9007199254740993), SqlValue::Real(9007199254740992.0), Greater),
            (SqlValue::Integer(-3), SqlValue::Real(-2.5), Less),
            (SqlValue::Integer(i64::MAX.into()), SqlValue::Real(f64::INFINITY), Less),
            (text("\u{1F600}"), text("\u{FF5E}"), Less),
            (text("a"), text("ab"), Less),
            (text("1"), text("1"), Equal),
        ] {
            assert_eq!(a.order(&b), order, "{a:?} {b:?}");
            assert_eq!(b.order(&a), order.reverse());
        }
        assert!(!text("1").equals(&SqlValue::Integer(1)));
    }

    #[test]
    fn truth_of_a_text_is_its_leading_integer() {
        for (text, truth) in [("1abc", true), ("0.9", false), ("abc", false), (" -2", true)] {
            assert_eq!(SqlValue::text(text).truth(), truth, "{text}");
        }
        assert!(!SqlValue::Real(f64::NAN).truth());
        assert!(!SqlValue::Blob(Cow::Borrowed(b"1")).truth());
    }

    #[test]
    fn casts_follow_the_table() {
        let cast = |v: SqlValue<'static>, t| v.cast(CastType::named(t).unwrap());
        assert_eq!(cast(SqlValue::Real(2.0), "text"), SqlValue::text("2"));
        assert_eq!(cast(SqlValue::Real(-2.5), "INTEGER"), SqlValue::Integer(-3));
        assert_eq!(cast(SqlValue::text("x"), "real"), SqlValue::Real(0.0));
        assert_eq!(cast(SqlValue::text("5."), "numeric"), SqlValue::Real(5.0));
        assert_eq!(cast(SqlValue::Integer(7), "blob"), SqlValue::Blob(Cow::Borrowed(b"7")));
        assert_eq!(cast(SqlValue::Null, "text"), SqlValue::Null);
        assert_eq!(CastType::named("varchar"), None);
    }

    #[test]
    fn keys_are_equal_exactly_for_equal_values_and_stored_values_round_trip() {
        let key = |v: &SqlValue| {
            let mut out = Vec::new();
            v.write_key(&mut out).then_some(out)
        };
        assert_eq!(key(&SqlValue::Integer(1)), key(&SqlValue::Real(1.0)));
        assert_eq!(key(&SqlValue::Real(-0.0)), key(&SqlValue::Integer(0)));
        assert_ne!(key(&SqlValue::Integer(1)), key(&SqlValue::text("1")));
        assert_eq!(key(&SqlValue::Null), None);
        assert_eq!(key(&SqlValue::Blob(Cow::Borrowed(b"x"))), None);
        for value in [
            SqlValue::Null,
            SqlValue::Integer(-5),
            SqlValue::Integer(i128::MAX),
            SqlValue::Real(1.5),
            SqlValue::text("é"),
            SqlValue::Blob(Cow::Borrowed(b"\0")),
        ] {
            let mut out = Vec::new();
            value.write_stored(&mut out);
            let mut input = &out[..];
            assert_eq!(SqlValue::read_stored(&mut input), Some(value));
            assert!(input.is_empty());
            assert_eq!(SqlValue::read_stored(&mut &out[..out.len() - 1]), None);
        }
    }
}
