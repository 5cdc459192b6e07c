//! What a row must have for a condition to be true of it: so that a changed row finds those who may see it,
//! instead of everybody being asked (`design/engine.md` 7, templates).

use super::compare::integer;
use super::operators::Operation;
use super::tree::{Expr, Frame, Principal};
use super::types::{Scalar, Type};
use super::{Condition, Tables};
use crate::error::EvalError;
use hw_types::row::RowRef;
use hw_types::text::container::Array;
use std::cmp::Ordering;

/// What every row has of which a condition is true for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// One of these columns, by index, has this value. Of no row it is true if none is named.
    OneOf(Vec<(usize, Vec<u8>)>),
    /// Nothing that is known here.
    Anything,
}

/// Values that one condition may name, before every row is looked at instead.
const MOST: usize = 1_000;

impl Condition {
    /// What a row must have for this to be true of it.
    ///
    /// - Takes: the table's columns; who asks.
    pub fn cover(&self, columns: &[(String, Type)], principal: &Principal) -> Cover {
        let frame = Frame { rows: &[], principal, tables: &Nothing };
        match cover(&self.0, columns, frame) {
            Cover::OneOf(mut keys) if keys.len() <= MOST => {
                keys.sort_unstable();
                keys.dedup();
                Cover::OneOf(keys)
            }
            _ => Cover::Anything,
        }
    }

    /// The names of the settings that it reads; `None` where one of them is computed.
    pub fn settings(&self) -> Option<Vec<String>> {
        let mut names = Some(Vec::new());
        self.0.visit(&mut |expr| {
            if let Expr::Setting(name, _) = expr {
                match (&mut names, &**name) {
                    (Some(names), Expr::Literal(Some(name))) => {
                        names.push(String::from_utf8_lossy(name).to_ascii_lowercase());
                    }
                    _ => names = None,
                }
            }
        });
        names
    }
}

/// Constants read no table.
struct Nothing;

impl Tables for Nothing {
    fn each(
        &self,
        _: u32,
        _: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        Err(EvalError("a constant reads no table"))
    }
}

fn cover(expr: &Expr, columns: &[(String, Type)], frame: Frame<'_>) -> Cover {
    if is_constant(expr) {
        return match expr.holds(frame) {
            Ok(Some(true)) | Err(_) => Cover::Anything,
            Ok(Some(false) | None) => Cover::OneOf(Vec::new()),
        };
    }
    match expr {
        Expr::And(all) => {
            let parts = all.iter().map(|part| cover(part, columns, frame));
            parts.min_by_key(Cover::weight).unwrap_or(Cover::Anything)
        }
        Expr::Or(all) => {
            let mut keys = Vec::new();
            for part in all {
                match cover(part, columns, frame) {
                    Cover::OneOf(more) => keys.extend(more),
                    Cover::Anything => return Cover::Anything,
                }
            }
            Cover::OneOf(keys)
        }
        Expr::Is(inner, true) => cover(inner, columns, frame),
        Expr::Call(Operation::Compare(_, holds), sides) if is_equality(*holds) => {
            match &sides[..] {
                [left, right] => equal(left, right, columns, frame)
                    .or_else(|| equal(right, left, columns, frame))
                    .unwrap_or(Cover::Anything),
                _ => Cover::Anything,
            }
        }
        Expr::Quantified { left, holds, array, all: false, .. } if is_equality(*holds) => {
            one_of(left, array, columns, frame).unwrap_or(Cover::Anything)
        }
        _ => Cover::Anything,
    }
}

impl Cover {
    /// The fewer rows it leaves, the less it weighs.
    fn weight(&self) -> usize {
        match self {
            Cover::OneOf(keys) => keys.len(),
            Cover::Anything => usize::MAX,
        }
    }
}

/// Whether it has the same value for every row.
fn is_constant(expr: &Expr) -> bool {
    let mut constant = true;
    expr.visit(&mut |part| {
        let varies =
            matches!(part, Expr::Column { .. } | Expr::Exists(_) | Expr::In(..) | Expr::Only(_));
        constant &= !varies;
    });
    constant
}

/// Whether a comparison is `=`.
fn is_equality(holds: fn(Ordering) -> bool) -> bool {
    holds(Ordering::Equal) && !holds(Ordering::Less) && !holds(Ordering::Greater)
}

/// The column of the row itself, if it is one and equal values of it have equal bytes.
fn column(expr: &Expr, columns: &[(String, Type)]) -> Option<(usize, Scalar)> {
    match expr {
        Expr::Column { row: 0, index } => match columns.get(*index)?.1 {
            Type::Scalar(scalar) if has_one_form(scalar) => Some((*index, scalar)),
            _ => None,
        },
        Expr::Call(Operation::Relabel, inner) => column(inner.first()?, columns),
        _ => None,
    }
}

fn has_one_form(scalar: Scalar) -> bool {
    use Scalar::*;
    match scalar {
        Bool | Int2 | Int4 | Int8 | Text | Uuid | Bytea | Date | Time | Timestamp | Timestamptz
        | Enum(_) => true,
        // Of equal ones some print otherwise.
        Float4 | Float8 | Numeric | Bpchar | Interval | Json | Jsonb => false,
    }
}

fn equal(side: &Expr, value: &Expr, columns: &[(String, Type)], frame: Frame<'_>) -> Option<Cover> {
    let (index, scalar) = column(side, columns)?;
    if !is_constant(value) {
        return None;
    }
    let Some(value) = value.evaluate(frame).ok()? else { return Some(Cover::OneOf(Vec::new())) };
    Some(Cover::OneOf(in_form(scalar, &value)?.map(|value| (index, value)).into_iter().collect()))
}

fn one_of(
    side: &Expr,
    array: &Expr,
    columns: &[(String, Type)],
    frame: Frame<'_>,
) -> Option<Cover> {
    let (index, scalar) = column(side, columns)?;
    if !is_constant(array) {
        return None;
    }
    let Some(array) = array.evaluate(frame).ok()? else { return Some(Cover::OneOf(Vec::new())) };
    let mut keys = Vec::new();
    for element in Array::read(&array).ok()?.elements() {
        if let Some(value) = element.ok()? {
            keys.extend(in_form(scalar, value)?.map(|value| (index, value)));
        }
    }
    Some(Cover::OneOf(keys))
}

/// A value as a column of this type holds it; the inner `None`: no column can. Integers are compared across
/// their widths.
fn in_form(scalar: Scalar, value: &[u8]) -> Option<Option<Vec<u8>>> {
    let number = || integer(value).ok();
    Some(match scalar {
        Scalar::Int2 => i16::try_from(number()?).ok().map(|number| number.to_be_bytes().into()),
        Scalar::Int4 => i32::try_from(number()?).ok().map(|number| number.to_be_bytes().into()),
        Scalar::Int8 => Some(number()?.to_be_bytes().into()),
        _ => Some(value.to_vec()),
    })
}
