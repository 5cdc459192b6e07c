//! Several pieces of news as one: of each row what was told before all of them, and what is behind all.

use crate::query::{Change, Key, Record};
use crate::room::OF_NEWS;
use std::collections::HashMap;
use std::collections::hash_map::Entry;

/// Rows that wait, before whoever takes nothing is asked instead when he takes them.
const MOST_ROWS: usize = 10_000;

/// The same in bytes.
const MOST_BYTES: usize = 4 << 20;

/// Whether rows are told of that have become again what they were.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Same {
    /// They are: whoever has written one waits to hear of it.
    Told,
    /// They are not: nobody writes groups.
    Silent,
}

/// News that waits to be taken, into which more is merged at the cost of what comes.
#[derive(Debug)]
pub(crate) struct Net {
    rows: HashMap<Key, Row>,
    bytes: usize,
    /// Rows that were ever in it: the place of the next one.
    next: u64,
    same: Same,
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
pub(crate) enum Was {
    /// It is not in the result.
    Nothing,
    /// It is, as this if that is known.
    Told(Option<Record>),
}

impl Row {
    /// Whether it is what was told.
    fn is_same(&self) -> bool {
        match (&self.was, &self.now) {
            (Was::Nothing, None) => true,
            (Was::Told(was), Some(_)) => *was == self.now,
            (Was::Nothing, Some(_)) | (Was::Told(_), None) => false,
        }
    }

    fn bytes(&self, key: &Key) -> usize {
        let was = match &self.was {
            Was::Nothing | Was::Told(None) => 0,
            Was::Told(Some(was)) => was.json().len(),
        };
        key.len() + was + self.now.as_ref().map_or(0, |now| now.json().len())
    }
}

impl Net {
    /// Nothing yet.
    pub fn new(same: Same) -> Net {
        Net { rows: HashMap::new(), bytes: 0, next: 0, same }
    }

    /// Takes what comes behind it.
    pub fn add(&mut self, change: Change) {
        let (key, was, now) = match change {
            Change::Insert { key, record } => (key, Was::Nothing, Some(record)),
            Change::Update { key, before, after } => (key, Was::Told(before), Some(after)),
            Change::Delete { key } => (key, Was::Told(None), None),
            Change::Passed { key } => (key, Was::Nothing, None),
        };
        self.enter(key, was, now);
    }

    /// Takes all of another one that comes behind it.
    pub fn join(&mut self, later: Net) {
        if self.rows.is_empty() {
            *self = later;
            return;
        }
        let mut rows: Vec<(Key, Row)> = later.rows.into_iter().collect();
        rows.sort_unstable_by_key(|(_, row)| row.place);
        rows.into_iter().for_each(|(key, row)| self.enter(key, row.was, row.now));
    }

    fn enter(&mut self, key: Key, was: Was, now: Option<Record>) {
        match self.rows.entry(key) {
            Entry::Occupied(mut entry) => {
                self.bytes -= entry.get().bytes(entry.key());
                entry.get_mut().now = now;
                if self.same == Same::Silent && entry.get().is_same() {
                    entry.remove();
                    return;
                }
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

    /// Whether so many rows, of so many bytes of memory, are so much that no more is put together.
    pub fn is_much(rows: usize, weight: usize) -> bool {
        rows >= MOST_ROWS || weight >= MOST_BYTES + rows * OF_NEWS
    }

    /// Rows of which there is something to tell.
    pub fn len(&self) -> usize {
        self.rows.len()
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        self.bytes + self.rows.len() * OF_NEWS
    }

    /// What was told last of each row, before any of it.
    pub fn before(self) -> impl Iterator<Item = (Key, Was)> {
        self.rows.into_iter().map(|(key, row)| (key, row.was))
    }

    /// Whether there is nothing to tell.
    pub fn is_empty(&self) -> bool {
        self.rows.is_empty()
    }

    /// What it comes to: rows that go come first.
    pub fn changes(self) -> Vec<Change> {
        let mut rows: Vec<(Key, Row)> = self.rows.into_iter().collect();
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
        gone
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::result::{Answered, Held};
    use proptest::prelude::*;
    use std::collections::{BTreeMap, BTreeSet};

    type Result = BTreeMap<u8, u8>;

    fn rows(result: &Result) -> Answered {
        let row = |(key, value): (&u8, &u8)| {
            (key.to_string().into(), Record::new(format!("{{\"v\": {value}}}")))
        };
        Answered { rows: result.iter().map(row).collect(), states: None, window: None }
    }

    proptest! {
        #[test]
        fn ds_10_5_3_several_pieces_of_news_are_one_of_what_they_come_to(
            results in prop::collection::vec(prop::collection::btree_map(0_u8..6, 0_u8..3, 0..6), 2..6),
        ) {
            let mut held = Held::of(&rows(&results[0]), None);
            let mut net = Net::new(Same::Told);
            for result in &results[1..] {
                held.replace(&rows(result), None, &HashMap::new()).into_iter().for_each(|it| net.add(it));
            }
            let bytes = net.rows.iter().map(|(key, row)| row.bytes(key)).sum::<usize>();
            prop_assert_eq!(net.bytes, bytes);
            let mut told: BTreeMap<Key, Record> = rows(&results[0]).rows.into_iter().collect();
            let (mut is_behind, mut passed) = (false, BTreeSet::new());
            for change in net.changes() {
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
            prop_assert_eq!(told, rows(&results[results.len() - 1]).rows.into_iter().collect());
            // Commits are never put together into nothing.
            let (before, behind) = (&results[0], &results[results.len() - 1]);
            let came = results[1..].iter().flat_map(BTreeMap::keys);
            let came: BTreeSet<u8> =
                came.filter(|key| !before.contains_key(key) && !behind.contains_key(key)).copied().collect();
            prop_assert_eq!(passed, came);
        }

        /// What was not taken is as if it had never been told, and what is held is weighed as what it is.
        #[test]
        fn f_69_news_that_is_forgotten_is_told_when_it_is_asked(
            results in prop::collection::vec(prop::collection::btree_map(0_u8..6, 0_u8..3, 0..6), 2..6),
            is_grouped in any::<bool>(),
        ) {
            let answer = |result: &Result| {
                let mut answer = rows(result);
                answer.states = is_grouped.then(|| vec!["[1]".into(); answer.rows.len()]);
                answer
            };
            let mut held = Held::of(&answer(&results[0]), None);
            let mut net = Net::new(if is_grouped { Same::Silent } else { Same::Told });
            for result in &results[1..] {
                held.replace(&answer(result), None, &HashMap::new()).into_iter().for_each(|it| net.add(it));
                prop_assert_eq!(held.weight(), Held::of(&answer(result), None).weight());
            }
            let with_news = held.weight() + net.weight();
            held.untell(net);
            prop_assert!(held.weight() <= with_news, "it never needs more room than it had");
            let mut told: BTreeMap<Key, Record> = rows(&results[0]).rows.into_iter().collect();
            let last = &results[results.len() - 1];
            for change in held.replace(&answer(last), None, &HashMap::new()) {
                match change {
                    Change::Insert { key, record } => prop_assert_eq!(told.insert(key, record), None),
                    Change::Update { key, before, after } => {
                        let was = told.insert(key, after);
                        prop_assert!(was.is_some() && (before.is_none() || before == was));
                    }
                    Change::Delete { key } => prop_assert!(told.remove(&key).is_some()),
                    Change::Passed { .. } => prop_assert!(false, "of one result nothing passes"),
                }
            }
            prop_assert_eq!(told, rows(last).rows.into_iter().collect());
            prop_assert_eq!(held.weight(), Held::of(&answer(last), None).weight());
        }
    }

    #[test]
    fn ds_10_5_11_of_groups_nothing_is_told_that_is_again_what_it_was() {
        let (one, other) = (Record::new("{\"n\": 1}"), Record::new("{\"n\": 2}"));
        let update = |before: &Record, after: &Record| Change::Update {
            key: "[]".into(),
            before: Some(before.clone()),
            after: after.clone(),
        };
        for (same, waits) in [(Same::Silent, 0), (Same::Told, 1)] {
            let mut net = Net::new(same);
            net.add(update(&one, &other));
            assert!(!net.is_empty());
            net.add(update(&other, &one));
            let bytes = net.rows.iter().map(|(key, row)| row.bytes(key)).sum::<usize>();
            assert_eq!((net.rows.len(), net.bytes), (waits, bytes));
        }
    }
}
