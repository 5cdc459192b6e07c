//! The scratch directory of all test processes of one user, and who owns what in it.
//!
//! `<temp>/headwater-testkit-<uid>/` holds `binaries/` and `template/` (kept between runs) and
//! `clusters/` (one directory per running cluster). A cluster's directory is owned by whoever holds
//! the lock on its `.owner` file. Invariant: a directory whose lock can be taken has no live owner,
//! so the next start removes it; that is how a killed test process leaves nothing behind for long.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io;
use std::os::unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicU32, Ordering};

use crate::account::{Account, effective_ids};

/// The root of everything that test processes keep outside of the repository.
///
/// Under the system's directory for temporary files; under `/tmp` when the account that runs
/// Postgres could not walk to that one.
pub(crate) fn root(account: &Account) -> PathBuf {
    let preferred = std::env::temp_dir();
    let base = if account.foreign && !others_can_walk_to(&preferred) {
        PathBuf::from("/tmp")
    } else {
        preferred
    };
    let root = base.join(format!("headwater-testkit-{}", effective_ids().0));
    make_dir(&root, 0o755);
    // A directory of a predictable name in a shared place must be ours, or another local user
    // could slip us a server of theirs.
    let owner = fs::metadata(&root).expect("the scratch directory was just made").uid();
    assert_eq!(owner, effective_ids().0, "{} belongs to another user", root.display());
    root
}

/// Whether every directory up to and including `path` lets other accounts pass.
pub(crate) fn others_can_walk_to(path: &Path) -> bool {
    path.ancestors().all(|dir| {
        fs::metadata(dir).map(|found| found.permissions().mode() & 0o001 != 0).unwrap_or(false)
    })
}

/// Makes a directory (and those above it) with exactly this mode, whatever the umask.
pub(crate) fn make_dir(path: &Path, mode: u32) {
    DirBuilder::new()
        .recursive(true)
        .mode(mode)
        .create(path)
        .unwrap_or_else(|error| panic!("make {}: {error}", path.display()));
    // Another process may own the mode by now; only a failure of ours to pass later matters.
    let _ = fs::set_permissions(path, fs::Permissions::from_mode(mode));
}

/// Waits for the lock `<root>/<name>.lock` and holds it until the answer is dropped.
pub(crate) fn lock(root: &Path, name: &str) -> File {
    let path = root.join(format!("{name}.lock"));
    let file = open_lock_file(&path).unwrap_or_else(|e| panic!("open {}: {e}", path.display()));
    file.lock().unwrap_or_else(|e| panic!("lock {}: {e}", path.display()));
    file
}

fn open_lock_file(path: &Path) -> io::Result<File> {
    OpenOptions::new().create(true).truncate(false).write(true).open(path)
}

/// A cluster's directory, owned by this process until dropped.
pub(crate) struct OwnedDir {
    path: PathBuf,
    root: PathBuf,
    _owner: File,
}

impl OwnedDir {
    /// Makes and claims a new directory, and removes those that have lost their owner.
    pub(crate) fn claim(root: &Path) -> OwnedDir {
        static COUNTER: AtomicU32 = AtomicU32::new(0);
        let clusters = root.join("clusters");
        make_dir(&clusters, 0o755);
        make_dir(&root.join("trash"), 0o755);
        let number = COUNTER.fetch_add(1, Ordering::Relaxed);
        let path = clusters.join(format!("{}-{number}", std::process::id()));

        let guard = lock(root, "clusters");
        sweep(root, &clusters);
        make_dir(&path, 0o755);
        let owner = open_lock_file(&path.join(".owner")).expect("a new directory takes a file");
        owner.lock().expect("nobody else knows the new file");
        drop(guard);
        OwnedDir { path, root: root.to_path_buf(), _owner: owner }
    }

    /// Where it is.
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }
}

impl Drop for OwnedDir {
    fn drop(&mut self) {
        discard(&self.root, &self.path);
    }
}

/// Removes every cluster directory without an owner. The caller holds the `clusters` lock, so no
/// directory is between being made and being claimed.
fn sweep(root: &Path, clusters: &Path) {
    for entry in fs::read_dir(clusters).into_iter().flatten().flatten() {
        let path = entry.path();
        let ownerless = match open_lock_file(&path.join(".owner")) {
            Ok(file) => file.try_lock().is_ok(),
            Err(_) => true,
        };
        if ownerless {
            stop_leftover(&path.join("data"));
            discard(root, &path);
        }
    }
}

/// Asks a server that outlived its test to stop at once. Its kernel-side death signal has normally
/// done so already; this catches a server whose starter was killed between fork and exec.
fn stop_leftover(data: &Path) {
    let Some(pid) = fs::read_to_string(data.join("postmaster.pid"))
        .ok()
        .and_then(|text| text.lines().next()?.trim().parse::<i32>().ok())
    else {
        return;
    };
    // The number may long belong to someone else: only a process that runs in this very data
    // directory is that server.
    if fs::read_link(format!("/proc/{pid}/cwd")).is_ok_and(|cwd| cwd == data) {
        signal(pid, libc::SIGQUIT);
    }
}

/// Sends one signal; a process that is gone is not an error.
pub(crate) fn signal(pid: i32, number: i32) {
    #[expect(unsafe_code, reason = "kill touches no memory of ours")]
    unsafe {
        libc::kill(pid, number);
    }
}

/// Moves a directory aside in one step, so that it is never seen half removed, then removes it.
fn discard(root: &Path, path: &Path) {
    let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
    let aside = root.join("trash").join(format!("{name}-{:08x}", rand::random::<u32>()));
    if fs::rename(path, &aside).is_ok() {
        // A dying server may still write into it; what is left goes with a later sweep.
        let _ = fs::remove_dir_all(&aside);
    }
    for left in fs::read_dir(root.join("trash")).into_iter().flatten().flatten() {
        let _ = fs::remove_dir_all(left.path());
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_without_owner_is_swept_and_one_with_owner_is_kept() {
        let account = Account::for_postgres();
        let root = root(&account).join(format!("selftest-{}", std::process::id()));
        make_dir(&root, 0o755);
        let kept = OwnedDir::claim(&root);
        let orphan = root.join("clusters").join("1-0");
        make_dir(&orphan, 0o755);
        File::create(orphan.join(".owner")).unwrap();
        let second = OwnedDir::claim(&root);
        assert!(!orphan.exists());
        assert!(kept.path().exists());
        let gone = second.path().to_path_buf();
        drop(second);
        assert!(!gone.exists());
        drop(kept);
        fs::remove_dir_all(&root).unwrap();
    }
}
