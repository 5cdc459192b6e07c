//! Parameter indexes: which keys a row of a parameter table is found under, and what it answers.
//!
//! Equal values give equal keys (1 = 1.0), keys are self-delimiting, and an entry holds the
//! outputs that later steps of a querier use.

use super::plan::{Binder, BoundColumn, BoundPlan, RowPlan, RowScope, columns};
use super::table::TableRead;
use crate::error::EvalError;
use crate::value::SqlValue;
use crate::values::ValueOptions;
use hw_types::row::Cell;
use hw_types::{Relation, RowRef, TablePattern};

/// A parameter index.
#[derive(Clone, Debug)]
pub struct LookupDef {
    /// Hash of everything that decides the index's contents. Indexes with equal fingerprints are
    /// the same index, in this configuration or another.
    pub fingerprint: [u8; 32],
    /// The tables that it reads.
    pub table: TablePattern,
    pub(super) plans: Vec<RowPlan>,
    pub(super) options: ValueOptions,
}

/// One entry of a parameter index.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct LookupRow {
    /// The encoded key values.
    pub key: Vec<u8>,
    /// The encoded outputs.
    pub value: Vec<u8>,
}

/// A parameter index bound to one table.
#[derive(Clone, Debug)]
pub struct BoundLookup {
    columns: Vec<BoundColumn>,
    plans: Vec<BoundPlan>,
}

impl LookupDef {
    /// What it reads.
    pub fn reads(&self) -> TableRead {
        let columns = columns(self.plans.iter().flat_map(RowPlan::expressions));
        TableRead { table: self.table.clone(), columns, id_of_star: false }
    }

    /// Appends an unambiguous text of what decides the index's contents.
    pub(super) fn write_canonical(&self, out: &mut String) {
        out.push_str(&format!("index of {}\n", self.table));
        self.plans.iter().for_each(|plan| plan.write_canonical(out));
    }

    /// Binds the index to a table; `None` when it does not read it. Again for every change of
    /// the table's columns.
    pub fn bind(&self, relation: &Relation) -> Option<BoundLookup> {
        if !self.table.matches(&relation.name) {
            return None;
        }
        let suffix = relation.name.name.get(self.table.table.text.len()..).unwrap_or("");
        let mut binder = Binder::new(relation, suffix, self.options);
        let plans = self.plans.iter().map(|plan| plan.bind(&mut binder)).collect();
        Some(BoundLookup { columns: binder.columns, plans })
    }
}

impl BoundLookup {
    /// Whether a row has all that the index reads: the log leaves out large values that did not change.
    pub fn has_all_of(&self, row: &RowRef<'_>) -> bool {
        !self.columns.iter().any(|column| matches!(row.get(column.index), Cell::Absent))
    }

    /// Appends the entries of a row, without duplicates. `out` is not cleared.
    ///
    /// - Errors: the row cannot be evaluated; nothing is appended. The caller logs it and goes
    ///   on: the row is found under no key.
    pub fn evaluate(&self, row: &RowRef<'_>, out: &mut Vec<LookupRow>) -> Result<(), EvalError> {
        let first = out.len();
        let scope = RowScope { row, columns: &self.columns };
        for plan in &self.plans {
            let result = plan.run(&scope, &mut |keys, outputs| {
                let mut entry = LookupRow { key: Vec::new(), value: Vec::new() };
                for key in keys {
                    key.write_key(&mut entry.key);
                }
                outputs.iter().for_each(|output| output.write_stored(&mut entry.value));
                if !out[first..].contains(&entry) {
                    out.push(entry);
                }
            });
            if let Err(error) = result {
                out.truncate(first);
                return Err(error);
            }
        }
        Ok(())
    }
}

/// Appends the outputs of an entry; `None` when the bytes are damaged.
pub(super) fn read_outputs(mut value: &[u8], out: &mut Vec<SqlValue<'static>>) -> Option<()> {
    while !value.is_empty() {
        out.push(SqlValue::read_stored(&mut value)?);
    }
    Some(())
}
