//! The output of a run: its steps' messages, masked, in the journal.

use std::cell::{Cell, RefCell};
use std::collections::VecDeque;

use agent_model::names::{RefName, RunId};
use agent_wire::event::{Stream, What};

use super::journal::{Journal, JournalError, RunFlag};
use crate::steps::{EventSink, Target};
use crate::work::mask::{Lines, Mask};
use crate::work::{Failure, chain};

/// The most lines of output that are kept of one step; later ones are counted. The last lines of a failing tool are kept in any case.
const MOST_LINES: u64 = 10_000;

/// How many of a step's last lines are remembered: more than an error shows.
const REMEMBERED: usize = 200;

pub(super) struct RunLog<'a> {
    journal: &'a Journal,
    run: RunId,
    mask: Mask,
    lines: Cell<u64>,
    /// The output of tools, with its step.
    output: Lines,
    step: RefCell<String>,
    /// The last lines of the current step.
    last: RefCell<VecDeque<String>>,
    /// How many messages of the current step were lost on a full disk.
    lost: Cell<u64>,
    broken: RefCell<Option<JournalError>>,
    /// Whether the current step reported a change that stays.
    stands: Cell<bool>,
}

impl<'a> RunLog<'a> {
    pub(super) fn new(journal: &'a Journal, run: RunId, mask: Mask) -> Self {
        Self {
            journal,
            run,
            output: Lines::new(mask.clone()),
            mask,
            lines: Cell::new(0),
            step: RefCell::default(),
            last: RefCell::default(),
            lost: Cell::new(0),
            broken: RefCell::new(None),
            stands: Cell::new(false),
        }
    }

    /// Whether a change that stays was reported since the last call.
    pub(super) fn something_stands(&self) -> bool {
        self.stands.take()
    }

    /// Appends marks.
    pub(super) fn mark(&self, what: What) -> Result<(), JournalError> {
        self.say_held();
        self.journal.append(self.run, &[self.covered(what)])
    }

    /// Appends an event that a mark follows before anything is done.
    pub(super) fn head(&self, what: What) -> Result<(), JournalError> {
        self.say_held();
        self.journal.head(self.run, &self.covered(what))
    }

    /// Appends that a step begins, with the end of the one before it. Returns whether it may begin; only a cancel prevents it.
    pub(super) fn go_on(&self, ended: Option<What>, step: &str) -> Result<bool, JournalError> {
        self.say_held();
        let ended = ended.map(|ended| self.covered(ended));
        self.journal.go_on(self.run, ended.as_ref(), &What::StepStarted { step: step.to_owned() }, RunFlag::CancelAsked)
    }

    /// Writes how many lines of a step were left out, and resets the count.
    pub(super) fn end_of_step(&self, step: &str) {
        self.say_held();
        let left_out = self.lines.replace(0).saturating_sub(MOST_LINES);
        if left_out > 0 {
            self.note(step, &format!("{left_out} more lines of output are not kept"));
        }
        let unwritten = self.journal.settle(self.run).unwrap_or_else(|err| {
            self.broken.borrow_mut().get_or_insert(err);
            0
        });
        let lost = self.lost.replace(0) + unwritten;
        if lost > 0 {
            let text = format!("{lost} lines of output and remarks are lost: the disk of the agent's state directory is full");
            if let Err(err) = self.mark(What::Warning { step: Some(step.to_owned()), text }) {
                self.broken.borrow_mut().get_or_insert(err);
            }
        }
    }

    /// Keeps quoted lines that no program of the step has written: the log of a server that the step started is removed with its release.
    pub(super) fn quoted(&self, step: &str, tail: &[String]) {
        let is_new = *self.step.borrow() != step;
        let heard = |line: &String| !is_new && self.last.borrow().iter().any(|said| said.trim_end() == line.trim_end());
        if !tail.iter().any(heard) {
            tail.iter().for_each(|line| self.output(step, Stream::Stderr, line));
        }
    }

    /// The journal's error during a step, if any.
    pub(super) fn broken(&self) -> Result<(), JournalError> {
        self.broken.take().map_or(Ok(()), Err)
    }

    fn say_held(&self) {
        self.output.say_held(&mut |stream, line| self.say_line(stream, line));
    }

    fn say_line(&self, stream: Stream, line: String) {
        // The lines before and after it already mask it.
        let what = What::Output { step: self.step.borrow().clone(), stream, line };
        self.kept(|| self.journal.say(self.run, &what));
    }

    fn say(&self, what: What) {
        self.kept(|| self.journal.append_soon(self.run, &self.covered(what)));
    }

    fn kept(&self, keep: impl FnOnce() -> Result<(), JournalError>) {
        if self.broken.borrow().is_some() {
            return;
        }
        match keep() {
            Ok(()) => {}
            // A line of output must not fail the run.
            Err(JournalError::Full(_)) => self.lost.set(self.lost.get() + 1),
            Err(err) => *self.broken.borrow_mut() = Some(err),
        }
    }

    fn covered(&self, what: What) -> What {
        let cover = |text: String| self.mask.cover(&text).into_owned();
        match what {
            What::Note { step, text } => What::Note { step, text: cover(text) },
            What::Warning { step, text } => What::Warning { step, text: cover(text) },
            What::StepDone { step, ms, nothing } => What::StepDone { step, ms, nothing: nothing.map(cover) },
            What::StepFailed { step, ms, reason, hint, tail } => {
                What::StepFailed { step, ms, reason: cover(reason), hint: hint.map(cover), tail: self.mask.cover_lines(tail) }
            }
            What::UndoFailed { step, reason } => What::UndoFailed { step, reason: cover(reason) },
            What::LiveAsked { release, answers, text, before } => What::LiveAsked { release, answers, text: text.map(cover), before },
            What::Stands { text, restore } => What::Stands { text: cover(text), restore: restore.map(cover) },
            What::Ended { outcome, live, ms, database } => What::Ended { outcome, live, ms, database: database.map(cover) },
            What::Resolved { commit, reference, release, subject } => {
                What::Resolved { commit, reference, release, subject: subject.map(cover) }
            }
            other => other,
        }
    }
}

impl EventSink for RunLog<'_> {
    fn output(&self, step: &str, stream: Stream, line: &str) {
        self.lines.set(self.lines.get() + 1);
        if self.lines.get() > MOST_LINES {
            return self.say_held();
        }
        if *self.step.borrow() != step {
            step.clone_into(&mut self.step.borrow_mut());
            self.last.borrow_mut().clear();
        }
        let mut last = self.last.borrow_mut();
        if last.len() == REMEMBERED {
            last.pop_front();
        }
        last.push_back(line.to_owned());
        drop(last);
        self.output.take(stream, line, &mut |stream, line| self.say_line(stream, line));
    }

    fn note(&self, step: &str, text: &str) {
        self.say_held();
        // Notes are frequent, so they are written a moment later, like lines of output.
        let what = self.covered(What::Note { step: step.to_owned(), text: text.to_owned() });
        self.kept(|| self.journal.say(self.run, &what));
    }

    fn warn(&self, step: &str, text: &str) {
        self.say_held();
        self.say(What::Warning { step: Some(step.to_owned()), text: text.to_owned() });
    }

    fn stands(&self, text: &str, restore: Option<&str>) {
        self.stands.set(true);
        self.say(What::Stands { text: text.to_owned(), restore: restore.map(str::to_owned) });
    }

    fn stays(&self, step: &str, text: &str) {
        self.stands.set(true);
        self.note(step, text);
    }

    fn resolved(&self, target: &Target) -> Result<(), Failure> {
        let what = What::Resolved {
            commit: target.commit.to_string(),
            reference: target.reference.as_ref().map(RefName::to_string),
            release: target.release.to_string(),
            subject: target.subject.clone(),
        };
        // Nothing is made under this name before the mark of the next step.
        self.head(what).map_err(|err| Failure::new(chain(&err)))
    }

    fn expose(&self, step: &str) -> Result<(), Failure> {
        let exposed = What::Exposed { step: step.to_owned() };
        match self.journal.append_unless(self.run, &exposed, RunFlag::CancelAsked) {
            Ok(true) => Ok(()),
            Ok(false) => Err(Failure::new("the run is cancelled")),
            Err(err) => Err(Failure::new(chain(&err))),
        }
    }
}
