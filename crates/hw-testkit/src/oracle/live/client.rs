//! A client of live queries that does not give up: it connects, subscribes, goes on where it was, and minds
//! that it is told so that a client can follow (`datasync.md` 10.5, 17).
//!
//! In: commands, and what the server says. Out: what each subscription holds, and everything that it ever
//! showed: the state behind each commit that was told.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::sync::{Arc, Mutex, MutexGuard};
use std::time::Duration;

use futures_util::{SinkExt as _, StreamExt as _};
use serde_json::{Value, json};
use tokio::net::TcpStream;
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_tungstenite::WebSocketStream;
use tokio_tungstenite::tungstenite::{Error, Message};

use super::queries::{Asked, Wants};
use crate::oracle::client::Rows;

/// The pause before another try; real clients wait seconds.
const PAUSE: Duration = Duration::from_millis(15);

/// What a client says when it comes back.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ComesBack {
    /// What it had, so that it is told what it missed.
    Resuming,
    /// Nothing, as the original client.
    Anew,
}

/// What a subscription showed at a moment.
#[derive(Clone, Debug, PartialEq)]
pub(super) struct Shown {
    /// Its rows, or that there is nothing to show.
    pub state: State,
    /// What was told.
    pub why: String,
}

/// What somebody is shown.
#[derive(Clone, Debug, PartialEq)]
pub(super) enum State {
    /// These rows.
    Rows(Rows),
    /// That there is nothing to show.
    Refused,
}

/// A subscription, as its client sees it.
#[derive(Debug)]
pub(super) struct Slot {
    pub asked: Asked,
    pub is_wanted: bool,
    /// What it holds; nothing before the first answer, and behind the end.
    pub held: Option<Rows>,
    /// Whether it is told of changes.
    pub is_followed: bool,
    /// What it showed and nobody has looked at yet.
    pub history: Vec<Shown>,
    /// The last one on this or an earlier socket.
    id: Option<String>,
    lsn: Option<String>,
    /// A request for it is on its way.
    is_asking: bool,
    /// What comes first may be told again.
    is_resumed: bool,
}

impl Slot {
    fn new(asked: Asked, is_wanted: bool) -> Slot {
        Slot {
            asked,
            is_wanted,
            held: None,
            is_followed: false,
            history: Vec::new(),
            id: None,
            lsn: None,
            is_asking: false,
            is_resumed: false,
        }
    }

    fn show(&mut self, told: &Value) {
        if let Some(rows) = &self.held {
            let why = told.to_string().chars().take(300).collect();
            self.history.push(Shown { state: State::Rows(rows.clone()), why });
        }
    }

    /// It ends, or did not begin.
    fn refuse(&mut self, why: &Value) {
        self.held = None;
        self.is_followed = false;
        (self.id, self.lsn) = (None, None);
        let code = why["code"].as_str().unwrap_or_default();
        // What passes says nothing of who may see what: the database does not answer, or somebody has a lock.
        if code != "HW5307" && code != "HW5311" {
            self.history.push(Shown { state: State::Refused, why: why.to_string() });
        }
    }

    /// The answer to a subscription.
    fn begin(&mut self, answer: &Value) -> Result<(), String> {
        self.is_asking = false;
        if answer["tag"] == "DataSyncError" {
            self.refuse(answer);
            return Ok(());
        }
        self.id = answer["subscriptionId"].as_str().map(str::to_owned);
        self.lsn = answer["lsn"].as_str().map(str::to_owned);
        self.is_followed = true;
        if answer["resumed"] == true {
            if self.held.is_none() {
                return Err("nothing was held, and it was resumed".into());
            }
            self.is_resumed = true;
            return Ok(());
        }
        let records = self.asked.begun(answer);
        let records = records.ok_or_else(|| format!("no answer to a subscription: {answer}"))?;
        let count = records.len();
        let rows = self.asked.rows(records);
        if rows.len() != count {
            return Err(format!("a result has a row twice: {answer}"));
        }
        self.held = Some(rows);
        self.show(answer);
        Ok(())
    }

    /// An event.
    fn event(&mut self, event: &Value) -> Result<(), String> {
        let wrong = |what: &str| Err(format!("{what}: {event} of {}", self.asked.query));
        let Some(rows) = &mut self.held else { return wrong("an event and no result") };
        let table = &self.asked.table;
        match event["tag"].as_str() {
            Some("DidInsert") => {
                let record = event["record"].clone();
                let key = (table.clone(), self.asked.id(&record));
                if rows.insert(key, record).is_some() && !self.is_resumed {
                    return wrong("a row comes that is there");
                }
            }
            Some("DidUpdate") => {
                let Some(row) = rows.get_mut(&(table.clone(), event["id"].to_string())) else {
                    return wrong("a row changes that is not there");
                };
                for (field, value) in event["changeSet"].as_object().into_iter().flatten() {
                    row[field] = value.clone();
                }
                for (field, suffix) in event["appendSet"].as_object().into_iter().flatten() {
                    let (Some(text), Some(suffix)) = (row[field].as_str(), suffix.as_str()) else {
                        return wrong("something is appended to what is no text");
                    };
                    row[field] = format!("{text}{suffix}").into();
                }
            }
            // It may never have been there: it came and went, or whoever resumes is told so.
            Some("DidDelete") => {
                rows.remove(&(table.clone(), event["id"].to_string()));
            }
            Some("DidChangeCount") => {
                *rows = self.asked.rows([event["count"].clone()]);
                self.show(event);
                return Ok(());
            }
            Some("DataSyncError") => {
                if self.asked.wants != Wants::Count && !rows.is_empty() {
                    return wrong("a result ends with rows");
                }
                // Its rows left before it, and a count became 0, for no other reason.
                let is_nothing = |shown: &mut Shown| match &shown.state {
                    State::Rows(rows) => rows.values().all(|row| *row == 0),
                    State::Refused => false,
                };
                self.history.pop_if(is_nothing);
                self.refuse(event);
                return Ok(());
            }
            _ => return wrong("what is this"),
        }
        if let Some(lsn) = event["lsn"].as_str() {
            let at = |text: &str| {
                let (high, low) = text.split_once('/')?;
                Some((u64::from_str_radix(high, 16).ok()?, u64::from_str_radix(low, 16).ok()?))
            };
            if self.lsn.as_deref().and_then(at) > at(lsn) || at(lsn).is_none() {
                return wrong("positions go back");
            }
            self.lsn = Some(lsn.to_owned());
            self.is_resumed = false;
            self.show(event);
        }
        Ok(())
    }
}

/// What a client is told to do.
enum Command {
    /// Sends a message, and gives the answer to whoever waits; to nobody if the socket ends first.
    Ask(Value, oneshot::Sender<Value>),
    /// Begins or ends a subscription.
    Want(usize, bool),
    /// The socket ends behind so many messages.
    CutAfter(u64),
    /// The client loses everything.
    Forget,
}

/// Who waits for an answer.
enum Waiting {
    Subscription(usize),
    End,
    Somebody(oneshot::Sender<Value>),
}

/// A client's handle.
pub struct LiveClient {
    commands: mpsc::UnboundedSender<Command>,
    slots: Arc<Mutex<Vec<Slot>>>,
    task: JoinHandle<Result<(), String>>,
}

impl LiveClient {
    /// Starts to follow. Whoever resumes understands appended texts, too.
    pub fn start(
        address: SocketAddr,
        token: &str,
        asked: Vec<Asked>,
        comes_back: ComesBack,
    ) -> LiveClient {
        let slots = asked.into_iter().map(|asked| Slot::new(asked, true)).collect();
        let slots = Arc::new(Mutex::new(slots));
        let (commands, inbox) = mpsc::unbounded_channel();
        let task = Task {
            address,
            token: token.to_owned(),
            slots: Arc::clone(&slots),
            comes_back,
            inbox,
            next: 0,
            left: None,
            waiting: BTreeMap::new(),
        };
        LiveClient { commands, slots, task: tokio::spawn(task.run()) }
    }

    /// Whether a subscription is told of changes, and what it holds looks like this.
    pub fn looks(&self, slot: usize, like: impl Fn(&Rows) -> bool) -> bool {
        let slots = self.slots();
        slots[slot].is_followed && slots[slot].held.as_ref().is_some_and(like)
    }

    /// All rows that a subscription ever showed.
    pub fn ever_shown(&self, slot: usize) -> Vec<Value> {
        let slots = self.slots();
        let shown = slots[slot].history.iter().filter_map(|shown| match &shown.state {
            State::Rows(rows) => Some(rows.values().cloned()),
            State::Refused => None,
        });
        shown.flatten().collect()
    }

    /// Its subscriptions.
    pub(super) fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().expect("whoever had it has not panicked")
    }

    /// Sends a message; the answer comes, or the socket ends before it.
    pub(super) fn ask(&self, message: Value) -> oneshot::Receiver<Value> {
        let (give, answer) = oneshot::channel();
        let _ = self.commands.send(Command::Ask(message, give));
        answer
    }

    pub(super) fn want(&self, slot: usize, wanted: bool) {
        let _ = self.commands.send(Command::Want(slot, wanted));
    }

    pub(super) fn cut_after(&self, messages: u64) {
        let _ = self.commands.send(Command::CutAfter(messages));
    }

    pub(super) fn forget(&self) {
        let _ = self.commands.send(Command::Forget);
    }

    /// What was wrong with what it was told, if anything was.
    pub async fn failure(&mut self) -> Result<(), String> {
        if !self.task.is_finished() {
            return Ok(());
        }
        let ended = (&mut self.task).await.map_err(|error| error.to_string());
        Err(ended.and_then(|ended| ended).err().unwrap_or_else(|| "it has ended".into()))
    }
}

impl Drop for LiveClient {
    fn drop(&mut self) {
        self.task.abort();
    }
}

type Socket = WebSocketStream<TcpStream>;

struct Task {
    address: SocketAddr,
    token: String,
    slots: Arc<Mutex<Vec<Slot>>>,
    comes_back: ComesBack,
    inbox: mpsc::UnboundedReceiver<Command>,
    next: i64,
    /// So many messages are received before the socket ends.
    left: Option<u64>,
    waiting: BTreeMap<i64, Waiting>,
}

impl Task {
    async fn run(mut self) -> Result<(), String> {
        loop {
            if let Some(mut socket) = self.connect().await? {
                self.follow(&mut socket).await?;
                drop(socket);
                // Nobody is answered any more.
                self.waiting.clear();
                self.slots().iter_mut().for_each(|slot| {
                    (slot.is_followed, slot.is_asking, slot.is_resumed) = (false, false, false);
                });
            }
            tokio::time::sleep(PAUSE).await;
        }
    }

    fn slots(&self) -> MutexGuard<'_, Vec<Slot>> {
        self.slots.lock().expect("whoever had it has not panicked")
    }

    async fn connect(&self) -> Result<Option<Socket>, String> {
        let Ok(stream) = TcpStream::connect(self.address).await else { return Ok(None) };
        let url = format!("ws://{}/DataSyncController?access_token={}", self.address, self.token);
        match tokio_tungstenite::client_async(url, stream).await {
            Ok((socket, _)) => Ok(Some(socket)),
            Err(Error::Http(answer)) if !answer.status().is_server_error() => {
                Err(format!("a socket is refused with {}", answer.status()))
            }
            Err(_) => Ok(None),
        }
    }

    /// Follows until the socket ends.
    async fn follow(&mut self, socket: &mut Socket) -> Result<(), String> {
        let mut clock = tokio::time::interval(PAUSE);
        loop {
            let is_open = tokio::select! {
                command = self.inbox.recv() => match command {
                    Some(command) => self.obey(socket, command).await,
                    None => return Ok(()),
                },
                message = socket.next() => match message {
                    Some(Ok(Message::Text(text))) => self.take(&text)?,
                    Some(Ok(Message::Ping(_) | Message::Pong(_))) => true,
                    _ => return Ok(()),
                },
                _ = clock.tick(), if self.lacks() => self.subscribe(socket).await,
            };
            if !is_open {
                self.left = None;
                return Ok(());
            }
        }
    }

    async fn send(&mut self, socket: &mut Socket, mut message: Value, waiting: Waiting) -> bool {
        let number = self.next;
        self.next += 1;
        message["requestId"] = number.into();
        self.waiting.insert(number, waiting);
        socket.send(Message::text(message.to_string())).await.is_ok()
    }

    /// Whether something is wanted and not there.
    fn lacks(&self) -> bool {
        self.slots().iter().any(|slot| slot.is_wanted && !slot.is_followed && !slot.is_asking)
    }

    /// Asks for what is wanted and not there.
    async fn subscribe(&mut self, socket: &mut Socket) -> bool {
        let mut messages = Vec::new();
        for (number, slot) in self.slots().iter_mut().enumerate() {
            if !slot.is_wanted || slot.is_followed || slot.is_asking {
                continue;
            }
            slot.is_asking = true;
            let mut message = slot.asked.subscription();
            if slot.asked.wants != Wants::Count && self.comes_back == ComesBack::Resuming {
                if slot.asked.wants == Wants::Rows {
                    message["appends"] = true.into();
                }
                if let (Some(id), Some(lsn), Some(_)) = (&slot.id, &slot.lsn, &slot.held) {
                    message["resume"] = json!({"subscriptionId": id, "lsn": lsn});
                }
            }
            messages.push((number, message));
        }
        for (number, message) in messages {
            if !self.send(socket, message, Waiting::Subscription(number)).await {
                return false;
            }
        }
        true
    }

    /// Notes what is wanted. Returns the subscription that ends.
    fn want(&self, number: usize, wanted: bool) -> Option<String> {
        let mut slots = self.slots();
        let slot = &mut slots[number];
        slot.is_wanted = wanted;
        if wanted || !slot.is_followed { None } else { slot.id.clone() }
    }

    /// Does as it is told. Whether the socket stays.
    async fn obey(&mut self, socket: &mut Socket, command: Command) -> bool {
        match command {
            Command::Ask(message, answer) => {
                return self.send(socket, message, Waiting::Somebody(answer)).await;
            }
            Command::Want(number, wanted) => {
                if let Some(id) = self.want(number, wanted) {
                    let message = json!({"tag": "DeleteDataSubscription", "subscriptionId": id});
                    return self.send(socket, message, Waiting::End).await;
                }
            }
            Command::CutAfter(0) => return false,
            Command::CutAfter(messages) => self.left = Some(messages),
            Command::Forget => {
                for slot in self.slots().iter_mut() {
                    (slot.held, slot.id, slot.lsn) = (None, None, None);
                }
                return false;
            }
        }
        true
    }

    /// Takes a message. Whether the socket stays.
    ///
    /// - Errors: it breaks the protocol.
    fn take(&mut self, text: &str) -> Result<bool, String> {
        let message: Value =
            serde_json::from_str(text).map_err(|error| format!("{error}: {text}"))?;
        if message["tag"] == "KeepAlive" {
            return Ok(true);
        }
        if let Some(number) = message["requestId"].as_i64() {
            let waiting = self.waiting.remove(&number);
            let waiting = waiting.ok_or_else(|| format!("nobody asks, or was answered: {text}"))?;
            match waiting {
                Waiting::Subscription(number) => {
                    self.slots()[number].begin(&message)?;
                }
                Waiting::End => {
                    let id = message["subscriptionId"].as_str();
                    let mut slots = self.slots();
                    let of = slots.iter_mut().find(|slot| slot.id.as_deref() == id);
                    // It may have ended by itself meanwhile.
                    if let Some(slot) = of.filter(|_| message["tag"] == "DidDeleteDataSubscription")
                    {
                        (slot.held, slot.id, slot.lsn) = (None, None, None);
                        slot.is_followed = false;
                    }
                }
                Waiting::Somebody(somebody) => {
                    let _ = somebody.send(message);
                }
            }
        } else {
            let id = message["subscriptionId"].as_str();
            let mut slots = self.slots();
            let of = slots.iter_mut().find(|slot| slot.is_followed && slot.id.as_deref() == id);
            of.ok_or_else(|| format!("an event of no subscription: {text}"))?.event(&message)?;
        }
        if let Some(left) = &mut self.left {
            *left = left.saturating_sub(1);
            return Ok(*left > 0);
        }
        Ok(true)
    }
}
