//! Work beside the stream: looks at the catalog, and copies.
//!
//! Invariant: one look and one copy at a time, and neither waits for the other. A copy may take hours,
//! or wait for somebody's lock: meanwhile a permission table that is gone must be noticed as ever.

use crate::context::Context;
use crate::copying::{More, copy_more, publish};
use crate::ended::Ended;
use crate::error::InputError;
use crate::signal::{CopySignal, Signal};
use crate::source::Backoff;
use crate::transactions::NextXid;
use crate::watching::{Look, LookError, Watch};
use hw_types::Lsn;
use std::sync::Arc;
use std::time::Duration;
use tokio::runtime::Handle;
use tokio::sync::Mutex;
use tokio::task::{JoinError, JoinSet};
use tokio::time::{Instant, sleep_until};

/// How often the catalog is compared with what definitions name, unless somebody asks.
pub(crate) const LOOK: Duration = Duration::from_secs(1);

/// Does the work, in the server's runtime. What is under way is aborted when this is dropped.
pub(crate) struct Beside {
    context: Arc<Context>,
    watch: Arc<Mutex<Watch>>,
    slot: String,
    /// The stream is told it with every look.
    next_xid: NextXid,
    server: Handle,
    tasks: JoinSet<Result<Done, Ended>>,
    /// Whether a look was asked for since the last one began.
    asked: bool,
    /// Since when a look is under way.
    looking: Option<Instant>,
    /// When the next look may begin, as [`rest`] says.
    rested: Instant,
    /// How many looks in a row, up to the last one, found something new.
    eventful: u32,
    copying: bool,
    /// Whether tables are published that another copy will read.
    publishing: bool,
    /// Pauses between attempts to publish them: each may wait for locks that others wait behind.
    publish_patience: Backoff,
    /// When the next attempt may begin.
    publish_at: Instant,
    /// Whether a place in the log is waited for, behind which a look knows more.
    awaiting: bool,
    /// Pauses between copies that fail, so that what a person must mend is not said every second.
    patience: Backoff,
    /// When the next copy may begin.
    again_at: Instant,
}

/// What came of work beside the stream.
enum Done {
    /// The catalog was looked at.
    Looked(Looking),
    /// The place in the log was reached.
    Reached,
    /// Tables were copied, or not.
    Copied(Result<More, Ended>),
    /// The publication was changed, as far as it could be, or not.
    Published(Result<(), Ended>),
}

/// A look that has ended.
struct Looking {
    found: Look,
    /// What the next one should wait for.
    awaits: Option<Lsn>,
    /// Whether it found something new.
    is_eventful: bool,
}

/// How long a look is followed by a rest: as long as it took, so that DDL, of which every statement asks
/// for one, costs the source half of a connection at most. In a storm, where one after the other finds
/// something new, it becomes twice as long each time, until there are no more of them than without
/// anybody's asking: what happens meanwhile shares the next one.
fn rest(took: Duration, eventful: u32) -> Duration {
    let longer = took.saturating_mul(1 << eventful.saturating_sub(1).min(16));
    longer.min(took.max(LOOK))
}

/// Something that happened beside the stream, to be given to [`Beside::take`].
pub(crate) struct Event(Option<Result<Result<Done, Ended>, JoinError>>);

impl Beside {
    /// Nothing is under way.
    pub fn new(
        context: &Arc<Context>,
        watch: &Arc<Mutex<Watch>>,
        (slot, next_xid): (&str, NextXid),
        server: &Handle,
    ) -> Beside {
        let now = Instant::now();
        Beside {
            context: context.clone(),
            watch: watch.clone(),
            slot: slot.to_owned(),
            next_xid,
            server: server.clone(),
            tasks: JoinSet::new(),
            asked: false,
            looking: None,
            rested: now,
            eventful: 0,
            copying: false,
            publishing: false,
            publish_patience: Backoff::new(),
            publish_at: now,
            awaiting: false,
            patience: Backoff::new(),
            again_at: now,
        }
    }

    /// Asks for a look at the catalog as it is from now on.
    pub fn ask(&mut self) {
        self.asked = true;
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
        // It is cancelled by the end of the server's runtime alone: this thread is about to end as well.
        match outcome.unwrap_or(Err(Ended::Stopping))? {
            Done::Looked(Looking { found: Look::OtherPublication, .. })
            | Done::Copied(Ok(More::OtherPublication)) => return Err(Ended::OtherPublication),
            Done::Reached => {
                self.awaiting = false;
                self.ask();
            }
            Done::Looked(Looking { found, awaits, is_eventful }) => {
                let took = self.looking.take().map(|began| began.elapsed()).unwrap_or_default();
                self.eventful = if is_eventful { self.eventful + 1 } else { 0 };
                self.rested = Instant::now() + rest(took, self.eventful);
                let now = Instant::now();
                let is_due = !self.copying && now >= self.again_at;
                let may_publish = !self.publishing && now >= self.publish_at;
                match found {
                    Look::Missing | Look::Unpublished if is_due => self.copy(),
                    Look::Unpublished if may_publish => self.publish(),
                    Look::Unpublished => {}
                    _ => self.publish_patience.reset(),
                }
                if let Some(place) = awaits.filter(|_| !self.awaiting) {
                    self.wait_for(place);
                }
            }
            Done::Published(Err(ended @ (Ended::OtherPublication | Ended::Stopping))) => {
                return Err(ended);
            }
            Done::Published(outcome) => {
                self.publishing = false;
                self.publish_at = Instant::now() + self.publish_patience.next_wait();
                if let Err(error) = outcome {
                    error.diagnostic().log();
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
                // One that fails in another way had room.
                self.context.status.lock().copy_starved = error.starved().map(Box::new);
                self.context.send(Signal::Copy(CopySignal::Failed)).await?;
            }
        }
        Ok(())
    }

    fn begin(&mut self, work: impl Future<Output = Result<Done, Ended>> + Send + 'static) {
        self.tasks.spawn_on(hw_process::vital("work beside the stream", work), &self.server);
    }

    fn look(&mut self) {
        (self.asked, self.looking) = (false, Some(Instant::now()));
        let (context, watch) = (self.context.clone(), self.watch.clone());
        let (slot, next_xid) = (self.slot.clone(), self.next_xid.clone());
        let look = async move { look_at_catalog(&watch, &context, &slot, &next_xid).await };
        self.begin(look);
    }

    fn wait_for(&mut self, place: Lsn) {
        self.awaiting = true;
        let mut durable = self.context.replica.durable();
        let reached = async move {
            let reached = durable.wait_for(|end| end.0 >= place).await;
            reached.map(|_| Done::Reached).map_err(|_| Ended::Stopping)
        };
        self.begin(reached);
    }

    fn copy(&mut self) {
        self.copying = true;
        let context = self.context.clone();
        let copy = async move { Ok(Done::Copied(copy_more(&context).await)) };
        self.begin(copy);
    }

    fn publish(&mut self) {
        self.publishing = true;
        let context = self.context.clone();
        let publish = async move { Ok(Done::Published(publish(&context).await)) };
        self.begin(publish);
    }
}

/// Looks at the catalog. One that fails or does not answer is no reason to end a stream that is
/// well.
async fn look_at_catalog(
    watch: &Mutex<Watch>,
    context: &Context,
    slot: &str,
    next_xid: &NextXid,
) -> Result<Done, Ended> {
    let mut watch = watch.lock().await;
    let outcome = watch.look(context).await;
    if let Some(slot) = watch.slot(slot).await {
        next_xid.reaches(slot.next_xid);
        let mut status = context.status.lock();
        status.retains(Some(&slot));
        status.reaches(slot.log_end.unwrap_or_default());
        status.heard_at = Some(Instant::now().into_std());
    }
    let awaits = watch.awaits();
    match outcome {
        Ok(found) => {
            context.status.lock().catalog_answered();
            Ok(Done::Looked(Looking { found, awaits, is_eventful: watch.is_eventful() }))
        }
        Err(LookError::Input(InputError::Closed)) => Err(Ended::Stopping),
        Err(error) => {
            tracing::debug!(%error, "the catalog could not be read; the next look asks again");
            context.status.lock().catalog_failed(error.diagnostic());
            Ok(Done::Looked(Looking { found: Look::Complete, awaits, is_eventful: false }))
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn looks_that_find_something_new_one_after_the_other_become_as_rare_as_those_of_the_clock() {
        let took = Duration::from_millis(20);
        assert_eq!(rest(took, 0), took);
        assert_eq!(rest(took, 1), took);
        assert_eq!(rest(took, 2), 2 * took);
        assert_eq!(rest(took, 3), 4 * took);
        assert_eq!(rest(took, 7), LOOK);
        assert_eq!(rest(took, u32::MAX), LOOK);
        assert_eq!(rest(3 * LOOK, 9), 3 * LOOK);
    }
}
