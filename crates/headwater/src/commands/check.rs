//! `headwater check`: everything that is wrong with a sync configuration.
//!
//! In: a file, and a database if one is given. Out: all findings with their excerpts on standard
//! output, because they are the answer, and notes. Exit code 1 when one of them is an error.

use hw_expr::sync_config::SyncConfig;
use hw_pg::config::ConnectConfig;
use hw_pg::sql;
use hw_types::Diagnostic;

use crate::cli::Check;
use crate::code;
use crate::config::Config;
use crate::doctor::{pooler, writes};
use crate::report::{self, Exit};
use crate::sync_config::{self, Checked, Source, SyncFile};

/// Checks and prints.
pub async fn run(config: &Config, arguments: &Check) -> Exit {
    let file = match the_file(config, arguments) {
        Ok(file) => file,
        Err(finding) => return super::refuse(*finding),
    };
    let source = match &config.database.url {
        None => None,
        Some(url) => match read_source(config, url.expose(), &file).await {
            Ok(source) => Some(source),
            Err(finding) => return super::refuse(*finding),
        },
    };
    let (source, of_writes) = source.unzip();
    let Checked { findings, mut notes } = sync_config::check(&file, source.as_ref());
    // Tables that clients only read are no fault of a sync configuration.
    notes.extend(of_writes.unwrap_or_default().iter().map(writes::note));
    let colour = report::colour_of(&std::io::stdout());
    for finding in &findings {
        report::answer(&format!("{}\n", report::render(finding, &file.text, colour)));
    }
    for note in &notes {
        report::answer(&format!("note: {note}\n"));
    }
    let (errors, tally) = report::tally(&findings);
    report::answer(&format!("{}: {tally}\n", file.name));
    let wrong = errors > 0 || (arguments.strict && !findings.is_empty());
    if wrong { Exit::Negative } else { Exit::Done }
}

fn the_file(config: &Config, arguments: &Check) -> Result<SyncFile, Box<Diagnostic>> {
    let path = arguments.file.as_deref().or(config.sync_config.as_deref());
    match path {
        Some(path) => sync_config::read(path),
        None => Err(Box::new(
            Diagnostic::error(code::NO_SYNC_FILE, "no sync configuration is named")
                .mend("name it: headwater check sync.yaml; or set HEADWATER_SYNC_CONFIG"),
        )),
    }
}

/// What the database says of the tables, and what clients lack to write them.
async fn read_source(
    config: &Config,
    url: &str,
    file: &SyncFile,
) -> Result<(Source, Vec<Diagnostic>), Box<Diagnostic>> {
    let (connect, warnings) = ConnectConfig::parse(url).map_err(Box::new)?;
    report::findings(&warnings, "");
    // It may be named by the environment alone.
    report::say(&format!("its tables are looked up in {}", connect.redacted()));
    let found = async {
        let (client, _driver) = sql::connect(&connect).await?;
        let source = Source::read(&client, &config.database.publication).await?;
        let compiled = SyncConfig::load(&file.text, &file.name, None).config;
        let writes = match &compiled {
            Some(compiled) => writes::of_tables(config, &client, Some(compiled)).await?,
            None => Vec::new(),
        };
        Ok((source, writes))
    };
    found.await.map_err(|error| Box::new(pooler::finding_or(&connect, &error)))
}
