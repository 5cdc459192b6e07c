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
use std::collections::BTreeMap;
use std::sync::Arc;
use tokio_postgres::{GenericClient, Row};

/// A state of all that decides who sees which rows. Two are equal if all of it is.
#[derive(Clone, Debug, Default)]
pub struct Rights(Arc<Parts>);

/// Digests.
#[derive(Debug, Default)]
struct Parts {
    /// Of everything.
    all: String,
    /// Of what no table has for itself: operators, casts, types, publications, settings.
    shared: String,
    /// Of what tables have for themselves, by oid.
    tables: BTreeMap<u32, String>,
}

/// What rights say of some tables. As long as it is equal, nothing but rows, and what names in policies and queries
/// mean, changes what is shown of them.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TableRights {
    shared: String,
    tables: BTreeMap<u32, Option<String>>,
}

/// Rows of catalogs whose `xmin` changes with everything else that is updated stand with what matters of them. Only
/// whoever knows another digest of all of it ($1) is sent the others.
///
/// - `single`: of a table its own row, schema, columns, unique keys, policies and places in publications.
/// - `tables`: the same of all whose rows are read with it.
/// - `names`: what decides by the names that policies, functions and queries have in them, and who somebody is.
const RIGHTS: &str = "\
WITH RECURSIVE own AS (
  SELECT c.*, pg_catalog.concat_ws(':', n.nspname, n.nspowner, coalesce(n.nspacl::text, '')) AS schema
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
single (oid, fact) AS (
  SELECT own.oid, pg_catalog.concat_ws('|', pg_catalog.concat_ws(':', relname, relnamespace, relowner,
           relrowsecurity, relforcerowsecurity, relhassubclass, relispartition, relpersistence, relreplident,
           coalesce(relacl::text, '')), schema, coalesce(columns.fact, ''), coalesce(keys.fact, ''),
           coalesce(policies.fact, ''), coalesce(published.fact, ''))
  FROM own LEFT JOIN columns ON columns.oid = own.oid LEFT JOIN keys ON keys.oid = own.oid
  LEFT JOIN policies ON policies.oid = own.oid LEFT JOIN published ON published.oid = own.oid),
tree (root, oid) AS (
  SELECT oid, oid FROM own
  UNION SELECT tree.root, i.inhrelid FROM tree JOIN pg_catalog.pg_inherits i ON i.inhparent = tree.oid),
tables (oid, digest) AS (
  SELECT tree.root, pg_catalog.md5(pg_catalog.string_agg(pg_catalog.concat_ws('=', single.oid, single.fact), ';'
           ORDER BY single.oid))
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
known (all_, shared, is_new) AS (
  SELECT pg_catalog.md5(shared || '|' || parts), shared, pg_catalog.md5(shared || '|' || parts) <> $1::text
  FROM digests)
SELECT all_, shared,
       CASE WHEN is_new THEN ARRAY (SELECT oid FROM tables ORDER BY oid) END,
       CASE WHEN is_new THEN ARRAY (SELECT digest FROM tables ORDER BY oid) END
FROM known";

impl PartialEq for Rights {
    fn eq(&self, other: &Rights) -> bool {
        self.0.all == other.0.all
    }
}

impl Eq for Rights {}

impl Rights {
    /// Reads it: as of now on a connection outside of a transaction, else as of the transaction's snapshot.
    pub async fn read(client: &impl GenericClient) -> Result<Rights> {
        Rights::default().again(client).await
    }

    /// Reads it again. What is the same is not sent once more.
    pub async fn again(&self, client: &impl GenericClient) -> Result<Rights> {
        let doing = "read who may see what";
        let row = client.query_one(RIGHTS, &[&self.0.all]).await.doing(doing)?;
        match row.try_get::<_, String>(0)? == self.0.all {
            true => Ok(self.clone()),
            false => Rights::of(&row),
        }
    }

    fn of(row: &Row) -> Result<Rights> {
        let (oids, digests): (Vec<u32>, Vec<String>) = (row.try_get(2)?, row.try_get(3)?);
        Ok(Rights(Arc::new(Parts {
            all: row.try_get(0)?,
            shared: row.try_get(1)?,
            tables: oids.into_iter().zip(digests).collect(),
        })))
    }

    /// What it says of some tables, and of all that are read with them.
    ///
    /// - Takes: oids.
    pub fn of_tables(&self, oids: impl IntoIterator<Item = u32>) -> TableRights {
        let Parts { shared, tables, .. } = &*self.0;
        let of = |oid: u32| (oid, tables.get(&oid).cloned());
        TableRights { shared: shared.clone(), tables: oids.into_iter().map(of).collect() }
    }
}
