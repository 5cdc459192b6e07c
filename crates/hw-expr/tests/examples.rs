//! The example file of the specification (`sync-rules.md` 19), each case through
//! `evaluate_case`.

use hw_expr::eval::evaluate_case;
use serde_json::Value;
use std::collections::BTreeSet;

/// Cases that belong to later work, with the reason.
const LATER: [(&str, &str); 1] =
    [("ex-44-events", "event_definitions are refused with HW1218 until write events exist")];

fn cases() -> Vec<(String, Value)> {
    let text = include_str!("cases/sync-rules-examples.jsonl");
    text.lines().map(|l| (l.to_string(), serde_json::from_str(l).unwrap())).collect()
}

/// Every case passes, except those of `LATER`, which are listed by name so that one that starts
/// to pass is noticed.
#[test]
fn the_examples_of_the_specification_give_the_results_of_the_specification() {
    let mut failures = Vec::new();
    let mut failed = BTreeSet::new();
    for (line, case) in cases() {
        let id = case["id"].as_str().unwrap().to_string();
        let answer: Value = serde_json::from_str(&evaluate_case(&line).unwrap()).unwrap();
        let differences = compare(&case["expected"], &answer);
        if !differences.is_empty() {
            failures.push(format!("{id}:\n  {}", differences.join("\n  ")));
            failed.insert(id);
        }
    }
    let later: BTreeSet<String> = LATER.iter().map(|(id, _)| id.to_string()).collect();
    assert_eq!(failed, later, "{}", failures.join("\n"));
}

/// What differs where it matters: acceptance, rows of buckets, buckets of requests, what a
/// request can read, and that the findings are there.
fn compare(expected: &Value, answer: &Value) -> Vec<String> {
    let mut out = Vec::new();
    let mut check = |what: &str, expected: Value, found: Value| {
        if expected != found {
            out.push(format!("{what}: expected {expected}, found {found}"));
        }
    };
    check("accepted", expected["accepted"].clone(), answer["accepted"].clone());
    check("findings", findings(expected), findings(answer));
    if expected["accepted"] == true {
        check("client_schema", expected["client_schema"].clone(), answer["client_schema"].clone());
        let (a, b) = (list(&expected["rows"]), list(&answer["rows"]));
        check("number of rows", a.len().into(), b.len().into());
        for (i, (expected, found)) in a.iter().zip(&b).enumerate() {
            check(&format!("row {i}"), data(expected), data(found));
            check(&format!("events of row {i}"), set(&expected["events"]), set(&found["events"]));
        }
        let (a, b) = (list(&expected["requests"]), list(&answer["requests"]));
        check("number of requests", a.len().into(), b.len().into());
        for (i, (expected, found)) in a.iter().zip(&b).enumerate() {
            let what = format!("request {i}");
            check(&what, set(&expected["delivered"]), set(&found["delivered"]));
            check(&format!("{what} buckets"), buckets(expected), buckets(found));
            let dynamic = |v: &Value| (v["dynamic"] == true).into();
            check(&format!("{what} dynamic"), dynamic(expected), dynamic(found));
        }
    }
    out
}

fn list(value: &Value) -> Vec<Value> {
    value.as_array().cloned().unwrap_or_default()
}

fn set(value: &Value) -> Value {
    let texts: BTreeSet<String> = list(value).iter().map(Value::to_string).collect();
    texts.into_iter().collect()
}

/// Type and the text that is pointed at; wording is compared in the tests of findings.
fn findings(value: &Value) -> Value {
    let of = |v: &Value| format!("{} {}", v["type"], v["source"].as_str().unwrap_or("").trim());
    let texts: BTreeSet<String> = list(&value["config_errors"]).iter().map(of).collect();
    texts.into_iter().collect()
}

/// Streams' numbers (`name|N`) are arbitrary, and no case has more than one order of
/// parameters, so names are compared up to N.
fn data(row: &Value) -> Value {
    let of = |v: &Value| {
        let bucket = without_number(v["bucket"].as_str().unwrap_or(""));
        format!("{bucket} {} {} {}", v["table"], v["id"], v["data"])
    };
    let texts: BTreeSet<String> = list(&row["data"]).iter().map(of).collect();
    texts.into_iter().collect()
}

fn buckets(request: &Value) -> Value {
    let texts: BTreeSet<String> = list(&request["buckets"])
        .iter()
        // A NULL parameter gives no bucket here (sync-rules.md 17.3), where the reference gives
        // one that nothing is in. So buckets with null are left out of the expectation.
        .filter(|v| !v["bucket"].as_str().unwrap_or("").contains("[null]"))
        .map(|v| {
            let bucket = without_number(v["bucket"].as_str().unwrap_or(""));
            let reasons: BTreeSet<String> =
                list(&v["reasons"]).iter().map(Value::to_string).collect();
            format!("{bucket} {} {} {reasons:?}", v["priority"], v["definition"])
        })
        .collect();
    texts.into_iter().collect()
}

fn without_number(bucket: &str) -> String {
    match bucket.split_once('|') {
        Some((name, rest)) => {
            let rest = rest.trim_start_matches(|c: char| c.is_ascii_digit());
            format!("{name}|{rest}")
        }
        None => bucket.to_string(),
    }
}
