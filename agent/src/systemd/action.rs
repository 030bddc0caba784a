//! The jobs on units, and the names of their helpers. The packages ship units of these names.

use std::path::{Path, PathBuf};

/// The directory of the helpers' sockets. Only root can put one there.
pub(crate) const HELPERS: &str = "/run/release-agent-helpers";

/// A job on a unit: a method of `org.freedesktop.systemd1.Manager`.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum UnitAction {
    Start,
    Stop,
    Restart,
    ReloadOrRestart,
}

impl UnitAction {
    pub(crate) fn method(self) -> &'static str {
        match self {
            Self::Start => "StartUnit",
            Self::Stop => "StopUnit",
            Self::Restart => "RestartUnit",
            Self::ReloadOrRestart => "ReloadOrRestartUnit",
        }
    }

    /// The word in messages, and in the names of helpers.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Start => "start",
            Self::Stop => "stop",
            Self::Restart => "restart",
            Self::ReloadOrRestart => "reload",
        }
    }

    /// The socket of the helper that does this to a unit.
    pub(crate) fn helper(self, unit: &str) -> PathBuf {
        Path::new(HELPERS).join(format!("{}.{unit}", self.word()))
    }

    /// The unit of that socket. To enable it is to grant the agent the action.
    pub(crate) fn helper_socket(self, unit: &str) -> String {
        format!("release-agent-{}@{unit}.socket", self.word())
    }

    pub(crate) fn helper_service(self, unit: &str) -> String {
        format!("release-agent-{}@{unit}.service", self.word())
    }

    /// Whether there is a helper that does this to a unit.
    pub(crate) fn has_helper(self, unit: &str) -> bool {
        self.helper(unit).exists()
    }
}
