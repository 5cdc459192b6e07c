//! The surfaces over the engine, each with the bounds that the configuration gives it.
//!
//! In: the engine, who checks tokens, the configuration. Out: their routes. Invariant: where
//! writes go follows the sync configuration that is served, with every switch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hw_engine::Engine;
use hw_http::{Edge, Surface};
use hw_pg::config::ConnectConfig;
use hw_pg::sql::Pool;
use hw_rest::RestState;
use hw_sync::source::UserLimits;
use hw_sync::{SyncOptions, SyncState};
use hw_write::{UploadConfig, Uploads};
use tokio_util::sync::CancellationToken;

use super::reporter::Reporter;
use super::upload_map;
use crate::config::{Config, UploadTable};

/// How long a write may wait for a connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// Starts the surfaces; the stop ends their streams.
///
/// - Returns: all there are. A new surface is one more entry.
pub fn start(
    config: &Config,
    reporter: &Arc<Reporter>,
    edge: Edge,
    connect: &ConnectConfig,
    stop: CancellationToken,
) -> Vec<Surface> {
    let engine = reporter.engine.clone();
    let health = Arc::clone(reporter);
    let sync = SyncState::start(
        engine.clone(),
        edge.clone(),
        sync_options(config),
        move || health.health(),
        stop.clone(),
    );

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
    let rest = RestState::new(edge.clone(), uploads, most);
    let surfaces = vec![hw_sync::surface(sync), hw_rest::surface(rest)];
    let named = surfaces.iter().map(|surface| (surface.name, surface.bounds.clone()));
    let _ = reporter.surfaces.set(named.chain([("http", edge.bounds())]).collect());
    surfaces
}

fn sync_options(config: &Config) -> SyncOptions {
    let bytes = usize::try_from(config.limits.page_memory).unwrap_or(usize::MAX);
    SyncOptions {
        max_streams: config.limits.max_clients,
        max_streams_per_user: config.limits.streams_per_user,
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
