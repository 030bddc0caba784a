//! Health checks: one HTTP request over TCP or a Unix socket, and what the answer must be.

use std::path::PathBuf;
use std::time::Duration;

/// A health check, as `[[check]]` sets it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Check {
    /// Where to ask.
    pub target: Target,
    /// The path and query, beginning with a slash.
    pub path: String,
    /// Headers of the request; `Host` is among them where it is set.
    pub headers: Vec<(String, String)>,
    /// The status that the answer must have.
    pub status: u16,
    /// What the body must contain.
    pub contains: Option<String>,
    /// What the header `Location` must be, for a check that expects a redirect.
    pub location: Option<String>,
    /// Headers that the answer must have, with their values.
    pub expect_headers: Vec<(String, String)>,
    /// A header of the answer that must name the release: its name, its commit, or the commit's first twelve digits.
    pub release_header: Option<String>,
    /// How long one answer may take.
    pub timeout: Duration,
    /// How long the check is tried until it passes for the first time.
    pub within: Duration,
    /// How long it must go on passing.
    pub stable_for: Duration,
}

/// Where a check asks.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Target {
    /// A host and a port.
    Tcp(String, u16),
    /// A Unix socket that speaks HTTP.
    Unix(PathBuf),
}

/// Why a check did not pass.
#[derive(Debug, thiserror::Error)]
pub(crate) enum CheckError {}

impl CheckError {
    /// What the operator can do about it.
    pub(crate) fn hint(&self) -> Option<&'static str> {
        None
    }
}
