//! Bytes that many holders together may keep, and whether they are near the bound.
//!
//! In: what is kept and given back. Out: whether it is short, or whether a user may keep more.
//! Nobody waits here: who reads the answer makes what he makes smaller, or refuses, or comes again; that he will is
//! known here ([`Waiting`]).

use parking_lot::Mutex;
use std::sync::Arc;
use std::sync::atomic::{AtomicUsize, Ordering};

use crate::holder::{Full, Held, Holder, Most, Owner};

/// Bytes held of a bound.
#[derive(Debug, Default)]
pub struct Budget {
    held: AtomicUsize,
    limit: usize,
}

impl Budget {
    /// A budget of `limit` bytes.
    pub fn new(limit: usize) -> Arc<Budget> {
        Arc::new(Budget { held: AtomicUsize::new(0), limit })
    }

    /// Whether as much as allowed is held.
    pub fn is_short(&self) -> bool {
        self.held() >= self.limit
    }

    /// Bytes held now.
    pub fn held(&self) -> usize {
        self.held.load(Ordering::Relaxed)
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// Counts bytes that are held from now on.
    pub fn add(&self, bytes: usize) {
        self.held.fetch_add(bytes, Ordering::Relaxed);
    }

    /// Counts bytes that were added as no longer held.
    pub fn give_back(&self, bytes: usize) {
        self.held.fetch_sub(bytes, Ordering::Relaxed);
    }
}

/// Bytes of a budget that somebody keeps for long, each at most a share and all together at most a limit:
/// one alone takes nothing from others, and strangers leave half to users.
#[derive(Debug)]
pub struct Shares {
    budget: Arc<Budget>,
    most: Most,
    held: Mutex<Held>,
}

impl Shares {
    /// All together take at most `limit` bytes, each at most `share`. They count in `budget`, too,
    /// whose bound they do not ask.
    pub fn new(budget: Arc<Budget>, limit: usize, share: usize) -> Arc<Shares> {
        let most = Most { all: limit, each: share };
        Arc::new(Shares { budget, most, held: Mutex::default() })
    }

    /// Counts bytes for somebody until the answer is dropped.
    ///
    /// - Errors: his share, or that of all, would be exceeded.
    pub fn take<'k>(
        self: &Arc<Shares>,
        holder: impl Into<Holder<'k>>,
        bytes: usize,
    ) -> Result<Share, Full> {
        let owner = Some(Owner::from(holder.into()));
        let mut share = Share { shares: self.clone(), owner, bytes: 0 };
        share.grow(bytes)?;
        Ok(share)
    }

    /// Notes that somebody comes again until there is room, for as long as what it returns lives.
    ///
    /// - Takes: what left no room for him.
    pub fn wait<'k>(self: &Arc<Shares>, holder: impl Into<Holder<'k>>, full: Full) -> Waiting {
        let owner = Owner::from(holder.into());
        self.held.lock().wait(&owner, full);
        Waiting { shares: self.clone(), owner, full }
    }

    /// Whether somebody holds half of his share, or all together half of what they may, or others wait for what
    /// he holds: who takes nothing of what waits for him is not waited for then.
    pub fn is_pressed<'k>(&self, holder: impl Into<Holder<'k>>) -> bool {
        self.held.lock().is_pressed(&Owner::from(holder.into()), self.most)
    }

    /// Bytes that are held now.
    pub fn held(&self) -> usize {
        self.held.lock().all()
    }

    /// The bound.
    pub fn limit(&self) -> usize {
        self.most.all
    }

    /// The bound of each.
    pub fn share(&self) -> usize {
        self.most.each
    }

    /// Counts bytes in the budget alone: for what is so small that the number of holders bounds it.
    pub fn count(self: &Arc<Shares>, bytes: usize) -> Share {
        self.budget.add(bytes);
        Share { shares: self.clone(), owner: None, bytes }
    }
}

/// Bytes that count while this lives.
#[derive(Debug)]
pub struct Share {
    shares: Arc<Shares>,
    /// Whose share they take from; `None` for nobody's.
    owner: Option<Owner>,
    bytes: usize,
}

impl Share {
    /// Counts more bytes for the same holder.
    ///
    /// - Errors: as [`Shares::take`]; what it held before it holds.
    pub fn grow(&mut self, bytes: usize) -> Result<(), Full> {
        self.resize(self.bytes + bytes)
    }

    /// Counts this many bytes from now on; fewer than before may always be.
    ///
    /// - Errors: as [`Shares::take`]; what it held before it holds.
    pub fn resize(&mut self, bytes: usize) -> Result<(), Full> {
        if let Some(owner) = &self.owner {
            let mut held = self.shares.held.lock();
            held.change(owner, (self.bytes, bytes), self.shares.most)?;
        }
        self.shares.budget.add(bytes);
        self.shares.budget.give_back(self.bytes);
        self.bytes = bytes;
        Ok(())
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.shares.budget.give_back(self.bytes);
        if let Some(owner) = &self.owner {
            self.shares.held.lock().give_back(owner, self.bytes);
        }
    }
}

/// Somebody waits for room while this lives.
#[derive(Debug)]
pub struct Waiting {
    shares: Arc<Shares>,
    owner: Owner,
    full: Full,
}

impl Drop for Waiting {
    fn drop(&mut self) {
        self.shares.held.lock().wait_no_more(&self.owner, self.full);
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_user_takes_his_share_and_nobody_elses() {
        let budget = Budget::new(100);
        let shares = Shares::new(budget.clone(), 30, 20);
        let first = shares.take("amy", 15).expect("there is room");
        assert_eq!(shares.take("amy", 6).err(), Some(Full::Own));
        let second = shares.take("bob", 15).expect("amy took nothing of his");
        assert_eq!(shares.take("cleo", 1).err(), Some(Full::All));
        assert_eq!(budget.held(), 30);
        drop((first, second));
        assert_eq!(budget.held(), 0);
        assert!(shares.held.lock().is_empty());
        assert!(shares.take("amy", 20).is_ok());
    }

    #[test]
    fn what_grows_is_bounded_and_given_back_as_a_whole() {
        let budget = Budget::new(100);
        let shares = Shares::new(budget.clone(), 30, 20);
        let mut first = shares.take("amy", 0).expect("there is room");
        first.grow(8).expect("there is room");
        assert!(!shares.is_pressed("amy") && !shares.is_pressed("bob"));
        first.grow(4).expect("there is room");
        assert!(shares.is_pressed("amy") && !shares.is_pressed("bob"));
        assert_eq!(first.grow(9), Err(Full::Own));
        first.resize(3).expect("fewer may always be");
        assert_eq!((shares.held(), budget.held()), (3, 3));
        first.resize(12).expect("there is room");
        let second = shares.take("bob", 18).expect("there is room");
        assert_eq!(first.grow(1), Err(Full::All));
        assert!(shares.is_pressed("cleo"), "all together hold half");
        assert_eq!((shares.held(), budget.held()), (30, 30));
        drop((first, second));
        assert_eq!((shares.held(), budget.held()), (0, 0));
        assert!(shares.held.lock().is_empty());
    }

    #[test]
    fn what_is_small_takes_nothing_from_what_is_large() {
        let budget = Budget::new(100);
        let shares = Shares::new(budget.clone(), 30, 20);
        let small: Vec<Share> = (0..40).map(|_| shares.count(1)).collect();
        assert_eq!(budget.held(), 40);
        let large = shares.take("amy", 20).expect("there is room");
        assert_eq!(budget.held(), 60);
        drop((small, large));
        assert_eq!(budget.held(), 0);
    }
}
