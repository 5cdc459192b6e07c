//! One socket's session: events in, effects out, no I/O.
//!
//! In: messages, what became of tasks, time. Out: tasks to start, messages to send. Invariants:
//! - every message with a number is answered under it, once, also when it cannot be read;
//! - order ([`order`]): writes, and statements and the end of one transaction, run in the order in which they came; a
//!   plain query sees every write that came before it; what came behind a login runs as whom it names;
//! - while a request waits for its answer something is sent every three seconds, because the original client
//!   drops a socket that is silent for five;
//! - a subscription's answer comes before its events, and nothing behind its end;
//! - nothing that one client sends lets this grow without a bound.
//!
//! Source: `datasync.md` 3, 8, 9, 13, 17.

mod events;
mod order;
#[cfg(test)]
mod tests;

use std::collections::{BTreeMap, HashMap, VecDeque};
use std::time::Duration;

use hw_live::{Change as Changed, LiveError, Record};
use hw_types::{EndLsn, TableName};
use hw_write::End;
use serde_json::value::{RawValue, to_raw_value};
use tokio::time::Instant;

use crate::aggregate::COUNT;
use crate::change::Change;
use crate::code;
use crate::failure::Failure;
use crate::wire::{Answer, BadMessage, Message, Query, Request, Resume, Wanted};
use crate::work::{Kept, Work};
use events::Appends;
pub use events::Telling;
use order::Lane;

/// Something is sent this often while a request waits.
const KEEP_ALIVE: Duration = Duration::from_secs(3);
/// And this often when none does: pings are nothing that a page could see, and what never speaks looks to it
/// like a connection that is no more.
const STILL_HERE: Duration = Duration::from_secs(15);
/// Messages that wait for their turn; from there on nothing is read any more.
const WAITING: usize = 256;
/// Tasks that run at the same time, apart from those of transactions.
const AT_ONCE: usize = 16;

/// Names a task.
pub type TaskId = u64;

/// What happened.
#[derive(Debug)]
pub enum Event<'a> {
    /// A message came, and what counts it until it is done.
    Message(&'a str, Kept),
    /// A message came for which there is no room yet.
    Delayed,
    /// A message came for which there is never room.
    TooHeavy(&'a str),
    /// A task ended.
    Done(TaskId, Outcome),
    /// A transaction is over, though nobody ended it.
    TransactionOver(&'a str),
    /// The result of a subscription changed, and is of this position.
    News(&'a str, Vec<Changed>, EndLsn),
    /// A subscription has no result any more.
    Ended(&'a str, LiveError),
    /// Time went by.
    Tick,
}

/// What is to be done.
#[derive(Debug)]
pub enum Effect {
    /// Send this.
    Send(String),
    /// Send what changed.
    Tell(Telling),
    /// Start this; what counts its message is held until it is done.
    Start(TaskId, Box<Task>, Kept),
    /// Forget this transaction.
    Forget(String),
    /// End this subscription.
    Unsubscribe(String),
}

/// What runs beside the session.
#[derive(Debug, PartialEq, Eq)]
pub enum Task {
    /// Reads or writes, in a transaction of its own or in an open one.
    Work(Work, Option<String>),
    /// Opens a transaction under this name.
    Begin(String),
    /// Ends one.
    End(String, End),
    /// Begins a subscription under this name, or goes on with an earlier one.
    Subscribe(String, Query, Wanted, Option<Resume>),
    /// Verifies a token; whoever holds it calls from then on.
    Login(String),
    /// Asks the application.
    Hook {
        /// The message's tag.
        tag: String,
        /// All of it.
        json: String,
    },
}

/// What became of a task.
#[derive(Debug)]
pub enum Outcome {
    /// The records.
    Records(Vec<String>),
    /// It is done.
    Done,
    /// A subscription begins with these records, of this position.
    Rows(Vec<String>, EndLsn),
    /// A subscription goes on behind this position, which its client has.
    Resumed(String),
    /// The token holds, and is about this user.
    LoggedIn {
        /// The user.
        user_id: String,
        /// The token.
        token: String,
    },
    /// The application's answer, a JSON object without the number of the request.
    Answered(Box<RawValue>),
    /// It failed.
    Failed(Failure),
}

/// Bounds of one session.
#[derive(Clone, Copy, Debug)]
pub struct Limits {
    /// Subscriptions at most.
    pub subscriptions: usize,
    /// Open transactions at most.
    pub transactions: usize,
    /// Bytes of messages that wait for their turn; from there on nothing is read any more.
    pub waiting_bytes: usize,
}

/// See the module.
pub struct Session {
    limits: Limits,
    waiting: VecDeque<Waiting>,
    waiting_bytes: usize,
    /// Since when a message has no room.
    delayed: Option<Instant>,
    running: HashMap<TaskId, Running>,
    next_task: TaskId,
    transactions: HashMap<String, Standing>,
    subscriptions: HashMap<String, Subscription>,
    /// Makes identifiers that nobody can guess.
    new_id: Box<dyn FnMut() -> String + Send>,
    last_sent: Instant,
}

struct Waiting {
    request: i64,
    message: Message,
    bytes: usize,
    kept: Kept,
    arrived: Instant,
}

struct Running {
    request: i64,
    lane: Lane,
    arrived: Instant,
    kind: Kind,
}

/// How a task's outcome is told.
enum Kind {
    Query,
    Create { several: bool },
    Update { several: bool },
    Delete { several: bool },
    Begin { id: String },
    End { id: String, how: End },
    Subscribe { id: String },
    Login,
    Hook,
}

/// A subscription of this socket, from its request on.
struct Subscription {
    table: String,
    told: Told,
    /// Whether its answer was sent.
    began: bool,
}

/// As what the changes of a subscription are told.
#[derive(Clone, Copy)]
enum Told {
    Rows(Appends),
    Groups,
    /// As the number that is not the last one that was told.
    Count(u64),
}

/// How a transaction of this socket stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    Open,
    /// It timed out. It counts no more, and says so when it is asked for.
    Over,
}

impl Session {
    /// A session that begins now.
    pub fn new(
        limits: Limits,
        now: Instant,
        new_id: impl FnMut() -> String + Send + 'static,
    ) -> Session {
        Session {
            limits,
            waiting: VecDeque::new(),
            waiting_bytes: 0,
            delayed: None,
            running: HashMap::new(),
            next_task: 0,
            transactions: HashMap::new(),
            subscriptions: HashMap::new(),
            new_id: Box::new(new_id),
            last_sent: now,
        }
    }

    /// Takes an event; appends what is to be done, in order.
    pub fn handle(&mut self, now: Instant, event: Event<'_>, effects: &mut Vec<Effect>) {
        match event {
            Event::Message(json, kept) => self.message(now, json, kept, effects),
            Event::Delayed => drop(self.delayed.get_or_insert(now)),
            Event::TooHeavy(json) => self.too_heavy(json, effects),
            Event::Done(task, outcome) => self.done(task, outcome, effects),
            Event::TransactionOver(id) => self.over(id, effects),
            Event::News(id, news, position) => self.news(id, news, position, effects),
            Event::Ended(id, error) => self.ended(id, error, effects),
            Event::Tick => {}
        }
        self.start_what_can(effects);
        if effects.iter().any(|effect| matches!(effect, Effect::Send(_) | Effect::Tell(_))) {
            self.last_sent = now;
        } else if self.keep_alive_at() <= now {
            effects.push(Effect::Send(Answer::KeepAlive {}.json()));
            self.last_sent = now;
        }
    }

    /// Whether no further message is to be read for now.
    pub fn is_full(&self) -> bool {
        self.waiting.len() >= WAITING || self.waiting_bytes > self.limits.waiting_bytes
    }

    /// When time matters next.
    pub fn keep_alive_at(&self) -> Instant {
        let waiting = self.waiting.front().map(|waiting| waiting.arrived);
        let running = self.running.values().map(|running| running.arrived);
        let oldest = running.chain(waiting).chain(self.delayed).min();
        oldest.map_or(self.last_sent + STILL_HERE, |oldest| oldest.max(self.last_sent) + KEEP_ALIVE)
    }

    fn message(&mut self, now: Instant, json: &str, kept: Kept, effects: &mut Vec<Effect>) {
        let arrived = self.delayed.take().unwrap_or(now);
        match Request::read(json) {
            Ok(Request { id, message }) => {
                self.waiting_bytes += json.len();
                let bytes = json.len();
                self.waiting.push_back(Waiting { request: id, message, bytes, kept, arrived });
            }
            Err(BadMessage { request, what }) => refuse(request, what.0, effects),
        }
    }

    fn too_heavy(&mut self, json: &str, effects: &mut Vec<Effect>) {
        let what =
            "the message has more values than one user may have in memory; send fewer at a time";
        refuse(Request::number(json), what.to_owned(), effects);
    }

    /// Starts everything whose turn it is.
    fn start_what_can(&mut self, effects: &mut Vec<Effect>) {
        let mut turn = order::Turn::new(self.running.values().map(|running| &running.lane));
        let mut room = AT_ONCE.saturating_sub(turn.outside_transactions());
        let mut at = 0;
        while at < self.waiting.len() && !turn.is_barred() {
            let lane = Lane::of(&self.waiting[at].message);
            let is_first = at == 0;
            let has_room = room > 0 || lane.is_of_transaction();
            if !(has_room && turn.may_start(&lane, is_first)) {
                turn.note(&lane);
                at += 1;
                continue;
            }
            let waiting = self.waiting.remove(at).expect("invariant: the place is within");
            self.waiting_bytes -= waiting.bytes;
            if self.start(waiting, lane.clone(), effects) {
                turn.note(&lane);
                room = room.saturating_sub(usize::from(!lane.is_of_transaction()));
            }
        }
    }

    /// Starts a message's task; whether there is one. What cannot be begun is answered.
    fn start(&mut self, waiting: Waiting, lane: Lane, effects: &mut Vec<Effect>) -> bool {
        let Waiting { request, message, kept, arrived, .. } = waiting;
        if let Message::Unsubscribe { subscription } = message {
            self.unsubscribe(request, subscription, effects);
            return false;
        }
        let prepared = self.prepare(message);
        let (kind, task) = match prepared {
            Ok(prepared) => prepared,
            Err(failure) => {
                effects.push(Effect::Send(failure.answer(request)));
                return false;
            }
        };
        let id = self.next_task;
        self.next_task += 1;
        self.running.insert(id, Running { request, lane, arrived, kind });
        effects.push(Effect::Start(id, Box::new(task), kept));
        true
    }

    fn prepare(&mut self, message: Message) -> Result<(Kind, Task), Failure> {
        let work = |kind: Kind, work: Work, transaction: Option<String>| {
            Ok((kind, Task::Work(work, transaction)))
        };
        match message {
            Message::Query { query, transaction } => {
                self.check_transaction(transaction.as_deref())?;
                work(Kind::Query, Work::Query(query), transaction)
            }
            Message::QueryGroups { query, groups, transaction } => {
                self.check_transaction(transaction.as_deref())?;
                work(Kind::Query, Work::Groups(query, groups), transaction)
            }
            Message::Create { table, records, several, transaction } => {
                self.check_transaction(transaction.as_deref())?;
                if records.is_empty() {
                    return Err(Failure::no_record());
                }
                let change = Change::Insert(records);
                work(Kind::Create { several }, Work::Change(table, change), transaction)
            }
            Message::Update { table, ids, patch, several, transaction } => {
                self.check_transaction(transaction.as_deref())?;
                let change = Change::Update(ids, patch);
                work(Kind::Update { several }, Work::Change(table, change), transaction)
            }
            Message::Delete { table, ids, several, transaction } => {
                self.check_transaction(transaction.as_deref())?;
                let change = Change::Delete(ids);
                work(Kind::Delete { several }, Work::Change(table, change), transaction)
            }
            Message::Begin => self.begin(),
            Message::Rollback { transaction } => self.end(transaction, End::Rollback),
            Message::Commit { transaction } => self.end(transaction, End::Commit),
            Message::LoginWithToken { token } => Ok((Kind::Login, Task::Login(token))),
            Message::Hook { tag, json } => Ok((Kind::Hook, Task::Hook { tag, json })),
            Message::SubscribeRows { query, appends, resume } => {
                let appends = if appends { Appends::Told } else { Appends::Whole };
                self.subscribe(query, Wanted::Rows, Told::Rows(appends), resume)
            }
            Message::SubscribeCount { query } => {
                self.subscribe(query, Wanted::Count, Told::Count(0), None)
            }
            Message::SubscribeGroups { query, groups, resume } => {
                self.subscribe(query, Wanted::Groups(groups), Told::Groups, resume)
            }
            Message::Unsubscribe { .. } => unreachable!("invariant: it is answered at once"),
        }
    }

    fn subscribe(
        &mut self,
        query: Query,
        wanted: Wanted,
        told: Told,
        resume: Option<Resume>,
    ) -> Result<(Kind, Task), Failure> {
        let limit = self.limits.subscriptions;
        if self.subscriptions.len() >= limit {
            let message =
                format!("You've reached the subscriptions limit of {limit} subscriptions");
            return Err(Failure::new(code::SUBSCRIPTIONS, message));
        }
        let id = (self.new_id)();
        let subscription = Subscription { table: query.table.clone(), told, began: false };
        self.subscriptions.insert(id.clone(), subscription);
        Ok((Kind::Subscribe { id: id.clone() }, Task::Subscribe(id, query, wanted, resume)))
    }

    fn unsubscribe(&mut self, request: i64, id: String, effects: &mut Vec<Effect>) {
        let answer = match self.subscriptions.remove(&id) {
            Some(_) => {
                let answer =
                    Answer::DidDeleteDataSubscription { request_id: request, subscription_id: &id };
                answer.json()
            }
            None => Failure::no_subscription(&id).answer(request),
        };
        effects.push(Effect::Unsubscribe(id));
        effects.push(Effect::Send(answer));
    }

    fn news(
        &mut self,
        id: &str,
        changes: Vec<Changed>,
        position: EndLsn,
        effects: &mut Vec<Effect>,
    ) {
        let Some(subscription) = self.subscriptions.get_mut(id).filter(|it| it.began) else {
            return;
        };
        let appends = match &mut subscription.told {
            Told::Rows(appends) => *appends,
            Told::Groups => Appends::Whole,
            Told::Count(told) => {
                let Some(count) = changes.last().map(counted).filter(|count| count != told) else {
                    return;
                };
                *told = count;
                let event = Answer::DidChangeCount { subscription_id: id, count };
                effects.push(Effect::Send(event.json()));
                return;
            }
        };
        let subscription = id.to_owned();
        effects.push(Effect::Tell(Telling { subscription, changes, appends, position }));
    }

    fn ended(&mut self, id: &str, error: LiveError, effects: &mut Vec<Effect>) {
        if let Some(Subscription { table, .. }) = self.subscriptions.remove(id) {
            let failure = Failure::of_live(error, &TableName::new("", table));
            effects.push(Effect::Unsubscribe(id.to_owned()));
            effects.push(Effect::Send(failure.push(id)));
        }
    }

    fn begin(&mut self) -> Result<(Kind, Task), Failure> {
        let limit = self.limits.transactions;
        let open = self.transactions.values().filter(|it| **it == Standing::Open).count();
        if open >= limit {
            let message = format!("You've reached the transaction limit of {limit} transactions");
            return Err(Failure::new(code::TRANSACTIONS, message));
        }
        let id = (self.new_id)();
        self.transactions.insert(id.clone(), Standing::Open);
        Ok((Kind::Begin { id: id.clone() }, Task::Begin(id)))
    }

    fn end(&mut self, id: String, how: End) -> Result<(Kind, Task), Failure> {
        self.check_transaction(Some(&id))?;
        Ok((Kind::End { id: id.clone(), how }, Task::End(id, how)))
    }

    fn check_transaction(&self, id: Option<&str>) -> Result<(), Failure> {
        match id {
            Some(id) if !self.transactions.contains_key(id) => Err(Failure::no_transaction(id)),
            _ => Ok(()),
        }
    }

    fn over(&mut self, id: &str, effects: &mut Vec<Effect>) {
        if !self.transactions.contains_key(id) {
            return;
        }
        let over = |standing: &Standing| *standing == Standing::Over;
        if self.transactions.values().filter(|it| over(it)).count() >= self.limits.transactions {
            // Nobody asks for them.
            let forgotten = self.transactions.iter().find(|(_, it)| over(it));
            if let Some(forgotten) = forgotten.map(|(id, _)| id.clone()) {
                self.transactions.remove(&forgotten);
                effects.push(Effect::Forget(forgotten));
            }
        }
        self.transactions.insert(id.to_owned(), Standing::Over);
    }

    fn done(&mut self, task: TaskId, outcome: Outcome, effects: &mut Vec<Effect>) {
        let Some(Running { request, kind, .. }) = self.running.remove(&task) else { return };
        match (&kind, &outcome) {
            // Whatever became of it, it is no more.
            (Kind::End { id, .. }, _) | (Kind::Begin { id }, Outcome::Failed(_)) => {
                self.transactions.remove(id);
                effects.push(Effect::Forget(id.clone()));
            }
            (Kind::Subscribe { id }, Outcome::Failed(_)) => drop(self.subscriptions.remove(id)),
            (Kind::Subscribe { id }, _) => {
                if let Some(subscription) = self.subscriptions.get_mut(id) {
                    subscription.began = true;
                }
            }
            _ => {}
        }
        let answer = match outcome {
            Outcome::Failed(failure) => failure.answer(request),
            Outcome::Records(records) => match answered(request, &kind, records) {
                Ok(answer) => answer,
                Err(failure) => failure.answer(request),
            },
            Outcome::Rows(records, position) => {
                self.begun(request, &kind, Some(records), &position.to_string())
            }
            Outcome::Resumed(lsn) => self.begun(request, &kind, None, &lsn),
            Outcome::Done => match &kind {
                Kind::Begin { id } => {
                    Answer::DidStartTransaction { request_id: request, transaction_id: id }.json()
                }
                Kind::End { id, how: End::Commit } => {
                    Answer::DidCommitTransaction { request_id: request, transaction_id: id }.json()
                }
                Kind::End { id, how: End::Rollback } => {
                    Answer::DidRollbackTransaction { request_id: request, transaction_id: id }
                        .json()
                }
                _ => unanswered(request),
            },
            Outcome::LoggedIn { user_id, token } => {
                Answer::LoginSuccessful { request_id: request, user_id: &user_id, jwt: &token }
                    .json()
            }
            Outcome::Answered(answer) => with_number(request, &answer),
        };
        effects.push(Effect::Send(answer));
    }

    /// The answer to a subscription that begins, with its result, or goes on.
    fn begun(
        &mut self,
        request: i64,
        kind: &Kind,
        records: Option<Vec<String>>,
        lsn: &str,
    ) -> String {
        let Kind::Subscribe { id } = kind else { return unanswered(request) };
        // One that was ended meanwhile is answered as what it was; nobody listens to its id any more.
        let told = self.subscriptions.get_mut(id).map(|subscription| &mut subscription.told);
        let resumed = records.is_none().then_some(true);
        if let Some(Told::Count(told)) = told {
            let record = records.unwrap_or_default().into_iter().next();
            *told = record.map(|record| number_of(&Record::new(record))).unwrap_or_default();
            let (request_id, subscription_id) = (request, &**id);
            let count = *told;
            return Answer::DidCreateCountSubscription { request_id, subscription_id, count }
                .json();
        }
        let is_of_groups = matches!(told, Some(Told::Groups));
        let records = records.map(read);
        let (request_id, subscription_id, result) = (request, &**id, records.as_deref());
        match is_of_groups {
            true => Answer::DidCreateAggregateSubscription {
                request_id,
                subscription_id,
                result,
                resumed,
                lsn,
            },
            false => Answer::DidCreateDataSubscription {
                request_id,
                subscription_id,
                result,
                resumed,
                lsn,
            },
        }
        .json()
    }
}

/// The number that a change of a count comes to; of one that ends it is 0.
fn counted(change: &Changed) -> u64 {
    match change {
        Changed::Insert { record, .. } | Changed::Update { after: record, .. } => number_of(record),
        Changed::Delete { .. } | Changed::Passed { .. } => 0,
    }
}

fn number_of(record: &Record) -> u64 {
    let fields = record.fields();
    fields.get(COUNT).and_then(|count| count.get().parse().ok()).unwrap_or_default()
}

/// Answers what is not looked at any further, under its number where it has one.
fn refuse(request: Option<i64>, what: String, effects: &mut Vec<Effect>) {
    let answer = match request {
        Some(id) => Failure::new(code::MESSAGE, what).answer(id),
        None => Answer::FailedToDecodeMessageError { error_message: &what }.json(),
    };
    effects.push(Effect::Send(answer));
}

/// A task brought back what nobody asked it for.
fn unanswered(request: i64) -> String {
    Failure::new(code::ROWS, "The request has no answer").answer(request)
}

/// Records of Postgres as JSON.
fn read(records: Vec<String>) -> Vec<Box<RawValue>> {
    records.into_iter().map(RawValue::from_string).collect::<Result<_, _>>().unwrap_or_default()
}

/// The answer that has these records.
fn answered(request: i64, kind: &Kind, records: Vec<String>) -> Result<String, Failure> {
    let records = read(records);
    let answer = match (kind, records.as_slice()) {
        (Kind::Query, records) => Answer::DataSyncResult { request_id: request, result: records },
        (Kind::Create { several: true }, records) => {
            Answer::DidCreateRecords { request_id: request, records }
        }
        (Kind::Create { several: false }, [record]) => {
            Answer::DidCreateRecord { request_id: request, record }
        }
        (Kind::Create { several: false }, _) => {
            return Err(Failure::new(
                code::ROWS,
                "Unexpected result in CreateRecordMessage handler",
            ));
        }
        (Kind::Update { several: true }, records) => {
            Answer::DidUpdateRecords { request_id: request, records }
        }
        (Kind::Update { several: false }, [record, ..]) => {
            Answer::DidUpdateRecord { request_id: request, record }
        }
        (Kind::Update { several: false }, []) => return Err(Failure::no_row()),
        (Kind::Delete { several: true }, _) => Answer::DidDeleteRecords { request_id: request },
        (Kind::Delete { several: false }, _) => Answer::DidDeleteRecord { request_id: request },
        _ => return Err(Failure::new(code::ROWS, "The request has no answer")),
    };
    Ok(answer.json())
}

/// An application's answer under the number of the request, whatever number it wrote itself.
fn with_number(request: i64, answer: &RawValue) -> String {
    let members: Result<BTreeMap<String, &RawValue>, _> = serde_json::from_str(answer.get());
    let number = to_raw_value(&request).expect("a number can be written");
    match members {
        Ok(mut members) if members.get("tag").is_some_and(|tag| tag.get().starts_with('"')) => {
            members.insert("requestId".into(), &number);
            serde_json::to_string(&members).expect("texts and JSON can be written")
        }
        _ => Failure::new(code::HOOK, "The application's answer has no tag").answer(request),
    }
}
