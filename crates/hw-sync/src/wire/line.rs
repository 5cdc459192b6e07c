//! The kinds of stream lines as plain borrowed structs, without an encoding.
//!
//! Source: `powersync-protocol.md` 4. What flows in: the announced state of a session. What flows
//! out: an encoder such as [`super::ndjson`] reads them.

use hw_types::OpId;

/// Why a bucket is in a checkpoint.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub enum Reason {
    /// A default stream: index into the `streams` of the checkpoint line.
    Default(u32),
    /// An explicit subscription: index into the request's `subscriptions`.
    Subscription(u32),
}

/// One bucket of a `checkpoint` or `checkpoint_diff` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct BucketLine<'a> {
    /// The bucket's name, opaque to the client.
    pub name: &'a str,
    /// Sum modulo 2^32 of the checksums of all its operations; written as a signed integer.
    pub checksum: u32,
    /// Number of operation records; drives the client's progress display.
    pub count: u64,
    /// 0 is fetched first, 3 last.
    pub priority: u8,
    /// Why the bucket is here.
    pub reasons: &'a [Reason],
}

/// Which subscription an error of a stream belongs to.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum ErrorPlace {
    /// The stream's default subscription.
    Default,
    /// Index into the request's `subscriptions`.
    Subscription(u32),
}

/// One stream of a `checkpoint` line.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct StreamLine {
    /// The stream's name as the definition gives it.
    pub name: String,
    /// Whether it is included without being asked for.
    pub is_default: bool,
    /// What kept a subscription from being evaluated; the client logs it.
    pub errors: Vec<(ErrorPlace, String)>,
}

/// The head of a `checkpoint` or `checkpoint_diff` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct CheckpointHead {
    /// The checkpoint.
    pub op_id: OpId,
    /// The greatest write checkpoint of this user and client that it satisfies. Repeated in
    /// every line, because its absence means "none" (4.2).
    pub write_checkpoint: Option<u64>,
}

/// What an operation does to the client's copy of the bucket (`powersync-protocol.md` 6.4).
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum OperationKind {
    /// The row is now this.
    Put,
    /// The row left the bucket.
    Remove,
    /// An operation whose effect a later one replaced; only its checksum counts.
    Move,
    /// The bucket starts anew behind this operation.
    Clear,
}

/// One operation of a `data` line.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct OperationLine<'a> {
    /// Its number.
    pub op_id: OpId,
    /// What it does.
    pub kind: OperationKind,
    /// Its checksum; written unsigned.
    pub checksum: u32,
    /// Output table; empty for MOVE and CLEAR.
    pub object_type: &'a str,
    /// Row id; empty for MOVE and CLEAR.
    pub object_id: &'a str,
    /// Identity of the source row; empty for MOVE and CLEAR.
    pub subkey: &'a str,
    /// The row as a JSON object for PUT, else empty.
    pub data: &'a str,
}

/// How `data` of an operation is written.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum DataForm {
    /// A string that contains a JSON object: what all current clients want.
    Text,
    /// A nested object: clients that did not say `raw_data` (`powersync-protocol.md` 3).
    Nested,
}
