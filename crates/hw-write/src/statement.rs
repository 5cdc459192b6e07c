//! The SQL of one operation.
//!
//! In: an operation, its mapping, the table as the catalog has it. Out: a [`Statement`] whose
//! names come from the catalog and whose values are parameters, or [`Unwritable`], which names what
//! cannot be written. Pure: nothing is asked here.

// A rejection is large and rare: it ends its transaction.
#![allow(clippy::result_large_err)]

use serde_json::value::RawValue;

use crate::catalog::{Column, Table};
use crate::key::{self, KeyColumn};
use crate::map::{ConflictPolicy, ID, MappedTable, Target};
use crate::schema;
use crate::transaction::{Fields, OperationKind, UploadOperation};
use crate::value::{self, Unfit};
use crate::verdict::{Rejection, Unwritable};
use hw_pg::error::{PgError, ServerError};
use hw_types::PgType;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// What the number of affected rows means.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Expect {
    /// Any number is fine.
    Anything,
    /// Zero rows: the row is not there, or its author may not see or change it.
    OneRow,
    /// Zero rows: the row is not as the client knew it, or not there. The query finds out which:
    /// it returns a row if it is there. `gone` says what its absence means.
    Unchanged { exists: Box<Statement>, gone: IfGone },
}

/// What the absence of a row means.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum IfGone {
    /// Somebody else deleted it: nothing is left to do.
    Fine,
    /// A change has nothing to apply to.
    Rejected,
}

/// SQL with its parameters.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Statement {
    pub(crate) sql: String,
    pub(crate) parameters: Vec<Parameter>,
    pub(crate) expect: Expect,
    /// What follows when Postgres refuses it.
    pub(crate) second: Option<SecondWay>,
}

/// What follows when Postgres refuses a PUT. It needs a savepoint before the first way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecondWay {
    /// The source columns that `id` leads to.
    pub(crate) key: Vec<String>,
    pub(crate) way: Way,
}

#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) enum Way {
    /// After 42501: UPDATE and ON CONFLICT ask for more rights than an INSERT. Holds the plain
    /// INSERT, with the same parameters. It comes second because it would check NOT NULL and the
    /// policies for a whole new row, where the client may have given a part of one that is there.
    Insert(String),
    /// After 23505: the id is taken. The query returns a row if its author may see it.
    Compare(Box<Statement>),
}

impl SecondWay {
    /// Whether it answers this error of the first way.
    pub(crate) fn follows(&self, error: &PgError) -> bool {
        let answered = match self.way {
            Way::Insert(_) => "42501",
            Way::Compare(_) => "23505",
        };
        error.sqlstate() == Some(answered)
    }
}

/// A value, and whose it is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Parameter {
    pub(crate) text: TextForm,
    pub(crate) ty: Type,
    /// The client's name of the column.
    output: String,
    /// What an assignment to the column checks beside its type: its modifier, if it has one.
    modifier: Option<i32>,
}

impl Parameter {
    /// Whether the column's length or precision, which are checked after the parameters were
    /// read, may be what this error is about.
    fn may_break(&self, sqlstate: &str) -> bool {
        let (Some(modifier), Some(text)) = (self.modifier, &self.text.0) else { return false };
        // Lengths of texts are coded with the four bytes of a header on top.
        let characters = usize::try_from(modifier - 4).unwrap_or(usize::MAX);
        let bits = usize::try_from(modifier).unwrap_or(usize::MAX);
        match sqlstate {
            "22001" if self.ty == Type::VARCHAR || self.ty == Type::BPCHAR => {
                text.trim_end_matches(' ').chars().count() > characters
            }
            "22001" if self.ty == Type::VARBIT => text.len() > bits,
            "22026" if self.ty == Type::BIT => text.len() != bits,
            "22003" => self.ty == Type::NUMERIC,
            _ => false,
        }
    }
}

impl Statement {
    /// The client's name of the column whose value Postgres refused, where it can be told: its
    /// report names the parameter, or only one column can be meant.
    pub(crate) fn blamed(&self, error: &ServerError) -> Option<&str> {
        if let Some(number) = error.context.as_deref().and_then(parameter_number) {
            return self.parameters.get(number.checked_sub(1)?).map(|it| it.output.as_str());
        }
        let mut candidates =
            self.parameters.iter().filter(|parameter| parameter.may_break(&error.sqlstate));
        match (candidates.next(), candidates.next()) {
            (Some(one), None) => Some(&one.output),
            _ => None,
        }
    }
}

/// The number in `unnamed portal parameter $3`, which may be in any language. In a context that
/// comes from within a function a name in quotes stands before.
fn parameter_number(context: &str) -> Option<usize> {
    let (before, behind) = context.split_once('$')?;
    if before.contains(['"', '\n']) {
        return None;
    }
    let digits = behind.find(|c: char| !c.is_ascii_digit()).unwrap_or(behind.len());
    behind[..digits].parse().ok()
}

/// A value in the text form of whatever type it has; `None` is NULL.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct TextForm(Option<String>);

impl ToSql for TextForm {
    fn to_sql(
        &self,
        _: &Type,
        out: &mut bytes::BytesMut,
    ) -> Result<IsNull, Box<dyn std::error::Error + Sync + Send>> {
        let Some(text) = &self.0 else { return Ok(IsNull::Yes) };
        out.extend_from_slice(text.as_bytes());
        Ok(IsNull::No)
    }

    fn accepts(_: &Type) -> bool {
        true
    }

    fn encode_format(&self, _: &Type) -> Format {
        Format::Text
    }

    to_sql_checked!();
}

/// Makes the statement of an operation.
pub(crate) fn build(
    operation: &UploadOperation,
    mapping: &MappedTable,
    table: &Table,
) -> Result<Statement, Unwritable> {
    if mapping.source.schema == schema::OWN {
        // No grant that a retry could wait for would be right.
        let what = "it is Headwater's own, and clients only read it";
        return Err(Rejection::ours("42501", what).into());
    }
    let key = key::read(&key::parts(mapping, table)?, &operation.id)?;
    let builder = Builder { operation, mapping, table, key, parameters: Vec::new() };
    match operation.kind {
        OperationKind::Put => builder.put(),
        OperationKind::Patch => builder.patch(),
        OperationKind::Delete => builder.delete(),
    }
}

struct Builder<'a> {
    operation: &'a UploadOperation,
    mapping: &'a MappedTable,
    table: &'a Table,
    /// Its values are the first parameters of every statement.
    key: Vec<KeyColumn<'a>>,
    parameters: Vec<Parameter>,
}

/// Whether a parameter becomes a value of its column or is only compared with it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Use {
    Assigned,
    Compared,
}

impl<'a> Builder<'a> {
    /// Adds a parameter of the column's type; returns its place in the SQL.
    fn parameter(
        &mut self,
        output: &str,
        text: Option<String>,
        column: &Column,
        how: Use,
    ) -> String {
        self.parameters.push(Parameter {
            text: TextForm(text),
            ty: column.parameter.clone(),
            output: output.to_owned(),
            modifier: Some(column.modifier).filter(|it| *it >= 0 && how == Use::Assigned),
        });
        format!("${}", self.parameters.len())
    }

    /// Adds the key's parameters, before all others. Returns `t.a = $1 AND t.b = $2`.
    fn key_parameters(&mut self, how: Use) -> String {
        let mut filter = String::new();
        for place in 0..self.key.len() {
            let KeyColumn { column, ref text, .. } = self.key[place];
            let value = self.parameter(ID, Some(text.clone()), column, how);
            if place > 0 {
                filter += " AND ";
            }
            filter += &format!("t.{} = {value}", column.quoted);
        }
        filter
    }

    /// The names of the key's columns, quoted.
    fn key_list(&self) -> String {
        let names: Vec<&str> = self.key.iter().map(|key| key.column.quoted.as_str()).collect();
        names.join(", ")
    }

    /// The source column of an output column.
    fn column(&self, output: &'a str) -> Result<Known<'a>, Unwritable> {
        let unknown = || {
            Unwritable::Rejected(
                Rejection::ours("42703", format!("there is no column \"{output}\" to write"))
                    .column(output),
            )
        };
        let columns = &self.mapping.columns;
        match columns.target(output) {
            None if self.mapping.to_come.as_ref().is_some_and(|map| map.knows(output)) => {
                Err(Unwritable::Waits(format!(
                    "the sync configuration that has column \"{output}\" is being built"
                )))
            }
            None => Err(unknown()),
            Some(Target::Expression) => Ok(Known::Computed),
            Some(Target::Column(source)) => match self.table.column(source) {
                Some(column) => Ok(Known::Column(source, column)),
                // The configuration promises it.
                None if columns.listed.contains_key(output) => {
                    Err(Unwritable::Waits(format!("the database has no column \"{source}\" yet")))
                }
                None => Err(unknown()),
            },
        }
    }

    /// The columns to set, each with the expression of its new value.
    fn assignments(&mut self) -> Result<Vec<(&'a Column, String)>, Unwritable> {
        let operation = self.operation;
        let mut out: Vec<(&'a Column, String)> = Vec::with_capacity(operation.data.len());
        for (output, json) in &operation.data {
            let computed = |by: &str| {
                let what = format!("column \"{output}\" is computed by {by}");
                Unwritable::Rejected(Rejection::ours("428C9", what).column(output))
            };
            // Some SDKs repeat the id among the data.
            if output == ID && !self.mapping.id.is_empty() {
                if text_of_id(json).as_deref() == Some(operation.id.as_str()) {
                    continue;
                }
                return Err(id_changed(output));
            }
            let (source, column) = match self.column(output)? {
                Known::Computed => return Err(computed("the sync configuration")),
                Known::Column(source, column) => (source, column),
            };
            let text = text_of(column, output, json)?;
            if let Some(key) = self.key.iter().find(|key| key.name == source) {
                if text.as_deref() == Some(key.text.as_str()) {
                    continue;
                }
                return Err(id_changed(output));
            }
            if column.generated {
                // A new row of a client has NULL where Postgres will compute.
                if text.is_none() {
                    continue;
                }
                return Err(computed("the database"));
            }
            if out.iter().any(|(known, _)| known.quoted == column.quoted) {
                let what = format!("column \"{output}\" is given twice");
                return Err(Rejection::ours("42701", what).column(output).into());
            }
            let expression = self.parameter(output, text, column, Use::Assigned);
            out.push((column, expression));
        }
        Ok(out)
    }

    /// `AND a IS NOT DISTINCT FROM …` for every previous value; nothing under last write wins.
    fn unchanged(&mut self) -> Result<String, Unwritable> {
        if self.mapping.conflict == ConflictPolicy::LastWriteWins {
            return Ok(String::new());
        }
        let old: &Fields = self.operation.old.as_ref().ok_or_else(|| {
            Rejection::ours(
                "22023",
                "the table rejects changes of rows that others changed, and the client did not \
                 send previous values (trackPrevious)",
            )
        })?;
        let mut out = String::new();
        for (output, json) in old {
            if output == ID && !self.mapping.id.is_empty() {
                continue;
            }
            let column = match self.column(output)? {
                // Follows from other columns, which are compared.
                Known::Computed => continue,
                // Clients are never sent it, so that what they hold says nothing (FD-53).
                Known::Column(_, column) if !column.delivered => continue,
                Known::Column(_, column) => column,
            };
            let text = text_of(column, output, json)?;
            let value = self.parameter(output, text, column, Use::Compared);
            let quoted = &column.quoted;
            // Not every type has an equality (json, xml, point), and some call equal what prints
            // differently (citext): the text decides, except where two texts are one number.
            out += &match column.pg_type.base() {
                PgType::Float4 | PgType::Float8 | PgType::Numeric => {
                    format!(" AND t.{quoted} IS NOT DISTINCT FROM {value}")
                }
                _ => format!(
                    " AND t.{quoted}::text COLLATE \"C\" IS NOT DISTINCT FROM {value}::text"
                ),
            };
        }
        Ok(out)
    }

    fn exists(&self) -> Box<Statement> {
        let key = self.key.iter().map(|key| KeyColumn { text: key.text.clone(), ..*key });
        let mut asking = Builder { key: key.collect(), parameters: Vec::new(), ..*self };
        let filter = asking.key_parameters(Use::Compared);
        Box::new(Statement {
            sql: format!("SELECT FROM {} AS t WHERE {filter}", self.table.quoted),
            parameters: asking.parameters,
            expect: Expect::Anything,
            second: None,
        })
    }

    fn put(mut self) -> Result<Statement, Unwritable> {
        let filter = self.key_parameters(Use::Assigned);
        let places: Vec<String> = (1..=self.key.len()).map(|place| format!("${place}")).collect();
        let assignments = self.assignments()?;
        let (table, key) = (&self.table.quoted, self.key_list());
        let mut columns = key.clone();
        let mut values = places.join(", ");
        for (column, expression) in &assignments {
            columns += &format!(", {}", column.quoted);
            values += &format!(", {expression}");
        }
        let insert = format!("INSERT INTO {table} AS t ({columns}) VALUES ({values})");
        if self.mapping.conflict == ConflictPolicy::RejectIfChanged {
            // A client inserts what it believes to be new; a row under this id is a change by
            // somebody else. (ON CONFLICT DO NOTHING would ask for the right to read.)
            return Ok(Statement {
                sql: insert,
                expect: Expect::Anything,
                second: Some(self.second(Way::Compare(self.exists()))),
                parameters: self.parameters,
            });
        }
        // The row that is there is changed first: an INSERT would check NOT NULL for the columns
        // that were not given before it looked for the conflict.
        let set = |value: &dyn Fn(&(&Column, String)) -> String| -> String {
            let parts: Vec<String> = assignments
                .iter()
                .map(|assignment| format!("{} = {}", assignment.0.quoted, value(assignment)))
                .collect();
            parts.join(", ")
        };
        let (there, on_conflict) = match assignments.is_empty() {
            true => (format!("SELECT FROM {table} AS t WHERE {filter}"), "DO NOTHING".to_owned()),
            false => (
                format!(
                    "UPDATE {table} AS t SET {} WHERE {filter} RETURNING 1",
                    set(&|(_, expression)| expression.clone())
                ),
                format!(
                    "DO UPDATE SET {}",
                    set(&|(column, _)| format!("EXCLUDED.{}", column.quoted))
                ),
            ),
        };
        Ok(Statement {
            sql: format!(
                "WITH there AS ({there}) INSERT INTO {table} AS t ({columns}) SELECT {values} \
                 WHERE NOT EXISTS (SELECT FROM there) ON CONFLICT ({key}) {on_conflict}"
            ),
            expect: Expect::Anything,
            second: Some(self.second(Way::Insert(insert))),
            parameters: self.parameters,
        })
    }

    fn second(&self, way: Way) -> SecondWay {
        SecondWay { key: self.key.iter().map(|key| key.name.to_owned()).collect(), way }
    }

    fn patch(mut self) -> Result<Statement, Unwritable> {
        let filter = self.key_parameters(Use::Compared);
        let assignments = self.assignments()?;
        let unchanged = self.unchanged()?;
        let table = &self.table.quoted;
        let set: Vec<String> = assignments
            .iter()
            .map(|(column, expression)| format!("{} = {expression}", column.quoted))
            .collect();
        let sql = match set.is_empty() {
            true => format!("SELECT FROM {table} AS t WHERE {filter}{unchanged}"),
            false => {
                format!("UPDATE {table} AS t SET {} WHERE {filter}{unchanged}", set.join(", "))
            }
        };
        let expect = match self.mapping.conflict {
            ConflictPolicy::LastWriteWins => Expect::OneRow,
            ConflictPolicy::RejectIfChanged => {
                Expect::Unchanged { exists: self.exists(), gone: IfGone::Rejected }
            }
        };
        Ok(Statement { sql, parameters: self.parameters, expect, second: None })
    }

    fn delete(mut self) -> Result<Statement, Unwritable> {
        let filter = self.key_parameters(Use::Compared);
        let unchanged = self.unchanged()?;
        let expect = match self.mapping.conflict {
            ConflictPolicy::LastWriteWins => Expect::Anything,
            ConflictPolicy::RejectIfChanged => {
                Expect::Unchanged { exists: self.exists(), gone: IfGone::Fine }
            }
        };
        Ok(Statement {
            sql: format!("DELETE FROM {} AS t WHERE {filter}{unchanged}", self.table.quoted),
            parameters: self.parameters,
            expect,
            second: None,
        })
    }
}

/// What an output column is, once its table is known.
enum Known<'a> {
    Column(&'a str, &'a Column),
    Computed,
}

fn id_changed(output: &str) -> Unwritable {
    Rejection::ours("22023", "the id of a row cannot be changed").column(output).into()
}

/// An id among the data, which may be a number there.
fn text_of_id(json: &RawValue) -> Option<String> {
    value::to_text(&PgType::TEXT, json).ok().flatten()
}

fn text_of(column: &Column, output: &str, json: &RawValue) -> Result<Option<String>, Rejection> {
    value::to_text(&column.pg_type, json).map_err(|Unfit(reason)| {
        Rejection::ours("22P02", format!("column \"{output}\": {reason}")).column(output)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_parameter_that_was_refused_is_read_from_the_context_in_any_language() {
        for (context, number) in [
            ("unnamed portal parameter $3", Some(3)),
            ("unnamed portal parameter $12 = 'hush $1'", Some(12)),
            ("unbenannter Portalparameter $2", Some(2)),
            ("SQL statement \"SELECT $1\"\nPL/pgSQL function f() line 3", None),
            ("PL/pgSQL function f() line 3 at RAISE", None),
            ("COPY t, line 3\n$4", None),
            ("$", None),
        ] {
            assert_eq!(parameter_number(context), number, "{context}");
        }
    }
}
