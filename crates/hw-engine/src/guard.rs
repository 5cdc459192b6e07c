//! Who decides when a state is shown: somebody who has to look first whether it may be.
//!
//! In: states that are durable, each with its position. Out: the one that was looked at is shown. What comes
//! meanwhile is one state behind it, so that one look is under way at a time however much is committed, and nothing
//! that waits grows with it. A state that is never shown by itself is part of the next one: who is not to see what
//! was there in between does not.
//!
//! Invariant: from the moment when there is a guard on, no state is shown that he did not look at.

use crate::engine::Engine;
use crate::publish::Publication;
use hw_types::EndLsn;
use std::sync::Arc;
use tokio::sync::watch;

/// Decides when states are shown. While nobody does, everything is durable and nothing new is shown.
pub struct Guard {
    publication: Arc<Publication>,
    came: watch::Receiver<u64>,
}

impl Engine {
    /// From now on, for as long as the process runs, states are shown only by this.
    pub fn guard(&self) -> Guard {
        self.publication.guard();
        let came = self.publication.watch_waiting();
        Guard { publication: self.publication.clone(), came }
    }
}

impl Guard {
    /// Returns when a state has come that was not there at the last call. Safe to cancel.
    pub async fn waits(&mut self) {
        if self.came.changed().await.is_err() {
            std::future::pending().await
        }
    }

    /// The newest state that waits is looked at from here on.
    ///
    /// - Returns: its position, before which everything is in it; `None` when nothing waits.
    pub fn look_at(&self) -> Option<EndLsn> {
        self.publication.look_at()
    }

    /// Shows the state that was looked at last.
    pub fn show(&self) {
        self.publication.show_looked_at();
    }
}
