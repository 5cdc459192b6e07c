//! The `config:` section: edition and single options. Source: `sync-rules.md` 3.

use crate::datetime::TimeStyle;
use crate::report::{Findings, code};
use crate::routines::JsonRules;
use crate::values::ValueOptions;
use crate::yaml::{Node, NodeKind};
use hw_types::Diagnostic;

/// The options of a configuration, editions resolved.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct SyncOptions {
    /// 1, 2 or 3.
    pub edition: u8,
    /// How date-times are written.
    pub times: TimeStyle,
    /// Whether bucket ids carry a version even where they need not. Headwater always prefixes;
    /// `eval` prints prefixes only if this is set.
    pub versioned_bucket_ids: bool,
    /// How JSON paths and JSON null work.
    pub json: JsonRules,
    /// Whether domains, composites, ranges and arrays of them are decoded.
    pub custom_types: bool,
    /// Whether booleans inside of arrays, composites and ranges are `true` and `false` in the
    /// JSON text, instead of 1 and 0.
    pub nested_booleans: bool,
}

impl SyncOptions {
    /// The defaults of an edition.
    pub fn edition(edition: u8) -> SyncOptions {
        let fixed = edition >= 2;
        SyncOptions {
            edition,
            times: if fixed { TimeStyle::Iso { digits: 6 } } else { TimeStyle::Legacy },
            versioned_bucket_ids: fixed,
            json: if fixed { JsonRules::Fixed } else { JsonRules::Legacy },
            custom_types: fixed,
            nested_booleans: false,
        }
    }

    /// The options that change how cells look.
    pub(crate) fn values(&self) -> ValueOptions {
        ValueOptions {
            times: self.times,
            custom_types: self.custom_types,
            nested_booleans: self.nested_booleans,
        }
    }
}

const KEYS: [&str; 9] = [
    "edition",
    "timestamps_iso8601",
    "versioned_bucket_ids",
    "fixed_json_extract",
    "custom_postgres_types",
    "fixed_booleans_in_json",
    "unstable_sqlite_expression_engine",
    "timestamp_max_precision",
    "storage_version",
];

/// Reads the section; without it, edition 1.
pub fn read(node: Option<&Node>, findings: &mut Findings<'_>) -> SyncOptions {
    let entries: &[(Node, Node)] = match node.map(|n| &n.kind) {
        None => &[],
        Some(NodeKind::Map(entries)) => entries,
        // An empty `config:` counts as absent (17.18).
        Some(_) if node.is_some_and(Node::is_null) => &[],
        Some(_) => {
            let range = node.map_or(0..0, |n| n.range.clone());
            findings.push(Diagnostic::error(code::STRUCTURE, "Expected a map here."), range);
            &[]
        }
    };
    let find = |name: &str| {
        entries.iter().find(|(k, _)| k.scalar().is_some_and(|s| s.text == name)).map(|(_, v)| v)
    };
    super::load::check_keys(entries, &KEYS, "config", findings);
    let error = |findings: &mut Findings<'_>, node: &Node, code: u16, message: &str| {
        findings.push(Diagnostic::error(code, message), node.range.clone());
    };
    let mut options = SyncOptions::edition(1);
    if let Some(node) = find("edition") {
        match node.scalar().and_then(|s| s.as_integer()) {
            Some(edition @ 1..=3) => options = SyncOptions::edition(edition as u8),
            Some(_) => error(findings, node, code::EDITION, "the edition must be 1, 2 or 3"),
            None => error(findings, node, code::STRUCTURE, "must be numeric"),
        }
    }
    let boolean = |name: &str, findings: &mut Findings<'_>| -> Option<bool> {
        let node = find(name)?;
        let value = node.scalar().and_then(|s| s.as_bool());
        if value.is_none() {
            error(findings, node, code::STRUCTURE, "must be a boolean");
        }
        value
    };
    if let Some(iso) = boolean("timestamps_iso8601", findings) {
        options.times = if iso { TimeStyle::Iso { digits: 6 } } else { TimeStyle::Legacy };
    }
    if let Some(versioned) = boolean("versioned_bucket_ids", findings) {
        options.versioned_bucket_ids = versioned;
    }
    if let Some(fixed) = boolean("fixed_json_extract", findings) {
        options.json = if fixed { JsonRules::Fixed } else { JsonRules::Legacy };
    }
    if let Some(custom) = boolean("custom_postgres_types", findings) {
        options.custom_types = custom;
    }
    if let Some(booleans) = boolean("fixed_booleans_in_json", findings) {
        options.nested_booleans = booleans;
    }
    if boolean("unstable_sqlite_expression_engine", findings) == Some(true)
        && let Some(node) = find("unstable_sqlite_expression_engine")
    {
        error(
            findings,
            node,
            code::NOT_YET,
            "unstable_sqlite_expression_engine is not supported by Headwater",
        );
    }
    if let Some(node) = find("timestamp_max_precision") {
        let digits = match node.scalar().map(|s| s.text.as_str()) {
            Some("seconds") => Some(0),
            Some("milliseconds") => Some(3),
            // The source has six digits, so nanoseconds give six as well.
            Some("microseconds" | "nanoseconds") => Some(6),
            _ => None,
        };
        match (digits, options.times) {
            (Some(digits), TimeStyle::Iso { .. }) => options.times = TimeStyle::Iso { digits },
            (Some(_), TimeStyle::Legacy) => error(
                findings,
                node,
                code::EDITION,
                "'timestamp_max_precision' requires 'timestamps_iso8601' to be enabled.",
            ),
            (None, _) => error(
                findings,
                node,
                code::STRUCTURE,
                "Unknown time precision, allowed are seconds, milliseconds, microseconds, \
                 nanoseconds",
            ),
        }
    }
    if let Some(node) = find("storage_version") {
        match node.scalar().and_then(|s| s.as_integer()) {
            // It numbers the other service's stores; ours have versions of their own. 2 and 4 are
            // what that service writes by default.
            Some(2 | 4) => {}
            Some(3) => findings.push(
                Diagnostic::warning(
                    code::IGNORED,
                    "Storage version 3 is unstable, and Headwater's store has versions of its own",
                ),
                node.range.clone(),
            ),
            Some(other @ 1..) => findings.push(
                Diagnostic::warning(
                    code::IGNORED,
                    format!(
                        "Storage version {other} has no effect: Headwater's store has versions of \
                         its own"
                    ),
                ),
                node.range.clone(),
            ),
            Some(other) => error(
                findings,
                node,
                code::STRUCTURE,
                &format!("Storage version {other} is not supported"),
            ),
            None => error(findings, node, code::STRUCTURE, "must be numeric"),
        }
    }
    options
}
