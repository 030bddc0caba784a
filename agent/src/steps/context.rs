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
use crate::database;
use crate::database::DumpFile;
use crate::django::{Contract, Grounds, Inspection};
use crate::git::{Allowed, Git, Tree};
use crate::process::{Cancel, Watch};
use crate::restart::{ReleaseRef, Renewal, RestartContext, Steadiness, Turn, Variables};
use crate::root::{AppRoot, BackgroundTask, RootLock};
use crate::settings::{App, When};
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

/// What is fixed for a run.
#[derive(Clone, Copy)]
pub(crate) struct RunContext<'a> {
    /// The number of the run; 0 outside of any.
    pub id: RunId,
    /// The app's settings, as they were when the run began.
    pub app: &'a App,
    /// The app root.
    pub root: &'a AppRoot,
    /// The proof that this process holds the root.
    pub lock: &'a RootLock,
    /// The action that was asked for.
    pub act: &'a Act,
    /// The principal that asked, such as `unix:deploy`.
    pub caller: &'a str,
    /// The ref patterns of the caller's grant.
    pub refs: Option<&'a [RefPattern]>,
    /// The refs for which the caller may release a commit behind the live one.
    pub back: &'a Back,
    /// The mark of the run's processes.
    pub marker: &'a str,
    /// Carries out the jobs of the run.
    pub executor: &'a Executor<'a>,
    /// Decides which thread may start and stop instances.
    pub turn: &'a Turn,
    /// `[env]` and secrets, as far as the agent may know them.
    pub env: &'a [(String, String)],
    /// When the run began.
    pub begun: Instant,
}

/// What a step may use while it is at work.
pub(crate) struct StepScope<'a> {
    /// The name of the step.
    pub step: &'static str,
    /// When the step must have ended.
    pub deadline: Instant,
    /// Hears what the step has to say.
    pub events: &'a dyn EventSink,
    /// Cancels the run.
    pub cancel: &'a Cancel,
    /// Ends the step's programs, and not what runs beside them.
    pub cut: Option<Cancel>,
}

impl<'a> StepScope<'a> {
    /// Before the first step.
    pub(crate) fn new(events: &'a dyn EventSink, cancel: &'a Cancel) -> Self {
        Self { step: "", deadline: Instant::now(), events, cancel, cut: None }
    }
}

/// What the steps of a run have found out, for the steps after them.
#[derive(Default)]
pub(crate) struct Findings {
    /// The release that was live when the run began.
    pub former: Option<ReleaseName>,
    /// The release that was live before that one.
    pub before_former: Option<ReleaseName>,
    /// For `mend`: the releases that were live, by the journal.
    pub served: Vec<ReleaseName>,
    /// The release that the run makes or changes, once it is known.
    pub target: Option<Target>,
    /// Whether visitors may have met what the run did.
    pub exposed: bool,
    /// How long checks must keep passing.
    pub steadiness: Cell<Steadiness>,
    /// Django's report about the release.
    pub inspection: Option<Inspection>,
    /// The dump that was taken.
    pub dump: Option<database::Dump>,
    /// The command that restores the dump.
    pub restore: Option<String>,
    /// The content of the commit, once it was checked out.
    pub tree: Option<Tree>,
    /// Work that must end before the seal: the first sync of the tree, the sealing of the environment that was built.
    pub before_seal: Vec<BackgroundTask>,
    /// What the end of the run waits for: the fact that the release has served is being written.
    pub before_end: Option<BackgroundTask>,
    /// The inputs of the static files.
    pub collected: Option<Grounds>,
    /// The commit of the former release, once a step has asked.
    pub former_commit: OnceCell<Option<CommitId>>,
    /// What has changed since the live release, once a step has asked.
    pub since: OnceCell<Result<Since, String>>,
    /// The checks that are deferred until the new instance starts.
    pub deferred: Option<Deferred>,
    /// Whether the former release answered when the run began; `None` where it was not asked.
    pub answered_before: Option<bool>,
}

impl Findings {
    /// What an undo gets. It goes by what is on disk, so it gets neither what is under way nor what was foreseen.
    pub(crate) fn for_undo(&mut self, exposed: bool) -> Self {
        Self {
            former: self.former.clone(),
            before_former: self.before_former.clone(),
            served: self.served.clone(),
            target: self.target.clone(),
            exposed,
            inspection: self.inspection.take(),
            dump: self.dump.clone(),
            restore: self.restore.clone(),
            answered_before: self.answered_before,
            ..Self::default()
        }
    }
}

/// What a step is given.
pub(crate) struct StepContext<'a> {
    /// What is fixed for the run.
    pub run: RunContext<'a>,
    /// What the step may use.
    pub scope: StepScope<'a>,
    /// What the steps have found out.
    pub found: Findings,
}

impl StepContext<'_> {
    /// Moves on to a step: its name, and its deadline.
    pub(crate) fn at(&mut self, step: &'static str) {
        self.scope.step = step;
        self.scope.deadline = Instant::now() + self.run.app.timeout_of(step);
    }

    /// An informational message.
    pub(crate) fn note(&self, text: impl AsRef<str>) {
        self.scope.events.note(self.scope.step, text.as_ref());
    }

    /// A warning.
    pub(crate) fn warn(&self, text: impl AsRef<str>) {
        self.scope.events.warn(self.scope.step, text.as_ref());
    }

    /// Runs `act` with the limits and the output of this step's programs.
    pub(crate) fn watched<T>(&self, act: impl FnOnce(&Watch<'_>) -> T) -> T {
        let lines = |stream: Stream, line: &str| self.scope.events.output(self.scope.step, stream, line);
        let cancel = self.scope.cut.as_ref().unwrap_or(self.scope.cancel);
        act(&Watch { marker: self.run.marker, deadline: self.scope.deadline, cancel, lines: &lines })
    }

    /// The release that the run makes or changes.
    pub(crate) fn target(&self) -> Result<&Target, Failure> {
        self.found.target.as_ref().ok_or_else(|| Failure::new("the run has not found out which release it is about"))
    }

    pub(crate) fn dir(&self) -> Result<PathBuf, Failure> {
        Ok(self.run.root.release_dir(&self.target()?.release))
    }

    /// Runs `act` with the app's git cache.
    pub(crate) fn git<T>(&self, act: impl FnOnce(&Git<'_>, &Watch<'_>) -> T) -> T {
        let cache = self.run.root.cache();
        self.watched(|watch| act(&Git::new(&self.run.app.git, &cache), watch))
    }

    /// The refs that may be released from.
    pub(crate) fn allowed(&self) -> Allowed<'_> {
        let via = match self.run.act {
            Act::Release { via, .. } | Act::Stage { via, .. } => via.as_ref(),
            _ => None,
        };
        Allowed { app: &self.run.app.refs, grant: self.run.refs, via, follows: self.run.app.follows.as_ref() }
    }

    /// The order under which the run's jobs are done.
    pub(super) fn order(&self) -> Order {
        Order {
            run: self.run.id,
            marker: self.run.marker.to_owned(),
            caller: self.run.caller.to_owned(),
            release: self.found.target.as_ref().map(|target| Ordered {
                name: target.release.clone(),
                commit: target.commit.clone(),
                reference: target.reference.clone(),
            }),
            former: self.found.former.clone().map(|former| (former, self.former_commit().cloned())),
        }
    }

    /// The commit of the release that was live when the run began. It comes from the manifest, which never changes; `None` where that cannot be read.
    pub(crate) fn former_commit(&self) -> Option<&CommitId> {
        let read = || self.run.root.manifest(self.found.former.as_ref()?).ok()?.commit.parse().ok();
        self.found.former_commit.get_or_init(read).as_ref()
    }

    /// The environment of the app's own programs: the settings, secrets, and the variables of the release.
    pub(crate) fn release_env(&self) -> Vec<(String, String)> {
        let of_release = self.order().variables(self.run.app, |release| self.run.root.release_dir(release));
        self.run.env.iter().cloned().chain(of_release).collect()
    }

    /// Runs a job with programs that execute the app's own code or its packages.
    pub(crate) fn work(&self, job: &Job) -> Result<JobAnswer, Failure> {
        self.watched(|watch| self.run.executor.ask(&self.order(), job, None, watch, &|text| self.note(text)))
    }

    /// The same for another release that is on disk.
    pub(crate) fn work_for(&self, release: &ReleaseName, job: &Job) -> Result<JobAnswer, Failure> {
        let commit = self.run.root.manifest(release)?.commit.parse().map_err(|err| Failure::new(chain(&err)))?;
        let order = Order { release: Some(Ordered { name: release.clone(), commit, reference: None }), ..self.order() };
        self.watched(|watch| self.run.executor.ask(&order, job, None, watch, &|text| self.note(text)))
    }

    /// Whether the code of a release fits the database as it is now.
    pub(crate) fn contract_of(&self, release: &ReleaseName) -> Result<Contract, Failure> {
        match self.work_for(release, &Job::Contract)? {
            JobAnswer::Contract(contract) => Ok(contract),
            other => Err(other.unexpected()),
        }
    }

    /// The releases that processes run from. Where this cannot be determined, the run warns and removes none.
    pub(crate) fn used(&self) -> Result<JobAnswer, Failure> {
        self.work(&Job::Used).inspect_err(|failure| self.warn(format!("which releases are in use cannot be told: {}", failure.reason)))
    }

    /// Like [`Self::work`], for a job that writes to a file.
    pub(crate) fn work_into(&self, job: &Job, into: &DumpFile) -> Result<JobAnswer, Failure> {
        self.watched(|watch| self.run.executor.ask(&self.order(), job, Some(into), watch, &|text| self.note(text)))
    }

    /// Django's report about the release; asked once per run, unless `again`.
    pub(crate) fn inspect(&mut self, bytecode: Bytecode, again: Ask) -> Result<Inspection, Failure> {
        if let (Some(inspection), Ask::Once) = (&self.found.inspection, again) {
            return Ok(inspection.clone());
        }
        match self.work(&Job::Inspect(bytecode))? {
            JobAnswer::Inspected(inspection) => {
                nothing_in_the_release(self, &inspection)?;
                self.found.inspection = Some((*inspection).clone());
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
        let (link, instances, variables) = (self.run.root.link(), self.run.root.instances(), self.run.root.variables());
        let plain = self.run.app.plain_variables();
        let mut checks = self.run.app.checks.clone();
        if self.found.steadiness.get() == Steadiness::Seen {
            checks.iter_mut().for_each(|check| check.stable_for = check.stable_for.min(SEEN_FOR));
        }
        let note = |text: &str| self.note(text);
        let warn = |text: &str| self.warn(text);
        self.watched(|watch| {
            act(&RestartContext {
                app: &self.run.app.name,
                link: &link,
                instances: &instances,
                env: &env,
                variables: Variables { dir: &variables, plain: &plain },
                checks: &checks,
                workers: &self.run.app.workers,
                lacking,
                steadiness: self.found.steadiness.get(),
                renewal: if *self.run.act == Act::Restart { Renewal::Yes } else { Renewal::No },
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
        let commit = match &self.found.target {
            Some(target) if target.release == *release => target.commit.clone(),
            _ => match self.former_commit().filter(|_| self.found.former.as_ref() == Some(release)) {
                Some(commit) => commit.clone(),
                None => self.run.root.manifest(release)?.commit.parse().map_err(|err| Failure::new(chain(&err)))?,
            },
        };
        let dir = self.run.root.release_dir(release);
        act(ReleaseRef { name: release, commit: &commit, dir: &dir })
    }

    /// Runs the hooks of the current step.
    pub(crate) fn hooks(&self, when: When) -> Result<(), Failure> {
        for (place, hook) in self.run.app.hooks.iter().enumerate().filter(|(_, hook)| hook.when == when && hook.step == self.scope.step) {
            self.note(format!("hook: {}", hook.run.join(" ")));
            self.work(&Job::hook(self.run.app, place).ok_or_else(|| Failure::new("there is no such hook"))?)?;
        }
        Ok(())
    }

    /// How long the run has taken so far.
    pub(crate) fn elapsed(&self) -> Duration {
        self.run.begun.elapsed()
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
