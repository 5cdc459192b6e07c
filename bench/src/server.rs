//! The server under measure: the real binary as a process of its own, with its files.

use std::net::SocketAddr;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use hw_auth::{Clock, Secret, token};
use hw_testkit::server::{OPERATOR, http_get};
use hw_testkit::{HeadwaterProcess, ProcessOptions};
use serde_json::{Map, Value};
use tempfile::TempDir;

use crate::options::Options;
use crate::report::Report;
use crate::usage::{self, Usage};
use crate::{Failure, Outcome};

/// Only ever between this program and the servers that it starts.
const SECRET: &str = "the measurements sign their tokens with this text";

/// Between two looks at a server that is not there yet. A look costs the server about 50 µs.
const PAUSE: Duration = Duration::from_millis(10);

/// How long anything may take before a run is given up.
const PATIENCE: Duration = Duration::from_secs(1800);

/// Every list in one stream, and the ticks in one bucket for everybody.
pub const BY_LIST: &str = "config:
  edition: 3
streams:
  lists:
    auto_subscribe: true
    query: SELECT * FROM items WHERE list_id IN (SELECT id FROM lists WHERE owner_id = auth.user_id())
  ticks:
    auto_subscribe: true
    query: SELECT * FROM ticks
";

/// All items in one bucket.
pub const ONE_BUCKET: &str = "config:
  edition: 3
streams:
  everything:
    auto_subscribe: true
    query: SELECT * FROM items
";

/// The same, and the ticks in a bucket beside it.
pub const ONE_BUCKET_AND_TICKS: &str = "config:
  edition: 3
streams:
  everything:
    auto_subscribe: true
    query: SELECT * FROM items
  ticks:
    auto_subscribe: true
    query: SELECT * FROM ticks
";

/// A bucket for each owner.
pub const BY_OWNER: &str = "config:
  edition: 3
streams:
  mine:
    auto_subscribe: true
    query: SELECT * FROM items WHERE owner_id = auth.user_id()
";

/// The server's own configuration: what one client of 10,000 buckets needs, the rest as it comes.
const CONFIGURATION: &str = "limits:
  buckets_per_client: 100000
  parameter_results: 100000
";

/// The same for live queries, of which clients come in tens of thousands.
const LIVE_CONFIGURATION: &str = "datasync:
  enabled: true
limits:
  max_clients: 200000
";

/// A server and its directory, which goes with it.
pub struct Server {
    process: HeadwaterProcess,
    began: Instant,
    // Dropped behind the process.
    dir: TempDir,
}

impl Server {
    /// Starts a server with an empty store and does not wait.
    pub fn start(options: &Options, url: &str, sync_config: &str) -> Outcome<Server> {
        let dir = options.work_dir()?;
        let file = dir.path().join("sync.yaml");
        std::fs::write(&file, sync_config)?;
        let file = ("HEADWATER_SYNC_CONFIG", file.display().to_string());
        Server::start_in(dir, options, url, CONFIGURATION, file)
    }

    /// Starts a server of live queries alone for users of this role, with an empty store, and does not wait.
    pub fn start_live(options: &Options, url: &str, role: &str) -> Outcome<Server> {
        let role = ("HEADWATER_DB_ROLE", role.to_owned());
        Server::start_in(options.work_dir()?, options, url, LIVE_CONFIGURATION, role)
    }

    fn start_in(
        dir: TempDir,
        options: &Options,
        url: &str,
        configuration: &str,
        setting: (&str, String),
    ) -> Outcome<Server> {
        let file = |name: &str| dir.path().join(name).display().to_string();
        std::fs::write(file("headwater.yaml"), configuration)?;
        let environment = [
            ("DATABASE_URL", url.to_owned()),
            ("HEADWATER_CONFIG", file("headwater.yaml")),
            ("HEADWATER_DATA_DIR", file("data")),
            ("HEADWATER_JWT_SECRET", SECRET.to_owned()),
            ("HEADWATER_LOG_FORMAT", "text".to_owned()),
            setting,
        ];
        let process = ProcessOptions {
            binary: options.binary().to_path_buf(),
            arguments: vec!["serve".into()],
            environment: environment.map(|(name, value)| (name.to_owned(), value)).to_vec(),
            // Warnings are shown with the results instead of ending the run.
            allowed_log: vec![String::new()],
        };
        let began = Instant::now();
        Ok(Server { process: HeadwaterProcess::spawn(process), began, dir })
    }

    /// Where it listens.
    pub fn address(&self) -> SocketAddr {
        self.process.address()
    }

    /// Since the process was started.
    pub fn age(&self) -> Duration {
        self.began.elapsed()
    }

    /// Waits until a sync configuration is served, so that the first checkpoint is there.
    ///
    /// - Returns: how long that took since the start of the process.
    pub async fn until_ready(&self) -> Outcome<Duration> {
        self.until("the server is ready", || async {
            let answer = http_get(self.address(), "/probes/readiness", &[]).await;
            answer.is_ok_and(|answer| answer.status == 200)
        })
        .await?;
        Ok(self.age())
    }

    /// Waits until `look` says yes.
    ///
    /// - Errors: it never does; the process has ended.
    pub async fn until<Look, Answer>(&self, what: &str, look: Look) -> Outcome<()>
    where
        Look: Fn() -> Answer,
        Answer: Future<Output = bool>,
    {
        let deadline = Instant::now() + PATIENCE;
        while !look().await {
            if usage::of(self.process.pid()).is_err() {
                return Err(self.gone());
            }
            if Instant::now() > deadline {
                return Err(format!("waited in vain until {what}:\n{}", self.last_words()).into());
            }
            tokio::time::sleep(PAUSE).await;
        }
        Ok(())
    }

    /// What the process has used since it was last started.
    pub fn usage(&self) -> Outcome<Usage> {
        usage::of(self.process.pid()).map_err(|_| self.gone())
    }

    /// The process id.
    pub fn pid(&self) -> u32 {
        self.process.pid()
    }

    /// `/admin/api/status`.
    pub async fn status(&self) -> Outcome<Value> {
        let answer = http_get(self.address(), "/admin/api/status", &OPERATOR).await?;
        if answer.status != 200 {
            return Err(format!("the status is answered with {}", answer.status).into());
        }
        Ok(serde_json::from_str(&answer.body)?)
    }

    /// Number of the sync configuration that is served, 0 for none.
    pub async fn sync_version(&self) -> Outcome<u64> {
        let status = self.status().await?;
        Ok(status["checkpoint"]["sync_version"].as_u64().unwrap_or(0))
    }

    /// Replaces the sync configuration and asks for it by SIGHUP.
    pub fn reconfigure(&self, sync_config: &str) -> Outcome<()> {
        std::fs::write(self.dir.path().join("sync.yaml"), sync_config)?;
        self.process.signal(libc::SIGHUP);
        Ok(())
    }

    /// Where the store is.
    pub fn data(&self) -> PathBuf {
        self.dir.path().join("data")
    }

    /// A token for `subject`.
    pub fn token(&self, subject: &str) -> Outcome<String> {
        let secret = Secret::parse(SECRET).map_err(|finding| finding.to_string())?;
        let lifetime = Duration::from_secs(6 * 3600);
        Ok(token::issue(&secret, subject, lifetime, &Map::new(), &[], &Clock::system()))
    }

    /// Stops it gracefully; the store stays.
    pub async fn stop(&mut self) {
        self.process.stop().await;
    }

    /// Kills it; the store stays as it is at that moment.
    pub fn kill(&mut self) {
        self.process.kill();
    }

    /// Starts it again on the same store and does not wait.
    pub fn start_again(&mut self) {
        self.began = Instant::now();
        self.process.spawn_again();
    }

    /// Notes the version, and what the log warned of.
    pub async fn account(&self, report: &mut Report) -> Outcome<()> {
        let status = self.status().await?;
        report.version("headwater", status["version"].as_str().unwrap_or_default());
        let log = self.process.log();
        // Without the time in front, so that a line that comes again is one note.
        let loud = |line| {
            [" WARN ", " ERROR "]
                .iter()
                .find_map(|level| str::find(line, level).map(|at| &line[at..]))
        };
        for line in log.lines().filter_map(loud).take(5) {
            report.note(format!("the server's log:{line}"));
        }
        Ok(())
    }

    fn gone(&self) -> Failure {
        format!("the server has ended:\n{}", self.last_words()).into()
    }

    fn last_words(&self) -> String {
        let log = self.process.log();
        let lines: Vec<&str> = log.lines().collect();
        lines[lines.len().saturating_sub(20)..].join("\n")
    }
}
