//! One task per socket: performs the session's effects and reports back.
//!
//! In: frames, ends of tasks, time. Out: frames. All decisions about messages are the session's; what is
//! decided here is when the socket itself ends. Invariants: as whom a task runs is settled when it starts; all
//! tasks and transactions of a socket end with it.

use std::collections::HashMap;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, WebSocket};
use futures_util::future::{AbortHandle, Abortable, Aborted, BoxFuture, FutureExt as _};
use futures_util::stream::{FuturesUnordered, StreamExt as _};
use hw_http::places::Place;
use hw_live::{Commit, First, LiveError, News, Subscription};
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::caller::Caller;
use crate::failure::Failure;
use crate::hooks;
use crate::server::DataSync;
use crate::state::{Effect, Event, Limits, Outcome, Session, Task, TaskId};
use crate::work::Worker;
use hw_write::Interactive;

/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Whoever is not heard for so long is gone.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// Results whose changes are told in one go, so that nobody else waits for long.
const CHANGED_AT_ONCE: usize = 1_000;
/// How long a socket that ends waits for its peer to take the end.
const LINGER: Duration = Duration::from_secs(1);

/// Why a socket ends, as close codes: RFC 6455 section 7.4, and ours.
mod close {
    pub const GOING_AWAY: u16 = 1001;
    pub const TOO_LARGE: u16 = 1009;
    /// Also of another user's token: what was subscribed to is subscribed to anew, as him.
    pub const TOKEN_EXPIRED: u16 = 4401;
}

/// Runs a socket to its end.
pub(crate) async fn run(server: DataSync, caller: Caller, socket: WebSocket, place: Place) {
    let limits = Limits {
        subscriptions: server.options.subscriptions,
        transactions: server.options.transactions,
        waiting_bytes: 2 * server.options.message_bytes,
    };
    let now = Instant::now();
    let mut driver = Driver {
        session: Session::new(limits, now, new_id),
        caller: Arc::new(caller),
        tasks: JoinSet::new(),
        watchers: JoinSet::new(),
        transactions: HashMap::new(),
        followed: FuturesUnordered::new(),
        followers: HashMap::new(),
        socket,
        heard: now,
        pinged: now,
        is_somebody_else: false,
        server,
        _place: place,
    };
    metrics::gauge!("headwater_datasync_sockets").increment(1);
    if let Some((code, reason)) = driver.serve().await {
        driver.close(code, reason).await;
    }
    metrics::gauge!("headwater_datasync_sockets").decrement(1);
}

/// An identifier that nobody can guess, in the form of a UUID (version 4).
fn new_id() -> String {
    let random: u128 = rand::random();
    let bits = random & !(0xf000_u128 << 64) & !(0xc000_u128 << 48);
    let bits = bits | (0x4000_u128 << 64) | (0x8000_u128 << 48);
    let hex = format!("{bits:032x}");
    [&hex[..8], &hex[8..12], &hex[12..16], &hex[16..20], &hex[20..]].join("-")
}

struct Driver {
    session: Session,
    caller: Arc<Caller>,
    tasks: JoinSet<Finished>,
    /// Each waits for a transaction to be over.
    watchers: JoinSet<String>,
    transactions: HashMap<String, Interactive>,
    /// Each waits for the next change of a result.
    followed: FuturesUnordered<Followed>,
    /// Ends them.
    followers: HashMap<String, AbortHandle>,
    socket: WebSocket,
    heard: Instant,
    pinged: Instant,
    /// A login changed who calls, and results are followed or transactions open as whom it was before.
    is_somebody_else: bool,
    server: DataSync,
    _place: Place,
}

/// Waits for the next change of a result; dropped with its subscription when it is aborted.
type Followed = Abortable<BoxFuture<'static, Changed>>;

/// A result that changed, or is no more.
struct Changed {
    id: String,
    subscription: Subscription,
    news: Result<Commit, LiveError>,
}

fn follow(id: String, mut subscription: Subscription) -> BoxFuture<'static, Changed> {
    Box::pin(async move {
        let news = subscription.next().await;
        Changed { id, subscription, news }
    })
}

/// What a task brings back.
struct Finished {
    task: TaskId,
    outcome: Outcome,
    /// The transaction that it opened.
    opened: Option<(String, Interactive)>,
    /// The subscription that it began.
    began: Option<(String, Subscription, Arc<Caller>)>,
    /// Who calls from now on.
    caller: Option<Caller>,
}

/// Why the socket ends; `None`: it has ended.
type Ended = Option<(u16, &'static str)>;

impl Driver {
    async fn serve(&mut self) -> Ended {
        loop {
            let now = Instant::now();
            let reads = !self.session.is_full();
            if !reads {
                // What he says meanwhile is not looked at.
                self.heard = now;
            }
            let wake = self.wakes_at(now);
            let mut effects = Vec::new();
            tokio::select! {
                () = self.server.stop.cancelled() => return Some((close::GOING_AWAY, "the server stops")),
                frame = self.socket.recv(), if reads => match frame {
                    Some(Ok(frame)) => {
                        self.heard = Instant::now();
                        match frame {
                            Message::Text(text) => self.event(Event::Message(text.as_str()), &mut effects),
                            Message::Binary(bytes) => {
                                // Also of JSON; what is no text is told as such.
                                let text = String::from_utf8_lossy(&bytes);
                                self.event(Event::Message(&text), &mut effects);
                            }
                            Message::Ping(_) | Message::Pong(_) => {}
                            Message::Close(_) => return None,
                        }
                    }
                    Some(Err(error)) if is_too_large(&error) => {
                        return Some((close::TOO_LARGE, "the message is too large"));
                    }
                    Some(Err(_)) | None => return None,
                },
                Some(finished) = self.tasks.join_next() => {
                    // A task that is gone without a word found a bug in itself; the client asks anew.
                    let Ok(finished) = finished else { return Some((close::GOING_AWAY, "internal error")) };
                    self.finished(finished, &mut effects);
                }
                Some(Ok(id)) = self.watchers.join_next() => {
                    self.event(Event::TransactionOver(&id), &mut effects);
                }
                Some(changed) = self.followed.next() => self.changed(changed, &mut effects),
                () = sleep_until(wake) => {
                    if let Some(ended) = self.timers().await {
                        return ended;
                    }
                    self.event(Event::Tick, &mut effects);
                }
            }
            for effect in effects {
                match effect {
                    Effect::Send(text) => {
                        if self.socket.send(Message::Text(text.into())).await.is_err() {
                            return None;
                        }
                    }
                    Effect::Start(id, task) => self.start(id, task),
                    Effect::Forget(id) => drop(self.transactions.remove(&id)),
                    Effect::Unsubscribe(id) => {
                        if let Some(follower) = self.followers.remove(&id) {
                            follower.abort();
                        }
                    }
                }
            }
            if self.is_somebody_else {
                return Some((close::TOKEN_EXPIRED, "the user is another one; connect anew"));
            }
        }
    }

    fn event(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.session.handle(Instant::now(), event, effects);
    }

    fn wakes_at(&self, now: Instant) -> Instant {
        let expires = self.caller.expires_at.map(|at| {
            let left = Duration::from_secs(at).saturating_sub(self.server.clock.now());
            now + left
        });
        let times = [self.session.keep_alive_at(), expires, Some(self.pinged + PING_EVERY)];
        let soonest = times.into_iter().flatten().min();
        soonest.unwrap_or(now).min(self.heard + SILENT_FOR)
    }

    /// Does what time asks for; `Some`: the socket ends.
    async fn timers(&mut self) -> Option<Ended> {
        let now = Instant::now();
        let expired = |at: u64| Duration::from_secs(at) <= self.server.clock.now();
        if self.caller.expires_at.is_some_and(expired) {
            return Some(Some((close::TOKEN_EXPIRED, "the token has expired")));
        }
        if now >= self.heard + SILENT_FOR {
            return Some(None);
        }
        if now >= self.pinged + PING_EVERY {
            self.pinged = now;
            if self.socket.send(Message::Ping(Vec::new().into())).await.is_err() {
                return Some(None);
            }
        }
        None
    }

    fn finished(&mut self, finished: Finished, effects: &mut Vec<Effect>) {
        if let Some((id, open)) = finished.opened {
            let transaction = open.clone();
            let watched = id.clone();
            self.watchers.spawn(async move {
                transaction.over().await;
                watched
            });
            self.transactions.insert(id, open);
        }
        if let Some((id, subscription, caller)) = finished.began {
            // A login may have overtaken it.
            self.is_somebody_else |= !caller.is_same(&self.caller);
            self.follow(id, subscription);
        }
        if let Some(caller) = finished.caller {
            // What is followed, or open, is that of the user before.
            let has_some = !self.followers.is_empty() || !self.transactions.is_empty();
            self.is_somebody_else |= has_some && !caller.is_same(&self.caller);
            self.caller = Arc::new(caller);
        }
        self.event(Event::Done(finished.task, finished.outcome), effects);
    }

    fn follow(&mut self, id: String, subscription: Subscription) {
        let (follower, registration) = AbortHandle::new_pair();
        self.followers.insert(id.clone(), follower);
        self.followed.push(Abortable::new(follow(id, subscription), registration));
    }

    /// Takes what changed, and all else that has changed by now, in the order of the log.
    fn changed(&mut self, first: Result<Changed, Aborted>, effects: &mut Vec<Effect>) {
        let mut all: Vec<Changed> = first.into_iter().collect();
        while all.len() < CHANGED_AT_ONCE
            && let Some(Some(more)) = self.followed.next().now_or_never()
        {
            all.extend(more);
        }
        all.sort_by_key(|changed| changed.news.as_ref().map(|commit| commit.position).ok());
        for Changed { id, subscription, news } in all {
            if !self.followers.contains_key(&id) {
                continue;
            }
            match news {
                Ok(commit) => {
                    self.event(Event::News(&id, &commit.changes), effects);
                    self.follow(id, subscription);
                }
                Err(LiveError::Stopping) => {}
                Err(error) => self.event(Event::Ended(&id, error.into()), effects),
            }
        }
    }

    fn start(&mut self, task: TaskId, what: Task) {
        let (worker, caller) = (self.server.worker.clone(), self.caller.clone());
        let open = |id: &str| self.transactions.get(id).cloned();
        match what {
            Task::Work(work, None) => drop(self.tasks.spawn(async move {
                done(task, worker.run(&caller.author, work).await.map(Outcome::Records))
            })),
            Task::Work(work, Some(id)) => {
                let open = open(&id);
                self.tasks.spawn(async move {
                    let Some(open) = open else {
                        return failed(task, Failure::no_transaction(&id));
                    };
                    done(task, worker.run_in(&open, work).await.map(Outcome::Records))
                });
            }
            Task::Begin(id) => drop(self.tasks.spawn(begin(worker, caller, task, id))),
            Task::End(id, how) => {
                let open = open(&id);
                self.tasks.spawn(async move {
                    let Some(open) = open else {
                        return failed(task, Failure::no_transaction(&id));
                    };
                    done(task, worker.end(&open, how).await.map(|()| Outcome::Done))
                });
            }
            Task::Subscribe(id, query, wants) => drop(self.tasks.spawn(async move {
                match worker.subscribe(&caller.author, &query, wants).await {
                    Ok(begun) => began(task, id, caller, begun),
                    Err(failure) => failed(task, failure),
                }
            })),
            Task::Login(token) => drop(self.tasks.spawn(login(self.server.clone(), task, token))),
            Task::Hook { tag, json } => {
                let (hooks, clock) = (self.server.hooks.clone(), self.server.clock.clone());
                self.tasks.spawn(async move {
                    let answer = match hooks {
                        Some(hooks) => hooks.ask(&tag, &json, &caller, &clock).await,
                        None => Err(hooks::unknown(&tag)),
                    };
                    done(task, answer.map(Outcome::Answered))
                });
            }
        }
    }

    /// Tells the peer why, and gives him a moment to take it.
    async fn close(&mut self, code: u16, reason: &'static str) {
        self.tasks.abort_all();
        self.transactions.clear();
        let frame = CloseFrame { code, reason: reason.into() };
        let told = async {
            self.socket.send(Message::Close(Some(frame))).await.ok()?;
            if code == close::TOO_LARGE {
                // What is on its way is not read any more. Closed at once, the connection would be reset, and
                // the peer might never see why.
                sleep(LINGER).await;
            }
            while let Some(Ok(_)) = self.socket.recv().await {}
            Some(())
        };
        let _ = timeout(LINGER, told).await;
    }
}

fn done(task: TaskId, outcome: Result<Outcome, Failure>) -> Finished {
    let outcome = outcome.unwrap_or_else(Outcome::Failed);
    Finished { task, outcome, opened: None, began: None, caller: None }
}

fn failed(task: TaskId, failure: Failure) -> Finished {
    done(task, Err(failure))
}

fn began(
    task: TaskId,
    id: String,
    caller: Arc<Caller>,
    (first, subscription): (First, Subscription),
) -> Finished {
    let outcome = match first.result {
        News::Count(count) => Outcome::Count(count),
        News::Rows(rows) => {
            Outcome::Rows(rows.iter().map(|(_, record)| record.json().to_owned()).collect())
        }
    };
    Finished { task, outcome, opened: None, began: Some((id, subscription, caller)), caller: None }
}

async fn begin(worker: Worker, caller: Arc<Caller>, task: TaskId, id: String) -> Finished {
    match worker.begin(&caller.author).await {
        Ok(open) => {
            let opened = Some((id, open));
            Finished { task, outcome: Outcome::Done, opened, began: None, caller: None }
        }
        Err(failure) => failed(task, failure),
    }
}

async fn login(server: DataSync, task: TaskId, token: String) -> Finished {
    match server.edge.caller_with(&token).await {
        Ok(principal) => {
            let caller = Caller::of(principal);
            let user_id = caller.author.subject.clone();
            let outcome = Outcome::LoggedIn { user_id, token };
            Finished { task, outcome, opened: None, began: None, caller: Some(caller) }
        }
        Err(hw_http::Refusal::Token(error)) => {
            let code = error.hw_code().0;
            failed(task, Failure::new(code, error.description()))
        }
        Err(_) => failed(task, Failure::new(crate::code::MESSAGE, "The token cannot be verified")),
    }
}

/// Whether a frame or a message was longer than it may be.
fn is_too_large(error: &axum::Error) -> bool {
    use tokio_tungstenite::tungstenite::Error;
    let source = std::error::Error::source(error);
    let error = source.and_then(|source| source.downcast_ref::<Error>());
    matches!(error, Some(Error::Capacity(_)))
}

#[cfg(test)]
mod tests {
    #[test]
    fn identifiers_have_the_form_of_uuids() {
        for _ in 0..100 {
            let id = super::new_id();
            assert_eq!((id.len(), &id[14..15]), (36, "4"), "{id}");
            assert!("89ab".contains(&id[19..20]), "{id}");
        }
        assert_ne!(super::new_id(), super::new_id());
    }
}
