//! The surfaces over the engine, each with the bounds that the configuration gives it.
//!
//! In: the engine, who checks tokens, the configuration. Out: their routes. Invariant: where
//! writes go follows the sync configuration that is served, with every switch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use axum::Router;
use hw_auth::Authenticator;
use hw_engine::Engine;
use hw_pg::config::ConnectConfig;
use hw_pg::sql::Pool;
use hw_rest::RestState;
use hw_sync::source::UserLimits;
use hw_sync::{SyncOptions, SyncState};
use hw_write::{UploadConfig, Uploads};
use tokio_util::sync::CancellationToken;

use super::reporter::{Reporter, SyncFigures};
use super::upload_map;
use crate::config::{Config, UploadTable};

/// How long a write may wait for a connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// The routes of the surfaces on the one port.
pub struct Surfaces {
    /// The sync service.
    pub sync: Router,
    /// Uploads and REST.
    pub rest: Router,
}

/// Starts the surfaces; the stop ends their streams.
pub fn start(
    config: &Config,
    reporter: &Arc<Reporter>,
    authenticator: Authenticator,
    connect: &ConnectConfig,
    stop: CancellationToken,
) -> Surfaces {
    let engine = reporter.engine.clone();
    let health = Arc::clone(reporter);
    let sync = SyncState::start(
        engine.clone(),
        authenticator.clone(),
        sync_options(config),
        move || health.health(),
        stop.clone(),
    );
    let counted = sync.clone();
    let _ = reporter.sync.set(Box::new(move || SyncFigures {
        streams: counted.open_streams(),
        page_bytes: counted.page_bytes(),
    }));

    let pool = Pool::new(
        connect.with_application_name("headwater writes"),
        config.database.pool,
        POOL_WAIT,
    );
    let uploads = Uploads::new(
        pool,
        UploadConfig { role: config.uploads.role.clone(), ..UploadConfig::default() },
    );
    tokio::spawn(follow(engine, uploads.clone(), config.uploads.tables.clone(), stop));
    let most = usize::try_from(config.uploads.max_body_bytes).unwrap_or(usize::MAX);
    Surfaces {
        sync: hw_sync::routes(sync),
        rest: hw_rest::routes(RestState::new(authenticator, uploads, most)),
    }
}

fn sync_options(config: &Config) -> SyncOptions {
    let bytes = usize::try_from(config.limits.page_memory).unwrap_or(usize::MAX);
    SyncOptions {
        max_streams: config.limits.max_clients,
        user: UserLimits {
            max_buckets: config.limits.buckets_per_client,
            max_parameter_results: config.limits.parameter_results,
        },
        page_budget_bytes: bytes,
        page_cache_bytes: bytes / 3,
        ..SyncOptions::default()
    }
}

/// Makes the upload map anew whenever another sync configuration is served.
async fn follow(
    engine: Engine,
    uploads: Uploads,
    settings: BTreeMap<String, UploadTable>,
    stop: CancellationToken,
) {
    let mut published = engine.watch();
    let mut known = None;
    loop {
        let sync = published.borrow_and_update().sync.clone();
        let version = sync.as_ref().map(|sync| sync.version);
        if known != Some(version) {
            known = Some(version);
            uploads.set_map(upload_map::make(sync.as_ref().map(|s| &*s.config), &settings));
        }
        tokio::select! {
            changed = published.changed() => if changed.is_err() { return },
            () = stop.cancelled() => return,
        }
    }
}
