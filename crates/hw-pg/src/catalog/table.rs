//! Tables as the catalog has them now: columns, keys, storage, flags.

use crate::error::{Doing as _, PgError, Result};
use hw_types::{RelationId, ReplicaIdentity, TableName};
use serde::Deserialize;
use tokio_postgres::Client;

/// What a relation is.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum TableKind {
    /// A table with rows of its own.
    Ordinary,
    /// A table whose rows are in its partitions.
    Partitioned,
    /// A view.
    View,
    /// A materialised view.
    MaterializedView,
    /// A table of a foreign server.
    Foreign,
    /// Anything else: an index, a sequence, a composite type.
    Other,
}

/// A column of a [`CatalogTable`].
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogColumn {
    /// Its number, `attnum`.
    pub number: i16,
    /// Name, unquoted.
    pub name: String,
    /// Oid of its type.
    pub type_oid: u32,
    /// Type modifier, -1 without.
    pub type_modifier: i32,
    /// Whether it is generated (stored or virtual).
    pub generated: bool,
    /// Whether NULL is refused.
    pub not_null: bool,
    /// False for a nondeterministic collation.
    pub deterministic: bool,
}

/// A place where rows are: the table itself, or one leaf of its partition tree.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Leaf {
    /// The leaf's oid.
    pub id: RelationId,
    /// Its name.
    pub name: TableName,
    /// What it is.
    pub kind: TableKind,
    /// Whether its changes are in the log.
    pub logged: bool,
    /// Its file; another one after TRUNCATE and every rewriting ALTER TABLE.
    pub filenode: u32,
    /// What the log carries of its old rows.
    pub replica_identity: ReplicaIdentity,
    /// Attribute numbers of the primary key in its order; empty without, or if it is deferrable
    /// (such a key is no replica identity).
    pub primary_key: Vec<i16>,
    /// Attribute numbers of the index that REPLICA IDENTITY USING INDEX names.
    pub identity_index: Vec<i16>,
}

/// A table as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTable {
    /// Oid.
    pub id: RelationId,
    /// Schema and name.
    pub name: TableName,
    /// What it is.
    pub kind: TableKind,
    /// Whether its changes are in the log: neither unlogged nor temporary.
    pub logged: bool,
    /// What the log carries of old rows.
    pub replica_identity: ReplicaIdentity,
    /// The columns in table order, generated ones included.
    pub columns: Vec<CatalogColumn>,
    /// Attribute numbers of the primary key in its order; empty without, or if it is deferrable.
    pub primary_key: Vec<i16>,
    /// Attribute numbers of the index that REPLICA IDENTITY USING INDEX names.
    pub identity_index: Vec<i16>,
    /// Where the rows are, by oid.
    pub leaves: Vec<Leaf>,
    /// The partitioned tables above this one, the root last.
    pub ancestors: Vec<TableName>,
    /// Whether row level security is on.
    pub row_security: bool,
    /// Whether it applies to the owner, too.
    pub force_row_security: bool,
    /// The planner's estimate of rows in all leaves; `None` before the first ANALYZE.
    pub estimated_rows: Option<u64>,
    /// Bytes on disk of all leaves, without indexes, as the last VACUUM or ANALYZE found them.
    pub bytes: u64,
}

impl CatalogTable {
    /// The file of each leaf: what differs after TRUNCATE, a rewrite, ATTACH and DETACH.
    pub fn storage(&self) -> Vec<(RelationId, u32)> {
        self.leaves.iter().map(|leaf| (leaf.id, leaf.filenode)).collect()
    }

    /// A column by its attribute number.
    pub fn column_numbered(&self, number: i16) -> Option<&CatalogColumn> {
        self.columns.iter().find(|column| column.number == number)
    }
}

/// Names of tables that a definition asks for.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct TablePattern {
    /// Schema, exact.
    pub schema: String,
    /// Exact name, or the beginning of names when `prefix` is set (`events_%`).
    pub name: String,
    /// Whether every name that begins so is meant.
    pub prefix: bool,
}

impl TablePattern {
    /// Reads `schema` and a name that may end in `%`.
    pub fn new(schema: &str, name: &str) -> TablePattern {
        let (name, prefix) = match name.strip_suffix('%') {
            Some(start) => (start, true),
            None => (name, false),
        };
        TablePattern { schema: schema.to_owned(), name: name.to_owned(), prefix }
    }

    /// Whether a table is meant.
    pub fn matches(&self, table: &TableName) -> bool {
        table.schema == self.schema
            && match self.prefix {
                true => table.name.starts_with(&self.name),
                false => table.name == self.name,
            }
    }
}

/// The names of all tables (ordinary and partitioned, partitions included, temporary ones not)
/// that a pattern with a `%` means, and the names of the exact patterns as they are.
pub async fn matching(client: &Client, patterns: &[TablePattern]) -> Result<Vec<TableName>> {
    const QUERY: &str = "
        SELECT n.nspname::text, c.relname::text
        FROM ROWS FROM (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[]))
          AS p(schema, start)
        JOIN pg_catalog.pg_namespace n ON n.nspname = p.schema
        JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid
        WHERE c.relkind IN ('r', 'p') AND c.relpersistence <> 't'
          AND pg_catalog.starts_with(c.relname::text, p.start)";
    let mut names: Vec<TableName> = patterns
        .iter()
        .filter(|pattern| !pattern.prefix)
        .map(|pattern| TableName::new(&pattern.schema, &pattern.name))
        .collect();
    let (schemas, starts): (Vec<&str>, Vec<&str>) = patterns
        .iter()
        .filter(|pattern| pattern.prefix)
        .map(|pattern| (pattern.schema.as_str(), pattern.name.as_str()))
        .unzip();
    if !schemas.is_empty() {
        for row in client.query(QUERY, &[&schemas, &starts]).await.doing("expand table names")? {
            names.push(TableName::new(row.try_get::<_, String>(0)?, row.try_get::<_, String>(1)?));
        }
    }
    names.sort();
    names.dedup();
    Ok(names)
}

/// Tables by name, in no particular order; those that do not exist are left out.
pub async fn tables(client: &Client, names: &[TableName]) -> Result<Vec<CatalogTable>> {
    let schemas: Vec<&str> = names.iter().map(|name| name.schema.as_str()).collect();
    let tables: Vec<&str> = names.iter().map(|name| name.name.as_str()).collect();
    let sql = format!(
        "{SELECT} WHERE (n.nspname, c.relname) IN \
         (SELECT * FROM ROWS FROM \
         (pg_catalog.unnest($1::text[]), pg_catalog.unnest($2::text[])))"
    );
    let rows = client.query(&sql, &[&schemas, &tables]).await.doing("describe tables")?;
    rows.iter().map(|row| Ok(from_json::<Answer>(row.try_get(0)?)?.into())).collect()
}

/// Tables by oid, in no particular order; those that are gone are left out.
pub async fn tables_by_id(client: &Client, ids: &[RelationId]) -> Result<Vec<CatalogTable>> {
    let oids: Vec<u32> = ids.iter().map(|id| id.0).collect();
    let sql = format!("{SELECT} WHERE c.oid = ANY($1::oid[])");
    let rows = client.query(&sql, &[&oids]).await.doing("describe tables")?;
    rows.iter().map(|row| Ok(from_json::<Answer>(row.try_get(0)?)?.into())).collect()
}

/// Decodes an answer of the catalog that the server built as JSON.
pub(crate) fn from_json<T: serde::de::DeserializeOwned>(text: &str) -> Result<T> {
    serde_json::from_str(text)
        .map_err(|error| PgError::protocol(format!("an answer of the catalog: {error}")))
}

/// A page of the usual build; only estimates stand on it.
const PAGE_BYTES: u64 = 8192;

/// One JSON object per table: a single statement, so that its parts fit together. Nothing in it
/// takes a lock, so it answers while a table is being rewritten (the functions for sizes and
/// partition trees would wait).
const SELECT: &str = "
SELECT pg_catalog.json_build_object(
  'id', c.oid::int8, 'schema', n.nspname, 'name', c.relname, 'kind', c.relkind,
  'persistence', c.relpersistence, 'identity', c.relreplident,
  'row_security', c.relrowsecurity, 'force', c.relforcerowsecurity,
  'columns', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'number', a.attnum, 'name', a.attname, 'type', a.atttypid::int8, 'modifier', a.atttypmod,
      'generated', a.attgenerated <> '', 'not_null', a.attnotnull,
      'deterministic', coalesce(l.collisdeterministic, true)) ORDER BY a.attnum)
    FROM pg_catalog.pg_attribute a
    LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
    WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped),
  'primary_key', (SELECT pg_catalog.to_json((i.indkey::int2[])[0:i.indnkeyatts - 1]) FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisprimary AND i.indimmediate),
  'identity_index', (SELECT pg_catalog.to_json((i.indkey::int2[])[0:i.indnkeyatts - 1]) FROM pg_catalog.pg_index i
    WHERE i.indrelid = c.oid AND i.indisreplident AND i.indisvalid),
  'leaves', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'id', f.oid::int8, 'schema', fn.nspname, 'name', f.relname, 'kind', f.relkind,
      'persistence', f.relpersistence, 'identity', f.relreplident,
      'filenode', coalesce(pg_catalog.pg_relation_filenode(f.oid), 0)::int8,
      'rows', f.reltuples,
      'pages', f.relpages + coalesce(
        (SELECT o.relpages FROM pg_catalog.pg_class o WHERE o.oid = f.reltoastrelid), 0),
      'primary_key', (SELECT pg_catalog.to_json((i.indkey::int2[])[0:i.indnkeyatts - 1]) FROM pg_catalog.pg_index i
        WHERE i.indrelid = f.oid AND i.indisprimary AND i.indimmediate),
      'identity_index', (SELECT pg_catalog.to_json((i.indkey::int2[])[0:i.indnkeyatts - 1]) FROM pg_catalog.pg_index i
        WHERE i.indrelid = f.oid AND i.indisreplident AND i.indisvalid)) ORDER BY f.oid)
    FROM pg_catalog.pg_class f
    JOIN pg_catalog.pg_namespace fn ON fn.oid = f.relnamespace
    WHERE f.relkind <> 'p' AND c.relkind IN ('r', 'p') AND f.oid IN (
      WITH RECURSIVE tree(relid) AS (
        SELECT c.oid
        UNION ALL
        SELECT i.inhrelid FROM tree
        JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid AND NOT i.inhdetachpending
        WHERE c.relkind = 'p')
      SELECT tree.relid FROM tree)),
  'ancestors', (SELECT pg_catalog.json_agg(
      pg_catalog.json_build_array(an.nspname, ac.relname) ORDER BY a.ord)
    FROM pg_catalog.pg_partition_ancestors(c.oid) WITH ORDINALITY AS a(relid, ord)
    JOIN pg_catalog.pg_class ac ON ac.oid = a.relid
    JOIN pg_catalog.pg_namespace an ON an.oid = ac.relnamespace
    WHERE c.relispartition AND a.relid <> c.oid))::text
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace";

#[derive(Deserialize)]
struct Answer {
    id: u32,
    schema: String,
    name: String,
    kind: char,
    persistence: char,
    identity: char,
    row_security: bool,
    force: bool,
    columns: Option<Vec<ColumnAnswer>>,
    primary_key: Option<Vec<i16>>,
    identity_index: Option<Vec<i16>>,
    leaves: Option<Vec<LeafAnswer>>,
    ancestors: Option<Vec<(String, String)>>,
}

#[derive(Deserialize)]
struct ColumnAnswer {
    number: i16,
    name: String,
    #[serde(rename = "type")]
    type_oid: u32,
    modifier: i32,
    generated: bool,
    not_null: bool,
    deterministic: bool,
}

#[derive(Deserialize)]
struct LeafAnswer {
    id: u32,
    schema: String,
    name: String,
    kind: char,
    persistence: char,
    identity: char,
    filenode: u32,
    rows: f64,
    pages: i64,
    primary_key: Option<Vec<i16>>,
    identity_index: Option<Vec<i16>>,
}

fn kind(letter: char) -> TableKind {
    match letter {
        'r' => TableKind::Ordinary,
        'p' => TableKind::Partitioned,
        'v' => TableKind::View,
        'm' => TableKind::MaterializedView,
        'f' => TableKind::Foreign,
        _ => TableKind::Other,
    }
}

fn replica_identity(letter: char) -> ReplicaIdentity {
    match letter {
        'd' => ReplicaIdentity::Default,
        'i' => ReplicaIdentity::Index,
        'f' => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Nothing,
    }
}

impl From<Answer> for CatalogTable {
    fn from(answer: Answer) -> CatalogTable {
        let leaves = answer.leaves.unwrap_or_default();
        // -1: never analysed. One such leaf makes the sum unknown.
        let estimated_rows = leaves.iter().try_fold(0u64, |sum, leaf| {
            (leaf.rows >= 0.0).then_some(sum.saturating_add(leaf.rows as u64))
        });
        CatalogTable {
            id: RelationId(answer.id),
            name: TableName::new(answer.schema, answer.name),
            kind: kind(answer.kind),
            logged: answer.persistence == 'p',
            replica_identity: replica_identity(answer.identity),
            columns: answer
                .columns
                .unwrap_or_default()
                .into_iter()
                .map(|column| CatalogColumn {
                    number: column.number,
                    name: column.name,
                    type_oid: column.type_oid,
                    type_modifier: column.modifier,
                    generated: column.generated,
                    not_null: column.not_null,
                    deterministic: column.deterministic,
                })
                .collect(),
            primary_key: answer.primary_key.unwrap_or_default(),
            identity_index: answer.identity_index.unwrap_or_default(),
            estimated_rows,
            bytes: leaves.iter().map(|leaf| leaf.pages.max(0) as u64 * PAGE_BYTES).sum(),
            leaves: leaves
                .into_iter()
                .map(|leaf| Leaf {
                    id: RelationId(leaf.id),
                    name: TableName::new(leaf.schema, leaf.name),
                    kind: kind(leaf.kind),
                    logged: leaf.persistence == 'p',
                    filenode: leaf.filenode,
                    replica_identity: replica_identity(leaf.identity),
                    primary_key: leaf.primary_key.unwrap_or_default(),
                    identity_index: leaf.identity_index.unwrap_or_default(),
                })
                .collect(),
            ancestors: answer
                .ancestors
                .unwrap_or_default()
                .into_iter()
                .map(|(schema, name)| TableName::new(schema, name))
                .collect(),
            row_security: answer.row_security,
            force_row_security: answer.force,
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_pattern_with_percent_means_every_name_that_begins_so() {
        let pattern = TablePattern::new("public", "events_%");
        assert!(pattern.matches(&TableName::new("public", "events_2024")));
        assert!(!pattern.matches(&TableName::new("public", "events")));
        assert!(!pattern.matches(&TableName::new("other", "events_2024")));
        let exact = TablePattern::new("public", "events");
        assert!(exact.matches(&TableName::new("public", "events")));
        assert!(!exact.matches(&TableName::new("public", "events_2024")));
    }
}
