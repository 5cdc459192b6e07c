//! The query object: a table, columns, a tree of conditions, an order, a window.
//!
//! In: JSON. Out: [`Query`], within bounds. Names are as the client wrote them; what they mean depends on
//! the table.

use super::message::text;
use super::{Unreadable, depth, read, shown, unreadable};
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;

/// How deep conditions may nest.
const MAX_DEPTH: usize = 64;
/// How deep their JSON may nest, values included. Each level is read on its own, so that what is too deep would
/// be read again and again.
const MAX_JSON_DEPTH: usize = 4 * MAX_DEPTH;
/// How many conditions and operands there may be.
const MAX_NODES: usize = 2_000;
/// How many values a list may have.
const MAX_VALUES: usize = 10_000;

/// A query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Query {
    /// The table, as in the database.
    pub table: String,
    /// What is selected of it.
    pub selected: Selected,
    /// Which rows.
    pub condition: Option<Expr>,
    /// In which order.
    pub order: Vec<Order>,
    /// One row for each value of this field.
    pub distinct_on: Option<String>,
    /// How many rows at most.
    pub limit: Option<i64>,
    /// How many rows are passed over.
    pub offset: Option<i64>,
}

/// Columns of a result.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Selected {
    /// All of the table.
    All,
    /// Those of these fields.
    Fields(Vec<String>),
}

/// An order, or part of one.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Order {
    /// By a field.
    Field {
        /// The field.
        field: String,
        /// Whether the greatest comes first.
        descending: bool,
    },
    /// By how well a text matches.
    Rank {
        /// The field of the `tsvector`.
        field: String,
        /// What is looked for, as `to_tsquery` takes it.
        query: String,
        /// Whether the best comes first; without a word of it the worst does.
        descending: bool,
    },
}

/// A condition or an operand.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Expr {
    /// A field of the row.
    Field(String),
    /// A value.
    Literal(Literal),
    /// Several values.
    List(Vec<Literal>),
    /// `to_tsquery('english', text)`.
    TextQuery(String),
    /// Two operands; `right` may be missing behind AND and OR.
    Infix {
        /// The left one.
        left: Box<Expr>,
        /// What combines them.
        operator: Operator,
        /// The right one.
        right: Option<Box<Expr>>,
    },
}

/// A JSON value as the client wrote it.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Literal(String);

/// What combines two operands.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, Deserialize)]
pub enum Operator {
    /// `=`
    #[serde(rename = "OpEqual")]
    Equal,
    /// `<>`
    #[serde(rename = "OpNotEqual")]
    NotEqual,
    /// `>`
    #[serde(rename = "OpGreaterThan")]
    Greater,
    /// `>=`
    #[serde(rename = "OpGreaterThanOrEqual")]
    GreaterOrEqual,
    /// `<`
    #[serde(rename = "OpLessThan")]
    Less,
    /// `<=`
    #[serde(rename = "OpLessThanOrEqual")]
    LessOrEqual,
    /// `AND`
    #[serde(rename = "OpAnd")]
    And,
    /// `OR`
    #[serde(rename = "OpOr")]
    Or,
    /// `IS`
    #[serde(rename = "OpIs")]
    Is,
    /// `IS NOT`
    #[serde(rename = "OpIsNot")]
    IsNot,
    /// `@@`
    #[serde(rename = "OpTSMatch")]
    TextMatch,
    /// `IN`
    #[serde(rename = "OpIn")]
    In,
}

impl Literal {
    /// The JSON text.
    pub fn json(&self) -> &str {
        &self.0
    }

    /// Whether it is null.
    pub fn is_null(&self) -> bool {
        self.0 == "null"
    }

    /// A text.
    pub fn of_text(text: &str) -> Literal {
        Literal(serde_json::Value::from(text).to_string())
    }

    /// A value of a message.
    ///
    /// - Errors: half of a surrogate pair, which no text of Postgres holds.
    pub fn read(raw: &RawValue) -> Result<Literal, Unreadable> {
        match has_half_a_pair(raw.get()) {
            true => unreadable("a text has half of a surrogate pair (\\ud800 to \\udfff) in it"),
            false => Ok(Literal::of(raw)),
        }
    }

    /// A value that was read, or a part of one.
    pub fn of(raw: &RawValue) -> Literal {
        Literal(raw.get().to_owned())
    }
}

/// Whether an escape in a JSON text names half of a surrogate pair without the other half.
fn has_half_a_pair(json: &str) -> bool {
    let unit = |from: &str| {
        let digits = from.strip_prefix("\\u")?.get(..4)?;
        u16::from_str_radix(digits, 16).ok()
    };
    let mut rest = json;
    while let Some(at) = rest.find('\\') {
        rest = &rest[at..];
        let (length, is_half) = match unit(rest) {
            Some(0xD800..=0xDBFF) => {
                let second = rest.get(6..).and_then(unit);
                (12, !matches!(second, Some(0xDC00..=0xDFFF)))
            }
            Some(0xDC00..=0xDFFF) => (6, true),
            _ => (2, false),
        };
        if is_half {
            return true;
        }
        rest = rest.get(length..).unwrap_or_default();
    }
    false
}

/// A value of a condition without what old clients put around it: `{"tag": "TextValue", "contents": "a"}` is
/// `"a"`, `{"tag": "Null"}` is null.
///
/// - Source: `jsValueToDynamicValue` in `ihp-querybuilder.js` of IHP 1.4 and before, and of `thin-backend`.
fn unwrapped(raw: &RawValue) -> &RawValue {
    #[derive(Deserialize)]
    #[serde(deny_unknown_fields)]
    struct Wrapped<'a> {
        #[serde(borrow)]
        tag: Cow<'a, str>,
        #[serde(borrow)]
        contents: Option<&'a RawValue>,
    }
    if !raw.get().starts_with('{') {
        return raw;
    }
    let Ok(Wrapped { tag, contents }) = serde_json::from_str(raw.get()) else { return raw };
    let contents = contents.unwrap_or(RawValue::NULL);
    let fits = matches!(
        (&*tag, contents.get().as_bytes().first()),
        ("TextValue", Some(b'"'))
            | ("IntValue" | "DoubleValue", Some(b'-' | b'0'..=b'9'))
            | ("BoolValue", Some(b't' | b'f'))
            | ("Null", Some(b'n'))
    );
    if fits { contents } else { raw }
}

/// A list of values within bounds.
fn literals(values: &[&RawValue]) -> Result<Vec<Literal>, Unreadable> {
    match values.len() {
        0..=MAX_VALUES => values.iter().map(|raw| Literal::read(unwrapped(raw))).collect(),
        _ => unreadable(format!("a list may have {MAX_VALUES} values at most")),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct WireQuery<'a> {
    #[serde(borrow)]
    table: &'a RawValue,
    #[serde(borrow)]
    selected_columns: &'a RawValue,
    #[serde(borrow)]
    where_condition: &'a RawValue,
    #[serde(borrow)]
    order_by_clause: &'a RawValue,
    #[serde(borrow)]
    distinct_on_column: Option<&'a RawValue>,
    #[serde(borrow)]
    limit: Option<&'a RawValue>,
    #[serde(borrow)]
    offset: Option<&'a RawValue>,
}

impl Expr {
    /// Reads a condition, within the same bounds as those of a query.
    pub fn read(json: &str) -> Result<Expr, Unreadable> {
        if depth(json) > MAX_JSON_DEPTH {
            return too_complex();
        }
        read_expr(json, 0, &mut 0)
    }
}

impl Query {
    /// Whether which of the rows that match are in the result depends on others.
    pub(crate) fn is_window(&self) -> bool {
        self.limit.is_some() || self.offset.is_some() || self.distinct_on.is_some()
    }

    /// Reads a query object.
    ///
    /// - Errors: it is none, or beyond the bounds: conditions 64 deep and 2,000 in all, 10,000 values in a list.
    pub fn read(json: &str) -> Result<Query, Unreadable> {
        let wire: WireQuery<'_> = read("field `query`", json)?;
        let order: Vec<&RawValue> = read("field `orderByClause`", wire.order_by_clause.get())?;
        let condition = match wire.where_condition.get() {
            "null" => None,
            condition => Some(Expr::read(condition)?),
        };
        Ok(Query {
            table: text("table", Some(wire.table))?,
            selected: read_selected(wire.selected_columns.get())?,
            condition,
            order: order.iter().map(|raw| read_order(raw.get())).collect::<Result<_, _>>()?,
            distinct_on: wire
                .distinct_on_column
                .map(|raw| text("distinctOnColumn", Some(raw)))
                .transpose()?,
            limit: count("limit", wire.limit)?,
            offset: count("offset", wire.offset)?,
        })
    }
}

/// A number of rows.
fn count(name: &str, raw: Option<&RawValue>) -> Result<Option<i64>, Unreadable> {
    let Some(raw) = raw.filter(|raw| raw.get() != "null") else { return Ok(None) };
    match raw.get().parse::<i64>() {
        Ok(count) if count >= 0 => Ok(Some(count)),
        _ => unreadable(format!("{name} must be a whole number that is not negative")),
    }
}

fn read_selected(json: &str) -> Result<Selected, Unreadable> {
    #[derive(Deserialize)]
    #[serde(expecting = "an object")]
    struct Wire<'a> {
        #[serde(borrow)]
        tag: Cow<'a, str>,
        contents: Option<Vec<String>>,
    }
    let wire: Wire<'_> = read("field `selectedColumns`", json)?;
    match (&*wire.tag, wire.contents) {
        ("SelectAll", _) => Ok(Selected::All),
        ("SelectSpecific", Some(fields)) => Ok(Selected::Fields(fields)),
        ("SelectSpecific", None) => unreadable("missing field `contents` of selectedColumns"),
        (tag, _) => unreadable(format!("selectedColumns has the unknown tag {}", shown(tag))),
    }
}

fn read_order(json: &str) -> Result<Order, Unreadable> {
    #[derive(Deserialize)]
    enum Direction {
        Asc,
        Desc,
    }
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase", expecting = "an object")]
    struct Wire {
        tag: Option<String>,
        order_by_column: Option<String>,
        order_by_direction: Option<Direction>,
        tsvector: Option<String>,
        tsquery: Option<String>,
    }
    let wire: Wire = read("an order", json)?;
    let descending = matches!(wire.order_by_direction, Some(Direction::Desc));
    match (wire.tag.as_deref(), wire.order_by_column, wire.tsvector, wire.tsquery) {
        (Some("OrderByTSRank"), _, Some(field), Some(query)) => {
            Ok(Order::Rank { field, query, descending })
        }
        (Some("OrderByTSRank"), ..) => {
            unreadable("missing field `tsvector` or `tsquery` of orderByClause")
        }
        (None | Some("OrderByClause"), Some(field), ..) if wire.order_by_direction.is_some() => {
            Ok(Order::Field { field, descending })
        }
        (None | Some("OrderByClause"), ..) => {
            unreadable("missing field `orderByColumn` or `orderByDirection` of orderByClause")
        }
        (Some(tag), ..) => unreadable(format!("orderByClause has the unknown tag {}", shown(tag))),
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase", expecting = "an object")]
struct WireExpr<'a> {
    #[serde(borrow)]
    tag: Cow<'a, str>,
    #[serde(borrow)]
    field: Option<&'a RawValue>,
    #[serde(borrow)]
    value: Option<&'a RawValue>,
    #[serde(borrow)]
    values: Option<Vec<&'a RawValue>>,
    function_call: Option<WireCall>,
    #[serde(borrow)]
    left: Option<&'a RawValue>,
    op: Option<Operator>,
    #[serde(borrow)]
    right: Option<&'a RawValue>,
}

#[derive(Deserialize)]
#[serde(expecting = "an object")]
struct WireCall {
    tag: Option<String>,
    text: String,
}

fn too_complex<T>() -> Result<T, Unreadable> {
    unreadable(format!("conditions may nest {MAX_DEPTH} deep and have {MAX_NODES} parts at most"))
}

fn read_expr(json: &str, depth: usize, nodes: &mut usize) -> Result<Expr, Unreadable> {
    *nodes += 1;
    if depth >= MAX_DEPTH || *nodes > MAX_NODES {
        return too_complex();
    }
    let wire: WireExpr<'_> = read("a condition", json)?;
    let missing = |field: &str| format!("missing field `{field}` of {}", shown(&wire.tag));
    Ok(match &*wire.tag {
        "ColumnExpression" => match wire.field {
            Some(field) => Expr::Field(text("field", Some(field))?),
            None => return unreadable(missing("field")),
        },
        // A value that is missing is not null: that would be another condition.
        "LiteralExpression" => match (wire.value, has_key(json, "value")?) {
            (Some(value), _) => Expr::Literal(Literal::read(unwrapped(value))?),
            (None, true) => Expr::Literal(Literal("null".into())),
            (None, false) => return unreadable(missing("value")),
        },
        "ListExpression" => match wire.values {
            Some(values) => Expr::List(literals(&values)?),
            None => return unreadable(missing("values")),
        },
        "CallExpression" => match wire.function_call {
            Some(WireCall { tag, text }) if tag.as_deref().is_none_or(|tag| tag == "ToTSQuery") => {
                Expr::TextQuery(text)
            }
            Some(_) => return unreadable("functionCall has an unknown tag"),
            None => return unreadable(missing("functionCall")),
        },
        "InfixOperatorExpression" => {
            let (Some(left), Some(operator)) = (wire.left, wire.op) else {
                return unreadable(missing(if wire.left.is_none() { "left" } else { "op" }));
            };
            let right = match wire.right {
                Some(right) => Some(Box::new(read_expr(right.get(), depth + 1, nodes)?)),
                // The original client leaves it out of `where({one: value})`.
                None if matches!(operator, Operator::And | Operator::Or) => None,
                None => return unreadable(missing("right")),
            };
            let left = Box::new(read_expr(left.get(), depth + 1, nodes)?);
            Expr::Infix { left, operator, right }
        }
        tag => return unreadable(format!("a condition has the unknown tag {}", shown(tag))),
    })
}

/// Whether an object names a key, also with null.
fn has_key(json: &str, key: &str) -> Result<bool, Unreadable> {
    let members: std::collections::HashMap<Cow<'_, str>, &RawValue> = read("a condition", json)?;
    Ok(members.contains_key(key))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(condition: &str) -> Result<Option<Expr>, Unreadable> {
        let query = format!(
            r#"{{"table":"tasks","selectedColumns":{{"tag":"SelectAll"}},"whereCondition":{condition},"orderByClause":[]}}"#
        );
        Query::read(&query).map(|query| query.condition)
    }

    #[test]
    fn ds_7_1_half_of_a_surrogate_pair_is_no_text() {
        let read = |json: &str| {
            Literal::read(&RawValue::from_string(json.into()).unwrap())
                .map(|read| read.json().to_owned())
        };
        for whole in
            [r#""a""#, r#""\ud83d\ude00""#, r#""\\ud800""#, r#"{"a": "\u00e9\n"}"#, "1.50", "null"]
        {
            assert_eq!(read(whole).as_deref(), Ok(whole));
        }
        for half in [
            r#""a\ud800""#,
            r#""\udc00""#,
            r#""\ud800\ud800\udc00""#,
            r#"["\\\ud800x"]"#,
            r#""\ud83d\u0041""#,
        ] {
            assert!(read(half).is_err(), "{half}");
        }
    }

    #[test]
    fn the_example_of_the_protocol_is_read() {
        let query = Query::read(
            r#"{"table":"tasks","selectedColumns":{"tag":"SelectSpecific","contents":["id","title"]},
                "whereCondition":{"tag":"InfixOperatorExpression","left":{"tag":"ColumnExpression","field":"teamId"},
                "op":"OpEqual","right":{"tag":"LiteralExpression","value":9007199254740993}},
                "orderByClause":[{"orderByColumn":"createdAt","orderByDirection":"Desc"},
                {"tag":"OrderByTSRank","tsvector":"text","tsquery":"a:*"}],
                "distinctOnColumn":null,"limit":50,"offset":null,"unknown":[1]}"#,
        )
        .unwrap();
        assert_eq!(query.selected, Selected::Fields(vec!["id".into(), "title".into()]));
        assert_eq!(
            query.condition,
            Some(Expr::Infix {
                left: Box::new(Expr::Field("teamId".into())),
                operator: Operator::Equal,
                right: Some(Box::new(Expr::Literal(Literal("9007199254740993".into())))),
            })
        );
        assert_eq!(
            query.order,
            [
                Order::Field { field: "createdAt".into(), descending: true },
                Order::Rank { field: "text".into(), query: "a:*".into(), descending: false },
            ]
        );
        assert_eq!((query.limit, query.offset, query.distinct_on), (Some(50), None, None));
    }

    #[test]
    fn what_must_be_there_must_be_there_and_null_is_there() {
        let whole = r#"{"table":"t","selectedColumns":{"tag":"SelectAll"},"whereCondition":null,"orderByClause":[]}"#;
        assert!(Query::read(whole).is_ok());
        for key in ["table", "selectedColumns", "whereCondition", "orderByClause"] {
            let lacking = whole.replace(&format!("\"{key}\""), "\"x\"");
            let error = Query::read(&lacking).unwrap_err();
            assert!(error.0.contains(key), "{key}: {error}");
        }
        assert_eq!(
            read(r#"{"tag":"LiteralExpression","value":null}"#),
            Ok(Some(Expr::Literal(Literal("null".into()))))
        );
        assert!(read(r#"{"tag":"LiteralExpression"}"#).is_err());
        assert!(read(r#"{"tag":"Other"}"#).unwrap_err().0.contains("Other"));
    }

    #[test]
    fn ds_17_what_clients_before_ihp_1_5_put_around_a_value_is_not_part_of_it() {
        let value =
            |json: &str| match read(&format!(r#"{{"tag":"LiteralExpression","value":{json}}}"#)) {
                Ok(Some(Expr::Literal(literal))) => literal.json().to_owned(),
                other => panic!("{json}: {other:?}"),
            };
        assert_eq!(value(r#"{"tag":"TextValue","contents":"a \" b"}"#), r#""a \" b""#);
        assert_eq!(value(r#"{"contents":-7,"tag":"IntValue"}"#), "-7");
        assert_eq!(value(r#"{"tag":"DoubleValue","contents":1.50}"#), "1.50");
        assert_eq!(value(r#"{"tag":"BoolValue","contents":false}"#), "false");
        assert_eq!(value(r#"{"tag":"Null"}"#), "null");
        // Objects that are none of these are values of JSON columns.
        for whole in [
            r#"{"tag":"IntValue","contents":"7"}"#,
            r#"{"tag":"TextValue"}"#,
            r#"{"tag":"TextValue","contents":"a","more":1}"#,
            r#"{"tag":"Other","contents":1}"#,
            r#"{"a":1}"#,
        ] {
            assert_eq!(value(whole), whole);
        }
        let list = read(
            r#"{"tag":"ListExpression","values":[{"tag":"IntValue","contents":1},{"tag":"Null"},2]}"#,
        );
        let expected = ["1", "null", "2"].map(|json| Literal(json.into()));
        assert_eq!(list, Ok(Some(Expr::List(expected.to_vec()))));
        let half = r#"{"tag":"LiteralExpression","value":{"tag":"TextValue","contents":"\ud800"}}"#;
        assert!(read(half).is_err());
    }

    #[test]
    fn an_and_without_a_right_side_is_the_left_one() {
        let left = r#"{"tag":"ColumnExpression","field":"isDone"}"#;
        let infix =
            |op: &str| format!(r#"{{"tag":"InfixOperatorExpression","left":{left},"op":"{op}"}}"#);
        assert!(matches!(read(&infix("OpAnd")), Ok(Some(Expr::Infix { right: None, .. }))));
        assert!(read(&infix("OpEqual")).is_err());
        assert!(read(&infix("OpLike")).unwrap_err().0.contains("OpLike"));
    }

    #[test]
    fn depth_nodes_lists_and_windows_have_bounds() {
        let column = r#"{"tag":"ColumnExpression","field":"a"}"#.to_owned();
        let and = |left: &str, right: &str| {
            format!(
                r#"{{"tag":"InfixOperatorExpression","left":{left},"op":"OpAnd","right":{right}}}"#
            )
        };
        let nested =
            |depth: usize| (1..depth).fold(column.clone(), |inner, _| and(&inner, &column));
        assert!(read(&nested(64)).is_ok());
        assert!(read(&nested(65)).unwrap_err().0.contains("64"));
        fn wide(depth: usize, leaf: &str) -> String {
            match depth {
                0 => leaf.to_owned(),
                _ => format!(
                    r#"{{"tag":"InfixOperatorExpression","left":{0},"op":"OpOr","right":{0}}}"#,
                    wide(depth - 1, leaf)
                ),
            }
        }
        assert!(read(&wide(9, &column)).is_ok());
        assert!(read(&wide(11, &column)).unwrap_err().0.contains("2000"));
        let list = |length: usize| {
            let values = vec!["1"; length].join(",");
            format!(r#"{{"tag":"ListExpression","values":[{values}]}}"#)
        };
        assert!(read(&list(10_000)).is_ok());
        assert!(read(&list(10_001)).is_err());
        for limit in ["-1", "1.5", "\"2\"", "9223372036854775808"] {
            let query = format!(
                r#"{{"table":"t","selectedColumns":{{"tag":"SelectAll"}},"whereCondition":null,"orderByClause":[],"limit":{limit}}}"#
            );
            assert!(Query::read(&query).unwrap_err().0.contains("limit"), "{limit}");
        }
    }
}
