//! The sync configuration as a file: reading it, checking it, with and without a database.
//!
//! In: a path. Out: its text and findings. Compiling is `hw-expr`'s; this only brings text and
//! catalog to it.

use std::path::Path;

use hw_expr::sync_config::{self, CatalogColumn, CatalogTable, SyncConfig};
use hw_pg::catalog::{self, TablePattern};
use hw_pg::error::PgError;
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

/// Everything there is to say about it.
pub fn findings(file: &SyncFile, tables: Option<&[CatalogTable]>) -> Vec<Diagnostic> {
    SyncConfig::load(&file.text, &file.name, tables).diagnostics
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

/// All tables of the source that a person could have meant, with the types of their columns.
pub async fn tables_of(client: &Client) -> Result<Vec<CatalogTable>, PgError> {
    const QUERY: &str = "
        SELECT n.nspname::text, c.relname::text
        FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT LIKE 'pg\\_%'
          AND n.nspname <> 'information_schema'";
    let mut names = Vec::new();
    for row in client.query(QUERY, &[]).await? {
        names.push(TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?));
    }
    if names.is_empty() {
        return Ok(Vec::new());
    }
    let tables = catalog::tables(client, &names).await?;
    let oids: Vec<u32> =
        tables.iter().flat_map(|table| table.columns.iter().map(|c| c.type_oid)).collect();
    let types = TypeCatalog::load(client, &oids).await?;
    let described = tables.into_iter().map(|table| CatalogTable {
        name: table.name,
        columns: table
            .columns
            .into_iter()
            .map(|column| CatalogColumn {
                pg_type: types.resolve(column.type_oid),
                name: column.name,
            })
            .collect(),
    });
    Ok(described.collect())
}
