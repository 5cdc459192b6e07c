//! Row plans: how one row of one table becomes combinations of values.
//!
//! A plan is the common form of a data query's WHERE (which buckets does the row go to) and of a
//! parameter index (under which keys is the row found, with which outputs). It expands
//! `json_each` over the row, filters, and gives keys and outputs. NULL and BLOB are never a key
//! or an output: such a combination does not exist (`sync-rules.md` 10.4, 17.3).

use crate::error::EvalError;
use crate::expr::{Expr, Scope};
use crate::json::Json;
use crate::value::SqlValue;
use crate::values::{Decoder, ValueOptions};
use hw_types::{Relation, RowRef};
use std::collections::BTreeSet;
use std::fmt;

/// A reference to a row while it is bound to no table yet.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum RowName {
    /// A column by name.
    Column(String),
    /// A fact about the table.
    Table(TablePart),
    /// The current element of the plan's n-th `json_each`.
    Each(usize, EachPart),
}

/// A fact about the table that a row is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum TablePart {
    /// The text behind the prefix of a wildcard.
    Suffix,
    /// The table's name.
    Name,
    /// The table's schema.
    Schema,
}

/// A column of `json_each`.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum EachPart {
    /// Index or key.
    Key,
    /// The element.
    Value,
}

impl fmt::Display for RowName {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            RowName::Column(name) => write!(f, "column({name:?})"),
            RowName::Table(part) => write!(f, "table({part:?})"),
            RowName::Each(index, part) => write!(f, "each({index},{part:?})"),
        }
    }
}

/// The columns that expressions name.
pub fn columns<'e>(expressions: impl Iterator<Item = &'e Expr<RowName>>) -> BTreeSet<String> {
    let mut columns = BTreeSet::new();
    for expression in expressions {
        expression.visit(&mut |name| {
            if let RowName::Column(column) = name {
                columns.insert(column.clone());
            }
        });
    }
    columns
}

/// How a row becomes combinations of values.
#[derive(Clone, Debug, Default)]
pub struct RowPlan {
    /// `json_each` inputs, expanded in order; each may use the elements of earlier ones.
    pub each: Vec<Expr<RowName>>,
    /// All must hold.
    pub filters: Vec<Expr<RowName>>,
    /// For each key the expressions that give it; several must be equal.
    pub keys: Vec<Vec<Expr<RowName>>>,
    /// What an index entry stores.
    pub outputs: Vec<Expr<RowName>>,
}

impl RowPlan {
    /// Appends an unambiguous text of the plan.
    pub fn write_canonical(&self, out: &mut String) {
        let mut sorted: Vec<String> = self.filters.iter().map(Expr::canonical).collect();
        sorted.sort();
        sorted.dedup();
        for (name, exprs) in [("each", &self.each), ("outputs", &self.outputs)] {
            out.push_str(name);
            exprs.iter().for_each(|e| {
                out.push(' ');
                e.write_canonical(out);
            });
            out.push('\n');
        }
        out.push_str("filters ");
        out.push_str(&sorted.join(" "));
        for key in &self.keys {
            out.push_str("\nkey");
            for e in key {
                out.push(' ');
                e.write_canonical(out);
            }
        }
        out.push('\n');
    }

    /// Every expression of it.
    pub fn expressions(&self) -> impl Iterator<Item = &Expr<RowName>> {
        let keys = self.keys.iter().flatten();
        self.each.iter().chain(&self.filters).chain(keys).chain(&self.outputs)
    }

    /// The plan for the columns of one table.
    pub fn bind(&self, binder: &mut Binder<'_>) -> BoundPlan {
        let mut bind = |e: &Expr<RowName>| binder.expr(e);
        let each: Vec<_> = self.each.iter().map(&mut bind).collect();
        let mut filters: Vec<Vec<Expr<Slot>>> = vec![Vec::new(); each.len() + 1];
        for filter in &self.filters {
            let filter = bind(filter);
            filters[level(&filter)].push(filter);
        }
        BoundPlan {
            each,
            filters,
            keys: self.keys.iter().map(|key| key.iter().map(&mut bind).collect()).collect(),
            outputs: self.outputs.iter().map(&mut bind).collect(),
        }
    }
}

/// How many `json_each` must be expanded before an expression can be evaluated.
fn level(expr: &Expr<Slot>) -> usize {
    let mut level = 0;
    expr.visit(&mut |slot| {
        if let Slot::Each(index, _) = slot {
            level = level.max(index + 1);
        }
    });
    level
}

/// A reference to a bound row.
#[derive(Clone, Copy, Debug)]
pub enum Slot {
    /// A column by index, with its decoder.
    Column(usize),
    /// The current element of the n-th `json_each`.
    Each(usize, EachPart),
}

/// Binds expressions to one table: columns by name become indexes, facts about the table become
/// constants, and a column that the table does not have is NULL.
pub struct Binder<'a> {
    relation: &'a Relation,
    suffix: &'a str,
    options: ValueOptions,
    /// The columns that are used: index in the relation and decoder.
    pub columns: Vec<BoundColumn>,
}

/// A column that an expression uses.
#[derive(Clone, Debug)]
pub struct BoundColumn {
    /// Index in the relation.
    pub index: usize,
    /// How its cells become values.
    pub decoder: Decoder,
}

impl<'a> Binder<'a> {
    /// A binder for one table; `suffix` is what stands behind the prefix of a wildcard.
    pub fn new(relation: &'a Relation, suffix: &'a str, options: ValueOptions) -> Binder<'a> {
        Binder { relation, suffix, options, columns: Vec::new() }
    }

    /// The slot of a column, if the table has it.
    pub fn column(&mut self, name: &str) -> Option<usize> {
        let index = self.relation.column(name)?;
        Some(self.column_at(index))
    }

    /// The slot of a column by its index in the relation.
    pub fn column_at(&mut self, index: usize) -> usize {
        if let Some(slot) = self.columns.iter().position(|c| c.index == index) {
            return slot;
        }
        let decoder = Decoder::new(&self.relation.columns[index].pg_type, self.options);
        self.columns.push(BoundColumn { index, decoder });
        self.columns.len() - 1
    }

    /// The expression over slots.
    pub fn expr(&mut self, expr: &Expr<RowName>) -> Expr<Slot> {
        expr.map(&mut |name| match name {
            RowName::Column(name) => match self.column(name) {
                Some(slot) => Expr::Ref(Slot::Column(slot)),
                None => Expr::Literal(SqlValue::Null),
            },
            RowName::Table(part) => Expr::Literal(SqlValue::text(match part {
                TablePart::Suffix => self.suffix.to_string(),
                TablePart::Name => self.relation.name.name.clone(),
                TablePart::Schema => self.relation.name.schema.clone(),
            })),
            RowName::Each(index, part) => Expr::Ref(Slot::Each(*index, *part)),
        })
    }
}

/// A plan over the columns of one table.
#[derive(Clone, Debug)]
pub struct BoundPlan {
    each: Vec<Expr<Slot>>,
    /// `filters[n]` can be evaluated once n `json_each` are expanded.
    filters: Vec<Vec<Expr<Slot>>>,
    keys: Vec<Vec<Expr<Slot>>>,
    outputs: Vec<Expr<Slot>>,
}

/// A row whose cells are decoded when they are asked for.
pub struct RowScope<'v> {
    /// The row.
    pub row: &'v RowRef<'v>,
    /// The columns that expressions use.
    pub columns: &'v [BoundColumn],
}

struct ElementScope<'s, 'v> {
    row: &'s RowScope<'v>,
    elements: &'v [Element],
}

/// One row of a `json_each`.
#[derive(Clone, Debug)]
pub struct Element {
    /// Index or key.
    pub key: SqlValue<'static>,
    /// The element.
    pub value: SqlValue<'static>,
}

impl<'v> Scope<'v, Slot> for RowScope<'v> {
    fn value(&self, slot: &Slot) -> Result<SqlValue<'v>, EvalError> {
        let Slot::Column(column) = slot else {
            return Err(EvalError("an element was used outside of its json_each"));
        };
        let column = &self.columns[*column];
        match self.row.get(column.index).bytes() {
            None => Ok(SqlValue::Null),
            Some(bytes) => column.decoder.value(bytes).map_err(EvalError),
        }
    }
}

impl<'v> Scope<'v, Slot> for ElementScope<'_, 'v> {
    fn value(&self, slot: &Slot) -> Result<SqlValue<'v>, EvalError> {
        match slot {
            Slot::Each(index, part) => {
                let element = self
                    .elements
                    .get(*index)
                    .ok_or(EvalError("an element was used outside of its json_each"))?;
                Ok(match part {
                    EachPart::Key => element.key.borrow(),
                    EachPart::Value => element.value.borrow(),
                })
            }
            column => self.row.value(column),
        }
    }
}

/// Receives each combination that a row gives: its keys and its outputs.
pub type Emit<'e> = dyn FnMut(&[SqlValue<'_>], &[SqlValue<'_>]) + 'e;

impl BoundPlan {
    /// Calls `emit` for every combination of the row. The same one may come more than once.
    pub fn run(&self, row: &RowScope<'_>, emit: &mut Emit<'_>) -> Result<(), EvalError> {
        self.expand(row, &[], emit)
    }

    fn expand(
        &self,
        row: &RowScope<'_>,
        elements: &[Element],
        emit: &mut Emit<'_>,
    ) -> Result<(), EvalError> {
        // The scope's lifetime is that of this call: elements of inner calls live shorter.
        let row = &RowScope { row: row.row, columns: row.columns };
        let scope = ElementScope { row, elements };
        for filter in &self.filters[elements.len()] {
            if !filter.holds(&scope)? {
                return Ok(());
            }
        }
        if let Some(input) = self.each.get(elements.len()) {
            let list = elements_of(&input.evaluate(&scope)?)?;
            let mut all = elements.to_vec();
            for element in list {
                all.push(element);
                self.expand(row, &all, emit)?;
                all.pop();
            }
            return Ok(());
        }
        let mut keys: smallvec::SmallVec<[SqlValue<'_>; 4]> = smallvec::SmallVec::new();
        for key in &self.keys {
            let Some((first, rest)) = key.split_first() else { return Ok(()) };
            let value = first.evaluate(&scope)?;
            if !is_key(&value) {
                return Ok(());
            }
            for other in rest {
                if !other.evaluate(&scope)?.equals(&value) {
                    return Ok(());
                }
            }
            keys.push(value);
        }
        let mut outputs: smallvec::SmallVec<[SqlValue<'_>; 4]> = smallvec::SmallVec::new();
        for output in &self.outputs {
            let value = output.evaluate(&scope)?;
            if !is_key(&value) {
                return Ok(());
            }
            outputs.push(value);
        }
        emit(&keys, &outputs);
        Ok(())
    }
}

/// Whether a value can connect a row with a request.
pub fn is_key(value: &SqlValue<'_>) -> bool {
    match value {
        SqlValue::Null | SqlValue::Blob(_) => false,
        SqlValue::Real(value) => value.is_finite(),
        _ => true,
    }
}

/// The rows of `json_each` (8.4): none for NULL, elements of an array, members of an object, one
/// row for a scalar. Whole numbers stay integers (17.14).
pub fn elements_of(input: &SqlValue<'_>) -> Result<Vec<Element>, EvalError> {
    let text = match input {
        SqlValue::Null => return Ok(Vec::new()),
        SqlValue::Text(text) => text,
        _ => return Err(EvalError("Expected json_each to be called with a string")),
    };
    let document = Json::parse(text).map_err(|_| EvalError("Expected JSON string"))?;
    let element =
        |key: SqlValue<'static>, json: &Json| Element { key, value: json.to_value().into_owned() };
    Ok(match &document {
        Json::Array(items) => items
            .iter()
            .enumerate()
            .map(|(i, json)| element(SqlValue::Integer(i as i128), json))
            .collect(),
        Json::Object(members) => {
            members.iter().map(|(key, json)| element(SqlValue::text(key.clone()), json)).collect()
        }
        scalar => vec![element(SqlValue::Null, scalar)],
    })
}
