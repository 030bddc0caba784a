//! Why a Django project did not do what it should.

use std::path::PathBuf;

use thiserror::Error;

use crate::process::ProgramError;

/// Why a Django project did not do what it should.
#[derive(Debug, Error)]
pub(crate) enum ManageError {
    /// There is no manage.py.
    #[error("{} is not in the release", .0.display())]
    NotThere(PathBuf),
    /// Nothing names a settings module.
    #[error("manage.py names no settings module")]
    NoSettings,
    /// The static files would not be the release's own.
    #[error("STATIC_ROOT is {}, outside the release: the live release would lose its files to this one", .0.display())]
    Outside(PathBuf),
    /// A command failed.
    #[error("manage.py {verb} failed")]
    Command {
        /// What was asked of manage.py.
        verb: String,
        /// What to do about it.
        hint: Option<String>,
        /// How it ended.
        #[source]
        source: ProgramError,
    },
    /// A migration did not get a lock.
    #[error("{migration} did not get a lock in time, and was given up")]
    Locked {
        /// The migration.
        migration: String,
        /// How the command ended.
        #[source]
        source: ProgramError,
    },
    /// The project raised while it was loaded.
    #[error("{act} failed: {kind}{}{message}", if message.is_empty() { "" } else { ": " })]
    Project {
        /// What was loaded.
        act: &'static str,
        /// The class of what was raised.
        kind: String,
        /// What it says.
        message: String,
        /// What to do about it.
        hint: Option<String>,
        /// The end of the traceback.
        trace: Vec<String>,
    },
    /// The interpreter ended without an answer: it was killed, or the project ended it.
    #[error("the project ended the interpreter before it could be asked")]
    NoAnswer {
        /// How it ended, when it did so badly.
        #[source]
        source: Option<ProgramError>,
    },
}

impl ManageError {
    /// A command that failed after it said these lines.
    pub(super) fn command(verb: &str, source: ProgramError, lines: &[String]) -> Self {
        let hint = match &source {
            ProgramError::Missing(_) => Some("the release has no environment with an interpreter: is [python] set?".to_owned()),
            _ => lines.iter().rev().find_map(|line| hint(line)),
        };
        Self::Command { verb: verb.to_owned(), hint, source }
    }

    /// What to do about it, where that is known.
    pub(crate) fn hint(&self) -> Option<&str> {
        match self {
            Self::NotThere(_) => Some("set [django] manage to its path in the repository"),
            Self::NoSettings => Some("set [django] settings, for example settings = \"shop.settings.production\""),
            Self::Outside(_) => {
                Some("set STATIC_ROOT = BASE_DIR / \"staticfiles\", or share the directory by [shared] dirs, or set collectstatic = false")
            }
            Self::Command { hint, source, .. } => hint.as_deref().or(source.hint()),
            Self::Locked { .. } => Some(
                "something holds a lock that the migration needs: look for long transactions in pg_stat_activity, or raise [django] lock_timeout",
            ),
            Self::Project { hint, .. } => hint.as_deref(),
            Self::NoAnswer { .. } => Some("its settings, or a library that they load, may call os._exit or crash"),
        }
    }

    /// The last lines of the program that failed.
    pub(crate) fn tail(&self) -> &[String] {
        match self {
            Self::Command { source, .. } | Self::Locked { source, .. } | Self::NoAnswer { source: Some(source) } => source.tail(),
            Self::Project { trace, .. } => trace,
            Self::NotThere(_) | Self::NoSettings | Self::Outside(_) | Self::NoAnswer { source: None } => &[],
        }
    }
}

/// What a line of Django or of a database driver calls for.
pub(super) fn hint(line: &str) -> Option<String> {
    let quoted = |after: &str| Some(line.split_once(after)?.1.split('\'').next()?.split('.').next()?.to_owned());
    let known: &[(&str, &str)] = &[
        ("SECRET_KEY setting must not be empty", "the settings need SECRET_KEY: put what they read it from into a file of [secrets]"),
        ("STATIC_ROOT setting to a filesystem path", "set STATIC_ROOT in the settings, or collectstatic = false in [django]"),
        ("password authentication failed", "the database refuses the user or the password: look at the variables in [env] and [secrets]"),
        ("could not translate host name", "the database's host is not known here: look at the variables in [env] and [secrets]"),
        ("Connection refused", "the database does not answer: is it running, and are host and port right?"),
        ("could not connect to server", "the database does not answer: is it running, and are host and port right?"),
        (
            "unable to open database file",
            "the directory of the SQLite file must exist and be writable for the user of the release: is it in [shared]?",
        ),
        (
            "attempt to write a readonly database",
            "the SQLite file and its directory must be writable for the user of the release: is it in [shared]?",
        ),
        ("Error loading psycopg", "the driver of PostgreSQL is not among the requirements: ask for psycopg[binary]"),
        ("Error loading MySQLdb", "the driver of MySQL is not among the requirements: ask for mysqlclient"),
    ];
    if let Some(module) = quoted("No module named '") {
        return Some(missing_module(&module));
    }
    if line.contains("Couldn't import Django") {
        return Some(missing_module("django"));
    }
    if let Some((_, rest)) = line.split_once("Set the ")
        && let Some((name, _)) = rest.split_once(" environment variable")
    {
        return Some(missing_variable(name));
    }
    known.iter().find(|(words, _)| line.contains(words)).map(|(_, hint)| (*hint).to_owned())
}

/// A module that cannot be imported.
pub(super) fn missing_module(module: &str) -> String {
    if module == "django" {
        return "Django is not in the environment: do the requirements ask for it, and is it the right file in [python] requirements?"
            .to_owned();
    }
    // uv leaves setuptools out, and its version 82 leaves pkg_resources out.
    if ["pkg_resources", "setuptools", "distutils"].contains(&module) {
        let version = if module == "pkg_resources" { "<81" } else { "" };
        return format!("{module} comes with setuptools, which uv leaves out: set packages = [\"setuptools{version}\"] under [python]");
    }
    format!("{module} is neither in the release nor in its environment: do the requirements ask for it?")
}

/// A variable that the settings read.
pub(super) fn missing_variable(name: &str) -> String {
    format!("the settings need the variable {name}: set it in [env], or in a file of [secrets]")
}
