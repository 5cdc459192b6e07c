//! What the columns of a relation mean: types and places in the primary key, from the catalog.
//!
//! The log names types by oid and does not tell the primary key's order. The catalog is of *now*,
//! ahead of the log: where the two disagree about the key, the log's flags hold, and a table that
//! is gone is described by the log alone.

use crate::error::{InputError, Result};
use crate::limit::within;
use hw_pg::catalog::{Catalog, CatalogTable};
use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_pg::types::TypeCatalog;
use hw_types::{Relation, RelationId, ReplicaIdentity};
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

/// Asks the catalog about relations, over a connection of its own that is made when needed.
pub struct Describer {
    config: ConnectConfig,
    client: Option<Client>,
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
        Describer { config, client: None, values, text_only, outdated, answer_limit }
    }

    /// The tables that must be described again, each once.
    pub fn take_outdated(&self) -> BTreeSet<RelationId> {
        self.outdated.take()
    }

    /// Completes a relation as the log described it.
    ///
    /// - Errors: [`InputError::NeedsText`] when the stream is binary and a type is not; those of
    ///   a connection.
    pub async fn describe(&mut self, relation: Relation) -> Result<Relation> {
        let limit = self.answer_limit;
        within(limit, "describe a table of the stream", self.describe_unbounded(relation)).await
    }

    async fn describe_unbounded(&mut self, mut relation: Relation) -> Result<Relation> {
        let client = match &self.client {
            Some(client) if !client.is_closed() => client,
            _ => {
                let (client, _driver) = sql::connect(&self.config).await?;
                self.client.insert(client)
            }
        };
        // Loaded anew each time: a message repeats when something about the table has changed.
        let oids: Vec<u32> = relation.columns.iter().map(|column| column.type_oid).collect();
        let types = TypeCatalog::load(client, &oids).await?;
        for column in &mut relation.columns {
            column.pg_type = types.resolve(column.type_oid);
            if self.values == Values::Binary && !column.pg_type.has_binary() {
                self.text_only.store(true, Ordering::Relaxed);
                return Err(InputError::NeedsText {
                    table: relation.name.clone(),
                    column: column.name.clone(),
                });
            }
        }
        let catalog = Catalog::read(client, "", &[], &[relation.id]).await?;
        let key: Vec<String> = catalog
            .tables
            .first()
            .map(|CatalogTable { facts, .. }| {
                let names = facts.primary_key.iter().filter_map(|n| facts.column_numbered(*n));
                names.map(|column| column.name.clone()).collect()
            })
            .unwrap_or_default();
        place_primary_key(&mut relation, &key);
        Ok(relation)
    }
}

/// Writes the key's order into the columns.
///
/// - Takes: the names of the key's columns in its order, as the catalog has them now.
pub(crate) fn place_primary_key(relation: &mut Relation, key: &[String]) {
    let flagged: BTreeSet<&String> =
        relation.columns.iter().filter(|c| c.identity).map(|c| &c.name).collect();
    let named: BTreeSet<&String> = key.iter().collect();
    let published = key.iter().all(|name| relation.column(name).is_some());
    let trusted = match relation.replica_identity {
        // The log flags exactly the primary key's columns.
        ReplicaIdentity::Default => named == flagged,
        _ => published,
    };
    let order: Vec<String> = match (trusted, relation.replica_identity) {
        (true, _) => key.to_vec(),
        (false, ReplicaIdentity::Default) => {
            relation.columns.iter().filter(|c| c.identity).map(|c| c.name.clone()).collect()
        }
        (false, _) => Vec::new(),
    };
    for column in &mut relation.columns {
        let place = order.iter().position(|name| *name == column.name);
        column.primary_key = place.map_or(0, |place| place as u16 + 1);
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::{Column, PgType, RelationId, TableName};

    fn check(identity: ReplicaIdentity, flagged: &[&str], key: &[&str], expected: [u16; 3]) {
        let column = |name: &str| Column {
            name: name.into(),
            type_oid: 25,
            type_modifier: -1,
            pg_type: PgType::TEXT,
            identity: flagged.contains(&name),
            primary_key: 0,
        };
        let mut relation = Relation {
            id: RelationId(1),
            name: TableName::new("public", "t"),
            replica_identity: identity,
            columns: vec![column("a"), column("b"), column("c")],
        };
        let key: Vec<String> = key.iter().map(|name| name.to_string()).collect();
        place_primary_key(&mut relation, &key);
        let places: Vec<u16> = relation.columns.iter().map(|c| c.primary_key).collect();
        assert_eq!(places, expected);
    }

    #[test]
    fn the_key_has_its_own_order_and_the_log_decides_what_it_is() {
        use ReplicaIdentity::{Default, Full, Index};
        check(Default, &["a", "b"], &["b", "a"], [2, 1, 0]);
        check(Default, &["a", "b"], &["c"], [1, 2, 0]);
        check(Default, &["a", "b"], &[], [1, 2, 0]);
        check(Full, &["a", "b", "c"], &["c", "a"], [2, 0, 1]);
        check(Full, &["a", "b", "c"], &["gone"], [0, 0, 0]);
        check(Index, &["b"], &["a"], [1, 0, 0]);
    }
}
