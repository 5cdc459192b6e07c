//! Writes as SQL.
//!
//! In: a [`Change`] and the [`Shape`] of its table. Out: statements whose rows are the records that were
//! written. Each field is looked up in the table, each value read by Postgres as the type of its column.
//!
//! Source: `datasync.md` 8, "OURS".

use crate::statement::{Column, Shape, Unknown, Writer, quoted, text_of};
use crate::wire::{Literal, Payload};
use hw_types::Sql;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// Values of one INSERT at most; more rows are several statements of one transaction.
const VALUES_AT_ONCE: usize = 30_000;

/// A write.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Change {
    /// Inserts rows.
    Insert(Vec<Payload>),
    /// Changes the rows with these ids.
    Update(Vec<Literal>, Payload),
    /// Deletes the rows with these ids.
    Delete(Vec<Literal>),
}

impl Change {
    /// The statements of a write, none for one that changes nothing.
    pub fn statements(&self, shape: &Shape) -> Result<Vec<Sql>, Unknown> {
        match self {
            Change::Insert(records) => inserts(records, shape),
            Change::Update(ids, _) | Change::Delete(ids) if ids.is_empty() => Ok(Vec::new()),
            Change::Update(ids, patch) if patch.is_empty() => found(ids, shape),
            Change::Update(ids, patch) => update(ids, patch, shape),
            Change::Delete(ids) => delete(ids, shape),
        }
    }
}

/// The row with an id, as one JSON object.
pub fn found(ids: &[Literal], shape: &Shape) -> Result<Vec<Sql>, Unknown> {
    let mut writer = Writer::new(shape);
    writer.sql("SELECT ");
    writer.whole_record();
    writer.sql(" FROM ");
    writer.table();
    writer.with_ids(ids)?;
    Ok(vec![writer.statement])
}

fn inserts(records: &[Payload], shape: &Shape) -> Result<Vec<Sql>, Unknown> {
    let rows: Vec<BTreeMap<usize, &Literal>> =
        records.iter().map(|record| values(record, shape)).collect::<Result<_, _>>()?;
    let mut columns: Vec<usize> = rows.iter().flat_map(|row| row.keys().copied()).collect();
    columns.sort_unstable();
    columns.dedup();
    if columns.is_empty() && rows.len() == 1 {
        let mut writer = Writer::new(shape);
        writer.sql("INSERT INTO ");
        writer.table();
        writer.sql(" DEFAULT VALUES RETURNING ");
        writer.whole_record();
        return Ok(vec![writer.statement]);
    }
    if columns.is_empty() {
        // Several rows of nothing but defaults need a column to say so.
        columns.extend(if shape.columns.is_empty() { None } else { Some(0) });
    }
    let at_once = (VALUES_AT_ONCE / columns.len().max(1)).max(1);
    Ok(rows.chunks(at_once).map(|rows| insert(rows, &columns, shape)).collect())
}

fn insert(rows: &[BTreeMap<usize, &Literal>], columns: &[usize], shape: &Shape) -> Sql {
    let mut writer = Writer::new(shape);
    writer.sql("INSERT INTO ");
    writer.table();
    let names: Vec<String> =
        columns.iter().map(|column| quoted(&shape.columns[*column].name)).collect();
    writer.sql(&format!(" ({}) VALUES ", names.join(", ")));
    for (number, row) in rows.iter().enumerate() {
        writer.sql(if number > 0 { ", (" } else { "(" });
        for (number, column) in columns.iter().enumerate() {
            writer.sql(if number > 0 { ", " } else { "" });
            match row.get(column) {
                Some(value) => writer.value(value, &shape.columns[*column]),
                None => writer.sql("DEFAULT"),
            }
        }
        writer.sql(")");
    }
    writer.sql(" RETURNING ");
    writer.whole_record();
    writer.statement
}

fn update(ids: &[Literal], patch: &Payload, shape: &Shape) -> Result<Vec<Sql>, Unknown> {
    let mut writer = Writer::new(shape);
    writer.sql("UPDATE ");
    writer.table();
    for (number, (column, value)) in values(patch, shape)?.into_iter().enumerate() {
        let name = quoted(&shape.columns[column].name);
        writer.sql(if number > 0 { ", " } else { " SET " });
        writer.sql(&name);
        writer.sql(" = ");
        writer.value(value, &shape.columns[column]);
    }
    writer.with_ids(ids)?;
    writer.sql(" RETURNING ");
    writer.whole_record();
    Ok(vec![writer.statement])
}

fn delete(ids: &[Literal], shape: &Shape) -> Result<Vec<Sql>, Unknown> {
    let mut writer = Writer::new(shape);
    writer.sql("DELETE FROM ");
    writer.table();
    writer.with_ids(ids)?;
    Ok(vec![writer.statement])
}

/// The values of a record by the places of their columns.
fn values<'r>(record: &'r Payload, shape: &Shape) -> Result<BTreeMap<usize, &'r Literal>, Unknown> {
    let mut found = BTreeMap::new();
    for (field, value) in record {
        let column = shape
            .fields
            .column(field)
            .ok_or_else(|| Unknown::Field { table: shape.name.1.clone(), field: field.clone() })?;
        if found.insert(column, value).is_some() {
            return Err(Unknown::Place("two fields of a record mean one column"));
        }
    }
    Ok(found)
}

impl Writer<'_> {
    /// ` WHERE` the row is one of those.
    fn with_ids(&mut self, ids: &[Literal]) -> Result<(), Unknown> {
        let key = &self.shape.key;
        self.sql(" WHERE ");
        match key.as_slice() {
            [] => Err(Unknown::NoKey(self.shape.name.1.clone())),
            [column] => {
                let column = *column;
                self.name(column);
                self.one_of(ids, &self.shape.columns[column].clone())
            }
            _ => self.one_of_several(ids, &key.clone()),
        }
    }

    fn one_of(&mut self, ids: &[Literal], column: &Column) -> Result<(), Unknown> {
        if let [id] = ids {
            self.sql(" = ");
            self.value(id, column);
            return Ok(());
        }
        // One parameter, however many there are.
        let texts: Vec<String> = ids.iter().filter_map(|id| text_of(id, column.kind)).collect();
        let list = serde_json::to_string(&texts).expect("texts can be written");
        self.sql(" IN (SELECT CAST(id AS ");
        self.sql(&column.type_name);
        self.sql(") FROM pg_catalog.json_array_elements_text(CAST(");
        self.parameter(list);
        self.sql(" AS pg_catalog.json)) AS ids(id))");
        Ok(())
    }

    fn one_of_several(&mut self, ids: &[Literal], key: &[usize]) -> Result<(), Unknown> {
        for (number, column) in key.iter().enumerate() {
            self.sql(if number > 0 { ", " } else { "(" });
            self.name(*column);
        }
        self.sql(") IN (");
        for (number, id) in ids.iter().enumerate() {
            // In the path of a request the array is a text.
            let inner: Option<String> = serde_json::from_str(id.json()).ok();
            let json = inner.as_deref().unwrap_or(id.json());
            let parts: Vec<&RawValue> = serde_json::from_str(json).unwrap_or_default();
            if parts.len() != key.len() {
                return Err(Unknown::Place(
                    "the id of a row of this table is an array with a value for each column of its key",
                ));
            }
            self.sql(if number > 0 { ", " } else { "" });
            for (number, (part, column)) in parts.into_iter().zip(key).enumerate() {
                self.sql(if number > 0 { ", " } else { "(" });
                self.value(&Literal::of(part), &self.shape.columns[*column].clone());
            }
            self.sql(")");
        }
        self.sql(")");
        Ok(())
    }
}
