//! Whom the agent believes over the network, and how it makes sure: keys and the signatures that they make, and the certificate by which the
//! agent itself is known. Nothing here opens a connection, and nothing here knows of requests.

mod certificate;
pub(crate) mod hint;
mod hmac;
mod signature;
mod signers;

pub(crate) use certificate::{Certificate, CertificateError};
pub(crate) use hmac::Secret;
pub(crate) use signature::prove;
pub(crate) use signers::{BadLine, Revoked, Signers, Untrusted, fingerprint};
