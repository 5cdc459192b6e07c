//! The edge: what every surface does with sockets, tokens, bodies and slow readers, in one way.
//!
//! In: connections of strangers. Out: requests within bounds, and answers that reach only those who
//! take them. Suggested reading order: [`listen`] and [`socket`] (connections), [`outbox`],
//! [`gzip`] and [`budget`] (answers).
//!
//! Invariant: nothing here knows a surface, the engine or the store.

pub mod budget;
pub mod code;
pub mod gzip;
pub mod listen;
pub mod outbox;
pub mod socket;
