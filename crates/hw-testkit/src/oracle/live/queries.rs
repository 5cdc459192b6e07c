//! Random queries, each twice: as the message of a client, and as SQL (`datasync.md` 5).

use rand::Rng;
use rand::rngs::StdRng;
use rand::seq::IndexedRandom;
use serde::{Deserialize, Serialize};
use serde_json::{Value, json};

use crate::oracle::client::Rows;
use crate::oracle::world::{
    Form, GROUPS, KEYS, Kind, Membership, ROLES, TAGS, Table, USERS, World, quoted,
};

/// How deep conditions nest.
const DEPTH: usize = 3;

/// The column of words that some tables have. No log carries it, so that Postgres has to be asked.
pub(super) const WORDS: &str = "words";

/// Something to ask.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub struct Asked {
    pub(super) table: String,
    /// What a client sends as `query`.
    pub(super) query: Value,
    /// The same as SQL.
    pub(super) sql: String,
    /// The fields of the primary key.
    pub(super) key: Vec<String>,
    /// What is wanted of the rows.
    pub(super) wants: Wants,
}

/// What is wanted of the rows of a query.
#[derive(Clone, Debug, PartialEq, Serialize, Deserialize)]
pub(super) enum Wants {
    /// They themselves.
    Rows,
    /// Their number.
    Count,
    /// Groups of them by these fields, with what is computed of each, as a message says it; and both as SQL
    /// behind `SELECT`.
    Groups { by: Vec<String>, aggregates: Value, columns: Vec<String> },
}

impl Asked {
    /// All rows of a table with the primary key `id`.
    pub fn all(table: &str) -> Asked {
        let (sql, key) = (format!("SELECT * FROM {table}"), vec!["id".to_owned()]);
        Asked { table: table.to_owned(), query: everything(table), sql, key, wants: Wants::Rows }
    }

    /// What is asked of Postgres: a row of JSON for each row or group, or the number.
    pub(super) fn question(&self) -> String {
        let of_each = |sql: &str| format!("SELECT to_jsonb(q)::text FROM ({sql}) q");
        match &self.wants {
            Wants::Rows => of_each(&self.sql),
            Wants::Count => format!("SELECT count(*)::text FROM ({}) q", self.sql),
            Wants::Groups { by, columns, .. } => {
                let columns = columns.join(", ");
                let behind = match by.is_empty() {
                    true => String::new(),
                    false => format!(" GROUP BY {}", by.join(", ")),
                };
                of_each(&format!("SELECT {columns} FROM ({}) of_rows{behind}", self.sql))
            }
        }
    }

    /// The rows of an answer.
    ///
    /// - Takes: records, or groups; for a count the number alone.
    pub(super) fn rows(&self, records: impl IntoIterator<Item = Value>) -> Rows {
        records.into_iter().map(|record| ((self.table.clone(), self.id(&record)), record)).collect()
    }

    /// What identifies a record, as events name it. A count is one record without a key.
    pub(super) fn id(&self, record: &Value) -> String {
        let values = |fields: &[String]| fields.iter().map(|it| record[it].clone()).collect();
        let id: Value = match (&self.wants, &self.key[..]) {
            (Wants::Count, _) => return String::new(),
            (Wants::Groups { by, .. }, _) => values(by),
            (Wants::Rows, [field]) => record[field].clone(),
            (Wants::Rows, fields) => values(fields),
        };
        id.to_string()
    }

    /// The message that subscribes to it.
    pub(super) fn subscription(&self) -> Value {
        self.message(match self.wants {
            Wants::Rows => "CreateDataSubscription",
            Wants::Count => "CreateCountSubscription",
            Wants::Groups { .. } => "CreateAggregateSubscription",
        })
    }

    /// The message that asks once. How many rows there are is seen from them.
    pub(super) fn inquiry(&self) -> Value {
        self.message(match self.wants {
            Wants::Rows | Wants::Count => "DataSyncQuery",
            Wants::Groups { .. } => "DataSyncAggregateQuery",
        })
    }

    fn message(&self, tag: &str) -> Value {
        let mut message = json!({"tag": tag, "query": self.query});
        if let Wants::Groups { by, aggregates, .. } = &self.wants {
            message["groupBy"] = json!(by);
            message["aggregates"] = aggregates.clone();
        }
        message
    }

    /// The records with which a subscription to it begins; `None` where this is no such answer.
    pub(super) fn begun(&self, answer: &Value) -> Option<Vec<Value>> {
        match (answer["tag"].as_str()?, &self.wants) {
            ("DidCreateDataSubscription", Wants::Rows)
            | ("DidCreateAggregateSubscription", Wants::Groups { .. }) => {
                answer["result"].as_array().cloned()
            }
            ("DidCreateCountSubscription", Wants::Count) => Some(vec![answer["count"].clone()]),
            _ => None,
        }
    }

    /// A random query.
    pub(super) fn new(rng: &mut StdRng, world: &World, words: &[String]) -> Asked {
        let tables: Vec<&Table> = world.tables.iter().filter(|t| t.form != Form::Keyless).collect();
        match tables.choose(rng) {
            Some(table) if rng.random_bool(0.85) => {
                Asked::over(rng, &Asking::of_table(world, table, words))
            }
            _ => {
                let membership = world.memberships.choose(rng).expect("there is one");
                Asked::over(rng, &Asking::of_membership(world, membership))
            }
        }
    }

    fn over(rng: &mut StdRng, from: &Asking) -> Asked {
        let names = |columns: &[Column]| -> Vec<String> {
            let all = columns.iter().map(|(name, field, _)| match name == field {
                true => (*name).to_owned(),
                false => format!("{name} AS {field}"),
            });
            all.collect()
        };
        let mut chosen = from.columns.clone();
        let mut query = everything(&from.table);
        let columns = match rng.random_bool(0.5) {
            true => "*".to_owned(),
            false => {
                chosen.retain(|(_, field, _)| from.key.contains(field) || rng.random_bool(0.4));
                let fields: Vec<&str> = chosen.iter().map(|(_, field, _)| *field).collect();
                query["selectedColumns"] = json!({"tag": "SelectSpecific", "contents": fields});
                names(&chosen).join(", ")
            }
        };
        // `*` of a table whose fields are called otherwise than its columns.
        let columns =
            match columns == "*" && from.columns.iter().any(|(name, field, _)| name != field) {
                true => names(&from.columns).join(", "),
                false => columns,
            };
        let mut sql = format!("SELECT {columns} FROM {}", from.table);
        if rng.random_bool(0.75) {
            let (json, text) = from.condition(rng, DEPTH);
            query["whereCondition"] = json;
            sql.push_str(&format!(" WHERE {text}"));
        }
        if rng.random_bool(0.4) {
            sql = from.window(rng, &mut query, sql);
        }
        let key = from.key.iter().map(|field| (*field).to_owned()).collect();
        let wants = match rng.random_range(0..10) {
            0..5 => Wants::Rows,
            5 | 6 => Wants::Count,
            _ => from.groups(rng, &chosen),
        };
        Asked { table: from.table.clone(), query, sql, key, wants }
    }
}

/// The message's part that asks for all rows of a table.
fn everything(table: &str) -> Value {
    json!({"table": table, "selectedColumns": {"tag": "SelectAll"}, "whereCondition": null, "orderByClause": []})
}

/// What can be asked of a table.
struct Asking {
    table: String,
    columns: Vec<Column>,
    key: Vec<&'static str>,
    has_words: bool,
}

/// A column, its field, and what its values are.
type Column = (&'static str, &'static str, Type);

/// What values of a column are.
#[derive(Clone, Copy)]
enum Type {
    Key(Kind),
    Group(Kind),
    User,
    Tag,
    Role,
    Small,
    Flag,
    Amount,
    Mood,
    Uuid,
    Text,
}

impl Type {
    /// A value: as JSON, and in SQL.
    fn value(self, rng: &mut StdRng) -> (Value, String) {
        let one = |rng: &mut StdRng, of: &[&str]| {
            let text = *of.choose(rng).expect("not empty");
            (Value::from(text), quoted(text))
        };
        let nth = |kind: Kind, prefix, n| (kind.value(prefix, n), kind.literal(prefix, n));
        match self {
            Type::Key(kind) => nth(kind, "k", rng.random_range(0..KEYS)),
            Type::Group(kind) => nth(kind, "g", rng.random_range(0..GROUPS)),
            Type::User => one(rng, &USERS),
            Type::Tag => one(rng, &TAGS),
            Type::Role => one(rng, &ROLES),
            Type::Small => nth(Kind::Int, "", rng.random_range(0..5)),
            Type::Flag => {
                let flag = rng.random_bool(0.5);
                (flag.into(), flag.to_string())
            }
            Type::Amount => {
                let n = f64::from(rng.random_range(-90..90)) + 0.5;
                (n.into(), format!("'{n}'::numeric"))
            }
            Type::Mood => one(rng, &["calm", "wild"]),
            Type::Uuid => {
                let it = format!("{:08x}-0000-4000-8000-000000000000", rng.random::<u32>());
                (Value::from(&*it), quoted(&it))
            }
            Type::Text => one(rng, &["text 5 ☕", "text 700", "long", ""]),
        }
    }
}

impl Asking {
    fn of_table(world: &World, table: &Table, words: &[String]) -> Asking {
        let mut columns = vec![("id", "id", Type::Key(table.key))];
        let mut key = vec!["id"];
        if table.form == Form::Composite {
            columns.push(("org", "org", Type::Small));
            key.push("org");
        }
        columns.extend([
            ("owner", "owner", Type::User),
            ("grp", "grp", Type::Group(world.group)),
            ("kind", "kind", Type::Small),
            ("tag", "tag", Type::Tag),
            ("flag", "flag", Type::Flag),
            ("amount", "amount", Type::Amount),
            ("alt", "alt", Type::Uuid),
            ("body", "body", Type::Text),
            ("num", "num", Type::Small),
            ("mood", "mood", Type::Mood),
        ]);
        Asking { table: table.name.clone(), columns, key, has_words: words.contains(&table.name) }
    }

    fn of_membership(world: &World, membership: &Membership) -> Asking {
        let has_id = membership.create.contains("(id ");
        let mut columns = vec![
            ("member", "member", Type::User),
            ("grp", "grp", Type::Group(world.group)),
            // A word that Haskell reserves.
            ("role", "role_", Type::Role),
        ];
        let key = match has_id {
            true => vec!["id"],
            false => vec!["member", "grp"],
        };
        if has_id {
            columns.insert(0, ("id", "id", Type::Small));
        }
        Asking { table: membership.name.clone(), columns, key, has_words: false }
    }

    /// A condition: as JSON, and in SQL.
    fn condition(&self, rng: &mut StdRng, depth: usize) -> (Value, String) {
        let infix = |left: Value, op: &str, right: Value| json!({"tag": "InfixOperatorExpression", "left": left, "op": op, "right": right});
        if depth > 0 && rng.random_bool(0.45) {
            let (left, left_sql) = self.condition(rng, depth - 1);
            let (op, word) = *[("OpAnd", "AND"), ("OpOr", "OR")].choose(rng).expect("two");
            // Clients leave the right one out where there is one condition only.
            if rng.random_bool(0.1) {
                return (
                    json!({"tag": "InfixOperatorExpression", "left": left, "op": op}),
                    left_sql,
                );
            }
            let (right, right_sql) = self.condition(rng, depth - 1);
            return (infix(left, op, right), format!("({left_sql}) {word} ({right_sql})"));
        }
        let field = |field: &str| json!({"tag": "ColumnExpression", "field": field});
        let literal = |value: Value| json!({"tag": "LiteralExpression", "value": value});
        let (name, of, kind) = *self.columns.choose(rng).expect("there are some");
        let compare = [
            ("OpEqual", "="),
            ("OpEqual", "="),
            ("OpNotEqual", "<>"),
            ("OpGreaterThan", ">"),
            ("OpGreaterThanOrEqual", ">="),
            ("OpLessThan", "<"),
            ("OpLessThanOrEqual", "<="),
        ];
        let (op, sign) = *compare.choose(rng).expect("not empty");
        match rng.random_range(0..24) {
            0..10 => {
                let (value, sql) = kind.value(rng);
                (infix(field(of), op, literal(value)), format!("{name} {sign} {sql}"))
            }
            10 => {
                let (op, word) = *[
                    ("OpEqual", "IS NULL"),
                    ("OpIs", "IS NULL"),
                    ("OpNotEqual", "IS NOT NULL"),
                    ("OpIsNot", "IS NOT NULL"),
                ]
                .choose(rng)
                .expect("four");
                (infix(field(of), op, literal(Value::Null)), format!("{name} {word}"))
            }
            11 => {
                let word = ("OpNotEqual", "IS NOT NULL");
                let (op, word) = if rng.random_bool(0.5) { ("OpEqual", "IS NULL") } else { word };
                (infix(literal(Value::Null), op, field(of)), format!("{name} {word}"))
            }
            12 | 13 => {
                let (value, sql) = kind.value(rng);
                let (op, word) = match rng.random_bool(0.5) {
                    true => ("OpIs", "IS NOT DISTINCT FROM"),
                    false => ("OpIsNot", "IS DISTINCT FROM"),
                };
                (infix(field(of), op, literal(value)), format!("{name} {word} {sql}"))
            }
            14..17 => {
                let count = rng.random_range(0..4);
                let values: Vec<(Value, String)> = (0..count).map(|_| kind.value(rng)).collect();
                let (mut json, texts): (Vec<Value>, Vec<String>) = values.into_iter().unzip();
                let mut sql = match texts.is_empty() {
                    true => "false".to_owned(),
                    false => format!("{name} IN ({})", texts.join(", ")),
                };
                if rng.random_bool(0.25) {
                    json.push(Value::Null);
                    sql = format!("({sql}) OR {name} IS NULL");
                }
                (infix(field(of), "OpIn", json!({"tag": "ListExpression", "values": json})), sql)
            }
            17 if self.columns.iter().any(|(name, ..)| *name == "num") => {
                (infix(field("kind"), op, field("num")), format!("kind {sign} num"))
            }
            18 if self.columns.iter().any(|(name, ..)| *name == "flag") => {
                (field("flag"), "flag".to_owned())
            }
            19 => {
                let (inner, inner_sql) = self.condition(rng, 0);
                let flag = rng.random_bool(0.5);
                let (op, word) = match rng.random_bool(0.5) {
                    true => ("OpIs", "IS"),
                    false => ("OpIsNot", "IS NOT"),
                };
                (infix(inner, op, literal(flag.into())), format!("({inner_sql}) {word} {flag}"))
            }
            20 => (literal(true.into()), "true".to_owned()),
            21..24 if self.has_words => {
                let text = *["red | text", "text & !blue", "gre:*"].choose(rng).expect("three");
                let call = json!({"tag": "CallExpression", "functionCall": {"tag": "ToTSQuery", "text": text}});
                (
                    infix(field(WORDS), "OpTSMatch", call),
                    format!("{WORDS} @@ to_tsquery('english', '{text}')"),
                )
            }
            _ => {
                let (value, sql) = kind.value(rng);
                (infix(field(of), "OpEqual", literal(value)), format!("{name} = {sql}"))
            }
        }
    }

    /// Groups of rows, and what is computed of them.
    ///
    /// - Takes: the columns that the query has.
    fn groups(&self, rng: &mut StdRng, columns: &[Column]) -> Wants {
        // Equal values of these are printed alike, so that it is known how a group is called.
        let can_group = |of: Type| {
            matches!(
                of,
                Type::User | Type::Tag | Type::Role | Type::Small | Type::Flag | Type::Mood
            )
        };
        let mut by: Vec<String> = Vec::new();
        for (_, field, of) in columns {
            if by.len() < 2 && can_group(*of) && rng.random_bool(0.25) {
                by.push((*field).to_owned());
            }
        }
        let mut aggregates = json!({"n": {"tag": "Count"}});
        let mut texts = by.clone();
        texts.push("count(*) AS n".into());
        for number in 0..rng.random_range(0..3) {
            let (_, field, of) = *columns.choose(rng).expect("there is the key");
            let tags: &[&str] = match of {
                Type::Small | Type::Amount => &["Count", "Sum", "Avg", "Min", "Max"],
                Type::User | Type::Tag | Type::Role | Type::Mood => &["Count", "Min", "Max"],
                _ => &["Count"],
            };
            let tag = *tags.choose(rng).expect("not empty");
            aggregates[format!("a{number}")] = json!({"tag": tag, "field": field});
            texts.push(format!("{}({field}) AS a{number}", tag.to_lowercase()));
        }
        Wants::Groups { by, aggregates, columns: texts }
    }

    /// An order and a window. The order ends with the key, so that there is one answer only.
    fn window(&self, rng: &mut StdRng, query: &mut Value, sql: String) -> String {
        let direction = |rng: &mut StdRng| match rng.random_bool(0.5) {
            true => ("Asc", ""),
            false => ("Desc", " DESC"),
        };
        let mut order = Vec::new();
        let mut texts = Vec::new();
        let mut by = |rng: &mut StdRng, name: &str, field: &str| {
            let (word, sign) = direction(rng);
            order.push(json!({"orderByColumn": field, "orderByDirection": word}));
            texts.push(format!("{name}{sign}"));
        };
        let (name, field, _) = *self.columns.choose(rng).expect("there are some");
        let is_distinct = rng.random_bool(0.2);
        if is_distinct {
            query["distinctOnColumn"] = field.into();
        }
        by(rng, name, field);
        for field in &self.key {
            by(rng, field, field);
        }
        if self.has_words && !is_distinct && rng.random_bool(0.3) {
            order.insert(
                0,
                json!({"tag": "OrderByTSRank", "tsvector": WORDS, "tsquery": "red", "orderByDirection": "Desc"}),
            );
            texts.insert(0, format!("ts_rank({WORDS}, to_tsquery('english', 'red')) DESC"));
        }
        query["orderByClause"] = order.into();
        let sql = match is_distinct {
            true => sql.replacen("SELECT ", &format!("SELECT DISTINCT ON ({name}) "), 1),
            false => sql,
        };
        let mut sql = format!("{sql} ORDER BY {}", texts.join(", "));
        if rng.random_bool(0.8) {
            let limit = rng.random_range(0..9);
            query["limit"] = limit.into();
            sql.push_str(&format!(" LIMIT {limit}"));
        }
        if rng.random_bool(0.3) {
            let offset = rng.random_range(0..4);
            query["offset"] = offset.into();
            sql.push_str(&format!(" OFFSET {offset}"));
        }
        sql
    }
}
