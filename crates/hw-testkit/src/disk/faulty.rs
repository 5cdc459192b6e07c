//! A disk whose calls are slow or fail, for one process: a small library that is loaded before libc
//! and compiled by the machine's C compiler, which linking Rust needs anyway.

use std::collections::BTreeSet;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

/// Where the fields of the memory shared with `faulty.c` are.
const SYNC_DELAY: u64 = 0;
const SYNC_ERROR: u64 = 4;
const LEFT: u64 = 8;
const CALL_ERROR: u64 = 16;
const CALLS: u64 = 24;
const PLACE: u64 = 32;
const PLACES: u64 = 512;
const PAGE: u64 = 16384;

/// Controls how calls that write below one directory behave in a process that was started with
/// [`FaultyDisk::environment`].
#[derive(Debug)]
pub struct FaultyDisk {
    dir: tempfile::TempDir,
    page: File,
    below: PathBuf,
}

impl FaultyDisk {
    /// For everything below `below`; nothing is wrong yet.
    ///
    /// - Panics: if there is no C compiler.
    pub fn new(below: &Path) -> FaultyDisk {
        let dir = tempfile::tempdir().expect("a directory");
        std::fs::write(dir.path().join("faulty.so"), library()).expect("written");
        let mut options = OpenOptions::new();
        let page = options.create(true).truncate(true).read(true).write(true);
        let page = page.open(dir.path().join("page")).expect("made");
        page.set_len(PAGE).expect("it has room");
        FaultyDisk { dir, page, below: below.to_path_buf() }
    }

    /// What the process must be started with.
    pub fn environment(&self) -> Vec<(String, String)> {
        let path = |name: &str| self.dir.path().join(name).display().to_string();
        vec![
            ("LD_PRELOAD".into(), path("faulty.so")),
            ("HEADWATER_TEST_DISK_PAGE".into(), path("page")),
            ("HEADWATER_TEST_DISK_DIR".into(), self.below.display().to_string()),
        ]
    }

    /// Each sync takes this much longer.
    pub fn slow_syncs(&self, milliseconds: u32) {
        self.set(SYNC_DELAY, &milliseconds.to_ne_bytes());
    }

    /// Each sync fails with EIO until [`FaultyDisk::heal`].
    pub fn fail_syncs(&self) {
        self.set(SYNC_ERROR, &libc::EIO.to_ne_bytes());
    }

    /// The n-th call from now (1 is the next one) fails with `errno`, once.
    pub fn fail_call(&self, n: u64, errno: i32) {
        self.fail_place("", n, errno);
    }

    /// The same among the calls of one place.
    ///
    /// - Takes: a place as [`FaultyDisk::places`] names it; all of them when empty.
    pub fn fail_place(&self, place: &str, n: u64, errno: i32) {
        let mut name = [0; (PLACES - PLACE) as usize];
        name[..place.len()].copy_from_slice(place.as_bytes());
        self.set(LEFT, &0_u64.to_ne_bytes());
        self.set(PLACE, &name);
        self.set(CALL_ERROR, &errno.to_ne_bytes());
        self.set(LEFT, &n.to_ne_bytes());
    }

    /// Every place at which calls were made so far: `write store/data/#.jnl` for the name of a call and a
    /// path below the directory, in which numbers and names that a library made up are `#`. Files are made
    /// by `create` and directories by `mkdir`, both are removed by `unlink`, and names in a directory are
    /// made durable by its `fsync`. What is opened to be read only is no place.
    pub fn places(&self) -> BTreeSet<String> {
        let mut text = vec![0; (PAGE - PLACES) as usize];
        self.page.read_exact_at(&mut text, PLACES).expect("it has these bytes");
        let text = text.split(|byte| *byte == 0).next().expect("at least one part");
        let text = String::from_utf8_lossy(text);
        text.lines().filter(|line| !line.is_empty()).map(str::to_owned).collect()
    }

    /// Whether a failure asked for is still to come.
    pub fn is_armed(&self) -> bool {
        self.get(LEFT) > 0
    }

    /// Calls so far.
    pub fn calls(&self) -> u64 {
        self.get(CALLS)
    }

    /// Nothing is wrong any more.
    pub fn heal(&self) {
        self.set(SYNC_DELAY, &[0; CALL_ERROR as usize + 4]);
    }

    fn set(&self, at: u64, bytes: &[u8]) {
        self.page.write_all_at(bytes, at).expect("a file takes what it has room for");
    }

    fn get(&self, at: u64) -> u64 {
        let mut bytes = [0; 8];
        self.page.read_exact_at(&mut bytes, at).expect("it has these bytes");
        u64::from_ne_bytes(bytes)
    }
}

/// The library, compiled once in this process.
fn library() -> &'static [u8] {
    static LIBRARY: OnceLock<Vec<u8>> = OnceLock::new();
    LIBRARY.get_or_init(|| {
        let dir = tempfile::tempdir().expect("a directory");
        let (source, library) = (dir.path().join("faulty.c"), dir.path().join("faulty.so"));
        std::fs::write(&source, include_str!("faulty.c")).expect("written");
        let mut compile = Command::new("cc");
        compile.args(["-shared", "-fPIC", "-O1", "-o"]).arg(&library);
        let compiled = compile.arg(&source).arg("-ldl").output().expect("cc can be started");
        assert!(compiled.status.success(), "{}", String::from_utf8_lossy(&compiled.stderr));
        std::fs::read(library).expect("it was made")
    })
}
