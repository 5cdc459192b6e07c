//! JSON as the sync language reads and writes it: integers of any size stay integers, other
//! numbers are doubles, duplicate keys are an error, key order is kept.
//!
//! Source: `sync-rules.md` 4.4, 8.

use crate::number::{write_integer, write_json_real};
use crate::value::SqlValue;
use std::borrow::Cow;

/// A JSON document.
#[derive(Clone, Debug, PartialEq)]
pub enum Json {
    /// null.
    Null,
    /// true or false.
    Bool(bool),
    /// A number without dot and exponent.
    Integer(i128),
    /// Any other number.
    Real(f64),
    /// A string.
    String(String),
    /// An array.
    Array(Vec<Json>),
    /// An object, in the order of the text.
    Object(Vec<(String, Json)>),
}

/// The text is not JSON.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct NotJson;

/// Deepest nesting that is read.
const MAX_DEPTH: u32 = 200;

impl Json {
    /// Reads a whole text.
    pub fn parse(text: &str) -> Result<Json, NotJson> {
        let mut reader = Reader { bytes: text.as_bytes(), text, at: 0, depth: 0 };
        let value = reader.value()?;
        reader.space();
        if reader.at == text.len() { Ok(value) } else { Err(NotJson) }
    }

    /// Member of an object.
    pub fn get(&self, key: &str) -> Option<&Json> {
        match self {
            Json::Object(members) => members.iter().find(|(k, _)| k == key).map(|(_, v)| v),
            _ => None,
        }
    }

    /// One step of a path: an object's key or an array's index as text.
    pub fn step(&self, step: &str) -> Option<&Json> {
        match self {
            Json::Array(items) => {
                let canonical = step == "0" || !step.starts_with(['0', '+']);
                step.parse::<usize>().ok().filter(|_| canonical).and_then(|i| items.get(i))
            }
            other => other.get(step),
        }
    }

    /// Text of the document without whitespace; reals by the rules of 4.4.
    pub fn write(&self, out: &mut String) {
        match self {
            Json::Null => out.push_str("null"),
            Json::Bool(value) => out.push_str(if *value { "true" } else { "false" }),
            Json::Integer(value) => write_integer(*value, out),
            Json::Real(value) => write_json_real(*value, out),
            Json::String(text) => write_string(text, out),
            Json::Array(items) => {
                out.push('[');
                for (i, item) in items.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    item.write(out);
                }
                out.push(']');
            }
            Json::Object(members) => {
                out.push('{');
                for (i, (key, value)) in members.iter().enumerate() {
                    if i > 0 {
                        out.push(',');
                    }
                    write_string(key, out);
                    out.push(':');
                    value.write(out);
                }
                out.push('}');
            }
        }
    }

    /// Text of the document.
    pub fn to_text(&self) -> String {
        let mut out = String::new();
        self.write(&mut out);
        out
    }

    /// The value that an element of an array or a found member is (8.3): booleans 1/0, objects
    /// and arrays their text.
    pub fn to_value(&self) -> SqlValue<'_> {
        match self {
            Json::Null => SqlValue::Null,
            Json::Bool(value) => SqlValue::boolean(*value),
            Json::Integer(value) => SqlValue::Integer(*value),
            Json::Real(value) => SqlValue::Real(*value),
            Json::String(text) => SqlValue::Text(Cow::Borrowed(text)),
            Json::Array(_) | Json::Object(_) => SqlValue::text(self.to_text()),
        }
    }

    /// A token's or request's JSON, where every number is a double; integers that a double
    /// cannot hold stay integers (`sync-rules.md` 12).
    pub fn from_request(value: &serde_json::Value) -> Json {
        const EXACT: i128 = 1 << 53;
        match value {
            serde_json::Value::Null => Json::Null,
            serde_json::Value::Bool(value) => Json::Bool(*value),
            serde_json::Value::String(text) => Json::String(text.clone()),
            serde_json::Value::Number(number) => {
                let integer = number.as_i64().map(i128::from).or(number.as_u64().map(i128::from));
                match integer {
                    Some(value) if value.abs() > EXACT => Json::Integer(value),
                    Some(value) => Json::Real(value as f64),
                    None => Json::Real(number.as_f64().unwrap_or(f64::NAN)),
                }
            }
            serde_json::Value::Array(items) => {
                Json::Array(items.iter().map(Json::from_request).collect())
            }
            serde_json::Value::Object(members) => Json::Object(
                members.iter().map(|(k, v)| (k.clone(), Json::from_request(v))).collect(),
            ),
        }
    }
}

/// Bytes that a JSON string must escape: `"`, `\` and control characters.
pub const ESCAPED: [bool; 256] = {
    let mut table = [false; 256];
    let mut i = 0;
    while i < 32 {
        table[i] = true;
        i += 1;
    }
    table[b'"' as usize] = true;
    table[b'\\' as usize] = true;
    table
};

/// Appends what stands for one of [`ESCAPED`] in a string.
pub fn write_escape(byte: u8, out: &mut String) {
    match byte {
        b'"' => out.push_str("\\\""),
        b'\\' => out.push_str("\\\\"),
        8 => out.push_str("\\b"),
        9 => out.push_str("\\t"),
        10 => out.push_str("\\n"),
        12 => out.push_str("\\f"),
        13 => out.push_str("\\r"),
        control => {
            const HEX: &[u8; 16] = b"0123456789abcdef";
            out.push_str("\\u00");
            out.push(HEX[usize::from(control >> 4)] as char);
            out.push(HEX[usize::from(control & 15)] as char);
        }
    }
}

/// Appends a JSON string; only what must be escaped is.
pub fn write_string(text: &str, out: &mut String) {
    out.push('"');
    let bytes = text.as_bytes();
    let mut copied = 0;
    let mut at = 0;
    while at < bytes.len() {
        // Eight bytes at a time while none of them needs escaping.
        while let Some(chunk) = bytes.get(at..at + 8) {
            let word = u64::from_le_bytes(chunk.try_into().expect("eight bytes"));
            if needs_escape(word) {
                break;
            }
            at += 8;
        }
        let stop = (at + 8).min(bytes.len());
        while at < stop && !ESCAPED[bytes[at] as usize] {
            at += 1;
        }
        if at < stop {
            out.push_str(&text[copied..at]);
            write_escape(bytes[at], out);
            at += 1;
            copied = at;
        }
    }
    out.push_str(&text[copied..]);
    out.push('"');
}

/// Whether one of eight bytes is a quote, a backslash or below 0x20. Bytes from 0x80 never
/// count; a false alarm only costs the slow loop.
fn needs_escape(word: u64) -> bool {
    const ONES: u64 = 0x0101_0101_0101_0101;
    const HIGH: u64 = 0x8080_8080_8080_8080;
    let zero = |x: u64| x.wrapping_sub(ONES) & !x & HIGH;
    let control = word.wrapping_sub(ONES * 0x20) & !word & HIGH;
    (control | zero(word ^ (ONES * b'"' as u64)) | zero(word ^ (ONES * b'\\' as u64))) != 0
}

struct Reader<'a> {
    bytes: &'a [u8],
    text: &'a str,
    at: usize,
    depth: u32,
}

impl Reader<'_> {
    fn space(&mut self) {
        while matches!(self.bytes.get(self.at), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        self.space();
        let found = self.bytes.get(self.at) == Some(&byte);
        self.at += usize::from(found);
        found
    }

    fn expect(&mut self, byte: u8) -> Result<(), NotJson> {
        if self.take(byte) { Ok(()) } else { Err(NotJson) }
    }

    fn word(&mut self, word: &str, value: Json) -> Result<Json, NotJson> {
        if self.text[self.at..].starts_with(word) {
            self.at += word.len();
            Ok(value)
        } else {
            Err(NotJson)
        }
    }

    fn value(&mut self) -> Result<Json, NotJson> {
        self.space();
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(NotJson);
        }
        let value = match self.bytes.get(self.at).ok_or(NotJson)? {
            b'n' => self.word("null", Json::Null),
            b't' => self.word("true", Json::Bool(true)),
            b'f' => self.word("false", Json::Bool(false)),
            b'"' => self.string().map(Json::String),
            b'[' => self.array(),
            b'{' => self.object(),
            _ => self.number(),
        };
        self.depth -= 1;
        value
    }

    fn array(&mut self) -> Result<Json, NotJson> {
        self.at += 1;
        let mut items = Vec::new();
        if self.take(b']') {
            return Ok(Json::Array(items));
        }
        loop {
            items.push(self.value()?);
            if self.take(b']') {
                return Ok(Json::Array(items));
            }
            self.expect(b',')?;
        }
    }

    fn object(&mut self) -> Result<Json, NotJson> {
        self.at += 1;
        let mut members: Vec<(String, Json)> = Vec::new();
        if self.take(b'}') {
            return Ok(Json::Object(members));
        }
        // A small object is searched, a large one is sorted once at the end.
        loop {
            self.space();
            let key = self.string()?;
            self.expect(b':')?;
            if members.len() < 16 && members.iter().any(|(k, _)| *k == key) {
                return Err(NotJson);
            }
            members.push((key, self.value()?));
            if self.take(b'}') {
                break;
            }
            self.expect(b',')?;
        }
        if members.len() > 16 {
            let mut keys: Vec<&str> = members.iter().map(|(k, _)| k.as_str()).collect();
            keys.sort_unstable();
            if keys.windows(2).any(|pair| pair[0] == pair[1]) {
                return Err(NotJson);
            }
        }
        Ok(Json::Object(members))
    }

    fn number(&mut self) -> Result<Json, NotJson> {
        let start = self.at;
        let digits = |at: &mut usize, bytes: &[u8]| {
            let from = *at;
            while bytes.get(*at).is_some_and(u8::is_ascii_digit) {
                *at += 1;
            }
            *at - from
        };
        self.at += usize::from(self.bytes[self.at] == b'-');
        let whole_start = self.at;
        let whole = digits(&mut self.at, self.bytes);
        if whole == 0 || (whole > 1 && self.bytes[whole_start] == b'0') {
            return Err(NotJson);
        }
        let mut real = false;
        if self.bytes.get(self.at) == Some(&b'.') {
            real = true;
            self.at += 1;
            if digits(&mut self.at, self.bytes) == 0 {
                return Err(NotJson);
            }
        }
        if matches!(self.bytes.get(self.at), Some(b'e' | b'E')) {
            real = true;
            self.at += 1;
            self.at += usize::from(matches!(self.bytes.get(self.at), Some(b'+' | b'-')));
            if digits(&mut self.at, self.bytes) == 0 {
                return Err(NotJson);
            }
        }
        let text = &self.text[start..self.at];
        match text.parse::<i128>() {
            Ok(value) if !real => Ok(Json::Integer(value)),
            _ => text.parse().map(Json::Real).map_err(|_| NotJson),
        }
    }

    fn string(&mut self) -> Result<String, NotJson> {
        if self.bytes.get(self.at) != Some(&b'"') {
            return Err(NotJson);
        }
        self.at += 1;
        let mut out = String::new();
        loop {
            let start = self.at;
            while !ESCAPED[usize::from(*self.bytes.get(self.at).ok_or(NotJson)?)] {
                self.at += 1;
            }
            out.push_str(&self.text[start..self.at]);
            match self.bytes[self.at] {
                b'"' => {
                    self.at += 1;
                    return Ok(out);
                }
                b'\\' => {
                    let escape = *self.bytes.get(self.at + 1).ok_or(NotJson)?;
                    self.at += 2;
                    out.push(match escape {
                        b'"' => '"',
                        b'\\' => '\\',
                        b'/' => '/',
                        b'b' => '\u{8}',
                        b'f' => '\u{c}',
                        b'n' => '\n',
                        b'r' => '\r',
                        b't' => '\t',
                        b'u' => self.unicode()?,
                        _ => return Err(NotJson),
                    });
                }
                _ => return Err(NotJson),
            }
        }
    }

    /// `\uXXXX`, with its second half where it is the first of a pair; a half alone becomes
    /// U+FFFD, since a Rust string cannot hold it.
    fn unicode(&mut self) -> Result<char, NotJson> {
        let first = self.hex()?;
        if (0xD800..0xDC00).contains(&first) && self.text[self.at..].starts_with("\\u") {
            let back = self.at;
            self.at += 2;
            let second = self.hex()?;
            if (0xDC00..0xE000).contains(&second) {
                let code = 0x10000 + ((first - 0xD800) << 10) + (second - 0xDC00);
                return Ok(char::from_u32(code).unwrap_or('\u{fffd}'));
            }
            self.at = back;
        }
        Ok(char::from_u32(first).unwrap_or('\u{fffd}'))
    }

    fn hex(&mut self) -> Result<u32, NotJson> {
        let digits = self.text.get(self.at..self.at + 4).ok_or(NotJson)?;
        if !digits.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(NotJson);
        }
        self.at += 4;
        u32::from_str_radix(digits, 16).map_err(|_| NotJson)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn documents_are_rewritten_without_space_and_without_loss() {
        for (text, written) in [
            (" { \"a\" : [ 1 , 2.0, 1.50, -0, true, null ] } ", r#"{"a":[1,2.0,1.5,0,true,null]}"#),
            ("123456789012345678901234567890", "123456789012345678901234567890"),
            ("\"\\u00e9\\ud83d\\ude00\\n\"", "\"é😀\\n\""),
            ("1e3", "1000.0"),
            ("{}", "{}"),
            ("[]", "[]"),
        ] {
            assert_eq!(Json::parse(text).unwrap().to_text(), written);
        }
    }

    #[test]
    fn what_is_not_json_is_refused() {
        for text in [
            "",
            "{",
            "[1,]",
            "01",
            "1.",
            "+1",
            "{\"a\":1,\"a\":2}",
            "'a'",
            "\"\t\"",
            "nul",
            "1 2",
            "\"\\x\"",
            "{1:2}",
            ".5",
        ] {
            assert_eq!(Json::parse(text), Err(NotJson), "{text}");
        }
        assert_eq!(Json::parse(&"[".repeat(100_000)), Err(NotJson));
    }

    #[test]
    fn strings_escape_only_what_json_needs_wherever_it_stands() {
        for length in 0..40 {
            for at in 0..length {
                for special in ['"', '\\', '\n', '\u{1}', '\u{7f}', 'é', '\u{2028}'] {
                    let mut text: Vec<char> = vec!['a'; length];
                    text[at] = special;
                    let text: String = text.into_iter().collect();
                    let mut out = String::new();
                    write_string(&text, &mut out);
                    assert_eq!(out, serde_json::to_string(&text).unwrap());
                }
            }
        }
    }
}
