//! `/admin/api/…` and `/metrics`: what the server says to its operators.
//!
//! In: the request and who sent it. Out: figures, never rows. Invariant: with an API token
//! configured nobody gets in without it. Without one nobody gets in on the port of the clients,
//! because what a proxy passes on may look exactly like a request of the same machine; on a port
//! of their own, and in `dev`, the same machine does, but no page of another site in its browser.

use std::net::{IpAddr, SocketAddr};
use std::pin::Pin;
use std::sync::Arc;

use axum::Router;
use axum::extract::{ConnectInfo, Query, State};
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::get;

use hw_http::ApiError;
use hw_types::{Code, Diagnostic};

use super::status::StatusReport;
use crate::code;
use crate::config::secret::Secret;
use crate::policies::Verdict;
use crate::telemetry;

/// Where figures come from at the moment of the question.
pub type StatusSource = Arc<dyn Fn() -> StatusReport + Send + Sync>;

/// Reads what a role sees of each table; without a name the role that clients have.
pub type PoliciesSource = Arc<
    dyn Fn(Option<String>) -> Pin<Box<dyn Future<Output = Result<Seen, Box<Diagnostic>>> + Send>>
        + Send
        + Sync,
>;

/// What a role sees.
#[derive(Clone, Debug, serde::Serialize)]
pub struct Seen {
    /// The role.
    pub role: String,
    /// Of each table.
    pub tables: Vec<Verdict>,
}

/// Makes what the page of `dev` needs to act as somebody; without a name as its first user.
pub type DevSessions = Arc<dyn Fn(Option<&str>) -> DevSession + Send + Sync>;

/// Who somebody is on the page of `dev`, and what to try there.
#[derive(Clone, Debug, serde::Serialize)]
pub struct DevSession {
    /// The signed token.
    pub token: String,
    /// Its subject.
    pub sub: String,
    /// Users that there are to try with.
    pub users: Vec<String>,
    /// What opens the private Postgres, as a shell reads it. Unset: the database is the user's own.
    pub psql: Option<String>,
}

/// What the page asks for.
#[derive(serde::Deserialize)]
struct Whose {
    sub: Option<String>,
}

/// What the administration routes need.
#[derive(Clone)]
pub struct Admin {
    /// Who gets in.
    pub access: Access,
    /// Figures.
    pub status: StatusSource,
    /// Row level security of the source.
    pub policies: PoliciesSource,
    /// Only in `dev`.
    pub dev: Option<DevSessions>,
}

/// Who gets in.
#[derive(Clone, Debug)]
pub enum Access {
    /// Who has this token.
    Token(Secret),
    /// Without a token, on a port of the administration alone: metrics are for whoever reaches it,
    /// the rest for the same machine.
    OwnPort,
    /// Without a token, in `dev`: the same machine.
    Dev,
    /// Without a token, on the port of the clients: nobody.
    Nobody,
}

/// `/metrics`, `/admin/api/status`, `/admin/api/policies` and, in `dev`, `/admin/api/dev-token`.
pub fn routes(admin: Admin) -> Router {
    let mut router = Router::new()
        .route("/metrics", get(metrics))
        .route("/admin/api/status", get(status))
        .route("/admin/api/policies", get(policies));
    if admin.dev.is_some() {
        router = router.route("/admin/api/dev-token", get(dev_token));
    }
    router.with_state(admin)
}

async fn metrics(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    // Names and counts are all there is to see: whoever reaches a port of their own may.
    if !matches!(admin.access, Access::OwnPort)
        && let Err(refusal) = admin.access.admit(peer.ip(), &headers)
    {
        return refusal.into_response();
    }
    (admin.status)().record();
    let kind = [(header::CONTENT_TYPE, "text/plain; version=0.0.4; charset=utf-8")];
    (kind, telemetry::metrics::render()).into_response()
}

async fn status(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
) -> Response {
    match admin.access.admit(peer.ip(), &headers) {
        Ok(()) => axum::Json((admin.status)()).into_response(),
        Err(refusal) => refusal.into_response(),
    }
}

/// What the page of policies asks for.
#[derive(serde::Deserialize)]
struct OfRole {
    role: Option<String>,
}

async fn policies(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(of): Query<OfRole>,
) -> Response {
    if let Err(refusal) = admin.access.admit(peer.ip(), &headers) {
        return refusal.into_response();
    }
    match (admin.policies)(of.role).await {
        Ok(seen) => axum::Json(seen).into_response(),
        Err(why) => {
            let status = match why.code.0 {
                code::NO_READER => StatusCode::NOT_FOUND,
                _ => StatusCode::SERVICE_UNAVAILABLE,
            };
            ApiError::new(status, why.code, why.what.clone()).into_response()
        }
    }
}

/// Served to the same machine only, with or without an API token: who may open the page of `dev`
/// may act as any user.
async fn dev_token(
    State(admin): State<Admin>,
    ConnectInfo(peer): ConnectInfo<SocketAddr>,
    headers: HeaderMap,
    Query(whose): Query<Whose>,
) -> Response {
    if let Err(refusal) = Access::Dev.admit(peer.ip(), &headers) {
        return refusal.into_response();
    }
    match admin.dev {
        Some(session) => axum::Json(session(whose.sub.as_deref())).into_response(),
        None => ApiError::not_found().into_response(),
    }
}

/// Why a request was not let in.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Refusal {
    /// A token is needed and was missing or wrong.
    Token,
    /// No token is configured, and the request is not from this machine.
    Elsewhere,
    /// No token is configured, and this is the port of the clients.
    Closed,
}

impl IntoResponse for Refusal {
    fn into_response(self) -> Response {
        let (status, number, description) = match self {
            Refusal::Token => (StatusCode::UNAUTHORIZED, code::API_TOKEN, "Authorization failed"),
            Refusal::Elsewhere => (
                StatusCode::FORBIDDEN,
                code::SAME_MACHINE,
                "Only the same machine may ask; configure an API token to ask from elsewhere",
            ),
            Refusal::Closed => (
                StatusCode::FORBIDDEN,
                code::SAME_MACHINE,
                "Not on this port without an API token; configure api_token or admin_listen",
            ),
        };
        ApiError::new(status, Code(number), description).into_response()
    }
}

impl Access {
    fn admit(&self, peer: IpAddr, headers: &HeaderMap) -> Result<(), Refusal> {
        match self {
            Access::Token(token) if carries(headers, token) => Ok(()),
            Access::Token(_) => Err(Refusal::Token),
            Access::Nobody => Err(Refusal::Closed),
            Access::OwnPort | Access::Dev
                if peer.to_canonical().is_loopback() && is_direct(headers) =>
            {
                Ok(())
            }
            Access::OwnPort | Access::Dev => Err(Refusal::Elsewhere),
        }
    }
}

/// `Authorization: Bearer <token>` or `Token <token>`, compared in constant time.
fn carries(headers: &HeaderMap, token: &Secret) -> bool {
    let sent = headers.get(header::AUTHORIZATION).and_then(|value| value.to_str().ok());
    let sent = sent
        .and_then(|value| value.strip_prefix("Bearer ").or_else(|| value.strip_prefix("Token ")));
    let (Some(sent), expected) = (sent, token.expose().as_bytes()) else { return false };
    let sent = sent.trim().as_bytes();
    let difference = sent.iter().zip(expected).fold(0, |all, (a, b)| all | (a ^ b));
    sent.len() == expected.len() && difference == 0
}

/// Whether the request was made to this machine by name, by no proxy, and by no other site's page.
fn is_direct(headers: &HeaderMap) -> bool {
    let forwarded = ["forwarded", "x-forwarded-for", "x-real-ip", "via"];
    if forwarded.iter().any(|name| headers.contains_key(*name)) {
        return false;
    }
    let host = headers.get(header::HOST).and_then(|host| host.to_str().ok()).unwrap_or("");
    // A name that a page's owner controls can be made to point at this machine.
    if !names_this_machine(host) {
        return false;
    }
    match headers.get(header::ORIGIN).map(|origin| origin.to_str()) {
        None => true,
        Some(Ok(origin)) => origin.split_once("://").is_some_and(|(_, rest)| rest == host),
        Some(Err(_)) => false,
    }
}

fn names_this_machine(host: &str) -> bool {
    let name = match host.strip_prefix('[') {
        Some(rest) => rest.split(']').next().unwrap_or(""),
        None => host.split(':').next().unwrap_or(""),
    };
    name == "localhost" || name.parse::<IpAddr>().is_ok_and(|address| address.is_loopback())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn headers(pairs: &[(&'static str, &str)]) -> HeaderMap {
        pairs.iter().map(|(n, v)| (n.parse().expect("name"), v.parse().expect("value"))).collect()
    }

    #[test]
    fn with_a_token_only_the_token_lets_in() {
        let token = Secret::new("t0ken");
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let access = Access::Token(token);
        let ask = |value: &str| access.admit(loopback, &headers(&[("authorization", value)]));
        assert_eq!(ask("Bearer t0ken"), Ok(()));
        assert_eq!(ask("Token t0ken"), Ok(()));
        assert_eq!(ask("Bearer t0keN"), Err(Refusal::Token));
        assert_eq!(ask("Bearer t0ken1"), Err(Refusal::Token));
        assert_eq!(ask("Bearer "), Err(Refusal::Token));
        let unmarked = headers(&[("host", "localhost:8080")]);
        assert_eq!(access.admit(loopback, &unmarked), Err(Refusal::Token));
    }

    #[test]
    fn without_a_token_only_the_same_machine_is_let_in_and_no_other_sites_page() {
        let loopback: IpAddr = [127, 0, 0, 1].into();
        let mapped: IpAddr = "::ffff:127.0.0.1".parse().expect("an address");
        let elsewhere: IpAddr = [10, 0, 0, 7].into();
        let ask = |peer, pairs: &[(&'static str, &str)]| {
            let admitted = Access::Dev.admit(peer, &headers(pairs));
            assert_eq!(Access::OwnPort.admit(peer, &headers(pairs)), admitted);
            // A proxy that adds no header makes any request look like one of the same machine.
            assert_eq!(Access::Nobody.admit(peer, &headers(pairs)), Err(Refusal::Closed));
            admitted
        };
        let host = ("host", "localhost:8080");
        assert_eq!(ask(loopback, &[host]), Ok(()));
        assert_eq!(ask(mapped, &[("host", "[::1]:8080")]), Ok(()));
        assert_eq!(ask(loopback, &[host, ("origin", "http://localhost:8080")]), Ok(()));
        for refused in [
            ask(elsewhere, &[host]),
            ask(loopback, &[]),
            ask(loopback, &[("host", "evil.example:8080")]),
            ask(loopback, &[host, ("origin", "http://evil.example")]),
            ask(loopback, &[host, ("origin", "null")]),
            ask(loopback, &[host, ("x-forwarded-for", "10.0.0.7")]),
        ] {
            assert_eq!(refused, Err(Refusal::Elsewhere));
        }
    }
}
