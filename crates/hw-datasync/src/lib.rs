//! Live queries: the DataSync protocol, for its original client and ours.
//!
//! In: WebSockets and requests of strangers. Out: rows that Postgres shows them, writes as their authors.
//! Invariant: every row that goes out is one that Postgres shows its reader, by a statement under his policies or
//! as [`hw_live`] keeps its result.
//!
//! Suggested reading order: [`wire`] is what goes over the socket, [`names`] how columns are called there,
//! [`statement`] what a query is as SQL, [`aggregate`] what groups are, [`change`] what a write is; [`state`] decides
//! what happens on a socket, [`caller`] who it is, [`work`] does it as `tasks`, `drive` moves frames, `arriving`
//! counts those that are not whole, `resume` keeps what clients come back for, `rest` answers requests;
//! [`mod@routes`].

pub mod aggregate;
mod arriving;
pub mod caller;
pub mod change;
pub mod code;
mod drive;
pub mod failure;
pub mod hooks;
mod live;
pub mod names;
pub mod options;
mod rest;
mod resume;
pub mod routes;
pub mod server;
pub mod state;
pub mod statement;
mod tasks;
pub mod wire;
pub mod work;

pub use hooks::Hooks;
pub use options::DataSyncOptions;
pub use routes::{routes, surface};
pub use server::DataSync;
