//! A signed request. The checks run in steps, the cheap ones first, and the body is parsed only after its signature is proven:
//!
//! | step | what must hold | where |
//! |---|---|---|
//! | 1 | few headers, each of a bearable size | [`headers`] |
//! | 2 | each is the one encoding of a signature | [`blob`] |
//! | 3 | its key is known, not revoked, and good now | [`known`] |
//! | 4 | it was made for requests of ours | [`namespace`] |
//! | 5 | it is one of these bytes by this key | [`proven`] |
//! | 6 | the body is a form, and only now is it read | `take` |
//! | 7 | it is of version 1, and meant for this host | [`Envelope::of`], [`Envelope::check`] |
//! | 8 | this host's clock is sane, and the time is right | [`clock`], [`Envelope::check`] |
//! | 9 | a grant allows it: app, action, ref | `authorise`, `AppEngine::take` |
//! | 10 | its nonce is new, or it is the same request again | the journal's transaction |
//! | 11 | the live release is the one that it expects | `Standing::may_begin` |
//! | 12 | there is room for it | `Standing::admit` |
//!
//! A request that fails one of the first five steps always gets the same answer; the log has the reason.

use agent_model::grant::{Caller, KeyKind, Signer};
use agent_wire::form::{CLOCK_SKEW, Envelope, Form};
use agent_wire::sshsig::{MOST_SIGNATURE_CHARS, MOST_SIGNATURES, NAMESPACE, PublicKey, SIGNATURE_HEADER, Sshsig};
use axum::http::HeaderMap;
use chrono::{DateTime, Utc};
use thiserror::Error;

use crate::api::ApiState;
use crate::api::answer::Refused;
use crate::engine::journal::Evidence;
use crate::settings::https::Material;
use crate::trust::{self, Untrusted, fingerprint};

/// Why a request has no valid signature. For the log alone.
#[derive(Debug, Error)]
pub(in crate::api) enum Unproven {
    /// Step 1.
    #[error("it has no signature")]
    Unsigned,
    /// Step 1.
    #[error("it has {0} signatures, more than a request may have")]
    TooMany(usize),
    /// Step 1.
    #[error("its signature has {0} characters, more than one may have")]
    TooLong(usize),
    /// Step 1.
    #[error("it has both a signature and an Authorization header, and nobody can be both")]
    Both,
    /// Step 2.
    #[error("its signature {0}")]
    Blob(#[from] agent_wire::sshsig::BadBlob),
    /// Step 3.
    #[error(transparent)]
    Untrusted(#[from] Untrusted),
    /// Step 4.
    #[error("its signature is for the namespace {0:?}")]
    Namespace(String),
    /// Step 5.
    #[error("its signature is not one of these bytes by the key {0}")]
    Wrong(String),
}

/// Steps 1 to 5: who signed these bytes. The proof is kept with the run.
pub(in crate::api) fn caller(
    headers: &HeaderMap,
    body: &[u8],
    material: &Material,
    now: DateTime<Utc>,
) -> Result<(Caller, Evidence), Unproven> {
    let mut signers = Vec::new();
    let mut evidence = Evidence::default();
    for text in self::headers(headers)? {
        let signature = blob(text)?;
        let signer = known(&signature, material, now)?;
        namespace(&signature)?;
        proven(&signature, body)?;
        signers.push(signer);
        evidence.keys.push(fingerprint(&signature.key));
        evidence.signatures.push(text.to_owned());
    }
    Ok((Caller::Keys(signers), evidence))
}

/// Step 1: the signatures, as text.
fn headers(headers: &HeaderMap) -> Result<Vec<&str>, Unproven> {
    let values: Vec<_> = headers.get_all(SIGNATURE_HEADER).iter().collect();
    match values.len() {
        0 => return Err(Unproven::Unsigned),
        count if count > MOST_SIGNATURES => return Err(Unproven::TooMany(count)),
        _ => {}
    }
    if headers.contains_key(axum::http::header::AUTHORIZATION) {
        return Err(Unproven::Both);
    }
    if let Some(long) = values.iter().find(|value| value.len() > MOST_SIGNATURE_CHARS) {
        return Err(Unproven::TooLong(long.len()));
    }
    // A value that is not text is not base64 either.
    Ok(values.into_iter().map(|value| value.to_str().unwrap_or_default()).collect())
}

/// Step 2: one encoding, one signature.
fn blob(text: &str) -> Result<Sshsig, Unproven> {
    Ok(Sshsig::from_base64(text)?)
}

/// Step 3: the current owner of the key. A revocation overrides everything else.
pub(super) fn known(signature: &Sshsig, material: &Material, now: DateTime<Utc>) -> Result<Signer, Unproven> {
    material.revoked.check(&signature.key)?;
    let principal = material.signers.principal(&signature.key, now)?.to_owned();
    let key = match signature.key {
        PublicKey::Ed25519(_) => KeyKind::Software,
        PublicKey::Hardware { .. } => KeyKind::Hardware,
    };
    Ok(Signer { principal, key })
}

/// Step 4: a signature of a commit or of a file does not sign a request.
fn namespace(signature: &Sshsig) -> Result<(), Unproven> {
    if signature.namespace == NAMESPACE { Ok(()) } else { Err(Unproven::Namespace(signature.namespace.clone())) }
}

/// Step 5: the signature itself.
fn proven(signature: &Sshsig, body: &[u8]) -> Result<(), Unproven> {
    if trust::prove(signature, body) { Ok(()) } else { Err(Unproven::Wrong(fingerprint(&signature.key))) }
}

/// Steps 7 and 8: the request's host and time.
pub(in crate::api) fn envelope(form: &Form, state: &ApiState, now: DateTime<Utc>) -> Result<(), Refused> {
    let envelope = Envelope::of(form)?;
    let settings = state.settings.settings();
    let host = settings.agent.https.as_ref().map(|https| &https.host).ok_or_else(Refused::no_host)?;
    let journal = state.engines.journal();
    let seconds = u64::try_from(now.timestamp()).unwrap_or_default();
    clock(now, journal.newest())?;
    Ok(envelope.check(host, seconds, journal.not_before())?)
}

/// Step 8: a clock behind the newest time of the journal was set back, and cannot tell what has expired.
fn clock(now: DateTime<Utc>, newest: DateTime<Utc>) -> Result<(), Refused> {
    let behind = newest.signed_duration_since(now).num_seconds();
    if behind > i64::try_from(CLOCK_SKEW).unwrap_or_default() { Err(Refused::clock(behind)) } else { Ok(()) }
}
