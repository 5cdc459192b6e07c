//! What the routes work with.

use std::sync::Arc;

use hw_http::Edge;
use hw_http::places::Places;
use hw_write::Uploads;

/// Uploads that are worked on at the same time; further ones wait, with their body.
const AT_ONCE: usize = 64;
/// Large uploads that are worked on at the same time, of different users: what is made of many
/// small operations takes many times the memory of their text.
const LARGE_AT_ONCE: usize = 2;

/// What the routes work with. Cheap to clone.
#[derive(Clone)]
pub struct RestState {
    pub(crate) edge: Edge,
    pub(crate) uploads: Uploads,
    pub(crate) max_body_bytes: usize,
    pub(crate) places: Arc<Places>,
    pub(crate) large: Arc<Places>,
}

impl RestState {
    /// Takes who lets requests in, who writes, and the largest body of an upload in bytes.
    pub fn new(edge: Edge, uploads: Uploads, max_body_bytes: usize) -> RestState {
        // A user must not take all connections to the database.
        let places = Places::new(AT_ONCE, uploads.connections_per_user());
        let large = Places::new(LARGE_AT_ONCE, 1);
        RestState { edge, uploads, max_body_bytes, places, large }
    }
}
