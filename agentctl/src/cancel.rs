//! `cancel`: stops a run and undoes its changes.

use agent_model::names::RunId;
use agent_model::request::Right;
use clap::Args;

use crate::act;
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `cancel` takes.
#[derive(Debug, Args)]
pub(crate) struct Cancel {
    /// The run's number
    run: RunId,
}

impl Cancel {
    /// Requests to stop the run.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let run = session.run(self.run.0).await?;
        let mut form = act::form(&run.app.parse()?, Right::Cancel)?;
        form.run = Some(run.run);
        act::at_once(session, &form).await
    }
}
