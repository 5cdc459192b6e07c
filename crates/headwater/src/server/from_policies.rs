//! `sync.from: policies`: what is served follows the row level security of the source.
//!
//! In: the catalog, looked at behind every state that is to be shown, each second, and when the engine says that
//! something was altered. Out: sync configurations for the engine, one for each state of the policies; and the states
//! that are shown ([`Guard`]).
//!
//! Invariants: a state is shown when the policies were the same at its position and behind it, so that nobody is shown
//! what was there only while they showed less, also where they are again what they were; a definition whose policies
//! changed is taken from clients before anything new is built, unless its new form gives all that it gave; what is
//! taken waits for nothing that is to be built, copied or cannot be ([`Engine::limit`]); nothing that an earlier run of
//! the server was told is served before the policies of now have been read; while they cannot be read, nothing new is
//! shown.

use std::collections::BTreeMap;
use std::future::Future;
use std::pin::Pin;
use std::sync::Arc;
use std::time::Duration;

use hw_engine::{ActiveSync, Engine, Guard};
use hw_expr::sync_config::SyncConfig;
use hw_pg::config::ConnectConfig;
use hw_pg::error::PgError;
use hw_pg::policies::{Basis, PolicyStreams};
use hw_pg::rights::Rights;
use hw_pg::sql;
use hw_types::{Diagnostic, EndLsn};
use parking_lot::Mutex;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio::time::{Instant, Interval, MissedTickBehavior, interval, sleep_until, timeout};
use tokio_postgres::Client;
use tokio_util::sync::CancellationToken;

use crate::code;
use crate::config::Config;
use crate::policies::Reader;

/// The name that messages give to the configuration.
pub const FILE: &str = "policies";

/// Between two looks at the catalog, where nothing else is a reason for one.
const LOOK: Duration = Duration::from_secs(1);

/// How long a server that starts waits at most until what policies show is served. Clients that come before get
/// what there is, and come again.
const START: Duration = Duration::from_secs(5);

/// The newest configuration that was given, for who maps uploads.
type Given = watch::Sender<Option<Arc<SyncConfig>>>;

/// Streams on their way to the engine.
type HandingIn = Pin<Box<dyn Future<Output = Result<Handed, Box<Diagnostic>>> + Send>>;

/// Follows the policies.
pub struct Follower {
    config: Config,
    connect: ConnectConfig,
    engine: Engine,
    guard: Guard,
    altered: watch::Receiver<u64>,
    ticks: Interval,
    /// Until then no state is a reason for another look: under load the source is busy with them half of the time.
    rested: Instant,
    session: Option<(Client, sql::Driver)>,
    /// What is served is within these. `None`: they have not been read.
    known: Option<Known>,
    giver: Arc<Giver>,
    /// Hands in all that they show.
    handing_in: Option<HandingIn>,
    /// Why not all that policies show is served; it is tried again each second.
    lacking: Option<Box<Diagnostic>>,
    /// The streams of which nothing more is served.
    limited_to: Option<String>,
    /// Whether a state was shown from whose position on policies have been so all the time.
    is_shown: bool,
    /// Has the log go on behind the last change of policies.
    passing: Option<JoinHandle<()>>,
    /// What was said last of what is not synced, and of what failed.
    told: (Vec<String>, Option<String>),
}

/// Policies as they were read.
struct Known {
    /// The state of the catalog that was looked at last.
    rights: Rights,
    /// What streams were made of; `None` where nobody can be of the role.
    basis: Option<Basis>,
    /// From this position on they have been so all the time.
    since: EndLsn,
}

impl Follower {
    /// Reads the policies and lets the engine serve no more than they show. A source that does not answer is waited
    /// for: until it does, nobody knows what is still shown. A store that takes nothing over is not: what it holds is
    /// served within what they show.
    ///
    /// - Returns: who follows them from now on. No state is shown without him.
    /// - Errors: they cannot be understood, or the engine does not take them.
    pub async fn start(
        config: &Config,
        connect: &ConnectConfig,
        engine: Engine,
        given: Given,
    ) -> Result<Follower, Box<Diagnostic>> {
        let mut ticks = interval(LOOK);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut follower = Follower {
            config: config.clone(),
            connect: connect.with_application_name("headwater policies"),
            guard: engine.guard(),
            altered: engine.rights(),
            ticks,
            rested: Instant::now(),
            session: None,
            known: None,
            giver: Arc::new(Giver { engine: engine.clone(), given, state: Mutex::default() }),
            engine,
            handing_in: None,
            lacking: None,
            limited_to: None,
            is_shown: false,
            passing: None,
            told: (Vec::new(), None),
        };
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
        self.renew_session().await?;
        let (rights, streams, basis) = self.read().await?;
        self.know(rights, &streams, Some(basis), None)?;
        let settles = async {
            while !self.is_settled() {
                self.turn().await?;
            }
            Ok(())
        };
        timeout(START, settles).await.unwrap_or(Ok(()))
    }

    /// Whether what policies show is served, of a state of their time; or, where nothing was served before, is going
    /// to be.
    fn is_settled(&self) -> bool {
        let is_served = |sync: &ActiveSync| {
            self.is_shown && (self.lacking.is_some() || self.giver.is_newest(&sync.text))
        };
        self.handing_in.is_none() && self.giver.served().is_none_or(|sync| is_served(&sync))
    }

    /// Follows the policies until the stop.
    pub async fn run(mut self, stop: CancellationToken) {
        loop {
            hw_process::failpoint::reached("policies::look");
            let turned = tokio::select! {
                turned = self.turn() => turned,
                () = stop.cancelled() => return,
            };
            let failed = turned.err().or_else(|| self.lacking.clone());
            self.tell(failed.map(|finding| finding.what), "what is shown stays as it was");
        }
    }

    /// Waits until there is something to do, and does it.
    async fn turn(&mut self) -> Result<(), Box<Diagnostic>> {
        let is_again = tokio::select! {
            _ = self.ticks.tick() => self.lacking.is_some() && self.handing_in.is_none(),
            Ok(()) = self.altered.changed() => false,
            () = waits(&mut self.guard, self.rested) => false,
            handed = handed(&mut self.handing_in) => {
                self.handing_in = None;
                let less = match handed {
                    Ok(Handed::All) => None,
                    Ok(Handed::Less(finding)) => Some(finding),
                    Err(finding) => {
                        self.lacking = Some(finding.clone());
                        return Err(finding);
                    }
                };
                self.lacking = less;
                return Ok(());
            }
        };
        let began = Instant::now();
        let looked = self.look(is_again).await;
        self.rested = Instant::now() + began.elapsed();
        if looked.is_err() {
            self.session = None;
        }
        looked
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

    /// Looks at the catalog, and shows the newest state that waits if policies were what they are all the time
    /// from its position on.
    async fn look(&mut self, is_again: bool) -> Result<(), Box<Diagnostic>> {
        // Before anything is read: what comes meanwhile is not looked behind.
        let waits = self.guard.look_at();
        let is_new = self.session.as_ref().is_none_or(|(client, _)| client.is_closed());
        if is_new {
            self.renew_session().await?;
        }
        let Some((client, _)) = &self.session else { return Ok(()) };
        let before = self.known.as_ref().map(|known| known.rights.clone()).unwrap_or_default();
        let now = before.again(client).await.map_err(failed_look)?;
        if is_again || now.may_have_changed_since(&before) {
            // A session has the settings (the search path) that its login had when it began.
            if !is_new {
                self.renew_session().await?;
            }
            match self.read().await {
                Ok((rights, streams, basis)) => self.know(rights, &streams, Some(basis), None)?,
                // Nobody can be of a role that is gone.
                Err(finding) if finding.code.0 == code::NO_READER => {
                    self.know(now, &PolicyStreams::default(), None, Some(finding))?;
                }
                Err(finding) => return Err(finding),
            }
        }
        match (waits, &self.known) {
            (Some(position), Some(known)) if position >= known.since => {
                self.guard.show();
                self.is_shown = true;
            }
            _ if self.is_shown => {}
            _ => self.pass(),
        }
        Ok(())
    }

    /// Has the log go on, behind all of which it is not known what policies showed.
    fn pass(&mut self) {
        if self.passing.as_ref().is_none_or(JoinHandle::is_finished) {
            let engine = self.engine.clone();
            self.passing = Some(tokio::spawn(async move { drop(engine.arrival().await) }));
        }
    }

    async fn renew_session(&mut self) -> Result<(), Box<Diagnostic>> {
        self.session = Some(sql::connect(&self.connect).await.map_err(failed_look)?);
        Ok(())
    }

    /// The policies, and the state of the catalog that they are of.
    async fn read(&mut self) -> Result<(Rights, PolicyStreams, Basis), Box<Diagnostic>> {
        let (client, _) = self.session.as_mut().expect("a session was made");
        let reader = Reader::read(client, &self.config, None).await?;
        let rights = reader.security.rights().clone();
        let (streams, basis) = reader.streams_read();
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
        Ok((rights, streams, basis))
    }

    /// Policies were read: no more than they show is served from here on, and all of it is handed in.
    ///
    /// - Takes: why they show nothing, where that is not what they say.
    fn know(
        &mut self,
        rights: Rights,
        streams: &PolicyStreams,
        basis: Option<Basis>,
        missing: Option<Box<Diagnostic>>,
    ) -> Result<(), Box<Diagnostic>> {
        let both = |known: &Known| {
            let (before, now) = (known.basis.as_ref()?, basis.as_ref()?);
            now.stood_since(before).then_some(known.since)
        };
        let stood = self.known.as_ref().and_then(both);
        let since = stood.unwrap_or_else(|| rights.at());
        if stood.is_none() {
            self.is_shown = false;
        }
        if stood.is_none() || self.lacking.is_some() {
            let text = streams.text();
            let (text, target, failed) = match compiled(&text) {
                Ok(target) => (text, target, missing),
                // What policies show now cannot be said: nothing is.
                Err(finding) => {
                    let nothing = joined(&BTreeMap::new());
                    let target = compiled(&nothing)?;
                    (nothing, target, Some(finding))
                }
            };
            let target = Arc::new(target);
            // At once, also of what is being built or held up, and of what the engine comes to serve before it takes
            // what follows.
            if self.limited_to.as_ref() != Some(&text) {
                self.engine.limit(target.clone());
                self.limited_to = Some(text.clone());
            }
            // A store that cannot be written takes nothing over, for hours perhaps: nobody waits for it, and what
            // is newer takes its place.
            let giver = self.giver.clone();
            self.handing_in =
                Some(Box::pin(async move { giver.hand_in(text, target, failed).await }));
        }
        self.known = Some(Known { rights, basis, since });
        Ok(())
    }
}

/// Returns when a state waits, from a moment on.
async fn waits(guard: &mut Guard, from: Instant) {
    sleep_until(from).await;
    guard.waits().await;
}

/// What became of what is handed in; never, where nothing is.
async fn handed(handing_in: &mut Option<HandingIn>) -> Result<Handed, Box<Diagnostic>> {
    match handing_in {
        Some(handing_in) => handing_in.await,
        None => std::future::pending().await,
    }
}

/// Hands streams to the engine.
struct Giver {
    engine: Engine,
    given: Given,
    state: Mutex<Gave>,
}

/// What the engine was given.
#[derive(Default)]
struct Gave {
    /// The newest text that it took.
    newest: Option<String>,
    /// The streams for which something was taken back last.
    taken_for: Option<String>,
}

impl Giver {
    /// Hands the streams in: what is served and would change goes first.
    ///
    /// - Takes: what is limited to already; why it is not what the text says, or not all that there should be.
    async fn hand_in(
        &self,
        text: String,
        target: Arc<SyncConfig>,
        failed: Option<Box<Diagnostic>>,
    ) -> Result<Handed, Box<Diagnostic>> {
        let gives = |sync: &ActiveSync, name: &str| target.gives_all_of(&sync.config, name);
        let is_narrow =
            |sync: &ActiveSync| sync.config.definitions().iter().all(|of| gives(sync, &of.name));
        if self.served().is_some_and(|sync| is_narrow(&sync)) {
            self.state.lock().taken_for = None;
        }
        // While nothing new is shown what is published stays as it was, and taking it back again is no news.
        let is_told = self.state.lock().taken_for.as_ref() == Some(&text);
        if let Some(sync) = self.served().filter(|sync| !is_told && !is_narrow(sync)) {
            tracing::info!("policies changed: what they no longer show is taken back");
            // As it is served, so that there is nothing to build, and nothing that could not be: what is new of
            // these names holds up nothing else.
            self.configure(&part_of(&sync, |name| gives(&sync, name))).await?;
            self.state.lock().taken_for = Some(text.clone());
        }
        // Wider than what was served, or still to be built.
        let Err(finding) = self.configure(&text).await else {
            return Ok(failed.map_or(Handed::All, Handed::Less));
        };
        // What would be wider and cannot be served stays as it is, and holds up nothing else.
        let mut wanted = blocks(&text, &target);
        if let Some(sync) = self.served() {
            let before = blocks(&sync.text, &sync.config);
            let wider = |name: &str| gives(&sync, name) && !sync.config.gives_all_of(&target, name);
            wanted.extend(before.into_iter().filter(|(name, _)| wider(name)));
        }
        self.configure(&joined(&wanted)).await?;
        Ok(Handed::Less(finding))
    }

    fn served(&self) -> Option<Arc<ActiveSync>> {
        self.engine.published().sync.clone()
    }

    /// Whether a text is what the engine took last.
    fn is_newest(&self, text: &str) -> bool {
        self.state.lock().newest.as_deref() == Some(text)
    }

    async fn configure(&self, text: &str) -> Result<(), Box<Diagnostic>> {
        let config = compiled(text)?;
        match self.engine.configure(FILE, text).await {
            Ok(_) => {
                self.state.lock().newest = Some(text.to_owned());
                self.given.send_replace(Some(Arc::new(config)));
                Ok(())
            }
            Err(findings) => Err(first(findings)),
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
    /// Not all that policies show, for this reason. What would show more of tables that are served and cannot be
    /// served leaves these as they are.
    Less(Box<Diagnostic>),
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
