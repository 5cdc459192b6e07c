//! Variants to bucket sources: equal queriers of one stream share buckets, and so do sources of
//! the whole file that put the same rows into the same buckets. It keeps users under the limit of
//! buckets. Source: `sync-rules.md` 10.5.

use super::super::BucketSource;
use super::super::data::DataQuery;
use super::super::load::Loader;
use super::super::querier::{Component, Querier};
use super::variant::Variant;

/// One variant with the query that it belongs to.
pub struct Filled {
    /// The query, its plans not set.
    pub query: DataQuery,
    /// The variant.
    pub variant: Variant,
}

/// A family of buckets before it has a number in the configuration.
struct Family {
    /// N of `name|N`.
    number: usize,
    key: String,
    queries: Vec<DataQuery>,
    querier: Querier,
}

/// Adds the variants of one stream to the configuration. Returns the number of its families.
pub fn add(
    name: &str,
    definition: usize,
    variants: Vec<Filled>,
    loader: &mut Loader<'_, '_>,
) -> usize {
    let mut families: Vec<Family> = Vec::new();
    for (number, Filled { mut query, mut variant }) in variants.into_iter().enumerate() {
        let order = request_order(&variant);
        reorder(&mut variant, &order);
        let querier = Querier {
            definition,
            source: 0,
            priority: None,
            filters: variant.filters,
            components: variant.components,
            parameters: variant.plan.keys.len(),
        };
        let mut key = String::new();
        querier.write_canonical(&mut key);
        query.plans = vec![variant.plan];
        match families.iter_mut().find(|f| f.key == key) {
            None => families.push(Family { number, key, queries: vec![query], querier }),
            Some(family) => {
                let same = |q: &DataQuery| {
                    let head = |q: &DataQuery| {
                        let mut text = String::new();
                        DataQuery { plans: Vec::new(), ..q.clone() }.write_canonical(&mut text);
                        text
                    };
                    head(q) == head(&query)
                };
                // Two ways for one row into one bucket are one query with two plans.
                match family.queries.iter_mut().find(|q| same(q)) {
                    Some(other) => other.plans.append(&mut query.plans),
                    None => family.queries.push(query),
                }
            }
        }
    }
    let count = families.len();
    for family in families {
        place(name, definition, family, loader);
    }
    count
}

/// Adds a family, or joins it with an equal source of the file.
fn place(name: &str, definition: usize, mut family: Family, loader: &mut Loader<'_, '_>) {
    let order = row_order(&family.queries);
    for plan in family.queries.iter_mut().flat_map(|q| &mut q.plans) {
        plan.keys = order.iter().map(|old| plan.keys[*old].clone()).collect();
    }
    renumber(&mut family.querier.components, &order);
    let source = BucketSource {
        name: format!("{name}|{}", family.number),
        fingerprint: [0; 32],
        definition,
        queries: family.queries,
        options: loader.options,
    };
    let text = source.canonical();
    let sources = &mut loader.config.sources;
    family.querier.source = match sources.iter().position(|s| s.canonical() == text) {
        Some(index) => index,
        None => {
            sources.push(source);
            sources.len() - 1
        }
    };
    loader.config.queriers.push(family.querier);
}

/// An order of the parameters that depends only on how a request finds their values, so that
/// variants over different tables with the same querier agree on it.
fn request_order(variant: &Variant) -> Vec<usize> {
    let signature = |parameter: usize| -> (String, String) {
        let mut parts: Vec<String> = Vec::new();
        for component in &variant.components {
            let steps = Component { steps: component.steps.clone(), gives: Vec::new() }.canonical();
            for (_, value) in component.gives.iter().filter(|(p, _)| *p == parameter) {
                parts.push(format!("{steps}{}", value.canonical()));
            }
        }
        parts.sort();
        let key: Vec<String> = variant.plan.keys[parameter].iter().map(|e| e.canonical()).collect();
        (parts.concat(), key.concat())
    };
    let mut order: Vec<usize> = (0..variant.plan.keys.len()).collect();
    order.sort_by_cached_key(|p| signature(*p));
    order
}

/// An order of the parameters that depends only on the rows, so that streams with different
/// queriers but the same rows agree on it.
fn row_order(queries: &[DataQuery]) -> Vec<usize> {
    let count = queries.iter().flat_map(|q| &q.plans).map(|p| p.keys.len()).next().unwrap_or(0);
    let signature = |parameter: usize| -> Vec<String> {
        let plans = queries.iter().flat_map(|q| q.plans.iter().map(move |p| (q, p)));
        let mut parts: Vec<String> = plans
            .map(|(query, plan)| {
                let keys: Vec<String> =
                    plan.keys[parameter].iter().map(|e| e.canonical()).collect();
                format!("{} {}", query.table, keys.concat())
            })
            .collect();
        parts.sort();
        parts
    };
    let mut order: Vec<usize> = (0..count).collect();
    order.sort_by_cached_key(|p| signature(*p));
    order
}

fn reorder(variant: &mut Variant, order: &[usize]) {
    variant.plan.keys = order.iter().map(|old| variant.plan.keys[*old].clone()).collect();
    renumber(&mut variant.components, order);
}

fn renumber(components: &mut [Component], order: &[usize]) {
    for (parameter, _) in components.iter_mut().flat_map(|c| &mut c.gives) {
        *parameter = order.iter().position(|old| old == parameter).unwrap_or(*parameter);
    }
    for component in components {
        component.gives.sort_by_cached_key(|(parameter, value)| (*parameter, value.canonical()));
    }
}
