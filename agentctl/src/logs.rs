//! `logs`: shows the events of a run again, or as they come.

use agent_model::names::RunId;
use agent_wire::view::{RunState, Runs};
use clap::Args;

use crate::client::{Effort, encoded};
use crate::fault::{Exit, Fault};
use crate::follow::{self, Reach};
use crate::session::Session;

/// What `logs` takes.
#[derive(Debug, Args)]
pub(crate) struct Logs {
    /// The run's number; the newest one when it is left out
    run: Option<RunId>,
    /// Go on until the run ends, and exit as `release` would have
    #[arg(short, long)]
    follow: bool,
}

impl Logs {
    /// Shows the run.
    pub(crate) async fn run(self, session: &mut Session<'_>) -> Result<Exit, Fault> {
        let run = match self.run {
            Some(run) => session.run(run.0).await?,
            None => {
                let of = session.app.as_ref().map(|app| format!("&app={}", encoded(app.as_str()))).unwrap_or_default();
                let runs: Runs = session.client.read(&format!("/v1/runs?limit=1{of}"), Effort::Little).await?.view;
                runs.runs.into_iter().next().ok_or(Fault::NoRun)?
            }
        };
        let exit = match run.state {
            // All events are there, so reading to the end does not wait.
            RunState::Ended => follow::read(session, run.run, Reach::End).await?,
            RunState::Waiting | RunState::Running if self.follow => follow::read(session, run.run, Reach::End).await?,
            RunState::Waiting | RunState::Running => follow::read(session, run.run, Reach::SoFar).await?,
        };
        Ok(if self.follow { exit } else { Exit::GOOD })
    }
}
