//! One SELECT of a stream: its primary table, its columns, its variants. Source:
//! `sync-rules.md` 10.2, 4.5.

use super::super::classic::withheld_in_star;
use super::super::data::{DataQuery, OutputItem, StarRule};
use super::super::load::Loader;
use super::super::names::{Leaf, Name, Names, also, both, equals, lower, warn_folded};
use super::conjunct::{Home, conjuncts};
use super::merge::Filled;
use super::predicate::Pred;
use super::scope::{Cte, Scope, Source};
use super::variant;
use crate::expr::Expr;
use crate::report::{Origin, Problem, code};
use crate::routines::Dialect;
use crate::sql::ast::{AstKind, Ident, Item, Select};
use crate::sql::{Place, parse};
use crate::value::SqlValue;

/// What the stream says about all its queries.
#[derive(Clone, Copy)]
pub struct Settings {
    pub dialect: Dialect,
    pub accept: bool,
    pub auto_subscribe: bool,
}

/// The result of one query.
pub struct Compiled {
    /// Numbers of the common table expressions that it used.
    pub used: Vec<usize>,
    /// Its variants, or why it has none.
    pub variants: Result<Vec<Filled>, Problem>,
}

/// Compiles one query. Indexes that it needs are added to the configuration.
pub fn compile(
    text: &str,
    settings: Settings,
    ctes: &[Cte],
    loader: &mut Loader<'_, '_>,
    origin: Origin<'_>,
) -> Compiled {
    // The catalog outlives the loader's borrow; only the list of expressions is borrowed here.
    let mut scope = Scope::new(text, settings.dialect, loader, ctes);
    let variants = select(text, settings, &mut scope, loader);
    for warning in std::mem::take(&mut scope.warnings) {
        loader.findings.problem(warning, origin);
    }
    Compiled { used: scope.used, variants }
}

fn select(
    text: &str,
    settings: Settings,
    scope: &mut Scope<'_>,
    loader: &mut Loader<'_, '_>,
) -> Result<Vec<Filled>, Problem> {
    let select = parse::statement(text)?;
    if select.from.is_empty() {
        let message = "Must have a result column selecting from a table";
        return Err(Problem::error(code::STATEMENT, message, select.place));
    }
    let joins = scope.open(&select, true)?;
    let filter = match &select.filter {
        Some(filter) => scope.predicate(filter).map(|filter| Pred::And(vec![joins, filter])),
        None => Ok(joins),
    };
    let columns = Columns::read(&select, scope);
    let (filter, columns) = both(scope, filter, columns)?;
    let Some(primary) = columns.primary else {
        let message = "Must have a result column selecting from a table";
        return Err(Problem::error(code::STATEMENT, message, columns.place));
    };
    let Source::Table { pattern, output, .. } = &scope.sources[primary] else {
        let message = "Sync streams can only select from actual tables";
        return Err(Problem::error(code::STATEMENT, message, columns.place));
    };
    let (pattern, output) = (pattern.clone(), output.clone());
    columns.check_id(settings.dialect, &pattern, scope)?;
    if columns.has_star && !columns.has_id {
        scope.warnings.extend(withheld_in_star(scope.catalog, &pattern, columns.place));
    }
    warn_alias(&select, settings.dialect, output.as_deref(), scope);

    let place = select.filter.as_ref().map_or(select.place, |f| f.place);
    let conjuncts = conjuncts(filter.disjunction(place)?, &scope.sources)?;
    let mut connected: Vec<Home> = vec![Home::Table(primary)];
    for conjunct in &conjuncts {
        connected.extend(conjunct.singles.iter().map(|(home, _)| *home));
        for equality in &conjunct.equalities {
            connected.extend([equality.left.0, equality.right.0]);
        }
    }
    for (number, source) in scope.sources.iter().enumerate() {
        if let Source::Table { pattern, place, .. } = source
            && !connected.contains(&Home::Table(number))
        {
            let message = format!("{pattern} is compared with nothing here and has no effect");
            scope.warnings.push(Problem::warning(code::IGNORED, message, *place));
        }
    }
    let equals = equals(scope);
    let mut variants = Vec::new();
    for conjunct in &conjuncts {
        let variant = variant::compile(conjunct, primary, &scope.sources, equals, loader);
        if let Some(place) = variant.danger
            && !settings.accept
        {
            scope.warnings.push(
                Problem::warning(
                    code::DANGEROUS,
                    "Clients can send any value for this unauthenticated parameter, so this is \
                     unsuitable for authorization. Consider further constraining this with an \
                     authenticated parameter.",
                    place,
                )
                .mend("compare with auth.user_id() or auth.parameter(…) as well, or set accept_potentially_dangerous_queries: true"),
            );
        }
        let query = DataQuery {
            table: pattern.clone(),
            output: output.clone(),
            items: columns.items.clone(),
            star: match settings.dialect {
                Dialect::Streams => StarRule::Streams,
                _ => StarRule::Classic,
            },
            plans: Vec::new(),
        };
        variants.push(Filled { query, variant });
    }
    if settings.dialect == Dialect::Alpha && settings.auto_subscribe {
        warn_subscription(&conjuncts, scope);
    }
    Ok(variants)
}

/// An alias is the table's name on the client. Written for a join, that is rarely meant.
fn warn_alias(select: &Select, dialect: Dialect, output: Option<&str>, scope: &mut Scope<'_>) {
    let mut aliases = select.from.iter().filter_map(|from| from.alias.as_ref());
    let alias = aliases.find(|alias| !alias.quoted && Some(alias.name.as_str()) == output);
    if let Some(alias) = alias
        && select.from.len() > 1
        && dialect == Dialect::Streams
    {
        let message = format!(
            "The source row is synced under its alias: the table on clients is \"{}\"",
            alias.name
        );
        let mend = "quote the alias if that is meant, or leave it away";
        scope.warnings.push(Problem::warning(code::COLUMN_NAME, message, alias.place).mend(mend));
    }
}

/// In edition 2 a stream that everyone is subscribed to gets no subscription parameters.
fn warn_subscription(conjuncts: &[super::conjunct::Conjunct], scope: &mut Scope<'_>) {
    use super::super::request::Origin::Subscription;
    let mut found = None;
    for conjunct in conjuncts {
        let trees = conjunct.singles.iter().map(|(_, tree)| tree);
        let sides = conjunct.equalities.iter().flat_map(|e| [&e.left.1, &e.right.1]);
        for tree in trees.chain(sides) {
            tree.visit(&mut |leaf: &Leaf| {
                if matches!(&leaf.what, Name::Request(name) if name.origin == Subscription) {
                    found = found.or(Some(leaf.place));
                }
            });
        }
    }
    if let Some(place) = found {
        let message = "subscription parameters are NULL for clients that are subscribed by default";
        scope.warnings.push(Problem::warning(code::DANGEROUS, message, place));
    }
}

/// The columns of the SELECT.
struct Columns {
    items: Vec<OutputItem>,
    primary: Option<usize>,
    has_id: bool,
    has_star: bool,
    place: Place,
}

impl Columns {
    fn read(select: &Select, scope: &mut Scope<'_>) -> Result<Columns, Problem> {
        let place = match (select.items.first(), select.items.last()) {
            (Some(first), Some(last)) => first.value.place.to(last.value.place),
            _ => select.place,
        };
        let mut columns =
            Columns { items: Vec::new(), primary: None, has_id: false, has_star: false, place };
        let mut refused = None;
        for item in &select.items {
            let read = match &item.value.kind {
                AstKind::Star(qualifier) => columns.star(qualifier.as_ref(), item, scope),
                _ => columns.column(item, scope),
            };
            read.unwrap_or_else(|problem| also(scope, &mut refused, problem));
        }
        refused.map_or(Ok(columns), Err)
    }

    fn star(
        &mut self,
        qualifier: Option<&Ident>,
        item: &Item,
        scope: &mut Scope<'_>,
    ) -> Result<(), Problem> {
        let place = item.value.place;
        if let Some(qualifier) = qualifier
            && !scope.has(&qualifier.name)
        {
            let message =
                format!("Table '{}' has not been added in a FROM clause here.", qualifier.name);
            return Err(Problem::error(code::UNDEFINED, message, qualifier.place));
        }
        let sources = scope.star(qualifier);
        for source in &sources {
            self.select_from(*source, place, scope).map_err(|problem| {
                let mut tables = sources.iter().filter_map(|s| scope.sources[*s].client_name());
                match tables.next() {
                    Some(name) if qualifier.is_none() => {
                        problem.mend(format!("name the table before *: {name}.*"))
                    }
                    _ => problem,
                }
            })?;
        }
        let overwritten = scope.dialect == Dialect::Streams
            && self.items.iter().any(|item| {
                matches!(item, OutputItem::Named(name, value)
                    if !matches!(value, Expr::Ref(super::super::plan::RowName::Column(c)) if c == name))
            });
        if overwritten {
            let message = "A '*' column after aliased columns may give unexpected results: a \
                           column of the table replaces an earlier one of the same name.";
            scope
                .warnings
                .push(Problem::warning(code::COLUMN_NAME, message, place).mend("write * first"));
        }
        self.has_star = true;
        self.items.push(OutputItem::Star);
        Ok(())
    }

    fn column(&mut self, item: &Item, scope: &mut Scope<'_>) -> Result<(), Problem> {
        let place = item.value.place;
        let tree = lower(&item.value, scope)?;
        let mut problem = None;
        tree.visit(&mut |leaf: &Leaf| {
            if problem.is_some() {
                return;
            }
            problem = match &leaf.what {
                Name::Request(_) | Name::Bucket(_) => Some(Problem::error(
                    code::MIXED,
                    "This attempts to sync a connection parameter. Only values from the source \
                     database can be synced.",
                    leaf.place,
                )),
                Name::Each(..) => Some(Problem::error(
                    code::STATEMENT,
                    "Sync streams can only select from actual tables",
                    leaf.place,
                )),
                Name::Column(source, _) | Name::Table(source, _) => {
                    self.select_from(*source, leaf.place, scope).err()
                }
            };
        });
        if let Some(problem) = problem {
            return Err(problem);
        }
        if scope.dialect == Dialect::Streams && uses_in(&item.value) {
            let message = "IN is only supported in WHERE clauses";
            return Err(Problem::error(code::EXPRESSION, message, place));
        }
        let name = match (&item.alias, &item.value.kind) {
            (Some(alias), _) => {
                warn_folded(scope, alias);
                alias.name.clone()
            }
            (None, AstKind::Name(parts)) => {
                parts.last().map(|p| p.name.clone()).unwrap_or_default()
            }
            (None, _) if scope.dialect == Dialect::Alpha => {
                return Err(Problem::error(code::COLUMN_NAME, "alias is required", place));
            }
            (None, _) => {
                let message = "The name of this column is unspecified, consider adding an alias.";
                scope.warnings.push(Problem::warning(code::COLUMN_NAME, message, place));
                place.of(scope.text()).to_string()
            }
        };
        self.has_id |= name == "id";
        let row = tree.map(&mut |leaf| match leaf.what.row() {
            Some(name) => Expr::Ref(name),
            None => Expr::Literal(SqlValue::Null),
        });
        self.items.push(OutputItem::Named(name, row));
        Ok(())
    }

    /// Notes that a column comes from a source. All must come from one table.
    fn select_from(
        &mut self,
        source: usize,
        place: Place,
        scope: &Scope<'_>,
    ) -> Result<(), Problem> {
        let Source::Table { pattern, .. } = &scope.sources[source] else {
            let message = "Sync streams can only select from actual tables";
            return Err(Problem::error(code::STATEMENT, message, place));
        };
        match self.primary {
            None => self.primary = Some(source),
            Some(primary) if primary == source => {}
            Some(primary) => {
                let name = match &scope.sources[primary] {
                    Source::Table { output, pattern, .. } => {
                        output.clone().unwrap_or_else(|| pattern.to_string())
                    }
                    Source::Each(_) => pattern.to_string(),
                };
                let message = format!(
                    "Sync streams can only select from a single table, and this one already \
                     selects from '{name}'."
                );
                return Err(Problem::error(code::STATEMENT, message, place));
            }
        }
        Ok(())
    }

    /// Every row needs an `id`. Edition 3 only warns, as deployed configurations may lack it.
    fn check_id(
        &self,
        dialect: Dialect,
        pattern: &hw_types::TablePattern,
        scope: &mut Scope<'_>,
    ) -> Result<(), Problem> {
        let missing = if self.has_star {
            scope.catalog.tables(pattern).is_some_and(|tables| {
                tables.iter().any(|t| t.columns.iter().all(|c| c.name != "id"))
            })
        } else {
            true
        };
        if self.has_id || !missing {
            return Ok(());
        }
        let message = "Query must return an \"id\" column";
        let mend = "select the primary key AS id; without it all rows are one row on the client";
        if dialect == Dialect::Alpha && !self.has_star {
            return Err(Problem::error(code::ID, message, self.place).mend(mend));
        }
        scope.warnings.push(Problem::warning(code::ID, message, self.place).mend(mend));
        Ok(())
    }
}

/// Whether `x IN y` with a scalar y is in an expression.
fn uses_in(ast: &crate::sql::ast::Ast) -> bool {
    use crate::sql::ast::ListKind;
    match &ast.kind {
        AstKind::In { haystack, negated: false, .. } => {
            !matches!(haystack.kind, AstKind::List(ListKind::Array | ListKind::Row, _))
        }
        AstKind::Unary(_, inner) | AstKind::Cast { value: inner, .. } => uses_in(inner),
        AstKind::Binary(_, left, right) => uses_in(left) || uses_in(right),
        AstKind::Call { args, .. } => args.iter().any(uses_in),
        _ => false,
    }
}
