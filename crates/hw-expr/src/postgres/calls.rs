//! Calls: forms of the language that look like functions, functions of the table, settings of the session,
//! and helper functions of the database, in whose place stands what they compute.

use super::bind::{Binder, every, qualified, refuse, unseen, whole};
use super::operators::{BOOL, Operation, TEXT, function};
use super::select::Select;
use super::tree::{Expr, Typed};
use super::types::Type;
use super::{Helper, Refusal};
use sqlparser::ast::{
    Expr as Ast, Function, FunctionArg, FunctionArgExpr, FunctionArguments, Query,
};

/// How deep calls of functions are replaced within functions.
const MAX_CALLS: usize = 16;

impl Binder<'_> {
    pub(super) fn call(&mut self, ast: &Ast, call: &Function) -> Result<Typed, Refusal> {
        let (schema, name, arguments) = self.called(ast, call)?;
        if schema.as_deref().is_none_or(|schema| schema == "pg_catalog")
            && let Some(built_in) = self.built_in(ast, schema.is_some(), &name, &arguments)
        {
            return built_in;
        }
        self.helper(ast, schema, &name, arguments)
    }

    /// Schema and name of what is called, and its arguments.
    fn called(
        &mut self,
        ast: &Ast,
        call: &Function,
    ) -> Result<(Option<String>, String, Vec<Typed>), Refusal> {
        let plain = call.filter.is_none()
            && call.over.is_none()
            && call.null_treatment.is_none()
            && call.within_group.is_empty()
            && matches!(call.parameters, FunctionArguments::None);
        let mut arguments = Vec::new();
        match &call.args {
            FunctionArguments::None => {}
            FunctionArguments::List(list)
                if list.duplicate_treatment.is_none() && list.clauses.is_empty() =>
            {
                arguments = every(list.args.iter().map(|argument| match argument {
                    FunctionArg::Unnamed(FunctionArgExpr::Expr(argument)) => {
                        self.expression(argument)
                    }
                    _ => refuse(ast, "this form of call is not known here"),
                }))?;
            }
            _ => return refuse(ast, "this form of call is not known here"),
        }
        match qualified(&call.name).filter(|_| plain) {
            Some((schema, name)) => Ok((schema, name, arguments)),
            None => refuse(ast, "this form of call is not known here"),
        }
    }

    /// What is a form of the language, or a function of the table; `None` for any other name.
    fn built_in(
        &self,
        ast: &Ast,
        is_qualified: bool,
        name: &str,
        arguments: &[Typed],
    ) -> Option<Result<Typed, Refusal>> {
        let is_meant = || is_qualified || !self.is_shadowed(name);
        match (name, arguments) {
            ("current_user" | "current_role" | "user", []) => {
                Some(match self.role == self.names.role() {
                    true => Ok(Typed { expr: Expr::Role, ty: TEXT }),
                    false => {
                        refuse(ast, "within a SECURITY DEFINER function it is the function's owner")
                    }
                })
            }
            ("coalesce", [_, ..]) => Some(
                self.alike(ast, arguments.to_vec())
                    .map(|(all, ty)| Typed { expr: Expr::Coalesce(all), ty }),
            ),
            ("nullif", [left, right]) => {
                let found = self.matched("=", left.clone(), right.clone());
                Some(self.check_equality(ast).and_then(|()| match found {
                    Some((left, right, Operation::Compare(comparison, _), _)) => {
                        let (one, other) = (Box::new(left.expr), Box::new(right.expr));
                        let expr = Expr::NullIf(one, other, comparison.compare());
                        Ok(Typed { expr, ty: left.ty })
                    }
                    _ => refuse(ast, "these types are not compared here"),
                }))
            }
            ("current_setting", [setting, missing_ok @ ..])
                if missing_ok.len() < 2 && is_meant() =>
            {
                Some(self.setting(ast, setting, missing_ok.first()))
            }
            _ => {
                let arguments: Option<Vec<Typed>> =
                    arguments.iter().map(|one| self.or_text(one.clone())).collect();
                let arguments = arguments?;
                let types: Vec<Type> = arguments.iter().map(|one| one.ty).collect();
                let (operation, ty) = function(name, &types).filter(|_| is_meant())?;
                let arguments = arguments.into_iter().map(|one| one.expr).collect();
                Some(Ok(Typed { expr: Expr::Call(operation, arguments), ty }))
            }
        }
    }

    /// A setting of the session, if it is one of those that say who asks.
    fn setting(
        &self,
        ast: &Ast,
        name: &Typed,
        missing_ok: Option<&Typed>,
    ) -> Result<Typed, Refusal> {
        let known = match &name.expr {
            Expr::Literal(Some(text)) => {
                let text = String::from_utf8_lossy(text).to_ascii_lowercase();
                text.starts_with("request.") || text.starts_with("rls.")
            }
            _ => false,
        };
        if !known {
            return refuse(ast, "only the settings request.* and rls.* are known here");
        }
        let missing_ok = match missing_ok {
            None => Some(Expr::Literal(Some([0].into()))),
            Some(given) => self.coerced(given.clone(), BOOL).map(|given| given.expr),
        };
        match (self.or_text(name.clone()), missing_ok) {
            (Some(name), Some(missing_ok)) => Ok(Typed {
                expr: Expr::Setting(Box::new(name.expr), Box::new(missing_ok)),
                ty: TEXT,
            }),
            _ => refuse(ast, "this form of call is not known here"),
        }
    }

    /// A function of the database: what its body computes, with the arguments in the places of its parameters.
    fn helper(
        &mut self,
        ast: &Ast,
        schema: Option<String>,
        name: &str,
        arguments: Vec<Typed>,
    ) -> Result<Typed, Refusal> {
        let function = self.function(ast, schema, name, &arguments)?;
        if function.returns_set {
            return refuse(ast, "what returns rows is known here behind IN (SELECT …) only");
        }
        let (computed, given) =
            self.inlined(ast, name, &function, arguments, |this, query| this.only(ast, query))?;
        let Some(computed) = self.coerced(computed, function.result) else {
            return refuse(ast, format!("its body is of another type than {}", function.result));
        };
        if !function.strict || given.is_empty() {
            return Ok(computed);
        }
        let whens =
            given.into_iter().map(|one| (Expr::IsNull(Box::new(one)), Expr::NULL)).collect();
        Ok(Typed { expr: Expr::Case(whens, Box::new(computed.expr)), ty: computed.ty })
    }

    /// The rows of a function of the database that stands alone in a SELECT: those of its body. `None`: it is
    /// none that returns rows.
    pub(super) fn rows_of(
        &mut self,
        ast: &Ast,
        call: &Function,
    ) -> Option<Result<(Select, Type), Refusal>> {
        let (schema, name, arguments) = self.called(ast, call).ok()?;
        let function = self.function(ast, schema, &name, &arguments).ok()?;
        if !function.returns_set {
            return None;
        }
        if function.strict && !arguments.is_empty() {
            return Some(refuse(ast, "for a NULL a STRICT function returns no rows"));
        }
        let read = |this: &mut Self, query: &Query| this.select(ast, query, true);
        Some(self.inlined(ast, &name, &function, arguments, read).and_then(
            |(rows, _)| match rows.1 == function.result {
                true => Ok(rows),
                false => {
                    refuse(ast, format!("its rows are of another type than {}", function.result))
                }
            },
        ))
    }

    fn function(
        &self,
        ast: &Ast,
        schema: Option<String>,
        name: &str,
        arguments: &[Typed],
    ) -> Result<Helper, Refusal> {
        let types: Vec<Type> = arguments.iter().map(|one| one.ty).collect();
        let found = self.names.function(&self.lookup(schema), name, &types);
        found.or_else(|reason| unseen(ast, reason))
    }

    /// Reads the body of a function.
    ///
    /// - Returns: what it is read as, and the arguments.
    fn inlined<T>(
        &mut self,
        ast: &Ast,
        name: &str,
        function: &Helper,
        arguments: Vec<Typed>,
        read: impl FnOnce(&mut Self, &Query) -> Result<T, Refusal>,
    ) -> Result<(T, Vec<Expr>), Refusal> {
        if self.calls >= MAX_CALLS {
            return refuse(ast, format!("functions call one another more than {MAX_CALLS} deep"));
        }
        let mut arguments = arguments;
        let left_out = function.parameters.len().saturating_sub(arguments.len());
        let defaults = function.defaults.len().saturating_sub(left_out);
        for text in function.defaults.iter().skip(defaults) {
            arguments.push(self.default_argument(text)?);
        }
        let mut parameters = Vec::with_capacity(arguments.len());
        for ((name, ty), argument) in function.parameters.iter().zip(arguments) {
            let Some(argument) = self.coerced(argument, *ty) else {
                return refuse(ast, format!("its argument is of another type than {ty}"));
            };
            parameters.push((name.clone(), argument));
        }
        if parameters.len() != function.parameters.len() {
            return refuse(ast, "it has other parameters");
        }
        let query = whole(&function.body, |parser| parser.parse_query())?;
        let given: Vec<Expr> =
            parameters.iter().map(|(_, argument)| argument.expr.clone()).collect();
        let outer = std::mem::replace(&mut self.parameters, parameters);
        let outer_function = std::mem::replace(&mut self.function, name.to_owned());
        let caller = self.role.clone();
        self.role = function.owner.clone().unwrap_or_else(|| caller.clone());
        // A body names what it reads itself.
        let reach = std::mem::replace(&mut self.reach, self.scopes.len());
        let outer_path = self.path.clone();
        self.path = function.path.clone().unwrap_or_else(|| outer_path.clone());
        let in_body = std::mem::replace(&mut self.in_body, true);
        self.calls += 1;
        let computed = read(self, &query);
        self.calls -= 1;
        self.in_body = in_body;
        self.path = outer_path;
        self.reach = reach;
        self.role = caller;
        self.parameters = outer;
        self.function = outer_function;
        let computed = computed
            .map_err(|inner| Refusal { reason: format!("in {ast}: {}", inner.reason), ..inner })?;
        Ok((computed, given))
    }

    /// The expression of an argument that is left out, as Postgres prints it: it names neither columns nor
    /// parameters, and its own names were resolved when the function was made.
    fn default_argument(&mut self, text: &str) -> Result<Typed, Refusal> {
        let ast = whole(text, |parser| parser.parse_expr())?;
        let parameters = std::mem::take(&mut self.parameters);
        let reach = std::mem::replace(&mut self.reach, self.scopes.len());
        let in_body = std::mem::replace(&mut self.in_body, false);
        // It may call the function that it is an argument of.
        self.calls += 1;
        let read = self.expression(&ast);
        self.calls -= 1;
        self.in_body = in_body;
        self.reach = reach;
        self.parameters = parameters;
        read
    }
}
