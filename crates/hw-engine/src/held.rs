//! What rows were for definitions that stand still ([`crate::frozen`]).
//!
//! For each incarnation that stands still, the space `held.<number>` keeps what a row was at its
//! first change since (or that it was not there), with the columns it had.
//!
//! Invariant: a held row is written in the same commit as the change of the row.

use crate::error::EngineError;
use crate::evaluate::FoldedChange;
use crate::overlay::Sink;
use crate::record::take;
use crate::state::{put_relation, take_relation};
use crate::tables::Table;
use hw_types::{Relation, varint};

/// Keys of a `held` space begin with one of these.
pub(crate) const ROW: u8 = b'r';
const LAYOUT: u8 = b'l';

const VERSION: u8 = 1;

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

/// Keeps what a row was before a change, for incarnations that stand still, unless an earlier
/// change has done so.
///
/// - Takes: the table as the state before was stored.
pub(crate) fn hold<S: Sink>(
    numbers: &[u32],
    sink: &mut S,
    table: &Table,
    change: &FoldedChange<'_>,
) -> Result<(), EngineError> {
    for number in numbers {
        let space = sink.base().store().space(&space_name(*number))?;
        let key = row_key(change.table, change.key);
        if sink.base().get(&space, &key)?.is_some() {
            continue;
        }
        let mut value = vec![VERSION];
        varint::put(&mut value, u64::from(table.record.layout));
        match &change.before {
            None => value.push(0),
            Some(row) => {
                value.push(1);
                value.extend_from_slice(row.as_bytes());
                let layout = layout_key(change.table, table.record.layout);
                if sink.base().get(&space, &layout)?.is_none() {
                    let mut columns = vec![VERSION];
                    put_relation(&mut columns, &table.record.relation);
                    sink.put(&space, layout, columns)?;
                }
            }
        }
        sink.put(&space, key, value)?;
    }
    Ok(())
}

/// A held row: the columns' number, and the row if there was one.
pub(crate) fn read_row(mut value: &[u8]) -> Option<(u32, Option<&[u8]>)> {
    let input = &mut value;
    if take(input, 1)? != [VERSION] {
        return None;
    }
    let layout = u32::try_from(varint::take(input)?).ok()?;
    match take(input, 1)? {
        [0] => Some((layout, None)),
        [1] => Some((layout, Some(input))),
        _ => None,
    }
}

pub(crate) fn read_layout(mut value: &[u8]) -> Option<Relation> {
    let input = &mut value;
    if take(input, 1)? != [VERSION] {
        return None;
    }
    take_relation(input).filter(|_| input.is_empty())
}

pub(crate) fn split_key(key: &[u8]) -> Option<(u32, &[u8])> {
    let table = key.get(1..5)?.try_into().ok().map(u32::from_be_bytes)?;
    Some((table, &key[5..]))
}
