//! The master process of uWSGI or gunicorn and its workers: the state before the switch, and whether all of it is new.

use std::fs;
use std::path::PathBuf;
use std::time::{Duration, Instant};

use super::proof::{elsewhere, go_on, last_lines, log_of};
use super::{ReleaseRef, RestartContext, RestartError};
use crate::process::{Process, Ticks};

const POLL: Duration = Duration::from_millis(20);

/// The evidence of which release a worker runs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum ShownBy {
    /// The worker's working directory.
    Directory,
    /// The worker's answers, or the options of its server. After uWSGI's `c` and `w` the workers keep the directory of the release in which the
    /// master was started, while lazy-apps and pythonpath make them load the code that the link leads to.
    Answers,
    /// No evidence: the directory is the master's, and no answer names a release.
    Nothing,
}

impl ShownBy {
    /// The first process that provably runs another release.
    pub(super) fn stray(self, processes: &[Process], serving: ReleaseRef<'_>) -> Option<(Process, PathBuf)> {
        if self == Self::Answers { None } else { elsewhere(processes, serving) }
    }

    /// What the operator should do when a worker runs another release.
    pub(super) fn hint(self) -> &'static str {
        match self {
            Self::Directory | Self::Answers => {
                "the server goes back to the directory that it was started in: give it chdir = <the link app> (doctor has the details)"
            }
            Self::Nothing => {
                "set release_header in a [[check]]: after c and w the workers keep the master's directory, and only answers show whose code they run"
            }
        }
    }
}

/// A master, with the workers that it had when the agent looked.
#[derive(Debug, Clone)]
pub(super) struct Master {
    pub process: Process,
    pub workers: Vec<Process>,
    shown_by: ShownBy,
    log: Option<(PathBuf, u64)>,
}

/// A server that does not run, and for which the agent has no unit.
pub(super) struct Absent<'a> {
    pub server: &'a str,
    /// The observed state: `nobody reads the FIFO /run/shop/fifo`.
    pub seen: String,
    /// How long the agent waits for it.
    pub timeout: Duration,
}

impl Absent<'_> {
    pub(super) fn error(&self, what: String) -> RestartError {
        let hint = format!("start {}, or name the unit that starts it as unit under [restart]", self.server);
        RestartError::SetUp { what, hint }
    }

    /// Before the first release there is no link for a server to run in, so no server runs either: the release continues, and waits for it.
    pub(super) fn at_first(&self, context: &RestartContext<'_>) -> Result<(), RestartError> {
        if fs::symlink_metadata(context.link).is_ok() {
            return Err(self.error(self.seen.clone()));
        }
        let (server, link, seconds) = (self.server, context.link.display(), self.timeout.as_secs());
        (context.warn)(&format!("{}: start {server} as soon as {link} is there; this release waits {seconds} s for it", self.seen));
        Ok(())
    }

    /// Waits until the server is started from outside: by a person at the first release, or by its supervisor after a release that ended it.
    pub(super) fn await_started<T>(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        find: impl Fn() -> Option<T>,
    ) -> Result<T, RestartError> {
        let (server, link, seconds) = (self.server, context.link.display(), self.timeout.as_secs());
        (context.note)(&format!(
            "{}: waiting for {server} to be started, {seconds} s at the most; {link} leads to {}",
            self.seen, new.name
        ));
        let end = Instant::now() + self.timeout;
        loop {
            if let Some(found) = find() {
                return Ok(found);
            }
            if Instant::now() > end {
                return Err(self.error(format!("{}: {server} was not started within {seconds} s", self.seen)));
            }
            go_on(context, "waiting for the server to be started")?;
            context.watch.pause(POLL);
        }
    }
}

/// Whether the master was started at `since` or later.
pub(super) fn is_fresh(master: &Master, since: Option<Ticks>) -> bool {
    since.is_some_and(|since| master.process.has_started_since(since))
}

impl Master {
    pub(super) fn of(process: Process) -> Self {
        let log = log_of(&process).and_then(|path| fs::metadata(&path).ok().map(|meta| (path, meta.len())));
        Self { workers: process.children(), shown_by: ShownBy::Directory, log, process }
    }

    /// The same master, with this evidence of the release that its workers run.
    pub(super) fn shown_by(self, shown_by: ShownBy) -> Self {
        Self { shown_by, ..self }
    }

    /// The same master, with these as its former workers.
    pub(super) fn with_workers(self, workers: Vec<Process>) -> Self {
        Self { workers, ..self }
    }

    /// The lines that it logged since the agent first looked.
    pub(super) fn tail(&self) -> Vec<String> {
        self.log.as_ref().map(|(path, from)| last_lines(path, *from)).unwrap_or_default()
    }

    /// Whether it logs errors to a file.
    pub(super) fn has_log(&self) -> bool {
        self.log.is_some()
    }

    /// Fails when it is gone, or when one of its workers is in another release.
    pub(super) fn check(&self, serving: ReleaseRef<'_>) -> Result<(), RestartError> {
        self.check_alive(serving)?;
        match self.stray(&self.process.children(), serving) {
            None => Ok(()),
            Some((process, cwd)) => Err(self.error(
                format!("process {} of {} works in another release, {}", process.pid(), self.process.pid(), cwd.display()),
                Some(self.shown_by.hint()),
            )),
        }
    }

    /// The first of these processes that provably runs another release.
    pub(super) fn stray(&self, processes: &[Process], serving: ReleaseRef<'_>) -> Option<(Process, PathBuf)> {
        self.shown_by.stray(processes, serving)
    }

    pub(super) fn check_alive(&self, serving: ReleaseRef<'_>) -> Result<(), RestartError> {
        if self.process.is_alive() {
            return Ok(());
        }
        let what = format!("the master (process {}) ended: it could not load {}", self.process.pid(), serving.name);
        Err(self.error(what, Some("its log has the traceback; handover would have noticed before any visitor")))
    }

    /// Whether every worker works in the directory of this release.
    pub(super) fn is_in(&self, serving: ReleaseRef<'_>) -> bool {
        let workers = self.process.children();
        !workers.is_empty() && workers.iter().all(|worker| worker.cwd().is_some_and(|cwd| cwd.starts_with(serving.dir)))
    }

    /// Waits until every worker is another process than before, and none is in another release.
    pub(super) fn await_new(&self, context: &RestartContext<'_>, serving: ReleaseRef<'_>, timeout: Duration) -> Result<(), RestartError> {
        self.await_workers(context, serving, timeout, || Ok(self.process.children()))
    }

    /// Like [`Self::await_new`], with a source other than the process table for the workers.
    pub(super) fn await_workers(
        &self,
        context: &RestartContext<'_>,
        serving: ReleaseRef<'_>,
        timeout: Duration,
        mut workers: impl FnMut() -> Result<Vec<Process>, RestartError>,
    ) -> Result<(), RestartError> {
        let end = Instant::now() + timeout;
        let mut seen: Vec<Process> = Vec::new();
        loop {
            self.check_alive(serving)?;
            let now = workers()?;
            let old = now.iter().filter(|worker| self.workers.contains(worker)).count();
            let stray = self.stray(&now, serving);
            if !now.is_empty() && old == 0 && stray.is_none() && now == seen {
                return Ok(());
            }
            if Instant::now() > end {
                let seconds = timeout.as_secs();
                return Err(match stray {
                    _ if now.is_empty() => self.error(format!("the master (process {}) has no worker with a loaded app after {seconds} s", self.process.pid()), None),
                    Some((process, cwd)) => self.error(
                        format!("after {seconds} s, process {} still works in another release, {}", process.pid(), cwd.display()),
                        Some(self.shown_by.hint()),
                    ),
                    None => self.error(
                        format!("{old} of {} workers are still the ones from before after {seconds} s", now.len()),
                        Some("they finish their requests first: raise timeout under [restart], or give the server a limit (reload-mercy, graceful_timeout)"),
                    ),
                });
            }
            go_on(context, "waiting for the workers to be replaced")?;
            seen = now;
            context.watch.pause(POLL);
        }
    }

    pub(super) fn error(&self, what: String, hint: Option<&str>) -> RestartError {
        RestartError::Process { what, hint: hint.map(str::to_owned), tail: self.tail() }
    }
}
