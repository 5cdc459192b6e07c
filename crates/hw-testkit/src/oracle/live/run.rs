//! One plan, one run: a server process between two proxies, connections and sockets that write, clients that
//! follow. One hand commits, and asks Postgres behind each commit what every subscription gives: that list
//! is the order in which states may be shown.

use std::net::SocketAddr;
use std::path::Path;
use std::sync::Arc;
use std::time::{Duration, Instant};

use serde_json::{Value, json};
use tokio::sync::oneshot;
use tokio_postgres::error::SqlState;
use tokio_postgres::{Client, SimpleQueryMessage};

use super::access::ROLE;
use super::client::{ComesBack, LiveClient, Shown, State};
use super::plan::{LivePlan, Step};
use super::queries::{Asked, Wants};
use crate::cluster::Cluster;
use crate::oracle::run::{
    BOUND, Home, Oracle, TRIES, bounded, cut, difference, drop_slots, explain, isolated, status,
};
use crate::oracle::sessions::{Executed, Sessions};
use crate::oracle::world::{User, quoted};
use crate::proxy::FaultProxy;
use crate::server::{HeadwaterProcess, ProcessOptions};

/// How long a message waits for locks that transactions of the plan have, before these end.
const PATIENCE: Duration = Duration::from_millis(400);

/// Runs one plan.
///
/// - Errors: what was wrong.
pub(super) async fn run(oracle: &Arc<Oracle>, plan: &LivePlan) -> Result<(), String> {
    let plan = plan.clone();
    isolated(oracle, false, |oracle, cluster, home| async move {
        let mut run = Run::start(&oracle, &plan, cluster, &home).await?;
        let ran = match run.all().await {
            Ok(()) => {
                run.server.kill();
                run.server.check_log();
                Ok(())
            }
            Err(what) => Err(format!("{what}\n{}", run.report().await)),
        };
        run.server.kill();
        ran
    })
    .await
}

/// Of one subscription, what Postgres showed behind each commit that changed it, and which of these states
/// its client has come to.
struct Past {
    states: Vec<State>,
    at: usize,
}

impl Past {
    fn last(&self) -> &State {
        self.states.last().expect("it is looked at before anything is done")
    }

    /// Moves on to the state that is shown.
    ///
    /// - Errors: it is none of those that may be shown.
    fn explain(&mut self, shown: &Shown) -> Result<(), String> {
        let is_it = |state: &State| *state == shown.state;
        if let Some(found) = self.states[self.at..].iter().position(is_it) {
            self.at += found;
            return Ok(());
        }
        let place = format!("state {} of {}", self.at, self.states.len() - 1);
        if let Some(before) = self.states[..self.at].iter().rposition(is_it) {
            return Err(format!("goes back to state {before} behind {place}"));
        }
        let State::Rows(shown) = &shown.state else {
            return Err(format!("is refused behind {place}, which it never was"));
        };
        let differs = |state: &State| match state {
            State::Rows(rows) => difference(rows, shown).err(),
            State::Refused => None,
        };
        let states = self.states.iter().enumerate();
        let differences = states.filter_map(|(at, state)| Some((at, differs(state)?)));
        let nearest = differences.min_by_key(|(_, text)| text.len());
        Err(format!("never was, behind {place}; nearest to it is {nearest:?}"))
    }
}

/// A user's client, and the transaction that it has open.
struct Seat {
    client: LiveClient,
    transaction: Option<String>,
    pasts: Vec<Past>,
}

struct Run<'a> {
    plan: &'a LivePlan,
    observer: Client,
    changer: Client,
    sessions: Sessions,
    server: HeadwaterProcess,
    clients: FaultProxy,
    source: FaultProxy,
    seats: Vec<Seat>,
}

impl<'a> Run<'a> {
    async fn start(
        oracle: &Oracle,
        plan: &'a LivePlan,
        cluster: Arc<Cluster>,
        home: &Home,
    ) -> Result<Run<'a>, String> {
        let observer = cluster.client(&home.name).await;
        let role = format!("CREATE ROLE {ROLE}");
        // Roles are of the whole cluster, so that another run may have made it.
        if let Err(error) = observer.batch_execute(&role).await
            && !matches!(
                error.code(),
                Some(&SqlState::DUPLICATE_OBJECT | &SqlState::UNIQUE_VIOLATION)
            )
        {
            return Err(explain(&error, &role));
        }
        for text in [&plan.world.schema, &plan.rows, &plan.access] {
            observer.batch_execute(text).await.map_err(|error| explain(&error, text))?;
        }
        let source = FaultProxy::start(&format!("127.0.0.1:{}", cluster.port())).await;
        let path = |name: &str| Path::new(&home.dir).join(name).display().to_string();
        let url = home.url.replace(&cluster.port().to_string(), &source.port().to_string());
        let mut environment = vec![
            ("DATABASE_URL".into(), url),
            ("HEADWATER_DATA_DIR".into(), path("data")),
            ("HEADWATER_JWT_SECRET".into(), oracle.secret.clone()),
            ("HEADWATER_DATASYNC".into(), "true".into()),
        ];
        // Tables are followed because somebody subscribes to them, or all of them from the beginning.
        if plan.seed.is_multiple_of(2) {
            environment.push(("HEADWATER_SYNC_FROM".into(), "policies".into()));
        }
        let server = HeadwaterProcess::spawn(ProcessOptions {
            binary: oracle.binary.clone(),
            arguments: vec!["serve".into()],
            environment,
            // A panic is never in order.
            allowed_log: vec!["WARN".into(), "ERROR".into()],
        });
        let clients = FaultProxy::start(&server.address().to_string()).await;
        let mut run = Run {
            plan,
            changer: cluster.client(&home.name).await,
            sessions: Sessions::connect(&cluster, &home.name).await,
            observer,
            server,
            clients,
            source,
            seats: Vec::new(),
        };
        run.changer.batch_execute("SET lock_timeout = '300ms'").await.map_err(|e| e.to_string())?;
        for (number, (user, asked)) in plan.world.users.iter().zip(&plan.asked).enumerate() {
            let token = (oracle.issue)(&user.name, &user.claims);
            let address = SocketAddr::from(([127, 0, 0, 1], run.clients.port()));
            let comes_back = [ComesBack::Anew, ComesBack::Resuming][number % 2];
            let client = LiveClient::start(address, &token, asked.clone(), comes_back);
            let past = |_: &Asked| Past { states: Vec::new(), at: 0 };
            let pasts = asked.iter().map(past).collect();
            run.seats.push(Seat { client, transaction: None, pasts });
        }
        run.note().await?;
        Ok(run)
    }

    async fn all(&mut self) -> Result<(), String> {
        for (number, step) in self.plan.steps.iter().enumerate() {
            let stepped = self.step(step).await;
            let stepped = match stepped {
                Ok(()) => self.is_well().await,
                failed => failed,
            };
            stepped.map_err(|what| {
                format!("step {number} of {}, {step:?}: {what}", self.plan.steps.len())
            })?;
        }
        Ok(())
    }

    /// Nobody was told anything that cannot be.
    async fn is_well(&mut self) -> Result<(), String> {
        for (seat, user) in self.seats.iter_mut().zip(&self.plan.world.users) {
            seat.client.failure().await.map_err(|what| format!("{}: {what}", user.name))?;
        }
        Ok(())
    }

    async fn step(&mut self, step: &Step) -> Result<(), String> {
        match step {
            Step::Sql { on, text } => {
                if self.sessions.execute(*on, text).await? == Executed::Committed {
                    self.note().await?;
                }
            }
            Step::Access { text } => self.access(text).await?,
            Step::Send { user, message, within } => {
                let transaction = self.seats[*user].transaction.clone().filter(|_| *within);
                let mut message = message.clone();
                if let Some(id) = &transaction {
                    message["transactionId"] = id.as_str().into();
                }
                self.send(*user, message).await?;
            }
            Step::Begin { user } => {
                let answer = self.send(*user, json!({"tag": "StartTransaction"})).await?;
                let id = answer.and_then(|it| it["transactionId"].as_str().map(str::to_owned));
                if let Some(earlier) = std::mem::replace(&mut self.seats[*user].transaction, id) {
                    let message = json!({"tag": "RollbackTransaction", "id": earlier});
                    self.send(*user, message).await?;
                }
            }
            Step::End { user, commits } => {
                if let Some(id) = self.seats[*user].transaction.take() {
                    let tag = if *commits { "CommitTransaction" } else { "RollbackTransaction" };
                    self.send(*user, json!({"tag": tag, "id": id})).await?;
                }
            }
            Step::Ask { user, slot } => self.ask(*user, *slot).await?,
            Step::Toggle { user, slot } => {
                let client = &self.seats[*user].client;
                let wanted = client.slots().get(*slot).map(|slot| slot.is_wanted);
                if let Some(wanted) = wanted {
                    client.want(*slot, !wanted);
                }
            }
            Step::CutAfter { user, messages } => self.seats[*user].client.cut_after(*messages),
            Step::SendAndCut { user, message } => {
                let client = &self.seats[*user].client;
                drop(client.ask(message.clone()));
                client.cut_after(0);
            }
            Step::Forget { user } => self.seats[*user].client.forget(),
            Step::Kill => {
                self.server.kill();
                self.server.spawn_again();
            }
            Step::DropSlot => {
                self.server.kill();
                drop_slots(&self.observer).await?;
                self.server.spawn_again();
            }
            Step::CutClients { after, reset } => cut(&self.clients, *after, *reset),
            Step::CutSource { after, reset } => cut(&self.source, *after, *reset),
            Step::Settle => self.settle().await?,
        }
        Ok(())
    }

    /// Sends a message, and notes what it did.
    ///
    /// - Returns: the answer, if there was one.
    async fn send(&mut self, user: usize, message: Value) -> Result<Option<Value>, String> {
        let tag = message["tag"].as_str().unwrap_or_default().to_owned();
        let answer = self.seats[user].client.ask(message);
        let answer = self.answer(user, answer).await?;
        match &answer {
            Some(answer) => {
                let said = answer["tag"].as_str().unwrap_or_default();
                // `CreateRecordMessage`: `DidCreateRecord`; `CommitTransaction`: `DidCommitTransaction`.
                let done = format!("Did{}", tag.trim_end_matches("Message"));
                if said != done && said != "DataSyncError" && said != "DataSyncResult" {
                    return Err(format!("{tag} is answered with {answer}"));
                }
                let code = answer["code"].as_str().unwrap_or_default();
                // What the database did is not known where it did not answer.
                if matches!(code, "HW5307" | "HW5308") {
                    self.nobody_writes().await?;
                }
            }
            None => self.nobody_writes().await?,
        }
        self.note().await?;
        Ok(answer)
    }

    /// Waits for an answer. Whoever may keep it waiting is ended: nobody but us could.
    async fn answer(
        &mut self,
        user: usize,
        mut answer: oneshot::Receiver<Value>,
    ) -> Result<Option<Value>, String> {
        if let Ok(answer) = tokio::time::timeout(PATIENCE, &mut answer).await {
            return Ok(answer.ok());
        }
        self.sessions.roll_back().await;
        self.end_transactions(Some(user)).await?;
        bounded("a request is answered", answer).await.map(Result::ok)
    }

    /// Rolls back the transactions of all users but one.
    async fn end_transactions(&mut self, but: Option<usize>) -> Result<(), String> {
        for user in (0..self.seats.len()).filter(|user| Some(*user) != but) {
            if let Some(id) = self.seats[user].transaction.take() {
                let message = json!({"tag": "RollbackTransaction", "id": id});
                let answer = self.seats[user].client.ask(message);
                let _ = bounded("a transaction is rolled back", answer).await?;
            }
        }
        Ok(())
    }

    /// Waits until nothing is under way that could still be committed.
    async fn nobody_writes(&mut self) -> Result<(), String> {
        self.sessions.roll_back().await;
        self.end_transactions(None).await?;
        let writes = "SELECT count(*) FROM pg_stat_activity WHERE datname = current_database() \
                      AND backend_type = 'client backend' AND backend_xid IS NOT NULL";
        let observer = &self.observer;
        bounded("nobody writes", async {
            while observer.query_one(writes, &[]).await.map_or(true, |it| it.get::<_, i64>(0) > 0) {
                tokio::time::sleep(Duration::from_millis(10)).await;
            }
        })
        .await
    }

    async fn access(&mut self, text: &str) -> Result<(), String> {
        for _ in 0..TRIES {
            let Err(error) = self.changer.batch_execute(text).await else { break };
            let _ = self.changer.batch_execute("ROLLBACK").await;
            if error.code() != Some(&SqlState::LOCK_NOT_AVAILABLE) {
                // A policy that is not there, or a plan that was made smaller.
                break;
            }
            self.sessions.roll_back().await;
            self.end_transactions(None).await?;
        }
        self.note().await
    }

    /// Asks once, when nobody writes: the answer is what Postgres shows now.
    async fn ask(&mut self, user: usize, slot: usize) -> Result<(), String> {
        let Some(asked) = self.plan.asked[user].get(slot) else { return Ok(()) };
        let answer = self.seats[user].client.ask(asked.inquiry());
        let Some(answer) = self.answer(user, answer).await? else { return Ok(()) };
        let now = self.seats[user].pasts[slot].last();
        let records = || answer["result"].as_array().cloned().unwrap_or_default();
        let is_right = match (answer["tag"].as_str(), now) {
            (Some("DataSyncResult"), State::Rows(rows)) if asked.wants == Wants::Count => {
                *rows == asked.rows([records().len().into()])
            }
            (Some("DataSyncResult"), State::Rows(rows)) => *rows == asked.rows(records()),
            (Some("DataSyncError"), State::Refused) => true,
            // The database does not answer, or somebody has a lock.
            (Some("DataSyncError"), State::Rows(_)) => answer["code"] == "HW5307",
            _ => false,
        };
        match is_right {
            true => Ok(()),
            false => {
                Err(format!("{} is answered with {answer}, and not with {now:?}", asked.query))
            }
        }
    }

    /// Notes what everybody is shown now.
    async fn note(&mut self) -> Result<(), String> {
        for number in 0..self.seats.len() {
            let user = &self.plan.world.users[number];
            let states = self.shown_to(user, &self.plan.asked[number]).await?;
            for (past, state) in self.seats[number].pasts.iter_mut().zip(states) {
                if past.states.last() != Some(&state) {
                    past.states.push(state);
                }
            }
        }
        Ok(())
    }

    /// What Postgres shows a user.
    async fn shown_to(&self, user: &User, asked: &[Asked]) -> Result<Vec<State>, String> {
        let mut claims = user.claims.clone();
        claims.insert("sub".into(), user.name.as_str().into());
        let become_user = format!(
            "BEGIN; SET LOCAL TIME ZONE 'UTC'; SET LOCAL ROLE {ROLE};
             SELECT set_config('request.jwt.claim.sub', {}, true), set_config('request.jwt.claims', {}, true)",
            quoted(&user.name),
            quoted(&Value::from(claims).to_string()),
        );
        let sql = &self.observer;
        let failed = |error: tokio_postgres::Error| explain(&error, "a question");
        sql.batch_execute(&become_user).await.map_err(failed)?;
        let mut states = Vec::new();
        for asked in asked {
            let question = asked.question();
            let whole = format!(
                "SAVEPOINT question; SELECT relrowsecurity::text FROM pg_class WHERE oid = '{}'::regclass; {question}",
                asked.table
            );
            let state = match sql.simple_query(&whole).await {
                Ok(messages) => {
                    let mut rows = messages.iter().filter_map(|message| match message {
                        SimpleQueryMessage::Row(row) => row.get(0),
                        _ => None,
                    });
                    let is_secured = rows.next() == Some("true");
                    let records = rows.map(serde_json::from_str::<Value>);
                    let records: Vec<Value> =
                        records.collect::<Result<_, _>>().map_err(|error| error.to_string())?;
                    match is_secured {
                        true => State::Rows(asked.rows(records)),
                        false => State::Refused,
                    }
                }
                Err(error) if error.code() == Some(&SqlState::INSUFFICIENT_PRIVILEGE) => {
                    sql.batch_execute("ROLLBACK TO question").await.map_err(failed)?;
                    State::Refused
                }
                Err(error) => return Err(explain(&error, &question)),
            };
            states.push(state);
        }
        sql.batch_execute("ROLLBACK").await.map_err(failed)?;
        Ok(states)
    }

    /// Everybody holds what Postgres shows, and was shown on the way what Postgres showed, in order.
    async fn settle(&mut self) -> Result<(), String> {
        self.source.heal();
        self.nobody_writes().await?;
        let end = Instant::now() + 2 * BOUND;
        loop {
            // A message whose socket ended may have been done in the end.
            self.note().await?;
            self.is_well().await?;
            let different = self.different();
            if different.is_none() {
                break;
            }
            if Instant::now() > end {
                let said = status(self.server.address()).await.unwrap_or_default();
                return Err(format!(
                    "P3: {}; P6: state {}, trouble {}",
                    different.unwrap_or_default(),
                    said["state"],
                    said["trouble"]
                ));
            }
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        self.explain()
    }

    /// Who holds something else than Postgres shows.
    fn different(&self) -> Option<String> {
        for (seat, user) in self.seats.iter().zip(&self.plan.world.users) {
            let slots = seat.client.slots();
            for (slot, past) in slots.iter().zip(&seat.pasts) {
                if !slot.is_wanted {
                    continue;
                }
                let what = match (past.last(), &slot.held) {
                    (State::Rows(_), _) if !slot.is_followed => "it is not followed".to_owned(),
                    (State::Rows(rows), Some(held)) => match difference(rows, held) {
                        Ok(()) => continue,
                        Err(what) => what,
                    },
                    (State::Refused, None) if !slot.is_followed => continue,
                    (State::Refused, held) => format!("it is refused, and {held:?} is held"),
                    (State::Rows(_), None) => "nothing is held".to_owned(),
                };
                return Some(format!("{}: {}: {what}", user.name, slot.asked.query));
            }
        }
        None
    }

    /// Explains everything that was shown.
    fn explain(&mut self) -> Result<(), String> {
        for (seat, user) in self.seats.iter_mut().zip(&self.plan.world.users) {
            let mut slots = seat.client.slots();
            for (slot, past) in slots.iter_mut().zip(&mut seat.pasts) {
                for (number, shown) in std::mem::take(&mut slot.history).iter().enumerate() {
                    past.explain(shown).map_err(|what| {
                        let (name, Asked { query, sql, .. }) = (&user.name, &slot.asked);
                        let told = &shown.why;
                        format!("P4: {name}: {query}\n{sql}\nnumber {number}, by {told}: {what}")
                    })?;
                }
            }
        }
        Ok(())
    }

    /// Status and the end of the log, for a failure.
    async fn report(&self) -> String {
        let status = status(self.server.address()).await.unwrap_or_default();
        let log = self.server.log();
        let lines: Vec<&str> = log.lines().collect();
        let lines = lines[lines.len().saturating_sub(12)..].join("\n");
        format!("state {}, trouble {}\n{lines}", status["state"], status["trouble"])
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rows(ids: &[i32]) -> State {
        let records = ids.iter().map(|id| json!({"id": id}));
        State::Rows(Asked::all("t").rows(records))
    }

    fn past() -> Past {
        Past { states: vec![rows(&[1]), rows(&[1, 2]), State::Refused, rows(&[2])], at: 0 }
    }

    fn explain(past: &mut Past, state: State) -> Result<(), String> {
        past.explain(&Shown { state, why: String::new() })
    }

    #[test]
    fn states_may_be_left_out_and_shown_twice() {
        let mut past = past();
        for state in [rows(&[1]), rows(&[1]), State::Refused, rows(&[2]), rows(&[2])] {
            explain(&mut past, state).unwrap();
        }
    }

    #[test]
    fn states_that_never_were_and_older_ones_are_refused() {
        explain(&mut past(), rows(&[1, 2, 3])).unwrap_err();
        explain(&mut past(), rows(&[])).unwrap_err();
        let mut behind = past();
        explain(&mut behind, rows(&[2])).unwrap();
        explain(&mut behind, rows(&[1])).unwrap_err();
        explain(&mut behind, State::Refused).unwrap_err();
    }
}
