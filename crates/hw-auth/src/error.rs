//! Why a token was refused: one text for the caller, one for the log, two codes.
//!
//! The PowerSync code travels to sync clients, whose SDKs act on it (`PSYNC_S21…` makes them fetch
//! a new token); the `HW4…` code is what our own routes and `docs/errors.md` use.

use std::fmt;

use hw_types::Code;

/// HW4001: neither a secret nor a JWKS is configured, so no token could ever be verified.
pub const NO_KEYS: u16 = 4001;
/// HW4002: tokens of a JWKS are accepted only for a named audience, and none is configured.
pub const NO_AUDIENCE: u16 = 4002;
/// HW4003: the configured secret cannot be used: empty, not base64 behind `base64:`, or a public
/// key, which everybody may know.
pub const BAD_SECRET: u16 = 4003;
/// HW4004: the configured static JWKS cannot be used.
pub const BAD_JWKS: u16 = 4004;
/// HW4005: the configured JWKS address is no http or https URL.
pub const BAD_JWKS_URL: u16 = 4005;
/// HW4006: a JWKS of another machine is fetched over plain http (a warning).
pub const UNENCRYPTED_JWKS: u16 = 4006;

/// The kind of a refusal.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
pub enum Refusal {
    /// HW4101, PSYNC_S2101: malformed, unknown key, wrong algorithm, wrong signature, missing claim.
    Invalid,
    /// HW4103, PSYNC_S2103: the token has expired.
    Expired,
    /// HW4104, PSYNC_S2104: the token lives longer than allowed.
    LifetimeTooLong,
    /// HW4105, PSYNC_S2105: the token is meant for another audience.
    Audience,
    /// HW4106, PSYNC_S2106: no token was sent.
    Missing,
    /// HW4204, PSYNC_S2204: the keys that would decide could not be fetched.
    KeysUnavailable,
}

impl Refusal {
    /// Every kind.
    pub const ALL: [Refusal; 6] = [
        Refusal::Invalid,
        Refusal::Expired,
        Refusal::LifetimeTooLong,
        Refusal::Audience,
        Refusal::Missing,
        Refusal::KeysUnavailable,
    ];
}

/// A refused token. `Display` is the outer text; [`AuthError::detail`] is for the log only.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct AuthError {
    refusal: Refusal,
    description: String,
    detail: Option<String>,
}

impl AuthError {
    pub(crate) fn new(refusal: Refusal, description: impl Into<String>) -> AuthError {
        AuthError { refusal, description: description.into(), detail: None }
    }

    pub(crate) fn invalid(description: impl Into<String>) -> AuthError {
        AuthError::new(Refusal::Invalid, description)
    }

    pub(crate) fn with_detail(mut self, detail: impl Into<String>) -> AuthError {
        self.detail = Some(detail.into());
        self
    }

    /// What kind of refusal it is.
    pub fn refusal(&self) -> Refusal {
        self.refusal
    }

    /// The code in the manner of PowerSync, as SDKs expect it.
    /// Source: `protocols/powersync-protocol.md` 10.5.
    pub fn code(&self) -> &'static str {
        match self.refusal {
            Refusal::Invalid => "PSYNC_S2101",
            Refusal::Expired => "PSYNC_S2103",
            Refusal::LifetimeTooLong => "PSYNC_S2104",
            Refusal::Audience => "PSYNC_S2105",
            Refusal::Missing => "PSYNC_S2106",
            Refusal::KeysUnavailable => "PSYNC_S2204",
        }
    }

    /// Our own code.
    pub fn hw_code(&self) -> Code {
        Code(match self.refusal {
            Refusal::Invalid => 4101,
            Refusal::Expired => 4103,
            Refusal::LifetimeTooLong => 4104,
            Refusal::Audience => 4105,
            Refusal::Missing => 4106,
            Refusal::KeysUnavailable => 4204,
        })
    }

    /// The HTTP status of the answer. Always 401, with which every SDK fetches a new token.
    pub fn status(&self) -> u16 {
        401
    }

    /// One line for the caller: nothing of the token, nothing of the configuration.
    pub fn description(&self) -> &str {
        &self.description
    }

    /// More for the log: which keys were tried and why a fetch failed. Nothing of the token.
    pub fn detail(&self) -> Option<&str> {
        self.detail.as_deref()
    }
}

impl fmt::Display for AuthError {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.description)
    }
}

impl std::error::Error for AuthError {}
