//! The surface over HTTP, on an in-memory twin of the engine, and on the engine itself over a
//! simulated store.

mod client;
mod difference;
mod engine;
mod listening;
mod refusals;
mod slow;
mod streaming;
mod twin;
