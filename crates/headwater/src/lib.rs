//! The `headwater` binary: configuration, command line, start-up and `dev`.
//!
//! It composes the crates below it and decides nothing about rows. Suggested reading order:
//! [`cli`], [`config`], [`commands`]; [`sync_config`], [`policies`], [`authentication`], [`server`]; [`doctor`], [`dev`],
//! [`generate`], [`sample`]; [`report`], [`files`], [`code`], [`telemetry`], [`process`].

pub mod authentication;
pub mod cli;
pub mod code;
pub mod commands;
pub mod config;
pub mod dev;
pub mod doctor;
pub mod files;
pub mod generate;
pub mod policies;
pub mod process;
pub mod report;
pub mod sample;
pub mod server;
pub mod sync_config;
pub mod telemetry;
