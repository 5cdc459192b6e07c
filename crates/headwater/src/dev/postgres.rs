//! The private Postgres of `dev`: made once, started with us, stopped with us.
//!
//! In: a data directory. Out: a running server on a loopback port with a password of its own.
//! Invariants: it ends when we end, in whatever way; it never touches another cluster; nobody
//! without the password file can connect.

use std::fs::{self, File};
use std::io;
use std::os::unix::process::CommandExt as _;
use std::path::{Path, PathBuf};
use std::process::{Child, Command, Stdio};
use std::time::{Duration, Instant};

use rand::Rng as _;

use super::account::{self, Account};
use super::banner::shell_word;
use super::binaries::{self, Binaries};
use crate::config::secret::Secret;
use crate::process;
use crate::report;

/// The superuser of the private cluster.
pub const USER: &str = "headwater";

/// The database with the sample.
pub const DATABASE: &str = "sample";

/// Name of its directory in the data directory.
const NAME: &str = "postgres";

/// How the name of a cluster begins that initdb is making.
const HALF_MADE: &str = "making.";

/// How long a fast shutdown may take before the server is told to stop at once.
const STOP_PATIENCE: Duration = Duration::from_secs(3);

/// How long a server that was told to stop at once may take before it is killed.
const QUIT_PATIENCE: Duration = Duration::from_millis(500);

/// How long recovery after a crash may take.
const START_PATIENCE: Duration = Duration::from_secs(60);

/// Whether a cluster is kept for a next start.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Lasts {
    Kept,
    /// It is of no use to anybody: nothing of it need reach the disk.
    ThrownAway,
}

/// A running private Postgres. Dropping it stops it.
pub struct PrivatePostgres {
    child: Child,
    port: u16,
    password: Secret,
    /// Where a person finds the password, in the form of `.pgpass`.
    pass_file: PathBuf,
    /// Whether the cluster was made by this start.
    pub created: bool,
    /// The account it runs under when that is not ours.
    pub account: Option<Account>,
    /// Where its files are.
    pub directory: PathBuf,
    /// Its major version.
    pub major: u32,
}

impl PrivatePostgres {
    /// Makes the cluster if it is missing and starts it. The caller holds the lock of `data_dir`.
    ///
    /// - Errors: a sentence; the server's own log is named in it.
    pub fn start(data_dir: &Path) -> io::Result<PrivatePostgres> {
        PrivatePostgres::start_in(data_dir, data_dir, Lasts::Kept)
    }

    /// Makes a cluster that is not kept and starts it. Whoever calls this removes it, with [`remove`].
    ///
    /// - Takes: the data directory, where binaries may be installed; an empty directory for all else.
    pub fn start_thrown_away(data_dir: &Path, directory: &Path) -> io::Result<PrivatePostgres> {
        PrivatePostgres::start_in(data_dir, directory, Lasts::ThrownAway)
    }

    fn start_in(of_binaries: &Path, data_dir: &Path, lasts: Lasts) -> io::Result<PrivatePostgres> {
        let account = account::to_drop_to();
        let binaries = binaries::find_or_install(of_binaries, account.as_ref())?;
        let place = account::directory(data_dir, NAME, account.as_ref())?;
        // As the person named it, unless it had to be elsewhere.
        let shown = if place.moved { place.path.clone() } else { data_dir.join(NAME) };
        let home = Home { directory: place.path, shown, account, binaries, lasts };
        stop_left_over(&home.data());
        let created = !home.data().join("PG_VERSION").exists();
        if created {
            home.initialise()?;
        }
        let password = fs::read_to_string(home.password_file())?.trim().to_owned();
        let port = home.port()?;
        let log = data_dir.join("postgres.log");
        let mut child = home.launch(port, &log)?;
        if let Err(error) = wait_until_it_answers(&mut child, port) {
            stop(&mut child);
            return Err(io::Error::other(format!("{error}; see {}", log.display())));
        }
        let pass_file = data_dir.join("postgres.pass");
        write_private(&pass_file, &format!("127.0.0.1:{port}:*:{USER}:{password}\n"))?;
        Ok(PrivatePostgres {
            child,
            port,
            password: Secret::new(password),
            pass_file,
            created,
            account: home.account,
            directory: home.directory,
            major: home.binaries.major,
        })
    }

    /// Connection string of `database`, with the password.
    pub fn url(&self, database: &str) -> Secret {
        Secret::new(format!(
            "postgres://{USER}:{}@127.0.0.1:{}/{database}?sslmode=disable",
            self.password.expose(),
            self.port
        ))
    }

    /// A command that opens the sample in `psql`, without the password in it.
    pub fn psql_command(&self) -> String {
        psql_command(&self.pass_file, self.port)
    }

    /// Stops the server: fast, and at once when that takes too long.
    pub fn stop(&mut self) {
        stop(&mut self.child);
    }

    /// How it ended, if it has ended by itself.
    pub fn ended(&mut self) -> Option<std::process::ExitStatus> {
        self.child.try_wait().ok().flatten()
    }
}

impl Drop for PrivatePostgres {
    fn drop(&mut self) {
        self.stop();
    }
}

/// A command that opens the sample on `port` in `psql`.
pub fn psql_command(pass_file: &Path, port: u16) -> String {
    let pass_file = shell_word(&pass_file.to_string_lossy());
    format!("PGPASSFILE={pass_file} psql -h 127.0.0.1 -p {port} -U {USER} {DATABASE}")
}

/// Deletes the cluster. The caller holds the lock of `data_dir`.
pub fn remove(data_dir: &Path) -> io::Result<()> {
    let link = data_dir.join(NAME);
    let real = fs::read_link(&link).unwrap_or(link);
    stop_left_over(&real.join("data"));
    account::remove(data_dir, NAME)
}

struct Home {
    directory: PathBuf,
    /// The same directory for messages.
    shown: PathBuf,
    account: Option<Account>,
    binaries: Binaries,
    lasts: Lasts,
}

impl Home {
    fn data(&self) -> PathBuf {
        self.directory.join("data")
    }

    fn password_file(&self) -> PathBuf {
        self.directory.join("password")
    }

    /// A command that runs under the cluster's account, with nothing of our environment that could
    /// lead it elsewhere.
    fn command(&self, program: &str) -> Command {
        let mut command = Command::new(self.binaries.directory.join(program));
        command.current_dir(&self.directory).env("LC_ALL", "C").stdin(Stdio::null());
        for name in ["PGDATA", "PGPORT", "PGHOST", "PGUSER", "PGPASSWORD", "PGOPTIONS"] {
            command.env_remove(name);
        }
        if let Some(account) = &self.account {
            command.uid(account.uid).gid(account.gid);
        }
        command
    }

    fn initialise(&self) -> io::Result<()> {
        // Those of interrupted runs; the initdb of one may still be at work.
        for entry in fs::read_dir(&self.directory)?.flatten() {
            if entry.file_name().to_string_lossy().starts_with(HALF_MADE) {
                let _ = fs::remove_dir_all(entry.path());
            }
        }
        let making = self.directory.join(format!("{HALF_MADE}{}", std::process::id()));
        write_private(&self.password_file(), &format!("{}\n", random_password()))?;
        if let Some(account) = &self.account {
            std::os::unix::fs::chown(self.password_file(), Some(account.uid), Some(account.gid))?;
        }
        if self.lasts == Lasts::Kept {
            self.tell();
        }
        let mut initdb = self.command("initdb");
        if self.lasts == Lasts::ThrownAway {
            initdb.arg("--no-sync");
        }
        let output = initdb
            .arg("-D")
            .arg(&making)
            .args(["-U", USER, "--auth=scram-sha-256", "--encoding=UTF8", "--locale=C"])
            .arg(format!("--pwfile={}", self.password_file().display()))
            .output()?;
        if output.status.success() {
            return fs::rename(&making, self.data());
        }
        let _ = fs::remove_dir_all(&making);
        let said = String::from_utf8_lossy(&output.stderr);
        let last = said.lines().rfind(|line| !line.trim().is_empty()).unwrap_or("no message");
        Err(io::Error::other(format!("initdb failed: {last}")))
    }

    /// Says what is made, and where.
    fn tell(&self) {
        report::say(&format!(
            "making a private Postgres {} in {}{}",
            self.binaries.major,
            self.shown.display(),
            match &self.account {
                Some(account) => format!(
                    ", owned by the account {}, because Postgres does not run as root",
                    account.name
                ),
                None => String::new(),
            }
        ));
    }

    /// The port of earlier runs if it is free, so that commands in a shell's history stay right;
    /// else a free one.
    fn port(&self) -> io::Result<u16> {
        let file = self.directory.join("port");
        let known = fs::read_to_string(&file).ok().and_then(|text| text.trim().parse().ok());
        let free = |port: u16| std::net::TcpListener::bind(("127.0.0.1", port));
        let listener = match known.and_then(|port| free(port).ok()) {
            Some(listener) => listener,
            None => free(0)?,
        };
        let port = listener.local_addr()?.port();
        fs::write(&file, format!("{port}\n"))?;
        Ok(port)
    }

    fn launch(&self, port: u16, log: &Path) -> io::Result<Child> {
        let log = File::create(log)?;
        let mut command = self.command("postgres");
        command.arg("-D").arg(self.data());
        let port = format!("port={port}");
        for setting in [
            port.as_str(),
            "listen_addresses=127.0.0.1",
            "unix_socket_directories=",
            "wal_level=logical",
            "max_wal_senders=20",
            "max_replication_slots=20",
            "max_slot_wal_keep_size=20GB",
            "logging_collector=off",
        ] {
            command.args(["-c", setting]);
        }
        if self.lasts == Lasts::ThrownAway {
            command.args(["-c", "fsync=off"]);
        }
        command.stdout(log.try_clone()?).stderr(log);
        // SIGINT asks for a fast shutdown.
        process::spawn_bound(command, libc::SIGINT)
    }
}

fn wait_until_it_answers(child: &mut Child, port: u16) -> io::Result<()> {
    let deadline = Instant::now() + START_PATIENCE;
    loop {
        if let Some(status) = child.try_wait()? {
            return Err(io::Error::other(format!(
                "the private Postgres ended at start ({status})"
            )));
        }
        if answers(port) {
            return Ok(());
        }
        if Instant::now() > deadline {
            return Err(io::Error::other("the private Postgres does not answer"));
        }
        std::thread::sleep(Duration::from_millis(50));
    }
}

/// Whether the server takes connections: it asks for a password, which it does not before
/// recovery is over.
fn answers(port: u16) -> bool {
    use std::io::{Read as _, Write as _};
    let attempt = || -> io::Result<u8> {
        let mut socket = std::net::TcpStream::connect(("127.0.0.1", port))?;
        socket.set_read_timeout(Some(Duration::from_secs(2)))?;
        let parameters = format!("user\0{USER}\0database\0postgres\0\0");
        let length = u32::try_from(parameters.len() + 8).map_err(io::Error::other)?;
        let mut startup = length.to_be_bytes().to_vec();
        startup.extend(196_608_u32.to_be_bytes());
        startup.extend(parameters.as_bytes());
        socket.write_all(&startup)?;
        let mut tag = [0];
        socket.read_exact(&mut tag)?;
        Ok(tag[0])
    };
    attempt().is_ok_and(|tag| tag == b'R')
}

fn stop(child: &mut Child) {
    for (signal, patience) in [(libc::SIGINT, STOP_PATIENCE), (libc::SIGQUIT, QUIT_PATIENCE)] {
        process::signal(child, signal);
        let deadline = Instant::now() + patience;
        while Instant::now() < deadline {
            if !matches!(child.try_wait(), Ok(None)) {
                return;
            }
            std::thread::sleep(Duration::from_millis(20));
        }
    }
    // It hangs. The next start recovers from the log, as after a crash.
    let _ = child.kill();
    let _ = child.wait();
}

/// Stops a server on this data directory that outlived the `dev` that started it.
fn stop_left_over(data: &Path) {
    let Ok(text) = fs::read_to_string(data.join("postmaster.pid")) else { return };
    let Some(pid) = text.lines().next().and_then(|line| line.trim().parse::<i32>().ok()) else {
        return;
    };
    // The number may belong to something else by now: only a server of this directory is stopped.
    let is_ours = || {
        fs::read(format!("/proc/{pid}/cmdline")).is_ok_and(|line| {
            let named = data.as_os_str().as_encoded_bytes();
            line.split(|byte| *byte == 0).any(|argument| argument == named)
        })
    };
    let deadline = Instant::now() + STOP_PATIENCE;
    if is_ours() {
        report::say("stopping the private Postgres of an earlier run");
        let _ = Command::new("kill").args(["-INT", &pid.to_string()]).status();
    }
    while is_ours() && Instant::now() < deadline {
        std::thread::sleep(Duration::from_millis(50));
    }
}

fn random_password() -> String {
    let mut bytes = [0_u8; 18];
    rand::rng().fill(&mut bytes);
    bytes.iter().map(|byte| format!("{byte:02x}")).collect()
}

/// Writes a file that only we can read.
pub fn write_private(path: &Path, text: &str) -> io::Result<()> {
    use std::io::Write as _;
    use std::os::unix::fs::OpenOptionsExt as _;
    let _ = fs::remove_file(path);
    let mut file = fs::OpenOptions::new().write(true).create_new(true).mode(0o600).open(path)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_private_postgres_keeps_its_data_and_port_and_stops_with_its_owner() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut first = PrivatePostgres::start(directory.path()).expect("started");
        assert!(first.created && answers(first.port));
        assert!(!first.psql_command().contains(first.password.expose()));
        let port = first.port;
        first.stop();
        assert!(!answers(port), "it stopped");

        let second = PrivatePostgres::start(directory.path()).expect("started again");
        assert!(!second.created && second.port == port);
        drop(second);
        assert!(!answers(port), "dropping stops it");

        remove(directory.path()).expect("removed");
        assert!(!directory.path().join("postgres").exists());
    }

    #[test]
    fn a_private_postgres_that_hangs_does_not_keep_dev_from_ending() {
        let directory = tempfile::tempdir().expect("a directory");
        let mut postgres = PrivatePostgres::start(directory.path()).expect("started");
        process::signal(&mut postgres.child, libc::SIGSTOP);
        postgres.stop();
        assert!(!answers(postgres.port));
        let again = PrivatePostgres::start(directory.path()).expect("it recovers");
        assert!(answers(again.port));
    }
}
