//! What clients are told.

use serde::Serialize;
use serde_json::value::RawValue;

/// An answer, or a push. Records are JSON objects that Postgres or the engine has written.
#[derive(Debug, Serialize)]
#[serde(tag = "tag", rename_all_fields = "camelCase")]
#[expect(missing_docs, reason = "the fields are those of the protocol")]
pub enum Answer<'a> {
    /// The rows of a query.
    DataSyncResult { request_id: i64, result: &'a [Box<RawValue>] },
    /// A request failed, or a subscription ended by itself.
    DataSyncError {
        #[serde(skip_serializing_if = "Option::is_none")]
        request_id: Option<i64>,
        #[serde(skip_serializing_if = "Option::is_none")]
        subscription_id: Option<&'a str>,
        error_message: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        code: Option<&'a str>,
        #[serde(skip_serializing_if = "Option::is_none")]
        sqlstate: Option<&'a str>,
    },
    /// A message without a number cannot be read.
    FailedToDecodeMessageError { error_message: &'a str },
    /// A subscription begins with these rows, of this position, or goes on behind the one that its client has.
    DidCreateDataSubscription {
        request_id: i64,
        subscription_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a [Box<RawValue>]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed: Option<bool>,
        lsn: &'a str,
    },
    /// Groups of rows begin so, or go on.
    DidCreateAggregateSubscription {
        request_id: i64,
        subscription_id: &'a str,
        #[serde(skip_serializing_if = "Option::is_none")]
        result: Option<&'a [Box<RawValue>]>,
        #[serde(skip_serializing_if = "Option::is_none")]
        resumed: Option<bool>,
        lsn: &'a str,
    },
    /// A count begins with this number.
    DidCreateCountSubscription { request_id: i64, subscription_id: &'a str, count: u64 },
    /// A subscription has ended.
    DidDeleteDataSubscription { request_id: i64, subscription_id: &'a str },
    /// A row has come.
    DidInsert {
        subscription_id: &'a str,
        record: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        lsn: Option<&'a str>,
    },
    /// A row has changed: other values, and what was appended to texts.
    DidUpdate {
        subscription_id: &'a str,
        id: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        change_set: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        append_set: Option<&'a RawValue>,
        #[serde(skip_serializing_if = "Option::is_none")]
        lsn: Option<&'a str>,
    },
    /// A row has gone.
    DidDelete {
        subscription_id: &'a str,
        id: &'a RawValue,
        #[serde(skip_serializing_if = "Option::is_none")]
        lsn: Option<&'a str>,
    },
    /// A count is another one.
    DidChangeCount { subscription_id: &'a str, count: u64 },
    /// The row as it was inserted.
    DidCreateRecord { request_id: i64, record: &'a RawValue },
    /// The rows as they were inserted, in the order of the request.
    DidCreateRecords { request_id: i64, records: &'a [Box<RawValue>] },
    /// The row as it is now.
    DidUpdateRecord { request_id: i64, record: &'a RawValue },
    /// The rows that were changed.
    DidUpdateRecords { request_id: i64, records: &'a [Box<RawValue>] },
    /// It is not there (any more).
    DidDeleteRecord { request_id: i64 },
    /// They are not there (any more).
    DidDeleteRecords { request_id: i64 },
    /// A transaction is open.
    DidStartTransaction { request_id: i64, transaction_id: &'a str },
    /// It has ended without its changes.
    DidRollbackTransaction { request_id: i64, transaction_id: &'a str },
    /// It has ended with its changes.
    DidCommitTransaction { request_id: i64, transaction_id: &'a str },
    /// The new token holds.
    LoginSuccessful { request_id: i64, user_id: &'a str, jwt: &'a str },
    /// Nothing: the original client would otherwise take a slow answer for a dead socket.
    KeepAlive {},
}

impl Answer<'_> {
    /// The message.
    pub fn json(&self) -> String {
        serde_json::to_string(self).expect("texts and numbers can be written")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn answers_have_the_names_of_the_protocol_and_no_empty_sets() {
        let record = RawValue::from_string(r#"{"id":"1","n":1.50}"#.into()).unwrap();
        let id = RawValue::from_string(r#""1""#.into()).unwrap();
        let records = [record.clone()];
        let cases = [
            (
                Answer::DataSyncResult { request_id: 0, result: &records },
                r#"{"tag":"DataSyncResult","requestId":0,"result":[{"id":"1","n":1.50}]}"#,
            ),
            (
                Answer::DataSyncError {
                    request_id: Some(3),
                    subscription_id: None,
                    error_message: "no",
                    code: None,
                    sqlstate: Some("23505"),
                },
                r#"{"tag":"DataSyncError","requestId":3,"errorMessage":"no","sqlstate":"23505"}"#,
            ),
            (
                Answer::DidUpdate {
                    subscription_id: "s",
                    id: &id,
                    change_set: None,
                    append_set: None,
                    lsn: None,
                },
                r#"{"tag":"DidUpdate","subscriptionId":"s","id":"1"}"#,
            ),
            (
                Answer::DidUpdate {
                    subscription_id: "s",
                    id: &id,
                    change_set: Some(&record),
                    append_set: None,
                    lsn: None,
                },
                r#"{"tag":"DidUpdate","subscriptionId":"s","id":"1","changeSet":{"id":"1","n":1.50}}"#,
            ),
            (
                Answer::DidCommitTransaction { request_id: 1, transaction_id: "x" },
                r#"{"tag":"DidCommitTransaction","requestId":1,"transactionId":"x"}"#,
            ),
            (Answer::KeepAlive {}, r#"{"tag":"KeepAlive"}"#),
        ];
        for (answer, expected) in cases {
            assert_eq!(answer.json(), expected);
        }
    }
}
