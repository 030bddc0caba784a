//! A master process and its workers, as uWSGI and gunicorn have them: what was there before, and whether all of it is new.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::proof::{elsewhere, go_on, last_lines, log_of};
use super::{RestartError, Scene, Serving};
use crate::tools::Process;

const LOOK: Duration = Duration::from_millis(20);

/// A master, with the workers that it had when it was looked at.
#[derive(Debug, Clone)]
pub(super) struct Master {
    pub process: Process,
    pub workers: Vec<Process>,
    log: Option<(PathBuf, u64)>,
}

impl Master {
    pub(super) fn of(process: Process) -> Self {
        let log = log_of(&process).and_then(|path| fs::metadata(&path).ok().map(|meta| (path, meta.len())));
        Self { workers: process.children(), log, process }
    }

    /// The same master, with these as the workers of before.
    pub(super) fn with_workers(self, workers: Vec<Process>) -> Self {
        Self { workers, ..self }
    }

    /// What it said since it was looked at.
    pub(super) fn tail(&self) -> Vec<String> {
        self.log.as_ref().map(|(path, from)| last_lines(path, *from)).unwrap_or_default()
    }

    /// Fails when it is gone, or when one of its workers is in another release.
    pub(super) fn check(&self, serving: Serving<'_>) -> Result<(), RestartError> {
        self.check_alive(serving)?;
        match elsewhere(&self.process.children(), serving) {
            None => Ok(()),
            Some((process, cwd)) => Err(self.error(
                format!("process {} of {} works in another release, {}", process.pid(), self.process.pid(), cwd.display()),
                Some(KEEPS_DIRECTORY),
            )),
        }
    }

    pub(super) fn check_alive(&self, serving: Serving<'_>) -> Result<(), RestartError> {
        if self.process.is_alive() {
            return Ok(());
        }
        let what = format!("the master (process {}) ended: it could not load {}", self.process.pid(), serving.name);
        Err(self.error(what, Some("its log has the traceback; handover would have noticed before any visitor")))
    }

    /// Whether every worker works in the directory of this release.
    pub(super) fn is_in(&self, serving: Serving<'_>) -> bool {
        let workers = self.process.children();
        !workers.is_empty() && workers.iter().all(|worker| worker.cwd().is_some_and(|cwd| cwd.starts_with(serving.dir)))
    }

    /// Waits until every worker is another process than before, and none is in another release.
    pub(super) fn await_new(&self, scene: &Scene<'_>, serving: Serving<'_>, timeout: Duration) -> Result<(), RestartError> {
        self.await_workers(scene, serving, timeout, || self.process.children())
    }

    /// The same, where something else than the process table says who the workers are.
    pub(super) fn await_workers(
        &self,
        scene: &Scene<'_>,
        serving: Serving<'_>,
        timeout: Duration,
        workers: impl Fn() -> Vec<Process>,
    ) -> Result<(), RestartError> {
        let end = Instant::now() + timeout;
        let mut seen: Vec<Process> = Vec::new();
        loop {
            self.check_alive(serving)?;
            let now = workers();
            let old = now.iter().filter(|worker| self.workers.contains(worker)).count();
            let stray = elsewhere(&now, serving);
            if !now.is_empty() && old == 0 && stray.is_none() && now == seen {
                return Ok(());
            }
            if Instant::now() > end {
                let seconds = timeout.as_secs();
                return Err(match stray {
                    _ if now.is_empty() => self.error(format!("the master (process {}) has no worker with a loaded app after {seconds} s", self.process.pid()), None),
                    Some((process, cwd)) => self.error(
                        format!("after {seconds} s, process {} still works in another release, {}", process.pid(), cwd.display()),
                        Some(KEEPS_DIRECTORY),
                    ),
                    None => self.error(
                        format!("{old} of {} workers are still the ones from before after {seconds} s", now.len()),
                        Some("they finish their requests first: raise timeout under [restart], or give the server a limit (reload-mercy, graceful_timeout)"),
                    ),
                });
            }
            go_on(scene, "waiting for the workers to be replaced")?;
            seen = now;
            scene.watch.pause(LOOK);
        }
    }

    pub(super) fn error(&self, what: String, cure: Option<&str>) -> RestartError {
        RestartError::Process { what, cure: cure.map(str::to_owned), tail: self.tail() }
    }
}

const KEEPS_DIRECTORY: &str =
    "the server goes back to the directory that it was started in: give it chdir = <the link app> (doctor has the details)";
