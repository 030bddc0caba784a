//! Units that the agent watches while a release proves itself.

use std::cell::Cell;
use std::time::Instant;

use super::master::ShownBy;
use super::server::{Server, times_without_app};
use super::unit_jobs::{POLL, in_another_release, shown_by, stray};
use super::{ReleaseRef, RestartContext, RestartError};
use crate::http::Wrong;
use crate::process::Process;
use crate::systemd::{Bus, Unit};

/// The minimum number of answers that show a uWSGI without an app.
const WITHOUT_APP: usize = 10;

/// Units that must stay as they are: active, the same main process, never restarted in between.
pub(super) struct Watched<'a> {
    bus: Option<Bus<'a>>,
    units: Vec<(Unit, ShownBy)>,
    looked: Cell<Option<Instant>>,
}

impl<'a> Watched<'a> {
    /// The units as they were after the job; where that is unknown, as they are now.
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

    /// Fails when one of them changed, or has a worker in another release. It asks systemd only now and then, however often it is called.
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
            return Err(bus.failed(&before.name, what.to_owned()).into());
        }
        self.looked.set(Some(Instant::now()));
        Ok(())
    }

    /// The connection for watching them, if there are any.
    pub(super) fn bus(&self) -> Option<&Bus<'a>> {
        self.bus.as_ref()
    }

    /// The last log lines of the first unit.
    pub(super) fn tail(&self) -> Vec<String> {
        let first = self.bus.as_ref().zip(self.units.first());
        first.map(|(bus, (unit, _))| bus.journal(&unit.name)).unwrap_or_default()
    }

    /// The reason to stop checking the first unit, if it is a uWSGI that repeatedly sent its own 500.
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

    /// Their current processes.
    pub(super) fn processes(&self) -> Vec<Process> {
        let Some(bus) = &self.bus else { return Vec::new() };
        self.units.iter().filter_map(|(unit, _)| bus.unit(&unit.name).ok()).flat_map(|unit| unit.processes()).collect()
    }

    /// How many processes do the work of the first unit.
    pub(super) fn workers(&self) -> usize {
        self.units.first().map_or(1, |(unit, _)| unit.workers().len().max(1))
    }
}
