//! The input: what the source has to tell, as whole transactions, copies and positions.
//!
//! Components that the engine's driver composes: [`identity`] decides whether the stored position
//! and the source still belong together; [`source`] connects and finds out; [`transactions`] turns
//! the replication stream into transactions in commit order; [`copy_session`] reads whole tables
//! at a boundary of that order; [`entry`] is the order itself, as plain data. What is durable, and what is acknowledged, the engine decides.

pub mod copy_session;
pub mod entry;
pub mod error;
pub mod history;
pub mod identity;
pub mod source;
pub mod transactions;

pub use error::{InputError, Result};
