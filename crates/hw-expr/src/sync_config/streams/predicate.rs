//! WHERE of a stream as a tree of terms: memberships become joins, NOT moves inward, and what
//! remains is a disjunction of conjunctions.
//!
//! Source: `sync-rules.md` 10.3, steps 1 to 5.

use super::super::names::{Name, Tree, both, check_label, equals, leaf, negate};
use super::super::plan::EachPart;
use super::conjunct::homes;
use super::scope::{Scope, Source};
use crate::expr::Expr;
use crate::report::{Problem, code};
use crate::routines::{Dialect, fixed};
use crate::sql::Place;
use crate::sql::ast::{Ast, AstKind, ListKind};

/// Most conjunctions of one query.
const MAX_CONJUNCTIONS: usize = 100;

/// A condition.
#[derive(Clone, Debug)]
pub enum Pred {
    /// All hold; empty is true.
    And(Vec<Pred>),
    /// One holds.
    Or(Vec<Pred>),
    /// It does not hold.
    Not(Box<Pred>),
    /// There is a row for which all hold. Its negation is not a condition on single rows, so it
    /// has none here; the place is where the subquery is written.
    Exists(Vec<Pred>, Place),
    /// An expression holds.
    Term(Term),
}

/// An expression that must hold, and where it is written.
#[derive(Clone, Debug)]
pub struct Term {
    /// The expression.
    pub tree: Tree,
    /// Where it stands.
    pub place: Place,
}

impl Scope<'_> {
    fn sides(&mut self, left: &Ast, right: &Ast) -> Result<(Pred, Pred), Problem> {
        let (left, right) = (self.predicate(left), self.predicate(right));
        both(self, left, right)
    }

    /// The condition that an expression in WHERE or ON is. Subqueries and `json_each` become
    /// sources of the query.
    pub fn predicate(&mut self, ast: &Ast) -> Result<Pred, Problem> {
        let place = self.place(ast.place);
        Ok(match &ast.kind {
            AstKind::Binary("AND", left, right) => {
                let (left, right) = self.sides(left, right)?;
                Pred::And(vec![left, right])
            }
            AstKind::Binary("OR", left, right) => {
                let (left, right) = self.sides(left, right)?;
                Pred::Or(vec![left, right])
            }
            AstKind::Unary("NOT", inner) => Pred::Not(Box::new(self.predicate(inner)?)),
            AstKind::Binary("!=", left, right) if self.dialect == Dialect::Streams => {
                let (left_place, right_place) = (left.place, right.place);
                let (left, right) = (self.lower(left)?, self.lower(right)?);
                check_label(self, &left, (&right, right_place));
                check_label(self, &right, (&left, left_place));
                Pred::Not(Box::new(self.equality(left, right, place)))
            }
            AstKind::Binary("&&", left, right) => self.overlap(left, right, place)?,
            AstKind::In { needle, haystack, negated } => {
                self.membership(needle, haystack, *negated, place)?
            }
            _ => Pred::Term(Term { tree: self.lower(ast)?, place }),
        })
    }

    fn equality(&self, left: Tree, right: Tree, place: Place) -> Pred {
        Pred::Term(Term { tree: Expr::Call(equals(self), vec![left, right]), place })
    }

    /// Whether two expressions are about the same row, or both about the request: then their
    /// membership is a plain function of it.
    fn together(&self, left: &Tree, right: &Tree) -> bool {
        let (mut all, right) = (homes(left, &self.sources), homes(right, &self.sources));
        all.extend(right);
        all.sort_unstable();
        all.dedup();
        all.len() <= 1
    }

    fn membership(
        &mut self,
        needle: &Ast,
        haystack: &Ast,
        negated: bool,
        place: Place,
    ) -> Result<Pred, Problem> {
        let cte = self.cte_of(haystack);
        let inlined = match &haystack.kind {
            AstKind::Subquery(select) => {
                let needle = self.lower(needle)?;
                Some((needle, self.inline(select, false)?))
            }
            _ => match cte {
                Some(cte) => {
                    let at = self.place(haystack.place);
                    let needle = self.lower(needle)?;
                    Some((needle, self.inline_cte(cte, at)?))
                }
                None => None,
            },
        };
        if let Some((needle, inlined)) = inlined {
            let [(_, column)] = &inlined.columns[..] else {
                let message = match cte {
                    Some(_) => "Common-table expression must return a single column",
                    None => "Must return a single expression column",
                };
                return Err(Problem::error(code::SUBQUERY, message, self.place(haystack.place)));
            };
            let equality = self.equality(needle, column.clone(), place);
            let pred = Pred::Exists(vec![equality, inlined.filter], place);
            return Ok(if negated { Pred::Not(Box::new(pred)) } else { pred });
        }
        if matches!(
            haystack.kind,
            AstKind::List(ListKind::Array | ListKind::Row | ListKind::Bare, _)
        ) {
            let whole = Ast {
                kind: AstKind::In {
                    needle: Box::new(needle.clone()),
                    haystack: Box::new(haystack.clone()),
                    negated,
                },
                place,
            };
            return Ok(Pred::Term(Term { tree: self.lower(&whole)?, place }));
        }
        if let Some(problem) = self.not_a_list(haystack) {
            return Err(problem);
        }
        let needle = self.lower(needle)?;
        if let Some(problem) = self.same_row_list(&needle, haystack) {
            return Err(problem);
        }
        let list = self.lower(haystack)?;
        if negated || self.together(&needle, &list) {
            let tree = negate(Expr::Call(&fixed::IN_JSON, vec![needle, list]), negated);
            return Ok(Pred::Term(Term { tree, place }));
        }
        let element = self.each(list, haystack.place)?;
        Ok(self.equality(needle, element, place))
    }

    fn overlap(&mut self, left: &Ast, right: &Ast, place: Place) -> Result<Pred, Problem> {
        if let AstKind::Subquery(select) = &right.kind {
            let left_place = left.place;
            let left = self.lower(left)?;
            let inlined = self.inline(select, false)?;
            let [(_, column)] = &inlined.columns[..] else {
                let message = "Must return a single expression column";
                return Err(Problem::error(code::SUBQUERY, message, self.place(right.place)));
            };
            let element = self.each(left, left_place)?;
            let equality = self.equality(element, column.clone(), place);
            return Ok(Pred::Exists(vec![equality, inlined.filter], place));
        }
        let (left_place, right_place) = (left.place, right.place);
        if let Some(problem) = self.not_a_list(left).or_else(|| self.not_a_list(right)) {
            return Err(problem);
        }
        let (left, right) = (self.lower(left)?, self.lower(right)?);
        if self.together(&left, &right) {
            let tree = Expr::Call(&fixed::OVERLAP, vec![left, right]);
            return Ok(Pred::Term(Term { tree, place }));
        }
        let left = self.each(left, left_place)?;
        let right = self.each(right, right_place)?;
        Ok(self.equality(left, right, place))
    }

    /// The elements of a JSON array, as a source of the query.
    fn each(&mut self, input: Tree, place: Place) -> Result<Tree, Problem> {
        if homes(&input, &self.sources).len() > 1 {
            let message = "Table-valued functions may only have a single table as inputs";
            return Err(Problem::error(code::MIXED, message, self.place(place)));
        }
        self.sources.push(Source::Each(input));
        let source = self.sources.len() - 1;
        Ok(leaf(Name::Each(source, EachPart::Value), self.place(place)))
    }
}

impl Pred {
    /// The condition as a disjunction of conjunctions of terms.
    ///
    /// - Errors: more than 100 conjunctions while distributing.
    pub fn disjunction(&self, place: Place) -> Result<Vec<Vec<Term>>, Problem> {
        self.distribute(false, place)
    }

    fn distribute(&self, negated: bool, place: Place) -> Result<Vec<Vec<Term>>, Problem> {
        match (self, negated) {
            (Pred::Not(inner), _) => inner.distribute(!negated, place),
            (Pred::Term(term), _) => {
                let tree = match (&term.tree, negated) {
                    (Expr::Not(inner), true) => Expr::clone(inner),
                    (tree, _) => negate(tree.clone(), negated),
                };
                Ok(vec![vec![Term { tree, place: term.place }]])
            }
            (Pred::Exists(_, place), true) => {
                Err(Problem::error(code::MIXED, "NOT cannot be applied to a subquery", *place)
                    .mend("keep the complement in a column, or select the rows that are wanted"))
            }
            (Pred::And(parts) | Pred::Exists(parts, _), false) | (Pred::Or(parts), true) => {
                let mut product = vec![Vec::new()];
                for part in parts {
                    let sums = part.distribute(negated, place)?;
                    let mut next = Vec::new();
                    for left in &product {
                        for right in &sums {
                            next.push(left.iter().chain(right).cloned().collect());
                        }
                    }
                    product = next;
                    check(product.len(), place)?;
                }
                Ok(product)
            }
            (Pred::Or(parts), false) | (Pred::And(parts), true) => {
                let mut sums = Vec::new();
                for part in parts {
                    sums.extend(part.distribute(negated, place)?);
                    check(sums.len(), place)?;
                }
                Ok(sums)
            }
        }
    }
}

fn check(count: usize, place: Place) -> Result<(), Problem> {
    if count <= MAX_CONJUNCTIONS {
        return Ok(());
    }
    Err(Problem::error(
        code::TOO_MANY,
        "For Sync Streams, inner OR operators need to be moved up to be top-level filters. \
         Applying that to this query results in too many inner nodes.",
        place,
    ))
}
