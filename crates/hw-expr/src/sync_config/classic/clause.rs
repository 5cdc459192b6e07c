//! The clause algebra: WHERE as a set of parameters plus the ways in which a row satisfies it.
//!
//! Every sub-expression is a constant, an expression over the row, an expression over
//! parameters, or a *match*: parameters together with alternatives that each say which values
//! of the row they must equal. Source: `sync-rules.md` 9.3.

use super::super::names::{self, Leaf, Name, Tree, lower};
use super::super::plan::{EachPart, RowName, RowPlan};
use super::scope::{Mode, Scope};
use crate::expr::Expr;
use crate::report::{Problem, code};
use crate::sql::Place;
use crate::sql::ast::{Ast, AstKind, ListKind};
use std::collections::BTreeSet;

/// Most alternatives of one WHERE.
const MAX_ALTERNATIVES: usize = 100;

/// What an expression is about.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Kind {
    /// Nothing.
    Constant,
    /// The row.
    Row,
    /// Parameters: of the bucket or of the request.
    Parameter,
    /// Both; the place is where the second kind appears.
    Mixed(Place),
}

/// What an expression is about.
pub fn kind(tree: &Tree) -> Kind {
    let mut kind = Kind::Constant;
    tree.visit(&mut |leaf: &Leaf| {
        let here = match leaf.what {
            Name::Request(_) | Name::Bucket(_) => Kind::Parameter,
            _ => Kind::Row,
        };
        kind = match kind {
            Kind::Constant => here,
            Kind::Mixed(_) => kind,
            same if same == here => same,
            _ => Kind::Mixed(leaf.place),
        };
    });
    kind
}

/// A parameter that WHERE is matched with.
#[derive(Clone, Debug)]
pub struct Parameter {
    /// Its expression over the bucket or the request.
    pub tree: Tree,
    /// What of its value is matched.
    pub form: Form,
    key: String,
}

/// What of a parameter's value is matched.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// The value.
    Value,
    /// Each element of the JSON array.
    Elements,
    /// Its truth, 1 or 0.
    Truth,
}

/// A clause.
pub enum Clause {
    /// An expression over constants, the row, or parameters.
    Tree(Tree, Kind),
    /// Parameters and the ways to satisfy them.
    Match(Match),
}

/// Parameters and the ways to satisfy them.
#[derive(Clone, Debug)]
pub struct Match {
    parameters: BTreeSet<usize>,
    alternatives: Vec<Alternative>,
    unbounded: bool,
}

#[derive(Clone, Debug, Default)]
struct Alternative {
    each: Vec<Expr<RowName>>,
    filters: Vec<Expr<RowName>>,
    keys: Vec<(usize, Expr<RowName>)>,
}

/// Compiles the WHERE of one query.
pub struct Clauses<'s, 'a> {
    pub scope: &'s mut Scope<'a>,
    /// The parameters so far, in order of appearance.
    pub parameters: Vec<Parameter>,
}

impl Clauses<'_, '_> {
    /// The whole WHERE: its plans, with keys in the order of [`Clauses::parameters`], and the
    /// parameters that they cover.
    pub fn filter(
        &mut self,
        filter: Option<&Ast>,
    ) -> Result<(Vec<Alternatives>, BTreeSet<usize>), Problem> {
        let Some(filter) = filter else {
            return Ok((vec![Alternatives(Alternative::default())], BTreeSet::new()));
        };
        let clause = self.clause(filter)?;
        let matched = self.match_of(clause);
        Ok((matched.alternatives.into_iter().map(Alternatives).collect(), matched.parameters))
    }

    /// A match from any clause: an expression over the row filters, one over parameters is
    /// matched for its truth.
    fn match_of(&mut self, clause: Clause) -> Match {
        let (tree, kind) = match clause {
            Clause::Match(matched) => return matched,
            Clause::Tree(tree, kind) => (tree, kind),
        };
        if kind == Kind::Parameter {
            let parameter = self.parameter(tree, Form::Truth);
            return Match::key(parameter, Expr::boolean(true));
        }
        Match {
            parameters: BTreeSet::new(),
            alternatives: vec![Alternative { filters: vec![row(&tree)], ..Alternative::default() }],
            unbounded: false,
        }
    }

    fn parameter(&mut self, tree: Tree, form: Form) -> usize {
        let key = format!("{form:?} {}", tree.canonical());
        match self.parameters.iter().position(|p| p.key == key) {
            Some(index) => index,
            None => {
                self.parameters.push(Parameter { tree, form, key });
                self.parameters.len() - 1
            }
        }
    }

    fn sides(&mut self, left: &Ast, right: &Ast) -> Result<(Clause, Clause), Problem> {
        let (left, right) = (self.clause(left), self.clause(right));
        names::both(self.scope, left, right)
    }

    fn clause(&mut self, ast: &Ast) -> Result<Clause, Problem> {
        let refuse = |message: &str, place| Err(Problem::error(code::MIXED, message, place));
        let data = self.scope.mode == Mode::Data;
        match &ast.kind {
            AstKind::Binary("AND", left, right) => {
                let (left, right) = self.sides(left, right)?;
                if let Some(tree) = both(&left, &right, Expr::And) {
                    return Ok(tree);
                }
                let (left, right) = (self.match_of(left), self.match_of(right));
                if left.unbounded && right.unbounded {
                    return refuse(
                        "Cannot have multiple IN expressions on bucket parameters",
                        ast.place,
                    );
                }
                left.and(right, ast.place).map(Clause::Match)
            }
            AstKind::Binary("OR", left, right) => {
                let (left, right) = self.sides(left, right)?;
                if let Some(tree) = both(&left, &right, Expr::Or) {
                    return Ok(tree);
                }
                let (left, right) = (self.match_of(left), self.match_of(right));
                if left.parameters != right.parameters {
                    return refuse(
                        "Left and right sides of OR must use the same parameters, or split into \
                         separate queries.",
                        ast.place,
                    );
                }
                left.or(right, ast.place).map(Clause::Match)
            }
            AstKind::Binary("=", left, right) => {
                let (left, left_kind) = self.operand(left)?;
                let (right, right_kind) = self.operand(right)?;
                let (value, parameter) = match (left_kind, right_kind) {
                    (Kind::Row | Kind::Constant, Kind::Parameter) => (left, right),
                    (Kind::Parameter, Kind::Row | Kind::Constant) => (right, left),
                    (Kind::Parameter, Kind::Parameter) if data => {
                        return refuse(
                            "Cannot have bucket parameters on both sides of = operator",
                            ast.place,
                        );
                    }
                    _ => return self.plain(ast),
                };
                // Request against a constant stays an expression over the request.
                if !data && kind(&value) == Kind::Constant {
                    return self.plain(ast);
                }
                let parameter = self.parameter(parameter, Form::Value);
                Ok(Clause::Match(Match::key(parameter, row(&value))))
            }
            AstKind::In { needle, haystack, negated: false }
                if !matches!(
                    haystack.kind,
                    AstKind::Subquery(_)
                        | AstKind::List(ListKind::Bare | ListKind::Array | ListKind::Row, _)
                ) =>
            {
                let (needle, needle_kind) = self.operand(needle)?;
                let (list, list_kind) = self.operand(haystack)?;
                match (needle_kind, list_kind) {
                    (Kind::Parameter, Kind::Row | Kind::Constant)
                        if data || list_kind == Kind::Row =>
                    {
                        let parameter = self.parameter(needle, Form::Value);
                        let element = Expr::Ref(RowName::Each(0, EachPart::Value));
                        let mut matched = Match::key(parameter, element);
                        matched.alternatives[0].each.push(row(&list));
                        matched.unbounded = true;
                        Ok(Clause::Match(matched))
                    }
                    (Kind::Row, Kind::Parameter) if data => refuse(
                        "Cannot use bucket parameters on the right side of IN operators",
                        ast.place,
                    ),
                    (Kind::Row, Kind::Parameter) => {
                        let parameter = self.parameter(list, Form::Elements);
                        Ok(Clause::Match(Match::key(parameter, row(&needle))))
                    }
                    _ => self.plain(ast),
                }
            }
            _ => self.plain(ast),
        }
    }

    /// A side of `=` or IN.
    fn operand(&mut self, ast: &Ast) -> Result<(Tree, Kind), Problem> {
        match self.plain(ast)? {
            Clause::Tree(tree, kind) => Ok((tree, kind)),
            Clause::Match(_) => {
                let message = "Parameter match clauses cannot be used here";
                Err(Problem::error(code::MIXED, message, ast.place))
            }
        }
    }

    /// An expression that is about one thing.
    fn plain(&mut self, ast: &Ast) -> Result<Clause, Problem> {
        let tree = lower(ast, self.scope)?;
        let kind = check(&tree, ast, self.scope.mode)?;
        Ok(Clause::Tree(tree, kind))
    }
}

/// Refuses expressions that combine rows and parameters, or that compute with `bucket.x`.
pub fn check(tree: &Tree, ast: &Ast, mode: Mode) -> Result<Kind, Problem> {
    let kind = kind(tree);
    if let Kind::Mixed(place) = kind {
        let not = matches!(ast.kind, AstKind::Unary("NOT", _));
        return Err(if not {
            let message = "Parameter match clauses cannot be used here";
            Problem::error(code::MIXED, message, ast.place)
        } else {
            let message = "Cannot use table values and parameters in the same clauses";
            Problem::error(code::MIXED, message, place)
                .mend("only = and IN can compare a column with a parameter")
        });
    }
    if mode == Mode::Data && kind == Kind::Parameter && !matches!(tree, Expr::Ref(_)) {
        let message = "Cannot use bucket parameters in expressions";
        return Err(Problem::error(code::MIXED, message, ast.place));
    }
    Ok(kind)
}

/// Two expressions about the same thing stay one expression.
fn both(
    left: &Clause,
    right: &Clause,
    join: impl Fn(Box<Tree>, Box<Tree>) -> Tree,
) -> Option<Clause> {
    let (Clause::Tree(l, left), Clause::Tree(r, right)) = (left, right) else { return None };
    let kind = match (*left, *right) {
        (Kind::Constant, other) | (other, Kind::Constant) => other,
        (a, b) if a == b => a,
        _ => return None,
    };
    // In a data query `bucket.a AND bucket.b` is two conditions, not an expression.
    let mut bucket = false;
    l.visit(&mut |leaf| bucket |= matches!(leaf.what, Name::Bucket(_)));
    r.visit(&mut |leaf| bucket |= matches!(leaf.what, Name::Bucket(_)));
    (!bucket).then(|| Clause::Tree(join(Box::new(l.clone()), Box::new(r.clone())), kind))
}

/// As an expression over the row. Only called for expressions that have no other references.
fn row(tree: &Tree) -> Expr<RowName> {
    tree.map(&mut |leaf: &Leaf| match leaf.what.row() {
        Some(name) => Expr::Ref(name),
        None => Expr::Literal(crate::value::SqlValue::Null),
    })
}

impl Match {
    fn key(parameter: usize, value: Expr<RowName>) -> Match {
        Match {
            parameters: BTreeSet::from([parameter]),
            alternatives: vec![Alternative {
                keys: vec![(parameter, value)],
                ..Alternative::default()
            }],
            unbounded: false,
        }
    }

    fn and(self, other: Match, place: Place) -> Result<Match, Problem> {
        let mut alternatives = Vec::new();
        for left in &self.alternatives {
            for right in &other.alternatives {
                let shift = left.each.len();
                let moved = |e: &Expr<RowName>| {
                    e.map(&mut |name| {
                        Expr::Ref(match name {
                            RowName::Each(index, part) => RowName::Each(index + shift, *part),
                            other => other.clone(),
                        })
                    })
                };
                let mut joined = left.clone();
                joined.each.extend(right.each.iter().map(moved));
                joined.filters.extend(right.filters.iter().map(moved));
                joined.keys.extend(right.keys.iter().map(|(p, e)| (*p, moved(e))));
                alternatives.push(joined);
            }
        }
        Match {
            parameters: self.parameters.union(&other.parameters).copied().collect(),
            alternatives,
            unbounded: self.unbounded || other.unbounded,
        }
        .bounded(place)
    }

    fn or(mut self, other: Match, place: Place) -> Result<Match, Problem> {
        self.alternatives.extend(other.alternatives);
        self.unbounded |= other.unbounded;
        self.bounded(place)
    }

    fn bounded(self, place: Place) -> Result<Match, Problem> {
        if self.alternatives.len() > MAX_ALTERNATIVES {
            let message = format!("this condition has more than {MAX_ALTERNATIVES} alternatives");
            return Err(Problem::error(code::TOO_MANY, message, place));
        }
        Ok(self)
    }
}

/// One way to satisfy WHERE.
pub struct Alternatives(Alternative);

impl Alternatives {
    /// As a plan whose keys are the given parameters in that order. A parameter that WHERE
    /// names twice must have one value (17.1).
    pub fn plan(&self, order: &[usize], outputs: Vec<Expr<RowName>>) -> RowPlan {
        RowPlan {
            each: self.0.each.clone(),
            filters: self.0.filters.clone(),
            keys: order
                .iter()
                .map(|wanted| {
                    let same = self.0.keys.iter().filter(|(p, _)| p == wanted);
                    same.map(|(_, e)| e.clone()).collect()
                })
                .collect(),
            outputs,
        }
    }
}
