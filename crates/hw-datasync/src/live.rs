//! Queries whose results are kept live.
//!
//! In: a query and the shape of its table. Out: a [`LiveQuery`]: the statement that gives the result, and, where
//! there is such a form, the condition by which the engine finds whom a change concerns without asking.

use hw_live::{FirstRows, Groups, LiveQuery, Matcher, Wants};
use hw_types::{Sql, TableName};
use hw_write::StatementError;

use crate::aggregate::{live_count, live_groups};
use crate::statement::{Shape, condition_of, first_rows, keyed_rows};
use crate::wire::{Order, Query, Selected, Wanted};

/// The query as it is kept live.
pub(crate) fn live_query(
    query: &Query,
    shape: &Shape,
    wanted: &Wanted,
) -> Result<LiveQuery, StatementError> {
    let filter = match &query.condition {
        None => Some(None),
        Some(condition) => condition_of(condition, shape).ok().map(Some),
    };
    let is_of_rows = matches!(wanted, Wanted::Rows);
    let window = window_of(query, shape).filter(|_| is_of_rows && filter.is_some());
    let (rows, wants) = match wanted {
        Wanted::Rows => match &window {
            Some(first) => (first_rows(query, shape, first)?, Wants::Rows),
            None => (keyed_rows(query, shape)?, Wants::Rows),
        },
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
    let fields = columns.iter().map(|it| (shape.fields.field(*it).to_owned(), name(it))).collect();
    let is_window = query.is_window();
    let matcher = filter.map(|filter| Matcher { filter, fields, is_window });
    Ok(LiveQuery {
        table: TableName::new(shape.name.0.clone(), shape.name.1.clone()),
        key: shape.key.iter().map(name).collect(),
        rows,
        wants,
        window,
        as_text: shape.columns.iter().filter(|it| it.as_text).map(|it| it.name.clone()).collect(),
        matcher,
    })
}

/// As many rows before a window are held with it, and in it: what is further on is asked each time.
const MOST_HELD: i64 = 1_000;

/// As many rows behind a window are held as are in it, within these bounds.
const BEYOND: (usize, usize) = (16, 100);

/// The window of a query as the first rows in an order, with those of one place in the order of their keys, which is
/// as good as any other; `None` where it is no such window.
fn window_of(query: &Query, shape: &Shape) -> Option<FirstRows> {
    let (limit, offset) = (query.limit?, query.offset.unwrap_or(0));
    if query.distinct_on.is_some() || limit == 0 || limit.max(offset) > MOST_HELD {
        return None;
    }
    let of_query = query.order.iter().map(|order| match order {
        Order::Field { field, descending } => Some((shape.fields.column(field)?, *descending)),
        Order::Rank { .. } => None,
    });
    let of_key = shape.key.iter().map(|column| Some((*column, false)));
    let name =
        |(column, descending): (usize, bool)| (shape.columns[column].name.clone(), descending);
    let order = of_query.chain(of_key).map(|column| column.map(name)).collect::<Option<_>>()?;
    let (offset, limit) = (usize::try_from(offset).ok()?, usize::try_from(limit).ok()?);
    Some(FirstRows { order, offset, limit, beyond: limit.clamp(BEYOND.0, BEYOND.1) })
}

fn grouped((statement, groups): (Sql, Groups)) -> (Sql, Wants) {
    (statement, Wants::Groups(groups))
}
