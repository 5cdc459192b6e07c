//! A result that is held to tell what changes in it.

use crate::query::{Change, Key, News, Record};
use std::collections::{HashMap, HashSet};

/// What a subscriber has been told of a result.
#[derive(Debug)]
pub(crate) enum Held {
    Rows(HashMap<Key, Record>),
    Count(u64),
}

impl Held {
    /// What is held of a first result.
    pub fn of(result: &News<(Key, Record)>) -> Held {
        match result {
            News::Rows(rows) => Held::Rows(rows.iter().cloned().collect()),
            News::Count(count) => Held::Count(*count),
        }
    }

    /// Takes a newer result. What has changed is returned; `None` when there is nothing to tell.
    ///
    /// - Takes: the result; the keys of rows that were touched since the last one, whether or not anything
    ///   of them has changed.
    pub fn replace(
        &mut self,
        result: News<(Key, Record)>,
        touched: &HashSet<Key>,
    ) -> Option<News<Change>> {
        let changes = match (self, result) {
            (Held::Rows(held), News::Rows(rows)) => difference(held, rows, touched),
            (Held::Count(held), News::Count(count)) if *held != count => {
                *held = count;
                return Some(News::Count(count));
            }
            (Held::Count(_), News::Count(_)) => return None,
            // A query wants one of both, always the same one.
            (held, result) => {
                *held = Held::of(&result);
                return None;
            }
        };
        (!changes.is_empty()).then_some(News::Rows(changes))
    }

    /// Takes what a transaction made of rows: of each its key, and what it is now if it is in the result.
    pub fn apply(&mut self, rows: impl Iterator<Item = (Key, Option<Record>)>) -> Vec<Change> {
        let Held::Rows(held) = self else { return Vec::new() };
        let mut changes = Vec::new();
        for (key, now) in rows {
            let before = match &now {
                Some(record) => held.insert(key.clone(), record.clone()),
                None => held.remove(&key),
            };
            changes.extend(match (before, now) {
                (None, Some(record)) => Some(Change::Insert { key, record }),
                (Some(before), Some(after)) => Some(Change::Update { key, before, after }),
                (Some(before), None) => Some(Change::Delete { key, before }),
                (None, None) => None,
            });
        }
        changes
    }

    /// Everything goes.
    pub fn clear(&mut self) -> Option<News<Change>> {
        match self {
            Held::Rows(_) => self.replace(News::Rows(Vec::new()), &HashSet::new()),
            Held::Count(_) => self.replace(News::Count(0), &HashSet::new()),
        }
    }
}

/// What makes one result of another: rows that go, by key, then those that come or change in the order of
/// the new result.
fn difference(
    held: &mut HashMap<Key, Record>,
    rows: Vec<(Key, Record)>,
    touched: &HashSet<Key>,
) -> Vec<Change> {
    let mut before = std::mem::take(held);
    let mut changes = Vec::new();
    for (key, record) in rows {
        match before.remove(&key) {
            None => changes.push(Change::Insert { key: key.clone(), record: record.clone() }),
            Some(was) if was != record || touched.contains(&key) => {
                let (key, after) = (key.clone(), record.clone());
                changes.push(Change::Update { key, before: was, after });
            }
            Some(_) => {}
        }
        held.insert(key, record);
    }
    let mut gone: Vec<(Key, Record)> = before.into_iter().collect();
    gone.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
    let gone = gone.into_iter().map(|(key, before)| Change::Delete { key, before });
    gone.chain(changes).collect()
}

/// What was told last of each row, and what is to be told of it, where that has changed.
type Net = (Option<Record>, Option<Record>);

/// Two pieces of news as one: of each row what was told before both of them, and what is behind both.
pub(crate) fn net(first: News<Change>, then: News<Change>) -> News<Change> {
    let (first, then) = match (first, then) {
        (News::Rows(first), News::Rows(then)) => (first, then),
        // The newest number is the one that counts.
        (_, then) => return then,
    };
    let mut order: Vec<Key> = Vec::new();
    let mut rows: HashMap<Key, Net> = HashMap::new();
    for change in first.into_iter().chain(then) {
        let (key, (before, after)) = match change {
            Change::Insert { key, record } => (key, (None, Some(record))),
            Change::Update { key, before, after } => (key, (Some(before), Some(after))),
            Change::Delete { key, before } => (key, (Some(before), None)),
        };
        match rows.get_mut(&key) {
            Some(row) => row.1 = after,
            None => {
                order.push(key.clone());
                rows.insert(key, (before, after));
            }
        }
    }
    let (mut gone, mut there) = (Vec::new(), Vec::new());
    for key in order {
        match rows.remove(&key) {
            Some((Some(before), None)) => gone.push(Change::Delete { key, before }),
            Some((None, Some(record))) => there.push(Change::Insert { key, record }),
            Some((Some(before), Some(after))) => there.push(Change::Update { key, before, after }),
            Some((None, None)) | None => {}
        }
    }
    gone.append(&mut there);
    News::Rows(gone)
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;

    fn rows(result: &HashMap<u8, u8>) -> News<(Key, Record)> {
        let row = |(key, value): (&u8, &u8)| {
            (key.to_string().into(), Record::new(format!("{{\"v\": {value}}}")))
        };
        News::Rows(result.iter().map(row).collect())
    }

    /// As a client applies what it is told.
    fn apply(told: &mut HashMap<Key, Record>, changes: News<Change>) {
        let News::Rows(changes) = changes else { panic!("a count") };
        let mut seen = HashSet::new();
        for change in changes {
            let key = match change {
                Change::Insert { key, record } => {
                    assert!(told.insert(key.clone(), record).is_none(), "it is there already");
                    key
                }
                Change::Update { key, before, after } => {
                    assert_eq!(told.insert(key.clone(), after), Some(before));
                    key
                }
                Change::Delete { key, before } => {
                    assert_eq!(told.remove(&key), Some(before));
                    key
                }
            };
            assert!(seen.insert(key), "one change of a row");
        }
    }

    proptest! {
        #[test]
        fn ds_10_5_what_is_told_makes_each_result_of_the_one_before(
            results in prop::collection::vec(prop::collection::hash_map(0_u8..8, 0_u8..3, 0..8), 1..6),
            touched in prop::collection::hash_set(0_u8..8, 0..4),
        ) {
            let touched: HashSet<Key> = touched.iter().map(|key| key.to_string().into()).collect();
            let mut held = Held::of(&rows(&HashMap::new()));
            let mut told = HashMap::new();
            for result in results {
                let Held::Rows(before) = &held else { unreachable!() };
                let before = before.clone();
                let changes = held.replace(rows(&result), &touched);
                if let Some(News::Rows(changes)) = &changes {
                    // A row that was touched is told of, also when nothing of it has changed (10.5-2).
                    for key in touched.iter().filter(|key| before.contains_key(*key)) {
                        prop_assert!(changes.iter().any(|change| change.key() == key));
                    }
                }
                if let Some(changes) = changes {
                    apply(&mut told, changes);
                }
                let News::Rows(now) = rows(&result) else { unreachable!() };
                prop_assert_eq!(&told, &now.into_iter().collect());
            }
            if let Some(changes) = held.clear() {
                apply(&mut told, changes);
            }
            prop_assert!(told.is_empty());
        }
    }

    proptest! {
        #[test]
        fn ds_10_5_3_two_pieces_of_news_are_one_of_what_they_come_to(
            results in prop::collection::vec(prop::collection::hash_map(0_u8..6, 0_u8..3, 0..6), 4),
        ) {
            let mut held = Held::of(&rows(&results[0]));
            let mut told = HashMap::new();
            let News::Rows(first) = rows(&results[0]) else { unreachable!() };
            told.extend(first);
            let mut news = News::Rows(Vec::new());
            for result in &results[1..] {
                if let Some(more) = held.replace(rows(result), &HashSet::new()) {
                    news = net(news, more);
                }
            }
            apply(&mut told, news);
            let News::Rows(now) = rows(&results[3]) else { unreachable!() };
            prop_assert_eq!(told, now.into_iter().collect());
        }
    }

    #[test]
    fn ds_10_5_11_a_count_is_told_when_it_is_another_one() {
        let mut held = Held::of(&News::Count(2));
        assert_eq!(held.replace(News::Count(2), &HashSet::new()), None);
        assert_eq!(held.replace(News::Count(3), &HashSet::new()), Some(News::Count(3)));
        assert_eq!(held.clear(), Some(News::Count(0)));
    }
}
