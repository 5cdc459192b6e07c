//! What rows were for definitions that stand still ([`crate::frozen`]).
//!
//! For each incarnation that stands still, the space `held.<number>` keeps what a row was at its
//! first change since (or that it was not there), with the columns it had.
//!
//! Invariant: a held row is written in the same commit as the change of the row.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::overlay::{Overlay, Sink};
use crate::record::take;
use crate::state::Record;
use crate::tables::Table;
use hw_types::{Relation, Row, varint};

/// Keys of a `held` space begin with one of these.
pub(crate) const ROW: u8 = b'r';
const LAYOUT: u8 = b'l';

/// What a row was for an incarnation that stands still.
#[derive(PartialEq)]
pub(crate) struct HeldRow {
    /// Number of the columns that it had.
    pub layout: u32,
    /// The row, if it was there.
    pub row: Option<Row>,
}

impl Record for HeldRow {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, u64::from(self.layout));
        out.push(u8::from(self.row.is_some()));
        out.extend_from_slice(self.row.as_ref().map_or(&[], Row::as_bytes));
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let layout = u32::try_from(varint::take(input)?).ok()?;
        let row = match take(input, 1)? {
            [0] => None,
            [1] => Some(Row::from_encoded(std::mem::take(input))),
            _ => return None,
        };
        Some(HeldRow { layout, row })
    }
}

/// The key of a held row: table incarnation, row key.
fn row_key(table: u32, key: &[u8]) -> Vec<u8> {
    [&[ROW][..], &table.to_be_bytes(), key].concat()
}

/// The key of the columns that held rows of a table had.
pub(crate) fn layout_key(table: u32, layout: u32) -> Vec<u8> {
    [&[LAYOUT][..], &table.to_be_bytes(), &layout.to_be_bytes()].concat()
}

pub(crate) fn damaged(what: &'static str) -> EngineError {
    EngineError::damaged("held", what)
}

/// The name of the space of an incarnation's held rows.
pub(crate) fn space_name(number: u32) -> String {
    format!("held.{number}")
}

/// Keeps what a row was before a change, for an incarnation that stands still, unless an earlier
/// change has done so. Returns what is kept.
///
/// - Takes: the table as the state before was stored.
pub(crate) fn hold<S: Sink>(
    number: u32,
    sink: &mut S,
    table: &Table,
    change: &FoldedChange<'_>,
) -> Result<HeldRow, EngineError> {
    let space = sink.base().store().space(&space_name(number))?;
    let key = row_key(change.table, change.key);
    if let Some(held) = sink.base().get(&space, &key)? {
        return HeldRow::decode(&held);
    }
    let layout = table.record.layout;
    let row = change.before.as_ref().map(|row| Row::from_encoded(row.as_bytes()));
    let columns = layout_key(change.table, layout);
    if row.is_some() && sink.base().get(&space, &columns)?.is_none() {
        sink.put(&space, columns, table.record.relation.encode())?;
    }
    let held = HeldRow { layout, row };
    sink.put(&space, key, held.encode())?;
    Ok(held)
}

/// The columns that held rows of a table had.
pub(crate) fn columns(
    base: &Overlay,
    number: u32,
    table: u32,
    layout: u32,
) -> Result<Relation, EngineError> {
    let space = base.store().space(&space_name(number))?;
    let columns = base.get(&space, &layout_key(table, layout))?;
    Relation::decode(&columns.ok_or_else(|| damaged("columns"))?)
}

pub(crate) fn split_key(key: &[u8]) -> Option<(u32, &[u8])> {
    let table = key.get(1..5)?.try_into().ok().map(u32::from_be_bytes)?;
    Some((table, &key[5..]))
}
