//! Keys behind an address: fetched in the background, kept for an hour, asked for anew at a
//! bounded rate.
//!
//! In flow an address and the times at which somebody needs a key; out flows the newest usable
//! [`KeySet`]. Invariant: at most one request to an address at a time, and a caller never waits
//! longer than [`JwksOptions::max_wait`]. Source: `protocols/powersync-protocol.md` 10.3.

use std::sync::Arc;
use std::time::Duration;

use arc_swap::ArcSwap;
use hw_types::Diagnostic;
use parking_lot::Mutex;
use reqwest::Url;
use tokio::sync::watch;

use crate::addresses::{AddressRange, Guard, is_public, literal};
use crate::clock::Clock;
use crate::error::{BAD_JWKS_URL, UNENCRYPTED_JWKS};
use crate::jwk::{self, KeySet, Origin};

/// How keys behind an address are kept and fetched. The defaults are PowerSync's.
#[derive(Clone, Debug)]
pub struct JwksOptions {
    /// Older keys still serve while new ones are fetched in the background. Default 5 min.
    pub refresh_after: Duration,
    /// Older keys no longer serve. Default 60 min.
    pub expire_after: Duration,
    /// How long one request waits for a fetch that it needs. Default 3 s.
    pub max_wait: Duration,
    /// How long one fetch may take, connection to last byte. Default 30 s.
    pub timeout: Duration,
    /// The largest answer that is read, in bytes. Default 1 MiB.
    pub max_bytes: usize,
    /// Addresses that are not asked, whatever name or redirect leads there. Default none.
    pub reject: Vec<AddressRange>,
}

impl Default for JwksOptions {
    fn default() -> JwksOptions {
        JwksOptions {
            refresh_after: Duration::from_secs(5 * 60),
            expire_after: Duration::from_secs(60 * 60),
            max_wait: Duration::from_secs(3),
            timeout: Duration::from_secs(30),
            max_bytes: 1024 * 1024,
            reject: Vec::new(),
        }
    }
}

/// Waits for fetches to end, at most `max_wait` for all of them together.
pub(crate) async fn wait_for_all(running: Vec<watch::Receiver<()>>, max_wait: Duration) {
    let all = async {
        for mut fetch in running {
            // The channel never carries a value: `changed` fails when the fetch is over.
            let _ = fetch.changed().await;
        }
    };
    let _ = tokio::time::timeout(max_wait, all).await;
}

/// The keys behind one address.
pub(crate) struct RemoteKeys {
    url: Url,
    way: Way,
    options: JwksOptions,
    clock: Clock,
    fetched: ArcSwap<Fetched>,
    refresh: Mutex<Refresh>,
}

#[derive(Default)]
struct Fetched {
    set: Arc<KeySet>,
    /// When the last successful fetch ended; `None` before the first.
    at: Option<Duration>,
}

struct Refresh {
    /// Closes when the running fetch ends.
    running: Option<watch::Receiver<()>>,
    bucket: LeakyBucket,
    last_error: Option<String>,
}

impl RemoteKeys {
    /// Prepares the address; nothing is fetched yet. Errors: HW4005.
    pub(crate) fn new(
        url: &str,
        options: JwksOptions,
        clock: Clock,
    ) -> Result<RemoteKeys, Diagnostic> {
        let bad = |what: &str| {
            Diagnostic::error(BAD_JWKS_URL, format!("the JWKS address {what}"))
                .mend("write it as https://auth.example.com/.well-known/jwks.json")
        };
        let url = Url::parse(url).map_err(|_| bad("is not a URL (PSYNC_S3102)"))?;
        if !matches!(url.scheme(), "http" | "https") {
            return Err(bad("is neither http nor https (PSYNC_S3103)"));
        }
        let way = Way::new(&url, &options)
            .map_err(|error| bad(&format!("cannot be used: {}", error.without_url())))?;
        Ok(RemoteKeys {
            url,
            way,
            options,
            clock,
            fetched: ArcSwap::default(),
            refresh: Mutex::new(Refresh {
                running: None,
                bucket: LeakyBucket::default(),
                last_error: None,
            }),
        })
    }

    /// The keys that may be used now; `None` when there never were any, or they are too old.
    pub(crate) fn usable(&self) -> Option<Arc<KeySet>> {
        let fetched = self.fetched.load();
        let age = self.clock.now().saturating_sub(fetched.at?);
        (age < self.options.expire_after).then(|| fetched.set.clone())
    }

    /// Whether keys should be fetched in the background.
    pub(crate) fn is_stale(&self) -> bool {
        let at = self.fetched.load().at;
        at.is_none_or(|at| self.clock.now().saturating_sub(at) > self.options.refresh_after)
    }

    /// Why the last fetch failed, for the log; `None` when it did not.
    pub(crate) fn last_error(&self) -> Option<String> {
        self.refresh.lock().last_error.clone()
    }

    /// Joins the running fetch or starts one; `None` when the rate limit forbids it now.
    pub(crate) fn start_refresh(self: &Arc<Self>) -> Option<watch::Receiver<()>> {
        let mut refresh = self.refresh.lock();
        if let Some(running) = refresh.running.as_ref() {
            return Some(running.clone());
        }
        if !refresh.bucket.take(self.clock.now()) {
            return None;
        }
        let (done, running) = watch::channel(());
        refresh.running = Some(running.clone());
        let this = self.clone();
        // A fetch that dies would count as running for ever.
        hw_process::spawn("what fetches a JWKS", async move {
            let outcome = this.fetch().await;
            this.settle(outcome);
            drop(done);
        });
        Some(running)
    }

    fn settle(&self, outcome: Result<KeySet, String>) {
        let error = match outcome {
            Ok(set) => {
                for reason in &set.left_out {
                    tracing::debug!(address = %self.shown(), %reason, "key of a JWKS left out");
                }
                self.fetched
                    .store(Arc::new(Fetched { set: Arc::new(set), at: Some(self.clock.now()) }));
                None
            }
            Err(error) => {
                tracing::warn!(
                    code = "PSYNC_S2204",
                    address = %self.shown(),
                    %error,
                    "could not fetch the JWKS; keys fetched before serve until they are 60 min old"
                );
                Some(error)
            }
        };
        let mut refresh = self.refresh.lock();
        refresh.last_error = error;
        refresh.running = None;
    }

    async fn fetch(&self) -> Result<KeySet, String> {
        let mut response = self.way.ask(&self.url).await?;
        if !response.status().is_success() {
            return Err(format!("the server answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(describe)? {
            if body.len() + chunk.len() > self.options.max_bytes {
                return Err(format!("the answer is over {} bytes", self.options.max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        jwk::read(&body, Origin::Remote)
    }

    /// Whether anybody on the way could put keys of his own in the answer.
    pub(crate) fn warning(&self) -> Option<Diagnostic> {
        let exposed = self.url.scheme() == "http" && !is_loopback(&self.url);
        exposed.then(|| {
            Diagnostic::warning(
                UNENCRYPTED_JWKS,
                "keys that decide who is let in are fetched without encryption: whoever stands on \
                 the way can put keys of his own there",
            )
            .at(format!("auth.jwks_url {}", self.shown()))
            .mend("write the address with https")
        })
    }

    /// The address without what may be secret in it.
    fn shown(&self) -> String {
        let host = self.url.host_str().unwrap_or("");
        format!("{}://{host}{}", self.url.scheme(), self.url.path())
    }
}

/// An error and its causes in one line, without the address: it may carry a password or a key.
fn describe(error: reqwest::Error) -> String {
    let error = error.without_url();
    let mut text = error.to_string();
    let mut cause = std::error::Error::source(&error);
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

/// Most redirects that are followed.
const MOST_REDIRECTS: usize = 3;

/// How an address is asked: over redirects, but never from the internet into the local network,
/// where an answer that somebody else wrote could make us ask what only we can reach.
struct Way {
    first: (Guard, reqwest::Client),
    /// For what an answer from the public internet points to.
    onward: (Guard, reqwest::Client),
}

impl Way {
    fn new(url: &Url, options: &JwksOptions) -> Result<Way, reqwest::Error> {
        // reqwest takes the process's crypto provider; a second call finds it installed, which is
        // fine.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let guard = Guard::new(options.reject.clone());
        // A proxy cannot reach our own loopback interface, and it resolves names where we cannot
        // check them.
        let direct = is_loopback(url) || !guard.is_open();
        let client = |guard: &Guard| {
            let builder = reqwest::Client::builder()
                .user_agent("headwater")
                .timeout(options.timeout)
                .redirect(reqwest::redirect::Policy::none())
                .dns_resolver(guard.clone());
            if direct { builder.no_proxy().build() } else { builder.build() }
        };
        let public = guard.public_only();
        Ok(Way {
            first: (guard.clone(), client(&guard)?),
            onward: (public.clone(), client(&public)?),
        })
    }

    /// The answer at the end of the redirects.
    async fn ask(&self, url: &Url) -> Result<reqwest::Response, String> {
        let mut url = url.clone();
        let mut step = &self.first;
        for _ in 0..=MOST_REDIRECTS {
            let (guard, client) = step;
            guard.check(&url)?;
            let request = client.get(url.clone()).header("accept", "application/json");
            let response = request.send().await.map_err(describe)?;
            if !response.status().is_redirection() {
                return Ok(response);
            }
            if response.remote_addr().is_some_and(|address| is_public(address.ip())) {
                step = &self.onward;
            }
            let location = response.headers().get("location").and_then(|to| to.to_str().ok());
            let next = location.and_then(|to| url.join(to).ok());
            let next = next.ok_or_else(|| "it redirects to nowhere".to_owned())?;
            match (url.scheme(), next.scheme()) {
                (_, "https") | ("http", "http") => url = next,
                _ => return Err("it redirects from https to something else".to_owned()),
            }
        }
        Err(format!("it redirects more than {MOST_REDIRECTS} times"))
    }
}

fn is_loopback(url: &Url) -> bool {
    let host = url.host_str().unwrap_or("");
    host == "localhost" || literal(host).is_some_and(|address| address.is_loopback())
}

/// Ten fetches at growing gaps, then one a minute, so that tokens with made-up key ids cannot
/// make us flood the issuer.
#[derive(Default)]
struct LeakyBucket {
    /// Fetches in the bucket, at the time of the last one.
    level: f64,
    last: Option<Duration>,
}

impl LeakyBucket {
    const CAPACITY: f64 = 10.0;
    const DRIP: Duration = Duration::from_secs(60);

    fn take(&mut self, now: Duration) -> bool {
        if let Some(last) = self.last {
            let waited = now.saturating_sub(last).as_secs_f64();
            let drip = Self::DRIP.as_secs_f64();
            // The gap grows with the square of what is in the bucket: 0.6 s, 2.4 s, … 60 s.
            let gap = drip * (self.level / Self::CAPACITY).powi(2);
            if waited < gap {
                return false;
            }
            self.level = (self.level - waited / drip).max(0.0);
        }
        self.level = (self.level + 1.0).min(Self::CAPACITY);
        self.last = Some(now);
        true
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn fetches_come_ten_in_a_burst_with_growing_gaps_then_one_a_minute() {
        let mut bucket = LeakyBucket::default();
        let granted: Vec<u64> = (0..36_000)
            .filter(|tenth| bucket.take(Duration::from_millis(tenth * 100)))
            .map(|tenth| tenth / 10)
            .collect();
        let gaps: Vec<u64> = granted.windows(2).map(|pair| pair[1] - pair[0]).collect();
        assert!(gaps.windows(2).all(|pair| pair[0] <= pair[1] + 1), "gaps grow: {gaps:?}");
        assert!(granted.iter().filter(|second| **second < 300).count() >= 10, "{granted:?}");
        assert!(granted.len() <= 75, "about one a minute in the end: {}", granted.len());
        assert!((55..=60).contains(gaps.last().unwrap()), "{gaps:?}");
    }

    #[test]
    fn an_address_that_is_not_http_is_refused_without_being_repeated() {
        for (url, code) in
            [("file:///etc/passwd", "S3103"), ("nonsense hush", "S3102"), ("ftp://hush/", "S3103")]
        {
            let error =
                RemoteKeys::new(url, JwksOptions::default(), Clock::system()).err().unwrap();
            assert_eq!(error.code.0, BAD_JWKS_URL);
            assert!(error.what.contains(code) && !error.what.contains("hush"), "{error}");
        }
    }
}
