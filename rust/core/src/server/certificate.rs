//! Which server certificates are accepted.
//!
//! rustls alone is stricter than libpq. Many PostgreSQL servers have a self-signed certificate that
//! names its host only in the subject. As in libpq, a certificate that is itself among the roots is
//! trusted, and the subject's common name counts if the certificate has no alternative names.

use std::sync::Arc;
use std::time::Duration;

use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::{verify_server_cert_signed_by_trust_anchor, verify_server_name};
use rustls::crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature};
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use x509_cert::Certificate;
use x509_cert::der::Decode;
use x509_cert::der::asn1::{PrintableStringRef, TeletexStringRef, Utf8StringRef};
use x509_cert::der::oid::db::rfc4519::CN;
use x509_cert::ext::pkix::SubjectAltName;
use x509_cert::ext::pkix::name::GeneralName;

#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord)]
pub enum Check {
    Nothing,
    Chain,
    ChainAndName,
}

#[derive(Debug)]
pub struct Verifier {
    check: Check,
    store: RootCertStore,
    roots: Vec<CertificateDer<'static>>,
    provider: Arc<CryptoProvider>,
}

impl Verifier {
    pub fn new(
        check: Check,
        store: RootCertStore,
        roots: Vec<CertificateDer<'static>>,
        provider: Arc<CryptoProvider>,
    ) -> Verifier {
        Verifier {
            check,
            store,
            roots,
            provider,
        }
    }

    /// For the modes below `verify-ca`: they encrypt, and do not check who the server is.
    pub fn encrypting_only(provider: Arc<CryptoProvider>) -> Verifier {
        Verifier::new(Check::Nothing, RootCertStore::empty(), Vec::new(), provider)
    }

    fn check_chain(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        now: UnixTime,
    ) -> Result<(), Error> {
        if self
            .roots
            .iter()
            .any(|root| root.as_ref() == server.as_ref())
        {
            return check_validity(&decode(server)?, now);
        }
        verify_server_cert_signed_by_trust_anchor(
            &ParsedCertificate::try_from(server)?,
            &self.store,
            intermediates,
            now,
            self.provider.signature_verification_algorithms.all,
        )
    }
}

impl ServerCertVerifier for Verifier {
    fn verify_server_cert(
        &self,
        server: &CertificateDer<'_>,
        intermediates: &[CertificateDer<'_>],
        name: &ServerName<'_>,
        _ocsp: &[u8],
        now: UnixTime,
    ) -> Result<ServerCertVerified, Error> {
        if self.check >= Check::Chain {
            self.check_chain(server, intermediates, now)?;
        }
        if self.check == Check::ChainAndName {
            check_name(server, name)?;
        }
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls12_signature(message, certificate, signed, algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signed: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        let algorithms = &self.provider.signature_verification_algorithms;
        verify_tls13_signature(message, certificate, signed, algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.provider
            .signature_verification_algorithms
            .supported_schemes()
    }
}

fn decode(certificate: &CertificateDer<'_>) -> Result<Certificate, Error> {
    Certificate::from_der(certificate).map_err(|_| CertificateError::BadEncoding.into())
}

fn check_validity(certificate: &Certificate, now: UnixTime) -> Result<(), Error> {
    let validity = &certificate.tbs_certificate.validity;
    let now = Duration::from_secs(now.as_secs());
    if now < validity.not_before.to_unix_duration() {
        return Err(CertificateError::NotValidYet.into());
    }
    if now > validity.not_after.to_unix_duration() {
        return Err(CertificateError::Expired.into());
    }
    Ok(())
}

fn check_name(server: &CertificateDer<'_>, name: &ServerName<'_>) -> Result<(), Error> {
    let certificate = decode(server)?;
    if has_alternative_names(&certificate)? {
        return verify_server_name(&ParsedCertificate::try_from(server)?, name);
    }
    let presented = common_name(&certificate);
    let wanted = name.to_str();
    if presented
        .as_deref()
        .is_some_and(|pattern| matches(pattern, &wanted))
    {
        return Ok(());
    }
    let error = CertificateError::NotValidForNameContext {
        expected: name.to_owned(),
        presented: presented.into_iter().collect(),
    };
    Err(error.into())
}

fn has_alternative_names(certificate: &Certificate) -> Result<bool, Error> {
    let names = certificate
        .tbs_certificate
        .get::<SubjectAltName>()
        .map_err(|_| CertificateError::BadEncoding)?;
    Ok(names.is_some_and(|(_, names)| {
        names
            .0
            .iter()
            .any(|name| matches!(name, GeneralName::DnsName(_) | GeneralName::IpAddress(_)))
    }))
}

fn common_name(certificate: &Certificate) -> Option<String> {
    let subject = &certificate.tbs_certificate.subject;
    let value = subject
        .0
        .iter()
        .flat_map(|part| part.0.iter())
        .find(|attribute| attribute.oid == CN)
        .map(|attribute| &attribute.value)?;
    value
        .decode_as::<Utf8StringRef<'_>>()
        .map(|text| text.as_str().to_owned())
        .or_else(|_| {
            value
                .decode_as::<PrintableStringRef<'_>>()
                .map(|text| text.as_str().to_owned())
        })
        .or_else(|_| {
            value
                .decode_as::<TeletexStringRef<'_>>()
                .map(|text| text.as_str().to_owned())
        })
        .ok()
}

/// One wildcard, as the whole first label; it does not cover further dots.
fn matches(pattern: &str, host: &str) -> bool {
    let Some(parent) = pattern.strip_prefix("*.") else {
        return pattern.eq_ignore_ascii_case(host);
    };
    host.split_once('.')
        .is_some_and(|(label, rest)| !label.is_empty() && rest.eq_ignore_ascii_case(parent))
}

#[cfg(test)]
mod tests {
    use super::matches;

    #[test]
    fn a_wildcard_covers_one_label() {
        assert!(matches("db.example", "DB.example"));
        assert!(matches("*.example", "db.example"));
        assert!(!matches("*.example", "a.db.example"));
        assert!(!matches("*.example", ".example"));
        assert!(!matches("db.example", "db2.example"));
    }
}
