//! One seed, one run: a server process, clients behind a proxy, batches of transactions, faults;
//! after each batch every client equals SQL, and every state that a client ever showed was a
//! committed one, in order.

use std::collections::BTreeMap;
use std::net::SocketAddr;
use std::path::{Path, PathBuf};

use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use serde_json::{Map, Value};
use tokio::sync::watch;
use tokio::task::JoinSet;
use tokio_postgres::{Client, Statement};

use super::client::{Rows, SyncClient, fingerprint};
use super::plan::{Plan, User};
use super::traffic;
use crate::cluster::Cluster;
use crate::proxy::{Direction, Ending, FaultProxy};
use crate::server::{HeadwaterProcess, ProcessOptions};

/// Makes a token: subject and further claims.
pub type Issue = fn(&str, &Map<String, Value>) -> String;

/// What all runs share.
pub struct Oracle {
    /// The cluster; every run takes a database of its own in it.
    pub cluster: Cluster,
    /// The server's binary.
    pub binary: PathBuf,
    /// The secret that tokens are signed with.
    pub secret: String,
    /// Makes tokens.
    pub issue: Issue,
    /// A directory for stores.
    pub scratch: PathBuf,
    /// How much is done and what goes wrong meanwhile.
    pub knobs: Knobs,
}

/// How a run goes.
#[derive(Clone, Copy, Debug)]
pub struct Knobs {
    /// Batches of a run.
    pub batches: usize,
    /// Transactions of a batch.
    pub transactions: usize,
    /// The server is killed and started again within every so many batches; 0 for never.
    pub kill_every: usize,
    /// Clients lose everything behind every so many batches; 0 for never.
    pub forget_every: usize,
    /// How likely the clients' connections are cut behind a transaction.
    pub cut: f64,
}

impl Default for Knobs {
    fn default() -> Knobs {
        Knobs { batches: 3, transactions: 15, kill_every: 2, forget_every: 3, cut: 0.1 }
    }
}

/// A client and how far it has come in the timeline of its user.
struct Seat {
    user: usize,
    client: SyncClient,
    at: usize,
}

/// Runs one seed.
///
/// - Errors: what was wrong, with the sync configuration of the seed.
pub async fn run(oracle: &Oracle, seed: u64) -> Result<(), String> {
    let mut rng = StdRng::seed_from_u64(seed);
    let plan = Plan::new(&mut rng);
    let told = |what: String| format!("seed {seed}: {what}\n{}{}", plan.schema, plan.config);
    let database = oracle.cluster.create_database().await;
    let sql = oracle.cluster.client(&database.name).await;
    let dir = oracle.scratch.join(format!("seed-{seed}"));
    let outcome = {
        let mut run =
            Run::start(oracle, &plan, &mut rng, &database.url, &sql, &dir).await.map_err(&told)?;
        run.all(&mut rng).await.map_err(&told)
    };
    drop_database(&oracle.cluster, &sql, &database.name).await;
    let _ = std::fs::remove_dir_all(&dir);
    outcome
}

struct Run<'a> {
    oracle: &'a Oracle,
    plan: &'a Plan,
    sql: &'a Client,
    server: HeadwaterProcess,
    proxy: FaultProxy,
    seats: Vec<Seat>,
    /// Everything that all users must have, as one statement: user, table, id, row.
    question: Statement,
    /// Of each user, the fingerprints of the committed states.
    timelines: Vec<Vec<u64>>,
}

impl<'a> Run<'a> {
    async fn start(
        oracle: &'a Oracle,
        plan: &'a Plan,
        rng: &mut StdRng,
        url: &str,
        sql: &'a Client,
        dir: &Path,
    ) -> Result<Run<'a>, String> {
        std::fs::create_dir_all(dir).map_err(|error| error.to_string())?;
        std::fs::write(dir.join("sync.yaml"), &plan.config).map_err(|error| error.to_string())?;
        let bounds = "limits:\n  transaction_memory: 1 MB\n  sort_memory: 1 MB\n";
        std::fs::write(dir.join("headwater.yaml"), bounds).map_err(|error| error.to_string())?;
        let begin = format!("{}\n{}", plan.schema, traffic::seed_rows(rng, plan));
        sql.batch_execute(&begin).await.map_err(|error| explain(&error, &begin))?;
        let path = |name: &str| dir.join(name).display().to_string();
        let server = HeadwaterProcess::spawn(ProcessOptions {
            binary: oracle.binary.clone(),
            arguments: vec!["serve".into()],
            environment: vec![
                ("DATABASE_URL".into(), url.to_owned()),
                ("HEADWATER_CONFIG".into(), path("headwater.yaml")),
                ("HEADWATER_DATA_DIR".into(), path("data")),
                ("HEADWATER_SYNC_CONFIG".into(), path("sync.yaml")),
                ("HEADWATER_JWT_SECRET".into(), oracle.secret.clone()),
            ],
            allowed_log: Vec::new(),
        });
        let proxy = FaultProxy::start(&server.address().to_string()).await;
        let question = question(plan);
        let question = sql.prepare(&question).await.map_err(|e| explain(&e, &question))?;
        let mut run = Run {
            oracle,
            plan,
            sql,
            server,
            proxy,
            seats: Vec::new(),
            question,
            timelines: vec![Vec::new(); plan.users.len()],
        };
        run.note().await?;
        for user in 0..plan.users.len() {
            run.seats.push(run.seat(user, user, rng.random_bool(0.5)));
        }
        Ok(run)
    }

    fn seat(&self, user: usize, number: usize, gzip: bool) -> Seat {
        let User { name, claims, parameters, subscriptions, .. } = &self.plan.users[user];
        let token = (self.oracle.issue)(name, claims);
        let mut client = SyncClient::new(&token, &format!("client-{number}"));
        client.parameters = parameters.clone();
        client.subscriptions = subscriptions.clone();
        client.gzip = gzip;
        Seat { user, client, at: 0 }
    }

    async fn all(&mut self, rng: &mut StdRng) -> Result<(), String> {
        let knobs = self.oracle.knobs;
        for batch in 1..=knobs.batches {
            let every = |n: usize| n > 0 && batch % n == 0;
            let kill_at = every(knobs.kill_every).then(|| rng.random_range(0..knobs.transactions));
            self.batch(rng, kill_at).await.map_err(|what| format!("batch {batch}: {what}"))?;
            if every(knobs.forget_every) {
                for seat in &mut self.seats {
                    seat.client.forget();
                }
                let caught = self.settle(rng, None, 0).await;
                caught.map_err(|what| format!("batch {batch}, fresh clients: {what}"))?;
            }
        }
        self.server.kill();
        self.server.check_log();
        Ok(())
    }

    async fn batch(&mut self, rng: &mut StdRng, kill_at: Option<usize>) -> Result<(), String> {
        self.settle(rng, kill_at, self.oracle.knobs.transactions).await
    }

    /// Clients follow while transactions happen; then each comes to the barrier and is compared.
    async fn settle(
        &mut self,
        rng: &mut StdRng,
        kill_at: Option<usize>,
        transactions: usize,
    ) -> Result<(), String> {
        let address: SocketAddr = SocketAddr::from(([127, 0, 0, 1], self.proxy.port()));
        let mut following = JoinSet::new();
        let mut goals = Vec::new();
        for (number, mut seat) in self.seats.drain(..).enumerate() {
            let (goal, goal_seen) = watch::channel(None);
            goals.push(goal);
            following.spawn(async move {
                let followed = seat.client.follow_to(address, goal_seen).await;
                (number, seat, followed.map_err(|error| error.to_string()))
            });
        }
        self.traffic(rng, kill_at, transactions).await?;
        let direct = self.server.address();
        for (number, goal) in goals.iter().enumerate() {
            let User { name, claims, .. } = &self.plan.users[number];
            let token = (self.oracle.issue)(name, claims);
            let asker = SyncClient::new(&token, &format!("client-{number}"));
            let asked = crate::wait::within_limit("a write checkpoint", asker.barrier(direct));
            goal.send_replace(Some(asked.await.map_err(|error| error.to_string())?));
        }
        let mut seats = Vec::new();
        while let Some(joined) =
            crate::wait::within_limit("clients catch up", following.join_next()).await
        {
            let (number, seat, followed) = joined.map_err(|error| error.to_string())?;
            let who = &self.plan.users[number].name;
            followed.map_err(|what| format!("{who}: {what}"))?;
            seats.push((number, seat));
        }
        seats.sort_by_key(|(number, _)| *number);
        self.seats = seats.into_iter().map(|(_, seat)| seat).collect();
        self.compare().await
    }

    async fn traffic(
        &mut self,
        rng: &mut StdRng,
        kill_at: Option<usize>,
        transactions: usize,
    ) -> Result<(), String> {
        for number in 0..transactions {
            let body = match rng.random_bool(0.003) {
                true => traffic::large(rng, self.plan),
                false => traffic::transaction(rng, self.plan),
            };
            let end = if rng.random_bool(0.05) { "ROLLBACK" } else { "COMMIT" };
            let text = format!("BEGIN;\n{body};\n{end}");
            self.sql.batch_execute(&text).await.map_err(|error| explain(&error, &text))?;
            self.note().await?;
            if kill_at == Some(number) {
                self.server.kill();
                self.server.spawn_again();
            }
            if rng.random_bool(self.oracle.knobs.cut) {
                let ending = if rng.random_bool(0.5) { Ending::Reset } else { Ending::Close };
                match rng.random_bool(0.5) {
                    true => self.proxy.end_all(ending),
                    false => {
                        let bytes = rng.random_range(1..4000);
                        self.proxy.cut_after(Direction::ToClient, bytes, ending);
                    }
                }
            }
        }
        Ok(())
    }

    /// Notes the committed state of each user.
    async fn note(&mut self) -> Result<(), String> {
        for (user, rows) in self.expected().await?.iter().enumerate() {
            self.timelines[user].push(fingerprint(rows));
        }
        Ok(())
    }

    /// What SQL answers for each user.
    async fn expected(&self) -> Result<Vec<Rows>, String> {
        let mut all = vec![Rows::new(); self.plan.users.len()];
        let found = self.sql.query(&self.question, &[]).await;
        for row in found.map_err(|error| error.to_string())? {
            let json: String = row.get(3);
            let json = serde_json::from_str(&json).map_err(|error| error.to_string())?;
            let user: i32 = row.get(0);
            all[user as usize].insert((row.get(1), row.get(2)), json);
        }
        Ok(all)
    }

    async fn compare(&mut self) -> Result<(), String> {
        let expected = self.expected().await?;
        for seat in &mut self.seats {
            let user = seat.user;
            let who = &self.plan.users[user].name;
            difference(&expected[user], seat.client.rows())
                .map_err(|what| format!("{who}: {what}"))?;
            // P2, P4: each state that was shown is a committed one, and none goes back.
            let timeline = &self.timelines[user];
            for shown in seat.client.history.drain(..) {
                let found = timeline[seat.at..].iter().position(|state| *state == shown);
                let Some(found) = found else {
                    return Err(format!(
                        "{who} was shown a state that was not committed behind its last one \
                         ({} of {})",
                        seat.at,
                        timeline.len()
                    ));
                };
                seat.at += found;
            }
        }
        Ok(())
    }
}

/// One statement for all queries of all users.
fn question(plan: &Plan) -> String {
    let mut parts = Vec::new();
    for (number, user) in plan.users.iter().enumerate() {
        for (table, query) in plan.oracle(user) {
            parts.push(format!("SELECT {number}, '{table}', q.* FROM ({query}) q (id, row)"));
        }
    }
    match parts.is_empty() {
        true => "SELECT 0, '', '', '' WHERE false".into(),
        false => parts.join(" UNION ALL "),
    }
}

/// The first differences in words.
pub fn difference(expected: &Rows, got: &Rows) -> Result<(), String> {
    let mut lines = Vec::new();
    for (key, row) in expected {
        match got.get(key) {
            None => lines.push(format!("missing {key:?}: {row}")),
            Some(other) if other != row => {
                lines.push(format!("different {key:?}: {row} expected, got {other}"));
            }
            Some(_) => {}
        }
    }
    for (key, row) in got.iter().filter(|(key, _)| !expected.contains_key(*key)) {
        lines.push(format!("too much {key:?}: {row}"));
    }
    match lines.is_empty() {
        true => Ok(()),
        false => {
            let count = lines.len();
            lines.truncate(5);
            let lines: Vec<String> =
                lines.iter().map(|line| line.chars().take(400).collect()).collect();
            Err(format!("{count} differences from SQL:\n  {}", lines.join("\n  ")))
        }
    }
}

fn explain(error: &tokio_postgres::Error, text: &str) -> String {
    format!("{error}: {:?} in\n{text}", error.as_db_error().map(ToString::to_string))
}

/// Frees the slot and the database of a run that is over.
async fn drop_database(cluster: &Cluster, sql: &Client, name: &str) {
    crate::poll_until("the slots of a finished run are dropped", || async {
        let drop = "SELECT pg_drop_replication_slot(slot_name) FROM pg_replication_slots
                    WHERE database = current_database() AND NOT active";
        let left = "SELECT FROM pg_replication_slots WHERE database = current_database()";
        let _ = sql.execute(drop, &[]).await;
        sql.query(left, &[]).await.is_ok_and(|rows| rows.is_empty()).then_some(())
    })
    .await;
    let admin = cluster.client("postgres").await;
    let _ = admin.batch_execute(&format!("DROP DATABASE {name} WITH (FORCE)")).await;
}

/// Counts of what generated plans contain, so that a test can say that rare forms are reached.
pub fn census(seeds: std::ops::Range<u64>) -> BTreeMap<&'static str, usize> {
    let forms = [
        "SELECT grp FROM",
        "SELECT grp AS p",
        "auth.parameter('teams')",
        "subscription.parameter",
        "connection.parameter",
        "request.parameters",
        " OR ",
        "NOT (",
        "priority: 0",
        " AS label",
    ];
    let mut counts = BTreeMap::new();
    for seed in seeds {
        let plan = Plan::new(&mut StdRng::seed_from_u64(seed));
        for form in forms {
            *counts.entry(form).or_default() += usize::from(plan.config.contains(form));
        }
    }
    counts
}
