//! Subscriptions of clients that come back: what a client may not have received, and where results wait for it.
//!
//! In: what was told on a socket, what its client has shown to have received, the end of the socket. Out: the
//! subscription for whoever comes back as the same caller with the same query, and which rows to tell anew.
//! Invariants: nothing is resumed of which a part might be missing; rows that are told anew are whole, so that it
//! does no harm if they were received after all; what waits is bounded in time, for each user, and for all, and so are the bytes that
//! are remembered; a row that its caller may not see any more is never told anew.
//!
//! Source: `datasync.md` 21 R, "OURS".

use std::collections::{HashMap, VecDeque};
use std::hash::{BuildHasher as _, Hash, RandomState};
use std::sync::Arc;
use std::time::Duration;

use hw_http::budget::{Budget, Share, Shares};
use hw_http::holder::{Held, Most, Owner};
use hw_live::{Change, Commit, Key, Record, Subscription};
use hw_types::{EndLsn, Lsn};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::time::Instant;
use tokio_util::sync::CancellationToken;

use crate::caller::Caller;
use crate::wire::Resume;
use crate::work::Worker;

/// Rows that are remembered of one subscription until its client has shown to have received them.
const MOST_ROWS: usize = 1_000;
/// Bytes of them.
const MOST_BYTES: usize = 1 << 20;
/// What a row takes beside its key and its contents.
const OF_ROW: usize = 64;
/// Subscriptions of all users that wait.
const MOST_WAITING: usize = 10_000;
/// How long a socket that is given up for a newer one may take to end.
const ENDS_WITHIN: Duration = Duration::from_secs(2);

/// What was told of one subscription and may not have been received.
#[derive(Debug)]
pub(crate) struct Trail {
    told: VecDeque<Told>,
    rows: usize,
    bytes: usize,
    share: Share,
    /// The position behind which everything is here.
    complete_from: EndLsn,
    /// Whether what was told at that position itself may be missing.
    is_cut: bool,
    last: EndLsn,
}

#[derive(Debug)]
struct Told {
    position: EndLsn,
    at: Instant,
    rows: Vec<(Key, Option<Record>)>,
}

impl Told {
    fn bytes(&self) -> usize {
        let of = |(key, record): &(Key, Option<Record>)| {
            OF_ROW + key.len() + record.as_ref().map_or(0, |record| record.json().len())
        };
        self.rows.iter().map(of).sum()
    }
}

impl Trail {
    /// Of a subscription whose first result is of this position.
    ///
    /// - Takes: what counts the bytes that are remembered.
    fn new(first: EndLsn, share: Share) -> Trail {
        let told = VecDeque::new();
        Trail { told, rows: 0, bytes: 0, share, complete_from: first, is_cut: false, last: first }
    }

    /// The position of what was told last.
    pub fn last(&self) -> EndLsn {
        self.last
    }

    /// Notes what is about to be told.
    pub fn tell(&mut self, position: EndLsn, at: Instant, changes: &[Change]) {
        let now = |change: &Change| {
            let record = match change {
                Change::Insert { record, .. } => Some(record.clone()),
                Change::Update { after, .. } => Some(after.clone()),
                Change::Delete { .. } | Change::Passed { .. } => None,
            };
            (change.key().clone(), record)
        };
        let told = Told { position, at, rows: changes.iter().map(now).collect() };
        self.last = self.last.max(position);
        self.rows += told.rows.len();
        self.bytes += told.bytes();
        self.told.push_back(told);
        while !self.has_room() && self.forget(true) {}
    }

    /// Whether there is room for all that is remembered.
    fn has_room(&mut self) -> bool {
        let is_small = self.rows <= MOST_ROWS && self.bytes <= MOST_BYTES;
        is_small && self.share.resize(self.bytes).is_ok()
    }

    /// Forgets what was told first; false where nothing is left.
    ///
    /// - Takes: whether it may not have been received.
    fn forget(&mut self, is_cut: bool) -> bool {
        let Some(oldest) = self.told.pop_front() else { return false };
        self.rows -= oldest.rows.len();
        self.bytes -= oldest.bytes();
        (self.complete_from, self.is_cut) = (oldest.position, is_cut);
        true
    }

    /// The client has received everything that was told before this.
    pub fn received(&mut self, before: Instant) {
        while self.told.front().is_some_and(|oldest| oldest.at < before) {
            self.forget(false);
        }
        self.share.resize(self.bytes).expect("invariant: less may always be");
    }

    /// The rows to tell to a client that says how far it has come, each as it was told last; `None` where it
    /// may lack something else.
    fn missed(&self, position: &str) -> Option<Vec<Change>> {
        let position = EndLsn(position.parse::<Lsn>().ok()?);
        let reaches =
            position > self.complete_from || position == self.complete_from && !self.is_cut;
        if !reaches || position > self.last {
            return None;
        }
        // Positions of two commits may be equal: then which of them the client has is not known.
        let of_it = self.told.iter().filter(|told| told.position == position).count()
            + usize::from(self.complete_from == position);
        let is_later =
            |told: &&Told| told.position > position || of_it > 1 && told.position == position;
        let later = self.told.iter().filter(is_later);
        let mut rows: Vec<(&Key, Option<&Record>)> = Vec::new();
        let mut places: HashMap<&Key, usize> = HashMap::new();
        for (key, record) in later.flat_map(|told| &told.rows) {
            match places.get(key) {
                Some(place) => rows[*place].1 = record.as_ref(),
                None => {
                    places.insert(key, rows.len());
                    rows.push((key, record.as_ref()));
                }
            }
        }
        let change = |(key, record): (&Key, Option<&Record>)| match record {
            Some(record) => Change::Insert { key: key.clone(), record: record.clone() },
            None => Change::Delete { key: key.clone() },
        };
        Some(rows.into_iter().map(change).collect())
    }
}

/// What a query is, for comparing it with another one.
pub(crate) type Digest = u64;

/// A subscription that waits for its client.
pub(crate) struct Parked {
    pub caller: Arc<Caller>,
    pub query: Digest,
    pub subscription: Subscription,
    pub trail: Trail,
}

impl Parked {
    /// Goes on with it for a client that says how far it has come.
    ///
    /// - Returns: `None` where the client may lack something that is not remembered, or it is not known what has
    ///   become of what it lacks.
    pub async fn resume(self, worker: &Worker, position: &str) -> Option<Resumed> {
        let Parked { mut subscription, mut trail, .. } = self;
        if !trail.missed(position)?.is_empty() {
            // What was lost meanwhile is not told once more, but as gone.
            let now = Instant::now();
            for Commit { position, changes } in worker.settle(&mut subscription).await? {
                trail.tell(position, now, &changes);
            }
        }
        let missed = trail.missed(position)?;
        Some(Resumed { subscription, trail, missed })
    }
}

/// A subscription that goes on, and what is to be told of it first.
pub(crate) struct Resumed {
    pub subscription: Subscription,
    pub trail: Trail,
    pub missed: Vec<Change>,
}

/// See the module. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Lobby(Arc<Inner>);

struct Inner {
    state: Mutex<State>,
    stay: Duration,
    of_user: usize,
    /// Counts what trails remember.
    memory: Arc<Shares>,
    hasher: RandomState,
}

#[derive(Default)]
struct State {
    /// Those whose socket is there, with what ends it.
    attached: HashMap<String, (Socket, Arc<Caller>)>,
    waiting: HashMap<String, Waiting>,
    /// How many of whom wait.
    held: Held,
}

/// A socket as others see it.
#[derive(Clone)]
pub(crate) struct Socket {
    /// Its client has come back on another one.
    pub leave: CancellationToken,
    /// Closed when its subscriptions wait.
    ended: watch::Receiver<()>,
}

/// A subscription is on a socket for as long as this lives.
pub(crate) struct Attached {
    lobby: Lobby,
    id: String,
}

impl Drop for Attached {
    fn drop(&mut self) {
        self.lobby.0.state.lock().attached.remove(&self.id);
    }
}

struct Waiting {
    parked: Parked,
    until: Instant,
}

impl Waiting {
    fn owner(&self) -> Owner {
        self.parked.caller.holder().into()
    }
}

impl Socket {
    /// A socket, and what it drops when its subscriptions wait.
    pub fn new() -> (Socket, watch::Sender<()>) {
        let (end, ended) = watch::channel(());
        (Socket { leave: CancellationToken::new(), ended }, end)
    }
}

impl Lobby {
    /// - Takes: how long subscriptions wait, and how many of one user; the bytes of rows that are remembered at
    ///   most, one user's a quarter of it.
    pub fn new(stay: Duration, of_user: usize, bytes: usize) -> Lobby {
        let (state, hasher) = (Mutex::default(), RandomState::new());
        let memory = Shares::new(Budget::new(bytes), bytes, bytes / 4);
        Lobby(Arc::new(Inner { state, stay, of_user, memory, hasher }))
    }

    /// What a query is. Nobody can make another one that is the same.
    pub fn digest(&self, query: &impl Hash) -> Digest {
        self.0.hasher.hash_one(query)
    }

    /// Notes on which socket a subscription is, for as long as what it returns lives.
    pub fn attach(&self, id: &str, socket: &Socket, caller: &Arc<Caller>) -> Attached {
        let attached = (socket.clone(), caller.clone());
        self.0.state.lock().attached.insert(id.to_owned(), attached);
        Attached { lobby: self.clone(), id: id.to_owned() }
    }

    /// What is remembered of a subscription whose first result is of this position.
    pub fn trail(&self, caller: &Caller, first: EndLsn) -> Trail {
        Trail::new(first, self.0.memory.take(caller.holder(), 0).expect("invariant: nothing fits"))
    }

    /// Bytes of rows that are remembered, and how many there may be.
    pub fn memory(&self) -> (usize, usize) {
        (self.0.memory.held(), self.0.memory.limit())
    }

    /// The subscriptions of a socket that has ended wait for its client.
    pub fn park(&self, subscriptions: impl IntoIterator<Item = (String, Parked)>) {
        let until = Instant::now() + self.0.stay;
        let mut state = self.0.state.lock();
        let mut ids = Vec::new();
        for (id, parked) in subscriptions {
            if state.park(&id, Waiting { parked, until }, self.0.of_user) {
                ids.push(id);
            }
        }
        drop(state);
        if ids.is_empty() {
            return;
        }
        let lobby = self.clone();
        tokio::spawn(async move {
            tokio::time::sleep_until(until).await;
            let mut state = lobby.0.state.lock();
            for id in ids {
                // It may wait again, for longer.
                if state.waiting.get(&id).is_some_and(|waiting| waiting.until <= until) {
                    state.remove(&id);
                }
            }
        });
    }

    /// Takes a subscription for a client that has come back.
    ///
    /// - Returns: `None` where it is not there any more, or is another caller's or of another query.
    pub async fn take(&self, resume: &Resume, caller: &Caller, query: Digest) -> Option<Parked> {
        let id = &resume.subscription_id;
        // A socket whose client is gone may not have noticed it yet.
        let attached = self.0.state.lock().attached.get(id).cloned();
        if let Some((mut socket, of)) = attached {
            if !of.is_same(caller) {
                return None;
            }
            socket.leave.cancel();
            let _ = tokio::time::timeout(ENDS_WITHIN, socket.ended.changed()).await;
        }
        let mut state = self.0.state.lock();
        let Waiting { parked, until, .. } = state.waiting.get(id)?;
        let is_his = parked.caller.is_same(caller) && parked.query == query;
        if !is_his || *until <= Instant::now() {
            return None;
        }
        // Whatever becomes of it, it is asked for once.
        state.remove(id).map(|waiting| waiting.parked)
    }
}

impl State {
    /// Whether there was room for one more.
    fn park(&mut self, id: &str, waiting: Waiting, of_user: usize) -> bool {
        let most = Most { all: MOST_WAITING, each: of_user };
        let has_room = self.held.change(&waiting.owner(), (0, 1), most).is_ok();
        if has_room {
            self.waiting.insert(id.to_owned(), waiting);
        }
        has_room
    }

    fn remove(&mut self, id: &str) -> Option<Waiting> {
        let waiting = self.waiting.remove(id)?;
        self.held.give_back(&waiting.owner(), 1);
        Some(waiting)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(position: u64) -> EndLsn {
        EndLsn(Lsn(position))
    }

    fn nobody() -> Caller {
        Caller::anonymous(None, None)
    }

    fn trail(bytes: usize) -> (Lobby, Trail) {
        let lobby = Lobby::new(Duration::from_secs(60), 10, bytes);
        let trail = lobby.trail(&nobody(), at(10));
        (lobby, trail)
    }

    fn news(changes: &[(&str, Option<&str>)]) -> Vec<Change> {
        let change = |(key, record): &(&str, Option<&str>)| match record {
            Some(json) => Change::Insert { key: (*key).into(), record: Record::new(*json) },
            None => Change::Delete { key: (*key).into() },
        };
        changes.iter().map(change).collect()
    }

    fn missed(trail: &Trail, position: u64) -> Option<Vec<Change>> {
        trail.missed(&at(position).to_string())
    }

    #[test]
    fn ds_21_rows_that_may_have_been_missed_are_told_as_they_are() {
        let (_, mut trail) = trail(8 << 20);
        let now = Instant::now();
        assert_eq!(missed(&trail, 10), Some(news(&[])));
        assert_eq!(missed(&trail, 9), None, "of before the first result");
        assert_eq!(missed(&trail, 11), None, "of what was never told");
        trail.tell(at(20), now, &news(&[("1", Some("a")), ("2", Some("b"))]));
        trail.tell(at(30), now, &news(&[("1", Some("c")), ("2", None), ("3", Some("d"))]));
        trail.tell(at(30), now, &news(&[("3", None)]));
        let all = [("1", Some("c")), ("2", None), ("3", None)];
        for position in [10, 20] {
            assert_eq!(missed(&trail, position), Some(news(&all)), "one may have come and gone");
        }
        assert_eq!(missed(&trail, 30), Some(news(&all)), "one of two may have come");
        assert_eq!(missed(&trail, 31), None);
        assert_eq!(trail.missed("nonsense"), None);
    }

    #[test]
    fn ds_21_what_was_received_is_forgotten_and_what_is_too_much_cannot_be_resumed() {
        let (_, mut trail) = trail(8 << 20);
        let (early, late) = (Instant::now(), Instant::now() + Duration::from_secs(1));
        trail.tell(at(20), early, &news(&[("1", Some("a"))]));
        trail.tell(at(30), late, &news(&[("2", Some("b"))]));
        trail.received(late);
        assert_eq!(missed(&trail, 20), Some(news(&[("2", Some("b"))])));
        let row = |number: usize| news(&[(&*number.to_string(), Some("x"))]);
        for number in 0..MOST_ROWS {
            trail.tell(at(40), late, &row(number));
        }
        assert_eq!(missed(&trail, 30), None, "it was forgotten without being received");
        assert_eq!(missed(&trail, 40).map(|rows| rows.len()), Some(MOST_ROWS));
        trail.tell(at(50), late, &row(0));
        assert_eq!(missed(&trail, 40), None, "one of those of this position is gone");
        assert!(missed(&trail, 50).is_some());
    }

    /// Rows are as large as they are: whoever answers no ping is remembered up to a number of bytes, alone and
    /// with all others.
    #[test]
    fn f_69_what_may_not_have_been_received_is_bounded_in_bytes() {
        let now = Instant::now();
        let large = "x".repeat(2 * MOST_BYTES / 5);
        let (lobby, mut one) = trail(8 << 20);
        for position in 1..=3 {
            one.tell(at(10 + position), now, &news(&[("1", Some(&large))]));
        }
        assert_eq!(missed(&one, 11), None);
        assert!(missed(&one, 12).is_some(), "what is left can be resumed");
        assert!(lobby.memory().0 <= MOST_BYTES, "{:?}", lobby.memory());
        one.tell(at(20), now, &news(&[("1", Some(&"x".repeat(MOST_BYTES)))]));
        assert_eq!((missed(&one, 13), lobby.memory().0), (None, 0), "too large by itself");
        assert_eq!(missed(&one, 20), None, "which of it has come is not known");
        one.tell(at(21), now, &news(&[("1", Some("a"))]));
        assert_eq!(missed(&one, 21), Some(news(&[])));
        one.received(now + Duration::from_secs(1));
        assert_eq!((missed(&one, 21), lobby.memory().0), (Some(news(&[])), 0));
        // Many, of one user.
        let large = "x".repeat(100_000);
        let lobby = Lobby::new(Duration::from_secs(60), 10, 1 << 20);
        let caller = nobody();
        let mut trails: Vec<Trail> = (0..10).map(|_| lobby.trail(&caller, at(10))).collect();
        for trail in &mut trails {
            trail.tell(at(11), now, &news(&[("1", Some(&large))]));
        }
        assert!(lobby.memory().0 <= 1 << 18, "{:?}", lobby.memory());
        let known = trails.iter().filter(|trail| missed(trail, 10).is_some()).count();
        assert_eq!(known, 2, "the rest ask anew");
        drop(trails);
        assert_eq!(lobby.memory().0, 0);
    }

    #[test]
    fn f_69_a_subscription_is_attached_for_as_long_as_somebody_holds_it() {
        let (lobby, _) = trail(8 << 20);
        let (socket, _end) = Socket::new();
        let caller = Arc::new(nobody());
        let attached = ["a", "b"].map(|id| lobby.attach(id, &socket, &caller));
        assert_eq!(lobby.0.state.lock().attached.len(), 2);
        drop(attached);
        assert!(lobby.0.state.lock().attached.is_empty());
    }
}
