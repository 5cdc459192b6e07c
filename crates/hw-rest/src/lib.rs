//! Routes in our own manner. So far one: `POST /api/v1/upload`, on which clients hand in the
//! writes of their local queue (`docs/uploads.md`).
//!
//! In: HTTP requests. Out: calls of [`hw_write`], and answers as JSON. Invariant: nothing
//! of a request is read before its token was verified, and who writes is taken from the token
//! alone.
//!
//! Suggested reading order: [`mod@routes`], `upload` (one request's way), `wire` (bytes to words).

pub mod routes;
pub mod state;
mod upload;
mod wire;

pub use routes::{routes, surface};
pub use state::RestState;

/// The door for the fuzz targets: reads the body of an upload.
#[doc(hidden)]
pub fn fuzz_upload(body: &[u8]) {
    drop(wire::read(body));
}
