//! What results stand on: what was read of policies, functions, grants and tables to decide who is shown what.
//!
//! In: what the book has read, and that it is not so any more. Out: whether a result has to be asked again because of
//! that. Invariants: what has given way never holds again, also if all becomes as it was; what was committed while it
//! may have been otherwise is told by nobody who stands on it.

use hw_types::{EndLsn, Lsn};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};

/// Something that was read of the catalog. Clones are of the same.
#[derive(Clone, Debug, Default)]
pub(crate) struct Fact(Arc<Standing>);

#[derive(Debug, Default)]
struct Standing {
    has_given_way: AtomicBool,
    /// Up to where it is not known whether it was so.
    doubted: AtomicU64,
}

/// What one result stands on.
#[derive(Clone, Debug)]
pub(crate) struct Ground {
    table: Fact,
    filter: Option<Fact>,
}

impl Fact {
    /// Whether it is still so.
    pub fn holds(&self) -> bool {
        !self.0.has_given_way.load(Ordering::Acquire)
    }

    /// It is not so any more.
    pub fn give_way(&self) {
        self.0.has_given_way.store(true, Ordering::Release);
    }

    /// It is as it was, and may have been otherwise in between: up to this position nobody knows.
    pub fn doubt(&self, until: EndLsn) {
        self.0.doubted.fetch_max(until.0.0, Ordering::AcqRel);
    }

    fn is_doubted(&self, at: EndLsn) -> bool {
        at <= EndLsn(Lsn(self.0.doubted.load(Ordering::Acquire)))
    }

    /// Whether anybody stands on it.
    pub fn is_used(&self) -> bool {
        Arc::strong_count(&self.0) > 1
    }

    fn is(&self, other: &Fact) -> bool {
        Arc::ptr_eq(&self.0, &other.0)
    }
}

impl Ground {
    /// - Takes: what was read of a table and all that policies read with it; and of a filter, where there is one.
    pub fn new(table: Fact, filter: Option<Fact>) -> Ground {
        Ground { table, filter }
    }

    /// Whether all of it is still so.
    pub fn holds(&self) -> bool {
        self.table.holds() && self.filter.as_ref().is_none_or(Fact::holds)
    }

    /// Whether it is not known that all of it was so at a position.
    pub fn is_doubted(&self, at: EndLsn) -> bool {
        self.table.is_doubted(at) || self.filter.as_ref().is_some_and(|it| it.is_doubted(at))
    }

    /// Positions are of another history from now on.
    pub fn begin_anew(&self) {
        for fact in [Some(&self.table), self.filter.as_ref()].into_iter().flatten() {
            fact.0.doubted.store(0, Ordering::Release);
        }
    }

    /// Whether it is the same.
    pub fn is(&self, other: &Ground) -> bool {
        let is_filter = match (&self.filter, &other.filter) {
            (Some(one), Some(other)) => one.is(other),
            (None, None) => true,
            _ => false,
        };
        self.table.is(&other.table) && is_filter
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_result_stands_as_long_as_all_that_it_stands_on() {
        let (table, filter) = (Fact::default(), Fact::default());
        let ground = Ground::new(table.clone(), Some(filter.clone()));
        assert!(ground.holds() && ground.is(&ground.clone()) && filter.is_used());
        let other = Ground::new(table.clone(), None);
        assert!(!ground.is(&other) && !other.is(&Ground::new(Fact::default(), None)));
        filter.give_way();
        assert!(!ground.holds() && other.holds());
        table.give_way();
        assert!(!other.holds());
        drop((ground, other));
        assert!(!table.is_used());
    }
}
