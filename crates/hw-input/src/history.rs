//! How to go on with a source: whether its slot is ours to use, whether the store's history goes
//! on there, and whether the numbers that clients hold go on with it.
//!
//! In: what the store knows, what the source shows and remembers. Out: a [`Decision`]. Pure: every
//! case is a line of a table. Invariants: a slot whose store was alive a moment ago is not taken
//! from it, also while it has none, because it makes one (FD-28); numbers are given anew exactly where the store is new or behind its clients
//! (E-3). It is behind when the slot was confirmed beyond it (but for one that it made itself for a copy that was
//! interrupted: what that began with is copied and compared, wherever the slot stands), when another store used the slot, or when
//! the source remembers a number that it never gave; whatever else is the case, and also while the
//! slot is not ours to take: nobody is answered from it then, and it is compared (FD-27, FD-30).

use crate::error::{InputError, code};
use crate::identity::{Found, Recopy, Stored, Verdict, check};
use hw_types::{Diagnostic, OpId};
use std::time::Duration;
use tokio::time::Instant;

/// How long a store must not have been seen before its slot counts as left behind.
pub const LEASE: Duration = Duration::from_secs(600);

/// How often whoever streams lets the source remember it.
pub const REMIND: Duration = Duration::from_secs(30);

/// Numbers that a store may have given since the source was last told: at the highest rate, for
/// an hour of failing reminders.
const MARGIN: u64 = 1 << 32;

/// What is asked on behalf of.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ours {
    /// The random number that the store was made with.
    pub store: u128,
    /// Whether it never gave the number that the source remembers, if any: it was put back.
    pub lacks: bool,
    /// Oid of the publication that its rows came through; `None` when none is noted.
    pub publication: Option<u32>,
    /// Whether a copy of everything was begun and has not entered: what is stored is not of the history that the
    /// slot goes on with, wherever that stands.
    pub interrupted: bool,
    /// Whether this store made the slot that is there, for that copy.
    pub made_slot: bool,
    /// How long this process has seen nobody use the slot, nor any other sign of life of who used it.
    pub watched: Duration,
    /// Whether a person said that the slot's last store is gone.
    pub take_over: TakeOver,
}

/// Whether to take a slot from a store that may be alive.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TakeOver {
    /// Only when it was not seen for [`LEASE`].
    WhenGone,
    /// Now.
    Now,
}

/// For how long a process has seen nobody use a slot.
#[derive(Debug, Default)]
pub(crate) struct Rest {
    /// The last sign of life that the source remembers: whoever copies does not hold the slot.
    sign: Option<(u128, u64)>,
    since: Option<Instant>,
}

impl Rest {
    /// Looks, and returns for how long every look has found the same and nobody at the slot.
    pub(crate) fn look(&mut self, found: &Found, now: Instant) -> Duration {
        let sign = found.memory.map(|memory| (memory.store, memory.seen));
        let is_held = found.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some());
        if std::mem::replace(&mut self.sign, sign) != sign || is_held {
            self.since = None;
        }
        if is_held {
            return Duration::ZERO;
        }
        now - *self.since.get_or_insert(now)
    }
}

/// What becomes of the numbers that clients hold.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Epoch {
    /// They go on.
    Keep,
    /// They begin anew, above what the clock says and above this.
    New {
        /// Above everything that the source remembers; 0 when it remembers nothing.
        above: OpId,
    },
}

/// How to go on.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Decision {
    /// What to do. A slot that is not ours to take is [`Verdict::Refuse`]: asked again later.
    pub verdict: Verdict,
    /// The numbers; written before anything that uses them.
    pub epoch: Epoch,
    /// Whether clients were shown what the store lacks, and nothing brings that but a comparison:
    /// nobody is answered until then, refused or not.
    pub behind: bool,
}

/// Decides how to go on with this source.
///
/// - Takes: `None` for a store that holds no rows yet. Whether the slot is in use is not asked
///   here: wait for it before (F-16).
pub fn decide(stored: Option<&Stored>, ours: &Ours, found: &Found) -> Decision {
    let mut verdict = check(stored, found);
    let other = found.memory.filter(|memory| memory.store != ours.store);
    let is_hole = matches!(verdict, Verdict::ComparedRecopy { reason: Recopy::Hole, .. });
    if verdict == Verdict::Stream && ours.interrupted || is_hole && ours.made_slot {
        verdict = Verdict::ComparedRecopy { reason: Recopy::CopyInterrupted, drop_slot: true };
    }
    let hole = matches!(verdict, Verdict::ComparedRecopy { reason: Recopy::Hole, .. });
    let behind = stored.is_some() && (hole || other.is_some() || ours.lacks);
    if !matches!(verdict, Verdict::Refuse(_)) && is_anothers(stored, ours, found) {
        let seen_ago = other.map(|memory| memory.seen_ago);
        if ours.watched.max(seen_ago.unwrap_or_default()) < LEASE {
            verdict = Verdict::Refuse(in_use(found, seen_ago));
        }
    }
    if matches!(verdict, Verdict::Refuse(_)) {
        return Decision { verdict, epoch: Epoch::Keep, behind };
    }
    // What streams through another publication than before has a hole where there was none.
    let moved = match behind {
        true => Some(Recopy::StoreMovedBack),
        false => {
            is_another(ours.publication, found.publication).then_some(Recopy::OtherPublication)
        }
    };
    if let (Verdict::Stream, Some(reason)) = (&verdict, moved) {
        verdict = Verdict::ComparedRecopy { reason, drop_slot: found.slot.is_some() };
    }
    let above = found.memory.map_or(0, |memory| memory.op_id.0.saturating_add(MARGIN));
    let epoch = match stored.is_none() || behind {
        true => Epoch::New { above: OpId(above.min(OpId::LIMIT - 1)) },
        false => Epoch::Keep,
    };
    Decision { verdict, epoch, behind }
}

/// The finding for a slot that a process uses: of our own server of a moment ago it will be free soon,
/// of another store's server it will not.
///
/// - Takes: the finding that names the process.
pub fn held(holder: Diagnostic, stored: Option<&Stored>, ours: &Ours, found: &Found) -> Diagnostic {
    if !is_anothers(stored, ours, found) {
        return holder;
    }
    let other = found.memory.filter(|memory| memory.store != ours.store);
    let finding = in_use(found, other.map(|memory| memory.seen_ago));
    let place = finding.context.clone().unwrap_or_default();
    finding.at(format!("{place}; {}", holder.what))
}

/// Whether the slot is another store's, as far as is known, and nobody said that it may be taken.
fn is_anothers(stored: Option<&Stored>, ours: &Ours, found: &Found) -> bool {
    let is_anothers = match found.memory {
        // Whoever copies everything has no slot for a while: it dropped the one that was there, or lost its own.
        Some(memory) => memory.store != ours.store,
        None => {
            let is_usable = found.slot.as_ref().is_some_and(|slot| !slot.is_lost());
            is_usable && stored.is_none() && !ours.made_slot
        }
    };
    is_anothers && ours.take_over == TakeOver::WhenGone
}

/// Whether the publication that is there is not the one through which tables were followed. Whoever
/// sees it ends the session; what follows, [`decide`] says.
pub fn is_another(noted: Option<u32>, now: Option<u32>) -> bool {
    noted.is_some() && noted != now
}

/// What a failed stream says about the history: a reason to copy everything again, where trying
/// again would come to nothing.
pub fn lost_history(error: &InputError) -> Option<Recopy> {
    /// `undefined_file`: the log's file is gone though the slot stands (FD-31).
    const UNDEFINED_FILE: &str = "58P01";
    const UNDEFINED_OBJECT: &str = "42704";
    const NOT_IN_PREREQUISITE_STATE: &str = "55000";
    let InputError::Pg(error) = error else { return None };
    let what = error.diagnostic().what;
    match error.sqlstate()? {
        UNDEFINED_FILE => Some(Recopy::LogRemoved),
        // Where the slot stands there was no such publication yet (FD-9).
        UNDEFINED_OBJECT if what.contains("publication") => Some(Recopy::OtherPublication),
        NOT_IN_PREREQUISITE_STATE
            if what.contains("can no longer get changes")
                || what.contains("can no longer access") =>
        {
            Some(Recopy::SlotLost)
        }
        _ => None,
    }
}

fn in_use(found: &Found, seen_ago: Option<Duration>) -> Diagnostic {
    let slot = &found.slot_name;
    let who = match seen_ago {
        Some(ago) => format!(
            "slot \"{slot}\" belongs to a server with another data directory, which was seen {} s \
             ago",
            ago.as_secs()
        ),
        None => format!("slot \"{slot}\" was made by a server with another data directory"),
    };
    let minutes = LEASE.as_secs() / 60;
    Diagnostic::error(code::SLOT_OF_ANOTHER_STORE, who)
        .at(format!("database \"{}\"", found.database))
        .mend(format!(
            "start with that server's data directory, or give this one an instance name of its \
             own; if the other one is gone, start with --take-over, or wait: it is taken over \
             when nobody has used it for {minutes} minutes"
        ))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::identity::samples::{found, slot, stored};
    use hw_pg::memory::Memory;
    use hw_pg::slot::{SlotState, WalStatus};
    use hw_types::{EndLsn, Lsn};

    const US: u128 = 1;
    const THEM: u128 = 2;

    fn ours() -> Ours {
        Ours {
            store: US,
            lacks: false,
            publication: Some(9),
            interrupted: false,
            made_slot: false,
            watched: Duration::ZERO,
            take_over: TakeOver::WhenGone,
        }
    }

    fn memory(store: u128, op_id: u64, seen_ago: u64) -> Option<Memory> {
        let seen_ago = Duration::from_secs(seen_ago);
        Some(Memory { store, op_id: OpId(op_id), seen: 1000, seen_ago })
    }

    fn new(above: u64) -> Epoch {
        Epoch::New { above: OpId(above) }
    }

    /// What follows, in a word.
    fn word(verdict: &Verdict) -> String {
        match verdict {
            Verdict::Stream => "stream".into(),
            Verdict::FirstCopy { drop_slot } => format!("copy, drop {drop_slot}"),
            Verdict::ComparedRecopy { reason, .. } => format!("compare: {reason}"),
            Verdict::Refuse(finding) => finding.code.to_string(),
        }
    }

    #[test]
    fn each_history_has_its_verdict_and_its_epoch() {
        let with = |memory, slot| Found { memory, slot, ..found() };
        let here = || Some(slot(2000));
        let mut lost = slot(2000);
        lost.wal_status = Some(WalStatus::Lost);
        let full = Some(stored());
        let none: Option<Stored> = None;
        let watched = Ours { watched: LEASE, ..ours() };
        let told = Ours { take_over: TakeOver::Now, ..ours() };
        let begun = Ours { interrupted: true, made_slot: true, ..ours() };
        let elsewhere = Ours { interrupted: true, ..ours() };
        let beyond = Found { slot: Some(slot(2501)), ..with(memory(US, 400, 1), None) };
        let back = Found { flush_lsn: EndLsn(Lsn(2499)), ..with(memory(US, 400, 1), here()) };
        let publication = |oid| Found { publication: oid, ..with(memory(US, 400, 1), here()) };
        let hole = "compare: the slot was confirmed beyond what is stored";
        let other = "compare: the publication is another one than before";
        let gone = "compare: the slot was dropped";
        let interrupted = "compare: a copy of everything was interrupted";
        let back_again = "compare: the store was put back, or another one was in its place";
        let lacks = Ours { lacks: true, ..ours() };
        let taken = Found { slot: Some(slot(2501)), ..with(memory(THEM, 700, 5), None) };
        let mut standby = with(memory(US, 501, 5), here());
        standby.in_recovery = true;
        // Those of which the store is behind its clients.
        let behind = [
            "overtaken",
            "overtaken, slot confirmed beyond",
            "overtaken, and back",
            "overtaken, by one that makes its slot",
            "overtaken, and left without a slot",
            "hole",
            "an older store, and the copy interrupted",
            "an older store on a quiet source",
            "slot gone, remembered in a gap",
            "slot lost, remembered in a gap",
            "another timeline, remembered in a gap",
            "publication made again, remembered in a gap",
            "a standby, remembered in a gap",
        ];
        type Case<'a> = (&'a str, &'a Option<Stored>, Ours, Found, &'a str, Epoch);
        let cases: Vec<Case<'_>> = vec![
            // Nothing has happened.
            ("a restart", &full, ours(), with(memory(US, 400, 9), here()), "stream", Epoch::Keep),
            ("never remembered", &full, ours(), with(None, here()), "stream", Epoch::Keep),
            // FD-28: an empty data directory beside a store.
            ("alive", &none, ours(), with(memory(THEM, 7, 5), here()), "HW3052", Epoch::Keep),
            ("unknown", &none, ours(), with(None, here()), "HW3052", Epoch::Keep),
            (
                "gone for long",
                &none,
                ours(),
                with(memory(THEM, 7, 600), here()),
                "copy, drop true",
                new(7 + MARGIN),
            ),
            ("watched", &none, watched, with(None, here()), "copy, drop true", new(0)),
            (
                "told",
                &none,
                told.clone(),
                with(memory(THEM, 7, 5), here()),
                "copy, drop true",
                new(7 + MARGIN),
            ),
            (
                "our own first copy",
                &none,
                begun.clone(),
                with(None, here()),
                "copy, drop true",
                new(0),
            ),
            ("no slot", &none, ours(), with(None, None), "copy, drop false", new(0)),
            // Its owner makes another one; or nobody does.
            (
                "a lost slot of who was seen",
                &none,
                ours(),
                with(memory(THEM, 7, 5), Some(lost.clone())),
                "HW3052",
                Epoch::Keep,
            ),
            (
                "no slot yet of who was seen",
                &none,
                ours(),
                with(memory(THEM, 7, 5), None),
                "HW3052",
                Epoch::Keep,
            ),
            (
                "a lost slot is nobody's",
                &none,
                ours(),
                with(None, Some(lost.clone())),
                "copy, drop true",
                new(0),
            ),
            // FD-30: another server took the slot while this one was paused.
            ("overtaken", &full, ours(), with(memory(THEM, 700, 5), here()), "HW3052", Epoch::Keep),
            (
                "overtaken, and back",
                &full,
                told,
                with(memory(THEM, 700, 5), here()),
                back_again,
                new(700 + MARGIN),
            ),
            ("overtaken, slot confirmed beyond", &full, ours(), taken, "HW3052", Epoch::Keep),
            (
                "overtaken, by one that makes its slot",
                &full,
                ours(),
                with(memory(THEM, 700, 5), None),
                "HW3052",
                Epoch::Keep,
            ),
            (
                "overtaken, and left without a slot",
                &full,
                ours(),
                with(memory(THEM, 700, 600), None),
                gone,
                new(700 + MARGIN),
            ),
            // FD-27: an older copy of the store.
            ("hole", &full, ours(), beyond.clone(), hole, new(400 + MARGIN)),
            // F-14: its new slot stands beyond the store until the copy enters.
            (
                "slot dropped by hand, and the copy interrupted",
                &full,
                begun.clone(),
                beyond,
                interrupted,
                Epoch::Keep,
            ),
            // Or before the store's end: the source was put back, and its log has grown past that since.
            (
                "source put back, and the copy interrupted",
                &full,
                begun.clone(),
                with(memory(US, 400, 5), here()),
                interrupted,
                Epoch::Keep,
            ),
            (
                "the same, and the slot was moved",
                &full,
                elsewhere,
                with(memory(US, 400, 5), here()),
                interrupted,
                Epoch::Keep,
            ),
            (
                "an older store, and the copy interrupted",
                &full,
                Ours { lacks: true, ..begun.clone() },
                with(memory(US, 501, 5), here()),
                interrupted,
                new(501 + MARGIN),
            ),
            (
                "an older store on a quiet source",
                &full,
                lacks.clone(),
                with(memory(US, 501, 5), here()),
                back_again,
                new(501 + MARGIN),
            ),
            (
                "slot gone, remembered in a gap",
                &full,
                lacks.clone(),
                with(memory(US, 501, 5), None),
                gone,
                new(501 + MARGIN),
            ),
            (
                "slot lost, remembered in a gap",
                &full,
                lacks.clone(),
                with(memory(US, 501, 5), Some(lost)),
                "compare: the source gave up the log that the slot needed",
                new(501 + MARGIN),
            ),
            (
                "another timeline, remembered in a gap",
                &full,
                lacks.clone(),
                Found { timeline: 2, ..with(memory(US, 501, 5), here()) },
                "compare: the source is on another timeline than before",
                new(501 + MARGIN),
            ),
            (
                "publication made again, remembered in a gap",
                &full,
                lacks.clone(),
                publication(Some(10)),
                back_again,
                new(400 + MARGIN),
            ),
            ("a standby, remembered in a gap", &full, lacks, standby, "HW2110", Epoch::Keep),
            // F-14, FD-26: the store is not behind its clients.
            (
                "slot dropped by hand",
                &full,
                ours(),
                with(memory(US, 400, 5), None),
                gone,
                Epoch::Keep,
            ),
            (
                "restored from an older state",
                &full,
                ours(),
                back,
                "compare: the source's log ends before what is stored",
                Epoch::Keep,
            ),
            // FD-9.
            ("publication made again", &full, ours(), publication(Some(10)), other, Epoch::Keep),
            ("publication gone", &full, ours(), publication(None), other, Epoch::Keep),
        ];
        for (case, stored, ours, found, expected, epoch) in cases {
            let decision = decide(stored.as_ref(), &ours, &found);
            assert_eq!(word(&decision.verdict), expected, "{case}");
            assert_eq!(decision.epoch, epoch, "{case}");
            assert_eq!(decision.behind, behind.contains(&case), "{case}");
        }
    }

    #[test]
    fn fd_28_a_slot_rests_only_while_nobody_holds_it_and_nothing_new_is_remembered() {
        let start = Instant::now();
        let mut rest = Rest::default();
        let mut look = |second: u64, seen: u64, pid: Option<u32>| {
            let memory = memory(THEM, 7, 5).map(|memory| Memory { seen, ..memory });
            let slot = Some(SlotState { active_pid: pid, ..slot(2000) });
            let found = Found { memory, slot, ..found() };
            rest.look(&found, start + Duration::from_secs(second)).as_secs()
        };
        assert_eq!([look(0, 1, Some(7)), look(10, 1, None), look(20, 1, None)], [0, 0, 10]);
        // Somebody copies for long.
        assert_eq!([look(700, 31, None), look(1400, 61, None), look(1500, 61, None)], [0, 0, 100]);
        assert_eq!([look(1600, 61, Some(7)), look(1700, 61, None)], [0, 0]);
    }

    #[test]
    fn fd_28_whoever_holds_the_slot_is_told_by_whose_server_it_is() {
        let holder = Diagnostic::warning(2120, "slot \"headwater_1\" is used by pid 7");
        let theirs = Found { memory: memory(THEM, 7, 5), ..found() };
        let finding = held(holder.clone(), None, &ours(), &theirs);
        assert_eq!(finding.code.0, code::SLOT_OF_ANOTHER_STORE);
        let place = "database \"shop\"; slot \"headwater_1\" is used by pid 7";
        assert_eq!(finding.context.as_deref(), Some(place));
        // Our own, of before the crash; and one that a person said may be taken.
        let own = Found { memory: memory(US, 7, 5), ..found() };
        assert_eq!(held(holder.clone(), Some(&stored()), &ours(), &own), holder);
        let told = Ours { take_over: TakeOver::Now, ..ours() };
        assert_eq!(held(holder.clone(), None, &told, &theirs), holder);
    }

    #[test]
    fn fd_28_the_finding_says_whose_slot_it_is_and_what_to_do() {
        let found = Found { memory: memory(THEM, 7, 5), ..found() };
        let Verdict::Refuse(finding) = decide(None, &ours(), &found).verdict else {
            panic!("taken");
        };
        assert_eq!(
            finding.to_string(),
            "error[HW3052]: slot \"headwater_1\" belongs to a server with another data directory, \
             which was seen 5 s ago\n  \
             where: database \"shop\"\n  \
             mend:  start with that server's data directory, or give this one an instance name of \
             its own; if the other one is gone, start with --take-over, or wait: it is taken over \
             when nobody has used it for 10 minutes"
        );
    }
}
