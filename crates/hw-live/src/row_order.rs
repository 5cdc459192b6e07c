//! In which order the rows of a window stand.
//!
//! In: the columns of the order, and rows as the log has them or as Postgres printed them. Out: which of two stands
//! before the other. Invariant: what cannot be compared here exactly as Postgres does it (texts in the order of a
//! language, labels) is an error, never a guess.

use crate::query::FirstRows;
use hw_expr::postgres::{Compare, EvalError, Type, order_of};
use hw_pg::types::canonical_from_text;
use hw_types::{Cell, PgType, Relation, Row};
use std::cmp::Ordering;

/// The order of a window, over rows with certain columns.
pub(crate) struct RowOrder {
    pub first: FirstRows,
    columns: Vec<Column>,
}

struct Column {
    index: usize,
    pg_type: PgType,
    /// `None`: only whether two values are the same is known here.
    compare: Option<Compare>,
    descending: bool,
}

/// Where a row stands: canonical bytes of its values, column by column.
pub(crate) type Place = Box<[Option<Box<[u8]>>]>;

impl RowOrder {
    /// `None` where the rows do not have one of its columns.
    pub fn new(first: &FirstRows, relation: &Relation) -> Option<RowOrder> {
        let column = |(name, descending): &(String, bool)| {
            let index = relation.columns.iter().position(|column| column.name == *name)?;
            let found = &relation.columns[index];
            let compare = order_of(Type::of(found.type_oid, &found.pg_type));
            let pg_type = found.pg_type.clone();
            Some(Column { index, pg_type, compare, descending: *descending })
        };
        let columns = first.order.iter().map(column).collect::<Option<_>>()?;
        Some(RowOrder { first: first.clone(), columns })
    }

    /// Where a row stands.
    ///
    /// - Errors: the log does not have one of the values.
    pub fn place(&self, row: &Row) -> Result<Place, EvalError> {
        let row = row.view();
        let value = |column: &Column| match row.get(column.index) {
            Cell::Null => Ok(None),
            Cell::Absent => Err(EvalError("a value of the row is not known")),
            Cell::Value(bytes) => Ok(Some(bytes.into())),
        };
        self.columns.iter().map(value).collect()
    }

    /// Where a row stands, of which Postgres has printed the values as JSON ([`crate::LiveQuery::window`]); `None`
    /// where they cannot be read.
    pub fn read(&self, json: &str) -> Option<Place> {
        let texts: Vec<Option<String>> = serde_json::from_str(json).ok()?;
        if texts.len() != self.columns.len() {
            return None;
        }
        let value = |(column, text): (&Column, Option<String>)| {
            let Some(text) = text else { return Some(None) };
            let mut bytes = Vec::new();
            canonical_from_text(&column.pg_type, &text, &mut bytes).ok()?;
            Some(Some(bytes.into_boxed_slice()))
        };
        self.columns.iter().zip(texts).map(value).collect()
    }

    /// Which of two rows stands before the other. Only those with one key stand in one place.
    ///
    /// - Errors: that depends on a collation, on the order of labels, or on operators that are not known here.
    pub fn compare(&self, left: &Place, right: &Place) -> Result<Ordering, EvalError> {
        for (column, (left, right)) in self.columns.iter().zip(left.iter().zip(right)) {
            let ordering = match (left, right) {
                (None, None) => Ordering::Equal,
                (None, Some(_)) => Ordering::Greater,
                (Some(_), None) => Ordering::Less,
                (Some(left), Some(right)) if left == right => Ordering::Equal,
                (Some(left), Some(right)) => match column.compare {
                    Some(compare) => compare(left, right)?,
                    None => return Err(EvalError("the order of two values is not known here")),
                },
            };
            if ordering != Ordering::Equal {
                return Ok(if column.descending { ordering.reverse() } else { ordering });
            }
        }
        Ok(Ordering::Equal)
    }
}
