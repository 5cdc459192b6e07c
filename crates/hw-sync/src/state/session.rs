//! One stream: which line comes next.
//!
//! In: [`Event`]s of the driver. Out: [`Effect`]s in the order in which they must be performed.
//! Source: `powersync-protocol.md` 4.7, 7.5; `design/engine.md` 14 (slow readers).
//!
//! ```text
//!            ┌──────────── Newest: nothing changed ───────────┐
//!            ▼                                                │
//!  Asking ─Newest─▶ Between ─Room─▶ Reading ─Page─▶ Between   │
//!    ▲  ▲             │ Room: nothing left = complete         │
//!    │  │             ▼                                       │
//!    │  └── Changed ─ Waiting ◀───────────────────────────────┘
//!    └── Room, when 1000 operations were sent and something changed, or after 60 s
//! ```
//!
//! Invariants: the first line is a `checkpoint`; a checkpoint is completed only when every bucket
//! announced with it has been sent up to it; a partial completion only when every bucket of that
//! priority or a lower number has; a checkpoint older than 60 s is never completed.

use std::collections::HashMap;
use std::time::Duration;

use hw_types::{OpId, Place};

use super::Moment;
use super::bucket::{Announcement, Bucket, Diff, Newest, Totals, replace, update};
use super::timers::{Due, Timers};
use crate::wire::line::{CheckpointHead, StreamLine};

/// From this many operations on a download looks for newer checkpoints between its lines, so that
/// it cannot delay what is fresher and more important (4.7.4).
pub const INTERRUPT_AFTER_OPERATIONS: u64 = 1000;
/// How long a checkpoint may be sent, and how long a line may take (`design/engine.md` 14).
pub const SLOW_AFTER: Duration = Duration::from_secs(60);

/// How much one data line may hold. A connection begins with small lines: one that is slower
/// than that would otherwise never finish its first, and start again for ever.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum PageSize {
    /// The first line of a connection, and every line while memory is short.
    Small,
    /// The next lines.
    Medium,
    /// All further lines.
    Full,
}

impl PageSize {
    /// (operations, bytes of operations) after which a line is closed.
    pub fn limits(self) -> (usize, usize) {
        match self {
            PageSize::Small => (1000, 16 << 10),
            PageSize::Medium => (1000, 64 << 10),
            PageSize::Full => (1000, 256 << 10),
        }
    }
}

/// A data line that is wanted.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRequest {
    /// Index among [`Session::buckets`]. Its totals say up to where to read.
    pub bucket: usize,
    /// Where the client stands.
    pub place: Place,
    /// How much at most.
    pub size: PageSize,
}

/// A data line that was written.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct PageRead {
    /// Where the client stands behind it.
    pub next: Place,
    /// How many it holds.
    pub operations: u64,
    /// Its length on the wire before compression.
    pub bytes: u64,
    /// Whether more follow up to the bucket's totals.
    pub has_more: bool,
}

/// What happened.
#[derive(Clone, Debug)]
pub enum Event {
    /// The answer to [`Effect::AskNewest`].
    Newest(Newest),
    /// The answer to [`Effect::Read`]: the line was written.
    Page(PageRead),
    /// The other answer to [`Effect::Read`]: what was announced can no longer be read, because
    /// another configuration is served, or the bucket was compacted behind it.
    Stale,
    /// The socket takes more bytes.
    Room,
    /// Something that this user's buckets, lookups or write checkpoint depend on was published.
    Changed,
    /// Time passed; the oldest bytes that wait for the socket have done so for `stalled`.
    Tick {
        /// Zero when nothing waits.
        stalled: Duration,
    },
    /// The stream must end for a reason from outside.
    Close(CloseReason),
}

/// What to do.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Effect {
    /// Find out what the newest publication means for this user; answer with [`Event::Newest`].
    AskNewest,
    /// Write a `checkpoint` line of [`Session::head`], [`Session::buckets`], [`Session::streams`].
    Checkpoint,
    /// Write a `checkpoint_diff` line of [`Session::head`] and this.
    Diff(Diff),
    /// Read and write a data line; answer with [`Event::Page`].
    Read(PageRequest),
    /// Write `partial_checkpoint_complete` for this priority.
    PartialComplete(u8),
    /// Write `checkpoint_complete`.
    Complete,
    /// Write `token_expires_in`.
    TokenExpiresIn(i32),
    /// End the response. No effect comes behind this one.
    Close(CloseReason),
}

/// Why a stream ended.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum CloseReason {
    /// The client hung up.
    ClientGone,
    /// The token expired (10.7).
    TokenExpired,
    /// The server is stopping.
    Shutdown,
    /// The set of streams changed, which a diff cannot say (4.2).
    StreamsChanged,
    /// The socket took no line for 60 s.
    SlowReader,
    /// The user's buckets or lookup results passed a limit.
    TooMuch,
    /// The store or the evaluation failed.
    Failed,
}

impl CloseReason {
    /// Whether the response ends as a whole one. Otherwise the connection is cut, which is the
    /// only way left to tell of an error (2.4).
    pub fn is_clean(self) -> bool {
        match self {
            CloseReason::TokenExpired | CloseReason::Shutdown | CloseReason::StreamsChanged => true,
            CloseReason::ClientGone
            | CloseReason::SlowReader
            | CloseReason::TooMuch
            | CloseReason::Failed => false,
        }
    }

    /// For the log.
    pub fn as_str(self) -> &'static str {
        match self {
            CloseReason::ClientGone => "client closed the connection",
            CloseReason::TokenExpired => "token expired",
            CloseReason::Shutdown => "server is stopping",
            CloseReason::StreamsChanged => "set of streams changed",
            CloseReason::SlowReader => "client took no line for 60 s",
            CloseReason::TooMuch => "too many buckets or parameter query results",
            CloseReason::Failed => "internal error",
        }
    }
}

/// What the session waits for.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Phase {
    /// The newest state of this user.
    Asking,
    /// A data line.
    Reading,
    /// The socket, between two lines of a checkpoint.
    Between,
    /// A change; everything announced is complete.
    Waiting,
    /// Nothing any more.
    Closed,
}

/// One stream's protocol state.
#[derive(Debug)]
pub struct Session {
    phase: Phase,
    head: CheckpointHead,
    buckets: Vec<Bucket>,
    streams: Vec<StreamLine>,
    /// What the client brought along; taken at the first checkpoint, because every bucket that
    /// is not in it is deleted by the client.
    resume: Option<HashMap<String, Place>>,
    /// Buckets still to send for this checkpoint, the next one last.
    queue: Vec<u32>,
    /// Priority of the group that is being sent.
    group: Option<u8>,
    /// Whether the announced checkpoint was completed.
    complete: bool,
    /// Whether something was published that may concern this user and was not looked at.
    changed: bool,
    /// Operations sent since the newest state was last looked at.
    operations: u64,
    /// Bytes of data lines sent on this connection.
    bytes: u64,
    /// When the newest state was last looked at: the age of what is being sent.
    looked: Moment,
    /// Least time between two checkpoints.
    pause: Duration,
    timers: Timers,
}

impl Session {
    /// A session that waits for its first [`Event::Newest`].
    ///
    /// - Takes: what the client brought along, and the clock of its token.
    pub fn new(resume: HashMap<String, Place>, timers: Timers) -> Session {
        Session {
            phase: Phase::Asking,
            head: CheckpointHead { op_id: OpId(0), write_checkpoint: None },
            buckets: Vec::new(),
            streams: Vec::new(),
            resume: Some(resume),
            queue: Vec::new(),
            group: None,
            complete: false,
            changed: false,
            operations: 0,
            bytes: 0,
            looked: Moment::ZERO,
            pause: Duration::ZERO,
            timers,
        }
    }

    /// What it waits for.
    pub fn phase(&self) -> Phase {
        self.phase
    }

    /// The announced position.
    pub fn head(&self) -> CheckpointHead {
        self.head
    }

    /// The announced buckets, ascending by name.
    pub fn buckets(&self) -> &[Bucket] {
        &self.buckets
    }

    /// The announced streams.
    pub fn streams(&self) -> &[StreamLine] {
        &self.streams
    }

    /// Sets the least time between two checkpoints of this stream.
    pub fn set_pause(&mut self, pause: Duration) {
        self.pause = pause;
    }

    /// When the next [`Event::Tick`] is due, apart from a stalled socket.
    pub fn deadline(&self) -> Moment {
        let timer = self.timers.next();
        if self.phase == Phase::Waiting && self.changed {
            timer.min(self.looked + self.pause)
        } else {
            timer
        }
    }

    /// Takes one event and appends what it causes.
    pub fn on(&mut self, now: Moment, event: Event, effects: &mut Vec<Effect>) {
        match (self.phase, event) {
            (Phase::Closed, _) => {}
            (_, Event::Close(reason)) => self.close(reason, effects),
            (_, Event::Tick { stalled }) => self.tick(now, stalled, effects),
            (_, Event::Changed) => {
                self.changed = true;
                self.look_if_waiting(now, effects);
            }
            (Phase::Asking, Event::Newest(newest)) => self.announce(now, newest, effects),
            (Phase::Reading, Event::Page(page)) => self.page(page),
            (Phase::Reading, Event::Stale) => self.look(effects),
            (Phase::Between, Event::Room) => self.advance(now, effects),
            // Answers that were not asked for, and room that nobody waits for.
            (Phase::Asking, Event::Page(_) | Event::Stale | Event::Room)
            | (Phase::Reading, Event::Newest(_) | Event::Room)
            | (Phase::Between, Event::Newest(_) | Event::Page(_) | Event::Stale)
            | (Phase::Waiting, Event::Newest(_) | Event::Page(_) | Event::Stale | Event::Room) => {}
        }
    }

    fn close(&mut self, reason: CloseReason, effects: &mut Vec<Effect>) {
        self.phase = Phase::Closed;
        effects.push(Effect::Close(reason));
    }

    fn tick(&mut self, now: Moment, stalled: Duration, effects: &mut Vec<Effect>) {
        match self.timers.due(now) {
            Due::Expired => {
                effects.push(Effect::TokenExpiresIn(0));
                return self.close(CloseReason::TokenExpired, effects);
            }
            // A socket that takes nothing needs no keepalive, and lines would pile up before it.
            Due::Remaining(seconds) if stalled.is_zero() => {
                effects.push(Effect::TokenExpiresIn(seconds));
            }
            Due::Remaining(_) | Due::Nothing => {}
        }
        if stalled >= SLOW_AFTER {
            return self.close(CloseReason::SlowReader, effects);
        }
        self.look_if_waiting(now, effects);
    }

    fn look_if_waiting(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        if self.phase == Phase::Waiting && self.changed && now >= self.looked + self.pause {
            self.look(effects);
        }
    }

    fn look(&mut self, effects: &mut Vec<Effect>) {
        self.changed = false;
        self.phase = Phase::Asking;
        effects.push(Effect::AskNewest);
    }

    fn announce(&mut self, now: Moment, newest: Newest, effects: &mut Vec<Effect>) {
        self.looked = now;
        self.operations = 0;
        if let Some(resume) = self.resume.take() {
            return self.announce_first(resume, newest, effects);
        }
        let (head, diff) = match newest {
            Newest::Resolved(Announcement { head, buckets, streams }) => {
                // Indexes in `subscriptions` point into the list, so its order counts too.
                let same = |a: &StreamLine, b: &StreamLine| {
                    (&a.name, a.is_default) == (&b.name, b.is_default)
                };
                let unchanged = self.streams.len() == streams.len()
                    && self.streams.iter().zip(&streams).all(|(a, b)| same(a, b));
                if !unchanged {
                    return self.close(CloseReason::StreamsChanged, effects);
                }
                (head, replace(&mut self.buckets, buckets))
            }
            Newest::Updated { head, changes } => (head, update(&mut self.buckets, changes)),
        };
        if diff.is_empty() && head.write_checkpoint == self.head.write_checkpoint {
            // Nothing between the announced position and the newest concerns this user, so the
            // announced one is as good as the newest, and may be completed.
            self.phase = if self.complete { Phase::Waiting } else { Phase::Between };
            return;
        }
        self.head = head;
        effects.push(Effect::Diff(diff));
        self.enqueue();
    }

    fn announce_first(
        &mut self,
        resume: HashMap<String, Place>,
        newest: Newest,
        effects: &mut Vec<Effect>,
    ) {
        let Newest::Resolved(Announcement { head, buckets, streams }) = newest else {
            return self.close(CloseReason::Failed, effects);
        };
        self.head = head;
        self.streams = streams;
        self.buckets = buckets;
        for bucket in &mut self.buckets {
            if let Some(&place) = resume.get(&*bucket.name) {
                bucket.place = place;
            }
        }
        effects.push(Effect::Checkpoint);
        self.enqueue();
    }

    /// Queues every bucket with operations left, by priority, and begins the checkpoint.
    fn enqueue(&mut self) {
        let buckets = &self.buckets;
        self.queue.clear();
        self.queue.extend((0..buckets.len() as u32).filter(|&i| buckets[i as usize].unfinished()));
        self.queue.sort_by_key(|&i| std::cmp::Reverse((buckets[i as usize].priority, i)));
        self.group = None;
        self.complete = false;
        self.phase = Phase::Between;
    }

    fn page(&mut self, page: PageRead) {
        self.phase = Phase::Between;
        self.operations += page.operations;
        self.bytes += page.bytes;
        let Some(&index) = self.queue.last() else { return };
        let bucket = &mut self.buckets[index as usize];
        // Nothing of the bucket is left when there is no more, whatever the line ended with.
        let Totals { last_op, checksum, .. } = bucket.totals;
        bucket.place = match page.has_more {
            true => page.next,
            false => Place::complete(last_op, checksum),
        };
    }

    fn advance(&mut self, now: Moment, effects: &mut Vec<Effect>) {
        let interrupt = self.changed && self.operations >= INTERRUPT_AFTER_OPERATIONS;
        if interrupt || now >= self.looked + SLOW_AFTER {
            return self.look(effects);
        }
        while self.queue.last().is_some_and(|&i| !self.buckets[i as usize].unfinished()) {
            self.queue.pop();
        }
        let Some(&index) = self.queue.last() else {
            // A download's queue is not kept by an idle client.
            self.queue = Vec::new();
            self.complete = true;
            self.phase = Phase::Waiting;
            effects.push(Effect::Complete);
            return self.look_if_waiting(now, effects);
        };
        let bucket = &self.buckets[index as usize];
        if let Some(finished) = self.group.replace(bucket.priority)
            && finished != bucket.priority
        {
            effects.push(Effect::PartialComplete(finished));
        }
        self.phase = Phase::Reading;
        effects.push(Effect::Read(PageRequest {
            bucket: index as usize,
            place: bucket.place,
            size: self.page_size(),
        }));
    }

    fn page_size(&self) -> PageSize {
        match self.bytes {
            0..16_384 => PageSize::Small,
            16_384..131_072 => PageSize::Medium,
            _ => PageSize::Full,
        }
    }
}
