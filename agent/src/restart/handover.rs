//! One instance a release.

use std::path::PathBuf;
use std::time::Duration;

/// `[restart] strategy = "handover"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The name that nginx connects to. Instances bind `<socket>.<release>`; the name is a link to one of them, replaced by rename.
    pub socket: PathBuf,
    /// Who starts an instance.
    pub starter: Starter,
    /// How long an instance may take until it accepts connections.
    pub start_timeout: Duration,
    /// How long the former instance may take to finish its requests once it is no longer asked.
    pub drain: Duration,
    /// Whether the former instance is kept running for an instant way back.
    pub keep_warm: KeepWarm,
}

/// Who starts an instance.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Starter {
    /// systemd: a template unit such as `shop@.service`, started as `shop@<release>.service`.
    Unit(String),
    /// The agent itself: an argument vector, started in the release's directory. `{socket}`, `{release}` and `{dir}` in it are replaced.
    Command(Vec<String>),
}

/// Whether the former instance goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum KeepWarm {
    /// It is stopped when it has drained.
    No,
    /// It is kept until the next switch.
    Former,
}
