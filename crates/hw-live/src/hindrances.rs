//! What hinders live results: questions that fail, and tables that cannot be followed.
//!
//! In: how questions and demands end. Out: since when, and why, for whoever tells operators (`figures`).

use crate::lanes::Lane;
use hw_types::TableName;
use std::collections::BTreeMap;
use std::time::Instant;

/// What hinders results.
#[derive(Debug, Default)]
pub(crate) struct Hindrances {
    /// Since when Postgres cannot be asked in each lane, and cannot be looked at; and why.
    pub failing: [Option<(Instant, String)>; Lane::ALL.len() + 1],
    /// Tables that cannot be followed, and why.
    pub refused: BTreeMap<TableName, String>,
}

/// Where questions fail: in a lane, or where it is looked who may see what.
#[derive(Clone, Copy, Debug)]
pub(crate) enum Asks {
    In(Lane),
    Rights,
}

impl Hindrances {
    /// Notes whether Postgres could be asked.
    pub fn asked(&mut self, asks: Asks, answered: Result<(), String>) {
        let place = match asks {
            Asks::In(lane) => lane as usize,
            Asks::Rights => Lane::ALL.len(),
        };
        let failing = &mut self.failing[place];
        *failing = answered.err().map(|why| {
            let since = failing.as_ref().map_or_else(Instant::now, |(since, _)| *since);
            (since, why)
        });
    }

    /// Forgets the tables that nobody depends on any more.
    pub fn retain(&mut self, is_read: impl Fn(&TableName) -> bool) {
        self.refused.retain(|table, _| is_read(table));
    }

    /// Notes whether a table can be followed.
    pub fn demanded(&mut self, table: TableName, refused: Option<String>) {
        match refused {
            Some(why) => drop(self.refused.insert(table, why)),
            None => drop(self.refused.remove(&table)),
        }
    }
}
