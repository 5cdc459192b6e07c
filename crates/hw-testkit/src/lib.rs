//! What the tests of every crate stand on (design/promises.md, section 2).
//!
//! - [`Cluster`]: a private Postgres per test, from the machine's own binaries or from the pinned
//!   npm packages, started in well under a second and gone when the test is, however it ends.
//! - [`wait`]: barriers. Tests wait for conditions, never for time.
//!
//! A development dependency only: nothing that ships uses this crate.

pub mod cluster;
pub mod wait;

mod account;
mod binaries;
mod nursery;
mod scratch;
mod template;

pub use binaries::majors;
pub use cluster::{Auth, Cluster, ClusterOptions, Stop, TestDatabase};
pub use wait::poll_until;
