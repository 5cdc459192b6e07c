//! The shared secret of `HEADWATER_JWT_SECRET`: raw text, or bytes behind `base64:`.

use std::fmt;

use base64::Engine as _;
use base64::engine::{DecodePaddingMode, GeneralPurpose, GeneralPurposeConfig};
use hw_types::Diagnostic;

use crate::error::BAD_SECRET;

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
    /// - Errors: HW4003 for an empty secret and for bytes that are not base64.
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
}
