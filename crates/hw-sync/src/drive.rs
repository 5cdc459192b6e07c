//! One task per stream: performs the session's effects and reports back.
//!
//! In: wake-ups, pages, room at the socket, time. Out: chunks for the [`Outbox`]. All decisions
//! are the session's; what is decided here is only what is read inline and what is not, and how
//! lines become chunks. Invariant: no [`View`] is held across a wait for a socket.

use std::hash::BuildHasher;
use std::sync::Arc;
use std::time::Duration;

use hw_http::budget::Share;
use hw_http::outbox::Outbox;
use hw_http::socket::ConnectionHandle;
use hw_types::Place;
use tokio::time::Instant;

use crate::burst::Burst;
use crate::hub::Listener;
use crate::open::{Ready, resolve};
use crate::page::{KindCounts, Page, PageKey};
use crate::shared::SyncState;
use crate::source::{
    Asker, Before, Changes, Cost, Difference, Interest, Known, ResolveError, Source, SourceError,
    Version, View,
};
use crate::state::bucket::{Bucket, BucketChanges, Newest, Totals, exchange};
use crate::state::session::{
    CloseReason, Effect, Event, PageRequest, PageSize, Phase, SLOW_AFTER, Session,
};
use crate::state::timers::Timers;
use crate::telemetry::OpenStream;
use crate::wire::line::{CheckpointHead, DataForm};
use crate::wire::ndjson;
use crate::wire::negotiate::ContentCoding;

/// Plain bytes that are collected before they are handed to the socket.
const BURST: usize = 64 * 1024;
/// Reads of at most this many operations are done inline: they take less than a thread change.
const INLINE_OPERATIONS: u64 = 256;
/// Buckets up to which a user is resolved inline when a lookup changed.
const INLINE_BUCKETS: usize = 32;
/// Inline reads between two yields to the other streams of the thread.
const READS_PER_TURN: u32 = 16;
/// How long a stream that ended waits for its socket to take the end.
const LINGER: Duration = Duration::from_secs(1);

/// How a stream is written and accounted.
pub(crate) struct Transport {
    pub outbox: Outbox,
    pub coding: ContentCoding,
    pub cut: Option<ConnectionHandle>,
    pub permit: OpenStream,
}

/// Runs a stream to its end.
pub(crate) async fn run<S: Source>(
    state: SyncState<S>,
    ready: Ready<S::View>,
    transport: Transport,
) {
    let Ready {
        asker,
        resume,
        form,
        token_remaining,
        first,
        number,
        version,
        cost,
        lease,
        listener,
        memory,
    } = ready;
    let seed = foldhash::fast::RandomState::default().hash_one(&asker.user_key);
    let mut driver = Driver {
        session: Session::new(resume, Timers::new(token_remaining, seed)),
        asker,
        form,
        listener,
        told: false,
        seen: number,
        version,
        cost,
        lease: Some(lease),
        stale: false,
        burst: Burst::new(transport.coding),
        outbox: transport.outbox,
        cut: transport.cut,
        started: Instant::now(),
        counts: Counts::default(),
        _permit: transport.permit,
        _memory: memory,
        state,
    };
    let reason = driver.run(Newest::Resolved(first)).await;
    driver.end(reason).await;
}

struct Driver<S: Source> {
    state: SyncState<S>,
    session: Session,
    asker: Arc<Asker>,
    form: DataForm,
    /// Leaves the index when dropped.
    listener: Listener<S::View>,
    /// Whether the session knows that the bell was rung.
    told: bool,
    /// Number of the publication that was last looked at.
    seen: u64,
    /// Version of the configuration that the session's buckets come from.
    version: Version,
    /// What they take of the user's bounds.
    cost: Cost,
    /// Keeps readable what is being sent; `None` while nothing is.
    lease: Option<<S::View as View>::Lease>,
    /// Whether the session's buckets can no longer be read and must be resolved anew.
    stale: bool,
    outbox: Outbox,
    burst: Burst,
    cut: Option<ConnectionHandle>,
    started: Instant,
    counts: Counts,
    _permit: OpenStream,
    _memory: Share,
}

#[derive(Default)]
struct Counts {
    operations: u64,
    kinds: KindCounts,
    checkpoints: u64,
    inline_reads: u32,
    /// Totals of the burst that the metrics have been told.
    plain_bytes: u64,
    sent_bytes: u64,
}

/// Why a page could not be read.
enum ReadError {
    /// Another configuration is served, or another incarnation of the bucket.
    Stale,
    /// The bucket was compacted behind what was announced.
    Passed,
    Failed(SourceError),
}

impl From<SourceError> for ReadError {
    fn from(error: SourceError) -> ReadError {
        ReadError::Failed(error)
    }
}

impl<S: Source> Driver<S> {
    async fn run(&mut self, first: Newest) -> CloseReason {
        let mut effects = Vec::new();
        // A token inside the tolerance ends the stream before anything is announced (10.7).
        let mut events =
            vec![Event::Tick { stalled: Duration::ZERO }, Event::Newest(first)].into_iter();
        let mut answer = events.next();
        loop {
            let event = match answer.take().or_else(|| events.next()) {
                Some(event) => event,
                None => self.next_event().await,
            };
            self.session.on(self.now(), event, &mut effects);
            for effect in effects.drain(..) {
                match effect {
                    Effect::AskNewest => answer = Some(self.newest().await),
                    Effect::Read(request) => answer = Some(self.read(request).await),
                    Effect::Close(reason) => return reason,
                    line => self.write(&line),
                }
            }
            if self.session.phase() == Phase::Waiting {
                self.lease = None;
                if effects.capacity() > 8 {
                    effects = Vec::new();
                }
            }
        }
    }

    fn now(&self) -> Duration {
        self.started.elapsed()
    }

    /// Encodes an effect that is a line.
    fn write(&mut self, effect: &Effect) {
        let session = &self.session;
        let head = session.head();
        match effect {
            Effect::Checkpoint => {
                self.counts.checkpoints += 1;
                self.state.metrics.checkpoints.increment(1);
                let buckets = session.buckets().iter().map(Bucket::line);
                self.burst.own(|out| ndjson::checkpoint(out, head, buckets, session.streams()));
                tracing::debug!(
                    user = self.asker.user_key,
                    buckets = session.buckets().len(),
                    op_id = head.op_id.0,
                    "New checkpoint"
                );
            }
            Effect::Diff(diff) => {
                self.counts.checkpoints += 1;
                self.state.metrics.checkpoints.increment(1);
                let updated = diff.updated.iter().map(|&index| session.buckets()[index].line());
                let removed = diff.removed.iter().map(|name| &**name);
                self.burst.own(|out| ndjson::checkpoint_diff(out, head, updated, removed));
                tracing::debug!(
                    user = self.asker.user_key,
                    updated = diff.updated.len(),
                    removed = diff.removed.len(),
                    op_id = head.op_id.0,
                    "Updated checkpoint"
                );
            }
            Effect::PartialComplete(priority) => self
                .burst
                .own(|out| ndjson::partial_checkpoint_complete(out, head.op_id, *priority)),
            Effect::Complete => {
                self.burst.own(|out| ndjson::checkpoint_complete(out, head.op_id));
            }
            Effect::TokenExpiresIn(seconds) => {
                self.burst.own(|out| ndjson::token_expires_in(out, *seconds));
            }
            Effect::AskNewest | Effect::Read(_) | Effect::Close(_) => {}
        }
    }

    /// What happens next when no answer is due.
    async fn next_event(&mut self) -> Event {
        if self.state.stop.is_cancelled() {
            return Event::Close(CloseReason::Shutdown);
        }
        if self.now() >= self.session.deadline() {
            return Event::Tick { stalled: self.outbox.stalled() };
        }
        if !self.told && self.listener.bell().is_rung() {
            self.told = true;
            return Event::Changed;
        }
        if self.session.phase() == Phase::Between {
            if self.burst.pending() < BURST {
                return Event::Room;
            }
            self.flush();
            if self.outbox.is_gone() {
                return Event::Close(self.why_gone());
            }
            if self.outbox.has_room() {
                return Event::Room;
            }
        } else {
            self.flush();
        }
        self.wait().await
    }

    /// Waits for the socket between two lines, for a change behind the last one.
    async fn wait(&mut self) -> Event {
        let between = self.session.phase() == Phase::Between;
        let stalled = self.outbox.stalled();
        let mut deadline = self.session.deadline();
        if !stalled.is_zero() || between {
            deadline = deadline.min(self.now() + SLOW_AFTER.saturating_sub(stalled));
        }
        tokio::select! {
            biased;
            () = self.state.stop.cancelled() => Event::Close(CloseReason::Shutdown),
            () = self.outbox.room_or_gone(between) => {
                if self.outbox.is_gone() {
                    Event::Close(self.why_gone())
                } else {
                    Event::Room
                }
            }
            () = self.listener.bell().rung(), if !self.told => {
                self.told = true;
                Event::Changed
            }
            () = tokio::time::sleep_until(self.started + deadline) => {
                Event::Tick { stalled: self.outbox.stalled() }
            }
        }
    }

    /// Who ended the connection: the client, or the listener, because the client took nothing.
    fn why_gone(&self) -> CloseReason {
        match &self.cut {
            Some(cut) if cut.is_cut() => CloseReason::SlowReader,
            _ => CloseReason::ClientGone,
        }
    }

    fn flush(&mut self) {
        self.burst.flush(&self.outbox);
        let (plain, sent) = self.burst.totals();
        self.state.metrics.bytes.increment(plain - self.counts.plain_bytes);
        self.state.metrics.sent_bytes.increment(sent - self.counts.sent_bytes);
        (self.counts.plain_bytes, self.counts.sent_bytes) = (plain, sent);
    }

    /// Finds out what the newest publication means for this user.
    async fn newest(&mut self) -> Event {
        self.told = false;
        self.session.set_pause(self.state.pause());
        // Everything up to here has been dispatched, so a silent bell means that nothing up to
        // here concerns this stream. (Asked in this order: a ring may come in between.)
        let dispatched = self.state.hub.dispatched();
        let first = self.listener.bell().heard();
        let looked = first.map_or(dispatched, |first| first - 1).max(self.seen);
        match self.look(looked).await {
            Ok(newest) => Event::Newest(newest),
            Err(ResolveError::TooMuch { description, details }) => {
                self.state.metrics.too_much(&self.asker.user_key, &description, &details);
                Event::Close(CloseReason::TooMuch)
            }
            Err(ResolveError::NoConfig) => Event::Close(CloseReason::StreamsChanged),
            Err(ResolveError::Failed(error)) => {
                error.log(&self.asker.user_key, "read a checkpoint");
                Event::Close(CloseReason::Failed)
            }
        }
    }

    async fn look(&mut self, looked: u64) -> Result<Newest, ResolveError> {
        let view = self.state.source.newest();
        self.lease = Some(view.lease());
        let (number, version) = (view.number(), view.version().ok_or(ResolveError::NoConfig)?);
        let changes = view.changes_since(looked);
        let interest = self.listener.interest();
        let is_moved = interest.lookups.iter().any(|&key| changes.lookup(key));
        let is_another = self.stale || version != self.version || changes.everything();
        let resolve_anew =
            is_another || (view.stands_still() && changes.user(&self.asker.user_key));
        self.seen = number;
        // What an expression that failed kept away may come with any entry.
        let has_failed = || self.session.streams().iter().any(|stream| !stream.errors.is_empty());
        let moved = match is_moved {
            false => Some(Difference::none(self.cost)),
            true if resolve_anew || has_failed() => None,
            true => {
                let before = Before { buckets: self.session.buckets(), cost: self.cost };
                view.difference(&self.asker, &self.state.options.user, before, &changes)?
            }
        };
        let Some(moved) = moved.filter(|_| !resolve_anew) else {
            // A change of one membership reads that one's bucket, not all of the user's.
            let known = if is_another {
                Vec::new()
            } else {
                let buckets = self.session.buckets().iter().zip(&interest.buckets);
                let unchanged = buckets.filter(|(_, key)| !changes.bucket(**key));
                unchanged
                    .map(|(bucket, _)| Known { name: bucket.name.clone(), totals: bucket.totals })
                    .collect()
            };
            drop(changes);
            let resolved = if self.session.buckets().len() <= INLINE_BUCKETS {
                view.resolve(&self.asker, &self.state.options.user, &known)?
            } else {
                resolve(&self.state, view, self.asker.clone(), known).await?
            };
            self.listener.attend(number, resolved.interest);
            self.version = version;
            self.cost = resolved.cost;
            self.stale = false;
            return Ok(Newest::Resolved(resolved.announcement));
        };
        let Difference { went, came, keys, cost } = moved;
        let mut totals = Vec::new();
        // The keys stand in the order of the announced buckets.
        for (index, &key) in interest.buckets.iter().enumerate() {
            if changes.bucket(key) && went.binary_search(&index).is_err() {
                let bucket = &self.session.buckets()[index];
                totals.push((index, self.state.totals(&view, bucket)?));
            }
        }
        let write_checkpoint = if changes.user(&self.asker.user_key) {
            view.write_checkpoint(&self.asker.user_key)?
        } else {
            self.session.head().write_checkpoint
        };
        if !went.is_empty() || !came.is_empty() {
            let keys = came.iter().map(|(before, _)| *before).zip(keys);
            let Interest { buckets, lookups } = interest.clone();
            let buckets = exchange(buckets, &went, keys);
            self.listener.attend(number, Interest { buckets, lookups });
        }
        self.cost = cost;
        Ok(Newest::Updated {
            head: CheckpointHead { op_id: view.op_id(), write_checkpoint },
            changes: BucketChanges { totals, went, came },
        })
    }

    /// Reads a data line, or finds it made already, and appends it.
    async fn read(&mut self, mut request: PageRequest) -> Event {
        if self.state.budget.is_short() {
            request.size = PageSize::Small;
        }
        match self.page(&request).await {
            Ok(page) => {
                self.burst.page(&page);
                let summary = page.summary();
                self.counts.operations += summary.operations;
                self.counts.kinds.add(page.kinds());
                self.state.metrics.operations.increment(summary.operations);
                Event::Page(summary)
            }
            Err(ReadError::Stale) => {
                self.stale = true;
                Event::Stale
            }
            Err(ReadError::Passed) => Event::Stale,
            Err(ReadError::Failed(error)) => {
                error.log(&self.asker.user_key, "read operations");
                Event::Close(CloseReason::Failed)
            }
        }
    }

    async fn page(&mut self, request: &PageRequest) -> Result<Arc<Page>, ReadError> {
        let bucket = &self.session.buckets()[request.bucket];
        let key = PageKey::new(self.version, bucket, request, self.form);
        let gzip = self.burst.is_compressed();
        let left = left(bucket, request.place);
        if left <= INLINE_OPERATIONS {
            self.counts.inline_reads += 1;
            if self.counts.inline_reads.is_multiple_of(READS_PER_TURN) {
                tokio::task::yield_now().await;
            }
        }
        let job = PageJob {
            state: &self.state,
            user: &self.asker.user,
            version: self.version,
            bucket,
            request,
            form: self.form,
        };
        let read = || job.read(left > INLINE_OPERATIONS, gzip);
        let page = match key {
            Some(key) => self.state.cache.page(key, read).await?,
            None => read().await?,
        };
        if gzip && page.plain().len() > BURST && !page.has_block() {
            // Made by a client that takes no gzip.
            let page = page.clone();
            let _ = tokio::task::spawn_blocking(move || {
                page.block();
            })
            .await;
        }
        Ok(page)
    }

    /// Ends the response, and says in the log what it was.
    async fn end(mut self, reason: CloseReason) {
        if reason.is_clean() {
            self.burst.finish(&self.outbox);
            self.flush();
            self.outbox.finish();
        } else {
            self.flush();
            self.outbox.cut();
        }
        if reason == CloseReason::SlowReader {
            self.state.metrics.slow_readers.increment(1);
        }
        let kinds = self.counts.kinds;
        let told = self.state.metrics.tells_end(std::time::Instant::now());
        if let Some(left_out) = told {
            tracing::info!(
                user = self.asker.user_key,
                operations_synced = self.counts.operations,
                data_synced_bytes = self.counts.plain_bytes,
                data_sent_bytes = self.counts.sent_bytes,
                put = kinds.put,
                remove = kinds.remove,
                r#move = kinds.moved,
                clear = kinds.clear,
                checkpoints = self.counts.checkpoints,
                buckets = self.session.buckets().len(),
                encoding = if self.burst.is_compressed() { "gzip" } else { "identity" },
                stream_ms = self.started.elapsed().as_millis() as u64,
                close_reason = reason.as_str(),
                left_out = (left_out > 0).then_some(left_out),
                "Sync stream complete"
            );
        }
        let Driver { outbox, cut, .. } = self;
        if tokio::time::timeout(LINGER, outbox.ended()).await.is_err()
            && let Some(cut) = cut
        {
            cut.cut();
        }
    }
}

/// At most so many operations are walked to read a bucket behind a place.
fn left(bucket: &Bucket, place: Place) -> u64 {
    let Totals { count, last_op, .. } = bucket.totals;
    match place.sum {
        // The log's length bounds them, and the numbers between.
        Some(_) => count.min(last_op.0.saturating_sub(place.after.0)),
        // A place that a client brought may be known no longer: then all of the log is read.
        None => count,
    }
}

/// One read of a data line.
struct PageJob<'a, S: Source> {
    state: &'a SyncState<S>,
    user: &'a str,
    version: Version,
    bucket: &'a Bucket,
    request: &'a PageRequest,
    form: DataForm,
}

impl<S: Source> PageJob<'_, S> {
    async fn read(self, long: bool, gzip: bool) -> Result<Arc<Page>, ReadError> {
        let PageJob { state, user, version, bucket, request, form } = self;
        if !long {
            return read_now(state, version, bucket, request, form);
        }
        let _place = state.reads.wait(user).await;
        let (state, bucket, request) = (state.clone(), bucket.clone(), *request);
        let work = move || {
            let page = read_now(&state, version, &bucket, &request, form)?;
            if gzip {
                page.block();
            }
            Ok(page)
        };
        tokio::task::spawn_blocking(work).await.unwrap_or_else(|_| {
            Err(ReadError::Failed(SourceError("reading operations panicked".into())))
        })
    }
}

/// Reads from the newest view: the announced one may be long gone. The bucket's totals bound
/// what is read.
fn read_now<S: Source>(
    state: &SyncState<S>,
    version: Version,
    bucket: &Bucket,
    request: &PageRequest,
    form: DataForm,
) -> Result<Arc<Page>, ReadError> {
    let view = state.source.newest();
    if view.version() != Some(version) || !view.serves_name(&bucket.name) {
        return Err(ReadError::Stale);
    }
    let page = Page::read(&*view, bucket, request, form, &state.budget)?;
    page.map(Arc::new).ok_or(ReadError::Passed)
}
