//! `pin` and `unpin`: which releases are kept for ever.

use agent_model::names::ReleaseSelector;
use agent_model::request::Right;
use clap::Args;

use crate::act;
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `pin` and `unpin` take.
#[derive(Debug, Args)]
pub(crate) struct Pin {
    /// A release's name, the beginning of its name or of its commit, or `previous`
    release: ReleaseSelector,
}

impl Pin {
    /// Requests to keep the release.
    pub(crate) async fn pin(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        self.ask(session, Right::Pin).await
    }

    /// Requests to let prune remove it again.
    pub(crate) async fn unpin(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        self.ask(session, Right::Unpin).await
    }

    async fn ask(self, session: &mut Session<'_>, right: Right) -> Result<Exit, Fault> {
        let mut form = act::form(&session.app().await?, right)?;
        form.release = Some(self.release.to_string());
        act::at_once(session, &form).await
    }
}
