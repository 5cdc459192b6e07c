//! One conjunction to one family of buckets: which rows of the primary table are in which
//! bucket, and how a request finds its buckets.
//!
//! Equalities of the primary row make the bucket's parameters. What stands on their other side is
//! found by the request: directly, from an array, or through parameter indexes, which form chains
//! from the request toward the primary table. Sources that are connected with each other without
//! the primary table and the request form one component of the querier, so that values of one row
//! stay together. Source: `sync-rules.md` 10.4.

use super::super::load::Loader;
use super::super::lookup::LookupDef;
use super::super::names::{Leaf, Name, Tree};
use super::super::plan::{RowName, RowPlan};
use super::super::querier::{Component, QueryName, Step, each_slot};
use super::super::request::Origin;
use super::conjunct::{Conjunct, Home, home_of_source};
use super::scope::Source;
use crate::expr::Expr;
use crate::routines::Routine;
use crate::sql::Place;
use crate::value::SqlValue;
use std::collections::HashMap;

/// A compiled conjunction.
#[derive(Clone, Debug)]
pub struct Variant {
    /// Which rows are in which bucket; keys are the bucket's parameters.
    pub plan: RowPlan,
    /// Request-only conditions.
    pub filters: Vec<Expr<QueryName>>,
    /// How values of the parameters are found.
    pub components: Vec<Component>,
    /// A value that anyone can send decides alone: where it is written.
    pub danger: Option<Place>,
}

/// Compiles a conjunction for the primary table.
pub fn compile(
    conjunct: &Conjunct,
    primary: usize,
    sources: &[Source],
    equals: &'static Routine,
    loader: &mut Loader<'_, '_>,
) -> Variant {
    let mut builder = Builder { conjunct, primary, sources, equals, loader, danger: Vec::new() };
    builder.compile()
}

/// A bucket parameter: an expression of the primary row, and all that it must equal.
struct Key {
    text: String,
    tree: Tree,
    others: Vec<(Home, Tree)>,
}

struct Builder<'b, 'a, 'f> {
    conjunct: &'b Conjunct,
    primary: usize,
    sources: &'b [Source],
    equals: &'static Routine,
    loader: &'b mut Loader<'a, 'f>,
    /// For each parameter, who decides its value.
    danger: Vec<Trust>,
}

/// Who decides a value.
#[derive(Clone, Copy, Debug, Default)]
struct Trust {
    token: bool,
    client: Option<Place>,
}

impl Trust {
    fn of(tree: &Tree) -> Trust {
        let mut trust = Trust::default();
        tree.visit(&mut |leaf| match &leaf.what {
            Name::Request(name) if name.origin == Origin::Token => trust.token = true,
            Name::Request(_) => trust.client = trust.client.or(Some(leaf.place)),
            _ => {}
        });
        trust
    }

    fn and(self, other: Trust) -> Trust {
        Trust { token: self.token || other.token, client: self.client.or(other.client) }
    }
}

/// A component while it is built.
#[derive(Default)]
struct Chain {
    steps: Vec<Step>,
    slots: usize,
    /// First slot of each expanded `json_each`.
    each: HashMap<usize, usize>,
    /// Slot of each output of a table, by the output's text.
    outputs: HashMap<(usize, String), usize>,
    visited: Vec<usize>,
    trust: Trust,
}

impl Builder<'_, '_, '_> {
    fn compile(&mut self) -> Variant {
        let home = Home::Table(self.primary);
        let (each, numbers) = self.row_each(self.primary);
        let filters = self.singles(home).map(|tree| over_row(tree, &numbers)).collect();

        // Parameters: distinct expressions of the primary row, each with what it must equal.
        let mut keys: Vec<Key> = Vec::new();
        for equality in &self.conjunct.equalities {
            let Some((key, other)) = equality.side(home) else { continue };
            let text = key.canonical();
            match keys.iter_mut().find(|k| k.text == text) {
                Some(known) => known.others.push(other.clone()),
                None => keys.push(Key { text, tree: key.clone(), others: vec![other.clone()] }),
            }
        }
        let plan = RowPlan {
            each,
            filters,
            keys: keys.iter().map(|key| vec![over_row(&key.tree, &numbers)]).collect(),
            outputs: Vec::new(),
        };

        self.danger = vec![Trust::default(); keys.len()];
        let mut direct = Component::default();
        let mut components = Vec::new();
        for (parameter, key) in keys.iter().enumerate() {
            for (home, tree) in &key.others {
                if *home == Home::Request {
                    direct.gives.push((parameter, over_request(tree)));
                    self.danger[parameter] = self.danger[parameter].and(Trust::of(tree));
                }
            }
        }
        if !direct.gives.is_empty() {
            components.push(direct);
        }
        for members in self.connected() {
            components.push(self.component(&members, &keys));
        }
        let filters: Vec<&Tree> = self.singles(Home::Request).collect();
        let danger = self.verdict(&filters);
        Variant {
            plan,
            filters: filters.into_iter().map(over_request).collect(),
            components,
            danger,
        }
    }

    /// Whether values that anyone can send decide alone (`sync-rules.md` 10.7).
    fn verdict(&self, filters: &[&Tree]) -> Option<Place> {
        let all = if self.danger.is_empty() {
            filters.iter().map(|tree| Trust::of(tree)).collect()
        } else {
            self.danger.clone()
        };
        let trust = all.into_iter().fold(Trust::default(), Trust::and);
        trust.client.filter(|_| !trust.token)
    }

    fn singles(&self, home: Home) -> impl Iterator<Item = &Tree> {
        self.conjunct.singles.iter().filter(move |(h, _)| *h == home).map(|(_, tree)| tree)
    }

    /// The `json_each` over a table's columns that this conjunction uses: their inputs, and the
    /// number of each in the plan.
    fn row_each(&self, table: usize) -> (Vec<Expr<RowName>>, HashMap<usize, usize>) {
        let mut used: Vec<usize> = Vec::new();
        let mut note = |tree: &Tree| {
            tree.visit(&mut |leaf: &Leaf| {
                if let Name::Each(source, _) = leaf.what
                    && home_of_source(source, self.sources) == Home::Table(table)
                {
                    used.push(source);
                }
            });
        };
        self.conjunct.singles.iter().for_each(|(_, tree)| note(tree));
        for equality in &self.conjunct.equalities {
            note(&equality.left.1);
            note(&equality.right.1);
        }
        // An input may use the elements of an earlier one.
        let mut at = 0;
        while at < used.len() {
            if let Source::Each(input) = &self.sources[used[at]] {
                input.visit(&mut |leaf| {
                    if let Name::Each(source, _) = leaf.what {
                        used.push(source);
                    }
                });
            }
            at += 1;
        }
        used.sort_unstable();
        used.dedup();
        let numbers: HashMap<usize, usize> =
            used.iter().enumerate().map(|(number, source)| (*source, number)).collect();
        let inputs = used
            .iter()
            .filter_map(|source| match &self.sources[*source] {
                Source::Each(input) => Some(over_row(input, &numbers)),
                Source::Table { .. } => None,
            })
            .collect();
        (inputs, numbers)
    }

    /// Groups of sources that are connected without the primary table and the request.
    fn connected(&self) -> Vec<Vec<Home>> {
        let primary = Home::Table(self.primary);
        let mut groups: Vec<Vec<Home>> = Vec::new();
        let mut join = |homes: [Home; 2]| {
            let inner: Vec<Home> =
                homes.into_iter().filter(|h| *h != primary && *h != Home::Request).collect();
            let (mut joined, rest): (Vec<_>, Vec<_>) =
                groups.drain(..).partition(|group| group.iter().any(|h| inner.contains(h)));
            let mut group: Vec<Home> = joined.drain(..).flatten().chain(inner).collect();
            group.sort_unstable();
            group.dedup();
            groups = rest;
            if !group.is_empty() {
                groups.push(group);
            }
        };
        for equality in &self.conjunct.equalities {
            join([equality.left.0, equality.right.0]);
        }
        for (home, _) in &self.conjunct.singles {
            join([*home, *home]);
        }
        groups
    }

    fn component(&mut self, members: &[Home], keys: &[Key]) -> Component {
        let mut chain = Chain::default();
        // Start at a table that the primary row is compared with: what it is reached from comes
        // before it.
        let wanted = |home: &Home| keys.iter().any(|key| key.others.iter().any(|(h, _)| h == home));
        let tables: Vec<usize> = members
            .iter()
            .filter_map(|home| match home {
                Home::Table(table) => Some(*table),
                _ => None,
            })
            .collect();
        let start = tables.iter().find(|t| wanted(&Home::Table(**t))).or(tables.first());
        if let Some(start) = start {
            self.table(*start, &mut chain);
        }
        for home in members {
            if let Home::Each(source) = home {
                self.each(*source, &mut chain);
            }
        }
        for equality in &self.conjunct.equalities {
            // Between two arrays of the request, or an array and a value of the request.
            let side = |home: Home| matches!(home, Home::Each(_) | Home::Request);
            let mine = members.contains(&equality.left.0) || members.contains(&equality.right.0);
            if mine && side(equality.left.0) && side(equality.right.0) {
                let (left, right) = (&equality.left.1, &equality.right.1);
                chain.trust = chain.trust.and(Trust::of(left)).and(Trust::of(right));
                let args = vec![over_slots(left, &chain), over_slots(right, &chain)];
                chain.steps.push(Step::Filter(Expr::Call(self.equals, args)));
            }
        }
        let mut gives = Vec::new();
        for (parameter, key) in keys.iter().enumerate() {
            for (home, tree) in key.others.iter().filter(|(home, _)| members.contains(home)) {
                let value = match home {
                    Home::Table(table) => match chain.outputs.get(&(*table, tree.canonical())) {
                        Some(slot) => Expr::Ref(QueryName::Slot(*slot)),
                        None => Expr::Literal(SqlValue::Null),
                    },
                    _ => over_slots(tree, &chain),
                };
                gives.push((parameter, value));
                self.danger[parameter] = self.danger[parameter].and(chain.trust);
            }
        }
        Component { steps: chain.steps, gives }
    }

    /// Expands an array of the request, once, and applies the conditions on its elements.
    fn each(&mut self, source: usize, chain: &mut Chain) {
        if chain.each.contains_key(&source) {
            return;
        }
        let Source::Each(input) = &self.sources[source] else { return };
        let mut before = Vec::new();
        input.visit(&mut |leaf| before.extend(leaf.what.source()));
        for source in before {
            self.each(source, chain);
        }
        chain.trust = chain.trust.and(Trust::of(input));
        chain.steps.push(Step::Each(over_slots(input, chain)));
        chain.each.insert(source, chain.slots);
        chain.slots += 2;
        let filters: Vec<Tree> = self.singles(Home::Each(source)).cloned().collect();
        for filter in filters {
            chain.steps.push(Step::Filter(over_slots(&filter, chain)));
        }
    }

    /// Looks up a table: first the tables that it is reached from, then its index.
    fn table(&mut self, table: usize, chain: &mut Chain) {
        chain.visited.push(table);
        let home = Home::Table(table);
        for equality in &self.conjunct.equalities {
            match equality.side(home) {
                Some((_, (Home::Table(other), _)))
                    if *other != self.primary && !chain.visited.contains(other) =>
                {
                    self.table(*other, chain);
                }
                Some((_, (Home::Each(source), _))) => self.each(*source, chain),
                _ => {}
            }
        }
        let (each, numbers) = self.row_each(table);
        let mut keys: Vec<(String, Expr<RowName>, Expr<QueryName>)> = Vec::new();
        let mut outputs: Vec<(String, Tree)> = Vec::new();
        for equality in &self.conjunct.equalities {
            let Some((mine, (other_home, other))) = equality.side(home) else { continue };
            let found = match other_home {
                Home::Request => {
                    chain.trust = chain.trust.and(Trust::of(other));
                    Some(over_request(other))
                }
                Home::Each(_) => Some(over_slots(other, chain)),
                Home::Table(source) => chain
                    .outputs
                    .get(&(*source, other.canonical()))
                    .map(|slot| Expr::Ref(QueryName::Slot(*slot))),
            };
            match found {
                Some(value) => {
                    let key = over_row(mine, &numbers);
                    keys.push((format!("{} {}", key.canonical(), value.canonical()), key, value));
                }
                None => outputs.push((mine.canonical(), mine.clone())),
            }
        }
        // One order for equal indexes of different queries.
        keys.sort_by(|a, b| a.0.cmp(&b.0));
        keys.dedup_by(|a, b| a.0 == b.0);
        let mut rows: Vec<(String, Expr<RowName>)> =
            outputs.into_iter().map(|(text, tree)| (text, over_row(&tree, &numbers))).collect();
        rows.sort_by_key(|(_, row)| row.canonical());
        rows.dedup_by_key(|(_, row)| row.canonical());
        let Source::Table { pattern, .. } = &self.sources[table] else { return };
        let lookup = LookupDef {
            fingerprint: [0; 32],
            table: pattern.clone(),
            plans: vec![RowPlan {
                each,
                filters: self.singles(home).map(|tree| over_row(tree, &numbers)).collect(),
                keys: keys.iter().map(|(_, key, _)| vec![key.clone()]).collect(),
                outputs: rows.iter().map(|(_, row)| row.clone()).collect(),
            }],
            options: self.loader.options.values(),
        };
        let lookup = self.loader.lookup(lookup);
        for (offset, (text, _)) in rows.iter().enumerate() {
            chain.outputs.insert((table, text.clone()), chain.slots + offset);
        }
        chain.slots += rows.len();
        let key = keys.into_iter().map(|(.., value)| value).collect();
        chain.steps.push(Step::Lookup { lookup, key, outputs: rows.len() });
    }
}

/// As an expression over one row and the plan's `json_each`.
fn over_row(tree: &Tree, numbers: &HashMap<usize, usize>) -> Expr<RowName> {
    tree.map(&mut |leaf| match &leaf.what {
        Name::Each(source, part) => match numbers.get(source) {
            Some(number) => Expr::Ref(RowName::Each(*number, *part)),
            None => Expr::Literal(SqlValue::Null),
        },
        name => name.row().map_or(Expr::Literal(SqlValue::Null), Expr::Ref),
    })
}

fn over_request(tree: &Tree) -> Expr<QueryName> {
    over_slots(tree, &Chain::default())
}

/// As an expression over the request and the elements that a chain has expanded.
fn over_slots(tree: &Tree, chain: &Chain) -> Expr<QueryName> {
    tree.map(&mut |leaf| match &leaf.what {
        Name::Request(name) => Expr::Ref(QueryName::Request(name.clone())),
        Name::Each(source, part) => match chain.each.get(source) {
            Some(first) => Expr::Ref(QueryName::Slot(each_slot(*first, *part))),
            None => Expr::Literal(SqlValue::Null),
        },
        _ => Expr::Literal(SqlValue::Null),
    })
}
