//! Whether the stored position and the source still belong together (`engine.md` 5).
//!
//! In: what the store knows ([`Stored`]) and what the source shows ([`Found`]). Out: a
//! [`Verdict`]. Invariant: streaming goes on only where nothing can be missing between the stored
//! position and the first transaction that arrives. Everything else is a compared re-copy, or is
//! refused. Postgres itself would not say: it silently moves a start position forward to what the
//! slot has confirmed, and a source that was restored from an image has the same identity.

use crate::error::code;
use hw_pg::catalog;
use hw_pg::memory::Memory;
use hw_pg::slot::SlotState;
use hw_types::{CommitLsn, Diagnostic, EndLsn, Lsn};
use std::fmt;

/// Which history the stored positions belong to.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Identity {
    /// The system identifier: made at initdb, kept by copies of the disk.
    pub system_id: u64,
    /// Grows with each promotion.
    pub timeline: u32,
    /// The database's oid: another one after DROP and CREATE.
    pub database_oid: u32,
    /// The slot's name.
    pub slot: String,
    /// The consistent point at which the slot was made: its `confirmed_flush_lsn` can never be
    /// less, so an older slot of the same name shows.
    pub slot_mark: Lsn,
}

/// What the store knows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Stored {
    /// The history.
    pub identity: Identity,
    /// Everything up to here is durable.
    pub end_lsn: EndLsn,
    /// The first transaction of the stored tail of (commit_lsn, xid), against which repeated
    /// transactions are compared; `None` when nothing was applied since the first copy.
    pub tail_start: Option<CommitLsn>,
}

/// What the source shows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Found {
    /// The system identifier.
    pub system_id: u64,
    /// The timeline.
    pub timeline: u32,
    /// The database's oid.
    pub database_oid: u32,
    /// The database's name.
    pub database: String,
    /// A standby, or not yet recovered.
    pub in_recovery: bool,
    /// The name that the slot has, or will have.
    pub slot_name: String,
    /// The slot of that name, if there is one.
    pub slot: Option<SlotState>,
    /// Up to where the source's log is on its disk.
    pub flush_lsn: EndLsn,
    /// Oid of the publication, if there is one of that name.
    pub publication: Option<u32>,
    /// What the source remembers of the slot's last store.
    pub memory: Option<Memory>,
}

/// Why all tables are copied again and compared.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Recopy {
    /// Another cluster: restored from a dump, or moved.
    OtherSystem,
    /// A standby was promoted, or the source was restored to a point in time.
    OtherTimeline,
    /// The database was dropped and made again, or renamed away.
    OtherDatabase,
    /// The configured instance name, and with it the slot's name, has changed.
    OtherSlotName,
    /// The slot was dropped (F-14).
    SlotGone,
    /// The server gave up the log that the slot needed.
    SlotLost,
    /// The slot confirmed more than is stored: what lies between is in no store.
    Hole,
    /// A copy of everything was interrupted when its slot had been made: nothing was confirmed by it.
    CopyInterrupted,
    /// The source's log ends before the stored position: it was restored from an older state.
    SourceMovedBack,
    /// The slot stands before what the stored tail can compare: an older slot of the same name.
    SlotOlderThanTail,
    /// The log that the slot needs is gone, though the slot stands (FD-31).
    LogRemoved,
    /// The source repeats other transactions than those that were applied: restored from an image.
    HistoryMoved,
    /// The publication was dropped, and perhaps made again (FD-9).
    OtherPublication,
    /// The store was put back to an earlier state, or another one used its slot (FD-27, FD-30).
    StoreMovedBack,
}

impl fmt::Display for Recopy {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Recopy::OtherSystem => "the source is another cluster than before",
            Recopy::OtherTimeline => "the source is on another timeline than before",
            Recopy::OtherDatabase => "the database was made anew",
            Recopy::OtherSlotName => "the slot has another name than before",
            Recopy::SlotGone => "the slot was dropped",
            Recopy::SlotLost => "the source gave up the log that the slot needed",
            Recopy::Hole => "the slot was confirmed beyond what is stored",
            Recopy::CopyInterrupted => "a copy of everything was interrupted",
            Recopy::SourceMovedBack => "the source's log ends before what is stored",
            Recopy::SlotOlderThanTail => "the slot is older than what is stored",
            Recopy::LogRemoved => "the log that the slot needs was removed",
            Recopy::HistoryMoved => "it repeated other transactions than those that were applied",
            Recopy::OtherPublication => "the publication is another one than before",
            Recopy::StoreMovedBack => "the store was put back, or another one was in its place",
        })
    }
}

/// What follows.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Verdict {
    /// Stream from where the slot stands (`0/0`); repeated transactions must match the tail.
    Stream,
    /// The store is new: make the slot, copy. A slot of that name that is there belonged to a
    /// lost store: `drop_slot` first; the new store is a new epoch.
    FirstCopy {
        /// Whether a slot of that name is in the way.
        drop_slot: bool,
    },
    /// Copy all tables again under one boundary; only differences become operations, and all
    /// enter in one step.
    ComparedRecopy {
        /// Why.
        reason: Recopy,
        /// Whether a slot of that name is in the way.
        drop_slot: bool,
    },
    /// Do nothing; a person must act.
    Refuse(Diagnostic),
}

/// Decides how to go on with this source.
///
/// - Takes: `None` for a new store. Whether the slot is in use is not asked here: wait for it
///   before (F-16).
pub fn check(stored: Option<&Stored>, found: &Found) -> Verdict {
    let place = || format!("database \"{}\"", found.database);
    if found.in_recovery {
        let finding = Diagnostic::error(catalog::code::IN_RECOVERY, "the server is in recovery")
            .at(place())
            .mend("connect to the primary: markers cannot be written to a standby's log");
        return Verdict::Refuse(finding);
    }
    if let Some(slot) = &found.slot
        && let Some(why) = not_ours(slot, &found.database)
    {
        let what = format!("slot \"{}\" is {why}", slot.name);
        return Verdict::Refuse(Diagnostic::error(code::SLOT_NOT_OURS, what).at(place()).mend(
            format!(
                "choose another instance name, or SELECT pg_drop_replication_slot('{}');",
                slot.name
            ),
        ));
    }
    let drop_slot = found.slot.is_some();
    let Some(stored) = stored else {
        return Verdict::FirstCopy { drop_slot };
    };
    match difference(stored, found) {
        None => Verdict::Stream,
        Some(reason) => Verdict::ComparedRecopy { reason, drop_slot },
    }
}

fn not_ours(slot: &SlotState, database: &str) -> Option<&'static str> {
    if slot.plugin.as_deref() != Some("pgoutput") {
        return Some("not a pgoutput slot");
    }
    if slot.temporary {
        return Some("a temporary slot");
    }
    (slot.database.as_deref() != Some(database)).then_some("a slot of another database")
}

/// The first reason that forbids streaming; the order is from the widest to the narrowest.
fn difference(stored: &Stored, found: &Found) -> Option<Recopy> {
    let identity = &stored.identity;
    if identity.system_id != found.system_id {
        return Some(Recopy::OtherSystem);
    }
    if identity.database_oid != found.database_oid {
        return Some(Recopy::OtherDatabase);
    }
    if identity.timeline != found.timeline {
        return Some(Recopy::OtherTimeline);
    }
    if identity.slot != found.slot_name {
        return Some(Recopy::OtherSlotName);
    }
    let Some(slot) = &found.slot else { return Some(Recopy::SlotGone) };
    if slot.is_lost() {
        return Some(Recopy::SlotLost);
    }
    let Some(confirmed) = slot.confirmed_flush else { return Some(Recopy::SlotLost) };
    if confirmed > stored.end_lsn {
        return Some(Recopy::Hole);
    }
    if stored.end_lsn > found.flush_lsn {
        return Some(Recopy::SourceMovedBack);
    }
    let older_than_tail =
        stored.tail_start.is_some_and(|tail| confirmed.0 < tail.0) && confirmed < stored.end_lsn;
    if confirmed.0 < identity.slot_mark || older_than_tail {
        return Some(Recopy::SlotOlderThanTail);
    }
    None
}

#[cfg(test)]
pub(crate) mod samples {
    use super::*;
    use hw_pg::slot::WalStatus;
    use hw_types::FullXid;

    pub const X: u64 = 1000;

    pub fn slot(confirmed: u64) -> SlotState {
        SlotState {
            name: "headwater_1".into(),
            plugin: Some("pgoutput".into()),
            database: Some("shop".into()),
            temporary: false,
            active_pid: None,
            restart_lsn: Some(Lsn(900)),
            confirmed_flush: Some(EndLsn(Lsn(confirmed))),
            wal_status: Some(WalStatus::Reserved),
            safe_wal_bytes: None,
            log_end: None,
            next_xid: FullXid(3),
            retained_bytes: 0,
            invalidation: None,
        }
    }

    pub fn found() -> Found {
        Found {
            system_id: 7,
            timeline: 1,
            database_oid: 5,
            database: "shop".into(),
            in_recovery: false,
            slot_name: "headwater_1".into(),
            slot: Some(slot(2000)),
            flush_lsn: EndLsn(Lsn(3000)),
            publication: Some(9),
            memory: None,
        }
    }

    pub fn stored() -> Stored {
        Stored {
            identity: Identity {
                system_id: 7,
                timeline: 1,
                database_oid: 5,
                slot: "headwater_1".into(),
                slot_mark: Lsn(X),
            },
            end_lsn: EndLsn(Lsn(2500)),
            tail_start: Some(CommitLsn(Lsn(1500))),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::samples::{X, found, slot, stored};
    use super::*;
    use hw_pg::slot::WalStatus;

    fn recopy(reason: Recopy) -> Verdict {
        Verdict::ComparedRecopy { reason, drop_slot: true }
    }

    #[test]
    fn an_unchanged_source_streams() {
        assert_eq!(check(Some(&stored()), &found()), Verdict::Stream);
        // The edges: nothing unconfirmed, nothing behind the stored position.
        for (confirmed, end, flush) in [(2500, 2500, 2500), (1500, 2500, 2500), (2500, 2500, 9000)]
        {
            let stored = Stored { end_lsn: EndLsn(Lsn(end)), ..stored() };
            let found =
                Found { slot: Some(slot(confirmed)), flush_lsn: EndLsn(Lsn(flush)), ..found() };
            assert_eq!(check(Some(&stored), &found), Verdict::Stream, "{confirmed} {end} {flush}");
        }
    }

    #[test]
    fn a_store_without_transactions_since_its_copy_streams_from_the_slots_beginning() {
        let stored = Stored { end_lsn: EndLsn(Lsn(X)), tail_start: None, ..stored() };
        let found = Found { slot: Some(slot(X)), ..found() };
        assert_eq!(check(Some(&stored), &found), Verdict::Stream);
    }

    #[test]
    fn a_position_made_durable_by_a_keepalive_streams_though_no_tail_reaches_it() {
        // The tail was empty when the slot was confirmed at a keepalive's position.
        let stored = Stored {
            end_lsn: EndLsn(Lsn(2500)),
            tail_start: Some(CommitLsn(Lsn(2600))),
            ..stored()
        };
        let found = Found { slot: Some(slot(2500)), ..found() };
        assert_eq!(check(Some(&stored), &found), Verdict::Stream);
    }

    #[test]
    fn a_new_store_copies_and_takes_a_left_over_slot_away() {
        assert_eq!(check(None, &found()), Verdict::FirstCopy { drop_slot: true });
        let clean = Found { slot: None, ..found() };
        assert_eq!(check(None, &clean), Verdict::FirstCopy { drop_slot: false });
    }

    #[test]
    fn each_change_of_identity_is_a_compared_recopy() {
        type Change = fn(&mut Found);
        let table: [(Change, Recopy); 4] = [
            (|f| f.system_id = 8, Recopy::OtherSystem),
            (|f| f.timeline = 2, Recopy::OtherTimeline),
            (|f| f.database_oid = 6, Recopy::OtherDatabase),
            (|f| f.slot_name = "headwater_2".into(), Recopy::OtherSlotName),
        ];
        for (change, reason) in table {
            let mut found = found();
            change(&mut found);
            assert_eq!(check(Some(&stored()), &found), recopy(reason));
        }
    }

    #[test]
    fn f_14_a_slot_that_is_gone_or_lost_is_a_compared_recopy() {
        let gone = Found { slot: None, ..found() };
        assert_eq!(
            check(Some(&stored()), &gone),
            Verdict::ComparedRecopy { reason: Recopy::SlotGone, drop_slot: false }
        );
        let mut lost = slot(2000);
        lost.wal_status = Some(WalStatus::Lost);
        let mut invalid = slot(2000);
        invalid.invalidation = Some("wal_removed".into());
        let mut empty = slot(2000);
        empty.confirmed_flush = None;
        for slot in [lost, invalid, empty] {
            let found = Found { slot: Some(slot), ..found() };
            assert_eq!(check(Some(&stored()), &found), recopy(Recopy::SlotLost));
        }
    }

    #[test]
    fn a_hole_and_a_moved_history_are_a_compared_recopy() {
        for (confirmed, end, flush, reason) in [
            (2501, 2500, 3000, Recopy::Hole),
            (2000, 2500, 2499, Recopy::SourceMovedBack),
            (1499, 2500, 3000, Recopy::SlotOlderThanTail),
            (X - 1, 2500, 3000, Recopy::SlotOlderThanTail),
        ] {
            let stored = Stored { end_lsn: EndLsn(Lsn(end)), ..stored() };
            let found =
                Found { slot: Some(slot(confirmed)), flush_lsn: EndLsn(Lsn(flush)), ..found() };
            assert_eq!(check(Some(&stored), &found), recopy(reason), "{confirmed} {end} {flush}");
        }
        // Made before the slot was: only the mark tells, when there is no tail.
        let stored = Stored { tail_start: None, ..stored() };
        let found = Found { slot: Some(slot(X - 1)), ..found() };
        assert_eq!(check(Some(&stored), &found), recopy(Recopy::SlotOlderThanTail));
    }

    #[test]
    fn a_standby_and_a_foreign_slot_are_refused() {
        let standby = Found { in_recovery: true, ..found() };
        for stored in [None, Some(&stored())] {
            assert!(matches!(check(stored, &standby), Verdict::Refuse(_)));
        }
        let mut physical = slot(2000);
        physical.plugin = None;
        let mut other_plugin = slot(2000);
        other_plugin.plugin = Some("wal2json".into());
        let mut other_database = slot(2000);
        other_database.database = Some("else".into());
        let mut temporary = slot(2000);
        temporary.temporary = true;
        for slot in [physical, other_plugin, other_database, temporary] {
            let found = Found { slot: Some(slot), ..found() };
            let Verdict::Refuse(finding) = check(None, &found) else { panic!("not refused") };
            assert!(finding.what.starts_with("slot \"headwater_1\" is "), "{finding}");
            assert_eq!(finding.code.0, code::SLOT_NOT_OURS);
        }
    }
}
