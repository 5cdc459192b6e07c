//! Whether the files that our documents name exist.
//!
//! Two things are read: targets of Markdown links that point into the tree, and code spans that look
//! like a path of this repository, which is to say that begin with one of its directories.

use std::fs;
use std::path::Path;

use crate::workspace::{files, relative};

/// Directories of sources. A code span such as `my/sync.yaml` belongs to the reader's project, one
/// that starts with these to ours.
const OURS: &[&str] = &[
    ".ci",
    ".config",
    "bench",
    "conformance",
    "crates",
    "docs",
    "fuzz",
    "packages",
    "scripts",
    "xtask",
];

/// Checks README.md, ARCHITECTURE.md, both of which must exist, and every page of `docs/`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    let mut pages = vec![root.join("README.md"), root.join("ARCHITECTURE.md")];
    pages.extend(files(&root.join("docs"), "md"));
    for page in pages {
        let name = relative(root, &page);
        match fs::read_to_string(&page) {
            Ok(text) => {
                findings.extend(missing(root, &page, &text).map(|one| format!("{name}:{one}")))
            }
            Err(error) => findings.push(format!("{name}: {error}")),
        }
    }
    Ok(findings)
}

/// `LINE: no file PATH` for each path of the page that is not there.
fn missing(root: &Path, page: &Path, text: &str) -> impl Iterator<Item = String> {
    let beside = page.parent().unwrap_or(root).to_path_buf();
    let root = root.to_path_buf();
    let mut findings = Vec::new();
    let mut in_block = false;
    for (index, line) in text.lines().enumerate() {
        if line.trim_start().starts_with("```") {
            in_block = !in_block;
            continue;
        }
        if in_block {
            continue;
        }
        let links = links(line).into_iter().map(|path| (beside.join(&path), path));
        let spans = spans(line).into_iter().map(|path| (root.join(&path), path));
        for (place, path) in links.chain(spans) {
            if !place.exists() {
                findings.push(format!("{}: no file {path}", index + 1));
            }
        }
    }
    findings.into_iter()
}

/// Targets of `[text](target)` within the tree, without their anchors.
fn links(line: &str) -> Vec<String> {
    line.split("](")
        .skip(1)
        .filter_map(|rest| rest.split([')', ' ']).next())
        .map(|target| target.split('#').next().unwrap_or_default())
        .filter(|target| !target.is_empty() && !target.contains(':') && !target.starts_with('/'))
        .map(str::to_owned)
        .collect()
}

/// Code spans that are paths of ours, with `{a,b}` written out.
fn spans(line: &str) -> Vec<String> {
    line.split('`')
        .skip(1)
        .step_by(2)
        .flat_map(|span| {
            let plain = |c: char| c.is_ascii_alphanumeric() || "._-/{},@".contains(c);
            let path = span.split("::").next().unwrap_or(span);
            // `crates/x/src/y.rs:12` and `crates/x/src/y.rs#name` name a place in a file.
            let path = path.split([':', '#']).next().unwrap_or(path);
            let first = path.split('/').next().unwrap_or_default();
            if path.contains('/') && path.chars().all(plain) && OURS.contains(&first) {
                braces(path)
            } else {
                Vec::new()
            }
        })
        .collect()
}

/// `a/{b,c}.rs` as `a/b.rs` and `a/c.rs`.
fn braces(path: &str) -> Vec<String> {
    let Some((head, rest)) = path.split_once('{') else { return vec![path.to_owned()] };
    let Some((choices, tail)) = rest.split_once('}') else { return vec![path.to_owned()] };
    choices.split(',').flat_map(|choice| braces(&format!("{head}{choice}{tail}"))).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_of_this_repository_are_told_from_routes_commands_and_other_projects() {
        let line = "See `crates/hw-pg/src/{slot,copy}.rs`, [the page](docs/a.md#part), `/sync/stream`, \
                    `my/sync.yaml`, `cargo xtask paths`, [web](https://example.org/x), `crates/*/x`.";
        assert_eq!(links(line), ["docs/a.md"]);
        assert_eq!(spans(line), ["crates/hw-pg/src/slot.rs", "crates/hw-pg/src/copy.rs"]);
    }

    #[test]
    fn a_missing_file_is_found_with_its_line() {
        let root = crate::workspace::root();
        let text = "x\n`xtask/src/main.rs` and `xtask/src/none.rs`\n```\n`xtask/none`\n```\n";
        let found: Vec<String> = missing(&root, &root.join("README.md"), text).collect();
        assert_eq!(found, ["2: no file xtask/src/none.rs"]);
    }
}
