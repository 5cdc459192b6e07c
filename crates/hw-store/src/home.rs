//! The store's directory: what lies in it, which format it has, and which process owns it.
//!
//! ```text
//! LOCK      flock, held as long as a store is open; holds the owner's process id
//! FORMAT    "headwater store 3"
//! CLOSED    what the journal is, while no store is open and the last one was closed well
//! data/     the database
//! spool/    segments
//! ```
//!
//! Invariant: nothing below the directory is touched before the lock is held and the format agreed.

use std::fs::{self, File, OpenOptions, TryLockError};
use std::io::{Read, Seek, SeekFrom, Write};
use std::os::unix::fs::{DirBuilderExt, OpenOptionsExt, PermissionsExt};
use std::path::{Path, PathBuf};

use crate::StoreError;

/// The format this version reads and writes. A change of any stored byte raises it.
pub(crate) const FORMAT: u32 = 3;

/// The length of fjall's version marker.
const VERSION_MARKER_BYTES: u64 = 4;

const MARK: &str = "headwater store ";

/// An owned store directory. Dropping it lets the next process in.
#[derive(Debug)]
pub(crate) struct Home {
    dir: PathBuf,
    /// Holds the lock. The standard library opens files with `O_CLOEXEC`, so a child process never
    /// inherits it and the lock dies with the process that ingests (F-72).
    _lock: File,
}

impl Home {
    /// Takes the directory, creating it when missing.
    ///
    /// - Errors: `Foreign`, `Locked`, `Format`; none of them changes anything in the directory
    ///   apart from the lock file.
    pub(crate) fn take(dir: &Path) -> Result<Home, StoreError> {
        let new = fs::DirBuilder::new().recursive(true).mode(0o700).create(dir);
        new.map_err(StoreError::io("create store directory"))?;
        let dir = fs::canonicalize(dir).map_err(StoreError::io("find store directory"))?;
        let format = dir.join("FORMAT");
        if !format.try_exists().map_err(StoreError::io("look for store format"))? {
            refuse_foreign(&dir)?;
        }

        let lock = lock(&dir)?;
        match fs::read_to_string(&format) {
            Ok(text) => check_format(&dir, &text)?,
            Err(missing) if missing.kind() == std::io::ErrorKind::NotFound => {
                write_format(&dir).map_err(StoreError::io("write store format"))?;
            }
            Err(other) => return Err(StoreError::io("read store format")(other)),
        }
        let doing = "close the store directory to others";
        close_to_others(&dir).map_err(StoreError::io(doing))?;
        prepare_database(&dir.join("data"))?;
        create_private_dir(&dir.join("data")).map_err(StoreError::io(doing))?;
        Ok(Home { dir, _lock: lock })
    }

    /// The directory.
    pub(crate) fn dir(&self) -> &Path {
        &self.dir
    }

    /// Where the database lies.
    pub(crate) fn data(&self) -> PathBuf {
        self.dir.join("data")
    }

    /// Where damaged parts of the database lie until they are removed.
    pub(crate) fn aside(&self) -> PathBuf {
        self.dir.join("damaged")
    }

    /// What the journal was when the store was closed; is not there while it is open.
    pub(crate) fn closed(&self) -> PathBuf {
        self.dir.join("CLOSED")
    }

    /// Writes a file of the directory, or removes it, durably.
    pub(crate) fn replace(&self, path: &Path, text: Option<&str>) -> std::io::Result<()> {
        match text {
            Some(text) => replace(path, text)?,
            None => match fs::remove_file(path) {
                Err(error) if error.kind() == std::io::ErrorKind::NotFound => return Ok(()),
                removed => removed?,
            },
        }
        sync_dir(&self.dir)
    }

    /// Where segments lie.
    pub(crate) fn spool(&self) -> PathBuf {
        self.dir.join("spool")
    }
}

fn refuse_foreign(dir: &Path) -> Result<(), StoreError> {
    // A creation that was cut off leaves LOCK or FORMAT.new; a mounted volume has lost+found.
    for entry in fs::read_dir(dir).map_err(StoreError::io("list store directory"))? {
        let name = entry.map_err(StoreError::io("list store directory"))?.file_name();
        if !["LOCK", "FORMAT.new", "lost+found"].iter().any(|known| name == *known) {
            return Err(StoreError::Foreign { dir: dir.into() });
        }
    }
    Ok(())
}

fn lock(dir: &Path) -> Result<File, StoreError> {
    let mut file = OpenOptions::new()
        .read(true)
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(dir.join("LOCK"))
        .map_err(StoreError::io("open store lock"))?;
    match file.try_lock() {
        Ok(()) => {}
        Err(TryLockError::WouldBlock) => {
            let mut text = String::new();
            let holder = file.read_to_string(&mut text).ok().and_then(|_| text.trim().parse().ok());
            return Err(StoreError::Locked { dir: dir.into(), holder });
        }
        Err(TryLockError::Error(source)) => return Err(StoreError::io("lock store")(source)),
    }
    // The process id only makes the refusal of others readable; a full disk must not stop a start.
    let _ = file.set_len(0);
    let _ = file.seek(SeekFrom::Start(0));
    let _ = write!(file, "{}", std::process::id());
    Ok(file)
}

fn check_format(dir: &Path, text: &str) -> Result<(), StoreError> {
    let found = text.trim().strip_prefix(MARK).unwrap_or("unknown");
    if found == FORMAT.to_string() {
        return Ok(());
    }
    let found = if found.len() <= 20 && found.chars().all(|c| c.is_ascii_alphanumeric()) {
        found.to_owned()
    } else {
        "unknown".to_owned()
    };
    Err(StoreError::Format { dir: dir.into(), found, expected: FORMAT })
}

fn write_format(dir: &Path) -> std::io::Result<()> {
    replace(&dir.join("FORMAT"), &format!("{MARK}{FORMAT}\n"))?;
    sync_dir(dir)
}

/// Writes a file that is there wholly or not at all.
fn replace(path: &Path, text: &str) -> std::io::Result<()> {
    let new = path.with_extension("new");
    match fs::remove_file(&new) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let mut file = create_private_file(&new)?;
    file.write_all(text.as_bytes())?;
    file.sync_all()?;
    fs::rename(&new, path)
}

/// Prepares `data` for fjall, which takes two states of the disk for granted.
///
/// A database whose creation was cut off has no whole version marker (it is written last) and no space
/// yet, but its first journal would make the next creation fail, so it is removed. A directory of a
/// space that is not called by a number would end the process instead of the opening.
fn prepare_database(data: &Path) -> Result<(), StoreError> {
    let exists = |path: &Path| path.try_exists().map_err(StoreError::io("look for database"));
    if !exists(data)? {
        return Ok(());
    }
    let born = match fs::metadata(data.join("version")) {
        Ok(marker) => marker.len() >= VERSION_MARKER_BYTES,
        Err(error) if error.kind() == std::io::ErrorKind::NotFound => false,
        Err(error) => return Err(StoreError::io("look for database")(error)),
    };
    let keyspaces = data.join("keyspaces");
    if exists(&keyspaces)? {
        for entry in fs::read_dir(&keyspaces).map_err(StoreError::io("list database"))? {
            let name = entry.map_err(StoreError::io("list database"))?.file_name();
            if !born {
                return Err(StoreError::damaged("the database has spaces but no version marker"));
            }
            if name.to_str().is_none_or(|name| name.parse::<u64>().is_err()) {
                return Err(StoreError::damaged("the database holds files that are not its own"));
            }
        }
    }
    if born {
        return Ok(());
    }
    fs::remove_dir_all(data).map_err(StoreError::io("remove unfinished database"))
}

/// Creates a directory, with those above it, that only its owner may enter, and closes one that is
/// there already to others.
///
/// The database creates its files with the permissions that the process gives by default, so
/// directories are what keeps rows from other users of the machine.
pub(crate) fn create_private_dir(dir: &Path) -> std::io::Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
    close_to_others(dir)
}

/// Takes the permissions of everybody but the owner. The owner of a mounted volume may be somebody
/// else, who then decides.
fn close_to_others(dir: &Path) -> std::io::Result<()> {
    if fs::metadata(dir)?.permissions().mode() & 0o077 == 0 {
        return Ok(());
    }
    match fs::set_permissions(dir, fs::Permissions::from_mode(0o700)) {
        Err(error) if error.kind() != std::io::ErrorKind::PermissionDenied => Err(error),
        _ => Ok(()),
    }
}

/// Creates a file that is not there yet and that only its owner may read.
pub(crate) fn create_private_file(path: &Path) -> std::io::Result<File> {
    OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path)
}

/// Makes created, renamed and removed names in `dir` durable.
pub(crate) fn sync_dir(dir: &Path) -> std::io::Result<()> {
    File::open(dir)?.sync_all()
}

/// Bytes that an unprivileged process may still write on the disk of `path`.
pub(crate) fn free_bytes(path: &Path) -> std::io::Result<u64> {
    let disk = rustix::fs::statvfs(path)?;
    Ok(disk.f_bavail.saturating_mul(disk.f_frsize))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_directory_of_another_format_is_refused_by_name() {
        let dir = tempfile::tempdir().unwrap();
        drop(Home::take(dir.path()).unwrap());
        fs::write(dir.path().join("FORMAT"), "headwater store 99\n").unwrap();
        let error = Home::take(dir.path()).unwrap_err();
        assert!(
            matches!(error, StoreError::Format { ref found, expected: FORMAT, .. } if found == "99")
        );
        fs::write(dir.path().join("FORMAT"), [0xff, 0xfe, 0x00]).unwrap();
        assert!(Home::take(dir.path()).is_err());
    }

    #[test]
    fn a_directory_with_other_files_is_left_alone() {
        let dir = tempfile::tempdir().unwrap();
        fs::write(dir.path().join("thesis.txt"), "mine").unwrap();
        assert!(matches!(Home::take(dir.path()), Err(StoreError::Foreign { .. })));
        assert_eq!(fs::read_dir(dir.path()).unwrap().count(), 1);
    }

    #[test]
    fn a_second_owner_is_refused_and_told_who_is_first() {
        let dir = tempfile::tempdir().unwrap();
        let first = Home::take(dir.path()).unwrap();
        let error = Home::take(dir.path()).unwrap_err();
        let me = std::process::id();
        assert!(matches!(error, StoreError::Locked { holder: Some(pid), .. } if pid == me));
        drop(first);
        Home::take(dir.path()).unwrap();
    }

    #[test]
    fn a_creation_that_was_cut_off_is_begun_again() {
        let dir = tempfile::tempdir().unwrap();
        drop(Home::take(dir.path()).unwrap());
        let data = dir.path().join("data");
        fs::create_dir_all(data.join("keyspaces")).unwrap();
        fs::write(data.join("0.jnl"), "").unwrap();
        Home::take(dir.path()).unwrap();
        assert_eq!(fs::read_dir(&data).unwrap().count(), 0);
    }

    #[test]
    fn fd_44_only_the_owner_may_enter_the_directory_and_those_in_it() {
        let mode = |path: &Path| fs::metadata(path).unwrap().permissions().mode() & 0o777;
        let dir = tempfile::tempdir().unwrap();
        for old in [dir.path().join("new"), dir.path().join("old")] {
            if old.ends_with("old") {
                fs::create_dir_all(old.join("data")).unwrap();
                fs::write(old.join("FORMAT"), format!("{MARK}{FORMAT}\n")).unwrap();
                for path in [&old, &old.join("data")] {
                    fs::set_permissions(path, fs::Permissions::from_mode(0o755)).unwrap();
                }
            }
            let home = Home::take(&old).unwrap();
            assert_eq!([mode(&old), mode(&home.data())], [0o700, 0o700]);
            assert_eq!(mode(&old.join("LOCK")), 0o600);
        }
        assert_eq!(mode(&dir.path().join("new/FORMAT")), 0o600);
        // A directory of somebody else's files stays as it is.
        let foreign = dir.path().join("foreign");
        fs::create_dir(&foreign).unwrap();
        fs::set_permissions(&foreign, fs::Permissions::from_mode(0o755)).unwrap();
        fs::write(foreign.join("thesis.txt"), "mine").unwrap();
        assert!(Home::take(&foreign).is_err());
        assert_eq!(mode(&foreign), 0o755);
    }

    #[test]
    fn a_database_without_its_version_marker_is_damage_not_a_new_store() {
        let dir = tempfile::tempdir().unwrap();
        drop(Home::take(dir.path()).unwrap());
        fs::create_dir_all(dir.path().join("data/keyspaces/0")).unwrap();
        assert!(matches!(Home::take(dir.path()), Err(StoreError::Damaged { .. })));
    }
}
