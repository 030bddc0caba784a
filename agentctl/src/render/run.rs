//! A run, shown event by event: every event gives permanent lines, and updates the current activity.

use agent_wire::event::{Event, OutcomeWord, PlannedStep, Stream, What};
use chrono::{DateTime, Utc};

use super::ending::{self, Cause, LiveAsked, RunFacts};
use super::words::{BAD, BOLD, DIM, GOOD, WARN, action, clean_line, indented, painted, short, short_ref, shortened, took};

/// The width of a step's line without a terminal.
const COLUMNS: usize = 100;

/// The width of the column of step names.
const NAME: usize = 14;

/// The level of detail.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
pub(crate) enum Detail {
    /// A line for each step, warnings, and the last output of a step that fails.
    Usual,
    /// Every sentence of a step too: its findings, and the proof that the release serves.
    Sentences,
    /// All output of programs too.
    Full,
}

/// Whether the user knows the run's request.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Opening {
    /// They have just sent it.
    Told,
    /// The output must show it.
    ToTell,
}

/// The output of an event.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Rendered {
    /// Permanent lines.
    pub(crate) lines: Vec<String>,
    /// The last sentence, when the run is over.
    pub(crate) ending: Option<(OutcomeWord, Vec<String>)>,
}

/// The current activity.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Now {
    step: String,
    direction: Direction,
    pub(crate) since: DateTime<Utc>,
    /// The last line of a tool's output.
    pub(crate) line: Option<String>,
    /// Done and total.
    pub(crate) progress: Option<(u64, u64)>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Direction {
    Forward,
    Backward,
}

impl Now {
    fn of(event: &Event, step: &str, direction: Direction) -> Self {
        Self { step: clean_line(step), direction, since: event.at, line: None, progress: None }
    }

    pub(crate) fn title(&self) -> String {
        match self.direction {
            Direction::Forward => self.step.clone(),
            Direction::Backward => format!("↩ {}", self.step),
        }
    }
}

/// The state of showing a run.
#[derive(Debug)]
pub(crate) struct Story {
    detail: Detail,
    opening: Opening,
    known: RunFacts,
    plan: Vec<PlannedStep>,
    /// How many lines of the plan have been shown.
    told: usize,
    now: Option<Now>,
    /// The first sentence of the current step, for the step's line.
    gist: Option<String>,
    /// The maximum width of a step's line.
    width: Option<usize>,
}

impl Story {
    /// The state before the run's first event; `called` is the command line that reaches its agent again.
    pub(crate) fn new(run: u64, detail: Detail, opening: Opening, called: &str) -> Self {
        let known = RunFacts { run, called: called.to_owned(), ..RunFacts::default() };
        Self { detail, opening, known, plan: Vec::new(), told: 0, now: None, gist: None, width: None }
    }

    /// The same story for a terminal of this width: a step's line is cut there, unless more than one line per step is wanted. A CI log has no
    /// terminal, and long lines are hard to read there, too.
    pub(crate) fn fit(self, width: Option<u16>) -> Self {
        let width = width.map_or(COLUMNS, usize::from);
        Self { width: Some(width).filter(|_| self.detail == Detail::Usual), ..self }
    }

    pub(crate) fn now(&self) -> Option<&Now> {
        self.now.as_ref()
    }

    /// Applies an event, and returns its output.
    pub(crate) fn tell(&mut self, event: &Event) -> Rendered {
        let mut told = Rendered::default();
        self.lines(event, &mut told.lines);
        if let What::Ended { outcome, live, ms, database } = &event.what {
            self.known.database.clone_from(database);
            let mut sentence = ending::sentence(&self.known, *outcome, live.as_deref(), *ms);
            // A reader of the full output needs no advice on how to read it.
            if self.opening == Opening::ToTell && *outcome != OutcomeWord::Stuck {
                sentence.truncate(1);
            }
            told.ending = Some((*outcome, sentence));
        }
        told
    }

    fn lines(&mut self, event: &Event, lines: &mut Vec<String>) {
        match &event.what {
            What::Accepted { app, action: word, of, caller } => {
                if self.opening == Opening::ToTell {
                    let what = action(word, of.as_deref(), Some(app));
                    let since = event.at.format("%Y-%m-%d %H:%M:%S UTC");
                    lines.push(painted(BOLD, format!("run {}: {what}, by {}, {since}", event.run, clean_line(caller))));
                }
                self.known.app = Some(app.clone());
                self.known.action = word.clone();
                self.known.of = of.clone();
            }
            What::Waits { behind } => lines.push(format!("· waits behind run {behind}")),
            What::Planned { steps, .. } => {
                self.plan = steps.clone();
                self.told = 0;
            }
            What::Resolved { commit, reference, release, subject } => {
                let subject = subject.as_deref().map(|subject| format!(" {}", clean_line(subject))).unwrap_or_default();
                let reference = reference.as_deref().map(|name| format!(", reached by {}", short_ref(name))).unwrap_or_default();
                lines.push(format!("· commit {}{subject}{}", painted(BOLD, short(commit)), painted(DIM, reference)));
                if self.detail >= Detail::Sentences {
                    lines.push(format!("· release {}", painted(BOLD, clean_line(release))));
                }
                self.known.release = Some(release.clone());
            }
            What::StepStarted { step } => {
                self.skips_before(Some(step), lines);
                self.now = Some(Now::of(event, step, Direction::Forward));
                self.gist = None;
            }
            What::Output { step, stream, line } => self.output(step, *stream, line, lines),
            What::Note { step, text } => self.note(step, text, lines),
            What::Warning { step, text } => {
                self.known.warnings += 1;
                let step = step.as_deref().map(|step| format!("{}: ", clean_line(step))).unwrap_or_default();
                lines.push(painted(WARN, format!("! {step}{}", indented(text, 2))));
            }
            What::Progress { step, done, total } => {
                if let Some(now) = self.now.as_mut().filter(|now| now.step == *step) {
                    now.progress = Some((*done, *total));
                }
            }
            What::Exposed { .. } => {
                // Earlier findings do not belong in the step's line, because the last line contains the proof.
                self.gist = Some(String::new());
                if self.detail == Detail::Full {
                    lines.push(painted(DIM, "· from here on visitors may meet the new release"));
                }
            }
            What::StepDone { step, ms, nothing } => {
                self.now = None;
                lines.push(match nothing {
                    Some(reason) => self.skipped(step, reason),
                    None => {
                        let line = format!("{} {} {:>7}", painted(GOOD, "✓"), padded(step), took(*ms));
                        let gist = self.gist.take().map(|gist| self.cut(NAME + 12, &gist)).filter(|gist| !gist.is_empty());
                        gist.map_or_else(|| line.clone(), |gist| format!("{line}  {}", painted(DIM, gist)))
                    }
                });
            }
            What::StepFailed { step, ms, reason, hint, tail } => {
                self.now = None;
                let (glyph, after) = self.failure_of(step, ending::why(reason, tail));
                let reason = indented(reason, NAME + 12);
                lines.push(format!("{glyph} {} {:>7}  {reason}{after}", padded(step), took(*ms)));
                // The full output already contains these lines.
                if self.detail < Detail::Full {
                    lines.extend(tail.iter().map(|line| format!("  {} {}", painted(DIM, "│"), clean_line(line))));
                }
                if let Some(hint) = hint {
                    lines.push(format!("  {} {}", painted(BOLD, "hint:"), indented(hint, 2)));
                }
            }
            What::UndoStarted { step } => self.now = Some(Now::of(event, step, Direction::Backward)),
            What::Undone { step, ms, stands } => {
                self.now = None;
                let what = if *stands { "not taken back" } else { "taken back" };
                lines.push(format!("{} {} {what} ({})", painted(WARN, "↩"), padded(step), took(*ms)));
            }
            What::UndoFailed { step, reason } => {
                self.now = None;
                let reason = indented(reason, NAME + 3);
                lines.push(format!("{} {} could not be taken back: {reason}", painted(BAD, "✗"), padded(step)));
            }
            What::Stands { text, restore } => {
                lines.push(painted(WARN, format!("! stands: {}", indented(text, 2))));
                if let Some(restore) = restore {
                    lines.push(format!("  restore with, as root: {}", clean_line(restore)));
                }
            }
            What::LiveAsked { release, answers, text, before } => {
                if self.detail == Detail::Full {
                    let how = if *answers {
                        "answers".to_owned()
                    } else {
                        format!("does not answer: {}", clean_line(text.as_deref().unwrap_or("?")))
                    };
                    lines.push(painted(DIM, format!("· asked at the end, {} {how}", clean_line(release))));
                }
                self.known.asked = Some(LiveAsked { answers: *answers, text: text.clone(), before: *before });
            }
            What::CancelAsked { caller } => {
                lines.push(painted(WARN, format!("! {} asks for it to be stopped and taken back", clean_line(caller))))
            }
            What::Stopped => {
                let step = self.now.take().map(|now| now.step);
                lines.push(painted(WARN, "! the agent stopped in the middle of this run, and has started again"));
                self.known.cause.get_or_insert(Cause::Stopped(step));
            }
            What::Ended { outcome, .. } => {
                self.now = None;
                if matches!(outcome, OutcomeWord::Live | OutcomeWord::Done) {
                    self.skips_before(None, lines);
                }
            }
            What::Unknown => {
                if self.detail == Detail::Full {
                    lines.push(painted(DIM, "· (something that only a newer agentctl can tell)"));
                }
            }
        }
    }

    fn output(&mut self, step: &str, stream: Stream, line: &str, lines: &mut Vec<String>) {
        let line = clean_line(line);
        if self.detail == Detail::Full {
            let bar = match stream {
                Stream::Stdout => "│",
                Stream::Stderr => "┆",
            };
            lines.push(format!("  {} {line}", painted(DIM, bar)));
        }
        if let Some(now) = self.now.as_mut().filter(|now| now.step == step && !line.trim().is_empty()) {
            now.line = Some(line);
        }
    }

    /// The first sentence of a step goes to its line where the step has only one.
    fn note(&mut self, step: &str, text: &str, lines: &mut Vec<String>) {
        if self.detail >= Detail::Sentences {
            lines.push(painted(DIM, format!("· {} {}", padded(step), indented(text, NAME + 3))));
        } else if self.now.as_ref().is_some_and(|now| now.step == step) {
            self.gist.get_or_insert_with(|| clean_line(text));
        }
    }

    /// Text that begins at a column, cut at the end of the terminal.
    fn cut(&self, column: usize, text: &str) -> String {
        let text = clean_line(text.trim_end());
        match self.width {
            Some(width) => shortened(&text, width.saturating_sub(column)),
            None => text,
        }
    }

    fn skipped(&self, step: &str, reason: &str) -> String {
        let reason = if self.detail == Detail::Usual { self.cut(NAME + 12, reason) } else { indented(reason, NAME + 3) };
        painted(DIM, format!("– {} skipped: {reason}", padded(step)))
    }

    /// Records a failed step, and returns its mark and the meaning of its failure.
    fn failure_of(&mut self, step: &str, why: Option<String>) -> (String, &'static str) {
        if self.plan.iter().any(|planned| planned.step == step && planned.warn) {
            self.known.warnings += 1;
            (painted(WARN, "!"), " (the run goes on without it)")
        } else {
            self.known.cause.get_or_insert_with(|| Cause::Step { step: step.to_owned(), why });
            (painted(BAD, "✗"), "")
        }
    }

    /// Shows the skipped steps before this one, or all that are left.
    fn skips_before(&mut self, step: Option<&str>, lines: &mut Vec<String>) {
        let end = match step {
            Some(step) => match self.plan.iter().skip(self.told).position(|planned| planned.step == step) {
                Some(offset) => self.told + offset,
                None => return,
            },
            None => self.plan.len(),
        };
        for planned in &self.plan[self.told..end] {
            if let Some(reason) = &planned.skipped {
                lines.push(self.skipped(&planned.step, reason));
            }
        }
        self.told = end;
    }
}

fn padded(step: &str) -> String {
    format!("{:NAME$}", clean_line(step))
}
