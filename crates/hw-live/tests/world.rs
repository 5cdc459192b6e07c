//! A database with row level security, the engine over it, and followers of results.

use hw_engine::{Engine, EngineOptions};
use hw_live::{
    Change, First, FirstRows, Groups, Key, Live, LiveOptions, LiveQuery, Matcher, Record, Room,
    Subscription, Wants,
};
use hw_pg::config::ConnectConfig;
use hw_pg::principal::run_as;
use hw_pg::sql::Pool;
use hw_store::{Store, StoreOptions};
use hw_testkit::Cluster;
use hw_types::{Row, RunAs, Sql, TableName};
use parking_lot::Mutex;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::time::Duration;
use tokio::task::JoinHandle;
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

/// No test waits longer.
pub const LIMIT: Duration = Duration::from_secs(60);

/// The role that users are.
pub const ROLE: &str = "app";

pub struct World {
    cluster: Cluster,
    pub client: Client,
    pub engine: Engine,
    pub live: Live,
    stop: CancellationToken,
    _dir: tempfile::TempDir,
}

impl World {
    /// Starts everything over a schema that a superuser makes.
    pub async fn new(schema: &str) -> World {
        let cluster = Cluster::start();
        let client = cluster.client("postgres").await;
        client.batch_execute(&format!("CREATE ROLE {ROLE} NOLOGIN")).await.unwrap();
        client.batch_execute(schema).await.unwrap();
        let dir = tempfile::tempdir().unwrap();
        let mut options = StoreOptions::new(dir.path().join("store"));
        options.memtable_bytes = 8 << 20;
        let store = Store::open(&options).unwrap();
        let (connection, _) = ConnectConfig::parse(&cluster.url("postgres")).unwrap();
        let mut options = EngineOptions::new(store, connection);
        options.change_list_bytes = 16 << 20;
        let (engine, _) = Engine::start(options, None).unwrap();
        let stop = CancellationToken::new();
        let live = start(&engine, &cluster, audited(100), &stop);
        World { cluster, client, engine, live, stop, _dir: dir }
    }

    /// Somebody else who keeps results over the same engine.
    pub fn live_beside(&self, options: LiveOptions) -> Live {
        start(&self.engine, &self.cluster, options, &self.stop)
    }

    /// Lets commits wait for a standby that there is not, or no more.
    pub async fn commits_wait(&self, wait: bool) {
        let name = if wait { "nobody" } else { "" };
        self.cluster.configure(&[("synchronous_standby_names", name)]);
        let is_set = "SELECT current_setting('synchronous_standby_names') = $1";
        while !self.client.query_one(is_set, &[&name]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// Waits until somebody who asks waits for an advisory lock.
    pub async fn is_waiting_for_lock(&self) {
        let count = "SELECT count(*) > 0 FROM pg_locks WHERE locktype = 'advisory' AND NOT granted";
        while !self.client.query_one(count, &[]).await.unwrap().get::<_, bool>(0) {
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn sql(&self, sql: &str) {
        self.client.batch_execute(sql).await.unwrap_or_else(|error| panic!("{sql}: {error}"));
    }

    pub async fn follow(&self, query: LiveQuery, who: &Arc<RunAs>) -> Follower {
        self.follow_in(&self.live, query, who).await
    }

    pub async fn follow_in(&self, live: &Live, query: LiveQuery, who: &Arc<RunAs>) -> Follower {
        let (first, subscription) =
            live.subscribe(query.clone(), who.clone(), unbounded()).await.unwrap();
        Follower::new(query, who.clone(), first, subscription)
    }

    /// What Postgres shows whoever asks.
    pub async fn asked(&mut self, query: &LiveQuery, who: &RunAs) -> BTreeMap<String, String> {
        self.try_asked(query, who).await.unwrap()
    }

    async fn try_asked(
        &mut self,
        query: &LiveQuery,
        who: &RunAs,
    ) -> Result<BTreeMap<String, String>, tokio_postgres::Error> {
        let transaction = self.client.transaction().await?;
        // What was planned for somebody else would hold.
        transaction.batch_execute("DISCARD PLANS; SET LOCAL TimeZone = 'UTC'").await?;
        run_as(&transaction, who).await.unwrap();
        let parameters: Vec<&(dyn tokio_postgres::types::ToSql + Sync)> =
            query.rows.parameters.iter().map(|text| text as _).collect();
        let rows = transaction.query(&query.rows.text, &parameters).await;
        transaction.rollback().await?;
        let (offset, limit) =
            query.window.as_ref().map_or((0, usize::MAX), |first| (first.offset, first.limit));
        let rows = rows?;
        let rows = rows.iter().skip(offset).take(limit);
        Ok(rows.map(|row| (row.get(0), row.get(1))).collect())
    }

    /// Waits until a follower holds what Postgres shows.
    pub async fn settles(&mut self, follower: &Follower) {
        let end = tokio::time::Instant::now() + LIMIT;
        loop {
            let expected = self.asked(&follower.query, &follower.who).await;
            let held = follower.held();
            if held.rows == expected {
                return;
            }
            if tokio::time::Instant::now() > end {
                let subject = &follower.who.subject;
                panic!(
                    "{subject} does not hold what Postgres shows for {}:\nheld {held:#?}\nPostgres {expected:#?}",
                    follower.query.rows.text
                );
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    /// The same for those that lost access to tables; one of them may have ended instead.
    pub async fn settles_or_ends(&mut self, followers: &mut [Follower], lost: &[&str]) {
        for follower in followers {
            if !lost.contains(&&*follower.query.table.name) {
                continue;
            }
            let end = tokio::time::Instant::now() + LIMIT;
            loop {
                let held = follower.held();
                if held.ended.is_some() {
                    assert!(held.rows.is_empty(), "what ends takes its rows with it");
                    break;
                }
                let expected = self.try_asked(&follower.query, &follower.who).await;
                if expected.is_ok_and(|expected| expected == held.rows) {
                    break;
                }
                assert!(tokio::time::Instant::now() < end, "{} stays", follower.query.table);
                tokio::time::sleep(Duration::from_millis(5)).await;
            }
        }
    }

    /// Locks the advisory lock for which questions of some tests wait, until the session ends it.
    pub async fn lock(&self) -> Client {
        let client = self.client_of("postgres").await;
        client.batch_execute("SELECT pg_advisory_lock(1)").await.unwrap();
        client
    }

    /// The rows of a table that is followed.
    pub fn rows(&self, table: &str) -> Option<Vec<Row>> {
        let published = self.engine.published();
        let view = published.table(&TableName::new("public", table)).entered()?;
        Some(view.rows().map(|row| row.unwrap().1.row).collect())
    }

    /// Another session.
    pub async fn client_of(&self, user: &str) -> Client {
        hw_testkit::cluster::connect(&self.cluster.url_as(user, None, "postgres")).await
    }

    /// Ends the sessions in which live results are asked.
    pub async fn cut_sessions(&self) {
        let cut = "SELECT count(pg_terminate_backend(pid)) FROM pg_stat_activity \
                   WHERE application_name = 'live' AND pid <> pg_backend_pid()";
        self.client.query(cut, &[]).await.unwrap();
    }

    /// Whatever happened, plans were never accused.
    pub async fn end(self) {
        let audits = self.live.audits();
        eprintln!("{audits:?}");
        assert_eq!(audits.differed, 0, "{:?}", self.live.disagreements());
        self.stop.cancel();
        self.engine.stop().await;
    }
}

/// Results are compared with what Postgres shows all the time, so many milliseconds behind each other.
pub fn audited(pause: u64) -> LiveOptions {
    LiveOptions {
        audit_pause: Duration::from_millis(pause),
        audit_times: 0,
        ..LiveOptions::default()
    }
}

fn start(
    engine: &Engine,
    cluster: &Cluster,
    options: LiveOptions,
    stop: &CancellationToken,
) -> Live {
    let (connection, _) = ConnectConfig::parse(&cluster.url("postgres")).unwrap();
    let asking = connection.with_application_name("live").for_users();
    let pool = Pool::new(asking, Live::CONNECTIONS, Duration::from_secs(5));
    Live::start(engine.clone(), pool, options, stop.clone())
}

/// Room for everything.
pub fn unbounded() -> Room {
    Box::new(|_| true)
}

/// Memory that results share.
pub struct Budget(Arc<Mutex<Bytes>>);

struct Bytes {
    limit: usize,
    used: usize,
}

/// What one of them has of it.
struct Share(Arc<Mutex<Bytes>>, usize);

impl Budget {
    pub fn new(limit: usize) -> Budget {
        Budget(Arc::new(Mutex::new(Bytes { limit, used: 0 })))
    }

    pub fn limit(&self, limit: usize) {
        self.0.lock().limit = limit;
    }

    pub fn used(&self) -> usize {
        self.0.lock().used
    }

    /// Room for one more.
    pub fn room(&self) -> Room {
        let mut share = Share(self.0.clone(), 0);
        Box::new(move |bytes| {
            let mut all = share.0.lock();
            let used = all.used - share.1 + bytes;
            let has_room = bytes <= share.1 || used <= all.limit;
            if has_room {
                all.used = used;
                drop(all);
                share.1 = bytes;
            }
            has_room
        })
    }
}

impl Drop for Share {
    fn drop(&mut self) {
        self.0.lock().used -= self.1;
    }
}

/// Waits until so many results are told by plans.
pub async fn planned(live: &Live, count: usize) {
    let end = tokio::time::Instant::now() + LIMIT;
    while live.figures().planned < count {
        assert!(
            tokio::time::Instant::now() < end,
            "{} of {count} have plans",
            live.figures().planned
        );
        tokio::time::sleep(Duration::from_millis(10)).await;
    }
}

/// Somebody with a token.
pub fn user(subject: &str) -> Arc<RunAs> {
    user_as(ROLE, subject)
}

/// The same as another role.
pub fn user_as(role: &str, subject: &str) -> Arc<RunAs> {
    Arc::new(RunAs {
        role: role.into(),
        subject: subject.into(),
        claims_json: format!("{{\"sub\": \"{subject}\"}}").into(),
        claimed_role: None,
    })
}

/// The rows of a table of which a condition is true, in a window if there is something behind it.
pub fn query(table: &str, condition: &str, window: &str) -> LiveQuery {
    let text = format!(
        "WITH q AS (SELECT * FROM public.{table} WHERE {condition} {window}) \
         SELECT to_jsonb(q.id)::text, to_jsonb(q)::text FROM q"
    );
    let columns: &[&str] = match table {
        "tasks" => &["id", "team", "owner", "title", "done", "at", "price"],
        "notes" => &["id", "task", "body", "secret"],
        "plain" | "joined" | "helped" | "asked" => &["id", "team", "owner", "body"],
        "prices" => &["id", "owner"],
        _ => &["id", "team", "who"],
    };
    let fields = columns.iter().map(|name| (name.to_string(), name.to_string()));
    LiveQuery {
        table: TableName::new("public", table),
        key: vec!["id".into()],
        rows: Sql { text, parameters: Vec::new() },
        wants: Wants::Rows,
        window: None,
        as_text: Vec::new(),
        matcher: Some(Matcher {
            filter: Some(Sql { text: condition.into(), parameters: Vec::new() }),
            fields: fields.collect(),
            is_window: !window.is_empty(),
        }),
    }
}

/// So many rows behind the first ones in an order that ends with the key.
pub fn first(
    table: &str,
    condition: &str,
    order: &[(&str, bool)],
    (offset, limit): (usize, usize),
) -> LiveQuery {
    let order: Vec<(String, bool)> =
        order.iter().map(|(name, descending)| (name.to_string(), *descending)).collect();
    let by = order
        .iter()
        .map(|(name, descending)| format!("{name}{}", if *descending { " DESC" } else { "" }));
    let by = by.collect::<Vec<_>>().join(", ");
    let places = order.iter().map(|(name, _)| {
        format!("CASE WHEN q.{name} IS DISTINCT FROM NULL THEN format('%s', q.{name}) END")
    });
    let places = places.collect::<Vec<_>>().join(", ");
    let beyond = 4;
    let most = offset + limit + beyond;
    let mut query = query(table, condition, "LIMIT 1");
    query.rows.text = format!(
        "WITH q AS (SELECT * FROM public.{table} WHERE {condition} ORDER BY {by} LIMIT {most}) \
         SELECT to_jsonb(q.id)::text, to_jsonb(q)::text, jsonb_build_array({places})::text FROM q ORDER BY {by}"
    );
    query.window = Some(FirstRows { order, offset, limit, beyond });
    query
}

/// How many rows of a table there are of which a condition is true.
pub fn count(table: &str, condition: &str) -> LiveQuery {
    counted(query(table, condition, ""))
}

/// How many rows a query has.
pub fn counted(mut query: LiveQuery) -> LiveQuery {
    query.wants = Wants::Groups(Groups::count("count"));
    query.rows.text = format!(
        "SELECT '[]', jsonb_build_object('count', count(*))::text, jsonb_build_array(count(*), NULL)::text \
         FROM ({}) AS q",
        query.rows.text
    );
    query
}

/// What a follower holds.
#[derive(Clone, Debug, Default)]
pub struct Held {
    pub rows: BTreeMap<String, String>,
    /// Updates of rows of which nothing changed.
    pub touched: u64,
    /// Updates of rows.
    pub updates: u64,
    /// Those of which it was not told what they were before.
    pub unknown: u64,
    pub ended: Option<String>,
    /// Keys that were told to go.
    pub gone: BTreeSet<String>,
    /// Every record that was ever shown.
    pub shown: BTreeSet<String>,
    /// How many rows there were behind commits.
    pub sizes: BTreeSet<usize>,
}

/// Applies what it is told as a client does, and minds that it is told so that a client can.
pub struct Follower {
    pub query: LiveQuery,
    pub who: Arc<RunAs>,
    held: Arc<Mutex<Held>>,
    task: JoinHandle<()>,
}

impl Follower {
    pub fn new(
        query: LiveQuery,
        who: Arc<RunAs>,
        First { position, result }: First,
        mut subscription: Subscription,
    ) -> Follower {
        let row = |(key, row): &(Key, Record)| (key.to_string(), row.json().to_owned());
        let first = Held { rows: result.iter().map(row).collect(), ..Held::default() };
        let is_of_rows = query.wants == Wants::Rows;
        let held = Arc::new(Mutex::new(first));
        let told = held.clone();
        let task = tokio::spawn(async move {
            let mut position = position;
            loop {
                match subscription.next().await {
                    Ok(commit) => {
                        assert!(commit.position >= position, "positions go back");
                        position = commit.position;
                        let mut held = told.lock();
                        for change in commit.changes {
                            held.change(change, is_of_rows);
                        }
                        let size = held.rows.len();
                        held.sizes.insert(size);
                    }
                    Err(error) => {
                        told.lock().ended = Some(error.to_string());
                        return;
                    }
                }
            }
        });
        Follower { query, who, held, task }
    }

    pub fn held(&self) -> Held {
        assert!(!self.task.is_finished() || self.held.lock().ended.is_some(), "a follower failed");
        self.held.lock().clone()
    }
}

impl Drop for Follower {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Held {
    /// Whether something was ever shown that has this in it.
    pub fn was_shown(&self, text: &str) -> bool {
        self.shown.iter().any(|record| record.contains(text))
    }

    /// - Takes: whether what has not changed may be told.
    pub fn change(&mut self, change: Change, is_of_rows: bool) {
        match change {
            Change::Insert { key, record } => {
                self.shown.insert(record.json().to_owned());
                let was = self.rows.insert(key.to_string(), record.json().to_owned());
                assert_eq!(was, None, "{key} is told twice");
            }
            Change::Update { key, before, after } => {
                self.shown.insert(after.json().to_owned());
                self.touched += u64::from(before.as_ref() == Some(&after));
                self.updates += 1;
                self.unknown += u64::from(before.is_none());
                let was = self.rows.insert(key.to_string(), after.json().to_owned());
                let was = was.unwrap_or_else(|| panic!("{key} changes and is not there"));
                // One that goes and comes back in commits that are told together is told as what it is now.
                let may_be_same = is_of_rows || before.is_none();
                assert!(may_be_same || was != after.json(), "{key} is told and has not changed");
                if let Some(before) = before {
                    assert_eq!(was, before.json(), "{key} was told otherwise");
                }
            }
            Change::Delete { key } => {
                let was = self.rows.remove(&*key);
                assert!(was.is_some(), "{key} goes and is not there");
                self.gone.insert(key.to_string());
            }
            Change::Passed { key } => {
                assert!(!self.rows.contains_key(&*key), "{key} passed and is there");
            }
        }
    }
}
