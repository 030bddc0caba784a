//! Workers: units beside the web process that run the release's code, such as Celery's. A plain unit is restarted: it stops, finishes its tasks for
//! as long as its unit allows, and starts again. A template unit has one instance per release, like the web process with handover: the new one starts
//! beside the former, which then finishes its tasks (`handover/workers`).

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
    /// How long it may take to start. The time in which the former one finishes its tasks does not count.
    pub timeout: Duration,
}

impl Worker {
    /// Whether it has one instance per release.
    pub(crate) fn is_template(&self) -> bool {
        self.unit.contains("@.")
    }
}

/// A worker that was moved to a release.
#[derive(Debug)]
pub(super) struct Brought {
    /// Its unit as it was after the move.
    pub unit: Unit,
    /// How long the agent must still watch it.
    pub watch_for: Duration,
}

/// The workers that are restarted, in order.
pub(super) fn plain<'a>(context: &RestartContext<'a>) -> impl Iterator<Item = &'a Worker> + use<'a> {
    context.workers.iter().filter(|worker| !worker.is_template())
}

/// The workers with one instance per release, in order.
pub(super) fn templates<'a>(context: &RestartContext<'a>) -> impl Iterator<Item = &'a Worker> + use<'a> {
    context.workers.iter().filter(|worker| worker.is_template())
}

/// The units of the workers with one instance per release, by the name of the release or its slot.
pub(super) fn instances(context: &RestartContext<'_>, called: &str) -> Vec<String> {
    templates(context).map(|worker| instance_name(&worker.unit, called)).collect()
}

/// Restarts the plain workers, one after the other. A worker that the release never had need not come up, but must not keep running another release's
/// code.
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
