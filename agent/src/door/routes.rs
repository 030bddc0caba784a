//! The addresses, and what each is answered. [`table`] is the list that the OpenAPI document is held against.

use std::sync::Arc;
use std::time::Duration;

use agent_model::grant::{Authorised, Caller, authorise};
use agent_model::names::{AppName, ReleaseSelector, Revision, RunId};
use agent_model::request::{Request, Right};
use agent_wire::form::Form;
use agent_wire::view;
use agent_wire::{EVENTS_TYPE, MOST_REQUEST_BYTES, REQUEST_TYPE};
use axum::body::{Body, Bytes};
use axum::extract::{DefaultBodyLimit, FromRequestParts, Path, Query, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, Method, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Extension, Json, Router};
use http_body_util::{BodyExt, LengthLimitError, Limited};
use serde::Deserialize;
use serde::de::DeserializeOwned;
use tokio::sync::watch;

use super::answer::Refused;
use super::{House, events, hints};
use crate::engine::{Accepted, AppEngine, NotTaken};
use crate::report::metrics;

/// The contract, as `GET /openapi.json` gives it.
const OPENAPI: &str = include_str!("openapi.json");

/// How long a client may take to send the body of a request.
pub(super) const BODY_TIMEOUT: Duration = Duration::from_secs(10);

#[derive(Clone)]
pub(super) struct Shared {
    pub(super) house: House,
    stop: watch::Receiver<bool>,
}

/// Every address with its method.
fn table() -> Vec<(&'static str, Method, MethodRouter<Shared>)> {
    vec![
        ("/v1/requests", Method::POST, post(take)),
        ("/v1/hints/{app}/{source}", Method::POST, post(hints::signed)),
        ("/v1/hints/{app}/docker-hub/{secret}", Method::POST, post(hints::addressed)),
        ("/v1/apps", Method::GET, get(apps)),
        ("/v1/apps/{app}", Method::GET, get(app)),
        ("/v1/apps/{app}/releases", Method::GET, get(releases)),
        ("/v1/apps/{app}/releases/{release}", Method::GET, get(release)),
        ("/v1/apps/{app}/plan", Method::GET, get(plan)),
        ("/v1/apps/{app}/prune", Method::GET, get(prunable)),
        ("/v1/runs", Method::GET, get(runs)),
        ("/v1/runs/{run}", Method::GET, get(run)),
        ("/v1/runs/{run}/events", Method::GET, get(run_events)),
        ("/v1/doctor", Method::GET, get(doctor)),
        ("/healthz", Method::GET, get(|| async { "ok\n" })),
        ("/metrics", Method::GET, get(metrics_text)),
        ("/openapi.json", Method::GET, get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) })),
    ]
}

/// The router for one agent.
pub(super) fn router(house: House, stop: watch::Receiver<bool>) -> Router {
    let mut router = Router::new();
    for (path, _, handler) in table() {
        router = router.route(path, handler);
    }
    router
        .fallback(|| async { Refused::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { Refused::wrong_method() })
        .layer(DefaultBodyLimit::disable())
        .with_state(Shared { house, stop })
}

/// What the address names. A part that is no text is answered like everything else that cannot be understood.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Path(named) = Path::from_request_parts(parts, state).await.map_err(|err| Refused::misread("address", &err.body_text()))?;
        Ok(Self(named))
    }
}

/// What the query asks for; a word that is not known is refused, as it is everywhere.
struct Asked<T>(T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(asked) = Query::from_request_parts(parts, state).await.map_err(|err| Refused::misread("query", &err.body_text()))?;
        Ok(Self(asked))
    }
}

/// Answers everybody the same: that nobody knows who asks.
pub(super) fn nobody(why: &str) -> Router {
    let why = why.to_owned();
    Router::new().fallback(move || std::future::ready(Refused::nobody(why.clone())))
}

/// Does what may wait for the disk, a program or a lock, away from the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|err| Err(Refused::internal(&err)))
}

impl Shared {
    /// The engine of an app, for a caller who has a right to it. Whoever has none learns nothing of which apps there are.
    fn enter(&self, caller: &Caller, app: &str, right: Right) -> Result<(Arc<AppEngine>, Authorised), Refused> {
        let name: AppName = app.parse()?;
        let authorised = authorise(caller.clone(), right, &name, &self.house.settings.settings().agent.grants)?;
        let engine = self.house.engines.get(&name).ok_or(NotTaken::NoApp(name))?;
        Ok((engine, authorised))
    }

    /// The engines of all apps that the caller may read. Whoever may read none is told so, and not that there is none.
    fn readable_engines(&self, caller: &Caller) -> Result<Vec<Arc<AppEngine>>, Refused> {
        let all = self.house.engines.all();
        let there = !all.is_empty();
        let readable: Vec<_> = all.into_iter().filter(|engine| self.may_read(caller, engine.name().as_str())).collect();
        if there && readable.is_empty() { Err(Refused::nothing_to_read(caller)) } else { Ok(readable) }
    }

    fn may_read(&self, caller: &Caller, app: &str) -> bool {
        self.enter(caller, app, Right::Read).is_ok()
    }
}

async fn take(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    headers: HeaderMap,
    body: Body,
) -> Result<Response, Refused> {
    let kind = headers.get(header::CONTENT_TYPE).and_then(|value| value.to_str().ok()).unwrap_or_default();
    let kind = kind.split(';').next().unwrap_or_default().trim();
    if ![REQUEST_TYPE, "application/json"].iter().any(|known| known.eq_ignore_ascii_case(kind)) {
        return Err(Refused::wrong_type());
    }
    let body = whole(body).await?;
    let text = std::str::from_utf8(&body).map_err(|_| Refused::malformed("the request is not UTF-8"))?.to_owned();
    let form: Form = serde_json::from_str(&text).map_err(|err| Refused::malformed(format!("the request cannot be understood: {err}")))?;
    let request = Request::try_from(&form)?;
    let (engine, authorised) = shared.enter(&caller, &form.app, request.act.right())?;
    let accepted = blocking(move || Ok(engine.take(&authorised, &request, &form, &text)?)).await?;
    let (status, run) = match accepted {
        Accepted::New(run) => (StatusCode::ACCEPTED, run),
        Accepted::Before(run) => (StatusCode::OK, run),
    };
    let events = format!("/v1/runs/{run}/events");
    Ok((status, [(header::LOCATION, events.clone())], Json(view::Taken { run: run.0, events, token: None })).into_response())
}

/// The whole body, which must be small and come in time.
async fn whole(body: Body) -> Result<Bytes, Refused> {
    let read = Limited::new(body, MOST_REQUEST_BYTES).collect();
    match tokio::time::timeout(BODY_TIMEOUT, read).await {
        Ok(Ok(body)) => Ok(body.to_bytes()),
        Ok(Err(err)) if err.is::<LengthLimitError>() => Err(Refused::too_large()),
        Ok(Err(err)) => Err(Refused::malformed(format!("the body cannot be read: {err}"))),
        Err(_) => Err(Refused::too_slow(BODY_TIMEOUT)),
    }
}

async fn apps(State(shared): State<Shared>, Extension(caller): Extension<Caller>) -> Result<Json<view::Apps>, Refused> {
    blocking(move || {
        let apps = shared.readable_engines(&caller)?.into_iter().map(|engine| engine.status()).collect::<Result<_, _>>()?;
        let complaints = shared.house.settings.complaints().iter().map(ToString::to_string).collect();
        Ok(Json(view::Apps { agent: env!("CARGO_PKG_VERSION").to_owned(), draining: shared.house.engines.draining(), apps, complaints }))
    })
    .await
}

async fn app(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(app): Named<String>,
) -> Result<Json<view::App>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || Ok(Json(engine.status()?))).await
}

async fn releases(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(app): Named<String>,
) -> Result<Json<view::Releases>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || Ok(Json(engine.releases()?))).await
}

async fn release(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named((app, selector)): Named<(String, String)>,
) -> Result<Json<view::ReleaseDetail>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || {
        let release = if selector == "live" {
            let live = engine.status()?.live.ok_or_else(Refused::nothing_live)?;
            live.name.parse()?
        } else {
            engine.find(&selector.parse::<ReleaseSelector>()?)?
        };
        Ok(Json(engine.release_detail(&release)?))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct PlanQuery {
    #[serde(rename = "ref")]
    revision: String,
}

async fn plan(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(app): Named<String>,
    Asked(query): Asked<PlanQuery>,
) -> Result<Json<view::Plan>, Refused> {
    let (engine, authorised) = shared.enter(&caller, &app, Right::Plan)?;
    let revision: Revision = query.revision.parse()?;
    blocking(move || Ok(Json(engine.plan(&authorised, &revision)?))).await
}

async fn prunable(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(app): Named<String>,
) -> Result<Json<view::Releases>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || Ok(Json(engine.prunable()?))).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    app: Option<String>,
    #[serde(default)]
    after: u64,
    #[serde(default = "fifty")]
    limit: u32,
}

fn fifty() -> u32 {
    50
}

async fn runs(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<RunsQuery>,
) -> Result<Json<view::Runs>, Refused> {
    let engines = match &query.app {
        Some(app) => vec![shared.enter(&caller, app, Right::Read)?.0],
        None => shared.readable_engines(&caller)?,
    };
    blocking(move || {
        // Asked app by app, so that those whom the caller may not read take no place in the answer.
        let limit = query.limit.clamp(1, 1000);
        let mut runs = Vec::new();
        for engine in engines {
            runs.extend(shared.house.engines.journal().runs(engine.name(), query.after, limit).map_err(NotTaken::from)?);
        }
        runs.sort_by_key(|run| std::cmp::Reverse(run.run));
        runs.truncate(limit as usize);
        Ok(Json(view::Runs { runs }))
    })
    .await
}

/// A run that the caller may read. To whoever may not, it is as if it were not there.
fn readable(shared: &Shared, caller: &Caller, run: &str) -> Result<(RunId, view::Run), Refused> {
    let run: RunId = run.parse()?;
    let known = shared.house.engines.journal().run(run).map_err(NotTaken::from)?;
    let known = known.filter(|known| shared.may_read(caller, &known.app)).ok_or(NotTaken::NoRun(run))?;
    Ok((run, known))
}

async fn run(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(run): Named<String>,
) -> Result<Json<view::Run>, Refused> {
    blocking(move || readable(&shared, &caller, &run).map(|(_, run)| Json(run))).await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    after: Option<u64>,
}

async fn run_events(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Named(run): Named<String>,
    Asked(query): Asked<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // The standard's own cursor goes first: a browser that reconnects repeats the address as it was.
    let after = text("last-event-id").and_then(|id| id.parse().ok()).or(query.after).unwrap_or(0);
    let (shape, kind) = if text("accept").is_some_and(|accept| accept.contains("text/event-stream")) {
        (events::Shape::ServerSent, "text/event-stream")
    } else {
        (events::Shape::Lines, EVENTS_TYPE)
    };
    let asking = shared.clone();
    let (run, nothing_more) = blocking(move || {
        let (run, known) = readable(&asking, &caller, &run)?;
        let journal = asking.house.engines.journal();
        let nothing_more = known.ended.is_some() && journal.events(run, after, 1).map_err(NotTaken::from)?.is_empty();
        Ok((run, nothing_more))
    })
    .await?;
    if nothing_more {
        // To an EventSource, which comes back after every end, this says not to (WHATWG HTML, "Server-sent events").
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let body = events::body(shared.house.engines.journal().clone(), run, after, shape, shared.stop.clone());
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], body).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DoctorQuery {
    app: Option<String>,
}

async fn doctor(
    State(shared): State<Shared>,
    Extension(caller): Extension<Caller>,
    Asked(query): Asked<DoctorQuery>,
) -> Result<Json<view::Doctor>, Refused> {
    let engines = match &query.app {
        Some(app) => vec![shared.enter(&caller, app, Right::Read)?.0],
        None => shared.readable_engines(&caller)?,
    };
    let reader = caller.to_string();
    blocking(move || {
        let mut findings: Vec<view::Finding> = shared
            .house
            .settings
            .complaints()
            .iter()
            .map(|complaint| view::Finding {
                app: None,
                what: "configuration".to_owned(),
                level: view::Level::Error,
                text: complaint.to_string(),
                cure: Some("mend the file; the last good configuration stays in force until then".to_owned()),
            })
            .collect();
        if engines.is_empty() {
            findings.push(view::Finding {
                app: None,
                what: "configuration".to_owned(),
                level: view::Level::Warning,
                text: format!("there is no app that {reader} may read"),
                cure: Some("agentctl init writes the file of a first app; a [[grant]] in agent.toml lets others read".to_owned()),
            });
        }
        findings.extend(engines.iter().flat_map(|engine| engine.examine()));
        findings.sort_by_key(|finding| finding.level);
        Ok(Json(view::Doctor { findings }))
    })
    .await
}

async fn metrics_text(State(shared): State<Shared>, Extension(caller): Extension<Caller>) -> Result<Response, Refused> {
    blocking(move || {
        let text = metrics::text(&shared.readable_engines(&caller)?)?;
        Ok(([(header::CONTENT_TYPE, metrics::TYPE)], text).into_response())
    })
    .await
}

#[cfg(test)]
mod tests;
