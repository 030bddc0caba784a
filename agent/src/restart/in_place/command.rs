//! The strategy `command`: any command restarts the app.

use std::time::{Duration, Instant};

use crate::process::{Leftovers, ProgramError, Watch};
use crate::restart::{ReleaseRef, RestartContext, RestartError};

/// `[restart] strategy = "command"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The argument vector, run in the live release's directory.
    pub run: Vec<String>,
    /// The command that goes back to the release that the link leads to; `run` where it is unset.
    pub back: Option<Vec<String>>,
    /// How long each command may take.
    pub timeout: Duration,
}

impl Settings {
    pub(in crate::restart) fn prepare(&self) -> Result<(), RestartError> {
        if self.run.is_empty() {
            let what = "the command that restarts the app is empty".to_owned();
            return Err(RestartError::SetUp { what, hint: "set run under [restart]".to_owned() });
        }
        Ok(())
    }

    /// Runs the command in the release's directory. Processes that it starts may stay, because one may be the server.
    pub(in crate::restart) fn act(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<(), RestartError> {
        self.execute(&self.run, context, new)
            .map_err(|source| RestartError::Program { act: format!("the restart command failed for {}", new.name), source })
    }

    /// The way back has a command of its own where one is set, because a command that hung once hangs again.
    pub(in crate::restart) fn back(&self, context: &RestartContext<'_>, former: ReleaseRef<'_>) -> Result<(), RestartError> {
        let argv = self.back.as_ref().unwrap_or(&self.run);
        self.execute(argv, context, former).map_err(|source| RestartError::Process {
            what: format!("the command that goes back to {} failed: {source}", former.name),
            hint: self
                .back
                .is_none()
                .then(|| "run was run again; set back under [restart] to a command that goes back in any case".to_owned()),
            tail: source.tail().to_vec(),
        })
    }

    fn execute(&self, argv: &[String], context: &RestartContext<'_>, release: ReleaseRef<'_>) -> Result<(), ProgramError> {
        let deadline = context.watch.deadline.min(Instant::now() + self.timeout);
        let watch = Watch { marker: context.watch.marker, deadline, cancel: context.watch.cancel, lines: context.watch.lines };
        release.program(argv, context.env).leftovers(Leftovers::Leave).run(&watch)
    }
}

#[cfg(test)]
mod tests;
