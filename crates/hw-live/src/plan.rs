//! A query and the policies over its table as conditions: whether a row is in a result is then computed from the
//! row, who asks, and the tables that policies read beside it, and nobody is asked (tiers 1 and 2 of
//! `design/engine.md` 11).

use crate::lookups::{Lookups, has_columns};
use crate::query::{Change, Question};
use crate::rendering::{Moved, Rendering};
use crate::result::Held;
use hw_engine::{ChangedRow, Committed, Rows, StoredRow};
use hw_expr::postgres::{Condition, Cover, EvalError, Frame, Principal, Table};
use hw_types::{Relation, Row};
use std::sync::Arc;

/// How rows become part of one result.
pub(crate) struct Plan {
    visible: Arc<Condition>,
    filter: Option<Arc<Condition>>,
    principal: Principal,
    /// What rows in the result have.
    pub cover: Cover,
    /// What rows of other tables have that decide who sees it, by their oids. When one of them changes, it is
    /// asked, and the plan is made anew.
    pub inner: Box<[(u32, Cover)]>,
    rendering: Arc<Rendering>,
    /// Whether it is enough to know which rows match: what is told of them is known here, and, where only the first
    /// ones are in the result, mostly also which those are.
    pub is_complete: bool,
}

/// Conditions of the policies of a table, and of a filter.
pub(crate) struct Conditions {
    pub table: Table,
    pub visible: Arc<Condition>,
    pub filter: Option<Arc<Condition>>,
    /// The tables that policies read beside the table itself.
    pub inner: Arc<[Table]>,
}

/// What a row that may be in a result is behind a transaction.
struct State<'r> {
    row: &'r ChangedRow,
    /// It was in the result, and is.
    was: bool,
    is: bool,
}

impl Plan {
    /// Makes a plan; `None` where Postgres has to be asked.
    ///
    /// - Takes: how rows as the log has them are told; the tables that policies read.
    pub fn new(
        question: &Question,
        conditions: &Conditions,
        (relation, rendering): (&Relation, Arc<Rendering>),
        lookups: &Lookups,
    ) -> Option<Plan> {
        let matcher = question.query.matcher.as_ref()?;
        let Conditions { table, visible, filter, inner } = conditions;
        let principal = question.who.principal(question.filter_parameters.clone());
        let all = [Some(visible), filter.as_ref()];
        for condition in all.into_iter().flatten() {
            // What the database or a role sets is not known here.
            let settings = condition.settings()?;
            if !settings.iter().all(|name| principal.setting(name).is_some()) {
                return None;
            }
        }
        if !inner.iter().all(|table| lookups.has(table.number)) {
            return None;
        }
        if !has_columns(relation, &table.columns) {
            return None;
        }
        let covers = all.into_iter().flatten();
        let covers = covers.map(|one| one.cover(&table.columns, &principal, lookups));
        let cover = covers.reduce(Cover::narrower).unwrap_or(Cover::Anything);
        let inner = visible.inner_covers(&principal, lookups).into();
        Some(Plan {
            visible: visible.clone(),
            filter: filter.clone(),
            principal,
            cover,
            inner,
            is_complete: (!matcher.is_window || rendering.order().is_some())
                && rendering.is_whole(&table.columns),
            rendering,
        })
    }

    /// Whether it is of these conditions.
    pub fn is_of(&self, conditions: &Conditions) -> bool {
        let is_filter = match (&self.filter, &conditions.filter) {
            (Some(one), Some(other)) => Arc::ptr_eq(one, other),
            (None, None) => true,
            _ => false,
        };
        Arc::ptr_eq(&self.visible, &conditions.visible) && is_filter
    }

    /// Whether it reads rows with these columns.
    pub fn reads(&self, relation: &Arc<Relation>) -> bool {
        self.rendering.reads(relation)
    }

    /// Whether a transaction did something to rows that decide who sees the result.
    pub fn is_moved(&self, one: &Committed) -> bool {
        one.tables.iter().any(|table| {
            let oid = table.relation.id.0;
            let mut covers = self.inner.iter().filter(|(of, _)| *of == oid);
            covers.any(|(_, cover)| match &table.rows {
                Rows::Known(rows) => rows.iter().any(|row| {
                    let states = [&row.before, &row.after].into_iter().flatten();
                    states.into_iter().any(|state| has(&state.row, cover))
                }),
                Rows::Unknown | Rows::StandsStill => true,
            })
        })
    }

    /// Whether a row is in the result.
    ///
    /// - Errors: Postgres would fail as well, or the value is not known here: it has to be asked.
    pub fn admits(&self, row: Option<&StoredRow>, lookups: &Lookups) -> Result<bool, EvalError> {
        let Some(row) = row else { return Ok(false) };
        let row = row.row.view();
        let rows = [&row];
        let frame = Frame { rows: &rows, principal: &self.principal, tables: lookups };
        // A filter sees what policies admit, and nothing else.
        if self.visible.holds(frame)? != Some(true) {
            return Ok(false);
        }
        Ok(match &self.filter {
            Some(filter) => filter.holds(frame)? == Some(true),
            None => true,
        })
    }

    /// What a transaction changes of a result, by the rows that may be in it; `None` if nothing.
    ///
    /// - Errors: it has to be asked. Nothing was taken then.
    pub fn changes(
        &self,
        held: &mut Held,
        rows: &[&ChangedRow],
        lookups: &Lookups,
    ) -> Result<Option<Vec<Change>>, EvalError> {
        let mut states = Vec::new();
        for row in rows {
            let was = self.admits(row.before.as_ref(), lookups)?;
            let is = self.admits(row.after.as_ref(), lookups)?;
            if was || is {
                states.push(State { row, was, is });
            }
        }
        if !self.is_complete {
            return Ok((!states.is_empty()).then(Vec::new));
        }
        let moved = || {
            let moved = states.iter().map(|State { row, was, is }| Moved {
                before: row.before.as_ref().filter(|_| *was).map(|stored| &stored.row),
                after: row.after.as_ref().filter(|_| *is).map(|stored| &stored.row),
            });
            moved.collect::<Vec<_>>()
        };
        let rendering = &*self.rendering;
        let changes = match (rendering.grouping(), rendering.order()) {
            (Some(grouping), _) => held.regroup(grouping, &moved())?,
            (None, Some(order)) => held.reorder(rendering, order, &moved())?,
            (None, None) => self.row_changes(held, states)?,
        };
        Ok((!changes.is_empty()).then_some(changes))
    }

    fn row_changes(
        &self,
        held: &mut Held,
        states: Vec<State<'_>>,
    ) -> Result<Vec<Change>, EvalError> {
        let mut told = Vec::with_capacity(states.len());
        for State { row, was, is } in states {
            let before = row.before.as_ref().filter(|_| was);
            let after = row.after.as_ref().filter(|_| is);
            let key = |state: &StoredRow| self.rendering.key(&state.row);
            let [old, new] = [before.map(key).transpose()?, after.map(key).transpose()?];
            // Values that are equal may print otherwise: then it is told by another key.
            if let Some(old) = old.filter(|old| new.as_ref() != Some(old)) {
                told.push((old, None, None));
            }
            if let Some((new, after)) = new.zip(after) {
                told.push((new, Some(self.rendering.record(&after.row)?), before));
            }
        }
        let mut changes = Vec::with_capacity(told.len());
        for (key, now, before) in told {
            let before = || self.rendering.record(&before?.row).ok();
            changes.extend(held.apply(key, now, before));
        }
        Ok(changes)
    }
}

/// Whether a row has what a cover says.
fn has(row: &Row, cover: &Cover) -> bool {
    match cover {
        Cover::Anything => true,
        Cover::OneOf(keys) => {
            let row = row.view();
            keys.iter().any(|(column, value)| row.get(*column).bytes() == Some(value))
        }
    }
}
