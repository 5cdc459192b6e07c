//! The line from the log to a device when something is pulled out of it: the store fails, the
//! catalogue changes, a table cannot be followed, the source is another one.
//!
//! Every test ends in one of two ways. Either all clients, those that were there and fresh ones,
//! come to what SQL answers ([`Line::agree`]); or the status names what is wrong for as long as it is
//! ([`Line::names`]), and what depends on it stands still.

use std::collections::BTreeMap;
use std::future::Future;
use std::time::Duration;

use hw_testkit::oracle::{Rows, SyncClient, difference};
use hw_testkit::{Cluster, HeadwaterProcess, ProcessOptions, poll_until};
use serde_json::Value;

use crate::rig::{self, Rig};

mod catalogue;
mod checkpoints;
mod copies;
mod definitions;
mod history;
mod places;
mod publication;
mod revocations;
mod store;

/// How long something may take that takes a second or two, on a machine that has much to do.
pub const SOON: Duration = Duration::from_secs(55);

/// An output: its table on the client, and SQL of its rows with `{user}` for whose they are.
pub type Output = (&'static str, &'static str);

/// Streams of these queries that everybody gets.
pub fn streams(queries: &[&str]) -> String {
    let mut text = "config:\n  edition: 3\nstreams:\n".to_owned();
    for (number, query) in queries.iter().enumerate() {
        text.push_str(&format!("  s{number}:\n    auto_subscribe: true\n    query: {query}\n"));
    }
    text
}

/// A server, and clients of its users.
pub struct Line {
    pub rig: Rig,
    pub server: HeadwaterProcess,
    pub outputs: Vec<Output>,
    pub clients: BTreeMap<&'static str, SyncClient>,
}

impl Line {
    /// Serves `config` over `schema`; a client of each user is connected and agrees.
    pub async fn start(
        schema: &str,
        config: &str,
        users: &[&'static str],
        outputs: &[Output],
    ) -> Line {
        let rig = Rig::new(schema, config).await;
        let options = rig.options();
        Line::of(rig, options, users, outputs).await
    }

    /// The same on a cluster of one's own.
    pub async fn on(cluster: Cluster, schema: &str, config: &str, outputs: &[Output]) -> Line {
        let rig = Rig::on(cluster, schema, config).await;
        let options = rig.options();
        Line::of(rig, options, &["u1"], outputs).await
    }

    /// The same with options of one's own.
    pub async fn of(
        rig: Rig,
        options: ProcessOptions,
        users: &[&'static str],
        outputs: &[Output],
    ) -> Line {
        let server = HeadwaterProcess::start(loud(options)).await;
        let clients = users.iter().map(|user| (*user, rig::client(user))).collect();
        let outputs = outputs.to_vec();
        let mut line = Line { rig, server, outputs, clients };
        line.agree("at the start").await;
        line
    }

    pub async fn execute(&self, sql: &str) {
        self.rig.execute(sql).await;
    }

    /// Gives the server another sync configuration.
    pub fn configure(&self, config: &str) {
        std::fs::write(self.rig.path("sync.yaml"), config).expect("written");
        self.server.signal(libc::SIGHUP);
    }

    /// What SQL answers.
    pub async fn expected(&self, user: &str) -> Rows {
        let mut rows = Rows::new();
        for (table, sql) in &self.outputs {
            let sql = sql.replace("{user}", &format!("'{user}'"));
            let sql = format!("SELECT id::text, row_to_json(q)::text FROM ({sql}) q");
            let found = self.rig.sql.query(&sql, &[]).await;
            for row in found.unwrap_or_else(|error| panic!("{sql}: {error}")) {
                let json = serde_json::from_str(row.get(1)).expect("JSON of Postgres");
                rows.insert(((*table).to_owned(), row.get(0)), json);
            }
        }
        rows
    }

    /// All clients, those that are there and fresh ones, come to what SQL answers now.
    ///
    /// - Panics: after [`SOON`], with the differences, the status and the end of the log.
    pub async fn agree(&mut self, when: &str) {
        for user in self.clients.keys().copied().collect::<Vec<_>>() {
            let expected = self.expected(user).await;
            let mut old = self.clients.remove(user).expect("it is there");
            self.comes_to(&mut old, user, &format!("{when}, {user}"), &expected).await;
            self.clients.insert(user, old);
            let mut fresh = rig::client(user);
            self.comes_to(&mut fresh, user, &format!("{when}, {user}, fresh"), &expected).await;
        }
    }

    async fn comes_to(&self, client: &mut SyncClient, user: &str, when: &str, expected: &Rows) {
        let follow =
            client.follow_until(self.server.address(), |c| c.completed > 0 && c.rows() == expected);
        match tokio::time::timeout(SOON, follow).await {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{when}: {error}\n{}", self.report().await),
            Err(_) => panic!(
                "{when}: after {} s {}\n{}",
                SOON.as_secs(),
                difference(&self.expected(user).await, client.rows())
                    .expect_err("they differ or have agreed too late"),
                self.report().await
            ),
        }
    }

    /// Follows with the client of a user until `done`.
    pub async fn follow(&mut self, user: &str, what: &str, done: impl FnMut(&SyncClient) -> bool) {
        let address = self.server.address();
        let client = self.clients.get_mut(user).expect("it is there");
        let followed = tokio::time::timeout(SOON, client.follow_until(address, done)).await;
        match followed {
            Ok(Ok(())) => {}
            Ok(Err(error)) => panic!("{what}: {error}\n{}", self.report().await),
            Err(_) => panic!("in vain until {what}\n{}", self.report().await),
        }
    }

    /// The status says by this name that something is wrong.
    pub async fn names(&self, name: &str) {
        let what = format!("the status names {name}");
        soon(&what, self.report(), || async {
            rig::status(&self.server).await.filter(|status| is_named(status, name)).map(drop)
        })
        .await;
    }

    /// The server's log says so.
    pub async fn logs(&self, text: &str) {
        soon(&format!("the log says {text:?}"), self.report(), || async {
            self.server.log().contains(text).then_some(())
        })
        .await;
    }

    /// The status has nothing to complain about.
    pub async fn is_well(&self) {
        soon("the status is well again", self.report(), || async {
            let status = rig::status(&self.server).await?;
            (status["state"] == "streaming" && status["trouble"].is_null()).then_some(())
        })
        .await;
    }

    /// Status and the end of the log, for a failure.
    pub async fn report(&self) -> String {
        let status = rig::status(&self.server).await.unwrap_or_default();
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().collect();
        let log = lines[lines.len().saturating_sub(12)..].join("\n");
        let op_id = &status["checkpoint"]["op_id"];
        let (state, trouble) = (&status["state"], &status["trouble"]);
        let held: Vec<u64> = self.clients.values().map(SyncClient::last_op).collect();
        format!("state {state}, trouble {trouble}, at {op_id}, others at {held:?}\n{log}")
    }

    /// Stops in order; panics are never in order.
    pub async fn stop(mut self) {
        self.server.stop().await;
    }
}

/// A client of its own as of a first complete state.
pub async fn fresh(server: &HeadwaterProcess, user: &str) -> SyncClient {
    let mut client = rig::client(user);
    let followed = client.follow_until(server.address(), |client| client.completed > 0);
    hw_testkit::wait::within_limit("a first state", followed).await.expect("followed");
    client
}

/// Whether the status says, as trouble, something about this name.
pub fn is_named(status: &Value, name: &str) -> bool {
    let mut said = status.clone();
    if status["trouble"].is_null() {
        return false;
    }
    // A copy names its table, too, and is no complaint.
    said["copies"] = Value::Null;
    said.to_string().contains(name)
}

/// [`poll_until`] with the limit [`SOON`] and more to say.
pub async fn soon<T, F, Fut>(what: &str, report: impl Future<Output = String>, look: F) -> T
where
    F: FnMut() -> Fut,
    Fut: Future<Output = Option<T>>,
{
    match tokio::time::timeout(SOON, poll_until(what, look)).await {
        Ok(seen) => seen,
        Err(_) => panic!("waited {} s in vain until {what}\n{}", SOON.as_secs(), report.await),
    }
}

/// Every complaint may be in the log but a panic.
pub fn loud(options: ProcessOptions) -> ProcessOptions {
    rig::allowing(options, &["WARN", "ERROR"])
}
