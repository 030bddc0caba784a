//! `activate` and `rollback`: make a release that exists live.

use agent_model::names::ReleaseSelector;
use agent_model::request::Right;
use clap::Args;

use crate::act::{self, Expecting, Following};
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `activate` takes.
#[derive(Debug, Args)]
pub(crate) struct Activate {
    /// A release's name, the beginning of its name or of its commit, or `previous`
    release: ReleaseSelector,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

/// What `rollback` takes.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

impl Activate {
    /// Requests to make the release live.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let mut form = act::form(&session.app().await?, Right::Activate)?;
        form.release = Some(self.release.to_string());
        form.prev = self.expecting.prev();
        act::take_turn(session, &form, &self.following).await
    }
}

impl Rollback {
    /// Requests the release before the live one.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let Self { expecting, following } = self;
        Activate { release: ReleaseSelector::Previous, expecting, following }.run(session).await
    }
}
