//! What the tests of every crate stand on (design/promises.md, section 2).
//!
//! - [`Cluster`]: a private Postgres per test, from the machine's own binaries or from the pinned
//!   npm packages, started in well under a second and gone when the test is, however it ends.
//! - [`disk`]: a disk that is small enough to run full.
//! - [`proxy`]: a TCP proxy that misbehaves on demand.
//! - [`wait`]: barriers. Tests wait for conditions, never for time.
//! - [`oracle`]: clients of the sync protocol and of live queries, and the property tests that compare them with
//!   SQL.
//! - [`wheres`]: conditions of live queries by strangers.
//! - [`server`]: the `headwater` process as a test sees it, whose log is output too.
//!
//! A development dependency only: nothing that ships uses this crate.

pub mod cluster;
pub mod disk;
pub mod oracle;
pub mod proxy;
pub mod server;
pub mod wait;
pub mod wheres;

mod account;
mod binaries;
mod needs;
mod nursery;
mod ports;
mod scratch;
mod template;

pub use binaries::{cases, majors};
pub use cluster::{Auth, Cluster, ClusterOptions, Stop, TestDatabase};
pub use needs::missing;
pub use proxy::{Direction, Ending, Fault, FaultProxy};
pub use server::{HeadwaterProcess, ProcessOptions};
pub use wait::poll_until;
