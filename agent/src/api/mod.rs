//! The API: HTTP on the control socket, and over TLS on the network. The caller is identified before anything is parsed.

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

/// The state that all handlers share.
#[derive(Clone)]
pub(crate) struct ApiState {
    pub engines: Arc<Engines>,
    /// The settings in force.
    pub settings: InForce,
    /// The keys of issuers of ID tokens.
    tokens: auth::token::Tokens,
}

impl ApiState {
    pub(crate) fn new(engines: Arc<Engines>, settings: InForce) -> Self {
        Self { engines, settings, tokens: auth::token::Tokens::default() }
    }
}

/// Checks the callers of runs again when their turn has come.
pub(crate) fn rights_of(settings: InForce) -> Arc<dyn Rights> {
    Arc::new(auth::again::InForceRights(settings))
}

/// Waits until the agent stops.
async fn stopped(stop: &mut watch::Receiver<bool>) {
    // A dropped sender means the same.
    let _ = stop.wait_for(|stop| *stop).await;
}
