//! `headwater token`: a signed token for development.
//!
//! In: a subject and claims. Out: one line on standard output. The secret is the configured one,
//! else the one that `dev` wrote.

use std::time::Duration;

use hw_auth::{Clock, Secret};
use hw_types::Diagnostic;
use serde_json::{Map, Value};

use crate::cli::Token;
use crate::code;
use crate::config::{Config, parse};
use crate::report::{self, Exit};

/// Claims that have options of their own, or none.
const OWN: &[(&str, &str)] = &[
    ("sub", "it is --sub"),
    ("exp", "it follows from --ttl"),
    ("iat", "it is the time of now"),
    ("aud", "it is --audience"),
    ("role", "it is --role"),
];

/// Makes and prints the token.
pub fn run(config: &Config, arguments: &Token) -> Exit {
    match make(config, arguments) {
        Ok(token) => {
            report::answer(&format!("{token}\n"));
            Exit::Done
        }
        Err(finding) => super::refuse(*finding),
    }
}

fn make(config: &Config, arguments: &Token) -> Result<String, Box<Diagnostic>> {
    if arguments.sub.is_empty() {
        let finding = Diagnostic::error(code::CLAIM, "a token needs a subject, which is not empty");
        return Err(Box::new(finding.at("option --sub").mend("name the user: --sub user-1")));
    }
    let lifetime = lifetime(config, &arguments.ttl)?;
    let mut claims = Map::new();
    for claim in &arguments.claims {
        let (name, value) = claim.split_once('=').ok_or_else(|| {
            Box::new(
                Diagnostic::error(code::CLAIM, "a claim needs a name and a value")
                    .at("option --claim")
                    .mend("write it as --claim name=value"),
            )
        })?;
        if let Some((_, how)) = OWN.iter().find(|(own, _)| *own == name) {
            let what = format!("\"{name}\" is no further claim: {how}");
            return Err(Box::new(
                Diagnostic::error(code::CLAIM, what).at("option --claim").mend("leave it out"),
            ));
        }
        let value = serde_json::from_str(value).unwrap_or_else(|_| Value::from(value));
        claims.insert(name.to_owned(), value);
    }
    if let Some(role) = &arguments.role {
        claims.insert("role".to_owned(), Value::from(role.as_str()));
        if !config.auth.allowed_roles.contains(role) {
            report::say(
                "note: writes with this role are refused unless auth.allowed_roles names it",
            );
        }
    }
    let audience: Vec<String> = match &arguments.audience {
        Some(audience) => vec![audience.clone()],
        None => config.auth.audience.first().cloned().into_iter().collect(),
    };
    let secret = secret(config)?;
    Ok(hw_auth::token::issue(
        &secret,
        &arguments.sub,
        lifetime,
        &claims,
        &audience,
        &Clock::system(),
    ))
}

fn lifetime(config: &Config, text: &str) -> Result<Duration, Box<Diagnostic>> {
    let longest = config.auth.max_lifetime;
    let what = match parse::duration(text) {
        Some(lifetime) if lifetime.as_secs() < 1 => "a token lives for 1 s at least".to_owned(),
        Some(lifetime) if lifetime > longest => {
            format!("a token lives for {} s at most (auth.max_lifetime)", longest.as_secs())
        }
        Some(lifetime) => return Ok(lifetime),
        None if text.trim().parse::<u64>().is_ok() => {
            format!("\"{}\" has no unit", text.trim())
        }
        None => format!("\"{text}\" is no length of time"),
    };
    Err(Box::new(
        Diagnostic::error(code::LIFETIME, what)
            .at("option --ttl")
            .mend("write a whole number and its unit, s, min, h or d: --ttl 10min"),
    ))
}

/// The secret to sign with: the configured one, else that of `dev`.
pub fn secret(config: &Config) -> Result<Secret, Box<Diagnostic>> {
    let text = match &config.auth.jwt_secret {
        Some(secret) => secret.expose().to_owned(),
        None => {
            let file = config.dev_secret_file();
            std::fs::read_to_string(&file).map_err(|error| {
                Box::new(
                    Diagnostic::error(code::NO_SECRET, "there is no secret to sign with")
                        .at(format!("file {}: {error}", file.display()))
                        .mend("set HEADWATER_JWT_SECRET, or start `headwater dev` once"),
                )
            })?
        }
    };
    Secret::parse(text.trim()).map_err(Box::new)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::config::{Sources, load};

    fn config(variables: &[(&str, &str)]) -> Config {
        load(&Sources {
            file: None,
            flags: Default::default(),
            environment: &|name| {
                let found = variables.iter().find(|(known, _)| *known == name);
                found.map(|(_, value)| (*value).to_owned())
            },
        })
        .expect("valid")
    }

    #[test]
    fn a_token_carries_what_was_asked_and_is_accepted_by_the_server() {
        let config = config(&[
            ("HEADWATER_JWT_SECRET", "a secret of thirty-two characters"),
            ("HEADWATER_JWT_AUDIENCE", "headwater,other"),
        ]);
        let arguments = Token {
            sub: "user-1".to_owned(),
            claims: vec!["org=acme".to_owned(), "parameters={\"team\":7}".to_owned()],
            ttl: "10min".to_owned(),
            ..Token::default()
        };
        let token = make(&config, &arguments).expect("made");
        let authenticator = hw_auth::Authenticator::new(hw_auth::AuthConfig {
            secret: Some(secret(&config).expect("configured")),
            audience: config.auth.audience.clone(),
            ..hw_auth::AuthConfig::default()
        })
        .expect("usable");
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        let principal = runtime
            .expect("a runtime")
            .block_on(authenticator.verify_token(&token))
            .expect("accepted");
        assert_eq!(principal.subject, "user-1");
        assert_eq!(principal.claims["org"], "acme");
        assert_eq!(principal.claims["parameters"]["team"], 7);
        assert_eq!(principal.claims["aud"], "headwater");
    }

    #[test]
    fn what_a_token_cannot_carry_is_refused_and_not_written_over() {
        let config = config(&[("HEADWATER_JWT_SECRET", "a secret of thirty-two characters")]);
        let arguments = |sub: &str, claims: &[&str]| Token {
            sub: sub.into(),
            claims: claims.iter().map(|claim| (*claim).to_owned()).collect(),
            ttl: "1h".into(),
            ..Token::default()
        };
        let empty = make(&config, &arguments("", &[])).expect_err("no subject");
        assert_eq!(empty.what, "a token needs a subject, which is not empty");
        for (claim, how) in [
            ("exp=1", "it follows from --ttl"),
            ("iat=1", "it is the time of now"),
            ("sub=x", "it is --sub"),
            ("aud=x", "it is --audience"),
            ("role=x", "it is --role"),
        ] {
            let finding = make(&config, &arguments("u", &[claim])).expect_err(claim);
            assert!(finding.what.ends_with(how), "{finding}");
        }
    }

    #[test]
    fn without_a_secret_it_says_where_one_would_be_found() {
        let config = config(&[("HEADWATER_DATA_DIR", "/nowhere/at/all")]);
        let arguments = Token { sub: "u".into(), ttl: "1h".into(), ..Token::default() };
        let finding = make(&config, &arguments).expect_err("no secret");
        assert_eq!(finding.code.0, 1032);
        assert!(finding.to_string().contains("/nowhere/at/all/dev-secret"), "{finding}");
    }

    #[test]
    fn a_life_longer_than_the_server_accepts_is_refused() {
        let config = config(&[]);
        for (ttl, what) in [
            ("25h", "a token lives for 86400 s at most (auth.max_lifetime)"),
            ("0s", "a token lives for 1 s at least"),
            ("5", "\"5\" has no unit"),
            ("soon", "\"soon\" is no length of time"),
        ] {
            let arguments = Token { sub: "u".into(), ttl: ttl.into(), ..Token::default() };
            let finding = make(&config, &arguments).expect_err(ttl);
            assert_eq!((finding.code.0, finding.what.as_str()), (1031, what));
            assert!(finding.mend.is_some_and(|mend| mend.contains("s, min, h or d")), "{ttl}");
        }
    }
}
