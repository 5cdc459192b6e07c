//! What the catalog's rows say: from what was read of a relation to the facts about it.

use crate::error::Result;
use crate::internal::{Char, Xid};
use foldhash::HashMap;
use hw_types::facts::{
    Access, ColumnFacts, Generated, LeafFacts, Membership, Persistence, PublicationFacts,
    Published, RowSecurity, SentFacts, TableFacts, TableKind, TypeFacts,
};
use hw_types::{RelationId, ReplicaIdentity, TableName};
use std::collections::BTreeSet;
use tokio_postgres::Row;

/// A table as the catalog has it.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CatalogTable {
    /// What its rows depend on.
    pub facts: TableFacts,
    /// The planner's estimate of rows in all leaves; `None` before the first ANALYZE.
    pub estimated_rows: Option<u64>,
    /// Bytes on disk of all leaves, without indexes, as the last VACUUM or ANALYZE found them.
    pub bytes: u64,
}

/// What is known of a relation before its parts are.
pub(super) struct Found {
    pub(super) table: CatalogTable,
    /// Oid and schema of it and of the partitioned tables above it, nearest first.
    pub(super) line: Vec<Place>,
    pub(super) is_partition: bool,
}

/// A relation that may be listed in a publication.
#[derive(Clone)]
pub(super) struct Place {
    pub(super) oid: u32,
    pub(super) schema: u32,
    /// Version of the entry that it is in that schema.
    pub(super) in_schema: u32,
    /// Fingerprint of the entries through which the table belongs to it; `None` for the table itself.
    pub(super) attachment: Option<u64>,
    pub(super) name: TableName,
    pub(super) permanent: bool,
}

/// An entry of `pg_publication_rel`.
pub(super) struct Listed {
    pub(super) oid: u32,
    pub(super) columns: Option<Vec<i16>>,
    pub(super) filter: Option<u64>,
}

/// Columns of a table's keys, by number.
pub(super) struct Keys {
    pub(super) primary: Vec<i16>,
    pub(super) identity: Vec<i16>,
}

pub(super) fn relation(row: &Row) -> Result<Found> {
    let id = RelationId(row.try_get(0)?);
    let name = TableName::new(row.try_get::<_, &str>(2)?, row.try_get::<_, &str>(3)?);
    let kind = kind(row.try_get(4)?);
    let persistence = persistence(row.try_get(5)?);
    let replica_identity = replica_identity(row.try_get(6)?);
    let numbers: Option<Vec<i16>> = row.try_get(13)?;
    let mut table = CatalogTable {
        facts: TableFacts {
            id,
            name: name.clone(),
            kind,
            persistence,
            columns: Vec::new(),
            types: Vec::new(),
            replica_identity,
            primary_key: Vec::new(),
            identity_index: Vec::new(),
            leaves: Vec::new(),
            ancestors: Vec::new(),
            role: row.try_get(15)?,
            access: match row.try_get::<_, Char>(12)?.0 {
                b'a' => Access::All,
                b'c' => Access::Columns(numbers.unwrap_or_default()),
                b's' => Access::NoSchema,
                _ => Access::None,
            },
            row_security: match row.try_get::<_, Char>(14)?.0 {
                b'o' => RowSecurity::Off,
                b'a' => RowSecurity::ShowsAll,
                _ => RowSecurity::Hides,
            },
            owned: row.try_get(11)?,
            publication: String::new(),
            published: Published::No,
        },
        estimated_rows: Some(0),
        bytes: 0,
    };
    if kind == TableKind::Ordinary {
        table.facts.leaves.push(LeafFacts {
            id,
            name: name.clone(),
            kind,
            persistence,
            filenode: row.try_get(7)?,
            attachment: 0,
            replica_identity,
            primary_key: Vec::new(),
            identity_index: Vec::new(),
        });
        add_size(&mut table, row.try_get(9)?, row.try_get(10)?);
    }
    let place = Place {
        oid: id.0,
        schema: row.try_get(1)?,
        in_schema: row.try_get::<_, Xid>(16)?.0,
        attachment: None,
        name,
        permanent: persistence == Persistence::Permanent,
    };
    Ok(Found { table, line: vec![place], is_partition: row.try_get(8)? })
}

/// Adds a leaf's estimates.
pub(super) fn add_size(table: &mut CatalogTable, rows: f32, pages: i32) {
    /// A page of the usual build; only estimates stand on it.
    const PAGE_BYTES: u64 = 8192;
    // -1: never analysed. One such leaf makes the sum unknown.
    let rows = (rows >= 0.0).then_some(rows as u64);
    table.estimated_rows =
        table.estimated_rows.zip(rows).map(|(sum, rows)| sum.saturating_add(rows));
    table.bytes += u64::try_from(pages).unwrap_or_default() * PAGE_BYTES;
}

/// The types of columns and all that they are made of, by oid.
pub(super) fn types_of(columns: &[ColumnFacts], types: &HashMap<u32, TypeFacts>) -> Vec<TypeFacts> {
    let mut open: Vec<u32> = columns.iter().map(|column| column.type_oid).collect();
    let mut found = BTreeSet::new();
    while let Some(oid) = open.pop() {
        let Some(facts) = types.get(&oid) else { continue };
        if !found.insert(oid) {
            continue;
        }
        open.extend(facts.made.parts());
    }
    found.iter().map(|oid| types[oid].clone()).collect()
}

/// Whether a publication sends a column of a table for which it has no column list; without one, whether
/// the one that we make will.
pub(super) fn is_sent_unlisted(
    publication: Option<&PublicationFacts>,
    column: &ColumnFacts,
) -> bool {
    match column.generated {
        Generated::No => true,
        Generated::Stored => publication.is_some_and(|publication| publication.generated),
        Generated::Virtual => false,
    }
}

/// How the publication sends a table.
pub(super) fn published(
    publication: &PublicationFacts,
    facts: &TableFacts,
    line: &[Place],
    (tables, schemas): &(HashMap<u32, Listed>, HashMap<u32, u32>),
) -> Published {
    // The first oid that is not the system's.
    const FIRST_OID: u32 = 16_384;
    let membership = |place: &Place| {
        if !place.permanent || place.oid < FIRST_OID {
            return None;
        }
        if publication.all_tables {
            return Some(Membership::AllTables);
        }
        if let Some(&oid) = schemas.get(&place.schema) {
            let version = place.in_schema;
            return Some(match place.attachment {
                None => Membership::Schema(oid, version),
                Some(attachment) => Membership::AncestorSchema(oid, version, attachment),
            });
        }
        let oid = tables.get(&place.oid)?.oid;
        Some(match place.attachment {
            None => Membership::Listed(oid),
            Some(attachment) => Membership::AncestorListed(oid, attachment),
        })
    };
    if !matches!(facts.kind, TableKind::Ordinary | TableKind::Partitioned) {
        return Published::No;
    }
    let (own, above) = line.split_first().expect("a line begins with the table itself");
    let through = if publication.via_root {
        if let Some(root) = above.iter().rev().find(|place| membership(place).is_some()) {
            return Published::Under(root.name.clone());
        }
        membership(own)
    } else if facts.kind == TableKind::Partitioned {
        None
    } else {
        line.iter().find_map(membership)
    };
    let Some(through) = through else { return Published::No };
    // A list and a filter count where the table itself is listed, and not also by its schema.
    let listed = match membership(own) {
        Some(Membership::Listed(_)) => tables.get(&own.oid),
        _ => None,
    };
    let is_sent = |column: &&ColumnFacts| match listed.and_then(|listed| listed.columns.as_ref()) {
        Some(numbers) => numbers.contains(&column.number),
        None => is_sent_unlisted(Some(publication), column),
    };
    Published::Sent(SentFacts {
        publication: publication.oid,
        version: publication.version,
        membership: through,
        via_root: publication.via_root,
        actions: publication.actions,
        columns: facts.columns.iter().filter(is_sent).map(|column| column.number).collect(),
        row_filter: listed.and_then(|listed| listed.filter),
    })
}

pub(super) fn kind(letter: Char) -> TableKind {
    match letter.0 {
        b'r' => TableKind::Ordinary,
        b'p' => TableKind::Partitioned,
        b'v' => TableKind::View,
        b'm' => TableKind::MaterializedView,
        b'f' => TableKind::Foreign,
        _ => TableKind::Other,
    }
}

pub(super) fn persistence(letter: Char) -> Persistence {
    match letter.0 {
        b'p' => Persistence::Permanent,
        b'u' => Persistence::Unlogged,
        _ => Persistence::Temporary,
    }
}

pub(super) fn replica_identity(letter: Char) -> ReplicaIdentity {
    match letter.0 {
        b'd' => ReplicaIdentity::Default,
        b'i' => ReplicaIdentity::Index,
        b'f' => ReplicaIdentity::Full,
        _ => ReplicaIdentity::Nothing,
    }
}
