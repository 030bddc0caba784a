//! Where requests come in: HTTP on the control socket, and over TLS on the network. Who asks is made sure of before anything is understood.

mod answer;
mod auth;
mod body;
mod connection;
mod events;
mod webhooks;
mod lines;
mod long;
pub(crate) mod network;
mod rights;
mod routes;
mod shared;
mod rate_limited_log;
mod socket;
mod take;

use std::sync::Arc;

use tokio::sync::watch;

use crate::engine::{Engines, Rights};
use crate::settings::watch::InForce;

pub(crate) use socket::{BindError, ControlSocket, serve};

/// What the handlers share.
#[derive(Clone)]
pub(crate) struct ApiState {
    /// The engines.
    pub engines: Arc<Engines>,
    /// The settings in force.
    pub settings: InForce,
    /// The keys of issuers of ID tokens.
    tokens: auth::token::Tokens,
}

impl ApiState {
    /// What the handlers of one agent share.
    pub(crate) fn new(engines: Arc<Engines>, settings: InForce) -> Self {
        Self { engines, settings, tokens: auth::token::Tokens::default() }
    }
}

/// Who judges the callers of runs again when their turn has come.
pub(crate) fn rights_of(settings: InForce) -> Arc<dyn Rights> {
    Arc::new(auth::again::InForceRights(settings))
}

/// Waits until the agent stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A sender that is gone means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
