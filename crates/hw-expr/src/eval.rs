//! Sync configurations as unit tests: a case in, what would happen out, both one line of JSON.
//!
//! A case brings a configuration, rows and requests; the answer tells the findings, the bucket
//! and payload of every row, the buckets of every request, and what each request could read. It
//! uses exactly the functions that the server uses, over maps instead of a store. Source:
//! `sync-rules.md` 19.

mod rows;

use crate::json::Json;
use crate::sync_config::{
    CatalogTable, Entries, Limits, LookupError, LookupReader, LookupRow, Reason, Request,
    Resolution, Subscription, SyncConfig,
};
use rows::{CaseRow, case_row, catalog};
use std::collections::{BTreeSet, HashMap};

/// Why a line is not a case.
#[derive(Clone, Debug, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct CaseError(pub String);

fn error(message: impl Into<String>) -> CaseError {
    CaseError(message.into())
}

/// What a case may have. `expected` is for the program that compares, and so is whatever begins
/// with an underscore, which is how a case can carry a remark.
const CASE: [&str; 10] = [
    "id",
    "yaml",
    "schema",
    "default_schema",
    "params",
    "rows",
    "version",
    "requests",
    "infer_schema",
    "expected",
];

/// Refuses what is no object, and keys that mean nothing: a claim that stands beside `jwt` would
/// silently be a request of nobody.
fn check_keys(json: &Json, what: &str, known: &[&str]) -> Result<(), CaseError> {
    let Json::Object(members) = json else {
        return Err(error(format!("{what} is an object with the keys {}", known.join(", "))));
    };
    let unknown = members
        .iter()
        .map(|(key, _)| key.as_str())
        .find(|key| !known.contains(key) && !key.starts_with('_'));
    let Some(unknown) = unknown else { return Ok(()) };
    let hint = match (what, unknown) {
        ("a request", "sub") => "; claims stand under jwt: {\"jwt\": {\"sub\": …}}".to_string(),
        _ => match crate::report::nearest(unknown, known.iter().copied()) {
            Some(near) => format!("; did you mean \"{near}\"?"),
            None => format!("; it has {}", known.join(", ")),
        },
    };
    Err(error(format!("{what} has no key \"{unknown}\"{hint}")))
}

/// Evaluates one case.
///
/// - Takes: one JSON object with the input fields of `sync-rules.md` 19 (`id`, `yaml`, `schema`,
///   `default_schema`, `params`, `rows`, `version`, `requests`, `infer_schema`).
/// - Returns: one JSON object with `id` and the fields of `expected`. A configuration that is
///   refused is an answer, not an error.
/// - Errors: the line is not JSON, a field has the wrong form, or a key means nothing.
pub fn evaluate_case(line: &str) -> Result<String, CaseError> {
    let case = Json::parse(line).map_err(|_| error("this line is not JSON"))?;
    check_keys(&case, "a case", &CASE)?;
    let yaml = text(&case, "yaml")?.ok_or_else(|| error("a case needs the field yaml"))?;
    let schema = text(&case, "default_schema")?.unwrap_or("public");
    let catalog = match case.get("schema") {
        None | Some(Json::Null) => None,
        Some(tables) => Some(catalog(tables, schema)?),
    };
    let loaded = SyncConfig::load_with_schema(yaml, "case", catalog.as_deref(), schema);
    let mut answer = Vec::new();
    if let Some(id) = case.get("id") {
        answer.push(("id".to_string(), id.clone()));
    }
    let findings = loaded.diagnostics.iter().map(|finding| {
        let source = finding.span.as_ref().and_then(|s| yaml.get(s.start..s.end)).unwrap_or("");
        object([
            ("type", string(if finding.is_error() { "fatal" } else { "warning" })),
            ("message", string(&finding.what)),
            ("source", string(source)),
            ("code", string(&finding.code.to_string())),
        ])
    });
    answer.push(("config_errors".into(), Json::Array(findings.collect())));
    answer.push(("accepted".into(), Json::Bool(loaded.config.is_some())));
    if let Some(config) = &loaded.config {
        let mut world = World::new(config, &case, schema)?;
        if case.get("infer_schema") == Some(&Json::Bool(true)) {
            answer.push(("client_schema".into(), client_schema(config, catalog.as_deref())));
        }
        let mut rows = Vec::new();
        for field in ["params", "rows"] {
            for row in list(&case, field)? {
                rows.push(world.replicate(row)?);
            }
        }
        answer.push(("rows".into(), Json::Array(rows)));
        let requests: Result<Vec<Json>, CaseError> =
            list(&case, "requests")?.iter().map(|request| world.answer(request)).collect();
        answer.push(("requests".into(), Json::Array(requests?)));
    }
    Ok(Json::Object(answer).to_text())
}

/// What a store would hold.
struct World<'a> {
    config: &'a SyncConfig,
    default_schema: &'a str,
    prefix: String,
    /// Bucket, table, id, payload, in the order of replication.
    contents: Vec<[String; 4]>,
    lookups: HashMap<(usize, Vec<u8>), Vec<Vec<u8>>>,
}

impl LookupReader for World<'_> {
    fn lookup(&self, lookup: usize, key: &[u8], out: &mut Entries) -> Result<(), LookupError> {
        let entries = self.lookups.get(&(lookup, key.to_vec()));
        entries.into_iter().flatten().for_each(|value| out.push(value));
        Ok(())
    }
}

impl<'a> World<'a> {
    fn new(
        config: &'a SyncConfig,
        case: &Json,
        default_schema: &'a str,
    ) -> Result<Self, CaseError> {
        let prefix = match case.get("version") {
            None | Some(Json::Null) => String::new(),
            Some(Json::Integer(version)) => format!("{version}#"),
            Some(_) => return Err(error("version must be an integer")),
        };
        let (contents, lookups) = (Vec::new(), HashMap::new());
        Ok(World { config, default_schema, prefix, contents, lookups })
    }

    fn bucket(&self, source: usize, parameters: &str) -> String {
        format!("{}{}{}", self.prefix, self.config.sources()[source].name, parameters)
    }

    fn replicate(&mut self, row: &Json) -> Result<Json, CaseError> {
        let CaseRow { relation, row } = case_row(row, self.default_schema, self.config.options())?;
        let view = row.view();
        let mut answer = vec![("table".to_string(), string(&relation.name.to_string()))];
        let mut errors = Vec::new();
        let mut data = None;
        for (number, source) in self.config.sources().iter().enumerate() {
            let Some(bound) = source.bind(&relation) else { continue };
            let list = data.get_or_insert_with(Vec::new);
            let mut found = Vec::new();
            if let Err(error) = bound.evaluate(&view, &mut found) {
                errors.push(string(&error.to_string()));
            }
            for row in found {
                let bucket = self.bucket(number, &row.parameters);
                list.push(object([
                    ("bucket", string(&bucket)),
                    ("table", string(&row.object_type)),
                    ("id", string(&row.object_id)),
                    ("data", string(&row.data)),
                ]));
                let payload = row.data.to_string();
                let key = [bucket, row.object_type.to_string(), row.object_id];
                // The newest version of a row in a bucket is the one that clients read.
                self.contents.retain(|[b, t, i, _]| [b, t, i] != [&key[0], &key[1], &key[2]]);
                let [bucket, table, id] = key;
                self.contents.push([bucket, table, id, payload]);
            }
        }
        if let Some(list) = data {
            answer.push(("data".into(), Json::Array(list)));
        }
        let mut lookups = None;
        for (number, lookup) in self.config.lookups().iter().enumerate() {
            let Some(bound) = lookup.bind(&relation) else { continue };
            let list = lookups.get_or_insert_with(Vec::new);
            let mut found = Vec::new();
            if let Err(error) = bound.evaluate(&view, &mut found) {
                errors.push(string(&error.to_string()));
            }
            for LookupRow { key, value } in found {
                list.push(object([
                    ("lookup", string(&lookup_text(number, &key))),
                    ("rows", string(&format!("[{}]", row_text(&value)))),
                ]));
                self.lookups.entry((number, key)).or_default().push(value);
            }
        }
        if let Some(list) = lookups {
            answer.push(("lookups".into(), Json::Array(list)));
        }
        if !errors.is_empty() {
            answer.push(("data_errors".into(), Json::Array(errors)));
        }
        Ok(Json::Object(answer))
    }

    fn answer(&self, request: &Json) -> Result<Json, CaseError> {
        let known = ["jwt", "parameters", "subscriptions", "include_defaults"];
        check_keys(request, "a request", &known)?;
        let null = serde_json::Value::Null;
        let value = |json: Option<&Json>| json.map_or(null.clone(), plain);
        let (jwt, parameters) = (value(request.get("jwt")), value(request.get("parameters")));
        let mut subscriptions = Vec::new();
        for subscription in list(request, "subscriptions")? {
            let known = ["stream", "parameters", "override_priority"];
            check_keys(subscription, "a subscription", &known)?;
            let stream = text(subscription, "stream")?
                .ok_or_else(|| error("a subscription needs the field stream"))?;
            subscriptions.push(Subscription {
                stream: stream.to_string(),
                parameters: subscription.get("parameters").map(plain),
                override_priority: match subscription.get("override_priority") {
                    None | Some(Json::Null) => None,
                    Some(Json::Integer(priority @ 0..=3)) => Some(*priority as u8),
                    Some(_) => return Err(error("override_priority must be 0, 1, 2 or 3")),
                },
            });
        }
        let request = Request {
            jwt: &jwt,
            parameters: &parameters,
            subscriptions: &subscriptions,
            include_defaults: match request.get("include_defaults") {
                None | Some(Json::Null) => true,
                Some(Json::Bool(include)) => *include,
                Some(_) => return Err(error("include_defaults must be true or false")),
            },
        };
        Ok(match self.config.resolve(&request, self, &Limits::default()) {
            Ok(resolution) => self.resolved(&resolution),
            Err(failed) => object([
                ("buckets", Json::Array(Vec::new())),
                ("errors", Json::Array(vec![string(&failed.to_string())])),
                ("delivered", Json::Array(Vec::new())),
            ]),
        })
    }

    fn resolved(&self, resolution: &Resolution) -> Json {
        let mut buckets: Vec<(String, Json)> = resolution
            .buckets
            .iter()
            .map(|bucket| {
                let name = self.bucket(bucket.source, &bucket.parameters);
                let source = &self.config.sources()[bucket.source];
                let definition = &self.config.definitions()[source.definition].name;
                let reasons = bucket.reasons.iter().map(|reason| match reason {
                    Reason::Default(_) => string("default"),
                    Reason::Subscription(index) => {
                        object([("subscription", Json::Integer(*index as i128))])
                    }
                });
                let about = object([
                    ("bucket", string(&name)),
                    ("priority", Json::Integer(bucket.priority.into())),
                    ("definition", string(definition)),
                    ("reasons", Json::Array(reasons.collect())),
                ]);
                (name, about)
            })
            .collect();
        buckets.sort_by(|a, b| a.0.cmp(&b.0));
        let delivered: BTreeSet<[&str; 3]> = self
            .contents
            .iter()
            .filter(|[bucket, ..]| buckets.iter().any(|(name, _)| name == bucket))
            .map(|[_, table, id, payload]| [table.as_str(), id, payload])
            .collect();
        let errors: Vec<Json> = resolution
            .streams
            .iter()
            .flat_map(|stream| stream.errors.iter().map(|e| string(&e.message)))
            .collect();
        let mut answer = vec![(
            "buckets".to_string(),
            Json::Array(buckets.into_iter().map(|(_, about)| about).collect()),
        )];
        if resolution.dynamic {
            answer.push(("dynamic".into(), Json::Bool(true)));
            let used = resolution.lookups_used.iter().map(|(n, key)| string(&lookup_text(*n, key)));
            answer.push(("lookups".into(), Json::Array(used.collect())));
        }
        if !errors.is_empty() {
            answer.push(("errors".into(), Json::Array(errors)));
        }
        let delivered = delivered.iter().map(|row| Json::Array(row.map(string).to_vec()));
        answer.push(("delivered".into(), Json::Array(delivered.collect())));
        Json::Object(answer)
    }
}

fn client_schema(config: &SyncConfig, catalog: Option<&[CatalogTable]>) -> Json {
    let tables = config.client_schema(catalog.unwrap_or(&[])).into_iter().map(|table| {
        let columns = table
            .columns
            .iter()
            .map(|(name, kind)| object([("name", string(name)), ("type", string(kind))]));
        object([("name", string(&table.name)), ("columns", Json::Array(columns.collect()))])
    });
    Json::Array(tables.collect())
}

/// `["lookup","0","amy"]`.
fn lookup_text(number: usize, key: &[u8]) -> String {
    let mut out = format!("[\"lookup\",\"{number}\"");
    for value in crate::sync_config::stored_values(key) {
        out.push(',');
        value.write_parameter(&mut out);
    }
    out.push(']');
    out
}

/// `{"0":"acme"}`.
fn row_text(value: &[u8]) -> String {
    let mut out = String::from("{");
    for (i, value) in crate::sync_config::stored_values(value).iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        out.push_str(&format!("\"{i}\":"));
        crate::values::write_value_json(value, &mut out);
    }
    out.push('}');
    out
}

fn string(text: &str) -> Json {
    Json::String(text.to_string())
}

fn object<const N: usize>(members: [(&str, Json); N]) -> Json {
    Json::Object(members.into_iter().map(|(key, value)| (key.to_string(), value)).collect())
}

fn text<'j>(json: &'j Json, field: &str) -> Result<Option<&'j str>, CaseError> {
    match json.get(field) {
        None | Some(Json::Null) => Ok(None),
        Some(Json::String(text)) => Ok(Some(text)),
        Some(_) => Err(error(format!("{field} must be a string"))),
    }
}

fn list<'j>(json: &'j Json, field: &str) -> Result<&'j [Json], CaseError> {
    match json.get(field) {
        None | Some(Json::Null) => Ok(&[]),
        Some(Json::Array(items)) => Ok(items),
        Some(_) if matches!(field, "params" | "rows") => {
            Err(error(format!("{field} must be a list of {{\"table\": …, \"row\": {{…}}}}")))
        }
        Some(_) => Err(error(format!("{field} must be a list"))),
    }
}

/// As the service hands it over.
fn plain(json: &Json) -> serde_json::Value {
    serde_json::from_str(&json.to_text()).unwrap_or(serde_json::Value::Null)
}
