//! What operators have to do before clients can write: the role, and per table its rights, its
//! policies, and the way from a client's id to a row.
//!
//! In: a session, the role of writes, where output tables are written. Out: findings with the
//! statements that mend them. It asks beforehand what a write would run into.

use hw_pg::error::{Doing as _, PgError};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, TableName};
use tokio_postgres::Client;
use tokio_postgres::types::Type;

use crate::catalog::{self, Catalog};
use crate::code;
use crate::key;
use crate::map::{MappedTable, TableTarget, UploadMap};
use crate::rights::Rights;
use crate::role::{no_role, owned, role_finding};
use crate::schema;
use crate::verdict::Unwritable;

/// Findings about the tables of a map, by their names; an error is what refuses every write, a
/// warning may be meant.
///
/// - Takes: the configured role, if one is configured.
pub async fn examine(
    client: &Client,
    configured_role: Option<&str>,
    map: &UploadMap,
) -> Result<Vec<Diagnostic>, PgError> {
    let catalog = Catalog::default();
    let role = match configured_role {
        Some(role) => Some(role.to_owned()),
        None => catalog.usual_role(client).await?,
    };
    let Some(role) = role else { return Ok(vec![no_role()]) };
    if let Some(finding) = role_finding(&role, &catalog.role(client, &role).await?) {
        return Ok(vec![finding]);
    }
    let mut outputs: Vec<(&str, &TableTarget)> = map.tables().collect();
    outputs.sort_by_key(|(output, _)| *output);
    let mut findings = Vec::new();
    let mut seen: Vec<&TableName> = Vec::new();
    for (output, target) in outputs {
        match target {
            TableTarget::Waits => {}
            TableTarget::NotPlain(reason) => findings.push(read_only(output, reason)),
            TableTarget::Table(mapped) => {
                let table = catalog::read_table(client, &role, &mapped.source, None).await?;
                let Some(table) = table else {
                    findings.push(missing(output, mapped));
                    continue;
                };
                match key::parts(mapped, &table) {
                    Err(Unwritable::Rejected(rejection)) => {
                        findings.push(read_only(output, &rejection.message));
                        continue;
                    }
                    Err(Unwritable::Waits(why)) => findings.push(
                        Diagnostic::warning(
                            code::NOT_SERVED,
                            format!("table \"{output}\" cannot be written yet: {why}"),
                        )
                        .mend("add it, or correct the sync configuration or uploads.tables"),
                    ),
                    Ok(_) => {}
                }
                if seen.contains(&&mapped.source) {
                    continue;
                }
                seen.push(&mapped.source);
                if table.owned_by_role {
                    findings.push(owned(&role, &mapped.source));
                }
                // Records of rejected writes are for clients to read only.
                if mapped.source.schema == schema::OWN {
                    continue;
                }
                if let Some(rights) = Rights::read(client, &role, &mapped.source).await? {
                    let rules = RulesToMake::read(client, &mapped.source).await?;
                    findings.extend(about(&role, &mapped.source, &rights, &rules));
                }
            }
        }
    }
    Ok(findings)
}

fn missing(output: &str, mapped: &MappedTable) -> Diagnostic {
    let what = format!(
        "table \"{output}\" of clients is written to {}, and the database has no such table",
        mapped.source
    );
    Diagnostic::warning(code::NOT_SERVED, what)
        .mend("create it, or correct the sync configuration or uploads.tables")
}

fn read_only(output: &str, reason: &str) -> Diagnostic {
    let what = format!("table \"{output}\" is read only for clients: {reason}");
    Diagnostic::warning(code::NOT_WRITABLE, what).mend(
        "if clients write it: make its id of the key's columns (SELECT a || '/' || b AS id, …), or \
         name table and key under uploads.tables",
    )
}

/// What a policy of a table has to name, as far as the catalog tells.
struct RulesToMake {
    /// The role that replicates, if policies would hide rows from it.
    reader: Option<String>,
    /// A column that says whose a row is, by its name.
    owner: Option<String>,
}

/// Names of columns that say whose a row is, the likeliest first.
const OWNERS: [&str; 9] = [
    "owner",
    "owner_id",
    "user_id",
    "userId",
    "author",
    "author_id",
    "created_by",
    "account_id",
    "sub",
];

impl RulesToMake {
    /// Reads it. The tables of writes belong to the role that serves, whoever asks here.
    async fn read(client: &Client, table: &TableName) -> Result<RulesToMake, PgError> {
        const QUERY: &str = "
            SELECT r.rolname::text,
                   r.rolsuper OR r.rolbypassrls OR pg_catalog.pg_has_role(r.oid, c.relowner, 'USAGE'),
                   ARRAY(SELECT a.attname::text FROM pg_catalog.pg_attribute a
                         WHERE a.attrelid = c.oid AND a.attnum > 0 AND NOT a.attisdropped)
            FROM pg_catalog.pg_class c
            JOIN pg_catalog.pg_namespace n ON n.oid = c.relnamespace
            JOIN pg_catalog.pg_roles r ON r.oid = coalesce(
              (SELECT u.relowner FROM pg_catalog.pg_class u
               JOIN pg_catalog.pg_namespace h ON h.oid = u.relnamespace
               WHERE h.nspname = 'headwater' AND u.relname = 'uploads'),
              (SELECT oid FROM pg_catalog.pg_roles WHERE rolname = current_user))
            WHERE n.nspname = $1 AND c.relname = $2";
        let names = [(&table.schema as _, Type::TEXT), (&table.name as _, Type::TEXT)];
        let rows = client.query_typed(QUERY, &names).await.doing("look who reads a table")?;
        let Some(row) = rows.first() else { return Ok(RulesToMake { reader: None, owner: None }) };
        let (login, sees_all, columns): (String, bool, Vec<String>) =
            (row.get(0), row.get(1), row.get(2));
        let owner = OWNERS.into_iter().find(|name| columns.iter().any(|column| column == name));
        Ok(RulesToMake { reader: (!sees_all).then_some(login), owner: owner.map(str::to_owned) })
    }
}

/// What somebody has to do before clients can write a table, or as only they should; the statements can
/// be run as they are.
fn about(
    role: &str,
    table: &TableName,
    rights: &Rights,
    rules: &RulesToMake,
) -> Option<Diagnostic> {
    let mut what = Vec::new();
    let mut mend = rights.grants_for_all();
    if !mend.is_empty() {
        what.push(match rights.can_write_at_all() {
            false => "it has no right to write it".to_owned(),
            true => "it lacks rights".to_owned(),
        });
    }
    let (quoted, role_ident) = (table.quoted(), quote_ident(role));
    const AUTHOR: &str = "current_setting('request.jwt.claim.sub', true)";
    let (rule, remark) = match &rules.owner {
        Some(owner) => (format!("{}::text = {AUTHOR}", quote_ident(owner)), String::new()),
        // Nobody's until somebody says whose.
        None => (
            "false".to_owned(),
            format!(" -- instead of false: whose row it is, such as owner = {AUTHOR}"),
        ),
    };
    let verb = if rights.has_ours { "ALTER" } else { "CREATE" };
    let policy = format!(
        "{verb} POLICY headwater_writes ON {quoted} TO {role_ident} USING ({rule});{remark}"
    );
    if !rights.row_security {
        what.push("no row level security decides whose rows it may write".to_owned());
        // Enabled by itself it would hide the rows from the login that replicates them.
        mend.extend(rules.reader.as_ref().map(|reader| {
            let reader = quote_ident(reader);
            format!(
                "CREATE POLICY headwater_reads ON {quoted} FOR SELECT TO {reader} USING (true);"
            )
        }));
        mend.push(format!("ALTER TABLE {quoted} ENABLE ROW LEVEL SECURITY; {policy}"));
    } else if !rights.without_policy.is_empty() {
        what.push(format!("no policy allows {}", rights.without_policy.join(", ")));
        mend.push(policy);
    }
    if what.is_empty() {
        return None;
    }
    let what = format!("clients write {table} as database role \"{role}\": {}", what.join("; "));
    Some(Diagnostic::warning(code::NOT_WRITABLE, what).mend(mend.join(" ")))
}
