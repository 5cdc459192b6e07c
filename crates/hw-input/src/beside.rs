//! Work beside the stream: looks at the catalog, copies, and reminders.
//!
//! Invariant: one look and one copy at a time, and neither waits for the other. A copy may take hours,
//! or wait for somebody's lock: meanwhile a permission table that is gone must be noticed as ever.

use crate::context::Context;
use crate::copying::{More, copy_more};
use crate::ended::Ended;
use crate::error::InputError;
use crate::signal::{CopySignal, Signal};
use crate::source::Backoff;
use crate::watching::{Look, LookError, Watch};
use hw_types::Lsn;
use std::sync::Arc;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

/// Does the work, in the server's runtime. What is under way is aborted when this is dropped.
pub(crate) struct Beside {
    context: Arc<Context>,
    watch: Arc<Mutex<Watch>>,
    slot: String,
    server: Handle,
    tasks: JoinSet<Result<Done, Ended>>,
    /// Whether a look was asked for since the last one began.
    asked: bool,
    /// Since when a look is under way.
    looking: Option<Instant>,
    /// When the next look may begin. One is followed by a rest as long as it took, so that a storm of
    /// DDL, of which every statement asks for one, costs the source half of a connection at most.
    rested: Instant,
    copying: bool,
    /// Whether a place in the log is waited for, behind which a look knows more.
    awaiting: bool,
    /// Pauses between copies that fail, so that what a person must mend is not said every second.
    patience: Backoff,
    /// When the next copy may begin.
    again_at: Instant,
}

/// What came of work beside the stream.
enum Done {
    /// The catalog was looked at; what the next look should wait for.
    Looked(Look, Option<Lsn>),
    /// The place in the log was reached.
    Reached,
    /// Tables were copied, or not.
    Copied(Result<More, Ended>),
    /// The source knows that this store uses the slot.
    Reminded,
}

/// Something that happened beside the stream, to be given to [`Beside::take`].
pub(crate) struct Event(Option<Result<Result<Done, Ended>, JoinError>>);

impl Beside {
    /// Nothing is under way.
    pub fn new(
        context: &Arc<Context>,
        watch: &Arc<Mutex<Watch>>,
        slot: &str,
        server: &Handle,
    ) -> Beside {
        let now = Instant::now();
        Beside {
            context: context.clone(),
            watch: watch.clone(),
            slot: slot.to_owned(),
            server: server.clone(),
            tasks: JoinSet::new(),
            asked: false,
            looking: None,
            rested: now,
            copying: false,
            awaiting: false,
            patience: Backoff::new(),
            again_at: now,
        }
    }

    /// Asks for a look at the catalog as it is from now on.
    pub fn ask(&mut self) {
        self.asked = true;
    }

    /// Lets the source remember this store.
    pub fn remind(&mut self) {
        let (context, slot) = (self.context.clone(), self.slot.clone());
        let reminder = async move { remember(&context, &slot).await };
        self.tasks.spawn_on(reminder, &self.server);
    }

    /// Waits until something has happened. Nothing is lost when this is dropped.
    pub async fn next(&mut self) -> Event {
        let may_look = self.asked && self.looking.is_none();
        tokio::select! {
            Some(outcome) = self.tasks.join_next() => Event(Some(outcome)),
            () = sleep_until(self.rested), if may_look => Event(None),
            else => std::future::pending().await,
        }
    }

    /// Does what follows from it.
    ///
    /// - Errors: the session ends.
    pub async fn take(&mut self, event: Event) -> Result<(), Ended> {
        let Some(outcome) = event.0 else {
            self.look();
            return Ok(());
        };
        let died = |error: JoinError| match error.is_cancelled() {
            // By the end of the server's runtime: this thread is about to end as well.
            true => Ended::Stopping,
            false => Ended::broken(format!("work beside the stream: {error}")),
        };
        match outcome.unwrap_or_else(|error| Err(died(error)))? {
            Done::Reminded => {}
            Done::Looked(Look::OtherPublication, _) | Done::Copied(Ok(More::OtherPublication)) => {
                return Err(Ended::OtherPublication);
            }
            Done::Reached => {
                self.awaiting = false;
                self.ask();
            }
            Done::Looked(found, awaited) => {
                let took = self.looking.take().map(|began| began.elapsed()).unwrap_or_default();
                self.rested = Instant::now() + took;
                if found == Look::Missing && !self.copying && Instant::now() >= self.again_at {
                    self.copy();
                }
                if let Some(place) = awaited.filter(|_| !self.awaiting) {
                    self.wait_for(place);
                }
            }
            Done::Copied(Ok(More::Entered)) => {
                self.copying = false;
                self.patience.reset();
                self.ask();
            }
            Done::Copied(Err(Ended::Stopping)) => return Err(Ended::Stopping),
            Done::Copied(Err(error)) => {
                self.copying = false;
                self.again_at = Instant::now() + self.patience.next_wait();
                // A copy that fails starts again by itself; the stream goes on.
                error.diagnostic().log();
                self.context.send(Signal::Copy(CopySignal::Failed)).await?;
            }
        }
        Ok(())
    }

    fn look(&mut self) {
        (self.asked, self.looking) = (false, Some(Instant::now()));
        let (context, watch, slot) = (self.context.clone(), self.watch.clone(), self.slot.clone());
        let look = async move { look_at_catalog(&watch, &context, &slot).await };
        self.tasks.spawn_on(look, &self.server);
    }

    fn wait_for(&mut self, place: Lsn) {
        self.awaiting = true;
        let mut durable = self.context.replica.durable();
        let reached = async move {
            let reached = durable.wait_for(|end| end.0 >= place).await;
            reached.map(|_| Done::Reached).map_err(|_| Ended::Stopping)
        };
        self.tasks.spawn_on(reached, &self.server);
    }

    fn copy(&mut self) {
        self.copying = true;
        let context = self.context.clone();
        let copy = async move { Ok(Done::Copied(copy_more(&context).await)) };
        self.tasks.spawn_on(copy, &self.server);
    }
}

/// Lets the source remember this store. One that cannot is told with the next reminder.
async fn remember(context: &Context, slot: &str) -> Result<Done, Ended> {
    let kept = context.replica.kept()?;
    if let Err(error) = context.source.remember(slot, kept.store, kept.op_id).await {
        tracing::debug!(%error, "the source was not reminded of this store");
    }
    Ok(Done::Reminded)
}

/// Looks at the catalog. One that fails or does not answer is no reason to end a stream that is
/// well.
async fn look_at_catalog(
    watch: &Mutex<Watch>,
    context: &Context,
    slot: &str,
) -> Result<Done, Ended> {
    let mut watch = watch.lock().await;
    let outcome = watch.look(context).await;
    if let Some(bytes) = watch.retained(slot).await {
        context.status.lock().retained_bytes = bytes;
    }
    let awaited = watch.awaits();
    match outcome {
        Ok(look) => {
            context.status.lock().catalog_answered();
            Ok(Done::Looked(look, awaited))
        }
        Err(LookError::Input(InputError::Closed)) => Err(Ended::Stopping),
        Err(error) => {
            tracing::debug!(%error, "the catalog could not be read; the next look asks again");
            context.status.lock().catalog_failed(error.diagnostic());
            Ok(Done::Looked(Look::Complete, awaited))
        }
    }
}
