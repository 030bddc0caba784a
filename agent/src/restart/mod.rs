//! Makes a release live, and proves that visitors get it. One file per strategy; the variant is the setting.
//!
//! Every strategy has the same five steps. `prepare` runs before visitors can notice anything; `act` follows right after the link was swapped;
//! `prove` inspects the serving processes; `settle` ends the former release; `back` returns to the former release from any state that a failure or a
//! crash left, and proves that it serves.

mod celery;
pub(crate) mod drift;
mod error;
pub(crate) mod handover;
pub(crate) mod in_place;
mod master;
mod proof;
mod server;
mod lints;
mod turn;
mod unit_jobs;
mod variables;
mod watched;
pub(crate) mod worker;

use std::cell::Cell;
use std::path::Path;
use std::time::{Duration, Instant};

use agent_model::names::{AppName, CommitId, ReleaseName};

use agent_wire::view::{Finding, Level};

use crate::http::{Check, Wrong};
use crate::process::{Process, Program, Ticks, Watch};

use crate::systemd::{Unit, UnitAction};
pub(crate) use error::RestartError;
use handover::{Finishing, Standing, StartedAgain, Starter, Stood};
use in_place::{command, gunicorn, units, uwsgi_fifo};
use master::Master;
use proof::{Asking, Crew, go_on};
pub(crate) use turn::{OfRun, Turn};
pub(crate) use variables::{LIVE, Variables};
use watched::Watched;
use worker::{Brought, Worker};

#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Restart {
    /// No restart: the link is enough (static sites, programs that are started for each use).
    None,
    /// One instance per release; the agent checks the new one before any visitor reaches it.
    Handover(handover::Settings),
    /// A byte to the uWSGI master's FIFO.
    UwsgiFifo(uwsgi_fifo::Settings),
    /// Units of systemd, in order.
    Systemd(units::Settings),
    /// A signal to gunicorn's master.
    Gunicorn(gunicorn::Settings),
    /// Any command.
    Command(command::Settings),
}

/// A release that is to serve.
#[derive(Debug, Clone, Copy)]
pub(crate) struct ReleaseRef<'a> {
    pub name: &'a ReleaseName,
    pub commit: &'a CommitId,
    /// Its directory, links resolved.
    pub dir: &'a Path,
}

/// The facts of the switch that a strategy needs.
pub(crate) struct RestartContext<'a> {
    pub app: &'a AppName,
    /// The root's link `app`.
    pub link: &'a Path,
    /// A directory for the records of instances that the agent started itself; it exists, mode 0700.
    pub instances: &'a Path,
    /// The environment of the app's own programs: `[env]`, secrets, and the `RELEASE_…` variables of the new release.
    pub env: &'a [(String, String)],
    /// The part of it that units get.
    pub variables: Variables<'a>,
    pub checks: &'a [Check],
    /// The workers that belong to the app.
    pub workers: &'a [Worker],
    /// The configured units of workers that the release is known to lack. A rollback to it does not require them.
    pub lacking: &'a [String],
    /// Whether the release was already seen to serve.
    pub steadiness: Steadiness,
    /// Whether programs that already serve the release are to be replaced.
    pub renewal: Renewal,
    /// How long the former instance may take to finish its requests, and how programs are watched.
    pub watch: &'a Watch<'a>,
    /// Writes a sentence for the people who follow the run.
    pub note: &'a dyn Fn(&str),
    /// Writes a warning for them.
    pub warn: &'a dyn Fn(&str),
}

impl RestartContext<'_> {
    /// Whether the release may lack this worker.
    fn lacks(&self, worker: &Worker) -> bool {
        self.lacking.contains(&worker.unit)
    }
}

/// How the switch treats programs that already serve the release.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// They keep running.
    No,
    /// They are restarted, with the current variables and secrets.
    Yes,
}

/// How long things must go on.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub(crate) enum Steadiness {
    /// As long as they are set to: nobody has seen this release serve.
    #[default]
    Unseen,
    /// For a moment: it was watched for the whole time before, in this run or in the one that made it live.
    Seen,
}

/// The results of [`Restart::prepare`] and [`Restart::act`], for the proof.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// The master that serves the new release.
    master: Option<Master>,
    /// A master that starts after this time loads the new release. Set where no master ran before.
    since: Option<Ticks>,
    /// The units of the strategy, as they were when their jobs were done.
    units: Vec<Unit>,
    /// The workers, likewise.
    workers: Vec<Brought>,
    /// The workers of other releases that were told to finish.
    finishing: Vec<Finishing>,
    /// How long the agent watches the release once visitors reach it.
    confirm: Duration,
}

/// The evidence that a release serves.
#[derive(Debug, Default)]
pub(crate) struct ServingProof {
    /// The observations, one sentence each.
    pub notes: Vec<String>,
    /// Observations that need attention but are no failure.
    pub warnings: Vec<String>,
}

/// The result of [`Restart::revive`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revived {
    /// The release served already, or the agent does not start it.
    NotNeeded,
    /// An instance was started, and serves.
    Started,
}

impl Restart {
    /// Does the work that visitors cannot notice: handover starts the new instance and runs every check over its own socket. The other strategies
    /// verify that the server they will address is there. A failure leaves nothing behind, and [`Restart::back`] has nothing to do.
    ///
    /// # Errors
    /// [`RestartError`] when the new instance does not serve, or something in the set-up stands in the way.
    pub(crate) fn prepare(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Prepared, RestartError> {
        unit_jobs::examine(context, UnitAction::Restart, worker::plain(context).map(|worker| worker.unit.as_str()))?;
        let workers = lints::of_workers(self, context.workers, context.link, context.watch.left());
        for finding in lints::of_server(self, context.link, new.dir).into_iter().chain(workers) {
            match (finding.level, finding.hint) {
                // The journal would call the release live although it did not serve.
                (Level::Error, Some(hint)) => return Err(RestartError::SetUp { what: finding.text, hint }),
                (_, Some(hint)) => (context.warn)(&format!("{}: {hint}", finding.text)),
                (_, None) => (context.warn)(&finding.text),
            }
        }
        let mut prepared = Prepared::default();
        if let (Renewal::Yes, Self::UwsgiFifo(_) | Self::Gunicorn(_), None) = (context.renewal, self, self.unit()) {
            (context.warn)("a server that is only reloaded keeps the variables that it was started with: name its unit under [restart]");
        }
        match self {
            Self::None => {}
            Self::Handover(settings) => prepared.confirm = settings.prepare(context, new)?,
            Self::UwsgiFifo(settings) => prepared.master = settings.prepare(context, new)?,
            Self::Systemd(settings) => unit_jobs::examine(context, settings.act(context), settings.units.iter().map(String::as_str))?,
            Self::Gunicorn(settings) => prepared.master = settings.prepare(context)?,
            Self::Command(settings) => settings.prepare()?,
        }
        // No server can run in a link that does not exist yet.
        prepared.since = context.link.symlink_metadata().is_err().then(Ticks::now);
        if self.has_units_in_place(context) {
            variables::keep_former(context)?;
        }
        Ok(prepared)
    }

    /// Follows right after the link was swapped to the new release: handover renames the socket's name. The others reload or restart, and wait until
    /// that is complete and visitors get answers. Then the workers are restarted, except those that handover has started before.
    ///
    /// # Errors
    /// [`RestartError`] when the processes of the new release do not come up.
    pub(crate) fn act(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>, prepared: &mut Prepared) -> Result<(), RestartError> {
        if self.has_units_in_place(context) {
            variables::write_live(context)?;
        }
        self.bring(context, new, prepared)?;
        match self {
            Self::Handover(settings) => settings.act(context, new, prepared)?,
            // A release that does not answer is rolled back at once, before its workers are restarted and finish their tasks.
            _ if !context.workers.is_empty() => drop(
                self.ask(&RestartContext { workers: &[], ..*context }, new, prepared, Patience::UntilItPasses)
                    .map_err(|error| unit_jobs::with_journal(context, self.unit(), error))?,
            ),
            _ => {}
        }
        prepared.workers.append(&mut worker::restart(context, new)?);
        Ok(())
    }

    /// Reloads or restarts a server that is replaced in place.
    fn bring(&self, context: &RestartContext<'_>, release: ReleaseRef<'_>, prepared: &mut Prepared) -> Result<(), RestartError> {
        let explained = |error| unit_jobs::with_journal(context, self.unit(), error);
        match self {
            Self::None | Self::Handover(_) => {}
            // Only a start gives a server new variables.
            Self::UwsgiFifo(settings) if context.renewal == Renewal::Yes && settings.unit.is_some() => {
                prepared.master = settings.start(context, release).map_err(explained)?;
            }
            Self::Gunicorn(settings) if context.renewal == Renewal::Yes && settings.unit.is_some() => {
                prepared.master = Some(settings.start(context, release).map_err(explained)?);
            }
            Self::UwsgiFifo(settings) => prepared.master = settings.act(context, release, prepared.since).map_err(explained)?,
            Self::Systemd(settings) => prepared.units = settings.bring(context, release)?,
            Self::Gunicorn(settings) => prepared.master = settings.act(context, release, prepared.since).map_err(explained)?,
            Self::Command(settings) => settings.act(context, release)?,
        }
        Ok(())
    }

    /// Like [`Self::bring`], on the way back. If the failed release ended its master, a supervisor may restart it too early, and then it ends once
    /// more.
    fn bring_back(&self, context: &RestartContext<'_>, former: ReleaseRef<'_>, prepared: &mut Prepared) -> Result<(), RestartError> {
        let begun = Instant::now();
        loop {
            let error = match self.bring(context, former, prepared) {
                Err(error @ RestartError::Process { .. }) if self.unit().is_none() && self.master().is_none() => error,
                brought => return brought,
            };
            if begun.elapsed() > self.patience() {
                return Err(error);
            }
            go_on(context, "going back to the former release")?;
        }
    }

    /// The master that gets the signal or byte, if it runs.
    fn master(&self) -> Option<Master> {
        match self {
            Self::UwsgiFifo(settings) => settings.master(),
            Self::Gunicorn(settings) => settings.master(),
            Self::None | Self::Handover(_) | Self::Systemd(_) | Self::Command(_) => None,
        }
    }

    /// How long the agent waits for a master that ended.
    fn patience(&self) -> Duration {
        match self {
            Self::UwsgiFifo(settings) => settings.timeout,
            Self::Gunicorn(settings) => settings.timeout,
            Self::None | Self::Handover(_) | Self::Systemd(_) | Self::Command(_) => Duration::ZERO,
        }
    }

    /// Whether any server or worker is a unit that is reused from release to release.
    fn has_units_in_place(&self, context: &RestartContext<'_>) -> bool {
        matches!(self, Self::Systemd(_)) || self.unit().is_some() || worker::plain(context).next().is_some()
    }

    /// The unit of a server that the agent does not control through systemd.
    fn unit(&self) -> Option<&str> {
        match self {
            Self::UwsgiFifo(settings) => settings.unit.as_deref(),
            Self::Gunicorn(settings) => settings.unit.as_deref(),
            Self::None | Self::Handover(_) | Self::Systemd(_) | Self::Command(_) => None,
        }
    }

    /// Proves that the new release serves, all of it and only it, and keeps serving.
    ///
    /// # Errors
    /// [`RestartError`] with the observation that contradicts it.
    pub(crate) fn prove(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        prepared: &Prepared,
    ) -> Result<ServingProof, RestartError> {
        self.ask(context, new, prepared, Patience::Lastingly).map_err(|error| unit_jobs::with_journal(context, self.unit(), error))
    }

    /// Lets the former instance finish and stop, or keeps it warm, and stops older ones.
    ///
    /// # Errors
    /// [`RestartError`] when one could not be stopped; the new release serves all the same.
    pub(crate) fn settle(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        former: Option<ReleaseRef<'_>>,
        prepared: &Prepared,
    ) -> Result<(), RestartError> {
        variables::forget_former(context);
        if let Some(releases) = new.dir.parent() {
            variables::sweep(context, releases);
        }
        match self {
            Self::Handover(settings) => settings.settle(context, new, former, prepared),
            _ => Ok(()),
        }
    }

    /// Ends everything that was started for a release that no visitor reached, and does not touch the former release. A failure is only a warning.
    pub(crate) fn forget(&self, context: &RestartContext<'_>, failed: ReleaseRef<'_>, former: Option<&ReleaseName>) {
        variables::forget_former(context);
        match self {
            Self::Handover(settings) if former != Some(failed.name) => settings.end(context, failed, None, &[]),
            Self::Handover(settings) => {
                if let Err(error) = settings.bring_back(context, failed.name, Duration::ZERO) {
                    (context.warn)(&format!("not all that was started for {} could be stopped: {error}", failed.name));
                }
            }
            _ => {}
        }
    }

    /// Goes back to `former` from any state that a failure or a crash left. The link names `former` already, or is gone when there is none. May be
    /// repeated.
    ///
    /// # Errors
    /// [`RestartError`] when the former release was not seen to serve.
    pub(crate) fn back(
        &self,
        context: &RestartContext<'_>,
        failed: ReleaseRef<'_>,
        former: Option<ReleaseRef<'_>>,
    ) -> Result<(), RestartError> {
        if let Err(error) = variables::put_back(context) {
            (context.warn)(&format!("the variables of before could not be put back: {error}"));
        }
        if let Self::Handover(settings) = self {
            let mut prepared = Prepared::default();
            let returned = match former {
                None => settings.unname(),
                Some(former) => settings
                    .bring_back(context, former.name, settings.drain)
                    .and_then(|()| settings.stand(context, former))
                    .and_then(|stood| {
                        if stood == Stood::Ours {
                            settings.bring_workers(context, former, &mut prepared)?;
                        }
                        self.prove_again(context, former, stood, &mut prepared)
                    }),
            };
            settings.end(context, failed, former, &prepared.finishing);
            return returned;
        }
        let Some(former) = former else {
            if *self != Self::None {
                (context.warn)("there is no former release to go back to: what serves is left as it is");
            }
            return Ok(());
        };
        // The link leads to the former release already.
        let mut prepared = Prepared { since: Some(Ticks::now()), ..Prepared::default() };
        match self {
            // A second master may run, while the first one never left the former release.
            Self::Gunicorn(settings) if settings.first_master_serves(context, former)? => {}
            Self::Command(settings) => match settings.back(context, former) {
                Ok(()) => {}
                // The answers prove more than the command's exit status.
                Err(error) if names_a_release(context) && self.prove(context, former, &prepared).is_ok() => {
                    (context.warn)(&format!("{error}; the checks were answered by {} all the same", former.name));
                }
                Err(error) => return Err(error),
            },
            _ => self.bring_back(context, former, &mut prepared)?,
        }
        prepared.workers = worker::restart(context, former)?;
        self.prove(context, former, &prepared).map(|_| ())
    }

    fn prove_again(
        &self,
        context: &RestartContext<'_>,
        former: ReleaseRef<'_>,
        stood: Stood,
        prepared: &mut Prepared,
    ) -> Result<(), RestartError> {
        prepared.workers.append(&mut worker::restart(context, former)?);
        match stood {
            Stood::Ours => self.prove(context, former, prepared),
            // The public address still shows whether the former server keeps serving.
            Stood::NeverOurs => Self::None.prove(context, former, prepared),
        }
        .map(|_| ())
    }

    /// Checks whether the live release serves, and sends each check once.
    ///
    /// # Errors
    /// [`RestartError`] with the first failed check; the others are in its tail.
    pub(crate) fn look(&self, context: &RestartContext<'_>, live: ReleaseRef<'_>) -> Result<ServingProof, RestartError> {
        self.ask(context, live, &Prepared::default(), Patience::Once)
    }

    /// Starts the live release if nothing serves it, for example after a boot. Only handover has work here, because nothing else starts an instance
    /// that the agent starts itself.
    ///
    /// # Errors
    /// [`RestartError`] when the instance does not come up.
    pub(crate) fn revive(&self, context: &RestartContext<'_>, live: ReleaseRef<'_>) -> Result<Revived, RestartError> {
        match self {
            Self::Handover(settings) => settings.revive(context, live),
            _ => Ok(Revived::NotNeeded),
        }
    }

    /// Whether the agent itself starts the instances. Then nothing else restarts one that ends.
    pub(crate) fn is_monitored(&self) -> bool {
        matches!(self, Self::Handover(handover::Settings { starter: Starter::Command(_), .. }))
    }

    /// The state of the live release's instance, if the agent itself started it; `known` are the masters of the previous look.
    ///
    /// # Errors
    /// [`RestartError`] when the state cannot be determined.
    pub(crate) fn standing(&self, context: &RestartContext<'_>, live: &ReleaseName, known: &[Process]) -> Result<Standing, RestartError> {
        match self {
            Self::Handover(settings) => settings.standing(context, live, known),
            _ => Ok(Standing::Unwatched),
        }
    }

    /// Starts the ended instance of the live release again. Returns how often that was done by now, or `None` where the agent does not start it.
    ///
    /// # Errors
    /// [`RestartError`] when it does not come up.
    pub(crate) fn start_again(
        &self,
        context: &RestartContext<'_>,
        live: ReleaseRef<'_>,
        now: i64,
    ) -> Result<Option<StartedAgain>, RestartError> {
        match self {
            Self::Handover(settings) => settings.start_again(context, live, now).map(Some),
            _ => Ok(None),
        }
    }

    /// The releases that run in units of systemd as far as the strategy knows, under any user: none of them may be removed. `link` is the root's link
    /// `app`.
    pub(crate) fn in_units(&self, link: &Path, workers: &[Worker], watch: &Watch<'_>) -> Vec<ReleaseName> {
        match self {
            Self::Handover(settings) => handover::in_units(settings, link, workers, watch),
            _ => Vec::new(),
        }
    }

    /// The findings for `doctor`: parts of the set-up that are wrong now, or will be one day. `time` is what a switch may take. The caller fills in
    /// the app's name.
    pub(crate) fn lints(&self, link: &Path, workers: &[Worker], time: Duration) -> Vec<Finding> {
        lints::find(self, link, workers, time)
    }

    /// Whether the release is served already, so that a switch to it has nothing to do.
    pub(crate) fn is_served(&self, context: &RestartContext<'_>, release: &ReleaseName) -> bool {
        match self {
            Self::None => true,
            Self::Handover(settings) => settings.is_served(context, release).unwrap_or(false),
            _ => false,
        }
    }

    /// The differences between the variables of the serving programs and those that the release was made with. The caller fills in the app's name.
    pub(crate) fn drift(&self, context: &RestartContext<'_>, live: ReleaseRef<'_>, made: &drift::MadeWith<'_>) -> Vec<Finding> {
        drift::find(self, context, live, made)
    }

    /// The units of an app's workers for a release.
    fn workers_of(&self, context: &RestartContext<'_>, release: &ReleaseName) -> Vec<String> {
        let instances = match self {
            Self::Handover(settings) => settings.workers_of(context, release),
            _ => Vec::new(),
        };
        instances.into_iter().chain(worker::plain(context).map(|worker| worker.unit.clone())).collect()
    }

    fn ask(
        &self,
        context: &RestartContext<'_>,
        serving: ReleaseRef<'_>,
        prepared: &Prepared,
        how: Patience,
    ) -> Result<ServingProof, RestartError> {
        let due: Vec<Worker> = context.workers.iter().filter(|worker| !context.lacks(worker)).cloned().collect();
        let names = self.workers_of(&RestartContext { workers: &due, ..*context }, serving.name);
        let known: Vec<Unit> = prepared.workers.iter().map(|brought| brought.unit.clone()).collect();
        let workers = Watched::new(context, names.iter().map(String::as_str), &known)?;
        let workers_for = prepared.workers.iter().map(|brought| brought.watch_for).max().unwrap_or_default();
        let workers_alive = || {
            if let Some(bus) = workers.bus() {
                prepared.finishing.iter().try_for_each(|finishing| finishing.look(bus).map(drop))?;
            }
            workers.check(serving)
        };
        let mut asking = Asking {
            context,
            serving,
            socket: None,
            alive: &workers_alive,
            tail: &Vec::new,
            hopeless: &|_| None,
            // The number of workers is unknown; four is what most servers have.
            workers: 4,
            crew: Crew::Unknown,
            watch_for: workers_for,
        };
        match self {
            Self::None | Self::Command(_) => how.ask(&asking),
            Self::Handover(settings) => {
                asking.watch_for = workers_for.max(prepared.confirm);
                settings.ask(asking, how)
            }
            Self::Systemd(settings) => {
                let units = Watched::new(context, settings.units.iter().map(String::as_str), &prepared.units)?;
                let alive = || units.check(serving).and_then(|()| workers.check(serving));
                let tail = || units.tail();
                let tries = Cell::new(0);
                let hopeless = |wrong: &Wrong| units.has_no_app(serving, wrong, &tries);
                let crew = || units.processes();
                let (answering, crew) = (units.workers(), Crew::Changing(&crew));
                asking = Asking { alive: &alive, tail: &tail, hopeless: &hopeless, workers: answering, crew, ..asking };
                asking.watch_for = workers_for.max(settings.watch_for);
                how.ask(&asking)
            }
            Self::UwsgiFifo(_) | Self::Gunicorn(_) => {
                let Some(mut master) = prepared.master.clone().or_else(|| self.master()) else { return how.ask(&asking) };
                if let Self::UwsgiFifo(settings) = self {
                    let shown_by = settings.shown_by(context, &master.process);
                    master = master.shown_by(shown_by);
                }
                let alive = || master.check(serving).and_then(|()| workers.check(serving));
                let tail = || master.tail();
                let tries = Cell::new(0);
                let hopeless = |wrong: &Wrong| match self {
                    Self::UwsgiFifo(settings) => settings.has_no_app(&master, serving, wrong, &tries),
                    _ => None,
                };
                let answering = master.process.children().len().max(1);
                let crew = || std::iter::once(master.process).chain(master.process.children()).collect();
                let crew = Crew::Changing(&crew);
                asking = Asking { alive: &alive, tail: &tail, hopeless: &hopeless, workers: answering, crew, ..asking };
                asking.watch_for = workers_for.max(MASTER_FOR);
                how.ask(&asking)
            }
        }
    }
}

/// Whether an answer shows which release sent it.
fn names_a_release(context: &RestartContext<'_>) -> bool {
    context.checks.iter().any(|check| check.release_header.is_some())
}

/// How long a master is watched, regardless of the checks' settings.
const MASTER_FOR: Duration = Duration::from_secs(1);

/// How often the checks are sent.
#[derive(Debug, Clone, Copy)]
enum Patience {
    /// Until they pass, and then for as long as they must keep passing.
    Lastingly,
    /// Until they pass.
    UntilItPasses,
    /// Once.
    Once,
}

impl Patience {
    fn ask(self, asking: &Asking<'_>) -> Result<ServingProof, RestartError> {
        match self {
            Self::Lastingly => asking.prove(),
            Self::UntilItPasses => asking.pass(),
            Self::Once => asking.look(),
        }
    }
}

impl ReleaseRef<'_> {
    /// The environment of this release's programs: the context's environment with this release's own `RELEASE_…` variables. On the way back, those of
    /// the context may belong to another release.
    fn env(&self, context: &[(String, String)]) -> Vec<(String, String)> {
        let own = [
            ("RELEASE_NAME", self.name.to_string()),
            ("RELEASE_COMMIT", self.commit.to_string()),
            ("RELEASE_DIR", self.dir.to_string_lossy().into_owned()),
            ("REVISION", self.commit.to_string()),
        ];
        let others = context.iter().filter(|(name, _)| own.iter().all(|(own, _)| own != name)).cloned();
        others.chain(own.iter().map(|(name, value)| ((*name).to_owned(), value.clone()))).collect()
    }

    /// A program of this release; a relative path names a program in the release.
    fn program(&self, argv: &[String], context: &[(String, String)]) -> Program {
        let mut argv = argv.to_vec();
        if let Some(program) = argv.first_mut()
            && program.contains('/')
        {
            *program = self.dir.join(&*program).to_string_lossy().into_owned();
        }
        Program::from_argv(&argv).dir(self.dir).envs(self.env(context))
    }
}

#[cfg(test)]
mod tests;
