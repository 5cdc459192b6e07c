//! `headwater generate types`: TypeScript declarations of the tables, once or whenever these change.
//!
//! In: a database or a schema file. Out: the declarations, on standard output or in a file. Invariant: with
//! `--watch` nothing but a person ends it once it has begun; what is wrong meanwhile is said once.

pub mod output;
pub mod schema_file;

use std::collections::BTreeMap;
use std::time::Duration;

use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_types::Diagnostic;
use tokio_postgres::Client;

use super::serve::{Asked, Signals};
use crate::cli::GenerateTypes;
use crate::code;
use crate::config::Config;
use crate::generate::catalog::Facts;
use crate::generate::{Choices, Form, MODULE, declarations};
use crate::report::{self, Exit};
use schema_file::{Refused, SchemaFile};

/// Between two looks at the catalog, or at the file.
const EVERY: Duration = Duration::from_secs(1);

/// Writes the declarations.
pub async fn run(config: &Config, arguments: &GenerateTypes) -> Exit {
    let signals = match Signals::listen() {
        Ok(signals) => signals,
        Err(error) => {
            report::say(&format!("cannot start: {error}"));
            return Exit::Failed;
        }
    };
    tokio::select! {
        // The end of what was begun is that of its values: a Postgres is stopped, its files are removed.
        () = end(signals) => if arguments.watch { Exit::Done } else { Exit::Failed },
        exit = work(config, arguments) => exit,
    }
}

async fn end(mut signals: Signals) {
    while let Asked::Reload = signals.next().await {}
}

async fn work(config: &Config, arguments: &GenerateTypes) -> Exit {
    let begun = async {
        let choices = choices(config, arguments)?;
        Ok((choices, Source::open(config, arguments).await?))
    };
    let (choices, mut source) = match begun.await {
        Ok(begun) => begun,
        Err(refused) => return refuse(&refused),
    };
    let (mut written, mut told) = (None, None);
    loop {
        match made(&mut source, &choices).await {
            Ok(text) if written.as_ref() != Some(&text) => {
                if let Err(finding) = output::write(&text, arguments.output.as_deref()) {
                    return super::refuse(*finding);
                }
                (written, told) = (Some(text), None);
            }
            Ok(_) => told = None,
            Err(refused) if !arguments.watch => return refuse(&refused),
            Err(refused) => {
                if told.as_ref() != Some(&refused.finding) {
                    refuse(&refused);
                }
                told = Some(refused.finding);
            }
        }
        if !arguments.watch {
            return Exit::Done;
        }
        tokio::time::sleep(EVERY).await;
    }
}

fn refuse(refused: &Refused) -> Exit {
    report::findings(std::slice::from_ref(&refused.finding), &refused.text);
    Exit::Failed
}

async fn made(source: &mut Source, choices: &Choices) -> Result<String, Refused> {
    let facts = source.facts().await?;
    Ok(declarations(&facts, choices)?)
}

fn choices(config: &Config, arguments: &GenerateTypes) -> Result<Choices, Box<Diagnostic>> {
    let mut type_names = BTreeMap::new();
    for given in &arguments.type_names {
        let Some((of, name)) = given.split_once('=') else {
            return Err(Box::new(
                Diagnostic::error(code::TYPE_NAME, format!("\"{given}\" names no type"))
                    .at("--type-name")
                    .mend("write the table or enum and its type: --type-name user_data=UserData"),
            ));
        };
        type_names.insert(of.to_owned(), name.to_owned());
    }
    let (form, module) = match (arguments.compat_ihp, &arguments.module) {
        (true, _) => (Form::Original, "ihp-datasync".to_owned()),
        (false, module) => (Form::Corrected, module.clone().unwrap_or_else(|| MODULE.to_owned())),
    };
    let (naming, big_numbers) = (config.datasync.naming.clone(), config.datasync.big_numbers);
    Ok(Choices { form, module, naming, big_numbers, type_names })
}

/// Where tables are read.
enum Source {
    File(Box<SchemaFile>),
    Database(Box<Database>),
}

/// The configured database, and the session in it while there is one.
struct Database {
    connect: ConnectConfig,
    schema: String,
    client: Option<Client>,
}

impl Source {
    async fn open(config: &Config, arguments: &GenerateTypes) -> Result<Source, Refused> {
        let schema = &config.datasync.schema;
        if let Some(path) = &arguments.schema {
            let file = SchemaFile::open(path, schema, &config.data_dir).await?;
            return Ok(Source::File(Box::new(file)));
        }
        let url = config.database_url().map_err(|finding| {
            let mend = "set DATABASE_URL, or give --database-url, or a file: \
                        headwater generate types Schema.sql";
            Refused::from(finding.mend(mend))
        })?;
        let (connect, warnings) = ConnectConfig::parse(url)?;
        report::findings(&warnings, "");
        let connect = connect.with_application_name("headwater generate");
        let database = Database { connect, schema: schema.clone(), client: None };
        Ok(Source::Database(Box::new(database)))
    }

    async fn facts(&mut self) -> Result<Facts, Refused> {
        match self {
            Source::File(file) => file.facts().await,
            Source::Database(database) => database.facts().await,
        }
    }
}

impl Database {
    async fn facts(&mut self) -> Result<Facts, Refused> {
        let failed = |error: hw_pg::error::PgError| error.diagnostic();
        let open = self.client.take().filter(|client| !client.is_closed());
        let mut client = match open {
            Some(client) => client,
            None => sql::connect(&self.connect).await.map_err(failed)?.0,
        };
        let facts = Facts::read(&mut client, &self.schema).await.map_err(failed)?;
        self.client = Some(client);
        Ok(facts)
    }
}
