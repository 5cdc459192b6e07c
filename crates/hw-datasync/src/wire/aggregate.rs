//! Aggregates of a query's rows, beyond the original: `groupBy` and `aggregates` of a message.

use super::message::text;
use super::{Unreadable, read, shown, unreadable};
use hw_live::Function;
use serde::Deserialize;
use serde_json::value::RawValue;
use std::borrow::Cow;
use std::collections::BTreeMap;

/// Fields by which rows are grouped, at most.
const MAX_GROUPED: usize = 16;
/// Aggregates at most. With those fields they fit into the arguments of one function of Postgres.
const MAX_AGGREGATES: usize = 32;
/// Letters of a name, at most.
const MAX_NAME: usize = 64;

/// What is wanted of a query.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub enum Wanted {
    /// Its rows.
    Rows,
    /// How many rows it has.
    Count,
    /// Groups of its rows.
    Groups(Aggregation),
}

/// What is computed of a query's rows.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Aggregation {
    /// The fields by which rows are grouped; without any all of them are one group.
    pub group_by: Vec<String>,
    /// What is computed of each group, by its name.
    pub aggregates: BTreeMap<String, Aggregate>,
}

/// One of them.
#[derive(Clone, Debug, PartialEq, Eq, Hash)]
pub struct Aggregate {
    /// What is computed.
    pub function: Function,
    /// Of the values of which field; `None`: of rows, which are counted.
    pub field: Option<String>,
}

impl Aggregation {
    /// Reads the two fields of a message.
    ///
    /// - Errors: they are none, or beyond the bounds.
    pub(super) fn read(
        group_by: Option<&RawValue>,
        aggregates: &RawValue,
    ) -> Result<Aggregation, Unreadable> {
        let group_by = match group_by.map(RawValue::get) {
            None | Some("null") => Vec::new(),
            Some(json) => read::<Vec<String>>("field `groupBy`", json)?,
        };
        let twice = |(at, field): (usize, &String)| group_by[..at].contains(field);
        if let Some((_, field)) = group_by.iter().enumerate().find(|it| twice(*it)) {
            return unreadable(format!("field `groupBy` has {} twice", shown(field)));
        }
        let members: BTreeMap<String, &RawValue> = read("field `aggregates`", aggregates.get())?;
        if group_by.len() > MAX_GROUPED || members.len() > MAX_AGGREGATES {
            return unreadable(format!(
                "groupBy may have {MAX_GROUPED} fields, and there may be {MAX_AGGREGATES} aggregates"
            ));
        }
        if members.is_empty() {
            return unreadable(
                "field `aggregates` must have one at least, such as {\"n\": {\"tag\": \"Count\"}}",
            );
        }
        for name in members.keys() {
            if name.is_empty() || name.chars().count() > MAX_NAME {
                return unreadable(format!("the name of an aggregate has 1 to {MAX_NAME} letters"));
            }
            if group_by.contains(name) {
                return unreadable(format!(
                    "an aggregate is called {}, as a field of groupBy is; give it another name",
                    shown(name)
                ));
            }
        }
        let aggregates = members.into_iter().map(|(name, raw)| Ok((name, Aggregate::read(raw)?)));
        Ok(Aggregation { aggregates: aggregates.collect::<Result<_, _>>()?, group_by })
    }
}

impl Aggregate {
    fn read(raw: &RawValue) -> Result<Aggregate, Unreadable> {
        #[derive(Deserialize)]
        #[serde(expecting = "an object")]
        struct Wire<'a> {
            #[serde(borrow)]
            tag: Cow<'a, str>,
            #[serde(borrow)]
            field: Option<&'a RawValue>,
        }
        let wire: Wire<'_> = read("an aggregate", raw.get())?;
        let function = match &*wire.tag {
            "Count" => Function::Count,
            "Sum" => Function::Sum,
            "Avg" => Function::Avg,
            "Min" => Function::Min,
            "Max" => Function::Max,
            tag => {
                return unreadable(format!(
                    "an aggregate has the unknown tag {}; there are Count, Sum, Avg, Min and Max",
                    shown(tag)
                ));
            }
        };
        let field = wire.field.map(|field| text("field", Some(field))).transpose()?;
        if field.is_none() && function != Function::Count {
            return unreadable(format!("missing field `field` of {}", wire.tag));
        }
        Ok(Aggregate { function, field })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn read(group_by: &str, aggregates: &str) -> Result<Aggregation, String> {
        let raw = |json: &str| RawValue::from_string(json.into()).expect("JSON");
        Aggregation::read(Some(&raw(group_by)), &raw(aggregates)).map_err(|error| error.0)
    }

    #[test]
    fn issue_6_2_aggregates_are_read_within_bounds() {
        let read_all =
            read(r#"["teamId"]"#, r#"{"n":{"tag":"Count"},"sum":{"tag":"Sum","field":"n"}}"#);
        let aggregates = BTreeMap::from([
            ("n".to_owned(), Aggregate { function: Function::Count, field: None }),
            ("sum".to_owned(), Aggregate { function: Function::Sum, field: Some("n".into()) }),
        ]);
        assert_eq!(read_all, Ok(Aggregation { group_by: vec!["teamId".into()], aggregates }));
        assert_eq!(read("null", r#"{"n":{"tag":"Count"}}"#).map(|it| it.group_by), Ok(vec![]));
        let count = |names: usize| {
            let one = |n: usize| format!(r#""n{n}":{{"tag":"Count"}}"#);
            format!("{{{}}}", (0..names).map(one).collect::<Vec<_>>().join(","))
        };
        assert!(read("[]", &count(32)).is_ok());
        for (group_by, aggregates, expected) in [
            (
                "[]",
                "{}".to_owned(),
                "field `aggregates` must have one at least, such as {\"n\": {\"tag\": \"Count\"}}",
            ),
            ("[]", count(33), "groupBy may have 16 fields, and there may be 32 aggregates"),
            (r#"["a","a"]"#, count(1), "field `groupBy` has a twice"),
            (
                r#"["n0"]"#,
                count(1),
                "an aggregate is called n0, as a field of groupBy is; give it another name",
            ),
            ("7", count(1), "field `groupBy` must be an array, and is a number"),
            ("[]", "[]".into(), "field `aggregates` must be an object, and is an array"),
            (
                "[]",
                r#"{"":{"tag":"Count"}}"#.into(),
                "the name of an aggregate has 1 to 64 letters",
            ),
            (
                "[]",
                r#"{"n":{"tag":"Median","field":"a"}}"#.into(),
                "an aggregate has the unknown tag Median; there are Count, Sum, Avg, Min and Max",
            ),
            ("[]", r#"{"n":{"tag":"Sum"}}"#.into(), "missing field `field` of Sum"),
            ("[]", r#"{"n":{"tag":"Sum","field":7}}"#.into(), "field `field` must be a text"),
            ("[]", r#"{"n":7}"#.into(), "an aggregate must be an object, and is a number"),
        ] {
            assert_eq!(read(group_by, &aggregates).err().as_deref(), Some(expected));
        }
    }
}
