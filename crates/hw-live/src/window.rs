//! A window: the first rows in an order, kept with some that stand behind them, so that one that goes is replaced
//! without asking, and one that comes behind all of them is known to concern nobody.
//!
//! In: what Postgres gave in that order, and rows that change. Out: the window behind them. Invariants: rows stand as
//! Postgres has them, and no other that matches stands before the last of them; where that cannot be said any more, or
//! the window would not be full, there is an error, and Postgres is asked.

use crate::query::{FirstRows, Key, Record};
use crate::rendering::{Moved, Rendering};
use crate::row_order::{Place, RowOrder};
use hw_expr::postgres::EvalError;
use std::borrow::Cow;
use std::cmp::Ordering;
use std::sync::Arc;

/// The first rows.
#[derive(Clone, Debug)]
pub(crate) struct Window {
    /// Those before the window, those in it, and some behind it.
    rows: Vec<Standing>,
    /// Whether no other row matches.
    is_whole: bool,
}

/// A row that stands in its order.
#[derive(Clone, Debug)]
pub(crate) struct Standing {
    pub key: Key,
    place: Arc<Place>,
    /// What it is told as.
    pub record: Record,
}

/// What Postgres gave of the first rows.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Fetched {
    /// Keys, records and places, from the first row on.
    pub rows: Vec<(Key, Record, Box<str>)>,
    /// Whether there are no more.
    pub is_whole: bool,
}

impl Window {
    /// `None` where a place cannot be read: then it is asked each time.
    pub fn read(fetched: &Fetched, order: &RowOrder) -> Option<Window> {
        let standing = |(key, record, place): &(Key, Record, Box<str>)| {
            let place = Arc::new(order.read(place)?);
            Some(Standing { key: key.clone(), place, record: record.clone() })
        };
        let rows = fetched.rows.iter().map(standing).collect::<Option<_>>()?;
        Some(Window { rows, is_whole: fetched.is_whole })
    }

    /// The rows that are in the window.
    pub fn told(&self, first: &FirstRows) -> &[Standing] {
        let end = self.rows.len().min(first.end());
        &self.rows[first.offset.min(end)..end]
    }

    /// The window behind a transaction; `None` where it is as it was.
    ///
    /// - Takes: the rows that match, before it and behind it.
    /// - Errors: it has to be asked.
    pub fn behind(
        &self,
        rendering: &Rendering,
        order: &RowOrder,
        moved: &[Moved<'_>],
    ) -> Result<Option<Window>, EvalError> {
        let mut next = Cow::Borrowed(self);
        let mut coming = Vec::new();
        // All that goes, goes first: what comes is compared with what is there behind the transaction.
        for Moved { before, after } in moved {
            let now = match after {
                Some(row) => Some((rendering.key(row)?, order.place(row)?, *row)),
                None => None,
            };
            if let Some(before) = before {
                let key = rendering.key(before)?;
                let stays = match &now {
                    Some((now, place, _)) => *now == key && order.place(before)? == *place,
                    None => false,
                };
                let at = next.rows.iter().position(|row| row.key == key);
                match (at, now.as_ref().filter(|_| stays)) {
                    (None, _) if self.is_whole => return Err(NOT_THERE),
                    // Behind all of them, and there it stays.
                    (None, Some(_)) => continue,
                    (None, None) => {}
                    (Some(at), Some((_, _, row))) => {
                        next.to_mut().rows[at].record = rendering.record(row)?;
                        continue;
                    }
                    (Some(at), None) => drop(next.to_mut().rows.remove(at)),
                }
            }
            coming.extend(now);
        }
        for (key, place, row) in coming {
            let Some(at) = next.find(order, &place)? else { continue };
            let record = rendering.record(row)?;
            next.to_mut().rows.insert(at, Standing { key, place: Arc::new(place), record });
        }
        let Cow::Owned(mut next) = next else { return Ok(None) };
        let most = order.first.end() + order.first.beyond;
        if next.rows.len() > most {
            next.rows.truncate(most);
            next.is_whole = false;
        }
        if next.rows.len() < order.first.end() && !next.is_whole {
            return Err(EvalError("which row follows in the window is not known"));
        }
        Ok(Some(next))
    }

    /// Before which row one comes; `None`: behind all that are known, where nothing is known.
    fn find(&self, order: &RowOrder, place: &Place) -> Result<Option<usize>, EvalError> {
        let behind = self.is_whole.then_some(self.rows.len());
        let Some(last) = self.rows.last() else { return Ok(behind) };
        // Most rows are far away: the last one is compared first.
        if order.compare(place, &last.place)? == Ordering::Greater {
            return Ok(behind);
        }
        for (at, row) in self.rows.iter().enumerate() {
            match order.compare(place, &row.place)? {
                Ordering::Less => return Ok(Some(at)),
                Ordering::Equal => return Err(NOT_THERE),
                Ordering::Greater => {}
            }
        }
        Ok(behind)
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        let row = |row: &Standing| {
            let values = row.place.iter().map(|value| {
                size_of::<Option<Box<[u8]>>>() + value.as_ref().map_or(0, |bytes| bytes.len())
            });
            OF_STANDING + row.key.len() + values.sum::<usize>() + row.record.json().len()
        };
        self.rows.iter().map(row).sum()
    }
}

/// A row of a window, beside its key, its values and its record.
const OF_STANDING: usize = 160;

const NOT_THERE: EvalError = EvalError("a row is not where it was in the window");
