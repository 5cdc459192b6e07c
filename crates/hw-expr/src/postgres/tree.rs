//! The typed tree, and its value for a row and a principal.

use super::Tables;
use super::compare::{Compare, Comparison};
use super::operators::{Holds, Operation};
use super::select::Select;
use super::types::{Datum, Scalar, Type};
use crate::error::EvalError;
use hw_types::row::{Cell, RowRef};
use hw_types::text::container::Array;
use smallvec::SmallVec;
use std::borrow::Cow;
use std::collections::BTreeMap;
use std::sync::Arc;

/// Who asks, as a session of Postgres knows it, and with what.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Principal {
    /// The role that statements run as.
    pub role: Arc<str>,
    /// Settings of the session by name, `request.jwt.claims` among them.
    pub settings: Arc<BTreeMap<String, String>>,
    /// The parameters of a filter, `$1` first.
    pub parameters: Arc<[String]>,
}

impl Principal {
    /// The value of a setting, or of a parameter by its name in SQL.
    pub fn setting(&self, name: &str) -> Option<&str> {
        let value = match name.strip_prefix('$') {
            Some(number) => self.parameters.get(number.parse::<usize>().ok()?.checked_sub(1)?),
            None => self.settings.get(name),
        };
        value.map(String::as_str)
    }
}

/// What an expression is evaluated for.
#[derive(Clone, Copy)]
pub struct Frame<'a> {
    /// The row of the table; behind it those of the sub-selects that it is compared with.
    pub rows: &'a [&'a RowRef<'a>],
    /// Who asks.
    pub principal: &'a Principal,
    /// Where sub-selects find rows.
    pub tables: &'a dyn Tables,
}

/// An expression with its type.
#[derive(Clone)]
pub(super) struct Typed {
    pub expr: Expr,
    pub ty: Type,
}

/// An expression. Conditions are of type boolean; NULL is neither true nor false.
#[derive(Clone)]
pub(super) enum Expr {
    /// A constant; the text of one whose type is not known yet.
    Literal(Option<Box<[u8]>>),
    Bool(bool),
    /// A column of one of the rows.
    Column {
        row: usize,
        index: usize,
    },
    /// `current_setting(name, missing_ok)`; an error where it is not set and `missing_ok` is not true.
    Setting(Box<Expr>, Box<Expr>),
    /// `current_user`.
    Role,
    And(Vec<Expr>),
    Or(Vec<Expr>),
    Not(Box<Expr>),
    IsNull(Box<Expr>),
    /// `IS TRUE`, `IS FALSE`.
    Is(Box<Expr>, bool),
    /// `IS NOT DISTINCT FROM`.
    Same(Box<Expr>, Box<Expr>, Compare),
    Call(Operation, Vec<Expr>),
    /// `left operator ANY (array)`, or ALL.
    Quantified {
        left: Box<Expr>,
        compare: Compare,
        holds: Holds,
        array: Box<Expr>,
        all: bool,
    },
    /// The value of the first true condition, else of the last expression.
    Case(Vec<(Expr, Expr)>, Box<Expr>),
    Coalesce(Vec<Expr>),
    NullIf(Box<Expr>, Box<Expr>, Compare),
    /// `ARRAY[…]`.
    Array(Vec<Expr>),
    /// Whether a sub-select has a row.
    Exists(Box<Select>),
    /// `left = ANY (sub-select)`.
    In(Box<Expr>, Compare, Box<Select>),
    /// The value of the only row of a sub-select, or NULL.
    Only(Box<Select>),
}

impl Expr {
    pub const NULL: Expr = Expr::Literal(None);
    pub const TRUE: Expr = Expr::Bool(true);
    pub const FALSE: Expr = Expr::Bool(false);

    /// The value. NULL is `None`.
    ///
    /// - Errors: Postgres would have none either (a text that is no UUID), or it is not known here.
    pub fn evaluate<'v>(&'v self, frame: Frame<'v>) -> Result<Datum<'v>, EvalError> {
        let condition = |value: Option<bool>| {
            value.map(|v| Cow::Borrowed(if v { &[1u8][..] } else { &[0][..] }))
        };
        Ok(match self {
            Expr::Literal(value) => value.as_deref().map(Cow::Borrowed),
            Expr::Column { row, index } => match frame.rows.get(*row).map(|row| row.get(*index)) {
                Some(Cell::Value(bytes)) => Some(Cow::Borrowed(bytes)),
                Some(Cell::Null) => None,
                Some(Cell::Absent) | None => {
                    return Err(EvalError("a value of the row is not known"));
                }
            },
            Expr::Setting(name, missing_ok) => {
                let (Some(name), Some(missing_ok)) =
                    (name.evaluate(frame)?, missing_ok.holds(frame)?)
                else {
                    return Ok(None);
                };
                // Names of settings are not told apart by case.
                let name = String::from_utf8_lossy(&name).to_ascii_lowercase();
                match (frame.principal.setting(&name), missing_ok) {
                    (Some(value), _) => Some(Cow::Borrowed(value.as_bytes())),
                    (None, true) => None,
                    (None, false) => return Err(EvalError("a setting of the session is not set")),
                }
            }
            Expr::Role => Some(Cow::Borrowed(frame.principal.role.as_bytes())),
            Expr::Call(operation, arguments) => return call(operation, arguments, frame),
            Expr::Case(whens, otherwise) => {
                for (when, then) in whens {
                    if when.holds(frame)? == Some(true) {
                        return then.evaluate(frame);
                    }
                }
                return otherwise.evaluate(frame);
            }
            Expr::Coalesce(all) => {
                for one in all {
                    if let Some(value) = one.evaluate(frame)? {
                        return Ok(Some(value));
                    }
                }
                None
            }
            Expr::NullIf(left, right, compare) => {
                let left = left.evaluate(frame)?;
                match (&left, right.evaluate(frame)?) {
                    (Some(one), Some(other)) if compare(one, &other)?.is_eq() => None,
                    _ => left,
                }
            }
            Expr::Array(elements) => Some(Cow::Owned(array(elements, frame)?)),
            Expr::Only(select) => select.only(frame)?.map(Cow::Owned),
            Expr::And(..)
            | Expr::Or(..)
            | Expr::Not(_)
            | Expr::IsNull(_)
            | Expr::Is(..)
            | Expr::Same(..)
            | Expr::Quantified { .. }
            | Expr::Bool(_)
            | Expr::Exists(_)
            | Expr::In(..) => condition(self.holds(frame)?),
        })
    }

    /// The value of a condition: `None` is NULL, which is neither true nor false.
    pub fn holds(&self, frame: Frame<'_>) -> Result<Option<bool>, EvalError> {
        Ok(match self {
            Expr::And(all) => decided(all, false, frame)?,
            Expr::Or(all) => decided(all, true, frame)?,
            Expr::Not(inner) => inner.holds(frame)?.map(|value| !value),
            Expr::IsNull(inner) => Some(inner.evaluate(frame)?.is_none()),
            Expr::Is(inner, wanted) => Some(inner.holds(frame)? == Some(*wanted)),
            Expr::Same(left, right, compare) => {
                Some(match (left.evaluate(frame)?, right.evaluate(frame)?) {
                    (Some(left), Some(right)) => compare(&left, &right)?.is_eq(),
                    (left, right) => left.is_none() && right.is_none(),
                })
            }
            Expr::Call(Operation::Compare(comparison, holds), arguments) => {
                let [left, right] = &arguments[..] else {
                    return Err(EvalError("a comparison has two sides"));
                };
                match (left.evaluate(frame)?, right.evaluate(frame)?) {
                    (Some(left), Some(right)) => Some(holds(comparison.compare()(&left, &right)?)),
                    _ => None,
                }
            }
            Expr::Quantified { left, compare, holds, array, all } => {
                let Some(array) = array.evaluate(frame)? else { return Ok(None) };
                quantified(left.evaluate(frame)?.as_deref(), *compare, *holds, &array, *all)?
            }
            Expr::Bool(value) => Some(*value),
            Expr::Exists(select) => Some(select.exists(frame)?),
            Expr::In(left, compare, select) => select.contains(left, *compare, frame)?,
            other => other.evaluate(frame)?.map(|value| *value == [1]),
        })
    }

    /// Of how many parts it is made.
    pub fn size(&self) -> usize {
        let mut size = 0;
        self.visit(&mut |_| size += 1);
        size
    }

    /// How deep it is.
    pub fn depth(&self) -> usize {
        let mut deepest = 0;
        self.parts(&mut |part| deepest = deepest.max(part.depth()));
        deepest + 1
    }

    /// Visits it and all that it is made of.
    pub fn visit(&self, see: &mut dyn FnMut(&Expr)) {
        see(self);
        self.parts(&mut |part| part.visit(see));
    }

    /// What it is made of directly.
    pub fn parts(&self, see: &mut dyn FnMut(&Expr)) {
        match self {
            Expr::Literal(_) | Expr::Bool(_) | Expr::Column { .. } | Expr::Role => {}
            Expr::Not(one) | Expr::IsNull(one) | Expr::Is(one, _) => see(one),
            Expr::Setting(left, right)
            | Expr::Same(left, right, _)
            | Expr::NullIf(left, right, _)
            | Expr::Quantified { left, array: right, .. } => {
                see(left);
                see(right);
            }
            Expr::And(all)
            | Expr::Or(all)
            | Expr::Call(_, all)
            | Expr::Coalesce(all)
            | Expr::Array(all) => all.iter().for_each(see),
            Expr::Case(whens, otherwise) => {
                whens.iter().for_each(|(when, then)| {
                    see(when);
                    see(then);
                });
                see(otherwise);
            }
            Expr::Exists(select) | Expr::Only(select) => select.parts(see),
            Expr::In(left, _, select) => {
                see(left);
                select.parts(see);
            }
        }
    }
}

/// `decisive` as soon as one is it; else NULL if one is NULL.
fn decided(all: &[Expr], decisive: bool, frame: Frame<'_>) -> Result<Option<bool>, EvalError> {
    let mut value = Some(!decisive);
    for one in all {
        match one.holds(frame)? {
            Some(held) if held == decisive => return Ok(Some(decisive)),
            Some(_) => {}
            None => value = None,
        }
    }
    Ok(value)
}

impl Comparison {
    pub(super) fn compare(self) -> Compare {
        match self {
            Comparison::Order(compare) | Comparison::Equality(compare) => compare,
        }
    }
}

fn call<'v>(
    operation: &Operation,
    arguments: &'v [Expr],
    frame: Frame<'v>,
) -> Result<Datum<'v>, EvalError> {
    let mut values: SmallVec<[Cow<'v, [u8]>; 3]> = SmallVec::new();
    for argument in arguments {
        match argument.evaluate(frame)? {
            Some(value) => values.push(value),
            None => return Ok(None),
        }
    }
    match operation {
        Operation::Relabel => Ok(values.pop()),
        Operation::Run(routine) => {
            let slices: SmallVec<[&[u8]; 3]> = values.iter().map(|value| &**value).collect();
            let mut out = Vec::new();
            Ok((routine.run)(&slices, &mut out)?.then_some(Cow::Owned(out)))
        }
        Operation::Compare(comparison, holds) => {
            let [left, right] = &values[..] else {
                return Err(EvalError("a comparison has two sides"));
            };
            let value = holds(comparison.compare()(left, right)?);
            Ok(Some(Cow::Borrowed(if value { &[1] } else { &[0] })))
        }
    }
}

/// `left operator ANY (array)`: true if it is true of one element, else NULL if it is of one. With ALL the
/// same of *not*.
fn quantified(
    left: Option<&[u8]>,
    compare: Compare,
    holds: Holds,
    array: &[u8],
    all: bool,
) -> Result<Option<bool>, EvalError> {
    const DAMAGED: EvalError = EvalError("an array is damaged");
    let elements = Array::read(array).map_err(|_| DAMAGED)?;
    let mut unknown = false;
    for element in elements.elements() {
        match (left, element.map_err(|_| DAMAGED)?) {
            (Some(left), Some(element)) => {
                if holds(compare(left, element)?) != all {
                    return Ok(Some(!all));
                }
            }
            _ => unknown = true,
        }
    }
    Ok(if unknown { None } else { Some(all) })
}

/// The canonical container of an array of one dimension, or of none.
fn array(elements: &[Expr], frame: Frame<'_>) -> Result<Vec<u8>, EvalError> {
    let mut values = Vec::with_capacity(elements.len());
    for element in elements {
        values.push(element.evaluate(frame)?);
    }
    let dimensions = u32::from(!values.is_empty());
    let has_null = u32::from(values.iter().any(Option::is_none));
    let mut out = [dimensions.to_be_bytes(), has_null.to_be_bytes(), [0; 4]].concat();
    if dimensions > 0 {
        out.extend_from_slice(&(values.len() as u32).to_be_bytes());
        out.extend_from_slice(&1u32.to_be_bytes());
    }
    for value in values {
        match value {
            None => out.extend_from_slice(&(-1i32).to_be_bytes()),
            Some(bytes) => {
                let length =
                    u32::try_from(bytes.len()).map_err(|_| EvalError("an array is too large"))?;
                out.extend_from_slice(&length.to_be_bytes());
                out.extend_from_slice(&bytes);
            }
        }
    }
    Ok(out)
}

/// The scalar type, if it is one.
pub(super) fn scalar(ty: Type) -> Option<Scalar> {
    match ty {
        Type::Scalar(scalar) => Some(scalar),
        _ => None,
    }
}
