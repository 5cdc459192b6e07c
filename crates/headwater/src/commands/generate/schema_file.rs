//! A schema file, read by the grammar that it is for: it is loaded into a Postgres that is thrown away.
//!
//! In: a file of SQL. Out: the [`Facts`] of the database that it makes. Invariants: no other database is
//! touched; what is started and written for it is gone when this is dropped; whatever the server has against
//! the file is shown with its place there.

use std::io;
use std::path::{Path, PathBuf};

use hw_pg::config::ConnectConfig;
use hw_pg::error::{PgError, ServerError};
use hw_pg::sql;
use hw_types::{Diagnostic, Span};
use tokio_postgres::Client;
use tokio_postgres::error::{DbError, ErrorPosition};

use crate::code;
use crate::dev::postgres::{self, PrivatePostgres};
use crate::files;
use crate::generate::catalog::Facts;
use crate::generate::sql_text;

/// The database that a file is loaded into.
const DATABASE: &str = "types";

/// Roles that a file may name without making them, at most.
const ROLES: usize = 100;

/// What files of frameworks take for granted, where it does not get in their way: they are found last.
const STAND_INS: &str = "\
CREATE SCHEMA headwater_stand_ins;
CREATE FUNCTION headwater_stand_ins.uuid_generate_v4() RETURNS uuid
  LANGUAGE sql AS 'SELECT pg_catalog.gen_random_uuid()';
CREATE FUNCTION headwater_stand_ins.ihp_user_id() RETURNS uuid
  STABLE LANGUAGE sql AS 'SELECT NULL::pg_catalog.uuid';
SET search_path = public, headwater_stand_ins;
SET check_function_bodies = off;";

/// A schema file, and the Postgres that it is loaded into.
pub struct SchemaFile {
    path: PathBuf,
    schema: String,
    /// What was loaded last, and what came of it.
    loaded: Option<(String, Facts)>,
    postgres: ThrownAway,
}

/// A Postgres in a directory of its own. Dropping it stops the one and removes the other.
struct ThrownAway {
    postgres: Option<PrivatePostgres>,
    directory: PathBuf,
}

/// Findings, and the text that they point into.
pub struct Refused {
    /// What is wrong.
    pub finding: Box<Diagnostic>,
    /// The file's text, or nothing.
    pub text: String,
}

impl From<Diagnostic> for Refused {
    fn from(finding: Diagnostic) -> Refused {
        Box::new(finding).into()
    }
}

impl From<Box<Diagnostic>> for Refused {
    fn from(finding: Box<Diagnostic>) -> Refused {
        Refused { finding, text: String::new() }
    }
}

impl SchemaFile {
    /// Starts a Postgres for the file.
    ///
    /// - Takes: the data directory, where binaries may be installed; the schema whose tables are asked for.
    pub async fn open(path: &Path, schema: &str, data_dir: &Path) -> Result<SchemaFile, Refused> {
        // Whoever names a file that is not there need not wait for a server.
        read(path)?;
        let data_dir = data_dir.to_owned();
        let started = tokio::task::spawn_blocking(move || ThrownAway::start(&data_dir)).await;
        let started = started.map_err(io::Error::other).and_then(|started| started);
        let postgres = started.map_err(|error| {
            Diagnostic::error(code::DEV_START, error.to_string())
                .at("the Postgres that the schema file is loaded into")
        })?;
        Ok(SchemaFile { path: path.to_owned(), schema: schema.to_owned(), loaded: None, postgres })
    }

    /// What the file makes, as it is now.
    pub async fn facts(&mut self) -> Result<Facts, Refused> {
        let text = read(&self.path)?;
        if let Some((known, facts)) = &self.loaded
            && *known == text
        {
            return Ok(facts.clone());
        }
        let sent = sql_text::without_psql_commands(&text);
        self.load(&text, &sent).await?;
        // Another session than the file's, which may have set whatever it likes.
        let mut client = self.postgres.connect(DATABASE).await.map_err(ThrownAway::failed)?;
        let facts = Facts::read(&mut client, &self.schema).await;
        let mut facts = facts.map_err(|error| error.diagnostic())?;
        let null_defaults = sql_text::null_defaults(&sent);
        for table in &mut facts.tables {
            for column in &mut table.columns {
                let named = (table.name.clone(), column.name.clone());
                column.has_default |= null_defaults.contains(&named);
            }
        }
        self.loaded = Some((text, facts.clone()));
        Ok(facts)
    }

    /// Loads the file into a new database.
    async fn load(&self, text: &str, sent: &str) -> Result<(), Refused> {
        let mut roles = 0;
        self.postgres.forget().await?;
        loop {
            let client = self.postgres.new_database().await?;
            let Err(error) = client.batch_execute(sent).await else {
                // The end of a file that has begun a transaction is its end, too.
                let ended = client.batch_execute("COMMIT").await;
                return Ok(ended.map_err(|error| PgError::from(error).diagnostic())?);
            };
            let Some(server) = error.as_db_error() else {
                return Err(PgError::from(error).diagnostic().into());
            };
            // Roles belong to no database: files name those that their server has.
            if let Some(role) = missing_role(server)
                && roles < ROLES
            {
                roles += 1;
                self.postgres.make_role(role).await?;
                continue;
            }
            let letters = match position(server) {
                Some(letters) => Some(letters),
                None => self.first_refused(sent).await,
            };
            return Err(self.refused(server, text, letters));
        }
    }

    /// The statement that an error without a place is about: how many letters stand before it.
    async fn first_refused(&self, sent: &str) -> Option<usize> {
        let statements = sql_text::statements(sent)?;
        let client = self.postgres.new_database().await.ok()?;
        for statement in statements {
            let before = sent[..statement.start].chars().count();
            let Err(error) = client.batch_execute(&sent[statement]).await else { continue };
            return Some(before + error.as_db_error().and_then(position).unwrap_or(0));
        }
        None
    }

    fn refused(&self, server: &DbError, text: &str, letters: Option<usize>) -> Refused {
        let error = ServerError::from(server);
        let what = format!("Postgres does not take the schema file: {}", error.safe_message());
        let mut finding = Diagnostic::error(code::SCHEMA_FILE, what).mend(mend(&error));
        let file = self.path.display().to_string();
        match letters {
            // What was sent has as many letters as the file.
            Some(letters) => {
                let start = sql_text::byte_at(text, letters);
                let (line, column) = sql_text::place(text, start);
                finding.span = Some(Span { file, start, end: word_end(text, start), line, column });
            }
            None => finding = finding.at(format!("file {file}")),
        }
        Refused { finding: Box::new(finding), text: text.to_owned() }
    }
}

fn mend(error: &ServerError) -> String {
    let is_about = |what: &str| error.message.contains(what);
    match (error.sqlstate.as_str(), error.safe_hint()) {
        ("0A000" | "58P01" | "42704", _) if is_about("extension") => {
            "install the extension for this machine's Postgres, or name a database that has it with \
             --database-url"
                .to_owned()
        }
        (_, Some(hint)) => hint,
        ("42P01" | "42883" | "42704" | "3F000", None) => {
            "the file must make all that it uses, in order; or name a database that has it with \
             --database-url"
                .to_owned()
        }
        _ => "correct the file: it must load into an empty database".to_owned(),
    }
}

/// The end of the word at a place.
fn word_end(text: &str, start: usize) -> usize {
    let rest = text.get(start..).unwrap_or_default();
    let is_end = |letter: char| !(letter.is_alphanumeric() || letter == '_');
    let length = rest.find(is_end).unwrap_or(rest.len());
    // A sign is marked itself.
    start + length.max(rest.chars().next().map_or(0, char::len_utf8))
}

/// How many letters of the statement stand before the place of an error.
fn position(error: &DbError) -> Option<usize> {
    match error.position() {
        Some(ErrorPosition::Original(position)) => usize::try_from(*position).ok()?.checked_sub(1),
        _ => None,
    }
}

/// The role that is missing, where that is the error. The server was started with English messages.
fn missing_role(error: &DbError) -> Option<&str> {
    let is_missing = error.code() == &tokio_postgres::error::SqlState::UNDEFINED_OBJECT;
    let name = error.message().strip_prefix("role \"")?.strip_suffix("\" does not exist")?;
    is_missing.then_some(name)
}

fn read(path: &Path) -> Result<String, Refused> {
    std::fs::read_to_string(path).map_err(|error| {
        let another = "name an existing file: headwater generate types Schema.sql";
        files::unreadable(code::SCHEMA_FILE, "the schema file", path, &error, another).into()
    })
}

impl ThrownAway {
    fn start(data_dir: &Path) -> io::Result<ThrownAway> {
        use std::os::unix::fs::DirBuilderExt as _;
        let name = format!("headwater-types-{:016x}", rand::random::<u64>());
        let directory = std::env::temp_dir().join(name);
        std::fs::DirBuilder::new().mode(0o700).create(&directory)?;
        // From here on the directory is removed, whatever happens.
        let mut started = ThrownAway { postgres: None, directory };
        started.postgres = Some(PrivatePostgres::start_thrown_away(data_dir, &started.directory)?);
        Ok(started)
    }

    /// A session in a database that is as good as new.
    async fn new_database(&self) -> Result<Client, Refused> {
        let drop = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
        self.maintain(&[drop, format!("CREATE DATABASE {DATABASE}")]).await?;
        let client = self.connect(DATABASE).await.map_err(ThrownAway::failed)?;
        let made = client.batch_execute(STAND_INS).await;
        made.map_err(|error| ThrownAway::failed(error.into()))?;
        Ok(client)
    }

    /// Takes away what an earlier load left, also outside of its database.
    async fn forget(&self) -> Result<(), Refused> {
        let failed = |error: tokio_postgres::Error| ThrownAway::failed(error.into());
        let maintenance = self.connect("postgres").await.map_err(ThrownAway::failed)?;
        let drop = format!("DROP DATABASE IF EXISTS {DATABASE} WITH (FORCE)");
        maintenance.batch_execute(&drop).await.map_err(failed)?;
        let sql = "SELECT 'DROP ROLE ' || pg_catalog.quote_ident(rolname) FROM pg_catalog.pg_roles \
                   WHERE oid >= 16384";
        for row in maintenance.query(sql, &[]).await.map_err(failed)? {
            let drop: String = row.try_get(0).map_err(failed)?;
            maintenance.batch_execute(&drop).await.map_err(failed)?;
        }
        Ok(())
    }

    async fn make_role(&self, name: &str) -> Result<(), Refused> {
        self.maintain(&[format!("CREATE ROLE \"{}\"", name.replace('"', "\"\""))]).await
    }

    async fn maintain(&self, statements: &[String]) -> Result<(), Refused> {
        let maintenance = self.connect("postgres").await.map_err(ThrownAway::failed)?;
        for sql in statements {
            let done = maintenance.batch_execute(sql).await;
            done.map_err(|error| ThrownAway::failed(error.into()))?;
        }
        Ok(())
    }

    fn failed(error: PgError) -> Refused {
        error.diagnostic().at("the Postgres that the schema file is loaded into").into()
    }

    async fn connect(&self, database: &str) -> Result<Client, PgError> {
        let url = self.postgres.as_ref().map(|postgres| postgres.url(database));
        let url = url.expect("it runs as long as this is there");
        let config = ConnectConfig::parse(url.expose());
        let (config, _) = config
            .map_err(|finding| PgError::new(hw_pg::error::PgErrorKind::Configuration(finding)))?;
        let connected = sql::connect(&config.with_application_name("headwater generate")).await;
        connected.map(|(client, _driver)| client)
    }
}

impl Drop for ThrownAway {
    fn drop(&mut self) {
        drop(self.postgres.take());
        let _ = postgres::remove(&self.directory);
        let _ = std::fs::remove_dir_all(&self.directory);
    }
}
