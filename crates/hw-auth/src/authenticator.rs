//! The door: takes an `Authorization` header, finds the key, checks the signature, then the claims.
//!
//! Order matters and is fixed: nothing in the payload is read before the signature was checked.
//! Source: `protocols/powersync-protocol.md` 10.1, 10.2.

use std::sync::Arc;
use std::time::Duration;

use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use hw_types::Diagnostic;
use serde::Deserialize;

use crate::algorithm::Algorithm;
use crate::claims::{ClaimRules, MAX_LIFETIME, Principal, malformed};
use crate::clock::Clock;
use crate::error::{AuthError, BAD_JWKS, NO_AUDIENCE, NO_KEYS, Refusal};
use crate::jwk::{self, Key, Origin};
use crate::refusals::Refusals;
use crate::remote::{self, JwksOptions, RemoteKeys};
use crate::secret::Secret;

/// The longest token that is looked at, in bytes. Larger ones are refused unread.
const MAX_TOKEN_BYTES: usize = 64 * 1024;

/// Which tokens are accepted.
#[derive(Clone, Debug)]
pub struct AuthConfig {
    /// `HEADWATER_JWT_SECRET`: HS256, HS384 and HS512 tokens with any `kid` or none.
    pub secret: Option<Secret>,
    /// A JWKS written into the configuration, as JSON text. Shared secrets are allowed in it.
    pub static_jwks: Option<String>,
    /// `HEADWATER_JWKS_URL`: addresses of JWKS.
    pub jwks_urls: Vec<String>,
    /// `HEADWATER_JWT_AUDIENCE`: one of these must be in `aud`. May be empty for a static secret
    /// only; `aud` is not looked at then.
    pub audience: Vec<String>,
    /// The longest `exp - iat`. Default one day.
    pub max_lifetime: Duration,
    /// Database roles that a token's `role` may choose. Default none.
    pub allowed_roles: Vec<String>,
    /// How remote keys are kept and fetched.
    pub jwks: JwksOptions,
    /// The time.
    pub clock: Clock,
}

impl Default for AuthConfig {
    fn default() -> AuthConfig {
        AuthConfig {
            secret: None,
            static_jwks: None,
            jwks_urls: Vec::new(),
            audience: Vec::new(),
            max_lifetime: MAX_LIFETIME,
            allowed_roles: Vec::new(),
            jwks: JwksOptions::default(),
            clock: Clock::system(),
        }
    }
}

/// Verifies tokens. Cheap to clone; clones share the fetched keys.
#[derive(Clone)]
pub struct Authenticator(Arc<Inner>);

struct Inner {
    /// Keys of the configuration: static JWKS first, then the secret.
    keys: Vec<Key>,
    remotes: Vec<Arc<RemoteKeys>>,
    rules: ClaimRules,
    max_wait: Duration,
    clock: Clock,
    refusals: Refusals,
}

impl Authenticator {
    /// Reads the configuration; nothing is fetched yet.
    ///
    /// - Errors: HW4001 without any key, HW4002 without an audience where one is needed, HW4004
    ///   for an unusable static JWKS, HW4005 for an unusable address.
    pub fn new(config: AuthConfig) -> Result<Authenticator, Diagnostic> {
        if config.secret.is_none() && config.static_jwks.is_none() && config.jwks_urls.is_empty() {
            return Err(Diagnostic::error(NO_KEYS, "no key to verify tokens with is configured")
                .mend("set HEADWATER_JWT_SECRET or HEADWATER_JWKS_URL"));
        }
        let has_jwks = config.static_jwks.is_some() || !config.jwks_urls.is_empty();
        if has_jwks && config.audience.is_empty() {
            return Err(Diagnostic::error(
                NO_AUDIENCE,
                "keys from a JWKS are accepted only for a named audience, and none is configured",
            )
            .mend("set HEADWATER_JWT_AUDIENCE to the \"aud\" of your tokens"));
        }
        let mut keys = match &config.static_jwks {
            Some(text) => static_keys(text)?,
            None => Vec::new(),
        };
        keys.extend(config.secret.iter().map(|secret| Key::secret(secret.bytes())));
        let remotes = config
            .jwks_urls
            .iter()
            .map(|url| RemoteKeys::new(url, config.jwks.clone(), config.clock.clone()))
            .map(|remote| remote.map(Arc::new))
            .collect::<Result<_, _>>()?;
        let rules = ClaimRules {
            audience: (!config.audience.is_empty()).then_some(config.audience),
            max_lifetime: config.max_lifetime,
            allowed_roles: config.allowed_roles,
        };
        let (max_wait, clock) = (config.jwks.max_wait, config.clock);
        Ok(Authenticator(Arc::new(Inner {
            keys,
            remotes,
            rules,
            max_wait,
            clock,
            refusals: Refusals::default(),
        })))
    }

    /// What of the configuration works and is worth a thought: HW4006.
    pub fn warnings(&self) -> Vec<Diagnostic> {
        self.0.remotes.iter().filter_map(|remote| remote.warning()).collect()
    }

    /// Verifies the value of an `Authorization` header (`Bearer …` or `Token …`): scheme, one space,
    /// token. Refusals are logged here, as a sample, so that surfaces need not.
    ///
    /// Must run inside a tokio runtime. Waits only when a needed key may be behind an address, at
    /// most [`JwksOptions::max_wait`].
    pub async fn verify(&self, header_value: Option<&str>) -> Result<Principal, AuthError> {
        let token = header_value
            .and_then(|value| value.split_once(' '))
            .filter(|(scheme, _)| {
                scheme.eq_ignore_ascii_case("bearer") || scheme.eq_ignore_ascii_case("token")
            })
            .map(|(_, token)| token.trim_end())
            .filter(|token| !token.is_empty() && !token.contains(char::is_whitespace));
        match token {
            Some(token) => self.verify_token(token).await,
            None => Err(self.logged(no_token())),
        }
    }

    /// Verifies a bare token, for surfaces that carry it elsewhere than in a header. An empty one is none.
    pub async fn verify_token(&self, token: &str) -> Result<Principal, AuthError> {
        if token.trim().is_empty() {
            return Err(self.logged(no_token()));
        }
        self.admit(token).await.map_err(|error| self.logged(error))
    }

    fn logged(&self, error: AuthError) -> AuthError {
        self.0.refusals.log(&error);
        error
    }

    async fn admit(&self, token: &str) -> Result<Principal, AuthError> {
        let token = Token::read(token)?;
        self.check_signature(&token).await?;
        let payload = token.payload()?;
        self.0.rules.admit(&payload, self.0.clock.now())
    }

    async fn check_signature(&self, token: &Token<'_>) -> Result<(), AuthError> {
        let remotes = &self.0.remotes;
        // A shared secret is never behind an address.
        let asks_remotes = !token.algorithm.is_symmetric() && !remotes.is_empty();
        if asks_remotes {
            for remote in remotes.iter().filter(|remote| remote.is_stale()) {
                remote.start_refresh();
            }
        }
        let mut found = self.find(token);
        if asks_remotes && matches!(found, Found::NoKey | Found::NotSigned { .. }) {
            let running = remotes.iter().filter_map(|remote| remote.start_refresh()).collect();
            remote::wait_for_all(running, self.0.max_wait).await;
            found = self.find(token);
            let missing = remotes.iter().find(|remote| remote.usable().is_none());
            if let (Found::NoKey | Found::NotSigned { .. }, Some(remote)) = (&found, missing) {
                let reason = remote.last_error().unwrap_or_else(|| "no answer in time".to_owned());
                return Err(AuthError::new(Refusal::KeysUnavailable, "JWKS request failed")
                    .with_detail(reason));
            }
        }
        match found {
            Found::Verified => Ok(()),
            Found::Refused(error) => Err(error),
            Found::NotSigned { tried } => {
                Err(AuthError::invalid("JWT signature verification failed").with_detail(format!(
                    "no key for algorithm {} verifies it, {tried} tried: it was signed with \
                     another secret or key",
                    token.algorithm.name(),
                )))
            }
            Found::NoKey => Err(AuthError::invalid(
                "Could not find an appropriate key in the keystore. The key is missing or no key \
                 matched the token KID",
            )
            .with_detail(format!(
                "algorithm {}, token {} a kid, {} configured and {} remote sources of keys",
                token.algorithm.name(),
                if token.key_id.is_some() { "with" } else { "without" },
                self.0.keys.len(),
                remotes.len(),
            ))),
        }
    }

    /// One attempt with the keys at hand.
    fn find(&self, token: &Token<'_>) -> Found {
        let sets: Vec<_> = self.0.remotes.iter().filter_map(|remote| remote.usable()).collect();
        let all = || self.0.keys.iter().chain(sets.iter().flat_map(|set| &set.keys));
        if let Some(id) = &token.key_id {
            let mut named = all().filter(|key| key.id.as_ref() == Some(id)).peekable();
            if named.peek().is_some() {
                // Issuers may give keys of several types one id, so look at all of that id.
                let mut fitting = named.filter(|key| key.accepts(token.algorithm)).peekable();
                if fitting.peek().is_none() {
                    return Found::Refused(AuthError::invalid(format!(
                        "Unexpected token algorithm {}",
                        token.algorithm.name()
                    )));
                }
                return match fitting.any(|key| token.is_signed_by(key)) {
                    true => Found::Verified,
                    false => {
                        Found::Refused(AuthError::invalid("JWT signature verification failed"))
                    }
                };
            }
        }
        let mut tried: Vec<&Key> =
            all().filter(|key| key.id.is_none() && key.accepts(token.algorithm)).collect();
        if tried.is_empty() && token.key_id.is_none() {
            // A token that names no key can only mean the one that there is.
            let fitting: Vec<&Key> = all().filter(|key| key.accepts(token.algorithm)).collect();
            if fitting.len() == 1 {
                tried = fitting;
            }
        }
        match tried.len() {
            0 => Found::NoKey,
            _ if tried.iter().any(|key| token.is_signed_by(key)) => Found::Verified,
            tried => Found::NotSigned { tried },
        }
    }
}

fn no_token() -> AuthError {
    AuthError::new(Refusal::Missing, "Authentication required")
}

enum Found {
    Verified,
    Refused(AuthError),
    /// Keys that fit the token were tried, and none has signed it.
    NotSigned {
        tried: usize,
    },
    /// No key fits the token.
    NoKey,
}

fn static_keys(text: &str) -> Result<Vec<Key>, Diagnostic> {
    let bad = |what: String| {
        Diagnostic::error(BAD_JWKS, format!("the static JWKS cannot be used: {what}"))
    };
    let set = jwk::read(text.as_bytes(), Origin::Static).map_err(bad)?;
    match set.left_out.first() {
        Some(reason) => Err(bad(reason.clone())),
        None if set.keys.is_empty() => Err(bad("it has no keys".to_owned())),
        None => Ok(set.keys),
    }
}

/// A token in its three parts, not trusted yet.
struct Token<'a> {
    algorithm: Algorithm,
    key_id: Option<String>,
    /// What is signed: the first two parts as they were sent.
    message: &'a str,
    payload: &'a str,
    signature: Vec<u8>,
}

#[derive(Deserialize)]
struct Header {
    alg: String,
    kid: Option<String>,
    crit: Option<serde_json::Value>,
}

impl<'a> Token<'a> {
    fn read(token: &'a str) -> Result<Token<'a>, AuthError> {
        if token.len() > MAX_TOKEN_BYTES {
            return Err(malformed());
        }
        let (message, signature) = token.rsplit_once('.').ok_or_else(malformed)?;
        let (header, payload) = message.split_once('.').ok_or_else(malformed)?;
        let header = URL_SAFE_NO_PAD.decode(header).map_err(|_| malformed())?;
        let header: Header = serde_json::from_slice(&header).map_err(|_| malformed())?;
        // RFC 7515 section 4.1.11: an extension that we do not understand refuses the token.
        if header.crit.is_some() {
            return Err(AuthError::invalid("Token header has critical extensions"));
        }
        let algorithm = Algorithm::from_name(&header.alg)
            .ok_or_else(|| AuthError::invalid("Unexpected token algorithm"))?;
        let signature = URL_SAFE_NO_PAD.decode(signature).map_err(|_| malformed())?;
        Ok(Token { algorithm, key_id: header.kid, message, payload, signature })
    }

    fn is_signed_by(&self, key: &Key) -> bool {
        key.verify(self.algorithm, self.message.as_bytes(), &self.signature)
    }

    fn payload(&self) -> Result<String, AuthError> {
        let bytes = URL_SAFE_NO_PAD.decode(self.payload).map_err(|_| malformed())?;
        String::from_utf8(bytes).map_err(|_| malformed())
    }
}
