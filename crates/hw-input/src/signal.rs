//! What the driver says to the engine's sequencer, through one queue that is bounded by bytes.
//!
//! An item of the log takes room in the queue until it is handled, so a slow store slows the
//! reading of the log and never grows memory (E-5). Everything else is small and waits for its turn.

use crate::entry::{Behind, Control, CopiedTable, Reading};
use crate::error::{InputError, Result, code};
use crate::transactions::Item;
use hw_store::StoreError;
use hw_types::{Diagnostic, EndLsn, Lsn, OpId, RelationId, Row, TableName};
use std::sync::Arc;
use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};

/// What comes to the sequencer.
pub enum Signal {
    /// A stream of the source begins; its items follow.
    Begins {
        /// Its number in this process.
        session: u64,
        /// Where it begins: what the source had confirmed to it.
        confirmed: EndLsn,
        /// Told when all that the stream repeats was found to be what was applied: from then on
        /// positions may be confirmed to it. Dropped when there is no such moment.
        compared: oneshot::Sender<()>,
    },
    /// From the log.
    Item {
        /// Number of the stream.
        session: u64,
        /// What came.
        item: Item,
        /// The room that it takes in the queue until it is handled.
        room: Option<OwnedSemaphorePermit>,
    },
    /// The source was asked, or does not answer: nothing says that the store lacks what clients were
    /// shown, and they are answered from what it holds.
    Asked,
    /// Clients were shown what the store lacks: nobody is answered from it, until everything has been
    /// copied and compared.
    Behind {
        /// Answered when that is durable.
        done: oneshot::Sender<()>,
    },
    /// Numbers that clients are given begin anew.
    NewEpoch {
        /// Above this one.
        above: OpId,
        /// Answered when that is durable.
        done: oneshot::Sender<()>,
    },
    /// From a table copy.
    Copy(CopySignal),
    /// What the catalog of the source shows.
    Control(Control),
    /// A table is to be replicated because somebody reads it.
    Demand {
        /// Which.
        table: TableName,
        /// Answered when that is durable.
        done: oneshot::Sender<()>,
    },
    /// A second has passed.
    Tick {
        /// Seconds since 1970.
        now: u64,
    },
    /// There is something to look at: an outcome, a configuration, a look at the catalog.
    Wake,
    /// The process ends.
    Stop,
}

/// What a table copy tells, in this order. A reply that is dropped says that the engine has thrown the copy
/// away, for a reason that `ended` tells, or began again without it.
pub enum CopySignal {
    /// From now on changes of tables that are not in the replica are kept.
    Begin {
        /// The copy's number in this process.
        copy: u64,
        /// Everything is copied anew under one X, from this slot; nothing is shown until it is
        /// complete.
        whole: Option<String>,
        /// Answered when changes are kept.
        reply: oneshot::Sender<()>,
        /// Answered when its tables have entered, or when the copy was thrown away, with the reason.
        ended: oneshot::Sender<std::result::Result<(), CopyDropped>>,
    },
    /// The snapshot is taken.
    Boundary {
        /// The copy's number.
        copy: u64,
        /// X: transactions below are in the copy.
        lsn: Lsn,
        /// The tables that are copied.
        tables: Vec<CopiedTable>,
        /// Answered with what takes their rows.
        reply: oneshot::Sender<Box<dyn Load>>,
    },
    /// All rows are loaded. The tables enter when what `behind` says has happened.
    Loaded {
        /// The copy's number.
        copy: u64,
        /// What the tables wait for.
        behind: Behind,
        /// How they were read.
        reading: Reading,
    },
    /// The copy came to nothing.
    Failed,
}

/// Why the engine threw a copy away.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopyDropped {
    /// The reason, and what somebody can do about it.
    pub why: Box<Diagnostic>,
    /// A table that cannot be read in key ranges for the time being.
    pub one_snapshot: Option<RelationId>,
}

impl CopyDropped {
    /// What was written to the tables of a copy meanwhile, as far as these are known, does not fit.
    pub fn outgrown(tables: &[String], full: &StoreError) -> CopyDropped {
        let tables = match tables {
            [] => "tables that are to be copied".to_owned(),
            tables => tables.join(", "),
        };
        let what = format!(
            "what is written to {tables} while they are copied does not fit: {full}; the copy begins again"
        );
        let why = Diagnostic::error(code::COPY_OUTGROWN, what).mend(
            "raise limits.spool_bytes; or write less to these tables until they are copied, and end open \
             transactions that keep the copy from beginning",
        );
        CopyDropped { why: Box::new(why), one_snapshot: None }
    }

    /// The table could not be read in key ranges.
    pub fn of_ranges(table: RelationId, why: String) -> CopyDropped {
        CopyDropped { why: Box::new(again(why)), one_snapshot: Some(table) }
    }
}

/// A reason that passes by itself.
fn again(why: String) -> Diagnostic {
    Diagnostic::error(code::SESSION, format!("a copy begins again: {why}"))
}

impl From<String> for CopyDropped {
    fn from(why: String) -> CopyDropped {
        CopyDropped { why: Box::new(again(why)), one_snapshot: None }
    }
}

/// Takes the rows of a copy, on a thread of its own.
pub trait Load: Send {
    /// Takes batches until the channel closes.
    ///
    /// - Errors: the store's. What was loaded so far is dropped with the copy.
    fn load(self: Box<Self>, batches: mpsc::Receiver<Rows>) -> std::result::Result<(), StoreError>;
}

/// Rows of one relation, as a copy worker read them.
#[derive(Debug)]
pub struct Rows {
    /// Of which table.
    pub relation: RelationId,
    /// In no order.
    pub rows: Vec<Row>,
    /// Whether the table has no more rows.
    pub last: bool,
}

/// The way into the queue. Clones share it.
#[derive(Clone)]
pub struct Inlet {
    signals: mpsc::Sender<Signal>,
    /// Bytes of items that may still come.
    room: Arc<Semaphore>,
    bytes: usize,
}

impl Inlet {
    /// A queue in which items of so many bytes may wait.
    pub fn new(bytes: usize) -> (Inlet, mpsc::Receiver<Signal>) {
        let (signals, queue) = mpsc::channel(1024);
        (Inlet { signals, room: Arc::new(Semaphore::new(bytes)), bytes }, queue)
    }

    /// Hands an item over when there is room for it. One item always fits.
    pub async fn hand_over(&self, session: u64, item: Item) -> Result<()> {
        let bytes = item.memory().clamp(1, self.bytes) as u32;
        let room = self.room.clone().acquire_many_owned(bytes).await;
        self.send(Signal::Item { session, item, room: room.ok() }).await
    }

    /// Hands a signal over.
    ///
    /// - Errors: [`InputError::Closed`] when nobody takes signals any more.
    pub async fn send(&self, signal: Signal) -> Result<()> {
        self.signals.send(signal).await.map_err(|_| InputError::Closed)
    }

    /// Lets whoever takes signals look around. A full queue needs no wake-up: somebody takes from it.
    pub fn wake(&self) {
        let _ = self.signals.try_send(Signal::Wake);
    }

    /// Waits until nobody takes signals any more.
    pub async fn closed(&self) {
        self.signals.closed().await;
    }

    /// Bytes of items that may wait.
    pub fn limit(&self) -> usize {
        self.bytes
    }

    /// Bytes of items that wait.
    pub fn waiting(&self) -> usize {
        self.bytes.saturating_sub(self.room.available_permits())
    }
}
