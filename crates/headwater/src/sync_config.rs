//! The sync configuration as a file: reading it, checking it, with and without a database.
//!
//! In: a path. Out: its text and findings. Compiling is `hw-expr`'s; this only brings text and
//! catalog to it.

use std::collections::HashMap;
use std::path::Path;

use hw_expr::sync_config::{self, CatalogColumn, CatalogKind, Loaded, SyncConfig, Withheld};
use hw_pg::catalog::{self, Catalog, CatalogTable, Refused};
use hw_pg::error::PgError;
use hw_pg::types::TypeCatalog;
use hw_types::facts::{ColumnFacts, Generated, TableKind};
use hw_types::{Diagnostic, Severity, TablePattern};
use tokio_postgres::Client;

use crate::code;
use crate::config::Config;
use crate::files;

/// A sync configuration's text and the name that messages give to it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct SyncFile {
    /// The path as the user wrote it.
    pub name: String,
    /// Its contents.
    pub text: String,
}

/// Reads the file at `path`.
///
/// - Errors: HW1012 when it cannot be read.
pub fn read(path: &Path) -> Result<SyncFile, Box<Diagnostic>> {
    let name = path.display().to_string();
    match std::fs::read_to_string(path) {
        Ok(text) => Ok(SyncFile { name, text }),
        Err(error) => Err(Box::new(files::unreadable(
            code::SYNC_FILE,
            "the sync configuration",
            path,
            &error,
            "name an existing file with --sync-config or HEADWATER_SYNC_CONFIG",
        ))),
    }
}

/// Reads the configured one, if one is configured.
pub fn configured(config: &Config) -> Result<Option<SyncFile>, Box<Diagnostic>> {
    config.sync_config.as_deref().map(read).transpose()
}

/// The configured one, if there is one that compiles: what is wrong with a file is told where it is read.
pub fn compiled(config: &Config) -> Option<SyncConfig> {
    let file = configured(config).ok()??;
    SyncConfig::load(&file.text, &file.name, None).config
}

/// What `check` says.
#[derive(Debug, Default)]
pub struct Checked {
    /// Errors and warnings, in the order of the file, those about the source's tables last.
    pub findings: Vec<Diagnostic>,
    /// What is no fault, and surprises people all the same.
    pub notes: Vec<String>,
}

/// Everything there is to say about it; with a source also about what it means there.
pub fn check(file: &SyncFile, source: Option<&Source>) -> Checked {
    let known = source.map(|source| source.known.as_slice());
    let Loaded { config, diagnostics } = SyncConfig::load(&file.text, &file.name, known);
    let Some(source) = source else {
        return Checked { findings: diagnostics, notes: notes(config.as_ref()) };
    };
    let mut findings: Vec<Diagnostic> =
        diagnostics.into_iter().map(sync_config::checked_against_source).collect();
    findings.extend(config.iter().flat_map(|config| source.unfit(config)));
    let mut notes = notes(config.as_ref());
    notes.extend(config.iter().flat_map(|config| source.narrowed(config)));
    Checked { findings, notes }
}

/// Everything there is to say about it without a database.
pub fn findings(file: &SyncFile) -> Vec<Diagnostic> {
    check(file, None).findings
}

/// A stream that is not subscribed by default looks empty until the app asks for it.
fn notes(config: Option<&SyncConfig>) -> Vec<String> {
    let definitions = config.map(SyncConfig::definitions).unwrap_or_default();
    definitions
        .iter()
        .filter(|definition| !definition.auto_subscribe)
        .map(|definition| {
            let name = &definition.name;
            format!(
                "stream \"{name}\" is not subscribed by default; the app must call \
                 syncStream('{name}').subscribe(), or the stream says auto_subscribe: true"
            )
        })
        .collect()
}

/// The tables that it reads; none while it does not compile.
pub fn patterns(file: &SyncFile) -> Vec<TablePattern> {
    let config = SyncConfig::load(&file.text, &file.name, None).config;
    config.map(|config| config.tables()).unwrap_or_default()
}

/// What the source has that a configuration can mean.
#[derive(Debug)]
pub struct Source {
    /// For the compiler: names, columns, what the log does not carry.
    known: Vec<sync_config::CatalogTable>,
    /// As the catalog describes them, for what makes a table fit to be replicated.
    catalog: Catalog,
}

impl Source {
    /// Reads everything that one can select from, and the publication, if it exists.
    pub async fn read(client: &Client, publication: &str) -> Result<Source, PgError> {
        let everything = [TablePattern::new("%", "%")];
        let catalog = Catalog::read(client, publication, &everything, &[]).await?;
        let labels = labels(client).await?;
        let known = catalog.tables.iter().map(|CatalogTable { facts, .. }| {
            let types = TypeCatalog::from_facts(&facts.types);
            let columns = facts.columns.iter().map(|column| CatalogColumn {
                withheld: (!catalog.sends(facts, column)).then(|| withheld(column)),
                labels: labels.get(&column.type_oid).cloned().unwrap_or_default(),
                ..CatalogColumn::new(&column.name, types.resolve(column.type_oid))
            });
            sync_config::CatalogTable {
                name: facts.name.clone(),
                kind: kind(facts.kind),
                columns: columns.collect(),
            }
        });
        Ok(Source { known: known.collect(), catalog })
    }

    /// The tables that the configuration reads and that cannot be replicated, each once.
    ///
    /// What is no table at all has its finding at the place where it is named.
    fn unfit(&self, config: &SyncConfig) -> Vec<Diagnostic> {
        let resolved = catalog::resolve(&self.catalog, &config.tables());
        let tables = resolved.refused.into_iter().filter_map(|Refused { table, finding }| {
            let table = self.catalog.table(table.as_ref()?)?;
            (kind(table.facts.kind) == CatalogKind::Table).then_some((&table.facts.name, finding))
        });
        let mut findings = Vec::new();
        for (name, finding) in tables {
            let readers: Vec<String> = config
                .definitions()
                .iter()
                .filter(|definition| definition.reads_table(name))
                .map(|definition| format!("\"{}\"", definition.name))
                .collect();
            let place = format!("table {name}, read by {}", readers.join(", "));
            let finding = match finding.code.0 {
                // The same for every table.
                catalog::code::NO_PUBLICATION => {
                    Diagnostic { context: None, ..of_this_role(finding) }
                }
                catalog::code::NOT_PUBLISHED => of_this_role(finding.at(place)),
                _ => finding.at(place),
            };
            if !findings.contains(&finding) {
                findings.push(finding);
            }
        }
        findings
    }

    /// What a publication that somebody narrowed keeps from clients of the tables that are read.
    fn narrowed(&self, config: &SyncConfig) -> Vec<String> {
        let resolved = catalog::resolve(&self.catalog, &config.tables());
        let tables = resolved.tables.iter().filter_map(|id| self.catalog.table_by_id(*id));
        tables.filter_map(|table| catalog::narrowed(&table.facts)).collect()
    }
}

/// A warning for what this role may not do: `serve` may have another one than whoever checks.
fn of_this_role(finding: Diagnostic) -> Diagnostic {
    Diagnostic { severity: Severity::Warning, ..finding }
}

/// Why the log does not carry a column.
fn withheld(column: &ColumnFacts) -> Withheld {
    match column.generated {
        Generated::No => Withheld::Unpublished,
        Generated::Stored | Generated::Virtual => Withheld::Generated,
    }
}

fn kind(kind: TableKind) -> CatalogKind {
    match kind {
        TableKind::Ordinary | TableKind::Partitioned => CatalogKind::Table,
        TableKind::View => CatalogKind::Other("a view"),
        TableKind::MaterializedView => CatalogKind::Other("a materialized view"),
        TableKind::Foreign => CatalogKind::Other("a foreign table"),
        TableKind::Other => CatalogKind::Other("not a table"),
    }
}

/// The labels of every enum, and of every domain over one, by the oid of the type.
async fn labels(client: &Client) -> Result<HashMap<u32, Vec<String>>, PgError> {
    const QUERY: &str = "
        WITH RECURSIVE type(oid, base) AS (
          SELECT oid, oid FROM pg_catalog.pg_type WHERE typtype = 'e'
          UNION ALL
          SELECT d.oid, type.base FROM type
          JOIN pg_catalog.pg_type d ON d.typtype = 'd' AND d.typbasetype = type.oid)
        SELECT type.oid, pg_catalog.array_agg(e.enumlabel::text ORDER BY e.enumsortorder)
        FROM type JOIN pg_catalog.pg_enum e ON e.enumtypid = type.base GROUP BY type.oid";
    let mut labels = HashMap::new();
    for row in client.query(QUERY, &[]).await? {
        labels.insert(row.try_get(0)?, row.try_get(1)?);
    }
    Ok(labels)
}
