//! The tables that the sync configuration reads: there, published, readable, identified.

use hw_pg::catalog::{self, CatalogTable, ServerInfo, TablePattern, code as pg_code};
use hw_pg::error::PgError;
use hw_pg::publication::{self, Publication};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, TableName};
use tokio_postgres::Client;

use super::Examination;
use super::source::role;
use crate::code;

/// Checks them, and the publication with them.
pub async fn check(
    client: &Client,
    server: &ServerInfo,
    publication: &str,
    patterns: &[TablePattern],
    examination: &mut Examination,
) -> Result<(), PgError> {
    let names = catalog::matching(client, patterns).await?;
    let tables = match names.as_slice() {
        [] => Vec::new(),
        names => catalog::tables(client, names).await?,
    };
    for name in names.iter().filter(|name| !tables.iter().any(|table| table.name == **name)) {
        examination.findings.push(
            Diagnostic::warning(pg_code::NO_TABLE, format!("there is no table {name}"))
                .at(format!("database \"{}\"", server.database))
                .mend("create it, and it is synced at once; or correct the sync configuration"),
        );
    }
    check_publication(client, server, publication, &tables, examination).await?;
    check_access(client, server, &tables, examination).await?;
    if !tables.is_empty() {
        let bytes = tables.iter().map(|table| table.bytes).sum();
        examination.facts.push(format!(
            "{} to replicate, {} in the source",
            crate::report::count(tables.len(), "table"),
            crate::config::parse::show_bytes(bytes)
        ));
    }
    Ok(())
}

async fn check_publication(
    client: &Client,
    server: &ServerInfo,
    name: &str,
    tables: &[CatalogTable],
    examination: &mut Examination,
) -> Result<(), PgError> {
    let Some(found) = Publication::read(client, name).await? else {
        let usable: Vec<TableName> = tables
            .iter()
            .filter_map(|table| match catalog::usable(table, None) {
                Ok(()) => Some(table.name.clone()),
                Err(finding) => {
                    examination.findings.push(finding);
                    None
                }
            })
            .collect();
        if server.may_create && owns_all(client, &usable).await? {
            examination
                .facts
                .push(format!("publication {name} does not exist yet; serve makes it"));
        } else {
            examination.findings.push(
                Diagnostic::error(
                    pg_code::NO_PUBLICATION,
                    format!(
                        "publication \"{name}\" does not exist and role \"{}\" may not create it",
                        server.user
                    ),
                )
                .at(format!("database \"{}\"", server.database))
                .mend(format!(
                    "run as the owner of the tables: {}",
                    publication::create_statement(name, &usable)
                )),
            );
        }
        return Ok(());
    };
    examination.findings.extend(found.findings());
    let mut missing = Vec::new();
    for table in tables {
        match found.covers(table) {
            Ok(true) => {}
            Ok(false) => missing.push(table.name.clone()),
            Err(finding) => examination.findings.push(finding),
        }
    }
    if missing.is_empty() {
        examination.facts.push(format!("publication {name} has all tables that are read"));
    } else if owns_publication(client, name).await? && owns_all(client, &missing).await? {
        let names: Vec<String> = missing.iter().map(TableName::to_string).collect();
        examination.facts.push(format!("serve adds to publication {name}: {}", names.join(", ")));
    } else {
        let names: Vec<String> = missing.iter().map(TableName::to_string).collect();
        examination.findings.push(
            Diagnostic::error(
                pg_code::NOT_PUBLISHED,
                format!(
                    "publication \"{name}\" lacks {} and role \"{}\" may not add to it",
                    names.join(", "),
                    server.user
                ),
            )
            .at(format!("database \"{}\"", server.database))
            .mend(format!(
                "run as the owner of the tables: {}",
                publication::add_statement(name, &missing)
            )),
        );
    }
    Ok(())
}

/// Only owners may put a table into a publication.
async fn owns_all(client: &Client, tables: &[TableName]) -> Result<bool, PgError> {
    const QUERY: &str = "
        SELECT coalesce(bool_and(pg_catalog.pg_has_role(c.relowner, 'USAGE')), true)
        FROM unnest($1::text[], $2::text[]) AS t(schema, name)
        JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.name";
    let (schemas, names) = split(tables);
    Ok(client.query_one(QUERY, &[&schemas, &names]).await?.try_get(0)?)
}

async fn owns_publication(client: &Client, name: &str) -> Result<bool, PgError> {
    const QUERY: &str = "SELECT pg_catalog.pg_has_role(pubowner, 'USAGE')
        FROM pg_catalog.pg_publication WHERE pubname = $1";
    let row = client.query_opt(QUERY, &[&name]).await?;
    Ok(match row {
        Some(row) => row.try_get(0)?,
        None => false,
    })
}

fn split(tables: &[TableName]) -> (Vec<&str>, Vec<&str>) {
    tables.iter().map(|table| (table.schema.as_str(), table.name.as_str())).unzip()
}

/// Whether a copy would read every row: the right to select, and no policy in between.
async fn check_access(
    client: &Client,
    server: &ServerInfo,
    tables: &[CatalogTable],
    examination: &mut Examination,
) -> Result<(), PgError> {
    const QUERY: &str = "
        SELECT n.nspname::text, c.relname::text,
               pg_catalog.has_schema_privilege(n.oid, 'USAGE'),
               pg_catalog.has_table_privilege(c.oid, 'SELECT')
                 OR pg_catalog.has_any_column_privilege(c.oid, 'SELECT'),
               pg_catalog.row_security_active(c.oid)
        FROM unnest($1::text[], $2::text[]) AS t(schema, name)
        JOIN pg_catalog.pg_namespace n ON n.nspname = t.schema
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = t.name
        ORDER BY 1, 2";
    let names: Vec<TableName> = tables.iter().map(|table| table.name.clone()).collect();
    let (schemas, relations) = split(&names);
    let mut hidden = Vec::new();
    for row in client.query(QUERY, &[&schemas, &relations]).await? {
        let name = TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?);
        let (schema, select): (bool, bool) = (row.try_get(2)?, row.try_get(3)?);
        let mend = match (schema, select) {
            (true, true) => None,
            (false, _) => Some(format!(
                "GRANT USAGE ON SCHEMA {} TO {}; GRANT SELECT ON {} TO {};",
                quote_ident(&name.schema),
                role(server),
                name.quoted(),
                role(server)
            )),
            (true, false) => {
                Some(format!("GRANT SELECT ON {} TO {};", name.quoted(), role(server)))
            }
        };
        if let Some(mend) = mend {
            examination.findings.push(
                Diagnostic::error(
                    code::NOT_READABLE,
                    format!("role \"{}\" may not read {name}", server.user),
                )
                .at(format!("database \"{}\"", server.database))
                .mend(mend),
            );
        }
        if row.try_get(4)? {
            hidden.push(name.to_string());
        }
    }
    if !hidden.is_empty() {
        examination.findings.push(
            Diagnostic::error(
                pg_code::COPY_FILTERED,
                format!(
                    "row level security would hide rows of {} from role \"{}\"",
                    hidden.join(", "),
                    server.user
                ),
            )
            .at(format!("database \"{}\"", server.database))
            .mend(format!("ALTER ROLE {} BYPASSRLS;", role(server))),
        );
    }
    Ok(())
}
