//! Which tables are asked for, as SQL and its parameters, and the questions about them that are
//! answered without reading them: who is in the publication, and whether anything is different.

use crate::error::Result;
use hw_types::{RelationId, TablePattern};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

/// `server_version_num`.
pub(super) async fn version(client: &Client) -> Result<u32> {
    const VERSION: &str = "SELECT pg_catalog.current_setting('server_version_num')::int4";
    let rows = client.query_typed(VERSION, &[]).await?;
    let number = rows.first().map(|row| row.try_get::<_, i32>(0)).transpose()?;
    Ok(number.and_then(|number| u32::try_from(number).ok()).unwrap_or_default())
}

/// A parameter and its type.
pub(super) type Parameter<'a> = (&'a (dyn tokio_postgres::types::ToSql + Sync), Type);

/// Patterns and oids as parameters.
pub(super) struct Wanted<'a> {
    exact: (Vec<&'a str>, Vec<&'a str>),
    schemas: Vec<&'a str>,
    any_schema: Vec<bool>,
    tables: Vec<&'a str>,
    any_table: Vec<bool>,
    ids: Vec<u32>,
}

impl<'a> Wanted<'a> {
    pub(super) fn new(patterns: &'a [TablePattern], ids: &[RelationId]) -> Wanted<'a> {
        let (open, exact): (Vec<_>, Vec<_>) = patterns.iter().partition(|p| p.is_wildcard());
        let of = |p: &&'a TablePattern| (p.schema.text.as_str(), p.table.text.as_str());
        Wanted {
            exact: exact.iter().map(of).unzip(),
            schemas: open.iter().map(|p| p.schema.text.as_str()).collect(),
            any_schema: open.iter().map(|p| p.schema.wildcard).collect(),
            tables: open.iter().map(|p| p.table.text.as_str()).collect(),
            any_table: open.iter().map(|p| p.table.wildcard).collect(),
            ids: ids.iter().map(|id| id.0).collect(),
        }
    }

    pub(super) fn parameters(&self) -> Vec<Parameter<'_>> {
        vec![
            (&self.exact.0, Type::TEXT_ARRAY),
            (&self.exact.1, Type::TEXT_ARRAY),
            (&self.schemas, Type::TEXT_ARRAY),
            (&self.any_schema, Type::BOOL_ARRAY),
            (&self.tables, Type::TEXT_ARRAY),
            (&self.any_table, Type::BOOL_ARRAY),
            (&self.ids, Type::OID_ARRAY),
        ]
    }
}

/// The oids that are wanted. Names are compared as text: a cast to `name` would cut them.
pub(super) const WANTED: &str = "
wanted(oid) AS (
  SELECT c.oid
  FROM ROWS FROM (pg_catalog.unnest($1), pg_catalog.unnest($2)) AS p(schema, name)
  JOIN pg_catalog.pg_namespace n ON n.nspname = p.schema
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND c.relname = p.name
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  UNION
  SELECT c.oid
  FROM ROWS FROM (pg_catalog.unnest($3), pg_catalog.unnest($4), pg_catalog.unnest($5),
                  pg_catalog.unnest($6)) AS p(schema, any_schema, name, any_name)
  JOIN pg_catalog.pg_namespace n ON CASE WHEN p.any_schema
    THEN pg_catalog.starts_with(n.nspname::text, p.schema)
      AND NOT pg_catalog.starts_with(n.nspname::text, 'pg_') AND n.nspname <> 'information_schema'
    ELSE n.nspname = p.schema END
  JOIN pg_catalog.pg_class c ON c.relnamespace = n.oid AND CASE WHEN p.any_name
    THEN pg_catalog.starts_with(c.relname::text, p.name) ELSE c.relname = p.name END
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND c.relpersistence <> 't'
  UNION
  SELECT c.oid FROM pg_catalog.pg_class c WHERE c.oid = ANY ($7))";

/// The tables that a publication sends, by oid.
pub(super) fn members_query(version: u32) -> String {
    let schemas = match version < 150_000 {
        true => "",
        false => {
            "UNION SELECT c.oid FROM pg_catalog.pg_class c
             JOIN pg_catalog.pg_publication_namespace n ON n.pnnspid = c.relnamespace
             JOIN p ON p.oid = n.pnpubid
             WHERE c.relkind IN ('r', 'p') AND c.relpersistence = 'p'"
        }
    };
    format!(
        "
WITH RECURSIVE p AS (
  SELECT oid, puballtables FROM pg_catalog.pg_publication WHERE pubname = $1),
listed(relid) AS (
  SELECT r.prrelid FROM pg_catalog.pg_publication_rel r JOIN p ON p.oid = r.prpubid
  {schemas}
  UNION SELECT c.oid FROM pg_catalog.pg_class c, p
  WHERE p.puballtables AND c.oid >= 16384 AND c.relpersistence = 'p'
    AND c.relkind IN ('r', 'p')),
tree(relid) AS (
  SELECT relid FROM listed
  UNION
  SELECT i.inhrelid FROM tree
  JOIN pg_catalog.pg_class parent ON parent.oid = tree.relid AND parent.relkind = 'p'
  JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid)
SELECT relid FROM tree ORDER BY relid"
    )
}

/// One hash over oid and version of every row of the catalog that decides about the wanted tables.
pub(super) fn fingerprint_query(version: u32) -> String {
    let schemas = match version < 150_000 {
        true => "",
        false => {
            "UNION ALL SELECT 'n', n.pnnspid, 0, n.xmin
             FROM pg_catalog.pg_publication_namespace n, publication
             WHERE n.pnpubid = publication.oid"
        }
    };
    format!(
        "
WITH RECURSIVE {WANTED},
publication AS (SELECT p.oid, p.xmin FROM pg_catalog.pg_publication p WHERE p.pubname = $8),
line(relid) AS (
  SELECT wanted.oid FROM wanted
  UNION
  SELECT i.inhparent FROM line JOIN pg_catalog.pg_inherits i ON i.inhrelid = line.relid),
tree(relid) AS (
  SELECT wanted.oid FROM wanted
  UNION
  SELECT i.inhrelid FROM tree
  JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.relid),
family(relid) AS (SELECT relid FROM line UNION SELECT relid FROM tree),
-- Enums, domains, ranges and composites, whoever uses them: there are few of them, and none
-- changes often.
parts(kind, a, b, version) AS (
  SELECT 'c'::text, c.oid, 0, c.xmin FROM family JOIN pg_catalog.pg_class c ON c.oid = relid
  UNION ALL
  SELECT 'a', a.attrelid, a.attnum, a.xmin
  FROM wanted JOIN pg_catalog.pg_attribute a ON a.attrelid = wanted.oid WHERE a.attnum > 0
  UNION ALL
  SELECT 'd', d.adrelid, d.adnum, d.xmin
  FROM wanted JOIN pg_catalog.pg_attrdef d ON d.adrelid = wanted.oid
  UNION ALL
  SELECT 'h', i.inhrelid, i.inhseqno, i.xmin
  FROM family JOIN pg_catalog.pg_inherits i ON i.inhrelid = family.relid
  UNION ALL
  SELECT 'i', i.indexrelid, 0, i.xmin
  FROM tree JOIN pg_catalog.pg_index i ON i.indrelid = tree.relid
  UNION ALL
  SELECT 'l', l.oid, 0, l.xmin
  FROM wanted JOIN pg_catalog.pg_policy l ON l.polrelid = wanted.oid
  UNION ALL
  SELECT 's', n.oid, 0, n.xmin FROM pg_catalog.pg_namespace n
  WHERE n.oid IN (SELECT c.relnamespace FROM family
                  JOIN pg_catalog.pg_class c ON c.oid = relid)
  UNION ALL
  SELECT 'p', p.oid, 0, p.xmin FROM publication p
  UNION ALL
  SELECT 'r', r.prrelid, 0, r.xmin FROM pg_catalog.pg_publication_rel r, publication
  WHERE r.prpubid = publication.oid
  {schemas}
  UNION ALL
  SELECT 't', t.oid, 0, t.xmin FROM pg_catalog.pg_type t
  WHERE t.typtype IN ('d', 'e', 'r', 'm') AND t.oid >= 16384
  UNION ALL
  SELECT 'e', e.oid, 0, e.xmin FROM pg_catalog.pg_enum e
  UNION ALL
  SELECT 'f', a.attrelid, a.attnum, a.xmin
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_attribute a ON a.attrelid = c.oid
  WHERE c.relkind = 'c' AND c.oid >= 16384 AND a.attnum > 0
  UNION ALL
  SELECT 'm', m.roleid, m.member::int4, m.xmin FROM pg_catalog.pg_auth_members m
  UNION ALL
  SELECT 'o', r.oid, r.rolsuper::int4 * 2 + r.rolbypassrls::int4, '0'
  FROM pg_catalog.pg_roles r WHERE r.rolname = current_user
  UNION ALL
  SELECT 'b', d.oid, pg_catalog.has_database_privilege(d.oid, 'CREATE')::int4, '0'
  FROM pg_catalog.pg_database d WHERE d.datname = pg_catalog.current_database())
SELECT coalesce(pg_catalog.bit_xor(pg_catalog.hash_record_extended(parts, 0)), 0) FROM parts"
    )
}
