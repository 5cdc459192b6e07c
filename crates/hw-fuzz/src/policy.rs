//! Texts of policies, and the claims that they are evaluated with.

use hw_expr::postgres::{
    Condition, EvalError, Frame, Helper, Lookup, Names, Principal, Table, Tables, Type, Unseen,
    Visible,
};
use hw_pg::types::canonical_from_text;
use hw_types::{Cell, RowBuilder, RowRef, Sql};
use std::sync::Arc;

/// Two tables, each with itself and the other in reach, and one function.
struct World;

/// Columns of both.
pub(crate) const COLUMNS: [(&str, &str); 6] = [
    ("id", "integer"),
    ("s", "text"),
    ("u", "uuid"),
    ("j", "jsonb"),
    ("b", "boolean"),
    ("ta", "text[]"),
];

fn table(number: u32, name: &str) -> Table {
    let columns = COLUMNS.map(|(name, ty)| (name.to_owned(), Type::named(ty).expect("known")));
    let visible = match number {
        0 => Visible::All,
        _ => Visible::Where { permissive: vec!["b".into()], restrictive: Vec::new() },
    };
    Table { number, name: ("public".into(), name.into()), columns: columns.to_vec(), visible }
}

impl Names for World {
    fn role(&self) -> &str {
        "reader"
    }

    fn search_path(&self) -> &[String] {
        &[]
    }

    fn table(&self, _: &Lookup, name: &str) -> Result<Table, Unseen> {
        match name {
            "t" => Ok(table(0, "t")),
            "m" => Ok(table(1, "m")),
            _ => Err("no such table".into()),
        }
    }

    fn function(&self, _: &Lookup, name: &str, arguments: &[Type]) -> Result<Helper, Unseen> {
        let jsonb = Type::named("jsonb").expect("known");
        let (parameters, body) = match (name, arguments) {
            ("jwt", []) => {
                (Vec::new(), "SELECT current_setting('request.jwt.claims', true)::jsonb")
            }
            // One that calls itself is refused, not followed for ever.
            ("again", []) => (Vec::new(), "SELECT again()"),
            // Neither are rows that are its own, nor an argument that is what it computes itself.
            ("rows", []) => (Vec::new(), "SELECT rows()"),
            ("left_out", []) => (vec![(None, jsonb)], "SELECT $1"),
            // One that names its argument twice is as large as it is.
            ("twice", [_]) => {
                (vec![(None, Type::named("text").expect("known"))], "SELECT $1 || $1")
            }
            _ => return Err("no such function".into()),
        };
        let result = if name == "twice" { parameters[0].1 } else { jsonb };
        Ok(Helper {
            parameters,
            result,
            returns_set: name == "rows",
            defaults: if name == "left_out" { vec!["left_out()".into()] } else { Vec::new() },
            body: body.into(),
            path: None,
            strict: false,
            owner: None,
        })
    }

    fn is_shadowed(&self, _: &Lookup, _: &str) -> bool {
        false
    }

    fn has_equality(&self) -> bool {
        false
    }

    fn has_casts(&self) -> bool {
        false
    }

    fn named_type(&self, _: &Lookup, _: &str) -> Option<Type> {
        None
    }

    fn literal(&self, ty: Type, text: &str) -> Option<Vec<u8>> {
        let mut bytes = Vec::new();
        canonical_from_text(&ty.pg_type()?, text, &mut bytes).ok()?;
        Some(bytes)
    }
}

impl Tables for World {
    fn each(
        &self,
        _: u32,
        visit: &mut dyn FnMut(&RowRef<'_>) -> Result<bool, EvalError>,
    ) -> Result<(), EvalError> {
        visit(&row().view()).map(drop)
    }
}

fn row() -> hw_types::Row {
    let mut builder = RowBuilder::new();
    builder.push(Cell::Value(&7i32.to_be_bytes()));
    builder.push(Cell::Value(b"ab"));
    builder.push(Cell::Null);
    builder.push(Cell::Value(b"{\"k\": [1, \"ab\"]}"));
    builder.push(Cell::Value(&[1]));
    // An array whose bytes are none.
    builder.push(Cell::Value(b"damaged"));
    builder.finish()
}

/// The text of a policy, and behind a NUL the claims of who asks.
pub(crate) fn policy(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let (text, claims) = text.split_once('\0').unwrap_or((text, "{\"sub\": \"1\"}"));
    let Ok(condition) = Condition::read(text, &table(0, "t"), &World) else { return };
    let principal = Principal {
        role: "reader".into(),
        settings: Arc::new([("request.jwt.claims".to_owned(), claims.to_owned())].into()),
        parameters: Arc::default(),
    };
    evaluate(&condition, &principal);
}

/// What a client's condition has become, read as the text of a policy is.
pub(crate) fn filter(Sql { text, parameters }: Sql) {
    let Ok(condition) = Condition::read(&text, &table(0, "t"), &World) else { return };
    let principal = Principal {
        role: "reader".into(),
        settings: Arc::default(),
        parameters: parameters.into(),
    };
    evaluate(&condition, &principal);
}

fn evaluate(condition: &Condition, principal: &Principal) {
    let row = row();
    let frame = Frame { rows: &[&row.view()], principal, tables: &World };
    // One row and one principal give one value.
    assert_eq!(condition.holds(frame), condition.holds(frame));
}
