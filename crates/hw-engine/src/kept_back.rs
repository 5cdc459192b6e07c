//! How many write checkpoints are kept back, because a definition stands still before them: who uses it is
//! told them when it goes on (`design/engine.md` 9).
//!
//! For people only. What a client is told is decided where it asks.

use hw_types::{EndLsn, Lsn};
use std::collections::{BTreeMap, BTreeSet};

/// For each position at which a definition stands still, the write checkpoints whose markers came behind it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct KeptBack(BTreeMap<EndLsn, u64>);

impl KeptBack {
    /// Definitions stand still at these positions now. Returns those that were not counted for.
    pub fn stand(&mut self, positions: BTreeSet<EndLsn>) -> Vec<EndLsn> {
        self.0.retain(|since, _| positions.contains(since));
        positions.into_iter().filter(|since| !self.0.contains_key(since)).collect()
    }

    /// So many have come behind a position.
    pub fn counted(&mut self, since: EndLsn, count: u64) {
        self.0.insert(since, count);
    }

    /// A write checkpoint was recorded, in place of one whose marker stands there.
    pub fn came(&mut self, before: Option<Lsn>, at: Lsn) {
        for (since, count) in &mut self.0 {
            let is_behind = |at: Lsn| since.0 <= at;
            *count += u64::from(is_behind(at) && !before.is_some_and(is_behind));
        }
    }

    /// One is forgotten.
    pub fn forgotten(&mut self, at: Lsn) {
        for (since, count) in &mut self.0 {
            *count = count.saturating_sub(u64::from(since.0 <= at));
        }
    }

    /// How many those are not told who use what stands still there.
    pub fn since(&self, position: EndLsn) -> u64 {
        self.0.get(&position).copied().unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_client_counts_once_behind_each_position() {
        let at = |lsn| EndLsn(Lsn(lsn));
        let mut kept = KeptBack::default();
        assert_eq!(kept.stand([at(10), at(20)].into()), [at(10), at(20)]);
        kept.counted(at(10), 0);
        kept.counted(at(20), 0);
        kept.came(None, Lsn(5));
        kept.came(Some(Lsn(5)), Lsn(12));
        kept.came(Some(Lsn(12)), Lsn(15));
        kept.came(Some(Lsn(15)), Lsn(20));
        kept.came(None, Lsn(30));
        assert_eq!((kept.since(at(10)), kept.since(at(20)), kept.since(at(1))), (2, 2, 0));
        kept.forgotten(Lsn(12));
        assert_eq!((kept.since(at(10)), kept.since(at(20))), (1, 2));
        assert_eq!(kept.stand([at(20), at(40)].into()), [at(40)]);
        assert_eq!((kept.since(at(10)), kept.since(at(20))), (0, 2));
    }
}
