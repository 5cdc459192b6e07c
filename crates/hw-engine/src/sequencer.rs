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
//! - What the source repeats must be what the tail has, all of it; nothing is acknowledged before.

use crate::build::Slice;
use crate::engine::{CopyEvent, Desired, Event, Shared};
use crate::error::EngineError;
use crate::publish::Publisher;
use crate::status::SourceState;
use crate::writer::{Applied, CopyOutcome, Writer};
use hw_input::entry::{CompactSlice, Control, Entry};
use hw_input::transactions::Item;
use hw_pg::replication::Acknowledger;
use hw_store::Store;
use hw_types::{CommitLsn, EndLsn, OpId, Xid};
use std::collections::VecDeque;
use std::sync::Arc;
use std::sync::atomic::Ordering;
use tokio::sync::{OwnedSemaphorePermit, mpsc, oneshot};

/// Events that are taken out of the queue at once. The reader of the log, when it waits for the queue
/// to have room, is woken once for all of them.
const TAKEN: usize = 256;

/// Rows of one slice of a build. Small enough that live transactions wait tens of milliseconds.
const SLICE_ROWS: usize = 5_000;

/// The same while transactions wait.
const BUSY_ROWS: usize = 500;

/// Seconds between looks at the length of the tail.
const TRIM_EVERY: u64 = 60;

/// Sees entries.
pub(crate) type Recorder = Box<dyn FnMut(&Entry) + Send>;

/// Makes entries, one at a time.
pub(crate) struct Sequencer {
    pub(crate) writer: Writer,
    shared: Arc<Shared>,
    publisher: Publisher,
    /// The stream whose items are taken.
    stream: Option<Stream>,
    /// The copy under way: its number, and who waits for its end.
    copy: Option<(u64, Option<AwaitsCopy>)>,
    /// Room in the queue that uncommitted items still take: what they hold waits in memory, and
    /// giving it back with the commit wakes the reader of the log once and not for each item.
    held: Option<OwnedSemaphorePermit>,
    /// Taken out of the queue and not handled.
    taken: std::vec::IntoIter<Event>,
    recorder: Option<Recorder>,
}

/// Told that a copy's tables have entered, or why they were dropped.
type AwaitsCopy = oneshot::Sender<Result<(), String>>;

/// A stream of the source.
struct Stream {
    session: u64,
    /// Told what is durable once everything that the stream repeats has been compared.
    acknowledger: Option<Acknowledger>,
    /// Transactions that the stream must repeat before anything new, oldest first.
    expected: VecDeque<(CommitLsn, Xid)>,
}

impl Sequencer {
    /// Opens the store's state, as it is durable, and publishes it.
    pub fn open(store: Store, shared: Arc<Shared>) -> Result<Sequencer, EngineError> {
        Self::recording(store, shared, None)
    }

    /// The same; `recorder` sees every entry before it is applied.
    pub fn recording(
        store: Store,
        shared: Arc<Shared>,
        recorder: Option<Recorder>,
    ) -> Result<Sequencer, EngineError> {
        let writer = Writer::open(store.clone(), shared.options.bounds(), shared.beat.clone())?;
        let publication = shared.open_publication(
            &store,
            &writer.write_checkpoints,
            writer.progress(),
            writer.active(),
        );
        let events = shared.events.clone();
        // A full queue needs no wake-up: who takes from it looks for outcomes, too.
        let publisher = Publisher::start(publication, move || drop(events.try_send(Event::Wake)))?;
        let mut sequencer = Sequencer {
            writer,
            shared,
            publisher,
            stream: None,
            copy: None,
            held: None,
            taken: Vec::new().into_iter(),
            recorder,
        };
        *sequencer.shared.refused.lock() = sequencer.writer.definitions.refused.clone();
        if sequencer.writer.is_new() {
            sequencer.begin_epoch(OpId(0))?;
            sequencer.apply(Control::Secret(crate::markers::random_secret()))?;
            sequencer.writer.commit()?;
            store.sync()?;
        }
        if sequencer.writer.has_unfinished_copy() {
            sequencer.apply(Control::CopyFailed)?;
        }
        if sequencer.writer.can_thaw() {
            sequencer.apply(Control::Thaw)?;
        }
        sequencer.tell();
        Ok(sequencer)
    }

    /// Numbers that clients are given begin anew (E-3).
    fn begin_epoch(&mut self, above: OpId) -> Result<(), EngineError> {
        let last = self.writer.progress();
        let above = above.max(last.op_id);
        let epoch = self.shared.fresh_epoch(last.epoch, above);
        self.apply(Control::Epoch { epoch, op_id: OpId(epoch << 20) })?;
        Ok(())
    }

    /// Handles events until told to stop or until the store fails.
    pub fn run(&mut self, events: &mut mpsc::Receiver<Event>) -> Result<(), EngineError> {
        loop {
            self.publisher.outcome()?;
            self.shared.beat.fetch_add(1, Ordering::Relaxed);
            let Some(event) = self.taken.next() else {
                self.take_configuration()?;
                if events.is_empty() {
                    self.offer()?;
                    match self.background()? {
                        Slice::Idle => {}
                        Slice::More | Slice::Complete => continue,
                    }
                } else if self.writer.is_building() {
                    // A queue that is never empty must not keep a configuration waiting for ever.
                    self.build(BUSY_ROWS)?;
                }
                let mut taken = Vec::with_capacity(TAKEN);
                match events.blocking_recv_many(&mut taken, TAKEN) {
                    0 => return self.finish_up(),
                    _ => self.taken = taken.into_iter(),
                }
                continue;
            };
            match event {
                Event::Stop => return self.finish_up(),
                event => self.handle(event)?,
            }
            if self.writer.is_full() {
                self.writer.commit()?;
                self.offer()?;
                // A log that is never idle must not grow for ever either.
                self.compact()?;
            }
        }
    }

    /// Turns an event into what follows from it.
    pub fn handle(&mut self, event: Event) -> Result<(), EngineError> {
        match event {
            Event::Begins { session, confirmed, acknowledger } => {
                self.stream_begins(session, confirmed, acknowledger)
            }
            Event::Item { session, item, room } => {
                if self.stream.as_ref().is_none_or(|stream| stream.session != session) {
                    return Ok(());
                }
                self.hold(room);
                self.item(item)
            }
            Event::NewEpoch { above } => self.begin_epoch(above),
            Event::Copy(event) => self.copy_event(event),
            Event::Control(control) => self.apply(control).map(drop),
            Event::Tick { now } => self.tick(now),
            Event::Wake | Event::Stop => Ok(()),
        }
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
        acknowledger: Option<Acknowledger>,
    ) -> Result<(), EngineError> {
        let expected = self.writer.tail_from(confirmed)?;
        self.stream = Some(Stream { session, acknowledger, expected });
        self.acknowledge_if_compared();
        Ok(())
    }

    fn acknowledge_if_compared(&mut self) {
        if let Some(stream) = &mut self.stream
            && stream.expected.is_empty()
            && let Some(acknowledger) = stream.acknowledger.take()
            && let Some(publication) = self.shared.publication()
        {
            publication.acknowledge_to(acknowledger);
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
                if stream.expected.pop_front() != Some((again.commit_lsn, again.xid)) {
                    return self.history_moved();
                }
                self.acknowledge_if_compared();
                Ok(())
            }
            Item::Transaction(transaction) => {
                if !stream.expected.is_empty() {
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
        tracing::error!(
            "the source repeats other transactions than those that were applied: its history moved"
        );
        self.apply(Control::HistoryMoved)?;
        self.writer.commit()?;
        self.stream = None;
        self.shared.moved.send_modify(|count| *count += 1);
        Ok(())
    }

    fn copy_event(&mut self, event: CopyEvent) -> Result<(), EngineError> {
        match event {
            CopyEvent::Begin { whole, reply } => {
                self.apply(Control::CopyBegins { whole })?;
                let number = self.shared.next_number();
                self.copy = Some((number, None));
                let _ = reply.send(number);
            }
            CopyEvent::Boundary { copy, lsn, tables, reply } => {
                if self.is_under_way(copy)
                    && let Applied::Targets(targets) =
                        self.apply(Control::Boundary { lsn, tables })?
                {
                    let _ = reply.send(targets);
                }
            }
            CopyEvent::Loaded { copy, behind, done } => {
                // Without the copy `done` is dropped, and whoever waits begins again.
                if self.is_under_way(copy) {
                    self.copy = Some((copy, Some(done)));
                    self.apply(Control::Loaded(behind))?;
                }
            }
            CopyEvent::Failed => {
                if self.copy.take().is_some() {
                    self.apply(Control::CopyFailed)?;
                }
            }
        }
        Ok(())
    }

    fn is_under_way(&self, copy: u64) -> bool {
        self.copy.as_ref().is_some_and(|(number, _)| *number == copy)
    }

    /// Once a second: what is over its retention goes, the tail is trimmed.
    fn tick(&mut self, now: u64) -> Result<(), EngineError> {
        let before = now.saturating_sub(self.shared.options.definition_retention.as_secs());
        if self.writer.has_retired(before) {
            self.apply(Control::Retire { before })?;
            for table in self.writer.unread_tables() {
                let reason = "nothing reads it any more".into();
                self.apply(Control::Gone { table, reason })?;
            }
        }
        if now.is_multiple_of(TRIM_EVERY)
            && let Some(below) = self.writer.tail_surplus()?
        {
            self.apply(Control::TrimTail { below })?;
        }
        Ok(())
    }

    /// Takes over the newest configuration that somebody handed in. It is given up only when it
    /// has been taken over: a failure of the store leaves it for the next writer.
    pub fn take_configuration(&mut self) -> Result<(), EngineError> {
        let Some(desired) = self.shared.desired.lock().take() else { return Ok(()) };
        match self.configure(&desired.file, &desired.text) {
            Ok(changed) => {
                if let Some(reply) = desired.reply {
                    let _ = reply.send(Ok(changed));
                }
                Ok(())
            }
            Err(error) => {
                Desired::put_back(&self.shared.desired, desired);
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
    pub fn background(&mut self) -> Result<Slice, EngineError> {
        match self.build(SLICE_ROWS)? {
            Slice::Idle if !self.writer.is_building() => self.compact(),
            done => Ok(done),
        }
    }

    /// The next slice of a build, at most `rows` rows; or the switch.
    fn build(&mut self, rows: usize) -> Result<Slice, EngineError> {
        if !self.writer.is_building() || !self.shared.tables_are_there() {
            return Ok(Slice::Idle);
        }
        if self.writer.is_built() {
            self.apply(Control::Switch { now: self.shared.now() })?;
            return Ok(Slice::Complete);
        }
        if !self.writer.can_build() {
            return Ok(Slice::Idle);
        }
        let control = match self.writer.can_build_at_once() {
            true => Control::BuildAll,
            false => Control::BuildSlice { rows },
        };
        self.apply(control)?;
        Ok(Slice::More)
    }

    /// Removes some of what is superseded and nobody reads any more, where that is worth it.
    fn compact(&mut self) -> Result<Slice, EngineError> {
        let Some(publication) = self.shared.publication() else { return Ok(Slice::Idle) };
        let Some((source, parameters)) = self.writer.book.due() else { return Ok(Slice::Idle) };
        let until = publication.unread();
        let parameters = parameters.to_string();
        self.apply(Control::Compact(CompactSlice::new(source, parameters, until)))?;
        Ok(Slice::More)
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
        if news.altered > 0 {
            self.shared.altered.send_modify(|count| *count += news.altered);
        }
        if let Some(outcome) = news.copy
            && let Some((_, Some(done))) = self.copy.take()
        {
            let _ = done.send(match outcome {
                CopyOutcome::Entered => Ok(()),
                CopyOutcome::Dropped(why) => Err(why),
            });
        }
        self.shared.set_secret(self.writer.secret());
        self.shared.set_write_base(self.writer.progress().write_base);
        self.shared.share_tables(&self.writer);
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
        let job = self.writer.publication()?;
        self.held = None;
        self.publisher.submit(job)
    }

    /// Whether a publication is under way.
    #[cfg(test)]
    pub fn is_publishing(&self) -> bool {
        !self.publisher.is_idle()
    }

    /// The outcome of the last publication.
    #[cfg(test)]
    pub fn published(&mut self) -> Result<(), EngineError> {
        self.publisher.outcome()
    }

    /// Commits and syncs what waits, before the process ends.
    fn finish_up(&mut self) -> Result<(), EngineError> {
        self.publisher.finish()?;
        self.writer.commit()?;
        self.writer.store.sync()?;
        Ok(())
    }
}

/// Runs the writer; after a failure of the store opens it anew from what is durable. The queue is
/// kept: what it holds of the stream that was is passed over because its beginning is not in it.
pub(crate) fn run(mut sequencer: Sequencer, mut queue: mpsc::Receiver<Event>, shared: Arc<Shared>) {
    loop {
        let Err(error) = sequencer.run(&mut queue) else { return };
        if shared.is_stopping() {
            return;
        }
        tracing::error!(%error, "the writer stops and starts again from the durable state");
        shared.status.lock().store_error = Some(error.to_string());
        metrics::counter!("headwater_writer_restarts_total").increment(1);
        drop(sequencer);
        sequencer = loop {
            std::thread::sleep(RESTART_PAUSE);
            shared.beat.fetch_add(1, Ordering::Relaxed);
            if shared.is_stopping() {
                return;
            }
            let store = shared.options.store.clone();
            let opened = store.reopen().map_err(EngineError::from);
            match opened.and_then(|()| Sequencer::open(store, shared.clone())) {
                Ok(sequencer) => break sequencer,
                Err(error) => {
                    tracing::warn!(%error, "the store cannot be written yet");
                    shared.status.lock().store_error = Some(error.to_string());
                }
            }
        };
        let mut status = shared.status.lock();
        status.store_error = None;
        status.restarts += 1;
        if matches!(status.source, SourceState::Streaming) {
            status.source = SourceState::Connecting;
        }
        drop(status);
        sequencer.publish_anew();
        // What the old writer had in memory is gone; the stream begins again behind the durable
        // state.
        shared.restarts.send_modify(|count| *count += 1);
    }
}

/// Between a failure of the store and the next try.
const RESTART_PAUSE: std::time::Duration = std::time::Duration::from_millis(500);
