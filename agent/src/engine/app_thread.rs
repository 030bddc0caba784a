//! The loop of an app's thread: it asks the model for the next action, writes it to the journal, carries it out, and writes the result. The same loop
//! goes forward, goes back, and recovers after a crash.

use std::cell::{Cell, OnceCell};
use std::sync::Arc;
use std::sync::mpsc::Receiver;
use std::time::{Duration, Instant};

use agent_model::grant::{Back, RefPattern};
use agent_model::names::{ReleaseName, ReleaseSelector, RunId, Selected};
use agent_model::plan::{Aim, Plan};
use agent_model::request::{Act, Request};
use agent_model::run::{Mark, Next, Outcome, Run};
use agent_wire::event::What;
use agent_wire::form::Form;

use super::journal::{Due, Journal, JournalError, RunFlag, word_of};

use super::AppEngine;
use super::admission::previous;
use super::not_taken::no_release;
use super::replay::{Replayed, planned, replay};
use super::run_log::RunLog;
use crate::faults;
use crate::restart::Steadiness;
use crate::root::{BackgroundTask, RootLock, Served};
use crate::settings::{App, Complaint, ExecutorKind, When};
use crate::steps::{
    Brief, Depth, Did, EventSink, PIPELINE, Past, StepContext, Target, explain, health_of, named, not_written_down, what_stands,
};
use crate::tools::{Cancel, last_look};
use crate::work::mask::Mask;
use crate::work::{Executor, Failure, InUse, JobRunner, Workspace, chain, grant_access};

/// The state that an app's thread owns, with the proof that the agent holds the root.
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

    #[expect(clippy::too_many_arguments, reason = "each is a thing of its own that the step may ask for; they are named where they arrive")]
    pub(super) fn cx<'a>(
        &'a self,
        app: &'a App,
        run: RunId,
        act: &'a Act,
        caller: &'a str,
        refs: Option<&'a [RefPattern]>,
        back: &'a Back,
        events: &'a dyn EventSink,
        cancel: &'a Cancel,
        marker: &'a str,
        executor: &'a Executor<'a>,
        env: &'a [(String, String)],
    ) -> StepContext<'a> {
        let now = Instant::now();
        StepContext {
            app,
            root: &self.engine.root,
            lock: &self.lock,
            run,
            act,
            caller,
            refs,
            back,
            events,
            cancel,
            cut: None,
            marker,
            executor,
            turn: &self.engine.monitor.turn,
            env,
            former: None,
            before_former: None,
            served: Vec::new(),
            target: None,
            begun: now,
            step: "",
            deadline: now,
            exposed: false,
            steadiness: Cell::new(Steadiness::Unseen),
            inspection: None,
            dump: None,
            restore: None,
            tree: None,
            before_seal: Vec::new(),
            before_end: None,
            collected: None,
            former_commit: OnceCell::new(),
            since: OnceCell::new(),
            deferred: None,
            answered_before: None,
        }
    }

    pub(super) fn target_of(&self, release: &ReleaseName) -> Result<Target, Failure> {
        let manifest = self.engine.root.manifest(release)?;
        let commit = manifest.commit.parse().map_err(|err| Failure::new(chain(&err)))?;
        let reference = manifest.reference.and_then(|reference| reference.parse().ok());
        Ok(Target { release: release.clone(), commit, reference, subject: manifest.subject })
    }

    fn carry_out(&self, due: &Due) -> Result<(), JournalError> {
        let engine = &self.engine;
        let app = engine.settings();
        let journal = &engine.journal;
        let secrets = secrets_of(&app);
        let told = secrets.as_ref().map(|secrets| secrets.iter().map(|(_, value)| value.clone()).collect::<Vec<_>>()).unwrap_or_default();
        let log = RunLog::new(journal, due.run, Mask::of(told.iter().map(String::as_str)));
        let Some(request) = request_of(due) else {
            // The form was understood when it was accepted; only an older agent can meet an unknown form.
            log.mark(What::Warning { step: None, text: "the stored request cannot be understood by this agent".to_owned() })?;
            return log.mark(What::Ended { outcome: word_of(Outcome::Failed), live: None, ms: 0, database: None });
        };
        let act = request.act.clone();
        // An obstacle before the first step fails the first step, so it gets the same words and the same end.
        let mut obstacle = None;
        let mut chosen: Option<Result<ReleaseName, Failure>> = None;
        let mut again = None;
        let live = engine.root.live().unwrap_or_else(|err| {
            obstacle = Some(Failure::from(err));
            None
        });
        let Replayed { mut run, steps, former, target } = if due.begun {
            let mut replayed = match replay(due.run, &journal.marks(due.run)?) {
                Ok(replayed) => replayed,
                Err(why) => {
                    log.mark(What::Warning { step: None, text: why })?;
                    return log.mark(What::Ended {
                        outcome: word_of(Outcome::Stuck),
                        live: live.map(|live| live.to_string()),
                        ms: 0,
                        database: None,
                    });
                }
            };
            log.mark(What::Stopped)?;
            note_mark(&mut replayed.run, Mark::Stopped);
            replayed
        } else {
            // The plan depends on whether the release has served, so that is looked up first.
            chosen = self.chosen(&act, live.as_ref());
            let past = self.past_of(chosen.as_ref().and_then(|chosen| chosen.as_ref().ok()))?;
            let plan = draw(&Brief { act: &act, app: &app, past });
            // The run may have been cancelled while it waited.
            if !journal.begin(due.run, &planned(&plan, live.as_ref()))? {
                return Ok(());
            }
            faults::within("plan", "");
            faults::at("acted");
            let standing = journal.standing(&engine.name)?;
            let refused = engine.standing(standing).map_err(Failure::from).and_then(|standing| {
                standing.may_begin(&request).map_err(|refusal| Failure::new(format!("while it waited for its turn: {refusal}")))
            });
            obstacle = obstacle.or(refused.err());
            // The keys and the grants may have changed since the request was accepted.
            match engine.may_still(due, &request) {
                Ok(authorised) => again = authorised,
                Err(failure) => obstacle = obstacle.or(Some(failure)),
            }
            let natures = plan.steps().map(|card| card.nature).collect();
            Replayed { run: Run::new(plan.aim, natures), steps: plan.steps().map(|card| card.step).collect(), former: live, target: None }
        };
        let (refs, back) = match again {
            Some(authorised) => (authorised.refs().map(<[RefPattern]>::to_vec), authorised.back().clone()),
            None => (due.refs.as_ref().map(|refs| refs.iter().filter_map(|pattern| pattern.parse().ok()).collect()), due.back.clone()),
        };
        let env = app.variables(secrets.clone().unwrap_or_default());
        engine.root.keep_reserve();
        let cancel = engine.begin(due.run);
        let marker = journal.marker(due.run);
        let executor = hands(engine, &app, &env);
        let mut cx = self.cx(&app, due.run, &act, &due.caller, refs.as_deref(), &back, &log, &cancel, &marker, &executor, &env);
        cx.before_former = previous(journal, &engine.root, &engine.name, former.as_ref());
        if act == Act::Mend {
            cx.served = journal.ever_live(&engine.name)?;
        }
        cx.former = former;
        cx.target = target;
        if let Some(stale) = app.stale.as_ref().filter(|_| !due.begun) {
            log.mark(What::Warning { step: None, text: stale.to_string() })?;
            // The step runners read the file themselves, and would fail in the middle.
            if app.executor == ExecutorKind::Units && matches!(act, Act::Release { .. } | Act::Stage { .. }) {
                let failure =
                    Failure::new(format!("the app's file is wrong: {}", stale.complaint)).with_hint("mend the file, and ask again");
                obstacle = obstacle.or(Some(failure));
            }
        }
        if let Err(complaints) = secrets {
            let told: Vec<String> = complaints.iter().map(ToString::to_string).collect();
            let failure = Failure::new(format!("the secrets cannot be read: {}", told.join("; ")))
                .with_hint("put the file right, or change [secrets] files in the app's file");
            if due.begun {
                log.mark(What::Warning { step: None, text: failure.reason.clone() })?;
            }
            obstacle = obstacle.or(Some(failure));
        }
        if cx.target.is_none()
            && obstacle.is_none()
            && let Some(chosen) = chosen.or_else(|| self.chosen(&act, cx.former.as_ref()))
        {
            match chosen.and_then(|release| self.target_of(&release)) {
                Ok(target) => {
                    log.mark(What::Resolved {
                        commit: target.commit.to_string(),
                        reference: target.reference.as_ref().map(ToString::to_string),
                        release: target.release.to_string(),
                        subject: target.subject.clone(),
                    })?;
                    cx.target = Some(target);
                }
                Err(failure) => obstacle = Some(failure),
            }
        }
        let ended = drive(&mut run, &steps, &mut cx, &log, journal, obstacle);
        engine.end();
        ended
    }

    /// The existing release that an act makes live.
    fn chosen(&self, act: &Act, live: Option<&ReleaseName>) -> Option<Result<ReleaseName, Failure>> {
        match act {
            Act::Activate { release } => Some(self.find(release, live)),
            Act::Restart => {
                let none = || Failure::new("no release is live").with_hint("make one: agentctl release REF");
                Some(live.cloned().ok_or_else(none))
            }
            _ => None,
        }
    }

    fn find(&self, selector: &ReleaseSelector, live: Option<&ReleaseName>) -> Result<ReleaseName, Failure> {
        let engine = &self.engine;
        let names = engine.root.release_names()?;
        let before = previous(&engine.journal, &engine.root, &engine.name, live);
        match selector.select(&names, before.as_ref()) {
            Selected::One(release) => Ok(release.clone()),
            Selected::None => Err(Failure::new(no_release(selector)).with_hint("agentctl list shows the releases")),
            Selected::Several(several) => {
                let names: Vec<&str> = several.iter().map(|name| name.as_str()).collect();
                Err(Failure::new(format!("{selector} may be {}", names.join(" or "))).with_hint("give more of the name"))
            }
        }
    }

    /// Whether a release has served. If its fact is lost, the journal decides.
    fn past_of(&self, release: Option<&ReleaseName>) -> Result<Past, JournalError> {
        let Some(release) = release else { return Ok(Past::Served) };
        let served = self.engine.root.fact::<Served>(release).is_ok_and(|served| served.is_some());
        let served = served || self.engine.journal.ever_live(&self.engine.name)?.contains(release);
        Ok(if served { Past::Served } else { Past::Unserved })
    }
}

/// The executor of an app's jobs.
pub(super) fn hands<'a>(engine: &'a AppEngine, app: &'a App, env: &'a [(String, String)]) -> Executor<'a> {
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

/// The plan for an act, from the choice of each step.
pub(super) fn draw(brief: &Brief<'_>) -> Plan {
    let aim = if brief.act.makes_live() { Aim::Serve } else { Aim::Tend };
    Plan::draw(aim, PIPELINE.iter().map(|step| (step.name(), step.nature(), step.choose(brief))))
}

fn request_of(due: &Due) -> Option<Request> {
    let form = Form::parse(&due.form).ok()?;
    Request::try_from(&form).ok()
}

/// Applies a mark that is on disk already. A mark out of order would be a fault of this loop; the journal holds it, and the next replay reports it.
fn note_mark(run: &mut Run, mark: Mark) {
    if let Err(err) = run.record(mark) {
        tracing::error!("{err}");
    }
}

/// The step that starts and stops instances.
const SWITCH: &str = "switch";

fn drive(
    run: &mut Run,
    steps: &[&'static str],
    cx: &mut StepContext<'_>,
    log: &RunLog<'_>,
    journal: &Journal,
    mut obstacle: Option<Failure>,
) -> Result<(), JournalError> {
    let begun = cx.begun;
    let ms = |since: Instant| u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX);
    // The end of the last step. It is written together with the next mark, and nothing is done in between.
    let mut ended = None;
    // From the switch on, only this run may start and stop instances.
    let (turn, mut has_turn) = (cx.turn, None);
    loop {
        // The request to cancel wrote the mark already; here the model only learns of it.
        if cx.cancel.asked() && !run.goes_back() && !run.is_exposed() {
            note_mark(run, Mark::CancelAsked);
        }
        let next = run.next();
        if !matches!(next, Next::Do(_))
            && let Some(ended) = ended.take()
        {
            log.head(ended)?;
        }
        match next {
            Next::Do(i) => {
                let step = steps[i];
                if !log.go_on(ended.take(), step)? {
                    note_mark(run, Mark::CancelAsked);
                    continue;
                }
                note_mark(run, Mark::Started(i));
                if step == SWITCH {
                    has_turn.get_or_insert_with(|| turn.of_run());
                }
                let since = Instant::now();
                cx.at(step);
                faults::within(step, "");
                faults::at("started");
                let did = obstacle.take().map_or_else(|| run_step(step, cx), Err);
                faults::at("acted");
                log.end_of_step(step);
                log.broken()?;
                if journal.has(cx.run, RunFlag::Exposed)? && !run.is_exposed() {
                    note_mark(run, Mark::Exposed(i));
                }
                match did {
                    Ok(did) => {
                        let nothing = match did {
                            Did::It => None,
                            Did::Nothing(why) => Some(why),
                        };
                        let mark = if nothing.is_some() { Mark::Idle(i) } else { Mark::Done(i) };
                        ended = Some(What::StepDone { step: step.to_owned(), ms: ms(since), nothing });
                        note_mark(run, mark);
                    }
                    Err(failure) => {
                        let Failure { reason, hint, tail } = explain(cx, failure);
                        if cx.cancel.asked() && !run.is_exposed() {
                            note_mark(run, Mark::CancelAsked);
                        }
                        log.quoted(step, &tail);
                        log.mark(What::StepFailed { step: step.to_owned(), ms: ms(since), reason, hint, tail })?;
                        note_mark(run, Mark::Failed(i));
                    }
                }
            }
            Next::Undo(i) => {
                let step = steps[i];
                // Sealing an environment or writing a fact may still be going on in the background. Its result no longer matters, but it must end
                // before the way back.
                (cx.before_seal, cx.before_end) = (Vec::new(), None);
                cx.root.make_room_for_the_way_back();
                log.mark(What::UndoStarted { step: step.to_owned() })?;
                note_mark(run, Mark::UndoStarted(i));
                if step == SWITCH {
                    has_turn.get_or_insert_with(|| turn.of_run());
                }
                let since = Instant::now();
                // A cancel does not stop the way back.
                let calm = Cancel::default();
                let mut back = StepContext { cancel: &calm, exposed: run.is_exposed(), ..take(cx) };
                back.at(step);
                log.something_stands();
                faults::within(step, ".undo");
                faults::at("started");
                let undone = named(step).map_or(Ok(()), |known| known.undo(&mut back));
                let StepContext { inspection, .. } = back;
                cx.inspection = inspection;
                faults::at("acted");
                log.broken()?;
                match undone {
                    Ok(()) => {
                        log.mark(What::Undone { step: step.to_owned(), ms: ms(since), stands: log.something_stands() })?;
                        note_mark(run, Mark::Undone(i));
                    }
                    Err(Failure { reason, .. }) => {
                        log.mark(What::UndoFailed { step: step.to_owned(), reason })?;
                        note_mark(run, Mark::UndoFailed(i));
                    }
                }
            }
            Next::End(outcome) => {
                faults::within("end", "");
                faults::at("started");
                if let Some(Err(err)) = cx.before_end.take().map(BackgroundTask::finish) {
                    log.mark(What::Warning { step: None, text: not_written_down(&err) })?;
                }
                let live = cx.root.live().unwrap_or_default();
                let outcome = hold_against_the_link(outcome, live.as_ref(), cx, log)?;
                ask_what_is_live(outcome, live.as_ref(), cx, log)?;
                let database = if matches!(outcome, Outcome::Live | Outcome::Done) { None } else { what_stands(cx) };
                log.mark(What::Ended { outcome: word_of(outcome), live: live.map(|live| live.to_string()), ms: ms(begun), database })?;
                note_mark(run, Mark::Ended);
                faults::at("acted");
                return Ok(());
            }
        }
    }
}

/// A release is live when the link names it. If the link was changed from outside after the switch, a person must look.
fn hold_against_the_link(
    outcome: Outcome,
    live: Option<&ReleaseName>,
    cx: &StepContext<'_>,
    log: &RunLog<'_>,
) -> Result<Outcome, JournalError> {
    let Some(target) = cx.target.as_ref().filter(|target| outcome == Outcome::Live && live != Some(&target.release)) else {
        return Ok(outcome);
    };
    let names = live.map_or("no release", |live| live.as_str());
    let text = format!("{} was switched to, and now the link names {names}: it was changed from outside", target.release);
    log.mark(What::Warning { step: None, text })?;
    Ok(Outcome::Stuck)
}

/// How long the live release may take to answer at the end of a run.
const TO_ANSWER: Duration = Duration::from_secs(10);

/// Asks the live release before the run claims that it still serves.
fn ask_what_is_live(outcome: Outcome, live: Option<&ReleaseName>, cx: &StepContext<'_>, log: &RunLog<'_>) -> Result<(), JournalError> {
    let claims = match (outcome, cx.act) {
        (
            Outcome::Failed | Outcome::RolledBack | Outcome::Cancelled,
            Act::Release { .. } | Act::Activate { .. } | Act::Restart | Act::Stage { .. },
        ) => true,
        (Outcome::Done, act) => matches!(act, Act::Stage { .. }),
        _ => false,
    };
    let Some(live) = live.filter(|_| claims) else { return Ok(()) };
    let health = health_of(cx.app, cx.root, live, Depth::web_within(TO_ANSWER));
    let Some(answers) = health.answers() else { return Ok(()) };
    log.mark(What::LiveAsked { release: live.to_string(), answers, text: health.fault(), before: cx.answered_before })
}

/// Moves the context's values into a second context.
fn take<'a>(cx: &mut StepContext<'a>) -> StepContext<'a> {
    StepContext {
        former: cx.former.clone(),
        before_former: cx.before_former.clone(),
        served: cx.served.clone(),
        target: cx.target.clone(),
        steadiness: Cell::new(Steadiness::Unseen),
        inspection: cx.inspection.take(),
        dump: cx.dump.clone(),
        restore: cx.restore.clone(),
        cut: None,
        // The way back uses the state on disk.
        tree: None,
        before_seal: Vec::new(),
        before_end: None,
        collected: None,
        former_commit: OnceCell::new(),
        since: OnceCell::new(),
        deferred: None,
        ..*cx
    }
}

fn run_step(step: &'static str, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
    let Some(known) = named(step) else { return Err(Failure::new(format!("this agent knows no step {step}"))) };
    let done = cx.hooks(When::Before).and_then(|()| {
        // A hook has a time limit of its own, apart from the step's.
        cx.at(step);
        known.run(cx).map_err(|failure| tell_of_its_time(failure, step, cx))
    });
    done.and_then(|did| cx.hooks(When::After).map(|()| did))
}

/// Adds the cause of a timeout: the step waited for something, or its limit is too short. The hint names both.
fn tell_of_its_time(failure: Failure, step: &str, cx: &StepContext<'_>) -> Failure {
    if failure.hint.is_some() || Instant::now() < cx.deadline {
        return failure;
    }
    failure.with_hint(format!("what it waited for did not come in time; where it only needs longer, raise {step} under [timeouts]"))
}

/// Drops all output, for work outside of any run.
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
