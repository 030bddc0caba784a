//! The only one who knows the layout of an app root.

use std::path::PathBuf;

/// `[limits]`: what a release's tree may be at most.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Limits {
    /// `files`
    pub files: u64,
    /// `bytes`
    pub bytes: u64,
}

/// `[shared]`: what every release has in common, as paths within `shared/` and within the release.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Shared {
    /// `dirs`
    pub dirs: Vec<PathBuf>,
    /// `files`
    pub files: Vec<PathBuf>,
}
