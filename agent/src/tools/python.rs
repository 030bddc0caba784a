//! Virtual environments.

use std::path::PathBuf;

/// `[python]`.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Settings {
    /// `interpreter`: a name in the agent's PATH, or a path.
    pub interpreter: String,
    /// `installer`
    pub installer: Installer,
    /// `requirements`: files within the release; empty means that they are found.
    pub requirements: Vec<PathBuf>,
    /// `packages`: what is installed beside what the project asks for.
    pub packages: Vec<String>,
    /// `install`: commands instead of all that.
    pub install: Vec<Vec<String>>,
}

/// Which program installs.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Installer {
    /// uv when it is there, else pip.
    Auto,
    /// uv.
    Uv,
    /// pip.
    Pip,
}
