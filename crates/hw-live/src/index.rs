//! Who may have a row in a result, found by what the row has: a change costs its matches, not its subscribers.

use hw_expr::postgres::Cover;
use hw_types::Row;
use std::collections::{BTreeSet, HashMap, HashSet};

/// The planned results over one table.
#[derive(Default)]
pub(crate) struct Index {
    /// By column and value.
    by_value: HashMap<usize, HashMap<Vec<u8>, BTreeSet<u64>>>,
    /// Those that any row may be in.
    anything: BTreeSet<u64>,
}

impl Index {
    pub fn add(&mut self, number: u64, cover: &Cover) {
        match cover {
            Cover::Anything => {
                self.anything.insert(number);
            }
            Cover::OneOf(keys) => {
                for (column, value) in keys {
                    let values = self.by_value.entry(*column).or_default();
                    values.entry(value.clone()).or_default().insert(number);
                }
            }
        }
    }

    pub fn remove(&mut self, number: u64, cover: &Cover) {
        match cover {
            Cover::Anything => {
                self.anything.remove(&number);
            }
            Cover::OneOf(keys) => {
                for (column, value) in keys {
                    let Some(values) = self.by_value.get_mut(column) else { continue };
                    if let Some(numbers) = values.get_mut(value) {
                        numbers.remove(&number);
                        if numbers.is_empty() {
                            values.remove(value);
                        }
                    }
                    if values.is_empty() {
                        self.by_value.remove(column);
                    }
                }
            }
        }
    }

    pub fn is_empty(&self) -> bool {
        self.by_value.is_empty() && self.anything.is_empty()
    }

    /// Adds those that a row may be in.
    pub fn candidates(&self, row: &Row, found: &mut HashSet<u64>) {
        found.extend(&self.anything);
        if self.by_value.is_empty() {
            return;
        }
        let row = row.view();
        for (column, values) in &self.by_value {
            let Some(value) = row.get(*column).bytes() else { continue };
            found.extend(values.get(value).into_iter().flatten());
        }
    }

    /// All of them; some may be named twice.
    pub fn all(&self) -> impl Iterator<Item = u64> + '_ {
        let valued = self.by_value.values().flat_map(HashMap::values).flatten();
        valued.chain(&self.anything).copied()
    }

    /// How often somebody stands in it.
    pub fn len(&self) -> usize {
        self.all().count()
    }

    /// How many of them every row is looked at for.
    pub fn fallback(&self) -> usize {
        self.anything.len()
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use hw_types::row::{Cell, RowBuilder};
    use proptest::prelude::*;

    fn row(values: &[Option<u8>]) -> Row {
        let mut builder = RowBuilder::new();
        let values: Vec<Option<[u8; 1]>> = values.iter().map(|value| value.map(|v| [v])).collect();
        for value in &values {
            builder.push(value.as_ref().map_or(Cell::Null, |value| Cell::Value(value)));
        }
        builder.finish()
    }

    fn cover() -> impl Strategy<Value = Cover> {
        let key = (0_usize..3, 0_u8..4).prop_map(|(column, value)| (column, vec![value]));
        let keys = prop::collection::btree_set(key, 0..4);
        prop_oneof![
            1 => Just(Cover::Anything),
            4 => keys.prop_map(|keys| Cover::OneOf(keys.into_iter().collect())),
        ]
    }

    proptest! {
        #[test]
        fn a_row_finds_those_whose_cover_it_has_and_no_others(
            covers in prop::collection::vec(cover(), 0..8),
            gone in prop::collection::vec(any::<bool>(), 8),
            values in prop::collection::vec(prop::option::of(0_u8..4), 3),
        ) {
            let mut index = Index::default();
            for (number, cover) in covers.iter().enumerate() {
                index.add(number as u64, cover);
            }
            for (number, cover) in covers.iter().enumerate().filter(|(number, _)| gone[*number]) {
                index.remove(number as u64, cover);
            }
            let mut found = HashSet::new();
            index.candidates(&row(&values), &mut found);
            for (number, cover) in covers.iter().enumerate() {
                let has = match cover {
                    Cover::Anything => true,
                    Cover::OneOf(keys) => {
                        keys.iter().any(|(column, value)| values[*column] == Some(value[0]))
                    }
                };
                prop_assert_eq!(found.contains(&(number as u64)), has && !gone[number]);
            }
            for (number, cover) in covers.iter().enumerate().filter(|(number, _)| !gone[*number]) {
                index.remove(number as u64, cover);
            }
            prop_assert!(index.is_empty());
        }
    }
}
