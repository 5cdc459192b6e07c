//! Whether all is as it must be: what SQL says that each user has, what was committed on the way, and
//! what the clients hold and showed.

use std::collections::{BTreeMap, BTreeSet};
use std::net::SocketAddr;

use serde_json::Value;
use tokio_postgres::Statement;

use super::{BOUND, Run, bounded_for, explain, names, status};
use crate::oracle::client::{Part, Rows, Shown};
use crate::oracle::committed::first_key;
use crate::oracle::definitions::{Definition, FLOOD, banner, banner_key};
use crate::oracle::follower::Follower;
use crate::oracle::world::{CATALOG, quoted};

impl<F: Follower> Run<'_, F> {
    pub(super) async fn settle(&mut self) -> Result<(), String> {
        self.sessions.roll_back().await;
        self.stop_writers().await;
        self.heal_source();
        self.free_disk();
        if let Some(disk) = &self.faulty_disk {
            disk.heal();
        }
        self.until_it_listens().await?;
        self.until_it_knows().await?;
        self.count_poured().await?;
        if self.following.is_empty() {
            self.follow();
        }
        let direct = self.server.address();
        let mut goals = Vec::new();
        for (number, user) in self.plan.world.users.iter().enumerate() {
            let token = (self.oracle.issue)(&user.name, &user.claims);
            let asker = F::new(user, &token, number);
            goals
                .push(bounded_for("a position is given", BOUND * 2, asker.barrier(direct)).await??);
        }
        self.take_seats(Some(&goals)).await?;
        let mut expected = self.expected().await?;
        let address = SocketAddr::from(([127, 0, 0, 1], self.clients.port()));
        for seat in &mut self.seats {
            let wanted = &mut expected[seat.user];
            wanted.retain(|_, rows| !rows.is_empty());
            if seat.client.held() == *wanted {
                continue;
            }
            // What leaves no trace in the log is noticed a little later.
            let follow = seat.client.follow_until_it_holds(address, wanted);
            if let Ok(followed) = tokio::time::timeout(BOUND, follow).await {
                followed?;
                continue;
            }
            let said = status(direct).await.unwrap_or_default();
            let name = &self.plan.world.users[seat.user].name;
            return Err(format!(
                "{name}: {}P6: state {}, trouble {}",
                differences(wanted, &seat.client.held()),
                said["state"],
                said["trouble"]
            ));
        }
        for seat in &mut self.seats {
            let shown = seat.client.shown();
            let name = &self.plan.world.users[seat.user].name;
            self.committed
                .explain(seat.user, &mut seat.place, &shown)
                .map_err(|what| format!("{name}: {what}"))?;
            self.committed.arrive(&mut seat.place);
        }
        let well = |status: &Value| status["state"] == "streaming" && status["trouble"].is_null();
        self.until("nothing is wrong any more", well).await?;
        self.committed.settle();
        self.altered_at = None;
        self.follow();
        Ok(())
    }

    /// What the writers have really poured: a crash of Postgres may have stopped them.
    async fn count_poured(&mut self) -> Result<(), String> {
        for writer in 0..2 {
            let first = first_key(writer);
            let sql = "SELECT count(*) FROM flood WHERE id >= $1 AND id < $1 + 1000000000";
            let row =
                self.observer.query_one(sql, &[&first]).await.map_err(|e| explain(&e, sql))?;
            self.committed.poured[writer] = row.get::<_, i64>(0) as usize;
        }
        Ok(())
    }

    /// Learns what tables are, and prepares the question.
    pub(super) async fn look(&mut self) -> Result<(), String> {
        let rows = self.observer.query(CATALOG, &[]).await.map_err(|e| explain(&e, CATALOG))?;
        self.catalog.clear();
        for row in rows {
            let table: String = row.get(0);
            self.catalog.entry(table).or_default().push((row.get(1), row.get(2)));
        }
        let readable = |definition: &&Definition| definition.can_be_read(&self.catalog);
        let text = self.question(readable);
        let prepared =
            self.observer.prepare(&text).await.map_err(|error| explain(&error, &text))?;
        self.question = Some(prepared);
        Ok(())
    }

    /// One statement for some definitions of all configurations, for all users.
    fn question(&self, wanted: impl Fn(&&Definition) -> bool) -> String {
        let mut parts = vec!["SELECT 0, '', '', '', '' WHERE false".to_owned()];
        let mut seen = BTreeSet::new();
        let definitions = self.plan.configs.iter().flat_map(|config| &config.definitions);
        for definition in definitions.filter(wanted).filter(|d| seen.insert(&d.name)) {
            for (number, user) in self.plan.world.users.iter().enumerate() {
                for (table, query) in definition.queries(&self.plan.world, user, &self.catalog) {
                    let name = quoted(&definition.name);
                    parts.push(format!("SELECT {number}, {name}, '{table}', q.* FROM ({query}) q"));
                }
            }
        }
        parts.join(" UNION ALL ")
    }

    /// Notes the committed state of each user.
    pub(super) async fn note(&mut self) -> Result<(), String> {
        let question = self.question.clone().expect("it is prepared behind each change of tables");
        let answer = self.answer(&question).await?;
        let definitions = || self.plan.configs.iter().flat_map(|config| &config.definitions);
        for (user, rows) in answer.into_iter().enumerate() {
            let mut state = Shown::new();
            for definition in definitions().filter(|d| d.can_be_read(&self.catalog)) {
                let part = rows.get(&definition.name).map(Part::of).unwrap_or_default();
                state.insert(definition.name.clone(), part);
            }
            self.committed.states[user].push(state);
        }
        Ok(())
    }

    async fn answer(&self, question: &Statement) -> Result<Vec<BTreeMap<String, Rows>>, String> {
        let mut all = vec![BTreeMap::new(); self.plan.world.users.len()];
        let found = self.observer.query(question, &[]).await;
        for row in found.map_err(|error| explain(&error, "the question"))? {
            let json: String = row.get(4);
            let json = serde_json::from_str(&json).map_err(|error| error.to_string())?;
            let user: i32 = row.get(0);
            let part: &mut Rows = all[user as usize].entry(row.get(1)).or_default();
            part.insert((row.get(2), row.get(3)), json);
        }
        Ok(all)
    }

    /// What each user has now, by definition.
    async fn expected(&self) -> Result<Vec<BTreeMap<String, Rows>>, String> {
        let question = self.question.clone().expect("it is prepared behind each change of tables");
        let mut all = self.answer(&question).await?;
        let served = names(self.plan, self.config);
        let sql = "SELECT id FROM flood WHERE id > 0";
        let flood = self.observer.query(sql, &[]).await.map_err(|error| explain(&error, sql))?;
        let row = |table: &str, id: i64| {
            ((table.to_owned(), id.to_string()), serde_json::json!({"id": id}))
        };
        let flood: Rows = flood.iter().map(|found| row(FLOOD, found.get(0))).collect();
        let banner = banner(self.config);
        let of_banner = Rows::from([row(&banner, banner_key(self.config))]);
        for parts in &mut all {
            parts.retain(|name, _| served.contains(name));
            parts.insert(FLOOD.into(), flood.clone());
            parts.insert(banner.clone(), of_banner.clone());
        }
        Ok(all)
    }
}

fn differences(wanted: &BTreeMap<String, Rows>, held: &BTreeMap<String, Rows>) -> String {
    let nothing = Rows::new();
    let all: BTreeSet<&String> = wanted.keys().chain(held.keys()).collect();
    let mut text = String::new();
    for name in all {
        let (wanted, held) =
            (wanted.get(name).unwrap_or(&nothing), held.get(name).unwrap_or(&nothing));
        if let Err(what) = difference(wanted, held) {
            text.push_str(&format!("{name}: {what}\n"));
        }
    }
    text
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
