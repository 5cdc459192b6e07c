//! Publication: a snapshot taken at a transaction boundary, then the sync, then the swap.
//!
//! Invariant E-2: the snapshot is taken *before* the sync starts; one taken behind it would hold
//! later, undurable transactions. The source is told a position only behind the sync that
//! covers it. One thread does this, so that the writer evaluates the next transactions while
//! the disk works: batches grow under load by themselves, also where the disk is quick
//! ([`Pace::UNDER_LOAD`]), and an idle system pays one sync.
//!
//! Where somebody guards what is shown ([`crate::guard`]), a state that is durable waits for him: he looks at the
//! newest one that waits, and it is shown, or is part of a later one. What becomes news with it waits with it.

use crate::arrivals::{Arrivals, Arrived};
use crate::change_list::{ChangeList, Pending};
use crate::error::EngineError;
use crate::kept_back::KeptBack;
use crate::lease::Leases;
use crate::published::{Published, Withheld};
use crate::runs::{Met, Runs};
use crate::state::Progress;
use crate::sync_view::ActiveSync;
use crate::table_view::ShownTables;
use crate::wake::{ChangeRing, Touched};
use hw_expr::sync_config::SyncConfig;
use hw_input::markers::Marked;
use hw_store::{Snapshot, Space, Store};
use hw_types::{Checkpoint, EndLsn, OpId, Pace};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicU8, AtomicU64, Ordering};
use std::sync::mpsc;
use std::time::Instant;
use tokio::sync::watch;

/// What the writer hands over at a transaction boundary.
pub(crate) struct PublishJob {
    pub snapshot: Snapshot,
    pub progress: Progress,
    pub runs: Arc<Runs>,
    pub kept_back: KeptBack,
    pub sync: Option<Arc<ActiveSync>>,
    pub touched: Touched,
    /// What this state is the first to contain.
    pub arrived: Arrived,
    /// What the change list says behind this state, if there is one and the state is shown.
    pub listed: Option<Pending>,
    pub tables: Arc<ShownTables>,
    /// Whether clients may see this state. Not while a compared copy is under way.
    pub show: bool,
    /// Why nobody is answered from it, if so; as long as that has not changed since.
    pub withheld: Option<Withheld>,
    /// [`Publication::changes`] when that was said.
    pub changes: u64,
}

impl PublishJob {
    /// What is published in the place of two states.
    fn behind(mut self, earlier: PublishJob, list: &ChangeList) -> PublishJob {
        let (mut touched, mut arrived) = (earlier.touched, earlier.arrived);
        touched.append(self.touched);
        arrived.append(self.arrived);
        self.listed = match (earlier.listed, self.listed) {
            (Some(earlier), Some(later)) => Some(list.joined(earlier, later)),
            (earlier, later) => later.or(earlier),
        };
        PublishJob { touched, arrived, ..self }
    }
}

/// States that wait to be shown.
#[derive(Default)]
struct Waiting {
    /// The one that is looked at, or that was not shown behind the last look.
    looked_at: Option<PublishJob>,
    /// What came since.
    newer: Option<PublishJob>,
    /// The next one is the first of a store that was opened anew. Nothing can be read of what is shown before it, so
    /// that it is shown at once if it is the same state.
    is_anew: bool,
}

/// The publisher's side that surfaces and the driver share.
pub(crate) struct Publication {
    sender: watch::Sender<Arc<Published>>,
    /// What is kept from clients of what is to be published. Held while what is published changes.
    withholding: Mutex<Withholding>,
    /// What is served, for whoever need not wake with every publication.
    served: watch::Sender<Option<Arc<ActiveSync>>>,
    /// Where somebody decides when states are shown.
    guarded: Mutex<Option<Waiting>>,
    /// Counts the states that came to wait.
    came: watch::Sender<u64>,
    /// Everything up to here is durable: the driver confirms it to the source.
    durable: watch::Sender<EndLsn>,
    /// The last op id of what is durable, shown or not.
    given: AtomicU64,
    ring: Arc<ChangeRing>,
    change_list: Arc<ChangeList>,
    arrivals: Arrivals,
    leases: Arc<Leases>,
    met: Arc<Met>,
    write_checkpoints: Space,
    store: Store,
}

/// What is kept from clients, whatever the writer hands over.
#[derive(Default)]
struct Withholding {
    /// How often it was changed from whom answers are withheld.
    changes: u64,
    /// No definition is served that gives more than the one of its name in each of these configurations. Where states
    /// are guarded, the older ones count until a state is shown that was looked at: of what is shown until then it
    /// is not known that the newest one allows it.
    most: Vec<Arc<SyncConfig>>,
    /// What is served last: as it was handed over, and as it is shown.
    shown: Option<(Arc<ActiveSync>, Arc<ActiveSync>)>,
}

impl Withholding {
    /// A sync configuration as it is shown.
    fn show(&mut self, sync: Option<Arc<ActiveSync>>) -> Option<Arc<ActiveSync>> {
        let Some(whole) = sync else {
            self.shown = None;
            return None;
        };
        if let Some((known, shown)) = &self.shown
            && Arc::ptr_eq(known, &whole)
        {
            return Some(shown.clone());
        }
        let shown = self.most.iter().fold(whole.clone(), |shown, most| shown.within(most));
        self.shown = Some((whole, shown.clone()));
        Some(shown)
    }

    /// What is served now as it is shown under another limit.
    fn limit(&mut self, most: Arc<SyncConfig>) -> Option<Arc<ActiveSync>> {
        self.most.push(most);
        let (whole, _) = self.shown.take()?;
        self.show(Some(whole))
    }

    /// Of limits only the newest counts from now on.
    ///
    /// - Returns: whether there were others, so that more may be served.
    fn forget_older_limits(&mut self) -> bool {
        let older = self.most.len().saturating_sub(1);
        if older > 0 {
            self.most.drain(..older);
            self.shown = None;
        }
        older > 0
    }
}

/// What of the writer's state is shown first. The caller has synced it.
pub(crate) struct First<'w> {
    pub progress: &'w Progress,
    pub runs: Arc<Runs>,
    pub kept_back: KeptBack,
    pub sync: Option<Arc<ActiveSync>>,
    pub tables: Arc<ShownTables>,
    pub withheld: Option<Withheld>,
}

impl Publication {
    /// Starts with the state that the store holds, and an empty change list of at most so many bytes.
    pub fn new(
        store: Store,
        write_checkpoints: Space,
        first: First<'_>,
        change_list_bytes: usize,
    ) -> Publication {
        let First { progress, runs, kept_back, sync, tables, withheld } = first;
        let change_list = Arc::new(ChangeList::new(change_list_bytes));
        let ring = Arc::new(ChangeRing::default());
        let leases = Arc::new(Leases::default());
        let met = Arc::<Met>::default();
        let served = watch::Sender::new(sync.clone());
        let mut withholding = Withholding::default();
        let sync = withholding.show(sync);
        let first = Published {
            number: 0,
            checkpoint: Checkpoint { op_id: progress.op_id, end_lsn: progress.end_lsn },
            epoch: progress.epoch,
            sync,
            withheld,
            snapshot: store.snapshot(),
            runs,
            kept_back,
            met: met.clone(),
            write_floor: progress.write_floor,
            write_checkpoints: write_checkpoints.clone(),
            ring: ring.clone(),
            change_place: change_list.end(),
            change_list: change_list.clone(),
            tables,
            leases: leases.clone(),
        };
        Publication {
            sender: watch::Sender::new(Arc::new(first)),
            served,
            withholding: Mutex::new(withholding),
            guarded: Mutex::default(),
            came: watch::Sender::new(0),
            durable: watch::Sender::new(progress.end_lsn),
            given: AtomicU64::new(progress.op_id.0),
            ring,
            change_list,
            arrivals: Arrivals::default(),
            leases,
            met,
            write_checkpoints,
            store,
        }
    }

    /// The published state.
    pub fn current(&self) -> Arc<Published> {
        self.sender.borrow().clone()
    }

    /// Up to where superseded operations may be removed: the shown position, or the oldest one that
    /// somebody still reads.
    pub fn unread(&self) -> OpId {
        let shown = self.current().checkpoint.op_id;
        self.leases.oldest().map_or(shown, |oldest| oldest.min(shown))
    }

    /// Whether a store that has come so far holds all that is shown.
    pub fn is_within(&self, progress: &Progress) -> bool {
        let shown = self.current().checkpoint;
        shown.op_id <= progress.op_id && shown.end_lsn <= progress.end_lsn
    }

    /// Whether a published state contains a marker that was written behind an earlier publication.
    pub fn has_arrived(&self, published: &Published, marked: Marked, before: u64) -> bool {
        self.arrivals.contains(published.number, marked, before)
    }

    /// Wakes with every publication.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.sender.subscribe()
    }

    /// Wakes when another sync configuration is served, or it stands elsewhere.
    pub fn watch_served(&self) -> watch::Receiver<Option<Arc<ActiveSync>>> {
        self.served.subscribe()
    }

    /// Everything up to this position is durable.
    pub fn durable(&self) -> EndLsn {
        *self.durable.borrow()
    }

    /// Above all op ids that a client may hold, and one that this store does not lose: what the source remembers
    /// (E-3). Numbers of a new epoch count from the moment when they begin, long before anything is shown.
    pub fn given(&self) -> OpId {
        OpId(self.given.load(Ordering::Acquire))
    }

    /// What the writer has given up to here is durable.
    pub fn note_given(&self, op_id: OpId) {
        self.given.fetch_max(op_id.0, Ordering::AcqRel);
    }

    /// Wakes when more has become durable.
    pub fn watch_durable(&self) -> watch::Receiver<EndLsn> {
        self.durable.subscribe()
    }

    /// How often [`Publication::withhold`] said something else than what was on its way to be published.
    pub fn changes(&self) -> u64 {
        self.withholding.lock().changes
    }

    /// Lets clients be answered from what is published, or not, from now on; whatever is on its way to be
    /// published. A state that lacks what clients were shown is never shown: the next one ends that.
    pub fn withhold(&self, withheld: Option<Withheld>) {
        let mut withholding = self.withholding.lock();
        let previous = self.current();
        if withheld.is_none() && previous.withheld == Some(Withheld::Behind) {
            return;
        }
        withholding.changes += 1;
        if previous.withheld == withheld {
            return;
        }
        let number = previous.number + 1;
        self.ring.push(number, Touched { everything: true, ..Touched::default() });
        self.sender.send_replace(Arc::new(Published { number, withheld, ..(*previous).clone() }));
    }

    /// Lets no definition be served that gives more than the one of its name in this configuration, from now on,
    /// whatever is served, on its way to be published, or built. What is served already is shown anew at once; where
    /// states are guarded nothing more of it, before one is shown that was looked at.
    pub fn limit(&self, most: Arc<SyncConfig>) {
        let guarded = self.guarded.lock();
        let mut withholding = self.withholding.lock();
        if guarded.is_none() {
            withholding.most.clear();
        }
        let Some(sync) = withholding.limit(most) else { return };
        let previous = self.current();
        if previous.sync.as_ref().is_some_and(|before| before.withheld == sync.withheld) {
            return;
        }
        let number = previous.number + 1;
        self.ring.push(number, Touched { everything: true, ..Touched::default() });
        self.served.send_replace(Some(sync.clone()));
        let next = Published { number, sync: Some(sync), ..(*previous).clone() };
        self.sender.send_replace(Arc::new(next));
    }

    /// Syncs, then shows, or lets wait for who guards it. On an error nothing is shown and nothing is told to be
    /// durable.
    pub fn publish(&self, job: PublishJob) -> Result<(), EngineError> {
        self.store.sync()?;
        self.note_given(job.progress.op_id);
        let end_lsn = job.progress.end_lsn;
        if job.show {
            let mut guarded = self.guarded.lock();
            match guarded.as_mut().filter(|waiting| !waiting.is_anew || !self.is_shown(&job)) {
                None => self.show(job),
                Some(waiting) => {
                    waiting.newer = Some(self.together(waiting.newer.take(), job));
                    self.came.send_modify(|came| *came += 1);
                }
            }
            guarded.iter_mut().for_each(|waiting| waiting.is_anew = false);
        }
        self.durable.send_replace(end_lsn);
        Ok(())
    }

    /// Whether it has the position of what is shown.
    fn is_shown(&self, job: &PublishJob) -> bool {
        let (shown, new) = (self.current(), &job.progress);
        let of_shown = (shown.epoch, shown.checkpoint.op_id, shown.checkpoint.end_lsn);
        of_shown == (new.epoch, new.op_id, new.end_lsn)
    }

    fn together(&self, earlier: Option<PublishJob>, job: PublishJob) -> PublishJob {
        match earlier {
            Some(earlier) => job.behind(earlier, &self.change_list),
            None => job,
        }
    }

    /// From now on states wait until [`Publication::show_looked_at`].
    pub fn guard(&self) {
        self.guarded.lock().get_or_insert_default();
    }

    /// Wakes with every state that comes to wait.
    pub fn watch_waiting(&self) -> watch::Receiver<u64> {
        self.came.subscribe()
    }

    /// The newest state that waits is the one that is looked at.
    ///
    /// - Returns: its position.
    pub fn look_at(&self) -> Option<EndLsn> {
        let mut guarded = self.guarded.lock();
        let waiting = guarded.as_mut()?;
        if let Some(newer) = waiting.newer.take() {
            waiting.looked_at = Some(self.together(waiting.looked_at.take(), newer));
        }
        waiting.looked_at.as_ref().map(|job| job.progress.end_lsn)
    }

    /// Shows the state that was looked at.
    pub fn show_looked_at(&self) {
        let mut guarded = self.guarded.lock();
        if let Some(mut job) = guarded.as_mut().and_then(|waiting| waiting.looked_at.take()) {
            job.touched.everything |= self.withholding.lock().forget_older_limits();
            self.show(job);
        }
    }

    /// What waits is never shown: the writer begins again from what is durable, and tells everything anew.
    pub fn forget_waiting(&self) {
        if let Some(waiting) = &mut *self.guarded.lock() {
            *waiting = Waiting { is_anew: true, ..Waiting::default() };
        }
    }

    fn show(&self, job: PublishJob) {
        let mut withholding = self.withholding.lock();
        let previous = self.current();
        let is_of_now = job.changes == withholding.changes;
        let withheld = if is_of_now { job.withheld } else { previous.withheld };
        let number = previous.number + 1;
        self.ring.push(number, job.touched);
        self.arrivals.push(number, job.arrived);
        let listed = job.listed.map(|listed| self.change_list.publish(listed));
        let next = Published {
            number,
            checkpoint: Checkpoint { op_id: job.progress.op_id, end_lsn: job.progress.end_lsn },
            epoch: job.progress.epoch,
            sync: withholding.show(job.sync),
            withheld,
            snapshot: job.snapshot,
            runs: job.runs,
            kept_back: job.kept_back,
            met: self.met.clone(),
            write_floor: job.progress.write_floor,
            write_checkpoints: self.write_checkpoints.clone(),
            ring: self.ring.clone(),
            change_place: listed.unwrap_or(previous.change_place),
            change_list: self.change_list.clone(),
            tables: job.tables,
            leases: self.leases.clone(),
        };
        debug_assert!(
            next.epoch != previous.epoch || next.checkpoint.op_id >= previous.checkpoint.op_id
        );
        let sync = next.sync.clone();
        self.sender.send_replace(Arc::new(next));
        self.served.send_if_modified(|served| {
            let is_other = served.as_ref().map(Arc::as_ptr) != sync.as_ref().map(Arc::as_ptr);
            *served = sync;
            is_other
        });
    }
}

/// No job is under way.
const IDLE: u8 = 0;
/// A job is under way.
const BUSY: u8 = 1;
/// A job is under way, and the sequencer waits for its end.
const AWAITED: u8 = 2;

/// The publisher's thread.
pub(crate) struct Publisher {
    jobs: Option<mpsc::SyncSender<PublishJob>>,
    shared: Arc<State>,
    thread: Option<std::thread::JoinHandle<()>>,
}

/// What the thread and its owner share.
#[derive(Default)]
struct State {
    /// [`IDLE`], [`BUSY`] or [`AWAITED`]. The owner makes it busy and awaited, the thread idle; a
    /// failure leaves it as it is, because nothing may be published behind one.
    phase: AtomicU8,
    /// The failure. A place of its own: nobody has to make room for it.
    failure: Mutex<Option<EngineError>>,
}

impl Publisher {
    /// Starts the thread. `wake` is called behind a job that failed, or whose end is waited for
    /// ([`Publisher::is_idle`]); it must not block.
    ///
    /// - Errors: the operating system gives no thread.
    pub fn start(
        publication: Arc<Publication>,
        wake: impl Fn() + Send + 'static,
    ) -> Result<Publisher, EngineError> {
        let (jobs, queue) = mpsc::sync_channel::<PublishJob>(1);
        let shared = Arc::new(State::default());
        let state = shared.clone();
        let thread = hw_process::start("headwater-publish", move || {
            let mut pace = Pace::UNDER_LOAD;
            for job in queue {
                hw_process::failpoint::reached("publisher::job");
                match publication.publish(job) {
                    Ok(()) => {
                        std::thread::sleep(pace.spend(Instant::now()));
                        if state.phase.swap(IDLE, Ordering::AcqRel) == AWAITED {
                            wake();
                        }
                    }
                    Err(error) => {
                        *state.failure.lock() = Some(error);
                        return wake();
                    }
                }
            }
        })?;
        Ok(Publisher { jobs: Some(jobs), shared, thread: Some(thread) })
    }

    /// Whether a job may be handed over. If not, `wake` will be called behind the one that is
    /// under way; without this question it is not, so that nobody is woken for nothing.
    pub fn is_idle(&self) -> bool {
        let phase = &self.shared.phase;
        let asked = phase.compare_exchange(BUSY, AWAITED, Ordering::AcqRel, Ordering::Acquire);
        asked == Err(IDLE)
    }

    /// The failure of a job, once.
    pub fn outcome(&self) -> Result<(), EngineError> {
        // Looked at often; a failure always leaves the phase behind.
        if self.shared.phase.load(Ordering::Acquire) == IDLE {
            return Ok(());
        }
        self.shared.failure.lock().take().map_or(Ok(()), Err)
    }

    /// Hands a job over. Only while the publisher is idle.
    pub fn submit(&self, job: PublishJob) -> Result<(), EngineError> {
        let jobs = self.jobs.as_ref().ok_or(EngineError::Stopping)?;
        self.shared.phase.store(BUSY, Ordering::Release);
        jobs.send(job).map_err(|_| EngineError::Stopping)
    }

    /// Waits for the job under way and ends the thread.
    pub fn finish(&mut self) -> Result<(), EngineError> {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
        self.outcome()
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        let _ = self.finish();
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::testing::Node;

    #[test]
    fn fd_27_what_is_on_its_way_to_be_published_does_not_end_what_is_withheld() {
        let mut node = Node::simulated();
        node.settle();
        let now = node.publication().changes();
        let on_its_way = node.sequencer.writer.publication(None, now).unwrap();
        let publication = node.publication();
        publication.withhold(Some(Withheld::Behind));
        publication.publish(on_its_way).unwrap();
        assert_eq!(publication.current().withheld, Some(Withheld::Behind));
    }

    #[test]
    fn e_4_a_state_that_is_guarded_is_shown_with_all_that_was_not_shown_before_it() {
        let mut node = Node::simulated();
        node.settle();
        let publication = node.sequencer.publication().clone();
        publication.guard();
        let first = publication.current().number;
        let mut publish = |user: &str| {
            let now = publication.changes();
            let mut job = node.sequencer.writer.publication(None, now).unwrap();
            job.touched.users.insert(user.to_owned());
            publication.publish(job).unwrap();
        };
        let shown = |after: u64| {
            let changes = publication.current().changes_since(after);
            ["a", "b", "c", "d"].map(|user| changes.users().any(|touched| touched == user))
        };
        publication.look_at();
        publication.show_looked_at();
        publish("a");
        assert_eq!(publication.current().number, first);
        assert!(publication.look_at().is_some());
        // It comes while somebody looks.
        publish("b");
        publication.show_looked_at();
        assert_eq!(publication.current().number, first + 1);
        assert_eq!(shown(first), [true, false, false, false]);
        publish("c");
        assert!(publication.look_at().is_some());
        // What was looked at is not shown.
        publish("d");
        assert!(publication.look_at().is_some());
        publication.show_looked_at();
        assert_eq!(publication.current().number, first + 2);
        assert_eq!(shown(first + 1), [false, true, true, true]);
        assert_eq!(publication.look_at(), None);
        publish("a");
        publication.forget_waiting();
        assert_eq!(publication.look_at(), None);
        // The first of a store that was opened anew is what is shown, which could not be read without it.
        publish("b");
        assert_eq!(publication.current().number, first + 3);
        publish("c");
        assert_eq!(publication.current().number, first + 3);
        assert!(publication.look_at().is_some());
    }

    #[test]
    fn fd_27_nothing_but_another_state_ends_that_one_is_withheld_which_lacks_what_was_shown() {
        let mut node = Node::simulated();
        node.settle();
        node.publication().withhold(Some(Withheld::Behind));
        let now = node.publication().changes();
        let compared = node.sequencer.writer.publication(None, now).unwrap();
        let publication = node.publication();
        // The source is asked once more before that is shown.
        publication.withhold(None);
        assert_eq!(publication.current().withheld, Some(Withheld::Behind));
        publication.publish(compared).unwrap();
        assert_eq!(publication.current().withheld, None);
    }
}
