//! Any command.

use std::time::Duration;

/// `[restart] strategy = "command"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The argument vector, run in the live release's directory.
    pub run: Vec<String>,
    /// How long it may take.
    pub timeout: Duration,
}
