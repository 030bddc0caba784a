//! Runs jobs on units: by a helper where there is one, else by systemd, which needs a privilege.

use std::time::{Duration, Instant, SystemTime};

use agent_model::names::{AppName, ReleaseName};
use zbus::OwnedObjectPath;

use super::action::UnitAction;
use super::bus::{ANSWER, Bus};
use super::error::{SystemdError, is_denied};
use super::helper::{self, HelperAnswer};

/// How often the agent looks at a unit that was told to stop.
const POLL: Duration = Duration::from_millis(50);

impl Bus<'_> {
    /// Runs a job on a unit and waits for its end: by its helper where it has one, else by systemd.
    pub(crate) fn job(&self, act: UnitAction, name: &str, timeout: Duration) -> Result<(), SystemdError> {
        let limit = timeout.min(self.watch.left());
        if act == UnitAction::Start {
            self.started.borrow_mut().insert(name.to_owned(), SystemTime::now());
        }
        let result = match helper::ask(self, act, name, limit) {
            Ok(HelperAnswer::Done) => return Ok(()),
            Ok(HelperAnswer::Nobody) => self.ask_systemd(act, name, limit),
            Err(error) => Err(error),
        };
        let result = match result {
            Err(SystemdError::TimedOut(_)) if !self.watch.left().is_zero() => {
                return Err(self.failed(name, format!("took more than {} s to {}", timeout.as_secs(), act.word())));
            }
            result => result?,
        };
        match result.as_str() {
            "done" => Ok(()),
            "dependency" => Err(self.failed(name, format!("did not {}: a unit that it depends on failed", act.word()))),
            "timeout" => Err(self.failed(name, format!("did not {} within its own timeout", act.word()))),
            "canceled" => Err(self.failed(name, format!("did not {}: somebody cancelled the job", act.word()))),
            other => Err(self.failed(name, format!("did not {} ({other})", act.word()))),
        }
    }

    /// Tells a unit to stop, and waits only until it begins to: it may finish its work.
    pub(crate) fn let_finish(&self, name: &str) -> Result<(), SystemdError> {
        let end = Instant::now() + ANSWER;
        loop {
            match helper::tell(self, UnitAction::Stop, name)? {
                HelperAnswer::Done => {}
                HelperAnswer::Nobody => self.tell_to_stop(name)?,
            }
            // A helper that is already running ignores another connection, so the loop connects again.
            for _ in 0..10 {
                if !self.unit(name)?.goes_on() {
                    return Ok(());
                }
                if self.watch.left().is_zero() {
                    return Err(SystemdError::TimedOut(format!("telling {name} to stop")));
                }
                self.watch.pause(POLL);
            }
            if Instant::now() > end {
                return Err(self.failed(name, "was told to stop, and goes on".to_owned()));
            }
        }
    }

    fn tell_to_stop(&self, name: &str) -> Result<(), SystemdError> {
        match self.call::<OwnedObjectPath>(&format!("stop {name}"), UnitAction::Stop.method(), &(name, "replace")) {
            Err(SystemdError::Bus { source, .. }) if is_denied(&source) => Err(self.denied(UnitAction::Stop, name, source)),
            told => told.map(drop),
        }
    }

    /// Checks, before anything is changed, that the agent may run this job on a unit. It asks for a job in the mode that systemd allows only for the
    /// opposite job. systemd refuses that, but only after it has checked the permission.
    pub(crate) fn may(&self, act: UnitAction, name: &str) -> Result<(), SystemdError> {
        if act.has_helper(name) || nix::unistd::geteuid().is_root() {
            return Ok(());
        }
        let mode = if act == UnitAction::Stop { "isolate" } else { "triggering" };
        match self.call::<OwnedObjectPath>(&format!("{} {name}", act.word()), act.method(), &(name, mode)) {
            Err(SystemdError::Bus { source, .. }) if is_denied(&source) => Err(self.denied(act, name, source)),
            // The real job will report any other error.
            _ => Ok(()),
        }
    }

    /// The error that neither a helper nor systemd does this for the agent, with a hint.
    pub(super) fn denied(&self, act: UnitAction, name: &str, source: Box<zbus::Error>) -> SystemdError {
        let app = self.app.map_or("APP", AppName::as_str);
        let of_release = name
            .split_once('@')
            .and_then(|(_, rest)| rest.split_once('.'))
            .is_some_and(|(instance, _)| instance.parse::<ReleaseName>().is_ok());
        let hint = if of_release {
            format!(
                "a helper is for a unit whose name stays: set slots = [\"blue\", \"green\"] under [restart], and agentctl setup app {app}; or allow this \
                 very unit by a polkit rule"
            )
        } else {
            let socket = act.helper_socket(name);
            format!("systemctl enable --now {socket}, or agentctl setup app {app}; a polkit rule for this very unit will do as well")
        };
        SystemdError::Denied { act: format!("{} {name}", act.word()), hint, source }
    }

    /// Resets a failed unit, because systemd does not start a unit that failed too often. An agent without this right may still start it.
    pub(crate) fn forget_failure(&self, name: &str) {
        if !self.unit(name).is_ok_and(|unit| unit.active_state == "failed") {
            return;
        }
        // The helper that stops a unit also resets its failure. A failure that systemd still remembers does no harm.
        if !matches!(helper::ask(self, UnitAction::Stop, name, ANSWER), Ok(HelperAnswer::Done)) {
            self.reset_failed(name);
        }
    }
}
