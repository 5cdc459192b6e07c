//! The surface over HTTP, on an in-memory twin of the engine.

mod client;
mod listening;
mod refusals;
mod slow;
mod streaming;
mod twin;
