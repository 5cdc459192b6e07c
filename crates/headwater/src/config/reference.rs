//! The published forms of the settings table: a JSON schema for editors, a page for people.
//!
//! In: [`SETTINGS`]. Out: `docs/headwater.schema.json` and `docs/configuration.md`, compared with
//! this by a test, so that neither can say anything else than the program does.

use std::fmt::Write as _;

use serde_json::{Map, Value, json};

use super::CONFIG_VARIABLE;
use super::parse::Kind;
use super::settings::{SECTIONS, SETTINGS, Setting};

/// The JSON schema (draft 2020-12) of `headwater.yaml`.
pub fn schema() -> Value {
    let mut top = Map::new();
    for setting in SETTINGS.iter().filter(|setting| !setting.path.contains('.')) {
        top.insert(setting.path.to_owned(), schema_of(setting));
    }
    for (section, about) in SECTIONS {
        let mut properties = Map::new();
        for setting in SETTINGS {
            if let Some((first, name)) = setting.path.split_once('.')
                && first == *section
            {
                properties.insert(name.to_owned(), schema_of(setting));
            }
        }
        top.insert(
            (*section).to_owned(),
            json!({
                "description": about,
                "type": ["object", "null"],
                "properties": properties,
                "additionalProperties": false,
            }),
        );
    }
    json!({
        "$schema": "https://json-schema.org/draft/2020-12/schema",
        "title": "Configuration of Headwater (headwater.yaml)",
        "type": ["object", "null"],
        "properties": top,
        "additionalProperties": false,
    })
}

fn schema_of(setting: &Setting) -> Value {
    let mut schema = match setting.kind {
        Kind::Text | Kind::Secret | Kind::Path | Kind::Address => json!({ "type": "string" }),
        Kind::Name => json!({ "type": "string", "pattern": "^[a-z0-9_]{1,20}$" }),
        Kind::Switch => json!({ "type": "boolean" }),
        Kind::Integer(least, most) => {
            json!({ "type": "integer", "minimum": least, "maximum": most })
        }
        Kind::Bytes(_) => json!({
            "type": ["string", "integer"],
            "pattern": "^[0-9_]+ *([kKmMgGtT]?[bB]|[kKmMgGtT](i[bB])?)?$",
        }),
        Kind::Duration => json!({ "type": "string", "pattern": "^[0-9_]+ *(ms|s|m|min|h|d)$" }),
        Kind::Choice(words) => json!({ "type": "string", "enum": words }),
        Kind::List | Kind::AddressRanges => json!({
            "anyOf": [{ "type": "string" }, { "type": "array", "items": { "type": "string" } }],
        }),
        Kind::Jwks => json!({
            "type": "object",
            "properties": { "keys": { "type": "array", "items": { "type": "object" } } },
            "required": ["keys"],
        }),
        Kind::Texts => json!({
            "type": "object", "additionalProperties": { "type": "string" },
        }),
        Kind::Choices(words) => json!({
            "type": "object", "additionalProperties": { "type": "string", "enum": words },
        }),
        Kind::UploadTables => json!({
            "type": "object",
            "additionalProperties": {
                "type": "object",
                "properties": {
                    "table": { "type": "string" },
                    "columns": { "type": "object", "additionalProperties": { "type": "string" } },
                    "conflict": { "type": "string", "enum": ["last_write_wins", "reject"] },
                },
                "additionalProperties": false,
            },
        }),
    };
    if let Value::Object(fields) = &mut schema {
        fields.insert("description".to_owned(), setting.about.into());
        if let Some(default) = setting.default {
            fields.insert("default".to_owned(), default_of(setting.kind, default));
        }
    }
    schema
}

fn default_of(kind: Kind, default: &str) -> Value {
    match kind {
        Kind::Switch => (default == "true").into(),
        Kind::Integer(..) => default.parse::<u64>().map_or(Value::Null, Value::from),
        _ => default.into(),
    }
}

/// The reference page, Markdown.
pub fn page() -> String {
    let mut page = String::from(INTRODUCTION);
    write_table(&mut page, "At the top of the file", "", SETTINGS.iter());
    for (section, about) in SECTIONS {
        write_table(&mut page, &format!("`{section}`"), section, SETTINGS.iter());
        let heading = format!("## `{section}`\n\n");
        page = page.replace(&heading, &format!("{heading}{about}\n\n"));
    }
    page.push_str("## Variables\n\n| variable | setting |\n| --- | --- |\n");
    let _ = writeln!(page, "| `{CONFIG_VARIABLE}` | path of the file, as `--config` |");
    for setting in SETTINGS {
        if let Some(variable) = setting.env {
            let _ = writeln!(page, "| `{variable}` | `{}` |", setting.path);
        }
    }
    page
}

const INTRODUCTION: &str = "# Configuration

<!-- Made from the settings table in crates/headwater/src/config/settings.rs; a test compares. -->

`DATABASE_URL` and a secret for tokens are enough to start:

```sh
DATABASE_URL=postgres://user@host/shop HEADWATER_JWT_SECRET=… HEADWATER_SYNC_CONFIG=sync.yaml \\
  headwater serve
```

Everything else has a default. A value is taken from the first of these that has it:

1. an option on the command line (`headwater serve --listen 0.0.0.0:8080`);
2. an environment variable; one that is empty sets nothing;
3. the file that `--config` or `HEADWATER_CONFIG` names, usually `headwater.yaml`;
4. the default.

A variable that begins with `HEADWATER_`, is not on this page and is not named by the file is warned
of (`HW1008`). In the file `!env NAME` stands for the value of a variable; one that is not set is an error. Keys
that are not on this page are refused, with file, line and column, and a suggestion. Paths in the
file are relative to the file. Sizes count by 1024 (`512 MB`), as in Postgres; lengths of time
need a unit (`30 s`, `30 min`, `24 h`, `7 d`). Editors check the file against
[headwater.schema.json](headwater.schema.json):

```yaml
# yaml-language-server: $schema=docs/headwater.schema.json
database:
  url: !env DATABASE_URL
listen: 0.0.0.0:8080
data_dir: /var/lib/headwater
sync:
  config: sync.yaml
auth:
  jwks_url: https://auth.example.com/.well-known/jwks.json
  audience: headwater
```

";

fn write_table<'a>(
    page: &mut String,
    heading: &str,
    section: &str,
    settings: impl Iterator<Item = &'a Setting>,
) {
    let _ = write!(page, "## {heading}\n\n| key | type | default | meaning |\n");
    page.push_str("| --- | --- | --- | --- |\n");
    for setting in settings {
        let name = match setting.path.split_once('.') {
            None if section.is_empty() => setting.path,
            Some((first, name)) if first == section => name,
            _ => continue,
        };
        let default = setting.default.map_or("unset".to_owned(), |text| format!("`{text}`"));
        let variable = match (setting.env, setting.flag) {
            (Some(env), Some(flag)) => format!(" Also `{env}`, `{flag}`."),
            (Some(env), None) => format!(" Also `{env}`."),
            _ => String::new(),
        };
        let _ = writeln!(
            page,
            "| `{name}` | {} | {default} | {}{variable} Example: `{}` |",
            setting.kind.describe(),
            setting.about,
            setting.example
        );
    }
    page.push('\n');
}
