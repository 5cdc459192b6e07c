//! The engine as a whole: under a simulated store, and against a real Postgres.

mod client;
mod log;
mod postgres;
pub(crate) mod simulation;
