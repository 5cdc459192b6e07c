//! A disk that is small enough to run full (F-53).

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

/// A small disk in memory, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted; then a test has nothing to run on.
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output()
            .is_ok_and(|output| output.status.success());
        if !mounted {
            eprintln!("mounting is not permitted: the test is skipped");
        }
        mounted.then_some(SmallDisk(dir))
    }

    /// A place on it.
    pub fn path(&self, name: &str) -> PathBuf {
        self.0.path().join(name)
    }
}

impl Drop for SmallDisk {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("--lazy").arg(self.0.path()).status();
    }
}

/// Makes a file that takes all room that is left but `leave` bytes.
pub fn fill(path: &Path, leave: u64) {
    let mut file = File::create(path).expect("made");
    while file.write_all(&[1; 16 << 10]).is_ok() {}
    while file.write_all(&[1]).is_ok() {}
    let length = file.metadata().expect("known").len();
    file.set_len(length.saturating_sub(leave)).expect("shortened");
}
