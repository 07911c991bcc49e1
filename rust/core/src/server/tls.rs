//! TLS as libpq's `sslmode` defines it, with rustls.

use std::path::Path;
use std::sync::Arc;

use rustls::crypto::{CryptoProvider, ring};
use rustls::{ClientConfig, RootCertStore, SupportedProtocolVersion};
use rustls_pki_types::pem::PemObject;
use rustls_pki_types::{CertificateDer, PrivateKeyDer};
use tokio_postgres_rustls::MakeRustlsConnect;

use crate::server::certificate::{Check, Verifier};
use crate::server::dsn::{Roots, SslMode, SslOptions, Versions};

#[derive(Debug, thiserror::Error)]
pub enum TlsError {
    #[error("cannot read the {what} {path}: {reason}")]
    File {
        what: &'static str,
        path: String,
        reason: String,
    },
    #[error("the system has no root certificates; name a file in sslrootcert")]
    NoSystemRoots,
    #[error("sslcert and sslkey must be given together")]
    HalfIdentity,
    #[error("the client certificate cannot be used: {0}")]
    Identity(rustls::Error),
    #[error("{0}")]
    Library(rustls::Error),
}

/// What makes TLS connections for these options.
pub fn connector(options: &SslOptions) -> Result<MakeRustlsConnect, TlsError> {
    let provider = Arc::new(ring::default_provider());
    let verifier = Arc::new(verifier(options, &provider)?);
    let builder = ClientConfig::builder_with_provider(provider)
        .with_protocol_versions(spoken(options.versions))
        .map_err(TlsError::Library)?
        .dangerous()
        .with_custom_certificate_verifier(verifier);
    let config = match (&options.certificate, &options.key) {
        (Some(certificate), Some(key)) => {
            let chain = certificates(certificate, "client certificate")?;
            let key = PrivateKeyDer::from_pem_file(key)
                .map_err(|error| unreadable("client key", key, &error))?;
            builder
                .with_client_auth_cert(chain, key)
                .map_err(TlsError::Identity)?
        }
        (None, None) => builder.with_no_client_auth(),
        _ => return Err(TlsError::HalfIdentity),
    };
    Ok(MakeRustlsConnect::new(config))
}

static ONLY_12: &[&SupportedProtocolVersion] = &[&rustls::version::TLS12];
static ONLY_13: &[&SupportedProtocolVersion] = &[&rustls::version::TLS13];

fn spoken(versions: Versions) -> &'static [&'static SupportedProtocolVersion] {
    match versions {
        Versions::Any => rustls::DEFAULT_VERSIONS,
        Versions::Only12 => ONLY_12,
        Versions::Only13 => ONLY_13,
    }
}

fn verifier(options: &SslOptions, provider: &Arc<CryptoProvider>) -> Result<Verifier, TlsError> {
    let check = match options.mode {
        SslMode::VerifyFull => Check::ChainAndName,
        SslMode::VerifyCa => Check::Chain,
        _ => return Ok(Verifier::encrypting_only(provider.clone())),
    };
    let roots = match &options.roots {
        Some(Roots::File(path)) => certificates(path, "root certificate")?,
        Some(Roots::System) | None => {
            let loaded = rustls_native_certs::load_native_certs();
            if loaded.certs.is_empty() {
                return Err(TlsError::NoSystemRoots);
            }
            loaded.certs
        }
    };
    let mut store = RootCertStore::empty();
    store.add_parsable_certificates(roots.iter().cloned());
    Ok(Verifier::new(check, store, roots, provider.clone()))
}

fn certificates(path: &Path, what: &'static str) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    CertificateDer::pem_file_iter(path)
        .and_then(Iterator::collect)
        .map_err(|error| unreadable(what, path, &error))
        .and_then(|found: Vec<_>| {
            if found.is_empty() {
                let reason = "it holds no certificate".to_owned();
                let path = path.display().to_string();
                return Err(TlsError::File { what, path, reason });
            }
            Ok(found)
        })
}

fn unreadable(what: &'static str, path: &Path, error: &rustls_pki_types::pem::Error) -> TlsError {
    TlsError::File {
        what,
        path: path.display().to_string(),
        reason: error.to_string(),
    }
}
