//! Files that a person named, and what to do where one cannot be read.
//!
//! In: a path and the operating system's answer. Out: a finding. Invariant: a file that is there is
//! never answered with "name an existing file".

use std::fs;
use std::io;
use std::os::unix::fs::MetadataExt as _;
use std::path::Path;

use hw_types::Diagnostic;

use crate::process;

/// The finding for a file that cannot be read.
///
/// - Takes: its code; what it is (`the configuration`); how to name another one.
pub fn unreadable(
    code: u16,
    what: &str,
    path: &Path,
    error: &io::Error,
    another: &str,
) -> Diagnostic {
    Diagnostic::error(code, format!("cannot read {what}: {error}"))
        .at(format!("file {}", path.display()))
        .mend(mend(path, error.kind(), another))
}

fn mend(path: &Path, kind: io::ErrorKind, another: &str) -> String {
    let (file, us) = (path.display(), process::user());
    match kind {
        io::ErrorKind::PermissionDenied => match fs::metadata(path) {
            Ok(metadata) => format!(
                "it belongs to user {owner} with mode {mode:o}, and headwater runs as user {us}: \
                 chown {us} {file}, or chmod a+r {file} if all may read it, or run headwater as \
                 user {owner}",
                owner = metadata.uid(),
                mode = metadata.mode() & 0o7777,
            ),
            Err(_) => format!(
                "user {us}, which headwater runs as, may not enter a directory above it: chmod \
                 a+x that directory, or run headwater as the user that it belongs to"
            ),
        },
        io::ErrorKind::InvalidData => "it is no text in UTF-8: save it as such".to_owned(),
        io::ErrorKind::IsADirectory => format!("it is a directory: {another}"),
        _ => another.to_owned(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn what_is_there_and_cannot_be_read_says_why_and_who_may() {
        let directory = tempfile::tempdir().expect("a directory");
        let file = directory.path().join("headwater.yaml");
        fs::write(&file, "").expect("written");
        let said = |path: &Path, kind| {
            let another = "name an existing file with --config";
            unreadable(1001, "the configuration", path, &io::Error::from(kind), another).to_string()
        };
        let denied = said(&file, io::ErrorKind::PermissionDenied);
        let us = process::user();
        assert!(denied.contains("cannot read the configuration: permission denied"), "{denied}");
        assert!(denied.contains(&format!("it belongs to user {us} with mode 6")), "{denied}");
        assert!(
            denied.contains(&format!("chown {us} {}, or chmod a+r", file.display())),
            "{denied}"
        );
        let closed = said(&directory.path().join("closed/f"), io::ErrorKind::PermissionDenied);
        assert!(closed.contains("may not enter a directory above it"), "{closed}");
        for kind in [io::ErrorKind::PermissionDenied, io::ErrorKind::InvalidData] {
            assert!(!said(&file, kind).contains("existing file"), "{kind:?}");
        }
        let missing = said(&file, io::ErrorKind::NotFound);
        assert!(missing.ends_with("mend:  name an existing file with --config"), "{missing}");
    }
}
