//! Which states were committed, in their order, and whether what a client was shown is one of them.
//!
//! The driver commits one transaction after another, however many are open, and looks at the state
//! behind each commit. So the list of states is exactly that of the log, and the index in it is the
//! position. Rows that writers pour in beside that are one definition of its own, `flood`: each
//! writer's are shown in order without a gap, so a shown state is known from two numbers.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;

use super::client::{Rows, Shown, fingerprint};
use super::definitions::{BANNER, FLOOD, banner};

/// The first key of a writer.
pub(super) fn first_key(writer: usize) -> i64 {
    (writer as i64 + 1) * 1_000_000_000
}

/// Sums of the fingerprints of the first rows of a writer.
fn poured(writer: usize, rows: usize) -> Vec<u64> {
    let mut sums = vec![0_u64];
    for number in 0..rows as i64 {
        let id = first_key(writer) + number;
        let row = Rows::from([((FLOOD.to_owned(), id.to_string()), json!({"id": id}))]);
        sums.push(sums[number as usize].wrapping_add(fingerprint(&row)));
    }
    sums
}

/// What may be shown of the definitions in a batch.
#[derive(Default)]
pub(super) struct Committed {
    /// Of each user, behind each commit, the fingerprints by definition; those that could not be
    /// evaluated are absent, those that give nothing are 0.
    pub states: Vec<Vec<Shown>>,
    /// Of each user, what a definition may give while one of its tables is gone: that of the others.
    pub without: Vec<BTreeMap<String, BTreeSet<u64>>>,
    /// Definitions whose tables were changed since all was settled: they may lag behind the others.
    pub loose: BTreeSet<String>,
    /// The configurations that were given, oldest first: which of the plan's it is, and its
    /// definitions. One that was given before all was settled may still be served behind that.
    pub configs: Vec<(usize, BTreeSet<String>)>,
    /// How many rows each writer may have poured.
    pub poured: [usize; 2],
}

/// How far a client has come.
#[derive(Clone, Debug, Default)]
pub(super) struct Place {
    /// Among the states.
    pub at: usize,
    /// Among the configurations.
    config: usize,
    /// The same for each loose definition.
    loose: BTreeMap<String, usize>,
    /// Rows of each writer.
    poured: [usize; 2],
}

impl Committed {
    /// Everybody has everything.
    pub(super) fn settle(&self, user: usize, place: &mut Place) {
        place.at = self.states[user].len() - 1;
        place.poured = self.poured;
        place.loose.clear();
    }

    /// Each state is a committed one of this user, and none goes back.
    pub(super) fn explain(
        &self,
        user: usize,
        place: &mut Place,
        shown: &[Shown],
    ) -> Result<(), String> {
        let pours = [0, 1].map(|writer| poured(writer, self.poured[writer]));
        for (number, shown) in shown.iter().enumerate() {
            self.one(user, place, shown)
                .and_then(|()| self.flood(place, shown.get(FLOOD).copied().unwrap_or(0), &pours))
                .map_err(|what| format!("state {number} that was shown: {what}"))?;
        }
        Ok(())
    }

    fn one(&self, user: usize, place: &mut Place, shown: &Shown) -> Result<(), String> {
        let states = &self.states[user];
        let gives = |name: &str| shown.get(name).copied().unwrap_or(0);
        let said: Vec<&String> = shown.keys().filter(|name| name.starts_with(BANNER)).collect();
        let mut nearest = format!("it is of {said:?}, which was not given");
        for (number, (config, names)) in self.configs.iter().enumerate().skip(place.config) {
            let banner = banner(*config);
            let of_none = |(name, sum): (&String, &u64)| {
                *sum != 0 && name != FLOOD && *name != banner && !names.contains(name)
            };
            if gives(&banner) == 0 || shown.iter().any(of_none) {
                continue;
            }
            let solid: Vec<&String> =
                names.iter().filter(|name| !self.loose.contains(*name)).collect();
            let fits = |state: &Shown| {
                solid.iter().all(|name| state.get(*name).copied().unwrap_or(0) == gives(name))
            };
            let Some(found) = states[place.at..].iter().position(fits) else {
                nearest = Self::nearest(states, &solid, &gives);
                continue;
            };
            let mut loose = place.loose.clone();
            let late = names.iter().filter(|name| self.loose.contains(*name)).find(|name| {
                let from = loose.get(*name).copied().unwrap_or(place.at.min(states.len() - 1));
                let value = gives(name);
                let fits = |state: &Shown| state.get(*name) == Some(&value);
                match states[from.min(states.len())..].iter().position(fits) {
                    Some(found) => {
                        loose.insert((*name).clone(), from + found);
                        false
                    }
                    None => !self.without[user].get(*name).is_some_and(|set| set.contains(&value)),
                }
            });
            if let Some(name) = late {
                nearest = format!("{name} gives what it never gave behind its last state");
                continue;
            }
            place.at += found;
            place.config = number;
            place.loose = loose;
            return Ok(());
        }
        Err(format!(
            "it was not committed behind the last one ({} of {}): {nearest}",
            place.at,
            states.len()
        ))
    }

    /// In words, what is not of the state that fits best, also of those that are over.
    fn nearest(states: &[Shown], solid: &[&String], gives: &dyn Fn(&str) -> u64) -> String {
        let wrong = |state: &Shown| -> Vec<String> {
            let of = |name: &str| state.get(name).copied().unwrap_or(0);
            let differ = solid.iter().filter(|name| of(name) != gives(name));
            let say = |name: &&&String| match (of(name), gives(name)) {
                (_, 0) => format!("{name} (shown empty)"),
                (0, _) => format!("{name} (shown, not empty)"),
                _ => name.to_string(),
            };
            differ.map(|name| say(&name)).collect()
        };
        let all = states.iter().map(wrong).enumerate();
        // The newest of the best ones.
        match all.rev().min_by_key(|(_, wrong)| wrong.len()) {
            None => "there is none".into(),
            Some((at, wrong)) if wrong.is_empty() => format!("it is state {at}"),
            Some((at, wrong)) => format!("state {at} but for {}", wrong.join(", ")),
        }
    }

    fn flood(&self, place: &mut Place, sum: u64, pours: &[Vec<u64>; 2]) -> Result<(), String> {
        let [first, second] = place.poured;
        // Rows come in steps of few, so that the nearest are looked at first.
        for more in 0..=(pours[0].len() - 1 - first) + (pours[1].len() - 1 - second) {
            for of_first in 0..=more {
                let (one, two) = (first + of_first, second + more - of_first);
                if let (Some(a), Some(b)) = (pours[0].get(one), pours[1].get(two))
                    && a.wrapping_add(*b) == sum
                {
                    place.poured = [one, two];
                    return Ok(());
                }
            }
        }
        Err("rows that were poured in are missing between others, or have gone".into())
    }
}
