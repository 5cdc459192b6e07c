//! One result that is kept: what was told of it, how it goes on, and how it ends.

use crate::book::Reads;
use crate::error::LiveError;
use crate::ground::Ground;
use crate::group::{self, Inbox};
use crate::lanes::Lane;
use crate::lookups::Lookups;
use crate::plan::{Conditions, Plan};
use crate::query::{Commit, First, Question};
use crate::rendering::Rendering;
use crate::result::{Answered, Held};
use hw_engine::{
    ChangePlace, ChangedRow, ChangedTable, Committed, Published, Rows, Since, TableView,
};
use hw_types::{EndLsn, FullXid, PgSnapshot};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Instant;
use tokio::sync::oneshot;

/// A result that is kept.
pub(crate) struct Kept {
    pub question: Question,
    pub reads: Arc<Reads>,
    /// What the last answer stands on.
    pub ground: Option<Ground>,
    /// How its rows are told, where that can be done here.
    pub rendering: Option<Arc<Rendering>>,
    /// How rows become part of it, where that is computed here.
    pub plan: Option<Arc<Plan>>,
    pub inbox: Inbox,
    pub standing: Standing,
    /// Since when it waits to be asked, or for the answer.
    pub asked_since: Option<Instant>,
    /// Its last answer took long.
    pub is_slow: bool,
    pub failures: u8,
    /// Its table has not entered yet: until it has, nothing is told.
    pub is_entering: bool,
    /// There could be a plan as soon as the engine has looked at the catalog behind us.
    pub is_unsettled: bool,
    /// Transactions that touch it, were published before it was last asked, and are not in the answer.
    pub late: Vec<Arc<Committed>>,
    pub phase: Phase,
}

/// What became of what was to be told.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[must_use]
pub(crate) enum Applied {
    /// It is told.
    Told,
    /// It is told, or forgotten for want of room, and no more is put together for somebody who takes nothing: what
    /// comes now is asked.
    Full,
    /// It cannot be told here: it is asked.
    Not,
}

/// Whether a result has to be asked.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) struct Standing {
    /// It has to: it stands in a queue, or will when it is not being asked and its inbox is empty.
    pub due: bool,
    pub queued: bool,
    pub asked: bool,
}

pub(crate) enum Phase {
    /// Nothing has been told yet.
    First(oneshot::Sender<Result<First, LiveError>>),
    /// What was told last.
    Told { held: Held, at: Moment },
    /// Nothing will be told any more.
    Ended,
}

/// A moment of a result.
#[derive(Clone)]
pub(crate) struct Moment {
    pub snapshot: Arc<PgSnapshot>,
    /// Where the list of changes stood.
    pub place: ChangePlace,
    /// What was published up to here is in it, also what the snapshot did not see, but for what is late.
    pub applied: EndLsn,
    /// What a plan told last.
    pub told: EndLsn,
}

/// What the list has behind moments, looked up once each.
pub(crate) struct SinceMoments<'p> {
    checked: &'p Published,
    known: HashMap<ChangePlace, Vec<Arc<Committed>>>,
}

impl SinceMoments<'_> {
    pub fn new(checked: &Published) -> SinceMoments<'_> {
        SinceMoments { checked, known: HashMap::new() }
    }

    /// What is behind a moment. Where the list does not reach back, all that is lost is that rows were touched
    /// of which nothing has changed, and what others were before.
    fn of(&mut self, at: &Moment) -> &[Arc<Committed>] {
        let SinceMoments { checked, known } = self;
        known.entry(at.place).or_insert_with(|| match checked.committed_since(at.place) {
            Since::Complete(list) => list,
            Since::Gone => Vec::new(),
        })
    }
}

impl Moment {
    /// Whether a transaction is in it.
    fn has(&self, one: &Committed) -> bool {
        one.end_lsn <= self.applied || one.xid.is_some_and(|xid| self.snapshot.sees(xid))
    }
}

impl Kept {
    /// Among whom it is asked.
    pub fn lane(&self) -> Lane {
        let is_first = matches!(self.phase, Phase::First(_));
        let is_planned = self.plan.as_ref().is_some_and(|plan| plan.is_complete);
        match (self.is_slow, is_first || is_planned) {
            (true, _) => Lane::Slow,
            (false, true) => Lane::Quick,
            (false, false) => Lane::Again,
        }
    }

    /// Whether it is as its plan has told it, and the plan tells all of it.
    pub fn rests(&self) -> bool {
        let Standing { due, asked, .. } = self.standing;
        let is_told = matches!(self.phase, Phase::Told { .. });
        let is_complete = self.plan.as_ref().is_some_and(|plan| plan.is_complete);
        is_told && is_complete && !due && !asked && self.late.is_empty()
    }

    /// Whether its last moment lacks a transaction.
    pub fn lacks(&self, xid: FullXid) -> bool {
        matches!(&self.phase, Phase::Told { at, .. } if !at.snapshot.sees(xid))
    }

    /// Notes that a transaction concerns it which is not in what was told: its group waits for that.
    pub fn lack(&self, one: &Committed) {
        // Of a first result nothing was shown, so that nobody waits for it.
        if let Phase::Told { at, .. } = &self.phase
            && !at.has(one)
        {
            self.inbox.lack(one.end_lsn);
        }
    }

    /// Notes that it is not known what is committed behind a position.
    pub fn lose(&self, behind: EndLsn) {
        if matches!(self.phase, Phase::Told { .. }) {
            self.inbox.lack(group::behind(behind));
        }
    }

    /// How rows become part of the result from now on, if that can be computed here.
    pub fn plan_for(
        &self,
        conditions: Option<Conditions>,
        published: &Published,
        lookups: &Lookups,
    ) -> Option<Arc<Plan>> {
        let query = &self.question.query;
        let (conditions, rendering) = (conditions.as_ref()?, self.rendering.as_ref()?);
        query.matcher.as_ref()?;
        let table = published.table(&query.table).followed();
        // Rows must be told apart by what they are told by, and another table may have taken the name.
        let is_same = |table: &TableView<'_>| {
            let names: BTreeSet<&str> = table
                .key_columns()
                .iter()
                .filter_map(|index| Some(&*table.relation().columns.get(*index)?.name))
                .collect();
            !table.has_multiplicity()
                && rendering.reads(table.relation())
                && table.relation().id.0 == conditions.table.number
                && names == query.key.iter().map(String::as_str).collect()
        };
        let table = table.filter(is_same)?;
        if let Some(plan) = &self.plan
            && plan.inner.is_empty()
            && plan.is_of(conditions)
            && plan.reads(table.relation())
        {
            return Some(plan.clone());
        }
        let told = (&**table.relation(), rendering.clone());
        Plan::new(&self.question, conditions, told, lookups).map(Arc::new)
    }

    /// Whether who may see what has changed since it was asked, as far as it depends on that.
    pub fn is_outdated(&self) -> bool {
        self.ground.as_ref().is_some_and(|ground| !ground.holds())
    }

    /// Applies what a transaction did to all of a plan's rows.
    ///
    /// - Needs: it was looked at who may see what behind the transaction.
    pub fn apply_all(&mut self, one: &Committed, lookups: &Lookups) -> Applied {
        let query = self.question.query.clone();
        let mut applied = Applied::Told;
        for table in one.tables.iter().filter(|table| *table.name() == query.table) {
            let Rows::Known(rows) = &table.rows else { return Applied::Not };
            let rows: Vec<&ChangedRow> = rows.iter().collect();
            match self.apply(one, table, &rows, lookups) {
                Applied::Told => {}
                Applied::Full => applied = Applied::Full,
                Applied::Not => return Applied::Not,
            }
        }
        applied
    }

    /// Whether a transaction did something to rows that are told by the plan, before or behind it.
    pub fn is_touched(&self, one: &Committed, lookups: &Lookups) -> bool {
        let Some(plan) = &self.plan else { return self.reads.has(one) };
        let name = &self.question.query.table;
        let mut tables = one.tables.iter().filter(|table| table.name() == name);
        let is_known = |state| plan.admits(state, lookups) == Ok(false);
        plan.is_moved(one)
            || tables.any(|table| match &table.rows {
                Rows::Known(rows) => rows
                    .iter()
                    .any(|row| !is_known(row.before.as_ref()) || !is_known(row.after.as_ref())),
                Rows::Unknown | Rows::StandsStill => true,
            })
    }

    /// Applies what a transaction did to rows that may be in the result.
    ///
    /// - Needs: it was looked at who may see what behind the transaction.
    pub fn apply(
        &mut self,
        one: &Committed,
        table: &ChangedTable,
        rows: &[&ChangedRow],
        lookups: &Lookups,
    ) -> Applied {
        let is_doubted = |ground: &Ground| ground.is_doubted(one.end_lsn);
        if self.is_outdated() || self.ground.as_ref().is_some_and(is_doubted) {
            return Applied::Not;
        }
        let Phase::Told { held, at } = &mut self.phase else { return Applied::Not };
        // What was forgotten stands before it.
        if self.inbox.has_gap() {
            return Applied::Not;
        }
        if at.has(one) {
            return Applied::Told;
        }
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.reads(&table.relation)) else {
            return Applied::Not;
        };
        // Somebody who asks now may see what is late, so that this without it may never have been shown.
        if !self.late.is_empty() {
            return Applied::Not;
        }
        // Tables beside that were read since then are ahead of it.
        if !plan.inner.is_empty() && one.end_lsn <= lookups.read_until() {
            return Applied::Not;
        }
        let Ok(changes) = plan.changes(held, rows, lookups) else { return Applied::Not };
        if changes.is_some() && !plan.is_complete {
            // Which of the rows are in the window depends on others that are not known.
            return Applied::Not;
        }
        at.told = one.end_lsn;
        let Some(changes) = changes else { return Applied::Told };
        self.put(Commit { position: one.end_lsn, changes }, one.end_lsn)
    }

    /// Puts news in, or forgets all that waits where there is no room for it.
    ///
    /// - Takes: the first position that it may be of.
    fn put(&mut self, news: Commit, from: EndLsn) -> Applied {
        let Phase::Told { held, at } = &mut self.phase else { return Applied::Not };
        let may_grow = self.inbox.put(news, from);
        match (self.inbox.count(held.weight()), may_grow) {
            (true, true) => Applied::Told,
            (true, false) => Applied::Full,
            (false, _) => {
                held.untell(self.inbox.forget());
                self.inbox.untold(held.weight());
                // Rows of transactions that were told are told of once more.
                at.told = EndLsn::default();
                metrics::counter!("headwater_live_forgotten_total").increment(1);
                Applied::Full
            }
        }
    }

    /// Tells what is asked at a moment. Its inbox is shut from then on. Where there is no room to tell it, it is as if
    /// it had not been asked.
    ///
    /// - Errors: there is no room for a first result.
    pub fn tell(
        &mut self,
        answered: Answered,
        now: &Moment,
        published: &Published,
        since: &mut SinceMoments<'_>,
    ) -> Result<(), LiveError> {
        let late = std::mem::take(&mut self.late);
        let new = self.new_in(&late, now, since);
        // Between those on which it depends it stayed as it was, and behind the last of them as it is.
        let moved = || new.iter().filter(|one| one.altered || self.reads.has(one));
        let moved = || moved().map(|one| one.end_lsn);
        let (first, last) = (moved().min(), moved().max());
        let position = last.unwrap_or(published.checkpoint.end_lsn);
        // What a plan has told already, and the snapshot does not see, follows.
        self.inbox.shut();
        let rendering = self.rendering.as_deref();
        match &mut self.phase {
            Phase::Told { held, .. } => {
                let query = &self.question.query;
                let new = new.iter().map(|one| &**one);
                let touched =
                    self.rendering.as_ref().map(|rendering| rendering.touched(query, new));
                let changes = held.replace(&answered, rendering, &touched.unwrap_or_default());
                match changes.is_empty() {
                    true => drop(self.inbox.count(held.weight())),
                    // Which of these did what, nobody knows.
                    false => {
                        let from = first.unwrap_or(position);
                        let _ = self.put(Commit { position, changes }, from);
                    }
                }
                if self.inbox.has_gap() {
                    self.late = late;
                } else if let Phase::Told { at, .. } = &mut self.phase {
                    *at = now.clone();
                }
            }
            Phase::First(_) => {
                let held = Held::of(&answered, rendering);
                if !self.inbox.count(held.weight()) {
                    self.inbox.open();
                    return Err(LiveError::NoRoom);
                }
                let told = Phase::Told { held, at: now.clone() };
                let first = First { position, result: answered.rows };
                self.inbox.begin(position);
                if let Phase::First(reply) = std::mem::replace(&mut self.phase, told) {
                    // Nobody waits any more: then it was removed, or is about to be.
                    let _ = reply.send(Ok(first));
                }
            }
            Phase::Ended => {}
        }
        Ok(())
    }

    /// What a moment has that was neither told nor in the last one.
    ///
    /// - Takes: what was late for the last one.
    fn new_in(
        &self,
        late: &[Arc<Committed>],
        now: &Moment,
        since: &mut SinceMoments<'_>,
    ) -> Vec<Arc<Committed>> {
        let Phase::Told { at, .. } = &self.phase else { return Vec::new() };
        let sees = |one: &&Arc<Committed>| one.xid.is_some_and(|xid| now.snapshot.sees(xid));
        let is_told = |one: &Committed| at.has(one) || one.end_lsn <= at.told;
        let since = since.of(at).iter().filter(|one| !is_told(one));
        late.iter().chain(since).filter(sees).cloned().collect()
    }

    /// Everything goes, and nothing comes behind it.
    pub fn end(&mut self, why: LiveError, position: EndLsn) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::First(reply) => {
                let _ = reply.send(Err(why));
            }
            // There is no room to tell that rows go, either.
            Phase::Told { .. } if why == LiveError::NoRoom => self.inbox.end(why),
            Phase::Told { mut held, .. } => {
                let changes = held.clear();
                if !changes.is_empty() {
                    let from = self.inbox.lacking().unwrap_or(position);
                    self.inbox.put(Commit { position, changes }, from);
                }
                self.inbox.end(why);
            }
            Phase::Ended => {}
        }
    }
}
