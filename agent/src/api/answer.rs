//! The only place that turns errors into HTTP. Internal causes go to the log, not to the client.

use std::time::Duration;

use agent_model::grant::{Caller, missing_grant};
use agent_model::names::{BadName, ReleaseName};
use agent_model::request::{Refusal, Right};
use agent_wire::form::{BadForm, NotNow};
use agent_wire::problem::{PROBLEM_TYPE, Problem};
use axum::http::{HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};

use super::rate_limited_log::RateLimitedLog;
use crate::engine::NotTaken;
use crate::engine::journal::JournalError;
use crate::trust::OtherWork;
use crate::work::chain;
use crate::work::mask::Mask;

/// The stable words of problems, each with its status. The OpenAPI document names every one.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Code {
    /// The request cannot be parsed.
    Malformed,
    /// The request has no valid proof of its sender.
    Unauthenticated,
    /// The request is meant for another host.
    OtherHost,
    /// The request is expired, or not valid yet.
    OutOfWindow,
    /// This host's clock must be wrong.
    Clock,
    /// The issuer of an ID token does not return its keys.
    NoKeys,
    /// No grant allows it.
    NotAllowed,
    /// There is nothing at this address.
    NotFound,
    NoApp,
    /// There is no such run, or the caller may not read its app.
    NoRun,
    NoRelease,
    /// The address needs another HTTP method.
    WrongMethod,
    /// The body did not come in time.
    TooSlow,
    /// A run is active, and the app is set not to queue requests.
    Busy,
    /// A run ended stuck; the agent accepts only an activate.
    Stuck,
    Over,
    /// The run has switched, and can no longer be cancelled.
    TooLate,
    /// Several releases match.
    Ambiguous,
    /// The nonce was used for another request.
    NonceReused,
    /// The ID token has started a run before.
    TokenReused,
    /// The live release is another one than the caller expected.
    Stale,
    TooLarge,
    /// The body has another content type than a request.
    WrongType,
    /// git cannot answer the request.
    Repository,
    Locked,
    /// Too many runs wait.
    QueueFull,
    /// The caller sends too many requests.
    TooOften,
    /// A failure of the agent itself.
    Internal,
    /// The app's root cannot be used; the hint says why.
    Root,
    /// The disk of the journal is full.
    DiskFull,
    /// The caller is unknown.
    UnknownCaller,
    /// The webhook has no valid proof of its sender.
    UnprovenWebhook,
    /// More webhooks come than the agent needs.
    TooManyWebhooks,
    /// Too many clients are connected.
    Crowded,
    /// The agent is about to stop.
    Draining,
}

impl Code {
    pub(super) fn word(self) -> &'static str {
        match self {
            Self::Malformed => "malformed",
            Self::Unauthenticated => "unauthenticated",
            Self::OtherHost => "other_host",
            Self::OutOfWindow => "out_of_window",
            Self::Clock => "clock",
            Self::NoKeys => "no_keys",
            Self::NotAllowed => "not_allowed",
            Self::NotFound => "not_found",
            Self::NoApp => "no_app",
            Self::NoRun => "no_run",
            Self::NoRelease => "no_release",
            Self::WrongMethod => "wrong_method",
            Self::TooSlow => "too_slow",
            Self::Busy => "busy",
            Self::Stuck => "stuck",
            Self::Over => "over",
            Self::TooLate => "too_late",
            Self::Ambiguous => "ambiguous",
            Self::NonceReused => "nonce_reused",
            Self::TokenReused => "token_reused",
            Self::Stale => "stale",
            Self::TooLarge => "too_large",
            Self::WrongType => "wrong_type",
            Self::Repository => "repository",
            Self::Locked => "locked",
            Self::QueueFull => "queue_full",
            Self::TooOften => "too_often",
            Self::Internal => "internal",
            Self::Root => "root",
            Self::DiskFull => "disk_full",
            Self::UnknownCaller => "unknown_caller",
            Self::UnprovenWebhook => "unproven_webhook",
            Self::TooManyWebhooks => "too_many_webhooks",
            Self::Crowded => "crowded",
            Self::Draining => "draining",
        }
    }

    pub(super) fn status(self) -> StatusCode {
        match self {
            Self::Malformed => StatusCode::BAD_REQUEST,
            Self::Unauthenticated => StatusCode::UNAUTHORIZED,
            Self::NotAllowed | Self::OtherHost => StatusCode::FORBIDDEN,
            Self::OutOfWindow => StatusCode::GONE,
            Self::Clock | Self::NoKeys => StatusCode::SERVICE_UNAVAILABLE,
            Self::NotFound | Self::NoApp | Self::NoRun | Self::NoRelease => StatusCode::NOT_FOUND,
            Self::WrongMethod => StatusCode::METHOD_NOT_ALLOWED,
            Self::TooSlow => StatusCode::REQUEST_TIMEOUT,
            Self::Busy | Self::Stuck | Self::Over | Self::TooLate | Self::Ambiguous | Self::NonceReused | Self::TokenReused => {
                StatusCode::CONFLICT
            }
            Self::Stale => StatusCode::PRECONDITION_FAILED,
            Self::TooLarge => StatusCode::PAYLOAD_TOO_LARGE,
            Self::WrongType => StatusCode::UNSUPPORTED_MEDIA_TYPE,
            Self::Repository => StatusCode::UNPROCESSABLE_ENTITY,
            Self::Locked => StatusCode::LOCKED,
            Self::QueueFull | Self::TooOften | Self::TooManyWebhooks => StatusCode::TOO_MANY_REQUESTS,
            Self::Internal | Self::Root => StatusCode::INTERNAL_SERVER_ERROR,
            Self::DiskFull => StatusCode::INSUFFICIENT_STORAGE,
            Self::UnknownCaller => StatusCode::FORBIDDEN,
            Self::UnprovenWebhook => StatusCode::UNAUTHORIZED,
            Self::Crowded => StatusCode::SERVICE_UNAVAILABLE,
            Self::Draining => StatusCode::SERVICE_UNAVAILABLE,
        }
    }
}

/// An answer that is not a success.
#[derive(Debug)]
pub(super) struct Refused(pub Problem);

impl Refused {
    fn new(code: Code, detail: impl Into<String>, hint: Option<String>) -> Self {
        Self(Problem { status: code.status().as_u16(), code: code.word().to_owned(), detail: detail.into(), hint })
    }

    /// The request cannot be parsed.
    pub(super) fn malformed(detail: impl Into<String>) -> Self {
        Self::new(Code::Malformed, detail, None)
    }

    /// A part of the request is not valid. The framework puts words of its own before a colon.
    pub(super) fn misread(part: &str, why: &str) -> Self {
        let why = why.split_once(": ").map_or(why, |(_, why)| why);
        Self::malformed(format!("the {part} cannot be understood: {why}"))
    }

    /// The request needs the live release, and there is none.
    pub(super) fn nothing_live() -> Self {
        let hint = "agentctl release makes one".to_owned();
        Self::new(Code::NoRelease, "no release is live", Some(hint))
    }

    /// There is nothing at this address.
    pub(super) fn not_found(detail: impl Into<String>) -> Self {
        Self::new(Code::NotFound, detail, None)
    }

    /// The address is right, but not the method.
    pub(super) fn wrong_method() -> Self {
        Self::new(Code::WrongMethod, "this address is not asked in this way", Some("GET /openapi.json tells how".to_owned()))
    }

    /// The body has another content type than a request.
    pub(super) fn wrong_type() -> Self {
        let hint = format!("send Content-Type: {} or application/json", agent_wire::REQUEST_TYPE);
        Self::new(Code::WrongType, "the body is not of the type of a request", Some(hint))
    }

    /// The body is too large.
    pub(super) fn too_large(most: usize) -> Self {
        Self::new(Code::TooLarge, format!("a request has at most {most} bytes"), None)
    }

    /// A webhook is not proven. The answer hides the reason, and the log says a little more.
    pub(super) fn unproven_webhook() -> Self {
        let hint =
            "compare the address, the secret and the clocks; the agent's own log may say more: journalctl -u release-agent".to_owned();
        Self::new(Code::UnprovenWebhook, "nothing proves that this webhook comes from where it says", Some(hint))
    }

    /// A webhook exceeds the limit.
    pub(super) fn too_many_webhooks() -> Self {
        let hint = "nothing is lost: the agent looks all the same, at its own pace".to_owned();
        Self::new(Code::TooManyWebhooks, "more webhooks come than the agent needs", Some(hint))
    }

    /// The body did not come in time.
    pub(super) fn too_slow(limit: Duration) -> Self {
        let detail = format!("the body of the request did not come within {} s", limit.as_secs());
        Self::new(Code::TooSlow, detail, None)
    }

    /// The caller is unknown.
    pub(super) fn nobody(why: impl Into<String>) -> Self {
        let hint = "ask as a user that this host knows: 65534 stands for all those that have no number here".to_owned();
        Self::new(Code::UnknownCaller, why, Some(hint))
    }

    /// The request has no valid proof of its sender. The answer is the same for every flaw; the log has the reason.
    pub(super) fn unsigned() -> Self {
        let hint = format!(
            "sign it with a key of allowed_signers (agentctl --url … --key …), in the header {}; if it was signed, the agent's log says what is wrong",
            agent_wire::sshsig::SIGNATURE_HEADER
        );
        Self::new(Code::Unauthenticated, "nothing here proves whose request this is", Some(hint))
    }

    /// The run's token is missing, or belongs to another run.
    pub(super) fn no_ticket() -> Self {
        let hint = "send the token that came with the run's number: Authorization: Bearer TOKEN".to_owned();
        Self::new(Code::Unauthenticated, "the events of a run are read with its token, or by whoever may read its app", Some(hint))
    }

    /// The request asks for the evidence of a request that other hosts would still accept.
    pub(super) fn good_elsewhere(seconds: u64) -> Self {
        let detail = "the request is meant for other hosts, too, and is still good there: its evidence is not given yet";
        Self::new(Code::NotAllowed, detail, Some(format!("ask again in {} s", seconds + 1)))
    }

    /// The request is addressed to a host, and this host has no name.
    pub(super) fn no_host() -> Self {
        let hint = "leave out aud, iat and exp, or set `host` in [https] of agent.toml".to_owned();
        Self::new(Code::OtherHost, "the request is addressed to a host, and this one has no name to be addressed by", Some(hint))
    }

    /// The clock of this host was set back.
    pub(super) fn clock(behind: i64) -> Self {
        let detail = format!("the clock of this host is {behind} s behind what its journal has seen, so it cannot tell what has expired");
        let hint = "set the clock right (timedatectl); on the host itself, requests over the socket are taken".to_owned();
        Self::new(Code::Clock, detail, Some(hint))
    }

    /// The issuer of the request's ID token does not return its keys.
    pub(super) fn no_keys(why: &dyn std::error::Error) -> Self {
        static UNJUDGED: RateLimitedLog = RateLimitedLog::new();
        if let Some(untold) = UNJUDGED.tells() {
            tracing::warn!(untold, "a request on the network cannot be judged: {}", chain(why));
        }
        let hint = "ask again in a moment; the agent's log says what is wrong with the issuer".to_owned();
        Self::new(Code::NoKeys, "the issuer of the ID token does not say its keys at the moment", Some(hint))
    }

    /// The body is compressed.
    pub(super) fn encoded() -> Self {
        Self::new(Code::WrongType, "the body is encoded, and must come as it is", Some("leave out Content-Encoding".to_owned()))
    }

    /// The caller may read nothing at all.
    pub(super) fn nothing_to_read(caller: &Caller) -> Self {
        let caller = caller.to_string();
        let hint = missing_grant(&caller, "*", Right::Read);
        Self::new(Code::NotAllowed, format!("{caller} may read no app: no grant says so"), Some(hint))
    }

    /// Too many clients are connected.
    pub(super) fn crowded(whose: &str) -> Self {
        let detail = format!("{whose} connections open, and the agent takes no more");
        let hint = "close some, such as agentctl logs -f, or ask again in a moment".to_owned();
        Self::new(Code::Crowded, detail, Some(hint))
    }

    /// A failure of the agent itself.
    pub(super) fn internal(err: &dyn std::error::Error) -> Self {
        tracing::error!("a request failed: {}", chain(err));
        let hint = "the agent's own log says more: journalctl -u release-agent".to_owned();
        Self::new(Code::Internal, "the agent could not do this", Some(hint))
    }
}

impl IntoResponse for Refused {
    fn into_response(self) -> Response {
        let status = StatusCode::from_u16(self.0.status).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
        let body = serde_json::to_string(&self.0).unwrap_or_default();
        let mut response = (status, [(header::CONTENT_TYPE, PROBLEM_TYPE)], body).into_response();
        let headers = response.headers_mut();
        if status == StatusCode::UNAUTHORIZED {
            for challenge in CHALLENGES {
                headers.append(header::WWW_AUTHENTICATE, HeaderValue::from_static(challenge));
            }
        }
        if let Some(seconds) = retry_after(&self.0.code) {
            headers.insert(header::RETRY_AFTER, HeaderValue::from(seconds));
        }
        response
    }
}

/// The ways to authenticate a request (RFC 9110, section 11.6.1; RFC 6750, section 3).
const CHALLENGES: [&str; 2] = ["Agent-Signature namespace=\"release-agent.v1\"", "Bearer realm=\"release-agent\""];

/// The seconds after which a retry makes sense, where waiting alone may help (RFC 9110, section 10.2.3).
fn retry_after(code: &str) -> Option<u32> {
    [(Code::QueueFull, 30), (Code::TooOften, 60), (Code::Draining, 5), (Code::Crowded, 5), (Code::Clock, 60), (Code::NoKeys, 10)]
        .into_iter()
        .find_map(|(known, seconds)| (known.word() == code).then_some(seconds))
}

impl From<NotNow> for Refused {
    fn from(err: NotNow) -> Self {
        let (code, hint) = match &err {
            NotNow::OtherHost { .. } => (Code::OtherHost, "send it to the host that it names, or sign one for this host"),
            NotNow::Expired(_) => (Code::OutOfWindow, "sign it anew, and compare the clocks"),
            NotNow::Early(_) => (Code::OutOfWindow, "set the clock of whoever signs, or of this host"),
            NotNow::TooOld => (Code::OutOfWindow, "sign it anew; right after the journal was lost, wait a minute first"),
        };
        Self::new(code, err.to_string(), Some(hint.to_owned()))
    }
}

impl From<OtherWork> for Refused {
    fn from(err: OtherWork) -> Self {
        let hint = "ask for the commit and the full ref that the job runs for, and have another job ask for another".to_owned();
        Self::new(Code::NotAllowed, err.to_string(), Some(hint))
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
        let (code, hint) = match refusal {
            Refusal::NotAllowed { caller, right, app } => (Code::NotAllowed, Some(missing_grant(&caller, app.as_str(), right))),
            Refusal::Untrusted { .. } => (Code::NotAllowed, Some("ask again with a key or a job that is trusted".to_owned())),
            Refusal::Locked(_) => (Code::Locked, Some("agentctl unlock ends it, for those who may".to_owned())),
            Refusal::Busy(run) => (Code::Busy, Some(format!("follow it: agentctl logs -f {run}"))),
            Refusal::TooManyWait(_) => (Code::QueueFull, Some("wait for them, or cancel some: agentctl status shows them".to_owned())),
            Refusal::TooOften(_) => (Code::TooOften, Some("ask again in a minute".to_owned())),
            Refusal::QueueFull => (Code::QueueFull, Some("agentctl status shows what waits".to_owned())),
            Refusal::Stuck(run) => {
                (Code::Stuck, Some(format!("read what happened (agentctl logs {run}), then agentctl activate a release that works")))
            }
            Refusal::Stale { .. } => (Code::Stale, Some("look again: agentctl list".to_owned())),
            Refusal::Draining => (Code::Draining, Some("ask again in a moment".to_owned())),
        };
        Self::new(code, detail, hint)
    }
}

impl From<NotTaken> for Refused {
    fn from(err: NotTaken) -> Self {
        let detail = chain(&err);
        match err {
            NotTaken::Refused(refusal) => refusal.into(),
            NotTaken::NoApp(_) => Self::new(Code::NoApp, detail, Some("agentctl status shows the apps".to_owned())),
            NotTaken::Absent(absent) => Self::new(Code::NoApp, detail, absent.hint),
            NotTaken::NoRun(_) => Self::new(Code::NoRun, detail, Some("agentctl runs shows them".to_owned())),
            NotTaken::Over(_) => Self::new(Code::Over, detail, None),
            NotTaken::TooLate(_) => Self::new(Code::TooLate, detail, Some("agentctl rollback goes back when it has ended".to_owned())),
            NotTaken::NoRelease { there, .. } => {
                let names: Vec<&str> = there.iter().take(5).map(ReleaseName::as_str).collect();
                let hint = if names.is_empty() { "there are none yet".to_owned() } else { format!("the newest are {}", names.join(", ")) };
                Self::new(Code::NoRelease, detail, Some(hint))
            }
            NotTaken::NothingLive => Self::new(Code::NoRelease, detail, Some("make one: agentctl release REF".to_owned())),
            NotTaken::Ambiguous { .. } => Self::new(Code::Ambiguous, detail, Some("give more of the name".to_owned())),
            NotTaken::RootMoved { .. } => {
                Self::new(Code::Root, detail, Some("restart the agent: it takes the new root up then".to_owned()))
            }
            // These answer webhooks, and no client waits for those.
            NotTaken::AskedBefore | NotTaken::TooEarly => Self::new(Code::Busy, detail, None),
            NotTaken::OnlyHere => Self::new(Code::NotAllowed, detail, Some("log in on the host, and run agentctl exec there".to_owned())),
            NotTaken::NonceReused => Self::new(Code::NonceReused, detail, Some("make a new nonce".to_owned())),
            NotTaken::TokenReused => {
                Self::new(Code::TokenReused, detail, Some("have the issuer make a new one for each request".to_owned()))
            }
            NotTaken::RefNotGranted { reference, .. } => {
                let hint = format!("add {:?} to `refs` of the grant in agent.toml, if it should be allowed", reference.short());
                Self::new(Code::NotAllowed, detail, Some(hint))
            }
            NotTaken::Git(err) => {
                let hint = err.hint();
                let said = if err.tail().is_empty() { detail } else { format!("{detail}: {}", err.tail().join(" / ")) };
                // git repeats addresses, with their secrets, as it was given them or as a remote names them.
                Self::new(Code::Repository, Mask::default().cover(&said), hint)
            }
            NotTaken::Root(err) => match err.hint() {
                Some(hint) => Self::new(Code::Root, detail, Some(hint)),
                None => Self::internal(&err),
            },
            NotTaken::Journal(JournalError::Full(_)) => {
                let hint = "make room on that disk; what is under way goes on, and nothing is lost".to_owned();
                Self::new(Code::DiskFull, detail, Some(hint))
            }
            NotTaken::Journal(err) => Self::internal(&err),
        }
    }
}
