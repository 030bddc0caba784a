//! Errors of a switch: the release could not be made live, or did not prove that it serves.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::http::CheckError;
use crate::process::ProgramError;
use crate::root::RootError;
use crate::systemd::SystemdError;

/// What went wrong. The text names the action and its object.
#[derive(Debug, Error)]
pub(crate) enum RestartError {
    /// A problem in the set-up stands in the way; the agent has changed nothing yet.
    #[error("{what}")]
    SetUp {
        /// The full sentence of the message.
        what: String,
        /// What the operator should do.
        hint: String,
    },
    #[error("cannot {act} {}", .path.display())]
    File {
        /// The failed action, as a verb: `point the socket's name`.
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A program that was run or started.
    #[error("{act}")]
    Program {
        /// The failed action, as a sentence: `the restart command failed for …`.
        act: String,
        #[source]
        source: ProgramError,
    },
    /// A serving process has ended, or never started to serve.
    #[error("{what}")]
    Process {
        /// The full sentence of the message.
        what: String,
        /// What the operator should do, where that is known.
        hint: Option<String>,
        /// The last lines of its log.
        tail: Vec<String>,
    },
    /// systemd, or a unit.
    #[error(transparent)]
    Systemd(SystemdError),
    /// A slot of the root.
    #[error(transparent)]
    Root(#[from] RootError),
    /// A health check did not pass.
    #[error("{when}")]
    Check {
        /// The phase in which it failed.
        when: String,
        /// The answer that came instead.
        #[source]
        source: Box<CheckError>,
        /// Further lines: the other checks, or the instance's log.
        tail: Vec<String>,
    },
    /// The run was cancelled; the text names the interrupted action.
    #[error("{0} was cancelled")]
    Cancelled(String),
    /// The run's time is over; the text names the interrupted action.
    #[error("the time was over while {0}")]
    TimedOut(String),
}

impl RestartError {
    /// What the operator can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::SetUp { hint, .. } => Some(hint.clone()),
            Self::Systemd(error) => error.hint(),
            Self::Root(error) => error.hint(),
            Self::Process { hint, .. } => hint.clone(),
            Self::Check { source, .. } => source.hint().map(str::to_owned),
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("give the user that the agent runs as the right to it".to_owned())
            }
            Self::TimedOut(_) => Some("raise the timeout of the step switch under [timeouts]".to_owned()),
            Self::File { .. } | Self::Program { .. } | Self::Cancelled(_) => None,
        }
    }

    /// The last lines of what failed, which hold the traceback.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Process { tail, .. } | Self::Check { tail, .. } => tail,
            Self::Systemd(error) => error.tail(),
            Self::Program { source, .. } => source.tail(),
            _ => &[],
        }
    }
}

impl From<SystemdError> for RestartError {
    fn from(error: SystemdError) -> Self {
        match error {
            SystemdError::SetUp { what, hint } => Self::SetUp { what, hint },
            SystemdError::File { act, path, source } => Self::File { act, path, source },
            SystemdError::Cancelled(what) => Self::Cancelled(what),
            SystemdError::TimedOut(what) => Self::TimedOut(what),
            error => Self::Systemd(error),
        }
    }
}
