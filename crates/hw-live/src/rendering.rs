//! Rows of the log as they are told: by key and record.
//!
//! In: what transactions did to the rows of a table. Out: keys and records as `jsonb` prints them, of rows or of
//! groups of them, where that can be done here exactly as Postgres does it.

use crate::aggregate::{Aggregate, Groups};
use crate::query::{Key, LiveQuery, Record, Wants};
use crate::row_order::RowOrder;
use crate::tally::{Kind, Tally};
use hw_engine::Committed;
use hw_expr::postgres::{EvalError, JsonOfDatabase, RowJson, Scalar, Type, to_jsonb};
use hw_types::text::to_text;
use hw_types::{Cell, Column, PgType, Relation, Row, RowBuilder};
use serde_json::value::RawValue;
use std::collections::HashMap;
use std::sync::Arc;

/// A row that is, or was, in a result: before a transaction and behind it.
pub(crate) struct Moved<'r> {
    pub before: Option<&'r Row>,
    pub after: Option<&'r Row>,
}

/// How rows of one table become what queries of one kind tell.
pub(crate) struct Rendering {
    /// The columns of rows, as the log has them.
    relation: Arc<Relation>,
    json: JsonOfDatabase,
    key: Vec<Value>,
    told: Told,
    /// How rows stand, where only the first ones are in the result.
    order: Option<RowOrder>,
}

/// What is told; `None`: that can only be asked.
enum Told {
    Rows(Option<Fields>),
    Groups(Option<Grouping>),
}

/// The fields of records of rows.
struct Fields {
    /// Those of the row that `record` is over, where some are told as texts; `None`: it is over rows as they are.
    values: Option<Vec<Value>>,
    record: RowJson,
}

/// How rows become groups.
pub(crate) struct Grouping {
    by: Vec<Value>,
    aggregates: Vec<(Kind, Option<Value>)>,
    /// Over a row that has the values of `by`, and behind them those of the aggregates.
    record: RowJson,
    /// Which of the latter are told as texts.
    as_text: Vec<bool>,
}

/// A column of rows.
struct Value {
    index: usize,
    pg_type: PgType,
    /// Whether its values are told as texts.
    as_text: bool,
}

impl Value {
    /// Canonical bytes with their type; `None` is NULL.
    fn of<'r>(&'r self, row: &'r Row) -> Result<Option<(&'r [u8], &'r PgType)>, EvalError> {
        match row.view().get(self.index) {
            Cell::Null => Ok(None),
            Cell::Absent => Err(EvalError("a value of the row is not known")),
            Cell::Value(bytes) => Ok(Some((bytes, &self.pg_type))),
        }
    }

    /// The type as which it is told.
    fn told_as(&self) -> PgType {
        if self.as_text { PgType::TEXT } else { self.pg_type.clone() }
    }

    /// Appends what is told of it as JSON.
    fn write(&self, row: &Row, json: &mut String) -> Result<(), EvalError> {
        match self.of(row)? {
            None => json.push_str("null"),
            Some((bytes, ty)) if self.as_text => {
                to_jsonb(&PgType::TEXT, &text(ty, bytes)?, json)?;
            }
            Some((bytes, ty)) => to_jsonb(ty, bytes, json)?,
        }
        Ok(())
    }

    /// Appends it to a row of what is told.
    fn push(&self, row: &Row, values: &mut RowBuilder) -> Result<(), EvalError> {
        match self.of(row)? {
            None => values.push(Cell::Null),
            Some((bytes, ty)) if self.as_text => values.push(Cell::Value(&text(ty, bytes)?)),
            Some((bytes, _)) => values.push(Cell::Value(bytes)),
        }
        Ok(())
    }
}

impl Fields {
    /// - Takes: names and values.
    fn new(fields: Vec<(String, Value)>) -> Fields {
        let is_plain = !fields.iter().any(|(_, value)| value.as_text);
        let types: Vec<PgType> = fields.iter().map(|(_, value)| value.told_as()).collect();
        let members = fields.iter().zip(&types).enumerate().map(|(at, ((name, value), ty))| {
            (&**name, if is_plain { value.index } else { at }, ty)
        });
        let record = RowJson::new(members);
        let values = fields.into_iter().map(|(_, value)| value);
        Fields { record, values: (!is_plain).then(|| values.collect()) }
    }

    fn write(&self, row: &Row) -> Result<Record, EvalError> {
        let mut json = String::new();
        let Some(values) = &self.values else {
            self.record.write(&row.view(), &mut json)?;
            return Ok(Record::new(json));
        };
        let mut told = RowBuilder::new();
        for value in values {
            value.push(row, &mut told)?;
        }
        self.record.write(&told.finish().view(), &mut json)?;
        Ok(Record::new(json))
    }
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
        let told = |name: &String| {
            let (index, ty) = column(name)?;
            Some(Value { index, pg_type: ty.clone(), as_text: query.as_text.contains(name) })
        };
        let key = query.key.iter().map(told).collect::<Option<Vec<_>>>()?;
        let told = match &query.wants {
            Wants::Rows => Told::Rows(query.matcher.as_ref().and_then(|matcher| {
                let field = |(field, name): &'_ (String, String)| {
                    Some((field.clone(), told(name).filter(|_| field.is_ascii())?))
                };
                let fields = matcher.fields.iter().map(field).collect::<Option<Vec<_>>>()?;
                Some(Fields::new(fields))
            })),
            Wants::Groups(groups) => {
                let value = |name: &str, as_text: bool| {
                    let (index, ty) = column(name)?;
                    let value = Value { index, pg_type: ty.clone(), as_text };
                    Some((value, &relation.columns[index]))
                };
                Told::Groups(Grouping::new(groups, value))
            }
        };
        let order = query.window.as_ref().and_then(|first| RowOrder::new(first, &relation));
        Some(Rendering { key, told, order, json, relation })
    }

    /// Whether it is that of rows with these columns, in this database.
    pub fn is_of(&self, relation: &Arc<Relation>, json: JsonOfDatabase) -> bool {
        self.reads(relation) && self.json == json
    }

    /// Whether it reads rows with these columns.
    pub fn reads(&self, relation: &Arc<Relation>) -> bool {
        Arc::ptr_eq(&self.relation, relation) || self.relation.columns == relation.columns
    }

    /// Whether records can be told of rows, or of groups of them.
    ///
    /// - Takes: the columns of the rows, as the role that asks has them.
    pub fn is_whole(&self, columns: &[(String, Type)]) -> bool {
        match &self.told {
            Told::Rows(record) => record.is_some(),
            Told::Groups(grouping) => grouping.as_ref().is_some_and(|it| it.is_exact(columns)),
        }
    }

    /// How rows become groups, where that is known.
    pub fn grouping(&self) -> Option<&Grouping> {
        match &self.told {
            Told::Rows(_) => None,
            Told::Groups(grouping) => grouping.as_ref(),
        }
    }

    /// How rows stand, where only the first ones are in the result, and that is known.
    pub fn order(&self) -> Option<&RowOrder> {
        self.order.as_ref()
    }

    /// The JSON of a row's key: one value, or an array of several.
    pub fn key(&self, row: &Row) -> Result<Key, EvalError> {
        let mut json = String::new();
        for (number, value) in self.key.iter().enumerate() {
            json.push_str(if number > 0 { ", " } else { "" });
            value.of(row)?.ok_or(EvalError("a key has no NULL"))?;
            value.write(row, &mut json)?;
        }
        Ok(if self.key.len() > 1 { format!("[{json}]").into() } else { json.into() })
    }

    /// A row's record.
    pub fn record(&self, row: &Row) -> Result<Record, EvalError> {
        match &self.told {
            Told::Rows(Some(fields)) => fields.write(row),
            _ => Err(EvalError("a field has no JSON here")),
        }
    }

    /// The rows that these transactions touched, whether or not anything of them has changed, with what they were
    /// before the first of them.
    ///
    /// - Takes: the query that it is of; transactions in their order. Of groups, and of those above the bounds of the
    ///   list nothing is said: that a row changed shows in its result.
    pub fn touched<'c>(
        &self,
        query: &LiveQuery,
        committed: impl Iterator<Item = &'c Committed>,
    ) -> HashMap<Key, Option<Record>> {
        let mut touched = HashMap::new();
        if matches!(self.told, Told::Groups(_)) {
            return touched;
        }
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

impl Grouping {
    /// - Takes: finds a column by its name, where its values are printed here as Postgres does, to be told as a text
    ///   or not.
    fn new<'c>(
        groups: &Groups,
        value: impl Fn(&str, bool) -> Option<(Value, &'c Column)>,
    ) -> Option<Grouping> {
        let names = groups.by.iter().map(|by| &by.field);
        let mut names = names.chain(groups.aggregates.iter().map(|aggregate| &aggregate.field));
        if !names.all(|name| name.is_ascii()) {
            return None;
        }
        let by = groups.by.iter().map(|by| value(&by.column, by.as_text).map(|(value, _)| value));
        let by = by.collect::<Option<Vec<Value>>>()?;
        let mut aggregates = Vec::with_capacity(groups.aggregates.len());
        for Aggregate { function, column, .. } in &groups.aggregates {
            let column = column
                .as_ref()
                .map(|name| value(name, false))
                .map_or(Some(None), |it| it.map(Some))?;
            let kind = Kind::of(*function, column.as_ref().map(|(_, column)| *column))?;
            aggregates.push((kind, column.map(|(value, _)| value)));
        }
        let of_by = groups.by.iter().zip(&by).map(|(it, value)| (&it.field, value.told_as()));
        let computed = groups.aggregates.iter().zip(&aggregates).map(|(it, (kind, _))| {
            (&it.field, if it.as_text { PgType::TEXT } else { kind.pg_type() })
        });
        let members: Vec<(&String, PgType)> = of_by.chain(computed).collect();
        let members = members.iter().enumerate().map(|(at, (name, ty))| (&***name, at, ty));
        let as_text = groups.aggregates.iter().map(|it| it.as_text).collect();
        Some(Grouping { record: RowJson::new(members), by, aggregates, as_text })
    }

    /// Whether rows are in one group exactly where the bytes of their values are equal.
    fn is_exact(&self, columns: &[(String, Type)]) -> bool {
        use Scalar::{
            Bool, Bytea, Date, Enum, Int2, Int4, Int8, Text, Time, Timestamp, Timestamptz, Uuid,
        };
        self.by.iter().all(|by| {
            let ty = columns.get(by.index).map(|(_, ty)| *ty);
            matches!(
                ty,
                Some(Type::Scalar(
                    Bool | Bytea
                        | Date
                        | Enum(_)
                        | Int2
                        | Int4
                        | Int8
                        | Text
                        | Time
                        | Timestamp
                        | Timestamptz
                        | Uuid
                ))
            )
        })
    }

    /// The group of a row: the JSON of an array.
    pub fn key(&self, row: &Row) -> Result<Key, EvalError> {
        let mut json = String::from("[");
        for (number, by) in self.by.iter().enumerate() {
            json.push_str(if number > 0 { ", " } else { "" });
            by.write(row, &mut json)?;
        }
        json.push(']');
        Ok(json.into())
    }

    /// Of a group that has no row yet.
    pub fn empty(&self) -> Box<[Tally]> {
        let kinds = self.aggregates.iter().map(|(kind, _)| kind.empty());
        std::iter::once(Kind::Rows.empty()).chain(kinds).collect()
    }

    /// What Postgres knows of a group.
    pub fn read(&self, state: &str) -> Box<[Tally]> {
        let parts: Vec<Option<&RawValue>> = serde_json::from_str(state).unwrap_or_default();
        let kinds =
            std::iter::once(&Kind::Rows).chain(self.aggregates.iter().map(|(kind, _)| kind));
        let null = RawValue::NULL;
        let read = |(number, kind): (usize, &Kind)| match parts.get(number) {
            Some(part) => kind.read(part.unwrap_or(null)),
            None => Tally::Unknown,
        };
        kinds.enumerate().map(read).collect()
    }

    /// Whether a group is part of the result: it has rows, or is the only one that there can be.
    pub fn is_there(&self, tallies: &[Tally]) -> bool {
        self.by.is_empty() || !matches!(tallies.first(), Some(Tally::Count(0)))
    }

    /// A row comes into a group, or goes.
    ///
    /// - Takes: what it is on the other side of the transaction, if it is in the group there as well.
    pub fn apply(
        &self,
        tallies: &mut [Tally],
        is_coming: bool,
        row: &Row,
        other: Option<&Row>,
    ) -> Result<(), EvalError> {
        let take = |kind: &Kind, tally: &mut Tally, value| match is_coming {
            true => kind.add(tally, value),
            false => kind.remove(tally, value),
        };
        let Some((rows, tallies)) = tallies.split_first_mut() else {
            return Err(EvalError("nothing is known of a group"));
        };
        if other.is_none() {
            take(&Kind::Rows, rows, None)?;
        }
        for ((kind, column), tally) in self.aggregates.iter().zip(tallies) {
            let Some(column) = column else {
                if other.is_none() {
                    take(kind, tally, None)?;
                }
                continue;
            };
            let value = column.of(row)?;
            let was = other.map(|other| column.of(other)).transpose()?;
            if was != Some(value) {
                take(kind, tally, value)?;
            }
        }
        Ok(())
    }

    /// A group as it is told.
    ///
    /// - Takes: one of its rows.
    pub fn record(&self, row: &Row, tallies: &[Tally]) -> Result<Record, EvalError> {
        let mut values = RowBuilder::new();
        for by in &self.by {
            by.push(row, &mut values)?;
        }
        let aggregates = self.aggregates.iter().zip(&self.as_text).zip(tallies.iter().skip(1));
        for (((kind, _), as_text), tally) in aggregates {
            match kind.value(tally)? {
                None => values.push(Cell::Null),
                Some((bytes, ty)) if *as_text => values.push(Cell::Value(&text(&ty, &bytes)?)),
                Some((bytes, _)) => values.push(Cell::Value(&bytes)),
            }
        }
        let mut json = String::new();
        self.record.write(&values.finish().view(), &mut json)?;
        Ok(Record::new(json))
    }
}

/// The bytes of a value's text.
fn text(ty: &PgType, bytes: &[u8]) -> Result<Vec<u8>, EvalError> {
    let text = to_text(ty, bytes).map_err(|_| EvalError("a value is not one of its type"))?;
    Ok(text.into_bytes())
}
