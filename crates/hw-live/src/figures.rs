//! How live results are: what an operator is told of them.
//!
//! In: all results, and what hinders them (`hindrances`). Out: [`Figures`].

use crate::state::State;
use hw_engine::Published;
use hw_types::TableName;
use std::collections::BTreeSet;
use std::time::Duration;

/// Codes of what hinders live results.
pub mod code {
    /// Live results are behind what is published: Postgres does not answer, or not in time, what it is asked for them.
    /// What it says, and for how long, stands in the message; see what its sessions "headwater live" wait for. From 10 s on
    /// what else is followed on the same socket does not wait for them any more.
    pub const BEHIND: u16 = 4307;
    /// Changes of a table cannot be followed, so that live queries whose policies read it are asked each second; those of
    /// its own rows are refused (HW5416). The message says why; mostly the table has no replica identity, or is not logged.
    pub const POLLED: u16 = 4308;
}

/// Figures of a moment.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Figures {
    /// Results that are kept.
    pub results: usize,
    /// Those of them whose changes are computed here.
    pub planned: usize,
    /// Those that are being asked, or wait for it.
    pub waiting: usize,
    /// How many questions there were for results, audits apart.
    pub questions: u64,
    /// How long the oldest question waits for its answer.
    pub behind: Option<Duration>,
    /// Those for which others of their socket do not wait any more, so that they are not told in the order of commits.
    pub overtaken: usize,
    /// Why Postgres cannot be asked, and for how long.
    pub failing: Option<(Duration, String)>,
    /// Tables whose changes are not followed: what depends on them is asked each second.
    pub polled: Vec<Polled>,
}

/// A table whose changes are not followed.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Polled {
    /// The table.
    pub table: TableName,
    /// Why.
    pub why: String,
    /// Whether that stays so until somebody does something.
    pub is_refused: bool,
}

impl State {
    /// The figures of this moment.
    pub fn figures(&self, published: &Published) -> Figures {
        let asked = self.results.values().filter_map(|kept| kept.asked_since);
        let failing = self.hindrances.failing.iter().flatten().min_by_key(|(since, _)| *since);
        let by_table = self.by_table.keys().filter_map(|table| {
            let refused = self.hindrances.refused.get(table);
            let why = match (published.table(table).entered(), refused) {
                (Some(view), _) => view.why_not_followed()?,
                (None, Some(refused)) => refused,
                (None, None) => "it is not followed yet",
            };
            Some(Polled {
                table: table.clone(),
                why: why.to_owned(),
                is_refused: refused.is_some(),
            })
        });
        let by_anything = self.by_anything.iter().filter_map(|number| self.results.get(number));
        let by_anything: BTreeSet<&TableName> =
            by_anything.map(|kept| &kept.question.query.table).collect();
        let by_anything = by_anything.into_iter().map(|table| Polled {
            table: table.clone(),
            why: "what its policies read is not known here".to_owned(),
            is_refused: false,
        });
        Figures {
            results: self.results.len(),
            planned: self.results.values().filter(|kept| kept.plan.is_some()).count(),
            waiting: asked.clone().count(),
            questions: self.questions,
            behind: asked.min().map(|since| since.elapsed()),
            overtaken: self.results.values().filter(|kept| kept.inbox.is_overtaken()).count(),
            failing: failing.map(|(since, why)| (since.elapsed(), why.clone())),
            polled: by_table.chain(by_anything).collect(),
        }
    }
}
