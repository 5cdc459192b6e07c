//! Syntax trees to typed trees: operators and functions are looked up in the table, names are
//! asked of the caller. Here the differences between the dialects end.
//!
//! Source: `sync-rules.md` 6, 7, 10.3.

use super::plan::{EachPart, RowName, TablePart};
use super::request::{Origin, RequestName, RequestPart};
use crate::expr::{Expr, NoScope};
use crate::report::{Problem, code};
use crate::routines::{self, Dialect, JsonRules, fixed};
use crate::sql::Place;
use crate::sql::ast::{Ast, AstKind, Ident, ListKind, Literal};
use crate::value::{CastType, SqlValue};
use std::fmt;

/// What a name refers to while a query is compiled, and where it is written.
#[derive(Clone, Debug)]
pub struct Leaf {
    /// What it refers to.
    pub what: Name,
    /// Where it stands.
    pub place: Place,
}

/// What a name refers to. Sources are numbered per query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Name {
    /// A column of a source table.
    Column(usize, String),
    /// A fact about a source table.
    Table(usize, TablePart),
    /// A column of a `json_each`.
    Each(usize, EachPart),
    /// A value of the request.
    Request(RequestName),
    /// `bucket.x` of a classic data query.
    Bucket(String),
}

impl fmt::Display for Leaf {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match &self.what {
            Name::Column(source, name) => write!(f, "column({source},{name:?})"),
            Name::Table(source, part) => write!(f, "table({source},{part:?})"),
            Name::Each(source, part) => write!(f, "each({source},{part:?})"),
            Name::Request(name) => write!(f, "{name}"),
            Name::Bucket(name) => write!(f, "bucket({name:?})"),
        }
    }
}

impl Name {
    /// The source that it belongs to, if it belongs to one.
    pub fn source(&self) -> Option<usize> {
        match self {
            Name::Column(source, _) | Name::Table(source, _) | Name::Each(source, _) => {
                Some(*source)
            }
            Name::Request(_) | Name::Bucket(_) => None,
        }
    }

    /// As a reference to a row of the only source.
    pub fn row(&self) -> Option<RowName> {
        match self {
            Name::Column(_, name) => Some(RowName::Column(name.clone())),
            Name::Table(_, part) => Some(RowName::Table(*part)),
            _ => None,
        }
    }
}

/// A typed tree whose leaves know their place.
pub type Tree = Expr<Leaf>;

/// A leaf.
pub fn leaf(what: Name, place: Place) -> Tree {
    Expr::Ref(Leaf { what, place })
}

/// A value of the request.
pub fn request(origin: Origin, part: RequestPart, place: Place) -> Tree {
    leaf(Name::Request(RequestName { origin, part }), place)
}

/// Where names get their meaning: the dialect and the scope of one query.
pub trait Names {
    /// The dialect.
    fn dialect(&self) -> Dialect;
    /// How JSON paths work.
    fn rules(&self) -> JsonRules;
    /// The SQL text.
    fn text(&self) -> &str;
    /// The meaning of `a`, `t.a` or `s.t.a`.
    fn column(&mut self, parts: &[Ident], place: Place) -> Result<Tree, Problem>;
    /// The meaning of `s.f(…)`.
    fn schema_call(
        &mut self,
        schema: &Ident,
        name: &Ident,
        args: Vec<(Tree, Place)>,
        place: Place,
    ) -> Result<Tree, Problem>;
    /// The labels of a column that is an enum; empty when it is none, or nothing is known.
    fn labels(&self, source: usize, column: &str) -> &[String];
    /// Receives findings that refuse nothing.
    fn warn(&mut self, problem: Problem);
}

/// Goes on behind an error, so that all that is wrong with a query is said at once: the first one ends it,
/// further ones are said beside it.
pub fn also(names: &mut (impl Names + ?Sized), first: &mut Option<Problem>, problem: Problem) {
    match first {
        None => *first = Some(problem),
        Some(_) => names.warn(problem),
    }
}

/// The same for two parts of a query.
pub fn both<A, B>(
    names: &mut (impl Names + ?Sized),
    left: Result<A, Problem>,
    right: Result<B, Problem>,
) -> Result<(A, B), Problem> {
    match (left, right) {
        (Err(first), Err(second)) => {
            names.warn(second);
            Err(first)
        }
        (left, right) => Ok((left?, right?)),
    }
}

/// The warning about a name that folding changed, once per name.
pub fn warn_folded(names: &mut (impl Names + ?Sized), ident: &Ident) {
    if ident.folded && names.dialect() != Dialect::Streams {
        let written = ident.place.of(names.text()).to_string();
        names.warn(Problem::warning(
            code::FOLDED,
            format!("Unquoted identifiers are converted to lower-case. Use \"{written}\" instead."),
            ident.place,
        ));
    }
}

/// The typed tree of an expression.
pub fn lower(ast: &Ast, names: &mut (impl Names + ?Sized)) -> Result<Tree, Problem> {
    let tree = lower_any(ast, names)?;
    fold(tree, ast.place)
}

/// Evaluates a constant once, at load; an error there is final.
fn fold(tree: Tree, place: Place) -> Result<Tree, Problem> {
    if matches!(tree, Expr::Literal(_)) || !tree.is_constant() {
        return Ok(tree);
    }
    match tree.evaluate(&NoScope) {
        Ok(value) => Ok(Expr::Literal(value.into_owned())),
        Err(error) => Err(Problem::error(code::CONSTANT, error.to_string(), place)),
    }
}

fn lower_any(ast: &Ast, names: &mut (impl Names + ?Sized)) -> Result<Tree, Problem> {
    let streams = names.dialect() == Dialect::Streams;
    let refuse = |message: &str| Err(Problem::error(code::EXPRESSION, message, ast.place));
    Ok(match &ast.kind {
        AstKind::Literal(literal) => Expr::Literal(match literal {
            Literal::Null => SqlValue::Null,
            Literal::Bool(value) => SqlValue::boolean(*value),
            Literal::Integer(value) => SqlValue::Integer(*value),
            Literal::Real(value) => SqlValue::Real(*value),
            Literal::Text(text) => SqlValue::text(text.clone()),
        }),
        AstKind::Name(parts) => names.column(parts, ast.place)?,
        AstKind::Star(_) => return refuse("* is not supported here - use explicit columns"),
        AstKind::Call { schema: Some(schema), name, args } => {
            let args = args
                .iter()
                .map(|arg| Ok((lower(arg, names)?, arg.place)))
                .collect::<Result<Vec<_>, Problem>>()?;
            names.schema_call(schema, name, args, ast.place)?
        }
        AstKind::Call { schema: None, name, args } => call(name, args, ast.place, names)?,
        AstKind::Unary("NOT", value) => Expr::Not(Box::new(lower(value, names)?)),
        AstKind::Unary("+", value) if streams => {
            Expr::Call(&fixed::PLUS, vec![lower(value, names)?])
        }
        AstKind::Unary("-", _) => {
            return Err(Problem::error(
                code::EXPRESSION,
                "Unary minus is not currently supported",
                ast.place,
            )
            .mend("write 0 - x"));
        }
        AstKind::Unary(operator, _) => {
            return refuse(&format!("Operator not supported: {operator}"));
        }
        AstKind::Binary("AND", left, right) => {
            Expr::And(Box::new(lower(left, names)?), Box::new(lower(right, names)?))
        }
        AstKind::Binary("OR", left, right) => {
            Expr::Or(Box::new(lower(left, names)?), Box::new(lower(right, names)?))
        }
        // Edition 3 has `!=` as NOT of `=`, so that a NULL operand makes it true (6.2).
        AstKind::Binary("!=", left, right) if streams => {
            Expr::Not(Box::new(binary("=", left, right, ast.place, names)?))
        }
        AstKind::Binary(operator, left, right) => binary(operator, left, right, ast.place, names)?,
        AstKind::IsNull { value, negated } => {
            negate(Expr::Call(&fixed::IS_NULL, vec![lower(value, names)?]), *negated)
        }
        AstKind::IsBool { value, expected, negated } if streams => {
            let routine = if *expected { &fixed::IS_TRUE } else { &fixed::IS_FALSE };
            negate(Expr::Call(routine, vec![lower(value, names)?]), *negated)
        }
        AstKind::IsBool { .. } => return refuse("Operator not supported: IS TRUE, IS FALSE"),
        AstKind::Between { value, low, high, negated } if streams => {
            let args = vec![lower(value, names)?, lower(low, names)?, lower(high, names)?];
            negate(Expr::Call(&fixed::BETWEEN, args), *negated)
        }
        AstKind::Between { .. } => return refuse("ternary not supported here"),
        AstKind::In { needle, haystack, negated } => {
            membership(needle, haystack, *negated, ast.place, names)?
        }
        AstKind::Cast { value, target } => {
            let Some(to) = CastType::named(&target.name) else {
                let message = if streams {
                    format!("Invalid SQLite cast: {}", target.name)
                } else {
                    format!("CAST not supported for '{}'", target.name)
                };
                let known = ["text", "integer", "real", "numeric", "blob"];
                return Err(Problem::error(code::EXPRESSION, message, target.place)
                    .mend(format!("use one of {}", known.join(", "))));
            };
            Expr::Call(fixed::cast(to), vec![lower(value, names)?])
        }
        AstKind::Case { operand, whens, otherwise } if streams => {
            let operand = operand.as_ref().map(|o| lower(o, names)).transpose()?;
            let mut list = Vec::new();
            for (when, then) in whens {
                let when = lower(when, names)?;
                let when = match &operand {
                    None => when,
                    Some(operand) => Expr::Call(equals(names), vec![operand.clone(), when]),
                };
                list.push((when, lower(then, names)?));
            }
            let otherwise = otherwise.as_ref().map(|o| lower(o, names)).transpose()?;
            Expr::Case(list, otherwise.map(Box::new))
        }
        AstKind::Case { .. } => return refuse("case not supported here"),
        AstKind::List(ListKind::Array, _) => return refuse("array not supported here"),
        AstKind::List(..) => return refuse("list not supported here"),
        AstKind::Subquery(_) if streams => {
            return refuse(
                "Invalid position for subqueries. Subqueries are only supported in WHERE clauses.",
            );
        }
        AstKind::Subquery(_) => return refuse("select not supported here"),
        AstKind::Exists(_) => {
            return Err(Problem::error(code::EXPRESSION, "EXISTS is not supported", ast.place)
                .mend("write x IN (SELECT …)"));
        }
        AstKind::Parameter => {
            return refuse("SQL parameters are not allowed. Use functions of the request instead.");
        }
    })
}

/// The routine of `=`.
pub fn equals(names: &(impl Names + ?Sized)) -> &'static routines::Routine {
    routines::operator("=", names.dialect(), names.rules()).expect("the table has =")
}

/// NOT, if wanted.
pub fn negate(tree: Tree, negated: bool) -> Tree {
    if negated { Expr::Not(Box::new(tree)) } else { tree }
}

fn binary(
    operator: &str,
    left: &Ast,
    right: &Ast,
    place: Place,
    names: &mut (impl Names + ?Sized),
) -> Result<Tree, Problem> {
    let streams = names.dialect() == Dialect::Streams;
    let Some(routine) = routines::operator(operator, names.dialect(), names.rules()) else {
        if operator == "&&" {
            return Err(Problem::error(
                code::EXPRESSION,
                "&& is only supported in WHERE clauses of streams",
                place,
            ));
        }
        let like = operator.ends_with("LIKE");
        let message = match operator {
            _ if like && streams => "LIKE expressions are not currently supported.".to_string(),
            _ if streams => format!("Unsupported binary operator: {operator}"),
            _ => format!("Operator not supported: {operator}"),
        };
        let problem = Problem::error(code::EXPRESSION, message, place);
        return Err(match operator {
            _ if like => problem.mend(
                "compare a part of the text: substring(x, 1, 3) = 'abc', or instr(x, 'abc') > 0",
            ),
            "~" | "~*" | "!~" | "!~*" => {
                problem.mend("keep the answer in a column, and compare that")
            }
            "@>" | "<@" | "?|" | "?&" | "#>" => {
                problem.mend("use ->> for a value of a document, IN for an element of an array")
            }
            _ => problem,
        });
    };
    if matches!(operator, "->" | "->>") {
        let literal = match &right.kind {
            AstKind::Literal(Literal::Text(_)) => true,
            AstKind::Literal(Literal::Integer(_)) => streams,
            _ => false,
        };
        if !literal {
            let message = if streams {
                format!("the right side of {operator} must be a string or an integer")
            } else {
                format!("the right side of {operator} must be a string")
            };
            return Err(Problem::error(code::EXPRESSION, message, right.place));
        }
    }
    let (left_place, right_place) = (left.place, right.place);
    let left = lower(left, names)?;
    let right = lower(right, names)?;
    if matches!(operator, "=" | "!=") {
        check_label(names, &left, (&right, right_place));
        check_label(names, &right, (&left, left_place));
    }
    Ok(match (operator, left, right) {
        // A claim is found in the document that is already read, instead of in its text.
        (
            "->>",
            Expr::Ref(Leaf {
                what: Name::Request(RequestName { origin, part: RequestPart::Document }),
                place,
            }),
            Expr::Literal(SqlValue::Text(path)),
        ) if names.rules() == JsonRules::Fixed => {
            request(origin, RequestPart::Member(path.into_owned()), place)
        }
        (_, left, right) => Expr::Call(routine, vec![left, right]),
    })
}

/// Warns about an enum that is compared with a text that is none of its labels.
pub fn check_label(
    names: &mut (impl Names + ?Sized),
    column: &Tree,
    (text, place): (&Tree, Place),
) {
    let (
        Expr::Ref(Leaf { what: Name::Column(source, column), .. }),
        Expr::Literal(SqlValue::Text(text)),
    ) = (column, text)
    else {
        return;
    };
    let labels = names.labels(*source, column);
    if labels.is_empty() || labels.iter().any(|label| label == text) {
        return;
    }
    let message = format!("\"{column}\" never is '{text}'");
    let problem = Problem::warning(code::UNKNOWN_LABEL, message, place);
    let problem = match crate::report::nearest(text, labels.iter().map(String::as_str)) {
        Some(label) => problem.mend(format!("did you mean '{label}'?")),
        None => problem.mend(format!("it is one of '{}'", labels.join("', '"))),
    };
    names.warn(problem);
}

fn membership(
    needle: &Ast,
    haystack: &Ast,
    negated: bool,
    place: Place,
    names: &mut (impl Names + ?Sized),
) -> Result<Tree, Problem> {
    let streams = names.dialect() == Dialect::Streams;
    let refuse = |message: &str, place| Err(Problem::error(code::EXPRESSION, message, place));
    match &haystack.kind {
        AstKind::List(ListKind::Array | ListKind::Row, items) if streams => {
            let mut args = vec![lower(needle, names)?];
            for item in items {
                let tree = lower(item, names)?;
                check_label(names, &args[0], (&tree, item.place));
                args.push(tree);
            }
            Ok(negate(Expr::Call(&fixed::IN_LIST, args), negated))
        }
        AstKind::List(ListKind::Bare, _) if streams => {
            Err(Problem::error(code::EXPRESSION, "x IN (a, b) is not supported", haystack.place)
                .mend("write x IN ARRAY[a, b]"))
        }
        AstKind::List(..) => refuse("list not supported here", haystack.place),
        AstKind::Subquery(_) => {
            let message = if streams {
                "Invalid position for subqueries. Subqueries are only supported in WHERE clauses."
            } else {
                "Subqueries are not supported yet"
            };
            Err(Problem::error(code::SUBQUERY, message, haystack.place))
        }
        _ if negated && !streams => refuse("Operator not supported: NOT IN", place),
        _ => {
            let args = vec![lower(needle, names)?, lower(haystack, names)?];
            Ok(negate(Expr::Call(&fixed::IN_JSON, args), negated))
        }
    }
}

fn call(
    name: &Ident,
    args: &[Ast],
    place: Place,
    names: &mut (impl Names + ?Sized),
) -> Result<Tree, Problem> {
    let streams = names.dialect() == Dialect::Streams;
    let function = name.name.to_ascii_lowercase();
    let arity = |message: String| Err(Problem::error(code::ARGUMENTS, message, place));
    if function == "iif" {
        if args.len() != 3 && streams {
            return arity("iif takes 3 arguments".into());
        }
        let arg = |i: usize, names: &mut _| match args.get(i) {
            Some(arg) => lower(arg, names),
            None => Ok(Expr::Literal(SqlValue::Null)),
        };
        let when = arg(0, names)?;
        let then = arg(1, names)?;
        return Ok(Expr::Case(vec![(when, then)], Some(Box::new(arg(2, names)?))));
    }
    let Some(routine) = routines::function(&function, names.dialect(), names.rules()) else {
        return Err(unknown_function(&function, name.place, names.dialect()));
    };
    if streams && args.len() < routine.min {
        return arity(format!("Expected at least {} arguments", routine.min));
    }
    if streams && args.len() > routine.max {
        return arity(format!("Expected at most {} arguments", routine.max));
    }
    let mut lowered = Vec::new();
    for arg in args.iter().take(routine.max) {
        lowered.push(lower(arg, names)?);
    }
    // Classic: missing arguments are NULL, further ones are ignored.
    while lowered.len() < routine.min {
        lowered.push(Expr::Literal(SqlValue::Null));
    }
    Ok(Expr::Call(routine, lowered))
}

/// What to say about a function that is not in the table.
pub fn unknown_function(name: &str, place: Place, dialect: Dialect) -> Problem {
    if routines::NOT_YET.contains(&name) {
        let message = format!("{name} is not supported by Headwater yet");
        return Problem::error(code::NOT_YET, message, place);
    }
    let message = match (dialect, name) {
        (Dialect::Streams, "random" | "now" | "gen_random_uuid") => {
            "Forbidden call: Sync definitions must be deterministic.".to_string()
        }
        (Dialect::Streams, _) => format!("Unknown function: {name}"),
        _ => format!("Function '{name}' is not defined"),
    };
    let problem = Problem::error(code::UNKNOWN_FUNCTION, message, place);
    match name {
        "coalesce" => problem.mend("use ifnull(x, y)"),
        "now" | "clock_timestamp" | "statement_timestamp" | "timeofday" | "age" => {
            problem.mend(crate::sql::parse::NO_CLOCK)
        }
        "random" | "gen_random_uuid" | "uuid_generate_v4" => {
            problem.mend("keep the value in a column")
        }
        "count" | "sum" | "min" | "max" | "avg" | "array_agg" | "json_agg" | "string_agg" => {
            problem.mend(
                "sync the rows and compute it in the client's query, or sync a table of totals",
            )
        }
        "user_id" | "uid" if dialect == Dialect::Classic => problem.mend("use request.user_id()"),
        "user_id" | "uid" => problem.mend("use auth.user_id()"),
        "jwt" if dialect == Dialect::Classic => problem.mend("use request.jwt()"),
        "jwt" | "current_setting" => problem.mend("use auth.parameter('x')"),
        "substr" => problem.mend("use substring(x, start, length)"),
        "date" | "strftime" => problem.mend("use datetime(x) or substring(x, 1, 10)"),
        _ => problem.suggest(name, routines::function_names(dialect)),
    }
}
