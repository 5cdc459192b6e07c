//! Bodies and headers of clients.

use hw_datasync::aggregate;
use hw_datasync::change::Change;
use hw_datasync::names::{Fields, Naming};
use hw_datasync::statement::{self, Column, Kind, Shape};
use hw_datasync::wire::{self, Expr, Literal, Message, Request};
use hw_sync::wire::{negotiate, request};
use hw_types::Sql;
use serde_json::value::RawValue;

use crate::policy::{self, COLUMNS};

/// Bodies of the sync routes, and the headers that choose an encoding.
pub(crate) fn sync_request(data: &[u8]) {
    drop(request::stream_request(data, None, 100));
    drop(request::checkpoint_request(data, Some("client")));
    if let Ok(text) = std::str::from_utf8(data) {
        negotiate::takes_ndjson(Some(text));
        negotiate::content_coding(Some(text));
    }
}

/// Bodies of uploads.
pub(crate) fn upload(data: &[u8]) {
    hw_rest::fuzz_upload(data);
}

/// Messages of live queries, and bodies and conditions of requests over HTTP; and what they become: statements, and
/// conditions that are computed here.
pub(crate) fn datasync_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let shape = shape();
    let statements = match Request::read(text) {
        Ok(read) => of_message(read.message, &shape),
        Err(_) => of_request(text, &shape),
    };
    for statement in statements {
        check(&statement);
    }
}

fn shape() -> Shape {
    let names: Vec<String> = COLUMNS.iter().map(|(name, _)| (*name).to_owned()).collect();
    let columns = COLUMNS.map(|(name, type_name)| Column {
        name: name.into(),
        type_name: type_name.into(),
        kind: match type_name {
            "integer" => Kind::Integer,
            "jsonb" => Kind::Json,
            "boolean" => Kind::Bool,
            "text[]" => Kind::Array,
            _ => Kind::Text,
        },
        as_text: false,
    });
    Shape {
        name: ("public".into(), "t".into()),
        columns: columns.to_vec(),
        fields: Fields::of(&names, Naming::Camel),
        key: vec![0],
    }
}

fn of_message(message: Message, shape: &Shape) -> Vec<Sql> {
    match message {
        Message::Query { query, .. }
        | Message::SubscribeRows { query, .. }
        | Message::SubscribeCount { query } => {
            of_condition(query.condition.as_ref(), shape);
            let rows = statement::rows(&query, shape).into_iter();
            rows.chain(statement::keyed_rows(&query, shape)).collect()
        }
        Message::QueryGroups { query, groups, .. }
        | Message::SubscribeGroups { query, groups, .. } => {
            of_condition(query.condition.as_ref(), shape);
            let once = aggregate::groups(&query, &groups, shape).into_iter();
            let live = aggregate::live_groups(&query, &groups, shape).into_iter();
            once.chain(live.map(|(statement, _)| statement)).collect()
        }
        Message::Create { records, .. } => of_change(Change::Insert(records), shape),
        Message::Update { ids, patch, .. } => of_change(Change::Update(ids, patch), shape),
        Message::Delete { ids, .. } => of_change(Change::Delete(ids), shape),
        _ => Vec::new(),
    }
}

/// A text as each part of a request over HTTP that one can be: a condition, an id, a body.
fn of_request(text: &str, shape: &Shape) -> Vec<Sql> {
    of_condition(Expr::read(text).ok().as_ref(), shape);
    let id = vec![Literal::of_text(text)];
    let mut statements = of_change(Change::Delete(id.clone()), shape);
    let body = serde_json::from_str::<Box<RawValue>>(text).ok();
    if let Some(record) = body.and_then(|body| wire::payload(&body).ok()) {
        statements.extend(of_change(Change::Insert(vec![record.clone()]), shape));
        statements.extend(of_change(Change::Update(id, record), shape));
    }
    statements
}

fn of_change(change: Change, shape: &Shape) -> Vec<Sql> {
    change.statements(shape).unwrap_or_default()
}

/// What is computed here of a condition, which a reader of ours reads again.
fn of_condition(condition: Option<&Expr>, shape: &Shape) {
    let Some(filter) = condition.and_then(|it| statement::condition_of(it, shape).ok()) else {
        return;
    };
    check(&filter);
    policy::filter(filter);
}

fn check(statement: &Sql) {
    // Every value is a parameter, and every parameter stands in the text.
    let last = format!("${}::text", statement.parameters.len());
    assert!(statement.parameters.is_empty() || statement.text.contains(&last));
    assert!(!statement.text.contains(&format!("${}::text", statement.parameters.len() + 1)));
    let ours = statement.text.replace("'pg_catalog.english'", "");
    assert!(!ours.contains('\''), "no literal of a client is in the text");
}
