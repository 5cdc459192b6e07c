//! What one seed does to live queries: a world under policies, what is asked of it, and steps.

use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use super::access;
use super::queries::Asked;
use super::run::run;
use crate::oracle::plan::CONNECTIONS;
use crate::oracle::run::Oracle;
use crate::oracle::shrink::Case;
use crate::oracle::traffic;
use crate::oracle::world::{Form, GROUPS, KEYS, TAGS, Table, USERS, World};

/// Batches, each of which ends with everybody settled, and transactions of a batch.
const BATCHES: usize = 3;
const TRANSACTIONS: usize = 8;

/// Subscriptions of a user.
const SUBSCRIPTIONS: usize = 4;

/// One thing that is done, and waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Step {
    /// A statement on one of the connections; the transaction is over when it fails.
    Sql {
        on: usize,
        text: String,
    },
    /// Statements that change who may see what; they may fail.
    Access {
        text: String,
    },
    /// A user's message over the socket, in the user's open transaction if it says so and there is one.
    Send {
        user: usize,
        message: Value,
        within: bool,
    },
    /// A user begins a transaction, and ends it.
    Begin {
        user: usize,
    },
    End {
        user: usize,
        commits: bool,
    },
    /// A user asks one of the questions once.
    Ask {
        user: usize,
        slot: usize,
    },
    /// A user ends a subscription, or begins it again.
    Toggle {
        user: usize,
        slot: usize,
    },
    /// A user's socket ends behind so many messages.
    CutAfter {
        user: usize,
        messages: u64,
    },
    /// A user's message is sent, and the socket ends at once.
    SendAndCut {
        user: usize,
        message: Value,
    },
    /// A client loses everything.
    Forget {
        user: usize,
    },
    /// The server is killed and started again.
    Kill,
    /// The same, with its slot dropped between.
    DropSlot,
    /// Connections of clients end, now or behind so many bytes.
    CutClients {
        after: Option<u64>,
        reset: bool,
    },
    /// Connections of the server to Postgres end.
    CutSource {
        after: Option<u64>,
        reset: bool,
    },
    /// All clients come to what SQL answers.
    Settle,
}

/// Everything that a run does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct LivePlan {
    pub(super) seed: u64,
    pub(super) world: World,
    /// Rows to begin with.
    pub(super) rows: String,
    /// Policies and grants.
    pub(super) access: String,
    /// Of each user, what it subscribes to.
    pub(super) asked: Vec<Vec<Asked>>,
    pub(super) steps: Vec<Step>,
}

impl Case for LivePlan {
    const EXTENSION: &'static str = "live";

    fn new(seed: u64) -> LivePlan {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let world = World::new(rng);
        let rows = traffic::seed_rows(rng, &world);
        let (access, words) = access::setup(rng, &world);
        let of_user = |rng: &mut StdRng| -> Vec<Asked> {
            (0..SUBSCRIPTIONS).map(|_| Asked::new(rng, &world, &words)).collect()
        };
        let asked = world.users.iter().map(|_| of_user(rng)).collect();
        let mut plan = LivePlan { seed, world, rows, access, asked, steps: Vec::new() };
        for _ in 0..BATCHES {
            plan.batch(rng);
        }
        plan
    }

    fn parse(text: &str) -> Result<LivePlan, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan is text")
    }

    fn steps(&self) -> usize {
        self.steps.len()
    }

    fn without(&self, from: usize, count: usize) -> LivePlan {
        let mut smaller = self.clone();
        smaller.steps.drain(from..(from + count).min(self.steps.len()));
        // Nobody looks without it.
        if smaller.steps.last() != Some(&Step::Settle) {
            smaller.steps.push(Step::Settle);
        }
        smaller
    }

    fn smaller(&self) -> Vec<LivePlan> {
        let mut all = Vec::new();
        for user in 0..self.asked.len() {
            for slot in 0..self.asked[user].len() {
                let mut smaller = self.clone();
                smaller.asked[user].remove(slot);
                all.push(smaller);
            }
        }
        all
    }

    async fn run(&self, oracle: &Arc<Oracle>) -> Result<(), String> {
        run(oracle, self).await
    }
}

impl LivePlan {
    /// The same, but for its steps: all sockets end behind the first message, then behind the second one, and
    /// so on up to so many; each time transactions are committed meanwhile.
    pub fn with_cut_after_each(mut self, messages: u64) -> LivePlan {
        let mut rng = StdRng::seed_from_u64(self.seed);
        self.steps.clear();
        for messages in 1..=messages {
            for user in 0..self.world.users.len() {
                self.steps.push(Step::CutAfter { user, messages });
            }
            for _ in 0..4 {
                let body = traffic::transaction(&mut rng, &self.world);
                let body =
                    ["BEGIN".to_owned()].into_iter().chain(body).chain(["COMMIT".to_owned()]);
                self.steps.extend(body.map(|text| Step::Sql { on: 0, text }));
            }
            self.steps.push(Step::Settle);
        }
        self
    }

    fn batch(&mut self, rng: &mut StdRng) {
        let mut open: Vec<(usize, Vec<String>)> = Vec::new();
        let mut begun = 0;
        // Mostly nobody loses access in a batch, so that plans are used.
        let changes_access = rng.random_bool(0.5);
        if !changes_access {
            self.steps.push(Step::Access { text: access::open(&self.world) });
        }
        while begun < TRANSACTIONS || !open.is_empty() {
            let free: Vec<usize> =
                (0..CONNECTIONS).filter(|on| open.iter().all(|(other, _)| other != on)).collect();
            if begun < TRANSACTIONS && !free.is_empty() && (open.is_empty() || rng.random_bool(0.3))
            {
                begun += 1;
                for _ in 0..rng.random_range(0..3) {
                    let step = self.beside(rng, changes_access);
                    self.steps.push(step);
                }
                let mut body = traffic::transaction(rng, &self.world);
                body.insert(0, "BEGIN".into());
                body.push(if rng.random_bool(0.1) { "ROLLBACK" } else { "COMMIT" }.into());
                body.reverse();
                open.push((*free.choose(rng).expect("not empty"), body));
            } else {
                let at = rng.random_range(0..open.len());
                let (on, rest) = &mut open[at];
                let text = rest.pop().expect("it is not over");
                // Nobody can look at a table meanwhile, so that it is not kept waiting.
                let whole = text.contains("TRUNCATE");
                self.steps.push(Step::Sql { on: *on, text });
                while let Some(text) = rest.pop_if(|_| whole) {
                    self.steps.push(Step::Sql { on: *on, text });
                }
                if rest.is_empty() {
                    open.remove(at);
                }
            }
        }
        for user in 0..self.world.users.len() {
            self.steps.push(Step::End { user, commits: rng.random_bool(0.7) });
        }
        if rng.random_bool(0.2) {
            // What becomes of it is known when all is settled.
            let (user, message) = (self.user(rng), self.message(rng));
            self.steps.push(Step::SendAndCut { user, message });
        }
        self.steps.push(Step::Settle);
    }

    fn user(&self, rng: &mut StdRng) -> usize {
        rng.random_range(0..self.world.users.len())
    }

    /// Something beside transactions.
    fn beside(&self, rng: &mut StdRng, changes_access: bool) -> Step {
        let user = self.user(rng);
        let slot = rng.random_range(0..SUBSCRIPTIONS);
        let after = |rng: &mut StdRng| match rng.random_bool(0.5) {
            true => None,
            false => Some(rng.random_range(0..20_000)),
        };
        match rng.random_range(0..48) {
            0..12 => Step::Send { user, message: self.message(rng), within: rng.random_bool(0.5) },
            12..16 => Step::Begin { user },
            16..20 => Step::End { user, commits: rng.random_bool(0.6) },
            20..25 => Step::Ask { user, slot },
            25..29 => Step::Toggle { user, slot },
            29..34 => Step::CutAfter { user, messages: rng.random_range(0..12) },
            34 => Step::Forget { user },
            35 | 36 => Step::CutClients { after: after(rng), reset: rng.random_bool(0.5) },
            37 => Step::CutSource { after: after(rng), reset: rng.random_bool(0.5) },
            38 => Step::Kill,
            39 if rng.random_bool(0.3) => Step::DropSlot,
            40..48 if changes_access => Step::Access { text: access::change(rng, &self.world) },
            _ => Step::Send { user, message: self.message(rng), within: true },
        }
    }

    /// A write as clients send it.
    fn message(&self, rng: &mut StdRng) -> Value {
        let tables: Vec<&Table> =
            self.world.tables.iter().filter(|table| table.form != Form::Keyless).collect();
        let Some(table) = tables.choose(rng) else {
            return json!({"tag": "DeleteRecordMessage", "table": self.world.memberships[0].name, "id": 1});
        };
        let name = &table.name;
        let key = |rng: &mut StdRng| table.key.value("k", rng.random_range(0..KEYS));
        let id = |rng: &mut StdRng| match table.form {
            Form::Composite => json!([key(rng), rng.random_range(0..2)]),
            _ => key(rng),
        };
        let ids = |rng: &mut StdRng| -> Vec<Value> { (0..3).map(|_| id(rng)).collect() };
        let record = |rng: &mut StdRng| {
            let mut record = json!({
                "id": key(rng), "owner": USERS.choose(rng), "kind": rng.random_range(0..4),
                "tag": TAGS.choose(rng), "flag": rng.random_bool(0.7),
                "grp": self.world.group.value("g", rng.random_range(0..GROUPS)),
                "alt": format!("{:08x}-0000-4000-8000-{:012}", rng.random::<u32>(), rng.random_range(0..9)),
                "body": "text ".repeat(rng.random_range(1..200)),
            });
            if table.form == Form::Composite {
                record["org"] = rng.random_range(0..2).into();
            }
            record
        };
        let patch = |rng: &mut StdRng| match rng.random_range(0..6) {
            0 => json!({"owner": USERS.choose(rng)}),
            1 => json!({"kind": rng.random_range(0..4), "num": null}),
            2 => json!({"grp": self.world.group.value("g", rng.random_range(0..GROUPS))}),
            3 => json!({"body": "text ".repeat(rng.random_range(1..300))}),
            4 => json!({}),
            _ => json!({"tag": TAGS.choose(rng), "amount": rng.random_range(0..9)}),
        };
        match rng.random_range(0..10) {
            0..3 => json!({"tag": "CreateRecordMessage", "table": name, "record": record(rng)}),
            3 => {
                let records = [record(rng), record(rng)];
                json!({"tag": "CreateRecordsMessage", "table": name, "records": records})
            }
            4..7 => {
                json!({"tag": "UpdateRecordMessage", "table": name, "id": id(rng), "patch": patch(rng)})
            }
            7 => {
                json!({"tag": "UpdateRecordsMessage", "table": name, "ids": ids(rng), "patch": patch(rng)})
            }
            8 => json!({"tag": "DeleteRecordMessage", "table": name, "id": id(rng)}),
            _ => json!({"tag": "DeleteRecordsMessage", "table": name, "ids": ids(rng)}),
        }
    }
}
