//! Why a release could not be brought before the visitors, or was not seen to serve.

use std::io;
use std::path::PathBuf;

use thiserror::Error;

use crate::http::CheckError;
use crate::process::ProgramError;
use crate::root::RootError;
use crate::systemd::SystemdError;

/// What went wrong, in words that name the act and the thing.
#[derive(Debug, Error)]
pub(crate) enum RestartError {
    /// Something in the set-up stands in the way; nothing was done yet.
    #[error("{what}")]
    SetUp {
        /// The sentence.
        what: String,
        /// What to do.
        hint: String,
    },
    /// A file or directory.
    #[error("cannot {act} {}", .path.display())]
    File {
        /// What was to be done.
        act: &'static str,
        /// To what.
        path: PathBuf,
        /// Why it could not.
        #[source]
        source: io::Error,
    },
    /// A program that was run or started.
    #[error("{act}")]
    Program {
        /// What was to be done.
        act: String,
        /// How the program ended.
        #[source]
        source: ProgramError,
    },
    /// A process that should serve is gone, or never came to serve.
    #[error("{what}")]
    Process {
        /// The sentence.
        what: String,
        /// What to do, where that is known.
        hint: Option<String>,
        /// Its last lines.
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
        /// At which moment.
        when: String,
        /// What came instead.
        #[source]
        source: Box<CheckError>,
        /// Further lines: the other checks, or the instance's log.
        tail: Vec<String>,
    },
    /// Somebody cancelled.
    #[error("{0} was cancelled")]
    Cancelled(String),
    /// The time for it is over.
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

    /// The last lines of what failed: the traceback is there.
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
