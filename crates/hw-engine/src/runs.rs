//! Op ids that this store never gave, although they lie below its newest one (E-3, E-10).
//!
//! Each run of the process gives op ids from a place of its own, above the clock. A store that is put
//! back to an earlier state and opened again, alone or together with its source, thus never gives an id
//! that it gave behind that state, and nobody has to notice that it went back. (A machine that is put
//! back with its memory goes on in the same run and gives the same ids twice: nothing here sees that.) What lies between the last id of a
//! run and the first of the next is a *gap*. A client that stands in one holds what the store has lost:
//! it alone is sent its buckets anew (`design/engine.md` 5). Numbers that a client invents can so
//! change nothing for others.
//!
//! A writer that begins again within the process goes on with its run, unless it finds a store that is
//! behind what was shown.
//!
//! Who changes it: the writer thread, at the beginning of a run. Readers have a copy.

use crate::error::code;
use crate::state::Record;
use hw_types::{Diagnostic, OpId, varint};
use std::sync::atomic::{AtomicU64, Ordering};

/// So many gaps are kept. Of more, those around the shortest run become one: who stands in that run
/// is sent his buckets anew, needlessly. A start in which nothing was given is a run, too; of equally
/// short ones the oldest goes first.
const MAX_GAPS: usize = 1024;

/// Op ids begin at 2^20 for each second since 2024, as those of an epoch do: no source writes so many
/// rows for long, and 2^53 is reached in 272 years.
const OPS_BITS: u32 = 20;

/// The numbers of write checkpoints count bytes of the source's log, 2^4 for each op id at which a run begins
/// (2^24 for each second): those of a later run are above all that clients were told by one whose state was
/// lost, unless it wrote more than 16 MB of log each second. They reach 2^53 in 17 years.
const WRITES_PER_OP: u64 = 1 << 4;

/// Op ids that were not given: behind `last`, before `next`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
struct Gap {
    last: OpId,
    next: OpId,
}

/// The gaps between the runs of a store, in its present epoch.
#[derive(Debug, Default, PartialEq)]
pub struct Runs {
    /// Op ids of this run, or of this epoch if it began in this run, are given above this one, without
    /// gaps.
    began: OpId,
    /// Ascending; between two lies what a run gave, at least the position that it began with.
    gaps: Vec<Gap>,
}

/// Streams of this process whose clients stood in a gap.
#[derive(Debug, Default)]
pub(crate) struct Met(AtomicU64);

/// Where the numbers of a run begin.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Start {
    /// Op ids are given above this one.
    pub op_id: OpId,
    /// Added to a marker's position to give a write checkpoint's number.
    pub write_base: u64,
}

/// Where the numbers of a run begin that starts at `clock` (milliseconds since 2024).
///
/// - Takes: what op ids and the base of write checkpoints must not go below.
pub(crate) fn start(clock: u64, last: OpId, write_base: u64) -> Start {
    let op_id = op_id_at(clock, last);
    Start { op_id, write_base: op_id.0.saturating_mul(WRITES_PER_OP).max(write_base) }
}

/// The epoch whose op ids begin here: as they do, it never comes again, whatever the clock says.
pub(crate) fn epoch_at(op_id: OpId) -> u64 {
    op_id.0 >> OPS_BITS
}

/// An op id that belongs to this moment and is above `last`. Where the clock has not come to what was
/// given before (it went back, say) there are again places for each moment, for 4,096 s.
fn op_id_at(clock: u64, last: OpId) -> OpId {
    const PLACES: u64 = 4096 << OPS_BITS;
    let now = u64::try_from((u128::from(clock) << OPS_BITS) / 1000).unwrap_or(u64::MAX);
    OpId(if now > last.0 { now } else { last.0 + 1 + now % PLACES })
}

impl Runs {
    /// An epoch that begins above this op id: no name of a bucket is one of before.
    pub(crate) fn of_epoch(began: OpId) -> Runs {
        Runs { began, gaps: Vec::new() }
    }

    /// Op ids have been given above this one without gaps.
    pub fn began(&self) -> OpId {
        self.began
    }

    /// The same with one more run: the last op id before it, and the one above which it gives them.
    pub(crate) fn with(&self, last: OpId, next: OpId) -> Runs {
        let mut gaps = self.gaps.clone();
        gaps.push(Gap { last, next });
        if gaps.len() > MAX_GAPS {
            let run = |at: usize| gaps[at].last.0 - gaps[at - 1].next.0;
            let shortest = (1..gaps.len()).min_by_key(|at| run(*at)).unwrap_or(1);
            gaps[shortest - 1].next = gaps.remove(shortest).next;
        }
        Runs { began: next, gaps }
    }

    /// Whether this op id was never given by this store, although later ones were.
    pub fn is_lost(&self, op_id: OpId) -> bool {
        let before = self.gaps.partition_point(|gap| gap.last < op_id);
        before.checked_sub(1).is_some_and(|at| op_id < self.gaps[at].next)
    }
}

impl Met {
    /// Notes that a stream's client holds what is lost. The first one is told to the operator.
    pub fn meet(&self) {
        metrics::counter!("headwater_lost_positions_total").increment(1);
        if self.0.fetch_add(1, Ordering::Relaxed) == 0 {
            Self::tell_of_it().log();
        }
    }

    /// What was seen of clients that hold what is lost, once one was there.
    pub fn finding(&self) -> Option<Diagnostic> {
        (self.0.load(Ordering::Relaxed) > 0).then(Self::tell_of_it)
    }

    fn tell_of_it() -> Diagnostic {
        let what = "clients hold operations that this store has never had: it was put back to an \
                    earlier state";
        Diagnostic::warning(code::WENT_BACK, what).mend(
            "nothing is to be done: these clients are sent their buckets anew; what was committed \
             behind that state is gone if the database was put back, too",
        )
    }
}

impl Record for Runs {
    fn put(&self, out: &mut Vec<u8>) {
        varint::put(out, self.began.0);
        varint::put(out, self.gaps.len() as u64);
        for gap in &self.gaps {
            varint::put(out, gap.last.0);
            varint::put(out, gap.next.0);
        }
    }

    fn take(input: &mut &[u8]) -> Option<Self> {
        let began = OpId(varint::take(input)?);
        let count = varint::take(input)?;
        let mut gaps = Vec::new();
        for _ in 0..count {
            let last = OpId(varint::take(input)?);
            gaps.push(Gap { last, next: OpId(varint::take(input)?) });
        }
        let ordered = gaps.iter().all(|gap| gap.last < gap.next)
            && gaps.windows(2).all(|pair| pair[0].next <= pair[1].last);
        ordered.then_some(Runs { began, gaps })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_lies_between_two_runs_was_never_given() {
        let runs = Runs::default().with(OpId(90), OpId(1000)).with(OpId(1000), OpId(2000));
        let lost = |op| runs.is_lost(OpId(op));
        assert!(!lost(0) && !lost(90) && !lost(1000) && !lost(2000) && !lost(5000));
        assert!(lost(91) && lost(999) && lost(1001) && lost(1999));
        assert_eq!(Runs::decode(&runs.encode()).unwrap(), runs);
    }

    #[test]
    fn a_run_begins_above_what_any_run_gave_before_it() {
        let begins = |clock, last| start(clock, OpId(last), 7).op_id;
        assert_eq!(begins(5000, 5), OpId(5 << 20));
        assert!(begins(5001, 5) > begins(5000, 5));
        // The clock went back: the same state gives other places a moment later.
        let last = 6 << 20;
        assert!(begins(5000, last).0 > last && begins(5001, last) > begins(5000, last));
        assert_eq!(start(1000, OpId(0), 1 << 30).write_base, 1 << 30);
        assert_eq!(start(1000, OpId(0), 7).write_base, 1 << 24);
        // As far as op ids go beyond the clock, so do those.
        assert_eq!(start(1000, OpId((9 << 20) - 1 - (1 << 20)), 7).write_base, 9 << 24);
    }

    #[test]
    fn of_too_many_gaps_those_around_the_shortest_run_become_one() {
        let mut runs = Runs::default();
        for run in 1..=MAX_GAPS as u64 + 1 {
            // The first op of a run is its last one, too, in the fifth.
            let given = if run == 5 { 0 } else { 10 };
            runs = runs.with(OpId(100 * run + given), OpId(100 * (run + 1)));
        }
        assert_eq!(runs.gaps.len(), MAX_GAPS);
        assert!(runs.is_lost(OpId(500)), "the run that gave nothing");
        assert!(!runs.is_lost(OpId(605)) && !runs.is_lost(OpId(405)));
    }
}
