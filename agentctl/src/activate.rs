//! `activate` and `rollback`: make a release that exists live.

use agent_model::names::ReleaseSelector;
use agent_model::request::Right;
use clap::Args;

use crate::act::{self, Expecting, Following};
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What happens to migrations that the release does not know.
#[derive(Debug, Args)]
pub(crate) struct Schema {
    /// Reverse the newer migrations first, by the code of the live release; with a dump from before, where [backup] is set
    #[arg(long, conflicts_with = "keep_schema")]
    reverse: bool,
    /// With --reverse: go on though rows or values go with what is reversed
    #[arg(long, requires = "reverse")]
    drop_data: bool,
    /// Make it live though its code does not fit the schema of the database
    #[arg(long)]
    keep_schema: bool,
}

/// What `activate` takes.
#[derive(Debug, Args)]
pub(crate) struct Activate {
    /// A release's name, the beginning of its name or of its commit, or `previous`
    release: ReleaseSelector,
    #[command(flatten)]
    schema: Schema,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

/// What `rollback` takes.
#[derive(Debug, Args)]
pub(crate) struct Rollback {
    #[command(flatten)]
    schema: Schema,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

impl Activate {
    /// Requests to make the release live.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let Schema { reverse, drop_data, keep_schema } = self.schema;
        let mut form = act::form(&session.app().await?, if reverse { Right::Reverse } else { Right::Activate })?;
        form.release = Some(self.release.to_string());
        (form.options.keep_schema, form.options.drop_data) = (keep_schema, drop_data);
        form.prev = self.expecting.prev();
        act::take_turn(session, &form, &self.following).await
    }
}

impl Rollback {
    /// Requests the release before the live one.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let Self { schema, expecting, following } = self;
        Activate { release: ReleaseSelector::Previous, schema, expecting, following }.run(session).await
    }
}
