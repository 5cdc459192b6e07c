//! What a surface hands to the server, in one list: its routes, whose unknown paths are its own,
//! and what it uses of its bounds, for status and metrics.
//!
//! A new surface is one more entry: nothing else in the server knows the surfaces by name.

use std::sync::Arc;

use axum::Router;
use axum::response::Response;

/// A surface on the one port.
pub struct Surface {
    /// Its name in status and metrics.
    pub name: &'static str,
    /// Its routes.
    pub routes: Router,
    /// Beginnings of paths that are refused in its manner when they do not exist.
    pub prefixes: &'static [&'static str],
    /// Refuses such a path.
    pub not_found: fn() -> Response,
    /// What it uses of its bounds.
    pub bounds: Bounds,
}

/// Tells what is used of bounds at the moment of the question.
pub type Bounds = Arc<dyn Fn() -> Vec<Bound> + Send + Sync>;

/// Something bounded, and how much of it is used.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub struct Bound {
    /// What it is, in words of a metric's label: `streams`, `page_memory_bytes`.
    pub name: &'static str,
    /// How much is used.
    pub used: u64,
    /// The bound.
    pub limit: u64,
}

impl Bound {
    /// - Takes: name, use and bound, as they are counted in memory.
    pub fn new(name: &'static str, used: usize, limit: usize) -> Bound {
        Bound { name, used: used as u64, limit: limit as u64 }
    }
}
