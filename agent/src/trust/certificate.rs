//! The certificate by which clients know the agent, with its private key.

use std::sync::Arc;

use chrono::{DateTime, Utc};
use rustls::crypto::aws_lc_rs::sign::any_supported_type;
use rustls::pki_types::pem::PemObject;
use rustls::pki_types::{CertificateDer, PrivateKeyDer};
use rustls::sign::CertifiedKey;
use thiserror::Error;
use x509_parser::prelude::{FromDer, GeneralName, X509Certificate};

/// Why two texts are no certificate with its key. No sentence repeats anything of the key.
#[derive(Debug, Error)]
pub(crate) enum CertificateError {
    /// Nothing there.
    #[error("holds no certificate in PEM form")]
    NoCertificate,
    /// Not to be read.
    #[error("holds a certificate that cannot be read")]
    Unreadable,
    /// Nothing there.
    #[error("holds no private key in PEM form")]
    NoKey,
    /// Not to be used.
    #[error("holds a private key of a kind that TLS cannot use here")]
    KeyKind,
    /// Of different pairs.
    #[error("is not the key of the certificate")]
    Mismatch,
}

/// A chain with its key, and what is to be known of it.
#[derive(Debug, Clone)]
pub(crate) struct Certificate {
    /// What the TLS library serves with.
    pub certified: Arc<CertifiedKey>,
    /// Until when the first certificate is good.
    pub not_after: DateTime<Utc>,
    /// The host names in it.
    pub names: Vec<String>,
}

impl PartialEq for Certificate {
    fn eq(&self, other: &Self) -> bool {
        // Who has the same certificate has the same key.
        self.certified.cert == other.certified.cert
    }
}

impl Certificate {
    /// Reads the PEM texts of a chain (the host's own certificate first) and of its private key.
    ///
    /// # Errors
    /// [`CertificateError`]; the first two are about the chain, the others about the key.
    pub(crate) fn parse(chain: &[u8], key: &[u8]) -> Result<Self, CertificateError> {
        let chain: Vec<CertificateDer<'static>> =
            CertificateDer::pem_slice_iter(chain).collect::<Result<_, _>>().map_err(|_| CertificateError::NoCertificate)?;
        let first = chain.first().ok_or(CertificateError::NoCertificate)?;
        let (_, read) = X509Certificate::from_der(first).map_err(|_| CertificateError::Unreadable)?;
        let not_after = DateTime::from_timestamp(read.validity().not_after.timestamp(), 0).unwrap_or_default();
        let names = read.subject_alternative_name().ok().flatten().map(|names| {
            let names = names.value.general_names.iter();
            names.filter_map(|name| if let GeneralName::DNSName(name) = name { Some((*name).to_owned()) } else { None }).collect()
        });
        let names = names.unwrap_or_default();
        let key = PrivateKeyDer::from_pem_slice(key).map_err(|_| CertificateError::NoKey)?;
        let key = any_supported_type(&key).map_err(|_| CertificateError::KeyKind)?;
        let certified = CertifiedKey::new(chain, key);
        certified.keys_match().map_err(|_| CertificateError::Mismatch)?;
        Ok(Self { certified: Arc::new(certified), not_after, names })
    }

    /// Whether the certificate is for a host: by its name, or by `*.` and what follows its first label (RFC 9525, section 6.3).
    pub(crate) fn is_for(&self, host: &str) -> bool {
        self.names.iter().any(|name| match name.strip_prefix("*.") {
            Some(domain) => host.split_once('.').is_some_and(|(_, rest)| rest.eq_ignore_ascii_case(domain)),
            None => name.eq_ignore_ascii_case(host),
        })
    }
}
