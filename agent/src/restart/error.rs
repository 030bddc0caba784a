//! Why a release could not be brought before the visitors, or was not seen to serve.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use zbus::fdo;

use crate::root::RootError;
use crate::tools::ProgramError;
use crate::tools::http::CheckError;

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
    /// A unit did not do what it should.
    #[error("{unit} {what}")]
    Unit {
        /// The unit.
        unit: String,
        /// What it did, readable after its name.
        what: String,
        /// What to do, where that is known.
        hint: Option<String>,
        /// Its last lines.
        tail: Vec<String>,
    },
    /// systemd could not be spoken to.
    #[error("cannot {act} through D-Bus")]
    Bus {
        /// What was to be done.
        act: String,
        /// Why it could not.
        #[source]
        source: Box<zbus::Error>,
    },
    /// Neither a helper nor systemd does this for the agent's user.
    #[error("the agent may not {act}: there is no helper for it, and systemd refuses it to the agent's user")]
    Denied {
        /// What was to be done.
        act: String,
        /// What to do.
        hint: String,
        /// How systemd said it.
        #[source]
        source: Box<zbus::Error>,
    },
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
            Self::SetUp { hint, .. } | Self::Denied { hint, .. } => Some(hint.clone()),
            Self::Root(error) => error.hint(),
            Self::Process { hint, .. } | Self::Unit { hint, .. } => hint.clone(),
            Self::Check { source, .. } => source.hint().map(str::to_owned),
            Self::File { source, .. } if source.kind() == io::ErrorKind::PermissionDenied => {
                Some("give the user that the agent runs as the right to it".to_owned())
            }
            Self::Bus { source, .. } => bus_hint(source).map(str::to_owned),
            Self::TimedOut(_) => Some("raise the timeout of the step switch under [timeouts]".to_owned()),
            Self::File { .. } | Self::Program { .. } | Self::Cancelled(_) => None,
        }
    }

    /// The last lines of what failed: the traceback is there.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Process { tail, .. } | Self::Unit { tail, .. } | Self::Check { tail, .. } => tail,
            Self::Program { source, .. } => source.tail(),
            _ => &[],
        }
    }
}

/// Whether systemd, or polkit for it, refuses this to the agent's user.
pub(super) fn is_denied(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::MethodError(name, text, _) => {
            let is = |end: &str| name.strip_prefix("org.freedesktop.DBus.Error.") == Some(end);
            // A polkit that is masked allows nothing, and systemd tells its name instead of the refusal.
            ["AccessDenied", "AuthFailed", "InteractiveAuthorizationRequired"].into_iter().any(is)
                || text.as_ref().is_some_and(|text| text.contains("polkit.service"))
        }
        zbus::Error::FDO(fdo) => {
            matches!(**fdo, fdo::Error::AccessDenied(_) | fdo::Error::AuthFailed(_) | fdo::Error::InteractiveAuthorizationRequired(_))
        }
        _ => false,
    }
}

fn bus_hint(error: &zbus::Error) -> Option<&'static str> {
    match error {
        zbus::Error::MethodError(name, _, _) if name.as_str() == "org.freedesktop.systemd1.NoSuchUnit" => {
            Some("install the unit, then systemctl daemon-reload")
        }
        zbus::Error::InputOutput(_) | zbus::Error::Address(_) | zbus::Error::Connection(..) | zbus::Error::Handshake(_) => {
            Some("is dbus running, and is its socket /run/dbus/system_bus_socket open to the agent's user?")
        }
        _ => None,
    }
}
