//! The source: a Postgres of its own that really syncs, and the rows of all measurements.
//!
//! `items` has seven columns and about 200 bytes a row, and three ways to be cut into buckets: by
//! list, by owner, or not at all. Rows of one list are far apart, as they are in tables that have
//! grown. `ticks` is for rows whose way is timed. Contents follow from row numbers alone.

use std::time::{Duration, Instant};

use hw_testkit::{Cluster, ClusterOptions};
use tokio::task::JoinSet;
use tokio_postgres::Client;

use crate::Outcome;
use crate::report::Report;

/// The database.
const DATABASE: &str = "bench";

/// The user who owns every list.
pub const READER: &str = "reader";

/// A user without rows of `items`.
pub const WATCHER: &str = "watcher";

/// Owners of items; `owner-0` and on.
pub const OWNERS: u64 = 50;

/// A server as an ordinary installation has it: every commit is synced to the disk. Checkpoints
/// are rare, so that none falls into one of two runs that are compared.
const SETTINGS: &[(&str, &str)] = &[
    ("fsync", "on"),
    ("synchronous_commit", "on"),
    ("full_page_writes", "on"),
    ("shared_buffers", "1GB"),
    ("max_wal_size", "16GB"),
    ("checkpoint_timeout", "1h"),
    ("shared_preload_libraries", "pg_stat_statements"),
    ("pg_stat_statements.track", "all"),
];

/// Between two looks at a slot whose walsender is still leaving.
const PAUSE: Duration = Duration::from_millis(20);

/// A running source.
pub struct Source {
    /// Its server.
    pub cluster: Cluster,
    /// A session of the superuser.
    pub sql: Client,
    /// Rows of `items` that were made so far; the next ones have higher numbers.
    rows: u64,
    lists: u64,
}

impl Source {
    /// Starts a server with `rows` items in `lists` lists, vacuumed, with statistics.
    pub async fn start(rows: u64, lists: u64, report: &mut Report) -> Outcome<Source> {
        eprintln!("hw-bench:   source with {rows} rows in {lists} lists …");
        let cluster =
            Cluster::start_with(ClusterOptions { settings: SETTINGS, ..Default::default() });
        cluster.client("postgres").await.batch_execute("CREATE DATABASE bench").await?;
        let sql = cluster.client(DATABASE).await;
        sql.batch_execute(
            "CREATE EXTENSION pg_stat_statements;
             CREATE TABLE items (
               id uuid NOT NULL, list_id integer NOT NULL, owner_id text NOT NULL,
               title text NOT NULL, body text NOT NULL, done boolean NOT NULL,
               changed_at timestamptz NOT NULL);
             CREATE TABLE lists (id integer PRIMARY KEY, owner_id text NOT NULL);
             CREATE TABLE ticks (id text PRIMARY KEY, body text NOT NULL);",
        )
        .await?;
        let mut source = Source { cluster, sql, rows: 0, lists };
        let fill = source.insert_next(rows);
        source.sql.batch_execute(&fill).await?;
        source
            .sql
            .batch_execute(&format!(
                "ALTER TABLE items ADD PRIMARY KEY (id);
                 INSERT INTO lists SELECT n, '{READER}' FROM generate_series(0, {lists} - 1) n;"
            ))
            .await?;
        source.sql.batch_execute("VACUUM ANALYZE items").await?;
        source.sql.batch_execute("VACUUM ANALYZE lists").await?;
        source.sql.batch_execute("CHECKPOINT").await?;
        report.version("postgres", &source.text("SHOW server_version").await?);
        report.note(
            "Postgres with fsync, synchronous_commit and full_page_writes on, shared_buffers 1 GB; \
             source, server and clients share the machine",
        );
        Ok(source)
    }

    /// For the server and other clients.
    pub fn url(&self) -> String {
        self.cluster.url(DATABASE)
    }

    /// Another session.
    pub async fn session(&self) -> Client {
        self.cluster.client(DATABASE).await
    }

    /// Drops the slots of servers that have ended, with their stores, so that the next one finds
    /// the source as the first one did.
    pub async fn drop_slots(&self) -> Outcome<()> {
        const DROP: &str = "SELECT count(pg_drop_replication_slot(slot_name)) \
                            FROM pg_replication_slots WHERE NOT active";
        while self.number("SELECT count(*) FROM pg_replication_slots").await? > 0 {
            self.sql.execute(DROP, &[]).await?;
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// Rows made so far.
    pub fn rows(&self) -> u64 {
        self.rows
    }

    /// An INSERT of the next `count` rows.
    pub fn insert_next(&mut self, count: u64) -> String {
        let first = self.rows;
        self.rows += count;
        let row = row_of(self.lists);
        format!("INSERT INTO items SELECT {row} FROM generate_series({first}, {} - 1) n", self.rows)
    }

    /// About `count` transactions of one row each, by so many sessions at once: rows come, and others
    /// change.
    ///
    /// - Returns: how many, and how long they took.
    pub async fn write_singles(&mut self, writers: u64, count: u64) -> Outcome<(u64, Duration)> {
        let insert = self.insert_one();
        let existing = self.rows();
        let share = (count / writers).max(1);
        let mut sessions = Vec::new();
        for _ in 0..writers {
            sessions.push((self.session().await, self.claim(share)));
        }
        let began = Instant::now();
        let mut writing = JoinSet::new();
        for (sql, numbers) in sessions {
            let insert = insert.clone();
            writing.spawn(async move {
                let insert = sql.prepare(&insert).await?;
                let update = sql.prepare(Source::UPDATE_ONE).await?;
                for number in numbers {
                    if number.is_multiple_of(2) {
                        sql.execute(&insert, &[&(number as i64)]).await?;
                    } else {
                        // Far from one another, as the changes of many users are.
                        let other = number.wrapping_mul(0x9e37_79b9_7f4a_7c15) % existing;
                        sql.execute(&update, &[&(other as i64)]).await?;
                    }
                }
                Ok::<_, crate::Failure>(())
            });
        }
        while let Some(wrote) = writing.join_next().await {
            wrote??;
        }
        Ok((share * writers, began.elapsed()))
    }

    /// Numbers for `count` rows that another session inserts with [`Source::insert_one`].
    pub fn claim(&mut self, count: u64) -> std::ops::Range<u64> {
        let first = self.rows;
        self.rows += count;
        first..self.rows
    }

    /// An INSERT of the row whose number is `$1`, a bigint.
    pub fn insert_one(&self) -> String {
        format!("INSERT INTO items SELECT {} FROM (SELECT $1::bigint AS n) p", row_of(self.lists))
    }

    /// An UPDATE of the row whose number is `$1`, a bigint.
    pub const UPDATE_ONE: &str = "UPDATE items SET done = NOT done, title = title || '.' \
                                  WHERE id = md5('item' || $1::bigint)::uuid";

    /// The only value of a query's only row, which is text.
    pub async fn text(&self, sql: &str) -> Outcome<String> {
        Ok(self.sql.query_one(sql, &[]).await?.get(0))
    }

    /// The same for a bigint.
    pub async fn number(&self, sql: &str) -> Outcome<u64> {
        Ok(u64::try_from(self.sql.query_one(sql, &[]).await?.get::<_, i64>(0))?)
    }
}

/// The columns of the row number `n`.
fn row_of(lists: u64) -> String {
    format!(
        "md5('item' || n)::uuid, (n % {lists})::integer, 'owner-' || n % {OWNERS}, \
         'Item number ' || n, 'Call back about order ' || md5('a' || n) || ', then write down \
         what was agreed with the customer ' || md5('b' || n), n % 3 = 0, \
         timestamptz '2026-01-01 00:00:00+00' + n * interval '1 second'"
    )
}
