//! What audits have found (`audit`): whose plans are not to be trusted, and whose turn it is.

use hw_pg::rights::Rights;
use hw_types::TableName;
use std::collections::{BTreeMap, BTreeSet};
use std::sync::Arc;

/// Codes of the audit.
pub mod code {
    /// An audit found that what Headwater computes from the policies of a table is not what Postgres shows. From then
    /// on Postgres is asked for live results of that table and role, until policies, functions or grants change, or the
    /// server starts again. It is a defect of Headwater, or of its copy of the table, or something in the database
    /// that policies use was changed behind its back; the policies that the message names are needed to find out.
    pub const DISAGREES: u16 = 4306;
}

/// A table of which what was computed here is not what Postgres shows a role.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Disagreement {
    /// The role that asks.
    pub role: Arc<str>,
    /// The table.
    pub table: TableName,
    /// The policies that decide who sees its rows, by name.
    pub policies: Arc<[String]>,
    /// Whether rows of other tables decide as well.
    pub with_lookup: bool,
    /// How they differed, by numbers and keys of rows.
    pub difference: String,
}

/// How audits went.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Audits {
    /// Results that could be compared.
    pub compared: u64,
    /// Those of them that differed, also where they did not the next time.
    pub differed: u64,
    /// Those that differed twice.
    pub disagreed: u64,
}

/// Tables whose plans are not to be trusted, by role: what differed, and as of which rights.
#[derive(Default)]
pub(crate) struct Disproved(BTreeMap<(Arc<str>, TableName), (Rights, Disagreement)>);

impl Disproved {
    /// Notes one.
    pub fn add(&mut self, rights: Rights, one: Disagreement) {
        self.0.insert((one.role.clone(), one.table.clone()), (rights, one));
    }

    /// Whether one of these tables is among them.
    pub fn has(&self, role: &Arc<str>, tables: &BTreeSet<TableName>, rights: &Rights) -> bool {
        !self.0.is_empty()
            && tables.iter().any(|table| {
                let of = self.0.get(&(role.clone(), table.clone()));
                of.is_some_and(|(since, _)| since == rights)
            })
    }

    /// Those that count under these rights.
    pub fn of(&self, rights: &Rights) -> Vec<Disagreement> {
        let counts = self.0.values().filter(|(since, _)| since == rights);
        counts.map(|(_, one)| one.clone()).collect()
    }
}

/// Whose turn it is.
#[derive(Default)]
pub(crate) struct Turns {
    table: Option<TableName>,
    /// The result that had its turn last, by table.
    results: BTreeMap<TableName, u64>,
}

impl Turns {
    /// Who is next: of the next table the next result.
    ///
    /// - Takes: the tables; which results there are of one.
    pub fn next<I: Iterator<Item = u64>>(
        &mut self,
        tables: impl Iterator<Item = TableName>,
        results: impl Fn(&TableName) -> I,
    ) -> Option<u64> {
        let mut tables: Vec<TableName> = tables.collect();
        self.results.retain(|table, _| tables.contains(table));
        // Those behind the last one come first.
        tables.sort_unstable_by_key(|table| (Some(table) <= self.table.as_ref(), table.clone()));
        for table in tables {
            let last = self.results.get(&table).copied();
            let next = results(&table).min_by_key(|number| (Some(*number) <= last, *number));
            if let Some(next) = next {
                self.results.insert(table.clone(), next);
                self.table = Some(table);
                return Some(next);
            }
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn every_table_has_its_turn_and_every_result_of_it() {
        let mut results: BTreeMap<TableName, Vec<u64>> = BTreeMap::new();
        let table = |name: &str| TableName::new("public", name);
        results.insert(table("a"), vec![7, 1, 3]);
        results.insert(table("b"), vec![2]);
        results.insert(table("c"), vec![]);
        let mut turns = Turns::default();
        let mut next = |results: &BTreeMap<TableName, Vec<u64>>| {
            turns.next(results.keys().cloned(), |table| results[table].clone().into_iter())
        };
        let order: Vec<_> = (0..8).map(|_| next(&results).expect("somebody")).collect();
        assert_eq!(order, [1, 2, 3, 2, 7, 2, 1, 2]);
        // Those that come and go disturb nobody.
        results.insert(table("a"), vec![7, 8]);
        results.remove(&table("b"));
        let order: Vec<_> = (0..3).map(|_| next(&results).expect("somebody")).collect();
        assert_eq!(order, [7, 8, 7]);
        results.clear();
        assert_eq!(next(&results), None);
    }
}
