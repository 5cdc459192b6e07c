//! Several pieces of news as one: of each row what was told before all of them, and what is behind all.

use crate::query::{Change, Key, News, Record};
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Rows that wait, before whoever takes nothing is asked instead when he takes them.
const MOST_ROWS: usize = 10_000;

/// The same in bytes.
const MOST_BYTES: usize = 4 << 20;

/// News that waits to be taken, into which more is merged at the cost of what comes.
#[derive(Debug)]
pub(crate) enum Net {
    /// Of rows.
    Rows(Rows),
    /// The newest number is the one that counts.
    Count(u64),
}

/// What changes of rows come to.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    rows: HashMap<Key, Row>,
    bytes: usize,
    /// Rows that were ever in it: the place of the next one.
    next: u64,
}

#[derive(Debug)]
struct Row {
    /// Rows are told in the order in which they came.
    place: u64,
    was: Was,
    now: Option<Record>,
}

/// What was told last of a row.
#[derive(Debug)]
enum Was {
    /// It is not in the result.
    Nothing,
    /// It is, as this if that is known.
    Told(Option<Record>),
}

impl Row {
    fn bytes(&self, key: &Key) -> usize {
        let was = match &self.was {
            Was::Nothing | Was::Told(None) => 0,
            Was::Told(Some(was)) => was.json().len(),
        };
        key.len() + was + self.now.as_ref().map_or(0, |now| now.json().len())
    }
}

impl Net {
    /// Nothing yet, of the same kind.
    pub fn like(news: &News<Change>) -> Net {
        match news {
            News::Rows(_) => Net::Rows(Rows::default()),
            News::Count(count) => Net::Count(*count),
        }
    }

    /// Takes what comes behind it.
    pub fn add(&mut self, news: News<Change>) {
        match (self, news) {
            (Net::Rows(rows), News::Rows(changes)) => {
                changes.into_iter().for_each(|change| rows.add(change));
            }
            // A query wants one of both, always the same one.
            (net, News::Count(count)) => *net = Net::Count(count),
            (Net::Count(_), News::Rows(_)) => {}
        }
    }

    /// Whether it has come to so much that no more is put together.
    pub fn is_full(&self) -> bool {
        match self {
            Net::Rows(rows) => rows.rows.len() >= MOST_ROWS || rows.bytes >= MOST_BYTES,
            Net::Count(_) => false,
        }
    }

    /// Whether there is anything to tell.
    ///
    /// - Takes: the number that was told last, of a count.
    pub fn is_empty(&self, told: Option<u64>) -> bool {
        match self {
            Net::Rows(rows) => rows.rows.is_empty(),
            Net::Count(count) => told == Some(*count),
        }
    }

    /// What it comes to: rows that go come first.
    pub fn news(self) -> News<Change> {
        let rows = match self {
            Net::Rows(rows) => rows.rows,
            Net::Count(count) => return News::Count(count),
        };
        let mut rows: Vec<(Key, Row)> = rows.into_iter().collect();
        rows.sort_unstable_by_key(|(_, row)| row.place);
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for (key, Row { was, now, .. }) in rows {
            match (was, now) {
                (Was::Told(_), None) => gone.push(Change::Delete { key }),
                (Was::Nothing, Some(record)) => there.push(Change::Insert { key, record }),
                (Was::Told(before), Some(after)) => {
                    there.push(Change::Update { key, before, after });
                }
                (Was::Nothing, None) => gone.push(Change::Passed { key }),
            }
        }
        gone.append(&mut there);
        News::Rows(gone)
    }
}

impl Rows {
    fn add(&mut self, change: Change) {
        let (key, was, now) = match change {
            Change::Insert { key, record } => (key, Was::Nothing, Some(record)),
            Change::Update { key, before, after } => (key, Was::Told(before), Some(after)),
            Change::Delete { key } => (key, Was::Told(None), None),
            Change::Passed { key } => (key, Was::Nothing, None),
        };
        match self.rows.entry(key) {
            Entry::Occupied(mut entry) => {
                self.bytes -= entry.get().bytes(entry.key());
                entry.get_mut().now = now;
                self.bytes += entry.get().bytes(entry.key());
            }
            Entry::Vacant(entry) => {
                let row = Row { place: self.next, was, now };
                self.next += 1;
                self.bytes += row.bytes(entry.key());
                entry.insert(row);
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::Held;
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    type Result = BTreeMap<u8, u8>;

    fn rows(result: &Result) -> News<(Key, Record)> {
        let row = |(key, value): (&u8, &u8)| {
            (key.to_string().into(), Record::new(format!("{{\"v\": {value}}}")))
        };
        News::Rows(result.iter().map(row).collect())
    }

    proptest! {
        #[test]
        fn ds_10_5_3_several_pieces_of_news_are_one_of_what_they_come_to(
            results in prop::collection::vec(prop::collection::btree_map(0_u8..6, 0_u8..3, 0..6), 2..6),
        ) {
            let mut held = Held::of(&rows(&results[0]));
            let mut net = Net::Rows(Rows::default());
            for result in &results[1..] {
                if let Some(more) = held.replace(rows(result), &HashMap::new()) {
                    net.add(more);
                }
            }
            let Net::Rows(Rows { rows: waiting, bytes, .. }) = &net else { unreachable!() };
            prop_assert_eq!(*bytes, waiting.iter().map(|(key, row)| row.bytes(key)).sum::<usize>());
            let News::Rows(first) = rows(&results[0]) else { unreachable!() };
            let mut told: BTreeMap<Key, Record> = first.into_iter().collect();
            let News::Rows(changes) = net.news() else { unreachable!() };
            let (mut is_behind, mut passed) = (false, BTreeSet::new());
            for change in changes {
                match change {
                    Change::Insert { key, record } => prop_assert_eq!(told.insert(key, record), None),
                    Change::Update { key, after, .. } => prop_assert!(told.insert(key, after).is_some()),
                    Change::Delete { key } => {
                        prop_assert!(!is_behind, "rows that go come first");
                        prop_assert!(told.remove(&key).is_some());
                        continue;
                    }
                    Change::Passed { key } => {
                        let value = key.parse::<u8>().expect("a number");
                        let came = results[1..].iter().any(|result| result.contains_key(&value));
                        prop_assert!(!is_behind && came && !told.contains_key(&key));
                        passed.insert(value);
                        continue;
                    }
                }
                is_behind = true;
            }
            let News::Rows(last) = rows(&results[results.len() - 1]) else { unreachable!() };
            prop_assert_eq!(told, last.into_iter().collect());
            // Commits are never put together into nothing.
            let (before, behind) = (&results[0], &results[results.len() - 1]);
            let came = results[1..].iter().flat_map(BTreeMap::keys);
            let came: BTreeSet<u8> =
                came.filter(|key| !before.contains_key(key) && !behind.contains_key(key)).copied().collect();
            prop_assert_eq!(passed, came);
        }
    }

    #[test]
    fn ds_10_5_11_of_a_count_the_newest_number_counts() {
        let mut net = Net::like(&News::Count(3));
        net.add(News::Count(2));
        assert!(net.is_empty(Some(2)) && !net.is_empty(Some(3)) && !net.is_empty(None));
        assert_eq!(net.news(), News::Count(2));
    }
}
