//! The audit: what is held of results that are told by plans is compared with what Postgres shows
//! (`design/engine.md` 11).
//!
//! In: one such result after the other, each table in its turn. Out: where one is not what Postgres shows at a
//! snapshot, although nothing that touches it lies between the two, and is not again when the engine has looked at
//! the catalog behind that: an error, and no plan for that table and role as long as who may see what stays the same.
//! An audit only looks: nobody waits for it, and whoever agrees with it is told nothing.

use crate::asking::{Answer, Round};
use crate::found::{Disagreement, code};
use crate::ground::Ground;
use crate::kept::{Kept, Phase};
use crate::lanes::Lane;
use crate::live::Shared;
use crate::query::Question;
use crate::result::Held;
use crate::state::State;
use crate::unseen::{Unseen, View};
use hw_engine::{Committed, Published, Since};
use hw_pg::rights::Rights;
use hw_types::{Code, TableName};
use std::sync::Arc;
use std::time::{Duration, Instant};

/// How soon it is looked again whether what has differed once still does.
const AGAIN: Duration = Duration::from_millis(100);

/// How often that is tried: results that are touched all the time can be compared now and then only.
const TRIES: usize = 100;

/// What came of an audit.
enum Verdict {
    /// It could not be compared: something touches it at the moment.
    Unknown,
    Same,
    Differs(Rights, Disagreement),
}

/// The moment of what Postgres showed.
struct Shown {
    view: View,
    ground: Ground,
    /// What was known of snapshots before, and what this one does not see.
    known: Unseen,
    unseen: Unseen,
    /// Holds all that the snapshot saw.
    checked: Arc<Published>,
}

impl Shared {
    /// Compares one result after the other.
    ///
    /// - Takes: how long there is none behind one: at least this, and so many times what its question took.
    pub async fn audit(self: Arc<Shared>, pause: Duration, times: u32) {
        let all = async {
            let mut rest = pause;
            loop {
                tokio::time::sleep(rest).await;
                let next = self.state.lock().next_to_audit();
                let Some((number, question)) = next else { continue };
                let (verdict, took) = self.compare(number, &question).await;
                rest = pause.max(times * took);
                if let Verdict::Differs(_, one) = verdict {
                    self.confirm(number, &question, &one.difference).await;
                }
            }
        };
        self.stop.run_until_cancelled(all).await;
    }

    /// Compares once more what has differed, and believes it then. By then the engine has looked at the catalog again:
    /// a table that was written anew without a trace in the log is known to stand still.
    async fn confirm(&self, number: u64, question: &Question, difference: &str) {
        let since = Instant::now();
        for _ in 0..TRIES {
            tokio::time::sleep(AGAIN).await;
            if self.engine().catalog_looked_at().is_none_or(|at| at <= since) {
                continue;
            }
            match self.compare(number, question).await.0 {
                Verdict::Unknown => {}
                Verdict::Same => break,
                Verdict::Differs(rights, one) => return self.disprove(rights, one),
            }
        }
        let table = &question.query.table;
        tracing::info!(%table, difference, "a live result differed from what Postgres shows once, and not again");
    }

    fn disprove(&self, rights: Rights, one: Disagreement) {
        metrics::counter!("headwater_live_audit_disagreements_total").increment(1);
        tracing::error!(
            code = %Code(code::DISAGREES),
            table = %one.table,
            role = &*one.role,
            policies = one.policies.join(", "),
            with_lookup = one.with_lookup,
            difference = one.difference,
            mend = "report it with these policies and the functions that they call",
            "live results are not what Postgres shows; from now on it is asked for them"
        );
        self.state.lock().disprove(rights, one);
        self.wake_if_queued();
    }

    /// Asks for a result, and compares it with what is held of it. Comes with how long Postgres took.
    async fn compare(&self, number: u64, question: &Question) -> (Verdict, Duration) {
        let Some(known) = self.state.lock().unseen.clone() else {
            return (Verdict::Unknown, Duration::ZERO);
        };
        let began = Instant::now();
        // Nobody waits for it: it may take as long as any other.
        let bounds = &self.bounds[Lane::Slow as usize];
        let round = self.asking.round(bounds, std::slice::from_ref(question)).await;
        let Ok(Round { before, view, rights, checked, mut answers, .. }) = round else {
            return (Verdict::Unknown, Duration::ZERO);
        };
        let Some(Answer::Result(result, admitted, took)) = answers.pop() else {
            return (Verdict::Unknown, began.elapsed());
        };
        let Some(unseen) = Unseen::behind(Some(&known), before, &view, &checked) else {
            return (Verdict::Unknown, took);
        };
        let shown = Shown { view, ground: admitted.ground, known, unseen, checked };
        let mut state = self.state.lock();
        let now = self.engine().published();
        let Some(held) = state.held_as_of(number, &shown, &now) else {
            return (Verdict::Unknown, took);
        };
        let difference = held.difference(&result);
        metrics::counter!("headwater_live_audits_total").increment(1);
        state.audits.compared += 1;
        let Some(difference) = difference else { return (Verdict::Same, took) };
        state.audits.differed += 1;
        let disagreement = Disagreement {
            role: question.who.run_as.role.clone(),
            table: question.query.table.clone(),
            policies: admitted.policies,
            with_lookup: admitted.reads.tables.len() > 1,
            difference: difference.to_string(),
        };
        (Verdict::Differs(rights, disagreement), took)
    }
}

impl State {
    /// The next result that is told by a plan and stands as it was told.
    fn next_to_audit(&mut self) -> Option<(u64, Question)> {
        let State { planned, results, turns, .. } = self;
        let rests = |number: &u64| results.get(number).is_some_and(Kept::rests);
        let of = |table: &TableName| planned.get(table).into_iter().flat_map(|one| one.all());
        let number = turns.next(planned.keys().cloned(), |table| of(table).filter(rests))?;
        Some((number, results.get(&number)?.question.clone()))
    }

    /// What is held of a result, if its plan says that it is what a snapshot shows: nothing that touches it lies between,
    /// seen by one of them and not by the other.
    ///
    /// - Takes: what is published now.
    fn held_as_of(&self, number: u64, shown: &Shown, now: &Published) -> Option<&Held> {
        let Shown { view, ground, known, unseen, checked } = shown;
        let kept = self.results.get(&number).filter(|kept| kept.rests())?;
        let Phase::Told { held, .. } = &kept.phase else { return None };
        kept.ground.as_ref().filter(|it| it.is(ground) && it.holds())?;
        // What had been published before anything was known of snapshots, and has ended since.
        if known.suspects.iter().any(|xid| view.snapshot.sees(*xid) && kept.lacks(*xid)) {
            return None;
        }
        // Their rows in the replica are not those of Postgres, and no transaction says so.
        let follows = |table| now.table(table).followed().is_some();
        if !kept.reads.tables.iter().all(follows) {
            return None;
        }
        // One of these begins where the other one does, or before.
        let since = [self.followed.list, checked.change_place()];
        let [Since::Complete(followed), Since::Complete(asked)] =
            since.map(|place| now.committed_since(place))
        else {
            return None;
        };
        let touches = |one: &Arc<Committed>| {
            let described = |table: &&TableName| {
                one.tables.iter().any(|it| it.described && it.name() == *table)
            };
            one.altered
                || kept.reads.tables.iter().any(|table| described(&table))
                || kept.is_touched(one, &self.lookups)
        };
        let mut between = unseen.listed.iter().chain(&followed).chain(&asked);
        (!between.any(touches)).then_some(held)
    }

    /// Whoever has a plan that stands on what is not so gets another answer, and none any more.
    fn disprove(&mut self, rights: Rights, one: Disagreement) {
        let (role, table) = (one.role.clone(), one.table.clone());
        self.disproved.add(rights, one);
        self.audits.disagreed += 1;
        let stands_on_it = |kept: &&Kept| {
            kept.plan.is_some()
                && kept.question.who.run_as.role == role
                && kept.reads.tables.contains(&table)
        };
        let due = self.results.iter().filter(|(_, kept)| stands_on_it(kept));
        let due: Vec<u64> = due.map(|(number, _)| *number).collect();
        self.ask_all(due);
    }
}
