//! What the store has lost to damage.
//!
//! The store names the spaces whose files are damaged; nothing of them is ever read again. Most of
//! what it holds comes from the source and is made again:
//!
//! - `rows.<n>`: the table is forgotten and copied as one that the replica never had. What was
//!   derived from it goes with it, because without the rows as they were nobody can say which of its
//!   operations still hold.
//! - `ops.<n>`, `buckets.<n>`, `lookups.<n>`, `held.<n>`: the incarnation is built again under a new
//!   number, so that its buckets have other names and no client adds to a checksum that it has.
//!
//! All other spaces remember what nobody else knows: what clients were given, what of the source was
//! applied. A store that has lost one of them is refused.

use crate::error::EngineError;
use hw_input::entry::Control;
use hw_store::{Store, StoreError};
use std::collections::BTreeSet;

/// The damaged spaces of a store, which are given up when the writer has opened.
#[derive(Default)]
pub(crate) struct Lost {
    spaces: BTreeSet<String>,
    tables: BTreeSet<u32>,
    derived: BTreeSet<u32>,
}

impl Lost {
    /// What the store has found damaged so far.
    ///
    /// - Errors: `Damaged`, when something of it cannot be made again.
    pub fn of(store: &Store) -> Result<Lost, EngineError> {
        let mut lost = Lost::default();
        for name in store.damaged_spaces() {
            match numbered(&name) {
                Some(("rows", number)) => lost.tables.insert(number),
                Some(("ops" | "buckets" | "lookups" | "held", number)) => {
                    lost.derived.insert(number)
                }
                _ => {
                    let what = format!("the space {name:?}, which cannot be made again");
                    return Err(StoreError::Damaged { what }.into());
                }
            };
            lost.spaces.insert(name);
        }
        Ok(lost)
    }

    /// Whether what is written to this space is of no use to anybody.
    pub fn contains(&self, space: &str) -> bool {
        self.spaces.contains(space)
    }

    /// What is to be done about it, once.
    pub fn take(&mut self) -> Option<Control> {
        let Lost { spaces, tables, derived } = std::mem::take(self);
        (!spaces.is_empty()).then_some(Control::Lost { tables, derived })
    }
}

/// What a space is for, and the number of the incarnation that it belongs to.
pub(crate) fn numbered(space: &str) -> Option<(&str, u32)> {
    let (kind, number) = space.split_once('.')?;
    Some((kind, number.parse().ok()?))
}
