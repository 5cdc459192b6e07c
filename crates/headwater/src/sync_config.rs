//! The sync configuration as a file: reading it, checking it, with and without a database.
//!
//! In: a path. Out: its text and findings. Compiling is `hw-expr`'s; this only brings text and
//! catalog to it.

use std::collections::HashMap;
use std::path::Path;

use hw_expr::sync_config::{
    self, CatalogColumn, CatalogKind, CatalogTable, Loaded, SyncConfig, Withheld,
};
use hw_pg::catalog::{self, TableKind, TablePattern};
use hw_pg::error::PgError;
use hw_pg::publication::{Publication, PublishedTable};
use hw_pg::types::TypeCatalog;
use hw_types::{Diagnostic, TableName};
use tokio_postgres::Client;

use crate::code;
use crate::config::Config;

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
        Err(error) => Err(Box::new(
            Diagnostic::error(
                code::SYNC_FILE,
                format!("cannot read the sync configuration: {error}"),
            )
            .at(format!("file {name}"))
            .mend("name an existing file with --sync-config or HEADWATER_SYNC_CONFIG"),
        )),
    }
}

/// Reads the configured one, if one is configured.
pub fn configured(config: &Config) -> Result<Option<SyncFile>, Box<Diagnostic>> {
    config.sync_config.as_deref().map(read).transpose()
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
    Checked { findings, notes: notes(config.as_ref()) }
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

/// The tables that it reads, as the catalog asks for them; none while it does not compile.
///
/// A pattern of schemas stands for tables that cannot be asked for one by one; it is left out.
pub fn patterns(file: &SyncFile) -> Vec<TablePattern> {
    let config = SyncConfig::load(&file.text, &file.name, None).config;
    let wanted = config.map(|config| config.tables()).unwrap_or_default();
    wanted.iter().filter(|pattern| !pattern.schema.wildcard).map(pattern_of).collect()
}

fn pattern_of(pattern: &sync_config::TablePattern) -> TablePattern {
    TablePattern {
        schema: pattern.schema.text.clone(),
        name: pattern.table.text.clone(),
        prefix: pattern.table.wildcard,
    }
}

/// What the source has that a configuration can mean.
#[derive(Debug)]
pub struct Source {
    /// For the compiler: names, columns, what the log does not carry.
    known: Vec<CatalogTable>,
    /// As the catalog describes them, for what makes a table fit to be replicated.
    described: Vec<catalog::CatalogTable>,
    publication: Option<Publication>,
}

impl Source {
    /// Reads everything that one can select from, and the publication, if it exists.
    pub async fn read(client: &Client, publication: &str) -> Result<Source, PgError> {
        const QUERY: &str = "
            SELECT n.nspname::text, c.relname::text
            FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND n.nspname NOT LIKE 'pg\\_%'
              AND n.nspname <> 'information_schema'";
        let mut names = Vec::new();
        for row in client.query(QUERY, &[]).await? {
            names.push(TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?));
        }
        let publication = Publication::read(client, publication).await?;
        let described = match names.as_slice() {
            [] => Vec::new(),
            names => catalog::tables(client, names).await?,
        };
        let oids: Vec<u32> =
            described.iter().flat_map(|table| table.columns.iter().map(|c| c.type_oid)).collect();
        let types = TypeCatalog::load(client, &oids).await?;
        let labels = labels(client).await?;
        let known = described.iter().map(|table| {
            let sent = publication.as_ref().and_then(|publication| publication.table(&table.name));
            let columns = table.columns.iter().map(|column| CatalogColumn {
                withheld: withheld(column, sent),
                labels: labels.get(&column.type_oid).cloned().unwrap_or_default(),
                ..CatalogColumn::new(&column.name, types.resolve(column.type_oid))
            });
            CatalogTable {
                name: table.name.clone(),
                kind: kind(table.kind),
                columns: columns.collect(),
            }
        });
        Ok(Source { known: known.collect(), described, publication })
    }

    /// The tables that the configuration reads and that cannot be replicated, each once.
    ///
    /// What is no table at all has its finding at the place where it is named.
    fn unfit(&self, config: &SyncConfig) -> Vec<Diagnostic> {
        let mut findings = Vec::new();
        for table in &self.described {
            let readers: Vec<String> = config
                .definitions()
                .iter()
                .filter(|d| d.tables.iter().any(|pattern| pattern.matches(&table.name)))
                .map(|definition| format!("\"{}\"", definition.name))
                .collect();
            if readers.is_empty() || kind(table.kind) != CatalogKind::Table {
                continue;
            }
            let sent =
                self.publication.as_ref().and_then(|publication| publication.table(&table.name));
            let published = sent.map(|sent| sent.columns.as_slice());
            if let Err(finding) = catalog::usable(table, published) {
                let place = format!("table {}, read by {}", table.name, readers.join(", "));
                findings.push(finding.at(place));
            }
        }
        findings
    }
}

/// Why the log does not carry a column.
fn withheld(column: &catalog::CatalogColumn, sent: Option<&PublishedTable>) -> Option<Withheld> {
    match sent {
        Some(sent) if sent.columns.contains(&column.name) => None,
        _ if column.generated => Some(Withheld::Generated),
        Some(_) => Some(Withheld::Unpublished),
        None => None,
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
