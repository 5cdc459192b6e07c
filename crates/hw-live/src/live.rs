//! The results that are kept live, and the tasks that keep them.
//!
//! Three tasks: one follows what is published, one looks each second at who may see what, and one asks, in
//! rounds, whoever has to be asked. A result is asked first; from then on, where there is a plan for it, what
//! transactions did to rows is applied to it; else every transaction that touches what it depends on asks it
//! again. Invariants: a result is at the moment of one snapshot, behind which every transaction counts that the
//! snapshot did not see, wherever it stands in the log; nothing is told of a moment before everything that it
//! saw is published; rows are told by a plan only if who may see what is the same as when it was made, and that
//! was looked at behind the transaction.

use crate::asking::{Answer, Asking, Limits, Round};
use crate::book::{Admitted, Reads};
use crate::error::LiveError;
use crate::index::Index;
use crate::kept::{Kept, Moment, Phase, SinceMoments};
use crate::lookups::ReadTable;
use crate::query::{First, LiveQuery, Question};
use crate::state::State;
use crate::subscription::{Inbox, Keeper, Subscription};
use hw_engine::{ChangePlace, Engine, Since, TableState};
use hw_expr::postgres::Table;
use hw_pg::rights::Rights;
use hw_pg::sql::Pool;
use hw_types::{EndLsn, RunAs, TableName};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, oneshot};
use tokio::time::{Instant, MissedTickBehavior};
use tokio_util::sync::CancellationToken;

/// How results are kept.
#[derive(Clone, Copy, Debug)]
pub struct LiveOptions {
    /// How long Postgres may take for one question.
    pub question_time: Duration,
    /// Bytes of a result.
    pub result_bytes: usize,
    /// How long whoever subscribes waits for a source that does not answer.
    pub patience: Duration,
}

impl Default for LiveOptions {
    fn default() -> LiveOptions {
        LiveOptions {
            question_time: Duration::from_secs(10),
            result_bytes: 32 << 20,
            patience: Duration::from_secs(10),
        }
    }
}

/// How often it is looked at who may see what, and whoever depends on what is not followed is asked again.
const LOOK: Duration = Duration::from_secs(1);

/// How long it is not looked at who may see what while rows are told all the time.
const LONGEST_REST: Duration = Duration::from_millis(25);

/// How often a question may fail for a reason that passes, before its subscription ends.
const FAILURES: u32 = 3;

/// Keeps results live. Clones share one.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

struct Shared {
    asking: Asking,
    patience: Duration,
    state: Mutex<State>,
    /// Somebody has to be asked.
    wake: Notify,
    stop: CancellationToken,
}

impl Live {
    /// Starts to keep results.
    ///
    /// - Takes: the engine, which must keep a list of changes; connections to the source whose login may take
    ///   the roles that ask.
    /// - Needs: a tokio runtime.
    pub fn start(
        engine: Engine,
        pool: Pool,
        options: LiveOptions,
        stop: CancellationToken,
    ) -> Live {
        let limits = Limits { time: options.question_time, bytes: options.result_bytes };
        let shared = Arc::new(Shared {
            asking: Asking::new(engine, pool, limits),
            patience: options.patience,
            state: Mutex::default(),
            wake: Notify::new(),
            stop,
        });
        tokio::spawn(shared.clone().ask());
        tokio::spawn(shared.clone().follow());
        tokio::spawn(shared.clone().look());
        Live(shared)
    }

    /// Asks a query and keeps its result live.
    ///
    /// - Errors: it has none for whoever asks, or the source does not answer.
    pub async fn subscribe(
        &self,
        query: LiveQuery,
        who: Arc<RunAs>,
    ) -> Result<(First, Subscription), LiveError> {
        let shared = &self.0;
        let (reply, first) = oneshot::channel();
        let inbox = Arc::<Inbox>::default();
        let table = query.table.clone();
        let number = {
            let mut state = shared.state.lock();
            if state.stopping {
                return Err(LiveError::Stopping);
            }
            let number = state.next;
            state.next += 1;
            let kept = Kept {
                question: Question { query: Arc::new(query), who },
                reads: Reads::default(),
                rights: None,
                plan: None,
                inbox: inbox.clone(),
                due: false,
                asked: false,
                failures: 0,
                is_unsettled: false,
                phase: Phase::First(reply),
            };
            state.results.insert(number, kept);
            let reads = Reads { tables: BTreeSet::from([table.clone()]), unknown: false };
            state.depends(number, reads, None);
            state.ask(number);
            number
        };
        // From here on it is ended by being dropped, however this ends.
        let keeper: Arc<dyn Keeper> = shared.clone();
        let mut waiting = Waiting { number, keeper: Some(keeper) };
        shared.wake.notify_one();
        let first = tokio::time::timeout(shared.patience, first).await;
        let first =
            first.unwrap_or_else(|_| Ok(Err(LiveError::Source("it takes too long".into()))));
        let first = first.unwrap_or(Err(LiveError::Stopping))?;
        let keeper = waiting.keeper.take().expect("invariant: taken once");
        Ok((first, Subscription { number, inbox, keeper }))
    }

    /// How many results are kept.
    pub fn subscriptions(&self) -> usize {
        self.0.state.lock().results.len()
    }

    /// For how many of them it is computed here whom a change concerns.
    pub fn planned(&self) -> usize {
        self.0.state.lock().results.values().filter(|kept| kept.plan.is_some()).count()
    }
}

/// A subscription whose first result is waited for.
struct Waiting {
    number: u64,
    keeper: Option<Arc<dyn Keeper>>,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        if let Some(keeper) = &self.keeper {
            keeper.left(self.number);
        }
    }
}

impl Keeper for Shared {
    fn taken(&self, number: u64) {
        let mut state = self.state.lock();
        state.requeue(number);
        if !state.queue.is_empty() {
            self.wake.notify_one();
        }
    }

    fn left(&self, number: u64) {
        self.state.lock().remove(number);
    }
}

impl Shared {
    fn engine(&self) -> &Engine {
        &self.asking.engine
    }

    /// Makes tables replicated that somebody may read, in its own time. Changes of a table that is not followed
    /// are not told; until it is, the results that depend on it are asked each second.
    fn demand(&self, tables: impl IntoIterator<Item = TableName>) {
        let published = self.engine().published();
        let is_unknown = |table: &TableName| matches!(published.table(table), TableState::Unknown);
        for table in tables.into_iter().filter(is_unknown) {
            let engine = self.engine().clone();
            tokio::spawn(async move {
                if let Err(error) = engine.demand(&table).await {
                    tracing::info!(%table, %error, "a table that live queries read is not followed");
                }
            });
        }
    }

    /// Follows what is published.
    async fn follow(self: Arc<Shared>) {
        let mut watch = self.engine().watch();
        let mut place = watch.borrow_and_update().change_place();
        let mut rested = Instant::now();
        loop {
            let changed = tokio::select! {
                changed = watch.changed() => changed,
                () = self.stop.cancelled() => return,
            };
            if changed.is_err() {
                return;
            }
            let published = watch.borrow_and_update().clone();
            let since = published.committed_since(place);
            place = published.change_place();
            // It pins a snapshot of the store.
            drop(published);
            let Since::Complete(committed) = since else {
                self.state.lock().lose();
                self.wake_if_queued();
                continue;
            };
            let is_planned = self.state.lock().is_planned(&committed);
            let rights = match is_planned {
                true => self.rights_behind(&mut rested).await.ok(),
                false => None,
            };
            // Where who may see what is not known, whoever has a plan is asked when the source answers.
            self.state.lock().dispatch(&committed, rights.as_ref());
            self.wake_if_queued();
        }
    }

    /// Who may see what, looked at behind transactions that are about to be told, so that no row is told to
    /// somebody who had lost the right to see it when it was committed. Under load the source is asked for a
    /// fifth of the time at most, for all that was published meanwhile.
    async fn rights_behind(&self, rested: &mut Instant) -> Result<Rights, LiveError> {
        tokio::time::sleep_until(*rested).await;
        let began = Instant::now();
        let rights = self.asking.rights_now().await;
        *rested = Instant::now() + (4 * began.elapsed()).min(LONGEST_REST);
        rights
    }

    fn wake_if_queued(&self) {
        if !self.state.lock().queue.is_empty() {
            self.wake.notify_one();
        }
    }

    /// Looks each second at who may see what, and asks those who depend on what is not followed.
    async fn look(self: Arc<Shared>) {
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = self.stop.cancelled() => return,
            }
            if self.state.lock().results.is_empty() {
                continue;
            }
            // While the source does not answer nobody can be told anything.
            let Ok(rights) = self.asking.rights_now().await else { continue };
            let published = self.engine().published();
            let looked_at = self.engine().catalog_looked_at();
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let mut due: BTreeSet<u64> = state.by_anything.clone();
            for (table, numbers) in &state.by_table {
                if published.table(table).entered().is_none() {
                    due.extend(numbers);
                }
            }
            let is_outdated = |kept: &&Kept| kept.rights.as_ref() != Some(&rights);
            let outdated = state.results.iter().filter(|(_, kept)| is_outdated(kept));
            due.extend(outdated.map(|(number, _)| number));
            if state.is_settled(&rights, looked_at) {
                let unsettled = state.results.iter().filter(|(_, kept)| kept.is_unsettled);
                due.extend(unsettled.map(|(number, _)| number));
            }
            state.ask_all(due);
            state.lookups.retain(|oid| state.inner.contains_key(&oid));
            metrics::gauge!("headwater_live_results").set(state.results.len() as f64);
            let planned: usize = state.planned.values().map(Index::len).sum();
            metrics::gauge!("headwater_live_planned").set(planned as f64);
            let fallback: usize = state.planned.values().map(Index::fallback).sum();
            metrics::gauge!("headwater_live_unindexed").set(fallback as f64);
            drop(guard);
            self.wake_if_queued();
        }
    }

    /// Asks whoever has to be asked, round by round.
    async fn ask(self: Arc<Shared>) {
        let mut pause = Duration::ZERO;
        loop {
            let batch = self.state.lock().batch();
            if batch.is_empty() {
                tokio::select! {
                    () = self.wake.notified() => continue,
                    () = self.stop.cancelled() => break,
                }
            }
            let questions: Vec<Question> =
                batch.iter().map(|(_, question)| question.clone()).collect();
            metrics::counter!("headwater_live_rounds_total").increment(1);
            metrics::counter!("headwater_live_questions_total").increment(questions.len() as u64);
            let round = self.asking.round(&questions).await;
            match round {
                Ok(round) => {
                    pause = Duration::ZERO;
                    self.tell(&batch, round);
                }
                Err(error) => {
                    tracing::debug!(%error, "live results cannot be asked");
                    self.put_back(&batch);
                    // From 0.1 s to 2 s.
                    pause = (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(2));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => break,
                    }
                }
            }
        }
        let mut state = self.state.lock();
        state.stopping = true;
        for (_, kept) in state.results.drain() {
            kept.inbox.end(LiveError::Stopping);
        }
    }

    /// A round failed: whoever was asked is asked again. Who waits for a first result waits for as long as
    /// they have patience.
    fn put_back(&self, batch: &[(u64, Question)]) {
        let mut state = self.state.lock();
        for (number, _) in batch {
            let Some(kept) = state.results.get_mut(number) else { continue };
            kept.asked = false;
            kept.due = false;
            state.ask(*number);
        }
    }

    /// Tells what a round has found.
    fn tell(&self, batch: &[(u64, Question)], round: Round) {
        let Round { snapshot, published, rights, checked, answers } = round;
        let (now, latest) = (published.checkpoint.end_lsn, checked.checkpoint.end_lsn);
        let (read, place) = self.read_inner(&answers);
        let looked_at = self.engine().catalog_looked_at();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        let is_settled = state.settle(&rights, looked_at);
        state.hold(read, self.engine().published().committed_since(place));
        let is_known = state.look_for_unseen(&snapshot, &checked);
        let (snapshot, place) = (Arc::new(snapshot), checked.change_place());
        let at = Moment { snapshot, place, applied: EndLsn::default(), told: EndLsn::default() };
        let mut since =
            SinceMoments { checked: &checked, unseen: state.unseen.clone(), known: HashMap::new() };
        let mut demanded = BTreeSet::new();
        let mut told = Vec::new();
        for ((number, question), answer) in batch.iter().zip(answers) {
            let Some(kept) = state.results.get_mut(number) else { continue };
            kept.asked = false;
            match answer {
                Ok((result, Admitted { reads, conditions })) => {
                    kept.failures = 0;
                    kept.rights = Some(rights.clone());
                    demanded.extend(reads.tables.iter().cloned());
                    kept.tell(result, &at, &published, &mut since);
                    // Values of before a change of the catalog must not be judged by what it says now.
                    kept.is_unsettled = !is_settled && conditions.is_some();
                    let conditions = conditions.filter(|_| is_settled);
                    let plan = kept.plan_for(conditions, &rights, &checked, &state.lookups);
                    state.depends(*number, reads, plan);
                    told.push(*number);
                }
                Err(error) => {
                    let is_new = matches!(kept.phase, Phase::First(_));
                    kept.failures += 1;
                    if !is_new && error.may_pass() && kept.failures < FAILURES {
                        kept.due = false;
                        state.ask(*number);
                        continue;
                    }
                    let table = &question.query.table;
                    tracing::debug!(%table, %error, "a live result ends");
                    kept.end(error, now);
                    state.remove(*number);
                }
            }
        }
        // What the snapshot did not see: those with a plan are told of it, the others are asked once more.
        if is_known {
            state.catch_up(&told, &rights, latest);
        } else {
            state.ask_all(told.iter().copied());
        }
        told.into_iter().for_each(|number| state.requeue(number));
        state.meanwhile.clear();
        state.is_asking = false;
        drop(guard);
        self.demand(demanded);
        self.wake_if_queued();
    }

    /// Reads the tables that policies of the answers read beside, as far as they are not held; with the place
    /// from which on changes of them count.
    fn read_inner(&self, answers: &[Answer]) -> (Vec<ReadTable>, ChangePlace) {
        let published = self.engine().published();
        let inner =
            answers.iter().flatten().filter_map(|(_, admitted)| admitted.conditions.as_ref());
        let inner: BTreeMap<u32, &Table> =
            inner.flat_map(|known| known.inner.iter()).map(|table| (table.number, table)).collect();
        let missing: Vec<&Table> = {
            let state = self.state.lock();
            inner.into_values().filter(|table| !state.lookups.has(table.number)).collect()
        };
        // Whoever cannot be told by them is asked.
        let read = missing.into_iter().filter_map(|table| ReadTable::read(&published, table).ok());
        (read.collect(), published.change_place())
    }
}
