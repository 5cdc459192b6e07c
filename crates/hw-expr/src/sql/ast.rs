//! The syntax tree, before any name is looked up. Every node has its place.

use super::Place;

/// A name as written and as meant.
#[derive(Clone, Debug, PartialEq)]
pub struct Ident {
    /// The name: folded to lower case unless quoted.
    pub name: String,
    /// Whether it was quoted.
    pub quoted: bool,
    /// Whether folding changed it.
    pub folded: bool,
    /// Where it stands.
    pub place: Place,
}

/// An expression with its place.
#[derive(Clone, Debug, PartialEq)]
pub struct Ast {
    /// What it is.
    pub kind: AstKind,
    /// Where it stands, parentheses not counted.
    pub place: Place,
}

/// The kinds of expression.
#[derive(Clone, Debug, PartialEq)]
pub enum AstKind {
    /// NULL, a number, a string, TRUE or FALSE.
    Literal(Literal),
    /// `a`, `t.a` or `s.t.a`.
    Name(Vec<Ident>),
    /// `*` or `t.*`.
    Star(Option<Ident>),
    /// `f(x)` or `s.f(x)`.
    Call {
        /// `s` of `s.f(x)`.
        schema: Option<Ident>,
        /// `f`.
        name: Ident,
        /// The arguments.
        args: Vec<Ast>,
    },
    /// `NOT x`, `+x`, `-x`, `~x`.
    Unary(&'static str, Box<Ast>),
    /// `x op y`, the operator in upper case: `=`, `AND`, `LIKE`.
    Binary(&'static str, Box<Ast>, Box<Ast>),
    /// `x IS NULL` or `x IS NOT NULL`.
    IsNull {
        /// `x`.
        value: Box<Ast>,
        /// NOT.
        negated: bool,
    },
    /// `x IS [NOT] TRUE` or `FALSE`.
    IsBool {
        /// `x`.
        value: Box<Ast>,
        /// TRUE or FALSE.
        expected: bool,
        /// NOT.
        negated: bool,
    },
    /// `x [NOT] BETWEEN low AND high`.
    Between {
        /// `x`.
        value: Box<Ast>,
        /// Lower end, included.
        low: Box<Ast>,
        /// Upper end, included.
        high: Box<Ast>,
        /// NOT.
        negated: bool,
    },
    /// `x [NOT] IN y`.
    In {
        /// `x`.
        needle: Box<Ast>,
        /// `y`.
        haystack: Box<Ast>,
        /// NOT.
        negated: bool,
    },
    /// `ARRAY[a, b]`, `ROW(a, b)` or `(a, b)`.
    List(ListKind, Vec<Ast>),
    /// `(SELECT …)`.
    Subquery(Box<Select>),
    /// `EXISTS (SELECT …)`.
    Exists(Box<Select>),
    /// `CAST(x AS t)` or `x::t`.
    Cast {
        /// `x`.
        value: Box<Ast>,
        /// `t`.
        target: Ident,
    },
    /// `CASE …`.
    Case {
        /// The value that is compared, of the simple form.
        operand: Option<Box<Ast>>,
        /// WHEN and THEN.
        whens: Vec<(Ast, Ast)>,
        /// ELSE.
        otherwise: Option<Box<Ast>>,
    },
    /// `$1`.
    Parameter,
}

/// Which spelling made a list.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum ListKind {
    /// `ARRAY[…]`.
    Array,
    /// `ROW(…)`.
    Row,
    /// `(a, b)`.
    Bare,
}

/// A literal.
#[derive(Clone, Debug, PartialEq)]
pub enum Literal {
    /// NULL.
    Null,
    /// TRUE or FALSE.
    Bool(bool),
    /// An integer.
    Integer(i128),
    /// A number with a dot.
    Real(f64),
    /// A string.
    Text(String),
}

/// `SELECT …`.
#[derive(Clone, Debug, PartialEq)]
pub struct Select {
    /// Where the statement stands.
    pub place: Place,
    /// DISTINCT, if written.
    pub distinct: Option<Place>,
    /// The columns.
    pub items: Vec<Item>,
    /// FROM, with the joins in order.
    pub from: Vec<From>,
    /// WHERE.
    pub filter: Option<Ast>,
    /// Clauses that are in SQL but not in this language, with their place.
    pub refused: Vec<(&'static str, Place)>,
    /// Further statements behind a semicolon.
    pub more: Option<Place>,
}

/// One column of a SELECT.
#[derive(Clone, Debug, PartialEq)]
pub struct Item {
    /// Its expression.
    pub value: Ast,
    /// `AS name`.
    pub alias: Option<Ident>,
}

/// One member of FROM.
#[derive(Clone, Debug, PartialEq)]
pub struct From {
    /// What is read.
    pub relation: Relation,
    /// `AS name`.
    pub alias: Option<Ident>,
    /// Whether AS stands before the alias.
    pub alias_written: bool,
    /// `AS name (a, b)`.
    pub columns: Vec<Ident>,
    /// How it is joined with what stands before it.
    pub join: Join,
    /// Where it stands.
    pub place: Place,
}

/// How a source is joined.
#[derive(Clone, Debug, PartialEq)]
pub enum Join {
    /// The first one, a comma, or `[INNER] JOIN … [ON …]`.
    Inner(Option<Ast>),
    /// LEFT, RIGHT, FULL, CROSS or NATURAL, with the place of ON or of the keyword.
    Refused(&'static str, Place),
    /// `JOIN … USING (…)`.
    Using(Place),
}

/// What FROM reads.
#[derive(Clone, Debug, PartialEq)]
pub enum Relation {
    /// `schema.table` or `table`.
    Table {
        /// The schema, if written.
        schema: Option<Ident>,
        /// The table.
        name: Ident,
    },
    /// `f(x)`.
    Function {
        /// `f`.
        name: Ident,
        /// The arguments.
        args: Vec<Ast>,
    },
    /// `(SELECT …)`.
    Subquery(Box<Select>),
}
