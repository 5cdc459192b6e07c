//! Runs the assembler in a task of its own, between socket and engine.
//!
//! Three parties work at the same time: the task that owns the socket, this one (decoding,
//! spooling), and the engine. What waits between them is bounded by bytes on both sides, so a
//! slow engine fills first the items, then the frames, and then the server is no longer read;
//! status reports go on all the while.
//!
//! A task and not a thread, because Postgres sends every message by itself: a small transaction
//! comes as three, and waking a thread for each costs more than decoding it. The engine runs both
//! tasks on one thread that serves nobody else, so spooling to a slow disk holds up only the input.

use super::assemble::{Assembler, Step};
use super::describe::Describer;
use super::early::Early;
use super::{Item, NextXid, StreamLimits};
use crate::error::{InputError, Result};
use hw_pg::replication::{Acknowledger, Frame, ReplicationStream, StreamPositions};
use hw_store::StoreError;
use hw_store::segment::SpoolDir;
use hw_types::EndLsn;
use std::sync::atomic::{AtomicU64, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use tokio::sync::{Notify, mpsc};
use tokio::task::JoinHandle;

/// How often a spool that stays full is complained about.
const SPOOL_ALARM: Duration = Duration::from_secs(30);

#[derive(Debug, Default)]
struct Shared {
    /// Bytes of items that wait; changed by the task (up) and the consumer (down).
    waiting: AtomicUsize,
    /// Rings when the consumer has taken an item.
    room: Notify,
    open_memory: AtomicUsize,
    open_transactions: AtomicUsize,
    frames: AtomicU64,
    /// Since when a full spool has held up the stream; `None` when it does not.
    spool_full_since: Mutex<Option<Instant>>,
}

/// Where the input stands; for metrics and status.
#[derive(Clone, Copy, Debug)]
pub struct StreamStatus {
    /// Of the connection.
    pub positions: StreamPositions,
    /// Bytes of items that wait for the engine.
    pub waiting_bytes: usize,
    /// Bytes of memory that open transactions hold.
    pub open_bytes: usize,
    /// Number of open streamed transactions.
    pub open_transactions: usize,
    /// Messages received on this connection.
    pub messages: u64,
    /// How long a full spool has held up the stream.
    pub spool_full_for: Duration,
}

/// Tells a stream's status from anywhere.
#[derive(Clone, Debug)]
pub struct StatusHandle {
    shared: Arc<Shared>,
    acknowledger: Acknowledger,
}

impl StatusHandle {
    /// Where the input stands now.
    pub fn status(&self) -> StreamStatus {
        let shared = &self.shared;
        let full_since = *shared.spool_full_since.lock().expect("no panic under this lock");
        let load = |counter: &AtomicUsize| counter.load(Ordering::Relaxed);
        StreamStatus {
            positions: self.acknowledger.positions(),
            waiting_bytes: load(&shared.waiting),
            open_bytes: load(&shared.open_memory),
            open_transactions: load(&shared.open_transactions),
            messages: shared.frames.load(Ordering::Relaxed),
            spool_full_for: full_since.map_or(Duration::ZERO, |since| since.elapsed()),
        }
    }
}

/// The transactions of a slot, in commit order. Dropping it ends the connection.
#[derive(Debug)]
pub struct TransactionStream {
    items: mpsc::UnboundedReceiver<Result<Item>>,
    shared: Arc<Shared>,
    acknowledger: Acknowledger,
    next_xid: NextXid,
    task: JoinHandle<()>,
}

impl TransactionStream {
    /// Takes over a stream that has just started.
    ///
    /// - Takes: `early`, of a stream that sends changes before their transaction ends, which is told
    ///   when it cannot; `spool`, where large open transactions go; the source's next transaction id.
    ///   Must be called within the runtime.
    pub fn start(
        stream: ReplicationStream,
        early: Option<Early>,
        describer: Describer,
        spool: SpoolDir,
        limits: StreamLimits,
        next_xid: NextXid,
    ) -> TransactionStream {
        let shared = Arc::new(Shared::default());
        let acknowledger = stream.acknowledger();
        let (sender, items) = mpsc::unbounded_channel();
        let worker = Worker {
            stream,
            early,
            describer,
            assembler: Assembler::new(spool, limits, next_xid.clone()),
            limits,
            items: sender,
            shared: shared.clone(),
        };
        let task = tokio::spawn(hw_process::vital("the decoder of the log", worker.run()));
        TransactionStream { items, shared, acknowledger, next_xid, task }
    }

    /// The next item. Cancel-safe.
    ///
    /// - Errors: the connection is lost, the stream makes no sense, the spool's disk fails; the
    ///   stream has then ended, and [`InputError::policy`] says what to do.
    pub async fn recv(&mut self) -> Result<Item> {
        let item = self.items.recv().await;
        self.taken(item)
    }

    /// The same for a thread that is not part of the runtime.
    pub fn blocking_recv(&mut self) -> Result<Item> {
        let item = self.items.blocking_recv();
        self.taken(item)
    }

    /// An item that already waits, if there is one.
    pub fn try_recv(&mut self) -> Option<Result<Item>> {
        match self.items.try_recv() {
            Ok(item) => Some(self.taken(Some(item))),
            Err(mpsc::error::TryRecvError::Empty) => None,
            Err(mpsc::error::TryRecvError::Disconnected) => Some(Err(InputError::Closed)),
        }
    }

    fn taken(&mut self, item: Option<Result<Item>>) -> Result<Item> {
        let item = item.unwrap_or(Err(InputError::Closed))?;
        self.shared.waiting.fetch_sub(item.memory(), Ordering::AcqRel);
        self.shared.room.notify_one();
        Ok(item)
    }

    /// Declares everything up to `end` durable; the server is told within 50 ms.
    pub fn ack(&self, end: EndLsn) {
        self.acknowledger.ack(end);
    }

    /// A handle that acknowledges from another thread.
    pub fn acknowledger(&self) -> Acknowledger {
        self.acknowledger.clone()
    }

    /// The source's next transaction id, to be told when it is read.
    pub fn next_xid(&self) -> NextXid {
        self.next_xid.clone()
    }

    /// A handle that tells the status from anywhere.
    pub fn status(&self) -> StatusHandle {
        StatusHandle { shared: self.shared.clone(), acknowledger: self.acknowledger.clone() }
    }

    /// Tells the server the last acknowledgement, ends the connection and waits (a few seconds at
    /// most) until the slot is free.
    pub async fn close(self) {
        let TransactionStream { items, task, .. } = self;
        drop(items);
        let _ = task.await;
    }
}

struct Worker {
    stream: ReplicationStream,
    early: Option<Early>,
    describer: Describer,
    assembler: Assembler,
    limits: StreamLimits,
    items: mpsc::UnboundedSender<Result<Item>>,
    shared: Arc<Shared>,
}

/// The consumer has gone.
struct Gone;

impl Worker {
    async fn run(mut self) {
        loop {
            let frame = tokio::select! {
                biased;
                frame = self.stream.recv() => frame,
                () = self.items.closed() => break,
            };
            let taken = match frame {
                Ok(Frame::Keepalive { wal_end }) => Ok(self.assembler.keepalive(wal_end)),
                Ok(Frame::Data { payload }) => match self.describe_again().await {
                    Ok(()) => self.message(&payload).await,
                    Err(error) => Err(error),
                },
                Err(error) => Err(match &self.early {
                    Some(early) if early.ends(&error) => InputError::NeedsWhole(error),
                    _ => InputError::Pg(error),
                }),
            };
            // Frames that wait already would otherwise keep the socket's task from this thread.
            tokio::task::consume_budget().await;
            self.shared.frames.fetch_add(1, Ordering::Relaxed);
            self.shared.open_memory.store(self.assembler.open_memory(), Ordering::Relaxed);
            let open = self.assembler.open_transactions();
            self.shared.open_transactions.store(open, Ordering::Relaxed);
            match taken {
                Ok(None) => {}
                Ok(Some(item)) => {
                    if self.deliver(item).await.is_err() {
                        break;
                    }
                }
                Err(InputError::Closed) => break,
                Err(error) => {
                    let _ = self.items.send(Err(error));
                    break;
                }
            }
        }
        // The spools of open transactions go with the assembler.
        drop(self.assembler);
        self.stream.close().await;
    }

    /// Describes again what must be.
    async fn describe_again(&mut self) -> Result<()> {
        for table in self.describer.take_outdated() {
            for old in self.assembler.descriptions(table) {
                let new = self.describer.describe((*old).clone()).await?;
                self.assembler.describe_again(&old, new);
            }
        }
        Ok(())
    }

    async fn message(&mut self, payload: &[u8]) -> Result<Option<Item>> {
        let full_since = &self.shared.spool_full_since;
        let since = |now| *full_since.lock().expect("no panic under this lock") = now;
        let mut alarmed: Option<Instant> = None;
        let step = loop {
            match self.assembler.message(payload) {
                Err(InputError::Store(error @ StoreError::SpoolFull { asked, .. })) => {
                    if alarmed.is_none() {
                        since(Some(Instant::now()));
                    }
                    if alarmed.is_none_or(|at| at.elapsed() >= SPOOL_ALARM) {
                        alarmed = Some(Instant::now());
                        error
                            .diagnostic()
                            .at("the replication stream, which stands still until a transaction fits")
                            .log();
                    }
                    let room = self.assembler.spool().reserve_waiting(asked);
                    tokio::select! {
                        // What can never fit is only complained about.
                        Ok(_) = room => {}
                        () = tokio::time::sleep(SPOOL_ALARM) => {}
                        () = self.items.closed() => return Err(InputError::Closed),
                    }
                }
                step => break step?,
            }
        };
        if alarmed.is_some() {
            since(None);
        }
        match step {
            Step::Nothing => Ok(None),
            Step::Item(item) => Ok(Some(item)),
            Step::Describe(described) => {
                let relation = self.describer.describe(described.relation).await?;
                self.assembler.define(relation);
                Ok(None)
            }
        }
    }

    async fn deliver(&self, item: Item) -> Result<(), Gone> {
        while self.shared.waiting.load(Ordering::Acquire) >= self.limits.waiting_bytes {
            tokio::select! {
                () = self.shared.room.notified() => {}
                () = self.items.closed() => return Err(Gone),
            }
        }
        self.shared.waiting.fetch_add(item.memory(), Ordering::AcqRel);
        self.items.send(Ok(item)).map_err(|_| Gone)
    }
}
