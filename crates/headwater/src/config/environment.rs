//! Variables that look like ours and that nobody reads: a misspelt one changes nothing, silently.
//!
//! In: the names that are set and those that were asked for. Out: a warning for each that was not.
//! Invariants: a value is never looked at further than for what an orchestrator writes; what the
//! tools of this repository read for themselves is passed over.

use std::collections::BTreeSet;

use hw_types::Diagnostic;

use super::CONFIG_VARIABLE;
use super::settings::SETTINGS;
use super::suggest::nearest;
use crate::code;

const PREFIX: &str = "HEADWATER_";

/// What scripts, tests and measurements of this repository read.
const OF_TOOLS: [&str; 14] = [
    "HEADWATER_BIN",
    "HEADWATER_BROWSER",
    "HEADWATER_DISTURB",
    "HEADWATER_FAILPOINT",
    "HEADWATER_FIRST_SEED",
    "HEADWATER_IHP_DATASYNC",
    "HEADWATER_OFFLINE",
    "HEADWATER_PLAN",
    "HEADWATER_ROOT",
    "HEADWATER_SEED",
    "HEADWATER_SEEDS",
    "HEADWATER_SHRINK",
    "HEADWATER_SOAK",
    "HEADWATER_WRITE_PAGES",
];

/// Tests have more of their own.
const OF_TESTS: &str = "HEADWATER_TEST";

/// Whether somebody reads a variable of this name: a setting, or a tool of this repository.
pub fn is_known(name: &str) -> bool {
    name == CONFIG_VARIABLE
        || SETTINGS.iter().any(|setting| setting.env == Some(name))
        || OF_TOOLS.contains(&name)
        || name.starts_with(OF_TESTS)
}

/// Warnings about the variables of this process that begin like ours and that nobody has asked for.
///
/// - Takes: the names that were asked for while the configuration was loaded, those behind `!env`
///   in the file among them.
pub fn unread(asked: &BTreeSet<String>) -> Vec<Diagnostic> {
    let set = std::env::vars_os().filter_map(|(name, value)| {
        Some((name.into_string().ok()?, value.to_string_lossy().into_owned()))
    });
    unread_of(set, asked)
}

fn unread_of(
    set: impl Iterator<Item = (String, String)>,
    asked: &BTreeSet<String>,
) -> Vec<Diagnostic> {
    let mut names: Vec<String> = set
        .filter(|(name, value)| {
            let ours = name.strip_prefix(PREFIX);
            ours.is_some_and(|rest| !is_of_a_service(rest, value))
        })
        .map(|(name, _)| name)
        .filter(|name| !asked.contains(name) && !is_known(name))
        .collect();
    names.sort();
    names.iter().map(|name| warning(name)).collect()
}

/// Whether it is one that Kubernetes and Docker set in containers beside a service called
/// `headwater`: its host and port, and the parts of its ports (`PORT=tcp://10.0.0.7:80`).
fn is_of_a_service(rest: &str, value: &str) -> bool {
    let of_a_port = ["_TCP", "_UDP", "_SCTP"].iter().any(|part| rest.contains(part));
    rest.ends_with("SERVICE_HOST")
        || rest.contains("SERVICE_PORT")
        || (rest.contains("PORT_") && of_a_port)
        || (rest.ends_with("PORT") && value.contains("://"))
}

fn warning(name: &str) -> Diagnostic {
    // Compared without what all begin with, which would make any two of them alike.
    let names = || SETTINGS.iter().filter_map(|setting| setting.env).chain([CONFIG_VARIABLE]);
    let near = nearest(bare(name), names().map(bare));
    let near = near.and_then(|near| names().find(|name| bare(name) == near));
    let what = format!("environment variable {name} is none that Headwater reads");
    Diagnostic::warning(code::ENVIRONMENT_NAME, what).mend(match near {
        Some(near) => format!("did you mean {near}? docs/configuration.md has all of them"),
        None => "unset it; docs/configuration.md has all that there are".to_owned(),
    })
}

fn bare(name: &str) -> &str {
    name.strip_prefix(PREFIX).unwrap_or(name)
}

#[cfg(test)]
mod tests {
    use super::*;

    /// Names are put together, so that whoever looks for all of them does not find these.
    fn told(names: &[(&str, &str)], asked: &[&str]) -> Vec<String> {
        let ours = |name: &str| format!("{PREFIX}{name}");
        let set = names.iter().map(|(name, value)| (ours(name), (*value).to_owned()));
        let asked = asked.iter().map(|name| ours(name)).collect();
        unread_of(set, &asked).iter().map(ToString::to_string).collect()
    }

    #[test]
    fn a_misspelt_variable_is_named_with_the_one_that_was_meant() {
        let told = told(&[("SYNC_CONFG", "x"), ("DATABASE_URL", "x"), ("COLOUR", "x")], &[]);
        assert_eq!(told.len(), 3, "{told:?}");
        assert!(told[0].starts_with("warning[HW1008]") && told[0].contains("COLOUR"), "{told:?}");
        assert!(told[0].contains("unset it"), "{told:?}");
        assert!(told[1].contains("did you mean DATABASE_URL?"), "{told:?}");
        assert!(told[2].contains(&format!("did you mean {PREFIX}SYNC_CONFIG?")), "{told:?}");
    }

    #[test]
    fn what_somebody_reads_or_an_orchestrator_sets_is_passed_over() {
        let known = [("LISTEN", "x"), ("CONFIG", "x"), ("SEEDS", "1"), ("TEST_MAJOR", "17")];
        assert_eq!(told(&known, &[]), Vec::<String>::new());
        assert_eq!(told(&[("SHOP_URL", "x")], &["SHOP_URL"]), Vec::<String>::new());
        let service = [
            ("SERVICE_HOST", "10.0.0.7"),
            ("SERVICE_PORT", "80"),
            ("SERVICE_PORT_HTTP", "80"),
            ("PORT", "tcp://10.0.0.7:80"),
            ("PORT_80_TCP_ADDR", "10.0.0.7"),
            ("ADMIN_SERVICE_HOST", "10.0.0.8"),
            ("ADMIN_PORT_9090_TCP", "tcp://10.0.0.8:9090"),
        ];
        assert_eq!(told(&service, &[]), Vec::<String>::new());
        assert_eq!(told(&[("PORT", "8080")], &[]).len(), 1);
    }
}
