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
    /// Make it live though its code does not fit the schema of the database
    #[arg(long)]
    keep_schema: bool,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

/// What `rollback` takes.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    /// Make it live though its code does not fit the schema of the database
    #[arg(long)]
    keep_schema: bool,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

impl Activate {
    /// Asks for the release to be made live.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let mut form = act::form(&session.app().await?, Right::Activate)?;
        form.release = Some(self.release.to_string());
        form.options.keep_schema = self.keep_schema;
        form.prev = self.expecting.prev();
        act::take_turn(session, &form, &self.following).await
    }
}

impl Rollback {
    /// Asks for the release before the live one.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let Self { keep_schema, expecting, following } = self;
        Activate { release: ReleaseSelector::Previous, keep_schema, expecting, following }.run(session).await
    }
}
