//! The tables that the sync configuration reads: there, published, readable, identified.

use std::collections::BTreeSet;

use hw_expr::sync_config::{Definition, SyncConfig};
use hw_pg::catalog::{self, Catalog, CatalogTable, Refused, ServerInfo, code};
use hw_pg::error::PgError;
use hw_types::{Diagnostic, Severity, TableName, TablePattern};
use tokio_postgres::Client;

use super::Examination;

/// Checks them, and the publication with them: what `serve` would find.
///
/// - Takes: the publication's name; the tables; what reads them, if it compiles.
pub async fn check(
    client: &Client,
    server: &ServerInfo,
    (name, patterns, sync): (&str, &[TablePattern], Option<&SyncConfig>),
    examination: &mut Examination,
) -> Result<(), PgError> {
    let catalog = Catalog::read(client, name, patterns, &[]).await?;
    let resolved = catalog::resolve(&catalog, patterns);
    let place = || format!("database \"{}\"", server.database);
    for missing in &resolved.missing {
        // A table may come later.
        let mut finding = missing.finding.clone().at(place());
        finding.severity = Severity::Warning;
        examination.findings.push(finding);
    }
    for finding in resolved.refused.iter().map(|refused| &refused.finding) {
        // What is wrong with the publication is wrong for every table of it.
        if !examination.findings.iter().any(|found| found.what == finding.what) {
            examination.findings.push(finding.clone());
        }
    }
    let is_out_of_reach = |refused: &Refused| {
        [code::NO_PUBLICATION, code::NOT_PUBLISHED].contains(&refused.finding.code.0)
    };
    if !resolved.refused.iter().any(is_out_of_reach) {
        examination.facts.extend(plan(&catalog, &resolved, name));
    }
    let within_reach = resolved.within_reach(&catalog);
    if let Some(sync) = sync {
        let unread = |table: &CatalogTable| unread(&catalog, table, sync);
        examination.findings.extend(within_reach.flat_map(unread));
    }
    let published = resolved.tables.iter().filter_map(|id| catalog.table_by_id(*id));
    examination.facts.extend(published.filter_map(|table| catalog::narrowed(&table.facts)));
    let ids = resolved.tables.iter().chain(&resolved.to_publish);
    let fit: Vec<_> = ids.filter_map(|id| catalog.table_by_id(*id)).collect();
    if !fit.is_empty() {
        let size = size_of(client, &fit).await.map(crate::config::parse::show_bytes);
        examination.facts.push(format!(
            "{} to replicate, {} in the source",
            crate::report::count(fit.len(), "table"),
            size.as_deref().unwrap_or("of unknown size")
        ));
    }
    Ok(())
}

/// Bytes of tables on disk, without indexes. What the catalog notes is of the last VACUUM or ANALYZE, and nothing
/// before the first one.
///
/// - Returns: `None` where somebody's lock keeps them, or they cannot be asked for.
async fn size_of(client: &Client, tables: &[&CatalogTable]) -> Option<u64> {
    const QUERY: &str = "
        SELECT coalesce(pg_catalog.sum(pg_catalog.pg_table_size(oid)), 0)::int8
        FROM pg_catalog.unnest($1::oid[]) AS t(oid)";
    let leaves = tables.iter().flat_map(|table| &table.facts.leaves);
    let oids: Vec<u32> = leaves.map(|leaf| leaf.id.0).collect();
    client.batch_execute("BEGIN READ ONLY; SET LOCAL lock_timeout = '2s'").await.ok()?;
    let size = client.query_one(QUERY, &[&oids]).await;
    client.batch_execute("COMMIT").await.ok()?;
    size.ok()?.try_get::<_, i64>(0).ok()?.try_into().ok()
}

/// The columns of a table that are read and are not there, or do not come.
fn unread(catalog: &Catalog, table: &CatalogTable, sync: &SyncConfig) -> Vec<Diagnostic> {
    let name = &table.facts.name;
    let of_all = |columns: fn(&Definition, &TableName) -> BTreeSet<String>| {
        let definitions = sync.definitions().iter();
        definitions.flat_map(|definition| columns(definition, name)).collect::<BTreeSet<_>>()
    };
    let absent = catalog::absent(&table.facts, &of_all(Definition::required_of));
    let unsent = catalog.unsent(&table.facts, &of_all(Definition::columns_of));
    absent.into_iter().chain(unsent).collect()
}

/// What serve will do about the publication.
fn plan(catalog: &Catalog, resolved: &catalog::Resolved, name: &str) -> Vec<String> {
    let tables = resolved.to_publish.iter().filter_map(|id| catalog.table_by_id(*id));
    let names: Vec<String> = tables.map(|table| table.facts.name.to_string()).collect();
    let mut facts = Vec::new();
    match (&catalog.publication, names.is_empty()) {
        (None, _) => facts.push(format!("publication {name} does not exist yet; serve makes it")),
        (Some(_), true) => {
            facts.push(format!("publication {name} has all tables that are read"));
        }
        (Some(_), false) => {
            facts.push(format!("serve adds to publication {name}: {}", names.join(", ")));
        }
    }
    if resolved.needs_actions || resolved.needs_via_root {
        facts.push(format!("serve sets the options of publication {name} right"));
    }
    facts
}
