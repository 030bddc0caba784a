//! Bringing a release before the visitors, and the proof that it is what they get. A file for each strategy; the variant is the setting.
//!
//! Every strategy answers the same five questions. `prepare` happens while nobody can notice; `act` comes right after the link was swapped;
//! `prove` looks at the processes that serve; `settle` lets the former release go; `back` returns to the former release from whatever state a
//! failure or a crash left, and proves that it serves.

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

/// How an app is restarted.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Restart {
    /// Nothing is restarted: the link is all that there is (static sites, programs started anew for each use).
    None,
    /// One instance a release; the new one is asked before any visitor can.
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
    /// Its name.
    pub name: &'a ReleaseName,
    /// Its commit.
    pub commit: &'a CommitId,
    /// Its directory, links resolved.
    pub dir: &'a Path,
}

/// What a strategy has to know of the switch.
pub(crate) struct RestartContext<'a> {
    /// The app.
    pub app: &'a AppName,
    /// The root's link `app`.
    pub link: &'a Path,
    /// A directory for what the agent must remember of instances that it started itself; it exists, mode 0700.
    pub instances: &'a Path,
    /// The environment of the app's own programs: `[env]`, secrets, and the `RELEASE_…` variables of the new release.
    pub env: &'a [(String, String)],
    /// What units are given of it.
    pub variables: Variables<'a>,
    /// The checks.
    pub checks: &'a [Check],
    /// The workers that belong to the app.
    pub workers: &'a [Worker],
    /// The units of those, as they are set, that the release is known not to have had. On the way back to it, it need not have them.
    pub lacking: &'a [String],
    /// Whether the release that is brought was seen to serve before.
    pub steadiness: Steadiness,
    /// Whether what serves the release already is to be replaced.
    pub renewal: Renewal,
    /// How long the former instance may take to finish its requests, and how programs are watched.
    pub watch: &'a Watch<'a>,
    /// A sentence for the people who follow the run.
    pub note: &'a dyn Fn(&str),
    /// A sentence that they should look at.
    pub warn: &'a dyn Fn(&str),
}

impl RestartContext<'_> {
    /// Whether the release need not have this worker.
    fn lacks(&self, worker: &Worker) -> bool {
        self.lacking.contains(&worker.unit)
    }
}

/// What becomes of programs that serve the release already.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Renewal {
    /// They go on.
    No,
    /// They are started anew, with the variables and secrets of now.
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

/// What [`Restart::prepare`] found and [`Restart::act`] did, for the proof.
#[derive(Debug, Default)]
pub(crate) struct Prepared {
    /// The master as it serves the new release.
    master: Option<Master>,
    /// From when on a master that is started loads the release that is brought, where it was not there before.
    since: Option<Ticks>,
    /// The units of the strategy, as they were when their jobs were done.
    units: Vec<Unit>,
    /// The workers, likewise.
    workers: Vec<Brought>,
    /// The workers of other releases that were told to finish.
    finishing: Vec<Finishing>,
    /// How long the release is watched once visitors meet it.
    confirm: Duration,
}

/// What was seen of a release that serves.
#[derive(Debug, Default)]
pub(crate) struct ServingProof {
    /// What was seen, a sentence each.
    pub notes: Vec<String>,
    /// What should be looked at, though it is no failure.
    pub warnings: Vec<String>,
}

/// What [`Restart::revive`] did.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Revived {
    /// The release served already, or is not the agent's to start.
    NotNeeded,
    /// An instance was started, and serves.
    Started,
}

impl Restart {
    /// What can be done while nobody can notice: handover starts the new instance and asks it every check over its own socket, the others make
    /// sure that what they will speak to is there. When it fails it leaves nothing behind, and [`Restart::back`] has nothing to do.
    ///
    /// # Errors
    /// [`RestartError`] when the new instance does not serve, or something in the set-up stands in the way.
    pub(crate) fn prepare(&self, context: &RestartContext<'_>, new: ReleaseRef<'_>) -> Result<Prepared, RestartError> {
        unit_jobs::examine(context, UnitAction::Restart, worker::plain(context).map(|worker| worker.unit.as_str()))?;
        let workers = lints::of_workers(self, context.workers, context.link, context.watch.left());
        for finding in lints::of_server(self, context.link, new.dir).into_iter().chain(workers) {
            match (finding.level, finding.hint) {
                // It would be called live and would not be.
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
        // Nothing can have been started in a link that is not there yet.
        prepared.since = context.link.symlink_metadata().is_err().then(Ticks::now);
        if self.has_units_in_place(context) {
            variables::keep_former(context)?;
        }
        Ok(prepared)
    }

    /// Right after the link was swapped to the new release: handover renames the socket's name, the others reload or restart, and wait until that
    /// is complete and visitors are answered. Then the workers are restarted, except those that handover has started before.
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
            // What does not answer goes back at once, and not when the workers have finished their tasks.
            _ if !context.workers.is_empty() => drop(
                self.ask(&RestartContext { workers: &[], ..*context }, new, prepared, Patience::UntilItPasses)
                    .map_err(|error| unit_jobs::with_journal(context, self.unit(), error))?,
            ),
            _ => {}
        }
        prepared.workers.append(&mut worker::restart(context, new)?);
        Ok(())
    }

    /// Reloads or restarts what serves in place.
    fn bring(&self, context: &RestartContext<'_>, release: ReleaseRef<'_>, prepared: &mut Prepared) -> Result<(), RestartError> {
        let explained = |error| unit_jobs::with_journal(context, self.unit(), error);
        match self {
            Self::None | Self::Handover(_) => {}
            // Only a start gives a server other variables.
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

    /// The same on the way back. What supervises a master that the failed release has ended starts it again, and perhaps too early: then it ends once more.
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

    /// The master that is spoken to, where there is one.
    fn master(&self) -> Option<Master> {
        match self {
            Self::UwsgiFifo(settings) => settings.master(),
            Self::Gunicorn(settings) => settings.master(),
            Self::None | Self::Handover(_) | Self::Systemd(_) | Self::Command(_) => None,
        }
    }

    /// How long a master that ended is waited for.
    fn patience(&self) -> Duration {
        match self {
            Self::UwsgiFifo(settings) => settings.timeout,
            Self::Gunicorn(settings) => settings.timeout,
            Self::None | Self::Handover(_) | Self::Systemd(_) | Self::Command(_) => Duration::ZERO,
        }
    }

    /// Whether anything that serves or works is a unit that goes from release to release.
    fn has_units_in_place(&self, context: &RestartContext<'_>) -> bool {
        matches!(self, Self::Systemd(_)) || self.unit().is_some() || worker::plain(context).next().is_some()
    }

    /// The unit that a server belongs to which is not spoken to through systemd.
    fn unit(&self) -> Option<&str> {
        match self {
            Self::UwsgiFifo(settings) => settings.unit.as_deref(),
            Self::Gunicorn(settings) => settings.unit.as_deref(),
            Self::None | Self::Handover(_) | Self::Systemd(_) | Self::Command(_) => None,
        }
    }

    /// The proof that the new release serves, all of it and only it, and goes on serving.
    ///
    /// # Errors
    /// [`RestartError`] with what was seen instead.
    pub(crate) fn prove(
        &self,
        context: &RestartContext<'_>,
        new: ReleaseRef<'_>,
        prepared: &Prepared,
    ) -> Result<ServingProof, RestartError> {
        self.ask(context, new, prepared, Patience::Lastingly).map_err(|error| unit_jobs::with_journal(context, self.unit(), error))
    }

    /// Lets the former instance finish and stop, or keeps it warm, and stops the ones before it.
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

    /// Ends what was started for a release that no visitor ever met; the former one is not touched. Failing is only a warning.
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

    /// Back to `former`, whatever state a failure or a crash left; the link names it already, or is gone when there is none. May be repeated.
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
            // A second master may be there, and the first one never left the former release.
            Self::Gunicorn(settings) if settings.first_master_serves(context, former)? => {}
            Self::Command(settings) => match settings.back(context, former) {
                Ok(()) => {}
                // Answers say more than how a command ended.
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
            // The public address still tells whether whatever served before serves on.
            Stood::NeverOurs => Self::None.prove(context, former, prepared),
        }
        .map(|_| ())
    }

    /// Whether the live release serves, each check asked once.
    ///
    /// # Errors
    /// [`RestartError`] with the first thing that is not as it should be; the others are in its tail.
    pub(crate) fn look(&self, context: &RestartContext<'_>, live: ReleaseRef<'_>) -> Result<ServingProof, RestartError> {
        self.ask(context, live, &Prepared::default(), Patience::Once)
    }

    /// Makes the live release serve where nothing does, as after a boot. Only handover has something to do: an instance that the agent starts
    /// itself is started by nobody else. Tells whether it did anything.
    ///
    /// # Errors
    /// [`RestartError`] when the instance does not come up.
    pub(crate) fn revive(&self, context: &RestartContext<'_>, live: ReleaseRef<'_>) -> Result<Revived, RestartError> {
        match self {
            Self::Handover(settings) => settings.revive(context, live),
            _ => Ok(Revived::NotNeeded),
        }
    }

    /// Whether the agent itself starts the instances, so that nobody else starts one again that ends.
    pub(crate) fn is_monitored(&self) -> bool {
        matches!(self, Self::Handover(handover::Settings { starter: Starter::Command(_), .. }))
    }

    /// How the instance of the live release stands, where the agent itself has started it; `known` are the masters that it had when somebody looked last.
    ///
    /// # Errors
    /// [`RestartError`] when that cannot be told.
    pub(crate) fn standing(&self, context: &RestartContext<'_>, live: &ReleaseName, known: &[Process]) -> Result<Standing, RestartError> {
        match self {
            Self::Handover(settings) => settings.standing(context, live, known),
            _ => Ok(Standing::Unwatched),
        }
    }

    /// Starts the live release's instance again, which has ended. Tells how often that was done by now; nothing where it is not the agent's to start.
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

    /// The releases that run in units of systemd as far as the strategy knows, whoever their processes belong to: none of them may be removed.
    /// `link` is the root's link `app`.
    pub(crate) fn in_units(&self, link: &Path, workers: &[Worker], watch: &Watch<'_>) -> Vec<ReleaseName> {
        match self {
            Self::Handover(settings) => handover::in_units(settings, link, workers, watch),
            _ => Vec::new(),
        }
    }

    /// What is wrong with the set-up, or will be one day: for `doctor`. `time` is what a switch may take. The app's name is left for the caller to
    /// fill in.
    pub(crate) fn lints(&self, link: &Path, workers: &[Worker], time: Duration) -> Vec<Finding> {
        lints::find(self, link, workers, time)
    }

    /// Whether the release is served already, and nothing would be done to bring it.
    pub(crate) fn is_served(&self, context: &RestartContext<'_>, release: &ReleaseName) -> bool {
        match self {
            Self::None => true,
            Self::Handover(settings) => settings.is_served(context, release).unwrap_or(false),
            _ => false,
        }
    }

    /// What the programs that serve a release have otherwise than it was made with. The app's name is left for the caller to fill in.
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
            // Nobody knows how many there are; as many as most have.
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

/// Whether an answer tells which release it is of.
fn names_a_release(context: &RestartContext<'_>) -> bool {
    context.checks.iter().any(|check| check.release_header.is_some())
}

/// How long a master is watched, whatever the checks say.
const MASTER_FOR: Duration = Duration::from_secs(1);

/// How much is asked.
#[derive(Debug, Clone, Copy)]
enum Patience {
    /// Until it passes, and then for as long as it must go on passing.
    Lastingly,
    /// Until it passes.
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
    /// The environment of this release's programs: that of the context, whose variables may be about another release on the way back.
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

    /// A program of this release: one that is named by a relative path is the release's own.
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
