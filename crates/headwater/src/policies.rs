//! Row level security of the source, for whoever shows it or syncs by it: the command `policies`, the page of the
//! administration and the server that syncs from policies.

use hw_expr::postgres::{Refusal, Visible};
use hw_pg::policies::{Basis, PolicyStreams, RowSecurity, SecuredTable, Unseen, one_line};
use hw_types::relation::quote_ident;
use hw_types::{Diagnostic, TableName};
use hw_write::USUAL_ROLES;
use serde::Serialize;
use tokio_postgres::Client;

use crate::code;
use crate::config::Config;

/// The role that hosted services write into every token.
const HOSTED: &str = "authenticated";

/// What the catalog says of a role that reads.
pub struct Reader {
    /// The role.
    pub role: String,
    /// What else a token's claim `role` may be for somebody to be of the role: as for writes, where hosted
    /// services write `authenticated` into every token.
    pub also_claimed: Vec<String>,
    /// Its row level security.
    pub security: RowSecurity,
}

impl Reader {
    /// Reads it for the role that is given, or configured for writes or live queries, or usual: the first of those
    /// as whom the server would write.
    ///
    /// - Takes: a connection outside of a transaction.
    /// - Errors: HW1017 when there is no such role; the source's.
    pub async fn read(
        client: &mut Client,
        config: &Config,
        given: Option<&str>,
    ) -> Result<Reader, Box<Diagnostic>> {
        let configured = config.uploads.role.as_deref().or(config.datasync.role.as_deref());
        let given = given.or(configured);
        let roles = given.map_or(USUAL_ROLES.to_vec(), |role| vec![role]);
        for role in &roles {
            let security = RowSecurity::read(client, role)
                .await
                .map_err(|error| Box::new(error.diagnostic()))?;
            if security.has_role() {
                let also_claimed = match given.is_none() && *role != HOSTED {
                    true => vec![HOSTED.to_owned()],
                    false => Vec::new(),
                };
                return Ok(Reader { role: (*role).to_owned(), also_claimed, security });
            }
        }
        let what = format!("there is no role {}, of which tokens could be", roles.join(" or "));
        Err(Box::new(
            Diagnostic::error(code::NO_READER, what).mend(
                "name one: headwater policies --role ROLE, or uploads.role, or datasync.role",
            ),
        ))
    }

    /// The streams that show the role what its policies do.
    pub fn streams(&self) -> PolicyStreams {
        self.security.streams(&self.also_claimed)
    }

    /// The same, and what they were made of.
    pub fn streams_read(&self) -> (PolicyStreams, Basis) {
        self.security.streams_read(&self.also_claimed)
    }

    /// What the role sees of each table, and how that is decided.
    pub fn verdicts(&self) -> Vec<Verdict> {
        let streams = self.streams();
        let stream = |table: &SecuredTable| streams.tables.iter().find(|of| of.table == table.name);
        self.security
            .tables()
            .map(|table| {
                let stream = stream(table);
                let of_policy = |policy: &hw_pg::policies::Policy| OnePolicy {
                    name: policy.name.clone(),
                    permissive: policy.permissive,
                    roles: policy.roles.clone(),
                    using: policy.using.as_deref().map(one_line),
                };
                let (sees, tier, because) = self.seen(table);
                let lifted_by = because.as_ref().map(|because| self.lifted_by(table, because));
                Verdict {
                    schema: table.name.0.clone(),
                    table: table.name.1.clone(),
                    sees,
                    tier,
                    lifted_by,
                    because,
                    policies: self.security.policies_of(table).map(of_policy).collect(),
                    stream: stream.map(|of| of.queries.clone()).unwrap_or_default(),
                    not_synced: stream
                        .map(|of| of.refused.iter().map(|refused| refused.text()).collect())
                        .unwrap_or_default(),
                }
            })
            .collect()
    }

    /// What would let it be decided without asking Postgres.
    fn lifted_by(&self, table: &SecuredTable, because: &Because) -> String {
        let (schema, name) = &table.name;
        match &because.expression {
            Some(expression) => format!(
                "something of what docs/policies.md lists in place of {expression}, or a column of {schema}.{name} that \
                 holds what it gives and is kept by a trigger"
            ),
            None => {
                let table = format!("{}.{}", quote_ident(schema), quote_ident(name));
                let role = quote_ident(&self.role);
                format!(
                    "GRANT SELECT ON {table} TO {role}, and partitions in place of tables that inherit from it"
                )
            }
        }
    }

    /// The tables that the policies of one read beside it, as far as that is known here.
    pub fn tables_beside(&self, table: &TableName) -> Vec<TableName> {
        let is_it = |of: &&SecuredTable| of.name.0 == table.schema && of.name.1 == table.name;
        let found = self.security.tables().find(is_it);
        let condition = found.and_then(|table| self.security.condition(table).ok());
        let read = condition.map(|condition| condition.tables()).unwrap_or_default();
        let read = self.security.tables().filter(|table| read.contains(&table.id));
        read.map(|table| TableName::new(table.name.0.clone(), table.name.1.clone())).collect()
    }

    fn seen(&self, table: &SecuredTable) -> (String, Tier, Option<Because>) {
        let role = &self.role;
        let seen = match self.security.table_of(table) {
            Ok(seen) => seen,
            Err(Unseen::NotAllowed(reason)) => {
                return (format!("no row, because {reason}"), Tier::Fixed, None);
            }
            Err(Unseen::Unknown(reason)) => {
                let because = Because { expression: None, reason };
                return (ASKED.to_owned(), Tier::Asked, Some(because));
            }
        };
        let fixed = |what: String| (what, Tier::Fixed, None);
        match &seen.visible {
            Visible::All if !table.enabled => {
                return fixed("every row: row security is not enabled".to_owned());
            }
            Visible::All => return fixed(format!("every row: {role} is exempt from its policies")),
            Visible::Where { permissive, .. } if permissive.is_empty() => {
                return fixed(format!("no row: no policy admits {role}"));
            }
            Visible::Where { .. } => {}
        }
        match self.security.condition(table) {
            Ok(condition) => {
                let read = condition.tables();
                let names = self.security.tables().filter(|table| read.contains(&table.id));
                let names: Vec<String> =
                    names.map(|t| format!("{}.{}", t.name.0, t.name.1)).collect();
                match names.is_empty() {
                    true => ("decided from the row and the token".to_owned(), Tier::Compiled, None),
                    false => {
                        let names = names.join(", ");
                        let sees = format!("decided from the row, the token and rows of {names}");
                        (sees, Tier::WithLookup, None)
                    }
                }
            }
            Err(Refusal { expression, reason, .. }) => {
                let because = Because { expression: Some(expression), reason };
                (ASKED.to_owned(), Tier::Asked, Some(because))
            }
        }
    }
}

/// What helps where what is decided here was not what Postgres shows.
const TRIED_AGAIN: &str =
    "other policies, functions or grants, or a start of the server: then it is tried again";

/// What a role sees where it is not decided here.
const ASKED: &str = "Postgres must be asked";

/// What a role sees of a table.
#[derive(Clone, Debug, Serialize)]
pub struct Verdict {
    /// Its schema.
    pub schema: String,
    /// Its name.
    pub table: String,
    /// In words.
    pub sees: String,
    /// How it is decided which rows.
    pub tier: Tier,
    /// Why Postgres must be asked, if it must.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub because: Option<Because>,
    /// What would change that.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub lifted_by: Option<String>,
    /// The policies that apply to the role.
    pub policies: Vec<OnePolicy>,
    /// The queries that sync it with `sync.from: policies`.
    pub stream: Vec<String>,
    /// What of it is not synced, why, and what would be.
    pub not_synced: Vec<String>,
}

impl Verdict {
    /// An audit has found that it is not so: live results are asked.
    pub fn refute(&mut self, reason: String) {
        self.sees = ASKED.to_owned();
        self.tier = Tier::Asked;
        self.because = Some(Because { expression: None, reason });
        self.lifted_by = Some(TRIED_AGAIN.to_owned());
    }
}

/// How it is decided which rows a role sees.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Serialize)]
#[serde(rename_all = "snake_case")]
pub enum Tier {
    /// All of them, or none.
    Fixed,
    /// From the row and the token.
    Compiled,
    /// … and rows of other tables.
    WithLookup,
    /// By Postgres.
    Asked,
}

/// Why Postgres must be asked.
#[derive(Clone, Debug, Serialize)]
pub struct Because {
    /// The part of the policy that is the reason.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub expression: Option<String>,
    /// What about it.
    pub reason: String,
}

/// A policy that applies.
#[derive(Clone, Debug, Serialize)]
pub struct OnePolicy {
    /// Its name.
    pub name: String,
    /// Whether it admits; if not, it restricts.
    pub permissive: bool,
    /// Whom it is for; nobody by name is PUBLIC.
    pub roles: Vec<String>,
    /// `USING`.
    pub using: Option<String>,
}
