//! Whether whoever reads an ERROR in the log is told its code and how to mend it (docs/operations.md).

use std::fs;
use std::path::Path;

use crate::workspace::{files, relative};

const CALL: &str = "tracing::error!(";

/// What is reached in tests only.
const OF_TESTS: &[&str] = &["crates/hw-process/src/failpoint.rs"];

/// Checks every event of level ERROR that the crates log.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    for file in files(&root.join("crates"), "rs") {
        let name = relative(root, &file);
        if !name.contains("/src/") || OF_TESTS.contains(&&*name) {
            continue;
        }
        let text = fs::read_to_string(&file).map_err(|error| format!("{name}: {error}"))?;
        let code = text.split("#[cfg(test)]\nmod tests {").next().unwrap_or_default();
        findings.extend(lacking(code).map(|line| {
            format!("{name}:{line}: an ERROR without `code` and `mend`; log a Diagnostic")
        }));
    }
    Ok(findings)
}

/// The lines of calls that lack one of both.
fn lacking(text: &str) -> impl Iterator<Item = usize> + '_ {
    text.match_indices(CALL).filter_map(|(at, _)| {
        let call = text[at..].split(";\n").next().unwrap_or_default();
        let is_whole = call.contains("code") && call.contains("mend");
        (!is_whole).then(|| text[..at].matches('\n').count() + 1)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_without_a_code_or_a_mend_is_found() {
        let text = "a\n  tracing::error!(%error, \"x\");\n  tracing::error!(code = 1, \"x\");\n\
                    tracing::error!(\n  %code,\n  mend = \"y\",\n);\n";
        assert_eq!(lacking(text).collect::<Vec<_>>(), [2, 3]);
    }
}
