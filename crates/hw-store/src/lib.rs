//! The ordered store under the engine.
//!
//! What flows in: atomic batches of writes over several ordered key spaces, bulk loads of sorted
//! rows, and spools. What flows out: point reads and ordered scans of a snapshot that shows all
//! spaces at one moment. The store knows bytes only; what the bytes mean is the engine's.
//!
//! Invariants, each with a test in `tests/`:
//!
//! - A batch is wholly visible or not at all, also after a crash.
//! - What was committed before a [`Store::sync`] that returned is there after any crash (E-2).
//! - A snapshot never changes.
//! - Memory and spools stay within the configured bounds (E-5).
//!
//! In reading order: `options`, `error`, `home` (the directory and who owns it), `store` (the API),
//! `space`, `batch`, `snapshot`, `ascending`, `bulk`; then the two backends: `disk` (fjall) and `simulation` (a
//! twin in memory that can crash); then the files beside the store: [`segment`] and [`sorter`].

mod ascending;
mod batch;
mod bulk;
mod disk;
mod error;
mod home;
mod options;
pub mod segment;
mod simulation;
mod snapshot;
pub mod sorter;
mod space;
mod store;
mod suspicion;

pub use ascending::Ascending;
pub use batch::Batch;
pub use bulk::BulkLoad;
pub use error::StoreError;
/// Immutable bytes that are cheap to clone; short ones are kept inline, values read from a table
/// share the memory of their block.
pub use fjall::Slice;
pub use options::StoreOptions;
pub use simulation::Simulation;
pub use snapshot::{Iter, Snapshot};
pub use space::Space;
pub use store::{Store, StoreStatistics};
