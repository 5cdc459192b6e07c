//! What is known of a group, and what its aggregates are by it, exactly as Postgres prints them.
//!
//! In: values that come and go. Invariant: what cannot be told from the values that came and went since Postgres was
//! asked is an error, never an approximation: the greatest value goes, and which is the next is not known; the
//! value with most digits behind the point goes, and how many the others have is not known.

use crate::aggregate::Function;
use hw_expr::postgres::{Compare, EvalError, Scalar, Type, order_of};
use hw_pg::types::canonical_from_text;
use hw_types::text::to_text;
use hw_types::{Column, PgType};
use serde_json::value::RawValue;
use std::cmp::Ordering;

const UNKNOWN: EvalError = EvalError("an aggregate cannot be told from what changed");

/// How one aggregate is kept.
#[derive(Clone, Debug)]
pub(crate) enum Kind {
    /// Of rows.
    Rows,
    /// Of values.
    Values,
    /// Of whole numbers whose sum has 64 bits, or any size, and of decimals.
    Sum {
        is_wide: bool,
    },
    Avg,
    /// The value that stands before all others in this order.
    Extremum {
        before: Ordering,
        compare: Compare,
        of: PgType,
    },
}

/// One aggregate of one group.
#[derive(Clone, Debug, PartialEq)]
pub(crate) enum Tally {
    Count(u64),
    Sum(Sum),
    /// Canonical bytes; `None`: of no value.
    Extremum(Option<Box<[u8]>>),
    /// Nothing that came from Postgres could be read: `NaN`, or a number of too many digits.
    Unknown,
}

impl Tally {
    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        let value = match self {
            Tally::Extremum(Some(value)) => value.len() + size_of::<usize>(),
            Tally::Count(_) | Tally::Sum(_) | Tally::Extremum(None) | Tally::Unknown => 0,
        };
        size_of::<Tally>() + value
    }
}

/// What numbers come to.
#[derive(Clone, Debug, Default, PartialEq)]
pub(crate) struct Sum {
    count: u64,
    /// In units of the last of `most` digits behind the point.
    sum: i128,
    /// The values have at least so many digits behind the point,
    least: u32,
    /// and at most, which one of them has.
    most: u32,
}

/// A number of the source.
#[derive(Clone, Copy)]
struct Decimal {
    /// In units of its last digit.
    digits: i128,
    scale: u32,
}

impl Kind {
    /// `None` where Postgres has to be asked each time.
    pub fn of(function: Function, column: Option<&Column>) -> Option<Kind> {
        let Some(column) = column else {
            return (function == Function::Count).then_some(Kind::Rows);
        };
        let ty = Type::of(column.type_oid, &column.pg_type);
        Some(match (function, ty) {
            (Function::Count, _) => Kind::Values,
            (Function::Sum, Type::Scalar(Scalar::Int2 | Scalar::Int4)) => {
                Kind::Sum { is_wide: false }
            }
            (Function::Sum, Type::Scalar(Scalar::Int8 | Scalar::Numeric)) => {
                Kind::Sum { is_wide: true }
            }
            (
                Function::Avg,
                Type::Scalar(Scalar::Int2 | Scalar::Int4 | Scalar::Int8 | Scalar::Numeric),
            ) => Kind::Avg,
            // Which of equal ones that print otherwise is shown depends on where their rows lie.
            (Function::Min | Function::Max, Type::Scalar(Scalar::Interval)) => return None,
            (Function::Min | Function::Max, Type::Scalar(Scalar::Numeric))
                if column.type_modifier < 0 =>
            {
                return None;
            }
            (Function::Min | Function::Max, ty) => {
                let before = match function {
                    Function::Min => Ordering::Less,
                    _ => Ordering::Greater,
                };
                let of = column.pg_type.base().clone();
                Kind::Extremum { before, compare: order_of(ty)?, of }
            }
            (Function::Sum | Function::Avg, _) => return None,
        })
    }

    /// The type of its [`Kind::value`]. A `jsonb` is carried as what is printed of it: so is a number.
    pub fn pg_type(&self) -> PgType {
        match self {
            Kind::Rows | Kind::Values | Kind::Sum { .. } | Kind::Avg => PgType::Jsonb,
            Kind::Extremum { of, .. } => of.clone(),
        }
    }

    /// Of a group that has no row yet.
    pub fn empty(&self) -> Tally {
        match self {
            Kind::Rows | Kind::Values => Tally::Count(0),
            Kind::Sum { .. } | Kind::Avg => Tally::Sum(Sum::default()),
            Kind::Extremum { .. } => Tally::Extremum(None),
        }
    }

    /// Reads what Postgres knows of a group ([`Function::state`]).
    pub fn read(&self, state: &RawValue) -> Tally {
        let read = match self {
            Kind::Rows | Kind::Values => state.get().parse().ok().map(Tally::Count),
            Kind::Sum { .. } | Kind::Avg => Sum::read(state).map(Tally::Sum),
            Kind::Extremum { of, .. } => {
                match serde_json::from_str::<Option<String>>(state.get()) {
                    Ok(None) => Some(Tally::Extremum(None)),
                    Ok(Some(text)) => {
                        let mut bytes = Vec::new();
                        let read = canonical_from_text(of, &text, &mut bytes);
                        read.ok().map(|()| Tally::Extremum(Some(bytes.into())))
                    }
                    Err(_) => None,
                }
            }
        };
        read.unwrap_or(Tally::Unknown)
    }

    /// A value comes into the group.
    ///
    /// - Takes: canonical bytes with their type; `None` is NULL, or a row.
    pub fn add(&self, tally: &mut Tally, value: Option<(&[u8], &PgType)>) -> Result<(), EvalError> {
        match (self, tally, value) {
            (Kind::Rows, Tally::Count(count), _) | (Kind::Values, Tally::Count(count), Some(_)) => {
                *count += 1;
                Ok(())
            }
            (_, Tally::Unknown, Some(_)) => Err(UNKNOWN),
            (_, _, None) => Ok(()),
            (_, Tally::Sum(sum), Some((bytes, ty))) => {
                sum.add(Decimal::of(bytes, ty).ok_or(UNKNOWN)?).ok_or(UNKNOWN)
            }
            (Kind::Extremum { before, compare, .. }, Tally::Extremum(held), Some((bytes, _))) => {
                let order = match held.as_deref() {
                    Some(held) if held == bytes => return Ok(()),
                    Some(held) => compare(bytes, held)?,
                    None => *before,
                };
                // Which of two equal values that are printed otherwise Postgres gives depends on their order.
                if order == Ordering::Equal {
                    return Err(UNKNOWN);
                }
                if order == *before {
                    *held = Some(bytes.into());
                }
                Ok(())
            }
            _ => Err(UNKNOWN),
        }
    }

    /// One goes. Of one transaction all that comes is added first.
    pub fn remove(
        &self,
        tally: &mut Tally,
        value: Option<(&[u8], &PgType)>,
    ) -> Result<(), EvalError> {
        match (self, tally, value) {
            (Kind::Rows, Tally::Count(count), _) | (Kind::Values, Tally::Count(count), Some(_)) => {
                *count = count.checked_sub(1).ok_or(UNKNOWN)?;
                Ok(())
            }
            (_, Tally::Unknown, Some(_)) => Err(UNKNOWN),
            (_, _, None) => Ok(()),
            (_, Tally::Sum(sum), Some((bytes, ty))) => {
                sum.remove(Decimal::of(bytes, ty).ok_or(UNKNOWN)?).ok_or(UNKNOWN)
            }
            (
                Kind::Extremum { before, compare, .. },
                Tally::Extremum(Some(held)),
                Some((bytes, _)),
            ) => {
                // Others that are equal, or the next one, are not known.
                match compare(bytes, held)? == before.reverse() {
                    true => Ok(()),
                    false => Err(UNKNOWN),
                }
            }
            _ => Err(UNKNOWN),
        }
    }

    /// Canonical bytes of what the aggregate is, with their type; `None` is NULL.
    pub fn value(&self, tally: &Tally) -> Result<Option<(Vec<u8>, PgType)>, EvalError> {
        let number = |text: String| Some((text.into_bytes(), self.pg_type()));
        Ok(match (self, tally) {
            (Kind::Rows | Kind::Values, Tally::Count(count)) => number(count.to_string()),
            (Kind::Sum { .. } | Kind::Avg, Tally::Sum(Sum { count: 0, .. })) => None,
            (Kind::Sum { is_wide }, Tally::Sum(Sum { sum, most, .. })) => {
                if !is_wide && i64::try_from(*sum).is_err() {
                    // Postgres fails.
                    return Err(UNKNOWN);
                }
                number(Decimal { digits: *sum, scale: *most }.text())
            }
            (Kind::Avg, Tally::Sum(sum)) => number(sum.mean().ok_or(UNKNOWN)?.text()),
            (Kind::Extremum { of, .. }, Tally::Extremum(held)) => {
                held.as_ref().map(|held| (held.to_vec(), of.clone()))
            }
            _ => return Err(UNKNOWN),
        })
    }
}

impl Sum {
    fn read(state: &RawValue) -> Option<Sum> {
        let parts: Vec<&RawValue> = serde_json::from_str(state.get()).ok()?;
        let part = |at: usize| parts.get(at).map(|part| part.get()).filter(|part| *part != "null");
        let count = part(0)?.parse().ok()?;
        if count == 0 {
            return Some(Sum::default());
        }
        let Decimal { digits: sum, scale } = Decimal::read(part(1)?)?;
        let scale_at = |at| if parts.len() > 2 { part(at)?.parse().ok() } else { Some(0) };
        let (least, most) = (scale_at(2)?, scale_at(3)?);
        (scale == most).then_some(Sum { count, sum, least, most })
    }

    fn add(&mut self, value: Decimal) -> Option<()> {
        let is_first = self.count == 0;
        let most = if is_first { value.scale } else { self.most.max(value.scale) };
        let before = Decimal { digits: self.sum, scale: self.most };
        let before = if is_first { 0 } else { before.in_units_of(most)? };
        *self = Sum {
            count: self.count + 1,
            sum: before.checked_add(value.in_units_of(most)?)?,
            least: if is_first { value.scale } else { self.least.min(value.scale) },
            most,
        };
        Some(())
    }

    fn remove(&mut self, value: Decimal) -> Option<()> {
        let count = self.count.checked_sub(1)?;
        if count == 0 {
            *self = Sum::default();
            return Some(());
        }
        if value.scale == self.most && self.least < self.most {
            return None;
        }
        self.sum = self.sum.checked_sub(value.in_units_of(self.most)?)?;
        self.count = count;
        Some(())
    }

    /// The mean with as many digits as Postgres gives it.
    ///
    /// - Source: PostgreSQL `numeric.c`, `select_div_scale` and `div_var`.
    fn mean(&self) -> Option<Decimal> {
        /// `NUMERIC_MIN_SIG_DIGITS` and `DEC_DIGITS`.
        const SIGNIFICANT: i32 = 16;
        const DIGITS: i32 = 4;
        let (weight, first) = Decimal { digits: self.sum, scale: self.most }.leading();
        let (by_weight, by_first) = Decimal { digits: self.count.into(), scale: 0 }.leading();
        let weight = weight - by_weight - i32::from(first <= by_first);
        let scale = SIGNIFICANT - weight * DIGITS;
        let scale = u32::try_from(scale).unwrap_or(0).max(self.most);
        let (sum, count) = (
            Decimal { digits: self.sum, scale: self.most }.in_units_of(scale)?,
            i128::from(self.count),
        );
        let (whole, rest) = (sum / count, sum % count);
        // Halves go away from zero.
        let up = if 2 * rest.abs() >= count { sum.signum() } else { 0 };
        Some(Decimal { digits: whole + up, scale })
    }
}

impl Decimal {
    /// A value of an integer type, or a `numeric` that is finite and fits.
    fn of(bytes: &[u8], ty: &PgType) -> Option<Decimal> {
        Decimal::read(&to_text(ty, bytes).ok()?)
    }

    fn read(text: &str) -> Option<Decimal> {
        let (whole, behind) = text.split_once('.').unwrap_or((text, ""));
        let digits = format!("{whole}{behind}").parse().ok()?;
        Some(Decimal { digits, scale: u32::try_from(behind.len()).ok()? })
    }

    fn in_units_of(self, scale: u32) -> Option<i128> {
        self.digits.checked_mul(10_i128.checked_pow(scale.checked_sub(self.scale)?)?)
    }

    /// The place of the first digit that is not 0, and that digit, in base 10,000.
    fn leading(self) -> (i32, u128) {
        let mut digits = self.digits.unsigned_abs();
        if digits == 0 {
            return (0, 0);
        }
        // Places are counted from the point.
        let padding = (4 - self.scale % 4) % 4;
        let behind = i32::try_from((self.scale + padding) / 4).unwrap_or(i32::MAX);
        let last = 10_u128.pow(4 - padding);
        let mut place = -behind;
        if padding > 0 && digits < last {
            return (place, digits * 10_u128.pow(padding));
        }
        if padding > 0 {
            digits /= last;
            place += 1;
        }
        while digits >= 10_000 {
            digits /= 10_000;
            place += 1;
        }
        (place, digits)
    }

    fn text(self) -> String {
        let sign = if self.digits < 0 { "-" } else { "" };
        let digits = self.digits.unsigned_abs().to_string();
        let scale = self.scale as usize;
        if scale == 0 {
            return format!("{sign}{digits}");
        }
        let digits = format!("{digits:0>width$}", width = scale + 1);
        let (whole, behind) = digits.split_at(digits.len() - scale);
        format!("{sign}{whole}.{behind}")
    }
}
