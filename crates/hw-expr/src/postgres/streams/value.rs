//! Values: columns, constants, and what a request tells of who asks; and comparisons of them.
//!
//! A token's `sub` is a text, as its standard has it; so `auth.user_id()` is the text that Postgres is told.
//! Of other claims the two languages have other ideas: to `->>` of Postgres each is a text, to the sync language a
//! number is a number, a boolean 1 or 0, and an array or object its text without white space. Each use of a claim
//! says which of them it means.

use super::super::operators::{Operation, Routine};
use super::super::tree::Expr;
use super::super::types::{Scalar, Type};
use super::text::{Cond, literal};
use super::{Mode, Unstreamable, Writer, refuse};
use hw_types::text::container::Array;
use hw_types::text::to_text;
use std::collections::BTreeSet;
use std::sync::Arc;

/// A value as a text of the sync language.
#[derive(Clone, Debug)]
pub(super) struct Value {
    pub sql: String,
    pub form: Form,
    pub side: Side,
    /// What is NULL exactly where it is; `None`: it is never NULL.
    pub null: Option<String>,
    /// Which cast of a value of the request has succeeded where it is equal to something.
    pub cast: Option<String>,
}

/// How values of the sync language stand for those of Postgres.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(super) enum Form {
    /// A text that is the same in both.
    Text,
    /// The text that Postgres prints.
    Uuid,
    /// The label, one of these.
    Enum(Arc<[String]>),
    Int,
    Bool,
    /// The decimal text that an integer of the token is.
    Digits,
    /// The text of an integer of a row.
    IntText,
    /// A constant of a type that the other side says; NULL without bytes.
    Literal(Option<Box<[u8]>>),
    /// What `->>` gives of the claims, by the keys that lead there.
    Claim(Vec<String>),
    /// What `->` gives of them.
    Json(Vec<String>),
    /// Values of this type are not the same in both languages.
    Other(Type),
}

/// What a value is of.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Side {
    Constant,
    Request,
    Row(usize),
}

impl Writer<'_> {
    pub(super) fn value(&mut self, expr: &Expr) -> Result<Value, Unstreamable> {
        let folded =
            self.constant(expr, |frame| Ok(expr.evaluate(frame)?.map(|value| value.into_owned())))?;
        if let Some(value) = folded {
            return Ok(Value::constant(value));
        }
        match expr {
            Expr::Column { row, index } => {
                let sql = self.column(*row, *index)?;
                let form = match self.scopes[*row].shape.columns[*index].1 {
                    Type::Scalar(Scalar::Text) => Form::Text,
                    Type::Scalar(Scalar::Uuid) => Form::Uuid,
                    Type::Scalar(Scalar::Enum(oid)) => Form::Enum(self.shapes.labels(oid).into()),
                    Type::Scalar(Scalar::Int2 | Scalar::Int4 | Scalar::Int8) => Form::Int,
                    Type::Scalar(Scalar::Bool) => Form::Bool,
                    other => Form::Other(other),
                };
                let null = Some(sql.clone());
                Ok(Value { sql, form, side: Side::Row(*row), null, cast: None })
            }
            Expr::Setting(name, missing_ok) => self.setting(name, missing_ok),
            Expr::Call(Operation::Relabel, inner) if inner.len() == 1 => {
                let value = self.value(&inner[0])?;
                match value.form {
                    Form::Enum(_) => Ok(Value { form: Form::Text, ..value }),
                    _ => Ok(value),
                }
            }
            Expr::Call(Operation::Run(routine), arguments) => self.computed(routine, arguments),
            Expr::Coalesce(all) => self.first_value(all),
            Expr::NullIf(left, right, _) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                let is_empty = matches!(&right.form, Form::Literal(Some(text)) if text.is_empty());
                match &left.form {
                    Form::Literal(None) => Ok(left),
                    // Neither a subject nor the claims are ever empty.
                    Form::Text | Form::Json(_) if left.null.is_none() && is_empty => Ok(left),
                    _ => refuse("the sync language has no NULLIF", "the value itself"),
                }
            }
            // What a STRICT function is for a NULL.
            Expr::Case(whens, otherwise) => {
                for (when, then) in whens {
                    let (Expr::IsNull(argument), Expr::Literal(None)) = (when, then) else {
                        return refuse(NO_CASE, "two policies, one for each case,");
                    };
                    if self.value(argument)?.null.is_some() {
                        return refuse(NO_CASE, "a function that is not STRICT");
                    }
                }
                self.value(otherwise)
            }
            Expr::Only(_) => {
                refuse("what a sub-select gives can only be compared with =", "IN (SELECT …)")
            }
            _ => refuse(
                "the sync language has no form of a value in it",
                "a column, a constant or a claim",
            ),
        }
    }

    /// A setting of the session, as every session of a client has it.
    fn setting(&self, name: &Expr, missing_ok: &Expr) -> Result<Value, Unstreamable> {
        let Expr::Literal(Some(name)) = name else {
            return refuse("the name of a setting is computed", "the name itself");
        };
        let name = String::from_utf8_lossy(name).to_ascii_lowercase();
        match name.as_str() {
            "request.jwt.claim.sub" | "rls.ihp_user_id" => Ok(Value::subject()),
            "request.jwt.claims" => Ok(Value::json(Vec::new())?),
            "request.jwt.claim.role" if self.clients.also_claimed.is_empty() => {
                Ok(Value::constant(Some(self.clients.role.clone().into_bytes())))
            }
            "request.jwt.claim.role" => refuse(
                "tokens of several roles are of this one",
                "uploads.role, or a policy TO the role,",
            ),
            _ => match missing_ok {
                // What services set of each request, and nobody of a database; helper functions look for it.
                Expr::Literal(Some(yes)) if **yes == [1] && name.starts_with("request.jwt.") => {
                    Ok(Value::constant(None))
                }
                // The database, or a role in it, may set it, now or later.
                Expr::Literal(Some(yes)) if **yes == [1] => refuse(
                    format!("what the setting {name} is for clients is known to Postgres alone"),
                    "a claim of request.jwt.claims",
                ),
                _ => Err(Unstreamable {
                    fails: true,
                    ..Unstreamable::new(
                        format!("the setting {name} is never set for clients, which fails"),
                        "a claim of request.jwt.claims",
                    )
                }),
            },
        }
    }

    fn computed(&mut self, routine: &Routine, arguments: &[Expr]) -> Result<Value, Unstreamable> {
        let types = (routine.arguments.first().copied(), routine.result);
        let (Some(Type::Scalar(from)), Type::Scalar(to)) = types else {
            return self.member(routine, arguments);
        };
        if routine.name != "::" {
            return self.member(routine, arguments);
        }
        let value = self.value(&arguments[0])?;
        use Scalar::{Int2, Int4, Int8, Json, Jsonb, Text, Uuid};
        let refused = || {
            refuse(
                format!("the sync language has no cast of {from} to {to} that is Postgres's"),
                "a column of the type that it is compared with",
            )
        };
        match (from, to, &value.form) {
            (Int2, Int4 | Int8, _) | (Int4, Int8, _) => Ok(value),
            (Text | Json | Jsonb, Json | Jsonb, Form::Json(_)) => Ok(value),
            (Uuid, Text, Form::Uuid) => Ok(Value { form: Form::Text, ..value }),
            (Int2 | Int4 | Int8, Text, Form::Int) => Ok(Value {
                sql: format!("CAST({} AS text)", value.sql),
                form: Form::IntText,
                ..value
            }),
            (Int2 | Int4 | Int8, Text, Form::Digits) => Ok(Value { form: Form::Text, ..value }),
            (Text, Uuid, Form::Text | Form::Claim(_)) if value.side == Side::Request => {
                let plain = value.sql;
                let guard = match value.null {
                    None => format!("uuid_blob({plain}) IS NOT NULL"),
                    Some(_) => format!("ifnull(uuid_blob({plain}), 0) IS NOT NULL"),
                };
                let cast = Some(self.guarded(format!("uuid {plain}"), guard));
                Ok(Value {
                    sql: format!("lower({plain})"),
                    form: Form::Uuid,
                    side: Side::Request,
                    null: value.null,
                    cast,
                })
            }
            (Text, Int2 | Int4 | Int8, Form::Text | Form::Claim(_))
                if value.side == Side::Request =>
            {
                let digits = match value.form {
                    // A boolean is an integer to the sync language, a number is not.
                    Form::Claim(ref path) => number_or_text(&value.sql, path)?,
                    _ => value.sql.clone(),
                };
                let (least, most) = match to {
                    Int2 => (i64::from(i16::MIN), i64::from(i16::MAX)),
                    Int4 => (i64::from(i32::MIN), i64::from(i32::MAX)),
                    _ => (i64::MIN, i64::MAX),
                };
                let guard = format!(
                    "CASE WHEN {0} IS NULL THEN true ELSE CAST(CAST({digits} AS integer) AS text) = {digits} \
                     AND CAST({digits} AS integer) BETWEEN {least} AND {most} END",
                    value.sql
                );
                let cast = Some(self.guarded(format!("{to} {digits}"), guard));
                Ok(Value { sql: digits, form: Form::Digits, cast, ..value })
            }
            _ => refused(),
        }
    }

    fn guarded(&mut self, cast: String, guard: String) -> String {
        self.guards.insert(cast.clone(), guard);
        cast
    }

    /// `->` and `->>`, and their forms with a path, into the claims.
    fn member(&mut self, routine: &Routine, arguments: &[Expr]) -> Result<Value, Unstreamable> {
        let refused = || {
            refuse(
                format!("the sync language has no {} that is Postgres's", routine.name),
                "a column that holds the result, kept by a trigger,",
            )
        };
        if !matches!(routine.name, "->" | "->>" | "#>" | "#>>") {
            return refused();
        }
        let [document, step] = arguments else { return refused() };
        let Value { form: Form::Json(mut path), .. } = self.value(document)? else {
            return refused();
        };
        let step = self
            .constant(step, |frame| Ok(step.evaluate(frame)?.map(|step| step.into_owned())))?
            .flatten();
        let Some(step) = step else { return refused() };
        if routine.name.starts_with('#') {
            let Ok(steps) = Array::read(&step) else { return refused() };
            for step in steps.elements() {
                match step.ok().flatten().map(std::str::from_utf8) {
                    Some(Ok(step)) => path.push(step.to_owned()),
                    _ => return refused(),
                }
            }
        } else if routine.arguments.get(1) == Some(&super::super::operators::TEXT) {
            match String::from_utf8(step) {
                Ok(step) => path.push(step),
                Err(_) => return refused(),
            }
        } else {
            return refuse("places in arrays of claims are not compared", "an object of claims");
        }
        match routine.name.ends_with("->>") || routine.name == "#>>" {
            true => Value::claim(path),
            false => Value::json(path),
        }
    }

    fn first_value(&mut self, all: &[Expr]) -> Result<Value, Unstreamable> {
        let mut first: Option<Value> = None;
        for one in all {
            let value = self.value(one)?;
            if value.form == Form::Literal(None) {
                continue;
            }
            first = Some(match first {
                None => value,
                Some(before) => {
                    let exact =
                        |value: &Value| matches!(value.form, Form::Text | Form::Uuid | Form::Int);
                    let alike = before.side == value.side && before.form == value.form;
                    if !alike || !exact(&value) || before.cast.is_some() || value.cast.is_some() {
                        return refuse(
                            "the sync language has no COALESCE of these values that is Postgres's",
                            "one policy for each of them",
                        );
                    }
                    let sql = format!("ifnull({}, {})", before.sql, value.sql);
                    let null = value.null.is_some().then(|| sql.clone());
                    Value { sql, null, ..before }
                }
            });
            if first.as_ref().is_some_and(|first| first.null.is_none()) {
                break;
            }
        }
        Ok(first.unwrap_or_else(|| Value::constant(None)))
    }

    /// An operator or function that is true or false.
    pub(super) fn routine(
        &mut self,
        routine: &Routine,
        arguments: &[Expr],
        mode: Mode,
    ) -> Result<Cond, Unstreamable> {
        match (routine.name, arguments) {
            ("::", [inner]) => {
                let value = self.value(inner)?;
                match &value.form {
                    Form::Text | Form::Claim(_) if value.side == Side::Request => {
                        let yes = ["true", "tru", "tr", "t", "yes", "ye", "y", "on", "1"];
                        let no = ["false", "fals", "fal", "fa", "f", "no", "n", "off", "of", "0"];
                        let sql = match &value.form {
                            // Of a number it is not known whether it was written as Postgres reads it.
                            Form::Claim(path) => {
                                let (claim, json) = (&value.sql, json_of(path)?);
                                format!(
                                    "CASE WHEN {claim} IS NULL THEN NULL WHEN substring({json}, 1, 1) = '\"' \
                                     THEN lower({claim}) ELSE {json} END"
                                )
                            }
                            _ => format!("lower({})", value.sql),
                        };
                        Ok(self.boolean(&value, &sql, &yes, &no, mode))
                    }
                    Form::Json(path) if !path.is_empty() => {
                        Ok(self.boolean(&value, &value.sql, &["true"], &["false"], mode))
                    }
                    _ => refuse("a cast to boolean fails for other values", "a boolean column"),
                }
            }
            ("?", [document, key]) => {
                let (document, key) = (self.value(document)?, self.value(key)?);
                self.has_key(&document, &key, mode)
            }
            _ => refuse(
                format!("the sync language has no {} that is Postgres's", routine.name),
                "a boolean column that holds the result, kept by a trigger,",
            ),
        }
    }

    /// A claim that is read as a boolean.
    fn boolean(&mut self, value: &Value, sql: &str, yes: &[&str], no: &[&str], mode: Mode) -> Cond {
        let listed = |words: &[&str]| {
            let words: Vec<String> = words.iter().map(|word| literal(word)).collect();
            format!("{sql} IN ARRAY[{}]", words.join(", "))
        };
        let guard =
            format!("CASE WHEN {sql} IS NULL THEN true ELSE {} END", listed(&[yes, no].concat()));
        self.guarded(format!("boolean {}", value.sql), guard);
        match mode {
            Mode::True => Cond::term(listed(yes)),
            Mode::False => Cond::term(listed(no)),
            Mode::NotTrue => Cond::term(listed(yes)).negated(),
            Mode::NotFalse => Cond::term(listed(no)).negated(),
        }
    }

    /// `claims ? text`: whether an array has an element, or an object a member.
    fn has_key(&self, document: &Value, key: &Value, mode: Mode) -> Result<Cond, Unstreamable> {
        let (Form::Json(path), Some(null)) = (&document.form, &document.null) else {
            return refuse("? is only followed into claims", "a claim that is an array of texts");
        };
        debug_assert!(!path.is_empty(), "all claims together are never NULL");
        let json = &document.sql;
        let list = format!(
            "CASE substring({json}, 1, 1) WHEN '[' THEN {json} WHEN '{{' THEN json_keys({json}) \
             WHEN '\"' THEN '[' || ({json}) || ']' END"
        );
        let has = match (&key.form, key.side) {
            (Form::Literal(Some(text)), _) => {
                let text = utf8(text)?;
                if is_json_like(text) {
                    return refuse("a text that looks like JSON is equal to arrays", "other texts");
                }
                Cond::term(format!("{} IN ({list})", literal(text)))
            }
            (Form::Text | Form::IntText, Side::Row(_)) if mode == Mode::True => Cond::all(vec![
                Cond::term(format!("{} IN ({list})", key.sql)),
                // An element that is an array itself is to the sync language its text.
                Cond::term(format!("substring({}, 1, 1) IN ARRAY['[', '{{']", key.sql)).negated(),
            ]),
            (Form::Text | Form::IntText, Side::Row(_)) => {
                return refuse(
                    "that claims have no such element connects nothing",
                    "claims that have it",
                );
            }
            _ => {
                return refuse(
                    "only a constant or a column is looked for in claims",
                    "a text column",
                );
            }
        };
        Ok(match mode {
            Mode::True => has,
            Mode::NotTrue => has.negated(),
            Mode::False => {
                Cond::all(vec![has.negated(), Cond::term(format!("{null} IS NOT NULL"))])
            }
            Mode::NotFalse => Cond::any(vec![has, Cond::term(format!("{null} IS NULL"))]),
        })
    }
}

const NO_CASE: &str = "the sync language has no CASE of values of who asks that is Postgres's";

/// The user.
const SUBJECT: &str = "auth.user_id()";

impl Value {
    fn constant(value: Option<Vec<u8>>) -> Value {
        Value {
            sql: "NULL".into(),
            null: value.is_none().then(|| "NULL".into()),
            form: Form::Literal(value.map(Vec::into_boxed_slice)),
            side: Side::Constant,
            cast: None,
        }
    }

    fn subject() -> Value {
        Value { sql: SUBJECT.into(), form: Form::Text, side: Side::Request, null: None, cast: None }
    }

    fn json(path: Vec<String>) -> Result<Value, Unstreamable> {
        let sql = json_of(&path)?;
        let null = (!path.is_empty()).then(|| sql.clone());
        Ok(Value { sql, form: Form::Json(path), side: Side::Request, null, cast: None })
    }

    fn claim(path: Vec<String>) -> Result<Value, Unstreamable> {
        if path == ["sub"] {
            return Ok(Value::subject());
        }
        let Some((last, before)) = path.split_last() else {
            return refuse("all claims as one text are not compared", "->> and the claim's name");
        };
        let sql = match before {
            [] if last.starts_with('$') => return Err(no_key(last)),
            [] => format!("auth.parameter({})", literal(last)),
            before => {
                key(last)?;
                format!("{} ->> {}", json_of(before)?, literal(last))
            }
        };
        let null = Some(sql.clone());
        Ok(Value { sql, form: Form::Claim(path), side: Side::Request, null, cast: None })
    }

    fn is_text(&self) -> bool {
        matches!(self.form, Form::Text | Form::IntText | Form::Uuid | Form::Enum(_))
    }

    /// As a text where it was one in the token; what else it was is NULL.
    fn only_text(&self) -> Result<String, Unstreamable> {
        match &self.form {
            Form::Claim(path) => {
                Ok(format!("iif(substring({}, 1, 1) = '\"', {}, NULL)", json_of(path)?, self.sql))
            }
            _ => Ok(self.sql.clone()),
        }
    }
}

/// `->` along a path into the claims.
fn json_of(path: &[String]) -> Result<String, Unstreamable> {
    let mut sql = "auth.parameters()".to_owned();
    for (number, step) in path.iter().enumerate() {
        match number {
            0 if step.starts_with('$') => return Err(no_key(step)),
            0 => {}
            _ => key(step)?,
        }
        sql += &format!(" -> {}", literal(step));
    }
    Ok(sql)
}

/// Inside of claims there may be arrays, into which the sync language looks by numbers.
fn key(step: &str) -> Result<(), Unstreamable> {
    let is_number = step.parse::<u64>().is_ok();
    if is_number || step.starts_with('$') { Err(no_key(step)) } else { Ok(()) }
}

fn no_key(step: &str) -> Unstreamable {
    Unstreamable::new(
        format!("the name {step:?} of a claim means something else to the sync language"),
        "a name without $ that is no number",
    )
}

fn utf8(bytes: &[u8]) -> Result<&str, Unstreamable> {
    std::str::from_utf8(bytes).map_err(|_| Unstreamable::new("a constant is no text", "a text"))
}

/// A claim as a text where it was a text or a number in the token. (A boolean is an integer to the sync language;
/// so is a number that a double does not hold.)
fn number_or_text(claim: &str, path: &[String]) -> Result<String, Unstreamable> {
    let json = json_of(path)?;
    Ok(format!("iif({json} IN ARRAY['true', 'false'], NULL, CAST({claim} AS text))"))
}

/// Whether a text could be that of an array or object.
fn is_json_like(text: &str) -> bool {
    text.starts_with(['{', '['])
}

/// That both are of one row, or both of the request.
pub(super) fn together(left: &Value, right: &Value) -> Result<(), Unstreamable> {
    let apart =
        left.side != right.side && left.side != Side::Constant && right.side != Side::Constant;
    match apart {
        true => refuse(
            "only equality connects what is in a row with another row or with who asks",
            "= or IN",
        ),
        false => Ok(()),
    }
}

/// `=`.
pub(super) fn equal(left: &Value, right: &Value, mode: Mode) -> Result<Cond, Unstreamable> {
    if [left, right].iter().any(|side| side.form == Form::Literal(None)) {
        return Ok(Cond::of(mode.of(None)));
    }
    if mode != Mode::True {
        together(left, right)?;
    }
    let (left, right) = match &left.form {
        Form::Literal(_) => (right, left),
        _ => (left, right),
    };
    let mut implied = BTreeSet::new();
    if left.side != right.side {
        implied.extend(left.cast.iter().chain(&right.cast).cloned());
    }
    if let (Form::Claim(_), Form::Literal(Some(text))) = (&left.form, &right.form) {
        return claim_is(left, utf8(text)?, mode);
    }
    let (one, other) = pair(left, right)?;
    let equal = Cond::implying(format!("{one} = {other}"), implied);
    if let (Form::Enum(labels), Form::Literal(Some(label))) = (&left.form, &right.form) {
        let is_null = || known(left).negated();
        let differs = || other_label(&one, labels, utf8(label).unwrap_or_default());
        return Ok(match mode {
            Mode::True => equal,
            Mode::False => differs(),
            Mode::NotTrue => Cond::any(vec![differs(), is_null()]),
            Mode::NotFalse => Cond::any(vec![equal, is_null()]),
        });
    }
    if mode != Mode::True && [left, right].iter().any(|side| matches!(side.form, Form::Claim(_))) {
        return refuse(
            "a claim that is no text is not equal to the sync language where it is to Postgres",
            "= or IN",
        );
    }
    let differ = || {
        let texts = [left, right].into_iter().filter(|side| side.sql == SUBJECT);
        // One that is a number is equal to no text, where Postgres is told its digits.
        let texts = texts.map(|side| Cond::term(format!("typeof({}) = 'text'", side.sql)));
        Cond::all([equal.clone().negated()].into_iter().chain(texts).collect())
    };
    Ok(match mode {
        Mode::True => equal,
        Mode::NotTrue => differ(),
        Mode::False => Cond::all(vec![differ(), known(left), known(right)]),
        Mode::NotFalse => Cond::any(vec![equal, known(left).negated(), known(right).negated()]),
    })
}

/// That it is another one of the labels. A label of which nothing was known when this was written is none of them:
/// it may be the one that is meant, under the name that it has since.
fn other_label(sql: &str, labels: &[String], label: &str) -> Cond {
    let others: Vec<String> =
        labels.iter().filter(|known| *known != label).map(|known| literal(known)).collect();
    match others.is_empty() {
        true => Cond::Never,
        false => Cond::term(format!("{sql} IN ARRAY[{}]", others.join(", "))),
    }
}

/// That it is not NULL.
fn known(value: &Value) -> Cond {
    match &value.null {
        Some(null) => Cond::term(format!("{null} IS NOT NULL")),
        None => Cond::Always,
    }
}

/// Both sides of `=` so that they are equal exactly where Postgres has them so, and are no keys elsewhere.
pub(super) fn pair(left: &Value, right: &Value) -> Result<(String, String), Unstreamable> {
    let (left, right, is_turned) = match (&left.form, &right.form) {
        (Form::Literal(_), _) | (Form::Digits, Form::Int) => (right, left, true),
        (Form::Claim(_), form) if *form != Form::Literal(None) => (right, left, true),
        _ => (left, right, false),
    };
    let sides = match (&left.form, &right.form) {
        (_, Form::Literal(Some(bytes))) => (left.sql.clone(), constant(left, bytes)?),
        (Form::Text | Form::Enum(_), Form::Claim(_)) => (left.sql.clone(), right.only_text()?),
        (Form::IntText, Form::Claim(path)) => (left.sql.clone(), number_or_text(&right.sql, path)?),
        (Form::Int, Form::Int) | (Form::Bool, Form::Bool) | (Form::Digits, Form::Digits) => {
            (left.sql.clone(), right.sql.clone())
        }
        (Form::Int, Form::Digits) => (format!("CAST({} AS text)", left.sql), right.sql.clone()),
        _ if left.is_text() && right.is_text() => (left.sql.clone(), right.sql.clone()),
        (Form::Other(ty), _) | (_, Form::Other(ty)) => {
            return refuse(
                format!("equal values of type {ty} are several values to the sync language"),
                "a column of type text, uuid, integer, boolean or an enum",
            );
        }
        _ => {
            return refuse(
                "these values are compared otherwise by the sync language",
                "columns of one type, or a claim that is a text",
            );
        }
    };
    Ok(if is_turned { (sides.1, sides.0) } else { sides })
}

/// A constant as the other side has its values.
fn constant(other: &Value, bytes: &[u8]) -> Result<String, Unstreamable> {
    let damaged = |_| Unstreamable::new("a constant is not one of its type", "another constant");
    let printed = |scalar: Scalar| to_text(&scalar.pg_type(), bytes).map_err(|_| damaged(()));
    let integer = || super::super::compare::integer(bytes).map_err(|_| damaged(()));
    Ok(match other.form {
        Form::Text | Form::IntText | Form::Enum(_) => literal(utf8(bytes)?),
        Form::Uuid => literal(&printed(Scalar::Uuid)?),
        Form::Int => integer()?.to_string(),
        Form::Digits => literal(&integer()?.to_string()),
        Form::Bool => if bytes == [1] { "true" } else { "false" }.to_owned(),
        Form::Other(ty) => {
            return refuse(
                format!("equal values of type {ty} are several values to the sync language"),
                "a column of type text, uuid, integer, boolean or an enum",
            );
        }
        Form::Literal(_) | Form::Claim(_) | Form::Json(_) => {
            return refuse("JSON is not compared as a whole", "->> and a text");
        }
    })
}

/// `claims ->> name = constant`.
fn claim_is(claim: &Value, text: &str, mode: Mode) -> Result<Cond, Unstreamable> {
    if is_json_like(text) {
        return refuse(
            "an array or object of claims is not compared as a whole",
            "a claim of its own",
        );
    }
    let Form::Claim(path) = &claim.form else { return refuse("it is no claim", "a claim") };
    let (sql, quoted) = (&claim.sql, literal(text));
    let is = if matches!(text, "true" | "false") {
        // The text, or the boolean.
        Cond::any(vec![
            Cond::term(format!("{sql} = {quoted}")),
            Cond::term(format!("{} = {quoted}", json_of(path)?)),
        ])
    } else if text.parse::<f64>().is_ok() {
        if mode != Mode::True || text.parse::<i64>().is_err() {
            return refuse(
                "numbers among claims are not printed as Postgres prints them",
                "a text",
            );
        }
        Cond::term(format!("{} = {quoted}", number_or_text(sql, path)?))
    } else {
        Cond::term(format!("{sql} = {quoted}"))
    };
    Ok(match mode {
        Mode::True => is,
        Mode::NotTrue => is.negated(),
        Mode::False => Cond::all(vec![is.negated(), known(claim)]),
        Mode::NotFalse => Cond::any(vec![is, known(claim).negated()]),
    })
}

/// `<`, `<=`, `>`, `>=` of integers.
pub(super) fn ordered(
    left: &Value,
    right: &Value,
    name: &str,
    mode: Mode,
) -> Result<Cond, Unstreamable> {
    if [left, right].iter().any(|side| side.form == Form::Literal(None)) {
        return Ok(Cond::of(mode.of(None)));
    }
    let number = |value: &Value, other: &Value| -> Result<String, Unstreamable> {
        match (&value.form, &other.form) {
            (Form::Int, _) => Ok(value.sql.clone()),
            (Form::Literal(Some(bytes)), Form::Int) => constant(other, bytes),
            _ => refuse(
                "the order of these values is not the same in the sync language",
                "a boolean column that holds the result, kept by a trigger,",
            ),
        }
    };
    let (one, other) = (number(left, right)?, number(right, left)?);
    let opposite = match name {
        "<" => ">=",
        "<=" => ">",
        ">" => "<=",
        _ => "<",
    };
    let holds = Cond::term(format!("{one} {name} {other}"));
    let fails = Cond::term(format!("{one} {opposite} {other}"));
    Ok(match mode {
        Mode::True => holds,
        Mode::False => fails,
        Mode::NotTrue => holds.negated(),
        Mode::NotFalse => fails.negated(),
    })
}

/// `= ANY (constant)`, or `<> ALL (constant)`.
pub(super) fn listed(
    value: &Value,
    list: Option<&[u8]>,
    is_all: bool,
    mode: Mode,
) -> Result<Cond, Unstreamable> {
    let Some(list) = list else { return Ok(Cond::of(mode.of(None))) };
    let damaged = || Unstreamable::new("an array is damaged", "another array");
    let list = Array::read(list).map_err(|_| damaged())?;
    let equals = if is_all { mode.of_not() } else { mode };
    let mut parts = Vec::new();
    for element in list.elements() {
        let element = element.map_err(|_| damaged())?.map(<[u8]>::to_vec);
        parts.push(equal(value, &Value::constant(element), equals)?);
    }
    // As NOT of what the list's elements are compared with.
    Ok(match equals {
        Mode::True | Mode::NotFalse => Cond::any(parts),
        Mode::False | Mode::NotTrue => Cond::all(parts),
    })
}

/// `= ANY (column)`.
pub(super) fn in_column(value: &Value, ty: Type, column: &str) -> Result<Cond, Unstreamable> {
    let element = match ty {
        Type::Array(Scalar::Text) => Form::Text,
        Type::Array(Scalar::Uuid) => Form::Uuid,
        Type::Array(Scalar::Int2 | Scalar::Int4 | Scalar::Int8) => Form::Int,
        _ => {
            return refuse(
                format!("values of type {ty} are not looked into"),
                "a column with an array of texts, UUIDs or integers",
            );
        }
    };
    let element = Value {
        sql: String::new(),
        form: element,
        side: Side::Row(usize::MAX),
        null: None,
        cast: None,
    };
    let sql = match (&value.form, &element.form) {
        (Form::Literal(Some(bytes)), Form::Text) if bytes.starts_with(b"[") => {
            return refuse("a text that looks like JSON is equal to arrays", "other texts");
        }
        (Form::Literal(Some(bytes)), _) => constant(&element, bytes)?,
        (Form::Literal(None), _) => return Ok(Cond::Never),
        (Form::Digits, Form::Int) => {
            return refuse(
                "an integer of the token is looked for in an array",
                "a column with an array of texts",
            );
        }
        _ => pair(value, &element)?.0,
    };
    let mut implied = BTreeSet::new();
    implied.extend(value.cast.clone());
    let found = Cond::implying(format!("{sql} IN {column}"), implied);
    // An element that is an array itself is to the sync language its text.
    let is_plain = matches!(value.form, Form::Literal(_) | Form::Uuid | Form::Int | Form::IntText);
    Ok(match is_plain {
        true => found,
        false => {
            Cond::all(vec![found, Cond::term(format!("substring({sql}, 1, 1) = '['")).negated()])
        }
    })
}
