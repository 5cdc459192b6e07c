//! What a subscriber holds: how its result began, and what comes.

use crate::error::LiveError;
use crate::group::{Group, Inbox, Keeper};
use crate::query::Commit;
use std::sync::Arc;
use tokio::sync::oneshot;

/// A result that is kept live for somebody, until this is dropped.
pub struct Subscription {
    pub(crate) inbox: Inbox,
}

impl Subscription {
    /// What it is called by in its group.
    pub fn number(&self) -> u64 {
        self.inbox.number
    }

    /// Waits for the next change of the result, where that is alone in its group. What it returned last counts until this
    /// is called again. Nothing is lost when it is cancelled.
    ///
    /// - Errors: the query has no result any more. What was told of it is gone by then, unless there was no room
    ///   to tell that.
    pub async fn next(&mut self) -> Result<Commit, LiveError> {
        loop {
            let news = self.inbox.group.next_few(1).await;
            if let Some(news) = news.into_iter().next() {
                return news.told;
            }
        }
    }

    /// Takes what may be told, where it is alone in its group.
    pub(crate) fn take_over(&mut self) -> Result<Vec<Commit>, LiveError> {
        self.inbox.group.take_over().into_iter().map(|news| news.told).collect()
    }

    /// Its receiver has begun to follow it: from here on he is told what stands behind it in its group.
    pub fn begun(&self) {
        self.inbox.begun();
    }

    /// Leaves its group, with all that waits of it.
    pub fn leave(&mut self) {
        let alone = self.inbox.group.beside();
        self.inbox = self.keeper().moves(&self.inbox, &alone, None);
    }

    /// Goes on in a group, and waits until it is its turn there ([`Subscription::begun`]).
    ///
    /// - Errors: the server stops.
    pub async fn join(&mut self, group: &Group) -> Result<(), LiveError> {
        let (turn, is_next) = oneshot::channel();
        self.inbox = self.keeper().moves(&self.inbox, group, Some(turn));
        is_next.await.map_err(|_| LiveError::Stopping)
    }

    fn keeper(&self) -> Arc<dyn Keeper> {
        self.inbox.group.keeper().clone()
    }
}

impl Drop for Subscription {
    fn drop(&mut self) {
        self.keeper().left(self.inbox.number);
        self.inbox.leave();
    }
}
