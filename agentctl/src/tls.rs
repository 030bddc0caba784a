//! Which servers count as the agent: those with a certificate from `--ca`, or one issued by it; without `--ca`, those that the system's roots trust.

use std::io;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use rustls::client::WebPkiServerVerifier;
use rustls::client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier};
use rustls::client::verify_server_name;
use rustls::crypto::aws_lc_rs;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, ServerName, UnixTime};
use rustls::server::ParsedCertificate;
use rustls::{CertificateError, ClientConfig, DigitallySignedStruct, Error, RootCertStore, SignatureScheme};
use thiserror::Error;

/// Why there is no trust in any certificate.
#[derive(Debug, Error)]
pub(crate) enum TlsError {
    /// The file is missing or unreadable.
    #[error("cannot read the certificates in {}", path.display())]
    Read {
        /// The file.
        path: PathBuf,
        source: io::Error,
    },
    /// The file contains something else.
    #[error("{} holds no certificate in PEM form that can be read", path.display())]
    NoCertificate {
        /// The file.
        path: PathBuf,
    },
    /// The system has no trusted certificates.
    #[error("this system has no certificates of authorities that it trusts")]
    NoRoots,
    /// The library failed.
    #[error("TLS cannot be set up")]
    SetUp(#[source] Error),
}

/// Why a server is not trusted to be the agent.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Distrust {
    /// No trusted authority has issued its certificate.
    Issuer,
    /// The certificate is for another name.
    Name,
    /// The certificate is expired, or not valid yet.
    Time,
    /// The server does not use TLS.
    NoTls,
    /// Something else.
    Other,
}

impl Distrust {
    /// What a handshake error says about the server; `None` where the connection broke.
    pub(crate) fn of(err: &Error) -> Self {
        match err {
            Error::InvalidCertificate(bad) => match bad {
                // An authority may have the issuer's name, but another key.
                CertificateError::UnknownIssuer
                | CertificateError::BadSignature
                | CertificateError::UnsupportedSignatureAlgorithmContext { .. }
                | CertificateError::UnsupportedSignatureAlgorithmForPublicKeyContext { .. } => Self::Issuer,
                CertificateError::NotValidForName | CertificateError::NotValidForNameContext { .. } => Self::Name,
                CertificateError::Expired
                | CertificateError::ExpiredContext { .. }
                | CertificateError::NotValidYet
                | CertificateError::NotValidYetContext { .. } => Self::Time,
                _ => Self::Other,
            },
            Error::InvalidMessage(_) => Self::NoTls,
            _ => Self::Other,
        }
    }
}

/// The TLS settings of connections, which trust the certificates in a file or the system's.
pub(crate) fn config(ca: Option<&Path>) -> Result<ClientConfig, TlsError> {
    let provider = Arc::new(aws_lc_rs::default_provider());
    let pinned = ca.map(read).transpose()?;
    let mut roots = RootCertStore::empty();
    match &pinned {
        Some(pinned) => drop(roots.add_parsable_certificates(pinned.iter().cloned())),
        None => drop(roots.add_parsable_certificates(rustls_native_certs::load_native_certs().certs)),
    }
    if roots.is_empty() {
        return Err(match ca {
            Some(ca) => TlsError::NoCertificate { path: ca.to_owned() },
            None => TlsError::NoRoots,
        });
    }
    let usual = WebPkiServerVerifier::builder_with_provider(Arc::new(roots), provider.clone())
        .build()
        .map_err(|err| TlsError::SetUp(Error::General(err.to_string())))?;
    let verifier = Verifier { usual, pinned: pinned.unwrap_or_default() };
    let mut config = ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(TlsError::SetUp)?
        .dangerous()
        .with_custom_certificate_verifier(Arc::new(verifier))
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(config)
}

fn read(path: &Path) -> Result<Vec<CertificateDer<'static>>, TlsError> {
    let text = std::fs::read(path).map_err(|source| TlsError::Read { path: path.to_owned(), source })?;
    let read = CertificateDer::pem_slice_iter(&text).collect::<Result<Vec<_>, _>>();
    read.ok().filter(|read| !read.is_empty()).ok_or_else(|| TlsError::NoCertificate { path: path.to_owned() })
}

/// The usual rules, and one more: a server's own certificate from `--ca` is trusted even if it is marked as an authority's, like those of `openssl
/// req -x509`. Its time and its names must still be valid.
#[derive(Debug)]
struct Verifier {
    usual: Arc<WebPkiServerVerifier>,
    pinned: Vec<CertificateDer<'static>>,
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
        match self.usual.verify_server_cert(end_entity, intermediates, server_name, ocsp_response, now) {
            // webpki has no error of its own for `CaUsedAsEndEntity` here. It checks the time before that, and issuers and names after it.
            Err(Error::InvalidCertificate(CertificateError::Other(_))) if self.pinned.iter().any(|pinned| pinned == end_entity) => {
                verify_server_name(&ParsedCertificate::try_from(end_entity)?, server_name)?;
                Ok(ServerCertVerified::assertion())
            }
            judged => judged,
        }
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls12_signature(message, cert, dss)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        cert: &CertificateDer<'_>,
        dss: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, Error> {
        self.usual.verify_tls13_signature(message, cert, dss)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.usual.supported_verify_schemes()
    }
}
