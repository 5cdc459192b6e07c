//! The program as a shell sees it: answers, messages, exit codes.

use std::io::Read as _;
use std::process::{Command, Output, Stdio};

fn headwater() -> Command {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.stdin(Stdio::null());
    command
}

fn run(arguments: &[&str]) -> Output {
    headwater().args(arguments).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

#[test]
fn the_version_and_the_help_are_answers() {
    let version = run(&["version"]);
    assert_eq!(version.status.code(), Some(0));
    assert_eq!(text(&version.stdout), concat!("headwater ", env!("CARGO_PKG_VERSION"), "\n"));
    let help = run(&["serve", "--help"]);
    assert_eq!(help.status.code(), Some(0));
    assert!(text(&help.stdout).contains("--database-url"), "{}", text(&help.stdout));
    assert!(help.stderr.is_empty());
}

#[test]
fn an_unknown_option_is_an_error_on_standard_error() {
    let output = run(&["serve", "--lisen", "x"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(output.stdout.is_empty());
    assert!(text(&output.stderr).contains("--listen"), "{}", text(&output.stderr));
}

#[test]
fn fd_46_what_stands_in_the_place_of_an_option_is_not_repeated() {
    for arguments in [
        &["serve", "postgres://u:hush@h/d"][..],
        &["serve", "--databse-url=postgres://u:hush@h/d"],
        &["serve", "host=h password=hush"],
        &["postgres://u:hush@h/d"],
    ] {
        let output = run(arguments);
        assert_eq!(output.status.code(), Some(2));
        assert!(!text(&output.stderr).contains("hush"), "{}", text(&output.stderr));
    }
}

#[test]
fn a_closed_pipe_is_not_an_error() {
    let mut child = headwater()
        .args(["serve", "--help"])
        .stdout(Stdio::piped())
        .stderr(Stdio::piped())
        .spawn()
        .expect("started");
    drop(child.stdout.take());
    let status = child.wait().expect("ended");
    let mut said = String::new();
    child.stderr.take().expect("piped").read_to_string(&mut said).expect("read");
    assert_eq!(said, "");
    assert_eq!(status.code(), Some(0));
}

#[test]
fn a_refused_configuration_names_file_line_and_column_without_colour() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("headwater.yaml");
    std::fs::write(&file, "lisen: 127.0.0.1:1\n").expect("written");
    let name = file.to_str().expect("unicode");
    let output = run(&["doctor", "--config", name]);
    assert_eq!(output.status.code(), Some(2));
    assert_eq!(
        text(&output.stderr),
        format!(
            "error[HW1005]: unknown key \"lisen\"\n  where: {name}:1:1\n  \
             mend:  did you mean \"listen\"?\n\n"
        )
    );
}

#[test]
fn fd_46_a_server_refuses_its_configuration_without_a_line_of_it_and_in_the_form_of_its_log() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("headwater.yaml");
    std::fs::write(&file, "auth:\n  jwt_secrett: hush-hush\n").expect("written");
    let name = file.to_str().expect("unicode");
    let said = text(&run(&["serve", "--config", name]).stderr);
    let line: serde_json::Value = serde_json::from_str(&said).expect("one object");
    assert_eq!(
        (&line["level"], &line["code"], &line["mend"]),
        (&"ERROR".into(), &"HW1005".into(), &"did you mean \"jwt_secret\"?".into())
    );
    assert_eq!(line["where"], format!("{name}:2:3"));
    let text = text(&run(&["serve", "--config", name, "--log-format", "text"]).stderr);
    assert!(text.starts_with("error[HW1005]: section auth has no key"), "{text}");
    for said in [said, text] {
        assert!(!said.contains("hush"), "{said}");
    }
}

#[test]
fn a_missing_database_says_how_to_name_one() {
    let output = run(&["doctor"]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).contains("set DATABASE_URL"), "{}", text(&output.stderr));
}

#[test]
fn a_token_is_one_line_and_the_secret_is_not_in_it() {
    let output = headwater()
        .args(["token", "--sub", "user-1", "--ttl", "5min"])
        .env("HEADWATER_JWT_SECRET", "a secret of thirty-two characters")
        .output()
        .expect("runs");
    assert_eq!(output.status.code(), Some(0), "{}", text(&output.stderr));
    let token = text(&output.stdout);
    assert_eq!(token.trim_end().split('.').count(), 3);
    assert!(token.ends_with('\n') && !token.contains("secret of"));
}

#[test]
fn nobody_listening_is_an_error_that_names_the_address() {
    // A port that was free a moment ago and that nothing was started on.
    let listener = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
    let url = format!("http://{}", listener.local_addr().expect("bound"));
    drop(listener);
    let output = run(&["status", "--url", &url]);
    assert_eq!(output.status.code(), Some(2));
    assert!(text(&output.stderr).starts_with("error[HW1040]: no answer"));
    assert!(text(&output.stderr).contains(&url));
}

/// A store that cannot be made says which directory it is, and what to do.
#[test]
fn a_data_directory_that_cannot_be_used_is_named_with_how_to_mend_it() {
    let directory = tempfile::tempdir().expect("a directory");
    let file = directory.path().join("file");
    std::fs::write(&file, "").expect("written");
    let output = headwater()
        .args(["serve", "--listen", "127.0.0.1:0", "--data-dir"])
        .arg(file.join("data"))
        .env("DATABASE_URL", "postgres://nobody@127.0.0.1:1/nothing")
        .env("HEADWATER_JWT_SECRET", "a secret of thirty-two characters")
        .output()
        .expect("the program runs");
    assert_eq!(output.status.code(), Some(2));
    let said = text(&output.stderr) + &text(&output.stdout);
    let line = said.lines().find(|line| line.contains("HW3001")).expect("refused");
    let line: serde_json::Value = serde_json::from_str(line).expect("one object a line");
    let place = line["where"].as_str().expect("a place");
    assert!(place.starts_with(&format!("directory {}", file.join("data").display())), "{line}");
    assert!(line["mend"].as_str().is_some_and(|mend| mend.contains("configure another data_dir")));
}

/// A misspelt variable changes nothing, so somebody has to say so.
#[test]
fn a_variable_that_nobody_reads_is_warned_of_with_the_nearest_name() {
    // Not written as one word, since another test looks for all names that there are.
    let misspelt = format!("HEADWATER_{}", "DATADIR");
    let warned = |arguments: &[&str]| {
        let mut command = headwater();
        command.args(arguments).env(&misspelt, "/tmp").env("HEADWATER_SEEDS", "1");
        let output = command.output().expect("the program runs");
        text(&output.stderr) + &text(&output.stdout)
    };
    let said = warned(&["check", "/nothing"]);
    let warning = format!(
        "warning[HW1008]: environment variable {misspelt} is none that Headwater reads\n  \
         mend:  did you mean HEADWATER_DATA_DIR?"
    );
    assert!(said.contains(&warning), "{said}");
    assert_eq!(said.matches("HW1008").count(), 1, "{said}");
    let said = warned(&["serve"]);
    assert_eq!(said.matches("HW1008").count(), 1, "{said}");
    assert!(said.contains("\"level\":\"WARN\""), "{said}");
}
