//! One byte to the master FIFO of uWSGI.

use std::path::PathBuf;
use std::time::Duration;

/// `[restart] strategy = "uwsgi-fifo"`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// The FIFO (`master-fifo` in uWSGI's options).
    pub fifo: PathBuf,
    /// What is written.
    pub how: How,
    /// The stats socket, where uWSGI has one: the best proof that every worker is new.
    pub stats: Option<PathBuf>,
    /// The unit that starts uWSGI when nobody listens, and after `Q`.
    pub unit: Option<String>,
    /// How long until every worker is new.
    pub timeout: Duration,
}

/// The byte (uWSGI's documentation, "The Master FIFO").
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum How {
    /// `r`: graceful reload.
    Graceful,
    /// `c`: chain reload; only with lazy-apps and pythonpath.
    Chain,
    /// `w`: reload of the workers; only with lazy-apps and pythonpath.
    Workers,
    /// `R`: brutal reload.
    Brutal,
    /// `Q` until nothing listens, then `unit` is started.
    Quit,
}
