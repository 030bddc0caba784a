//! The executor of a run's jobs: the agent itself, or the step runners of the app.

use std::cell::OnceCell;
use std::collections::{BTreeMap, BTreeSet};
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_model::names::{AppName, ReleaseName, RunId};
use parking_lot::Mutex;

use super::session::{GREETING, SHORT_GREETING, Session, Still};
use super::{Failure, Job, JobAnswer, JobRunner, Order, Role, usage_of};
use crate::database::DumpFile;
use crate::process::{Cancel, Usage, Watch};
use crate::root::AppRoot;
use crate::settings::{App, ExecutorKind};

/// The executor of a run's jobs.
pub(crate) enum Executor<'a> {
    /// The agent itself.
    Own(Box<JobRunner<'a>>),
    /// Units with users of their own.
    Units {
        app: &'a App,
        /// The open session of each role.
        sessions: Mutex<BTreeMap<Role, Session>>,
    },
}

impl<'a> Executor<'a> {
    /// The step runners of an app.
    pub(crate) fn units(app: &'a App) -> Self {
        Self::Units { app, sessions: Mutex::default() }
    }

    /// Ends the runner that builds, with all that it has started.
    pub(crate) fn end_building(&self) {
        if let Self::Units { sessions, .. } = self {
            sessions.lock().remove(&Role::Build);
        }
    }

    /// Carries out a job.
    ///
    /// # Errors
    /// [`Failure`] when it failed.
    pub(crate) fn ask(
        &self,
        order: &Order,
        job: &Job,
        into: Option<&DumpFile>,
        watch: &Watch<'_>,
        note: &dyn Fn(&str),
    ) -> Result<JobAnswer, Failure> {
        match self {
            Self::Own(runner) => runner.carry_out(order, job, into, watch, note),
            Self::Units { app, sessions } => {
                if watch.cancel.asked() {
                    return Err(Failure::new("the run is cancelled"));
                }
                let role = job.role(app).ok_or_else(|| Failure::new("there is no such hook"))?;
                let mut sessions = sessions.lock();
                let mut session = match sessions.remove(&role).filter(Session::is_open) {
                    Some(session) => session,
                    None => Session::open(&app.name, role, GREETING)?,
                };
                // A hook has a time limit of its own, apart from the step's.
                let within = match job {
                    Job::Hook { place, .. } => app.hooks.get(*place).map_or_else(|| watch.left(), |hook| hook.timeout),
                    _ => watch.left(),
                };
                let watch = Watch { deadline: Instant::now() + within, ..*watch };
                let answer = session.ask(order, job, into, &watch, note);
                if answer.as_ref().err().is_none_or(|lost| lost.session == Still::There) {
                    sessions.insert(role, session);
                }
                answer.map_err(|lost| lost.failure)
            }
        }
    }
}

/// Sends a runner a job outside of any run.
fn ask_once(app: &AppName, role: Role, job: &Job, patience: Duration) -> Result<JobAnswer, Failure> {
    let order = Order { run: RunId(0), marker: String::new(), caller: "agent".to_owned(), release: None, former: None };
    let cancel = Cancel::default();
    let lines = |_, line: &str| tracing::debug!("{line}");
    let watch = Watch { marker: "", deadline: Instant::now() + Duration::from_secs(300), cancel: &cancel, lines: &lines };
    Session::open(app, role, patience)?.ask(&order, job, None, &watch, &|text| tracing::debug!("{text}")).map_err(|lost| lost.failure)
}

/// The users of an app's runners, for `doctor`.
///
/// # Errors
/// [`Failure`] when one of them cannot be asked.
pub(crate) fn users_of_runners(app: &AppName) -> Result<(String, String), Failure> {
    let user = |role| Session::open(app, role, SHORT_GREETING).map(|session| session.user);
    Ok((user(Role::Build)?, user(Role::App)?))
}

/// Makes the builder give the agent all rights over its unsealed files, so that the agent can remove them.
///
/// # Errors
/// [`Failure`] when the runner cannot be asked.
pub(crate) fn grant_access(app: &App) -> Result<(), Failure> {
    match app.executor {
        ExecutorKind::Direct => Ok(()),
        ExecutorKind::Units => ask_once(&app.name, Role::Build, &Job::GrantAccess, GREETING).map(|_| ()),
    }
}

/// The directories of a root that processes use.
pub(crate) struct InUse<'a> {
    app: &'a App,
    root: &'a AppRoot,
    /// Asks the runner of the current run, because there is only one at a time.
    within_run: Option<&'a dyn Fn() -> Result<JobAnswer, Failure>>,
    seen: OnceCell<Seen>,
}

enum Seen {
    /// The used directories.
    These(BTreeSet<PathBuf>),
    /// They could not be determined.
    Unknown,
}

impl<'a> InUse<'a> {
    /// The search happens at the first question.
    pub(crate) fn of(app: &'a App, root: &'a AppRoot) -> Self {
        Self { app, root, within_run: None, seen: OnceCell::new() }
    }

    /// Like [`Self::of`], for a run, which passes the way to ask its runner.
    pub(crate) fn of_run(app: &'a App, root: &'a AppRoot, ask: &'a dyn Fn() -> Result<JobAnswer, Failure>) -> Self {
        Self { within_run: Some(ask), ..Self::of(app, root) }
    }

    fn ask(&self) -> Result<JobAnswer, Failure> {
        self.within_run.map_or_else(|| ask_once(&self.app.name, Role::App, &Job::Used, SHORT_GREETING), |ask| ask())
    }

    /// Whether a unit of the app's strategy runs a release of this directory, or one that uses this environment.
    fn in_a_unit(&self, dir: &Path) -> bool {
        let cancel = Cancel::default();
        let lines = |_, line: &str| tracing::debug!("{line}");
        let watch = Watch { marker: "", deadline: Instant::now() + Duration::from_secs(60), cancel: &cancel, lines: &lines };
        let environment = |release: &ReleaseName| self.root.environment_of(release).map(|key| self.root.environment(&key));
        let releases = self.app.restart.in_units(&self.root.link(), &self.app.workers, &watch);
        releases.iter().any(|release| self.root.release_dir(release) == dir || environment(release).as_deref() == Some(dir))
    }

    /// The directories that processes use, as far as the agent itself may see. A process that was started through the link uses the release that was
    /// live then, and its environment.
    fn seen_here(&self) -> BTreeSet<PathBuf> {
        let Usage { mut dirs, since } = usage_of(self.root);
        for process in since {
            let releases = self.root.live_around(process.started).into_iter().filter(|release| {
                let dir = self.root.release_dir(release);
                process.has_one_of.is_empty() || process.has_one_of.iter().any(|path| dir.join(path).exists())
            });
            for release in releases {
                dirs.extend(self.root.environment_of(&release).map(|key| self.root.environment(&key)));
                dirs.insert(self.root.release_dir(&release));
            }
        }
        dirs
    }

    fn look(&self) -> Seen {
        if self.app.executor == ExecutorKind::Direct {
            return Seen::These(self.seen_here());
        }
        // The runner sees the working directories of its own user's processes, and the agent sees the command lines of all.
        match self.ask() {
            Ok(JobAnswer::Used(used)) => Seen::These(self.seen_here().into_iter().chain(used).collect()),
            Ok(other) => {
                tracing::error!("{}", other.unexpected().reason);
                Seen::Unknown
            }
            Err(failure) => {
                tracing::warn!("nobody can tell which releases are in use, so none is removed: {}", failure.reason);
                Seen::Unknown
            }
        }
    }

    /// Whether a process uses a directory; true also when that cannot be determined.
    pub(crate) fn has(&self, dir: &Path) -> bool {
        match self.seen.get_or_init(|| self.look()) {
            Seen::These(used) => used.contains(dir) || self.in_a_unit(dir),
            Seen::Unknown => true,
        }
    }
}
