//! Rounds of one lane: whoever has to be asked is asked, and told.
//!
//! Rounds of several lanes go on beside each other. What makes that right: a result is in one round at a time;
//! each round knows by itself what was published and its snapshot did not see (`unseen`); and what was followed
//! while it went on is looked up in the list of changes when it is told.

use crate::asking::{Answer, Round};
use crate::book::Reads;
use crate::hindrances::Asks;
use crate::kept::{Moment, Phase, SinceMoments};
use crate::lanes::{Lane, SLOW};
use crate::live::Shared;
use crate::lookups::{NotHeld, ReadTable};
use crate::query::Question;
use crate::state::Told;
use crate::unseen::Unseen;
use hw_engine::ChangePlace;
use hw_expr::postgres::Table;
use hw_types::EndLsn;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;
use std::sync::atomic::Ordering;
use std::time::Duration;
use tokio::sync::MutexGuard;
use tokio::task::JoinError;

/// How often a question may fail for a reason that passes, before its subscription ends.
const FAILURES: u8 = 3;

/// Who is asked in a round.
type Batch = Vec<(u64, Question)>;

impl Shared {
    /// Asks whoever has to be asked in a lane, round by round.
    pub async fn ask(self: Arc<Shared>, lane: Lane) {
        let mut pause = Duration::ZERO;
        loop {
            let (batch, known) = {
                let mut state = self.state.lock();
                (state.batch(lane), state.unseen.clone())
            };
            // It may have given some to another lane.
            self.wake_if_queued();
            if batch.is_empty() {
                self.state.lock().hindrances.asked(Asks::In(lane), Ok(()));
                tokio::select! {
                    () = self.queued(lane) => continue,
                    () = self.stop.cancelled() => return,
                }
            }
            let questions: Vec<Question> =
                batch.iter().map(|(_, question)| question.clone()).collect();
            self.rounds.fetch_add(1, Ordering::Relaxed);
            metrics::counter!("headwater_live_rounds_total").increment(1);
            metrics::counter!("headwater_live_questions_total").increment(questions.len() as u64);
            match self.asking.round(&self.bounds[lane as usize], &questions).await {
                Ok(round) => {
                    pause = Duration::ZERO;
                    self.state.lock().hindrances.asked(Asks::In(lane), Ok(()));
                    self.tell(&batch, known.as_ref(), round).await;
                }
                Err(error) => {
                    let why = error.to_string();
                    tracing::debug!(why, "live results cannot be asked");
                    self.state.lock().hindrances.asked(Asks::In(lane), Err(why));
                    self.put_back(&batch);
                    // From 0.1 s to 2 s.
                    pause = (pause * 2).clamp(Duration::from_millis(100), Duration::from_secs(2));
                    tokio::select! {
                        () = tokio::time::sleep(pause) => {}
                        () = self.stop.cancelled() => return,
                    }
                }
            }
        }
    }

    /// A round failed: whoever was asked is asked again. Who waits for a first result waits for as long as
    /// they have patience.
    fn put_back(&self, batch: &Batch) {
        let mut state = self.state.lock();
        let numbers: Vec<u64> = batch.iter().map(|(number, _)| *number).collect();
        for number in &numbers {
            state.answered(*number);
        }
        state.put_back(&numbers);
    }

    /// Tells what a round has found.
    ///
    /// - Takes: what was known before it of what snapshots do not see.
    async fn tell(self: &Arc<Shared>, batch: &Batch, known: Option<&Unseen>, round: Round) {
        let Round { before, view, published, rights, checked, answers } = round;
        let unseen = Unseen::behind(known, before, &view, &checked);
        let Beside { read, place, _reading } = self.read_beside(&answers).await;
        let looked_at = self.engine().catalog_looked_at();
        let mut guard = self.state.lock();
        let state = &mut *guard;
        state.note(&rights);
        let is_settled = state.is_settled(&rights, looked_at);
        let now = self.engine().published();
        state.hold(read, &rights, now.committed_since(place));
        state.see(&view, unseen.as_ref());
        let at = Moment {
            snapshot: Arc::new(view.snapshot),
            place: checked.change_place(),
            applied: EndLsn::default(),
            told: EndLsn::default(),
        };
        let mut since = SinceMoments::new(&checked);
        let mut demanded = BTreeSet::new();
        let (mut told, mut unasked) = (Vec::new(), Vec::new());
        for ((number, question), answer) in batch.iter().zip(answers) {
            let Some(kept) = state.answered(*number) else { continue };
            match answer {
                Answer::Result(result, admitted, time) => {
                    let query = question.query.clone();
                    demanded.extend(admitted.reads.tables.iter().cloned());
                    // Whoever may read a table waits until its changes can be told.
                    kept.is_entering = matches!(kept.phase, Phase::First(_))
                        && checked.table(&query.table).entered().is_none();
                    if kept.is_entering {
                        kept.asked_since = None;
                        if kept.standing.due || now.table(&query.table).entered().is_some() {
                            state.ask(*number);
                        }
                        continue;
                    }
                    let rendering = state.rendering(&query, &checked, admitted.json);
                    let is_disproved = state.is_disproved(question, &admitted.reads, &rights);
                    let Some(kept) = state.results.get_mut(number) else { continue };
                    kept.failures = 0;
                    kept.asked_since = None;
                    kept.is_slow = time > SLOW;
                    kept.ground = Some(admitted.ground);
                    kept.rendering = rendering;
                    if let Err(error) = kept.tell(result, &at, &published, &mut since) {
                        kept.end(error, published.checkpoint.end_lsn);
                        state.remove(*number);
                        continue;
                    }
                    // Values of before a change of the catalog must not be judged by what it says now.
                    kept.is_unsettled = !is_settled && admitted.conditions.is_some();
                    let is_trusted = is_settled && !is_disproved;
                    let conditions = admitted.conditions.filter(|_| is_trusted);
                    let plan = kept.plan_for(conditions, &checked, &state.lookups);
                    // What was read of policies that are not understood says nothing of what they read.
                    let reads = match is_disproved {
                        true => Arc::new(Reads { unknown: true, ..(*admitted.reads).clone() }),
                        false => admitted.reads,
                    };
                    let is_told = !kept.inbox.has_gap();
                    state.depends(*number, reads, plan);
                    match is_told {
                        true => told.push(*number),
                        false => state.ask_behind_gap(*number),
                    }
                }
                Answer::Slow => {
                    kept.is_slow = true;
                    state.beside_slow(question);
                    state.ask(*number);
                }
                Answer::Unasked => unasked.push(*number),
                Answer::Refused(error) => {
                    let is_new = matches!(kept.phase, Phase::First(_));
                    kept.failures += 1;
                    if !is_new && error.may_pass() && kept.failures < FAILURES {
                        state.ask(*number);
                        continue;
                    }
                    let table = &question.query.table;
                    tracing::debug!(%table, %error, "a live result ends");
                    kept.end(error, published.checkpoint.end_lsn);
                    state.remove(*number);
                }
            }
        }
        state.put_back(&unasked);
        let told = Told {
            results: &told,
            unseen,
            began: before.end,
            latest: checked.checkpoint.end_lsn,
            since: now.committed_since(before.list),
        };
        let awaits = state.catch_up(&told);
        drop(guard);
        self.demand(demanded);
        self.wake_if_queued();
        if awaits {
            self.awaits.notify_one();
        }
    }

    /// Reads the tables that policies of the answers read beside, as far as they are not held.
    async fn read_beside(&self, answers: &[Answer]) -> Beside<'_> {
        let inner = answers.iter().filter_map(|answer| match answer {
            Answer::Result(_, admitted, _) => admitted.conditions.as_ref(),
            Answer::Refused(_) | Answer::Slow | Answer::Unasked => None,
        });
        let inner: BTreeMap<u32, &Table> =
            inner.flat_map(|known| known.inner.iter()).map(|table| (table.number, table)).collect();
        let missing = || {
            let state = self.state.lock();
            let missing = inner.values().filter(|table| state.lookups.lacks(table.number));
            missing.map(|table| (*table).clone()).collect::<Vec<Table>>()
        };
        let reading = match missing().is_empty() {
            true => None,
            false => Some(self.reading.lock().await),
        };
        // Somebody else may have read them meanwhile.
        let missing = missing();
        let published = self.engine().published();
        let place = published.change_place();
        if reading.is_none() || missing.is_empty() {
            return Beside { read: Vec::new(), place, _reading: reading };
        }
        let limit = self.state.lock().lookups.limit();
        // Their rows come from the disk.
        let task = tokio::task::spawn_blocking(move || {
            let read = |table: Table| (table.number, ReadTable::read(&published, &table, limit));
            missing.into_iter().map(read).collect::<Vec<_>>()
        });
        let found = match task.await.map_err(JoinError::try_into_panic) {
            Ok(found) => found,
            Err(Ok(panic)) => std::panic::resume_unwind(panic),
            // The runtime ends.
            Err(Err(_)) => Vec::new(),
        };
        let mut read = Vec::new();
        for (oid, found) in found {
            match found {
                Ok(table) => read.push(table),
                // Whoever cannot be told by them is asked.
                Err(NotHeld::TooLarge) => self.state.lock().lookups.refuse(oid),
                Err(NotHeld::NotFollowed | NotHeld::Failed) => {}
            }
        }
        Beside { read, place, _reading: reading }
    }
}

/// Tables that were read.
struct Beside<'r> {
    read: Vec<ReadTable>,
    /// From here on changes of them count.
    place: ChangePlace,
    /// Nobody else reads them before they are held.
    _reading: Option<MutexGuard<'r, ()>>,
}
