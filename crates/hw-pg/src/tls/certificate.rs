//! The few fields of an X.509 certificate that rustls does not hand out.
//!
//! In: DER bytes from the network. Out: validity, common name, whether there are alternative
//! names, and the hash that binds SCRAM to the channel. Damaged bytes give `None`.
//!
//! Source: RFC 5280 section 4.1; RFC 5929 section 4 (`tls-server-end-point`).

use aws_lc_rs::digest;

const SEQUENCE: u8 = 0x30;
const UTC_TIME: u8 = 0x17;
const COMMON_NAME: &[u8] = &[0x55, 0x04, 0x03];
const ALTERNATIVE_NAMES: &[u8] = &[0x55, 0x1d, 0x11];

/// What is read of a certificate.
pub(super) struct Certificate {
    /// Seconds since 1970.
    pub(super) not_before: i64,
    /// Seconds since 1970.
    pub(super) not_after: i64,
    /// The last common name of the subject.
    pub(super) common_name: Option<String>,
    pub(super) has_alternative_names: bool,
}

/// Reads tag, length and contents one after another.
struct Der<'a>(&'a [u8]);

impl<'a> Der<'a> {
    fn next(&mut self) -> Option<(u8, &'a [u8])> {
        let (&tag, rest) = self.0.split_first()?;
        let (&first, rest) = rest.split_first()?;
        let (length, rest) = if first < 0x80 {
            (usize::from(first), rest)
        } else {
            let count = usize::from(first & 0x7f);
            if count == 0 || count > 4 || rest.len() < count {
                return None;
            }
            let (bytes, rest) = rest.split_at(count);
            (bytes.iter().fold(0usize, |n, &byte| n << 8 | usize::from(byte)), rest)
        };
        if rest.len() < length {
            return None;
        }
        let (contents, rest) = rest.split_at(length);
        self.0 = rest;
        Some((tag, contents))
    }

    fn sequence(&mut self) -> Option<Der<'a>> {
        self.next().filter(|(tag, _)| *tag == SEQUENCE).map(|(_, contents)| Der(contents))
    }
}

impl Certificate {
    pub(super) fn read(der: &[u8]) -> Option<Certificate> {
        let mut body = Der(der).sequence()?.sequence()?;
        // Version is optional; then serial, signature algorithm, issuer.
        if body.next()?.0 == 0xa0 {
            body.next()?;
        }
        body.sequence()?;
        body.sequence()?;
        let mut validity = body.sequence()?;
        let not_before = time(validity.next()?)?;
        let not_after = time(validity.next()?)?;
        let mut subject = body.sequence()?;
        let mut common_name = None;
        while let Some((_, set)) = subject.next() {
            let mut attribute = Der(set).sequence()?;
            let (_, oid) = attribute.next()?;
            let (_, value) = attribute.next()?;
            if oid == COMMON_NAME {
                common_name = Some(std::str::from_utf8(value).ok()?.to_owned());
            }
        }
        body.sequence()?;
        let mut has_alternative_names = false;
        while let Some((tag, contents)) = body.next() {
            if tag == 0xa3 {
                let mut extensions = Der(contents).sequence()?;
                while let Some(mut extension) = extensions.sequence() {
                    has_alternative_names |= extension.next()?.1 == ALTERNATIVE_NAMES;
                }
            }
        }
        Some(Certificate { not_before, not_after, common_name, has_alternative_names })
    }
}

/// Seconds since 1970 of a UTCTime or GeneralizedTime in Zulu form.
fn time((tag, contents): (u8, &[u8])) -> Option<i64> {
    let text = std::str::from_utf8(contents).ok()?.strip_suffix('Z')?;
    if !text.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let (year, rest) = if tag == UTC_TIME {
        let year: i64 = text.get(..2)?.parse().ok()?;
        (if year < 50 { 2000 + year } else { 1900 + year }, text.get(2..)?)
    } else {
        (text.get(..4)?.parse().ok()?, text.get(4..)?)
    };
    let part = |at: usize| rest.get(at..at + 2)?.parse::<i64>().ok();
    let (month, day) = (part(0)?, part(2)?);
    let seconds = part(4)? * 3600 + part(6)? * 60 + part(8)?;
    // Days since 1970 of the proleptic Gregorian calendar, from March so that leap days are last.
    let year = if month <= 2 { year - 1 } else { year };
    let era = year.div_euclid(400);
    let of_era = year.rem_euclid(400);
    let of_year = (153 * ((month + 9) % 12) + 2) / 5 + day - 1;
    let days = era * 146_097 + of_era * 365 + of_era / 4 - of_era / 100 + of_year - 719_468;
    Some(days * 86_400 + seconds)
}

/// Whether a common name, perhaps with one leading `*` label, fits a host name.
pub(super) fn name_fits(pattern: &str, host: &str) -> bool {
    if pattern.eq_ignore_ascii_case(host) {
        return true;
    }
    match (pattern.strip_prefix("*."), host.split_once('.')) {
        (Some(domain), Some((_, rest))) => {
            domain.contains('.') && domain.eq_ignore_ascii_case(rest)
        }
        _ => false,
    }
}

/// The hash of a certificate that binds SCRAM to the TLS channel: by the hash of the certificate's
/// own signature, MD5 and SHA-1 raised to SHA-256. `None` where that is not defined (Ed25519, PSS).
pub(crate) fn end_point_hash(der: &[u8]) -> Option<Vec<u8>> {
    let mut certificate = Der(der).sequence()?;
    certificate.sequence()?;
    let (_, oid) = certificate.sequence()?.next()?;
    let algorithm = match oid {
        // 1.2.840.113549.1.1.x: RSA with MD5, SHA-1, SHA-256, SHA-384, SHA-512.
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 4 | 5 | 11] => &digest::SHA256,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 12] => &digest::SHA384,
        [0x2a, 0x86, 0x48, 0x86, 0xf7, 0x0d, 1, 1, 13] => &digest::SHA512,
        // 1.2.840.10045.4.x: ECDSA with SHA-1, SHA-256, SHA-384, SHA-512.
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 1] | [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 2] => {
            &digest::SHA256
        }
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 3] => &digest::SHA384,
        [0x2a, 0x86, 0x48, 0xce, 0x3d, 4, 3, 4] => &digest::SHA512,
        _ => return None,
    };
    Some(digest::digest(algorithm, der).as_ref().to_vec())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn times_of_both_forms_are_read() {
        assert_eq!(time((UTC_TIME, b"700101000000Z")), Some(0));
        assert_eq!(time((UTC_TIME, b"240229120001Z")), Some(1_709_208_001));
        assert_eq!(time((0x18, b"20500101000000Z")), Some(2_524_608_000));
        assert_eq!(time((UTC_TIME, b"2402Z")), None);
        assert_eq!(time((UTC_TIME, b"240229120001+0100")), None);
    }

    #[test]
    fn a_wildcard_stands_for_one_label() {
        for (pattern, host, fits) in [
            ("db.example.com", "DB.example.com", true),
            ("*.example.com", "db.example.com", true),
            ("*.example.com", "a.db.example.com", false),
            ("*.com", "example.com", false),
            ("db.example.com", "db2.example.com", false),
        ] {
            assert_eq!(name_fits(pattern, host), fits, "{pattern} {host}");
        }
    }

    #[test]
    fn damaged_certificates_never_panic() {
        for bytes in [&[][..], &[0x30, 0x84, 0xff][..], &[0x30, 0x03, 0x30, 0x01, 0xa0][..]] {
            assert!(Certificate::read(bytes).is_none());
            assert!(end_point_hash(bytes).is_none());
        }
    }
}
