//! The results that are kept live, and the tasks that keep them.
//!
//! One task follows what is published, one looks each second at who may see what, one at what snapshots see, one
//! compares what is held with what Postgres shows (`audit`), and one for each lane asks, in rounds (`rounds`), whoever
//! has to be asked. A result is asked first; from then on,
//! where there is a plan for it, what transactions did to rows is applied to it; else every transaction that
//! touches what it depends on asks it again. Invariants: a result is at the moment of one snapshot, behind which
//! every transaction counts that the snapshot did not see, wherever it stands in the log; nothing is told of a
//! moment before everything that it saw is published; rows are told by a plan only if what decides who sees them is
//! the same as when it was made, and that was looked at behind the transaction. A result is in one round at a time.
//! None of the tasks ends by a panic while the process goes on.

use crate::asking::Asking;
use crate::book::Reads;
use crate::error::LiveError;
use crate::figures::Figures;
use crate::found::{Audits, Disagreement};
use crate::group::{Group, Inbox, Keeper, Line};
use crate::hindrances::Asks;
use crate::index::Index;
use crate::kept::{Kept, Phase, Standing};
use crate::lanes::{Bounds, Lane};
use crate::query::{Commit, First, LiveQuery};
use crate::room::Room;
use crate::state::State;
use crate::subscription::Subscription;
use crate::unseen::{Place, Unseen};
use hw_engine::{DemandError, Engine, Since, TableState};
use hw_pg::rights::Rights;
use hw_pg::sql::Pool;
use hw_process::spawn;
use hw_types::{RunAs, TableName};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
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
    /// How long whoever subscribes waits for a source that does not answer, a result for room for its changes, and a
    /// group for a result that cannot be asked.
    pub patience: Duration,
    /// How long whoever subscribes waits for his table to enter, and a result goes on whose table cannot be followed
    /// any more.
    pub table_wait: Duration,
    /// Bytes that may be held of the tables which policies read beside their own.
    pub lookup_bytes: usize,
    /// How long no result is compared with what Postgres shows behind one that was, at least.
    pub audit_pause: Duration,
    /// The same, as a multiple of what its question took.
    pub audit_times: u32,
}

impl Default for LiveOptions {
    fn default() -> LiveOptions {
        LiveOptions {
            question_time: Duration::from_secs(10),
            result_bytes: 32 << 20,
            patience: Duration::from_secs(10),
            table_wait: Duration::from_secs(30),
            lookup_bytes: 256 << 20,
            audit_pause: Duration::from_secs(1),
            // A hundredth of a connection.
            audit_times: 99,
        }
    }
}

/// How often it is looked at who may see what, and whoever depends on what is not followed, or stands still, is asked
/// again.
const LOOK: Duration = Duration::from_secs(1);

/// How soon it is looked again at what snapshots see while somebody waits for that; from there on it takes twice
/// as long each time, up to [`LOOK`].
const SOON: Duration = Duration::from_millis(5);

/// How long it is not looked at who may see what while rows are told all the time.
const LONGEST_REST: Duration = Duration::from_millis(25);

/// Keeps results live. Clones share one.
#[derive(Clone)]
pub struct Live(Arc<Shared>);

pub(crate) struct Shared {
    pub asking: Asking,
    /// Of rounds, by lane.
    pub bounds: [Bounds; Lane::ALL.len()],
    patience: Duration,
    table_wait: Duration,
    pub state: Mutex<State>,
    /// Up to where everything was followed.
    line: Arc<Line>,
    pub rounds: AtomicU64,
    /// Somebody has to be asked, by lane.
    wake: [Notify; Lane::ALL.len()],
    /// Somebody waits for snapshots to see something.
    pub awaits: Notify,
    /// Held by whoever reads tables that policies read beside their own: no table is read twice.
    pub reading: tokio::sync::Mutex<()>,
    /// When the last look for those who come back began.
    looked: tokio::sync::Mutex<Option<Instant>>,
    pub stop: CancellationToken,
}

impl Live {
    /// Connections that it needs, so that none of its tasks waits for another: one for each lane, and one for
    /// each of those that look: those who come back ([`Live::settle`]) do so together.
    pub const CONNECTIONS: usize = Lane::ALL.len() + 5;

    /// Starts to keep results.
    ///
    /// - Takes: the engine, which must keep a list of changes; [`Live::CONNECTIONS`] connections to the source
    ///   whose login may take the roles that ask.
    /// - Needs: a tokio runtime.
    pub fn start(
        engine: Engine,
        pool: Pool,
        options: LiveOptions,
        stop: CancellationToken,
    ) -> Live {
        // What is published from here on is followed.
        let published = engine.published();
        let line = Arc::new(Line::new(published.checkpoint.end_lsn));
        let state = State::new(options.lookup_bytes, Place::of(&published), line.clone());
        let shared = Arc::new(Shared {
            asking: Asking::new(engine, pool, options.result_bytes),
            bounds: Lane::ALL.map(|lane| lane.bounds(options.question_time)),
            patience: options.patience,
            table_wait: options.table_wait,
            state: Mutex::new(state),
            line,
            rounds: AtomicU64::new(0),
            wake: Default::default(),
            awaits: Notify::new(),
            reading: tokio::sync::Mutex::default(),
            looked: tokio::sync::Mutex::default(),
            stop,
        });
        spawn("live results: following", shared.clone().follow(Place::of(&published)));
        spawn("live results: rights", shared.clone().look());
        spawn("live results: snapshots", shared.clone().see());
        spawn(
            "live results: audit",
            shared.clone().audit(options.audit_pause, options.audit_times),
        );
        for lane in Lane::ALL {
            spawn("live results: asking", shared.clone().ask(lane));
        }
        spawn("live results: end", shared.clone().end());
        Live(shared)
    }

    /// Results that are told in one order, of which there are none yet.
    pub fn group(&self) -> Group {
        let keeper: Arc<dyn Keeper> = self.0.clone();
        Group::new(self.0.line.clone(), keeper)
    }

    /// Asks a query and keeps its result live, alone in a group of its own ([`Subscription::next`]).
    ///
    /// A table that is not replicated yet is from now on, and the first result comes when it has entered: what was
    /// committed before it is followed would not be told as what it was.
    ///
    /// - Takes: what counts what it holds.
    /// - Errors: it has none for whoever asks, there is no room for it, its table does not enter in time or cannot be
    ///   followed, or the source does not answer.
    pub async fn subscribe(
        &self,
        query: LiveQuery,
        who: Arc<RunAs>,
        room: Room,
    ) -> Result<(First, Subscription), LiveError> {
        self.begin(&self.group(), query, who, room, None).await
    }

    /// The same in a group, as soon as all that stands before it was taken there ([`Group::next`]). Nothing more is told
    /// there until whoever asked has begun to follow it ([`Subscription::begun`]), or has dropped it.
    pub async fn subscribe_in(
        &self,
        group: &Group,
        query: LiveQuery,
        who: Arc<RunAs>,
        room: Room,
    ) -> Result<(First, Subscription), LiveError> {
        let (turn, is_next) = oneshot::channel();
        let begun = self.begin(group, query, who, room, Some(turn)).await?;
        is_next.await.map_err(|_| LiveError::Stopping)?;
        Ok(begun)
    }

    async fn begin(
        &self,
        group: &Group,
        query: LiveQuery,
        who: Arc<RunAs>,
        room: Room,
        turn: Option<oneshot::Sender<()>>,
    ) -> Result<(First, Subscription), LiveError> {
        let shared = &self.0;
        let (reply, first) = oneshot::channel();
        // From here on it is ended by being dropped, however this ends.
        let subscription = {
            let mut state = shared.state.lock();
            if state.stopping {
                return Err(LiveError::Stopping);
            }
            let number = state.next;
            state.next += 1;
            let inbox = group.begin(number, &query, room, turn)?;
            let reads = Reads { tables: BTreeSet::from([query.table.clone()]), unknown: false };
            let kept = Kept {
                question: state.question(query, who),
                reads: Arc::default(),
                ground: None,
                rendering: None,
                plan: None,
                inbox: inbox.clone(),
                standing: Standing::default(),
                asked_since: None,
                is_slow: false,
                failures: 0,
                is_entering: false,
                is_unsettled: false,
                late: Vec::new(),
                phase: Phase::First(reply),
            };
            state.results.insert(number, kept);
            state.depends(number, Arc::new(reads), None);
            state.ask(number);
            Subscription { inbox }
        };
        shared.wake_if_queued();
        let number = subscription.number();
        Ok((shared.first(number, first).await?, subscription))
    }

    /// Takes over all that waits of a result that is alone in its group, and what it still lacks, as of who may see what
    /// now: what it has lost by then is told as gone. What is taken does not count any more.
    ///
    /// - Errors: there is no result any more, or the source does not answer in time.
    pub async fn settle(&self, subscription: &mut Subscription) -> Result<Vec<Commit>, LiveError> {
        let shared = &self.0;
        let settling = tokio::time::timeout(shared.patience, shared.settle(subscription)).await;
        settling.unwrap_or_else(|_| Err(LiveError::Source("it takes too long".into())))
    }

    /// How many rounds there were in which somebody was asked.
    pub fn rounds(&self) -> u64 {
        self.0.rounds.load(Ordering::Relaxed)
    }

    /// How comparisons with what Postgres shows went.
    pub fn audits(&self) -> Audits {
        self.0.state.lock().audits
    }

    /// Tables and roles for which what was computed here was not what Postgres shows, so that it is asked until
    /// policies, functions or grants change.
    pub fn disagreements(&self) -> Vec<Disagreement> {
        self.0.state.lock().disagreements()
    }

    /// How results are at the moment.
    pub fn figures(&self) -> Figures {
        let engine = self.0.engine();
        let published = engine.published();
        let mut figures = self.0.state.lock().figures(&published);
        for polled in figures.polled.iter_mut().filter(|polled| !polled.is_refused) {
            // The engine says it of what it would follow.
            polled.why = engine.refusal(&polled.table).map_or(polled.why.clone(), |it| it.what);
        }
        figures
    }
}

impl Keeper for Shared {
    fn taken(&self, number: u64) {
        self.state.lock().queue(number);
        self.wake_if_queued();
    }

    fn moves(&self, inbox: &Inbox, to: &Group, turn: Option<oneshot::Sender<()>>) -> Inbox {
        let mut state = self.state.lock();
        let moved = inbox.moved(to, turn);
        if let Some(kept) = state.results.get_mut(&inbox.number) {
            kept.inbox = moved.clone();
        }
        // What waited for somebody to take it may wait for others there.
        state.queue(inbox.number);
        drop(state);
        self.wake_if_queued();
        moved
    }

    fn left(&self, number: u64) {
        self.state.lock().remove(number);
    }
}

impl Shared {
    pub fn engine(&self) -> &Engine {
        &self.asking.engine
    }

    /// Waits for a first result.
    async fn first(
        &self,
        number: u64,
        mut first: oneshot::Receiver<Result<First, LiveError>>,
    ) -> Result<First, LiveError> {
        let began = Instant::now();
        let mut limit = self.patience.min(self.table_wait);
        loop {
            if let Ok(first) = tokio::time::timeout_at(began + limit, &mut first).await {
                return first.unwrap_or(Err(LiveError::Stopping));
            }
            let (longest, late) = match self.state.lock().entering(number) {
                Some(table) => (self.table_wait, LiveError::NotEntered(table)),
                None => (self.patience, LiveError::Source("it takes too long".into())),
            };
            if limit >= longest {
                return Err(late);
            }
            limit = longest;
        }
    }

    async fn settle(&self, subscription: &mut Subscription) -> Result<Vec<Commit>, LiveError> {
        let upto = self.engine().published().checkpoint.end_lsn;
        self.look_for_many().await?;
        let mut all = Vec::new();
        loop {
            let is_current = self.state.lock().is_current(subscription.number(), upto);
            let news = subscription.take_over()?;
            if is_current && news.is_empty() {
                return Ok(all);
            }
            all.extend(news);
            if !is_current {
                tokio::time::sleep(SOON).await;
            }
        }
    }

    /// Looks at who may see what, once for all who come while somebody looks.
    async fn look_for_many(&self) -> Result<(), LiveError> {
        let came = Instant::now();
        let mut looked = self.looked.lock().await;
        if looked.is_none_or(|looked| looked < came) {
            let began = Instant::now();
            let rights = self.asking.rights_now().await?;
            self.state.lock().note(&rights);
            self.wake_if_queued();
            *looked = Some(began);
        }
        Ok(())
    }

    /// Makes tables replicated that somebody may read, in its own time. Until one has entered, the results that
    /// depend on it are asked each second; whoever waits for one that cannot enter is told so.
    pub fn demand(self: &Arc<Shared>, tables: impl IntoIterator<Item = TableName>) {
        let published = self.engine().published();
        for table in tables {
            match published.table(&table) {
                TableState::Entered(_) | TableState::Waits => {}
                TableState::Refused => {
                    if let Some(finding) = self.engine().refusal(&table) {
                        self.state.lock().end_of(&table, &finding.what, |kept| kept.is_entering);
                    }
                }
                TableState::Unknown => drop(tokio::spawn(self.clone().demand_one(table))),
            }
        }
    }

    async fn demand_one(self: Arc<Shared>, table: TableName) {
        let refused = match self.engine().demand(&table).await {
            Err(DemandError::Refused(finding)) => Some(finding.what),
            Ok(()) | Err(DemandError::Silent | DemandError::Stopping) => None,
        };
        let mut state = self.state.lock();
        if let Some(why) = &refused {
            state.end_of(&table, why, |kept| kept.is_entering);
        }
        state.hindrances.demanded(table, refused);
    }

    /// Follows what is published, from a place on.
    async fn follow(self: Arc<Shared>, mut place: Place) {
        let mut watch = self.engine().watch();
        watch.mark_changed();
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
            let since = published.committed_since(place.list);
            place = Place::of(&published);
            let Since::Complete(committed) = since else {
                self.state.lock().lose(&published);
                self.wake_if_queued();
                continue;
            };
            // It pins a snapshot of the store.
            drop(published);
            let is_looked_for =
                committed.iter().any(|one| one.altered) || self.state.lock().is_planned(&committed);
            let rights = match is_looked_for {
                true => self.rights_behind(&mut rested).await.ok(),
                false => None,
            };
            // Where who may see what is not known, whoever has a plan is asked when the source answers.
            self.state.lock().dispatch(&committed, rights.as_ref(), place);
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

    /// Wakes those who ask, where somebody has to be asked.
    pub fn wake_if_queued(&self) {
        let state = self.state.lock();
        for lane in Lane::ALL.into_iter().filter(|lane| state.is_queued(*lane)) {
            self.wake[lane as usize].notify_one();
        }
    }

    /// Waits until somebody has to be asked in a lane.
    pub async fn queued(&self, lane: Lane) {
        self.wake[lane as usize].notified().await;
    }

    /// Looks each second at who may see what, and asks those who depend on what is not followed.
    async fn look(self: Arc<Shared>) {
        let mut clock = tokio::time::interval(LOOK);
        clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
        // Of the tables that somebody reads.
        let mut unfollowed = BTreeSet::<TableName>::new();
        loop {
            tokio::select! {
                _ = clock.tick() => {}
                () = self.stop.cancelled() => return,
            }
            if self.state.lock().results.is_empty() {
                let mut state = self.state.lock();
                state.tidy();
                state.hindrances.asked(Asks::Rights, Ok(()));
                continue;
            }
            let rights = self.asking.rights_now().await;
            let looked = rights.as_ref().map(|_| ()).map_err(ToString::to_string);
            self.state.lock().hindrances.asked(Asks::Rights, looked);
            // While the source does not answer nobody can be told anything.
            let Ok(rights) = rights else { continue };
            let published = self.engine().published();
            let looked_at = self.engine().catalog_looked_at();
            let mut guard = self.state.lock();
            let state = &mut *guard;
            let mut due: BTreeSet<u64> = state.by_anything.clone();
            // What becomes of a table that stands still may be told by nobody.
            let is_unfollowed = |table: &&TableName| published.table(table).followed().is_none();
            let now: BTreeSet<TableName> =
                state.by_table.keys().filter(is_unfollowed).cloned().collect();
            // Once more behind that: there may be plans from then on.
            for table in now.union(&unfollowed) {
                due.extend(state.by_table.get(table).into_iter().flatten());
            }
            unfollowed = now;
            state.note(&rights);
            due.extend(state.outdated());
            for table in state.refused(&published, self.table_wait) {
                if let Some(finding) = self.engine().refusal(&table) {
                    state.end_of(&table, &finding.what, |_| true);
                }
            }
            if state.is_settled(&rights, looked_at) {
                let unsettled = state.results.iter().filter(|(_, kept)| kept.is_unsettled);
                due.extend(unsettled.map(|(number, _)| number));
            }
            state.ask_all(due);
            state.offer(self.patience);
            state.overtake(self.patience);
            state.tidy();
            metrics::gauge!("headwater_live_results").set(state.results.len() as f64);
            let planned: usize = state.planned.values().map(Index::len).sum();
            metrics::gauge!("headwater_live_planned").set(planned as f64);
            let fallback: usize = state.planned.values().map(Index::fallback).sum();
            metrics::gauge!("headwater_live_unindexed").set(fallback as f64);
            drop(guard);
            self.wake_if_queued();
        }
    }

    /// Looks at what snapshots see: each second, and more often while somebody waits for that.
    async fn see(self: Arc<Shared>) {
        let mut pause = LOOK;
        loop {
            tokio::select! {
                () = tokio::time::sleep(pause) => pause = (2 * pause).min(LOOK),
                () = self.awaits.notified() => {
                    pause = SOON;
                    tokio::time::sleep(pause).await;
                }
                () = self.stop.cancelled() => return,
            }
            let known = {
                let state = self.state.lock();
                if state.results.is_empty() {
                    continue;
                }
                state.unseen.clone()
            };
            let Ok((before, view)) = self.asking.view_now().await else { continue };
            let published = self.engine().published();
            let unseen = Unseen::behind(known.as_ref(), before, &view, &published);
            let mut state = self.state.lock();
            state.see(&view, unseen.as_ref());
            if !state.is_awaiting() {
                pause = LOOK;
            }
            drop(state);
            self.wake_if_queued();
        }
    }

    /// Ends all results when the server stops.
    async fn end(self: Arc<Shared>) {
        self.stop.cancelled().await;
        let mut state = self.state.lock();
        state.stopping = true;
        for (_, kept) in state.results.drain() {
            kept.inbox.end(LiveError::Stopping);
        }
    }
}
