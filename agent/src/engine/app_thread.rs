//! The thread of an app: it alone carries out the app's runs, one after the other.

use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::Instant;

use agent_model::request::Act;
use agent_model::run::Outcome;
use agent_wire::event::What;

use super::AppEngine;
use super::admission::previous;
use super::drive::Drive;
use super::journal::{Due, JournalError, word_of};
use super::prepared::{PreparedRun, request_of};
use super::replay::Replayed;
use super::run_log::RunLog;
use crate::process::last_look;
use crate::root::RootLock;
use crate::settings::{App, Complaint, ExecutorKind};
use crate::steps::{EventSink, Findings, RunContext, StepContext, StepScope, Target};
use crate::work::mask::Mask;
use crate::work::{Executor, Failure, InUse, JobRunner, Workspace, chain, grant_access};

/// The state of the thread, with the proof that this process holds the root.
pub(super) struct AppThread {
    pub engine: Arc<AppEngine>,
    pub lock: RootLock,
}

impl AppThread {
    /// Ends the runs of a dead agent before the socket opens: each run that had begun is undone, or ended if everything essential was done.
    pub(super) fn recover(&self) -> Result<(), JournalError> {
        let engine = &self.engine;
        for due in engine.journal.due(&engine.name)?.into_iter().filter(|due| due.begun) {
            tracing::warn!(run = due.run.0, app = %engine.name, "the agent stopped in the middle of this run; it is taken back");
            // The monitors of the run's programs ended them when the agent died. This looks for processes that escaped them.
            last_look(&engine.journal.marker(due.run));
            self.carry_out(&due)?;
        }
        let app = engine.settings();
        // Files of a builder are removed once he has granted access to them.
        if let Err(failure) = grant_access(&app) {
            tracing::warn!(app = %engine.name, "{}", failure.reason);
        }
        let in_use = InUse::of(&app, &engine.root);
        if let Err(err) = engine.root.sweep(&|dir| in_use.has(dir), &self.lock) {
            tracing::error!(app = %engine.name, "the root cannot be swept: {}", chain(&err));
        }
        Ok(())
    }

    /// Carries out runs as they become due, until the agent drains.
    pub(super) fn work(self: &Arc<Self>, wakes: &Receiver<()>) -> Result<(), JournalError> {
        self.revive();
        let ended = self.take_turns(wakes);
        self.engine.monitor.end();
        ended
    }

    fn take_turns(self: &Arc<Self>, wakes: &Receiver<()>) -> Result<(), JournalError> {
        loop {
            if self.engine.ends() {
                return Ok(());
            }
            // A run may have changed the live release, and a wake may mean new settings.
            self.monitor();
            match self.engine.journal.due(&self.engine.name)?.first() {
                Some(due) => {
                    self.carry_out(due)?;
                    self.engine.forget_old_runs()?;
                }
                // An error means that all senders are gone: the agent is going down.
                None if wakes.recv().is_err() => return Ok(()),
                None => {}
            }
        }
    }

    /// Carries one run out, from where it stands to its end.
    fn carry_out(&self, due: &Due) -> Result<(), JournalError> {
        let (engine, app, journal) = (&self.engine, self.engine.settings(), &self.engine.journal);
        let secrets = secrets_of(&app);
        let masked: Vec<String> = secrets.iter().flatten().map(|(_, value)| value.clone()).collect();
        let log = RunLog::new(journal, due.run, Mask::of(masked.iter().map(String::as_str)));
        let Some(request) = request_of(due) else {
            log.mark(What::Warning { step: None, text: "the stored request cannot be understood by this agent".to_owned() })?;
            return log.mark(What::Ended { outcome: word_of(Outcome::Failed), live: None, ms: 0, database: None });
        };
        let act = request.act.clone();
        let Some(mut prepared) = self.prepare(due, &request, &app, &log)? else { return Ok(()) };
        let cancel = engine.begin(due.run);
        engine.root.keep_reserve();
        for obstacle in [stale_file(due, &act, &app, &log)?, unreadable_secrets(due, &secrets, &log)?] {
            prepared.obstacle = prepared.obstacle.or(obstacle);
        }
        self.find_target(&mut prepared, &act, &log)?;
        let PreparedRun { replayed: Replayed { run: state, steps, former, target }, refs, back, obstacle, .. } = prepared;

        let env = app.variables(secrets.unwrap_or_default());
        let (marker, executor) = (journal.marker(due.run), executor_of(engine, &app, &env));
        let run = RunContext {
            id: due.run,
            app: &app,
            root: &engine.root,
            lock: &self.lock,
            act: &act,
            caller: &due.caller,
            refs: refs.as_deref(),
            back: &back,
            marker: &marker,
            executor: &executor,
            turn: &engine.monitor.turn,
            env: &env,
            begun: Instant::now(),
        };
        let found = Findings {
            before_former: previous(journal, &engine.root, &engine.name, former.as_ref()),
            served: if act == Act::Mend { journal.ever_live(&engine.name)? } else { Vec::new() },
            former,
            target,
            ..Findings::default()
        };
        let cx = StepContext { run, scope: StepScope::new(&log, &cancel), found };
        let ended = Drive::new(state, &steps, cx, &log, journal).drive(obstacle);
        engine.end();
        ended
    }
}

/// The app's file on disk is wrong, and the run has the settings from before. The step runners read the file themselves, and would fail in the middle.
fn stale_file(due: &Due, act: &Act, app: &App, log: &RunLog<'_>) -> Result<Option<Failure>, JournalError> {
    let Some(stale) = app.stale.as_ref().filter(|_| !due.begun) else { return Ok(None) };
    log.mark(What::Warning { step: None, text: stale.to_string() })?;
    let stops = app.executor == ExecutorKind::Units && matches!(act, Act::Release { .. } | Act::Stage { .. });
    let failure = || Failure::new(format!("the app's file is wrong: {}", stale.complaint)).with_hint("mend the file, and ask again");
    Ok(stops.then(failure))
}

/// Secrets that cannot be read stop a run before its first step; one that a dead agent had begun is taken back without them.
fn unreadable_secrets(
    due: &Due,
    secrets: &Result<Vec<(String, String)>, Vec<Complaint>>,
    log: &RunLog<'_>,
) -> Result<Option<Failure>, JournalError> {
    let Err(complaints) = secrets else { return Ok(None) };
    let told: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    let failure = Failure::new(format!("the secrets cannot be read: {}", told.join("; ")))
        .with_hint("put the file right, or change [secrets] files in the app's file");
    if due.begun {
        log.mark(What::Warning { step: None, text: failure.reason.clone() })?;
    }
    Ok(Some(failure))
}

/// Carries out the jobs of an app.
pub(super) fn executor_of<'a>(engine: &'a AppEngine, app: &'a App, env: &'a [(String, String)]) -> Executor<'a> {
    match app.executor {
        ExecutorKind::Direct => {
            let hidden = app.hidden.iter().cloned().chain([engine.journal.place().to_owned()]).collect();
            Executor::Own(Box::new(JobRunner::new(app, &engine.root, env, hidden, Workspace::Root)))
        }
        ExecutorKind::Units => Executor::units(app),
    }
}

/// The secrets that the agent itself may know.
pub(super) fn secrets_of(app: &App) -> Result<Vec<(String, String)>, Vec<Complaint>> {
    match app.executor {
        ExecutorKind::Direct => app.read_secrets(&app.secrets),
        ExecutorKind::Units => Ok(Vec::new()),
    }
}

/// Nobody listens: what is done outside of any run.
pub(super) struct Silent;

impl EventSink for Silent {
    fn output(&self, _: &str, _: agent_wire::event::Stream, line: &str) {
        tracing::debug!("{line}");
    }
    fn note(&self, _: &str, text: &str) {
        tracing::info!("{text}");
    }
    fn warn(&self, _: &str, text: &str) {
        tracing::warn!("{text}");
    }
    fn stands(&self, text: &str, _: Option<&str>) {
        tracing::warn!("{text}");
    }
    fn stays(&self, _: &str, text: &str) {
        tracing::info!("{text}");
    }
    fn resolved(&self, _: &Target) -> Result<(), Failure> {
        Ok(())
    }
    fn expose(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}
