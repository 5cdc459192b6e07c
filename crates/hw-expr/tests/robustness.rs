//! No text makes the compiler panic, and every finding points into the text.

use hw_expr::sync_config::{SyncConfig, render};

/// Deterministic, so that a failure can be run again.
struct Random(u64);

impl Random {
    fn below(&mut self, limit: usize) -> usize {
        self.0 = self.0.wrapping_mul(6364136223846793005).wrapping_add(1442695040888963407);
        ((self.0 >> 33) as usize) % limit.max(1)
    }
}

fn configurations() -> Vec<String> {
    include_str!("cases/sync-rules-examples.jsonl")
        .lines()
        .map(|line| {
            let case: serde_json::Value = serde_json::from_str(line).unwrap();
            case["yaml"].as_str().unwrap().to_string()
        })
        .collect()
}

#[test]
fn damaged_configurations_are_refused_or_accepted_but_never_panic() {
    let texts = configurations();
    let pieces = [
        "(",
        ")",
        "'",
        "\"",
        "SELECT ",
        " FROM ",
        " WHERE ",
        " IN ",
        " OR ",
        " AND NOT ",
        "bucket.",
        "é😀",
        "\n",
        ":",
        "- ",
        "|",
        ">",
        "&a ",
        "*a",
        "json_each(",
        "->>",
        "::",
        "CASE ",
        "[",
        "{",
        "auth.user_id()",
        " = ",
        "%",
        "*",
        ",",
        "\\u00",
        "0",
        "edition: 3",
        "\t",
        "#",
    ];
    for seed in 0..4000 {
        let mut random = Random(seed);
        let mut text = texts[random.below(texts.len())].clone();
        for _ in 0..=random.below(4) {
            let mut at = random.below(text.len() + 1);
            while !text.is_char_boundary(at) {
                at -= 1;
            }
            match random.below(3) {
                0 => text.insert_str(at, pieces[random.below(pieces.len())]),
                1 => {
                    let mut end = (at + random.below(12)).min(text.len());
                    while !text.is_char_boundary(end) {
                        end += 1;
                    }
                    text.replace_range(at..end, "");
                }
                _ => {
                    let piece = texts[random.below(texts.len())].clone();
                    let mut cut = random.below(piece.len());
                    while !piece.is_char_boundary(cut) {
                        cut -= 1;
                    }
                    text.insert_str(at, &piece[..cut]);
                }
            }
        }
        let loaded = SyncConfig::load(&text, "sync.yaml", None);
        let refused = loaded.diagnostics.iter().any(|d| d.is_error());
        assert_eq!(loaded.config.is_none(), refused, "seed {seed}:\n{text}");
        for finding in &loaded.diagnostics {
            let span = finding.span.as_ref().unwrap();
            assert!(text.get(span.start..span.end).is_some(), "seed {seed}: {finding}\n{text}");
        }
        render(&loaded.diagnostics, &text);
    }
}

#[test]
fn endless_nesting_is_refused() {
    for (open, close) in [("(", ")"), ("NOT ", ""), ("x IN (SELECT y FROM z WHERE ", ")")] {
        let condition = format!("{}a{}", open.repeat(3000), close.repeat(3000));
        let text = format!(
            "config: {{edition: 3}}\nstreams:\n  s:\n    query: SELECT * FROM t WHERE {condition}\n"
        );
        let loaded = SyncConfig::load(&text, "sync.yaml", None);
        assert!(
            loaded.diagnostics[0].what.contains("nested too deeply"),
            "{:?}",
            loaded.diagnostics
        );
    }
    let long = vec!["a = 1"; 2000].join(" AND ");
    let text = format!(
        "config: {{edition: 3}}\nstreams:\n  s:\n    query: SELECT * FROM t WHERE {long}\n"
    );
    let _ = SyncConfig::load(&text, "sync.yaml", None);
    let wide = ["(a = auth.user_id() OR b = 'x')"; 12].join(" AND ");
    let text = format!(
        "config: {{edition: 3}}\nstreams:\n  s:\n    query: SELECT * FROM t WHERE {wide}\n"
    );
    let loaded = SyncConfig::load(&text, "sync.yaml", None);
    assert!(loaded.diagnostics[0].what.contains("too many inner nodes"));
}
