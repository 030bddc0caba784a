//! `settle`: confirms that a person has looked at the database after a run that may have left it unsettled.

use agent_model::request::Right;
use clap::Args;

use crate::act;
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `settle` takes.
#[derive(Debug, Args)]
pub(crate) struct Settle {
    /// The run that left it, as `status` names it; without it, all of them
    run: Option<u64>,
}

impl Settle {
    /// Sends the confirmation.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let mut form = act::form(&session.app().await?, Right::Settle)?;
        form.run = self.run;
        act::at_once(session, &form).await
    }
}
