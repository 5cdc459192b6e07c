//! TypeScript declarations of a database's tables, for the clients of live queries.
//!
//! In: [`catalog::Facts`], read from a live database or from one that a schema file was loaded into. Out: the
//! text of a declaration file. Invariant: fields are named by the code that names them on the wire, and types
//! are those of the values that the wire carries.
//!
//! Suggested reading order: [`catalog`] is what is known of a database, [`sql_text`] what only a file tells;
//! [`singular`] and [`names`] say what types are called; [`corrected`] and [`original`] write the two forms.
//! Where facts come from and declarations go is decided in `commands::generate`.
//!
//! Source: `datasync.md` 20.

pub mod catalog;
pub mod corrected;
pub mod names;
pub mod original;
pub mod singular;
pub mod sql_text;

use std::collections::BTreeMap;

use hw_datasync::names::Namings;
use hw_datasync::statement::BigNumbers;
use hw_types::Diagnostic;

use catalog::Facts;
use names::TypeNames;

/// The module of our own SDK, whose registries are filled.
pub const MODULE: &str = "@headwater/client/live";

/// Which form the declarations have.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Form {
    /// For our SDK: names and types as they are.
    Corrected,
    /// As the generator of IHP DataSync prints them.
    Original,
}

/// What a person chose.
#[derive(Clone, Debug)]
pub struct Choices {
    /// The form.
    pub form: Form,
    /// The module that is declared; that of [`Form::Original`] is fixed.
    pub module: String,
    /// How columns are named on the wire.
    pub naming: Namings,
    /// What numbers of 64 bits and decimals are on the wire.
    pub big_numbers: BigNumbers,
    /// Names of types that are not derived: by table or enum.
    pub type_names: BTreeMap<String, String>,
}

/// The declarations, as one text.
///
/// - Errors: no table; names that cannot be told apart.
pub fn declarations(facts: &Facts, choices: &Choices) -> Result<String, Box<Diagnostic>> {
    let names = TypeNames::of(facts, choices)?;
    Ok(match choices.form {
        Form::Corrected => corrected::text(facts, &names, choices),
        Form::Original => original::text(facts, &names, choices),
    })
}

/// A name in a comment, which it must not end.
fn in_comment(name: &str) -> String {
    name.replace("*/", "* /").replace(['\n', '\r'], " ")
}

/// A string literal, in quotes of this kind.
fn literal(text: &str, quote: char) -> String {
    let mut literal = String::with_capacity(text.len() + 2);
    literal.push(quote);
    for letter in text.chars() {
        match letter {
            '\\' => literal.push_str("\\\\"),
            '\n' => literal.push_str("\\n"),
            '\r' => literal.push_str("\\r"),
            '\u{2028}' => literal.push_str("\\u2028"),
            '\u{2029}' => literal.push_str("\\u2029"),
            letter if letter == quote => {
                literal.push('\\');
                literal.push(letter);
            }
            letter => literal.push(letter),
        }
    }
    literal.push(quote);
    literal
}

/// The name of a property: as it is where it is an identifier, else in quotes.
fn property(name: &str) -> String {
    match is_identifier(name) {
        true => name.to_owned(),
        false => literal(name, '"'),
    }
}

/// Whether TypeScript takes this for a name: letters, digits, `_` and `$`, no digit first. Reserved words are
/// names of properties, too.
fn is_identifier(name: &str) -> bool {
    let is_first = |letter: char| letter.is_alphabetic() || letter == '_' || letter == '$';
    let mut letters = name.chars();
    letters.next().is_some_and(is_first)
        && letters.all(|letter| is_first(letter) || letter.is_ascii_digit())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_no_identifiers_stand_in_quotes_and_end_no_literal() {
        for (name, written) in [
            ("createdAt", "createdAt"),
            ("größe", "größe"),
            ("class", "class"),
            ("2fa", "\"2fa\""),
            ("with space", "\"with space\""),
            ("a\"b\\c\nd", "\"a\\\"b\\\\c\\nd\""),
            ("", "\"\""),
        ] {
            assert_eq!(property(name), written);
        }
        assert_eq!(literal("it's", '\''), "'it\\'s'");
        assert_eq!(in_comment("a*/b\nc"), "a* /b c");
    }
}
