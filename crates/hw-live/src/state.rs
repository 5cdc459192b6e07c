//! All results that are kept: who depends on what, who has to be asked, and what transactions did to whom.

use crate::book::Reads;
use crate::error::LiveError;
use crate::found::{Audits, Disagreement, Disproved, Turns};
use crate::ground::Ground;
use crate::group::{self, Line};
use crate::hindrances::Hindrances;
use crate::index::Index;
use crate::kept::{Applied, Kept, Phase, Standing};
use crate::lanes::{Lane, Queue};
use crate::lookups::{Lookups, ReadTable};
use crate::plan::Plan;
use crate::query::{Asker, LiveQuery, Question};
use crate::rendering::Rendering;
use crate::unseen::{Place, Unseen, View};
use hw_engine::{ChangedRow, ChangedTable, Committed, Published, Rows, Since, TableState};
use hw_expr::postgres::JsonOfDatabase;
use hw_pg::rights::Rights;
use hw_types::{EndLsn, FullXid, RunAs, TableName};
use std::collections::{BTreeMap, BTreeSet, HashMap, HashSet};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// See the module.
pub(crate) struct State {
    pub results: HashMap<u64, Kept>,
    pub next: u64,
    /// Who has to be asked, by lane.
    queues: [Queue; Lane::ALL.len()],
    /// Queries that somebody has, and how their rows are told.
    queries: HashMap<Arc<LiveQuery>, Option<Arc<Rendering>>>,
    /// Who has them.
    askers: HashMap<Arc<RunAs>, Arc<Asker>>,
    /// Who has a plan for the rows of a table.
    pub planned: HashMap<TableName, Index>,
    /// The tables that policies read beside, and who depends on rows of them, by oid.
    pub lookups: Lookups,
    pub inner: HashMap<u32, Index>,
    /// Who is asked when a table changes.
    pub by_table: HashMap<TableName, BTreeSet<u64>>,
    /// Who is asked when anything changes.
    pub by_anything: BTreeSet<u64>,
    /// What the last snapshot did not see of what is published; `None`: nothing is known of that.
    pub unseen: Option<Unseen>,
    /// Who waits for snapshots to see what is late for them.
    waiting: BTreeSet<u64>,
    /// Who may see what, since when that is so.
    rights: Option<(Rights, Instant)>,
    /// Up to where publications were followed; groups are told so.
    pub followed: Place,
    line: Arc<Line>,
    /// Whose plans are not to be trusted.
    pub disproved: Disproved,
    /// Whose plan is looked at next.
    pub turns: Turns,
    pub audits: Audits,
    pub hindrances: Hindrances,
    /// Tables that cannot be followed, and since when results know it.
    refused: BTreeMap<TableName, Instant>,
    /// How many questions there were.
    pub questions: u64,
    pub stopping: bool,
}

/// What a round has told, and where it stood.
pub(crate) struct Told<'r> {
    pub results: &'r [u64],
    /// What its snapshot did not see, up to `latest`; `None` where that is not known.
    pub unseen: Option<Unseen>,
    /// What was published up to here could be in a snapshot of the round, if anything held it back.
    pub began: EndLsn,
    /// Up to where it was looked at who may see what.
    pub latest: EndLsn,
    /// What was published since before the snapshot was taken.
    pub since: Since,
}

impl State {
    /// Nothing yet.
    ///
    /// - Takes: bytes that may be held of tables which policies read; from where on publications are followed.
    pub fn new(lookup_bytes: usize, followed: Place, line: Arc<Line>) -> State {
        State {
            lookups: Lookups::new(lookup_bytes),
            followed,
            line,
            results: HashMap::new(),
            next: 0,
            queues: Default::default(),
            queries: HashMap::new(),
            askers: HashMap::new(),
            planned: HashMap::new(),
            inner: HashMap::new(),
            by_table: HashMap::new(),
            by_anything: BTreeSet::new(),
            unseen: None,
            waiting: BTreeSet::new(),
            rights: None,
            disproved: Disproved::default(),
            turns: Turns::default(),
            audits: Audits::default(),
            hindrances: Hindrances::default(),
            refused: BTreeMap::new(),
            questions: 0,
            stopping: false,
        }
    }

    /// A question, with what equal ones share.
    pub fn question(&mut self, mut query: LiveQuery, who: Arc<RunAs>) -> Question {
        let (parameters, filter_parameters) = query.take_parameters();
        let query = match self.queries.get_key_value(&query) {
            Some((known, _)) => known.clone(),
            None => {
                let query = Arc::new(query);
                self.queries.insert(query.clone(), None);
                query
            }
        };
        let asker = self.askers.entry(who).or_insert_with_key(|who| Asker::new(who.clone()).into());
        Question { query, parameters, filter_parameters, who: asker.clone() }
    }

    /// How the rows of a query are told, as the log has them.
    pub fn rendering(
        &mut self,
        query: &Arc<LiveQuery>,
        published: &Published,
        json: JsonOfDatabase,
    ) -> Option<Arc<Rendering>> {
        let table = published.table(&query.table).entered()?;
        let relation = table.relation();
        let known = self.queries.get_mut(query)?;
        if known.as_ref().is_none_or(|known| !known.is_of(relation, json)) {
            *known = Rendering::new(query, relation.clone(), json).map(Arc::new);
        }
        known.clone()
    }

    /// Forgets what nobody has any more.
    pub fn tidy(&mut self) {
        self.queries.retain(|query, _| Arc::strong_count(query) > 1);
        self.askers.retain(|_, asker| Arc::strong_count(asker) > 1);
        self.lookups.retain(|oid| self.inner.contains_key(&oid));
        self.hindrances.retain(|table| self.by_table.contains_key(table));
    }

    /// Notes that a result has to be asked again.
    pub fn ask(&mut self, number: u64) {
        if let Some(kept) = self.results.get_mut(&number) {
            kept.standing.due = true;
            self.queue(number);
        }
    }

    pub fn ask_all(&mut self, numbers: impl IntoIterator<Item = u64>) {
        numbers.into_iter().for_each(|number| self.ask(number));
    }

    /// Asks those whom a transaction concerns. Their groups wait for that.
    fn ask_for(&mut self, one: &Committed, numbers: impl IntoIterator<Item = u64>) {
        for number in numbers {
            if let Some(kept) = self.results.get(&number) {
                kept.lack(one);
            }
            self.ask(number);
        }
    }

    /// Lets results be overtaken for which their groups have waited for longer than this.
    pub fn overtake(&self, patience: Duration) {
        self.results.values().for_each(|kept| kept.inbox.overtake(patience));
    }

    /// Asks for a result of which something was forgotten, as soon as somebody comes for it.
    pub fn ask_behind_gap(&mut self, number: u64) {
        self.ask(number);
        if let Some(kept) = self.results.get(&number) {
            kept.inbox.open();
        }
    }

    /// Offers to ask for what was forgotten where there is room for it by now. Whoever has had none for too long
    /// gets no more.
    ///
    /// - Takes: how long that is.
    pub fn offer(&mut self, patience: Duration) {
        let lacks = |kept: &Kept| kept.inbox.offer().is_err_and(|since| since > patience);
        let lost: Vec<u64> = self
            .results
            .iter()
            .filter(|(_, kept)| lacks(kept))
            .map(|(number, _)| *number)
            .collect();
        for number in lost {
            if let Some(kept) = self.results.get_mut(&number) {
                kept.end(LiveError::NoRoom, self.followed.end);
            }
            self.remove(number);
        }
    }

    /// Lets one that is due into its queue, when nothing is in its way.
    pub fn queue(&mut self, number: u64) {
        if let Some((lane, user)) = self.begins_to_wait(number) {
            self.queues[lane as usize].push(&user, number);
        }
    }

    /// Asks for those that were taken for a round, in this order, and not asked in it.
    pub fn put_back(&mut self, numbers: &[u64]) {
        let mut taken = Lane::ALL.map(|_| Vec::new());
        for number in numbers {
            if let Some(kept) = self.results.get_mut(number) {
                kept.standing.due = true;
            }
            if let Some((lane, user)) = self.begins_to_wait(*number) {
                taken[lane as usize].push((user, *number));
            }
        }
        self.queues.iter_mut().zip(&taken).for_each(|(queue, taken)| queue.put_back(taken));
    }

    /// Where one that is due is to wait, and as whose, when nothing is in its way.
    fn begins_to_wait(&mut self, number: u64) -> Option<(Lane, Arc<str>)> {
        let kept = self.results.get_mut(&number)?;
        let standing = &mut kept.standing;
        if !standing.due || standing.queued || standing.asked || !kept.inbox.is_empty() {
            return None;
        }
        standing.queued = true;
        kept.asked_since.get_or_insert_with(Instant::now);
        Some((kept.lane(), kept.question.who.run_as.subject.clone()))
    }

    /// Whether somebody waits in a lane.
    pub fn is_queued(&self, lane: Lane) -> bool {
        !self.queues[lane as usize].is_empty()
    }

    /// Takes those of a lane who are asked next.
    pub fn batch(&mut self, lane: Lane) -> Vec<(u64, Question)> {
        let results = &mut self.results;
        let mut elsewhere = Vec::new();
        let batch = self.queues[lane as usize].batch(|number| {
            let kept = results.get_mut(&number)?;
            kept.standing.queued = false;
            if !kept.standing.due || kept.standing.asked || !kept.inbox.is_empty() {
                kept.asked_since = kept.asked_since.filter(|_| kept.standing.asked);
                return None;
            }
            if kept.lane() != lane {
                elsewhere.push(number);
                return None;
            }
            (kept.standing.due, kept.standing.asked) = (false, true);
            Some((number, kept.question.clone()))
        });
        elsewhere.into_iter().for_each(|number| self.queue(number));
        self.questions += batch.len() as u64;
        batch
    }

    /// A question takes long: so may the same of the same user with other values, of which nothing is known yet.
    pub fn beside_slow(&mut self, question: &Question) {
        for kept in self.results.values_mut().filter(|kept| matches!(kept.phase, Phase::First(_))) {
            let Question { query, who, .. } = &kept.question;
            kept.is_slow |= Arc::ptr_eq(query, &question.query) && Arc::ptr_eq(who, &question.who);
        }
    }

    /// Those who were asked are not any more.
    pub fn answered(&mut self, number: u64) -> Option<&mut Kept> {
        let kept = self.results.get_mut(&number)?;
        kept.standing.asked = false;
        Some(kept)
    }

    /// What happened is not known any more: everybody is asked, and tables are read again.
    pub fn lose(&mut self, published: &Published) {
        self.lookups.forget();
        self.unseen = None;
        self.waiting.clear();
        self.results.values().for_each(|kept| kept.lose(self.followed.end));
        // Whoever is asked now knows all that was doubted.
        self.results.values().filter_map(|kept| kept.ground.as_ref()).for_each(Ground::begin_anew);
        self.followed = Place::of(published);
        self.line.advance(self.followed.end);
        let all: Vec<u64> = self.results.keys().copied().collect();
        self.ask_all(all);
    }

    /// Notes what a result depends on: rows that its plan finds, or every row of what it reads.
    pub fn depends(&mut self, number: u64, reads: Arc<Reads>, plan: Option<Arc<Plan>>) {
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
            let index = match self.planned.get_mut(table) {
                Some(index) => index,
                None => self.planned.entry(table.clone()).or_default(),
            };
            index.add(number, &plan.cover);
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

    fn forget(&mut self, number: u64) {
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
            return;
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
        self.waiting.remove(&number);
        self.results.remove(&number);
    }

    /// The table for which a result waits.
    pub fn entering(&self, number: u64) -> Option<TableName> {
        let kept = self.results.get(&number).filter(|kept| kept.is_entering)?;
        Some(kept.question.query.table.clone())
    }

    /// The tables that cannot be followed for longer than results go on without that.
    pub fn refused(&mut self, published: &Published, limit: Duration) -> Vec<TableName> {
        let is_refused = |table: &&TableName| matches!(published.table(table), TableState::Refused);
        let known = std::mem::take(&mut self.refused);
        let since = |table: &TableName| known.get(table).copied().unwrap_or_else(Instant::now);
        let refused = self.by_table.keys().filter(is_refused);
        self.refused = refused.map(|table| (table.clone(), since(table))).collect();
        let late = self.refused.iter().filter(|(_, since)| since.elapsed() > limit);
        late.map(|(table, _)| table.clone()).collect()
    }

    /// Ends results of the rows of a table, because its changes cannot be followed.
    pub fn end_of(&mut self, table: &TableName, why: &str, is_meant: impl Fn(&Kept) -> bool) {
        let is_of = |kept: &Kept| kept.question.query.table == *table && is_meant(kept);
        let of = self.results.iter().filter(|(_, kept)| is_of(kept));
        for number in of.map(|(number, _)| *number).collect::<Vec<u64>>() {
            if let Some(kept) = self.results.get_mut(&number) {
                let (table, why) = (table.clone(), why.to_owned());
                kept.end(LiveError::NotFollowed { table, why }, self.followed.end);
            }
            self.remove(number);
        }
    }

    /// Whether a result lacks nothing of what was published up to a position, and nothing of it waits.
    pub fn is_current(&self, number: u64, upto: EndLsn) -> bool {
        let is_current = |kept: &Kept| {
            let Standing { due, asked, .. } = kept.standing;
            !due && !asked && kept.inbox.is_empty()
        };
        self.followed.end >= upto && self.results.get(&number).is_none_or(is_current)
    }

    /// Whether rows are told by a plan for one of these transactions.
    pub fn is_planned(&self, committed: &[Arc<Committed>]) -> bool {
        let tables = committed.iter().flat_map(|one| &one.tables);
        tables.into_iter().any(|table| self.planned.contains_key(table.name()))
    }

    /// Takes what transactions did: asks those who depend on it, and applies it to those that have a plan.
    ///
    /// - Takes: who may see what, looked at behind these transactions; `None` where that is not known, or no
    ///   plan is touched and nothing altered; up to where everything was followed with them.
    pub fn dispatch(
        &mut self,
        committed: &[Arc<Committed>],
        rights: Option<&Rights>,
        followed: Place,
    ) {
        if let Some(rights) = rights {
            self.note(rights);
            // It is as of the first of these that may have made it so, and not later.
            let alters = |one: &&Arc<Committed>| {
                one.altered || one.tables.iter().any(|table| table.described)
            };
            if let Some(one) = committed.iter().find(alters) {
                self.ask_for(one, self.outdated());
            }
        }
        for one in committed {
            let (mut due, mut moved) = (BTreeSet::new(), BTreeSet::new());
            if one.altered && rights.is_none() {
                // Whatever it was.
                moved.extend(self.results.keys());
                self.lookups.forget();
                self.rights = None;
            }
            for table in &one.tables {
                due.extend(self.by_table.get(table.name()).into_iter().flatten());
                if table.described && rights.is_none() {
                    moved.extend(self.planned.get(table.name()).into_iter().flat_map(Index::all));
                }
                self.moved(table, &mut moved);
                self.lookups.apply(one, table);
            }
            // Who sees what changes with this transaction: the plans are of before it.
            self.ask_for(one, moved);
            for table in &one.tables {
                self.apply(one, table, rights, &mut due);
            }
            if !one.tables.is_empty() {
                due.extend(&self.by_anything);
            }
            // What comes behind is not told over what is missing.
            self.ask_for(one, due);
            self.line.advance(one.end_lsn);
        }
        self.followed = followed;
        self.line.advance(followed.end);
    }

    /// Notes who may see what. Whoever stands on something else is asked.
    pub fn note(&mut self, rights: &Rights) {
        if self.rights.as_ref().is_some_and(|(known, _)| known == rights) {
            return;
        }
        self.rights = Some((rights.clone(), Instant::now()));
        self.lookups.keep_as_of(rights);
        let outdated = self.outdated();
        self.ask_all(outdated);
    }

    /// Who depends on what is not so any more.
    pub fn outdated(&self) -> Vec<u64> {
        let outdated = self.results.iter().filter(|(_, kept)| kept.is_outdated());
        outdated.map(|(number, _)| *number).collect()
    }

    /// Whether the engine has looked at the catalog since who may see what is so, so that what it has of tables is of
    /// the same catalog.
    ///
    /// - Takes: when its last look began that left no question open.
    pub fn is_settled(&self, rights: &Rights, looked_at: Option<Instant>) -> bool {
        let since = self.rights.as_ref().filter(|(known, _)| known == rights);
        since.zip(looked_at).is_some_and(|((_, since), looked_at)| *since < looked_at)
    }

    /// Holds tables that were read, with what was done to them since and is followed: the rest comes in its place.
    ///
    /// - Takes: who might see what before they were read.
    pub fn hold(&mut self, read: Vec<ReadTable>, rights: &Rights, since: Since) {
        let Since::Complete(since) = since else { return };
        for table in read {
            let oid = table.oid();
            if self.lookups.hold(table, rights).is_ok() {
                for one in since.iter().filter(|one| one.end_lsn <= self.followed.end) {
                    let changed = one.tables.iter().filter(|table| table.relation.id.0 == oid);
                    changed.for_each(|table| self.lookups.apply(one, table));
                }
            }
        }
    }

    /// Who depends on what a transaction did to a table beside theirs.
    fn moved(&self, table: &ChangedTable, moved: &mut BTreeSet<u64>) {
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
    fn apply(
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
            if kept.standing.due || kept.standing.asked {
                // It is told by the answer.
                kept.lack(one);
                continue;
            }
            let applied = match rights {
                Some(_) => kept.apply(one, table, &rows, &self.lookups),
                None => Applied::Not,
            };
            if applied != Applied::Told {
                due.insert(number);
            }
        }
    }

    /// Notes what a snapshot sees. Those for whom something was late that it sees are asked.
    ///
    /// - Takes: what it does not see, where that is known.
    pub fn see(&mut self, view: &View, unseen: Option<&Unseen>) {
        let Some(was) = self.unseen.take() else {
            self.unseen = unseen.cloned();
            return;
        };
        let mut now = was.or(unseen.cloned(), view);
        let seen = |one: &Arc<Committed>| !now.lists(one);
        if was.listed.iter().any(&seen) {
            let is_due = |number: &u64| {
                self.results.get(number).is_some_and(|kept| kept.late.iter().any(&seen))
            };
            let due: Vec<u64> = self.waiting.iter().copied().filter(is_due).collect();
            for number in due {
                self.waiting.remove(&number);
                self.ask(number);
            }
        }
        // What has come with the list since is told by that. Of the others all that is known is that they ended.
        let suspects = was.suspects.iter().copied();
        let lost: Vec<FullXid> = suspects.filter(|xid| now.has_lost(*xid)).collect();
        if !lost.is_empty() {
            let lacks = |kept: &Kept| lost.iter().any(|xid| kept.lacks(*xid));
            let due =
                self.results.iter().filter(|(_, kept)| lacks(kept)).map(|(number, _)| *number);
            let due: Vec<u64> = due.collect();
            self.ask_all(due);
        }
        now.came.clear();
        self.unseen = Some(now);
    }

    /// Whether somebody waits for snapshots to see something.
    pub fn is_awaiting(&self) -> bool {
        !self.waiting.is_empty()
    }

    /// Brings those that were just told from the moment of the answer to that up to which it was looked at
    /// who may see what. Returns whether some of them wait for snapshots to see something.
    pub fn catch_up(&mut self, told: &Told<'_>) -> bool {
        let behind = match (&told.unseen, &told.since) {
            (Some(unseen), Since::Complete(since)) => Some(Behind {
                unseen,
                // Somebody may have found meanwhile that they have ended.
                has_lost: unseen.suspects.iter().any(|xid| !self.suspects(*xid)),
                passed: since.iter().filter(|one| self.is_passed(one, told)).cloned().collect(),
            }),
            _ => None,
        };
        let mut awaits = false;
        for number in told.results {
            match &behind {
                Some(behind) => awaits |= self.catch_up_one(*number, told, behind),
                // What is missing is not known.
                None => {
                    if let Some(kept) = self.results.get(number) {
                        let next = group::behind(told.latest);
                        let from = kept.inbox.lacking().map_or(next, |from| from.min(next));
                        kept.inbox.settle(Some(from));
                    }
                    self.ask(*number);
                }
            }
        }
        awaits
    }

    /// Whether something was followed meanwhile and went past those who were asked: what no answer has, and tables
    /// that entered, of which no snapshot says what it has of them.
    fn is_passed(&self, one: &Committed, told: &Told<'_>) -> bool {
        one.end_lsn <= self.followed.end && (one.xid.is_none() || one.end_lsn > told.latest)
    }

    /// Whether plans of a role that stand on these tables are not to be trusted.
    pub fn is_disproved(&self, question: &Question, reads: &Reads, rights: &Rights) -> bool {
        self.disproved.has(&question.who.run_as.role, &reads.tables, rights)
    }

    /// Where plans are not to be trusted, as of who may see what now.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        self.rights.as_ref().map(|(rights, _)| self.disproved.of(rights)).unwrap_or_default()
    }

    fn suspects(&self, xid: FullXid) -> bool {
        self.unseen.as_ref().is_some_and(|unseen| unseen.suspects.contains(&xid))
    }

    fn catch_up_one(&mut self, number: u64, told: &Told<'_>, behind: &Behind<'_>) -> bool {
        let Some(kept) = self.results.get_mut(&number) else { return false };
        let lookups = &self.lookups;
        self.waiting.remove(&number);
        // Plans that read tables beside are of what was followed: what is not followed yet comes to them
        // in its place. The others know all that they need.
        let reads_beside = kept.plan.as_ref().is_some_and(|plan| !plan.inner.is_empty());
        let upto = if reads_beside { self.followed.end.min(told.latest) } else { told.latest };
        let mut is_due = kept.standing.due || behind.has_lost;
        let mut awaits = false;
        let lacks = || behind.unseen.listed.iter().filter(|one| one.end_lsn <= upto);
        // Rows that come or go with others are not found by a plan.
        let mut is_planned = kept
            .plan
            .as_ref()
            .is_some_and(|plan| !lacks().chain(&behind.passed).any(|one| plan.is_moved(one)));
        for one in lacks() {
            if is_planned {
                let applied = kept.apply_all(one, lookups);
                is_due |= applied == Applied::Full;
                // What comes behind one that cannot be told here cannot either.
                is_planned = applied != Applied::Not;
                if is_planned {
                    continue;
                }
            } else if !kept.is_touched(one, lookups) {
                continue;
            }
            kept.late.push(one.clone());
            // What was published before the snapshot was taken is held back by Postgres: to ask is of no use
            // before it is seen.
            let is_held = self.unseen.as_ref().is_some_and(|unseen| unseen.lists(one));
            if one.end_lsn <= told.began && is_held {
                awaits |= self.waiting.insert(number);
            } else {
                is_due = true;
            }
        }
        let passed = behind.passed.iter().filter(|one| kept.is_touched(one, lookups));
        let passed = passed.map(|one| one.end_lsn).min();
        is_due |= passed.is_some();
        let late = kept.late.iter().map(|one| one.end_lsn).min();
        let next = is_due.then(|| group::behind(told.latest));
        let lost = kept.inbox.lacking().filter(|_| behind.has_lost);
        kept.inbox.settle([late, passed, next, lost].into_iter().flatten().min());
        if let Phase::Told { at, .. } = &mut kept.phase {
            at.applied = upto;
            if upto < told.latest {
                // What is not followed yet is still to come to it, also what the snapshot did not see.
                at.place = self.followed.list;
            }
        }
        if is_due {
            self.ask(number);
        }
        awaits
    }
}

/// What those lack who were told in a round.
struct Behind<'r> {
    /// What its snapshot did not see.
    unseen: &'r Unseen,
    /// It did not see what has ended since, and may have been published before.
    has_lost: bool,
    /// What was followed while it went on.
    passed: Vec<Arc<Committed>>,
}
