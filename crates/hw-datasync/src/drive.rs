//! One task per socket: performs the session's effects and reports back.
//!
//! In: frames, ends of tasks, time. Out: frames. All decisions about messages are the session's; what is
//! decided here is when the socket itself ends. Invariants: as whom a task runs is settled when it starts; all
//! tasks and transactions of a socket end with it; nothing is sent to a token that has expired; whoever takes nothing
//! while memory is wanted is cut.

use std::borrow::Cow;
use std::collections::HashMap;
use std::future::pending;
use std::pin::pin;
use std::sync::Arc;
use std::time::Duration;

use axum::extract::ws::{CloseFrame, Message, Utf8Bytes, WebSocket};
use hw_http::budget::Waiting;
use hw_http::places::Place;
use hw_http::socket::ConnectionHandle;
use hw_live::{Commit, Group, LiveError, News, Subscription};
use hw_write::Interactive;
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio::time::{Instant, sleep, sleep_until, timeout};

use crate::arriving::Arriving;
use crate::caller::Caller;
use crate::resume::{self, Attached, Digest, Parked, Trail};
use crate::server::DataSync;
use crate::state::{Effect, Event, Limits, Session, Task, TaskId};
use crate::tasks::{self, Began, Finished, Opened};
use crate::wire;
use crate::work::Kept;

/// Between two pings.
const PING_EVERY: Duration = Duration::from_secs(15);
/// Whoever is not heard for so long is gone.
const SILENT_FOR: Duration = Duration::from_secs(30);
/// How long a socket that ends waits for its peer to take the end.
const LINGER: Duration = Duration::from_secs(1);
/// How often it is looked whether a peer takes what waits for it, while memory for answers is wanted, and whether
/// there is room for a message.
const LOOK_EVERY: Duration = Duration::from_secs(1);

/// Why a socket ends, as close codes: RFC 6455 section 7.4, and ours.
mod close {
    pub const GOING_AWAY: u16 = 1001;
    pub const TOO_LARGE: u16 = 1009;
    pub const TRY_AGAIN: u16 = 1013;
    /// Also of another user's token: what was subscribed to is subscribed to anew, as him.
    pub const TOKEN_EXPIRED: u16 = 4401;
}

/// Runs a socket to its end.
pub(crate) async fn run(
    server: DataSync,
    caller: Caller,
    socket: WebSocket,
    connection: Option<ConnectionHandle>,
    place: Place,
) {
    let limits = Limits {
        subscriptions: server.options.subscriptions,
        transactions: server.options.transactions,
        waiting_bytes: 2 * server.options.message_bytes,
    };
    let now = Instant::now();
    let (me, end) = resume::Socket::new();
    let mut driver = Driver {
        session: Session::new(limits, now, new_id),
        caller: Arc::new(caller),
        tasks: JoinSet::new(),
        watchers: JoinSet::new(),
        transactions: HashMap::new(),
        group: server.worker.group(),
        following: HashMap::new(),
        ids: HashMap::new(),
        me,
        end: Some(end),
        socket,
        arriving: Arriving::new(connection.clone()),
        connection,
        delayed: None,
        heard: now,
        pinged: now,
        pings: 0,
        is_somebody_else: false,
        server,
        _place: place,
    };
    metrics::gauge!("headwater_datasync_sockets").increment(1);
    let ended = driver.serve().await;
    driver.park();
    if let Some((code, reason)) = ended {
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
    /// The results that are followed, in the order in which they are told.
    group: Option<Group>,
    following: HashMap<String, Following>,
    /// What they are called by, by the numbers that they have in their group.
    ids: HashMap<u64, String>,
    /// The socket as others see it.
    me: resume::Socket,
    /// Dropped when what was followed waits for the client.
    end: Option<watch::Sender<()>>,
    socket: WebSocket,
    arriving: Arriving,
    connection: Option<ConnectionHandle>,
    /// A message for which there was no room yet.
    delayed: Option<Delayed>,
    heard: Instant,
    pinged: Instant,
    /// Counts pings, so that the answer to the last is known.
    pings: u64,
    /// A login changed who calls, and results are followed or transactions open as whom it was before.
    is_somebody_else: bool,
    server: DataSync,
    _place: Place,
}

/// A message that waits for room.
struct Delayed {
    text: Utf8Bytes,
    weight: usize,
    /// So that those who hold the room and take nothing are cut.
    _waiting: Waiting,
}

/// A subscription that is followed.
struct Following {
    subscription: Subscription,
    caller: Arc<Caller>,
    query: Digest,
    /// Where it is found by a client that comes back before its socket has ended; `None` for a count.
    _attached: Option<Attached>,
    /// What its client may not have received; `None` for a count, which is told anew as a whole.
    trail: Option<Trail>,
}

/// Waits for what is told next of a socket's results.
async fn next(group: Option<&Group>) -> Vec<News> {
    match group {
        Some(group) => group.next().await,
        None => pending().await,
    }
}

/// Why the socket ends; `None`: it has ended.
type Ended = Option<(u16, Cow<'static, str>)>;

/// Whether the token still counts.
///
/// - Errors: the socket ends.
fn holds(server: &DataSync, caller: &Caller) -> Result<(), Ended> {
    match caller.has_expired(server.clock.now()) {
        true => Err(Some((close::TOKEN_EXPIRED, "the token has expired".into()))),
        false => Ok(()),
    }
}

impl Driver {
    async fn serve(&mut self) -> Ended {
        loop {
            let mut effects = Vec::new();
            // That it waits is known until it is known again, or has come to its turn.
            if let Some(Delayed { text, weight, _waiting }) = self.delayed.take() {
                self.message(text, weight, &mut effects);
                if let Err(ended) = self.perform(&mut effects).await {
                    return ended;
                }
            }
            let now = Instant::now();
            let reads = self.delayed.is_none() && !self.session.is_full();
            if !reads {
                // What he says meanwhile is not looked at.
                self.heard = now;
            }
            let wake = self.wakes_at(now);
            // Counts what is sent below until it is.
            let mut _kept = None;
            tokio::select! {
                () = self.server.stop.cancelled() => {
                    return Some((close::GOING_AWAY, "the server stops".into()));
                }
                () = self.me.leave.cancelled() => return None,
                frame = self.arriving.frame(&mut self.socket, &self.server.worker.answers, &self.caller),
                    if reads => match frame {
                    Ok(Some(Ok(frame))) => {
                        self.heard = Instant::now();
                        match frame {
                            Message::Text(text) => {
                                let weight = wire::of_message(&text);
                                self.message(text, weight, &mut effects);
                            }
                            Message::Binary(bytes) => {
                                // Also of JSON; what is no text is told as such.
                                let text = String::from_utf8_lossy(&bytes).into_owned();
                                let weight = wire::of_message(&text);
                                self.message(text.into(), weight, &mut effects);
                            }
                            Message::Ping(_) => {}
                            Message::Pong(number) => self.answered(&number),
                            Message::Close(_) => return None,
                        }
                    }
                    Ok(Some(Err(error))) if is_too_large(&error) => {
                        let most = self.server.options.message_bytes;
                        let reason = format!("a message may have {most} bytes (datasync.max_message)");
                        return Some((close::TOO_LARGE, reason.into()));
                    }
                    Ok(Some(Err(_)) | None) => return None,
                    Err(_) => {
                        metrics::counter!("headwater_datasync_cut_total").increment(1);
                        let reason = "there is no room for more messages that are not whole; come again";
                        return Some((close::TRY_AGAIN, reason.into()));
                    }
                },
                Some(finished) = self.tasks.join_next() => {
                    // A task that is gone without a word found a bug in itself; the client asks anew.
                    let Ok(finished) = finished else {
                        return Some((close::GOING_AWAY, "internal error".into()));
                    };
                    _kept = self.finished(finished, &mut effects);
                }
                Some(Ok(id)) = self.watchers.join_next() => {
                    self.event(Event::TransactionOver(&id), &mut effects);
                }
                news = next(self.group.as_ref()) => self.changed(news, &mut effects),
                () = sleep_until(wake) => {
                    if let Err(ended) = self.timers().await {
                        return ended;
                    }
                    self.event(Event::Tick, &mut effects);
                }
            }
            if let Err(ended) = self.perform(&mut effects).await {
                return ended;
            }
            if self.is_somebody_else {
                let reason = "the user, or a claim, is another one; connect anew";
                return Some((close::TOKEN_EXPIRED, reason.into()));
            }
        }
    }

    fn event(&mut self, event: Event<'_>, effects: &mut Vec<Effect>) {
        self.session.handle(Instant::now(), event, effects);
    }

    /// Does what is to be done.
    ///
    /// - Errors: the socket ends.
    async fn perform(&mut self, effects: &mut Vec<Effect>) -> Result<(), Ended> {
        for effect in effects.drain(..) {
            match effect {
                Effect::Send(text) => self.send(Message::Text(text.into())).await?,
                Effect::Tell(telling) => {
                    for text in telling.texts() {
                        self.send(Message::Text(text.into())).await?;
                    }
                }
                Effect::Start(id, task, message) => self.start(id, *task, message),
                Effect::Forget(id) => drop(self.transactions.remove(&id)),
                Effect::Unsubscribe(id) => {
                    if let Some(following) = self.following.remove(&id) {
                        self.ids.remove(&following.subscription.number());
                    }
                }
            }
        }
        Ok(())
    }

    /// Takes a message as soon as there is room for it. Until then nothing else is read.
    fn message(&mut self, text: Utf8Bytes, weight: usize, effects: &mut Vec<Effect>) {
        let answers = &self.server.worker.answers;
        match answers.take(self.caller.holder(), weight) {
            Ok(share) => self.event(Event::Message(&text, share.into()), effects),
            Err(_) if weight > answers.share() => self.event(Event::TooHeavy(&text), effects),
            Err(full) => {
                let _waiting = answers.wait(self.caller.holder(), full);
                self.delayed = Some(Delayed { text, weight, _waiting });
                self.event(Event::Delayed, effects);
            }
        }
    }

    /// Sends a frame to whoever calls by a token that counts.
    ///
    /// - Errors: the socket ends: it has ended, its token has, or it takes nothing while memory is wanted.
    async fn send(&mut self, frame: Message) -> Result<(), Ended> {
        let Driver { socket, connection, server, caller, me, .. } = self;
        holds(server, caller)?;
        let mut sending = pin!(socket.send(frame));
        loop {
            tokio::select! {
                biased;
                sent = &mut sending => return sent.map_err(|_| None),
                () = me.leave.cancelled() => return Err(None),
                () = sleep(LOOK_EVERY) => {
                    holds(server, caller)?;
                    let stuck =
                        connection.as_ref().map_or(Duration::ZERO, ConnectionHandle::stuck_for);
                    let memory = [&server.worker.answers, &server.worker.results];
                    let is_wanted = || memory.iter().any(|it| it.is_pressed(caller.holder()));
                    if stuck >= server.options.stuck_for && is_wanted() {
                        metrics::counter!("headwater_datasync_cut_total").increment(1);
                        return Err(None);
                    }
                }
            }
        }
    }

    /// The client has received all that was sent before the last ping.
    fn answered(&mut self, number: &[u8]) {
        if *number == self.pings.to_be_bytes() {
            let trails = self.following.values_mut().filter_map(|it| it.trail.as_mut());
            trails.for_each(|trail| trail.received(self.pinged));
        }
    }

    fn wakes_at(&self, now: Instant) -> Instant {
        let left = |until: Duration| until.saturating_sub(self.server.clock.now());
        let expires = self.caller.holds_until.map(|until| now + left(until));
        let room = self.delayed.as_ref().map(|_| now + LOOK_EVERY);
        let times =
            [self.session.keep_alive_at(), self.pinged + PING_EVERY, self.heard + SILENT_FOR];
        times.into_iter().chain(expires).chain(room).min().unwrap_or(now)
    }

    /// Does what time asks for.
    ///
    /// - Errors: the socket ends.
    async fn timers(&mut self) -> Result<(), Ended> {
        let now = Instant::now();
        holds(&self.server, &self.caller)?;
        if now >= self.heard + SILENT_FOR {
            return Err(None);
        }
        if now >= self.pinged + PING_EVERY {
            (self.pinged, self.pings) = (now, self.pings + 1);
            let number = self.pings.to_be_bytes().to_vec();
            self.send(Message::Ping(number.into())).await?;
        }
        Ok(())
    }

    /// Takes what a task brings back; returns what counts the answer.
    fn finished(&mut self, finished: Finished, effects: &mut Vec<Effect>) -> Option<Kept> {
        if let Some(Opened { id, caller, transaction }) = finished.opened {
            // A login may have overtaken it.
            self.is_somebody_else |= !caller.is_same(&self.caller);
            let (over, watched) = (transaction.over(), id.clone());
            self.watchers.spawn(async move {
                over.await;
                watched
            });
            self.transactions.insert(id, transaction);
        }
        let mut missed = None;
        if let Some(Began { id, subscription, caller, query, trail, missed: rows }) = finished.began
        {
            // A login may have overtaken it.
            self.is_somebody_else |= !caller.is_same(&self.caller);
            let position = trail.as_ref().map(Trail::last).unwrap_or_default();
            missed = Some((id.clone(), rows, position));
            self.begin_to_follow(id, subscription, (caller, query, trail));
        }
        if let Some(caller) = finished.caller {
            // What is followed, or open, is that of the user before.
            let has_some = !self.following.is_empty() || !self.transactions.is_empty();
            self.is_somebody_else |= has_some && !caller.is_same(&self.caller);
            self.caller = Arc::new(caller);
        }
        self.event(Event::Done(finished.task, finished.outcome), effects);
        if let Some((id, rows, position)) = missed.filter(|(_, rows, _)| !rows.is_empty()) {
            self.event(Event::News(&id, rows, position), effects);
        }
        finished.kept
    }

    fn begin_to_follow(
        &mut self,
        id: String,
        subscription: Subscription,
        (caller, query, trail): (Arc<Caller>, Digest, Option<Trail>),
    ) {
        let attached = trail.as_ref().map(|_| self.server.lobby.attach(&id, &self.me, &caller));
        // What stands behind its answer is taken when that was sent.
        subscription.begun();
        self.ids.insert(subscription.number(), id.clone());
        let following = Following { subscription, caller, query, _attached: attached, trail };
        self.following.insert(id, following);
    }

    /// Takes what is told.
    fn changed(&mut self, all: Vec<News>, effects: &mut Vec<Effect>) {
        let now = Instant::now();
        for News { number, told } in all {
            let Some(id) = self.ids.get(&number).cloned() else { continue };
            match told {
                Ok(Commit { position, changes }) => {
                    let trail = self.following.get_mut(&id).and_then(|it| it.trail.as_mut());
                    if let Some(trail) = trail {
                        trail.tell(position, now, &changes);
                    }
                    self.event(Event::News(&id, changes, position), effects);
                }
                Err(LiveError::Stopping) => {}
                Err(error) => self.event(Event::Ended(&id, error), effects),
            }
        }
    }

    /// Lets what was followed wait for a client that comes back.
    fn park(&mut self) {
        self.tasks.abort_all();
        self.me.leave.cancel();
        let (mut parked, mut attached) = (Vec::new(), Vec::new());
        for (id, following) in std::mem::take(&mut self.following) {
            let Following { mut subscription, caller, query, trail, _attached } = following;
            // Each is attached until it waits, so that whoever comes back finds it at any time.
            attached.push(_attached);
            if let Some(trail) = trail {
                subscription.leave();
                parked.push((id, Parked { caller, query, subscription, trail }));
            }
        }
        if !self.server.stop.is_cancelled() {
            self.server.lobby.park(parked);
        }
        drop(attached);
        self.end = None;
    }

    fn start(&mut self, task: TaskId, what: Task, message: Kept) {
        let open = match &what {
            Task::Work(_, Some(id)) | Task::End(id, _) => self.transactions.get(id).cloned(),
            _ => None,
        };
        let (server, caller) = (self.server.clone(), self.caller.clone());
        let group = self.group.clone();
        self.tasks.spawn(tasks::run(server, caller, task, (what, message), open, group));
    }

    /// Tells the peer why, and gives him a moment to take it.
    async fn close(&mut self, code: u16, reason: Cow<'static, str>) {
        self.transactions.clear();
        let frame = CloseFrame { code, reason: reason.into_owned().into() };
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
