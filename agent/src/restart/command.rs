//! Any command.

use std::time::{Duration, Instant};

use super::{RestartError, Scene, Serving};
use crate::tools::{Leftovers, Watch};

/// `[restart] strategy = "command"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The argument vector, run in the live release's directory.
    pub run: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}

impl Settings {
    pub(super) fn prepare(&self) -> Result<(), RestartError> {
        if self.run.is_empty() {
            let what = "the command that restarts the app is empty".to_owned();
            return Err(RestartError::SetUp { what, cure: "set run under [restart]".to_owned() });
        }
        Ok(())
    }

    /// Runs it in the release's directory. What it starts may stay: it may be the server.
    pub(super) fn act(&self, scene: &Scene<'_>, new: Serving<'_>) -> Result<(), RestartError> {
        let deadline = scene.watch.deadline.min(Instant::now() + self.timeout);
        let watch = Watch { marker: scene.watch.marker, deadline, cancel: scene.watch.cancel, lines: scene.watch.lines };
        new.program(&self.run, scene.env)
            .leftovers(Leftovers::Leave)
            .run(&watch)
            .map_err(|source| RestartError::Program { act: format!("the restart command failed for {}", new.name), source })
    }
}

#[cfg(test)]
mod tests;
