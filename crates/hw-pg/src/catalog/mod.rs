//! What the source says about itself: the server, its tables, and what makes a table fit to be
//! replicated.
//!
//! In: an SQL connection. Out: [`ServerInfo`] and [`Catalog`], what differs from what was noted
//! ([`compare`]), and findings for a person. Each is read in one snapshot, so that it describes one
//! moment. That moment is *now*, which is ahead of what the log has told so far; nothing here may
//! be taken for the state at a log position.

mod difference;
mod found;
mod read;
mod relation;
mod resolve;
#[cfg(test)]
pub(crate) mod samples;
mod server;
mod unsent;
mod usable;
mod wanted;

pub use difference::{
    Difference, Leaves, Reason, compare, followable, is_traced, keeps_rows, settle,
};
pub use found::CatalogTable;
pub use read::Catalog;
pub use relation::relation;
pub use resolve::{Refused, Resolved, resolve};
pub use server::ServerInfo;
pub use unsent::{absent, narrowed, unsent};
pub use usable::usable;

pub(crate) use difference::see_all;
pub(crate) use read::from_json;
pub(crate) use resolve::not_permitted;

/// Stable codes of the findings about the source.
pub mod code {
    /// The server is older than major 14.
    pub const OLD_SERVER: u16 = 2100;
    /// `wal_level` is not `logical`.
    pub const WAL_LEVEL: u16 = 2101;
    /// The publication does not exist, and the role may not create it.
    pub const NO_PUBLICATION: u16 = 2102;
    /// Tables are missing in the publication, and the role may not add them.
    pub const NOT_PUBLISHED: u16 = 2103;
    /// The publication leaves out a kind of change.
    pub const PUBLISHED_OPERATIONS: u16 = 2104;
    /// What is named is no table that can be replicated: a view, a foreign, unlogged or
    /// temporary table.
    pub const NO_ORDINARY_TABLE: u16 = 2105;
    /// The log would not carry what identifies a changed or deleted row.
    pub const NO_ROW_IDENTITY: u16 = 2106;
    /// A key column has a nondeterministic collation: equal keys may have different bytes.
    pub const KEY_COLLATION: u16 = 2107;
    /// There is no such table.
    pub const NO_TABLE: u16 = 2108;
    /// A partitioned table and the publication's `publish_via_partition_root` do not fit.
    pub const PARTITION_ROOT: u16 = 2109;
    /// The server is in recovery.
    pub const IN_RECOVERY: u16 = 2110;
    /// The database's encoding cannot be converted to UTF-8.
    pub const ENCODING: u16 = 2111;
    /// The role lacks the REPLICATION attribute.
    pub const NO_REPLICATION: u16 = 2112;
    /// Retained log is not limited.
    pub const RETENTION: u16 = 2113;
    /// The publication leaves out a column that identifies rows.
    pub const KEY_NOT_PUBLISHED: u16 = 2114;
    /// A table was renamed, or moved to another schema.
    pub const RENAMED: u16 = 2115;
    /// The publication leaves out a column that a definition reads, which is not served.
    pub const COLUMN_NOT_PUBLISHED: u16 = 2116;
    /// A table does not have a column that a definition reads, which is not served.
    pub const NO_COLUMN: u16 = 2117;
    /// Other tables inherit from a table: it shows their rows as its own, and their changes arrive under their
    /// names.
    pub const HAS_HEIRS: u16 = 2118;
    /// A column prints names of other objects (`regclass` and its like), which change without a write.
    pub const VALUES_OF_NAMES: u16 = 2119;
    /// Our role may not read a table, or not all of what is published of it.
    pub const NOT_READABLE: u16 = 2144;
    /// The slot is used by another process.
    pub const SLOT_BUSY: u16 = 2120;
    /// No replication slot is free.
    pub const NO_FREE_SLOT: u16 = 2121;
    /// No walsender is free.
    pub const NO_FREE_SENDER: u16 = 2122;
    /// An open transaction holds back the creation of a slot.
    pub const SLOT_BLOCKED: u16 = 2123;
    /// The slot's name is taken by a slot of another kind.
    pub const FOREIGN_SLOT: u16 = 2124;
    /// The source cannot remember which store uses the slot: a data directory that is put back alone, or a
    /// second server on the slot, may not be recognised until it can (a warning).
    pub const NOT_REMEMBERED: u16 = 2125;
    /// A walsender that served this process still uses the slot, and does not answer.
    pub const SLOT_HUNG: u16 = 2126;
    /// Somebody's lock keeps a look at the source's catalog waiting: what is done to tables without a trace
    /// in the log is not noticed until it is released (a warning).
    pub const CATALOG_LOCKED: u16 = 2127;
    /// A table changed its form or its storage while it was copied.
    pub const COPY_OVERTAKEN: u16 = 2130;
    /// Row level security would hide rows from the copy.
    pub const COPY_FILTERED: u16 = 2131;
}
