//! Row level security as a sync configuration: a stream for each table, a query for each policy that admits.
//!
//! In: [`RowSecurity`]. Out: [`PolicyStreams`], whose text the ordinary front end of sync configurations
//! compiles. Equal catalogs give equal texts, and a table's stream depends on nothing but its own policies and
//! what they read, so that a change of one leaves the others as they are.
//!
//! Invariant: a query gives no row that Postgres does not show. What cannot be written so is refused by policy, or
//! as a whole table where a restrictive policy or the table itself is the reason.

use super::{Exemption, Policy, Reading, Readings, RowSecurity, SecuredTable, Unseen};
use crate::rights::TableRights;
use hw_expr::postgres::{Clients, Condition, Refusal, Shape, Shapes, Type, Unstreamable, Visible};
use hw_expr::postgres::{Scalar, stream_queries, written_name};
use hw_expr::sync_config::SyncConfig;
use hw_types::Code;
use std::collections::{BTreeMap, BTreeSet};
use std::fmt::Write as _;

/// The streams that show a role what its policies do.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct PolicyStreams {
    /// The role.
    pub role: String,
    /// Every table with row security, by schema and name.
    pub tables: Vec<TableStream>,
}

/// What streams were made of.
#[derive(Clone, Debug)]
pub struct Basis {
    read: Reading,
    tables: TableRights,
}

impl Basis {
    /// Whether all of it is what it was in an earlier one, and was at every moment in between.
    pub fn stood_since(&self, earlier: &Basis) -> bool {
        let is_read = self.read == earlier.read && self.read.is_as_old_as(&earlier.read);
        is_read && self.tables == earlier.tables && self.tables.is_as_old_as(&earlier.tables)
    }
}

/// What is synced of a table.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct TableStream {
    /// Schema and name.
    pub table: (String, String),
    /// The name of the stream, which the table on clients has, too.
    pub name: String,
    /// Its queries, in the order in which the policies were made; without one there is no stream.
    pub queries: Vec<String>,
    /// What is not synced, and why.
    pub refused: Vec<RefusedPolicy>,
    /// Why nobody sees a row, where that is so.
    pub nothing: Option<String>,
}

/// A policy, or a whole table, that is not synced.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct RefusedPolicy {
    /// The policy; `None`: the table as a whole.
    pub policy: Option<String>,
    /// What it says.
    pub using: Option<String>,
    /// Why it has no stream.
    pub reason: String,
    /// A form that would have one.
    pub instead: String,
}

impl RefusedPolicy {
    /// In one line.
    pub fn text(&self) -> String {
        let RefusedPolicy { policy, using, reason, instead } = self;
        let what = match policy {
            Some(policy) => {
                format!("policy {policy}: {}", one_line(using.as_deref().unwrap_or("")))
            }
            None => "it".to_owned(),
        };
        format!(
            "{what} is not synced, because {}; {} would work",
            one_line(reason),
            one_line(instead)
        )
    }
}

impl PolicyStreams {
    /// The sync configuration.
    pub fn text(&self) -> String {
        let is_in = |table: &&TableStream| !table.queries.is_empty();
        let mut text = format!(
            "# What the policies of the role {} show, as sync streams.\nconfig:\n  edition: 3\n",
            one_line(&self.role)
        );
        match self.tables.iter().any(|table| is_in(&table)) {
            true => text += "streams:\n",
            false => text += "streams: {}\n",
        }
        for table in &self.tables {
            for refused in &table.refused {
                let (schema, name) = &table.table;
                let _ = writeln!(
                    text,
                    "  # {}: {}",
                    one_line(&format!("{schema}.{name}")),
                    refused.text()
                );
            }
            if is_in(&table) {
                text += &table.text();
            }
        }
        text
    }
}

impl TableStream {
    fn text(&self) -> String {
        let mut text =
            format!("  {}:\n    auto_subscribe: true\n    queries:\n", scalar(&self.name));
        for query in &self.queries {
            let _ = writeln!(text, "      - {}", scalar(query));
        }
        text
    }
}

/// A text as a scalar of YAML in one line.
fn scalar(text: &str) -> String {
    let is_plain = text.starts_with(|c: char| c.is_ascii_alphabetic())
        && !matches!(
            text.to_ascii_lowercase().as_str(),
            "true" | "false" | "null" | "yes" | "no" | "on" | "off"
        )
        && !text.contains(": ")
        && !text.contains(" #")
        && !text.ends_with([':', ' '])
        && text
            .chars()
            .all(|c| !c.is_control() && c != '\u{2028}' && c != '\u{2029}' && c != '\u{feff}');
    match is_plain {
        true => text.to_owned(),
        false => {
            let mut quoted = String::from("\"");
            for c in text.chars() {
                match c {
                    '"' | '\\' => quoted.extend(['\\', c]),
                    c if (c as u32) < 0xa0 && c.is_control() => {
                        let _ = write!(quoted, "\\x{:02x}", c as u32);
                    }
                    '\u{2028}' | '\u{2029}' | '\u{feff}' => {
                        let _ = write!(quoted, "\\u{:04x}", c as u32);
                    }
                    c => quoted.push(c),
                }
            }
            quoted + "\""
        }
    }
}

/// A text of policies in one line: each run of white space is one blank.
pub fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The tables by what conditions name them by, and the labels of enums.
struct Known<'a> {
    tables: BTreeMap<u32, (&'a SecuredTable, Shape)>,
    labels: &'a BTreeMap<u32, BTreeSet<String>>,
}

impl Shapes for Known<'_> {
    fn shape(&self, table: u32) -> Option<Shape> {
        self.tables.get(&table).map(|(_, shape)| shape.clone())
    }

    fn labels(&self, enumeration: u32) -> Vec<String> {
        self.labels.get(&enumeration).into_iter().flatten().cloned().collect()
    }
}

impl RowSecurity {
    /// What the policies of the role that asks are as a sync configuration.
    ///
    /// - Takes: what a token's claim `role` may be, beside the role, for a client to be of the role.
    pub fn streams(&self, also_claimed: &[String]) -> PolicyStreams {
        self.streams_read(also_claimed).0
    }

    /// The same, and what they were made of.
    pub fn streams_read(&self, also_claimed: &[String]) -> (PolicyStreams, Basis) {
        let readings = Readings::of(self);
        let clients = Clients { role: self.role.clone(), also_claimed: also_claimed.to_vec() };
        let shapes = self.tables().map(|table| (table.id, (table, self.shape(table))));
        let known = Known { tables: shapes.collect(), labels: &self.labels };
        let mut names: BTreeMap<String, (String, String)> = BTreeMap::new();
        let secured = || self.tables().filter(|table| table.enabled);
        // Names of other schemas give way, so that a name does not depend on what comes later.
        let is_public = |table: &&SecuredTable| table.name.0 == "public";
        let tables = secured().filter(is_public).chain(secured().filter(|table| !is_public(table)));
        let mut streams = PolicyStreams { role: self.role.clone(), tables: Vec::new() };
        for table in tables {
            let (schema, own) = &table.name;
            let name = if is_public(&table) { own.clone() } else { format!("{schema}_{own}") };
            let mut stream =
                TableStream { table: table.name.clone(), name, ..TableStream::default() };
            if let Err(refused) = self.fill(table, &mut stream, &clients, (&known, &readings)) {
                stream.queries.clear();
                stream.refused.push(refused);
            }
            if !stream.queries.is_empty() {
                let holder = names.entry(stream.name.to_lowercase()).or_insert(table.name.clone());
                if *holder != table.name {
                    let reason =
                        format!("the table {}.{} has its name on clients", holder.0, holder.1);
                    stream.queries.clear();
                    stream.refused.push(whole(&Unstreamable::new(reason, "another name")));
                }
            }
            streams.tables.push(stream);
        }
        readings.note(streams.text());
        let tables = readings.tables().into_iter().chain(secured().map(|table| table.id));
        let tables = self.rights.of_tables(tables);
        (streams, Basis { read: readings.finish(), tables })
    }

    fn fill(
        &self,
        table: &SecuredTable,
        stream: &mut TableStream,
        clients: &Clients,
        (known, readings): (&Known<'_>, &Readings<'_>),
    ) -> Result<(), RefusedPolicy> {
        match self.exemption(table) {
            None | Some(Exemption::NotEnabled) => {}
            Some(Exemption::NoRole) => {
                return Err(whole(&Unstreamable::new("there is no such role", "CREATE ROLE")));
            }
            Some(Exemption::AboveThePolicies) => {
                return Err(whole(&Unstreamable::new(
                    "the role stands above policies",
                    "a role that is no superuser and has no BYPASSRLS",
                )));
            }
            Some(Exemption::Owner) => {
                return Err(whole(&Unstreamable::new(
                    "the role has the rights of the table's owner, for whom its policies are not",
                    "another role, or FORCE ROW LEVEL SECURITY,",
                )));
            }
        }
        if table.is_partition {
            stream.nothing =
                Some("its rows are those of the table that it is a partition of".to_owned());
            return Ok(());
        }
        let schemas = self.roles.get(&self.role).map(|role| &role.schemas);
        if !schemas.is_some_and(|schemas| schemas.contains(&table.name.0)) {
            stream.nothing = Some(format!("the role may not use the schema {}", table.name.0));
            return Ok(());
        }
        let seen = match self.table_of(table) {
            Ok(seen) => seen,
            Err(Unseen::NotAllowed(reason)) => {
                stream.nothing = Some(reason);
                return Ok(());
            }
            Err(Unseen::Unknown(reason)) => {
                return Err(whole(&Unstreamable::new(reason, "a table that is known as a whole")));
            }
        };
        let Visible::Where { .. } = &seen.visible else { return Ok(()) };
        let shape = &known.tables[&table.id].1;
        let (mut admitting, mut restrictive) = (Vec::new(), Vec::new());
        // A policy that is added is the last query, so that those before it keep their buckets.
        let mut policies: Vec<&Policy> = self.policies_of(table).collect();
        policies.sort_by_key(|policy| policy.id);
        for policy in policies {
            let Some(using) = &policy.using else { continue };
            if policy.permissive {
                admitting.push((policy, using));
                continue;
            }
            let condition = Condition::read(using, &seen, readings);
            restrictive.push(condition.map_err(|refusal| match refusal.fails {
                true => failing(policy, &refusal.to_string()),
                false => unread(policy, refusal),
            })?);
        }
        if admitting.is_empty() {
            stream.nothing = Some("no policy admits the role".to_owned());
            return Ok(());
        }
        let columns = self.columns(table, shape).map_err(|refused| whole(&refused))?;
        let (mut of, mut conditions) = (Vec::new(), Vec::new());
        for (policy, using) in admitting {
            match Condition::read(using, &seen, readings) {
                Ok(condition) => {
                    of.push(policy);
                    conditions.push(condition);
                }
                Err(refusal) if refusal.fails => {
                    return Err(failing(policy, &refusal.to_string()));
                }
                Err(refusal) => stream.refused.push(unread(policy, refusal)),
            }
        }
        let target = (&*columns, &*stream.name);
        let queries = stream_queries(&conditions, &restrictive, shape, target, clients, known)
            .map_err(|refused| {
                whole(&Unstreamable {
                    reason: format!("of a restrictive policy: {}", refused.reason),
                    ..refused
                })
            })?;
        for (policy, query) in of.into_iter().zip(queries) {
            let query = query.and_then(|query| match query {
                Some(query) => {
                    compiles(&stream.name, std::slice::from_ref(&query)).map(|()| Some(query))
                }
                None => Ok(None),
            });
            match query {
                Ok(Some(query)) if !stream.queries.contains(&query) => stream.queries.push(query),
                Ok(_) => {}
                Err(refused) if refused.fails => return Err(failing(policy, &refused.reason)),
                Err(refused) => stream.refused.push(of_policy(policy, &refused)),
            }
        }
        // What each is taken for they may be too many for together.
        if stream.queries.len() > 1 {
            compiles(&stream.name, &stream.queries).map_err(|refused| whole(&refused))?;
        }
        if stream.queries.is_empty() && stream.refused.is_empty() {
            stream.nothing = Some("no policy admits anybody".to_owned());
        }
        Ok(())
    }

    fn shape(&self, table: &SecuredTable) -> Shape {
        let known = self.whole(table);
        let index = |name: &String| known.columns.iter().position(|(known, _)| known == name);
        let keys = table.keys.iter().filter_map(|key| key.columns.iter().map(index).collect());
        Shape { name: table.name.clone(), keys: keys.collect(), columns: known.columns.clone() }
    }

    /// What stands behind SELECT: all columns, and an `id` by which clients tell rows apart.
    fn columns(&self, table: &SecuredTable, shape: &Shape) -> Result<String, Unstreamable> {
        let is_id = |key: &&super::Key| key.columns == ["id"] && key.not_null;
        let id = table.keys.iter().find(is_id);
        let Some(key) = id.or_else(|| table.keys.iter().find(|key| key.is_primary)) else {
            return Err(Unstreamable::new("it has no primary key", "a primary key"));
        };
        if key.columns != ["id"] && shape.columns.iter().any(|(name, _)| name == "id") {
            return Err(Unstreamable::new(
                "its column id would be overwritten on clients by what its rows are told apart by",
                "a column id that is unique and NOT NULL",
            ));
        }
        let type_of = |name: &String| shape.columns.iter().find(|(known, _)| known == name);
        let (mut parts, mut texts) = (Vec::new(), 0);
        for name in &key.columns {
            match type_of(name).map(|(_, ty)| *ty) {
                Some(Type::Scalar(Scalar::Uuid | Scalar::Int2 | Scalar::Int4 | Scalar::Int8)) => {}
                Some(Type::Scalar(Scalar::Text)) => texts += 1,
                _ if key.columns.len() == 1 => {
                    return Err(Unstreamable::new(
                        format!("values of its key {name} are not told apart on clients"),
                        "a key of type text, uuid or integer",
                    ));
                }
                _ => texts = 2,
            }
            parts.push(written_name(name)?);
        }
        if texts > 1 {
            return Err(Unstreamable::new(
                "two rows could have the same key when its columns are put together",
                "a column id that is unique",
            ));
        }
        Ok(match id {
            Some(_) => "*".to_owned(),
            None => format!("*, {} AS id", parts.join(" || '/' || ")),
        })
    }
}

fn whole(refused: &Unstreamable) -> RefusedPolicy {
    let Unstreamable { reason, instead, .. } = refused.clone();
    RefusedPolicy { policy: None, using: None, reason, instead }
}

fn of_policy(policy: &Policy, refused: &Unstreamable) -> RefusedPolicy {
    let (policy, using) = (Some(policy.name.clone()), policy.using.clone());
    RefusedPolicy { policy, using, ..whole(refused) }
}

/// With one that Postgres cannot apply nobody sees a row of the table, whatever the others say. (Where some columns are
/// granted of what it reads it is not known here whether Postgres can.)
fn failing(policy: &Policy, reason: &str) -> RefusedPolicy {
    whole(&Unstreamable::new(
        format!(
            "every SELECT of it fails in Postgres, or may, by the policy {}: {reason}",
            policy.name
        ),
        "a GRANT of what the policy reads and calls, or a policy that does not fail,",
    ))
}

fn unread(policy: &Policy, Refusal { expression, reason, .. }: Refusal) -> RefusedPolicy {
    let reason = format!("of {}: {reason}", one_line(&expression));
    let instead = "a condition of what docs/policies.md lists, or a column kept by a trigger,";
    of_policy(policy, &Unstreamable::new(reason, instead))
}

/// Queries that the front end does not take, or of which it passes over a table, are none.
fn compiles(name: &str, queries: &[String]) -> Result<(), Unstreamable> {
    let stream =
        TableStream { name: name.to_owned(), queries: queries.to_vec(), ..TableStream::default() };
    let text = format!("config:\n  edition: 3\nstreams:\n{}", stream.text());
    let loaded = SyncConfig::load(&text, "policies", None);
    let passed_over = |code: &Code| *code == hw_expr::sync_config::PASSED_OVER;
    let refused = |what: &str| {
        Err(Unstreamable::new(
            format!("the sync language refuses its query: {what}"),
            "fewer alternatives, or a simpler condition,",
        ))
    };
    match loaded.diagnostics.iter().find(|found| found.is_error() || passed_over(&found.code)) {
        Some(found) => refused(&found.what),
        None if loaded.config.is_none() => refused("it does not compile"),
        None => Ok(()),
    }
}
