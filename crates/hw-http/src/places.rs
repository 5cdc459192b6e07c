//! Places of which one user may take only some.
//!
//! In: who wants to do something that only so many may do at a time. Out: a [`Place`], given back
//! when it is dropped. Invariants: whoever fills his own share keeps nobody else waiting; a user who
//! waits for one of his own holds none of everybody's; strangers together leave half to users.

use std::collections::HashMap;
use std::sync::Arc;

use parking_lot::Mutex;
use tokio::sync::{OwnedSemaphorePermit, Semaphore};

use crate::holder::Holder;

/// See the module.
#[derive(Debug)]
pub struct Places {
    all: Arc<Semaphore>,
    limit: usize,
    per_user: usize,
    /// Places beyond the first of each user, where these are fewer than all.
    further: Option<Arc<Semaphore>>,
    strangers: Arc<Semaphore>,
    users: Mutex<HashMap<Arc<str>, User>>,
}

#[derive(Debug)]
struct User {
    own: Own,
    /// Those who hold one of them or wait; the entry goes with the last.
    present: usize,
}

/// A user's share.
#[derive(Clone, Debug)]
struct Own {
    places: Arc<Semaphore>,
    /// The first of them, which takes from nobody's further ones.
    first: Option<Arc<Semaphore>>,
}

const NEVER_CLOSED: &str = "invariant: the semaphores are never closed";

impl Places {
    /// - Takes: how many there are, and how many one user may take.
    pub fn new(limit: usize, per_user: usize) -> Arc<Places> {
        Places::with(limit, per_user, None)
    }

    /// The same, of which those beyond the first of each user are `further` at most: a few users who each
    /// fill their share leave places for whoever has none.
    pub fn with_further(limit: usize, per_user: usize, further: usize) -> Arc<Places> {
        Places::with(limit, per_user, Some(Arc::new(Semaphore::new(further))))
    }

    fn with(limit: usize, per_user: usize, further: Option<Arc<Semaphore>>) -> Arc<Places> {
        Arc::new(Places {
            all: Arc::new(Semaphore::new(limit)),
            limit,
            per_user: per_user.clamp(1, limit.max(1)),
            further,
            strangers: Arc::new(Semaphore::new((limit / 2).max(1))),
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
    pub fn take<'k>(self: &Arc<Places>, holder: impl Into<Holder<'k>>) -> Result<Place, Full> {
        let holder = holder.into();
        let present = self.enter(holder);
        let own = try_one(&present.own.places).ok_or(Full::OfUser)?;
        let stranger = match holder {
            Holder::User(_) => None,
            Holder::Stranger(_) => Some(try_one(&self.strangers).ok_or(Full::OfAll)?),
        };
        let order = match (&present.own.first, &self.further) {
            (Some(first), Some(further)) => {
                Some(try_one(first).or_else(|| try_one(further)).ok_or(Full::OfAll)?)
            }
            _ => None,
        };
        let all = try_one(&self.all).ok_or(Full::OfAll)?;
        Ok(Place { _all: all, _order: order, _stranger: stranger, _own: own, _present: present })
    }

    /// A place, as soon as there is one: each user's turn comes in order.
    pub async fn wait<'k>(self: &Arc<Places>, holder: impl Into<Holder<'k>>) -> Place {
        let holder = holder.into();
        let present = self.enter(holder);
        let own = one(&present.own.places).await;
        let stranger = match holder {
            Holder::User(_) => None,
            Holder::Stranger(_) => Some(one(&self.strangers).await),
        };
        let order = match (&present.own.first, &self.further) {
            (Some(first), Some(further)) => Some(tokio::select! {
                biased;
                first = one(first) => first,
                further = one(further) => further,
            }),
            _ => None,
        };
        let all = one(&self.all).await;
        Place { _all: all, _order: order, _stranger: stranger, _own: own, _present: present }
    }

    fn enter(self: &Arc<Places>, holder: Holder<'_>) -> Present {
        let (Holder::User(user) | Holder::Stranger(user)) = holder;
        let mut users = self.users.lock();
        // The key is shared by all of the user's places.
        let key = users.get_key_value(user).map_or_else(|| user.into(), |(key, _)| key.clone());
        let entry = users.entry(Arc::clone(&key)).or_insert_with(|| {
            let first = self.further.as_ref().map(|_| Arc::new(Semaphore::new(1)));
            User { own: Own { places: Arc::new(Semaphore::new(self.per_user)), first }, present: 0 }
        });
        entry.present += 1;
        Present { of: self.clone(), own: entry.own.clone(), user: key }
    }
}

async fn one(of: &Arc<Semaphore>) -> OwnedSemaphorePermit {
    of.clone().acquire_owned().await.expect(NEVER_CLOSED)
}

fn try_one(of: &Arc<Semaphore>) -> Option<OwnedSemaphorePermit> {
    of.clone().try_acquire_owned().ok()
}

/// Why there is no place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Full {
    /// The user has all of his.
    OfUser,
    /// All are taken that he may take.
    OfAll,
}

/// A place that is taken.
#[derive(Debug)]
pub struct Place {
    // Given back before the user's entry may go.
    _all: OwnedSemaphorePermit,
    /// His first, or one of the further ones of all.
    _order: Option<OwnedSemaphorePermit>,
    _stranger: Option<OwnedSemaphorePermit>,
    _own: OwnedSemaphorePermit,
    _present: Present,
}

/// Somebody who holds a place or waits for one.
#[derive(Debug)]
struct Present {
    of: Arc<Places>,
    user: Arc<str>,
    own: Own,
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

    /// F-69: four users, each with a quarter, do not take all.
    #[tokio::test]
    async fn f_69_users_who_fill_their_shares_leave_places_for_those_who_have_none() {
        let places = Places::with_further(8, 2, 2);
        let mut held = Vec::new();
        for user in ["a", "b", "c", "d"] {
            held.push(places.wait(user).await);
        }
        held.push(places.wait("a").await);
        held.push(places.take("b").unwrap());
        assert_eq!(places.take("c").unwrap_err(), Full::OfAll);
        let mut second = Box::pin(places.wait("c"));
        assert!(is_waiting(second.as_mut()), "two of them have a further one");
        held.push(places.take("eve").unwrap());
        held.push(places.wait("fay").await);
        assert_eq!(places.taken(), 8);
        drop(held.remove(2));
        drop(second.await);
        drop(held);
        assert_eq!((places.taken(), places.users.lock().len()), (0, 0));
    }

    /// F-69: whoever shows no token does not keep out those who do.
    #[test]
    fn f_69_strangers_together_take_half() {
        let places = Places::new(6, 2);
        let keys: Vec<String> = (0..4).map(|number| format!("anonymous {number}")).collect();
        let take = |key: &String| places.take(Holder::Stranger(key));
        let mut held: Vec<Place> = keys[..3].iter().map(|key| take(key).unwrap()).collect();
        assert_eq!(take(&keys[3]).unwrap_err(), Full::OfAll);
        held.push(places.take("amy").unwrap());
        drop(held.remove(0));
        take(&keys[3]).unwrap();
    }
}
