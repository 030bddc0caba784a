//! Workers: units beside the web process that run the release's code, such as Celery's. A plain unit is restarted: it stops, which lets it finish its
//! tasks for as long as its unit allows, and starts again. A template unit has an instance for each release, as the web process has with handover:
//! the new one starts beside the former, which is then left to finish (`handover/workers`).

use std::time::Duration;

use super::unit_jobs::{Time, UnitJob, perform};
use super::{ReleaseRef, RestartContext, RestartError};
use crate::systemd::{Unit, UnitAction, instance_name};

/// `[[worker]]`
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Worker {
    /// The unit, or the template of its instances.
    pub unit: String,
    /// How long it must stay active.
    pub watch_for: Duration,
    /// How long it may take to start. Before that, the former one finishes its tasks.
    pub timeout: Duration,
}

impl Worker {
    /// Whether there is an instance of it for each release.
    pub(crate) fn is_template(&self) -> bool {
        self.unit.contains("@.")
    }
}

/// A worker that was brought to a release.
#[derive(Debug)]
pub(super) struct Brought {
    /// Its unit, as it was then.
    pub unit: Unit,
    /// How long it is still to be watched.
    pub watch_for: Duration,
}

/// The workers that are restarted, in order.
pub(super) fn plain<'a>(context: &RestartContext<'a>) -> impl Iterator<Item = &'a Worker> + use<'a> {
    context.workers.iter().filter(|worker| !worker.is_template())
}

/// The workers that have an instance for each release, in order.
pub(super) fn templates<'a>(context: &RestartContext<'a>) -> impl Iterator<Item = &'a Worker> + use<'a> {
    context.workers.iter().filter(|worker| worker.is_template())
}

/// The units of those that have an instance for each release, by what the release or its slot is called.
pub(super) fn instances(context: &RestartContext<'_>, called: &str) -> Vec<String> {
    templates(context).map(|worker| instance_name(&worker.unit, called)).collect()
}

/// Restarts the plain ones, one after the other. One that the release never had is not to go on with another's code, and need not come up.
pub(super) fn restart(context: &RestartContext<'_>, release: ReleaseRef<'_>) -> Result<Vec<Brought>, RestartError> {
    let mut brought = Vec::new();
    for worker in plain(context) {
        let job = UnitJob { act: UnitAction::Restart, unit: &worker.unit, time: Time::Start(worker.timeout) };
        let done = perform(context, release, &[job]);
        if context.lacks(worker) {
            let how = done.map_or_else(|error| format!("does not come up: {error}"), |_| "was restarted, and is not watched".to_owned());
            (context.warn)(&format!("{}, which {} did not have, {how}", worker.unit, release.name));
            continue;
        }
        brought.extend(done?.into_iter().map(|unit| Brought { unit, watch_for: worker.watch_for }));
    }
    Ok(brought)
}
