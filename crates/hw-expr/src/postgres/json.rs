//! `json` and `jsonb`: what their operators find in a document.
//!
//! A document is its text. That of a `jsonb` is what Postgres prints of it, so that any part of it is in
//! the same form; numbers keep their digits.

use crate::error::EvalError;
use serde::de::{MapAccess, Visitor};
use serde_json::Deserializer;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::fmt;

pub(super) const NUL: EvalError = EvalError("neither a text nor a jsonb holds \\u0000");
pub(super) const NOT_JSON: EvalError = EvalError("a text is not valid JSON");

/// The part of a document under a key of an object, or under a place of an array.
#[derive(Clone, Copy)]
pub(super) enum Step<'a> {
    /// A member of an object.
    Key(&'a str),
    /// An element of an array, from the end if negative.
    Index(i64),
    /// The same of a `jsonb`, in which a scalar counts as an array of itself.
    IndexOfJsonb(i64),
    /// Whichever the document is, as the operators with paths have it.
    Either(&'a str),
}

/// The members of an object in the order of the text, or the elements of an array.
enum Parts<'a> {
    Object(Vec<(Cow<'a, str>, &'a str)>),
    Array(Vec<&'a str>),
    Scalar,
}

struct Members<'a>(Vec<(Cow<'a, str>, &'a str)>);

/// A key, borrowed where nothing in it is escaped.
#[derive(serde::Deserialize)]
struct Key<'a>(#[serde(borrow)] Cow<'a, str>);

impl<'de> serde::Deserialize<'de> for Members<'de> {
    fn deserialize<D: serde::Deserializer<'de>>(deserializer: D) -> Result<Self, D::Error> {
        struct Reader;
        impl<'de> Visitor<'de> for Reader {
            type Value = Members<'de>;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("an object")
            }

            fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
                let mut members = Vec::new();
                while let Some((key, value)) = map.next_entry::<Key<'de>, &'de RawValue>()? {
                    members.push((key.0, value.get()));
                }
                Ok(Members(members))
            }
        }
        deserializer.deserialize_map(Reader)
    }
}

fn parts(document: &str) -> Result<Parts<'_>, EvalError> {
    let mut reader = Deserializer::from_str(document);
    Ok(match document.trim_start().bytes().next() {
        Some(b'{') => {
            let Members(members) =
                serde::Deserialize::deserialize(&mut reader).map_err(|_| NOT_JSON)?;
            Parts::Object(members)
        }
        Some(b'[') => {
            let elements: Vec<&RawValue> =
                serde::Deserialize::deserialize(&mut reader).map_err(|_| NOT_JSON)?;
            Parts::Array(elements.into_iter().map(RawValue::get).collect())
        }
        _ => Parts::Scalar,
    })
}

/// One step into a document: `->`. `None` where there is nothing.
pub(super) fn step<'a>(document: &'a str, step: Step<'_>) -> Result<Option<&'a str>, EvalError> {
    Ok(match (parts(document)?, step) {
        // Where a `json` names a key several times, the last one counts.
        (Parts::Object(members), Step::Key(key) | Step::Either(key)) => {
            members.into_iter().rev().find(|(name, _)| name == key).map(|(_, value)| value)
        }
        (Parts::Scalar, Step::IndexOfJsonb(0 | -1)) => Some(document),
        (Parts::Array(elements), Step::Index(index) | Step::IndexOfJsonb(index)) => {
            place(index, elements.len()).map(|at| elements[at])
        }
        (Parts::Array(elements), Step::Either(text)) => {
            let digits = text.strip_prefix('-').unwrap_or(text);
            match text.parse::<i32>() {
                Ok(index) if digits.bytes().all(|byte| byte.is_ascii_digit()) => {
                    place(index.into(), elements.len()).map(|at| elements[at])
                }
                _ if text.bytes().any(|byte| byte.is_ascii_digit()) => {
                    return Err(EvalError("a step of a path is an unusual number"));
                }
                _ => None,
            }
        }
        _ => None,
    })
}

fn place(index: i64, length: usize) -> Option<usize> {
    let length = i64::try_from(length).ok()?;
    let at = if index < 0 { index + length } else { index };
    (0..length).contains(&at).then_some(at as usize)
}

/// A document as text: what `->>` makes of what it finds. `None` for a JSON null.
pub(super) fn text(document: &str) -> Result<Option<Cow<'_, str>>, EvalError> {
    let document = document.trim();
    match document.bytes().next() {
        Some(b'"') => {
            let Key(text) = serde_json::from_str(document).map_err(|_| NOT_JSON)?;
            if text.contains('\0') {
                return Err(NUL);
            }
            Ok(Some(text))
        }
        Some(b'n') => Ok(None),
        _ => Ok(Some(Cow::Borrowed(document))),
    }
}

/// Whether a text is a key of the object, an element of the array, or the string itself: `?`.
pub(super) fn has(document: &str, wanted: &str) -> Result<bool, EvalError> {
    let is = |value: &str| match value.starts_with('"') {
        true => Ok(text(value)?.as_deref() == Some(wanted)),
        false => Ok(false),
    };
    match parts(document)? {
        Parts::Object(members) => Ok(members.iter().any(|(key, _)| key == wanted)),
        Parts::Array(elements) => {
            for element in elements {
                if is(element)? {
                    return Ok(true);
                }
            }
            Ok(false)
        }
        Parts::Scalar => is(document),
    }
}

/// Whether a text is JSON.
pub(super) fn is_valid(document: &str) -> bool {
    serde_json::from_str::<&RawValue>(document).is_ok()
}
