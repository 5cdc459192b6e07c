//! The sequencer: makes one order out of everything that comes in, and lets the writer apply it.
//!
//! In: what waits in the queue (the log's items, copies, ticks of the clock), a configuration to
//! take over, the publisher's outcome. Out: entries, applied at once; publications. Everything
//! that depends on time, on chance or on what happens to wait is decided here and stands in the
//! entry, so that the writer's state is a function of the entries alone (`design/seams.md` 2).
//!
//! Invariants:
//! - Items are taken from one stream only: the one whose beginning this sequencer has seen. What
//!   an earlier stream left in the queue when the writer began again is passed over, whole.
//! - What the source repeats must be what the tail has, all of it, and what it sends anew must lie behind
//!   everything that is applied; nothing is acknowledged before.

mod restart;

pub(crate) use self::restart::run;

use crate::apply::Applied;
use crate::board::{Board, Desired};
use crate::error::{EngineError, code};
use crate::loader::Loader;
use crate::publish::{First, Publication, Publisher};
use crate::published::Withheld;
use crate::runs::{self, Start};
use crate::state::{Day, Progress};
use crate::tables::Table;
use crate::writer::{Bounds, CopyOutcome, Writer};
use hw_input::entry::{CompactSlice, Control, Entry};
use hw_input::signal::{CopyDropped, CopySignal, Inlet, Signal};
use hw_input::transactions::Item;
use hw_process::failpoint;
use hw_store::Store;
use hw_types::{CommitLsn, Diagnostic, EndLsn, OpId, Xid};
use std::collections::{BTreeSet, VecDeque};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Signals that are taken out of the queue at once. The reader of the log, when it waits for the queue
/// to have room, is woken once for all of them.
const TAKEN: usize = 256;

/// Rows of one slice of a build. Small enough that live transactions wait tens of milliseconds.
const SLICE_ROWS: usize = 5_000;

/// The same while transactions wait.
const BUSY_ROWS: usize = 500;

const SECONDS_OF_A_DAY: u64 = 24 * 3600;

/// Seconds between looks at the length of the tail.
const TRIM_EVERY: u64 = 60;

/// What a sequencer has to do with besides the store.
#[derive(Clone)]
pub(crate) struct Outside {
    pub bounds: Bounds,
    /// How long a definition that left is still applied.
    pub retention: Duration,
    /// Whom it tells what, and who left what for it.
    pub board: Arc<Board>,
    /// The way into its own queue, to be woken.
    pub inlet: Inlet,
}

/// What came of a look for something to do.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Work {
    /// Nothing is being built, or a table is still missing, and nothing is worth being compacted.
    None,
    /// Something was done, and there may be more.
    Some,
}

/// Sees entries.
pub(crate) type Recorder = Box<dyn FnMut(&Entry) + Send>;

/// Makes entries, one at a time.
pub(crate) struct Sequencer {
    pub(crate) writer: Writer,
    pub(crate) outside: Outside,
    publication: Arc<Publication>,
    publisher: Publisher,
    /// The stream whose items are taken.
    stream: Option<Stream>,
    /// The copy under way: its number, and who waits for its end.
    copy: Option<(u64, AwaitsCopy)>,
    /// Room in the queue that uncommitted items still take: what they hold waits in memory, and
    /// giving it back with the commit wakes the reader of the log once and not for each item.
    held: Option<OwnedSemaphorePermit>,
    /// Taken out of the queue and not handled.
    taken: std::vec::IntoIter<Signal>,
    recorder: Option<Recorder>,
}

/// Told that a copy's tables have entered, or why they were dropped.
type AwaitsCopy = oneshot::Sender<Result<(), CopyDropped>>;

/// A stream of the source.
struct Stream {
    session: u64,
    /// Told when everything that the stream repeats has been compared.
    compared: Option<oneshot::Sender<()>>,
    /// Transactions that the stream must repeat before anything new, oldest first.
    expected: VecDeque<(CommitLsn, Xid)>,
}

impl Sequencer {
    /// Opens the store's state, as it is durable, and publishes it.
    pub fn open(store: Store, outside: Outside) -> Result<Sequencer, EngineError> {
        Self::over(store, outside, None, None)
    }

    /// Opens what is durable in place of a sequencer that failed.
    ///
    /// - Takes: its publication, so that surfaces keep their watch.
    pub fn again(
        store: Store,
        outside: Outside,
        publication: Arc<Publication>,
    ) -> Result<Sequencer, EngineError> {
        Self::over(store, outside, Some(publication), None)
    }

    /// Opens what is durable, in place of a sequencer that failed if its publication is given; `recorder`
    /// sees every entry before it is applied.
    pub(crate) fn over(
        store: Store,
        outside: Outside,
        publication: Option<Arc<Publication>>,
        mut recorder: Option<Recorder>,
    ) -> Result<Sequencer, EngineError> {
        let mut writer = Writer::open(store.clone(), outside.bounds, outside.board.beat.clone())?;
        // A writer that begins again gives numbers as before; but not where the disk has lost what it
        // had said to be durable.
        let goes_on = publication.as_ref().is_some_and(|kept| kept.is_within(writer.progress()));
        if !writer.is_new() && !goes_on {
            // Before anything is shown: who is ahead of the store learns it at once.
            let given = publication.as_ref().map_or(OpId(0), |kept| kept.given());
            let run = begin_run(writer.progress(), given);
            if let Some(record) = &mut recorder {
                record(&run);
            }
            writer.apply(run)?;
            writer.commit()?;
            store.sync()?;
        }
        publication.iter().for_each(|kept| kept.forget_waiting());
        let publication = publication.unwrap_or_else(|| {
            let (space, active) = (writer.write_checkpoints.clone(), writer.active().clone());
            let tables = writer.shown();
            let (progress, runs) = (writer.progress(), writer.runs.clone());
            let withheld = Withheld::new(writer.behind, outside.board.is_asked());
            let kept_back = writer.kept_back.clone();
            let first = First { progress, runs, kept_back, sync: active, tables, withheld };
            let change_list_bytes = outside.bounds.change_list_bytes;
            Arc::new(Publication::new(store.clone(), space, first, change_list_bytes))
        });
        let inlet = outside.inlet.clone();
        let publisher = Publisher::start(publication.clone(), move || inlet.wake())?;
        let mut sequencer = Sequencer {
            writer,
            outside,
            publication,
            publisher,
            stream: None,
            copy: None,
            held: None,
            taken: Vec::new().into_iter(),
            recorder,
        };
        if sequencer.writer.is_new() {
            sequencer.apply(Control::Secret(random_secret()))?;
            sequencer.begin_epoch(OpId(0))?;
        }
        sequencer.withheld().and_then(Withheld::finding).inspect(Diagnostic::log);
        // Before anything is asked for: what is noted with an old day would be forgotten at once.
        sequencer.date(now())?;
        if let Some(lost) = sequencer.writer.lost.take() {
            sequencer.apply(lost)?;
        }
        if let Some(unbuilt) = sequencer.writer.definitions.unbuilt.take() {
            tracing::info!(
                version = unbuilt.version,
                "the stored sync configuration is built again: this program computes it in another way"
            );
            sequencer.configure(&unbuilt.file, &unbuilt.text)?;
        }
        if sequencer.writer.has_unfinished_copy() {
            sequencer.apply(Control::CopyFailed)?;
        }
        if sequencer.writer.can_thaw() {
            sequencer.apply(Control::Thaw)?;
        }
        // What read it may have gone right before a crash.
        sequencer.leave_unread()?;
        sequencer.tell();
        Ok(sequencer)
    }

    /// Numbers that clients are given begin anew (E-3).
    fn begin_epoch(&mut self, above: OpId) -> Result<(), EngineError> {
        let last = self.writer.progress();
        let Start { op_id, write_base } =
            runs::start(clock(), above.max(last.op_id), last.write_base);
        let epoch = runs::epoch_at(op_id).max(last.epoch + 1);
        self.apply(Control::Epoch { epoch, op_id, write_base })?;
        self.make_durable()
    }

    /// Handles signals until told to stop or until the store fails.
    pub fn run(&mut self, signals: &mut mpsc::Receiver<Signal>) -> Result<(), EngineError> {
        loop {
            self.publisher.outcome()?;
            self.outside.board.beat.count();
            let Some(signal) = self.taken.next() else {
                self.take_configuration()?;
                if signals.is_empty() {
                    self.offer()?;
                    match self.background()? {
                        Work::None => {}
                        Work::Some => continue,
                    }
                } else if self.writer.is_building() {
                    // A queue that is never empty must not keep a configuration waiting for ever.
                    self.build(BUSY_ROWS)?;
                }
                let mut taken = Vec::with_capacity(TAKEN);
                match signals.blocking_recv_many(&mut taken, TAKEN) {
                    0 => return self.finish_up(),
                    _ => self.taken = taken.into_iter(),
                }
                continue;
            };
            match signal {
                Signal::Stop => return self.finish_up(),
                signal => {
                    failpoint::reached("sequencer::signal");
                    self.handle(signal)?;
                }
            }
            if self.writer.is_full() {
                self.writer.commit()?;
                self.offer()?;
                // A log that is never idle must not grow for ever either.
                self.compact()?;
            }
        }
    }

    /// Turns a signal into what follows from it.
    pub fn handle(&mut self, signal: Signal) -> Result<(), EngineError> {
        match signal {
            Signal::Begins { session, confirmed, compared } => {
                self.stream_begins(session, confirmed, compared)
            }
            Signal::Item { session, item, room } => {
                if self.stream.as_ref().is_none_or(|stream| stream.session != session) {
                    return Ok(());
                }
                self.hold(room);
                self.item(item)
            }
            Signal::Asked => {
                self.asked();
                Ok(())
            }
            Signal::Behind { done } => {
                self.behind()?;
                let _ = done.send(());
                Ok(())
            }
            Signal::NewEpoch { above, done } => {
                self.begin_epoch(above)?;
                let _ = done.send(());
                Ok(())
            }
            Signal::Copy(signal) => self.copy_signal(signal),
            Signal::Control(control) => self.apply(control).map(drop),
            Signal::Demand { table, done } => {
                self.apply(Control::Demand(table))?;
                self.make_durable()?;
                let _ = done.send(());
                Ok(())
            }
            Signal::Tick { now } => self.tick(now),
            Signal::Wake | Signal::Stop => Ok(()),
        }
    }

    /// The source was asked, or does not answer: clients are answered from what the store holds, unless it
    /// was put back to an earlier state.
    fn asked(&self) {
        self.outside.board.asked.store(true, Ordering::Release);
        self.publication.withhold(self.withheld());
    }

    /// Clients were shown what the store lacks. Should that not become durable, the source counts as not
    /// asked: a writer that begins again must not show what it finds.
    fn behind(&mut self) -> Result<(), EngineError> {
        self.outside.board.asked.store(false, Ordering::Release);
        self.publication.withhold(Some(Withheld::Behind));
        if !self.writer.behind {
            self.apply(Control::Behind)?;
            self.withheld().and_then(Withheld::finding).inspect(Diagnostic::log);
        }
        self.make_durable()?;
        self.asked();
        Ok(())
    }

    /// Commits and syncs what waits.
    fn make_durable(&mut self) -> Result<(), EngineError> {
        self.writer.commit()?;
        self.writer.store.sync()?;
        self.publication.note_given(self.writer.progress().op_id);
        Ok(())
    }

    /// Why nobody is answered from what the store holds, if so.
    fn withheld(&self) -> Option<Withheld> {
        Withheld::new(self.writer.behind, self.outside.board.is_asked())
    }

    /// Keeps an item's room in the queue until the commit.
    fn hold(&mut self, room: Option<OwnedSemaphorePermit>) {
        match (&mut self.held, room) {
            (Some(held), Some(room)) => held.merge(room),
            (held, room) => *held = held.take().or(room),
        }
    }

    fn stream_begins(
        &mut self,
        session: u64,
        confirmed: EndLsn,
        compared: oneshot::Sender<()>,
    ) -> Result<(), EngineError> {
        let expected = self.writer.tail_from(confirmed)?;
        self.stream = Some(Stream { session, compared: Some(compared), expected });
        self.tell_if_compared();
        Ok(())
    }

    /// From here on positions may be confirmed to the stream.
    fn tell_if_compared(&mut self) {
        if let Some(stream) = &mut self.stream
            && stream.expected.is_empty()
            && let Some(compared) = stream.compared.take()
        {
            let _ = compared.send(());
        }
    }

    fn item(&mut self, item: Item) -> Result<(), EngineError> {
        if self.writer.has_moved() {
            return Ok(());
        }
        let Some(stream) = &mut self.stream else { return Ok(()) };
        let applied = self.writer.progress().commit_lsn;
        match item {
            Item::Transaction(again) if again.commit_lsn <= applied => {
                // Applied before (F-3): passed over, if it is the one that was applied.
                if stream.expected.pop_front() != Some((again.commit_lsn, again.xid.short())) {
                    return self.history_moved();
                }
                self.tell_if_compared();
                Ok(())
            }
            Item::Transaction(transaction) => {
                // In one history nothing can come to lie before what was told to be all there is.
                let is_passed = transaction.commit_lsn.0 < self.writer.progress().end_lsn.0;
                if is_passed || !stream.expected.is_empty() {
                    return self.history_moved();
                }
                self.apply(Entry::Transaction(transaction)).map(drop)
            }
            Item::Progress(end_lsn) => {
                if stream.expected.front().is_some_and(|(missing, _)| missing.0 < end_lsn.0) {
                    return self.history_moved();
                }
                if stream.expected.is_empty() {
                    self.apply(Entry::Progress(end_lsn))?;
                }
                Ok(())
            }
        }
    }

    /// The source repeats something else than what was applied.
    fn history_moved(&mut self) -> Result<(), EngineError> {
        let what =
            "the source repeats other transactions than those that were applied: its history moved";
        Diagnostic::error(code::HISTORY_MOVED, what)
            .mend(
                "nothing here: everything is copied again and compared; find out who put the source back",
            )
            .log();
        self.apply(Control::HistoryMoved)?;
        self.writer.commit()?;
        self.stream = None;
        self.outside.board.turns.send_modify(|turns| turns.moved += 1);
        Ok(())
    }

    fn copy_signal(&mut self, signal: CopySignal) -> Result<(), EngineError> {
        match signal {
            CopySignal::Begin { copy, whole, reply, ended } => {
                let begins_anew = whole.is_some();
                self.apply(Control::CopyBegins { whole })?;
                if begins_anew {
                    // Before its slot is made: what is stored must not be taken for what that goes on with.
                    self.make_durable()?;
                }
                self.copy = Some((copy, ended));
                let _ = reply.send(());
            }
            CopySignal::Boundary { copy, lsn, tables, reply } => {
                if self.is_under_way(copy)
                    && let Applied::Loading(tables) =
                        self.apply(Control::Boundary { lsn, tables })?
                {
                    let _ = reply.send(Box::new(self.loader(tables)));
                }
            }
            CopySignal::Loaded { copy, behind, reading } => {
                if self.is_under_way(copy) {
                    self.apply(Control::Loaded { behind, reading })?;
                }
            }
            CopySignal::Failed => {
                if self.copy.take().is_some() {
                    self.apply(Control::CopyFailed)?;
                }
            }
        }
        Ok(())
    }

    /// What takes the rows of a copy.
    pub fn loader(&self, tables: Vec<Arc<Table>>) -> Loader {
        let sort_bytes = self.outside.bounds.sort_bytes;
        Loader { store: self.writer.store.clone(), tables, sort_bytes }
    }

    fn is_under_way(&self, copy: u64) -> bool {
        self.copy.as_ref().is_some_and(|(number, _)| *number == copy)
    }

    /// Once a second: what is over its retention goes, the tail is trimmed.
    fn tick(&mut self, now: u64) -> Result<(), EngineError> {
        // Damage that somebody else has read is given up soon, although nothing is to be written.
        self.writer.store.check_writable()?;
        let before = now.saturating_sub(self.outside.retention.as_secs());
        if self.writer.has_retired(before) {
            self.apply(Control::Retire { before })?;
            self.leave_unread()?;
        }
        self.date(now)?;
        for user in self.writer.crowded() {
            self.apply(Control::KeepNewest { user })?;
        }
        if now.is_multiple_of(TRIM_EVERY)
            && let Some(below) = self.writer.tail_surplus()?
        {
            self.apply(Control::TrimTail { below })?;
        }
        Ok(())
    }

    /// What nothing reads any more leaves.
    fn leave_unread(&mut self) -> Result<(), EngineError> {
        for table in self.writer.unread_tables() {
            let reason = "nothing reads it any more".into();
            self.apply(Control::Gone { table, reason })?;
        }
        Ok(())
    }

    /// Tells the writer which day it is, when that is a new one.
    fn date(&mut self, now: u64) -> Result<(), EngineError> {
        let today = Day(now / SECONDS_OF_A_DAY);
        if self.writer.day < today {
            self.apply(Control::Day(today.0))?;
        }
        Ok(())
    }

    /// Takes over the newest configuration that somebody handed in. It is given up only when it
    /// has been taken over: a failure of the store leaves it for the next writer.
    pub fn take_configuration(&mut self) -> Result<(), EngineError> {
        let Some(desired) = self.outside.board.desired.lock().take() else { return Ok(()) };
        match self.configure(&desired.file, &desired.text) {
            Ok(changed) => {
                if let Some(reply) = desired.reply {
                    let _ = reply.send(Ok(changed));
                }
                Ok(())
            }
            Err(error) => {
                Desired::put_back(&self.outside.board.desired, desired);
                Err(error)
            }
        }
    }

    /// Builds a configuration that compiles beside the one that is served; whether anything
    /// changed.
    pub fn configure(&mut self, file: &str, text: &str) -> Result<bool, EngineError> {
        let control = Control::Configure { file: file.into(), text: text.into() };
        Ok(matches!(self.apply(control)?, Applied::Changed))
    }

    /// Work between events: slices of a build, the switch behind the last one, compaction.
    pub fn background(&mut self) -> Result<Work, EngineError> {
        match self.build(SLICE_ROWS)? {
            Work::None if !self.writer.is_building() => self.compact(),
            done => Ok(done),
        }
    }

    /// The next slice of a build, at most `rows` rows; or the switch.
    fn build(&mut self, rows: usize) -> Result<Work, EngineError> {
        if !self.writer.is_building() {
            return Ok(Work::None);
        }
        // What is served as it is waits for nothing: neither for a table nor for a look at the catalog.
        if self.writer.definitions.is_served() {
            self.apply(Control::Switch { now: now(), waiting: BTreeSet::new() })?;
            return Ok(Work::Some);
        }
        // A table that only what is served reads keeps nothing from taking its place.
        let Some(mut missing) = self.outside.board.missing() else { return Ok(Work::None) };
        missing.extend(self.writer.stale_names().into_iter().cloned());
        let definitions = &self.writer.definitions;
        let unready = definitions.unready(&missing);
        let later = definitions.not_to_build(&missing);
        // What can be built is built first: who waits for it would be shown it empty meanwhile.
        let can_build = self.writer.can_build(&later);
        if unready.is_empty() || !can_build && definitions.can_serve_without(&unready) {
            let waiting = unready.iter().map(|unready| unready.index).collect();
            self.apply(Control::Switch { now: now(), waiting })?;
            return Ok(Work::Some);
        }
        // What is built first is built at once, when all is there.
        let is_first = definitions.active.is_none();
        if !can_build || is_first && !later.is_empty() {
            return Ok(Work::None);
        }
        let control = match self.writer.can_build_at_once() {
            true => Control::BuildAll,
            false => Control::BuildSlice { rows, later },
        };
        self.apply(control)?;
        Ok(Work::Some)
    }

    /// Removes some of what is superseded and nobody reads any more, where that is worth it.
    fn compact(&mut self) -> Result<Work, EngineError> {
        let Some((source, parameters)) = self.writer.book.due() else { return Ok(Work::None) };
        let until = self.publication.unread();
        let parameters = parameters.to_string();
        self.apply(Control::Compact(CompactSlice::new(source, parameters, until)))?;
        Ok(Work::Some)
    }

    /// Applies an entry and passes on what it brought about.
    fn apply(&mut self, entry: impl Into<Entry>) -> Result<Applied, EngineError> {
        let entry = entry.into();
        if let Some(record) = &mut self.recorder {
            record(&entry);
        }
        let mut applied = self.writer.apply(entry)?;
        if self.writer.news.any() {
            // What stood still goes on as soon as it can, whatever waits.
            if self.writer.can_thaw() {
                let (news, now) = (std::mem::take(&mut self.writer.news), applied);
                self.apply(Control::Thaw)?;
                self.writer.news = news;
                applied = now;
            }
            self.tell();
        }
        Ok(applied)
    }

    /// Tells the driver and whoever waits what the writer brought about.
    fn tell(&mut self) {
        let news = std::mem::take(&mut self.writer.news);
        let board = &self.outside.board;
        if news.altered > 0 {
            board.turns.send_modify(|turns| turns.altered += news.altered);
        }
        if news.rights > 0 {
            board.rights.send_modify(|rights| *rights += news.rights);
        }
        if let Some(outcome) = news.copy
            && let Some((_, ended)) = self.copy.take()
        {
            let _ = ended.send(match outcome {
                CopyOutcome::Entered => Ok(()),
                CopyOutcome::Dropped(dropped) => Err(dropped),
            });
        }
        board.set_secret(self.writer.secret());
        board.set_write_base(self.writer.progress().write_base);
        let plan = crate::replica::plan(&self.writer, &board.plan.borrow());
        {
            let mut status = board.writer.lock();
            status.building = self.writer.is_building();
            match news.lost.is_empty() {
                false => status.lost = news.lost.into_iter().collect(),
                true if !status.building => status.lost.clear(),
                true => {}
            }
            status.waiting_version = self.writer.building_version();
            status.under_construction = self.writer.definitions.under_construction();
            // What only a definition reads that has left is not copied until that one comes back.
            let stale = plan.tables.values().filter(|table| table.stale);
            let names = stale.map(|table| &table.relation.name);
            let copied = names.filter(|name| plan.wanted.iter().any(|p| p.matches(name)));
            status.stale = copied.cloned().collect();
        }
        board.plan.send_if_modified(|told| {
            let differs = !Arc::ptr_eq(&told.wanted, &plan.wanted)
                || !Arc::ptr_eq(&told.demanded, &plan.demanded)
                || !Arc::ptr_eq(&told.tables, &plan.tables)
                || told.refused != plan.refused;
            if differs {
                *told = Arc::new(plan);
            }
            differs
        });
    }

    /// What surfaces and the driver see of what is published.
    pub fn publication(&self) -> &Arc<Publication> {
        &self.publication
    }

    /// Shows the loaded state to surfaces that kept their watch over a restart of the writer.
    pub fn publish_anew(&mut self) {
        self.writer.publish_anew();
    }

    /// Hands what is committed to the publisher, when it is idle.
    pub fn offer(&mut self) -> Result<(), EngineError> {
        if !self.writer.has_news() {
            // Transactions that were applied before hold room and leave nothing to commit.
            self.held = None;
            return Ok(());
        }
        if !self.publisher.is_idle() {
            return Ok(());
        }
        let (withheld, changes) = (self.withheld(), self.publication.changes());
        let job = self.writer.publication(withheld, changes)?;
        self.held = None;
        self.publisher.submit(job)
    }

    /// Whether a publication is under way.
    #[cfg(any(test, feature = "testing"))]
    pub fn is_publishing(&self) -> bool {
        !self.publisher.is_idle()
    }

    /// The outcome of the last publication.
    #[cfg(any(test, feature = "testing"))]
    pub fn published(&mut self) -> Result<(), EngineError> {
        self.publisher.outcome()
    }

    /// Commits and syncs what waits, before the process ends.
    fn finish_up(&mut self) -> Result<(), EngineError> {
        self.publisher.finish()?;
        self.make_durable()
    }
}

/// Seconds since 1970.
pub(crate) fn now() -> u64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_secs())
}

/// Milliseconds since 2024.
fn clock() -> u64 {
    const YEAR_2024: Duration = Duration::from_secs(1_704_067_200);
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    since.saturating_sub(YEAR_2024).as_millis().try_into().unwrap_or(u64::MAX)
}

/// The first entry of a run.
///
/// - Takes: what was given before, also if the store has lost it.
fn begin_run(last: &Progress, given: OpId) -> Entry {
    let Start { op_id, write_base } = runs::start(clock(), last.op_id.max(given), last.write_base);
    Entry::Control(Control::Run { op_id, write_base })
}

/// 32 random bytes that sign markers.
fn random_secret() -> [u8; 32] {
    let mut secret = [0; 32];
    aws_lc_rs::rand::fill(&mut secret).expect("the operating system gives random bytes");
    secret
}
