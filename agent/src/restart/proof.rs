//! The checks as proof: sent until they pass, then repeated for as long as they must keep passing.

use std::cell::Cell;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_model::names::CommitId;

use super::{ReleaseRef, RestartContext, RestartError, ServingProof};
use crate::http::{Check, CheckAnswer, CheckError, Expected, Target, Wrong};
use crate::process::Process;

/// The most rounds of checks, regardless of the number of workers.
const MOST_ROUNDS: usize = 128;
/// The explanation of workers that are replaced.
const REPLACED: &str =
    "the server's log says why they end; where it replaces them after so many requests (max-requests), allow more than a few hundred";
/// How long after the end of a process its watchers notice it.
const HEARING: Duration = Duration::from_millis(200);

/// What to check, and which processes must stay alive meanwhile.
pub(super) struct Asking<'a> {
    pub context: &'a RestartContext<'a>,
    pub serving: ReleaseRef<'a>,
    /// The instance's own socket; `None` to check the public address.
    pub socket: Option<&'a Path>,
    /// Fails when the process that should serve is gone.
    pub alive: &'a dyn Fn() -> Result<(), RestartError>,
    /// The last log lines of the process that should serve.
    pub tail: &'a dyn Fn() -> Vec<String>,
    /// The reason to stop trying after such an answer, if there is one.
    pub hopeless: &'a dyn Fn(&Wrong) -> Option<String>,
    /// How many workers answer.
    pub workers: usize,
    /// The processes of those workers.
    pub crew: Crew<'a>,
    /// How long the process must stay alive, even without checks.
    pub watch_for: Duration,
}

/// The processes that answer.
pub(super) enum Crew<'a> {
    Unknown,
    /// All of them came with the release that should serve.
    New(&'a dyn Fn() -> Vec<Process>),
    /// Some may be about to end, and others to replace them.
    Changing(&'a dyn Fn() -> Vec<Process>),
}

/// Watches the processes of a new instance for those that end and are replaced: a server whose workers die every few seconds passes its checks.
struct Roll<'a> {
    now: &'a dyn Fn() -> Vec<Process>,
    known: Vec<Process>,
    looked: Instant,
}

/// The interval between two looks, because each one reads the whole process table.
const ROLL_CALL: Duration = Duration::from_millis(500);

impl<'a> Roll<'a> {
    fn of(crew: &Crew<'a>) -> Option<Self> {
        match crew {
            Crew::New(now) => Some(Self { now: *now, known: now(), looked: Instant::now() }),
            Crew::Unknown | Crew::Changing(_) => None,
        }
    }

    /// How many are gone, once others have replaced them. Without replacements a server merely has fewer workers, and some do that on purpose.
    fn replaced(&mut self) -> usize {
        let now = (self.now)();
        let gone = self.known.iter().filter(|process| !now.contains(process)).count();
        let known = self.known.len();
        let come: Vec<Process> = now.into_iter().filter(|process| !self.known.contains(process)).collect();
        self.known.extend(come);
        self.looked = Instant::now();
        if self.known.len() > known { gone } else { 0 }
    }
}

impl Asking<'_> {
    /// The whole proof: every check passes in its time, and then keeps passing, on at least twice as many new connections as there are workers.
    pub(super) fn prove(&self) -> Result<ServingProof, RestartError> {
        let mut proof = ServingProof::default();
        let questions = self.questions();
        let answers = self.until_passed(&questions)?;
        let (rounds, time) = self.while_stable(&questions)?;
        for (question, answer) in questions.iter().zip(answers) {
            let told = told(question, &answer);
            proof.notes.push(format!("{told}, then {rounds} times more in {:.1} s, each on a new connection", time.as_secs_f64()));
        }
        if questions.is_empty() {
            proof.warnings.push("no [[check]] is set: nobody asked whether the new release answers visitors".to_owned());
        } else if questions.iter().all(|question| question.check.release_header.is_none()) {
            proof
                .warnings
                .push("no [[check]] has a release_header: an answer with the right status may still come from another release".to_owned());
        }
        Ok(proof)
    }

    /// Every check passes in its time.
    pub(super) fn pass(&self) -> Result<ServingProof, RestartError> {
        self.until_passed(&self.questions()).map(|_| ServingProof::default())
    }

    /// Sends each check once, without a retry.
    pub(super) fn look(&self) -> Result<ServingProof, RestartError> {
        let mut proof = ServingProof::default();
        let mut failed = Vec::new();
        for question in self.questions() {
            match self.ask(&question) {
                Ok(answer) => {
                    proof.notes.push(told(&question, &answer));
                }
                Err(error) => failed.push(error),
            }
        }
        (self.alive)()?;
        if failed.is_empty() {
            if proof.notes.is_empty() {
                proof.warnings.push("no [[check]] is set: nothing was asked".to_owned());
            }
            return Ok(proof);
        }
        let first = failed.remove(0);
        let mut tail: Vec<String> = failed.iter().map(ToString::to_string).collect();
        tail.append(&mut proof.notes);
        if matches!(first.wrong, Wrong::TimedOut(_))
            && let Some(stopped) = self.stopped(&first)
        {
            return Err(stopped);
        }
        Err(RestartError::Check { when: format!("{} does not pass its checks", self.serving.name), source: Box::new(first), tail })
    }

    /// The error for processes that are all stopped (SIGSTOP), if they are.
    fn stopped(&self, error: &CheckError) -> Option<RestartError> {
        let crew = match &self.crew {
            Crew::New(crew) | Crew::Changing(crew) => crew(),
            Crew::Unknown => Vec::new(),
        };
        let stopped: Vec<String> = crew.iter().filter(|process| process.is_stopped()).map(|process| process.pid().to_string()).collect();
        (!stopped.is_empty()).then(|| RestartError::Process {
            what: format!("{error}: {} of its processes are stopped (SIGSTOP)", stopped.len()),
            hint: Some(format!("kill -CONT {}", stopped.join(" "))),
            tail: Vec::new(),
        })
    }

    fn questions(&self) -> Vec<Question> {
        let to = |check: &Check| self.socket.map_or_else(|| check.clone(), |socket| check.at(Target::Unix(socket.to_owned())));
        self.context.checks.iter().map(|check| Question { check: to(check), speaks: Cell::new(Speaks::Unknown) }).collect()
    }

    fn until_passed(&self, questions: &[Question]) -> Result<Vec<CheckAnswer>, RestartError> {
        let begun = Instant::now();
        let mut answers = Vec::new();
        for question in questions {
            let mut patience = Duration::from_millis(20);
            let answer = loop {
                (self.alive)()?;
                let error = match self.ask(question) {
                    Ok(answer) => break answer,
                    Err(error) => error,
                };
                // The cause of the process's end says more than the check that it left unanswered.
                (self.alive)()?;
                if let Some(when) = (self.hopeless)(&error.wrong) {
                    return Err(RestartError::Check { when, source: Box::new(error), tail: (self.tail)() });
                }
                self.go_on("waiting for the checks to pass")?;
                if begun.elapsed() >= question.check.within || matches!(error.wrong, Wrong::Unaskable(_)) {
                    let seconds = question.check.within.as_secs_f64();
                    let when = format!("{} did not pass its check within {seconds:.0} s", self.serving.name);
                    return Err(RestartError::Check { when, source: Box::new(error), tail: (self.tail)() });
                }
                self.context.watch.pause(patience);
                patience = (patience * 2).min(Duration::from_millis(250));
            };
            answers.push(answer);
        }
        Ok(answers)
    }

    fn while_stable(&self, questions: &[Question]) -> Result<(usize, Duration), RestartError> {
        let stable_for = questions.iter().map(|question| question.check.stable_for).max().unwrap_or_default().max(self.watch_for);
        let least = if questions.is_empty() { 0 } else { (2 * self.workers).clamp(2, MOST_ROUNDS) };
        let step = u32::try_from(least).ok().and_then(|least| stable_for.checked_div(least)).unwrap_or(stable_for);
        // Without a time to keep passing, the checks follow without a pause, because a caller waits.
        let least_step = if stable_for.is_zero() { Duration::ZERO } else { Duration::from_millis(10) };
        let step = step.clamp(least_step, Duration::from_millis(100));
        // Without a time to keep passing, no worker can be replaced in it.
        let mut roll = if stable_for.is_zero() { None } else { Roll::of(&self.crew) };
        let begun = Instant::now();
        let mut rounds = 0;
        while begun.elapsed() < stable_for || rounds < least {
            (self.alive)()?;
            if roll.as_ref().is_some_and(|roll| roll.looked.elapsed() >= ROLL_CALL) {
                self.none_replaced(&mut roll)?;
            }
            for question in questions {
                if let Err(error) = self.ask(question) {
                    // The watchers notice the end of a process a moment later than the check that it cut off.
                    self.context.watch.pause(HEARING);
                    (self.alive)()?;
                    self.go_on("watching whether the checks go on passing")?;
                    let after = begun.elapsed().as_secs_f64();
                    let when = format!("{} passed its checks, but no longer after {after:.1} s", self.serving.name);
                    return Err(RestartError::Check { when, source: Box::new(error), tail: (self.tail)() });
                }
            }
            rounds += 1;
            self.context.watch.pause(step);
            self.go_on("watching whether the release goes on serving")?;
        }
        (self.alive)()?;
        self.none_replaced(&mut roll)?;
        Ok((rounds, begun.elapsed()))
    }

    /// Fails when workers ended and others replaced them.
    fn none_replaced(&self, roll: &mut Option<Roll<'_>>) -> Result<(), RestartError> {
        match roll.as_mut().map_or(0, Roll::replaced) {
            0 => Ok(()),
            gone => Err(RestartError::Process {
                what: format!("{gone} worker(s) of {} ended and were replaced while they were watched", self.serving.name),
                hint: Some(REPLACED.to_owned()),
                tail: (self.tail)(),
            }),
        }
    }

    fn go_on(&self, during: &str) -> Result<(), RestartError> {
        go_on(self.context, during)
    }

    fn ask(&self, question: &Question) -> Result<CheckAnswer, CheckError> {
        let expected = Expected { name: self.serving.name, commit: self.serving.commit };
        question.ask(expected, self.context)
    }
}

/// An answer as text; it shortens a commit to as many digits as the release's name has.
fn told(question: &Question, answer: &CheckAnswer) -> String {
    let from = answer.release.as_deref().map_or_else(String::new, |release| match release.parse::<CommitId>() {
        Ok(commit) => format!(" from {}", commit.short()),
        Err(_) => format!(" from {release}"),
    });
    format!("{} answered {}{from} after {} ms", question.check.shown(), answer.status, answer.took.as_millis())
}

/// Whether there is time left and the run is not cancelled.
pub(super) fn go_on(context: &RestartContext<'_>, during: &str) -> Result<(), RestartError> {
    if context.watch.cancel.asked() {
        Err(RestartError::Cancelled(during.to_owned()))
    } else if context.watch.left().is_zero() {
        Err(RestartError::TimedOut(during.to_owned()))
    } else {
        Ok(())
    }
}

/// The protocol of a Unix socket, as a test request shows it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Speaks {
    Unknown,
    Http,
    Uwsgi,
}

struct Question {
    check: Check,
    speaks: Cell<Speaks>,
}

impl Question {
    fn ask(&self, expected: Expected<'_>, context: &RestartContext<'_>) -> Result<CheckAnswer, CheckError> {
        let Target::Unix(socket) = &self.check.target else { return self.check.ask(Some(expected), context.watch) };
        let over_uwsgi = || self.check.at(Target::Uwsgi(socket.clone())).ask(Some(expected), context.watch);
        if self.speaks.get() == Speaks::Uwsgi {
            return over_uwsgi();
        }
        let answer = self.check.ask(Some(expected), context.watch);
        if self.speaks.get() == Speaks::Http {
            return answer;
        }
        // uWSGI's `socket`, for nginx's uwsgi_pass, reads HTTP as an overlong block. It then closes the connection or waits for more.
        match answer {
            Err(error) if matches!(error.wrong, Wrong::CutOff | Wrong::NotHttp(_) | Wrong::TimedOut(_)) => {
                let other = over_uwsgi();
                if other.as_ref().is_ok_and(|_| true) || other.as_ref().is_err_and(|other| was_answered(&other.wrong)) {
                    self.speaks.set(Speaks::Uwsgi);
                    other
                } else {
                    Err(error)
                }
            }
            answer => {
                if answer.as_ref().is_ok_and(|_| true) || answer.as_ref().is_err_and(|error| was_answered(&error.wrong)) {
                    self.speaks.set(Speaks::Http);
                }
                answer
            }
        }
    }
}

fn was_answered(wrong: &Wrong) -> bool {
    matches!(wrong, Wrong::Status { .. } | Wrong::Lacks { .. } | Wrong::Header { .. } | Wrong::Release { .. } | Wrong::Nameless { .. })
}

/// The first process that works in the directory of a release other than the one that should serve. A process with an unrelated working directory
/// proves nothing.
pub(super) fn elsewhere(processes: &[Process], serving: ReleaseRef<'_>) -> Option<(Process, PathBuf)> {
    let releases = serving.dir.parent()?;
    let wrong = |process: &Process| process.cwd().filter(|cwd| cwd.starts_with(releases) && !cwd.starts_with(serving.dir));
    processes.iter().find_map(|process| wrong(process).map(|cwd| (*process, cwd)))
}

/// The last lines of a file, from `offset` on.
pub(super) fn last_lines(path: &Path, offset: u64) -> Vec<String> {
    use std::io::{Read, Seek, SeekFrom};
    const MOST_BYTES: u64 = 32 * 1024;
    // Python prints the cause first and then every caller; gunicorn does so three times.
    const MOST_LINES: usize = 80;
    let read = || -> std::io::Result<Vec<u8>> {
        let mut file = std::fs::File::open(path)?;
        let length = file.metadata()?.len();
        file.seek(SeekFrom::Start(offset.min(length).max(length.saturating_sub(MOST_BYTES))))?;
        let mut bytes = Vec::new();
        file.take(MOST_BYTES).read_to_end(&mut bytes)?;
        Ok(bytes)
    };
    // An unreadable log only costs the error its last lines.
    let bytes = read().unwrap_or_default();
    let text = String::from_utf8_lossy(&bytes);
    let clean = |line: &str| line.chars().filter(|c| *c == '\t' || !c.is_control()).take(1000).collect::<String>();
    let lines: Vec<String> = text.lines().map(clean).filter(|line| !line.trim().is_empty()).collect();
    let first = lines.len().saturating_sub(MOST_LINES);
    // A server's start-up messages are noise before a Python traceback.
    let is_beginning = |line: &String| line.starts_with("Traceback (most recent call last)");
    let tracebacks: Vec<usize> = lines.iter().enumerate().filter(|(_, line)| is_beginning(line)).map(|(at, _)| at).collect();
    let first = match tracebacks.as_slice() {
        [only] => first.max(*only),
        _ => first,
    };
    lines[first..].to_vec()
}

/// The file to which a process writes its errors, if they go to a file.
pub(super) fn log_of(process: &Process) -> Option<PathBuf> {
    process.descriptor(2).filter(|path| path.is_absolute() && path.is_file())
}
