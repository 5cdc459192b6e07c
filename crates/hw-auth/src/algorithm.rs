//! The signature algorithms we accept, and the check of one signature.
//!
//! All cryptography is aws-lc-rs, which also has ES512. A key only ever checks algorithms of its
//! own family, so a public key can never be mistaken for a shared secret.

use aws_lc_rs::signature::{
    self, EcdsaVerificationAlgorithm, ParsedPublicKey, RsaPublicKeyComponents,
};
use aws_lc_rs::{hmac, signature::RsaParameters};

/// A JWS algorithm that can be accepted. `none` has no value here, so it never is.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash)]
#[allow(missing_docs)] // The names of RFC 7518 section 3.1 and RFC 8037 say all there is to say.
pub enum Algorithm {
    Hs256,
    Hs384,
    Hs512,
    Rs256,
    Rs384,
    Rs512,
    Es256,
    Es384,
    Es512,
    EdDsa,
}

impl Algorithm {
    /// Every accepted algorithm.
    pub const ALL: [Algorithm; 10] = [
        Algorithm::Hs256,
        Algorithm::Hs384,
        Algorithm::Hs512,
        Algorithm::Rs256,
        Algorithm::Rs384,
        Algorithm::Rs512,
        Algorithm::Es256,
        Algorithm::Es384,
        Algorithm::Es512,
        Algorithm::EdDsa,
    ];

    /// Its name in a token's header.
    pub fn name(self) -> &'static str {
        match self {
            Algorithm::Hs256 => "HS256",
            Algorithm::Hs384 => "HS384",
            Algorithm::Hs512 => "HS512",
            Algorithm::Rs256 => "RS256",
            Algorithm::Rs384 => "RS384",
            Algorithm::Rs512 => "RS512",
            Algorithm::Es256 => "ES256",
            Algorithm::Es384 => "ES384",
            Algorithm::Es512 => "ES512",
            Algorithm::EdDsa => "EdDSA",
        }
    }

    /// The algorithm of that name, if we accept it.
    pub fn from_name(name: &str) -> Option<Algorithm> {
        Algorithm::ALL.into_iter().find(|algorithm| algorithm.name() == name)
    }

    /// Whether it signs with a shared secret.
    pub fn is_symmetric(self) -> bool {
        matches!(self, Algorithm::Hs256 | Algorithm::Hs384 | Algorithm::Hs512)
    }

    pub(crate) fn hmac(self) -> Option<hmac::Algorithm> {
        match self {
            Algorithm::Hs256 => Some(hmac::HMAC_SHA256),
            Algorithm::Hs384 => Some(hmac::HMAC_SHA384),
            Algorithm::Hs512 => Some(hmac::HMAC_SHA512),
            _ => None,
        }
    }

    // Keys under 2048 bits are refused by these parameters.
    fn rsa(self) -> Option<&'static RsaParameters> {
        match self {
            Algorithm::Rs256 => Some(&signature::RSA_PKCS1_2048_8192_SHA256),
            Algorithm::Rs384 => Some(&signature::RSA_PKCS1_2048_8192_SHA384),
            Algorithm::Rs512 => Some(&signature::RSA_PKCS1_2048_8192_SHA512),
            _ => None,
        }
    }
}

/// A curve of RFC 7518 section 6.2.1.1, each bound to one algorithm.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Curve {
    P256,
    P384,
    P521,
}

impl Curve {
    pub(crate) fn from_name(name: &str) -> Option<Curve> {
        match name {
            "P-256" => Some(Curve::P256),
            "P-384" => Some(Curve::P384),
            "P-521" => Some(Curve::P521),
            _ => None,
        }
    }

    /// Bytes of one coordinate.
    pub(crate) fn coordinate_bytes(self) -> usize {
        match self {
            Curve::P256 => 32,
            Curve::P384 => 48,
            Curve::P521 => 66,
        }
    }

    fn algorithm(self) -> Algorithm {
        match self {
            Curve::P256 => Algorithm::Es256,
            Curve::P384 => Algorithm::Es384,
            Curve::P521 => Algorithm::Es512,
        }
    }

    fn verification(self) -> &'static EcdsaVerificationAlgorithm {
        match self {
            Curve::P256 => &signature::ECDSA_P256_SHA256_FIXED,
            Curve::P384 => &signature::ECDSA_P384_SHA384_FIXED,
            Curve::P521 => &signature::ECDSA_P521_SHA512_FIXED,
        }
    }
}

/// Key material, parsed and ready to check signatures.
pub(crate) enum Material {
    Secret(Vec<u8>),
    Rsa { modulus: Vec<u8>, exponent: Vec<u8> },
    Ec { curve: Curve, key: ParsedPublicKey },
    Ed25519(ParsedPublicKey),
}

impl Material {
    /// Parses an EC point; `None` when it is not on the curve.
    pub(crate) fn ec(curve: Curve, x: &[u8], y: &[u8]) -> Option<Material> {
        let bytes = curve.coordinate_bytes();
        if x.len() != bytes || y.len() != bytes {
            return None;
        }
        // The uncompressed form of SEC 1 section 2.3.3.
        let point = [&[4u8], x, y].concat();
        let key = ParsedPublicKey::new(curve.verification(), point).ok()?;
        Some(Material::Ec { curve, key })
    }

    /// Parses an Ed25519 public key of 32 bytes.
    pub(crate) fn ed25519(x: &[u8]) -> Option<Material> {
        ParsedPublicKey::new(&signature::ED25519, x).ok().map(Material::Ed25519)
    }

    /// Parses an RSA public key of 2048 to 8192 bits.
    pub(crate) fn rsa(modulus: &[u8], exponent: &[u8]) -> Option<Material> {
        // Some issuers write a leading zero byte, which RFC 7518 section 6.3.1.1 forbids and
        // every implementation accepts.
        let trim = |bytes: &[u8]| -> Vec<u8> {
            bytes.iter().copied().skip_while(|byte| *byte == 0).collect()
        };
        let (modulus, exponent) = (trim(modulus), trim(exponent));
        let bits = modulus.len() * 8 - modulus.first()?.leading_zeros() as usize;
        let parsed = RsaPublicKeyComponents { n: &modulus[..], e: &exponent[..] }
            .to_parsed_public_key(&signature::RSA_PKCS1_2048_8192_SHA256);
        if !(2048..=8192).contains(&bits) || parsed.is_err() {
            return None;
        }
        Some(Material::Rsa { modulus, exponent })
    }

    /// Whether a token with this algorithm could have been signed by this key.
    pub(crate) fn accepts(&self, algorithm: Algorithm) -> bool {
        match self {
            Material::Secret(_) => algorithm.is_symmetric(),
            Material::Rsa { .. } => algorithm.rsa().is_some(),
            Material::Ec { curve, .. } => curve.algorithm() == algorithm,
            Material::Ed25519(_) => algorithm == Algorithm::EdDsa,
        }
    }

    /// Whether `signature` is this key's signature of `message`. The comparison of HMAC tags takes
    /// the same time wherever they differ.
    pub(crate) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        match self {
            Material::Secret(secret) => algorithm.hmac().is_some_and(|hash| {
                hmac::verify(&hmac::Key::new(hash, secret), message, signature).is_ok()
            }),
            Material::Rsa { modulus, exponent } => algorithm.rsa().is_some_and(|parameters| {
                RsaPublicKeyComponents { n: &modulus[..], e: &exponent[..] }
                    .verify(parameters, message, signature)
                    .is_ok()
            }),
            Material::Ec { curve, key } => {
                curve.algorithm() == algorithm && key.verify_sig(message, signature).is_ok()
            }
            Material::Ed25519(key) => {
                algorithm == Algorithm::EdDsa && key.verify_sig(message, signature).is_ok()
            }
        }
    }
}
