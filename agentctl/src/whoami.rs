//! `whoami`: shows the caller as the agent identifies it, and its rights.

use agent_wire::view::Whoami;

use crate::client::Effort;
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// Shows it.
pub(crate) async fn run(session: &mut Session<'_>) -> Result<Exit, Fault> {
    session.show::<Whoami>("/v1/whoami", Effort::Little, |whoami, _| render::whoami(whoami)).await
}
