//! What `dev` prints when everything runs: where the page is, and commands to paste.
//!
//! In: where things are. Out: text. Invariant: every command works as it stands in the directory
//! in which `dev` was started, whatever characters are in the paths. The README shows this text,
//! which a test compares.

use std::path::{Path, PathBuf};

use crate::sample;

/// What the text is about.
#[derive(Clone, Debug)]
pub struct Banner {
    /// Address of the server without a slash at its end: `http://127.0.0.1:8080`.
    pub url: String,
    /// How to open the private Postgres. Unset: the database is the user's own.
    pub psql: Option<Psql>,
    /// The example client of this checkout, which knows the tables of the sample. Unset: there is
    /// none, or they are not what is synced.
    pub client: Option<String>,
    /// What runs this program again, as a shell reads it.
    pub program: String,
    /// Directory of everything that `dev` keeps.
    pub data_dir: PathBuf,
    /// The sync configuration that is served.
    pub sync_config: Option<PathBuf>,
    /// Whether policies are synced instead.
    pub from_policies: bool,
}

/// How to open the private Postgres.
#[derive(Clone, Debug)]
pub struct Psql {
    /// The command.
    pub command: String,
    /// Whether `psql` is installed.
    pub installed: bool,
}

impl Banner {
    /// The text, with an empty line before and after it.
    pub fn text(&self) -> String {
        let url = &self.url;
        let sync = match &self.sync_config {
            Some(path) => path.display().to_string(),
            None if self.from_policies => {
                "row level security, as `headwater policies --as-streams` prints it".to_owned()
            }
            None => "no sync configuration; name one with --sync-config".to_owned(),
        };
        format!(
            "\nHeadwater is running. Ctrl-C stops everything.\n\n  page    {url}/\n{}  client  {}\n  \
             config  {sync}\n\n",
            self.psql(),
            self.client()
        )
    }

    fn psql(&self) -> String {
        let Some(psql) = &self.psql else { return String::new() };
        let missing = match psql.installed {
            true => "",
            false => "\n          (psql is not installed; Debian: apt install postgresql-client)",
        };
        format!(
            "  psql    {}{missing}\n          try: UPDATE todos SET completed = NOT completed;\n",
            psql.command
        )
    }

    fn client(&self) -> String {
        let url = &self.url;
        let data_dir = match self.data_dir == Path::new(".headwater") {
            true => String::new(),
            false => format!(" --data-dir {}", shell_word(&self.data_dir.to_string_lossy())),
        };
        let token = format!("$({} token --sub {}{data_dir})", self.program, sample::USER);
        match &self.client {
            Some(client) => format!(
                "{client} --endpoint {url} \\\n          --token \"{token}\"\n          \
                 try: add Bread and butter"
            ),
            None => format!(
                "curl -N {url}/sync/stream -H 'content-type: application/json' \\\n          \
                 -H \"authorization: Bearer {token}\" \\\n          \
                 -d '{{\"buckets\":[],\"include_checksum\":true,\"raw_data\":true,\
                 \"client_id\":\"curl\"}}'"
            ),
        }
    }
}

/// The example client (the official SDK) of the checkout that we run in, or that `program` was
/// built in.
pub fn example_client(here: &Path, program: &Path) -> Option<PathBuf> {
    // `target/<profile>/headwater` stands three below the checkout.
    let checkouts = [Some(here), program.ancestors().nth(3)];
    let clients = checkouts.into_iter().flatten().map(|root| root.join("conformance/client"));
    clients.into_iter().find(|client| client.is_file())
}

/// A program as a shell in `here` calls it: relative where it is below.
pub fn called_from(here: &Path, program: &Path) -> String {
    let path = match program.strip_prefix(here) {
        // A bare name would be looked for in PATH.
        Ok(below) if below.components().count() == 1 => Path::new(".").join(below),
        Ok(below) => below.to_owned(),
        Err(_) => program.to_owned(),
    };
    shell_word(&path.to_string_lossy())
}

/// A text as one word of a shell.
pub fn shell_word(text: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || "_-./:=@%+,".contains(c);
    match !text.is_empty() && text.chars().all(plain) {
        true => text.to_owned(),
        false => format!("'{}'", text.replace('\'', r"'\''")),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn banner() -> Banner {
        Banner {
            url: "http://127.0.0.1:8080".into(),
            psql: None,
            client: None,
            program: "target/release/headwater".into(),
            data_dir: ".headwater".into(),
            sync_config: Some("sync.yaml".into()),
            from_policies: false,
        }
    }

    #[test]
    fn with_the_sample_in_a_checkout_the_client_is_the_official_sdk() {
        let client = Some("conformance/client".into());
        let text = Banner { client, data_dir: "/tmp/a b".into(), ..banner() }.text();
        let expected = "  client  conformance/client --endpoint http://127.0.0.1:8080 \\\n          \
                        --token \"$(target/release/headwater token --sub ada --data-dir '/tmp/a b')\"\n";
        assert!(text.contains(expected), "{text}");
        assert!(!text.contains("curl"), "{text}");
    }

    #[test]
    fn elsewhere_the_client_is_one_that_everybody_has() {
        let text = banner().text();
        assert!(text.contains("  client  curl -N http://127.0.0.1:8080/sync/stream"), "{text}");
        assert!(text.contains("Bearer $(target/release/headwater token --sub ada)"), "{text}");
        assert!(!text.contains("psql"), "{text}");
    }

    #[test]
    fn the_example_client_is_found_in_this_checkout_and_in_that_of_the_program() {
        let checkout = tempfile::tempdir().expect("a directory");
        let elsewhere = tempfile::tempdir().expect("a directory");
        let program = checkout.path().join("target/release/headwater");
        assert_eq!(example_client(checkout.path(), &program), None);
        std::fs::create_dir(checkout.path().join("conformance")).expect("made");
        let client = checkout.path().join("conformance/client");
        std::fs::write(&client, "").expect("written");
        assert_eq!(example_client(checkout.path(), Path::new("/bin/x")), Some(client.clone()));
        assert_eq!(example_client(elsewhere.path(), &program), Some(client));
    }

    #[test]
    fn programs_are_called_as_a_shell_in_this_directory_finds_them() {
        let called = |here: &str, program: &str| called_from(Path::new(here), Path::new(program));
        assert_eq!(called("/src", "/src/target/release/headwater"), "target/release/headwater");
        assert_eq!(called("/src/bin", "/src/bin/headwater"), "./headwater");
        assert_eq!(called("/src", "/usr/bin/headwater"), "/usr/bin/headwater");
        assert_eq!(called("/src", "/it's here/headwater"), r"'/it'\''s here/headwater'");
    }
}
