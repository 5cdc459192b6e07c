//! What a publication contains, read without a lock.
//!
//! The view `pg_publication_tables` opens every table, and so waits for a rewriting ALTER TABLE;
//! whoever reads it every second would stand still with it. The catalog's own tables are read in
//! its place. One exception is left: a row filter is printed by a function that opens its table.
//!
//! Source: PostgreSQL manual, `pg_publication`, `pg_publication_rel`, `pg_publication_namespace`;
//! `GetPublicationRelations` and its neighbours for what ALL TABLES, schemas and partitions mean.

use crate::catalog::from_json;
use crate::error::{Doing as _, Result};
use hw_types::TableName;
use serde::Deserialize;
use tokio_postgres::Client;

/// A table as the publication sends it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct PublishedTable {
    /// Schema and name: with `via_root` that of the root, else that of the partition.
    pub name: TableName,
    /// The columns that are sent, in table order.
    pub columns: Vec<String>,
    /// The row filter as SQL (major 15 and newer).
    pub row_filter: Option<String>,
}

/// A publication as one statement found it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Publication {
    /// Its name.
    pub name: String,
    /// Whether it is FOR ALL TABLES.
    pub all_tables: bool,
    /// Whether changes of partitions are sent as those of the root.
    pub via_root: bool,
    /// The kinds of change that it leaves out: `insert`, `update`, `delete`, `truncate`.
    pub left_out: Vec<&'static str>,
    /// The tables, after expansion of schemas, ALL TABLES and partitions.
    pub tables: Vec<PublishedTable>,
}

#[derive(Deserialize)]
struct Answer {
    all_tables: bool,
    via_root: bool,
    insert: bool,
    update: bool,
    delete: bool,
    truncate: bool,
    tables: Option<Vec<TableAnswer>>,
}

#[derive(Deserialize)]
struct TableAnswer {
    schema: String,
    name: String,
    columns: Option<Vec<String>>,
    filter: Option<String>,
}

/// The tables that a publication lists: relation, column list, row filter.
fn listed(version: u32) -> &'static str {
    if version < 150_000 {
        "SELECT r.prrelid AS relid, NULL::pg_catalog.int2[] AS attributes, NULL AS filter
         FROM pg_catalog.pg_publication_rel r, p WHERE r.prpubid = p.oid"
    } else {
        "SELECT r.prrelid AS relid, r.prattrs::pg_catalog.int2[] AS attributes,
                pg_catalog.pg_get_expr(r.prqual, r.prrelid) AS filter
         FROM pg_catalog.pg_publication_rel r, p WHERE r.prpubid = p.oid
         UNION ALL
         SELECT c.oid, NULL, NULL
         FROM pg_catalog.pg_publication_namespace n, p, pg_catalog.pg_class c
         WHERE n.pnpubid = p.oid AND c.relnamespace = n.pnnspid
           AND c.relkind IN ('r', 'p') AND c.relpersistence = 'p'"
    }
}

/// `sent` says for each table that is sent how; `16384` is the first oid that is not the
/// system's.
fn query(version: u32) -> String {
    format!(
        "
WITH RECURSIVE p AS (
  SELECT oid, puballtables, pubviaroot, pubinsert, pubupdate, pubdelete, pubtruncate,
         pg_catalog.to_jsonb(pub) ->> 'pubgencols' = 's' AS generated
  FROM pg_catalog.pg_publication pub WHERE pubname = $1),
listed AS (
  {listed}
  UNION ALL
  SELECT c.oid, NULL, NULL FROM pg_catalog.pg_class c, p
  WHERE p.puballtables AND c.oid >= 16384 AND c.relpersistence = 'p'
    AND c.relkind IN ('r', 'p')),
-- A table that is listed twice: by its schema, or by ALL TABLES, means all of it.
own AS (
  SELECT DISTINCT ON (relid) relid, attributes, filter FROM listed
  ORDER BY relid, filter IS NOT NULL, attributes IS NOT NULL),
tree(relid, root) AS (
  SELECT own.relid, own.relid FROM own
  UNION ALL
  SELECT i.inhrelid, tree.root FROM tree
  JOIN pg_catalog.pg_class parent ON parent.oid = tree.relid AND parent.relkind = 'p'
  JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid AND NOT i.inhdetachpending),
sent AS (
  -- Through the root: what has no listed table above it.
  SELECT own.relid, own.attributes, own.filter FROM own, p
  WHERE p.pubviaroot AND NOT EXISTS (
    SELECT FROM tree WHERE tree.relid = own.relid AND tree.root <> own.relid)
  UNION ALL
  -- Otherwise: the leaves of every listed table, with the list and filter of their own if any.
  SELECT DISTINCT ON (tree.relid) tree.relid, leaf.attributes, leaf.filter
  FROM tree
  JOIN pg_catalog.pg_class c ON c.oid = tree.relid AND c.relkind = 'r'
  CROSS JOIN p
  LEFT JOIN own leaf ON leaf.relid = tree.relid
  WHERE NOT p.pubviaroot)
SELECT pg_catalog.json_build_object(
  'all_tables', p.puballtables, 'via_root', p.pubviaroot, 'insert', p.pubinsert,
  'update', p.pubupdate, 'delete', p.pubdelete, 'truncate', p.pubtruncate,
  'tables', (SELECT pg_catalog.json_agg(pg_catalog.json_build_object(
      'schema', n.nspname, 'name', c.relname, 'filter', sent.filter,
      'columns', (SELECT pg_catalog.json_agg(a.attname ORDER BY a.attnum)
        FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = sent.relid AND a.attnum > 0 AND NOT a.attisdropped
          AND CASE WHEN sent.attributes IS NOT NULL THEN a.attnum = ANY (sent.attributes)
              ELSE a.attgenerated = '' OR (a.attgenerated = 's' AND p.generated) END))
      ORDER BY n.nspname, c.relname)
    FROM sent
    JOIN pg_catalog.pg_class c ON c.oid = sent.relid
    JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace))::pg_catalog.text
FROM p",
        listed = listed(version)
    )
}

impl Publication {
    /// Reads a publication; `None` if there is none of that name.
    pub async fn read(client: &Client, name: &str) -> Result<Option<Publication>> {
        const DOING: &str = "read the publication";
        const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::int4";
        let version: i32 = client.query_one(VERSION, &[]).await.doing(DOING)?.try_get(0)?;
        let sql = query(u32::try_from(version).unwrap_or_default());
        let Some(row) = client.query_opt(&sql, &[&name]).await.doing(DOING)? else {
            return Ok(None);
        };
        let answer: Answer = from_json(row.try_get(0)?)?;
        let sent = [
            ("insert", answer.insert),
            ("update", answer.update),
            ("delete", answer.delete),
            ("truncate", answer.truncate),
        ];
        let tables = answer.tables.unwrap_or_default().into_iter().map(|table| PublishedTable {
            name: TableName::new(table.schema, table.name),
            columns: table.columns.unwrap_or_default(),
            row_filter: table.filter,
        });
        Ok(Some(Publication {
            name: name.to_owned(),
            all_tables: answer.all_tables,
            via_root: answer.via_root,
            left_out: sent.iter().filter(|(_, sent)| !sent).map(|(kind, _)| *kind).collect(),
            tables: tables.collect(),
        }))
    }
}
