//! The edge: what every surface does with sockets, tokens, bodies and slow readers, in one way.
//!
//! In: connections of strangers. Out: requests within bounds, and answers that reach only those who
//! take them. Suggested reading order, along a request's way: [`listen`] and [`socket`]
//! (connections); [`edge`] (who calls), [`body`], [`holder`], [`places`], [`error`]; [`budget`], [`gzip`] and
//! [`outbox`] (what waits for a socket); [`surface`] (what a surface registers).
//!
//! Invariant: nothing here knows a surface, the engine or the store.

pub mod body;
pub mod budget;
pub mod code;
pub mod edge;
pub mod error;
pub mod gzip;
pub mod holder;
pub mod listen;
pub mod outbox;
pub mod places;
pub mod socket;
pub mod surface;

pub use edge::Edge;
pub use error::{ApiError, Refusal};
pub use surface::{Bound, Surface};
