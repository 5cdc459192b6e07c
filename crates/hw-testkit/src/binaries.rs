//! Which Postgres binaries this machine has.
//!
//! Looked for, in this order: `/usr/lib/postgresql/<major>/bin` (Debian), the directories of
//! `PATH`, and the npm packages that `scripts/setup` puts under `.cache/postgres/<major>` of the
//! repository. Of each major the first one found counts.

use std::collections::BTreeMap;
use std::fs;
use std::ops::RangeInclusive;
use std::path::{Path, PathBuf};
use std::process::Command;
use std::sync::OnceLock;

use crate::account::Account;
use crate::scratch;

/// The majors that Headwater supports.
const SUPPORTED: RangeInclusive<u32> = 14..=18;

/// One installation: `initdb` and `postgres` of one major.
#[derive(Clone, Debug)]
pub(crate) struct Binaries {
    /// For example 16.
    pub(crate) major: u32,
    /// The directory with `postgres` and `initdb`.
    pub(crate) bin: PathBuf,
}

impl Binaries {
    /// The installation of this major; with `None` the one named by `HEADWATER_TEST_MAJOR`, else
    /// the newest of the system's own, else the newest of all.
    pub(crate) fn find(major: Option<u32>) -> Binaries {
        let wanted = major.or_else(|| {
            let text = std::env::var("HEADWATER_TEST_MAJOR").ok()?;
            Some(text.parse().expect("HEADWATER_TEST_MAJOR is a number such as 16"))
        });
        let all = installed();
        let found = match wanted {
            Some(major) => all.get(&major),
            None => {
                let system = all.values().rev().find(|one| !is_packaged(&one.bin));
                system.or_else(|| all.values().next_back())
            }
        };
        found.cloned().unwrap_or_else(|| {
            let name = wanted.map_or("14 to 18".to_owned(), |major| major.to_string());
            panic!("no binaries of Postgres {name}: run scripts/setup")
        })
    }

    /// The full version text, for example `postgres (PostgreSQL) 16.14`.
    pub(crate) fn version(&self) -> String {
        version_text(&self.bin.join("postgres"))
            .unwrap_or_else(|| panic!("{} does not run", self.bin.join("postgres").display()))
    }

    /// These binaries where `account` can reach them: themselves, or a copy in the scratch
    /// directory when the repository lies under a directory that others cannot walk through.
    pub(crate) fn reachable_by(&self, account: &Account, root: &Path) -> Binaries {
        if !account.foreign || scratch::others_can_walk_to(&self.bin) {
            return self.clone();
        }
        // The real directory: what `scripts/setup` links to is copied, not the link.
        let bin = self.bin.canonicalize().expect("the binaries were found a moment ago");
        let home = bin.parent().expect("a bin directory has a parent");
        let version: String = self.version().chars().filter(char::is_ascii_digit).collect();
        let copy = root.join("binaries").join(format!("{}-{version}", self.major));
        let _guard = scratch::lock(root, &format!("binaries-{}", self.major));
        if !copy.exists() {
            scratch::make_dir(&root.join("binaries"), 0o755);
            let part = root.join("binaries").join(format!("{}-part", self.major));
            let _ = fs::remove_dir_all(&part);
            run("cp", &[Path::new("-a"), home, &part]);
            run("chmod", &[Path::new("-R"), Path::new("go+rX"), &part]);
            fs::rename(&part, &copy).expect("a rename within the scratch directory");
        }
        Binaries { major: self.major, bin: copy.join("bin") }
    }
}

/// The majors of Postgres that tests can run on this machine, ascending. A test that goes through them is named
/// `…_on_every_major`, so that `scripts/test majors` does not run all of it once more for each of them.
///
/// - Returns: at least one after `scripts/setup`; 14 to 18 on a full set-up, and always in CI.
/// - Panics: in CI, where one of them is missing: a test that tries fewer would pass there.
pub fn majors() -> Vec<u32> {
    let installed = installed();
    for major in SUPPORTED.filter(|major| !installed.contains_key(major)) {
        crate::missing(&format!("Postgres {major}"));
    }
    assert!(!installed.is_empty(), "no binaries of Postgres: run scripts/setup");
    installed.keys().copied().collect()
}

/// How many random cases a test tries that compares with Postgres: all of them on the major that tests take by
/// themselves, a tenth on one that was asked for.
pub fn cases(all: usize) -> usize {
    if std::env::var_os("HEADWATER_TEST_MAJOR").is_some() { all / 10 } else { all }
}

fn run(program: &str, arguments: &[&Path]) {
    let status = Command::new(program).args(arguments).status();
    assert!(status.is_ok_and(|s| s.success()), "{program} {arguments:?} failed");
}

fn is_packaged(bin: &Path) -> bool {
    bin.ancestors().any(|dir| dir.ends_with(".cache/postgres"))
}

fn installed() -> &'static BTreeMap<u32, Binaries> {
    static FOUND: OnceLock<BTreeMap<u32, Binaries>> = OnceLock::new();
    FOUND.get_or_init(|| {
        let mut found = BTreeMap::new();
        for bin in candidates() {
            if !bin.join("initdb").is_file() || !bin.join("postgres").is_file() {
                continue;
            }
            if let Some(major) = major_of(&bin) {
                found.entry(major).or_insert(Binaries { major, bin });
            }
        }
        found.retain(|major, _| SUPPORTED.contains(major));
        found
    })
}

/// From the path where the layout tells (spares starting a process), else by asking the binary.
fn major_of(bin: &Path) -> Option<u32> {
    let told = bin.ancestors().skip(1).filter_map(Path::file_name).find_map(|name| {
        let number: u32 = name.to_str()?.parse().ok()?;
        (10..100).contains(&number).then_some(number)
    });
    told.or_else(|| {
        let text = version_text(&bin.join("postgres"))?;
        let number = text.split_whitespace().find(|w| w.starts_with(|c: char| c.is_ascii_digit()));
        number?.split(|c: char| !c.is_ascii_digit()).next()?.parse().ok()
    })
}

fn version_text(postgres: &Path) -> Option<String> {
    let output = Command::new(postgres).arg("--version").output().ok()?;
    let text = String::from_utf8(output.stdout).ok()?;
    output.status.success().then(|| text.trim().to_owned())
}

fn candidates() -> Vec<PathBuf> {
    let mut bins: Vec<PathBuf> =
        children(Path::new("/usr/lib/postgresql")).into_iter().map(|dir| dir.join("bin")).collect();
    if let Some(path) = std::env::var_os("PATH") {
        bins.extend(std::env::split_paths(&path));
    }
    let cache = Path::new(env!("CARGO_MANIFEST_DIR")).join("../../.cache/postgres");
    // Canonical, because the test of reachability walks up the path.
    let cache = cache.canonicalize().unwrap_or(cache);
    bins.extend(children(&cache).into_iter().map(|major| major.join("bin")));
    bins
}

fn children(dir: &Path) -> Vec<PathBuf> {
    let entries = fs::read_dir(dir).into_iter().flatten().flatten();
    let mut paths: Vec<PathBuf> = entries.map(|entry| entry.path()).collect();
    paths.sort();
    paths
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_major_is_read_from_the_directory_layout() {
        assert_eq!(major_of(Path::new("/usr/lib/postgresql/15/bin")), Some(15));
        let packaged = "/r/.cache/postgres/17/bin";
        assert_eq!(major_of(Path::new(packaged)), Some(17));
        assert!(is_packaged(Path::new(packaged)));
    }
}
