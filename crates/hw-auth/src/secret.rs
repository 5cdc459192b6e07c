//! The shared secret of `HEADWATER_JWT_SECRET`: raw text, or bytes behind `base64:`.

use std::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hw_types::Diagnostic;

use crate::error::BAD_SECRET;

/// What a key is that everybody may know, if these bytes are one: a public key in the place of a
/// shared secret lets in whoever signs with it. A private key does not belong here either.
pub(crate) fn not_a_secret(bytes: &[u8]) -> Option<&'static str> {
    let trimmed = bytes.trim_ascii();
    let text = std::str::from_utf8(trimmed).unwrap_or("");
    let is_json_key = || {
        serde_json::from_str::<serde_json::Map<String, serde_json::Value>>(text)
            .is_ok_and(|members| members.contains_key("kty") || members.contains_key("keys"))
    };
    if text.starts_with("-----BEGIN ") {
        Some("a key or certificate in PEM")
    } else if text.starts_with("ssh-") || text.starts_with("ecdsa-sha2-") {
        Some("a public key of SSH")
    } else if is_json_key() {
        Some("a JSON Web Key")
    } else if is_der(trimmed) || decode_any_base64(text).is_some_and(|inner| is_der(&inner)) {
        Some("a key or certificate in DER")
    } else {
        None
    }
}

/// Whether the bytes are exactly one ASN.1 SEQUENCE with a long length, as keys and certificates
/// are. Random bytes are that once in billions.
fn is_der(bytes: &[u8]) -> bool {
    match bytes {
        [0x30, 0x81, length, rest @ ..] => rest.len() == usize::from(*length),
        [0x30, 0x82, high, low, rest @ ..] => {
            rest.len() == usize::from(u16::from_be_bytes([*high, *low]))
        }
        _ => false,
    }
}

/// Reads base64 with or without padding, in the standard or the URL alphabet.
pub(crate) fn decode_any_base64(text: &str) -> Option<Vec<u8>> {
    const LENIENT: GeneralPurposeConfig =
        GeneralPurposeConfig::new().with_decode_padding_mode(DecodePaddingMode::Indifferent);
    let alphabet = if text.contains(['-', '_']) {
        base64::alphabet::URL_SAFE
    } else {
        base64::alphabet::STANDARD
    };
    GeneralPurpose::new(&alphabet, LENIENT).decode(text).ok()
}

/// Key bytes for HS256, HS384 and HS512. Never printed.
#[derive(Clone, PartialEq, Eq)]
pub struct Secret(Vec<u8>);

impl Secret {
    /// Reads a configured secret.
    ///
    /// - Takes: raw text (its UTF-8 bytes are the key), or `base64:` and base64 in the standard
    ///   or the URL alphabet, with or without padding.
    /// - Errors: HW4003 for an empty secret, for bytes that are not base64, and for a key that is
    ///   no secret.
    pub fn parse(text: &str) -> Result<Secret, Diagnostic> {
        let mend = "make one with: openssl rand -base64 32, and write it as base64:…";
        let bytes = match text.strip_prefix("base64:") {
            Some(encoded) => decode_any_base64(encoded.trim()).ok_or_else(|| {
                Diagnostic::error(BAD_SECRET, "the JWT secret behind \"base64:\" is not base64")
                    .mend(mend)
            })?,
            None => text.as_bytes().to_vec(),
        };
        if bytes.is_empty() {
            return Err(Diagnostic::error(BAD_SECRET, "the JWT secret is empty").mend(mend));
        }
        if let Some(what) = not_a_secret(&bytes) {
            let what = format!("the JWT secret is {what}, which is no shared secret");
            return Err(Diagnostic::error(BAD_SECRET, what).mend(
                "give public keys as a key set with auth.jwks_url or auth.jwks; make a shared \
                 secret with: openssl rand -base64 32",
            ));
        }
        Ok(Secret(bytes))
    }

    /// Key bytes that were made elsewhere (`headwater dev` makes its own).
    /// Errors: HW4003 when empty.
    pub fn from_bytes(bytes: Vec<u8>) -> Result<Secret, Diagnostic> {
        if bytes.is_empty() {
            return Err(Diagnostic::error(BAD_SECRET, "the JWT secret is empty"));
        }
        Ok(Secret(bytes))
    }

    /// Whether it is shorter than the 32 bytes that RFC 7518 section 3.2 asks of HS256; such a
    /// secret works, and `doctor` warns.
    pub fn is_short(&self) -> bool {
        self.0.len() < 32
    }

    pub(crate) fn bytes(&self) -> &[u8] {
        &self.0
    }
}

impl fmt::Debug for Secret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("Secret(…)")
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_secret_is_raw_text_or_base64_in_any_dress() {
        assert_eq!(Secret::parse("hush").unwrap().bytes(), b"hush");
        for text in ["base64:+/8AAQ==", "base64:+/8AAQ", "base64:-_8AAQ", "base64:-_8AAQ=="] {
            assert_eq!(Secret::parse(text).unwrap().bytes(), [0xfb, 0xff, 0, 1], "{text}");
        }
    }

    #[test]
    fn an_empty_or_broken_secret_is_refused_without_being_repeated() {
        for text in ["", "base64:", "base64:hush!hush"] {
            let error = Secret::parse(text).unwrap_err();
            assert_eq!(error.code.0, BAD_SECRET);
            assert!(!error.to_string().contains("hush"));
        }
        assert_eq!(format!("{:?}", Secret::parse("hush").unwrap()), "Secret(…)");
    }

    #[test]
    fn a_key_that_everybody_may_know_is_no_secret() {
        let pem = "-----BEGIN PUBLIC KEY-----\nMCowBQYDK2VwAyEA\n-----END PUBLIC KEY-----\n";
        let encode = |bytes: &[u8]| base64::engine::general_purpose::STANDARD.encode(bytes);
        // What stands between the lines of a PEM file: 0x30, a length of 0x81 nn, the rest.
        let der = [&[0x30, 0x81, 0x9f][..], &[7; 0x9f]].concat();
        for text in [
            pem.to_owned(),
            format!("  {pem}"),
            format!("base64:{}", encode(pem.as_bytes())),
            encode(&der),
            format!("base64:{}", encode(&der)),
            "ssh-ed25519 AAAAC3NzaC1lZDI1NTE5".to_owned(),
            r#"{"kty":"RSA","n":"hush","e":"AQAB"}"#.to_owned(),
            r#"{"keys":[]}"#.to_owned(),
        ] {
            let error = Secret::parse(&text).expect_err("refused");
            assert_eq!(error.code.0, BAD_SECRET, "{error}");
            assert!(!error.to_string().contains("hush"), "{error}");
        }
        // Secrets that only look a little like one.
        for text in ["0123456789abcdef0123456789abcdef", "{\"a\":1}", "-----", "MIIB"] {
            assert!(Secret::parse(text).is_ok(), "{text}");
        }
    }
}
