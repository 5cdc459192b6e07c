//! What a subscriber holds: how its result began, and what comes.

use crate::error::LiveError;
use crate::net::{Net, Same};
use crate::query::{Commit, Wants};
use hw_types::EndLsn;
use parking_lot::Mutex;
use std::sync::Arc;
use tokio::sync::Notify;

/// Where news waits until it is taken: one piece at most, into which more is merged. Nobody is asked for
/// somebody who takes nothing.
#[derive(Debug)]
pub(crate) struct Inbox {
    state: Mutex<State>,
    filled: Notify,
    same: Same,
}

#[derive(Debug, Default)]
struct State {
    news: Option<Net>,
    /// What is in it is of no moment yet: nothing is taken.
    is_shut: bool,
    position: EndLsn,
    end: Option<LiveError>,
}

impl Inbox {
    /// An empty one.
    pub fn new(wants: &Wants) -> Inbox {
        let same = match wants {
            Wants::Rows => Same::Told,
            Wants::Groups(_) => Same::Silent,
        };
        Inbox { state: Mutex::default(), filled: Notify::new(), same }
    }

    /// Notes of which position the first result is.
    pub fn begin(&self, position: EndLsn) {
        self.state.lock().position = position;
    }

    /// Whether what was put in last has been taken.
    pub fn is_empty(&self) -> bool {
        self.state.lock().news.is_none()
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

    fn take(&self) -> Option<Result<Commit, LiveError>> {
        let mut state = self.state.lock();
        if state.is_shut {
            return None;
        }
        let Some(news) = state.news.take() else { return state.end.clone().map(Err) };
        let position = state.position;
        drop(state);
        Some(Ok(Commit { position, changes: news.changes() }))
    }

    async fn next(&self) -> Result<Commit, LiveError> {
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
    /// Waits for the next change of the result. Nothing is lost when this is cancelled.
    ///
    /// - Errors: the query has no result any more. What was told of it is gone by then.
    pub async fn next(&mut self) -> Result<Commit, LiveError> {
        let commit = self.inbox.next().await?;
        self.keeper.taken(self.number);
        Ok(commit)
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.keeper.left(self.number);
    }
}
