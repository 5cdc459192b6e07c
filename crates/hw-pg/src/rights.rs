//! Everything in the catalog that decides who sees which rows: policies, grants, flags, owners, functions,
//! memberships, unique keys. As long as it stays the same, so does what [`crate::policies`] reads, and the log tells
//! all that becomes of rows: what is published is in it, and when columns were last made anew, since ALTER TABLE
//! writes rows of which the log says nothing.
//!
//! Postgres reads the catalog of *now* also in a transaction whose rows are of an earlier moment, so a question
//! is good only where all of this was the same before and behind it (`design/engine.md` 11). Whoever knows what he
//! depends on compares only that: [`Rights::of_tables`] for tables, and what names mean as
//! [`crate::policies`] has it.

use crate::error::{Doing as _, Result};
use hw_types::{EndLsn, Lsn};
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_postgres::{GenericClient, Row};

/// A state of all that decides who sees which rows. Two are equal if all of it is, also where it was otherwise in
/// between: [`Rights::may_have_changed_since`] tells that.
#[derive(Clone, Debug, Default)]
pub struct Rights {
    parts: Arc<Parts>,
    at: EndLsn,
}

/// Digests.
#[derive(Debug, Default)]
struct Parts {
    /// Of everything.
    all: String,
    /// The same with the versions of tables.
    versions: String,
    /// Of what no table has for itself: operators, casts, types, publications, settings.
    shared: String,
    /// Of what tables have for themselves, by oid.
    tables: BTreeMap<u32, OfTable>,
}

/// Digests of a table and of all that are read with it.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
struct OfTable {
    what: String,
    /// Of the transactions that wrote their rows of the catalog: what is granted and taken again is as it was.
    version: String,
}

/// What rights say of some tables. As long as it is equal, nothing but rows, and what names in policies and queries
/// mean, changes what is shown of them.
#[derive(Clone, Debug)]
pub struct TableRights {
    shared: String,
    tables: BTreeMap<u32, Option<OfTable>>,
}

impl PartialEq for TableRights {
    fn eq(&self, other: &TableRights) -> bool {
        fn what<'t>((oid, of): (&'t u32, &'t Option<OfTable>)) -> (u32, Option<&'t str>) {
            (*oid, of.as_ref().map(|of| &*of.what))
        }
        let are_same = || self.tables.iter().map(what).eq(other.tables.iter().map(what));
        self.shared == other.shared && are_same()
    }
}

impl Eq for TableRights {}

impl TableRights {
    /// Whether what it says of tables was written by the same transactions.
    pub fn is_as_old_as(&self, other: &TableRights) -> bool {
        self.tables == other.tables
    }
}

/// Rows of catalogs whose `xmin` changes with everything else that is updated stand with what matters of them. Only
/// whoever knows another digest of all of it ($1) is sent the others.
///
/// - `single`: of a table its own row, schema, columns, unique keys, policies and places in publications.
/// - `tables`: the same of all whose rows are read with it.
/// - `names`: what decides by the names that policies, functions and queries have in them, and who somebody is.
const RIGHTS: &str = "\
WITH RECURSIVE own AS (
  SELECT c.*, pg_catalog.concat_ws(':', c.xmin, n.xmin) AS version, pg_catalog.concat_ws(':', n.nspname, n.nspowner, coalesce(n.nspacl::text, '')) AS schema
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND n.nspname NOT LIKE 'pg\\_temp\\_%'),
columns (oid, fact) AS (
  SELECT a.attrelid, pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attnum, a.xmin), ',' ORDER BY a.attnum)
  FROM pg_catalog.pg_attribute a JOIN own ON own.oid = a.attrelid
  WHERE a.attnum > 0 AND NOT a.attisdropped GROUP BY a.attrelid),
keys (oid, fact) AS (
  SELECT i.indrelid, pg_catalog.string_agg(pg_catalog.concat_ws(':', i.indexrelid, i.indisprimary,
           i.indisvalid, i.indimmediate, i.indkey::text, i.indnkeyatts, i.indpred IS NULL, i.indexprs IS NULL), ','
           ORDER BY i.indexrelid)
  FROM pg_catalog.pg_index i JOIN own ON own.oid = i.indrelid WHERE i.indisunique GROUP BY i.indrelid),
policies (oid, fact) AS (
  SELECT polrelid, pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
  FROM pg_catalog.pg_policy WHERE polcmd IN ('*', 'r') GROUP BY polrelid),
-- Each has an oid that is new with whatever changes of it.
published (oid, fact) AS (
  SELECT prrelid, pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
  FROM pg_catalog.pg_publication_rel GROUP BY prrelid),
single (oid, version, fact) AS (
  SELECT own.oid, own.version, pg_catalog.concat_ws('|', pg_catalog.concat_ws(':', relname, relnamespace, relowner,
           relrowsecurity, relforcerowsecurity, relhassubclass, relispartition, relpersistence, relreplident,
           coalesce(relacl::text, '')), schema, coalesce(columns.fact, ''), coalesce(keys.fact, ''),
           coalesce(policies.fact, ''), coalesce(published.fact, ''))
  FROM own LEFT JOIN columns ON columns.oid = own.oid LEFT JOIN keys ON keys.oid = own.oid
  LEFT JOIN policies ON policies.oid = own.oid LEFT JOIN published ON published.oid = own.oid),
tree (root, oid) AS (
  SELECT oid, oid FROM own
  UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid),
tables (oid, digest, version) AS (
  SELECT tree.root, pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws('=', single.oid, single.fact), ';'
           ORDER BY single.oid)),
         pg_catalog.md5(pg_catalog.string_agg(single.version, ';' ORDER BY single.oid))
  FROM tree JOIN single ON single.oid = tree.oid GROUP BY tree.root),
shared (part) AS (VALUES
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_operator WHERE oid >= 16384)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_cast WHERE oid >= 16384)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_publication)),
  -- Schemas in publications.
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', classid, objid, refobjid), ',' ORDER BY classid, objid)
    FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_publication'::pg_catalog.regclass
      AND classid <> 'pg_catalog.pg_publication_rel'::pg_catalog.regclass)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', t.oid, t.xmin), ',' ORDER BY t.oid)
    FROM pg_catalog.pg_type t WHERE t.oid >= 16384 AND t.typtype IN ('e', 'd', 'r', 'm'))),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_enum)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', setdatabase, setrole, setconfig::text), ','
             ORDER BY setdatabase, setrole)
    FROM pg_catalog.pg_db_role_setting))),
names (part) AS (VALUES
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::pg_catalog.regnamespace)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', roleid, member, xmin), ',' ORDER BY roleid, member)
    FROM pg_catalog.pg_auth_members)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, rolname, rolsuper, rolinherit, rolbypassrls),
             ',' ORDER BY oid)
    FROM pg_catalog.pg_roles)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, nspname, nspowner, coalesce(nspacl::text, '')),
             ',' ORDER BY oid)
    FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\\_temp\\_%' AND nspname NOT LIKE 'pg\\_toast\\_temp\\_%'))),
digests (shared, parts) AS (SELECT
  (SELECT pg_catalog.md5(pg_catalog.string_agg(coalesce(part, ''), '|')) FROM shared),
  (SELECT pg_catalog.md5(pg_catalog.string_agg(coalesce(part, ''), '|')) FROM names) || '|' ||
    (SELECT pg_catalog.md5(coalesce(pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, digest), ',' ORDER BY oid), ''))
     FROM tables)),
known (all_, shared, versions) AS (
  SELECT pg_catalog.md5(shared || '|' || parts), shared, pg_catalog.md5(pg_catalog.concat_ws('|', shared, parts,
         (SELECT pg_catalog.string_agg(version, ',' ORDER BY oid) FROM tables)))
  FROM digests),
sent (is_new) AS (SELECT versions <> $1::text FROM known)
SELECT all_, shared, versions,
       CASE WHEN is_new THEN ARRAY (SELECT oid FROM tables ORDER BY oid) END,
       CASE WHEN is_new THEN ARRAY (SELECT digest FROM tables ORDER BY oid) END,
       CASE WHEN is_new THEN ARRAY (SELECT version FROM tables ORDER BY oid) END,
       (pg_catalog.pg_current_wal_insert_lsn() - '0/0'::pg_catalog.pg_lsn)::pg_catalog.int8
FROM known, sent";

impl PartialEq for Rights {
    fn eq(&self, other: &Rights) -> bool {
        self.parts.all == other.parts.all
    }
}

impl Eq for Rights {}

impl Parts {
    fn of(row: &Row) -> Result<Parts> {
        let (oids, digests, versions): (Vec<u32>, Vec<String>, Vec<String>) =
            (row.try_get(3)?, row.try_get(4)?, row.try_get(5)?);
        let of_tables =
            digests.into_iter().zip(versions).map(|(what, version)| OfTable { what, version });
        let tables = oids.into_iter().zip(of_tables).collect();
        let (all, shared, versions) = (row.try_get(0)?, row.try_get(1)?, row.try_get(2)?);
        Ok(Parts { all, versions, shared, tables })
    }
}

impl Rights {
    /// Reads it: as of now on a connection outside of a transaction, else as of the transaction's snapshot.
    pub async fn read(client: &impl GenericClient) -> Result<Rights> {
        Rights::default().again(client).await
    }

    /// Reads it again. What is the same is not sent once more.
    pub async fn again(&self, client: &impl GenericClient) -> Result<Rights> {
        let doing = "read who may see what";
        let row = client.query_one(RIGHTS, &[&self.parts.versions]).await.doing(doing)?;
        let parts = match row.try_get::<_, &str>(2)? == self.parts.versions {
            true => self.parts.clone(),
            false => Arc::new(Parts::of(&row)?),
        };
        let at = row.try_get::<_, i64>(6)?.cast_unsigned();
        Ok(Rights { parts, at: EndLsn(Lsn(at)) })
    }

    /// Whether anything of it may have been otherwise between an earlier look and this one, also if it is the same.
    pub fn may_have_changed_since(&self, earlier: &Rights) -> bool {
        self.parts.versions != earlier.parts.versions
    }

    /// Where the source's log ended when it was read: what was committed before ended there, or before.
    pub fn at(&self) -> EndLsn {
        self.at
    }

    /// What it says of some tables, and of all that are read with them.
    ///
    /// - Takes: oids.
    pub fn of_tables(&self, oids: impl IntoIterator<Item = u32>) -> TableRights {
        let Parts { shared, tables, .. } = &*self.parts;
        let of = |oid: u32| (oid, tables.get(&oid).cloned());
        TableRights { shared: shared.clone(), tables: oids.into_iter().map(of).collect() }
    }
}
