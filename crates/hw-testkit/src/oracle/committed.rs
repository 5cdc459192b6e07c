//! Which states were committed, in their order, and whether what a client was shown is one of them.
//!
//! The driver commits one transaction after another, however many are open, and looks at the state
//! behind each commit. So the list of states is exactly that of the log, and the index in it is the
//! position. Rows that writers pour in beside that are one definition of its own, `flood`: each
//! writer's are shown in order without a gap, so a shown state is known from two numbers.

use std::collections::{BTreeMap, BTreeSet, HashSet};

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

/// The fingerprint of what a definition gives; 0 of one that gives nothing.
fn sum(shown: &Shown, name: &str) -> u64 {
    shown.get(name).map_or(0, |part| part.sum)
}

/// Each row of these definitions is among those that they gave.
fn rows_are_own(own: &BTreeMap<&String, HashSet<u64>>, shown: &Shown) -> Result<(), String> {
    for (name, known) in own {
        let rows = shown.get(*name).map_or(&[][..], |part| &part.rows);
        let strange = rows.iter().filter(|row| !known.contains(row)).count();
        if strange > 0 {
            return Err(format!("{strange} rows of {name} are such as it never gave"));
        }
    }
    Ok(())
}

/// What may be shown of the definitions in a batch.
///
/// Where no event trigger tells of DDL the server looks for it once a second, and so a state may hold
/// what the log brought meanwhile beside rows as they were before the statement. What is asked of a
/// definition that reads such a table is that each row was one of its own since all was settled, apart
/// from the columns that are altered; and in the end all that SQL answers.
#[derive(Default)]
pub(super) struct Committed {
    /// Of each user, behind each commit, what each definition gives; those that could not be
    /// evaluated are absent.
    pub states: Vec<Vec<Shown>>,
    /// Which state was the last in which all was settled.
    pub settled: usize,
    /// Definitions whose tables were changed since.
    pub loose: BTreeSet<String>,
    /// Those of them that read permissions: a row of one moment may be given by those of another.
    pub blind: BTreeSet<String>,
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
    /// Rows of each writer.
    poured: [usize; 2],
}

impl Committed {
    /// Everybody has everything, in the newest state.
    pub(super) fn settle(&mut self) {
        self.settled = self.states[0].len() - 1;
        self.loose.clear();
        self.blind.clear();
    }

    /// A client that has everything.
    pub(super) fn arrive(&self, place: &mut Place) {
        place.at = self.states[0].len() - 1;
        place.poured = self.poured;
    }

    /// Each state is a committed one of this user, and none goes back.
    pub(super) fn explain(
        &self,
        user: usize,
        place: &mut Place,
        shown: &[Shown],
    ) -> Result<(), String> {
        let pours = [0, 1].map(|writer| poured(writer, self.poured[writer]));
        let mut own: BTreeMap<&String, HashSet<u64>> = BTreeMap::new();
        let judged = self.loose.difference(&self.blind).filter(|name| *name != FLOOD);
        for name in judged {
            let parts = self.states[user][self.settled..].iter().filter_map(|s| s.get(name));
            own.insert(name, parts.flat_map(|part| part.rows.iter().copied()).collect());
        }
        for (number, shown) in shown.iter().enumerate() {
            self.one(user, place, shown)
                .and_then(|()| rows_are_own(&own, shown))
                .and_then(|()| self.flood(place, sum(shown, FLOOD), &pours))
                .map_err(|what| format!("state {number} that was shown: {what}"))?;
        }
        Ok(())
    }

    fn one(&self, user: usize, place: &mut Place, shown: &Shown) -> Result<(), String> {
        let states = &self.states[user];
        let said: Vec<&String> = shown.keys().filter(|name| name.starts_with(BANNER)).collect();
        let mut nearest = format!("it is of {said:?}, which was not given");
        for (number, (config, names)) in self.configs.iter().enumerate().skip(place.config) {
            let banner = banner(*config);
            let of_none = |name: &&String| {
                *name != FLOOD
                    && **name != banner
                    && !names.contains(*name)
                    && sum(shown, name) != 0
            };
            // A definition under a name that nobody was served before may wait by itself for its tables, the
            // banner among them; until then nothing of it is shown.
            let is_new = number > 0;
            let may_wait = |name: &String| is_new && !self.configs[0].1.contains(name);
            let is_named = sum(shown, &banner) != 0
                || self.loose.contains(FLOOD)
                || is_new && said.iter().all(|name| sum(shown, name) == 0);
            if !is_named || shown.keys().any(|name| of_none(&name)) {
                continue;
            }
            let solid: Vec<&String> =
                names.iter().filter(|name| !self.loose.contains(*name)).collect();
            let fits = |state: &Shown| {
                let is_it = |name: &&String| {
                    sum(state, name) == sum(shown, name) || may_wait(name) && sum(shown, name) == 0
                };
                solid.iter().all(is_it)
            };
            let Some(found) = states[place.at..].iter().position(fits) else {
                nearest = Self::nearest(states, &solid, shown);
                continue;
            };
            place.at += found;
            place.config = number;
            return Ok(());
        }
        Err(format!(
            "it was not committed behind the last one ({} of {}): {nearest}",
            place.at,
            states.len()
        ))
    }

    /// In words, what is not of the state that fits best, also of those that are over.
    fn nearest(states: &[Shown], solid: &[&String], shown: &Shown) -> String {
        let wrong = |state: &Shown| -> Vec<String> {
            let differ = solid.iter().filter(|name| sum(state, name) != sum(shown, name));
            let say = |name: &&&String| match (sum(state, name), sum(shown, name)) {
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
        if self.loose.contains(FLOOD) {
            return Ok(());
        }
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

#[cfg(test)]
mod tests {
    use super::super::client::Part;
    use super::*;

    fn shown(parts: &[(&str, u64)]) -> Shown {
        let part =
            |(name, sum): &(&str, u64)| ((*name).to_owned(), Part { sum: *sum, rows: vec![*sum] });
        parts.iter().map(part).collect()
    }

    fn given() -> Committed {
        let names = |all: &[&str]| all.iter().map(|name| (*name).to_owned()).collect();
        let configs =
            vec![(0, names(&["def0"])), (1, names(&["def0", "def1"])), (0, names(&["def0"]))];
        let states = (1..=3).map(|n| shown(&[("def0", n), ("def1", n)])).collect();
        Committed { states: vec![states], configs, ..Committed::default() }
    }

    /// Everybody has what the newest configuration gives, because it gives what the first gave; the
    /// one between them is served a little later.
    #[test]
    fn a_configuration_that_was_given_may_be_served_when_all_is_settled() {
        let mut committed = given();
        let mut place = Place::default();
        let of_first = |n| shown(&[("config0", 9), ("def0", n)]);
        committed.explain(0, &mut place, &[of_first(1), of_first(3)]).unwrap();
        committed.arrive(&mut place);
        committed.settle();
        committed.states[0].push(shown(&[("def0", 4), ("def1", 4)]));
        let of_second = |n| shown(&[("config1", 9), ("def0", n), ("def1", n)]);
        let next = [of_second(3), of_second(4), of_first(4)];
        committed.explain(0, &mut place, &next).unwrap();
        let back = committed.explain(0, &mut place, &[of_second(4)]);
        assert!(back.is_err(), "a configuration that was left is not shown again");
    }

    #[test]
    fn states_of_two_moments_of_two_configurations_and_older_ones_are_refused() {
        let wrong = [
            vec![shown(&[("config1", 9), ("def0", 1), ("def1", 2)])],
            vec![shown(&[("config0", 9), ("def0", 1), ("def1", 1)])],
            vec![shown(&[("config0", 9), ("config1", 9), ("def0", 1), ("def1", 1)])],
            vec![shown(&[("config1", 9), ("def1", 2)])],
            vec![shown(&[("def1", 1)])],
            vec![shown(&[("config0", 9), ("def0", 2)]), shown(&[("config0", 9), ("def0", 1)])],
        ];
        for states in wrong {
            given().explain(0, &mut Place::default(), &states).unwrap_err();
        }
    }

    /// One under a new name may wait by itself, and the banner of its configuration with it.
    #[test]
    fn a_definition_under_a_new_name_may_be_shown_empty() {
        for state in [shown(&[("config1", 9), ("def0", 2)]), shown(&[("def0", 1)])] {
            given().explain(0, &mut Place::default(), &[state]).unwrap();
        }
    }

    /// A definition whose table was altered may mix what it gave since all was settled, and no more.
    #[test]
    fn rows_that_an_altered_definition_never_gave_are_refused() {
        let mut committed = given();
        committed.loose.insert("def1".into());
        let state = |n| [shown(&[("config1", 9), ("def0", 1), ("def1", n)])];
        committed.explain(0, &mut Place::default(), &state(3)).unwrap();
        committed.explain(0, &mut Place::default(), &state(7)).unwrap_err();
        committed.settled = 2;
        committed.explain(0, &mut Place::default(), &state(1)).unwrap_err();
        committed.blind.insert("def1".into());
        committed.explain(0, &mut Place::default(), &state(7)).unwrap();
    }
}
