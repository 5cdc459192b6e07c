//! Under whose account Postgres runs: ours, or another one when we are root, because Postgres
//! refuses to start as root.

use std::fs;
use std::os::unix::fs::chown;
use std::path::Path;

/// The user and group ids that own a cluster's files and run its processes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct Account {
    /// User id.
    pub(crate) uid: u32,
    /// Group id.
    pub(crate) gid: u32,
    /// Whether this differs from the account of the running process.
    pub(crate) foreign: bool,
}

impl Account {
    /// Our own account; as root the one called `postgres`, else `nobody`, else id 65534.
    pub(crate) fn for_postgres() -> Account {
        let (uid, gid) = effective_ids();
        if uid != 0 {
            return Account { uid, gid, foreign: false };
        }
        let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
        let (uid, gid) = ["postgres", "nobody"]
            .iter()
            .find_map(|name| entry(&passwd, name))
            .unwrap_or((65534, 65534));
        Account { uid, gid, foreign: true }
    }

    /// Gives one path to this account; does nothing when it is ours already.
    pub(crate) fn own(&self, path: &Path) -> std::io::Result<()> {
        if self.foreign { chown(path, Some(self.uid), Some(self.gid)) } else { Ok(()) }
    }
}

/// The effective user and group id of this process.
pub(crate) fn effective_ids() -> (u32, u32) {
    #[expect(unsafe_code, reason = "geteuid and getegid cannot fail and touch no memory")]
    unsafe {
        (libc::geteuid(), libc::getegid())
    }
}

fn entry(passwd: &str, name: &str) -> Option<(u32, u32)> {
    passwd.lines().find_map(|line| {
        let mut fields = line.split(':');
        if fields.next() != Some(name) {
            return None;
        }
        let uid = fields.nth(1)?.parse().ok()?;
        let gid = fields.next()?.parse().ok()?;
        (uid != 0).then_some((uid, gid))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_account_is_found_by_its_exact_name_and_is_never_root() {
        let passwd = "root:x:0:0::/:/bin/sh\npostgres2:x:7:8::/:\npostgres:x:101:104:a,b:/v:/bin/bash\nzero:x:0:5::/:\n";
        assert_eq!(entry(passwd, "postgres"), Some((101, 104)));
        assert_eq!(entry(passwd, "nobody"), None);
        assert_eq!(entry(passwd, "zero"), None);
    }
}
