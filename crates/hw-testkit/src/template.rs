//! The data directory that every cluster starts from: `initdb` runs once per version and machine,
//! then clusters are copies.

use std::fs;
use std::os::unix::process::CommandExt;
use std::path::{Path, PathBuf};
use std::process::Command;

use crate::account::Account;
use crate::binaries::Binaries;
use crate::scratch;

/// Counts changes of [`SETTINGS`] or of the `initdb` options: a new number makes new templates.
const GENERATION: u32 = 1;

/// What every test cluster runs with. A cluster's own settings come after and win.
///
/// Durability of Postgres itself is not under test, speed is: hence no fsync. `synchronous_commit`
/// stays on, because a logical walsender sends only what was flushed and would otherwise trail.
const SETTINGS: &str = "
listen_addresses = '127.0.0.1'
wal_level = logical
max_wal_senders = 20
max_replication_slots = 20
max_prepared_transactions = 10
max_connections = 100
shared_buffers = 32MB
max_parallel_workers_per_gather = 0
fsync = off
full_page_writes = off
jit = off
timezone = 'UTC'
log_timezone = 'UTC'
log_line_prefix = '%m [%p] %u@%d '
include_if_exists = 'testkit.conf'
";

/// The template for these binaries, made first if it is missing.
pub(crate) fn ensure(binaries: &Binaries, account: &Account, root: &Path) -> PathBuf {
    let version: String = binaries
        .version()
        .chars()
        .map(|c| if c.is_ascii_alphanumeric() { c } else { '-' })
        .collect();
    let home = root.join("template");
    let ready = home.join(format!("{version}-{}-{GENERATION}", account.uid));
    if ready.exists() {
        return ready;
    }
    let _guard = scratch::lock(root, &format!("template-{}", binaries.major));
    if ready.exists() {
        return ready;
    }
    scratch::make_dir(&home, 0o755);
    let part = home.join(format!("part-{}", binaries.major));
    let _ = fs::remove_dir_all(&part);
    scratch::make_dir(&part, 0o700);
    account.own(&part).expect("root may give a directory away");

    let mut initdb = Command::new(binaries.bin.join("initdb"));
    initdb
        .arg("-D")
        .arg(&part)
        .args(["-U", "postgres", "-A", "trust", "-E", "UTF8", "--locale=C", "--no-sync"])
        .current_dir(&home)
        .env_remove("LC_ALL")
        .env("LANG", "C");
    if account.foreign {
        initdb.uid(account.uid).gid(account.gid);
    }
    let output = initdb.output().expect("initdb starts");
    assert!(
        output.status.success(),
        "initdb failed: {}{}",
        String::from_utf8_lossy(&output.stdout),
        String::from_utf8_lossy(&output.stderr)
    );
    let file = part.join("postgresql.conf");
    let defaults = fs::read_to_string(&file).expect("initdb writes postgresql.conf");
    fs::write(&file, defaults + SETTINGS).expect("postgresql.conf can be extended");
    fs::rename(&part, &ready).expect("a rename within the scratch directory");
    ready
}
