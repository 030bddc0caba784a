//! What every handler is given, how it reads an address, and where it waits. No handler is known here.

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

/// What all handlers have.
#[derive(Clone)]
pub(super) struct Shared {
    pub(super) state: ApiState,
    pub(super) stop: watch::Receiver<bool>,
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

/// What the query asks for. An unknown word is refused, as everywhere.
pub(super) struct QueryOf<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for QueryOf<T> {
    type Rejection = Refused;
    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Refused> {
        let Query(asked) = Query::from_request_parts(parts, state).await.map_err(|err| Refused::misread("query", &err.body_text()))?;
        Ok(Self(asked))
    }
}

/// Does what may wait for the disk, a program or a lock, away from the threads that serve.
pub(super) async fn blocking<T: Send + 'static>(act: impl FnOnce() -> Result<T, Refused> + Send + 'static) -> Result<T, Refused> {
    tokio::task::spawn_blocking(act).await.unwrap_or_else(|err| Err(Refused::internal(&err)))
}

/// A turn for what runs programs, or waits for a cache that a release has: there are threads for some of it, and the others are for whoever wants less.
pub(super) async fn turn_to_search() -> Result<SemaphorePermit<'static>, Refused> {
    static TURNS: Semaphore = Semaphore::const_new(16);
    TURNS.acquire().await.map_err(|err| Refused::internal(&err))
}

impl Shared {
    /// The engine of an app, for a caller who has a right to it. Whoever has none learns nothing of which apps there are.
    pub(super) fn enter(&self, caller: &Caller, app: &str, right: Right) -> Result<(Arc<AppEngine>, Authorised), Refused> {
        let name: AppName = app.parse()?;
        let authorised = authorise(caller.clone(), right, &name, &self.state.settings.settings().agent.grants)?;
        let engine = self.state.engines.get(&name).ok_or_else(|| self.state.engines.absent(&name))?;
        Ok((engine, authorised))
    }

    /// The engines of all apps that the caller may read. Whoever may read none is told so, and not that there is none.
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
