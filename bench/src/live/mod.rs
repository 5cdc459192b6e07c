//! 10 to 12: live queries under row level security.
//!
//! Subscribers are users of their own on sockets of their own. In reading order: [`world`] (tables, policies,
//! rows), [`crowd`] (sockets, and what arrives at which), then the measurements.

pub mod change;
mod crowd;
pub mod memory;
pub mod windows;
mod world;
