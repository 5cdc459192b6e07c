//! `--watch`, `--output`.

use std::io::{BufRead, BufReader, Read};
use std::path::Path;
use std::process::{Child, Command, Stdio};

use hw_testkit::Cluster;

use super::super::setup::text;

/// A running `generate types --watch`, ended with the test.
struct Watching {
    child: Child,
}

impl Watching {
    fn start(arguments: &[&str], url: Option<&str>, temporary: &Path) -> Watching {
        let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
        command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
        command.args(["generate", "types", "--watch"]).args(arguments);
        command.env("TMPDIR", temporary);
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        if let Some(url) = url {
            command.env("DATABASE_URL", url);
        }
        Watching { child: command.spawn().expect("the program runs") }
    }

    /// What it writes next to standard output, up to the last line of declarations.
    fn declarations(&mut self) -> String {
        let mut found = String::new();
        let output = self.child.stdout.as_mut().expect("piped");
        let mut byte = [0];
        while !found.ends_with("\n}\n") {
            output.read_exact(&mut byte).expect("it goes on");
            found.push(char::from(byte[0]));
        }
        found
    }

    /// Sends SIGTERM; gives the exit code and what is left of standard error.
    fn end(mut self) -> (Option<i32>, String) {
        let pid = self.child.id().to_string();
        Command::new("kill").args(["-TERM", &pid]).status().expect("sent");
        let mut left = Vec::new();
        if let Some(mut output) = self.child.stderr.take() {
            output.read_to_end(&mut left).expect("read");
        }
        (self.child.wait().expect("ended").code(), text(&left))
    }
}

impl Drop for Watching {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
    }
}

#[tokio::test]
async fn ds_20_watch_writes_again_when_the_tables_change_and_outlives_the_session() {
    let cluster = Cluster::start();
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client.batch_execute("CREATE TABLE tasks (id uuid)").await.expect("made");
    let mut watching = Watching::start(&[], Some(&database.url), Path::new("/nowhere"));
    assert!(watching.declarations().contains("interface Task {"));
    // Rows, indexes and policies are nothing to write about; the column is.
    client
        .batch_execute(
            "CREATE INDEX ON tasks (id); INSERT INTO tasks VALUES (NULL); ALTER TABLE tasks ADD title text",
        )
        .await
        .expect("altered");
    assert!(watching.declarations().contains("        title: string | null;"));
    client
        .batch_execute(
            "SELECT pg_terminate_backend(pid) FROM pg_stat_activity
             WHERE application_name = 'headwater generate'; DROP TABLE tasks",
        )
        .await
        .expect("cut");
    client.batch_execute("CREATE TABLE notes (id uuid)").await.expect("made");
    assert!(watching.declarations().contains("interface Note {"));
    let (code, _) = watching.end();
    assert_eq!(code, Some(0));
}

#[test]
fn ds_20_watch_follows_a_file_says_what_is_wrong_once_and_leaves_nothing_behind() {
    let directory = tempfile::tempdir().expect("a directory");
    let (schema, output) = (directory.path().join("Schema.sql"), directory.path().join("out.d.ts"));
    let write = |sql: &str| {
        // Whole at every moment, as editors write.
        let beside = directory.path().join("next");
        std::fs::write(&beside, sql).expect("written");
        std::fs::rename(&beside, &schema).expect("renamed");
    };
    write(
        "CREATE ROLE somebody; CREATE TABLE tasks (id uuid); ALTER TABLE tasks OWNER TO somebody;",
    );
    let (schema_name, output_name) = (schema.display().to_string(), output.display().to_string());
    let temporary = directory.path().join("tmp");
    std::fs::create_dir(&temporary).expect("made");
    let arguments = ["--output", &output_name, &schema_name];
    let mut watching = Watching::start(&arguments, None, &temporary);
    let mut lines = BufReader::new(watching.child.stderr.take().expect("piped")).lines();
    let mut next = |wanted: &str| {
        let found = lines.by_ref().map(|line| line.expect("read"));
        let found = found.take_while(|line| !line.contains(wanted)).collect::<Vec<_>>();
        found.join("\n")
    };
    let wrote = format!("headwater: wrote {output_name}");
    next(&wrote);
    let read = || std::fs::read_to_string(&output).expect("there");
    assert!(read().contains("interface Task {"));
    write("CREATE TABLE");
    next("error[HW1019]");
    assert!(read().contains("interface Task {"), "what was right is kept");
    write(
        "CREATE ROLE somebody; CREATE TABLE notes (id uuid); ALTER TABLE notes OWNER TO somebody;",
    );
    let between = next(&wrote);
    assert!(!between.contains("error["), "once is enough: {between}");
    assert!(read().contains("interface Note {"));
    // The directory of its Postgres, wherever it had to be.
    let own = std::fs::read_dir(&temporary).expect("listed").flatten().next();
    let own = own.expect("there is one").path();
    let cluster = own.join("postgres").canonicalize().expect("there");
    let pid = std::fs::read_to_string(cluster.join("data/postmaster.pid")).expect("it runs");
    let pid = pid.lines().next().expect("a number").to_owned();
    let (code, _) = watching.end();
    assert_eq!(code, Some(0));
    assert!(!Path::new(&format!("/proc/{pid}")).exists(), "it is stopped");
    assert!(!own.exists() && !cluster.exists(), "its files are removed");
}
