//! Policies as queries of sync streams: from conditions of Postgres to the sync language.
//!
//! In: what a policy says ([`Condition`]), and what the tables are called ([`Shapes`]). Out: a SELECT of the
//! sync language (`crate::sync_config`) that gives a client exactly the rows that the policy admits, or why there
//! is none and which form would have one.
//!
//! The two languages differ: the sync language has SQLite's values and a NOT that takes NULL for false, sees
//! claims as JSON values, and connects rows with requests by equality alone. So a condition is written for the
//! truth that is asked of it ([`Mode`]), in forms that mean the same in both languages for every value; what has no
//! such form is refused. Where a claim makes Postgres fail (a `sub` that is no UUID), a query that would not
//! notice is given a guard, and shows nothing.

mod select;
mod text;
mod value;

use super::compare::Comparison;
use super::operators::{COMPARISONS, Operation};
use super::tree::{Expr, Frame, Principal};
use super::types::{Scalar, Type};
use super::{Condition, Tables, cover};
use crate::error::EvalError;
use hw_types::row::RowRef;
use std::cmp::Ordering;
use std::collections::{BTreeMap, BTreeSet};
use text::{Cond, Sql};
use value::Form;

/// A table that queries read.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Schema and name.
    pub name: (String, String),
    /// Its columns in the order of its rows.
    pub columns: Vec<(String, Type)>,
    /// Columns, by index, of which no two rows have the same values, none of them NULL.
    pub keys: Vec<Vec<usize>>,
}

/// What tables are called.
pub trait Shapes {
    /// The table of this number ([`super::Table::number`]).
    fn shape(&self, table: u32) -> Option<Shape>;

    /// The labels of an enum, by the oid of its type.
    fn labels(&self, enumeration: u32) -> Vec<String>;
}

/// The clients that queries are for.
#[derive(Clone, Debug)]
pub struct Clients {
    /// The database role whose policies they are under.
    pub role: String,
    /// What a token's claim `role` may be, beside the role itself; without the claim it is a client of the role,
    /// too.
    pub also_claimed: Vec<String>,
}

impl Clients {
    /// What is true of a request of theirs.
    fn filter(&self) -> Cond {
        let mut names = vec![self.role.clone()];
        names.extend(self.also_claimed.iter().filter(|name| **name != self.role).cloned());
        let names: Vec<String> = names.iter().map(|name| text::literal(name)).collect();
        let claim = format!("ifnull(auth.parameter('role'), {})", names[0]);
        Cond::term(match &names[..] {
            [name] => format!("{claim} = {name}"),
            names => format!("{claim} IN ARRAY[{}]", names.join(", ")),
        })
    }
}

/// Why a policy has no query.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{reason}; {instead} would work")]
pub struct Unstreamable {
    /// What about it.
    pub reason: String,
    /// What would work.
    pub instead: String,
    /// Whether Postgres fails with it, whatever the row.
    pub fails: bool,
}

impl Unstreamable {
    /// With both texts.
    pub fn new(reason: impl Into<String>, instead: impl Into<String>) -> Unstreamable {
        Unstreamable { reason: reason.into(), instead: instead.into(), fails: false }
    }
}

fn refuse<T>(reason: impl Into<String>, instead: impl Into<String>) -> Result<T, Unstreamable> {
    Err(Unstreamable::new(reason, instead))
}

/// A query, none where nobody is admitted, or why there is no query.
pub type StreamQuery = Result<Option<String>, Unstreamable>;

/// The queries of a stream that give clients the rows of a table that policies show them: one for each that
/// admits.
///
/// - Takes: the conditions of policies that admit, and of those that restrict, over rows of the same table; the
///   table; what stands behind SELECT, and what the table is called on clients.
/// - Errors: a restrictive one has no form.
pub fn stream_queries(
    permissive: &[Condition],
    restrictive: &[Condition],
    shape: &Shape,
    (columns, alias): (&str, &str),
    clients: &Clients,
    shapes: &dyn Shapes,
) -> Result<Vec<StreamQuery>, Unstreamable> {
    let mut writer = Writer {
        shapes,
        clients,
        scopes: Vec::new(),
        here: Some(0),
        taken: Vec::new(),
        guards: BTreeMap::new(),
        calls: 0,
    };
    writer.enter(shape.clone(), alias.to_owned());
    let mut restricts = Vec::with_capacity(restrictive.len());
    for condition in restrictive {
        writer.calls = 0;
        restricts.push(writer.condition(&condition.0, Mode::True)?);
    }
    let mut admits = Vec::with_capacity(permissive.len());
    for condition in permissive {
        writer.calls = 0;
        admits.push(writer.condition(&condition.0, Mode::True));
        // What was refused within a sub-select is left there.
        writer.scopes.truncate(1);
        writer.taken.truncate(1);
        writer.here = Some(0);
    }
    let from = text::table(&shape.name)?;
    let from = match shape.name.1 == alias {
        true => from,
        false => format!("{from} AS {}", text::name(alias)?),
    };
    let query = |admits: Cond| -> StreamQuery {
        let mut parts = vec![admits];
        parts.extend(restricts.iter().cloned());
        let condition = Cond::all(parts);
        let implied = match &condition {
            Cond::Never => return Ok(None),
            Cond::Always => BTreeSet::new(),
            Cond::Sql(Sql { implied, .. }) => implied.clone(),
        };
        let mut all = vec![condition];
        // Postgres asks all policies: where one of them fails there is nothing.
        let guards = writer.guards.iter().filter(|(cast, _)| !implied.contains(*cast));
        all.extend(guards.map(|(_, guard)| Cond::term(guard)));
        all.push(clients.filter());
        match Cond::all(all) {
            Cond::Sql(Sql { text, .. }) if text.len() > MAX_TEXT => too_long(),
            Cond::Sql(Sql { text, .. }) => {
                Ok(Some(format!("SELECT {columns} FROM {from} WHERE {text}")))
            }
            Cond::Always | Cond::Never => Ok(None),
        }
    };
    Ok(admits.into_iter().map(|admits| admits.and_then(query)).collect())
}

/// A name as the sync language writes it.
///
/// - Errors: it cannot.
pub fn written_name(name: &str) -> Result<String, Unstreamable> {
    text::name(name)
}

/// Which truth of a condition is written. NULL is neither true nor false.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Mode {
    True,
    False,
    NotTrue,
    NotFalse,
}

impl Mode {
    fn of(self, value: Option<bool>) -> bool {
        match self {
            Mode::True => value == Some(true),
            Mode::False => value == Some(false),
            Mode::NotTrue => value != Some(true),
            Mode::NotFalse => value != Some(false),
        }
    }

    /// The one of NOT.
    fn of_not(self) -> Mode {
        match self {
            Mode::True => Mode::False,
            Mode::False => Mode::True,
            Mode::NotTrue => Mode::NotFalse,
            Mode::NotFalse => Mode::NotTrue,
        }
    }
}

/// A table whose row can be named.
struct Scope {
    /// By which name.
    alias: String,
    shape: Shape,
}

/// Writes conditions of one query.
struct Writer<'a> {
    shapes: &'a dyn Shapes,
    clients: &'a Clients,
    /// The tables around what is being written: the place of one is that of its row in a frame.
    scopes: Vec<Scope>,
    /// The row whose columns need no name before them.
    here: Option<usize>,
    /// Names of tables around what is being written, in lower case.
    taken: Vec<String>,
    /// Casts of values of the request, with what is true where Postgres does not fail.
    guards: BTreeMap<String, String>,
    /// How many parts of a policy have been written.
    calls: usize,
}

/// How many parts of a policy are written: some forms of the sync language name what they are made of twice,
/// and within one another twice as often.
const MAX_CALLS: usize = 10_000;

/// How long a condition may be, in bytes.
const MAX_TEXT: usize = 64 << 10;

fn too_long<T>() -> Result<T, Unstreamable> {
    refuse("its query would be too long", "a simpler condition")
}

/// Rows that nobody has.
struct NoTables;

impl Tables for NoTables {
    fn each(
        &self,
        _: u32,
        _: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        Err(EvalError("a constant reads no table"))
    }
}

impl Writer<'_> {
    fn enter(&mut self, shape: Shape, alias: String) {
        self.taken.push(alias.to_lowercase());
        self.scopes.push(Scope { alias, shape });
    }

    /// Evaluates something in which there is neither a row nor a value of the request.
    fn constant<T>(
        &self,
        expr: &Expr,
        evaluate: impl FnOnce(Frame<'_>) -> Result<T, EvalError>,
    ) -> Result<Option<T>, Unstreamable> {
        let mut is_constant = true;
        expr.visit(&mut |part| {
            is_constant &= !matches!(
                part,
                Expr::Column { .. }
                    | Expr::Setting(..)
                    | Expr::Exists(_)
                    | Expr::In(..)
                    | Expr::Only(_)
            );
        });
        if !is_constant {
            return Ok(None);
        }
        let role = self.clients.role.as_str().into();
        let principal = Principal { role, ..Principal::default() };
        match evaluate(Frame { rows: &[], principal: &principal, tables: &NoTables }) {
            Ok(value) => Ok(Some(value)),
            Err(error) => Err(Unstreamable {
                fails: true,
                ..Unstreamable::new(
                    format!("Postgres fails to compute a part of it ({error})"),
                    "a condition that can be computed",
                )
            }),
        }
    }

    fn condition(&mut self, expr: &Expr, mode: Mode) -> Result<Cond, Unstreamable> {
        self.calls += 1;
        if self.calls > MAX_CALLS {
            return too_long();
        }
        match self.written_condition(expr, mode)? {
            Cond::Sql(sql) if sql.text.len() > MAX_TEXT => too_long(),
            written => Ok(written),
        }
    }

    fn written_condition(&mut self, expr: &Expr, mode: Mode) -> Result<Cond, Unstreamable> {
        if let Some(value) = self.constant(expr, |frame| expr.holds(frame))? {
            return Ok(Cond::of(mode.of(value)));
        }
        match expr {
            Expr::And(all) => {
                let parts = self.each(all, mode)?;
                Ok(match mode {
                    Mode::True | Mode::NotFalse => Cond::all(parts),
                    Mode::False | Mode::NotTrue => Cond::any(parts),
                })
            }
            Expr::Or(all) => {
                let parts = self.each(all, mode)?;
                Ok(match mode {
                    Mode::True | Mode::NotFalse => Cond::any(parts),
                    Mode::False | Mode::NotTrue => Cond::all(parts),
                })
            }
            Expr::Not(inner) => self.condition(inner, mode.of_not()),
            Expr::Is(inner, wanted) => {
                let holds = matches!(mode, Mode::True | Mode::NotFalse);
                self.condition(
                    inner,
                    match (wanted, holds) {
                        (true, true) => Mode::True,
                        (true, false) => Mode::NotTrue,
                        (false, true) => Mode::False,
                        (false, false) => Mode::NotFalse,
                    },
                )
            }
            Expr::IsNull(inner) => {
                let is_null = self.is_null(inner)?;
                Ok(match mode {
                    Mode::True | Mode::NotFalse => is_null,
                    Mode::False | Mode::NotTrue => is_null.negated(),
                })
            }
            Expr::Same(left, right, compare) => {
                if !cover::is_exact(*compare) {
                    return refuse(PADDED, "a column of type text");
                }
                self.same(left, right, mode)
            }
            Expr::Case(whens, otherwise) => self.case(whens, otherwise, mode),
            Expr::Coalesce(all) => self.first(all, mode),
            Expr::Call(Operation::Compare(comparison, holds), sides) => {
                let [left, right] = &sides[..] else {
                    return refuse("a comparison has two sides", "=");
                };
                self.compared(left, right, *comparison, *holds, mode)
            }
            Expr::Call(Operation::Run(routine), arguments) => {
                self.routine(routine, arguments, mode)
            }
            Expr::Call(Operation::Relabel, arguments) if arguments.len() == 1 => {
                self.condition(&arguments[0], mode)
            }
            Expr::Quantified { left, compare, holds, array, all } => {
                if !cover::is_exact(*compare) {
                    return refuse(PADDED, "a column of type text");
                }
                self.quantified(left, *compare, *holds, (array, *all), mode)
            }
            Expr::Exists(select) => {
                self.only_true(mode)?;
                self.exists(select, None, None)
            }
            Expr::In(left, compare, select) => {
                self.only_true(mode)?;
                if !cover::is_exact(*compare) {
                    return refuse(PADDED, "a column of type text");
                }
                self.exists(select, Some(left), None)
            }
            Expr::Only(select) => {
                self.only_true(mode)?;
                self.single(select)?;
                self.exists(select, None, Some(&select.output))
            }
            Expr::Column { .. } => {
                let value = self.value(expr)?;
                let sql = value.sql;
                Ok(Cond::term(match mode {
                    Mode::True => format!("{sql} IS TRUE"),
                    Mode::False => format!("{sql} IS FALSE"),
                    Mode::NotTrue => format!("{sql} IS NOT TRUE"),
                    Mode::NotFalse => format!("{sql} IS NOT FALSE"),
                }))
            }
            Expr::Literal(_)
            | Expr::Bool(_)
            | Expr::Setting(..)
            | Expr::Role
            | Expr::NullIf(..)
            | Expr::Array(_)
            | Expr::Call(Operation::Relabel, _) => refuse(
                "the sync language has no form of a part of it",
                "a condition of comparisons, AND, OR and NOT",
            ),
        }
    }

    fn each(&mut self, all: &[Expr], mode: Mode) -> Result<Vec<Cond>, Unstreamable> {
        all.iter().map(|one| self.condition(one, mode)).collect()
    }

    fn only_true(&self, mode: Mode) -> Result<(), Unstreamable> {
        match mode {
            Mode::True => Ok(()),
            _ => refuse(
                "that there is no row in a sub-select does not connect rows with clients",
                "a column that says so, kept by a trigger,",
            ),
        }
    }

    /// Whether a value is NULL.
    fn is_null(&mut self, expr: &Expr) -> Result<Cond, Unstreamable> {
        if let Expr::Column { row, index } = expr {
            let scope = &self.scopes[*row];
            if let (name, Type::Scalar(Scalar::Timestamp | Scalar::Timestamptz)) =
                &scope.shape.columns[*index]
            {
                return refuse(
                    format!(
                        "the sync language knows no infinite times: to it {name} is NULL where it is 'infinity'"
                    ),
                    "a boolean column beside it",
                );
            }
            let sql = self.column(*row, *index)?;
            return Ok(Cond::term(format!("{sql} IS NULL")));
        }
        if is_condition(expr) {
            return Ok(Cond::all(vec![
                self.condition(expr, Mode::NotTrue)?,
                self.condition(expr, Mode::NotFalse)?,
            ]));
        }
        let value = self.value(expr)?;
        Ok(match (&value.form, &value.null) {
            (Form::Literal(None), _) => Cond::Always,
            (Form::Literal(_), _) | (_, None) => Cond::Never,
            (_, Some(null)) => Cond::term(format!("{null} IS NULL")),
        })
    }

    /// `IS NOT DISTINCT FROM`.
    fn same(&mut self, left: &Expr, right: &Expr, mode: Mode) -> Result<Cond, Unstreamable> {
        let is_same = matches!(mode, Mode::True | Mode::NotFalse);
        let equal = self.equal(left, right, if is_same { Mode::True } else { Mode::NotTrue })?;
        let both_null = Cond::all(vec![self.is_null(left)?, self.is_null(right)?]);
        Ok(match is_same {
            true => Cond::any(vec![equal, both_null]),
            false => Cond::all(vec![equal, both_null.negated()]),
        })
    }

    fn case(
        &mut self,
        whens: &[(Expr, Expr)],
        otherwise: &Expr,
        mode: Mode,
    ) -> Result<Cond, Unstreamable> {
        let (mut ways, mut before) = (Vec::new(), Vec::new());
        let last = whens.len().saturating_sub(1);
        let otherwise = self.condition(otherwise, mode)?;
        for (number, (when, then)) in whens.iter().enumerate() {
            let mut way = before.clone();
            way.push(self.condition(when, Mode::True)?);
            way.push(self.condition(then, mode)?);
            ways.push(Cond::all(way));
            // Nothing comes of what is behind it.
            if number < last || !matches!(otherwise, Cond::Never) {
                before.push(self.condition(when, Mode::NotTrue)?);
            }
        }
        before.push(otherwise);
        ways.push(Cond::all(before));
        Ok(Cond::any(ways))
    }

    /// The first that is not NULL.
    fn first(&mut self, all: &[Expr], mode: Mode) -> Result<Cond, Unstreamable> {
        let Some((one, rest)) = all.split_first() else {
            return Ok(Cond::of(mode.of(None)));
        };
        let wanted = match mode {
            Mode::True | Mode::NotFalse => Mode::True,
            Mode::False | Mode::NotTrue => Mode::False,
        };
        let decided = self.condition(one, wanted)?;
        let behind = match self.first(rest, mode)? {
            Cond::Never => Cond::Never,
            behind => Cond::all(vec![
                self.condition(one, Mode::NotTrue)?,
                self.condition(one, Mode::NotFalse)?,
                behind,
            ]),
        };
        Ok(Cond::any(vec![decided, behind]))
    }

    fn compared(
        &mut self,
        left: &Expr,
        right: &Expr,
        comparison: Comparison,
        holds: fn(Ordering) -> bool,
        mode: Mode,
    ) -> Result<Cond, Unstreamable> {
        if !cover::is_exact(comparison.compare()) {
            return refuse(PADDED, "a column of type text");
        }
        if cover::is_equality(holds) {
            return self.equal(left, right, mode);
        }
        let found = COMPARISONS.iter().find(|(_, known)| same_holds(*known, holds));
        let Some((name, _)) = found else { return refuse("this comparison is not known", "=") };
        if *name == "<>" {
            return self.equal(left, right, mode.of_not());
        }
        let (left, right) = (self.value(left)?, self.value(right)?);
        value::together(&left, &right)?;
        value::ordered(&left, &right, name, mode)
    }

    fn equal(&mut self, left: &Expr, right: &Expr, mode: Mode) -> Result<Cond, Unstreamable> {
        for (one, other) in [(left, right), (right, left)] {
            if let Expr::Only(select) = one {
                self.only_true(mode)?;
                self.single(select)?;
                return self.exists(select, Some(other), None);
            }
        }
        if is_condition(left) || is_condition(right) {
            let both = |this: &mut Self, of: Mode, and: Mode| -> Result<Cond, Unstreamable> {
                Ok(Cond::all(vec![this.condition(left, of)?, this.condition(right, and)?]))
            };
            if mode != Mode::True && mode != Mode::False {
                return refuse(
                    "the sync language has no form of a part of it",
                    "a condition of comparisons, AND, OR and NOT",
                );
            }
            let other = |is: Mode| if mode == Mode::True { is } else { is.of_not() };
            return Ok(Cond::any(vec![
                both(self, Mode::True, other(Mode::True))?,
                both(self, Mode::False, other(Mode::False))?,
            ]));
        }
        let (left, right) = (self.value(left)?, self.value(right)?);
        value::equal(&left, &right, mode)
    }

    fn quantified(
        &mut self,
        left: &Expr,
        compare: super::compare::Compare,
        holds: fn(Ordering) -> bool,
        (array, all): (&Expr, bool),
        mode: Mode,
    ) -> Result<Cond, Unstreamable> {
        let is_equal = cover::is_equality(holds);
        if is_equal == all || !(is_equal || same_holds(holds, Ordering::is_ne)) {
            return refuse(
                "of ANY and ALL only membership is known to the sync language",
                "= ANY (…)",
            );
        }
        if let Expr::Array(elements) = array {
            let comparison = Comparison::Equality(compare);
            let parts = elements
                .iter()
                .map(|element| self.compared(left, element, comparison, holds, mode))
                .collect::<Result<Vec<_>, _>>()?;
            let any = matches!(mode, Mode::True | Mode::NotFalse) != all;
            return Ok(if any { Cond::any(parts) } else { Cond::all(parts) });
        }
        let left = self.value(left)?;
        if let Some(list) = self
            .constant(array, |frame| Ok(array.evaluate(frame)?.map(|value| value.into_owned())))?
        {
            return value::listed(&left, list.as_deref(), all, mode);
        }
        match array {
            Expr::Column { row, index } if is_equal => {
                self.only_true(mode)?;
                let ty = self.scopes[*row].shape.columns[*index].1;
                let column = self.qualified(*row, *index)?;
                value::in_column(&left, ty, &column)
            }
            _ => refuse(
                "this array is nothing that the sync language can look into",
                "a column with an array of texts, UUIDs or integers",
            ),
        }
    }

    /// A column as it is named where the text stands.
    fn column(&self, row: usize, index: usize) -> Result<String, Unstreamable> {
        match self.here == Some(row) {
            true => text::name(&self.scopes[row].shape.columns[index].0),
            false => self.qualified(row, index),
        }
    }

    fn qualified(&self, row: usize, index: usize) -> Result<String, Unstreamable> {
        let scope = &self.scopes[row];
        let column = text::name(&scope.shape.columns[index].0)?;
        Ok(format!("{}.{column}", text::name(&scope.alias)?))
    }
}

const PADDED: &str = "values of type character are compared without their padding";

/// Whether something is true or false by its form; a column may be, too.
fn is_condition(expr: &Expr) -> bool {
    match expr {
        Expr::And(_)
        | Expr::Or(_)
        | Expr::Not(_)
        | Expr::IsNull(_)
        | Expr::Is(..)
        | Expr::Same(..)
        | Expr::Quantified { .. }
        | Expr::Bool(_)
        | Expr::Exists(_)
        | Expr::In(..)
        | Expr::Call(Operation::Compare(..), _) => true,
        Expr::Call(Operation::Run(routine), _) => routine.result == super::operators::BOOL,
        _ => false,
    }
}

/// Whether two comparisons are the same.
fn same_holds(one: fn(Ordering) -> bool, other: fn(Ordering) -> bool) -> bool {
    let all = [Ordering::Less, Ordering::Equal, Ordering::Greater];
    all.into_iter().all(|order| one(order) == other(order))
}
