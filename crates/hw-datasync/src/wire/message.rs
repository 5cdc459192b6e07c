//! Requests of clients.

use super::aggregate::Aggregation;
use super::query::{Literal, Query};
use super::{Unreadable, read, unreadable};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::collections::BTreeMap;

/// A request, and the number under which it is answered.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Request {
    /// Chosen by the client, from 0.
    pub id: i64,
    /// What is asked.
    pub message: Message,
}

/// Rows that one message may name, or bring.
pub const MAX_ROWS: usize = 10_000;

/// Values of a record by field.
pub type Payload = BTreeMap<String, Literal>;

/// What is asked. Identifiers of rows are values of the table's key, arrays of several for one of several
/// columns.
#[derive(Clone, Debug, PartialEq, Eq)]
#[expect(missing_docs, reason = "the fields are those of the protocol")]
pub enum Message {
    /// Rows, once.
    Query { query: Query, transaction: Option<String> },
    /// Groups of rows, once.
    QueryGroups { query: Query, groups: Aggregation, transaction: Option<String> },
    /// Rows, and every change of them from then on.
    SubscribeRows { query: Query, resume: Option<Resume>, appends: bool },
    /// How many rows, and every change of that.
    SubscribeCount { query: Query },
    /// Groups of rows, and every change of them.
    SubscribeGroups { query: Query, groups: Aggregation, resume: Option<Resume> },
    /// Ends a subscription.
    Unsubscribe { subscription: String },
    /// Inserts rows.
    Create { table: String, records: Vec<Payload>, several: bool, transaction: Option<String> },
    /// Changes rows.
    Update {
        table: String,
        ids: Vec<Literal>,
        patch: Payload,
        several: bool,
        transaction: Option<String>,
    },
    /// Deletes rows.
    Delete { table: String, ids: Vec<Literal>, several: bool, transaction: Option<String> },
    /// Opens a transaction.
    Begin,
    /// Ends one without its changes.
    Rollback { transaction: String },
    /// Ends one with its changes.
    Commit { transaction: String },
    /// A new token for this socket.
    LoginWithToken { token: String },
    /// One that an application may answer itself, with all that it says.
    Hook { tag: String, json: String },
}

/// Where a subscription of an earlier socket ended.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub struct Resume {
    /// The subscription.
    pub subscription_id: String,
    /// The position that its client has.
    pub lsn: String,
}

/// A message that cannot be read.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct BadMessage {
    /// Its number, where it has one: then the client can tell which request failed.
    pub request: Option<i64>,
    /// What is wrong with it.
    pub what: Unreadable,
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
pub(super) struct Wire<'a> {
    #[serde(borrow)]
    pub(super) tag: Option<&'a RawValue>,
    #[serde(borrow)]
    request_id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) query: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) group_by: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) aggregates: Option<&'a RawValue>,
    #[serde(borrow)]
    resume: Option<&'a RawValue>,
    #[serde(borrow)]
    appends: Option<&'a RawValue>,
    #[serde(borrow)]
    transaction_id: Option<&'a RawValue>,
    #[serde(borrow)]
    subscription_id: Option<&'a RawValue>,
    #[serde(borrow)]
    table: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) record: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) records: Option<&'a RawValue>,
    #[serde(borrow)]
    id: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) ids: Option<&'a RawValue>,
    #[serde(borrow)]
    pub(super) patch: Option<&'a RawValue>,
    #[serde(borrow)]
    jwt: Option<&'a RawValue>,
}

impl Request {
    /// The number of a message of which nothing else is looked at.
    pub fn number(json: &str) -> Option<i64> {
        let wire: Wire<'_> = serde_json::from_str(json).ok()?;
        wire.request_id?.get().parse().ok()
    }

    /// Reads a message.
    pub fn read(json: &str) -> Result<Request, BadMessage> {
        let unnumbered = |what| BadMessage { request: None, what };
        let wire: Wire<'_> = read("the message", json).map_err(unnumbered)?;
        let number = match wire.request_id {
            Some(raw) => raw.get().parse::<i64>().map_err(|_| {
                let (least, most) = (i64::MIN, i64::MAX);
                format!("field `requestId` must be a whole number from {least} to {most}")
            }),
            None => Err("missing field `requestId`, a whole number".to_owned()),
        };
        let id = number.map_err(|what| unnumbered(Unreadable(what)))?;
        let message = wire.message(json).map_err(|what| BadMessage { request: Some(id), what })?;
        Ok(Request { id, message })
    }
}

impl Wire<'_> {
    fn message(&self, json: &str) -> Result<Message, Unreadable> {
        let tag = text("tag", self.tag)?;
        let query = || Query::read(given("query", self.query)?.get());
        let groups = || Aggregation::read(self.group_by, given("aggregates", self.aggregates)?);
        let resume = || self.resume.map(|raw| read("field `resume`", raw.get())).transpose();
        let table = || text("table", self.table);
        let transaction =
            || self.transaction_id.map(|_| text("transactionId", self.transaction_id)).transpose();
        Ok(match &*tag {
            "DataSyncQuery" => Message::Query { query: query()?, transaction: transaction()? },
            "CreateDataSubscription" => {
                // Keys of other protocols are ignored, whatever they hold.
                let appends = self.appends.is_some_and(|raw| raw.get() == "true");
                Message::SubscribeRows { query: query()?, resume: resume()?, appends }
            }
            "DataSyncAggregateQuery" => Message::QueryGroups {
                query: query()?,
                groups: groups()?,
                transaction: transaction()?,
            },
            "CreateAggregateSubscription" => {
                Message::SubscribeGroups { query: query()?, groups: groups()?, resume: resume()? }
            }
            "CreateCountSubscription" => Message::SubscribeCount { query: query()? },
            "DeleteDataSubscription" => {
                Message::Unsubscribe { subscription: text("subscriptionId", self.subscription_id)? }
            }
            "CreateRecordMessage" => Message::Create {
                table: table()?,
                records: vec![payload(given("record", self.record)?)?],
                several: false,
                transaction: transaction()?,
            },
            "CreateRecordsMessage" => {
                let records = several("records", self.records)?;
                Message::Create {
                    table: table()?,
                    records: records.into_iter().map(payload).collect::<Result<_, _>>()?,
                    several: true,
                    transaction: transaction()?,
                }
            }
            "UpdateRecordMessage" | "UpdateRecordsMessage" => {
                let several = tag == "UpdateRecordsMessage";
                Message::Update {
                    table: table()?,
                    ids: self.ids(several)?,
                    patch: payload(given("patch", self.patch)?)?,
                    several,
                    transaction: transaction()?,
                }
            }
            "DeleteRecordMessage" | "DeleteRecordsMessage" => {
                let several = tag == "DeleteRecordsMessage";
                Message::Delete {
                    table: table()?,
                    ids: self.ids(several)?,
                    several,
                    transaction: transaction()?,
                }
            }
            "StartTransaction" => Message::Begin,
            "RollbackTransaction" => Message::Rollback { transaction: text("id", self.id)? },
            "CommitTransaction" => Message::Commit { transaction: text("id", self.id)? },
            "LoginWithJWT" => Message::LoginWithToken { token: text("jwt", self.jwt)? },
            // Whoever answers it knows what it must say.
            tag => Message::Hook { tag: tag.into(), json: json.to_owned() },
        })
    }

    fn ids(&self, several: bool) -> Result<Vec<Literal>, Unreadable> {
        let one = |raw: &RawValue| match raw.get().as_bytes().first() {
            Some(b'n' | b'{') | None => {
                unreadable("an id is a text, a number, or an array of several")
            }
            Some(_) => Literal::read(raw),
        };
        match several {
            false => Ok(vec![one(given("id", self.id)?)?]),
            true => self::several("ids", self.ids)?.into_iter().map(one).collect(),
        }
    }
}

fn given<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<&'a RawValue, Unreadable> {
    raw.map_or_else(|| unreadable(format!("missing field `{name}`")), Ok)
}

/// What stands for several rows.
fn several<'a>(name: &str, raw: Option<&'a RawValue>) -> Result<Vec<&'a RawValue>, Unreadable> {
    let all: Vec<&RawValue> = read(&format!("field `{name}`"), given(name, raw)?.get())?;
    match all.len() {
        0..=MAX_ROWS => Ok(all),
        _ => unreadable(format!(
            "field `{name}` may have {MAX_ROWS} elements at most; send fewer at a time"
        )),
    }
}

pub(super) fn text(name: &str, raw: Option<&RawValue>) -> Result<String, Unreadable> {
    serde_json::from_str(given(name, raw)?.get())
        .map_err(|_| Unreadable(format!("field `{name}` must be a text")))
}

/// Reads the values of a record.
pub fn payload(raw: &RawValue) -> Result<Payload, Unreadable> {
    let members: BTreeMap<String, &RawValue> = read("a record", raw.get())?;
    members.into_iter().map(|(field, raw)| Ok((field, Literal::read(raw)?))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    const QUERY: &str = r#"{"table":"t","selectedColumns":{"tag":"SelectAll"},"whereCondition":null,"orderByClause":[]}"#;

    fn read(json: &str) -> Message {
        Request::read(json).unwrap_or_else(|bad| panic!("{json}: {bad:?}")).message
    }

    #[test]
    fn every_message_is_read() {
        let id = r#""requestId":0"#;
        assert!(matches!(
            read(&format!(
                r#"{{"tag":"DataSyncQuery",{id},"query":{QUERY},"transactionId":null}}"#
            )),
            Message::Query { transaction: None, .. }
        ));
        assert!(matches!(
            read(&format!(r#"{{"tag":"DataSyncQuery",{id},"query":{QUERY},"transactionId":"x"}}"#)),
            Message::Query { transaction: Some(_), .. }
        ));
        let resume = r#","resume":{"subscriptionId":"s","lsn":"0/1"}"#;
        assert!(matches!(
            read(&format!(r#"{{"tag":"CreateDataSubscription",{id},"query":{QUERY}{resume}}}"#)),
            Message::SubscribeRows { resume: Some(Resume { .. }), appends: false, .. }
        ));
        let appends = |value: &str| {
            let json = format!(
                r#"{{"tag":"CreateDataSubscription",{id},"query":{QUERY},"appends":{value}}}"#
            );
            matches!(read(&json), Message::SubscribeRows { appends: true, .. })
        };
        assert!(appends("true") && !appends("false") && !appends("null") && !appends("7"));
        assert!(matches!(
            read(&format!(r#"{{"tag":"CreateCountSubscription",{id},"query":{QUERY}}}"#)),
            Message::SubscribeCount { .. }
        ));
        let groups = r#""groupBy":["a"],"aggregates":{"n":{"tag":"Count"}}"#;
        assert!(matches!(
            read(&format!(
                r#"{{"tag":"DataSyncAggregateQuery",{id},"query":{QUERY},{groups},"transactionId":"x"}}"#
            )),
            Message::QueryGroups { groups: Aggregation { .. }, transaction: Some(_), .. }
        ));
        assert!(matches!(
            read(&format!(
                r#"{{"tag":"CreateAggregateSubscription",{id},"query":{QUERY},{groups}{resume}}}"#
            )),
            Message::SubscribeGroups { resume: Some(Resume { .. }), .. }
        ));
        let exact = |json: &str| read(&json.replace("ID", id));
        assert_eq!(
            exact(r#"{"tag":"DeleteDataSubscription",ID,"subscriptionId":"s"}"#),
            Message::Unsubscribe { subscription: "s".into() }
        );
        let record = Payload::from([
            ("title".into(), Literal::of(&raw("\"a\""))),
            ("n".into(), Literal::of(&raw("1.50"))),
        ]);
        assert_eq!(
            exact(
                r#"{"tag":"CreateRecordMessage",ID,"table":"t","record":{"title":"a","n":1.50}}"#
            ),
            Message::Create {
                table: "t".into(),
                records: vec![record.clone()],
                several: false,
                transaction: None
            }
        );
        assert_eq!(
            exact(
                r#"{"tag":"CreateRecordsMessage",ID,"table":"t","records":[{"title":"a","n":1.50},{}]}"#
            ),
            Message::Create {
                table: "t".into(),
                records: vec![record.clone(), Payload::new()],
                several: true,
                transaction: None
            }
        );
        assert_eq!(
            exact(
                r#"{"tag":"UpdateRecordMessage",ID,"table":"t","id":"1","patch":{"title":"a","n":1.50}}"#
            ),
            Message::Update {
                table: "t".into(),
                ids: vec![Literal::of(&raw("\"1\""))],
                patch: record.clone(),
                several: false,
                transaction: None
            }
        );
        assert_eq!(
            exact(
                r#"{"tag":"UpdateRecordsMessage",ID,"table":"t","ids":[],"patch":{"title":"a","n":1.50}}"#
            ),
            Message::Update {
                table: "t".into(),
                ids: vec![],
                patch: record,
                several: true,
                transaction: None
            }
        );
        assert_eq!(
            exact(r#"{"tag":"DeleteRecordMessage",ID,"table":"t","id":"1","transactionId":"x"}"#),
            Message::Delete {
                table: "t".into(),
                ids: vec![Literal::of(&raw("\"1\""))],
                several: false,
                transaction: Some("x".into())
            }
        );
        assert_eq!(
            exact(r#"{"tag":"DeleteRecordsMessage",ID,"table":"t","ids":["1","2"]}"#),
            Message::Delete {
                table: "t".into(),
                ids: vec![Literal::of(&raw("\"1\"")), Literal::of(&raw("\"2\""))],
                several: true,
                transaction: None
            }
        );
        assert_eq!(exact(r#"{"tag":"StartTransaction",ID}"#), Message::Begin);
        assert_eq!(
            exact(r#"{"tag":"RollbackTransaction",ID,"id":"x"}"#),
            Message::Rollback { transaction: "x".into() }
        );
        assert_eq!(
            exact(r#"{"tag":"CommitTransaction",ID,"id":"x"}"#),
            Message::Commit { transaction: "x".into() }
        );
        assert_eq!(
            exact(r#"{"tag":"LoginWithJWT",ID,"jwt":"a.b.c"}"#),
            Message::LoginWithToken { token: "a.b.c".into() }
        );
        assert!(matches!(
            exact(r#"{"tag":"CreateUser",ID,"email":"a@b","password":"p"}"#),
            Message::Hook { tag, json } if tag == "CreateUser" && json.contains("a@b")
        ));
    }

    fn raw(json: &str) -> Box<RawValue> {
        RawValue::from_string(json.to_owned()).unwrap()
    }

    #[test]
    fn what_cannot_be_read_is_told_with_its_number_where_it_has_one() {
        let bad = |json: &str| Request::read(json).unwrap_err();
        assert_eq!(bad("nonsense").request, None);
        assert_eq!(bad(r#"{"requestId":7}"#).request, Some(7));
        assert_eq!(bad(r#"{"tag":"StartTransaction"}"#).request, None);
        assert_eq!(bad(r#"{"tag":"StartTransaction","requestId":"7"}"#).request, None);
        let lacking = bad(r#"{"tag":"UpdateRecordMessage","requestId":1,"table":"t","id":"1"}"#);
        assert!(lacking.request == Some(1) && lacking.what.0.contains("patch"), "{lacking:?}");
    }
}
