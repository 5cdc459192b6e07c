//! Which buckets of a request came and went between two published positions, without those that
//! stayed: a user may have thousands, and one membership moves one.

use crate::moved::Net;
use crate::sync_view::{ActiveSync, SyncView};
use crate::wake::Changes;
use hw_expr::sync_config::{
    Cost, Difference, Entries, Limits, LookupError, LookupReader, Moved, Request,
};

impl SyncView<'_> {
    /// The difference to the request's buckets as they were before `changes`, in which no expression
    /// failed; `None` when only [`SyncView::resolve`] can tell.
    ///
    /// - Takes: what these buckets took of the bounds.
    pub fn difference(
        &self,
        request: &Request<'_>,
        limits: &Limits,
        before: Cost,
        changes: &Changes,
    ) -> Option<Difference> {
        let sync = self.sync;
        if changes.everything() || sync.stands_still() || sync.withheld.contains(&true) {
            return None;
        }
        let is_touched = |index: usize| {
            sync.lookups.get(index).is_none_or(|lookup| changes.lookup_touched(lookup.number))
        };
        let moved = Moved {
            is_touched: &is_touched,
            came: &Side { sync, changes, of: |net| &net.came },
            went: &Side { sync, changes, of: |net| &net.went },
        };
        sync.config.difference(request, limits, before, &moved)
    }
}

/// The entries that came, or those that went, as if there were no others.
struct Side<'a> {
    sync: &'a ActiveSync,
    changes: &'a Changes,
    of: for<'n> fn(&'n Net<'a>) -> &'n [&'a [u8]],
}

impl LookupReader for Side<'_> {
    fn lookup(&self, lookup: usize, key: &[u8], out: &mut Entries) -> Result<(), LookupError> {
        let lookup = self.sync.lookups.get(lookup);
        let net = lookup.and_then(|lookup| self.changes.moved(lookup.number, key));
        let net = net.ok_or_else(|| LookupError("what came and went is not known".into()))?;
        (self.of)(&net).iter().for_each(|value| out.push(value));
        Ok(())
    }
}
