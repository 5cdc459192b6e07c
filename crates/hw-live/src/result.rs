//! What was told of a result, to tell what changes in it.
//!
//! Of rows their keys are held, and digests of what was told of them: what a row was before it changed comes
//! from the list of changes, and counts only if it is what was told. Of windows some rows around are held, too
//! ([`crate::window`]). Of groups what was told is held, and what their
//! aggregates are made of.

use crate::net::{Net, Was};
use crate::query::{Change, Key, Record};
use crate::rendering::{Grouping, Moved, Rendering};
use crate::room::{OF_GROUP, OF_ROW};
use crate::row_order::RowOrder;
use crate::tally::Tally;
use crate::window::{Fetched, Window};
use hw_expr::postgres::EvalError;
use hw_types::Row;
use std::collections::{HashMap, HashSet};
use std::fmt;
use std::hash::{BuildHasher as _, RandomState};
use std::sync::LazyLock;

/// Groups of a result, behind which nobody is told of more of them.
pub(crate) const MOST_GROUPS: usize = 10_000;

/// The same in bytes of their keys and records.
pub(crate) const MOST_GROUP_BYTES: usize = 4 << 20;

/// What Postgres answered.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Answered {
    /// Keys and records in the result's order.
    pub rows: Vec<(Key, Record)>,
    /// What is known of each of them, of groups: how many rows it has, and of each aggregate what it takes to keep it
    /// ([`crate::aggregate::Function::state`]).
    pub states: Option<Vec<Box<str>>>,
    /// Of a window: its rows, and those around it that were fetched with them.
    pub window: Option<Fetched>,
}

/// What a subscriber has been told of a result.
#[derive(Debug)]
pub(crate) enum Held {
    Rows(Rows),
    Groups(Groups),
}

/// Rows that were told.
#[derive(Debug, Default)]
pub(crate) struct Rows {
    digests: HashMap<Box<str>, Digest>,
    /// Bytes of their keys.
    bytes: usize,
    /// How those of a window stand, where that is known.
    window: Option<Window>,
}

/// Groups that were told.
#[derive(Debug, Default)]
pub(crate) struct Groups {
    groups: HashMap<Box<str>, Group>,
    /// Of their keys and records.
    bytes: usize,
    /// Of their tallies.
    tallied: usize,
}

/// Stands for a record: that two have the same is as good as impossible, also for whoever writes them, as the
/// keys of the hashes are secret and new in each process.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Digest([u64; 2]);

/// A group that was told.
#[derive(Clone, Debug)]
pub(crate) struct Group {
    pub record: Record,
    /// How many rows it has, and what is known of each of its aggregates. Empty where that is not computed here.
    pub tallies: Box<[Tally]>,
}

/// What is held of something that was told.
trait Told {
    fn is(&self, now: &Self) -> bool;

    /// What was told.
    ///
    /// - Takes: how to find out what it was before.
    fn record(&self, before: impl FnOnce() -> Option<Record>) -> Option<Record>;
}

impl Digest {
    /// Of a record that is not known: of none.
    const UNKNOWN: Digest = Digest([0; 2]);

    fn of(record: &Record) -> Digest {
        static KEYS: LazyLock<[RandomState; 2]> =
            LazyLock::new(|| [RandomState::new(), RandomState::new()]);
        Digest(KEYS.each_ref().map(|keys| keys.hash_one(record.json())))
    }
}

impl Told for Digest {
    fn is(&self, now: &Digest) -> bool {
        self == now
    }

    fn record(&self, before: impl FnOnce() -> Option<Record>) -> Option<Record> {
        before().filter(|before| Digest::of(before) == *self)
    }
}

impl Group {
    /// Bytes of its tallies.
    fn tallied(&self) -> usize {
        self.tallies.iter().map(Tally::weight).sum()
    }
}

impl Told for Group {
    fn is(&self, now: &Group) -> bool {
        self.record == now.record
    }

    fn record(&self, _: impl FnOnce() -> Option<Record>) -> Option<Record> {
        (self.record != Record::unknown()).then(|| self.record.clone())
    }
}

impl Held {
    /// What is held of a first result.
    ///
    /// - Takes: how it is told, where that can be done here.
    pub fn of(answered: &Answered, rendering: Option<&Rendering>) -> Held {
        match &answered.states {
            None => {
                let digests = rows(answered).map(|(key, _, told)| (Box::from(&*key), told));
                let bytes = answered.rows.iter().map(|(key, _)| key.len()).sum();
                let window = window(answered, rendering);
                Held::Rows(Rows { digests: digests.collect(), bytes, window })
            }
            Some(states) => {
                let mut held = Groups::default();
                held.replace(groups(answered, states, rendering));
                Held::Groups(held)
            }
        }
    }

    /// Takes a newer result. What has changed is returned; nothing when there is nothing to tell.
    ///
    /// - Takes: the result; how it is told, where that can be done here; the rows that were touched since the last one, whether or
    ///   not anything of them has changed, with what they were before, where that is known.
    pub fn replace(
        &mut self,
        answered: &Answered,
        rendering: Option<&Rendering>,
        touched: &HashMap<Key, Option<Record>>,
    ) -> Vec<Change> {
        match (self, &answered.states) {
            (Held::Rows(held), None) => {
                held.window = window(answered, rendering);
                held.replace(answered, touched)
            }
            (Held::Groups(held), Some(states)) => held.replace(groups(answered, states, rendering)),
            // A query wants one of both, always the same one.
            (held, _) => {
                *held = Held::of(answered, rendering);
                Vec::new()
            }
        }
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
        held.apply(key, now, before)
    }

    /// How an answer differs from what is held.
    pub fn difference(&self, answer: &Answered) -> Option<Difference> {
        let difference = match self {
            Held::Rows(held) => {
                Difference::of(&held.digests, answer, |held, record| *held == Digest::of(record))
            }
            Held::Groups(held) => {
                // A group's key is values of its rows.
                Difference {
                    names_keys: false,
                    ..Difference::of(&held.groups, answer, |held, record| held.record == *record)
                }
            }
        };
        difference.is_some().then_some(difference)
    }

    /// Takes what a transaction did to the rows of groups.
    ///
    /// - Errors: it has to be asked. Nothing was taken then.
    pub fn regroup(
        &mut self,
        grouping: &Grouping,
        moved: &[Moved<'_>],
    ) -> Result<Vec<Change>, EvalError> {
        match self {
            Held::Groups(held) => held.regroup(grouping, moved),
            Held::Rows(_) => Err(EvalError("the result is none of groups")),
        }
    }

    /// Takes what a transaction did to the rows that match a query of which the first ones are the result.
    ///
    /// - Errors: it has to be asked. Nothing was taken then.
    pub fn reorder(
        &mut self,
        rendering: &Rendering,
        order: &RowOrder,
        moved: &[Moved<'_>],
    ) -> Result<Vec<Change>, EvalError> {
        match self {
            Held::Rows(held) => held.reorder(rendering, order, moved),
            Held::Groups(_) => Err(EvalError("the result is none of rows")),
        }
    }

    /// Bytes of memory.
    pub fn weight(&self) -> usize {
        match self {
            Held::Rows(held) => {
                let window = held.window.as_ref().map_or(0, Window::weight);
                held.bytes + held.digests.len() * OF_ROW + window
            }
            Held::Groups(held) => held.bytes + held.tallied + held.groups.len() * OF_GROUP,
        }
    }

    /// What was told last was not taken, and is forgotten: what is held is again what was told before. What is not
    /// known of that is told anew when it is asked.
    pub fn untell(&mut self, news: Net) {
        if let Held::Rows(held) = self {
            held.window = None;
        }
        for (key, was) in news.before() {
            match (&mut *self, was) {
                (Held::Rows(held), Was::Nothing) => drop(held.remove(&key)),
                (Held::Rows(held), Was::Told(record)) => {
                    let digest = record.as_ref().map_or(Digest::UNKNOWN, Digest::of);
                    held.insert(&key, digest);
                }
                (Held::Groups(held), Was::Nothing) => drop(held.remove(&key)),
                (Held::Groups(held), Was::Told(record)) => {
                    let record = record.unwrap_or_else(Record::unknown);
                    held.insert(&key, Group { record, tallies: Box::default() });
                }
            }
        }
    }

    /// Everything goes.
    pub fn clear(&mut self) -> Vec<Change> {
        let nothing = |states| Answered { rows: Vec::new(), states, window: None };
        match self {
            Held::Rows(_) => self.replace(&nothing(None), None, &HashMap::new()),
            Held::Groups(_) => self.replace(&nothing(Some(Vec::new())), None, &HashMap::new()),
        }
    }
}

/// How an answer of Postgres differs from what is held.
#[derive(Debug, PartialEq, Eq)]
pub(crate) struct Difference {
    /// Whether keys may be named.
    names_keys: bool,
    only_here: Vec<Key>,
    only_there: Vec<Key>,
    otherwise: Vec<Key>,
}

/// How many keys are named.
const NAMED: usize = 5;

impl Difference {
    /// - Takes: whether what is held is a record.
    fn of<T>(
        held: &HashMap<Box<str>, T>,
        answer: &Answered,
        is: impl Fn(&T, &Record) -> bool,
    ) -> Difference {
        let mut left: HashMap<&str, &T> = held.iter().map(|(key, held)| (&**key, held)).collect();
        let (mut only_there, mut otherwise) = (Vec::new(), Vec::new());
        for (key, record) in &answer.rows {
            match left.remove(&**key) {
                None => only_there.push(key.clone()),
                Some(held) if !is(held, record) => otherwise.push(key.clone()),
                Some(_) => {}
            }
        }
        let only_here = left.into_keys().map(Key::from).collect();
        Difference { names_keys: true, only_here, only_there, otherwise }
    }

    fn is_some(&self) -> bool {
        let Difference { only_here, only_there, otherwise, .. } = self;
        [only_here, only_there, otherwise].iter().any(|keys| !keys.is_empty())
    }
}

impl fmt::Display for Difference {
    fn fmt(&self, to: &mut fmt::Formatter<'_>) -> fmt::Result {
        let Difference { names_keys, only_here, only_there, otherwise } = self;
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
            match names_keys {
                true => write!(
                    to,
                    "{between}{kind}: {} rows (keys {}{more})",
                    keys.len(),
                    named.join(", ")
                )?,
                false => write!(to, "{between}{kind}: {} groups", keys.len())?,
            }
        }
        Ok(())
    }
}

impl Rows {
    fn replace(
        &mut self,
        answered: &Answered,
        touched: &HashMap<Key, Option<Record>>,
    ) -> Vec<Change> {
        let changes = difference(&mut self.digests, rows(answered), touched);
        self.bytes = self.digests.keys().map(|key| key.len()).sum();
        changes
    }

    fn apply(
        &mut self,
        key: Key,
        now: Option<Record>,
        before: impl FnOnce() -> Option<Record>,
    ) -> Option<Change> {
        let Some(after) = now else {
            return self.remove(&key).map(|_| Change::Delete { key });
        };
        let digest = Digest::of(&after);
        Some(match self.insert(&key, digest) {
            None => Change::Insert { key, record: after },
            Some(was) => {
                let before = if was.is(&digest) { Some(after.clone()) } else { was.record(before) };
                Change::Update { key, before, after }
            }
        })
    }

    fn reorder(
        &mut self,
        rendering: &Rendering,
        order: &RowOrder,
        moved: &[Moved<'_>],
    ) -> Result<Vec<Change>, EvalError> {
        let window = self.window.as_ref().ok_or(EvalError("the window is not known"))?;
        let next = window.behind(rendering, order, moved)?;
        let now = next.as_ref().unwrap_or(window).told(&order.first);
        let is_now: HashSet<&str> = now.iter().map(|row| &*row.key).collect();
        let was = |key: &str| self.digests.contains_key(key);
        let mut told = Vec::new();
        if next.is_some() {
            let gone = window.told(&order.first).iter().filter(|row| !is_now.contains(&*row.key));
            told.extend(gone.map(|row| (row.key.clone(), None, None)));
            let come = now.iter().filter(|row| !was(&row.key));
            told.extend(come.map(|row| (row.key.clone(), Some(row.record.clone()), None)));
        }
        for Moved { before, after } in moved {
            let Some(after) = after else { continue };
            let key = rendering.key(after)?;
            if is_now.contains(&*key) && was(&key) {
                told.push((key, Some(rendering.record(after)?), *before));
            }
        }
        if let Some(next) = next {
            self.window = Some(next);
        }
        let change = |(key, now, before): (Key, Option<Record>, Option<&Row>)| {
            self.apply(key, now, || rendering.record(before?).ok())
        };
        Ok(told.into_iter().filter_map(change).collect())
    }

    fn insert(&mut self, key: &str, digest: Digest) -> Option<Digest> {
        let was = self.digests.insert(Box::from(key), digest);
        if was.is_none() {
            self.bytes += key.len();
        }
        was
    }

    fn remove(&mut self, key: &str) -> Option<Digest> {
        let was = self.digests.remove(key)?;
        self.bytes -= key.len();
        Some(was)
    }
}

impl Groups {
    fn replace(
        &mut self,
        groups: impl ExactSizeIterator<Item = (Key, Record, Group)>,
    ) -> Vec<Change> {
        let changes = difference(&mut self.groups, groups, &HashMap::new());
        let bytes = self.groups.iter().map(|(key, group)| weight(key, &group.record));
        self.bytes = bytes.sum();
        self.tallied = self.groups.values().map(Group::tallied).sum();
        changes
    }

    fn insert(&mut self, key: &str, group: Group) -> Option<Group> {
        self.bytes += weight(key, &group.record);
        self.tallied += group.tallied();
        let was = self.groups.insert(Box::from(key), group);
        was.inspect(|was| self.forget(key, was))
    }

    fn remove(&mut self, key: &str) -> Option<Group> {
        let was = self.groups.remove(key);
        was.inspect(|was| self.forget(key, was))
    }

    fn forget(&mut self, key: &str, was: &Group) {
        self.bytes -= weight(key, &was.record);
        self.tallied -= was.tallied();
    }

    fn regroup(
        &mut self,
        grouping: &Grouping,
        moved: &[Moved<'_>],
    ) -> Result<Vec<Change>, EvalError> {
        let mut touched: HashMap<Key, (Box<[Tally]>, &Row)> = HashMap::new();
        // What comes is added first: the value that goes may not be the greatest any more by then.
        for is_coming in [true, false] {
            for Moved { before, after } in moved {
                let (row, other) = if is_coming { (after, before) } else { (before, after) };
                let Some(row) = *row else { continue };
                let key = grouping.key(row)?;
                let is_here = |other: &&Row| grouping.key(other).as_ref() == Ok(&key);
                let other = other.filter(is_here);
                let (tallies, _) = touched.entry(key).or_insert_with_key(|key| {
                    let known = self.groups.get(&**key).map(|group| group.tallies.clone());
                    (known.unwrap_or_else(|| grouping.empty()), row)
                });
                grouping.apply(tallies, is_coming, row, other)?;
            }
        }
        let mut now = Vec::with_capacity(touched.len());
        let (mut count, mut bytes) = (self.groups.len(), self.bytes);
        for (key, (tallies, row)) in touched {
            let is_there = grouping.is_there(&tallies);
            let record = is_there.then(|| grouping.record(row, &tallies)).transpose()?;
            if let Some(was) = self.groups.get(&*key) {
                (count, bytes) = (count - 1, bytes - weight(&key, &was.record));
            }
            if let Some(record) = &record {
                (count, bytes) = (count + 1, bytes + weight(&key, record));
            }
            now.push((key, record.map(|record| Group { record, tallies })));
        }
        if count > MOST_GROUPS || bytes > MOST_GROUP_BYTES {
            return Err(EvalError("the result has too many groups"));
        }
        now.sort_unstable_by(|(one, _), (other, _)| one.cmp(other));
        let (mut gone, mut there) = (Vec::new(), Vec::new());
        for (key, group) in now {
            let Some(group) = group else {
                gone.extend(self.remove(&key).map(|_| Change::Delete { key }));
                continue;
            };
            let after = group.record.clone();
            match self.insert(&key, group) {
                None => there.push(Change::Insert { key, record: after }),
                Some(was) if was.record != after => {
                    there.push(Change::Update { key, before: Some(was.record), after });
                }
                Some(_) => {}
            }
        }
        gone.append(&mut there);
        Ok(gone)
    }
}

/// How the rows of a window stand, where that is known.
fn window(answered: &Answered, rendering: Option<&Rendering>) -> Option<Window> {
    Window::read(answered.window.as_ref()?, rendering?.order()?)
}

fn weight(key: &str, record: &Record) -> usize {
    key.len() + record.json().len()
}

fn rows(answered: &Answered) -> impl ExactSizeIterator<Item = (Key, Record, Digest)> + '_ {
    answered.rows.iter().map(|(key, record)| (key.clone(), record.clone(), Digest::of(record)))
}

fn groups<'a>(
    answered: &'a Answered,
    states: &'a [Box<str>],
    rendering: Option<&'a Rendering>,
) -> impl ExactSizeIterator<Item = (Key, Record, Group)> + 'a {
    let grouping = rendering.and_then(Rendering::grouping);
    answered.rows.iter().zip(states).map(move |((key, record), state)| {
        let tallies = grouping.map(|grouping| grouping.read(state)).unwrap_or_default();
        (key.clone(), record.clone(), Group { record: record.clone(), tallies })
    })
}

/// What makes one result of another: rows that go, by key, then those that come or change in the order of
/// the new result.
fn difference<T: Told>(
    held: &mut HashMap<Box<str>, T>,
    rows: impl ExactSizeIterator<Item = (Key, Record, T)>,
    touched: &HashMap<Key, Option<Record>>,
) -> Vec<Change> {
    let mut before = std::mem::take(held);
    let mut changes = Vec::new();
    held.reserve(rows.len());
    for (key, after, now) in rows {
        let (name, was) = match before.remove_entry(&*key) {
            Some((name, was)) => (name, Some(was)),
            None => (Box::from(&*key), None),
        };
        match was {
            None => changes.push(Change::Insert { key, record: after }),
            Some(was) if !was.is(&now) => {
                let before = was.record(|| touched.get(&key).cloned().flatten());
                changes.push(Change::Update { key, before, after });
            }
            Some(_) if touched.contains_key(&key) => {
                changes.push(Change::Update { key, before: Some(after.clone()), after });
            }
            Some(_) => {}
        }
        held.insert(name, now);
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

    fn record(value: u8) -> Record {
        Record::new(format!("{{\"v\": {value}}}"))
    }

    fn rows(result: &HashMap<u8, u8>) -> Answered {
        let row = |(key, value): (&u8, &u8)| (key.to_string().into(), record(*value));
        Answered { rows: result.iter().map(row).collect(), states: None, window: None }
    }

    /// As a client applies what it is told.
    fn apply(told: &mut HashMap<Key, Record>, changes: Vec<Change>) {
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
            let mut held = Held::of(&rows(&HashMap::new()), None);
            let mut told = HashMap::new();
            for result in results {
                let before = told.clone();
                let changes = held.replace(&rows(&result), None, &touched);
                {
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
                apply(&mut told, changes);
                prop_assert_eq!(&told, &rows(&result).rows.into_iter().collect());
            }
            apply(&mut told, held.clear());
            prop_assert!(told.is_empty());
        }

        #[test]
        fn ds_10_5_what_transactions_do_to_rows_is_told_by_what_was_told(
            steps in prop::collection::vec((0_u8..4, prop::option::of(0_u8..3), prop::option::of(0_u8..3)), 0..20),
        ) {
            let mut held = Held::of(&rows(&HashMap::new()), None);
            let mut told: HashMap<Key, Record> = HashMap::new();
            let mut now = HashMap::new();
            for (key, value, before) in steps {
                let key = Key::from(key.to_string());
                let change = held.apply(key.clone(), value.map(record), || before.map(record));
                match value {
                    Some(value) => drop(now.insert(key, record(value))),
                    None => drop(now.remove(&key)),
                }
                apply(&mut told, change.into_iter().collect());
                prop_assert_eq!(&told, &now);
            }
        }
    }

    #[test]
    fn what_differs_is_told_by_keys_and_numbers_and_never_by_values() {
        let result = |rows: &[(u8, u8)]| rows.iter().copied().collect::<HashMap<u8, u8>>();
        let held = Held::of(&rows(&result(&[(1, 1), (2, 1), (3, 1), (4, 1)])), None);
        let said =
            |answer: Answered| held.difference(&answer).map(|difference| difference.to_string());
        assert_eq!(said(rows(&result(&[(4, 1), (3, 1), (2, 1), (1, 1)]))), None);
        let other = said(rows(&result(&[(1, 1), (2, 9), (5, 1)])));
        let expected = "only here: 2 rows (keys 3, 4); only in Postgres: 1 rows (keys 5); other values: 1 rows (keys 2)";
        assert_eq!(other.as_deref(), Some(expected));
        let many: HashMap<u8, u8> = (10..20).map(|key| (key, 1)).collect();
        let other = said(rows(&many)).expect("differs");
        assert!(other.contains("10 rows (keys 10, 11, 12, 13, 14, …)"), "{other}");
        let group = |json: &str| Answered {
            rows: vec![("[]".into(), Record::new(json))],
            states: Some(vec!["[1]".into()]),
            window: None,
        };
        let held = Held::of(&group("{\"n\": 2}"), None);
        assert!(held.difference(&group("{\"n\": 2}")).is_none());
        // The key of a group is values.
        let other = held.difference(&group("{\"n\": 3}")).expect("differs").to_string();
        assert_eq!(other, "other values: 1 groups");
    }
}
