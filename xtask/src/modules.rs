//! Which module may know which, inside of a crate.
//!
//! A crate is a boundary that the compiler keeps; within one, everything may use everything, and a
//! file that was pure once ends up in a circle with the threads that drive it. Two rules: modules do
//! not form circles, and those of `hw-engine` stand in an order. Both are read from `crate::…` and
//! `super::…` in the sources, tests left out.

use std::collections::{BTreeMap, BTreeSet};
use std::fs;
use std::path::Path;

use crate::workspace::{files, relative};

/// The modules of `hw-engine` from the ground up: each may use those above it in this list. So what
/// stands before `writer` does not know the writer.
const ENGINE: &[&str] = &[
    "beat",
    "error",
    "moved",
    "wake",
    "arrivals",
    "lease",
    "status",
    "record",
    "state",
    "runs",
    "kept_back",
    "overlay",
    "tail",
    "tables",
    "change_list",
    "table_view",
    "copy_spool",
    "lost",
    "large",
    "fold",
    "fold_large",
    "evaluate",
    "held",
    "buckets",
    "compact",
    "sync_view",
    "sync_difference",
    "published",
    "publish",
    "definitions",
    "waiting",
    "fuzzing",
    "board",
    "loader",
    "crowds",
    "writer",
    "interpret",
    "frozen",
    "withdraw",
    "entering",
    "sent_under",
    "copies",
    "build",
    "build_bulk",
    "route",
    "messages",
    "apply_large",
    "transaction",
    "apply",
    "replica",
    "sequencer",
    "engine",
    "guard",
    "demand",
    "testing",
];

/// Circles that there are, each to be opened: the crate and its modules. One that grows is a finding,
/// and so is one that is open and still listed.
const CIRCLES: &[(&str, &[&str])] = &[
    ("headwater", &["commands", "dev", "doctor", "report", "server", "telemetry"]),
    ("hw-expr", &["json", "number", "value"]),
    ("hw-expr", &["nested", "values"]),
    ("hw-expr", &["report", "sql"]),
    ("hw-store", &["simulation", "snapshot", "space"]),
    ("hw-store", &["bulk", "disk"]),
];

/// Modules that a module uses, by name.
type Uses = BTreeMap<String, BTreeSet<String>>;

/// Checks every crate below `crates/`.
pub(crate) fn check(root: &Path) -> Result<Vec<String>, String> {
    let mut findings = Vec::new();
    let mut crates: Vec<_> = fs::read_dir(root.join("crates"))
        .map_err(|error| format!("crates: {error}"))?
        .flatten()
        .map(|entry| entry.path())
        .collect();
    crates.sort();
    for directory in crates {
        let uses = read(&directory.join("src"))?;
        let name = relative(&root.join("crates"), &directory);
        let circles: Vec<&[&str]> =
            CIRCLES.iter().filter(|(of, _)| *of == name).map(|(_, circle)| *circle).collect();
        findings.extend(circle_findings(&name, &uses, &circles));
        if name == "hw-engine" {
            findings.extend(order_findings(&name, &uses, ENGINE, &circles));
        }
    }
    Ok(findings)
}

/// What each module of a crate uses of the same crate.
fn read(src: &Path) -> Result<Uses, String> {
    let mut texts: Vec<(String, usize, String)> = Vec::new();
    for file in files(src, "rs") {
        let path = relative(src, &file);
        let mut parts: Vec<&str> = path.trim_end_matches(".rs").split('/').collect();
        // Tests drive everything, and `lib.rs` names everything.
        if parts.iter().any(|part| part.contains("tests"))
            || matches!(path.as_str(), "lib.rs" | "main.rs")
        {
            continue;
        }
        if parts.last() == Some(&"mod") {
            parts.pop();
        }
        let text = fs::read_to_string(&file).map_err(|e| format!("{}: {e}", file.display()))?;
        texts.push((parts[0].to_owned(), parts.len(), text));
    }
    let names: BTreeSet<String> = texts.iter().map(|(name, ..)| name.clone()).collect();
    let mut uses: Uses = names.iter().map(|name| (name.clone(), BTreeSet::new())).collect();
    for (name, depth, text) in texts {
        let used = mentioned(&text, depth).into_iter().filter(|used| names.contains(used));
        let entry = uses.entry(name.clone()).or_default();
        entry.extend(used.filter(|used| *used != name));
    }
    Ok(uses)
}

/// The first segments behind `crate::`, and behind as many `super::` as lead to the crate's root.
fn mentioned(text: &str, depth: usize) -> BTreeSet<String> {
    let code = text.split("#[cfg(test)]\nmod ").next().unwrap_or_default();
    let code: String = code
        .lines()
        .filter(|line| !line.trim_start().starts_with("//"))
        .collect::<Vec<_>>()
        .join("\n");
    let up = "super::".repeat(depth);
    let mut found = BTreeSet::new();
    for root in ["crate::", up.as_str()] {
        for (place, _) in code.match_indices(root) {
            // `$crate::` is the same; `my_crate::` and one `super::` more are not.
            let before = code[..place].chars().next_back().unwrap_or(' ');
            if before.is_alphanumeric() || before == '_' || before == ':' {
                continue;
            }
            let behind = &code[place + root.len()..];
            match behind.strip_prefix('{') {
                Some(list) => found.extend(heads(list)),
                None => drop(found.insert(word(behind))),
            }
        }
    }
    // One `super::` more leads out of the crate's root: it was not a path of this depth.
    found.remove("super");
    found
}

fn word(text: &str) -> String {
    text.chars().take_while(|c| c.is_alphanumeric() || *c == '_').collect()
}

/// The first segments of a list in braces: `a::b, c::{d, e}` has `a` and `c`.
fn heads(list: &str) -> Vec<String> {
    let (mut depth, mut heads, mut fresh) = (0, Vec::new(), true);
    for (place, c) in list.char_indices() {
        match c {
            '{' => depth += 1,
            '}' if depth == 0 => break,
            '}' => depth -= 1,
            ',' if depth == 0 => fresh = true,
            c if fresh && depth == 0 && !c.is_whitespace() => {
                heads.push(word(&list[place..]));
                fresh = false;
            }
            _ => {}
        }
    }
    heads
}

/// Modules that can be reached from one, itself included only through others.
fn reach(uses: &Uses, from: &str) -> BTreeSet<String> {
    let mut found = BTreeSet::new();
    let mut open = vec![from.to_owned()];
    while let Some(module) = open.pop() {
        for used in uses.get(&module).into_iter().flatten() {
            if found.insert(used.clone()) {
                open.push(used.clone());
            }
        }
    }
    found
}

/// The circles of a crate: modules that use one another, each circle once.
fn circles(uses: &Uses) -> BTreeSet<Vec<String>> {
    let reached: BTreeMap<&String, BTreeSet<String>> =
        uses.keys().map(|module| (module, reach(uses, module))).collect();
    let mut circles = BTreeSet::new();
    for (module, others) in &reached {
        let circle: Vec<String> = others
            .iter()
            .filter(|other| reached.get(other).is_some_and(|back| back.contains(*module)))
            .cloned()
            .collect();
        if circle.len() > 1 {
            circles.insert(circle);
        }
    }
    circles
}

fn circle_findings(name: &str, uses: &Uses, known: &[&[&str]]) -> Vec<String> {
    let found = circles(uses);
    let within = |circle: &[String], known: &[&str]| {
        circle.iter().all(|module| known.contains(&module.as_str()))
    };
    let mut findings = Vec::new();
    for circle in &found {
        if !known.iter().any(|known| within(circle, known)) {
            findings.push(format!("{name}: a circle of modules: {}", circle.join(", ")));
        }
    }
    for known in known {
        if !found.iter().any(|circle| within(circle, known)) {
            findings.push(format!(
                "{name}: the circle {} is open: take it from the list in xtask/src/modules.rs",
                known.join(", ")
            ));
        }
    }
    findings
}

fn order_findings(name: &str, uses: &Uses, order: &[&str], circles: &[&[&str]]) -> Vec<String> {
    let place = |module: &str| order.iter().position(|known| *known == module);
    let mut findings = Vec::new();
    for (module, used) in uses {
        let Some(own) = place(module) else {
            findings.push(format!(
                "{name}: {module} has no place: give it one in xtask/src/modules.rs"
            ));
            continue;
        };
        for used in used {
            let excused = circles
                .iter()
                .any(|circle| circle.contains(&module.as_str()) && circle.contains(&used.as_str()));
            if place(used).is_some_and(|other| other > own) && !excused {
                findings.push(format!("{name}: {module} must not know {used} (order of modules)"));
            }
        }
    }
    for gone in order.iter().filter(|module| !uses.contains_key(**module)) {
        findings
            .push(format!("{name}: there is no module {gone}, and xtask/src/modules.rs has it"));
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;

    fn uses(list: &[(&str, &[&str])]) -> Uses {
        list.iter()
            .map(|(name, used)| {
                ((*name).to_owned(), used.iter().map(|used| (*used).to_owned()).collect())
            })
            .collect()
    }

    #[test]
    fn modules_are_found_in_paths_lists_and_behind_super_but_not_in_comments_or_tests() {
        let text = "//! See [`crate::a`].\nuse crate::b::B;\nuse crate::{c::{d, e}, f};\n\
                    use super::g;\nfn x() { crate::h::y(); my_crate::i(); super::super::j(); }\n\
                    #[cfg(test)]\nmod tests { use crate::k; }\n";
        let of = |depth| mentioned(text, depth).into_iter().collect::<Vec<_>>().join(" ");
        assert_eq!(of(1), "b c f g h");
        assert_eq!(of(2), "b c f h j");
    }

    #[test]
    fn a_circle_is_a_finding_unless_it_is_known_and_a_known_one_that_is_open_too() {
        let all = uses(&[("a", &["b"]), ("b", &["c"]), ("c", &["a"]), ("d", &["a"])]);
        assert_eq!(circle_findings("x", &all, &[]), ["x: a circle of modules: a, b, c"]);
        assert_eq!(circle_findings("x", &all, &[&["a", "b", "c"]]), Vec::<String>::new());
        let open = uses(&[("a", &["b"]), ("b", &[])]);
        assert_eq!(
            circle_findings("x", &open, &[&["a", "b"]]),
            ["x: the circle a, b is open: take it from the list in xtask/src/modules.rs"]
        );
    }

    #[test]
    fn a_module_that_knows_one_above_it_is_a_finding_and_so_is_one_without_a_place() {
        let all = uses(&[("fold", &["writer"]), ("writer", &["fold"]), ("new", &[])]);
        assert_eq!(
            order_findings("x", &all, &["fold", "writer", "gone"], &[]),
            [
                "x: fold must not know writer (order of modules)",
                "x: new has no place: give it one in xtask/src/modules.rs",
                "x: there is no module gone, and xtask/src/modules.rs has it"
            ]
        );
        let circle: &[&[&str]] = &[&["fold", "writer"]];
        let known = uses(&[("fold", &["writer"]), ("writer", &["fold"])]);
        assert_eq!(order_findings("x", &known, &["fold", "writer"], circle), Vec::<String>::new());
    }
}
