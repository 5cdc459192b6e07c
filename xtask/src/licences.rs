//! Whether every crate that we build with may be passed on under Apache-2.0.
//!
//! Read from the manifests (`cargo metadata`), so it needs no network and no other tool. An
//! expression is accepted if some choice among its `OR`s needs accepted licences only.

use crate::workspace::{metadata, text};

/// Licences without a claim on our own sources. MPL-2.0 and the database licences stay with their
/// own files.
const ACCEPTED: &[&str] = &[
    "0BSD",
    "Apache-2.0",
    "Apache-2.0 WITH LLVM-exception",
    "BSD-1-Clause",
    "BSD-2-Clause",
    "BSD-3-Clause",
    "BSL-1.0",
    "CC0-1.0",
    "CDLA-Permissive-2.0",
    "ISC",
    "MIT",
    "MIT-0",
    "MPL-2.0",
    "OpenSSL",
    "PostgreSQL",
    "Unicode-3.0",
    "Unicode-DFS-2016",
    "Unlicense",
    "Zlib",
];

/// Checks every package of the lock file.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let metadata = metadata(&[])?;
    let packages = metadata["packages"].as_array().ok_or("no packages in the metadata")?;
    let mut findings = Vec::new();
    for package in packages {
        let licence = text(package, "license");
        if !accepts(licence) {
            let name = text(package, "name");
            let version = text(package, "version");
            let shown = if licence.is_empty() { "none named" } else { licence };
            findings.push(format!("{name} {version}: licence not on the list: {shown}"));
        }
    }
    Ok(findings)
}

/// Whether the SPDX expression can be met with accepted licences alone.
fn accepts(expression: &str) -> bool {
    // Old manifests write `MIT/Apache-2.0` and mean OR.
    let spaced = expression.replace('/', " OR ").replace('(', " ( ").replace(')', " ) ");
    let words: Vec<&str> = spaced.split_whitespace().collect();
    let mut rest = words.as_slice();
    let verdict = any_of(&mut rest);
    rest.is_empty() && verdict.unwrap_or(false)
}

fn any_of(words: &mut &[&str]) -> Option<bool> {
    let mut verdict = all_of(words)?;
    while let Some((&"OR", rest)) = words.split_first() {
        *words = rest;
        verdict |= all_of(words)?;
    }
    Some(verdict)
}

fn all_of(words: &mut &[&str]) -> Option<bool> {
    let mut verdict = one(words)?;
    while let Some((&"AND", rest)) = words.split_first() {
        *words = rest;
        verdict &= one(words)?;
    }
    Some(verdict)
}

fn one(words: &mut &[&str]) -> Option<bool> {
    let (first, rest) = words.split_first()?;
    *words = rest;
    if *first == "(" {
        let verdict = any_of(words)?;
        let (close, rest) = words.split_first()?;
        *words = rest;
        return (*close == ")").then_some(verdict);
    }
    if let [with, exception, rest @ ..] = *words
        && *with == "WITH"
    {
        *words = rest;
        return Some(ACCEPTED.contains(&format!("{first} WITH {exception}").as_str()));
    }
    Some(ACCEPTED.contains(first))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_expression_is_accepted_if_one_choice_is() {
        for good in [
            "MIT",
            "MIT OR GPL-3.0",
            "MIT/Apache-2.0",
            "ISC AND (Apache-2.0 OR ISC)",
            "(MIT OR Apache-2.0) AND Unicode-3.0",
            "Apache-2.0 WITH LLVM-exception OR GPL-2.0",
        ] {
            assert!(accepts(good), "{good}");
        }
        for bad in
            ["", "GPL-3.0", "MIT AND AGPL-3.0", "BUSL-1.1", "MIT OR", "(MIT", "GPL-2.0 WITH x"]
        {
            assert!(!accepts(bad), "{bad}");
        }
    }
}
