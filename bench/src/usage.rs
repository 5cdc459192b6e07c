//! What a process has used, as the kernel counts it, and what a directory holds.
//!
//! Source: proc(5): `stat` fields 14 to 17, `status`, `clear_refs`.

use std::fs;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use crate::Outcome;

/// Clock ticks of a second in `/proc`: 100 on every platform we run on.
const TICKS: f64 = 100.0;

/// What a process has used so far. It has no children that count.
#[derive(Clone, Copy, Debug)]
pub struct Usage {
    /// User and system time of all threads.
    pub cpu_seconds: f64,
    /// Memory it holds now, bytes.
    pub resident_bytes: u64,
    /// The most it has held since the start or the last [`forget_peak`], bytes.
    pub peak_bytes: u64,
}

/// Of the process `pid`.
pub fn of(pid: u32) -> Outcome<Usage> {
    let cpu_seconds = cpu_seconds(pid)?;
    let status = fs::read_to_string(format!("/proc/{pid}/status"))?;
    Ok(Usage {
        cpu_seconds,
        resident_bytes: field(&status, "VmRSS:")?,
        peak_bytes: field(&status, "VmHWM:")?,
    })
}

/// User and system time of all threads of the process `pid`, seconds.
pub fn cpu_seconds(pid: u32) -> Outcome<f64> {
    seconds(pid, 14)
}

/// Seconds that children of the process `pid` have used which have ended.
pub fn of_children(pid: u32) -> Outcome<f64> {
    seconds(pid, 16)
}

/// The sum of two neighbouring fields of `stat`, the first of which has this number there.
fn seconds(pid: u32, field: usize) -> Outcome<f64> {
    let stat = fs::read_to_string(format!("/proc/{pid}/stat"))?;
    // The second field is the program's name in brackets and may hold anything.
    let behind = stat.rsplit(')').next().unwrap_or_default();
    let fields = behind.split_whitespace().skip(field - 3).take(2);
    Ok(fields.filter_map(|ticks| ticks.parse::<f64>().ok()).sum::<f64>() / TICKS)
}

/// Of this process.
pub fn own() -> Outcome<Usage> {
    of(std::process::id())
}

/// Makes the peak start again from what the process holds now.
pub fn forget_peak(pid: u32) -> Outcome<()> {
    Ok(fs::write(format!("/proc/{pid}/clear_refs"), "5")?)
}

/// Bytes that the files below `path` take on disk. Files that vanish meanwhile count nothing.
pub fn disk_bytes(path: &Path) -> u64 {
    let Ok(entries) = fs::read_dir(path) else { return 0 };
    entries
        .flatten()
        .map(|entry| match entry.metadata() {
            Ok(found) if found.is_dir() => disk_bytes(&entry.path()),
            Ok(found) => found.blocks() * 512,
            Err(_) => 0,
        })
        .sum()
}

fn field(status: &str, name: &str) -> Outcome<u64> {
    let line = status.lines().find_map(|line| line.strip_prefix(name));
    let kilobytes = line.and_then(|rest| rest.split_whitespace().next()?.parse::<u64>().ok());
    Ok(kilobytes.ok_or_else(|| format!("the kernel does not tell {name}"))? * 1024)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_process_can_read_its_own_usage() {
        let usage = own().unwrap();
        assert!(usage.peak_bytes >= usage.resident_bytes);
        assert!(usage.resident_bytes > 0);
    }

    #[test]
    fn a_directory_holds_what_its_files_take() {
        let dir = tempfile::tempdir().unwrap();
        fs::create_dir(dir.path().join("a")).unwrap();
        fs::write(dir.path().join("a/b"), vec![1u8; 100_000]).unwrap();
        assert!(disk_bytes(dir.path()) >= 100_000);
        assert_eq!(disk_bytes(&dir.path().join("missing")), 0);
    }
}
