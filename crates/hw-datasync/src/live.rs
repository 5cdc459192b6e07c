//! Queries whose results are kept live.
//!
//! In: a query and the shape of its table. Out: a [`LiveQuery`]: the statement that gives the result, and, where
//! there is such a form, the condition by which the engine finds whom a change concerns without asking.

use hw_live::{Groups, LiveQuery, Matcher, Wants};
use hw_types::{Sql, TableName};
use hw_write::StatementError;

use crate::aggregate::{live_count, live_groups};
use crate::statement::{Shape, condition_of, keyed_rows};
use crate::wire::{Query, Selected, Wanted};

/// The query as it is kept live.
pub(crate) fn live_query(
    query: &Query,
    shape: &Shape,
    wanted: &Wanted,
) -> Result<LiveQuery, StatementError> {
    let (rows, wants) = match wanted {
        Wanted::Rows => (keyed_rows(query, shape)?, Wants::Rows),
        Wanted::Count => grouped(live_count(query, shape)?),
        Wanted::Groups(groups) => grouped(live_groups(query, groups, shape)?),
    };
    let name = |column: &usize| shape.columns[*column].name.clone();
    let columns: Vec<usize> = match &query.selected {
        Selected::All => (0..shape.columns.len()).collect(),
        // Each is there: the statement has them.
        Selected::Fields(fields) => {
            fields.iter().filter_map(|field| shape.fields.column(field)).collect()
        }
    };
    let filter = match &query.condition {
        None => Some(None),
        Some(condition) => condition_of(condition, shape).ok().map(Some),
    };
    let fields = columns.iter().map(|it| (shape.fields.field(*it).to_owned(), name(it))).collect();
    let is_window = query.is_window();
    let matcher = filter.map(|filter| Matcher { filter, fields, is_window });
    Ok(LiveQuery {
        table: TableName::new(shape.name.0.clone(), shape.name.1.clone()),
        key: shape.key.iter().map(name).collect(),
        rows,
        wants,
        as_text: shape.columns.iter().filter(|it| it.as_text).map(|it| it.name.clone()).collect(),
        matcher,
    })
}

fn grouped((statement, groups): (Sql, Groups)) -> (Sql, Wants) {
    (statement, Wants::Groups(groups))
}
