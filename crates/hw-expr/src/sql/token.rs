//! SQL text to tokens. Source: `sync-rules.md` 5.1.

use super::Place;

/// One token.
#[derive(Clone, Debug, PartialEq)]
pub struct Token {
    /// What it is.
    pub kind: TokenKind,
    /// Where it stands.
    pub place: Place,
}

/// What a token is.
#[derive(Clone, Debug, PartialEq)]
pub enum TokenKind {
    /// An unquoted word, as written: an identifier or a keyword.
    Word(String),
    /// A quoted identifier, without its quotes.
    Quoted(String),
    /// A string literal, decoded.
    String(String),
    /// An integer literal.
    Integer(i128),
    /// A literal with a dot.
    Real(f64),
    /// An operator or punctuation.
    Symbol(&'static str),
    /// `$1`.
    Parameter,
    /// Behind the last token.
    End,
}

/// Why a text is not SQL.
#[derive(Clone, Debug, PartialEq)]
pub struct LexError {
    /// What is wrong.
    pub message: String,
    /// Where.
    pub place: Place,
    /// How to mend it, where that is known.
    pub mend: Option<&'static str>,
}

/// Longest first, so that `->>` is not `->` and `>`.
const SYMBOLS: [&str; 38] = [
    "->>", "!~*", "::", "->", "<=", ">=", "<>", "!=", "||", "&&", "<<", ">>", "==", "!~", "~*",
    "@>", "<@", "#>", "?|", "?&", "=", "<", ">", "+", "-", "*", "/", "%", "|", "&", "~", "(", ")",
    ",", ".", ";", "[", "]",
];

/// Splits a text into tokens; the last is [`TokenKind::End`].
pub fn tokens(text: &str) -> Result<Vec<Token>, LexError> {
    let bytes = text.as_bytes();
    let mut out = Vec::new();
    let mut at = 0;
    loop {
        at = skip_space(text, at)?;
        let start = at;
        let Some(&byte) = bytes.get(at) else {
            out.push(Token { kind: TokenKind::End, place: place(start, start) });
            return Ok(out);
        };
        let kind = match byte {
            b'e' | b'E' if bytes.get(at + 1) == Some(&b'\'') => {
                escaped_string(text, at + 1, &mut at)?
            }
            b'a'..=b'z' | b'A'..=b'Z' | b'_' => {
                at += run(bytes, at, |b| b.is_ascii_alphanumeric() || b == b'_');
                TokenKind::Word(text[start..at].to_string())
            }
            b'\'' => plain_string(text, at, &mut at)?,
            b'"' => {
                let Some(length) = text[at + 1..].find('"') else {
                    return Err(error("this quoted name has no end", start, text.len()));
                };
                at += length + 2;
                let name = &text[start + 1..at - 1];
                if name.contains('*') || name.is_empty() {
                    return Err(error("a quoted name must not be empty or contain *", start, at));
                }
                TokenKind::Quoted(name.to_string())
            }
            b'0'..=b'9' => number(text, &mut at)?,
            b'.' if bytes.get(at + 1).is_some_and(u8::is_ascii_digit) => number(text, &mut at)?,
            b'$' => {
                at += 1;
                at += run(bytes, at, |b| b.is_ascii_alphanumeric());
                TokenKind::Parameter
            }
            _ => match SYMBOLS.iter().find(|s| text[at..].starts_with(**s)) {
                Some(symbol) => {
                    at += symbol.len();
                    TokenKind::Symbol(symbol)
                }
                None => return Err(unexpected(text, at)),
            },
        };
        out.push(Token { kind, place: place(start, at) });
    }
}

fn place(start: usize, end: usize) -> Place {
    Place { start: start as u32, end: end as u32 }
}

fn error(message: &str, start: usize, end: usize) -> LexError {
    LexError { message: message.to_string(), place: place(start, end), mend: None }
}

/// A character that begins no token. Other dialects name values of the request with some of them.
fn unexpected(text: &str, at: usize) -> LexError {
    let bytes = text.as_bytes();
    let name = run(bytes, at + 1, |b| b.is_ascii_alphanumeric() || b == b'_');
    if matches!(bytes[at], b':' | b'@') && name > 0 {
        let message = "values of the request are functions here, not parameters";
        let mend = match &text[at + 1..at + 1 + name] {
            "user_id" | "uid" | "sub" => {
                "use auth.user_id() in streams, request.user_id() in parameter queries"
            }
            _ => {
                "use auth.parameter('x'), subscription.parameter('x') or connection.parameter('x') \
                 in streams, request.jwt() ->> 'x' in parameter queries"
            }
        };
        return LexError { mend: Some(mend), ..error(message, at, at + 1 + name) };
    }
    let width = text[at..].chars().next().map_or(1, char::len_utf8);
    error("unexpected character", at, at + width)
}

fn run(bytes: &[u8], at: usize, keep: impl Fn(u8) -> bool) -> usize {
    bytes[at..].iter().take_while(|&&b| keep(b)).count()
}

/// Skips blanks, `-- …` and nesting `/* … */`.
fn skip_space(text: &str, mut at: usize) -> Result<usize, LexError> {
    let bytes = text.as_bytes();
    loop {
        at += run(bytes, at, |b| b.is_ascii_whitespace());
        let rest = &text[at..];
        if rest.starts_with("--") {
            at += rest.find('\n').unwrap_or(rest.len());
        } else if rest.starts_with("/*") {
            let start = at;
            let mut depth = 0;
            loop {
                match bytes.get(at..at + 2) {
                    Some(b"/*") => (depth, at) = (depth + 1, at + 2),
                    Some(b"*/") => (depth, at) = (depth - 1, at + 2),
                    Some(_) => at += 1,
                    None => return Err(error("this comment has no end", start, text.len())),
                }
                if depth == 0 {
                    break;
                }
            }
        } else {
            return Ok(at);
        }
    }
}

fn plain_string(text: &str, start: usize, at: &mut usize) -> Result<TokenKind, LexError> {
    let mut out = String::new();
    let mut rest = start + 1;
    loop {
        let Some(length) = text[rest..].find('\'') else {
            return Err(error("this string has no end", start, text.len()));
        };
        out.push_str(&text[rest..rest + length]);
        rest += length + 1;
        if text[rest..].starts_with('\'') {
            out.push('\'');
            rest += 1;
        } else {
            *at = rest;
            return Ok(TokenKind::String(out));
        }
    }
}

/// `E'…'` with the escapes of JSON.
fn escaped_string(text: &str, start: usize, at: &mut usize) -> Result<TokenKind, LexError> {
    let mut out = String::new();
    let mut chars = text[start + 1..].char_indices();
    while let Some((i, c)) = chars.next() {
        match c {
            '\'' if text[start + 1 + i + 1..].starts_with('\'') => {
                chars.next();
                out.push('\'');
            }
            '\'' => {
                *at = start + 1 + i + 1;
                return Ok(TokenKind::String(out));
            }
            '\\' => match chars.next().map(|(_, c)| c) {
                Some('n') => out.push('\n'),
                Some('t') => out.push('\t'),
                Some('r') => out.push('\r'),
                Some('b') => out.push('\u{8}'),
                Some('f') => out.push('\u{c}'),
                Some('u') => {
                    let digits: String = chars.by_ref().take(4).map(|(_, c)| c).collect();
                    let code = u32::from_str_radix(&digits, 16).ok().and_then(char::from_u32);
                    out.push(code.unwrap_or('\u{fffd}'));
                }
                Some(other) => out.push(other),
                None => break,
            },
            other => out.push(other),
        }
    }
    Err(error("this string has no end", start - 1, text.len()))
}

fn number(text: &str, at: &mut usize) -> Result<TokenKind, LexError> {
    let bytes = text.as_bytes();
    let start = *at;
    *at += run(bytes, *at, |b| b.is_ascii_digit());
    let mut real = false;
    if bytes.get(*at) == Some(&b'.') {
        real = true;
        *at += 1;
        *at += run(bytes, *at, |b| b.is_ascii_digit());
    }
    let behind = run(bytes, *at, |b| b.is_ascii_alphanumeric() || b == b'_');
    if behind > 0 {
        return Err(error(
            "a number must not be followed by letters (there is no exponent form)",
            start,
            *at + behind,
        ));
    }
    let digits = &text[start..*at];
    match digits.parse::<i128>() {
        Ok(value) if !real => Ok(TokenKind::Integer(value)),
        // A trailing or leading dot is a number to Rust as well.
        _ => match digits.parse::<f64>() {
            Ok(value) => Ok(TokenKind::Real(value)),
            Err(_) => Err(error("this is not a number", start, *at)),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kinds(text: &str) -> Vec<TokenKind> {
        tokens(text).unwrap().into_iter().map(|t| t.kind).collect()
    }

    #[test]
    fn literals_and_comments_read_as_the_specification_says() {
        use TokenKind::*;
        assert_eq!(
            kinds("a->>'it''s' -- x\n /* /* */ */ E'a\\tb' 12 .5 3. \"Ab\"")[..],
            [
                Word("a".into()),
                Symbol("->>"),
                String("it's".into()),
                String("a\tb".into()),
                Integer(12),
                Real(0.5),
                Real(3.0),
                Quoted("Ab".into()),
                End
            ]
        );
        assert_eq!(kinds("'\\x61'")[0], String("\\x61".into()));
    }

    #[test]
    fn what_has_no_end_or_no_meaning_is_refused_with_its_place() {
        for (text, start, end) in
            [("a 'b", 2, 4), ("1e3", 0, 3), ("/* a", 0, 4), ("a é", 2, 4), ("\"x", 0, 2)]
        {
            let place = tokens(text).unwrap_err().place;
            assert_eq!((place.start, place.end), (start, end), "{text}");
        }
    }
}
