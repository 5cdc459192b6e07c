//! What can go wrong in the store: kinds with stable codes HW3001 to HW3029, and how to mend them.

use std::io;
use std::path::PathBuf;

use hw_types::{Code, Diagnostic};

use crate::segment::Purpose;

/// A failure of the store. Which ones heal by themselves:
///
/// - `Full`, `SpoolFull`: when space returns; a store that was full takes commits again after
///   [`crate::Store::reopen`].
/// - `Poisoned`, `Superseded`, `Closed`: by [`crate::Store::reopen`], or by taking a new snapshot.
/// - all others: a person or the caller must act.
#[derive(Debug, thiserror::Error)]
#[non_exhaustive]
pub enum StoreError {
    /// HW3001. The operating system refused to read or write.
    #[error("{doing}: {source}")]
    Io {
        /// What the store was doing, as a verb: `read table`.
        doing: &'static str,
        /// The operating system's answer.
        source: io::Error,
    },
    /// HW3002. The disk has no room. Reads go on; commits are refused until
    /// [`crate::Store::reopen`] succeeds.
    #[error("the disk that holds the store is full")]
    Full,
    /// HW3003. The spools of one purpose reached their byte limit; nothing of the refused record was
    /// written.
    #[error(
        "{purpose} hold {used} bytes and may hold {budget}; {asked} more for one of {needed} bytes do \
         not fit"
    )]
    SpoolFull {
        /// What they are for.
        purpose: Purpose,
        /// Bytes in use.
        used: u64,
        /// The configured limit.
        budget: u64,
        /// Bytes that did not fit: wait for room for them ([`crate::segment::SpoolDir`]).
        asked: u64,
        /// Bytes of the whole segment, with those.
        needed: u64,
    },
    /// HW3004. Bytes on disk are not what was written, and it cannot be told which space they
    /// belong to.
    #[error("damaged store: {what}")]
    Damaged {
        /// Which file or structure, and what is wrong with it.
        what: String,
    },
    /// HW3005. The directory holds a store of another format.
    #[error("store in {dir} has format {found}, this version reads format {expected}")]
    Format {
        /// The store's directory.
        dir: PathBuf,
        /// The format found, as written in the file `FORMAT`.
        found: String,
        /// The format this version reads and writes.
        expected: u32,
    },
    /// HW3006. An earlier write or sync failed, so that the state in memory may be ahead of the
    /// disk; nothing is written until [`crate::Store::reopen`].
    #[error("an earlier write to the store failed; it is read-only until it is reopened")]
    Poisoned,
    /// HW3007. Another process (or another store of this process) has the directory open.
    #[error("store in {dir} is in use{}", .holder.map(|pid| format!(" by process {pid}")).unwrap_or_default())]
    Locked {
        /// The store's directory.
        dir: PathBuf,
        /// The process that holds the lock, if it could be read.
        holder: Option<u32>,
    },
    /// HW3008. The directory is not empty and not a store.
    #[error("{dir} holds files that are not a store's")]
    Foreign {
        /// The directory.
        dir: PathBuf,
    },
    /// HW3009. The space was dropped, or belongs to another store.
    #[error("store has no space {name:?}")]
    NoSpace {
        /// The space's name.
        name: String,
    },
    /// HW3010. The snapshot was taken before the store was reopened.
    #[error("snapshot is older than the store's last reopening")]
    Superseded,
    /// HW3011. A key is empty or longer than 65,531 bytes. Nothing of its batch was written.
    #[error("a key of {len} bytes; keys have 1 to 65531 bytes")]
    KeyLength {
        /// The key's length.
        len: usize,
    },
    /// HW3013. A name that cannot name a space or a segment.
    #[error("{name:?} cannot be a name in the store")]
    Name {
        /// The refused name.
        name: String,
    },
    /// HW3014. Keys of a bulk load must ascend strictly.
    #[error("keys of a bulk load do not ascend")]
    Order,
    /// HW3015. The store is closed: reopening failed, or the twin has crashed.
    #[error("store is closed")]
    Closed,
    /// HW3016. A record is longer than a segment frame can hold.
    #[error("a record of {len} bytes; records have at most {max}")]
    RecordLength {
        /// The record's length.
        len: usize,
        /// The longest allowed.
        max: usize,
    },
    /// HW3017. Bytes on disk that belong to one space are not what was written. The others can be
    /// read; this one is to be filled again under another name, and dropped.
    #[error("space {space} of the store is damaged: {what}")]
    SpaceDamaged {
        /// The space's name; up to the first dot it says what the space is for.
        space: String,
        /// What is wrong with it.
        what: String,
    },
    /// HW3018. The process, or the machine, may open no more files. Reads of files that are open go
    /// on; commits are refused until [`crate::Store::reopen`] succeeds.
    #[error("{doing}: too many open files")]
    NoFiles {
        /// What the store was doing, as a verb.
        doing: &'static str,
    },
}

impl StoreError {
    /// The stable code of this kind.
    pub fn code(&self) -> Code {
        Code(match self {
            StoreError::Io { .. } => 3001,
            StoreError::Full => 3002,
            StoreError::SpoolFull { .. } => 3003,
            StoreError::Damaged { .. } => 3004,
            StoreError::Format { .. } => 3005,
            StoreError::Poisoned => 3006,
            StoreError::Locked { .. } => 3007,
            StoreError::Foreign { .. } => 3008,
            StoreError::NoSpace { .. } => 3009,
            StoreError::Superseded => 3010,
            StoreError::KeyLength { .. } => 3011,
            StoreError::Name { .. } => 3013,
            StoreError::Order => 3014,
            StoreError::Closed => 3015,
            StoreError::RecordLength { .. } => 3016,
            StoreError::SpaceDamaged { .. } => 3017,
            StoreError::NoFiles { .. } => 3018,
        })
    }

    /// The same for a person: what happened and how to mend it.
    pub fn diagnostic(&self) -> Diagnostic {
        let finding = Diagnostic::error(self.code().0, self.to_string());
        match self.mend() {
            Some(mend) => finding.mend(mend),
            None => finding,
        }
    }

    /// Whether waiting can help: there may be room on the disk, in the spools, or for open files
    /// later.
    pub fn is_full(&self) -> bool {
        matches!(self, StoreError::Full | StoreError::SpoolFull { .. } | StoreError::NoFiles { .. })
    }

    /// Whether no waiting can help, because the limit is smaller than what was asked for.
    pub fn never_fits(&self) -> bool {
        matches!(self, StoreError::SpoolFull { needed, budget, .. } if needed > budget)
    }

    fn mend(&self) -> Option<&'static str> {
        Some(match self {
            StoreError::Io { source, .. } => match source.kind() {
                io::ErrorKind::PermissionDenied => {
                    "let the user that Headwater runs as write to data_dir and everything in it \
                     (chown -R USER DIRECTORY, chmod -R u+rwX DIRECTORY), enter the directories \
                     above it, or run as the user that owns it"
                }
                io::ErrorKind::ReadOnlyFilesystem => {
                    "data_dir is on a file system that is mounted read only: mount it for writing \
                     (after an error of the disk, check it first), or configure another data_dir"
                }
                io::ErrorKind::NotADirectory | io::ErrorKind::AlreadyExists => {
                    "a file stands where data_dir, or a directory above it, should be: configure \
                     another data_dir, or move the file"
                }
                _ => {
                    "check the disk and how data_dir is mounted (dmesg, df); the rows are in \
                      Postgres too, so an empty data_dir on a good disk is a way out"
                }
            },
            StoreError::Full => "free some space; the store goes on by itself",
            StoreError::SpoolFull { .. } => {
                "raise limits.spool_bytes, or end the transactions and copies that fill the spools"
            }
            StoreError::Damaged { .. } => {
                "check the disk, then remove the directory and start again; everything is copied \
                 anew from Postgres"
            }
            StoreError::SpaceDamaged { .. } => {
                "check the disk; what is damaged is copied or built again"
            }
            StoreError::NoFiles { .. } => {
                "raise the limit of open files (ulimit -n, LimitNOFILE=); the store goes on by itself"
            }
            StoreError::Format { .. } => {
                "remove the directory and start again, with --take-over because the slot is the removed \
                 store's; everything is copied anew from Postgres. To go back, start the version that \
                 wrote it"
            }
            StoreError::Locked { .. } => "stop the other process, or configure another directory",
            StoreError::Foreign { .. } => "configure a directory that is empty or missing",
            _ => return None,
        })
    }

    pub(crate) fn io(doing: &'static str) -> impl FnOnce(io::Error) -> StoreError {
        move |source| match source.raw_os_error() {
            _ if is_full(&source) => StoreError::Full,
            Some(libc::EMFILE | libc::ENFILE) => StoreError::NoFiles { doing },
            _ => StoreError::Io { doing, source },
        }
    }

    pub(crate) fn damaged(what: impl Into<String>) -> StoreError {
        StoreError::Damaged { what: what.into() }
    }
}

/// No space left, or the quota is used up: both end the same way, when somebody frees space.
fn is_full(error: &io::Error) -> bool {
    matches!(error.kind(), io::ErrorKind::StorageFull | io::ErrorKind::QuotaExceeded)
}

impl From<fjall::Error> for StoreError {
    fn from(error: fjall::Error) -> StoreError {
        match error {
            fjall::Error::Io(source) | fjall::Error::Storage(fjall::LsmError::Io(source)) => {
                match source.kind() {
                    // A file that must be there is gone, ends too soon (so that places in it are
                    // none), or holds something else.
                    io::ErrorKind::NotFound
                    | io::ErrorKind::InvalidInput
                    | io::ErrorKind::UnexpectedEof
                    | io::ErrorKind::InvalidData => StoreError::damaged(source.to_string()),
                    _ => StoreError::io("use the store's files")(source),
                }
            }
            fjall::Error::Poisoned => StoreError::Poisoned,
            other => StoreError::damaged(format!("{other:?}")),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_format_of_another_version_is_refused_with_a_way_out() {
        let error = StoreError::Format { dir: "/srv/hw".into(), found: "1".into(), expected: 3 };
        assert_eq!(
            error.diagnostic().to_string(),
            "error[HW3005]: store in /srv/hw has format 1, this version reads format 3\n  \
             mend:  remove the directory and start again, with --take-over because the slot is the \
             removed store's; everything is copied anew from Postgres. To go back, start the version \
             that wrote it"
        );
    }

    #[test]
    fn every_refusal_of_the_operating_system_says_how_to_mend_it() {
        for (errno, mend) in
            [(libc::EACCES, "chown -R"), (libc::EROFS, "read only"), (libc::EIO, "check the disk")]
        {
            let finding = StoreError::io("write")(io::Error::from_raw_os_error(errno)).diagnostic();
            assert_eq!(finding.code.0, 3001);
            assert!(finding.mend.as_ref().is_some_and(|it| it.contains(mend)), "{finding}");
        }
    }

    #[test]
    fn no_space_left_is_told_apart_from_other_failures() {
        let full = io::Error::from_raw_os_error(libc::ENOSPC);
        assert!(matches!(StoreError::io("write")(full), StoreError::Full));
        let quota = io::Error::from_raw_os_error(libc::EDQUOT);
        assert!(matches!(StoreError::io("write")(quota), StoreError::Full));
        let broken = io::Error::from_raw_os_error(libc::EIO);
        assert!(matches!(StoreError::io("write")(broken), StoreError::Io { .. }));
    }
}
