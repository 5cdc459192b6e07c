//! The driver: connects the source, decides how to go on, feeds the writer, and copies tables.
//!
//! One task, and a thread for the stream. A session lasts as long as a connection; whatever ends
//! it, the next one begins by comparing the source's identity with the stored one
//! (`design/engine.md` 5), so that a hole in the history is found before anything is streamed.

use crate::engine::{CopyEvent, Event, Shared};
use crate::error::EngineError;
use crate::loader::{Rows, load};
use crate::state::{Record, Text, keys};
use crate::status::{CopyStatus, SourceState};
use crate::watch::{Look, LookError, Watch};
use hw_input::InputError;
use hw_input::copy_session::{CopyItem, CopySession, ProgressHandle, SlotChoice};
use hw_input::entry::{Behind, CopiedTable};
use hw_input::history::{Decision, Epoch, Ours, REMIND, decide, lost_history};
use hw_input::identity::{Identity, Recopy, Stored, Verdict};
use hw_input::source::{Backoff, Covered, Source, SourceOptions};
use hw_input::transactions::{StreamLimits, TransactionStream};
use hw_pg::error::Policy;
use hw_store::Slice;
use hw_types::{Diagnostic, EndLsn, Lsn, OpId, TablePattern};
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex, mpsc, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval};

/// How often the catalog is compared with what definitions name.
const LOOK: Duration = Duration::from_secs(1);

/// A full spool that holds the stream up for so long is named.
const STALLED: Duration = Duration::from_secs(2);

/// How often progress without transactions is passed on.
const PROGRESS: Duration = Duration::from_millis(500);

/// A session's end.
#[derive(Debug, thiserror::Error)]
enum Ended {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error(transparent)]
    Engine(#[from] EngineError),
    #[error("{0}")]
    Refused(Box<Diagnostic>),
    /// The writer started again; the stream must begin behind the durable state.
    #[error("the writer started again")]
    Restarted,
    /// The publication is another one than before.
    #[error("the publication is another one than before")]
    OtherPublication,
    /// The source's history is not the stored one.
    #[error("the source's history moved")]
    Moved,
    /// The catalog could not be compared before the stream.
    #[error("the source's catalog does not answer")]
    Silent,
    /// A copy was thrown away by the writer.
    #[error("a copy begins again: {0}")]
    CopyDropped(String),
    #[error("stopping")]
    Stopping,
}

impl Ended {
    fn diagnostic(&self) -> Diagnostic {
        match self {
            Ended::Input(error) => error.diagnostic(),
            Ended::Refused(finding) => (**finding).clone(),
            Ended::Engine(EngineError::Finding(finding)) => (**finding).clone(),
            other => Diagnostic::error(crate::error::code::SESSION, other.to_string()),
        }
    }
}

/// Runs sessions until the engine stops.
pub(crate) async fn drive(shared: Arc<Shared>) {
    tokio::spawn(tick(shared.clone()));
    let options = SourceOptions {
        publication: shared.options.publication.clone(),
        instance: shared.options.instance.clone(),
        ..SourceOptions::default()
    };
    let source = Source::new(shared.options.connection.clone(), options);
    let mut backoff = Backoff::new();
    let mut stopping = shared.stopping();
    let (mut free_since, mut lost) = (None, None);
    loop {
        shared.source_state(SourceState::Connecting);
        let started = Instant::now();
        let ended = tokio::select! {
            biased;
            _ = stopping.wait_for(|stop| *stop) => return,
            ended = session(&shared, &source, &mut free_since, &mut lost) => ended,
        };
        // A session that ends because everything ends is no failure.
        if shared.is_stopping() {
            return;
        }
        let error = match ended {
            Err(Ended::Stopping) | Ok(()) => return,
            Err(error) => error,
        };
        if let Ended::Input(error) = &error {
            lost = lost_history(error);
        }
        let _ = shared.events.send(Event::Copy(CopyEvent::Failed)).await;
        shared.status.lock().copies.clear();
        if started.elapsed() > Duration::from_secs(30) {
            backoff.reset();
        }
        let quick = matches!(&error, Ended::Restarted | Ended::Moved | Ended::OtherPublication)
            || matches!(&error, Ended::Input(e) if e.policy() == Policy::Retry);
        if let Ended::Refused(finding) = &error
            && finding.code.0 == hw_input::error::code::SLOT_OF_ANOTHER_STORE
        {
            let finding = finding.clone();
            shared.source_state(SourceState::Waiting { finding });
        } else if !quick {
            shared.source_state(SourceState::Failed { finding: Box::new(error.diagnostic()) });
        }
        metrics::counter!("headwater_source_sessions_ended_total").increment(1);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
    }
}

/// Tells the writer once a second that time passes.
async fn tick(shared: Arc<Shared>) {
    let mut stopping = shared.stopping();
    let mut clock = interval(Duration::from_secs(1));
    clock.set_missed_tick_behavior(MissedTickBehavior::Skip);
    loop {
        tokio::select! {
            _ = clock.tick() => {}
            _ = stopping.wait_for(|stop| *stop) => return,
        }
        if shared.events.send(Event::Tick { now: shared.now() }).await.is_err() {
            return;
        }
    }
}

/// A compared copy of everything, through a new slot.
fn compared(reason: Option<Recopy>) -> Verdict {
    let reason = reason.unwrap_or(Recopy::HistoryMoved);
    Verdict::ComparedRecopy { reason, drop_slot: true }
}

/// One session. `free_since` is when this process saw for the first time that nobody uses the slot;
/// `lost` is why the last session's stream could not go on, if that is a matter of history.
async fn session(
    shared: &Arc<Shared>,
    source: &Source,
    free_since: &mut Option<Instant>,
    lost: &mut Option<Recopy>,
) -> Result<(), Ended> {
    let mut restarts = shared.restarts.subscribe();
    restarts.mark_unchanged();
    let look = source.look().await?;
    let slot = look.found.slot_name.clone();
    let others = look.found.memory.is_some_and(|memory| memory.store != shared.store_id());
    shared.status.lock().displaced = others && stored(shared)?.is_some();
    let report = |finding: Diagnostic| {
        shared.source_state(SourceState::Waiting { finding: Box::new(finding) });
    };
    if look.found.slot.as_ref().is_some_and(|slot| slot.active_pid.is_some()) {
        *free_since = None;
    }
    source.wait_for_slot(&slot, report).await?;
    // The slot may have moved while another process used it.
    let look = source.look().await?;
    let found = &look.found;
    let watch = Arc::new(Mutex::new(Watch::default()));
    let confirmed = found.slot.as_ref().and_then(|slot| slot.confirmed_flush);
    let ours = Ours {
        store: shared.store_id(),
        op_id: shared.publication().map_or(OpId(0), |p| p.current().checkpoint.op_id),
        publication: crate::watch::publication(&shared.tables.borrow()),
        made_slot: interrupted(shared, &slot)?,
        watched: free_since.get_or_insert_with(Instant::now).elapsed(),
        take_over: shared.options.take_over,
    };
    let Decision { verdict, epoch } = decide(stored(shared)?.as_ref(), &ours, found);
    let verdict = match verdict {
        // What the log says is stronger than what the slot seems to be.
        Verdict::Stream if lost.is_some() => compared(lost.take()),
        Verdict::Stream if state_value(shared, keys::MOVED)?.is_some() => {
            compared(Some(Recopy::HistoryMoved))
        }
        Verdict::Stream => match watch.lock().await.look(shared, source).await {
            Ok(Look::Complete | Look::Missing) => Verdict::Stream,
            Ok(Look::OtherPublication) => compared(Some(Recopy::OtherPublication)),
            Err(LookError::Input(error)) => return Err(error.into()),
            Err(LookError::Silent) => return Err(Ended::Silent),
            Err(LookError::Stopping) => return Err(Ended::Stopping),
        },
        other => other,
    };
    if let (Epoch::New { above }, false) = (epoch, matches!(verdict, Verdict::Refuse(_))) {
        tracing::info!("clients may know more than this store has; their numbers begin anew");
        send(shared, Event::NewEpoch { above }).await?;
    }
    let confirmed = match verdict {
        Verdict::Stream => confirmed.unwrap_or_default(),
        Verdict::Refuse(finding) => return Err(Ended::Refused(Box::new(finding))),
        Verdict::FirstCopy { drop_slot } => {
            if drop_slot {
                if ours.made_slot {
                    tracing::info!(%slot, "the first copy was interrupted; it begins again");
                } else {
                    tracing::warn!(%slot, "a slot of a store that is gone is dropped; this store is a new epoch");
                }
                source.drop_slot(&slot).await?;
            }
            EndLsn(copy_all(shared, source, &slot, found).await?)
        }
        Verdict::ComparedRecopy { reason, drop_slot } => {
            tracing::error!(%reason, "the source cannot be followed from the stored position; all tables are copied again and compared");
            metrics::counter!("headwater_compared_recopies_total").increment(1);
            if drop_slot {
                source.drop_slot(&slot).await?;
            }
            EndLsn(copy_all(shared, source, &slot, found).await?)
        }
    };
    shared.status.lock().displaced = false;
    let ended = stream(shared, source, watch, slot, confirmed, restarts).await;
    shared.status.lock().copies.clear();
    ended
}

/// Streams on a thread and a runtime of its own, from the socket to the writer's queue. Postgres
/// sends each message of a transaction by itself, so this thread is woken more often than any other;
/// in the server's runtime each time would wake a second one that might help.
///
/// When nobody waits for the outcome any more, the thread says goodbye to the source and ends.
async fn stream(
    shared: &Arc<Shared>,
    source: &Source,
    watch: Arc<Mutex<Watch>>,
    slot: String,
    confirmed: EndLsn,
    mut restarts: watch::Receiver<u64>,
) -> Result<(), Ended> {
    let (shared, source, server) = (shared.clone(), source.clone(), Handle::current());
    let failed = |error| EngineError::Source(format!("start the input's thread: {error}"));
    let runtime = Builder::new_current_thread().enable_all().build().map_err(failed)?;
    let (mut reply, outcome) = oneshot::channel();
    let work = async move {
        let limits =
            StreamLimits { waiting_bytes: shared.queue_bytes(), ..StreamLimits::default() };
        let spool = shared.options.store.spool().clone();
        let outcome = match source.stream(&slot, spool, limits).await {
            Ok(mut stream) => {
                shared.source_state(SourceState::Streaming);
                let beside =
                    Surroundings { source: &source, watch: &watch, slot: &slot, server: &server };
                let outcome = tokio::select! {
                    outcome = follow(&shared, beside, &mut stream, confirmed, &mut restarts) => outcome,
                    () = reply.closed() => Err(Ended::Stopping),
                };
                stream.close().await;
                outcome
            }
            Err(error) => Err(Ended::from(error)),
        };
        let _ = reply.send(outcome);
    };
    let thread = std::thread::Builder::new().name("headwater-input".into());
    thread.spawn(move || runtime.block_on(work)).map_err(failed)?;
    outcome.await.map_err(|_| Ended::Stopping)?
}

/// What the store knows of the source.
fn stored(shared: &Shared) -> Result<Option<Stored>, Ended> {
    let store = &shared.options.store;
    let Some(value) = state_value(shared, keys::IDENTITY)? else { return Ok(None) };
    let tail = store.space("tail").map_err(EngineError::from)?;
    let end_lsn = shared.publication().map_or(EndLsn::default(), |p| p.durable());
    Ok(Some(Stored {
        identity: Identity::decode(&value)?,
        end_lsn,
        tail_start: crate::tail::start(store, &tail)?,
    }))
}

/// Whether this store has begun to copy everything from the slot, and was stopped.
fn interrupted(shared: &Shared, slot: &str) -> Result<bool, Ended> {
    let copying = state_value(shared, keys::COPYING)?;
    let copying = copying.map(|value| Text::decode(&value)).transpose()?;
    Ok(copying.is_some_and(|Text(name)| name == slot))
}

fn state_value(shared: &Shared, key: &[u8]) -> Result<Option<Slice>, EngineError> {
    let store = &shared.options.store;
    Ok(store.get(&store.space("state")?, key)?)
}

/// Copies everything that definitions name under the main slot's snapshot, and waits until it has
/// entered. Returns where the slot begins.
async fn copy_all(
    shared: &Arc<Shared>,
    source: &Source,
    slot: &str,
    found: &hw_input::identity::Found,
) -> Result<Lsn, Ended> {
    shared.source_state(SourceState::Copying);
    let patterns = patterns(shared);
    let number = begin(shared, Some(slot.to_owned())).await?;
    let covered = source.cover(&patterns).await?;
    shared.status.lock().refused = findings(&covered);
    let choice = SlotChoice::Main { name: slot.to_owned() };
    let report = |finding: Diagnostic| {
        shared.source_state(SourceState::Waiting { finding: Box::new(finding) });
    };
    let workers = shared.options.copy_workers;
    let session = CopySession::open(source, covered.tables, choice, workers, report).await?;
    shared.source_state(SourceState::Copying);
    let boundary = session.boundary();
    copy(shared, number, session).await?;
    let identity = Identity {
        system_id: found.system_id,
        timeline: found.timeline,
        database_oid: found.database_oid,
        slot: slot.to_owned(),
        slot_mark: boundary,
    };
    loaded(shared, number, Behind::Source(identity)).await?.await?;
    // What was durable before the step may be of another history: the first acknowledgement is
    // that of the state behind it.
    let mut restarts = shared.restarts.subscribe();
    let mut durable = shared.publication().ok_or(Ended::Stopping)?.watch_durable();
    tokio::select! {
        reached = durable.wait_for(|end| end.0 == boundary) => drop(reached.map_err(|_| Ended::Stopping)?),
        _ = restarts.changed() => return Err(Ended::Restarted),
    }
    Ok(boundary)
}

async fn send(shared: &Shared, event: Event) -> Result<(), Ended> {
    shared.events.send(event).await.map_err(|_| Ended::Stopping)
}

/// Lets the writer keep the changes of tables that are not in the replica, from before the
/// publication changes. Returns the copy's number.
async fn begin(shared: &Shared, whole: Option<String>) -> Result<u64, Ended> {
    let (reply, begun) = oneshot::channel();
    send(shared, Event::Copy(CopyEvent::Begin { whole, reply })).await?;
    begun.await.map_err(|_| Ended::Restarted)
}

/// Tells that all rows of a copy are loaded. What is returned waits until its tables have entered;
/// it ends with the copy, whatever ends that.
async fn loaded(
    shared: &Shared,
    copy: u64,
    behind: Behind,
) -> Result<impl Future<Output = Result<(), Ended>> + use<>, Ended> {
    let (done, outcome) = oneshot::channel();
    send(shared, Event::Copy(CopyEvent::Loaded { copy, behind, done })).await?;
    Ok(async move {
        match outcome.await {
            Ok(Ok(())) => Ok(()),
            Ok(Err(why)) => Err(Ended::CopyDropped(why)),
            Err(_) => Err(Ended::Restarted),
        }
    })
}

/// Reads a session's tables into their incarnations.
async fn copy(shared: &Arc<Shared>, number: u64, session: CopySession) -> Result<(), Ended> {
    let relations = session.relations();
    let tables = session.tables().into_iter().map(|table| CopiedTable {
        relation: (*table.relation).clone(),
        facts: table.catalog.facts.encode(),
    });
    let (reply, targets) = oneshot::channel();
    let boundary = CopyEvent::Boundary {
        copy: number,
        lsn: session.boundary(),
        tables: tables.collect(),
        reply,
    };
    send(shared, Event::Copy(boundary)).await?;
    let targets = targets.await.map_err(|_| Ended::Restarted)?;
    let (sink, mut items) = mpsc::channel::<CopyItem>(16);
    let (rows, batches) = mpsc::channel::<Rows>(16);
    let store = shared.options.store.clone();
    let sort_bytes = shared.options.sort_bytes;
    let loader = tokio::task::spawn_blocking(move || load(&store, targets, sort_bytes, batches));
    let progress = session.progress();
    let forward = async {
        let mut told = Instant::now();
        while let Some(item) = items.recv().await {
            let batch = match item {
                CopyItem::Rows { table, rows, .. } => {
                    metrics::counter!("headwater_rows_copied_total").increment(rows.len() as u64);
                    Rows { relation: relations[table].id, rows, last: false }
                }
                CopyItem::TableDone { table, .. } => {
                    Rows { relation: relations[table].id, rows: Vec::new(), last: true }
                }
            };
            if rows.send(batch).await.is_err() {
                // The loader has failed and says why.
                return;
            }
            if told.elapsed() > Duration::from_millis(200) {
                told = Instant::now();
                tell(shared, &progress);
            }
        }
        drop(rows);
    };
    let (read, ()) = tokio::join!(session.run(sink), forward);
    tell(shared, &progress);
    let loaded = loader.await.map_err(|_| Ended::Stopping)?;
    loaded?;
    Ok(read?)
}

fn tell(shared: &Shared, progress: &ProgressHandle) {
    let copies = progress.tables().into_iter().map(|table| CopyStatus {
        table: table.table,
        rows: table.rows,
        bytes: table.bytes,
        estimate: table.estimated_rows,
        done: table.done,
    });
    shared.status.lock().copies = copies.collect();
}

/// What the work beside the stream needs: it is done in the runtime of the server.
struct Surroundings<'a> {
    source: &'a Source,
    watch: &'a Arc<Mutex<Watch>>,
    slot: &'a str,
    server: &'a Handle,
}

/// Passes the stream on to the writer, and looks for tables to copy beside it.
async fn follow(
    shared: &Arc<Shared>,
    surroundings: Surroundings<'_>,
    stream: &mut TransactionStream,
    confirmed: EndLsn,
    restarts: &mut watch::Receiver<u64>,
) -> Result<(), Ended> {
    use hw_input::transactions::Item;
    let Surroundings { source, watch, slot, server } = surroundings;
    let session = shared.next_number();
    let acknowledger = Some(stream.acknowledger());
    send(shared, Event::Begins { session, confirmed, acknowledger }).await?;
    let mut moved = shared.moved.subscribe();
    let mut wanted = shared.wanted.subscribe();
    let mut tables = shared.tables.subscribe();
    let mut altered = shared.altered.subscribe();
    let mut clock = interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A look at the catalog or a copy, one at a time, beside the stream. Aborted when the session
    // ends.
    let mut beside: JoinSet<Result<Beside, Ended>> = JoinSet::new();
    // Pauses between copies that fail, so that what a person must mend is not said every second.
    let mut patience = Backoff::new();
    let mut again_at = Instant::now();
    let mut reminders = interval(REMIND);
    reminders.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut look = true;
    let mut progressed: Option<EndLsn> = None;
    let mut passed_on = Instant::now();
    let status = stream.status();
    loop {
        tokio::select! {
            item = stream.recv() => {
                match item? {
                    Item::Progress(end) => progressed = Some(end),
                    item => {
                        progressed = None;
                        shared.hand_over(session, item).await?;
                    }
                }
            }
            changed = restarts.changed() => {
                changed.map_err(|_| Ended::Stopping)?;
                return Err(Ended::Restarted);
            }
            changed = moved.changed() => {
                changed.map_err(|_| Ended::Stopping)?;
                return Err(Ended::Moved);
            }
            changed = wanted.changed() => look = changed.map(|()| true).map_err(|_| Ended::Stopping)?,
            changed = tables.changed() => look = changed.map(|()| true).map_err(|_| Ended::Stopping)?,
            changed = altered.changed() => look = changed.map(|()| true).map_err(|_| Ended::Stopping)?,
            _ = reminders.tick() => {
                let (shared, source, slot) = (shared.clone(), source.clone(), slot.to_owned());
                beside.spawn_on(async move { remember(&shared, &source, &slot).await }, server);
            }
            _ = clock.tick() => {
                let positions = status.status().positions;
                let stalled = status.status().spool_full_for >= STALLED;
                let mut status = shared.status.lock();
                status.stalled = stalled.then(|| {
                    "a transaction does not fit into limits.spool_bytes, and the stream waits; \
                     raise it"
                        .to_owned()
                });
                status.source_end = status.source_end.max(positions.received);
                status.heard_at = shared.now().saturating_sub(positions.silent_for.as_secs());
                look = true;
            }
            Some(outcome) = beside.join_next() => {
                let died = |error: JoinError| match error.is_cancelled() {
                    // By the end of the server's runtime: this thread is about to end as well.
                    true => Ended::Stopping,
                    false => EngineError::Source(format!("work beside the stream: {error}")).into(),
                };
                match outcome.unwrap_or_else(|error| Err(died(error))) {
                    Ok(Beside::Looked(Look::Complete) | Beside::Reminded) => {}
                    Ok(Beside::Looked(Look::OtherPublication)) => {
                        return Err(Ended::OtherPublication);
                    }
                    Ok(Beside::Looked(Look::Missing)) => {
                        let (shared, source) = (shared.clone(), source.clone());
                        beside.spawn_on(async move { copy_more(&shared, &source).await }, server);
                    }
                    Ok(Beside::Copied) => {
                        patience.reset();
                        look = true;
                    }
                    Err(error @ (Ended::Stopping | Ended::OtherPublication)) => return Err(error),
                    Err(error) => {
                        again_at = Instant::now() + patience.next_wait();
                        // A copy that fails starts again by itself; the stream goes on.
                        error.diagnostic().log();
                        send(shared, Event::Copy(CopyEvent::Failed)).await?;
                    }
                }
            }
        }
        if let Some(end) = progressed
            && passed_on.elapsed() > PROGRESS
        {
            progressed = None;
            passed_on = Instant::now();
            shared.hand_over(session, Item::Progress(end)).await?;
        }
        if look && beside.is_empty() && Instant::now() >= again_at {
            look = false;
            let (shared, source, watch) = (shared.clone(), source.clone(), watch.clone());
            let slot = slot.to_owned();
            beside.spawn_on(
                async move { look_at_catalog(&watch, &shared, &source, &slot).await },
                server,
            );
        }
    }
}

/// What came of work beside the stream.
enum Beside {
    /// A look at the catalog.
    Looked(Look),
    /// Tables were copied.
    Copied,
    /// The source knows that this store uses the slot.
    Reminded,
}

/// The patterns of all definitions.
fn patterns(shared: &Shared) -> Arc<Vec<TablePattern>> {
    shared.wanted.borrow().clone()
}

/// The findings of a cover, for status.
fn findings(covered: &Covered) -> Vec<Diagnostic> {
    let refused = covered.refused.iter().chain(&covered.missing);
    refused.map(|refused| refused.finding.clone()).collect()
}

/// Lets the source remember this store. One that cannot is told with the next reminder.
async fn remember(shared: &Shared, source: &Source, slot: &str) -> Result<Beside, Ended> {
    let op_id = shared.publication().map_or(OpId(0), |p| p.current().checkpoint.op_id);
    if let Err(error) = source.remember(slot, shared.store_id(), op_id).await {
        tracing::debug!(%error, "the source was not reminded of this store");
    }
    Ok(Beside::Reminded)
}

/// Looks at the catalog. One that fails or does not answer is no reason to end a stream that is
/// well.
async fn look_at_catalog(
    watch: &Mutex<Watch>,
    shared: &Shared,
    source: &Source,
    slot: &str,
) -> Result<Beside, Ended> {
    let mut watch = watch.lock().await;
    let outcome = watch.look(shared, source).await;
    if let Some(bytes) = watch.retained(slot).await {
        shared.status.lock().retained_bytes = bytes;
    }
    match outcome {
        Ok(look) => Ok(Beside::Looked(look)),
        Err(LookError::Stopping) => Err(Ended::Stopping),
        Err(error) => {
            tracing::debug!(%error, "the catalog could not be read; the next look asks again");
            Ok(Beside::Looked(Look::Complete))
        }
    }
}

/// Copies tables that came later, or that must be copied again, beside the running stream.
async fn copy_more(shared: &Arc<Shared>, source: &Source) -> Result<Beside, Ended> {
    let number = begin(shared, None).await?;
    let covered = source.cover(&patterns(shared)).await?;
    shared.status.lock().refused = findings(&covered);
    let known = shared.tables.borrow().clone();
    let tables: Vec<_> = covered
        .tables
        .into_iter()
        .filter(|table| {
            let facts = &table.catalog.facts;
            let entered = known.get(&facts.id);
            !entered.is_some_and(|t| !t.stale && t.relation.name == facts.name)
        })
        .collect();
    if covered.made && !known.is_empty() {
        return Err(Ended::OtherPublication);
    }
    if tables.is_empty() {
        send(shared, Event::Copy(CopyEvent::Failed)).await?;
        return Ok(Beside::Copied);
    }
    let names: Vec<String> = tables.iter().map(|t| t.catalog.facts.name.to_string()).collect();
    tracing::info!(tables = %names.join(", "), "tables are copied");
    let report = |finding: Diagnostic| finding.log();
    let workers = shared.options.copy_workers;
    let session = CopySession::open(source, tables, SlotChoice::Temporary, workers, report).await?;
    copy(shared, number, session).await?;
    let nonce = crate::markers::random();
    let entered = loaded(shared, number, Behind::Marker(nonce)).await?;
    shared.markers.mark(nonce).await?;
    // The writer lets them enter when the marker has come back.
    entered.await?;
    shared.status.lock().copies.clear();
    Ok(Beside::Copied)
}
