//! Conditions of live queries as nobody well-meaning sends them: every operator over fields and values in every place,
//! among them values that would mean something if they were pasted into SQL.

use rand::Rng;
use rand::seq::IndexedRandom as _;
use serde_json::{Value, json};

/// Texts that would mean something if they were pasted into SQL, or read as a name, a parameter or a cast.
pub const HOSTILE: [&str; 18] = [
    "1=1) OR (1=1",
    "' OR '1'='1",
    "'' OR true --",
    "\") OR (true",
    "\\' OR 1=1 --",
    "$1",
    "$2::text",
    "CAST($1::text AS text)",
    "a' /* b */ OR /* c */ 'd",
    "\u{2019} OR \u{2019}1\u{2019}=\u{2019}1",
    "\u{ff07}; SELECT 1; --",
    "E'\\x27'",
    "$$ OR true $$",
    "id",
    "NULL",
    "true",
    "%_\\",
    "",
];

const OPERATORS: [&str; 12] = [
    "OpEqual",
    "OpNotEqual",
    "OpGreaterThan",
    "OpGreaterThanOrEqual",
    "OpLessThan",
    "OpLessThanOrEqual",
    "OpAnd",
    "OpOr",
    "OpIs",
    "OpIsNot",
    "OpIn",
    "OpTSMatch",
];

/// What conditions are made of.
#[derive(Clone, Debug)]
pub struct Wheres {
    /// Fields of the table, with values that mean something there.
    pub fields: Vec<(String, Vec<Value>)>,
}

impl Wheres {
    /// A condition.
    ///
    /// - Takes: how deep it nests at most.
    pub fn condition(&self, rng: &mut impl Rng, depth: usize) -> Value {
        let infix = |op: &str, left: Value, right: Value| json!({"tag": "InfixOperatorExpression", "op": op, "left": left, "right": right});
        if depth > 0 && rng.random_bool(0.6) {
            let left = self.condition(rng, depth - 1);
            return match rng.random_range(0..10) {
                0 => infix("OpIs", left, json!({"tag": "LiteralExpression", "value": true})),
                1 => infix("OpEqual", left, self.condition(rng, depth - 1)),
                // Nothing stands on its right side.
                2 => infix("OpAnd", left, Value::Null),
                n => infix(
                    if n < 6 { "OpAnd" } else { "OpOr" },
                    left,
                    self.condition(rng, depth - 1),
                ),
            };
        }
        let (field, own) = self.fields.choose(rng).expect("there are fields");
        // Mostly what Postgres takes: the rest is refused, and shows nothing.
        let is_sane = rng.random_bool(0.8);
        let mut value = || match own.choose(rng).filter(|_| is_sane) {
            Some(value) => value.clone(),
            None => json!(HOSTILE.choose(rng).expect("there are some")),
        };
        let (one, values) = (value(), [value(), value(), Value::Null]);
        let field = json!({"tag": "ColumnExpression", "field": field});
        let literal = |value: Value| json!({"tag": "LiteralExpression", "value": value});
        match rng.random_range(0..16) {
            0..8 => infix(OPERATORS[rng.random_range(0..6)], field, literal(one)),
            8 => infix(OPERATORS[rng.random_range(0..6)], literal(one), field),
            9 | 10 => {
                let values = &values[..rng.random_range(0..=values.len())];
                infix("OpIn", field, json!({"tag": "ListExpression", "values": values}))
            }
            11 => infix(["OpIs", "OpIsNot"][rng.random_range(0..2)], field, literal(one)),
            12 => infix(["OpIs", "OpIsNot"][rng.random_range(0..2)], field, literal(Value::Null)),
            13 => {
                let (other, _) = self.fields.choose(rng).expect("there are fields");
                let other = json!({"tag": "ColumnExpression", "field": other});
                infix(OPERATORS[rng.random_range(0..10)], field, other)
            }
            14 => infix(
                OPERATORS[rng.random_range(0..OPERATORS.len())],
                literal(one),
                literal(values[0].clone()),
            ),
            _ => literal(json!(rng.random_bool(0.5))),
        }
    }
}
