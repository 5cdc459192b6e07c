//! What writes need in the user's database, as statements that `headwater setup` shows and runs.
//!
//! In: a session, the role that serves, the role of writes. Out: statements that lead to the same
//! state whoever runs them and however often: schema and tables belong to the role that serves, so
//! that no grant and no policy stands between the server and its records, and it can publish them.
//! The principals' role can read its own rejected writes and nothing else of the schema.
//! Invariant: what a stranger made beforehand is not taken over.

use hw_pg::error::{Doing as _, PgError};
use hw_types::Diagnostic;
use hw_types::relation::{quote_ident, quote_literal};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalog::USUAL_ROLES;
use crate::code;

/// The schema of Headwater's own tables.
pub(crate) const OWN: &str = "headwater";

/// Who writes, and for whom.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Setup {
    /// The role that Headwater logs in with when it serves.
    pub server_role: String,
    /// The role that principals write as.
    pub role: String,
}

/// Looks at the database and says who is concerned.
///
/// - Takes: the role that serves, if it is another than the one connected; the configured role of
///   writes, if any. Without one the first of `ihp_authenticated`, `authenticated` and
///   `headwater_authenticated` that exists is taken, and the last one is created.
/// - Errors: of the question; HW4301 when the role that serves does not exist; HW5303 when the
///   schema belongs to somebody whom nobody trusts.
pub async fn plan(
    client: &Client,
    server_role: Option<&str>,
    configured_role: Option<&str>,
) -> Result<Setup, Box<Diagnostic>> {
    let failed = |error: PgError| Box::new(error.diagnostic());
    let candidates: Vec<&str> = match configured_role {
        Some(role) => vec![role],
        None => USUAL_ROLES.to_vec(),
    };
    let rows = client
        .query_typed(
            "SELECT coalesce($2, current_user::text), \
                    EXISTS (SELECT FROM pg_catalog.pg_roles \
                            WHERE rolname = coalesce($2, current_user::text)), \
                    rolname::text \
             FROM (SELECT) one LEFT JOIN pg_catalog.pg_roles ON rolname = ANY($1) \
             ORDER BY pg_catalog.array_position($1, rolname::text) LIMIT 1",
            &[(&candidates, Type::TEXT_ARRAY), (&server_role, Type::TEXT)],
        )
        .await
        .doing("look for the role of writes")
        .map_err(failed)?;
    let row = rows.first().expect("a left join of one row has a row");
    let server_role: String = row.get(0);
    if !row.get::<_, bool>(1) {
        let what = format!("database role \"{server_role}\" does not exist");
        return Err(Box::new(Diagnostic::error(code::ROLE, what).mend(format!(
            "CREATE ROLE {} LOGIN REPLICATION; or name the role that serve logs in with",
            quote_ident(&server_role)
        ))));
    }
    let foreign = client
        .query_typed(
            &format!("SELECT thing, owner FROM ({OWNERS}) owners WHERE NOT trusted LIMIT 1"),
            &[(&server_role, Type::TEXT)],
        )
        .await
        .doing("look whom schema headwater belongs to")
        .map_err(failed)?;
    if let Some(row) = foreign.first() {
        let (thing, owner): (String, String) = (row.get(0), row.get(1));
        return Err(Box::new(foreign_owner(&thing, &owner, &server_role)));
    }
    let last = candidates.last().expect("there is a candidate");
    let found: Option<String> = row.get(2);
    Ok(Setup { server_role, role: found.unwrap_or_else(|| (*last).to_owned()) })
}

fn foreign_owner(thing: &str, owner: &str, server_role: &str) -> Diagnostic {
    let what = format!(
        "{thing} belongs to \"{owner}\", which is neither the role that serves nor yours nor a \
         superuser"
    );
    Diagnostic::error(code::FOREIGN_OWNER, what).mend(format!(
        "if you trust what is in it: ALTER {} OWNER TO {}; else drop it",
        thing.replacen("schema", "SCHEMA", 1).replacen("table", "TABLE", 1),
        quote_ident(server_role)
    ))
}

/// The schema and the tables that are there, with their owners. `$1`: the role that serves.
const OWNERS: &str = "\
SELECT thing, r.rolname::text AS owner,
       r.rolname = $1 OR r.rolsuper OR r.rolname = current_user AS trusted
FROM (
  SELECT 'schema headwater' AS thing, n.nspowner AS owner
  FROM pg_catalog.pg_namespace n WHERE n.nspname = 'headwater'
  UNION ALL
  SELECT 'table headwater.' || c.relname, c.relowner
  FROM pg_catalog.pg_class c JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
  WHERE n.nspname = 'headwater'
    AND c.relname IN ('uploads', 'upload_high_water', 'rejected_writes')
) things
JOIN pg_catalog.pg_roles r ON r.oid = things.owner";

/// What keeps the connected role from recording writes; `None` when it can. That a database is not
/// set up at all is a warning, because it may be meant to be read only.
pub async fn finding(client: &Client) -> Result<Option<Diagnostic>, PgError> {
    let rows = client.query_typed(STATE, &[]).await.doing("look for the tables of writes")?;
    let row = rows.first().expect("an aggregate has a row");
    let (login, complete, usable): (String, bool, bool) = (row.get(0), row.get(1), row.get(2));
    let finding = match (complete, usable) {
        (true, true) => return Ok(None),
        (false, _) => {
            Diagnostic::warning(code::NOT_SET_UP, "this database is not set up for writes")
                .at("schema headwater, tables of uploads")
                .mend("run: headwater setup")
        }
        (true, false) => Diagnostic::error(
            code::NOT_SET_UP,
            format!("this database is set up for writes of another role than \"{login}\""),
        )
        .at("schema headwater, tables of uploads")
        .mend(format!("run as a superuser: headwater setup --role {}", quote_ident(&login))),
    };
    Ok(Some(finding))
}

// A column that a later version added counts as missing.
const STATE: &str = "\
SELECT current_user::text,
       count(*) = 3,
       coalesce(pg_catalog.bool_and(
         pg_catalog.has_schema_privilege(n.oid, 'USAGE')
         AND pg_catalog.has_table_privilege(c.oid, 'SELECT')
         AND pg_catalog.has_table_privilege(c.oid, 'INSERT')
         AND pg_catalog.has_table_privilege(c.oid, 'UPDATE')
         AND pg_catalog.has_table_privilege(c.oid, 'DELETE')
         AND NOT pg_catalog.row_security_active(c.oid)
       ), false)
FROM pg_catalog.pg_class c
JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
WHERE n.nspname = 'headwater' AND (
  c.relname = 'rejected_writes'
  OR c.relname IN ('uploads', 'upload_high_water') AND 2 = (
    SELECT count(*) FROM pg_catalog.pg_attribute a
    WHERE a.attrelid = c.oid AND a.attname IN ('at', 'user_key')
  )
)";

/// The statements, in order. Run them in one transaction, by a superuser or by the role that
/// serves.
pub fn statements(setup: &Setup) -> Vec<String> {
    let (server, role) = (quote_ident(&setup.server_role), quote_ident(&setup.role));
    let (server_text, role_text) = (quote_literal(&setup.server_role), quote_literal(&setup.role));
    let mut out = vec![format!(
        "DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_roles WHERE rolname = {role_text}) THEN
    CREATE ROLE {role} NOLOGIN;
    GRANT USAGE ON SCHEMA public TO {role};
  END IF;
END $do$"
    )];
    if setup.server_role != setup.role {
        out.push(format!(
            "DO $do$ BEGIN
  -- Membership alone does not let a role be taken since Postgres 16.
  IF NOT pg_catalog.pg_has_role({server_text}, {role_text},
       CASE WHEN pg_catalog.current_setting('server_version_num')::int4 >= 160000
            THEN 'SET' ELSE 'MEMBER' END) THEN
    GRANT {role} TO {server};
  END IF;
END $do$"
        ));
    }
    out.push(format!(
        "DO $do$ DECLARE foreign_owner text; BEGIN
  SELECT thing || ' of ' || owner INTO foreign_owner FROM (
{}
  ) owners WHERE NOT trusted;
  IF foreign_owner IS NOT NULL THEN
    RAISE EXCEPTION '% was made by somebody else; see HW5303', foreign_owner;
  END IF;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace WHERE nspname = 'headwater') THEN
    CREATE SCHEMA headwater AUTHORIZATION {server};
  ELSIF NOT EXISTS (SELECT FROM pg_catalog.pg_namespace
       WHERE nspname = 'headwater' AND pg_catalog.pg_get_userbyid(nspowner) = {server_text}) THEN
    ALTER SCHEMA headwater OWNER TO {server};
  END IF;
END $do$",
        OWNERS.replace("$1", &server_text)
    ));
    out.push(format!("GRANT USAGE ON SCHEMA headwater TO {role}"));
    out.extend(TABLES.iter().map(|sql| (*sql).to_owned()));
    for table in ["uploads", "upload_high_water", "rejected_writes"] {
        out.push(format!(
            "DO $do$ BEGIN
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_class
       WHERE oid = 'headwater.{table}'::pg_catalog.regclass
         AND pg_catalog.pg_get_userbyid(relowner) = {server_text}) THEN
    ALTER TABLE headwater.{table} OWNER TO {server};
  END IF;
END $do$"
        ));
    }
    out.push(format!("GRANT SELECT ON headwater.rejected_writes TO {role}"));
    out.push(POLICIES.to_owned());
    out
}

// The owner sees and writes every row. Policy `server` is what earlier versions made for one login;
// policies of the operator's own stay.
const POLICIES: &str = "\
DO $do$ DECLARE other name; BEGIN
  FOR other IN SELECT polname FROM pg_catalog.pg_policy
       WHERE polrelid = 'headwater.rejected_writes'::pg_catalog.regclass
         AND (polname = 'server'
              OR polname = 'author' AND (polcmd <> 'r' OR polroles <> '{0}')) LOOP
    EXECUTE pg_catalog.format('DROP POLICY %I ON headwater.rejected_writes', other);
  END LOOP;
  IF NOT EXISTS (SELECT FROM pg_catalog.pg_policy
       WHERE polrelid = 'headwater.rejected_writes'::pg_catalog.regclass
         AND polname = 'author') THEN
    CREATE POLICY author ON headwater.rejected_writes FOR SELECT TO PUBLIC
      USING (sub = pg_catalog.current_setting('request.jwt.claim.sub', true));
  END IF;
END $do$";

// Earlier versions kept records by the subject alone. Whether one was a text, a number or another value
// is not known any more, so that each is kept for every user that it may have been of: what was applied
// is applied to nobody again. The form of a user's key: `hw_auth::Principal::key`.
const USER_KEYS: &str = "\
DO $do$ DECLARE
  changed record;
  text_key text := $key$'t' || pg_catalog.octet_length(pg_catalog.convert_to(sub, 'UTF8'))
    || ':' || sub$key$;
BEGIN
  FOR changed IN SELECT * FROM (VALUES
      ('uploads', 'tx_id, first_op_id, contents, verdict, rejection, at',
       'user_key, client_id, tx_id, first_op_id'),
      ('upload_high_water', 'op_id, at', 'user_key, client_id')) changes (name, columns, key)
    WHERE EXISTS (SELECT FROM pg_catalog.pg_attribute a
      WHERE a.attrelid = ('headwater.' || name)::pg_catalog.regclass
        AND a.attname = 'sub' AND NOT a.attisdropped) LOOP
    EXECUTE pg_catalog.format('ALTER TABLE headwater.%I ADD COLUMN user_key text,
      DROP CONSTRAINT IF EXISTS %I', changed.name, changed.name || '_pkey');
    EXECUTE pg_catalog.format('UPDATE headwater.%I SET user_key = %s', changed.name, text_key);
    EXECUTE pg_catalog.format($copy$
      INSERT INTO headwater.%1$I (sub, user_key, client_id, %2$s)
      SELECT sub, kind || pg_catalog.substr(user_key, 2), client_id, %2$s
      FROM headwater.%1$I, LATERAL (
        SELECT 'n' AS kind WHERE sub ~ '^-?[0-9]+([.][0-9]+)?(e[-+]?[0-9]+)?$'
        UNION ALL SELECT 'j' WHERE sub ~ '^(true$|false$|[[{])') kinds$copy$,
      changed.name, changed.columns);
    EXECUTE pg_catalog.format('ALTER TABLE headwater.%I DROP COLUMN sub,
      ALTER COLUMN user_key SET NOT NULL, ADD PRIMARY KEY (%s)', changed.name, changed.key);
  END LOOP;
END $do$";

const TABLES: [&str; 10] = [
    "CREATE TABLE IF NOT EXISTS headwater.uploads (
  user_key text NOT NULL,
  client_id text NOT NULL,
  tx_id bigint NOT NULL,
  first_op_id bigint NOT NULL,
  contents bytea NOT NULL,
  verdict text NOT NULL CHECK (verdict IN ('applied', 'rejected')),
  rejection json,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_key, client_id, tx_id, first_op_id)
)",
    "CREATE INDEX IF NOT EXISTS uploads_at ON headwater.uploads (at)",
    "CREATE TABLE IF NOT EXISTS headwater.upload_high_water (
  user_key text NOT NULL,
  client_id text NOT NULL,
  op_id bigint NOT NULL,
  at timestamptz NOT NULL DEFAULT now(),
  PRIMARY KEY (user_key, client_id)
)",
    "ALTER TABLE headwater.upload_high_water
  ADD COLUMN IF NOT EXISTS at timestamptz NOT NULL DEFAULT now()",
    USER_KEYS,
    "CREATE INDEX IF NOT EXISTS uploads_user_key_at ON headwater.uploads (user_key, at)",
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
    "CREATE INDEX IF NOT EXISTS rejected_writes_sub_at
  ON headwater.rejected_writes (sub, rejected_at)",
    "ALTER TABLE headwater.rejected_writes ENABLE ROW LEVEL SECURITY",
];
