//! Transactions that are published while snapshots may not see them yet.
//!
//! Postgres writes a commit to the log before snapshots see it: for a moment, or for as long as the commit waits
//! for a synchronous standby. In: what snapshots see, and what was published before and behind them. Out: what an
//! answer lacks although it was published. Invariant: whatever was published up to the place of an [`Unseen`]
//! is seen by every snapshot that is taken from now on, or is listed, or its id is among the suspects.

use hw_engine::{ChangePlace, Committed, Published, Since};
use hw_types::{EndLsn, FullXid, PgSnapshot};
use std::collections::HashSet;
use std::sync::Arc;

/// What one snapshot sees.
#[derive(Clone, Debug)]
pub(crate) struct View {
    pub snapshot: PgSnapshot,
    /// The next id that was to be given: every transaction that was in the log by then has a smaller one.
    pub next: FullXid,
}

/// Where publication stood at some moment.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Place {
    /// The same in the list of changes.
    pub list: ChangePlace,
    pub end: EndLsn,
}

impl Place {
    pub fn of(published: &Published) -> Place {
        Place { list: published.change_place(), end: published.checkpoint.end_lsn }
    }
}

/// See the module.
#[derive(Clone)]
pub(crate) struct Unseen {
    /// The publication up to which this is known.
    number: u64,
    place: ChangePlace,
    /// Transactions of the list.
    pub listed: Vec<Arc<Committed>>,
    /// Ids of what had not ended for snapshots when nothing was known: whether it had been published by then,
    /// and whether it touched anything, cannot be told any more.
    pub suspects: Vec<FullXid>,
    /// Ids of what the list had since it was looked at last.
    pub came: HashSet<FullXid>,
}

impl View {
    fn sees(&self, one: &Committed) -> bool {
        one.xid.is_none_or(|xid| self.snapshot.sees(xid))
    }

    /// All ids that were given by then and are not seen.
    fn not_seen(&self) -> Vec<FullXid> {
        let PgSnapshot { xmax, running, .. } = &self.snapshot;
        // The snapshot names nobody behind the last one that has ended.
        let above = (xmax.0..self.next.0).map(FullXid);
        running.iter().copied().chain(above).collect()
    }
}

impl Unseen {
    /// What a snapshot does not see of what is published behind it.
    ///
    /// - Takes: what was known, and where publication stood, before the snapshot was taken.
    /// - Returns: `None` where the list does not reach back to where publication stood.
    pub fn behind(
        known: Option<&Unseen>,
        before: Place,
        view: &View,
        published: &Published,
    ) -> Option<Unseen> {
        let since = |place| match published.committed_since(place) {
            Since::Complete(list) => Some(list),
            Since::Gone => None,
        };
        let reached = known.and_then(|known| since(known.place).map(|list| (known, list)));
        let (mut listed, mut suspects, list) = match reached {
            Some((known, list)) => (known.listed.clone(), known.suspects.clone(), list),
            None => (Vec::new(), view.not_seen(), since(before.list)?),
        };
        // A table comes with transactions that are listed nowhere, and some may wait for a standby.
        if list.iter().any(|one| one.xid.is_none()) {
            suspects.extend(view.not_seen());
            suspects.sort_unstable();
            suspects.dedup();
        }
        let came: HashSet<FullXid> = list.iter().filter_map(|one| one.xid).collect();
        listed.extend(list);
        listed.retain(|one| !view.sees(one));
        suspects.retain(|xid| !view.snapshot.sees(*xid) && !came.contains(xid));
        let (number, place) = (published.number, published.change_place());
        Some(Unseen { number, place, listed, suspects, came })
    }

    /// The one that is known further, of this and what a snapshot left.
    pub fn or(&self, newer: Option<Unseen>, view: &View) -> Unseen {
        newer.filter(|newer| newer.number >= self.number).unwrap_or_else(|| {
            let mut same = self.clone();
            same.listed.retain(|one| !view.sees(one));
            same
        })
    }

    /// Whether a suspect has ended without coming with the list: it may have been published before.
    ///
    /// - Takes: one of those that were known before.
    pub fn has_lost(&self, suspect: FullXid) -> bool {
        !self.suspects.contains(&suspect) && !self.came.contains(&suspect)
    }

    /// Whether a transaction is listed.
    pub fn lists(&self, one: &Arc<Committed>) -> bool {
        self.listed.iter().any(|listed| Arc::ptr_eq(listed, one))
    }
}
