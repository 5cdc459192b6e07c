//! What a folded change means: operations of buckets, entries of lookups.
//!
//! In: one row's state before and after a transaction. Out: effects, in an order that depends on
//! the input only. Both states are evaluated; the difference is what happens: a row that a
//! bucket held and no longer selects is removed, one whose output did not change makes no
//! operation. Nothing is remembered per row, so a definition can come and go without touching
//! the replica.

use crate::record::{RowName, RowOp, row_name};
use crate::tables::{Bound, Gates, Passage, TablePlan};
use hw_expr::sync_config::{BucketRow, LookupRow};
use hw_types::TableName;
use hw_types::row::RowRef;
use sha2::{Digest, Sha256};
use smallvec::SmallVec;

/// An operation that a change makes, before it has an op id.
pub(crate) struct OpEffect {
    /// Number of the source incarnation.
    pub source: u32,
    pub row: BucketRow,
    /// The row's name in the index of newest operations.
    pub name: RowName,
    pub kind: RowOp,
    pub checksum: u32,
    /// Whether the row was not in the bucket before.
    pub enters: bool,
}

/// An entry of a lookup that comes or goes.
pub(crate) struct LookupEffect {
    /// Number of the lookup incarnation.
    pub lookup: u32,
    /// Parameter values.
    pub key: Vec<u8>,
    /// Tells equal keys of one row apart.
    pub ordinal: u32,
    /// The results.
    pub value: Vec<u8>,
    /// Whether it comes, or goes.
    pub comes: bool,
    /// Whether it is known to have been there, or not, before.
    pub existing: Existing,
}

/// Buffers of an evaluation, reused from row to row.
#[derive(Default)]
pub(crate) struct Effects {
    pub ops: Vec<OpEffect>,
    pub lookups: Vec<LookupEffect>,
    /// Incarnations that stand still and read the row: its state before is kept for them.
    pub held: Vec<u32>,
    /// Name of the source row in operations: `<table incarnation>.<row key>`.
    pub subkey: String,
    before: Vec<BucketRow>,
    after: Vec<BucketRow>,
    lookups_before: Vec<LookupRow>,
    lookups_after: Vec<LookupRow>,
}

/// Which entries of a lookup there are before a change.
#[derive(Clone, Copy, PartialEq, Eq)]
pub(crate) enum Existing {
    /// Those of the row's state before.
    AsBefore,
    /// Some of them.
    Perhaps,
}

/// A change of one row between two transaction boundaries.
pub(crate) struct FoldedChange<'a> {
    /// Number of the table's incarnation.
    pub table: u32,
    /// Its name, for messages.
    pub name: &'a TableName,
    pub key: &'a [u8],
    pub before: Option<RowRef<'a>>,
    pub after: Option<RowRef<'a>>,
}

impl Effects {
    /// Replaces the buffers' contents by the effects of a change.
    ///
    /// - Takes: the plan for the state before and for the state after (one plan, unless the
    ///   table's columns changed in between).
    /// - Order: sources by number, then bucket parameters, output table, output id; lookups by
    ///   number, then as evaluated, removals before entries.
    pub fn evaluate(&mut self, plans: [&TablePlan; 2], gates: &Gates, change: &FoldedChange<'_>) {
        self.differences(plans, gates, change, Existing::AsBefore);
    }

    /// The same for incarnations that stood still: every lookup entry of the state after is written,
    /// because it may have been withdrawn meanwhile.
    pub fn evaluate_anew(&mut self, plans: [&TablePlan; 2], change: &FoldedChange<'_>) {
        self.differences(plans, &Gates::default(), change, Existing::Perhaps);
    }

    fn differences(
        &mut self,
        plans: [&TablePlan; 2],
        gates: &Gates,
        change: &FoldedChange<'_>,
        existing: Existing,
    ) {
        self.ops.clear();
        self.lookups.clear();
        self.held.clear();
        subkey(change.table, change.key, &mut self.subkey);
        for number in numbers(plans) {
            match gates.passage(number, change.table, change.key) {
                Passage::Shut => continue,
                Passage::Held => {
                    self.held.push(number);
                    continue;
                }
                Passage::Open => {}
            }
            let (was, is) = (plans[0].find(number), plans[1].find(number));
            match is.or(was) {
                Some(Bound::Source(_)) => {
                    outputs(was, &change.before, change.name, &mut self.before);
                    outputs(is, &change.after, change.name, &mut self.after);
                    self.difference(number);
                }
                Some(Bound::Lookup(_)) => {
                    entries(was, &change.before, change.name, &mut self.lookups_before);
                    entries(is, &change.after, change.name, &mut self.lookups_after);
                    self.lookup_difference(number, existing);
                }
                None => {}
            }
        }
    }

    fn difference(&mut self, source: u32) {
        let mut old = self.before.drain(..).peekable();
        for row in self.after.drain(..) {
            while let Some(gone) = old.next_if(|o| name(o) < name(&row)) {
                self.ops.push(remove(source, gone, &self.subkey));
            }
            let was = old.next_if(|o| name(o) == name(&row));
            if was.as_ref().is_some_and(|o| o.data == row.data) {
                continue;
            }
            let checksum = put_checksum(&row);
            let enters = was.is_none();
            let name = row_name(&row.object_type, &row.object_id, &self.subkey);
            self.ops.push(OpEffect { source, row, name, kind: RowOp::Put, checksum, enters });
        }
        for gone in old {
            self.ops.push(remove(source, gone, &self.subkey));
        }
    }

    /// Adds the removal of what a row gave to a lookup that stands still, and does not give now.
    ///
    /// - Takes: the row as it was when that began, with how the lookup reads it; the same for the
    ///   state behind the change.
    pub fn withdraw(
        &mut self,
        lookup: u32,
        was: (Option<&Bound>, &Option<RowRef<'_>>),
        is: (Option<&Bound>, &Option<RowRef<'_>>),
        table: &TableName,
    ) {
        entries(was.0, was.1, table, &mut self.lookups_before);
        entries(is.0, is.1, table, &mut self.lookups_after);
        for (row, ordinal) in number(&mut self.lookups_before) {
            if !self.lookups_after.contains(&row) {
                let LookupRow { key, value } = row;
                let (comes, existing) = (false, Existing::Perhaps);
                self.lookups.push(LookupEffect { lookup, key, ordinal, value, comes, existing });
            }
        }
    }

    /// Whether two rows, each as a lookup reads it, give it the same.
    pub fn is_same(
        &mut self,
        one: (Option<&Bound>, &Option<RowRef<'_>>),
        other: (Option<&Bound>, &Option<RowRef<'_>>),
        table: &TableName,
    ) -> bool {
        entries(one.0, one.1, table, &mut self.lookups_before);
        entries(other.0, other.1, table, &mut self.lookups_after);
        self.lookups_before == self.lookups_after
    }

    fn lookup_difference(&mut self, lookup: u32, existing: Existing) {
        let (before, after) = (&mut self.lookups_before, &mut self.lookups_after);
        if existing == Existing::AsBefore && before == after {
            return;
        }
        let gone = number(before).into_iter().map(|(row, ordinal)| (row, ordinal, false));
        let come = number(after).into_iter().map(|(row, ordinal)| (row, ordinal, true));
        for (LookupRow { key, value }, ordinal, comes) in gone.chain(come) {
            self.lookups.push(LookupEffect { lookup, key, ordinal, value, comes, existing });
        }
    }
}

/// The rows of buckets that a state of a row makes, by name.
fn outputs(
    bound: Option<&Bound>,
    row: &Option<RowRef<'_>>,
    table: &TableName,
    out: &mut Vec<BucketRow>,
) {
    out.clear();
    if let (Some(Bound::Source(bound)), Some(row)) = (bound, row)
        && let Err(error) = bound.evaluate(row, out)
    {
        failed(table, &error);
    }
    sort(out);
}

/// The entries of a lookup that a state of a row makes.
fn entries(
    bound: Option<&Bound>,
    row: &Option<RowRef<'_>>,
    table: &TableName,
    out: &mut Vec<LookupRow>,
) {
    out.clear();
    if let (Some(Bound::Lookup(bound)), Some(row)) = (bound, row)
        && let Err(error) = bound.evaluate(row, out)
    {
        failed(table, &error);
    }
}

/// A row that cannot be evaluated is nowhere for that query; others are not held up by it. The error
/// holds no values of the row.
fn failed(table: &TableName, error: &impl std::fmt::Display) {
    metrics::counter!("headwater_rows_not_evaluated_total").increment(1);
    tracing::debug!(%error, %table, "a row cannot be evaluated");
}

/// The numbers that occur in either plan, ascending.
fn numbers(plans: [&TablePlan; 2]) -> SmallVec<[u32; 8]> {
    let mut all: SmallVec<[u32; 8]> = plans[1].0.iter().map(|p| p.number).collect();
    if !std::ptr::eq(plans[0], plans[1]) {
        all.extend(plans[0].0.iter().map(|p| p.number));
        all.sort_unstable();
        all.dedup();
    }
    all
}

/// Numbers rows that share a key, in the order of evaluation.
fn number(rows: &mut Vec<LookupRow>) -> Vec<(LookupRow, u32)> {
    let mut out: Vec<(LookupRow, u32)> = Vec::with_capacity(rows.len());
    for row in rows.drain(..) {
        let ordinal = out.iter().filter(|(other, _)| other.key == row.key).count() as u32;
        out.push((row, ordinal));
    }
    out
}

fn name(row: &BucketRow) -> (&str, &str, &str) {
    (&row.parameters, &row.object_type, &row.object_id)
}

/// Sorts by name; of several outputs with one name the last one written in the definition wins.
fn sort(rows: &mut Vec<BucketRow>) {
    if rows.len() > 1 {
        rows.reverse();
        rows.sort_by(|a, b| name(a).cmp(&name(b)));
        rows.dedup_by(|later, kept| name(later) == name(kept));
    }
}

fn remove(source: u32, row: BucketRow, subkey: &str) -> OpEffect {
    let checksum = digest(&[b"delete.", subkey.as_bytes()]);
    let name = row_name(&row.object_type, &row.object_id, subkey);
    OpEffect { source, row, name, kind: RowOp::Remove, checksum, enters: false }
}

fn put_checksum(row: &BucketRow) -> u32 {
    let [ty, id] = [row.object_type.as_bytes(), row.object_id.as_bytes()];
    digest(&[b"put.", ty, b".", id, b".", row.data.as_bytes()])
}

/// First four bytes of SHA-256, little-endian (`powersync-protocol.md` 6.1).
fn digest(parts: &[&[u8]]) -> u32 {
    let mut hasher = Sha256::new();
    parts.iter().for_each(|part| hasher.update(part));
    let hash = hasher.finalize();
    u32::from_le_bytes([hash[0], hash[1], hash[2], hash[3]])
}

/// `<table incarnation>.<row key>`; a key of more than 48 bytes stands as its SHA-256.
pub(crate) fn subkey(table: u32, key: &[u8], out: &mut String) {
    use base64::Engine as _;
    use std::fmt::Write as _;
    const LONGEST: usize = 48;
    let encoder = base64::engine::general_purpose::URL_SAFE_NO_PAD;
    out.clear();
    let _ = write!(out, "{table}.");
    if key.len() <= LONGEST {
        encoder.encode_string(key, out);
    } else {
        out.push('~');
        encoder.encode_string(Sha256::digest(key), out);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn checksums_are_those_of_the_protocol() {
        // Source: powersync-protocol.md 14.3.
        let row = |ty: &str, id: &str, data: &str| BucketRow {
            parameters: "[]".into(),
            object_type: ty.into(),
            object_id: id.into(),
            data: data.into(),
        };
        let list = row("lists", "l1", r#"{"id":"l1","name":"Groceries","owner_id":"u1"}"#);
        assert_eq!(put_checksum(&list), 1_551_088_854);
        let todo = r#"{"id":"t2","list_id":"l1","description":"Café ☕","done":0}"#;
        assert_eq!(put_checksum(&row("todos", "t2", todo)), 2_432_781_112);
        let subkey = "8d3f0b0e-7c57-4a0c-9a52-2f1f0f6a9c01/aaaaaaaa-0000-5000-8000-000000000012";
        assert_eq!(digest(&[b"delete.", subkey.as_bytes()]), 34_407_725);
    }

    #[test]
    fn long_row_keys_stand_as_a_hash_in_subkeys() {
        let (mut short, mut long) = (String::new(), String::new());
        subkey(3, &[1, 2, 3], &mut short);
        subkey(3, &[0; 100], &mut long);
        assert_eq!(short, "3.AQID");
        assert_eq!(long.len(), "3.~".len() + 43);
    }
}
