//! Places of which one user may take only some.
//!
//! In: who wants to do something that only so many may do at a time. Out: a [`Place`], given back
//! when it is dropped. Invariant: whoever fills his own share keeps nobody else waiting; a user who
//! waits for one of his own holds none of everybody's.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

/// See the module.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    limit: usize,
    per_user: usize,
    users: Mutex<HashMap<Arc<str>, User>>,
}

#[derive(Debug)]
struct User {
    places: Arc<Semaphore>,
    /// Those who hold one of them or wait; the entry goes with the last.
    present: usize,
}

impl Places {
    /// - Takes: how many there are, and how many one user may take.
    pub fn new(limit: usize, per_user: usize) -> Arc<Places> {
        Arc::new(Places {
            all: Arc::new(Semaphore::new(limit)),
            limit,
            per_user: per_user.clamp(1, limit.max(1)),
            users: Mutex::default(),
        })
    }

    /// How many are taken.
    pub fn taken(&self) -> usize {
        self.limit.saturating_sub(self.all.available_permits())
    }

    /// How many there are.
    pub fn limit(&self) -> usize {
        self.limit
    }

    /// A place, when there is one at once.
    ///
    /// - Errors: whose bound it is that was met.
    pub fn take(self: &Arc<Places>, user: &str) -> Result<Place, Full> {
        let present = self.enter(user);
        let own = present.places.clone().try_acquire_owned().map_err(|_| Full::OfUser)?;
        let all = self.all.clone().try_acquire_owned().map_err(|_| Full::OfAll)?;
        Ok(Place { _all: all, _own: own, _present: present })
    }

    /// A place, as soon as there is one: each user's turn comes in order.
    pub async fn wait(self: &Arc<Places>, user: &str) -> Place {
        let present = self.enter(user);
        let closed = "invariant: the semaphores are never closed";
        let own = present.places.clone().acquire_owned().await.expect(closed);
        let all = self.all.clone().acquire_owned().await.expect(closed);
        Place { _all: all, _own: own, _present: present }
    }

    fn enter(self: &Arc<Places>, user: &str) -> Present {
        let mut users = self.users.lock();
        // The key is shared by all of the user's places.
        let key = users.get_key_value(user).map_or_else(|| user.into(), |(key, _)| key.clone());
        let entry = users.entry(Arc::clone(&key)).or_insert_with(|| User {
            places: Arc::new(Semaphore::new(self.per_user)),
            present: 0,
        });
        entry.present += 1;
        Present { of: self.clone(), places: entry.places.clone(), user: key }
    }
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The user has all of his.
    OfUser,
    /// All are taken.
    OfAll,
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place {
    // Given back before the user's entry may go.
    _all: OwnedSemaphorePermit,
    _own: OwnedSemaphorePermit,
    _present: Present,
}

/// Somebody who holds a place or waits for one.
#[derive(Debug)]
struct Present {
    of: Arc<Places>,
    user: Arc<str>,
    places: Arc<Semaphore>,
}

impl Drop for Present {
    fn drop(&mut self) {
        let mut users = self.of.users.lock();
        if let Some(user) = users.get_mut(&self.user) {
            user.present -= 1;
            if user.present == 0 {
                users.remove(&self.user);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use std::future::Future;
    use std::pin::pin;
    use std::task::{Context, Poll, Waker};

    use super::*;

    fn is_waiting(future: impl Future) -> bool {
        matches!(pin!(future).poll(&mut Context::from_waker(Waker::noop())), Poll::Pending)
    }

    #[test]
    fn one_user_takes_his_share_and_others_still_find_room() {
        let places = Places::new(3, 2);
        let first = places.take("amy").unwrap();
        let second = places.take("amy").unwrap();
        assert_eq!(places.take("amy").unwrap_err(), Full::OfUser);
        let _bob = places.take("bob").unwrap();
        assert_eq!(places.take("cleo").unwrap_err(), Full::OfAll);
        drop(first);
        assert_eq!(places.taken(), 2);
        let _third = places.take("amy").unwrap();
        drop(second);
    }

    #[tokio::test]
    async fn a_user_who_waits_for_his_own_place_keeps_nobody_waiting() {
        let places = Places::new(2, 1);
        let amy = places.wait("amy").await;
        let mut second = Box::pin(places.wait("amy"));
        assert!(is_waiting(second.as_mut()));
        let bob = places.wait("bob").await;
        drop(bob);
        drop(amy);
        drop(second.await);
        assert_eq!((places.taken(), places.users.lock().len()), (0, 0), "nothing is remembered");
    }
}
