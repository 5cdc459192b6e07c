//! Row level security as the catalog has it: which policies apply to whom, and what their names mean.
//!
//! In: an SQL connection and a role. Out: [`RowSecurity`], from which `hw_expr::postgres` makes conditions.
//! It is of *now*, which is ahead of what the log has told so far.
//!
//! Names in bodies of functions are resolved by Postgres when these run, among everything that is in the
//! search path: relations of every kind, functions of every kind with their defaults, operators. All of them
//! are read here, so that whatever could be meant instead of what is known is a reason to refuse.
//!
//! Source: PostgreSQL manual, "Row Security Policies", and `rowsecurity.c`: for a SELECT those policies
//! apply that are for ALL or SELECT and for PUBLIC or a role whose privileges the reader has; owners,
//! superusers and roles with BYPASSRLS are exempt, owners unless it is forced.

mod readings;
mod streams;

pub use hw_expr::postgres::Unseen;
pub use readings::{Reading, Readings};
pub use streams::{Basis, PolicyStreams, RefusedPolicy, TableStream, one_line};

use crate::error::{Doing as _, Result};
use crate::rights::Rights;
use crate::types::{TypeCatalog, canonical_from_text};
use hw_expr::postgres::{
    Condition, Helper, JsonOfDatabase, Lookup, Names, Refusal, Scalar, Table, Type, Visible,
};
use hw_types::PgType;
use hw_types::text::to_text;
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, IsolationLevel, Row, Transaction};

/// Tables with their policies, and what these refer to, for one role that asks.
#[derive(Debug, Default)]
pub struct RowSecurity {
    rights: Rights,
    role: String,
    path: Vec<String>,
    tables: Vec<SecuredTable>,
    functions: Vec<Function>,
    /// Schema and name of operators that Postgres did not come with, and that take types whose values are known.
    operators: BTreeSet<(String, String)>,
    has_casts: bool,
    json: JsonOfDatabase,
    /// Schema and name of types, with the oid.
    named_types: BTreeMap<(String, String), u32>,
    /// The labels of enums.
    labels: BTreeMap<u32, BTreeSet<String>>,
    types: TypeCatalog,
    schemas: BTreeSet<String>,
    roles: BTreeMap<String, Role>,
}

/// A table, or something else that a FROM can name.
#[derive(Debug)]
pub struct SecuredTable {
    /// Oid.
    pub id: u32,
    /// Schema and name.
    pub name: (String, String),
    /// Whether row security is enabled.
    pub enabled: bool,
    /// Whether it also applies to the owner.
    pub forced: bool,
    owner: String,
    /// Why its rows are not known here, if so.
    unknown: Option<&'static str>,
    /// Those whose values are in the log.
    columns: Vec<Column>,
    is_partition: bool,
    keys: Vec<Key>,
    /// All of its policies for ALL and SELECT, whomever they are for.
    pub policies: Vec<Policy>,
}

/// Columns of which no two rows have the same values.
#[derive(Debug)]
struct Key {
    columns: Vec<String>,
    is_primary: bool,
    /// Whether every row has values of all of them.
    not_null: bool,
}

#[derive(Debug)]
struct Column {
    name: String,
    type_oid: u32,
    /// Whether equal texts have equal bytes.
    deterministic: bool,
}

/// A policy that decides what is read.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Oid, greater than those of policies that were made before.
    pub id: u32,
    /// Its name.
    pub name: String,
    /// Whether it admits; if not, it restricts what others admit.
    pub permissive: bool,
    /// Whom it is for; nobody by name is PUBLIC.
    pub roles: Vec<String>,
    /// `USING`, as `pg_get_expr` prints it under an empty search path. A policy without one neither admits
    /// nor restricts.
    pub using: Option<String>,
}

/// Why row security does not stand between a role and a table.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Exemption {
    /// There is no such role.
    NoRole,
    /// The role is a superuser or has BYPASSRLS.
    AboveThePolicies,
    /// The table has no row security.
    NotEnabled,
    /// The role has the rights of the table's owner, and row security is not forced.
    Owner,
}

#[derive(Debug)]
struct Role {
    /// Superuser or BYPASSRLS.
    exempt: bool,
    /// Whether whoever asks here may take it.
    is_taken: bool,
    /// Whose privileges it has, itself included.
    privileges: BTreeSet<String>,
    /// The schemas whose contents it may name.
    schemas: BTreeSet<String>,
    /// The tables that it may read all of, and those of which it may read some columns.
    readable: BTreeSet<u32>,
    partly_readable: BTreeSet<u32>,
    /// The functions that it may call.
    callable: BTreeSet<u32>,
    /// The memberships by which it has privileges, with the transactions that wrote them.
    memberships: String,
}

#[derive(Debug)]
struct Function {
    id: u32,
    /// The transaction that wrote it.
    version: String,
    schema: String,
    name: String,
    arguments: Vec<(Option<String>, u32)>,
    /// What the last arguments are where they are left out; without a text it is not known.
    defaults: Vec<Option<String>>,
    /// Whether it takes any number of arguments.
    is_variadic: bool,
    /// Whether Postgres itself has a function of this name.
    clashes: bool,
    result: u32,
    returns_set: bool,
    strict: bool,
    /// The owner, if it runs as its owner.
    owner: Option<String>,
    path: Option<Vec<String>>,
    /// `SELECT` and an expression, or why there is no such form of it.
    body: std::result::Result<String, &'static str>,
}

/// Everything that a FROM can name. (A table that others inherit from gives their rows as its own.)
const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, o.rolname,
       columns.names, columns.types, columns.deterministic,
       CASE WHEN c.relkind NOT IN ('p', 'r') THEN 'other'
            WHEN c.relkind = 'r' AND EXISTS (
              SELECT FROM pg_catalog.pg_inherits i JOIN pg_catalog.pg_class heir ON heir.oid = i.inhrelid
              WHERE i.inhparent = c.oid AND heir.relpersistence <> 't') THEN 'inherited'
            ELSE '' END, c.relispartition
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles o ON o.oid = c.relowner
CROSS JOIN LATERAL (
  SELECT coalesce(pg_catalog.array_agg(a.attname::text ORDER BY a.attnum), '{}') AS names,
         coalesce(pg_catalog.array_agg(a.atttypid ORDER BY a.attnum), '{}') AS types,
         coalesce(pg_catalog.array_agg(coalesce(l.collisdeterministic, true) ORDER BY a.attnum), '{}')
           AS deterministic
  FROM pg_catalog.pg_attribute a
  LEFT JOIN pg_catalog.pg_collation l ON l.oid = a.attcollation
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped AND a.attgenerated = '') columns
WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f')
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname NOT LIKE 'pg\\_temp\\_%'
ORDER BY n.nspname, c.relname";

/// Unique keys that hold after every statement, for all rows.
const KEYS: &str = "\
SELECT i.indrelid, i.indisprimary, k.names, k.not_null
FROM pg_catalog.pg_index i
CROSS JOIN LATERAL (
  SELECT pg_catalog.array_agg(a.attname::text ORDER BY n.place) AS names,
         pg_catalog.bool_and(a.attnotnull) AS not_null
  FROM pg_catalog.unnest(i.indkey::int2[]) WITH ORDINALITY AS n (number, place)
  JOIN pg_catalog.pg_attribute a ON a.attrelid = i.indrelid AND a.attnum = n.number
  WHERE n.place <= i.indnkeyatts) k
WHERE i.indisunique AND i.indisvalid AND i.indimmediate AND i.indpred IS NULL AND i.indexprs IS NULL
ORDER BY i.indrelid, i.indexrelid";

const POLICIES: &str = "\
SELECT p.polrelid, p.polname, p.polpermissive,
       (SELECT coalesce(pg_catalog.array_agg(r.rolname::text), '{}') FROM pg_catalog.pg_roles r
        WHERE r.oid = ANY (p.polroles)),
       pg_catalog.pg_get_expr(p.polqual, p.polrelid), p.oid
FROM pg_catalog.pg_policy p
WHERE p.polcmd IN ('*', 'r')
ORDER BY p.polrelid, p.polname";

const FUNCTIONS: &str = "\
SELECT p.oid, n.nspname, p.proname, p.proargtypes::oid[], p.proargnames, p.pronargdefaults, p.provariadic <> 0,
       EXISTS (SELECT FROM pg_catalog.pg_proc b
               WHERE b.pronamespace = 'pg_catalog'::pg_catalog.regnamespace AND b.proname = p.proname),
       p.prorettype, p.proisstrict, CASE WHEN p.prosecdef THEN o.rolname::text END, p.proconfig, l.lanname,
       coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc),
       p.proargmodes IS NOT NULL OR p.prokind <> 'f', p.proretset,
       ARRAY (SELECT pg_catalog.pg_get_function_arg_default(p.oid, n)
              FROM pg_catalog.generate_series(p.pronargs - p.pronargdefaults + 1, p.pronargs) n ORDER BY n),
       pg_catalog.concat_ws(':', p.xmin, n.xmin)
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
JOIN pg_catalog.pg_roles o ON o.oid = p.proowner
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema')
ORDER BY n.nspname, p.proname, p.oid";

/// Operators that could be taken for those of Postgres itself: over its own types, and over enums and domains, which
/// it compares as what they are made of where there is nothing nearer.
const OPERATORS: &str = "\
SELECT n.nspname, o.oprname FROM pg_catalog.pg_operator o
JOIN pg_catalog.pg_namespace n ON n.oid = o.oprnamespace
WHERE o.oid >= 16384
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_type t
                  WHERE t.oid IN (o.oprleft, o.oprright) AND t.typtype NOT IN ('e', 'd')
                    AND t.typnamespace <> 'pg_catalog'::pg_catalog.regnamespace)";

/// Casts that Postgres did not come with between its own types, and of enums to texts: they are printed as its own.
const CASTS: &str = "\
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_cast c
  JOIN pg_catalog.pg_type f ON f.oid = c.castsource JOIN pg_catalog.pg_type t ON t.oid = c.casttarget
  WHERE c.oid >= 16384 AND t.typnamespace = 'pg_catalog'::pg_catalog.regnamespace
    AND (f.typnamespace = 'pg_catalog'::pg_catalog.regnamespace OR f.typtype = 'e' AND t.typcategory = 'S'))";

/// What the database adds to the rules by which values become JSON. Casts from domains, composites and arrays
/// are not used for it, and those from types that are carried as text decide nothing here.
const JSON: &str = "\
SELECT EXISTS (
  SELECT FROM pg_catalog.pg_cast c JOIN pg_catalog.pg_type f ON f.oid = c.castsource
  WHERE c.casttarget = 'pg_catalog.json'::pg_catalog.regtype AND c.castmethod = 'f' AND f.oid >= 16384
    AND (f.typtype IN ('e', 'r', 'm') OR f.typname = 'citext')),
  pg_catalog.current_setting('server_encoding') = 'UTF8'";

const NAMED_TYPES: &str = "\
SELECT n.nspname, t.typname, t.oid,
       CASE WHEN t.typtype = 'e' THEN (SELECT pg_catalog.array_agg(e.enumlabel::text)
                                       FROM pg_catalog.pg_enum e WHERE e.enumtypid = t.oid) END
FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')";

/// What each of some roles is and has.
const ROLES: &str = "\
SELECT r.rolname, r.rolsuper OR r.rolbypassrls,
       ARRAY (SELECT o.rolname::text FROM pg_catalog.pg_roles o
              WHERE pg_catalog.pg_has_role(r.oid, o.oid, 'USAGE')),
       ARRAY (SELECT n.nspname::text FROM pg_catalog.pg_namespace n
              WHERE pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')),
       ARRAY (SELECT c.oid FROM pg_catalog.pg_class c
              WHERE c.relkind IN ('r', 'p', 'v', 'm', 'f') AND pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT')),
       ARRAY (SELECT c.oid FROM pg_catalog.pg_class c
              WHERE c.relkind IN ('r', 'p') AND pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT')),
       ARRAY (SELECT p.oid FROM pg_catalog.pg_proc p
              WHERE p.pronamespace <> 'pg_catalog'::pg_catalog.regnamespace
                AND pg_catalog.has_function_privilege(r.oid, p.oid, 'EXECUTE')),
       pg_catalog.pg_has_role(r.oid, 'MEMBER'),
       (SELECT coalesce(pg_catalog.string_agg(pg_catalog.concat_ws(':', m.roleid, m.member, m.xmin), ','
                                              ORDER BY m.roleid, m.member, m.xmin::text), '')
        FROM pg_catalog.pg_auth_members m WHERE pg_catalog.pg_has_role(r.oid, m.member, 'MEMBER'))
FROM pg_catalog.pg_roles r WHERE r.rolname::text = ANY ($1)";

const DOING: &str = "read row level security from the catalog";

impl RowSecurity {
    /// Reads what decides which rows a role sees, as of one moment.
    ///
    /// - Takes: a connection outside of a transaction; the role that asks. Names in functions are resolved as
    ///   in a session like this one in which the role was taken.
    pub async fn read(client: &mut Client, role: &str) -> Result<RowSecurity> {
        let path = client.query_one("SELECT pg_catalog.current_setting('search_path')", &[]);
        let path: String = path.await.doing(DOING)?.try_get(0)?;
        let transaction = client
            .build_transaction()
            .isolation_level(IsolationLevel::RepeatableRead)
            .read_only(true)
            .start()
            .await
            .doing(DOING)?;
        // So that names in printed texts are qualified.
        transaction.batch_execute("SET LOCAL search_path = ''").await.doing(DOING)?;
        let read = RowSecurity::read_all(&transaction, role, schemas(&path)).await?;
        transaction.commit().await.doing(DOING)?;
        Ok(read)
    }

    /// The state of the catalog that it was read of.
    pub fn rights(&self) -> &Rights {
        &self.rights
    }

    async fn read_all(
        transaction: &Transaction<'_>,
        role: &str,
        path: Vec<String>,
    ) -> Result<RowSecurity> {
        let rows =
            |query: &'static str| async move { transaction.query(query, &[]).await.doing(DOING) };
        let rights = Rights::read(transaction).await?;
        let mut security =
            RowSecurity { rights, role: role.to_owned(), path, ..RowSecurity::default() };
        for row in rows(TABLES).await? {
            security.tables.push(SecuredTable::of(&row)?);
        }
        for row in rows(KEYS).await? {
            let id: u32 = row.try_get(0)?;
            let key = Key {
                is_primary: row.try_get(1)?,
                columns: row.try_get(2)?,
                not_null: row.try_get(3)?,
            };
            if let Some(table) = security.tables.iter_mut().find(|table| table.id == id) {
                table.keys.push(key);
            }
        }
        for row in rows(POLICIES).await? {
            let id: u32 = row.try_get(0)?;
            let policy = Policy {
                id: row.try_get(5)?,
                name: row.try_get(1)?,
                permissive: row.try_get(2)?,
                roles: row.try_get(3)?,
                using: row.try_get(4)?,
            };
            if let Some(table) = security.tables.iter_mut().find(|table| table.id == id) {
                table.policies.push(policy);
            }
        }
        for row in rows(FUNCTIONS).await? {
            security.functions.push(Function::of(&row)?);
        }
        for row in rows(OPERATORS).await? {
            security.operators.insert((row.try_get(0)?, row.try_get(1)?));
        }
        security.has_casts = transaction.query_one(CASTS, &[]).await.doing(DOING)?.try_get(0)?;
        let json = transaction.query_one(JSON, &[]).await.doing(DOING)?;
        security.json = JsonOfDatabase { has_casts: json.try_get(0)?, is_utf8: json.try_get(1)? };
        for row in rows(NAMED_TYPES).await? {
            let oid = row.try_get(2)?;
            security.named_types.insert((row.try_get(0)?, row.try_get(1)?), oid);
            if let Some(labels) = row.try_get::<_, Option<Vec<String>>>(3)? {
                security.labels.insert(oid, labels.into_iter().collect());
            }
        }
        for row in rows("SELECT nspname::text FROM pg_catalog.pg_namespace").await? {
            security.schemas.insert(row.try_get(0)?);
        }
        let owners = security.functions.iter().filter_map(|function| function.owner.clone());
        let names: BTreeSet<String> = owners.chain([role.to_owned()]).collect();
        let names: Vec<String> = names.into_iter().collect();
        for row in transaction.query(ROLES, &[&names]).await.doing(DOING)? {
            security.roles.insert(row.try_get(0)?, Role::of(&row)?);
        }
        let of_columns =
            security.tables.iter().flat_map(|t| t.columns.iter().map(|column| column.type_oid));
        let of_functions = security
            .functions
            .iter()
            .flat_map(|f| f.arguments.iter().map(|(_, oid)| *oid).chain([f.result]));
        let oids: BTreeSet<u32> = of_columns.chain(of_functions).collect();
        let oids: Vec<u32> = oids.into_iter().collect();
        security.types = TypeCatalog::load(transaction, &oids).await?;
        Ok(security)
    }

    /// What the database adds to the rules by which values become JSON.
    pub fn json(&self) -> JsonOfDatabase {
        self.json
    }

    /// By which transactions the functions that a name may mean were written, and what their role is a member of.
    fn versions(&self, lookup: &Lookup, name: &str) -> Vec<&str> {
        let is_named = |function: &&Function| {
            function.name == name && lookup.schemas.contains(&function.schema)
        };
        let functions = self.functions.iter().filter(is_named);
        let role = self.roles.get(&lookup.role).map(|role| &*role.memberships);
        functions.map(|function| &*function.version).chain(role).collect()
    }

    /// Whether there is the role that asks.
    pub fn has_role(&self) -> bool {
        self.roles.contains_key(&self.role)
    }

    /// The tables, by schema and name. (Views and foreign tables have no policies.)
    pub fn tables(&self) -> impl Iterator<Item = &SecuredTable> {
        self.tables.iter().filter(|table| table.unknown != Some(NO_TABLE))
    }

    /// Whether the role that asks can be taken, and may name what is in the schema of a table.
    pub fn may_name(&self, table: &SecuredTable) -> bool {
        let role = self.roles.get(&self.role).filter(|role| role.is_taken);
        role.is_some_and(|role| role.schemas.contains(&table.name.0))
    }

    /// The policies of a table that apply to the role that asks.
    pub fn policies_of<'t>(&'t self, table: &'t SecuredTable) -> impl Iterator<Item = &'t Policy> {
        self.applying(table, &self.role)
    }

    /// A table as the role that asks sees it, for conditions over its rows.
    pub fn table_of(&self, table: &SecuredTable) -> std::result::Result<Table, Unseen> {
        self.seen(table, &self.role)
    }

    /// What the role that asks sees of a table.
    ///
    /// - Errors: it may not read the table, or what one of the policies says is not known here.
    pub fn condition(&self, table: &SecuredTable) -> std::result::Result<Condition, Refusal> {
        let seen = self.table_of(table).map_err(|unseen| {
            let (schema, name) = &table.name;
            let fails = matches!(unseen, Unseen::NotAllowed(_));
            Refusal { expression: format!("{schema}.{name}"), reason: unseen.reason(), fails }
        })?;
        Condition::of_visibility(&seen, self)
    }

    /// Why row security does not stand between the role that asks and a table, if so: then it would be shown
    /// every row.
    pub fn exemption(&self, table: &SecuredTable) -> Option<Exemption> {
        let Some(role) = self.roles.get(&self.role) else { return Some(Exemption::NoRole) };
        if role.exempt {
            return Some(Exemption::AboveThePolicies);
        }
        if !table.enabled {
            return Some(Exemption::NotEnabled);
        }
        let is_owner = role.privileges.contains(&table.owner);
        (is_owner && !table.forced).then_some(Exemption::Owner)
    }

    fn applying<'t>(
        &'t self,
        table: &'t SecuredTable,
        role: &str,
    ) -> impl Iterator<Item = &'t Policy> + use<'t> {
        let privileges = self.roles.get(role).map(|role| &role.privileges);
        table.policies.iter().filter(move |policy| {
            let is_theirs = |named: &String| privileges.is_some_and(|known| known.contains(named));
            policy.roles.is_empty() || policy.roles.iter().any(is_theirs)
        })
    }

    fn seen(&self, table: &SecuredTable, role: &str) -> std::result::Result<Table, Unseen> {
        let (schema, name) = &table.name;
        let Some(known) = self.roles.get(role) else {
            return Err(Unseen::Unknown(format!("the role {role} is not known here")));
        };
        if !known.readable.contains(&table.id) {
            return Err(match known.partly_readable.contains(&table.id) {
                true => Unseen::Unknown(format!(
                    "the role {role} may read some columns of {schema}.{name} only"
                )),
                false => {
                    Unseen::NotAllowed(format!("the role {role} may not read {schema}.{name}"))
                }
            });
        }
        if let Some(reason) = table.unknown {
            return Err(Unseen::Unknown(format!("{schema}.{name} {reason}")));
        }
        let is_owner = known.privileges.contains(&table.owner);
        let visible = match table.enabled && !known.exempt && (table.forced || !is_owner) {
            false => Visible::All,
            true => {
                let texts = |permissive: bool| -> Vec<String> {
                    let of_kind = self.applying(table, role).filter(|p| p.permissive == permissive);
                    of_kind.filter_map(|policy| policy.using.clone()).collect()
                };
                Visible::Where { permissive: texts(true), restrictive: texts(false) }
            }
        };
        Ok(Table { visible, ..self.whole(table) })
    }

    /// A table as somebody sees it who sees all of it.
    pub fn whole(&self, table: &SecuredTable) -> Table {
        let columns = table.columns.iter().map(|column| {
            let ty = match column.deterministic {
                true => self.type_of(column.type_oid),
                false => Type::Other(column.type_oid),
            };
            (column.name.clone(), ty)
        });
        let (number, name) = (table.id, table.name.clone());
        Table { number, name, columns: columns.collect(), visible: Visible::All }
    }

    fn type_of(&self, oid: u32) -> Type {
        Type::of(oid, &self.types.resolve(oid))
    }

    /// The type of a parameter or result; a domain has checks, which are not made here.
    fn type_of_value(&self, oid: u32) -> std::result::Result<Type, String> {
        match self.types.resolve(oid) {
            PgType::Domain(_) => Err("a function over a domain is not known here".into()),
            known => Ok(Type::of(oid, &known)),
        }
    }

    /// Whether every schema of a lookup can be looked into: Postgres passes over those that the role may not
    /// use.
    fn looks_into(&self, lookup: &Lookup) -> std::result::Result<(), Unseen> {
        let usable = self.roles.get(&lookup.role).map(|role| &role.schemas);
        let shut = |schema: &&String| {
            self.schemas.contains(*schema) && !usable.is_some_and(|usable| usable.contains(*schema))
        };
        match lookup.schemas.iter().find(shut).filter(|_| lookup.in_body) {
            Some(schema) => {
                let reason = format!("the role {} may not use the schema {schema}", lookup.role);
                Err(Unseen::NotAllowed(reason))
            }
            None => Ok(()),
        }
    }
}

impl Names for RowSecurity {
    fn role(&self) -> &str {
        &self.role
    }

    fn search_path(&self) -> &[String] {
        &self.path
    }

    fn table(&self, lookup: &Lookup, name: &str) -> std::result::Result<Table, Unseen> {
        self.looks_into(lookup)?;
        let of =
            |schema: &String| self.tables.iter().find(|t| t.name.0 == *schema && t.name.1 == name);
        match lookup.schemas.iter().find_map(of) {
            Some(table) => self.seen(table, &lookup.role).map_err(|unseen| {
                let role = self.roles.get(&lookup.role);
                match role.is_some_and(|role| !role.readable.contains(&table.id)) {
                    // With columns that it may not read Postgres fails.
                    true => Unseen::NotAllowed(unseen.reason()),
                    false => unseen,
                }
            }),
            None => {
                let listed = listed(&lookup.schemas);
                Err(format!("{name} is nothing that is found in {listed}").into())
            }
        }
    }

    fn function(
        &self,
        lookup: &Lookup,
        name: &str,
        arguments: &[Type],
    ) -> std::result::Result<Helper, Unseen> {
        self.looks_into(lookup)?;
        let count = arguments.len();
        let takes = |function: &&Function| {
            let all = function.arguments.len();
            function.is_variadic || (all - function.defaults.len().min(all)..=all).contains(&count)
        };
        let is_named = |function: &&Function| {
            function.name == name && lookup.schemas.contains(&function.schema)
        };
        let mut found: Vec<&Function> =
            self.functions.iter().filter(is_named).filter(takes).collect();
        if !lookup.in_body && found.len() > 1 {
            // Printed with the types that it was resolved for.
            let fits = |function: &&Function| {
                let types = function.arguments.iter().map(|(_, oid)| self.type_of(*oid));
                types.eq(arguments.iter().copied())
            };
            found.retain(fits);
        }
        let [function] = found[..] else {
            return Err(match found.is_empty() {
                true => "what this function computes is not known here".into(),
                false => "several functions of this name could be meant".into(),
            });
        };
        if function.clashes && lookup.in_body && lookup.schemas.len() != 1 {
            return Err("a function of Postgres of this name could be meant".into());
        }
        if !self.roles.get(&lookup.role).is_some_and(|role| role.callable.contains(&function.id)) {
            let reason = format!("the role {} may not call this function", lookup.role);
            return Err(Unseen::NotAllowed(reason));
        }
        let defaults = function.defaults.iter().cloned().collect::<Option<Vec<String>>>();
        let Some(defaults) = defaults.filter(|_| !function.is_variadic) else {
            return Err("a call that leaves out arguments is not known here".into());
        };
        let body = function.body.as_ref().map_err(|reason| (*reason).to_owned())?;
        let parameters = function.arguments.iter();
        let parameters =
            parameters.map(|(name, oid)| Ok((name.clone(), self.type_of_value(*oid)?)));
        Ok(Helper {
            parameters: parameters.collect::<std::result::Result<_, String>>()?,
            result: self.type_of_value(function.result)?,
            returns_set: function.returns_set,
            defaults,
            body: body.clone(),
            path: function.path.clone(),
            strict: function.strict,
            owner: function.owner.clone(),
        })
    }

    fn is_shadowed(&self, lookup: &Lookup, name: &str) -> bool {
        let here = |schema: &String| lookup.schemas.contains(schema);
        // What is in that schema is searched first, and printed without it.
        let operator = |schema: &String| schema == "pg_catalog" || here(schema);
        self.functions.iter().any(|function| function.name == name && here(&function.schema))
            || self.operators.iter().any(|(schema, known)| known == name && operator(schema))
    }

    fn has_equality(&self) -> bool {
        self.operators.iter().any(|(_, operator)| operator == "=")
    }

    fn has_casts(&self) -> bool {
        self.has_casts
    }

    fn named_type(&self, lookup: &Lookup, name: &str) -> Option<Type> {
        self.looks_into(lookup).ok()?;
        let of = |schema: &String| self.named_types.get(&(schema.clone(), name.to_owned()));
        let oid = lookup.schemas.iter().find_map(of)?;
        self.labels.contains_key(oid).then_some(Type::Scalar(Scalar::Enum(*oid)))
    }

    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>> {
        if let Type::Scalar(Scalar::Enum(oid)) = ty {
            let is_label = self.labels.get(&oid)?.contains(text);
            return is_label.then(|| text.as_bytes().to_vec());
        }
        let pg_type = ty.pg_type()?;
        let mut bytes = Vec::new();
        canonical_from_text(&pg_type, text, &mut bytes).ok()?;
        // Postgres reads more forms than it prints, some of them otherwise.
        (to_text(&pg_type, &bytes).ok()? == text).then_some(bytes)
    }
}

fn listed(schemas: &[String]) -> String {
    if schemas.is_empty() { "an empty search path".into() } else { schemas.join(", ") }
}

/// Why a view is nothing whose rows are known.
const NO_TABLE: &str = "is a view or foreign table, whose rows are not known here";

impl SecuredTable {
    fn of(row: &Row) -> Result<SecuredTable> {
        let names: Vec<String> = row.try_get(6)?;
        let types: Vec<u32> = row.try_get(7)?;
        let deterministic: Vec<bool> = row.try_get(8)?;
        let columns = names.into_iter().zip(types).zip(deterministic);
        let columns = columns.map(|((name, type_oid), deterministic)| Column {
            name,
            type_oid,
            deterministic,
        });
        let kind: String = row.try_get(9)?;
        Ok(SecuredTable {
            id: row.try_get(0)?,
            name: (row.try_get(1)?, row.try_get(2)?),
            enabled: row.try_get(3)?,
            forced: row.try_get(4)?,
            owner: row.try_get(5)?,
            unknown: match kind.as_str() {
                "" => None,
                "inherited" => Some("has tables that inherit from it"),
                _ => Some(NO_TABLE),
            },
            columns: columns.collect(),
            is_partition: row.try_get(10)?,
            keys: Vec::new(),
            policies: Vec::new(),
        })
    }
}

impl Role {
    fn of(row: &Row) -> Result<Role> {
        let names = |at: usize| -> Result<BTreeSet<String>> {
            Ok(row.try_get::<_, Vec<String>>(at)?.into_iter().collect())
        };
        let oids = |at: usize| -> Result<BTreeSet<u32>> {
            Ok(row.try_get::<_, Vec<u32>>(at)?.into_iter().collect())
        };
        Ok(Role {
            exempt: row.try_get(1)?,
            is_taken: row.try_get(7)?,
            privileges: names(2)?,
            schemas: names(3)?,
            readable: oids(4)?,
            partly_readable: oids(5)?,
            callable: oids(6)?,
            memberships: row.try_get(8)?,
        })
    }
}

impl Function {
    fn of(row: &Row) -> Result<Function> {
        let types: Vec<u32> = row.try_get(3)?;
        let names: Option<Vec<String>> = row.try_get(4)?;
        let name_at = |at: usize| names.as_ref()?.get(at).filter(|name| !name.is_empty()).cloned();
        let arguments = types.into_iter().enumerate().map(|(at, oid)| (name_at(at), oid)).collect();
        let settings: Option<Vec<String>> = row.try_get(11)?;
        let (language, source): (String, Option<String>) = (row.try_get(12)?, row.try_get(13)?);
        let source = source.unwrap_or_default();
        let unusual: bool = row.try_get(14)?;
        let (path, is_plain) = path_of(settings.as_deref().unwrap_or_default());
        let returns_set: bool = row.try_get(15)?;
        let body = match (unusual, is_plain, language.as_str()) {
            (true, ..) => Err("a function with several results or other kinds of parameters is not known here"),
            (_, false, _) => Err("a function that sets more than a search path, or names pg_catalog in it, is not known here"),
            (.., "plpgsql") if returns_set => Err("a PL/pgSQL function that returns rows is not known here; as a function in SQL it could be read"),
            (.., "sql") => sql_body(&source).ok_or("the function does more than compute one expression"),
            (.., "plpgsql") => returned(&source).ok_or(
                "this PL/pgSQL function does more than RETURN one expression; as a function in SQL it could \
                 be read",
            ),
            _ => Err("a function in this language is not known here"),
        };
        Ok(Function {
            id: row.try_get(0)?,
            version: row.try_get(17)?,
            schema: row.try_get(1)?,
            name: row.try_get(2)?,
            arguments,
            defaults: row.try_get(16)?,
            is_variadic: row.try_get(6)?,
            clashes: row.try_get(7)?,
            result: row.try_get(8)?,
            returns_set,
            strict: row.try_get(9)?,
            owner: row.try_get(10)?,
            path,
            body,
        })
    }
}

/// The search path of a function, if it has one, and whether it sets nothing else, and nothing unusual.
fn path_of(settings: &[String]) -> (Option<Vec<String>>, bool) {
    match settings {
        [] => (None, true),
        [one] => match one.split_once('=') {
            Some(("search_path", path)) => {
                let path = schemas(path);
                let is_plain = !path.iter().any(|schema| schema == "pg_catalog");
                (Some(path), is_plain)
            }
            _ => (None, false),
        },
        _ => (None, false),
    }
}

/// The schemas of a search path: names with commas between them, in quotes where they must be. That of
/// Postgres itself is always searched first, unless it is named.
fn schemas(path: &str) -> Vec<String> {
    let mut all = Vec::new();
    let (mut name, mut quoted, mut was_quoted) = (String::new(), false, false);
    let mut letters = path.chars().chain([',']).peekable();
    while let Some(letter) = letters.next() {
        match letter {
            '"' if quoted && letters.peek() == Some(&'"') => {
                letters.next();
                name.push('"');
            }
            '"' => {
                quoted = !quoted;
                if quoted {
                    // White space in front of it.
                    name.clear();
                }
                was_quoted = true;
            }
            ',' if !quoted => {
                let done = std::mem::take(&mut name);
                let done = if was_quoted { done } else { done.trim().to_lowercase() };
                if !done.is_empty() {
                    all.push(done);
                }
                was_quoted = false;
            }
            space if space.is_whitespace() && !quoted => {
                if !was_quoted {
                    name.push(space);
                }
            }
            other => name.push(other),
        }
    }
    all
}

/// The query of a function in SQL: its whole source, or what stands behind RETURN or between BEGIN ATOMIC
/// and END.
fn sql_body(source: &str) -> Option<String> {
    let source = without_comments(source)?;
    let source = source.trim().trim_end_matches(';').trim();
    if let Some(inner) = behind(source, "BEGIN ATOMIC") {
        let inner = inner.strip_suffix("END").or_else(|| inner.strip_suffix("end"))?;
        return one_statement(inner);
    }
    match behind(source, "RETURN") {
        Some(expression) => Some(format!("SELECT {expression}")),
        None => one_statement(source),
    }
}

/// The one expression that a PL/pgSQL function returns.
fn returned(source: &str) -> Option<String> {
    let source = without_comments(source)?;
    let inner = behind(source.trim().trim_end_matches(';').trim(), "BEGIN")?;
    let inner = inner.strip_suffix("END").or_else(|| inner.strip_suffix("end"))?;
    let expression = behind(&one_statement(inner)?, "RETURN")?.to_owned();
    Some(format!("SELECT {expression}"))
}

/// A text with white space in the places of its comments; `None` where it cannot be told what is one.
fn without_comments(source: &str) -> Option<String> {
    let mut out = String::with_capacity(source.len());
    let mut rest = source;
    while let Some(letter) = rest.chars().next() {
        let length = match letter {
            '-' if rest.starts_with("--") => {
                out.push(' ');
                rest = rest.find(['\n', '\r']).map_or("", |end| &rest[end..]);
                continue;
            }
            '/' if rest.starts_with("/*") => {
                out.push(' ');
                rest = behind_comment(rest)?;
                continue;
            }
            // Of these it is not followed where they end.
            '$' if rest[1..].starts_with(|c: char| c == '$' || c.is_alphabetic() || c == '_') => {
                return None;
            }
            '\'' if has_escapes(&out) => end_of_escaped(rest)?,
            '\'' | '"' => rest[1..].find(letter)? + 2,
            letter => letter.len_utf8(),
        };
        let (head, tail) = rest.split_at(length);
        out.push_str(head);
        rest = tail;
    }
    Some(out)
}

/// Whether the quote behind a text begins one with escapes: `E'…'`.
fn has_escapes(before: &str) -> bool {
    let mut letters = before.chars().rev();
    let is_e = letters.next().is_some_and(|letter| matches!(letter, 'e' | 'E'));
    is_e && !letters.next().is_some_and(|letter| letter.is_alphanumeric() || letter == '_')
}

/// How long such a text is, with its quotes.
fn end_of_escaped(text: &str) -> Option<usize> {
    let mut letters = text.char_indices().skip(1);
    while let Some((at, letter)) = letters.next() {
        match letter {
            '\\' => drop(letters.next()),
            '\'' => return Some(at + 1),
            _ => {}
        }
    }
    None
}

/// What stands behind a comment between `/*` and `*/`, in which there may be others.
fn behind_comment(text: &str) -> Option<&str> {
    let (mut depth, mut at) = (0, 0);
    loop {
        let next = text[at..].find(['/', '*'])?;
        at += next;
        depth = match &text.as_bytes()[at..] {
            [b'/', b'*', ..] => depth + 1,
            [b'*', b'/', ..] => depth - 1,
            _ => {
                at += 1;
                continue;
            }
        };
        at += 2;
        if depth == 0 {
            return Some(&text[at..]);
        }
    }
}

/// A statement without the semicolon behind it, unless there are several.
fn one_statement(text: &str) -> Option<String> {
    let text = text.trim().trim_end_matches(';').trim();
    let mut quoted = false;
    for byte in text.bytes() {
        match byte {
            b'\'' => quoted = !quoted,
            b';' if !quoted => return None,
            _ => {}
        }
    }
    (!text.is_empty()).then(|| text.to_owned())
}

/// What follows some words at the beginning of a text.
fn behind<'t>(text: &'t str, words: &str) -> Option<&'t str> {
    let mut rest = text.trim_start();
    for word in words.split(' ') {
        let head = rest.get(..word.len())?;
        let tail = &rest[word.len()..];
        if !head.eq_ignore_ascii_case(word)
            || tail.starts_with(|c: char| c.is_alphanumeric() || c == '_')
        {
            return None;
        }
        rest = tail.trim_start();
    }
    Some(rest.trim())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn search_paths_are_read_as_they_are_quoted() {
        assert_eq!(schemas("\"$user\", public"), ["$user", "public"]);
        assert_eq!(schemas("api,  Public , \"My, \"\"Own\"\"\""), ["api", "public", "My, \"Own\""]);
        assert_eq!(schemas("\"\""), Vec::<String>::new());
        let of = |text: &str| path_of(&[text.to_owned()]);
        assert_eq!(of("search_path=\"public, p2\""), (Some(vec!["public, p2".into()]), true));
        assert_eq!(of("search_path=\"\""), (Some(vec![]), true));
        assert!(!of("search_path=api, pg_catalog").1 && !of("role=x").1);
    }

    #[test]
    fn bodies_are_one_query_or_nothing() {
        let sql = |source: &str| sql_body(source);
        assert_eq!(sql(" select auth.uid() ; ").as_deref(), Some("select auth.uid()"));
        assert_eq!(sql("RETURN (a = 1)").as_deref(), Some("SELECT (a = 1)"));
        assert_eq!(sql("BEGIN ATOMIC\n SELECT 1;\nEND").as_deref(), Some("SELECT 1"));
        assert_eq!(sql("select ';'").as_deref(), Some("select ';'"));
        assert_eq!(sql("select 1; select 2"), None);
        let commented = "-- who; asks\n select /* a /* 'nested */ one */ auth.uid() -- it's\n;";
        assert_eq!(sql(commented).as_deref(), Some("select   auth.uid()"));
        assert_eq!(sql("select '--', \"/*\"").as_deref(), Some("select '--', \"/*\""));
        assert_eq!(sql("select e'\\'--'").as_deref(), Some("select e'\\'--'"));
        assert_eq!(
            sql("select true --x\r and false").as_deref(),
            Some("select true  \r and false")
        );
        assert_eq!(sql("select $$--$$"), None);
        assert_eq!(sql("select 1 /* no end"), None);
        assert_eq!(
            returned("/* all */ begin -- one\n return true; -- done\n end").as_deref(),
            Some("SELECT true")
        );
        assert_eq!(
            returned("begin\n return exists (select 1);\nend;").as_deref(),
            Some("SELECT exists (select 1)")
        );
        assert_eq!(returned("declare x int; begin return x; end"), None);
        assert_eq!(returned("begin raise notice 'x'; return 1; end"), None);
        assert_eq!(returned("beginning return 1; end"), None);
    }
}
