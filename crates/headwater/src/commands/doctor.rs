//! `headwater doctor`: the checks of [`crate::doctor`], printed.

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
    let (errors, tally) = report::tally(&examination.findings);
    if errors > 0 {
        report::say(&tally);
        return Exit::Negative;
    }
    let warnings = report::count(examination.findings.len(), "warning");
    report::answer(&format!("the source is fit to be served, {warnings}\n"));
    Exit::Done
}
