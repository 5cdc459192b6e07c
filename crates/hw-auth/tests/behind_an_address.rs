//! Keys behind an address: rotation, failure, a server that dawdles. Time is set by the test.

use std::sync::Arc;
use std::sync::atomic::{AtomicU64, Ordering};
use std::time::Duration;

use hw_auth::{AuthConfig, Authenticator, Clock, JwksOptions};
use serde_json::{Value, json};

use crate::issuer::{NOW, Signer, es, hs, jwks, rs};
use crate::jwks_server::{Answer, JwksServer};

struct Rig {
    server: JwksServer,
    authenticator: Authenticator,
    seconds: Arc<AtomicU64>,
}

impl Rig {
    async fn start(answer: Answer) -> Rig {
        Rig::start_with(answer, JwksOptions::default()).await
    }

    async fn start_with(answer: Answer, jwks: JwksOptions) -> Rig {
        let server = JwksServer::start(answer).await;
        let seconds = Arc::new(AtomicU64::new(NOW));
        let read = seconds.clone();
        let authenticator = Authenticator::new(AuthConfig {
            jwks_urls: vec![server.url.clone()],
            audience: vec!["app".into()],
            clock: Clock::new(move || Duration::from_secs(read.load(Ordering::SeqCst))),
            jwks,
            ..AuthConfig::default()
        })
        .unwrap();
        Rig { server, authenticator, seconds }
    }

    fn pass(&self, seconds: u64) {
        self.seconds.fetch_add(seconds, Ordering::SeqCst);
    }

    async fn verdict(&self, token: &str) -> String {
        match self.authenticator.verify_token(token).await {
            Ok(who) => format!("ok: {}", who.subject),
            Err(error) => error.code().to_owned(),
        }
    }

    /// A good token of now.
    fn token(&self, signer: &Signer, kid: &str) -> String {
        let now = self.seconds.load(Ordering::SeqCst);
        let claims = json!({"sub": "u", "iat": now, "exp": now + 300, "aud": "app"});
        signer.token(Some(kid), &claims)
    }

    async fn check(&self, signer: &Signer, kid: &str) -> String {
        self.verdict(&self.token(signer, kid)).await
    }
}

fn set(keys: &[(&Signer, &str)]) -> Answer {
    let keys: Vec<Value> = keys
        .iter()
        .map(|(signer, kid)| signer.jwk_with(json!({"kid": kid, "use": "sig"})))
        .collect();
    Answer::Body(jwks(&keys))
}

#[tokio::test]
async fn keys_are_fetched_once_and_serve_from_memory() {
    let key = es("ES256");
    let rig = Rig::start(set(&[(&key, "k1")])).await;
    for _ in 0..20 {
        assert_eq!(rig.check(&key, "k1").await, "ok: u");
    }
    assert_eq!(rig.server.requests(), 1);
}

#[tokio::test]
async fn many_callers_at_once_share_one_fetch() {
    let key = rs("RS256");
    let rig = Arc::new(Rig::start(set(&[(&key, "k1")])).await);
    let token = rig.token(&key, "k1");
    let mut callers = tokio::task::JoinSet::new();
    for _ in 0..50 {
        let (rig, token) = (rig.clone(), token.clone());
        callers.spawn(async move { rig.verdict(&token).await });
    }
    assert!(callers.join_all().await.iter().all(|verdict| verdict == "ok: u"));
    assert_eq!(rig.server.requests(), 1);
}

#[tokio::test]
async fn a_rotated_key_is_found_at_its_first_token_and_the_old_one_is_gone() {
    let (old, new) = (es("ES256"), es("ES384"));
    let rig = Rig::start(set(&[(&old, "k1")])).await;
    assert_eq!(rig.check(&old, "k1").await, "ok: u");
    rig.server.say(set(&[(&new, "k2")]));
    rig.pass(30);
    assert_eq!(rig.check(&new, "k2").await, "ok: u");
    assert_eq!(rig.server.requests(), 2);
    assert_eq!(rig.check(&old, "k1").await, "PSYNC_S2101");
}

#[tokio::test]
async fn made_up_key_ids_do_not_flood_the_issuer() {
    let (key, stranger) = (es("ES256"), es("ES256"));
    let rig = Rig::start(set(&[(&key, "k1")])).await;
    assert_eq!(rig.check(&key, "k1").await, "ok: u");
    for attempt in 0..100 {
        assert_eq!(rig.check(&stranger, &format!("made up {attempt}")).await, "PSYNC_S2101");
    }
    assert_eq!(rig.server.requests(), 1, "no time has passed since the last fetch");
    rig.pass(60);
    for attempt in 0..100 {
        assert_eq!(rig.check(&stranger, &format!("made up {attempt}")).await, "PSYNC_S2101");
    }
    assert_eq!(rig.server.requests(), 2);
}

#[tokio::test]
async fn old_keys_serve_while_the_issuer_is_down_until_they_are_an_hour_old() {
    let key = es("ES512");
    let rig = Rig::start(set(&[(&key, "k1")])).await;
    assert_eq!(rig.check(&key, "k1").await, "ok: u");
    rig.server.say(Answer::Status("500 Internal Server Error"));
    for minutes in [6, 20, 50] {
        rig.seconds.store(NOW + minutes * 60, Ordering::SeqCst);
        assert_eq!(rig.check(&key, "k1").await, "ok: u", "{minutes} minutes");
    }
    rig.seconds.store(NOW + 61 * 60, Ordering::SeqCst);
    assert_eq!(rig.check(&key, "k1").await, "PSYNC_S2204");
    rig.server.say(set(&[(&key, "k1")]));
    rig.pass(120);
    assert_eq!(rig.check(&key, "k1").await, "ok: u");
}

#[tokio::test]
async fn a_silent_server_holds_a_needed_fetch_for_the_limit_and_a_known_key_not_at_all() {
    let key = es("ES256");
    let options = JwksOptions { max_wait: Duration::from_millis(20), ..JwksOptions::default() };
    let rig = Rig::start_with(Answer::Silence, options).await;
    assert_eq!(rig.check(&key, "k1").await, "PSYNC_S2204");
    assert_eq!(rig.check(&key, "k1").await, "PSYNC_S2204");
    // Both callers joined one request, which now gets its answer.
    rig.server.say(set(&[(&key, "k1")]));
    while rig.check(&key, "k1").await != "ok: u" {}
    assert_eq!(rig.server.requests(), 1);
    // Stale keys are refreshed behind the caller's back: the verdict does not need the answer.
    rig.server.say(Answer::Silence);
    rig.pass(400);
    assert_eq!(rig.check(&key, "k1").await, "ok: u");
}

#[tokio::test]
async fn secrets_and_encryption_keys_of_a_remote_set_are_ignored() {
    let (secret, encryption) = (hs("HS256", b"everybody can read this one"), rs("RS256"));
    let rig = Rig::start(Answer::Body(jwks(&[
        secret.jwk_with(json!({"kid": "s"})),
        secret.jwk.clone(),
        encryption.jwk_with(json!({"kid": "e", "use": "enc"})),
        encryption.jwk_with(json!({"kid": "w", "key_ops": ["wrapKey"]})),
    ])))
    .await;
    assert_eq!(rig.check(&secret, "s").await, "PSYNC_S2101");
    assert_eq!(rig.server.requests(), 0, "a shared secret is never looked for behind an address");
    assert_eq!(rig.check(&encryption, "e").await, "PSYNC_S2101");
    assert_eq!(rig.check(&encryption, "w").await, "PSYNC_S2101");
}

#[tokio::test]
async fn answers_that_are_no_jwks_are_failures() {
    let key = es("ES256");
    let options = JwksOptions { max_bytes: 10_000, ..JwksOptions::default() };
    for answer in [
        Answer::Body("<html>".into()),
        Answer::Body(format!("{{\"keys\":[],\"pad\":\"{}\"}}", "x".repeat(20_000))),
        Answer::Status("404 Not Found"),
        Answer::Redirect("file:///etc/passwd".into()),
    ] {
        let rig = Rig::start_with(answer, options.clone()).await;
        assert_eq!(rig.check(&key, "k1").await, "PSYNC_S2204");
    }
}

#[tokio::test]
async fn a_redirect_to_another_http_address_is_followed() {
    let key = es("ES256");
    let real = JwksServer::start(set(&[(&key, "k1")])).await;
    let rig = Rig::start(Answer::Redirect(real.url.clone())).await;
    assert_eq!(rig.check(&key, "k1").await, "ok: u");
}

#[tokio::test]
async fn a_redirect_is_followed_three_times_and_no_further() {
    let key = es("ES256");
    let mut next = JwksServer::start(set(&[(&key, "k1")])).await;
    for _ in 0..2 {
        next = JwksServer::start(Answer::Redirect(next.url.clone())).await;
    }
    let rig = Rig::start(Answer::Redirect(next.url.clone())).await;
    assert_eq!(rig.check(&key, "k1").await, "ok: u");
    let rig = Rig::start(Answer::Redirect(rig.server.url.clone())).await;
    assert_eq!(rig.check(&key, "k1").await, "PSYNC_S2204");
}

#[tokio::test]
async fn addresses_in_rejected_ranges_are_not_asked_by_number_by_name_or_by_redirect() {
    let key = es("ES256");
    let real = JwksServer::start(set(&[(&key, "k1")])).await;
    let by_name = real.url.replace("127.0.0.1", "localhost");
    let check = async |url: &str, reject: &str| {
        let authenticator = Authenticator::new(AuthConfig {
            jwks_urls: vec![url.to_owned()],
            audience: vec!["app".into()],
            clock: Clock::new(|| Duration::from_secs(NOW)),
            jwks: JwksOptions {
                reject: reject.split(',').map(|range| range.parse().unwrap()).collect(),
                ..JwksOptions::default()
            },
            ..AuthConfig::default()
        });
        match authenticator.unwrap().verify_token(&key.good(Some("k1"))).await {
            Ok(who) => format!("ok: {}", who.subject),
            Err(error) => error.detail().unwrap_or_default().to_owned(),
        }
    };
    for url in [&real.url, &by_name] {
        for reject in ["local", "10.0.0.0/8,127.0.0.0/8", "0.0.0.0/0,::/0"] {
            let verdict = check(url, reject).await;
            assert!(verdict.contains("is in a rejected range"), "{url} {reject}: {verdict}");
        }
        assert_eq!(check(url, "10.0.0.0/8").await, "ok: u");
    }
    assert_eq!(real.requests(), 2, "only what was let through has asked");
    // An address that may be asked points to one that may not: 127.0.0.2 stands for the inside.
    let inside = real.url.replace("127.0.0.1", "127.0.0.2");
    let outside = JwksServer::start(Answer::Redirect(inside)).await;
    assert!(check(&outside.url, "127.0.0.2").await.contains("is in a rejected range"));
    assert_eq!(outside.requests(), 1);
}

#[test]
fn keys_of_another_machine_over_plain_http_are_warned_about() {
    let warnings = |url: &str| {
        let config = AuthConfig {
            jwks_urls: vec![url.to_owned()],
            audience: vec!["app".into()],
            ..AuthConfig::default()
        };
        Authenticator::new(config).unwrap().warnings()
    };
    for quiet in ["https://auth.example.com/jwks", "http://localhost:9/jwks", "http://[::1]/jwks"] {
        assert!(warnings(quiet).is_empty(), "{quiet}");
    }
    let [warning] = &warnings("http://user:hush@auth.example.com/jwks?key=hush")[..] else {
        panic!("one warning")
    };
    assert_eq!(
        warning.to_string(),
        "warning[HW4006]: keys that decide who is let in are fetched without encryption: whoever \
         stands on the way can put keys of his own there\n  \
         where: auth.jwks_url http://auth.example.com/jwks\n  \
         mend:  write the address with https"
    );
}
