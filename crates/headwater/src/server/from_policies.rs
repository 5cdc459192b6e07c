//! `sync.from: policies`: what is served follows the row level security of the source.
//!
//! In: the catalog, looked at each second and when the engine says that something was altered. Out: sync
//! configurations for the engine, one for each state of the policies.
//!
//! Invariants: a definition whose policies changed is taken from clients before its new form is built, unless
//! that gives all that it gave; nothing that an earlier run of the server was told is served before the policies
//! of now have been read; while they cannot be read, nothing that is served becomes wider.

use std::sync::Arc;
use std::time::Duration;

use hw_engine::Engine;
use hw_expr::sync_config::SyncConfig;
use hw_pg::config::ConnectConfig;
use hw_pg::policies::PolicyStreams;
use hw_pg::rights::Rights;
use hw_pg::sql;
use hw_types::Diagnostic;
use tokio::sync::watch;
use tokio::time::{MissedTickBehavior, interval, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::code;
use crate::config::Config;
use crate::policies::Reader;

/// The name that messages give to the configuration.
pub const FILE: &str = "policies";

/// Between two looks at the catalog.
const LOOK: Duration = Duration::from_secs(1);

/// How long the engine may take to serve less.
const SHUT_WITHIN: Duration = Duration::from_secs(20);

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
    /// What was said last of what is not synced, and of what failed.
    told: (Vec<String>, Option<String>),
}

impl Follower {
    /// Reads the policies and lets the engine serve no more than they show.
    ///
    /// - Returns: who follows them from now on.
    /// - Errors: they cannot be read, or the engine goes on with what it served before.
    pub async fn start(
        config: &Config,
        connect: &ConnectConfig,
        engine: Engine,
        given: Given,
    ) -> Result<Follower, Box<Diagnostic>> {
        let (config, connect) =
            (config.clone(), connect.with_application_name("headwater policies"));
        let told = (Vec::new(), None);
        let mut follower = Follower { config, connect, engine, given, rights: None, told };
        let (mut client, _driver) =
            sql::connect(&follower.connect).await.map_err(|error| Box::new(error.diagnostic()))?;
        let (rights, streams) = follower.read(&mut client).await?;
        if !follower.hand_in(&streams).await? {
            let what = "what an earlier start served cannot be taken back, and policies may have changed since";
            return Err(Box::new(
                Diagnostic::error(code::FROM_POLICIES, what)
                    .mend("start again when the source answers, or with an empty data directory"),
            ));
        }
        follower.rights = Some(rights);
        Ok(follower)
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
            let looked = self.look(&mut session).await;
            let failed = looked.err().map(|finding| finding.what.clone());
            if let Some(what) = &failed {
                session = None;
                if self.told.1.as_ref() != Some(what) {
                    tracing::warn!(
                        code = %hw_types::Code(code::FROM_POLICIES),
                        "the policies cannot be followed, what was served goes on: {what}"
                    );
                }
            }
            self.told.1 = failed;
        }
    }

    async fn look(
        &mut self,
        session: &mut Option<(Client, sql::Driver)>,
    ) -> Result<(), Box<Diagnostic>> {
        let failed = |error: hw_pg::error::PgError| Box::new(error.diagnostic());
        if session.as_ref().is_none_or(|(client, _)| client.is_closed()) {
            *session = Some(sql::connect(&self.connect).await.map_err(failed)?);
        }
        let Some((client, _)) = session else { return Ok(()) };
        let now = Rights::read(client).await.map_err(failed)?;
        if self.rights.as_ref() == Some(&now) {
            return Ok(());
        }
        self.rights = None;
        let (rights, streams) = self.read(client).await?;
        if self.hand_in(&streams).await? {
            self.rights = Some(rights);
        }
        Ok(())
    }

    /// The policies, and the state of the catalog that they are of at the latest.
    async fn read(
        &mut self,
        client: &mut Client,
    ) -> Result<(Rights, PolicyStreams), Box<Diagnostic>> {
        // What changes in between is another state, which the next look finds.
        let rights = Rights::read(client).await.map_err(|error| Box::new(error.diagnostic()))?;
        let streams = Reader::read(client, &self.config, None).await?.streams();
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
    ///
    /// - Returns: whether nothing is served that they do not give.
    async fn hand_in(&self, streams: &PolicyStreams) -> Result<bool, Box<Diagnostic>> {
        let text = streams.text();
        let target = compiled(&text)?;
        let is_shut = self.take_back(streams, |served, name| target.gives_all_of(served, name));
        let is_shut = is_shut.await?;
        // Wider than what was served, or still to be built.
        if self.configure(&text).await.is_err() {
            // A definition that is served is not made to read what is not there; one that comes is withheld by
            // itself, and the others are as they should be.
            let is_same = |served: &SyncConfig, name: &str| {
                target.gives_all_of(served, name) && served.gives_all_of(&target, name)
            };
            self.take_back(streams, is_same).await?;
            self.configure(&text).await?;
        }
        Ok(is_shut)
    }

    /// Lets the engine serve no definition but those that stay.
    ///
    /// - Returns: whether it is so.
    async fn take_back(
        &self,
        streams: &PolicyStreams,
        stays: impl Fn(&SyncConfig, &str) -> bool,
    ) -> Result<bool, Box<Diagnostic>> {
        let published = self.engine.published();
        let Some(served) = &published.sync else { return Ok(true) };
        let (version, served) = (served.version, served.config.clone());
        if served.definitions().iter().all(|definition| stays(&served, &definition.name)) {
            return Ok(true);
        }
        let is_served = |name: &str| served.definitions().iter().any(|of| of.name == name);
        let less = streams.narrowed(|table| is_served(&table.name) && stays(&served, &table.name));
        tracing::info!("policies changed: what they no longer show is taken back");
        self.configure(&less.text()).await?;
        let mut watch = self.engine.watch();
        let switched = watch.wait_for(|published| {
            published.sync.as_ref().is_none_or(|sync| sync.version > version)
        });
        Ok(matches!(timeout(SHUT_WITHIN, switched).await, Ok(Ok(_))))
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
