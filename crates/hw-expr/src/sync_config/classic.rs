//! `bucket_definitions`: parameter queries that say which buckets a request has, and data
//! queries that fill them. Source: `sync-rules.md` 9.

mod clause;
mod data_query;
mod parameter_query;
mod scope;

pub use scope::{refused_clause, table_pattern, unknown_column, unknown_table, withheld_in_star};

use super::load::{Loader, check_keys, displaced, find};
use super::querier::{Component, Querier};
use super::{BucketSource, DefinitionKind};
use crate::report::{Origin, Problem, code};
use crate::sql::Place;
use crate::yaml::{Node, NodeKind};
use hw_types::Diagnostic;

/// The keys of a bucket definition.
const KEYS: [&str; 4] = ["parameters", "data", "priority", "accept_potentially_dangerous_queries"];

/// Compiles the `bucket_definitions` map into the configuration.
pub fn compile(node: &Node, loader: &mut Loader<'_, '_>) {
    let entries = loader.map(node);
    for (index, (key, value)) in entries.iter().enumerate() {
        let Some(name) = loader.scalar(key).map(|s| s.text.clone()) else { continue };
        if displaced(entries, index, &KEYS, "bucket_definitions", loader) {
            continue;
        }
        definition(key, &name, value, loader);
    }
}

fn definition(key: &Node, name: &str, node: &Node, loader: &mut Loader<'_, '_>) {
    let NodeKind::Map(entries) = &node.kind else {
        let message = format!("'{name}' bucket definition must be an object");
        let finding = Diagnostic::error(code::STRUCTURE, message);
        let range = if node.is_null() { &key.range } else { &node.range };
        let mend = "write data: under the name, and a list of SELECTs under that";
        return loader.findings.push(finding.mend(mend), range.clone());
    };
    let Some(definition) = loader.define(key, name, DefinitionKind::Classic) else { return };
    let context = format!("bucket \"{name}\"");
    check_keys(entries, &KEYS, &context, loader.findings);
    let priority = loader.priority(find(entries, "priority"));
    loader.config.definitions[definition].priority = priority.unwrap_or(3);
    let accept = loader.boolean(find(entries, "accept_potentially_dangerous_queries"));

    let source = loader.config.sources.len();
    let mut parameters: Option<Vec<String>> = None;
    let nodes: Vec<&Node> = match find(entries, "parameters") {
        None => Vec::new(),
        Some(list) => match &list.kind {
            NodeKind::Sequence(items) if !items.is_empty() => items.iter().collect(),
            NodeKind::Sequence(_) | NodeKind::Map(_) | NodeKind::Alias => {
                loader.error(list, code::STRUCTURE, "'parameters' must be a query or a list");
                Vec::new()
            }
            _ if list.is_null() => {
                loader.error(list, code::STRUCTURE, "'parameters' must be a query or a list");
                Vec::new()
            }
            _ => vec![list],
        },
    };
    for (index, node) in nodes.iter().enumerate() {
        let Some(scalar) = loader.scalar(node) else { continue };
        let context = format!("{context}, parameter query {}", index + 1);
        let origin = Origin { scalar, context: &context };
        let query =
            parameter_query::compile(&scalar.text, priority.is_some(), accept, loader, origin);
        let query = match query {
            Ok(query) => query,
            Err(problem) => {
                loader.findings.problem(problem, origin);
                // Data queries cannot be checked against parameters that are not known.
                parameters.get_or_insert_default();
                continue;
            }
        };
        // The first query decides the order of the parameters in bucket ids.
        let order = parameters.get_or_insert_with(|| query.names.clone());
        let mut sorted = (order.clone(), query.names.clone());
        sorted.0.sort();
        sorted.1.sort();
        if sorted.0 != sorted.1 {
            let message = "Bucket parameters must match for each parameter query within a bucket";
            let whole = Place { start: 0, end: scalar.text.len() as u32 };
            loader.findings.problem(Problem::error(code::PARAMETERS, message, whole), origin);
            continue;
        }
        let mut querier = query.querier;
        querier.definition = definition;
        querier.source = source;
        for component in &mut querier.components {
            for (parameter, _) in &mut component.gives {
                let name = &query.names[*parameter];
                *parameter = order.iter().position(|n| n == name).unwrap_or(0);
            }
        }
        loader.config.queriers.push(querier);
    }
    let parameters = parameters.unwrap_or_else(|| {
        loader.config.queriers.push(Querier {
            definition,
            source,
            priority: None,
            filters: Vec::new(),
            components: vec![Component::default()],
            parameters: 0,
        });
        Vec::new()
    });
    let mut queries = Vec::new();
    match find(entries, "data") {
        None => {
            let finding = Diagnostic::error(code::STRUCTURE, "Missing required keys: data");
            loader.findings.push(finding.at(context.as_str()), key.range.clone());
        }
        Some(list) => {
            for (index, node) in loader.sequence(list).iter().enumerate() {
                let Some(scalar) = loader.scalar(node) else { continue };
                let context = format!("{context}, data query {}", index + 1);
                let origin = Origin { scalar, context: &context };
                match data_query::compile(&scalar.text, &parameters, loader, origin) {
                    Ok(query) => queries.push(query),
                    Err(problem) => loader.findings.problem(problem, origin),
                }
            }
        }
    }
    loader.config.sources.push(BucketSource {
        name: name.to_string(),
        fingerprint: [0; 32],
        definition,
        queries,
        options: loader.options,
    });
}
