//! Who asks: a file for each way to prove it. Only what is here makes callers.

pub(super) mod again;
pub(super) mod peer;
pub(super) mod signed;
pub(super) mod ticket;
pub(super) mod token;

use agent_model::grant::Caller;
use axum::extract::FromRequestParts;
use axum::http::request::Parts;

use super::answer::Refused;

/// Who is at the other end of a connection, before anything was asked.
#[derive(Debug, Clone)]
pub(super) enum Peer {
    /// Somebody on this host, by the kernel's word.
    Local(Caller),
    /// Anybody: each request must prove whose it is.
    Network,
}

/// Whoever asks, known: by the connection, or by the signature of the request that this reading is a part of.
pub(super) struct KnownCaller(pub Caller);

impl<S: Send + Sync> FromRequestParts<S> for KnownCaller {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        known(parts).map(Self).ok_or_else(Refused::unsigned)
    }
}

/// Whoever asks, where that is known.
pub(super) fn known(parts: &Parts) -> Option<Caller> {
    let proven = parts.extensions.get::<Caller>().cloned();
    proven.or_else(|| match parts.extensions.get::<Peer>() {
        Some(Peer::Local(caller)) => Some(caller.clone()),
        Some(Peer::Network) | None => None,
    })
}
