//! A signal to gunicorn's master.

use std::path::PathBuf;
use std::time::Duration;

/// `[restart] strategy = "gunicorn"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// gunicorn's pid file.
    pub pid_file: PathBuf,
    /// The unit that starts gunicorn when its master is gone: a release that cannot be loaded ends the master on HUP.
    pub unit: Option<String>,
    /// Which signal.
    pub how: How,
    /// How long until every worker is new.
    pub timeout: Duration,
}

/// Which way of gunicorn's "Signal Handling".
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// HUP: the master loads the app anew and replaces its workers.
    Hup,
    /// USR2: a new master beside the old one; the old one gets TERM once the new one serves.
    Usr2,
}
