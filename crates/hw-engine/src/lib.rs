//! The engine: one transaction of the source becomes one atomic commit of the store, and then
//! one publication that every surface reads.
//!
//! In: the ordered input (the [`sequencer`] makes it from what the driver in `hw-input` signals, and
//! tells the driver through [`board`] and [`replica`]). Out: [`Engine::published`], a store snapshot
//! at a transaction boundary, and the wake-up that says what changed. Nothing but the writer thread
//! changes what readers see; a loader fills tables that nobody reads yet.
//!
//! Suggested reading order, downhill: [`engine`], [`sequencer`], [`apply`], [`transaction`],
//! [`interpret`], [`fold`], [`evaluate`], [`buckets`], [`overlay`], [`publish`], [`wake`],
//! [`moved`], [`change_list`], [`published`], [`sync_view`], [`sync_difference`], [`table_view`].
//! What is stored where: [`record`], [`state`]; what is removed again and who is waited for:
//! [`compact`], [`lease`]. What takes effect when: [`definitions`], [`build`], [`copies`], [`entering`].
//! The other direction, from clients to Postgres, is the crate `hw-write`.

mod apply;
mod apply_large;
mod arrivals;
mod beat;
mod board;
mod buckets;
mod build;
mod build_bulk;
pub mod change_list;
mod compact;
mod copies;
mod copy_spool;
mod crowds;
mod definitions;
mod demand;
pub mod engine;
mod entering;
pub mod error;
mod evaluate;
mod fold;
mod fold_large;
mod frozen;
#[doc(hidden)]
pub mod fuzzing;
mod guard;
mod held;
mod interpret;
mod kept_back;
mod large;
mod lease;
mod loader;
mod lost;
mod messages;
mod moved;
mod overlay;
mod publish;
mod published;
mod record;
mod replica;
mod route;
pub mod runs;
mod sent_under;
mod sequencer;
mod state;
pub mod status;
mod sync_difference;
mod sync_view;
mod table_view;
mod tables;
mod tail;
#[cfg(any(test, feature = "testing"))]
pub mod testing;
mod transaction;
mod waiting;
pub mod wake;
mod withdraw;
mod writer;

#[cfg(test)]
mod tests;

pub use arrivals::ArrivalError;
pub use beat::Beat;
pub use change_list::{ChangePlace, ChangedRow, ChangedTable, Committed, Rows, Since};
pub use demand::DemandError;
pub use engine::{DriverOptions, Engine, EngineOptions, TakeOver};
pub use error::EngineError;
pub use guard::Guard;
pub use lease::{Lease, Leases};
pub use published::{Published, Withheld};
pub use sync_view::{
    ActiveSync, BucketId, BucketState, OpKind, Operation, OperationPage, ReadLimit, Reading,
    SyncView,
};
pub use table_view::{TableState, TableView};
pub use tables::StoredRow;
pub use wake::{BucketKey, Changes, LookupKey};
