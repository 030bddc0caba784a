//! Identifies callers: one file for each kind of proof. Only this module makes callers.

pub(super) mod again;
pub(super) mod peer;
pub(super) mod signed;
pub(super) mod ticket;
pub(super) mod token;

use agent_model::grant::Caller;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::answer::Refused;

/// The other end of a connection, before any request.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    /// A process on this host, identified by the kernel.
    Local(Caller),
    /// Any client: each request must prove its sender.
    Network,
}

/// The identified caller: by the connection, or by the signature of the request that contains this read.
pub(super) struct KnownCaller(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for KnownCaller {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        known(parts).map(Self).ok_or_else(Refused::unsigned)
    }
}

/// The caller, if it is identified.
pub(super) fn known(parts: &Parts) -> Option<Caller> {
    let proven = parts.extensions.get::<Caller>().cloned();
    proven.or_else(|| match parts.extensions.get::<Peer>() {
        Some(Peer::Local(caller)) => Some(caller.clone()),
        Some(Peer::Network) | None => None,
    })
}
