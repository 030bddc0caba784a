//! `POST /v1/requests`: the only entry for all actions, and for all signed requests.

use agent_model::grant::Caller;
use agent_model::request::Request;
use agent_wire::form::Form;
use agent_wire::sshsig::SIGNATURE_HEADER;
use agent_wire::{MOST_REQUEST_BYTES, REQUEST_TYPE, view};
use axum::body::{Body, Bytes};
use axum::extract::State;
use axum::http::{HeaderMap, Method, StatusCode, Uri, header};
use axum::response::{IntoResponse, Response};
use axum::{Extension, Json, Router};
use chrono::Utc;
use tower_service::Service;

use super::answer::Refused;
use super::auth::token::{self, Unproven};
use super::auth::{Peer, signed, ticket};
use super::body;
use super::rate_limited_log::RateLimitedLog;
use super::shared::{Shared, blocking};
use crate::engine::Accepted;
use crate::engine::journal::Evidence;
use crate::trust::CiJob;
use crate::work::chain;

/// The state of this handler: the shared state, and the addresses that a signed request can read.
#[derive(Clone)]
pub(super) struct Acting {
    pub(super) shared: Shared,
    pub(super) reading: Router,
}

/// The caller and its proof.
struct Asker {
    caller: Caller,
    /// The job that an ID token names.
    job: Option<CiJob>,
    evidence: Evidence,
}

pub(super) async fn take(
    State(Acting { shared, reading }): State<Acting>,
    Extension(peer): Extension<Peer>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if ![REQUEST_TYPE, "application/json"].iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        return Err(Refused::wrong_type());
    }
    if headers.contains_key(header::CONTENT_ENCODING) {
        return Err(Refused::encoded());
    }
    let body = body::whole(body, MOST_REQUEST_BYTES).await?;
    let Asker { caller, job, evidence } = match &peer {
        Peer::Local(caller) => Asker { caller: caller.clone(), job: None, evidence: Evidence::default() },
        Peer::Network => caller_on_the_network(&shared, &headers, &body).await?,
    };
    // Step 6: the caller is identified, and only now is the body parsed.
    let text = std::str::from_utf8(&body).map_err(|_| Refused::malformed("the request is not UTF-8"))?.to_owned();
    let form = Form::parse(&text).map_err(|err| Refused::malformed(format!("the request cannot be understood: {err}")))?;
    let addressed = form.aud.is_some() || form.iat.is_some() || form.exp.is_some();
    if addressed || matches!(peer, Peer::Network) {
        signed::envelope(&form, &shared.state, Utc::now())?;
    }
    if let Some(path) = form.reads()? {
        return read(reading, path, caller, &headers).await;
    }
    let request = Request::try_from(&form)?;
    let (engine, authorised) = shared.enter(&caller, &form.app, request.act.right())?;
    if let Some(job) = &job {
        token::check_request(job, &form, &request.act, shared.state.engines.journal().not_before())?;
    }
    let evidence = Evidence { text, ..evidence };
    let accepted = blocking(move || Ok(engine.take(&authorised, &request, &form, &evidence)?)).await?;
    let (status, run) = match accepted {
        Accepted::New(run) => (StatusCode::ACCEPTED, run),
        Accepted::Before(run) => (StatusCode::OK, run),
    };
    let events = format!("/v1/runs/{run}/events");
    let token = ticket::of(run, shared.state.engines.journal().events_key());
    Ok((status, [(header::LOCATION, events.clone())], Json(view::Taken { run: run.0, events, token: Some(token) })).into_response())
}

/// Steps 1 to 5, or an ID token with the job that it names. Every failure gets the same answer, except that an issuer's missing keys are not blamed
/// on the caller.
async fn caller_on_the_network(shared: &Shared, headers: &HeaderMap, body: &Bytes) -> Result<Asker, Refused> {
    let state = &shared.state;
    let refused = |why: &dyn std::error::Error| {
        static UNPROVEN: RateLimitedLog = RateLimitedLog::new();
        if let Some(untold) = UNPROVEN.tells() {
            tracing::info!(untold, "a request on the network is refused: {}", chain(why));
        }
        Refused::unsigned()
    };
    if headers.contains_key(header::AUTHORIZATION) && !headers.contains_key(SIGNATURE_HEADER) {
        return match token::caller(state, headers, body, Utc::now()).await {
            Ok((caller, job)) => Ok(Asker { caller, job: Some(job), evidence: Evidence::default() }),
            Err(why @ Unproven::NoKeys(_)) => Err(Refused::no_keys(&why)),
            Err(why) => Err(refused(&why)),
        };
    }
    let (caller, evidence) = signed::caller(headers, body, &state.settings.material(), Utc::now()).map_err(|why| refused(&why))?;
    Ok(Asker { caller, job: None, evidence })
}

/// Answers a signed read like the address itself would answer the same caller.
async fn read(mut reading: Router, path: &str, caller: Caller, headers: &HeaderMap) -> Result<Response, Refused> {
    let uri: Uri = path.parse().map_err(|_| Refused::malformed("`path` is no path"))?;
    let mut request = axum::extract::Request::new(Body::empty());
    *request.method_mut() = Method::GET;
    *request.uri_mut() = uri;
    for name in [header::ACCEPT, header::HeaderName::from_static("last-event-id")] {
        if let Some(value) = headers.get(&name) {
            request.headers_mut().insert(name, value.clone());
        }
    }
    request.extensions_mut().insert(caller);
    match reading.call(request).await {
        Ok(response) => Ok(response),
        Err(never) => match never {},
    }
}
