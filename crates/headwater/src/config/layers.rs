//! Puts flags, environment, file and defaults together, in that order of precedence.
//!
//! In: the four sources. Out: one value for each setting, or every finding at once. Invariant:
//! what is wrong in a source that a stronger one overrides is still reported, because it will be
//! read the day the stronger one is gone.

use std::collections::BTreeMap;
use std::path::Path;

use hw_types::{Diagnostic, Span};

use super::file::{Key, Node, Value};
use super::parse::{Kind, Parsed};
use super::settings::{self, SETTINGS, Setting};
use super::suggest::nearest;
use super::upload_tables;
use crate::code;

/// Values by path of setting.
pub type Values = BTreeMap<&'static str, Parsed>;

/// What a command line sets, by path of setting.
pub type Flags = BTreeMap<&'static str, String>;

/// Puts the sources together.
///
/// - Errors: HW1005 unknown key, HW1006 value that is not valid, HW1007 key that is a section or
///   is none, all of them, in the order of the file.
pub fn merge(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<String>,
    file: Option<&Node>,
) -> Result<Values, Vec<Diagnostic>> {
    let mut findings = Vec::new();
    let mut values = Values::new();
    for setting in SETTINGS {
        if let Some(default) = setting.default {
            let value = setting.kind.parse(default).expect("invariant: defaults are valid");
            values.insert(setting.path, value);
        }
    }
    if let Some(node) = file {
        read_section("", node, &mut values, &mut findings);
    }
    for setting in SETTINGS {
        let variable = setting.env.and_then(|name| Some((name, environment(name)?)));
        if let Some((name, text)) = variable.filter(|(_, text)| !text.trim().is_empty()) {
            let place = format!("environment variable {name}");
            take(setting, &text, Place::Words(&place), &mut values, &mut findings);
        }
        if let Some(text) = flags.get(setting.path) {
            let place = format!("option {}", setting.flag.unwrap_or(setting.path));
            take(setting, text, Place::Words(&place), &mut values, &mut findings);
        }
    }
    if findings.is_empty() { Ok(values) } else { Err(findings) }
}

/// `log.format`, from sources that may be wrong otherwise.
pub fn log_format(
    flags: &Flags,
    environment: &dyn Fn(&str) -> Option<String>,
    file: Option<&Node>,
) -> String {
    let setting = settings::find("log.format").expect("invariant: the setting is in the table");
    let in_file = file.and_then(|node| node.child("log")?.child("format")?.text());
    let sources = [
        flags.get(setting.path).cloned(),
        setting.env.and_then(environment),
        in_file.map(str::to_owned),
    ];
    let valid = |text: &String| setting.kind.parse(text).is_ok();
    sources.into_iter().flatten().find(valid).unwrap_or_else(|| "auto".to_owned())
}

enum Place<'a> {
    Words(&'a str),
    File(&'a Span),
}

fn take(
    setting: &'static Setting,
    text: &str,
    place: Place<'_>,
    values: &mut Values,
    findings: &mut Vec<Diagnostic>,
) {
    match setting.kind.parse(text) {
        Ok(value) => {
            let value = match (value, &place) {
                (Parsed::Text(path), Place::File(span)) if setting.kind == Kind::Path => {
                    Parsed::Text(beside(&span.file, path))
                }
                (value, _) => value,
            };
            values.insert(setting.path, value);
        }
        Err(expected) => findings.push(refuse(setting.path, &expected, place)),
    }
}

/// Paths in a file are relative to that file, so that it works from any directory.
fn beside(file: &str, path: String) -> String {
    match Path::new(file).parent() {
        Some(directory) => directory.join(&path).to_string_lossy().into_owned(),
        None => path,
    }
}

fn refuse(path: &str, expected: &str, place: Place<'_>) -> Diagnostic {
    let mut finding =
        Diagnostic::error(code::CONFIG_VALUE, format!("{path} is not valid: expected {expected}"));
    match place {
        Place::Words(words) => finding.context = Some(words.to_owned()),
        Place::File(span) => finding.span = Some(span.clone()),
    }
    finding
}

fn read_section(section: &str, node: &Node, values: &mut Values, findings: &mut Vec<Diagnostic>) {
    let entries = match &node.value {
        Value::Map(entries) => entries,
        Value::Null => return,
        Value::Scalar(_) | Value::List(_) => {
            let name = if section.is_empty() { "the file" } else { section };
            let mut finding =
                Diagnostic::error(code::CONFIG_SECTION, format!("{name} must be a mapping"))
                    .mend("write one `key: value` a line");
            finding.span = Some(node.span.clone());
            findings.push(finding);
            return;
        }
    };
    let known = settings::names_in(section);
    for (key, value) in entries {
        let path =
            if section.is_empty() { key.text.clone() } else { format!("{section}.{}", key.text) };
        if let Some(setting) = settings::find(&path) {
            read_setting(setting, value, values, findings);
        } else if section.is_empty() && known.contains(&key.text.as_str()) {
            read_section(&key.text, value, values, findings);
        } else {
            findings.push(unknown_key(section, key, value, &known));
        }
    }
}

fn unknown_key(section: &str, key: &Key, value: &Node, known: &[&'static str]) -> Diagnostic {
    let elsewhere = || {
        let end = format!(".{}", key.text);
        SETTINGS.iter().map(|setting| setting.path).find(|path| path.ends_with(&end))
    };
    let mend = match nearest(&key.text, known.iter().copied()) {
        Some(name) => Some(format!("did you mean \"{name}\"?")),
        None => elsewhere().map(|path| format!("did you mean {path}?")),
    };
    // `jwt_secret:hush` without a space is a key without a value: what is not plainly a name is
    // not repeated.
    let named = is_name(&key.text) && (mend.is_some() || !matches!(value.value, Value::Null));
    let what = match (section, named) {
        ("", true) => format!("unknown key \"{}\"", key.text),
        ("", false) => "unknown key".to_owned(),
        (section, true) => format!("section {section} has no key \"{}\"", key.text),
        (section, false) => format!("section {section} has a key that is not known"),
    };
    let mend = mend.unwrap_or_else(|| format!("known here: {}", known.join(", ")));
    let mut finding = Diagnostic::error(code::CONFIG_KEY, what).mend(mend);
    finding.span = Some(key.span.clone());
    finding
}

/// Whether a key looks like one that a person would write: `max_clients`.
fn is_name(key: &str) -> bool {
    key.len() <= 40 && key.chars().all(|c| c.is_ascii_alphabetic() || c == '_' || c == '-')
}

fn read_setting(
    setting: &'static Setting,
    node: &Node,
    values: &mut Values,
    findings: &mut Vec<Diagnostic>,
) {
    let expected = match (&node.value, setting.kind) {
        (Value::Null, _) => return,
        (Value::Scalar(text), _) => {
            return take(setting, text, Place::File(&node.span), values, findings);
        }
        (Value::List(items), Kind::List | Kind::AddressRanges) => {
            let texts: Option<Vec<String>> = items
                .iter()
                .map(|item| match &item.value {
                    Value::Scalar(text) => Some(text.clone()),
                    _ => None,
                })
                .collect();
            match texts {
                Some(texts) if setting.kind == Kind::List => {
                    values.insert(setting.path, Parsed::List(texts));
                    return;
                }
                Some(texts) => {
                    let place = Place::File(&node.span);
                    return take(setting, &texts.join(","), place, values, findings);
                }
                None => "a list of texts".to_owned(),
            }
        }
        (Value::Map(tables), Kind::UploadTables)
            if upload_tables::wrong(tables).next().is_some() =>
        {
            return findings.extend(upload_tables::wrong(tables));
        }
        (Value::Map(entries), Kind::Texts)
            if entries.iter().any(|(_, node)| node.text().is_none()) =>
        {
            Kind::Texts.describe()
        }
        (Value::Map(_), Kind::Jwks | Kind::UploadTables | Kind::Texts | Kind::Choices(_)) => {
            let text = node.to_json().to_string();
            return take(setting, &text, Place::File(&node.span), values, findings);
        }
        (Value::Map(_) | Value::List(_), kind) => kind.describe(),
    };
    findings.push(refuse(setting.path, &expected, Place::File(&node.span)));
}
