//! Which lines of a log are complaints.

/// The lines of level ERROR or WARN, and panics, that contain none of the `allowed` parts.
pub(super) fn unlisted(lines: &[String], allowed: &[String]) -> Vec<String> {
    lines
        .iter()
        .filter(|line| is_complaint(line))
        .filter(|line| !allowed.iter().any(|part| line.contains(part.as_str())))
        .cloned()
        .collect()
}

/// Both forms of our log count: JSON objects with a `level`, and the text for terminals.
fn is_complaint(line: &str) -> bool {
    if line.contains("panicked at") {
        return true;
    }
    if let Ok(serde_json::Value::Object(fields)) = serde_json::from_str(line) {
        let level = fields.get("level").and_then(|level| level.as_str()).unwrap_or_default();
        return matches!(level, "ERROR" | "WARN");
    }
    // The level stands alone among the first words: time, level, target.
    line.split_whitespace().take(3).any(|word| matches!(word, "ERROR" | "WARN"))
        || line.starts_with("error[")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn complaints_are_found_in_json_and_in_text_unless_allowed() {
        let lines: Vec<String> = [
            r#"{"timestamp":"x","level":"WARN","fields":{"message":"slot is busy"}}"#,
            r#"{"timestamp":"x","level":"INFO","fields":{"message":"an ERROR word"}}"#,
            "2026-01-01T00:00:00Z ERROR headwater: store is full",
            "2026-01-01T00:00:00Z  INFO headwater: no ERROR here",
            "thread 'main' panicked at src/main.rs:1:1:",
            "error[HW1203]: relation public.lists has no column \"x\"",
        ]
        .map(str::to_owned)
        .to_vec();
        let allowed = vec!["slot is busy".to_owned()];
        assert_eq!(unlisted(&lines, &allowed), [&lines[2], &lines[4], &lines[5]].map(Clone::clone));
    }
}
