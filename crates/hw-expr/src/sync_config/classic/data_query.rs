//! Classic data queries. Source: `sync-rules.md` 9.2.

use super::super::data::{DataQuery, OutputItem, StarRule};
use super::super::load::Loader;
use super::super::names::{Leaf, Name, also, both, lower, warn_folded};
use super::clause::{Clauses, Parameter, check};
use super::scope::{Mode, Scope, single_source, withheld_in_star};
use crate::expr::Expr;
use crate::report::{Origin, Problem, code};
use crate::sql::ast::{AstKind, Item, Relation, Select};
use crate::sql::{Place, parse};
use std::collections::BTreeSet;

/// Compiles one query over the definition's parameters, in their order.
pub fn compile(
    text: &str,
    parameters: &[String],
    loader: &mut Loader<'_, '_>,
    origin: Origin<'_>,
) -> Result<DataQuery, Problem> {
    let mut scope = Scope::new(text, Mode::Data, loader);
    let query = compile_in(text, parameters, loader.default_schema, &mut scope);
    for warning in scope.warnings {
        loader.findings.problem(warning, origin);
    }
    query
}

/// The columns of the SELECT.
#[derive(Default)]
struct Columns {
    items: Vec<OutputItem>,
    has_id: bool,
    has_star: bool,
}

impl Columns {
    fn read(select: &Select, scope: &mut Scope<'_>) -> Result<Columns, Problem> {
        let mut columns = Columns::default();
        let mut refused = None;
        for item in &select.items {
            if let AstKind::Star(None) = item.value.kind {
                columns.has_star = true;
                columns.items.push(OutputItem::Star);
                continue;
            }
            let read = columns.column(item, scope);
            read.unwrap_or_else(|problem| also(scope, &mut refused, problem));
        }
        refused.map_or(Ok(columns), Err)
    }

    fn column(&mut self, item: &Item, scope: &mut Scope<'_>) -> Result<(), Problem> {
        let error = |code, message: &str, place| Err(Problem::error(code, message, place));
        let tree = lower(&item.value, scope)?;
        check(&tree, &item.value, Mode::Data)?;
        let mut bucket = None;
        tree.visit(&mut |leaf: &Leaf| {
            if matches!(leaf.what, Name::Bucket(_)) {
                bucket = Some(leaf.place);
            }
        });
        if let Some(place) = bucket {
            return error(code::EXPRESSION, "parameter not supported here", place);
        }
        let name = match (&item.alias, &item.value.kind) {
            (Some(alias), _) => {
                warn_folded(scope, alias);
                alias.name.clone()
            }
            (None, AstKind::Name(parts)) => {
                parts.last().map(|p| p.name.clone()).unwrap_or_default()
            }
            _ => return error(code::COLUMN_NAME, "alias is required", item.value.place),
        };
        self.has_id |= name == "id";
        let row = tree.map(&mut |leaf: &Leaf| match leaf.what.row() {
            Some(name) => Expr::Ref(name),
            None => Expr::Literal(crate::value::SqlValue::Null),
        });
        self.items.push(OutputItem::Named(name, row));
        Ok(())
    }
}

/// Which of the query's parameters stands for each of the definition's.
fn order(
    wanted: &[String],
    parameters: &[Parameter],
    covered: &BTreeSet<usize>,
    select: &Select,
) -> Result<Vec<usize>, Problem> {
    let found: Vec<(String, Place)> = parameters
        .iter()
        .map(|parameter| match &parameter.tree {
            Expr::Ref(Leaf { what: Name::Bucket(name), place }) => (name.clone(), *place),
            _ => (String::new(), select.place),
        })
        .collect();
    let place_of = |name: &String| {
        found.iter().position(|(found, _)| found == name).filter(|at| covered.contains(at))
    };
    let order: Option<Vec<usize>> = wanted.iter().map(place_of).collect();
    let unknown = found.iter().find(|(name, _)| !wanted.contains(name));
    if let (Some(order), None) = (order, unknown) {
        return Ok(order);
    }
    let list = |names: Vec<&str>| {
        let quoted: Vec<String> = names.iter().map(|n| format!("\"bucket.{n}\"")).collect();
        format!("[{}]", quoted.join(","))
    };
    let message = format!(
        "Query must cover all bucket parameters. Expected: {} Got: {}",
        list(wanted.iter().map(String::as_str).collect()),
        list(found.iter().map(|(name, _)| name.as_str()).collect()),
    );
    Err(match unknown {
        Some((name, place)) => {
            let known = wanted.iter().map(String::as_str);
            Problem::error(code::PARAMETERS, message, *place).suggest(name, known)
        }
        None => Problem::error(code::PARAMETERS, message, select.place)
            .mend("compare a column with each of them in WHERE"),
    })
}

fn compile_in(
    text: &str,
    parameters: &[String],
    default_schema: &str,
    scope: &mut Scope<'_>,
) -> Result<DataQuery, Problem> {
    let select = parse::statement(text)?;
    let error = |code, message: &str, place| Err(Problem::error(code, message, place));
    let Some(from) = single_source(&select)? else {
        return error(code::STATEMENT, "Must SELECT from a single table", select.place);
    };
    let Relation::Table { schema, name } = &from.relation else {
        return error(code::STATEMENT, "Must SELECT from a single table", from.place);
    };
    let table = scope.read_table(schema.as_ref(), name, from.alias.as_ref(), default_schema)?;

    let mut clauses = Clauses { scope, parameters: Vec::new() };
    let filter = clauses.filter(select.filter.as_ref());
    let columns = Columns::read(&select, clauses.scope);
    let covered = filter.and_then(|(alternatives, covered)| {
        let order = order(parameters, &clauses.parameters, &covered, &select)?;
        Ok((alternatives, order))
    });
    let ((alternatives, order), columns) = both(clauses.scope, covered, columns)?;
    let scope = clauses.scope;
    let plans = alternatives.iter().map(|a| a.plan(&order, Vec::new())).collect();

    let Columns { items, has_id, has_star } = columns;
    let place = match (&select.items.first(), select.items.last()) {
        (Some(first), Some(last)) => first.value.place.to(last.value.place),
        _ => select.place,
    };
    if !has_id && !has_star {
        return Err(Problem::error(code::ID, "Query must return an \"id\" column", place)
            .mend("select the primary key AS id"));
    }
    if !has_id
        && let Some(tables) = scope.catalog.tables(&table)
        && tables.iter().any(|t| t.columns.iter().all(|c| c.name != "id"))
    {
        let message = "Query must return an \"id\" column";
        scope
            .warnings
            .push(Problem::warning(code::ID, message, place).mend("select the primary key AS id"));
    }
    if has_star && !has_id {
        scope.warnings.extend(withheld_in_star(scope.catalog, &table, place));
    }
    let output = match &from.alias {
        Some(alias) => Some(alias.name.clone()),
        None if table.table.wildcard => None,
        None => Some(name.name.clone()),
    };
    Ok(DataQuery { table, output, items, star: StarRule::Classic, plans })
}
