//! Everything that is said to Postgres: connections, the catalog, the publication and the slot,
//! the replication stream, table copies, values, markers.
//!
//! Suggested reading order: [`config`], [`transport`], [`sql`]; [`types`]; [`catalog`],
//! [`policies`], [`principal`], [`rights`], [`statements`], [`publication`], [`slot`]; [`replication`], [`pgoutput`], [`copy`]; [`marker`], [`memory`].

// A `Diagnostic` is large and rare: it is made where something is refused.
#![allow(clippy::result_large_err)]

pub mod catalog;
pub mod config;
pub mod copy;
pub mod error;
mod internal;
pub mod marker;
pub mod memory;
pub mod passfile;
pub mod pgoutput;
pub mod policies;
pub mod principal;
pub mod publication;
pub mod replication;
pub mod rights;
pub mod slot;
pub mod sql;
pub mod statements;
pub mod tls;
pub mod transport;
pub mod types;
