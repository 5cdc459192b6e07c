//! Stream lines as NDJSON.
//!
//! What flows in: the structs of [`mod@super::line`]. What flows out: bytes of whole lines. Invariants:
//! every line is an object with exactly one top-level key and ends with `\n`; op ids and write
//! checkpoints are strings; `subscriptions` and `streams` are never null. A client ends its sync
//! on a line that breaks one of these (`powersync-protocol.md` 4).

use hw_types::OpId;

use super::json;
use super::line::{
    BucketLine, CheckpointHead, DataForm, ErrorPlace, OperationKind, OperationLine, Reason,
    StreamLine,
};

/// Appends the complete state of a user: `checkpoint` (4.1).
pub fn checkpoint<'a>(
    out: &mut Vec<u8>,
    head: CheckpointHead,
    buckets: impl Iterator<Item = BucketLine<'a>>,
    streams: &[StreamLine],
) {
    out.extend_from_slice(b"{\"checkpoint\":{");
    checkpoint_head(out, head);
    out.extend_from_slice(b",\"buckets\":[");
    bucket_list(out, buckets);
    out.extend_from_slice(b"],\"streams\":[");
    for (i, stream) in streams.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        stream_entry(out, stream);
    }
    out.extend_from_slice(b"]}}\n");
}

/// Appends what changed since the line before: `checkpoint_diff` (4.2).
pub fn checkpoint_diff<'a, 'b>(
    out: &mut Vec<u8>,
    head: CheckpointHead,
    updated: impl Iterator<Item = BucketLine<'a>>,
    removed: impl Iterator<Item = &'b str>,
) {
    out.extend_from_slice(b"{\"checkpoint_diff\":{");
    checkpoint_head(out, head);
    out.extend_from_slice(b",\"updated_buckets\":[");
    bucket_list(out, updated);
    out.extend_from_slice(b"],\"removed_buckets\":[");
    for (i, name) in removed.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        json::string(out, name);
    }
    out.extend_from_slice(b"]}}\n");
}

/// Appends `checkpoint_complete` (4.4).
pub fn checkpoint_complete(out: &mut Vec<u8>, op_id: OpId) {
    out.extend_from_slice(b"{\"checkpoint_complete\":{\"last_op_id\":");
    json::integer_string(out, op_id.0);
    out.extend_from_slice(b"}}\n");
}

/// Appends `partial_checkpoint_complete` (4.5).
pub fn partial_checkpoint_complete(out: &mut Vec<u8>, op_id: OpId, priority: u8) {
    out.extend_from_slice(b"{\"partial_checkpoint_complete\":{\"last_op_id\":");
    json::integer_string(out, op_id.0);
    out.extend_from_slice(b",\"priority\":");
    json::integer(out, priority);
    out.extend_from_slice(b"}}\n");
}

/// Appends `token_expires_in` (4.6).
pub fn token_expires_in(out: &mut Vec<u8>, seconds: i32) {
    out.extend_from_slice(b"{\"token_expires_in\":");
    json::integer(out, seconds);
    out.extend_from_slice(b"}\n");
}

fn checkpoint_head(out: &mut Vec<u8>, head: CheckpointHead) {
    out.extend_from_slice(b"\"last_op_id\":");
    json::integer_string(out, head.op_id.0);
    if let Some(number) = head.write_checkpoint {
        out.extend_from_slice(b",\"write_checkpoint\":");
        json::integer_string(out, number);
    }
}

fn bucket_list<'a>(out: &mut Vec<u8>, buckets: impl Iterator<Item = BucketLine<'a>>) {
    for (i, bucket) in buckets.enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"bucket\":");
        json::string(out, bucket.name);
        out.extend_from_slice(b",\"checksum\":");
        // Signed like the original, although clients take both (6.2).
        json::integer(out, bucket.checksum.cast_signed());
        out.extend_from_slice(b",\"count\":");
        json::integer(out, bucket.count);
        out.extend_from_slice(b",\"priority\":");
        json::integer(out, bucket.priority);
        out.extend_from_slice(b",\"subscriptions\":[");
        for (j, reason) in bucket.reasons.iter().enumerate() {
            if j > 0 {
                out.push(b',');
            }
            let (key, index): (&[u8], u32) = match *reason {
                Reason::Default(index) => (b"{\"default\":", index),
                Reason::Subscription(index) => (b"{\"sub\":", index),
            };
            out.extend_from_slice(key);
            json::integer(out, index);
            out.push(b'}');
        }
        out.extend_from_slice(b"]}");
    }
}

fn stream_entry(out: &mut Vec<u8>, stream: &StreamLine) {
    out.extend_from_slice(b"{\"name\":");
    json::string(out, &stream.name);
    out.extend_from_slice(b",\"is_default\":");
    out.extend_from_slice(if stream.is_default { b"true" } else { b"false" });
    out.extend_from_slice(b",\"errors\":[");
    for (i, (place, message)) in stream.errors.iter().enumerate() {
        if i > 0 {
            out.push(b',');
        }
        out.extend_from_slice(b"{\"subscription\":");
        match *place {
            ErrorPlace::Default => out.extend_from_slice(b"\"default\""),
            ErrorPlace::Subscription(index) => json::integer(out, index),
        }
        out.extend_from_slice(b",\"message\":");
        json::string(out, message);
        out.push(b'}');
    }
    out.extend_from_slice(b"]}");
}

/// Writes one `data` line (4.3) operation by operation.
///
/// `has_more` and `next_after` come behind the operations, because only then are they known; the
/// order of keys means nothing to a JSON parser.
pub struct DataLine<'a> {
    out: &'a mut Vec<u8>,
    form: DataForm,
    started: usize,
    operations: usize,
    next_after: OpId,
}

impl<'a> DataLine<'a> {
    /// Opens the line for the operations of `bucket` behind `after`.
    pub fn open(out: &'a mut Vec<u8>, bucket: &str, after: OpId, form: DataForm) -> DataLine<'a> {
        let started = out.len();
        out.extend_from_slice(b"{\"data\":{\"bucket\":");
        json::string(out, bucket);
        out.extend_from_slice(b",\"after\":");
        json::integer_string(out, after.0);
        out.extend_from_slice(b",\"data\":[");
        DataLine { out, form, started, operations: 0, next_after: after }
    }

    /// Appends one operation; they come in ascending order of op id.
    pub fn operation(&mut self, operation: &OperationLine<'_>) {
        let out = &mut *self.out;
        if self.operations > 0 {
            out.push(b',');
        }
        self.operations += 1;
        self.next_after = operation.op_id;
        out.extend_from_slice(b"{\"op_id\":");
        json::integer_string(out, operation.op_id.0);
        let kind: &[u8] = match operation.kind {
            OperationKind::Put => b",\"op\":\"PUT\"",
            OperationKind::Remove => b",\"op\":\"REMOVE\"",
            OperationKind::Move => b",\"op\":\"MOVE\"",
            OperationKind::Clear => b",\"op\":\"CLEAR\"",
        };
        out.extend_from_slice(kind);
        if matches!(operation.kind, OperationKind::Put | OperationKind::Remove) {
            out.extend_from_slice(b",\"object_type\":");
            json::string(out, operation.object_type);
            out.extend_from_slice(b",\"object_id\":");
            json::string(out, operation.object_id);
            out.extend_from_slice(b",\"subkey\":");
            json::string(out, operation.subkey);
        }
        out.extend_from_slice(b",\"checksum\":");
        json::integer(out, operation.checksum);
        match operation.kind {
            OperationKind::Put => {
                out.extend_from_slice(b",\"data\":");
                match self.form {
                    DataForm::Text => json::string(out, operation.data),
                    DataForm::Nested => out.extend_from_slice(operation.data.as_bytes()),
                }
            }
            OperationKind::Remove => out.extend_from_slice(b",\"data\":null"),
            OperationKind::Move | OperationKind::Clear => {}
        }
        out.push(b'}');
    }

    /// Bytes written so far.
    pub fn bytes(&self) -> usize {
        self.out.len() - self.started
    }

    /// Operations written so far.
    pub fn operations(&self) -> usize {
        self.operations
    }

    /// Closes the line and returns the position behind its last operation.
    pub fn close(self, has_more: bool) -> OpId {
        let out = self.out;
        out.extend_from_slice(b"],\"has_more\":");
        out.extend_from_slice(if has_more { b"true" } else { b"false" });
        out.extend_from_slice(b",\"next_after\":");
        json::integer_string(out, self.next_after.0);
        out.extend_from_slice(b"}}\n");
        self.next_after
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn put<'a>(op_id: u64, data: &'a str) -> OperationLine<'a> {
        OperationLine {
            op_id: OpId(op_id),
            kind: OperationKind::Put,
            checksum: 4294967295,
            object_type: "todos",
            object_id: "t\"1",
            subkey: "K",
            data,
        }
    }

    /// Checks the text, that it is one line, and that the object has exactly one key.
    fn check(bytes: Vec<u8>, expected: &str) {
        let text = String::from_utf8(bytes).unwrap();
        assert_eq!(text.trim_end_matches('\n'), expected);
        assert_eq!(text.matches('\n').count(), 1);
        let value: serde_json::Value = serde_json::from_str(&text).unwrap();
        assert_eq!(value.as_object().unwrap().len(), 1);
    }

    #[test]
    fn a_checkpoint_has_the_form_of_the_trace() {
        let mut out = Vec::new();
        let streams = [
            StreamLine { name: "user_lists".into(), is_default: true, errors: vec![] },
            StreamLine {
                name: "s".into(),
                is_default: false,
                errors: vec![
                    (ErrorPlace::Default, "no \"x\"".into()),
                    (ErrorPlace::Subscription(3), "b".into()),
                ],
            },
        ];
        let buckets = [
            BucketLine {
                name: "user_lists[\"u1\"]",
                checksum: 1551088854,
                count: 1,
                priority: 1,
                reasons: &[Reason::Default(0)],
            },
            BucketLine {
                name: "list_todos[\"l1\"]",
                checksum: 3793036192,
                count: 2,
                priority: 3,
                reasons: &[Reason::Subscription(0), Reason::Subscription(2)],
            },
        ];
        let head = CheckpointHead { op_id: OpId(3), write_checkpoint: Some(12) };
        checkpoint(&mut out, head, buckets.into_iter(), &streams);
        check(
            out,
            r#"{"checkpoint":{"last_op_id":"3","write_checkpoint":"12","buckets":[{"bucket":"user_lists[\"u1\"]","checksum":1551088854,"count":1,"priority":1,"subscriptions":[{"default":0}]},{"bucket":"list_todos[\"l1\"]","checksum":-501931104,"count":2,"priority":3,"subscriptions":[{"sub":0},{"sub":2}]}],"streams":[{"name":"user_lists","is_default":true,"errors":[]},{"name":"s","is_default":false,"errors":[{"subscription":"default","message":"no \"x\""},{"subscription":3,"message":"b"}]}]}}"#,
        );
    }

    #[test]
    fn a_diff_without_buckets_still_has_both_arrays() {
        let mut out = Vec::new();
        let head = CheckpointHead { op_id: OpId(5), write_checkpoint: None };
        checkpoint_diff(&mut out, head, std::iter::empty(), ["a[]", "b[\"\\\"]"].into_iter());
        check(
            out,
            r#"{"checkpoint_diff":{"last_op_id":"5","updated_buckets":[],"removed_buckets":["a[]","b[\"\\\"]"]}}"#,
        );
    }

    #[test]
    fn data_is_a_string_or_a_nested_object() {
        let operations = [
            put(2, r#"{"id":"t1"}"#),
            OperationLine { kind: OperationKind::Remove, ..put(5, "") },
            OperationLine { kind: OperationKind::Move, ..put(6, "") },
            OperationLine { kind: OperationKind::Clear, ..put(7, "") },
        ];
        for (form, data) in
            [(DataForm::Text, r#""{\"id\":\"t1\"}""#), (DataForm::Nested, r#"{"id":"t1"}"#)]
        {
            let mut out = Vec::new();
            let mut line = DataLine::open(&mut out, "b[]", OpId(1), form);
            operations.iter().for_each(|operation| line.operation(operation));
            assert_eq!(line.operations(), 4);
            assert_eq!(line.close(true), OpId(7));
            check(
                out,
                &format!(
                    r#"{{"data":{{"bucket":"b[]","after":"1","data":[{{"op_id":"2","op":"PUT","object_type":"todos","object_id":"t\"1","subkey":"K","checksum":4294967295,"data":{data}}},{{"op_id":"5","op":"REMOVE","object_type":"todos","object_id":"t\"1","subkey":"K","checksum":4294967295,"data":null}},{{"op_id":"6","op":"MOVE","checksum":4294967295}},{{"op_id":"7","op":"CLEAR","checksum":4294967295}}],"has_more":true,"next_after":"7"}}}}"#
                ),
            );
        }
    }

    #[test]
    fn the_short_lines_are_integers_and_strings_as_clients_demand() {
        let mut out = Vec::new();
        checkpoint_complete(&mut out, OpId(5));
        check(out, r#"{"checkpoint_complete":{"last_op_id":"5"}}"#);
        let mut out = Vec::new();
        partial_checkpoint_complete(&mut out, OpId(3), 1);
        check(out, r#"{"partial_checkpoint_complete":{"last_op_id":"3","priority":1}}"#);
        let mut out = Vec::new();
        token_expires_in(&mut out, -3);
        check(out, r#"{"token_expires_in":-3}"#);
    }
}
