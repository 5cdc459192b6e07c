//! The engine as a whole: under a simulated store, and against a real Postgres.

mod beat;
mod change_list;
mod client;
mod copies;
mod costs;
mod demand;
mod log;
mod postgres;
mod simulation;
mod source;
