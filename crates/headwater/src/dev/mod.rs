//! `headwater dev`: everything at once, without configuration.
//!
//! Suggested reading order: [`account`], [`binaries`], [`postgres`].

pub mod account;
pub mod binaries;
pub mod postgres;
