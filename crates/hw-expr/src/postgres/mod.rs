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
mod cover;
mod json;
mod jsonb;
mod operators;
mod reads;
mod render;
mod select;
mod streams;
mod tree;
mod types;

pub use crate::error::EvalError;
pub use compare::{Compare, order_of};
pub use cover::Cover;
pub use render::{JsonOfDatabase, RowJson, to_jsonb};
pub use streams::{
    Clients, Shape, Shapes, StreamQuery, Unstreamable, stream_queries, written_name,
};
pub use tree::{Frame, Principal};
pub use types::{Datum, Scalar, Type};

use hw_types::row::RowRef;
use std::collections::BTreeSet;
use tree::Expr;

/// Where a name is looked for.
#[derive(Clone, Debug)]
pub struct Lookup {
    /// The schemas, in order: one where the name is qualified, else the search path.
    pub schemas: Vec<String>,
    /// Whether the name stands in the body of a function: then it is resolved when that runs, under the
    /// rights of the role.
    pub in_body: bool,
    /// The role as which it is resolved.
    pub role: String,
}

/// What the names in a text mean. What is not known here is an `Err` with the reason; so is whatever could
/// mean several things, because Postgres chooses among them by rules that are not followed here.
pub trait Names: Sync {
    /// The role that asks.
    fn role(&self) -> &str;

    /// The search path of its session, `$user` as it is written.
    fn search_path(&self) -> &[String];

    /// A table that a sub-select reads, and what of it the role may see.
    fn table(&self, lookup: &Lookup, name: &str) -> Result<Table, Unseen>;

    /// A function of the database that takes these arguments.
    fn function(&self, lookup: &Lookup, name: &str, arguments: &[Type]) -> Result<Helper, Unseen>;

    /// Whether the database has a function of this name there, or an operator over types whose values are known
    /// here: it could be meant in the place of a built-in one.
    fn is_shadowed(&self, lookup: &Lookup, name: &str) -> bool;

    /// Whether the database has an operator `=` of its own over such types, in any schema.
    fn has_equality(&self) -> bool;

    /// Whether the database has casts of its own between types of Postgres's own.
    fn has_casts(&self) -> bool;

    /// A type of the database.
    fn named_type(&self, lookup: &Lookup, name: &str) -> Option<Type>;

    /// The canonical bytes of a text, if the type's output function would print it so.
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

    /// The same for rows that have one of these values, at least; of each the column, by index, and the
    /// value.
    fn each_having(
        &self,
        table: u32,
        keys: &[(usize, Vec<u8>)],
        visit: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        let _ = keys;
        self.each(table, visit)
    }
}

/// A function of the database that computes one expression.
#[derive(Clone, Debug)]
pub struct Helper {
    /// Names, where they have some, and types.
    pub parameters: Vec<(Option<String>, Type)>,
    /// The type of what it returns.
    pub result: Type,
    /// Whether it returns rows of that type, those of its body.
    pub returns_set: bool,
    /// Expressions of the last parameters, for those that a call leaves out.
    pub defaults: Vec<String>,
    /// `SELECT` and the expression, or the whole SELECT.
    pub body: String,
    /// Its own search path; without one, that of whoever calls it holds.
    pub path: Option<Vec<String>>,
    /// Whether it is NULL as soon as an argument is.
    pub strict: bool,
    /// The owner, if it runs as its owner (SECURITY DEFINER).
    pub owner: Option<String>,
}

/// Why what is named is not told to a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Unseen {
    /// It may not read or call it: Postgres fails.
    NotAllowed(String),
    /// What it is, or what the role sees of it, is not known here.
    Unknown(String),
}

impl Unseen {
    /// The reason in words.
    pub fn reason(self) -> String {
        match self {
            Unseen::NotAllowed(reason) | Unseen::Unknown(reason) => reason,
        }
    }
}

impl From<String> for Unseen {
    fn from(reason: String) -> Unseen {
        Unseen::Unknown(reason)
    }
}

impl From<&str> for Unseen {
    fn from(reason: &str) -> Unseen {
        Unseen::Unknown(reason.to_owned())
    }
}

/// Why a text is not evaluated here.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{expression}: {reason}")]
pub struct Refusal {
    /// The part of the text that is the reason.
    pub expression: String,
    /// What about it.
    pub reason: String,
    /// Whether Postgres fails with it, whatever the row. If not, it only is not known here.
    pub fails: bool,
}

/// A condition over a row and who asks.
#[derive(Clone)]
pub struct Condition(Expr);

impl Condition {
    /// Reads a condition over the rows of a table.
    ///
    /// - Takes: one expression, as `pg_get_expr` prints it under an empty search path or as somebody wrote
    ///   it. `$1` in it is the setting of that name of whoever asks, a text.
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
                tables.extend(select.tables.iter().map(|table| table.number));
            }
        });
        tables
    }
}
