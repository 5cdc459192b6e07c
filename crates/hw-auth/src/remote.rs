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

use crate::clock::Clock;
use crate::error::BAD_JWKS_URL;
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
}

impl Default for JwksOptions {
    fn default() -> JwksOptions {
        JwksOptions {
            refresh_after: Duration::from_secs(5 * 60),
            expire_after: Duration::from_secs(60 * 60),
            max_wait: Duration::from_secs(3),
            timeout: Duration::from_secs(30),
            max_bytes: 1024 * 1024,
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
    client: reqwest::Client,
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
        let client = http_client(&url, options.timeout)
            .map_err(|error| bad(&format!("cannot be used: {error}")))?;
        Ok(RemoteKeys {
            url,
            client,
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
        tokio::spawn(async move {
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
        // reqwest's errors print the address, which may carry a password or a key.
        let text = |error: reqwest::Error| describe(&error.without_url());
        let request = self.client.get(self.url.clone()).header("accept", "application/json");
        let mut response = request.send().await.map_err(text)?;
        if !response.status().is_success() {
            return Err(format!("the server answered {}", response.status()));
        }
        let mut body = Vec::new();
        while let Some(chunk) = response.chunk().await.map_err(text)? {
            if body.len() + chunk.len() > self.options.max_bytes {
                return Err(format!("the answer is over {} bytes", self.options.max_bytes));
            }
            body.extend_from_slice(&chunk);
        }
        jwk::read(&body, Origin::Remote)
    }

    /// The address without what may be secret in it.
    fn shown(&self) -> String {
        let host = self.url.host_str().unwrap_or("");
        format!("{}://{host}{}", self.url.scheme(), self.url.path())
    }
}

/// An error and its causes in one line.
fn describe(error: &dyn std::error::Error) -> String {
    let mut text = error.to_string();
    let mut cause = error.source();
    while let Some(inner) = cause {
        text = format!("{text}: {inner}");
        cause = inner.source();
    }
    text
}

fn http_client(url: &Url, timeout: Duration) -> Result<reqwest::Client, reqwest::Error> {
    // reqwest takes the process's crypto provider; a second call finds it installed, which is fine.
    let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
    let redirects = reqwest::redirect::Policy::custom(|attempt| {
        let downgraded = attempt.previous().iter().any(|url| url.scheme() == "https")
            && attempt.url().scheme() != "https";
        if attempt.previous().len() > 3 || downgraded {
            attempt.error("too many redirects, or one from https to http")
        } else {
            attempt.follow()
        }
    });
    let builder =
        reqwest::Client::builder().user_agent("headwater").timeout(timeout).redirect(redirects);
    // A proxy cannot reach our own loopback interface.
    let loopback = match url.host_str() {
        Some("localhost" | "[::1]") => true,
        Some(host) => host.parse::<std::net::Ipv4Addr>().is_ok_and(|address| address.is_loopback()),
        None => false,
    };
    if loopback { builder.no_proxy().build() } else { builder.build() }
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
