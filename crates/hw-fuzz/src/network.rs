//! Bodies and headers of clients.

use hw_datasync::aggregate;
use hw_datasync::change::Change;
use hw_datasync::names::{Fields, Naming};
use hw_datasync::statement::{self, Column, Kind, Shape};
use hw_datasync::wire::{Message, Request};
use hw_sync::wire::{negotiate, request};

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

/// Messages of live queries, and what their queries become.
pub(crate) fn datasync_message(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let Ok(read) = Request::read(text) else { return };
    let columns = [
        ("id", "bigint", Kind::Integer),
        ("title", "text", Kind::Text),
        ("tags", "text[]", Kind::Array),
    ];
    let names: Vec<String> = columns.iter().map(|(name, ..)| (*name).to_owned()).collect();
    let columns = columns.map(|(name, type_name, kind)| Column {
        name: name.into(),
        type_name: type_name.into(),
        kind,
        as_text: false,
    });
    let shape = Shape {
        name: ("public".into(), "tasks".into()),
        columns: columns.to_vec(),
        fields: Fields::of(&names, Naming::Camel),
        key: vec![0],
    };
    let statements = match read.message {
        Message::Query { query, .. }
        | Message::SubscribeRows { query, .. }
        | Message::SubscribeCount { query } => {
            let rows = statement::rows(&query, &shape).into_iter();
            rows.chain(statement::keyed_rows(&query, &shape)).collect::<Vec<_>>()
        }
        Message::QueryGroups { query, groups, .. }
        | Message::SubscribeGroups { query, groups, .. } => {
            let once = aggregate::groups(&query, &groups, &shape).into_iter();
            let live = aggregate::live_groups(&query, &groups, &shape).into_iter();
            once.chain(live.map(|(statement, _)| statement)).collect()
        }
        Message::Create { records, .. } => {
            Change::Insert(records).statements(&shape).unwrap_or_default()
        }
        Message::Update { ids, patch, .. } => {
            Change::Update(ids, patch).statements(&shape).unwrap_or_default()
        }
        Message::Delete { ids, .. } => Change::Delete(ids).statements(&shape).unwrap_or_default(),
        _ => return,
    };
    for statement in statements {
        // Every value is a parameter, and every parameter stands in the text.
        let last = format!("${}::text", statement.parameters.len());
        assert!(statement.parameters.is_empty() || statement.text.contains(&last));
        assert!(!statement.text.contains(&format!("${}::text", statement.parameters.len() + 1)));
        let ours = statement.text.replace("'pg_catalog.english'", "");
        assert!(!ours.contains('\''), "no literal of a client is in the text");
    }
}
