//! `sync.from: policies`: what is served follows the row level security of the source.
//!
//! In: the catalog, looked at each second and when the engine says that something was altered. Out: sync
//! configurations for the engine, one for each state of the policies.
//!
//! Invariants: a definition whose policies changed is taken from clients before anything new is built, unless
//! its new form gives all that it gave; what is taken waits for nothing that is to be built, copied or cannot be
//! ([`Engine::limit`]); nothing
//! that an earlier run of the server was told is served before the policies of now have been read; while they
//! cannot be read, nothing that is served becomes wider.

use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;

use hw_engine::{ActiveSync, Engine};
use hw_expr::sync_config::SyncConfig;
use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::policies::PolicyStreams;
use hw_pg::rights::Rights;
use hw_pg::sql;
use hw_types::Diagnostic;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::code;
use crate::config::Config;
use crate::policies::Reader;

/// The name that messages give to the configuration.
pub const FILE: &str = "policies";

/// Between two looks at the catalog.
const LOOK: Duration = Duration::from_secs(1);

/// The newest configuration that was given, for who maps uploads.
type Given = watch::Sender<Option<Arc<SyncConfig>>>;

/// Follows the policies.
pub struct Follower {
    config: Config,
    connect: ConnectConfig,
    engine: Engine,
    given: Given,
    /// The state of the catalog that is served; `None`: it has to be looked at anew.
    rights: Option<Rights>,
    /// The streams for which something was taken back last.
    taken_for: Option<String>,
    /// What was said last of what is not synced, and of what failed.
    told: (Vec<String>, Option<String>),
}

impl Follower {
    /// Reads the policies and lets the engine serve no more than they show. A source that does not answer is waited
    /// for: until it does, nobody knows what is still shown.
    ///
    /// - Returns: who follows them from now on.
    /// - Errors: they cannot be understood, or the engine does not take them.
    pub async fn start(
        config: &Config,
        connect: &ConnectConfig,
        engine: Engine,
        given: Given,
    ) -> Result<Follower, Box<Diagnostic>> {
        let (config, connect) =
            (config.clone(), connect.with_application_name("headwater policies"));
        let told = (Vec::new(), None);
        let (rights, taken_for) = (None, None);
        let mut follower = Follower { config, connect, engine, given, rights, taken_for, told };
        while let Err(finding) = follower.begin().await {
            if !is_of_source(&finding) {
                return Err(finding);
            }
            follower
                .tell(Some(finding.what.clone()), "nothing is served before they have been read");
            tokio::time::sleep(LOOK).await;
        }
        follower.told.1 = None;
        Ok(follower)
    }

    async fn begin(&mut self) -> Result<(), Box<Diagnostic>> {
        let (mut client, _driver) = sql::connect(&self.connect).await.map_err(failed_look)?;
        let (rights, streams) = self.read(&mut client).await?;
        match self.hand_in(&streams).await? {
            Handed::All => self.rights = Some(rights),
            // Whoever follows goes on trying, and says so.
            Handed::NotWider(_) => {}
        }
        Ok(())
    }

    /// Follows the policies until the stop.
    pub async fn run(mut self, stop: CancellationToken) {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut altered = self.engine.rights();
        let mut session: Option<(Client, sql::Driver)> = None;
        loop {
            tokio::select! {
                _ = ticks.tick() => {}
                Ok(()) = altered.changed() => {}
                () = stop.cancelled() => return,
            }
            hw_process::failpoint::reached("policies::look");
            let looked = self.look(&mut session).await;
            if looked.is_err() {
                session = None;
            }
            let failed = looked.err().map(|finding| finding.what.clone());
            self.tell(failed, "what was served goes on");
        }
    }

    /// Tells why the policies cannot be followed, and what that means; not the same twice.
    fn tell(&mut self, failed: Option<String>, meanwhile: &str) {
        if let Some(what) = failed.as_ref().filter(|what| self.told.1.as_ref() != Some(what)) {
            tracing::warn!(
                code = %hw_types::Code(code::FROM_POLICIES),
                "the policies cannot be followed, {meanwhile}: {what}"
            );
        }
        self.told.1 = failed;
    }

    async fn look(
        &mut self,
        session: &mut Option<(Client, sql::Driver)>,
    ) -> Result<(), Box<Diagnostic>> {
        let is_new = session.as_ref().is_none_or(|(client, _)| client.is_closed());
        if is_new {
            *session = Some(sql::connect(&self.connect).await.map_err(failed_look)?);
        }
        let Some((client, _)) = session else { return Ok(()) };
        let now = Rights::read(client).await.map_err(failed_look)?;
        if self.rights.as_ref() == Some(&now) {
            return Ok(());
        }
        self.rights = None;
        // A session has the settings (the search path) that its login had when it began.
        if !is_new {
            *session = Some(sql::connect(&self.connect).await.map_err(failed_look)?);
        }
        let Some((client, _)) = session else { return Ok(()) };
        let (rights, streams, failed) = match self.read(client).await {
            Ok((rights, streams)) => (rights, streams, None),
            // Nobody can be of a role that is gone.
            Err(finding) if finding.code.0 == code::NO_READER => {
                (now, PolicyStreams::default(), Some(finding))
            }
            Err(finding) => return Err(finding),
        };
        // A store that cannot be written takes nothing over, for hours perhaps. What is served is limited all the
        // same, at once and anew with each change.
        let handed = tokio::select! {
            handed = self.hand_in(&streams) => handed?,
            looked = until_others(client, &rights) => return looked.map_err(failed_look),
        };
        match (handed, failed) {
            (Handed::NotWider(finding), _) | (Handed::All, Some(finding)) => return Err(finding),
            (Handed::All, None) => self.rights = Some(rights),
        }
        Ok(())
    }

    /// The policies, and the state of the catalog that they are of.
    async fn read(
        &mut self,
        client: &mut Client,
    ) -> Result<(Rights, PolicyStreams), Box<Diagnostic>> {
        let reader = Reader::read(client, &self.config, None).await?;
        let (rights, streams) = (reader.security.rights().clone(), reader.streams());
        let refused: Vec<String> = streams
            .tables
            .iter()
            .flat_map(|table| {
                let (schema, name) = &table.table;
                table
                    .refused
                    .iter()
                    .map(move |refused| format!("{schema}.{name}: {}", refused.text()))
            })
            .collect();
        for line in refused.iter().filter(|line| !self.told.0.contains(line)) {
            tracing::warn!(code = %hw_types::Code(code::FROM_POLICIES), "{line}");
        }
        self.told.0 = refused;
        Ok((rights, streams))
    }

    /// Hands the streams to the engine: what is served and would change goes first.
    async fn hand_in(&mut self, streams: &PolicyStreams) -> Result<Handed, Box<Diagnostic>> {
        let text = streams.text();
        let (target, failed) = match compiled(&text) {
            Ok(target) => (target, None),
            // What policies show now cannot be said: nothing is.
            Err(finding) => (compiled(&joined(&BTreeMap::new()))?, Some(finding)),
        };
        let target = Arc::new(target);
        // At once, also of what is being built or held up, and of what the engine comes to serve before it takes
        // what follows.
        self.engine.limit(target.clone());
        let gives = |sync: &ActiveSync, name: &str| target.gives_all_of(&sync.config, name);
        let is_narrow =
            |sync: &ActiveSync| sync.config.definitions().iter().all(|of| gives(sync, &of.name));
        if self.served().is_some_and(|sync| is_narrow(&sync)) {
            self.taken_for = None;
        }
        // While nothing new is shown what is published stays as it was, and taking it back again is no news.
        let is_told = self.taken_for.as_ref() == Some(&text);
        if let Some(sync) = self.served().filter(|sync| !is_told && !is_narrow(sync)) {
            tracing::info!("policies changed: what they no longer show is taken back");
            // As it is served, so that there is nothing to build, and nothing that could not be: what is new of
            // these names holds up nothing else.
            self.configure(&part_of(&sync, |name| gives(&sync, name))).await?;
            self.taken_for = Some(text.clone());
        }
        if let Some(finding) = failed {
            return Err(finding);
        }
        // Wider than what was served, or still to be built.
        let Err(finding) = self.configure(&text).await else { return Ok(Handed::All) };
        // What would be wider and cannot be served stays as it is, and holds up nothing else.
        let mut wanted = blocks(&text, &target);
        if let Some(sync) = self.served() {
            let before = blocks(&sync.text, &sync.config);
            let wider = |name: &str| gives(&sync, name) && !sync.config.gives_all_of(&target, name);
            wanted.extend(before.into_iter().filter(|(name, _)| wider(name)));
        }
        self.configure(&joined(&wanted)).await?;
        Ok(Handed::NotWider(finding))
    }

    fn served(&self) -> Option<Arc<ActiveSync>> {
        self.engine.published().sync.clone()
    }

    async fn configure(&self, text: &str) -> Result<(), Box<Diagnostic>> {
        let config = compiled(text)?;
        match self.engine.configure(FILE, text).await {
            Ok(_) => {
                self.given.send_replace(Some(Arc::new(config)));
                Ok(())
            }
            Err(findings) => Err(first(findings)),
        }
    }
}

/// Returns when the catalog is in another state than this one.
///
/// - Errors: it cannot be read.
async fn until_others(client: &Client, rights: &Rights) -> Result<(), PgError> {
    loop {
        tokio::time::sleep(LOOK).await;
        if Rights::read(client).await? != *rights {
            return Ok(());
        }
    }
}

/// Whether a finding is about the source, and not about what it holds: such findings have codes of their own.
fn is_of_source(finding: &Diagnostic) -> bool {
    (2000..3000).contains(&finding.code.0)
}

fn failed_look(error: PgError) -> Box<Diagnostic> {
    Box::new(error.diagnostic())
}

/// What became of streams that the engine was given.
enum Handed {
    /// They are what is served, or will be when they are built.
    All,
    /// What would show more of tables that are served cannot be served, for this reason: these stay as they are.
    NotWider(Box<Diagnostic>),
}

/// The part of what is served that these definitions are; nothing where that cannot be told.
fn part_of(sync: &ActiveSync, is_kept: impl Fn(&str) -> bool) -> String {
    let mut kept = blocks(&sync.text, &sync.config);
    kept.retain(|name, _| is_kept(name));
    let part = joined(&kept);
    let is_part = compiled(&part).is_ok_and(|part| {
        part.definitions().iter().all(|of| sync.config.gives_all_of(&part, &of.name))
    });
    if is_part { part } else { joined(&BTreeMap::new()) }
}

/// The streams of a configuration as policies give it ([`PolicyStreams::text`]), by name, each with its lines;
/// none of a text that has another form.
fn blocks(text: &str, config: &SyncConfig) -> BTreeMap<String, String> {
    let mut blocks: Vec<String> = Vec::new();
    let lines = text.lines().skip_while(|line| *line != "streams:").skip(1);
    for line in lines.filter(|line| !line.starts_with("  #")) {
        match blocks.last_mut() {
            Some(block) if line.starts_with("   ") => block.push_str(line),
            _ => blocks.push(line.to_owned()),
        }
        blocks.last_mut().expect("one was pushed").push('\n');
    }
    let names = config.definitions().iter().map(|definition| definition.name.clone());
    match names.len() == blocks.len() {
        true => names.zip(blocks).collect(),
        false => BTreeMap::new(),
    }
}

/// A configuration of these streams.
fn joined(blocks: &BTreeMap<String, String>) -> String {
    match blocks.is_empty() {
        true => "config:\n  edition: 3\nstreams: {}\n".to_owned(),
        false => {
            let blocks: String = blocks.values().map(String::as_str).collect();
            format!("config:\n  edition: 3\nstreams:\n{blocks}")
        }
    }
}

/// A configuration of ours, compiled.
fn compiled(text: &str) -> Result<SyncConfig, Box<Diagnostic>> {
    let loaded = SyncConfig::load(text, FILE, None);
    loaded.config.ok_or_else(|| first(loaded.diagnostics))
}

fn first(findings: Vec<Diagnostic>) -> Box<Diagnostic> {
    let found = findings.into_iter().find(Diagnostic::is_error);
    Box::new(found.unwrap_or_else(|| {
        Diagnostic::error(code::FROM_POLICIES, "the streams of the policies are refused")
    }))
}
