//! Conjunctions: which terms are about one source, and which equalities connect two.
//!
//! Source: `sync-rules.md` 10.3, steps 6 and 7.

use super::super::names::{Leaf, Name, Tree};
use super::predicate::Term;
use super::scope::Source;
use crate::expr::{Expr, NoScope};
use crate::report::{Problem, code};
use crate::sql::Place;

/// What an expression is about. `json_each` over a table's column belongs to that table.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Home {
    /// The request.
    Request,
    /// A `json_each` over the request or a constant.
    Each(usize),
    /// A table.
    Table(usize),
}

/// The homes of an expression, sorted and without duplicates; none for a constant.
pub fn homes(tree: &Tree, sources: &[Source]) -> Vec<Home> {
    let mut all = Vec::new();
    tree.visit(&mut |leaf| all.push(home(leaf, sources)));
    all.sort_unstable();
    all.dedup();
    all
}

/// The home of a name.
pub fn home(leaf: &Leaf, sources: &[Source]) -> Home {
    match &leaf.what {
        Name::Column(source, _) | Name::Table(source, _) => Home::Table(*source),
        Name::Each(source, _) => home_of_source(*source, sources),
        Name::Request(_) | Name::Bucket(_) => Home::Request,
    }
}

/// The home of a source.
pub fn home_of_source(source: usize, sources: &[Source]) -> Home {
    match &sources[source] {
        Source::Table { .. } => Home::Table(source),
        Source::Each(input) => {
            // Inputs refer to earlier sources only, so this ends.
            let tables = homes(input, sources).into_iter().find(|h| matches!(h, Home::Table(_)));
            tables.unwrap_or(Home::Each(source))
        }
    }
}

/// Terms that must all hold.
#[derive(Clone, Debug, Default)]
pub struct Conjunct {
    /// Terms about one source, one per source.
    pub singles: Vec<(Home, Tree)>,
    /// Equalities between two sources.
    pub equalities: Vec<Equality>,
}

/// `left = right`, each about one source.
#[derive(Clone, Debug)]
pub struct Equality {
    /// The left side and what it is about.
    pub left: (Home, Tree),
    /// The right side and what it is about.
    pub right: (Home, Tree),
}

impl Equality {
    /// The side about `home` and the other one.
    pub fn side(&self, home: Home) -> Option<(&Tree, &(Home, Tree))> {
        if self.left.0 == home {
            Some((&self.left.1, &self.right))
        } else if self.right.0 == home {
            Some((&self.right.1, &self.left))
        } else {
            None
        }
    }
}

/// Sorts the terms of every conjunction, and joins conjunctions that are one term about one
/// source. A conjunction that can never hold is left out.
pub fn conjuncts(
    disjunction: Vec<Vec<Term>>,
    sources: &[Source],
) -> Result<Vec<Conjunct>, Problem> {
    let mut several = Vec::new();
    let mut alone: Vec<(Home, Vec<Tree>)> = Vec::new();
    let mut always = false;
    for terms in disjunction {
        let Some(conjunct) = conjunct(terms, sources)? else { continue };
        match (&conjunct.singles[..], &conjunct.equalities[..]) {
            ([], []) => always = true,
            ([(home, tree)], []) => match alone.iter_mut().find(|(h, _)| h == home) {
                Some((_, others)) => others.push(tree.clone()),
                None => alone.push((*home, vec![tree.clone()])),
            },
            _ => several.push(conjunct),
        }
    }
    if always {
        several.push(Conjunct::default());
    }
    for (home, trees) in alone {
        let single = balanced(trees, &Expr::Or).map(|tree| (home, tree));
        several.push(Conjunct { singles: single.into_iter().collect(), equalities: Vec::new() });
    }
    Ok(several)
}

fn conjunct(terms: Vec<Term>, sources: &[Source]) -> Result<Option<Conjunct>, Problem> {
    let mut conjunct = Conjunct::default();
    let mut singles: Vec<(Home, Vec<Tree>)> = Vec::new();
    for term in terms {
        match &homes(&term.tree, sources)[..] {
            [] => {
                let holds = term.tree.holds(&NoScope).map_err(|error| {
                    Problem::error(code::CONSTANT, error.to_string(), term.place)
                })?;
                if !holds {
                    return Ok(None);
                }
            }
            [home] => match singles.iter_mut().find(|(h, _)| h == home) {
                Some((_, trees)) => trees.push(term.tree),
                None => singles.push((*home, vec![term.tree])),
            },
            _ => conjunct.equalities.push(equality(&term, sources)?),
        }
    }
    for (home, trees) in singles {
        let tree = balanced(trees, &Expr::And);
        conjunct.singles.extend(tree.map(|tree| (home, tree)));
    }
    Ok(Some(conjunct))
}

/// One tree of many, as shallow as possible.
fn balanced(mut trees: Vec<Tree>, join: &impl Fn(Box<Tree>, Box<Tree>) -> Tree) -> Option<Tree> {
    let right = trees.split_off(trees.len().div_ceil(2));
    if right.is_empty() {
        return trees.pop();
    }
    let (left, right) = (balanced(trees, join)?, balanced(right, join)?);
    Some(join(Box::new(left), Box::new(right)))
}

fn equality(term: &Term, sources: &[Source]) -> Result<Equality, Problem> {
    if let Expr::Call(routine, args) = &term.tree
        && routine.name == "="
        && let [left, right] = &args[..]
        && let [left_home] = homes(left, sources)[..]
        && let [right_home] = homes(right, sources)[..]
    {
        let (left, right) = ((left_home, left.clone()), (right_home, right.clone()));
        return Ok(Equality { left, right });
    }
    Err(mixed(term, sources))
}

/// Says which reference is one too many.
fn mixed(term: &Term, sources: &[Source]) -> Problem {
    let mut first: Option<Home> = None;
    let mut other: Option<(Home, Place)> = None;
    term.tree.visit(&mut |leaf| {
        let home = home(leaf, sources);
        match first {
            None => first = Some(home),
            Some(first) if first != home && other.is_none() => other = Some((home, leaf.place)),
            _ => {}
        }
    });
    let name = |home: Home| match home {
        Home::Request => "connection parameters".to_string(),
        Home::Each(_) => "elements of connection parameters".to_string(),
        Home::Table(source) => match &sources[source] {
            Source::Table { pattern, .. } => format!("rows of {}", pattern.table.text),
            Source::Each(_) => "row data".to_string(),
        },
    };
    let (first, (home, place)) =
        (first.unwrap_or(Home::Request), other.unwrap_or((Home::Request, term.place)));
    let (first, second) = match (first, home) {
        (Home::Table(_), Home::Request) => ("row data".into(), name(Home::Request)),
        (Home::Request, Home::Table(_)) => (name(Home::Request), "row data".into()),
        (first, second) => (name(first), name(second)),
    };
    let message = format!(
        "This expression already references {first}, so it can't also reference {second} unless \
         the two are compared with an equals operator."
    );
    Problem::error(code::MIXED, message, place)
        .mend("compare single values with = or IN, or filter in the client")
}
