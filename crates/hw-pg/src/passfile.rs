//! The password file, `.pgpass`: `host:port:database:user:password`, one a line.
//!
//! In: the file. Out: the password of the first line that fits. A file that others may read is
//! not used, as with libpq. Invariant: passwords leave only through [`PassFile::find`].
//!
//! Source: PostgreSQL manual, "The Password File"; libpq `fe-connect.c`, `passwordFromFile`.

use crate::error::code;
use hw_types::Diagnostic;
use std::fmt;
use std::path::Path;

/// The lines of a password file.
#[derive(Default, PartialEq, Eq)]
pub struct PassFile {
    /// Host, port, database, user, password; `*` was not unescaped and fits everything.
    lines: Vec<[Field; 5]>,
}

#[derive(PartialEq, Eq)]
enum Field {
    Any,
    Text(String),
}

impl Field {
    fn fits(&self, value: &str) -> bool {
        match self {
            Field::Any => true,
            Field::Text(text) => text == value,
        }
    }
}

impl PassFile {
    /// Reads a password file.
    ///
    /// - Returns: an empty list if the file is not there, and with a warning (`HW2003`) if it is
    ///   not a plain file, if others may read it, or if it cannot be read.
    pub fn load(path: &Path) -> (PassFile, Option<Diagnostic>) {
        let ignored = |why: &str, mend: String| {
            let what = format!("password file {} is ignored: {why}", path.display());
            let warning = Diagnostic::warning(code::PASSWORD_FILE, what);
            (PassFile::default(), Some(if mend.is_empty() { warning } else { warning.mend(mend) }))
        };
        let Ok(metadata) = std::fs::metadata(path) else { return (PassFile::default(), None) };
        if !metadata.is_file() {
            return ignored("it is not a plain file", String::new());
        }
        #[cfg(unix)]
        if std::os::unix::fs::PermissionsExt::mode(&metadata.permissions()) & 0o077 != 0 {
            let mend = format!("chmod 0600 {}", path.display());
            return ignored("group or others may read it", mend);
        }
        match std::fs::read_to_string(path) {
            Ok(text) => (PassFile::parse(&text), None),
            Err(error) => ignored(&error.to_string(), String::new()),
        }
    }

    /// Reads the text of a password file. Lines without five fields are left out.
    pub fn parse(text: &str) -> PassFile {
        let lines = text.lines().filter(|line| !line.starts_with('#')).filter_map(parse_line);
        PassFile { lines: lines.collect() }
    }

    /// The password of the first line that fits.
    pub fn find(&self, host: &str, port: u16, database: &str, user: &str) -> Option<&str> {
        let port = port.to_string();
        let wanted = [host, &port, database, user];
        self.lines.iter().find_map(|line| match &line[4] {
            Field::Text(password) if line.iter().zip(wanted).all(|(f, w)| f.fits(w)) => {
                Some(password.as_str())
            }
            _ => None,
        })
    }
}

impl fmt::Debug for PassFile {
    /// Only the number of lines.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PassFile({} lines)", self.lines.len())
    }
}

fn parse_line(line: &str) -> Option<[Field; 5]> {
    let mut fields: Vec<String> = vec![String::new()];
    let mut escaped = vec![false];
    let mut characters = line.chars();
    while let Some(character) = characters.next() {
        match character {
            '\\' => {
                if let Some(next) = characters.next() {
                    fields.last_mut()?.push(next);
                    *escaped.last_mut()? = true;
                }
            }
            // The password is the rest of the line up to an unescaped colon.
            ':' if fields.len() == 5 => break,
            ':' => {
                fields.push(String::new());
                escaped.push(false);
            }
            other => fields.last_mut()?.push(other),
        }
    }
    let mut made = fields.into_iter().zip(escaped).enumerate().map(|(index, (text, escaped))| {
        if index < 4 && text == "*" && !escaped { Field::Any } else { Field::Text(text) }
    });
    Some([made.next()?, made.next()?, made.next()?, made.next()?, made.next()?])
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(file: &str, (host, port, database, user): (&str, u16, &str, &str)) -> Option<String> {
        PassFile::parse(file).find(host, port, database, user).map(str::to_owned)
    }

    #[test]
    fn the_first_line_that_fits_gives_the_password() {
        let file = "# comment\nh:5432:d:u:exact\n*:*:d2:u:any host\n*:*:*:*:rest\n";
        assert_eq!(check(file, ("h", 5432, "d", "u")).as_deref(), Some("exact"));
        assert_eq!(check(file, ("x", 1, "d2", "u")).as_deref(), Some("any host"));
        assert_eq!(check(file, ("x", 1, "d3", "v")).as_deref(), Some("rest"));
        assert_eq!(check("h:5432:d:u:p", ("h", 5433, "d", "u")), None);
    }

    #[test]
    fn colons_and_backslashes_are_escaped() {
        let file = r"\:\:1:5432:d\\b:u:pa\:ss\\wo\*rd";
        assert_eq!(check(file, ("::1", 5432, r"d\b", "u")).as_deref(), Some(r"pa:ss\wo*rd"));
        assert_eq!(check(r"\*:1:d:u:p", ("h", 1, "d", "u")), None, "an escaped star is a star");
    }

    #[test]
    fn a_short_line_is_left_out() {
        assert_eq!(check("h:1:d:u", ("h", 1, "d", "u")), None);
        assert_eq!(check("", ("h", 1, "d", "u")), None);
    }

    #[cfg(unix)]
    #[test]
    fn a_file_that_others_may_read_is_ignored_with_a_warning() {
        use std::os::unix::fs::PermissionsExt;
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("pgpass");
        std::fs::write(&path, "*:*:*:*:p\n").unwrap();
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o644)).unwrap();
        let (file, warning) = PassFile::load(&path);
        assert_eq!(file.find("h", 1, "d", "u"), None);
        assert_eq!(
            warning.unwrap().to_string(),
            format!(
                "warning[HW2003]: password file {0} is ignored: group or others may read it\n  \
                 mend:  chmod 0600 {0}",
                path.display()
            )
        );
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o600)).unwrap();
        let (file, warning) = PassFile::load(&path);
        assert_eq!((file.find("h", 1, "d", "u"), warning), (Some("p"), None));
        let (_, warning) = PassFile::load(directory.path());
        assert!(warning.unwrap().what.ends_with("it is not a plain file"));
        assert_eq!(PassFile::load(&directory.path().join("absent")).1, None);
    }
}
