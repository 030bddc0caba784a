//! Virtual environments: what a release asks for ([`wanted`]), the key that tells whether an environment for it exists already
//! ([`Wanted::key`]), and its building and proof ([`Wanted::build`]).
//!
//! What a requirement file says is never printed, except the names of packages and of index hosts: a file may turn out to be something else.

mod advice;
mod build;
mod bytecode;
mod error;
mod host;
mod key;
mod answer_cache;
mod own;
mod pip;
mod project;
mod requirements;
mod vcs;

use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;

use crate::process::Watch;
use crate::process::sandbox::Bounds;
pub(crate) use bytecode::{compile, reuse_bytecode};
pub(crate) use error::PythonError;
use host::{Host, Interpreter, Tool, Whose};
use key::Key;
use project::EnvironmentSource;
use requirements::{Reading, Tree, package_of};

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
    /// `writable`: directories that installers may write in, beside their own.
    pub writable: Vec<PathBuf>,
    /// The settings module, for the commands of `install`: they are the only ones of the installers that may load the project.
    pub module: Option<String>,
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
    host: Host,
    interpreter: Interpreter,
    tool: Tool,
    way: EnvironmentSource,
    reading: Reading,
    packages: Vec<String>,
    writable: Vec<PathBuf>,
    warnings: Vec<String>,
    module: Option<String>,
    key: String,
}

/// What a building may use beside the environment and the release.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Place<'a> {
    /// For temporary files; it is there.
    pub scratch: &'a Path,
    /// For what installers keep from one building to the next; it is there.
    pub caches: &'a Path,
    /// What is not theirs to read.
    pub hidden: &'a [PathBuf],
}

/// An environment that was built and looked at.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Built {
    /// How many packages it holds.
    pub packages: usize,
    /// What does not fit together, and yet does not stop a release.
    pub warnings: Vec<String>,
}

impl Wanted {
    /// 32 hexadecimal digits over everything that decides what the environment will hold.
    pub(crate) fn key(&self) -> &str {
        &self.key
    }

    /// What is used, for people: `uv 0.13.8, CPython 3.11.2, requirements.txt (15 lines)`.
    pub(crate) fn told(&self) -> String {
        let mut parts = vec![self.tool.to_string(), self.interpreter.to_string()];
        parts.extend(self.way.told(&self.reading));
        if !self.packages.is_empty() && !matches!(self.way, EnvironmentSource::Commands(_)) {
            parts.push(format!("beside them {}", self.packages.join(" ")));
        }
        parts.join(", ")
    }

    /// What people should know: an index of the project's own, files that were passed over.
    pub(crate) fn notes(&self) -> &[String] {
        &self.reading.notes
    }

    /// What they should look at: a file of the release that asks for another interpreter.
    pub(crate) fn warnings(&self) -> &[String] {
        &self.warnings
    }

    /// Whether the program that installs must be fetched first.
    pub(crate) fn lacks_its_installer(&self, caches: &Path) -> bool {
        matches!(self.tool, Tool::Uv(_, Whose::Agents)) && !own::program(caches).is_file()
    }

    /// Fetches the program that installs, where it is not there.
    ///
    /// # Errors
    /// [`PythonError`] when it cannot be had.
    pub(crate) fn fetch_installer(&self, place: Place<'_>, watch: &Watch<'_>) -> Result<(), PythonError> {
        if self.lacks_its_installer(place.caches) { own::fetch(&self.host, &self.interpreter, place, watch) } else { Ok(()) }
    }

    /// Builds it at its final path, for an environment cannot be moved, and verifies it. What is there after a failure is the caller's to remove.
    ///
    /// # Errors
    /// [`PythonError`] when a program fails, or what it left is not what was asked for.
    pub(crate) fn build(
        &self,
        venv: &Path,
        release: &Path,
        place: Place<'_>,
        watch: &Watch<'_>,
        note: &dyn Fn(&str),
    ) -> Result<Built, PythonError> {
        let mut writable = vec![venv.to_owned(), release.to_owned(), place.scratch.to_owned(), place.caches.to_owned()];
        for cache in self.host.shared_caches() {
            // What is not there could not be written in; an installer says why it cannot use what cannot be made.
            let _ = std::fs::create_dir_all(&cache);
            writable.push(cache);
        }
        writable.extend_from_slice(&self.writable);
        self.fetch_installer(place, watch)?;
        let bounds = Arc::new(Bounds { writable, hidden: place.hidden.to_vec() });
        build::Build { wanted: self, venv, release, place, bounds, watch, note }.run()
    }
}

/// What a release wants for its environment: found from the settings and the files in the release, before anything is built.
///
/// # Errors
/// [`PythonError`] when the interpreter or the installer is missing, or the release asks for something that is refused.
pub(crate) fn wanted(settings: &Settings, release: &Path, hidden: &[PathBuf], watch: &Watch<'_>) -> Result<Wanted, PythonError> {
    wanted_on(Host::here(), settings, release, hidden, watch)
}

/// The agent's own installer, for people.
pub(crate) fn own_installer() -> String {
    format!("uv {}", own::VERSION)
}

/// The program of the agent's own installer that all apps share, where it is there.
pub(crate) fn shared_installer() -> Option<PathBuf> {
    own::shared_program()
}

/// Where [`fetch_shared_installer`] puts it.
pub(crate) fn shared_place() -> PathBuf {
    own::shared()
}

/// Fetches the agent's own installer for all apps of the host, unless it is there. `interpreter` is a name in PATH, or a path; its pip fetches.
///
/// # Errors
/// [`PythonError`] when it cannot be had.
pub(crate) fn fetch_shared_installer(interpreter: &str, watch: &Watch<'_>) -> Result<PathBuf, PythonError> {
    let (host, shared) = (Host::here(), own::shared());
    let failed = |act, path: &Path| {
        let path = path.to_owned();
        move |source| PythonError::File { act, path, source }
    };
    if own::shared_program().is_none() {
        let mut all = std::fs::DirBuilder::new();
        all.recursive(true).mode(0o755).create(&shared).map_err(failed("make", &shared))?;
        let scratch = tempfile::tempdir().map_err(failed("make a directory in", &std::env::temp_dir()))?;
        let place = Place { scratch: scratch.path(), caches: &shared, hidden: &[] };
        own::fetch(&host, &host.interpreter(interpreter, watch)?, place, watch)?;
    }
    let odd =
        || failed("use", &shared)(std::io::Error::other("it, or something in it, belongs to another user, or others may write in it"));
    own::shared_program().ok_or_else(odd)
}

/// Whether the agent's own uv was asked for in vain not long ago.
pub(crate) fn installer_was_refused(caches: &Path) -> bool {
    own::was_refused(caches)
}

/// The caches that the agent's own environment names, and so gives to the installers of every app.
pub(crate) fn shared_caches() -> Vec<PathBuf> {
    Host::here().shared_caches()
}

fn wanted_on(host: Host, settings: &Settings, release: &Path, hidden: &[PathBuf], watch: &Watch<'_>) -> Result<Wanted, PythonError> {
    let tree = Tree::of(release)?;
    let mut reading = Reading::default();
    let way = project::find(settings, &tree, &mut reading)?;
    let interpreter = host.interpreter(&settings.interpreter, watch)?;
    let tool = host.tool(settings.installer, &way, &interpreter, watch)?;
    let poetry = match way {
        EnvironmentSource::PoetryLock { .. } => Some(host.poetry(watch)?),
        _ => None,
    };

    let mut key = Key::default();
    key.add("interpreter", interpreter.identity());
    key.add("tool", tool.to_string());
    key.add("poetry", poetry.unwrap_or_default());
    way.add_to(&mut key);
    for package in &settings.packages {
        key.add("package", package);
        reading.names(&package_of(package), "[python] packages", None);
    }
    for (file, bytes) in &reading.files {
        key.add("file", file.as_os_str().as_encoded_bytes());
        key.add("bytes", bytes);
    }
    host.add_indexes_to(&mut key, &tool, &way, &tree)?;
    let bounds = Arc::new(Bounds { writable: Vec::new(), hidden: hidden.to_vec() });
    vcs::resolve(&host, &mut reading, &bounds, &mut key, watch)?;
    if reading.tied {
        key.add("release", tree.root().as_os_str().as_encoded_bytes());
    }
    let (packages, writable, module) = (settings.packages.clone(), settings.writable.clone(), settings.module.clone());
    let warnings = project::other_interpreter(&tree, &interpreter).into_iter().collect();
    Ok(Wanted { host, interpreter, tool, way, reading, packages, writable, warnings, module, key: key.finish() })
}

#[cfg(test)]
pub(crate) mod bench;
#[cfg(test)]
mod tests;
