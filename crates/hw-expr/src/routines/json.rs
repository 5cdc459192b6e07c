//! JSON access: `->`, `->>` and the `json_` functions, with the rules of both editions.
//!
//! Source: `sync-rules.md` 7, 8.

use super::{Available, JsonRules, OnNull, Routine, TypeRule, TypeSet, entry};
use crate::error::EvalError;
use crate::json::{self, Json};
use crate::value::SqlValue;

const FOUND: TypeRule = TypeRule::Is(TypeSet::TEXT.union(TypeSet::INTEGER).union(TypeSet::REAL));
const INTEGER: TypeRule = TypeRule::Is(TypeSet::INTEGER);

/// `->` and `->>` with `fixed_json_extract`.
pub(super) static FIXED_OPERATORS: [Routine; 2] = [
    entry("->", (2, 2), OnNull::Null, FOUND, |a| get(a, JsonRules::Fixed, Form::Json)),
    entry("->>", (2, 2), OnNull::Null, FOUND, |a| get(a, JsonRules::Fixed, Form::Value)),
];

/// The same without it.
pub(super) static LEGACY_OPERATORS: [Routine; 2] = [
    entry("->", (2, 2), OnNull::Null, FOUND, |a| get(a, JsonRules::Legacy, Form::Json))
        .keyed("-> legacy"),
    entry("->>", (2, 2), OnNull::Null, FOUND, |a| get(a, JsonRules::Legacy, Form::Value))
        .keyed("->> legacy"),
];

/// Functions whose paths depend on the option, with it.
pub(super) static FIXED_FUNCTIONS: [Routine; 2] = [
    entry("json_extract", (2, usize::MAX), OnNull::Call, FOUND, |a| extract(a, JsonRules::Fixed)),
    entry("json_array_length", (1, 2), OnNull::Null, INTEGER, |a| length(a, JsonRules::Fixed)),
];

/// The same without it.
pub(super) static LEGACY_FUNCTIONS: [Routine; 2] = [
    entry("json_extract", (2, usize::MAX), OnNull::Call, FOUND, |a| extract(a, JsonRules::Legacy))
        .keyed("json_extract legacy"),
    entry("json_array_length", (1, 2), OnNull::Null, INTEGER, |a| length(a, JsonRules::Legacy))
        .keyed("json_array_length legacy"),
];

/// Functions without paths.
pub(super) static FUNCTIONS: [Routine; 2] = [
    entry("json_keys", (1, 1), OnNull::Null, TypeRule::Is(TypeSet::TEXT), |a| {
        let Json::Object(members) = document(&a[0])? else {
            return Err(EvalError("json_keys needs a JSON object"));
        };
        let mut keys: Vec<&str> = members.iter().map(|(key, _)| key.as_str()).collect();
        // Keys that look like array indexes come first, ascending, as in JavaScript.
        keys.sort_by_key(|key| index_like(key).unwrap_or(u32::MAX));
        let mut out = String::from("[");
        for (i, key) in keys.into_iter().enumerate() {
            if i > 0 {
                out.push(',');
            }
            json::write_string(key, &mut out);
        }
        out.push(']');
        Ok(SqlValue::text(out))
    }),
    entry("json_valid", (1, 1), OnNull::Call, INTEGER, |a| {
        Ok(SqlValue::boolean(!a[0].is_null() && document(&a[0]).is_ok()))
    })
    .only(Available::NotStreams),
];

#[derive(Clone, Copy, PartialEq, Eq)]
enum Form {
    /// `->`: JSON text.
    Json,
    /// `->>`: the value.
    Value,
}

fn index_like(key: &str) -> Option<u32> {
    let canonical = key == "0" || !key.starts_with(['0', '+']);
    key.parse().ok().filter(|_| canonical)
}

fn document(value: &SqlValue<'_>) -> Result<Json, EvalError> {
    Json::parse(&value.to_text().unwrap_or_default()).map_err(|_| EvalError("Expected JSON string"))
}

fn get<'a>(
    args: &mut [SqlValue<'a>],
    rules: JsonRules,
    form: Form,
) -> Result<SqlValue<'a>, EvalError> {
    let document = document(&args[0])?;
    let path = args[1].to_text().unwrap_or_default();
    Ok(found(walk(&document, &path, rules), rules, form))
}

fn extract<'a>(args: &mut [SqlValue<'a>], rules: JsonRules) -> Result<SqlValue<'a>, EvalError> {
    if args.len() < 2 || args[0].is_null() || args[1].is_null() {
        return Ok(SqlValue::Null);
    }
    if !args[1].to_text().unwrap_or_default().starts_with('$') {
        return Err(EvalError("JSON path must start with $."));
    }
    get(args, rules, Form::Value)
}

fn length<'a>(args: &mut [SqlValue<'a>], rules: JsonRules) -> Result<SqlValue<'a>, EvalError> {
    let document = document(&args[0])?;
    let target = match args.get(1) {
        None => Some(&document),
        Some(path) => walk(&document, &path.to_text().unwrap_or_default(), rules),
    };
    Ok(match target {
        None => SqlValue::Null,
        Some(Json::Array(items)) => SqlValue::Integer(items.len() as i128),
        Some(_) => SqlValue::Integer(0),
    })
}

/// Follows a path (8.1). Steps are keys or indexes as text; `[0]` is not understood.
fn walk<'j>(document: &'j Json, path: &str, rules: JsonRules) -> Option<&'j Json> {
    if !path.starts_with('$') && rules == JsonRules::Fixed {
        return document.step(path);
    }
    let skip = usize::from(path.starts_with('$'));
    path.split('.').skip(skip).try_fold(document, |here, step| here.step(step))
}

fn found(found: Option<&Json>, rules: JsonRules, form: Form) -> SqlValue<'static> {
    match (found, form, rules) {
        (None, ..) => SqlValue::Null,
        (Some(Json::Null), Form::Json, JsonRules::Legacy) => SqlValue::Null,
        (Some(Json::Null), Form::Value, JsonRules::Fixed) => SqlValue::Null,
        (Some(Json::Null), ..) => SqlValue::text("null"),
        (Some(json), Form::Json, _) => SqlValue::text(json.to_text()),
        (Some(json), Form::Value, _) => json.to_value().into_owned(),
    }
}

/// `->>` with the fixed rules on a document that is already read: how a claim is found.
pub(crate) fn member(document: &Json, path: &str) -> SqlValue<'static> {
    found(walk(document, path, JsonRules::Fixed), JsonRules::Fixed, Form::Value)
}
