//! A step runner: the service manager starts it for one connection, as the unit's user, and it ends with the connection.
//!
//! It reads the app's file itself, and runs no program that is not named there. When the agent closes its end, the runner ends its processes, and
//! itself.

use std::fs::File;
use std::io;
use std::os::fd::AsFd;
use std::os::unix::net::{UnixListener, UnixStream};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::{Duration, Instant};

use agent_model::names::AppName;
use agent_wire::event::Stream;
use nix::poll::{PollFd, PollFlags, PollTimeout, poll};
use nix::unistd::{User, geteuid};
use thiserror::Error;

use super::mask::{Lines, Mask};
use super::wire::{Heard, JobRequest, Line, RunnerMessage, VERSION};
use super::{Failure, JobAnswer, JobRunner, Role, Workspace};
use crate::database::DumpFile;
use crate::django::SchemaUnknown;
use crate::process::{Cancel, Watch, end_control_group};
use crate::root::AppRoot;
use crate::settings::{App, Complaint};

/// Why a runner ends without having done anything.
#[derive(Debug, Error)]
pub(crate) enum RunnerError {
    /// It was not started for a connection.
    #[error("a step runner is started by its socket unit, release-agent-{role}@{app}.socket, and not by hand")]
    NoSocket {
        /// Its role.
        role: &'static str,
        app: AppName,
    },
    /// The connection failed.
    #[error("cannot speak to the agent")]
    Line(#[from] io::Error),
}

/// The parameters of a runner.
#[derive(Debug)]
pub(crate) struct Runner {
    pub app: AppName,
    /// Its half of the jobs.
    pub role: Role,
    /// The configuration directory.
    pub config: PathBuf,
    /// Where the service manager put the files with secrets, each under its own name (systemd.exec(5), `CREDENTIALS_DIRECTORY`).
    pub credentials: Option<PathBuf>,
    /// The installers' caches (systemd.exec(5), `CACHE_DIRECTORY`).
    pub caches: PathBuf,
    /// For temporary files.
    pub scratch: PathBuf,
}

/// How long started processes may take to end, once the agent is gone.
const GOING: Duration = Duration::from_secs(15);

impl Runner {
    /// Serves the one connection that it was started for.
    ///
    /// # Errors
    /// [`RunnerError`] when there is none, or it breaks.
    pub(crate) fn serve(&self, listener: Option<UnixListener>) -> Result<(), RunnerError> {
        let listener = listener.ok_or_else(|| RunnerError::NoSocket { role: self.role.word(), app: self.app.clone() })?;
        listener.set_nonblocking(false)?;
        let (stream, _) = listener.accept()?;
        stream.set_nonblocking(false)?;
        let gone = stream.try_clone()?;
        let mut line = Line::new(stream);
        let user = User::from_uid(geteuid()).ok().flatten().map_or_else(|| geteuid().to_string(), |user| user.name);
        let settings = crate::settings::load_app(&self.config, &self.app);
        let hello = RunnerMessage::Hello { version: VERSION, app: self.app.to_string(), role: self.role, user };
        let app = match settings {
            Ok(app) => app,
            Err(complaints) => return Ok(line.say(&RunnerMessage::Failed(told("the app's file", &complaints)), NONE)?),
        };
        let secrets = match self.role {
            Role::Build => Vec::new(),
            Role::App => match app.read_secrets(&self.credentials_of(&app)) {
                Ok(secrets) => secrets,
                Err(complaints) => return Ok(line.say(&RunnerMessage::Failed(told("the secrets", &complaints)), NONE)?),
            },
        };
        line.say(&hello, NONE)?;
        let mask = Mask::of(secrets.iter().map(|(_, value)| value.as_str()));
        let env = app.variables(secrets);
        let root = AppRoot::at(&app.root);
        let workspace = Workspace::Own { caches: self.caches.clone(), scratch: self.scratch.clone() };
        let hidden = app.hidden.iter().cloned().chain([self.config.clone()]).collect();
        let runner = JobRunner::new(&app, &root, &env, hidden, workspace);
        let cancel = Cancel::default();
        let ended = Arc::new(AtomicBool::new(false));
        std::thread::spawn({
            let (cancel, ended) = (cancel.clone(), ended.clone());
            move || end_with(&gone, &cancel, &ended)
        });
        let served = match self.answer_all(&mut line, &runner, &mask, &cancel) {
            // The agent has gone, and reads no answer.
            Err(RunnerError::Line(err)) if err.kind() == io::ErrorKind::BrokenPipe => Ok(()),
            served => served,
        };
        ended.store(true, Ordering::Release);
        end_control_group();
        served
    }

    /// The path of each file with secrets: the passed credential, or the original path where the service manager passes none.
    fn credentials_of(&self, app: &App) -> Vec<PathBuf> {
        let handed = |at: usize, path: &Path| {
            let handed = self.credentials.as_ref().map(|dir| dir.join(format!("secrets-{at}")));
            handed.filter(|path| path.exists()).unwrap_or_else(|| path.to_owned())
        };
        app.secrets.iter().enumerate().map(|(at, path)| handed(at, path)).collect()
    }

    fn answer_all(&self, line: &mut Line, runner: &JobRunner<'_>, mask: &Mask, cancel: &Cancel) -> Result<(), RunnerError> {
        loop {
            match line.hear::<JobRequest>(Duration::from_secs(1)) {
                Ok(Heard::Said(asked)) => {
                    let into = line.descriptor();
                    let answered = self.answer(line, runner, mask, cancel, &asked, into.map(File::from));
                    // Processes that a job left running must not affect the next one.
                    let alone = end_control_group();
                    let told = match answered {
                        Ok(JobAnswer::Inspected(mut inspection)) => {
                            // The passwords belong to the app's own user.
                            inspection.databases.clear();
                            RunnerMessage::Answer(JobAnswer::Inspected(inspection))
                        }
                        Ok(answer) => RunnerMessage::Answer(answer),
                        Err(failure) => RunnerMessage::Failed(failure),
                    };
                    line.say(&covered(told, mask), NONE)?;
                    if !alone {
                        // The service manager then ends them together with this runner.
                        return Ok(());
                    }
                }
                Ok(Heard::Nothing) => {}
                Ok(Heard::Gone) => return Ok(()),
                // An unknown job gets this answer, and the runner ends.
                Err(err) if err.kind() == io::ErrorKind::InvalidData || err.kind() == io::ErrorKind::Other => {
                    let failure = Failure::new(format!("the step runner does not know what it was asked for: {err}"));
                    return Ok(line.say(&RunnerMessage::Failed(failure), NONE)?);
                }
                Err(err) => return Err(err.into()),
            }
        }
    }

    fn answer(
        &self,
        line: &Line,
        runner: &JobRunner<'_>,
        mask: &Mask,
        cancel: &Cancel,
        asked: &JobRequest,
        into: Option<File>,
    ) -> Result<JobAnswer, Failure> {
        let order = asked.order().map_err(|why| Failure::new(format!("the step runner does not know what it was asked for: {why}")))?;
        if asked.job.role(runner.app) != Some(self.role) {
            return Err(Failure::new(format!("{:?} is no job for the step runner {} of {}", asked.job, self.role.word(), self.app)));
        }
        let into = into.map(|file| DumpFile { file: Arc::new(file), path: None });
        let say = |told: &RunnerMessage| {
            // Another thread notices that the agent is gone.
            let _ = line.say(told, NONE);
        };
        let voice = Lines::new(mask.clone());
        let lines = |stream: Stream, text: &str| voice.take(stream, text, &mut |stream, text| say(&RunnerMessage::Output(stream, text)));
        let note = |text: &str| {
            voice.say_held(&mut |stream, text| say(&RunnerMessage::Output(stream, text)));
            say(&RunnerMessage::Note(mask.cover(text).into_owned()));
        };
        let deadline = Instant::now() + Duration::from_millis(asked.ms);
        let watch = Watch { marker: &order.marker, deadline, cancel, lines: &lines };
        let answer = runner.carry_out(&order, &asked.job, into.as_ref(), &watch, &note);
        voice.say_held(&mut |stream, text| say(&RunnerMessage::Output(stream, text)));
        answer
    }
}

const NONE: Option<&File> = None;

fn told(what: &str, complaints: &[Complaint]) -> Failure {
    let told: Vec<String> = complaints.iter().map(ToString::to_string).collect();
    Failure::new(format!("the step runner cannot use {what}: {}", told.join("; ")))
        .with_hint("put the file right; agentctl setup app hands new files with secrets to the runner")
}

fn covered(told: RunnerMessage, mask: &Mask) -> RunnerMessage {
    let cover = |text: String| mask.cover(&text).into_owned();
    match told {
        RunnerMessage::Failed(Failure { reason, hint, tail }) => {
            RunnerMessage::Failed(Failure { reason: cover(reason), hint: hint.map(cover), tail: mask.cover_lines(tail) })
        }
        RunnerMessage::Answer(JobAnswer::Warnings(warnings)) => {
            RunnerMessage::Answer(JobAnswer::Warnings(warnings.into_iter().map(cover).collect()))
        }
        RunnerMessage::Answer(JobAnswer::Inspected(mut inspection)) => {
            inspection.schema = inspection.schema.map_err(|not| SchemaUnknown { why: cover(not.why), hint: not.hint });
            RunnerMessage::Answer(JobAnswer::Inspected(inspection))
        }
        told => told,
    }
}

/// Waits until the other end hangs up, and then makes sure that everything ends soon.
fn end_with(stream: &UnixStream, cancel: &Cancel, ended: &AtomicBool) {
    loop {
        let mut polled = [PollFd::new(stream.as_fd(), PollFlags::empty())];
        let hung_up = poll(&mut polled, PollTimeout::from(500u16)).is_ok_and(|count| count > 0);
        if ended.load(Ordering::Acquire) {
            return;
        }
        if hung_up {
            break;
        }
    }
    cancel.ask();
    let end = Instant::now() + GOING;
    while Instant::now() < end {
        if ended.load(Ordering::Acquire) {
            return;
        }
        std::thread::sleep(Duration::from_millis(50));
    }
    // This also ends everything in the unit's control group.
    std::process::exit(1);
}
