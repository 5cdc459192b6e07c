//! The driver: follows the source for as long as the process lives, session after session.
//!
//! In: a source, and the replica as it is ([`crate::replica`]). Out: signals ([`crate::signal`]), and
//! confirmations to the source. A session lasts as long as a connection; whatever ends it, the next
//! one begins by comparing the source's identity with the stored one (`design/engine.md` 5), so that a
//! hole in the history is found before anything is streamed.
//!
//! One task for the sessions and one that writes markers; the stream of a session has a thread.

use crate::context::Context;
pub use crate::context::DriverOptions;
use crate::ended::Ended;
use crate::error::code;
use crate::history::lost_history;
use crate::markers::{self, Marked, MarkerError, Markers, Requests};
use crate::replica::Replica;
use crate::retention;
use crate::session::{Memory, session};
use crate::signal::{CopySignal, Inlet, Signal};
use crate::source::{Backoff, Source, SourceOptions};
use crate::status::{SourceState, SourceStatus};
use hw_pg::catalog::{Catalog, Refused, resolve};
use hw_store::segment::SpoolDir;
use hw_types::{Lsn, TablePattern};
use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::AtomicU64;
use std::time::Duration;
use tokio::sync::watch;
use tokio::time::Instant;

/// A session that lasted so long was well: the pauses begin anew behind it.
const WELL: Duration = Duration::from_secs(30);

/// How long a question about tables waits for the catalog.
const PATIENCE: Duration = Duration::from_secs(5);

/// The driver's handle. Clones share one driver.
#[derive(Clone)]
pub struct Driver {
    source: Source,
    markers: Markers,
    status: Arc<Mutex<SourceStatus>>,
}

/// The driver's work: two futures that end when `stop` becomes true.
pub struct Work {
    context: Context,
    requests: Requests,
}

impl Driver {
    /// A driver that does nothing before its work is run.
    ///
    /// - Takes: `spool`, where open transactions go that are large; `stop`, which becomes true when
    ///   everything ends.
    pub fn new(
        options: DriverOptions,
        replica: Arc<dyn Replica>,
        inlet: Inlet,
        spool: SpoolDir,
        stop: watch::Receiver<bool>,
    ) -> (Driver, Work) {
        let source_options = SourceOptions {
            publication: options.publication.clone(),
            instance: options.instance.clone(),
            ..SourceOptions::default()
        };
        let source = Source::new(options.connection.clone(), source_options);
        let (markers, requests) = Markers::new();
        let status = Arc::<Mutex<SourceStatus>>::default();
        let driver =
            Driver { source: source.clone(), markers: markers.clone(), status: status.clone() };
        let context = Context {
            options,
            source,
            replica,
            inlet,
            markers,
            status,
            spool,
            stop,
            ways: Arc::default(),
            covering: tokio::sync::Mutex::default(),
            numbers: AtomicU64::new(0),
        };
        (driver, Work { context, requests })
    }

    /// What the driver is doing.
    pub fn status(&self) -> SourceStatus {
        let mut status = self.status.lock().clone();
        status.sent_whole = self.source.sends_whole();
        status
    }

    /// Records a write checkpoint in the source's log; returns its marker's position.
    pub async fn write_checkpoint(
        &self,
        user_key: &str,
        requested: Option<u64>,
    ) -> Result<Lsn, MarkerError> {
        self.markers.write_checkpoint(user_key, requested).await
    }

    /// Writes a marker into the source's log, together with all who want one now.
    pub async fn mark(&self) -> Result<Marked, MarkerError> {
        self.markers.mark_together().await
    }

    /// What becomes of the tables that patterns mean; `None` when the source does not answer.
    pub async fn foresee(&self, patterns: &[TablePattern]) -> Option<Foreseen> {
        let ask = async {
            let client = self.source.client().await.ok()?;
            let catalog = self.source.catalog(&client, patterns, &[]).await.ok()?;
            let resolved = resolve(&catalog, patterns);
            let refused = resolved.refused.into_iter().chain(resolved.missing).collect();
            Some(Foreseen { refused, catalog })
        };
        tokio::time::timeout(PATIENCE, ask).await.ok()?
    }
}

/// What becomes of tables that are to be replicated.
#[derive(Debug)]
pub struct Foreseen {
    /// Those that cannot be, and those that are not there.
    pub refused: Vec<Refused>,
    /// All of them, and how the publication sends them.
    pub catalog: Catalog,
}

impl Work {
    /// The sessions, and what writes markers. Both must run for the driver to work.
    pub fn split(
        self,
    ) -> (impl Future<Output = ()> + Send + 'static, impl Future<Output = ()> + Send + 'static)
    {
        let Work { context, requests } = self;
        let connection = context.options.connection.clone();
        let emit =
            markers::run(connection, context.replica.clone(), context.stop.clone(), requests);
        let context = Arc::new(context);
        let sessions = async move {
            tokio::select! {
                () = sessions(context.clone()) => {}
                () = retention::watch(&context) => {}
            }
        };
        (sessions, emit)
    }
}

/// Runs sessions until everything ends.
async fn sessions(context: Arc<Context>) {
    let mut backoff = Backoff::new();
    let mut stop = context.stop.clone();
    let mut memory = Memory::default();
    loop {
        context.status.lock().connecting();
        let started = Instant::now();
        let ended = tokio::select! {
            biased;
            _ = stop.wait_for(|stop| *stop) => return,
            ended = session(&context, &mut memory) => ended,
        };
        // A session that ends because everything ends is no failure.
        if *stop.borrow() {
            return;
        }
        let Err(error) = ended;
        memory.had_slot |= matches!(error, Ended::Taken);
        if let Ended::Input(error) = &error {
            memory.lost = lost_history(error);
        }
        let heard = context.status.lock().stream_ended();
        if error.is_silence() {
            memory.silent_since = heard;
        }
        let _ = context.send(Signal::Copy(CopySignal::Failed)).await;
        {
            let mut status = context.status.lock();
            status.copies.clear();
            if let Some(finding) = error.starved() {
                status.copy_starved = Some(Box::new(finding));
            }
        }
        if started.elapsed() > WELL {
            backoff.reset();
        }
        match &error {
            Ended::Finding(finding) if finding.code.0 == code::SLOT_OF_ANOTHER_STORE => {
                context.wait_for((**finding).clone());
            }
            error if error.is_silence() => {
                let heard = heard.unwrap_or_else(|| Instant::now().into_std());
                context.status.lock().unanswered(heard)
            }
            Ended::Restarted => context.enter(SourceState::Connecting),
            error if error.is_passing() => {}
            error => context.enter(SourceState::Failed { finding: Box::new(error.diagnostic()) }),
        }
        metrics::counter!("headwater_source_sessions_ended_total").increment(1);
        tokio::select! {
            () = tokio::time::sleep(backoff.next_wait()) => {}
            _ = stop.wait_for(|stop| *stop) => return,
        }
    }
}
