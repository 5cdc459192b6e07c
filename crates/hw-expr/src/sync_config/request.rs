//! What a client brings: its token's claims, connection parameters and subscriptions, and how
//! expressions see them. Source: `sync-rules.md` 12.

use crate::error::EvalError;
use crate::json::Json;
use crate::routines::json_member;
use crate::value::SqlValue;
use std::fmt;

/// One client's request, verified already.
#[derive(Clone, Debug)]
pub struct Request<'a> {
    /// The token's payload, an object.
    pub jwt: &'a serde_json::Value,
    /// Connection parameters; NULL and anything but an object count as `{}`.
    pub parameters: &'a serde_json::Value,
    /// Explicit subscriptions, in the client's order.
    pub subscriptions: &'a [Subscription],
    /// Whether definitions that are subscribed by default are included.
    pub include_defaults: bool,
}

/// One explicit subscription.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Subscription {
    /// Name of the stream; an unknown one is ignored.
    pub stream: String,
    /// Its parameters; absent and null count as `{}`.
    pub parameters: Option<serde_json::Value>,
    /// Replaces the stream's priority.
    pub override_priority: Option<u8>,
}

/// Who a value of the request comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Origin {
    /// The verified token.
    Token,
    /// The client's connection parameters: anybody can send anything.
    Connection,
    /// The client's subscription parameters: anybody can send anything.
    Subscription,
}

/// A value of the request.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct RequestName {
    /// Whose value.
    pub origin: Origin,
    /// Which value.
    pub part: RequestPart,
}

/// Which value of a document.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RequestPart {
    /// The whole document as JSON text.
    Document,
    /// `parameters() ->> path`.
    Member(String),
    /// `sub` of the token.
    Subject,
    /// A flattened field of the token's `parameters` claim or of the connection parameters, as
    /// `token_parameters.x` and `user_parameters.x` see it.
    Flat(String),
}

impl fmt::Display for RequestName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "request({:?},{:?})", self.origin, self.part)
    }
}

/// The documents of a request, read once.
pub struct RequestValues {
    token: Json,
    connection: Json,
}

/// The documents with the parameters of one subscription.
#[derive(Clone, Copy)]
pub struct SubscriptionValues<'a> {
    /// Token and connection.
    pub request: &'a RequestValues,
    /// The subscription's parameters; `None` for a default subscription, where all reads are
    /// NULL.
    pub subscription: Option<&'a Json>,
}

impl RequestValues {
    /// Reads the documents of a request.
    pub fn new(request: &Request<'_>) -> RequestValues {
        RequestValues {
            token: Json::from_request(request.jwt),
            connection: object(request.parameters),
        }
    }
}

/// A parameter document: what is not an object counts as an empty one.
pub fn object(value: &serde_json::Value) -> Json {
    match value {
        serde_json::Value::Object(_) => Json::from_request(value),
        _ => Json::Object(Vec::new()),
    }
}

impl SubscriptionValues<'_> {
    /// The value of a name.
    pub fn value(&self, name: &RequestName) -> Result<SqlValue<'static>, EvalError> {
        let document = match name.origin {
            Origin::Token => &self.request.token,
            Origin::Connection => &self.request.connection,
            Origin::Subscription => match self.subscription {
                Some(document) => document,
                None => return Ok(SqlValue::Null),
            },
        };
        Ok(match &name.part {
            RequestPart::Document => SqlValue::text(document.to_text()),
            RequestPart::Member(path) => json_member(document, path),
            RequestPart::Subject => document.get("sub").map_or(SqlValue::Null, flat),
            RequestPart::Flat(field) => match name.origin {
                Origin::Token if field == "user_id" => {
                    document.get("sub").map_or(SqlValue::Null, flat)
                }
                Origin::Token => document
                    .get("parameters")
                    .and_then(|parameters| parameters.get(field))
                    .map_or(SqlValue::Null, flat),
                _ => document.get(field).map_or(SqlValue::Null, flat),
            },
        })
    }
}

/// Whole numbers become INTEGER, objects and arrays their text, booleans 1/0.
fn flat(json: &Json) -> SqlValue<'static> {
    match json {
        Json::Real(value) if value.fract() == 0.0 && value.abs() < 1e15 => {
            SqlValue::Integer(*value as i128)
        }
        other => other.to_value().into_owned(),
    }
}
