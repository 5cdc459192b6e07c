//! Following: the stream's items go to the engine, and beside them the catalog is looked at, tables
//! are copied, and the source is reminded of this store.

use crate::context::{Context, now};
use crate::copying::{More, copy_more};
use crate::ended::Ended;
use crate::error::InputError;
use crate::history::REMIND;
use crate::replica::Turns;
use crate::signal::{CopySignal, Signal};
use crate::source::Backoff;
use crate::transactions::{Item, TransactionStream};
use crate::watching::{Look, LookError, Watch};
use hw_pg::replication::Acknowledger;
use hw_types::EndLsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep_until};

/// How often the catalog is compared with what definitions name.
const LOOK: Duration = Duration::from_secs(1);

/// A full spool that holds the stream up for so long is named.
const STALLED: Duration = Duration::from_secs(2);

/// How often progress without transactions is passed on.
const PROGRESS: Duration = Duration::from_millis(500);

/// Who follows, and what the work beside the stream needs: it is done in the server's runtime.
pub(crate) struct Following<'a> {
    pub context: &'a Arc<Context>,
    pub watch: &'a Arc<Mutex<Watch>>,
    pub slot: &'a str,
    pub server: &'a Handle,
}

/// Confirms what is durable to a stream, once all that it repeats was found to be what was applied.
/// What was durable before is confirmed at once: an idle source may stop only when everything that it
/// sent is confirmed. Ends when the engine does.
pub(crate) async fn confirm(
    compared: oneshot::Receiver<()>,
    mut durable: watch::Receiver<EndLsn>,
    acknowledger: Acknowledger,
) {
    if compared.await.is_err() {
        // The session ends for a reason of its own.
        return std::future::pending().await;
    }
    loop {
        acknowledger.ack(*durable.borrow_and_update());
        if durable.changed().await.is_err() {
            return;
        }
    }
}

/// Passes the stream on to the engine, and looks for tables to copy beside it.
///
/// - Takes: where the stream begins, and who is told when all that it repeats has been compared;
///   what had happened when the session began, and what happens.
pub(crate) async fn follow(
    following: Following<'_>,
    stream: &mut TransactionStream,
    (confirmed, compared): (EndLsn, oneshot::Sender<()>),
    (before, mut turns): (Turns, watch::Receiver<Turns>),
) -> Result<(), Ended> {
    let Following { context, watch, slot, server } = following;
    let session = context.next_number();
    context.send(Signal::Begins { session, confirmed, compared }).await?;
    let mut plan = context.replica.plan();
    let mut clock = interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    // A look at the catalog and a copy, one of each at a time, beside the stream. Aborted when the
    // session ends. A copy may take hours, or wait for somebody's lock: meanwhile a permission table
    // that is gone must be noticed as ever.
    let mut beside: JoinSet<Result<Beside, Ended>> = JoinSet::new();
    let (mut looking, mut copying) = (false, false);
    // Pauses between copies that fail, so that what a person must mend is not said every second.
    let mut patience = Backoff::new();
    let mut again_at = Instant::now();
    // A look is followed by a rest as long as it took, so that a storm of DDL, of which every statement
    // asks for one, costs the source half of a connection at most.
    let (mut began, mut rested) = (Instant::now(), Instant::now());
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
                        context.inlet.hand_over(session, item).await?;
                    }
                }
            }
            changed = turns.changed() => {
                changed.map_err(|_| Ended::Stopping)?;
                let now = *turns.borrow_and_update();
                if now.restarts != before.restarts {
                    return Err(Ended::Restarted);
                }
                if now.moved != before.moved {
                    return Err(Ended::Moved);
                }
                look = true;
            }
            changed = plan.changed() => look = changed.map(|()| true).map_err(|_| Ended::Stopping)?,
            _ = reminders.tick() => {
                let (context, slot) = (context.clone(), slot.to_owned());
                beside.spawn_on(async move { remember(&context, &slot).await }, server);
            }
            _ = clock.tick() => {
                let positions = status.status().positions;
                let stalled = status.status().spool_full_for >= STALLED;
                let mut status = context.status.lock();
                status.stalled = stalled.then(|| {
                    "a transaction does not fit into limits.spool_bytes, and the stream waits; \
                     raise it"
                        .to_owned()
                });
                status.end = status.end.max(positions.received);
                status.heard_at = now().saturating_sub(positions.silent_for.as_secs());
                look = true;
            }
            // What was asked for during the rest.
            () = sleep_until(rested), if look && !looking && Instant::now() < rested => {}
            Some(outcome) = beside.join_next() => {
                let died = |error: JoinError| match error.is_cancelled() {
                    // By the end of the server's runtime: this thread is about to end as well.
                    true => Ended::Stopping,
                    false => Ended::broken(format!("work beside the stream: {error}")),
                };
                match outcome.unwrap_or_else(|error| Err(died(error)))? {
                    Beside::Reminded => {}
                    Beside::Looked(Look::OtherPublication)
                    | Beside::Copied(Ok(More::OtherPublication)) => {
                        return Err(Ended::OtherPublication);
                    }
                    Beside::Looked(found) => {
                        looking = false;
                        rested = Instant::now() + began.elapsed();
                        if found == Look::Missing && !copying && Instant::now() >= again_at {
                            copying = true;
                            let context = context.clone();
                            let copy = async move { Ok(Beside::Copied(copy_more(&context).await)) };
                            beside.spawn_on(copy, server);
                        }
                    }
                    Beside::Copied(Ok(More::Entered)) => {
                        (copying, look) = (false, true);
                        patience.reset();
                    }
                    Beside::Copied(Err(Ended::Stopping)) => return Err(Ended::Stopping),
                    Beside::Copied(Err(error)) => {
                        copying = false;
                        again_at = Instant::now() + patience.next_wait();
                        // A copy that fails starts again by itself; the stream goes on.
                        error.diagnostic().log();
                        context.send(Signal::Copy(CopySignal::Failed)).await?;
                    }
                }
            }
        }
        if let Some(end) = progressed
            && passed_on.elapsed() > PROGRESS
        {
            progressed = None;
            passed_on = Instant::now();
            context.inlet.hand_over(session, Item::Progress(end)).await?;
        }
        if look && !looking && Instant::now() >= rested {
            (look, looking) = (false, true);
            began = Instant::now();
            let (context, watch, slot) = (context.clone(), watch.clone(), slot.to_owned());
            let looked = async move { look_at_catalog(&watch, &context, &slot, copying).await };
            beside.spawn_on(looked, server);
        }
    }
}

/// What came of work beside the stream.
enum Beside {
    /// A look at the catalog.
    Looked(Look),
    /// Tables were copied, or not.
    Copied(Result<More, Ended>),
    /// The source knows that this store uses the slot.
    Reminded,
}

/// Lets the source remember this store. One that cannot is told with the next reminder.
async fn remember(context: &Context, slot: &str) -> Result<Beside, Ended> {
    let kept = context.replica.kept()?;
    if let Err(error) = context.source.remember(slot, kept.store, kept.op_id).await {
        tracing::debug!(%error, "the source was not reminded of this store");
    }
    Ok(Beside::Reminded)
}

/// Looks at the catalog. One that fails or does not answer is no reason to end a stream that is
/// well.
async fn look_at_catalog(
    watch: &Mutex<Watch>,
    context: &Context,
    slot: &str,
    copying: bool,
) -> Result<Beside, Ended> {
    let mut watch = watch.lock().await;
    let outcome = watch.look(context, copying).await;
    if let Some(bytes) = watch.retained(slot).await {
        context.status.lock().retained_bytes = bytes;
    }
    match outcome {
        Ok(look) => Ok(Beside::Looked(look)),
        Err(LookError::Input(InputError::Closed)) => Err(Ended::Stopping),
        Err(error) => {
            tracing::debug!(%error, "the catalog could not be read; the next look asks again");
            Ok(Beside::Looked(Look::Complete))
        }
    }
}
