//! Messages that the application answers itself.
//!
//! In: a message whose tag has a hook, and who sent it. Out: the application's answer, a JSON object with a tag.
//! It is asked by a signed POST: `X-Headwater-Signature: t=<seconds>,v1=<hex>`, of HMAC-SHA256 over the seconds,
//! a dot and the body. Invariants: it has three seconds and 64 KiB; redirects are not followed.
//!
//! Source: `datasync.md` 15, "OURS".

use std::collections::BTreeMap;
use std::fmt::Write as _;
use std::time::Duration;

use aws_lc_rs::hmac;
use hw_auth::Clock;
use reqwest::Client;
use serde::Serialize;
use serde_json::value::RawValue;

use crate::caller::Caller;
use crate::code;
use crate::failure::Failure;

/// How long the application may take.
const WITHIN: Duration = Duration::from_secs(3);
/// Bytes of its answer at most.
const MOST: usize = 64 * 1024;

/// What the application is asked with: the message as it was written, whatever JSON that is.
#[derive(Serialize)]
#[serde(rename_all = "camelCase")]
struct Asked<'m> {
    message: &'m RawValue,
    user_id: Option<&'m str>,
}

/// Where which messages go.
#[derive(Clone)]
pub struct Hooks {
    addresses: BTreeMap<String, String>,
    key: hmac::Key,
    client: Client,
}

impl Hooks {
    /// - Takes: the addresses by tag, and what requests are signed with.
    /// - Errors: an address is none of http or https.
    pub fn new(addresses: BTreeMap<String, String>, secret: &[u8]) -> Result<Hooks, String> {
        for (tag, address) in &addresses {
            let url = reqwest::Url::parse(address).ok();
            if !url.is_some_and(|url| matches!(url.scheme(), "http" | "https")) {
                return Err(format!("the address of the hook {tag} is no http or https URL"));
            }
        }
        // A second call finds it installed, which is the same to us.
        let _ = rustls::crypto::aws_lc_rs::default_provider().install_default();
        let client = Client::builder()
            .timeout(WITHIN)
            .redirect(reqwest::redirect::Policy::none())
            .build()
            .map_err(|error| error.to_string())?;
        Ok(Hooks { addresses, key: hmac::Key::new(hmac::HMAC_SHA256, secret), client })
    }

    /// Asks the application.
    ///
    /// - Errors: it did not answer in time, or with nothing that can be passed on.
    pub async fn ask(
        &self,
        tag: &str,
        message: &str,
        caller: &Caller,
        clock: &Clock,
    ) -> Result<Box<RawValue>, Failure> {
        let Some(address) = self.addresses.get(tag) else { return Err(unknown(tag)) };
        let failed = |what: &str| {
            tracing::warn!(tag, "a hook {what}");
            Failure::new(code::HOOK, "The application did not answer; come again")
        };
        let message: &RawValue =
            serde_json::from_str(message).map_err(|_| failed("has no message"))?;
        let user_id = (!caller.is_anonymous()).then_some(&*caller.author.subject);
        let body = serde_json::to_string(&Asked { message, user_id })
            .expect("JSON and texts can be written");
        let seconds = clock.now().as_secs();
        let sent = self.client.post(address).header("content-type", "application/json");
        let sent = sent.header("x-headwater-signature", self.signature(seconds, &body)).body(body);
        let answer =
            sent.send().await.map_err(|_| failed("cannot be reached, or takes too long"))?;
        if !answer.status().is_success() {
            return Err(failed("answers with another status than 200"));
        }
        let mut bytes = Vec::new();
        let mut answer = answer;
        while let Some(chunk) =
            answer.chunk().await.map_err(|_| failed("takes too long, or breaks off"))?
        {
            bytes.extend_from_slice(&chunk);
            if bytes.len() > MOST {
                return Err(failed("answers with too much"));
            }
        }
        serde_json::from_slice(&bytes).map_err(|_| failed("answers with something else than JSON"))
    }

    fn signature(&self, seconds: u64, body: &str) -> String {
        let tag = hmac::sign(&self.key, format!("{seconds}.{body}").as_bytes());
        let mut signature = format!("t={seconds},v1=");
        for byte in tag.as_ref() {
            let _ = write!(signature, "{byte:02x}");
        }
        signature
    }
}

/// Nobody answers messages of this tag.
pub(crate) fn unknown(tag: &str) -> Failure {
    Failure::new(code::MESSAGE, format!("the tag {} is not known", crate::failure::shown(tag)))
}
