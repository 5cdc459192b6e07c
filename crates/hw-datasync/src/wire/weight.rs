//! What a message holds in memory until it is done, known before it is read.
//!
//! In: the text of a message, or of the body of a request. Out: bytes. Short texts become large values:
//! `{"a":1}` is seven bytes, and a map with one entry.

use serde_json::value::RawValue;

use super::each_of_structure;
use super::message::Wire;

/// What every message has beside its text: its place among those that wait or run, its task.
const OF_MESSAGE: usize = 1_024;
/// A record: a node of a map.
const OF_RECORD: usize = 600;
/// A value, or a part of a condition: texts of their own.
const OF_VALUE: usize = 50;
/// Whatever ends something is taken at any time, where it is as short as it has to be.
const SHORT: usize = 512;

/// What a message holds.
pub fn of_message(json: &str) -> usize {
    // What cannot be read is answered at once.
    let Ok(wire) = serde_json::from_str::<Wire<'_>>(json) else { return OF_MESSAGE + json.len() };
    let tag = wire.tag.map(RawValue::get).unwrap_or_default();
    let ends = ["DeleteDataSubscription", "RollbackTransaction", "CommitTransaction"];
    if json.len() <= SHORT && ends.contains(&tag.trim_matches('"')) {
        return 0;
    }
    let records = [(wire.record, 1), (wire.patch, 1), (wire.records, 2)];
    let records = records.into_iter().map(|(raw, depth)| of_records(raw, depth));
    let groups = [(wire.group_by, 1), (wire.aggregates, usize::MAX)];
    let values = [(wire.ids, 1), (wire.query, usize::MAX)].into_iter().chain(groups);
    let values = values.map(|(raw, depth)| of_values(raw, depth));
    OF_MESSAGE + json.len() + records.sum::<usize>() + values.sum::<usize>()
}

/// What a record, or an array of some, holds as the body of a request.
pub fn of_body(json: &RawValue) -> usize {
    let depth = if json.get().starts_with('[') { 2 } else { 1 };
    OF_MESSAGE + json.get().len() + of_records(Some(json), depth)
}

/// Records whose fields stand this deep. What is deeper stays the text that it is.
fn of_records(json: Option<&RawValue>, depth: usize) -> usize {
    let records = count(json, |byte, at| byte == b'{' && at == depth);
    records * OF_RECORD + of_values(json, depth)
}

/// Values that stand up to this deep.
fn of_values(json: Option<&RawValue>, depth: usize) -> usize {
    OF_VALUE * count(json, |byte, at| matches!(byte, b',' | b'[' | b'{') && at <= depth)
}

fn count(json: Option<&RawValue>, is_one: impl Fn(u8, usize) -> bool) -> usize {
    let mut found = 0;
    let json = json.map(RawValue::get).unwrap_or_default();
    each_of_structure(json, |byte, depth| found += usize::from(is_one(byte, depth)));
    found
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn f_69_what_becomes_large_weighs_what_it_becomes() {
        let records = |record: &str, number: usize| {
            let records = vec![record; number].join(",");
            format!(
                r#"{{"tag":"CreateRecordsMessage","requestId":1,"table":"t","records":[{records}]}}"#
            )
        };
        let beside = |json: &str| of_message(json) - OF_MESSAGE - json.len();
        assert!(beside(&records(r#"{"a":1}"#, 10_000)) >= 10_000 * (OF_RECORD + OF_VALUE));
        // A value stays the text that it is, whatever is in it.
        let value = format!(r#"{{"a":[{}]}}"#, vec![r#"{"b":[1,2]}"#; 1_000].join(","));
        assert!(beside(&records(&value, 1)) < 2 * OF_RECORD);
        let text = r#"{"a":"[{,{,\\\"{,,,,,,,,,,,,,,,,,"}"#;
        assert_eq!(beside(&records(text, 1)), beside(&records(r#"{"a":1}"#, 1)));
        let ids = vec!["1"; 1_000].join(",");
        let ids =
            format!(r#"{{"tag":"DeleteRecordsMessage","requestId":1,"table":"t","ids":[{ids}]}}"#);
        assert_eq!(beside(&ids), 1_000 * OF_VALUE);
        assert_eq!(of_message("hush"), OF_MESSAGE + 4);
    }

    #[test]
    fn f_69_what_ends_something_weighs_nothing_where_it_is_short() {
        for tag in ["DeleteDataSubscription", "RollbackTransaction", "CommitTransaction"] {
            let json = |id: &str| format!(r#"{{"tag":"{tag}","requestId":1,"id":"{id}"}}"#);
            assert_eq!(of_message(&json("x")), 0);
            assert!(of_message(&json(&"x".repeat(1_000))) > 1_000);
        }
        assert!(of_message(r#"{"tag":"StartTransaction","requestId":1}"#) > OF_MESSAGE);
    }
}
