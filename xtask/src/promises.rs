//! Whether the tests that `docs/promises.md` names exist and run, and every promise names one.

use std::collections::BTreeSet;
use std::fs;
use std::path::Path;

use crate::workspace::files;

const PAGE: &str = "docs/promises.md";

/// The invariants of the engine, each of which has a row.
const INVARIANTS: std::ops::RangeInclusive<u32> = 1..=11;

/// Checks every row of the page's tables: `| E-1 | what | tests |`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let page = fs::read_to_string(root.join(PAGE)).map_err(|error| format!("{PAGE}: {error}"))?;
    let mut known = functions(&root.join("crates"))?;
    for file in files(&root.join("conformance/tests"), "js") {
        known.extend(file.file_name().and_then(|name| name.to_str()).map(str::to_owned));
    }
    Ok(findings(&page, &known))
}

/// The names of all functions behind a test attribute that are run: an ignored one proves nothing.
fn functions(crates: &Path) -> Result<BTreeSet<String>, String> {
    let mut names = BTreeSet::new();
    for file in files(crates, "rs") {
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        names.extend(tests(&text));
    }
    Ok(names)
}

fn tests(text: &str) -> Vec<String> {
    let mut names = Vec::new();
    let (mut test, mut ignored) = (false, false);
    for line in text.lines().map(str::trim) {
        if line.starts_with("#[") {
            test |= line.starts_with("#[test]") || line.starts_with("#[tokio::test");
            ignored |= line.starts_with("#[ignore");
        } else if let Some((_, rest)) = line.split_once("fn ").filter(|_| test) {
            names.extend(rest.split('(').next().filter(|_| !ignored).map(str::to_owned));
            (test, ignored) = (false, false);
        }
    }
    names
}

fn findings(page: &str, known: &BTreeSet<String>) -> Vec<String> {
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
        for name in named.iter().filter(|name| !known.contains(**name)) {
            findings.push(format!("{PAGE}:{}: no test {name}", index + 1));
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
    fn an_ignored_test_proves_nothing() {
        let text = "#[test]\nfn runs() {}\n#[ignore = \"waits: FD-1\"]\n#[tokio::test]\n\
                    async fn waits() {}\nfn helper() {}\n#[test]\nfn runs_too() {}";
        assert_eq!(tests(text), ["runs", "runs_too"]);
    }

    #[test]
    fn a_row_without_a_test_or_with_one_that_is_gone_is_a_finding() {
        let known = BTreeSet::from(["here".to_owned()]);
        let rows: String = INVARIANTS.map(|n| format!("| E-{n} | what | `here` |\n")).collect();
        assert_eq!(findings(&rows, &known), Vec::<String>::new());
        let found = |row: &str| findings(&format!("{rows}{row}\n"), &known);
        assert_eq!(found("| F-1 | what | `gone` |"), ["docs/promises.md:12: no test gone"]);
        assert_eq!(found("| F-1 | what | none |"), ["docs/promises.md:12: F-1 names no test"]);
        assert_eq!(found("| E-1 | what | `here` |"), ["docs/promises.md:12: E-1 has two rows"]);
        let short = rows.lines().skip(1).collect::<Vec<_>>().join("\n");
        assert_eq!(findings(&short, &known), ["docs/promises.md: no row for E-1"]);
    }
}
