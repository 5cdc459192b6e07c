//! One text for everything in the catalog that decides who sees which rows: policies, grants, flags, owners,
//! functions, memberships, unique keys. As long as it stays the same, so does what [`crate::policies`] reads, and the
//! log tells all that becomes of rows: what is published is in it, and when columns were last made anew, since ALTER
//! TABLE writes rows of which the log says nothing.
//!
//! Postgres reads the catalog of *now* also in a transaction whose rows are of an earlier moment, so a question
//! is good only where this text was the same before and behind it (`design/engine.md` 11).

use crate::error::{Doing as _, Result};
use std::sync::Arc;
use tokio_postgres::GenericClient;

/// A state of all that decides who sees which rows.
#[derive(Clone, Debug, Default, PartialEq, Eq, Hash)]
pub struct Rights(Arc<str>);

/// Rows of catalogs whose `xmin` changes with everything else that is updated stand with what matters of them.
const RIGHTS: &str = "\
WITH own AS (
  SELECT c.* FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
    AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
    AND n.nspname NOT LIKE 'pg\\_temp\\_%'),
parts (part) AS (VALUES
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_policy)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, relname, relnamespace, relowner,
             relrowsecurity, relforcerowsecurity, relhassubclass, relispartition, relpersistence, relreplident,
             coalesce(relacl::text, '')), ',' ORDER BY oid)
    FROM own)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', a.attrelid, a.attnum, a.xmin), ','
             ORDER BY a.attrelid, a.attnum)
    FROM pg_catalog.pg_attribute a JOIN own ON own.oid = a.attrelid
    WHERE a.attnum > 0 AND NOT a.attisdropped)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', i.indexrelid, i.indrelid, i.indisprimary,
             i.indisvalid, i.indimmediate, i.indkey::text, i.indnkeyatts, i.indpred IS NULL, i.indexprs IS NULL), ','
             ORDER BY i.indexrelid)
    FROM pg_catalog.pg_index i JOIN own ON own.oid = i.indrelid WHERE i.indisunique)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_proc WHERE pronamespace <> 'pg_catalog'::pg_catalog.regnamespace)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', roleid, member, xmin), ',' ORDER BY roleid, member)
    FROM pg_catalog.pg_auth_members)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, rolname, rolsuper, rolinherit, rolbypassrls),
             ',' ORDER BY oid)
    FROM pg_catalog.pg_roles)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, nspname, nspowner, coalesce(nspacl::text, '')),
             ',' ORDER BY oid)
    FROM pg_catalog.pg_namespace WHERE nspname NOT LIKE 'pg\\_temp\\_%' AND nspname NOT LIKE 'pg\\_toast\\_temp\\_%')),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_operator WHERE oprnamespace <> 'pg_catalog'::pg_catalog.regnamespace)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_cast WHERE oid >= 16384)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_publication)),
  -- Tables and schemas in publications, each with an oid that is new with whatever changes of it.
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', classid, objid, refobjid), ',' ORDER BY classid, objid)
    FROM pg_catalog.pg_depend WHERE refclassid = 'pg_catalog.pg_publication'::pg_catalog.regclass)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', t.oid, t.xmin), ',' ORDER BY t.oid)
    FROM pg_catalog.pg_type t WHERE t.oid >= 16384 AND t.typtype IN ('e', 'd', 'r', 'm'))),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', oid, xmin), ',' ORDER BY oid)
    FROM pg_catalog.pg_enum)),
  ((SELECT pg_catalog.string_agg(pg_catalog.concat_ws(':', setdatabase, setrole, setconfig::text), ','
             ORDER BY setdatabase, setrole)
    FROM pg_catalog.pg_db_role_setting)))
SELECT pg_catalog.md5(pg_catalog.string_agg(coalesce(part, ''), '|')) FROM parts";

impl Rights {
    /// Reads it: as of now on a connection outside of a transaction, else as of the transaction's snapshot.
    pub async fn read(client: &impl GenericClient) -> Result<Rights> {
        let row = client.query_one(RIGHTS, &[]).await.doing("read who may see what")?;
        Ok(Rights(row.try_get::<_, String>(0)?.into()))
    }
}
