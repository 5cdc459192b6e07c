//! Bytes on the wire: what a request says, what a line looks like, how an error is told.
//!
//! Everything here is a pure function between bytes and plain structs. The stream's lines have
//! one encoder, [`ndjson`]; the structs in [`mod@line`] carry no encoding, so that BSON is a second
//! encoder beside it. Suggested reading order: [`request`], [`mod@line`], [`ndjson`], [`json`],
//! [`negotiate`], [`error`].

pub mod document;
pub mod error;
pub mod json;
pub mod line;
pub mod ndjson;
pub mod negotiate;
pub mod request;
