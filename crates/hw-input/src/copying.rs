//! Copies: of everything, through the main slot, and of tables that come later, beside the stream.
//!
//! No snapshot is held longer than `max_snapshot`, where that can be helped: what was not read by
//! then is copied beside the stream, in key ranges. A copy of everything for a replica that serves
//! tables holds its snapshot to the end, because all of them must enter in one step.
//!
//! Rows go from the copy's connections to a thread that loads them, in bounded batches; when all are
//! loaded, the engine is told what its tables wait for before they enter.

use crate::context::{Context, Ways};
use crate::copy_session::{CopyBounds, CopyItem, CopySession, ProgressHandle, SlotChoice};
use crate::ended::Ended;
use crate::entry::{Behind, CopiedTable, Reading};
use crate::error::InputError;
use crate::identity::{Found, Identity};
use crate::replica::Turns;
use crate::signal::{CopyDropped, CopySignal, Rows, Signal};
use crate::source::Covered;
use crate::status::{CopyStatus, SourceState};
use hw_pg::catalog::keeps_rows;
use hw_pg::slot::{self, Session};
use hw_types::facts::TableFacts;
use hw_types::{Diagnostic, Lsn, RelationId};
use parking_lot::Mutex;
use std::time::Duration;
use tokio::sync::{mpsc, oneshot, watch};
use tokio::time::Instant;

/// How often the progress of a copy is told.
const TELL: Duration = Duration::from_millis(200);

/// Batches of rows that may wait at each station of their way.
const BATCHES: usize = 16;

/// Copies everything that definitions name under the main slot's snapshot, and waits until it has
/// entered. Returns where the slot begins.
///
/// - Takes: what had happened when the session began, and what happens.
pub(crate) async fn copy_all(
    context: &Context,
    found: &Found,
    (before, mut turns): (Turns, watch::Receiver<Turns>),
) -> Result<Lsn, Ended> {
    context.enter(SourceState::Copying);
    let slot = &found.slot_name;
    let mut begun = begin(context, Some(slot.clone())).await?;
    let covered = cover(context).await?;
    let choice = SlotChoice::Main { name: slot.clone() };
    let report = |blockers: &[Session]| match blockers {
        [] => context.enter(SourceState::Copying),
        _ => context.wait_for(slot::blocked(blockers)),
    };
    let workers = context.options.copy_workers;
    let opened = CopySession::open(&context.source, covered.tables, choice, workers, report);
    let session = begun.while_made(async { Ok(opened.await?) }).await?;
    context.enter(SourceState::Copying);
    let boundary = session.boundary();
    let is_first = context.plan().tables.is_empty();
    let bounds = if is_first { bounds(context) } else { CopyBounds::none() };
    let number = begun.number;
    let reading = begun.unless_dropped(copy(context, number, session.bounded(bounds))).await?;
    let identity = Identity {
        system_id: found.system_id,
        timeline: found.timeline,
        database_oid: found.database_oid,
        slot: slot.clone(),
        slot_mark: boundary,
    };
    loaded(context, number, Behind::Source(identity), reading).await?;
    begun.entered().await?;
    // What was durable before the step may be of another history: the first confirmation is that
    // of the state behind it.
    let mut durable = context.replica.durable();
    tokio::select! {
        reached = durable.wait_for(|end| end.0 == boundary) => drop(reached.map_err(|_| Ended::Stopping)?),
        _ = turns.wait_for(|turns| turns.restarts != before.restarts) => return Err(Ended::Restarted),
    }
    Ok(boundary)
}

/// What came of [`copy_more`].
pub(crate) enum More {
    /// Tables were copied and have entered, or there was nothing to copy.
    Entered,
    /// The publication was not there and was made: what was streamed before may have holes.
    OtherPublication,
}

/// Copies tables that came later, or that must be copied again, beside the running stream.
pub(crate) async fn copy_more(context: &Context) -> Result<More, Ended> {
    let mut begun = begin(context, None).await?;
    let covered = cover(context).await?;
    let known = context.plan().tables.clone();
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
        return Ok(More::OtherPublication);
    }
    if tables.is_empty() {
        context.send(Signal::Copy(CopySignal::Failed)).await?;
        return Ok(More::Entered);
    }
    let names: Vec<String> = tables.iter().map(|t| t.catalog.facts.name.to_string()).collect();
    tracing::info!(tables = %names.join(", "), "tables are copied");
    let mut waits = Waits { context, told: Vec::new() };
    let report = |blockers: &[Session]| waits.tell(blockers);
    let workers = context.options.copy_workers;
    let opened = CopySession::open(&context.source, tables, SlotChoice::Temporary, workers, report);
    let session = begun.while_made(async { Ok(opened.await?) }).await;
    drop(waits);
    let session = session?.bounded(bounds(context));
    let copied: Vec<TableFacts> =
        session.tables().into_iter().map(|table| table.catalog.facts.clone()).collect();
    let number = begun.number;
    let mut reading = begun.unless_dropped(copy(context, number, session)).await?;
    leave_out_untraced(context, &copied, &mut reading).await?;
    let nonce = crate::markers::random();
    loaded(context, number, Behind::Marker(nonce), reading).await?;
    context.markers.mark(nonce).await?;
    // The engine lets them enter when the marker has come back.
    begun.entered().await?;
    context.status.lock().copies.clear();
    Ok(More::Entered)
}

/// Leaves out of a copy the tables of which rows have gone without a trace in the log since its snapshot: what
/// these gave must not come back with it (E-4). They are copied again.
async fn leave_out_untraced(
    context: &Context,
    copied: &[TableFacts],
    reading: &mut Reading,
) -> Result<(), InputError> {
    let client = context.source.client().await?;
    let ids: Vec<RelationId> = copied.iter().map(|facts| facts.id).collect();
    let catalog = context.source.catalog(&client, &[], &ids).await?;
    for was in copied {
        let now = catalog.table_by_id(was.id);
        if !now.is_some_and(|now| keeps_rows(was, &now.facts)) {
            tracing::warn!(
                table = %was.name,
                "rows of the table went without a trace while it was copied; it is copied again"
            );
            reading.left_out.insert(was.id);
        }
    }
    Ok(())
}

/// Publishes tables that are to be copied while another copy is under way, so that the log tells at once
/// what goes in them: who loses access by it does not wait for either copy.
pub(crate) async fn publish(context: &Context) -> Result<(), Ended> {
    let known = context.status.lock().refused.clone();
    let covered = cover(context).await?;
    // What keeps a table out only now, such as somebody's lock.
    let news = covered.refused.iter().filter(|refused| !known.contains(&refused.finding));
    news.for_each(|refused| refused.finding.log());
    match covered.made {
        true => Err(Ended::OtherPublication),
        false => Ok(()),
    }
}

/// Makes the publication send what definitions name. One at a time.
async fn cover(context: &Context) -> Result<Covered, InputError> {
    let _one = context.covering.lock().await;
    let plan = context.plan();
    let mut covered = context.source.cover(&plan.wanted).await?;
    plan.expected(&mut covered.missing);
    context.status.lock().tried(&covered.refused, &covered.missing);
    Ok(covered)
}

/// A copy that cannot begin yet. Nothing is waited for any more when this is dropped.
struct Waits<'a> {
    context: &'a Context,
    /// Whose transactions the log has named.
    told: Vec<Option<u32>>,
}

impl Waits<'_> {
    /// Notes whose transactions are waited for; the log is told when they are others.
    fn tell(&mut self, blockers: &[Session]) {
        let finding = (!blockers.is_empty()).then(|| slot::blocked(blockers));
        let pids: Vec<_> = blockers.iter().map(|session| session.pid).collect();
        if self.told != pids {
            finding.iter().for_each(Diagnostic::log);
            self.told = pids;
        }
        self.context.status.lock().copy_waits = finding.map(Box::new);
    }
}

impl Drop for Waits<'_> {
    fn drop(&mut self) {
        self.context.status.lock().copy_waits = None;
    }
}

/// How long a copy may hold a snapshot, with what was learnt of tables.
fn bounds(context: &Context) -> CopyBounds {
    let ways = context.ways.lock();
    CopyBounds {
        max_snapshot: Some(context.options.max_snapshot),
        ranges: ways.ranges.clone(),
        one_snapshot: ways.one_snapshot.clone(),
    }
}

/// A copy that the engine knows of.
struct Begun<'a> {
    context: &'a Context,
    /// The copy's number.
    number: u64,
    ended: oneshot::Receiver<Result<(), CopyDropped>>,
}

impl Begun<'_> {
    /// Waits until a slot is made, whose end whoever asks for it must see. If the engine throws the copy away
    /// meanwhile, that is told at once: it may take as long as somebody's transaction.
    async fn while_made<T>(
        &mut self,
        part: impl Future<Output = Result<T, Ended>>,
    ) -> Result<T, Ended> {
        let mut part = std::pin::pin!(part);
        let outcome = tokio::select! {
            biased;
            outcome = &mut self.ended => outcome,
            done = &mut part => return done,
        };
        let ended = ended_by(&self.context.ways, outcome).err().unwrap_or(Ended::Restarted);
        if let Some(finding) = ended.starved() {
            self.context.status.lock().copy_starved = Some(Box::new(finding));
        }
        part.await?;
        Err(ended)
    }

    /// Does a part of the copy, unless the engine throws it away meanwhile: then the rest would be in vain.
    async fn unless_dropped<T>(
        &mut self,
        part: impl Future<Output = Result<T, Ended>>,
    ) -> Result<T, Ended> {
        let (ways, ended) = (&self.context.ways, &mut self.ended);
        tokio::select! {
            biased;
            outcome = ended => match ended_by(ways, outcome) {
                // Its tables enter behind all parts.
                Ok(()) => Err(Ended::Restarted),
                Err(ended) => Err(ended),
            },
            done = part => done,
        }
    }

    /// Waits until its tables have entered.
    async fn entered(self) -> Result<(), Ended> {
        ended_by(&self.context.ways, self.ended.await)?;
        self.context.status.lock().copy_starved = None;
        Ok(())
    }
}

/// What came of a copy, and what is learnt of it.
fn ended_by(
    ways: &Mutex<Ways>,
    outcome: Result<Result<(), CopyDropped>, oneshot::error::RecvError>,
) -> Result<(), Ended> {
    match outcome {
        Ok(Ok(())) => Ok(()),
        Ok(Err(dropped)) => {
            ways.lock().one_snapshot.extend(dropped.one_snapshot);
            Err(Ended::CopyDropped(dropped.why))
        }
        Err(_) => Err(Ended::Restarted),
    }
}

/// Lets the engine keep the changes of tables that are not in the replica, from before the
/// publication changes.
async fn begin(context: &Context, whole: Option<String>) -> Result<Begun<'_>, Ended> {
    let ((reply, begun), (done, ended)) = (oneshot::channel(), oneshot::channel());
    let number = context.next_number();
    let begin = CopySignal::Begin { copy: number, whole, reply, ended: done };
    context.send(Signal::Copy(begin)).await?;
    begun.await.map_err(|_| Ended::Restarted)?;
    Ok(Begun { context, number, ended })
}

/// Tells that all rows of a copy are loaded.
async fn loaded(
    context: &Context,
    copy: u64,
    behind: Behind,
    reading: Reading,
) -> Result<(), Ended> {
    context.send(Signal::Copy(CopySignal::Loaded { copy, behind, reading })).await?;
    Ok(())
}

/// Reads a session's tables into their incarnations. Returns how.
async fn copy(context: &Context, number: u64, session: CopySession) -> Result<Reading, Ended> {
    let relations = session.relations();
    let tables = session.tables().into_iter().map(|table| CopiedTable {
        relation: (*table.relation).clone(),
        facts: table.catalog.facts.encode(),
    });
    let (reply, loader) = oneshot::channel();
    let boundary = CopySignal::Boundary {
        copy: number,
        lsn: session.boundary(),
        tables: tables.collect(),
        reply,
    };
    context.send(Signal::Copy(boundary)).await?;
    let loader = loader.await.map_err(|_| Ended::Restarted)?;
    let (sink, mut items) = mpsc::channel::<CopyItem>(BATCHES);
    let (rows, batches) = mpsc::channel::<Rows>(BATCHES);
    let loading = tokio::task::spawn_blocking(move || {
        hw_process::vital_work("the loader of copies", || loader.load(batches))
    });
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
            if told.elapsed() > TELL {
                told = Instant::now();
                tell(context, &progress);
            }
        }
        drop(rows);
    };
    let (read, ()) = tokio::join!(session.run(sink), forward);
    tell(context, &progress);
    // It is cancelled by the end of the runtime alone.
    let loaded = loading.await.map_err(|_| Ended::Stopping)?;
    loaded.map_err(crate::InputError::from)?;
    let read = read?;
    // What took too long is read in ranges the next time.
    context.ways.lock().ranges.extend(&read.left_out);
    Ok(read)
}

fn tell(context: &Context, progress: &ProgressHandle) {
    let copies = progress.tables().into_iter().map(|table| CopyStatus {
        table: table.table,
        rows: table.rows,
        bytes: table.bytes,
        estimate: table.estimated_rows,
        done: table.done,
        range: table.range,
        one_snapshot: table.one_snapshot,
    });
    context.status.lock().copies = copies.collect();
}
