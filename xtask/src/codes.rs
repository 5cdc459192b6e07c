//! Error codes: each described once, where it is made, and collected in `docs/errors.md`.
//!
//! A code is described by the doc comment of its constant, in a module called `code` or `codes`, or by
//! a doc comment that begins with the code, on the variant or function that makes it:
//!
//! ```text
//! /// The role lacks a privilege.                       /// HW3002. The disk has no room.
//! pub const PRIVILEGE: u16 = 2010;                      Full,
//! ```
//!
//! Its first paragraph is the entry on the page. A code that is used (`Diagnostic::error(3002, …)`,
//! `Code(3002)`, `"HW3002"`) without being described, and one that is described twice, are findings.

use std::collections::BTreeMap;
use std::fs;
use std::path::Path;

use crate::workspace::{files, relative};

const PAGE: &str = "docs/errors.md";

const FAMILIES: [(u16, &str); 6] = [
    (1, "Configuration and sync configuration"),
    (2, "Postgres"),
    (3, "Store and input"),
    (4, "Identity and access"),
    (5, "Requests"),
    (6, "Cluster"),
];

/// What the sources say about codes.
#[derive(Default)]
struct Codes {
    /// Code to its text and the place of the description.
    described: BTreeMap<u16, (String, String)>,
    /// Code to the first place that uses it.
    used: BTreeMap<u16, String>,
    findings: Vec<String>,
}

/// Checks the sources, and that the page is what they say.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let codes = read(root)?;
    let mut findings = codes.problems();
    let page = fs::read_to_string(root.join(PAGE)).unwrap_or_default();
    if page != codes.page() {
        findings.push(format!("{PAGE} is not up to date: cargo xtask errors --write"));
    }
    Ok(findings)
}

/// Writes the page, and answers with what is wrong in the sources.
pub(crate) fn write(root: &Path) -> Result<Vec<String>, String> {
    let codes = read(root)?;
    fs::write(root.join(PAGE), codes.page()).map_err(|error| format!("{PAGE}: {error}"))?;
    Ok(codes.problems())
}

fn read(root: &Path) -> Result<Codes, String> {
    let mut codes = Codes::default();
    for file in files(&root.join("crates"), "rs") {
        let name = relative(root, &file);
        // Tests cite codes; they do not make them.
        if name.contains("/tests/") || name.ends_with("/tests.rs") {
            continue;
        }
        let text = fs::read_to_string(&file).map_err(|error| format!("{name}: {error}"))?;
        codes.add(&name, text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default());
    }
    Ok(codes)
}

impl Codes {
    fn add(&mut self, file: &str, text: &str) {
        let lines: Vec<&str> = text.lines().collect();
        let mut in_module = file.ends_with("/code.rs") || file.ends_with("/codes.rs");
        for (index, line) in lines.iter().enumerate() {
            let place = format!("{file}:{}", index + 1);
            let code_module = ["mod code {", "mod codes {"].iter().any(|end| line.ends_with(end));
            in_module = code_module || (in_module && *line != "}");
            if let Some((code, first)) = doc(line).and_then(description) {
                let following = paragraph(&lines[index + 1..]);
                let text = std::iter::once(first).chain(following).collect::<Vec<_>>().join(" ");
                self.describe(code, text, place);
            } else if in_module && let Some(code) = constant(line) {
                let docs =
                    lines[..index].iter().rev().take_while(|line| doc(line).is_some()).count();
                let above = &lines[index - docs..index];
                // One that begins with the code has been read above.
                if docs > 0 && doc(above[0]).and_then(description).is_none() {
                    let text = paragraph(above).collect::<Vec<_>>().join(" ");
                    self.describe(code, text, place);
                }
            }
        }
        for (offset, code) in uses(text) {
            let line = text[..offset].matches('\n').count() + 1;
            self.used.entry(code).or_insert_with(|| format!("{file}:{line}"));
        }
    }

    fn describe(&mut self, code: u16, text: String, place: String) {
        if let Some((_, other)) = self.described.insert(code, (text, place.clone())) {
            self.findings.push(format!("HW{code} is described twice: {other} and {place}"));
        }
    }

    fn problems(&self) -> Vec<String> {
        let mut findings = self.findings.clone();
        for (code, place) in &self.used {
            if !self.described.contains_key(code) {
                findings.push(format!(
                    "HW{code} at {place} is not described: write /// HW{code}. What it means."
                ));
            }
        }
        findings
    }

    fn page(&self) -> String {
        let mut page = String::from(
            "# Error codes\n\n\
             Made from the sources by `cargo xtask errors --write`. A code keeps its meaning for \
             ever; its text names\nthe thing at hand and how to mend it.\n",
        );
        for (family, title) in FAMILIES {
            let mut rows =
                self.described.iter().filter(|(code, _)| **code / 1000 == family).peekable();
            if rows.peek().is_none() {
                continue;
            }
            page.push_str(&format!(
                "\n## HW{family}xxx: {title}\n\n| code | meaning |\n| --- | --- |\n"
            ));
            for (code, (text, _)) in rows {
                page.push_str(&format!("| HW{code} | {} |\n", cell(text)));
            }
        }
        page
    }
}

/// The text of a doc comment line.
fn doc(line: &str) -> Option<&str> {
    let line = line.trim_start();
    line.strip_prefix("///").or_else(|| line.strip_prefix("//!")).map(str::trim)
}

/// The doc lines up to the first empty one or the first that begins with a code.
fn paragraph<'a>(lines: &'a [&'a str]) -> impl Iterator<Item = &'a str> {
    lines
        .iter()
        .map_while(|line| doc(line).filter(|text| !text.is_empty() && description(text).is_none()))
}

/// The code in `pub const PRIVILEGE: u16 = 2010;`.
fn constant(line: &str) -> Option<u16> {
    let (declared, value) = line.trim().split_once(": u16 = ")?;
    declared.strip_prefix("pub ").unwrap_or(declared).strip_prefix("const ")?;
    code_at(value.strip_suffix(';')?)
}

/// A doc text that begins with a code: the code, and what follows its mark.
fn description(text: &str) -> Option<(u16, &str)> {
    let code = code_at(text.strip_prefix("HW")?)?;
    let rest = text[6..].trim_start_matches(['.', ':', ',']);
    // "HW3001 to HW3029" begins with a code too, and describes none.
    (rest.len() < text[6..].len() || rest.is_empty()).then(|| (code, rest.trim_start()))
}

/// Four digits of a known family, and no fifth.
fn code_at(text: &str) -> Option<u16> {
    let digits = text.get(..4)?;
    if !digits.bytes().all(|b| b.is_ascii_digit())
        || text[4..].starts_with(|c: char| c.is_ascii_digit())
    {
        return None;
    }
    let code = digits.parse().ok()?;
    (1000..7000).contains(&code).then_some(code)
}

/// Places (byte offsets) that make a code, outside of comments.
fn uses(text: &str) -> Vec<(usize, u16)> {
    let mut found = Vec::new();
    for mark in ["Diagnostic::error(", "Diagnostic::warning(", "Code(", "\"HW"] {
        for (offset, _) in text.match_indices(mark) {
            let line_start = text[..offset].rfind('\n').map_or(0, |at| at + 1);
            let in_comment = text[line_start..offset].trim_start().starts_with("//");
            let rest = text[offset + mark.len()..].trim_start();
            if !in_comment && let Some(code) = code_at(rest) {
                found.push((offset, code));
            }
        }
    }
    found
}

/// Text for one cell of a Markdown table. Links of rustdoc lead nowhere on the page.
fn cell(text: &str) -> String {
    let mut characters = text.chars();
    let first = characters.next().map(|first| first.to_ascii_uppercase());
    let text: String = first.into_iter().chain(characters).collect();
    text.replace('|', "\\|").replace("[`", "`").replace("`]", "`")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn codes(text: &str) -> Codes {
        let mut codes = Codes::default();
        codes.add("a.rs", text);
        codes
    }

    #[test]
    fn a_paragraph_that_begins_with_a_code_describes_it() {
        let codes = codes(
            "/// HW3002. The disk has no room;\n/// see [`free`].\n///\n/// More.\nFull,\n\
             //! HW3001 to HW3029\n/// HW4101, PSYNC_S2101: malformed.\n",
        );
        assert!(codes.problems().is_empty());
        let page = codes.page();
        assert!(page.contains("| HW3002 | The disk has no room; see `free`. |"), "{page}");
        assert!(page.contains("| HW4101 | PSYNC_S2101: malformed. |"), "{page}");
        assert!(!page.contains("HW3001"), "{page}");
    }

    #[test]
    fn constants_of_a_code_module_describe_by_their_comment() {
        let codes = codes(
            "pub mod code {\n    /// the role lacks\n    /// a privilege.\n    ///\n    /// More.\n    \
             pub const PRIVILEGE: u16 = 2010;\n}\n/// Where Postgres listens.\nconst PORT: u16 = 5432;\n",
        );
        assert!(codes.problems().is_empty());
        let page = codes.page();
        assert!(page.contains("| HW2010 | The role lacks a privilege. |"), "{page}");
        assert!(!page.contains("5432"), "{page}");
    }

    #[test]
    fn codes_without_description_and_with_two_are_found() {
        let codes = codes(
            "/// HW1001: a\n/// HW1001: b\nDiagnostic::error(\n    1002,\n)\n// Code(1003)\n\"HW1004\"\n",
        );
        assert_eq!(
            codes.problems(),
            [
                "HW1001 is described twice: a.rs:1 and a.rs:2",
                "HW1002 at a.rs:3 is not described: write /// HW1002. What it means.",
                "HW1004 at a.rs:7 is not described: write /// HW1004. What it means.",
            ]
        );
    }
}
