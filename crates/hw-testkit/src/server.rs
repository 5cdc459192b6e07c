//! The `headwater` process as a test sees it: started with an environment, awaited by its readiness
//! probe, stopped gently or by SIGKILL, and started again on the same address and data.
//!
//! Its log is output: a line of level ERROR or WARN that the test did not allow fails the test when
//! the process is dropped (style.md section 5).

use std::io::{BufRead, BufReader, Read};
use std::net::{SocketAddr, TcpStream};
use std::path::{Path, PathBuf};
use std::process::{Child, Command, ExitStatus, Stdio};
use std::sync::{Arc, Mutex};
use std::thread::JoinHandle;

use crate::{nursery, poll_until, ports, scratch};

mod http;
mod log;

pub use http::{HttpAnswer, http_get};

/// The token for status and metrics that every process has unless its options say another one; an
/// empty one is none.
pub const API_TOKEN: &str = "token-of-the-tests-operator";

/// What the operator sends with it.
pub const OPERATOR: [(&str, &str); 1] = [("authorization", "Bearer token-of-the-tests-operator")];

/// How to start a process.
#[derive(Clone, Debug, Default)]
pub struct ProcessOptions {
    /// The binary: `env!("CARGO_BIN_EXE_headwater")` in the integration tests of its crate.
    pub binary: PathBuf,
    /// Its arguments, for example `["serve"]`.
    pub arguments: Vec<String>,
    /// Its environment besides `PATH`, `HOME` and what the wrapper sets; nothing else is inherited,
    /// so that a developer's own settings cannot change a test.
    pub environment: Vec<(String, String)>,
    /// Parts of ERROR and WARN lines that this test expects.
    pub allowed_log: Vec<String>,
}

/// A running (or killed) process and everything it has said.
pub struct HeadwaterProcess {
    options: ProcessOptions,
    address: SocketAddr,
    running: Option<Running>,
    lines: Arc<Mutex<Vec<String>>>,
}

struct Running {
    child: Child,
    readers: Vec<JoinHandle<()>>,
}

impl HeadwaterProcess {
    /// Starts the process on a free port of 127.0.0.1 (`HEADWATER_LISTEN` is set to it) and does
    /// not wait. For commands that end by themselves see [`HeadwaterProcess::wait_exit`].
    pub fn spawn(options: ProcessOptions) -> HeadwaterProcess {
        let address = SocketAddr::from(([127, 0, 0, 1], ports::free()));
        let mut process = HeadwaterProcess {
            options,
            address,
            running: None,
            lines: Arc::new(Mutex::new(Vec::new())),
        };
        process.spawn_again();
        process
    }

    /// Starts the process and waits until it is ready.
    pub async fn start(options: ProcessOptions) -> HeadwaterProcess {
        let mut process = HeadwaterProcess::spawn(options);
        process.until_ready().await;
        process
    }

    /// Starts it again after [`HeadwaterProcess::kill`] or a stop: same options, same address.
    ///
    /// - Panics: if it is running, or the binary cannot be started.
    pub fn spawn_again(&mut self) {
        assert!(self.running.is_none(), "the process is running");
        let mut command = Command::new(&self.options.binary);
        command.args(&self.options.arguments).env_clear();
        for name in ["PATH", "HOME", "TMPDIR"] {
            if let Some(value) = std::env::var_os(name) {
                command.env(name, value);
            }
        }
        command.env("HEADWATER_LISTEN", self.address.to_string());
        command.env("HEADWATER_API_TOKEN", API_TOKEN);
        command.envs(self.options.environment.iter().map(|(name, value)| (name, value)));
        command.stdin(Stdio::null()).stdout(Stdio::piped()).stderr(Stdio::piped());
        let mut child = nursery::spawn(command, libc::SIGKILL)
            .unwrap_or_else(|error| panic!("start {}: {error}", self.options.binary.display()));
        let stdout = child.stdout.take().expect("standard output was piped");
        let stderr = child.stderr.take().expect("standard error was piped");
        let readers = vec![self.collect(stdout), self.collect(stderr)];
        self.running = Some(Running { child, readers });
    }

    /// Changes an environment variable for the next [`HeadwaterProcess::spawn_again`].
    pub fn set_environment(&mut self, name: &str, value: &str) {
        self.options.environment.retain(|(other, _)| other != name);
        self.options.environment.push((name.to_owned(), value.to_owned()));
    }

    /// Lets ERROR and WARN lines that contain `part` pass from now on.
    pub fn allow_log(&mut self, part: &str) {
        self.options.allowed_log.push(part.to_owned());
    }

    /// Waits until `GET /probes/readiness` answers 200.
    ///
    /// - Panics: if the process ends first, or after [`crate::wait::LIMIT`]; with its log.
    pub async fn until_ready(&mut self) {
        let address = self.address;
        let running = self.running.as_mut().expect("the process was started");
        let pid = running.child.id();
        let mut exited = None;
        poll_until("headwater is ready", || {
            exited = running.child.try_wait().expect("our own child can be waited for");
            let gone = exited.is_some();
            async move {
                let answer = http_get(address, "/probes/readiness", &[]).await;
                (gone || answer.is_ok_and(|answer| answer.status == 200)).then_some(())
            }
        })
        .await;
        if let Some(status) = exited {
            panic!("headwater (process {pid}) ended at start with {status}:\n{}", self.log());
        }
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.address
    }

    /// For example `http://127.0.0.1:40123`.
    pub fn url(&self) -> String {
        format!("http://{}", self.address)
    }

    /// The binary's path.
    pub fn binary(&self) -> &Path {
        &self.options.binary
    }

    /// The process id.
    ///
    /// - Panics: if it is not running.
    pub fn pid(&self) -> u32 {
        self.running.as_ref().expect("the process is running").child.id()
    }

    /// Sends any signal, for example `SIGHUP`, `SIGSTOP` or `SIGCONT`.
    pub fn signal(&self, number: i32) {
        scratch::signal(self.pid() as i32, number);
    }

    /// SIGKILL, as a crash of the machine's process; returns when it is gone.
    pub fn kill(&mut self) {
        if let Some(mut running) = self.running.take() {
            let _ = running.child.kill();
            finish(running);
        }
    }

    /// SIGTERM, then waits for the end and checks the log.
    ///
    /// - Panics: on an exit status other than 0 or an unlisted ERROR or WARN line.
    pub async fn stop(&mut self) {
        self.signal(libc::SIGTERM);
        let status = self.wait_exit().await;
        assert!(status.success(), "headwater ended with {status}:\n{}", self.log());
        self.check_log();
    }

    /// Waits for the process to end by itself and returns how it did.
    pub async fn wait_exit(&mut self) -> ExitStatus {
        let mut running = self.running.take().expect("the process was started");
        let status = poll_until("headwater has ended", || {
            let status = running.child.try_wait().expect("our own child can be waited for");
            async move { status }
        })
        .await;
        finish(running);
        status
    }

    /// Whether it was started and has ended by itself.
    pub fn has_ended(&mut self) -> bool {
        let ended = |running: &mut Running| running.child.try_wait().is_ok_and(|s| s.is_some());
        self.running.as_mut().is_some_and(ended)
    }

    /// Everything it has written so far, both streams, over all starts.
    pub fn log(&self) -> String {
        self.lines().join("\n")
    }

    /// Waits until a line contains `part`, and returns that line.
    pub async fn until_log(&self, part: &str) -> String {
        poll_until(&format!("the log says {part:?}"), || async {
            self.lines().iter().find(|line| line.contains(part)).cloned()
        })
        .await
    }

    /// Fails the test if the log has an ERROR or WARN line that was not allowed.
    pub fn check_log(&self) {
        let unlisted = log::unlisted(&self.lines(), &self.options.allowed_log);
        assert!(unlisted.is_empty(), "unlisted lines in the log:\n{}", unlisted.join("\n"));
    }

    fn lines(&self) -> Vec<String> {
        self.lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).clone()
    }

    fn collect(&self, stream: impl Read + Send + 'static) -> JoinHandle<()> {
        let lines = Arc::clone(&self.lines);
        std::thread::spawn(move || {
            for line in BufReader::new(stream).split(b'\n').map_while(Result::ok) {
                let line = String::from_utf8_lossy(&line).trim_end().to_owned();
                lines.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(line);
            }
        })
    }
}

impl Drop for HeadwaterProcess {
    fn drop(&mut self) {
        self.kill();
        if !std::thread::panicking() {
            self.check_log();
        }
    }
}

/// Reaps the child and waits until its last words are read.
fn finish(mut running: Running) {
    let _ = running.child.wait();
    for reader in running.readers {
        let _ = reader.join();
    }
}

/// Whether anything accepts connections on this address.
pub fn is_listening(address: SocketAddr) -> bool {
    TcpStream::connect(address).is_ok()
}
