//! From a configuration to a running server, and back.
//!
//! In: a [`Config`]. Out: a [`Server`]. Invariants: nothing is opened before the configuration
//! has been found good; a stop ends within five seconds, the store last.

use std::sync::{Arc, OnceLock};
use std::time::{Duration, Instant};

use hw_engine::{Beat, DriverOptions, Engine, EngineOptions, TakeOver};
use hw_expr::sync_config::SyncConfig;
use hw_http::Edge;
use hw_http::listen::{self, Connections};
use hw_pg::config::{ANSWER_WITHIN, ConnectConfig};
use hw_pg::sql;
use hw_store::{Store, StoreOptions};
use hw_types::{Code, Diagnostic};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

use super::admin::{Access, Admin, DevSessions, PoliciesSource, Seen};
use super::from_policies::Follower;
use super::opening::Opening;
use super::reporter::{Bounds, Reporter, audited};
use super::router;
use super::surfaces;
use crate::authentication;
use crate::code;
use crate::config::Config;
use crate::policies::{Reader, Verdict};
use crate::process;
use crate::report;
use crate::sync_config::{self, SyncFile};

/// Files that are not sockets of clients, beside the store's tables and the pool: journals, spools,
/// runs of sorts, copies, replication, key sets, the operator's connections, the program's own.
const OTHER_FILES: u64 = 512;

/// Connections to a port of the administration alone, which clients cannot fill.
const ADMIN_CONNECTIONS: usize = 64;

/// With room for fewer clients than this the server does not start.
const FEWEST_CLIENTS: usize = 16;

/// How long answers in progress may take to end at a stop.
const DRAIN_PATIENCE: Duration = Duration::from_millis(2500);

/// How long the engine may take to commit what waits at a stop.
const ENGINE_PATIENCE: Duration = Duration::from_millis(1500);

/// What is wrong with a start, with the text that spans point into.
#[derive(Debug)]
pub struct StartRefused {
    /// The findings.
    pub findings: Vec<Diagnostic>,
    /// The text of the sync configuration.
    pub text: String,
}

impl From<Box<Diagnostic>> for StartRefused {
    fn from(finding: Box<Diagnostic>) -> StartRefused {
        StartRefused { findings: vec![*finding], text: String::new() }
    }
}

impl From<Diagnostic> for StartRefused {
    fn from(finding: Diagnostic) -> StartRefused {
        StartRefused::from(Box::new(finding))
    }
}

/// A running server.
pub struct Server {
    /// The engine, for what `dev` and SIGHUP ask of it.
    pub engine: Engine,
    /// Its figures.
    pub reporter: Arc<Reporter>,
    /// Where it listens.
    pub address: std::net::SocketAddr,
    connections: Connections,
    /// The newest sync configuration, as [`surfaces::Given`] says.
    given: watch::Sender<Option<Arc<SyncConfig>>>,
    /// Hands in what was read last.
    handing_in: Mutex<Option<JoinHandle<()>>>,
    stop: CancellationToken,
}

/// Starts everything.
///
/// - Takes: the configuration; in `dev` what the page needs.
/// - Errors: findings, of which each says how to mend it. Nothing is left running.
pub async fn start(config: &Config, dev: Option<DevSessions>) -> Result<Server, StartRefused> {
    let authenticator = authentication::authenticator(config)?;
    let hooks = surfaces::hooks(config)?;
    let (connect, warnings) = ConnectConfig::parse(config.database_url()?)?;
    report::log(&warnings, "");
    let connect = connect.with_answer_within(Some(ANSWER_WITHIN));
    let sync = sync_config::configured(config)?;
    if config.sync_from_policies && sync.is_some() {
        let what = "sync.from and sync.config are both set";
        return Err(Diagnostic::error(code::FROM_POLICIES, what)
            .mend("keep one of them: `headwater policies --as-streams` prints what policies are as a file")
            .into());
    }
    if sync.is_none() && !config.sync_from_policies {
        tracing::info!(
            "no sync configuration is named; what the store knows is served (sync.config, or sync.from: policies)"
        );
    }
    let most_clients = room_for_clients(config)?;
    let listener = listen::bind(config.listen, "--listen or HEADWATER_LISTEN").await?;
    let address = listener.local_addr().map_err(|error| {
        Diagnostic::error(
            hw_http::code::ADDRESS,
            format!("cannot listen on {}: {error}", config.listen),
        )
    })?;
    let admin_listener = match config.admin_listen {
        Some(address) => {
            Some(listen::bind(address, "--admin-listen or HEADWATER_ADMIN_LISTEN").await?)
        }
        None => None,
    };
    let given = watch::Sender::new(sync.as_ref().and_then(|file| compiled(file).ok()));
    let stop = CancellationToken::new();
    let (beat, patience) = (Beat::default(), config.limits.reader_patience);
    let opening = Opening::serve((listener, admin_listener), beat.clone(), patience);
    let opened = open(config, &connect, sync, beat, (&given, &stop)).await;
    let (listener, admin_listener) = opening.end().await;
    let (store, engine) = opened?;
    let connections = Connections::new(most_clients, config.limits.reader_patience, stop.clone());
    let reporter = Arc::new(Reporter {
        engine: engine.clone(),
        store,
        connections: connections.clone(),
        database: connect.database().to_owned(),
        configured: config.sync_config.is_some() || config.sync_from_policies,
        live_queries: config.datasync.enabled,
        bounds: Bounds::of(config),
        started: Instant::now(),
        memory: Mutex::default(),
        surfaces: OnceLock::new(),
        live: OnceLock::new(),
    });
    // The first look: what is counted is counted from here.
    drop(reporter.report());
    hw_process::spawn("the reporter", Arc::clone(&reporter).watch(stop.clone()));
    let figures = Arc::clone(&reporter);
    let admin = Admin {
        access: access(config, dev.is_some()),
        status: Arc::new(move || figures.report()),
        policies: policies(config, &connect, &reporter),
        dev,
    };
    let body_memory = usize::try_from(config.limits.body_memory).unwrap_or(usize::MAX);
    let edge = Edge::new(authenticator, body_memory);
    let newest = given.subscribe();
    let surfaces = surfaces::start(config, &reporter, edge, hooks, &connect, newest, stop.clone());
    let one_port = match admin_listener {
        None => router::one_port(surfaces, Some(admin)),
        Some(listener) => {
            let health = Arc::clone(&reporter);
            let probes = hw_sync::probe_routes(move || health.health());
            let router = router::admin_port(admin, probes);
            let serving = connections.apart(ADMIN_CONNECTIONS).serve(listener, router);
            hw_process::spawn("the port of the administration", async { drop(serving.await) });
            router::one_port(surfaces, None)
        }
    };
    let serving = connections.clone().serve(listener, one_port);
    hw_process::spawn("the port", async { drop(serving.await) });
    // A relative directory leads elsewhere from another working directory, and an empty one takes
    // the place of the store that is meant.
    let data_dir = std::path::absolute(&config.data_dir).unwrap_or(config.data_dir.clone());
    let data_dir = data_dir.display();
    tracing::info!(%address, %data_dir, version = env!("CARGO_PKG_VERSION"), "listening");
    let handing_in = Mutex::default();
    Ok(Server { engine, reporter, address, connections, given, handing_in, stop })
}

/// Reads row level security when it is asked for.
fn policies(config: &Config, connect: &ConnectConfig, reporter: &Arc<Reporter>) -> PoliciesSource {
    let connect = connect.with_application_name("headwater policies");
    let of = Arc::new((config.clone(), connect, Arc::clone(reporter)));
    Arc::new(move |role| {
        let of = Arc::clone(&of);
        Box::pin(async move {
            let (config, connect, reporter) = &*of;
            let connected = sql::connect(connect).await;
            let (mut client, _driver) = connected.map_err(|error| Box::new(error.diagnostic()))?;
            let reader = Reader::read(&mut client, config, role.as_deref()).await?;
            let mut tables = reader.verdicts();
            for one in reporter.disagreements().iter().filter(|one| *one.role == *reader.role) {
                let is_it =
                    |of: &&mut Verdict| of.schema == one.table.schema && of.table == one.table.name;
                tables.iter_mut().find(is_it).into_iter().for_each(|of| of.refute(audited(one)));
            }
            Ok(Seen { role: reader.role.clone(), tables })
        })
    })
}

/// Who may ask for status and metrics.
fn access(config: &Config, dev: bool) -> Access {
    match (&config.api_token, config.admin_listen) {
        (Some(token), _) => Access::Token(token.clone()),
        (None, Some(_)) => Access::OwnPort,
        (None, None) if dev => Access::Dev,
        (None, None) => {
            tracing::info!(
                "status and metrics are not served; set api_token or admin_listen for them"
            );
            Access::Nobody
        }
    }
}

impl Server {
    /// Stops gracefully: streams end between lines, what the engine has received is committed.
    pub async fn stop(self) {
        tracing::info!("stopping");
        self.stop.cancel();
        let cut = self.connections.drain(DRAIN_PATIENCE).await;
        if cut > 0 {
            tracing::info!("cut {cut} connections that did not end by themselves");
        }
        stop_engine(&self.engine).await;
    }

    /// Reads the sync configuration again (SIGHUP), without waiting for it to be taken over: a store that
    /// cannot be written takes nothing over before it can. The newest one takes the place of one that waits.
    /// An invalid one leaves the old one serving.
    pub fn reload(&self, config: &Config) {
        let file = match sync_config::configured(config) {
            Ok(Some(file)) => file,
            Ok(None) if config.sync_from_policies => {
                return tracing::info!("policies are synced, which are looked at each second");
            }
            Ok(None) => return tracing::info!("no sync configuration is named, nothing to read"),
            Err(finding) => return finding.log(),
        };
        // The writer says when it serves it, which may be before we hear that it took it.
        tracing::info!(file = %file.name, "the sync configuration is read again");
        let new = match compiled(&file) {
            Ok(new) => new,
            Err(findings) => return refused(&file, &findings),
        };
        let (engine, given) = (self.engine.clone(), self.given.clone());
        let handing_in = async move {
            match engine.configure(&file.name, &file.text).await {
                Ok(true) => drop(given.send_replace(Some(new))),
                Ok(false) => {
                    tracing::info!(file = %file.name, "the sync configuration is unchanged");
                }
                Err(findings) => refused(&file, &findings),
            }
        };
        let task = tokio::spawn(hw_process::vital("handing in a configuration", handing_in));
        // Not both: the older one could come to be handed in last.
        if let Some(older) = self.handing_in.lock().replace(task) {
            older.abort();
        }
    }
}

fn refused(file: &SyncFile, findings: &[Diagnostic]) {
    report::log(findings, &file.text);
    tracing::warn!(
        file = %file.name,
        "the sync configuration is refused ({}); the old one serves on",
        report::count(findings.len(), "finding")
    );
}

async fn stop_engine(engine: &Engine) {
    if tokio::time::timeout(ENGINE_PATIENCE, engine.stop()).await.is_err() {
        tracing::info!("what the engine had not committed comes again at the next start");
    }
}

/// What a file says.
///
/// - Errors: the findings, when it does not compile.
fn compiled(file: &SyncFile) -> Result<Arc<SyncConfig>, Vec<Diagnostic>> {
    let loaded = SyncConfig::load(&file.text, &file.name, None);
    loaded.config.map(Arc::new).ok_or(loaded.diagnostics)
}

/// How many connections there may be: as configured, or what the limit of open files leaves beside
/// the files of the store and of the source. Strangers must not be able to take those.
///
/// - Errors: HW1022 when next to nothing is left.
fn room_for_clients(config: &Config) -> Result<usize, Box<Diagnostic>> {
    let tables = StoreOptions::new(config.store_dir()).open_files as u64;
    let transactions = if config.datasync.enabled { config.datasync.all_transactions } else { 0 };
    let reserve = tables + (config.database.pool + transactions) as u64 + OTHER_FILES;
    let wanted = config.limits.max_clients;
    let limit = process::raise_open_files(wanted as u64 + reserve).map_err(|error| {
        let what = format!("cannot read or raise the limit of open files: {error}");
        Diagnostic::error(code::OPEN_FILES, what)
    })?;
    let room = usize::try_from(limit.saturating_sub(reserve)).unwrap_or(usize::MAX).min(wanted);
    if room == wanted {
        return Ok(room);
    }
    let least = FEWEST_CLIENTS.min(wanted);
    if room < least {
        let what = format!(
            "the process may open {limit} files; the store and the source need {reserve}, and \
             {least} clients as many more"
        );
        return Err(Box::new(Diagnostic::error(code::OPEN_FILES, what).mend(format!(
            "raise the limit, for example `ulimit -n {least}`, or LimitNOFILE={least} in the unit of systemd",
            least = wanted as u64 + reserve
        ))));
    }
    let what = format!("the process may open {limit} files, so {room} clients fit, not {wanted}");
    // Somebody who needs thousands should hear it; the default is more than most ever use.
    if room < wanted / 2 {
        tracing::warn!(code = %Code(code::OPEN_FILES), "{what}");
    } else {
        tracing::info!("{what}");
    }
    Ok(room)
}

fn open_store(config: &Config) -> Result<Store, Box<Diagnostic>> {
    let options = StoreOptions {
        cache_bytes: config.store.cache,
        journal_bytes: config.store.journal,
        memtable_bytes: config.store.memtable,
        spool_bytes: config.limits.spool_bytes,
        ..StoreOptions::new(config.store_dir())
    };
    Store::open(&options).map_err(|error| {
        let directory = std::path::absolute(&options.dir).unwrap_or(options.dir.clone());
        Box::new(error.diagnostic().at(format!("directory {}", directory.display())))
    })
}

/// Opens the store and the engine, and reads the policies where they are what is served.
async fn open(
    config: &Config,
    connect: &ConnectConfig,
    sync: Option<SyncFile>,
    beat: Beat,
    (given, stop): (&watch::Sender<Option<Arc<SyncConfig>>>, &CancellationToken),
) -> Result<(Store, Engine), StartRefused> {
    let text = sync.as_ref().map(|file| file.text.clone()).unwrap_or_default();
    let of = (config.clone(), connect.clone());
    let opening = move || -> Result<_, Box<Diagnostic>> {
        let (config, connect) = of;
        let store = open_store(&config)?;
        let (engine, findings) = start_engine(&config, &store, connect, sync, beat)?;
        Ok((store, engine, findings))
    };
    // It may take minutes, in which probes are answered and signals are heard.
    let opening = move || hw_process::vital_work("opening the engine", opening);
    let opened = tokio::task::spawn_blocking(opening)
        .await
        .map_err(|_| Box::new(Diagnostic::error(code::ENGINE_START, "the server is stopping")))?;
    let (store, engine, findings) = opened?;
    if findings.iter().any(Diagnostic::is_error) {
        if engine.status().sync_version.is_none() {
            // Nothing older could serve instead.
            stop_engine(&engine).await;
            return Err(StartRefused { findings, text });
        }
        report::log(&findings, &text);
        tracing::warn!("the sync configuration is refused; the stored one serves on");
    }
    if config.sync_from_policies {
        match Follower::start(config, connect, engine.clone(), given.clone()).await {
            Ok(follower) => {
                hw_process::spawn("the follower of policies", follower.run(stop.clone()))
            }
            Err(why) => {
                stop_engine(&engine).await;
                return Err(why.into());
            }
        }
    }
    Ok((store, engine))
}

/// Starts the engine over its store.
///
/// - Returns: it, and what is wrong with the sync configuration.
fn start_engine(
    config: &Config,
    store: &Store,
    connect: ConnectConfig,
    sync: Option<SyncFile>,
    beat: Beat,
) -> Result<(Engine, Vec<Diagnostic>), Box<Diagnostic>> {
    let bytes = |value: u64| usize::try_from(value).unwrap_or(usize::MAX);
    let options = EngineOptions {
        driver: DriverOptions {
            instance: config.instance.clone(),
            publication: config.database.publication.clone(),
            copy_workers: config.limits.copy_workers,
            max_snapshot: config.limits.copy_snapshot,
            take_over: if config.take_over { TakeOver::Now } else { TakeOver::WhenGone },
            ..DriverOptions::new(connect.clone())
        },
        fold_bytes: bytes(config.limits.transaction_memory),
        sort_bytes: bytes(config.limits.sort_memory),
        queue_bytes: bytes(config.limits.queue_memory),
        definition_retention: config.limits.definition_retention,
        // Nothing is kept for nobody.
        change_list_bytes: match config.datasync.enabled {
            true => bytes(config.limits.change_memory),
            false => 0,
        },
        beat,
        ..EngineOptions::new(store.clone(), connect)
    };
    Engine::start(options, sync.map(|file| (file.name, file.text))).map_err(|error| {
        Box::new(error.finding().unwrap_or_else(|| {
            Diagnostic::error(code::ENGINE_START, format!("cannot open the engine: {error}"))
        }))
    })
}
