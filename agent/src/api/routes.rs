//! The addresses and their handlers. A test compares [`reading`], [`acting`] and [`hooked`] with the OpenAPI document.

use agent_model::grant::Caller;
use agent_model::names::{AppName, ReleaseSelector, Revision, RunId};
use agent_model::request::Right;
use agent_wire::form::Form;
use agent_wire::sshsig::NAMESPACE;
use agent_wire::{EVENTS_TYPE, view};
use axum::extract::{DefaultBodyLimit, FromRequestParts, State};
use axum::http::request::Parts;
use axum::http::{HeaderMap, HeaderValue, StatusCode, header};
use axum::response::{IntoResponse, Response};
use axum::routing::{MethodRouter, get, post};
use axum::{Json, Router};
use chrono::Utc;
use serde::Deserialize;
use tokio::sync::{Semaphore, watch};

use super::answer::Refused;
use super::auth::{self, KnownCaller, ticket};
use super::long::WhileThere;
use super::shared::{Named, QueryOf, Shared, blocking, turn_to_search};
use super::take::{Acting, take};
use super::{ApiState, events, long, rights, webhooks};
use crate::engine::journal::Evidence;
use crate::engine::{NotTaken, ask_all};
use crate::process::Cancel;
use crate::report::metrics;

/// The contract, as `GET /openapi.json` returns it.
const OPENAPI: &str = include_str!("openapi.json");

/// Every address that acts.
fn acting() -> Vec<(&'static str, MethodRouter<Acting>)> {
    vec![("/v1/requests", post(take))]
}

/// Every address for webhooks: they need no caller, and no request reads them.
fn hooked() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![("/v1/webhooks/{app}/{source}", post(webhooks::signed)), ("/v1/webhooks/{app}/docker-hub/{secret}", post(webhooks::addressed))]
}

/// Every address that is read.
fn reading() -> Vec<(&'static str, MethodRouter<Shared>)> {
    vec![
        ("/v1/apps", get(apps)),
        ("/v1/apps/{app}", get(app)),
        ("/v1/apps/{app}/releases", get(releases)),
        ("/v1/apps/{app}/releases/{release}", get(release)),
        ("/v1/apps/{app}/plan", get(plan)),
        ("/v1/apps/{app}/prune", get(prunable)),
        ("/v1/apps/{app}/fsck", get(fsck)),
        ("/v1/runs", get(runs)),
        ("/v1/runs/{run}", get(run)),
        ("/v1/runs/{run}/events", get(run_events)),
        ("/v1/runs/{run}/evidence", get(run_evidence)),
        ("/v1/doctor", get(doctor)),
        ("/v1/whoami", get(whoami)),
        ("/healthz", get(healthz)),
        ("/metrics", get(metrics_text)),
        ("/openapi.json", get(|| async { ([(header::CONTENT_TYPE, "application/json")], OPENAPI) })),
    ]
}

pub(super) fn router(state: ApiState, stop: watch::Receiver<bool>) -> Router {
    let shared = Shared { state, stop };
    let reading =
        reading().into_iter().fold(Router::new(), |router, (path, handler)| router.route(path, handler)).with_state(shared.clone());
    let read_by_request = with_fallbacks(reading.clone());
    let hooked = hooked().into_iter().fold(Router::new(), |router, (path, handler)| router.route(path, handler)).with_state(shared.clone());
    let state = Acting { shared, reading: read_by_request };
    let acting = acting().into_iter().fold(Router::new(), |router, (path, handler)| router.route(path, handler)).with_state(state);
    with_fallbacks(reading.merge(hooked).merge(acting))
}

fn with_fallbacks(router: Router) -> Router {
    router
        .fallback(|| async { Refused::not_found("there is nothing at this address") })
        .method_not_allowed_fallback(|| async { Refused::wrong_method() })
        .layer(DefaultBodyLimit::disable())
}

/// Answers every request alike: the caller is unknown.
pub(super) fn nobody(why: &str) -> Router {
    let why = why.to_owned();
    Router::new().fallback(move || std::future::ready(Refused::nobody(why.clone())))
}

async fn apps(State(shared): State<Shared>, KnownCaller(caller): KnownCaller) -> Result<Json<view::Apps>, Refused> {
    blocking(move || {
        let engines = shared.readable_engines(&caller)?;
        ask_all(&engines);
        let apps = engines.iter().map(|engine| engine.status()).collect::<Result<_, _>>()?;
        // They contain names and paths of other apps.
        let all = rights::may_see_all(&caller, &shared.state.settings.settings().agent.grants);
        let of_files = shared.state.settings.complaints();
        let absent = shared.state.engines.not_set_up(&shared.state.settings.settings());
        let absent = absent.iter().map(|absent| absent.hint.as_ref().map_or(absent.to_string(), |hint| format!("{absent}; {hint}")));
        let complaints = of_files.iter().map(ToString::to_string).chain(absent).filter(|_| all).collect();
        Ok(Json(view::Apps { agent: env!("CARGO_PKG_VERSION").to_owned(), draining: shared.state.engines.draining(), apps, complaints }))
    })
    .await
}

async fn app(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    Named(app): Named<String>,
) -> Result<Json<view::App>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || Ok(Json(engine.status()?))).await
}

async fn releases(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    Named(app): Named<String>,
) -> Result<Json<view::Releases>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || Ok(Json(engine.releases()?))).await
}

async fn release(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    Named((app, selector)): Named<(String, String)>,
) -> Result<Json<view::ReleaseDetail>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || {
        let release = if selector == "live" {
            engine.live().ok_or_else(Refused::nothing_live)?
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
    KnownCaller(caller): KnownCaller,
    Named(app): Named<String>,
    QueryOf(query): QueryOf<PlanQuery>,
) -> Result<Json<view::Plan>, Refused> {
    let (engine, authorised) = shared.enter(&caller, &app, Right::Plan)?;
    let revision: Revision = query.revision.parse()?;
    let turn = turn_to_search().await?;
    blocking(move || {
        let _turn = turn;
        Ok(Json(engine.plan(&authorised, &revision)?))
    })
    .await
}

async fn prunable(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    Named(app): Named<String>,
) -> Result<Json<view::Releases>, Refused> {
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    blocking(move || Ok(Json(engine.prunable()?))).await
}

async fn fsck(State(shared): State<Shared>, KnownCaller(caller): KnownCaller, Named(app): Named<String>) -> Result<Response, Refused> {
    // fsck reads whole disks, and one at a time is as fast as several.
    static TURN: Semaphore = Semaphore::const_new(1);
    let (engine, _) = shared.enter(&caller, &app, Right::Read)?;
    let there = WhileThere(Cancel::default());
    let cancel = there.0.clone();
    let looking = async move {
        let turn = TURN.acquire().await.map_err(|err| Refused::internal(&err))?;
        blocking(move || {
            let _turn = turn;
            Ok(engine.fsck(&cancel)?)
        })
        .await
    };
    long::answer(looking, there, shared.stop.clone(), long::SILENCE).await
}

/// The number of a run or of an event after which reading continues.
#[derive(Debug, Clone, Copy, Default, Deserialize)]
#[serde(try_from = "u64")]
struct Cursor(u64);

/// The largest number of the journal.
const CURSOR: &str = "a whole number from 0 to 9223372036854775807";

impl TryFrom<u64> for Cursor {
    type Error = String;
    fn try_from(number: u64) -> Result<Self, String> {
        i64::try_from(number).map(|_| Self(number)).map_err(|_| format!("a cursor must be {CURSOR}"))
    }
}

fn cursor(text: &[u8]) -> Option<Cursor> {
    // A sign is not a digit here.
    let digits = std::str::from_utf8(text).ok().filter(|text| text.bytes().all(|byte| byte.is_ascii_digit()))?;
    digits.parse().ok().and_then(|number: u64| number.try_into().ok())
}

/// The most runs in an answer.
#[derive(Debug, Clone, Copy, Deserialize)]
#[serde(try_from = "u64")]
struct Limit(u32);

impl Default for Limit {
    fn default() -> Self {
        Self(50)
    }
}

impl TryFrom<u64> for Limit {
    type Error = &'static str;
    fn try_from(number: u64) -> Result<Self, &'static str> {
        match number {
            0 => Err("a limit must be 1 or more"),
            number => Ok(Self(u32::try_from(number.min(1000)).unwrap_or(1000))),
        }
    }
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct RunsQuery {
    app: Option<String>,
    #[serde(default)]
    after: Cursor,
    #[serde(default)]
    limit: Limit,
}

async fn runs(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    QueryOf(query): QueryOf<RunsQuery>,
) -> Result<Json<view::Runs>, Refused> {
    let engines = match &query.app {
        Some(app) => vec![shared.enter(&caller, app, Right::Read)?.0],
        None => shared.readable_engines(&caller)?,
    };
    blocking(move || {
        // One query per app, so that unreadable apps take no place in the answer.
        let Limit(limit) = query.limit;
        let mut runs = Vec::new();
        for engine in engines {
            runs.extend(shared.state.engines.journal().runs(engine.name(), query.after.0, limit).map_err(NotTaken::from)?);
        }
        runs.sort_by_key(|run| std::cmp::Reverse(run.run));
        runs.truncate(limit as usize);
        Ok(Json(view::Runs { runs }))
    })
    .await
}

/// A run that the caller may read. For other callers it does not exist.
fn readable(shared: &Shared, caller: &Caller, run: &str) -> Result<(RunId, view::Run), Refused> {
    let run: RunId = run.parse()?;
    let known = shared.state.engines.journal().run(run).map_err(NotTaken::from)?;
    let known = known.filter(|known| shared.may_read(caller, &known.app)).ok_or(NotTaken::NoRun(run))?;
    Ok((run, known))
}

/// The run of this token. A wrong token counts as none.
fn by_ticket(shared: &Shared, token: &str, run: &str) -> Result<(RunId, view::Run), Refused> {
    let journal = shared.state.engines.journal();
    let run: RunId = run.parse()?;
    if !ticket::is_of(token, run, journal.events_key()) {
        return Err(Refused::no_ticket());
    }
    let known = journal.run(run).map_err(NotTaken::from)?.ok_or(NotTaken::NoRun(run))?;
    let now = Utc::now();
    if known.ended.is_some_and(|ended| ticket::is_over(ended, now.max(journal.newest()))) {
        return Err(Refused::no_ticket());
    }
    // A token gives no more rights than the key of its request still has.
    let proof = journal.proof(run).map_err(NotTaken::from)?.unwrap_or_default();
    let app: AppName = known.app.parse()?;
    auth::again::caller(&proof, &known.caller, &app, &shared.state.settings, now).map_err(|_| Refused::no_ticket())?;
    Ok((run, known))
}

/// The follower of a run, if the connection or a signature identifies it; else the run's token must.
struct FollowedBy(Option<Caller>);

impl<S: Send + Sync> FromRequestParts<S> for FollowedBy {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, _state: &S) -> Result<Self, Refused> {
        Ok(Self(auth::known(parts)))
    }
}

async fn run(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    Named(run): Named<String>,
) -> Result<Json<view::Run>, Refused> {
    blocking(move || readable(&shared, &caller, &run).map(|(_, run)| Json(run))).await
}

async fn run_evidence(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    Named(run): Named<String>,
) -> Result<Json<view::Evidence>, Refused> {
    blocking(move || {
        let (run, known) = readable(&shared, &caller, &run)?;
        let Evidence { text, signatures, keys } =
            shared.state.engines.journal().evidence(run).map_err(NotTaken::from)?.ok_or(NotTaken::NoRun(run))?;
        // Another named host would still accept the request, so only its signer may have it.
        let form = Form::parse(&text).ok();
        let until = form.filter(|form| form.aud.as_ref().is_some_and(|hosts| hosts.len() > 1)).and_then(|form| form.exp);
        let until = until.map(|exp| exp.saturating_add(agent_wire::form::CLOCK_SKEW));
        if let Some(left) = until.and_then(|until| until.checked_sub(u64::try_from(Utc::now().timestamp()).unwrap_or_default())) {
            return Err(Refused::good_elsewhere(left));
        }
        Ok(Json(view::Evidence {
            run: run.0,
            caller: known.caller,
            accepted: known.accepted,
            request: text,
            signatures,
            keys,
            namespace: NAMESPACE.to_owned(),
            allowed_signers: shared.state.settings.allowed_signers().display().to_string(),
        }))
    })
    .await
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct EventsQuery {
    #[serde(default)]
    after: Cursor,
}

async fn run_events(
    State(shared): State<Shared>,
    FollowedBy(caller): FollowedBy,
    Named(run): Named<String>,
    QueryOf(query): QueryOf<EventsQuery>,
    headers: HeaderMap,
) -> Result<Response, Refused> {
    let text = |name| headers.get(name).and_then(|value| value.to_str().ok());
    // The standard's own cursor comes first, because a reconnecting browser repeats the original address.
    let Cursor(after) = match headers.get("last-event-id").map(HeaderValue::as_bytes) {
        None | Some(b"") => query.after,
        Some(id) => cursor(id).ok_or_else(|| Refused::misread("Last-Event-ID", &format!("must be {CURSOR}")))?,
    };
    let (shape, kind) = if text("accept").is_some_and(|accept| accept.contains("text/event-stream")) {
        (events::Shape::ServerSent, "text/event-stream")
    } else {
        (events::Shape::Lines, EVENTS_TYPE)
    };
    let asking = shared.clone();
    let token = ticket::bearer(&headers).map(str::to_owned);
    let (run, nothing_more) = blocking(move || {
        let journal = asking.state.engines.journal();
        let (run, known) = match (caller, token) {
            (Some(caller), _) => readable(&asking, &caller, &run)?,
            (None, Some(token)) => by_ticket(&asking, &token, &run)?,
            (None, None) => return Err(Refused::no_ticket()),
        };
        let nothing_more = known.ended.is_some() && journal.events(run, after, 1).map_err(NotTaken::from)?.is_empty();
        Ok((run, nothing_more))
    })
    .await?;
    if nothing_more {
        // An EventSource reconnects after every end; this status tells it not to (WHATWG HTML, "Server-sent events").
        return Ok(StatusCode::NO_CONTENT.into_response());
    }
    let body = events::body(shared.state.engines.journal().clone(), run, after, shape, shared.stop.clone());
    Ok(([(header::CONTENT_TYPE, kind), (header::CACHE_CONTROL, "no-store")], body).into_response())
}

#[derive(Deserialize)]
#[serde(deny_unknown_fields)]
struct DoctorQuery {
    app: Option<String>,
}

async fn doctor(
    State(shared): State<Shared>,
    KnownCaller(caller): KnownCaller,
    QueryOf(query): QueryOf<DoctorQuery>,
) -> Result<Json<view::Doctor>, Refused> {
    let engines = match &query.app {
        Some(app) => vec![shared.enter(&caller, app, Right::Read)?.0],
        None => shared.readable_engines(&caller)?,
    };
    let reader = caller.to_string();
    let turn = turn_to_search().await?;
    blocking(move || {
        let _turn = turn;
        let all = rights::may_see_all(&caller, &shared.state.settings.settings().agent.grants);
        let mut findings: Vec<view::Finding> = shared
            .state
            .settings
            .complaints()
            .iter()
            .filter(|_| all)
            .map(|complaint| view::Finding {
                app: None,
                what: "configuration".to_owned(),
                level: view::Level::Error,
                text: complaint.to_string(),
                hint: Some("mend the file; until then what was in force before stays in force".to_owned()),
            })
            .collect();
        let settings = shared.state.settings.settings();
        findings.extend(shared.state.settings.awaits_restart().filter(|_| all).map(|text| view::Finding {
            app: None,
            what: "configuration".to_owned(),
            level: view::Level::Warning,
            text,
            hint: Some("systemctl restart release-agent".to_owned()),
        }));
        findings.extend(shared.state.settings.unread_files().iter().filter(|_| all).map(|file| view::Finding {
            app: None,
            what: "configuration".to_owned(),
            level: view::Level::Warning,
            text: format!("{} is not read: only files that end in .toml are", file.display()),
            hint: Some(format!("mv {} {}", file.display(), file.with_extension("toml").display())),
        }));
        findings.extend(shared.state.engines.not_set_up(&settings).into_iter().filter(|_| all).map(|absent| view::Finding {
            app: Some(absent.app.to_string()),
            what: "set-up".to_owned(),
            level: view::Level::Error,
            text: absent.to_string(),
            hint: absent.hint,
        }));
        if engines.is_empty() {
            findings.push(view::Finding {
                app: None,
                what: "configuration".to_owned(),
                level: view::Level::Warning,
                text: format!("there is no app that {reader} may read"),
                hint: Some("agentctl init writes the file of a first app; a [[grant]] in agent.toml lets others read".to_owned()),
            });
        }
        findings.extend(engines.iter().flat_map(|engine| engine.examine()));
        if query.app.is_none() && all {
            let newest = shared.state.engines.journal().newest();
            findings.extend(rights::findings(&settings, &shared.state.settings.material(), newest, Utc::now()));
            findings.extend(rights::open_files(shared.state.settings.config_dir(), &settings));
        }
        findings.sort_by_key(|finding| finding.level);
        Ok(Json(view::Doctor { findings }))
    })
    .await
}

async fn whoami(State(shared): State<Shared>, KnownCaller(caller): KnownCaller) -> Json<view::Whoami> {
    Json(rights::whoami(&caller, &shared.state.settings.settings().agent.grants))
}

/// An agent that has not checked its journal, or found it damaged, can do nothing.
async fn healthz(State(shared): State<Shared>) -> Result<&'static str, Refused> {
    blocking(move || {
        shared.state.engines.journal().looked_through().map_err(NotTaken::from)?;
        Ok("ok\n")
    })
    .await
}

async fn metrics_text(State(shared): State<Shared>, KnownCaller(caller): KnownCaller) -> Result<Response, Refused> {
    blocking(move || {
        let text = metrics::text(&shared.readable_engines(&caller)?)?;
        Ok(([(header::CONTENT_TYPE, metrics::TYPE)], text).into_response())
    })
    .await
}

#[cfg(test)]
mod tests;
