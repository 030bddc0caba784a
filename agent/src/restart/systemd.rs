//! Units of systemd, spoken to through D-Bus.

use std::time::Duration;

/// `[restart] strategy = "systemd"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The units, in order.
    pub units: Vec<String>,
    /// What is done to each.
    pub how: How,
    /// How long each must stay active, without a restart, to count as well.
    pub watch_for: Duration,
    /// How long a job may take.
    pub timeout: Duration,
}

/// What is done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `ReloadOrRestartUnit`
    ReloadOrRestart,
    /// `RestartUnit`
    Restart,
}

/// `[[worker]]`: a unit such as Celery's, restarted with the release, watched, part of the proof.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    /// The unit.
    pub unit: String,
    /// How long it must stay active.
    pub watch_for: Duration,
    /// How long its job may take: a worker finishes its tasks first.
    pub timeout: Duration,
}
