//! How Postgres compares two values of a type, on canonical bytes.

use super::types::{Scalar, Type};
use crate::error::EvalError;
use hw_types::key::put_column;
use hw_types::row::Cell;
use std::cmp::Ordering;

/// Compares two values that are not NULL, by their canonical bytes.
///
/// - Errors: one of them is damaged.
pub type Compare = fn(&[u8], &[u8]) -> Result<Ordering, EvalError>;

/// In which order Postgres has values of a type; `None` where that depends on a collation, or on the order of
/// labels, or is not known here.
pub fn order_of(ty: Type) -> Option<Compare> {
    let Type::Scalar(scalar) = ty else { return None };
    match comparison(scalar, scalar)? {
        Comparison::Order(compare) => Some(compare),
        Comparison::Equality(_) => None,
    }
}

/// What a comparison of two types can decide here.
#[derive(Clone, Copy)]
pub(super) enum Comparison {
    /// Which of both comes first.
    Order(Compare),
    /// Whether they are equal; their order depends on a collation, or on the order of labels.
    Equality(Compare),
}

/// The comparison of two types; `None` where Postgres has no operator for them, or one whose result is
/// not known here.
pub(super) fn comparison(left: Scalar, right: Scalar) -> Option<Comparison> {
    use Comparison::{Equality, Order};
    use Scalar::*;
    Some(match (left, right) {
        (Int2 | Int4 | Int8, Int2 | Int4 | Int8) => {
            Order(|left, right| Ok(integer(left)?.cmp(&integer(right)?)))
        }
        (Float4 | Float8, Float4 | Float8) => Order(|left, right| {
            let (left, right) = (float(left)?, float(right)?);
            // NaN is equal to itself, and behind everything else.
            Ok(left.partial_cmp(&right).unwrap_or_else(|| left.is_nan().cmp(&right.is_nan())))
        }),
        (Numeric, Numeric) => Order(numeric),
        (Bool, Bool) | (Uuid, Uuid) | (Bytea, Bytea) => Order(|left, right| Ok(left.cmp(right))),
        (Date, Date) | (Time, Time) | (Timestamp, Timestamp) | (Timestamptz, Timestamptz) => {
            Order(|left, right| Ok(integer(left)?.cmp(&integer(right)?)))
        }
        (Interval, Interval) => Order(|left, right| {
            let span = |bytes| {
                let mut key = Vec::with_capacity(17);
                put_column(&Interval.pg_type(), Cell::Value(bytes), &mut key);
                key
            };
            Ok(span(left).cmp(&span(right)))
        }),
        (Text, Text) => Equality(|left, right| Ok(left.cmp(right))),
        (Bpchar, Bpchar) => Equality(|left, right| Ok(unpadded(left).cmp(unpadded(right)))),
        (Enum(one), Enum(other)) if one == other => Equality(|left, right| Ok(left.cmp(right))),
        _ => return None,
    })
}

/// An integer of 1 to 8 bytes.
pub(super) fn integer(bytes: &[u8]) -> Result<i64, EvalError> {
    Ok(match *bytes {
        [a, b] => i16::from_be_bytes([a, b]).into(),
        [a, b, c, d] => i32::from_be_bytes([a, b, c, d]).into(),
        _ => i64::from_be_bytes(bytes.try_into().map_err(|_| DAMAGED)?),
    })
}

/// A float of 4 or 8 bytes.
pub(super) fn float(bytes: &[u8]) -> Result<f64, EvalError> {
    Ok(match *bytes {
        [a, b, c, d] => f32::from_be_bytes([a, b, c, d]).into(),
        _ => f64::from_be_bytes(bytes.try_into().map_err(|_| DAMAGED)?),
    })
}

/// A text without the padding of `character(n)`.
pub(super) fn unpadded(text: &[u8]) -> &[u8] {
    let end = text.iter().rposition(|byte| *byte != b' ').map_or(0, |at| at + 1);
    &text[..end]
}

const DAMAGED: EvalError = EvalError("a value is not one of its type");

/// A `numeric` taken apart: its class, and digits of base 10,000 from the one of weight `weight`.
struct Numeric<'a> {
    class: Class,
    weight: i32,
    digits: &'a [u8],
}

/// In the order in which Postgres sorts them.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Class {
    MinusInfinity,
    Negative,
    Zero,
    Positive,
    Infinity,
    NaN,
}

impl Numeric<'_> {
    fn read(bytes: &[u8]) -> Result<Numeric<'_>, EvalError> {
        let short = |at: usize| match bytes.get(at..at + 2) {
            Some(pair) => Ok(u16::from_be_bytes([pair[0], pair[1]])),
            None => Err(DAMAGED),
        };
        let (weight, sign) = (short(2)? as i16, short(4)?);
        let mut digits = bytes.get(8..).ok_or(DAMAGED)?;
        let mut weight = i32::from(weight);
        while digits.starts_with(&[0, 0]) {
            digits = &digits[2..];
            weight -= 1;
        }
        while digits.ends_with(&[0, 0]) && digits.len() % 2 == 0 {
            digits = &digits[..digits.len() - 2];
        }
        let class = match sign {
            0xC000 => Class::NaN,
            0xD000 => Class::Infinity,
            0xF000 => Class::MinusInfinity,
            _ if digits.is_empty() => Class::Zero,
            0x4000 => Class::Negative,
            _ => Class::Positive,
        };
        Ok(Numeric { class, weight, digits })
    }
}

fn numeric(left: &[u8], right: &[u8]) -> Result<Ordering, EvalError> {
    let (left, right) = (Numeric::read(left)?, Numeric::read(right)?);
    Ok(left.class.cmp(&right.class).then_with(|| {
        let size = left.weight.cmp(&right.weight).then_with(|| left.digits.cmp(right.digits));
        match left.class {
            Class::Negative => size.reverse(),
            Class::Positive => size,
            _ => Ordering::Equal,
        }
    }))
}
