//! Names of columns and the fields that stand for them on the wire.
//!
//! The stock naming is camelCase, and not one to one (`address_1` and `address1` are one field), so a
//! table's fields are made from its columns once and looked up; only what is not found there is computed.
//!
//! Source: `datasync.md` 6.

use std::collections::{BTreeMap, HashMap};

/// Words that Haskell keeps for itself: a field of that name gets a `_`.
const RESERVED: [&str; 45] = [
    "_",
    "as",
    "by",
    "capi",
    "case",
    "ccall",
    "class",
    "data",
    "default",
    "deriving",
    "do",
    "dynamic",
    "else",
    "export",
    "family",
    "forall",
    "foreign",
    "group",
    "hiding",
    "if",
    "import",
    "in",
    "infix",
    "infixl",
    "infixr",
    "instance",
    "interruptible",
    "javascript",
    "label",
    "let",
    "mdo",
    "module",
    "newtype",
    "of",
    "pattern",
    "prim",
    "proc",
    "qualified",
    "rec",
    "role",
    "safe",
    "static",
    "stdcall",
    "then",
    "type",
];
const MORE_RESERVED: [&str; 3] = ["unsafe", "using", "where"];

/// How columns are named on the wire.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Naming {
    /// `created_at` is `createdAt`.
    #[default]
    Camel,
    /// Columns keep their names.
    Identity,
}

/// How the columns of each table are named on the wire.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub struct Namings {
    /// Of tables that have no way of their own.
    pub usual: Naming,
    /// Of those that have, by name.
    pub tables: BTreeMap<String, Naming>,
}

impl Namings {
    /// Of a table.
    pub fn of(&self, table: &str) -> Naming {
        self.tables.get(table).copied().unwrap_or(self.usual)
    }
}

/// The fields of one table.
#[derive(Clone, Debug)]
pub struct Fields {
    /// The field of each column, in the order of the columns.
    fields: Vec<String>,
    columns: HashMap<String, usize>,
    names: Vec<String>,
    naming: Naming,
}

impl Fields {
    /// The fields of these columns. Of two columns with one field the one of that very name has it, else the
    /// first; the other keeps its own name.
    pub fn of(columns: &[String], naming: Naming) -> Fields {
        let mut fields = Vec::with_capacity(columns.len());
        let mut by_field = HashMap::with_capacity(columns.len());
        for (index, column) in columns.iter().enumerate() {
            let field = match naming {
                Naming::Camel => camel(column).unwrap_or_else(|| column.clone()),
                Naming::Identity => column.clone(),
            };
            let taken = by_field.contains_key(&field) || columns.contains(&field);
            let field = if taken { column.clone() } else { field };
            by_field.entry(field.clone()).or_insert(index);
            fields.push(field);
        }
        Fields { fields, columns: by_field, names: columns.to_vec(), naming }
    }

    /// The field of a column by its place.
    pub fn field(&self, column: usize) -> &str {
        &self.fields[column]
    }

    /// The place of the column that a field means: the one whose field it is, else the one that the naming
    /// leads to, else the one with that very name.
    pub fn column(&self, field: &str) -> Option<usize> {
        let named = |name: &str| self.names.iter().position(|column| column == name);
        let computed = || match self.naming {
            Naming::Camel => snake(field).and_then(|name| named(&name)),
            Naming::Identity => None,
        };
        self.columns.get(field).copied().or_else(computed).or_else(|| named(field))
    }
}

fn is_reserved(word: &str) -> bool {
    RESERVED.contains(&word) || MORE_RESERVED.contains(&word)
}

/// The field of a column; `None` where the algorithm has none: leading, trailing or doubled underscores,
/// other signs, or letters that it would not give back.
fn camel(column: &str) -> Option<String> {
    let mut field = String::with_capacity(column.len() + 1);
    for (number, part) in column.split('_').enumerate() {
        if part.is_empty() || !part.chars().all(char::is_alphanumeric) {
            return None;
        }
        // A column with upper-case letters cannot be found again by its field.
        if part.chars().any(char::is_uppercase) {
            return None;
        }
        match number {
            0 => field.push_str(part),
            _ => push_title(part, &mut field),
        }
    }
    if is_reserved(&field) {
        field.push('_');
    }
    Some(field)
}

/// The first letter behind what is no letter is upper case: `2fa` is `2Fa`.
fn push_title(part: &str, out: &mut String) {
    let mut behind_letter = false;
    for letter in part.chars() {
        match behind_letter || !letter.is_alphabetic() {
            true => out.push(letter),
            false => out.extend(letter.to_uppercase()),
        }
        behind_letter = letter.is_alphabetic();
    }
}

/// The column that the algorithm leads to.
fn snake(field: &str) -> Option<String> {
    let field = match field.strip_suffix('_') {
        Some(word) if is_reserved(word) => word,
        _ => field,
    };
    let mut column = String::with_capacity(field.len() + 4);
    for (at, letter) in field.chars().enumerate() {
        match letter {
            '_' => return None,
            upper if upper.is_uppercase() => {
                if at > 0 {
                    column.push('_');
                }
                column.extend(upper.to_lowercase());
            }
            other => column.push(other),
        }
    }
    (!column.is_empty()).then_some(column)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn fields(columns: &[&str]) -> Fields {
        let columns: Vec<String> = columns.iter().map(|name| (*name).to_owned()).collect();
        Fields::of(&columns, Naming::Camel)
    }

    #[test]
    fn columns_have_the_fields_of_the_original() {
        for (column, field) in [
            ("created_at", "createdAt"),
            ("id", "id"),
            ("step_2fa", "step2Fa"),
            ("type", "type_"),
            ("data", "data_"),
            ("group", "group_"),
            ("where", "where_"),
            ("user_type", "userType"),
            ("a_b_c", "aBC"),
            ("größe_in_m", "größeInM"),
        ] {
            assert_eq!(fields(&[column]).field(0), field);
        }
    }

    #[test]
    fn names_that_the_algorithm_refuses_stay_as_they_are() {
        for column in ["_private", "trailing_", "a__b", "html_URL", "userId", "with space", "a-b"] {
            let fields = fields(&[column]);
            assert_eq!(fields.field(0), column);
            assert_eq!(fields.column(column), Some(0));
        }
    }

    #[test]
    fn fields_find_their_columns_also_where_the_original_loses_them() {
        let fields =
            fields(&["address_1", "address1", "step_2fa", "user_id", "type", "created_at"]);
        assert_eq!((fields.field(0), fields.field(1)), ("address_1", "address1"));
        assert_eq!(fields.column("address1"), Some(1));
        assert_eq!(fields.column("address_1"), Some(0));
        assert_eq!(fields.column("step2Fa"), Some(2));
        assert_eq!(fields.column("userId"), Some(3));
        assert_eq!(fields.column("user_id"), Some(3), "also by its own name");
        assert_eq!((fields.column("type"), fields.column("type_")), (Some(4), Some(4)));
        assert_eq!(fields.column("createdAt"), Some(5));
        assert_eq!(fields.column("nothing"), None);
    }

    #[test]
    fn identity_keeps_all_names() {
        let columns = ["created_at".to_owned(), "type".to_owned()];
        let fields = Fields::of(&columns, Naming::Identity);
        assert_eq!((fields.field(0), fields.field(1)), ("created_at", "type"));
        assert_eq!(fields.column("createdAt"), None);
        assert_eq!(fields.column("type"), Some(1));
    }
}
