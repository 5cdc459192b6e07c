//! What a condition was read of: all that was asked of names, and all that was answered. A condition is made of
//! nothing else, so that under another catalog that answers the same it is the same.

use super::RowSecurity;
use hw_expr::postgres::{Helper, Lookup, Names, Table, Type, Unseen};
use parking_lot::Mutex;
use sha2::{Digest as _, Sha256};
use std::collections::BTreeSet;
use std::fmt::Debug;

/// Names that note what is read of them.
pub struct Readings<'n> {
    names: &'n RowSecurity,
    noted: Mutex<Sha256>,
    versions: Mutex<Sha256>,
    tables: Mutex<BTreeSet<u32>>,
}

/// All that was read. Two are equal if it is the same, also where it was otherwise in between:
/// [`Reading::is_as_old_as`] tells that of functions and memberships.
#[derive(Clone, Copy, Debug)]
pub struct Reading {
    what: [u8; 32],
    versions: [u8; 32],
}

impl PartialEq for Reading {
    fn eq(&self, other: &Reading) -> bool {
        self.what == other.what
    }
}

impl Eq for Reading {}

impl Reading {
    /// Whether all of it was written by the same transactions.
    pub fn is_as_old_as(&self, other: &Reading) -> bool {
        self.versions == other.versions
    }
}

impl<'n> Readings<'n> {
    /// Nothing yet but who asks, and where names are looked for.
    pub fn of(names: &'n RowSecurity) -> Readings<'n> {
        let (noted, versions) = (Mutex::new(Sha256::new()), Mutex::new(Sha256::new()));
        let readings = Readings { names, noted, versions, tables: Mutex::default() };
        readings.note((names.role(), names.search_path()));
        let memberships = names.roles.get(names.role()).map(|role| &role.memberships);
        add(&readings.versions, memberships);
        readings
    }

    /// Notes something else that decides.
    pub fn note(&self, what: impl Debug) {
        add(&self.noted, what);
    }

    /// The tables that were found by their names, by oid.
    pub fn tables(&self) -> BTreeSet<u32> {
        self.tables.lock().clone()
    }

    /// What was noted.
    pub fn finish(self) -> Reading {
        let digest = |noted: Mutex<Sha256>| noted.into_inner().finalize().into();
        Reading { what: digest(self.noted), versions: digest(self.versions) }
    }

    fn noted<T: Debug>(&self, asked: impl Debug, answer: T) -> T {
        self.note((asked, &answer));
        answer
    }
}

fn add(noted: &Mutex<Sha256>, what: impl Debug) {
    let text = format!("{what:?}");
    let mut noted = noted.lock();
    noted.update(text.len().to_be_bytes());
    noted.update(text);
}

impl Names for Readings<'_> {
    fn role(&self) -> &str {
        self.names.role()
    }

    fn search_path(&self) -> &[String] {
        self.names.search_path()
    }

    fn table(&self, lookup: &Lookup, name: &str) -> Result<Table, Unseen> {
        let answer = self.names.table(lookup, name);
        self.tables.lock().extend(answer.as_ref().map(|table| table.number));
        self.noted(("table", lookup, name), answer)
    }

    fn function(&self, lookup: &Lookup, name: &str, arguments: &[Type]) -> Result<Helper, Unseen> {
        let answer = self.names.function(lookup, name, arguments);
        add(&self.versions, self.names.versions(lookup, name));
        self.noted(("function", lookup, name, arguments), answer)
    }

    fn is_shadowed(&self, lookup: &Lookup, name: &str) -> bool {
        self.noted(("shadowed", lookup, name), self.names.is_shadowed(lookup, name))
    }

    fn has_equality(&self) -> bool {
        self.noted("equality", self.names.has_equality())
    }

    fn has_casts(&self) -> bool {
        self.noted("casts", self.names.has_casts())
    }

    fn named_type(&self, lookup: &Lookup, name: &str) -> Option<Type> {
        self.noted(("type", lookup, name), self.names.named_type(lookup, name))
    }

    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>> {
        self.noted(("literal", ty, text), self.names.literal(ty, text))
    }
}
