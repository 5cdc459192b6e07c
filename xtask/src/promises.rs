//! Whether the tests that `docs/promises.md` names exist and run, and every promise names one.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::workspace::files;

const PAGE: &str = "docs/promises.md";

/// The invariants of the engine, each of which has a row.
const INVARIANTS: std::ops::RangeInclusive<u32> = 1..=11;

/// What there is under a name: nothing to say against it, or why it may not run.
type Known = BTreeMap<String, Option<String>>;

/// Checks every row of the page's tables: `| E-1 | what | tests |`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let page = fs::read_to_string(root.join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))?;
    let mut known = Known::new();
    for file in files(&root.join("crates"), "rs") {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        known.extend(tests(&text));
    }
    for file in files(&root.join("conformance/tests"), "js") {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        let name = file.file_name().and_then(|name| name.to_str()).unwrap_or_default();
        known.insert(name.to_owned(), skipped_in_javascript(&text));
    }
    Ok(findings(&page, &known))
}

/// The functions behind a test attribute, each with what keeps it from running.
fn tests(text: &str) -> Known {
    let mut known = Known::new();
    let (mut test, mut kept_out) = (false, None);
    let mut rest = text;
    while let Some((line, behind)) =
        rest.split_once('\n').or((!rest.is_empty()).then_some((rest, "")))
    {
        let trimmed = line.trim();
        if trimmed.starts_with("#[") {
            test |= trimmed.starts_with("#[test]") || trimmed.starts_with("#[tokio::test");
            if trimmed.starts_with("#[ignore") {
                kept_out = Some("it is ignored".to_owned());
            } else if trimmed.starts_with("#[cfg(") {
                kept_out = Some(format!("it is compiled only under {trimmed}"));
            }
        } else if let Some((_, name)) = trimmed.split_once("fn ").filter(|_| test) {
            let name = name.split('(').next().unwrap_or_default().to_owned();
            let indent = &line[..line.len() - line.trim_start().len()];
            let end = format!("\n{indent}}}");
            let body = match trimmed.ends_with('}') {
                true => trimmed,
                false => behind.split_once(&end).map_or(behind, |(body, _)| body),
            };
            known.insert(name, kept_out.take().or_else(|| leaves_early(body)));
            test = false;
        } else if !trimmed.starts_with("//") && !trimmed.is_empty() {
            (test, kept_out) = (false, None);
        }
        rest = behind;
    }
    known
}

/// A test that returns before its end passes without having tried anything. What it needs and may
/// not find it asks for with `hw_testkit::needs!`, which fails where every test must run.
fn leaves_early(body: &str) -> Option<String> {
    let leaves = body.lines().filter(|line| !line.trim_start().starts_with("//")).any(|line| {
        let mut words = line.split(|c: char| !(c.is_alphanumeric() || c == '_'));
        words.any(|word| word == "return")
            && (line.contains("return;") || line.contains("return }"))
    });
    leaves.then(|| "it may return without having tried anything: use hw_testkit::needs!".to_owned())
}

fn skipped_in_javascript(text: &str) -> Option<String> {
    let marks = [".skip(", ".only(", "skip:", ".todo("];
    let mark = marks.into_iter().find(|mark| text.contains(mark))?;
    Some(format!("{} in it keeps tests from running", mark.trim_matches(['(', ':'])))
}

fn findings(page: &str, known: &Known) -> Vec<String> {
    let mut findings = Vec::new();
    let mut seen = BTreeSet::new();
    for (index, line) in page.lines().enumerate() {
        let cells: Vec<&str> = line.split('|').map(str::trim).collect();
        let [_, number, _, tests, _] = cells[..] else { continue };
        if !number.starts_with("E-") && !number.starts_with("F-") {
            continue;
        }
        if !seen.insert(number.to_owned()) {
            findings.push(format!("{PAGE}:{}: {number} has two rows", index + 1));
        }
        let named: Vec<&str> = tests.split('`').skip(1).step_by(2).collect();
        if named.is_empty() {
            findings.push(format!("{PAGE}:{}: {number} names no test", index + 1));
        }
        for name in named {
            match known.get(name) {
                None => findings.push(format!("{PAGE}:{}: no test {name}", index + 1)),
                Some(None) => {}
                Some(Some(why)) => findings.push(format!("{PAGE}:{}: {name}: {why}", index + 1)),
            }
        }
    }
    for number in INVARIANTS.map(|n| format!("E-{n}")).filter(|number| !seen.contains(number)) {
        findings.push(format!("{PAGE}: no row for {number}"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_row_without_a_test_or_with_one_that_is_gone_is_a_finding() {
        let known = Known::from([
            ("here".to_owned(), None),
            ("idle".to_owned(), Some("it is ignored".to_owned())),
        ]);
        let rows: String = INVARIANTS.map(|n| format!("| E-{n} | what | `here` |\n")).collect();
        assert_eq!(findings(&rows, &known), Vec::<String>::new());
        let found = |row: &str| findings(&format!("{rows}{row}\n"), &known);
        assert_eq!(found("| F-1 | what | `gone` |"), ["docs/promises.md:12: no test gone"]);
        assert_eq!(
            found("| F-1 | what | `here`, `idle` |"),
            ["docs/promises.md:12: idle: it is ignored"]
        );
        assert_eq!(found("| F-1 | what | none |"), ["docs/promises.md:12: F-1 names no test"]);
        assert_eq!(found("| E-1 | what | `here` |"), ["docs/promises.md:12: E-1 has two rows"]);
        let short = rows.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert_eq!(findings(&short, &known), ["docs/promises.md: no row for E-1"]);
    }

    #[test]
    fn a_test_that_does_not_try_is_told_from_one_that_does() {
        let text = "    #[test]\n    fn tries() {\n        let x = || return 3;\n    }\n\n\
                    #[test]\n#[ignore = \"later\"]\nfn ignored() {\n}\n\n\
                    #[cfg(unix)]\n#[tokio::test]\nasync fn only_here() {\n}\n\n\
                    /// Words.\n#[tokio::test(flavor = \"x\")]\n// Why.\nasync fn leaves() {\n    \
                    let Some(a) = b() else { return };\n}\n\n\
                    fn helper() {\n    return;\n}\n";
        let known = tests(text);
        let why = |name: &str| known[name].as_deref().unwrap_or("runs");
        assert_eq!(why("tries"), "runs");
        assert_eq!(why("ignored"), "it is ignored");
        assert_eq!(why("only_here"), "it is compiled only under #[cfg(unix)]");
        assert!(why("leaves").starts_with("it may return"));
        assert!(!known.contains_key("helper"));
        assert!(skipped_in_javascript("test.skip('x')").is_some());
        assert_eq!(skipped_in_javascript("test('x')"), None);
    }
}
