//! From the text of a file to a compiled configuration, or to all that is wrong with it.
//!
//! Loading goes on behind an error, so that one run shows everything. Findings about the
//! source's schema are warnings: a compiled configuration never depends on the schema.
//! Source: `sync-rules.md` 2.

use super::lookup::LookupDef;
use super::table::{Catalog, CatalogTable};
use super::{Definition, DefinitionKind, SyncConfig, SyncOptions, classic, options, streams};
use crate::report::{Findings, code, nearest, usual_mend};
use crate::yaml::{self, Node, NodeKind, Scalar};
use hw_types::Diagnostic;

/// What loading gave.
#[derive(Clone, Debug)]
pub struct Loaded {
    /// The configuration, unless an error refuses it.
    pub config: Option<SyncConfig>,
    /// Errors and warnings in the order of the file.
    pub diagnostics: Vec<Diagnostic>,
}

impl SyncConfig {
    /// Compiles a configuration.
    ///
    /// - Takes: the text; the file's name as the user knows it; the source's tables for warnings
    ///   and suggestions, if they are known.
    /// - Returns: the configuration unless something refuses it, and all findings.
    pub fn load(text: &str, file: &str, catalog: Option<&[CatalogTable]>) -> Loaded {
        SyncConfig::load_with_schema(text, file, catalog, "public")
    }

    /// The same with another schema for tables that are written without one.
    pub fn load_with_schema(
        text: &str,
        file: &str,
        catalog: Option<&[CatalogTable]>,
        default_schema: &str,
    ) -> Loaded {
        let mut findings = Findings::new(file, text);
        let config = compile(text, Catalog(catalog), default_schema, &mut findings);
        let config = config.filter(|_| !findings.has_errors());
        Loaded { config, diagnostics: findings.finish() }
    }
}

/// Everything that the compilers of definitions share.
pub struct Loader<'a, 'f> {
    /// What is known about the source.
    pub catalog: Catalog<'a>,
    /// Schema of tables that are written without one.
    pub default_schema: &'a str,
    /// Options in effect.
    pub options: SyncOptions,
    /// The configuration so far.
    pub config: SyncConfig,
    /// The findings so far.
    pub findings: &'a mut Findings<'f>,
}

impl Loader<'_, '_> {
    /// Adds an error at a node.
    pub fn error(&mut self, node: &Node, code: u16, message: impl Into<String>) {
        self.findings.push(Diagnostic::error(code, message), node.range.clone());
    }

    /// The entries of a map; an error for anything else.
    pub fn map<'n>(&mut self, node: &'n Node) -> &'n [(Node, Node)] {
        match &node.kind {
            NodeKind::Map(entries) => entries,
            _ => {
                self.error(node, code::STRUCTURE, "Expected a map here.");
                &[]
            }
        }
    }

    /// The items of a sequence; an error for anything else.
    pub fn sequence<'n>(&mut self, node: &'n Node) -> &'n [Node] {
        match &node.kind {
            NodeKind::Sequence(items) => items,
            _ => {
                self.error(node, code::STRUCTURE, "Expected a sequence here.");
                &[]
            }
        }
    }

    /// A scalar; an error for anything else.
    pub fn scalar<'n>(&mut self, node: &'n Node) -> Option<&'n Scalar> {
        match &node.kind {
            NodeKind::Scalar(scalar) => Some(scalar),
            NodeKind::Alias => {
                self.error(node, code::STRUCTURE, "Expected a scalar value here.");
                None
            }
            _ => {
                self.error(node, code::STRUCTURE, "Expected a scalar here.");
                None
            }
        }
    }

    /// A boolean; an error for anything else.
    pub fn boolean(&mut self, node: Option<&Node>) -> bool {
        let Some(node) = node else { return false };
        match node.scalar().and_then(Scalar::as_bool) {
            Some(value) => value,
            None => {
                let finding = Diagnostic::error(code::STRUCTURE, "must be a boolean");
                self.findings.push(finding.mend("write true or false"), node.range.clone());
                false
            }
        }
    }

    /// A priority; an error for anything else.
    pub fn priority(&mut self, node: Option<&Node>) -> Option<u8> {
        let node = node?;
        match node.scalar().and_then(Scalar::as_integer) {
            Some(priority @ 0..=3) => Some(priority as u8),
            _ => {
                self.error(
                    node,
                    code::PRIORITY,
                    "Invalid priority, expected a number between 0 and 3 (inclusive).",
                );
                None
            }
        }
    }

    /// Adds an index, unless there is an equal one, and returns its number.
    pub fn lookup(&mut self, lookup: LookupDef) -> usize {
        let canonical = |lookup: &LookupDef| {
            let mut out = String::new();
            lookup.write_canonical(&mut out);
            out
        };
        let wanted = canonical(&lookup);
        match self.config.lookups.iter().position(|l| canonical(l) == wanted) {
            Some(index) => index,
            None => {
                self.config.lookups.push(lookup);
                self.config.lookups.len() - 1
            }
        }
    }

    /// Adds a definition, unless its name is taken.
    pub fn define(&mut self, key: &Node, name: &str, kind: DefinitionKind) -> Option<usize> {
        if self.config.definitions.iter().any(|d| d.name == name) {
            self.error(key, code::STRUCTURE, "Duplicate stream or bucket definition.");
            return None;
        }
        self.config.definitions.push(Definition {
            name: name.to_string(),
            kind,
            priority: 3,
            auto_subscribe: kind == DefinitionKind::Classic,
            reads: Vec::new(),
        });
        Some(self.config.definitions.len() - 1)
    }
}

/// The least that a file can say.
const FIRST_STREAM: &str = "begin with: config: {edition: 3}, and streams: with a name, and under \
                            it query: SELECT * FROM …";

/// A definition that is no map: `query:` stands beside its name instead of under it, or the query
/// stands where the map should. One finding for all keys that are displaced together.
///
/// - Returns: whether the entry is dealt with.
pub fn displaced(
    entries: &[(Node, Node)],
    index: usize,
    known: &[&str],
    of: &str,
    loader: &mut Loader<'_, '_>,
) -> bool {
    let (key, value) = &entries[index];
    let belongs = |(key, value): &(Node, Node)| {
        let known = key.scalar().is_some_and(|scalar| known.contains(&scalar.text.as_str()));
        known && !matches!(value.kind, NodeKind::Map(_))
    };
    let text = |node: &Node| node.scalar().map(|scalar| scalar.text.clone()).unwrap_or_default();
    if belongs(&entries[index]) {
        // The first of a run says it for all, if there is a name without a map before it.
        let before = entries[..index].iter().rposition(|entry| !belongs(entry));
        let Some(owner) = before.filter(|owner| entries[*owner].1.is_null()) else { return false };
        if owner + 1 == index {
            let message =
                format!("\"{}\" belongs under \"{}\"", text(key), text(&entries[owner].0));
            let finding = Diagnostic::error(code::STRUCTURE, message).at(of);
            let mend = "indent it further than the name that it belongs to";
            loader.findings.push(finding.mend(mend), key.range.clone());
        }
        return true;
    }
    if value.is_null() && entries.get(index + 1).is_some_and(belongs) {
        return true;
    }
    false
}

/// The value of a key.
pub fn find<'n>(entries: &'n [(Node, Node)], name: &str) -> Option<&'n Node> {
    entries.iter().find(|(key, _)| key.scalar().is_some_and(|s| s.text == name)).map(|(_, v)| v)
}

/// Refuses keys that are not known here.
pub fn check_keys(entries: &[(Node, Node)], known: &[&str], of: &str, findings: &mut Findings<'_>) {
    for (key, _) in entries {
        let Some(scalar) = key.scalar() else {
            let finding = Diagnostic::error(code::STRUCTURE, "Expected a scalar value here.");
            findings.push(finding, key.range.clone());
            continue;
        };
        if known.contains(&scalar.text.as_str()) {
            continue;
        }
        let message = format!("Unknown key '{}'.", scalar.text);
        let mut finding = Diagnostic::error(code::STRUCTURE, message).at(of);
        finding = match nearest(&scalar.text, known.iter().copied()) {
            Some(name) => finding.mend(format!("did you mean \"{name}\"?")),
            None => finding.mend(format!("known keys are {}", known.join(", "))),
        };
        findings.push(finding, key.range.clone());
    }
}

fn compile(
    text: &str,
    catalog: Catalog<'_>,
    default_schema: &str,
    findings: &mut Findings<'_>,
) -> Option<SyncConfig> {
    let root = match yaml::parse(text) {
        Ok(Some(root)) => root,
        Ok(None) => {
            let finding = Diagnostic::error(code::STRUCTURE, "the file is empty");
            findings.push(finding.mend(FIRST_STREAM), 0..0);
            return None;
        }
        Err(error) => {
            let finding = Diagnostic {
                mend: usual_mend(code::YAML).map(str::to_owned),
                ..Diagnostic::error(code::YAML, error.message)
            };
            findings.push(finding, error.at..error.at);
            return None;
        }
    };
    let NodeKind::Map(entries) = &root.kind else {
        if root.is_null() {
            let finding = Diagnostic::error(code::STRUCTURE, "the file is empty");
            findings.push(finding.mend(FIRST_STREAM), root.range);
            return None;
        }
        findings.push(Diagnostic::error(code::STRUCTURE, "Expected a map here."), root.range);
        return None;
    };
    const KEYS: [&str; 5] =
        ["config", "bucket_definitions", "streams", "with", "event_definitions"];
    check_keys(entries, &KEYS, "sync configuration", findings);
    // The finding about the wrong key says it already.
    let misspelt = entries.iter().any(|(key, _)| {
        let key = key.scalar().map_or("", |scalar| &scalar.text);
        !KEYS.contains(&key) && nearest(key, ["streams", "bucket_definitions"]).is_some()
    });
    let options = options::read(find(entries, "config"), findings);
    let config = SyncConfig {
        options,
        definitions: Vec::new(),
        sources: Vec::new(),
        lookups: Vec::new(),
        queriers: Vec::new(),
    };
    let mut loader = Loader { catalog, default_schema, options, config, findings };
    let buckets = find(entries, "bucket_definitions");
    let stream_map = find(entries, "streams");
    if options.edition == 3 {
        if let Some(node) = buckets {
            loader.error(
                node,
                code::EDITION,
                "'bucket_definitions' are not supported by the new compiler. Consider using \
                 https://powersync-community.github.io/bucket-definitions-to-sync-streams/ to \
                 translate them to streams.",
            );
        }
        if stream_map.is_none() && !misspelt {
            let finding = Diagnostic::error(code::STRUCTURE, "'streams' are required.");
            loader.findings.push(finding.mend(FIRST_STREAM), root.range.clone());
        }
    } else if buckets.is_none() && stream_map.is_none() {
        if !misspelt {
            let message = "'bucket_definitions' or 'streams' is required";
            let finding = Diagnostic::error(code::STRUCTURE, message);
            loader.findings.push(finding.mend(FIRST_STREAM), root.range.clone());
        }
    } else if let Some(node) = buckets {
        classic::compile(node, &mut loader);
    }
    if let Some(node) = stream_map {
        streams::compile(node, find(entries, "with"), &mut loader);
    } else if let Some(node) = find(entries, "with") {
        loader.error(node, code::EDITION, "Common table expressions require edition 3.");
    }
    if let Some(node) = find(entries, "event_definitions") {
        loader.error(node, code::NOT_YET, "event_definitions are not supported by Headwater yet");
    }
    let Loader { mut config, .. } = loader;
    config.seal();
    Some(config)
}
