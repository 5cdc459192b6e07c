//! One session with the source: looks, decides how to go on, copies everything where that must be,
//! and follows the stream until something ends it.

use crate::context::{Context, PATIENCE};
use crate::copying::copy_all;
use crate::ended::Ended;
use crate::following::{Following, confirm, follow};
use crate::history::{Epoch, Ours, Rest, TakeOver, decide, held};
use crate::identity::{Found, Recopy, Verdict};
use crate::reminders::{Reminded, keep_reminding, remind};
use crate::replica::{Kept, Turns};
use crate::signal::Signal;
use crate::source;
use crate::status::SourceState;
use crate::transactions::StreamLimits;
use crate::watching::{Look, LookError, Watch, publication};
use hw_pg::slot::{self, Session};
use hw_types::{EndLsn, Pace};
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::{Builder, Handle};
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::Instant;

/// What one session leaves to the next.
#[derive(Default)]
pub(crate) struct Memory {
    /// For how long nobody uses the slot.
    rest: Rest,
    /// Why the last session's stream could not go on, if that is a matter of history.
    pub lost: Option<Recopy>,
    /// Whether the store was found to lack what clients were shown.
    behind: bool,
    /// Whether the slot was this process's already. It is not taken back from a store that took it
    /// since: whoever said that the store which used it is gone meant another one.
    pub had_slot: bool,
    /// When the last session's stream was heard last, if that has ended because it was silent.
    pub silent_since: Option<std::time::Instant>,
}

/// Looks at the source. One that does not answer soon says nothing about what is stored, which is then
/// shown.
async fn look(context: &Context, memory: &Memory) -> Result<source::Look, Ended> {
    let looked = context.ask(context.source.look());
    tokio::pin!(looked);
    let first = tokio::time::timeout(PATIENCE, &mut looked).await;
    if !matches!(first, Ok(Ok(_))) && !memory.behind {
        context.send(Signal::Asked).await?;
    }
    match first {
        Ok(answer) => Ok(answer?),
        Err(_) => Ok(looked.await?),
    }
}

/// Lets the engine know whether its store lacks what clients were shown. Returns when that is durable.
async fn answer(context: &Context, memory: &mut Memory, behind: bool) -> Result<(), Ended> {
    memory.behind = behind;
    if !behind {
        return Ok(context.send(Signal::Asked).await?);
    }
    let (done, is_done) = oneshot::channel();
    context.send(Signal::Behind { done }).await?;
    is_done.await.map_err(|_| Ended::Restarted)
}

/// Lets the engine know what becomes of its numbers. Returns when that is durable.
async fn number(context: &Context, epoch: Epoch) -> Result<(), Ended> {
    let Epoch::New { above } = epoch else { return Ok(()) };
    tracing::info!(
        "this store's operations are numbered anew; a client that knows others loads everything once"
    );
    let (done, is_done) = oneshot::channel();
    context.send(Signal::NewEpoch { above, done }).await?;
    is_done.await.map_err(|_| Ended::Restarted)
}

/// Whether the slot is that of a copy which this store began, as it was made: of whatever streams from it later
/// it is confirmed beyond that.
fn made_slot(kept: &Kept, found: &Found) -> bool {
    let Some((name, made_at)) = &kept.copying else { return false };
    let confirmed = found.slot.as_ref().and_then(|slot| slot.confirmed_flush);
    *name == found.slot_name && made_at.is_none_or(|at| confirmed == Some(EndLsn(at)))
}

/// A compared copy of everything, through a new slot.
fn compared(reason: Option<Recopy>) -> Verdict {
    let reason = reason.unwrap_or(Recopy::HistoryMoved);
    Verdict::ComparedRecopy { reason, drop_slot: true }
}

/// One session.
pub(crate) async fn session(
    context: &Arc<Context>,
    memory: &mut Memory,
) -> Result<Infallible, Ended> {
    let source = &context.source;
    let mut turns = context.replica.turns();
    let before = *turns.borrow_and_update();
    let look = look(context, memory).await?;
    let slot = look.found.slot_name.clone();
    context.status.lock().slot = Some(slot.clone());
    let kept = context.replica.kept()?;
    memory.rest.look(&look.found, Instant::now());
    let take_over = if memory.had_slot { TakeOver::WhenGone } else { context.options.take_over };
    let ours = |kept: &Kept, found: &Found, watched: Duration| Ours {
        store: kept.store,
        lacks: found.memory.is_some_and(|memory| context.replica.lacks(memory.op_id)),
        publication: publication(&context.plan().tables),
        interrupted: kept.copying.is_some(),
        made_slot: made_slot(kept, found),
        watched,
        take_over,
    };
    let before_wait = ours(&kept, &look.found, Duration::ZERO);
    // The wait may be long.
    let stored = kept.stored.as_ref();
    answer(context, memory, decide(stored, &before_wait, &look.found).behind).await?;
    let silent_since = memory.silent_since.take();
    let report = |holder: &Session| match source.is_own(holder) {
        true => context.wait_for(slot::hung(&slot, holder, silent_since.map(|at| at.elapsed()))),
        false => {
            let holder = slot::busy(&slot, holder);
            context.wait_for(held(holder, stored, &before_wait, &look.found));
        }
    };
    source.wait_for_slot(&slot, report).await?;
    // The slot may have moved while another process used it.
    let look = context.ask(source.look()).await?;
    let found = &look.found;
    context.status.lock().found(found.flush_lsn);
    let kept = context.replica.kept()?;
    let watch = Arc::new(Mutex::new(Watch::default()));
    let confirmed = found.slot.as_ref().and_then(|slot| slot.confirmed_flush);
    let ours = ours(&kept, found, memory.rest.look(found, Instant::now()));
    let decision = decide(kept.stored.as_ref(), &ours, found);
    answer(context, memory, decision.behind).await?;
    let verdict = match decision.verdict {
        // What the log says is stronger than what the slot seems to be.
        Verdict::Stream if memory.lost.is_some() => compared(memory.lost.take()),
        Verdict::Stream if kept.moved => compared(Some(Recopy::HistoryMoved)),
        Verdict::Stream => match watch.lock().await.look(context).await {
            Ok(Look::Complete | Look::Missing | Look::Unpublished) => Verdict::Stream,
            // The next session's decision knows it.
            Ok(Look::OtherPublication) => return Err(Ended::OtherPublication),
            Err(LookError::Input(error)) => return Err(error.into()),
            Err(LookError::Marker(error)) => return Err(error.into()),
            Err(LookError::Silent) => return Err(Ended::Silent),
        },
        other => other,
    };
    if let Verdict::Refuse(finding) = verdict {
        return Err(Ended::Finding(Box::new(finding)));
    }
    if verdict != Verdict::Stream {
        // The copy is of the history that there is.
        memory.lost = None;
    }
    number(context, decision.epoch).await?;
    // Before clients are shown anything: however soon this process dies, a store that does not have its
    // numbers is known by them, and one that was here before is not alone any more.
    let reminded = remind(context, &slot, found.memory.map(|memory| memory.store)).await?;
    memory.had_slot |= reminded == Reminded::Remembers;
    let going_on = async {
        let confirmed = match verdict {
            Verdict::Stream => confirmed.unwrap_or_default(),
            copied => {
                drop_slot(context, &copied, &ours, &slot).await?;
                EndLsn(copy_all(context, found, (before, turns.clone())).await?)
            }
        };
        stream(context, watch, slot.clone(), confirmed, (before, turns)).await
    };
    let ended = tokio::select! {
        ended = going_on => ended,
        // A copy may take longer than whoever was not seen counts as alive.
        ended = keep_reminding(context, &slot, reminded) => ended,
    };
    context.status.lock().copies.clear();
    ended
}

/// Says why everything is copied, and drops the slot where that must be.
async fn drop_slot(
    context: &Context,
    verdict: &Verdict,
    ours: &Ours,
    slot: &str,
) -> Result<(), Ended> {
    let drops = match verdict {
        Verdict::Stream | Verdict::Refuse(_) => false,
        Verdict::FirstCopy { drop_slot } => {
            if *drop_slot && ours.made_slot {
                tracing::info!(%slot, "the first copy was interrupted; it begins again");
            } else if *drop_slot {
                tracing::warn!(%slot, "a slot of a store that is gone is dropped; this store is a new epoch");
            }
            *drop_slot
        }
        Verdict::ComparedRecopy { reason, drop_slot } => {
            tracing::warn!(%reason, "the source cannot be followed from the stored position; all tables are copied again and compared");
            metrics::counter!("headwater_compared_recopies_total").increment(1);
            *drop_slot
        }
    };
    if drops {
        context.source.drop_slot(slot).await?;
    }
    Ok(())
}

/// What the stream's thread does whenever it has nothing to do: under load it looks away from the socket
/// first ([`Pace::UNDER_LOAD`]), so that what comes meanwhile wakes it once. A socket wakes the thread that
/// waits for it with each message, whether somebody reads it or not.
fn rest_under_load() -> impl Fn() + Send + Sync {
    let pace = parking_lot::Mutex::new(Pace::UNDER_LOAD);
    move || {
        let rest = pace.lock().spend(std::time::Instant::now());
        std::thread::sleep(rest);
    }
}

/// Streams on a thread and a runtime of its own, from the socket to the engine's queue. Postgres
/// sends each message of a transaction by itself, so this thread is woken more often than any other;
/// in the server's runtime each time would wake a second one that might help.
///
/// When nobody waits for the outcome any more, the thread says goodbye to the source and ends.
async fn stream(
    context: &Arc<Context>,
    watch: Arc<Mutex<Watch>>,
    slot: String,
    confirmed: EndLsn,
    turns: (Turns, watch::Receiver<Turns>),
) -> Result<Infallible, Ended> {
    let (context, server) = (context.clone(), Handle::current());
    let failed = |error| Ended::broken(format!("start the input's thread: {error}"));
    let runtime = Builder::new_current_thread()
        .enable_all()
        .on_thread_park(rest_under_load())
        .build()
        .map_err(failed)?;
    let (mut reply, outcome) = oneshot::channel();
    let work = async move {
        let limits =
            StreamLimits { waiting_bytes: context.inlet.limit(), ..StreamLimits::default() };
        let opened = context.source.stream(&slot, context.spool.clone(), limits);
        let outcome = match context.ask(opened).await {
            Ok(mut stream) => {
                context.enter(SourceState::Streaming);
                let (compared, is_compared) = oneshot::channel();
                let durable = context.replica.durable();
                let confirming = confirm(is_compared, durable, stream.acknowledger());
                let following =
                    Following { context: &context, watch: &watch, slot: &slot, server: &server };
                let outcome = tokio::select! {
                    outcome = follow(following, &mut stream, (confirmed, compared), turns) => outcome,
                    () = confirming => Err(Ended::Stopping),
                    () = reply.closed() => Err(Ended::Stopping),
                };
                stream.close().await;
                outcome
            }
            Err(error) => Err(Ended::from(error)),
        };
        let _ = reply.send(outcome);
    };
    hw_process::start("headwater-input", move || runtime.block_on(work)).map_err(failed)?;
    match outcome.await {
        Ok(outcome) => outcome,
        // It panics, which ends the process.
        Err(_) => std::future::pending().await,
    }
}
