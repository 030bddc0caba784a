//! `prune`: removes old releases now.

use agent_model::request::Right;
use agent_wire::view::Releases;
use clap::Args;

use crate::act::{self, Following};
use crate::client::Effort;
use crate::fault::{Exit, Fault};
use crate::render;
use crate::session::Session;

/// What `prune` takes.
#[derive(Debug, Args)]
pub(crate) struct Prune {
    /// Only list what would be removed
    #[arg(long, conflicts_with = "no_follow")]
    dry_run: bool,
    #[command(flatten)]
    following: Following,
}

impl Prune {
    /// Requests the pruning, or the list of releases that it would remove.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let app = session.app().await?;
        if self.dry_run {
            let path = format!("{}/prune", Session::path(&app));
            return session
                .show::<Releases>(&path, Effort::Little, |releases, session| render::prunable(releases, session.now, session.out.width))
                .await;
        }
        let form = act::form(&app, Right::Prune)?;
        act::take_turn(session, &form, &self.following).await
    }
}
