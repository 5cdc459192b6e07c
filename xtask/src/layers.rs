//! Who may depend on whom: a row passes through each crate once, downhill.
//!
//! The table below is the rule; ARCHITECTURE.md explains it. A crate that is not in the table is a
//! finding, so that a new crate gets its place on purpose.

use serde_json::Value;

use crate::workspace::{metadata, text};

const WORDS: &[&str] = &["hw-types", "hw-expr", "hw-process"];
const GROUND: &[&str] = &["hw-pg", "hw-store", "hw-auth"];
const INPUT: &[&str] = &["hw-input"];
const ENGINE: &[&str] = &["hw-engine"];
const LIVE: &[&str] = &["hw-live"];
const WRITES: &[&str] = &["hw-write"];
const EDGE: &[&str] = &["hw-http"];
const SURFACES: &[&str] =
    &["hw-sync", "hw-shapes", "hw-datasync", "hw-views", "hw-rest", "hw-admin"];

/// The one crate that tests of every crate may use beside what the crate itself may.
const TESTKIT: &str = "hw-testkit";

/// The crates of this repository that `name` may use; `None` for a crate without a place.
fn allowed(name: &str) -> Option<Vec<&'static str>> {
    let of = |groups: &[&[&'static str]]| Some(groups.concat());
    match name {
        "hw-types" | "hw-process" => of(&[]),
        "hw-expr" => of(&[&["hw-types"]]),
        _ if GROUND.contains(&name) => of(&[WORDS]),
        "hw-input" => of(&[WORDS, GROUND]),
        "hw-engine" => of(&[WORDS, GROUND, INPUT]),
        // Results for whoever asks: from the engine, and from the source itself.
        "hw-live" => of(&[WORDS, GROUND, ENGINE]),
        // The way of writes touches neither the input nor the store nor the engine.
        "hw-write" => of(&[WORDS, &["hw-pg"]]),
        // The edge knows sockets and tokens, and no surface.
        "hw-http" => of(&[WORDS, &["hw-auth"]]),
        "hw-rest" => of(&[WORDS, &["hw-auth", "headwater-sideload"], EDGE, ENGINE, WRITES]),
        "hw-datasync" => of(&[WORDS, &["hw-auth"], EDGE, ENGINE, LIVE, WRITES]),
        // Surfaces see results through the engine: neither the source nor the store nor the log.
        _ if SURFACES.contains(&name) => of(&[WORDS, &["hw-auth"], EDGE, ENGINE]),
        "headwater" => of(&[
            WORDS,
            GROUND,
            INPUT,
            ENGINE,
            LIVE,
            WRITES,
            EDGE,
            SURFACES,
            &["headwater-sideload"],
        ]),
        // The Rust client reads the protocol by itself: two readings catch what one would hide.
        "headwater-client" | "headwater-sideload-derive" => of(&[]),
        "headwater-sideload" => of(&[&["headwater-sideload-derive"]]),
        "hw-testkit" => of(&[WORDS]),
        // Reads what every crate reads, and is used by nobody.
        "hw-fuzz" => of(&[WORDS, GROUND, INPUT, ENGINE, SURFACES, &["headwater"]]),
        // Drives the binary from outside; it only signs tokens by itself.
        "hw-faults" => of(&[&["hw-auth"]]),
        "hw-bench" => of(&[
            WORDS,
            GROUND,
            INPUT,
            ENGINE,
            LIVE,
            WRITES,
            EDGE,
            SURFACES,
            &["headwater", "headwater-client", TESTKIT],
        ]),
        "xtask" => of(&[]),
        _ => None,
    }
}

/// Checks the manifests of all crates.
pub(crate) fn check() -> Result<Vec<String>, String> {
    let metadata = metadata(&["--no-deps"])?;
    let packages = metadata["packages"].as_array().ok_or("no packages in the metadata")?;
    Ok(findings(packages))
}

fn findings(packages: &[Value]) -> Vec<String> {
    let names: Vec<&str> = packages.iter().map(|package| text(package, "name")).collect();
    let mut findings = Vec::new();
    for package in packages {
        let name = text(package, "name");
        let Some(allowed) = allowed(name) else {
            findings.push(format!("{name} has no layer: give it one in xtask/src/layers.rs"));
            continue;
        };
        for dependency in package["dependencies"].as_array().into_iter().flatten() {
            let used = text(dependency, "name");
            let in_tests = text(dependency, "kind") == "dev";
            let excepted = in_tests && used == TESTKIT;
            if names.contains(&used) && !allowed.contains(&used) && !excepted {
                let how = if in_tests { "in its tests " } else { "" };
                findings.push(format!("{name} must not use {used} {how}(direction of layers)"));
            }
        }
    }
    findings
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn package(name: &str, dependencies: &[(&str, Option<&str>)]) -> Value {
        let list: Vec<Value> =
            dependencies.iter().map(|(name, kind)| json!({"name": name, "kind": kind})).collect();
        json!({"name": name, "dependencies": list})
    }

    #[test]
    fn surfaces_may_use_the_engine_but_neither_source_nor_store_nor_one_another() {
        let packages = [
            package("hw-types", &[]),
            package("hw-store", &[("hw-types", None)]),
            package("hw-rest", &[]),
            package("hw-engine", &[("hw-store", None)]),
            package(
                "hw-sync",
                &[("hw-engine", None), ("hw-store", None), ("hw-rest", None), ("serde", None)],
            ),
        ];
        assert_eq!(
            findings(&packages),
            [
                "hw-sync must not use hw-store (direction of layers)",
                "hw-sync must not use hw-rest (direction of layers)"
            ]
        );
    }

    #[test]
    fn the_testkit_is_for_tests_only_and_neighbours_stay_apart() {
        let packages = [
            package("hw-testkit", &[]),
            package("hw-pg", &[("hw-testkit", Some("dev")), ("hw-store", Some("dev"))]),
            package("hw-store", &[("hw-testkit", None)]),
            package("hw-new", &[]),
        ];
        assert_eq!(
            findings(&packages),
            [
                "hw-pg must not use hw-store in its tests (direction of layers)",
                "hw-store must not use hw-testkit (direction of layers)",
                "hw-new has no layer: give it one in xtask/src/layers.rs"
            ]
        );
    }
}
