//! The checker of tokens, from the configuration: what `serve` lets in and `doctor` judges.
//!
//! In: the configuration. Out: an [`Authenticator`], or what is wrong; and what works but is worth
//! a thought.

use hw_auth::{AuthConfig, Authenticator, JwksOptions, Secret};
use hw_types::Diagnostic;

use crate::code;
use crate::config::Config;

/// The checker of tokens.
///
/// - Errors: HW4001 when there is neither a secret nor a key set (such a server would refuse
///   everybody), and those of [`Authenticator::new`] and [`Secret::parse`].
pub fn authenticator(config: &Config) -> Result<Authenticator, Box<Diagnostic>> {
    let auth = &config.auth;
    Authenticator::new(AuthConfig {
        secret: secret(config)?,
        static_jwks: auth.jwks.as_ref().map(|set| set.expose().to_owned()),
        jwks_urls: auth.jwks_url.clone(),
        audience: auth.audience.clone(),
        max_lifetime: auth.max_lifetime,
        allowed_roles: auth.allowed_roles.clone(),
        jwks: JwksOptions { reject: auth.jwks_reject_ip_ranges.clone(), ..JwksOptions::default() },
        ..AuthConfig::default()
    })
    .map_err(Box::new)
}

fn secret(config: &Config) -> Result<Option<Secret>, Box<Diagnostic>> {
    let configured = config.auth.jwt_secret.as_ref();
    configured.map(|secret| Secret::parse(secret.expose()).map_err(Box::new)).transpose()
}

/// What of it is refused or worth a thought: HW1015 without any key, HW1016 for a short secret,
/// HW4006 for keys fetched without encryption.
pub fn findings(config: &Config) -> Vec<Diagnostic> {
    if !config.auth.accepts_tokens() {
        let nothing = Diagnostic::warning(
            code::NO_TOKENS,
            "no token could be checked, so serve would refuse to start",
        );
        return vec![nothing.mend("set HEADWATER_JWT_SECRET or HEADWATER_JWKS_URL")];
    }
    let checker = match authenticator(config) {
        Ok(checker) => checker,
        Err(finding) => return vec![*finding],
    };
    let mut findings = checker.warnings();
    if let Ok(Some(secret)) = secret(config)
        && secret.is_short()
    {
        findings.push(
            Diagnostic::warning(
                code::SHORT_SECRET,
                "the JWT secret is shorter than the 32 bytes of HS256",
            )
            .mend("make one with: openssl rand -base64 32, and write it as base64:…"),
        );
    }
    findings
}
