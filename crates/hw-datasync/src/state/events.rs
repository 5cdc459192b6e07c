//! What changed of a result, as the events of the protocol.
//!
//! Source: `datasync.md` 10.2 and 10.5.

use std::collections::BTreeMap;

use hw_live::{Change, Record};
use hw_types::EndLsn;
use serde_json::value::RawValue;

use crate::wire::Answer;

/// Appended texts are told as such from this length on: below it the whole text is as short.
const LEAST_TEXT: usize = 256;

/// Whether what was appended to a text may be told instead of the whole text.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Appends {
    /// It may: whoever subscribed said so.
    Told,
    /// It may not: old clients know no appends, and newer ones drop one that comes behind a write of their own.
    Whole,
}

/// What changed of a subscription's result in one go. The texts are made one by one, when the socket takes
/// them: those of a large change are not all there at the same time.
#[derive(Debug, PartialEq, Eq)]
pub struct Telling {
    pub(super) subscription: String,
    pub(super) changes: Vec<Change>,
    pub(super) appends: Appends,
    pub(super) position: EndLsn,
}

impl Telling {
    /// The events, in order. The last names the position up to which all is told with it.
    pub fn texts(&self) -> impl Iterator<Item = String> {
        let Telling { subscription, changes, appends, position } = self;
        let lsn = position.to_string();
        let events = changes.iter().enumerate().map(move |(number, change)| {
            let is_last = number + 1 == changes.len();
            event(subscription, change, *appends, is_last.then_some(&lsn))
        });
        events.flatten()
    }
}

/// The event of one change.
fn event(
    subscription: &str,
    change: &Change,
    appends: Appends,
    lsn: Option<&String>,
) -> Option<String> {
    let lsn = lsn.map(String::as_str);
    let raw = |json: &str| RawValue::from_string(json.to_owned()).ok();
    let id = raw(change.key())?;
    Some(match change {
        Change::Insert { record, .. } => {
            let record = raw(record.json())?;
            Answer::DidInsert { subscription_id: subscription, record: &record, lsn }.json()
        }
        Change::Update { before, after, .. } => {
            let (changed, appended) = difference(before.as_ref(), after, appends);
            let change_set = raw(&object(&changed)).filter(|_| !changed.is_empty());
            let append_set = raw(&object(&appended)).filter(|_| !appended.is_empty());
            Answer::DidUpdate {
                subscription_id: subscription,
                id: &id,
                change_set: change_set.as_deref(),
                append_set: append_set.as_deref(),
                lsn,
            }
            .json()
        }
        // Whoever shows a record ahead of us takes it away.
        Change::Delete { .. } | Change::Passed { .. } => {
            Answer::DidDelete { subscription_id: subscription, id: &id, lsn }.json()
        }
    })
}

type Fields = BTreeMap<String, String>;

/// The fields that have other values, and those to whose text something was appended; all of them where it is not
/// known any more what was told last.
fn difference(before: Option<&Record>, after: &Record, appends: Appends) -> (Fields, Fields) {
    let (mut changed, mut appended) = (Fields::new(), Fields::new());
    if before == Some(after) {
        return (changed, appended);
    }
    let known = before.map(Record::fields).unwrap_or_default();
    for (field, value) in after.fields() {
        let old = known.get(&field).map(|old| old.get());
        if old == Some(value.get()) {
            continue;
        }
        match old.and_then(|old| suffix(old, value.get())).filter(|_| appends == Appends::Told) {
            Some(suffix) => drop(appended.insert(field, suffix)),
            None => drop(changed.insert(field, value.get().to_owned())),
        }
    }
    (changed, appended)
}

/// The JSON of what was appended to a long text, where it is the smaller part of it.
fn suffix(old: &str, new: &str) -> Option<String> {
    if new.len() <= LEAST_TEXT || !old.starts_with('"') || !new.starts_with('"') {
        return None;
    }
    let (old, new): (String, String) =
        (serde_json::from_str(old).ok()?, serde_json::from_str(new).ok()?);
    let suffix = new.strip_prefix(&*old)?;
    let is_small = new.len() > LEAST_TEXT && 2 * suffix.len() < new.len();
    (is_small && !suffix.is_empty()).then(|| serde_json::Value::from(suffix).to_string())
}

fn object(fields: &Fields) -> String {
    let mut json = String::from("{");
    for (number, (field, value)) in fields.iter().enumerate() {
        json.push_str(if number > 0 { "," } else { "" });
        json.push_str(&serde_json::Value::from(field.as_str()).to_string());
        json.push(':');
        json.push_str(value);
    }
    json.push('}');
    json
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::{Value, json};

    fn update(before: &Value, after: &Value, appends: Appends) -> Value {
        let change = Change::Update {
            key: "1".into(),
            before: Some(Record::new(before.to_string())),
            after: Record::new(after.to_string()),
        };
        serde_json::from_str(&event("s", &change, appends, None).expect("an event")).expect("JSON")
    }

    #[test]
    fn ds_10_5_events_carry_what_changed_and_no_more() {
        let before = json!({"a": 1, "b": "x", "c": null});
        let after = json!({"a": 2, "b": "x", "c": [1]});
        assert_eq!(
            update(&before, &after, Appends::Told),
            json!({"tag": "DidUpdate", "subscriptionId": "s", "id": 1, "changeSet": {"a": 2, "c": [1]}})
        );
        assert_eq!(
            update(&before, &before, Appends::Told),
            json!({"tag": "DidUpdate", "subscriptionId": "s", "id": 1})
        );
        let after = Record::new(after.to_string());
        let unknown = Change::Update { key: "1".into(), before: None, after };
        assert_eq!(
            serde_json::from_str::<Value>(
                &event("s", &unknown, Appends::Told, None).expect("an event")
            )
            .expect("JSON"),
            json!({"tag": "DidUpdate", "subscriptionId": "s", "id": 1, "changeSet": {"a": 2, "b": "x", "c": [1]}})
        );
        let insert = Change::Insert { key: "\"k\"".into(), record: Record::new(r#"{"a": 1.50}"#) };
        assert_eq!(
            event("s", &insert, Appends::Told, Some(&"0/7".to_owned())).expect("an event"),
            r#"{"tag":"DidInsert","subscriptionId":"s","record":{"a": 1.50},"lsn":"0/7"}"#
        );
        let delete = Change::Delete { key: "[1, \"b\"]".into() };
        assert_eq!(
            event("s", &delete, Appends::Told, None).expect("an event"),
            r#"{"tag":"DidDelete","subscriptionId":"s","id":[1, "b"]}"#
        );
    }

    #[test]
    fn ds_10_5_appends_are_told_of_long_texts_and_small_suffixes_alone() {
        let text = |length: usize, end: &str| json!({"t": format!("{}{end}", "é".repeat(length))});
        let told = |before: &Value, after: &Value, appends| {
            let event = update(before, after, appends);
            (event.get("appendSet").is_some(), event.get("changeSet").is_some())
        };
        let long = text(200, "");
        assert_eq!(told(&long, &text(200, "end"), Appends::Told), (true, false));
        assert_eq!(
            update(&long, &text(200, "end\""), Appends::Told)["appendSet"],
            json!({"t": "end\""})
        );
        assert_eq!(told(&long, &text(200, "end"), Appends::Whole), (false, true));
        assert_eq!(told(&text(20, ""), &text(20, "end"), Appends::Told), (false, true), "short");
        assert_eq!(told(&long, &text(400, ""), Appends::Told), (false, true), "half of it");
        assert_eq!(told(&long, &text(399, ""), Appends::Told), (true, false));
        assert_eq!(told(&long, &text(199, ""), Appends::Told), (false, true), "shorter");
        assert_eq!(told(&json!({"t": null}), &long, Appends::Told), (false, true));
        assert_eq!(told(&text(200, "a"), &text(200, "bend"), Appends::Told), (false, true));
    }
}
