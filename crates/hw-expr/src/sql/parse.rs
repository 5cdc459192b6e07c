//! Tokens to a syntax tree: a Pratt parser over the precedence table of `sync-rules.md` 5.2.
//!
//! It reads somewhat more SQL than the language has, so that what is not in the language can be
//! refused by name later instead of as a syntax error here.

use super::Place;
use super::ast::{Ast, AstKind, From, Ident, Item, Join, ListKind, Literal, Relation, Select};
use super::token::{LexError, Token, TokenKind, tokens};

/// Words that cannot be bare names.
const RESERVED: [&str; 85] = [
    "ALL",
    "ANALYSE",
    "ANALYZE",
    "AND",
    "ANY",
    "ARRAY",
    "AS",
    "ASC",
    "ASYMMETRIC",
    "AUTHORIZATION",
    "BINARY",
    "BOTH",
    "CASE",
    "CAST",
    "CHECK",
    "COLLATE",
    "COLLATION",
    "CONCURRENTLY",
    "CONSTRAINT",
    "CREATE",
    "CROSS",
    "CURRENT_CATALOG",
    "CURRENT_DATE",
    "CURRENT_ROLE",
    "CURRENT_SCHEMA",
    "CURRENT_TIME",
    "CURRENT_TIMESTAMP",
    "CURRENT_USER",
    "DEFAULT",
    "DEFERRABLE",
    "DESC",
    "DISTINCT",
    "DO",
    "ELSE",
    "END",
    "EXCEPT",
    "FALSE",
    "FETCH",
    "FOR",
    "FOREIGN",
    "FREEZE",
    "FROM",
    "FULL",
    "GRANT",
    "GROUP",
    "HAVING",
    "ILIKE",
    "IN",
    "INITIALLY",
    "INNER",
    "INTERSECT",
    "INTO",
    "IS",
    "ISNULL",
    "JOIN",
    "LATERAL",
    "LEADING",
    "LEFT",
    "LIKE",
    "LIMIT",
    "LOCALTIME",
    "LOCALTIMESTAMP",
    "NATURAL",
    "NOT",
    "NOTNULL",
    "NULL",
    "OFFSET",
    "ON",
    "ONLY",
    "OR",
    "ORDER",
    "OUTER",
    "OVERLAPS",
    "PLACING",
    "REFERENCES",
    "RETURNING",
    "RIGHT",
    "SELECT",
    "SESSION_USER",
    "SIMILAR",
    "SOME",
    "SYMMETRIC",
    "TABLE",
    "TABLESAMPLE",
    "THEN",
];
/// The rest of them.
const RESERVED_MORE: [&str; 11] = [
    "TO", "TRAILING", "TRUE", "UNION", "USER", "USING", "VARIADIC", "VERBOSE", "WHEN", "WHERE",
    "WITH",
];

/// Deepest nesting of expressions and subqueries; beyond it a text is refused, because later
/// stages walk trees recursively.
const MAX_DEPTH: u32 = 60;

/// Why nothing here knows what time it is, and what to do instead.
pub const NO_CLOCK: &str = "a row is evaluated when it changes, not when time passes: keep a column \
                            that a job in the database updates and compare that, or filter by time \
                            in the client's query";

/// Longest chain of operators other than AND and OR, which make balanced trees.
const MAX_CHAIN: usize = 100;

/// Binding powers, tightest highest.
mod power {
    pub const OR: u8 = 1;
    pub const AND: u8 = 2;
    pub const NOT: u8 = 3;
    pub const EQUAL: u8 = 4;
    pub const IS: u8 = 5;
    pub const LESS: u8 = 6;
    pub const BETWEEN: u8 = 7;
    pub const BIT: u8 = 8;
    pub const LIKE: u8 = 9;
    pub const IN: u8 = 10;
    pub const ADD: u8 = 11;
    pub const MUL: u8 = 12;
    pub const SIGN: u8 = 13;
    pub const MEMBER: u8 = 14;
}

/// Parses one statement, with what follows a semicolon noted in [`Select::more`].
pub fn statement(text: &str) -> Result<Select, LexError> {
    let mut parser = Parser { tokens: tokens(text)?, at: 0, depth: 0 };
    if !parser.is_word("SELECT") {
        let error = parser.error("Only SELECT statements are supported");
        let mend = parser.is_word("WITH").then_some(
            "common table expressions stand under with: in the file, each under its name",
        );
        return Err(LexError { mend, ..error });
    }
    let mut select = parser.select()?;
    if parser.take_symbol(";") && !parser.at_end() {
        let place = parser.peek().place;
        select.more = Some(place.to(parser.tokens[parser.tokens.len() - 1].place));
    } else if !parser.at_end() {
        return Err(parser.unexpected());
    }
    Ok(select)
}

struct Parser {
    tokens: Vec<Token>,
    at: usize,
    depth: u32,
}

impl Parser {
    fn peek(&self) -> &Token {
        &self.tokens[self.at]
    }

    fn peek_at(&self, ahead: usize) -> &TokenKind {
        &self.tokens[(self.at + ahead).min(self.tokens.len() - 1)].kind
    }

    fn take(&mut self) -> Token {
        let token = self.tokens[self.at].clone();
        if self.at + 1 < self.tokens.len() {
            self.at += 1;
        }
        token
    }

    fn at_end(&self) -> bool {
        self.peek().kind == TokenKind::End
    }

    /// The place of the token before.
    fn last(&self) -> Place {
        self.tokens[self.at.saturating_sub(1)].place
    }

    fn error(&self, message: impl Into<String>) -> LexError {
        LexError { message: message.into(), place: self.peek().place, mend: None }
    }

    fn unexpected(&self) -> LexError {
        match &self.peek().kind {
            TokenKind::End => self.error("unexpected end of the statement"),
            TokenKind::Word(word) => self.error(format!("unexpected {word}")),
            TokenKind::Symbol("==") => {
                LexError { mend: Some("write ="), ..self.error("unexpected ==") }
            }
            TokenKind::Symbol(symbol) => self.error(format!("unexpected {symbol}")),
            _ => self.error("unexpected value"),
        }
    }

    fn is_word(&self, word: &str) -> bool {
        self.is_word_at(0, word)
    }

    fn is_word_at(&self, ahead: usize, word: &str) -> bool {
        matches!(self.peek_at(ahead), TokenKind::Word(w) if w.eq_ignore_ascii_case(word))
    }

    fn take_word(&mut self, word: &str) -> bool {
        let found = self.is_word(word);
        if found {
            self.take();
        }
        found
    }

    fn expect_word(&mut self, word: &str) -> Result<Place, LexError> {
        if self.is_word(word) { Ok(self.take().place) } else { Err(self.expected(word)) }
    }

    fn is_symbol(&self, symbol: &str) -> bool {
        matches!(self.peek().kind, TokenKind::Symbol(s) if s == symbol)
    }

    fn take_symbol(&mut self, symbol: &str) -> bool {
        let found = self.is_symbol(symbol);
        if found {
            self.take();
        }
        found
    }

    fn expect_symbol(&mut self, symbol: &str) -> Result<Place, LexError> {
        if self.is_symbol(symbol) { Ok(self.take().place) } else { Err(self.expected(symbol)) }
    }

    fn expected(&self, what: &str) -> LexError {
        let mut error = self.unexpected();
        error.message = format!("{}, expected {what}", error.message);
        error
    }

    /// Whether an identifier stands here.
    fn is_name(&self) -> bool {
        match &self.peek().kind {
            TokenKind::Word(word) => !is_reserved(word),
            TokenKind::Quoted(_) => true,
            _ => false,
        }
    }

    fn ident(&mut self) -> Result<Ident, LexError> {
        if !self.is_name() {
            return match &self.peek().kind {
                TokenKind::Word(word) => Err(LexError {
                    mend: Some("to use it as a name, write it in double quotes"),
                    ..self.error(format!("{word} is a reserved word"))
                }),
                _ => Err(self.expected("a name")),
            };
        }
        let token = self.take();
        Ok(match token.kind {
            TokenKind::Word(word) => {
                let name = word.to_ascii_lowercase();
                Ident { folded: name != word, name, quoted: false, place: token.place }
            }
            TokenKind::Quoted(name) => {
                Ident { name, quoted: true, folded: false, place: token.place }
            }
            _ => return Err(self.unexpected()),
        })
    }

    fn select(&mut self) -> Result<Select, LexError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("this statement is nested too deeply"));
        }
        let start = self.expect_word("SELECT")?;
        let mut select = Select {
            place: start,
            distinct: None,
            items: Vec::new(),
            from: Vec::new(),
            filter: None,
            refused: Vec::new(),
            more: None,
        };
        if self.is_word("DISTINCT") {
            select.distinct = Some(self.take().place);
        } else {
            self.take_word("ALL");
        }
        if !self.select_ends() {
            loop {
                select.items.push(self.item()?);
                if !self.take_symbol(",") {
                    break;
                }
            }
        }
        if self.take_word("FROM") {
            self.from(&mut select.from)?;
        }
        if self.take_word("WHERE") {
            select.filter = Some(self.expr(0)?);
        }
        self.refused_clauses(&mut select.refused)?;
        self.check_where(&select)?;
        select.place = start.to(self.last());
        self.depth -= 1;
        Ok(select)
    }

    /// `FROM t WERE a = b` reads as a table with an alias; what stands behind it tells that the
    /// alias is a misspelt keyword.
    fn check_where(&self, select: &Select) -> Result<(), LexError> {
        let ended = self.at_end()
            || matches!(self.peek().kind, TokenKind::Symbol(";" | ")" | ",") | TokenKind::Word(_));
        let Some(From { alias: Some(alias), alias_written: false, .. }) = select.from.last() else {
            return Ok(());
        };
        let misspelt = crate::report::nearest(&alias.name, ["where"]).is_some();
        let join = select.from.len() > 1 && !misspelt;
        if select.filter.is_some() || join || (ended && !(misspelt && self.is_name())) {
            return Ok(());
        }
        let message = format!("expected WHERE after the table's name, found {}", alias.name);
        let mend = misspelt.then_some("did you mean WHERE?");
        Err(LexError { message, place: alias.place, mend })
    }

    fn select_ends(&self) -> bool {
        ["FROM", "WHERE", "GROUP", "HAVING", "ORDER", "LIMIT", "OFFSET", "FETCH", "FOR"]
            .iter()
            .any(|word| self.is_word(word))
            || matches!(self.peek().kind, TokenKind::End | TokenKind::Symbol(";" | ")"))
    }

    fn item(&mut self) -> Result<Item, LexError> {
        let place = self.peek().place;
        if self.take_symbol("*") {
            return Ok(Item { value: Ast { kind: AstKind::Star(None), place }, alias: None });
        }
        let value = self.expr(0)?;
        let alias = self.alias()?;
        Ok(Item { value, alias })
    }

    fn alias(&mut self) -> Result<Option<Ident>, LexError> {
        if self.take_word("AS") || self.is_name() { self.ident().map(Some) } else { Ok(None) }
    }

    fn from(&mut self, out: &mut Vec<From>) -> Result<(), LexError> {
        let first = self.source()?;
        out.push(first);
        loop {
            if self.take_symbol(",") {
                let source = self.source()?;
                out.push(source);
                continue;
            }
            let start = self.peek().place;
            let kind = if self.is_word("JOIN") || self.take_word("INNER") {
                None
            } else if let Some(name) = self.outer_join() {
                Some(name)
            } else if self.take_word("CROSS") {
                Some("CROSS JOIN")
            } else if self.take_word("NATURAL") {
                Some("NATURAL JOIN")
            } else {
                return Ok(());
            };
            self.expect_word("JOIN")?;
            let mut source = self.source()?;
            let on = self.peek().place;
            source.join = if self.take_word("ON") {
                let condition = self.expr(0)?;
                match kind {
                    None => Join::Inner(Some(condition)),
                    Some(name) => Join::Refused(name, on.to(self.last())),
                }
            } else if self.take_word("USING") {
                self.expect_symbol("(")?;
                self.ident()?;
                while self.take_symbol(",") {
                    self.ident()?;
                }
                self.expect_symbol(")")?;
                Join::Using(on.to(self.last()))
            } else {
                match kind {
                    None => Join::Inner(None),
                    Some(name) => Join::Refused(name, start.to(self.last())),
                }
            };
            out.push(source);
        }
    }

    /// LEFT, RIGHT or FULL, with OUTER or without.
    fn outer_join(&mut self) -> Option<&'static str> {
        const JOINS: [(&str, &str); 3] =
            [("LEFT", "LEFT JOIN"), ("RIGHT", "RIGHT JOIN"), ("FULL", "FULL JOIN")];
        let (_, name) = JOINS.into_iter().find(|(word, _)| self.is_word(word))?;
        self.take();
        self.take_word("OUTER");
        Some(name)
    }

    fn source(&mut self) -> Result<From, LexError> {
        let start = self.peek().place;
        let relation = if self.take_symbol("(") {
            let select = self.select()?;
            self.expect_symbol(")")?;
            Relation::Subquery(Box::new(select))
        } else {
            let first = self.ident()?;
            if self.take_symbol("(") {
                Relation::Function { name: first, args: self.arguments()? }
            } else if self.take_symbol(".") {
                Relation::Table { schema: Some(first), name: self.ident()? }
            } else {
                Relation::Table { schema: None, name: first }
            }
        };
        let alias_written = self.is_word("AS");
        let alias = self.alias()?;
        let mut columns = Vec::new();
        if alias.is_some() && self.take_symbol("(") {
            columns.push(self.ident()?);
            while self.take_symbol(",") {
                columns.push(self.ident()?);
            }
            self.expect_symbol(")")?;
        }
        let place = start.to(self.last());
        Ok(From { relation, alias, alias_written, columns, join: Join::Inner(None), place })
    }

    /// Clauses that SQL has and this language has not. What they contain is skipped up to the
    /// next clause, so that the finding names the clause rather than what stands in it.
    fn refused_clauses(&mut self, out: &mut Vec<(&'static str, Place)>) -> Result<(), LexError> {
        const CLAUSES: [(&str, &str); 13] = [
            ("GROUP", "GROUP BY"),
            ("HAVING", "HAVING"),
            ("ORDER", "ORDER BY"),
            ("LIMIT", "LIMIT"),
            ("OFFSET", "OFFSET"),
            ("FETCH", "FETCH"),
            ("FOR", "SELECT FOR"),
            ("UNION", "UNION"),
            ("EXCEPT", "EXCEPT"),
            ("INTERSECT", "INTERSECT"),
            ("WINDOW", "WINDOW"),
            ("RETURNING", "RETURNING"),
            ("INTO", "INTO"),
        ];
        let mut depth = 0;
        let mut open: Option<(&'static str, Place)> = None;
        loop {
            let found = match &self.peek().kind {
                TokenKind::Word(w) if depth == 0 => CLAUSES
                    .iter()
                    .find(|(word, _)| w.eq_ignore_ascii_case(word))
                    .map(|(_, name)| *name),
                TokenKind::Symbol("(") => {
                    depth += 1;
                    None
                }
                TokenKind::Symbol(")") if depth == 0 => break,
                TokenKind::Symbol(")") => {
                    depth -= 1;
                    None
                }
                TokenKind::Symbol(";") | TokenKind::End => break,
                _ => None,
            };
            match (found, open) {
                (Some(name), _) => {
                    out.extend(open.take());
                    open = Some((name, self.peek().place));
                }
                // Not a clause: the caller says that it is unexpected.
                (None, None) => return Ok(()),
                (None, Some((name, place))) => open = Some((name, place.to(self.peek().place))),
            }
            self.take();
        }
        out.extend(open);
        Ok(())
    }

    fn arguments(&mut self) -> Result<Vec<Ast>, LexError> {
        let mut args = Vec::new();
        if self.take_symbol(")") {
            return Ok(args);
        }
        loop {
            if self.is_symbol("*") {
                let place = self.take().place;
                args.push(Ast { kind: AstKind::Star(None), place });
            } else {
                args.push(self.expr(0)?);
            }
            if !self.take_symbol(",") {
                break;
            }
        }
        if self.is_word("FROM") {
            return Err(self.error("the form f(x FROM y) is not supported, write f(x, y)"));
        }
        self.expect_symbol(")")?;
        Ok(args)
    }

    fn expr(&mut self, least: u8) -> Result<Ast, LexError> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(self.error("this expression is nested too deeply"));
        }
        let mut left = self.prefix()?;
        let mut length = 0;
        while let Some(next) = self.infix(&mut left, least)? {
            left = next;
            length += 1;
            if length > MAX_CHAIN {
                return Err(self.error("this expression is too long"));
            }
        }
        self.depth -= 1;
        Ok(left)
    }

    fn prefix(&mut self) -> Result<Ast, LexError> {
        let token = self.peek().clone();
        let start = token.place;
        let kind = match &token.kind {
            TokenKind::Integer(value) => AstKind::Literal(Literal::Integer(*value)),
            TokenKind::Real(value) => AstKind::Literal(Literal::Real(*value)),
            TokenKind::String(text) => AstKind::Literal(Literal::Text(text.clone())),
            TokenKind::Parameter => AstKind::Parameter,
            TokenKind::Symbol("(") => return self.parenthesis(),
            TokenKind::Symbol(sign @ ("-" | "+" | "~")) => {
                self.take();
                if *sign == "-" {
                    // A minus directly before a digit belongs to the number.
                    match self.peek().kind {
                        TokenKind::Integer(value) if self.peek().place.start == start.end => {
                            let place = start.to(self.take().place);
                            let kind = AstKind::Literal(Literal::Integer(-value));
                            return Ok(Ast { kind, place });
                        }
                        TokenKind::Real(value) if self.peek().place.start == start.end => {
                            let place = start.to(self.take().place);
                            return Ok(Ast {
                                kind: AstKind::Literal(Literal::Real(-value)),
                                place,
                            });
                        }
                        _ => {}
                    }
                }
                let value = self.expr(power::SIGN)?;
                let place = start.to(value.place);
                return Ok(Ast { kind: AstKind::Unary(sign, Box::new(value)), place });
            }
            TokenKind::Word(word) => {
                if let Some(ast) = self.keyword(&word.to_ascii_uppercase(), start)? {
                    return Ok(ast);
                }
                return self.name();
            }
            TokenKind::Quoted(_) => return self.name(),
            _ => return Err(self.unexpected()),
        };
        self.take();
        Ok(Ast { kind, place: start })
    }

    fn parenthesis(&mut self) -> Result<Ast, LexError> {
        let start = self.expect_symbol("(")?;
        if self.is_word("SELECT") {
            let select = self.select()?;
            let place = start.to(self.expect_symbol(")")?);
            return Ok(Ast { kind: AstKind::Subquery(Box::new(select)), place });
        }
        let first = self.expr(0)?;
        if !self.is_symbol(",") {
            self.expect_symbol(")")?;
            return Ok(first);
        }
        let mut items = vec![first];
        while self.take_symbol(",") {
            items.push(self.expr(0)?);
        }
        let place = start.to(self.expect_symbol(")")?);
        Ok(Ast { kind: AstKind::List(ListKind::Bare, items), place })
    }

    /// Expressions that begin with a keyword.
    fn keyword(&mut self, word: &str, start: Place) -> Result<Option<Ast>, LexError> {
        let kind = match word {
            "NULL" => AstKind::Literal(Literal::Null),
            "TRUE" => AstKind::Literal(Literal::Bool(true)),
            "FALSE" => AstKind::Literal(Literal::Bool(false)),
            "NOT" => {
                self.take();
                let value = self.expr(power::NOT)?;
                let place = start.to(value.place);
                return Ok(Some(Ast { kind: AstKind::Unary("NOT", Box::new(value)), place }));
            }
            "CASE" => return self.case().map(Some),
            "CAST" => {
                self.take();
                self.expect_symbol("(")?;
                let value = Box::new(self.expr(0)?);
                self.expect_word("AS")?;
                let target = self.type_name()?;
                let place = start.to(self.expect_symbol(")")?);
                return Ok(Some(Ast { kind: AstKind::Cast { value, target }, place }));
            }
            "ARRAY" if *self.peek_at(1) == TokenKind::Symbol("[") => {
                self.take();
                self.take();
                let mut items = Vec::new();
                while !self.is_symbol("]") {
                    items.push(self.expr(0)?);
                    if !self.take_symbol(",") {
                        break;
                    }
                }
                let place = start.to(self.expect_symbol("]")?);
                return Ok(Some(Ast { kind: AstKind::List(ListKind::Array, items), place }));
            }
            "ROW" if *self.peek_at(1) == TokenKind::Symbol("(") => {
                self.take();
                self.take();
                let items = self.arguments()?;
                let place = start.to(self.last());
                return Ok(Some(Ast { kind: AstKind::List(ListKind::Row, items), place }));
            }
            "EXISTS" if *self.peek_at(1) == TokenKind::Symbol("(") => {
                self.take();
                self.take();
                let select = self.select()?;
                let place = start.to(self.expect_symbol(")")?);
                return Ok(Some(Ast { kind: AstKind::Exists(Box::new(select)), place }));
            }
            "CURRENT_TIMESTAMP" | "CURRENT_DATE" | "CURRENT_TIME" | "LOCALTIME"
            | "LOCALTIMESTAMP" => {
                let error = self.error(format!("{word} is not supported"));
                return Err(LexError { mend: Some(NO_CLOCK), ..error });
            }
            "CURRENT_USER" | "SESSION_USER" => {
                let error = self.error(format!("{word} is not supported"));
                let mend = "use auth.user_id() in streams, request.user_id() in parameter queries";
                return Err(LexError { mend: Some(mend), ..error });
            }
            "INTERVAL" if matches!(self.peek_at(1), TokenKind::String(_)) => {
                let error = self.error("intervals and now() are not supported");
                return Err(LexError { mend: Some(NO_CLOCK), ..error });
            }
            "DATE" | "TIME" | "TIMESTAMP" | "TIMESTAMPTZ" | "UUID" | "JSON" | "JSONB"
                if matches!(self.peek_at(1), TokenKind::String(_)) =>
            {
                let error = self.error(format!("{word} before a string is not supported"));
                let mend = "write the string alone: dates and times are compared as texts";
                return Err(LexError { mend: Some(mend), ..error });
            }
            _ => return Ok(None),
        };
        self.take();
        Ok(Some(Ast { kind, place: start }))
    }

    fn case(&mut self) -> Result<Ast, LexError> {
        let start = self.expect_word("CASE")?;
        let operand = if self.is_word("WHEN") { None } else { Some(Box::new(self.expr(0)?)) };
        let mut whens = Vec::new();
        while self.take_word("WHEN") {
            let when = self.expr(0)?;
            self.expect_word("THEN")?;
            whens.push((when, self.expr(0)?));
        }
        if whens.is_empty() {
            return Err(self.expected("WHEN"));
        }
        let otherwise = if self.take_word("ELSE") { Some(Box::new(self.expr(0)?)) } else { None };
        let place = start.to(self.expect_word("END")?);
        Ok(Ast { kind: AstKind::Case { operand, whens, otherwise }, place })
    }

    /// A type name; `(n)` behind it is read and kept in the name, so that it is refused by name.
    fn type_name(&mut self) -> Result<Ident, LexError> {
        let mut ident = self.ident()?;
        if self.take_symbol("(") {
            while !self.is_symbol(")") && !self.at_end() {
                self.take();
            }
            let end = self.expect_symbol(")")?;
            ident.name.push_str("(…)");
            ident.place = ident.place.to(end);
        }
        Ok(ident)
    }

    /// A column, a qualified column, `t.*` or a call.
    fn name(&mut self) -> Result<Ast, LexError> {
        let first = self.ident()?;
        let start = first.place;
        let mut parts = vec![first];
        while self.is_symbol(".") {
            self.take();
            if self.is_symbol("*") {
                let place = start.to(self.take().place);
                let source = parts.pop();
                return Ok(Ast { kind: AstKind::Star(source), place });
            }
            parts.push(self.ident()?);
        }
        if self.is_symbol("(") && parts.len() <= 2 {
            self.take();
            let args = self.arguments()?;
            let place = start.to(self.last());
            let name = parts.pop().expect("a name has a part");
            return Ok(Ast { kind: AstKind::Call { schema: parts.pop(), name, args }, place });
        }
        if parts.len() > 3 {
            return Err(self.error("a name has at most three parts"));
        }
        Ok(Ast { place: start.to(self.last()), kind: AstKind::Name(parts) })
    }

    /// What stands behind `left` and binds at least as tightly as `least`.
    fn infix(&mut self, left: &mut Ast, least: u8) -> Result<Option<Ast>, LexError> {
        let (power, length, operator) = match self.operator() {
            Some(found) if found.0 > least => found,
            _ => return Ok(None),
        };
        let hole = Ast { kind: AstKind::Parameter, place: left.place };
        let value = Box::new(std::mem::replace(left, hole));
        let start = value.place;
        for _ in 0..length {
            self.take();
        }
        let negated = operator.starts_with("NOT ");
        let kind = match operator {
            "::" => AstKind::Cast { value, target: self.type_name()? },
            "IS" => return self.is(value).map(Some),
            "ISNULL" => AstKind::IsNull { value, negated: false },
            "NOTNULL" => AstKind::IsNull { value, negated: true },
            "BETWEEN" | "NOT BETWEEN" => {
                // AND belongs to BETWEEN here, so the lower end binds tighter than BETWEEN.
                let low = Box::new(self.expr(power::BETWEEN)?);
                self.expect_word("AND")?;
                let high = Box::new(self.expr(power::BETWEEN)?);
                AstKind::Between { value, low, high, negated }
            }
            "IN" | "NOT IN" => {
                let haystack = Box::new(self.expr(power::IN)?);
                AstKind::In { needle: value, haystack, negated }
            }
            "AND" | "OR" => {
                let mut operands = vec![*value, self.expr(power)?];
                while self.take_word(operator) {
                    operands.push(self.expr(power)?);
                }
                return Ok(balanced(operator, operands));
            }
            _ => AstKind::Binary(operator, value, Box::new(self.expr(power)?)),
        };
        Ok(Some(Ast { place: start.to(self.last()), kind }))
    }

    fn is(&mut self, value: Box<Ast>) -> Result<Ast, LexError> {
        let start = value.place;
        let negated = self.take_word("NOT");
        let kind = if self.take_word("NULL") {
            AstKind::IsNull { value, negated }
        } else if self.take_word("TRUE") {
            AstKind::IsBool { value, expected: true, negated }
        } else if self.take_word("FALSE") {
            AstKind::IsBool { value, expected: false, negated }
        } else {
            return Err(self.error("only IS [NOT] NULL, TRUE or FALSE is supported"));
        };
        Ok(Ast { kind, place: start.to(self.last()) })
    }

    /// The operator here: binding power, number of tokens, name.
    fn operator(&self) -> Option<(u8, usize, &'static str)> {
        use power::*;
        match &self.peek().kind {
            TokenKind::Symbol(symbol) => {
                let power = match *symbol {
                    "->" | "->>" | "::" => MEMBER,
                    "*" | "/" | "%" => MUL,
                    "+" | "-" | "||" | "&&" => ADD,
                    "|" | "&" => BIT,
                    "<" | "<=" | ">" | ">=" | "<<" | ">>" => LESS,
                    "=" | "!=" | "<>" => EQUAL,
                    "~" | "~*" | "!~" | "!~*" | "@>" | "<@" | "#>" | "?|" | "?&" => LIKE,
                    _ => return None,
                };
                Some((power, 1, if *symbol == "<>" { "!=" } else { symbol }))
            }
            TokenKind::Word(word) => {
                const WORDS: [(&str, u8); 9] = [
                    ("IN", IN),
                    ("LIKE", LIKE),
                    ("ILIKE", LIKE),
                    ("BETWEEN", BETWEEN),
                    ("IS", IS),
                    ("ISNULL", IS),
                    ("NOTNULL", IS),
                    ("AND", AND),
                    ("OR", OR),
                ];
                if word.eq_ignore_ascii_case("NOT") {
                    let negated = [
                        ("IN", IN, "NOT IN"),
                        ("LIKE", LIKE, "NOT LIKE"),
                        ("ILIKE", LIKE, "NOT ILIKE"),
                        ("BETWEEN", BETWEEN, "NOT BETWEEN"),
                    ];
                    return negated
                        .into_iter()
                        .find(|(word, ..)| self.is_word_at(1, word))
                        .map(|(_, power, name)| (power, 2, name));
                }
                let found = WORDS.into_iter().find(|(w, _)| word.eq_ignore_ascii_case(w))?;
                Some((found.1, 1, found.0))
            }
            _ => None,
        }
    }
}

/// AND and OR are associative, so a chain of hundreds need not be a tree hundreds deep.
fn balanced(operator: &'static str, mut operands: Vec<Ast>) -> Option<Ast> {
    let right = operands.split_off(operands.len().div_ceil(2));
    if right.is_empty() {
        return operands.pop();
    }
    let left = balanced(operator, operands)?;
    let right = balanced(operator, right)?;
    let place = left.place.to(right.place);
    Some(Ast { kind: AstKind::Binary(operator, Box::new(left), Box::new(right)), place })
}

/// Whether a word is a name only in quotes.
pub fn is_reserved(word: &str) -> bool {
    RESERVED.iter().chain(&RESERVED_MORE).any(|r| r.eq_ignore_ascii_case(word))
}
