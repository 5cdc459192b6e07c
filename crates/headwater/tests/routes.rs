//! The routes of the one port are those of the table, and no others.

use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Instant;

use axum::Router;
use headwater::config::{Sources, load};
use headwater::server::admin::{Access, Admin, DevSession, Seen};
use headwater::server::reporter::{Bounds, Reporter};
use headwater::server::router;
use headwater::server::surfaces;
use hw_auth::{AuthConfig, Authenticator, Secret};
use hw_engine::{Engine, EngineOptions};
use hw_http::listen::Connections;
use hw_http::{Edge, Surface};
use hw_pg::config::ConnectConfig;
use hw_store::{Store, StoreOptions};
use tokio_util::sync::CancellationToken;

/// The table of routes as far as they exist, by prefix: PowerSync's, ours, the operator's.
const TABLE: &[&str] = &[
    "/",
    "/sync",
    "/sync/stream",
    "/sync/checkpoint-request",
    "/sync/{*rest}",
    "/write-checkpoint.json",
    "/write-checkpoint2.json",
    "/probes",
    "/probes/startup",
    "/probes/liveness",
    "/probes/readiness",
    "/probes/{*rest}",
    "/api/v1/upload",
    "/DataSyncController",
    "/api/{table}",
    "/api/{table}/{id}",
    "/admin/api/status",
    "/admin/api/policies",
    "/admin/api/dev-token",
    "/metrics",
];

/// The paths that a router knows, as its `Debug` form lists them.
fn paths(router: &Router) -> BTreeSet<String> {
    let shown = format!("{router:?}");
    let mut found = BTreeSet::new();
    for part in shown.split('"').skip(1).step_by(2) {
        if part.starts_with('/') && !part.contains("__private__") {
            found.insert(part.to_owned());
        }
    }
    found
}

/// The real surfaces over an engine whose source is away.
fn surfaces(directory: &std::path::Path) -> Vec<Surface> {
    let config = load(&Sources {
        file: None,
        flags: [("data_dir", directory.display().to_string())].into(),
        environment: &|name| (name == "HEADWATER_DATASYNC").then(|| "true".to_owned()),
    })
    .expect("valid");
    let store = Store::open(&StoreOptions::new(config.store_dir())).expect("opened");
    let (connect, _) =
        ConnectConfig::parse("postgres://nobody@127.0.0.1:1/nothing").expect("a connection string");
    let options = EngineOptions::new(store.clone(), connect.clone());
    let (engine, _) = Engine::start(options, None).expect("started");
    let stop = CancellationToken::new();
    let reporter = Arc::new(Reporter {
        engine,
        store,
        connections: Connections::new(1, config.limits.reader_patience, stop.clone()),
        database: String::new(),
        configured: false,
        live_queries: false,
        bounds: Bounds::of(&config),
        started: Instant::now(),
        memory: Default::default(),
        surfaces: Default::default(),
        live: Default::default(),
    });
    let authenticator = Authenticator::new(AuthConfig {
        secret: Some(Secret::parse("a secret of thirty-two characters").expect("usable")),
        ..AuthConfig::default()
    });
    let edge = Edge::new(authenticator.expect("usable"), 1 << 20);
    let given = tokio::sync::watch::Sender::new(None).subscribe();
    surfaces::start(&config, &reporter, edge, None, &connect, given, stop)
}

#[tokio::test]
async fn every_route_is_in_the_table_and_every_row_of_the_table_is_a_route() {
    let directory = tempfile::tempdir().expect("a directory");
    let admin = Admin {
        access: Access::Dev,
        status: Arc::new(Default::default),
        policies: Arc::new(|_| {
            Box::pin(async { Ok(Seen { role: "r".into(), tables: Vec::new() }) })
        }),
        dev: Some(Arc::new(|_| DevSession {
            token: "t".into(),
            sub: "s".into(),
            users: Vec::new(),
            psql: None,
        })),
    };
    let router = router::one_port(surfaces(directory.path()), Some(admin));
    let expected: BTreeSet<String> = TABLE.iter().map(|path| (*path).to_owned()).collect();
    assert_eq!(paths(&router), expected);
}
