//! One `dev` in a data directory at a time.
//!
//! The lock belongs to this process and to no child (F-72): the file is closed in every program
//! that we start, so a Postgres that outlives us keeps nobody out.

use std::fs::{File, OpenOptions, TryLockError};
use std::io;
use std::path::Path;

/// Held while it lives.
#[derive(Debug)]
pub struct DevLock {
    _file: File,
}

/// Takes the lock of `data_dir`, which is created if it is missing.
///
/// - Errors: a sentence when another `dev` has it.
pub fn take(data_dir: &Path) -> io::Result<DevLock> {
    std::fs::create_dir_all(data_dir)?;
    let path = data_dir.join("dev.lock");
    let file = OpenOptions::new().create(true).write(true).truncate(false).open(path)?;
    match file.try_lock() {
        Ok(()) => Ok(DevLock { _file: file }),
        Err(TryLockError::WouldBlock) => Err(io::Error::other(format!(
            "another `headwater dev` is running in {}; stop it, or choose another --data-dir",
            data_dir.display()
        ))),
        Err(TryLockError::Error(error)) => Err(error),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_second_dev_in_the_same_directory_is_told_about_the_first() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = take(directory.path()).expect("free");
        let told = take(directory.path()).expect_err("taken").to_string();
        assert!(told.contains("another `headwater dev` is running"), "{told}");
        drop(first);
        take(directory.path()).expect("free again");
    }
}
