//! Tokens and the keys that they are checked with.

use std::sync::LazyLock;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use futures_util::FutureExt as _;
use hw_auth::{AuthConfig, Authenticator, Secret};

const SECRET: &[u8] = b"a shared secret that fuzzing knows";

/// Keys of every kind, none of them behind an address: then nothing waits.
static AUTHENTICATOR: LazyLock<Authenticator> = LazyLock::new(|| {
    let config = AuthConfig {
        secret: Some(Secret::from_bytes(SECRET.to_vec()).expect("a secret")),
        allowed_roles: vec!["editor".to_owned()],
        ..AuthConfig::default()
    };
    Authenticator::new(config).expect("a configuration")
});

fn verify(header: &str) {
    let verified = AUTHENTICATOR.verify(Some(header)).now_or_never();
    if let Some(Ok(principal)) = verified {
        assert!(!principal.subject.is_empty());
    }
}

/// Anything in the place of a token.
pub(crate) fn token(data: &[u8]) {
    if let Ok(text) = std::str::from_utf8(data) {
        verify(text);
        verify(&format!("Bearer {text}"));
    }
}

/// Anything that a holder of the key can sign: header and payload, apart at the first line break.
pub(crate) fn claims(data: &[u8]) {
    let cut = data.iter().position(|byte| *byte == b'\n');
    let (header, payload) = match cut {
        Some(cut) => (&data[..cut], &data[cut + 1..]),
        None => (&b"{\"alg\":\"HS256\"}"[..], data),
    };
    let message = format!("{}.{}", URL_SAFE_NO_PAD.encode(header), URL_SAFE_NO_PAD.encode(payload));
    let key = hmac::Key::new(hmac::HMAC_SHA256, SECRET);
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    verify(&format!("Bearer {message}.{signature}"));
}

/// Anything in the place of a key set or of a shared secret.
pub(crate) fn jwks(data: &[u8]) {
    let Ok(text) = std::str::from_utf8(data) else { return };
    let _ = Secret::parse(text);
    drop(Authenticator::new(AuthConfig {
        static_jwks: Some(text.to_owned()),
        audience: vec!["headwater".to_owned()],
        ..AuthConfig::default()
    }));
}
