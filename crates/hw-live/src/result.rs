//! What was told of a result, to tell what changes in it.
//!
//! Of rows their keys are held, and digests of what was told of them: what a row was before it changed comes
//! from the list of changes, and counts only if it is what was told.

use crate::query::{Change, Key, News, Record};
use std::collections::HashMap;
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

/// What a subscriber has been told of a result.
#[derive(Debug)]
pub(crate) enum Held {
    Rows(HashMap<Box<str>, Digest>),
    Count(u64),
}

/// Stands for a record: that two have the same is as good as impossible, also for whoever writes them, as the
/// keys of the hashes are secret and new in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u64; 2]);

impl Digest {
    fn of(record: &Record) -> Digest {
        static KEYS: LazyLock<[RandomState; 2]> =
            LazyLock::new(|| [RandomState::new(), RandomState::new()]);
        Digest(KEYS.each_ref().map(|keys| keys.hash_one(record.json())))
    }
}

impl Held {
    /// What is held of a first result.
    pub fn of(result: &News<(Key, Record)>) -> Held {
        match result {
            News::Rows(rows) => {
                let digest =
                    |(key, record): &(Key, Record)| (Box::from(&**key), Digest::of(record));
                Held::Rows(rows.iter().map(digest).collect())
            }
            News::Count(count) => Held::Count(*count),
        }
    }

    /// Takes a newer result. What has changed is returned; `None` when there is nothing to tell.
    ///
    /// - Takes: the result; the rows that were touched since the last one, whether or not anything of them has
    ///   changed, with what they were before, where that is known.
    pub fn replace(
        &mut self,
        result: News<(Key, Record)>,
        touched: &HashMap<Key, Option<Record>>,
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

    /// Takes what a transaction made of a row: what it is now, if it is in the result.
    ///
    /// - Takes: how to find out what it was before.
    pub fn apply(
        &mut self,
        key: Key,
        now: Option<Record>,
        before: impl FnOnce() -> Option<Record>,
    ) -> Option<Change> {
        let Held::Rows(held) = self else { return None };
        let Some(after) = now else {
            return held.remove(&*key).map(|_| Change::Delete { key });
        };
        let digest = Digest::of(&after);
        Some(match held.insert(Box::from(&*key), digest) {
            None => Change::Insert { key, record: after },
            Some(was) => {
                let before = was_told(was, &after, digest, before);
                Change::Update { key, before, after }
            }
        })
    }

    /// How an answer differs from what is held.
    pub fn difference(&self, answer: &News<(Key, Record)>) -> Option<Difference> {
        let difference = match (self, answer) {
            (Held::Count(here), News::Count(there)) => {
                Difference::Count { here: *here, there: *there }
            }
            (Held::Rows(held), News::Rows(rows)) => {
                let mut left: HashMap<&str, Digest> =
                    held.iter().map(|(key, digest)| (&**key, *digest)).collect();
                let (mut only_there, mut otherwise) = (Vec::new(), Vec::new());
                for (key, record) in rows {
                    match left.remove(&**key) {
                        None => only_there.push(key.clone()),
                        Some(held) if held != Digest::of(record) => otherwise.push(key.clone()),
                        Some(_) => {}
                    }
                }
                let only_here = left.into_keys().map(Key::from).collect();
                Difference::Rows { only_here, only_there, otherwise }
            }
            // A query wants one of both, always the same one.
            (Held::Rows(_), News::Count(_)) | (Held::Count(_), News::Rows(_)) => return None,
        };
        difference.is_some().then_some(difference)
    }

    /// Everything goes.
    pub fn clear(&mut self) -> Option<News<Change>> {
        match self {
            Held::Rows(_) => self.replace(News::Rows(Vec::new()), &HashMap::new()),
            Held::Count(_) => self.replace(News::Count(0), &HashMap::new()),
        }
    }
}

/// How an answer of Postgres differs from what is held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) enum Difference {
    /// In these rows.
    Rows {
        only_here: Vec<Key>,
        only_there: Vec<Key>,
        otherwise: Vec<Key>,
    },
    Count {
        here: u64,
        there: u64,
    },
}

/// How many keys are named.
const NAMED: usize = 5;

impl Difference {
    fn is_some(&self) -> bool {
        match self {
            Difference::Rows { only_here, only_there, otherwise } => {
                [only_here, only_there, otherwise].iter().any(|keys| !keys.is_empty())
            }
            Difference::Count { here, there } => here != there,
        }
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let (only_here, only_there, otherwise) = match self {
            Difference::Count { here, there } => {
                return write!(to, "{here} rows are counted here, {there} by Postgres");
            }
            Difference::Rows { only_here, only_there, otherwise } => {
                (only_here, only_there, otherwise)
            }
        };
        let kinds = [
            ("only here", only_here),
            ("only in Postgres", only_there),
            ("other values", otherwise),
        ];
        let kinds = kinds.iter().filter(|(_, keys)| !keys.is_empty());
        for (number, (kind, keys)) in kinds.enumerate() {
            let mut named: Vec<&str> = keys.iter().map(|key| &**key).collect();
            named.sort_unstable();
            named.truncate(NAMED);
            let between = if number > 0 { "; " } else { "" };
            let more = if keys.len() > NAMED { ", …" } else { "" };
            write!(to, "{between}{kind}: {} rows (keys {}{more})", keys.len(), named.join(", "))?;
        }
        Ok(())
    }
}

/// What was told of a row that is told again: the same, or what it was before if that has the same digest.
fn was_told(
    was: Digest,
    after: &Record,
    digest: Digest,
    before: impl FnOnce() -> Option<Record>,
) -> Option<Record> {
    if was == digest {
        return Some(after.clone());
    }
    before().filter(|before| Digest::of(before) == was)
}

/// What makes one result of another: rows that go, by key, then those that come or change in the order of
/// the new result.
fn difference(
    held: &mut HashMap<Box<str>, Digest>,
    rows: Vec<(Key, Record)>,
    touched: &HashMap<Key, Option<Record>>,
) -> Vec<Change> {
    let mut before = std::mem::take(held);
    let mut changes = Vec::new();
    held.reserve(rows.len());
    for (key, after) in rows {
        let digest = Digest::of(&after);
        let (name, was) = match before.remove_entry(&*key) {
            Some((name, was)) => (name, Some(was)),
            None => (Box::from(&*key), None),
        };
        held.insert(name, digest);
        match was {
            None => changes.push(Change::Insert { key, record: after }),
            Some(was) if was != digest || touched.contains_key(&key) => {
                let before = was_told(was, &after, digest, || touched.get(&key).cloned().flatten());
                changes.push(Change::Update { key, before, after });
            }
            Some(_) => {}
        }
    }
    let mut gone: Vec<Key> = before.into_keys().map(Key::from).collect();
    gone.sort_unstable();
    let gone = gone.into_iter().map(|key| Change::Delete { key });
    gone.chain(changes).collect()
}

#[cfg(test)]
mod tests {
    use super::*;
    use proptest::prelude::*;
    use std::collections::HashSet;

    fn record(value: u8) -> Record {
        Record::new(format!("{{\"v\": {value}}}"))
    }

    fn rows(result: &HashMap<u8, u8>) -> News<(Key, Record)> {
        let row = |(key, value): (&u8, &u8)| (key.to_string().into(), record(*value));
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
                    let was = told.insert(key.clone(), after).expect("it is there");
                    assert!(before.is_none_or(|before| before == was), "told otherwise");
                    key
                }
                Change::Delete { key } => {
                    assert!(told.remove(&key).is_some(), "it is there");
                    key
                }
                Change::Passed { .. } => panic!("of one result nothing passes"),
            };
            assert!(seen.insert(key), "one change of a row");
        }
    }

    proptest! {
        #[test]
        fn ds_10_5_what_is_told_makes_each_result_of_the_one_before(
            results in prop::collection::vec(prop::collection::hash_map(0_u8..8, 0_u8..3, 0..8), 1..6),
            touched in prop::collection::hash_map(0_u8..8, prop::option::of(0_u8..3), 0..4),
        ) {
            // What they were before may be of another moment than what was told.
            let touched: HashMap<Key, Option<Record>> =
                touched.iter().map(|(key, was)| (key.to_string().into(), was.map(record))).collect();
            let mut held = Held::of(&rows(&HashMap::new()));
            let mut told = HashMap::new();
            for result in results {
                let before = told.clone();
                let changes = held.replace(rows(&result), &touched);
                if let Some(News::Rows(changes)) = &changes {
                    // A row that was touched is told of, also when nothing of it has changed (10.5-2), and
                    // with what it was where that is known.
                    for (key, was) in touched.iter().filter(|(key, _)| before.contains_key(*key)) {
                        let change = changes.iter().find(|change| change.key() == key);
                        prop_assert!(change.is_some());
                        if let Some(Change::Update { before: known, .. }) = change
                            && *was == before.get(key).cloned()
                        {
                            prop_assert_eq!(known, was);
                        }
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

        #[test]
        fn ds_10_5_what_transactions_do_to_rows_is_told_by_what_was_told(
            steps in prop::collection::vec((0_u8..4, prop::option::of(0_u8..3), prop::option::of(0_u8..3)), 0..20),
        ) {
            let mut held = Held::of(&rows(&HashMap::new()));
            let mut told: HashMap<Key, Record> = HashMap::new();
            let mut now = HashMap::new();
            for (key, value, before) in steps {
                let key = Key::from(key.to_string());
                let change = held.apply(key.clone(), value.map(record), || before.map(record));
                match value {
                    Some(value) => drop(now.insert(key, record(value))),
                    None => drop(now.remove(&key)),
                }
                apply(&mut told, News::Rows(change.into_iter().collect()));
                prop_assert_eq!(&told, &now);
            }
        }
    }

    #[test]
    fn what_differs_is_told_by_keys_and_numbers_and_never_by_values() {
        let result = |rows: &[(u8, u8)]| rows.iter().copied().collect::<HashMap<u8, u8>>();
        let held = Held::of(&rows(&result(&[(1, 1), (2, 1), (3, 1), (4, 1)])));
        let said = |answer| held.difference(&answer).map(|difference| difference.to_string());
        assert_eq!(said(rows(&result(&[(4, 1), (3, 1), (2, 1), (1, 1)]))), None);
        let other = said(rows(&result(&[(1, 1), (2, 9), (5, 1)])));
        let expected = "only here: 2 rows (keys 3, 4); only in Postgres: 1 rows (keys 5); other values: 1 rows (keys 2)";
        assert_eq!(other.as_deref(), Some(expected));
        let many: HashMap<u8, u8> = (10..20).map(|key| (key, 1)).collect();
        let other = said(rows(&many)).expect("differs");
        assert!(other.contains("10 rows (keys 10, 11, 12, 13, 14, …)"), "{other}");
        let held = Held::of(&News::Count(2));
        assert!(held.difference(&News::Count(2)).is_none());
        assert!(held.difference(&News::Count(3)).is_some());
    }

    #[test]
    fn ds_10_5_11_a_count_is_told_when_it_is_another_one() {
        let mut held = Held::of(&News::Count(2));
        assert_eq!(held.replace(News::Count(2), &HashMap::new()), None);
        assert_eq!(held.replace(News::Count(3), &HashMap::new()), Some(News::Count(3)));
        assert_eq!(held.clear(), Some(News::Count(0)));
    }
}
