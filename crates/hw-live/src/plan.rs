//! A query and the policies over its table as conditions: whether a row is in a result is then computed from the
//! row, who asks, and the tables that policies read beside it, and nobody is asked (tiers 1 and 2 of
//! `design/engine.md` 11).

use crate::lookups::{Lookups, has_columns};
use crate::query::{Change, Key, LiveQuery, Matcher, News, Record};
use crate::result::Held;
use hw_engine::{ChangedRow, Committed, Rows, StoredRow};
use hw_expr::postgres::{
    Condition, Cover, EvalError, Frame, JsonOfDatabase, Principal, RowJson, Table, to_jsonb,
};
use hw_pg::rights::Rights;
use hw_types::row::RowRef;
use hw_types::{PgType, Relation, Row, RunAs};
use std::collections::BTreeMap;
use std::sync::Arc;

/// How rows become part of one result.
pub(crate) struct Plan {
    /// Who may see what, when this was made.
    pub rights: Rights,
    visible: Arc<Condition>,
    filter: Option<Arc<Condition>>,
    principal: Principal,
    /// What rows in the result have.
    pub cover: Cover,
    /// What rows of other tables have that decide who sees it, by their oids. When one of them changes, it is
    /// asked, and the plan is made anew.
    pub inner: Vec<(u32, Cover)>,
    /// The columns of rows, as the log has them.
    relation: Arc<Relation>,
    key: Vec<(usize, PgType)>,
    record: RowJson,
    /// Whether it is enough to know which rows match: the result is no window.
    pub is_complete: bool,
}

/// Conditions of the policies of a table, and of a filter.
pub(crate) struct Conditions {
    pub table: Table,
    pub visible: Arc<Condition>,
    pub filter: Option<Arc<Condition>>,
    /// The tables that policies read beside the table itself.
    pub inner: Arc<[Table]>,
    pub json: JsonOfDatabase,
}

impl Plan {
    /// Makes a plan; `None` where Postgres has to be asked.
    ///
    /// - Takes: the table's columns as the log describes them; the tables that policies read.
    pub fn new(
        query: &LiveQuery,
        matcher: &Matcher,
        who: &RunAs,
        conditions: &Conditions,
        relation: Arc<Relation>,
        rights: Rights,
        lookups: &Lookups,
    ) -> Option<Plan> {
        let Conditions { table, visible, filter, inner, json } = conditions;
        let principal = principal(who, matcher);
        let all = [Some(visible), filter.as_ref()];
        for condition in all.into_iter().flatten() {
            // What the database or a role sets is not known here.
            let settings = condition.settings()?;
            let is_known = settings.iter().all(|name| principal.settings.contains_key(name));
            if !is_known {
                return None;
            }
        }
        if !inner.iter().all(|table| lookups.has(table.number)) {
            return None;
        }
        if !has_columns(&relation, &table.columns) {
            return None;
        }
        let column = |name: &str| {
            let index = relation.columns.iter().position(|column| column.name == name)?;
            let found = &relation.columns[index];
            let is_exact = json.is_exact(found.type_oid, &found.pg_type) && name.is_ascii();
            is_exact.then_some((index, &found.pg_type))
        };
        let key = |name: &String| column(name).map(|(index, ty)| (index, ty.clone()));
        let key = query.key.iter().map(key).collect::<Option<Vec<_>>>()?;
        let mut fields = Vec::with_capacity(matcher.fields.len());
        for (field, name) in &matcher.fields {
            let (index, ty) = column(name).filter(|_| field.is_ascii())?;
            fields.push((&**field, index, ty));
        }
        let record = RowJson::new(fields);
        let covers = all.into_iter().flatten();
        let covers = covers.map(|one| one.cover(&table.columns, &principal, lookups));
        let cover = covers.reduce(Cover::narrower).unwrap_or(Cover::Anything);
        let inner = visible.inner_covers(&principal, lookups);
        Some(Plan {
            rights,
            visible: visible.clone(),
            filter: filter.clone(),
            principal,
            cover,
            inner,
            key,
            record,
            is_complete: !matcher.is_window,
            relation,
        })
    }

    /// Whether it reads rows with these columns.
    pub fn reads(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation) || self.relation.columns == relation.columns
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
    /// - Errors: it has to be asked.
    pub fn changes(
        &self,
        held: &mut Held,
        rows: &[&ChangedRow],
        lookups: &Lookups,
    ) -> Result<Option<News<Change>>, EvalError> {
        let mut states = Vec::new();
        let mut count: i64 = 0;
        for ChangedRow { before, after, .. } in rows {
            let was = self.admits(before.as_ref(), lookups)?;
            let is = self.admits(after.as_ref(), lookups)?;
            count += i64::from(is) - i64::from(was);
            match after.as_ref().filter(|_| is) {
                Some(row) => {
                    let (key, record) = self.told(&row.row)?;
                    states.push((key, Some(record)));
                }
                None => {
                    let before = before.as_ref().filter(|_| was);
                    let key = before.map(|row| self.key_of(&row.row)).transpose()?;
                    states.extend(key.map(|key| (key, None)));
                }
            }
        }
        if !self.is_complete {
            return Ok((!states.is_empty()).then(|| News::Rows(Vec::new())));
        }
        Ok(match held {
            Held::Count(number) if count != 0 => {
                *number = number.saturating_add_signed(count);
                Some(News::Count(*number))
            }
            Held::Count(_) => None,
            Held::Rows(_) => {
                let changes = held.apply(states.into_iter());
                (!changes.is_empty()).then_some(News::Rows(changes))
            }
        })
    }

    /// A row's key and its record.
    pub fn told(&self, row: &Row) -> Result<(Key, Record), EvalError> {
        let row = row.view();
        let key = key_of(&row, &self.key)?;
        let mut json = String::new();
        self.record.write(&row, &mut json)?;
        Ok((key, Record::new(json)))
    }

    /// A row's key.
    pub fn key_of(&self, row: &Row) -> Result<Key, EvalError> {
        key_of(&row.view(), &self.key)
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

/// Who asks, as conditions know them, with the parameters of the filter.
fn principal(who: &RunAs, matcher: &Matcher) -> Principal {
    let settings = who.settings().into_iter();
    let settings = settings.map(|(name, value)| (name.to_owned(), value.to_owned()));
    let parameters = matcher.filter.iter().flat_map(|filter| &filter.parameters).enumerate();
    let parameters = parameters.map(|(at, value)| (format!("${}", at + 1), value.clone()));
    let settings: BTreeMap<String, String> = settings.chain(parameters).collect();
    Principal { role: who.role.to_string(), settings }
}

/// The JSON of a row's key: one value, or an array of several.
pub(crate) fn key_of(row: &RowRef<'_>, columns: &[(usize, PgType)]) -> Result<Key, EvalError> {
    let mut json = String::new();
    for (number, (index, ty)) in columns.iter().enumerate() {
        json.push_str(if number > 0 { ", " } else { "" });
        let value = row.get(*index).bytes().ok_or(EvalError("a key has no NULL"))?;
        to_jsonb(ty, value, &mut json)?;
    }
    Ok(if columns.len() > 1 { format!("[{json}]").into() } else { json.into() })
}
