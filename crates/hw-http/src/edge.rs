//! What all surfaces share before they look at a request: who calls, and what he sends.
//!
//! In: headers and bodies of strangers. Out: a verified caller, a body within bounds, or a
//! [`Refusal`] for the surface to tell in its manner. Invariant: nothing that a caller sends is kept
//! before his token was verified, apart from a few kilobytes.

use std::sync::Arc;

use axum::body::Body;
use axum::extract::Request;
use axum::http::request::Parts;
use axum::http::{HeaderMap, header};
use hw_auth::{Authenticator, Principal};

use crate::body::{self, Bodies, Received};
use crate::error::Refusal;
use crate::holder::Holder;
use crate::surface::{Bound, Bounds};

/// See the module. Clones share it.
#[derive(Clone)]
pub struct Edge {
    authenticator: Authenticator,
    bodies: Arc<Bodies>,
}

impl Edge {
    /// - Takes: who verifies tokens, and how many bytes the bodies of all requests may hold.
    pub fn new(authenticator: Authenticator, body_memory: usize) -> Edge {
        Edge { authenticator, bodies: Bodies::new(body_memory) }
    }

    /// What is used of its bounds.
    pub fn bounds(&self) -> Bounds {
        let bodies = self.bodies.clone();
        Arc::new(move || vec![Bound::new("body_memory_bytes", bodies.held(), bodies.limit())])
    }

    /// Who calls, by the one `Authorization` header. Two of them could mean two callers.
    pub async fn caller(&self, headers: &HeaderMap) -> Result<Principal, Refusal> {
        let mut values = headers.get_all(header::AUTHORIZATION).iter();
        let value = match (values.next(), values.next()) {
            (Some(value), None) => value.to_str().ok(),
            _ => None,
        };
        self.authenticator.verify(value).await.map_err(Refusal::Token)
    }

    /// Who calls, by a token that came elsewhere than in that header.
    pub async fn caller_with(&self, token: &str) -> Result<Principal, Refusal> {
        self.authenticator.verify_token(token).await.map_err(Refusal::Token)
    }

    /// Who calls, before anything of the body is kept. What a refused caller sends is thrown away,
    /// so that he sees why.
    pub async fn caller_of(&self, request: Request) -> Result<(Principal, Parts, Body), Refusal> {
        let (parts, body) = request.into_parts();
        match self.caller(&parts.headers).await {
            Ok(caller) => Ok((caller, parts, body)),
            Err(refusal) => {
                turn_away(&parts.headers, body).await;
                Err(refusal)
            }
        }
    }

    /// Receives the body of a verified caller, at most `most` bytes.
    pub async fn body(
        &self,
        caller: &Principal,
        body: Body,
        most: usize,
    ) -> Result<Received, Refusal> {
        self.bodies.receive(&caller.key(), body, most).await
    }

    /// Receives the body of somebody who may call without a token.
    pub async fn body_of(
        &self,
        holder: Holder<'_>,
        body: Body,
        most: usize,
    ) -> Result<Received, Refusal> {
        self.bodies.receive(holder, body, most).await
    }

    /// Who calls, and what he sends, for a surface that says what is wrong with a request before
    /// what is wrong with its token. A refused caller's body is here only when it is short.
    pub async fn receive(
        &self,
        headers: &HeaderMap,
        body: Body,
        most: usize,
    ) -> Result<(Result<Principal, Refusal>, Received), Refusal> {
        match self.caller(headers).await {
            Ok(caller) => {
                let received = self.body(&caller, body, most).await?;
                Ok((Ok(caller), received))
            }
            Err(refusal) => match body::of_a_stranger(body).await {
                Some(received) => Ok((Err(refusal), received)),
                None => Err(refusal),
            },
        }
    }
}

/// Takes what a refused caller is still sending, unless he waits to be asked for it.
async fn turn_away(headers: &HeaderMap, body: Body) {
    if !headers.contains_key(header::EXPECT) {
        body::turn_away(body).await;
    }
}
