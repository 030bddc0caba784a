//! The shared parts of all handlers: their state, how they read an address, and where they wait. It knows no single handler.

use std::sync::Arc;

use agent_model::grant::{Authorised, Caller, authorise};
use agent_model::names::AppName;
use agent_model::request::Right;
use axum::extract::{FromRequestParts, Path, Query};
use axum::http::request::Parts;
use serde::de::DeserializeOwned;
use tokio::sync::{Semaphore, SemaphorePermit, watch};

use super::ApiState;
use super::answer::Refused;
use crate::engine::AppEngine;

/// The state of all handlers.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) state: ApiState,
    pub(super) stop: watch::Receiver<bool>,
}

/// The parameters in the address. A part that is not text counts as malformed.
pub(super) struct Named<T>(pub(super) T);

impl<T: DeserializeOwned + Send, S: Send + Sync> FromRequestParts<S> for Named<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Path(named) = Path::from_request_parts(parts, state).await.map_err(|err| Refused::misread("address", &err.body_text()))?;
        Ok(Self(named))
    }
}

/// The parameters of the query. An unknown word is refused, as everywhere.
pub(super) struct QueryOf<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(asked) = Query::from_request_parts(parts, state).await.map_err(|err| Refused::misread("query", &err.body_text()))?;
        Ok(Self(asked))
    }
}

/// Runs work that may wait for the disk, a program or a lock, away from the serving threads.
pub(super) async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|err| Err(Refused::internal(&err)))
}

/// A turn for work that runs programs, or waits for a cache that a release holds. It leaves threads for lighter requests.
pub(super) async fn turn_to_search() -> Result<SemaphorePermit<'static>, Refused> {
    static TURNS: Semaphore = Semaphore::const_new(16);
    TURNS.acquire().await.map_err(|err| Refused::internal(&err))
}

impl Shared {
    /// The engine of an app, for a caller with a right to it. A caller without one learns nothing about which apps exist.
    pub(super) fn enter(&self, caller: &Caller, app: &str, right: Right) -> Result<(Arc<AppEngine>, Authorised), Refused> {
        let name: AppName = app.parse()?;
        let authorised = authorise(caller.clone(), right, &name, &self.state.settings.settings().agent.grants)?;
        let engine = self.state.engines.get(&name).ok_or_else(|| self.state.engines.absent(&name))?;
        Ok((engine, authorised))
    }

    /// The engines of all apps that the caller may read. A caller who may read none gets a refusal instead of an empty list.
    pub(super) fn readable_engines(&self, caller: &Caller) -> Result<Vec<Arc<AppEngine>>, Refused> {
        let all = self.state.engines.all();
        let there = !all.is_empty();
        let readable: Vec<_> = all.into_iter().filter(|engine| self.may_read(caller, engine.name().as_str())).collect();
        if there && readable.is_empty() { Err(Refused::nothing_to_read(caller)) } else { Ok(readable) }
    }

    pub(super) fn may_read(&self, caller: &Caller, app: &str) -> bool {
        self.enter(caller, app, Right::Read).is_ok()
    }
}
