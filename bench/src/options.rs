//! What can be chosen on the command line, and the binary that is measured.

use std::path::{Path, PathBuf};
use std::process::Command;

use clap::{Args, Parser, Subcommand};

use crate::Outcome;

/// Measures Headwater; without a command, everything one after the other.
#[derive(Parser)]
#[command(name = "hw-bench", version)]
pub struct Arguments {
    /// Options of every measurement.
    #[command(flatten)]
    pub options: Options,
    /// Which measurement.
    #[command(subcommand)]
    pub which: Option<Which>,
}

/// The measurements, numbered as in `docs/performance.md`.
#[derive(Subcommand, Clone, Copy)]
pub enum Which {
    /// 1: rows of a table into buckets, from an empty store to the first checkpoint
    FirstCopy,
    /// 2: small and large transactions, live and from a backlog
    Stream,
    /// 3: operations to one and to fifty new clients
    Download,
    /// 4: from the commit to the clients' data lines, and the memory of idle clients
    Latency,
    /// 5: a changed sync configuration over replicated rows
    Reconfigure,
    /// 6: new and returning clients of a bucket with a long history
    Hot,
    /// 7: one membership of a user who has many
    Membership,
    /// 8: memory of clients that have downloaded, and of large rows
    Memory,
    /// 9: many tables, each with a definition of its own
    Definitions,
    /// 10: one change among many subscribers of live queries, each a user of their own
    LiveChange,
    /// 11: memory of live queries, and how fast they are subscribed to
    LiveMemory,
    /// 12: windows whose order Postgres alone knows, under writes
    LiveWindows,
    /// 13: what writers pay for being followed
    Writers,
    /// 14: large stores open behind a kill
    Recovery,
}

impl Which {
    /// All, in order.
    pub const ALL: [Which; 14] = [
        Which::FirstCopy,
        Which::Stream,
        Which::Download,
        Which::Latency,
        Which::Reconfigure,
        Which::Hot,
        Which::Membership,
        Which::Memory,
        Which::Definitions,
        Which::LiveChange,
        Which::LiveMemory,
        Which::LiveWindows,
        Which::Writers,
        Which::Recovery,
    ];

    /// Its name, also of its result file.
    pub fn name(self) -> &'static str {
        match self {
            Which::FirstCopy => "first-copy",
            Which::Stream => "stream",
            Which::Download => "download",
            Which::Latency => "latency",
            Which::Reconfigure => "reconfigure",
            Which::Hot => "hot",
            Which::Membership => "membership",
            Which::Memory => "memory",
            Which::Definitions => "definitions",
            Which::LiveChange => "live-change",
            Which::LiveMemory => "live-memory",
            Which::LiveWindows => "live-windows",
            Which::Writers => "writers",
            Which::Recovery => "recovery",
        }
    }
}

/// Options of every measurement.
#[derive(Args, Clone)]
pub struct Options {
    /// Size of the run: 1 is what the targets are about, 0.01 a quick look at whether it works
    #[arg(long, global = true, default_value_t = 1.0)]
    pub scale: f64,
    /// The server to measure instead of building the one beside this program
    #[arg(long, global = true)]
    pub binary: Option<PathBuf>,
    /// Directory for the store under test, on the disk that is to be measured
    #[arg(long, global = true)]
    pub dir: Option<PathBuf>,
    /// Directory of the result files; by default `bench/results` for a whole run of a release
    /// build, else a directory that is not committed
    #[arg(long, global = true)]
    pub out: Option<PathBuf>,
}

impl Options {
    /// Checks the scale, builds the server unless one is named, and raises the limit of files.
    pub fn prepared(mut self) -> Outcome<Options> {
        if !(self.scale > 0.0 && self.scale <= 10.0) {
            return Err("--scale is above 0 and at most 10".into());
        }
        raise_open_files()?;
        if self.binary.is_none() {
            self.binary = Some(build()?);
        }
        if !is_release() {
            eprintln!("hw-bench: a debug build: these figures mean nothing");
        }
        Ok(self)
    }

    /// The server under test.
    pub fn binary(&self) -> &Path {
        self.binary.as_deref().expect("prepared before anything is measured")
    }

    /// `full` at scale 1; at least 1.
    pub fn scaled(&self, full: u64) -> u64 {
        ((full as f64 * self.scale) as u64).max(1)
    }

    /// Whether the figures are those that the targets are about.
    pub fn is_whole_run(&self) -> bool {
        self.scale == 1.0 && is_release()
    }

    /// Where results go.
    pub fn results(&self) -> Outcome<PathBuf> {
        let directory = match &self.out {
            Some(directory) => directory.clone(),
            None if self.is_whole_run() => home().join("results"),
            None => beside_this_program()?.join("bench-results"),
        };
        std::fs::create_dir_all(&directory)?;
        Ok(directory)
    }

    /// A new directory for one server's store and files.
    pub fn work_dir(&self) -> Outcome<tempfile::TempDir> {
        let mut builder = tempfile::Builder::new();
        builder.prefix("headwater-bench-");
        Ok(match &self.dir {
            Some(directory) => builder.tempdir_in(directory)?,
            None => builder.tempdir()?,
        })
    }
}

/// The folder of this crate's sources.
pub fn home() -> PathBuf {
    PathBuf::from(env!("CARGO_MANIFEST_DIR"))
}

/// Whether this program, and so the server that it builds, is optimised.
pub fn is_release() -> bool {
    !cfg!(debug_assertions)
}

fn beside_this_program() -> Outcome<PathBuf> {
    let program = std::env::current_exe()?;
    Ok(program.parent().ok_or("this program is in no directory")?.to_path_buf())
}

/// Builds the server in the profile of this program.
fn build() -> Outcome<PathBuf> {
    let cargo = std::env::var_os("CARGO").unwrap_or_else(|| "cargo".into());
    let mut command = Command::new(cargo);
    command.args(["build", "--quiet", "--package", "headwater"]).current_dir(home());
    if is_release() {
        command.arg("--release");
    }
    if !command.status()?.success() {
        return Err("the server cannot be built".into());
    }
    let binary = beside_this_program()?.join("headwater");
    match binary.is_file() {
        true => Ok(binary),
        false => {
            Err("cargo did not put the server beside this program; name it with --binary".into())
        }
    }
}

/// How many files this process and the server may each have open.
pub fn open_files() -> Outcome<u64> {
    Ok(open_files_limit()?.rlim_cur)
}

/// Thousands of clients need as many files, here and in the server, which inherits the limit.
fn raise_open_files() -> Outcome<()> {
    let mut limit = open_files_limit()?;
    limit.rlim_cur = limit.rlim_max;
    #[expect(unsafe_code, reason = "the pointer is to a local that outlives the call")]
    let written = unsafe { libc::setrlimit(libc::RLIMIT_NOFILE, &limit) };
    match written {
        0 => Ok(()),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}

fn open_files_limit() -> Outcome<libc::rlimit> {
    let mut limit = libc::rlimit { rlim_cur: 0, rlim_max: 0 };
    #[expect(unsafe_code, reason = "the pointer is to a local that outlives the call")]
    let read = unsafe { libc::getrlimit(libc::RLIMIT_NOFILE, &mut limit) };
    match read {
        0 => Ok(limit),
        _ => Err(std::io::Error::last_os_error().into()),
    }
}
