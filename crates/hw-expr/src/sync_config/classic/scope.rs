//! Names inside classic queries: columns of the one table, `bucket.x`, values of the request.

use super::super::load::Loader;
use super::super::names::{Name, Names, Tree, leaf, request, warn_folded};
use super::super::plan::{EachPart, TablePart};
use super::super::request::{Origin, RequestPart};
use super::super::table::{Catalog, CatalogKind, CatalogTable, Withheld, pattern_of};
use crate::expr::Expr;
use crate::report::{Problem, code};
use crate::routines::{Dialect, JsonRules};
use crate::sql::Place;
use crate::sql::ast::{From, Ident, Relation, Select};
use crate::value::SqlValue;
use hw_types::TablePattern;

/// Which kind of query is compiled.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Mode {
    /// A data query: `bucket.x`, no request.
    Data,
    /// A parameter query: the request, no `bucket.x`.
    Parameters,
}

/// What the query reads.
#[derive(Clone, Debug)]
pub enum Source {
    /// No FROM.
    Nothing,
    /// A table, by the name that qualifies its columns.
    Table(TablePattern, String),
    /// `json_each(…)`, by the name that qualifies its columns.
    Each(String),
}

/// The scope of one classic query.
pub struct Scope<'a> {
    pub text: &'a str,
    pub mode: Mode,
    pub rules: JsonRules,
    pub catalog: Catalog<'a>,
    pub source: Source,
    pub warnings: Vec<Problem>,
}

impl<'a> Scope<'a> {
    /// A scope that reads nothing yet.
    pub fn new(text: &'a str, mode: Mode, loader: &Loader<'a, '_>) -> Scope<'a> {
        Scope {
            text,
            mode,
            rules: loader.options.json,
            catalog: loader.catalog,
            source: Source::Nothing,
            warnings: Vec::new(),
        }
    }

    /// Sets the table that the query reads, with a warning if the source has none such.
    pub fn read_table(
        &mut self,
        schema: Option<&Ident>,
        name: &Ident,
        alias: Option<&Ident>,
        default_schema: &str,
    ) -> Result<TablePattern, Problem> {
        warn_folded(self, name);
        let pattern = table_pattern(schema, name, default_schema)?;
        self.warnings.extend(unknown_table(self.catalog, &pattern, name));
        let qualifier = alias.map_or(&name.name, |a| &a.name).clone();
        self.source = Source::Table(pattern.clone(), qualifier);
        Ok(pattern)
    }

    fn undefined(&self, parts: &[Ident], place: Place) -> Problem {
        let written: Vec<&str> = parts.iter().map(|p| p.name.as_str()).collect();
        let message = format!("Undefined reference: {}", written.join("."));
        let problem = Problem::error(code::UNDEFINED, message, place);
        let mut known = match self.mode {
            Mode::Data => vec!["bucket"],
            Mode::Parameters => vec!["token_parameters", "user_parameters"],
        };
        if let Source::Table(_, name) | Source::Each(name) = &self.source {
            known.push(name);
        }
        problem.suggest(&parts[0].name, known)
    }
}

/// The pattern of a table, or why it names none.
pub fn table_pattern(
    schema: Option<&Ident>,
    name: &Ident,
    default_schema: &str,
) -> Result<TablePattern, Problem> {
    let place = schema.map_or(name.place, |s| s.place);
    pattern_of(schema, name, default_schema)
        .map_err(|message| Problem::error(code::UNKNOWN_TABLE, message, place))
}

/// The warning about a table that the source does not have.
pub fn unknown_table(
    catalog: Catalog<'_>,
    pattern: &TablePattern,
    name: &Ident,
) -> Option<Problem> {
    if !catalog.tables(pattern)?.is_empty() {
        return None;
    }
    let warning = |message| Problem::warning(code::UNKNOWN_TABLE, message, name.place);
    if let Some(table) = catalog.all().find(|t| pattern.matches(&t.name))
        && let CatalogKind::Other(kind) = table.kind
    {
        let message = format!("{} is {kind}: its changes are not in the log", table.name);
        return Some(warning(message).mend("name the tables that it reads"));
    }
    if pattern.is_wildcard() {
        return Some(warning(format!("no relation matches {pattern}")));
    }
    let problem = warning(format!("relation {pattern} does not exist"));
    // The same name elsewhere is nearer than a similar one here.
    let elsewhere = catalog.all().find(|t| t.name.name == pattern.table.text);
    Some(match elsewhere {
        Some(table) => problem.mend(format!("did you mean {}?", table.name)),
        None => problem.suggest(&name.name, catalog.table_names()),
    })
}

/// The warning about a column that none of the tables has, or that the log does not carry.
pub fn unknown_column(
    catalog: Catalog<'_>,
    pattern: &TablePattern,
    column: &Ident,
) -> Option<Problem> {
    let tables = catalog.tables(pattern)?;
    let columns = || tables.iter().flat_map(|t| &t.columns).map(|c| c.name.as_str());
    if tables.is_empty() {
        return None;
    }
    if columns().any(|name| name == column.name) {
        return withheld(&tables, &column.name, column.place);
    }
    let message = format!("relation {pattern} has no column \"{}\"", column.name);
    let problem = Problem::warning(code::UNKNOWN_COLUMN, message, column.place);
    Some(problem.suggest(&column.name, columns()))
}

/// The warning that `*` gives no `id` because the log does not carry it.
pub fn withheld_in_star(
    catalog: Catalog<'_>,
    pattern: &TablePattern,
    place: Place,
) -> Option<Problem> {
    withheld(&catalog.tables(pattern)?, "id", place)
}

/// The warning about a column that the log does not carry.
fn withheld(tables: &[&CatalogTable], column: &str, place: Place) -> Option<Problem> {
    let (table, why) = tables.iter().find_map(|table| {
        let found = table.columns.iter().find(|c| c.name == column)?;
        Some((table, found.withheld?))
    })?;
    let (what, mend) = match why {
        Withheld::Generated => (
            "generated and not in the log",
            "compute it here from the columns that it is made of, or, with Postgres 18 and for a \
             stored one, publish it: ALTER PUBLICATION … SET (publish_generated_columns = stored)",
        ),
        Withheld::Unpublished => (
            "left out by the publication's column list",
            "add it to the column list, or publish the table without one",
        ),
    };
    let message =
        format!("column \"{column}\" of {} is {what}: what reads it is not served", table.name);
    Some(Problem::warning(code::WITHHELD, message, place).mend(mend))
}

impl Names for Scope<'_> {
    fn dialect(&self) -> Dialect {
        Dialect::Classic
    }

    fn rules(&self) -> JsonRules {
        self.rules
    }

    fn text(&self) -> &str {
        self.text
    }

    fn warn(&mut self, problem: Problem) {
        self.warnings.push(problem);
    }

    fn labels(&self, _: usize, column: &str) -> &[String] {
        match &self.source {
            Source::Table(pattern, _) => self.catalog.labels(pattern, column),
            _ => &[],
        }
    }

    fn column(&mut self, parts: &[Ident], place: Place) -> Result<Tree, Problem> {
        let (qualifier, column) = match parts {
            [column] => (None, column),
            [qualifier, column] => (Some(qualifier), column),
            _ => {
                let message = "Schema is not supported in column references";
                return Err(Problem::error(code::EXPRESSION, message, place));
            }
        };
        let from_source = match (&self.source, qualifier) {
            (Source::Table(_, name) | Source::Each(name), Some(q)) => q.name == *name,
            (Source::Nothing, _) => false,
            (_, None) => true,
        };
        if from_source {
            warn_folded(self, column);
            return match &self.source {
                Source::Table(pattern, _) => {
                    let suffix = column.name == "_table_suffix" && pattern.table.wildcard;
                    if suffix {
                        return Ok(leaf(Name::Table(0, TablePart::Suffix), place));
                    }
                    let warning = unknown_column(self.catalog, pattern, column);
                    self.warnings.extend(warning);
                    Ok(leaf(Name::Column(0, column.name.clone()), place))
                }
                _ => match column.name.as_str() {
                    "key" => Ok(leaf(Name::Each(0, EachPart::Key), place)),
                    "value" => Ok(leaf(Name::Each(0, EachPart::Value), place)),
                    _ => Err(self.undefined(parts, place).suggest(&column.name, ["key", "value"])),
                },
            };
        }
        match (qualifier.map(|q| q.name.as_str()), self.mode) {
            (Some("bucket"), Mode::Data) => Ok(leaf(Name::Bucket(column.name.clone()), place)),
            (Some("token_parameters"), Mode::Parameters) => {
                Ok(request(Origin::Token, RequestPart::Flat(column.name.clone()), place))
            }
            (Some("user_parameters"), Mode::Parameters) => {
                Ok(request(Origin::Connection, RequestPart::Flat(column.name.clone()), place))
            }
            _ => Err(self.undefined(parts, place)),
        }
    }

    fn schema_call(
        &mut self,
        schema: &Ident,
        name: &Ident,
        args: Vec<(Tree, Place)>,
        place: Place,
    ) -> Result<Tree, Problem> {
        let function = name.name.to_ascii_lowercase();
        if !schema.name.eq_ignore_ascii_case("request") {
            let message = format!("Function '{}.{}' is not defined", schema.name, name.name);
            let problem = Problem::error(code::UNKNOWN_FUNCTION, message, place);
            return Err(match schema.name.as_str() {
                "auth" | "connection" | "subscription" => {
                    problem.mend("bucket definitions use request.…; auth.… belongs to streams")
                }
                _ => problem,
            });
        }
        if self.mode == Mode::Data {
            let message = "request schema is not available in data queries";
            return Err(Problem::error(code::EXPRESSION, message, place)
                .mend("select the value in a parameter query and use bucket.name here"));
        }
        let arity = if function == "parameter" { 1 } else { 0 };
        let (origin, part) = match function.as_str() {
            "user_id" => (Origin::Token, RequestPart::Subject),
            "jwt" => (Origin::Token, RequestPart::Document),
            "parameters" => (Origin::Connection, RequestPart::Document),
            "parameter" => match args.first() {
                Some((Expr::Literal(SqlValue::Text(path)), _)) => {
                    (Origin::Connection, RequestPart::Flat(path.to_string()))
                }
                Some((_, place)) => {
                    let message = "request.parameter needs a string literal";
                    return Err(Problem::error(code::ARGUMENTS, message, *place));
                }
                None => (Origin::Connection, RequestPart::Document),
            },
            _ => {
                let message = format!("Function 'request.{}' is not defined", name.name);
                let known = ["user_id", "jwt", "parameters", "parameter"];
                return Err(Problem::error(code::UNKNOWN_FUNCTION, message, place)
                    .suggest(&name.name, known));
            }
        };
        if args.len() != arity {
            let message = format!("Function 'request.{function}' takes {arity} arguments.");
            return Err(Problem::error(code::ARGUMENTS, message, place));
        }
        Ok(request(origin, part, place))
    }
}

/// A clause of SQL that the language does not have, and what to do instead.
pub fn refused_clause(clause: &str, place: Place) -> Problem {
    let problem = Problem::error(code::STATEMENT, format!("{clause} is not supported"), place);
    match clause {
        "GROUP BY" | "HAVING" | "WINDOW" => problem
            .mend("sync the rows and count them in the client's query, or sync a table of totals"),
        "ORDER BY" => problem.mend("rows arrive in no order; write ORDER BY in the client's query"),
        "LIMIT" | "OFFSET" | "FETCH" => problem.mend(
            "choose the rows by what is in them, in WHERE; write LIMIT in the client's query",
        ),
        "UNION" => problem.mend(
            "write two queries: under queries: in a stream, under data: in a bucket definition",
        ),
        "INTERSECT" | "EXCEPT" => problem.mend("write one query with both conditions"),
        _ => problem.mend("leave it out"),
    }
}

/// Refuses what no classic query may have, and returns the single source of FROM.
pub fn single_source(select: &Select) -> Result<Option<&From>, Problem> {
    let error = |message: &str, place| Err(Problem::error(code::STATEMENT, message, place));
    if let Some(place) = select.more {
        return error("Only a single SELECT statement is supported", place);
    }
    if let Some(place) = select.distinct {
        return error("DISTINCT is not supported", place);
    }
    if let Some((clause, place)) = select.refused.first() {
        return Err(refused_clause(clause, *place));
    }
    match &select.from[..] {
        [] => Ok(None),
        [from] => {
            if let Relation::Subquery(inner) = &from.relation {
                return error("Subqueries are not supported yet", inner.place);
            }
            if let Some(column) = from.columns.first() {
                return error("column aliases of a source are not supported", column.place);
            }
            Ok(Some(from))
        }
        [_, second, ..] => error("Must SELECT from a single table", second.place),
    }
}
