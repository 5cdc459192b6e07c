//! What a verified payload must say, and the [`Principal`] that comes of it.
//!
//! In flows the payload of a token whose signature was checked; out flows a principal or a
//! refusal. Source: `protocols/powersync-protocol.md` 10.4.

use std::sync::Arc;
use std::time::Duration;

use serde_json::{Map, Value};

use crate::error::{AuthError, Refusal};

/// How far the issuer's clock may be from ours, for `iat`, `exp` and `nbf`.
pub const CLOCK_TOLERANCE: Duration = Duration::from_secs(60);

/// The longest `exp - iat` accepted by default.
pub const MAX_LIFETIME: Duration = Duration::from_secs(86_400);

/// The longest `sub`, in bytes of [`Principal::subject`]: it is part of keys, markers and log lines.
pub const MAX_SUBJECT_BYTES: usize = 256;

/// A verified caller. Its fields come from a token whose signature, lifetime and audience were
/// checked.
#[derive(Clone, Debug)]
pub struct Principal {
    /// The claim `sub` as text: a number in its decimal form, any other JSON as JSON. Never empty,
    /// at most [`MAX_SUBJECT_BYTES`].
    pub subject: String,
    /// The whole payload, for rules (`request.jwt()`), with `sub` in its own type.
    pub claims: Arc<Map<String, Value>>,
    /// The payload's text as it was signed, for `request.jwt.claims`: no digit is lost.
    pub claims_json: Arc<str>,
    /// When the token says that it expires, seconds since the Unix epoch. A sync stream ends then, because
    /// its protocol tells clients so; everything else goes by [`Principal::holds_until`].
    pub expires_at: u64,
    /// What the claim `role` asks for.
    pub role: RoleClaim,
}

/// The database role that a token asks to write with.
#[derive(Clone, Debug, Default, PartialEq, Eq)]
pub enum RoleClaim {
    /// None: the configured role writes.
    #[default]
    Absent,
    /// One that the configuration lists as a role that tokens may choose.
    Listed(String),
    /// Another one, or no text at all (as JSON then). It never means "as if there were none": the
    /// issuer may have given this user fewer rights than the configured role has.
    Unlisted(String),
}

impl Principal {
    /// Until when the token counts, since the Unix epoch: for a request, and for what stays open with it.
    pub fn holds_until(&self) -> Duration {
        Duration::from_secs(self.expires_at) + CLOCK_TOLERANCE
    }

    /// Names the user in keys: type and length stand before the subject, so that the number 7 and
    /// the text "7" are two users, and nothing that is appended can make one user another.
    pub fn key(&self) -> String {
        let kind = match self.claims.get("sub") {
            Some(Value::String(_)) => 't',
            Some(Value::Number(_)) => 'n',
            _ => 'j',
        };
        format!("{kind}{}:{}", self.subject.len(), self.subject)
    }
}

/// The rules of the configuration that claims are held against.
#[derive(Clone, Debug)]
pub(crate) struct ClaimRules {
    /// One of these must be in `aud`. `None`: `aud` is not looked at.
    pub(crate) audience: Option<Vec<String>>,
    pub(crate) max_lifetime: Duration,
    pub(crate) allowed_roles: Vec<String>,
}

impl ClaimRules {
    /// Checks a payload at the time `now` (since the Unix epoch).
    pub(crate) fn admit(&self, payload: &str, now: Duration) -> Result<Principal, AuthError> {
        let claims: Map<String, Value> = serde_json::from_str(payload).map_err(|_| malformed())?;
        if payload.contains("\\u0000") && claims.iter().any(|(name, value)| has_nul(name, value)) {
            return Err(AuthError::invalid("JWT payload must have no NUL").with_detail(
                "Postgres fails to read it, so nobody can say what policies show its user",
            ));
        }
        let subject = subject(&claims)?;
        let issued_at = seconds(&claims, "iat")?.ok_or_else(|| missing("iat"))?;
        let expires_at = seconds(&claims, "exp")?.ok_or_else(|| missing("exp"))?;
        let (now, tolerance) = (now.as_secs_f64(), CLOCK_TOLERANCE.as_secs_f64());
        if seconds(&claims, "nbf")?.is_some_and(|not_before| not_before > now + tolerance) {
            return Err(AuthError::invalid("JWT is not valid yet"));
        }
        // Else a token that says it was issued in the year 2100 lives until then.
        if issued_at > now + tolerance {
            return Err(AuthError::invalid("JWT was issued in the future")
                .with_detail("the clock of the issuer, or ours, is more than a minute off"));
        }
        if expires_at <= now - tolerance {
            return Err(AuthError::new(Refusal::Expired, "JWT has expired"));
        }
        self.check_audience(claims.get("aud"))?;
        let (lifetime, longest) = (expires_at - issued_at, self.max_lifetime.as_secs());
        if lifetime > longest as f64 {
            return Err(AuthError::new(
                Refusal::LifetimeTooLong,
                format!("Token must expire in a maximum of {longest} seconds, got {lifetime}s"),
            ));
        }
        if claims.get("parameters").is_some_and(|value| !value.is_object()) {
            return Err(AuthError::invalid("Payload parameters must be an object"));
        }
        let role = match claims.get("role") {
            None | Some(Value::Null) => RoleClaim::Absent,
            Some(Value::String(role)) if self.allowed_roles.contains(role) => {
                RoleClaim::Listed(role.clone())
            }
            Some(Value::String(role)) => RoleClaim::Unlisted(role.clone()),
            Some(other) => RoleClaim::Unlisted(other.to_string()),
        };
        Ok(Principal {
            subject,
            expires_at: expires_at as u64,
            role,
            claims: Arc::new(claims),
            claims_json: payload.into(),
        })
    }

    fn check_audience(&self, audience: Option<&Value>) -> Result<(), AuthError> {
        let Some(accepted) = &self.audience else { return Ok(()) };
        let ours = |value: &Value| {
            value.as_str().is_some_and(|name| accepted.iter().any(|accepted| accepted == name))
        };
        let found = match audience {
            Some(Value::Array(names)) => names.iter().any(ours),
            Some(name) => ours(name),
            None => false,
        };
        if found {
            return Ok(());
        }
        Err(AuthError::new(Refusal::Audience, "Unexpected \"aud\" claim value")
            .with_detail("none of the token's audiences is configured"))
    }
}

pub(crate) fn malformed() -> AuthError {
    AuthError::invalid("Token is not a well-formed JWT. Check the token format.")
}

fn missing(claim: &str) -> AuthError {
    AuthError::invalid(format!("JWT payload is missing a required claim \"{claim}\""))
}

/// Who the token is about. Nobody is no user: everybody without a name would share one.
fn subject(claims: &Map<String, Value>) -> Result<String, AuthError> {
    let claim = claims.get("sub").filter(|value| !value.is_null());
    let text = claim.map(subject_text).filter(|text| !text.is_empty());
    let text = text.ok_or_else(|| missing("sub"))?;
    if text.len() > MAX_SUBJECT_BYTES {
        return Err(AuthError::invalid(format!(
            "\"sub\" claim must have at most {MAX_SUBJECT_BYTES} bytes"
        )));
    }
    Ok(text)
}

/// Whether U+0000 stands in a claim, or in the name of one.
fn has_nul(name: &str, value: &Value) -> bool {
    let is_in = |text: &str| text.contains('\0');
    is_in(name)
        || match value {
            Value::String(text) => is_in(text),
            Value::Array(items) => items.iter().any(|item| has_nul("", item)),
            Value::Object(members) => members.iter().any(|(name, value)| has_nul(name, value)),
            Value::Null | Value::Bool(_) | Value::Number(_) => false,
        }
}

/// A NumericDate of RFC 7519 section 2: seconds, perhaps with a fraction.
fn seconds(claims: &Map<String, Value>, claim: &str) -> Result<Option<f64>, AuthError> {
    match claims.get(claim) {
        None => Ok(None),
        Some(value) => match value.as_f64().filter(|number| number.is_finite()) {
            Some(number) => Ok(Some(number)),
            None => Err(AuthError::invalid(format!("\"{claim}\" claim must be a number"))),
        },
    }
}

/// `sub` as text, as the original service prints it (ECMAScript `String(x)` for numbers; JSON for
/// arrays and objects, whose own form there would not tell two users apart).
fn subject_text(subject: &Value) -> String {
    match subject {
        Value::String(text) => text.clone(),
        Value::Number(number) => match number.as_f64() {
            Some(float) if number.is_f64() => float_text(float),
            _ => number.to_string(),
        },
        other => other.to_string(),
    }
}

/// A float as ECMAScript `Number::toString` prints it: `5`, `2.5`, `1e+21`, `1e-7`.
fn float_text(number: f64) -> String {
    let size = number.abs();
    if size == 0.0 {
        "0".to_owned()
    } else if (1e-6..1e21).contains(&size) {
        number.to_string()
    } else {
        let text = format!("{number:e}");
        if size >= 1e21 { text.replace('e', "e+") } else { text }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const NOW: Duration = Duration::from_secs(1_000_000);

    fn rules() -> ClaimRules {
        ClaimRules {
            audience: Some(vec!["powersync".into(), "other".into()]),
            max_lifetime: MAX_LIFETIME,
            allowed_roles: vec!["editor".into()],
        }
    }

    /// The verdict over one payload: `sub/role@exp`, or `code: text`.
    fn verdict(payload: &str) -> String {
        match rules().admit(payload, NOW) {
            Ok(who) => {
                let role = match who.role {
                    RoleClaim::Absent => "-".to_owned(),
                    RoleClaim::Listed(role) => role,
                    RoleClaim::Unlisted(role) => format!("not {role}"),
                };
                format!("{}/{role}@{}", who.subject, who.expires_at)
            }
            Err(error) => format!("{}: {}", error.code(), error),
        }
    }

    #[test]
    fn the_claims_decide_as_the_table_says() {
        let missing =
            |claim| format!("PSYNC_S2101: JWT payload is missing a required claim {claim}");
        let cases: &[(&str, String)] = &[
            (r#"{"sub":"u","iat":1000000,"exp":1000300,"aud":"powersync"}"#, "u/-@1000300".into()),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"aud":["x","other"]}"#,
                "u/-@1000300".into(),
            ),
            (r#"{"iat":1000000,"exp":1000300,"aud":"powersync"}"#, missing("\"sub\"")),
            (r#"{"sub":"u","exp":1000300,"aud":"powersync"}"#, missing("\"iat\"")),
            (r#"{"sub":"u","iat":1000000,"aud":"powersync"}"#, missing("\"exp\"")),
            (
                r#"{"sub":"u","iat":"1","exp":1000300,"aud":"powersync"}"#,
                "PSYNC_S2101: \"iat\" claim must be a number".into(),
            ),
            // The tolerance: 59 s after the end is fine, 60 s is not.
            (r#"{"sub":"u","iat":999000,"exp":999941,"aud":"powersync"}"#, "u/-@999941".into()),
            (
                r#"{"sub":"u","iat":999000,"exp":999940,"aud":"powersync"}"#,
                "PSYNC_S2103: JWT has expired".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"nbf":1000060,"aud":"powersync"}"#,
                "u/-@1000300".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"nbf":1000061,"aud":"powersync"}"#,
                "PSYNC_S2101: JWT is not valid yet".into(),
            ),
            (r#"{"sub":"u","iat":1000000,"exp":1086400,"aud":"powersync"}"#, "u/-@1086400".into()),
            (
                r#"{"sub":"u","iat":1000000,"exp":1086401,"aud":"powersync"}"#,
                "PSYNC_S2104: Token must expire in a maximum of 86400 seconds, got 86401s".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"aud":"elsewhere"}"#,
                "PSYNC_S2105: Unexpected \"aud\" claim value".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300}"#,
                "PSYNC_S2105: Unexpected \"aud\" claim value".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"aud":{"powersync":1}}"#,
                "PSYNC_S2105: Unexpected \"aud\" claim value".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"aud":"powersync","parameters":[1]}"#,
                "PSYNC_S2101: Payload parameters must be an object".into(),
            ),
            (
                r#"{"sub":"u","iat":1000000,"exp":1000300,"aud":"powersync","parameters":{}}"#,
                "u/-@1000300".into(),
            ),
            (
                r#"{"sub":"u","role":"editor","iat":1000000,"exp":1000300,"aud":"powersync"}"#,
                "u/editor@1000300".into(),
            ),
            (
                r#"{"sub":"u","role":"postgres","iat":1000000,"exp":1000300,"aud":"powersync"}"#,
                "u/not postgres@1000300".into(),
            ),
            (
                r#"{"sub":"u","role":["editor"],"iat":1000000,"exp":1000300,"aud":"powersync"}"#,
                "u/not [\"editor\"]@1000300".into(),
            ),
            (
                r#"{"sub":"u","role":null,"iat":1000000,"exp":1000300,"aud":"powersync"}"#,
                "u/-@1000300".into(),
            ),
            ("[]", "PSYNC_S2101: Token is not a well-formed JWT. Check the token format.".into()),
        ];
        for (payload, expected) in cases {
            assert_eq!(&verdict(payload), expected, "{payload}");
        }
    }

    fn of(sub: &str) -> String {
        verdict(&format!(r#"{{"sub":{sub},"iat":1000000,"exp":1000300,"aud":"powersync"}}"#))
    }

    #[test]
    fn fd_2_a_token_for_nobody_is_refused() {
        for nobody in ["\"\"", "null"] {
            let expected = "PSYNC_S2101: JWT payload is missing a required claim \"sub\"";
            assert_eq!(of(nobody), expected, "{nobody}");
        }
    }

    /// FD-43, FD-54: a subject that no key can hold is refused.
    #[test]
    fn fd_43_a_subject_is_short_and_text() {
        let longest = "é".repeat(MAX_SUBJECT_BYTES / 2);
        assert_eq!(of(&format!("{longest:?}")), format!("{longest}/-@1000300"));
        let expected = "PSYNC_S2101: \"sub\" claim must have at most 256 bytes";
        assert_eq!(of(&format!("\"{longest}x\"")), expected);
    }

    /// E-4: with one Postgres fails to read the claims, so policies show nothing.
    #[test]
    fn e_4_claims_hold_no_nul_wherever_it_stands() {
        let with = |claims: &str| of(&format!("\"u\",{claims}"));
        for refused in [
            r#""a":"b\u0000""#,
            r#""a\u0000":1"#,
            r#""a":[1,{"b":["\u0000"]}]"#,
            r#""a":{"b\u0000":null}"#,
        ] {
            assert_eq!(with(refused), "PSYNC_S2101: JWT payload must have no NUL", "{refused}");
        }
        assert_eq!(of("\"a\\u0000b\""), "PSYNC_S2101: JWT payload must have no NUL");
        // A backslash, and no NUL.
        assert_eq!(with(r#""a":"\\u0000""#), "u/-@1000300");
    }

    /// FD-34: type and length stand before the subject.
    #[test]
    fn fd_34_users_of_different_types_have_different_keys() {
        let key = |sub: &str| {
            let payload =
                format!(r#"{{"sub":{sub},"iat":1000000,"exp":1000300,"aud":"powersync"}}"#);
            rules().admit(&payload, NOW).expect("valid").key()
        };
        assert_eq!(key("\"7\""), "t1:7");
        assert_eq!(key("7"), "n1:7");
        assert_eq!(key("true"), "j4:true");
        assert_eq!(key("\"true\""), "t4:true");
        assert_eq!(key("\"team/u2\""), "t7:team/u2");
    }

    #[test]
    fn fd_50_a_token_that_is_issued_in_the_future_is_refused() {
        let future = "PSYNC_S2101: JWT was issued in the future";
        for (issued, expires, expected) in [
            // Clocks may differ by a minute.
            (1_000_060_u64, 1_000_300_u64, "u/-@1000300"),
            (1_000_061, 1_000_300, future),
            (4_102_444_800, 4_102_444_800, future),
            (4_102_444_800, 4_102_531_200, future),
        ] {
            let payload =
                format!(r#"{{"sub":"u","iat":{issued},"exp":{expires},"aud":"powersync"}}"#);
            assert_eq!(verdict(&payload), expected, "{payload}");
        }
    }

    #[test]
    fn a_subject_of_any_type_becomes_text() {
        let cases = [
            ("\"u\"", "u"),
            ("7", "7"),
            ("9007199254740993", "9007199254740993"),
            ("5.0", "5"),
            ("2.5", "2.5"),
            ("1e21", "1e+21"),
            ("1e-7", "1e-7"),
            ("-0.0", "0"),
            ("null", "null"),
            ("true", "true"),
            ("{\"a\":1}", "{\"a\":1}"),
        ];
        for (json, expected) in cases {
            let value: Value = serde_json::from_str(json).unwrap();
            assert_eq!(subject_text(&value), expected);
        }
    }
}
