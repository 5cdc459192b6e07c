//! Checks the server's certificate as far as the `sslmode` asks, with OpenSSL's reach.
//!
//! webpki is stricter than the OpenSSL that libpq uses: it refuses a certificate that is its own
//! root (what the Postgres manual tells people to make) and looks at no common name. Both are
//! accepted here, in the cases in which libpq accepts them: the certificate is byte for byte one
//! of the trusted ones; it has no alternative names at all.

use super::certificate::{self, Certificate};
use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use rustls_pki_types::{CertificateDer, ServerName, UnixTime};
use std::sync::Arc;

/// How far the certificate is checked.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
pub(super) struct Verifier {
    check: Check,
    trusted: Vec<CertificateDer<'static>>,
    /// None when nothing is checked.
    chain: Option<Arc<WebPkiServerVerifier>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub(super) fn new(
        check: Check,
        trusted: Vec<CertificateDer<'static>>,
        provider: &Arc<CryptoProvider>,
    ) -> Result<Verifier, String> {
        let chain = match check {
            Check::Nothing => None,
            Check::Chain | Check::ChainAndName => {
                let mut roots = RootCertStore::empty();
                roots.add_parsable_certificates(trusted.iter().cloned());
                let builder =
                    WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone());
                Some(builder.build().map_err(|error| error.to_string())?)
            }
        };
        Ok(Verifier { check, trusted, chain, provider: provider.clone() })
    }

    fn check_chain(
        &self,
        verifier: &WebPkiServerVerifier,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self.trusted.iter().any(|trusted| trusted.as_ref() == end_entity.as_ref()) {
            let bad = || Error::InvalidCertificate(CertificateError::BadEncoding);
            let read = Certificate::read(end_entity).ok_or_else(bad)?;
            let now = now.as_secs() as i64;
            return match (now < read.not_before, now > read.not_after) {
                (true, _) => Err(Error::InvalidCertificate(CertificateError::NotValidYet)),
                (_, true) => Err(Error::InvalidCertificate(CertificateError::Expired)),
                _ => Ok(()),
            };
        }
        match verifier.verify_server_cert(
            end_entity,
            intermediates,
            server_name,
            ocsp_response,
            now,
        ) {
            Ok(_) => Ok(()),
            // The name is looked at only behind a good chain, and once more below.
            Err(Error::InvalidCertificate(
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. },
            )) => Ok(()),
            Err(error) => Err(error),
        }
    }
}

/// Checks alternative names, else the common name of a certificate that has none.
fn check_name(end_entity: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let by_alternatives = ParsedCertificate::try_from(end_entity)
        .and_then(|parsed| rustls::client::verify_server_name(&parsed, name));
    let Err(error) = by_alternatives else { return Ok(()) };
    match Certificate::read(end_entity) {
        Some(Certificate { has_alternative_names: false, common_name: Some(common), .. }) => {
            match certificate::name_fits(&common, &name.to_str()) {
                true => Ok(()),
                false => Err(Error::InvalidCertificate(CertificateError::NotValidForNameContext {
                    expected: name.to_owned(),
                    presented: vec![common],
                })),
            }
        }
        _ => Err(error),
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        end_entity: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        server_name: &ServerName<'_>,
        ocsp_response: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if let Some(chain) = &self.chain {
            self.check_chain(chain, end_entity, intermediates, server_name, ocsp_response, now)?;
        }
        if self.check == Check::ChainAndName {
            check_name(end_entity, server_name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signature, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signature, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider.signature_verification_algorithms.supported_schemes()
    }
}
