//! Tables over HTTP: `/api/:table` and `/api/:table/:id`.
//!
//! In: requests. Out: records as JSON, or `{"error": {"message", "code", "sqlstate"?}}`. Each request is one
//! transaction of its caller, as a message of a socket is. Invariant: nothing of a body is kept before its
//! token was verified.
//!
//! Source: `datasync.md` 14, "OURS".

use axum::body::Body;
use axum::extract::{Path, Query as Parameters, Request, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use hw_http::{ApiError, code as edge_code};
use hw_types::Code;
use serde_json::json;
use serde_json::value::RawValue;

use crate::caller::{Caller, caller};
use crate::change::Change;
use crate::code;
use crate::failure::Failure;
use crate::server::DataSync;
use crate::wire::{self, Expr, Literal, Order, Payload, Query, Selected};
use crate::work::Work;

/// First segments that are no tables.
const RESERVED: [&str; 3] = ["v1", "admin", "sync-rules"];

/// A refused request, in the manner of this surface.
pub(crate) struct Refused(Failure);

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Refused {
        Refused(failure)
    }
}

impl From<ApiError> for Refused {
    fn from(error: ApiError) -> Refused {
        Refused(Failure {
            message: error.description().to_owned(),
            code: error.code(),
            sqlstate: None,
            status: error.status(),
        })
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let Refused(Failure { message, code, sqlstate, status }) = self;
        let mut error = json!({ "message": message, "code": code.to_string() });
        if let Some(sqlstate) = sqlstate {
            error["sqlstate"] = sqlstate.into();
        }
        // The headers are those of all refusals: when to come again, how to show a token.
        let mut response = ApiError::new(status, code, String::new()).into_response();
        let body = json!({ "error": error }).to_string();
        response.headers_mut().insert(header::CONTENT_LENGTH, HeaderValue::from(body.len()));
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

pub(crate) async fn table(
    State(server): State<DataSync>,
    Path(table): Path<String>,
    request: Request,
) -> Result<Response, Refused> {
    let (caller, asked, parts, body) = received(&server, &table, request).await?;
    match parts.method {
        Method::GET | Method::HEAD => {
            let records = run(&server, &caller, Work::Query(asked.query)).await?;
            Ok(json_of(listed(&records)))
        }
        Method::POST => {
            let body = body_of(&server, &caller, &parts.headers, body).await?;
            let records = payloads(&body)?;
            let change = Work::Change(table, Change::Insert(records));
            let records = run(&server, &caller, change).await?;
            match (asked.single, records.as_slice()) {
                (true, [record]) => Ok(json_of(record.clone())),
                _ => Ok(json_of(listed(&records))),
            }
        }
        _ => Err(not_allowed("GET, POST")),
    }
}

pub(crate) async fn row(
    State(server): State<DataSync>,
    Path((table, id)): Path<(String, String)>,
    request: Request,
) -> Result<Response, Refused> {
    let (caller, asked, parts, body) = received(&server, &table, request).await?;
    let id = Literal::of_text(&id);
    let one = |mut records: Vec<String>| match records.pop() {
        Some(record) => Ok(json_of(record)),
        None if asked.strict => Err(Refused(Failure::no_row())),
        None => Ok(json_of("null".to_owned())),
    };
    match parts.method {
        Method::GET | Method::HEAD => {
            one(run(&server, &caller, Work::Find(table, vec![id])).await?)
        }
        Method::PATCH => {
            let body = body_of(&server, &caller, &parts.headers, body).await?;
            let patch = payload(&body)?;
            one(run(&server, &caller, Work::Change(table, Change::Update(vec![id], patch))).await?)
        }
        Method::DELETE => {
            run(&server, &caller, Work::Change(table, Change::Delete(vec![id]))).await?;
            Ok(json_of("true".to_owned()))
        }
        _ => Err(not_allowed("GET, PATCH, DELETE")),
    }
}

/// Who asks for what, before anything of the body is read.
async fn received(
    server: &DataSync,
    table: &str,
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
    let caller = caller(&server.edge, &server.options, &parts.headers, &parameters).await?;
    let asked = asked(table, &parameters)?;
    Ok((caller, asked, parts, body))
}

fn asked(table: &str, parameters: &[(String, String)]) -> Result<Asked, Failure> {
    let named = |name: &str| parameters.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let all = |name: &'static str| {
        parameters.iter().filter(move |(key, _)| key == name).map(|(_, value)| value)
    };
    let switch =
        |name: &str| named(name).is_some_and(|value| matches!(&**value, "" | "true" | "1"));
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
        single: switch("single"),
        strict: switch("strict"),
    })
}

async fn run(server: &DataSync, caller: &Caller, work: Work) -> Result<Vec<String>, Failure> {
    // Whoever hangs up does not leave a transaction half run on a connection that the next one would wait for.
    let (worker, author) = (server.worker.clone(), caller.author.clone());
    let ran = tokio::spawn(async move { worker.run(&author, work).await });
    ran.await.map_err(|_| {
        let message = "The request was not answered; come again";
        Failure::new(code::MESSAGE, message).with_status(StatusCode::SERVICE_UNAVAILABLE)
    })?
}

async fn body_of(
    server: &DataSync,
    caller: &Caller,
    headers: &HeaderMap,
    body: Body,
) -> Result<Box<RawValue>, Refused> {
    let is_json = headers.get(header::CONTENT_TYPE).is_none_or(|value| {
        let essence =
            value.to_str().unwrap_or_default().split(';').next().unwrap_or_default().trim();
        essence.eq_ignore_ascii_case("application/json")
    });
    if !is_json {
        return Err(bad("Expected JSON body, but the content type is another one").into());
    }
    let most = server.options.message_bytes;
    let received = server.edge.body_of(&caller.author.user, body, most).await;
    let received = received.map_err(ApiError::from)?;
    serde_json::from_slice(received.bytes())
        .map_err(|_| bad("Expected JSON body, but it cannot be read as JSON").into())
}

/// One record, or several.
fn payloads(body: &RawValue) -> Result<Vec<Payload>, Failure> {
    if !body.get().starts_with('[') {
        return Ok(vec![payload(body)?]);
    }
    let records: Vec<&RawValue> =
        serde_json::from_str(body.get()).map_err(|_| bad("Expected an array of objects"))?;
    match records.is_empty() {
        true => Err(Failure::no_record()),
        false => records.into_iter().map(payload).collect(),
    }
}

fn payload(body: &RawValue) -> Result<Payload, Failure> {
    wire::payload(body).map_err(|_| bad("Expected object"))
}

fn bad(message: impl Into<String>) -> Failure {
    Failure::new(code::MESSAGE, message)
}

fn not_allowed(methods: &str) -> Refused {
    let message = format!("The path takes {methods} requests only");
    Refused(Failure {
        message,
        code: Code(edge_code::METHOD),
        sqlstate: None,
        status: StatusCode::METHOD_NOT_ALLOWED,
    })
}

fn listed(records: &[String]) -> String {
    format!("[{}]", records.join(","))
}

fn json_of(body: String) -> Response {
    let kind = HeaderValue::from_static("application/json");
    ([(header::CONTENT_TYPE, kind)], body).into_response()
}
