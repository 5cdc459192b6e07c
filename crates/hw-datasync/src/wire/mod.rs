//! Messages of clients, and what they are answered with: one JSON object per WebSocket message.
//!
//! Values stay the JSON that the client wrote, so that no digit of a number is lost on the way to Postgres.
//!
//! Source: `datasync.md` 2 to 5.

use serde::Deserialize;

mod aggregate;
mod answer;
mod message;
mod query;
mod weight;

pub use aggregate::{Aggregate, Aggregation, Wanted};
pub use answer::Answer;
pub use message::{BadMessage, MAX_ROWS, Message, Payload, Request, Resume, payload};
pub use query::{Expr, Literal, Operator, Order, Query, Selected};
pub use weight::{of_body, of_message};

/// Why a message or a query cannot be read, in words for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

/// Reads a part of a message.
///
/// - Takes: what it is, for whoever wrote it.
/// - Errors: why it is none, without any value of it and without words of the parser.
fn read<'j, T: Deserialize<'j>>(what: &str, json: &'j str) -> Result<T, Unreadable> {
    serde_json::from_str(json).map_err(|error| Unreadable(why(what, &error)))
}

fn why(what: &str, error: &serde_json::Error) -> String {
    let text = error.to_string();
    // Where it stands is true of the whole message alone, of whose parts each is read for itself.
    let text = text.split(" at line ").next().unwrap_or_default();
    if let Some(field) = text.strip_prefix("missing field ") {
        return format!("missing field {field} of {what}");
    }
    if let Some(field) = text.strip_prefix("duplicate field ") {
        return format!("{what} has the field {field} twice");
    }
    if let Some(variant) = text.strip_prefix("unknown variant ") {
        let (found, expected) = variant.split_once(", expected ").unwrap_or((variant, "another"));
        return format!("{what} takes {expected}, not {}", shown(found));
    }
    if let Some(found) = text.strip_prefix("invalid type: ") {
        let (found, expected) = found.rsplit_once(", expected ").unwrap_or((found, "another"));
        let found = [
            ("null", "null"),
            ("string", "a text"),
            ("integer", "a number"),
            ("floating", "a number"),
            ("boolean", "true or false"),
            ("sequence", "an array"),
            ("map", "an object"),
        ]
        .into_iter()
        .find(|(word, _)| found.starts_with(word));
        let expected = match expected {
            "a sequence" => "an array",
            "a map" => "an object",
            "a string" | "a borrowed string" | "a character" => "a text",
            own => own,
        };
        return match found {
            Some((_, found)) => format!("{what} must be {expected}, and is {found}"),
            None => format!("{what} must be {expected}"),
        };
    }
    if text.starts_with("invalid length") {
        return format!("{what} must be an object, and is an array");
    }
    if text.starts_with("recursion limit") {
        return format!("{what} nests too deeply");
    }
    format!("{what} cannot be read as JSON")
}

fn unreadable<T>(what: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable(what.into()))
}

/// A word that a client wrote, as far as it may be one of the protocol.
fn shown(word: &str) -> String {
    word.chars().take(64).collect()
}

/// How deep arrays and objects nest in a text, at most; right for every text that is JSON.
fn depth(json: &str) -> usize {
    let mut deepest = 0;
    each_of_structure(json, |_, depth| deepest = deepest.max(depth));
    deepest
}

/// Calls with every bracket, brace and comma of a JSON text outside of its strings, and in how many arrays and
/// objects it stands, its own among them.
fn each_of_structure(json: &str, mut call: impl FnMut(u8, usize)) {
    let mut depth = 0_usize;
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                call(byte, depth);
            }
            b'}' | b']' if !in_text => {
                call(byte, depth);
                depth = depth.saturating_sub(1);
            }
            b',' if !in_text => call(byte, depth),
            _ => {}
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ds_13_what_cannot_be_read_is_told_in_words_of_the_protocol_and_without_values() {
        let said = |json: &str| Request::read(json).expect_err("it cannot be read").what.0;
        let query = |more: &str| {
            said(&format!(
                r#"{{"tag":"DataSyncQuery","requestId":1,"query":{{"selectedColumns":{{"tag":"SelectAll"}},
                    "whereCondition":null,"orderByClause":[],{more}}}}}"#
            ))
        };
        for (message, expected) in [
            (said("hush"), "the message cannot be read as JSON"),
            (said("[7]"), "the message must be an object, and is an array"),
            (said(r#""hush""#), "the message must be an object, and is a text"),
            (
                said(r#"{"tag":"DataSyncQuery","requestId":1,"query":"hush"}"#),
                "field `query` must be an object, and is a text",
            ),
            (query(r#""table":7"#), "field `table` must be a text"),
            (query(r#""x":7"#), "missing field `table` of field `query`"),
            (
                query(r#""table":"t","limit":"hush""#),
                "limit must be a whole number that is not negative",
            ),
            (
                said(r#"{"tag":"CreateRecordMessage","requestId":1,"table":"t","record":"hush"}"#),
                "a record must be an object, and is a text",
            ),
            (
                said(r#"{"tag":"CreateRecordsMessage","requestId":1,"table":"t","records":{}}"#),
                "field `records` must be an array, and is an object",
            ),
            (
                said(r#"{"tag":"StartTransaction","requestId":9223372036854775808}"#),
                "field `requestId` must be a whole number from -9223372036854775808 to 9223372036854775807",
            ),
            (
                said(r#"{"tag":"StartTransaction","requestId":"hush"}"#),
                "field `requestId` must be a whole number from -9223372036854775808 to 9223372036854775807",
            ),
            (said(r#"{"tag":"StartTransaction"}"#), "missing field `requestId`, a whole number"),
        ] {
            assert_eq!(message, expected);
        }
        let condition = |json: &str| Expr::read(json).expect_err("it is none").0;
        assert!(
            condition(r#"{"tag":"InfixOperatorExpression","op":"OpLike"}"#)
                .contains("not `OpLike`")
        );
        assert_eq!(condition("7"), "a condition must be an object, and is a number");
        for text in [
            condition("7"),
            condition("{"),
            condition(r#"{"tag":7}"#),
            condition(r#"{"tag":"ColumnExpression","field":7}"#),
            condition(r#"{"tag":"ListExpression","values":7}"#),
            condition(r#"{"tag":"CallExpression","functionCall":7}"#),
            condition(r#"{"tag":"CallExpression","functionCall":{"text":7}}"#),
            condition(&"[".repeat(200)),
            query(r#""table":"t","orderByClause":7"#),
        ] {
            for word in ["struct", "Wire", "line", "column 1", "RawValue", "EOF", "map", "sequence"]
            {
                assert!(!text.contains(word), "{word}: {text}");
            }
        }
    }
}
