//! What the columns of a relation mean: the log names types by oid, and the catalog says what these
//! are made of.
//!
//! The catalog is of *now*, ahead of the log, and is asked once for each type: the log describes a
//! table again whenever something about it may have changed, each TRUNCATE included, and the stream
//! stands still for every question. That a type was altered is found out beside the stream, by whoever
//! copies its tables again ([`Outdated`]).

use crate::error::{InputError, Result};
use crate::limit::within;
use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_pg::types::TypeCatalog;
use hw_types::{Relation, RelationId};
use parking_lot::Mutex;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Duration;
use tokio_postgres::Client;

/// In which form the stream sends values.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Values {
    /// Binary where the type has a send function.
    Binary,
    /// Text.
    Text,
}

/// Tables that a stream must describe again before its next message. The log does not tell that a
/// type was altered: a copy that reads a table with its types of now says so here, before its
/// boundary, and the stream reads the changes behind it with the same types. Clones share it.
#[derive(Clone, Debug, Default)]
pub struct Outdated(Arc<Mutex<BTreeSet<RelationId>>>);

impl Outdated {
    /// Adds tables.
    pub fn extend(&self, tables: impl IntoIterator<Item = RelationId>) {
        self.0.lock().extend(tables);
    }

    fn take(&self) -> BTreeSet<RelationId> {
        std::mem::take(&mut *self.0.lock())
    }
}

/// Asks the catalog about types, over a connection of its own that is made when needed.
pub struct Describer {
    config: ConnectConfig,
    client: Option<Client>,
    /// Those that were asked for, as they were then.
    types: TypeCatalog,
    values: Values,
    text_only: Arc<AtomicBool>,
    outdated: Outdated,
    answer_limit: Duration,
}

impl Describer {
    /// A describer for a stream that sends `values` in this form.
    ///
    /// - Takes: `text_only`, which is set when a binary stream meets a type that has no binary
    ///   form, so that the next stream asks for text; `outdated`, where it is said what must be
    ///   described again; `answer_limit`, how long the catalog may take to answer, during which the
    ///   stream stands still.
    pub fn new(
        config: ConnectConfig,
        values: Values,
        text_only: Arc<AtomicBool>,
        outdated: Outdated,
        answer_limit: Duration,
    ) -> Describer {
        let (client, types) = (None, TypeCatalog::new());
        Describer { config, client, types, values, text_only, outdated, answer_limit }
    }

    /// The tables that must be described again, each once. All types are asked for anew.
    pub fn take_outdated(&mut self) -> BTreeSet<RelationId> {
        let outdated = self.outdated.take();
        if !outdated.is_empty() {
            self.types = TypeCatalog::new();
        }
        outdated
    }

    /// Completes a relation as the log described it: its columns get their types.
    ///
    /// - Errors: [`InputError::NeedsText`] when the stream is binary and a type is not; those of
    ///   a connection.
    pub async fn describe(&mut self, mut relation: Relation) -> Result<Relation> {
        let oids = relation.columns.iter().map(|column| column.type_oid);
        let unknown: Vec<u32> = oids.filter(|oid| self.types.get(*oid).is_none()).collect();
        if !unknown.is_empty() {
            let limit = self.answer_limit;
            within(limit, "describe a table of the stream", self.ask(&unknown)).await?;
        }
        for column in &mut relation.columns {
            column.pg_type = self.types.resolve(column.type_oid);
            if self.values == Values::Binary && !column.pg_type.has_binary() {
                self.text_only.store(true, Ordering::Relaxed);
                return Err(InputError::NeedsText {
                    table: relation.name.clone(),
                    column: column.name.clone(),
                });
            }
        }
        Ok(relation)
    }

    async fn ask(&mut self, types: &[u32]) -> Result<()> {
        let client = match &self.client {
            Some(client) if !client.is_closed() => client,
            _ => {
                let (client, _driver) = sql::connect(&self.config).await?;
                self.client.insert(client)
            }
        };
        self.types.extend(TypeCatalog::load(client, types).await?);
        Ok(())
    }
}
