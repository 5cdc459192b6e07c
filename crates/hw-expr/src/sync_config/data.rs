//! Data queries: one row of a source table to the buckets that it is in, with its payload.
//!
//! This is the hottest path of the server. A query is bound to a table once: names become
//! indexes, types become decoders, output keys become ready JSON. Then a row costs one text per
//! bucket and one payload per query; plain columns go from canonical bytes to JSON without a
//! value in between.

use super::plan::{Binder, BoundColumn, BoundPlan, RowName, RowPlan, RowScope, Slot, columns};
use super::table::TableRead;
use crate::error::EvalError;
use crate::expr::Expr;
use crate::json::write_string;
use crate::values::{ValueOptions, write_row_id, write_value_json};
use hw_types::{Cell, Relation, RowRef, TablePattern};
use std::cell::RefCell;
use std::sync::Arc;

/// One `SELECT` that fills a bucket source.
#[derive(Clone, Debug)]
pub struct DataQuery {
    /// The tables that it reads.
    pub table: TablePattern,
    /// Name of the table on the client; `None`: that of the source table.
    pub output: Option<String>,
    /// The columns.
    pub items: Vec<OutputItem>,
    /// Which star rule holds.
    pub star: StarRule,
    /// The ways into a bucket. A plan's keys are the bucket's parameters in their order.
    pub plans: Vec<RowPlan>,
}

/// One column of a data query, or all of them.
#[derive(Clone, Debug)]
pub enum OutputItem {
    /// `*`.
    Star,
    /// `expr AS name`.
    Named(String, Expr<RowName>),
}

/// What `*` copies (`sync-rules.md` 5.3).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum StarRule {
    /// Columns whose name does not start with `_`; an output that is already not NULL stays.
    Classic,
    /// All columns; later items overwrite earlier ones.
    Streams,
}

impl DataQuery {
    /// What it reads.
    pub(super) fn reads(&self) -> TableRead {
        let plans = self.plans.iter().flat_map(RowPlan::expressions);
        let named = self.items.iter().filter_map(|item| match item {
            OutputItem::Named(_, value) => Some(value),
            OutputItem::Star => None,
        });
        let mut columns = columns(plans.chain(named));
        let gives = |name: &str| {
            self.items.iter().any(|item| matches!(item, OutputItem::Named(n, _) if n == name))
        };
        let has_star = self.items.iter().any(|item| matches!(item, OutputItem::Star));
        let id_of_star = has_star && !gives("id") && columns.insert("id".to_owned());
        TableRead { table: self.table.clone(), columns, id_of_star }
    }

    /// Appends an unambiguous text of everything that decides which rows this query puts where,
    /// and with which bytes.
    pub fn write_canonical(&self, out: &mut String) {
        self.write_form(out);
        self.plans_apart().iter().for_each(|plan| out.push_str(plan));
    }

    /// The same of each of its ways into a bucket by itself.
    pub fn canonical_ways(&self) -> Vec<String> {
        let mut form = String::new();
        self.write_form(&mut form);
        self.plans_apart().iter().map(|plan| format!("{form}{plan}")).collect()
    }

    /// What it reads, and what clients are given of a row.
    fn write_form(&self, out: &mut String) {
        out.push_str(&format!("from {} as {:?} {:?}\n", self.table, self.output, self.star));
        for item in &self.items {
            match item {
                OutputItem::Star => out.push_str("*\n"),
                OutputItem::Named(name, expr) => {
                    write_string(name, out);
                    out.push('=');
                    expr.write_canonical(out);
                    out.push('\n');
                }
            }
        }
    }

    /// The text of each plan, in an order that does not depend on how they were written, and once.
    fn plans_apart(&self) -> Vec<String> {
        let mut plans: Vec<String> = self
            .plans
            .iter()
            .map(|plan| {
                let mut text = String::new();
                plan.write_canonical(&mut text);
                text
            })
            .collect();
        plans.sort();
        plans.dedup();
        plans
    }

    /// Binds the query to a table that it reads.
    pub(super) fn bind(&self, relation: &Relation, options: ValueOptions) -> BoundQuery {
        let suffix = relation.name.name.get(self.table.table.text.len()..).unwrap_or("");
        let mut binder = Binder::new(relation, suffix, options);
        let plans = self.plans.iter().map(|plan| plan.bind(&mut binder)).collect();
        let mut outputs: Vec<(String, Output)> = Vec::new();
        for item in &self.items {
            match item {
                OutputItem::Star => {
                    for (index, column) in relation.columns.iter().enumerate() {
                        if self.star == StarRule::Classic && column.name.starts_with('_') {
                            continue;
                        }
                        let value = Output::Column(binder.column_at(index));
                        match outputs.iter_mut().find(|(name, _)| *name == column.name) {
                            None => outputs.push((column.name.clone(), value)),
                            Some((_, slot)) if self.star == StarRule::Classic => {
                                let first = std::mem::replace(slot, Output::Missing);
                                *slot = Output::FirstOf(Box::new(first), Box::new(value));
                            }
                            Some((_, slot)) => *slot = value,
                        }
                    }
                }
                OutputItem::Named(name, expr) => {
                    let value = match expr {
                        Expr::Ref(RowName::Column(column)) => match binder.column(column) {
                            Some(slot) => Output::Column(slot),
                            None => Output::Missing,
                        },
                        expr => Output::Computed(binder.expr(expr)),
                    };
                    match outputs.iter_mut().find(|(n, _)| n == name) {
                        None => outputs.push((name.clone(), value)),
                        Some((_, slot)) => *slot = value,
                    }
                }
            }
        }
        let id = outputs.iter().find(|(name, _)| name == "id").map(|(_, value)| value.clone());
        let outputs = outputs
            .into_iter()
            .filter(|(_, value)| !matches!(value, Output::Missing))
            .map(|(name, value)| {
                let mut key = String::new();
                write_string(&name, &mut key);
                key.push(':');
                (key.into_boxed_str(), value)
            })
            .collect();
        BoundQuery {
            object_type: Arc::from(self.output.as_deref().unwrap_or(&relation.name.name)),
            columns: binder.columns,
            plans,
            id: id.unwrap_or(Output::Missing),
            outputs,
        }
    }
}

/// A row's place in one bucket.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BucketRow {
    /// The bucket's parameters as JSON array text: `["u1"]`.
    pub parameters: String,
    /// Name of the table on the client.
    pub object_type: Arc<str>,
    /// The row's `id` as text.
    pub object_id: String,
    /// The payload: a JSON object text, shared by all buckets of the row.
    pub data: Arc<str>,
}

/// A bucket source bound to one table.
#[derive(Clone, Debug)]
pub struct BoundSource {
    pub(super) queries: Vec<BoundQuery>,
}

/// A data query bound to one table.
#[derive(Clone, Debug)]
pub(super) struct BoundQuery {
    object_type: Arc<str>,
    columns: Vec<BoundColumn>,
    plans: Vec<BoundPlan>,
    id: Output,
    /// Ready `"name":` and the value behind it.
    outputs: Vec<(Box<str>, Output)>,
}

#[derive(Clone, Debug)]
enum Output {
    Column(usize),
    Computed(Expr<Slot>),
    /// The first unless it is NULL.
    FirstOf(Box<Output>, Box<Output>),
    /// A column that the table does not have: its key is left out.
    Missing,
}

thread_local! {
    /// Payload and parameters are built here and copied out once, so that a row costs no
    /// growing buffers.
    static SCRATCH: RefCell<(String, String)> = RefCell::default();
}

impl BoundSource {
    /// Appends every bucket that the row is in. `out` is not cleared.
    ///
    /// - Errors: the row cannot be evaluated by one of the queries; nothing of that query is
    ///   appended, and the other queries' results are. The caller logs the error and goes on: it
    ///   names no values (`sync-rules.md` 9.2).
    pub fn evaluate(&self, row: &RowRef<'_>, out: &mut Vec<BucketRow>) -> Result<(), EvalError> {
        let mut result = Ok(());
        for query in &self.queries {
            let before = out.len();
            if let Err(error) = query.evaluate(row, out) {
                out.truncate(before);
                result = Err(error);
            }
        }
        result
    }
}

impl BoundQuery {
    fn evaluate(&self, row: &RowRef<'_>, out: &mut Vec<BucketRow>) -> Result<(), EvalError> {
        SCRATCH.with_borrow_mut(|(payload, parameters)| {
            let scope = RowScope { row, columns: &self.columns };
            let first = out.len();
            let empty: Arc<str> = Arc::clone(&self.object_type);
            for plan in &self.plans {
                plan.run(&scope, &mut |keys, _| {
                    parameters.clear();
                    parameters.push('[');
                    for (i, key) in keys.iter().enumerate() {
                        if i > 0 {
                            parameters.push(',');
                        }
                        key.write_parameter(parameters);
                    }
                    parameters.push(']');
                    if out[first..].iter().all(|r| r.parameters != *parameters) {
                        out.push(BucketRow {
                            parameters: parameters.clone(),
                            object_type: Arc::clone(&self.object_type),
                            object_id: String::new(),
                            data: Arc::clone(&empty),
                        });
                    }
                })?;
            }
            if out.len() == first {
                return Ok(());
            }
            payload.clear();
            self.write_payload(&scope, payload)?;
            let data: Arc<str> = Arc::from(payload.as_str());
            payload.clear();
            self.write_id(&self.id, &scope, payload)?;
            for found in &mut out[first..] {
                found.data = Arc::clone(&data);
                found.object_id.push_str(payload);
            }
            Ok(())
        })
    }

    fn write_payload(&self, scope: &RowScope<'_>, out: &mut String) -> Result<(), EvalError> {
        out.push('{');
        for (key, value) in &self.outputs {
            let before = out.len();
            if before > 1 {
                out.push(',');
            }
            out.push_str(key);
            if !write_output(value, scope, out)? {
                out.truncate(before);
            }
        }
        out.push('}');
        Ok(())
    }

    fn write_id(
        &self,
        output: &Output,
        scope: &RowScope<'_>,
        out: &mut String,
    ) -> Result<(), EvalError> {
        match output {
            Output::Missing => {}
            Output::FirstOf(first, second) if is_null(first, scope)? => {
                self.write_id(second, scope, out)?;
            }
            Output::FirstOf(first, _) => self.write_id(first, scope, out)?,
            Output::Column(slot) => write_row_id(&column(scope, *slot)?, out),
            Output::Computed(expr) => write_row_id(&expr.evaluate(scope)?, out),
        }
        Ok(())
    }
}

fn column<'v>(scope: &RowScope<'v>, slot: usize) -> Result<crate::value::SqlValue<'v>, EvalError> {
    crate::expr::Scope::value(scope, &Slot::Column(slot))
}

/// Appends an output; `false`, and perhaps rubbish behind the key, when its key is left out.
fn write_output(
    output: &Output,
    scope: &RowScope<'_>,
    out: &mut String,
) -> Result<bool, EvalError> {
    match output {
        Output::Column(slot) => {
            let column = &scope.columns[*slot];
            match scope.row.get(column.index) {
                Cell::Value(bytes) => column.decoder.write_json(bytes, out).map_err(EvalError),
                Cell::Null | Cell::Absent => {
                    out.push_str("null");
                    Ok(true)
                }
            }
        }
        Output::Computed(expr) => Ok(write_value_json(&expr.evaluate(scope)?, out)),
        Output::FirstOf(first, second) if is_null(first, scope)? => {
            write_output(second, scope, out)
        }
        Output::FirstOf(first, _) => write_output(first, scope, out),
        Output::Missing => Ok(false),
    }
}

fn is_null(output: &Output, scope: &RowScope<'_>) -> Result<bool, EvalError> {
    Ok(match output {
        Output::Column(slot) => scope.row.get(scope.columns[*slot].index).bytes().is_none(),
        Output::Computed(expr) => expr.evaluate(scope)?.is_null(),
        Output::FirstOf(first, second) => is_null(first, scope)? && is_null(second, scope)?,
        Output::Missing => true,
    })
}
