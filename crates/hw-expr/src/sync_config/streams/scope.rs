//! Names inside the queries of a stream: sources in scope, common table expressions, values of
//! the request.
//!
//! Every table or `json_each` that a query reads, in whatever subquery, gets a number of its own
//! in one list; subqueries and common table expressions are inlined, so that only these numbers
//! remain. Source: `sync-rules.md` 10.1, 10.2.

use super::super::classic::{refused_clause, table_pattern, unknown_column, unknown_table};
use super::super::load::Loader;
use super::super::names::{Name, Names, Tree, leaf, request, unknown_function, warn_folded};
use super::super::plan::{EachPart, TablePart};
use super::super::request::{Origin, RequestPart};
use super::super::table::Catalog;
use super::conjunct::{Home, homes};
use super::predicate::Pred;
use crate::expr::Expr;
use crate::report::{Problem, code};
use crate::routines::{self, Dialect, JsonRules};
use crate::sql::Place;
use crate::sql::ast::{Ast, AstKind, From, Ident, Join, Relation, Select};
use crate::value::SqlValue;
use hw_types::TablePattern;

/// What streams have instead of `request.…` and `bucket.…`.
const REQUEST: &str = "streams use auth.user_id(), auth.parameter('x'), \
                       subscription.parameter('x') and connection.parameter('x')";

/// A table or `json_each` of a query.
#[derive(Clone, Debug)]
pub enum Source {
    /// A table.
    Table {
        /// Which tables.
        pattern: TablePattern,
        /// Name on the client; `None`: that of the source table.
        output: Option<String>,
        /// Where it is named.
        place: Place,
    },
    /// `json_each(input)`.
    Each(Tree),
}

impl Source {
    /// What the table is called in the query, as far as it has one name.
    pub fn client_name(&self) -> Option<&str> {
        match self {
            Source::Table { output, .. } => output.as_deref(),
            Source::Each(_) => None,
        }
    }
}

/// A common table expression: a parsed SELECT under a name.
#[derive(Clone, Debug)]
pub struct Cte {
    /// Its name, in lower case.
    pub name: String,
    /// What it selects; `None` when it is broken, which is reported where it is defined.
    pub select: Option<Select>,
    /// Its text.
    pub text: String,
    /// Number of the common table expression in the file, to note that it is used.
    pub number: usize,
}

/// What a name in FROM stands for.
#[derive(Clone, Debug)]
enum Entry {
    /// A source of the query.
    Source(usize),
    /// The columns of an inlined SELECT.
    Derived(Vec<(String, Tree)>),
}

/// The scope of one query.
pub struct Scope<'a> {
    pub text: String,
    pub dialect: Dialect,
    pub rules: JsonRules,
    pub catalog: Catalog<'a>,
    pub default_schema: &'a str,
    pub ctes: &'a [Cte],
    /// Names, in lower case, of common table expressions that cannot be seen from here, because
    /// this is one itself.
    pub siblings: &'a [String],
    /// Numbers of the common table expressions that were used.
    pub used: Vec<usize>,
    pub sources: Vec<Source>,
    pub warnings: Vec<Problem>,
    frames: Vec<Frame>,
    /// While a common table expression is inlined: where it is referred to. Places in its text
    /// are not places in this one.
    inlining: Option<Place>,
}

#[derive(Clone, Debug, Default)]
struct Frame {
    entries: Vec<(String, Entry)>,
    /// Whether outer frames cannot be seen.
    closed: bool,
}

/// An inlined SELECT: its columns, and what must hold.
pub struct Inlined {
    pub columns: Vec<(String, Tree)>,
    pub filter: Pred,
}

impl<'a> Scope<'a> {
    /// A scope that reads nothing yet.
    pub fn new(text: &str, dialect: Dialect, loader: &Loader<'a, '_>, ctes: &'a [Cte]) -> Self {
        Scope {
            text: text.to_string(),
            dialect,
            rules: loader.options.json,
            catalog: loader.catalog,
            default_schema: loader.default_schema,
            ctes,
            siblings: &[],
            used: Vec::new(),
            sources: Vec::new(),
            warnings: Vec::new(),
            frames: Vec::new(),
            inlining: None,
        }
    }

    /// The place in this query's text that a place of the text at hand stands for.
    pub fn place(&self, place: Place) -> Place {
        self.inlining.unwrap_or(place)
    }

    fn error(&self, code: u16, message: impl Into<String>, place: Place) -> Problem {
        Problem::error(code, message, self.place(place))
    }

    /// Opens the frame of a SELECT and reads its FROM. Returns what joins and inlined sources
    /// require.
    pub fn open(&mut self, select: &Select, closed: bool) -> Result<Pred, Problem> {
        self.check_clauses(select)?;
        self.frames.push(Frame { entries: Vec::new(), closed });
        let mut filters = Vec::new();
        for from in &select.from {
            filters.push(self.read(from)?);
            match &from.join {
                Join::Inner(None) => {}
                Join::Inner(Some(on)) => filters.push(self.predicate(on)?),
                Join::Refused(name, place) => {
                    let message = format!("{name} is not supported");
                    let problem = self.error(code::STATEMENT, message, *place);
                    return Err(problem
                        .mend("use JOIN … ON; rows without a partner need a query of their own"));
                }
                Join::Using(place) => {
                    let problem = self.error(code::STATEMENT, "USING is not supported", *place);
                    return Err(problem.mend("write ON a.x = b.x"));
                }
            }
        }
        Ok(Pred::And(filters))
    }

    /// Closes the innermost frame.
    pub fn close(&mut self) {
        self.frames.pop();
    }

    /// The sources and columns that the innermost frame has, for `*`.
    pub fn star(&self, qualifier: Option<&Ident>) -> Vec<usize> {
        let Some(frame) = self.frames.last() else { return Vec::new() };
        frame
            .entries
            .iter()
            .filter(|(name, _)| qualifier.is_none_or(|q| q.name.eq_ignore_ascii_case(name)))
            .flat_map(|(_, entry)| match entry {
                Entry::Source(source) => vec![*source],
                Entry::Derived(columns) => {
                    let mut sources = Vec::new();
                    for (_, tree) in columns {
                        tree.visit(&mut |l| sources.extend(l.what.source()));
                    }
                    sources
                }
            })
            .collect()
    }

    /// Whether `name` names a source of the innermost frame.
    pub fn has(&self, name: &str) -> bool {
        self.frames
            .last()
            .is_some_and(|f| f.entries.iter().any(|(n, _)| n.eq_ignore_ascii_case(name)))
    }

    fn check_clauses(&mut self, select: &Select) -> Result<(), Problem> {
        let alpha = self.dialect == Dialect::Alpha;
        if let Some((clause, place)) = select.refused.first() {
            return Err(self.moved(refused_clause(clause, *place)));
        }
        if let Some(place) = select.distinct {
            if alpha {
                return Err(self.error(code::STATEMENT, "DISTINCT is not supported", place));
            }
            let message = "DISTINCT has no effect here: a client gets each row once anyway";
            let place = self.place(place);
            self.warnings.push(Problem::warning(code::IGNORED, message, place));
        }
        if let Some(place) = select.more {
            if alpha {
                let message = "Only a single SELECT statement is supported";
                return Err(self.error(code::STATEMENT, message, place));
            }
            let message = "only the first statement counts; use queries: for several";
            let place = self.place(place);
            self.warnings.push(Problem::warning(code::IGNORED, message, place));
        }
        if alpha && let [_, second, ..] = &select.from[..] {
            let message = "Must SELECT from a single table";
            return Err(self.error(code::STATEMENT, message, second.place));
        }
        Ok(())
    }

    /// Adds one member of FROM to the innermost frame.
    fn read(&mut self, from: &From) -> Result<Pred, Problem> {
        let mut filter = Pred::And(Vec::new());
        let (name, entry) = match &from.relation {
            Relation::Table { schema, name } => {
                let cte = self.cte(schema.as_ref(), name);
                if let Some(cte) = cte {
                    let inlined = self.inline_cte(cte, self.place(from.place))?;
                    filter = inlined.filter;
                    (name.name.clone(), Entry::Derived(inlined.columns))
                } else {
                    warn_folded(self, name);
                    if schema.is_none() && self.is_sibling(name) && self.catalog.0.is_none() {
                        let message = format!(
                            "{} is a common table expression; CTEs cannot see others, so this is \
                             a table of that name",
                            name.name
                        );
                        let place = self.place(name.place);
                        let problem = Problem::warning(code::TABLE_EXPRESSION, message, place);
                        self.warnings.push(problem.mend("write its SELECT here as a subquery"));
                    }
                    let pattern = table_pattern(schema.as_ref(), name, self.default_schema)
                        .map_err(|p| self.moved(p))?;
                    let warning = unknown_table(self.catalog, &pattern, name);
                    self.warnings.extend(warning.map(|w| self.moved(w)));
                    let output = match &from.alias {
                        Some(alias) => Some(alias.name.clone()),
                        None if pattern.table.wildcard => None,
                        None => Some(name.name.clone()),
                    };
                    let place = self.place(name.place);
                    self.sources.push(Source::Table { pattern, output, place });
                    (name.name.clone(), Entry::Source(self.sources.len() - 1))
                }
            }
            Relation::Function { name, args } => {
                if !name.name.eq_ignore_ascii_case("json_each") {
                    let message = format!("Table-valued function {} is not defined.", name.name);
                    return Err(self
                        .error(code::UNKNOWN_FUNCTION, message, name.place)
                        .suggest(&name.name, ["json_each"]));
                }
                let [input] = &args[..] else {
                    let message = "Expected a single argument here";
                    return Err(self.error(code::ARGUMENTS, message, from.place));
                };
                let input = self.lower(input)?;
                self.sources.push(Source::Each(input));
                (name.name.clone(), Entry::Source(self.sources.len() - 1))
            }
            Relation::Subquery(select) => {
                let Some(alias) = &from.alias else {
                    let message = "a subquery in FROM needs an alias";
                    return Err(self.error(code::SUBQUERY, message, from.place));
                };
                let inlined = self.inline(select, false)?;
                filter = inlined.filter;
                (alias.name.clone(), Entry::Derived(inlined.columns))
            }
        };
        let entry = self.rename(entry, from)?;
        let name = from.alias.as_ref().map_or(name, |alias| alias.name.clone());
        if self.has(&name) {
            let message = format!("Table with name {name} already exists in scope");
            let mend = "give it an alias of its own: lists AS other";
            return Err(self.error(code::STATEMENT, message, from.place).mend(mend));
        }
        self.frames.last_mut().expect("open pushes a frame").entries.push((name, entry));
        Ok(filter)
    }

    /// `AS name (a, b)`.
    fn rename(&self, entry: Entry, from: &From) -> Result<Entry, Problem> {
        if from.columns.is_empty() {
            return Ok(entry);
        }
        let Entry::Derived(columns) = entry else {
            let message = "column aliases are only supported for subqueries";
            return Err(self.error(code::STATEMENT, message, from.columns[0].place));
        };
        if columns.len() != from.columns.len() {
            let message = format!(
                "Expected this subquery to have {} columns, it actually has {}",
                from.columns.len(),
                columns.len()
            );
            return Err(self.error(code::SUBQUERY, message, from.place));
        }
        let names = from.columns.iter().map(|ident| ident.name.clone());
        Ok(Entry::Derived(names.zip(columns.into_iter().map(|(_, tree)| tree)).collect()))
    }

    /// The common table expression that a name means. Inside of one, names are real tables.
    fn cte(&self, schema: Option<&Ident>, name: &Ident) -> Option<&'a Cte> {
        if schema.is_some() || self.inlining.is_some() {
            return None;
        }
        // The last of two with one name is the stream's own.
        self.ctes.iter().rev().find(|cte| cte.name.eq_ignore_ascii_case(&name.name))
    }

    fn is_sibling(&self, name: &Ident) -> bool {
        self.siblings.iter().any(|sibling| sibling.eq_ignore_ascii_case(&name.name))
    }

    /// Why a bare name behind IN or && is no column, if it cannot be meant as one: a common
    /// table expression that cannot be seen from here, or a table.
    pub fn not_a_list(&self, ast: &Ast) -> Option<Problem> {
        let AstKind::Name(parts) = &ast.kind else { return None };
        let [name] = &parts[..] else { return None };
        let error = |message: String| Some(self.error(code::UNDEFINED, message, ast.place));
        if self.is_sibling(name) {
            let message =
                format!("{} is a common table expression; CTEs cannot see others", name.name);
            return error(message).map(|p| p.mend("write its SELECT here: IN (SELECT … FROM …)"));
        }
        if self.cte(None, name).is_some() {
            let message = format!("{} is a common table expression", name.name);
            return error(message).map(|p| p.mend(format!("write (SELECT … FROM {})", name.name)));
        }
        let in_scope = self.frames.iter().flat_map(|frame| &frame.entries);
        let mut in_scope = in_scope.map(|(entry, _)| entry.as_str());
        let is_column = || {
            let tables = self.catalog.all();
            let mut columns = tables.flat_map(|t| &t.columns);
            columns.any(|column| column.name == name.name)
        };
        if in_scope.any(|entry| entry.eq_ignore_ascii_case(&name.name))
            || (self.catalog.table_names().any(|table| table == name.name) && !is_column())
        {
            let message = format!("{} is a table, and IN needs one column of it", name.name);
            return error(message)
                .map(|p| p.mend(format!("write IN (SELECT … FROM {})", name.name)));
        }
        None
    }

    /// A bare name behind IN that is a column of the same row as the left side: hardly ever
    /// meant, and a misspelt common table expression looks the same.
    pub fn same_row_list(&self, needle: &Tree, haystack: &Ast) -> Option<Problem> {
        let AstKind::Name(parts) = &haystack.kind else { return None };
        let [name] = &parts[..] else { return None };
        let is_row = |home: &Home| matches!(home, Home::Table(_));
        if self.dialect != Dialect::Streams
            || !homes(needle, &self.sources).iter().any(is_row)
            || self.inlining.is_some()
        {
            return None;
        }
        let message = format!("there is no common table expression \"{}\" here", name.name);
        let problem = self.error(code::UNDEFINED, message, haystack.place);
        let known = self.ctes.iter().map(|cte| cte.name.as_str());
        Some(match crate::report::nearest(&name.name, known) {
            Some(cte) => problem.mend(format!("did you mean \"{cte}\"?")),
            None => problem.mend(format!(
                "define it under with:, or name the table as well (t.{}) if it is a column that \
                 holds a JSON array",
                name.name
            )),
        })
    }

    /// The common table expression that stands alone on the right side of IN.
    pub fn cte_of(&self, ast: &Ast) -> Option<&'a Cte> {
        match &ast.kind {
            AstKind::Name(parts) if parts.len() == 1 => self.cte(None, &parts[0]),
            _ => None,
        }
    }

    /// Inlines a common table expression that is referred to at `place`. Each reference is a
    /// copy of its own.
    pub fn inline_cte(&mut self, cte: &Cte, place: Place) -> Result<Inlined, Problem> {
        self.used.push(cte.number);
        let Some(select) = &cte.select else {
            let message = format!("the common table expression \"{}\" has errors", cte.name);
            return Err(Problem::error(code::TABLE_EXPRESSION, message, place));
        };
        let text = std::mem::replace(&mut self.text, cte.text.clone());
        self.inlining = Some(place);
        let inlined = self.inline(select, true);
        self.inlining = None;
        self.text = text;
        inlined.map_err(|problem| Problem { place, ..problem })
    }

    /// Inlines a SELECT: its sources join the query's, its columns are expressions over them.
    pub fn inline(&mut self, select: &Select, closed: bool) -> Result<Inlined, Problem> {
        let joins = self.open(select, closed)?;
        let filter = match &select.filter {
            Some(filter) => Pred::And(vec![joins, self.predicate(filter)?]),
            None => joins,
        };
        let mut columns: Vec<(String, Tree)> = Vec::new();
        for item in &select.items {
            let place = item.value.place;
            if matches!(item.value.kind, AstKind::Star(_)) {
                let message = "* columns are not allowed in subqueries or common table expressions";
                return Err(self.error(code::SUBQUERY, message, place));
            }
            let tree = self.lower(&item.value)?;
            let name = match (&item.alias, &item.value.kind) {
                (Some(alias), _) => alias.name.clone(),
                (None, AstKind::Name(parts)) => {
                    parts.last().map(|p| p.name.clone()).unwrap_or_default()
                }
                _ => place.of(&self.text).to_string(),
            };
            if columns.iter().any(|(n, _)| *n == name) {
                let message = format!("There is a column named '{name}' already.");
                return Err(self.error(code::SUBQUERY, message, place));
            }
            columns.push((name, tree));
        }
        self.close();
        Ok(Inlined { columns, filter })
    }

    /// A typed tree, its findings at places of this query's text.
    pub fn lower(&mut self, ast: &Ast) -> Result<Tree, Problem> {
        super::super::names::lower(ast, self).map_err(|problem| self.moved(problem))
    }

    fn moved(&self, problem: Problem) -> Problem {
        Problem { place: self.place(problem.place), ..problem }
    }

    fn entry(&self, qualifier: &Ident, place: Place) -> Result<&Entry, Problem> {
        for frame in self.frames.iter().rev() {
            let found = frame.entries.iter().find(|(n, _)| n.eq_ignore_ascii_case(&qualifier.name));
            if let Some((_, entry)) = found {
                return Ok(entry);
            }
            if frame.closed {
                break;
            }
        }
        let message =
            format!("Table '{}' has not been added in a FROM clause here.", qualifier.name);
        let known: Vec<&str> = self
            .frames
            .iter()
            .flat_map(|f| f.entries.iter().map(|(name, _)| name.as_str()))
            .collect();
        let problem = self.error(code::UNDEFINED, message, qualifier.place.to(place));
        Err(match qualifier.name.as_str() {
            "bucket" | "request" | "token_parameters" | "user_parameters" => problem.mend(REQUEST),
            name => problem.suggest(name, known),
        })
    }

    /// The only source in scope, for names without a qualifier.
    fn only_entry(&self, place: Place) -> Result<&Entry, Problem> {
        for frame in self.frames.iter().rev() {
            match &frame.entries[..] {
                [] if !frame.closed => {}
                [(_, entry)] => return Ok(entry),
                [] => break,
                _ => {
                    let message =
                        "Invalid unqualified reference since multiple tables are in scope";
                    return Err(self
                        .error(code::UNDEFINED, message, place)
                        .mend("write table.column"));
                }
            }
        }
        let message = "there is no table in scope here";
        Err(self.error(code::UNDEFINED, message, place))
    }

    fn column_of(&mut self, entry: Entry, column: &Ident, place: Place) -> Result<Tree, Problem> {
        let source = match entry {
            Entry::Derived(columns) => {
                return match columns.iter().find(|(name, _)| *name == column.name) {
                    Some((_, tree)) => Ok(tree.clone()),
                    None => {
                        let known = columns.iter().map(|(name, _)| name.as_str());
                        Err(self
                            .error(code::UNDEFINED, "Column not found in subquery.", column.place)
                            .suggest(&column.name, known))
                    }
                };
            }
            Entry::Source(source) => source,
        };
        let place = self.place(place);
        match &self.sources[source] {
            Source::Each(_) => match column.name.as_str() {
                "key" => Ok(leaf(Name::Each(source, EachPart::Key), place)),
                "value" => Ok(leaf(Name::Each(source, EachPart::Value), place)),
                name => Err(self
                    .error(code::UNDEFINED, "json_each has the columns key and value", column.place)
                    .suggest(name, ["key", "value"])),
            },
            Source::Table { pattern, .. } => {
                let suffix = self.dialect == Dialect::Alpha
                    && pattern.table.wildcard
                    && column.name == "_table_suffix";
                if suffix {
                    return Ok(leaf(Name::Table(source, TablePart::Suffix), place));
                }
                if pattern.table.wildcard && column.name == "_table_suffix" {
                    let message = "_table_suffix belongs to bucket definitions";
                    return Err(self
                        .error(code::UNDEFINED, message, column.place)
                        .mend("use table_suffix() of the table's alias: FROM \"t_%\" AS t WHERE t.table_suffix() = …"));
                }
                let warning = unknown_column(self.catalog, pattern, column);
                self.warnings.extend(warning.map(|w| self.moved(w)));
                warn_folded(self, column);
                Ok(leaf(Name::Column(source, column.name.clone()), place))
            }
        }
    }
}

impl Names for Scope<'_> {
    fn dialect(&self) -> Dialect {
        self.dialect
    }

    fn rules(&self) -> JsonRules {
        self.rules
    }

    fn text(&self) -> &str {
        &self.text
    }

    fn warn(&mut self, problem: Problem) {
        let problem = self.moved(problem);
        self.warnings.push(problem);
    }

    fn labels(&self, source: usize, column: &str) -> &[String] {
        match &self.sources[source] {
            Source::Table { pattern, .. } => self.catalog.labels(pattern, column),
            Source::Each(_) => &[],
        }
    }

    fn column(&mut self, parts: &[Ident], place: Place) -> Result<Tree, Problem> {
        let (entry, column) = match parts {
            [column] => (self.only_entry(place)?.clone(), column),
            [qualifier, column] | [_, qualifier, column] => {
                (self.entry(qualifier, place)?.clone(), column)
            }
            _ => return Err(self.error(code::UNDEFINED, "not a column", place)),
        };
        self.column_of(entry, column, place)
    }

    fn schema_call(
        &mut self,
        schema: &Ident,
        name: &Ident,
        args: Vec<(Tree, Place)>,
        place: Place,
    ) -> Result<Tree, Problem> {
        let function = name.name.to_ascii_lowercase();
        let arguments = |scope: &Scope<'_>, count: usize| match args.len() == count {
            true => Ok(()),
            false if count == 1 => {
                Err(scope.error(code::ARGUMENTS, "Expected a single argument here", place))
            }
            false => Err(scope.error(code::ARGUMENTS, "Expected no arguments here", place)),
        };
        let origin = match schema.name.to_ascii_lowercase().as_str() {
            "auth" => Origin::Token,
            "connection" => Origin::Connection,
            "subscription" => Origin::Subscription,
            _ => {
                let part = match function.as_str() {
                    "table_suffix" => TablePart::Suffix,
                    "table_name" => TablePart::Name,
                    "schema" => TablePart::Schema,
                    _ if self.has(&schema.name) => {
                        let known = ["table_suffix", "table_name", "schema"];
                        return Err(unknown_function(&function, name.place, self.dialect)
                            .suggest(&function, known));
                    }
                    _ => {
                        let message = "Invalid schema in function name";
                        let problem = self.error(code::UNKNOWN_FUNCTION, message, schema.place);
                        return Err(match schema.name.as_str() {
                            "request" => problem.mend(REQUEST),
                            name => problem.suggest(name, ["auth", "connection", "subscription"]),
                        });
                    }
                };
                arguments(self, 0)?;
                let Entry::Source(source) = self.entry(schema, place)?.clone() else {
                    let message = format!("{function}() needs a table");
                    return Err(self.error(code::ARGUMENTS, message, place));
                };
                if let Source::Table { pattern, .. } = &self.sources[source]
                    && part == TablePart::Suffix
                    && !pattern.table.wildcard
                {
                    let message = "table_suffix() is always empty for a table without wildcard";
                    let place = self.place(place);
                    self.warnings.push(Problem::warning(code::IGNORED, message, place));
                }
                return Ok(leaf(Name::Table(source, part), self.place(place)));
            }
        };
        let at = self.place(place);
        match function.as_str() {
            "user_id" if origin == Origin::Token => {
                arguments(self, 0)?;
                Ok(request(origin, RequestPart::Member("$.sub".into()), at))
            }
            "user_id" => {
                let message = ".user_id() is only available on auth schema";
                Err(self.error(code::UNKNOWN_FUNCTION, message, place))
            }
            "parameters" => {
                arguments(self, 0)?;
                Ok(request(origin, RequestPart::Document, at))
            }
            "parameter" => {
                arguments(self, 1)?;
                match args.into_iter().next() {
                    Some((Expr::Literal(SqlValue::Text(path)), _)) => {
                        Ok(request(origin, RequestPart::Member(path.into_owned()), at))
                    }
                    Some((path, _)) => {
                        let routine = routines::operator("->>", self.dialect, JsonRules::Fixed)
                            .expect("the table has ->>");
                        let document = request(origin, RequestPart::Document, at);
                        Ok(Expr::Call(routine, vec![document, path]))
                    }
                    None => {
                        Err(self.error(code::ARGUMENTS, "Expected a single argument here", place))
                    }
                }
            }
            _ => {
                let message = format!("Unknown request function: {}.{}", schema.name, name.name);
                let problem = self.error(code::UNKNOWN_FUNCTION, message, place);
                Err(match function.as_str() {
                    "uid" | "sub" | "id" | "user" if origin == Origin::Token => {
                        problem.mend("did you mean auth.user_id()?")
                    }
                    "jwt" | "claims" | "claim" | "role" | "email" | "session"
                        if origin == Origin::Token =>
                    {
                        problem.mend("use auth.parameter('x') for claim x of the token")
                    }
                    _ => problem.suggest(&function, ["user_id", "parameters", "parameter"]),
                })
            }
        }
    }
}
