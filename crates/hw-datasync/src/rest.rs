//! Tables over HTTP: `/api/:table` and `/api/:table/:id`.
//!
//! In: requests. Out: records as JSON, or `{"error": {"message", "code", "sqlstate"?}}`. Each request is one
//! transaction of its caller, as a message of a socket is. Invariant: nothing of a body is kept before its
//! token was verified.
//!
//! Source: `datasync.md` 14, "OURS".

use axum::body::{Body, Bytes};
use axum::extract::{Path, Query as Parameters, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hw_http::{ApiError, code as edge_code};
use serde_json::json;
use serde_json::value::RawValue;

use crate::caller::{Caller, caller, peer_of};
use crate::change::Change;
use crate::code;
use crate::failure::{Failure, shown};
use crate::server::DataSync;
use crate::wire::{self, Expr, Literal, MAX_ROWS, Order, Payload, Query, Selected};
use crate::work::{Kept, Work};

/// First segments that are no tables.
const RESERVED: [&str; 3] = ["v1", "admin", "sync-rules"];

/// A refused request, in the manner of this surface.
pub(crate) struct Refused {
    failure: Failure,
    /// The methods that the path takes, where it was that.
    allow: Option<&'static str>,
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused { failure, allow: None }
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Refused {
        Refused::from(Failure {
            message: error.description().to_owned(),
            code: error.code(),
            sqlstate: None,
            status: error.status(),
        })
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused { failure: Failure { message, code, sqlstate, status }, allow } = self;
        let mut error = json!({ "message": message, "code": code.to_string() });
        if let Some(sqlstate) = sqlstate {
            error["sqlstate"] = sqlstate.into();
        }
        // The headers are those of all refusals: when to come again, how to show a token.
        let mut response = ApiError::new(status, code, String::new()).into_response();
        let body = json!({ "error": error }).to_string();
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
        if let Some(methods) = allow {
            headers.insert(header::ALLOW, HeaderValue::from_static(methods));
        }
        *response.body_mut() = Body::from(body);
        response
    }
}

/// What a request asks for beside its table.
struct Asked {
    query: Query,
    /// A created record is answered alone.
    single: bool,
    /// A row that is not there is an error.
    strict: bool,
}

/// What a path takes.
struct Takes {
    methods: &'static str,
    /// The parameters that a method takes.
    parameters: fn(&Method) -> &'static [&'static str],
}

const TABLE: Takes = Takes {
    methods: "GET, HEAD, POST",
    parameters: |method| match *method {
        Method::POST => &["single"],
        _ => &["fields", "where", "orderBy", "distinctOnColumn", "limit", "offset"],
    },
};

const ROW: Takes = Takes {
    methods: "GET, HEAD, PATCH, DELETE",
    parameters: |method| match *method {
        Method::DELETE => &[],
        _ => &["strict"],
    },
};

/// Who shows a token in the address.
const TOKENS: [&str; 2] = ["access_token", "jwt"];

pub(crate) async fn table(
    State(server): State<DataSync>,
    Path(table): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (caller, asked, parts, body) = received(&server, &table, &TABLE, request).await?;
    match parts.method {
        Method::POST => {
            let (body, message) = body_of(&server, &caller, &parts.headers, body).await?;
            let change = Work::Change(table, Change::Insert(payloads(&body)?));
            let (records, kept) = server.worker.run(&caller, change, message).await?;
            match (asked.single, records.as_slice()) {
                (true, [record]) => Ok(json_of(record.clone(), kept)),
                _ => Ok(json_of(listed(&records), kept)),
            }
        }
        _ => {
            let message = server.worker.keep(&caller, 0)?;
            let query = Work::Query(asked.query);
            let (records, kept) = server.worker.run(&caller, query, message).await?;
            Ok(json_of(listed(&records), kept))
        }
    }
}

pub(crate) async fn row(
    State(server): State<DataSync>,
    Path((table, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let (caller, asked, parts, body) = received(&server, &table, &ROW, request).await?;
    let id = Literal::of_text(&id);
    let one = |(mut records, kept): (Vec<String>, Kept), none: Failure| match records.pop() {
        Some(record) => Ok(json_of(record, kept)),
        None if asked.strict => Err(Refused::from(none)),
        None => Ok(json_of("null".to_owned(), kept)),
    };
    match parts.method {
        Method::PATCH => {
            let (body, message) = body_of(&server, &caller, &parts.headers, body).await?;
            let change = Work::Change(table, Change::Update(vec![id], payload(&body)?));
            one(server.worker.run(&caller, change, message).await?, Failure::no_row())
        }
        Method::DELETE => {
            let message = server.worker.keep(&caller, 0)?;
            let change = Work::Change(table, Change::Delete(vec![id]));
            let (_, kept) = server.worker.run(&caller, change, message).await?;
            Ok(json_of("true".to_owned(), kept))
        }
        _ => {
            let message = server.worker.keep(&caller, 0)?;
            let none = Failure::nothing_found(&table);
            one(server.worker.run(&caller, Work::Find(table, vec![id]), message).await?, none)
        }
    }
}

/// Who asks for what, before anything of the body is read.
async fn received(
    server: &DataSync,
    table: &str,
    takes: &Takes,
    request: Request,
) -> Result<(Caller, Asked, Parts, Body), Refused> {
    if RESERVED.contains(&table) {
        return Err(ApiError::not_found().into());
    }
    let (parts, body) = request.into_parts();
    let Ok(Parameters(parameters)) = Parameters::<Vec<(String, String)>>::try_from_uri(&parts.uri)
    else {
        return Err(bad("The parameters of the query cannot be read").into());
    };
    let peer = peer_of(&parts.extensions);
    let caller = caller(&server.edge, &server.options, &parts.headers, &parameters, peer).await?;
    if !takes.methods.split(", ").any(|method| method == parts.method.as_str()) {
        return Err(not_allowed(takes.methods));
    }
    check(&parameters, (takes.parameters)(&parts.method), &parts.method)?;
    let asked = asked(table, &parameters)?;
    Ok((caller, asked, parts, body))
}

/// Refuses what would be ignored: somebody means something by it.
fn check(
    parameters: &[(String, String)],
    taken: &[&'static str],
    method: &Method,
) -> Result<(), Failure> {
    for (number, (name, _)) in parameters.iter().enumerate() {
        let is_token = TOKENS.contains(&name.as_str());
        if !is_token && !taken.contains(&name.as_str()) {
            let takes = match taken {
                [] => "none".to_owned(),
                some => some.join(", "),
            };
            let name = shown(name);
            return Err(bad(format!(
                "The parameter \"{name}\" is not one of a {method} of this path, which takes {takes}"
            )));
        }
        let is_again = parameters[..number].iter().any(|(before, _)| before == name);
        if is_again && !["orderBy", "fields"].contains(&name.as_str()) {
            return Err(bad(format!("The parameter \"{}\" is there twice", shown(name))));
        }
    }
    Ok(())
}

fn asked(table: &str, parameters: &[(String, String)]) -> Result<Asked, Failure> {
    let named = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let all = |name: &'static str| {
        parameters.iter().filter(move |(key, _)| key == name).map(|(_, value)| value)
    };
    let switch = |name: &str| match named(name).map(String::as_str) {
        None | Some("false" | "0") => Ok(false),
        Some("" | "true" | "1") => Ok(true),
        Some(_) => Err(bad(format!("{name} must be true or false"))),
    };
    let count = |name: &str| match named(name).map(|value| value.parse::<i64>()) {
        None => Ok(None),
        Some(Ok(count)) if count >= 0 => Ok(Some(count)),
        Some(_) => Err(bad(format!("{name} must be a whole number that is not negative"))),
    };
    let condition = match named("where") {
        Some(json) => Some(Expr::read(json).map_err(|what| bad(format!("where: {what}")))?),
        None => None,
    };
    let fields: Vec<String> = all("fields")
        .flat_map(|value| value.split(','))
        .filter(|field| !field.is_empty())
        .map(str::to_owned)
        .collect();
    let order = |value: &String| {
        let (field, direction) = value.split_once(',').unwrap_or((value, "asc"));
        match direction {
            "asc" | "desc" => {
                Ok(Order::Field { field: field.to_owned(), descending: direction == "desc" })
            }
            _ => Err(bad("orderBy takes a field, and asc or desc behind a comma")),
        }
    };
    Ok(Asked {
        query: Query {
            table: table.to_owned(),
            selected: if fields.is_empty() { Selected::All } else { Selected::Fields(fields) },
            condition,
            order: all("orderBy").map(order).collect::<Result<_, _>>()?,
            distinct_on: named("distinctOnColumn").cloned(),
            limit: count("limit")?,
            offset: count("offset")?,
        },
        single: switch("single")?,
        strict: switch("strict")?,
    })
}

/// The JSON of a body, and what counts that and what is made of it.
async fn body_of(
    server: &DataSync,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<(Box<RawValue>, Kept), Refused> {
    let is_json = headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        let essence =
            value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    });
    if !is_json {
        return Err(bad("Expected JSON body, but the content type is another one").into());
    }
    let most = server.options.message_bytes;
    let received = server.edge.body_of(caller.holder(), body, most).await;
    let received = received.map_err(ApiError::from)?;
    let body: Box<RawValue> = serde_json::from_slice(received.bytes())
        .map_err(|_| bad("Expected JSON body, but it cannot be read as JSON"))?;
    let weight = wire::of_body(&body);
    if weight > server.worker.answers.share() {
        // It would never have room.
        return Err(bad(
            "the body has more values than one user may have in memory; send fewer at a time",
        )
        .into());
    }
    let kept = server.worker.keep(caller, weight)?;
    Ok((body, kept))
}

/// One record, or several.
fn payloads(body: &RawValue) -> Result<Vec<Payload>, Failure> {
    if !body.get().starts_with('[') {
        return Ok(vec![payload(body)?]);
    }
    let records: Vec<&RawValue> =
        serde_json::from_str(body.get()).map_err(|_| bad("Expected an array of objects"))?;
    match records.len() {
        0 => Err(Failure::no_record()),
        1..=MAX_ROWS => records.into_iter().map(payload).collect(),
        _ => Err(bad(format!("A body may have {MAX_ROWS} records at most; send fewer at a time"))),
    }
}

fn payload(body: &RawValue) -> Result<Payload, Failure> {
    wire::payload(body).map_err(|_| bad("Expected object"))
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(code::MESSAGE, message)
}

fn not_allowed(methods: &'static str) -> Refused {
    let failure =
        Failure::new(edge_code::METHOD, format!("The path takes {methods} requests only"))
            .with_status(StatusCode::METHOD_NOT_ALLOWED);
    Refused { failure, allow: Some(methods) }
}

fn listed(records: &[String]) -> String {
    format!("[{}]", records.join(","))
}

/// An answer that counts until the socket has it.
fn json_of(body: String, kept: Kept) -> Response {
    struct Answer {
        body: String,
        _kept: Kept,
    }
    impl AsRef<[u8]> for Answer {
        fn as_ref(&self) -> &[u8] {
            self.body.as_bytes()
        }
    }
    let kind = HeaderValue::from_static("application/json");
    let body = Body::from(Bytes::from_owner(Answer { body, _kept: kept }));
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
