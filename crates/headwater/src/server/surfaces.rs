//! The surfaces over the engine, each with the bounds that the configuration gives it.
//!
//! In: the engine, who checks tokens, the configuration. Out: their routes. Invariant: where
//! writes go follows the sync configuration that is served, with every switch.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hw_auth::Clock;
use hw_datasync::{DataSync, DataSyncOptions, Hooks};
use hw_engine::Engine;
use hw_expr::sync_config::SyncConfig;
use hw_http::{Edge, Surface};
use hw_live::{Live, LiveOptions};
use hw_pg::config::ConnectConfig;
use hw_pg::sql::Pool;
use hw_rest::RestState;
use hw_sync::source::UserLimits;
use hw_sync::{SyncOptions, SyncState};
use hw_types::Diagnostic;
use hw_write::{StatementOptions, Statements, UploadConfig, Uploads};
use tokio::sync::watch;
use tokio_util::sync::CancellationToken;

use super::reporter::Reporter;
use super::upload_map;
use crate::code;
use crate::config::Config;
use crate::config::upload_tables::UploadTable;

/// How long a write may wait for a connection of the pool.
const POOL_WAIT: Duration = Duration::from_secs(5);

/// How long a transaction may wait for a connection of its own pool.
const TRANSACTION_WAIT: Duration = Duration::from_secs(1);

/// How long records of uploads may be too old or too many before they are deleted.
const PURGE_EVERY: Duration = Duration::from_secs(3600);

/// The newest sync configuration that was given and compiles; it may still be being built.
pub type Given = watch::Receiver<Option<Arc<SyncConfig>>>;

/// Starts the surfaces; the stop ends their streams.
///
/// - Returns: all there are. A new surface is one more entry.
pub fn start(
    config: &Config,
    reporter: &Arc<Reporter>,
    edge: Edge,
    hooks: Option<Hooks>,
    connect: &ConnectConfig,
    given: Given,
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

    let connect = connect.with_application_name("headwater writes").for_users();
    let pool = Pool::new(connect.clone(), config.database.pool, POOL_WAIT);
    let datasync = config.datasync.enabled.then(|| {
        datasync(config, reporter, edge.clone(), hooks, (pool.clone(), connect), stop.clone())
    });
    let uploads = Uploads::new(
        pool,
        UploadConfig {
            role: config.uploads.role.clone(),
            publication: Some(config.database.publication.clone()),
            transaction_timeout: config.uploads.transaction_time,
            ..UploadConfig::default()
        },
    );
    hw_process::spawn("what purges records of uploads", purge(uploads.clone(), stop.clone()));
    let tables = config.uploads.tables.clone();
    hw_process::spawn("the upload map", follow(engine, given, uploads.clone(), tables, stop));
    let most = usize::try_from(config.uploads.max_body_bytes).unwrap_or(usize::MAX);
    let rest = RestState::new(edge.clone(), uploads, most);
    let mut surfaces = vec![hw_sync::surface(sync), hw_rest::surface(rest)];
    surfaces.extend(datasync.map(hw_datasync::surface));
    let named = surfaces.iter().map(|surface| (surface.name, surface.bounds.clone()));
    let _ = reporter.surfaces.set(named.chain([("http", edge.bounds())]).collect());
    surfaces
}

/// Who answers messages of the application.
///
/// - Errors: HW1023.
pub fn hooks(config: &Config) -> Result<Option<Hooks>, Box<Diagnostic>> {
    let settings = &config.datasync;
    if settings.hooks.is_empty() {
        return Ok(None);
    }
    let refused = |what: String| Box::new(Diagnostic::error(code::HOOKS, what));
    let Some(secret) = &settings.hook_secret else {
        let what = "there are hooks, and nothing to sign their requests with".to_owned();
        return Err(Box::new(
            refused(what).mend("set datasync.hook_secret or HEADWATER_HOOK_SECRET"),
        ));
    };
    Hooks::new(settings.hooks.clone(), secret.expose().as_bytes()).map(Some).map_err(refused)
}

/// Live queries. Their statements share the pool of uploads; transactions that wait for people do not.
fn datasync(
    config: &Config,
    reporter: &Reporter,
    edge: Edge,
    hooks: Option<Hooks>,
    (pool, connect): (Pool, ConnectConfig),
    stop: CancellationToken,
) -> DataSync {
    let (settings, limits) = (&config.datasync, &config.limits);
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let transactions = Pool::new(
        connect.with_application_name("headwater transactions"),
        settings.all_transactions,
        TRANSACTION_WAIT,
    );
    // Beside those of statements, which their users may hold.
    let asking = Pool::new(
        connect.with_application_name("headwater live"),
        Live::CONNECTIONS,
        TRANSACTION_WAIT,
    );
    let live = LiveOptions {
        question_time: settings.statement_timeout,
        result_bytes: bytes(settings.max_result),
        table_wait: settings.table_wait,
        ..LiveOptions::default()
    };
    let live = Live::start(reporter.engine.clone(), asking, live, stop.clone());
    let _ = reporter.live.set(live.clone());
    let statements = Statements::new(
        pool,
        transactions,
        StatementOptions {
            role: settings.role.clone(),
            statement_timeout: settings.statement_timeout,
            max_result_bytes: bytes(settings.max_result),
            idle_timeout: settings.idle,
            transaction_timeout: settings.open,
            ..StatementOptions::default()
        },
    );
    let options = DataSyncOptions {
        schema: settings.schema.clone(),
        naming: settings.naming.clone(),
        big_numbers: settings.big_numbers,
        anonymous: settings.anonymous.clone(),
        subscriptions: settings.subscriptions,
        transactions: settings.transactions,
        all_transactions: settings.all_transactions,
        message_bytes: bytes(settings.max_message),
        answer_bytes: bytes(limits.answer_memory),
        live_bytes: bytes(limits.live_memory),
        resume: settings.resume,
        sockets: (limits.max_clients, limits.streams_per_user),
        cookie: settings.cookie.clone(),
        origins: settings.origins.clone(),
        ..DataSyncOptions::default()
    };
    DataSync::new(edge, statements, Some(live), hooks, options, Clock::system(), stop)
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

/// Makes the upload map anew whenever another sync configuration is served or given, and says what
/// operators have to do before clients can write it.
async fn follow(
    engine: Engine,
    mut given: Given,
    uploads: Uploads,
    settings: BTreeMap<String, UploadTable>,
    stop: CancellationToken,
) {
    let mut served = engine.watch_served();
    let (mut known, mut waited) = (None, Vec::new());
    loop {
        let sync = served.borrow_and_update().clone();
        let (newest, is_new) = {
            let given = given.borrow_and_update();
            (given.clone(), given.has_changed())
        };
        let version = sync.as_ref().map(|sync| sync.version);
        let config = sync.as_ref().map(|sync| &*sync.config);
        let waits = |definition| sync.as_ref().is_some_and(|sync| sync.waits(definition));
        let waiting: Vec<usize> = config.map_or(Vec::new(), |config| {
            (0..config.definitions().len()).filter(|definition| waits(*definition)).collect()
        });
        let is_else = std::mem::replace(&mut waited, waiting.clone()) != waiting;
        if known != Some(version) || is_new || is_else {
            let before = known.replace(version);
            uploads.set_map(upload_map::make(config, waits, newest.as_deref(), &settings));
            // What there is to say of the first one was said at the start.
            if version.is_some() && before.flatten().is_some_and(|before| Some(before) != version) {
                tokio::spawn(tell(uploads.clone()));
            }
        }
        tokio::select! {
            changed = served.changed() => if changed.is_err() { return },
            // Whoever gives configurations may be gone before the engine is.
            Ok(()) = given.changed() => {}
            () = stop.cancelled() => return,
        }
    }
}

/// Logs what keeps clients from writing; `doctor` says the same beforehand. Tables that clients only
/// read may be meant so.
async fn tell(uploads: Uploads) {
    // A database that is away is told by everybody else.
    for finding in uploads.examine().await.unwrap_or_default() {
        let (code, mend) = (finding.code, finding.mend.as_deref().unwrap_or_default());
        match finding.code.0 {
            hw_write::code::NOT_WRITABLE => tracing::info!(%code, mend, "{}", finding.what),
            _ => tracing::warn!(%code, mend, "{}", finding.what),
        }
    }
}

/// Keeps the records of uploads within their bounds.
async fn purge(uploads: Uploads, stop: CancellationToken) {
    let mut ticks = tokio::time::interval(PURGE_EVERY);
    ticks.set_missed_tick_behavior(tokio::time::MissedTickBehavior::Delay);
    loop {
        tokio::select! {
            _ = ticks.tick() => match uploads.purge().await {
                Ok(0) => {}
                Ok(records) => tracing::info!(records, "old records of uploads deleted"),
                Err(error) => tracing::info!(%error, "old records of uploads are still there"),
            },
            () = stop.cancelled() => return,
        }
    }
}
