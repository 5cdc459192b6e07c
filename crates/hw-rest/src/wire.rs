//! The JSON of uploads: bytes to [`UploadTransaction`]s, verdicts to bytes.
//!
//! Values of columns stay the text that the client wrote. `docs/uploads.md` describes both ways.
//! Invariant: what this lets through can be stored and compared by Postgres, so that nothing of a
//! client's making stands in the way of its queue for ever (FD-54).

use std::collections::HashSet;
use std::fmt;
use std::sync::Arc;

use hw_http::ApiError;
use hw_write::{Fields, OperationKind, UploadOperation, UploadTransaction, Verdict};
use serde::de::{DeserializeSeed, Error as _, MapAccess, SeqAccess, Visitor};
use serde::{Deserialize, Deserializer, Serialize};
use serde_json::value::RawValue;

/// Transactions of one request at most.
pub(crate) const MAX_TRANSACTIONS: usize = 1000;
/// Bytes of a client id at most; it is part of an index key.
const MAX_CLIENT_ID_BYTES: usize = 256;
/// Bytes of the token's `sub` at most; it is part of the same key, of which Postgres takes 2,700.
const MAX_SUBJECT_BYTES: usize = 1024;
/// Containers in containers at most, in a whole body. Postgres reads JSON recursively.
const MAX_DEPTH: usize = 128;

/// A request, read and checked.
#[derive(Debug)]
pub(crate) struct UploadRequest {
    pub(crate) client_id: String,
    pub(crate) transactions: Vec<UploadTransaction>,
}

#[derive(Deserialize)]
struct WireRequest {
    client_id: String,
    transactions: Vec<WireTransaction>,
}

#[derive(Deserialize)]
struct WireTransaction {
    id: Number,
    operations: Box<RawValue>,
}

#[derive(Deserialize)]
struct WireOperation {
    op_id: Number,
    op: WireKind,
    r#type: String,
    id: String,
    #[serde(default)]
    data: Option<WireFields>,
    #[serde(default)]
    old: Option<WireFields>,
    #[serde(default)]
    metadata: Option<Box<RawValue>>,
}

#[derive(Clone, Copy, Deserialize)]
enum WireKind {
    #[serde(rename = "PUT")]
    Put,
    #[serde(rename = "PATCH")]
    Patch,
    #[serde(rename = "DELETE")]
    Delete,
}

/// A whole number below 2^63, as a JSON number or, for clients without such numbers, as text.
#[derive(Debug, Clone, Copy)]
struct Number(i64);

impl<'de> Deserialize<'de> for Number {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Number, D::Error> {
        struct Digits;
        impl Visitor<'_> for Digits {
            type Value = Number;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a whole number that is not negative")
            }
            fn visit_u64<E: serde::de::Error>(self, number: u64) -> Result<Number, E> {
                i64::try_from(number).map(Number).map_err(|_| E::custom("the number is too large"))
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Number, E> {
                match text.bytes().all(|digit| digit.is_ascii_digit()) {
                    true => text.parse().map(Number).map_err(E::custom),
                    false => Err(E::custom("the text is not a whole number")),
                }
            }
        }
        deserializer.deserialize_any(Digits)
    }
}

/// An object whose values are kept as text, in order. A name that comes twice is refused: which
/// value was meant would be a guess.
struct WireFields(Fields);

impl<'de> Deserialize<'de> for WireFields {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<WireFields, D::Error> {
        struct Object;
        impl<'de> Visitor<'de> for Object {
            type Value = WireFields;
            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object of columns")
            }
            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<WireFields, A::Error> {
                let mut fields = Fields::new();
                let mut names = std::collections::HashSet::new();
                while let Some((name, value)) = map.next_entry::<String, Box<RawValue>>()? {
                    if !names.insert(name.clone()) {
                        return Err(A::Error::custom("a column comes twice"));
                    }
                    fields.push((name, value));
                }
                Ok(WireFields(fields))
            }
        }
        deserializer.deserialize_map(Object)
    }
}

/// Checks whether records can be kept under the token's `sub`. Errors: HW5005.
pub(crate) fn check_subject(subject: &str) -> Result<(), ApiError> {
    if subject.len() > MAX_SUBJECT_BYTES || subject.contains('\0') {
        return Err(ApiError::body(format!(
            "The token's sub must have at most {MAX_SUBJECT_BYTES} bytes, none of them NUL"
        )));
    }
    Ok(())
}

/// Reads a body. Errors: HW5005 with the place, without any value; HW5004 for too many
/// transactions.
pub(crate) fn read(body: &[u8]) -> Result<UploadRequest, ApiError> {
    if depth(body) > MAX_DEPTH {
        return Err(ApiError::body(format!("The body is nested deeper than {MAX_DEPTH}")));
    }
    let wire: WireRequest = serde_json::from_slice(body).map_err(|error| {
        // serde_json's own message may quote a value of the body.
        ApiError::body(format!(
            "The body is not an upload (line {}, column {})",
            error.line(),
            error.column()
        ))
    })?;
    let client_id = &wire.client_id;
    if client_id.is_empty() || client_id.len() > MAX_CLIENT_ID_BYTES || client_id.contains('\0') {
        return Err(ApiError::body(format!(
            "client_id must have 1 to {MAX_CLIENT_ID_BYTES} bytes, none of them NUL"
        )));
    }
    if wire.transactions.len() > MAX_TRANSACTIONS {
        return Err(ApiError::new(
            axum::http::StatusCode::PAYLOAD_TOO_LARGE,
            hw_types::Code(hw_http::code::TOO_LARGE),
            format!("At most {MAX_TRANSACTIONS} transactions may be sent at a time"),
        ));
    }
    let transactions =
        wire.transactions.into_iter().map(read_transaction).collect::<Result<_, _>>()?;
    Ok(UploadRequest { client_id: wire.client_id, transactions })
}

/// How deep containers lie in containers, whatever else the text is.
fn depth(body: &[u8]) -> usize {
    let (mut depth, mut deepest, mut in_text, mut escaped) = (0usize, 0, false, false);
    for byte in body {
        match byte {
            _ if escaped => escaped = false,
            b'\\' if in_text => escaped = true,
            b'"' => in_text = !in_text,
            b'[' | b'{' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b']' | b'}' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}

fn read_transaction(wire: WireTransaction) -> Result<UploadTransaction, ApiError> {
    let Number(id) = wire.id;
    let in_transaction = |what: &str| ApiError::body(format!("Transaction {id}: {what}"));
    let mut reader = serde_json::Deserializer::from_str(wire.operations.get());
    let operations = Operations::default()
        .deserialize(&mut reader)
        .map_err(|_| in_transaction("an operation is not as described"))?;
    if operations.is_empty() {
        return Err(in_transaction("it has no operations"));
    }
    if !operations.windows(2).all(|pair| pair[0].op_id < pair[1].op_id) {
        return Err(in_transaction("op_id does not ascend"));
    }
    Ok(UploadTransaction { id, operations, entries: wire.operations })
}

/// Reads operations one after another, so that only one of them is there in both forms; the names
/// of tables, which repeat, are kept once.
#[derive(Default)]
struct Operations {
    tables: HashSet<Arc<str>>,
}

impl<'de> DeserializeSeed<'de> for Operations {
    type Value = Vec<UploadOperation>;
    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Self::Value, D::Error> {
        deserializer.deserialize_seq(self)
    }
}

impl<'de> Visitor<'de> for Operations {
    type Value = Vec<UploadOperation>;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a list of operations")
    }

    fn visit_seq<A: SeqAccess<'de>>(mut self, mut list: A) -> Result<Self::Value, A::Error> {
        let mut operations = Vec::new();
        while let Some(wire) = list.next_element::<WireOperation>()? {
            operations.push(self.operation(wire).map_err(A::Error::custom)?);
        }
        operations.shrink_to_fit();
        Ok(operations)
    }
}

impl Operations {
    fn operation(&mut self, wire: WireOperation) -> Result<UploadOperation, &'static str> {
        let data = wire.data.map(|fields| fields.0).unwrap_or_default();
        let old = wire.old.map(|fields| fields.0);
        let names = data.iter().chain(old.iter().flatten()).map(|(name, _)| name);
        if names.chain([&wire.r#type]).any(|name| name.contains('\0')) {
            return Err("a name has a NUL");
        }
        let table = match self.tables.get(wire.r#type.as_str()) {
            Some(table) => Arc::clone(table),
            None => {
                let table: Arc<str> = wire.r#type.into();
                self.tables.insert(Arc::clone(&table));
                table
            }
        };
        Ok(UploadOperation {
            op_id: wire.op_id.0,
            kind: match wire.op {
                WireKind::Put => OperationKind::Put,
                WireKind::Patch => OperationKind::Patch,
                WireKind::Delete => OperationKind::Delete,
            },
            table,
            id: wire.id,
            data,
            old,
            metadata: wire.metadata.map(|metadata| metadata.get().to_owned()),
        })
    }
}

/// The answer to a request.
#[derive(Serialize)]
pub(crate) struct Answer {
    transactions: Vec<WireVerdict>,
}

#[derive(Serialize)]
struct WireVerdict {
    id: i64,
    verdict: &'static str,
    #[serde(skip_serializing_if = "Option::is_none")]
    error: Option<WireError>,
}

#[derive(Default, Serialize)]
struct WireError {
    message: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    code: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    sqlstate: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    op_id: Option<i64>,
    #[serde(skip_serializing_if = "Option::is_none")]
    table: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    column: Option<String>,
    #[serde(skip_serializing_if = "Option::is_none")]
    constraint: Option<String>,
}

/// Puts verdicts beside the ids of their transactions; both in the same order.
pub(crate) fn answer(ids: Vec<i64>, verdicts: Vec<Verdict>) -> Answer {
    let transactions = ids.into_iter().zip(verdicts).map(|(id, verdict)| match verdict {
        Verdict::Applied => WireVerdict { id, verdict: "applied", error: None },
        Verdict::Rejected(rejection) => WireVerdict {
            id,
            verdict: "rejected",
            error: Some(WireError {
                message: rejection.message,
                code: None,
                sqlstate: Some(rejection.sqlstate),
                op_id: rejection.op_id,
                table: rejection.table,
                column: rejection.column,
                constraint: rejection.constraint,
            }),
        },
        Verdict::Retry(delay) => WireVerdict {
            id,
            verdict: "retry",
            error: Some(WireError {
                message: delay.reason,
                code: delay.code.map(|code| code.to_string()),
                ..WireError::default()
            }),
        },
    });
    Answer { transactions: transactions.collect() }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn refusal(body: &str) -> String {
        use axum::response::IntoResponse as _;
        let error = read(body.as_bytes()).unwrap_err();
        assert!(error.clone().into_response().status().is_client_error());
        format!("{error:?}")
    }

    #[test]
    fn an_upload_is_read_with_every_digit_and_in_order() {
        let body = r#"{"client_id":"c","transactions":[{"id":"7","operations":[
            {"op_id":1,"op":"PUT","type":"t","id":"x","tx_id":7,"data":{"b":1.50,"a":9007199254740993}},
            {"op_id":2,"op":"DELETE","type":"t","id":"x","old":{"a":null},"metadata":"m"}]}]}"#;
        let request = read(body.as_bytes()).unwrap();
        let transaction = &request.transactions[0];
        assert_eq!((request.client_id.as_str(), transaction.id), ("c", 7));
        assert_eq!((transaction.first_op_id(), transaction.last_op_id()), (1, 2));
        let data: Vec<(&str, &str)> = transaction.operations[0]
            .data
            .iter()
            .map(|(name, value)| (name.as_str(), value.get()))
            .collect();
        assert_eq!(data, [("b", "1.50"), ("a", "9007199254740993")]);
        assert_eq!(transaction.operations[1].old.as_ref().unwrap().len(), 1);
        assert!(transaction.entries.get().starts_with("[\n"));
    }

    #[test]
    fn fd_54_names_and_nesting_that_postgres_cannot_keep_are_refused_at_once() {
        let body = |client: &str, operation: &str| {
            format!(
                r#"{{"client_id":"{client}","transactions":[{{"id":1,"operations":[{operation}]}}]}}"#
            )
        };
        let put = |table: &str, more: &str| {
            format!(r#"{{"op_id":1,"op":"PUT","type":"{table}","id":"x"{more}}}"#)
        };
        let nested = |depth: usize| format!("{}{}", "[".repeat(depth), "]".repeat(depth));
        let good = [
            body("c", &put("t", &format!(r#","data":{{"a":{}}}"#, nested(120)))),
            // A text is a text, whatever is in it.
            body("c", &put("t", &format!(r#","data":{{"a":"\"{}\\"}}"#, "[".repeat(500)))),
        ];
        for body in good {
            assert!(read(body.as_bytes()).is_ok(), "{body}");
        }
        let bad = [
            (body("a\\u0000", &put("t", "")), "none of them NUL"),
            (body("c", &put("t\\u0000", "")), "not as described"),
            (body("c", &put("t", r#","data":{"a\u0000":1}"#)), "not as described"),
            (body("c", &put("t", r#","old":{"a\u0000":1}"#)), "not as described"),
            (body("c", &put("t", &format!(r#","metadata":{}"#, nested(125)))), "deeper than 128"),
            (body("c", &put("t", &format!(r#","data":{{"a":{}}}"#, nested(20_000)))), "deeper"),
        ];
        for (body, part) in bad {
            let text = refusal(&body);
            assert!(text.contains(part), "{part}: {text}");
        }
        assert!(check_subject("a\0").is_err() && check_subject(&"a".repeat(1025)).is_err());
        assert!(check_subject("auth0|5f7c8ec7c33c6c004bbafe82").is_ok());
    }

    #[test]
    fn what_is_not_an_upload_is_refused_without_quoting_it() {
        let transaction = |operations: &str| {
            format!(r#"{{"client_id":"c","transactions":[{{"id":1,"operations":{operations}}}]}}"#)
        };
        let cases = [
            ("".to_owned(), "line 1, column 0"),
            ("hush".to_owned(), "line 1"),
            (r#"{"client_id":"","transactions":[]}"#.to_owned(), "client_id must have"),
            (
                r#"{"client_id":"c","transactions":[{"id":-1,"operations":[]}]}"#.to_owned(),
                "line 1",
            ),
            (transaction("[]"), "Transaction 1: it has no operations"),
            (transaction(r#"[{"op_id":1,"op":"hush","type":"t","id":"x"}]"#), "not as described"),
            (transaction(r#"[{"op_id":1,"op":"PUT","type":"t","id":1}]"#), "not as described"),
            (
                transaction(r#"[{"op_id":1,"op":"PUT","type":"t","id":"x","data":{"a":1,"a":2}}]"#),
                "not as described",
            ),
            (
                transaction(
                    r#"[{"op_id":2,"op":"DELETE","type":"t","id":"x"},
                        {"op_id":2,"op":"DELETE","type":"t","id":"y"}]"#,
                ),
                "op_id does not ascend",
            ),
        ];
        for (body, part) in cases {
            let text = refusal(&body);
            assert!(text.contains(part) && !text.contains("hush"), "{body}: {text}");
        }
        let one = r#"{"id":1,"operations":[]}"#;
        let many = format!(
            r#"{{"client_id":"c","transactions":[{}]}}"#,
            vec![one; MAX_TRANSACTIONS + 1].join(",")
        );
        assert!(refusal(&many).contains("413"));
    }
}
