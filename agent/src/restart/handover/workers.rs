//! Workers with one instance per release, in the release's slot where there are slots. The new worker runs beside the former only until it has been
//! seen to stay up. The agent tells the former to finish before it leads visitors to the new release, because the former would discard tasks that it
//! does not know. Until then the former stands ready in case the new one does not stay.
//!
//! ```text
//!           start, watch           told to stop                finished
//! (nothing) ────────────▶ working ─────────────▶ finishing ───────────────▶ (nothing)
//!                            ▲                       │ the way back: started again as soon as it has finished
//!                            └───────────────────────┘
//! ```

use std::cell::Cell;
use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;

use super::instance::Instances;
use crate::restart::proof::go_on;
use crate::restart::unit_jobs::{Time, UnitJob, carry_out, tell_of_end};
use crate::restart::watched::Watched;
use crate::restart::worker::{self, Brought, Worker, templates};
use crate::restart::{ReleaseRef, Renewal, RestartContext, RestartError, celery};
use crate::systemd::{Bus, Unit, UnitAction, instance_name};

/// How often the agent looks at a worker that finishes.
const POLL: Duration = Duration::from_millis(100);
/// The longest interval between two looks that still gives the time of its end.
const OFTEN: Duration = Duration::from_secs(1);
/// How long systemd may take for the rest after a unit's time is over.
const GOING: Duration = Duration::from_secs(10);

/// How long a worker may accept tasks after it was told to stop. Where Celery reads its queue without an event loop, it ends the current poll and
/// polls once more, for 2 s each (`synloop` in celery/worker/loops.py of 5.5).
const TAKING_NOTICE: Duration = Duration::from_secs(5);

/// A worker that was told to finish.
#[derive(Debug)]
pub(in crate::restart) struct Finishing {
    /// Its unit as it was before.
    unit: Unit,
    told: Instant,
    looked: Cell<Instant>,
    end: Cell<Option<End>>,
}

/// When a worker was down, counted from when it was told to finish.
#[derive(Debug, Clone, Copy)]
enum End {
    /// The exact time.
    After(Duration),
    /// An upper bound: there was no earlier look.
    Within(Duration),
}

impl<'a> Instances<'a> {
    pub(super) fn workers_of(&self, release: &ReleaseName) -> Vec<String> {
        self.settings.workers_of(self.context, release)
    }

    /// The units of the workers that have this instance name.
    pub(super) fn workers_called(&self, called: &str) -> Vec<String> {
        worker::instances(self.context, called)
    }

    /// Checks, before the agent changes anything, that a worker's unit can be started and stopped.
    pub(super) fn examine_worker(&self, unit: &str) -> Result<(), RestartError> {
        let Some(bus) = &self.bus else { return Ok(()) };
        let state = bus.usable(unit)?;
        if celery::is_clock(&state) {
            return Err(RestartError::SetUp { what: celery::two_clocks(unit), hint: celery::ONE_CLOCK.to_owned() });
        }
        bus.may(UnitAction::Start, unit)?;
        // Without the right to stop it, the former would keep running beside the new one.
        Ok(bus.may(UnitAction::Stop, unit)?)
    }

    /// The workers of other releases that work or finish.
    fn other_workers(&self, keep: &ReleaseName) -> Result<Vec<String>, RestartError> {
        let Some(bus) = &self.bus else { return Ok(Vec::new()) };
        let kept = self.workers_of(keep);
        let mut others = Vec::new();
        for worker in templates(self.context) {
            others.extend(
                bus.running(&instance_name(&worker.unit, "*"))?.into_iter().filter(|unit| self.is_ours(unit) && !kept.contains(unit)),
            );
        }
        Ok(others)
    }

    /// Whether a worker is named after a release or a slot; any other belongs to someone else.
    fn is_ours(&self, unit: &str) -> bool {
        let called = unit.split_once('@').and_then(|(_, rest)| rest.strip_suffix(".service")).unwrap_or_default();
        let is_set = || self.settings.slots.iter().any(|slot| slot.as_str() == called);
        let was_set = || !self.settings.slots.is_empty() && self.slots().taken().iter().any(|(slot, _)| slot.as_str() == called);
        called.parse::<ReleaseName>().is_ok() || is_set() || was_set()
    }

    /// Whether all workers of a release work.
    pub(super) fn work(&self, release: &ReleaseName) -> Result<bool, RestartError> {
        let Some(bus) = &self.bus else { return Ok(true) };
        for unit in self.workers_of(release) {
            if bus.unit(&unit)?.active_state != "active" {
                return Ok(false);
            }
        }
        Ok(true)
    }

    /// Starts the workers of a release that do not work yet. One that is still finishing starts when it has finished. A worker that the release never
    /// had is not started for it, because it would discard the tasks that it does not know.
    pub(super) fn start_workers(&self, serving: ReleaseRef<'_>) -> Result<Vec<Brought>, RestartError> {
        let Some(bus) = &self.bus else { return Ok(Vec::new()) };
        let called = self.settings.worker_called(self.context.link, serving.name);
        let start = |worker: &'a Worker| {
            let unit = instance_name(&worker.unit, &called);
            let now = bus.usable(&unit)?;
            let unit = if now.active_state == "active" && self.context.renewal == Renewal::Yes && self.settings.slots.is_empty() {
                let job = UnitJob { act: UnitAction::Restart, unit: &unit, time: Time::Start(worker.timeout) };
                carry_out(bus, self.context, serving, &job)?
            } else if now.active_state == "active" {
                (self.context.note)(&format!("{unit} works already"));
                now
            } else {
                if now.active_state == "deactivating" {
                    (self.context.note)(&format!("{unit} starts anew when it has finished what it is at"));
                }
                let job = UnitJob { act: UnitAction::Start, unit: &unit, time: Time::Start(worker.timeout) };
                carry_out(bus, self.context, serving, &job)?
            };
            Ok(Brought { unit, watch_for: worker.watch_for })
        };
        let due = templates(self.context).filter(|worker| {
            let lacks = self.context.lacks(worker);
            if lacks {
                (self.context.note)(&format!("{} is not started for {}, which had no such worker", worker.unit, serving.name));
            }
            !lacks
        });
        due.map(start).collect()
    }

    /// Watches the workers for their configured time, and fails if one does not stay up.
    pub(super) fn watch_workers(&self, serving: ReleaseRef<'_>, brought: &mut [Brought]) -> Result<(), RestartError> {
        let Some(longest) = brought.iter().map(|brought| brought.watch_for).max() else { return Ok(()) };
        let units: Vec<Unit> = brought.iter().map(|brought| brought.unit.clone()).collect();
        let watched = Watched::new(self.context, units.iter().map(|unit| unit.name.as_str()), &units)?;
        let end = Instant::now() + longest;
        while Instant::now() < end {
            watched.check(serving)?;
            go_on(self.context, "watching the new workers")?;
            self.context.watch.pause(POLL);
        }
        watched.check(serving)?;
        brought.iter_mut().for_each(|brought| brought.watch_for = Duration::ZERO);
        Ok(())
    }

    /// Tells the workers of all other releases to finish their tasks.
    pub(super) fn let_others_finish(&self, keep: &ReleaseName) -> Result<Vec<Finishing>, RestartError> {
        self.let_finish(&self.other_workers(keep)?)
    }

    /// Tells workers to finish their tasks.
    pub(super) fn let_finish(&self, units: &[String]) -> Result<Vec<Finishing>, RestartError> {
        let Some(bus) = &self.bus else { return Ok(Vec::new()) };
        let mut finishing = Vec::new();
        for name in units {
            let unit = bus.unit(name)?;
            if unit.is_down() {
                bus.forget_failure(name);
                continue;
            }
            finishing.push(Finishing::new(unit.clone()));
            if unit.goes_on() {
                let most = unit.stop_timeout.map_or_else(String::new, |most| format!(", for {} s at the most", most.as_secs_f64()));
                (self.context.note)(&format!("{name} finishes what it is at{most}"));
            }
            // A finishing worker may be queued to start again because of a rollback; this cancels that start.
            bus.let_finish(name)?;
        }
        Ok(finishing)
    }

    /// Waits until the workers accept no more tasks.
    pub(super) fn await_noticed(&self, finishing: &[Finishing]) -> Result<(), RestartError> {
        let Some(bus) = &self.bus else { return Ok(()) };
        for finishing in finishing {
            while finishing.told.elapsed() < TAKING_NOTICE && !finishing.look(bus)?.is_down() {
                go_on(self.context, "waiting for the former workers")?;
                self.context.watch.pause(POLL);
            }
        }
        Ok(())
    }

    /// Waits at most `most` for the workers to finish, and reports each one that was cut off. A worker that takes longer is left to finish.
    pub(super) fn await_finished(&self, finishing: &[Finishing], most: Duration) -> Result<(), RestartError> {
        let Some(bus) = &self.bus else { return Ok(()) };
        // The steps after this one need their time, too.
        let time = most.min(self.context.watch.left().saturating_sub(self.settings.drain + GOING));
        let begun = Instant::now();
        finishing.iter().try_for_each(|one| one.wait(bus, self.context, finishing, time.saturating_sub(begun.elapsed())))
    }
}

impl Finishing {
    pub(super) fn is(&self, unit: &str) -> bool {
        self.unit.name == unit
    }

    fn new(unit: Unit) -> Self {
        let now = Instant::now();
        // An earlier run may have told it already.
        let told = unit.stopping_for().and_then(|time| now.checked_sub(time)).unwrap_or(now);
        Self { unit, told, looked: Cell::new(now), end: Cell::default() }
    }

    /// Checks whether it is down by now. The agent must look often, because systemd forgets the times of a unit that is down.
    pub(in crate::restart) fn look(&self, bus: &Bus<'_>) -> Result<Unit, RestartError> {
        let now = bus.unit(&self.unit.name)?;
        let looked = self.looked.replace(Instant::now());
        if now.is_down() && self.end.get().is_none() {
            let known = now.took_to_stop(&self.unit).or_else(|| (looked.elapsed() < OFTEN).then(|| self.told.elapsed()));
            self.end.set(Some(known.map_or_else(|| End::Within(self.told.elapsed()), End::After)));
        }
        Ok(now)
    }

    /// Waits for this worker, and looks at all of them meanwhile.
    fn wait(&self, bus: &Bus<'_>, context: &RestartContext<'_>, all: &[Self], time: Duration) -> Result<(), RestartError> {
        let name = &self.unit.name;
        let begun = Instant::now();
        let time = self.unit.may_stop_for().map_or(time, |most| time.min(most + GOING));
        loop {
            for other in all.iter().filter(|other| other.end.get().is_none()) {
                other.look(bus)?;
            }
            let now = self.look(bus)?;
            if let Some(end) = self.end.get() {
                match (end, self.unit.stop_timeout) {
                    (End::After(took), _) => tell_of_end(context, &self.unit, took),
                    (End::Within(time), Some(most)) if time >= most => (context.warn)(&format!(
                        "{name} stopped within {:.1} s, and its TimeoutStopSec is {} s: whether it finished what it was at is not known",
                        time.as_secs_f64(),
                        most.as_secs_f64()
                    )),
                    (End::Within(_), _) => {}
                }
                (context.note)(&format!("{name} has stopped"));
                bus.forget_failure(name);
                return Ok(());
            }
            if now.goes_on() {
                (context.warn)(&format!("{name} was started again by somebody else, and goes on"));
                return Ok(());
            }
            if begun.elapsed() >= time || !context.watch.pause(POLL) {
                let seconds = self.told.elapsed().as_secs();
                (context.warn)(&format!(
                    "{name} has not finished what it is at after {seconds} s: it is left to it, and not waited for any longer"
                ));
                return Ok(());
            }
        }
    }
}
