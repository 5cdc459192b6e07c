//! Publication: a snapshot taken at a transaction boundary, then the sync, then the swap.
//!
//! Invariant E-2: the snapshot is taken *before* the sync starts; one taken behind it would hold
//! later, undurable transactions. The source is told a position only behind the sync that
//! covers it. One thread does this, so that the writer evaluates the next transactions while
//! the disk works; there is no timer: batches grow under load by themselves, and an idle system
//! pays one sync.

use crate::error::EngineError;
use crate::read::{ActiveSync, Published, SupersededCache};
use crate::state::Progress;
use crate::wake::{ChangeRing, Touched};
use hw_store::{Snapshot, Space, Store};
use hw_types::{Checkpoint, EndLsn, Lsn};
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::sync::mpsc;
use tokio::sync::watch;

/// What the writer hands over at a transaction boundary.
pub(crate) struct PublishJob {
    pub snapshot: Snapshot,
    pub progress: Progress,
    pub sync: Option<Arc<ActiveSync>>,
    pub touched: Touched,
    /// Whether clients may see this state. Not while a compared copy is under way.
    pub show: bool,
}

/// The publisher's side that surfaces and the driver share.
pub(crate) struct Publication {
    sender: watch::Sender<Arc<Published>>,
    /// Everything up to here is durable; acknowledged to the source.
    durable: AtomicU64,
    durable_changed: watch::Sender<EndLsn>,
    ring: Arc<ChangeRing>,
    superseded: Arc<SupersededCache>,
    write_checkpoints: Space,
    store: Store,
}

impl Publication {
    /// Starts with the state that the store holds. The caller has synced it.
    pub fn new(
        store: Store,
        write_checkpoints: Space,
        progress: &Progress,
        sync: Option<Arc<ActiveSync>>,
    ) -> Publication {
        let ring = Arc::new(ChangeRing::default());
        let superseded = Arc::new(SupersededCache::new());
        let first = Published {
            number: 0,
            checkpoint: Checkpoint { op_id: progress.op_id, end_lsn: progress.end_lsn },
            epoch: progress.epoch,
            sync,
            snapshot: store.snapshot(),
            write_floor: progress.write_floor,
            write_checkpoints: write_checkpoints.clone(),
            ring: ring.clone(),
            superseded: superseded.clone(),
        };
        Publication {
            sender: watch::Sender::new(Arc::new(first)),
            durable: AtomicU64::new(progress.end_lsn.0.0),
            durable_changed: watch::Sender::new(progress.end_lsn),
            ring,
            superseded,
            write_checkpoints,
            store,
        }
    }

    /// The published state.
    pub fn current(&self) -> Arc<Published> {
        self.sender.borrow().clone()
    }

    /// Wakes with every publication.
    pub fn watch(&self) -> watch::Receiver<Arc<Published>> {
        self.sender.subscribe()
    }

    /// Everything up to this position is durable.
    pub fn durable(&self) -> EndLsn {
        EndLsn(Lsn(self.durable.load(Ordering::Acquire)))
    }

    /// Wakes when more has become durable.
    pub fn watch_durable(&self) -> watch::Receiver<EndLsn> {
        self.durable_changed.subscribe()
    }

    /// Syncs, then shows. On an error nothing is shown and nothing is acknowledged.
    pub fn publish(&self, job: PublishJob) -> Result<(), EngineError> {
        self.store.sync()?;
        let end_lsn = job.progress.end_lsn;
        let previous = self.current();
        if job.show {
            let number = previous.number + 1;
            self.ring.push(number, job.touched);
            let next = Published {
                number,
                checkpoint: Checkpoint { op_id: job.progress.op_id, end_lsn },
                epoch: job.progress.epoch,
                sync: job.sync,
                snapshot: job.snapshot,
                write_floor: job.progress.write_floor,
                write_checkpoints: self.write_checkpoints.clone(),
                ring: self.ring.clone(),
                superseded: self.superseded.clone(),
            };
            debug_assert!(
                next.epoch != previous.epoch || next.checkpoint.op_id >= previous.checkpoint.op_id
            );
            self.sender.send_replace(Arc::new(next));
        }
        self.durable.store(end_lsn.0.0, Ordering::Release);
        self.durable_changed.send_replace(end_lsn);
        Ok(())
    }
}

/// The publisher's thread.
pub(crate) struct Publisher {
    jobs: Option<mpsc::SyncSender<PublishJob>>,
    thread: Option<std::thread::JoinHandle<()>>,
}

impl Publisher {
    /// Starts the thread. `done` is called behind every job with its outcome; it must not block.
    pub fn start(
        publication: Arc<Publication>,
        done: impl Fn(Result<(), EngineError>) + Send + 'static,
    ) -> Publisher {
        let (jobs, queue) = mpsc::sync_channel::<PublishJob>(1);
        let thread = std::thread::Builder::new()
            .name("headwater-publish".into())
            .spawn(move || {
                for job in queue {
                    done(publication.publish(job));
                }
            })
            .ok();
        Publisher { jobs: Some(jobs), thread }
    }

    /// Hands a job over. The caller waits for `done` before it hands over the next one.
    pub fn submit(&self, job: PublishJob) -> Result<(), EngineError> {
        let jobs = self.jobs.as_ref().ok_or(EngineError::Stopping)?;
        jobs.send(job).map_err(|_| EngineError::Stopping)
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.jobs = None;
        if let Some(thread) = self.thread.take() {
            let _ = thread.join();
        }
    }
}
