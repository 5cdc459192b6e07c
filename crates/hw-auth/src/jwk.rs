//! JSON Web Keys: which ones we take, from where, and which one a token means.
//!
//! In flows the text of a JWKS; out flow [`Key`]s and the reasons why others were left out.
//! Invariant: a shared secret (`oct`) is never taken from a remote JWKS, which everybody can read.

use serde::Deserialize;

use crate::algorithm::{Algorithm, Curve, Material};
use crate::secret::{decode_any_base64, not_a_secret};

/// Where a JWKS comes from.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Origin {
    /// Our configuration: secrets are welcome, an unusable key is an error.
    Static,
    /// An address: secrets are ignored, an unusable key is left out.
    Remote,
}

/// One key that may verify tokens.
pub(crate) struct Key {
    pub(crate) id: Option<String>,
    /// The only algorithm the key was made for, when it says so.
    algorithm: Option<Algorithm>,
    material: Material,
}

impl Key {
    /// A shared secret without an id: it is tried for every token that no other key claims by id.
    pub(crate) fn secret(bytes: &[u8]) -> Key {
        Key { id: None, algorithm: None, material: Material::Secret(bytes.to_vec()) }
    }

    /// Whether the token's algorithm fits the key.
    pub(crate) fn accepts(&self, algorithm: Algorithm) -> bool {
        self.algorithm.is_none_or(|own| own == algorithm) && self.material.accepts(algorithm)
    }

    /// Whether the signature is this key's.
    pub(crate) fn verify(&self, algorithm: Algorithm, message: &[u8], signature: &[u8]) -> bool {
        self.accepts(algorithm) && self.material.verify(algorithm, message, signature)
    }
}

/// A JWKS, read.
#[derive(Default)]
pub(crate) struct KeySet {
    pub(crate) keys: Vec<Key>,
    /// Why keys were left out, by place in the set: `key 2: curve "Ed448" is not supported`.
    pub(crate) left_out: Vec<String>,
}

#[derive(Deserialize)]
struct WireSet {
    keys: Vec<serde_json::Value>,
}

#[derive(Deserialize)]
struct WireKey {
    kty: String,
    kid: Option<String>,
    alg: Option<String>,
    r#use: Option<String>,
    key_ops: Option<Vec<String>>,
    crv: Option<String>,
    k: Option<String>,
    n: Option<String>,
    e: Option<String>,
    x: Option<String>,
    y: Option<String>,
}

/// Reads the text of a JWKS. Errors: not JSON, or not an object with an array `keys`.
pub(crate) fn read(text: &[u8], origin: Origin) -> Result<KeySet, String> {
    // serde_json's message may quote the text, which may hold a secret: say only where.
    let set: WireSet = serde_json::from_slice(text).map_err(|error| {
        format!("no JSON Web Key Set (line {}, column {})", error.line(), error.column())
    })?;
    let mut out = KeySet::default();
    for (index, value) in set.keys.into_iter().enumerate() {
        let read = serde_json::from_value::<WireKey>(value)
            .map_err(|_| "a member is missing or of another type".to_owned())
            .and_then(|wire| read_key(&wire, origin));
        match read {
            Ok(key) => out.keys.push(key),
            Err(reason) => out.left_out.push(format!("key {}: {reason}", index + 1)),
        }
    }
    Ok(out)
}

fn read_key(wire: &WireKey, origin: Origin) -> Result<Key, String> {
    if wire.r#use.as_deref().is_some_and(|purpose| purpose != "sig") {
        return Err("its \"use\" is not \"sig\"".to_owned());
    }
    if wire.key_ops.as_ref().is_some_and(|ops| !ops.iter().any(|op| op == "verify")) {
        return Err("its \"key_ops\" do not include \"verify\"".to_owned());
    }
    let algorithm = match wire.alg.as_deref() {
        None => None,
        Some(name) => Some(Algorithm::from_name(name).ok_or_else(|| {
            format!("algorithm \"{}\" is not supported", known_name(name, KNOWN_ALGORITHMS))
        })?),
    };
    let material = read_material(wire, origin)?;
    if algorithm.is_some_and(|algorithm| !material.accepts(algorithm)) {
        return Err("its \"alg\" does not belong to its key type".to_owned());
    }
    Ok(Key { id: wire.kid.clone(), algorithm, material })
}

fn read_material(wire: &WireKey, origin: Origin) -> Result<Material, String> {
    let part = |name: &str, value: &Option<String>| -> Result<Vec<u8>, String> {
        value
            .as_deref()
            .and_then(decode_any_base64)
            .filter(|bytes| !bytes.is_empty())
            .ok_or_else(|| format!("member \"{name}\" is missing or not base64url"))
    };
    let curve = wire.crv.as_deref().unwrap_or("");
    match (wire.kty.as_str(), origin) {
        ("oct", Origin::Remote) => Err("a shared secret in a remote JWKS is ignored".to_owned()),
        ("oct", Origin::Static) => {
            let secret = part("k", &wire.k)?;
            match not_a_secret(&secret) {
                Some(what) => Err(format!("its \"k\" is {what}, which is no shared secret")),
                None => Ok(Material::Secret(secret)),
            }
        }
        ("RSA", _) => Material::rsa(&part("n", &wire.n)?, &part("e", &wire.e)?)
            .ok_or_else(|| "no RSA key of 2048 to 8192 bits".to_owned()),
        ("EC", _) => {
            let curve = Curve::from_name(curve).ok_or_else(|| unsupported_curve(curve))?;
            Material::ec(curve, &part("x", &wire.x)?, &part("y", &wire.y)?)
                .ok_or_else(|| "its point is not on its curve".to_owned())
        }
        ("OKP", _) if curve == "Ed25519" => Material::ed25519(&part("x", &wire.x)?)
            .ok_or_else(|| "no Ed25519 key of 32 bytes".to_owned()),
        ("OKP", _) => Err(unsupported_curve(curve)),
        _ => Err("its key type is not supported".to_owned()),
    }
}

fn unsupported_curve(curve: &str) -> String {
    const KNOWN: &[&str] = &["Ed448", "X25519", "X448", "secp256k1"];
    match known_name(curve, KNOWN) {
        "Ed448" => "curve \"Ed448\" is not supported: the crypto library has no Ed448; use \
                    Ed25519 (EdDSA) or P-521 (ES512)"
            .to_owned(),
        name => format!("curve \"{name}\" is not supported"),
    }
}

const KNOWN_ALGORITHMS: &[&str] =
    &["PS256", "PS384", "PS512", "ES256K", "Ed448", "RSA-OAEP", "RSA-OAEP-256", "none"];

/// The name when it is one that people use, so that no text from outside reaches a log unseen.
fn known_name<'a>(name: &str, known: &[&'a str]) -> &'a str {
    known.iter().find(|known| **known == name).copied().unwrap_or("…")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn left_out(keys: &str, origin: Origin) -> Vec<String> {
        let set = read(format!("{{\"keys\":[{keys}]}}").as_bytes(), origin).unwrap();
        assert!(set.keys.is_empty());
        set.left_out
    }

    #[test]
    fn keys_that_cannot_verify_are_left_out_with_the_reason() {
        let cases = [
            (r#"{"kty":"oct","k":"aGk"}"#, "a shared secret in a remote JWKS is ignored"),
            (r#"{"kty":"RSA","use":"enc","n":"AQ","e":"AQ"}"#, "its \"use\" is not \"sig\""),
            (
                r#"{"kty":"RSA","key_ops":["sign"],"n":"AQ","e":"AQ"}"#,
                "its \"key_ops\" do not include \"verify\"",
            ),
            (r#"{"kty":"RSA","n":"AQ","e":"AQAB"}"#, "no RSA key of 2048 to 8192 bits"),
            (r#"{"kty":"RSA","e":"AQAB"}"#, "member \"n\" is missing or not base64url"),
            (
                r#"{"kty":"OKP","crv":"Ed448","x":"AQ"}"#,
                "curve \"Ed448\" is not supported: the crypto library has no Ed448; use Ed25519 \
                 (EdDSA) or P-521 (ES512)",
            ),
            (r#"{"kty":"EC","crv":"secp256k1"}"#, "curve \"secp256k1\" is not supported"),
            (r#"{"kty":"EC","crv":"P-256","x":"AQ","y":"AQ"}"#, "its point is not on its curve"),
            (r#"{"kty":"RSA","alg":"PS256"}"#, "algorithm \"PS256\" is not supported"),
            (r#"{"kty":"mine"}"#, "its key type is not supported"),
            (r#"{"kid":"a"}"#, "a member is missing or of another type"),
            ("3", "a member is missing or of another type"),
        ];
        for (key, reason) in cases {
            assert_eq!(left_out(key, Origin::Remote), [format!("key 1: {reason}")], "{key}");
        }
    }

    #[test]
    fn a_set_that_is_no_set_is_refused_without_quoting_it() {
        for text in ["", "[]", "{}", "{\"keys\":\"hush\"}"] {
            let error = read(text.as_bytes(), Origin::Static).err().unwrap();
            assert!(error.starts_with("no JSON Web Key Set"), "{error}");
            assert!(!error.contains("hush"));
        }
    }

    #[test]
    fn a_static_secret_with_an_algorithm_serves_that_algorithm_only() {
        let set =
            read(br#"{"keys":[{"kty":"oct","alg":"HS512","kid":"a","k":"aGk"}]}"#, Origin::Static)
                .unwrap();
        assert!(set.keys[0].accepts(Algorithm::Hs512));
        assert!(!set.keys[0].accepts(Algorithm::Hs256));
        assert_eq!(left_out(r#"{"kty":"oct","alg":"RS256","k":"aGk"}"#, Origin::Static).len(), 1);
    }
}
