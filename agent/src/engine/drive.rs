//! The loop of a run: ask the model what next, write the answer down, do it, write down how it went. Forward, backward and after a crash it is this loop.

use std::time::{Duration, Instant};

use agent_model::names::ReleaseName;
use agent_model::request::Act;
use agent_model::run::{Mark, Next, Outcome, Run};
use agent_wire::event::What;

use super::journal::{Journal, JournalError, RunFlag, word_of};
use super::prepared::note_mark;
use super::run_log::RunLog;
use crate::faults;
use crate::process::Cancel;
use crate::restart::OfRun;
use crate::root::BackgroundTask;
use crate::settings::When;
use crate::steps::{Depth, Did, StepContext, StepScope, explain, health_of, named, not_written_down, what_stands};
use crate::work::Failure;

/// The step that starts and stops instances.
const SWITCH: &str = "switch";

/// How long the live release may take to answer at the end of a run.
const TO_ANSWER: Duration = Duration::from_secs(10);

/// A run on its way to its end.
pub(super) struct Drive<'a> {
    run: Run,
    steps: &'a [&'static str],
    cx: StepContext<'a>,
    log: &'a RunLog<'a>,
    journal: &'a Journal,
    /// The end of a step, which is written together with what comes next: nothing is done in between.
    step_ended: Option<What>,
    /// From the switch on the instances are this run's alone to start and stop.
    turn: Option<OfRun<'a>>,
}

impl<'a> Drive<'a> {
    pub(super) fn new(run: Run, steps: &'a [&'static str], cx: StepContext<'a>, log: &'a RunLog<'a>, journal: &'a Journal) -> Self {
        Self { run, steps, cx, log, journal, step_ended: None, turn: None }
    }

    /// Does what is next until the run has ended. An obstacle fails the first step.
    pub(super) fn drive(mut self, mut obstacle: Option<Failure>) -> Result<(), JournalError> {
        loop {
            // The API has written a cancel down already.
            if self.cx.scope.cancel.asked() && !self.run.goes_back() && !self.run.is_exposed() {
                note_mark(&mut self.run, Mark::CancelAsked);
            }
            let next = self.run.next();
            if !matches!(next, Next::Do(_))
                && let Some(ended) = self.step_ended.take()
            {
                self.log.head(ended)?;
            }
            match next {
                Next::Do(i) => self.do_step(i, &mut obstacle)?,
                Next::Undo(i) => self.undo_step(i)?,
                Next::End(outcome) => return self.finish(outcome),
            }
        }
    }

    fn do_step(&mut self, i: usize, obstacle: &mut Option<Failure>) -> Result<(), JournalError> {
        let step = self.steps[i];
        if !self.log.go_on(self.step_ended.take(), step)? {
            note_mark(&mut self.run, Mark::CancelAsked);
            return Ok(());
        }
        note_mark(&mut self.run, Mark::Started(i));
        self.take_turn(step);
        let since = Instant::now();
        self.cx.at(step);
        faults::within(step, "");
        faults::at("started");
        let did = obstacle.take().map_or_else(|| run_step(step, &mut self.cx), Err);
        faults::at("acted");
        self.log.end_of_step(step);
        self.log.broken()?;
        if self.journal.has(self.cx.run.id, RunFlag::Exposed)? && !self.run.is_exposed() {
            note_mark(&mut self.run, Mark::Exposed(i));
        }
        match did {
            Ok(did) => {
                let (mark, nothing) = match did {
                    Did::It => (Mark::Done(i), None),
                    Did::Nothing(why) => (Mark::Idle(i), Some(why)),
                };
                self.step_ended = Some(What::StepDone { step: step.to_owned(), ms: ms(since), nothing });
                note_mark(&mut self.run, mark);
            }
            Err(failure) => {
                let Failure { reason, hint, tail } = explain(&self.cx, failure);
                if self.cx.scope.cancel.asked() && !self.run.is_exposed() {
                    note_mark(&mut self.run, Mark::CancelAsked);
                }
                self.log.quoted(step, &tail);
                self.log.mark(What::StepFailed { step: step.to_owned(), ms: ms(since), reason, hint, tail })?;
                note_mark(&mut self.run, Mark::Failed(i));
            }
        }
        Ok(())
    }

    fn undo_step(&mut self, i: usize) -> Result<(), JournalError> {
        let (step, log) = (self.steps[i], self.log);
        // The sealing of an environment or the writing of a fact may be under way. How it ends no longer matters, but it must not run beside the undo.
        (self.cx.found.before_seal, self.cx.found.before_end) = (Vec::new(), None);
        self.cx.run.root.make_room_for_the_way_back();
        log.mark(What::UndoStarted { step: step.to_owned() })?;
        note_mark(&mut self.run, Mark::UndoStarted(i));
        self.take_turn(step);
        let since = Instant::now();
        // A cancel must not stop the way back.
        let calm = Cancel::default();
        let found = self.cx.found.for_undo(self.run.is_exposed());
        let mut back = StepContext { run: self.cx.run, scope: StepScope::new(self.cx.scope.events, &calm), found };
        back.at(step);
        log.something_stands();
        faults::within(step, ".undo");
        faults::at("started");
        let undone = named(step).map_or(Ok(()), |known| known.undo(&mut back));
        self.cx.found.inspection = back.found.inspection;
        faults::at("acted");
        log.broken()?;
        match undone {
            Ok(()) => {
                log.mark(What::Undone { step: step.to_owned(), ms: ms(since), stands: log.something_stands() })?;
                note_mark(&mut self.run, Mark::Undone(i));
            }
            Err(Failure { reason, .. }) => {
                log.mark(What::UndoFailed { step: step.to_owned(), reason })?;
                note_mark(&mut self.run, Mark::UndoFailed(i));
            }
        }
        Ok(())
    }

    fn finish(&mut self, outcome: Outcome) -> Result<(), JournalError> {
        let log = self.log;
        faults::within("end", "");
        faults::at("started");
        if let Some(Err(err)) = self.cx.found.before_end.take().map(BackgroundTask::finish) {
            log.mark(What::Warning { step: None, text: not_written_down(&err) })?;
        }
        let live = self.cx.run.root.live().unwrap_or_default();
        let outcome = self.hold_against_the_link(outcome, live.as_ref())?;
        self.ask_what_is_live(outcome, live.as_ref())?;
        let database = if matches!(outcome, Outcome::Live | Outcome::Done) { None } else { what_stands(&self.cx) };
        let live = live.map(|live| live.to_string());
        log.mark(What::Ended { outcome: word_of(outcome), live, ms: ms(self.cx.run.begun), database })?;
        note_mark(&mut self.run, Mark::Ended);
        faults::at("acted");
        Ok(())
    }

    fn take_turn(&mut self, step: &str) {
        if step == SWITCH {
            self.turn.get_or_insert_with(|| self.cx.run.turn.of_run());
        }
    }

    /// A release is live when the link names it. If someone set the link elsewhere after the switch, an operator must look.
    fn hold_against_the_link(&self, outcome: Outcome, live: Option<&ReleaseName>) -> Result<Outcome, JournalError> {
        let target = self.cx.found.target.as_ref();
        let Some(target) = target.filter(|target| outcome == Outcome::Live && live != Some(&target.release)) else {
            return Ok(outcome);
        };
        let names = live.map_or("no release", |live| live.as_str());
        let text = format!("{} was switched to, and now the link names {names}: it was changed from outside", target.release);
        self.log.mark(What::Warning { step: None, text })?;
        Ok(Outcome::Stuck)
    }

    /// The agent says that a release still serves only after asking it.
    fn ask_what_is_live(&self, outcome: Outcome, live: Option<&ReleaseName>) -> Result<(), JournalError> {
        let run = &self.cx.run;
        let claims = match (outcome, run.act) {
            (
                Outcome::Failed | Outcome::RolledBack | Outcome::Cancelled,
                Act::Release { .. } | Act::Activate { .. } | Act::Restart | Act::Stage { .. },
            ) => true,
            (Outcome::Done, act) => matches!(act, Act::Stage { .. }),
            _ => false,
        };
        let Some(live) = live.filter(|_| claims) else { return Ok(()) };
        let health = health_of(run.app, run.root, live, Depth::web_within(TO_ANSWER));
        let Some(answers) = health.answers() else { return Ok(()) };
        let before = self.cx.found.answered_before;
        self.log.mark(What::LiveAsked { release: live.to_string(), answers, text: health.fault(), before })
    }
}

/// The time since a moment, in whole milliseconds.
fn ms(since: Instant) -> u64 {
    u64::try_from(since.elapsed().as_millis()).unwrap_or(u64::MAX)
}

fn run_step(step: &'static str, cx: &mut StepContext<'_>) -> Result<Did, Failure> {
    let Some(known) = named(step) else { return Err(Failure::new(format!("this agent knows no step {step}"))) };
    let done = cx.hooks(When::Before).and_then(|()| {
        // A hook has a timeout of its own, and takes nothing of the step's.
        cx.at(step);
        known.run(cx).map_err(|failure| tell_of_its_time(failure, step, cx))
    });
    done.and_then(|did| cx.hooks(When::After).map(|()| did))
}

/// A step that ended at its timeout was waiting, or needs more time: the hint names both.
fn tell_of_its_time(failure: Failure, step: &str, cx: &StepContext<'_>) -> Failure {
    if failure.hint.is_some() || Instant::now() < cx.scope.deadline {
        return failure;
    }
    failure.with_hint(format!("what it waited for did not come in time; where it only needs longer, raise {step} under [timeouts]"))
}
