//! A private Postgres for one test.
//!
//! [`Cluster::start`] copies the template data directory, starts `postgres` on a free port of the
//! loopback address and returns once it accepts connections. Dropping the cluster stops the server
//! and removes the data; a test process that is killed takes the server with it.
//!
//! Invariant: port, data directory and system identifier stay the same over [`Cluster::stop`] and
//! [`Cluster::start_again`], as over a restart of a real server.

use std::fs::{self, File, OpenOptions};
use std::io::Write;
use std::path::{Path, PathBuf};
use std::process::{Child, Command};
use std::sync::atomic::{AtomicU32, Ordering};
use std::sync::{Mutex, MutexGuard};
use std::thread::sleep;
use std::time::{Duration, Instant};

use std::os::unix::fs::{MetadataExt, PermissionsExt, chown};
use std::os::unix::process::CommandExt;

use tokio_postgres::{Client, NoTls};

use crate::account::Account;
use crate::binaries::Binaries;
use crate::scratch::{self, OwnedDir};
use crate::{nursery, ports, template};

/// How long a server may take to start or stop before the test fails.
const START_LIMIT: Duration = Duration::from_secs(60);

/// How clients prove who they are.
#[derive(Clone, Debug, Default)]
pub enum Auth {
    /// Everybody is believed.
    #[default]
    Trust,
    /// Over TCP the role `postgres` needs this password, checked by SCRAM-SHA-256. Other roles need
    /// one too, given by `ALTER ROLE`. The Unix socket stays open to everybody.
    Scram {
        /// The password of `postgres`.
        password: String,
    },
}

/// What a test may choose; the default fits most.
#[derive(Clone, Debug, Default)]
pub struct ClusterOptions<'a> {
    /// The major, for example 16; `None` takes the system's own. See [`crate::majors`].
    pub major: Option<u32>,
    /// Server settings that win over the defaults of the test kit, as in `postgresql.conf`.
    pub settings: &'a [(&'a str, &'a str)],
    /// How clients over TCP are authenticated.
    pub auth: Auth,
}

/// How to stop a server, as in `pg_ctl stop -m`.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub enum Stop {
    /// Ends sessions, writes a checkpoint. Waits for walsenders whose client still confirms.
    Fast,
    /// Stops without a checkpoint; the next start recovers from the log, as after a crash.
    Immediate,
}

/// A running server of its own, or a stopped one that can be started again.
pub struct Cluster {
    // Dropped after `drop` has stopped the server.
    dir: OwnedDir,
    binaries: Binaries,
    account: Account,
    auth: Auth,
    port: u16,
    process: Mutex<Option<Child>>,
    databases: AtomicU32,
}

/// A database of its own within a cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct TestDatabase {
    /// Its name, for example `t3`.
    pub name: String,
    /// A connection URL for the superuser.
    pub url: String,
}

impl Cluster {
    /// Starts a server with the defaults: `wal_level = logical`, 20 slots and walsenders, no fsync,
    /// trust authentication.
    pub fn start() -> Cluster {
        Cluster::start_with(ClusterOptions::default())
    }

    /// Starts a server with the given options. Blocks until it accepts connections (a few hundred
    /// milliseconds).
    ///
    /// - Panics: if there are no binaries of that major, or the server does not start; with its log.
    pub fn start_with(options: ClusterOptions<'_>) -> Cluster {
        let account = Account::for_postgres();
        let root = scratch::root(&account);
        let binaries = Binaries::find(options.major).reachable_by(&account, &root);
        let template = template::ensure(&binaries, &account, &root);
        let dir = OwnedDir::claim(&root);
        account.own(dir.path()).expect("root may give a directory away");
        let data = dir.path().join("data");
        let copied = Command::new("cp").arg("-a").arg(&template).arg(&data).status();
        assert!(copied.is_ok_and(|s| s.success()), "copy of {} failed", template.display());

        let mut cluster = Cluster {
            dir,
            binaries,
            account,
            auth: options.auth,
            port: 0,
            process: Mutex::new(None),
            databases: AtomicU32::new(0),
        };
        // The port is only probed, not held, so another process may win it: try a few.
        let mut tries = 0;
        loop {
            tries += 1;
            cluster.port = ports::free();
            cluster.write_settings(options.settings);
            cluster.write_access_rules(false);
            match cluster.launch() {
                Ok(()) => break,
                Err(log) if tries < 5 && log.contains("could not bind") => {}
                Err(log) => panic!("Postgres did not start:\n{log}"),
            }
        }
        if let Auth::Scram { password } = cluster.auth.clone() {
            cluster.set_password(&password);
        }
        cluster
    }

    /// The major, for example 16.
    pub fn major(&self) -> u32 {
        self.binaries.major
    }

    /// The TCP port on 127.0.0.1; the same for the cluster's whole life.
    pub fn port(&self) -> u16 {
        self.port
    }

    /// The directory of the Unix socket, usable as `host` in a connection string.
    pub fn socket_dir(&self) -> &Path {
        self.dir.path()
    }

    /// The data directory.
    pub fn data_dir(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// The directory with `initdb` and `postgres` (Debian's also with `psql`, `pgbench`, …).
    pub fn bin_dir(&self) -> &Path {
        &self.binaries.bin
    }

    /// A URL that connects the superuser `postgres` to database `db` over TCP.
    pub fn url(&self, db: &str) -> String {
        match &self.auth {
            Auth::Trust => self.url_as("postgres", None, db),
            Auth::Scram { password } => self.url_as("postgres", Some(password), db),
        }
    }

    /// A URL for another role.
    pub fn url_as(&self, user: &str, password: Option<&str>, db: &str) -> String {
        let secret = password.map_or(String::new(), |text| format!(":{}", encode(text)));
        format!("postgres://{}{secret}@127.0.0.1:{}/{}", encode(user), self.port, encode(db))
    }

    /// A connected superuser session in database `db`; its connection task ends with the client.
    ///
    /// - Panics: if the connection is refused.
    pub async fn client(&self, db: &str) -> Client {
        connect(&self.url(db)).await
    }

    /// Creates an empty database in this cluster (about 30 ms), for tests that share a cluster.
    pub async fn create_database(&self) -> TestDatabase {
        let number = self.databases.fetch_add(1, Ordering::Relaxed) + 1;
        let name = format!("t{number}");
        let client = self.client("postgres").await;
        client
            .batch_execute(&format!("CREATE DATABASE {name}"))
            .await
            .expect("a superuser may create a database");
        TestDatabase { url: self.url(&name), name }
    }

    /// Stops the server and returns when it is gone.
    ///
    /// With [`Stop::Fast`] a walsender waits for its client; a test whose replication client runs
    /// on the same thread uses [`Cluster::signal_stop`] and [`Cluster::stopped`] instead.
    ///
    /// - Panics: if it does not stop within a minute.
    pub fn stop(&self, mode: Stop) {
        self.signal_stop(mode);
        let deadline = Instant::now() + START_LIMIT;
        while self.is_running() {
            assert!(Instant::now() < deadline, "Postgres did not stop:\n{}", self.log());
            sleep(Duration::from_millis(2));
        }
    }

    /// Asks the server to stop and does not wait.
    pub fn signal_stop(&self, mode: Stop) {
        let number = match mode {
            Stop::Fast => libc::SIGINT,
            Stop::Immediate => libc::SIGQUIT,
        };
        self.signal(number);
    }

    /// Waits until a server that was asked to stop is gone.
    pub async fn stopped(&self) {
        crate::poll_until("Postgres has stopped", || async { (!self.is_running()).then_some(()) })
            .await;
    }

    /// The postmaster; `None` if it is not running.
    pub fn postmaster(&self) -> Option<u32> {
        self.process().as_ref().map(std::process::Child::id)
    }

    /// The postmaster's children that are running now.
    pub fn children(&self) -> Vec<i32> {
        self.postmaster().map(|pid| children(pid as i32)).unwrap_or_default()
    }

    /// Sends a signal to the postmaster, for example `SIGHUP`; nothing if it is not running.
    pub fn signal(&self, number: i32) {
        if let Some(child) = self.process().as_ref() {
            scratch::signal(child.id() as i32, number);
        }
    }

    /// Sends a signal to one process of the server, for example a walsender.
    pub fn signal_process(&self, pid: i32, number: i32) {
        scratch::signal(pid, number);
    }

    /// Sends a signal to every process of the server, `SIGSTOP` or `SIGCONT`: one that hangs as a whole
    /// keeps its connections and answers nothing.
    pub fn signal_all(&self, number: i32) {
        // Who makes processes first, so that none is missed.
        self.signal(number);
        for child in self.children() {
            scratch::signal(child, number);
        }
    }

    /// Lets the server stop and give transaction ids, from its next start on, that are so many below a wrap of 32
    /// bits: the third of its life. `None` where the server's binaries lack `pg_resetwal`.
    pub async fn before_wrap(&self, ids: u32) -> Option<()> {
        const EPOCH: &str = "2";
        let program = self.binaries.bin.join("pg_resetwal");
        if !program.is_file() {
            return None;
        }
        // Rows must be frozen before ids are 2^31 ahead of them.
        for next in [2_100_000_000, 4_200_000_000, u32::MAX - ids + 1] {
            self.freeze().await;
            self.stop(Stop::Fast);
            let mut reset = Command::new(&program);
            reset.args(["-e", EPOCH, "-x", &next.to_string()]).arg(self.data_dir());
            reset.stdout(std::process::Stdio::null()).current_dir(self.data_dir());
            self.as_account(&mut reset);
            assert!(reset.status().is_ok_and(|status| status.success()), "pg_resetwal failed");
            // What became of each id: two bits, in files of 2^20 ids, of which this one is not there.
            let name = format!("pg_xact/{:04X}", next >> 20);
            let path = self.data_dir().join(name);
            fs::write(&path, vec![0; 1 << 18]).expect("the data directory takes a file");
            self.account.own(&path).expect("root may give a file away");
            self.start_again();
        }
        Some(())
    }

    /// Freezes all rows of all databases.
    async fn freeze(&self) {
        let client = self.client("postgres").await;
        client.batch_execute("ALTER DATABASE template0 ALLOW_CONNECTIONS true").await.unwrap();
        for row in client.query("SELECT datname::text FROM pg_database", &[]).await.unwrap() {
            let client = self.client(row.get(0)).await;
            client.batch_execute("VACUUM FREEZE").await.unwrap();
        }
    }

    /// Starts a stopped server on the same port and data, and returns when it accepts connections.
    ///
    /// - Panics: if it is running, or does not start; with its log.
    pub fn start_again(&self) {
        assert!(!self.is_running(), "the cluster is running");
        if let Err(log) = self.launch() {
            panic!("Postgres did not start again:\n{log}");
        }
    }

    /// Changes settings: appended to the configuration, then reloaded. Settings that only count at
    /// start take effect with [`Cluster::start_again`].
    pub fn configure(&self, settings: &[(&str, &str)]) {
        let file = self.data_dir().join("testkit.conf");
        let mut file = OpenOptions::new().append(true).open(file).expect("testkit.conf exists");
        file.write_all(settings_text(settings).as_bytes()).expect("testkit.conf can be extended");
        self.signal(libc::SIGHUP);
    }

    /// Starts again with TLS under this certificate and its key, both PEM.
    pub fn serve_tls(&self, certificate: &str, key: &str) {
        let data = self.data_dir();
        let owner = fs::metadata(&data).expect("the data directory exists");
        for (name, text) in [("server.crt", certificate), ("server.key", key)] {
            let path = data.join(name);
            fs::write(&path, text).expect("written");
            fs::set_permissions(&path, fs::Permissions::from_mode(0o600)).expect("ours");
            chown(&path, Some(owner.uid()), Some(owner.gid())).expect("given to the server");
        }
        self.configure(&[("ssl", "on")]);
        self.stop(Stop::Fast);
        self.start_again();
    }

    /// Whether the postmaster lives.
    pub fn is_running(&self) -> bool {
        let mut process = self.process();
        let ended = match process.as_mut() {
            None => return false,
            Some(child) => child.try_wait().expect("our own child can be waited for").is_some(),
        };
        if ended {
            *process = None;
        }
        !ended
    }

    /// Everything the server has logged.
    pub fn log(&self) -> String {
        let bytes = fs::read(self.dir.path().join("server.log")).unwrap_or_default();
        String::from_utf8_lossy(&bytes).into_owned()
    }

    fn process(&self) -> MutexGuard<'_, Option<Child>> {
        // A test that failed while holding the lock must still be able to stop its server.
        self.process.lock().unwrap_or_else(|poisoned| poisoned.into_inner())
    }

    fn write_settings(&self, settings: &[(&str, &str)]) {
        let socket_dir = self.dir.path().display().to_string();
        let port = self.port.to_string();
        let mut text = settings_text(&[("port", &port), ("unix_socket_directories", &socket_dir)]);
        text.push_str(&settings_text(settings));
        self.write_owned("testkit.conf", &text);
    }

    /// Access rules: replication connections and ordinary ones alike. `scram` asks for passwords.
    fn write_access_rules(&self, scram: bool) {
        let method = if scram { "scram-sha-256" } else { "trust" };
        let mut text = String::from("local all all trust\nlocal replication all trust\n");
        for address in ["127.0.0.1/32", "::1/128"] {
            text.push_str(&format!("host all all {address} {method}\n"));
            text.push_str(&format!("host replication all {address} {method}\n"));
        }
        self.write_owned("pg_hba.conf", &text);
    }

    fn write_owned(&self, name: &str, text: &str) {
        let path = self.data_dir().join(name);
        fs::write(&path, text).expect("the data directory takes a file");
        self.account.own(&path).expect("root may give a file away");
    }

    /// Sets the superuser's password in single-user mode, so that it needs no client, then starts
    /// the server with rules that ask for it.
    fn set_password(&self, password: &str) {
        self.stop(Stop::Fast);
        let mut single = Command::new(self.binaries.bin.join("postgres"));
        single.args(["--single", "-D"]).arg(self.data_dir());
        single.args(["-c", "password_encryption=scram-sha-256", "postgres"]);
        single.stdin(std::process::Stdio::piped()).current_dir(self.data_dir());
        single.stdout(std::process::Stdio::null()).stderr(self.log_file());
        self.as_account(&mut single);
        let mut child = single.spawn().expect("postgres starts in single-user mode");
        let quoted = password.replace('\'', "''");
        let mut stdin = child.stdin.take().expect("standard input was piped");
        writeln!(stdin, "ALTER ROLE postgres PASSWORD '{quoted}'").expect("it reads its input");
        drop(stdin);
        assert!(child.wait().is_ok_and(|s| s.success()), "set password:\n{}", self.log());
        self.write_access_rules(true);
        self.start_again();
    }

    fn as_account(&self, command: &mut Command) {
        if self.account.foreign {
            command.uid(self.account.uid).gid(self.account.gid);
        }
    }

    fn log_file(&self) -> File {
        let path = self.dir.path().join("server.log");
        OpenOptions::new().create(true).append(true).open(path).expect("the log can be opened")
    }

    /// Starts the postmaster and waits until it accepts connections; on failure returns its log.
    fn launch(&self) -> Result<(), String> {
        let status_file = self.data_dir().join("postmaster.pid");
        // Left behind by an immediate stop; its old status must not be taken for the new one's.
        let _ = fs::remove_file(&status_file);
        let mut command = Command::new(self.binaries.bin.join("postgres"));
        command
            .arg("-D")
            .arg(self.data_dir())
            .current_dir(self.data_dir())
            .env("LC_ALL", "C")
            .env_remove("PGDATA")
            .stdin(std::process::Stdio::null())
            .stdout(self.log_file())
            .stderr(self.log_file());
        self.as_account(&mut command);
        // Immediate shutdown is the death signal: no checkpoint, but shared memory is released.
        let child = nursery::spawn(command, libc::SIGQUIT).map_err(|error| error.to_string())?;
        *self.process() = Some(child);

        let deadline = Instant::now() + START_LIMIT;
        loop {
            if is_ready(&status_file) {
                return Ok(());
            }
            if !self.is_running() {
                return Err(self.log());
            }
            if Instant::now() > deadline {
                self.signal_stop(Stop::Immediate);
                return Err(format!("not ready after a minute:\n{}", self.log()));
            }
            sleep(Duration::from_millis(2));
        }
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        self.signal_stop(Stop::Immediate);
        if let Some(mut child) = self.process().take() {
            // The postmaster kills what lingers after five seconds by itself.
            let _ = child.wait();
        }
    }
}

/// Connects without TLS and drives the connection on a task.
///
/// - Panics: if the connection is refused.
pub async fn connect(url: &str) -> Client {
    let (client, connection) =
        tokio_postgres::connect(url, NoTls).await.expect("the test's server accepts connections");
    tokio::spawn(connection);
    client
}

/// Reads the status line that the postmaster keeps in its pid file.
///
/// Source: `src/include/utils/pidfile.h` of PostgreSQL (line 8, `PM_STATUS_READY`), as `pg_ctl`.
fn is_ready(status_file: &Path) -> bool {
    fs::read_to_string(status_file)
        .is_ok_and(|text| text.lines().nth(7).is_some_and(|status| status.trim() == "ready"))
}

fn settings_text(settings: &[(&str, &str)]) -> String {
    settings
        .iter()
        .map(|(name, value)| format!("{name} = '{}'\n", value.replace('\'', "''")))
        .collect()
}

/// Percent-encodes everything but letters, digits and a few safe marks.
fn encode(text: &str) -> String {
    text.bytes()
        .map(|byte| match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                (byte as char).to_string()
            }
            _ => format!("%{byte:02X}"),
        })
        .collect()
}
/// The processes that a process has started and that live.
fn children(of: i32) -> Vec<i32> {
    let entries = std::fs::read_dir("/proc").into_iter().flatten().flatten();
    let pids = entries.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    let parent = |pid: &i32| -> Option<i32> {
        let stat = std::fs::read_to_string(format!("/proc/{pid}/stat")).ok()?;
        // Behind the name, which is in brackets and may hold blanks: state, parent.
        stat.rsplit(')').next()?.split_whitespace().nth(1)?.parse().ok()
    };
    pids.filter(|pid| parent(pid) == Some(of)).collect()
}
