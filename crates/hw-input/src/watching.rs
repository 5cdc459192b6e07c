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
use crate::error::InputError;
use crate::history::is_another;
use crate::replica::{Looked, ReplicaTable, Tables};
use crate::signal::Signal;
use hw_pg::catalog::{Catalog, Difference, Reason, Resolved, compare, resolve, settle};
use hw_pg::publication::out_of_reach;
use hw_pg::slot::SlotState;
use hw_types::{Diagnostic, RelationId, TableName, TablePattern};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// How long the catalog may take to answer a look.
const ANSWER: Duration = Duration::from_secs(10);

/// How long the log may take to come to a TRUNCATE that the catalog shows.
const MOMENT: Duration = Duration::from_secs(4);

/// Compares the catalog with what is noted.
#[derive(Default)]
pub(crate) struct Watch {
    /// Kept from look to look.
    client: Option<Client>,
    /// What the last look found nothing to do about: fingerprint, patterns, tables.
    settled: Option<(i64, Arc<Vec<TablePattern>>, Arc<Tables>)>,
    /// How often the log had emptied each table when its files were last what was noted.
    unchanged: HashMap<RelationId, u64>,
    /// Tables whose files are others, and since when: the log may still come to their TRUNCATE.
    suspected: HashMap<RelationId, Instant>,
    /// Tables that cannot be replicated, as the engine was told last.
    refused: Option<BTreeSet<TableName>>,
}

/// What a look came to.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Look {
    /// The replica has every table that definitions name and that can be replicated, as it is.
    Complete,
    /// There are tables to copy.
    Missing,
    /// The publication is not the one through which the tables were followed: what was streamed
    /// through it may have holes.
    OtherPublication,
}

/// Why a look came to nothing.
#[derive(Debug, thiserror::Error)]
pub(crate) enum LookError {
    #[error(transparent)]
    Input(#[from] InputError),
    #[error("the catalog does not answer")]
    Silent,
}

impl Watch {
    /// Compares, and hands what follows to the sequencer.
    pub async fn look(&mut self, context: &Context) -> Result<Look, LookError> {
        let began = Instant::now();
        let looked = tokio::time::timeout(ANSWER, self.look_unbounded(context));
        let outcome = looked.await.unwrap_or(Err(LookError::Silent));
        match outcome {
            // What is suspected is not known yet.
            Ok(Look::Complete | Look::Missing) if self.suspected.is_empty() => {
                context.status.lock().catalog_at = Some(began.into_std());
            }
            Ok(_) => {}
            Err(_) => self.client = None,
        }
        outcome
    }

    /// How much log the source keeps for the slot (P7).
    pub async fn retained(&self, slot: &str) -> Option<u64> {
        let client = self.client.as_ref()?;
        let asked = tokio::time::timeout(ANSWER, SlotState::read(client, slot)).await;
        Some(asked.ok()?.ok()??.retained_bytes)
    }

    async fn look_unbounded(&mut self, context: &Context) -> Result<Look, LookError> {
        let source = &context.source;
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => source.client().await?,
        };
        let plan = context.plan();
        let (wanted, known) = (plan.wanted.clone(), plan.tables.clone());
        let ids: Vec<RelationId> = known.keys().copied().collect();
        let fingerprint = source.fingerprint(&client, &wanted, &ids).await?;
        if self.settled.as_ref().is_some_and(|(seen, patterns, tables)| {
            *seen == fingerprint && Arc::ptr_eq(patterns, &wanted) && Arc::ptr_eq(tables, &known)
        }) {
            self.client = Some(client);
            return Ok(Look::Complete);
        }
        let catalog = source.catalog(&client, &wanted, &ids).await?;
        let mut resolved = resolve(&catalog, &wanted);
        resolved.refused.extend(out_of_reach(&catalog, &resolved));
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
        for (id, table) in known.iter() {
            // One that can be had again, or whose name a table has that is still to be copied, is copied
            // and compared. Its rows stay until then, and what reads it stands still.
            let comes_again =
                within_reach.contains_key(id) || missing.contains(&table.relation.name);
            controls.extend(self.difference(&client, &catalog, comes_again, *id, table).await);
        }
        let waits = !self.suspected.is_empty() || before > 0;
        controls.extend(self.refused(&plan.refused, &resolved));
        let settled = controls.is_empty();
        for control in controls {
            context.send(Signal::Control(control)).await?;
        }
        // A table that was marked just now is missing, too.
        let missing = missing.len() + usize::from(!settled);
        context.status.lock().refused = resolved.findings().cloned().collect();
        let found = within_reach.keys().filter(|id| known.contains_key(id)).copied().collect();
        context.replica.looked(Looked { wanted: wanted.clone(), missing, found });
        self.client = Some(client);
        if missing == 0 && waits {
            self.settled = None;
            return Ok(Look::Complete);
        }
        if missing == 0 {
            self.settled = Some((fingerprint, wanted, known.clone()));
            return Ok(Look::Complete);
        }
        self.settled = None;
        Ok(Look::Missing)
    }

    /// A TRUNCATE gives a table other files, too, and then the log tells all that there is to
    /// know. The catalog may be ahead of the log by what the stream is behind, so that it is given
    /// a moment to come.
    fn rewritten(
        &mut self,
        id: RelationId,
        table: &ReplicaTable,
        difference: Difference,
    ) -> Difference {
        if difference != Difference::CopyAgain(Reason::Rewritten) || table.stale {
            self.suspected.remove(&id);
            self.unchanged.insert(id, table.truncations);
            return difference;
        }
        let unchanged = *self.unchanged.entry(id).or_insert(0);
        if table.truncations > unchanged {
            self.suspected.remove(&id);
            return Difference::Adopt;
        }
        let since = *self.suspected.entry(id).or_insert_with(Instant::now);
        if since.elapsed() < MOMENT { Difference::Same } else { difference }
    }

    /// The tables that exist and cannot be replicated, if they are others than before.
    fn refused(&mut self, noted: &BTreeSet<TableName>, resolved: &Resolved) -> Option<Control> {
        let names: BTreeSet<TableName> =
            resolved.refused.iter().filter_map(|refused| refused.table.clone()).collect();
        if *self.refused.as_ref().unwrap_or(noted) == names {
            return None;
        }
        resolved.findings().for_each(Diagnostic::log);
        self.refused = Some(names.clone());
        Some(Control::Refused(names))
    }

    /// What follows for a table of the replica.
    ///
    /// - Takes: whether one that cannot be followed now is, or its name's new owner will be, within reach
    ///   of a copy.
    async fn difference(
        &mut self,
        client: &Client,
        catalog: &Catalog,
        comes_again: bool,
        id: RelationId,
        table: &ReplicaTable,
    ) -> Option<Control> {
        let Some(noted) = &table.facts else {
            let reason = "nothing is noted of it".to_owned();
            return (!table.stale).then_some(Control::Stale { table: id, reason });
        };
        let now = catalog.table_by_id(id).map(|table| &table.facts);
        let difference = settle(client, compare(noted, now)).await;
        let difference = self.rewritten(id, table, difference);
        match difference {
            Difference::Same | Difference::Attached(_) => None,
            Difference::Adopt => {
                let facts = now?.encode();
                (!table.stale).then_some(Control::Adopt { table: id, facts })
            }
            Difference::CopyAgain(reason) => {
                let reason = reason.to_string();
                (!table.stale).then_some(Control::Stale { table: id, reason })
            }
            Difference::Gone(finding) if comes_again => {
                let reason = finding.what.clone();
                (!table.stale).then_some(Control::Stale { table: id, reason })
            }
            Difference::Gone(finding) => {
                finding.log();
                Some(Control::Gone { table: id, reason: finding.what })
            }
        }
    }
}

/// The oid of the publication through which tables are followed.
pub(crate) fn publication(known: &Tables) -> Option<u32> {
    let sent = |table: &ReplicaTable| table.facts.as_ref()?.published.sent().map(|s| s.publication);
    known.values().filter(|table| !table.stale).find_map(sent)
}
