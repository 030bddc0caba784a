//! `check`: runs the health checks of the live release now.

use agent_model::request::Right;
use clap::Args;

use crate::act::{self, Following};
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `check` takes.
#[derive(Debug, Args)]
pub(crate) struct Check {
    #[command(flatten)]
    following: Following,
}

impl Check {
    /// Requests the checks.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let form = act::form(&session.app().await?, Right::Check)?;
        act::take_turn(session, &form, &self.following).await
    }
}
