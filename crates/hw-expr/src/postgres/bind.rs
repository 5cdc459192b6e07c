//! From SQL text to the typed tree: names are resolved, types are found, calls of helper functions are
//! replaced by what they compute.
//!
//! Source of the rules for types: the manual of PostgreSQL, "Type Conversion". Of these only what leaves no
//! choice is followed: the exact types, a literal that takes the type of the other side, and promotions
//! that lose nothing.

use super::json;
use super::jsonb;
use super::operators::{BOOL, COMPARISONS, Operation, TEXT, binary, cast, describe};
use super::tree::{Expr, Typed, scalar};
use super::types::{Scalar, Type};
use super::{Lookup, Names, Refusal, Table, Unseen};
use sqlparser::ast::{
    BinaryOperator, CastKind, DataType, Expr as Ast, FunctionArguments, InTarget, ObjectName,
    Query, UnaryOperator, Value,
};
use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::parser::{Parser, ParserError};
use sqlparser::tokenizer::{Token, Tokenizer};
use std::rc::Rc;

/// How deep expressions may nest in one another. Reading them is recursive, with large frames.
const MAX_NESTING: usize = 100;

/// Stack for reading.
const STACK: usize = 64 << 20;

/// How many words a text may have. What it is parsed to is as deep as it is long where operators follow one
/// another, and is dropped recursively.
const MAX_WORDS: usize = 3_000;

/// How deep a tree may be, with what stands in the places of parameters.
const MAX_DEPTH: usize = 200;

/// How many nodes a tree may have: arguments stand in it as often as a body names them.
const MAX_NODES: usize = 20_000;

pub(super) struct Binder<'a> {
    pub(super) names: &'a dyn Names,
    /// The tables around what is being read, outermost first: the place of one is that of its row in
    /// [`super::Frame::rows`].
    pub(super) scopes: Vec<Scope>,
    /// The first of them that can be named here.
    pub(super) reach: usize,
    /// The function whose body is being read, and its parameters.
    pub(super) function: String,
    pub(super) parameters: Vec<(Option<String>, Typed)>,
    /// The search path that holds when this is evaluated.
    pub(super) path: Vec<String>,
    /// Whether this is the body of a function. If not, Postgres has printed it, and all names are
    /// qualified but those of Postgres itself.
    pub(super) in_body: bool,
    /// The role as which this is evaluated.
    pub(super) role: String,
    /// The policies that are being read: table and role.
    pub(super) within: Vec<(u32, String)>,
    pub(super) calls: usize,
    nodes: usize,
    depth: usize,
    pub(super) tables: usize,
}

/// A table that can be named.
pub(super) struct Scope {
    pub(super) table: Rc<Table>,
    /// By which name.
    pub(super) name: String,
    /// Tables of one FROM have the same.
    pub(super) level: usize,
}

/// Reads a condition over the rows of a table.
pub(super) fn condition(text: &str, table: &Table, names: &dyn Names) -> Result<Expr, Refusal> {
    with_stack(|| Binder::over(table, names).text(text))
}

/// Reads what the role that asks may see of a table.
pub(super) fn visibility(table: &Table, names: &dyn Names) -> Result<Expr, Refusal> {
    with_stack(|| Binder::over(table, names).visible())
}

/// Runs on a thread of its own: callers have small stacks.
fn with_stack(read: impl FnOnce() -> Result<Expr, Refusal> + Send) -> Result<Expr, Refusal> {
    std::thread::scope(|scope| {
        let thread = std::thread::Builder::new().stack_size(STACK).spawn_scoped(scope, read);
        let failed = |reason: &str| Refusal {
            expression: String::new(),
            reason: reason.to_owned(),
            fails: false,
        };
        match thread.map(|thread| thread.join()) {
            Ok(Ok(read)) => read,
            Ok(Err(_)) => Err(failed("reading it failed")),
            Err(error) => Err(failed(&format!("there is no thread to read it: {error}"))),
        }
    })
}

/// Reads a text, all of it.
pub(super) fn whole<T>(
    text: &str,
    read: impl FnOnce(&mut Parser<'_>) -> Result<T, ParserError>,
) -> Result<T, Refusal> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location();
    let tokens = tokens.map_err(|error| syntax(text, &error))?;
    let words = tokens.iter().filter(|token| !matches!(token.token, Token::Whitespace(_)));
    if words.count() > MAX_WORDS {
        return Err(syntax(text, &format!("it has more than {MAX_WORDS} words")));
    }
    let mut parser = Parser::new(&PostgreSqlDialect {})
        .with_recursion_limit(MAX_NESTING)
        .with_tokens_with_locations(tokens);
    let read = read(&mut parser).map_err(|error| syntax(text, &error))?;
    match parser.peek_token().token {
        Token::EOF => Ok(read),
        more => Err(syntax(text, &format!("it goes on with {more}"))),
    }
}

fn syntax(text: &str, error: &dyn std::fmt::Display) -> Refusal {
    let beginning = text.char_indices().nth(200).map_or(text.len(), |(at, _)| at);
    let expression = text[..beginning].to_owned();
    Refusal { expression, reason: format!("it cannot be read: {error}"), fails: false }
}

pub(super) fn refuse<T>(ast: &Ast, reason: impl Into<String>) -> Result<T, Refusal> {
    Err(Refusal { expression: ast.to_string(), reason: reason.into(), fails: false })
}

/// Of what is named.
pub(super) fn unseen<T>(ast: &Ast, unseen: Unseen) -> Result<T, Refusal> {
    let fails = matches!(unseen, Unseen::NotAllowed(_));
    Err(Refusal { expression: ast.to_string(), reason: unseen.reason(), fails })
}

/// All of several. What is not known of one does not hide that Postgres fails with another.
pub(super) fn every<T>(
    all: impl IntoIterator<Item = Result<T, Refusal>>,
) -> Result<Vec<T>, Refusal> {
    let (mut found, mut first) = (Vec::new(), None);
    for one in all {
        match one {
            Ok(one) => found.push(one),
            Err(refusal) if refusal.fails => return Err(refusal),
            Err(refusal) => first = first.or(Some(refusal)),
        }
    }
    first.map_or(Ok(found), Err)
}

/// The same of two.
pub(super) fn both<T, U>(
    one: Result<T, Refusal>,
    other: Result<U, Refusal>,
) -> Result<(T, U), Refusal> {
    match (one, other) {
        (Ok(one), Ok(other)) => Ok((one, other)),
        (Err(refusal), Err(other)) if other.fails && !refusal.fails => Err(other),
        (Err(refusal), _) | (_, Err(refusal)) => Err(refusal),
    }
}

impl<'a> Binder<'a> {
    fn over(table: &Table, names: &'a dyn Names) -> Binder<'a> {
        let scope = Scope { table: Rc::new(table.clone()), name: table.name.1.clone(), level: 0 };
        Binder {
            names,
            scopes: vec![scope],
            reach: 0,
            function: String::new(),
            parameters: Vec::new(),
            path: names.search_path().to_vec(),
            in_body: false,
            role: names.role().to_owned(),
            within: Vec::new(),
            calls: 0,
            nodes: 0,
            depth: 0,
            tables: 0,
        }
    }

    pub(super) fn text(&mut self, text: &str) -> Result<Expr, Refusal> {
        let ast = whole(text, |parser| parser.parse_expr())?;
        self.condition(&ast)
    }

    pub(super) fn condition(&mut self, ast: &Ast) -> Result<Expr, Refusal> {
        let typed = self.expression(ast)?;
        match self.coerced(typed, BOOL) {
            Some(typed) => Ok(typed.expr),
            None => refuse(ast, "it is no condition"),
        }
    }

    /// Counts what is added to the tree.
    fn grows(&mut self, ast: &Ast, by: usize) -> Result<(), Refusal> {
        self.nodes = self.nodes.saturating_add(by);
        match self.nodes > MAX_NODES {
            true => refuse(ast, format!("it has more than {MAX_NODES} parts")),
            false => Ok(()),
        }
    }

    /// An expression once more: in the place of a name, or beside what it is compared with. It counts as
    /// often as it stands there.
    fn again(&mut self, ast: &Ast, typed: &Typed) -> Result<Typed, Refusal> {
        self.grows(ast, typed.expr.size())?;
        match self.depth + typed.expr.depth() > MAX_DEPTH {
            true => refuse(ast, format!("it nests deeper than {MAX_DEPTH}")),
            false => Ok(typed.clone()),
        }
    }

    pub(super) fn expression(&mut self, ast: &Ast) -> Result<Typed, Refusal> {
        self.grows(ast, 1)?;
        self.depth += 1;
        let read = match self.depth > MAX_NESTING {
            true => refuse(ast, format!("it nests deeper than {MAX_NESTING}")),
            false => self.form(ast),
        };
        self.depth -= 1;
        read
    }

    fn form(&mut self, ast: &Ast) -> Result<Typed, Refusal> {
        let boxed = |this: &mut Self, ast: &Ast| this.condition(ast).map(Box::new);
        let is = |expr: Expr| Ok(Typed { expr, ty: BOOL });
        match ast {
            Ast::Nested(inner) => self.expression(inner),
            Ast::Value(value) => match &value.value {
                Value::Placeholder(number) => self.parameter(ast, number),
                value => literal(ast, value, self.names),
            },
            Ast::Identifier(name) => self.column(ast, None, &folded(name)),
            Ast::CompoundIdentifier(parts) => match &parts[..] {
                [table, name] => self.column(ast, Some(&folded(table)), &folded(name)),
                _ => refuse(ast, "it names no column of the table"),
            },
            Ast::UnaryOp { op: UnaryOperator::Not, expr } => is(Expr::Not(boxed(self, expr)?)),
            Ast::UnaryOp { op: UnaryOperator::Minus, expr } => match &**expr {
                Ast::Value(value) => match &value.value {
                    Value::Number(digits, _) => number(ast, &format!("-{digits}"), self.names),
                    _ => refuse(ast, "this operator is not known here"),
                },
                _ => refuse(ast, "this operator is not known here"),
            },
            Ast::BinaryOp { op: op @ (BinaryOperator::And | BinaryOperator::Or), .. } => {
                let all = chain(ast, op).into_iter().map(|one| self.condition(one));
                let all = every(all)?;
                is(if *op == BinaryOperator::And { Expr::And(all) } else { Expr::Or(all) })
            }
            Ast::BinaryOp { left, op, right } => {
                let (left, right) = both(self.expression(left), self.expression(right))?;
                self.binary(ast, &op.to_string(), left, right)
            }
            Ast::Between { expr, negated, low, high } => {
                let (value, low, high) =
                    (self.expression(expr)?, self.expression(low)?, self.expression(high)?);
                let once = self.again(ast, &value)?;
                let above = self.binary(ast, ">=", once, low)?.expr;
                let below = self.binary(ast, "<=", value, high)?.expr;
                is(negated_if(*negated, Expr::And(vec![above, below])))
            }
            Ast::IsNull(inner) | Ast::IsNotNull(inner) => {
                let inner = self.expression(inner)?;
                if matches!(inner.ty, Type::Row(_)) {
                    return refuse(ast, "whether a composite value is NULL depends on its fields");
                }
                let is_null = Expr::IsNull(Box::new(inner.expr));
                is(negated_if(matches!(ast, Ast::IsNotNull(_)), is_null))
            }
            Ast::IsTrue(inner) => is(Expr::Is(boxed(self, inner)?, true)),
            Ast::IsNotTrue(inner) => is(negated_if(true, Expr::Is(boxed(self, inner)?, true))),
            Ast::IsFalse(inner) => is(Expr::Is(boxed(self, inner)?, false)),
            Ast::IsNotFalse(inner) => is(negated_if(true, Expr::Is(boxed(self, inner)?, false))),
            Ast::IsUnknown(inner) => is(Expr::IsNull(boxed(self, inner)?)),
            Ast::IsNotUnknown(inner) => is(negated_if(true, Expr::IsNull(boxed(self, inner)?))),
            Ast::IsDistinctFrom(left, right) => self.same(ast, left, right, true),
            Ast::IsNotDistinctFrom(left, right) => self.same(ast, left, right, false),
            Ast::In { expr, target: InTarget::List(list), negated, global: false } => {
                self.in_list(ast, expr, list, *negated)
            }
            Ast::AnyOp { left, compare_op, right, .. } => {
                self.quantified(ast, left, &compare_op.to_string(), right, false)
            }
            Ast::AllOp { left, compare_op, right } => {
                self.quantified(ast, left, &compare_op.to_string(), right, true)
            }
            Ast::Cast {
                kind: CastKind::Cast | CastKind::DoubleColon,
                expr,
                data_type,
                format: None,
            } => {
                let inner = self.expression(expr)?;
                let to = self.named_type(ast, data_type)?;
                self.cast(ast, inner, to)
            }
            Ast::Case { operand, conditions, else_result, .. } => {
                let mut results = Vec::with_capacity(conditions.len() + 1);
                let mut whens = Vec::with_capacity(conditions.len());
                let operand = operand.as_ref().map(|one| self.expression(one)).transpose()?;
                for branch in conditions {
                    whens.push(match &operand {
                        None => self.condition(&branch.condition)?,
                        Some(operand) => {
                            let value = self.expression(&branch.condition)?;
                            let operand = self.again(ast, operand)?;
                            self.check_equality(ast)?;
                            self.binary(ast, "=", operand, value)?.expr
                        }
                    });
                    results.push(self.expression(&branch.result)?);
                }
                results.push(match else_result {
                    Some(otherwise) => self.expression(otherwise)?,
                    None => Typed { expr: Expr::NULL, ty: Type::Unknown },
                });
                let (mut results, ty) = self.alike(ast, results)?;
                let otherwise = results.pop().unwrap_or(Expr::NULL);
                let whens = whens.into_iter().zip(results).collect();
                Ok(Typed { expr: Expr::Case(whens, Box::new(otherwise)), ty })
            }
            Ast::Array(array) => {
                let elements: Result<Vec<_>, _> =
                    array.elem.iter().map(|element| self.expression(element)).collect();
                let (elements, ty) = self.alike(ast, elements?)?;
                match ty {
                    Type::Scalar(element) => {
                        Ok(Typed { expr: Expr::Array(elements), ty: Type::Array(element) })
                    }
                    _ => refuse(ast, "arrays of this type are not known here"),
                }
            }
            Ast::Function(call) => self.call(ast, call),
            Ast::Subquery(query) => self.only(ast, query),
            Ast::Exists { subquery, negated } => {
                let (select, _) = self.select(ast, subquery, false)?;
                is(negated_if(*negated, Expr::Exists(Box::new(select))))
            }
            Ast::In { expr, target: InTarget::Subquery(query), negated, global: false } => {
                let left = self.expression(expr)?;
                self.contained(ast, left, query, *negated)
            }
            _ => refuse(ast, "this form of expression is not known here"),
        }
    }

    fn column(&mut self, ast: &Ast, table: Option<&str>, name: &str) -> Result<Typed, Refusal> {
        // The innermost level that knows the name.
        let mut found: Option<(usize, Typed)> = None;
        for (row, scope) in self.scopes.iter().enumerate().skip(self.reach).rev() {
            if found.as_ref().is_some_and(|(level, _)| *level > scope.level) {
                break;
            }
            let columns = &scope.table.columns;
            let Some(index) = columns.iter().position(|(known, _)| known == name) else { continue };
            if table.is_some_and(|table| table != scope.name) {
                continue;
            }
            if found.is_some() {
                return refuse(ast, "several tables have such a column");
            }
            let typed = Typed { expr: Expr::Column { row, index }, ty: columns[index].1 };
            found = Some((scope.level, typed));
        }
        let parameter = self.parameters.iter().find(|(known, _)| known.as_deref() == Some(name));
        let is_meant = table.is_none_or(|table| table == self.function);
        let parameter = parameter.filter(|_| is_meant).map(|(_, argument)| argument.clone());
        match (found, parameter) {
            // SQL takes the column, PL/pgSQL fails or takes the parameter.
            (Some(_), Some(_)) => refuse(ast, "it is a column and a parameter"),
            (Some((_, typed)), None) => Ok(typed),
            (None, _)
                if table.is_none() && self.scopes[self.reach..].iter().any(|s| s.name == name) =>
            {
                refuse(ast, "it names a whole row")
            }
            (None, Some(argument)) => self.again(ast, &argument),
            (None, None) => refuse(ast, "it names no column whose values are known here"),
        }
    }

    /// A parameter by its number.
    fn parameter(&mut self, ast: &Ast, number: &str) -> Result<Typed, Refusal> {
        if !self.in_body && self.parameters.is_empty() {
            // Postgres prints none in a policy: a parameter of a filter.
            let name = Expr::Literal(Some(number.as_bytes().into()));
            let expr = Expr::Setting(Box::new(name), Box::new(Expr::FALSE));
            return Ok(Typed { expr, ty: TEXT });
        }
        let number = number.strip_prefix('$').and_then(|number| number.parse::<usize>().ok());
        let argument = number.and_then(|number| self.parameters.get(number.checked_sub(1)?));
        match argument.map(|(_, argument)| argument.clone()) {
            Some(argument) => self.again(ast, &argument),
            None => refuse(ast, "there is no such parameter"),
        }
    }

    /// An operator with two sides.
    pub(super) fn binary(
        &self,
        ast: &Ast,
        name: &str,
        left: Typed,
        right: Typed,
    ) -> Result<Typed, Refusal> {
        let name = if name == "!=" { "<>" } else { name };
        let types = [left.ty, right.ty];
        let Some((left, right, operation, ty)) = self.matched(name, left, right) else {
            return refuse(ast, format!("{} is not known here", describe(name, &types)));
        };
        Ok(Typed { expr: Expr::Call(operation, vec![left.expr, right.expr]), ty })
    }

    /// Whether a built-in function or operator could be another one here.
    pub(super) fn is_shadowed(&self, name: &str) -> bool {
        self.names.is_shadowed(&self.lookup(None), name)
    }

    /// Refuses a form that compares by an `=` which Postgres does not print, where it may be one of the database's
    /// own: that of whatever schema was searched when the form was stored.
    pub(super) fn check_equality(&self, ast: &Ast) -> Result<(), Refusal> {
        match self.names.has_equality() {
            true => refuse(
                ast,
                "the database has operators = of its own, and which one is meant is not printed",
            ),
            false => Ok(()),
        }
    }

    /// Where a name is looked for.
    pub(super) fn lookup(&self, schema: Option<String>) -> Lookup {
        let own = |schema: &String| match schema.as_str() {
            "$user" => self.role.clone(),
            _ => schema.clone(),
        };
        let schemas = match schema {
            Some(schema) => vec![schema],
            None if self.in_body => self.path.iter().map(own).collect(),
            None => Vec::new(),
        };
        Lookup { schemas, in_body: self.in_body, role: self.role.clone() }
    }

    /// The operands with the types of the operator that is meant, and that; `None` where it could be one of
    /// the database's own.
    pub(super) fn matched(
        &self,
        name: &str,
        left: Typed,
        right: Typed,
    ) -> Option<(Typed, Typed, Operation, Type)> {
        if self.is_shadowed(name) {
            return None;
        }
        // A literal takes the type of the other side; for JSON, of what leads into it.
        let meant = |other: Type| match (name, other) {
            ("->" | "->>" | "?", Type::Scalar(Scalar::Json | Scalar::Jsonb)) => TEXT,
            ("#>" | "#>>", Type::Scalar(Scalar::Json | Scalar::Jsonb)) => Type::Array(Scalar::Text),
            (_, Type::Unknown) => TEXT,
            (_, other) => other,
        };
        let (left, right) = match (left.ty, right.ty) {
            (Type::Unknown, other) => (self.coerced(left, meant(other))?, self.or_text(right)?),
            (other, Type::Unknown) => (left, self.coerced(right, meant(other))?),
            _ => (left, right),
        };
        if let Some((operation, ty)) = binary(name, left.ty, right.ty) {
            return Some((left, right, operation, ty));
        }
        let (one, other) = (left.ty, right.ty);
        for (left, right) in [
            (self.promoted(left.clone(), other), Some(right.clone())),
            (Some(left), self.promoted(right, one)),
        ] {
            if let (Some(left), Some(right)) = (left, right)
                && let Some((operation, ty)) = binary(name, left.ty, right.ty)
            {
                return Some((left, right, operation, ty));
            }
        }
        None
    }

    pub(super) fn or_text(&self, typed: Typed) -> Option<Typed> {
        match typed.ty {
            Type::Unknown => self.coerced(typed, TEXT),
            _ => Some(typed),
        }
    }

    /// A value as a type that loses nothing of it.
    fn promoted(&self, typed: Typed, to: Type) -> Option<Typed> {
        let rank = |ty: Type| {
            let order = [Scalar::Int2, Scalar::Int4, Scalar::Int8, Scalar::Numeric];
            order.iter().position(|known| scalar(ty) == Some(*known))
        };
        let widens = matches!((rank(typed.ty), rank(to)), (Some(from), Some(to)) if from < to);
        let loses_nothing = widens
            || matches!(
                (scalar(typed.ty)?, scalar(to)?),
                (Scalar::Int2 | Scalar::Int4 | Scalar::Float4, Scalar::Float8)
                    | (Scalar::Date, Scalar::Timestamp)
            );
        let operation = cast(typed.ty, to).filter(|_| loses_nothing && !self.names.has_casts())?;
        Some(Typed { expr: Expr::Call(operation, vec![typed.expr]), ty: to })
    }

    /// The value of a text in quotes.
    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>> {
        match ty {
            // Any text that is one becomes the same value.
            Type::Scalar(Scalar::Jsonb) => {
                let mut document = String::new();
                jsonb::canonical(text, &mut document).ok()?;
                Some(document.into_bytes())
            }
            Type::Scalar(Scalar::Json) => json::is_valid(text).then(|| text.as_bytes().to_vec()),
            ty => self.names.literal(ty, text),
        }
    }

    /// A value where one of this type is wanted: as it is, or a literal that is one.
    pub(super) fn coerced(&self, typed: Typed, to: Type) -> Option<Typed> {
        match (typed.ty, &typed.expr) {
            (ty, _) if ty == to => Some(typed),
            (Type::Unknown, Expr::Literal(None)) => Some(Typed { expr: Expr::NULL, ty: to }),
            (Type::Unknown, Expr::Literal(Some(text))) => {
                let text = std::str::from_utf8(text).ok()?;
                let value = match to {
                    TEXT => text.as_bytes().to_vec(),
                    to => self.literal(to, text)?,
                };
                Some(Typed { expr: Expr::Literal(Some(value.into())), ty: to })
            }
            _ => None,
        }
    }

    fn cast(&self, ast: &Ast, typed: Typed, to: Type) -> Result<Typed, Refusal> {
        if typed.ty == Type::Unknown {
            return match self.coerced(typed, to) {
                Some(typed) => Ok(typed),
                None => refuse(ast, format!("this text is not read as {to} here")),
            };
        }
        match cast(typed.ty, to).filter(|_| typed.ty == to || !self.names.has_casts()) {
            Some(operation) => Ok(Typed { expr: Expr::Call(operation, vec![typed.expr]), ty: to }),
            None => refuse(ast, format!("the cast of {} to {to} is not known here", typed.ty)),
        }
    }

    /// Expressions of which one is the result: all of one type.
    pub(super) fn alike(&self, ast: &Ast, all: Vec<Typed>) -> Result<(Vec<Expr>, Type), Refusal> {
        let known = all.iter().map(|one| one.ty).find(|ty| *ty != Type::Unknown);
        let ty = known.unwrap_or(TEXT);
        let mut expressions = Vec::with_capacity(all.len());
        for one in all {
            match self.coerced(one, ty) {
                Some(one) => expressions.push(one.expr),
                None => return refuse(ast, "its parts are of several types"),
            }
        }
        Ok((expressions, ty))
    }

    fn same(
        &mut self,
        ast: &Ast,
        left: &Ast,
        right: &Ast,
        distinct: bool,
    ) -> Result<Typed, Refusal> {
        let (left, right) = (self.expression(left)?, self.expression(right)?);
        let types = [left.ty, right.ty];
        self.check_equality(ast)?;
        match self.matched("=", left, right) {
            Some((left, right, Operation::Compare(comparison, _), _)) => {
                let same =
                    Expr::Same(Box::new(left.expr), Box::new(right.expr), comparison.compare());
                Ok(Typed { expr: negated_if(distinct, same), ty: BOOL })
            }
            _ => refuse(ast, format!("{} is not known here", describe("=", &types))),
        }
    }

    fn in_list(
        &mut self,
        ast: &Ast,
        value: &Ast,
        list: &[Ast],
        negated: bool,
    ) -> Result<Typed, Refusal> {
        let value = self.expression(value)?;
        let mut any = Vec::with_capacity(list.len());
        for one in list {
            let one = self.expression(one)?;
            let value = self.again(ast, &value)?;
            any.push(self.binary(ast, "=", value, one)?.expr);
        }
        Ok(Typed { expr: negated_if(negated, Expr::Or(any)), ty: BOOL })
    }

    fn quantified(
        &mut self,
        ast: &Ast,
        left: &Ast,
        name: &str,
        right: &Ast,
        all: bool,
    ) -> Result<Typed, Refusal> {
        let name = if name == "!=" { "<>" } else { name };
        let left = self.expression(left)?;
        if let Some(query) = rows(right)
            && matches!((name, all), ("=", false) | ("<>", true))
        {
            return self.contained(ast, left, query, all);
        }
        let right = self.expression(right)?;
        let (left, right) = match (left.ty, right.ty) {
            (Type::Scalar(element), Type::Unknown) => {
                let array = self.coerced(right, Type::Array(element));
                (Some(left), array)
            }
            (Type::Unknown, Type::Array(element)) => {
                (self.coerced(left, Type::Scalar(element)), Some(right))
            }
            _ => (Some(left), Some(right)),
        };
        let (Some(left), Some(right)) = (left, right) else {
            return refuse(ast, "an array of this kind is not known here");
        };
        let holds = COMPARISONS.iter().find(|(known, _)| *known == name).map(|(_, holds)| *holds);
        match (holds, left.ty, right.ty) {
            (Some(holds), left_type @ Type::Scalar(_), Type::Array(element)) => {
                let found = binary(name, left_type, Type::Scalar(element));
                match found.filter(|_| !self.is_shadowed(name)) {
                    Some((Operation::Compare(comparison, _), _)) => Ok(Typed {
                        expr: Expr::Quantified {
                            left: Box::new(left.expr),
                            compare: comparison.compare(),
                            holds,
                            array: Box::new(right.expr),
                            all,
                        },
                        ty: BOOL,
                    }),
                    _ => {
                        let types = [left_type, Type::Scalar(element)];
                        refuse(ast, format!("{} is not known here", describe(name, &types)))
                    }
                }
            }
            _ => refuse(ast, "this form of ANY or ALL is not known here"),
        }
    }

    fn named_type(&self, ast: &Ast, data_type: &DataType) -> Result<Type, Refusal> {
        let found = match data_type {
            DataType::Custom(name, modifiers) if modifiers.is_empty() => {
                qualified(name).and_then(|(schema, name)| match schema.as_deref() {
                    None => Type::named(&name)
                        .or_else(|| self.names.named_type(&self.lookup(None), &name)),
                    Some("pg_catalog") => Type::named(&name),
                    Some(_) => self.names.named_type(&self.lookup(schema), &name),
                })
            }
            built_in => Type::named(&built_in.to_string().to_lowercase()),
        };
        match found {
            Some(ty) => Ok(ty),
            None => refuse(ast, format!("the type {data_type} is not known here")),
        }
    }
}

/// The query of `(SELECT …)`, or of `ARRAY(SELECT …)`, which is an array of the same and never NULL.
fn rows(ast: &Ast) -> Option<&Query> {
    match ast {
        Ast::Subquery(query) => Some(query),
        Ast::Nested(inner) => rows(inner),
        Ast::Function(call) => match &call.args {
            FunctionArguments::Subquery(query) => qualified(&call.name)
                .is_some_and(|(schema, name)| schema.is_none() && name == "array")
                .then_some(&**query),
            _ => None,
        },
        _ => None,
    }
}

/// What is combined by one operator without parentheses in between.
fn chain<'q>(ast: &'q Ast, by: &BinaryOperator) -> Vec<&'q Ast> {
    let (mut all, mut left) = (Vec::new(), ast);
    while let Ast::BinaryOp { left: before, op, right } = left
        && op == by
    {
        all.push(&**right);
        left = before;
    }
    all.push(left);
    all.reverse();
    all
}

pub(super) fn negated_if(negated: bool, expr: Expr) -> Expr {
    if negated { Expr::Not(Box::new(expr)) } else { expr }
}

/// Schema and name.
pub(super) fn qualified(name: &ObjectName) -> Option<(Option<String>, String)> {
    let parts: Option<Vec<String>> =
        name.0.iter().map(|part| part.as_ident().map(folded)).collect();
    match &parts?[..] {
        [name] => Some((None, name.clone())),
        [schema, name] => Some((Some(schema.clone()), name.clone())),
        _ => None,
    }
}

/// An identifier as Postgres reads it.
pub(super) fn folded(ident: &sqlparser::ast::Ident) -> String {
    match ident.quote_style {
        Some(_) => ident.value.clone(),
        None => ident.value.to_ascii_lowercase(),
    }
}

fn literal(ast: &Ast, value: &Value, names: &dyn Names) -> Result<Typed, Refusal> {
    match value {
        Value::Null => Ok(Typed { expr: Expr::NULL, ty: Type::Unknown }),
        Value::Boolean(value) => {
            Ok(Typed { expr: Expr::Literal(Some([(*value).into()].into())), ty: BOOL })
        }
        Value::SingleQuotedString(text) | Value::EscapedStringLiteral(text) => {
            Ok(Typed { expr: Expr::Literal(Some(text.as_bytes().into())), ty: Type::Unknown })
        }
        Value::Number(digits, _) => number(ast, digits, names),
        _ => refuse(ast, "this literal is not known here"),
    }
}

/// A number without quotes: the first type that holds it.
fn number(ast: &Ast, digits: &str, names: &dyn Names) -> Result<Typed, Refusal> {
    let of = |scalar: Scalar, bytes: &[u8]| {
        Ok(Typed { expr: Expr::Literal(Some(bytes.into())), ty: Type::Scalar(scalar) })
    };
    if let Ok(value) = digits.parse::<i32>() {
        return of(Scalar::Int4, &value.to_be_bytes());
    }
    if let Ok(value) = digits.parse::<i64>() {
        return of(Scalar::Int8, &value.to_be_bytes());
    }
    match names.literal(Type::Scalar(Scalar::Numeric), digits) {
        Some(bytes) => of(Scalar::Numeric, &bytes),
        None => refuse(ast, "this number is not read here"),
    }
}
