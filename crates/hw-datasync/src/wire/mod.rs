//! Messages of clients, and what they are answered with: one JSON object per WebSocket message.
//!
//! Values stay the JSON that the client wrote, so that no digit of a number is lost on the way to Postgres.
//!
//! Source: `datasync.md` 2 to 5.

mod answer;
mod message;
mod query;

pub use answer::Answer;
pub use message::{BadMessage, Message, Payload, Request, payload};
pub use query::{Expr, Literal, Operator, Order, Query, Selected};

/// Why a message or a query cannot be read, in words for its author.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct Unreadable(pub String);

impl From<serde_json::Error> for Unreadable {
    fn from(error: serde_json::Error) -> Unreadable {
        Unreadable(error.to_string())
    }
}

fn unreadable<T>(what: impl Into<String>) -> Result<T, Unreadable> {
    Err(Unreadable(what.into()))
}

/// How deep arrays and objects nest in a text, at most; right for every text that is JSON.
fn depth(json: &str) -> usize {
    let (mut deepest, mut depth) = (0_usize, 0_usize);
    let (mut in_text, mut escaped) = (false, false);
    for byte in json.bytes() {
        match byte {
            _ if escaped => escaped = false,
            b'\\' => escaped = in_text,
            b'"' => in_text = !in_text,
            b'{' | b'[' if !in_text => {
                depth += 1;
                deepest = deepest.max(depth);
            }
            b'}' | b']' if !in_text => depth = depth.saturating_sub(1),
            _ => {}
        }
    }
    deepest
}
