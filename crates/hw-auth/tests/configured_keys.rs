//! Keys from the configuration: a secret, a static JWKS.

use std::time::Duration;

use hw_auth::{AuthConfig, Authenticator, Clock, RoleClaim, Secret, token};
use serde_json::{Map, Value, json};

use crate::issuer::{NOW, Signer, ed25519, es, good_claims, hs, jwks, rs};

const SECRET: &str = "a secret of more than thirty-two bytes";

fn at_now() -> AuthConfig {
    AuthConfig {
        audience: vec!["app".into()],
        clock: Clock::new(|| Duration::from_secs(NOW)),
        ..AuthConfig::default()
    }
}

fn with_secret() -> AuthConfig {
    AuthConfig { secret: Some(Secret::parse(SECRET).unwrap()), ..at_now() }
}

fn with_jwks(keys: &[Value]) -> AuthConfig {
    AuthConfig { static_jwks: Some(jwks(keys)), ..at_now() }
}

/// `ok: sub`, or `code: outer text`.
async fn verdict(config: AuthConfig, header: Option<&str>) -> String {
    match Authenticator::new(config).unwrap().verify(header).await {
        Ok(who) => format!("ok: {}", who.subject),
        Err(error) => format!("{}: {error}", error.code()),
    }
}

async fn bearer(config: AuthConfig, token: &str) -> String {
    verdict(config, Some(&format!("Bearer {token}"))).await
}

fn every_signer() -> Vec<Signer> {
    let secret = SECRET.as_bytes();
    vec![
        hs("HS256", secret),
        hs("HS384", secret),
        hs("HS512", secret),
        rs("RS256"),
        rs("RS384"),
        rs("RS512"),
        es("ES256"),
        es("ES384"),
        es("ES512"),
        ed25519(),
    ]
}

const UNKNOWN: &str = "PSYNC_S2101: Could not find an appropriate key in the keystore. The key is \
                       missing or no key matched the token KID";

const NOT_SIGNED: &str = "PSYNC_S2101: JWT signature verification failed";

#[tokio::test]
async fn a_token_without_kid_means_the_only_key_that_fits_it() {
    let (key, twin, other) = (es("ES256"), es("ES256"), rs("RS256"));
    let named = |signer: &Signer, kid| signer.jwk_with(json!({"kid": kid}));
    let one = with_jwks(&[named(&key, "k1"), named(&other, "k2")]);
    assert_eq!(bearer(one.clone(), &key.good(None)).await, "ok: u");
    assert_eq!(bearer(one.clone(), &other.good(None)).await, "ok: u");
    assert_eq!(bearer(one, &twin.good(None)).await, NOT_SIGNED);
    // Which of two is meant is not guessed.
    let two = with_jwks(&[named(&key, "k1"), named(&twin, "k2")]);
    assert_eq!(bearer(two, &key.good(None)).await, UNKNOWN);
}

#[tokio::test]
async fn a_token_of_another_secret_is_told_so_and_the_log_says_what_was_tried() {
    let authenticator = Authenticator::new(with_secret()).unwrap();
    let error = authenticator.verify_token(&hs("HS256", b"guess").good(None)).await.unwrap_err();
    assert_eq!(format!("{}: {error}", error.code()), NOT_SIGNED);
    assert_eq!(
        error.detail(),
        Some(
            "no key for algorithm HS256 verifies it, 1 tried: it was signed with another secret \
             or key"
        )
    );
}

#[tokio::test]
async fn every_algorithm_is_accepted_by_kid_and_as_a_wildcard_and_by_no_other_key() {
    let signers = every_signer();
    for (place, signer) in signers.iter().enumerate() {
        let alg = signer.alg;
        let named = with_jwks(&[signer.jwk_with(json!({"kid": "k1"}))]);
        assert_eq!(bearer(named.clone(), &signer.good(Some("k1"))).await, "ok: u", "{alg} by kid");
        assert_eq!(bearer(named.clone(), &signer.good(None)).await, "ok: u", "{alg} without kid");
        assert_eq!(bearer(named, &signer.good(Some("k2"))).await, UNKNOWN, "{alg} other kid");

        let wildcard = with_jwks(std::slice::from_ref(&signer.jwk));
        for kid in [None, Some("any")] {
            assert_eq!(bearer(wildcard.clone(), &signer.good(kid)).await, "ok: u", "{alg} {kid:?}");
        }
        let fixed = with_jwks(&[signer.jwk_with(json!({"alg": alg, "use": "sig"}))]);
        assert_eq!(bearer(fixed, &signer.good(None)).await, "ok: u", "{alg} with alg and use");

        // All other keys together do not verify it, by wildcard or under its kid. (HS keys share
        // their secret here.)
        let others: Vec<&Signer> = signers
            .iter()
            .enumerate()
            .filter(|(other, key)| {
                *other != place && !(alg.starts_with("HS") && key.alg.starts_with("HS"))
            })
            .map(|(_, key)| key)
            .collect();
        let wildcards: Vec<Value> = others.iter().map(|key| key.jwk.clone()).collect();
        let family = |key: &&Signer| alg.starts_with("RS") && key.alg.starts_with("RS");
        let refusal = if others.iter().any(family) { NOT_SIGNED } else { UNKNOWN };
        assert_eq!(bearer(with_jwks(&wildcards), &signer.good(None)).await, refusal, "{alg}");
    }
}

#[tokio::test]
async fn a_named_key_refuses_other_algorithms_and_is_the_only_one_asked() {
    let (first, second) = (es("ES256"), rs("RS256"));
    // The wildcard would verify the token, but the kid names another key.
    let keys = [first.jwk_with(json!({"kid": "k1"})), second.jwk.clone()];
    assert_eq!(
        bearer(with_jwks(&keys), &second.good(Some("k1"))).await,
        "PSYNC_S2101: Unexpected token algorithm RS256"
    );
    let impostor = es("ES256");
    assert_eq!(
        bearer(with_jwks(&keys), &impostor.good(Some("k1"))).await,
        "PSYNC_S2101: JWT signature verification failed"
    );
    // A key made for RS512 does not serve RS256 although the family fits.
    let fixed = second.jwk_with(json!({"kid": "k2", "alg": "RS512"}));
    assert_eq!(
        bearer(with_jwks(&[fixed]), &second.good(Some("k2"))).await,
        "PSYNC_S2101: Unexpected token algorithm RS256"
    );
    // Two keys of one id: the one of the token's family is asked.
    let twins = [first.jwk_with(json!({"kid": "k"})), second.jwk_with(json!({"kid": "k"}))];
    assert_eq!(bearer(with_jwks(&twins), &second.good(Some("k"))).await, "ok: u");
}

#[tokio::test]
async fn the_secret_accepts_any_kid_or_none() {
    for alg in ["HS256", "HS384", "HS512"] {
        for kid in [None, Some("any")] {
            let token = hs(alg, SECRET.as_bytes()).good(kid);
            assert_eq!(bearer(with_secret(), &token).await, "ok: u");
        }
    }
    assert_eq!(bearer(with_secret(), &hs("HS256", b"guess").good(None)).await, NOT_SIGNED);
}

#[tokio::test]
async fn a_public_key_is_never_taken_for_a_secret() {
    // The classic confusion: HS256 with the text of the public key as the secret.
    let key = rs("RS256");
    let text: &'static [u8] = key.jwk.to_string().into_bytes().leak();
    let token = hs("HS256", text).good(Some("k"));
    let config = with_jwks(&[key.jwk_with(json!({"kid": "k"}))]);
    assert_eq!(bearer(config, &token).await, "PSYNC_S2101: Unexpected token algorithm HS256");
}

#[tokio::test]
async fn none_and_unknown_algorithms_and_critical_extensions_are_refused() {
    let signer = hs("HS256", SECRET.as_bytes());
    for alg in ["none", "None", "NONE", "HS1", "PS256", "ES256K", ""] {
        let token = signer.token_with_header(&json!({"alg": alg}), &good_claims());
        assert_eq!(
            bearer(with_secret(), &token).await,
            "PSYNC_S2101: Unexpected token algorithm",
            "{alg}"
        );
        let unsigned = format!("{}.", token.rsplit_once('.').unwrap().0);
        assert_eq!(
            bearer(with_secret(), &unsigned).await,
            "PSYNC_S2101: Unexpected token algorithm"
        );
    }
    let critical = json!({"alg": "HS256", "crit": ["b64"], "b64": false});
    assert_eq!(
        bearer(with_secret(), &signer.token_with_header(&critical, &good_claims())).await,
        "PSYNC_S2101: Token header has critical extensions"
    );
}

#[tokio::test]
async fn a_changed_token_is_refused() {
    let token = hs("HS256", SECRET.as_bytes()).good(None);
    let parts: Vec<&str> = token.split('.').collect();
    let other = hs("HS256", SECRET.as_bytes())
        .token(None, &json!({"sub": "admin", "iat": NOW, "exp": NOW + 300, "aud": "app"}));
    let payload = other.split('.').nth(1).unwrap();
    for forged in [
        format!("{}.{payload}.{}", parts[0], parts[2]),
        format!("{}.{}.", parts[0], parts[1]),
        format!("{}.{}.{}", parts[0], parts[1], &parts[2][..40]),
    ] {
        assert!(bearer(with_secret(), &forged).await.starts_with("PSYNC_S2101"), "{forged}");
    }
}

#[tokio::test]
async fn a_missing_or_ill_formed_header_asks_for_authentication() {
    for header in [
        None,
        Some(""),
        Some("Bearer"),
        Some("Bearer "),
        Some("Basic abc"),
        Some("Bearer a b"),
        Some("Bearer  e30.e30.e30"),
    ] {
        assert_eq!(
            verdict(with_secret(), header).await,
            "PSYNC_S2106: Authentication required",
            "{header:?}"
        );
    }
    // Where it does not come in a header, an empty one is none.
    for token in ["", " "] {
        let verified = Authenticator::new(with_secret()).expect("usable").verify_token(token).await;
        assert_eq!(verified.expect_err("refused").code(), "PSYNC_S2106");
    }
    for header in ["Bearer x", "Bearer a.b.c", "Token ..", "bearer é.é.é", "Bearer e30.e30.e30"]
    {
        assert_eq!(
            verdict(with_secret(), Some(header)).await,
            "PSYNC_S2101: Token is not a well-formed JWT. Check the token format.",
            "{header}"
        );
    }
    let long = format!("Bearer {}", "a".repeat(70_000));
    assert!(verdict(with_secret(), Some(&long)).await.starts_with("PSYNC_S2101"));
    let token = format!("Token {}", hs("HS256", SECRET.as_bytes()).good(None));
    assert_eq!(verdict(with_secret(), Some(&token)).await, "ok: u");
}

#[tokio::test]
async fn an_unset_audience_is_allowed_for_a_secret_alone() {
    let token = hs("HS256", SECRET.as_bytes()).good(None);
    let open = AuthConfig { audience: vec![], ..with_secret() };
    assert_eq!(bearer(open.clone(), &token).await, "ok: u");
    let named = AuthConfig { audience: vec!["other".into()], ..with_secret() };
    assert_eq!(bearer(named, &token).await, "PSYNC_S2105: Unexpected \"aud\" claim value");

    let code = |config| Authenticator::new(config).err().unwrap().code.0;
    assert_eq!(code(AuthConfig::default()), 4001);
    assert_eq!(
        code(AuthConfig { static_jwks: Some(jwks(&[ed25519().jwk])), ..open.clone() }),
        4002
    );
    assert_eq!(code(AuthConfig { jwks_urls: vec!["http://localhost".into()], ..open }), 4002);
    assert_eq!(code(with_jwks(&[json!({"kty": "OKP", "crv": "Ed448", "x": "AQ"})])), 4004);
    assert_eq!(code(with_jwks(&[])), 4004);
    // A public key that was written down as a shared secret ("-----BEGIN PUBLIC KEY-----").
    let public = "LS0tLS1CRUdJTiBQVUJMSUMgS0VZLS0tLS0K";
    assert_eq!(code(with_jwks(&[json!({"kty": "oct", "k": public})])), 4004);
    assert_eq!(code(AuthConfig { jwks_urls: vec!["gopher://x".into()], ..with_secret() }), 4005);
}

#[tokio::test]
async fn a_development_token_passes_and_carries_its_claims() {
    let config = AuthConfig { allowed_roles: vec!["editor".into()], ..with_secret() };
    let extra: Map<String, Value> =
        [("role".to_owned(), json!("editor")), ("sub".to_owned(), json!("ignored"))]
            .into_iter()
            .collect();
    let audience = ["app".to_owned(), "b".to_owned()];
    let secret = config.secret.clone().unwrap();
    let hour = Duration::from_secs(3600);
    let token = token::issue(&secret, "u", hour, &extra, &audience, &config.clock);
    let authenticator = Authenticator::new(config).unwrap();
    let who = authenticator.verify(Some(&format!("Bearer {token}"))).await.unwrap();
    assert_eq!((who.subject.as_str(), &who.role), ("u", &RoleClaim::Listed("editor".into())));
    assert_eq!(who.expires_at, NOW + 3600);
    assert_eq!(who.claims["aud"], json!(["app", "b"]));
    assert_eq!(serde_json::from_str::<Value>(&who.claims_json).unwrap()["role"], json!("editor"));
}

#[tokio::test]
async fn neither_text_of_a_refusal_repeats_the_token() {
    let marked = json!({"sub": "hush", "iat": NOW, "exp": NOW + 300, "aud": "hush"});
    let header = json!({"alg": "hush", "kid": "hush"});
    let signer = hs("HS256", SECRET.as_bytes());
    for token in [
        signer.token(Some("hush"), &marked),
        hs("HS256", b"guess").token(Some("hush"), &marked),
        signer.token_with_header(&header, &marked),
        rs("RS256").token(Some("hush"), &marked),
    ] {
        let authenticator = Authenticator::new(with_secret()).unwrap();
        let error = authenticator.verify_token(&token).await.unwrap_err();
        assert!(!format!("{error:?} {error}").contains("hush"), "{error:?}");
    }
}
