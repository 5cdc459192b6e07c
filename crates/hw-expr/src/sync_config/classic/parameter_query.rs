//! Classic parameter queries: static, over `json_each`, and over a table. Source:
//! `sync-rules.md` 9.1, 9.4.

use super::super::load::Loader;
use super::super::lookup::LookupDef;
use super::super::names::{Leaf, Name, Tree, also, lower, warn_folded};
use super::super::plan::{EachPart, RowName};
use super::super::querier::{Component, Querier, QueryName, Step, each_slot};
use super::super::request::Origin as Whose;
use super::clause::{Clauses, Form, Kind, check, kind};
use super::scope::{Mode, Scope, Source, single_source};
use crate::expr::Expr;
use crate::report::{Origin, Problem, code};
use crate::routines::fixed;
use crate::sql::ast::{Ast, AstKind, From, Ident, Item, Literal, Relation, Select};
use crate::sql::parse;
use crate::value::SqlValue;

/// A compiled parameter query.
pub struct ParameterQuery {
    /// Names of the bucket parameters, in the query's order.
    pub names: Vec<String>,
    /// How a request is answered; definition and source are set by the caller.
    pub querier: Querier,
}

/// Compiles one query. An index that it needs is added to the configuration.
pub fn compile(
    text: &str,
    has_priority: bool,
    accept_dangerous: bool,
    loader: &mut Loader<'_, '_>,
    origin: Origin<'_>,
) -> Result<ParameterQuery, Problem> {
    let mut scope = Scope::new(text, Mode::Parameters, loader);
    let compiled = parse::statement(text).map_err(Problem::from).and_then(|select| {
        let mut query = Query { scope: &mut scope, has_priority, danger: Danger::default() };
        let compiled = query.compile(&select, loader)?;
        if query.danger.is_dangerous() && !accept_dangerous {
            query.scope.warnings.push(dangerous(&select));
        }
        Ok(compiled)
    });
    for warning in scope.warnings {
        loader.findings.problem(warning, origin);
    }
    compiled
}

fn dangerous(select: &Select) -> Problem {
    Problem::warning(
        code::DANGEROUS,
        "Potentially dangerous query based on parameters set by the client. The client can send \
         any value for these parameters so it's not a good place to do authorization.",
        select.place,
    )
    .mend("constrain the query by request.user_id() or request.jwt(), or set accept_potentially_dangerous_queries: true")
}

/// Whether anyone can choose the values that decide.
#[derive(Default)]
struct Danger {
    uses_client: bool,
    authenticated: bool,
}

impl Danger {
    fn is_dangerous(&self) -> bool {
        self.uses_client && !self.authenticated
    }

    /// Notes an expression; `decides`: it is an output or another place that binds the result.
    fn note(&mut self, tree: &Tree, decides: bool) {
        self.uses_client |= uses(tree, Whose::Connection);
        self.authenticated |= decides && uses(tree, Whose::Token);
    }
}

fn uses(tree: &Tree, whose: Whose) -> bool {
    let mut found = false;
    tree.visit(&mut |leaf: &Leaf| {
        found |= matches!(&leaf.what, Name::Request(name) if name.origin == whose);
    });
    found
}

struct Query<'s, 'a> {
    scope: &'s mut Scope<'a>,
    has_priority: bool,
    danger: Danger,
}

/// The columns of a parameter query.
struct Outputs {
    names: Vec<String>,
    trees: Vec<Tree>,
    priority: Option<u8>,
}

impl Query<'_, '_> {
    fn compile(
        &mut self,
        select: &Select,
        loader: &mut Loader<'_, '_>,
    ) -> Result<ParameterQuery, Problem> {
        match single_source(select)? {
            None => self.fixed(select),
            Some(from) => match &from.relation {
                Relation::Table { schema, name } => {
                    self.table(select, from, schema.as_ref(), name, loader)
                }
                Relation::Function { name, args } => self.each(select, from, name, args),
                Relation::Subquery(_) => {
                    let message = "Subqueries are not supported yet";
                    Err(Problem::error(code::STATEMENT, message, from.place))
                }
            },
        }
    }

    fn outputs(&mut self, select: &Select) -> Result<Outputs, Problem> {
        let mut outputs = Outputs { names: Vec::new(), trees: Vec::new(), priority: None };
        let mut refused = None;
        for item in &select.items {
            let read = self.output(item, &mut outputs);
            read.unwrap_or_else(|problem| also(self.scope, &mut refused, problem));
        }
        refused.map_or(Ok(outputs), Err)
    }

    fn output(&mut self, item: &Item, outputs: &mut Outputs) -> Result<(), Problem> {
        let error = |code, message: &str, place| Err(Problem::error(code, message, place));
        let place = item.value.place;
        if matches!(item.value.kind, AstKind::Star(_)) {
            let message = "* is not supported here - use explicit columns";
            return error(code::EXPRESSION, message, place);
        }
        let name = match (&item.alias, &item.value.kind) {
            (Some(alias), _) => {
                warn_folded(self.scope, alias);
                alias.name.clone()
            }
            (None, AstKind::Name(parts)) => {
                parts.last().map(|p| p.name.clone()).unwrap_or_default()
            }
            _ => return error(code::COLUMN_NAME, "alias is required", place),
        };
        if name == "_priority" {
            let AstKind::Literal(Literal::Integer(priority)) = item.value.kind else {
                let message = "Priority must be a simple integer literal";
                return error(code::PRIORITY, message, place);
            };
            if self.has_priority {
                return error(code::PRIORITY, "Cannot set priority multiple times.", place);
            }
            if !(0..=3).contains(&priority) {
                let message = "Invalid value for priority, must be between 0 and 3 (inclusive).";
                return error(code::PRIORITY, message, place);
            }
            outputs.priority = Some(priority as u8);
            return Ok(());
        }
        let tree = lower(&item.value, self.scope)?;
        self.danger.note(&tree, true);
        // The last of two columns with one name wins.
        match outputs.names.iter().position(|n| *n == name) {
            Some(index) => outputs.trees[index] = tree,
            None => {
                outputs.names.push(name);
                outputs.trees.push(tree);
            }
        }
        Ok(())
    }

    fn fixed(&mut self, select: &Select) -> Result<ParameterQuery, Problem> {
        let outputs = self.outputs(select)?;
        let mut filters = Vec::new();
        if let Some(filter) = &select.filter {
            let tree = lower(filter, self.scope)?;
            self.danger.note(&tree, false);
            filters.push(over_slots(&tree, 0));
        }
        let component =
            Component { steps: Vec::new(), gives: gives(&outputs, |t| over_slots(t, 0)) };
        Ok(finish(outputs, filters, component))
    }

    fn each(
        &mut self,
        select: &Select,
        from: &From,
        name: &Ident,
        args: &[Ast],
    ) -> Result<ParameterQuery, Problem> {
        if !name.name.eq_ignore_ascii_case("json_each") {
            let message = format!("Table-valued function {} is not defined.", name.name);
            return Err(Problem::error(code::UNKNOWN_FUNCTION, message, name.place)
                .suggest(&name.name, ["json_each"]));
        }
        let [input] = args else {
            let message = "Function 'json_each' takes 1 arguments.";
            return Err(Problem::error(code::ARGUMENTS, message, from.place));
        };
        let input_tree = lower(input, self.scope)?;
        self.danger.note(&input_tree, true);
        let alias = from.alias.as_ref().map_or("json_each", |a| &a.name);
        self.scope.source = Source::Each(alias.to_string());
        let outputs = self.outputs(select)?;
        let mut steps = vec![Step::Each(over_slots(&input_tree, 0))];
        if let Some(filter) = &select.filter {
            let tree = lower(filter, self.scope)?;
            self.danger.note(&tree, false);
            steps.push(Step::Filter(over_slots(&tree, 0)));
        }
        let component = Component { steps, gives: gives(&outputs, |t| over_slots(t, 0)) };
        Ok(finish(outputs, Vec::new(), component))
    }

    fn table(
        &mut self,
        select: &Select,
        from: &From,
        schema: Option<&Ident>,
        name: &Ident,
        loader: &mut Loader<'_, '_>,
    ) -> Result<ParameterQuery, Problem> {
        if let Some(alias) = &from.alias {
            let message = "Table aliases not supported in parameter queries";
            return Err(Problem::error(code::STATEMENT, message, alias.place));
        }
        let table = self.scope.read_table(schema, name, None, loader.default_schema)?;
        let outputs = self.outputs(select)?;
        let mut columns: Vec<Expr<RowName>> = Vec::new();
        let mut column_of = Vec::new();
        for (tree, item) in outputs.trees.iter().zip(&select.items) {
            match (check(tree, &item.value, Mode::Parameters)?, tree) {
                (Kind::Row, Expr::Ref(Leaf { what: Name::Column(_, name), .. })) => {
                    column_of.push(Some(columns.len()));
                    columns.push(Expr::Ref(RowName::Column(name.clone())));
                }
                (Kind::Row, _) => {
                    let message = "only plain columns of the table can be selected here";
                    return Err(Problem::error(code::EXPRESSION, message, item.value.place));
                }
                _ => column_of.push(None),
            }
        }
        if let Some(filter) = &select.filter {
            self.danger.authenticated |= is_authenticated(filter, self.scope);
        }
        let mut clauses = Clauses { scope: self.scope, parameters: Vec::new() };
        let (alternatives, _) = clauses.filter(select.filter.as_ref())?;
        let parameters = clauses.parameters;
        for parameter in &parameters {
            self.danger.note(&parameter.tree, false);
        }
        let order: Vec<usize> = (0..parameters.len()).collect();
        let lookup = loader.lookup(LookupDef {
            fingerprint: [0; 32],
            table,
            plans: alternatives.iter().map(|a| a.plan(&order, columns.clone())).collect(),
            options: loader.options.values(),
        });

        let mut steps = Vec::new();
        let mut key = Vec::new();
        let mut slots = 0;
        for parameter in &parameters {
            let tree = over_slots(&parameter.tree, 0);
            match parameter.form {
                Form::Value => key.push(tree),
                Form::Truth => key.push(Expr::Call(&fixed::TRUTH, vec![tree])),
                Form::Elements if slots > 0 => {
                    let message = "Cannot have multiple array input parameters";
                    return Err(Problem::error(code::PARAMETERS, message, select.place));
                }
                Form::Elements => {
                    // What is not a JSON array finds nothing; it does not fail the request.
                    steps.push(Step::Each(array_or_null(tree)));
                    key.push(Expr::Ref(QueryName::Slot(each_slot(slots, EachPart::Value))));
                    slots += 2;
                }
            }
        }
        steps.push(Step::Lookup { lookup, key, outputs: columns.len() });
        let mut given = Vec::new();
        for (index, (tree, column)) in outputs.trees.iter().zip(column_of).enumerate() {
            given.push((
                index,
                match column {
                    Some(column) => Expr::Ref(QueryName::Slot(slots + column)),
                    None => over_slots(tree, 0),
                },
            ));
        }
        Ok(finish(outputs, Vec::new(), Component { steps, gives: given }))
    }
}

/// NULL unless the value is the text of a JSON array.
fn array_or_null(tree: Expr<QueryName>) -> Expr<QueryName> {
    Expr::Case(vec![(Expr::Call(&fixed::IS_ARRAY, vec![tree.clone()]), tree)], None)
}

/// Whether WHERE compares something with a value of the token; for OR on both sides.
fn is_authenticated(ast: &Ast, scope: &mut Scope<'_>) -> bool {
    match &ast.kind {
        AstKind::Binary("AND", left, right) => {
            is_authenticated(left, scope) || is_authenticated(right, scope)
        }
        AstKind::Binary("OR", left, right) => {
            is_authenticated(left, scope) && is_authenticated(right, scope)
        }
        _ => lower(ast, scope).is_ok_and(|tree| uses(&tree, Whose::Token)),
    }
}

/// As an expression over the request and the slots of a component.
fn over_slots(tree: &Tree, first: usize) -> Expr<QueryName> {
    debug_assert!(!matches!(kind(tree), Kind::Mixed(_)) || first == 0);
    tree.map(&mut |leaf: &Leaf| match &leaf.what {
        Name::Request(name) => Expr::Ref(QueryName::Request(name.clone())),
        Name::Each(_, part) => Expr::Ref(QueryName::Slot(each_slot(first, *part))),
        _ => Expr::Literal(SqlValue::Null),
    })
}

fn gives(
    outputs: &Outputs,
    over: impl Fn(&Tree) -> Expr<QueryName>,
) -> Vec<(usize, Expr<QueryName>)> {
    outputs.trees.iter().map(over).enumerate().collect()
}

fn finish(outputs: Outputs, filters: Vec<Expr<QueryName>>, component: Component) -> ParameterQuery {
    ParameterQuery {
        querier: Querier {
            definition: 0,
            source: 0,
            priority: outputs.priority,
            filters,
            components: vec![component],
            parameters: outputs.names.len(),
        },
        names: outputs.names,
    }
}
