//! `headwater doctor`: the checks of [`crate::doctor`], printed.

use hw_types::Severity;

use crate::config::Config;
use crate::doctor;
use crate::report::{self, Exit};

/// Examines the source and prints every finding. Exit code 1 when one of them is an error.
pub async fn run(config: &Config) -> Exit {
    let examination = match doctor::examine(config).await {
        Ok(examination) => examination,
        Err(finding) => return super::refuse(*finding),
    };
    report::findings(&examination.findings, &examination.sync_text);
    for fact in &examination.facts {
        report::answer(&format!("{fact}\n"));
    }
    let count = |severity| examination.findings.iter().filter(|f| f.severity == severity).count();
    let (errors, warnings) = (count(Severity::Error), count(Severity::Warning));
    if errors > 0 {
        report::say(&format!("{errors} errors, {warnings} warnings"));
        return Exit::Negative;
    }
    report::answer(&format!("the source is fit to be served, {warnings} warnings\n"));
    Exit::Done
}
