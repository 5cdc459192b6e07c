//! Rows of the log as they are told: by key and record.
//!
//! In: what transactions did to the rows of a table. Out: keys and records as `jsonb` prints them, where that
//! can be done here exactly as Postgres does it.

use crate::query::{Key, LiveQuery, Record};
use hw_engine::Committed;
use hw_expr::postgres::{EvalError, JsonOfDatabase, RowJson, to_jsonb};
use hw_types::{PgType, Relation, Row};
use std::collections::HashMap;
use std::sync::Arc;

/// How rows of one table become what queries of one kind tell.
pub(crate) struct Rendering {
    /// The columns of rows, as the log has them.
    relation: Arc<Relation>,
    json: JsonOfDatabase,
    key: Vec<(usize, PgType)>,
    /// `None`: what is told of a row can only be asked.
    record: Option<RowJson>,
}

impl Rendering {
    /// `None` where rows cannot be told apart here by what they are told by.
    pub fn new(
        query: &LiveQuery,
        relation: Arc<Relation>,
        json: JsonOfDatabase,
    ) -> Option<Rendering> {
        let column = |name: &str| {
            let index = relation.columns.iter().position(|column| column.name == name)?;
            let found = &relation.columns[index];
            let is_exact = json.is_exact(found.type_oid, &found.pg_type) && name.is_ascii();
            is_exact.then_some((index, &found.pg_type))
        };
        let key = |name: &String| column(name).map(|(index, ty)| (index, ty.clone()));
        let key = query.key.iter().map(key).collect::<Option<Vec<_>>>()?;
        let fields = query.matcher.as_ref().and_then(|matcher| {
            let field = |(field, name): &'_ (String, String)| {
                let (index, ty) = column(name).filter(|_| field.is_ascii())?;
                Some((field.clone(), index, ty))
            };
            matcher.fields.iter().map(field).collect::<Option<Vec<_>>>()
        });
        let record = fields.map(|fields| {
            RowJson::new(fields.iter().map(|(field, index, ty)| (&**field, *index, *ty)))
        });
        Some(Rendering { key, record, json, relation })
    }

    /// Whether it is that of rows with these columns, in this database.
    pub fn is_of(&self, relation: &Arc<Relation>, json: JsonOfDatabase) -> bool {
        self.reads(relation) && self.json == json
    }

    /// Whether it reads rows with these columns.
    pub fn reads(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation) || self.relation.columns == relation.columns
    }

    /// Whether records can be told of rows.
    pub fn is_whole(&self) -> bool {
        self.record.is_some()
    }

    /// The JSON of a row's key: one value, or an array of several.
    pub fn key(&self, row: &Row) -> Result<Key, EvalError> {
        let row = row.view();
        let mut json = String::new();
        for (number, (index, ty)) in self.key.iter().enumerate() {
            json.push_str(if number > 0 { ", " } else { "" });
            let value = row.get(*index).bytes().ok_or(EvalError("a key has no NULL"))?;
            to_jsonb(ty, value, &mut json)?;
        }
        Ok(if self.key.len() > 1 { format!("[{json}]").into() } else { json.into() })
    }

    /// A row's record.
    pub fn record(&self, row: &Row) -> Result<Record, EvalError> {
        let record = self.record.as_ref().ok_or(EvalError("a field has no JSON here"))?;
        let mut json = String::new();
        record.write(&row.view(), &mut json)?;
        Ok(Record::new(json))
    }

    /// The rows that these transactions touched, whether or not anything of them has changed, with what they were
    /// before the first of them.
    ///
    /// - Takes: the query that it is of; transactions in their order. Of those above the bounds of the list
    ///   nothing is said: that a row changed shows in its result.
    pub fn touched<'c>(
        &self,
        query: &LiveQuery,
        committed: impl Iterator<Item = &'c Committed>,
    ) -> HashMap<Key, Option<Record>> {
        let mut touched = HashMap::new();
        let tables = committed.flat_map(|one| &one.tables);
        let tables = tables.filter(|table| {
            let Relation { id, name, .. } = &*self.relation;
            *id == table.relation.id && name == table.name()
        });
        for table in tables {
            // Rows of before a change of the table have other columns.
            let of_then = (!self.reads(&table.relation))
                .then(|| Rendering::new(query, table.relation.clone(), self.json));
            let rendering = match &of_then {
                None => self,
                Some(Some(of_then)) => of_then,
                Some(None) => continue,
            };
            for row in table.known().into_iter().flatten() {
                let states = [row.before.as_ref(), row.after.as_ref()];
                let [before, after] =
                    states.map(|state| state.and_then(|state| rendering.key(&state.row).ok()));
                if let Some(key) = before {
                    let record = || rendering.record(&row.before.as_ref()?.row).ok();
                    touched.entry(key).or_insert_with(record);
                }
                if let Some(key) = after {
                    touched.entry(key).or_insert(None);
                }
            }
        }
        touched
    }
}
