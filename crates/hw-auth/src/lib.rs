//! Who is calling: from an `Authorization` header to a [`Principal`].
//!
//! In flow a header value, the configured keys and the time; out flows a principal (verified
//! subject, claims, expiry, database role) or an [`AuthError`] with a text for the caller and
//! another for the log. **Invariant: nothing of a token reaches either text**, and a token whose
//! signature was not checked yields nothing.
//!
//! Tokens and keys are read by hand rather than by `jsonwebtoken`: it lacks ES512, which issuers of
//! the protocol use; it takes one key where we have sets with doubtful `kid`s and must say which one
//! failed for what; and its errors quote what they could not read. What is hard stays elsewhere:
//! signatures are `aws-lc-rs`, JSON is `serde_json`, and both readers have fuzz targets (`token`,
//! `claims`, `jwks`).
//!
//! Suggested reading order: [`secret`], [`algorithm`], [`jwk`], [`addresses`], [`remote`],
//! [`claims`], [`authenticator`], [`token`], `refusals`, [`error`].
//!
//! Source: `protocols/powersync-protocol.md` section 10; RFC 7515, 7517, 7518, 7519, 8037.

// A `Diagnostic` is large and rare: the configuration is read once.
#![allow(clippy::result_large_err)]

pub mod addresses;
pub mod algorithm;
pub mod authenticator;
pub mod claims;
pub mod clock;
pub mod error;
pub mod jwk;
mod refusals;
pub mod remote;
pub mod secret;
pub mod token;

pub use addresses::AddressRange;
pub use authenticator::{AuthConfig, Authenticator};
pub use claims::{Principal, RoleClaim};
pub use clock::Clock;
pub use error::{AuthError, Refusal};
pub use remote::JwksOptions;
pub use secret::Secret;
