//! Integration tests against a real Postgres, through real sockets.

mod bounds;
mod connection;
mod hooks;
mod hostile;
mod reads;
mod rest;
mod rig;
mod security;
mod statements;
mod transactions;
mod writes;
