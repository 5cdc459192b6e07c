//! Sub-selects: what they read, and what they find for a row and a principal.
//!
//! Rows are gone through one by one: this says what a sub-select means. Whoever asks often keeps lookups
//! instead.

use super::compare::Compare;
use super::tree::{Expr, Frame};
use crate::error::EvalError;
use hw_types::row::RowRef;
use smallvec::SmallVec;

/// A sub-select over the inner join of its tables.
#[derive(Clone)]
pub(super) struct Select {
    /// How many rows stand around it. What is an argument of a function may be evaluated deeper than it was
    /// written.
    pub around: usize,
    /// The tables by number, each with what the role may see of it. Their rows stand behind those around
    /// the sub-select, in this order.
    pub tables: Vec<(u32, Expr)>,
    pub condition: Expr,
    /// What a row is for the outside.
    pub output: Expr,
}

impl Select {
    /// What it is made of directly.
    pub fn parts(&self, see: &mut dyn FnMut(&Expr)) {
        self.tables.iter().for_each(|(_, visible)| see(visible));
        see(&self.condition);
        see(&self.output);
    }

    pub fn exists(&self, frame: Frame<'_>) -> Result<bool, EvalError> {
        let mut found = false;
        self.each(0, self.outside(frame), &mut |_| {
            found = true;
            Ok(false)
        })?;
        Ok(found)
    }

    /// Whether it has a row that is equal to `left`; NULL if it may have one.
    pub fn contains(
        &self,
        left: &Expr,
        compare: Compare,
        frame: Frame<'_>,
    ) -> Result<Option<bool>, EvalError> {
        let left = left.evaluate(frame)?;
        let mut result = Some(false);
        self.each(0, self.outside(frame), &mut |inner| {
            match (&left, self.output.evaluate(inner)?) {
                (Some(left), Some(value)) => {
                    if compare(left, &value)?.is_eq() {
                        result = Some(true);
                    }
                }
                _ => result = None,
            }
            Ok(result != Some(true))
        })?;
        Ok(result)
    }

    /// The value of its only row; NULL if it has none.
    ///
    /// - Errors: it has several.
    pub fn only(&self, frame: Frame<'_>) -> Result<Option<Vec<u8>>, EvalError> {
        let mut value = None;
        self.each(0, self.outside(frame), &mut |inner| match value {
            None => {
                value = Some(self.output.evaluate(inner)?.map(|value| value.into_owned()));
                Ok(true)
            }
            Some(_) => Err(EvalError("a sub-select has more than one row")),
        })?;
        Ok(value.flatten())
    }

    /// The rows that it knows.
    fn outside<'f>(&self, frame: Frame<'f>) -> Frame<'f> {
        Frame { rows: frame.rows.get(..self.around).unwrap_or(frame.rows), ..frame }
    }

    /// Shows every row of the join behind the tables before `at`; false when `visit` wants no more.
    fn each(
        &self,
        at: usize,
        frame: Frame<'_>,
        visit: &mut dyn FnMut(Frame<'_>) -> Result<bool, EvalError>,
    ) -> Result<bool, EvalError> {
        let Some((table, visible)) = self.tables.get(at) else {
            let holds = self.condition.holds(frame)? == Some(true);
            return if holds { visit(frame) } else { Ok(true) };
        };
        let mut more = true;
        frame.tables.each(*table, &mut |row| {
            let mut rows: SmallVec<[&RowRef<'_>; 4]> = SmallVec::from_slice(frame.rows);
            rows.push(row);
            let inner = Frame { rows: &rows, principal: frame.principal, tables: frame.tables };
            if visible.holds(inner)? == Some(true) {
                more = self.each(at + 1, inner, visit)?;
            }
            Ok(more)
        })?;
        Ok(more)
    }
}
