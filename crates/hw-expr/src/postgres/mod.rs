//! Expressions of Postgres over a row and who asks, with Postgres's own values and three-valued logic: what
//! policies say, and filters.
//!
//! In: an SQL text and what its names mean ([`Names`]). Out: a [`Condition`] that gives for every row and
//! principal what Postgres gives, or a [`Refusal`] with the expression and the reason. Nothing is
//! approximated: an operator without an entry in the table of `operators` is refused, and the caller asks
//! Postgres.
//!
//! The language of sync configurations is another one, with SQLite's values and a NOT of its own
//! ([`crate::sync_config`]); the two share no operator, because a policy that goes through two-valued
//! logic shows rows that Postgres hides.

mod bind;
mod calls;
mod compare;
mod json;
mod operators;
mod reads;
mod select;
mod tree;
mod types;

pub use crate::error::EvalError;
pub use tree::{Frame, Principal};
pub use types::{Datum, Scalar, Type};

use hw_types::row::RowRef;
use std::collections::BTreeSet;
use tree::Expr;

/// What the names in a text mean. Those that are not qualified are looked for in `path`, schema by schema;
/// what is not known here is an `Err` with the reason.
pub trait Names {
    /// A table that a sub-select reads, and what of it the role `viewer` may see; `None` is the role that
    /// asks.
    fn table(&self, path: &[String], name: &str, viewer: Option<&str>) -> Result<Table, String>;

    /// A function of the database that takes these arguments.
    fn function(&self, path: &[String], name: &str, arguments: &[Type]) -> Result<Helper, String>;

    /// A type of the database.
    fn named_type(&self, path: &[String], name: &str) -> Option<Type>;

    /// The canonical bytes of a literal: of a text that the type's output function may have printed.
    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>>;
}

/// Every comparison, operator, function and cast (`::`) that is known: its name, what it takes, what it
/// returns. Enums are compared with themselves, too.
pub fn operators() -> Vec<(&'static str, Vec<Type>, Type)> {
    operators::all()
}

/// A table as one role sees it.
#[derive(Clone, Debug)]
pub struct Table {
    /// Names its rows ([`Tables`]).
    pub number: u32,
    /// Schema and name.
    pub name: (String, String),
    /// Its columns in the order of its rows. One whose collation is not deterministic must be given as
    /// [`Type::Other`]: equal texts may differ in bytes.
    pub columns: Vec<(String, Type)>,
    /// Which rows of it there are for the role.
    pub visible: Visible,
}

/// Which rows of a table a role sees.
#[derive(Clone, Debug)]
pub enum Visible {
    /// All: no row security applies.
    All,
    /// Those that one of the permissive policies admits, and all of the restrictive ones; each as
    /// `pg_get_expr` prints it. Without a permissive one it is none.
    Where {
        /// `USING` of permissive policies.
        permissive: Vec<String>,
        /// `USING` of restrictive policies.
        restrictive: Vec<String>,
    },
}

/// Where sub-selects find rows.
pub trait Tables {
    /// Shows every row of a table, until `visit` says false.
    fn each(
        &self,
        table: u32,
        visit: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError>;
}

/// A function of the database that computes one expression.
#[derive(Clone, Debug)]
pub struct Helper {
    /// Names, where they have some, and types.
    pub parameters: Vec<(Option<String>, Type)>,
    /// The type of what it returns.
    pub result: Type,
    /// `SELECT` and the expression.
    pub body: String,
    /// Where names of the body that are not qualified are looked for.
    pub path: Vec<String>,
    /// Whether it is NULL as soon as an argument is.
    pub strict: bool,
    /// The owner, if it runs as its owner (SECURITY DEFINER).
    pub owner: Option<String>,
}

/// Why a text is not evaluated here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expression}: {reason}")]
pub struct Refusal {
    /// The part of the text that is the reason.
    pub expression: String,
    /// What about it.
    pub reason: String,
}

/// A condition over a row and who asks.
#[derive(Clone)]
pub struct Condition(Expr);

impl Condition {
    /// Reads a condition over the rows of a table.
    ///
    /// - Takes: one expression, as `pg_get_expr` prints it under an empty search path or as somebody wrote
    ///   it.
    pub fn read(text: &str, table: &Table, names: &dyn Names) -> Result<Condition, Refusal> {
        bind::condition(text, table, names).map(Condition)
    }

    /// What the role that asks may see of a table ([`Table::visible`]).
    pub fn of_visibility(table: &Table, names: &dyn Names) -> Result<Condition, Refusal> {
        bind::visibility(table, names).map(Condition)
    }

    /// Its value: `None` is NULL, which admits nothing.
    ///
    /// - Errors: Postgres would fail, too, or the value is not known here. That admits nothing either.
    pub fn holds(&self, frame: Frame<'_>) -> Result<Option<bool>, EvalError> {
        self.0.holds(frame)
    }

    /// The numbers of the tables that its sub-selects read.
    pub fn tables(&self) -> BTreeSet<u32> {
        let mut tables = BTreeSet::new();
        self.0.visit(&mut |expr| {
            if let Expr::Exists(select) | Expr::In(_, _, select) | Expr::Only(select) = expr {
                tables.extend(select.tables.iter().map(|(number, _)| *number));
            }
        });
        tables
    }
}
