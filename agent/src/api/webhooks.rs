//! Webhooks from forges and registries: `POST /v1/webhooks/…`. They need no caller, because a proven webhook only makes the agent poll. The body is
//! used for its signature, and is never kept or parsed.
//!
//! A missing app, an unset source and a wrong signature all get the same answer, with the same amount of work.

use agent_model::names::AppName;
use agent_wire::view;
use axum::Json;
use axum::body::Body;
use axum::extract::State;
use axum::http::{HeaderMap, StatusCode, header};
use axum::response::{IntoResponse, Response};
use chrono::Utc;

use super::answer::Refused;
use super::body;
use super::rate_limited_log::RateLimitedLog;
use super::shared::{Named, Shared, blocking};
use crate::engine::{Heard, NotTaken};
use crate::trust::webhook::{Claim, Source};

/// The most bytes of a webhook: as many as GitHub sends ("Webhook events and payloads": 25 MB). The agent keeps none of them.
pub(super) const MOST_WEBHOOK_BYTES: usize = 25 * 1024 * 1024;

/// A webhook with its proof in the headers.
pub(super) async fn signed(
    State(shared): State<Shared>,
    Named((app, source)): Named<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    hear(shared, &app, Source::of(&source), &headers, None, body).await
}

/// A webhook with its secret in the address. No log contains the address for this reason.
pub(super) async fn addressed(
    State(shared): State<Shared>,
    Named((app, secret)): Named<(String, String)>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    hear(shared, &app, Some(Source::DockerHub), &headers, Some(&secret), body).await
}

async fn hear(
    shared: Shared,
    app: &str,
    source: Option<Source>,
    headers: &HeaderMap,
    in_address: Option<&str>,
    body: Body,
) -> Result<Response, Refused> {
    let name = app.parse::<AppName>();
    let unproven = || {
        tell_of_unproven(name.as_ref().ok(), source);
        Refused::unproven_webhook()
    };
    // A header that comes twice is ambiguous and does not count.
    let header = |name: &'static str| {
        let mut values = headers.get_all(name).iter();
        values.next().filter(|_| values.next().is_none()).and_then(|value| value.to_str().ok())
    };
    let now = u64::try_from(Utc::now().timestamp()).unwrap_or_default();
    let source = source.ok_or_else(unproven)?;
    let claim = Claim::of(source, header, in_address, now).ok_or_else(unproven)?;
    let settings = shared.state.settings.settings();
    // An app that follows no branch accepts no webhooks.
    let following = name.as_ref().ok().and_then(|name| settings.apps.get(name)).filter(|app| app.follows.is_some());
    let secrets = following.iter().flat_map(|app| &app.webhooks).filter(|webhook| webhook.from == source).map(|webhook| &webhook.secret);
    let mut listening = claim.listen(secrets);
    body::pieces(body, MOST_WEBHOOK_BYTES, |piece| listening.hear(piece)).await?;
    let Some(app) = following.filter(|_| listening.proven()) else { return Err(unproven()) };
    let name = app.name.clone();
    let engine = shared.state.engines.get(&name).ok_or_else(|| NotTaken::NoApp(name.clone()))?;
    match blocking(move || Ok(engine.hear(source)?)).await? {
        Heard::WillPoll(follows) => {
            let looks = view::WillPoll { app: name.to_string(), follows: follows.to_string() };
            Ok((StatusCode::ACCEPTED, Json(looks)).into_response())
        }
        Heard::Enough(next) => {
            let seconds = (next.as_secs() + 1).to_string();
            Ok(([(header::RETRY_AFTER, seconds)], Refused::too_many_webhooks()).into_response())
        }
    }
}

/// Logs an unproven webhook for the operator. It does not log the content, which may be a mistyped secret.
fn tell_of_unproven(app: Option<&AppName>, source: Option<Source>) {
    static UNPROVEN: RateLimitedLog = RateLimitedLog::new();
    let Some(untold) = UNPROVEN.tells() else { return };
    let app = app.map_or("?", AppName::as_str);
    let source = source.map_or("?", Source::word);
    tracing::warn!(app, source, untold, "a webhook was not proven: no such [[webhook]], another secret, or another clock");
}
