//! A small world for cases: a configuration, some rows, and who can read what.

use hw_expr::eval::evaluate_case;
use serde_json::{Value, json};

/// A case under construction.
pub struct World {
    case: Value,
}

impl World {
    /// A world with a configuration, which must be accepted.
    pub fn new(yaml: &str) -> World {
        World { case: json!({"id": "case", "yaml": yaml, "rows": [], "requests": []}) }
    }

    /// Adds a row, `table` perhaps with a schema.
    pub fn row(mut self, table: &str, row: Value) -> World {
        let (schema, table) = table.split_once('.').unwrap_or(("public", table));
        let rows = self.case["rows"].as_array_mut().unwrap();
        rows.push(json!({"table": table, "schema": schema, "row": row}));
        self
    }

    fn answer(&self) -> Value {
        let answer: Value =
            serde_json::from_str(&evaluate_case(&self.case.to_string()).unwrap()).unwrap();
        assert_eq!(answer["accepted"], true, "{}", answer["config_errors"]);
        answer
    }

    /// The buckets of each row, sorted, one entry per row.
    pub fn buckets(&self) -> Vec<Vec<String>> {
        let answer = self.answer();
        let rows = answer["rows"].as_array().unwrap().iter();
        rows.map(|row| {
            let data = row["data"].as_array().cloned().unwrap_or_default();
            let mut names: Vec<String> =
                data.iter().map(|d| d["bucket"].as_str().unwrap().to_string()).collect();
            names.sort();
            names
        })
        .collect()
    }

    /// The payloads of all rows.
    pub fn payloads(&self) -> Vec<String> {
        let answer = self.answer();
        let rows = answer["rows"].as_array().unwrap().iter();
        rows.flat_map(|row| row["data"].as_array().cloned().unwrap_or_default())
            .map(|d| d["data"].as_str().unwrap().to_string())
            .collect()
    }

    /// The answer to one request.
    pub fn request(&self, request: Value) -> Value {
        let mut case = self.case.clone();
        case["requests"] = json!([request]);
        World { case }.answer()["requests"][0].clone()
    }

    /// The ids that one request can read, as `table id`, sorted.
    pub fn reads(&self, request: Value) -> Vec<String> {
        let answer = self.request(request);
        let mut rows: Vec<String> = answer["delivered"]
            .as_array()
            .unwrap()
            .iter()
            .map(|row| format!("{} {}", row[0].as_str().unwrap(), row[1].as_str().unwrap()))
            .collect();
        rows.sort();
        rows
    }

    /// The names of the buckets of one request, sorted.
    pub fn bucket_names(&self, request: Value) -> Vec<String> {
        let answer = self.request(request);
        let buckets = answer["buckets"].as_array().unwrap().iter();
        buckets.map(|b| b["bucket"].as_str().unwrap().to_string()).collect()
    }
}

/// The request of a user.
pub fn user(sub: &str) -> Value {
    json!({"jwt": {"sub": sub}})
}
