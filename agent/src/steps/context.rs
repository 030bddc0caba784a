//! The context of a step: the app, its root, the results of earlier steps, and its output.

use std::cell::{Cell, OnceCell};
use std::path::PathBuf;
use std::time::{Duration, Instant};

use agent_model::grant::{Back, RefPattern};
use agent_model::names::{CommitId, RefName, ReleaseName, RunId};
use agent_model::request::Act;
use agent_wire::event::Stream;

use super::kept::nothing_in_the_release;
use super::since::{Deferred, Since};
use crate::restart::{ReleaseRef, Renewal, RestartContext, Steadiness, Turn, Variables};
use crate::root::{AppRoot, BackgroundTask, RootLock};
use crate::settings::{App, When};
use crate::tools::database::{self, DumpFile};
use crate::tools::git::{Allowed, Git, Tree};
use crate::tools::manage::{Grounds, Inspection};
use crate::tools::{Cancel, Watch};
use crate::work::{Bytecode, Executor, Failure, Job, JobAnswer, Order, Ordered, chain};

/// The receiver of a step's output: the run's journal, with secrets masked.
pub(crate) trait EventSink {
    /// A line of a program.
    fn output(&self, step: &str, stream: Stream, line: &str);
    /// An informational message.
    fn note(&self, step: &str, text: &str);
    /// A warning.
    fn warn(&self, step: &str, text: &str);
    /// Reports a change that stays in spite of the failure, and the command that restores the former state.
    fn stands(&self, text: &str, restore: Option<&str>);
    /// Reports a change of the current step that is not undone, on purpose.
    fn stays(&self, step: &str, text: &str);
    /// Records the commit and the release; durable when the next step begins.
    fn resolved(&self, target: &Target) -> Result<(), Failure>;
    /// Records that visitors may meet the release from here on; durable when this returns, and refused after a cancel.
    fn expose(&self, step: &str) -> Result<(), Failure>;
}

/// The release that a run makes, or makes live.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Target {
    pub release: ReleaseName,
    pub commit: CommitId,
    /// The ref that reached it.
    pub reference: Option<RefName>,
    /// The first line of the commit's message.
    pub subject: Option<String>,
}

/// The context of a step.
pub(crate) struct StepContext<'a> {
    /// The app's settings, as they were when the run began.
    pub app: &'a App,
    pub root: &'a AppRoot,
    /// The proof that the agent holds the root.
    pub lock: &'a RootLock,
    pub run: RunId,
    pub act: &'a Act,
    pub caller: &'a str,
    /// The ref patterns of the caller's grant.
    pub refs: Option<&'a [RefPattern]>,
    /// The refs for which the caller may release a commit behind the live one.
    pub back: &'a Back,
    pub events: &'a dyn EventSink,
    /// Cancels the run.
    pub cancel: &'a Cancel,
    /// Cancels this piece of work alone, and not the work that runs beside it.
    pub cut: Option<Cancel>,
    /// The mark of the run's processes.
    pub marker: &'a str,
    /// The executor of its jobs.
    pub executor: &'a Executor<'a>,
    /// The turn to start and stop instances.
    pub turn: &'a Turn,
    /// `[env]` and secrets, as far as the agent may know them.
    pub env: &'a [(String, String)],
    /// The release that was live when the run began.
    pub former: Option<ReleaseName>,
    /// The release that was live before that one.
    pub before_former: Option<ReleaseName>,
    /// For `mend`: the releases that were live, by the journal.
    pub served: Vec<ReleaseName>,
    /// The release that the run makes or changes, once it is known.
    pub target: Option<Target>,
    /// When the run began.
    pub begun: Instant,
    /// The current step.
    pub step: &'static str,
    /// When the step must have ended.
    pub deadline: Instant,
    /// Whether visitors may have met the run's changes.
    pub exposed: bool,
    /// How long checks must keep passing.
    pub steadiness: Cell<Steadiness>,
    /// Django's report about the release.
    pub inspection: Option<Inspection>,
    /// The dump that was taken.
    pub dump: Option<database::Dump>,
    /// The command that restores it.
    pub restore: Option<String>,
    /// The content of the commit, once it was checked out.
    pub tree: Option<Tree>,
    /// Work that must end before the seal: the first sync of the tree, the sealing of the environment that was built.
    pub before_seal: Vec<BackgroundTask>,
    /// Work that must end before the run: the fact that the release has served is being written to it.
    pub before_end: Option<BackgroundTask>,
    /// The inputs of the static files.
    pub collected: Option<Grounds>,
    /// The commit of the former release, read at the first use.
    pub former_commit: OnceCell<Option<CommitId>>,
    /// The changes since the live release, compared at the first use.
    pub since: OnceCell<Result<Since, String>>,
    /// The checks that are deferred until the new instance starts.
    pub deferred: Option<Deferred>,
    /// Whether the former release answered when the run began; `None` where it was not asked.
    pub answered_before: Option<bool>,
}

impl StepContext<'_> {
    /// Moves on to a step: its name, and its deadline.
    pub(crate) fn at(&mut self, step: &'static str) {
        self.step = step;
        self.deadline = Instant::now() + self.app.timeout_of(step);
    }

    /// An informational message.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.events.note(self.step, text.as_ref());
    }

    /// A warning.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.events.warn(self.step, text.as_ref());
    }

    /// Runs `act` with the limits and the output of this step's programs.
    pub(crate) fn watched<T>(&self, act: impl FnOnce(&Watch<'_>) -> T) -> T {
        let lines = |stream: Stream, line: &str| self.events.output(self.step, stream, line);
        let cancel = self.cut.as_ref().unwrap_or(self.cancel);
        act(&Watch { marker: self.marker, deadline: self.deadline, cancel, lines: &lines })
    }

    /// The release that the run makes or changes.
    pub(crate) fn target(&self) -> Result<&Target, Failure> {
        self.target.as_ref().ok_or_else(|| Failure::new("the run has not found out which release it is about"))
    }

    pub(crate) fn dir(&self) -> Result<PathBuf, Failure> {
        Ok(self.root.release_dir(&self.target()?.release))
    }

    /// Runs `act` with the app's git cache.
    pub(crate) fn git<T>(&self, act: impl FnOnce(&Git<'_>, &Watch<'_>) -> T) -> T {
        let cache = self.root.cache();
        self.watched(|watch| act(&Git::new(&self.app.git, &cache), watch))
    }

    /// The refs that may be released from.
    pub(crate) fn allowed(&self) -> Allowed<'_> {
        let via = match self.act {
            Act::Release { via, .. } | Act::Stage { via, .. } => via.as_ref(),
            _ => None,
        };
        Allowed { app: &self.app.refs, grant: self.refs, via, follows: self.app.follows.as_ref() }
    }

    /// The order under which the run's jobs are done.
    pub(super) fn order(&self) -> Order {
        Order {
            run: self.run,
            marker: self.marker.to_owned(),
            caller: self.caller.to_owned(),
            release: self.target.as_ref().map(|target| Ordered {
                name: target.release.clone(),
                commit: target.commit.clone(),
                reference: target.reference.clone(),
            }),
            former: self.former.clone().map(|former| (former, self.former_commit().cloned())),
        }
    }

    /// The commit of the release that was live when the run began. It comes from the manifest, which never changes; `None` where that cannot be read.
    pub(crate) fn former_commit(&self) -> Option<&CommitId> {
        let read = || self.root.manifest(self.former.as_ref()?).ok()?.commit.parse().ok();
        self.former_commit.get_or_init(read).as_ref()
    }

    /// The environment of the app's own programs: the settings, secrets, and the variables of the release.
    pub(crate) fn release_env(&self) -> Vec<(String, String)> {
        let of_release = self.order().variables(self.app, |release| self.root.release_dir(release));
        self.env.iter().cloned().chain(of_release).collect()
    }

    /// Runs a job with programs that execute the app's own code or its packages.
    pub(crate) fn work(&self, job: &Job) -> Result<JobAnswer, Failure> {
        self.watched(|watch| self.executor.ask(&self.order(), job, None, watch, &|text| self.note(text)))
    }

    /// The releases that processes run from. Where this cannot be determined, the run warns and removes none.
    pub(crate) fn used(&self) -> Result<JobAnswer, Failure> {
        self.work(&Job::Used).inspect_err(|failure| self.warn(format!("which releases are in use cannot be told: {}", failure.reason)))
    }

    /// Like [`Self::work`], for a job that writes to a file.
    pub(crate) fn work_into(&self, job: &Job, into: &DumpFile) -> Result<JobAnswer, Failure> {
        self.watched(|watch| self.executor.ask(&self.order(), job, Some(into), watch, &|text| self.note(text)))
    }

    /// Django's report about the release; asked once per run, unless `again`.
    pub(crate) fn inspect(&mut self, bytecode: Bytecode, again: Ask) -> Result<Inspection, Failure> {
        if let (Some(inspection), Ask::Once) = (&self.inspection, again) {
            return Ok(inspection.clone());
        }
        match self.work(&Job::Inspect(bytecode))? {
            JobAnswer::Inspected(inspection) => {
                nothing_in_the_release(self, &inspection)?;
                self.inspection = Some((*inspection).clone());
                Ok(*inspection)
            }
            other => Err(other.unexpected()),
        }
    }

    /// Runs `act` with the context of the restart strategy.
    pub(crate) fn restart_context<T>(&self, act: impl FnOnce(&RestartContext<'_>) -> T) -> T {
        self.restart_context_without(&[], act)
    }

    /// Like [`Self::restart_context`], for a release that is known to lack these workers, by their configured units.
    pub(crate) fn restart_context_without<T>(&self, lacking: &[String], act: impl FnOnce(&RestartContext<'_>) -> T) -> T {
        let env = self.release_env();
        let (link, instances, variables) = (self.root.link(), self.root.instances(), self.root.variables());
        let plain = self.app.plain_variables();
        let mut checks = self.app.checks.clone();
        if self.steadiness.get() == Steadiness::Seen {
            checks.iter_mut().for_each(|check| check.stable_for = check.stable_for.min(SEEN_FOR));
        }
        let note = |text: &str| self.note(text);
        let warn = |text: &str| self.warn(text);
        self.watched(|watch| {
            act(&RestartContext {
                app: &self.app.name,
                link: &link,
                instances: &instances,
                env: &env,
                variables: Variables { dir: &variables, plain: &plain },
                checks: &checks,
                workers: &self.app.workers,
                lacking,
                steadiness: self.steadiness.get(),
                renewal: if *self.act == Act::Restart { Renewal::Yes } else { Renewal::No },
                watch,
                note: &note,
                warn: &warn,
            })
        })
    }

    /// Runs `act` with the release's name, commit and directory, for the restart strategy.
    pub(crate) fn release_ref<T>(
        &self,
        release: &ReleaseName,
        act: impl FnOnce(ReleaseRef<'_>) -> Result<T, Failure>,
    ) -> Result<T, Failure> {
        let commit = match &self.target {
            Some(target) if target.release == *release => target.commit.clone(),
            _ => match self.former_commit().filter(|_| self.former.as_ref() == Some(release)) {
                Some(commit) => commit.clone(),
                None => self.root.manifest(release)?.commit.parse().map_err(|err| Failure::new(chain(&err)))?,
            },
        };
        let dir = self.root.release_dir(release);
        act(ReleaseRef { name: release, commit: &commit, dir: &dir })
    }

    /// Runs the hooks of the current step.
    pub(crate) fn hooks(&self, when: When) -> Result<(), Failure> {
        for (place, hook) in self.app.hooks.iter().enumerate().filter(|(_, hook)| hook.when == when && hook.step == self.step) {
            self.note(format!("hook: {}", hook.run.join(" ")));
            self.work(&Job::hook(self.app, place).ok_or_else(|| Failure::new("there is no such hook"))?)?;
        }
        Ok(())
    }

    /// How long the run has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.begun.elapsed()
    }
}

/// How long checks keep passing for a release that was watched before.
const SEEN_FOR: Duration = Duration::from_millis(300);

/// Whether an earlier answer suffices.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Ask {
    /// It does.
    Once,
    /// It may have changed.
    Again,
}
