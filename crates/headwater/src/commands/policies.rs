//! `headwater policies`: what row level security shows a role, and what of it Headwater decides by itself.

use hw_expr::postgres::{Refusal, Visible};
use hw_pg::config::ConnectConfig;
use hw_pg::policies::{RowSecurity, SecuredTable, Unseen};
use hw_pg::sql;
use hw_types::Diagnostic;

use crate::cli::Policies;
use crate::code;
use crate::config::Config;
use crate::report::{self, Exit};

/// The roles that tokens commonly stand for, first things first.
const USUAL: [&str; 2] = ["authenticated", "headwater_authenticated"];

/// Prints a paragraph for each table. Exit code 1 when a policy is not decided here.
pub async fn run(config: &Config, arguments: &Policies) -> Exit {
    match shown(config, arguments).await {
        Ok(exit) => exit,
        Err(finding) => super::refuse(*finding),
    }
}

async fn shown(config: &Config, arguments: &Policies) -> Result<Exit, Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(config.database_url()?).map_err(Box::new)?;
    report::findings(&warnings, "");
    let failed = |error: hw_pg::error::PgError| Box::new(error.diagnostic());
    let (mut client, _driver) = sql::connect(&connect).await.map_err(failed)?;
    let given = arguments.role.clone().or_else(|| config.uploads.role.clone());
    let roles = match &given {
        Some(role) => vec![role.as_str()],
        None => USUAL.to_vec(),
    };
    let mut found = None;
    for role in &roles {
        let security = RowSecurity::read(&mut client, role).await.map_err(failed)?;
        if security.has_role() {
            found = Some((*role, security));
            break;
        }
    }
    let Some((role, security)) = found else {
        let what = format!("there is no role {}, of which tokens could be", roles.join(" or "));
        return Err(Box::new(
            Diagnostic::error(code::NO_READER, what)
                .mend("name one: headwater policies --role ROLE"),
        ));
    };
    let wanted = |table: &&SecuredTable| {
        let (schema, name) = &table.name;
        arguments
            .table
            .as_ref()
            .is_none_or(|only| *only == format!("{schema}.{name}") || only == name)
    };
    let tables: Vec<&SecuredTable> = security.tables().filter(wanted).collect();
    if tables.is_empty() {
        let what = match &arguments.table {
            Some(table) => format!("there is no table {table}"),
            None => "the database has no tables".to_owned(),
        };
        return Err(Box::new(
            Diagnostic::error(code::NO_READER, what)
                .mend("name a table as schema.name; views have no policies"),
        ));
    }
    let mut undecided = 0;
    for table in &tables {
        let (text, is_decided) = paragraph(&security, table, role);
        undecided += usize::from(!is_decided);
        report::answer(&text);
    }
    let all = report::count(tables.len(), "table");
    if undecided == 0 {
        report::answer(&format!("{all}: all is decided without asking Postgres\n"));
        return Ok(Exit::Done);
    }
    report::answer(&format!(
        "{all}: for {undecided} of them Postgres would have to be asked; docs/policies.md lists what is decided here\n"
    ));
    Ok(Exit::Negative)
}

/// What a role sees of a table, and whether that is decided here.
fn paragraph(security: &RowSecurity, table: &SecuredTable, role: &str) -> (String, bool) {
    let (schema, name) = &table.name;
    let (headline, is_decided) = headline(security, table, role);
    let mut text = format!("{schema}.{name}: {headline}\n");
    for policy in security.policies_of(table) {
        let kind = if policy.permissive { "admits" } else { "restricts" };
        let roles = match policy.roles.is_empty() {
            true => "public".to_owned(),
            false => policy.roles.join(", "),
        };
        let using = match &policy.using {
            Some(using) => using.split_whitespace().collect::<Vec<_>>().join(" "),
            None => "nothing, because it has no USING".to_owned(),
        };
        text += &format!("  policy {} {kind} for {roles}: {using}\n", policy.name);
    }
    (text, is_decided)
}

fn headline(security: &RowSecurity, table: &SecuredTable, role: &str) -> (String, bool) {
    let seen = match security.table_of(table) {
        Ok(seen) => seen,
        Err(Unseen::NotAllowed(reason)) => return (format!("no row, because {reason}"), true),
        Err(Unseen::Unknown(reason)) => {
            return (format!("Postgres must be asked\n  {reason}"), false);
        }
    };
    match &seen.visible {
        Visible::All if !table.enabled => {
            return ("every row: row security is not enabled".to_owned(), true);
        }
        Visible::All => return (format!("every row: {role} is exempt from its policies"), true),
        Visible::Where { permissive, .. } if permissive.is_empty() => {
            return (format!("no row: no policy admits {role}"), true);
        }
        Visible::Where { .. } => {}
    }
    match security.condition(table) {
        Ok(condition) => {
            let read = condition.tables();
            let names = security.tables().filter(|table| read.contains(&table.id));
            let names: Vec<String> = names.map(|t| format!("{}.{}", t.name.0, t.name.1)).collect();
            match names.is_empty() {
                true => ("decided from the row and the token".to_owned(), true),
                false => (
                    format!("decided from the row, the token and rows of {}", names.join(", ")),
                    true,
                ),
            }
        }
        Err(Refusal { expression, reason }) => {
            (format!("Postgres must be asked\n  because of: {expression}\n  {reason}"), false)
        }
    }
}
