//! Room for segments: a budget for each purpose, taken before bytes are written, and waited for.
//!
//! Invariant: `used <= max` for each budget, whoever writes beside whom.

use std::fmt;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::task::{Context, Poll, Waker};

use parking_lot::{Condvar, Mutex};

use crate::StoreError;

/// What segments are for. Each purpose has a budget of its own, so that the room that applying a
/// transaction needs is never taken by transactions that arrive meanwhile.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Purpose {
    /// What arrives and waits: open transactions, changes of tables that are being copied.
    Incoming,
    /// Runs of the sorter.
    Sorting,
    /// Writes that were decided and are being applied.
    Decided,
}

impl Purpose {
    pub(super) const ALL: [Purpose; 3] = [Purpose::Incoming, Purpose::Sorting, Purpose::Decided];
}

impl fmt::Display for Purpose {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(match self {
            Purpose::Incoming => "spools of incoming changes",
            Purpose::Sorting => "sorting spools",
            Purpose::Decided => "spools of decided writes",
        })
    }
}

/// Bytes that the segments of each purpose may have together.
#[derive(Clone, Copy, Debug)]
pub struct SpoolLimits {
    /// For [`Purpose::Incoming`].
    pub incoming: u64,
    /// For [`Purpose::Sorting`].
    pub sorting: u64,
    /// For [`Purpose::Decided`].
    pub decided: u64,
}

impl SpoolLimits {
    /// `bytes` for what arrives; applying takes what the disk has, one transaction at a time.
    pub fn incoming(bytes: u64) -> SpoolLimits {
        SpoolLimits { incoming: bytes, sorting: u64::MAX, decided: u64::MAX }
    }

    pub(super) fn of(&self, purpose: Purpose) -> u64 {
        match purpose {
            Purpose::Incoming => self.incoming,
            Purpose::Sorting => self.sorting,
            Purpose::Decided => self.decided,
        }
    }
}

/// The room of one purpose. Cloning shares it.
#[derive(Clone)]
pub(super) struct Budget(Arc<Inner>);

struct Inner {
    purpose: Purpose,
    max: u64,
    state: Mutex<State>,
    released: Condvar,
}

#[derive(Default)]
struct State {
    used: u64,
    /// Tasks that wait until something is released.
    waiting: Vec<Waker>,
}

impl Budget {
    pub(super) fn new(purpose: Purpose, max: u64) -> Budget {
        let (state, released) = (Mutex::default(), Condvar::new());
        Budget(Arc::new(Inner { purpose, max, state, released }))
    }

    pub(super) fn used(&self) -> u64 {
        self.0.state.lock().used
    }

    pub(super) fn max(&self) -> u64 {
        self.0.max
    }

    /// Takes `bytes` for something that has `own` bytes of this budget already.
    pub(super) fn take(&self, bytes: u64, own: u64) -> Result<(), StoreError> {
        let mut state = self.0.state.lock();
        match state.used.checked_add(bytes).filter(|sum| *sum <= self.0.max) {
            Some(sum) => {
                state.used = sum;
                Ok(())
            }
            None => Err(self.full(state.used, bytes, own.saturating_add(bytes))),
        }
    }

    /// Counts bytes that are there already.
    pub(super) fn count(&self, bytes: u64) {
        self.0.state.lock().used += bytes;
    }

    pub(super) fn release(&self, bytes: u64) {
        let mut state = self.0.state.lock();
        state.used = state.used.saturating_sub(bytes);
        let waiting = std::mem::take(&mut state.waiting);
        drop(state);
        self.0.released.notify_all();
        waiting.into_iter().for_each(Waker::wake);
    }

    fn full(&self, used: u64, asked: u64, needed: u64) -> StoreError {
        StoreError::SpoolFull { purpose: self.0.purpose, used, budget: self.0.max, asked, needed }
    }

    fn try_reserve(
        &self,
        state: &mut State,
        bytes: u64,
    ) -> Option<Result<Reservation, StoreError>> {
        if bytes > self.0.max {
            return Some(Err(self.full(state.used, bytes, bytes)));
        }
        let sum = state.used.checked_add(bytes).filter(|sum| *sum <= self.0.max)?;
        state.used = sum;
        Some(Ok(Reservation { budget: self.clone(), bytes }))
    }

    pub(super) fn reserve(&self, bytes: u64) -> Result<Reservation, StoreError> {
        let mut state = self.0.state.lock();
        let used = state.used;
        self.try_reserve(&mut state, bytes).unwrap_or_else(|| Err(self.full(used, bytes, bytes)))
    }

    pub(super) fn wait(&self, bytes: u64) -> Result<Reservation, StoreError> {
        let mut state = self.0.state.lock();
        loop {
            if let Some(result) = self.try_reserve(&mut state, bytes) {
                return result;
            }
            self.0.released.wait(&mut state);
        }
    }

    pub(super) fn wait_async(&self, bytes: u64) -> Waiting {
        Waiting { budget: self.clone(), bytes }
    }
}

impl fmt::Debug for Budget {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "Budget({:?}, {} of {})", self.0.purpose, self.used(), self.0.max)
    }
}

/// Room that is taken before it is used; what is not used comes back when it is dropped.
#[derive(Debug)]
pub struct Reservation {
    budget: Budget,
    bytes: u64,
}

impl Reservation {
    /// Bytes that are left of it.
    pub fn bytes(&self) -> u64 {
        self.bytes
    }

    /// Whether it is room of `budget`.
    pub(super) fn is_of(&self, budget: &Budget) -> bool {
        Arc::ptr_eq(&self.budget.0, &budget.0)
    }

    /// Hands up to `bytes` of it to somebody who releases them; returns how many.
    pub(super) fn draw(&mut self, bytes: u64) -> u64 {
        let drawn = bytes.min(self.bytes);
        self.bytes -= drawn;
        drawn
    }
}

impl Drop for Reservation {
    fn drop(&mut self) {
        if self.bytes > 0 {
            self.budget.release(self.bytes);
        }
    }
}

/// Ends when there is room, with the room.
#[derive(Debug)]
pub struct Waiting {
    budget: Budget,
    bytes: u64,
}

impl Future for Waiting {
    type Output = Result<Reservation, StoreError>;

    fn poll(self: Pin<&mut Self>, context: &mut Context<'_>) -> Poll<Self::Output> {
        let mut state = self.budget.0.state.lock();
        if let Some(result) = self.budget.try_reserve(&mut state, self.bytes) {
            return Poll::Ready(result);
        }
        if !state.waiting.iter().any(|waker| waker.will_wake(context.waker())) {
            state.waiting.push(context.waker().clone());
        }
        Poll::Pending
    }
}
