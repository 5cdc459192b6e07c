//! The surfaces over the engine, each with the bounds that the configuration gives it.

use std::sync::Arc;

use axum::Router;
use hw_auth::Authenticator;
use hw_pg::config::ConnectConfig;
use tokio_util::sync::CancellationToken;

use super::reporter::Reporter;
use crate::config::Config;

/// The routes of the surfaces on the one port.
pub struct Surfaces {
    /// The sync service.
    pub sync: Router,
    /// Uploads and REST.
    pub rest: Router,
}

/// Starts the surfaces; the stop ends their streams.
pub fn start(
    _config: &Config,
    _reporter: &Arc<Reporter>,
    _authenticator: Authenticator,
    _connect: &ConnectConfig,
    _stop: CancellationToken,
) -> Surfaces {
    Surfaces { sync: Router::new(), rest: Router::new() }
}
