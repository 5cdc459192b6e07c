//! The engine as a whole: under a simulated store, and against a real Postgres.

mod client;
mod log;
pub(crate) mod node;
mod postgres;
mod simulation;
