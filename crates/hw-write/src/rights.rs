//! What a role may do with a table: rights, and the policies that decide about rows.
//!
//! In: a session, a role, a table. Out: [`Rights`], and the statements that grant what is missing.
//! A write that fails for want of a right asks here what an operator has to run; `check`, `setup`
//! and `doctor` ask beforehand.

use hw_pg::error::{Doing as _, PgError};
use hw_types::TableName;
use hw_types::relation::quote_ident;
use tokio_postgres::types::Type;
use tokio_postgres::{GenericClient, Row};

use crate::transaction::OperationKind;

/// How far a right on a table reaches.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Reach {
    None,
    /// Some columns, which somebody chose.
    Columns,
    Table,
}

/// What a role may do with a table.
#[derive(Clone, Debug)]
pub(crate) struct Rights {
    table: TableName,
    role: String,
    schema: bool,
    pub(crate) select: Reach,
    pub(crate) insert: Reach,
    pub(crate) update: Reach,
    delete: Reach,
    /// Sequences that defaults of the table draw from and the role may not; quoted.
    sequences: Vec<String>,
    /// What its policies ask of other objects and the role may not, as it would be granted:
    /// `SELECT ON "s"."t"`. A policy runs with the rights of whoever writes.
    of_policies: Vec<String>,
    /// Whether policies decide about its rows.
    pub(crate) row_security: bool,
    /// The commands that no policy lets the role do with any row; one that says `false` lets nobody.
    pub(crate) without_policy: Vec<&'static str>,
    /// Whether the table has the policy that is printed where there is none, as far as its name says.
    pub(crate) has_ours: bool,
}

impl Rights {
    /// The rights of a role on a table; `None`: there is no such table or role.
    pub(crate) async fn read(
        client: &impl GenericClient,
        role: &str,
        table: &TableName,
    ) -> Result<Option<Rights>, PgError> {
        let rows = client
            .query_typed(
                RIGHTS,
                &[(&role, Type::TEXT), (&table.schema, Type::TEXT), (&table.name, Type::TEXT)],
            )
            .await
            .doing("read the rights on a table")?;
        Ok(rows.first().map(|row| Rights::of(row, role, table)))
    }

    fn of(row: &Row, role: &str, table: &TableName) -> Rights {
        let reach = |table: usize| match (row.get(table), row.get(table + 1)) {
            (true, _) => Reach::Table,
            (false, true) => Reach::Columns,
            (false, false) => Reach::None,
        };
        let row_security: bool = row.get(9);
        let commands = ["SELECT", "INSERT", "UPDATE", "DELETE"];
        let without_policy = commands.into_iter().enumerate().filter(|(place, _)| {
            let has: bool = row.get(10 + place);
            row_security && !has
        });
        Rights {
            table: table.clone(),
            role: role.to_owned(),
            schema: row.get(0),
            select: reach(1),
            insert: reach(3),
            update: reach(5),
            delete: if row.get(7) { Reach::Table } else { Reach::None },
            sequences: row.get(8),
            of_policies: row.get(14),
            row_security,
            without_policy: without_policy.map(|(_, command)| command).collect(),
            has_ours: row.get(15),
        }
    }

    /// Whether the role may read some of the table, and write it in some way.
    pub(crate) fn can_write_at_all(&self) -> bool {
        self.schema && [self.insert, self.update, self.delete].iter().any(|r| *r != Reach::None)
    }

    /// The statements that grant what an operation of this kind lacks. A right on some columns is
    /// there: whoever chose the columns meant it.
    pub(crate) fn grants_for(&self, kind: OperationKind) -> Vec<String> {
        let lacking = |rights: &[(&'static str, Reach)]| -> Vec<&'static str> {
            rights.iter().filter(|(_, r)| *r == Reach::None).map(|(name, _)| *name).collect()
        };
        let (select, insert) = (("SELECT", self.select), ("INSERT", self.insert));
        match kind {
            // Who may insert needs no more: see the second way of a PUT.
            OperationKind::Put => self.grants(&lacking(&[insert]), true),
            OperationKind::Patch => {
                self.grants(&lacking(&[select, ("UPDATE", self.update)]), false)
            }
            OperationKind::Delete => {
                self.grants(&lacking(&[select, ("DELETE", self.delete)]), false)
            }
        }
    }

    /// Whether what an operation of this kind needs is given for some columns only.
    pub(crate) fn has_columns(&self, kind: OperationKind) -> bool {
        let needed: &[Reach] = match kind {
            OperationKind::Put => &[self.insert, self.update, self.select],
            OperationKind::Patch => &[self.update, self.select],
            OperationKind::Delete => &[self.select],
        };
        needed.contains(&Reach::Columns)
    }

    /// The statements that grant all that clients may need.
    pub(crate) fn grants_for_all(&self) -> Vec<String> {
        let all = [
            ("SELECT", self.select),
            ("INSERT", self.insert),
            ("UPDATE", self.update),
            ("DELETE", self.delete),
        ];
        let lacking: Vec<&str> =
            all.iter().filter(|(_, r)| *r == Reach::None).map(|(name, _)| *name).collect();
        self.grants(&lacking, true)
    }

    fn grants(&self, rights: &[&str], with_sequences: bool) -> Vec<String> {
        let role = quote_ident(&self.role);
        let mut out = Vec::new();
        if !self.schema {
            let schema = quote_ident(&self.table.schema);
            out.push(format!("GRANT USAGE ON SCHEMA {schema} TO {role};"));
        }
        if !rights.is_empty() {
            let table = self.table.quoted();
            out.push(format!("GRANT {} ON {table} TO {role};", rights.join(", ")));
        }
        if with_sequences {
            for sequence in &self.sequences {
                out.push(format!("GRANT USAGE ON SEQUENCE {sequence} TO {role};"));
            }
        }
        out.extend(self.of_policies.iter().map(|right| format!("GRANT {right} TO {role};")));
        out
    }
}

// An identity column draws from its sequence by the table's right; a default asks for the
// sequence's own. A policy is for a role that has the rights of one of the policy's roles; what it
// names is noted as its dependencies, with the columns that it reads, and what a table that it reads
// has policies for is asked by them in turn. Names in it were looked up when it was made, so no
// right on a schema is needed.
const RIGHTS: &str = "\
SELECT pg_catalog.has_schema_privilege(r.oid, n.oid, 'USAGE'),
       pg_catalog.has_table_privilege(r.oid, c.oid, 'SELECT'),
       pg_catalog.has_any_column_privilege(r.oid, c.oid, 'SELECT'),
       pg_catalog.has_table_privilege(r.oid, c.oid, 'INSERT'),
       pg_catalog.has_any_column_privilege(r.oid, c.oid, 'INSERT'),
       pg_catalog.has_table_privilege(r.oid, c.oid, 'UPDATE'),
       pg_catalog.has_any_column_privilege(r.oid, c.oid, 'UPDATE'),
       pg_catalog.has_table_privilege(r.oid, c.oid, 'DELETE'),
       ARRAY(
         SELECT pg_catalog.format('%I.%I', sn.nspname, s.relname)
         FROM pg_catalog.pg_attrdef ad
         JOIN pg_catalog.pg_depend d
           ON d.classid = 'pg_catalog.pg_attrdef'::pg_catalog.regclass AND d.objid = ad.oid
          AND d.refclassid = 'pg_catalog.pg_class'::pg_catalog.regclass
         JOIN pg_catalog.pg_class s ON s.oid = d.refobjid
         JOIN pg_catalog.pg_namespace sn ON sn.oid = s.relnamespace
         WHERE ad.adrelid = c.oid
           -- Asked of another relation than a sequence this would be an error.
           AND CASE WHEN s.relkind = 'S'
                    THEN NOT pg_catalog.has_sequence_privilege(r.oid, s.oid, 'USAGE, UPDATE')
                    ELSE false END
         ORDER BY 1
       ),
       c.relrowsecurity,
       coalesce(p.may_select, false), coalesce(p.may_insert, false),
       coalesce(p.may_update, false), coalesce(p.may_delete, false),
       ARRAY(
         WITH RECURSIVE asked (classid, objid, objsubid) AS (
           SELECT 'pg_catalog.pg_class'::pg_catalog.regclass::pg_catalog.oid, c.oid, 0
           UNION
           SELECT d.refclassid, d.refobjid, d.refobjsubid
           FROM asked
           JOIN pg_catalog.pg_class t ON t.oid = asked.objid AND t.relrowsecurity
            AND asked.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
           JOIN pg_catalog.pg_policy p ON p.polrelid = t.oid AND EXISTS (
             SELECT FROM pg_catalog.unnest(p.polroles) AS role
             WHERE role = 0 OR pg_catalog.pg_has_role(r.oid, role, 'USAGE'))
           JOIN pg_catalog.pg_depend d
             ON d.classid = 'pg_catalog.pg_policy'::pg_catalog.regclass AND d.objid = p.oid
            AND d.refobjid <> t.oid
         )
         SELECT pg_catalog.format('SELECT ON %I.%I', tn.nspname, t.relname) AS right_on
         FROM asked
         JOIN pg_catalog.pg_class t ON t.oid = asked.objid AND t.oid <> c.oid
          AND t.relkind IN ('r', 'p', 'v', 'm', 'f')
         JOIN pg_catalog.pg_namespace tn ON tn.oid = t.relnamespace
         WHERE asked.classid = 'pg_catalog.pg_class'::pg_catalog.regclass
           AND NOT CASE asked.objsubid
             WHEN 0 THEN pg_catalog.has_any_column_privilege(r.oid, t.oid, 'SELECT')
             ELSE pg_catalog.has_column_privilege(r.oid, t.oid, asked.objsubid::int2, 'SELECT')
           END
         UNION
         SELECT pg_catalog.format('EXECUTE ON FUNCTION %I.%I(%s)', fn.nspname, f.proname,
                  pg_catalog.pg_get_function_identity_arguments(f.oid))
         FROM asked
         JOIN pg_catalog.pg_proc f ON f.oid = asked.objid
         JOIN pg_catalog.pg_namespace fn ON fn.oid = f.pronamespace
         WHERE asked.classid = 'pg_catalog.pg_proc'::pg_catalog.regclass
           AND NOT pg_catalog.has_function_privilege(r.oid, f.oid, 'EXECUTE')
         ORDER BY right_on
       ),
       EXISTS (SELECT FROM pg_catalog.pg_policy
               WHERE polrelid = c.oid AND polname = 'headwater_writes')
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
JOIN pg_catalog.pg_roles r ON r.rolname = $1
LEFT JOIN LATERAL (
  SELECT pg_catalog.bool_or(polcmd IN ('*', 'r') AND shown) AS may_select,
         pg_catalog.bool_or(polcmd IN ('*', 'a') AND taken) AS may_insert,
         pg_catalog.bool_or(polcmd IN ('*', 'w') AND shown AND taken) AS may_update,
         pg_catalog.bool_or(polcmd IN ('*', 'd') AND shown) AS may_delete
  FROM pg_catalog.pg_policy
  CROSS JOIN LATERAL (
    SELECT pg_catalog.pg_get_expr(polqual, polrelid) IS DISTINCT FROM 'false',
           pg_catalog.pg_get_expr(coalesce(polwithcheck, polqual), polrelid)
             IS DISTINCT FROM 'false'
  ) rule (shown, taken)
  WHERE polrelid = c.oid AND polpermissive AND EXISTS (
    SELECT FROM pg_catalog.unnest(polroles) AS role
    WHERE role = 0 OR pg_catalog.pg_has_role(r.oid, role, 'USAGE')
  )
) p ON true
WHERE n.nspname = $2 AND c.relname = $3";
