//! Comparison, arithmetic, concatenation, casts and the forms that the compiler makes calls of.

use super::{Available, Body, OnNull, Routine, TypeRule, TypeSet, entry};
use crate::error::EvalError;
use crate::json::Json;
use crate::value::{CastType, SqlValue};
use std::cmp::Ordering;

const INTEGER: TypeRule = TypeRule::Is(TypeSet::INTEGER);

/// Binary operators by their symbol.
pub(super) static BINARY: [Routine; 11] = [
    entry("=", (2, 2), OnNull::Null, INTEGER, |a| Ok(SqlValue::boolean(a[0].equals(&a[1])))),
    // Edition 3 writes NOT of `=` instead, so this one never sees NULL differently.
    entry("!=", (2, 2), OnNull::Null, INTEGER, |a| Ok(SqlValue::boolean(!a[0].equals(&a[1])))),
    entry("<", (2, 2), OnNull::Null, INTEGER, |a| compare(a, Ordering::is_lt)),
    entry("<=", (2, 2), OnNull::Null, INTEGER, |a| compare(a, Ordering::is_le)),
    entry(">", (2, 2), OnNull::Null, INTEGER, |a| compare(a, Ordering::is_gt)),
    entry(">=", (2, 2), OnNull::Null, INTEGER, |a| compare(a, Ordering::is_ge)),
    entry("+", (2, 2), OnNull::Null, TypeRule::Arithmetic, |a| {
        arithmetic(a, i128::checked_add, |x, y| x + y)
    }),
    entry("-", (2, 2), OnNull::Null, TypeRule::Arithmetic, |a| {
        arithmetic(a, i128::checked_sub, |x, y| x - y)
    }),
    entry("*", (2, 2), OnNull::Null, TypeRule::Arithmetic, |a| {
        arithmetic(a, i128::checked_mul, |x, y| x * y)
    }),
    entry("/", (2, 2), OnNull::Null, TypeRule::Arithmetic, divide),
    entry("||", (2, 2), OnNull::Null, TypeRule::Is(TypeSet::TEXT), |a| {
        let mut text = std::mem::replace(&mut a[0], SqlValue::Null)
            .into_text()
            .unwrap_or_default()
            .into_owned();
        text.push_str(&a[1].to_text().unwrap_or_default());
        Ok(SqlValue::text(text))
    }),
];

fn compare<'a>(
    args: &mut [SqlValue<'a>],
    wanted: fn(Ordering) -> bool,
) -> Result<SqlValue<'a>, EvalError> {
    let nan = |v: &SqlValue<'_>| matches!(v, SqlValue::Real(x) if x.is_nan());
    if nan(&args[0]) || nan(&args[1]) {
        return Ok(SqlValue::boolean(false));
    }
    Ok(SqlValue::boolean(wanted(args[0].order(&args[1]))))
}

fn numeric(value: &mut SqlValue<'_>) -> Number {
    match std::mem::replace(value, SqlValue::Null).cast(CastType::Numeric) {
        SqlValue::Integer(value) => Number::Integer(value),
        SqlValue::Real(value) => Number::Real(value),
        _ => Number::Integer(0),
    }
}

#[derive(Clone, Copy)]
enum Number {
    Integer(i128),
    Real(f64),
}

impl Number {
    fn real(self) -> f64 {
        match self {
            Number::Integer(value) => value as f64,
            Number::Real(value) => value,
        }
    }
}

/// Two integers give an integer unless it leaves 128 bits; otherwise doubles.
fn arithmetic<'a>(
    args: &mut [SqlValue<'a>],
    integers: fn(i128, i128) -> Option<i128>,
    reals: fn(f64, f64) -> f64,
) -> Result<SqlValue<'a>, EvalError> {
    let (a, b) = (numeric(&mut args[0]), numeric(&mut args[1]));
    if let (Number::Integer(x), Number::Integer(y)) = (a, b)
        && let Some(result) = integers(x, y)
    {
        return Ok(SqlValue::Integer(result));
    }
    Ok(SqlValue::Real(reals(a.real(), b.real())))
}

/// Division by zero gives NULL; of integers it truncates toward zero.
fn divide<'a>(args: &mut [SqlValue<'a>]) -> Result<SqlValue<'a>, EvalError> {
    Ok(match (numeric(&mut args[0]), numeric(&mut args[1])) {
        (_, Number::Integer(0)) => SqlValue::Null,
        (Number::Integer(x), Number::Integer(y)) => match x.checked_div(y) {
            Some(result) => SqlValue::Integer(result),
            None => SqlValue::Real(x as f64 / y as f64),
        },
        (_, Number::Real(0.0)) => SqlValue::Null,
        (x, y) => SqlValue::Real(x.real() / y.real()),
    })
}

/// Forms that have a spelling of their own in the grammar.
pub mod fixed {
    use super::*;

    const fn internal(key: &'static str, on_null: OnNull, body: Body) -> Routine {
        entry(key, (1, 1), on_null, INTEGER, body).only(Available::Internal)
    }

    /// `x IS NULL`.
    pub static IS_NULL: Routine =
        internal("is null", OnNull::Call, |a| Ok(SqlValue::boolean(a[0].is_null())));
    /// `x IS TRUE`: exactly INTEGER 1.
    pub static IS_TRUE: Routine =
        internal("is true", OnNull::Call, |a| Ok(SqlValue::boolean(a[0] == SqlValue::Integer(1))));
    /// `x IS FALSE`: exactly INTEGER 0.
    pub static IS_FALSE: Routine =
        internal("is false", OnNull::Call, |a| Ok(SqlValue::boolean(a[0] == SqlValue::Integer(0))));
    /// Truth as 1 or 0.
    pub static TRUTH: Routine =
        internal("truth", OnNull::Call, |a| Ok(SqlValue::boolean(a[0].truth())));
    /// Whether the value is the text of a JSON array.
    pub static IS_ARRAY: Routine =
        internal("is array", OnNull::Call, |a| Ok(SqlValue::boolean(array(&a[0], "").is_ok())));
    /// `x BETWEEN low AND high`; NULL if a comparison is NULL.
    pub static BETWEEN: Routine = internal("between", OnNull::Null, |a| {
        Ok(SqlValue::boolean(a[0].order(&a[1]).is_ge() && a[0].order(&a[2]).is_le()))
    });
    /// `x IN ARRAY[…]`: a match gives 1, else NULL if a NULL was listed, else 0.
    pub static IN_LIST: Routine = internal("in list", OnNull::Call, |a| {
        let (needle, list) = a.split_first_mut().ok_or(EvalError("IN without a value"))?;
        if needle.is_null() {
            return Ok(SqlValue::Null);
        }
        if list.iter().any(|item| !item.is_null() && item.equals(needle)) {
            return Ok(SqlValue::boolean(true));
        }
        let unknown = list.iter().any(SqlValue::is_null);
        Ok(if unknown { SqlValue::Null } else { SqlValue::boolean(false) })
    });
    /// `x IN y` where y is a JSON array.
    pub static IN_JSON: Routine = internal("in json", OnNull::Null, |a| {
        let items = array(&a[1], "IN is only supported on JSON arrays")?;
        Ok(SqlValue::boolean(items.iter().any(|item| {
            let item = item.to_value();
            !item.is_null() && item.equals(&a[0])
        })))
    });
    /// `x && y` where both are JSON arrays.
    pub static OVERLAP: Routine = internal("&&", OnNull::Null, |a| {
        let left = array(&a[0], "&& is only supported on JSON arrays")?;
        let right = array(&a[1], "&& is only supported on JSON arrays")?;
        Ok(SqlValue::boolean(left.iter().any(|x| {
            let x = x.to_value();
            !x.is_null() && right.iter().any(|y| y.to_value().equals(&x))
        })))
    });
    /// `+x`: the value as a number.
    pub static PLUS: Routine = entry("+x", (1, 1), OnNull::Null, TypeRule::Arithmetic, |a| {
        Ok(std::mem::replace(&mut a[0], SqlValue::Null).cast(CastType::Numeric))
    })
    .only(Available::Internal);

    macro_rules! cast {
        ($name:ident, $key:literal, $to:ident, $types:expr) => {
            #[doc = concat!("`", $key, "`.")]
            pub static $name: Routine =
                entry($key, (1, 1), OnNull::Null, TypeRule::Is($types), |a| {
                    Ok(std::mem::replace(&mut a[0], SqlValue::Null).cast(CastType::$to))
                })
                .only(Available::Internal);
        };
    }
    cast!(CAST_TEXT, "cast text", Text, TypeSet::TEXT);
    cast!(CAST_INTEGER, "cast integer", Integer, TypeSet::INTEGER);
    cast!(CAST_REAL, "cast real", Real, TypeSet::REAL);
    cast!(CAST_NUMERIC, "cast numeric", Numeric, TypeSet::INTEGER.union(TypeSet::REAL));
    cast!(CAST_BLOB, "cast blob", Blob, TypeSet::BLOB);

    /// The routine of a cast.
    pub fn cast(to: CastType) -> &'static Routine {
        match to {
            CastType::Text => &CAST_TEXT,
            CastType::Integer => &CAST_INTEGER,
            CastType::Real => &CAST_REAL,
            CastType::Numeric => &CAST_NUMERIC,
            CastType::Blob => &CAST_BLOB,
        }
    }
}

fn array(value: &SqlValue<'_>, error: &'static str) -> Result<Vec<Json>, EvalError> {
    match value {
        SqlValue::Text(text) => match Json::parse(text) {
            Ok(Json::Array(items)) => Ok(items),
            _ => Err(EvalError(error)),
        },
        _ => Err(EvalError(error)),
    }
}
