//! A table as statements of surfaces need it, read from the catalog.
//!
//! In: a session and a name. Out: a [`TableShape`], of which every name in SQL is made. It is kept for a few
//! seconds and compared with the catalog in each transaction that uses it ([`versions`](crate::catalog::versions)),
//! so that neither a column nor row security changes behind its back.

use crate::catalog::version;
use hw_pg::error::{Doing as _, PgError};
use hw_types::TableName;
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// A table as statements need it.
#[derive(Clone, Debug)]
pub struct TableShape {
    /// Schema and name.
    pub name: TableName,
    /// Its columns in the order of the catalog.
    pub columns: Vec<ShapeColumn>,
    /// The places of its primary key's columns in `columns`, in the order of the key; none has no key.
    pub key: Vec<usize>,
    /// Whether policies decide about its rows.
    pub row_security: bool,
    pub(crate) oid: u32,
    pub(crate) version: String,
    /// Whether the role has the owner's rights without FORCE ROW LEVEL SECURITY.
    pub(crate) owned_by_role: bool,
}

/// A column as statements need it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct ShapeColumn {
    /// Its name.
    pub name: String,
    /// The type of its values as SQL names it, below domains and without length or precision: the assignment
    /// to the column judges both, where a cast would cut silently.
    pub type_name: String,
    /// The name in `pg_type` of that type.
    pub base: String,
    /// Whether it is an array.
    pub is_array: bool,
}

/// Reads a table as this role would use it; `None` when there is none of that name.
pub(crate) async fn read(
    client: &Client,
    role: &str,
    name: &TableName,
) -> Result<Option<TableShape>, PgError> {
    let doing = "read the table from the catalog";
    let rows = client
        .query_typed(
            TABLE,
            &[(&name.schema, Type::TEXT), (&name.name, Type::TEXT), (&role, Type::TEXT)],
        )
        .await
        .doing(doing)?;
    let Some(row) = rows.first() else { return Ok(None) };
    let oid: u32 = row.get(0);
    let key: Vec<i16> = row.get(4);
    let rows = client.query_typed(COLUMNS, &[(&oid, Type::OID)]).await.doing(doing)?;
    let numbers: Vec<i16> = rows.iter().map(|row| row.get(0)).collect();
    let columns = rows.iter().map(|row| ShapeColumn {
        name: row.get(1),
        type_name: row.get(2),
        base: row.get(3),
        is_array: row.get(4),
    });
    let place = |number: &i16| numbers.iter().position(|column| column == number);
    Ok(Some(TableShape {
        name: name.clone(),
        columns: columns.collect(),
        key: key.iter().filter_map(place).collect(),
        row_security: row.get(1),
        oid,
        version: row.get(3),
        owned_by_role: row.get(2),
    }))
}

// A view has no row security, and is refused by that.
const TABLE: &str = concat!(
    "\
SELECT c.oid, c.relrowsecurity,
       pg_catalog.pg_has_role($3::text::name, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity,
       ",
    version!(),
    ",
       coalesce((
         SELECT (i.indkey::int2[])[0:i.indnkeyatts - 1]
         FROM pg_catalog.pg_index i WHERE i.indrelid = c.oid AND i.indisprimary
       ), '{}')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2 AND c.relkind IN ('r', 'p', 'v', 'm', 'f')"
);

// `format_type` without a modifier would make `character` a text of one letter; with -1 it is `bpchar`.
const COLUMNS: &str = "\
WITH RECURSIVE base AS (
  SELECT a.attnum, a.attname, a.atttypid AS oid
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT base.attnum, base.attname, t.typbasetype
  FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid
  WHERE t.typtype = 'd'
)
SELECT base.attnum, base.attname::text,
       CASE WHEN n.nspname = 'pg_catalog' THEN pg_catalog.format_type(t.oid, -1)
            ELSE pg_catalog.quote_ident(n.nspname) || '.' || pg_catalog.quote_ident(t.typname) END,
       t.typname::text,
       t.typcategory = 'A' AND t.typelem <> 0
FROM base
JOIN pg_catalog.pg_type t ON t.oid = base.oid AND t.typtype <> 'd'
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
ORDER BY base.attnum";
