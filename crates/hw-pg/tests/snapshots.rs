//! Which transactions a snapshot sees, compared with the rows that the server shows under it.

use hw_testkit::{Cluster, ClusterOptions, TestDatabase};
use hw_types::{FullXid, PgSnapshot};
use rand::rngs::StdRng;
use rand::{Rng, SeedableRng};
use std::collections::BTreeSet;
use tokio_postgres::Client;

/// A session and its transaction, while one is open.
struct Writer {
    sql: Client,
    open: Option<FullXid>,
    /// Whether a savepoint is open in it.
    saved: bool,
}

impl Writer {
    /// Writes a row under the id of the transaction (that of a savepoint is another).
    async fn write(&mut self) {
        let xid = match self.open {
            Some(xid) => xid,
            None => {
                self.sql.batch_execute("BEGIN").await.unwrap();
                let row = self.sql.query_one("SELECT pg_current_xact_id()::text", &[]).await;
                let xid = FullXid(row.unwrap().get::<_, &str>(0).parse().unwrap());
                self.open = Some(xid);
                xid
            }
        };
        self.sql.batch_execute(&format!("INSERT INTO t VALUES ({xid})")).await.unwrap();
    }

    async fn step(&mut self, rng: &mut StdRng, committed: &mut BTreeSet<FullXid>) {
        let run = match (rng.random_range(0..8), self.saved) {
            (0 | 1, false) if self.open.is_some() => {
                self.saved = true;
                "SAVEPOINT s"
            }
            (0, true) => {
                self.saved = false;
                "RELEASE s"
            }
            (1, true) => "ROLLBACK TO s",
            (2, _) if self.open.is_some() => {
                committed.extend(self.open.take());
                self.saved = false;
                "COMMIT"
            }
            (3, _) if self.open.is_some() => {
                (self.open, self.saved) = (None, false);
                "ROLLBACK"
            }
            _ => return self.write().await,
        };
        self.sql.batch_execute(run).await.unwrap();
    }
}

/// Rows that only a savepoint wrote which was rolled back are nobody's: every transaction writes one
/// before its first savepoint, so that what is visible tells whether it is.
async fn compare(cluster: &Cluster, database: &TestDatabase, seed: u64) {
    let rng = &mut StdRng::seed_from_u64(seed);
    let connect = || cluster.client(&database.name);
    let reader = connect().await;
    let mut writers = Vec::new();
    for _ in 0..6 {
        writers.push(Writer { sql: connect().await, open: None, saved: false });
    }
    let (mut committed, mut seen) = (BTreeSet::new(), Vec::new());
    for step in 0..400 {
        let place = rng.random_range(0..writers.len());
        writers[place].step(rng, &mut committed).await;
        if step % 8 != 0 {
            continue;
        }
        reader.batch_execute("BEGIN ISOLATION LEVEL REPEATABLE READ").await.unwrap();
        let row = reader.query_one("SELECT pg_current_snapshot()::text", &[]).await.unwrap();
        let text: &str = row.get(0);
        let snapshot: PgSnapshot = text.parse().unwrap();
        assert_eq!(snapshot.to_string(), text);
        let rows = reader.query("SELECT DISTINCT x::text FROM t", &[]).await.unwrap();
        let visible = rows.iter().map(|row| FullXid(row.get::<_, &str>(0).parse().unwrap()));
        seen.push((snapshot, visible.collect::<BTreeSet<_>>()));
        reader.batch_execute("COMMIT").await.unwrap();
    }
    for writer in &mut writers {
        writer.sql.batch_execute("COMMIT").await.unwrap();
        committed.extend(writer.open.take());
    }
    let waited = seen.iter().filter(|(snapshot, _)| !snapshot.running.is_empty()).count();
    assert!(waited > 20 && committed.len() > 20, "{waited} of {}", committed.len());
    for (snapshot, visible) in seen {
        let sees: BTreeSet<FullXid> =
            committed.iter().filter(|xid| snapshot.sees(**xid)).copied().collect();
        assert_eq!(sees, visible, "{snapshot}, seed {seed}");
    }
}

#[tokio::test]
async fn a_snapshot_sees_the_transactions_whose_rows_the_server_shows_under_it_on_every_major() {
    for major in hw_testkit::majors() {
        let options = ClusterOptions { major: Some(major), ..ClusterOptions::default() };
        let cluster = Cluster::start_with(options);
        let database = cluster.create_database().await;
        let sql = cluster.client(&database.name).await;
        sql.batch_execute("CREATE TABLE t (x numeric)").await.unwrap();
        compare(&cluster, &database, u64::from(major)).await;
    }
}

/// The same while the ids wrap.
#[tokio::test]
async fn a_snapshot_sees_across_a_wrap_of_32_bits_what_the_server_does() {
    let cluster = Cluster::start();
    hw_testkit::needs!(cluster.before_wrap(60).await, "pg_resetwal");
    let database = cluster.create_database().await;
    let sql = cluster.client(&database.name).await;
    sql.batch_execute("CREATE TABLE t (x numeric)").await.unwrap();
    compare(&cluster, &database, 1).await;
    let rows = sql.query_one("SELECT min(x)::text, max(x)::text FROM t", &[]).await.unwrap();
    let [least, most] = [0, 1].map(|at| rows.get::<_, &str>(at).parse::<u64>().unwrap());
    assert_eq!((least >> 32, most >> 32), (2, 3), "they have wrapped meanwhile");
}
