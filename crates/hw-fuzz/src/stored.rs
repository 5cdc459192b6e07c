//! What comes back from the disk: rows, records, spools.

use std::path::PathBuf;
use std::sync::{Arc, LazyLock};

use hw_store::segment::{SegmentWriter, SpoolDir};
use hw_types::{
    Cell, Column, PgType, Relation, RelationId, ReplicaIdentity, RowBuilder, RowRef, TableName,
};

/// A row of the store. What can be read of it is written and read again.
pub(crate) fn row(data: &[u8]) {
    let row = RowRef::new(data);
    let mut builder = RowBuilder::new();
    row.iter().for_each(|cell| builder.push(cell));
    let again = builder.finish();
    let view = again.view();
    assert_eq!(view.len(), row.len());
    assert!(view.iter().eq(row.iter()));
    assert_eq!(row.get(row.len()), Cell::Null);
    assert_eq!(view.has_absent(), row.iter().any(|cell| cell == Cell::Absent));
}

/// A record of the spool of an open transaction.
pub(crate) fn spooled_change(data: &[u8]) {
    static RELATIONS: LazyLock<Vec<Arc<Relation>>> = LazyLock::new(|| {
        let column = |name: &str| Column {
            name: name.to_owned(),
            type_oid: 25,
            type_modifier: -1,
            pg_type: PgType::TEXT,
            identity: name == "id",
            primary_key: u16::from(name == "id"),
        };
        let relation = |id: u32| Relation {
            id: RelationId(id),
            name: TableName::new("public", format!("t{id}")),
            replica_identity: ReplicaIdentity::Default,
            columns: vec![column("id"), column("a")],
        };
        vec![Arc::new(relation(1)), Arc::new(relation(2))]
    });
    hw_input::transactions::changes::fuzz_record(data, &RELATIONS);
}

/// A record of the engine.
pub(crate) fn engine_record(data: &[u8]) {
    hw_engine::fuzzing::records(data);
}

struct Spool {
    _directory: tempfile::TempDir,
    path: PathBuf,
    dir: SpoolDir,
}

/// A spool file: the bytes as they are, and a whole file of records with one byte changed.
pub(crate) fn segment(data: &[u8]) {
    thread_local! {
        static SPOOL: Spool = {
            let directory = tempfile::tempdir().expect("a directory");
            let path = directory.path().to_owned();
            let dir = SpoolDir::open(&path, u64::MAX).expect("a spool");
            Spool { _directory: directory, path, dir }
        };
    }
    SPOOL.with(|spool| {
        read_file(spool, data);
        if let [place, byte, records @ ..] = data {
            let mut file = whole_file(spool, records);
            let place = usize::from(*place) * file.len() / 256;
            file[place] ^= *byte;
            let read = read_file(spool, &file);
            // Every byte of it is covered by a checksum or a mark.
            assert_eq!(read.is_some(), *byte == 0, "byte {place} changed by {byte}");
        }
    });
}

/// A finished segment of these records (each a byte of length and as much as there is).
fn whole_file(spool: &Spool, mut records: &[u8]) -> Vec<u8> {
    let mut writer = SegmentWriter::create(&spool.dir, "whole").expect("a segment");
    while let Some((&length, rest)) = records.split_first() {
        let (record, rest) = rest.split_at(usize::from(length).min(rest.len()));
        writer.append(record).expect("it has room");
        records = rest;
    }
    let segment = writer.finish().expect("finished");
    segment.persist("whole").expect("persisted");
    let bytes = std::fs::read(spool.path.join("whole.keep")).expect("it is there");
    segment.discard().expect("discarded");
    bytes
}

/// How many records a file of these bytes gives; `None` when it is damaged.
fn read_file(spool: &Spool, bytes: &[u8]) -> Option<u64> {
    let path = spool.path.join("fuzz.keep");
    std::fs::write(&path, bytes).expect("written");
    let segment = spool.dir.persisted("fuzz");
    let read = segment.ok().flatten().and_then(|segment| {
        let mut reader = segment.reader();
        let mut records = 0;
        while reader.next_record().ok()?.is_some() {
            records += 1;
        }
        Some(records)
    });
    std::fs::remove_file(&path).expect("removed");
    read
}
