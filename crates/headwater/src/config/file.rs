//! The configuration file as a tree whose every node knows its place.
//!
//! In: the text of `headwater.yaml`. Out: [`Node`]s, with `!env NAME` already replaced by the
//! environment's value, or diagnostics that point at file, line and column. Invariant: scalars
//! keep the spelling of the file, so that the setting, not YAML, decides what `0123` means.

use std::fmt;

use hw_types::{Diagnostic, Span};
use serde::de::{self, Deserialize, Deserializer, MapAccess, SeqAccess, Visitor};
use serde_saphyr::{Location, Spanned, Tagged};

use crate::code;

/// A value of the file and where it stands.
#[derive(Clone, Debug)]
pub struct Node {
    /// What stands there.
    pub value: Value,
    /// Where it stands.
    pub span: Span,
}

impl Node {
    /// What stands under a key, if this is a mapping that has it.
    pub fn child(&self, key: &str) -> Option<&Node> {
        let Value::Map(entries) = &self.value else { return None };
        entries.iter().find(|(known, _)| known.text == key).map(|(_, node)| node)
    }

    /// The text, if it is one.
    pub fn text(&self) -> Option<&str> {
        match &self.value {
            Value::Scalar(text) => Some(text),
            _ => None,
        }
    }

    /// A structured value as JSON. Scalars stay texts: what reads them decides what they mean.
    pub fn to_json(&self) -> serde_json::Value {
        match &self.value {
            Value::Null => serde_json::Value::Null,
            Value::Scalar(text) => serde_json::Value::String(text.clone()),
            Value::List(items) => items.iter().map(Node::to_json).collect(),
            Value::Map(entries) => {
                entries.iter().map(|(key, value)| (key.text.clone(), value.to_json())).collect()
            }
        }
    }
}

/// What stands at a place of the file.
#[derive(Clone, Debug)]
pub enum Value {
    /// `null`, `~` or nothing.
    Null,
    /// Text as it is spelt in the file, without quotes; or the value of the variable that
    /// `!env` names.
    Scalar(String),
    /// A sequence.
    List(Vec<Node>),
    /// A mapping in the order of the file.
    Map(Vec<(Key, Node)>),
}

/// A key of a mapping.
#[derive(Clone, Debug)]
pub struct Key {
    /// Its text.
    pub text: String,
    /// Where it stands.
    pub span: Span,
}

/// Reads a file.
///
/// - Takes: its text, the name that messages give to it, and how to look up a variable.
/// - Errors: HW1002 for text that is not YAML, HW1003 for a variable that is not set, HW1004 for
///   a tag other than `!env`.
pub fn parse(
    text: &str,
    file: &str,
    environment: &dyn Fn(&str) -> Option<String>,
) -> Result<Node, Vec<Diagnostic>> {
    let raw: RawNode = serde_saphyr::from_str(text).map_err(|error| {
        // The reader's own words may quote the line.
        let mut finding = match error.without_snippet() {
            serde_saphyr::Error::DuplicateMappingKey { .. } => {
                Diagnostic::error(code::CONFIG_YAML, "a key stands twice in one mapping")
                    .mend("take one of the two out")
            }
            _ => Diagnostic::error(code::CONFIG_YAML, "the file is not valid YAML")
                .mend("look at indentation, quotes and brackets there and in the line above it"),
        };
        finding.span = error.location().map(|place| span_of(&place, file, text));
        vec![finding]
    })?;
    let mut findings = Vec::new();
    let node = Reader { text, file, environment }.node(raw, &mut findings);
    if findings.is_empty() { Ok(node) } else { Err(findings) }
}

struct Reader<'a> {
    text: &'a str,
    file: &'a str,
    environment: &'a dyn Fn(&str) -> Option<String>,
}

impl Reader<'_> {
    fn node(&self, raw: RawNode, findings: &mut Vec<Diagnostic>) -> Node {
        let Spanned { value: Tagged(value, tag), referenced, .. } = raw.0;
        let span = span_of(&referenced, self.file, self.text);
        let value = match value {
            RawValue::Null => Value::Null,
            RawValue::Text(text) => Value::Scalar(text),
            RawValue::Typed(fallback) => {
                Value::Scalar(self.text.get(span.start..span.end).map_or(fallback, str::to_owned))
            }
            RawValue::List(items) => {
                Value::List(items.into_iter().map(|item| self.node(item, findings)).collect())
            }
            RawValue::Map(entries) => Value::Map(
                entries
                    .into_iter()
                    .map(|(key, value)| {
                        let span = span_of(&key.referenced, self.file, self.text);
                        (Key { text: key.value, span }, self.node(value, findings))
                    })
                    .collect(),
            ),
        };
        let value = match (tag.as_deref(), value) {
            (Some("!env"), Value::Scalar(name)) => match (self.environment)(name.trim()) {
                Some(value) => Value::Scalar(value),
                None => {
                    let mut finding = unset_variable(name.trim());
                    finding.span = Some(span.clone());
                    findings.push(finding);
                    Value::Null
                }
            },
            (Some(tag), value) if tag.starts_with('!') => {
                let mut finding = Diagnostic::error(code::CONFIG_TAG, "the tag is not known")
                    .mend("the only tag is !env, followed by the name of a variable");
                finding.span = Some(span.clone());
                findings.push(finding);
                value
            }
            (_, value) => value,
        };
        Node { value, span }
    }
}

/// What follows `!env` may be the secret itself, written there by mistake: only what is spelt as
/// variables are is repeated.
fn unset_variable(name: &str) -> Diagnostic {
    let spelt = |c: char| c.is_ascii_uppercase() || c.is_ascii_digit() || c == '_';
    if name.starts_with(|c: char| c.is_ascii_uppercase()) && name.chars().all(spelt) {
        Diagnostic::error(code::CONFIG_VARIABLE, format!("the variable {name} is not set"))
            .mend(format!("export {name}=…, or write the value here"))
    } else {
        Diagnostic::error(code::CONFIG_VARIABLE, "the variable that !env names is not set")
            .mend("write !env NAME with the name of a variable, or the value without !env")
    }
}

/// Our form of a place. A library that gives no bytes leaves an empty range at the line's start.
fn span_of(place: &Location, file: &str, text: &str) -> Span {
    let line = usize::try_from(place.line()).unwrap_or(0).max(1);
    let column = usize::try_from(place.column()).unwrap_or(0).max(1);
    let bytes = place.span();
    let start = bytes
        .byte_offset()
        .and_then(|offset| usize::try_from(offset).ok())
        .unwrap_or_else(|| offset_of(text, line, column))
        .min(text.len());
    let length = bytes.byte_len().and_then(|length| usize::try_from(length).ok()).unwrap_or(0);
    let end = start.saturating_add(length).min(text.len());
    Span { file: file.to_owned(), start, end, line, column }
}

fn offset_of(text: &str, line: usize, column: usize) -> usize {
    let start: usize = text.split_inclusive('\n').take(line - 1).map(str::len).sum();
    let within = text.get(start..).unwrap_or("");
    start + within.chars().take(column - 1).map(char::len_utf8).sum::<usize>()
}

struct RawNode(Spanned<Tagged<RawValue>>);

enum RawValue {
    Null,
    Text(String),
    /// A boolean or a number: the spelling is taken from the file, this is what remains when the
    /// library does not say where it stands.
    Typed(String),
    List(Vec<RawNode>),
    Map(Vec<(Spanned<String>, RawNode)>),
}

impl<'de> Deserialize<'de> for RawNode {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        Spanned::deserialize(deserializer).map(RawNode)
    }
}

impl<'de> Deserialize<'de> for RawValue {
    fn deserialize<D: Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        deserializer.deserialize_any(RawVisitor)
    }
}

struct RawVisitor;

impl<'de> Visitor<'de> for RawVisitor {
    type Value = RawValue;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a value")
    }

    fn visit_unit<E: de::Error>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_none<E: de::Error>(self) -> Result<RawValue, E> {
        Ok(RawValue::Null)
    }

    fn visit_some<D: Deserializer<'de>>(self, deserializer: D) -> Result<RawValue, D::Error> {
        RawValue::deserialize(deserializer)
    }

    fn visit_bool<E: de::Error>(self, value: bool) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_i64<E: de::Error>(self, value: i64) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_u64<E: de::Error>(self, value: u64) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_i128<E: de::Error>(self, value: i128) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_u128<E: de::Error>(self, value: u128) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_f64<E: de::Error>(self, value: f64) -> Result<RawValue, E> {
        Ok(RawValue::Typed(value.to_string()))
    }

    fn visit_str<E: de::Error>(self, value: &str) -> Result<RawValue, E> {
        Ok(RawValue::Text(value.to_owned()))
    }

    fn visit_string<E: de::Error>(self, value: String) -> Result<RawValue, E> {
        Ok(RawValue::Text(value))
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut items = Vec::new();
        while let Some(item) = access.next_element()? {
            items.push(item);
        }
        Ok(RawValue::List(items))
    }

    fn visit_map<A: MapAccess<'de>>(self, mut access: A) -> Result<RawValue, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = access.next_entry()? {
            entries.push(entry);
        }
        Ok(RawValue::Map(entries))
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn environment(name: &str) -> Option<String> {
        (name == "SECRET_OF_THE_TEST").then(|| "s3cret".to_owned())
    }

    fn map(node: &Node) -> &[(Key, Node)] {
        match &node.value {
            Value::Map(entries) => entries,
            other => panic!("expected a mapping, found {other:?}"),
        }
    }

    #[test]
    fn scalars_keep_their_spelling_and_their_place() {
        let text = "a:\n  b: 0123\n  c: yes\n  d: 'x: y'\n  e: 30 min\n  f: ~\nl: [1, two]\n";
        let node = parse(text, "f.yaml", &environment).expect("valid");
        let a = &map(&node)[0].1;
        let spelt: Vec<String> = map(a)
            .iter()
            .map(|(key, node)| match &node.value {
                Value::Scalar(text) => {
                    format!("{}={text}@{}:{}", key.text, node.span.line, node.span.column)
                }
                other => format!("{}={other:?}", key.text),
            })
            .collect();
        assert_eq!(spelt, ["b=0123@2:6", "c=yes@3:6", "d=x: y@4:6", "e=30 min@5:6", "f=Null"]);
    }

    #[test]
    fn a_variable_is_put_in_and_a_missing_one_is_named() {
        let node = parse("k: !env SECRET_OF_THE_TEST\n", "f.yaml", &environment).expect("valid");
        assert!(matches!(&map(&node)[0].1.value, Value::Scalar(text) if text == "s3cret"));

        let findings = parse("k: !env NOT_THERE\n", "f.yaml", &environment).expect_err("missing");
        assert_eq!(
            findings[0].to_string(),
            "error[HW1003]: the variable NOT_THERE is not set\n  where: f.yaml:1:9\n  \
             mend:  export NOT_THERE=…, or write the value here"
        );
    }

    #[test]
    fn broken_yaml_names_the_line() {
        let findings = parse("a: [1,\nb: 2\n", "f.yaml", &environment).expect_err("broken");
        assert_eq!(findings[0].code.0, 1002);
        assert!(findings[0].span.is_some(), "{findings:?}");
    }

    #[test]
    fn an_unknown_tag_is_refused() {
        let findings = parse("a: !include x\n", "f.yaml", &environment).expect_err("tag");
        assert_eq!(findings[0].what, "the tag is not known");
    }
}
