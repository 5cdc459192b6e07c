//! Live queries: the DataSync protocol, for its original client and ours.
//!
//! [`wire`] is what goes over the socket, [`names`] how columns are called there, [`statement`] what a query
//! is as SQL.

pub mod names;
pub mod statement;
pub mod wire;
