//! The watch over the source's catalog: what the log does not say.
//!
//! What a table's rows depend on was noted when it was copied. At each connect, once a second, and
//! when the log says that tables were altered, the catalog is compared with that. A difference
//! becomes an entry: adopted, copied again, or gone (`design/seams.md` 10).
//!
//! Invariant: a table of which it cannot be said that its rows are right is marked before the
//! publication is mended: nothing is applied to rows that missed something.

use crate::engine::{Event, Looked, Shared, TableState};
use crate::read::Published;
use hw_expr::sync_config::SyncConfig;
use hw_input::entry::Control;
use hw_input::source::{Source, SourceOptions};
use hw_pg::catalog::{Catalog, Difference, Reason, Resolved, compare, resolve, settle};
use hw_pg::slot::SlotState;
use hw_types::{Diagnostic, RelationId, TableName, TablePattern};
use std::collections::{BTreeMap, BTreeSet, HashMap};
use std::sync::Arc;
use std::time::Duration;
use tokio::time::Instant;
use tokio_postgres::Client;

/// How long the catalog may take to answer a look.
const ANSWER: Duration = Duration::from_secs(10);

/// How long a new configuration waits for the catalog before it is taken over unasked.
const PATIENCE: Duration = Duration::from_secs(5);

/// How long the log may take to come to a TRUNCATE that the catalog shows.
const MOMENT: Duration = Duration::from_secs(4);

type Tables = Arc<BTreeMap<RelationId, TableState>>;

/// Compares the catalog with what is noted.
#[derive(Default)]
pub(crate) struct Watch {
    /// Kept from look to look.
    client: Option<Client>,
    /// What the last look found nothing to do about: fingerprint, patterns, tables.
    settled: Option<(i64, Arc<Vec<TablePattern>>, Tables)>,
    /// How often the log had emptied each table when its files were last what was noted.
    unchanged: HashMap<RelationId, u64>,
    /// Tables whose files are others, and since when: the log may still come to their TRUNCATE.
    suspected: HashMap<RelationId, Instant>,
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
    Input(#[from] hw_input::InputError),
    #[error("the catalog does not answer")]
    Silent,
    #[error("stopping")]
    Stopping,
}

impl Watch {
    /// Compares, and hands what follows to the sequencer.
    pub async fn look(&mut self, shared: &Shared, source: &Source) -> Result<Look, LookError> {
        let looked = tokio::time::timeout(ANSWER, self.look_unbounded(shared, source));
        let outcome = looked.await.unwrap_or(Err(LookError::Silent));
        if outcome.is_err() {
            self.client = None;
        }
        outcome
    }

    /// How much log the source keeps for the slot (P7).
    pub async fn retained(&self, slot: &str) -> Option<u64> {
        let client = self.client.as_ref()?;
        let asked = tokio::time::timeout(ANSWER, SlotState::read(client, slot)).await;
        Some(asked.ok()?.ok()??.retained_bytes)
    }

    async fn look_unbounded(
        &mut self,
        shared: &Shared,
        source: &Source,
    ) -> Result<Look, LookError> {
        let client = match self.client.take().filter(|client| !client.is_closed()) {
            Some(client) => client,
            None => source.client().await?,
        };
        let wanted = shared.wanted.borrow().clone();
        let known = shared.tables.borrow().clone();
        let ids: Vec<RelationId> = known.keys().copied().collect();
        let fingerprint = source.fingerprint(&client, &wanted, &ids).await?;
        if self.settled.as_ref().is_some_and(|(seen, patterns, tables)| {
            *seen == fingerprint && Arc::ptr_eq(patterns, &wanted) && Arc::ptr_eq(tables, &known)
        }) {
            self.client = Some(client);
            return Ok(Look::Complete);
        }
        let catalog = source.catalog(&client, &wanted, &ids).await?;
        let resolved = resolve(&catalog, &wanted);
        if is_another(&catalog, &known) {
            return Ok(Look::OtherPublication);
        }
        let within_reach: BTreeMap<RelationId, &TableName> = resolved
            .within_reach(&catalog)
            .map(|table| (table.facts.id, &table.facts.name))
            .collect();
        let mut controls = Vec::new();
        let before = self.suspected.len();
        for (id, table) in known.iter() {
            controls.extend(self.difference(&client, &catalog, &within_reach, *id, table).await);
        }
        let waits = !self.suspected.is_empty() || before > 0;
        controls.extend(refused(shared, &resolved));
        let settled = controls.is_empty();
        for control in controls {
            let sent = shared.events.send(Event::Control(control)).await;
            sent.map_err(|_| LookError::Stopping)?;
        }
        let is_there = |(id, name): &(&RelationId, &&TableName)| {
            known.get(id).is_some_and(|table| !table.stale && table.relation.name == ***name)
        };
        let missing = within_reach.iter().filter(|entry| !is_there(entry)).count();
        // A table that was marked just now is missing, too.
        let missing = missing + usize::from(!settled);
        let looked = Looked { wanted: wanted.clone(), missing };
        *shared.looked.lock() = Some(looked);
        shared.status.lock().refused = resolved.findings().cloned().collect();
        let _ = shared.events.try_send(Event::Wake);
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
        table: &TableState,
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

    /// What follows for a table of the replica.
    async fn difference(
        &mut self,
        client: &Client,
        catalog: &Catalog,
        within_reach: &BTreeMap<RelationId, &TableName>,
        id: RelationId,
        table: &TableState,
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
            // One that can be had again, or whose name another table has now, is copied and
            // compared; its rows stay until then, and what reads it stands still.
            Difference::Gone(finding)
                if within_reach.contains_key(&id)
                    || within_reach.values().any(|name| **name == noted.name) =>
            {
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

/// Whether tables were followed through another publication than the one that is there.
fn is_another(catalog: &Catalog, known: &Tables) -> bool {
    let now = catalog.publication.as_ref().map(|publication| publication.oid);
    let noted = publication(known);
    noted.is_some() && noted != now
}

/// The oid of the publication through which tables are followed.
pub(crate) fn publication(known: &BTreeMap<RelationId, TableState>) -> Option<u32> {
    let sent = |table: &TableState| table.facts.as_ref()?.published.sent().map(|s| s.publication);
    known.values().filter(|table| !table.stale).find_map(sent)
}

/// The tables that exist and cannot be replicated, if they are others than before.
fn refused(shared: &Shared, resolved: &Resolved) -> Option<Control> {
    let names: BTreeSet<TableName> =
        resolved.refused.iter().filter_map(|refused| refused.table.clone()).collect();
    let mut before = shared.refused.lock();
    if *before == names {
        return None;
    }
    resolved.findings().for_each(Diagnostic::log);
    *before = names.clone();
    Some(Control::Refused(names))
}

/// Refuses a configuration that would take a definition from clients, because a table that it
/// reads now cannot be replicated: an empty table in place of a full one is no answer (FD-22).
///
/// A source that does not answer is no reason to refuse: the definition then waits.
pub(crate) async fn would_lose(
    shared: &Shared,
    published: &Published,
    config: &SyncConfig,
) -> Result<(), Vec<Diagnostic>> {
    let Some(active) = &published.sync else { return Ok(()) };
    let withheld = active.withheld();
    let served: BTreeSet<&str> =
        active.config.definitions().iter().map(|definition| &*definition.name).collect();
    let patterns = config.tables();
    let ask = async {
        let source = Source::new(
            shared.options.connection.clone(),
            SourceOptions {
                publication: shared.options.publication.clone(),
                ..SourceOptions::default()
            },
        );
        let client = source.client().await.ok()?;
        source.catalog(&client, &patterns, &[]).await.ok()
    };
    let Ok(Some(catalog)) = tokio::time::timeout(PATIENCE, ask).await else { return Ok(()) };
    let resolved = resolve(&catalog, &patterns);
    let mut findings = Vec::new();
    for definition in config.definitions() {
        let name = &*definition.name;
        if !served.contains(name) || withheld.contains(name) {
            continue;
        }
        let exact = definition.tables.iter().filter_map(TablePattern::exact);
        for table in exact {
            let of = |refused: &&hw_pg::catalog::Refused| refused.table.as_ref() == Some(&table);
            for refused in resolved.refused.iter().filter(of) {
                let mut finding = refused.finding.clone();
                finding.what = format!("\"{name}\" could not be served any more: {}", finding.what);
                findings.push(finding);
            }
        }
    }
    if findings.is_empty() { Ok(()) } else { Err(findings) }
}
