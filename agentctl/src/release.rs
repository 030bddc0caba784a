//! `release`: makes a release of a commit, and makes it live.

use agent_model::names::Revision;
use agent_model::request::Right;
use clap::Args;

use crate::act::{self, Expecting, Following};
use crate::fault::{Exit, Fault};
use crate::plan;
use crate::session::Session;

/// What `release` takes.
#[derive(Debug, Args)]
pub(crate) struct Release {
    /// Branch, tag, or commit, whole or its first digits
    #[arg(value_name = "REF")]
    revision: Revision,
    /// Only tell what would be done, as `plan` does
    #[arg(long, conflicts_with_all = ["no_follow", "expect_live"])]
    dry_run: bool,
    /// Build the environment anew, though there is one for the same requirements
    #[arg(long)]
    rebuild: bool,
    #[command(flatten)]
    expecting: Expecting,
    #[command(flatten)]
    following: Following,
}

impl Release {
    /// Asks for the release.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        if self.dry_run {
            return plan::show(session, &self.revision).await;
        }
        let mut form = act::form(&session.app().await?, Right::Release)?;
        form.revision = Some(self.revision.to_string());
        form.prev = self.expecting.prev();
        form.options.rebuild = self.rebuild;
        act::take_turn(session, &form, &self.following).await
    }
}
