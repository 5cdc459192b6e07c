//! Row security of each role that asks, of the moment.

use crate::error::LiveError;
use crate::lookups::name_of;
use crate::plan::Conditions;
use crate::query::Question;
use hw_expr::postgres::{Condition, JsonOfDatabase, Table};
use hw_pg::error::PgError;
use hw_pg::policies::{Exemption, RowSecurity, SecuredTable};
use hw_pg::rights::Rights;
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
    rights: Option<Rights>,
    roles: HashMap<Arc<str>, Arc<RowSecurity>>,
    /// By role and table.
    tables: HashMap<(Arc<str>, TableName), Arc<Known>>,
    /// Filters by role, table and text; those that differ in parameters only are one.
    filters: HashMap<(Arc<str>, TableName, String), Option<Arc<Condition>>>,
    /// Bytes of all texts of filters.
    filter_bytes: usize,
}

/// What is known of a table that a role may ask for.
pub(crate) struct Known {
    pub reads: Arc<Reads>,
    policies: Arc<[String]>,
    /// The table as the role sees it, and its policies as a condition; `None`: Postgres has to be asked.
    visible: Option<Visible>,
}

/// A table as a role sees it.
struct Visible {
    table: Table,
    condition: Arc<Condition>,
    /// The tables that its policies read beside it.
    inner: Arc<[Table]>,
}

/// What a question stands on.
pub(crate) struct Admitted {
    pub reads: Arc<Reads>,
    /// Its policies, by name.
    pub policies: Arc<[String]>,
    /// How values become JSON in this database.
    pub json: JsonOfDatabase,
    /// Its policies and filter as conditions, where there are such.
    pub conditions: Option<Conditions>,
}

/// Bytes of texts of filters that are remembered. What is read of one takes several times as much.
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
        if self.rights.as_ref() != Some(rights) {
            *self = Book { rights: Some(rights.clone()), ..Book::default() };
        }
        let (role, query) = (&question.who.run_as.role, &question.query);
        let security = match self.roles.get(role) {
            Some(known) => known.clone(),
            None => {
                let read = Arc::new(RowSecurity::read(client, role).await?);
                // It may have changed, and by the end of the round be again what it was.
                if read.rights() != rights {
                    return Ok(None);
                }
                self.roles.insert(role.clone(), read.clone());
                read
            }
        };
        let name = (role.clone(), query.table.clone());
        let known = match self.tables.get(&name) {
            Some(known) => known.clone(),
            None => match admitted(&security, role, &query.table) {
                Ok(known) => {
                    let known = Arc::new(known);
                    self.tables.insert(name, known.clone());
                    known
                }
                Err(refused) => return Ok(Some(Err(refused))),
            },
        };
        let conditions = known.visible.as_ref().zip(query.matcher.as_ref());
        let conditions = conditions.and_then(|(visible, matcher)| {
            let Visible { table, condition, inner } = visible;
            let filter = match &matcher.filter {
                None => None,
                Some(filter) => Some(self.filter(&security, role, table, &filter.text)?),
            };
            Some(Conditions {
                table: table.clone(),
                visible: condition.clone(),
                filter,
                inner: inner.clone(),
            })
        });
        let (reads, policies) = (known.reads.clone(), known.policies.clone());
        Ok(Some(Ok(Admitted { reads, policies, json: security.json(), conditions })))
    }

    fn filter(
        &mut self,
        security: &RowSecurity,
        role: &Arc<str>,
        table: &Table,
        text: &str,
    ) -> Option<Arc<Condition>> {
        let key = (role.clone(), name_of(table), text.to_owned());
        if let Some(known) = self.filters.get(&key) {
            return known.clone();
        }
        let read = Condition::read(text, table, security).ok().map(Arc::new);
        self.filter_bytes += text.len() + PER_FILTER;
        if self.filter_bytes > FILTER_BYTES {
            self.filters.clear();
            self.filter_bytes = text.len() + PER_FILTER;
        }
        self.filters.insert(key, read.clone());
        read
    }

    /// Forgets what was read while it changed.
    ///
    /// - Takes: as of which rights it was read.
    pub fn forget(&mut self, rights: &Rights) {
        if self.rights.as_ref() == Some(rights) {
            *self = Book::default();
        }
    }
}

/// Whether a role may ask for rows of a table, and what decides which of them it is shown.
///
/// - Errors: it may not; or row security does not stand between them: default deny.
fn admitted(security: &RowSecurity, role: &str, table: &TableName) -> Result<Known, LiveError> {
    let found = security.tables().find(|known| is(known, table));
    let Some(found) = found else { return Err(LiveError::NotReadable(table.clone())) };
    let of_role = |reason| LiveError::Role { role: role.to_owned(), reason };
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
    let seen = security.table_of(found).ok().zip(security.condition(found).ok());
    let visible = seen.map(|(table, condition)| {
        let read = condition.tables();
        let inner = security.tables().filter(|known| read.contains(&known.id));
        let inner = inner.map(|known| security.whole(known)).collect();
        Visible { table, condition: Arc::new(condition), inner }
    });
    match &visible {
        Some(visible) => reads.tables.extend(visible.inner.iter().map(name_of)),
        None => reads.unknown = true,
    }
    let policies = security.policies_of(found).map(|policy| policy.name.clone()).collect();
    Ok(Known { reads: Arc::new(reads), policies, visible })
}

fn is(known: &SecuredTable, table: &TableName) -> bool {
    known.name.0 == table.schema && known.name.1 == table.name
}
