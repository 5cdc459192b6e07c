//! `streams`: one SELECT says which rows are synced and to whom. Source: `sync-rules.md` 10.

use super::load::Loader;
use crate::report::code;
use crate::yaml::Node;

/// Compiles the `streams` map into the configuration.
pub fn compile(node: &Node, _with: Option<&Node>, loader: &mut Loader<'_, '_>) {
    loader.error(node, code::NOT_YET, "streams are not supported by Headwater yet");
}
