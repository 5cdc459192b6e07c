//! What one seed does: a world, configurations over it, and steps. A plan is text, so that one that
//! failed is kept and replayed whatever becomes of the generator.

use std::collections::BTreeMap;
use std::sync::Arc;

use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use rand::{Rng, SeedableRng};
use serde::{Deserialize, Serialize};

use super::definitions::Config;
use super::disturb::{self, Memory};
use super::run::{Oracle, run};
use super::shrink::Case;
use super::traffic;
use super::world::World;

/// How many connections have transactions open at the same time.
pub(super) const CONNECTIONS: usize = 3;

/// One thing that is done, and waited for.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Step {
    /// A statement on one of the connections; the transaction is over when it fails.
    Sql { on: usize, text: String },
    /// Statements that change what tables are, outside of the other connections; they may fail.
    /// Definitions that read one of these tables may lag behind the others until they settle.
    Ddl { text: String, touches: Vec<String> },
    /// Both writers pour so many rows, one transaction each, beside everything that follows.
    Pour { rows: usize },
    /// The status must come to name this table.
    Named { table: String },
    /// The server gets this configuration.
    Configure { to: usize },
    /// The server is killed and started again.
    Kill,
    /// The same, with its slot dropped between.
    DropSlot,
    /// Postgres stops without a checkpoint and recovers.
    PostgresCrash,
    /// Connections of clients end, now or behind so many bytes.
    CutClients { after: Option<u64>, reset: bool },
    /// Connections of the server to Postgres end.
    CutSource { after: Option<u64>, reset: bool },
    /// They stay and carry nothing.
    HalfOpenSource,
    /// They carry little.
    SlowSource { kilobytes: u64 },
    /// They are as they should be.
    HealSource,
    /// The disk of the store runs full, and the status says so.
    FillDisk,
    /// It has room again.
    FreeDisk,
    /// One call that writes fails.
    DiskError { call: u64, errno: i32 },
    /// Syncs take long.
    SlowDisk { milliseconds: u32 },
    /// The directory of the store is copied while the server stands still.
    SaveStore,
    /// That copy is put back; where that was waited for, after the source was told of more than it holds.
    OldStore { confirmed: bool },
    /// A second server wants the slot, is told to wait, and goes away.
    SecondServer,
    /// Postgres's directory is copied while it is stopped.
    SaveImage,
    /// That copy is put back.
    OldImage,
    /// Clients lose everything.
    Forget,
    /// All clients come to what SQL answers.
    Settle,
}

/// Everything that a run does.
#[derive(Clone, Debug, Serialize, Deserialize)]
pub struct Plan {
    pub(super) seed: u64,
    /// It stops Postgres, so it needs one of its own.
    pub(super) wild: bool,
    pub(super) world: World,
    pub(super) configs: Vec<Config>,
    /// Rows to begin with.
    pub(super) rows: String,
    pub(super) steps: Vec<Step>,
}

/// Batches, each of which ends with everybody settled, and transactions of a batch.
const BATCHES: usize = 3;
const TRANSACTIONS: usize = 12;

impl Case for Plan {
    const EXTENSION: &'static str = "plan";

    fn new(seed: u64) -> Plan {
        let mut rng = StdRng::seed_from_u64(seed);
        let rng = &mut rng;
        let mut world = World::new(rng);
        let first = Config::new(rng, &mut world);
        // Another one over what is copied already, and one over anything.
        let second = first.other(rng, &world, 10, Some(&first.reads()));
        let third = first.other(rng, &world, 20, None);
        let rows = traffic::seed_rows(rng, &world);
        let wild = seed % 16 == 7;
        let enabled: Vec<_> = disturb::enabled()
            .into_iter()
            .filter(|what| wild || !disturb::is_wild(*what))
            .collect();
        let mut plan = Plan {
            seed,
            wild,
            world,
            configs: vec![first, second, third],
            rows,
            steps: Vec::new(),
        };
        let mut memory = Memory::default();
        for batch in 0..BATCHES {
            plan.batch(rng, TRANSACTIONS, &enabled, &mut memory);
            if batch + 1 == BATCHES || rng.random_bool(0.3) {
                plan.steps.extend([Step::Forget, Step::Settle]);
            }
        }
        plan
    }

    fn parse(text: &str) -> Result<Plan, String> {
        serde_json::from_str(text).map_err(|error| error.to_string())
    }

    fn text(&self) -> String {
        serde_json::to_string_pretty(self).expect("a plan is text")
    }

    fn steps(&self) -> usize {
        self.steps.len()
    }

    fn without(&self, from: usize, count: usize) -> Plan {
        let mut smaller = self.clone();
        smaller.steps.drain(from..(from + count).min(self.steps.len()));
        // Nobody looks without it.
        if smaller.steps.last() != Some(&Step::Settle) {
            smaller.steps.push(Step::Settle);
        }
        smaller
    }

    /// Without a definition, or a user.
    fn smaller(&self) -> Vec<Plan> {
        let mut all = Vec::new();
        for config in 0..self.configs.len() {
            for definition in 0..self.configs[config].definitions.len() {
                let mut smaller = self.clone();
                smaller.configs[config].definitions.remove(definition);
                all.push(smaller);
            }
        }
        for user in 0..self.world.users.len() {
            if self.world.users.len() > 1 {
                let mut smaller = self.clone();
                smaller.world.users.remove(user);
                all.push(smaller);
            }
        }
        all
    }

    async fn run(&self, oracle: &Arc<Oracle>) -> Result<(), String> {
        run(oracle, self).await
    }
}

impl Plan {
    fn batch(
        &mut self,
        rng: &mut StdRng,
        transactions: usize,
        enabled: &[disturb::Disturbance],
        memory: &mut Memory,
    ) {
        let mut steps = Vec::new();
        if rng.random_bool(0.6) {
            steps.push(Step::Pour { rows: rng.random_range(20..120) });
        }
        // Where each disturbance begins, and then where it ends.
        let mut due: BTreeMap<usize, Vec<disturb::Sequence>> = BTreeMap::new();
        for _ in 0..rng.random_range(0..=3) {
            let Some(what) = enabled.choose(rng) else { continue };
            if let Some(sequence) = disturb::sequence(*what, rng, &self.world, memory)
                && !due.values().flatten().any(|other| disturb::meet(other, &sequence))
            {
                due.entry(rng.random_range(0..transactions)).or_default().push(sequence);
            }
        }
        let mut open: Vec<(usize, Vec<String>)> = Vec::new();
        let mut begun = 0;
        while begun < transactions || !open.is_empty() {
            for (first, later) in due.remove(&begun).unwrap_or_default() {
                // Mostly nobody else is in the middle of something that would be in its way.
                if rng.random_bool(0.8) {
                    for (on, rest) in open.drain(..) {
                        steps.extend(rest.into_iter().rev().map(|text| Step::Sql { on, text }));
                    }
                }
                steps.extend(first);
                if !later.is_empty() {
                    let at = rng.random_range(begun + 1..=transactions);
                    due.entry(at).or_default().push((later, Vec::new()));
                }
            }
            if begun == transactions && open.is_empty() {
                break;
            }
            let free: Vec<usize> =
                (0..CONNECTIONS).filter(|on| open.iter().all(|(other, _)| other != on)).collect();
            if begun < transactions && !free.is_empty() && (open.is_empty() || rng.random_bool(0.4))
            {
                begun += 1;
                let mut body = match rng.random_bool(0.004) {
                    true => traffic::large(rng, &self.world),
                    false => traffic::transaction(rng, &self.world),
                };
                body.insert(0, "BEGIN".into());
                let end = if rng.random_bool(0.07) { "ROLLBACK" } else { "COMMIT" };
                body.push(end.into());
                body.reverse();
                open.push((*free.choose(rng).expect("not empty"), body));
            } else {
                let at = rng.random_range(0..open.len());
                let (on, rest) = &mut open[at];
                let text = rest.pop().expect("it is not over");
                // Nobody can look at a table meanwhile, so that it is not kept waiting.
                let whole = text.contains("TRUNCATE");
                steps.push(Step::Sql { on: *on, text });
                while let Some(text) = rest.pop_if(|_| whole) {
                    steps.push(Step::Sql { on: *on, text });
                }
                if rest.is_empty() {
                    open.remove(at);
                }
            }
        }
        // Ends that were due behind the last transaction.
        for (first, later) in due.into_values().flatten() {
            steps.extend(first);
            steps.extend(later);
        }
        steps.push(Step::Settle);
        self.steps.extend(steps);
    }
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
        "Keyless",
        "Composite",
        "Partitioned",
        "SAVEPOINT",
        "ROLLBACK",
        "TRUNCATE",
        "Pour",
        "Kill",
        "DropSlot",
        "CutSource",
        "CutClients",
        "SlowDisk",
        "Configure",
        "SecondServer",
    ];
    let mut counts = BTreeMap::new();
    for seed in seeds {
        let text = Plan::new(seed).text();
        for form in forms {
            *counts.entry(form).or_default() += usize::from(text.contains(form));
        }
    }
    counts
}
