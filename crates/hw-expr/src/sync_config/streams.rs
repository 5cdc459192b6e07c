//! `streams`: one SELECT says which rows are synced and to whom.
//!
//! WHERE is split into conjunctions ([`conjunct`]); each becomes one family of buckets with a
//! querier ([`variant`]); equal ones are merged ([`merge`]). Edition 2 (alpha) streams go the
//! same way with the expressions and stars of bucket definitions. Source: `sync-rules.md` 10, 11.

mod conjunct;
mod merge;
mod predicate;
mod query;
mod scope;
mod variant;

use super::DefinitionKind;
use super::load::{Loader, check_keys, displaced, find};
use crate::report::{Origin, Problem, code};
use crate::routines::Dialect;
use crate::sql::{Place, parse};
use crate::yaml::{Node, NodeKind};
use hw_types::Diagnostic;
use scope::{Cte, Scope};

/// The keys of a stream.
const KEYS: [&str; 6] = [
    "query",
    "queries",
    "with",
    "auto_subscribe",
    "priority",
    "accept_potentially_dangerous_queries",
];

/// Most families of buckets of one stream.
const MAX_SOURCES: usize = 100;

/// Compiles the `streams` map into the configuration; `with` are the common table expressions
/// of the whole file.
pub fn compile(node: &Node, with: Option<&Node>, loader: &mut Loader<'_, '_>) {
    let dialect = match loader.options.edition {
        1 => {
            return loader.error(
                node,
                code::EDITION,
                "Sync streams require edition 2 or later. Set config: edition: 3.",
            );
        }
        2 => {
            let warning = "This is using an alpha version of Sync Streams. Set config: edition: 3.";
            loader.findings.push(Diagnostic::warning(code::EDITION, warning), node.range.clone());
            Dialect::Alpha
        }
        _ => Dialect::Streams,
    };
    let mut ctes = Ctes::default();
    if let Some(with) = with {
        ctes.read(with, "with", dialect, loader);
    }
    let entries = loader.map(node);
    for (index, (key, value)) in entries.iter().enumerate() {
        let Some(name) = loader.scalar(key).map(|s| s.text.clone()) else { continue };
        if displaced(entries, index, &KEYS, "streams", loader) {
            continue;
        }
        stream(key, &name, value, dialect, &mut ctes, loader);
    }
    ctes.report_unused(loader);
}

/// The common table expressions of the file, with their keys.
#[derive(Default)]
struct Ctes<'n> {
    list: Vec<Cte>,
    keys: Vec<(&'n Node, bool)>,
}

impl<'n> Ctes<'n> {
    /// Reads a `with:` map. Each expression is compiled once by itself, so that what is wrong
    /// with it is said at its own place.
    fn read(&mut self, node: &'n Node, of: &str, dialect: Dialect, loader: &mut Loader<'_, '_>) {
        if dialect == Dialect::Alpha {
            let message = "Common table expressions require edition 3.";
            return loader.error(node, code::EDITION, message);
        }
        let entries = loader.map(node);
        let named = entries.iter().filter_map(|(key, _)| key.scalar());
        let mut siblings: Vec<String> = named.map(|name| name.text.to_lowercase()).collect();
        siblings.extend(self.list.iter().map(|cte| cte.name.clone()));
        for (key, value) in entries {
            let (Some(name), Some(scalar)) = (loader.scalar(key), loader.scalar(value)) else {
                continue;
            };
            let context = format!("{of}, common table expression \"{}\"", name.text);
            let origin = Origin { scalar, context: &context };
            let mut scope = Scope::new(&scalar.text, dialect, loader, &[]);
            scope.siblings = &siblings;
            let select = parse::statement(&scalar.text).map_err(Problem::from);
            let checked = select.and_then(|select| scope.inline(&select, true).map(|_| select));
            let warnings = std::mem::take(&mut scope.warnings);
            for warning in warnings {
                loader.findings.problem(warning, origin);
            }
            if loader.catalog.table_names().any(|table| table == name.text) {
                let message = "This common table expression shadows the name of a table in the \
                               source schema.";
                let warning = Diagnostic::warning(code::TABLE_EXPRESSION, message);
                loader.findings.push(warning, key.range.clone());
            }
            let select = match checked {
                Ok(select) => Some(select),
                Err(problem) => {
                    self.note_mentioned(&scalar.text);
                    loader.findings.problem(problem, origin);
                    None
                }
            };
            let number = self.keys.len();
            self.keys.push((key, false));
            let name = name.text.to_lowercase();
            self.list.push(Cte { name, select, text: scalar.text.clone(), number });
        }
    }

    /// A refused query was not read to its end: what it mentions may well be used.
    fn note_mentioned(&mut self, text: &str) {
        let text = text.to_lowercase();
        for cte in self.list.iter().filter(|cte| text.contains(&cte.name)) {
            self.keys[cte.number].1 = true;
        }
    }

    fn report_unused(&self, loader: &mut Loader<'_, '_>) {
        for (key, _) in self.keys.iter().filter(|(_, used)| !used) {
            let message = "This common table expression isn't referenced.";
            let warning = Diagnostic::warning(code::TABLE_EXPRESSION, message);
            loader.findings.push(warning, key.range.clone());
        }
    }
}

fn stream<'n>(
    key: &Node,
    name: &str,
    node: &'n Node,
    dialect: Dialect,
    ctes: &mut Ctes<'n>,
    loader: &mut Loader<'_, '_>,
) {
    let Some(definition) = loader.define(key, name, DefinitionKind::Stream) else { return };
    let NodeKind::Map(entries) = &node.kind else {
        let finding = Diagnostic::error(code::STRUCTURE, "Expected a map here.");
        let finding = finding.mend("write query: under the name, and the SELECT behind it");
        let range = if node.is_null() { &key.range } else { &node.range };
        return loader.findings.push(finding.at(format!("stream \"{name}\"")), range.clone());
    };
    let context = format!("stream \"{name}\"");
    check_keys(entries, &KEYS, &context, loader.findings);
    let priority = loader.priority(find(entries, "priority")).unwrap_or(3);
    let auto_subscribe = loader.boolean(find(entries, "auto_subscribe"));
    let accept = loader.boolean(find(entries, "accept_potentially_dangerous_queries"));
    loader.config.definitions[definition].priority = priority;
    loader.config.definitions[definition].auto_subscribe = auto_subscribe;

    let global = ctes.list.len();
    if let Some(with) = find(entries, "with") {
        ctes.read(with, &context, dialect, loader);
    }
    let queries: Vec<&Node> = match (find(entries, "query"), find(entries, "queries")) {
        (Some(query), None) => vec![query],
        (None, Some(queries)) if dialect == Dialect::Streams => {
            loader.sequence(queries).iter().collect()
        }
        (None, Some(queries)) => {
            loader.error(queries, code::EDITION, "'queries' requires edition 3");
            Vec::new()
        }
        (query, _) => {
            let message = "One of `queries` or `query` must be given.";
            loader.error(query.map_or(key, |_| node), code::STRUCTURE, message);
            Vec::new()
        }
    };
    let mut variants = Vec::new();
    for (index, node) in queries.iter().enumerate() {
        let Some(scalar) = loader.scalar(node) else { continue };
        let context = match queries.len() {
            1 => context.clone(),
            _ => format!("{context}, query {}", index + 1),
        };
        let origin = Origin { scalar, context: &context };
        let settings = query::Settings { dialect, accept, auto_subscribe };
        let compiled = query::compile(&scalar.text, settings, &ctes.list, loader, origin);
        for number in compiled.used {
            ctes.keys[number].1 = true;
        }
        match compiled.variants {
            Ok(list) => variants.extend(list),
            Err(problem) => {
                ctes.note_mentioned(&scalar.text);
                loader.findings.problem(problem, origin);
            }
        }
    }
    ctes.list.truncate(global);
    let count = merge::add(name, definition, variants, loader);
    if count > MAX_SOURCES
        && let Some(scalar) = queries.first().and_then(|node| node.scalar())
    {
        let message = format!(
            "This stream defines too many buckets ({count}, at most {MAX_SOURCES} are allowed)."
        );
        let place = Place { start: 0, end: scalar.text.len() as u32 };
        let problem = Problem::error(code::TOO_MANY, message, place)
            .mend("split it into several streams, or use fewer ORs");
        loader.findings.problem(problem, Origin { scalar, context: &context });
    }
}
