//! Where declarations go: standard output, or a file that is whole at every moment.

use std::fs;
use std::io;
use std::path::{Path, PathBuf};

use hw_types::Diagnostic;

use crate::code;
use crate::report;

/// Writes the text, to the file or to standard output. A file that has it already is left alone, so that
/// nobody who watches it is woken.
pub fn write(text: &str, file: Option<&Path>) -> Result<(), Box<Diagnostic>> {
    let Some(file) = file else {
        report::answer(text);
        return Ok(());
    };
    // What a link leads to is replaced, not the link.
    let target = file.canonicalize().unwrap_or_else(|_| file.to_owned());
    if fs::read(&target).is_ok_and(|found| found == text.as_bytes()) {
        report::say(&format!("{} is as it should be", file.display()));
        return Ok(());
    }
    replace(&target, text).map_err(|error| {
        let what = format!("cannot write the declarations: {error}");
        Box::new(
            Diagnostic::error(code::DECLARATIONS_FILE, what)
                .at(format!("file {}", file.display()))
                .mend("name a file in a directory that is there and may be written"),
        )
    })?;
    report::say(&format!("wrote {}", file.display()));
    Ok(())
}

fn replace(file: &Path, text: &str) -> io::Result<()> {
    let beside = beside(file)?;
    let written = fs::write(&beside, text)
        .and_then(|()| match fs::metadata(file) {
            Ok(found) if found.is_file() => fs::set_permissions(&beside, found.permissions()),
            _ => Ok(()),
        })
        .and_then(|()| fs::rename(&beside, file));
    if written.is_err() {
        let _ = fs::remove_file(&beside);
    }
    written
}

fn beside(file: &Path) -> io::Result<PathBuf> {
    let name = file.file_name().ok_or_else(|| io::Error::from(io::ErrorKind::InvalidInput))?;
    Ok(file.with_file_name(format!(".{}.{}", name.to_string_lossy(), std::process::id())))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{MetadataExt as _, symlink};

    #[test]
    fn a_file_is_replaced_whole_through_links_and_only_when_it_differs() {
        let directory = tempfile::tempdir().expect("a directory");
        let (file, link) = (directory.path().join("a.d.ts"), directory.path().join("link.d.ts"));
        write("one", Some(&file)).expect("written");
        symlink(&file, &link).expect("linked");
        let before = fs::metadata(&file).expect("there").ino();
        write("one", Some(&link)).expect("nothing to do");
        assert_eq!(fs::metadata(&file).expect("there").ino(), before);
        write("two", Some(&link)).expect("written");
        assert_eq!(fs::read_to_string(&file).expect("there"), "two");
        assert!(fs::symlink_metadata(&link).expect("there").is_symlink());
        let names: Vec<_> = fs::read_dir(directory.path()).expect("listed").collect();
        assert_eq!(names.len(), 2, "nothing is left beside it");
    }

    #[test]
    fn a_file_that_cannot_be_written_is_an_error_that_names_it() {
        let directory = tempfile::tempdir().expect("a directory");
        for file in [directory.path().to_owned(), directory.path().join("no/such/a.d.ts")] {
            let said = write("one", Some(&file)).expect_err("it cannot").to_string();
            assert!(said.contains("cannot write the declarations"), "{said}");
            assert!(said.contains(&format!("file {}", file.display())), "{said}");
        }
        assert_eq!(fs::read_dir(directory.path()).expect("listed").count(), 0);
    }
}
