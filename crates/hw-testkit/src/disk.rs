//! Disks that fail: one that is small enough to run full (F-53), and one whose calls are slow or end
//! in an error.

use std::fs::File;
use std::io::Write as _;
use std::path::{Path, PathBuf};
use std::process::Command;

mod faulty;

pub use faulty::FaultyDisk;

/// A small disk in memory, unmounted when dropped.
#[derive(Debug)]
pub struct SmallDisk(tempfile::TempDir);

impl SmallDisk {
    /// `None` where mounting is not permitted, by the words of [`crate::missing`].
    pub fn mount(megabytes: u32) -> Option<SmallDisk> {
        let dir = tempfile::tempdir().expect("a directory");
        let mounted = Command::new("mount")
            .args(["-t", "tmpfs", "-o", &format!("size={megabytes}m"), "tmpfs"])
            .arg(dir.path())
            .output();
        let trouble = match &mounted {
            Ok(output) if output.status.success() => return Some(SmallDisk(dir)),
            Ok(output) => String::from_utf8_lossy(&output.stderr).trim().to_owned(),
            Err(error) => error.to_string(),
        };
        crate::missing(&format!("a small disk, and none can be mounted ({trouble})"));
        None
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
