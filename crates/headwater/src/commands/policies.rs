//! `headwater policies`: what row level security shows a role, and what of it Headwater decides by itself.

use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_types::Diagnostic;

use crate::cli::Policies;
use crate::code;
use crate::config::Config;
use crate::policies::{Because, Reader, Tier, Verdict};
use crate::report::{self, Exit};

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
    let reader = Reader::read(&mut client, config, arguments.role.as_deref()).await?;
    if arguments.as_streams {
        return Ok(as_streams(&reader));
    }
    let wanted = arguments.table.as_deref().map(named);
    let is_wanted = |verdict: &&Verdict| match &wanted {
        None => true,
        Some((None, table)) => verdict.table == *table,
        Some((Some(schema), table)) => verdict.table == *table && verdict.schema == *schema,
    };
    let verdicts = reader.verdicts();
    let tables: Vec<&Verdict> = verdicts.iter().filter(is_wanted).collect();
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
    for table in &tables {
        report::answer(&paragraph(table));
    }
    let undecided = tables.iter().filter(|table| table.tier == Tier::Asked).count();
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

/// Prints a sync configuration; what is not in it goes to the person.
fn as_streams(reader: &Reader) -> Exit {
    let streams = reader.streams();
    report::answer(&streams.text());
    let refused: usize = streams.tables.iter().map(|table| table.refused.len()).sum();
    if refused == 0 {
        return Exit::Done;
    }
    report::say(&format!(
        "{} not synced; the text says why",
        match refused {
            1 => "1 policy is".to_owned(),
            many => format!("{many} policies are"),
        }
    ));
    Exit::Negative
}

/// Schema and name of a table as somebody writes it: in quotes, or in any case without.
fn named(text: &str) -> (Option<String>, String) {
    let mut parts = vec![String::new()];
    let (mut quoted, mut letters) = (false, text.chars().peekable());
    while let Some(letter) = letters.next() {
        let part = parts.last_mut().expect("there is one");
        match letter {
            '"' if quoted && letters.next_if_eq(&'"').is_some() => part.push('"'),
            '"' => quoted = !quoted,
            '.' if !quoted => parts.push(String::new()),
            letter => part.push(letter),
        }
    }
    match parts.len() {
        1 => (None, parts.remove(0)),
        _ => (Some(parts.remove(0)), parts.join(".")),
    }
}

/// A paragraph of a table.
fn paragraph(verdict: &Verdict) -> String {
    let Verdict { schema, table, sees, because, lifted_by, .. } = verdict;
    let mut text = format!("{schema}.{table}: {sees}\n");
    if let Some(Because { expression, reason }) = because {
        if let Some(expression) = expression {
            text += &format!("  because of: {expression}\n");
        }
        text += &format!("  {reason}\n");
    }
    if let Some(lifted_by) = lifted_by {
        text += &format!("  instead: {lifted_by}\n");
    }
    for policy in &verdict.policies {
        let kind = if policy.permissive { "admits" } else { "restricts" };
        let roles = match policy.roles.is_empty() {
            true => "public".to_owned(),
            false => policy.roles.join(", "),
        };
        let using = policy.using.as_deref().unwrap_or("nothing, because it has no USING");
        text += &format!("  policy {} {kind} for {roles}: {using}\n", policy.name);
    }
    text
}
