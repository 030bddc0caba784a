//! `lock` and `unlock`: the agent refuses release and activate in between.

use agent_model::request::Right;
use clap::Args;

use crate::act;
use crate::fault::{Exit, Fault};
use crate::session::Session;

/// What `lock` takes.
#[derive(Debug, Args)]
pub(crate) struct Lock {
    /// Why, in one line, for those who meet the lock
    #[arg(short = 'm', long = "message", value_name = "WHY")]
    why: String,
}

impl Lock {
    /// Requests the lock.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let mut form = act::form(&session.app().await?, Right::Lock)?;
        form.why = Some(self.why);
        act::at_once(session, &form).await
    }
}

/// Requests the lock's end.
pub(crate) async fn unlock(session: &mut Session<'_>) -> Result<Exit, Fault> {
    let form = act::form(&session.app().await?, Right::Unlock)?;
    act::at_once(session, &form).await
}
