//! Whose processes and files the private Postgres are.
//!
//! Postgres refuses to run as root. In: who we are. Out: the account it runs under and a directory
//! that this account can reach. Invariant: as root nothing of the cluster is owned by root.

use std::fs;
use std::io;
use std::os::unix::fs::{MetadataExt, chown, symlink};
use std::path::{Path, PathBuf};

use crate::process;

/// User and group that own the cluster.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Account {
    /// User id.
    pub uid: u32,
    /// Group id.
    pub gid: u32,
    /// Its name, or its number.
    pub name: String,
}

/// The account to drop to, or none when we are not root: then everything is ours.
///
/// As root: the user who called `sudo`, else `postgres`, else `nobody`.
pub fn to_drop_to() -> Option<Account> {
    if !process::is_root() {
        return None;
    }
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let caller = std::env::var("SUDO_USER").ok();
    let names = caller.as_deref().into_iter().chain(["postgres", "nobody"]);
    let found = names.filter_map(|name| entry(&passwd, name)).next();
    Some(found.unwrap_or(Account { uid: 65534, gid: 65534, name: "65534".to_owned() }))
}

fn entry(passwd: &str, name: &str) -> Option<Account> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid: u32 = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then(|| Account { uid, gid, name: name.to_owned() })
    })
}

/// Where a directory called `name` really is.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Place {
    /// The directory itself.
    pub path: PathBuf,
    /// Whether it had to be somewhere else than asked for, with a link there.
    pub moved: bool,
}

/// Makes the directory `name` in `parent` for `account`.
///
/// When a directory on the way can only be entered by root, the directory is made under
/// `/var/tmp` instead and linked from `parent`.
///
/// - Errors: of the file system.
pub fn directory(parent: &Path, name: &str, account: Option<&Account>) -> io::Result<Place> {
    fs::create_dir_all(parent)?;
    let wanted = parent.join(name);
    if let Ok(target) = fs::read_link(&wanted) {
        fs::create_dir_all(&target)?;
        own(&target, account)?;
        return Ok(Place { path: target, moved: true });
    }
    let reachable = account.is_none() || others_can_enter(&parent.canonicalize()?);
    if reachable || wanted.exists() {
        fs::create_dir_all(&wanted)?;
        own(&wanted, account)?;
        return Ok(Place { path: wanted.canonicalize()?, moved: false });
    }
    let elsewhere = PathBuf::from(format!(
        "/var/tmp/headwater-dev-{:016x}-{name}",
        fingerprint(&parent.canonicalize()?)
    ));
    refuse_foreign(&elsewhere, account)?;
    fs::create_dir_all(&elsewhere)?;
    own(&elsewhere, account)?;
    symlink(&elsewhere, &wanted)?;
    Ok(Place { path: elsewhere, moved: true })
}

/// Removes what [`directory`] made, wherever it is.
pub fn remove(parent: &Path, name: &str) -> io::Result<()> {
    let wanted = parent.join(name);
    if let Ok(target) = fs::read_link(&wanted) {
        if target.exists() {
            fs::remove_dir_all(&target)?;
        }
        return fs::remove_file(&wanted);
    }
    match fs::remove_dir_all(&wanted) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// Gives `path` to `account`, alone. Without an account only the mode is set.
pub fn own(path: &Path, account: Option<&Account>) -> io::Result<()> {
    use std::os::unix::fs::PermissionsExt as _;
    fs::set_permissions(path, fs::Permissions::from_mode(0o700))?;
    match account {
        Some(account) => chown(path, Some(account.uid), Some(account.gid)),
        None => Ok(()),
    }
}

/// Anybody can make a directory in `/var/tmp`: one that is there already must be ours.
fn refuse_foreign(path: &Path, account: Option<&Account>) -> io::Result<()> {
    match fs::symlink_metadata(path) {
        Err(_) => Ok(()),
        Ok(found) => {
            let ours = found.is_dir() && account.is_some_and(|a| a.uid == found.uid());
            if ours {
                Ok(())
            } else {
                Err(io::Error::other(format!("{} belongs to somebody else", path.display())))
            }
        }
    }
}

/// Whether every directory from the root to `path` lets others through.
fn others_can_enter(path: &Path) -> bool {
    path.ancestors().all(|part| fs::metadata(part).is_ok_and(|found| found.mode() & 0o001 != 0))
}

/// FNV-1a: the same directory finds the same place again in every version.
fn fingerprint(path: &Path) -> u64 {
    path.as_os_str().as_encoded_bytes().iter().fold(0xcbf2_9ce4_8422_2325, |hash, byte| {
        (hash ^ u64::from(*byte)).wrapping_mul(0x0000_0100_0000_01b3)
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_exact_name_and_is_never_root() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:a:/v:/b\n";
        assert_eq!(entry(passwd, "postgres").map(|a| (a.uid, a.gid)), Some((101, 104)));
        assert_eq!(entry(passwd, "root"), None);
        assert_eq!(entry(passwd, "nobody"), None);
    }

    #[test]
    fn without_an_account_the_directory_is_where_it_was_asked_for_and_can_be_removed() {
        let parent = tempfile::tempdir().expect("a directory");
        let place = directory(parent.path(), "postgres", None).expect("made");
        assert!(!place.moved && place.path.is_dir());
        remove(parent.path(), "postgres").expect("removed");
        remove(parent.path(), "postgres").expect("removing nothing is fine");
        assert!(!place.path.exists());
    }

    #[test]
    fn a_directory_that_others_cannot_enter_is_replaced_by_a_link() {
        let parent = tempfile::tempdir().expect("a directory");
        let account = Account { uid: 65534, gid: 65534, name: "nobody".to_owned() };
        if !process::is_root() {
            return;
        }
        own(parent.path(), None).expect("mode 0700");
        let place = directory(parent.path(), "postgres", Some(&account)).expect("made");
        assert!(place.moved && place.path.starts_with("/var/tmp"));
        let again = directory(parent.path(), "postgres", Some(&account)).expect("found");
        assert_eq!(place, again);
        remove(parent.path(), "postgres").expect("removed");
        assert!(!place.path.exists());
    }
}
