//! Queries as SQL: text with numbered parameters, and their values as texts.
//!
//! In: a [`Query`] and the [`Shape`] of its table. Out: [`Sql`] whose rows are JSON objects of fields.
//! Nothing that a client wrote becomes SQL text but names that the table has: values are parameters, each
//! read by Postgres as the type of the column that it is compared with.
//!
//! Source: `datasync.md` 5 (compilation rules, first match wins) and 7.1.

use crate::names::{Fields, Naming};
use crate::wire::{Expr, Literal, Operator, Order, Query, Selected};
use hw_live::FirstRows;
use hw_types::Sql;
use hw_write::{ShapeColumn, TableShape};
use serde_json::Value;
use serde_json::value::RawValue;
use std::fmt::Write;

/// A table as queries need it.
#[derive(Clone, Debug)]
pub struct Shape {
    /// Schema and name.
    pub name: (String, String),
    /// Its columns in catalogue order.
    pub columns: Vec<Column>,
    /// Their names on the wire.
    pub fields: Fields,
    /// The places of the columns that identify a row.
    pub key: Vec<usize>,
}

/// A column as queries need it.
#[derive(Clone, Debug)]
pub struct Column {
    /// Its name.
    pub name: String,
    /// Its type as SQL names it, qualified where it must be, without length or precision.
    pub type_name: String,
    /// What JSON values of it are made of.
    pub kind: Kind,
    /// Whether its values go out as texts: JavaScript has no such numbers.
    pub as_text: bool,
}

/// What Postgres reads a column's values from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// An integer: fractions are rounded.
    Integer,
    /// A boolean, also as a number.
    Bool,
    /// `json` or `jsonb`: any JSON.
    Json,
    /// `bytea`: hex behind `\x`, else the bytes of the text.
    Bytes,
    /// `point`: also as `{"x": …, "y": …}`.
    Point,
    /// An array.
    Array,
    /// Anything else: a text.
    Text,
}

/// Whether integers of 64 bits and decimals go out as numbers or as texts.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum BigNumbers {
    /// As numbers, which JavaScript rounds above 2^53.
    #[default]
    Numbers,
    /// As texts.
    Texts,
}

impl Shape {
    /// The shape of a table of the catalog.
    pub fn of(table: &TableShape, naming: Naming, big: BigNumbers) -> Shape {
        let names: Vec<String> = table.columns.iter().map(|column| column.name.clone()).collect();
        let id = || names.iter().position(|name| name == "id").into_iter().collect();
        Shape {
            name: (table.name.schema.clone(), table.name.name.clone()),
            columns: table.columns.iter().map(|column| Column::of(column, big)).collect(),
            fields: Fields::of(&names, naming),
            // What has no key may still be called by its `id`, as the original does.
            key: if table.key.is_empty() { id() } else { table.key.clone() },
        }
    }
}

impl Column {
    fn of(column: &ShapeColumn, big: BigNumbers) -> Column {
        let base = column.base.as_str();
        let kind = match base {
            _ if column.is_array => Kind::Array,
            "int2" | "int4" | "int8" => Kind::Integer,
            "bool" => Kind::Bool,
            "json" | "jsonb" => Kind::Json,
            "bytea" => Kind::Bytes,
            "point" => Kind::Point,
            _ => Kind::Text,
        };
        Column {
            name: column.name.clone(),
            type_name: column.type_name.clone(),
            kind,
            as_text: big == BigNumbers::Texts && matches!(base, "int8" | "numeric"),
        }
    }
}

/// Why a query has no SQL.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
pub enum Unknown {
    /// The table has no column for a field.
    #[error("the table {table} has no field {field}")]
    Field {
        /// The table.
        table: String,
        /// The field.
        field: String,
    },
    /// A value is in a place where none can be.
    #[error("{0}")]
    Place(&'static str),
    /// Rows of the table cannot be told apart.
    #[error("the table {0} has no primary key, and no column id")]
    NoKey(String),
    /// Values of the type of a field cannot be grouped, or not be computed with so.
    #[error("{0}")]
    Aggregate(String),
}

/// The rows of a query, each as one JSON object.
pub fn rows(query: &Query, shape: &Shape) -> Result<Sql, Unknown> {
    let mut writer = Writer::new(shape);
    writer.select(query, Output::Record)?;
    Ok(writer.statement)
}

/// The rows of a query in two columns: the key as JSON (one value, or an array of several), and the row
/// as one JSON object.
pub fn keyed_rows(query: &Query, shape: &Shape) -> Result<Sql, Unknown> {
    let mut writer = Writer::new(shape);
    writer.select(query, Output::KeyAndRecord)?;
    Ok(writer.statement)
}

/// The first rows of a query, to the end of its window and some behind it, as [`keyed_rows`] with a third column: the
/// values of the columns by which they are ordered, as a JSON array of what Postgres prints of each, or null.
pub(crate) fn first_rows(query: &Query, shape: &Shape, first: &FirstRows) -> Result<Sql, Unknown> {
    let mut writer = Writer::new(shape);
    writer.select(query, Output::First(first))?;
    Ok(writer.statement)
}

/// A condition alone, with columns by their bare names and parameters of its own.
pub fn condition_of(condition: &Expr, shape: &Shape) -> Result<Sql, Unknown> {
    let mut writer = Writer { is_bare: true, ..Writer::new(shape) };
    writer.condition(condition)?;
    Ok(writer.statement)
}

/// What a SELECT gives.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Output<'a> {
    Record,
    KeyAndRecord,
    /// Key, record and place of the first rows in their order.
    First(&'a FirstRows),
    /// These columns, each called `c` and its place, for what stands around it.
    Columns(&'a [usize]),
}

/// Under which name the statement knows its table, so that no alias of its result is taken for a column.
pub(crate) const TABLE: &str = "t";

/// Writes one statement.
pub(crate) struct Writer<'a> {
    pub(crate) shape: &'a Shape,
    pub(crate) statement: Sql,
    /// Whether columns stand without the name of their table.
    is_bare: bool,
}

impl<'a> Writer<'a> {
    pub(crate) fn new(shape: &'a Shape) -> Writer<'a> {
        Writer { shape, statement: Sql::default(), is_bare: false }
    }

    pub(crate) fn sql(&mut self, text: &str) {
        self.statement.text.push_str(text);
    }

    pub(crate) fn parameter(&mut self, value: String) {
        self.statement.parameters.push(value);
        let number = self.statement.parameters.len();
        let _ = write!(self.statement.text, "${number}::text");
    }

    pub(crate) fn column(&self, field: &str) -> Result<usize, Unknown> {
        self.shape.fields.column(field).ok_or_else(|| Unknown::Field {
            table: self.shape.name.1.clone(),
            field: field.to_owned(),
        })
    }

    pub(crate) fn select(&mut self, query: &Query, output: Output<'_>) -> Result<(), Unknown> {
        self.sql("SELECT ");
        if let Some(field) = &query.distinct_on {
            let column = self.column(field)?;
            self.sql("DISTINCT ON (");
            self.name(column);
            self.sql(") ");
        }
        if matches!(output, Output::KeyAndRecord | Output::First(_)) {
            self.key_json()?;
            self.sql(", ");
        }
        let columns = match &query.selected {
            Selected::All => (0..self.shape.columns.len()).collect(),
            Selected::Fields(fields) => {
                fields.iter().map(|field| self.column(field)).collect::<Result<Vec<_>, _>>()?
            }
        };
        match output {
            Output::Columns(columns) => {
                // There may be none, and DISTINCT ON wants one.
                self.sql("1 AS one");
                for column in columns {
                    self.sql(", ");
                    self.name(*column);
                    self.sql(&format!(" AS c{column}"));
                }
            }
            Output::Record | Output::KeyAndRecord | Output::First(_) => self.record(&columns),
        }
        if let Output::First(first) = output {
            self.place(first);
        }
        self.sql(" FROM ");
        self.table();
        if let Some(condition) = &query.condition {
            self.sql(" WHERE ");
            self.condition(condition)?;
        }
        if let Output::First(FirstRows { order, offset, limit, beyond }) = output {
            for (number, (column, descending)) in order.iter().enumerate() {
                self.sql(if number > 0 { ", " } else { " ORDER BY " });
                self.named(column);
                self.sql(if *descending { " DESC" } else { "" });
            }
            self.sql(&format!(" LIMIT {}", offset + limit + beyond));
            return Ok(());
        }
        // Groups have no order, but for which rows of a window are in them.
        let is_ordered = !matches!(output, Output::Columns(_)) || query.is_window();
        for (number, order) in query.order.iter().filter(|_| is_ordered).enumerate() {
            self.sql(if number > 0 { ", " } else { " ORDER BY " });
            self.order(order)?;
        }
        for (word, count) in [(" LIMIT ", query.limit), (" OFFSET ", query.offset)] {
            if let Some(count) = count {
                self.sql(word);
                self.sql(&count.to_string());
            }
        }
        Ok(())
    }

    /// The table under its name in the statement.
    pub(crate) fn table(&mut self) {
        let (schema, table) = &self.shape.name;
        let from = format!("{}.{} AS {TABLE}", quoted(schema), quoted(table));
        self.sql(&from);
    }

    /// These columns of the row as one JSON object.
    pub(crate) fn record(&mut self, columns: &[usize]) {
        // `r` alone would be the column of that name, where there is one.
        self.sql("(SELECT pg_catalog.row_to_json(r.*)::pg_catalog.jsonb::text FROM (SELECT ");
        for (number, column) in columns.iter().enumerate() {
            self.sql(if number > 0 { ", " } else { "" });
            self.name(*column);
            if self.shape.columns[*column].as_text {
                self.sql("::text");
            }
            self.sql(" AS ");
            let field = quoted(self.shape.fields.field(*column));
            self.sql(&field);
        }
        self.sql(") AS r)");
    }

    /// All columns of the row.
    pub(crate) fn whole_record(&mut self) {
        let columns: Vec<usize> = (0..self.shape.columns.len()).collect();
        self.record(&columns);
    }

    /// The values by which a row is ordered.
    fn place(&mut self, first: &FirstRows) {
        self.sql(", pg_catalog.jsonb_build_array(");
        for (number, (column, _)) in first.order.iter().enumerate() {
            self.sql(if number > 0 { ", " } else { "" });
            // Not a cast to text, of which some types have their own.
            self.sql("CASE WHEN ");
            self.named(column);
            self.sql(" IS DISTINCT FROM NULL THEN pg_catalog.format('%s', ");
            self.named(column);
            self.sql(") END");
        }
        self.sql(")::text");
    }

    fn named(&mut self, column: &str) {
        self.sql(&format!("{TABLE}.{}", quoted(column)));
    }

    fn key_json(&mut self) -> Result<(), Unknown> {
        let key = &self.shape.key;
        let several = match key.len() {
            0 => return Err(Unknown::NoKey(self.shape.name.1.clone())),
            length => length > 1,
        };
        self.sql(if several { "pg_catalog.jsonb_build_array(" } else { "pg_catalog.to_jsonb(" });
        for (number, column) in key.iter().enumerate() {
            self.sql(if number > 0 { ", " } else { "" });
            self.name(*column);
            if self.shape.columns[*column].as_text {
                self.sql("::text");
            }
        }
        self.sql(")::text");
        Ok(())
    }

    pub(crate) fn name(&mut self, column: usize) {
        let name = quoted(&self.shape.columns[column].name);
        if !self.is_bare {
            self.sql(TABLE);
            self.sql(".");
        }
        self.sql(&name);
    }

    fn order(&mut self, order: &Order) -> Result<(), Unknown> {
        let descending = match order {
            Order::Field { field, descending } => {
                let column = self.column(field)?;
                self.name(column);
                *descending
            }
            Order::Rank { field, query, descending } => {
                let column = self.column(field)?;
                self.sql("pg_catalog.ts_rank(");
                self.name(column);
                self.sql(", ");
                self.text_query(query);
                self.sql(")");
                *descending
            }
        };
        self.sql(if descending { " DESC" } else { "" });
        Ok(())
    }

    fn text_query(&mut self, text: &str) {
        self.sql("pg_catalog.to_tsquery('pg_catalog.english', ");
        self.parameter(text.to_owned());
        self.sql(")");
    }

    fn condition(&mut self, expr: &Expr) -> Result<(), Unknown> {
        match expr {
            Expr::Field(field) => {
                let column = self.column(field)?;
                self.name(column);
                Ok(())
            }
            Expr::Literal(literal) => self.literal(literal, None),
            Expr::List(values) => self.list(values, None),
            Expr::TextQuery(text) => {
                self.text_query(text);
                Ok(())
            }
            Expr::Infix { left, operator, right } => {
                let Some(right) = right else { return self.condition(left) };
                self.infix(left, *operator, right)
            }
        }
    }

    fn infix(&mut self, left: &Expr, operator: Operator, right: &Expr) -> Result<(), Unknown> {
        let is_null = |expr: &Expr| matches!(expr, Expr::Literal(literal) if literal.is_null());
        let is = match operator {
            Operator::Equal | Operator::Is => Some(true),
            Operator::NotEqual | Operator::IsNot => Some(false),
            _ => None,
        };
        // Null stands on either side.
        if let Some(is) = is {
            let other = if is_null(right) { Some(left) } else { is_null(left).then_some(right) };
            if let Some(other) = other {
                return self.wrapped(other, if is { " IS NULL" } else { " IS NOT NULL" });
            }
        }
        if let (Operator::Is | Operator::IsNot, Expr::Literal(literal)) = (operator, right)
            && let "true" | "false" = literal.json()
        {
            let not = if operator == Operator::Is { "" } else { "NOT " };
            let value = literal.json().to_uppercase();
            return self.wrapped(left, &format!(" IS {not}{value}"));
        }
        if let (Operator::In, Expr::List(values)) = (operator, right) {
            return self.within(left, values);
        }
        let word = match operator {
            Operator::Equal => " = ",
            Operator::NotEqual => " <> ",
            Operator::Greater => " > ",
            Operator::GreaterOrEqual => " >= ",
            Operator::Less => " < ",
            Operator::LessOrEqual => " <= ",
            Operator::And => " AND ",
            Operator::Or => " OR ",
            Operator::Is => " IS NOT DISTINCT FROM ",
            Operator::IsNot => " IS DISTINCT FROM ",
            Operator::TextMatch => " @@ ",
            Operator::In => {
                return Err(Unknown::Place("OpIn takes a ListExpression on its right side"));
            }
        };
        self.sql("(");
        self.operand(left, self.column_of(right)?)?;
        self.sql(word);
        self.operand(right, self.column_of(left)?)?;
        self.sql(")");
        Ok(())
    }

    /// The column of which the other side is a value.
    fn column_of(&self, expr: &Expr) -> Result<Option<usize>, Unknown> {
        match expr {
            Expr::Field(field) => self.column(field).map(Some),
            _ => Ok(None),
        }
    }

    fn operand(&mut self, expr: &Expr, beside: Option<usize>) -> Result<(), Unknown> {
        match expr {
            Expr::Literal(literal) => self.literal(literal, beside),
            Expr::List(values) => self.list(values, beside),
            other => self.condition(other),
        }
    }

    fn wrapped(&mut self, expr: &Expr, behind: &str) -> Result<(), Unknown> {
        self.sql("(");
        self.condition(expr)?;
        self.sql(behind);
        self.sql(")");
        Ok(())
    }

    /// `left IN (values)`; null is among them if it is written there.
    fn within(&mut self, left: &Expr, values: &[Literal]) -> Result<(), Unknown> {
        let some: Vec<Literal> = values.iter().filter(|value| !value.is_null()).cloned().collect();
        let has_null = some.len() < values.len();
        match (some.is_empty(), has_null) {
            (true, false) => self.sql("FALSE"),
            (true, true) => return self.wrapped(left, " IS NULL"),
            (false, _) => {
                let beside = self.column_of(left)?;
                self.sql("((");
                self.condition(left)?;
                self.sql(" IN ");
                self.list(&some, beside)?;
                self.sql(")");
                if has_null {
                    self.sql(" OR ");
                    self.wrapped(left, " IS NULL")?;
                }
                self.sql(")");
            }
        }
        Ok(())
    }

    fn list(&mut self, values: &[Literal], beside: Option<usize>) -> Result<(), Unknown> {
        if values.is_empty() {
            return Err(Unknown::Place("an empty list stands behind OpIn only"));
        }
        for (number, value) in values.iter().enumerate() {
            self.sql(if number > 0 { ", " } else { "(" });
            self.literal(value, beside)?;
        }
        self.sql(")");
        Ok(())
    }

    fn literal(&mut self, literal: &Literal, beside: Option<usize>) -> Result<(), Unknown> {
        match beside.map(|column| &self.shape.columns[column]) {
            Some(column) => {
                let column = column.clone();
                self.value(literal, &column);
                Ok(())
            }
            None => self.untyped(literal, 0),
        }
    }

    /// A value of a column's type.
    pub(crate) fn value(&mut self, literal: &Literal, column: &Column) {
        let Some(text) = text_of(literal, column.kind) else {
            self.sql("NULL");
            return;
        };
        self.sql("CAST(");
        // Fractions are rounded.
        let is_rounded = column.kind == Kind::Integer && text.parse::<i64>().is_err();
        self.parameter(text);
        if is_rounded {
            self.sql("::pg_catalog.numeric");
        }
        self.sql(" AS ");
        self.sql(&column.type_name);
        self.sql(")");
    }

    /// A value of the type that its JSON has.
    ///
    /// - Takes: in how many arrays it stands.
    fn untyped(&mut self, literal: &Literal, depth: usize) -> Result<(), Unknown> {
        if literal.json().starts_with('[') {
            return self.untyped_array(literal, depth + 1);
        }
        let (text, ty) = match parsed(literal) {
            Value::Null => {
                self.sql("NULL");
                return Ok(());
            }
            Value::Bool(value) => (value.to_string(), "bool"),
            Value::String(text) => (text, "text"),
            Value::Number(_) => {
                let digits = literal.json();
                let is_whole = digits.parse::<i64>().is_ok();
                (digits.to_owned(), if is_whole { "int8" } else { "float8" })
            }
            Value::Object(_) | Value::Array(_) => (literal.json().to_owned(), "text"),
        };
        self.sql("CAST(");
        self.parameter(text);
        let _ = write!(self.statement.text, " AS pg_catalog.{ty})");
        Ok(())
    }

    /// An array whose elements have the types of their JSON; Postgres finds out what they have in common.
    fn untyped_array(&mut self, literal: &Literal, depth: usize) -> Result<(), Unknown> {
        let elements: Vec<&RawValue> = serde_json::from_str(literal.json()).unwrap_or_default();
        if elements.is_empty() {
            return Err(Unknown::Place("an empty array stands beside a field only"));
        }
        if depth > MOST_DIMENSIONS {
            return Err(Unknown::Place("an array has 6 dimensions at most"));
        }
        self.sql("ARRAY[");
        for (number, element) in elements.into_iter().enumerate() {
            self.sql(if number > 0 { ", " } else { "" });
            self.untyped(&Literal::of(element), depth)?;
        }
        self.sql("]");
        Ok(())
    }
}

/// Dimensions of an array of Postgres at most.
const MOST_DIMENSIONS: usize = 6;

fn parsed(literal: &Literal) -> Value {
    // Numbers beyond every type of Rust are numbers all the same; their digits are taken from the text.
    serde_json::from_str(literal.json()).unwrap_or_else(|_| Value::from(0))
}

/// The text from which Postgres reads a JSON value as the type of a column; `None` is NULL.
pub fn text_of(literal: &Literal, kind: Kind) -> Option<String> {
    let json = literal.json();
    let value = parsed(literal);
    Some(match (kind, value) {
        (_, Value::Null) => return None,
        (Kind::Json, _) => json.to_owned(),
        (Kind::Bytes, Value::String(text)) if !text.starts_with("\\x") => {
            let mut hex = String::from("\\x");
            text.bytes().for_each(|byte| {
                let _ = write!(hex, "{byte:02x}");
            });
            hex
        }
        (Kind::Bool, Value::Number(number)) => (number.as_f64() != Some(0.0)).to_string(),
        (Kind::Point, Value::Object(members)) => match (members.get("x"), members.get("y")) {
            (Some(x), Some(y)) => format!("({x},{y})"),
            _ => json.to_owned(),
        },
        (Kind::Array, Value::Array(_)) => array(json).unwrap_or_else(|| json.to_owned()),
        (_, Value::String(text)) => text,
        _ => json.to_owned(),
    })
}

/// An array as `array_in` reads it; numbers keep all of their digits. `None` for no array.
fn array(json: &str) -> Option<String> {
    let elements: Vec<&RawValue> = serde_json::from_str(json).ok()?;
    let mut out = String::from("{");
    for (number, element) in elements.into_iter().enumerate() {
        out.push_str(if number > 0 { "," } else { "" });
        let json = element.get();
        match json.as_bytes().first() {
            Some(b'n') => out.push_str("NULL"),
            Some(b'[') => out.push_str(&array(json)?),
            Some(b'"') => push_quoted(&serde_json::from_str::<String>(json).ok()?, &mut out),
            Some(b'{') => push_quoted(json, &mut out),
            _ => out.push_str(json),
        }
    }
    out.push('}');
    Some(out)
}

fn push_quoted(text: &str, out: &mut String) {
    out.push('"');
    for letter in text.chars() {
        if matches!(letter, '"' | '\\') {
            out.push('\\');
        }
        out.push(letter);
    }
    out.push('"');
}

/// An identifier in quotes.
pub(crate) fn quoted(name: &str) -> String {
    format!("\"{}\"", name.replace('"', "\"\""))
}
