//! The SQL of one operation.
//!
//! In: an operation, its mapping, the table as the catalog has it. Out: a [`Statement`] whose
//! names come from the catalog and whose values are parameters, or the [`Rejection`] that names
//! what cannot be written. Pure: nothing is asked here.

// A rejection is large and rare: it ends its transaction.
#![allow(clippy::result_large_err)]

use serde_json::value::RawValue;

use crate::catalog::{Column, Table};
use crate::map::{ConflictPolicy, MappedTable, Target};
use crate::transaction::{Fields, OperationKind, UploadOperation};
use crate::value::{self, Unfit};
use crate::verdict::Rejection;
use hw_pg::error::PgError;
use hw_types::PgType;
use tokio_postgres::types::{Format, IsNull, ToSql, Type, to_sql_checked};

/// The client's name of the column that identifies a row.
const ID: &str = "id";

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
    pub(crate) parameters: Vec<(TextForm, Type)>,
    pub(crate) expect: Expect,
    /// What follows when Postgres refuses it.
    pub(crate) second: Option<SecondWay>,
}

/// What follows when Postgres refuses a PUT. It needs a savepoint before the first way.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct SecondWay {
    /// The source column that `id` leads to.
    pub(crate) id_name: String,
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
) -> Result<Statement, Rejection> {
    let builder = Builder::new(mapping, table)?;
    match operation.kind {
        OperationKind::Put => builder.put(operation),
        OperationKind::Patch => builder.patch(operation),
        OperationKind::Delete => builder.delete(operation),
    }
}

struct Builder<'a> {
    mapping: &'a MappedTable,
    table: &'a Table,
    id: &'a Column,
    id_name: &'a str,
    parameters: Vec<(TextForm, Type)>,
}

impl<'a> Builder<'a> {
    fn new(mapping: &'a MappedTable, table: &'a Table) -> Result<Builder<'a>, Rejection> {
        if !table.is_table {
            return Err(Rejection::ours("42809", "only tables can be written, and this is none"));
        }
        let Some(Target::Column(id_name)) = mapping.columns.target(ID) else {
            return Err(Rejection::ours("42P10", "its \"id\" is not a plain column"));
        };
        let id = table.column(id_name).ok_or_else(|| unknown_column(ID))?;
        if !id.unique {
            return Err(Rejection::ours(
                "42P10",
                format!("its id column \"{id_name}\" has no unique index of its own"),
            ));
        }
        Ok(Builder { mapping, table, id, id_name, parameters: Vec::new() })
    }

    /// Adds a parameter of the column's type; returns its place in the SQL.
    fn parameter(&mut self, text: Option<String>, column: &Column) -> String {
        self.parameters.push((TextForm(text), column.parameter.clone()));
        format!("${}", self.parameters.len())
    }

    fn id_parameter(&mut self, operation: &UploadOperation) -> String {
        let id = self.id;
        self.parameter(Some(operation.id.clone()), id)
    }

    /// The columns to set, each with the expression of its new value.
    fn assignments(
        &mut self,
        operation: &UploadOperation,
    ) -> Result<Vec<(&'a Column, String)>, Rejection> {
        let mut out: Vec<(&'a Column, String)> = Vec::with_capacity(operation.data.len());
        for (output, json) in &operation.data {
            let (source, column) = match self.mapping.columns.target(output) {
                None => return Err(unknown_column(output)),
                Some(Target::Expression) => {
                    return Err(Rejection::ours(
                        "428C9",
                        format!("column \"{output}\" is computed by the sync configuration"),
                    )
                    .column(output));
                }
                Some(Target::Column(source)) => {
                    (source, self.table.column(source).ok_or_else(|| unknown_column(output))?)
                }
            };
            let text = text_of(column, output, json)?;
            if source == self.id_name {
                // Some SDKs repeat the id among the data.
                if text.as_deref() == Some(operation.id.as_str()) {
                    continue;
                }
                return Err(
                    Rejection::ours("22023", "the id of a row cannot be changed").column(output)
                );
            }
            if column.generated {
                // A new row of a client has NULL where Postgres will compute.
                if text.is_none() {
                    continue;
                }
                return Err(Rejection::ours(
                    "428C9",
                    format!("column \"{output}\" is computed by the database"),
                )
                .column(output));
            }
            if out.iter().any(|(known, _)| known.quoted == column.quoted) {
                return Err(Rejection::ours(
                    "42701",
                    format!("column \"{output}\" is given twice"),
                )
                .column(output));
            }
            let expression = self.parameter(text, column);
            out.push((column, expression));
        }
        Ok(out)
    }

    /// `AND a IS NOT DISTINCT FROM …` for every previous value; nothing under last write wins.
    fn unchanged(&mut self, operation: &UploadOperation) -> Result<String, Rejection> {
        if self.mapping.conflict == ConflictPolicy::LastWriteWins {
            return Ok(String::new());
        }
        let old: &Fields = operation.old.as_ref().ok_or_else(|| {
            Rejection::ours(
                "22023",
                "the table rejects changes of rows that others changed, and the client did not \
                 send previous values (trackPrevious)",
            )
        })?;
        let mut out = String::new();
        for (output, json) in old {
            let column = match self.mapping.columns.target(output) {
                None => return Err(unknown_column(output)),
                // Follows from other columns, which are compared.
                Some(Target::Expression) => continue,
                Some(Target::Column(source)) => {
                    self.table.column(source).ok_or_else(|| unknown_column(output))?
                }
            };
            let text = text_of(column, output, json)?;
            let value = self.parameter(text, column);
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

    fn exists(&self, operation: &UploadOperation) -> Box<Statement> {
        let (table, id) = (&self.table.quoted, &self.id.quoted);
        Box::new(Statement {
            sql: format!("SELECT FROM {table} AS t WHERE t.{id} = $1"),
            parameters: vec![(TextForm(Some(operation.id.clone())), self.id.parameter.clone())],
            expect: Expect::Anything,
            second: None,
        })
    }

    fn put(mut self, operation: &UploadOperation) -> Result<Statement, Rejection> {
        let id_value = self.id_parameter(operation);
        let assignments = self.assignments(operation)?;
        let (table, id) = (&self.table.quoted, &self.id.quoted);
        let mut columns = id.clone();
        let mut values = id_value;
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
                second: Some(self.second(Way::Compare(self.exists(operation)))),
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
        let filter = format!("WHERE t.{id} = $1");
        let (there, on_conflict) = match assignments.is_empty() {
            true => (format!("SELECT FROM {table} AS t {filter}"), "DO NOTHING".to_owned()),
            false => (
                format!(
                    "UPDATE {table} AS t SET {} {filter} RETURNING 1",
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
                 WHERE NOT EXISTS (SELECT FROM there) ON CONFLICT ({id}) {on_conflict}"
            ),
            expect: Expect::Anything,
            second: Some(self.second(Way::Insert(insert))),
            parameters: self.parameters,
        })
    }

    fn second(&self, way: Way) -> SecondWay {
        SecondWay { id_name: self.id_name.to_owned(), way }
    }

    fn patch(mut self, operation: &UploadOperation) -> Result<Statement, Rejection> {
        let id_value = self.id_parameter(operation);
        let assignments = self.assignments(operation)?;
        let unchanged = self.unchanged(operation)?;
        let (table, id) = (&self.table.quoted, &self.id.quoted);
        let set: Vec<String> = assignments
            .iter()
            .map(|(column, expression)| format!("{} = {expression}", column.quoted))
            .collect();
        let filter = format!("WHERE t.{id} = {id_value}{unchanged}");
        let sql = match set.is_empty() {
            true => format!("SELECT FROM {table} AS t {filter}"),
            false => format!("UPDATE {table} AS t SET {} {filter}", set.join(", ")),
        };
        let expect = match self.mapping.conflict {
            ConflictPolicy::LastWriteWins => Expect::OneRow,
            ConflictPolicy::RejectIfChanged => {
                Expect::Unchanged { exists: self.exists(operation), gone: IfGone::Rejected }
            }
        };
        Ok(Statement { sql, parameters: self.parameters, expect, second: None })
    }

    fn delete(mut self, operation: &UploadOperation) -> Result<Statement, Rejection> {
        let id_value = self.id_parameter(operation);
        let unchanged = self.unchanged(operation)?;
        let (table, id) = (&self.table.quoted, &self.id.quoted);
        let expect = match self.mapping.conflict {
            ConflictPolicy::LastWriteWins => Expect::Anything,
            ConflictPolicy::RejectIfChanged => {
                Expect::Unchanged { exists: self.exists(operation), gone: IfGone::Fine }
            }
        };
        Ok(Statement {
            sql: format!("DELETE FROM {table} AS t WHERE t.{id} = {id_value}{unchanged}"),
            parameters: self.parameters,
            expect,
            second: None,
        })
    }
}

fn text_of(column: &Column, output: &str, json: &RawValue) -> Result<Option<String>, Rejection> {
    value::to_text(&column.pg_type, json).map_err(|Unfit(reason)| {
        Rejection::ours("22P02", format!("column \"{output}\": {reason}")).column(output)
    })
}

fn unknown_column(output: &str) -> Rejection {
    Rejection::ours("42703", format!("there is no column \"{output}\" to write")).column(output)
}
