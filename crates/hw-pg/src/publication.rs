//! The publication: making it send what is needed, as far as it is ours.
//!
//! In: an SQL connection and the patterns of definitions. Out: [`Ensured`]: the catalog behind the
//! change, and for each table that cannot be added why. Invariants: a publication that belongs to
//! somebody else is never touched; no table's refusal keeps another one out; nothing here removes
//! a table, a filter or a column list.

use crate::catalog::{Catalog, Refused, Resolved, code, not_permitted, resolve};
use crate::error::{PgError, Result};
use crate::statements::{add_statement, create_statement, settings_statement};
use hw_types::facts::TableFacts;
use hw_types::{Diagnostic, RelationId, TableName, TablePattern};
use tokio_postgres::Client;

/// The name that is used unless the configuration gives another.
pub const DEFAULT_NAME: &str = "headwater";

/// How long adding tables may wait for a lock (VACUUM and other ALTERs hold it) before it is
/// tried again later.
const LOCK_TIMEOUT: &str = "1s";

/// SQLSTATEs.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const DUPLICATE_OBJECT: &str = "42710";
/// Another session has just committed the same entry into the catalog.
const UNIQUE_VIOLATION: &str = "23505";
const LOCK_NOT_AVAILABLE: &str = "55P03";
/// A table is gone, or its schema.
const UNDEFINED_TABLE: &str = "42P01";
const UNDEFINED_SCHEMA: &str = "3F000";

/// What [`ensure`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// The catalog behind the change, which is committed.
    pub catalog: Catalog,
    /// What the patterns come to in it; tables that could not be added are refused.
    pub resolved: Resolved,
    /// Whether the publication was made now: whatever was streamed before through one of that
    /// name, a new slot and a compared copy must follow.
    pub made: bool,
    /// Whether its settings were changed.
    pub mended: bool,
    /// The tables that were added.
    pub added: Vec<TableName>,
}

/// Makes the publication send these tables: makes it, mends its settings, adds what is missing,
/// each as far as our role may.
///
/// - Takes: the patterns of definitions; the oids of the tables that are known, which are read
///   with them.
/// - Errors: those of a connection. What our role may not do is no error but refuses tables.
pub async fn ensure(
    client: &Client,
    name: &str,
    patterns: &[TablePattern],
    ids: &[RelationId],
) -> Result<Ensured> {
    let mut work =
        Work { client, name, made: false, mended: false, added: vec![], refused: vec![] };
    // Another instance may do the same at the same time; then it is read again.
    for _ in 0..5 {
        let catalog = Catalog::read(client, name, patterns, ids).await?;
        let mut resolved = resolve(&catalog, patterns);
        if work.step(&catalog, &resolved).await? == Step::Changed {
            continue;
        }
        resolved.to_publish.clear();
        resolved.refused.extend(work.refused);
        let Work { made, mended, added, .. } = work;
        return Ok(Ensured { catalog, resolved, made, mended, added });
    }
    Err(PgError::protocol(format!("publication \"{name}\" changes without end")))
}

/// What has been done so far.
struct Work<'a> {
    client: &'a Client,
    name: &'a str,
    made: bool,
    mended: bool,
    added: Vec<TableName>,
    /// Tables that could not be added; they are not tried again.
    refused: Vec<Refused>,
}

#[derive(PartialEq, Eq)]
enum Step {
    /// The catalog must be read again.
    Changed,
    /// There is nothing to do, or nothing that we may.
    Done,
}

impl Work<'_> {
    async fn step(&mut self, catalog: &Catalog, resolved: &Resolved) -> Result<Step> {
        let refused = |id: &RelationId| {
            let table = catalog.table_by_id(*id).map(|table| &table.facts.name);
            self.refused.iter().any(|refused| refused.table.as_ref() == table)
        };
        let missing: Vec<&TableFacts> = resolved
            .to_publish
            .iter()
            .filter(|id| !refused(id))
            .filter_map(|id| catalog.table_by_id(*id).map(|table| &table.facts))
            .collect();
        match &catalog.publication {
            None if catalog.may_create => return self.make().await,
            Some(publication) if publication.owned => {}
            None | Some(_) => return Ok(Step::Done),
        }
        if resolved.needs_actions || resolved.needs_via_root {
            let sql = settings_statement(self.name, resolved.needs_via_root);
            run(self.client, &sql).await.map_err(|error| error.doing("mend the publication"))?;
            self.mended = true;
            return Ok(Step::Changed);
        }
        self.add(&missing).await
    }

    /// Makes it empty: a table that cannot be added then keeps no other one out.
    async fn make(&mut self) -> Result<Step> {
        match run(self.client, &create_statement(self.name, &[])).await {
            Ok(()) => self.made = true,
            Err(error) if is_raced(&error) => {}
            Err(error) => return Err(error.doing("make the publication")),
        }
        Ok(Step::Changed)
    }

    async fn add(&mut self, missing: &[&TableFacts]) -> Result<Step> {
        if missing.is_empty() {
            return Ok(Step::Done);
        }
        let names: Vec<TableName> = missing.iter().map(|table| table.name.clone()).collect();
        if run(self.client, &add_statement(self.name, &names)).await.is_ok() {
            self.added.extend(names);
            return Ok(Step::Changed);
        }
        // One of them is in the way. Which one, each by itself will tell.
        for table in missing {
            let sql = add_statement(self.name, std::slice::from_ref(&table.name));
            match run(self.client, &sql).await {
                Ok(()) => self.added.push(table.name.clone()),
                Err(error) if is_raced(&error) => {}
                Err(error) if error.sqlstate() == Some(INSUFFICIENT_PRIVILEGE) => {
                    self.refused.push(Refused::new(&table.name, not_permitted(table)));
                }
                Err(error) if error.sqlstate().is_some() => {
                    self.refused.push(failed(self.name, table, &error));
                }
                Err(error) => return Err(error.doing("add a table to the publication")),
            }
        }
        Ok(Step::Changed)
    }
}

/// Runs a statement that waits for no lock for long.
async fn run(client: &Client, sql: &str) -> Result<()> {
    let guarded = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {sql} COMMIT");
    let Err(error) = client.batch_execute(&guarded).await else { return Ok(()) };
    client.batch_execute("ROLLBACK").await?;
    Err(PgError::from(error))
}

/// Whether another session has done the same meanwhile, or dropped the table: the catalog is read again.
fn is_raced(error: &PgError) -> bool {
    let raced = [DUPLICATE_OBJECT, UNIQUE_VIOLATION, UNDEFINED_TABLE, UNDEFINED_SCHEMA];
    error.sqlstate().is_some_and(|state| raced.contains(&state))
}

fn failed(name: &str, table: &TableFacts, error: &PgError) -> Refused {
    let why = match error.sqlstate() {
        Some(LOCK_NOT_AVAILABLE) => "somebody holds a lock on it; it is tried again".to_owned(),
        _ => error.diagnostic().what,
    };
    let what = format!("{} cannot be added to publication \"{name}\": {why}", table.name);
    let finding = Diagnostic::error(code::NOT_PUBLISHED, what)
        .at(format!("table {}", table.name))
        .mend(add_statement(name, std::slice::from_ref(&table.name)));
    Refused::new(&table.name, finding)
}
