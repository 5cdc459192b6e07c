//! The server as a process: sockets, routes, figures.
//!
//! Suggested reading order: [`start`]; [`router`], [`surfaces`], [`upload_map`], [`from_policies`]; [`page`], [`admin`];
//! [`status`], [`reporter`], [`lag`].

pub mod admin;
pub mod from_policies;
pub mod lag;
pub mod opening;
mod page;
mod pulse;
pub mod reporter;
pub mod router;
pub mod start;
pub mod status;
pub mod surfaces;
pub mod upload_map;
