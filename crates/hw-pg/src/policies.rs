//! Row level security as the catalog has it: which policies apply to whom, and what their names mean.
//!
//! In: an SQL connection and a role. Out: [`RowSecurity`], from which `hw_expr::postgres` makes conditions.
//! It is of *now*, which is ahead of what the log has told so far.
//!
//! Source: PostgreSQL manual, "Row Security Policies", and `rowsecurity.c`: for a SELECT those policies
//! apply that are for ALL or SELECT and for PUBLIC or a role whose privileges the reader has; owners,
//! superusers and roles with BYPASSRLS are exempt, owners unless it is forced.

use crate::error::{Doing as _, Result};
use crate::types::{TypeCatalog, canonical_from_text};
use hw_expr::postgres::{Condition, Helper, Names, Refusal, Table, Type, Visible};
use std::collections::{BTreeMap, BTreeSet};
use tokio_postgres::{Client, Row};

/// Tables with their policies, and what these refer to, for one role that asks.
#[derive(Debug, Default)]
pub struct RowSecurity {
    role: String,
    tables: Vec<SecuredTable>,
    functions: Vec<Function>,
    /// Enums: schema, name, oid.
    enums: Vec<(String, String, u32)>,
    types: TypeCatalog,
    roles: BTreeMap<String, Role>,
}

/// A table as far as row security is about it.
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
    /// Name, oid of the type, and whether equal texts have equal bytes.
    columns: Vec<(String, u32, bool)>,
    /// The roles among those that were asked about which may read all of it.
    readers: BTreeSet<String>,
    /// All of its policies for ALL and SELECT, whomever they are for.
    pub policies: Vec<Policy>,
}

/// A policy that decides what is read.
#[derive(Clone, Debug)]
pub struct Policy {
    /// Its name.
    pub name: String,
    /// Whether it admits; if not, it restricts what others admit.
    pub permissive: bool,
    /// Whom it is for; nobody by name is PUBLIC.
    pub roles: Vec<String>,
    /// `USING`, as `pg_get_expr` prints it under an empty search path. A policy without one admits all.
    pub using: Option<String>,
}

#[derive(Debug)]
struct Role {
    /// Superuser or BYPASSRLS.
    exempt: bool,
    /// Whose privileges it has, itself included.
    privileges: BTreeSet<String>,
}

#[derive(Debug)]
struct Function {
    schema: String,
    name: String,
    arguments: Vec<(Option<String>, u32)>,
    result: u32,
    strict: bool,
    /// The owner, if it runs as its owner.
    owner: Option<String>,
    path: Vec<String>,
    /// `SELECT` and an expression, or why there is no such form of it.
    body: std::result::Result<String, &'static str>,
}

/// Under which names of printed texts are all qualified.
const BEGIN: &str = "BEGIN READ ONLY; SET LOCAL search_path = ''";

/// Ordinary and partitioned tables. (One that others inherit from gives their rows as its own.)
const TABLES: &str = "\
SELECT c.oid, n.nspname, c.relname, c.relrowsecurity, c.relforcerowsecurity, o.rolname,
       columns.names, columns.types, columns.deterministic
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
  WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped) columns
WHERE (c.relkind = 'p' OR c.relkind = 'r' AND NOT c.relhassubclass)
  AND n.nspname NOT IN ('pg_catalog', 'information_schema', 'pg_toast')
  AND n.nspname NOT LIKE 'pg\\_temp\\_%'
ORDER BY n.nspname, c.relname";

const POLICIES: &str = "\
SELECT p.polrelid, p.polname, p.polpermissive,
       (SELECT coalesce(pg_catalog.array_agg(r.rolname::text), '{}') FROM pg_catalog.pg_roles r
        WHERE r.oid = ANY (p.polroles)),
       pg_catalog.pg_get_expr(p.polqual, p.polrelid)
FROM pg_catalog.pg_policy p
WHERE p.polcmd IN ('*', 'r')
ORDER BY p.polrelid, p.polname";

/// Functions that somebody wrote for this database. (Those of extensions are many, and in C.)
const FUNCTIONS: &str = "\
SELECT n.nspname, p.proname, p.proargtypes::oid[], p.proargnames, p.prorettype, p.proisstrict,
       CASE WHEN p.prosecdef THEN o.rolname::text END, p.proconfig, l.lanname,
       coalesce(pg_catalog.pg_get_function_sqlbody(p.oid), p.prosrc),
       p.proretset OR p.proargmodes IS NOT NULL OR p.provariadic <> 0
FROM pg_catalog.pg_proc p
JOIN pg_catalog.pg_namespace n ON n.oid = p.pronamespace
JOIN pg_catalog.pg_language l ON l.oid = p.prolang
JOIN pg_catalog.pg_roles o ON o.oid = p.proowner
WHERE n.nspname NOT IN ('pg_catalog', 'information_schema') AND p.prokind = 'f'
  AND NOT EXISTS (SELECT FROM pg_catalog.pg_depend d
                  WHERE d.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass AND d.objid = p.oid
                    AND d.deptype = 'e')
ORDER BY n.nspname, p.proname, p.oid";

const ENUMS: &str = "\
SELECT n.nspname, t.typname, t.oid FROM pg_catalog.pg_type t
JOIN pg_catalog.pg_namespace n ON n.oid = t.typnamespace WHERE t.typtype = 'e'";

/// What each of some roles is and has.
const ROLES: &str = "\
SELECT r.rolname, r.rolsuper OR r.rolbypassrls,
       (SELECT coalesce(pg_catalog.array_agg(o.rolname::text), '{}') FROM pg_catalog.pg_roles o
        WHERE pg_catalog.pg_has_role(r.oid, o.oid, 'USAGE')),
       (SELECT coalesce(pg_catalog.array_agg(c.oid), '{}') FROM pg_catalog.pg_class c
        JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
        WHERE c.relkind IN ('r', 'p') AND n.nspname NOT IN ('pg_catalog', 'information_schema')
          AND pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE')
          AND pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT'))
FROM pg_catalog.pg_roles r WHERE r.rolname::text = ANY ($1)";

impl RowSecurity {
    /// Reads what decides which rows a role sees.
    ///
    /// - Takes: a connection outside of a transaction; the role that asks.
    pub async fn read(client: &Client, role: &str) -> Result<RowSecurity> {
        let doing = "read row level security from the catalog";
        // What names in functions without a path of their own mean: the default of the session.
        let path = client.query_one("SELECT pg_catalog.current_setting('search_path')", &[]);
        let path: String = path.await.doing(doing)?.try_get(0)?;
        let path: Vec<String> = schemas(&path)
            .map(|schema| if schema == "$user" { role.to_owned() } else { schema })
            .collect();
        client.batch_execute(BEGIN).await.doing(doing)?;
        let read = RowSecurity::read_all(client, role, &path).await;
        client.batch_execute("COMMIT").await.doing(doing)?;
        read
    }

    async fn read_all(client: &Client, role: &str, path: &[String]) -> Result<RowSecurity> {
        let doing = "read row level security from the catalog";
        let rows = |query: &'static str| async move { client.query(query, &[]).await.doing(doing) };
        let mut tables = Vec::new();
        for row in rows(TABLES).await? {
            tables.push(SecuredTable::of(&row)?);
        }
        for row in rows(POLICIES).await? {
            let id: u32 = row.try_get(0)?;
            let policy = Policy {
                name: row.try_get(1)?,
                permissive: row.try_get(2)?,
                roles: row.try_get(3)?,
                using: row.try_get(4)?,
            };
            if let Some(table) = tables.iter_mut().find(|table| table.id == id) {
                table.policies.push(policy);
            }
        }
        let mut functions = Vec::new();
        for row in rows(FUNCTIONS).await? {
            functions.push(Function::of(&row, path)?);
        }
        let mut enums = Vec::new();
        for row in rows(ENUMS).await? {
            enums.push((row.try_get(0)?, row.try_get(1)?, row.try_get(2)?));
        }
        let owners = functions.iter().filter_map(|function| function.owner.clone());
        let names: Vec<String> = owners.chain([role.to_owned()]).collect();
        let mut roles = BTreeMap::new();
        for row in client.query(ROLES, &[&names]).await.doing(doing)? {
            let name: String = row.try_get(0)?;
            let privileges: Vec<String> = row.try_get(2)?;
            let readable: BTreeSet<u32> = row.try_get::<_, Vec<u32>>(3)?.into_iter().collect();
            for table in tables.iter_mut().filter(|table| readable.contains(&table.id)) {
                table.readers.insert(name.clone());
            }
            let privileges = privileges.into_iter().collect();
            roles.insert(name, Role { exempt: row.try_get(1)?, privileges });
        }
        let of_columns =
            tables.iter().flat_map(|table| table.columns.iter().map(|(_, oid, _)| *oid));
        let of_functions = functions
            .iter()
            .flat_map(|f| f.arguments.iter().map(|(_, oid)| *oid).chain([f.result]));
        let oids: BTreeSet<u32> = of_columns.chain(of_functions).collect();
        let types = TypeCatalog::load(client, &oids.into_iter().collect::<Vec<_>>()).await?;
        Ok(RowSecurity { role: role.to_owned(), tables, functions, enums, types, roles })
    }

    /// Whether there is the role that asks.
    pub fn has_role(&self) -> bool {
        self.roles.contains_key(&self.role)
    }

    /// The tables, by schema and name.
    pub fn tables(&self) -> &[SecuredTable] {
        &self.tables
    }

    /// The policies of a table that apply to the role that asks.
    pub fn policies_of<'t>(&'t self, table: &'t SecuredTable) -> impl Iterator<Item = &'t Policy> {
        self.applying(table, &self.role)
    }

    /// A table as the role that asks sees it, for conditions over its rows.
    ///
    /// - Errors: why it sees nothing of it.
    pub fn table_of(&self, table: &SecuredTable) -> std::result::Result<Table, String> {
        self.seen(table, &self.role)
    }

    /// What the role that asks sees of a table.
    ///
    /// - Errors: it may not read the table, or what one of the policies says is not known here.
    pub fn condition(&self, table: &SecuredTable) -> std::result::Result<Condition, Refusal> {
        let seen = self.table_of(table).map_err(|reason| {
            let (schema, name) = &table.name;
            Refusal { expression: format!("{schema}.{name}"), reason }
        })?;
        Condition::of_visibility(&seen, self)
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

    fn seen(&self, table: &SecuredTable, role: &str) -> std::result::Result<Table, String> {
        let (schema, name) = &table.name;
        let Some(known) = self.roles.get(role) else {
            return Err(format!("there is no role {role}"));
        };
        if !table.readers.contains(role) {
            return Err(format!("the role {role} may not read {schema}.{name}"));
        }
        let is_owner = known.privileges.contains(&table.owner);
        let visible = match table.enabled && !known.exempt && (table.forced || !is_owner) {
            false => Visible::All,
            true => {
                let texts = |permissive: bool| -> Vec<String> {
                    let of_kind = self.applying(table, role).filter(|p| p.permissive == permissive);
                    of_kind.map(|p| p.using.clone().unwrap_or_else(|| "true".into())).collect()
                };
                Visible::Where { permissive: texts(true), restrictive: texts(false) }
            }
        };
        let columns = table.columns.iter().map(|(name, oid, deterministic)| {
            let ty = match deterministic {
                true => Type::of(*oid, &self.types.resolve(*oid)),
                false => Type::Other(*oid),
            };
            (name.clone(), ty)
        });
        Ok(Table {
            number: table.id,
            name: table.name.clone(),
            columns: columns.collect(),
            visible,
        })
    }

    fn type_of(&self, oid: u32) -> Type {
        Type::of(oid, &self.types.resolve(oid))
    }
}

impl Names for RowSecurity {
    fn table(
        &self,
        path: &[String],
        name: &str,
        viewer: Option<&str>,
    ) -> std::result::Result<Table, String> {
        let of =
            |schema: &String| self.tables.iter().find(|t| t.name.0 == *schema && t.name.1 == name);
        match path.iter().find_map(of) {
            Some(table) => self.seen(table, viewer.unwrap_or(&self.role)),
            None => Err(format!("{name} is no table that is found in {}", listed(path))),
        }
    }

    fn function(
        &self,
        path: &[String],
        name: &str,
        arguments: &[Type],
    ) -> std::result::Result<Helper, String> {
        let takes = |function: &&Function| {
            function.name == name
                && function.arguments.len() == arguments.len()
                && function.arguments.iter().zip(arguments).all(|((_, oid), given)| {
                    *given == Type::Unknown || *given == self.type_of(*oid)
                })
        };
        let in_schema = |schema: &String| -> Vec<&Function> {
            self.functions.iter().filter(|f| f.schema == *schema).filter(takes).collect()
        };
        let found = path.iter().map(in_schema).find(|found| !found.is_empty()).unwrap_or_default();
        let [function] = found[..] else {
            return Err(match found.is_empty() {
                true => "what this function computes is not known here".into(),
                false => "several functions of this name could be meant".into(),
            });
        };
        let body = function.body.as_ref().map_err(|reason| (*reason).to_owned())?;
        let parameters =
            function.arguments.iter().map(|(name, oid)| (name.clone(), self.type_of(*oid)));
        Ok(Helper {
            parameters: parameters.collect(),
            result: self.type_of(function.result),
            body: body.clone(),
            path: function.path.clone(),
            strict: function.strict,
            owner: function.owner.clone(),
        })
    }

    fn named_type(&self, path: &[String], name: &str) -> Option<Type> {
        let of = |schema: &String| self.enums.iter().find(|(s, n, _)| s == schema && n == name);
        path.iter().find_map(of).map(|(_, _, oid)| self.type_of_enum(*oid))
    }

    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        canonical_from_text(&ty.pg_type()?, text, &mut bytes).ok()?;
        Some(bytes)
    }
}

impl RowSecurity {
    fn type_of_enum(&self, oid: u32) -> Type {
        Type::Scalar(hw_expr::postgres::Scalar::Enum(oid))
    }
}

fn listed(path: &[String]) -> String {
    if path.is_empty() { "an empty search path".into() } else { path.join(", ") }
}

impl SecuredTable {
    fn of(row: &Row) -> Result<SecuredTable> {
        let names: Vec<String> = row.try_get(6)?;
        let types: Vec<u32> = row.try_get(7)?;
        let deterministic: Vec<bool> = row.try_get(8)?;
        let columns =
            names.into_iter().zip(types).zip(deterministic).map(|((name, ty), is)| (name, ty, is));
        Ok(SecuredTable {
            id: row.try_get(0)?,
            name: (row.try_get(1)?, row.try_get(2)?),
            enabled: row.try_get(3)?,
            forced: row.try_get(4)?,
            owner: row.try_get(5)?,
            columns: columns.collect(),
            readers: BTreeSet::new(),
            policies: Vec::new(),
        })
    }
}

impl Function {
    fn of(row: &Row, session_path: &[String]) -> Result<Function> {
        let types: Vec<u32> = row.try_get(2)?;
        let names: Option<Vec<String>> = row.try_get(3)?;
        let name_at = |at: usize| names.as_ref()?.get(at).filter(|name| !name.is_empty()).cloned();
        let arguments = types.into_iter().enumerate().map(|(at, oid)| (name_at(at), oid)).collect();
        let settings: Option<Vec<String>> = row.try_get(7)?;
        let (language, source): (String, String) = (row.try_get(8)?, row.try_get(9)?);
        let unusual: bool = row.try_get(10)?;
        let (path, plain) = path_of(settings.as_deref().unwrap_or_default(), session_path);
        let body = match (unusual, plain, language.as_str()) {
            (true, ..) => Err("a function with several results or other kinds of parameters is not known here"),
            (_, false, _) => Err("a function that changes settings of the session is not known here"),
            (.., "sql") => sql_body(&source).ok_or("the function does more than compute one expression"),
            (.., "plpgsql") => returned(&source)
                .ok_or("this PL/pgSQL function does more than RETURN one expression; as a function in SQL it could be read"),
            _ => Err("a function in this language is not known here"),
        };
        Ok(Function {
            schema: row.try_get(0)?,
            name: row.try_get(1)?,
            arguments,
            result: row.try_get(4)?,
            strict: row.try_get(5)?,
            owner: row.try_get(6)?,
            path,
            body,
        })
    }
}

/// The search path of a function, and whether it sets nothing else.
fn path_of(settings: &[String], session_path: &[String]) -> (Vec<String>, bool) {
    let mut path = session_path.to_vec();
    let mut plain = true;
    for setting in settings {
        match setting.split_once('=') {
            Some(("search_path", schemas)) => {
                let schemas =
                    schemas.split(',').map(|schema| schema.trim().trim_matches('"').to_owned());
                path =
                    schemas.filter(|schema| !schema.is_empty() && schema != "pg_catalog").collect();
            }
            _ => plain = false,
        }
    }
    // The schema with the name of who runs it is not known here.
    plain &= !path.iter().any(|schema| schema == "$user");
    (path, plain)
}

/// The schemas of a search path as it is written, but for the one that is always searched first.
fn schemas(path: &str) -> impl Iterator<Item = String> {
    let schemas = path.split(',').map(|schema| schema.trim().trim_matches('"').to_owned());
    schemas.filter(|schema| !schema.is_empty() && schema != "pg_catalog")
}

/// The query of a function in SQL: its whole source, or what stands behind RETURN or between BEGIN ATOMIC
/// and END.
fn sql_body(source: &str) -> Option<String> {
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
    let inner = behind(source.trim().trim_end_matches(';').trim(), "BEGIN")?;
    let inner = inner.strip_suffix("END").or_else(|| inner.strip_suffix("end"))?;
    let expression = behind(&one_statement(inner)?, "RETURN")?.to_owned();
    Some(format!("SELECT {expression}"))
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
    fn bodies_are_one_query_or_nothing() {
        let sql = |source: &str| sql_body(source);
        assert_eq!(sql(" select auth.uid() ; ").as_deref(), Some("select auth.uid()"));
        assert_eq!(sql("RETURN (a = 1)").as_deref(), Some("SELECT (a = 1)"));
        assert_eq!(sql("BEGIN ATOMIC\n SELECT 1;\nEND").as_deref(), Some("SELECT 1"));
        assert_eq!(sql("select ';'").as_deref(), Some("select ';'"));
        assert_eq!(sql("select 1; select 2"), None);
        assert_eq!(
            returned("begin\n return exists (select 1);\nend;").as_deref(),
            Some("SELECT exists (select 1)")
        );
        assert_eq!(returned("declare x int; begin return x; end"), None);
        assert_eq!(returned("begin raise notice 'x'; return 1; end"), None);
        assert_eq!(returned("beginning return 1; end"), None);
    }
}
