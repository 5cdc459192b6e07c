//! What a client asks for: the bodies of `POST /sync/stream` and `POST /sync/checkpoint-request`.
//!
//! What flows in: the body's bytes and the query's `client_id`. What flows out: plain structs, or
//! the list of fields that are not of the documented form, without their values. Unknown keys are
//! ignored, `null` counts as absent (`powersync-protocol.md` 3). Fields are parsed one by one, so
//! that each message names its field.

use std::borrow::Cow;
use std::collections::BTreeMap;

use hw_types::OpId;
use serde::Deserialize;
use serde::de::DeserializeOwned;
use serde_json::value::RawValue;

use super::document::Document;
use super::error::ErrorBody;
use super::line::DataForm;

/// A bucket that the client already holds.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct HeldBucket {
    /// Its name, as this or another server gave it.
    pub name: String,
    /// The client wants operations behind this.
    pub after: OpId,
}

/// One explicit subscription to a stream. Its index in the request is its id in every line.
#[derive(Clone, Debug, PartialEq)]
pub struct Subscription {
    /// The stream's name; unknown names are not an error.
    pub stream: String,
    /// Subscription parameters, if any.
    pub parameters: Option<Document>,
    /// Replaces the stream's priority for this subscription's buckets.
    pub override_priority: Option<u8>,
}

/// The body of `POST /sync/stream`.
#[derive(Clone, Debug, PartialEq)]
pub struct StreamRequest {
    /// What the client holds.
    pub buckets: Vec<HeldBucket>,
    /// How it wants the data of operations.
    pub form: DataForm,
    /// Stable per local database; part of the write checkpoint's key.
    pub client_id: Option<String>,
    /// Connection parameters, untrusted.
    pub parameters: Document,
    /// Whether default streams are included.
    pub include_defaults: bool,
    /// Explicit subscriptions.
    pub subscriptions: Vec<Subscription>,
    /// For logs only.
    pub app_metadata: BTreeMap<String, String>,
}

#[derive(Deserialize)]
struct StreamFields<'a> {
    #[serde(borrow)]
    buckets: Option<&'a RawValue>,
    #[serde(borrow)]
    raw_data: Option<&'a RawValue>,
    #[serde(borrow)]
    client_id: Option<&'a RawValue>,
    #[serde(borrow)]
    parameters: Option<&'a RawValue>,
    #[serde(borrow)]
    streams: Option<&'a RawValue>,
    #[serde(borrow)]
    app_metadata: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct StreamsField<'a> {
    #[serde(borrow)]
    include_defaults: Option<&'a RawValue>,
    #[serde(borrow)]
    subscriptions: Option<&'a RawValue>,
}

#[derive(Deserialize)]
struct BucketField<'a> {
    name: String,
    #[serde(borrow)]
    after: Cow<'a, str>,
}

#[derive(Deserialize)]
struct SubscriptionField {
    stream: String,
    parameters: Option<Document>,
    override_priority: Option<u8>,
}

/// Longest client id, bytes: it is part of keys, markers and log lines.
pub const MAX_CLIENT_ID_BYTES: usize = 256;
/// Longest JSON text of the connection's parameters, and of what the log is told.
const MAX_PARAMETER_BYTES: usize = 64 * 1024;
/// Room in the JSON text of the subscriptions for each that there may be, beside
/// [`MAX_PARAMETER_BYTES`] for all together.
pub const SUBSCRIPTION_BYTES: usize = 256;

/// Parses the body of `POST /sync/stream`. An empty body counts as `{}`.
///
/// - Takes: the body, the query's `client_id` (the body's wins, section 2), and how many
///   subscriptions there may be.
/// - Errors: 400 with the messages of all wrong fields, or for too many subscriptions.
pub fn stream_request(
    body: &[u8],
    query_client_id: Option<&str>,
    most_subscriptions: usize,
) -> Result<StreamRequest, ErrorBody> {
    let text = object_text(body)?;
    let fields: StreamFields<'_> = serde_json::from_str(text).map_err(|_| body_error())?;
    let mut wrong = Wrong::default();

    let held: Vec<BucketField<'_>> = match fields.buckets {
        None => Vec::new(),
        Some(raw) => match serde_json::from_str(raw.get()) {
            Ok(list) => list,
            Err(_) => {
                wrong.add("buckets: must be an array of {name: string, after: string}");
                Vec::new()
            }
        },
    };
    let mut buckets = Vec::with_capacity(held.len());
    for (i, field) in held.into_iter().enumerate() {
        match op_id(&field.after) {
            Some(after) => buckets.push(HeldBucket { name: field.name, after }),
            None => wrong.add(&format!("buckets[{i}].after: must be a decimal integer as string")),
        }
    }

    let raw_data: bool = wrong.field("raw_data", "must be boolean", fields.raw_data);
    let client_id = wrong.client_id(fields.client_id);
    let parameters = wrong.bounded("parameters", MAX_PARAMETER_BYTES, fields.parameters);
    let app_metadata = wrong.bounded("app_metadata", MAX_PARAMETER_BYTES, fields.app_metadata);
    let most_bytes = MAX_PARAMETER_BYTES + most_subscriptions * SUBSCRIPTION_BYTES;
    let streams_field = wrong.bounded("streams", most_bytes, fields.streams);
    let parameters: Option<Document> =
        wrong.field("parameters", "must be object or null", parameters);
    let app_metadata: Option<BTreeMap<String, String>> =
        wrong.field("app_metadata", "must be an object of strings", app_metadata);
    let (include_defaults, subscriptions) = streams(streams_field, &mut wrong);
    if subscriptions.len() > most_subscriptions {
        return Err(ErrorBody::too_many_subscriptions(subscriptions.len(), most_subscriptions));
    }

    wrong.result(StreamRequest {
        buckets,
        form: if raw_data { DataForm::Text } else { DataForm::Nested },
        client_id: client_id.or_else(|| query_client_id.map(str::to_owned)),
        parameters: parameters.unwrap_or_default(),
        include_defaults,
        subscriptions,
        app_metadata: app_metadata.unwrap_or_default(),
    })
}

fn streams(raw: Option<&RawValue>, wrong: &mut Wrong) -> (bool, Vec<Subscription>) {
    // Clients that know no streams get the default ones.
    let Some(raw) = raw else { return (true, Vec::new()) };
    let Ok(fields) = serde_json::from_str::<StreamsField<'_>>(raw.get()) else {
        wrong.add("streams: must be an object");
        return (true, Vec::new());
    };
    let include: Option<bool> =
        wrong.field("streams.include_defaults", "must be boolean", fields.include_defaults);
    let list: Vec<SubscriptionField> = wrong.field(
        "streams.subscriptions",
        "must be an array of {stream: string, parameters: object or null, override_priority: integer or null}",
        fields.subscriptions,
    );
    let subscriptions = list
        .into_iter()
        .map(|field| Subscription {
            stream: field.stream,
            parameters: field.parameters,
            override_priority: field.override_priority,
        })
        .collect();
    (include.unwrap_or(true), subscriptions)
}

/// The body of `POST /sync/checkpoint-request`.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CheckpointRequest {
    /// Part of the write checkpoint's key.
    pub client_id: Option<String>,
    /// The number that the client chose, from 1 to 2^63 - 1.
    pub requested: u64,
}

#[derive(Deserialize)]
struct CheckpointFields<'a> {
    #[serde(borrow)]
    client_id: Option<&'a RawValue>,
    #[serde(borrow)]
    checkpoint_request_id: Option<&'a RawValue>,
}

/// Parses the body of `POST /sync/checkpoint-request` (8.3): the id is a string, or a number up to
/// 2^53.
pub fn checkpoint_request(
    body: &[u8],
    query_client_id: Option<&str>,
) -> Result<CheckpointRequest, ErrorBody> {
    const GREATEST: u64 = i64::MAX.cast_unsigned();
    let text = object_text(body)?;
    let fields: CheckpointFields<'_> = serde_json::from_str(text).map_err(|_| body_error())?;
    let mut wrong = Wrong::default();
    let client_id = wrong.client_id(fields.client_id);
    let requested = match fields.checkpoint_request_id.map(RawValue::get) {
        None => None,
        Some(raw) if raw.starts_with('"') => {
            serde_json::from_str::<Cow<'_, str>>(raw).ok().and_then(|text| decimal(&text))
        }
        Some(raw) => decimal(raw).filter(|&number| number <= 1 << 53),
    };
    let requested =
        requested.filter(|number| (1..=GREATEST).contains(number)).unwrap_or_else(|| {
            wrong.add(&format!("Expected checkpoint_request_id between 1 and {GREATEST}"));
            0
        });
    wrong.result(CheckpointRequest {
        client_id: client_id.or_else(|| query_client_id.map(str::to_owned)),
        requested,
    })
}

/// The body as text of a JSON object.
fn object_text(body: &[u8]) -> Result<&str, ErrorBody> {
    let text = std::str::from_utf8(body).map_err(|_| ErrorBody::not_json())?.trim();
    if text.is_empty() {
        return Ok("{}");
    }
    match serde_json::from_str::<&RawValue>(text) {
        Ok(_) if text.starts_with('{') => Ok(text),
        Ok(_) => Err(body_error()),
        Err(_) => Err(ErrorBody::not_json()),
    }
}

fn body_error() -> ErrorBody {
    ErrorBody::validation(&["must be object".to_owned()])
}

fn decimal(text: &str) -> Option<u64> {
    if text.is_empty() || !text.bytes().all(|byte| byte.is_ascii_digit()) {
        return None;
    }
    text.parse().ok()
}

/// A position as clients write it: a decimal int64 in a string. One beyond our op ids is not
/// malformed, only ahead of every server.
fn op_id(text: &str) -> Option<OpId> {
    decimal(text).filter(|&number| i64::try_from(number).is_ok()).map(OpId)
}

fn client_id_too_long() -> String {
    format!("client_id: must have at most {MAX_CLIENT_ID_BYTES} bytes")
}

/// Refuses a client id of the query that is too long with 400.
pub fn check_client_id(client_id: Option<&str>) -> Result<(), ErrorBody> {
    match client_id.is_some_and(|client_id| client_id.len() > MAX_CLIENT_ID_BYTES) {
        true => Err(ErrorBody::validation(&[client_id_too_long()])),
        false => Ok(()),
    }
}

/// Collects messages about wrong fields.
#[derive(Default)]
struct Wrong(Vec<String>);

impl Wrong {
    /// Messages told at most: a list of a million wrong elements is wrong in one way.
    const MOST: usize = 20;

    fn add(&mut self, message: &str) {
        if self.0.len() < Wrong::MOST {
            self.0.push(message.to_owned());
        }
    }

    /// The field's value; its default when absent, null, or wrong (which is noted).
    fn field<T: DeserializeOwned + Default>(
        &mut self,
        name: &str,
        form: &str,
        raw: Option<&RawValue>,
    ) -> T {
        let Some(raw) = raw else { return T::default() };
        serde_json::from_str(raw.get()).unwrap_or_else(|_| {
            self.add(&format!("{name}: {form}"));
            T::default()
        })
    }

    /// The field, unless its JSON text is longer than `most` bytes (which is noted): it is not
    /// looked at then.
    fn bounded<'a>(
        &mut self,
        name: &str,
        most: usize,
        raw: Option<&'a RawValue>,
    ) -> Option<&'a RawValue> {
        if raw.is_some_and(|raw| raw.get().len() > most) {
            self.add(&format!("{name}: must have at most {most} bytes"));
            return None;
        }
        raw
    }

    fn client_id(&mut self, raw: Option<&RawValue>) -> Option<String> {
        let client_id: Option<String> = self.field("client_id", "must be string", raw);
        client_id.filter(|client_id| {
            let fits = client_id.len() <= MAX_CLIENT_ID_BYTES;
            if !fits {
                self.add(&client_id_too_long());
            }
            fits
        })
    }

    fn result<T>(self, value: T) -> Result<T, ErrorBody> {
        if self.0.is_empty() { Ok(value) } else { Err(ErrorBody::validation(&self.0)) }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_documented_request_is_read_whole() {
        let body = br#"{
          "buckets": [{"name": "user_lists[\"u1\"]", "after": "5"}],
          "include_checksum": true, "raw_data": true, "binary_data": true, "only": ["x"],
          "client_id": "cd5f663d", "parameters": {"p": 1},
          "streams": {"include_defaults": false, "subscriptions": [
              {"stream": "list_todos", "parameters": {"list": "l1"}, "override_priority": 1},
              {"stream": "s", "parameters": null, "override_priority": null, "ttl": 7}]},
          "app_metadata": {"version": "1.2"}}"#;
        let request = stream_request(body, Some("query"), 1000).unwrap();
        assert_eq!(
            request.buckets,
            [HeldBucket { name: "user_lists[\"u1\"]".into(), after: OpId(5) }]
        );
        assert_eq!(request.form, DataForm::Text);
        assert_eq!(request.client_id.as_deref(), Some("cd5f663d"));
        assert_eq!(request.parameters.read()["p"], 1);
        assert!(!request.include_defaults);
        assert_eq!(request.subscriptions.len(), 2);
        assert_eq!(request.subscriptions[0].override_priority, Some(1));
        assert_eq!(request.subscriptions[1].parameters, None);
        assert_eq!(request.app_metadata["version"], "1.2");
    }

    #[test]
    fn absent_and_null_fields_have_their_defaults() {
        let nulls = br#"{"buckets":null,"parameters":null,"streams":null,"client_id":null,
                         "app_metadata":null,"raw_data":null}"#;
        for body in [&b""[..], b" {} ", nulls] {
            let request = stream_request(body, Some("q"), 1000).unwrap();
            assert!(request.include_defaults);
            assert!(request.buckets.is_empty() && request.subscriptions.is_empty());
            assert_eq!(request.form, DataForm::Nested);
            assert_eq!(request.client_id.as_deref(), Some("q"));
        }
        let request = stream_request(br#"{"streams":{}}"#, None, 1000).unwrap();
        assert!(request.include_defaults);
    }

    #[test]
    fn wrong_fields_are_named_without_their_values() {
        let cases: &[(&str, &str)] = &[
            (r#"{"buckets":[{"name":"secret","after":5}]}"#, "buckets: must be an array of"),
            (
                r#"{"buckets":[{"name":"a","after":"1"},{"name":"b","after":"x"}]}"#,
                "buckets[1].after",
            ),
            (r#"{"buckets":{}}"#, "buckets"),
            (r#"{"app_metadata":{"a":1}}"#, "app_metadata"),
            (r#"{"parameters":"secret"}"#, "parameters"),
            (r#"{"client_id":5}"#, "client_id"),
            (r#"{"streams":[]}"#, "streams"),
            (r#"{"streams":{"subscriptions":[{"parameters":{}}]}}"#, "streams.subscriptions"),
            (r#"[]"#, "must be object"),
        ];
        for (body, message) in cases {
            let error = stream_request(body.as_bytes(), None, 1000).unwrap_err();
            let details = error.details.unwrap();
            assert_eq!((error.status, error.code), (400, "PSYNC_S2001"), "{body}");
            assert!(details.contains(message), "{body}: {details}");
            assert!(!details.contains("secret"), "{details}");
        }
        for body in [&b"{"[..], b"nonsense", b"\xff"] {
            let error = stream_request(body, None, 1000).unwrap_err();
            assert_eq!((error.status, error.code), (400, "FST_ERR_CTP_INVALID_JSON_BODY"));
        }
    }

    /// FD-43, FD-38, FD-37: what a request may hold is bounded, and the field is named.
    #[test]
    fn fd_37_fd_38_and_fd_43_what_a_request_may_hold_is_bounded() {
        let long = "x".repeat(MAX_CLIENT_ID_BYTES + 1);
        let parameters = "0,".repeat(MAX_PARAMETER_BYTES / 2) + "0";
        let subscriptions = |count: usize| vec![r#"{"stream":"s"}"#; count].join(",");
        let read = |body: String| stream_request(body.as_bytes(), None, 3).unwrap_err();
        for (body, message) in [
            (format!(r#"{{"client_id":"{long}"}}"#), "client_id: must have at most 256 bytes"),
            (
                format!(r#"{{"parameters":{{"x":[{parameters}]}}}}"#),
                "parameters: must have at most 65536 bytes",
            ),
            (
                format!(r#"{{"app_metadata":{{"x":"{}"}}}}"#, "y".repeat(MAX_PARAMETER_BYTES)),
                "app_metadata: must have at most 65536 bytes",
            ),
            (
                format!(r#"{{"streams":{{"subscriptions":[{}]}}}}"#, subscriptions(10_000)),
                "streams: must have at most 66304 bytes",
            ),
        ] {
            let error = read(body);
            assert_eq!(error.status, 400);
            assert!(error.details.unwrap().contains(message), "{message}");
        }
        let error = read(format!(r#"{{"streams":{{"subscriptions":[{}]}}}}"#, subscriptions(4)));
        assert_eq!((error.status, error.code), (400, "PSYNC_S2305"));
        assert_eq!(error.description, "Too many subscriptions: 4 (limit of 3)");
        let fits = format!(r#"{{"streams":{{"subscriptions":[{}]}}}}"#, subscriptions(3));
        assert_eq!(stream_request(fits.as_bytes(), None, 3).unwrap().subscriptions.len(), 3);
        let wrong = vec![r#"{"name":"b","after":"x"}"#; 10_000].join(",");
        let error = read(format!(r#"{{"buckets":[{wrong}]}}"#));
        assert!(error.details.unwrap().len() < 2000, "as many messages as anybody reads");
        let error = checkpoint_request(
            format!(r#"{{"client_id":"{long}","checkpoint_request_id":1}}"#).as_bytes(),
            None,
        );
        assert_eq!(error.unwrap_err().status, 400);
    }

    #[test]
    fn a_checkpoint_request_takes_strings_and_small_numbers() {
        let read = |body: &str| checkpoint_request(body.as_bytes(), None).map(|r| r.requested);
        assert_eq!(read(r#"{"client_id":"c","checkpoint_request_id":"3"}"#), Ok(3));
        assert_eq!(read(r#"{"checkpoint_request_id":7}"#), Ok(7));
        assert_eq!(
            read(r#"{"checkpoint_request_id":"9223372036854775807"}"#),
            Ok(9223372036854775807)
        );
        for bad in ["0", "\"0\"", "9007199254740993", "\"9223372036854775808\"", "1.5", "null"] {
            let error = read(&format!(r#"{{"checkpoint_request_id":{bad}}}"#)).unwrap_err();
            assert_eq!(error.status, 400, "{bad}");
            assert_eq!(
                error.details.unwrap(),
                "[\"Expected checkpoint_request_id between 1 and 9223372036854775807\"]"
            );
        }
    }
}
