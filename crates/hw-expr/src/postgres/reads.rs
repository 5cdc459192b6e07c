//! Tables that a condition reads beside its own: sub-selects, and the policies under which the role sees
//! what they read.

use super::bind::{Binder, Scope, both, every, folded, negated_if, qualified, refuse, unseen};
use super::operators::{BOOL, Operation, describe};
use super::select::{Select, Source};
use super::tree::{Expr, Typed};
use super::types::Type;
use super::{Refusal, Visible};
use sqlparser::ast::{
    Expr as Ast, GroupByExpr, JoinConstraint, JoinOperator, LimitClause, Query,
    Select as SelectAst, SelectItem, SetExpr, TableFactor, TableWithJoins, Value,
};
use std::rc::Rc;

/// How many tables one condition may read, those of policies within policies included.
const MAX_TABLES: usize = 64;

impl Binder<'_> {
    /// What the role as which this is read may see of the innermost table.
    pub(super) fn visible(&mut self) -> Result<Expr, Refusal> {
        let table = match self.scopes.last() {
            Some(scope) => scope.table.clone(),
            None => return Ok(Expr::FALSE),
        };
        let Visible::Where { permissive, restrictive } = &table.visible else {
            return Ok(Expr::TRUE);
        };
        let mine = (table.number, self.role.clone());
        if self.within.contains(&mine) {
            let (schema, name) = &table.name;
            return Err(Refusal {
                expression: format!("{schema}.{name}"),
                reason: "its policies read the table itself, which Postgres refuses as an infinite recursion".into(),
                fails: true,
            });
        }
        self.within.push(mine);
        // Policies name their own table only, and no parameters.
        let name = std::mem::replace(&mut self.innermost().name, table.name.1.clone());
        let reach = std::mem::replace(&mut self.reach, self.scopes.len() - 1);
        let parameters = std::mem::take(&mut self.parameters);
        let in_body = std::mem::replace(&mut self.in_body, false);
        let admits = every(permissive.iter().map(|text| self.text(text)));
        let restricts = every(restrictive.iter().map(|text| self.text(text)));
        self.in_body = in_body;
        self.parameters = parameters;
        self.reach = reach;
        self.innermost().name = name;
        self.within.pop();
        let (admits, restricts) = both(admits, restricts)?;
        let mut all = vec![Expr::Or(admits)];
        all.extend(restricts);
        Ok(Expr::And(all))
    }

    fn innermost(&mut self) -> &mut Scope {
        self.scopes.last_mut().expect("a table is being read")
    }

    /// A sub-select in the place of a value.
    pub(super) fn only(&mut self, ast: &Ast, query: &Query) -> Result<Typed, Refusal> {
        if let Some(inner) = bare(query) {
            return self.expression(inner);
        }
        let (select, ty) = self.select(ast, query, true)?;
        Ok(Typed { expr: Expr::Only(Box::new(select)), ty })
    }

    /// `left IN (sub-select)`.
    pub(super) fn contained(
        &mut self,
        ast: &Ast,
        left: Typed,
        query: &Query,
        negated: bool,
    ) -> Result<Typed, Refusal> {
        let (mut select, ty) = self.select(ast, query, true)?;
        let types = [left.ty, ty];
        let output = Typed { expr: select.output, ty };
        match self.matched("=", left, output) {
            Some((left, output, Operation::Compare(comparison, _), _)) => {
                select.output = output.expr;
                let (left, compare) = (Box::new(left.expr), comparison.compare());
                let contained = Expr::In(left, compare, Box::new(select));
                Ok(Typed { expr: negated_if(negated, contained), ty: BOOL })
            }
            _ => refuse(ast, format!("{} is not known here", describe("=", &types))),
        }
    }

    /// A sub-select, and the type of what it gives.
    pub(super) fn select(
        &mut self,
        ast: &Ast,
        query: &Query,
        has_output: bool,
    ) -> Result<(Select, Type), Refusal> {
        if has_output
            && let Some(Ast::Function(call)) = bare(query)
            && let Some(rows) = self.rows_of(ast, call)
        {
            return rows;
        }
        // Whether there is a row does not depend on how many of them are wanted, if one is.
        let one_is_enough = !has_output && query.limit_clause.as_ref().is_some_and(wants_some);
        let unlimited = one_is_enough.then(|| Query { limit_clause: None, ..query.clone() });
        let Some(select) = plain_select(unlimited.as_ref().unwrap_or(query)) else {
            return refuse(ast, "this form of sub-select is not known here");
        };
        let level = self.scopes.last().map_or(0, |scope| scope.level) + 1;
        let before = self.scopes.len();
        let read = self.parts_of_select(ast, select, level, has_output);
        self.scopes.truncate(before);
        read
    }

    fn parts_of_select(
        &mut self,
        ast: &Ast,
        select: &SelectAst,
        level: usize,
        has_output: bool,
    ) -> Result<(Select, Type), Refusal> {
        let around = self.scopes.len();
        let (mut tables, mut conditions) = (Vec::new(), Vec::new());
        every(
            select
                .from
                .iter()
                .map(|from| self.joined(ast, from, level, &mut tables, &mut conditions)),
        )?;
        conditions.extend(&select.selection);
        let condition = Expr::And(every(conditions.into_iter().map(|one| self.condition(one)))?);
        let output = match &select.projection[..] {
            // What EXISTS selects is never looked at, unless it makes rows, or one of many.
            plain if !has_output && plain.iter().all(is_plain_item) => {
                Typed { expr: Expr::TRUE, ty: BOOL }
            }
            [item] => match value_of(item) {
                Some(expr) => self.expression(expr)?,
                None => return refuse(ast, "a sub-select here gives one column"),
            },
            _ => return refuse(ast, "a sub-select here gives one column"),
        };
        let output = match output.ty {
            Type::Unknown => match self.or_text(output) {
                Some(output) => output,
                None => return refuse(ast, "a sub-select here gives one column"),
            },
            _ => output,
        };
        Ok((Select { around, tables, condition, output: output.expr }, output.ty))
    }

    /// The tables of a join, and what they are joined by.
    fn joined<'q>(
        &mut self,
        ast: &Ast,
        from: &'q TableWithJoins,
        level: usize,
        tables: &mut Vec<Source>,
        conditions: &mut Vec<&'q Ast>,
    ) -> Result<(), Refusal> {
        let mut one = |this: &mut Self, factor: &'q TableFactor, conditions: &mut Vec<&'q Ast>| {
            match factor {
                TableFactor::NestedJoin { table_with_joins, alias: None } => {
                    this.joined(ast, table_with_joins, level, tables, conditions)
                }
                factor => {
                    tables.push(this.table(ast, factor, level)?);
                    Ok(())
                }
            }
        };
        one(self, &from.relation, conditions)?;
        for join in &from.joins {
            one(self, &join.relation, conditions)?;
            match &join.join_operator {
                JoinOperator::Join(JoinConstraint::On(on))
                | JoinOperator::Inner(JoinConstraint::On(on)) => conditions.push(on),
                JoinOperator::CrossJoin(JoinConstraint::None) => {}
                _ => return refuse(ast, "this form of join is not known here"),
            }
        }
        Ok(())
    }

    /// A table of a FROM, which can be named from now on, and what may be seen of it.
    fn table(&mut self, ast: &Ast, factor: &TableFactor, level: usize) -> Result<Source, Refusal> {
        let TableFactor::Table { name, alias, args: None, version: None, sample: None, .. } =
            factor
        else {
            return refuse(ast, "it reads something else than a table");
        };
        self.tables += 1;
        if self.tables > MAX_TABLES {
            return refuse(ast, format!("it reads more than {MAX_TABLES} tables"));
        }
        let Some((schema, name)) = qualified(name) else {
            return refuse(ast, format!("{name} names no table"));
        };
        let table = match self.names.table(&self.lookup(schema), &name) {
            Ok(table) => table,
            Err(reason) => return unseen(ast, reason),
        };
        let name = match alias {
            None => table.name.1.clone(),
            Some(alias) if alias.columns.is_empty() => folded(&alias.name),
            Some(_) => return refuse(ast, "this form of alias is not known here"),
        };
        let number = table.number;
        let columns = table.columns.iter().map(|(_, ty)| *ty).collect();
        self.scopes.push(Scope { table: Rc::new(table), name, level });
        Ok(Source { number, columns, visible: self.visible()? })
    }
}

/// The SELECT of a query that has nothing else, and that neither groups nor orders.
fn plain_select(query: &Query) -> Option<&SelectAst> {
    let Query { with: None, body, order_by: None, limit_clause: None, fetch: None, locks, .. } =
        query
    else {
        return None;
    };
    let SetExpr::Select(select) = &**body else { return None };
    let is_grouped = !matches!(&select.group_by, GroupByExpr::Expressions(by, with) if by.is_empty() && with.is_empty());
    let is_plain =
        locks.is_empty() && !is_grouped && select.having.is_none() && select.distinct.is_none();
    is_plain.then_some(&**select)
}

/// `LIMIT` and a number that is not zero.
fn wants_some(limit: &LimitClause) -> bool {
    let LimitClause::LimitOffset { limit: Some(Ast::Value(limit)), offset: None, limit_by } = limit
    else {
        return false;
    };
    let is_number = |digits: &str| digits.parse::<u32>().is_ok_and(|number| number > 0);
    limit_by.is_empty() && matches!(&limit.value, Value::Number(digits, _) if is_number(digits))
}

/// The one expression of a query that reads no table.
pub(super) fn bare(query: &Query) -> Option<&Ast> {
    let select = plain_select(query)?;
    let reads = !select.from.is_empty() || select.selection.is_some();
    match &select.projection[..] {
        [item] if !reads => value_of(item),
        _ => None,
    }
}

/// The expression of a column of a SELECT. (Behind one, `isnull` is an operator to Postgres, and an alias to
/// the parser.)
fn value_of(item: &SelectItem) -> Option<&Ast> {
    match item {
        SelectItem::UnnamedExpr(expr) => Some(expr),
        SelectItem::ExprWithAlias { expr, alias } => {
            let is_operator = matches!(folded(alias).as_str(), "isnull" | "notnull");
            (alias.quote_style.is_some() || !is_operator).then_some(expr)
        }
        _ => None,
    }
}

/// Whether it neither makes rows nor one row of all.
fn is_plain_item(item: &SelectItem) -> bool {
    match item {
        SelectItem::Wildcard(_) | SelectItem::QualifiedWildcard(..) => true,
        item => matches!(
            value_of(item),
            Some(Ast::Value(_) | Ast::Identifier(_) | Ast::CompoundIdentifier(_))
        ),
    }
}
