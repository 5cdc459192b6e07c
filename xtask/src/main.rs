//! `cargo xtask NAME`: the gates that keep the repository what its documents say it is.
//!
//! Every gate reads the tree and answers with findings, one line each; none changes anything except
//! `errors --write`, which makes `docs/errors.md`. Exit status 0 without findings, 1 with, 2 for a
//! wrong call.

mod codes;
mod layers;
mod licences;
mod logs;
mod modules;
mod paths;
mod promises;
mod workspace;

use std::process::ExitCode;

const USAGE: &str = "usage: cargo xtask <gate>

  layers            crates depend only downhill (ARCHITECTURE.md), and modules form no new circles
  paths             files named in README.md, ARCHITECTURE.md and docs/ exist
  promises          tests named in docs/promises.md exist and run, and every promise names one
  licences          licences of all dependencies are on the list
  logs              every ERROR that is logged has a code and says how to mend it
  errors [--write]  error codes are unique and described in docs/errors.md; --write makes that page
  check             all of them";

fn main() -> ExitCode {
    let arguments: Vec<String> = std::env::args().skip(1).collect();
    let words: Vec<&str> = arguments.iter().map(String::as_str).collect();
    let root = workspace::root();
    let gates: Vec<(&str, Result<Vec<String>, String>)> = match words.as_slice() {
        ["layers"] => vec![("layers", layers::check()), ("modules", modules::check(&root))],
        ["paths"] => vec![("paths", paths::check(&root))],
        ["promises"] => vec![("promises", promises::check(&root))],
        ["licences"] => vec![("licences", licences::check())],
        ["logs"] => vec![("logs", logs::check(&root))],
        ["errors"] => vec![("errors", codes::check(&root))],
        ["errors", "--write"] => vec![("errors", codes::write(&root))],
        ["check"] => vec![
            ("layers", layers::check()),
            ("modules", modules::check(&root)),
            ("paths", paths::check(&root)),
            ("promises", promises::check(&root)),
            ("licences", licences::check()),
            ("logs", logs::check(&root)),
            ("errors", codes::check(&root)),
        ],
        _ => {
            eprintln!("{USAGE}");
            return ExitCode::from(2);
        }
    };

    let mut clean = true;
    for (name, outcome) in gates {
        match outcome {
            Ok(findings) if findings.is_empty() => eprintln!("{name}: ok"),
            Ok(findings) => {
                clean = false;
                eprintln!("{name}: {} findings", findings.len());
                for finding in findings {
                    eprintln!("  {finding}");
                }
            }
            Err(error) => {
                clean = false;
                eprintln!("{name}: could not run: {error}");
            }
        }
    }
    if clean { ExitCode::SUCCESS } else { ExitCode::FAILURE }
}
