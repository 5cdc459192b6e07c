//! Tables that are replicated because somebody reads them, whatever the sync configuration names.
//!
//! A demanded table is one of those that the driver follows: it is added to a publication of ours, copied,
//! entered, copied again and refused like all others. The demand is part of the ordered input and durable; it
//! grows by what is asked for.

use crate::engine::Engine;
use crate::error::code;
use hw_input::driver::Foreseen;
use hw_input::signal::Signal;
use hw_pg::catalog::{Refused, resolve};
use hw_types::{Diagnostic, TableName, TablePattern};
use std::collections::BTreeSet;
use std::time::{Duration, Instant};
use tokio::sync::oneshot;

/// The writer may begin again under a demand so often.
const TRIES: usize = 3;

/// How long a demand that is durable waits for the state that shows it.
const SHOWN: Duration = Duration::from_secs(1);

/// Why a table is not replicated from now on.
#[derive(Debug, thiserror::Error)]
pub enum DemandError {
    /// It is not there or cannot be replicated, or another one could not be any more for its sake.
    #[error("{0}")]
    Refused(Box<Diagnostic>),
    /// The source does not answer.
    #[error("the source does not answer")]
    Silent,
    /// The engine is stopping, or its store cannot be written.
    #[error("the engine takes nothing over at the moment")]
    Stopping,
}

impl Engine {
    /// Replicates a table from now on, for good: it is copied and enters, and from then on it is in
    /// [`Published::table`](crate::Published::table). A table that is demanded already costs nothing.
    ///
    /// Whoever calls this has decided that whoever asks may read the table.
    ///
    /// - Returns: when the demand is durable. The table enters later, or is found to be out of reach
    ///   ([`TableState::Refused`](crate::TableState::Refused)).
    pub async fn demand(&self, table: &TableName) -> Result<(), DemandError> {
        if self.published().is_demanded(table) {
            return Ok(());
        }
        let wanted = self.board.plan.borrow().wanted.clone();
        let mut patterns = wanted.to_vec();
        patterns.push(TablePattern::exactly(table));
        let foreseen = self.driver.foresee(&patterns).await.ok_or(DemandError::Silent)?;
        if let Some(finding) = hindrance(foreseen, table, &wanted) {
            return Err(DemandError::Refused(Box::new(finding)));
        }
        for _ in 0..TRIES {
            let (done, is_done) = oneshot::channel();
            let signal = Signal::Demand { table: table.clone(), done };
            self.inlet.send(signal).await.map_err(|_| DemandError::Stopping)?;
            if is_done.await.is_ok() {
                // Not for as long as nothing new is shown.
                let mut watch = self.watch();
                let shown = watch.wait_for(|published| published.is_demanded(table));
                let _ = tokio::time::timeout(SHOWN, shown).await;
                return Ok(());
            }
        }
        Err(DemandError::Stopping)
    }

    /// When the last look at the source's catalog began that left no question open: what is known here of
    /// tables is not older than that.
    pub fn catalog_looked_at(&self) -> Option<Instant> {
        self.driver.status().catalog_at
    }

    /// Why a table that is wanted is not replicated, as far as that is known.
    pub fn refusal(&self, table: &TableName) -> Option<Diagnostic> {
        self.driver.status().refusal(table).cloned()
    }
}

/// What speaks against a table: something of its own, or of one that could be replicated without it (of a
/// partition and its root only one can).
fn hindrance(foreseen: Foreseen, table: &TableName, wanted: &[TablePattern]) -> Option<Diagnostic> {
    let Foreseen { refused, catalog } = foreseen;
    let before = resolve(&catalog, wanted);
    let known: BTreeSet<&TableName> = before
        .refused
        .iter()
        .chain(&before.missing)
        .filter_map(|refused| refused.table.as_ref())
        .collect();
    let is_news = |refused: &Refused| {
        refused.table.as_ref().is_some_and(|other| other == table || !known.contains(other))
    };
    let found = refused.into_iter().find(is_news)?;
    if found.table.as_ref() == Some(table) {
        return Some(found.finding);
    }
    let what = format!("{table} cannot be replicated beside what is: {}", found.finding.what);
    Some(Diagnostic::error(code::BESIDE, what).at(format!("table {table}")))
}
