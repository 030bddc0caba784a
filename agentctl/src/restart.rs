//! `restart`: restarts the live release, with the current variables and secrets.

use agent_model::request::Right;
use clap::Args;

use crate::act::{self, Expecting, Following};
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `restart` takes.
#[derive(Debug, Args)]
pub(crate) struct Restart {
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

impl Restart {
    /// Requests the restart.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let mut form = act::form(&session.app().await?, Right::Restart)?;
        form.prev = self.expecting.prev();
        act::take_turn(session, &form, &self.following).await
    }
}
