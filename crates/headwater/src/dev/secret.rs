//! The secret that `dev` signs with: made once, kept in the data directory, read by `token`.

use std::io;
use std::path::Path;

use base64::Engine as _;
use base64::engine::general_purpose::STANDARD;
use rand::Rng as _;

use super::postgres::write_private;
use crate::config::dev_secret_file;
use crate::config::secret::Secret;

/// The secret of `data_dir`, made if it is missing. Only its owner can read the file.
pub fn ensure(data_dir: &Path) -> io::Result<Secret> {
    let file = dev_secret_file(data_dir);
    match std::fs::read_to_string(&file) {
        Ok(text) if !text.trim().is_empty() => return Ok(Secret::new(text.trim())),
        Ok(_) => {}
        Err(error) if error.kind() == io::ErrorKind::NotFound => {}
        Err(error) => return Err(error),
    }
    let mut bytes = [0_u8; 32];
    rand::rng().fill(&mut bytes);
    let text = format!("base64:{}", STANDARD.encode(bytes));
    write_private(&file, &format!("{text}\n"))?;
    Ok(Secret::new(text))
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::MetadataExt as _;

    #[test]
    fn the_secret_is_made_once_and_only_its_owner_can_read_it() {
        let directory = tempfile::tempdir().expect("a directory");
        let first = ensure(directory.path()).expect("made");
        let second = ensure(directory.path()).expect("found");
        assert_eq!(first.expose(), second.expose());
        let found = std::fs::metadata(dev_secret_file(directory.path())).expect("there");
        assert_eq!(found.mode() & 0o777, 0o600);
    }
}
