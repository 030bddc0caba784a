//! How an instance ends: the agent signals it, waits, and finally kills it; then it frees its slot.

use std::fs;
use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;
use nix::sys::signal::Signal;

use super::{Instances, processes_of};
use crate::faults;
use crate::http;
use crate::process::Process;
use crate::restart::RestartError;
use crate::restart::handover::record::Record;
use crate::root::Slot;

/// How long a process may take to end after its signal.
const GOING: Duration = Duration::from_secs(10);

impl Instances<'_> {
    /// Ends the processes in the record without losing a request.
    pub(in crate::restart::handover) fn end_processes(
        &self,
        release: &ReleaseName,
        record: &Record,
        drain: Duration,
    ) -> Result<(), RestartError> {
        let masters = processes_of(Some(record), &record.socket);
        self.drain(release.as_str(), &record.socket, drain);
        masters.iter().for_each(|master| self.end(release, master, drain));
        if let Some(master) = masters.iter().find(|master| master.is_alive()) {
            return Err(could_not_be_ended(release, master));
        }
        if record.socket.exists() && !http::listens(&record.socket) {
            // A leftover socket is removed before the next instance binds it.
            let _ = fs::remove_file(&record.socket);
        }
        Ok(())
    }

    /// Stops the units in a slot, the web process and its workers, and frees the slot.
    pub(in crate::restart::handover) fn leave(&self, release: &ReleaseName, slot: &Slot, drain: Duration) -> Result<(), RestartError> {
        let Some((_, unit)) = self.unit_called(slot.as_str()) else { return Ok(()) };
        self.drain(release.as_str(), &self.settings.socket_called(slot.as_str()), drain);
        self.stop_unit(&unit, None, drain)?;
        let finishing = self.let_finish(&self.workers_called(slot.as_str()))?;
        self.await_finished(&finishing, self.settings.drain)?;
        if self.is_down(slot.as_str())? {
            self.slots().free(slot)?;
        }
        Ok(())
    }

    /// Sends TERM; sends QUIT if TERM made it reload the app (uWSGI without die-on-term); finally sends KILL to the group.
    pub(super) fn end(&self, release: &ReleaseName, master: &Process, drain: Duration) {
        let before = master.children();
        let end = Instant::now() + drain.max(GOING);
        master.signal(Signal::SIGTERM);
        faults::at("told-to-end");
        let mut quit = false;
        for look in 1.. {
            if !master.is_alive() || Instant::now() >= end {
                break;
            }
            std::thread::sleep(Duration::from_millis(20));
            // Finding children reads the whole process table, which is expensive. Every tenth look still notices a server that reloads its app.
            if look % 10 != 0 {
                continue;
            }
            let now = master.children();
            let anew = !before.is_empty() && !now.is_empty() && now.iter().all(|child| !before.contains(child));
            if anew && !quit && master.is_alive() {
                (self.context.warn)(&format!(
                    "the instance of {release} took SIGTERM for a reload; it was sent SIGQUIT. Give uWSGI the option die-on-term"
                ));
                master.signal(Signal::SIGQUIT);
                quit = true;
            }
        }
        if master.is_alive() {
            (self.context.warn)(&format!("the instance of {release} did not go when it was told to, and was killed"));
        }
        // A worker whose master is gone leads no group.
        master.signal(Signal::SIGKILL);
        master.end_group();
        let end = Instant::now() + Duration::from_secs(2);
        while master.is_alive() && Instant::now() < end {
            std::thread::sleep(Duration::from_millis(5));
        }
    }
}

pub(super) fn could_not_be_ended(release: &ReleaseName, master: &Process) -> RestartError {
    RestartError::Process {
        what: format!("the instance of {release} (process {}) could not be ended", master.pid()),
        hint: Some("it may belong to another user than the agent's".to_owned()),
        tail: Vec::new(),
    }
}
