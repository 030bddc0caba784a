//! The jobs on units for a release. A unit counts as up when it stays up, and no process of it works in another release. The exit status of systemd's
//! job proves little.

use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::master::ShownBy;
use super::proof::go_on;
use super::server::{Server, forks, shown_after_fork};
use super::{ReleaseRef, RestartContext, RestartError};
use crate::process::Process;
use crate::systemd::{Bus, SystemdError, Unit, UnitAction};

/// How often the agent looks at a unit that it watches.
pub(super) const POLL: Duration = Duration::from_millis(100);

/// Checks that the units can be used at all, and that the agent may run this job on them.
pub(super) fn examine<'u>(context: &RestartContext<'_>, act: UnitAction, units: impl Iterator<Item = &'u str>) -> Result<(), RestartError> {
    let units: Vec<&str> = units.collect();
    if units.is_empty() {
        return Ok(());
    }
    let bus = Bus::of(context.app, context.watch)?;
    for name in units {
        let unit = bus.usable(name)?;
        bus.may(act, name)?;
        if unit.needs_daemon_reload {
            (context.warn)(&format!("{name} was changed on disk, and systemd has not read it again: systemctl daemon-reload"));
        }
    }
    Ok(())
}

/// One unit to be moved to the new release.
pub(super) struct UnitJob<'a> {
    pub act: UnitAction,
    pub unit: &'a str,
    pub time: Time,
}

/// How long a job may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    /// The limit of the whole job.
    Whole(Duration),
    /// The limit of the start alone. Before the start, the running process may finish its work for as long as its unit allows.
    Start(Duration),
}

impl Time {
    fn of(self, before: &Unit, left: Duration) -> Duration {
        match self {
            Self::Whole(time) => time,
            Self::Start(time) if before.is_down() => time,
            Self::Start(time) => before.may_stop_for().map_or(left, |finishing| finishing + time),
        }
    }
}

/// Starts a unit that should run, and waits for it.
pub(super) fn start(context: &RestartContext<'_>, unit: &str, timeout: Duration) -> Result<(), RestartError> {
    (context.note)(&format!("starting {unit}"));
    // A restart also starts a unit that is down, and only a restart helps one that is up but does not answer.
    Ok(Bus::of(context.app, context.watch)?.job(UnitAction::Restart, unit, timeout)?)
}

/// Adds the last log lines of the unit to a process error that has none of its own.
pub(super) fn with_journal(context: &RestartContext<'_>, unit: Option<&str>, error: RestartError) -> RestartError {
    match (error, unit) {
        (RestartError::Process { what, hint, tail }, Some(unit)) if tail.is_empty() => {
            let tail = Bus::open(context.watch).map(|bus| bus.journal(unit)).unwrap_or_default();
            RestartError::Process { what, hint, tail }
        }
        (RestartError::Check { when, source, tail }, Some(unit)) if tail.is_empty() => {
            let tail = Bus::open(context.watch).map(|bus| bus.journal(unit)).unwrap_or_default();
            RestartError::Check { when, source, tail }
        }
        (error, _) => error,
    }
}

pub(super) fn perform(context: &RestartContext<'_>, new: ReleaseRef<'_>, jobs: &[UnitJob<'_>]) -> Result<Vec<Unit>, RestartError> {
    if jobs.is_empty() {
        return Ok(Vec::new());
    }
    let bus = Bus::of(context.app, context.watch)?;
    jobs.iter().map(|job| carry_out(&bus, context, new, job)).collect()
}

/// Moves one unit to a release: it is active, and no process of it works in another release.
pub(super) fn carry_out(bus: &Bus<'_>, context: &RestartContext<'_>, new: ReleaseRef<'_>, job: &UnitJob<'_>) -> Result<Unit, RestartError> {
    let before = bus.usable(job.unit)?;
    let begun = Instant::now();
    let time = job.time.of(&before, context.watch.left());
    let done = bus.job(job.act, job.unit, time);
    // Work that was cut off is reported, whatever the result of the job.
    if let Ok(now) = bus.unit(job.unit)
        && let Some(took) = now.took_to_stop(&before)
    {
        tell_of_end(context, &now, took);
    }
    done?;
    let after = await_active(bus, context, new, job, time)?;
    let did = if after.invocation == before.invocation && before.active_state == "active" { "reloaded" } else { "started anew" };
    (context.note)(&format!("{} was {did} in {:.1} s", job.unit, begun.elapsed().as_secs_f64()));
    if job.act == UnitAction::Restart && did == "reloaded" {
        return Err(bus.failed(job.unit, "was to be restarted, and has still the invocation of before".to_owned()).into());
    }
    Ok(after)
}

/// A stop that takes longer than this is reported.
const SOON: Duration = Duration::from_secs(1);

/// Reports how long a unit took to finish its work, and warns when that exceeded the unit's limit.
pub(super) fn tell_of_end(context: &RestartContext<'_>, unit: &Unit, took: Duration) {
    let seconds = took.as_secs_f64();
    match unit.stop_timeout {
        // Units other than services have no such limit.
        Some(most) if !most.is_zero() && took >= most => (context.warn)(&format!(
            "{} took {seconds:.1} s to stop, and its TimeoutStopSec is {} s: systemd ends by force what is not finished by then, so what it was at \
             may be half done, or lost; raise TimeoutStopSec where it needs longer",
            unit.name,
            most.as_secs_f64()
        )),
        _ if took >= SOON => (context.note)(&format!("{} took {seconds:.1} s to finish what it was at", unit.name)),
        _ => {}
    }
}

/// The error text and the hint, when a unit's work may take longer than there is time for.
pub(super) fn takes_too_long(unit: &Unit, time: Duration) -> Option<(String, &'static str)> {
    let most = unit.may_stop_for();
    let finishes = match most {
        None => "as long as it likes".to_owned(),
        Some(most) if most > time => format!("{} s", most.as_secs()),
        Some(_) => return None,
    };
    let text =
        format!("{} may finish what it is at for {finishes} (TimeoutStopSec), and the step switch has {} s", unit.name, time.as_secs());
    Some((text, "set TimeoutStopSec in its unit to what its longest task needs, and raise switch under [timeouts] beyond that"))
}

/// Waits until the unit is active, with no worker process in the directory of another release.
fn await_active(
    bus: &Bus<'_>,
    context: &RestartContext<'_>,
    new: ReleaseRef<'_>,
    job: &UnitJob<'_>,
    time: Duration,
) -> Result<Unit, RestartError> {
    let end = Instant::now() + time;
    loop {
        let unit = bus.unit(job.unit)?;
        let shown_by = shown_by(context, &unit);
        let stray = stray(&unit, shown_by, new);
        let active = unit.active_state == "active";
        if active && stray.is_none() {
            return Ok(unit);
        }
        if matches!(unit.active_state.as_str(), "failed" | "inactive" | "deactivating") || unit.sub_state == "auto-restart" {
            return Err(bus.failed(job.unit, "did not stay active".to_owned()).into());
        }
        if Instant::now() > end {
            return Err(match stray {
                Some((process, cwd)) if active => in_another_release(bus, (job.unit, shown_by), process, &cwd),
                _ => bus.failed(job.unit, format!("was not active within {} s", time.as_secs())).into(),
            });
        }
        go_on(context, "waiting for a unit")?;
        context.watch.pause(POLL);
    }
}

/// The evidence of which release a unit's processes run.
pub(super) fn shown_by(context: &RestartContext<'_>, unit: &Unit) -> ShownBy {
    if forks(unit) { shown_after_fork(context, Server::of_unit(unit.clone())) } else { ShownBy::Directory }
}

/// A process of a unit that works in another release. The kernel shows no working directory for a dying worker. Until a living worker is in the new
/// release, the main process counts too, because new workers start in its directory: a reloading uWSGI ends its workers first.
pub(super) fn stray(unit: &Unit, shown_by: ShownBy, serving: ReleaseRef<'_>) -> Option<(Process, PathBuf)> {
    let workers = unit.workers();
    let has_arrived = |worker: &Process| worker.cwd().is_some_and(|cwd| cwd.starts_with(serving.dir));
    shown_by.stray(&workers, serving).or_else(|| {
        let are_ending = workers.iter().any(Process::is_ending) && !workers.iter().any(has_arrived);
        are_ending.then(|| shown_by.stray(&[Process::of(unit.main_pid)], serving)).flatten()
    })
}

pub(super) fn in_another_release(bus: &Bus<'_>, (unit, shown_by): (&str, ShownBy), process: Process, cwd: &Path) -> RestartError {
    let hint = match shown_by {
        ShownBy::Nothing => shown_by.hint(),
        ShownBy::Directory | ShownBy::Answers => {
            "the server keeps the directory that it was started in: let it change into the link app by its own option (chdir), or restart the unit \
             instead of reloading it"
        }
    };
    SystemdError::Unit {
        unit: unit.to_owned(),
        what: format!("has a worker in another release: process {} works in {}", process.pid(), cwd.display()),
        hint: Some(hint.to_owned()),
        tail: bus.journal(unit),
    }
    .into()
}

#[cfg(test)]
mod tests;
