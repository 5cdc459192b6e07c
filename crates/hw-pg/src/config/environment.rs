//! What a connection string is completed from: `PG*` variables, home directory, system user.
//!
//! Injected, so that tests do not touch the variables of the process.

use std::collections::HashMap;
use std::path::Path;

/// Where libpq builds look for the socket when no host is given: Debian's place, then upstream's.
const SOCKET_DIRECTORIES: [&str; 2] = ["/var/run/postgresql", "/tmp"];

type Lookup = Box<dyn Fn(&str) -> Option<String> + Send + Sync>;

/// The surroundings of a connection string.
pub struct Environment {
    lookup: Lookup,
    user: Option<String>,
}

impl Environment {
    /// Variables and user of this process.
    pub fn process() -> Environment {
        Environment {
            lookup: Box::new(|name| std::env::var(name).ok()),
            user: whoami::username().ok(),
        }
    }

    /// These variables only; the system user is the value of `USER`.
    pub fn of(variables: &[(&str, &str)]) -> Environment {
        let variables: HashMap<String, String> =
            variables.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let user = variables.get("USER").cloned();
        Environment { lookup: Box::new(move |name| variables.get(name).cloned()), user }
    }

    /// A variable, if set and not empty.
    pub fn get(&self, name: &str) -> Option<String> {
        (self.lookup)(name).filter(|value| !value.is_empty())
    }

    /// The home directory.
    pub(super) fn home(&self) -> Option<String> {
        self.get("HOME")
    }

    /// The system user, libpq's default role.
    pub(super) fn user(&self) -> Option<&str> {
        self.user.as_deref()
    }
}

/// The directory of the socket when no host is given.
pub(super) fn default_socket_directory() -> &'static Path {
    let there = SOCKET_DIRECTORIES.iter().find(|directory| Path::new(directory).is_dir());
    Path::new(there.unwrap_or(&SOCKET_DIRECTORIES[0]))
}

/// Whether the password file calls a socket in this directory `localhost`.
pub(super) fn is_default_socket_directory(directory: &Path) -> bool {
    SOCKET_DIRECTORIES.iter().any(|default| Path::new(default) == directory)
}
