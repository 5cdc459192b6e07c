//! What the source sends, or somebody in its place.

use hw_pg::pgoutput::{Decoder, Message};
use hw_types::{
    Column, LogMessage, Lsn, PgType, Relation, RelationId, ReplicaIdentity, TableName, Xid,
};
use std::sync::Arc;

/// Messages of the replication connection.
pub(crate) fn replication(data: &[u8]) {
    hw_pg::replication::fuzzing::messages(data);
}

/// Messages of the plugin, each behind its length in two bytes: what one says about streams decides
/// how the next is read.
pub(crate) fn pgoutput(data: &[u8]) {
    let mut decoder = Decoder::new();
    let mut rest = data;
    while let Some((length, behind)) = rest.split_first_chunk::<2>() {
        let length = usize::from(u16::from_be_bytes(*length)).min(behind.len());
        let (message, behind) = behind.split_at(length);
        rest = behind;
        if let Ok(decoded) = decoder.decode(message) {
            look(&decoded.message);
        }
    }
}

fn look(message: &Message<'_>) {
    match message {
        Message::Insert { new, .. } => assert_eq!(new.iter().count(), new.len()),
        Message::Update { old, new, .. } => {
            assert_eq!(new.iter().count(), new.len());
            if let Some(old) = old {
                assert_eq!(old.tuple().iter().count(), old.tuple().len());
            }
        }
        Message::Delete { old, .. } => assert_eq!(old.tuple().iter().count(), old.tuple().len()),
        Message::Truncate { relations, .. } => {
            assert_eq!(relations.iter().count(), relations.len());
        }
        _ => {}
    }
}

/// The copy of a table: however it is cut into pieces, it is the same rows.
pub(crate) fn copy(data: &[u8]) {
    let Some((piece, data)) = data.split_first() else { return };
    let types = [PgType::Int4, PgType::TEXT, PgType::Bool, PgType::Jsonb];
    let column = |pg_type: PgType| Column {
        name: "c".into(),
        type_oid: 0,
        type_modifier: -1,
        pg_type,
        identity: false,
        primary_key: 0,
    };
    let relation = Arc::new(Relation {
        id: RelationId(1),
        name: TableName::new("public", "t"),
        replica_identity: ReplicaIdentity::Default,
        columns: types.map(column).into(),
    });
    let whole = hw_pg::copy::fuzz(relation.clone(), data, usize::MAX);
    let cut = hw_pg::copy::fuzz(relation, data, usize::from(*piece));
    assert_eq!(whole.1, cut.1, "cut into pieces of {piece}");
    if whole.1 {
        assert_eq!(whole.0, cut.0, "cut into pieces of {piece}");
    }
}

/// Messages under our prefix that anybody who may write to the log can write.
pub(crate) fn marker(data: &[u8]) {
    let content = bytes::Bytes::copy_from_slice(data);
    let message = LogMessage { lsn: Lsn(1), prefix: hw_pg::marker::PREFIX.into(), content };
    assert!(hw_pg::marker::verify(&message, Xid(7), b"key").is_err(), "nobody guesses the key");
}
