//! The strategy `gunicorn`: a signal to gunicorn's master.

use std::fs;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use nix::sys::signal::Signal;

use crate::process::{Process, Ticks};
use crate::restart::master::{Absent, Master, is_fresh};
use crate::restart::proof::go_on;
use crate::restart::{ReleaseRef, RestartContext, RestartError, unit_jobs};
use crate::systemd::UnitAction;

const POLL: Duration = Duration::from_millis(20);
/// How long the workers of a new master must stay the same before the old master is told to end.
const SAME: Duration = Duration::from_secs(2);

/// `[restart] strategy = "gunicorn"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    pub pid_file: PathBuf,
    /// The unit that starts gunicorn when its master is gone: a release that cannot be loaded ends the master on HUP.
    pub unit: Option<String>,
    pub how: MasterSignal,
    /// How long until every worker is new.
    pub timeout: Duration,
}

/// The ways to reload in gunicorn's "Signal Handling".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum MasterSignal {
    /// HUP: the master reloads the app and replaces its workers.
    Hup,
    /// USR2: a new master beside the old one; the old one gets TERM once the new one serves.
    Usr2,
}

/// The process that a pid file names, if it is a gunicorn: a stale file may name an unrelated process by now. The title that gunicorn sets, where it
/// sets one, begins with its name too.
fn read(pid_file: &Path) -> Option<Process> {
    let pid = fs::read_to_string(pid_file).ok()?.trim().parse().ok()?;
    let is_gunicorn = |process: &Process| process.argv().iter().any(|word| word.contains("gunicorn"));
    Some(Process::of(pid)).filter(|process| process.is_alive() && is_gunicorn(process))
}

impl Settings {
    /// The master that the pid file names.
    pub(in crate::restart) fn master(&self) -> Option<Master> {
        read(&self.pid_file).map(Master::of)
    }

    /// The pid file of a master that USR2 started.
    fn second(&self) -> PathBuf {
        let mut path = self.pid_file.clone().into_os_string();
        path.push(".2");
        path.into()
    }

    fn absent(&self) -> Absent<'static> {
        let seen = format!("the pid file {} names no process that runs", self.pid_file.display());
        Absent { server: "gunicorn", seen, timeout: self.timeout }
    }

    pub(in crate::restart) fn prepare(&self, context: &RestartContext<'_>) -> Result<Option<Master>, RestartError> {
        if self.how == MasterSignal::Usr2 && read(&self.second()).is_some() {
            return Err(RestartError::SetUp {
                what: format!("a second master runs already, by {}", self.second().display()),
                hint: "an earlier USR2 was not finished: end one of the two masters".to_owned(),
            });
        }
        match (self.master(), &self.unit) {
            (Some(master), _) if may_signal(&master.process) => Ok(Some(master)),
            (Some(master), _) => Err(RestartError::SetUp {
                what: format!("the agent's user may not signal gunicorn's master (process {})", master.process.pid()),
                hint: "the agent and gunicorn must run as the same user".to_owned(),
            }),
            (None, Some(unit)) => {
                unit_jobs::examine(context, UnitAction::Restart, std::iter::once(unit.as_str()))?;
                (context.warn)(&format!("gunicorn is not running; {unit} will be started"));
                Ok(None)
            }
            (None, None) => self.absent().at_first(context).map(|()| None),
        }
    }

    /// Signals the master and waits until every worker is new. A master that started after the link led here needs no signal.
    pub(in crate::restart) fn act(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        since: Option<Ticks>,
    ) -> Result<Option<Master>, RestartError> {
        match self.master() {
            Some(master) if is_fresh(&master, since) => self.await_fresh(context, new, master).map(Some),
            Some(before) => self.signal(context, new, before).map(Some),
            None => self.start(context, new).map(Some),
        }
    }

    fn signal(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, before: Master) -> Result<Master, RestartError> {
        match self.how {
            MasterSignal::Hup => {
                (context.note)(&format!("sent HUP to gunicorn's master (process {})", before.process.pid()));
                before.process.signal(Signal::SIGHUP);
                before.await_new(context, new, self.timeout)?;
                let workers = before.process.children();
                Ok(before.with_workers(workers))
            }
            MasterSignal::Usr2 => self.second_master(context, new, &before),
        }
    }

    pub(in crate::restart) fn start(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Master, RestartError> {
        let since = Ticks::now();
        if let Some(unit) = &self.unit {
            unit_jobs::start(context, unit, self.timeout)?;
        }
        let master = self.absent().await_started(context, new, || self.master())?;
        // A master that started before the link led here may have loaded another release.
        if self.unit.is_none() && !is_fresh(&master, Some(since)) {
            return self.signal(context, new, master);
        }
        self.await_fresh(context, new, master)
    }

    fn await_fresh(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, master: Master) -> Result<Master, RestartError> {
        let fresh = master.with_workers(Vec::new());
        fresh.await_new(context, new, self.timeout)?;
        Ok(fresh)
    }

    /// Starts a new master beside the old one. The old one is left alone until the new one serves.
    fn second_master(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, old: &Master) -> Result<Master, RestartError> {
        let second = self.second();
        old.process.signal(Signal::SIGUSR2);
        (context.note)(&format!("sent USR2 to gunicorn's master (process {})", old.process.pid()));
        let end = Instant::now() + self.timeout;
        let in_time = |what: &str| {
            go_on(context, "waiting for gunicorn's new master")?;
            if Instant::now() < end {
                return Ok(());
            }
            Err(old.error(format!("gunicorn's new master {what} within {} s; the old one still serves", self.timeout.as_secs()), None))
        };
        let gone = || old.error("gunicorn's new master ended; the old one still serves".to_owned(), Some("its log has the traceback"));
        let fresh = loop {
            let child = old.process.children().into_iter().find(|child| !old.workers.contains(child));
            match read(&second) {
                Some(process) => break process,
                None if child.is_none() && Instant::now() + self.timeout > end + Duration::from_secs(5) => return Err(gone()),
                None => in_time("did not come up")?,
            }
            context.watch.pause(POLL);
        };
        let mut same: (Vec<Process>, Instant) = (Vec::new(), Instant::now());
        while same.0.is_empty() || same.1.elapsed() < SAME {
            if !fresh.is_alive() {
                return Err(gone());
            }
            let now = fresh.children();
            if now != same.0 {
                same = (now, Instant::now());
            }
            in_time("had no lasting workers")?;
            context.watch.pause(POLL);
        }
        let fresh = Master::of(fresh);
        if let Err(error) = fresh.check(new) {
            fresh.process.signal(Signal::SIGTERM);
            return Err(error);
        }
        (context.note)(&format!("gunicorn's new master (process {}) has its workers; the old one finishes", fresh.process.pid()));
        old.process.signal(Signal::SIGTERM);
        while old.process.is_alive() {
            in_time("serves, but the old one did not go")?;
            context.watch.pause(POLL);
        }
        Ok(fresh)
    }

    /// On the way back: ends a second master that a failure left. Returns whether the first one still serves the former release untouched.
    pub(in crate::restart) fn first_master_serves(
        &self,
        context: &RestartContext<'_>,
        former: ReleaseRef<'_>,
    ) -> Result<bool, RestartError> {
        if self.how != MasterSignal::Usr2 {
            return Ok(false);
        }
        let end = Instant::now() + self.timeout;
        match (self.master(), read(&self.second())) {
            (Some(first), Some(second)) if first.process != second => {
                (context.note)(&format!("ending gunicorn's second master (process {})", second.pid()));
                second.signal(Signal::SIGTERM);
                while second.is_alive() && Instant::now() < end {
                    go_on(context, "waiting for gunicorn's second master to end")?;
                    context.watch.pause(POLL);
                }
                second.signal(Signal::SIGKILL);
            }
            (None, Some(second)) => {
                // The old master is gone. The second one moves its pid file to the first one's name within a second or so.
                while self.master().is_none() && second.is_alive() && Instant::now() < end {
                    go_on(context, "waiting for gunicorn's new master to take over")?;
                    context.watch.pause(POLL);
                }
            }
            _ => {}
        }
        Ok(self.master().is_some_and(|first| first.is_in(former)))
    }
}

fn may_signal(process: &Process) -> bool {
    let pid = i32::try_from(process.pid()).map(nix::unistd::Pid::from_raw);
    pid.is_ok_and(|pid| nix::sys::signal::kill(pid, None).is_ok())
}

#[cfg(test)]
pub(in crate::restart) mod tests;
