//! Facts for tests.

use hw_types::facts::{
    Access, Actions, ColumnFacts, Generated, LeafFacts, Membership, Persistence, Published,
    RowSecurity, SentFacts, TableFacts, TableKind,
};
use hw_types::{RelationId, ReplicaIdentity, TableName};

/// `public.t (a int primary key, b int)`, not published, without its leaf.
pub(crate) fn table() -> TableFacts {
    let column = |number, name: &str| ColumnFacts {
        number,
        name: name.into(),
        type_oid: 23,
        type_modifier: -1,
        generated: Generated::No,
        not_null: true,
        deterministic: true,
        missing: None,
        version: 7,
    };
    TableFacts {
        id: RelationId(1),
        name: TableName::new("public", "t"),
        kind: TableKind::Ordinary,
        persistence: Persistence::Permanent,
        columns: vec![column(1, "a"), column(2, "b")],
        types: vec![],
        replica_identity: ReplicaIdentity::Default,
        primary_key: vec![1],
        identity_index: vec![],
        leaves: vec![],
        ancestors: vec![],
        role: "app".into(),
        access: Access::All,
        row_security: RowSecurity::Off,
        owned: true,
        publication: "headwater".into(),
        published: Published::No,
    }
}

/// The same with a leaf that mirrors the table, as an ordinary table has.
pub(crate) fn with_leaf(mut table: TableFacts) -> TableFacts {
    table.leaves = vec![LeafFacts {
        id: table.id,
        name: table.name.clone(),
        kind: table.kind,
        persistence: table.persistence,
        filenode: 7,
        attachment: 0,
        replica_identity: table.replica_identity,
        primary_key: table.primary_key.clone(),
        identity_index: table.identity_index.clone(),
    }];
    table
}

/// The same, published with these columns.
pub(crate) fn sent(mut table: TableFacts, columns: &[i16]) -> TableFacts {
    table.published = Published::Sent(SentFacts {
        publication: 100,
        version: 8,
        membership: Membership::Listed(101),
        via_root: true,
        actions: Actions::ALL,
        columns: columns.to_vec(),
        row_filter: None,
    });
    table
}
