//! JSON texts as `jsonb` prints them.
//!
//! In: a text. Out: what Postgres prints of `text::jsonb`: members in the order of their keys, of several
//! under one key the last, numbers as `numeric` prints them, only those escapes that must be.
//!
//! Source: PostgreSQL `jsonapi.c` (`json_lex`), `jsonb_util.c` (`lengthCompareJsonbString`,
//! `uniqueifyJsonbObject`), `numeric.c` (`numeric_in`).

use super::json::{NOT_JSON, NUL};
use crate::error::EvalError;
use crate::json::{ESCAPED, write_escape};
use smallvec::SmallVec;
use std::cmp::Ordering;
use std::ops::Range;

const TOO_DEEP: EvalError = EvalError("a JSON document nests too deep");
const TOO_LARGE: EvalError = EvalError("a JSON number is too large");

/// How deep a document may nest. Postgres goes a few thousand levels further; the cost of documents that
/// are made to be costly grows with it.
const MAX_DEPTH: usize = 256;

/// The zeros that exponents may fill in over a document: `1e100000` is eight bytes.
const MAX_FILLED: i64 = 1 << 20;

/// Digits that a `numeric` has at most before its point and behind it.
const MAX_BEFORE_POINT: i64 = 131_072;
const MAX_SCALE: i64 = 16_383;
/// Where `numeric_in` stops reading an exponent.
const MAX_EXPONENT: u64 = i32::MAX as u64 / 2;

/// Appends what Postgres prints of a text that becomes `jsonb`.
///
/// - Errors: the text is not JSON, or JSON that a `jsonb` does not hold; or it goes beyond the limits
///   above. `out` may hold a part of it then.
pub(super) fn canonical(document: &str, out: &mut String) -> Result<(), EvalError> {
    let mut reader = Reader { text: document, at: 0, left: MAX_FILLED, members: SmallVec::new() };
    reader.value(0, out)?;
    reader.space();
    if reader.at == document.len() { Ok(()) } else { Err(NOT_JSON) }
}

/// Appends a JSON number as `numeric` prints it: without an exponent, with the digits behind the point
/// that it has.
pub(super) fn write_number(number: &str, out: &mut String) -> Result<(), EvalError> {
    write_filled(number, &mut MAX_FILLED.clone(), out)
}

/// A member of an object as it was written, by places in the output.
#[derive(Clone)]
struct Member {
    /// Its key, without quotes.
    key: Range<usize>,
    /// How long the key is without escapes.
    key_bytes: usize,
    /// The end of its value.
    end: usize,
}

struct Reader<'a> {
    text: &'a str,
    at: usize,
    /// Zeros that may still be filled in.
    left: i64,
    /// Members of the objects that are open, those of inner ones last.
    members: SmallVec<[Member; 16]>,
}

impl Reader<'_> {
    fn peek(&self) -> Option<u8> {
        self.text.as_bytes().get(self.at).copied()
    }

    fn space(&mut self) {
        while matches!(self.peek(), Some(b' ' | b'\t' | b'\n' | b'\r')) {
            self.at += 1;
        }
    }

    fn take(&mut self, byte: u8) -> bool {
        let found = self.peek() == Some(byte);
        self.at += usize::from(found);
        found
    }

    fn must_take(&mut self, byte: u8) -> Result<(), EvalError> {
        if self.take(byte) { Ok(()) } else { Err(NOT_JSON) }
    }

    fn value(&mut self, depth: usize, out: &mut String) -> Result<(), EvalError> {
        if depth > MAX_DEPTH {
            return Err(TOO_DEEP);
        }
        self.space();
        match self.peek() {
            Some(b'{') => self.object(depth, out),
            Some(b'[') => self.array(depth, out),
            Some(b'"') => self.string(out).map(drop),
            Some(b't') => self.word("true", out),
            Some(b'f') => self.word("false", out),
            Some(b'n') => self.word("null", out),
            _ => self.number(out),
        }
    }

    fn word(&mut self, word: &str, out: &mut String) -> Result<(), EvalError> {
        if !self.text[self.at..].starts_with(word) {
            return Err(NOT_JSON);
        }
        self.at += word.len();
        out.push_str(word);
        Ok(())
    }

    fn array(&mut self, depth: usize, out: &mut String) -> Result<(), EvalError> {
        self.must_take(b'[')?;
        out.push('[');
        self.space();
        if !self.take(b']') {
            loop {
                self.value(depth + 1, out)?;
                self.space();
                if self.take(b']') {
                    break;
                }
                self.must_take(b',')?;
                out.push_str(", ");
            }
        }
        out.push(']');
        Ok(())
    }

    fn object(&mut self, depth: usize, out: &mut String) -> Result<(), EvalError> {
        let (start, first) = (out.len(), self.members.len());
        self.must_take(b'{')?;
        out.push('{');
        self.space();
        if !self.take(b'}') {
            loop {
                self.space();
                let key_start = out.len() + 1;
                let key_bytes = self.string(out)?;
                let key = key_start..out.len() - 1;
                self.space();
                self.must_take(b':')?;
                out.push_str(": ");
                self.value(depth + 1, out)?;
                self.members.push(Member { key, key_bytes, end: out.len() });
                self.space();
                if self.take(b'}') {
                    break;
                }
                self.must_take(b',')?;
                out.push_str(", ");
            }
        }
        out.push('}');
        sort_members(&mut self.members[first..], start, out);
        self.members.truncate(first);
        Ok(())
    }

    /// Appends the string that starts here.
    ///
    /// - Returns: its bytes without escapes and quotes.
    fn string(&mut self, out: &mut String) -> Result<usize, EvalError> {
        self.must_take(b'"')?;
        out.push('"');
        let mut length = 0;
        loop {
            let from = self.at;
            while self.peek().is_some_and(|byte| !ESCAPED[usize::from(byte)]) {
                self.at += 1;
            }
            out.push_str(&self.text[from..self.at]);
            length += self.at - from;
            match self.peek() {
                Some(b'"') => {
                    self.at += 1;
                    out.push('"');
                    return Ok(length);
                }
                Some(b'\\') => {
                    self.at += 1;
                    let character = self.escaped()?;
                    length += character.len_utf8();
                    match u8::try_from(character) {
                        Ok(byte) if ESCAPED[usize::from(byte)] => write_escape(byte, out),
                        _ => out.push(character),
                    }
                }
                _ => return Err(NOT_JSON),
            }
        }
    }

    fn escaped(&mut self) -> Result<char, EvalError> {
        let escape = self.peek().ok_or(NOT_JSON)?;
        self.at += 1;
        Ok(match escape {
            b'"' | b'\\' | b'/' => char::from(escape),
            b'b' => '\u{8}',
            b'f' => '\u{c}',
            b'n' => '\n',
            b'r' => '\r',
            b't' => '\t',
            b'u' => {
                let code = match self.hex()? {
                    0 => return Err(NUL),
                    high @ 0xD800..0xDC00 => {
                        self.must_take(b'\\')?;
                        self.must_take(b'u')?;
                        match self.hex()? {
                            low @ 0xDC00..0xE000 => {
                                0x10000 + ((high - 0xD800) << 10) + (low - 0xDC00)
                            }
                            _ => return Err(NOT_JSON),
                        }
                    }
                    code => code,
                };
                char::from_u32(code).ok_or(NOT_JSON)?
            }
            _ => return Err(NOT_JSON),
        })
    }

    fn hex(&mut self) -> Result<u32, EvalError> {
        let mut code = 0;
        for _ in 0..4 {
            let digit = self.peek().and_then(|byte| char::from(byte).to_digit(16));
            code = code << 4 | digit.ok_or(NOT_JSON)?;
            self.at += 1;
        }
        Ok(code)
    }

    fn digits(&mut self) -> Result<(), EvalError> {
        let from = self.at;
        while self.peek().is_some_and(|byte| byte.is_ascii_digit()) {
            self.at += 1;
        }
        if self.at > from { Ok(()) } else { Err(NOT_JSON) }
    }

    fn number(&mut self, out: &mut String) -> Result<(), EvalError> {
        let from = self.at;
        self.take(b'-');
        if !self.take(b'0') {
            self.digits()?;
        }
        if self.take(b'.') {
            self.digits()?;
        }
        if self.take(b'e') || self.take(b'E') {
            let _ = self.take(b'+') || self.take(b'-');
            self.digits()?;
        }
        write_filled(&self.text[from..self.at], &mut self.left, out)
    }
}

/// Brings the members of the object that was written from `start` on into the order of `jsonb`.
fn sort_members(members: &mut [Member], start: usize, out: &mut String) {
    if members.is_sorted_by(|a, b| compare(out, a, b).is_lt()) {
        return;
    }
    members.sort_unstable_by(|a, b| compare(out, a, b).then(a.end.cmp(&b.end)));
    let end = out.len();
    out.push('{');
    let mut separator = "";
    for (index, member) in members.iter().enumerate() {
        // Of several values under one key the last one stays.
        let later = members.get(index + 1);
        if later.is_some_and(|later| compare(out, member, later).is_eq()) {
            continue;
        }
        out.push_str(separator);
        out.extend_from_within(member.key.start - 1..member.end);
        separator = ", ";
    }
    out.push('}');
    out.drain(start..end);
}

/// By length, then by bytes.
fn compare(text: &str, a: &Member, b: &Member) -> Ordering {
    let is_plain = |member: &Member| member.key_bytes == member.key.len();
    let (left, right) = (&text[a.key.clone()], &text[b.key.clone()]);
    a.key_bytes.cmp(&b.key_bytes).then_with(|| match is_plain(a) && is_plain(b) {
        true => left.cmp(right),
        false => unescaped(left).cmp(unescaped(right)),
    })
}

/// The bytes of a string that [`Reader::string`] wrote.
fn unescaped(written: &str) -> impl Iterator<Item = u8> + '_ {
    let mut bytes = written.bytes();
    std::iter::from_fn(move || match bytes.next()? {
        b'\\' => Some(match bytes.next()? {
            b'b' => 8,
            b't' => 9,
            b'n' => 10,
            b'f' => 12,
            b'r' => 13,
            // What is written so is below 0x20.
            b'u' => {
                let mut digit = |skipped| char::from(bytes.nth(skipped)?).to_digit(16);
                (digit(2)? << 4 | digit(0)?) as u8
            }
            other => other,
        }),
        plain => Some(plain),
    })
}

fn write_filled(number: &str, left: &mut i64, out: &mut String) -> Result<(), EvalError> {
    let (sign, unsigned) = match number.strip_prefix('-') {
        Some(rest) => ("-", rest),
        None => ("", number),
    };
    let (mantissa, exponent) = match unsigned.split_once(['e', 'E']) {
        Some((mantissa, text)) => (mantissa, text.parse::<i64>().map_err(|_| TOO_LARGE)?),
        None => (unsigned, 0),
    };
    if exponent.unsigned_abs() >= MAX_EXPONENT {
        return Err(TOO_LARGE);
    }
    let (whole, fraction) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    // Digits are counted through whole and fraction: how many there are, how many stand before the
    // point, which is the first that is not zero.
    let digit = |index: usize| match whole.as_bytes().get(index) {
        Some(digit) => *digit,
        None => fraction.as_bytes()[index - whole.len()],
    };
    let digits = whole.len() + fraction.len();
    let point = whole.len() as i64 + exponent;
    let scale = (fraction.len() as i64 - exponent).max(0);
    let first = (0..digits).find(|index| digit(*index) != b'0');
    let before = first.map_or(0, |first| (point - first as i64).max(0));
    if scale > MAX_SCALE || before > MAX_BEFORE_POINT {
        return Err(TOO_LARGE);
    }
    *left -= scale + before - (digits as i64).min(scale + before);
    if *left < 0 {
        return Err(TOO_LARGE);
    }
    let at = |index: i64| match usize::try_from(index) {
        Ok(index) if index < digits => char::from(digit(index)),
        _ => '0',
    };
    out.push_str(if first.is_some() { sign } else { "" });
    if before == 0 {
        out.push('0');
    }
    out.extend((point - before..point).map(at));
    if scale > 0 {
        out.push('.');
        out.extend((point..point + scale).map(at));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(document: &str, expected: &str) {
        let mut out = String::from("before ");
        assert_eq!(canonical(document, &mut out), Ok(()), "{document}");
        assert_eq!(out, format!("before {expected}"), "{document}");
    }

    #[test]
    fn members_stand_in_order_of_length_and_bytes_and_the_last_of_a_key_stays() {
        check(r#"{"bb":1,"a":2,"":3,"B":4}"#, r#"{"": 3, "B": 4, "a": 2, "bb": 1}"#);
        check(r#"{"a":1,"b":2,"a":{"c":[],"b":{}}}"#, r#"{"a": {"b": {}, "c": []}, "b": 2}"#);
        check(r#"[{"\u00e9":1,"zz":2,"é":3}]"#, r#"[{"zz": 2, "é": 3}]"#);
        // A key is as long as it is without escapes.
        check(
            r#"{"aa":1,"\n":2,"\"":3,"\u0001":4}"#,
            r#"{"\u0001": 4, "\n": 2, "\"": 3, "aa": 1}"#,
        );
        check(r#"{"\u001fa":1,"\u001Fa":2,"!a":3}"#, r#"{"\u001fa": 2, "!a": 3}"#);
    }

    #[test]
    fn numbers_are_those_of_numeric() {
        for (number, expected) in [
            ("-0", "0"),
            ("-0.00", "0.00"),
            ("1.50", "1.50"),
            ("1e3", "1000"),
            ("1.5E+3", "1500"),
            ("1.2345e2", "123.45"),
            ("-12e-3", "-0.012"),
            ("0.00012e3", "0.12"),
            ("0e5", "0"),
            ("0e-2", "0.00"),
            ("100e-1", "10.0"),
            ("0e999999", "0"),
        ] {
            check(number, expected);
        }
        check("1e131071", &format!("1{}", "0".repeat(131_071)));
        check("1e-16383", &format!("0.{}1", "0".repeat(16_382)));
        for number in
            ["1e131072", "1e-16384", "0e-16384", "1e99999999999999999999", "1e-9223372036854775808"]
        {
            assert_eq!(canonical(number, &mut String::new()), Err(TOO_LARGE), "{number}");
        }
        // A short text cannot become gigabytes.
        let many = format!("[{}1]", "1e131071,".repeat(9));
        assert_eq!(canonical(&many, &mut String::new()), Err(TOO_LARGE));
    }

    #[test]
    fn what_is_no_jsonb_is_an_error() {
        for document in [
            "",
            " ",
            "{",
            "[1,]",
            "{\"a\":1,}",
            "{\"a\"}",
            "{a:1}",
            "01",
            "1.",
            ".5",
            "+1",
            "-",
            "1e",
            "nul",
            "truex",
            "1 2",
            "\"",
            "\"\t\"",
            "\"\\x\"",
            "\"\\u12\"",
            "\"\\ud83d\"",
            "\"\\ud83dx\"",
            "\"\\ud83d\\n\"",
            "\"\\ud83d\\ud83d\"",
            "\"\\ude00\"",
            "\"\\u0000\"",
            "'a'",
            "\u{feff}1",
            "\u{a0}1",
        ] {
            assert!(canonical(document, &mut String::new()).is_err(), "{document}");
        }
        assert_eq!(canonical(&"[".repeat(100_000), &mut String::new()), Err(TOO_DEEP));
        check("\"\\ud83d\\ude00\\/\\u0041\\u007f\"", "\"😀/A\u{7f}\"");
    }
}
