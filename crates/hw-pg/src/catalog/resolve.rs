//! Which tables definitions mean, and which of them can be replicated.
//!
//! In: patterns and a [`Catalog`] that was read with them. Out: [`Resolved`]. The one answer for
//! `serve`, `check` and `doctor`: what one of them calls missing, refused or fit, all do.
//!
//! Partitions (`sync-rules.md` 5.3 knows nothing of them): a publication sends the rows of a
//! partition either as its root's or as its own. So a root and a partition of it cannot both be
//! synced: named beside each other, the partition is refused; matched by one wildcard, what the
//! publication sends counts, and the other is part of it.

use super::code;
use super::difference::{followable, under_root, unreadable};
use super::found::CatalogTable;
use super::read::Catalog;
use super::usable::usable;
use crate::statements::{add_statement_of_others, create_statement};
use hw_types::facts::{Actions, Published, TableFacts, TableKind};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, RelationId, TableName, TablePattern};
use std::collections::BTreeSet;

/// A table that is meant and cannot be replicated.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Refused {
    /// The table; of a wildcard that means nothing there is none.
    pub table: Option<TableName>,
    /// Why, and the mend.
    pub finding: Diagnostic,
}

impl Refused {
    /// A table and why.
    pub fn new(table: &TableName, finding: Diagnostic) -> Refused {
        Refused { table: Some(table.clone()), finding }
    }
}

/// What patterns come to.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Resolved {
    /// The tables that can be replicated as they are published now.
    pub tables: Vec<RelationId>,
    /// The tables that could be, were they in the publication. Our role may add them, and make it if there
    /// is none.
    pub to_publish: Vec<RelationId>,
    /// Whether the publication must send partitions as their root, and does not.
    pub needs_via_root: bool,
    /// Whether the publication must send every kind of change, and does not.
    pub needs_actions: bool,
    /// Names that mean no table.
    pub missing: Vec<Refused>,
    /// Tables that cannot be replicated; those that our role may not publish are among them.
    pub refused: Vec<Refused>,
}

impl Resolved {
    /// The tables that are published, or that we may publish.
    pub fn within_reach<'a>(
        &'a self,
        catalog: &'a Catalog,
    ) -> impl Iterator<Item = &'a CatalogTable> {
        let table = |id: &RelationId| catalog.table_by_id(*id);
        self.tables.iter().chain(&self.to_publish).filter_map(table)
    }

    /// Every finding.
    pub fn findings(&self) -> impl Iterator<Item = &Diagnostic> {
        self.missing.iter().chain(&self.refused).map(|refused| &refused.finding)
    }
}

/// What is meant, before anything else is asked.
struct Meant<'a> {
    table: &'a CatalogTable,
    /// Whether its whole name was said.
    exact: bool,
}

/// Resolves patterns.
///
/// - Takes: a catalog that was read with these patterns. A publication that is not there will be
///   made by us, if our role may; one that belongs to our role can be mended (`needs_…`,
///   `to_publish`), another one is taken as it is.
pub fn resolve(catalog: &Catalog, patterns: &[TablePattern]) -> Resolved {
    let mut resolved = Resolved::default();
    let mut meant = Vec::new();
    for table in &catalog.tables {
        let name = &table.facts.name;
        let mut of = patterns.iter().filter(|pattern| pattern.matches(name)).peekable();
        if of.peek().is_some() {
            meant.push(Meant { table, exact: of.any(|pattern| !pattern.is_wildcard()) });
        }
    }
    missing(catalog, patterns, &mut resolved);

    let publication = catalog.publication.as_ref();
    let ours = publication.is_none_or(|publication| publication.owned);
    let wanted: BTreeSet<&TableName> = meant.iter().map(|meant| &meant.table.facts.name).collect();
    // A root that only a wildcard means needs not be sent as such where all its leaves are meant.
    let in_leaves = |meant: &Meant<'_>| {
        let facts = &meant.table.facts;
        !meant.exact && facts.leaves.iter().all(|leaf| wanted.contains(&leaf.name))
    };
    let roots: BTreeSet<&TableName> = meant
        .iter()
        .filter(|meant| meant.table.facts.kind == TableKind::Partitioned)
        .filter(|meant| usable(&meant.table.facts).is_ok() && !in_leaves(meant))
        .map(|meant| &meant.table.facts.name)
        .collect();
    let via_root_now = publication.is_none_or(|publication| publication.via_root);
    resolved.needs_via_root = ours && !via_root_now && !roots.is_empty();
    let via_root = via_root_now || resolved.needs_via_root;
    resolved.needs_actions =
        ours && publication.is_some_and(|publication| publication.actions != Actions::ALL);
    let is_unmakable = publication.is_none() && !catalog.may_create;
    // Fit but for the publication that cannot be made.
    let mut unpublished: Vec<&TableFacts> = Vec::new();

    for Meant { table, exact } in &meant {
        let facts = &table.facts;
        if !exact && !matches!(facts.kind, TableKind::Ordinary | TableKind::Partitioned) {
            continue;
        }
        let mut refuse =
            |finding: Diagnostic| resolved.refused.push(Refused::new(&facts.name, finding));
        if let Err(finding) = usable(facts) {
            refuse(finding);
            continue;
        }
        if via_root {
            let listed = match &facts.published {
                Published::Under(root) => Some(root),
                _ => None,
            };
            let root = facts.ancestors.iter().rev().find(|root| wanted.contains(root));
            match (root, listed) {
                // Its rows come with the root's.
                (Some(_), _) if !exact => continue,
                (Some(root), _) => {
                    refuse(beside_root(&facts.name, root));
                    continue;
                }
                (None, Some(root)) => {
                    refuse(under_root(&facts.name, root).at(format!("table {}", facts.name)));
                    continue;
                }
                (None, None) => {}
            }
        } else if facts.kind == TableKind::Partitioned {
            if *exact || !facts.leaves.iter().all(|leaf| wanted.contains(&leaf.name)) {
                refuse(in_partitions(catalog, facts));
            }
            continue;
        }
        let all: Vec<i16> = facts.columns.iter().map(|column| column.number).collect();
        let sent = facts.published.sent();
        let mut findings = unreadable(facts, sent.map_or(&all, |sent| &sent.columns));
        if is_unmakable {
            unpublished.push(facts);
        } else if sent.is_none() && !(ours && facts.owned) {
            let finding = not_permitted(facts);
            findings.push(match (publication, &finding.mend) {
                // The statement needs the publication.
                (None, Some(mend)) => {
                    let first = "start the server, which makes the publication; then, as who may:";
                    let mend = format!("{first} {mend}");
                    finding.mend(mend)
                }
                _ => finding,
            });
        }
        if is_unmakable || !findings.is_empty() {
            let refused = findings.into_iter().map(|finding| Refused::new(&facts.name, finding));
            resolved.refused.extend(refused);
            continue;
        }
        match sent {
            None => resolved.to_publish.push(facts.id),
            // Kinds of change that are left out are mended where the publication is ours.
            Some(_) if resolved.needs_actions => resolved.tables.push(facts.id),
            Some(_) => match followable(facts) {
                Ok(_) => resolved.tables.push(facts.id),
                Err(finding) => resolved.refused.push(Refused::new(&facts.name, finding)),
            },
        }
    }
    if let Some(finding) = no_publication(catalog, &unpublished) {
        resolved.refused.extend(unpublished.iter().map(|TableFacts { name, .. }| {
            Refused::new(name, finding.clone().at(format!("table {name}")))
        }));
    }
    resolved
}

/// The finding for a publication that is not there and that our role may not make. A role that owns the
/// tables lacks one right only, with which it makes it and keeps it right; another one needs it to be made.
fn no_publication(catalog: &Catalog, tables: &[&TableFacts]) -> Option<Diagnostic> {
    let first = tables.first()?;
    let name = &first.publication;
    let what = format!("publication \"{name}\" does not exist and this role may not create it");
    let mend = match tables.iter().all(|table| table.owned) {
        true => {
            let (database, role) = (quote_ident(&catalog.database), quote_ident(&first.role));
            format!("GRANT CREATE ON DATABASE {database} TO {role};")
        }
        false => {
            let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
            create_statement(name, &names)
        }
    };
    Some(Diagnostic::error(code::NO_PUBLICATION, what).mend(mend))
}

/// The finding for a table that is fit, and that our role may not add to the publication.
pub(crate) fn not_permitted(table: &TableFacts) -> Diagnostic {
    let publication = &table.publication;
    let what =
        format!("publication \"{publication}\" lacks {} and this role may not add it", table.name);
    Diagnostic::error(code::NOT_PUBLISHED, what)
        .at(format!("table {}", table.name))
        .mend(add_statement_of_others(publication, &table.name))
}

/// Names and wildcards that mean nothing.
fn missing(catalog: &Catalog, patterns: &[TablePattern], resolved: &mut Resolved) {
    for pattern in patterns {
        let mut of = catalog.tables.iter().filter(|table| pattern.matches(&table.facts.name));
        let found = match pattern.is_wildcard() {
            false => of.next().is_some(),
            true => {
                of.any(|t| matches!(t.facts.kind, TableKind::Ordinary | TableKind::Partitioned))
            }
        };
        if found {
            continue;
        }
        let what = match pattern.is_wildcard() {
            false => format!("there is no table {pattern}"),
            true => format!("no table matches {pattern}"),
        };
        let finding = Diagnostic::error(code::NO_TABLE, what)
            .mend("make it, and it is synced at once; or correct the sync configuration");
        resolved.missing.push(Refused { table: pattern.exact(), finding });
    }
}

fn beside_root(name: &TableName, root: &TableName) -> Diagnostic {
    let what = format!("changes of partition {name} arrive under {root}, which is synced as well");
    Diagnostic::error(code::PARTITION_ROOT, what)
        .at(format!("table {name}"))
        .mend(format!("name either {root} or its partitions"))
}

fn in_partitions(catalog: &Catalog, table: &TableFacts) -> Diagnostic {
    let what = format!("changes of partitioned table {} arrive under its partitions", table.name);
    let publication = catalog.publication.as_ref();
    let publication =
        publication.map_or("…".to_owned(), |p| hw_types::relation::quote_ident(&p.name));
    Diagnostic::error(code::PARTITION_ROOT, what).at(format!("table {}", table.name)).mend(format!(
        "ALTER PUBLICATION {publication} SET (publish_via_partition_root = true); or name the \
         partitions"
    ))
}
