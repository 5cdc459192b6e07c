//! Sub-selects: what they read, and what they find for a row and a principal.
//!
//! Rows are gone through one by one, of each table those that can be in the result ([`Cover`]): whoever asks
//! often keeps lookups to find them.

use super::compare::Compare;
use super::cover::{self, Cover};
use super::tree::{Expr, Frame};
use super::types::Type;
use crate::error::EvalError;
use hw_types::row::RowRef;
use smallvec::SmallVec;
use std::sync::Arc;

/// A table of a FROM.
#[derive(Clone)]
pub(super) struct Source {
    pub number: u32,
    /// The types of its columns.
    pub columns: Arc<[Type]>,
    /// What the role may see of it.
    pub visible: Expr,
}

/// A sub-select over the inner join of its tables.
#[derive(Clone)]
pub(super) struct Select {
    /// How many rows stand around it. What is an argument of a function may be evaluated deeper than it was
    /// written.
    pub around: usize,
    /// The tables. Their rows stand behind those around the sub-select, in this order.
    pub tables: Vec<Source>,
    pub condition: Expr,
    /// What a row is for the outside.
    pub output: Expr,
}

impl Select {
    /// What it is made of directly.
    pub fn parts(&self, see: &mut dyn FnMut(&Expr)) {
        self.tables.iter().for_each(|table| see(&table.visible));
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
    pub fn outside<'f>(&self, frame: Frame<'f>) -> Frame<'f> {
        Frame { rows: frame.rows.get(..self.around).unwrap_or(frame.rows), ..frame }
    }

    /// Shows every row of the join behind the tables before `at`; false when `visit` wants no more.
    pub fn each(
        &self,
        at: usize,
        frame: Frame<'_>,
        visit: &mut dyn FnMut(Frame<'_>) -> Result<bool, EvalError>,
    ) -> Result<bool, EvalError> {
        let Some(table) = self.tables.get(at) else {
            let holds = self.condition.holds(frame)? == Some(true);
            return if holds { visit(frame) } else { Ok(true) };
        };
        let mut more = true;
        let mut each = |row: &RowRef<'_>| {
            let mut rows: SmallVec<[&RowRef<'_>; 4]> = SmallVec::from_slice(frame.rows);
            rows.push(row);
            let inner = Frame { rows: &rows, principal: frame.principal, tables: frame.tables };
            if table.visible.holds(inner)? == Some(true) {
                more = self.each(at + 1, inner, visit)?;
            }
            Ok(more)
        };
        match self.cover(table, frame) {
            Cover::OneOf(keys) => frame.tables.each_having(table.number, &keys, &mut each)?,
            Cover::Anything => frame.tables.each(table.number, &mut each)?,
        }
        Ok(more)
    }

    /// What the rows of one of its tables have, behind the rows that are known.
    pub fn cover(&self, table: &Source, frame: Frame<'_>) -> Cover {
        let visible = cover::of(&table.visible, &table.columns, frame);
        visible.narrower(cover::of(&self.condition, &table.columns, frame))
    }
}
