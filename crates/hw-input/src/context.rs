//! What the parts of the driver share: the source, the replica, and who is told what.

use crate::error::{InputError, Result};
use crate::history::TakeOver;
use crate::markers::Markers;
use crate::replica::{Plan, Replica};
use crate::signal::{Inlet, Signal};
use crate::source::Source;
use crate::status::{SourceState, SourceStatus};
use hw_pg::config::ConnectConfig;
use hw_store::segment::SpoolDir;
use hw_types::{Diagnostic, RelationId};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::{Duration, Instant};
use tokio::sync::watch;

/// How long a question to the source may be open before it is said that it does not answer.
pub(crate) const PATIENCE: Duration = Duration::from_secs(5);

/// How the source is followed.
#[derive(Clone, Debug)]
pub struct DriverOptions {
    /// The source.
    pub connection: ConnectConfig,
    /// Tells several Headwaters of one database apart; part of the slot's name.
    pub instance: String,
    /// The publication that carries the replicated tables.
    pub publication: String,
    /// Tables that are copied at once.
    pub copy_workers: usize,
    /// How long a copy may hold a snapshot in the source, where it can be helped.
    pub max_snapshot: Duration,
    /// Whether a person said that the store which used the slot last is gone.
    pub take_over: TakeOver,
}

impl DriverOptions {
    /// The usual ones.
    pub fn new(connection: ConnectConfig) -> DriverOptions {
        DriverOptions {
            connection,
            instance: "default".into(),
            publication: "headwater".into(),
            copy_workers: 2,
            max_snapshot: Duration::from_secs(30 * 60),
            take_over: TakeOver::WhenGone,
        }
    }
}

/// Tables that were found not to fit the usual way of a copy.
#[derive(Default)]
pub(crate) struct Ways {
    /// They take longer than a snapshot may be held.
    pub ranges: BTreeSet<RelationId>,
    /// Ranges of them did not fit together.
    pub one_snapshot: BTreeSet<RelationId>,
}

/// What the parts of the driver share.
pub(crate) struct Context {
    pub options: DriverOptions,
    pub source: Source,
    pub replica: Arc<dyn Replica>,
    pub inlet: Inlet,
    pub markers: Markers,
    pub status: Arc<Mutex<SourceStatus>>,
    /// Where open transactions go that are large.
    pub spool: SpoolDir,
    /// Becomes true when everything ends.
    pub stop: watch::Receiver<bool>,
    /// How tables are read, as far as this process has learnt.
    pub ways: Arc<Mutex<Ways>>,
    /// Held while the publication is changed beside the stream.
    pub covering: tokio::sync::Mutex<()>,
    /// The last number given to a stream or a copy.
    pub numbers: AtomicU64,
}

impl Context {
    pub fn plan(&self) -> Arc<Plan> {
        self.replica.plan().borrow().clone()
    }

    /// Notes where the connection stands; a change is logged once.
    pub fn enter(&self, state: SourceState) {
        self.status.lock().enter(state);
    }

    /// Notes what is waited for.
    pub fn wait_for(&self, finding: Diagnostic) {
        self.enter(SourceState::Waiting { finding: Box::new(finding) });
    }

    /// Asks the source something. One that does not answer soon is waited for, and that is said.
    ///
    /// - Errors: the answer's.
    pub async fn ask<T>(&self, question: impl Future<Output = Result<T>>) -> Result<T> {
        let since = Instant::now();
        tokio::pin!(question);
        let answer = match tokio::time::timeout(PATIENCE, &mut question).await {
            Ok(answer) => answer,
            Err(_) => {
                self.status.lock().unanswered(since);
                question.await
            }
        };
        if !answer.as_ref().is_err_and(InputError::is_silence) {
            self.status.lock().answered();
        }
        answer
    }

    pub async fn send(&self, signal: Signal) -> Result<()> {
        self.inlet.send(signal).await
    }

    /// A number for a stream or a copy that no other has in this process.
    pub fn next_number(&self) -> u64 {
        self.numbers.fetch_add(1, Ordering::Relaxed) + 1
    }
}
