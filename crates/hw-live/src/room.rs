//! What a result holds in memory, and whether there may be more of it.
//!
//! In: what is held of it, and what waits to be taken or sent. Out: bytes, and whether there is room for them.
//! Figures are those of the structures themselves, rounded up; `live-memory` of the benchmarks measures the whole.

use crate::query::LiveQuery;
use std::time::{Duration, Instant};

/// Counts the bytes that one result holds, until it is dropped: takes how many there are from now on, and says
/// whether there is room for them. Where there is none, nothing has changed; for fewer than before there always is.
pub type Room = Box<dyn FnMut(usize) -> bool + Send>;

/// A result by itself, with its plan and its places in indexes.
const OF_RESULT: usize = 1_024;
/// So much of what waits is part of that: one small change can always be told, however many results others hold.
const OF_SMALL_NEWS: usize = 256;
/// A value that is asked with: its texts, and where a plan finds rows by it.
const OF_PARAMETER: usize = 160;
/// A row that is held, beside its key.
pub(crate) const OF_ROW: usize = 72;
/// A group that is held, beside its key and its record.
pub(crate) const OF_GROUP: usize = 160;
/// A row of which there is news, beside its key and its records. More than of one that is held: what goes from there
/// to here, or back, never needs more room than it had.
pub(crate) const OF_NEWS: usize = 192;

/// The room of one result.
pub(crate) struct Counted {
    room: Room,
    /// What it holds by itself.
    own: usize,
    /// What there was no room for.
    lack: Option<Lack>,
}

#[derive(Clone, Copy)]
struct Lack {
    bytes: usize,
    since: Instant,
}

impl Counted {
    /// - Takes: what counts; the query, with its parameters.
    pub fn new(room: Room, query: &LiveQuery) -> Counted {
        let filter = query.matcher.as_ref().and_then(|matcher| matcher.filter.as_ref());
        let of = |sql: &hw_types::Sql| {
            let parameters = sql.parameters.iter().map(|value| OF_PARAMETER + value.len());
            sql.text.len() + parameters.sum::<usize>()
        };
        let own = OF_RESULT + of(&query.rows) + filter.map_or(0, of);
        Counted { room, own, lack: None }
    }

    fn bytes(&self, held: usize, news: usize) -> usize {
        self.own + held + news.saturating_sub(OF_SMALL_NEWS)
    }

    /// Counts what is held and what waits; whether there is room for it. Where there is none, nothing has changed, and
    /// it is remembered how much was wanted.
    pub fn grow(&mut self, held: usize, news: usize) -> bool {
        let bytes = self.bytes(held, news);
        let has_room = (self.room)(bytes);
        let since = self.lack.take().map_or_else(Instant::now, |lack| lack.since);
        self.lack = (!has_room).then_some(Lack { bytes, since });
        has_room
    }

    /// Counts what is held and what waits, which is less than before.
    pub fn shrink(&mut self, held: usize, news: usize) {
        let bytes = self.bytes(held, news);
        (self.room)(bytes);
    }

    /// Whether there is room by now for what there was none for.
    ///
    /// - Takes: what is held, and waits, without it.
    /// - Errors: for how long there has been none.
    pub fn has_come(&mut self, held: usize, news: usize) -> Result<(), Duration> {
        let Some(Lack { bytes, since }) = self.lack else { return Ok(()) };
        let has_come = (self.room)(bytes);
        // It is taken by whoever needs it first.
        self.shrink(held, news);
        if has_come { Ok(()) } else { Err(since.elapsed()) }
    }
}
