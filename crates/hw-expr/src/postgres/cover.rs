//! What a row must have for a condition to be true of it: so that a changed row finds those who may see it,
//! instead of everybody being asked (`design/engine.md` 7, templates), and that a sub-select finds its rows.

use super::compare::{Compare, integer};
use super::operators::Operation;
use super::select::{Select, Source};
use super::tree::{Expr, Frame, Principal};
use super::types::{Scalar, Type};
use super::{Condition, Tables};
use crate::error::EvalError;
use hw_types::row::RowRef;
use hw_types::text::container::Array;
use std::cmp::Ordering;

/// Columns by index, each with a value.
pub type Keys = Vec<(usize, Vec<u8>)>;

/// What every row has of which a condition is true for somebody.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Cover {
    /// One of these columns, by index, has this value. Of no row it is true if none is named.
    OneOf(Keys),
    /// Nothing that is known here.
    Anything,
}

/// Values that one condition may name, before every row is looked at instead.
const MOST: usize = 10_000;

impl Cover {
    /// The one that leaves fewer rows.
    pub fn narrower(self, other: Cover) -> Cover {
        if other.weight() < self.weight() { other } else { self }
    }

    fn weight(&self) -> usize {
        match self {
            Cover::OneOf(keys) => keys.len(),
            Cover::Anything => usize::MAX,
        }
    }

    fn of(mut keys: Keys) -> Cover {
        if keys.len() > MOST {
            return Cover::Anything;
        }
        keys.sort_unstable();
        keys.dedup();
        Cover::OneOf(keys)
    }
}

impl Condition {
    /// What a row must have for this to be true of it.
    ///
    /// - Takes: the table's columns; who asks; where sub-selects find rows. As long as no row changes that one
    ///   of [`Condition::inner_covers`] has, this stays the same.
    pub fn cover(
        &self,
        columns: &[(String, Type)],
        principal: &Principal,
        tables: &dyn Tables,
    ) -> Cover {
        let columns: Vec<Type> = columns.iter().map(|(_, ty)| *ty).collect();
        of(&self.0, &columns, Frame { rows: &[], principal, tables })
    }

    /// What rows of other tables have, by their numbers, that take part in this for somebody.
    pub fn inner_covers(&self, principal: &Principal, tables: &dyn Tables) -> Vec<(u32, Cover)> {
        let mut covers = Vec::new();
        self.0.visit(&mut |expr| {
            let (Expr::Exists(select) | Expr::In(_, _, select) | Expr::Only(select)) = expr else {
                return;
            };
            for table in &select.tables {
                let frame = Frame { rows: &[], principal, tables };
                covers.push((table.number, select.cover_alone(table, frame)));
            }
        });
        covers
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

/// What a row must have.
///
/// - Takes: the condition; the columns of the row's table; the rows before it, which are known.
pub(super) fn of(expr: &Expr, columns: &[Type], frame: Frame<'_>) -> Cover {
    Reader { row: frame.rows.len(), columns, frame }.cover(expr)
}

impl Select {
    /// The same for one of its tables when none of the other rows is known.
    fn cover_alone(&self, table: &Source, frame: Frame<'_>) -> Cover {
        let place = self.tables.iter().position(|other| std::ptr::eq(other, table)).unwrap_or(0);
        let row = self.around + place;
        let reader = Reader { row, columns: &table.columns, frame };
        reader.cover(&table.visible).narrower(reader.cover(&self.condition))
    }
}

/// Reads conditions over a row.
struct Reader<'a> {
    /// Its place among the rows of a frame.
    row: usize,
    columns: &'a [Type],
    /// The rows before it that are known.
    frame: Frame<'a>,
}

impl Reader<'_> {
    fn cover(&self, expr: &Expr) -> Cover {
        if self.is_constant(expr) {
            return match self.with_rows(around(expr), |frame| expr.holds(frame)) {
                Ok(Some(true)) | Err(_) => Cover::Anything,
                Ok(Some(false) | None) => Cover::of(Vec::new()),
            };
        }
        match expr {
            Expr::And(all) => {
                let parts = all.iter().map(|part| self.cover(part));
                parts.reduce(Cover::narrower).unwrap_or(Cover::Anything)
            }
            Expr::Or(all) => {
                let mut keys = Vec::new();
                for part in all {
                    match self.cover(part) {
                        Cover::OneOf(more) => keys.extend(more),
                        Cover::Anything => return Cover::Anything,
                    }
                }
                Cover::of(keys)
            }
            Expr::Is(inner, true) => self.cover(inner),
            Expr::Exists(select) => self.joined(select, None),
            Expr::In(left, compare, select) => {
                self.joined(select, Some(&**left).filter(|_| is_exact(*compare)))
            }
            _ => self.compared(expr).unwrap_or(Cover::Anything),
        }
    }

    fn compared(&self, expr: &Expr) -> Option<Cover> {
        if let Some((left, right)) = equality(expr) {
            return self.equal(left, right).or_else(|| self.equal(right, left));
        }
        match expr {
            Expr::Quantified { left, compare, holds, array, all: false }
                if is_equality(*holds) && is_exact(*compare) =>
            {
                self.one_of(left, array)
            }
            _ => None,
        }
    }

    fn constant(&self, value: &Expr) -> Result<Option<Vec<u8>>, EvalError> {
        self.with_rows(around(value), |frame| {
            Ok(value.evaluate(frame)?.map(|value| value.into_owned()))
        })
    }

    /// `column = constant`.
    fn equal(&self, side: &Expr, value: &Expr) -> Option<Cover> {
        let (index, scalar) = self.column(side)?;
        if !self.is_constant(value) {
            return None;
        }
        let Some(value) = self.constant(value).ok()? else { return Some(Cover::of(Vec::new())) };
        Some(Cover::of(in_form(scalar, &value)?.map(|value| (index, value)).into_iter().collect()))
    }

    /// `column = ANY (constant)`.
    fn one_of(&self, side: &Expr, array: &Expr) -> Option<Cover> {
        let (index, scalar) = self.column(side)?;
        if !self.is_constant(array) {
            return None;
        }
        let Some(array) = self.constant(array).ok()? else { return Some(Cover::of(Vec::new())) };
        let mut keys = Vec::new();
        for element in Array::read(&array).ok()?.elements() {
            if let Some(value) = element.ok()? {
                keys.extend(in_form(scalar, value)?.map(|value| (index, value)));
            }
        }
        Some(Cover::of(keys))
    }

    /// A sub-select that joins its rows to this one by `column = value`, or by what it gives.
    fn joined(&self, select: &Select, left: Option<&Expr>) -> Cover {
        // An argument of a function, written where fewer rows stood around it: its rows are named as ours.
        if select.around <= self.row {
            return Cover::Anything;
        }
        let conjuncts = match &select.condition {
            Expr::And(all) => &all[..],
            one => std::slice::from_ref(one),
        };
        let by_condition = conjuncts.iter().filter_map(equality);
        let by_output = left.map(|left| (left, &select.output));
        let joins =
            by_condition.chain(by_output).flat_map(|(one, other)| [(one, other), (other, one)]);
        // What reads rows of its own only, to find these by.
        let is_alone = |part: &Expr| !self.varies(part, select.around);
        let alone: Vec<Expr> = conjuncts.iter().filter(|part| is_alone(part)).cloned().collect();
        if !select.tables.iter().all(|table| is_alone(&table.visible)) {
            return Cover::Anything;
        }
        let mut best = Cover::Anything;
        for (side, value) in joins {
            let Some((index, scalar)) = self.column(side).filter(|_| is_alone(value)) else {
                continue;
            };
            let found = Select {
                around: select.around,
                tables: select.tables.clone(),
                condition: Expr::And(alone.clone()),
                output: value.clone(),
            };
            let keys = self.with_rows(select.around, |frame| found.values(frame, index, scalar));
            if let Ok(Some(keys)) = keys {
                best = best.narrower(Cover::of(keys));
            }
        }
        best
    }

    /// The column of the row itself, if it is one and equal values of it have equal bytes.
    fn column(&self, expr: &Expr) -> Option<(usize, Scalar)> {
        match expr {
            Expr::Column { row, index } if *row == self.row => match self.columns.get(*index)? {
                Type::Scalar(scalar) if has_one_form(*scalar) => Some((*index, *scalar)),
                _ => None,
            },
            Expr::Call(Operation::Relabel, inner) => self.column(inner.first()?),
            _ => None,
        }
    }

    /// Whether it has the same value for every row, as far as others are known.
    fn is_constant(&self, expr: &Expr) -> bool {
        !self.varies(expr, usize::MAX)
    }

    /// Whether it reads a row that is not known, other than those that it has itself from `own` on.
    fn varies(&self, expr: &Expr, own: usize) -> bool {
        let mut varies = false;
        expr.parts(&mut |part| {
            let own = match expr {
                Expr::Exists(select) | Expr::In(_, _, select) | Expr::Only(select) => {
                    own.min(select.around)
                }
                _ => own,
            };
            varies |= self.varies(part, own);
        });
        match expr {
            Expr::Column { row, .. } => *row >= self.frame.rows.len() && *row < own,
            _ => varies,
        }
    }

    /// Evaluates something that reads none of the rows that are not known; they have no columns.
    ///
    /// - Takes: how many rows stand around it.
    fn with_rows<T>(
        &self,
        around: usize,
        evaluate: impl FnOnce(Frame<'_>) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        let empty = RowRef::new(&[]);
        let missing = around.saturating_sub(self.frame.rows.len());
        let mut rows: Vec<&RowRef<'_>> = self.frame.rows.to_vec();
        rows.extend(std::iter::repeat_n(&empty, missing));
        let Frame { principal, tables, .. } = self.frame;
        evaluate(Frame { rows: &rows, principal, tables })
    }
}

impl Select {
    /// What its rows give, as a column of this type holds it; `None`: it cannot be told.
    fn values(
        &self,
        frame: Frame<'_>,
        index: usize,
        scalar: Scalar,
    ) -> Result<Option<Keys>, EvalError> {
        let mut keys = Some(Vec::new());
        self.each(0, self.outside(frame), &mut |inner| {
            if let Some(value) = self.output.evaluate(inner)? {
                match (in_form(scalar, &value), &mut keys) {
                    (Some(Some(value)), Some(keys)) if keys.len() <= MOST => {
                        keys.push((index, value))
                    }
                    (Some(None), Some(_)) => {}
                    _ => keys = None,
                }
            }
            Ok(keys.is_some())
        })?;
        Ok(keys)
    }
}

/// How many rows stand around the innermost sub-select of an expression.
fn around(expr: &Expr) -> usize {
    let mut most = 0;
    expr.visit(&mut |part| {
        if let Expr::Exists(select) | Expr::In(_, _, select) | Expr::Only(select) = part {
            most = most.max(select.around);
        }
    });
    most
}

/// The two sides of `=`.
pub(super) fn equality(expr: &Expr) -> Option<(&Expr, &Expr)> {
    match expr {
        Expr::Call(Operation::Compare(comparison, holds), sides)
            if is_equality(*holds) && is_exact(comparison.compare()) =>
        {
            match &sides[..] {
                [left, right] => Some((left, right)),
                _ => None,
            }
        }
        _ => None,
    }
}

/// Whether a comparison is `=`.
pub(super) fn is_equality(holds: fn(Ordering) -> bool) -> bool {
    holds(Ordering::Equal) && !holds(Ordering::Less) && !holds(Ordering::Greater)
}

/// Whether equal values have equal bytes, as far as padding goes: a text that is compared as `character(n)` is
/// equal to others.
pub(super) fn is_exact(compare: Compare) -> bool {
    compare(b"a", b"a ") != Ok(Ordering::Equal)
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
