//! Units of systemd, spoken to through D-Bus. The exit status of a job says little: a unit counts as up when it stays up.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use super::bus::{Act, Bus, Unit};
use super::handover::Finishing;
use super::lints::{self, Server};
use super::master::ShownBy;
use super::proof::go_on;
use super::uwsgi_fifo::times_without_app;
use super::{ReleaseRef, Renewal, RestartContext, RestartError};
use crate::tools::Process;
use crate::tools::http::Wrong;

/// How often a unit is looked at while it is watched.
const POLL: Duration = Duration::from_millis(100);

/// `[restart] strategy = "systemd"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The units, in order.
    pub units: Vec<String>,
    /// What is done to each.
    pub how: UnitAction,
    /// How long each must stay active, without a restart, to count as well.
    pub watch_for: Duration,
    /// How long a job may take.
    pub timeout: Duration,
}

/// What is done to a unit.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitAction {
    /// `ReloadOrRestartUnit`
    ReloadOrRestart,
    /// `RestartUnit`
    Restart,
}

/// Finds out whether the units can be used at all, and whether the agent may do this to them.
pub(super) fn examine<'u>(context: &RestartContext<'_>, act: Act, units: impl Iterator<Item = &'u str>) -> Result<(), RestartError> {
    let units: Vec<&str> = units.collect();
    if units.is_empty() {
        return Ok(());
    }
    let bus = Bus::of(context)?;
    for name in units {
        let unit = bus.usable(name)?;
        bus.may(act, name)?;
        if unit.needs_daemon_reload {
            (context.warn)(&format!("{name} was changed on disk, and systemd has not read it again: systemctl daemon-reload"));
        }
    }
    Ok(())
}

/// How many answers of a uWSGI without an app are enough, at least.
const WITHOUT_APP: usize = 10;

/// One unit to be brought to the new release.
pub(super) struct UnitJob<'a> {
    pub act: Act,
    pub unit: &'a str,
    pub time: Time,
}

/// How long a job may take.
#[derive(Debug, Clone, Copy)]
pub(super) enum Time {
    /// All of it.
    Whole(Duration),
    /// Its start. Before that, what runs may finish what it is at, for as long as its unit allows.
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

impl Settings {
    pub(super) fn bring(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Vec<Unit>, RestartError> {
        let jobs: Vec<_> =
            self.units.iter().map(|unit| UnitJob { act: self.act(context), unit, time: Time::Whole(self.timeout) }).collect();
        perform(context, new, &jobs)
    }

    /// Only a restart gives a unit other variables.
    pub(super) fn act(&self, context: &RestartContext<'_>) -> Act {
        if context.renewal == Renewal::Yes { Act::Restart } else { self.usual_act() }
    }

    pub(super) fn usual_act(&self) -> Act {
        match self.how {
            UnitAction::ReloadOrRestart => Act::ReloadOrRestart,
            UnitAction::Restart => Act::Restart,
        }
    }
}

/// Starts a unit that should be there, and waits for it.
pub(super) fn start(context: &RestartContext<'_>, unit: &str, timeout: Duration) -> Result<(), RestartError> {
    (context.note)(&format!("starting {unit}"));
    // A unit that is down is started by a restart too; one that is up, and answers nobody, only so.
    Bus::of(context)?.job(Act::Restart, unit, timeout)
}

/// An error about a process, with the last lines of the unit that it belongs to, where it has none of its own.
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
    let bus = Bus::of(context)?;
    jobs.iter().map(|job| carry_out(&bus, context, new, job)).collect()
}

/// Brings one unit to a release: it is active, and no process of it works in another release.
pub(super) fn carry_out(bus: &Bus<'_>, context: &RestartContext<'_>, new: ReleaseRef<'_>, job: &UnitJob<'_>) -> Result<Unit, RestartError> {
    let before = bus.usable(job.unit)?;
    let begun = Instant::now();
    let time = job.time.of(&before, context.watch.left());
    let done = bus.job(job.act, job.unit, time);
    // What was cut off is told, whatever became of the job.
    if let Ok(now) = bus.unit(job.unit)
        && let Some(took) = now.took_to_stop(&before)
    {
        tell_of_end(context, &now, took);
    }
    done?;
    let after = await_active(bus, context, new, job, time)?;
    let did = if after.invocation == before.invocation && before.active_state == "active" { "reloaded" } else { "started anew" };
    (context.note)(&format!("{} was {did} in {:.1} s", job.unit, begun.elapsed().as_secs_f64()));
    if job.act == Act::Restart && did == "reloaded" {
        return Err(bus.failed(job.unit, "was to be restarted, and has still the invocation of before".to_owned()));
    }
    Ok(after)
}

/// How long a unit may take to stop before it is told.
const SOON: Duration = Duration::from_secs(1);

/// Says how long a unit took to finish what it was at, and when that was longer than its unit allows.
pub(super) fn tell_of_end(context: &RestartContext<'_>, unit: &Unit, took: Duration) {
    let seconds = took.as_secs_f64();
    match unit.stop_timeout {
        // Other units than services have no such time.
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

/// That what a unit is at may take longer than there is time for, and what to do.
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

/// Active, and no worker process in the directory of another release.
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
            return Err(bus.failed(job.unit, "did not stay active".to_owned()));
        }
        if Instant::now() > end {
            return Err(match stray {
                Some((process, cwd)) if active => in_another_release(bus, (job.unit, shown_by), process, &cwd),
                _ => bus.failed(job.unit, format!("was not active within {} s", time.as_secs())),
            });
        }
        go_on(context, "waiting for a unit")?;
        context.watch.pause(POLL);
    }
}

/// What shows which release a unit's processes run.
fn shown_by(context: &RestartContext<'_>, unit: &Unit) -> ShownBy {
    if lints::forks(unit) { lints::shown_after_fork(context, Server::of_unit(unit.clone())) } else { ShownBy::Directory }
}

/// A process of a unit that does its work in another release. The kernel tells of no worker at its end where it works; while none that lives works in the
/// release that should serve, the main process counts too, for those to come are started where it is: uWSGI, reloading, ends its workers first.
fn stray(unit: &Unit, shown_by: ShownBy, serving: ReleaseRef<'_>) -> Option<(Process, PathBuf)> {
    let workers = unit.workers();
    let has_arrived = |worker: &Process| worker.cwd().is_some_and(|cwd| cwd.starts_with(serving.dir));
    shown_by.stray(&workers, serving).or_else(|| {
        let are_ending = workers.iter().any(Process::is_ending) && !workers.iter().any(has_arrived);
        are_ending.then(|| shown_by.stray(&[Process::of(unit.main_pid)], serving)).flatten()
    })
}

fn in_another_release(bus: &Bus<'_>, (unit, shown_by): (&str, ShownBy), process: Process, cwd: &Path) -> RestartError {
    let hint = match shown_by {
        ShownBy::Nothing => shown_by.hint(),
        ShownBy::Directory | ShownBy::Answers => {
            "the server keeps the directory that it was started in: let it change into the link app by its own option (chdir), or restart the unit \
             instead of reloading it"
        }
    };
    RestartError::Unit {
        unit: unit.to_owned(),
        what: format!("has a worker in another release: process {} works in {}", process.pid(), cwd.display()),
        hint: Some(hint.to_owned()),
        tail: bus.journal(unit),
    }
}

/// Units that must stay as they are: active, the same main process, never restarted in between.
pub(super) struct Watched<'a> {
    bus: Option<Bus<'a>>,
    units: Vec<(Unit, ShownBy)>,
    looked: Cell<Option<Instant>>,
}

impl<'a> Watched<'a> {
    /// As they were after the act, or, where nobody knows, as they are now.
    pub(super) fn new<'u>(
        context: &RestartContext<'a>,
        names: impl Iterator<Item = &'u str>,
        known: &[Unit],
    ) -> Result<Self, RestartError> {
        let names: Vec<&str> = names.collect();
        let bus = if names.is_empty() { None } else { Some(Bus::open(context.watch)?) };
        let mut units = Vec::new();
        if let Some(bus) = &bus {
            for name in names {
                let known = known.iter().find(|unit| unit.name == name).cloned();
                known.iter().for_each(|unit| bus.hear_of(unit));
                let unit = known.map_or_else(|| bus.unit(name), Ok)?;
                let shown_by = shown_by(context, &unit);
                units.push((unit, shown_by));
            }
        }
        Ok(Self { bus, units, looked: Cell::new(None) })
    }

    /// Fails when one of them did not stay as it was, or has a worker in another release. Systemd is asked now and then, however often this is.
    pub(super) fn check(&self, serving: ReleaseRef<'_>) -> Result<(), RestartError> {
        let Some(bus) = &self.bus else { return Ok(()) };
        if self.looked.get().is_some_and(|looked| looked.elapsed() < POLL) {
            return Ok(());
        }
        for (before, shown_by) in &self.units {
            let now = bus.unit(&before.name)?;
            let what = if !matches!(now.active_state.as_str(), "active" | "reloading") || now.sub_state == "auto-restart" {
                "did not stay active"
            } else if now.restarts > before.restarts {
                "flaps: systemd had to start it again"
            } else if now.main_pid != before.main_pid || now.invocation != before.invocation {
                "was restarted in between"
            } else if let Some((process, cwd)) = stray(&now, *shown_by, serving) {
                return Err(in_another_release(bus, (&before.name, *shown_by), process, &cwd));
            } else {
                continue;
            };
            return Err(bus.failed(&before.name, what.to_owned()));
        }
        self.looked.set(Some(Instant::now()));
        Ok(())
    }

    /// Looks at others, too, which finish meanwhile.
    pub(super) fn look_at(&self, finishing: &[Finishing]) -> Result<(), RestartError> {
        let Some(bus) = &self.bus else { return Ok(()) };
        finishing.iter().try_for_each(|finishing| finishing.look(bus).map(drop))
    }

    /// The last lines of the first of them.
    pub(super) fn tail(&self) -> Vec<String> {
        let first = self.bus.as_ref().zip(self.units.first());
        first.map(|(bus, (unit, _))| bus.journal(&unit.name)).unwrap_or_default()
    }

    /// Why there is no use in asking the first of them again, if it is uWSGI: it answers 500 by itself again and again.
    pub(super) fn has_no_app(&self, serving: ReleaseRef<'_>, wrong: &Wrong, tries: &Cell<usize>) -> Option<String> {
        let times = times_without_app(wrong, tries);
        if times < WITHOUT_APP.max(2 * self.workers()) {
            return None;
        }
        let (unit, _) = self.units.first()?;
        Server::of_unit(unit.clone()).runs("uwsgi").then(|| {
            format!(
                "{} answered {times} times in a row that it has no app for {}, or that the app raised an exception",
                unit.name, serving.name
            )
        })
    }

    /// Their processes, as they are now.
    pub(super) fn processes(&self) -> Vec<Process> {
        let Some(bus) = &self.bus else { return Vec::new() };
        self.units.iter().filter_map(|(unit, _)| bus.unit(&unit.name).ok()).flat_map(|unit| unit.processes()).collect()
    }

    /// How many processes do the work of the first of them.
    pub(super) fn workers(&self) -> usize {
        self.units.first().map_or(1, |(unit, _)| unit.workers().len().max(1))
    }
}

#[cfg(test)]
mod tests;
