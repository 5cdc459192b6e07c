//! TLS to Postgres: one place for what each `sslmode` means.
//!
//! In: [`TlsSettings`] and the host's name. Out: a rustls configuration, and the text for a person
//! when a handshake fails. Invariant: the provider is named here (aws-lc-rs), so nothing depends
//! on what the process installed as its default.
//!
//! Source: PostgreSQL manual, "SSL Support" of libpq; libpq `fe-secure-openssl.c`.

mod certificate;
mod verify;

pub(crate) use certificate::end_point_hash;

use crate::config::{RootCertificates, SslMode, SslNegotiation, TlsSettings};
use crate::error::{PgError, PgErrorKind, Result, code};
use hw_types::Diagnostic;
use rustls::crypto::CryptoProvider;
use rustls::{CertificateError, ClientConfig};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName};
use std::path::Path;
use std::sync::Arc;
use verify::{Check, Verifier};

/// The one crypto provider of Headwater.
pub(crate) fn provider() -> Arc<CryptoProvider> {
    Arc::new(rustls::crypto::aws_lc_rs::default_provider())
}

/// Makes the configuration of a handshake.
///
/// - Errors: `HW2016` for a certificate or key file that cannot be used.
pub(crate) fn client_config(settings: &TlsSettings) -> Result<Arc<ClientConfig>> {
    let provider = provider();
    let roots = roots(settings)?;
    let check = match (settings.mode, roots.is_empty()) {
        (SslMode::VerifyFull, _) => Check::ChainAndName,
        (SslMode::VerifyCa, _) => Check::Chain,
        // As libpq: a root certificate file that is there is used.
        (_, false) => Check::Chain,
        (_, true) => Check::Nothing,
    };
    let verifier = Verifier::new(check, roots, &provider)
        .map_err(|reason| unusable_file(format!("no root certificate can be used: {reason}")))?;
    let versions: &[&rustls::SupportedProtocolVersion] = match settings.only_tls13 {
        true => &[&rustls::version::TLS13],
        false => rustls::ALL_VERSIONS,
    };
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(versions)
        .map_err(|error| PgError::protocol(error.to_string()))?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier));
    let mut config = match &settings.certificate {
        None => builder.with_no_client_auth(),
        Some(path) => {
            let key_path = settings.key.as_deref().unwrap_or(path);
            let chain = certificates(path)?;
            let key = private_key(key_path)?;
            builder.with_client_auth_cert(chain, key).map_err(|error| {
                unusable_file(format!("{} and its key: {error}", path.display()))
            })?
        }
    };
    config.enable_sni = settings.send_name;
    if settings.negotiation == SslNegotiation::Direct {
        config.alpn_protocols = vec![b"postgresql".to_vec()];
    }
    Ok(Arc::new(config))
}

/// The name to send and to check. Where the certificate's name is not checked, a host name that
/// TLS cannot carry is replaced: it has no effect then.
pub(crate) fn server_name(settings: &TlsSettings, host: &str) -> Result<ServerName<'static>> {
    match ServerName::try_from(host.to_owned()) {
        Ok(name) => Ok(name),
        Err(_) if settings.mode != SslMode::VerifyFull => {
            Ok(ServerName::try_from("postgres.invalid").expect("a valid constant name"))
        }
        Err(_) => Err(PgError::from(
            Diagnostic::error(
                code::CONNECTION_STRING,
                "sslmode=verify-full needs a host name that a certificate can hold",
            )
            .mend("write the name of the certificate as host, and the address as hostaddr"),
        )),
    }
}

/// What a failed handshake means, for a person.
pub(crate) fn handshake_error(host: String, error: &rustls::Error) -> PgError {
    use CertificateError::*;
    let (reason, mend) = match error {
        rustls::Error::InvalidCertificate(UnknownIssuer) => (
            String::from("no trusted root signed the server's certificate"),
            Some("name the root certificate file with sslrootcert=…, or use sslrootcert=system"),
        ),
        rustls::Error::InvalidCertificate(BadSignature) => (
            String::from("the key of the trusted root did not sign the server's certificate"),
            Some("renew the root certificate file: its name fits, its key does not"),
        ),
        rustls::Error::InvalidCertificate(NotValidForNameContext { presented, .. }) => (
            match presented.is_empty() {
                true => String::from("the server's certificate names no host"),
                false => {
                    let names: Vec<&str> = presented.iter().map(|name| plain(name)).collect();
                    format!("the server's certificate is for {}", names.join(", "))
                }
            },
            Some("connect by a name of the certificate, or use sslmode=verify-ca"),
        ),
        rustls::Error::InvalidCertificate(NotValidForName) => (
            String::from("the server's certificate is for another name"),
            Some("connect by a name of the certificate, or use sslmode=verify-ca"),
        ),
        rustls::Error::InvalidCertificate(Expired | ExpiredContext { .. }) => {
            (String::from("the server's certificate has expired"), None)
        }
        rustls::Error::InvalidCertificate(NotValidYet | NotValidYetContext { .. }) => {
            (String::from("the server's certificate is not valid yet"), None)
        }
        other => (other.to_string(), None),
    };
    PgError::new(PgErrorKind::Tls { host, reason, mend })
}

/// `db.example.com` of webpki's `DnsName("db.example.com")`.
fn plain(presented: &str) -> &str {
    let inner = presented.split_once('(').and_then(|(_, rest)| rest.strip_suffix(')'));
    inner.unwrap_or(presented).trim_matches('"')
}

fn roots(settings: &TlsSettings) -> Result<Vec<CertificateDer<'static>>> {
    let must_verify = matches!(settings.mode, SslMode::VerifyCa | SslMode::VerifyFull);
    match &settings.roots {
        RootCertificates::System => {
            let found = rustls_native_certs::load_native_certs();
            match found.certs.is_empty() {
                false => Ok(found.certs),
                true => Err(unusable_file("the system has no root certificates")),
            }
        }
        RootCertificates::File(path) if path.exists() || must_verify => certificates(path),
        RootCertificates::Default(path) if path.exists() => certificates(path),
        RootCertificates::Default(path) if must_verify => Err(PgError::from(
            Diagnostic::error(
                code::CERTIFICATE_FILE,
                format!(
                    "sslmode={} needs root certificates, and {} does not exist",
                    settings.mode.name(),
                    path.display()
                ),
            )
            .mend("name a file with sslrootcert=…, or use sslrootcert=system"),
        )),
        RootCertificates::None if must_verify => Err(PgError::from(
            Diagnostic::error(
                code::CERTIFICATE_FILE,
                format!("sslmode={} needs root certificates", settings.mode.name()),
            )
            .mend("name a file with sslrootcert=…, or use sslrootcert=system"),
        )),
        _ => Ok(Vec::new()),
    }
}

fn unusable_file(what: impl Into<String>) -> PgError {
    PgError::from(Diagnostic::error(code::CERTIFICATE_FILE, what))
}

fn certificates(path: &Path) -> Result<Vec<CertificateDer<'static>>> {
    let unreadable = |error: rustls_pki_types::pem::Error| {
        unusable_file(format!("certificate file {} cannot be read: {error}", path.display()))
    };
    let found: Vec<_> = CertificateDer::pem_file_iter(path)
        .map_err(unreadable)?
        .collect::<Result<_, _>>()
        .map_err(unreadable)?;
    match found.is_empty() {
        false => Ok(found),
        true => Err(unusable_file(format!("{} holds no PEM certificate", path.display()))),
    }
}

fn private_key(path: &Path) -> Result<PrivateKeyDer<'static>> {
    #[cfg(unix)]
    if let Ok(metadata) = std::fs::metadata(path) {
        use std::os::unix::fs::MetadataExt;
        // As libpq: only the owner may read the key, and the group too if it belongs to root.
        let forbidden = if metadata.uid() == 0 { 0o037 } else { 0o077 };
        if metadata.mode() & forbidden != 0 {
            let what = format!("key file {} may be read by others", path.display());
            let mend = format!("chmod 0600 {}", path.display());
            return Err(Diagnostic::error(code::CERTIFICATE_FILE, what).mend(mend).into());
        }
    }
    PrivateKeyDer::from_pem_file(path).map_err(|error| {
        let what = format!("key file {} cannot be read: {error}", path.display());
        let mend = "use an unencrypted PEM key (PKCS#8, PKCS#1 or SEC1)";
        Diagnostic::error(code::CERTIFICATE_FILE, what).mend(mend).into()
    })
}
