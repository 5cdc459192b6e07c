//! One result that is kept: what was told of it, how it goes on, and how it ends.

use crate::book::Reads;
use crate::error::LiveError;
use crate::lookups::Lookups;
use crate::plan::{Conditions, Plan};
use crate::query::{Commit, First, Key, LiveQuery, News, Question, Record};
use crate::result::Held;
use crate::subscription::Inbox;
use crate::touched::touched;
use hw_engine::{
    ChangePlace, ChangedRow, ChangedTable, Committed, Published, Rows, Since, TableView,
};
use hw_pg::rights::Rights;
use hw_types::{EndLsn, PgSnapshot};
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;
use tokio::sync::oneshot;

/// Changes that wait for somebody who takes nothing, before he is asked instead when he takes them.
const MOST_WAITING: usize = 10_000;

/// A result that is kept.
pub(crate) struct Kept {
    pub question: Question,
    pub reads: Reads,
    /// Who might see what when it was last asked.
    pub rights: Option<Rights>,
    /// How rows become part of it, where that is computed here.
    pub plan: Option<Arc<Plan>>,
    pub inbox: Arc<Inbox>,
    /// Whether it has to be asked: it stands in the queue, or will when its inbox is empty.
    pub due: bool,
    /// It is being asked.
    pub asked: bool,
    pub failures: u32,
    /// There could be a plan as soon as the engine has looked at the catalog behind us.
    pub is_unsettled: bool,
    pub phase: Phase,
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
    /// What was published up to here is in it, also what the snapshot did not see.
    pub applied: EndLsn,
    /// What a plan told last.
    pub told: EndLsn,
}

/// What the list has behind moments, looked up once each.
pub(crate) struct SinceMoments<'p> {
    pub checked: &'p Published,
    /// What no snapshot saw before.
    pub unseen: Vec<Arc<Committed>>,
    pub known: HashMap<ChangePlace, Vec<Arc<Committed>>>,
}

impl SinceMoments<'_> {
    /// What is behind a moment. Where the list does not reach back, all that is lost is that rows were touched
    /// of which nothing has changed.
    pub fn of(&mut self, at: &Moment) -> &[Arc<Committed>] {
        let SinceMoments { checked, unseen, known } = self;
        known.entry(at.place).or_insert_with(|| match checked.committed_since(at.place) {
            Since::Complete(list) => unseen.iter().cloned().chain(list).collect(),
            Since::Gone => unseen.clone(),
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
    /// How rows become part of the result from now on, if that can be computed here.
    pub fn plan_for(
        &self,
        conditions: Option<Conditions>,
        rights: &Rights,
        published: &Published,
        lookups: &Lookups,
    ) -> Option<Arc<Plan>> {
        let Question { query, who } = &self.question;
        let (conditions, matcher) = conditions.as_ref().zip(query.matcher.as_ref())?;
        let table = published.table(&query.table).entered();
        // Rows must be told apart by what they are told by, and another table may have taken the name.
        let is_same = |table: &TableView<'_>| {
            let names: BTreeSet<&str> = table
                .key_columns()
                .iter()
                .filter_map(|index| Some(&*table.relation().columns.get(*index)?.name))
                .collect();
            !table.stands_still()
                && !table.has_multiplicity()
                && table.relation().id.0 == conditions.table.number
                && names == query.key.iter().map(String::as_str).collect()
        };
        let table = table.filter(is_same)?;
        if let Some(plan) = &self.plan
            && plan.inner.is_empty()
            && plan.rights == *rights
            && plan.reads(table.relation())
        {
            return Some(plan.clone());
        }
        let relation = table.relation().clone();
        let rights = rights.clone();
        Plan::new(query, matcher, who, conditions, relation, rights, lookups).map(Arc::new)
    }

    /// Applies what a transaction did to all of a plan's rows; false where it has to be asked instead.
    pub fn apply_all(&mut self, one: &Committed, rights: &Rights, lookups: &Lookups) -> bool {
        let name = self.question.query.table.clone();
        let mut is_known = true;
        for table in one.tables.iter().filter(|table| *table.name() == name) {
            is_known &= match &table.rows {
                Rows::Known(rows) => {
                    let rows: Vec<&ChangedRow> = rows.iter().collect();
                    self.apply(one, table, &rows, Some(rights), lookups)
                }
                Rows::Unknown | Rows::StandsStill => false,
            };
        }
        is_known
    }

    /// Whether a transaction did something to rows that are told by the plan, before or behind it.
    pub fn is_touched(&self, one: &Committed, lookups: &Lookups) -> bool {
        let Some(plan) = &self.plan else {
            let mut tables = one.tables.iter();
            return self.reads.unknown && !one.tables.is_empty()
                || tables.any(|table| self.reads.tables.contains(table.name()));
        };
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

    /// Applies what a transaction did to rows that may be in the result; false where it has to be asked instead.
    pub fn apply(
        &mut self,
        one: &Committed,
        table: &ChangedTable,
        rows: &[&ChangedRow],
        rights: Option<&Rights>,
        lookups: &Lookups,
    ) -> bool {
        let Phase::Told { held, at } = &mut self.phase else { return false };
        if at.has(one) {
            return true;
        }
        let Some(plan) = self.plan.as_ref().filter(|plan| plan.reads(&table.relation)) else {
            return false;
        };
        if rights != Some(&plan.rights) {
            return false;
        }
        // Tables beside that were read since then are ahead of it.
        if !plan.inner.is_empty() && one.end_lsn <= lookups.read_until() {
            return false;
        }
        let Ok(changes) = plan.changes(held, rows, lookups) else { return false };
        at.told = one.end_lsn;
        let Some(changes) = changes else { return true };
        if !plan.is_complete {
            // Which of the rows are in the window depends on the others.
            return false;
        }
        let waiting = self.inbox.put(Commit { position: one.end_lsn, changes });
        // For somebody who takes nothing no more is put together.
        waiting < MOST_WAITING
    }

    pub fn tell(
        &mut self,
        result: News<(Key, Record)>,
        now: &Moment,
        published: &Published,
        since: &mut SinceMoments<'_>,
    ) {
        let position = published.checkpoint.end_lsn;
        match &mut self.phase {
            Phase::Told { held, at } => {
                let is_new = |one: &&Arc<Committed>| {
                    let is_told = at.has(one) || one.end_lsn <= at.told;
                    !is_told && one.xid.is_some_and(|xid| now.snapshot.sees(xid))
                };
                let LiveQuery { table, key, .. } = &*self.question.query;
                let new = since.of(at).iter().filter(is_new).map(|one| &**one);
                let touched = touched(table, key, published, new);
                if let Some(changes) = held.replace(result, &touched) {
                    self.inbox.put(Commit { position, changes });
                }
                *at = now.clone();
            }
            Phase::First(_) => {
                let told = Phase::Told { held: Held::of(&result), at: now.clone() };
                let first = First { position, result };
                self.inbox.begin(&first);
                if let Phase::First(reply) = std::mem::replace(&mut self.phase, told) {
                    // Nobody waits any more: then it was removed, or is about to be.
                    let _ = reply.send(Ok(first));
                }
            }
            Phase::Ended => {}
        }
    }

    /// Everything goes, and nothing comes behind it.
    pub fn end(&mut self, why: LiveError, position: EndLsn) {
        match std::mem::replace(&mut self.phase, Phase::Ended) {
            Phase::First(reply) => {
                let _ = reply.send(Err(why));
            }
            Phase::Told { mut held, .. } => {
                if let Some(changes) = held.clear() {
                    self.inbox.put(Commit { position, changes });
                }
                self.inbox.end(why);
            }
            Phase::Ended => {}
        }
    }
}
