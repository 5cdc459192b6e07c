//! Sessions without sockets or databases: what is started when, and what is answered.

use std::sync::Arc;
use std::time::Duration;

use hw_http::budget::{Budget, Shares};
use serde_json::{Value, json};

use super::*;

/// A session, and what it did.
struct Rig {
    session: Session,
    /// Counts messages.
    memory: Arc<Shares>,
    now: Instant,
    started: Vec<(TaskId, Task)>,
    sent: Vec<Value>,
    forgotten: Vec<String>,
    unsubscribed: Vec<String>,
    /// What tasks hold.
    kept: HashMap<TaskId, Kept>,
}

impl Rig {
    fn new() -> Rig {
        let (limits, now) =
            (Limits { subscriptions: 3, transactions: 2, waiting_bytes: 10_000 }, Instant::now());
        let mut number = 0;
        let new_id = move || {
            number += 1;
            format!("id-{number}")
        };
        let session = Session::new(limits, now, new_id);
        let memory = Shares::new(Budget::new(1_000_000), 1_000_000, 1_000_000);
        Rig {
            session,
            memory,
            now,
            started: vec![],
            sent: vec![],
            forgotten: vec![],
            unsubscribed: vec![],
            kept: HashMap::new(),
        }
    }

    fn handle(&mut self, event: Event<'_>) {
        let mut effects = Vec::new();
        self.session.handle(self.now, event, &mut effects);
        for effect in effects {
            match effect {
                Effect::Send(text) => self.sent.push(serde_json::from_str(&text).expect("JSON")),
                Effect::Tell(telling) => {
                    let texts = telling.texts();
                    self.sent.extend(
                        texts.map(|text| serde_json::from_str::<Value>(&text).expect("JSON")),
                    );
                }
                Effect::Start(id, task, kept) => {
                    self.kept.insert(id, kept);
                    self.started.push((id, *task));
                }
                Effect::Forget(id) => self.forgotten.push(id),
                Effect::Unsubscribe(id) => self.unsubscribed.push(id),
            }
        }
    }

    fn message(&mut self, message: Value) {
        self.text(&message.to_string());
    }

    fn text(&mut self, text: &str) {
        let share = self.memory.take("amy", text.len()).expect("there is room");
        self.handle(Event::Message(text, share.into()));
    }

    fn done(&mut self, task: TaskId, outcome: Outcome) {
        self.kept.remove(&task);
        self.handle(Event::Done(task, outcome));
    }

    /// The tasks that were started since the last call.
    fn started(&mut self) -> Vec<TaskId> {
        self.started.drain(..).map(|(id, _)| id).collect()
    }

    fn sent(&mut self) -> Vec<Value> {
        std::mem::take(&mut self.sent)
    }

    /// Opens a transaction under this number.
    fn begin(&mut self, request: i64) -> String {
        self.message(json!({"tag": "StartTransaction", "requestId": request}));
        let task = *self.started().last().expect("started");
        self.done(task, Outcome::Done);
        let answer = self.sent().pop().expect("answered");
        answer["transactionId"].as_str().expect("an id").to_owned()
    }
}

fn query(request: i64, transaction: Option<&str>) -> Value {
    json!({"tag": "DataSyncQuery", "requestId": request, "transactionId": transaction, "query": {
        "table": "t", "selectedColumns": {"tag": "SelectAll"}, "whereCondition": null, "orderByClause": []}})
}

fn create(request: i64, transaction: Option<&str>) -> Value {
    json!({"tag": "CreateRecordMessage", "requestId": request, "transactionId": transaction, "table": "t",
        "record": {"id": 1}})
}

fn commit(request: i64, id: &str) -> Value {
    json!({"tag": "CommitTransaction", "requestId": request, "id": id})
}

fn records(records: &[&str]) -> Outcome {
    Outcome::Records(records.iter().map(|record| (*record).to_owned()).collect())
}

#[test]
fn ds_3_writes_run_one_after_the_other_and_a_query_sees_those_before_it() {
    let mut rig = Rig::new();
    rig.message(query(0, None));
    assert_eq!(rig.started(), [0], "nothing is before it");
    rig.message(create(1, None));
    assert_eq!(rig.started(), [1], "a write does not wait for a query");
    rig.message(create(2, None));
    rig.message(query(3, None));
    rig.message(create(4, None));
    assert_eq!(rig.started(), Vec::<TaskId>::new());
    rig.done(1, records(&[r#"{"id":1}"#]));
    assert_eq!(rig.started(), [2]);
    rig.done(2, records(&[r#"{"id":1}"#]));
    assert_eq!(rig.started(), [3, 4], "the query and the write behind it");
    let numbers: Vec<Value> = rig.sent().iter().map(|sent| sent["requestId"].clone()).collect();
    assert_eq!(numbers, [1, 2]);
}

#[test]
fn ds_3_statements_of_one_transaction_keep_their_order_and_wait_for_nobody_else() {
    let mut rig = Rig::new();
    let (a, b) = (rig.begin(0), rig.begin(1));
    rig.message(create(2, None));
    let plain = rig.started()[0];
    rig.message(create(3, Some(&a)));
    rig.message(query(4, Some(&a)));
    rig.message(commit(5, &a));
    rig.message(create(6, Some(&b)));
    let [first, other] = rig.started()[..] else { panic!("one of each transaction") };
    rig.message(create(7, None));
    rig.done(plain, records(&["{}"]));
    assert_eq!(rig.started(), Vec::<TaskId>::new(), "the commit came before the second write");
    rig.done(first, records(&["{}"]));
    let [second] = rig.started()[..] else { panic!("the query") };
    rig.done(second, records(&[]));
    let [end] = rig.started()[..] else { panic!("the commit") };
    rig.done(end, Outcome::Done);
    assert_eq!(rig.started().len(), 1, "the write behind the commit");
    assert_eq!(rig.forgotten, std::slice::from_ref(&a));
    rig.done(other, records(&["{}"]));
    rig.sent();
    rig.message(query(8, Some(&a)));
    let sent = rig.sent();
    assert_eq!(sent[0]["errorMessage"], format!("No transaction with id {a}"));
    assert_eq!(sent[0]["code"], "HW5405");
}

#[test]
fn ds_1_what_comes_behind_a_login_waits_for_it_and_what_came_before_has_begun() {
    let mut rig = Rig::new();
    rig.message(create(0, None));
    rig.message(create(1, None));
    rig.message(json!({"tag": "LoginWithJWT", "requestId": 2, "jwt": "t"}));
    rig.message(query(3, None));
    rig.message(json!({"tag": "CreateUser", "requestId": 4}));
    assert_eq!(rig.started(), [0]);
    rig.done(0, records(&["{}"]));
    assert_eq!(rig.started(), [1, 2], "the login starts when nothing before it waits");
    rig.done(1, records(&["{}"]));
    assert_eq!(rig.started(), Vec::<TaskId>::new());
    rig.sent();
    rig.done(2, Outcome::LoggedIn { user_id: "u".into(), token: "t".into() });
    assert_eq!(rig.started(), [3, 4]);
    assert_eq!(
        rig.sent(),
        [json!({"tag": "LoginSuccessful", "requestId": 2, "userId": "u", "jwt": "t"})]
    );
}

#[test]
fn ds_9_a_socket_has_some_transactions_and_those_that_time_ended_do_not_count() {
    let mut rig = Rig::new();
    let (a, _) = (rig.begin(0), rig.begin(1));
    rig.message(json!({"tag": "StartTransaction", "requestId": 2}));
    let sent = rig.sent();
    let message = sent[0]["errorMessage"].as_str().expect("a text");
    assert!(message.contains("You've reached the transaction limit of 2 transactions"));
    rig.handle(Event::TransactionOver(&a));
    rig.begin(3);
    rig.message(commit(4, &a));
    let end = rig.started()[0];
    rig.done(end, Outcome::Failed(Failure::new(1, "it is over")));
    assert_eq!(rig.sent()[0]["errorMessage"], "it is over");
    rig.message(commit(5, &a));
    assert_eq!(rig.sent()[0]["errorMessage"], format!("No transaction with id {a}"));
}

#[test]
fn ds_9_a_transaction_that_could_not_be_opened_does_not_count() {
    let mut rig = Rig::new();
    for request in 0..5 {
        rig.message(json!({"tag": "StartTransaction", "requestId": request}));
        let task = rig.started()[0];
        rig.done(task, Outcome::Failed(Failure::new(1, "no")));
        assert_eq!(rig.sent()[0]["errorMessage"], "no");
    }
}

#[test]
fn ds_8_answers_have_as_many_records_as_they_must() {
    let mut rig = Rig::new();
    let update = json!({"tag": "UpdateRecordMessage", "requestId": 0, "table": "t", "id": "1", "patch": {"a": 1}});
    rig.message(update.clone());
    rig.done(0, records(&[]));
    let sent = rig.sent();
    let message = sent[0]["errorMessage"].as_str().expect("a text");
    assert!(message.starts_with("Could not apply the update to the given record."), "{message}");
    rig.message(
        json!({"tag": "CreateRecordsMessage", "requestId": 1, "table": "t", "records": []}),
    );
    assert_eq!(rig.sent()[0]["errorMessage"], "At least one record is required");
    rig.message(create(2, None));
    rig.done(1, records(&[]));
    assert_eq!(rig.sent()[0]["errorMessage"], "Unexpected result in CreateRecordMessage handler");
    rig.message(json!({"tag": "DeleteRecordMessage", "requestId": 3, "table": "t", "id": "1"}));
    rig.done(2, records(&[]));
    assert_eq!(rig.sent(), [json!({"tag": "DidDeleteRecord", "requestId": 3})]);
    rig.message(json!({"tag": "UpdateRecordsMessage", "requestId": 4, "table": "t", "ids": [], "patch": {}}));
    rig.done(3, records(&[]));
    assert_eq!(rig.sent(), [json!({"tag": "DidUpdateRecords", "requestId": 4, "records": []})]);
}

#[test]
fn ds_17_something_is_sent_every_three_seconds_while_a_request_waits() {
    let mut rig = Rig::new();
    assert_eq!(rig.session.keep_alive_at(), rig.now + STILL_HERE);
    rig.message(query(0, None));
    rig.now += Duration::from_millis(2_999);
    rig.handle(Event::Tick);
    assert_eq!(rig.sent(), [Value::Null; 0]);
    rig.now += Duration::from_millis(1);
    rig.handle(Event::Tick);
    assert_eq!(rig.sent(), [json!({"tag": "KeepAlive"})]);
    assert_eq!(rig.session.keep_alive_at(), rig.now + KEEP_ALIVE);
    rig.done(0, records(&[]));
    assert_eq!(rig.sent().len(), 1);
    assert_eq!(rig.session.keep_alive_at(), rig.now + STILL_HERE);
}

#[test]
fn ds_17_something_is_sent_every_fifteen_seconds_when_nothing_happens() {
    let mut rig = Rig::new();
    for _ in 0..2 {
        rig.now += Duration::from_millis(14_999);
        rig.handle(Event::Tick);
        assert_eq!(rig.sent(), [Value::Null; 0]);
        rig.now += Duration::from_millis(1);
        rig.handle(Event::Tick);
        assert_eq!(rig.sent(), [json!({"tag": "KeepAlive"})]);
    }
}

#[test]
fn ds_13_what_cannot_be_read_is_answered_and_the_session_goes_on() {
    let mut rig = Rig::new();
    rig.text("nonsense");
    rig.message(json!({"tag": 7, "requestId": 0}));
    rig.message(json!([1, 2]));
    let tags: Vec<Value> = rig.sent().iter().map(|sent| sent["tag"].clone()).collect();
    assert_eq!(tags, ["FailedToDecodeMessageError", "DataSyncError", "FailedToDecodeMessageError"]);
    rig.message(query(1, None));
    assert_eq!(rig.started(), [0]);
}

#[test]
fn ds_15_an_applications_answer_has_the_number_of_the_request() {
    let mut rig = Rig::new();
    rig.message(json!({"tag": "CreateUser", "requestId": 7, "email": "a", "password": "b"}));
    let raw = |json: &str| RawValue::from_string(json.to_owned()).expect("JSON");
    rig.done(0, Outcome::Answered(raw(r#"{"tag":"DidCreateUser","requestId":1,"userId":"u"}"#)));
    assert_eq!(rig.sent(), [json!({"tag": "DidCreateUser", "requestId": 7, "userId": "u"})]);
    rig.message(json!({"tag": "CreateUser", "requestId": 8}));
    rig.done(1, Outcome::Answered(raw("[1]")));
    assert_eq!(rig.sent()[0]["code"], "HW5408");
}

#[test]
fn messages_that_wait_are_bounded_by_number_and_by_bytes() {
    let mut rig = Rig::new();
    rig.message(create(0, None));
    for request in 1.. {
        if rig.session.is_full() {
            break;
        }
        assert!(request < 1_000, "never full");
        rig.message(create(request, None));
    }
    assert!(rig.session.waiting_bytes > 10_000);
    let mut task = 0;
    while !rig.session.running.is_empty() {
        rig.done(task, records(&["{}"]));
        task += 1;
    }
    assert_eq!((rig.session.waiting_bytes, rig.session.is_full()), (0, false));
}

#[test]
fn f_69_a_message_counts_until_its_task_is_done() {
    let mut rig = Rig::new();
    let length = create(0, None).to_string().len();
    rig.message(create(0, None));
    rig.message(create(1, None));
    assert_eq!((rig.started(), rig.memory.held()), (vec![0], 2 * length), "one runs, one waits");
    rig.done(0, records(&["{}"]));
    assert_eq!((rig.started(), rig.memory.held()), (vec![1], length));
    rig.done(1, Outcome::Failed(Failure::new(1, "no")));
    assert_eq!(rig.memory.held(), 0);
    // Nor does what has no task.
    rig.text("nonsense");
    rig.message(commit(2, "nothing"));
    rig.message(json!({"tag": "DeleteDataSubscription", "requestId": 3, "subscriptionId": "x"}));
    assert_eq!((rig.started(), rig.memory.held()), (vec![], 0));
}

#[test]
fn ds_17_something_is_sent_while_a_message_waits_for_room() {
    let mut rig = Rig::new();
    rig.handle(Event::Delayed);
    rig.now += Duration::from_secs(2);
    rig.handle(Event::Delayed);
    rig.now += Duration::from_secs(1);
    rig.handle(Event::Tick);
    assert_eq!(rig.sent(), [json!({"tag": "KeepAlive"})]);
    rig.message(query(0, None));
    rig.done(0, records(&[]));
    rig.sent();
    assert_eq!(rig.session.keep_alive_at(), rig.now + STILL_HERE);
    rig.handle(Event::TooHeavy(&query(1, None).to_string()));
    rig.handle(Event::TooHeavy("nonsense"));
    let sent = rig.sent();
    assert_eq!((&sent[0]["tag"], &sent[0]["requestId"]), (&json!("DataSyncError"), &json!(1)));
    assert_eq!(sent[1]["tag"], "FailedToDecodeMessageError");
}

fn subscribe(request: i64) -> Value {
    let mut message = query(request, None);
    message["tag"] = "CreateDataSubscription".into();
    message
}

fn at(position: u64) -> EndLsn {
    EndLsn(hw_types::Lsn(position))
}

fn insert(key: &str) -> Vec<hw_live::Change> {
    let record = hw_live::Record::new(format!("{{\"id\": {key}}}"));
    vec![hw_live::Change::Insert { key: key.into(), record }]
}

/// A group that is another one now.
fn update(before: &str, after: &str) -> Vec<hw_live::Change> {
    let [before, after] = [before, after].map(hw_live::Record::new);
    vec![hw_live::Change::Update { key: "[]".into(), before: Some(before), after }]
}

#[test]
fn ds_10_5_an_answer_comes_before_the_events_and_nothing_behind_the_end() {
    let mut rig = Rig::new();
    rig.message(subscribe(0));
    rig.handle(Event::News("id-1", insert("1"), at(9)));
    assert_eq!(rig.sent(), [Value::Null; 0]);
    rig.done(0, Outcome::Rows(vec!["{\"id\": 7}".into()], at(8)));
    rig.handle(Event::News("id-1", insert("1"), at(9)));
    rig.message(json!({"tag": "DeleteDataSubscription", "requestId": 1, "subscriptionId": "id-1"}));
    rig.handle(Event::News("id-1", insert("2"), at(9)));
    assert_eq!(
        rig.sent(),
        [
            json!({"tag": "DidCreateDataSubscription", "requestId": 0, "subscriptionId": "id-1", "result": [{"id": 7}], "lsn": "0/8"}),
            json!({"tag": "DidInsert", "subscriptionId": "id-1", "record": {"id": 1}, "lsn": "0/9"}),
            json!({"tag": "DidDeleteDataSubscription", "requestId": 1, "subscriptionId": "id-1"}),
        ]
    );
    assert_eq!(rig.unsubscribed, ["id-1"]);
    rig.message(json!({"tag": "DeleteDataSubscription", "requestId": 2, "subscriptionId": "id-1"}));
    assert_eq!(
        rig.sent()[0]["errorMessage"],
        "Failed to delete DataSubscription, could not find DataSubscription with id id-1"
    );
}

#[test]
fn ds_13_subscriptions_have_a_limit_and_those_that_failed_do_not_count() {
    let mut rig = Rig::new();
    for request in 0..3 {
        rig.message(subscribe(request));
    }
    rig.message(subscribe(3));
    let sent = rig.sent();
    assert_eq!(
        sent[0]["errorMessage"],
        "You've reached the subscriptions limit of 3 subscriptions"
    );
    rig.done(0, Outcome::Failed(Failure::new(1, "no")));
    rig.done(1, Outcome::Rows(vec![], at(8)));
    rig.sent();
    rig.message(subscribe(4));
    assert_eq!(rig.sent(), [Value::Null; 0]);
}

#[test]
fn ds_10_3_a_count_is_told_when_it_is_another_one() {
    let mut rig = Rig::new();
    let mut message = subscribe(0);
    message["tag"] = "CreateCountSubscription".into();
    rig.message(message);
    rig.done(0, Outcome::Rows(vec!["{\"count\": 5}".into()], at(8)));
    assert_eq!(
        rig.sent(),
        [
            json!({"tag": "DidCreateCountSubscription", "requestId": 0, "subscriptionId": "id-1", "count": 5})
        ]
    );
    let told =
        |count: u64| json!({"tag": "DidChangeCount", "subscriptionId": "id-1", "count": count});
    for (after, expected) in [(6, vec![told(6)]), (6, vec![]), (5, vec![told(5)])] {
        let news = update("{\"count\": 0}", &format!("{{\"count\": {after}}}"));
        rig.handle(Event::News("id-1", news, at(9)));
        assert_eq!(rig.sent(), expected);
    }
    // Behind that comes the end.
    let gone = vec![hw_live::Change::Delete { key: "[]".into() }];
    rig.handle(Event::News("id-1", gone, at(9)));
    assert_eq!(rig.sent(), [told(0)]);
}

#[test]
fn issue_6_2_groups_are_told_as_rows_are_by_their_values() {
    let mut rig = Rig::new();
    let mut message = subscribe(0);
    message["tag"] = "CreateAggregateSubscription".into();
    message["groupBy"] = json!(["a"]);
    message["aggregates"] = json!({"n": {"tag": "Count"}});
    let mut again = message.clone();
    rig.message(message);
    rig.done(0, Outcome::Rows(vec!["{\"a\": null, \"n\": 1}".into()], at(8)));
    let key = "[null]".into();
    let after = hw_live::Record::new("{\"a\": null, \"n\": 2}");
    let before = Some(hw_live::Record::new("{\"a\": null, \"n\": 1}"));
    rig.handle(Event::News("id-1", vec![hw_live::Change::Update { key, before, after }], at(9)));
    rig.handle(Event::News("id-1", vec![hw_live::Change::Delete { key: "[null]".into() }], at(10)));
    again["requestId"] = 1.into();
    again["resume"] = json!({"subscriptionId": "id-1", "lsn": "0/9"});
    rig.message(again);
    rig.done(1, Outcome::Resumed("0/9".into()));
    assert_eq!(
        rig.sent(),
        [
            json!({"tag": "DidCreateAggregateSubscription", "requestId": 0, "subscriptionId": "id-1",
                   "result": [{"a": null, "n": 1}], "lsn": "0/8"}),
            json!({"tag": "DidUpdate", "subscriptionId": "id-1", "id": [null], "changeSet": {"n": 2}, "lsn": "0/9"}),
            json!({"tag": "DidDelete", "subscriptionId": "id-1", "id": [null], "lsn": "0/A"}),
            json!({"tag": "DidCreateAggregateSubscription", "requestId": 1, "subscriptionId": "id-2", "resumed": true,
                   "lsn": "0/9"}),
        ]
    );
}

#[test]
fn ds_10_5_a_subscription_that_ends_by_itself_is_told_without_a_number() {
    let mut rig = Rig::new();
    rig.message(subscribe(0));
    rig.done(0, Outcome::Rows(vec![], at(8)));
    rig.sent();
    let (table, reason) = (TableName::new("public", "t"), "has it switched off");
    rig.handle(Event::Ended("id-1", LiveError::NotSecured { table, reason }));
    assert_eq!(
        rig.sent(),
        [json!({"tag": "DataSyncError", "subscriptionId": "id-1", "code": "HW4305",
                "errorMessage": "Row level security is required for accessing this table: public.t has it switched off"})]
    );
    assert_eq!(rig.unsubscribed, ["id-1"]);
}

#[test]
fn ds_10_5_appends_are_told_to_whoever_knows_them_and_whole_texts_to_everybody_else() {
    let text = |end: &str| {
        hw_live::Record::new(json!({"t": format!("{}{end}", "x".repeat(300))}).to_string())
    };
    let news =
        vec![hw_live::Change::Update { key: "1".into(), before: Some(text("")), after: text("y") }];
    let mut rig = Rig::new();
    let mut knows = subscribe(0);
    knows["appends"] = true.into();
    rig.message(knows);
    rig.message(subscribe(1));
    for task in [0, 1] {
        rig.done(task, Outcome::Rows(vec![], at(8)));
    }
    rig.sent();
    rig.handle(Event::News("id-1", news.clone(), at(9)));
    assert_eq!(rig.sent()[0]["appendSet"], json!({"t": "y"}));
    rig.handle(Event::News("id-2", news, at(9)));
    let sent = rig.sent();
    assert!(
        sent[0].get("appendSet").is_none() && sent[0]["changeSet"]["t"].is_string(),
        "{sent:?}"
    );
}

/// Whatever a client sends and whenever tasks end: each request is answered once, writes never overlap, and
/// those of a transaction neither.
#[test]
fn ds_3_every_request_is_answered_once_in_any_order_of_events() {
    let mut seed = 0x9e37_79b9_7f4a_7c15_u64;
    let mut random = move |below: u64| {
        seed ^= seed << 13;
        seed ^= seed >> 7;
        seed ^= seed << 17;
        seed % below
    };
    for _ in 0..300 {
        let mut rig = Rig::new();
        let mut open: Vec<String> = Vec::new();
        let mut running: Vec<(TaskId, Task)> = Vec::new();
        let (mut request, mut answers) = (0, Vec::new());
        while request < 60 || !running.is_empty() {
            if request < 60 && random(2) == 0 {
                let transaction = open.get(random(4) as usize).filter(|_| random(2) == 0).cloned();
                let id = transaction.as_deref();
                let message = match random(7) {
                    0 => json!({"tag": "StartTransaction", "requestId": request}),
                    1 => match id {
                        Some(id) => commit(request, id),
                        None => query(request, None),
                    },
                    2 => json!({"tag": "LoginWithJWT", "requestId": request, "jwt": "t"}),
                    3 => query(request, id),
                    4 => json!({"tag": 7, "requestId": request}),
                    _ => create(request, id),
                };
                request += 1;
                rig.message(message);
            } else if !running.is_empty() {
                let (id, task) = running.remove(random(running.len() as u64) as usize);
                let outcome = match (task, random(4)) {
                    (_, 0) => Outcome::Failed(Failure::new(1, "no")),
                    (Task::Work(..), _) => records(&["{}"]),
                    (Task::Login(_), _) => {
                        Outcome::LoggedIn { user_id: "u".into(), token: "t".into() }
                    }
                    _ => Outcome::Done,
                };
                rig.done(id, outcome);
            }
            running.append(&mut rig.started);
            let lanes =
                |of: &dyn Fn(&Task) -> bool| running.iter().filter(|(_, task)| of(task)).count();
            let is_write = |task: &Task| matches!(task, Task::Work(Work::Change(..), None));
            assert!(lanes(&is_write) <= 1, "{running:?}");
            for id in &open {
                let of_it = |task: &Task| match task {
                    Task::Work(_, Some(of)) | Task::End(of, _) => of == id,
                    _ => false,
                };
                assert!(lanes(&of_it) <= 1, "{running:?}");
            }
            for sent in rig.sent() {
                if let Some(id) = sent["transactionId"].as_str()
                    && sent["tag"] == "DidStartTransaction"
                {
                    open.push(id.to_owned());
                }
                answers.push(sent["requestId"].as_i64().expect("a number"));
            }
        }
        answers.sort_unstable();
        assert_eq!(answers, (0..60).collect::<Vec<i64>>());
    }
}

#[test]
fn ds_21_a_subscription_that_goes_on_has_no_result_and_then_what_was_missed() {
    let mut rig = Rig::new();
    let mut message = subscribe(0);
    message["resume"] = json!({"subscriptionId": "old", "lsn": "0/7"});
    rig.message(message);
    let (task, started) = rig.started.pop().expect("started");
    let Task::Subscribe(id, _, Wanted::Rows, Some(resume)) = started else { panic!("{started:?}") };
    assert_eq!((&*id, &*resume.subscription_id, &*resume.lsn), ("id-1", "old", "0/7"));
    rig.done(task, Outcome::Resumed(resume.lsn));
    rig.handle(Event::News("id-1", [insert("1"), insert("2")].concat(), at(9)));
    assert_eq!(
        rig.sent(),
        [
            json!({"tag": "DidCreateDataSubscription", "requestId": 0, "subscriptionId": "id-1", "resumed": true, "lsn": "0/7"}),
            json!({"tag": "DidInsert", "subscriptionId": "id-1", "record": {"id": 1}}),
            json!({"tag": "DidInsert", "subscriptionId": "id-1", "record": {"id": 2}, "lsn": "0/9"}),
        ],
        "the position is reached with the last"
    );
}
