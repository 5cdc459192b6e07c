//! Which rows of a table transactions have touched, by the keys under which they are told.

use crate::plan::key_of;
use crate::query::Key;
use hw_engine::{ChangedRow, Committed, Published};
use hw_types::{PgType, TableName};
use std::collections::HashSet;

/// The keys of the rows of a table that these transactions touched and did not remove, whether or not anything
/// of them has changed.
///
/// - Takes: the columns of the key, in the order in which they stand in it. Where one of them has no exact JSON
///   here, or what a transaction touched is not known, nothing is said: that a row changed shows in its result.
pub(crate) fn touched<'c>(
    table: &TableName,
    key: &[String],
    published: &Published,
    committed: impl Iterator<Item = &'c Committed>,
) -> HashSet<Key> {
    let Some(view) = published.table(table).entered() else { return HashSet::new() };
    let all = &view.relation().columns;
    let column = |name: &String| {
        let index = all.iter().position(|column| column.name == *name)?;
        Some((index, all[index].pg_type.clone()))
    };
    let Some(columns) = key.iter().map(column).collect::<Option<Vec<(usize, PgType)>>>() else {
        return HashSet::new();
    };
    let rows = committed.flat_map(|one| &one.tables).filter(|changed| changed.name() == table);
    let rows = rows.filter_map(|changed| changed.known()).flatten();
    rows.filter_map(|ChangedRow { after, .. }| key_of(&after.as_ref()?.row.view(), &columns).ok())
        .collect()
}
