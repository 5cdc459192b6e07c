//! Following: the stream's items go to the engine, what is durable is confirmed, and what happens asks
//! for work beside the stream ([`crate::beside`]).

use crate::beside::{Beside, LOOK};
use crate::context::Context;
use crate::ended::Ended;
use crate::replica::Turns;
use crate::signal::Signal;
use crate::transactions::{Item, TransactionStream};
use crate::watching::Watch;
use hw_pg::replication::Acknowledger;
use hw_process::failpoint;
use hw_types::EndLsn;
use std::convert::Infallible;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::{Mutex, oneshot, watch};
use tokio::time::{Instant, MissedTickBehavior, interval, sleep};

/// A full spool that holds the stream up for so long is named.
const STALLED: Duration = Duration::from_secs(2);

/// How often progress without transactions is passed on.
const PROGRESS: Duration = Duration::from_millis(500);

/// How often what is durable is looked at. What comes alone is confirmed at once.
const CONFIRMED: Duration = Duration::from_millis(25);

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
        // The source is told every so often at most, and each publication would wake this thread for it.
        sleep(CONFIRMED).await;
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
) -> Result<Infallible, Ended> {
    let Following { context, watch, slot, server } = following;
    let session = context.next_number();
    context.send(Signal::Begins { session, confirmed, compared }).await?;
    let mut plan = context.replica.plan();
    let mut clock = interval(LOOK);
    clock.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut beside = Beside::new(context, watch, (slot, stream.next_xid()), server);
    beside.ask();
    let mut progressed: Option<EndLsn> = None;
    let mut passed_on = Instant::now();
    let status = stream.status();
    loop {
        tokio::select! {
            item = stream.recv() => {
                match item? {
                    Item::Progress(end) => progressed = Some(end),
                    item => {
                        failpoint::reached("input::item");
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
                beside.ask();
            }
            changed = plan.changed() => {
                changed.map_err(|_| Ended::Stopping)?;
                beside.ask();
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
                status.reaches(positions.received);
                let now = Instant::now().into_std();
                status.heard(now.checked_sub(positions.silent_for).unwrap_or(now), now);
                beside.ask();
            }
            event = beside.next() => beside.take(event).await?,
        }
        if let Some(end) = progressed
            && passed_on.elapsed() > PROGRESS
        {
            progressed = None;
            passed_on = Instant::now();
            context.inlet.hand_over(session, Item::Progress(end)).await?;
        }
    }
}
