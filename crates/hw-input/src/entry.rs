//! The ordered input as plain data: what the writer of a state applies, one entry after another.
//!
//! Invariant (E-11, `design/seams.md` 2): the state is a function of the entries and of nothing
//! else. Whatever depends on a clock, on chance or on what happens to wait is decided by whoever
//! makes entries, and stands in them; two nodes that apply the same entries hold the same bytes.
//!
//! An entry that is not a transaction is a control entry: everything before it is durable before
//! it takes effect, so that no replay crosses one (E-9).

use crate::identity::Identity;
use crate::transactions::Transaction;
use hw_types::{EndLsn, Lsn, OpId, PgSnapshot, Relation, RelationId, TableName};
use std::collections::{BTreeMap, BTreeSet};

/// One input of the writer.
#[derive(Clone, Debug)]
pub enum Entry {
    /// A committed transaction, once, in commit order.
    Transaction(Transaction),
    /// Everything up to here has been delivered.
    Progress(EndLsn),
    /// Anything else.
    Control(Control),
}

impl From<Control> for Entry {
    fn from(control: Control) -> Entry {
        Entry::Control(control)
    }
}

/// An input that is not of the source's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Control {
    /// Numbers given to clients from here on are above these; never below earlier ones (E-3).
    Epoch {
        /// The epoch.
        epoch: u64,
        /// Op ids are given above this one.
        op_id: OpId,
        /// Added to a marker's position to give a write checkpoint's number; never less than before.
        write_base: u64,
    },
    /// A run begins, with the process or over a store that lost what was shown: numbers are given from
    /// places of its own (E-3).
    Run {
        /// Op ids are given above this one, which is above all earlier ones.
        op_id: OpId,
        /// Added to a marker's position to give a write checkpoint's number; never less than before.
        write_base: u64,
    },
    /// Of this user's write checkpoints the newest are kept.
    KeepNewest {
        /// The user's part of their keys.
        user: String,
    },
    /// From here on markers are signed with this secret.
    Secret([u8; 32]),
    /// A sync configuration that compiles is built beside the one that is served.
    Configure {
        /// Name of its file, for messages.
        file: String,
        /// Its YAML text.
        text: String,
    },
    /// From here on changes of tables that have not entered are kept for a copy of them.
    CopyBegins {
        /// Everything is copied anew from this slot, under one boundary; nothing is shown until
        /// it has entered.
        whole: Option<String>,
    },
    /// The copy's snapshot is taken.
    Boundary {
        /// X: transactions below are in the copy.
        lsn: Lsn,
        /// The tables that are copied.
        tables: Vec<CopiedTable>,
    },
    /// All rows of the copy are loaded.
    Loaded {
        /// The tables enter when this has happened.
        behind: Behind,
        /// How they were read.
        reading: Reading,
    },
    /// The copy came to nothing.
    CopyFailed,
    /// The next rows of what is being built.
    BuildSlice {
        /// At most so many.
        rows: usize,
        /// Incarnations that are not built yet.
        later: BTreeSet<u32>,
    },
    /// The first definitions, over all rows.
    BuildAll,
    /// What was built is served.
    Switch {
        /// Seconds since 1970: when what is no longer served was retired.
        now: u64,
        /// The definitions that wait, by their place in the configuration: they are not served.
        waiting: BTreeSet<u32>,
    },
    /// What was retired at or before this second is no longer applied.
    Retire {
        /// Seconds since 1970.
        before: u64,
    },
    /// The source's history is not the stored one: nothing of it is applied until everything has
    /// been copied and compared.
    HistoryMoved,
    /// The same of a store that lacks what clients were shown: what it holds is not served until then.
    Behind,
    /// A new day has begun: write checkpoints that nobody has asked for in 30 days are forgotten.
    Day(
        /// Days since 1970.
        u64,
    ),
    /// Old records of the tail are forgotten, up to this transaction.
    TrimTail {
        /// Records of transactions below go.
        below: Lsn,
    },
    /// The table is not what the replica holds; it is copied again. What reads it stands still.
    Stale {
        /// Which.
        table: RelationId,
        /// Why, for the log.
        reason: String,
        /// Whether the log lacks what became of rows of the replica, or which they are: they went, or got
        /// other keys. What they grant nobody knows. Told also of a table that is stale already.
        untraced: bool,
    },
    /// The catalog says something else of the table than was noted, and its rows are right.
    Adopt {
        /// Which.
        table: RelationId,
        /// What is noted from here on, as [`hw_types::facts::TableFacts`] encodes it.
        facts: Vec<u8>,
    },
    /// The table cannot be followed any more: its rows leave, and what they grant ends.
    Gone {
        /// Which.
        table: RelationId,
        /// Why, for the log.
        reason: String,
    },
    /// The store has lost to damage what it held of these. It is made again: tables are copied as if
    /// they were new, and what is derived, of them too, is built under new numbers.
    Lost {
        /// Table incarnations whose rows are lost, by number.
        tables: BTreeSet<u32>,
        /// Incarnations of sources and lookups of which something is lost, by number.
        derived: BTreeSet<u32>,
    },
    /// These tables exist, are named by definitions, and cannot be replicated: what reads them is
    /// not served.
    Refused(BTreeSet<TableName>),
    /// The table is replicated from here on, whatever definitions name: somebody reads it.
    Demand(TableName),
    /// What stood still and can go on is given what has changed meanwhile.
    Thaw,
    /// Some of what is superseded in a bucket's log goes.
    Compact(CompactSlice),
}

/// A table of a copy, as it was noted before its snapshot was taken.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CopiedTable {
    /// What its rows are decoded to.
    pub relation: Relation,
    /// What they depend on, as [`hw_types::facts::TableFacts`] encodes it: whoever makes entries
    /// compares it with the catalog.
    pub facts: Vec<u8>,
}

/// One slice of the compaction of a bucket's log.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct CompactSlice {
    /// Number of the source incarnation.
    pub source: u32,
    /// The bucket's parameters as JSON array text.
    pub parameters: String,
    /// Only what was superseded at or before this position is removed: the published one, or the oldest
    /// that somebody still reads.
    pub until: OpId,
    /// Operations that are looked at.
    pub operations: usize,
    /// How many sums at removed operations are kept at least, whatever the size of the bucket.
    pub least_sums: u64,
}

impl CompactSlice {
    /// A slice of the usual size: a few milliseconds, which live transactions wait. A bucket of a few
    /// rows remembers 16,384 superseded operations, at about 20 bytes each.
    pub fn new(source: u32, parameters: String, until: OpId) -> CompactSlice {
        CompactSlice { source, parameters, until, operations: 2_000, least_sums: 16 * 1024 }
    }
}

/// How the tables of a copy were read; those that are not named here in one snapshot, that of X.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Reading {
    /// Tables that were read in key ranges, with the snapshot of each range. All were taken behind X.
    pub ranges: BTreeMap<RelationId, Vec<PgSnapshot>>,
    /// Tables that could not be read while the snapshot was held: another copy reads them, in ranges.
    pub left_out: BTreeSet<RelationId>,
}

/// What a complete copy waits for before its tables enter.
#[derive(Clone, Debug, PartialEq, Eq)]
pub enum Behind {
    /// The marker with this nonce, which was sent behind the copy, has come back.
    Marker(u64),
    /// Nothing: no stream runs. The copy holds everything, and the store's history is that of this
    /// source from now on.
    Source(Identity),
}
