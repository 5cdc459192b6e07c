//! Everything that is read from bytes which somebody else chose, or which a disk gave back: one plain
//! function for each decoder, that must return whatever the bytes are.
//!
//! Out: [`TARGETS`]. `fuzz/` gives each of them to libFuzzer (`make fuzz`); `tests/main.rs` runs the
//! corpus and seeded mutations of it every day. Where a decoder has a writer, what it reads is
//! written and read again, and must be the same.

mod network;
mod policy;
mod source;
mod stored;
mod text;
mod tokens;
mod values;

/// A decoder under test.
#[derive(Clone, Copy, Debug)]
pub struct Target {
    /// Its name: that of its corpus, and of its program in `fuzz/`.
    pub name: &'static str,
    /// Reads the bytes; a panic is a finding.
    pub fuzz: fn(&[u8]),
}

/// All of them.
pub const TARGETS: &[Target] = &[
    Target { name: "sync_request", fuzz: network::sync_request },
    Target { name: "upload", fuzz: network::upload },
    Target { name: "datasync_message", fuzz: network::datasync_message },
    Target { name: "token", fuzz: tokens::token },
    Target { name: "claims", fuzz: tokens::claims },
    Target { name: "jwks", fuzz: tokens::jwks },
    Target { name: "replication", fuzz: source::replication },
    Target { name: "pgoutput", fuzz: source::pgoutput },
    Target { name: "copy", fuzz: source::copy },
    Target { name: "marker", fuzz: source::marker },
    Target { name: "binary_value", fuzz: values::binary_value },
    Target { name: "text_value", fuzz: values::text_value },
    Target { name: "canonical_value", fuzz: values::canonical_value },
    Target { name: "row", fuzz: stored::row },
    Target { name: "spooled_change", fuzz: stored::spooled_change },
    Target { name: "segment", fuzz: stored::segment },
    Target { name: "engine_record", fuzz: stored::engine_record },
    Target { name: "sync_config", fuzz: text::sync_config },
    Target { name: "sql", fuzz: text::sql },
    Target { name: "eval_case", fuzz: text::eval_case },
    Target { name: "settings", fuzz: text::settings },
    Target { name: "policy", fuzz: policy::policy },
];

/// Runs the target of this name; for the programs in `fuzz/`.
pub fn run(name: &str, data: &[u8]) {
    let target = TARGETS.iter().find(|target| target.name == name);
    (target.expect("a target of this name").fuzz)(data);
}
