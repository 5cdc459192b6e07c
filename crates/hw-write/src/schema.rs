//! What writes need in the user's database, as statements that `headwater setup` shows and runs.
//!
//! Every statement can be run again. The principals' role can read its own rejected writes and
//! nothing else of the schema; everything is written by Headwater's own role.

use hw_pg::error::{Doing as _, PgError};
use hw_types::relation::{quote_ident, quote_literal};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalog::USUAL_ROLES;

/// What `headwater setup` has to create for writes.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The role that Headwater logs in with when it serves.
    pub server_role: String,
    /// The role that principals write as.
    pub role: String,
    /// Whether that role has to be created.
    pub create_role: bool,
    /// Whether the server's role has to be made a member of it.
    pub grant_role: bool,
}

/// Looks at the database and says what has to be created.
///
/// - Takes: the role that serves, if it is another than the one connected; the configured role of
///   writes, if any. Without one the first of `ihp_authenticated`, `authenticated` and
///   `headwater_authenticated` that exists is taken, and the last one is created.
pub async fn plan(
    client: &Client,
    server_role: Option<&str>,
    configured_role: Option<&str>,
) -> Result<Setup, PgError> {
    let candidates: Vec<&str> = match configured_role {
        Some(role) => vec![role],
        None => USUAL_ROLES.to_vec(),
    };
    let rows = client
        .query_typed(
            "SELECT coalesce($2, current_user::text), rolname::text, \
                    pg_catalog.pg_has_role(coalesce($2, current_user::text)::name, oid, 'MEMBER') \
             FROM (SELECT) one LEFT JOIN pg_catalog.pg_roles ON rolname = ANY($1) \
             ORDER BY pg_catalog.array_position($1, rolname::text) LIMIT 1",
            &[(&candidates, Type::TEXT_ARRAY), (&server_role, Type::TEXT)],
        )
        .await
        .doing("look for the role of writes")?;
    let row = rows.first().expect("a left join of one row has a row");
    let found: Option<String> = row.get(1);
    let last = candidates.last().expect("there is a candidate");
    Ok(Setup {
        server_role: row.get(0),
        create_role: found.is_none(),
        grant_role: !row.get::<_, Option<bool>>(2).unwrap_or(false),
        role: found.unwrap_or_else(|| (*last).to_owned()),
    })
}

/// Whether the tables of writes are there and can be used by the connected role.
pub async fn is_installed(client: &Client) -> Result<bool, PgError> {
    let rows = client
        .query_typed(
            "SELECT count(*) = 3 FROM pg_catalog.pg_class c \
             JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace \
             WHERE n.nspname = 'headwater' \
               AND c.relname IN ('uploads', 'upload_high_water', 'rejected_writes') \
               AND pg_catalog.has_schema_privilege(n.oid, 'USAGE') \
               AND pg_catalog.has_table_privilege(c.oid, 'SELECT, INSERT')",
            &[],
        )
        .await
        .doing("look for the tables of writes")?;
    Ok(rows.first().is_some_and(|row| row.get(0)))
}

/// The statements, in order. Run them in one transaction.
pub fn statements(setup: &Setup) -> Vec<String> {
    let (server, role) = (quote_ident(&setup.server_role), quote_ident(&setup.role));
    let mut out = Vec::new();
    if setup.create_role {
        out.push(format!("CREATE ROLE {role} NOLOGIN"));
        out.push(format!("GRANT USAGE ON SCHEMA public TO {role}"));
    }
    if setup.grant_role && setup.server_role != setup.role {
        out.push(format!("GRANT {role} TO {server}"));
    }
    out.push("CREATE SCHEMA IF NOT EXISTS headwater".to_owned());
    out.push(format!("GRANT USAGE ON SCHEMA headwater TO {server}, {role}"));
    out.extend(TABLES.iter().map(|sql| (*sql).to_owned()));
    for table in ["uploads", "upload_high_water", "rejected_writes"] {
        out.push(format!("GRANT SELECT, INSERT, UPDATE, DELETE ON headwater.{table} TO {server}"));
    }
    out.push(format!("GRANT SELECT ON headwater.rejected_writes TO {role}"));
    out.push(policy("server", "ALL", &server, "true"));
    out.push(policy(
        "author",
        "SELECT",
        "PUBLIC",
        "sub = pg_catalog.current_setting('request.jwt.claim.sub', true)",
    ));
    out
}

/// CREATE POLICY has no IF NOT EXISTS, so it is asked first.
fn policy(name: &str, command: &str, to: &str, using: &str) -> String {
    let create = format!(
        "CREATE POLICY {name} ON headwater.rejected_writes FOR {command} TO {to} USING ({using})"
    );
    format!(
        "DO $do$ BEGIN\n  \
           IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy WHERE polname = {} \
         AND polrelid = 'headwater.rejected_writes'::regclass) THEN\n    \
             {create};\n  \
           END IF;\n\
         END $do$",
        quote_literal(name)
    )
}

const TABLES: [&str; 6] = [
    "CREATE TABLE IF NOT EXISTS headwater.uploads (
  sub text NOT NULL,
  client_id text NOT NULL,
  tx_id bigint NOT NULL,
  first_op_id bigint NOT NULL,
  contents bytea NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('applied', 'rejected')),
  rejection json,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (sub, client_id, tx_id, first_op_id)
)",
    "CREATE INDEX IF NOT EXISTS uploads_at ON headwater.uploads (at)",
    "CREATE TABLE IF NOT EXISTS headwater.upload_high_water (
  sub text NOT NULL,
  client_id text NOT NULL,
  op_id bigint NOT NULL,
  PRIMARY KEY (sub, client_id)
)",
    "CREATE TABLE IF NOT EXISTS headwater.rejected_writes (
  id uuid PRIMARY KEY,
  sub text NOT NULL,
  client_id text NOT NULL,
  tx_id bigint NOT NULL,
  op_id bigint NOT NULL,
  sqlstate text NOT NULL,
  message text NOT NULL,
  table_name text,
  column_name text,
  constraint_name text,
  entries json NOT NULL,
  rejected_at timestamptz NOT NULL DEFAULT now()
)",
    "CREATE INDEX IF NOT EXISTS rejected_writes_at ON headwater.rejected_writes (rejected_at)",
    "ALTER TABLE headwater.rejected_writes ENABLE ROW LEVEL SECURITY",
];
