//! Equality-canonical keys: equal values give equal bytes, different values different bytes,
//! and the bytes of most types sort as the values do.
//!
//! A key is a sequence of columns. Each is self-delimiting, so that no key is a prefix of
//! another key of the same columns: one byte (0 NULL, 1 value), then the value. Integers, dates
//! and times are fixed width with the sign bit turned; texts and bytes are escaped (`00` becomes
//! `00 FF`) and end with `00 01`. Source: `design/engine.md` 13 (1.0 = 1.00, -0 = 0, padding of
//! bpchar).

use crate::pgtype::PgType;
use crate::relation::Relation;
use crate::row::{Cell, RowRef};

/// Appends one column to a key. An absent value counts as NULL; the caller fills absent values
/// before it makes keys.
pub fn put_column(ty: &PgType, cell: Cell<'_>, out: &mut Vec<u8>) {
    let Cell::Value(bytes) = cell else {
        out.push(0);
        return;
    };
    out.push(1);
    match ty.base() {
        PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Date => put_signed(bytes, out),
        PgType::Time | PgType::Timestamp | PgType::Timestamptz => put_signed(bytes, out),
        PgType::Bool | PgType::Oid | PgType::Uuid | PgType::PgLsn => out.extend_from_slice(bytes),
        PgType::Float4 => match bytes.try_into() {
            Ok(array) => {
                let value = f32::from_be_bytes(array);
                let value = if value == 0.0 { 0.0 } else { value };
                let bits = if value.is_nan() { f32::NAN.to_bits() } else { value.to_bits() };
                let ordered = if bits >> 31 == 1 { !bits } else { bits | 1 << 31 };
                out.extend_from_slice(&ordered.to_be_bytes());
            }
            Err(_) => put_escaped(bytes, out),
        },
        PgType::Float8 => match bytes.try_into() {
            Ok(array) => {
                let value = f64::from_be_bytes(array);
                let value = if value == 0.0 { 0.0 } else { value };
                let bits = if value.is_nan() { f64::NAN.to_bits() } else { value.to_bits() };
                let ordered = if bits >> 63 == 1 { !bits } else { bits | 1 << 63 };
                out.extend_from_slice(&ordered.to_be_bytes());
            }
            Err(_) => put_escaped(bytes, out),
        },
        PgType::Numeric => put_numeric(bytes, out),
        PgType::Bpchar => {
            let end = bytes.iter().rposition(|&b| b != b' ').map_or(0, |i| i + 1);
            put_escaped(&bytes[..end], out);
        }
        PgType::Interval => match interval_span(bytes) {
            Some(span) => {
                out.extend_from_slice(&((span as u128) ^ (1 << 127)).to_be_bytes());
            }
            None => put_escaped(bytes, out),
        },
        _ => put_escaped(bytes, out),
    }
}

/// The key of a row over the given columns of its relation.
pub fn row_key(relation: &Relation, columns: &[usize], row: &RowRef<'_>, out: &mut Vec<u8>) {
    for &index in columns {
        put_column(&relation.columns[index].pg_type, row.get(index), out);
    }
}

fn put_signed(bytes: &[u8], out: &mut Vec<u8>) {
    if let Some((first, rest)) = bytes.split_first() {
        out.push(first ^ 0x80);
        out.extend_from_slice(rest);
    }
}

fn put_escaped(bytes: &[u8], out: &mut Vec<u8>) {
    let mut rest = bytes;
    while let Some(at) = rest.iter().position(|&b| b == 0) {
        out.extend_from_slice(&rest[..at]);
        out.extend_from_slice(&[0, 0xff]);
        rest = &rest[at + 1..];
    }
    out.extend_from_slice(rest);
    out.extend_from_slice(&[0, 1]);
}

/// Sign, weight and digits without leading or trailing zero digits and without the display
/// scale, so that 1.0 and 1.00 are one key.
fn put_numeric(bytes: &[u8], out: &mut Vec<u8>) {
    let short = |i: usize| bytes.get(2 * i..2 * i + 2).map(|b| i16::from_be_bytes([b[0], b[1]]));
    let (Some(_), Some(weight), Some(sign)) = (short(0), short(1), short(2)) else {
        return put_escaped(bytes, out);
    };
    let mut digits = &bytes[bytes.len().min(8)..];
    let mut weight = weight;
    while digits.starts_with(&[0, 0]) {
        digits = &digits[2..];
        weight = weight.wrapping_sub(1);
    }
    while digits.ends_with(&[0, 0]) {
        digits = &digits[..digits.len() - 2];
    }
    let mut canonical = Vec::with_capacity(digits.len() + 4);
    let special = sign as u16 & 0xC000 == 0xC000;
    if digits.is_empty() && !special {
        canonical.extend_from_slice(&[0, 0, 0, 0]);
    } else {
        canonical.extend_from_slice(&sign.to_be_bytes());
        canonical.extend_from_slice(&if special { 0 } else { weight }.to_be_bytes());
        canonical.extend_from_slice(digits);
    }
    put_escaped(&canonical, out);
}

/// The length of an interval as Postgres compares it: months of 30 days, days of 24 hours.
fn interval_span(bytes: &[u8]) -> Option<i128> {
    let micros = i64::from_be_bytes(bytes.get(..8)?.try_into().ok()?);
    let days = i32::from_be_bytes(bytes.get(8..12)?.try_into().ok()?);
    let months = i32::from_be_bytes(bytes.get(12..16)?.try_into().ok()?);
    const DAY: i128 = 86_400_000_000;
    Some(i128::from(micros) + (i128::from(days) + i128::from(months) * 30) * DAY)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn key(ty: &PgType, bytes: &[u8]) -> Vec<u8> {
        let mut out = Vec::new();
        put_column(ty, Cell::Value(bytes), &mut out);
        out
    }

    fn numeric(weight: i16, sign: u16, scale: u16, digits: &[i16]) -> Vec<u8> {
        let mut out = (digits.len() as i16).to_be_bytes().to_vec();
        out.extend(weight.to_be_bytes());
        out.extend(sign.to_be_bytes());
        out.extend(scale.to_be_bytes());
        digits.iter().for_each(|d| out.extend(d.to_be_bytes()));
        out
    }

    #[test]
    fn values_that_postgres_calls_equal_give_one_key() {
        let one = numeric(0, 0, 1, &[1]);
        let one_again = numeric(0, 0, 2, &[1, 0]);
        assert_eq!(key(&PgType::Numeric, &one), key(&PgType::Numeric, &one_again));
        assert_eq!(
            key(&PgType::Numeric, &numeric(0, 0, 3, &[])),
            key(&PgType::Numeric, &numeric(0, 0x4000, 0, &[0]))
        );
        assert_ne!(
            key(&PgType::Numeric, &numeric(0, 0xC000, 0, &[])),
            key(&PgType::Numeric, &numeric(0, 0xD000, 0, &[]))
        );
        assert_eq!(
            key(&PgType::Float8, &(-0.0f64).to_be_bytes()),
            key(&PgType::Float8, &0.0f64.to_be_bytes())
        );
        assert_eq!(key(&PgType::Bpchar, b"ab  "), key(&PgType::Bpchar, b"ab"));
        let interval = |m: i64, d: i32, mo: i32| {
            [&m.to_be_bytes()[..], &d.to_be_bytes(), &mo.to_be_bytes()].concat()
        };
        assert_eq!(
            key(&PgType::Interval, &interval(86_400_000_000, 0, 0)),
            key(&PgType::Interval, &interval(0, 1, 0))
        );
    }

    #[test]
    fn keys_sort_as_their_values_and_none_is_a_prefix_of_another() {
        let ints = [-5i32, -1, 0, 1, 70_000];
        let keys: Vec<_> = ints.iter().map(|i| key(&PgType::Int4, &i.to_be_bytes())).collect();
        assert!(keys.is_sorted());
        let floats = [f64::NEG_INFINITY, -1.5, 0.0, 2.5, f64::INFINITY, f64::NAN];
        let keys: Vec<_> = floats.iter().map(|f| key(&PgType::Float8, &f.to_be_bytes())).collect();
        assert!(keys.is_sorted());
        let texts: [&[u8]; 5] = [b"", b"\0", b"a", b"a\0", b"ab"];
        let keys: Vec<_> = texts.iter().map(|t| key(&PgType::Bytea, t)).collect();
        assert!(keys.is_sorted());
        for (i, a) in keys.iter().enumerate() {
            for b in &keys[i + 1..] {
                assert!(!b.starts_with(a));
            }
        }
        let mut null = Vec::new();
        put_column(&PgType::TEXT, Cell::Null, &mut null);
        assert!(!key(&PgType::TEXT, b"").starts_with(&null));
    }
}
