//! Who must wake when something is published: an index from buckets, lookups and users to streams.
//!
//! One dispatcher per process reads each publication's changes and rings the [`Bell`] of the
//! streams that use them, so that a publication costs its changes plus their listeners, never the
//! number of clients (`design/engine.md` 7, 17).
//!
//! Invariant: a stream that listens with the keys of a state number `n` is rung for every
//! publication behind `n` that changes one of them, also for those dispatched before it began to
//! listen.

use std::collections::HashMap;
use std::collections::hash_map::Entry;
use std::hash::Hash;
use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};

use foldhash::fast::RandomState;
use parking_lot::Mutex;
use tokio::sync::Notify;
use tokio_util::sync::CancellationToken;

use crate::source::{
    BucketKeyOf, Changes, Interest, InterestOf, LookupKeyOf, Source, View, WakeKey,
};

/// A stream's ear: rung by the dispatcher, heard by the stream's task.
#[derive(Debug)]
pub struct Bell {
    /// Number of the first publication that concerns the stream and was not heard yet, or
    /// [`IDLE`].
    first: AtomicU64,
    notify: Notify,
}

impl Bell {
    fn ring(&self, number: u64) {
        if self.first.fetch_min(number, Ordering::AcqRel) == IDLE {
            self.notify.notify_one();
        }
    }

    /// A bell that nobody has rung.
    fn idle() -> Bell {
        Bell { first: AtomicU64::new(IDLE), notify: Notify::new() }
    }

    /// The first publication that may concern the stream since this was last asked.
    pub fn heard(&self) -> Option<u64> {
        let first = self.first.swap(IDLE, Ordering::AcqRel);
        (first != IDLE).then_some(first)
    }

    /// Whether it was rung and not heard.
    pub fn is_rung(&self) -> bool {
        self.first.load(Ordering::Acquire) != IDLE
    }

    /// Waits until it is rung; at once when it was.
    pub async fn rung(&self) {
        while !self.is_rung() {
            self.notify.notified().await;
        }
    }
}

/// No publication; greater than every number, so that the earliest wins by `min`.
const IDLE: u64 = u64::MAX;

/// The index.
#[derive(Debug)]
pub struct Hub<V: View> {
    index: Mutex<Index<BucketKeyOf<V>, LookupKeyOf<V>>>,
}

#[derive(Debug)]
struct Index<B, L> {
    /// Publications up to this one have been dispatched.
    dispatched: u64,
    buckets: Listeners<B>,
    lookups: Listeners<L>,
    /// Every stream listens for its user's write checkpoint, so this is also the list of all.
    users: Listeners<Arc<str>>,
}

type Listeners<K> = HashMap<K, Vec<Arc<Bell>>, RandomState>;

impl<V: View> Default for Hub<V> {
    fn default() -> Hub<V> {
        Hub {
            index: Mutex::new(Index {
                dispatched: 0,
                buckets: HashMap::default(),
                lookups: HashMap::default(),
                users: HashMap::default(),
            }),
        }
    }
}

impl<V: View> Hub<V> {
    /// Starts to listen for a user. Buckets and lookups come with [`Listener::attend`].
    pub fn listen(self: &Arc<Hub<V>>, user_key: &str) -> Listener<V> {
        let listener = Listener {
            hub: self.clone(),
            bell: Arc::new(Bell::idle()),
            user: user_key.into(),
            interest: Interest { buckets: Vec::new(), lookups: Vec::new() },
        };
        add(&mut self.index.lock().users, listener.user.clone(), &listener.bell);
        listener
    }

    /// Dispatches publications until the token is cancelled or the engine is gone.
    pub async fn run<S: Source<View = V>>(&self, source: S, stop: CancellationToken) {
        let mut watch = source.watch();
        loop {
            let view = watch.borrow_and_update().clone();
            hw_process::failpoint::reached("hub::dispatch");
            self.dispatch(&*view);
            // The view pins a store snapshot: it is not kept until the next one comes.
            drop(view);
            tokio::select! {
                () = stop.cancelled() => return,
                changed = watch.changed() => if changed.is_err() { return },
            }
        }
    }

    fn dispatch(&self, view: &V) {
        let mut index = self.index.lock();
        let (behind, now) = (index.dispatched, view.number());
        if now <= behind {
            return;
        }
        let changes = view.changes_since(behind);
        index.dispatched = now;
        let ring = |bells: Option<&Vec<Arc<Bell>>>| {
            bells.into_iter().flatten().for_each(|bell| bell.ring(behind + 1));
        };
        if changes.everything() {
            index.users.values().for_each(|bells| ring(Some(bells)));
            return;
        }
        changes.each_bucket(&mut |key| ring(index.buckets.get(&key)));
        changes.each_lookup(&mut |key| ring(index.lookups.get(&key)));
        changes.each_user(&mut |user| ring(index.users.get(user)));
    }

    /// Up to which publication everyone concerned has been rung.
    pub fn dispatched(&self) -> u64 {
        self.index.lock().dispatched
    }

    /// Number of distinct (buckets, lookups, users) that somebody listens for.
    pub fn sizes(&self) -> (usize, usize, usize) {
        let index = self.index.lock();
        (index.buckets.len(), index.lookups.len(), index.users.len())
    }
}

/// One stream in the index; leaves it when dropped.
#[derive(Debug)]
pub struct Listener<V: View> {
    hub: Arc<Hub<V>>,
    bell: Arc<Bell>,
    user: Arc<str>,
    interest: InterestOf<V>,
}

impl<V: View> Listener<V> {
    /// Its bell.
    pub fn bell(&self) -> &Arc<Bell> {
        &self.bell
    }

    /// What it listens for, in the order in which it was given.
    pub fn interest(&self) -> &InterestOf<V> {
        &self.interest
    }

    /// Listens for `interest` from now on, which was read from the state `number`.
    pub fn attend(&mut self, number: u64, interest: InterestOf<V>) {
        let mut index = self.hub.index.lock();
        let index = &mut *index;
        move_keys(&mut index.buckets, &self.interest.buckets, &interest.buckets, &self.bell);
        move_keys(&mut index.lookups, &self.interest.lookups, &interest.lookups, &self.bell);
        if index.dispatched > number {
            // Those publications were dispatched without these keys.
            self.bell.ring(number + 1);
        }
        self.interest = interest;
    }
}

impl<V: View> Drop for Listener<V> {
    fn drop(&mut self) {
        let mut index = self.hub.index.lock();
        let index = &mut *index;
        move_keys(&mut index.buckets, &self.interest.buckets, &[], &self.bell);
        move_keys(&mut index.lookups, &self.interest.lookups, &[], &self.bell);
        remove(&mut index.users, self.user.clone(), &self.bell);
    }
}

fn add<K: Eq + Hash>(listeners: &mut Listeners<K>, key: K, bell: &Arc<Bell>) {
    // Most keys have one listener: no room for four.
    listeners.entry(key).or_insert_with(|| Vec::with_capacity(1)).push(bell.clone());
}

fn remove<K: Eq + Hash>(listeners: &mut Listeners<K>, key: K, bell: &Arc<Bell>) {
    let Entry::Occupied(mut entry) = listeners.entry(key) else { return };
    let bells = entry.get_mut();
    if let Some(at) = bells.iter().position(|other| Arc::ptr_eq(other, bell)) {
        bells.swap_remove(at);
    }
    if bells.is_empty() {
        entry.remove();
    }
}

/// Replaces the keys `old` of a listener by `new`; either may name a key twice.
///
/// Between two states of a user who has thousands of buckets a few differ: what both begin and
/// end with stays where it is.
fn move_keys<K: WakeKey>(listeners: &mut Listeners<K>, old: &[K], new: &[K], bell: &Arc<Bell>) {
    let same = |(a, b): &(&K, &K)| a == b;
    let head = old.iter().zip(new).take_while(same).count();
    let (begin, old, new) = (&new[..head], &old[head..], &new[head..]);
    let tail = old.iter().rev().zip(new.iter().rev()).take_while(same).count();
    let (new, end) = new.split_at(new.len() - tail);
    let (old, new) = (distinct(&old[..old.len() - tail]), distinct(new));
    let stays = |key: &K| begin.contains(key) || end.contains(key);
    for &key in old.iter().filter(|key| new.binary_search(key).is_err() && !stays(key)) {
        remove(listeners, key, bell);
    }
    for &key in new.iter().filter(|key| old.binary_search(key).is_err() && !stays(key)) {
        add(listeners, key, bell);
    }
}

fn distinct<K: WakeKey>(keys: &[K]) -> Vec<K> {
    let mut keys = keys.to_vec();
    keys.sort_unstable();
    keys.dedup();
    keys
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    proptest! {
        /// Keys repeat and lists are alike, as those of buckets whose names have one hash.
        #[test]
        fn a_listener_is_under_the_keys_that_it_names_and_no_others(
            states in prop::collection::vec(prop::collection::vec(0_u8..6, 0..8), 1..6),
        ) {
            let mut listeners: Listeners<u8> = Listeners::default();
            let (bell, other) = (Arc::new(Bell::idle()), Arc::new(Bell::idle()));
            add(&mut listeners, 3, &other);
            let mut old = Vec::new();
            for new in states {
                move_keys(&mut listeners, &old, &new, &bell);
                for key in 0..6 {
                    let bells = listeners.get(&key).map_or(&[][..], |bells| bells);
                    let here = bells.iter().filter(|b| Arc::ptr_eq(b, &bell)).count();
                    prop_assert_eq!(here, usize::from(new.contains(&key)));
                    let others = bells.iter().filter(|b| Arc::ptr_eq(b, &other)).count();
                    prop_assert_eq!(others, usize::from(key == 3));
                }
                old = new;
            }
        }
    }
}
