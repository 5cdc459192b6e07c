//! The server as a process: sockets, routes, figures.
//!
//! Suggested reading order: [`listen`], [`router`], [`page`], [`admin`], [`status`].

pub mod admin;
pub mod listen;
pub mod page;
pub mod router;
pub mod status;
