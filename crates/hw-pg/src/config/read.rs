//! Both forms of a connection string, read into keys and values.
//!
//! In: the text. Out: [`Setting`]s in the order written. Nothing is interpreted here but the
//! form; findings name the character, never the text around it, which may be a password.
//!
//! Source: libpq `fe-connect.c`, `conninfo_parse` and `conninfo_uri_parse_options`.

use super::refused;
use hw_types::Diagnostic;
use std::fmt;

/// Where a value was written.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Origin {
    /// The character of the string at which the value (or the key, for unknown keys) starts,
    /// from 1.
    Character(usize),
    /// An environment variable.
    Variable(&'static str),
    /// Headwater's default.
    Default,
}

impl fmt::Display for Origin {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Origin::Character(n) => write!(f, "character {n} of the connection string"),
            Origin::Variable(name) => write!(f, "environment variable {name}"),
            Origin::Default => f.write_str("defaults"),
        }
    }
}

/// One key with its value.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) struct Setting {
    pub(super) key: String,
    pub(super) value: String,
    pub(super) origin: Origin,
    /// Whether the key may itself be a part of a password that was written without quotes: then
    /// findings do not name it.
    pub(super) key_may_be_secret: bool,
}

/// Reads a connection string of either form.
pub(super) fn read(text: &str) -> Result<Vec<Setting>, Diagnostic> {
    let trimmed = text.trim();
    for scheme in ["postgresql://", "postgres://"] {
        if let Some(rest) = trimmed.strip_prefix(scheme) {
            let before = text.len() - text.trim_start().len() + scheme.len();
            return Url { text, rest, offset: before }.read();
        }
    }
    if let Some((scheme, _)) = trimmed.split_once("://")
        && scheme.len() < 24
        && scheme.bytes().all(|b| b.is_ascii_alphanumeric() || b"+:.-".contains(&b))
    {
        return Err(refused(
            "the connection string's scheme is not that of Postgres",
            Origin::Character(1),
        )
        .mend("write postgres://user@host:port/database"));
    }
    read_keywords(text)
}

/// Character number, from 1, of a byte offset.
fn character(text: &str, offset: usize) -> Origin {
    Origin::Character(text[..offset.min(text.len())].chars().count() + 1)
}

fn read_keywords(text: &str) -> Result<Vec<Setting>, Diagnostic> {
    let mut settings: Vec<Setting> = Vec::new();
    let bytes = text.as_bytes();
    let space = |at: usize| bytes.get(at).is_some_and(u8::is_ascii_whitespace);
    let mut at = 0;
    let mut unquoted_password = false;
    loop {
        while space(at) {
            at += 1;
        }
        if at == bytes.len() {
            return Ok(settings);
        }
        let key_start = at;
        while at < bytes.len() && bytes[at] != b'=' && !space(at) {
            at += 1;
        }
        let key = &text[key_start..at];
        while space(at) {
            at += 1;
        }
        if bytes.get(at) != Some(&b'=') || key.is_empty() {
            let what = match key.is_empty() {
                true => "a key is missing before \"=\"",
                false => "a key without \"=\" and value",
            };
            return Err(refused(what, character(text, key_start))
                .mend("write key=value; put a value with spaces in single quotes"));
        }
        at += 1;
        while space(at) {
            at += 1;
        }
        let value_start = at;
        let quoted = bytes.get(at) == Some(&b'\'');
        if quoted {
            at += 1;
        }
        let mut value = Vec::new();
        loop {
            match bytes.get(at) {
                None if quoted => {
                    return Err(refused(
                        "a quoted value has no closing quote",
                        character(text, value_start),
                    )
                    .mend("write \\' for a quote inside of quotes"));
                }
                None => break,
                Some(b'\'') if quoted => {
                    at += 1;
                    break;
                }
                Some(_) if !quoted && space(at) => break,
                Some(b'\\') => {
                    at += 1;
                    if let Some(&escaped) = bytes.get(at) {
                        value.push(escaped);
                        at += 1;
                    }
                }
                Some(&byte) => {
                    value.push(byte);
                    at += 1;
                }
            }
        }
        settings.push(Setting {
            key: key.to_owned(),
            value: String::from_utf8_lossy(&value).into_owned(),
            origin: character(text, value_start),
            key_may_be_secret: unquoted_password,
        });
        unquoted_password |= key == "password" && !quoted;
    }
}

struct Url<'a> {
    text: &'a str,
    /// What is not read yet.
    rest: &'a str,
    /// Byte offset of `rest` in `text`.
    offset: usize,
}

impl<'a> Url<'a> {
    fn read(mut self) -> Result<Vec<Setting>, Diagnostic> {
        self.rest = self.rest.trim_end();
        let mut settings = Vec::new();
        self.user(&mut settings)?;
        self.hosts(&mut settings)?;
        if self.rest.starts_with('/') {
            self.skip(1);
            let database = self.take(&['?']);
            self.push(&mut settings, "dbname", database)?;
        }
        if self.rest.starts_with('?') {
            self.skip(1);
            self.parameters(&mut settings)?;
        }
        Ok(settings)
    }

    fn skip(&mut self, bytes: usize) {
        self.rest = &self.rest[bytes..];
        self.offset += bytes;
    }

    /// Takes everything before the first of these characters, with its offset.
    fn take(&mut self, ends: &[char]) -> (usize, &'a str) {
        let end = self.rest.find(ends).unwrap_or(self.rest.len());
        let taken = (self.offset, &self.rest[..end]);
        self.skip(end);
        taken
    }

    fn push(
        &self,
        settings: &mut Vec<Setting>,
        key: &str,
        (offset, raw): (usize, &str),
    ) -> Result<(), Diagnostic> {
        if raw.is_empty() {
            return Ok(());
        }
        settings.push(Setting {
            key: key.to_owned(),
            value: self.decode(offset, raw)?,
            origin: character(self.text, offset),
            key_may_be_secret: false,
        });
        Ok(())
    }

    fn user(&mut self, settings: &mut Vec<Setting>) -> Result<(), Diagnostic> {
        if self.rest.find(['@', '/']).is_none_or(|at| self.rest.as_bytes()[at] != b'@') {
            return Ok(());
        }
        let user = self.take(&[':', '@']);
        self.push(settings, "user", user)?;
        if self.rest.starts_with(':') {
            self.skip(1);
            let password = self.take(&['@']);
            self.push(settings, "password", password)?;
        }
        self.skip(1);
        Ok(())
    }

    fn hosts(&mut self, settings: &mut Vec<Setting>) -> Result<(), Diagnostic> {
        let start = self.offset;
        let (mut hosts, mut ports) = (Vec::new(), Vec::new());
        loop {
            let host = if self.rest.starts_with('[') {
                self.skip(1);
                let host = self.take(&[']']);
                if self.rest.is_empty() || host.1.is_empty() {
                    return Err(refused(
                        "an IPv6 address in brackets is empty or not closed",
                        character(self.text, host.0),
                    ));
                }
                self.skip(1);
                host
            } else {
                self.take(&[':', '/', '?', ','])
            };
            if let Some(at) = host.1.find('@') {
                return Err(refused(
                    "a second \"@\" before the host",
                    character(self.text, host.0 + at),
                )
                .mend("write %40 for an @ in the user or the password"));
            }
            hosts.push(self.decode(host.0, host.1)?);
            let mut port = (self.offset, "");
            if self.rest.starts_with(':') {
                self.skip(1);
                port = self.take(&['/', '?', ',']);
            }
            if !port.1.bytes().all(|b| b.is_ascii_digit()) {
                return Err(refused("the port is not a number", character(self.text, port.0))
                    .mend("write %2F for a / and %40 for an @ in the user or the password"));
            }
            ports.push(port.1.to_owned());
            match self.rest.chars().next() {
                Some(',') => self.skip(1),
                None | Some('/' | '?') => break,
                Some(_) => {
                    return Err(refused(
                        "unexpected character behind the host",
                        character(self.text, self.offset),
                    ));
                }
            }
        }
        let origin = character(self.text, start);
        for (key, values) in [("host", hosts), ("port", ports)] {
            if values.iter().any(|value| !value.is_empty()) {
                settings.push(Setting {
                    key: key.to_owned(),
                    value: values.join(","),
                    origin: origin.clone(),
                    key_may_be_secret: false,
                });
            }
        }
        Ok(())
    }

    fn parameters(&mut self, settings: &mut Vec<Setting>) -> Result<(), Diagnostic> {
        while !self.rest.is_empty() {
            let (offset, pair) = self.take(&['&']);
            if !self.rest.is_empty() {
                self.skip(1);
            }
            let Some((key, value)) = pair.split_once('=') else {
                return Err(refused(
                    "a parameter without \"=\" and value",
                    character(self.text, offset),
                ));
            };
            if value.contains('=') {
                return Err(refused(
                    "a second \"=\" in a parameter",
                    character(self.text, offset + key.len() + 1),
                )
                .mend("write %3D for an = in a value"));
            }
            let (key, value_offset) = (self.decode(offset, key)?, offset + key.len() + 1);
            let value = self.decode(value_offset, value)?;
            // The JDBC driver's spelling, which libpq reads as well.
            let (key, value) = match (key.as_str(), value.as_str()) {
                ("ssl", "true") => (String::from("sslmode"), String::from("require")),
                _ => (key, value),
            };
            settings.push(Setting {
                key,
                value,
                origin: character(self.text, value_offset),
                key_may_be_secret: false,
            });
        }
        Ok(())
    }

    /// Percent decoding.
    fn decode(&self, offset: usize, raw: &str) -> Result<String, Diagnostic> {
        let refuse = |at: usize, what: &str| {
            Err(refused(what, character(self.text, offset + at)).mend("write %25 for a % sign"))
        };
        let mut out = Vec::with_capacity(raw.len());
        let bytes = raw.as_bytes();
        let mut at = 0;
        while at < bytes.len() {
            if bytes[at] != b'%' {
                out.push(bytes[at]);
                at += 1;
                continue;
            }
            let digit = |i: usize| bytes.get(i).and_then(|b| (*b as char).to_digit(16));
            match (digit(at + 1), digit(at + 2)) {
                (Some(0), Some(0)) => return refuse(at, "%00 is not allowed"),
                (Some(high), Some(low)) => out.push((high * 16 + low) as u8),
                _ => return refuse(at, "a \"%\" without two hexadecimal digits"),
            }
            at += 3;
        }
        match String::from_utf8(out) {
            Ok(text) => Ok(text),
            Err(_) => refuse(0, "percent-encoded bytes that are not UTF-8"),
        }
    }
}

/// Percent encoding of everything but unreserved characters.
pub(super) fn percent_encode(text: &str) -> String {
    let mut out = String::new();
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'.' | b'_' | b'~' => {
                out.push(byte as char);
            }
            _ => out += &format!("%{byte:02X}"),
        }
    }
    out
}
