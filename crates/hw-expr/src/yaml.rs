//! YAML as a tree in which every node knows its place in the file.
//!
//! In: the text of a file. Out: one [`Node`], or the place where the text stops being YAML. A
//! scalar keeps a map from offsets of its *decoded* text to offsets of the file, so that a
//! finding inside an SQL text is marked at the right character through quotes and folding.
//! Source: YAML 1.2, core schema; `sync-rules.md` 2.

use granit_parser::{Event, Options, Parser, ScalarStyle};
use std::ops::Range;

/// One node of the file.
#[derive(Clone, Debug)]
pub struct Node {
    /// What the node is.
    pub kind: NodeKind,
    /// Bytes of the file.
    pub range: Range<usize>,
}

/// The three kinds of node, and the one that is refused.
#[derive(Clone, Debug)]
pub enum NodeKind {
    /// A scalar.
    Scalar(Scalar),
    /// A sequence.
    Sequence(Vec<Node>),
    /// A map in the order of the file.
    Map(Vec<(Node, Node)>),
    /// An alias `*name`; sync configurations do not follow them.
    Alias,
}

/// A scalar, decoded.
#[derive(Clone, Debug)]
pub struct Scalar {
    /// The text behind quotes, escapes and folding.
    pub text: String,
    /// Whether the scalar is plain, so that `1`, `true` and `null` are not texts.
    pub plain: bool,
    /// File offset of each byte of `text`, and of its end.
    map: Vec<u32>,
}

impl Scalar {
    /// The place in the file of a range of the decoded text.
    pub fn locate(&self, range: Range<usize>) -> Range<usize> {
        let last = self.map.len() - 1;
        let start = self.map[range.start.min(last)] as usize;
        let end = match range.end.min(last) {
            end if end > range.start => {
                // The end of the last character, not the start of the next: folding and quotes
                // may stand between them.
                let previous = self.text[..end].char_indices().next_back();
                let (at, width) = previous.map_or((0, 0), |(i, c)| (i, c.len_utf8()));
                self.map[at] as usize + width
            }
            _ => start,
        };
        start..end.max(start)
    }

    /// Whether the scalar is YAML's null.
    pub fn is_null(&self) -> bool {
        self.plain && matches!(self.text.as_str(), "" | "~" | "null" | "Null" | "NULL")
    }

    /// The boolean, if it is one.
    pub fn as_bool(&self) -> Option<bool> {
        match (self.plain, self.text.as_str()) {
            (true, "true" | "True" | "TRUE") => Some(true),
            (true, "false" | "False" | "FALSE") => Some(false),
            _ => None,
        }
    }

    /// The integer, if it is one.
    pub fn as_integer(&self) -> Option<i64> {
        self.plain.then(|| self.text.parse().ok()).flatten()
    }
}

/// Where and why a text is not YAML.
#[derive(Clone, Debug)]
pub struct YamlError {
    /// What is wrong.
    pub message: String,
    /// Byte of the file.
    pub at: usize,
}

/// Reads one document. `None`: the file is empty.
///
/// - Errors: a syntax error, a second document, or nesting beyond 64 levels.
pub fn parse(text: &str) -> Result<Option<Node>, YamlError> {
    let mut parser = Parser::new_from_str_with_options(text, Options::default());
    let mut builder = Builder { text, depth: 0 };
    let mut root = None;
    while let Some((event, range)) = next(&mut parser, text)? {
        match event {
            Event::StreamStart | Event::DocumentStart(..) | Event::DocumentEnd => {}
            Event::StreamEnd => break,
            _ if root.is_some() => {
                return Err(YamlError {
                    message: "only one YAML document is expected".into(),
                    at: range.start,
                });
            }
            event => root = Some(builder.node(&mut parser, event, range)?),
        }
    }
    Ok(root)
}

type Events<'a> = Parser<'a, granit_parser::StrInput<'a>>;

fn next<'a>(
    parser: &mut Events<'a>,
    text: &str,
) -> Result<Option<(Event<'a>, Range<usize>)>, YamlError> {
    loop {
        match parser.next_event() {
            None => return Ok(None),
            Some(Ok((Event::Comment(..), _))) => {}
            Some(Ok((event, span))) => {
                let range = span.byte_range().unwrap_or(0..0);
                return Ok(Some((event, range)));
            }
            Some(Err(error)) => {
                let at = error.marker().byte_offset().unwrap_or(text.len()).min(text.len());
                return Err(YamlError { message: error.info(), at });
            }
        }
    }
}

struct Builder<'t> {
    text: &'t str,
    depth: u32,
}

impl Builder<'_> {
    fn node<'a>(
        &mut self,
        parser: &mut Events<'a>,
        event: Event<'a>,
        range: Range<usize>,
    ) -> Result<Node, YamlError> {
        if self.depth == 64 {
            return Err(YamlError { message: "nested too deeply".into(), at: range.start });
        }
        self.depth += 1;
        let mut end = range.end;
        let kind = match event {
            Event::Scalar(text, style, ..) => {
                let map = offsets(self.text, range.clone(), &text, style);
                let plain = style == ScalarStyle::Plain;
                NodeKind::Scalar(Scalar { text: text.into_owned(), plain, map })
            }
            Event::SequenceStart(..) => {
                let mut items = Vec::new();
                loop {
                    match next(parser, self.text)? {
                        None => break,
                        Some((Event::SequenceEnd, at)) => {
                            end = end.max(at.end);
                            break;
                        }
                        Some((event, at)) => items.push(self.node(parser, event, at)?),
                    }
                }
                NodeKind::Sequence(items)
            }
            Event::MappingStart(..) => {
                let mut entries: Vec<(Node, Node)> = Vec::new();
                loop {
                    match next(parser, self.text)? {
                        None => break,
                        Some((Event::MappingEnd, at)) => {
                            end = end.max(at.end);
                            break;
                        }
                        Some((event, at)) => {
                            let key = self.node(parser, event, at)?;
                            let Some((event, at)) = next(parser, self.text)? else { break };
                            let value = self.node(parser, event, at)?;
                            if let Some(name) = key.scalar()
                                && entries
                                    .iter()
                                    .any(|(k, _)| k.scalar().is_some_and(|s| s.text == name.text))
                            {
                                return Err(YamlError {
                                    message: format!("the key \"{}\" is given twice", name.text),
                                    at: key.range.start,
                                });
                            }
                            entries.push((key, value));
                        }
                    }
                }
                NodeKind::Map(entries)
            }
            _ => NodeKind::Alias,
        };
        self.depth -= 1;
        if let NodeKind::Sequence(items) = &kind
            && let Some(last) = items.last()
        {
            end = end.max(last.range.end);
        }
        let end = end.min(self.text.len());
        Ok(Node { kind, range: range.start.min(end)..end })
    }
}

impl Node {
    /// The scalar, if the node is one.
    pub fn scalar(&self) -> Option<&Scalar> {
        match &self.kind {
            NodeKind::Scalar(scalar) => Some(scalar),
            _ => None,
        }
    }

    /// Whether the node is an empty or null scalar.
    pub fn is_null(&self) -> bool {
        self.scalar().is_some_and(Scalar::is_null)
    }
}

/// Walks the decoded and the written form side by side. Exact for plain text, quotes, escapes
/// and block scalars; where the two cannot be matched, the place stays on the right line.
fn offsets(file: &str, range: Range<usize>, decoded: &str, style: ScalarStyle) -> Vec<u32> {
    let raw = file.as_bytes();
    let end = range.end.min(raw.len());
    let mut at = range.start.min(end);
    let block = matches!(style, ScalarStyle::Literal | ScalarStyle::Folded);
    let mut indent = 0;
    if block {
        // The range starts at the first text; line breaks before it are part of the text too.
        let line = |at: usize| file[..at].rfind('\n').map_or(0, |n| n + 1);
        let first = line(at);
        indent = at - first;
        at = first;
        for _ in decoded.bytes().take_while(|&b| b == b'\n') {
            at = line(at.saturating_sub(1));
        }
        at = skip_indent(raw, at, end, indent);
    } else if matches!(style, ScalarStyle::SingleQuoted | ScalarStyle::DoubleQuoted)
        && matches!(raw.get(at), Some(b'\'' | b'"'))
    {
        at += 1;
    }
    let mut map = Vec::with_capacity(decoded.len() + 1);
    for c in decoded.chars() {
        if style == ScalarStyle::DoubleQuoted {
            while raw.get(at) == Some(&b'\\') && matches!(raw.get(at + 1), Some(b'\n' | b'\r')) {
                at = skip_blank(raw, at + 1, end);
            }
        }
        let mut next = at;
        let here = raw.get(at).copied();
        if style == ScalarStyle::DoubleQuoted && here == Some(b'\\') {
            next += match raw.get(at + 1) {
                Some(b'x') => 4,
                Some(b'u') => 6,
                Some(b'U') => 10,
                _ => 2,
            };
        } else if style == ScalarStyle::SingleQuoted && c == '\'' {
            next += 2;
        } else if (c == ' ' || c == '\n') && starts_fold(raw, at, end) {
            next = if block {
                let line_end =
                    raw[at..end].iter().position(|&b| b == b'\n').map_or(end, |n| at + n);
                skip_indent(raw, line_end + 1, end, indent)
            } else {
                skip_blank(raw, at, end)
            };
        } else if file[at.min(file.len())..].starts_with(c) {
            next += c.len_utf8();
        } else if let Some(n) = file.get(at..end).and_then(|rest| rest.find(c)) {
            at += n;
            next = at + c.len_utf8();
        }
        map.extend(std::iter::repeat_n(at as u32, c.len_utf8()));
        at = next.min(end);
        while !file.is_char_boundary(at) {
            at += 1;
        }
    }
    map.push(at as u32);
    map
}

fn starts_fold(raw: &[u8], at: usize, end: usize) -> bool {
    let rest = &raw[at.min(end)..end];
    let blanks = rest.iter().take_while(|b| matches!(b, b' ' | b'\t' | b'\r')).count();
    rest.get(blanks) == Some(&b'\n')
}

fn skip_blank(raw: &[u8], at: usize, end: usize) -> usize {
    at + raw[at.min(end)..end].iter().take_while(|b| b.is_ascii_whitespace()).count()
}

fn skip_indent(raw: &[u8], at: usize, end: usize, indent: usize) -> usize {
    let at = at.min(end);
    at + raw[at..end].iter().take(indent).take_while(|&&b| b == b' ').count()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn marked(yaml: &str, needle: &str) -> String {
        let root = parse(yaml).unwrap().unwrap();
        let NodeKind::Map(entries) = root.kind else { panic!("a map") };
        let scalar = entries[0].1.scalar().unwrap();
        let at = scalar.text.find(needle).unwrap();
        yaml[scalar.locate(at..at + needle.len())].to_string()
    }

    #[test]
    fn a_place_in_a_decoded_text_is_found_in_the_file_whatever_the_quoting() {
        for yaml in [
            "q: SELECT é, here FROM t\n",
            "q: SELECT é,\n  here\n  FROM t\n",
            "q: 'SELECT ''é'', here FROM t'\n",
            "q: \"SELECT \\\"\\u00e9\\\", here\\n FROM t\"\n",
            "q: \"SELECT \\\n   here FROM t\"\n",
            "q: |\n    SELECT é,\n      here\n    FROM t\n",
            "q: |-\n\n  SELECT\n\n  here\n  FROM t\n",
            "q: >\n  SELECT é,\n  a,\n\n  here\n  FROM t\n",
        ] {
            assert_eq!(marked(yaml, "here"), "here", "{yaml}");
        }
    }

    #[test]
    fn scalars_keep_the_types_of_the_core_schema() {
        let root = parse("a: 1\nb: '1'\nc: true\nd:\ne: ~\n").unwrap().unwrap();
        let NodeKind::Map(entries) = root.kind else { panic!("a map") };
        let scalar = |i: usize| entries[i].1.scalar().unwrap();
        assert_eq!(scalar(0).as_integer(), Some(1));
        assert_eq!(scalar(1).as_integer(), None);
        assert_eq!(scalar(2).as_bool(), Some(true));
        assert!(scalar(3).is_null() && scalar(4).is_null());
    }

    #[test]
    fn broken_yaml_says_where() {
        let error = parse("a: [1, 2\nb: 3\n").unwrap_err();
        assert!(error.at > 0);
        assert_eq!(parse("a: 1\na: 2\n").unwrap_err().message, "the key \"a\" is given twice");
        assert!(parse("").unwrap().is_none());
        assert!(parse(&"[".repeat(500)).is_err());
    }
}
