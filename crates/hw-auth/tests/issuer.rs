//! An issuer of tokens with freshly made keys, which knows nothing of the code under test.

use aws_lc_rs::hmac;
use aws_lc_rs::rand::SystemRandom;
use aws_lc_rs::rsa::KeySize;
use aws_lc_rs::signature::{self, EcdsaKeyPair, Ed25519KeyPair, KeyPair as _, RsaKeyPair};
use base64::Engine as _;
use base64::engine::general_purpose::URL_SAFE_NO_PAD;
use serde_json::{Value, json};

pub const NOW: u64 = 1_900_000_000;

/// Makes the signature of a message.
type Sign = Box<dyn Fn(&[u8]) -> Vec<u8>>;

/// Something that signs under one algorithm name.
pub struct Signer {
    pub alg: &'static str,
    sign: Sign,
    /// The public JWK, or the secret one for HS.
    pub jwk: Value,
}

fn b64(bytes: impl AsRef<[u8]>) -> String {
    URL_SAFE_NO_PAD.encode(bytes)
}

pub fn hs(alg: &'static str, secret: &'static [u8]) -> Signer {
    let hash = match alg {
        "HS256" => hmac::HMAC_SHA256,
        "HS384" => hmac::HMAC_SHA384,
        _ => hmac::HMAC_SHA512,
    };
    let key = hmac::Key::new(hash, secret);
    Signer {
        alg,
        sign: Box::new(move |message| hmac::sign(&key, message).as_ref().to_vec()),
        jwk: json!({"kty": "oct", "k": b64(secret)}),
    }
}

pub fn rs(alg: &'static str) -> Signer {
    let pair = RsaKeyPair::generate(KeySize::Rsa2048).unwrap();
    // RFC 8017 A.1.1 in DER: a header of 9 bytes, 256 of modulus, a header of 2, 3 of exponent.
    let der = pair.public_key().as_ref().to_vec();
    let encoding: &'static dyn signature::RsaEncoding = match alg {
        "RS256" => &signature::RSA_PKCS1_SHA256,
        "RS384" => &signature::RSA_PKCS1_SHA384,
        _ => &signature::RSA_PKCS1_SHA512,
    };
    let jwk = json!({"kty": "RSA", "n": b64(&der[9..265]), "e": b64(&der[267..])});
    let sign = move |message: &[u8]| {
        let mut signature = vec![0; pair.public_modulus_len()];
        pair.sign(encoding, &SystemRandom::new(), message, &mut signature).unwrap();
        signature
    };
    Signer { alg, sign: Box::new(sign), jwk }
}

pub fn es(alg: &'static str) -> Signer {
    let (algorithm, curve) = match alg {
        "ES256" => (&signature::ECDSA_P256_SHA256_FIXED_SIGNING, "P-256"),
        "ES384" => (&signature::ECDSA_P384_SHA384_FIXED_SIGNING, "P-384"),
        _ => (&signature::ECDSA_P521_SHA512_FIXED_SIGNING, "P-521"),
    };
    let pair = EcdsaKeyPair::generate(algorithm).unwrap();
    let point = pair.public_key().as_ref()[1..].to_vec();
    let (x, y) = point.split_at(point.len() / 2);
    let jwk = json!({"kty": "EC", "crv": curve, "x": b64(x), "y": b64(y)});
    let sign =
        move |message: &[u8]| pair.sign(&SystemRandom::new(), message).unwrap().as_ref().to_vec();
    Signer { alg, sign: Box::new(sign), jwk }
}

pub fn ed25519() -> Signer {
    let pair = Ed25519KeyPair::generate().unwrap();
    let jwk = json!({"kty": "OKP", "crv": "Ed25519", "x": b64(pair.public_key().as_ref())});
    Signer {
        alg: "EdDSA",
        sign: Box::new(move |message| pair.sign(message).as_ref().to_vec()),
        jwk,
    }
}

impl Signer {
    /// The JWK with more members.
    pub fn jwk_with(&self, more: Value) -> Value {
        let mut jwk = self.jwk.clone();
        jwk.as_object_mut().unwrap().extend(more.as_object().unwrap().clone());
        jwk
    }

    /// A token over these claims, with this `kid`.
    pub fn token(&self, kid: Option<&str>, claims: &Value) -> String {
        let mut header = json!({"alg": self.alg, "typ": "JWT"});
        if let Some(kid) = kid {
            header["kid"] = kid.into();
        }
        self.token_with_header(&header, claims)
    }

    pub fn token_with_header(&self, header: &Value, claims: &Value) -> String {
        let message = format!("{}.{}", b64(header.to_string()), b64(claims.to_string()));
        let signature = (self.sign)(message.as_bytes());
        format!("{message}.{}", b64(signature))
    }

    /// A good token for user `u`, audience `app`.
    pub fn good(&self, kid: Option<&str>) -> String {
        self.token(kid, &good_claims())
    }
}

pub fn good_claims() -> Value {
    json!({"sub": "u", "iat": NOW, "exp": NOW + 300, "aud": "app"})
}

pub fn jwks(keys: &[Value]) -> String {
    json!({ "keys": keys }).to_string()
}
