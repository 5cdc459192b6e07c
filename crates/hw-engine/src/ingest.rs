//! x
pub(crate) async fn drive(_shared: std::sync::Arc<crate::engine::Shared>) {}
