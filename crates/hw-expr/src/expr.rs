//! The one typed tree for both languages of the sync configuration (bucket definitions and streams),
//! over SQLite's values, and its evaluator.
//!
//! Differences between dialects end in the front end: the tree says exactly which routine is
//! meant (`->>` with or without the fixed paths, `!=` or NOT of `=`). `R` is what a leaf refers
//! to: a column by name while compiling, a column by index when bound to a table, a value of the
//! request. Evaluation is pure.

use crate::error::EvalError;
use crate::routines::{Routine, TypeSet};
use crate::value::SqlValue;
use smallvec::SmallVec;
use std::fmt::{Display, Write};

/// An expression over references of type `R`.
#[derive(Clone, Debug)]
pub enum Expr<R> {
    /// A constant.
    Literal(SqlValue<'static>),
    /// Something from outside: a column, an element, a value of the request.
    Ref(R),
    /// 1 unless the value is true; NULL is not true, so NOT NULL is 1 (`sync-rules.md` 6.2).
    Not(Box<Expr<R>>),
    /// 1 or 0; the right side is not evaluated behind a false left side.
    And(Box<Expr<R>>, Box<Expr<R>>),
    /// 1 or 0; the right side is not evaluated behind a true left side.
    Or(Box<Expr<R>>, Box<Expr<R>>),
    /// The value of the first true condition, else the last, else NULL.
    Case(Vec<(Expr<R>, Expr<R>)>, Option<Box<Expr<R>>>),
    /// An operator, cast or function of the table in [`crate::routines`].
    Call(&'static Routine, Vec<Expr<R>>),
}

/// Where the leaves of an expression get their values.
pub trait Scope<'v, R> {
    /// The value of a leaf.
    fn value(&self, reference: &R) -> Result<SqlValue<'v>, EvalError>;
}

/// A scope without references, for constants.
pub struct NoScope;

impl<'v, R> Scope<'v, R> for NoScope {
    fn value(&self, _: &R) -> Result<SqlValue<'v>, EvalError> {
        Err(EvalError("this expression is not a constant"))
    }
}

impl<R> Expr<R> {
    /// An integer 1 or 0.
    pub fn boolean(value: bool) -> Expr<R> {
        Expr::Literal(SqlValue::boolean(value))
    }

    /// The value for the leaves of `scope`.
    pub fn evaluate<'v>(
        &'v self,
        scope: &(impl Scope<'v, R> + ?Sized),
    ) -> Result<SqlValue<'v>, EvalError> {
        match self {
            Expr::Literal(value) => Ok(value.borrow()),
            Expr::Ref(reference) => scope.value(reference),
            Expr::Not(inner) => Ok(SqlValue::boolean(!inner.holds(scope)?)),
            Expr::And(left, right) => {
                Ok(SqlValue::boolean(left.holds(scope)? && right.holds(scope)?))
            }
            Expr::Or(left, right) => {
                Ok(SqlValue::boolean(left.holds(scope)? || right.holds(scope)?))
            }
            Expr::Case(whens, otherwise) => {
                for (when, then) in whens {
                    if when.holds(scope)? {
                        return then.evaluate(scope);
                    }
                }
                otherwise.as_ref().map_or(Ok(SqlValue::Null), |e| e.evaluate(scope))
            }
            Expr::Call(routine, args) => {
                let mut values: SmallVec<[SqlValue<'v>; 3]> = SmallVec::new();
                for arg in args {
                    values.push(arg.evaluate(scope)?);
                }
                routine.call(&mut values)
            }
        }
    }

    /// Whether the value is true.
    pub fn holds<'v>(&'v self, scope: &(impl Scope<'v, R> + ?Sized)) -> Result<bool, EvalError> {
        match self {
            Expr::Not(inner) => Ok(!inner.holds(scope)?),
            Expr::And(left, right) => Ok(left.holds(scope)? && right.holds(scope)?),
            Expr::Or(left, right) => Ok(left.holds(scope)? || right.holds(scope)?),
            other => Ok(other.evaluate(scope)?.truth()),
        }
    }

    /// The same tree over other references; the first `Err` of a leaf ends it.
    pub fn try_map<S, E>(
        &self,
        leaf: &mut impl FnMut(&R) -> Result<Expr<S>, E>,
    ) -> Result<Expr<S>, E> {
        Ok(match self {
            Expr::Literal(value) => Expr::Literal(value.clone()),
            Expr::Ref(reference) => leaf(reference)?,
            Expr::Not(inner) => Expr::Not(Box::new(inner.try_map(leaf)?)),
            Expr::And(left, right) => {
                Expr::And(Box::new(left.try_map(leaf)?), Box::new(right.try_map(leaf)?))
            }
            Expr::Or(left, right) => {
                Expr::Or(Box::new(left.try_map(leaf)?), Box::new(right.try_map(leaf)?))
            }
            Expr::Case(whens, otherwise) => Expr::Case(
                whens
                    .iter()
                    .map(|(when, then)| Ok((when.try_map(leaf)?, then.try_map(leaf)?)))
                    .collect::<Result<_, E>>()?,
                match otherwise {
                    Some(e) => Some(Box::new(e.try_map(leaf)?)),
                    None => None,
                },
            ),
            Expr::Call(routine, args) => Expr::Call(
                routine,
                args.iter().map(|arg| arg.try_map(leaf)).collect::<Result<_, E>>()?,
            ),
        })
    }

    /// The same tree over other references.
    pub fn map<S>(&self, leaf: &mut impl FnMut(&R) -> Expr<S>) -> Expr<S> {
        let mapped: Result<_, std::convert::Infallible> = self.try_map(&mut |r| Ok(leaf(r)));
        match mapped {
            Ok(expr) => expr,
            Err(never) => match never {},
        }
    }

    /// Visits every reference, left to right.
    pub fn visit(&self, leaf: &mut impl FnMut(&R)) {
        match self {
            Expr::Literal(_) => {}
            Expr::Ref(reference) => leaf(reference),
            Expr::Not(inner) => inner.visit(leaf),
            Expr::And(left, right) | Expr::Or(left, right) => {
                left.visit(leaf);
                right.visit(leaf);
            }
            Expr::Case(whens, otherwise) => {
                for (when, then) in whens {
                    when.visit(leaf);
                    then.visit(leaf);
                }
                if let Some(e) = otherwise {
                    e.visit(leaf);
                }
            }
            Expr::Call(_, args) => args.iter().for_each(|arg| arg.visit(leaf)),
        }
    }

    /// Whether no reference is in it.
    pub fn is_constant(&self) -> bool {
        let mut constant = true;
        self.visit(&mut |_| constant = false);
        constant
    }

    /// The classes that the value may have (`sync-rules.md` 16).
    pub fn types(&self, leaf: &impl Fn(&R) -> TypeSet) -> TypeSet {
        match self {
            Expr::Literal(value) => TypeSet::of(value),
            Expr::Ref(reference) => leaf(reference),
            Expr::Not(_) | Expr::And(..) | Expr::Or(..) => TypeSet::INTEGER,
            Expr::Case(whens, otherwise) => whens
                .iter()
                .map(|(_, then)| then.types(leaf))
                .chain(otherwise.iter().map(|e| e.types(leaf)))
                .fold(TypeSet::NONE, TypeSet::union),
            Expr::Call(routine, args) => {
                let args: Vec<TypeSet> = args.iter().map(|arg| arg.types(leaf)).collect();
                routine.types(&args)
            }
        }
    }
}

impl<R: Display> Expr<R> {
    /// Appends an unambiguous text of the tree: two expressions mean the same if their texts are
    /// equal. Goes into fingerprints, so it may change only with `EVALUATOR_VERSION`.
    pub fn write_canonical(&self, out: &mut String) {
        match self {
            Expr::Literal(value) => match value {
                SqlValue::Null => out.push_str("null"),
                SqlValue::Integer(value) => {
                    let _ = write!(out, "i{value}");
                }
                SqlValue::Real(value) => {
                    let _ = write!(out, "r{:016x}", value.to_bits());
                }
                SqlValue::Text(text) => crate::json::write_string(text, out),
                SqlValue::Blob(bytes) => {
                    let _ = write!(out, "b{bytes:02x?}");
                }
            },
            Expr::Ref(reference) => {
                let _ = write!(out, "{reference}");
            }
            Expr::Not(inner) => list(out, "not", [&**inner]),
            Expr::And(left, right) => list(out, "and", [&**left, right]),
            Expr::Or(left, right) => list(out, "or", [&**left, right]),
            Expr::Case(whens, otherwise) => {
                out.push_str("case(");
                for (when, then) in whens {
                    when.write_canonical(out);
                    out.push(':');
                    then.write_canonical(out);
                    out.push(';');
                }
                if let Some(e) = otherwise {
                    e.write_canonical(out);
                }
                out.push(')');
            }
            Expr::Call(routine, args) => list(out, routine.key, args),
        }
    }

    /// [`Expr::write_canonical`] as a new text.
    pub fn canonical(&self) -> String {
        let mut out = String::new();
        self.write_canonical(&mut out);
        out
    }
}

fn list<'a, R: Display + 'a>(
    out: &mut String,
    name: &str,
    args: impl IntoIterator<Item = &'a Expr<R>>,
) {
    out.push_str(name);
    out.push('(');
    for (i, arg) in args.into_iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        arg.write_canonical(out);
    }
    out.push(')');
}
