//! What of a schema file only its text tells.
//!
//! Postgres reads the file; this looks for two things that it does not tell: where a statement begins whose
//! error has no position, and which columns say `DEFAULT NULL`, which Postgres does not keep. Where the text
//! cannot be taken apart both are unknown, and nothing else is lost.

use std::collections::BTreeSet;
use std::ops::Range;

use sqlparser::dialect::PostgreSqlDialect;
use sqlparser::tokenizer::{Location, Token, TokenWithSpan, Tokenizer, Word};

/// Words that begin a constraint where a column could stand.
const NO_COLUMNS: [&str; 7] =
    ["constraint", "primary", "unique", "check", "foreign", "exclude", "like"];

/// The same text for the server: commands of `psql` (`pg_dump` writes some) are blank. Every letter
/// has its place.
pub fn without_psql_commands(text: &str) -> String {
    let line = |line: &str| match line.starts_with('\\') {
        true => line.chars().map(|letter| if letter == '\n' { '\n' } else { ' ' }).collect(),
        false => line.to_owned(),
    };
    text.replace('\u{feff}', " ").split_inclusive('\n').map(line).collect()
}

/// The byte behind so many letters: the server counts letters.
pub fn byte_at(text: &str, letters: usize) -> usize {
    text.char_indices().nth(letters).map_or(text.len(), |(byte, _)| byte)
}

/// Line and column, from 1, of a byte; the column in characters.
pub fn place(text: &str, byte: usize) -> (usize, usize) {
    let before = text.get(..byte).unwrap_or(text);
    let line_start = before.rfind('\n').map_or(0, |at| at + 1);
    (before.matches('\n').count() + 1, before[line_start..].chars().count() + 1)
}

/// The statements of a file, as ranges of bytes without what is between them; `None` where it cannot be
/// taken apart.
pub fn statements(text: &str) -> Option<Vec<Range<usize>>> {
    let tokens = tokens(text)?;
    let lines = line_starts(text);
    let mut found = Vec::new();
    for statement in split(&tokens) {
        let (Some(first), Some(last)) = (statement.first(), statement.last()) else { continue };
        found.push(byte_of(text, &lines, first.span.start)..byte_of(text, &lines, last.span.end));
    }
    Some(found)
}

/// The columns of tables that are made with `DEFAULT NULL`: table, without its schema, and column.
pub fn null_defaults(text: &str) -> BTreeSet<(String, String)> {
    let tokens = tokens(text).unwrap_or_default();
    let mut found = BTreeSet::new();
    for statement in split(&tokens) {
        of_create_table(statement, &mut found);
    }
    found
}

fn of_create_table(statement: &[TokenWithSpan], found: &mut BTreeSet<(String, String)>) {
    let words = || statement.iter().map_while(|token| word(&token.token));
    if !words().next().is_some_and(|first| is(first, "create")) {
        return;
    }
    let Some(at) = words().take(4).position(|found| is(found, "table")) else { return };
    let open = statement.iter().position(|token| token.token == Token::LParen);
    let Some(open) = open.filter(|open| *open > at + 1) else { return };
    let Some(table) = statement.get(open - 1).and_then(|token| word(&token.token)) else { return };
    let table = name(table);
    let (mut depth, mut column) = (0_i32, None);
    for (number, token) in statement.iter().enumerate().skip(open) {
        match &token.token {
            Token::LParen => depth += 1,
            Token::RParen => depth -= 1,
            Token::Comma => {}
            token if depth == 1 => {
                let Some(this) = word(token) else { continue };
                let before = statement.get(number - 1).map(|token| &token.token);
                let begins = matches!(before, Some(Token::LParen | Token::Comma));
                if begins {
                    let is_column = this.quote_style.is_some()
                        || !NO_COLUMNS.contains(&this.value.to_lowercase().as_str());
                    column = is_column.then(|| name(this));
                } else if is(this, "null")
                    && before.and_then(word).is_some_and(|before| is(before, "default"))
                    && let Some(column) = &column
                {
                    found.insert((table.clone(), column.clone()));
                }
                continue;
            }
            _ => {}
        }
        if depth == 0 {
            return;
        }
    }
}

fn tokens(text: &str) -> Option<Vec<TokenWithSpan>> {
    let tokens = Tokenizer::new(&PostgreSqlDialect {}, text).tokenize_with_location().ok()?;
    Some(tokens.into_iter().filter(|t| !matches!(t.token, Token::Whitespace(_))).collect())
}

/// The statements, without the semicolons between them; those in the body of a function of SQL
/// (`BEGIN ATOMIC … END`) are none.
fn split(tokens: &[TokenWithSpan]) -> Vec<&[TokenWithSpan]> {
    let (mut found, mut start, mut depth) = (Vec::new(), 0, 0_usize);
    for (number, token) in tokens.iter().enumerate() {
        match &token.token {
            Token::SemiColon if depth == 0 => {
                found.push(&tokens[start..number]);
                start = number + 1;
            }
            Token::Word(this) if is(this, "atomic") => {
                let before = number.checked_sub(1).and_then(|before| word(&tokens[before].token));
                depth += usize::from(before.is_some_and(|before| is(before, "begin")));
            }
            Token::Word(this) if depth > 0 && is(this, "case") => depth += 1,
            Token::Word(this) if depth > 0 && is(this, "end") => depth -= 1,
            _ => {}
        }
    }
    found.push(&tokens[start..]);
    found.retain(|statement| !statement.is_empty());
    found
}

fn word(token: &Token) -> Option<&Word> {
    match token {
        Token::Word(word) => Some(word),
        _ => None,
    }
}

fn is(word: &Word, keyword: &str) -> bool {
    word.quote_style.is_none() && word.value.eq_ignore_ascii_case(keyword)
}

fn name(word: &Word) -> String {
    match word.quote_style {
        Some(_) => word.value.clone(),
        None => word.value.to_lowercase(),
    }
}

fn line_starts(text: &str) -> Vec<usize> {
    std::iter::once(0).chain(text.match_indices('\n').map(|(at, _)| at + 1)).collect()
}

fn byte_of(text: &str, lines: &[usize], location: Location) -> usize {
    let number = |number: u64| usize::try_from(number).unwrap_or(usize::MAX).saturating_sub(1);
    let start = lines.get(number(location.line)).copied().unwrap_or(text.len());
    let line = text.get(start..).unwrap_or_default();
    line.char_indices().nth(number(location.column)).map_or(text.len(), |(byte, _)| start + byte)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn statements_end_where_they_end() {
        let text = "-- größe; \nCREATE TABLE \"a;b\" (x text DEFAULT ';'); /* ; */\n\
                    DO $x$ BEGIN; END $x$;\n\
                    CREATE FUNCTION f() RETURNS int BEGIN ATOMIC SELECT CASE WHEN true THEN 1 END; SELECT 2; END;\n\
                    SELECT 'ü', 3";
        let found = statements(text).expect("taken apart");
        let found: Vec<&str> = found.into_iter().map(|range| &text[range]).collect();
        assert_eq!(found.len(), 4, "{found:?}");
        assert_eq!(found[0], "CREATE TABLE \"a;b\" (x text DEFAULT ';')");
        assert_eq!(found[1], "DO $x$ BEGIN; END $x$");
        assert!(found[2].ends_with("SELECT 2; END"), "{found:?}");
        assert_eq!(found[3], "SELECT 'ü', 3");
        assert_eq!(statements("SELECT 'open"), None);
    }

    #[test]
    fn columns_that_say_default_null_are_found() {
        let text = "CREATE TABLE users (id uuid DEFAULT f(a, NULL) NOT NULL, locked_at timestamptz DEFAULT NULL,
                      \"Mixed\" numeric(1, 2) default null, Plain text DEFAULT 'x',
                      CHECK (plain IS DISTINCT FROM NULL), CONSTRAINT c UNIQUE (plain));
                    CREATE UNLOGGED TABLE IF NOT EXISTS public.\"T t\" (a text NULL DEFAULT NULL::text, b int);
                    -- CREATE TABLE no (a text DEFAULT NULL);
                    ALTER TABLE users ADD COLUMN other text;";
        let found: Vec<(String, String)> = null_defaults(text).into_iter().collect();
        let found: Vec<(&str, &str)> =
            found.iter().map(|(t, c)| (t.as_str(), c.as_str())).collect();
        assert_eq!(found, [("T t", "a"), ("users", "Mixed"), ("users", "locked_at")]);
        assert!(null_defaults("CREATE TABLE (DEFAULT NULL").is_empty());
        assert!(null_defaults("CREATE TABLE").is_empty());
        assert!(null_defaults("CREATE TABLE a AS SELECT (1)").is_empty());
    }

    #[test]
    fn positions_count_characters_and_commands_of_psql_are_blank() {
        let text = "\\restrict x'y\nSELECT 'ü';\nSELEC";
        let blank = without_psql_commands(text);
        assert_eq!(blank, "             \nSELECT 'ü';\nSELEC");
        assert_eq!(blank.chars().count(), text.chars().count());
        let byte = byte_at(&blank, 26);
        assert_eq!((&blank[byte..], place(&blank, byte)), ("SELEC", (3, 1)));
        assert_eq!(byte_at("ab", 9), 2);
        assert_eq!(place("a\nüb", 4), (2, 2));
    }
}
