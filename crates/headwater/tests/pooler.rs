//! A real PgBouncer before a real Postgres: what `doctor` and `serve` say.
//!
//! PgBouncer is the machine's, or the one that `scripts/setup test` unpacks into `.cache`. Where
//! there is neither, these tests say that they are skipped; how its answers are understood is also
//! tested without it, in `doctor::pooler`.

use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Output, Stdio};

use headwater::dev::account;
use headwater::doctor::pooler;
use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_testkit::server::{OPERATOR, http_get};
use hw_testkit::{Cluster, ClusterOptions, HeadwaterProcess, ProcessOptions, poll_until};

/// What many put into `pgbouncer.ini` because of their drivers.
const LENIENT: &str = "options, extra_float_digits";

/// A running PgBouncer; it ends with the test.
struct PgBouncer {
    child: Child,
    port: u16,
    directory: tempfile::TempDir,
}

impl PgBouncer {
    /// Starts it before `cluster`. `None`, and a word about it, where there is none.
    async fn start(cluster: &Cluster, mode: &str, ignored: &str) -> Option<PgBouncer> {
        let Some(mut command) = program() else {
            let _ = writeln!(
                std::io::stderr(),
                "SKIPPED: there is no pgbouncer on this machine; scripts/setup test brings one"
            );
            return None;
        };
        let free = std::net::TcpListener::bind("127.0.0.1:0").expect("a port");
        let port = free.local_addr().expect("bound").port();
        drop(free);
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("pgbouncer.ini");
        let text = format!(
            "[databases]\n* = host=127.0.0.1 port={} user=postgres\n[pgbouncer]\n\
             listen_addr = 127.0.0.1\nlisten_port = {port}\nunix_socket_dir =\nauth_type = any\n\
             pool_mode = {mode}\nignore_startup_parameters = {ignored}\n",
            cluster.port()
        );
        std::fs::write(&file, text).expect("written");
        // It refuses to run as root, too; it reads its file before it drops to this account.
        if let Some(account) = account::to_drop_to() {
            command.args(["-u", &account.name]);
        }
        command.arg(&file).stdin(Stdio::null()).stdout(Stdio::null());
        command.stderr(std::fs::File::create(directory.path().join("log")).expect("a log"));
        let child = headwater::process::spawn_bound(command, libc::SIGKILL).expect("started");
        let address = std::net::SocketAddr::from(([127, 0, 0, 1], port));
        poll_until("pgbouncer listens", || async {
            hw_testkit::server::is_listening(address).then_some(())
        })
        .await;
        Some(PgBouncer { child, port, directory })
    }

    fn url(&self, database: &str) -> String {
        format!("postgres://postgres@127.0.0.1:{}/{database}", self.port)
    }
}

impl Drop for PgBouncer {
    fn drop(&mut self) {
        let _ = self.child.kill();
        let _ = self.child.wait();
        if std::thread::panicking() {
            let log = std::fs::read_to_string(self.directory.path().join("log"));
            let _ = writeln!(std::io::stderr(), "pgbouncer: {}", log.unwrap_or_default());
        }
    }
}

fn program() -> Option<Command> {
    let installed = Path::new("/usr/sbin/pgbouncer");
    if installed.exists() {
        return Some(Command::new(installed));
    }
    let unpacked = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/pgbouncer");
    let program = unpacked.join("usr/sbin/pgbouncer");
    let libraries: Vec<PathBuf> = ["lib", "usr/lib"]
        .into_iter()
        .filter_map(|name| std::fs::read_dir(unpacked.join(name)).ok())
        .flat_map(|entries| entries.filter_map(|entry| entry.ok().map(|entry| entry.path())))
        .collect();
    let mut command = Command::new(&program);
    command.env("LD_LIBRARY_PATH", std::env::join_paths(libraries).ok()?);
    program.exists().then_some(command)
}

async fn source() -> Cluster {
    Cluster::start_with(ClusterOptions {
        settings: &[("max_slot_wal_keep_size", "20GB")],
        ..ClusterOptions::default()
    })
}

fn headwater(arguments: &[&str], url: &str) -> Output {
    let mut command = Command::new(env!("CARGO_BIN_EXE_headwater"));
    command.env_clear().env("PATH", std::env::var_os("PATH").unwrap_or_default());
    command.env("DATABASE_URL", url);
    command.env("HEADWATER_JWT_SECRET", "a secret of thirty-two characters");
    command.args(arguments).stdin(Stdio::null()).output().expect("the program runs")
}

fn text(bytes: &[u8]) -> String {
    String::from_utf8_lossy(bytes).into_owned()
}

fn finding(port: u16, answer: &str) -> String {
    format!(
        "error[HW2140]: a pooler stands before Postgres, and replication cannot go through it\n  \
         where: 127.0.0.1:{port}: {answer}\n  \
         mend:  name Postgres itself in DATABASE_URL (or database.url, --database-url): its own \
         host and port, usually 5432; everybody else may go on using the pooler\n\n"
    )
}

#[tokio::test]
async fn doctor_says_plainly_that_a_pooler_is_in_the_way_in_every_mode() {
    let cluster = source().await;
    let database = cluster.create_database().await;
    for mode in ["session", "transaction"] {
        for (ignored, answer) in [
            ("extra_float_digits", "unsupported startup parameter: options (SQLSTATE 08P01)"),
            (LENIENT, "unsupported startup parameter: replication (SQLSTATE 08P01)"),
            // Thrown away, and then an ordinary session is asked for what only a walsender knows.
            (
                "options, replication",
                "syntax error at or near \"IDENTIFY_SYSTEM\" (SQLSTATE 42601)",
            ),
        ] {
            let Some(bouncer) = PgBouncer::start(&cluster, mode, ignored).await else { return };
            let url = bouncer.url(&database.name);
            let output = headwater(&["doctor"], &url);
            let said = text(&output.stderr);
            let expected = finding(bouncer.port, answer);
            assert_eq!(said, format!("{expected}headwater: 1 error, 0 warnings\n"), "{mode}");
            assert_eq!(output.status.code(), Some(1), "{mode} {ignored}");
            let facts = text(&output.stdout);
            let real = format!(
                "behind the pooler, Postgres says of itself: host 127.0.0.1, port {}",
                cluster.port()
            );
            assert_eq!(facts.contains(&real), ignored.contains("options"), "{facts}");
            // The other commands that connect say the same.
            for command in [&["setup", "--print"][..], &["dev", "--yes", "--database-url", &url]] {
                let refuses = ignored == "extra_float_digits" || command[0] == "dev";
                if refuses {
                    let directory = tempfile::tempdir().expect("a directory");
                    let data_dir = directory.path().display().to_string();
                    let more = ["--data-dir", &data_dir];
                    let more = if command[0] == "dev" { &more[..] } else { &[] };
                    let output = headwater(&[command, more].concat(), &url);
                    assert_eq!(output.status.code(), Some(2));
                    assert!(text(&output.stderr).contains(&expected), "{}", text(&output.stderr));
                }
            }
        }
    }
}

#[tokio::test]
async fn settings_that_a_pooler_drops_are_found_when_the_roles_own_differ() {
    let cluster = source().await;
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    let Some(bouncer) = PgBouncer::start(&cluster, "session", LENIENT).await else { return };
    let ask = async |url: &str| {
        let (connect, _) = ConnectConfig::parse(url).expect("a connection string");
        let (client, _driver) = sql::connect(&connect).await.expect("connected");
        let dropped = pooler::dropped_settings(&connect, &client).await.expect("asked");
        dropped.map(|finding| finding.to_string())
    };
    // A session of the server that PgBouncer made before would still have the old defaults.
    let change = "ALTER ROLE postgres SET DateStyle = 'German'; \
                  ALTER ROLE postgres SET bytea_output = 'escape'";
    client.batch_execute(change).await.expect("changed");
    let told = ask(&bouncer.url(&database.name)).await.expect("dropped");
    assert!(told.contains("drops the settings of our sessions"), "{told}");
    assert!(told.contains(": DateStyle, bytea_output\n"), "{told}");
    assert_eq!(ask(&database.url).await, None);
}

#[tokio::test]
async fn serve_behind_a_pooler_says_so_once_and_keeps_saying_it_in_its_status() {
    let cluster = source().await;
    let database = cluster.create_database().await;
    let client = cluster.client(&database.name).await;
    client.batch_execute("CREATE TABLE t (id text PRIMARY KEY)").await.expect("made");
    let Some(bouncer) = PgBouncer::start(&cluster, "transaction", LENIENT).await else { return };
    let directory = tempfile::tempdir().expect("a directory");
    let sync = directory.path().join("sync.yaml");
    let yaml = "config:\n  edition: 3\nstreams:\n  all:\n    auto_subscribe: true\n    \
                query: SELECT * FROM t\n";
    std::fs::write(&sync, yaml).expect("written");
    let mut process = HeadwaterProcess::spawn(ProcessOptions {
        binary: env!("CARGO_BIN_EXE_headwater").into(),
        arguments: vec!["serve".into()],
        environment: [
            ("DATABASE_URL", bouncer.url(&database.name)),
            ("HEADWATER_DATA_DIR", directory.path().join("data").display().to_string()),
            ("HEADWATER_SYNC_CONFIG", sync.display().to_string()),
            ("HEADWATER_JWT_SECRET", "a secret of thirty-two characters".into()),
        ]
        .map(|(name, value)| (name.to_owned(), value))
        .into(),
        // Ours, and the engine's at each of its attempts.
        allowed_log: vec!["HW2140".into(), "HW2017".into()],
    });
    process.until_log("a pooler stands before Postgres, and replication").await;
    let trouble = r#""trouble":"a pooler stands before Postgres, and replication cannot go"#;
    poll_until("the status says it", || async {
        let answer = http_get(process.address(), "/admin/api/status", &OPERATOR).await.ok()?;
        answer.body.contains(trouble).then_some(())
    })
    .await;
    assert_eq!(process.log().matches("HW2140").count(), 1);
    process.stop().await;
}
