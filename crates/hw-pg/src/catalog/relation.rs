//! The relation that the log will describe, made from the catalog beforehand.

use crate::types::TypeCatalog;
use hw_types::facts::TableFacts;
use hw_types::{Column, Relation, ReplicaIdentity};

/// The relation of a published table: equal to what the stream describes as long as nothing
/// about the table has changed. It has no columns when the table is not published.
pub fn relation(table: &TableFacts) -> Relation {
    let types = TypeCatalog::from_facts(&table.types);
    let identity: &[i16] = match table.replica_identity {
        ReplicaIdentity::Default => &table.primary_key,
        ReplicaIdentity::Index => &table.identity_index,
        ReplicaIdentity::Full | ReplicaIdentity::Nothing => &[],
    };
    let all = table.replica_identity == ReplicaIdentity::Full;
    let columns = table.sent_columns().map(|column| {
        let place = table.primary_key.iter().position(|number| *number == column.number);
        Column {
            name: column.name.clone(),
            type_oid: column.type_oid,
            type_modifier: column.type_modifier,
            pg_type: types.resolve(column.type_oid),
            identity: all || identity.contains(&column.number),
            primary_key: place.map_or(0, |place| place as u16 + 1),
        }
    });
    Relation {
        id: table.id,
        name: table.name.clone(),
        replica_identity: table.replica_identity,
        columns: columns.collect(),
    }
}
