//! Development tokens: what `headwater token` prints and tests sign with.

use std::time::Duration;

use aws_lc_rs::hmac;
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Map, Value, json};

use crate::clock::Clock;
use crate::secret::Secret;

/// Makes an HS256 token.
///
/// - Takes: the subject, the lifetime from now, further claims (they cannot replace `sub`, `iat`
///   and `exp`), and the audiences (none: no `aud`; several: an array).
/// - Returns: the token in its compact form (RFC 7515 section 3.1).
pub fn issue(
    secret: &Secret,
    subject: &str,
    lifetime: Duration,
    extra: &Map<String, Value>,
    audience: &[String],
    clock: &Clock,
) -> String {
    let now = clock.now().as_secs();
    let mut claims = extra.clone();
    claims.insert("sub".into(), subject.into());
    claims.insert("iat".into(), now.into());
    claims.insert("exp".into(), (now + lifetime.as_secs()).into());
    match audience {
        [] => {}
        [one] => drop(claims.insert("aud".into(), one.as_str().into())),
        several => drop(claims.insert("aud".into(), several.into())),
    }
    sign(secret, &json!({"alg": "HS256", "typ": "JWT"}), &Value::Object(claims))
}

fn sign(secret: &Secret, header: &Value, claims: &Value) -> String {
    let encode = |value: &Value| URL_SAFE_NO_PAD.encode(value.to_string());
    let message = format!("{}.{}", encode(header), encode(claims));
    let key = hmac::Key::new(hmac::HMAC_SHA256, secret.bytes());
    let signature = URL_SAFE_NO_PAD.encode(hmac::sign(&key, message.as_bytes()));
    format!("{message}.{signature}")
}
