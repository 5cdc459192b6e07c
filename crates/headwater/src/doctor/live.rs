//! Live queries: of which tables there would be none, or Postgres would be asked again and again, and why.
//!
//! In: a session, the configuration. Out: what cannot be followed, as findings, because it can be mended; what
//! policies say that is not decided here, as facts, because it may be meant so.

use std::collections::{BTreeMap, BTreeSet};

use hw_datasync::code::NOT_FOLLOWED;
use hw_live::figures::code;
use hw_pg::catalog::{Catalog, resolve};
use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::sql;
use hw_types::{Diagnostic, TableName, TablePattern};

use super::Examination;
use crate::config::Config;
use crate::policies::{Reader, Tier};

/// Adds what hinders live queries, where they are served.
pub async fn check(
    config: &Config,
    connect: &ConnectConfig,
    examination: &mut Examination,
) -> Result<(), PgError> {
    if !config.datasync.enabled {
        return Ok(());
    }
    let (mut client, _driver) = sql::connect(connect).await?;
    let reader = match Reader::read(&mut client, config, config.datasync.role.as_deref()).await {
        Ok(reader) => reader,
        // Nobody can ask, of whom something could be said.
        Err(finding) => {
            examination.facts.push(format!("live queries were not checked: {}", finding.what));
            return Ok(());
        }
    };
    let verdicts = reader.verdicts();
    let served = verdicts
        .iter()
        .filter(|it| it.schema == config.datasync.schema && !matches!(it.tier, Tier::Fixed));
    let mut read: BTreeMap<TableName, Vec<TableName>> = BTreeMap::new();
    for verdict in served {
        let table = TableName::new(verdict.schema.clone(), verdict.table.clone());
        if verdict.tier == Tier::Asked {
            let because = verdict.because.as_ref().map_or("", |because| &because.reason);
            examination.facts.push(format!(
                "live queries of {table} as {} ask Postgres each second and after each commit: {because} (`headwater \
                 policies --table {table}`)",
                reader.role
            ));
        }
        let beside = reader.tables_beside(&table);
        read.insert(table.clone(), std::iter::once(table).chain(beside).collect());
    }
    let of = |tables: &Vec<TableName>| tables.iter().map(TablePattern::exactly).collect::<Vec<_>>();
    let patterns: Vec<TablePattern> = read.values().flat_map(of).collect();
    let catalog = Catalog::read(&client, &config.database.publication, &patterns, &[]).await?;
    // A table that hinders several is told once.
    let mut refused: BTreeMap<TableName, (Diagnostic, BTreeSet<&TableName>)> = BTreeMap::new();
    for (table, tables) in &read {
        for one in resolve(&catalog, &of(tables)).refused {
            let Some(name) = one.table else { continue };
            refused.entry(name).or_insert_with(|| (one.finding, BTreeSet::new())).1.insert(table);
        }
    }
    for (name, (finding, tables)) in refused {
        let (own, beside): (Vec<&TableName>, Vec<&TableName>) =
            tables.into_iter().partition(|table| **table == name);
        let kinds =
            [(NOT_FOLLOWED, own, "are refused"), (code::POLLED, beside, "are asked each second")];
        for (code, tables, become_) in kinds.into_iter().filter(|(_, tables, _)| !tables.is_empty())
        {
            let tables: Vec<String> = tables.into_iter().map(ToString::to_string).collect();
            let what = format!(
                "live queries of {} {become_}, because {}",
                tables.join(", "),
                finding.what
            );
            let hindered = Diagnostic::warning(code, what);
            examination.findings.push(match &finding.mend {
                Some(mend) => hindered.mend(mend.clone()),
                None => hindered,
            });
        }
    }
    Ok(())
}
