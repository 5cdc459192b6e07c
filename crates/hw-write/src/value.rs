//! From a client's JSON value to the text that Postgres reads for a column's type.
//!
//! Clients hold what the sync configuration gave them (`protocols/sync-rules.md` 4.2): booleans
//! as 1 and 0, arrays, ranges and composites as JSON text, JSON as text. This is the way back.
//! Invariant: digits are copied, never computed with. What cannot be converted is handed to
//! Postgres as it is, whose type input is the judge.

use base64::Engine as _;
use base64::engine::general_purpose::{STANDARD_NO_PAD, URL_SAFE_NO_PAD};
use hw_types::PgType;
use hw_types::pgtype::ElementType;
use serde::Deserialize;
use serde_json::value::RawValue;

/// The value cannot be a value of its column; the text completes `column "a": …`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Unfit(pub(crate) &'static str);

/// Containers in containers; Postgres itself stops arrays at 6 dimensions.
const MAX_DEPTH: usize = 10;

/// The text of a value for a type; `None` is NULL.
pub(crate) fn to_text(ty: &PgType, value: &RawValue) -> Result<Option<String>, Unfit> {
    convert(ty, &Json::read(value.get())?, 0)
}

/// A JSON value, taken apart one level deep.
enum Json<'a> {
    Null,
    Bool(bool),
    /// The digits as they were written.
    Number(&'a str),
    Text(String),
    /// An array, as it was written.
    Array(&'a str),
    /// An object, as it was written.
    Object(&'a str),
}

impl<'a> Json<'a> {
    fn read(text: &'a str) -> Result<Json<'a>, Unfit> {
        Ok(match text.as_bytes().first() {
            Some(b'n') => Json::Null,
            Some(b't') => Json::Bool(true),
            Some(b'f') => Json::Bool(false),
            Some(b'[') => Json::Array(text),
            Some(b'{') => Json::Object(text),
            // Half of a surrogate pair is legal JSON and no text.
            Some(b'"') => Json::Text(serde_json::from_str(text).map_err(|_| BAD_TEXT)?),
            _ => Json::Number(text),
        })
    }
}

const BAD_TEXT: Unfit = Unfit("the text is not valid Unicode");

fn convert(ty: &PgType, value: &Json<'_>, depth: usize) -> Result<Option<String>, Unfit> {
    if depth > MAX_DEPTH {
        return Err(Unfit("the value is nested too deeply"));
    }
    let base = ty.base();
    let text = match (base, value) {
        (_, Json::Null) => return Ok(None),

        (PgType::Bool, Json::Number(number)) => match integral(number).as_deref() {
            Some("0") => "false".to_owned(),
            Some("1") => "true".to_owned(),
            _ => (*number).to_owned(),
        },
        (PgType::Int2 | PgType::Int4 | PgType::Int8 | PgType::Oid, Json::Number(number)) => {
            integral(number).unwrap_or_else(|| (*number).to_owned())
        }
        (
            PgType::Int2
            | PgType::Int4
            | PgType::Int8
            | PgType::Oid
            | PgType::Float4
            | PgType::Float8
            | PgType::Numeric,
            Json::Bool(flag),
        ) => if *flag { "1" } else { "0" }.to_owned(),

        // The client's text *is* the JSON; that is how it received it.
        (PgType::Json | PgType::Jsonb, Json::Text(text)) => text.clone(),

        (PgType::Bytea, Json::Text(text)) => bytea(text)?,
        (PgType::Bytea, _) => return Err(Unfit("bytes are sent as text, base64 or \\x and hex")),

        (PgType::Array(element), Json::Text(text)) if text.trim_start().starts_with('[') => {
            // `[0:1]={a,b}` is Postgres's own form with bounds, and no JSON.
            match array(element, text, depth)? {
                Some(literal) => literal,
                None => text.clone(),
            }
        }
        (PgType::Array(element), Json::Array(text)) => {
            array(element, text, depth)?.ok_or(Unfit("the array cannot be read"))?
        }

        (PgType::Range(_), Json::Text(text)) if text == "\"empty\"" => "empty".to_owned(),
        (PgType::Range(subtype), Json::Text(text)) if text.trim_start().starts_with('{') => {
            range(subtype, text, depth)?
        }
        (PgType::Range(subtype), Json::Object(text)) => range(subtype, text, depth)?,
        (PgType::Multirange(subtype), Json::Text(text)) if text.trim_start().starts_with('[') => {
            multirange(subtype, text, depth)?
        }
        (PgType::Multirange(subtype), Json::Array(text)) => multirange(subtype, text, depth)?,

        (PgType::Composite(fields), Json::Text(text)) if text.trim_start().starts_with('{') => {
            composite(fields, text, depth)?
        }
        (PgType::Composite(fields), Json::Object(text)) => composite(fields, text, depth)?,

        (_, Json::Text(text)) => text.clone(),
        (_, Json::Bool(flag)) => flag.to_string(),
        (_, Json::Number(text) | Json::Array(text) | Json::Object(text)) => (*text).to_owned(),
    };
    Ok(Some(text))
}

/// The digits of a number that is a whole one however it is written (`5`, `5.0`, `1.5e3`).
/// `None` when it is none, or absurdly long.
fn integral(number: &str) -> Option<String> {
    let (mantissa, exponent) = match number.split_once(['e', 'E']) {
        Some((mantissa, exponent)) => (mantissa, exponent.parse::<i32>().ok()?),
        None => (number, 0),
    };
    let (sign, unsigned) = match mantissa.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", mantissa),
    };
    let (whole, fraction) = unsigned.split_once('.').unwrap_or((unsigned, ""));
    let mut digits = format!("{whole}{fraction}");
    let point = i32::try_from(whole.len()).ok()?.checked_add(exponent)?;
    if !(-1000..=1000).contains(&point) {
        return None;
    }
    let point = point.max(0) as usize;
    if point < digits.len() {
        if digits[point..].bytes().any(|digit| digit != b'0') {
            return None;
        }
        // A value below one that is not zero was refused above, except for leading zeros of the
        // mantissa that a negative exponent moved: those are zeros too.
        digits.truncate(point);
    } else {
        digits.extend(std::iter::repeat_n('0', point - digits.len()));
    }
    match digits.trim_start_matches('0') {
        "" => Some("0".to_owned()),
        digits => Some(format!("{sign}{digits}")),
    }
}

/// `\x` and hex as Postgres prints it, else base64 in either alphabet, with or without padding.
fn bytea(text: &str) -> Result<String, Unfit> {
    if text.starts_with("\\x") {
        return Ok(text.to_owned());
    }
    let bare = text.trim_end_matches('=');
    let bytes = STANDARD_NO_PAD
        .decode(bare)
        .or_else(|_| URL_SAFE_NO_PAD.decode(bare))
        .map_err(|_| Unfit("bytes are sent as text, base64 or \\x and hex"))?;
    let mut hex = String::with_capacity(2 + 2 * bytes.len());
    hex.push_str("\\x");
    for byte in bytes {
        hex.push(char::from_digit(u32::from(byte >> 4), 16).unwrap_or('0'));
        hex.push(char::from_digit(u32::from(byte & 15), 16).unwrap_or('0'));
    }
    Ok(hex)
}

/// A JSON array as an array literal; `None` when the text is no JSON.
/// Source: PostgreSQL manual, "Array Input and Output Syntax".
fn array(element: &ElementType, json: &str, depth: usize) -> Result<Option<String>, Unfit> {
    let Ok(items) = serde_json::from_str::<Vec<&RawValue>>(json) else { return Ok(None) };
    if depth > MAX_DEPTH {
        return Err(Unfit("the value is nested too deeply"));
    }
    let whole = matches!(element.pg_type.base(), PgType::Json | PgType::Jsonb);
    let mut out = String::from("{");
    for (index, item) in items.iter().enumerate() {
        if index > 0 {
            out.push(char::from(element.delimiter));
        }
        let text = item.get();
        let value = Json::read(text)?;
        match value {
            Json::Null => out.push_str("NULL"),
            // Elements of JSON arrive embedded, a string with its quotes.
            _ if whole => quote(text, &mut out),
            Json::Array(_) if !matches!(element.pg_type.base(), PgType::Multirange(_)) => {
                let inner = array(element, text, depth + 1)?;
                out.push_str(&inner.ok_or(Unfit("the array cannot be read"))?);
            }
            value => match convert(&element.pg_type, &value, depth + 1)? {
                Some(text) => quote(&text, &mut out),
                None => out.push_str("NULL"),
            },
        }
    }
    out.push('}');
    Ok(Some(out))
}

/// A part of an array, range or row literal: in quotes, with `"` and `\` escaped.
fn quote(text: &str, out: &mut String) {
    out.push('"');
    for character in text.chars() {
        if matches!(character, '"' | '\\') {
            out.push('\\');
        }
        out.push(character);
    }
    out.push('"');
}

#[derive(Deserialize)]
struct WireRange<'a> {
    #[serde(borrow)]
    lower: Option<&'a RawValue>,
    #[serde(borrow)]
    upper: Option<&'a RawValue>,
    #[serde(borrow, default)]
    lower_exclusive: Option<&'a RawValue>,
    #[serde(borrow, default)]
    upper_exclusive: Option<&'a RawValue>,
}

/// `{"lower":1,"upper":5,"lower_exclusive":0,"upper_exclusive":1}` as `["1","5")`.
fn range(subtype: &PgType, json: &str, depth: usize) -> Result<String, Unfit> {
    let wire: WireRange<'_> =
        serde_json::from_str(json).map_err(|_| Unfit("the range cannot be read"))?;
    let excluded =
        |flag: Option<&RawValue>| flag.is_some_and(|flag| matches!(flag.get(), "1" | "true"));
    let bound = |value: Option<&RawValue>| -> Result<String, Unfit> {
        let mut out = String::new();
        let text = match value {
            Some(value) => convert(subtype, &Json::read(value.get())?, depth + 1)?,
            None => None,
        };
        if let Some(text) = text {
            quote(&text, &mut out);
        }
        Ok(out)
    };
    Ok(format!(
        "{}{},{}{}",
        if excluded(wire.lower_exclusive) { '(' } else { '[' },
        bound(wire.lower)?,
        bound(wire.upper)?,
        if excluded(wire.upper_exclusive) { ')' } else { ']' },
    ))
}

fn multirange(subtype: &PgType, json: &str, depth: usize) -> Result<String, Unfit> {
    let items: Vec<&RawValue> =
        serde_json::from_str(json).map_err(|_| Unfit("the multirange cannot be read"))?;
    let ranges: Vec<String> =
        items.iter().map(|item| range(subtype, item.get(), depth + 1)).collect::<Result<_, _>>()?;
    Ok(format!("{{{}}}", ranges.join(",")))
}

/// `{"a":1,"b":null}` as `("1",)`. A field that the object lacks is NULL.
fn composite(fields: &[(String, PgType)], json: &str, depth: usize) -> Result<String, Unfit> {
    let object: std::collections::HashMap<String, &RawValue> =
        serde_json::from_str(json).map_err(|_| Unfit("the composite cannot be read"))?;
    if object.keys().any(|key| !fields.iter().any(|(name, _)| name == key)) {
        return Err(Unfit("the composite has a field that its type does not have"));
    }
    let mut out = String::from("(");
    for (index, (name, ty)) in fields.iter().enumerate() {
        if index > 0 {
            out.push(',');
        }
        let text = match object.get(name) {
            Some(value) => convert(ty, &Json::read(value.get())?, depth + 1)?,
            None => None,
        };
        if let Some(text) = text {
            quote(&text, &mut out);
        }
    }
    out.push(')');
    Ok(out)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(ty: PgType, json: &str, expected: &str) {
        let raw = RawValue::from_string(json.to_owned()).unwrap();
        let text = match to_text(&ty, &raw) {
            Ok(Some(text)) => text,
            Ok(None) => "NULL".to_owned(),
            Err(Unfit(reason)) => format!("! {reason}"),
        };
        assert_eq!(text, expected, "{json} as {ty:?}");
    }

    fn array_of(pg_type: PgType) -> PgType {
        PgType::Array(Box::new(ElementType { pg_type, delimiter: b',' }))
    }

    #[test]
    fn scalars_keep_every_digit() {
        check(
            PgType::Numeric,
            "0.1000000000000000055511151231257827",
            "0.1000000000000000055511151231257827",
        );
        check(PgType::Numeric, "\"NaN\"", "NaN");
        check(PgType::Int8, "9223372036854775807", "9223372036854775807");
        check(PgType::Int8, "\"9007199254740993\"", "9007199254740993");
        check(PgType::Int8, "5.0", "5");
        check(PgType::Int8, "-1.50e1", "-15");
        check(PgType::Int8, "1e3", "1000");
        check(PgType::Int8, "-0.0", "0");
        check(PgType::Int8, "0.05e2", "5");
        check(PgType::Int8, "5.5", "5.5");
        check(PgType::Int8, "5e-1", "5e-1");
        check(PgType::Int8, "1e999999999999", "1e999999999999");
        check(PgType::Int4, "true", "1");
        check(PgType::Float8, "1e300", "1e300");
        check(PgType::Uuid, "null", "NULL");
        check(PgType::TEXT, "12", "12");
        check(PgType::TEXT, "{\"a\": 1}", "{\"a\": 1}");
        check(PgType::TEXT, "\"a\\u0041\\n\"", "aA\n");
        check(PgType::TEXT, "\"\\ud800\"", "! the text is not valid Unicode");
        check(PgType::Domain(Box::new(PgType::Bool)), "1", "true");
    }

    #[test]
    fn booleans_are_one_and_zero_in_clients() {
        for (json, expected) in [
            ("1", "true"),
            ("0", "false"),
            ("1.0", "true"),
            ("true", "true"),
            ("2", "2"),
            ("\"t\"", "t"),
        ] {
            check(PgType::Bool, json, expected);
        }
    }

    #[test]
    fn json_columns_take_text_and_objects() {
        check(PgType::Jsonb, "\"{\\\"a\\\": 1e2}\"", "{\"a\": 1e2}");
        check(PgType::Jsonb, "{\"a\":1e2}", "{\"a\":1e2}");
        check(PgType::Json, "[1,2]", "[1,2]");
        check(PgType::Json, "3", "3");
    }

    #[test]
    fn bytes_are_base64_or_hex() {
        check(PgType::Bytea, "\"\\\\xdeadbeef\"", "\\xdeadbeef");
        for text in ["\"3q2+7w==\"", "\"3q2+7w\"", "\"3q2-7w\""] {
            check(PgType::Bytea, text, "\\xdeadbeef");
        }
        check(PgType::Bytea, "\"\"", "\\x");
        check(PgType::Bytea, "\"!\"", "! bytes are sent as text, base64 or \\x and hex");
    }

    #[test]
    fn arrays_come_as_json_text_or_as_postgres_prints_them() {
        check(array_of(PgType::Int4), "\"[1,2,null]\"", r#"{"1","2",NULL}"#);
        check(array_of(PgType::Int4), "[[1],[2]]", r#"{{"1"},{"2"}}"#);
        check(array_of(PgType::Int4), "\"[]\"", "{}");
        check(array_of(PgType::Int4), "\"{1,2}\"", "{1,2}");
        check(array_of(PgType::Int4), "\"[0:1]={1,2}\"", "[0:1]={1,2}");
        check(array_of(PgType::Bool), "[1,0]", r#"{"true","false"}"#);
        check(array_of(PgType::TEXT), r#"["a\"b\\","NULL",""]"#, r#"{"a\"b\\","NULL",""}"#);
        check(
            array_of(PgType::Jsonb),
            r#"[{"a":[1]},"s",[1]]"#,
            r#"{"{\"a\":[1]}","\"s\"","[1]"}"#,
        );
        let deep = format!("{}{}", "[".repeat(20), "]".repeat(20));
        check(array_of(PgType::Int4), &deep, "! the value is nested too deeply");
    }

    #[test]
    fn ranges_and_composites_come_as_json_text() {
        let int_range = || PgType::Range(Box::new(PgType::Int4));
        let json = r#""{\"lower\":1,\"upper\":5,\"lower_exclusive\":0,\"upper_exclusive\":1}""#;
        check(int_range(), json, r#"["1","5")"#);
        check(int_range(), r#"{"lower":null,"upper":5}"#, r#"[,"5"]"#);
        check(int_range(), r#""[1,5)""#, "[1,5)");
        check(int_range(), r#""\"empty\"""#, "empty");
        let multi = PgType::Multirange(Box::new(PgType::Int4));
        check(multi, r#"[{"lower":1,"upper":2,"upper_exclusive":1}]"#, r#"{["1","2")}"#);
        let pair =
            || PgType::Composite(vec![("a".into(), PgType::Bool), ("b".into(), PgType::TEXT)]);
        check(pair(), r#"{"b":"x\"y","a":1}"#, r#"("true","x\"y")"#);
        check(pair(), r#"{"a":null}"#, "(,)");
        check(pair(), r#"{"c":1}"#, "! the composite has a field that its type does not have");
        check(pair(), r#""(t,x)""#, "(t,x)");
    }
}
