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
mod tree;
mod types;

pub use tree::{Frame, Principal};
pub use types::{Datum, Scalar, Type};

use crate::error::EvalError;
use tree::Expr;

/// What the names in a text mean.
pub trait Names {
    /// A column of the table: its place in rows, and its type.
    ///
    /// - Takes: the name before the dot, if there is one.
    /// - Returns: `None` where there is no such column, or no such table in reach. A column whose
    ///   collation is not deterministic must be given as [`Type::Other`]: equal texts may differ in bytes.
    fn column(&self, table: Option<&str>, name: &str) -> Option<(usize, Type)>;

    /// A function of the database that takes these arguments.
    fn function(&self, schema: Option<&str>, name: &str, arguments: &[Type]) -> Option<Helper>;

    /// A type of the database.
    fn named_type(&self, schema: Option<&str>, name: &str) -> Option<Type>;

    /// The canonical bytes of a literal: of a text that the type's output function may have printed.
    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>>;
}

/// Every comparison, operator, function and cast (`::`) that is known: its name, what it takes, what it
/// returns. Enums are compared with themselves, too.
pub fn operators() -> Vec<(&'static str, Vec<Type>, Type)> {
    operators::all()
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
    /// Whether it is NULL as soon as an argument is.
    pub strict: bool,
    /// Whether it runs as its owner (SECURITY DEFINER).
    pub as_owner: bool,
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
    /// Reads a condition.
    ///
    /// - Takes: one expression, as `pg_get_expr` prints it under an empty search path or as somebody wrote
    ///   it.
    pub fn read(text: &str, names: &dyn Names) -> Result<Condition, Refusal> {
        bind::condition(text, names).map(Condition)
    }

    /// Its value: `None` is NULL, which admits nothing.
    ///
    /// - Errors: Postgres would fail, too, or the value is not known here. That admits nothing either.
    pub fn holds(&self, frame: Frame<'_>) -> Result<Option<bool>, EvalError> {
        self.0.holds(frame)
    }

    /// Whether the row plays no part in it: it is true or false for a principal.
    pub fn is_of_principal(&self) -> bool {
        self.0.is_of_principal()
    }
}
