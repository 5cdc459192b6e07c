//! All results that are kept: who depends on what, who has to be asked, and what transactions did to whom.

use crate::book::Reads;
use crate::index::Index;
use crate::kept::{Kept, Phase};
use crate::lookups::{Lookups, ReadTable};
use crate::plan::Plan;
use crate::query::Question;
use hw_engine::{ChangePlace, ChangedRow, ChangedTable, Committed, Published, Rows, Since};
use hw_pg::rights::Rights;
use hw_types::{EndLsn, PgSnapshot, TableName};
use std::collections::{BTreeSet, HashMap, HashSet, VecDeque};
use std::sync::Arc;
use std::time::Instant;

/// Questions of one round.
const ROUND: usize = 256;

/// See the module.
#[derive(Default)]
pub(crate) struct State {
    pub results: HashMap<u64, Kept>,
    pub next: u64,
    /// Who has to be asked, in turn.
    pub queue: VecDeque<u64>,
    /// Who has a plan for the rows of a table.
    pub planned: HashMap<TableName, Index>,
    /// The tables that policies read beside, and who depends on rows of them, by oid.
    pub lookups: Lookups,
    pub inner: HashMap<u32, Index>,
    /// Who is asked when a table changes.
    pub by_table: HashMap<TableName, BTreeSet<u64>>,
    /// Who is asked when anything changes.
    pub by_anything: BTreeSet<u64>,
    /// Transactions in the list that the last snapshot did not see, and how far that was looked through.
    pub unseen: Vec<Arc<Committed>>,
    pub looked: Option<ChangePlace>,
    /// Who may see what, since when that is so.
    rights: Option<(Rights, Instant)>,
    /// The last transaction that was followed.
    followed: EndLsn,
    /// What was followed while somebody was being asked.
    pub meanwhile: Vec<Arc<Committed>>,
    pub is_asking: bool,
    pub stopping: bool,
}

impl State {
    /// Notes that a result has to be asked again.
    pub fn ask(&mut self, number: u64) {
        let Some(kept) = self.results.get_mut(&number) else { return };
        if !kept.due {
            kept.due = true;
            if !kept.asked && kept.inbox.is_empty() {
                self.queue.push_back(number);
            }
        }
    }

    /// What happened is not known any more: everybody is asked, and tables are read again.
    pub fn lose(&mut self) {
        self.lookups = Lookups::default();
        let all: Vec<u64> = self.results.keys().copied().collect();
        self.ask_all(all);
    }

    /// Lets one that is due into the queue, when nothing is in its way any more.
    pub fn requeue(&mut self, number: u64) {
        let Some(kept) = self.results.get(&number) else { return };
        if kept.due && !kept.asked && kept.inbox.is_empty() {
            self.queue.push_back(number);
        }
    }

    pub fn ask_all(&mut self, numbers: impl IntoIterator<Item = u64>) {
        numbers.into_iter().for_each(|number| self.ask(number));
    }

    /// Notes what a result depends on: rows that its plan finds, or every row of what it reads.
    pub fn depends(&mut self, number: u64, reads: Reads, plan: Option<Arc<Plan>>) {
        let Some(kept) = self.results.get(&number) else { return };
        let is_same = match (&kept.plan, &plan) {
            (None, None) => kept.reads == reads,
            (Some(old), Some(new)) => Arc::ptr_eq(old, new),
            _ => false,
        };
        if is_same {
            return;
        }
        self.forget(number);
        let Some(kept) = self.results.get_mut(&number) else { return };
        (kept.reads, kept.plan) = (reads, plan);
        let table = &kept.question.query.table;
        if let Some(plan) = &kept.plan {
            self.planned.entry(table.clone()).or_default().add(number, &plan.cover);
            for (oid, cover) in &plan.inner {
                self.inner.entry(*oid).or_default().add(number, cover);
            }
            return;
        }
        for table in &kept.reads.tables {
            self.by_table.entry(table.clone()).or_default().insert(number);
        }
        if kept.reads.unknown {
            self.by_anything.insert(number);
        }
    }

    pub fn forget(&mut self, number: u64) {
        let Some(kept) = self.results.get(&number) else { return };
        let table = &kept.question.query.table;
        if let Some(plan) = &kept.plan {
            if let Some(index) = self.planned.get_mut(table) {
                index.remove(number, &plan.cover);
                if index.is_empty() {
                    self.planned.remove(table);
                }
            }
            for (oid, cover) in &plan.inner {
                if let Some(index) = self.inner.get_mut(oid) {
                    index.remove(number, cover);
                    if index.is_empty() {
                        self.inner.remove(oid);
                    }
                }
            }
        }
        for table in &kept.reads.tables {
            if let Some(numbers) = self.by_table.get_mut(table) {
                numbers.remove(&number);
                if numbers.is_empty() {
                    self.by_table.remove(table);
                }
            }
        }
        self.by_anything.remove(&number);
    }

    pub fn remove(&mut self, number: u64) {
        self.forget(number);
        self.results.remove(&number);
    }

    /// Whether rows are told by a plan for one of these transactions.
    pub fn is_planned(&self, committed: &[Arc<Committed>]) -> bool {
        let tables = committed.iter().flat_map(|one| &one.tables);
        tables.into_iter().any(|table| self.planned.contains_key(table.name()))
    }

    /// Takes what transactions did: asks those who depend on it, and applies it to those that have a plan.
    ///
    /// - Takes: who may see what, looked at behind these transactions; `None` where that is not known, or no
    ///   plan is touched.
    pub fn dispatch(&mut self, committed: &[Arc<Committed>], rights: Option<&Rights>) {
        let mut due: BTreeSet<u64> = BTreeSet::new();
        for one in committed {
            let mut moved = BTreeSet::new();
            if one.altered {
                // Whatever it was: rights that were taken and given back look as if nothing had happened.
                moved.extend(self.results.keys());
                self.lookups = Lookups::default();
                self.rights = None;
            }
            for table in &one.tables {
                due.extend(self.by_table.get(table.name()).into_iter().flatten());
                if table.described {
                    moved.extend(self.planned.get(table.name()).into_iter().flat_map(Index::all));
                }
                self.moved(table, &mut moved);
                self.lookups.apply(one, table);
            }
            // Who sees what changes with this transaction: the plans are of before it.
            self.ask_all(moved);
            for table in &one.tables {
                self.apply(one, table, rights, &mut due);
            }
            if !one.tables.is_empty() {
                due.extend(&self.by_anything);
            }
        }
        if self.is_asking {
            self.meanwhile.extend_from_slice(committed);
        }
        if let Some(last) = committed.last() {
            self.followed = self.followed.max(last.end_lsn);
        }
        self.ask_all(due);
    }

    /// Notes who may see what; whether the engine has looked at the catalog since, so that what it has of tables
    /// is of the same catalog.
    ///
    /// - Takes: when its last look began that left no question open.
    pub fn settle(&mut self, rights: &Rights, looked_at: Option<Instant>) -> bool {
        if self.rights.as_ref().is_none_or(|(known, _)| known != rights) {
            self.rights = Some((rights.clone(), Instant::now()));
            self.lookups = Lookups::default();
        }
        self.is_settled(rights, looked_at)
    }

    /// The same, without noting anything.
    pub fn is_settled(&self, rights: &Rights, looked_at: Option<Instant>) -> bool {
        let since = self.rights.as_ref().filter(|(known, _)| known == rights);
        since.zip(looked_at).is_some_and(|((_, since), looked_at)| *since < looked_at)
    }

    /// Holds tables that were read, with what was done to them since.
    pub fn hold(&mut self, read: Vec<ReadTable>, since: Since) {
        let Since::Complete(since) = since else { return };
        for table in read {
            let oid = table.oid();
            if self.lookups.hold(table).is_ok() {
                for one in &since {
                    let changed = one.tables.iter().filter(|table| table.relation.id.0 == oid);
                    changed.for_each(|table| self.lookups.apply(one, table));
                }
            }
        }
    }

    /// Who depends on what a transaction did to a table beside theirs.
    pub fn moved(&self, table: &ChangedTable, moved: &mut BTreeSet<u64>) {
        let Some(index) = self.inner.get(&table.relation.id.0) else { return };
        let Rows::Known(rows) = &table.rows else { return moved.extend(index.all()) };
        let mut found = HashSet::new();
        for row in rows {
            for state in [&row.before, &row.after].into_iter().flatten() {
                index.candidates(&state.row, &mut found);
            }
        }
        moved.extend(found);
    }

    /// Applies what a transaction did to a table to those that have a plan for it.
    pub fn apply(
        &mut self,
        one: &Committed,
        table: &ChangedTable,
        rights: Option<&Rights>,
        due: &mut BTreeSet<u64>,
    ) {
        let Some(index) = self.planned.get(table.name()) else { return };
        let rows = match &table.rows {
            Rows::Known(rows) => rows,
            Rows::Unknown | Rows::StandsStill => return due.extend(index.all()),
        };
        let mut found = HashMap::<u64, Vec<&ChangedRow>>::new();
        let mut candidates = HashSet::new();
        for row in rows {
            candidates.clear();
            for state in [&row.before, &row.after].into_iter().flatten() {
                index.candidates(&state.row, &mut candidates);
            }
            for number in &candidates {
                found.entry(*number).or_default().push(row);
            }
        }
        for (number, rows) in found {
            let Some(kept) = self.results.get_mut(&number) else { continue };
            // Whoever is or will be asked is told by the answer.
            let is_told = kept.due || kept.asked;
            if !is_told && !kept.apply(one, table, &rows, rights, &self.lookups) {
                due.insert(number);
            }
        }
    }

    /// Finds what the newest snapshot does not see, among what no snapshot saw so far and what came since;
    /// false where that is not known any more.
    pub fn look_for_unseen(&mut self, snapshot: &PgSnapshot, published: &Published) -> bool {
        let since = self.looked.map(|place| published.committed_since(place));
        self.looked = Some(published.change_place());
        let is_unseen = |one: &Arc<Committed>| one.xid.is_some_and(|xid| !snapshot.sees(xid));
        match since {
            Some(Since::Complete(list)) => {
                self.unseen.extend(list);
                self.unseen.retain(is_unseen);
                true
            }
            Some(Since::Gone) | None => {
                self.unseen.clear();
                false
            }
        }
    }

    /// Brings those that were just asked from the moment of the answer to that up to which it was looked at
    /// who may see what.
    pub fn catch_up(&mut self, told: &[u64], rights: &Rights, latest: EndLsn) {
        let unseen = self.unseen.clone();
        let last = self.meanwhile.iter().map(|one| one.end_lsn).max();
        for number in told {
            let Some(kept) = self.results.get_mut(number) else { continue };
            // Plans that read tables beside are of what was followed: what is not followed yet comes to them
            // in its place. The others know all that they need.
            let reads_beside = kept.plan.as_ref().is_some_and(|plan| !plan.inner.is_empty());
            let upto = if reads_beside { self.followed } else { latest };
            let mut is_due = kept.due;
            for one in unseen.iter().filter(|one| one.end_lsn <= upto) {
                is_due = is_due
                    || match kept.plan.is_some() && !reads_beside {
                        true => !kept.apply_all(one, rights, &self.lookups),
                        false => kept.is_touched(one, &self.lookups),
                    };
            }
            // What was followed meanwhile went past it.
            let mut later = self.meanwhile.iter().filter(|one| one.end_lsn > upto);
            is_due = is_due || later.any(|one| kept.is_touched(one, &self.lookups));
            if let Phase::Told { at, .. } = &mut kept.phase {
                at.applied = last.unwrap_or(upto).max(upto);
            }
            if is_due {
                kept.due = false;
                self.ask(*number);
            }
        }
    }

    /// Takes those who are asked next.
    pub fn batch(&mut self) -> Vec<(u64, Question)> {
        let mut batch = Vec::new();
        self.meanwhile.clear();
        while batch.len() < ROUND
            && let Some(number) = self.queue.pop_front()
        {
            let Some(kept) = self.results.get_mut(&number) else { continue };
            // It may stand in the queue twice.
            if kept.due && !kept.asked && kept.inbox.is_empty() {
                (kept.due, kept.asked) = (false, true);
                batch.push((number, kept.question.clone()));
            }
        }
        self.is_asking = !batch.is_empty();
        batch
    }
}
