//! What a subscriber holds: how its result began, and what comes.

use crate::error::LiveError;
use crate::net::{Net, Same};
use crate::query::{Commit, LiveQuery, Wants};
use crate::room::{Counted, Room};
use hw_types::EndLsn;
use parking_lot::Mutex;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::Notify;

/// Where news waits until it is taken: one piece at most, into which more is merged. Nobody is asked for
/// somebody who takes nothing. What there is no room for is forgotten, and who comes for it is asked. It counts
/// what the result holds, for as long as somebody has it.
pub(crate) struct Inbox {
    state: Mutex<State>,
    filled: Notify,
    same: Same,
}

struct State {
    news: Option<Net>,
    /// What there was no room for.
    gap: Gap,
    /// What is in it is of no moment yet: nothing is taken.
    is_shut: bool,
    position: EndLsn,
    end: Option<LiveError>,
    counted: Counted,
    /// Bytes of what is held of the result.
    held: usize,
    /// Bytes of what was taken last: it is on its way until more is wanted.
    taken: usize,
}

/// Whether something was forgotten of what was to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Gap {
    Nothing,
    /// It was, and there is no room for it.
    Waits,
    /// It was, and there may be room for it: whoever comes is asked.
    Offered,
}

/// What is taken of an inbox.
enum Taken {
    News(Commit),
    /// What was in it was forgotten.
    Gap,
}

impl State {
    /// Bytes of what waits, or is on its way.
    fn news(&self) -> usize {
        self.taken + self.news.as_ref().map_or(0, Net::weight)
    }
}

impl Inbox {
    /// An empty one, of the result of a query.
    ///
    /// - Errors: there is no room for it.
    pub fn new(query: &LiveQuery, room: Room) -> Result<Inbox, LiveError> {
        let same = match query.wants {
            Wants::Rows => Same::Told,
            Wants::Groups(_) => Same::Silent,
        };
        let mut state = State {
            news: None,
            gap: Gap::Nothing,
            is_shut: false,
            position: EndLsn::default(),
            end: None,
            counted: Counted::new(room, query),
            held: 0,
            taken: 0,
        };
        match state.counted.grow(0, 0) {
            true => Ok(Inbox { state: Mutex::new(state), filled: Notify::new(), same }),
            false => Err(LiveError::NoRoom),
        }
    }

    /// Counts what is held of the result, and what waits here.
    ///
    /// - Takes: bytes of what is held.
    /// - Returns: whether there is room for both; nothing has changed where there is none.
    pub fn count(&self, held: usize) -> bool {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let news = state.news();
        let has_room = state.counted.grow(held, news);
        if has_room {
            state.held = held;
        }
        has_room
    }

    /// Forgets what waits here: there is no room for it.
    pub fn forget(&self) -> Net {
        let mut state = self.state.lock();
        state.gap = Gap::Waits;
        state.news.take().unwrap_or_else(|| Net::new(self.same))
    }

    /// Counts what is held of the result, from which it was taken back what was forgotten.
    pub fn untold(&self, held: usize) {
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.held = held;
        state.counted.shrink(held, state.taken);
    }

    /// Whether something was forgotten, and nobody has come since.
    pub fn has_gap(&self) -> bool {
        self.state.lock().gap != Gap::Nothing
    }

    /// Offers whoever comes to ask for what was forgotten, if there is room for it by now.
    ///
    /// - Errors: for how long there has been none.
    pub fn offer(&self) -> Result<(), Duration> {
        let mut state = self.state.lock();
        if state.gap == Gap::Waits {
            let (held, news) = (state.held, state.news());
            state.counted.has_come(held, news)?;
            state.gap = Gap::Offered;
            self.filled.notify_one();
        }
        Ok(())
    }

    /// Notes of which position the first result is.
    pub fn begin(&self, position: EndLsn) {
        self.state.lock().position = position;
    }

    /// Whether what was put in last has been taken, and nothing was forgotten.
    pub fn is_empty(&self) -> bool {
        let state = self.state.lock();
        state.news.is_none() && state.gap == Gap::Nothing
    }

    /// Puts news in; with what was not taken yet it becomes one. Returns whether there is room for more.
    pub fn put(&self, commit: Commit) -> bool {
        let Commit { position, changes } = commit;
        let mut state = self.state.lock();
        let mut news = state.news.take().unwrap_or_else(|| Net::new(self.same));
        changes.into_iter().for_each(|change| news.add(change));
        if news.is_empty() {
            return true;
        }
        let has_room = !news.is_full();
        // What a snapshot did not see may stand before what was published behind it.
        state.position = state.position.max(position);
        state.news = Some(news);
        self.filled.notify_one();
        has_room
    }

    /// Shuts it while what is put in comes to one moment only together.
    pub fn shut(&self) {
        self.state.lock().is_shut = true;
    }

    /// Opens it again.
    pub fn open(&self) {
        self.state.lock().is_shut = false;
        self.filled.notify_one();
    }

    /// Nothing comes behind what is in it.
    pub fn end(&self, why: LiveError) {
        self.state.lock().end.get_or_insert(why);
        self.filled.notify_one();
    }

    fn take(&self) -> Option<Result<Taken, LiveError>> {
        let mut state = self.state.lock();
        if state.is_shut {
            return None;
        }
        if let Some(news) = state.news.take() {
            state.taken = news.weight();
            let position = state.position;
            drop(state);
            return Some(Ok(Taken::News(Commit { position, changes: news.changes() })));
        }
        if let Some(end) = &state.end {
            return Some(Err(end.clone()));
        }
        if state.gap != Gap::Offered {
            return None;
        }
        state.gap = Gap::Nothing;
        Some(Ok(Taken::Gap))
    }

    /// Whoever took something wants more: it is not on its way any more.
    fn arrived(&self) {
        let mut state = self.state.lock();
        if std::mem::take(&mut state.taken) > 0 {
            let (held, news) = (state.held, state.news());
            state.counted.shrink(held, news);
        }
    }

    async fn next(&self) -> Result<Taken, LiveError> {
        loop {
            let filled = self.filled.notified();
            if let Some(taken) = self.take() {
                return taken;
            }
            filled.await;
        }
    }
}

/// What a subscription tells those who keep it going.
pub(crate) trait Keeper: Send + Sync {
    /// Its inbox is empty again.
    fn taken(&self, number: u64);
    /// Nobody listens any more.
    fn left(&self, number: u64);
}

/// A result that is kept live for somebody, until this is dropped.
pub struct Subscription {
    pub(crate) number: u64,
    pub(crate) inbox: Arc<Inbox>,
    pub(crate) keeper: Arc<dyn Keeper>,
}

impl Subscription {
    /// Waits for the next change of the result. What it returned last counts until this is called again. Nothing is
    /// lost when it is cancelled.
    ///
    /// - Errors: the query has no result any more. What was told of it is gone by then, unless there was no room
    ///   to tell that.
    pub async fn next(&mut self) -> Result<Commit, LiveError> {
        self.inbox.arrived();
        loop {
            let taken = self.inbox.next().await?;
            self.keeper.taken(self.number);
            if let Taken::News(commit) = taken {
                return Ok(commit);
            }
        }
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.keeper.left(self.number);
    }
}
