//! The `headwater` binary: configuration, command line, start-up and `dev`.
//!
//! It composes the crates below it and decides nothing about rows. Suggested reading order:
//! [`cli`], [`config`], [`report`].

pub mod cli;
pub mod config;
pub mod dev;
pub mod process;
pub mod report;
pub mod server;
pub mod telemetry;
