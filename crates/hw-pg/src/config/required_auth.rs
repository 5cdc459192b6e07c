//! `require_auth`: which proofs of who we are a server may ask for.
//!
//! In: the key's value, and the bytes of a session as they arrive. Out: leave to go on, or the
//! method that is refused. Invariant: a request that is not allowed is seen before whoever answers
//! requests sees it, so no password is sent to a server that asks for it in a way that was ruled
//! out.
//!
//! Source: PostgreSQL manual, "Parameter Key Words" (`require_auth`) and "Message Formats".

use std::io;

/// Methods with their name and the code of their request; `none` is a server that asks nothing.
const METHODS: [(&str, u32); 6] =
    [("none", 0), ("password", 3), ("md5", 5), ("gss", 7), ("sspi", 9), ("scram-sha-256", 10)];

/// The methods that are allowed, one bit each in the order of [`METHODS`].
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) struct RequiredAuth(u8);

impl RequiredAuth {
    /// Reads the value; `None` for one that libpq refuses too.
    pub(super) fn parse(value: &str) -> Option<RequiredAuth> {
        let names: Vec<&str> = value.split(',').map(str::trim).collect();
        let ruled_out = names.iter().all(|name| name.starts_with('!'));
        let mut named = 0;
        for name in names {
            let name = if ruled_out { name.strip_prefix('!')? } else { name };
            named |= 1 << METHODS.iter().position(|(known, _)| *known == name)?;
        }
        Some(RequiredAuth(if ruled_out { !named } else { named }))
    }

    fn allows(self, code: u32) -> bool {
        let place = METHODS.iter().position(|(_, known)| *known == code);
        place.is_some_and(|place| self.0 & (1 << place) != 0)
    }
}

/// Looks at what a server sends until it has let us in.
#[derive(Debug)]
pub(crate) struct AuthGate {
    allowed: RequiredAuth,
    /// Tag, length and first four bytes of the message that is arriving.
    head: Vec<u8>,
    /// Bytes of that message that are still to come and of no interest.
    skip: usize,
    asked: bool,
}

impl AuthGate {
    pub(crate) fn new(allowed: RequiredAuth) -> AuthGate {
        AuthGate { allowed, head: Vec::new(), skip: 0, asked: false }
    }

    /// Takes the next bytes. Returns whether the server has let us in, so that nothing more needs
    /// to be looked at.
    ///
    /// - Errors: the method that is not allowed, by name.
    pub(crate) fn look(&mut self, mut bytes: &[u8]) -> io::Result<bool> {
        loop {
            let passed = self.skip.min(bytes.len());
            self.skip -= passed;
            bytes = &bytes[passed..];
            let Some((first, rest)) = bytes.split_first() else { return Ok(false) };
            self.head.push(*first);
            bytes = rest;
            let Some(length) = self.head.get(1..5).and_then(<[u8]>::first_chunk::<4>) else {
                continue;
            };
            let length = usize::try_from(u32::from_be_bytes(*length)).unwrap_or(usize::MAX);
            if self.head[0] != b'R' || length < 8 {
                self.skip = length.saturating_sub(4);
                self.head.clear();
                continue;
            }
            let Some(code) = self.head.get(5..9).and_then(<[u8]>::first_chunk::<4>) else {
                continue;
            };
            let code = u32::from_be_bytes(*code);
            self.skip = length - 8;
            self.head.clear();
            match code {
                0 if self.asked => return Ok(true),
                // The later steps of a method that was let through.
                8 | 11 | 12 => {}
                code if self.allowed.allows(code) => {
                    self.asked = true;
                    if code == 0 {
                        return Ok(true);
                    }
                }
                code => {
                    let name = METHODS.iter().find(|(_, known)| *known == code);
                    let name = name.map_or("another method", |(name, _)| name);
                    return Err(io::Error::new(
                        io::ErrorKind::InvalidInput,
                        format!("the server asks for {name}, which require_auth does not allow"),
                    ));
                }
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn request(code: u32, more: &[u8]) -> Vec<u8> {
        let length = 8 + more.len() as u32;
        [b"R", &length.to_be_bytes()[..], &code.to_be_bytes(), more].concat()
    }

    /// `in`, `wait`, or the refused method; the same however the bytes are cut.
    fn verdict(value: &str, bytes: &[u8]) -> String {
        let told = |gate: &mut AuthGate, bytes: &[u8]| match gate.look(bytes) {
            Ok(true) => Some("in".to_owned()),
            Ok(false) => None,
            Err(error) => Some(error.to_string()),
        };
        let gate = || AuthGate::new(RequiredAuth::parse(value).expect("valid"));
        let at_once = told(&mut gate(), bytes).unwrap_or_else(|| "wait".to_owned());
        let mut slow = gate();
        let one_by_one = bytes.iter().find_map(|byte| told(&mut slow, &[*byte]));
        assert_eq!(at_once, one_by_one.unwrap_or_else(|| "wait".to_owned()));
        at_once
    }

    #[test]
    fn what_is_not_allowed_is_refused_before_it_could_be_answered() {
        let scram = [request(10, b"SCRAM-SHA-256\0\0"), request(11, b"r=x"), request(12, b"v=y")];
        let scram_in = [scram.concat(), request(0, b"")].concat();
        let refused =
            |name: &str| format!("the server asks for {name}, which require_auth does not allow");
        let notice = [b"N", &8u32.to_be_bytes()[..], b"abcd"].concat();
        for (value, bytes, expected) in [
            ("scram-sha-256", scram_in.clone(), "in".to_owned()),
            ("scram-sha-256", scram.concat(), "wait".to_owned()),
            ("scram-sha-256", [notice, scram_in.clone()].concat(), "in".to_owned()),
            ("scram-sha-256", request(3, b""), refused("password")),
            ("scram-sha-256", request(5, b"salt"), refused("md5")),
            ("scram-sha-256", request(0, b""), refused("none")),
            ("scram-sha-256,none", request(0, b""), "in".to_owned()),
            ("!password,!md5", request(3, b""), refused("password")),
            ("!password,!md5", scram_in, "in".to_owned()),
            ("!password", request(0, b""), "in".to_owned()),
            ("!none", request(0, b""), refused("none")),
            ("password", request(99, b""), refused("another method")),
        ] {
            assert_eq!(verdict(value, &bytes), expected, "{value}");
        }
    }

    #[test]
    fn a_list_is_of_methods_that_are_known_and_of_one_kind() {
        for value in ["", "scram", "md5,!password", "!md5,password", "md5,,password"] {
            assert_eq!(RequiredAuth::parse(value), None, "{value}");
        }
    }
}
