//! The `headwater` binary: configuration, command line, start-up and `dev`.
//!
//! It composes the crates below it and decides nothing about rows. Suggested reading order:
//! [`cli`], [`config`], [`commands`]; [`server`]; [`doctor`], [`dev`]; [`report`], [`telemetry`],
//! [`process`].

pub mod cli;
pub mod commands;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod process;
pub mod report;
pub mod server;
pub mod telemetry;
