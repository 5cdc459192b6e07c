//! The sync service that the official PowerSync clients use unmodified.
//!
//! In: requests of clients, and the engine's published states. Out: streams of lines. Suggested
//! reading order, along a client's way: [`mod@routes`], [`open`], [`drive`], [`state`] (which line
//! comes next), [`page`] (made once, sent to many), [`burst`]. Beside it: [`hub`] (who wakes when something is published), [`source`] (what is asked of the engine),
//! `checkpoints`, [`probes`], `plain` (answers that are no stream), [`wire`] (bytes).
//!
//! Invariant: this crate reads published states and listens to wake-ups; it never writes.

pub mod burst;
mod checkpoints;
pub mod drive;
mod engine;
pub mod hub;
pub mod open;
pub mod options;
pub mod page;
mod plain;
pub mod probes;
pub mod routes;
pub mod shared;
pub mod source;
pub mod state;
pub mod telemetry;
pub mod wire;

pub use options::SyncOptions;
pub use routes::{early_routes, probe_routes, routes, surface};
pub use shared::{Health, SyncState};
