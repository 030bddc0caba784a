//! Errors about units.

use std::io;
use std::path::PathBuf;

use thiserror::Error;
use zbus::fdo;

/// What went wrong. The text names the action and the unit.
#[derive(Debug, Error)]
pub(crate) enum SystemdError {
    /// A problem in the set-up stands in the way; the agent has changed nothing yet.
    #[error("{what}")]
    SetUp {
        /// The full sentence of the message.
        what: String,
        /// What the operator should do.
        hint: String,
    },
    /// A file or socket.
    #[error("cannot {act} {}", .path.display())]
    File {
        /// The failed action, as a verb.
        act: &'static str,
        path: PathBuf,
        #[source]
        source: io::Error,
    },
    /// A unit failed.
    #[error("{unit} {what}")]
    Unit {
        unit: String,
        /// Its failure, readable after its name.
        what: String,
        /// What the operator should do, where that is known.
        hint: Option<String>,
        /// The unit's last log lines.
        tail: Vec<String>,
    },
    /// The connection to systemd failed.
    #[error("cannot {act} through D-Bus")]
    Bus {
        /// The failed action.
        act: String,
        #[source]
        source: Box<zbus::Error>,
    },
    /// Neither a helper nor systemd does this for the agent's user.
    #[error("the agent may not {act}: there is no helper for it, and systemd refuses it to the agent's user")]
    Denied {
        /// The failed action.
        act: String,
        /// What the operator should do.
        hint: String,
        /// systemd's own refusal.
        #[source]
        source: Box<zbus::Error>,
    },
    /// The run was cancelled; the text names the interrupted action.
    #[error("{0} was cancelled")]
    Cancelled(String),
    /// The time is over; the text names the interrupted action.
    #[error("the time was over while {0}")]
    TimedOut(String),
}

impl SystemdError {
    /// What the operator can do about it.
    pub(crate) fn hint(&self) -> Option<String> {
        match self {
            Self::SetUp { hint, .. } | Self::Denied { hint, .. } => Some(hint.clone()),
            Self::Unit { hint, .. } => hint.clone(),
            Self::Bus { source, .. } => bus_hint(source).map(str::to_owned),
            Self::File { .. } | Self::Cancelled(_) | Self::TimedOut(_) => None,
        }
    }

    /// The last log lines of the unit.
    pub(crate) fn tail(&self) -> &[String] {
        if let Self::Unit { tail, .. } = self { tail } else { &[] }
    }
}

/// Whether systemd, or polkit for it, refuses this to the agent's user.
pub(crate) fn is_denied(error: &zbus::Error) -> bool {
    match error {
        zbus::Error::MethodError(name, text, _) => {
            let is = |end: &str| name.strip_prefix("org.freedesktop.DBus.Error.") == Some(end);
            // A masked polkit allows nothing, and systemd reports its name instead of the refusal.
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
