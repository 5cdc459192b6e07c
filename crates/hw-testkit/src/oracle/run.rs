//! One plan, one run: a server process between two proxies, connections that write, clients that
//! follow. Whenever all is settled every client equals SQL, and every state that a client ever showed
//! was a committed one, in order. Here is what is done; what it is compared with is in `compare`.

mod compare;

use std::collections::BTreeSet;
use std::future::Future;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::task::{JoinHandle, JoinSet};
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, Statement};

use super::client::SyncClient;
use super::committed::{Committed, Place, first_key};
use super::definitions::FLOOD;
use super::follower::Follower;
use super::plan::{Plan, Step};
use super::savepoints::Savepoints;
use super::sessions::{Executed, Sessions};
use super::world::Catalog;
use crate::cluster::{Cluster, Stop};
use crate::disk::{FaultyDisk, SmallDisk, fill};
use crate::proxy::{Direction, Ending, Fault, FaultProxy};
use crate::server::{HeadwaterProcess, OPERATOR, ProcessOptions, http_get, is_listening};

pub use compare::difference;

/// How long something may take that takes a second or two: what is wrong then is a failure.
pub(super) const BOUND: Duration = Duration::from_secs(30);

/// How often a statement that changes what tables are is tried while somebody has a lock.
pub(super) const TRIES: usize = 20;

/// Makes a token: subject and further claims.
pub type Issue = fn(&str, &Map<String, Value>) -> String;

/// What all runs share.
pub struct Oracle {
    /// The cluster; every run takes a database of its own in it.
    pub cluster: Arc<Cluster>,
    /// Makes another one, for a run that stops it.
    pub another: fn() -> Cluster,
    /// The server's binary.
    pub binary: PathBuf,
    /// The secret that tokens are signed with.
    pub secret: String,
    /// Makes tokens.
    pub issue: Issue,
    /// A directory for stores.
    pub scratch: PathBuf,
}

/// Where a run takes place.
pub(super) struct Home {
    /// The database, and how to connect to it.
    pub name: String,
    pub url: String,
    /// A directory of its own.
    pub dir: PathBuf,
}

/// Gives a run a database and a directory of its own, and takes both away behind it.
///
/// - Takes: whether it needs a cluster of its own, too.
/// - Errors: what was wrong.
pub(super) async fn isolated<W, F>(oracle: &Arc<Oracle>, wild: bool, work: W) -> Result<(), String>
where
    W: FnOnce(Arc<Oracle>, Arc<Cluster>, Home) -> F + Send + 'static,
    F: Future<Output = Result<(), String>> + Send,
{
    // On a task of its own: a panic anywhere below is a failure of this run alone.
    let oracle = Arc::clone(oracle);
    let running = tokio::spawn(async move {
        let cluster = match wild {
            true => Arc::new((oracle.another)()),
            false => Arc::clone(&oracle.cluster),
        };
        let database = cluster.create_database().await;
        let dir = tempfile::tempdir_in(&oracle.scratch).expect("a directory");
        let (name, url) = (database.name.clone(), database.url.clone());
        let home = Home { name, url, dir: dir.path().to_path_buf() };
        let outcome = work(oracle, Arc::clone(&cluster), home).await;
        if !wild {
            drop_database(&cluster, &database.name).await;
        }
        outcome
    });
    running.await.unwrap_or_else(|error| Err(format!("the run panicked: {error}")))
}

/// Runs one plan with clients of the sync surface.
///
/// - Errors: what was wrong.
pub async fn run(oracle: &Arc<Oracle>, plan: &Plan) -> Result<(), String> {
    let plan = plan.clone();
    isolated(oracle, plan.wild, |oracle, cluster, home| async move {
        let Home { name, url, dir } = &home;
        let started = Run::start(&oracle, &plan, cluster, url, name, dir);
        let mut run: Run<'_, SyncClient> = started.await?;
        let ran = match run.all().await {
            Ok(()) => run.end(),
            Err(what) => Err(format!("{what}\n{}", run.report().await)),
        };
        run.server.kill();
        ran
    })
    .await
}

/// A client and how far it has come.
struct Seat<F> {
    user: usize,
    client: F,
    place: Place,
}

struct Run<'a, F> {
    oracle: &'a Oracle,
    plan: &'a Plan,
    cluster: Arc<Cluster>,
    database: &'a str,
    dir: &'a Path,
    observer: Client,
    changer: Client,
    sessions: Sessions,
    savepoints: Savepoints,
    writers: Vec<JoinHandle<()>>,
    server: HeadwaterProcess,
    /// Between clients and server, and between server and Postgres.
    clients: FaultProxy,
    source: FaultProxy,
    small_disk: Option<SmallDisk>,
    faulty_disk: Option<FaultyDisk>,
    data: PathBuf,
    following: JoinSet<(Seat<F>, Result<(), String>)>,
    goals: Vec<watch::Sender<Option<u64>>>,
    seats: Vec<Seat<F>>,
    catalog: Catalog,
    /// Everything that all users must have: user, definition, table, id, row.
    question: Option<Statement>,
    committed: Committed,
    /// Whether the last statement that changes what tables are was executed.
    altered: bool,
    /// When that was that changed them last since all was settled.
    altered_at: Option<Instant>,
    /// Whether connections to Postgres carry nothing.
    is_half_open: bool,
    config: usize,
}

impl<'a, F: Follower> Run<'a, F> {
    async fn start(
        oracle: &'a Oracle,
        plan: &'a Plan,
        cluster: Arc<Cluster>,
        url: &str,
        database: &'a str,
        dir: &'a Path,
    ) -> Result<Run<'a, F>, String> {
        let bounds = "limits:\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n";
        std::fs::write(dir.join("headwater.yaml"), bounds).map_err(|error| error.to_string())?;
        std::fs::write(dir.join("sync.yaml"), plan.configs[0].text(0))
            .map_err(|e| e.to_string())?;
        let observer = cluster.client(database).await;
        for text in [&plan.world.schema, &plan.rows] {
            observer.batch_execute(text).await.map_err(|error| explain(&error, text))?;
        }
        let has = |is: fn(&Step) -> bool| plan.steps.iter().any(is);
        let small_disk = match has(|step| matches!(step, Step::FillDisk)) {
            true => SmallDisk::mount(96),
            false => None,
        };
        let data = small_disk.as_ref().map_or(dir.join("data"), |disk| disk.path("data"));
        let faulty_disk = has(|s| matches!(s, Step::DiskError { .. } | Step::SlowDisk { .. }))
            .then(|| FaultyDisk::new(&data));
        let source = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
        let path = |name: &str| dir.join(name).display().to_string();
        let mut environment = vec![
            (
                "DATABASE_URL".into(),
                url.replace(&cluster.port().to_string(), &source.port().to_string()),
            ),
            ("HEADWATER_CONFIG".into(), path("headwater.yaml")),
            ("HEADWATER_DATA_DIR".into(), data.display().to_string()),
            ("HEADWATER_SYNC_CONFIG".into(), path("sync.yaml")),
            ("HEADWATER_JWT_SECRET".into(), oracle.secret.clone()),
        ];
        environment.extend(faulty_disk.iter().flat_map(FaultyDisk::environment));
        let quiet =
            plan.steps.iter().all(Step::is_quiet) && !Savepoints::any(&plan.steps, &plan.world);
        let server = HeadwaterProcess::spawn(ProcessOptions {
            binary: oracle.binary.clone(),
            arguments: vec!["serve".into()],
            environment,
            // A panic is never in order. Uploads are not set up here, and what clients send selects.
            allowed_log: match quiet {
                true => vec!["HW4301".into(), "HW1215".into()],
                false => vec!["WARN".into(), "ERROR".into()],
            },
        });
        let clients = FaultProxy::start(&server.address().to_string()).await;
        let users = plan.world.users.len();
        let mut run = Run {
            oracle,
            plan,
            changer: cluster.client(database).await,
            sessions: Sessions::connect(&cluster, database).await,
            cluster,
            database,
            dir,
            observer,
            savepoints: Savepoints::default(),
            writers: Vec::new(),
            server,
            clients,
            source,
            small_disk,
            faulty_disk,
            data,
            following: JoinSet::new(),
            goals: Vec::new(),
            seats: Vec::new(),
            catalog: Catalog::new(),
            question: None,
            committed: Committed {
                states: vec![Vec::new(); users],
                configs: vec![(0, names(plan, 0))],
                ..Committed::default()
            },
            altered: false,
            altered_at: None,
            is_half_open: false,
            config: 0,
        };
        run.connect().await;
        run.look().await?;
        run.note().await?;
        for (number, user) in plan.world.users.iter().enumerate() {
            let token = (oracle.issue)(&user.name, &user.claims);
            let mut client = F::new(user, &token, number);
            if has(|step| matches!(step, Step::OldStore { .. })) {
                client.accept_anew();
            }
            run.seats.push(Seat { user: number, client, place: Place::default() });
        }
        run.follow();
        Ok(run)
    }

    /// (Re)connects everything to Postgres.
    async fn connect(&mut self) {
        self.observer = self.cluster.client(self.database).await;
        self.changer = self.cluster.client(self.database).await;
        let _ = self.changer.batch_execute("SET lock_timeout = '300ms'").await;
        self.sessions = Sessions::connect(&self.cluster, self.database).await;
        self.question = None;
    }

    async fn all(&mut self) -> Result<(), String> {
        for (number, step) in self.plan.steps.iter().enumerate() {
            self.step(step).await.map_err(|what| {
                format!("step {number} of {}, {step:?}: {what}", self.plan.steps.len())
            })?;
        }
        Ok(())
    }

    fn end(&mut self) -> Result<(), String> {
        self.server.kill();
        self.server.check_log();
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Sql { on, text } => return self.sql(*on, text).await,
            Step::Ddl { text, touches } => return self.ddl(text, touches).await,
            Step::Pour { rows } => self.pour(*rows).await,
            Step::Named { table } => {
                // Nobody misses a table that is there, or that no definition reads.
                let reads = self.plan.configs[self.config].reads();
                let is_read = table.strip_prefix("public.").is_some_and(|t| reads.contains(t));
                if !self.altered || !is_read {
                    return Ok(());
                }
                // A copy under way waits for them, and who hears nothing of the source or cannot write
                // names something else.
                self.sessions.roll_back().await;
                self.heal_source();
                self.free_disk();
                let is = |status: &Value| is_named(status, table);
                return self.until(&format!("the status names {table}"), is).await;
            }
            Step::Configure { to } => return self.configure(*to).await,
            Step::Kill => {
                self.server.kill();
                self.server.spawn_again();
            }
            Step::DropSlot => {
                self.server.kill();
                drop_slots(&self.observer).await?;
                self.server.spawn_again();
            }
            Step::PostgresCrash => {
                self.stop_writers().await;
                self.cluster.stop(Stop::Immediate);
                self.cluster.start_again();
                self.connect().await;
                self.look().await?;
                self.note().await?;
            }
            Step::CutClients { after, reset } => cut(&self.clients, *after, *reset),
            Step::CutSource { after, reset } => cut(&self.source, *after, *reset),
            Step::HalfOpenSource => {
                self.source.half_open();
                self.is_half_open = true;
            }
            Step::SlowSource { kilobytes } => {
                let slow = Fault { bytes_per_second: Some(kilobytes << 10), ..Fault::default() };
                self.source.set(Direction::ToClient, slow);
            }
            Step::HealSource => self.heal_source(),
            Step::FillDisk => {
                if let Some(disk) = &self.small_disk {
                    fill(&disk.path("ballast"), 16 << 10);
                }
            }
            Step::FreeDisk => self.free_disk(),
            Step::DiskError { call, errno } => {
                if let Some(disk) = &self.faulty_disk {
                    disk.fail_call(*call, *errno);
                }
            }
            Step::SlowDisk { milliseconds } => {
                if let Some(disk) = &self.faulty_disk {
                    disk.slow_syncs(*milliseconds);
                }
            }
            Step::SaveStore | Step::OldStore { .. } => {
                if *step != (Step::OldStore { confirmed: false }) {
                    // One from before its first copy would be the store of somebody else.
                    self.heal_source();
                    self.free_disk();
                    self.until_it_listens().await?;
                    self.sessions.roll_back().await;
                    self.until("it streams", |status| status["state"] == "streaming").await?;
                }
                if *step == (Step::OldStore { confirmed: true }) {
                    self.until_confirmed().await?;
                }
                self.server.kill();
                let old = self.dir.join("old");
                match step {
                    Step::SaveStore => copy(&self.data, &old)?,
                    _ if old.exists() => copy(&old, &self.data)?,
                    _ => {}
                }
                self.server.spawn_again();
            }
            Step::SecondServer => return self.second_server().await,
            Step::SaveImage | Step::OldImage => {
                self.stop_writers().await;
                self.server.kill();
                self.cluster.stop(Stop::Fast);
                let (data, image) = (self.cluster.data_dir(), self.dir.join("image"));
                match step {
                    Step::SaveImage => copy(&data, &image)?,
                    _ if image.exists() => copy(&image, &data)?,
                    _ => {}
                }
                self.cluster.start_again();
                self.connect().await;
                self.look().await?;
                self.note().await?;
                self.server.spawn_again();
            }
            Step::Forget => {
                for seat in self.take_seats(None).await? {
                    seat.client.forget();
                }
            }
            Step::Settle => return self.settle().await,
        }
        Ok(())
    }

    async fn sql(&mut self, on: usize, text: &str) -> Result<(), String> {
        if !self.sessions.expects(on, text) {
            return Ok(());
        }
        let emptied = self.savepoints.follow(on, text, &self.plan.world);
        if !emptied.is_empty() {
            self.loosen(&emptied);
            self.altered_at = Some(Instant::now());
        }
        if self.sessions.execute(on, text).await? == Executed::Committed {
            // Before it, nobody could see what it altered.
            self.altered_at = self.altered_at.map(|_| Instant::now());
            self.note().await?;
        }
        Ok(())
    }

    async fn ddl(&mut self, text: &str, touches: &[String]) -> Result<(), String> {
        self.loosen(touches);
        self.sessions.give_way(None).await;
        self.altered = false;
        for _ in 0..TRIES {
            let Err(error) = self.changer.batch_execute(text).await else {
                self.altered = true;
                self.altered_at = Some(Instant::now());
                break;
            };
            let _ = self.changer.batch_execute("ROLLBACK").await;
            if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
                // A table that is away, or a plan that was made smaller.
                break;
            }
            // What was begun must come to its end, so others who have the lock end.
            self.sessions.roll_back().await;
        }
        self.look().await?;
        self.note().await
    }

    /// Notes which definitions may lag behind the others because of changed tables: those that read
    /// one, and those that share permissions with them, because these stand still together.
    fn loosen(&mut self, touches: &[String]) {
        let Committed { loose, blind, .. } = &mut self.committed;
        let is_membership = |t: &&String| self.plan.world.memberships.iter().any(|m| m.name == **t);
        let definitions = || self.plan.configs.iter().flat_map(|config| &config.definitions);
        let touched = definitions().filter(|d| touches.iter().any(|table| d.reads.contains(table)));
        loose.extend(touched.map(|definition| definition.name.clone()));
        if touches.iter().any(|table| table == FLOOD) {
            loose.insert(FLOOD.into());
        }
        loop {
            let of_loose = definitions().filter(|definition| loose.contains(&definition.name));
            let shared: BTreeSet<&String> =
                of_loose.flat_map(|d| d.reads.iter().filter(is_membership)).collect();
            let sharing = definitions().filter(|d| d.reads.iter().any(|t| shared.contains(t)));
            let sharing: BTreeSet<String> = sharing.map(|d| d.name.clone()).collect();
            let before = loose.len();
            loose.extend(sharing.iter().cloned());
            if loose.len() == before {
                return blind.extend(sharing);
            }
        }
    }

    /// The disk of the store has room.
    fn free_disk(&self) {
        if let Some(disk) = &self.small_disk {
            let _ = std::fs::remove_file(disk.path("ballast"));
        }
    }

    /// The way to the source is as it should be. Connections that lost bytes end, as behind a router
    /// that is back: that silence ends them by itself takes a minute, and has tests of its own (FD-29).
    fn heal_source(&mut self) {
        self.source.heal();
        if std::mem::take(&mut self.is_half_open) {
            self.source.end_all(Ending::Reset);
        }
    }

    async fn pour(&mut self, rows: usize) {
        self.stop_writers().await;
        for writer in 0..2 {
            let connection = self.cluster.client(self.database).await;
            let first = first_key(writer) + self.committed.poured[writer] as i64;
            self.committed.poured[writer] += rows;
            self.writers.push(tokio::spawn(async move {
                let call = format!("CALL pour({first}, {rows})");
                let _ = connection.batch_execute(&call).await;
            }));
        }
    }

    /// Waits for the writers.
    async fn stop_writers(&mut self) {
        for writer in self.writers.drain(..) {
            let _ = writer.await;
        }
    }

    async fn configure(&mut self, to: usize) -> Result<(), String> {
        let text = self.plan.configs[to].text(to);
        std::fs::write(self.dir.join("sync.yaml"), text).expect("written");
        self.config = to;
        self.committed.configs.push((to, names(self.plan, to)));
        // A process that has only begun has no ear for the signal yet, and would end of it.
        self.until_it_listens().await?;
        self.server.signal(libc::SIGHUP);
        Ok(())
    }

    /// As a supervisor does: a server that has ended, because a call failed, begins again.
    fn supervise(&mut self) {
        if self.server.has_ended() {
            self.server.kill();
            self.server.spawn_again();
        }
    }

    async fn until_it_listens(&mut self) -> Result<(), String> {
        bounded("the server listens", async {
            while !is_listening(self.server.address()) {
                self.supervise();
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    async fn second_server(&mut self) -> Result<(), String> {
        // Only who has the slot can keep it.
        self.heal_source();
        self.free_disk();
        self.until_it_listens().await?;
        self.sessions.roll_back().await;
        // A session that meets another publication lets the slot go for a moment.
        self.until_it_knows().await?;
        self.until("it streams", |status| status["state"] == "streaming").await?;
        let path = |name: &str| self.dir.join(name).display().to_string();
        let environment = vec![
            ("DATABASE_URL".into(), self.cluster.url(self.database)),
            ("HEADWATER_DATA_DIR".into(), path("second")),
            ("HEADWATER_SYNC_CONFIG".into(), path("sync.yaml")),
            ("HEADWATER_JWT_SECRET".into(), self.oracle.secret.clone()),
        ];
        let mut second = HeadwaterProcess::spawn(ProcessOptions {
            binary: self.oracle.binary.clone(),
            // One that is not told to take over waits for minutes, whoever has the slot.
            arguments: vec!["serve".into(), "--take-over".into()],
            environment,
            allowed_log: vec!["WARN".into(), "ERROR".into()],
        });
        let address = second.address();
        let waited = bounded("the second server waits", async {
            while status(address).await.is_none_or(|status| status["state"] != "waiting") {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        });
        let waited = waited.await;
        second.kill();
        waited
    }

    /// Waits until the server's report satisfies a condition.
    async fn until(&mut self, what: &str, is: impl Fn(&Value) -> bool) -> Result<(), String> {
        let address = self.server.address();
        bounded(what, async {
            while status(address).await.is_none_or(|status| !is(&status)) {
                self.supervise();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Waits until the source was told that everything committed before is kept.
    async fn until_confirmed(&self) -> Result<(), String> {
        const MARK: &str = "SELECT pg_logical_emit_message(true, 'oracle', '')";
        const CONFIRMED: &str =
            "SELECT bool_and(confirmed_flush_lsn > $1) FROM pg_replication_slots
                                 WHERE database = current_database() AND NOT temporary";
        let observer = &self.observer;
        let place = observer.query_one(MARK, &[]).await.map_err(|e| e.to_string())?;
        let place: tokio_postgres::types::PgLsn = place.get(0);
        bounded("the source knows that it is kept", async {
            loop {
                let row = observer.query_one(CONFIRMED, &[&place]).await;
                if row.is_ok_and(|row| row.get::<_, Option<bool>>(0) == Some(true)) {
                    return;
                }
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// Waits until the server has looked at what tables are since they were changed. All may be right
    /// before that; a table that it then copies again would lag behind what was settled.
    async fn until_it_knows(&mut self) -> Result<(), String> {
        let Some(altered_at) = self.altered_at else { return Ok(()) };
        let address = self.server.address();
        bounded_for("the server has looked at the altered tables", BOUND * 2, async {
            loop {
                let asked = altered_at.elapsed().as_secs_f64();
                // Its report is of a moment behind the question.
                let report = status(address).await.unwrap_or_default();
                if report["source"]["catalog_seconds"].as_f64().is_some_and(|ago| ago < asked) {
                    return;
                }
                self.supervise();
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        })
        .await
    }

    /// All clients follow from now on.
    fn follow(&mut self) {
        let address = SocketAddr::from(([127, 0, 0, 1], self.clients.port()));
        for mut seat in self.seats.drain(..) {
            let (goal, seen) = watch::channel(None);
            self.goals.push(goal);
            self.following.spawn(async move {
                let followed = seat.client.follow_to(address, seen).await;
                (seat, followed)
            });
        }
    }

    /// Calls all clients back; with a position they come to it first.
    async fn take_seats(&mut self, goals: Option<&[u64]>) -> Result<&mut Vec<Seat<F>>, String> {
        // Without a sender there is nowhere to follow to, which ends it.
        let mut senders = std::mem::take(&mut self.goals);
        match goals {
            None => senders.clear(),
            Some(goals) => {
                for (sender, goal) in senders.iter().zip(goals) {
                    sender.send_replace(Some(*goal));
                }
            }
        }
        let following = &mut self.following;
        let seats = &mut self.seats;
        let joined = bounded_for("clients catch up", BOUND * 2, async {
            while let Some(joined) = following.join_next().await {
                let (seat, followed) = joined.map_err(|error| error.to_string())?;
                let user = seat.user;
                seats.push(seat);
                followed.map_err(|what| format!("user {user}: {what}"))?;
            }
            Ok::<(), String>(())
        });
        joined.await??;
        drop(senders);
        self.seats.sort_by_key(|seat| seat.user);
        Ok(&mut self.seats)
    }

    /// Status and the end of the log, for a failure.
    async fn report(&self) -> String {
        let status = status(self.server.address()).await.unwrap_or_default();
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().filter(|line| !line.contains("Sync stream")).collect();
        let lines = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("state {}, trouble {}\n{lines}", status["state"], status["trouble"])
    }
}

impl Step {
    /// Whether the server has nothing to complain about.
    fn is_quiet(&self) -> bool {
        matches!(
            self,
            Step::Sql { .. }
                | Step::Pour { .. }
                | Step::Kill
                | Step::CutClients { .. }
                | Step::Forget
                | Step::Settle
        )
    }
}

fn names(plan: &Plan, config: usize) -> BTreeSet<String> {
    plan.configs[config].definitions.iter().map(|definition| definition.name.clone()).collect()
}

fn is_named(status: &Value, table: &str) -> bool {
    let mut said = status.clone();
    // A copy names its table, too, and is no complaint.
    said["copies"] = Value::Null;
    !status["trouble"].is_null() && said.to_string().contains(table)
}

pub(super) async fn status(server: SocketAddr) -> Option<Value> {
    let answer = http_get(server, "/admin/api/status", &OPERATOR).await.ok()?;
    serde_json::from_str(&answer.body).ok()
}

pub(super) async fn bounded<T>(what: &str, work: impl Future<Output = T>) -> Result<T, String> {
    bounded_for(what, BOUND, work).await
}

async fn bounded_for<T>(
    what: &str,
    limit: Duration,
    work: impl Future<Output = T>,
) -> Result<T, String> {
    let done = tokio::time::timeout(limit, work).await;
    done.map_err(|_| format!("waited {} s in vain until {what}", limit.as_secs()))
}

pub(super) fn cut(proxy: &FaultProxy, after: Option<u64>, reset: bool) {
    let ending = if reset { Ending::Reset } else { Ending::Close };
    match after {
        None => proxy.end_all(ending),
        Some(bytes) => proxy.cut_after(Direction::ToClient, bytes, ending),
    }
}

/// Copies a directory with owners and times.
fn copy(from: &Path, to: &Path) -> Result<(), String> {
    let _ = std::fs::remove_dir_all(to);
    let copied = Command::new("cp").arg("-a").arg(from).arg(to).status();
    match copied.is_ok_and(|status| status.success()) {
        true => Ok(()),
        false => Err(format!("copy of {} failed", from.display())),
    }
}

pub(super) fn explain(error: &tokio_postgres::Error, text: &str) -> String {
    format!("{error}: {:?} in\n{text}", error.as_db_error().map(ToString::to_string))
}

/// Drops the slots of a database, and ends who still uses them: the server's side of a silent
/// connection learns that the other one is gone after a minute only.
pub(super) async fn drop_slots(sql: &Client) -> Result<(), String> {
    bounded("the slots are dropped", async {
        let end = "SELECT pg_terminate_backend(active_pid) FROM pg_replication_slots
                   WHERE database = current_database() AND active";
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                    WHERE database = current_database() AND NOT active";
        let left = "SELECT FROM pg_replication_slots WHERE database = current_database()";
        loop {
            let _ = sql.execute(end, &[]).await;
            let _ = sql.execute(drop, &[]).await;
            if sql.query(left, &[]).await.is_ok_and(|rows| rows.is_empty()) {
                return;
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    })
    .await
}

/// Frees the slot and the database of a run that is over.
async fn drop_database(cluster: &Cluster, name: &str) {
    let sql = cluster.client(name).await;
    let _ = drop_slots(&sql).await;
    drop(sql);
    let admin = cluster.client("postgres").await;
    let _ = admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
}
