//! The door for the fuzz targets: every record that the store gives back, read from bytes that the
//! store did not check.

use crate::fold_large;
use crate::held::HeldRow;
use crate::large::{self, Decided};
use crate::record::{BucketRecord, OpRecord, op_of_key, op_of_sum_key};
use crate::runs::Runs;
use crate::state::{
    ConfigRecord, CopyOfAll, Counters, Day, Demanded, Dropped, IncarnationRecord, Lacking,
    Progress, Record, Refused, Secret, Serving, TableRecord, Waiting, WriteCheckpoint,
};
use crate::tables::StoredRow;
use hw_input::identity::Identity;
use hw_input::markers::MarkerContents;
use hw_types::{OpId, Relation};

/// Reads `value` as each kind of record. What one reads it writes, and reads again the same.
pub fn records(value: &[u8]) {
    same::<Progress>(value);
    same::<TableRecord>(value);
    same::<IncarnationRecord>(value);
    same::<ConfigRecord>(value);
    same::<Serving>(value);
    same::<Counters>(value);
    same::<Identity>(value);
    same::<Decided>(value);
    same::<HeldRow>(value);
    same::<Runs>(value);
    same::<Dropped>(value);
    same::<Refused>(value);
    same::<Demanded>(value);
    same::<Lacking>(value);
    same::<Waiting>(value);
    same::<CopyOfAll>(value);
    same::<Secret>(value);
    same::<Day>(value);
    same::<WriteCheckpoint>(value);
    same::<Relation>(value);
    // A record is read beside its key, which says which operation it is.
    let op_id = op_of_key(value).unwrap_or(OpId(1 << 40));
    if let Some(record) = OpRecord::decode(op_id, value) {
        let mut again = Vec::new();
        record.encode(op_id, &mut again);
        assert_eq!(OpRecord::decode(op_id, &again), Some(record));
        record.row();
    }
    if let Some(record) = BucketRecord::decode(value) {
        assert_eq!(BucketRecord::decode(&record.encode()), Some(record));
    }
    if let Ok(stored) = StoredRow::decode(value) {
        let again = StoredRow::encode(stored.copies, stored.row.as_bytes());
        assert!(StoredRow::decode(&again).is_ok_and(|again| again.row == stored.row));
    }
    let _ = op_of_sum_key(value);
    fold_large::fuzz_event(value);
    large::fuzz_write(value);
    drop(MarkerContents::decode(value));
}

fn same<R: Record + PartialEq>(value: &[u8]) {
    if let Ok(record) = R::decode(value) {
        assert!(R::decode(&record.encode()).is_ok_and(|again| again == record));
    }
}
