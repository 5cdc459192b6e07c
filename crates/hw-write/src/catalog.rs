//! What the catalog says about the tables and roles of writes, remembered for a few seconds.
//!
//! Every identifier in our SQL comes from here. What decides about safety (the role's attributes,
//! who owns a table) is as old as [`FRESH`] at most; what merely makes the SQL fit is also
//! forgotten when Postgres answers that it no longer fits.

use std::collections::HashMap;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use hw_pg::error::{Doing as _, PgError, ServerError};
use hw_pg::types::TypeCatalog;
use hw_types::relation::quote_ident;
use hw_types::{PgType, TableName};
use parking_lot::Mutex;
use tokio_postgres::types::{Kind, Type};
use tokio_postgres::{Client, GenericClient};

/// How long an answer of the catalog is believed.
const FRESH: Duration = Duration::from_secs(5);

/// Roles that other products create for signed-in users, in the order in which we look for them;
/// the last is our own, made by `headwater setup`.
/// Source: `protocols/datasync.md` 12.
pub const USUAL_ROLES: [&str; 3] =
    ["ihp_authenticated", "authenticated", "headwater_authenticated"];

/// A database role that may write for a principal.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum RoleStanding {
    Usable,
    Missing,
    /// Superuser or BYPASSRLS: policies would not hold for it.
    AboveThePolicies,
    /// The server's own login may not `SET ROLE` to it. Holds that login's name.
    NotOurs(String),
}

/// A table as writes need it.
#[derive(Debug)]
pub(crate) struct Table {
    pub(crate) oid: u32,
    /// Changes whenever the table or one of its columns is altered. See [`versions`].
    pub(crate) version: String,
    /// Quoted, with its schema.
    pub(crate) quoted: String,
    /// Whether the writing role has the owner's rights without FORCE ROW LEVEL SECURITY, so that
    /// policies would not hold.
    pub(crate) owned_by_role: bool,
    /// Ordinary or partitioned.
    pub(crate) is_table: bool,
    columns: HashMap<String, Column>,
    /// The column numbers of each unique index that finds a row, ascending.
    unique_keys: Vec<Vec<i16>>,
    /// Set by [`Table::remember_inserts_only`], gone with this description.
    inserts_only: AtomicBool,
}

/// A column as writes need it.
#[derive(Debug)]
pub(crate) struct Column {
    number: i16,
    /// Quoted.
    pub(crate) quoted: String,
    pub(crate) pg_type: PgType,
    /// The type of its parameters: the one below any domains, without length or precision, so that
    /// the assignment to the column judges both. (A cast to `varchar(5)` would cut silently.)
    pub(crate) parameter: Type,
    /// The length or precision that the assignment checks, in the type's own coding; -1: none.
    pub(crate) modifier: i32,
    /// Computed by Postgres (GENERATED ALWAYS AS …).
    pub(crate) generated: bool,
    /// Whether clients are sent it: neither generated nor left out of the publication's columns.
    pub(crate) delivered: bool,
}

impl Table {
    pub(crate) fn column(&self, name: &str) -> Option<&Column> {
        self.columns.get(name)
    }

    /// Whether a unique index on just these columns can find a row.
    pub(crate) fn is_unique<'a>(&self, columns: impl Iterator<Item = &'a Column>) -> bool {
        let mut numbers: Vec<i16> = columns.map(|column| column.number).collect();
        numbers.sort_unstable();
        self.unique_keys.contains(&numbers)
    }

    /// Whether a PUT of the writing role was lately refused as an upsert and accepted as an
    /// INSERT, so that the next one had better run behind a savepoint at once.
    pub(crate) fn inserts_only(&self) -> bool {
        self.inserts_only.load(Ordering::Relaxed)
    }

    /// A PUT was refused as an upsert and accepted as an INSERT.
    pub(crate) fn remember_inserts_only(&self) {
        self.inserts_only.store(true, Ordering::Relaxed);
    }
}

/// An answer of the catalog, and when it was given.
pub(crate) struct Kept<T> {
    at: Instant,
    value: T,
}

impl<T: Clone> Kept<T> {
    pub(crate) fn new(value: T) -> Kept<T> {
        Kept { at: Instant::now(), value }
    }

    pub(crate) fn fresh(&self) -> Option<T> {
        (self.at.elapsed() < FRESH).then(|| self.value.clone())
    }
}

type KeptTable = Kept<Option<Arc<Table>>>;

/// The memory of the catalog.
#[derive(Default)]
pub(crate) struct Catalog {
    /// The publication whose columns clients are sent.
    publication: Option<String>,
    roles: Mutex<HashMap<String, Kept<RoleStanding>>>,
    usual_role: Mutex<Option<Kept<Option<String>>>>,
    /// By role and table; `None`: there is no such table.
    tables: Mutex<HashMap<(String, TableName), KeptTable>>,
}

impl Catalog {
    /// Takes: the publication that says which columns clients are sent; `None`: all of them.
    pub(crate) fn new(publication: Option<String>) -> Catalog {
        Catalog { publication, ..Catalog::default() }
    }

    /// Forgets the tables and roles, after Postgres said that something does not exist or fit.
    pub(crate) fn forget(&self) {
        self.tables.lock().clear();
        self.roles.lock().clear();
    }

    /// The first of the usual roles that exists.
    pub(crate) async fn usual_role(&self, client: &Client) -> Result<Option<String>, PgError> {
        if let Some(known) = self.usual_role.lock().as_ref().and_then(Kept::fresh) {
            return Ok(known);
        }
        let names: Vec<&str> = USUAL_ROLES.to_vec();
        let rows = client
            .query_typed(
                "SELECT rolname::text FROM pg_catalog.pg_roles WHERE rolname = ANY($1) \
                 ORDER BY pg_catalog.array_position($1, rolname::text) LIMIT 1",
                &[(&names, Type::TEXT_ARRAY)],
            )
            .await
            .doing("look for the role of writes")?;
        let found = rows.first().map(|row| row.get::<_, String>(0));
        *self.usual_role.lock() = Some(Kept::new(found.clone()));
        Ok(found)
    }

    /// Whether a role may write for principals.
    pub(crate) async fn role(&self, client: &Client, role: &str) -> Result<RoleStanding, PgError> {
        if let Some(known) = self.roles.lock().get(role).and_then(Kept::fresh) {
            return Ok(known);
        }
        let rows = client
            .query_typed(
                "SELECT rolsuper OR rolbypassrls, \
                        pg_catalog.pg_has_role(current_user, oid, \
                          CASE WHEN pg_catalog.current_setting('server_version_num')::int4 \
                                    >= 160000 THEN 'SET' ELSE 'MEMBER' END), \
                        current_user::text \
                 FROM pg_catalog.pg_roles WHERE rolname = $1",
                &[(&role, Type::TEXT)],
            )
            .await
            .doing("read the role of writes")?;
        let standing = match rows.first() {
            None => RoleStanding::Missing,
            Some(row) if row.get(0) => RoleStanding::AboveThePolicies,
            Some(row) if !row.get::<_, bool>(1) => RoleStanding::NotOurs(row.get(2)),
            Some(_) => RoleStanding::Usable,
        };
        let kept = Kept::new(standing.clone());
        self.roles.lock().insert(role.to_owned(), kept);
        Ok(standing)
    }

    /// A table as this role would write it; `None` when there is none of that name.
    pub(crate) async fn table(
        &self,
        client: &Client,
        role: &str,
        name: &TableName,
    ) -> Result<Option<Arc<Table>>, PgError> {
        let key = (role.to_owned(), name.clone());
        if let Some(known) = self.tables.lock().get(&key).and_then(Kept::fresh) {
            return Ok(known);
        }
        let table =
            read_table(client, role, name, self.publication.as_deref()).await?.map(Arc::new);
        let kept = Kept::new(table.clone());
        self.tables.lock().insert(key, kept);
        Ok(table)
    }
}

/// Reads a table as this role would write it; `None` when there is none of that name.
pub(crate) async fn read_table(
    client: &Client,
    role: &str,
    name: &TableName,
    publication: Option<&str>,
) -> Result<Option<Table>, PgError> {
    let doing = "read the table to write from the catalog";
    let rows = client
        .query_typed(
            TABLE,
            &[(&name.schema, Type::TEXT), (&name.name, Type::TEXT), (&role, Type::TEXT)],
        )
        .await
        .doing(doing)?;
    let Some(row) = rows.first() else { return Ok(None) };
    let oid: u32 = row.get(0);
    let (is_table, owned_by_role, version) = (row.get(1), row.get(2), row.get(3));
    let unique_keys: Vec<String> = row.get(4);
    let rows = client
        .query_typed(COLUMNS, &[(&oid, Type::OID), (&publication, Type::TEXT)])
        .await
        .doing(doing)?;
    let types: Vec<u32> = rows.iter().map(|row| row.get(1)).collect();
    let types = TypeCatalog::load(client, &types).await?;
    let columns = rows
        .iter()
        .map(|row| {
            let name: String = row.get(0);
            let generated = row.get(3);
            let column = Column {
                number: row.get(4),
                quoted: quote_ident(&name),
                pg_type: types.resolve(row.get(1)),
                parameter: parameter_type(row.get(2)),
                modifier: row.get(5),
                generated,
                delivered: !generated && row.get::<_, bool>(6),
            };
            (name, column)
        })
        .collect();
    Ok(Some(Table {
        oid,
        version,
        quoted: name.quoted(),
        owned_by_role,
        is_table,
        columns,
        unique_keys: unique_keys.iter().map(|numbers| sorted_numbers(numbers)).collect(),
        inserts_only: AtomicBool::new(false),
    }))
}

/// Column numbers, ascending.
fn sorted_numbers(text: &str) -> Vec<i16> {
    let mut numbers: Vec<i16> = text.split(' ').filter_map(|number| number.parse().ok()).collect();
    numbers.sort_unstable();
    numbers
}

/// A type by its oid alone: a name would need a privilege on its schema.
fn parameter_type(oid: u32) -> Type {
    Type::from_oid(oid)
        .unwrap_or_else(|| Type::new(String::new(), oid, Kind::Simple, String::new()))
}

/// The versions of tables at this moment, in any order; a table that is gone is left out. For a role that has come
/// to stand above policies they are none that anybody has noted.
///
/// A column's type may change while our description is still fresh, and a value that went through
/// the old type may fit the new one without being the client's.
pub(crate) async fn versions(
    client: &impl GenericClient,
    role: &str,
    oids: &[u32],
) -> Result<Vec<(u32, String)>, PgError> {
    let rows = client
        .query_typed(VERSIONS, &[(&oids, Type::OID_ARRAY), (&role, Type::TEXT)])
        .await
        .doing("look whether the tables have changed")?;
    Ok(rows.iter().map(|row| (row.get(0), row.get(1))).collect())
}

/// Whether a violated unique constraint is one on just these columns, of the table or of one of
/// its partitions; the catalog is asked, because nobody else may be allowed to see the row.
pub(crate) async fn is_key(
    client: &impl GenericClient,
    table: &Table,
    columns: &[String],
    error: &ServerError,
) -> Result<bool, PgError> {
    let rows = client
        .query_typed(
            IS_KEY,
            &[
                (&table.oid, Type::OID),
                (&columns, Type::TEXT_ARRAY),
                (&error.schema, Type::TEXT),
                (&error.constraint, Type::TEXT),
            ],
        )
        .await
        .doing("look which constraint was violated")?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// Whether there is a constraint or an index of this name: a function may report any text as one.
pub(crate) async fn is_constraint(
    client: &impl GenericClient,
    name: &str,
) -> Result<bool, PgError> {
    let rows = client
        .query_typed(
            "SELECT EXISTS (SELECT FROM pg_catalog.pg_constraint WHERE conname = $1::text::name) \
                 OR EXISTS (SELECT FROM pg_catalog.pg_class \
                            WHERE relname = $1::text::name AND relkind IN ('i', 'I'))",
            &[(&name, Type::TEXT)],
        )
        .await
        .doing("look whether a constraint is one")?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

// A constraint has the name of its index, also when Postgres reports the violation.
const IS_KEY: &str = "\
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_index i
  JOIN pg_catalog.pg_class c ON c.oid = i.indexrelid
  JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = $3 AND c.relname = $4
    AND i.indisunique AND i.indnkeyatts = pg_catalog.cardinality($2)
    AND NOT EXISTS (
      SELECT FROM pg_catalog.unnest($2) AS key(name)
      WHERE NOT EXISTS (
        SELECT FROM pg_catalog.pg_attribute a
        WHERE a.attrelid = i.indrelid AND a.attname = key.name
          AND a.attnum = ANY ((i.indkey::int2[])[0:i.indnkeyatts - 1])
      )
    )
    AND (i.indrelid = $1 OR i.indrelid IN (
      SELECT relid FROM pg_catalog.pg_partition_tree($1::pg_catalog.regclass)
    ))
)";

/// The version of the table `c`, in SQL: every ALTER TABLE writes a new row of `pg_class` or `pg_attribute`, with its
/// own transaction id.
macro_rules! version {
    () => {
        "c.xmin::text || '/' || (
         SELECT coalesce(max(a.xmin::text::int8), 0)
         FROM pg_catalog.pg_attribute a WHERE a.attrelid = c.oid AND a.attnum > 0
       )"
    };
}
pub(crate) use version;

const VERSIONS: &str = concat!(
    "SELECT c.oid, ",
    version!(),
    " || CASE WHEN (SELECT r.rolsuper OR r.rolbypassrls FROM pg_catalog.pg_roles r WHERE r.rolname = $2)
                 THEN ' above policies' ELSE '' END
FROM pg_catalog.pg_class c
WHERE c.oid = ANY($1)"
);

// A unique index finds a row only if it is valid, whole (no WHERE), immediate, and on columns
// themselves. Its NULLS DISTINCT does not matter: a part of a client's id is never NULL.
const TABLE: &str = concat!(
    "\
SELECT c.oid,
       c.relkind IN ('r', 'p'),
       pg_catalog.pg_has_role($3::text::name, c.relowner, 'USAGE') AND NOT c.relforcerowsecurity,
       ",
    version!(),
    ",
       ARRAY(
         SELECT pg_catalog.array_to_string((i.indkey::int2[])[0:i.indnkeyatts - 1], ' ')
         FROM pg_catalog.pg_index i
         WHERE i.indrelid = c.oid AND i.indisunique AND i.indisvalid AND i.indimmediate
           AND i.indpred IS NULL AND i.indexprs IS NULL
       )
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = $1 AND c.relname = $2"
);

// Publications have lists of columns since Postgres 15; the row as JSON has the list where there
// is one. A type's modifier stands with the outermost domain that has one.
const COLUMNS: &str = "\
WITH RECURSIVE base AS (
  SELECT a.attnum, a.atttypid AS oid, a.atttypmod AS modifier
  FROM pg_catalog.pg_attribute a
  WHERE a.attrelid = $1 AND a.attnum > 0 AND NOT a.attisdropped
  UNION ALL
  SELECT base.attnum, t.typbasetype,
         CASE WHEN base.modifier >= 0 THEN base.modifier ELSE t.typtypmod END
  FROM base JOIN pg_catalog.pg_type t ON t.oid = base.oid
  WHERE t.typtype = 'd'
), listed AS (
  SELECT pg_catalog.regexp_split_to_array(
           pg_catalog.btrim(pg_catalog.to_jsonb(pr) ->> 'prattrs', '[]'), '[ ,]+') AS columns
  FROM pg_catalog.pg_publication_rel pr
  JOIN pg_catalog.pg_publication p ON p.oid = pr.prpubid
  WHERE pr.prrelid = $1 AND p.pubname = $2
)
SELECT a.attname::text, a.atttypid, t.oid,
       a.attgenerated <> '',
       a.attnum, base.modifier,
       NOT EXISTS (
         SELECT FROM listed WHERE listed.columns IS NOT NULL
           AND NOT a.attnum::text = ANY (listed.columns)
       )
FROM base
JOIN pg_catalog.pg_attribute a ON a.attrelid = $1 AND a.attnum = base.attnum
JOIN pg_catalog.pg_type t ON t.oid = base.oid AND t.typtype <> 'd'
ORDER BY a.attnum";
