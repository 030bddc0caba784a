//! The only place that turns errors into HTTP. What is internal goes to the log, not to the client.

use std::time::Duration;

use agent_model::names::{BadName, ReleaseName};
use agent_model::request::Refusal;
use agent_wire::form::BadForm;
use agent_wire::problem::{PROBLEM_TYPE, Problem};
use axum::http::{StatusCode, header};
use axum::response::{IntoResponse, Response};

use crate::engine::NotTaken;
use crate::steps::chain;

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refused(pub Problem);

impl Refused {
    fn new(status: StatusCode, code: &str, detail: impl Into<String>, hint: Option<String>) -> Self {
        Self(Problem { status: status.as_u16(), code: code.to_owned(), detail: detail.into(), hint })
    }

    /// The request cannot be understood.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::BAD_REQUEST, "malformed", detail, None)
    }

    /// A part of the request is not what it should be. The framework puts words of its own before a colon.
    pub(super) fn misread(part: &str, why: &str) -> Self {
        let why = why.split_once(": ").map_or(why, |(_, why)| why);
        Self::malformed(format!("the {part} cannot be understood: {why}"))
    }

    /// The live release is asked for, and there is none.
    pub(super) fn nothing_live() -> Self {
        let hint = "agentctl release makes one".to_owned();
        Self::new(StatusCode::NOT_FOUND, "no_release", "no release is live", Some(hint))
    }

    /// There is nothing at this address.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(StatusCode::NOT_FOUND, "not_found", detail, None)
    }

    /// The address is right, and the method is not.
    pub(super) fn wrong_method() -> Self {
        Self::new(
            StatusCode::METHOD_NOT_ALLOWED,
            "wrong_method",
            "this address is not asked in this way",
            Some("GET /openapi.json tells how".to_owned()),
        )
    }

    /// The body has another type than a request.
    pub(super) fn wrong_type() -> Self {
        let hint = format!("send Content-Type: {} or application/json", agent_wire::REQUEST_TYPE);
        Self::new(StatusCode::UNSUPPORTED_MEDIA_TYPE, "wrong_type", "the body is not of the type of a request", Some(hint))
    }

    /// The body is too large.
    pub(super) fn too_large() -> Self {
        Self::new(
            StatusCode::PAYLOAD_TOO_LARGE,
            "too_large",
            format!("a request has at most {} bytes", agent_wire::MOST_REQUEST_BYTES),
            None,
        )
    }

    /// The body does not come.
    pub(super) fn too_slow(limit: Duration) -> Self {
        let detail = format!("the body of the request did not come within {} s", limit.as_secs());
        Self::new(StatusCode::REQUEST_TIMEOUT, "too_slow", detail, None)
    }

    /// Something of the agent's own failed.
    pub(super) fn internal(err: &dyn std::error::Error) -> Self {
        tracing::error!("a request failed: {}", chain(err));
        let hint = "the agent's own log says more: journalctl -u release-agent".to_owned();
        Self::new(StatusCode::INTERNAL_SERVER_ERROR, "internal", "the agent could not do this", Some(hint))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self.0).unwrap_or_default();
        (status, [(header::CONTENT_TYPE, PROBLEM_TYPE)], body).into_response()
    }
}

impl From<BadForm> for Refused {
    fn from(err: BadForm) -> Self {
        Self::malformed(chain(&err))
    }
}

impl From<BadName> for Refused {
    fn from(err: BadName) -> Self {
        Self::malformed(err.to_string())
    }
}

impl From<Refusal> for Refused {
    fn from(refusal: Refusal) -> Self {
        let detail = refusal.to_string();
        let (status, code, hint) = match refusal {
            Refusal::NotAllowed { right, app, .. } => {
                let hint = format!(
                    "an operator can add it to agent.toml: [[grant]] to = \"unix-user:NAME\", apps = [\"{app}\"], actions = [\"{right}\"]"
                );
                (StatusCode::FORBIDDEN, "not_allowed", Some(hint))
            }
            Refusal::Locked(_) => (StatusCode::LOCKED, "locked", Some("agentctl unlock ends it, for those who may".to_owned())),
            Refusal::Busy(run) => (StatusCode::CONFLICT, "busy", Some(format!("follow it: agentctl logs -f {run}"))),
            Refusal::QueueFull => (StatusCode::TOO_MANY_REQUESTS, "queue_full", Some("agentctl status shows what waits".to_owned())),
            Refusal::Stuck(run) => (
                StatusCode::CONFLICT,
                "stuck",
                Some(format!("read what happened (agentctl logs {run}), then agentctl activate a release that works")),
            ),
            Refusal::Stale { .. } => (StatusCode::PRECONDITION_FAILED, "stale", Some("look again: agentctl list".to_owned())),
            Refusal::Draining => (StatusCode::SERVICE_UNAVAILABLE, "draining", Some("ask again in a moment".to_owned())),
        };
        Self::new(status, code, detail, hint)
    }
}

impl From<NotTaken> for Refused {
    fn from(err: NotTaken) -> Self {
        let detail = chain(&err);
        match err {
            NotTaken::Refused(refusal) => refusal.into(),
            NotTaken::NoApp(_) => Self::new(StatusCode::NOT_FOUND, "no_app", detail, Some("agentctl status shows the apps".to_owned())),
            NotTaken::NoRun(_) => Self::new(StatusCode::NOT_FOUND, "no_run", detail, Some("agentctl runs shows them".to_owned())),
            NotTaken::Over(_) => Self::new(StatusCode::CONFLICT, "over", detail, None),
            NotTaken::TooLate(_) => {
                Self::new(StatusCode::CONFLICT, "too_late", detail, Some("agentctl rollback goes back when it has ended".to_owned()))
            }
            NotTaken::NoRelease { there, .. } => {
                let names: Vec<&str> = there.iter().take(5).map(ReleaseName::as_str).collect();
                let hint = if names.is_empty() { "there are none yet".to_owned() } else { format!("the newest are {}", names.join(", ")) };
                Self::new(StatusCode::NOT_FOUND, "no_release", detail, Some(hint))
            }
            NotTaken::Ambiguous { .. } => Self::new(StatusCode::CONFLICT, "ambiguous", detail, Some("give more of the name".to_owned())),
            NotTaken::NonceReused => Self::new(StatusCode::CONFLICT, "nonce_reused", detail, Some("make a new nonce".to_owned())),
            NotTaken::Git(err) => {
                let hint = err.hint();
                let said = if err.tail().is_empty() { detail } else { format!("{detail}: {}", err.tail().join(" / ")) };
                Self::new(StatusCode::UNPROCESSABLE_ENTITY, "repository", said, hint)
            }
            NotTaken::Site(err) => match err.hint() {
                Some(hint) => Self::new(StatusCode::INTERNAL_SERVER_ERROR, "root", detail, Some(hint)),
                None => Self::internal(&err),
            },
            NotTaken::Journal(err) => Self::internal(&err),
        }
    }
}
