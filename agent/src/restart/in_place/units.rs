//! `strategy = "systemd"`: systemd units serve the app.

use std::time::Duration;

use crate::restart::unit_jobs::{Time, UnitJob, perform};
use crate::restart::{ReleaseRef, Renewal, RestartContext, RestartError};
use crate::systemd::{Unit, UnitAction};

/// `[restart] strategy = "systemd"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The units, in order.
    pub units: Vec<String>,
    /// The job for each: `ReloadOrRestart`, or `Restart`.
    pub how: UnitAction,
    /// How long each must stay active without a restart.
    pub watch_for: Duration,
    /// How long a job may take.
    pub timeout: Duration,
}

impl Settings {
    pub(in crate::restart) fn bring(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Vec<Unit>, RestartError> {
        let jobs: Vec<_> =
            self.units.iter().map(|unit| UnitJob { act: self.act(context), unit, time: Time::Whole(self.timeout) }).collect();
        perform(context, new, &jobs)
    }

    /// A renewal always restarts, because a reload does not give a unit new variables.
    pub(in crate::restart) fn act(&self, context: &RestartContext<'_>) -> UnitAction {
        if context.renewal == Renewal::Yes { UnitAction::Restart } else { self.how }
    }
}
