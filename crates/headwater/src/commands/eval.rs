//! `headwater eval`: a sync configuration on rows and requests, without a database.
//!
//! In: JSON lines, from a file or standard input. Out: one line of answer for each. Exit code 1
//! when a line could not be evaluated; the others are answered all the same.

use std::fs::File;
use std::io::{self, BufRead, BufReader};

use crate::cli::Eval;
use crate::code;
use crate::files;
use crate::report::{self, Exit};

/// Evaluates line by line, so that a program can talk to it through pipes.
pub fn run(arguments: &Eval) -> Exit {
    let path = arguments.file.as_ref().filter(|path| path.as_os_str() != "-");
    let lines: Box<dyn BufRead> = match path {
        None => Box::new(io::stdin().lock()),
        Some(path) => match File::open(path) {
            Ok(file) => Box::new(BufReader::new(file)),
            Err(error) => {
                let another = "name an existing file, or give the cases on standard input";
                return super::refuse(files::unreadable(
                    code::CASES_FILE,
                    "the cases",
                    path,
                    &error,
                    another,
                ));
            }
        },
    };
    let mut exit = Exit::Done;
    for (index, line) in lines.lines().enumerate() {
        let line = match line {
            Ok(line) if line.trim().is_empty() => continue,
            Ok(line) => line,
            Err(error) => {
                report::say(&format!("cannot read line {}: {error}", index + 1));
                return Exit::Failed;
            }
        };
        match hw_expr::eval::evaluate_case(&line) {
            Ok(answer) => report::answer(&format!("{answer}\n")),
            Err(error) => {
                report::say(&format!("line {}: {error}", index + 1));
                exit = Exit::Negative;
            }
        }
    }
    exit
}
