//! The twin of the store in memory: loses what was not synced, fails when told to, runs full.
//!
//! The same API as the database on disk, so that the engine runs on it unchanged and a test decides
//! when it crashes. Deterministic: what happens depends on the calls only. Spaces are maps of
//! versions, so a snapshot is a number and thousands of commits with as many snapshots cost little.
//! Segments and sorts of a simulated store are real files in a temporary directory: a crash keeps
//! those that were persisted and drops all others.

mod knobs;
mod twin;
mod versions;

pub use knobs::Simulation;
pub(crate) use twin::{Twin, TwinIter, TwinView};
pub(crate) use versions::TwinSpace;
