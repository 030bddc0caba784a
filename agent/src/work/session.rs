//! The agent's end of a connection to a step runner.

use std::io;
use std::os::unix::net::UnixStream;
use std::path::{Path, PathBuf};
use std::time::{Duration, Instant};

use agent_model::names::AppName;

use super::wire::{Heard, JobRequest, Line, RunnerMessage, VERSION};
use super::{Failure, Job, JobAnswer, Order, Role};
use crate::database::DumpFile;
use crate::process::Watch;

/// Where the service manager listens for the runners.
const SOCKETS: &str = "/run/release-agent-steps";
/// How long a runner may take to greet: before it starts, the service manager ends everything of an earlier one.
pub(super) const GREETING: Duration = Duration::from_secs(120);
/// The same for an optional question, because a run may be using the runner.
pub(super) const SHORT_GREETING: Duration = Duration::from_secs(5);
/// How long a runner may take beyond a job's deadline to report it, because it ends its processes first.
const BEYOND: Duration = Duration::from_secs(20);
/// How long a cancel may go unnoticed.
const POLL: Duration = Duration::from_millis(50);

/// The socket of the runner for an app's role.
pub(crate) fn socket(app: &AppName, role: Role) -> PathBuf {
    Path::new(SOCKETS).join(format!("{app}.{}", role.word()))
}

/// A connection to a runner, for any number of jobs.
#[derive(Debug)]
pub(crate) struct Session {
    line: Line,
    unit: String,
    /// The user that it runs as.
    pub user: String,
}

impl Session {
    /// Connects, and waits until the runner greets. Then no process of an earlier runner works any more.
    ///
    /// # Errors
    /// [`Failure`] when there is none, or it does not greet.
    pub(crate) fn open(app: &AppName, role: Role, patience: Duration) -> Result<Self, Failure> {
        let socket = socket(app, role);
        let unit = format!("release-agent-{}@{app}.service", role.word());
        let stream = UnixStream::connect(&socket).map_err(|err| no_runner(app, &socket, &err))?;
        let mut line = Line::new(stream);
        let end = Instant::now() + patience;
        loop {
            match line.hear::<RunnerMessage>(POLL) {
                Ok(Heard::Said(RunnerMessage::Hello { version, app: of, role: what, user })) => {
                    if version != VERSION || of != app.as_str() || what != role {
                        return Err(Failure::new(format!("the step runner {unit} is one of another version, or of another app"))
                            .with_hint("restart the agent after an upgrade; look at the drop-ins of that unit (systemctl cat)"));
                    }
                    return Ok(Self { line, unit, user });
                }
                Ok(Heard::Said(RunnerMessage::Failed(failure))) => return Err(failure),
                Ok(Heard::Nothing) if Instant::now() < end => {}
                Ok(Heard::Nothing) => return Err(silent(&unit, "did not greet in time: it may be doing something else")),
                Ok(Heard::Gone) => return Err(silent(&unit, "ended before it greeted")),
                Ok(Heard::Said(_)) => return Err(silent(&unit, "did not greet")),
                Err(err) => return Err(silent(&unit, &format!("cannot be understood: {err}"))),
            }
        }
    }

    /// Carries out a job.
    ///
    /// # Errors
    /// [`Failure`] when it failed, was cancelled or took too long. After the latter two the session must be dropped, which ends the job's
    /// processes.
    pub(crate) fn ask(
        &mut self,
        order: &Order,
        job: &Job,
        into: Option<&DumpFile>,
        watch: &Watch<'_>,
        note: &dyn Fn(&str),
    ) -> Result<JobAnswer, Lost> {
        let asked = JobRequest::new(order, job, watch.left());
        self.line.say(&asked, into.map(|into| &*into.file)).map_err(|err| self.lost(&err.to_string()))?;
        loop {
            match self.line.hear::<RunnerMessage>(POLL) {
                Ok(Heard::Said(RunnerMessage::Output(stream, line))) => (watch.lines)(stream, &line),
                Ok(Heard::Said(RunnerMessage::Note(text))) => note(&text),
                Ok(Heard::Said(RunnerMessage::Answer(answer))) => return Ok(answer),
                Ok(Heard::Said(RunnerMessage::Failed(failure))) => return Err(Lost { failure, session: Still::There }),
                Ok(Heard::Said(RunnerMessage::Hello { .. })) => return Err(self.lost("greeted again")),
                Ok(Heard::Gone) => return Err(self.lost("ended in the middle of a job")),
                Err(err) => return Err(self.lost(&format!("cannot be understood: {err}"))),
                Ok(Heard::Nothing) => {}
            }
            if watch.cancel.asked() {
                return Err(Lost { failure: Failure::new("the run is cancelled"), session: Still::Gone });
            }
            if watch.deadline + BEYOND < Instant::now() {
                return Err(self.lost("did not end its job at the timeout"));
            }
        }
    }

    /// Whether the runner is still there: it ends when it could not end a job's leftover processes.
    pub(crate) fn is_open(&self) -> bool {
        self.line.is_open()
    }

    fn lost(&self, how: &str) -> Lost {
        Lost { failure: silent(&self.unit, how), session: Still::Gone }
    }
}

/// A job without a result.
#[derive(Debug)]
pub(crate) struct Lost {
    pub failure: Failure,
    /// Whether the session can be used again.
    pub session: Still,
}

/// Whether a session can be used again.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Still {
    There,
    Gone,
}

fn no_runner(app: &AppName, socket: &Path, err: &io::Error) -> Failure {
    let told = format!("the step runner of {app} cannot be asked at {}: {err}", socket.display());
    Failure::new(told).with_hint(match err.kind() {
        io::ErrorKind::NotFound => {
            format!(
                "as root, once: agentctl setup app {app}. It makes the app's users, directories and units, and says beforehand what it does"
            )
        }
        io::ErrorKind::PermissionDenied => "is it the agent of the package that runs here, with the user release-agent?".to_owned(),
        _ => format!("systemctl status 'release-agent-*@{app}.socket' says whether the service manager listens there"),
    })
}

fn silent(unit: &str, how: &str) -> Failure {
    Failure::new(format!("the step runner {unit} {how}")).with_hint(format!("journalctl -u {unit} has what it said last"))
}
