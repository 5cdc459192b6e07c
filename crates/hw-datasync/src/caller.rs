//! Who calls: from a request to an author of statements.
//!
//! Looked for in this order: `access_token` and `jwt` in the query, `Authorization`, the configured cookie;
//! the first that is there decides. A token that does not hold is refused, never taken for none.
//!
//! Source: `datasync.md` 1, "OURS".

use std::collections::BTreeMap;
use std::net::{IpAddr, SocketAddr};
use std::time::Duration;

use axum::extract::ConnectInfo;
use axum::http::{Extensions, HeaderMap, StatusCode, header};
use hw_auth::{AddressRange, Principal, RoleClaim};
use hw_http::holder::Holder;
use hw_http::{ApiError, Edge, Refusal};
use hw_types::Code;
use hw_write::{Author, AuthorRole};
use serde_json::value::RawValue;

use crate::code;
use crate::options::DataSyncOptions;

/// Somebody whose requests are answered.
#[derive(Clone, Debug)]
pub struct Caller {
    /// As whom statements run.
    pub author: Author,
    /// Until when the token counts, since the Unix epoch.
    pub holds_until: Option<Duration>,
    /// The key of somebody who shows no token, in what is bounded for each.
    stranger: Option<String>,
}

impl Caller {
    /// The holder of a token.
    pub fn of(principal: Principal) -> Caller {
        let (user, holds_until) = (principal.key(), Some(principal.holds_until()));
        let role = match principal.role {
            RoleClaim::Absent => AuthorRole::Configured,
            RoleClaim::Listed(role) => AuthorRole::Chosen(role),
            RoleClaim::Unlisted(role) => AuthorRole::NotAllowed(role),
        };
        let (subject, claims_json) = (principal.subject, principal.claims_json);
        Caller { author: Author { user, subject, role, claims_json }, holds_until, stranger: None }
    }

    /// Somebody who shows no token.
    ///
    /// - Takes: the role of those; where he calls from.
    pub fn anonymous(role: Option<String>, peer: Option<SocketAddr>) -> Caller {
        let role = role.map_or(AuthorRole::Configured, AuthorRole::Chosen);
        let author = Author {
            // No key of a verified user is empty.
            user: String::new(),
            subject: String::new(),
            role,
            // Policies read it as JSON, which an empty text is not.
            claims_json: "{}".into(),
        };
        Caller { author, holds_until: None, stranger: Some(stranger(peer)) }
    }

    /// Who holds the places that he takes.
    pub fn holder(&self) -> Holder<'_> {
        match &self.stranger {
            Some(key) => Holder::Stranger(key),
            None => Holder::User(&self.author.user),
        }
    }

    /// Whether policies see the same of both, but for when their tokens were made, begin and end.
    ///
    /// Claims are compared as they are written, since policies read what is written: numbers that differ in what a
    /// float does not hold are others. A token's id is a claim like others: a policy may know tokens, or sessions, by it.
    pub fn is_same(&self, other: &Caller) -> bool {
        let claims = |caller: &Caller| {
            let claims: Option<BTreeMap<String, Box<RawValue>>> =
                serde_json::from_str(&caller.author.claims_json).ok();
            claims.map(|claims| {
                let lasting = claims
                    .into_iter()
                    .filter(|(name, _)| !["iat", "exp", "nbf"].contains(&name.as_str()));
                lasting.map(|(name, value)| (name, value.get().to_owned())).collect::<Vec<_>>()
            })
        };
        let (own, others) = (&self.author, &other.author);
        let is_user = (&own.user, &own.role) == (&others.user, &others.role);
        // What cannot be read is the same as nothing.
        is_user && claims(self).is_some_and(|own| claims(other) == Some(own))
    }

    /// Whether the token does not count any more.
    ///
    /// - Takes: the time since the Unix epoch.
    pub fn has_expired(&self, now: Duration) -> bool {
        self.holds_until.is_some_and(|until| until <= now)
    }

    /// Whether it is somebody without a token.
    pub fn is_anonymous(&self) -> bool {
        self.author.user.is_empty()
    }
}

/// Where a request comes from.
pub(crate) fn peer_of(extensions: &Extensions) -> Option<SocketAddr> {
    extensions.get::<ConnectInfo<SocketAddr>>().map(|peer| peer.0)
}

/// Strangers of one public address are taken for one user. Behind an address that is not public stands a
/// proxy, and behind that anybody.
fn stranger(peer: Option<SocketAddr>) -> String {
    match peer.map(|peer| peer.ip().to_canonical()) {
        Some(IpAddr::V4(address)) if !AddressRange::Local.contains(address.into()) => {
            format!("anonymous {address}")
        }
        // Whoever has one of these addresses has all that begin like it.
        Some(IpAddr::V6(address)) if !AddressRange::Local.contains(address.into()) => {
            format!("anonymous {:x}", address.to_bits() >> 64)
        }
        _ => format!("anonymous #{:x}", rand::random::<u128>()),
    }
}

/// Who sends a request.
///
/// - Takes: its headers, the parameters of its query, and where it comes from.
/// - Errors: 401 without a token that holds, 403 for a cookie that another page sends.
pub async fn caller(
    edge: &Edge,
    options: &DataSyncOptions,
    headers: &HeaderMap,
    query: &[(String, String)],
    peer: Option<SocketAddr>,
) -> Result<Caller, ApiError> {
    let named = |name: &str| query.iter().find(|(key, _)| key == name).map(|(_, value)| value);
    let verified = match (named("access_token").or_else(|| named("jwt")), &options.cookie) {
        (Some(token), _) => edge.caller_with(token).await,
        (None, _) if headers.contains_key(header::AUTHORIZATION) => edge.caller(headers).await,
        (None, Some(cookie)) => match cookie_of(headers, cookie) {
            Some(token) => {
                check_origin(headers, &options.origins)?;
                edge.caller_with(token).await
            }
            None => return nobody(edge, options, headers, peer).await,
        },
        (None, None) => return nobody(edge, options, headers, peer).await,
    };
    Ok(Caller::of(verified?))
}

async fn nobody(
    edge: &Edge,
    options: &DataSyncOptions,
    headers: &HeaderMap,
    peer: Option<SocketAddr>,
) -> Result<Caller, ApiError> {
    match &options.anonymous {
        Some(role) => Ok(Caller::anonymous(role.clone(), peer)),
        None => {
            let refused: Refusal = match edge.caller(headers).await {
                Err(refused) => refused,
                Ok(principal) => return Ok(Caller::of(principal)),
            };
            Err(refused.into())
        }
    }
}

fn cookie_of<'h>(headers: &'h HeaderMap, name: &str) -> Option<&'h str> {
    let values = headers.get_all(header::COOKIE).iter().filter_map(|value| value.to_str().ok());
    let pairs = values.flat_map(|value| value.split(';')).filter_map(|pair| pair.split_once('='));
    let found = pairs.map(|(key, value)| (key.trim(), value.trim())).find(|(key, _)| *key == name);
    found.map(|(_, value)| value).filter(|value| !value.is_empty())
}

/// A browser sends the cookie for every page that asks it to, so the page must be one that may.
fn check_origin(headers: &HeaderMap, origins: &[String]) -> Result<(), ApiError> {
    let origin = headers.get(header::ORIGIN).and_then(|value| value.to_str().ok());
    let site = headers.get("sec-fetch-site").and_then(|value| value.to_str().ok());
    let is_ours = match origin {
        Some(origin) => origins.iter().any(|known| known.eq_ignore_ascii_case(origin)),
        // A page does not name itself to its own origin when it only reads.
        None => site == Some("same-origin"),
    };
    match is_ours {
        true => Ok(()),
        false => Err(ApiError::new(
            StatusCode::FORBIDDEN,
            Code(code::ORIGIN),
            "The session cookie does not count for this page",
        )),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use axum::http::HeaderValue;

    #[test]
    fn f_69_strangers_of_one_public_address_are_one() {
        let key = |peer: &str| stranger(Some(peer.parse().expect("an address")));
        assert_eq!(key("8.8.8.8:1"), key("8.8.8.8:2"));
        assert_ne!(key("8.8.8.8:1"), key("8.8.4.4:1"));
        assert_eq!(key("[2606:4700::1]:1"), key("[2606:4700::2:1]:1"));
        assert_ne!(key("[2606:4700::1]:1"), key("[2606:4700:0:1::1]:1"));
        for proxy in ["127.0.0.1:1", "10.0.0.1:1", "[::1]:1", "[::ffff:192.168.0.1]:1"] {
            assert_ne!(key(proxy), key(proxy), "{proxy}");
        }
        assert_ne!(stranger(None), stranger(None));
    }

    fn holder(role: AuthorRole, claims_json: &str) -> Caller {
        let author = Author {
            user: "amy".into(),
            subject: "amy".into(),
            role,
            claims_json: claims_json.into(),
        };
        Caller { author, holds_until: None, stranger: None }
    }

    #[test]
    fn f_45_whoever_has_other_claims_or_another_role_is_another_caller() {
        let of = |claims: &str| holder(AuthorRole::Configured, claims);
        let first = of(r#"{"sub": "amy", "org": 1, "iat": 1, "nbf": 1, "exp": 2}"#);
        // A token is renewed: nobody could stay otherwise.
        for renewed in [
            r#"{"sub": "amy", "org": 1, "iat": 2, "nbf": 2, "exp": 3}"#,
            r#"{"exp": 9, "org": 1, "sub": "amy"}"#,
            r#"{"sub": "amy", "org": 2, "org": 1}"#,
        ] {
            assert!(first.is_same(&of(renewed)) && of(renewed).is_same(&first), "{renewed}");
        }
        for other in [
            r#"{"sub": "amy", "org": 2}"#,
            r#"{"sub": "amy", "org": "1"}"#,
            r#"{"sub": "amy", "org": 1.0}"#,
            r#"{"sub": "amy"}"#,
            r#"{"sub": "amy", "org": 1, "jti": "a"}"#,
            r#"{"sub": "amy", "org": 1, "role": null}"#,
            r#"{"sub": "amy", "org": {"exp": 1}}"#,
            "[]",
        ] {
            assert!(!first.is_same(&of(other)) && !of(other).is_same(&first), "{other}");
        }
        let token = |id: &str| of(&format!(r#"{{"sub": "amy", "jti": {id}}}"#));
        assert!(
            token(r#""a""#).is_same(&token(r#""a""#)) && !token(r#""a""#).is_same(&token(r#""b""#))
        );
        // Equal for a float.
        assert!(!token("18446744073709551617").is_same(&token("18446744073709551618")));
        assert!(!of("[1]").is_same(&of("[2]")), "what cannot be read");
        let roles = ["a", "b"]
            .map(|role| holder(AuthorRole::Chosen(role.into()), &first.author.claims_json));
        assert!(roles[0].is_same(&roles[0]) && !roles[0].is_same(&roles[1]));
        assert!(!roles[0].is_same(&first));
    }

    fn headers(pairs: &[(&'static str, &'static str)]) -> HeaderMap {
        pairs
            .iter()
            .map(|(name, value)| (name.parse().unwrap(), HeaderValue::from_static(value)))
            .collect()
    }

    #[test]
    fn ds_1_a_cookie_counts_for_listed_pages_only() {
        let listed = ["https://app.example".to_owned()];
        let check = |pairs| check_origin(&headers(pairs), &listed).is_ok();
        assert!(check(&[("origin", "https://app.example")]));
        assert!(check(&[("origin", "https://APP.example")]));
        assert!(check(&[("sec-fetch-site", "same-origin")]));
        assert!(!check(&[("origin", "https://evil.example"), ("sec-fetch-site", "same-origin")]));
        assert!(!check(&[("origin", "https://app.example.evil.example")]));
        assert!(!check(&[("origin", "null")]));
        assert!(!check(&[]));
    }

    #[test]
    fn ds_1_the_named_cookie_is_found_among_others() {
        let headers = headers(&[("cookie", "a=1; session=x.y.z; b=2"), ("cookie", "c=3")]);
        assert_eq!(cookie_of(&headers, "session"), Some("x.y.z"));
        assert_eq!(cookie_of(&headers, "c"), Some("3"));
        assert_eq!(cookie_of(&headers, "sess"), None);
    }
}
