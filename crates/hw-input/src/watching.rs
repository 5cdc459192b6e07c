//! The watch over the source's catalog: what the log does not say.
//!
//! What a table's rows depend on was noted when it was copied. At each connect, once a second, and
//! when the log says that tables were altered, the catalog is compared with that. A difference
//! becomes an entry: adopted, copied again, or gone (`design/seams.md` 10).
//!
//! Invariant: a table of which it cannot be said that its rows are right is marked before the
//! publication is mended: nothing is applied to rows that missed something.

use crate::context::Context;
use crate::entry::Control;
use crate::error::{InputError, code};
use crate::history::is_another;
use crate::markers::MarkerError;
use crate::replica::{Looked, ReplicaTable, Tables};
use crate::signal::Signal;
use hw_pg::catalog::{Catalog, Difference, Reason, Resolved, compare, is_traced, resolve, settle};
use hw_pg::error::PgError;
use hw_pg::slot::{self, SlotState};
use hw_types::facts::TableFacts;
use hw_types::{Diagnostic, Lsn, RelationId, TableName, TablePattern, Xid};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::sync::atomic::{AtomicU32, Ordering};
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// How long the catalog may take to answer a look.
const ANSWER: Duration = Duration::from_secs(10);

/// A look that takes so long may wait for somebody's lock.
const LATE: Duration = Duration::from_secs(2);

/// Compares the catalog with what is noted.
#[derive(Default)]
pub(crate) struct Watch {
    /// Kept from look to look.
    client: Option<Client>,
    /// The process at the source that answers looks; 0 without one.
    backend: Arc<AtomicU32>,
    /// What the last look found nothing to do about: fingerprint, patterns, tables.
    settled: Option<(i64, Arc<Vec<TablePattern>>, Arc<Tables>)>,
    /// Tables whose files are others: the log may still come to their TRUNCATE.
    suspected: HashMap<RelationId, Suspicion>,
    /// Stale tables of which it was told that the log lacks what became of their rows.
    untraced: BTreeSet<RelationId>,
    /// Whether the last look found something new.
    eventful: bool,
    /// Tables that cannot be replicated, as the engine was told last.
    refused: Option<BTreeSet<TableName>>,
}

/// Transactions that gave a table other files, and of which the log has not told that they emptied it.
struct Suspicion {
    by: BTreeSet<Xid>,
    /// A place in the log behind all of them, when one is known.
    until: Option<Lsn>,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The replica has every table that definitions name and that can be replicated, as it is.
    Complete,
    /// There are tables to copy.
    Missing,
    /// The same, and the publication does not send all of them yet.
    Unpublished,
    /// The publication is not the one through which the tables were followed: what was streamed
    /// through it may have holes.
    OtherPublication,
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error(transparent)]
    Input(#[from] InputError),
    /// Where the log is could not be marked.
    #[error(transparent)]
    Marker(#[from] MarkerError),
    #[error("the source does not answer a look at its catalog")]
    Silent,
}

impl LookError {
    /// The finding for a person.
    pub fn diagnostic(&self) -> Diagnostic {
        match self {
            LookError::Input(error) => error.diagnostic(),
            LookError::Marker(_) => Diagnostic::error(code::SESSION, self.to_string()),
            LookError::Silent => Diagnostic::error(hw_pg::error::code::TIMEOUT, self.to_string())
                .mend("see what it waits for: SELECT * FROM pg_stat_activity;"),
        }
    }
}

impl Watch {
    /// Compares, and hands what follows to the sequencer.
    pub async fn look(&mut self, context: &Context) -> Result<Look, LookError> {
        let backend = self.backend.clone();
        let looked = tokio::time::timeout(ANSWER, self.look_unbounded(context));
        let named = async {
            tokio::time::sleep(LATE).await;
            name_blockers(context, backend.load(Ordering::Relaxed)).await;
            std::future::pending().await
        };
        let outcome = tokio::select! {
            looked = looked => looked.unwrap_or(Err(LookError::Silent)),
            never = named => never,
        };
        if outcome.is_err() {
            self.client = None;
        }
        outcome
    }

    /// A connection for looks. One whose answer nobody waits for any more must not wait at the source for
    /// as long as somebody holds a lock.
    async fn connect(&self, context: &Context) -> Result<Client, InputError> {
        let client = context.source.client().await?;
        let limit = format!("SET lock_timeout = {}", ANSWER.as_millis());
        client.batch_execute(&limit).await.map_err(PgError::from)?;
        let pid = client.query_typed("SELECT pg_catalog.pg_backend_pid()", &[]).await;
        let pid = pid.map_err(PgError::from)?.first().map(|row| row.get::<_, i32>(0));
        let pid = pid.and_then(|pid| u32::try_from(pid).ok()).unwrap_or_default();
        self.backend.store(pid, Ordering::Relaxed);
        Ok(client)
    }

    /// How much log the source keeps for the slot (P7), and where its log ends.
    pub async fn slot(&self, slot: &str) -> Option<SlotState> {
        let client = self.client.as_ref()?;
        tokio::time::timeout(ANSWER, SlotState::read(client, slot)).await.ok()?.ok()?
    }

    async fn look_unbounded(&mut self, context: &Context) -> Result<Look, LookError> {
        let began = Instant::now();
        self.eventful = false;
        let is_known = || context.status.lock().catalog_at = Some(began.into_std());
        let source = &context.source;
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => self.connect(context).await?,
        };
        // Before the plan, which has all that the log told up to there.
        let durable = context.replica.durable().borrow().0;
        let plan = context.plan();
        let (wanted, known) = (plan.wanted.clone(), plan.tables.clone());
        let ids: Vec<RelationId> = known.keys().copied().collect();
        let fingerprint = source.fingerprint(&client, &wanted, &ids).await?;
        if self.settled.as_ref().is_some_and(|(seen, patterns, tables)| {
            *seen == fingerprint && Arc::ptr_eq(patterns, &wanted) && Arc::ptr_eq(tables, &known)
        }) {
            self.client = Some(client);
            is_known();
            return Ok(Look::Complete);
        }
        let catalog = source.catalog(&client, &wanted, &ids).await?;
        let mut resolved = resolve(&catalog, &wanted);
        plan.expected(&mut resolved.missing);
        let now = catalog.publication.as_ref().map(|publication| publication.oid);
        if is_another(publication(&known), now) {
            return Ok(Look::OtherPublication);
        }
        let within_reach: BTreeMap<RelationId, &TableName> = resolved
            .within_reach(&catalog)
            .map(|table| (table.facts.id, &table.facts.name))
            .collect();
        let is_there = |(id, name): &(&RelationId, &&TableName)| {
            known.get(id).is_some_and(|table| !table.stale && table.relation.name == ***name)
        };
        let missing: BTreeSet<&TableName> =
            within_reach.iter().filter(|entry| !is_there(entry)).map(|(_, name)| *name).collect();
        let mut controls = Vec::new();
        let before = self.suspected.len();
        self.suspected.retain(|id, _| known.contains_key(id));
        self.untraced.retain(|id| known.get(id).is_some_and(|table| table.stale));
        for (id, table) in known.iter() {
            // One that can be had again, or whose name a table has that is still to be copied, is copied
            // and compared. Its rows stay until then, and what reads it stands still.
            let comes_again =
                within_reach.contains_key(id) || missing.contains(&table.relation.name);
            controls.extend(self.difference(&client, &catalog, comes_again, durable, table).await?);
        }
        let waits = !self.suspected.is_empty() || before > 0;
        controls.extend(self.refused(&plan.refused, &resolved, &missing));
        let settled = controls.is_empty();
        self.eventful = !settled || self.suspected.values().any(|s| s.until.is_none());
        for control in controls {
            context.send(Signal::Control(control)).await?;
        }
        self.mark_suspicions(context).await?;
        // What follows is not applied yet, and what is suspected is not known.
        if settled && self.suspected.is_empty() {
            is_known();
        }
        let are_sent = within_reach.keys().all(|id| {
            let table = catalog.table_by_id(*id);
            table.is_some_and(|table| table.facts.published.sent().is_some())
        });
        // A table that was marked just now is missing, too.
        let is_complete = missing.is_empty() && settled;
        let missing = missing.into_iter().cloned().collect();
        let name = |id: &RelationId| catalog.table_by_id(*id).map(|table| &table.facts.name);
        let to_publish: Vec<&TableName> = resolved.to_publish.iter().filter_map(name).collect();
        let refused = resolved.missing.iter().chain(&resolved.refused).cloned().collect();
        context.status.lock().looked(refused, &to_publish);
        let found = within_reach.keys().filter(|id| known.contains_key(id)).copied().collect();
        let looked = Looked { wanted: wanted.clone(), missing, is_settled: settled, found };
        context.replica.looked(looked);
        self.client = Some(client);
        if is_complete && waits {
            self.settled = None;
            return Ok(Look::Complete);
        }
        if is_complete {
            self.settled = Some((fingerprint, wanted, known.clone()));
            return Ok(Look::Complete);
        }
        self.settled = None;
        Ok(if are_sent { Look::Missing } else { Look::Unpublished })
    }

    /// A TRUNCATE gives a table other files, too, and then the log tells all that there is to know. The
    /// catalog may be ahead of the log, which is waited for: when it has come past the transactions that
    /// made the files and has not told that they emptied the table, the table is copied again.
    fn rewritten(
        &mut self,
        durable: Lsn,
        table: &ReplicaTable,
        difference: Difference,
    ) -> Difference {
        let id = table.relation.id;
        let suspected = self.suspected.remove(&id);
        let Difference::Rewritten(by) = difference else { return difference };
        if table.stale {
            return Difference::CopyAgain(Reason::Rewritten);
        }
        let told = |xid: &Xid| table.truncations.contains(xid);
        let suspicion = match suspected {
            Some(Suspicion { by, until: Some(until) }) if until <= durable => {
                if !by.iter().all(told) {
                    return Difference::CopyAgain(Reason::Rewritten);
                }
                None
            }
            suspected => suspected,
        };
        let suspicion = suspicion.unwrap_or(Suspicion { by, until: None });
        self.suspected.insert(id, suspicion);
        Difference::Same
    }

    /// Finds out where the log will have told all that the catalog showed.
    async fn mark_suspicions(&mut self, context: &Context) -> Result<(), LookError> {
        if self.suspected.values().all(|suspicion| suspicion.until.is_some()) {
            return Ok(());
        }
        let place = context.markers.mark(crate::markers::random()).await?;
        for suspicion in self.suspected.values_mut() {
            suspicion.until.get_or_insert(place);
        }
        Ok(())
    }

    /// Whether the last look found something that no look before it had.
    pub fn is_eventful(&self) -> bool {
        self.eventful
    }

    /// The place in the log up to which everything must be durable for the next look to know more.
    pub fn awaits(&self) -> Option<Lsn> {
        self.suspected.values().filter_map(|suspicion| suspicion.until).min()
    }

    /// The tables that exist and cannot be replicated, if they are others than before.
    ///
    /// - Takes: those that the engine has noted; those that can be and are not in the replica.
    fn refused(
        &mut self,
        noted: &BTreeSet<TableName>,
        resolved: &Resolved,
        missing: &BTreeSet<&TableName>,
    ) -> Option<Control> {
        let before = self.refused.as_ref().unwrap_or(noted);
        let names = still_refused(before, resolved, missing);
        if *before == names {
            return None;
        }
        resolved.findings().for_each(Diagnostic::log);
        self.refused = Some(names.clone());
        Some(Control::Refused(names))
    }

    /// A table is to be copied again, unless that is told already.
    fn stale(&mut self, table: &ReplicaTable, reason: String, untraced: bool) -> Option<Control> {
        let id = table.relation.id;
        let is_news = !table.stale || untraced && !self.untraced.contains(&id);
        self.untraced.extend(untraced.then_some(id));
        is_news.then_some(Control::Stale { table: id, reason, untraced })
    }

    /// What follows for a table of the replica.
    ///
    /// - Takes: whether one that cannot be followed as it was comes again with a copy; how far the log
    ///   is told.
    async fn difference(
        &mut self,
        client: &Client,
        catalog: &Catalog,
        comes_again: bool,
        durable: Lsn,
        table: &ReplicaTable,
    ) -> Result<Option<Control>, LookError> {
        let id = table.relation.id;
        let Some(noted) = &table.facts else {
            return Ok(self.stale(table, "nothing is noted of it".to_owned(), true));
        };
        let now = catalog.table_by_id(id).map(|table| &table.facts);
        let untraced = now.is_some_and(|now| !is_traced(noted, now));
        let settled = settle(client, compare(noted, now), &table.truncations).await;
        let difference = self.rewritten(durable, table, settled.map_err(InputError::from)?);
        Ok(match difference {
            Difference::Same | Difference::Leaves(_) | Difference::Rewritten(_) => None,
            Difference::Adopt => {
                let facts = now.map(TableFacts::encode);
                let adopt = |facts| Control::Adopt { table: id, facts };
                facts.filter(|_| !table.stale).map(adopt)
            }
            Difference::CopyAgain(reason) => self.stale(table, reason.to_string(), untraced),
            Difference::Gone(finding) if comes_again => {
                self.stale(table, finding.what.clone(), untraced)
            }
            Difference::Gone(finding) => {
                finding.log();
                Some(Control::Gone { table: id, reason: finding.what })
            }
        })
    }
}

/// The tables that exist and cannot be replicated. One that could not be and now can is one of them until it
/// has entered: what reads it would be shown without its rows.
fn still_refused(
    before: &BTreeSet<TableName>,
    resolved: &Resolved,
    missing: &BTreeSet<&TableName>,
) -> BTreeSet<TableName> {
    let now = resolved.refused.iter().filter_map(|refused| refused.table.clone());
    let mended = before.iter().filter(|name| missing.contains(name)).cloned();
    now.chain(mended).collect()
}

/// Says whose locks a look at the catalog waits for, if it does.
async fn name_blockers(context: &Context, backend: u32) {
    let ask = async {
        let client = context.source.client().await?;
        Ok::<_, InputError>(slot::blockers(&client, backend).await?)
    };
    if let Ok(Ok(blockers)) = tokio::time::timeout(ANSWER, ask).await
        && !blockers.is_empty()
    {
        context.status.lock().catalog_locked(&blockers);
    }
}

/// The oid of the publication through which tables are followed.
pub(crate) fn publication(known: &Tables) -> Option<u32> {
    let sent = |table: &ReplicaTable| table.facts.as_ref()?.published.sent().map(|s| s.publication);
    known.values().filter(|table| !table.stale).find_map(sent)
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_pg::catalog::Refused;

    #[test]
    fn fd_22_a_refused_table_that_is_mended_is_refused_until_it_has_entered() {
        let name = |name: &str| TableName::new("public", name);
        let names =
            |listed: &[&str]| -> BTreeSet<TableName> { listed.iter().map(|n| name(n)).collect() };
        let check = |before: &[&str], refused: &[&str], missing: &[&str], expected: &[&str]| {
            let finding = || Diagnostic::error(code::SESSION, "no key");
            let refused = refused
                .iter()
                .map(|table| Refused { table: Some(name(table)), finding: finding() })
                .collect();
            let resolved = Resolved { refused, ..Resolved::default() };
            let missing = names(missing);
            let now = still_refused(&names(before), &resolved, &missing.iter().collect());
            assert_eq!(now, names(expected));
        };
        check(&[], &["a"], &["b"], &["a"]);
        check(&["a"], &[], &["a", "b"], &["a"]);
        // It has entered, is gone, or nobody wants it any more.
        check(&["a"], &[], &["b"], &[]);
    }
}
