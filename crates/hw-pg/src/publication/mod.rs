//! The publication: what it contains, and making it contain what is needed.
//!
//! In: an SQL connection and the tables that definitions name. Out: [`Publication`], the exact
//! contents with row filters and column lists, or the SQL that somebody with more rights must
//! run. Invariant: the publication only grows; nothing here ever removes a table or changes a
//! setting of a publication that was there.

mod contents;

pub use contents::{Publication, PublishedTable};

use crate::catalog::{CatalogTable, TableKind, code, usable};
use crate::error::{PgError, Result};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, TableName};
use tokio_postgres::Client;

/// The name that is used unless the configuration gives another.
pub const DEFAULT_NAME: &str = "headwater";

/// How long adding tables may wait for a lock (VACUUM and other ALTERs hold it) before it is
/// tried again later.
const LOCK_TIMEOUT: &str = "5s";

/// SQLSTATEs.
const INSUFFICIENT_PRIVILEGE: &str = "42501";
const DUPLICATE_OBJECT: &str = "42710";
/// Another session has just committed the same entry into the catalog.
const UNIQUE_VIOLATION: &str = "23505";

impl Publication {
    /// How the publication sends a table, if it does.
    pub fn table(&self, name: &TableName) -> Option<&PublishedTable> {
        self.tables.iter().find(|table| table.name == *name)
    }

    /// What makes the publication unfit, whatever its tables.
    pub fn findings(&self) -> Vec<Diagnostic> {
        if self.left_out.is_empty() {
            return Vec::new();
        }
        let kinds: Vec<String> = self.left_out.iter().map(|kind| format!("{kind}s")).collect();
        let what =
            format!("publication \"{}\" does not publish {}", self.name, kinds.join(" and "));
        vec![Diagnostic::error(code::PUBLISHED_OPERATIONS, what).mend(format!(
            "ALTER PUBLICATION {} SET (publish = 'insert, update, delete, truncate');",
            quote_ident(&self.name)
        ))]
    }

    /// Whether this table's changes arrive under its own name, and exactly.
    ///
    /// - Returns: `Ok(true)` when they do, `Ok(false)` when the table must be added first, else
    ///   why it can be neither.
    pub fn covers(&self, table: &CatalogTable) -> Result<bool, Diagnostic> {
        let place = || format!("table {}, publication \"{}\"", table.name, self.name);
        let published = self.table(&table.name);
        usable(table, published.map(|published| published.columns.as_slice()))?;
        if published.is_some() {
            return Ok(true);
        }
        if table.kind == TableKind::Partitioned && !self.via_root {
            return Err(Diagnostic::error(
                code::PARTITION_ROOT,
                format!("changes of partitioned table {} arrive under its partitions", table.name),
            )
            .at(place())
            .mend(format!(
                "ALTER PUBLICATION {} SET (publish_via_partition_root = true); or name the \
                 partitions",
                quote_ident(&self.name)
            )));
        }
        if self.via_root
            && let Some(root) = table.ancestors.iter().rev().find(|a| self.table(a).is_some())
        {
            return Err(Diagnostic::error(
                code::PARTITION_ROOT,
                format!("changes of partition {} arrive under {root}", table.name),
            )
            .at(place())
            .mend(format!("name {root} in the definition")));
        }
        Ok(false)
    }
}

/// What [`ensure`] did.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Ensured {
    /// The publication as it is now; its change is committed.
    pub publication: Publication,
    /// The tables that were added.
    pub added: Vec<TableName>,
    /// Tables that cannot be replicated, each with the reason; the others are unaffected.
    pub refused: Vec<Diagnostic>,
}

/// Makes the publication contain these tables: creates it, or adds what is missing in one
/// statement.
///
/// - Takes: the tables that definitions need, as the catalog has them.
/// - Returns: the contents behind the change, which is committed when this returns.
/// - Errors: a [`Diagnostic`] (as `PgErrorKind::Configuration`) with the exact SQL when the role
///   lacks the right; SQLSTATE 55P03 (try again) when a lock could not be had in 5 s.
pub async fn ensure(client: &Client, name: &str, wanted: &[&CatalogTable]) -> Result<Ensured> {
    // Another instance may do the same at the same time; then it is read again.
    for _ in 0..5 {
        let found = Publication::read(client, name).await?;
        let mut added = Vec::new();
        let mut refused = Vec::new();
        let via_root = found.as_ref().is_none_or(|publication| publication.via_root);
        for table in wanted {
            // A root that is wanted as well brings its partitions.
            if via_root && wanted.iter().any(|other| table.ancestors.contains(&other.name)) {
                continue;
            }
            let covered = match &found {
                Some(publication) => publication.covers(table),
                None => usable(table, None).map(|()| false),
            };
            match covered {
                Ok(true) => {}
                Ok(false) => added.push(table.name.clone()),
                Err(finding) => refused.push(finding),
            }
        }
        if let Some(publication) = &found
            && let Some(finding) = publication.findings().into_iter().next()
        {
            return Err(PgError::from(finding));
        }
        let sql = match (&found, added.is_empty()) {
            (Some(publication), true) => {
                return Ok(Ensured { publication: publication.clone(), added, refused });
            }
            (Some(_), false) => add_statement(name, &added),
            (None, _) => create_statement(name, &added),
        };
        let guarded = format!("BEGIN; SET LOCAL lock_timeout = '{LOCK_TIMEOUT}'; {sql} COMMIT");
        match client.batch_execute(&guarded).await {
            Ok(()) => {
                let publication = Publication::read(client, name).await?;
                if let Some(publication) = publication {
                    return Ok(Ensured { publication, added, refused });
                }
            }
            Err(error) => {
                client.batch_execute("ROLLBACK").await?;
                let error = PgError::from(error);
                match error.sqlstate() {
                    Some(INSUFFICIENT_PRIVILEGE) => {
                        return Err(PgError::from(not_permitted(
                            found.is_some(),
                            name,
                            &added,
                            sql,
                        )));
                    }
                    Some(DUPLICATE_OBJECT | UNIQUE_VIOLATION) => {}
                    _ => return Err(error.doing("add tables to the publication")),
                }
            }
        }
    }
    Err(PgError::protocol(format!("publication \"{name}\" changes without end")))
}

fn not_permitted(exists: bool, name: &str, tables: &[TableName], sql: String) -> Diagnostic {
    let finding = match exists {
        false => Diagnostic::error(
            code::NO_PUBLICATION,
            format!("publication \"{name}\" does not exist and this role may not create it"),
        ),
        true => {
            let names: Vec<String> = tables.iter().map(TableName::to_string).collect();
            Diagnostic::error(
                code::NOT_PUBLISHED,
                format!(
                    "publication \"{name}\" lacks {} and this role may not add to it",
                    names.join(", ")
                ),
            )
        }
    };
    finding.mend(sql)
}

/// `ONLY "public"."a", ONLY "public"."b"`. Without ONLY the tables that inherit from one would be
/// published with it, whether they have an identity or not; partitions belong to their root
/// either way.
fn list(tables: &[TableName]) -> String {
    let names: Vec<String> =
        tables.iter().map(|table| format!("ONLY {}", table.quoted())).collect();
    names.join(", ")
}

/// The statement that makes the publication.
pub fn create_statement(name: &str, tables: &[TableName]) -> String {
    let contents = match tables.is_empty() {
        true => String::new(),
        false => format!(" FOR TABLE {}", list(tables)),
    };
    format!(
        "CREATE PUBLICATION {}{contents} WITH (publish_via_partition_root = true);",
        quote_ident(name)
    )
}

/// The statement that adds tables.
pub fn add_statement(name: &str, tables: &[TableName]) -> String {
    format!("ALTER PUBLICATION {} ADD TABLE {};", quote_ident(name), list(tables))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_quote_every_name() {
        let tables = [TableName::new("public", "a"), TableName::new("My", "b\"c")];
        assert_eq!(
            create_statement("headwater", &tables),
            "CREATE PUBLICATION \"headwater\" FOR TABLE ONLY \"public\".\"a\", \
             ONLY \"My\".\"b\"\"c\" \
             WITH (publish_via_partition_root = true);"
        );
        assert_eq!(
            create_statement("headwater", &[]),
            "CREATE PUBLICATION \"headwater\" WITH (publish_via_partition_root = true);"
        );
        assert_eq!(
            add_statement("headwater", &tables[..1]),
            "ALTER PUBLICATION \"headwater\" ADD TABLE ONLY \"public\".\"a\";"
        );
    }

    #[test]
    fn a_publication_without_deletes_is_refused_with_the_statement_that_mends_it() {
        let publication = Publication {
            name: "headwater".into(),
            all_tables: false,
            via_root: true,
            left_out: vec!["delete"],
            tables: vec![],
        };
        assert_eq!(
            publication.findings()[0].to_string(),
            "error[HW2104]: publication \"headwater\" does not publish deletes\n  \
             mend:  ALTER PUBLICATION \"headwater\" SET (publish = 'insert, update, delete, \
             truncate');"
        );
    }
}
