//! Row security of each role that asks, of the moment.
//!
//! In: sessions, and questions. Out: what each question stands on. Invariant: behind [`Book::renew`] all that is here
//! is as of the rights of the book, and whatever is not as it was read has given way (`ground`).

use crate::error::LiveError;
use crate::ground::{Fact, Ground};
use crate::lookups::name_of;
use crate::plan::Conditions;
use crate::query::Question;
use hw_engine::Committed;
use hw_expr::postgres::{Condition, JsonOfDatabase, Table};
use hw_pg::error::PgError;
use hw_pg::policies::{Exemption, Reading, Readings, RowSecurity, SecuredTable};
use hw_pg::rights::{Rights, TableRights};
use hw_pg::sql::PooledClient;
use hw_types::TableName;
use std::collections::{BTreeSet, HashMap};
use std::sync::Arc;

/// Which tables decide what a query gives.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub(crate) struct Reads {
    /// The table itself, and those that its policies read.
    pub tables: BTreeSet<TableName>,
    /// Policies read what is not known here, perhaps no table at all.
    pub unknown: bool,
}

impl Reads {
    /// Whether a transaction did something to any of them.
    pub fn has(&self, one: &Committed) -> bool {
        let mut tables = one.tables.iter();
        self.unknown && !one.tables.is_empty()
            || tables.any(|table| self.tables.contains(table.name()))
    }

    /// What several of them read.
    pub fn of_all<'r>(all: impl Iterator<Item = &'r Reads>) -> Reads {
        all.fold(Reads::default(), |mut sum, one| {
            sum.tables.extend(one.tables.iter().cloned());
            sum.unknown |= one.unknown;
            sum
        })
    }
}

/// What was read, as of which rights.
#[derive(Default)]
pub(crate) struct Book {
    rights: Rights,
    roles: HashMap<Arc<str>, Arc<RowSecurity>>,
    tables: HashMap<OfRole, Arc<Known>>,
    /// Filters by text, too; those that differ in parameters only are one.
    filters: HashMap<(OfRole, String), Option<Arc<Filter>>>,
    /// Bytes of all texts of filters, and of those that somebody stood on when it was last looked for others.
    filter_bytes: usize,
    used_bytes: usize,
    /// All of the rights: what results stand on of which it is not known what they depend on.
    all: Fact,
}

/// A role, and a table that it reads.
type OfRole = (Arc<str>, TableName);

/// What is known of a table that a role may ask for.
struct Known {
    reads: Arc<Reads>,
    policies: Arc<[String]>,
    /// The table as the role sees it, and its policies as a condition; `None`: Postgres has to be asked.
    visible: Option<Visible>,
    fact: Fact,
}

/// A table as a role sees it.
struct Visible {
    table: Table,
    condition: Arc<Condition>,
    /// The tables that its policies read beside it.
    inner: Arc<[Table]>,
    /// All that this was read of: what names mean, and what tables are.
    read: Reading,
    rights: TableRights,
}

/// A filter as a condition.
struct Filter {
    condition: Arc<Condition>,
    read: Reading,
    fact: Fact,
}

/// What a question stands on.
pub(crate) struct Admitted {
    pub reads: Arc<Reads>,
    /// Its policies, by name.
    pub policies: Arc<[String]>,
    /// How values become JSON in this database.
    pub json: JsonOfDatabase,
    /// Policies and filter as conditions, where there are such.
    pub conditions: Option<Conditions>,
    pub ground: Ground,
}

/// Bytes of texts of filters that are remembered though nobody stands on them. What is read of one takes several
/// times as much.
const FILTER_BYTES: usize = 4 << 20;

/// What counts of a filter beside its text.
const PER_FILTER: usize = 256;

impl Book {
    /// What a question stands on.
    ///
    /// - Takes: who may see what; the caller compares it again behind this.
    /// - Returns: `None` where who may see what has changed since.
    /// - Errors: the inner ones are the answer of the question.
    pub async fn admit(
        &mut self,
        client: &mut PooledClient,
        rights: &Rights,
        question: &Question,
    ) -> Result<Option<Result<Admitted, LiveError>>, PgError> {
        if self.rights != *rights {
            return Ok(None);
        }
        let (role, query) = (&question.who.run_as.role, &question.query);
        let Some(security) = self.security(client, role).await? else { return Ok(None) };
        let name = (role.clone(), query.table.clone());
        let known = match self.tables.get(&name) {
            Some(known) => known.clone(),
            None => match Known::read(&security, &name, rights) {
                Ok(known) => {
                    let known = Arc::new(known);
                    self.tables.insert(name.clone(), known.clone());
                    known
                }
                Err(refused) => return Ok(Some(Err(refused))),
            },
        };
        let understood = known.visible.as_ref().zip(query.matcher.as_ref());
        let understood = understood.and_then(|(visible, matcher)| {
            let filter = match &matcher.filter {
                None => None,
                Some(filter) => {
                    Some(self.filter(&security, &name, &visible.table, &filter.text)?)
                }
            };
            Some((visible, filter))
        });
        let ground = match &understood {
            Some((_, filter)) => {
                let filter = filter.as_ref().map(|filter| filter.fact.clone());
                Ground::new(known.fact.clone(), filter)
            }
            // It may depend on anything.
            None => Ground::new(self.all.clone(), None),
        };
        let conditions = understood.map(|(visible, filter)| Conditions {
            table: visible.table.clone(),
            visible: visible.condition.clone(),
            filter: filter.map(|filter| filter.condition.clone()),
            inner: visible.inner.clone(),
        });
        let (reads, policies) = (known.reads.clone(), known.policies.clone());
        Ok(Some(Ok(Admitted { reads, policies, json: security.json(), conditions, ground })))
    }

    /// Reads anew what somebody stands on, where anything has changed: what is as it was read stays, and all else
    /// gives way.
    ///
    /// - Returns: who may see what, as of which all of this is; `None` where that has changed meanwhile.
    pub async fn renew(&mut self, client: &mut PooledClient) -> Result<Option<Rights>, PgError> {
        let rights = self.rights.again(&**client).await?;
        if !rights.may_have_changed_since(&self.rights) {
            return Ok(Some(rights));
        }
        let mut now = Book { rights: rights.clone(), ..Book::default() };
        for (name, known) in self.tables.iter().filter(|(_, known)| known.fact.is_used()) {
            let Some(security) = now.security(client, &name.0).await? else { return Ok(None) };
            // Whoever is refused by now is told so when he is asked.
            let Ok(read) = Known::read(&security, name, &rights) else { continue };
            if let Some(kept) = known.kept(read) {
                now.tables.insert(name.clone(), Arc::new(kept));
            }
        }
        for (key, filter) in &self.filters {
            let (name, text) = key;
            let Some(filter) = filter.as_ref().filter(|filter| filter.fact.is_used()) else {
                continue;
            };
            let known = now.tables.get(name).and_then(|known| known.visible.as_ref());
            let Some((visible, security)) = known.zip(now.roles.get(&name.0)) else { continue };
            let read = Filter::read(security, &visible.table, text);
            if let Some(read) = read.filter(|read| read.read == filter.read) {
                now.filter_bytes += text.len() + PER_FILTER;
                let (condition, fact) = (filter.condition.clone(), filter.fact.clone());
                let kept = Filter { condition, read: read.read, fact };
                now.filters.insert(key.clone(), Some(Arc::new(kept)));
            }
        }
        now.used_bytes = now.filter_bytes;
        // Some of it Postgres tells as of now, whatever the snapshot is of.
        if rights.again(&**client).await? != rights {
            return Ok(None);
        }
        // What is the same and was written since was perhaps otherwise, when something was committed that is still to come.
        for (name, known) in &now.tables {
            let was = self.tables.get(name).and_then(|known| known.visible.as_ref());
            if was.zip(known.visible.as_ref()).is_some_and(|(was, is)| !is.is_as_old_as(was)) {
                known.fact.doubt(rights.at());
            }
        }
        for (key, filter) in &now.filters {
            let was = self.filters.get(key).and_then(Option::as_ref).zip(filter.as_ref());
            if let Some((was, is)) = was
                && !is.read.is_as_old_as(&was.read)
            {
                is.fact.doubt(rights.at());
            }
        }
        let is_kept = |name: &OfRole| now.tables.contains_key(name);
        let tables = self.tables.iter().filter(|(name, _)| !is_kept(name));
        tables.for_each(|(_, known)| known.fact.give_way());
        let filters = self.filters.iter().filter(|(key, _)| !now.filters.contains_key(*key));
        filters.filter_map(|(_, filter)| filter.as_ref()).for_each(|filter| filter.fact.give_way());
        match rights == self.rights {
            true => now.all = self.all.clone(),
            false => self.all.give_way(),
        }
        *self = now;
        Ok(Some(rights))
    }

    /// What was read while it changed is read again the next time, also if it is then what it was.
    ///
    /// - Takes: as of which rights it was read.
    pub fn doubt(&mut self, rights: &Rights) {
        if self.rights == *rights {
            self.rights = Rights::default();
        }
    }

    async fn security(
        &mut self,
        client: &mut PooledClient,
        role: &Arc<str>,
    ) -> Result<Option<Arc<RowSecurity>>, PgError> {
        if let Some(known) = self.roles.get(role) {
            return Ok(Some(known.clone()));
        }
        let read = Arc::new(RowSecurity::read(client, role).await?);
        // It may have changed, and by the end of the round be again what it was.
        if *read.rights() != self.rights {
            return Ok(None);
        }
        self.roles.insert(role.clone(), read.clone());
        Ok(Some(read))
    }

    fn filter(
        &mut self,
        security: &RowSecurity,
        name: &OfRole,
        table: &Table,
        text: &str,
    ) -> Option<Arc<Filter>> {
        let key = (name.clone(), text.to_owned());
        if let Some(known) = self.filters.get(&key) {
            return known.clone();
        }
        let read = Filter::read(security, table, text).map(Arc::new);
        self.filter_bytes += text.len() + PER_FILTER;
        if self.filter_bytes > FILTER_BYTES + 2 * self.used_bytes {
            let is_used = |filter: &Option<Arc<Filter>>| {
                filter.as_ref().is_some_and(|filter| filter.fact.is_used())
            };
            self.filters.retain(|_, filter| is_used(filter));
            self.used_bytes = self.filters.keys().map(|(_, text)| text.len() + PER_FILTER).sum();
            self.filter_bytes = self.used_bytes + text.len() + PER_FILTER;
        }
        self.filters.insert(key, read.clone());
        read
    }
}

impl Filter {
    /// `None`: Postgres has to be asked.
    fn read(security: &RowSecurity, table: &Table, text: &str) -> Option<Filter> {
        let readings = Readings::of(security);
        let condition = Arc::new(Condition::read(text, table, &readings).ok()?);
        Some(Filter { condition, read: readings.finish(), fact: Fact::default() })
    }
}

impl Known {
    /// Whether a role may ask for rows of a table, and what decides which of them it is shown.
    ///
    /// - Errors: it may not; or row security does not stand between them: default deny.
    fn read(
        security: &RowSecurity,
        (role, table): &OfRole,
        rights: &Rights,
    ) -> Result<Known, LiveError> {
        let found = security.tables().find(|known| is(known, table));
        let Some(found) = found else { return Err(LiveError::NotReadable(table.clone())) };
        let of_role = |reason| LiveError::Role { role: role.to_string(), reason };
        let of_table = |reason| LiveError::NotSecured { table: table.clone(), reason };
        match security.exemption(found) {
            None => {}
            Some(Exemption::NoRole) => return Err(of_role("does not exist")),
            Some(Exemption::AboveThePolicies) => {
                return Err(of_role(
                    "is a superuser or has BYPASSRLS, so row level security would not hold",
                ));
            }
            Some(Exemption::NotEnabled) => return Err(of_table("has none")),
            Some(Exemption::Owner) => {
                return Err(of_table("belongs to the role, and row level security is not forced"));
            }
        }
        let mut reads = Reads { tables: BTreeSet::from([table.clone()]), unknown: false };
        let visible = Visible::read(security, found, rights);
        match &visible {
            Some(visible) => reads.tables.extend(visible.inner.iter().map(name_of)),
            None => reads.unknown = true,
        }
        let policies = security.policies_of(found).map(|policy| policy.name.clone()).collect();
        Ok(Known { reads: Arc::new(reads), policies, visible, fact: Fact::default() })
    }

    /// What is kept of it where the same was read once more. What is not known is never the same.
    fn kept(&self, again: Known) -> Option<Known> {
        let (was, is) = self.visible.as_ref().zip(again.visible)?;
        if is.read != was.read || is.rights != was.rights {
            return None;
        }
        let (table, condition) = (was.table.clone(), was.condition.clone());
        let visible = Visible {
            table,
            condition,
            inner: was.inner.clone(),
            read: is.read,
            rights: is.rights,
        };
        let (reads, policies) = (self.reads.clone(), self.policies.clone());
        Some(Known { reads, policies, visible: Some(visible), fact: self.fact.clone() })
    }
}

impl Visible {
    /// Whether all that it was read of was written by the same transactions.
    fn is_as_old_as(&self, other: &Visible) -> bool {
        self.read.is_as_old_as(&other.read) && self.rights.is_as_old_as(&other.rights)
    }

    /// `None`: Postgres has to be asked.
    fn read(security: &RowSecurity, found: &SecuredTable, rights: &Rights) -> Option<Visible> {
        let readings = Readings::of(security);
        let table = security.table_of(found).ok()?;
        let condition = Arc::new(Condition::of_visibility(&table, &readings).ok()?);
        let read = condition.tables();
        let inner = security.tables().filter(|known| read.contains(&known.id));
        let inner: Arc<[Table]> = inner.map(|known| security.whole(known)).collect();
        // How its rows are told, and whether they are told at all.
        readings.note((&table, &inner, security.may_name(found), security.json()));
        let rights = rights.of_tables(inner.iter().chain([&table]).map(|table| table.number));
        Some(Visible { table, condition, inner, read: readings.finish(), rights })
    }
}

fn is(known: &SecuredTable, table: &TableName) -> bool {
    known.name.0 == table.schema && known.name.1 == table.name
}
