//! A unit, and the meaning of its properties.

use std::path::PathBuf;
use std::time::Duration;

use crate::process::Process;

/// A unit as systemd sees it: org.freedesktop.systemd1(5).
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Unit {
    pub name: String,
    pub load_state: String,
    pub active_state: String,
    pub sub_state: String,
    pub result: String,
    pub status_text: String,
    pub kind: String,
    pub main_pid: u32,
    pub restarts: u32,
    pub exit_status: i32,
    pub kill_signal: i32,
    pub kill_mode: String,
    pub invocation: Vec<u8>,
    pub working_directory: String,
    pub needs_daemon_reload: bool,
    pub can_reload: bool,
    pub exec_start: Vec<Vec<String>>,
    pub exec_reload: Vec<Vec<String>>,
    pub exec_stop: Vec<Vec<String>>,
    /// `Environment=`: `NAME=value` each.
    pub environment: Vec<String>,
    /// `EnvironmentFile=`, in their order: later files override earlier ones.
    pub environment_files: Vec<PathBuf>,
    /// `TimeoutStopSec=`; `None` where it is infinite.
    pub stop_timeout: Option<Duration>,
    /// When it was last told to stop, when it was down, and when it was started, in microseconds of the monotonic clock.
    pub told_to_stop: u64,
    pub went_down: u64,
    pub was_started: u64,
    /// The same as `was_started`, by the wall clock.
    pub started_at: u64,
}

impl Unit {
    /// Whether no process of it runs or will run by itself. A unit that systemd is about to restart is not down.
    pub(crate) fn is_down(&self) -> bool {
        matches!(self.active_state.as_str(), "inactive" | "failed")
    }

    /// Whether it works, or is about to: not down, and not told to stop.
    pub(crate) fn goes_on(&self) -> bool {
        !self.is_down() && self.active_state != "deactivating"
    }

    /// How long ago it was told to stop, if it is stopping.
    pub(crate) fn stopping_for(&self) -> Option<Duration> {
        let now = Duration::from(nix::time::clock_gettime(nix::time::ClockId::CLOCK_MONOTONIC).ok()?);
        now.checked_sub(Duration::from_micros(self.told_to_stop)).filter(|_| self.active_state == "deactivating")
    }

    /// How long it may take to stop: `ExecStop=` has the time of `TimeoutStopSec=`, and the remaining processes have it once more.
    pub(crate) fn may_stop_for(&self) -> Option<Duration> {
        self.stop_timeout.map(|time| if self.exec_stop.is_empty() { time } else { time * 2 })
    }

    /// How long it took to stop, if it stopped after the state `before` and systemd remembers it.
    pub(crate) fn took_to_stop(&self, before: &Self) -> Option<Duration> {
        // A unit that did not come up after that went down once more.
        let started_since = (self.told_to_stop..self.went_down).contains(&self.was_started);
        let is_remembered = self.went_down != 0;
        let took = self.went_down.checked_sub(self.told_to_stop);
        let took = took.filter(|_| is_remembered && self.went_down != before.went_down && !started_since);
        took.map(Duration::from_micros)
    }

    /// The main process and all its descendants; the leaves are the workers.
    pub(crate) fn processes(&self) -> Vec<Process> {
        if self.main_pid == 0 {
            return Vec::new();
        }
        let mut found = vec![Process::of(self.main_pid)];
        let mut at = 0;
        while at < found.len() {
            found.extend(found[at].children());
            at += 1;
        }
        found
    }

    /// The processes that do the work: the children of the main process, or itself when there are none.
    pub(crate) fn workers(&self) -> Vec<Process> {
        let mut processes = self.processes();
        if processes.len() > 1 {
            processes.remove(0);
        }
        processes
    }
}

/// The unit that a template has for an instance: `shop@.service` and `blue` make `shop@blue.service`.
pub(crate) fn instance_name(template: &str, called: &str) -> String {
    template.replacen("@.", &format!("@{called}."), 1)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn how_long_a_unit_took_to_stop_is_known_while_systemd_remembers_it() {
        let at = |told_to_stop, went_down, was_started| Unit { told_to_stop, went_down, was_started, ..Unit::default() };
        let took = |before: &Unit, now: &Unit| now.took_to_stop(before).map(|took| took.as_micros());
        let working = at(0, 0, 1);
        assert_eq!(took(&working, &at(5, 9, 1)), Some(4));
        assert_eq!(took(&working, &working), None, "it has not stopped");
        assert_eq!(took(&at(5, 9, 10), &at(5, 9, 10)), None, "that was before");
        assert_eq!(took(&at(5, 9, 10), &at(0, 0, 0)), None, "forgotten, and no stop that took no time");
        assert_eq!(took(&working, &at(5, 9, 7)), None, "it went down once more");
    }
}
