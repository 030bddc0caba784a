//! Whom the agent believes over the network, and how it makes sure: keys and the signatures that they make, and the certificate by which the
//! agent itself is known. Nothing here opens a connection, and nothing here knows of requests.

mod certificate;
pub(crate) mod webhook;
mod hmac;
mod jwt;
mod jwks;
mod job;
mod issuer;
mod keyring;
#[cfg(test)]
mod pretend;
mod signature;
mod signers;

pub(crate) use certificate::{Certificate, CertificateError};
pub(crate) use hmac::Secret;
pub(crate) use issuer::{Bind, Here, Issuer, IssuerKind};
pub(crate) use job::{CiJob, OtherWork};
pub(crate) use jwks::{BadKeys, Keys, MOST_BYTES as MOST_KEYS_BYTES, place_of_keys};
pub(crate) use jwt::{Algorithm, BadToken, Jwt};
pub(crate) use keyring::{Keyring, Next};
pub(crate) use signature::prove;
pub(crate) use signers::{BadLine, Revoked, Signers, Untrusted, fingerprint};
