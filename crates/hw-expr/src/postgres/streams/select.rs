//! Sub-selects: `value IN (SELECT column FROM … WHERE …)` is all that the sync language has of them, and what
//! every EXISTS, IN and `= (SELECT …)` that it can follow becomes.
//!
//! The value is one side of an equality by which the sub-select is connected with what stands around it: another
//! row, or who asks. Every further table of the sub-select must be connected by an equality, too: the sync
//! language takes no notice of a table that is compared with nothing, where Postgres asks whether it has rows.

use super::super::cover;
use super::super::select::Select;
use super::super::tree::Expr;
use super::text::{self, Cond};
use super::value::{Form, Side, equal, pair};
use super::{Mode, Shape, Unstreamable, Writer, refuse};
use std::collections::BTreeSet;

/// Something that must hold within a sub-select.
#[derive(Clone, Copy)]
enum Part<'e> {
    Holds(&'e Expr),
    Equal(&'e Expr, &'e Expr),
}

impl<'e> Part<'e> {
    fn sides(self) -> Option<(&'e Expr, &'e Expr)> {
        match self {
            Part::Holds(expr) => cover::equality(expr),
            Part::Equal(left, right) => Some((left, right)),
        }
    }
}

/// What an expression reads.
#[derive(Default)]
struct Reads {
    rows: BTreeSet<usize>,
    request: bool,
    selects: bool,
}

impl Reads {
    fn of(expr: &Expr) -> Reads {
        let mut reads = Reads::default();
        expr.visit(&mut |part| match part {
            Expr::Column { row, .. } => {
                reads.rows.insert(*row);
            }
            Expr::Setting(..) => reads.request = true,
            Expr::Exists(_) | Expr::In(..) | Expr::Only(_) => reads.selects = true,
            _ => {}
        });
        reads
    }

    /// Whether it is of one of the rows behind those around.
    fn inner(&self, around: usize) -> Option<usize> {
        let mut rows = self.rows.iter();
        match (rows.next(), rows.next()) {
            (Some(row), None) if *row >= around && !self.request && !self.selects => Some(*row),
            _ => None,
        }
    }

    /// Whether it is known before the sub-select is.
    fn is_outer(&self, around: usize) -> bool {
        let is_something = self.request || !self.rows.is_empty();
        is_something && !self.selects && self.rows.iter().all(|row| *row < around)
    }
}

impl Writer<'_> {
    /// That a sub-select has a row, whose output is equal to `given`, and of which `holds` is true.
    pub(super) fn exists(
        &mut self,
        select: &Select,
        given: Option<&Expr>,
        holds: Option<&Expr>,
    ) -> Result<Cond, Unstreamable> {
        let around = select.around.min(self.scopes.len());
        let mut parts = Vec::new();
        parts.extend(given.map(|given| Part::Equal(given, &select.output)));
        parts.extend(holds.map(Part::Holds));
        flatten(&select.condition, &mut parts);
        select.tables.iter().for_each(|table| flatten(&table.visible, &mut parts));

        let Some((chosen, outer, inner, first)) = needle(&parts, around) else {
            return refuse(
                "a sub-select is not connected by = with a column of the row or a value of who asks",
                "IN (SELECT …), or an equality in WHERE",
            );
        };
        check_connected(&parts, around, select.tables.len(), first)?;
        // What is deeper than it was written does not see what stands around it.
        let hidden = self.scopes.split_off(around);
        let here = self.here;
        let written = self.written(select, &parts, (chosen, outer, inner));
        self.here = here;
        self.scopes.truncate(around);
        self.scopes.extend(hidden);
        written
    }

    fn written(
        &mut self,
        select: &Select,
        parts: &[Part<'_>],
        (chosen, outer, inner): (usize, &Expr, &Expr),
    ) -> Result<Cond, Unstreamable> {
        let around = self.scopes.len();
        let needle = self.value(outer)?;
        let taken = self.taken.len();
        let mut from = Vec::with_capacity(select.tables.len());
        for table in &select.tables {
            let Some(shape) = self.shapes.shape(table.number) else {
                return refuse("it reads a table that is not known here", "another table");
            };
            from.push(self.join(shape)?);
        }
        self.here = (select.tables.len() == 1).then_some(around);
        let found = self.value(inner)?;
        let mut rest = Vec::new();
        for (_, part) in parts.iter().enumerate().filter(|(number, _)| *number != chosen) {
            rest.push(match part {
                Part::Holds(expr) => self.condition(expr, Mode::True)?,
                Part::Equal(left, right) => {
                    let (left, right) = (self.value(left)?, self.value(right)?);
                    equal(&left, &right, Mode::True)?
                }
            });
        }
        self.taken.truncate(taken);
        let is_null = |form: &Form| *form == Form::Literal(None);
        if is_null(&needle.form) || is_null(&found.form) {
            return Ok(Cond::Never);
        }
        let (value, column) = match (&needle.form, &found.form) {
            // The constant that a value of who asks is.
            (Form::Literal(_), _) => {
                return refuse(
                    "a sub-select is connected by a constant only",
                    "an equality with a column of the row or a value of who asks",
                );
            }
            _ => pair(&needle, &found)?,
        };
        let mut implied: BTreeSet<String> = BTreeSet::new();
        if needle.side == Side::Request {
            implied.extend(needle.cast);
        }
        let condition = match Cond::all(rest) {
            Cond::Never => return Ok(Cond::Never),
            Cond::Always => String::new(),
            Cond::Sql(sql) => {
                implied.extend(sql.implied);
                format!(" WHERE {}", sql.text)
            }
        };
        let from = from.join(", ");
        Ok(Cond::implying(format!("{value} IN (SELECT {column} FROM {from}{condition})"), implied))
    }

    /// Adds a table to those that can be named.
    ///
    /// - Returns: how it stands in FROM.
    fn join(&mut self, shape: Shape) -> Result<String, Unstreamable> {
        let own = shape.name.1.clone();
        let is_taken = |alias: &String| self.taken.contains(&alias.to_lowercase());
        let numbered = (2..).map(|number| format!("{own}_{number}"));
        let alias = [own.clone()].into_iter().chain(numbered).find(|alias| !is_taken(alias));
        let alias = alias.unwrap_or_else(|| own.clone());
        let table = text::table(&shape.name)?;
        let from = match alias == own {
            true => table,
            false => format!("{table} AS {}", text::name(&alias)?),
        };
        self.enter(shape, alias);
        Ok(from)
    }

    /// That a sub-select has one row at most: with several Postgres fails.
    pub(super) fn single(&self, select: &Select) -> Result<(), Unstreamable> {
        let refused = || {
            refuse(
                "a sub-select in the place of a value may have several rows, for which Postgres fails",
                "IN (SELECT …), or an equality with all columns of a unique key",
            )
        };
        let [table] = &select.tables[..] else { return refused() };
        let Some(shape) = self.shapes.shape(table.number) else { return refused() };
        let mut parts = Vec::new();
        flatten(&select.condition, &mut parts);
        let mut fixed = BTreeSet::new();
        for (left, right) in parts.iter().filter_map(|part| part.sides()) {
            for (side, other) in [(left, right), (right, left)] {
                if let Expr::Column { row, index } = side
                    && *row == select.around
                    && !Reads::of(other).rows.contains(row)
                {
                    fixed.insert(*index);
                }
            }
        }
        match shape.keys.iter().any(|key| key.iter().all(|column| fixed.contains(column))) {
            true => Ok(()),
            false => refused(),
        }
    }
}

fn flatten<'e>(expr: &'e Expr, parts: &mut Vec<Part<'e>>) {
    match expr {
        Expr::And(all) => all.iter().for_each(|one| flatten(one, parts)),
        // One policy alone.
        Expr::Or(all) if all.len() == 1 => flatten(&all[0], parts),
        Expr::Bool(true) => {}
        other => parts.push(Part::Holds(other)),
    }
}

/// The equality by which a sub-select is found: its number, what is known, what is looked for, and of which row
/// that is. One with a row comes before one with who asks.
fn needle<'e>(parts: &[Part<'e>], around: usize) -> Option<(usize, &'e Expr, &'e Expr, usize)> {
    let mut best = None;
    for (number, part) in parts.iter().enumerate() {
        let Some((left, right)) = part.sides() else { continue };
        for (outer, inner) in [(left, right), (right, left)] {
            let reads = Reads::of(outer);
            let Some(row) = Reads::of(inner).inner(around).filter(|_| reads.is_outer(around))
            else {
                continue;
            };
            if !reads.rows.is_empty() {
                return Some((number, outer, inner, row));
            }
            best = best.or(Some((number, outer, inner, row)));
        }
    }
    best
}

/// That every table of a sub-select is connected with the first that is found, or with what is known.
fn check_connected(
    parts: &[Part<'_>],
    around: usize,
    tables: usize,
    first: usize,
) -> Result<(), Unstreamable> {
    let mut connected = BTreeSet::from([first]);
    loop {
        let before = connected.len();
        for (left, right) in parts.iter().filter_map(|part| part.sides()) {
            for (one, other) in [(left, right), (right, left)] {
                let Some(row) = Reads::of(one).inner(around) else { continue };
                let other = Reads::of(other);
                let by = other.inner(around).is_some_and(|row| connected.contains(&row));
                if by || other.is_outer(around) {
                    connected.insert(row);
                }
            }
        }
        if connected.len() == tables {
            return Ok(());
        }
        if connected.len() == before {
            return refuse(
                "a table of a sub-select is not connected by = with the others",
                "a join by equality",
            );
        }
    }
}
