//! Values of columns: the two forms in which they arrive, and the canonical one in which they are
//! kept. The first bytes of an input choose the type.

use hw_expr::postgres::to_jsonb;
use hw_expr::sync_config::SyncConfig;
use hw_pg::types::{decode_binary, decode_text};
use hw_types::pgtype::{ElementType, PgType, TextKind};
use hw_types::{
    Cell, Column, Relation, RelationId, ReplicaIdentity, Row, RowBuilder, TableName, key, text,
};
use std::sync::LazyLock;

const SCALARS: [PgType; 22] = [
    PgType::Bool,
    PgType::Int2,
    PgType::Int4,
    PgType::Int8,
    PgType::Oid,
    PgType::Float4,
    PgType::Float8,
    PgType::Numeric,
    PgType::TEXT,
    PgType::Text { kind: TextKind::Foreign },
    PgType::Bpchar,
    PgType::Uuid,
    PgType::Bytea,
    PgType::Json,
    PgType::Jsonb,
    PgType::Date,
    PgType::Time,
    PgType::Timetz,
    PgType::Timestamp,
    PgType::Timestamptz,
    PgType::Interval,
    PgType::PgLsn,
];

/// Takes a type from the front of the input, nested as far as that goes on.
fn take_type(input: &mut &[u8], depth: u32) -> PgType {
    let Some((&byte, rest)) = input.split_first() else { return PgType::TEXT };
    *input = rest;
    let scalar = |byte: u8| SCALARS[usize::from(byte) % SCALARS.len()].clone();
    if byte < 0xc0 || depth == 4 {
        return scalar(byte);
    }
    match byte % 5 {
        0 => PgType::Array(Box::new(ElementType {
            pg_type: take_type(input, depth + 1),
            delimiter: b',',
        })),
        1 => PgType::Range(Box::new(take_type(input, depth + 1))),
        2 => PgType::Multirange(Box::new(take_type(input, depth + 1))),
        3 => PgType::Domain(Box::new(take_type(input, depth + 1))),
        _ => {
            let fields = 1 + usize::from(byte >> 4) % 3;
            let field = |n: usize| format!("f{n}");
            PgType::Composite(
                (0..fields).map(|n| (field(n), take_type(input, depth + 1))).collect(),
            )
        }
    }
}

/// The binary form.
pub(crate) fn binary_value(mut data: &[u8]) {
    let pg_type = take_type(&mut data, 0);
    let mut row = RowBuilder::new();
    if decode_binary(&pg_type, data, &mut row).is_ok() {
        kept(&pg_type, &row.finish(), Kept::Checked);
    }
}

/// The text form. What is printed again is read as the same value.
pub(crate) fn text_value(mut data: &[u8]) {
    let pg_type = take_type(&mut data, 0);
    let Ok(input) = std::str::from_utf8(data) else { return };
    let mut row = RowBuilder::new();
    if decode_text(&pg_type, input, &mut row).is_err() {
        return;
    }
    let row = row.finish();
    let printed = kept(&pg_type, &row, Kept::Checked);
    let mut again = RowBuilder::new();
    decode_text(&pg_type, &printed, &mut again).expect("what is printed can be read");
    let reprinted = kept(&pg_type, &again.finish(), Kept::Checked);
    assert_eq!(printed, reprinted, "{pg_type:?}");
}

/// Bytes that a damaged disk gave back as a value.
pub(crate) fn canonical_value(mut data: &[u8]) {
    let pg_type = take_type(&mut data, 0);
    let mut row = RowBuilder::new();
    row.push(Cell::Value(data));
    kept(&pg_type, &row.finish(), Kept::Unchecked);
}

/// Whether a decoder has let a value pass.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Kept {
    Checked,
    Unchecked,
}

/// Uses a kept value in all the ways that there are: printed, in keys, in payloads of each edition.
fn kept(pg_type: &PgType, row: &Row, kept: Kept) -> String {
    let view = row.view();
    let printed = match view.get(0) {
        Cell::Value(bytes) => text::to_text(pg_type, bytes),
        Cell::Null | Cell::Absent => Ok(String::new()),
    };
    assert!(kept == Kept::Unchecked || printed.is_ok(), "a value that passed can be printed");
    if let Cell::Value(bytes) = view.get(0) {
        rendered(pg_type, bytes);
    }
    key::put_column(pg_type, view.get(0), &mut Vec::new());
    let relation = relation(pg_type.clone());
    for config in CONFIGS.iter() {
        for source in config.sources() {
            let Some(bound) = source.bind(&relation) else { continue };
            let mut found = Vec::new();
            if bound.evaluate(&view, &mut found).is_ok() {
                for row in found {
                    let json: Result<serde_json::Value, _> = serde_json::from_str(&row.data);
                    // The text of a json column is passed on as it is.
                    let is_json = |ty: &PgType| matches!(ty, PgType::Json | PgType::Jsonb);
                    let raw = matches!(kept, Kept::Unchecked) || holds(pg_type, is_json);
                    assert!(raw || json.is_ok(), "a payload is JSON: {}", row.data);
                }
            }
        }
    }
    printed.unwrap_or_default()
}

/// As `to_jsonb` prints it: that is JSON, and stays as it is when it becomes a `jsonb` again.
fn rendered(pg_type: &PgType, bytes: &[u8]) {
    let (mut json, mut again) = (String::new(), String::new());
    if to_jsonb(pg_type, bytes, &mut json).is_err() {
        assert_eq!(json, "", "an error leaves nothing behind");
    } else if !holds(pg_type, |ty| *ty == PgType::Jsonb) {
        assert_eq!(to_jsonb(&PgType::Json, json.as_bytes(), &mut again), Ok(()));
        assert_eq!(json, again);
    }
}

fn holds(pg_type: &PgType, is_wanted: impl Fn(&PgType) -> bool + Copy) -> bool {
    is_wanted(pg_type)
        || match pg_type {
            PgType::Array(element) => holds(&element.pg_type, is_wanted),
            PgType::Range(inner) | PgType::Multirange(inner) | PgType::Domain(inner) => {
                holds(inner, is_wanted)
            }
            PgType::Composite(fields) => fields.iter().any(|(_, field)| holds(field, is_wanted)),
            _ => false,
        }
}

/// The old edition, the new one, and one with every operator that a value can meet.
static CONFIGS: LazyLock<Vec<SyncConfig>> = LazyLock::new(|| {
    let load = |text: &str| SyncConfig::load(text, "sync.yaml", None).config.expect("it compiles");
    vec![
        load("bucket_definitions: {b: {data: [SELECT * FROM t]}}"),
        load(
            "config: {edition: 3, fixed_booleans_in_json: true}\n\
             streams: {s: {auto_subscribe: true, query: SELECT * FROM t}}",
        ),
        load(
            "config: {edition: 3}\n\
             streams: {s: {auto_subscribe: true, query: \"\
             SELECT id AS id, upper(id) AS u, id + 1 AS p, length(id) AS l, substring(id, 2, 3) AS s,\
             \x20hex(id) AS h, typeof(id) AS t, unixepoch(id) AS e, datetime(id) AS d,\
             \x20id::integer AS i, id::real AS r, id::numeric AS n, id::blob AS b, id || 'x' AS c,\
             \x20id = 1 OR id < 'a' AS o, json_array_length(id) AS j, id ->> 'a' AS a FROM t\"}}",
        ),
    ]
});

fn relation(pg_type: PgType) -> Relation {
    Relation {
        id: RelationId(1),
        name: TableName::new("public", "t"),
        replica_identity: ReplicaIdentity::Default,
        columns: vec![Column {
            name: "id".to_owned(),
            type_oid: 0,
            type_modifier: -1,
            pg_type,
            identity: true,
            primary_key: 1,
        }],
    }
}
